//! The payloads of one frame put together as containers keep it (see `Sample`): the other direction of `packetize`.
//!
//! Bytes from the network: damage gives no frame, never a panic. It waits for nothing and knows no order; that is
//! `depacketize`. Parameter sets are remembered here, so that every keyframe has its own.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use crate::id::Codec;
use crate::limits::{CODEC_PRIVATE_BYTES_MAX, FRAME_BYTES_MAX};
use crate::wire::payload::{av1, h264, h265, vp8, vp9};

/// A frame, or what came instead of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Assembled {
    Frame { keyframe: bool, data: Vec<u8> },
    /// No picture in it: parameter sets alone, padding.
    Nothing,
    /// Parts are missing, or make no sense.
    Damaged,
}

/// Puts the frames of one track together.
#[derive(Clone, Debug, Default)]
pub struct Assembler {
    /// Newest parameter sets as they stand in a sample: H264 and H265 NAL units behind their lengths, an AV1 sequence
    /// header with its size.
    pub(super) sets: Vec<u8>,
}

impl Assembler {
    /// Another publisher: its sets are others.
    pub fn forget(&mut self) {
        self.sets.clear();
    }

    /// The payloads of one frame, all of them and in order.
    pub fn assemble<'a>(&mut self, codec: Codec, payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
        // A packet of padding alone carries nothing.
        let payloads = payloads.filter(|payload| !payload.is_empty());
        match codec {
            Codec::H264 | Codec::H265 => self.units(codec, payloads),
            Codec::Vp8 => picture_vp8(payloads),
            Codec::Vp9 => picture_vp9(payloads),
            Codec::Av1 => self.temporal_unit(payloads),
            Codec::Opus => sound(payloads),
        }
    }

    fn units<'a>(&mut self, codec: Codec, payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
        let mut units = Units { codec, ..Units::default() };
        for payload in payloads {
            if units.take(payload).is_none() {
                return Assembled::Damaged;
            }
        }
        if units.open.is_some() || units.out.len() > FRAME_BYTES_MAX {
            return Assembled::Damaged;
        }
        if units.has_first_set {
            self.sets.clear();
        }
        if self.sets.len() + units.sets.len() <= CODEC_PRIVATE_BYTES_MAX {
            self.sets.append(&mut units.sets);
        }
        if !units.has_picture {
            return Assembled::Nothing;
        }
        let keyframe = units.has_key && !self.sets.is_empty();
        let data = if keyframe && !units.has_first_set {
            // Its sets came in a packet of another time, or long ago.
            [self.sets.as_slice(), &units.out].concat()
        } else {
            units.out
        };
        Assembled::Frame { keyframe, data }
    }

    fn temporal_unit<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
        let mut obus: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        let mut bytes = 0;
        for payload in payloads {
            let Some(head) = payload.first() else { continue };
            // The AOMedia RTP payload format, section 4.4: Z says that the first element goes on from the packet before.
            if (head & av1::CONTINUES != 0) != open {
                return Assembled::Damaged;
            }
            for (place, element) in av1::elements(payload).enumerate() {
                bytes += element.len();
                match obus.last_mut().filter(|_| place == 0 && open) {
                    Some(obu) => obu.extend_from_slice(element),
                    None => obus.push(element.to_vec()),
                }
            }
            open = head & av1::CONTINUED != 0;
        }
        if open || bytes > FRAME_BYTES_MAX {
            return Assembled::Damaged;
        }
        let (mut data, mut has_sequence, mut has_key, mut has_picture) = (Vec::with_capacity(bytes + 16), false, false, false);
        for element in &obus {
            let Some(obu) = av1::Obu::parse(element) else { return Assembled::Damaged };
            if matches!(obu.kind, av1::TEMPORAL_DELIMITER | av1::TILE_LIST | av1::PADDING) {
                continue;
            }
            let length = obu.size.map_or(Some(obu.body.len()), |size| usize::try_from(size).ok());
            let Some(body) = length.and_then(|length| obu.body.get(..length)) else { return Assembled::Damaged };
            let at = data.len();
            write_obu(element, body, &mut data);
            if obu.kind == av1::SEQUENCE_HEADER {
                has_sequence = true;
                self.sets = data.get(at..).filter(|sets| sets.len() <= CODEC_PRIVATE_BYTES_MAX).unwrap_or_default().to_vec();
            }
            if matches!(obu.kind, av1::FRAME | av1::FRAME_HEADER) {
                has_picture = true;
                // show_existing_frame and frame_type (AV1 section 5.9.2), all 0 for a key frame.
                has_key |= body.first().is_some_and(|byte| byte & 0xE0 == 0);
            }
        }
        if !has_picture {
            return Assembled::Nothing;
        }
        let keyframe = has_key && !self.sets.is_empty();
        if keyframe && !has_sequence {
            data = [self.sets.as_slice(), &data].concat();
        }
        Assembled::Frame { keyframe, data }
    }
}

/// An OBU as files keep it: with its size.
fn write_obu(element: &[u8], body: &[u8], out: &mut Vec<u8>) {
    let Some((header, rest)) = element.split_first() else { return };
    out.push(header | 0x02);
    if header & 0x04 != 0 {
        out.extend(rest.first());
    }
    let mut length = body.len();
    loop {
        let low = (length & 0x7F) as u8;
        length >>= 7;
        out.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
}

/// NAL units as they come.
struct Units {
    codec: Codec,
    out: Vec<u8>,
    /// Where the length of the unit stands that fragments are added to.
    open: Option<usize>,
    sets: Vec<u8>,
    /// An H264 SPS, or an H265 VPS or SPS: the sets begin anew.
    has_first_set: bool,
    has_picture: bool,
    has_key: bool,
}

impl Default for Units {
    fn default() -> Units {
        Units {
            codec: Codec::H264,
            out: Vec::new(),
            open: None,
            sets: Vec::new(),
            has_first_set: false,
            has_picture: false,
            has_key: false,
        }
    }
}

impl Units {
    /// None: it does not belong to what came before, or is cut off.
    fn take(&mut self, payload: &[u8]) -> Option<()> {
        let (first, rest) = payload.split_first()?;
        if self.codec == Codec::H264 {
            return match h264::nal_type(*first) {
                h264::STAP_A => self.aggregate(rest),
                h264::FU_A => {
                    let (head, body) = rest.split_first()?;
                    self.fragment(*head, &[first & 0xE0 | head & 0x1F], body)
                }
                1..=23 => self.unit(payload),
                // STAP-B, MTAP and FU-B belong to the interleaved mode, which nobody negotiates.
                _ => Some(()),
            };
        }
        let (second, rest) = rest.split_first()?;
        self.h265(h265::nal_type(*first), [*first, *second], rest, payload)
    }

    fn h265(&mut self, kind: u8, header: [u8; 2], rest: &[u8], payload: &[u8]) -> Option<()> {
        match kind {
            h265::AP => self.aggregate(rest),
            h265::FU => {
                let (head, body) = rest.split_first()?;
                self.fragment(*head, &[header[0] & 0x81 | (head & 0x3F) << 1, header[1]], body)
            }
            h265::PACI => {
                // RFC 7798 section 4.4.4: the header of what is inside is PACI's own, with cType for its type.
                let (fields, rest) = rest.split_first_chunk::<2>()?;
                let (kind, extension) = (fields[0] >> 1 & 0x3F, usize::from((fields[0] & 1) << 4 | fields[1] >> 4));
                let rest = rest.get(extension..)?;
                let header = [header[0] & 0x81 | kind << 1, header[1]];
                match kind {
                    h265::PACI => None,
                    _ => self.h265(kind, header, rest, &[&header, rest].concat()),
                }
            }
            _ => self.unit(payload),
        }
    }

    fn aggregate(&mut self, units: &[u8]) -> Option<()> {
        let mut rest = units;
        while let Some((size, after)) = rest.split_first_chunk() {
            let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
            if !unit.is_empty() {
                self.unit(unit)?;
            }
            rest = after;
        }
        Some(())
    }

    fn unit(&mut self, unit: &[u8]) -> Option<()> {
        if self.open.is_some() {
            return None;
        }
        let at = self.out.len();
        self.out.extend(u32::try_from(unit.len()).ok()?.to_be_bytes());
        self.out.extend_from_slice(unit);
        self.close(at);
        Some(())
    }

    /// RFC 6184 section 5.8, RFC 7798 section 4.4.3: S and E are the highest bits of the FU header.
    fn fragment(&mut self, head: u8, header: &[u8], body: &[u8]) -> Option<()> {
        let (start, end) = (head & 0x80 != 0, head & 0x40 != 0);
        match (start, self.open) {
            (true, None) => {
                self.open = Some(self.out.len());
                self.out.extend([0; 4]);
                self.out.extend_from_slice(header);
            }
            (false, Some(_)) => {}
            _ => return None,
        }
        self.out.extend_from_slice(body);
        if end && let Some(at) = self.open.take() {
            let length = u32::try_from(self.out.len().checked_sub(at + 4)?).ok()?;
            self.out.get_mut(at..at + 4)?.copy_from_slice(&length.to_be_bytes());
            self.close(at);
        }
        Some(())
    }

    /// The unit behind `at` is whole: what it is.
    fn close(&mut self, at: usize) {
        let written = self.out.get(at..).unwrap_or_default();
        let Some(first) = written.get(4) else { return };
        let (is_set, is_first, is_delimiter) = match self.codec {
            Codec::H264 => {
                let kind = h264::nal_type(*first);
                self.has_picture |= matches!(kind, 1..=h264::SLICE_IDR);
                self.has_key |= kind == h264::SLICE_IDR;
                // An access unit delimiter, the ends of sequence and stream, and filler.
                (matches!(kind, h264::SPS | h264::PPS), kind == h264::SPS, matches!(kind, 9..=12))
            }
            _ => {
                let kind = h265::nal_type(*first);
                self.has_picture |= kind < h265::VPS;
                self.has_key |= (h265::IRAP_FIRST..=h265::IRAP_LAST).contains(&kind);
                // Delimiter, ends of sequence and of bitstream, filler.
                (matches!(kind, h265::VPS..=h265::PPS), matches!(kind, h265::VPS | h265::SPS), matches!(kind, 35..=38))
            }
        };
        self.has_first_set |= is_first;
        if is_delimiter {
            self.out.truncate(at);
        } else if is_set && self.sets.len() + written.len() <= CODEC_PRIVATE_BYTES_MAX {
            self.sets.extend_from_slice(written);
        }
    }
}

fn picture_vp8<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
    let mut data = Vec::new();
    for payload in payloads {
        let Some(descriptor) = vp8::Descriptor::parse(payload) else { return Assembled::Damaged };
        let starts = descriptor.start && descriptor.partition == 0;
        if starts != data.is_empty() || data.len() > FRAME_BYTES_MAX {
            return Assembled::Damaged;
        }
        data.extend_from_slice(payload.get(descriptor.length..).unwrap_or_default());
    }
    // P, the lowest bit of the frame's first byte, is 0 in a key frame (RFC 7741 section 4.3).
    match data.first() {
        Some(first) => Assembled::Frame { keyframe: first & 1 == 0, data },
        None => Assembled::Nothing,
    }
}

fn picture_vp9<'a>(payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
    let mut data = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    let mut open = false;
    for payload in payloads {
        let Some(descriptor) = vp9::Descriptor::parse(payload) else { return Assembled::Damaged };
        // A picture begins with its lowest layer; a layer frame with B, ends with E (RFC 9628 section 4.2).
        if descriptor.start == open || (data.is_empty() && !descriptor.is_base()) || data.len() > FRAME_BYTES_MAX {
            return Assembled::Damaged;
        }
        data.extend_from_slice(payload.get(descriptor.length..).unwrap_or_default());
        open = !descriptor.end;
        if descriptor.end {
            ends.push(data.len());
        }
    }
    if open || ends.len() > 8 {
        return Assembled::Damaged;
    }
    let Some(first) = data.first() else { return Assembled::Nothing };
    // VP9 bitstream section 6.2: frame_marker, two bits of profile (and a reserved one in profile 3), then
    // show_existing_frame and frame_type, both 0 for a key frame.
    let keyframe = if first & 0x30 == 0x30 { first & 0x06 == 0 } else { first & 0x0C == 0 };
    if ends.len() > 1 {
        superframe(&mut data, &ends);
    }
    Assembled::Frame { keyframe, data }
}

/// VP9 bitstream annex B: several layer frames of one picture are one sample with an index at its end.
fn superframe(data: &mut Vec<u8>, ends: &[usize]) {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    let sizes: Vec<u32> = starts.zip(ends).map(|(start, end)| end.saturating_sub(start) as u32).collect();
    // 0b110, bytes of a size less one (four), frames less one.
    let marker = 0xC0 | 3 << 3 | (ends.len() - 1) as u8;
    data.push(marker);
    sizes.iter().for_each(|size| data.extend(size.to_le_bytes()));
    data.push(marker);
}

/// RFC 7587 section 4.2: a packet is a whole Opus packet.
fn sound<'a>(mut payloads: impl Iterator<Item = &'a [u8]>) -> Assembled {
    match (payloads.next(), payloads.next()) {
        (None, _) => Assembled::Nothing,
        (Some(data), None) => Assembled::Frame { keyframe: true, data: data.to_vec() },
        _ => Assembled::Damaged,
    }
}
