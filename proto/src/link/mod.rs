//! The link: the only contract between control and engine, one shared file.
//!
//! Everything in it is an atomic word, so that no byte the other side writes can be more than a wrong
//! number; every number is checked where it is read. Nothing here waits, sleeps or makes a system call:
//! whoever pushes asks `park::must_wake` and writes the eventfd by itself.

mod codec;
pub mod command;
pub mod counters;
pub mod error_log;
pub mod event;
pub mod fields;
pub mod handover;
pub mod layout;
pub mod park;
pub mod quality;
pub mod ring;
pub mod tap;
