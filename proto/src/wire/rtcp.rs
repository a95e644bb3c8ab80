//! RTCP (RFC 3550 section 6, RFC 4585, RFC 5104): compounds read packet by packet, packets written one
//! behind the other. By hand on both sides, so that one view with bounded iterators serves every caller;
//! `tests/referee` compares it with an independent implementation.
//!
//! Reduced-size RTCP (RFC 5506) is read like any compound. What is unknown, or too short for its kind,
//! is `Rtcp::Other`; what breaks the framing ends the compound. Keeps no state.

use crate::limits::LOSSES_PER_NACK_MAX;
use crate::time::NtpTime;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
/// Transport-layer feedback (RFC 4585 section 6.2).
pub(super) const RTPFB: u8 = 205;
/// Payload-specific feedback (RFC 4585 section 6.3).
const PSFB: u8 = 206;
const FORMAT_NACK: u8 = 1;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
pub(super) const FORMAT_TRANSPORT_CC: u8 = 15;
/// Application layer feedback (RFC 4585 section 6.4): REMB is one.
const FORMAT_APPLICATION: u8 = 15;

const BLOCK: usize = 24;
/// The count field has five bits.
const COUNT_MAX: usize = 31;

#[derive(Clone, Debug)]
pub enum Rtcp<'a> {
    SenderReport { ssrc: u32, ntp: NtpTime, rtp: u32, packets: u32, octets: u32, blocks: ReportBlocks<'a> },
    ReceiverReport { ssrc: u32, blocks: ReportBlocks<'a> },
    Nack { sender: u32, media: u32, losses: Losses<'a> },
    Pli { sender: u32, media: u32 },
    Fir { sender: u32, entries: FirEntries<'a> },
    Bye { ssrcs: Ssrcs<'a> },
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Lost of those expected since the last report, in 256ths.
    pub fraction_lost: u8,
    /// 24 bits with a sign; written values are clamped to that.
    pub cumulative_lost: i32,
    /// Highest sequence received, wraps in the upper 16 bits.
    pub sequence_max: u32,
    pub jitter: u32,
    /// Middle of the last sender report's NTP time; 0 for none.
    pub last_sr: u32,
    /// Since then, in 65,536ths of a second.
    pub delay_since_sr: u32,
}

/// The packets of a compound, in order.
pub fn packets(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// Every turn takes at least the four bytes of a packet's head.
#[derive(Clone, Debug)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Rtcp<'a>;

    fn next(&mut self) -> Option<Rtcp<'a>> {
        let rest = std::mem::take(&mut self.rest);
        let [first, kind, l0, l1, ..] = *rest else {
            return None;
        };
        if first >> 6 != 2 {
            return None;
        }
        let length = 4 + 4 * usize::from(u16::from_be_bytes([l0, l1]));
        let (packet, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        let mut body = packet.get(4..)?;
        if first & 0x20 != 0 {
            // RFC 3550 section 6.4.1: the last byte counts the padding, itself included.
            let padding = usize::from(*body.last()?);
            if padding == 0 {
                return Some(Rtcp::Other);
            }
            match body.len().checked_sub(padding) {
                Some(length) => body = body.get(..length)?,
                None => return Some(Rtcp::Other),
            }
        }
        Some(read(kind, first & 0x1F, body).unwrap_or(Rtcp::Other))
    }
}

/// None: too short for its kind.
fn read(kind: u8, count: u8, body: &[u8]) -> Option<Rtcp<'_>> {
    let blocks = |from: usize| Some(ReportBlocks { rest: body.get(from..from + usize::from(count) * BLOCK)? });
    Some(match (kind, count) {
        (SENDER_REPORT, _) => Rtcp::SenderReport {
            ssrc: word(body, 0)?,
            ntp: NtpTime(u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?)),
            rtp: word(body, 12)?,
            packets: word(body, 16)?,
            octets: word(body, 20)?,
            blocks: blocks(24)?,
        },
        (RECEIVER_REPORT, _) => Rtcp::ReceiverReport { ssrc: word(body, 0)?, blocks: blocks(4)? },
        (BYE, _) => Rtcp::Bye { ssrcs: Ssrcs { rest: body.get(..usize::from(count) * 4)? } },
        (RTPFB, FORMAT_NACK) => {
            Rtcp::Nack { sender: word(body, 0)?, media: word(body, 4)?, losses: Losses::new(body.get(8..)?) }
        }
        (PSFB, FORMAT_PLI) => Rtcp::Pli { sender: word(body, 0)?, media: word(body, 4)? },
        // The media SSRC of the head is unused (RFC 5104 section 4.3.1.2).
        (PSFB, FORMAT_FIR) => Rtcp::Fir { sender: word(body, 0)?, entries: FirEntries { rest: body.get(8..)? } },
        _ => Rtcp::Other,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// At most 31 blocks.
#[derive(Clone, Debug)]
pub struct ReportBlocks<'a> {
    rest: &'a [u8],
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (block, rest) = self.rest.split_first_chunk::<BLOCK>()?;
        self.rest = rest;
        let lost = word(block, 4)?;
        Some(ReportBlock {
            ssrc: word(block, 0)?,
            fraction_lost: (lost >> 24) as u8,
            // The lower 24 bits, sign extended.
            cumulative_lost: (lost << 8) as i32 >> 8,
            sequence_max: word(block, 8)?,
            jitter: word(block, 12)?,
            last_sr: word(block, 16)?,
            delay_since_sr: word(block, 20)?,
        })
    }
}

/// Sequence numbers of a NACK (RFC 4585 section 6.2.1): each entry names one and has a bit for each of the
/// 16 behind it. At most `LOSSES_PER_NACK_MAX`.
#[derive(Clone, Debug)]
pub struct Losses<'a> {
    rest: &'a [u8],
    base: u16,
    /// Bits of the current entry that are still to come, the lowest for `base + 1`.
    mask: u16,
    left: usize,
}

impl<'a> Losses<'a> {
    fn new(entries: &'a [u8]) -> Losses<'a> {
        Losses { rest: entries, base: 0, mask: 0, left: LOSSES_PER_NACK_MAX }
    }
}

impl Iterator for Losses<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        if self.mask != 0 {
            let bit = self.mask.trailing_zeros();
            self.mask &= self.mask - 1;
            return Some(self.base.wrapping_add(1 + bit as u16));
        }
        let (entry, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        self.base = u16::from_be_bytes([entry[0], entry[1]]);
        self.mask = u16::from_be_bytes([entry[2], entry[3]]);
        Some(self.base)
    }
}

/// One source a FIR asks a keyframe of; `sequence` stays the same when the request is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirEntry {
    pub media: u32,
    pub sequence: u8,
}

/// Bounded by the datagram: eight bytes each.
#[derive(Clone, Debug)]
pub struct FirEntries<'a> {
    rest: &'a [u8],
}

impl Iterator for FirEntries<'_> {
    type Item = FirEntry;

    fn next(&mut self) -> Option<FirEntry> {
        let (entry, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(FirEntry { media: word(entry, 0)?, sequence: entry[4] })
    }
}

/// At most 31 SSRCs.
#[derive(Clone, Debug)]
pub struct Ssrcs<'a> {
    rest: &'a [u8],
}

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (ssrc, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*ssrc))
    }
}

/// Writes into the front of a buffer; every writer below returns the packet's length, so that the next one
/// can go behind it, and None when it does not fit.
struct Writer<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8], kind: u8, count: u8) -> Option<Writer<'a>> {
        let mut writer = Writer { out, length: 0 };
        writer.bytes(&[0x80 | count, kind, 0, 0])?;
        Some(writer)
    }
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.length..self.length + bytes.len())?.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }
    fn word(&mut self, word: u32) -> Option<()> {
        self.bytes(&word.to_be_bytes())
    }
    fn block(&mut self, block: &ReportBlock) -> Option<()> {
        self.word(block.ssrc)?;
        let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        self.word(u32::from(block.fraction_lost) << 24 | lost)?;
        self.word(block.sequence_max)?;
        self.word(block.jitter)?;
        self.word(block.last_sr)?;
        self.word(block.delay_since_sr)
    }
    /// Pads to whole words and fills in the length field.
    #[allow(clippy::indexing_slicing, reason = "three bytes at most are short of a word")]
    fn finish(mut self) -> Option<usize> {
        let short = self.length.next_multiple_of(4) - self.length;
        self.bytes(&[0; 3][..short])?;
        let words = u16::try_from(self.length / 4 - 1).ok()?;
        self.out.get_mut(2..4)?.copy_from_slice(&words.to_be_bytes());
        Some(self.length)
    }
}

fn count_of(items: usize) -> Option<u8> {
    if items > COUNT_MAX { None } else { u8::try_from(items).ok() }
}

pub fn write_sr(
    out: &mut [u8],
    ssrc: u32,
    ntp: NtpTime,
    rtp: u32,
    packets: u32,
    octets: u32,
    blocks: &[ReportBlock],
) -> Option<usize> {
    let mut writer = Writer::new(out, SENDER_REPORT, count_of(blocks.len())?)?;
    writer.word(ssrc)?;
    writer.bytes(&ntp.0.to_be_bytes())?;
    writer.word(rtp)?;
    writer.word(packets)?;
    writer.word(octets)?;
    blocks.iter().try_for_each(|block| writer.block(block))?;
    writer.finish()
}

pub fn write_rr(out: &mut [u8], ssrc: u32, blocks: &[ReportBlock]) -> Option<usize> {
    let mut writer = Writer::new(out, RECEIVER_REPORT, count_of(blocks.len())?)?;
    writer.word(ssrc)?;
    blocks.iter().try_for_each(|block| writer.block(block))?;
    writer.finish()
}

/// One chunk with a CNAME of at most 255 bytes (RFC 3550 section 6.5.1).
pub fn write_sdes_cname(out: &mut [u8], ssrc: u32, cname: &str) -> Option<usize> {
    const ITEM_CNAME: u8 = 1;
    let mut writer = Writer::new(out, SOURCE_DESCRIPTION, 1)?;
    writer.word(ssrc)?;
    writer.bytes(&[ITEM_CNAME, u8::try_from(cname.len()).ok()?])?;
    writer.bytes(cname.as_bytes())?;
    // The list of items ends with a zero byte, and then to the word.
    writer.bytes(&[0])?;
    writer.finish()
}

pub fn write_pli(out: &mut [u8], sender: u32, media: u32) -> Option<usize> {
    let mut writer = Writer::new(out, PSFB, FORMAT_PLI)?;
    writer.word(sender)?;
    writer.word(media)?;
    writer.finish()
}

/// The bitrate the receiver estimates for all of `media` together (draft-alvestrand-rmcat-remb-03 section 2.2), as a
/// mantissa of 18 bits and an exponent.
pub fn write_remb(out: &mut [u8], sender: u32, bitrate_bps: u64, media: &[u32]) -> Option<usize> {
    let mut writer = Writer::new(out, PSFB, FORMAT_APPLICATION)?;
    writer.word(sender)?;
    writer.word(0)?;
    writer.bytes(b"REMB")?;
    let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
    let mantissa = (bitrate_bps >> exponent) as u32;
    writer.word(u32::from(u8::try_from(media.len()).ok()?) << 24 | exponent << 18 | mantissa)?;
    media.iter().try_for_each(|ssrc| writer.word(*ssrc))?;
    writer.finish()
}

/// `sequence` grows with each new request to `media` (RFC 5104 section 4.3.1.1).
pub fn write_fir(out: &mut [u8], sender: u32, media: u32, sequence: u8) -> Option<usize> {
    let mut writer = Writer::new(out, PSFB, FORMAT_FIR)?;
    writer.word(sender)?;
    writer.word(0)?;
    writer.word(media)?;
    writer.bytes(&[sequence, 0, 0, 0])?;
    writer.finish()
}

pub fn write_bye(out: &mut [u8], ssrcs: &[u32]) -> Option<usize> {
    let mut writer = Writer::new(out, BYE, count_of(ssrcs.len())?)?;
    ssrcs.iter().try_for_each(|ssrc| writer.word(*ssrc))?;
    writer.finish()
}

/// `losses` ascending (they may wrap): then 17 in a row share an entry. Nothing lost: nothing written.
pub fn write_nack(out: &mut [u8], sender: u32, media: u32, losses: &[u16]) -> Option<usize> {
    let Some((first, more)) = losses.split_first() else {
        return Some(0);
    };
    let mut writer = Writer::new(out, RTPFB, FORMAT_NACK)?;
    writer.word(sender)?;
    writer.word(media)?;
    let (mut base, mut mask) = (*first, 0_u16);
    for loss in more {
        match loss.wrapping_sub(base) {
            0 => {}
            distance @ 1..=16 => mask |= 1 << (distance - 1),
            _ => {
                writer.word(u32::from(base) << 16 | u32::from(mask))?;
                (base, mask) = (*loss, 0);
            }
        }
    }
    writer.word(u32::from(base) << 16 | u32::from(mask))?;
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    const BLOCK_1: ReportBlock = ReportBlock {
        ssrc: 1,
        fraction_lost: 255,
        cumulative_lost: -3,
        sequence_max: 0x0001_FFFF,
        jitter: 5,
        last_sr: 6,
        delay_since_sr: 7,
    };
    const BLOCK_2: ReportBlock = ReportBlock { ssrc: 2, cumulative_lost: 0x7F_FFFF, ..BLOCK_1 };

    fn compound() -> Vec<u8> {
        let mut out = [0xAA; 512];
        let mut length = 0;
        length += write_sr(&mut out[length..], 9, NtpTime(0x0102_0304_0506_0708), 10, 11, 12, &[BLOCK_1]).unwrap();
        length += write_sdes_cname(&mut out[length..], 9, "spillway").unwrap();
        length += write_rr(&mut out[length..], 13, &[BLOCK_1, BLOCK_2]).unwrap();
        length += write_nack(&mut out[length..], 14, 15, &[65_534, 65_535, 0, 14, 15, 40]).unwrap();
        length += write_pli(&mut out[length..], 16, 17).unwrap();
        length += write_fir(&mut out[length..], 18, 19, 20).unwrap();
        length += write_bye(&mut out[length..], &[21, 22]).unwrap();
        out[..length].to_vec()
    }

    #[test]
    fn a_compound_of_everything_is_read_back() {
        let bytes = compound();
        let all: Vec<_> = packets(&bytes).collect();
        let [
            Rtcp::SenderReport { ssrc: 9, ntp: NtpTime(0x0102_0304_0506_0708), rtp: 10, packets: 11, octets: 12, blocks },
            Rtcp::Other,
            Rtcp::ReceiverReport { ssrc: 13, blocks: blocks_2 },
            Rtcp::Nack { sender: 14, media: 15, losses },
            Rtcp::Pli { sender: 16, media: 17 },
            Rtcp::Fir { sender: 18, entries },
            Rtcp::Bye { ssrcs },
        ] = &all[..]
        else {
            panic!("{all:?}");
        };
        assert!(blocks.clone().eq([BLOCK_1]));
        assert!(blocks_2.clone().eq([BLOCK_1, BLOCK_2]));
        assert!(losses.clone().eq([65_534, 65_535, 0, 14, 15, 40]), "{:?}", losses.clone().collect::<Vec<_>>());
        assert!(entries.clone().eq([FirEntry { media: 19, sequence: 20 }]));
        assert!(ssrcs.clone().eq([21, 22]));
    }

    #[test]
    fn losses_share_entries_of_seventeen() {
        let mut out = [0; 64];
        let row: Vec<u16> = (100..117).collect();
        assert_eq!(write_nack(&mut out, 1, 2, &row), Some(16), "one entry");
        let row: Vec<u16> = (100..118).collect();
        assert_eq!(write_nack(&mut out, 1, 2, &row), Some(20), "two entries");
        assert_eq!(write_nack(&mut out, 1, 2, &[5, 5]), Some(16), "the same loss twice is one");
        assert_eq!(write_nack(&mut out, 1, 2, &[]), Some(0));
    }

    #[test]
    fn a_nack_of_everything_is_bounded() {
        let mut bytes = vec![0x81, RTPFB, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2];
        for base in 0..500_u16 {
            bytes.extend((base * 17).to_be_bytes());
            bytes.extend([0xFF, 0xFF]);
        }
        let words = (bytes.len() / 4 - 1) as u16;
        bytes[2..4].copy_from_slice(&words.to_be_bytes());
        let Some(Rtcp::Nack { losses, .. }) = packets(&bytes).next() else { panic!() };
        assert_eq!(losses.count(), LOSSES_PER_NACK_MAX);
    }

    #[test]
    fn what_does_not_fit_is_none_at_every_length() {
        let mut out = [0; 128];
        let mut check = |write: &dyn Fn(&mut [u8]) -> Option<usize>| {
            let length = write(&mut out).unwrap();
            for short in 0..length {
                assert_eq!(write(&mut out[..short]), None);
            }
            assert_eq!(write(&mut out[..length]), Some(length));
        };
        check(&|out| write_sr(out, 1, NtpTime(2), 3, 4, 5, &[BLOCK_1]));
        check(&|out| write_rr(out, 1, &[BLOCK_1, BLOCK_2]));
        check(&|out| write_sdes_cname(out, 1, "abcde"));
        check(&|out| write_pli(out, 1, 2));
        check(&|out| write_fir(out, 1, 2, 3));
        check(&|out| write_bye(out, &[1]));
        check(&|out| write_remb(out, 1, 2_500_000, &[2, 3]));
        check(&|out| write_nack(out, 1, 2, &[3, 300]));
        assert_eq!(write_rr(&mut [0; 1024], 1, &[BLOCK_1; 32]), None, "32 blocks have no count");
        assert_eq!(write_bye(&mut [0; 1024], &[1; 32]), None);
        assert_eq!(write_sdes_cname(&mut [0; 1024], 1, &"x".repeat(256)), None);
    }

    #[test]
    fn cumulative_loss_is_clamped_to_its_24_bits() {
        let mut out = [0; 64];
        for (given, kept) in [(i32::MAX, 0x7F_FFFF), (i32::MIN, -0x80_0000), (-1, -1)] {
            let length = write_rr(&mut out, 1, &[ReportBlock { cumulative_lost: given, ..BLOCK_1 }]).unwrap();
            let Some(Rtcp::ReceiverReport { mut blocks, .. }) = packets(&out[..length]).next() else { panic!() };
            let block = blocks.next().unwrap();
            assert_eq!((block.cumulative_lost, block.fraction_lost), (kept, 255));
        }
    }

    #[test]
    fn padding_is_taken_off_the_last_packet() {
        // A NACK of one entry and a word of padding, which must not read as a second entry.
        let mut bytes = vec![0xA1, RTPFB, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2, 0, 9, 0, 0, 0, 0, 0, 4];
        let Some(Rtcp::Nack { losses, .. }) = packets(&bytes).next() else { panic!() };
        assert!(losses.eq([9]));
        for wrong in [0, 17, 255] {
            *bytes.last_mut().unwrap() = wrong;
            assert!(matches!(packets(&bytes).next(), Some(Rtcp::Other)), "padding of {wrong}");
        }
    }

    #[test]
    fn short_packets_are_other_and_broken_framing_ends_the_compound() {
        // A receiver report that counts one block and has none, then a sound PLI.
        let mut bytes = vec![0x81, RECEIVER_REPORT, 0, 1, 0, 0, 0, 1];
        bytes.extend([0x81, PSFB, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert!(matches!(packets(&bytes).collect::<Vec<_>>()[..], [Rtcp::Other, Rtcp::Pli { .. }]));
        bytes[8] = 0x41;
        assert_eq!(packets(&bytes).count(), 1, "version 1");
        bytes[8] = 0x81;
        bytes[11] = 3;
        assert_eq!(packets(&bytes).count(), 1, "longer than the datagram");
    }

    #[test]
    fn damaged_compounds_never_panic() {
        let everything = compound();
        let mut padded = everything.clone();
        padded.extend([0xA0, 204, 0, 2, 0, 0, 0, 1, 0, 0, 0, 4]);
        torture(&[&everything, &padded], |bytes| {
            for packet in packets(bytes) {
                match packet {
                    Rtcp::SenderReport { blocks, .. } | Rtcp::ReceiverReport { blocks, .. } => {
                        assert!(blocks.count() <= COUNT_MAX);
                    }
                    Rtcp::Nack { losses, .. } => assert!(losses.count() <= LOSSES_PER_NACK_MAX),
                    Rtcp::Fir { entries, .. } => assert!(entries.count() * 8 <= bytes.len()),
                    Rtcp::Bye { ssrcs } => assert!(ssrcs.count() <= COUNT_MAX),
                    Rtcp::Pli { .. } | Rtcp::Other => {}
                }
            }
        });
    }
}
