//! Answers to what one viewer lost: which packets it asked for, how often each was answered, and what that may cost.
//!
//! Pure: sequence numbers in, indices out; the packets themselves stand in the reel. Owned by the feed's shard. A
//! viewer's NACK is answered from here or not at all: it never goes upstream.
//!
//! A packet is *asked for* (waits for its turn in fan-out), *answered* a few times at most, or of no interest. Three
//! bounds: `ANSWERS_PER_PACKET_MAX` (`ANSWERS_WITH_CREDIT_MAX` for who asks for little), `ANSWER_INTERVAL` between two
//! answers, and the viewer's `Budget`.

use super::reel::{Slot, SlotMeta};
use super::rewrite::{self, HEADER_BYTES};
use crate::id::Kind;
use crate::limits::{
    ANSWER_INTERVAL, ANSWERS_PER_PACKET_MAX, ANSWERS_WITH_CREDIT_MAX, NACK_LOOKS_MAX, NACK_LOOKS_SPAN, REPLAY_BPS_MAX,
    RESEND_WINDOW_AUDIO, RESEND_WINDOW_VIDEO, RTX_BURST_BYTES_MAX, RTX_BYTES_START, RTX_PERCENT_MAX,
};
use crate::session::record::{FeedRecord, Mapping};
use crate::time::Time;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

/// How far ahead of `REPLAY_BPS_MAX` answers may be, as for a replay: a browser's socket takes that at once.
const BURST: Duration = Duration::from_millis(5);

/// What became of one sequence number in a NACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Its answer waits for the feed's turn.
    Waits,
    /// Answered often enough, or a moment ago.
    TooOften,
    /// Not sent yet, or so long ago that nobody remembers.
    Unknown,
}

/// One feed's packets that were asked for, by SRTP index.
pub struct Resends {
    /// By index modulo the length, a power of two, for `end - length..end`. Empty until something is asked for: most viewers
    /// never lose anything.
    packets: Box<[Asked]>,
    /// Its length once it is not empty.
    window: u16,
    /// One past the newest index.
    end: u64,
    /// How many wait, and that none below `first` does.
    waiting: usize,
    first: u64,
}

/// Bits 0 and 1: answers so far; bit 2: an answer waits; the rest: milliseconds of the last answer's time.
#[derive(Clone, Copy, Default)]
struct Asked(u16);

impl Asked {
    const WAITS: u16 = 4;
    const TIME_BITS: u32 = 13;

    fn answers(self) -> u8 {
        (self.0 & 3) as u8
    }
    fn waits(self) -> bool {
        self.0 & Asked::WAITS != 0
    }
    /// Modulo 8 seconds, which makes a packet of 8 seconds ago one of now: it is refused once more than it had to be.
    fn since_answer(self, now: Time) -> Duration {
        let elapsed = millis(now).wrapping_sub(self.0 >> 3) & ((1 << Asked::TIME_BITS) - 1);
        Duration::from_millis(u64::from(elapsed))
    }
}

const _: () = assert!(ANSWERS_PER_PACKET_MAX <= ANSWERS_WITH_CREDIT_MAX && ANSWERS_WITH_CREDIT_MAX <= 3, "two bits");
const _: () = assert!(RESEND_WINDOW_VIDEO <= u16::MAX as usize && RESEND_WINDOW_AUDIO <= u16::MAX as usize);
const _: () = assert!(RESEND_WINDOW_VIDEO.is_power_of_two() && RESEND_WINDOW_AUDIO.is_power_of_two());

fn millis(now: Time) -> u16 {
    (now.as_nanos() / 1_000_000) as u16 & ((1 << Asked::TIME_BITS) - 1)
}

impl Resends {
    /// Takes its memory with the first packet that is asked for.
    pub fn new(kind: Kind) -> Resends {
        let window = match kind {
            Kind::Video => RESEND_WINDOW_VIDEO,
            Kind::Audio => RESEND_WINDOW_AUDIO,
        };
        Resends { packets: Box::default(), window: window as u16, end: 0, waiting: 0, first: 0 }
    }

    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// The viewer misses `sequence`. `sent` is one more than the largest index this feed ever sent, `answers_max`
    /// what the viewer's budget says.
    pub fn ask(&mut self, now: Time, sent: u64, sequence: u16, answers_max: u8) -> Ask {
        let Some(index) = index_before(sent, sequence) else { return Ask::Unknown };
        if self.end.max(sent) - index > u64::from(self.window) {
            return Ask::Unknown;
        }
        if self.packets.is_empty() {
            self.packets = vec![Asked::default(); usize::from(self.window)].into_boxed_slice();
            self.end = sent;
        }
        self.advance(sent);
        let asked = self.at(index);
        if asked.waits() {
            return Ask::Waits;
        }
        let answers = asked.answers();
        if answers >= answers_max || (answers > 0 && asked.since_answer(now) < ANSWER_INTERVAL) {
            return Ask::TooOften;
        }
        self.at(index).0 |= Asked::WAITS;
        self.first = if self.waiting == 0 { index } else { self.first.min(index) };
        self.waiting += 1;
        Ask::Waits
    }

    /// The lowest index from `from` on whose answer waits.
    pub fn next(&mut self, from: u64) -> Option<u64> {
        if self.waiting == 0 {
            return None;
        }
        let begin = from.max(self.first);
        let found = (begin..self.end).find(|index| self.at(*index).waits());
        if begin == self.first {
            self.first = found.unwrap_or(self.end);
        }
        found
    }

    /// An answer went out.
    pub fn answered(&mut self, index: u64, now: Time) {
        let answers = u16::from(self.at(index).answers()) + 1;
        self.forget(index);
        self.at(index).0 = answers.min(3) | millis(now) << 3;
    }

    /// There is no answer: the viewer may ask again.
    pub fn forget(&mut self, index: u64) {
        self.waiting -= usize::from(self.at(index).waits());
        self.at(index).0 &= !Asked::WAITS;
    }

    fn at(&mut self, index: u64) -> &mut Asked {
        let mask = self.packets.len() - 1;
        &mut self.packets[index as usize & mask]
    }

    /// Places that come into the window are empty; at most one window's length of work.
    fn advance(&mut self, end: u64) {
        for index in self.end.max(end.saturating_sub(self.packets.len() as u64))..end {
            self.forget(index);
            *self.at(index) = Asked::default();
        }
        self.end = self.end.max(end);
        self.first = self.first.max(self.end.saturating_sub(self.packets.len() as u64));
    }
}

/// The index below `sent` that ends in `sequence` and is nearest to it.
fn index_before(sent: u64, sequence: u16) -> Option<u64> {
    let newest = sent.checked_sub(1)?;
    newest.checked_sub(u64::from((newest as u16).wrapping_sub(sequence)))
}

/// How an answer goes out: `Sealer::seal_into` takes these as they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    pub header: [u8; HEADER_BYTES],
    /// The original sequence number (RFC 4588 section 4), for retransmissions of their own.
    pub prefix: Option<[u8; 2]>,
    pub index: u64,
}

/// The answer that carries `slot` to the viewer again, as `mapping` sent it (`rewrite::sent_as`): where it negotiated retransmissions for the codec, in a
/// stream of their own whose index is taken here, before the seal; else the very bytes of the first time.
pub fn answer(feed: &mut FeedRecord, mapping: &Mapping, slot: &SlotMeta) -> Option<Answer> {
    let (mut header, index) = rewrite::header_in(feed, mapping, slot)?;
    let Some(payload_type) = rtx_payload_type(feed, slot) else { return Some(Answer { header, prefix: None, index }) };
    let own = feed.rtx_index.load(Relaxed);
    feed.rtx_index.store(own + 1, Release);
    // RFC 4588 section 4: without the original's padding; sequence number and SSRC are the retransmission's own, marker and timestamp the original's.
    let original = [header[2], header[3]];
    header[0] &= !rewrite::PADDED;
    header[1] = header[1] & 0x80 | payload_type;
    header[2..4].copy_from_slice(&(own as u16).to_be_bytes());
    header[8..12].copy_from_slice(&feed.rtx_ssrc.to_be_bytes());
    Some(Answer { header, prefix: Some(original), index: own })
}

/// What an answer has behind its header, in bytes.
pub fn body_len(feed: &FeedRecord, slot: &Slot<'_>) -> usize {
    if rtx_payload_type(feed, &slot.meta).is_some() { 2 + slot.payload.len() } else { slot.padded.len() }
}

fn rtx_payload_type(feed: &FeedRecord, slot: &SlotMeta) -> Option<u8> {
    let payload_type = *feed.rtx_payload_types.get(slot.codec as usize)?;
    ((1..0x80).contains(&payload_type) && feed.rtx_ssrc != 0).then_some(payload_type)
}

/// What one viewer's answers may cost: `RTX_PERCENT_MAX` of what was sent to it, and a little to begin with; their
/// pace; and how many sequence numbers of its NACKs are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// In hundredths of a byte.
    credit: u64,
    /// When all answers so far would have gone out at exactly `REPLAY_BPS_MAX`.
    paid_until: Time,
    looks: usize,
    looks_until: Time,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { credit: RTX_BYTES_START * 100, paid_until: Time::ZERO, looks: 0, looks_until: Time::ZERO }
    }
}

impl Budget {
    /// So many bytes of media were sent.
    pub fn earn(&mut self, bytes: usize) {
        self.credit = (self.credit + bytes as u64 * RTX_PERCENT_MAX).min(RTX_BURST_BYTES_MAX * 100);
    }

    pub fn covers(&self, bytes: usize) -> bool {
        self.credit >= bytes as u64 * 100
    }

    /// How often one packet may be answered.
    pub fn answers_max(&self) -> u8 {
        if self.credit > RTX_BYTES_START * 100 { ANSWERS_WITH_CREDIT_MAX } else { ANSWERS_PER_PACKET_MAX }
    }

    /// So many bytes of answers went out.
    pub fn spend(&mut self, now: Time, bytes: usize) {
        self.credit = self.credit.saturating_sub(bytes as u64 * 100);
        let nanos = bytes as u64 * 8 * 1_000_000_000 / REPLAY_BPS_MAX;
        self.paid_until = self.paid_until.max(now) + Duration::from_nanos(nanos);
    }

    /// When the next answer may go: a burst of losses is not healed by a burst.
    pub fn due(&self) -> Time {
        self.paid_until - BURST
    }

    /// May another sequence number of a NACK be looked at?
    pub fn look(&mut self, now: Time) -> bool {
        if now >= self.looks_until {
            (self.looks, self.looks_until) = (NACK_LOOKS_MAX, now + NACK_LOOKS_SPAN);
        }
        let left = self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        left
    }
}

#[cfg(test)]
mod tests;
