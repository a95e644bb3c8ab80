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
    /// What came before its turn, and when.
    waiting: BTreeMap<u64, (MediaItem, Time)>,
    missing: BTreeMap<u64, Missing>,
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
        self.waiting.insert(packet.index, (packet.item, now));
        self.enter_at_keyframe(packet, studio);
        self.take_in_order(now, studio);
    }

    /// A keyframe that is all there needs nothing of what came before it: browsers show it at once, and leave the
    /// holes behind.
    fn enter_at_keyframe(&mut self, packet: &Packet, studio: &Studio) {
        let published = studio.published(packet.item);
        let Some(first) = packet.index.checked_sub(published.place.into()) else { return };
        if !self.video || !published.keyframe || self.next.is_none_or(|next| first <= next) {
            return;
        }
        let begin = packet.item.number - u32::from(published.place);
        let is_there = |place: u16| {
            let item = MediaItem { number: begin + u32::from(place), ..packet.item };
            self.waiting.get(&(first + u64::from(place))).is_some_and(|(other, _)| *other == item)
        };
        if (0..published.of).all(is_there) {
            self.waiting = self.waiting.split_off(&first);
            self.missing = self.missing.split_off(&first);
            (self.next, self.last) = (Some(first), None);
        }
    }

    fn take_in_order(&mut self, now: Time, studio: &Studio) {
        while let Some((item, _)) = self.next.and_then(|next| self.waiting.remove(&next)) {
            self.next = self.next.map(|next| next + 1);
            self.decode(now, item, studio);
        }
    }

    /// When the first hole is left behind: what stands behind it has waited long enough then.
    fn give_up_at(&self) -> Time {
        let give_up = if self.nack { GIVE_UP_WITH_NACK } else { GIVE_UP };
        self.waiting.first_key_value().map_or(Time::NEVER, |(_, (_, since))| *since + give_up)
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
        while self.give_up_at() <= now
            && let Some(after) = self.waiting.first_key_value().map(|(index, _)| *index)
        {
            self.missing = self.missing.split_off(&after);
            (self.next, self.whole, self.last) = (Some(after), false, None);
            self.take_in_order(now, studio);
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
        let ask = self.missing.values().map(|missing| missing.ask_at).min().unwrap_or(Time::NEVER);
        self.give_up_at().min(ask).min(if self.video { self.request_at } else { Time::NEVER })
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what counts as decodable, and what is asked for again. Method: a broadcast's packets by hand.
    use super::*;
    use crate::sim::media::{Broadcast, Size};
    use spillway_proto::id::Codec;
    use spillway_proto::link::command::TrackFacts;
    use spillway_proto::rng::Rng;

    /// Two frames of three packets or fewer, the first a keyframe.
    fn studio() -> (Studio, Vec<MediaItem>) {
        let size = Size { keyframe_packets: 3, frame_packets: 1, payload_max: 50, frames_per_keyframe: 100 };
        let facts = [TrackFacts::new(Codec::Vp8, 96, 1), TrackFacts::new(Codec::Opus, 111, 2)];
        let mut broadcast = Broadcast::new(0, 0, 1, &facts, size, false, Rng::new(1));
        broadcast.begin(Time::from_millis(1_000));
        let items = broadcast.capture(Time::from_millis(1_050));
        (Studio { broadcasts: vec![broadcast] }, items.into_iter().filter(|item| item.video).collect())
    }

    fn packet(index: u64, items: &[MediaItem]) -> Packet {
        Packet { feed: 0, index, item: items[index as usize] }
    }

    #[test]
    fn frames_count_from_a_whole_keyframe_on() {
        let (studio, items) = studio();
        let now = Time::from_millis(1_100);
        let mut whole = Reception::new(true, false);
        [0, 2, 1, 3].iter().for_each(|&index| whole.on_packet(now, &packet(index, &items), &studio));
        assert_eq!((whole.frames, whole.poll(now, &studio)), (2, Wishes::default()));
        let mut torn = Reception::new(true, false);
        [0, 2, 3].iter().for_each(|&index| torn.on_packet(now, &packet(index, &items), &studio));
        assert_eq!(torn.deadline(), now + GIVE_UP);
        assert!(torn.poll(now + GIVE_UP, &studio).keyframe && torn.frames == 0);
        assert!(!torn.poll(now + GIVE_UP, &studio).keyframe, "not twice at once");
        assert!(torn.poll(now + GIVE_UP + KEYFRAME_REQUEST_EVERY, &studio).keyframe);
    }

    #[test]
    fn a_whole_keyframe_is_shown_whatever_is_missing_before_it() {
        let (studio, items) = studio();
        let now = Time::from_millis(1_100);
        let mut reception = Reception::new(true, true);
        // The second frame, then twenty packets of nobody's, then the keyframe once more under other numbers.
        let of = |index: u64, item: usize| Packet { feed: 0, index, item: items[item] };
        reception.on_packet(now, &of(10, 3), &studio);
        [33, 31].iter().zip([2, 0]).for_each(|(&index, item)| reception.on_packet(now, &of(index, item), &studio));
        assert_eq!((reception.frames, reception.missing.len()), (0, 21));
        reception.on_packet(now, &of(32, 1), &studio);
        assert_eq!((reception.frames, reception.missing.len()), (1, 0));
        reception.on_packet(now, &of(34, 3), &studio);
        assert_eq!(reception.frames, 2);
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes() {
        let (studio, items) = studio();
        let now = Time::from_millis(1_100);
        let mut reception = Reception::new(true, true);
        [0, 3].iter().for_each(|&index| reception.on_packet(now, &packet(index, &items), &studio));
        assert!(reception.poll(now, &studio).lost.is_empty(), "it may only be late");
        assert_eq!(reception.poll(now + NACK_AFTER, &studio).lost, vec![1u64, 2]);
        reception.on_packet(now + NACK_AFTER, &packet(1, &items), &studio);
        assert_eq!(reception.poll(now + NACK_AFTER + NACK_EVERY, &studio).lost, vec![2u64]);
        reception.on_packet(now + NACK_AFTER + NACK_EVERY, &packet(2, &items), &studio);
        assert_eq!((reception.frames, reception.repaired), (2, 2));
        assert_eq!(reception.deadline(), Time::NEVER);
    }
}
