//! What a forwarder must know of a payload: where a picture can be entered. Nothing is decoded, nothing kept;
//! a payload that makes no sense has no facts.

pub mod h264;
pub mod opus;
pub mod vp8;

use crate::id::Codec;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadFacts {
    /// Holds (the start of) an entry picture: the first IDR slice of H264, the first packet of a VP8 key
    /// frame. Further slices of the same picture do not count: nobody can begin there.
    pub keyframe: bool,
    /// Holds an H264 SPS.
    pub parameter_sets: bool,
}

pub fn facts(codec: Codec, payload: &[u8]) -> PayloadFacts {
    match codec {
        Codec::H264 => h264::facts(payload),
        Codec::Vp8 => vp8::facts(payload),
        Codec::Opus => opus::facts(payload),
        // Not offered to anybody yet.
        Codec::Vp9 | Codec::Av1 | Codec::H265 => PayloadFacts::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codec_decides_how_bytes_read() {
        // An H264 IDR slice; as VP8 this is no start of a partition.
        let idr = [0x65, 0x88, 0x84, 0x00];
        assert!(facts(Codec::H264, &idr).keyframe);
        assert_eq!(facts(Codec::Vp8, &idr), PayloadFacts::default());
        // A VP8 key frame; as H264 this is a type nobody negotiated.
        let key = [0x10, 0x50, 0x42, 0x00, 0x9D, 0x01, 0x2A];
        assert!(facts(Codec::Vp8, &key).keyframe);
        for codec in [Codec::Opus, Codec::Vp9, Codec::Av1, Codec::H265] {
            assert_eq!(facts(codec, &key), PayloadFacts::default());
        }
    }
}
