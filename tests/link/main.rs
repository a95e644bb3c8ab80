//! What must hold of the shared memory when processes are killed at any moment.

mod engine_kill;
mod ring_kill;
