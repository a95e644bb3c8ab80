//! What stands between packets and containers: whole frames, and what must be known of a track before its first.
//!
//! Plain data. `depacketize` makes frames of packets, `timeline` gives them their time, the containers write them.

use crate::id::{Codec, Kind};

/// One coded frame in decode order, as containers keep it.
///
/// H264 and H265: NAL units, each behind its length in 4 bytes, parameter sets in the keyframes, no access unit
/// delimiters. AV1: OBUs with their sizes, without a temporal delimiter. VP8, VP9 and Opus: as they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sample {
    pub kind: Kind,
    /// When it is shown or heard: nanoseconds since the recording's start.
    pub time_ns: u64,
    /// A viewer can begin here; true for every frame of sound.
    pub keyframe: bool,
    pub data: Vec<u8>,
}

/// What a container must know of a track before its first sample.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrackFormat {
    pub codec: Codec,
    /// In pixels; 0 for sound.
    pub width: u32,
    pub height: u32,
    /// The body of avcC, hvcC, av1C, vpcC or dOps (ISO/IEC 14496-15, and the bindings of AV1, VP9 and Opus).
    pub private: Vec<u8>,
}
