//! What publishers are asked to send again: the losses of each track, merged into one request per tick.
//!
//! Asked for is only what this shard itself missed on the way from the publisher, and only of a publisher that
//! negotiated it (RFC 4585 section 4.2). What viewers lost is answered from the reel (`resend`).

use super::Core;
use super::session::REPORT_SSRC;
use spillway_proto::limits::LOSSES_PER_REQUEST_MAX;
use spillway_proto::link::counters::CounterId;
use spillway_proto::stream::nack::{Arrival, Losses};
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp;
use std::time::Duration;

/// One track's losses.
pub struct Repair {
    /// None: its publisher is not asked.
    losses: Option<Losses>,
    /// It stands in `Tracks::repairing`.
    listed: bool,
    leapt: bool,
    /// Packets that came because they were asked for, of all publishers of the track.
    recovered: u64,
}

impl Repair {
    pub fn new() -> Repair {
        Repair { losses: None, listed: false, leapt: false, recovered: 0 }
    }

    /// Another publisher from now on: what the former one lost is nobody's any more.
    pub fn begin(&mut self, asks: bool) {
        self.losses = asks.then(Losses::new);
        self.leapt = false;
    }

    /// A packet went into the reel. True: it came because it was asked for.
    pub fn on_packet(&mut self, now: Time, source_index: u64) -> bool {
        match self.losses.as_mut().map(|losses| losses.on_packet(now, source_index)) {
            Some(Arrival::Filled { asked }) => {
                self.recovered += u64::from(asked);
                asked
            }
            Some(Arrival::Leap) => {
                self.leapt = true;
                false
            }
            _ => false,
        }
    }

    /// How long packets that were asked for take to come, and how many came.
    pub fn seen(&self) -> (Option<Duration>, u64) {
        (self.losses.as_ref().and_then(Losses::round_trip), self.recovered)
    }

    /// More was lost than can be asked for: a keyframe is needed.
    pub fn take_leap(&mut self) -> bool {
        std::mem::take(&mut self.leapt)
    }

    /// True if something is missing and the track is to be listed for it.
    pub fn begins(&mut self) -> bool {
        let missing = self.losses.as_ref().is_some_and(|losses| !losses.is_empty());
        missing && !std::mem::replace(&mut self.listed, true)
    }
}

impl Core {
    /// Asks for what is due. Costs nothing while nothing is missing.
    pub fn repair_tracks(&mut self) {
        self.tracks.repair_at = Time::NEVER;
        let mut at = 0;
        while let Some(&index) = self.tracks.repairing.get(at) {
            let deadline = self.repair_track(index);
            if deadline == Time::NEVER {
                self.tracks.repairing.swap_remove(at);
                if let Some(track) = self.tracks.get(index) {
                    track.repair.listed = false;
                }
            } else {
                self.tracks.repair_at = self.tracks.repair_at.min(deadline);
                at += 1;
            }
        }
    }

    /// When the track is to be looked at again.
    fn repair_track(&mut self, index: u32) -> Time {
        let now = self.now;
        let Some(track) = self.tracks.get(index) else { return Time::NEVER };
        let (slot, ssrc) = (track.session, track.ssrc);
        let Some(losses) = track.repair.losses.as_mut() else { return Time::NEVER };
        if losses.deadline() > now {
            return losses.deadline();
        }
        let mut lost = [0; LOSSES_PER_REQUEST_MAX];
        let count = losses.poll(now, &mut lost);
        let deadline = losses.deadline();
        let Some(session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return Time::NEVER };
        if count > 0 {
            // RFC 4585 section 3.1: feedback goes in a compound that begins with a report.
            let sent = self.send_rtcp(&session, |out| {
                let length = rtcp::write_rr(out, REPORT_SSRC, &[])?;
                Some(length + rtcp::write_nack(&mut out[length..], REPORT_SSRC, ssrc, &lost[..count])?)
            });
            self.tally.add(CounterId::NacksSent, if sent { count as u64 } else { 0 });
        }
        self.sessions[slot as usize] = Some(session);
        deadline
    }
}
