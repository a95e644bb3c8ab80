//! Frames into RTP payloads, for publishers of our own. Sans-IO: payloads go to a callback, headers, time and
//! sending are the caller's.
//!
//! Payloads are at most `PAYLOAD_SIZE_MAX` long. What must be cut is cut into parts that differ by at most one
//! byte, so that they travel as one run of equal segments.
//!
//! `emit(payload, last)`: `last` is true for the last packet of the frame (its marker bit).

use crate::limits::{PACKET_SIZE_MAX, PAYLOAD_SIZE_MAX};
use crate::wire::payload::h264::{FU_A, STAP_A};
use crate::wire::rtp::RTP_HEADER_BYTES;

/// One access unit as its NAL units, without start codes or length prefixes (RFC 6184, packetization mode 1).
/// Neighbours that fit into one packet together share a STAP-A, as SPS, PPS and SEI do; larger units go as
/// FU-A. Empty units are passed over.
pub fn h264(nals: &[&[u8]], mut emit: impl FnMut(&[u8], bool)) {
    let mut packet = [0; PAYLOAD_SIZE_MAX];
    let mut rest = nals;
    while let Some((nal, more)) = rest.split_first() {
        let together = aggregate(rest, &mut packet);
        let after = if together.units > 1 { rest.get(together.units..).unwrap_or_default() } else { more };
        let last = after.iter().all(|nal| nal.is_empty());
        if together.units > 1 {
            emit(&packet[..together.length], last);
        } else if nal.len() <= PAYLOAD_SIZE_MAX {
            if !nal.is_empty() {
                emit(nal, last);
            }
        } else {
            fragment(nal, &mut packet, last, &mut emit);
        }
        rest = after;
    }
}

struct Together {
    units: usize,
    length: usize,
}

/// Puts as many units from the front as fit into a STAP-A (RFC 6184 section 5.7.1).
fn aggregate(nals: &[&[u8]], packet: &mut [u8; PAYLOAD_SIZE_MAX]) -> Together {
    let mut together = Together { units: 0, length: 1 };
    let mut header = STAP_A;
    for nal in nals {
        let Some(first) = nal.first() else { break };
        let Ok(size) = u16::try_from(nal.len()) else { break };
        let Some(room) = packet.get_mut(together.length..together.length + 2 + nal.len()) else { break };
        room[..2].copy_from_slice(&size.to_be_bytes());
        room[2..].copy_from_slice(nal);
        together.units += 1;
        together.length += room.len();
        // The F bit of any, the highest NRI of all (RFC 6184 section 5.7).
        header |= first & 0x80;
        header = header & !0x60 | (header & 0x60).max(first & 0x60);
    }
    packet[0] = header;
    together
}

/// FU-A (RFC 6184 section 5.8): the unit's header byte is spread over indicator and FU header.
fn fragment(nal: &[u8], packet: &mut [u8; PAYLOAD_SIZE_MAX], last: bool, emit: &mut impl FnMut(&[u8], bool)) {
    let Some((header, body)) = nal.split_first() else { return };
    let parts = body.len().div_ceil(PAYLOAD_SIZE_MAX - 2);
    for (number, part) in even_parts(body, parts).enumerate() {
        let (start, end) = (number == 0, number + 1 == parts);
        packet[0] = header & 0xE0 | FU_A;
        packet[1] = u8::from(start) << 7 | u8::from(end) << 6 | header & 0x1F;
        packet[2..2 + part.len()].copy_from_slice(part);
        emit(&packet[..2 + part.len()], last && end);
    }
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
                STAP_A => {
                    let mut rest = &payload[1..];
                    while let [s0, s1, more @ ..] = rest {
                        let (unit, after) = more.split_at(usize::from(u16::from_be_bytes([*s0, *s1])));
                        units.push(unit.to_vec());
                        rest = after;
                    }
                }
                FU_A => {
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
            assert!(!open || payload[0] & 0x1F == FU_A);
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
        assert_eq!(facts::facts(&packets[0].0), PayloadFacts { parameter_sets: true, ..PayloadFacts::NONE });
        assert_eq!(facts::facts(&packets[1].0), PayloadFacts { keyframe: true, ..PayloadFacts::NONE });
        assert!(packets[2..].iter().all(|(payload, _)| facts::facts(payload) == PayloadFacts::default()));
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
