//! Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1): which packets of a
//! transport arrived, and when. Written only: it goes from a receiver of media to its sender.
//!
//! ```text
//!  |V=2|P|  FMT=15 |    PT=205     |            length             |
//!  |                       SSRC of the sender                      |
//!  |                    SSRC of a media source                     |
//!  |     base sequence number      |     packet status count       |
//!  |               reference time (64 ms)          |  fb pkt count |
//!  |   chunks of statuses, 16 bits each, then the deltas ...       |
//! ```
//!
//! It must be the last packet of its compound: where it does not end at a word it is padded.
//! A delta is one byte (0 to 63.75 ms) or two (with a sign), in units of 250 us.

use super::rtcp::{FORMAT_TRANSPORT_CC, RTPFB};

/// Statuses of one packet: with every delta two bytes long that is less than 1,000 bytes.
pub const STATUSES_MAX: usize = 400;

const NOT_RECEIVED: u8 = 0;
const SMALL_DELTA: u8 = 1;
const LARGE_DELTA: u8 = 2;
/// Section 3.1.3: a run's length has 13 bits.
const RUN_MAX: usize = (1 << 13) - 1;
/// Statuses of a vector chunk: of one bit, and of two bits each (section 3.1.4).
const ONE_BIT: usize = 14;
const TWO_BIT: usize = 7;
const DELTA_NS: u64 = 250_000;
/// Deltas in one unit of the reference time: 64 ms.
const DELTAS_PER_REFERENCE: u64 = 256;

/// Writes a packet about `base` and what follows it: `arrival_of(n)` is when packet `base + n` arrived, in nanoseconds,
/// or None while it has not. Covers at most `count` packets; returns the packet's length and how many it covers: fewer
/// where a gap in time does not fit a delta. None if `out` is too short, or none of them arrived.
pub fn write_feedback(
    out: &mut [u8],
    (sender, media): (u32, u32),
    number: u8,
    base: u16,
    count: usize,
    arrival_of: impl Fn(usize) -> Option<u64>,
) -> Option<(usize, usize)> {
    let count = count.min(STATUSES_MAX);
    let first = (0..count).find_map(&arrival_of)? / DELTA_NS;
    let reference = first / DELTAS_PER_REFERENCE;
    let mut symbols = [NOT_RECEIVED; STATUSES_MAX];
    let mut deltas = [0i16; STATUSES_MAX];
    let mut before = reference * DELTAS_PER_REFERENCE;
    let mut covered = 0;
    for (n, (symbol, place)) in symbols.iter_mut().zip(&mut deltas).take(count).enumerate() {
        if let Some(arrival) = arrival_of(n) {
            let at = arrival / DELTA_NS;
            let Ok(delta) = i16::try_from(at.wrapping_sub(before) as i64) else { break };
            *symbol = if (0..=0xFF).contains(&delta) { SMALL_DELTA } else { LARGE_DELTA };
            (*place, before) = (delta, at);
        }
        covered = n + 1;
    }
    let symbols = symbols.get(..covered)?;

    let mut writer = Writer { out, length: 0 };
    writer.bytes(&[0x80 | FORMAT_TRANSPORT_CC, RTPFB, 0, 0])?;
    writer.bytes(&sender.to_be_bytes())?;
    writer.bytes(&media.to_be_bytes())?;
    writer.bytes(&base.to_be_bytes())?;
    writer.bytes(&(covered as u16).to_be_bytes())?;
    // The reference time has 24 bits and wraps.
    let [_, r0, r1, r2] = (reference as u32).to_be_bytes();
    writer.bytes(&[r0, r1, r2, number])?;
    let mut rest = symbols;
    while !rest.is_empty() {
        let (chunk, taken) = chunk_of(rest);
        writer.bytes(&chunk.to_be_bytes())?;
        rest = rest.get(taken..)?;
    }
    for (symbol, delta) in symbols.iter().zip(&deltas) {
        match *symbol {
            SMALL_DELTA => writer.bytes(&[*delta as u8])?,
            LARGE_DELTA => writer.bytes(&delta.to_be_bytes())?,
            _ => {}
        }
    }
    // RFC 3550 section 6.4.1: the last byte counts the padding. It is allowed because nothing follows this packet.
    let short = writer.length.next_multiple_of(4) - writer.length;
    for left in (1..=short).rev() {
        writer.bytes(&[if left == 1 { short as u8 } else { 0 }])?;
    }
    if short > 0 {
        *writer.out.first_mut()? |= 0x20;
    }
    let words = u16::try_from(writer.length / 4 - 1).ok()?;
    writer.out.get_mut(2..4)?.copy_from_slice(&words.to_be_bytes());
    Some((writer.length, covered))
}

/// The chunk that says most of what comes next, and how many statuses it takes.
fn chunk_of(symbols: &[u8]) -> (u16, usize) {
    let symbol = symbols.first().copied().unwrap_or(NOT_RECEIVED);
    let run = symbols.iter().take(RUN_MAX).take_while(|other| **other == symbol).count();
    let no_large = symbols.iter().take(ONE_BIT).all(|symbol| *symbol != LARGE_DELTA);
    let vector = if no_large { ONE_BIT } else { TWO_BIT };
    if run >= vector || run == symbols.len() {
        return (u16::from(symbol) << 13 | run as u16, run);
    }
    let bits = if no_large { 1 } else { 2 };
    let taken = vector.min(symbols.len());
    // Places beyond the last status stay zero: the receiver counts them.
    let packed = symbols.iter().take(vector).enumerate().fold(0u16, |packed, (n, symbol)| {
        packed | u16::from(*symbol) << (14 - bits * (n + 1))
    });
    (1 << 15 | u16::from(!no_large) << 14 | packed, taken)
}

struct Writer<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.length..self.length + bytes.len())?.copy_from_slice(bytes);
        self.length += bytes.len();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn feedback(arrivals: &[Option<u64>]) -> (Vec<u8>, usize) {
        let mut out = [0; 1_200];
        let arrival_of = |n: usize| arrivals.get(n).copied().flatten();
        let (length, covered) = write_feedback(&mut out, (1, 2), 3, 65_534, arrivals.len(), arrival_of).unwrap();
        (out[..length].to_vec(), covered)
    }

    /// By hand, from the draft's pictures.
    #[test]
    fn the_layout_is_the_drafts() {
        // 1 s is 15 units of 64 ms and 40 ms, which are 160 deltas; then 5 ms; one lost; then 100 ms.
        let (bytes, covered) = feedback(&[Some(1_000 * MS), Some(1_005 * MS), None, Some(1_105 * MS)]);
        assert_eq!(covered, 4);
        let head = [0xAF, 205, 0, 6, 0, 0, 0, 1, 0, 0, 0, 2, 0xFF, 0xFE, 0, 4, 0, 0, 15, 3];
        assert_eq!(bytes[..20], head);
        // Two-bit vector: small, small, none, large.
        assert_eq!(bytes[20..22], [0b1101_0100, 0b1000_0000]);
        assert_eq!(bytes[22..26], [160, 20, 0x01, 0x90], "400 deltas of 250 us are 100 ms");
        assert_eq!(bytes[26..], [0, 2], "to the word");
    }

    #[test]
    fn runs_and_vectors_of_one_bit_save_bytes() {
        let all: Vec<_> = (0..100).map(|n| Some(n * MS)).collect();
        let (bytes, _) = feedback(&all);
        assert_eq!(bytes[20..22], [0x20, 100], "one run of small deltas");
        let gaps: Vec<_> = (0..28).map(|n| (n % 3 != 0).then_some(n * MS)).collect();
        let (bytes, _) = feedback(&gaps);
        assert_eq!(bytes[20] >> 6, 0b10);
        assert_eq!(bytes[22] >> 6, 0b10, "28 statuses are two vectors");
        assert_eq!(bytes.len(), (24 + 18usize).next_multiple_of(4));
    }

    #[test]
    fn a_gap_in_time_beyond_a_delta_ends_the_packet() {
        let (_, covered) = feedback(&[Some(0), Some(8_191 * MS), Some(16_390 * MS)]);
        assert_eq!(covered, 2, "32,767 deltas are 8.19 s");
        let (_, covered) = feedback(&[Some(9_000 * MS), Some(1_000 * MS), Some(500 * MS)]);
        assert_eq!(covered, 3, "back by 8 s: two bytes with a sign");
    }

    #[test]
    fn what_does_not_fit_is_none_at_every_length() {
        let write = |out: &mut [u8]| write_feedback(out, (1, 2), 3, 0, 40, |n| (n % 5 != 1).then_some(n as u64 * 70 * MS));
        let mut out = [0; 512];
        let (length, _) = write(&mut out).unwrap();
        for short in 0..length {
            assert_eq!(write(&mut out[..short]), None);
        }
        assert_eq!(write_feedback(&mut out, (1, 2), 3, 0, 40, |_| None), None, "nothing arrived");
    }
}
