//! The link: the only contract between control and engine, one shared file.

pub mod command;
pub mod counters;
pub mod error_log;
pub mod event;
pub mod handover;
pub mod layout;
pub mod ring;
