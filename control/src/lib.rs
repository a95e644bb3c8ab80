//! The control service, the supervisor and the command line: everything of `spillway` but its `main`.
//!
//! A library so that the simulator in tests/ runs the real policy. Nothing else links it.

pub mod adapters;
mod api;
mod attempts;
mod auth;
pub mod cli;
mod config;
pub mod control;
mod data_dir;
mod engine_link;
mod event_log;
mod events;
mod foreign;
mod history;
mod ids;
mod logging;
mod meters;
mod metrics;
mod outbound;
pub mod policy;
mod process;
mod recording_files;
mod service;
mod shm;
mod store;
pub mod supervisor;
mod turn;
mod vault;
mod wanted;
mod webhooks;
