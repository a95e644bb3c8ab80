//! What a forwarder must know of a payload: where a picture can be entered.

pub mod h264;
pub mod opus;
pub mod vp8;
