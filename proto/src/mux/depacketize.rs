//! From the packets of one track to whole frames in decode order.
//!
//! Packets come as they arrived; late ones are waited for, at most `TAP_WAIT`. A frame that stays incomplete is dropped,
//! and with a picture all that follow until the next keyframe, since they are coded from it. Sound goes on at once.
//! Pure: `now` comes in, frames go out. What it holds is bounded by packets and by bytes.
//!
//! A frame is the run of packets with one timestamp. It ends where another timestamp begins, or at a packet that says so
//! when nothing followed for a while; markers alone are not believed, some cameras set them on parameter sets.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::assemble::{Assembled, Assembler};
use crate::id::{Codec, Kind};
use crate::limits::{TAP_BYTES_MAX, TAP_PACKETS_MAX, TAP_WAIT};
use crate::stream::reel::{SlotFlags, SlotMeta};
use crate::time::Time;
use crate::wire::payload;
use std::collections::BTreeMap;
use std::time::Duration;

/// A frame whose last packet says so is complete after this, if nothing follows.
const END_WAIT: Duration = Duration::from_millis(100);

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Of its first packet.
    pub index: u64,
    /// In the reel's timescale.
    pub timestamp: u32,
    /// Of the packet that came first.
    pub arrival: Time,
    pub codec: Codec,
    /// How many publishers the track had before the one it is of.
    pub epoch: u32,
    pub keyframe: bool,
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    Frame(Frame),
    /// Pictures are dropped from here to the next keyframe: the publisher is to be asked for one.
    Broken,
    /// There is no keyframe to begin with where one was to be: the same, and nothing is lost yet.
    Missing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dropped {
    /// Frames that were incomplete, or coded from one that was.
    pub frames: u64,
    /// Packets that never came.
    pub packets: u64,
}

struct Packet {
    timestamp: u32,
    arrival: Time,
    flags: SlotFlags,
    codec: Codec,
    payload: Vec<u8>,
}

pub struct Depacketizer {
    kind: Kind,
    packets: BTreeMap<u64, Packet>,
    bytes: usize,
    /// Everything before was given out or given up.
    next: u64,
    /// Frames before this one are looked at for their parameter sets only.
    from: u64,
    /// What stands at `next` may be the middle of a frame.
    torn: bool,
    wants_keyframe: bool,
    /// Why it wants one was given out.
    has_said: bool,
    /// The next publishers begin here: the first index of each, and its number.
    epochs: Vec<(u64, u32)>,
    epoch: u32,
    assembler: Assembler,
    dropped: Dropped,
}

/// What stands at the front.
enum Front {
    Waiting,
    /// Packets before this index are a frame.
    Frame(u64),
    /// Packets before this index are a part of one.
    Torn(u64),
}

impl Depacketizer {
    /// Looks at packets from `first` on, and gives frames from packet `from` on.
    pub fn new(kind: Kind, first: u64, from: u64, epoch: u32) -> Depacketizer {
        Depacketizer {
            kind,
            packets: BTreeMap::new(),
            bytes: 0,
            next: first,
            from,
            torn: true,
            wants_keyframe: kind == Kind::Video,
            has_said: false,
            epochs: Vec::new(),
            epoch,
            assembler: Assembler::default(),
            dropped: Dropped::default(),
        }
    }

    /// A packet of the track, in whatever order. What came before, or comes too late, is passed over.
    pub fn push(&mut self, meta: &SlotMeta, payload: &[u8]) {
        if meta.index < self.next || self.packets.contains_key(&meta.index) {
            return;
        }
        self.bytes += payload.len();
        let packet = Packet {
            timestamp: meta.timestamp,
            arrival: meta.arrival,
            flags: meta.flags,
            codec: meta.codec,
            payload: payload.to_vec(),
        };
        self.packets.insert(meta.index, packet);
    }

    /// Another publisher from packet `from` on: its pictures begin with a keyframe of its own.
    pub fn begin_epoch(&mut self, from: u64, epoch: u32) {
        if epoch == self.epoch || self.epochs.iter().any(|(_, known)| *known == epoch) {
            return;
        }
        // One that has sent nothing yet is replaced.
        self.epochs.retain(|(index, _)| *index < from);
        self.epochs.push((from, epoch));
    }

    /// Forgets all before `index`: the reader fell behind.
    pub fn skip_to(&mut self, index: u64) {
        if index <= self.next {
            return;
        }
        self.drop_before(index, true);
        self.torn = true;
    }

    /// Packets wait for others that are missing.
    pub fn is_waiting(&self) -> bool {
        !self.packets.is_empty()
    }
    pub fn wants_keyframe(&self) -> bool {
        self.wants_keyframe
    }
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// The next frame. `drain`: nothing more comes, nothing is waited for.
    pub fn poll(&mut self, now: Time, drain: bool) -> Option<Output> {
        // Every turn takes packets away, or ends it.
        loop {
            let first = *self.packets.first_key_value()?.0;
            if first > self.next {
                if !drain && !self.has_waited(first, now) {
                    return None;
                }
                self.dropped.packets += first - self.next;
                self.next = first;
                self.torn = true;
                if let Some(broken) = self.lose_picture(first) {
                    return Some(broken);
                }
                continue;
            }
            self.begin_epochs();
            match self.front(now, drain) {
                Front::Waiting => return None,
                Front::Torn(end) => {
                    self.drop_before(end, true);
                    self.torn = true;
                    if let Some(broken) = self.lose_picture(end) {
                        return Some(broken);
                    }
                }
                Front::Frame(end) => {
                    if let Some(output) = self.give(end) {
                        return Some(output);
                    }
                }
            }
        }
    }

    /// Whether what is missing before `first` was waited for.
    fn has_waited(&self, first: u64, now: Time) -> bool {
        let is_full = self.packets.len() > TAP_PACKETS_MAX || self.bytes > TAP_BYTES_MAX;
        is_full || self.packets.get(&first).is_none_or(|packet| now.since(packet.arrival) >= TAP_WAIT)
    }

    fn begin_epochs(&mut self) {
        while let Some((_, epoch)) = self.epochs.first().copied().filter(|(from, _)| *from <= self.next) {
            self.epochs.remove(0);
            self.epoch = epoch;
            self.assembler.forget();
            self.torn = false;
            // It says nothing of a loss: a publisher begins with a keyframe by itself.
            self.wants_keyframe = self.kind == Kind::Video;
            self.has_said = false;
        }
    }

    fn front(&self, now: Time, drain: bool) -> Front {
        let Some(head) = self.packets.get(&self.next) else { return Front::Waiting };
        let epoch_end = self.epochs.first().map_or(u64::MAX, |(from, _)| *from);
        let mut last = head;
        let mut end = self.next;
        for (index, packet) in self.packets.range(self.next..) {
            let is_other = packet.timestamp != head.timestamp || packet.codec != head.codec || *index >= epoch_end;
            if *index == end && is_other || end >= epoch_end {
                return Front::Frame(end);
            }
            if *index != end {
                // A hole behind it. Whoever said that the frame ends there is believed once nothing else came.
                let has_ended = last.flags.contains(SlotFlags::FRAME_END);
                return match drain || self.has_waited(*index, now) {
                    false => Front::Waiting,
                    true if has_ended => Front::Frame(end),
                    true => Front::Torn(end),
                };
            }
            if self.kind == Kind::Audio {
                return Front::Frame(end + 1);
            }
            last = packet;
            end += 1;
        }
        let has_ended = last.flags.contains(SlotFlags::FRAME_END);
        if has_ended && (drain || now.since(last.arrival) >= END_WAIT) {
            return Front::Frame(end);
        }
        let is_full = self.packets.len() > TAP_PACKETS_MAX || self.bytes > TAP_BYTES_MAX;
        if drain || is_full { Front::Torn(end) } else { Front::Waiting }
    }

    /// The packets before `end` are a frame, if they begin as one.
    fn give(&mut self, end: u64) -> Option<Output> {
        let start = self.next;
        let run = || self.packets.range(start..end).map(|(_, packet)| packet);
        let head = run().next()?;
        let (timestamp, codec) = (head.timestamp, head.codec);
        let arrival = run().map(|packet| packet.arrival).min()?;
        let begins = || {
            let facts = payload::facts(codec, &head.payload);
            // A keyframe's slice does not count: its parameter sets may be what is missing.
            facts.frame_start.unwrap_or(head.flags.contains(SlotFlags::FRAME_START) || facts.parameter_sets)
        };
        let is_torn = self.torn && self.kind == Kind::Video && !begins();
        let payloads = run().map(|packet| packet.payload.as_slice());
        let assembled = if is_torn { Assembled::Damaged } else { self.assembler.assemble(codec, payloads) };
        self.torn = false;
        self.drop_before(end, false);
        match assembled {
            Assembled::Nothing => None,
            _ if start < self.from => None,
            Assembled::Damaged => {
                self.dropped.frames += 1;
                self.lose_picture(end)
            }
            Assembled::Frame { keyframe, .. } if self.wants_keyframe && !keyframe => {
                self.dropped.frames += 1;
                self.lose_picture(end)
            }
            Assembled::Frame { keyframe, data } => {
                (self.wants_keyframe, self.has_said) = (false, false);
                Some(Output::Frame(Frame { index: start, timestamp, arrival, codec, epoch: self.epoch, keyframe, data }))
            }
        }
    }

    /// What stood before `end` is of no use; said once for each keyframe that is wanted.
    fn lose_picture(&mut self, end: u64) -> Option<Output> {
        if self.kind == Kind::Audio || end <= self.from {
            return None;
        }
        let was_whole = !std::mem::replace(&mut self.wants_keyframe, true);
        let has_said = std::mem::replace(&mut self.has_said, true);
        match (was_whole, has_said) {
            (true, _) => Some(Output::Broken),
            (false, false) => Some(Output::Missing),
            (false, true) => None,
        }
    }

    fn drop_before(&mut self, end: u64, is_loss: bool) {
        let rest = self.packets.split_off(&end);
        let gone = std::mem::replace(&mut self.packets, rest);
        self.bytes -= gone.values().map(|packet| packet.payload.len()).sum::<usize>();
        self.dropped.frames += u64::from(is_loss && !gone.is_empty());
        self.next = end;
    }
}

#[cfg(test)]
mod tests;
