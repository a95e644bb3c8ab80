//! VP9 payloads (RFC 9628): the descriptor before each fragment of a layer frame.
//!
//! ```text
//!  |I|P|L|F|B|E|V|Z|   P: inter-picture predicted, B/E: a layer frame begins/ends here
//!  |M| PictureID   |   if I: 7 bits, or 15 if M
//!  |TID|U| SID |D|     if L: temporal layer, spatial layer, D: predicted from a lower spatial layer
//!  |  TL0PICIDX    |   if L and not F
//!  | P_DIFF      |N|   if P and F: up to three times, while N
//!  |N_S|Y|G|-|-|-|     if V: the scalability structure
//! ```

use super::PayloadFacts;
use super::vp8::PictureId;

/// References of one frame (RFC 9628 section 4.2: N may be set twice).
const REFERENCES_MAX: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub picture_id: Option<PictureId>,
    /// Refers to an earlier picture (P).
    pub inter_picture: bool,
    /// First packet of its layer frame (B).
    pub start: bool,
    /// Last packet of its layer frame (E).
    pub end: bool,
    pub layer: Option<Layer>,
    /// The publisher chooses each frame's references anew (F).
    pub flexible: bool,
    /// How many spatial layers the picture has, where the structure stands in this packet (V).
    pub spatial_layers: Option<u8>,
    /// Bytes of the descriptor; the VP9 data stands behind it.
    pub length: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layer {
    pub temporal: u8,
    /// One may begin to take this temporal layer here (U).
    pub switching_up: bool,
    pub spatial: u8,
    /// Predicted from the next lower spatial layer of the same picture (D).
    pub inter_layer: bool,
}

impl Descriptor {
    /// None: the payload ends inside its descriptor, or more references follow than the RFC has.
    pub fn parse(payload: &[u8]) -> Option<Descriptor> {
        let mut bytes = payload.iter().copied();
        let first = bytes.next()?;
        let has = |bit: u8| first & bit != 0;
        let (inter_picture, flexible) = (has(0x40), has(0x10));
        let picture_id = if has(0x80) {
            let high = bytes.next()?;
            Some(if high & 0x80 != 0 {
                PictureId::Fifteen(u16::from_be_bytes([high & 0x7F, bytes.next()?]))
            } else {
                PictureId::Seven(high)
            })
        } else {
            None
        };
        let layer = if has(0x20) {
            let byte = bytes.next()?;
            if !flexible {
                bytes.next()?; // TL0PICIDX
            }
            Some(Layer {
                temporal: byte >> 5,
                switching_up: byte & 0x10 != 0,
                spatial: byte >> 1 & 7,
                inter_layer: byte & 1 != 0,
            })
        } else {
            None
        };
        if inter_picture && flexible {
            let mut references = 1;
            while bytes.next()? & 1 != 0 {
                references += 1;
                if references > REFERENCES_MAX {
                    return None;
                }
            }
        }
        let spatial_layers = if has(0x02) { Some(structure(&mut bytes)?) } else { None };
        Some(Descriptor {
            picture_id,
            inter_picture,
            start: has(0x08),
            end: has(0x04),
            layer,
            flexible,
            spatial_layers,
            length: payload.len() - bytes.len(),
        })
    }

    /// Of the lowest spatial layer, or of the only one.
    pub fn is_base(&self) -> bool {
        self.layer.is_none_or(|layer| layer.spatial == 0)
    }
}

/// Reads over the scalability structure (RFC 9628 section 4.2.1); the number of spatial layers.
fn structure(bytes: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let head = bytes.next()?;
    let layers = (head >> 5) + 1;
    if head & 0x10 != 0 {
        // Width and height of each layer.
        bytes.nth(4 * usize::from(layers) - 1)?;
    }
    if head & 0x08 != 0 {
        for _ in 0..bytes.next()? {
            let references = bytes.next()? >> 2 & 3;
            for _ in 0..references {
                bytes.next()?;
            }
        }
    }
    Some(layers)
}

pub fn facts(payload: &[u8]) -> PayloadFacts {
    let Some(descriptor) = Descriptor::parse(payload).filter(|descriptor| descriptor.length < payload.len()) else {
        return PayloadFacts::NONE;
    };
    // A layer frame without a reference to earlier pictures, of the lowest spatial layer: the upper ones of the
    // same picture follow it and are predicted from it (D), nobody can begin there.
    let frame_start = descriptor.start && descriptor.is_base();
    PayloadFacts {
        keyframe: frame_start && !descriptor.inter_picture,
        parameter_sets: false,
        picture_sets: false,
        frame_start: Some(frame_start),
        // With layers only the marker says which of them is the picture's last (RFC 9628 section 4.1).
        frame_end: descriptor.end && descriptor.layer.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    #[test]
    fn every_field_of_the_descriptor() {
        // I P L F B E V; a picture id of 15 bits, layer 2/1 with U and D, two references, a structure of two
        // layers with sizes and two pictures in the group.
        let full = [
            0xFE, 0x92, 0x34, 0x53, 0x03, 0x04, 0x38, 0x01, 0x40, 0, 0xB4, 0x02, 0x80, 0x01, 0x68, 2, 0x00, 0x28, 1, 2,
            0xAA,
        ];
        let descriptor = Descriptor::parse(&full).unwrap();
        let layer = Layer { temporal: 2, switching_up: true, spatial: 1, inter_layer: true };
        assert_eq!(
            descriptor,
            Descriptor {
                picture_id: Some(PictureId::Fifteen(0x1234)),
                inter_picture: true,
                start: true,
                end: true,
                layer: Some(layer),
                flexible: true,
                spatial_layers: Some(2),
                length: 20,
            }
        );
        for length in 0..20 {
            assert_eq!(Descriptor::parse(&full[..length]), None, "{length} bytes");
        }
        // Not flexible: TL0PICIDX instead of references.
        let fixed = Descriptor::parse(&[0xE8, 0x05, 0x20, 0x77, 0xAA]).unwrap();
        assert_eq!((fixed.picture_id, fixed.length), (Some(PictureId::Seven(5)), 4));
        assert_eq!(fixed.layer.unwrap().temporal, 1);
        assert_eq!(Descriptor::parse(&[0x50, 1, 1, 1, 1, 0]), None, "a fourth reference");
        assert_eq!(Descriptor::parse(&[0x50, 1, 1, 0, 1]).unwrap().length, 4, "three references");
    }

    #[test]
    fn an_entry_is_the_first_packet_of_the_base_layer_without_references() {
        let key = |payload: &[u8]| facts(payload).keyframe;
        assert!(key(&[0x08, 0x82]), "B, nothing else");
        assert!(key(&[0x8C, 0x85, 0x01, 0x82]), "behind a picture id");
        assert!(key(&[0x2A, 0x00, 0x10, 0x00, 0x82]), "of the lower of layers, with a structure");
        assert!(!key(&[0x00, 0x82]), "the middle of a key picture");
        assert!(!key(&[0x04, 0x82]), "its end");
        assert!(!key(&[0x48, 0x82]), "P");
        assert!(!key(&[0x28, 0x03, 0x10, 0x82]), "spatial layer 1, predicted from layer 0");
        assert!(!key(&[0x28, 0x02, 0x10, 0x82]), "spatial layer 1, standing alone");
        assert!(!key(&[0x08]), "no picture behind the descriptor");
        assert!(!key(&[]));
    }

    #[test]
    fn frames_begin_with_the_base_layer_and_end_where_no_other_layer_can_follow() {
        let ends = |payload: &[u8]| (facts(payload).frame_start, facts(payload).frame_end);
        assert_eq!(ends(&[0x0C, 0x82]), (Some(true), true), "a picture in one packet");
        assert_eq!(ends(&[0x08, 0x82]), (Some(true), false));
        assert_eq!(ends(&[0x00, 0x82]), (Some(false), false));
        assert_eq!(ends(&[0x44, 0x82]), (Some(false), true));
        assert_eq!(ends(&[0x2C, 0x00, 0x10, 0x82]), (Some(true), false), "upper layers may follow");
        assert_eq!(ends(&[0x2C, 0x03, 0x10, 0x82]), (Some(false), false), "an upper layer begins no picture");
        assert_eq!(ends(&[0x80]), (None, false), "who knows");
    }

    #[test]
    fn damaged_payloads_never_panic() {
        let full: &[u8] = &[
            0xFE, 0x92, 0x34, 0x53, 0x03, 0x04, 0x38, 0x01, 0x40, 0, 0xB4, 0x02, 0x80, 0x01, 0x68, 2, 0x00, 0x28, 1, 2,
            0xAA,
        ];
        torture(&[full, &[0x8C, 0x85, 0x01, 0x82], &[0x28, 0x02, 0x10, 0x82]], |payload| {
            facts(payload);
            if let Some(descriptor) = Descriptor::parse(payload) {
                assert!(descriptor.length <= payload.len());
            }
        });
    }
}
