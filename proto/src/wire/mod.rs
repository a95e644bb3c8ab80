//! Bytes and borrowed views of them: no state, no allocation.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod demux;
pub mod dependency_descriptor;
pub mod payload;
pub mod rtcp;
pub mod rtp;
pub mod rtp_ext;
pub mod stun;
pub mod transport_cc;
#[cfg(test)]
pub(crate) mod torture;
