//! Frames into RTP payloads, for publishers of our own. Sans-IO: payloads go to a callback, headers, time and
//! sending are the caller's.
//!
//! Payloads are at most `PAYLOAD_SIZE_MAX` long. What must be cut is cut into parts that differ by at most one
//! byte, so that they travel as one run of equal segments.
//!
//! `emit(payload, last)`: `last` is true for the last packet of the frame (its marker bit).

use crate::id::Codec;
use crate::limits::{PACKET_SIZE_MAX, PAYLOAD_SIZE_MAX};
use crate::wire::payload::{av1 as obus, h264 as avc, h265 as hevc};
use crate::wire::rtp::RTP_HEADER_BYTES;

/// One access unit as its NAL units, without start codes or length prefixes (RFC 6184, packetization mode 1).
/// Neighbours that fit into one packet together share a STAP-A, as SPS, PPS and SEI do; larger units go as
/// FU-A. Empty units are passed over.
pub fn h264(nals: &[&[u8]], emit: impl FnMut(&[u8], bool)) {
    units(Form::H264, nals, emit);
}

/// The same for H265 (RFC 7798): aggregation packets and fragmentation units.
pub fn h265(nals: &[&[u8]], emit: impl FnMut(&[u8], bool)) {
    units(Form::H265, nals, emit);
}

/// The payload of one packet with the parameter sets of a description: NAL units, each behind its length in two
/// bytes. Empty if there are none, or if the codec has no such thing.
pub fn parameter_sets(codec: Codec, sets: &[u8]) -> Vec<u8> {
    let form = match codec {
        Codec::H264 => Form::H264,
        Codec::H265 => Form::H265,
        _ => return Vec::new(),
    };
    let mut nals = Vec::new();
    let mut rest = sets;
    while let Some((length, after)) = rest.split_first_chunk() {
        let Some((nal, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        nals.push(nal);
        rest = after;
    }
    let mut packets = Vec::new();
    units(form, &nals, |payload, _| packets.push(payload.to_vec()));
    // `PARAMETER_SETS_BYTES_MAX` of them always share one packet, unless one is empty.
    if packets.len() == 1 { packets.remove(0) } else { Vec::new() }
}

const _: () = assert!(crate::limits::PARAMETER_SETS_BYTES_MAX < PAYLOAD_SIZE_MAX);

/// How NAL units travel: both codecs have packets of several and packets of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    H264,
    H265,
}

impl Form {
    fn header_bytes(self) -> usize {
        match self {
            Form::H264 => 1,
            Form::H265 => hevc::HEADER_BYTES,
        }
    }

    /// The header of a packet of several units, from the header of the first, with that of another one.
    fn together(self, header: [u8; 2], unit: &[u8], is_first: bool) -> [u8; 2] {
        let Some(first) = unit.first() else { return header };
        match self {
            // The F bit of any, the highest NRI of all (RFC 6184 section 5.7).
            Form::H264 => {
                [avc::STAP_A | (header[0] | first) & 0x80 | (header[0] & 0x60).max(first & 0x60), 0]
            }
            // F of any, the lowest layer and the lowest temporal layer of all (RFC 7798 section 4.4.2).
            Form::H265 => {
                let ids = |bytes: [u8; 2]| (u16::from_be_bytes(bytes) >> 3 & 0x3F, bytes[1] & 7);
                let (layer, temporal) = ids([*first, unit.get(1).copied().unwrap_or(1)]);
                let (layer_before, temporal_before) = if is_first { (layer, temporal) } else { ids(header) };
                let low = layer.min(layer_before) << 3 | u16::from(temporal.min(temporal_before));
                let forbidden = u16::from((header[0] | first) & 0x80) << 8;
                (forbidden | u16::from(hevc::AP) << 9 | low).to_be_bytes()
            }
        }
    }

    /// Indicator and FU header (RFC 6184 section 5.8), payload header and FU header (RFC 7798 section 4.4.3): the
    /// unit's own header is spread over them.
    fn fragment(self, unit: &[u8], start: bool, end: bool) -> ([u8; 3], usize) {
        let (first, second) = (unit.first().copied().unwrap_or(0), unit.get(1).copied().unwrap_or(0));
        let ends = u8::from(start) << 7 | u8::from(end) << 6;
        match self {
            Form::H264 => ([first & 0xE0 | avc::FU_A, ends | first & 0x1F, 0], 2),
            Form::H265 => ([first & 0x81 | hevc::FU << 1, second, ends | hevc::nal_type(first)], 3),
        }
    }
}

fn units(form: Form, nals: &[&[u8]], mut emit: impl FnMut(&[u8], bool)) {
    let mut packet = [0; PAYLOAD_SIZE_MAX];
    let mut rest = nals;
    while let Some((nal, more)) = rest.split_first() {
        let together = aggregate(form, rest, &mut packet);
        let after = if together.units > 1 { rest.get(together.units..).unwrap_or_default() } else { more };
        let last = after.iter().all(|nal| nal.is_empty());
        if together.units > 1 {
            emit(&packet[..together.length], last);
        } else if nal.len() <= PAYLOAD_SIZE_MAX {
            if !nal.is_empty() {
                emit(nal, last);
            }
        } else {
            fragment(form, nal, &mut packet, last, &mut emit);
        }
        rest = after;
    }
}

struct Together {
    units: usize,
    length: usize,
}

/// Puts as many units from the front as fit into one packet (RFC 6184 section 5.7.1, RFC 7798 section 4.4.2).
fn aggregate(form: Form, nals: &[&[u8]], packet: &mut [u8; PAYLOAD_SIZE_MAX]) -> Together {
    let mut together = Together { units: 0, length: form.header_bytes() };
    let mut header = [0; 2];
    for nal in nals {
        if nal.is_empty() {
            break;
        }
        let Ok(size) = u16::try_from(nal.len()) else { break };
        let Some(room) = packet.get_mut(together.length..together.length + 2 + nal.len()) else { break };
        room[..2].copy_from_slice(&size.to_be_bytes());
        room[2..].copy_from_slice(nal);
        header = form.together(header, nal, together.units == 0);
        together.units += 1;
        together.length += 2 + nal.len();
    }
    packet[..form.header_bytes()].copy_from_slice(&header[..form.header_bytes()]);
    together
}

fn fragment(
    form: Form,
    nal: &[u8],
    packet: &mut [u8; PAYLOAD_SIZE_MAX],
    last: bool,
    emit: &mut impl FnMut(&[u8], bool),
) {
    let Some(body) = nal.get(form.header_bytes()..) else { return };
    let (_, head_bytes) = form.fragment(nal, true, false);
    let parts = body.len().div_ceil(PAYLOAD_SIZE_MAX - head_bytes);
    for (number, part) in even_parts(body, parts).enumerate() {
        let (start, end) = (number == 0, number + 1 == parts);
        let (head, _) = form.fragment(nal, start, end);
        packet[..head_bytes].copy_from_slice(&head[..head_bytes]);
        packet[head_bytes..head_bytes + part.len()].copy_from_slice(part);
        emit(&packet[..head_bytes + part.len()], last && end);
    }
}

/// One VP9 frame of one layer (RFC 9628): a 15-bit picture id, B and E. In the flexible form, in which each inter
/// picture names the one before it: without layers the other form has no references (RFC 9628 section 4.2).
pub fn vp9(frame: &[u8], keyframe: bool, picture_id: u16, mut emit: impl FnMut(&[u8], bool)) {
    let mut packet = [0; PAYLOAD_SIZE_MAX];
    let descriptor = if keyframe { 3 } else { 4 };
    let parts = frame.len().div_ceil(PAYLOAD_SIZE_MAX - descriptor);
    let [high, low] = picture_id.to_be_bytes();
    for (number, part) in even_parts(frame, parts).enumerate() {
        let (start, end) = (number == 0, number + 1 == parts);
        let bits = 0x90 | u8::from(!keyframe) << 6 | u8::from(start) << 3 | u8::from(end) << 2;
        let head = [bits, 0x80 | high, low, 1 << 1];
        packet[..descriptor].copy_from_slice(&head[..descriptor]);
        packet[descriptor..descriptor + part.len()].copy_from_slice(part);
        emit(&packet[..descriptor + part.len()], end);
    }
}

/// One AV1 temporal unit as a file has it: OBUs with their sizes (the low-overhead format). Temporal delimiters, tile
/// lists and size fields are left out (the AOMedia RTP payload format, sections 4.4 and 5); elements are cut where a
/// packet is full, each with its length (W = 0). `keyframe`: a coded video sequence begins.
pub fn av1(unit: &[u8], keyframe: bool, mut emit: impl FnMut(&[u8], bool)) {
    let obus: Vec<Vec<u8>> = stored_obus(unit)
        .filter(|(_, obu)| !matches!(obu.kind, obus::TEMPORAL_DELIMITER | obus::TILE_LIST | obus::PADDING))
        .map(|(head, obu)| {
            // Without the mark of a size.
            let mut element = head.to_vec();
            element[0] &= !0x02;
            element.extend_from_slice(obu.body);
            element
        })
        .collect();
    // As even as elements allow; a length takes two bytes for all that fits a packet.
    let total: usize = obus.iter().map(|obu| obu.len() + 2).sum();
    let room = PAYLOAD_SIZE_MAX - 1 - 4;
    let size = total.div_ceil(total.div_ceil(room).max(1)) + 4;
    let mut packet = vec![if keyframe { obus::NEW_SEQUENCE } else { 0 }];
    let mut rest = obus.iter().map(Vec::as_slice).peekable();
    while let Some(mut obu) = rest.next() {
        loop {
            // With fewer than this no part of an element is worth its length.
            let free = (size + 1).saturating_sub(packet.len() + 2);
            if free >= 8 || obu.len() <= free {
                let (part, after) = obu.split_at(obu.len().min(free));
                packet.extend([0x80 | (part.len() & 0x7F) as u8, (part.len() >> 7) as u8]);
                packet.extend_from_slice(part);
                obu = after;
                if obu.is_empty() {
                    break;
                }
                packet[0] |= obus::CONTINUED;
            }
            emit(&packet, false);
            let continues = packet[0] & obus::CONTINUED != 0;
            packet.clear();
            packet.push(if continues { obus::CONTINUES } else { 0 });
        }
        if rest.peek().is_none() {
            emit(&packet, true);
        }
    }
}

/// Whether a temporal unit of a file brings what its pictures are decoded with.
pub fn has_sequence_header(unit: &[u8]) -> bool {
    stored_obus(unit).any(|(_, obu)| obu.kind == obus::SEQUENCE_HEADER)
}

/// The OBUs of a file's temporal unit: the bytes of the header with its extension, and the OBU with its whole body.
/// Damage ends them.
fn stored_obus(unit: &[u8]) -> impl Iterator<Item = (&[u8], obus::Obu<'_>)> {
    let mut rest = unit;
    std::iter::from_fn(move || {
        let obu = obus::Obu::parse(rest)?;
        let head = rest.get(..if rest.first()? & 0x04 != 0 { 2 } else { 1 })?;
        let length = obu.size.map_or(Some(obu.body.len()), |size| usize::try_from(size).ok())?;
        let (body, after) = obu.body.split_at_checked(length)?;
        rest = after;
        Some((head, obus::Obu { body, ..obu }))
    })
}

/// One VP8 frame (RFC 7741): the descriptor with a 15-bit picture id, S on the first packet.
pub fn vp8(frame: &[u8], picture_id: u16, mut emit: impl FnMut(&[u8], bool)) {
    const DESCRIPTOR: usize = 4;
    let mut packet = [0; PAYLOAD_SIZE_MAX];
    let parts = frame.len().div_ceil(PAYLOAD_SIZE_MAX - DESCRIPTOR);
    let [high, low] = picture_id.to_be_bytes();
    for (number, part) in even_parts(frame, parts).enumerate() {
        let start = number == 0;
        packet[..DESCRIPTOR].copy_from_slice(&[0x80 | u8::from(start) << 4, 0x80, 0x80 | high, low]);
        packet[DESCRIPTOR..DESCRIPTOR + part.len()].copy_from_slice(part);
        emit(&packet[..DESCRIPTOR + part.len()], number + 1 == parts);
    }
}

/// One Opus packet, which RFC 7587 does not allow to cut. False: it is empty, or larger than a packet can be.
pub fn opus(frame: &[u8], mut emit: impl FnMut(&[u8], bool)) -> bool {
    let fits = !frame.is_empty() && frame.len() <= PACKET_SIZE_MAX - RTP_HEADER_BYTES;
    if fits {
        emit(frame, true);
    }
    fits
}

/// Cuts into `parts` pieces, the longer ones first.
fn even_parts(bytes: &[u8], parts: usize) -> impl Iterator<Item = &[u8]> {
    let (size, longer) = (bytes.len().checked_div(parts).unwrap_or(0), bytes.len().checked_rem(parts).unwrap_or(0));
    let mut rest = bytes;
    (0..parts).map_while(move |number| {
        let (part, after) = rest.split_at_checked(size + usize::from(number < longer))?;
        rest = after;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::wire::payload::vp8::{Descriptor, PictureId};
    use crate::wire::payload::{PayloadFacts, h264 as facts};

    fn nal(header: u8, length: usize, seed: u64) -> Vec<u8> {
        let mut nal = vec![header; length];
        Rng::new(seed).fill(&mut nal[1..]);
        nal
    }

    fn packets_of(nals: &[Vec<u8>]) -> Vec<(Vec<u8>, bool)> {
        let nals: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
        let mut packets = Vec::new();
        h264(&nals, |payload, last| packets.push((payload.to_vec(), last)));
        packets
    }

    /// Puts the units together again, strictly.
    fn units_of(packets: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
        let mut units: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for (payload, _) in packets {
            assert!(!payload.is_empty() && payload.len() <= PAYLOAD_SIZE_MAX);
            match payload[0] & 0x1F {
                avc::STAP_A => {
                    let mut rest = &payload[1..];
                    while let [s0, s1, more @ ..] = rest {
                        let (unit, after) = more.split_at(usize::from(u16::from_be_bytes([*s0, *s1])));
                        units.push(unit.to_vec());
                        rest = after;
                    }
                }
                avc::FU_A => {
                    assert_eq!(payload[1] & 0x80 != 0, !open, "S opens, once");
                    assert_eq!(payload[1] & 0x20, 0, "the reserved bit");
                    if !open {
                        units.push(vec![payload[0] & 0xE0 | payload[1] & 0x1F]);
                    }
                    units.last_mut().unwrap().extend(&payload[2..]);
                    open = payload[1] & 0x40 == 0;
                }
                _ => units.push(payload.clone()),
            }
            assert!(!open || payload[0] & 0x1F == avc::FU_A);
        }
        assert!(!open, "E closes");
        units
    }

    #[test]
    fn a_keyframe_is_a_stap_of_its_sets_and_fragments() {
        let sets = [nal(0x67, 20, 1), nal(0x68, 4, 2), nal(0x06, 30, 3)];
        let mut idr = nal(0x65, 5_000, 4);
        idr[1] = 0x88;
        let nals = [&sets[..], &[idr]].concat();
        let packets = packets_of(&nals);
        assert_eq!(units_of(&packets), nals);
        assert_eq!(packets.len(), 1 + 5);
        assert_eq!(packets[0].0[0], 0x78, "STAP-A with the highest NRI of its units");
        let sets = PayloadFacts { parameter_sets: true, picture_sets: true, ..PayloadFacts::NONE };
        assert_eq!(facts::facts(&packets[0].0), sets);
        assert_eq!(facts::facts(&packets[1].0), PayloadFacts { keyframe: true, ..PayloadFacts::NONE });
        let middle = PayloadFacts { frame_start: Some(false), ..PayloadFacts::NONE };
        assert!(packets[2..].iter().all(|(payload, _)| facts::facts(payload) == middle));
        let lengths: Vec<usize> = packets[1..].iter().map(|(payload, _)| payload.len()).collect();
        assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1, "{lengths:?}");
    }

    #[test]
    fn only_the_last_packet_is_the_last() {
        let nals = [nal(0x67, 20, 1), nal(0x65, 1_500, 2), nal(0x65, 900, 3), nal(0x65, 900, 4), Vec::new()];
        let packets = packets_of(&nals);
        let last: Vec<bool> = packets.iter().map(|(_, last)| *last).collect();
        assert_eq!(last, [false, false, false, false, true], "SPS, two fragments, two slices; the empty unit is nothing");
        assert_eq!(units_of(&packets), nals[..4]);
    }

    #[test]
    fn limits_from_both_sides() {
        assert_eq!(packets_of(&[nal(0x41, PAYLOAD_SIZE_MAX, 1)]).len(), 1, "a single unit that just fits");
        assert_eq!(packets_of(&[nal(0x41, PAYLOAD_SIZE_MAX + 1, 1)]).len(), 2);
        let pair = |second| packets_of(&[nal(0x68, 10, 1), nal(0x41, second, 2)]).len();
        let fits = PAYLOAD_SIZE_MAX - 1 - 2 - 10 - 2;
        assert_eq!((pair(fits), pair(fits + 1)), (1, 2));
        assert!(packets_of(&[]).is_empty() && packets_of(&[Vec::new()]).is_empty());
    }

    #[test]
    fn any_access_unit_comes_back() {
        let mut rng = Rng::new(6);
        for _ in 0..2_000 {
            let nals: Vec<Vec<u8>> = (0..1 + rng.below(6))
                .map(|_| {
                    let length_max = if rng.below(3) == 0 { 8_000 } else { 700 };
                    let length = 1 + rng.below(length_max) as usize;
                    nal((rng.below(4) << 5) as u8 | (1 + rng.below(23) as u8), length, rng.next_u64())
                })
                .collect();
            let packets = packets_of(&nals);
            assert_eq!(units_of(&packets), nals);
            assert_eq!(packets.iter().filter(|(_, last)| *last).count(), 1);
            assert!(packets.last().unwrap().1);
        }
    }

    /// Puts H265 units together again, strictly.
    fn h265_units_of(packets: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
        let mut units: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for (payload, _) in packets {
            assert!(payload.len() > 2 && payload.len() <= PAYLOAD_SIZE_MAX);
            match hevc::nal_type(payload[0]) {
                hevc::AP => {
                    let mut rest = &payload[2..];
                    while let [s0, s1, more @ ..] = rest {
                        let (unit, after) = more.split_at(usize::from(u16::from_be_bytes([*s0, *s1])));
                        units.push(unit.to_vec());
                        rest = after;
                    }
                }
                hevc::FU => {
                    assert_eq!(payload[2] & 0x80 != 0, !open, "S opens, once");
                    if !open {
                        units.push(vec![payload[0] & 0x81 | (payload[2] & 0x3F) << 1, payload[1]]);
                    }
                    units.last_mut().unwrap().extend(&payload[3..]);
                    open = payload[2] & 0x40 == 0;
                }
                _ => units.push(payload.clone()),
            }
        }
        assert!(!open, "E closes");
        units
    }

    #[test]
    fn any_h265_access_unit_comes_back() {
        let mut rng = Rng::new(8);
        for _ in 0..2_000 {
            let nals: Vec<Vec<u8>> = (0..1 + rng.below(6))
                .map(|_| {
                    let length_max = if rng.below(3) == 0 { 8_000 } else { 700 };
                    let mut unit = nal((rng.below(48) as u8) << 1, 3 + rng.below(length_max) as usize, rng.next_u64());
                    unit[1] = 1 + rng.below(7) as u8;
                    unit
                })
                .collect();
            let borrowed: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
            let mut packets = Vec::new();
            h265(&borrowed, |payload, last| packets.push((payload.to_vec(), last)));
            assert_eq!(h265_units_of(&packets), nals);
            assert_eq!(packets.iter().position(|(_, last)| *last), Some(packets.len() - 1));
        }
    }

    #[test]
    fn an_h265_keyframe_is_entered_at_its_sets() {
        let mut units = [nal(0x40, 20, 1), nal(0x42, 30, 2), nal(0x44, 8, 3), nal(0x26, 5_000, 4)];
        units.iter_mut().for_each(|unit| unit[1] = 1);
        units[3][2] = 0xAF;
        let nals: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
        let mut facts = Vec::new();
        h265(&nals, |payload, _| facts.push(hevc::facts(payload)));
        assert_eq!(facts.len(), 1 + 5);
        assert!(facts[0].parameter_sets && !facts[0].keyframe);
        assert!(facts[1].keyframe && facts[2..].iter().all(|facts| !facts.keyframe));
        let mut first = Vec::new();
        h265(&[&[0xC0, 0x0B, 1], &[0x42, 0x03, 2]], |payload, _| first = payload.to_vec());
        assert_eq!(first[..2], [0xE0, 0x03], "F of any; the lowest of both ids");
    }

    #[test]
    fn parameter_sets_of_a_description_become_one_packet() {
        let avc = parameter_sets(Codec::H264, &[0, 3, 0x67, 0x42, 0xC0, 0, 2, 0x68, 0xCE]);
        assert_eq!(avc, [0x78, 0, 3, 0x67, 0x42, 0xC0, 0, 2, 0x68, 0xCE]);
        assert!(facts::facts(&avc).parameter_sets);
        assert_eq!(parameter_sets(Codec::H264, &[0, 2, 0x67, 0x42]), [0x67, 0x42], "alone it needs no aggregate");
        let hevc = parameter_sets(Codec::H265, &[0, 3, 0x40, 1, 0x0C, 0, 3, 0x42, 1, 1, 0, 3, 0x44, 1, 0xC0]);
        assert_eq!(hevc, [0x60, 1, 0, 3, 0x40, 1, 0x0C, 0, 3, 0x42, 1, 1, 0, 3, 0x44, 1, 0xC0]);
        assert!(parameter_sets(Codec::Vp8, &[0, 1, 7]).is_empty() && parameter_sets(Codec::H264, &[]).is_empty());
        assert!(parameter_sets(Codec::H264, &[0, 9, 1]).is_empty(), "cut off");
    }

    #[test]
    fn a_vp9_frame_comes_back() {
        use crate::wire::payload::vp9::{self, Descriptor};
        for (length, keyframe) in [(1, true), (1_185, true), (1_186, true), (1_184, false), (1_185, false), (40_000, false)] {
            let frame = nal(0x82, length, 9);
            let (mut back, mut packets) = (Vec::<u8>::new(), Vec::new());
            super::vp9(&frame, keyframe, 0x7ABC, |payload, last| {
                assert!(payload.len() <= PAYLOAD_SIZE_MAX);
                let descriptor = Descriptor::parse(payload).unwrap();
                assert_eq!(descriptor.picture_id, Some(PictureId::Fifteen(0x7ABC)));
                assert_eq!((descriptor.inter_picture, descriptor.end), (!keyframe, last));
                back.extend(&payload[descriptor.length..]);
                packets.push(vp9::facts(payload));
            });
            assert_eq!(back, frame);
            assert_eq!(packets.len(), length.div_ceil(if keyframe { 1_185 } else { 1_184 }));
            assert_eq!(packets.iter().map(|facts| facts.keyframe).collect::<Vec<_>>()[0], keyframe);
            assert!(packets[1..].iter().all(|facts| !facts.keyframe && facts.frame_start == Some(false)));
            assert!(packets.last().unwrap().frame_end);
        }
    }

    /// Puts OBU elements together again, strictly.
    fn obus_of(packets: &[(Vec<u8>, bool)]) -> Vec<Vec<u8>> {
        let mut obus: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for (payload, _) in packets {
            assert!(payload.len() > 1 && payload.len() <= PAYLOAD_SIZE_MAX, "{}", payload.len());
            assert_eq!(payload[0] & obus::CONTINUES != 0, open);
            for (place, element) in obus::elements(payload).enumerate() {
                match obus.last_mut().filter(|_| place == 0 && open) {
                    Some(obu) => obu.extend(element),
                    None => obus.push(element.to_vec()),
                }
            }
            open = payload[0] & obus::CONTINUED != 0;
        }
        assert!(!open);
        obus
    }

    #[test]
    fn any_av1_temporal_unit_comes_back_without_sizes_and_delimiters() {
        let mut rng = Rng::new(12);
        for _ in 0..2_000 {
            let (mut unit, mut wanted) = (vec![0x12, 0], Vec::new());
            for _ in 0..1 + rng.below(6) {
                let length_max = if rng.below(3) == 0 { 8_000 } else { 300 };
                let body = nal(7, 1 + rng.below(length_max) as usize, rng.next_u64());
                let kind = [1, 5, 6, 3, 4][rng.below(5) as usize];
                let extension = rng.below(4) == 0;
                let mut head = vec![kind << 3 | u8::from(extension) << 2];
                head.extend(extension.then_some(0x28));
                wanted.push([&head[..], &body].concat());
                head[0] |= 2;
                unit.extend(head);
                unit.extend([0x80 | (body.len() & 0x7F) as u8, (body.len() >> 7) as u8]);
                unit.extend(body);
            }
            let keyframe = rng.below(2) == 0;
            let mut packets = Vec::new();
            av1(&unit, keyframe, |payload, last| packets.push((payload.to_vec(), last)));
            assert_eq!(obus_of(&packets), wanted);
            assert_eq!(packets.iter().position(|(_, last)| *last), Some(packets.len() - 1));
            let total: usize = wanted.iter().map(|obu| obu.len() + 2).sum();
            assert!(packets.len() <= total.div_ceil(PAYLOAD_SIZE_MAX - 5) + 1, "{} for {total}", packets.len());
            for (place, (payload, _)) in packets.iter().enumerate() {
                assert_eq!(payload[0] & obus::NEW_SEQUENCE != 0, keyframe && place == 0);
            }
        }
        assert!(has_sequence_header(&[0x12, 0, 0x0A, 1, 7]) && !has_sequence_header(&[0x12, 0, 0x32, 1, 7]));
        av1(&[0x12, 0], true, |_, _| panic!("a delimiter alone is no packet"));
        av1(&[], true, |_, _| panic!());
        av1(&[0x32, 9, 1], true, |_, _| panic!("cut off"));
    }

    /// Clips of real encoders (x265, libvpx, libaom; 45 pictures, a keyframe each 15), cut into packets: a picture is
    /// entered at its first packet, at keyframes and nowhere else, and every picture begins once.
    #[test]
    fn real_pictures_are_entered_where_their_encoder_says() {
        use crate::mux::matroska::Clip;
        use crate::wire::payload::{PayloadFacts, facts};
        let clips: [(Codec, &[u8]); 3] = [
            (Codec::H265, include_bytes!("../wire/payload/fixtures/h265.mkv")),
            (Codec::Vp9, include_bytes!("../wire/payload/fixtures/vp9.webm")),
            (Codec::Av1, include_bytes!("../wire/payload/fixtures/av1.mkv")),
        ];
        for (codec, file) in clips {
            let clip = Clip::parse(file).unwrap();
            let video = clip.video.as_ref().unwrap();
            assert_eq!((video.codec, video.width), (codec, 160));
            let frames: Vec<_> = clip.frames.iter().filter(|frame| frame.track == crate::id::Kind::Video).collect();
            assert_eq!((frames.len(), frames.iter().filter(|frame| frame.keyframe).count()), (45, 3));
            let mut fragmented = 0;
            for frame in frames {
                let mut packets: Vec<PayloadFacts> = Vec::new();
                let emit = |payload: &[u8], _: bool| packets.push(facts(codec, payload));
                match codec {
                    Codec::H265 => {
                        let sets = video.parameter_sets.iter().filter(|_| frame.keyframe).map(Vec::as_slice);
                        h265(&sets.chain(video.nals(&frame.data)).collect::<Vec<_>>(), emit);
                    }
                    Codec::Vp9 => super::vp9(&frame.data, frame.keyframe, 7, emit),
                    _ => av1(&frame.data, frame.keyframe, emit),
                }
                fragmented += usize::from(packets.len() > 1);
                let entries: Vec<usize> = (0..packets.len()).filter(|at| packets[*at].keyframe).collect();
                // H265's sets go before.
                let expected: &[usize] = match (frame.keyframe, codec) {
                    (false, _) => &[],
                    (true, Codec::H265) => &[1],
                    (true, _) => &[0],
                };
                assert_eq!(entries, expected, "{codec:?}");
                assert_eq!(packets[0].parameter_sets, frame.keyframe && codec != Codec::Vp9, "{codec:?}");
                assert!(packets[1..].iter().all(|facts| facts.frame_start != Some(true)), "{codec:?}");
                if codec == Codec::Vp9 {
                    assert!(packets[0].frame_start == Some(true) && packets.last().unwrap().frame_end);
                }
            }
            assert!(fragmented >= 3, "{codec:?}: {fragmented} pictures of more than one packet");
        }
    }

    #[test]
    fn a_vp8_frame_comes_back() {
        for length in [1, 1_184, 1_185, 40_000] {
            let mut frame = nal(0x50, length, 9);
            frame[0] = 0x50;
            let (mut back, mut lasts, mut packets) = (Vec::<u8>::new(), Vec::new(), 0);
            vp8(&frame, 0x7ABC, |payload, last| {
                assert!(payload.len() <= PAYLOAD_SIZE_MAX);
                let descriptor = Descriptor::parse(payload).unwrap();
                assert_eq!(descriptor.picture_id, Some(PictureId::Fifteen(0x7ABC)));
                assert_eq!((descriptor.start, descriptor.partition), (packets == 0, 0));
                back.extend(&payload[descriptor.length..]);
                lasts.push(last);
                packets += 1;
            });
            assert_eq!(back, frame);
            assert_eq!(packets, length.div_ceil(1_184));
            assert_eq!(lasts.iter().position(|last| *last), Some(packets - 1));
        }
        vp8(&[], 1, |_, _| panic!("an empty frame is no packet"));
    }

    #[test]
    fn opus_goes_whole_or_not_at_all() {
        let mut seen = 0;
        assert!(opus(&[7; 1_460], |payload, last| seen += usize::from(last) * payload.len()));
        assert_eq!(seen, 1_460);
        assert!(!opus(&[7; 1_461], |_, _| panic!()));
        assert!(!opus(&[], |_, _| panic!()));
    }
}
