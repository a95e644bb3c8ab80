//! AV1 payloads (the AOMedia RTP payload format 1.0, section 4): the aggregation header and its OBU elements.
//!
//! ```text
//!  |Z|Y| W |N|-|-|-|   Z/Y: the first/last element goes on from/in another packet, N: a coded video sequence begins
//!  [leb128 length] element   W elements (0: all have a length; else the last one has none)
//!
//!  An element is an OBU:  |F| type  |X|S|-|   X: |TID|SID|-| follows, S: its own size follows (leb128)
//! ```

use super::PayloadFacts;

/// OBU types (AV1 bitstream specification, section 6.2.2).
pub const SEQUENCE_HEADER: u8 = 1;
pub const TEMPORAL_DELIMITER: u8 = 2;
pub const FRAME_HEADER: u8 = 3;
pub const FRAME: u8 = 6;
pub const TILE_LIST: u8 = 8;
pub const PADDING: u8 = 15;

pub const CONTINUES: u8 = 0x80;
pub const CONTINUED: u8 = 0x40;
pub const NEW_SEQUENCE: u8 = 0x08;

/// The OBU elements of a payload behind its aggregation header, in order; damage ends them.
pub fn elements(payload: &[u8]) -> Elements<'_> {
    match payload.split_first() {
        Some((header, rest)) => Elements { rest, left: header >> 4 & 3, counted: header & 0x30 != 0 },
        None => Elements { rest: &[], left: 0, counted: false },
    }
}

/// Every turn takes at least one byte, or ends it.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    /// Elements to come, if they are counted.
    left: u8,
    counted: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() || (self.counted && self.left == 0) {
            return None;
        }
        let rest = std::mem::take(&mut self.rest);
        if self.counted && self.left == 1 {
            self.left = 0;
            return Some(rest);
        }
        self.left = self.left.saturating_sub(1);
        let (length, behind) = leb128(rest)?;
        let (element, rest) = behind.split_at_checked(usize::try_from(length).ok()?)?;
        self.rest = rest;
        Some(element)
    }
}

/// A number of up to eight bytes of seven bits (AV1 section 4.10.5), and what stands behind it.
pub fn leb128(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(place + 1..)?));
        }
    }
    None
}

/// The beginning of an OBU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Obu<'a> {
    pub kind: u8,
    pub temporal: u8,
    pub spatial: u8,
    /// Its own size field, where it has one; the RTP format leaves it out.
    pub size: Option<u64>,
    /// Behind header and size, as far as the bytes go.
    pub body: &'a [u8],
}

impl<'a> Obu<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Obu<'a>> {
        let (header, mut rest) = bytes.split_first()?;
        let (mut temporal, mut spatial) = (0, 0);
        if header & 0x04 != 0 {
            let (extension, behind) = rest.split_first()?;
            (temporal, spatial) = (extension >> 5, extension >> 3 & 3);
            rest = behind;
        }
        let mut size = None;
        if header & 0x02 != 0 {
            let (value, behind) = leb128(rest)?;
            (size, rest) = (Some(value), behind);
        }
        Some(Obu { kind: header >> 3 & 0x0F, temporal, spatial, size, body: rest })
    }

    /// True for the header of a picture that is coded without any other one: show_existing_frame and frame_type
    /// are its first three bits (AV1 section 5.9.2), both 0.
    fn is_key(&self) -> bool {
        matches!(self.kind, FRAME | FRAME_HEADER) && self.body.first().is_some_and(|byte| byte & 0xE0 == 0)
    }
}

pub fn facts(payload: &[u8]) -> PayloadFacts {
    let mut facts = PayloadFacts::NONE;
    let Some(header) = payload.first() else { return facts };
    let continues = header & CONTINUES != 0;
    if continues {
        facts.frame_start = Some(false);
    } else if header & NEW_SEQUENCE != 0 {
        facts.frame_start = Some(true);
    }
    // Section 4.4: N is set in the first packet of a coded video sequence and nowhere else, and that packet
    // begins with no fragment.
    facts.keyframe = header & NEW_SEQUENCE != 0 && !continues && payload.len() > 1;
    for element in elements(payload).skip(usize::from(continues)) {
        match Obu::parse(element) {
            Some(obu) if obu.kind == SEQUENCE_HEADER => facts.parameter_sets = true,
            // Senders that leave N out: a key picture right behind its sequence header.
            Some(obu) if obu.spatial == 0 && obu.is_key() => facts.keyframe |= facts.parameter_sets,
            _ => {}
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    /// A sequence header without size, a key picture, an inter picture.
    const SEQUENCE: &[u8] = &[0x08, 0x00, 0x00, 0x00];
    const KEY: &[u8] = &[0x30, 0x10, 0xAA];
    const INTER: &[u8] = &[0x30, 0x30, 0xAA];

    fn payload(header: u8, elements: &[&[u8]]) -> Vec<u8> {
        let counted = usize::from(header >> 4 & 3);
        let mut bytes = vec![header];
        for (place, element) in elements.iter().enumerate() {
            if place + 1 != counted {
                bytes.push(element.len() as u8);
            }
            bytes.extend(*element);
        }
        bytes
    }

    #[test]
    fn elements_with_and_without_lengths() {
        for header in [0x00, 0x20] {
            let payload = payload(header, &[SEQUENCE, KEY]);
            assert_eq!(elements(&payload).collect::<Vec<_>>(), [SEQUENCE, KEY], "{header:02x}");
        }
        assert_eq!(elements(&payload(0x10, &[KEY])).collect::<Vec<_>>(), [KEY]);
        assert_eq!(elements(&[0x00, 0x80]).count(), 0, "a length cut off");
        assert_eq!(elements(&[0x00, 3, 1, 2]).count(), 0, "an element cut off");
        assert_eq!(elements(&[0x00, 0x81, 0x00, 7]).collect::<Vec<_>>(), [&[7][..]], "a length in two bytes");
        assert_eq!(elements(&[0x20, 1, 7]).count(), 1, "the second of two is missing");
        assert_eq!(leb128(&[0xFF; 9]), None);
    }

    #[test]
    fn an_obu_says_its_layers_and_its_size() {
        let obu = Obu::parse(&[0x36, 0x28, 0x85, 0x01, 0xAA]).unwrap();
        assert_eq!(obu, Obu { kind: FRAME, temporal: 1, spatial: 1, size: Some(133), body: &[0xAA] });
        assert_eq!(Obu::parse(&[0x34]), None);
        assert_eq!(Obu::parse(&[0x32, 0x80]), None);
    }

    #[test]
    fn a_new_sequence_is_an_entry() {
        let key = |header: u8, elements: &[&[u8]]| facts(&payload(header, elements)).keyframe;
        assert!(key(0x28, &[SEQUENCE, KEY]), "N");
        assert!(key(0x18, &[SEQUENCE]), "N, the picture in the next packet");
        assert!(key(0x58, &[SEQUENCE]), "N, the last element goes on");
        assert!(!key(0x98, &[KEY]), "a fragment begins no sequence, whatever N says");
        assert!(!facts(&[0x08]).keyframe, "nothing behind the header");
        assert!(key(0x20, &[SEQUENCE, KEY]), "no N: a key picture behind its sequence header");
        assert!(!key(0x20, &[SEQUENCE, INTER]), "a sequence header that is repeated");
        assert!(!key(0x10, &[KEY]), "a key picture that nobody can read");
        assert!(!key(0x10, &[INTER]));
        let upper: &[u8] = &[0x34, 0x08, 0x10, 0xAA];
        assert!(!key(0x20, &[SEQUENCE, upper]), "of spatial layer 1");
        let existing: &[u8] = &[0x18, 0x80];
        assert!(!key(0x20, &[SEQUENCE, existing]), "an old picture shown again");
        let sized: &[u8] = &[0x32, 0x02, 0x10, 0xAA];
        assert!(key(0x20, &[SEQUENCE, sized]), "with sizes of their own");
        assert!(facts(&payload(0x20, &[SEQUENCE, INTER])).parameter_sets);
        assert!(!facts(&payload(0xA0, &[SEQUENCE, KEY])).parameter_sets, "the end of something else");
    }

    #[test]
    fn only_the_first_packet_of_a_sequence_and_fragments_know_their_place() {
        assert_eq!(facts(&payload(0x28, &[SEQUENCE, KEY])).frame_start, Some(true));
        assert_eq!(facts(&payload(0x90, &[KEY])).frame_start, Some(false));
        assert_eq!(facts(&payload(0x10, &[INTER])).frame_start, None);
    }

    #[test]
    fn damaged_payloads_never_panic() {
        let valid = [payload(0x28, &[SEQUENCE, KEY]), payload(0x08, &[SEQUENCE, KEY]), payload(0x50, &[INTER])];
        torture(&[&valid[0], &valid[1], &valid[2]], |payload| {
            facts(payload);
            assert!(elements(payload).map(<[u8]>::len).sum::<usize>() <= payload.len());
        });
    }
}
