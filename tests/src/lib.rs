//! What every end-to-end test needs: a node of its own, an HTTP client, a browser. And `tidy`, which reads
//! the project's own text.
//!
//! Nothing here decides what is right; the tests do.

#[cfg(test)]
mod tidy;
