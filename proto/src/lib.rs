//! Spillway's protocols, pure: nothing here reads a clock, a socket, a file, the environment or
//! the system's randomness (one exception: `session::dtls`, whose key generation needs it).
//!
//! Bytes and `now` come in, bytes and facts go out. See README.md for the contract and the glossary.

// Bytes from the network never panic. `wire` and `sdp`, which read them first, do not index either.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable))]

pub mod id;
pub mod limits;
pub mod link;
pub mod mux;
pub mod rng;
pub mod sdp;
pub mod session;
pub mod stream;
pub mod time;
pub mod wire;
