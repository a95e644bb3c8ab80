//! What every end-to-end test needs: a node of its own, an HTTP client, browsers, somebody else's programs, networks
//! and their losses. The simulator (`sim`). And `tidy`, which reads the project's own text.
//!
//! Nothing here decides what is right; the tests do.

pub mod browser;
pub mod film;
pub mod firefox;
pub mod fuzz;
pub mod http;
pub mod kernel;
pub mod network;
pub mod node;
pub mod program;
pub mod proxy;
pub mod publisher;
pub mod receiver;
pub mod reel;
pub mod remote;
pub mod sim;
pub mod slow_server;
pub mod viewer;
pub mod wait;

#[cfg(test)]
mod tidy;
