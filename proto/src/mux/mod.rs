//! Between files and packets.

pub mod matroska;
pub mod packetize;
pub mod sample;
