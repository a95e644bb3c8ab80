//! Spillway's forwarding engine: threads, sockets and shared memory around the pure protocols of
//! `spillway-proto`. Started by the supervisor as `spillway engine`; its threads are shards and what works beside them
//! (handshakes, steering), besides the first, which waits for the end.

pub mod clock;
pub mod io;
pub mod precedence;
pub mod shard;
pub mod shm;
mod start;

#[cfg(test)]
pub(crate) mod alloc_count;

pub use start::{EXIT_REFUSED, StartError, run};
