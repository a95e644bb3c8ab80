//! Late packets: forwarded at once to feeds that are past them, under the numbers they had from the beginning.
//!
//! A packet behind the newest went into its own slot and into the reel's late list. A feed that has not come that far
//! meets it in order; a feed that passed its empty slot is given it here. So that none is given it twice, a feed does
//! not pass a slot that was filled late before it has heard of it in the list (`serve_feed`).

use super::Core;
use super::fanout::Served;
use super::session::Session;
use crate::io::{Io, Sent};
use spillway_proto::limits::PACKETS_PER_ROUND_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::session::record::{FeedRecord, Mapping};
use spillway_proto::stream::reel::{ReelReader, SlotMeta};
use spillway_proto::stream::rewrite;
use std::sync::atomic::Ordering;

impl Core {
    /// What came late since this feed's last turn, at most a round's worth.
    pub(super) fn serve_late<I: Io>(&mut self, io: &mut I, session: &mut Session, at: usize) -> Served {
        let Session { path, sealer, feeds, answers, .. } = session;
        let (Some(path), Some(sealer), Some(feed)) = (path, sealer, feeds.get_mut(at)) else { return Served::Done };
        let Some(reader) = self.fanout.reader(feed.track) else { return Served::Done };
        let reel = &reader.reel;
        let count = reel.late_count();
        if feed.late_seen == count {
            return Served::Done;
        }
        let Some(record) = self.table.feed(feed.slot) else { return Served::Done };
        if record.mappings == 0 {
            // It begins later than all of this.
            feed.late_seen = count;
            return Served::Done;
        }
        let cursor = record.cursor.load(Ordering::Relaxed);
        let mut left = PACKETS_PER_ROUND_MAX;
        while feed.late_seen < count && left > 0 {
            let Some(index) = reel.late(feed.late_seen) else {
                feed.late_seen += 1;
                self.tally.add(CounterId::LateSkipped, 1);
                continue;
            };
            let slot = Some(index).filter(|index| *index < cursor).and_then(|index| reel.slot(index));
            let header = slot.as_ref().and_then(|slot| {
                let mapping = rewrite::mapping_of(record, slot.meta.index)?;
                has_place(reel, record, mapping, &slot.meta).then(|| rewrite::header_in(record, mapping, &slot.meta))?
            });
            let (Some(slot), Some((header, index))) = (slot, header) else {
                feed.late_seen += 1;
                continue;
            };
            let Some(buffer) = io.buffer() else { return Served::Blocked };
            if index >= record.rtp_index.load(Ordering::Relaxed) {
                record.rtp_index.store(index + 1, Ordering::Release);
            }
            let described = rewrite::described(record, &header, slot.descriptor);
            let header = described.as_ref().map_or(&header[..], |described| described.bytes());
            if let Some(sealed) = sealer.seal_into(header, &[], slot.padded, index, buffer) {
                if matches!(io.send(path, sealed, sealed), Sent::Blocked) {
                    return Served::Blocked;
                }
                feed.start.on_sent_late(u32::from_be_bytes([header[4], header[5], header[6], header[7]]));
                record.packets += 1;
                record.octets += slot.payload.len() as u64;
                answers.earn(sealed);
                self.tally.add(CounterId::PacketsSent, 1);
                self.tally.add(CounterId::BytesSent, sealed as u64);
                self.tally.add(CounterId::Sends, 1);
            }
            feed.late_seen += 1;
            left -= 1;
        }
        if feed.late_seen < count { Served::More } else { Served::Done }
    }
}

/// A packet that the feed passed may be sent under this mapping, which was its turn's. Not what follows a keyframe that
/// went out alone: at the keyframe's own timestamp it would be a part of that picture. And nothing later than what has
/// the next numbers: a replay that began again begins right behind what was sent, and time would run back.
pub(super) fn has_place(reel: &ReelReader, record: &FeedRecord, mapping: &Mapping, slot: &SlotMeta) -> bool {
    let first = |mapping: &Mapping| reel.slot(mapping.first_index).map(|first| first.meta.timestamp);
    if rewrite::is_of_one_moment(mapping) && first(mapping) != Some(slot.timestamp) {
        return false;
    }
    let Some(next) = rewrite::mapping_after(record, mapping) else { return true };
    let Some(begin) = first(next) else { return next.lead == 0 };
    let ahead = rewrite::timestamp(next, begin).wrapping_sub(rewrite::timestamp(mapping, slot.timestamp));
    ahead as i32 > 0
}
