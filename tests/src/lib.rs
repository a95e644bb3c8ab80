//! What every end-to-end test needs: a node of its own, an HTTP client, browsers, somebody else's programs, networks.
//! And `tidy`, which reads the project's own text.
//!
//! Nothing here decides what is right; the tests do.

pub mod browser;
pub mod firefox;
pub mod http;
pub mod kernel;
pub mod network;
pub mod node;
pub mod program;
pub mod wait;

#[cfg(test)]
mod tidy;
