//! What every end-to-end test needs: a node of its own, an HTTP client, a browser. The simulator (`sim`). And
//! `tidy`, which reads the project's own text.
//!
//! Nothing here decides what is right; the tests do.

pub mod browser;
pub mod fuzz;
pub mod http;
pub mod kernel;
pub mod node;
pub mod sim;
pub mod proxy;
pub mod publisher;
pub mod remote;
pub mod viewer;
pub mod wait;

#[cfg(test)]
mod tidy;
