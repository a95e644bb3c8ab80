//! What must hold of the shared memory when processes are killed at any moment.

mod ring_kill;
