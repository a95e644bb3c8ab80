//! VP8 payloads (RFC 7741): the descriptor before each fragment, and the bit that says key frame.
//!
//! ```text
//!  |X|R|N|S|R| PID |   X: another byte follows, S: a partition starts here, PID: which
//!  |I|L|T|K|  RSV  |   if X: what follows
//!  |M| PictureID   |   if I: 7 bits, or 15 if M
//!  |   TL0PICIDX   |   if L
//!  |TID|Y| KEYIDX  |   if T or K
//! ```

use super::PayloadFacts;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// No other picture refers to this one (N).
    pub non_reference: bool,
    /// The first packet of its partition (S).
    pub start: bool,
    pub partition: u8,
    pub picture_id: Option<PictureId>,
    pub tl0_picture_index: Option<u8>,
    /// Temporal layer and whether it may be switched up to (Y).
    pub temporal: Option<(u8, bool)>,
    pub key_index: Option<u8>,
    /// Bytes of the descriptor; the VP8 data stands behind it.
    pub length: usize,
}

/// 7 and 15 bits wrap at different places, so that the width belongs to the value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PictureId {
    Seven(u8),
    Fifteen(u16),
}

impl Descriptor {
    /// None: the payload ends inside its descriptor.
    pub fn parse(payload: &[u8]) -> Option<Descriptor> {
        let mut bytes = payload.iter().copied();
        let first = bytes.next()?;
        let present = if first & 0x80 != 0 { bytes.next()? } else { 0 };
        let picture_id = if present & 0x80 != 0 {
            let high = bytes.next()?;
            Some(if high & 0x80 != 0 {
                PictureId::Fifteen(u16::from_be_bytes([high & 0x7F, bytes.next()?]))
            } else {
                PictureId::Seven(high)
            })
        } else {
            None
        };
        let tl0_picture_index = if present & 0x40 != 0 { Some(bytes.next()?) } else { None };
        let layers = if present & 0x30 != 0 { bytes.next()? } else { 0 };
        Some(Descriptor {
            non_reference: first & 0x20 != 0,
            start: first & 0x10 != 0,
            partition: first & 0x07,
            picture_id,
            tl0_picture_index,
            temporal: (present & 0x20 != 0).then_some((layers >> 6, layers & 0x20 != 0)),
            key_index: (present & 0x10 != 0).then_some(layers & 0x1F),
            length: payload.len() - bytes.len(),
        })
    }
}

pub fn facts(payload: &[u8]) -> PayloadFacts {
    let Some(descriptor) = Descriptor::parse(payload).filter(|descriptor| descriptor.length < payload.len()) else {
        return PayloadFacts::NONE;
    };
    let frame_start = descriptor.start && descriptor.partition == 0;
    PayloadFacts {
        // P, the lowest bit of the frame's first byte, is 0 in a key frame (RFC 7741 section 4.3).
        keyframe: frame_start && payload.get(descriptor.length).is_some_and(|byte| byte & 1 == 0),
        frame_start: Some(frame_start),
        ..PayloadFacts::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    #[test]
    fn every_field_of_the_descriptor() {
        let full = [0xB3, 0xF0, 0x92, 0x34, 0x56, 0xAA, 0x00];
        assert_eq!(
            Descriptor::parse(&full),
            Some(Descriptor {
                non_reference: true,
                start: true,
                partition: 3,
                picture_id: Some(PictureId::Fifteen(0x1234)),
                tl0_picture_index: Some(0x56),
                temporal: Some((2, true)),
                key_index: Some(0x0A),
                length: 6,
            })
        );
        let short = Descriptor::parse(&[0x90, 0x80, 0x7F, 0x00]).unwrap();
        assert_eq!((short.picture_id, short.length), (Some(PictureId::Seven(0x7F)), 3));
        let only_key_index = Descriptor::parse(&[0x80, 0x10, 0xFF]).unwrap();
        assert_eq!((only_key_index.temporal, only_key_index.key_index), (None, Some(0x1F)));
        for length in 0..6 {
            assert_eq!(Descriptor::parse(&full[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn a_key_frame_begins_with_partition_0_of_a_frame_without_p() {
        assert!(facts(&[0x10, 0x50]).keyframe);
        assert!(facts(&[0x90, 0x80, 0x80, 0x01, 0x50]).keyframe, "behind a 15-bit picture id");
        assert!(facts(&[0x90, 0x80, 0x01, 0x50]).keyframe, "behind a 7-bit picture id");
        assert!(facts(&[0x90, 0xE0, 0x80, 0x01, 0x07, 0x20, 0x50]).keyframe, "with layers");
        assert!(!facts(&[0x10, 0x51]).keyframe, "P: an inter frame");
        assert!(!facts(&[0x00, 0x50]).keyframe, "the middle of a partition");
        assert!(!facts(&[0x11, 0x50]).keyframe, "partition 1");
        assert!(!facts(&[0x10]).keyframe, "no frame behind the descriptor");
        assert!(!facts(&[]).keyframe);
        let starts = [&[0x10, 0x51][..], &[0x11, 0x51], &[0x00, 0x51], &[0x10]].map(|payload| facts(payload).frame_start);
        assert_eq!(starts, [Some(true), Some(false), Some(false), None]);
    }

    #[test]
    fn damaged_payloads_never_panic() {
        torture(&[&[0xB3, 0xF0, 0x92, 0x34, 0x56, 0xAA, 0x00], &[0x90, 0x80, 0x01, 0x50]], |payload| {
            facts(payload);
        });
    }
}
