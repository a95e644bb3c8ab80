//! Between files and packets: clips to publish are read, frames are made payloads, and recordings are written.

pub mod codec_config;
pub mod container;
pub mod finish;
pub mod fmp4;
pub mod mark;
pub mod matroska;
pub mod packetize;
pub mod sample;
pub mod webm;
