//! Intake of one track: from a publisher's packet numbers to the reel's, with the account of its arrival.
//!
//! Owned by the publisher's shard. It says which index, timestamp and flags a packet has in the reel, and counts
//! what a receiver report tells (RFC 3550 section 6.4.1). It stores no packet and sends nothing.
//!
//! States: *anchored* (offsets are known) or *not anchored* (new, or after `takeover`). The next packet anchors: a
//! new track at `FIRST_INDEX`, a taken-over one at the head, its timestamp going on as if the clock had run through.

use super::feedback::SrMapping;
use super::numbering::Numbering;
use super::reel::{SlotFlags, SlotMeta};
use super::sizes::Sizes;
use crate::id::{Codec, Kind};
use crate::limits::REEL_SLOTS;
use crate::time::{NtpTime, Time};
use crate::wire::payload::PayloadFacts;
use crate::wire::rtcp::ReportBlock;
use std::time::Duration;
use thiserror::Error;

/// The first index of a track: packets that were sent before the first one that arrived have a place.
pub const FIRST_INDEX: u64 = 128;

/// An index has 48 bits, as an SRTP index has.
const INDEX_MASK: u64 = (1 << 48) - 1;
const SLOTS: u64 = REEL_SLOTS as u64;
const WORDS: usize = REEL_SLOTS / 64;
/// A transit time that jumps by more than this is a publisher's new clock, not jitter.
const JITTER_JUMP: Duration = Duration::from_secs(5);
/// A new publisher's first timestamp is at least this much after the last: never the same picture.
const TAKEOVER_GAP_MIN: Duration = Duration::from_millis(1);

/// A packet the reel shall take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// First to be pushed, where there is one: the parameter sets that stood only in SDP, as a packet of their own.
    pub sets: Option<SlotMeta>,
    pub meta: SlotMeta,
    /// After the push: `ReelWriter::set_keyframe` with this index. It is the first packet of an entry picture, which
    /// may be an earlier one: an SPS becomes the entry once the IDR with its timestamp follows.
    pub entry: Option<u64>,
    /// True with the first `entry` of a picture: a keyframe arrived.
    pub entry_is_new: bool,
    /// Of the newest entry picture.
    pub of_entry: bool,
}

/// Why a packet is dropped before the reel.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum IntakeError {
    #[error("the packet came before: drop the copy")]
    Duplicate,
    #[error("the packet is older than what the reel keeps, or from before a takeover: drop it")]
    TooLate,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IntakeStats {
    pub packets: u64,
    pub bytes: u64,
    pub frames: u64,
    /// Entry pictures.
    pub keyframes: u64,
    /// Between the arrivals of the last two entry pictures; 0 before the second.
    pub keyframe_interval_ms: u32,
    pub duplicates: u64,
    pub too_late: u64,
}

pub struct Intake {
    codec: Codec,
    layer: u8,
    anchored: bool,
    numbering: Numbering,
    timestamp_offset: u32,
    /// The description has parameter sets, and no packet has brought any: keyframes get them from there.
    adds_sets: bool,
    /// One past the newest index.
    head: u64,
    /// Nothing below belongs to the present publisher.
    floor: u64,
    /// The first one seen was its publisher's first, as far as one can tell.
    began: bool,
    /// The head packet's.
    head_timestamp: u32,
    head_arrival: Time,
    /// By index modulo REEL_SLOTS, for head - REEL_SLOTS..head: the packet came; it had the marker bit.
    received: Box<[u64; WORDS]>,
    marked: Box<[u64; WORDS]>,
    picture: Picture,
    sizes: Sizes,
    reception: Reception,
    stats: IntakeStats,
}

/// Where the present entry picture begins.
#[derive(Clone, Copy, Default)]
struct Picture {
    /// Timestamp and first index of the newest parameter sets that no keyframe followed yet.
    provisional: Option<(u32, u64)>,
    /// Timestamp and first index of the newest entry picture.
    entry: Option<(u32, u64)>,
    entry_arrival: Option<Time>,
}

/// The account of one publisher's packets, for its receiver reports.
#[derive(Clone, Copy, Default)]
struct Reception {
    started: bool,
    source_first: u64,
    source_max: u64,
    received: u64,
    /// Came in a retransmission of their own: not lost for viewers, lost on the way for the publisher.
    resent: u64,
    expected_prior: u64,
    received_prior: u64,
    transit: Option<u32>,
    /// In 1/16 of a timestamp unit.
    jitter: u64,
    sr: Option<(NtpTime, Time)>,
}

impl Intake {
    pub fn new(codec: Codec, layer: u8) -> Intake {
        Intake {
            codec,
            layer,
            anchored: false,
            numbering: Numbering::default(),
            timestamp_offset: 0,
            adds_sets: false,
            head: 0,
            floor: 0,
            began: true,
            head_timestamp: 0,
            head_arrival: Time::ZERO,
            received: Box::new([0; WORDS]),
            marked: Box::new([0; WORDS]),
            picture: Picture::default(),
            sizes: Sizes::default(),
            reception: Reception::default(),
            stats: IntakeStats::default(),
        }
    }

    /// Takes note of a packet. `source_index` is the publisher's 48-bit SRTP index, of an authenticated packet.
    pub fn accept(
        &mut self,
        now: Time,
        source_index: u64,
        timestamp: u32,
        marker: bool,
        facts: PayloadFacts,
        payload_size: usize,
    ) -> Result<Accepted, IntakeError> {
        let source_index = source_index & INDEX_MASK;
        if !self.anchored {
            self.anchor(now, source_index, timestamp, &facts);
        }
        // Below zero comes out as something huge, which the mask's bound refuses.
        let index = self.numbering.index_of(source_index).unwrap_or(u64::MAX);
        if index < self.floor || index >= INDEX_MASK || (index < self.head && self.head - index > SLOTS) {
            self.stats.too_late += 1;
            return Err(IntakeError::TooLate);
        }
        if index < self.head && bit(&self.received, index) {
            self.stats.duplicates += 1;
            return Err(IntakeError::Duplicate);
        }
        let timestamp = timestamp.wrapping_add(self.timestamp_offset);
        let mut facts = facts;
        let mut frame_start = facts.frame_start.unwrap_or_else(|| self.starts_frame(index, timestamp));
        if index >= self.head {
            self.stats.frames += u64::from(frame_start || timestamp != self.head_timestamp);
        }
        let sets = self.sets_before(now, index, source_index, timestamp, frame_start, &mut facts);
        let index = sets.map_or(index, |sets| sets.index + 1);
        frame_start &= sets.is_none();
        if index >= self.head {
            self.advance(index + 1);
            self.head_timestamp = timestamp;
            self.head_arrival = now;
        }
        set_bit(&mut self.received, index);
        if marker {
            set_bit(&mut self.marked, index);
        }
        self.reception.on_packet(now, source_index, timestamp, self.codec.clock_rate(), index + 1 == self.head);
        self.stats.packets += 1;
        self.stats.bytes += payload_size as u64;

        let video = self.codec.kind() == Kind::Video;
        // RFC 7587 section 4.2: a packet is a whole Opus frame.
        let frame_end = marker || facts.frame_end || !video;
        let in_order = index + 1 == self.head;
        let padded = video && in_order && self.sizes.pads(timestamp, payload_size, frame_start && frame_end);
        let flags = SlotFlags::NONE
            .with_if(frame_start, SlotFlags::FRAME_START)
            .with_if(frame_end, SlotFlags::FRAME_END)
            .with_if(padded, SlotFlags::PADDED)
            .with_if(marker, SlotFlags::MARKER)
            .with_if(facts.parameter_sets, SlotFlags::PARAMETER_SETS)
            .with_if(facts.picture_sets, SlotFlags::PICTURE_SETS);
        let meta = SlotMeta { index, timestamp, arrival: now, flags, codec: self.codec, layer: self.layer };
        let (entry, entry_is_new) = if video { self.picture.on_packet(index, timestamp, facts) } else { (None, false) };
        if entry_is_new {
            self.on_keyframe(now);
        }
        let of_entry = self.picture.entry.is_some_and(|(of, _)| of == timestamp);
        Ok(Accepted { sets, meta, entry, entry_is_new, of_entry })
    }

    /// The description had parameter sets (true), for keyframes that come without.
    pub fn add_sets(&mut self, has_sets: bool) {
        self.adds_sets = has_sets;
    }

    /// A place for the parameter sets before a keyframe's first packet, which then moves up by one.
    fn sets_before(
        &mut self,
        now: Time,
        index: u64,
        source_index: u64,
        timestamp: u32,
        frame_start: bool,
        facts: &mut PayloadFacts,
    ) -> Option<SlotMeta> {
        // Who sends them once sends them always, and may change them: then the description's are out of date.
        self.adds_sets &= !facts.parameter_sets;
        if !self.adds_sets || !facts.keyframe || index + 1 >= INDEX_MASK {
            return None;
        }
        if index < self.head {
            // The next packets have their places already: nothing can be put between. Without sets it is no entry.
            facts.keyframe = false;
            return None;
        }
        self.numbering.add_before(source_index);
        self.advance(index + 1);
        set_bit(&mut self.received, index);
        let flags = SlotFlags::PARAMETER_SETS.with_if(frame_start, SlotFlags::FRAME_START);
        let sets = PayloadFacts { parameter_sets: true, ..PayloadFacts::NONE };
        self.picture.on_packet(index, timestamp, sets);
        Some(SlotMeta { index, timestamp, arrival: now, flags, codec: self.codec, layer: self.layer })
    }

    /// Another publisher feeds the track from the next packet on: it goes on at the head without a hole.
    /// What it codes may be another codec of the same kind.
    pub fn takeover(&mut self, codec: Codec) {
        self.codec = codec;
        self.anchored = false;
        self.adds_sets = false;
        self.picture.provisional = None;
        self.picture.entry = None;
        self.reception = Reception::default();
    }

    /// A sender report of the publisher. What the reel shall say of it; None before the first packet.
    pub fn on_sender_report(&mut self, now: Time, ntp: NtpTime, timestamp: u32) -> Option<SrMapping> {
        self.reception.sr = Some((ntp, now));
        self.anchored.then_some(SrMapping {
            ntp,
            timestamp: timestamp.wrapping_add(self.timestamp_offset),
            arrival: now,
        })
    }

    /// The next receiver report's block about `ssrc`; None while no packet came.
    pub fn report_block(&mut self, now: Time, ssrc: u32) -> Option<ReportBlock> {
        self.reception.report_block(now, ssrc)
    }

    /// The packet accepted last came in a retransmission (RFC 4588): reports on the stream itself go on counting it as
    /// lost, which is what the publisher's rate control must know.
    pub fn on_retransmission(&mut self) {
        self.reception.received = self.reception.received.saturating_sub(1);
        self.reception.resent += 1;
    }

    /// The newest index of the present publisher; None before its first packet.
    pub fn source_newest(&self) -> Option<u64> {
        self.reception.started.then_some(self.reception.source_max)
    }

    pub fn stats(&self) -> IntakeStats {
        self.stats
    }
    /// Of the present publisher's packets, since its first: how many it sent, and how many never arrived.
    pub fn expected_and_lost(&self) -> (u64, u64) {
        self.reception.expected_and_lost()
    }
    /// Reel index = source index + this, modulo 2^64, for the newest packets: for the track's record.
    pub fn index_offset(&self) -> u64 {
        self.numbering.offset()
    }
    /// The publisher's number of a packet in the reel; None for one of our own.
    pub fn source_of(&self, index: u64) -> Option<u64> {
        self.numbering.source_of(index)
    }
    /// Reel timestamp = source timestamp + this.
    pub fn timestamp_offset(&self) -> u32 {
        self.timestamp_offset
    }
    /// When the newest packet in sequence arrived; None before the first.
    pub fn last_arrival(&self) -> Option<Time> {
        (self.head > 0).then_some(self.head_arrival)
    }

    fn anchor(&mut self, now: Time, source_index: u64, timestamp: u32, facts: &PayloadFacts) {
        let first = self.head == 0;
        self.began = !self.overtook(facts);
        if first {
            self.advance(FIRST_INDEX);
        } else {
            let elapsed = now.since(self.head_arrival).max(TAKEOVER_GAP_MIN);
            let expected = self.head_timestamp.wrapping_add(ticks(elapsed, self.codec.clock_rate()));
            self.timestamp_offset = expected.wrapping_sub(timestamp);
            self.floor = self.head;
        }
        self.numbering.anchor(source_index, self.head);
        self.anchored = true;
    }

    /// Whether others went before this packet: it says that it is the middle of a picture, or it is a keyframe whose
    /// parameter sets are missing.
    fn overtook(&self, facts: &PayloadFacts) -> bool {
        let has_sets = matches!(self.codec, Codec::H264 | Codec::H265);
        let lacks_sets = has_sets && facts.keyframe && !facts.parameter_sets && !self.adds_sets;
        lacks_sets || facts.frame_start == Some(false)
    }

    /// First packet of a frame: all of audio; of video what follows a marker or, right after its predecessor, has a
    /// new timestamp. Behind a gap nobody knows, and it is none.
    fn starts_frame(&self, index: u64, timestamp: u32) -> bool {
        if self.codec.kind() == Kind::Audio {
            return true;
        }
        if index == self.floor || self.stats.packets == 0 {
            return self.began;
        }
        let Some(before) = index.checked_sub(1) else { return true };
        let remembered = before < self.head && self.head - before <= SLOTS;
        (remembered && bit(&self.marked, before)) || (index == self.head && timestamp != self.head_timestamp)
    }

    /// Moves the head; the places that come into the window are empty.
    fn advance(&mut self, head: u64) {
        let from = self.head.max(head.saturating_sub(SLOTS));
        for index in from..head {
            clear_bit(&mut self.received, index);
            clear_bit(&mut self.marked, index);
        }
        self.head = head;
    }

    fn on_keyframe(&mut self, now: Time) {
        self.stats.keyframes += 1;
        if let Some(before) = self.picture.entry_arrival.replace(now) {
            self.stats.keyframe_interval_ms = u32::try_from(now.since(before).as_millis()).unwrap_or(u32::MAX);
        }
    }
}

impl Picture {
    /// The entry to set after this packet, and whether it is a picture that had none.
    fn on_packet(&mut self, index: u64, timestamp: u32, facts: PayloadFacts) -> (Option<u64>, bool) {
        if !facts.keyframe && !facts.parameter_sets {
            return (None, false);
        }
        if let Some((entry_timestamp, first)) = self.entry {
            if timestamp == entry_timestamp {
                if index >= first {
                    return (None, false);
                }
                // The picture's beginning came late.
                self.entry = Some((timestamp, index));
                return (Some(index), false);
            }
            if index < first {
                // An older picture than the one viewers begin with.
                return (None, false);
            }
        }
        let first = match self.provisional {
            Some((of, first)) if of == timestamp => first.min(index),
            Some((_, newer)) if newer > index && !facts.keyframe => return (None, false),
            _ => index,
        };
        if facts.keyframe {
            self.entry = Some((timestamp, first));
            // Parameter sets of a newer picture wait on.
            self.provisional = self.provisional.filter(|(of, newer)| *of != timestamp && *newer > index);
            (Some(first), true)
        } else {
            self.provisional = Some((timestamp, first));
            (None, false)
        }
    }
}

impl Reception {
    /// `newest`: what was sent again, or came late, says nothing of the network's jitter.
    fn on_packet(&mut self, now: Time, source_index: u64, timestamp: u32, clock_rate: u32, newest: bool) {
        if !self.started {
            self.started = true;
            (self.source_first, self.source_max) = (source_index, source_index);
        }
        self.source_first = self.source_first.min(source_index);
        self.source_max = self.source_max.max(source_index);
        self.received += 1;
        if !newest {
            return;
        }
        // RFC 3550 appendix A.8.
        let transit = ticks(Duration::from_nanos(now.0), clock_rate).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let change = u64::from((transit.wrapping_sub(before) as i32).unsigned_abs());
            if change < JITTER_JUMP.as_secs() * u64::from(clock_rate) {
                self.jitter = self.jitter + change - ((self.jitter + 8) >> 4);
            }
        }
    }

    /// RFC 3550 appendix A.3.
    fn expected_and_lost(&self) -> (u64, u64) {
        let expected = if self.started { self.source_max - self.source_first + 1 } else { 0 };
        (expected, expected.saturating_sub(self.received + self.resent))
    }

    fn report_block(&mut self, now: Time, ssrc: u32) -> Option<ReportBlock> {
        if !self.started {
            return None;
        }
        let (expected, _) = self.expected_and_lost();
        let lost = expected as i64 - self.received as i64;
        let expected_interval = expected - self.expected_prior.min(expected);
        let received_interval = self.received.saturating_sub(self.received_prior);
        (self.expected_prior, self.received_prior) = (expected, self.received);
        let lost_interval = expected_interval.saturating_sub(received_interval);
        let fraction = (lost_interval << 8).checked_div(expected_interval).unwrap_or(0);
        let (last_sr, delay_since_sr) = match self.sr {
            None => (0, 0),
            Some((ntp, at)) => (ntp.middle(), ticks(now.since(at), 65_536)),
        };
        Some(ReportBlock {
            ssrc,
            fraction_lost: fraction.min(255) as u8,
            cumulative_lost: lost.clamp(-0x80_0000, 0x7F_FFFF) as i32,
            sequence_max: self.source_max as u32,
            jitter: u32::try_from(self.jitter >> 4).unwrap_or(u32::MAX),
            last_sr,
            delay_since_sr,
        })
    }
}

/// A span in units of a clock, modulo 2^32.
fn ticks(span: Duration, clock_rate: u32) -> u32 {
    (span.as_nanos() * u128::from(clock_rate) / 1_000_000_000) as u32
}

fn place(index: u64) -> (usize, u64) {
    let position = (index % SLOTS) as usize;
    (position / 64, 1 << (position % 64))
}
fn bit(bits: &[u64; WORDS], index: u64) -> bool {
    let (word, mask) = place(index);
    bits[word] & mask != 0
}
fn set_bit(bits: &mut [u64; WORDS], index: u64) {
    let (word, mask) = place(index);
    bits[word] |= mask;
}
fn clear_bit(bits: &mut [u64; WORDS], index: u64) {
    let (word, mask) = place(index);
    bits[word] &= !mask;
}

#[cfg(test)]
mod tests;
