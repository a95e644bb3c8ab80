//! Bytes and borrowed views of them: no state, no allocation.

pub mod demux;
pub mod payload;
pub mod rtcp;
pub mod rtp;
pub mod rtp_ext;
pub mod stun;
#[cfg(test)]
pub(crate) mod torture;
