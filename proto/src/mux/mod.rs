//! Between files and packets: clips to publish are read, frames are made payloads, and recordings are written.

pub mod assemble;
pub mod codec_config;
pub mod container;
pub mod depacketize;
pub mod finish;
pub mod fmp4;
pub mod mark;
pub mod matroska;
pub mod packetize;
pub mod recording;
pub mod sample;
pub mod timeline;
pub mod webm;
