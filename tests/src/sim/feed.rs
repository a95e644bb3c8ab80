//! Everything the engine ever sent in one feed, and whether it hangs together.
//!
//! Owned by the sniffer, which sees each datagram as it leaves the shard: before the network has lost any.

use super::media::{MediaItem, Published, Studio, Track};
use super::violation::{Invariant, Violation};
use spillway_proto::id::{Codec, TrackId};
use spillway_proto::time::Time;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far a timestamp may run away from the time between two packets at a switch.
const SWITCH_SLACK: Duration = Duration::from_secs(1);
/// A packet is not overtaken by one further behind: a second's worth.
const REORDERED_MAX: usize = 256;

#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub hash: (u64, u64),
    pub item: MediaItem,
    pub timestamp: u32,
    pub at: Time,
}

/// A feed as its viewer's answer named it.
pub struct Feed {
    pub ssrc: u32,
    /// 0: none was negotiated.
    pub rtx_ssrc: u32,
    pub track: TrackId,
    pub video: bool,
    pub payload_types: [u8; Codec::COUNT],
    pub rtx_payload_types: [u8; Codec::COUNT],
    /// By the 48-bit index.
    pub sent: BTreeMap<u64, Sent>,
    /// RTX packets by their own index: the ciphertext, and what it repeats.
    pub repeated: BTreeMap<u64, (u64, u64)>,
    /// What RTX brought under an index of the feed's that was a hole until then.
    pub filled: BTreeMap<u64, MediaItem>,
}

impl Feed {
    pub fn new(ssrc: u32, rtx_ssrc: u32, track: TrackId, video: bool, payload_types: [u8; Codec::COUNT], rtx_payload_types: [u8; Codec::COUNT]) -> Feed {
        Feed { ssrc, rtx_ssrc, track, video, payload_types, rtx_payload_types, sent: BTreeMap::new(), repeated: BTreeMap::new(), filled: BTreeMap::new() }
    }

    /// The 48-bit index of a sequence number that was just sent: the nearest to the newest (RFC 3711 section 3.3.1).
    pub fn index_of(&self, sequence: u16, repeated: bool) -> u64 {
        let newest = if repeated {
            self.repeated.last_key_value().map(|(index, _)| *index)
        } else {
            self.sent.last_key_value().map(|(index, _)| *index)
        };
        let Some(newest) = newest else { return u64::from(sequence) };
        let away = sequence.wrapping_sub(newest as u16) as i16;
        newest.checked_add_signed(i64::from(away)).unwrap_or(u64::from(sequence))
    }

    /// Whether `item` is what belongs into the hole at `index`: it stands there in the source as seen from what was
    /// sent before or behind, and its timestamp goes with theirs.
    pub fn fits(&self, index: u64, item: MediaItem, timestamp: u32, studio: &Studio) -> bool {
        let before = self.sent.range(..index).next_back();
        let behind = self.sent.range(index + 1..).next();
        let mut neighbours = before.into_iter().chain(behind);
        neighbours.any(|(&at, sent)| {
            let away = index as i64 - at as i64;
            let source = studio.published(item).timestamp.wrapping_sub(studio.published(sent.item).timestamp) as i32;
            let step = timestamp.wrapping_sub(sent.timestamp) as i32;
            sent.item.broadcast == item.broadcast
                && i64::from(item.number) - i64::from(sent.item.number) == away
                && step.signum() == source.signum()
        })
    }

    /// (b) and (e): sequence, timestamps and publishers over the whole life of the feed. `slack` is how much later
    /// than at a socket a datagram may have reached its owner; `mesh_lost` says that some never did.
    pub fn check(&self, name: &str, studio: &Studio, slack: Duration, mesh_lost: bool) -> Result<(), Violation> {
        for (index, item) in &self.filled {
            if let Some(sent) = self.sent.get(index).filter(|sent| sent.item != *item) {
                let text = format!("{:?} has the number {index}, under which RTX brought {item:?}", sent.item);
                return self.fault(Invariant::Payload, name, sent, text);
            }
        }
        let mut before: Option<(u64, &Sent)> = None;
        for (index, sent) in &self.sent {
            match before {
                None => self.check_first(name, *index, sent, studio, slack)?,
                Some((at, last)) => self.check_step(name, (at, last), (*index, sent), studio, slack, mesh_lost)?,
            }
            before = Some((*index, sent));
        }
        Ok(())
    }

    fn fault(&self, invariant: Invariant, name: &str, sent: &Sent, text: String) -> Result<(), Violation> {
        Err(Violation::new(invariant, sent.at, format!("{name}, ssrc {}: {text}", self.ssrc)))
    }

    fn check_first(&self, name: &str, index: u64, sent: &Sent, studio: &Studio, slack: Duration) -> Result<(), Violation> {
        if self.video && !self.is_entry(sent, sent.at, studio, slack) {
            let place = studio.published(sent.item).place;
            let text = format!("the first packet ({index}, {:?}, place {place}) is not a keyframe's first", sent.item);
            return self.fault(Invariant::Continuity, name, sent, text);
        }
        Ok(())
    }

    /// Of a keyframe, and no earlier packet of it was there at `when`.
    fn is_entry(&self, sent: &Sent, when: Time, studio: &Studio, slack: Duration) -> bool {
        let packet = studio.published(sent.item);
        let track = studio.broadcasts[sent.item.broadcast as usize].track(self.video);
        let number = sent.item.number as usize;
        let earlier = &track.packets[number - usize::from(packet.place)..number];
        // A takeover goes on with the publisher's packet that arrived first; what was sent before that one has no place.
        let anchor = track.first_arrived.unwrap_or_default() as usize;
        let first = number - earlier.len();
        packet.keyframe
            && earlier.iter().enumerate().all(|(at, p)| {
                p.arrived_at == Time::NEVER || p.arrived_at + slack >= when || first + at < anchor
            })
    }

    fn check_step(
        &self,
        name: &str,
        (at, last): (u64, &Sent),
        (index, sent): (u64, &Sent),
        studio: &Studio,
        slack: Duration,
        mesh_lost: bool,
    ) -> Result<(), Violation> {
        let (before, packet) = (studio.published(last.item), studio.published(sent.item));
        if sent.item.broadcast < last.item.broadcast && !packet.keyframe {
            let text = format!("{:?} follows {:?}: a publisher that was taken over came back", sent.item, last.item);
            return self.fault(Invariant::OnePublisher, name, sent, text);
        }
        let hole = index - at - 1;
        let same = sent.item.broadcast == last.item.broadcast;
        let step = u64::from(sent.item.number).wrapping_sub(u64::from(last.item.number));
        let goes_on = same && step == hole + 1;
        if goes_on && hole > 0 && !mesh_lost {
            // Each of the packets between must have been missing when its turn came: lost, or late.
            let track = studio.broadcasts[sent.item.broadcast as usize].track(self.video);
            let between = last.item.number + 1..sent.item.number;
            // What came before the next but too shortly before may have been overtaken on another shard.
            let there = between.into_iter().find(|&number| {
                let arrived_at = track.packets[number as usize].arrived_at;
                arrived_at != Time::NEVER && arrived_at + slack < packet.arrived_at
            });
            if let Some(number) = there {
                let text = format!("a hole of {hole} before {index}, though packet {number} of the source was there");
                return self.fault(Invariant::Continuity, name, sent, text);
            }
        }
        if same && !goes_on {
            // A jump: to a picture that can be entered, with the next number.
            // What was decided when is not known: what came after the entry's own packet may have come too late.
            let entry = !self.video || self.is_entry(sent, packet.arrived_at, studio, slack);
            // The cursor may have passed holes of the source before it jumped.
            let track = studio.broadcasts[sent.item.broadcast as usize].track(self.video);
            let passed = (u64::from(last.item.number) + 1..).take(hole as usize);
            let holes = passed.map(|number| number as usize).all(|number| mesh_lost || is_missing(track, number, slack));
            if !holes || !entry {
                let text = format!(
                    "from {at} ({:?}) to {index} ({:?}, keyframe {}, place {}): a gap or a copy of the engine's own making",
                    last.item, sent.item, packet.keyframe, packet.place
                );
                return self.fault(Invariant::Continuity, name, sent, text);
            }
        }
        if !same && hole > 0 {
            // Packets of the former publisher that did not come, or behind one that should have followed, may have left
            // holes.
            let track = studio.broadcasts[last.item.broadcast as usize].track(self.video);
            let numbers = last.item.number as usize + 1..track.packets.len();
            let missing = numbers.filter(|&number| slack > Duration::ZERO || is_missing(track, number, slack));
            if !mesh_lost && (missing.count() as u64) < hole {
                let text = format!("a hole of {hole} before {index}, at a switch of publishers");
                return self.fault(Invariant::Continuity, name, sent, text);
            }
        }
        self.check_time(name, (last, before), (sent, packet), same)
    }

    /// Within a frame one timestamp, between frames a later one, at a switch about as much later as it came later.
    fn check_time(
        &self,
        name: &str,
        (last, before): (&Sent, &Published),
        (sent, packet): (&Sent, &Published),
        same: bool,
    ) -> Result<(), Violation> {
        let source = packet.timestamp.wrapping_sub(before.timestamp) as i32;
        let step = sent.timestamp.wrapping_sub(last.timestamp) as i32;
        // A replay that begins again sends the picture once more, and later than what the viewer saw of it: only
        // there does a packet follow that was published no later than the one before.
        let again = same && sent.item.number <= last.item.number;
        let good = if same && source == 0 && !again {
            step == 0
        } else {
            let rate = if self.video { 90_000 } else { 48_000 };
            // A replay sends faster than was captured.
            // One that begins again shows its keyframe as if it were of now, however far behind it was.
            let since = if again { before.captured_at.min(last.at) } else { last.at };
            let apart = sent.at.since(since).max(packet.captured_at.since(before.captured_at)) + SWITCH_SLACK;
            let most = (apart.as_millis() as i64 * rate / 1_000).max(i64::from(source));
            step > 0 && (same && step == source || i64::from(step) <= most)
        };
        if good {
            return Ok(());
        }
        let text = format!(
            "the timestamp went on by {step} from {:?} to {:?}, the source's by {source}",
            last.item, sent.item
        );
        self.fault(Invariant::Continuity, name, sent, text)
    }
}

/// Whether a packet was not there when its turn came: it never arrived, or not before one behind it.
fn is_missing(track: &Track, number: usize, slack: Duration) -> bool {
    let Some(packet) = track.packets.get(number) else { return false };
    let behind = track.packets[number + 1..].iter().take(REORDERED_MAX);
    packet.arrived_at == Time::NEVER || behind.into_iter().any(|other| other.arrived_at <= packet.arrived_at + slack)
}

#[cfg(test)]
mod tests {
    //! Goal: what a retransmission brings under a number of its own making is seen for what it is. Method: a feed by hand.
    use super::*;
    use crate::sim::media::{Broadcast, Size};
    use spillway_proto::link::command::TrackFacts;
    use spillway_proto::rng::Rng;

    /// Pictures of one packet behind a keyframe of two, all sent but the fourth packet.
    fn feed_with_a_hole() -> (Studio, Feed) {
        let size = Size { keyframe_packets: 2, frame_packets: 1, payload_max: 50, frames_per_keyframe: 100 };
        let facts = [TrackFacts::new(Codec::Vp8, 96, 1), TrackFacts::new(Codec::Opus, 111, 2)];
        let broadcasts = (0..2).map(|number| {
            let mut broadcast = Broadcast::new(number, 0, 1, &facts, size, false, Rng::new(1));
            broadcast.begin(Time::from_millis(1_000));
            broadcast.capture(Time::from_millis(1_300));
            broadcast
        });
        let mut studio = Studio { broadcasts: broadcasts.collect() };
        let mut feed = Feed::new(9, 10, TrackId::NONE, true, [0; Codec::COUNT], [0; Codec::COUNT]);
        for number in (0..6).filter(|number| *number != 3) {
            let item = item(0, number);
            studio.arrived(item, Time::from_millis(1_310 + u64::from(number)));
            let timestamp = studio.published(item).timestamp;
            let at = Time::from_millis(1_310 + u64::from(number));
            feed.sent.insert(100 + u64::from(number), Sent { hash: (1, 2), item, timestamp, at });
        }
        (studio, feed)
    }

    fn item(broadcast: u32, number: u32) -> MediaItem {
        MediaItem { broadcast, video: true, number }
    }

    #[test]
    fn only_what_stood_in_a_hole_fits_it() {
        let (studio, feed) = feed_with_a_hole();
        let timestamp = studio.published(item(0, 3)).timestamp;
        assert!(feed.fits(103, item(0, 3), timestamp, &studio));
        assert!(!feed.fits(103, item(0, 4), timestamp, &studio), "another packet");
        assert!(!feed.fits(103, item(1, 3), timestamp, &studio), "of another publisher");
        // Behind the newest, where one neighbour alone can tell.
        let timestamp = studio.published(item(0, 6)).timestamp;
        assert!(feed.fits(106, item(0, 6), timestamp, &studio));
        assert!(!feed.fits(106, item(0, 6), timestamp.wrapping_sub(9_000), &studio), "before what it follows");
    }

    #[test]
    fn nothing_else_follows_under_a_number_that_was_filled() {
        let (studio, mut feed) = feed_with_a_hole();
        feed.check("a viewer", &studio, Duration::ZERO, false).unwrap();
        feed.filled.insert(103, item(0, 3));
        feed.check("a viewer", &studio, Duration::ZERO, false).unwrap();
        feed.filled.insert(104, item(0, 3));
        let fault = feed.check("a viewer", &studio, Duration::ZERO, false).unwrap_err();
        assert_eq!(fault.invariant, Invariant::Payload);
    }
}
