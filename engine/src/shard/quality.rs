//! What each remote experiences, written into its words in the link (`SessionStats`): steps of its join, its reports,
//! what it asked for. Runs on the session's shard, per report, request and second; per packet it does nothing.
//!
//! A *freeze* is an estimate: a viewer that has seen a picture asks for a keyframe (PLI, FIR), which players do once
//! they can decode nothing more. It lasts from the first request until a newer keyframe is there for it, or until the
//! newest one is sent again. What a player hides without asking is not seen here, nor how long it stood still before.

use super::Core;
use super::session::Session;
use spillway_proto::id::{Codec, Kind, SessionId};
use spillway_proto::link::quality::{HistogramId, Reception, SessionStats};
use spillway_proto::stream::reel::{ReelReader, SlotFlags};
use spillway_proto::time::{NtpTime, Time};
use spillway_proto::wire::rtcp::{ReportBlock, ReportBlocks};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Sender reports of a feed whose answers may still come: they are a second apart.
const REPORTS_KEPT: usize = 2;
/// A longer round trip is a remote's mistake: the numbers are its own.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(8);

/// What is remembered of a feed between two reports or requests.
#[derive(Clone, Copy, Default)]
pub struct FeedQuality {
    /// Our last sender reports: the middle of their NTP time, and the middle of ours when they went out.
    sent: [(u32, u32); REPORTS_KEPT],
    /// It asked for a keyframe: when what is counted of the wait began, and the newest keyframe of that moment.
    waits: Option<(Time, u64)>,
}

impl FeedQuality {
    /// A sender report goes out, with the publisher's clock in it.
    pub fn on_sender_report(&mut self, ntp: NtpTime, now: Time) {
        self.sent.rotate_right(1);
        self.sent[0] = (ntp.middle(), middle_of(now));
    }

    /// RFC 3550 section 6.4.1: arrival - LSR - DLSR, in 65,536ths of a second; the arrival by the clock that LSR is of.
    fn round_trip(&self, block: &ReportBlock, now: Time) -> Option<Duration> {
        // Zero: the remote has seen no report.
        let (_, sent_at) = self.sent.iter().find(|(ntp, _)| block.last_sr != 0 && *ntp == block.last_sr)?;
        let took = middle_of(now).wrapping_sub(*sent_at).wrapping_sub(block.delay_since_sr);
        // A delay that is longer than we know of the report makes a negative one.
        let took = Duration::from_nanos(u64::from((took as i32).max(0) as u32) * 1_000_000_000 / 65_536);
        (took <= ROUND_TRIP_MAX).then_some(took)
    }
}

/// The middle 32 bits of a time in the form of NTP, whatever it counts from.
fn middle_of(time: Time) -> u32 {
    (u128::from(time.as_nanos()) * 65_536 / 1_000_000_000) as u32
}

impl Core {
    pub(super) fn quality(&self, slot: u32) -> &'static SessionStats {
        self.shared.link.session_stats(slot)
    }

    pub(super) fn begin_quality(&self, id: SessionId) {
        self.quality(id.index).reset(id.generation, self.now);
    }

    /// How much has been sent of what it waits for; looked at after each of its turns until it has a whole picture.
    pub(super) fn show_join(&mut self, session: &mut Session) {
        let (now, stats) = (self.now, self.quality(session.id.index));
        let (mut has_video, mut shown, mut begun) = (false, false, false);
        for feed in &session.feeds {
            let Some(reader) = self.fanout.reader(feed.track) else { continue };
            let codec = self.shared.owners.track_codec(reader.track);
            let is_video = codec.is_some_and(|codec| codec.kind() == Kind::Video);
            has_video |= is_video;
            let Some(record) = self.table.feed(feed.slot).filter(|record| record.packets > 0) else { continue };
            begun = true;
            let cursor = record.cursor.load(Ordering::Relaxed);
            shown |= is_video && picture_is_over(&reader.reel, cursor, feed.start.entered_at());
        }
        if begun {
            SessionStats::step(&stats.packet_at, now);
        }
        if shown || (begun && !has_video) {
            session.joining = false;
            SessionStats::step(&stats.picture_at, now);
            let took = now.since(Time(stats.added_at.load(Ordering::Relaxed)));
            let histogram = self.shared.link.histogram(self.index, HistogramId::Join);
            histogram.add(HistogramId::Join, took.as_micros() as u64);
        }
    }

    /// A viewer's report blocks. What it says of feeds it does not have is nothing.
    pub(super) fn hear_report(&mut self, session: &mut Session, blocks: ReportBlocks<'_>) {
        let (now, stats) = (self.now, self.quality(session.id.index));
        for block in blocks {
            let table = &mut self.table;
            let mut is_of = |slot| table.feed(slot).is_some_and(|record| record.ssrc == block.ssrc);
            let Some(feed) = session.feeds.iter().find(|feed| is_of(feed.slot)) else { continue };
            let Some(track) = self.fanout.reader(feed.track).map(|reader| reader.track) else { continue };
            let Some(codec) = self.shared.owners.track_codec(track) else { continue };
            let words = if codec.kind() == Kind::Video { &stats.video } else { &stats.audio };
            words.set(&reception(&block, codec, now));
            if let Some(took) = feed.quality.round_trip(&block, now) {
                let micros = took.as_micros() as u64;
                stats.on_round_trip(micros);
                self.shared.link.histogram(self.index, HistogramId::RoundTrip).add(HistogramId::RoundTrip, micros);
            }
        }
    }

    /// A viewer with a picture asked for a keyframe; `again`: the newest one is sent to it once more, now.
    pub(super) fn count_freeze(now: Time, stats: &SessionStats, quality: &mut FeedQuality, newest: Option<u64>, again: bool) {
        match quality.waits {
            Some((since, _)) if again => {
                SessionStats::add(&stats.frozen_us, now.since(since).as_micros() as u64);
                quality.waits = None;
            }
            Some(_) => {}
            None => {
                SessionStats::add(&stats.freezes, 1);
                quality.waits = newest.filter(|_| !again).map(|newest| (now, newest));
            }
        }
    }

    /// Once a second: what was sent to a viewer, and how long it has been waiting.
    pub(super) fn show_quality(&mut self, session: &mut Session) {
        let (now, stats) = (self.now, self.quality(session.id.index));
        let (mut packets, mut octets) = (0, 0);
        for feed in &mut session.feeds {
            let Some(record) = self.table.feed(feed.slot) else { continue };
            packets += record.packets;
            octets += record.octets;
            let (Some((since, before)), Some(reader)) = (feed.quality.waits, self.fanout.reader(feed.track)) else { continue };
            let newest = reader.reel.keyframe().filter(|newest| *newest > before);
            let came_at = newest.and_then(|newest| reader.reel.slot(newest)).map(|slot| slot.meta.arrival);
            // A keyframe that has left the reel again came some time in the last second.
            let until = if newest.is_some() { came_at.unwrap_or(now).min(now) } else { now };
            SessionStats::add(&stats.frozen_us, until.since(since).as_micros() as u64);
            feed.quality.waits = if newest.is_some() { None } else { Some((now, before)) };
        }
        stats.packets.store(packets, Ordering::Relaxed);
        stats.octets.store(octets, Ordering::Relaxed);
        stats.shown_at.store(now.as_nanos(), Ordering::Relaxed);
    }
}

/// The picture a feed entered at is behind its cursor: another one's packet is, or the last one of its own.
fn picture_is_over(reel: &ReelReader, cursor: u64, (entry, timestamp): (u64, u32)) -> bool {
    if cursor <= entry {
        return false;
    }
    let last = cursor.checked_sub(1).and_then(|last| reel.slot(last)).map(|slot| slot.meta);
    // What has left the reel since is long over.
    last.is_none_or(|last| last.timestamp != timestamp || last.flags.contains(SlotFlags::FRAME_END))
}

fn reception(block: &ReportBlock, codec: Codec, now: Time) -> Reception {
    Reception {
        fraction_lost: block.fraction_lost,
        lost: u64::try_from(block.cumulative_lost).unwrap_or(0),
        jitter_us: u64::from(block.jitter) * 1_000_000 / u64::from(codec.clock_rate()),
        reported_at: now,
    }
}
