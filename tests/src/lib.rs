//! What every end-to-end test needs: a node of its own, an HTTP client, a browser. And `tidy`, which reads
//! the project's own text.
//!
//! Nothing here decides what is right; the tests do.

pub mod browser;
pub mod fuzz;
pub mod http;
pub mod kernel;
pub mod node;
pub mod wait;

#[cfg(test)]
mod tidy;
