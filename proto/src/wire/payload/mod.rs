//! What a forwarder must know of a payload: where a picture can be entered. Nothing is decoded, nothing kept;
//! a payload that makes no sense has no facts.

pub mod av1;
pub mod h264;
pub mod h265;
pub mod opus;
pub mod vp8;
pub mod vp9;

use crate::id::Codec;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadFacts {
    /// Holds (the start of) an entry picture: the first slice of an IDR (H264) or IRAP picture (H265), the first
    /// packet of a VP8 or VP9 key frame or of an AV1 sequence. Further slices and layers of the same picture do
    /// not count: nobody can begin there.
    pub keyframe: bool,
    /// Holds an H264 SPS, an H265 VPS, SPS or PPS, an AV1 sequence header.
    pub parameter_sets: bool,
    /// Holds an H264 PPS: no beginning, it names an SPS that came before it, but as dear to who begins.
    pub picture_sets: bool,
    /// Whether the packet is its picture's first, where the payload says so: it knows better than marker and
    /// timestamp, which lose it behind a gap.
    pub frame_start: Option<bool>,
    /// The payload says that its picture ends here. False: only the marker knows.
    pub frame_end: bool,
}

impl PayloadFacts {
    pub const NONE: PayloadFacts =
        PayloadFacts { keyframe: false, parameter_sets: false, picture_sets: false, frame_start: None, frame_end: false };
}

pub fn facts(codec: Codec, payload: &[u8]) -> PayloadFacts {
    match codec {
        Codec::H264 => h264::facts(payload),
        Codec::Vp8 => vp8::facts(payload),
        Codec::Opus => opus::facts(payload),
        Codec::Vp9 => vp9::facts(payload),
        Codec::Av1 => av1::facts(payload),
        Codec::H265 => h265::facts(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codec_decides_how_bytes_read() {
        let entered = |codec, payload: &[u8]| facts(codec, payload).keyframe;
        let all = [Codec::H264, Codec::Vp8, Codec::Opus, Codec::Vp9, Codec::Av1, Codec::H265];
        // An entry picture of one codec each; for the others it is the middle of something, or nothing.
        let entries: [(Codec, &[u8]); 5] = [
            (Codec::H264, &[0x65, 0x88, 0x84, 0x00]),
            (Codec::Vp8, &[0x10, 0x50, 0x42, 0x00, 0x9D, 0x01, 0x2A]),
            (Codec::Vp9, &[0x8C, 0x85, 0x01, 0x82]),
            (Codec::Av1, &[0x18, 0x08, 0x00, 0x00]),
            (Codec::H265, &[0x26, 0x01, 0xAF, 0x08]),
        ];
        for (codec, payload) in entries {
            assert!(entered(codec, payload), "{codec:?}");
            assert!(!entered(Codec::Opus, payload));
        }
        assert!(all.iter().filter(|codec| entered(**codec, entries[0].1)).count() == 1);
    }
}
