//! Spillway's forwarding engine: threads, sockets and shared memory around the pure protocols of
//! `spillway-proto`.

pub mod clock;
pub mod io;
pub mod shm;

#[cfg(test)]
pub(crate) mod alloc_count;
