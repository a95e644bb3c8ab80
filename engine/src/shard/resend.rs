//! Answers to viewers' NACKs, from the reel, in fan-out's turn of their session.
//!
//! A NACK only marks what was asked for; the answers are sealed where media is, into transmit memory, so that
//! back-pressure holds for both alike. Nothing here ever reaches the publisher.

use super::Core;
use super::fanout::Served;
use super::late::has_place;
use super::session::Session;
use crate::io::{Io, Sent};
use spillway_proto::limits::PACKETS_PER_ROUND_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::quality::SessionStats;
use spillway_proto::stream::resend::{Ask, answer, body_len};
use spillway_proto::stream::rewrite;
use spillway_proto::wire::rtcp::Losses;
use std::sync::atomic::Ordering;

impl Core {
    /// A viewer misses packets of a feed.
    pub fn hear_nack(&mut self, session: &mut Session, media: u32, losses: Losses<'_>) {
        let now = self.now;
        let Session { id, feeds, answers, sealer, .. } = session;
        let slot = id.index;
        let stats = self.shared.link.session_stats(slot);
        for feed in feeds {
            let Some(record) = self.table.feed(feed.slot).filter(|record| record.ssrc == media) else { continue };
            let sent = record.rtp_index.load(Ordering::Relaxed);
            for sequence in losses {
                if !answers.look(now) {
                    self.tally.add(CounterId::RtxRefusedBudget, 1);
                    break;
                }
                self.tally.add(CounterId::NacksReceived, 1);
                SessionStats::add(&stats.nacked, 1);
                match feed.resends.ask(now, sent, sequence, answers.answers_max()) {
                    Ask::Waits => {}
                    Ask::TooOften => self.tally.add(CounterId::RtxRefusedBudget, 1),
                    Ask::Unknown => self.tally.add(CounterId::RtxNotInReel, 1),
                }
            }
            if feed.resends.is_waiting() && sealer.is_some() {
                self.fanout.queue(slot);
            }
            return;
        }
    }

    /// The answers of one feed that wait, at most a round's worth, within the viewer's budget and pace.
    pub(super) fn serve_resends<I: Io>(&mut self, io: &mut I, session: &mut Session, at: usize) -> Served {
        let now = self.now;
        let Session { id, path, sealer, feeds, answers, .. } = session;
        let (Some(path), Some(sealer), Some(feed)) = (path, sealer, feeds.get_mut(at)) else { return Served::Done };
        let resends = &mut feed.resends;
        if !resends.is_waiting() {
            return Served::Done;
        }
        let (Some(reader), Some(record)) = (self.fanout.reader(feed.track), self.table.feed(feed.slot)) else {
            return Served::Done;
        };
        let overhead = sealer.profile().rtp_overhead();
        let segments_max = io.gso_segments().min(PACKETS_PER_ROUND_MAX);
        let (mut left, mut from) = (PACKETS_PER_ROUND_MAX, 0);
        while left > 0 && resends.is_waiting() {
            if now < answers.due() {
                return Served::Paced(answers.due());
            }
            let Some(buffer) = io.buffer() else { return Served::Blocked };
            let mut run = [0; PACKETS_PER_ROUND_MAX];
            let (mut count, mut length, mut segment) = (0, 0, 0);
            while count < segments_max.min(left) {
                let Some(index) = resends.next(from) else { break };
                let slot = rewrite::sent_as(record, index)
                    .and_then(|(mapping, reel_index)| Some((mapping, reader.reel.slot(reel_index)?)))
                    .filter(|(mapping, slot)| has_place(&reader.reel, record, mapping, &slot.meta));
                let Some((mapping, slot)) = slot else {
                    resends.forget(index);
                    self.tally.add(CounterId::RtxNotInReel, 1);
                    continue;
                };
                let header_len = rewrite::HEADER_BYTES + rewrite::extension_len(record, slot.descriptor);
                let size = header_len + body_len(record, &slot) + overhead;
                if count > 0 && (size > segment || length + size > buffer.len()) {
                    break;
                }
                if !answers.covers(length + size) {
                    resends.forget(index);
                    self.tally.add(CounterId::RtxRefusedBudget, 1);
                    continue;
                }
                let sealed = answer(record, &mapping, &slot.meta).and_then(|answer| {
                    let again = (&[][..], slot.padded);
                    let (prefix, payload) = answer.prefix.as_ref().map_or(again, |prefix| (&prefix[..], slot.payload));
                    let described = rewrite::described(record, &answer.header, slot.descriptor);
                    let header = described.as_ref().map_or(&answer.header[..], |described| described.bytes());
                    sealer.seal_into(header, prefix, payload, answer.index, &mut buffer[length..])
                });
                let Some(sealed) = sealed else {
                    resends.forget(index);
                    self.tally.add(CounterId::RtxNotInReel, 1);
                    continue;
                };
                // It may be the first time that it goes out: it came late, and the feed was past it.
                feed.start.on_sent_late(rewrite::timestamp(&mapping, slot.meta.timestamp));
                segment = if count == 0 { sealed } else { segment };
                run[count] = index;
                count += 1;
                length += sealed;
                from = index + 1;
                if sealed < segment {
                    break;
                }
            }
            if count == 0 {
                break;
            }
            if matches!(io.send(path, length, segment), Sent::Blocked) {
                // They go on waiting; retransmissions leave a hole in their own sequence, which nobody asks for.
                return Served::Blocked;
            }
            run[..count].iter().for_each(|&index| resends.answered(index, now));
            answers.spend(now, length);
            left -= count;
            self.tally.add(CounterId::RtxFromReel, count as u64);
            SessionStats::add(&self.shared.link.session_stats(id.index).resent, count as u64);
            self.tally.add(CounterId::BytesSent, length as u64);
            self.tally.add(CounterId::Sends, 1);
        }
        if resends.is_waiting() { Served::More } else { Served::Done }
    }
}
