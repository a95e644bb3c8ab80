//! A viewer's reception of one feed: what a browser does between its socket and its decoder.
//!
//! Puts packets into order, asks again for what is missing (RFC 4585 section 6.2.1) where that was negotiated, gives up
//! after a while, and knows which frames can be decoded: those whose packets from a keyframe on are all there. Asks
//! for a keyframe as long as there is none.

use super::media::{MediaItem, Studio};
use super::network::Packet;
use spillway_proto::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// Reordering shows itself within this.
const NACK_AFTER: Duration = Duration::from_millis(15);
const NACK_EVERY: Duration = Duration::from_millis(60);
const NACKS_PER_PACKET_MAX: u8 = 8;
/// Losses asked for at once.
const NACKED_MAX: usize = 256;
/// A hole older than this is left behind: longer where it may still be filled.
const GIVE_UP: Duration = Duration::from_millis(120);
const GIVE_UP_WITH_NACK: Duration = Duration::from_millis(600);
const KEYFRAME_REQUEST_EVERY: Duration = Duration::from_millis(400);

#[derive(Clone, Copy)]
struct Missing {
    ask_at: Time,
    asked: u8,
}

pub struct Reception {
    video: bool,
    nack: bool,
    /// The next number in order.
    next: Option<u64>,
    waiting: BTreeMap<u64, MediaItem>,
    missing: BTreeMap<u64, Missing>,
    hole_since: Time,
    /// The packets since a keyframe's first are all there.
    whole: bool,
    last: Option<MediaItem>,
    request_at: Time,
    /// When the newest decodable frame was captured, and when it was complete.
    pub decoded: Option<(Time, Time)>,
    pub frames: u64,
    pub packets: u64,
    pub repaired: u64,
}

/// What the viewer wants to tell the server about a feed.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Wishes {
    pub keyframe: bool,
    pub lost: Vec<u64>,
}

impl Reception {
    pub fn new(video: bool, nack: bool) -> Reception {
        Reception {
            video,
            nack,
            next: None,
            waiting: BTreeMap::new(),
            missing: BTreeMap::new(),
            hole_since: Time::NEVER,
            whole: false,
            last: None,
            request_at: Time::NEVER,
            decoded: None,
            frames: 0,
            packets: 0,
            repaired: 0,
        }
    }

    pub fn on_packet(&mut self, now: Time, packet: &Packet, studio: &Studio) {
        self.packets += 1;
        let next = *self.next.get_or_insert(packet.index);
        if packet.index < next {
            return;
        }
        let newest = self.waiting.last_key_value().map_or(next, |(index, _)| index + 1).max(next);
        if self.nack && packet.index > newest {
            let first = newest.max(packet.index.saturating_sub(NACKED_MAX as u64));
            for index in first..packet.index {
                self.missing.insert(index, Missing { ask_at: now + NACK_AFTER, asked: 0 });
            }
        }
        self.repaired += u64::from(self.missing.remove(&packet.index).is_some_and(|missing| missing.asked > 0));
        self.waiting.insert(packet.index, packet.item);
        self.take_in_order(now, studio);
    }

    fn take_in_order(&mut self, now: Time, studio: &Studio) {
        while let Some(item) = self.next.and_then(|next| self.waiting.remove(&next)) {
            self.next = self.next.map(|next| next + 1);
            self.decode(now, item, studio);
        }
        if self.waiting.is_empty() {
            self.hole_since = Time::NEVER;
        } else if self.hole_since == Time::NEVER {
            self.hole_since = now;
        }
    }

    fn decode(&mut self, now: Time, item: MediaItem, studio: &Studio) {
        let packet = studio.published(item);
        let follows = self.last.is_some_and(|last| {
            let before = studio.published(last);
            let same = last.broadcast == item.broadcast;
            let within = before.frame == packet.frame && before.place + 1 == packet.place;
            let after = before.is_last() && before.frame + 1 == packet.frame && packet.place == 0;
            same && (within || after)
        });
        self.last = Some(item);
        let begins = packet.keyframe && packet.place == 0;
        self.whole = !self.video || begins || (self.whole && follows);
        if self.whole && packet.is_last() {
            self.decoded = Some((packet.captured_at, now));
            self.frames += 1;
            self.request_at = Time::NEVER;
        } else if !self.whole && self.request_at == Time::NEVER {
            self.request_at = now;
        }
    }

    /// What is due; call at `deadline` and whenever convenient.
    pub fn poll(&mut self, now: Time, studio: &Studio) -> Wishes {
        let mut wishes = Wishes::default();
        let give_up = if self.nack { GIVE_UP_WITH_NACK } else { GIVE_UP };
        if self.hole_since != Time::NEVER && now.since(self.hole_since) >= give_up {
            let after = self.waiting.first_key_value().map(|(index, _)| *index);
            if let Some(after) = after {
                self.missing = self.missing.split_off(&after);
                (self.next, self.whole, self.last) = (Some(after), false, None);
                self.hole_since = Time::NEVER;
                if self.video {
                    self.request_at = self.request_at.min(now);
                }
                self.take_in_order(now, studio);
            }
        }
        for (index, missing) in &mut self.missing {
            if missing.ask_at <= now {
                wishes.lost.push(*index);
                missing.asked += 1;
                missing.ask_at = now + NACK_EVERY;
            }
        }
        self.missing.retain(|_, missing| missing.asked < NACKS_PER_PACKET_MAX);
        if self.video && self.request_at <= now {
            self.request_at = now + KEYFRAME_REQUEST_EVERY;
            wishes.keyframe = true;
        }
        wishes
    }

    pub fn deadline(&self) -> Time {
        let give_up = if self.nack { GIVE_UP_WITH_NACK } else { GIVE_UP };
        let hole = if self.hole_since == Time::NEVER { Time::NEVER } else { self.hole_since + give_up };
        let ask = self.missing.values().map(|missing| missing.ask_at).min().unwrap_or(Time::NEVER);
        hole.min(ask).min(if self.video { self.request_at } else { Time::NEVER })
    }
}
