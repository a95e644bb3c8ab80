//! What a container must say of a codec before its first frame: the bodies of avcC, hvcC, vpcC, av1C and dOps, and the
//! picture's size, read from a keyframe. Nothing is decoded; a keyframe that makes no sense has no format.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::sample::TrackFormat;
use crate::id::Codec;
use crate::limits::CODEC_PRIVATE_BYTES_MAX;
use crate::wire::payload::{av1, h264, h265};

/// The format of the track that `keyframe` begins, in the form samples have. Sound: of any packet.
pub fn track_format(codec: Codec, keyframe: &[u8]) -> Option<TrackFormat> {
    let format = match codec {
        Codec::H264 => avc(keyframe),
        Codec::H265 => hevc(keyframe),
        Codec::Vp8 => vp8(keyframe),
        Codec::Vp9 => vp9(keyframe),
        Codec::Av1 => av1(keyframe),
        // Encapsulation of Opus in ISO Base Media File Format, section 4.3.2: version, channels, pre-skip, rate, gain, family.
        // WebRTC's Opus has two channels whatever is in a packet (RFC 7587 section 7), and begins anywhere: no pre-skip.
        Codec::Opus => (!keyframe.is_empty()).then(|| (0, 0, vec![0, 2, 0, 0, 0, 0, 0xBB, 0x80, 0, 0, 0])),
    };
    let (width, height, private) = format?;
    let is_fit = private.len() <= CODEC_PRIVATE_BYTES_MAX && (codec == Codec::Opus || width > 0 && height > 0);
    is_fit.then_some(TrackFormat { codec, width, height, private })
}

/// The NAL units of a sample, each behind four bytes of length; damage ends them.
pub fn nals(sample: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = sample;
    std::iter::from_fn(move || {
        let (length, units) = rest.split_first_chunk()?;
        let (unit, after) = units.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        Some(unit)
    })
}

/// Bits from the first one on. Behind the end there are none.
#[derive(Clone)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0 }
    }
    fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }
    /// Up to 32 bits.
    fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.bit()?);
        }
        Some(value)
    }
    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= 8 * self.bytes.len()).then_some(())
    }
    /// ue(v) (H.264 section 9.1), as uvlc() of AV1 (section 4.10.3).
    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.bit()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        // 31 zeros: at most 2^32 - 2.
        u32::try_from((1_u64 << zeros) - 1 + u64::from(self.bits(zeros)?)).ok()
    }
    /// se(v) (H.264 section 9.1.1).
    fn signed(&mut self) -> Option<i64> {
        let value = i64::from(self.exp_golomb()?);
        Some(if value % 2 == 0 { -(value / 2) } else { value / 2 + 1 })
    }
}

/// Without the bytes that keep start codes out (H.264 section 7.4.1).
fn raw(unit: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for byte in unit {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        raw.push(*byte);
    }
    raw
}

/// Units of one type, each once.
fn units_of<'a>(sample: &'a [u8], is_wanted: impl Fn(u8) -> bool) -> Vec<&'a [u8]> {
    let mut units: Vec<&[u8]> = Vec::new();
    for unit in nals(sample) {
        if unit.first().is_some_and(|first| is_wanted(*first)) && !units.contains(&unit) && u16::try_from(unit.len()).is_ok() {
            units.push(unit);
        }
    }
    units
}

fn push_unit(out: &mut Vec<u8>, unit: &[u8]) {
    out.extend((unit.len() as u16).to_be_bytes());
    out.extend(unit);
}

type Format = (u32, u32, Vec<u8>);

/// avcC (ISO/IEC 14496-15 section 5.3.3.1).
fn avc(sample: &[u8]) -> Option<Format> {
    let mut sps = units_of(sample, |first| h264::nal_type(first) == h264::SPS);
    let pps = units_of(sample, |first| h264::nal_type(first) == h264::PPS);
    sps.truncate(31);
    let first = sps.first()?;
    let [_, profile, compatibility, level, ..] = first else { return None };
    let facts = avc_sps(&raw(first))?;
    if pps.is_empty() || pps.len() > 255 {
        return None;
    }
    let mut private = vec![1, *profile, *compatibility, *level, 0xFF, 0xE0 | sps.len() as u8];
    sps.iter().for_each(|unit| push_unit(&mut private, unit));
    private.push(pps.len() as u8);
    pps.iter().for_each(|unit| push_unit(&mut private, unit));
    if let Some((chroma, luma_depth, chroma_depth)) = facts.high {
        private.extend([0xFC | chroma, 0xF8 | luma_depth, 0xF8 | chroma_depth, 0]);
    }
    Some((facts.width, facts.height, private))
}

struct AvcSps {
    width: u32,
    height: u32,
    /// Of the high profiles: chroma format, both bit depths less 8.
    high: Option<(u8, u8, u8)>,
}

/// H.264 section 7.3.2.1.1, as far as the size.
fn avc_sps(unit: &[u8]) -> Option<AvcSps> {
    let mut bits = Bits::new(unit.get(1..)?);
    let profile = bits.bits(8)?;
    bits.skip(16)?;
    bits.exp_golomb()?;
    let (mut chroma, mut high) = (1, None);
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        chroma = bits.exp_golomb()?;
        if chroma == 3 {
            bits.bit()?;
        }
        let (luma_depth, chroma_depth) = (bits.exp_golomb()?, bits.exp_golomb()?);
        if chroma > 3 || luma_depth > 6 || chroma_depth > 6 {
            return None;
        }
        high = Some((chroma as u8, luma_depth as u8, chroma_depth as u8));
        bits.bit()?;
        if bits.bit()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.bit()? {
                    let (mut last, mut next) = (8_i64, 8_i64);
                    for _ in 0..if list < 6 { 16 } else { 64 } {
                        if next != 0 {
                            next = (last + bits.signed()?).rem_euclid(256);
                        }
                        last = if next == 0 { last } else { next };
                    }
                }
            }
        }
    }
    bits.exp_golomb()?;
    match bits.exp_golomb()? {
        0 => {
            bits.exp_golomb()?;
        }
        1 => {
            bits.bit()?;
            bits.signed()?;
            bits.signed()?;
            let cycle = bits.exp_golomb()?;
            if cycle > 255 {
                return None;
            }
            for _ in 0..cycle {
                bits.signed()?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()?;
    bits.bit()?;
    let (across, down) = (bits.exp_golomb()?, bits.exp_golomb()?);
    let is_frames = bits.bit()?;
    if !is_frames {
        bits.bit()?;
    }
    bits.bit()?;
    let fields = if is_frames { 1 } else { 2 };
    // Table 6-1: chroma samples are wider and higher than luma's in 4:2:0, wider in 4:2:2.
    let (unit_width, unit_height) = match chroma {
        1 => (2, 2 * fields),
        2 => (2, fields),
        _ => (1, fields),
    };
    let (left, right, top, bottom) = window(&mut bits)?;
    let width = size(across, 16, 1, left + right, unit_width)?;
    let height = size(down, 16, fields, top + bottom, unit_height)?;
    Some(AvcSps { width, height, high })
}

/// What is cut off at the left, right, top and bottom, if anything is.
fn window(bits: &mut Bits) -> Option<(u64, u64, u64, u64)> {
    if !bits.bit()? {
        return Some((0, 0, 0, 0));
    }
    let mut side = || bits.exp_golomb().map(u64::from);
    Some((side()?, side()?, side()?, side()?))
}

fn size(blocks_minus_one: u32, block: u64, fields: u64, cut: u64, unit: u64) -> Option<u32> {
    let whole = (u64::from(blocks_minus_one) + 1) * block * fields;
    u32::try_from(whole.checked_sub(cut.checked_mul(unit)?)?).ok()
}

/// hvcC (ISO/IEC 14496-15 section 8.3.3.1).
fn hevc(sample: &[u8]) -> Option<Format> {
    let of = |kind: u8| units_of(sample, move |first| h265::nal_type(first) == kind);
    let arrays = [(h265::VPS, of(h265::VPS)), (h265::SPS, of(h265::SPS)), (h265::PPS, of(h265::PPS))];
    if arrays.iter().any(|(_, units)| units.is_empty()) {
        return None;
    }
    let [_, (_, sps), _] = &arrays;
    let unit = raw(sps.first()?);
    // H.265 section 7.3.2.2.1: behind two bytes of header and one of ids, profile, tier and level.
    let ids = *unit.get(2)?;
    let general = unit.get(3..15)?;
    let (layers, is_nested) = (u32::from(ids >> 1 & 7), ids & 1);
    let mut bits = Bits::new(unit.get(15..)?);
    let (mut profiles, mut levels) = (0, 0);
    for _ in 0..layers {
        profiles += usize::from(bits.bit()?);
        levels += usize::from(bits.bit()?);
    }
    if layers > 0 {
        bits.skip(2 * (8 - layers as usize))?;
    }
    bits.skip(88 * profiles + 8 * levels)?;
    bits.exp_golomb()?;
    let chroma = bits.exp_golomb()?;
    if chroma == 3 {
        bits.bit()?;
    }
    let (width, height) = (u64::from(bits.exp_golomb()?), u64::from(bits.exp_golomb()?));
    let (left, right, top, bottom) = window(&mut bits)?;
    let (luma_depth, chroma_depth) = (bits.exp_golomb()?, bits.exp_golomb()?);
    if chroma > 3 || luma_depth > 7 || chroma_depth > 7 {
        return None;
    }
    let (unit_width, unit_height) = match chroma {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    let width = u32::try_from(width.checked_sub((left + right).checked_mul(unit_width)?)?).ok()?;
    let height = u32::try_from(height.checked_sub((top + bottom).checked_mul(unit_height)?)?).ok()?;

    let mut private = vec![1];
    private.extend(general);
    private.extend([0xF0, 0, 0xFC, 0xFC | chroma as u8, 0xF8 | luma_depth as u8, 0xF8 | chroma_depth as u8, 0, 0]);
    // Temporal layers, nested, lengths of four bytes.
    private.push((layers as u8 + 1) << 3 | is_nested << 2 | 3);
    private.push(arrays.len() as u8);
    for (kind, units) in &arrays {
        private.push(0x80 | kind);
        private.extend((units.len() as u16).to_be_bytes());
        units.iter().for_each(|unit| push_unit(&mut private, unit));
    }
    Some((width, height, private))
}

/// VP Codec ISO Media File Format Binding, section 2.2: a full box of version 1. Colours are not known: 2, unspecified.
fn vpcc(profile: u8, depth: u8, chroma: u8, is_full_range: bool, width: u32, height: u32) -> Vec<u8> {
    // The smallest level of VP9 with such a picture (Annex A); its rates are not known here.
    let pixels = u64::from(width) * u64::from(height);
    let levels = [(36_864, 10), (73_728, 11), (122_880, 20), (245_760, 21), (552_960, 30), (983_040, 31), (2_228_224, 40), (8_912_896, 50)];
    let level = levels.iter().find(|(most, _)| pixels <= *most).map_or(60, |(_, level)| *level);
    vec![1, 0, 0, 0, profile, level, depth << 4 | chroma << 1 | u8::from(is_full_range), 2, 2, 2, 0, 0]
}

/// RFC 6386 section 9.1: three bytes of frame tag, a start code, 14 bits each of width and height.
fn vp8(frame: &[u8]) -> Option<Format> {
    let [tag, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] = frame else { return None };
    if tag & 1 != 0 {
        return None;
    }
    let (width, height) = (u32::from(u16::from_le_bytes([*w0, *w1]) & 0x3FFF), u32::from(u16::from_le_bytes([*h0, *h1]) & 0x3FFF));
    Some((width, height, vpcc(tag >> 1 & 7, 8, 1, false, width, height)))
}

/// VP9 section 6.2, of a key frame.
fn vp9(frame: &[u8]) -> Option<Format> {
    let mut bits = Bits::new(frame);
    if bits.bits(2)? != 2 {
        return None;
    }
    let profile = u8::from(bits.bit()?) | u8::from(bits.bit()?) << 1;
    if profile == 3 {
        bits.bit()?;
    }
    // show_existing_frame, frame_type (0: key), show_frame, error_resilient_mode, the sync code.
    if bits.bit()? || bits.bit()? {
        return None;
    }
    bits.skip(2)?;
    if bits.bits(24)? != 0x49_8342 {
        return None;
    }
    let depth = match profile >= 2 {
        true => 10 + 2 * u8::from(bits.bit()?),
        false => 8,
    };
    let is_rgb = bits.bits(3)? == 7;
    let is_full_range = is_rgb || bits.bit()?;
    let is_odd = profile & 1 == 1;
    // Subsampling as vpcC has it: 1 is 4:2:0 (colocated), 2 4:2:2, 3 4:4:4; 4:4:0 has no value but 4:2:2's neighbour.
    let chroma = match (is_rgb, is_odd) {
        (false, true) => match (bits.bit()?, bits.bit()?, bits.bit()?) {
            (true, true, _) => 1,
            (false, false, _) => 3,
            _ => 2,
        },
        (true, true) => {
            bits.bit()?;
            3
        }
        (false, false) => 1,
        (true, false) => return None,
    };
    let (width, height) = (bits.bits(16)? + 1, bits.bits(16)? + 1);
    Some((width, height, vpcc(profile, depth, chroma, is_full_range, width, height)))
}

/// av1C (AV1 Codec ISO Media File Format Binding, section 2.3): four bytes, then the sequence header.
fn av1(sample: &[u8]) -> Option<Format> {
    let mut rest = sample;
    // Every turn takes at least an OBU's header.
    loop {
        let obu = av1::Obu::parse(rest)?;
        let size = usize::try_from(obu.size?).ok()?;
        let body = obu.body.get(..size)?;
        let length = rest.len() - obu.body.len() + size;
        if obu.kind == av1::SEQUENCE_HEADER {
            let (width, height, facts) = av1_sequence(body)?;
            let mut private = vec![0x81, facts.0, facts.1, 0];
            private.extend(rest.get(..length)?);
            return Some((width, height, private));
        }
        rest = rest.get(length..)?;
    }
}

/// AV1 section 5.5: the size, and the second and third byte of av1C.
fn av1_sequence(body: &[u8]) -> Option<(u32, u32, (u8, u8))> {
    let mut bits = Bits::new(body);
    let profile = bits.bits(3)? as u8;
    bits.bit()?;
    let is_reduced = bits.bit()?;
    let (mut level, mut tier) = (0, 0);
    if is_reduced {
        level = bits.bits(5)? as u8;
    } else {
        let mut delay_length = None;
        if bits.bit()? {
            bits.skip(64)?;
            if bits.bit()? {
                bits.exp_golomb()?;
            }
            if bits.bit()? {
                delay_length = Some(bits.bits(5)? as usize + 1);
                bits.skip(32 + 5 + 5)?;
            }
        }
        let has_display_delay = bits.bit()?;
        for point in 0..=bits.bits(5)? {
            bits.skip(12)?;
            let own_level = bits.bits(5)? as u8;
            let own_tier = if own_level > 7 { u8::from(bits.bit()?) } else { 0 };
            if point == 0 {
                (level, tier) = (own_level, own_tier);
            }
            if let Some(length) = delay_length
                && bits.bit()?
            {
                bits.skip(2 * length + 1)?;
            }
            if has_display_delay && bits.bit()? {
                bits.skip(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
    let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
    if !is_reduced && bits.bit()? {
        bits.skip(7)?;
    }
    // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
    bits.skip(3)?;
    if !is_reduced {
        bits.skip(4)?;
        let has_order_hint = bits.bit()?;
        if has_order_hint {
            bits.skip(2)?;
        }
        // seq_choose_screen_content_tools: else one bit says how it is.
        let screen_content = bits.bit()? || bits.bit()?;
        if screen_content && !bits.bit()? {
            bits.bit()?;
        }
        if has_order_hint {
            bits.skip(3)?;
        }
    }
    // enable_superres, enable_cdef, enable_restoration; then color_config (section 5.5.2).
    bits.skip(3)?;
    let is_deep = bits.bit()?;
    let is_twelve = profile == 2 && is_deep && bits.bit()?;
    let is_mono = profile != 1 && bits.bit()?;
    let mut description = (2, 2, 2);
    if bits.bit()? {
        description = (bits.bits(8)?, bits.bits(8)?, bits.bits(8)?);
    }
    let (mut across, mut down, mut position) = (1, 1, 0);
    if is_mono {
        bits.bit()?;
    } else if description == (1, 13, 0) {
        (across, down) = (0, 0);
    } else {
        bits.bit()?;
        (across, down) = match (profile, is_twelve) {
            (0, _) => (1, 1),
            (1, _) => (0, 0),
            (_, true) => {
                let across = u8::from(bits.bit()?);
                (across, if across == 1 { u8::from(bits.bit()?) } else { 0 })
            }
            _ => (1, 0),
        };
        if (across, down) == (1, 1) {
            position = bits.bits(2)? as u8;
        }
    }
    let first = profile << 5 | level;
    let flags = [tier, u8::from(is_deep), u8::from(is_twelve), u8::from(is_mono), across, down];
    let second = flags.iter().fold(0, |byte, flag| byte << 1 | flag) << 2 | position;
    Some((width, height, (first, second)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
    }
    fn sample(units: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for unit in units.iter().map(|unit| hex(unit)) {
            bytes.extend((unit.len() as u32).to_be_bytes());
            bytes.extend(unit);
        }
        bytes
    }
    // What x264, x265, libvpx, libaom and SVT-AV1 wrote of a test pattern.
    /// 322 x 182, two lines and fourteen columns cut off.
    const BASELINE: [&str; 3] = ["6742c00dda05467889b0110000030001000003003c0f142aa0", "68ce0fc8", "6588"];
    const HEVC: [&str; 4] = [
        "40010c01ffff016000000300900000030000030078959409",
        "420101016000000300900000030000030078a003c0801107cb965654a4c2f0168080000003008000000f04",
        "4401c073c189",
        "2601af",
    ];
    const VP8: &str = "1062009d012a4001b40000070885858885848802020316250bf80fe06741";
    const VP9: &str = "824983420013f00b360438241c184a00";
    const AV1: &str = "12000a0b00000024c6abdf3efe401032d14f0400";

    /// High profile, fields, 322 x 184.
    const INTERLACED: [&str; 3] = ["67640015acd941533c45e022000003000200000300783e28532c", "68fba3cb3002c0", "6588"];

    fn av1() -> Vec<u8> {
        hex(AV1)
    }

    #[test]
    fn pictures_say_their_size_and_their_configuration() {
        let of = |codec, bytes: &[u8]| track_format(codec, bytes).unwrap();
        let avc = of(Codec::H264, &sample(&BASELINE));
        assert_eq!((avc.width, avc.height), (322, 182));
        assert_eq!(avc.private[..8], [1, 0x42, 0xC0, 0x0D, 0xFF, 0xE1, 0, 25]);
        assert_eq!(avc.private[33..], [&[1, 0, 4][..], &hex(BASELINE[1])].concat(), "no bit depths in this profile");

        let hevc = of(Codec::H265, &sample(&HEVC));
        assert_eq!((hevc.width, hevc.height), (1920, 1080));
        assert_eq!(hevc.private[..2], [1, 1], "Main");
        assert_eq!(hevc.private[16..23], [0xFD, 0xF8, 0xF8, 0, 0, 0x0F, 3]);
        assert_eq!(hevc.private[12], 120, "level 4");

        let vp8 = of(Codec::Vp8, &hex(VP8));
        assert_eq!((vp8.width, vp8.height), (320, 180));
        let vp9 = of(Codec::Vp9, &hex(VP9));
        assert_eq!((vp9.width, vp9.height, &vp9.private[..7]), (320, 180, &[1, 0, 0, 0, 0, 11, 0x82][..]));
        let av1 = of(Codec::Av1, &av1());
        assert_eq!((av1.width, av1.height), (854, 480));
        assert_eq!(av1.private[..4], [0x81, 4, 0x0C, 0], "Main, level 3.0, 4:2:0");
        assert_eq!(av1.private[4..], hex("0a0b00000024c6abdf3efe4010"));
        let opus = of(Codec::Opus, &[0xFC]);
        assert_eq!((opus.width, opus.private.len(), opus.private[1]), (0, 11, 2));
    }

    #[test]
    fn high_profiles_and_fields_are_read() {
        let avc = track_format(Codec::H264, &sample(&INTERLACED)).unwrap();
        assert_eq!((avc.width, avc.height), (322, 184));
        assert_eq!(avc.private[1], 100);
        assert_eq!(avc.private[avc.private.len() - 4..], [0xFD, 0xF8, 0xF8, 0]);
        assert_eq!(usize::from(avc.private[7]), INTERLACED[0].len() / 2);
    }

    #[test]
    fn what_begins_nothing_has_no_format() {
        assert_eq!(track_format(Codec::H264, &sample(&BASELINE[1..])), None, "no SPS");
        assert_eq!(track_format(Codec::H264, &sample(&BASELINE[..1])), None, "no PPS");
        assert_eq!(track_format(Codec::H265, &sample(&HEVC[1..])), None, "no VPS");
        assert_eq!(track_format(Codec::Vp8, &hex(&VP8.replace("1062", "1162"))), None, "an inter picture");
        assert_eq!(track_format(Codec::Vp9, &[0x86, 0, 0]), None, "an inter picture");
        assert_eq!(track_format(Codec::Av1, &[0x12, 0, 0x32, 1, 0x10]), None, "no sequence header");
        assert_eq!(track_format(Codec::Opus, &[]), None);
        // Sets that are there twice are kept once.
        let twice = sample(&[BASELINE[0], BASELINE[1], BASELINE[0], BASELINE[1]]);
        assert_eq!(track_format(Codec::H264, &twice), track_format(Codec::H264, &sample(&BASELINE)));
    }

    #[test]
    fn damaged_keyframes_never_panic() {
        let valid = [
            (Codec::H264, sample(&BASELINE)),
            (Codec::H264, sample(&INTERLACED)),
            (Codec::H265, sample(&HEVC)),
            (Codec::Vp8, hex(VP8)),
            (Codec::Vp9, hex(VP9)),
            (Codec::Av1, av1()),
        ];
        for (codec, bytes) in &valid {
            torture(&[bytes], |bytes| {
                if let Some(format) = track_format(*codec, bytes) {
                    assert!(format.width > 0 && format.height > 0 && format.private.len() <= bytes.len() + 64);
                }
            });
        }
    }
}
