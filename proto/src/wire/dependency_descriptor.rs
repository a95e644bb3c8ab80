//! The dependency descriptor (the AOMedia RTP payload format for AV1 1.0, appendix A): an RTP header extension
//! that says what a packet is without a look into its payload - layers, dependencies, where a frame begins and
//! ends, where one can enter. Made for AV1; any codec may carry it, also encrypted ones.
//!
//! ```text
//!  |S|E| template  |  frame number (16)  |   every packet; S/E: a frame begins/ends here
//!  |P|A|D|F|C| ...                           if there are more than 3 bytes: structure, active targets, custom fields
//! ```
//!
//! Templates come with the structure of a keyframe and are named by number afterwards: who reads layers of later
//! frames keeps the structure.

use super::payload::PayloadFacts;

/// Template ids have six bits.
const TEMPLATES_MAX: usize = 64;
/// Two bits of layer per template: a structure whose layers have no end is none.
const DECODE_TARGETS_MAX: u32 = 32;
/// Spatial layers have two bits (appendix A.8.3), temporal ones three.
const SPATIAL_MAX: u8 = 3;
const TEMPORAL_MAX: u8 = 7;
/// Of one frame; more are no encoder's.
const REFERENCES_MAX: usize = 32;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    pub start_of_frame: bool,
    pub end_of_frame: bool,
    pub template_id: u8,
    pub frame_number: u16,
    /// The structure that this packet brings.
    pub structure: Option<Structure>,
    /// The decode targets the publisher goes on sending, a bit each, where it says so.
    pub active_targets: Option<u32>,
    /// What the frame is, by the structure it came with or the one that was kept; None without any.
    pub frame: Option<Frame>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    pub spatial: u8,
    pub temporal: u8,
    /// How many spatial layers a picture of this structure has at most.
    pub spatial_layers: u8,
    /// Refers to earlier frames.
    pub has_references: bool,
    /// Decode targets that may be switched to at this frame, a bit each.
    pub switch_targets: u32,
}

/// What later descriptors refer to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    id_offset: u8,
    decode_targets: u32,
    chains: u32,
    templates: [Template; TEMPLATES_MAX],
    count: usize,
    spatial_max: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Template {
    spatial: u8,
    temporal: u8,
    has_references: bool,
    switch_targets: u32,
}

impl Structure {
    pub fn spatial_layers(&self) -> u8 {
        self.spatial_max + 1
    }

    fn template(&self, id: u8) -> Option<Template> {
        let place = (usize::from(id) + TEMPLATES_MAX - usize::from(self.id_offset)) % TEMPLATES_MAX;
        self.templates.get(..self.count)?.get(place).copied()
    }
}

impl Descriptor {
    /// Reads the extension's element; `kept` is the newest structure of the same track. None: the bytes end
    /// inside a field, or have a value that cannot be.
    pub fn parse(element: &[u8], kept: Option<&Structure>) -> Option<Descriptor> {
        let mut bits = Bits { bytes: element, at: 0 };
        let mut descriptor = Descriptor {
            start_of_frame: bits.flag()?,
            end_of_frame: bits.flag()?,
            template_id: bits.take(6)? as u8,
            frame_number: bits.take(16)? as u16,
            structure: None,
            active_targets: None,
            frame: None,
        };
        let extended = element.len() > 3;
        let [mut present, mut active, mut dtis, mut references, mut chains] = [false; 5];
        if extended {
            for flag in [&mut present, &mut active, &mut dtis, &mut references, &mut chains] {
                *flag = bits.flag()?;
            }
        }
        if present {
            let structure = structure(&mut bits)?;
            descriptor.active_targets = Some(all_ones(structure.decode_targets));
            descriptor.structure = Some(structure);
        }
        let Some(structure) = descriptor.structure.as_ref().or(kept) else { return Some(descriptor) };
        if active {
            descriptor.active_targets = Some(bits.take(structure.decode_targets)?);
        }
        let Template { spatial, temporal, mut has_references, mut switch_targets } =
            structure.template(descriptor.template_id)?;
        if dtis {
            switch_targets = read_switch_targets(&mut bits, structure.decode_targets)?;
        }
        if references {
            let mut count = 0;
            loop {
                let size = bits.take(2)?;
                if size == 0 {
                    break;
                }
                bits.take(4 * size)?;
                count += 1;
                if count > REFERENCES_MAX {
                    return None;
                }
            }
            has_references = count > 0;
        }
        if chains {
            bits.skip(8 * structure.chains)?;
        }
        let spatial_layers = structure.spatial_layers();
        descriptor.frame = Some(Frame { spatial, temporal, spatial_layers, has_references, switch_targets });
        Some(descriptor)
    }

    /// A payload's facts with what is said here: it knows frames without reading the payload.
    pub fn complete(&self, facts: PayloadFacts) -> PayloadFacts {
        PayloadFacts {
            keyframe: facts.keyframe || self.is_entry(),
            frame_start: match self.frame {
                // Each spatial layer is a frame; the lowest one begins the picture.
                Some(frame) => Some(self.start_of_frame && frame.spatial == 0),
                None if self.start_of_frame => facts.frame_start,
                None => Some(false),
            },
            // With more of them only the marker says which is the picture's last.
            frame_end: facts.frame_end || self.end_of_frame && self.frame.is_some_and(|frame| frame.spatial_layers == 1),
            ..facts
        }
    }

    /// The first packet of a frame that depends on nothing: it brings the structure of what follows
    /// (appendix A.8.1: with the first packet of a coded video sequence), refers to nothing, lowest layer.
    pub fn is_entry(&self) -> bool {
        let alone = |frame: Frame| frame.spatial == 0 && !frame.has_references;
        self.start_of_frame && self.structure.is_some() && self.frame.is_some_and(alone)
    }
}

/// Appendix A.8.2, template_dependency_structure.
fn structure(bits: &mut Bits<'_>) -> Option<Structure> {
    let id_offset = bits.take(6)? as u8;
    let decode_targets = bits.take(5)? + 1;
    debug_assert!(decode_targets <= DECODE_TARGETS_MAX);
    let mut templates = [Template::default(); TEMPLATES_MAX];
    let (mut spatial, mut temporal, mut count) = (0, 0, 0);
    loop {
        *templates.get_mut(count)? = Template { spatial, temporal, ..Template::default() };
        count += 1;
        match bits.take(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => break,
        }
        if spatial > SPATIAL_MAX || temporal > TEMPORAL_MAX {
            return None;
        }
    }
    let used = templates.get_mut(..count)?;
    for template in &mut *used {
        template.switch_targets = read_switch_targets(bits, decode_targets)?;
    }
    for template in &mut *used {
        // Each reference is four bits with a flag before it: the element's length bounds them.
        while bits.flag()? {
            bits.take(4)?;
            template.has_references = true;
        }
    }
    let chains = bits.non_symmetric(decode_targets + 1)?;
    if chains > 0 {
        for _ in 0..decode_targets {
            bits.non_symmetric(chains)?;
        }
        bits.skip(4 * chains * count as u32)?;
    }
    if bits.flag()? {
        // Width and height of each spatial layer.
        bits.skip(32 * (u32::from(spatial) + 1))?;
    }
    Some(Structure { id_offset, decode_targets, chains, templates, count, spatial_max: spatial })
}

/// Decode target indications: 2 is "switch" (appendix A.8.3).
fn read_switch_targets(bits: &mut Bits<'_>, decode_targets: u32) -> Option<u32> {
    let mut targets = 0;
    for target in 0..decode_targets {
        targets |= u32::from(bits.take(2)? == 2) << target;
    }
    Some(targets)
}

fn all_ones(count: u32) -> u32 {
    u32::MAX.checked_shl(count).map_or(u32::MAX, |above| !above)
}

/// Frame numbers of a track go on over its publishers, as its timestamps do: Chromium drops a keyframe whose number is
/// before that of the last one it had, and with it all that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FrameNumbers {
    /// Added to the publisher's, modulo 2^16; 0 for the first one's.
    offset: u16,
    /// The newest that was given out.
    newest: Option<u16>,
    /// The next descriptor is another publisher's first.
    begins: bool,
}

/// Between the numbers of two publishers: frames that come behind the first one of theirs have a number too.
const TAKEOVER_FRAMES: u16 = 256;

impl FrameNumbers {
    pub fn on_takeover(&mut self) {
        self.begins = true;
    }

    /// Gives the descriptor its number on the track's line. None: it is too short to be one.
    pub fn go_on(&mut self, element: &mut [u8]) -> Option<()> {
        let number = element.get_mut(1..3)?;
        let theirs = u16::from_be_bytes(number.try_into().ok()?);
        if let (true, Some(newest)) = (std::mem::take(&mut self.begins), self.newest) {
            self.offset = newest.wrapping_add(TAKEOVER_FRAMES).wrapping_sub(theirs);
        }
        let ours = theirs.wrapping_add(self.offset);
        number.copy_from_slice(&ours.to_be_bytes());
        if self.newest.is_none_or(|newest| (ours.wrapping_sub(newest) as i16) > 0) {
            self.newest = Some(ours);
        }
        Some(())
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// At most 32 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.take(1)? == 1)
    }

    fn skip(&mut self, count: u32) -> Option<()> {
        self.at += count as usize;
        (self.at <= 8 * self.bytes.len()).then_some(())
    }

    /// `ns(n)` (AV1 section 4.10.7): below `n`, the smaller ones in a bit less.
    fn non_symmetric(&mut self, n: u32) -> Option<u32> {
        let width = 32 - n.leading_zeros();
        let short = (1 << width) - n;
        let value = self.take(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.take(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    /// Writes bits, for descriptors made by hand.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn put(&mut self, value: u32, count: u32) -> &mut Writer {
            self.0.extend((0..count).rev().map(|place| value >> place & 1 == 1));
            self
        }
        fn bytes(&self) -> Vec<u8> {
            let byte = |bits: &[bool]| (0..8).fold(0, |byte, at| byte << 1 | u8::from(bits.get(at) == Some(&true)));
            self.0.chunks(8).map(byte).collect()
        }
    }

    fn mandatory(start: bool, end: bool, template: u32, number: u32) -> Writer {
        let mut writer = Writer::default();
        writer.put(u32::from(start), 1).put(u32::from(end), 1).put(template, 6).put(number, 16);
        writer
    }

    /// Two spatial layers in two temporal ones, four decode targets, two chains; template ids begin at 60.
    fn l2t2(start: bool, template: u32) -> Vec<u8> {
        let mut writer = mandatory(start, true, template, 0x1234);
        writer.put(0b10000, 5).put(60, 6).put(3, 5);
        // (0,0) (0,0) (0,1) (1,0) (1,1): next_layer_idc 0, 1, 2, 1, 3.
        for idc in [0, 1, 2, 1, 3] {
            writer.put(idc, 2);
        }
        for dtis in [[2, 2, 2, 2], [3, 3, 3, 3], [0, 1, 0, 1], [0, 0, 2, 2], [0, 0, 0, 1]] {
            for dti in dtis {
                writer.put(dti, 2);
            }
        }
        // References: none, one of 2, one of 1, one of 1, two.
        writer.put(0, 1);
        writer.put(1, 1).put(1, 4).put(0, 1);
        writer.put(1, 1).put(0, 4).put(0, 1);
        writer.put(1, 1).put(0, 4).put(0, 1);
        writer.put(1, 1).put(0, 4).put(1, 1).put(3, 4).put(0, 1);
        // chain_cnt = 2 of ns(5): 3 values in two bits; each target's chain of ns(2); five templates, two chains.
        writer.put(2, 2);
        for chain in [0, 0, 1, 1] {
            writer.put(chain, 1);
        }
        for _ in 0..10 {
            writer.put(3, 4);
        }
        writer.put(1, 1);
        for size in [639, 359, 1279, 719] {
            writer.put(size, 16);
        }
        writer.bytes()
    }

    #[test]
    fn a_structure_is_read_and_kept_for_those_that_follow() {
        let key = Descriptor::parse(&l2t2(true, 60), None).unwrap();
        assert_eq!((key.frame_number, key.template_id), (0x1234, 60));
        assert_eq!(key.active_targets, Some(0b1111));
        let structure = key.structure.as_ref().unwrap();
        assert_eq!((structure.count, structure.spatial_layers(), structure.chains), (5, 2, 2));
        let frame = |spatial, temporal, has_references, switch_targets| {
            Some(Frame { spatial, temporal, spatial_layers: 2, has_references, switch_targets })
        };
        assert_eq!(key.frame, frame(0, 0, false, 0b1111));
        assert!(key.is_entry());

        // Ids wrap: 63 is the fourth template, 0 the fifth.
        let later = |template| Descriptor::parse(&mandatory(true, true, template, 7).bytes(), Some(structure));
        assert_eq!(later(61).unwrap().frame, frame(0, 0, true, 0));
        assert_eq!(later(62).unwrap().frame, frame(0, 1, true, 0));
        assert_eq!(later(63).unwrap().frame, frame(1, 0, true, 0b1100));
        assert_eq!(later(0).unwrap().frame, frame(1, 1, true, 0));
        assert_eq!(later(1), None, "a template that is not there");
        assert!(!later(61).unwrap().is_entry());
        let unknown = Descriptor::parse(&mandatory(true, false, 61, 7).bytes(), None).unwrap();
        assert_eq!((unknown.start_of_frame, unknown.end_of_frame, unknown.frame), (true, false, None));
    }

    #[test]
    fn an_entry_brings_its_structure_begins_a_frame_and_refers_to_nothing() {
        assert!(!Descriptor::parse(&l2t2(false, 60), None).unwrap().is_entry(), "its second packet");
        assert!(!Descriptor::parse(&l2t2(true, 61), None).unwrap().is_entry(), "a structure with an inter frame");
        assert!(!Descriptor::parse(&l2t2(true, 63), None).unwrap().is_entry(), "the upper layer of the picture");
    }

    #[test]
    fn a_payload_learns_from_it_where_frames_begin_and_end() {
        let none = PayloadFacts::NONE;
        let key = Descriptor::parse(&l2t2(true, 60), None).unwrap();
        let facts = key.complete(none);
        assert!(facts.keyframe && facts.frame_start == Some(true) && !facts.frame_end, "a layer may follow");
        let later = |start, end, template| {
            Descriptor::parse(&mandatory(start, end, template, 7).bytes(), key.structure.as_ref()).unwrap().complete(none)
        };
        assert_eq!(later(true, true, 61), PayloadFacts { frame_start: Some(true), ..none });
        assert_eq!(later(false, true, 61).frame_start, Some(false));
        assert_eq!(later(true, true, 63).frame_start, Some(false), "the upper layer");
        let unknown = |start| Descriptor::parse(&mandatory(start, true, 61, 7).bytes(), None).unwrap().complete(none);
        assert_eq!((unknown(true).frame_start, unknown(false).frame_start), (None, Some(false)));
        // One layer: the end of its frame is the end of the picture.
        let mut writer = mandatory(true, true, 0, 1);
        writer.put(0b10000, 5).put(0, 6).put(0, 5).put(3, 2).put(0, 32);
        let single = Descriptor::parse(&writer.bytes(), None).unwrap().complete(none);
        assert!(single.keyframe && single.frame_end);
    }

    #[test]
    fn custom_fields_take_the_place_of_the_templates() {
        let key = Descriptor::parse(&l2t2(true, 60), None).unwrap();
        let structure = key.structure.as_ref();
        let mut writer = mandatory(true, true, 61, 8);
        // No structure; active targets, custom indications, references, chains.
        writer.put(0b01111, 5).put(0b0011, 4);
        for dti in [0, 2, 1, 3] {
            writer.put(dti, 2);
        }
        writer.put(0, 2).put(0xAB, 8).put(0xCD, 8);
        let custom = Descriptor::parse(&writer.bytes(), structure).unwrap();
        assert_eq!(custom.active_targets, Some(0b0011));
        let frame =
            Frame { spatial: 0, temporal: 0, spatial_layers: 2, has_references: false, switch_targets: 0b0010 };
        assert_eq!(custom.frame, Some(frame));
        let bytes = writer.bytes();
        for length in 4..bytes.len() {
            assert_eq!(Descriptor::parse(&bytes[..length], structure), None, "{length} bytes");
        }
        let mut writer = mandatory(true, true, 60, 8);
        writer.put(0b00010, 5).put(2, 2).put(0x40, 8).put(0, 2);
        assert!(Descriptor::parse(&writer.bytes(), structure).unwrap().frame.unwrap().has_references);
    }

    #[test]
    fn limits_from_both_sides() {
        let layers = |idc: &[u32]| {
            let mut writer = mandatory(true, true, 0, 1);
            writer.put(0b10000, 5).put(0, 6).put(0, 5);
            for idc in idc {
                writer.put(*idc, 2);
            }
            // Zeros: no indications, no references, no chains, no sizes.
            writer.put(0, 32).put(0, 32).put(0, 32).put(0, 32).put(0, 32).put(0, 32).put(0, 32);
            Descriptor::parse(&writer.bytes(), None)
        };
        assert!(layers(&[2, 2, 2, 3]).is_some() && layers(&[2, 2, 2, 2, 3]).is_none(), "four spatial layers");
        assert!(layers(&[1, 1, 1, 1, 1, 1, 1, 3]).is_some() && layers(&[1, 1, 1, 1, 1, 1, 1, 1, 3]).is_none());
        assert!(layers(&[[0; 63].as_slice(), &[3]].concat()).is_some(), "64 templates");
        assert!(layers(&[[0; 64].as_slice(), &[3]].concat()).is_none());
        assert_eq!((all_ones(1), all_ones(32)), (1, u32::MAX));
        assert_eq!(Descriptor::parse(&[0xC0, 0], None), None);
    }

    #[test]
    fn ns_codes_the_smaller_values_in_fewer_bits() {
        let read = |bytes: &[u8], n| Bits { bytes, at: 0 }.non_symmetric(n);
        // The table of AV1 section 4.10.7, n = 5.
        let codes = [0b0000_0000, 0b0100_0000, 0b1000_0000, 0b1100_0000, 0b1110_0000];
        assert_eq!(codes.map(|code| read(&[code], 5)), [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(read(&[], 1), Some(0), "of one value no bit is needed");
    }

    #[test]
    fn frame_numbers_go_on_over_a_takeover() {
        let mut numbers = FrameNumbers::default();
        let number = |numbers: &mut FrameNumbers, theirs: u16| {
            let mut element = [0xC1, (theirs >> 8) as u8, theirs as u8, 0x40, 9];
            numbers.go_on(&mut element).unwrap();
            assert_eq!((element[0], &element[3..]), (0xC1, &[0x40, 9][..]), "nothing else changes");
            u16::from_be_bytes([element[1], element[2]])
        };
        for theirs in [65_534, 65_535, 1, 0, 2] {
            assert_eq!(number(&mut numbers, theirs), theirs, "the first publisher's stay as they are");
        }
        numbers.on_takeover();
        // It begins at 7; 6 is late.
        assert_eq!([7, 6, 8].map(|theirs| number(&mut numbers, theirs)), [258, 257, 259]);
        numbers.on_takeover();
        assert_eq!([40_000, 40_001].map(|theirs| number(&mut numbers, theirs)), [515, 516]);
        let mut fresh = FrameNumbers::default();
        fresh.on_takeover();
        assert_eq!(number(&mut fresh, 40_000), 40_000, "nobody had one before");
        assert_eq!(fresh.go_on(&mut [0, 1]), None);
    }

    #[test]
    fn damaged_descriptors_never_panic() {
        let key = l2t2(true, 60);
        let kept = Descriptor::parse(&key, None).unwrap().structure;
        let mut custom = mandatory(true, true, 61, 8);
        custom.put(0b01111, 5).put(0b0011, 4).put(0, 8).put(0b11, 2).put(7, 12).put(0, 2).put(0xABCD, 16);
        torture(&[&key, &custom.bytes(), &mandatory(true, false, 63, 9).bytes()], |element| {
            for kept in [None, kept.as_ref()] {
                if let Some(descriptor) = Descriptor::parse(element, kept) {
                    descriptor.is_entry();
                }
                FrameNumbers::default().go_on(&mut element.to_vec());
            }
        });
    }
}
