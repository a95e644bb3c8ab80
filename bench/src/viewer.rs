//! One viewer: a session, a ledger, and what it makes of each datagram. The crowd's thread drives it.

use crate::burst::Around;
use crate::crowd::{Manner, Tally};
use crate::histogram::Histogram;
use crate::ledger::{Entry, Heard, Ledger, NACK_INTERVAL};
use crate::remote::{Event, Keys, Remote};
use crate::source::{self, Stamp, StampKind};
use crate::sys;
use crate::target::Joined;
use crate::totals::{Account, Phases};
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::{rtcp, rtp};
use std::sync::atomic::Ordering;
use std::time::Duration;

const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Blocks of one receiver report.
const BLOCKS_MAX: usize = 4;
const OWN_SSRC: u32 = 0xBE_4C_00_01;

/// A picture packet younger than this is live: what is older is a replay.
const LIVE_AGE: Duration = Duration::from_millis(150);

pub struct Viewer {
    pub number: u64,
    pub remote: Option<Remote>,
    pub phases: Phases,
    pub ledger: Ledger,
    pub rtx_pt: Option<u8>,
    /// Sum and number of its packets' latencies.
    pub latency_ns: (u64, u64),
    /// None: it has left, and the place is free.
    pub joined: Option<Joined>,
    pub witness: bool,
    /// It came with the others of a burst.
    pub of_burst: bool,
    pub keys: Option<Keys>,
    pub profile: Option<&'static str>,
    pub failure: Option<String>,
    pub report_at: Duration,
    pub leave_at: Duration,
    /// Its entry among the timers; an earlier one counts, others are stale.
    pub armed: Duration,
    /// Looked at in turn, no more woken for.
    pub watched: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Nothing,
    Refused,
    Connected,
    FirstFrame,
}

impl Viewer {
    pub fn deadline(&self) -> Duration {
        self.remote.as_ref().map_or(Duration::MAX, Remote::deadline).min(self.report_at).min(self.leave_at)
    }

    pub fn hear(&mut self, now: Duration, event: Event) -> Taken {
        match event {
            Event::Nothing => Taken::Nothing,
            Event::Reached => {
                self.phases.reached = Some(now);
                Taken::Nothing
            }
            Event::Connected(keys) => {
                self.phases.connected = Some(now);
                self.profile = Some(keys.profile);
                self.keys = Some(keys);
                self.report_at = now + REPORT_INTERVAL;
                Taken::Connected
            }
        }
    }

    pub fn take(
        &mut self,
        now: Duration,
        datagram: &mut [u8],
        at_ns: u64,
        manner: Manner,
        tally: &Tally,
        measured: &mut Measured<'_>,
    ) -> Result<Taken, String> {
        let Some(remote) = self.remote.as_mut() else { return Ok(Taken::Nothing) };
        match classify(datagram) {
            Class::Stun => {
                let event = remote.handle_stun(now, datagram)?;
                Ok(self.hear(now, event))
            }
            Class::Dtls => {
                let event = remote.handle_dtls(now, datagram)?;
                Ok(self.hear(now, event))
            }
            Class::Rtp if self.phases.connected.is_some() => Ok(self.take_media(now, datagram, at_ns, manner, tally, measured)),
            _ => Ok(Taken::Nothing),
        }
    }

    fn take_media(
        &mut self,
        now: Duration,
        datagram: &[u8],
        at_ns: u64,
        manner: Manner,
        tally: &Tally,
        measured: &mut Measured<'_>,
    ) -> Taken {
        let Ok(header) = rtp::parse_header(datagram) else { return Taken::Refused };
        if self.phases.first_packet.is_none() {
            self.phases.first_packet = Some(now);
            self.ledger.begin(sys::unix_ns());
        }
        let mut entry = Entry {
            payload_type: header.payload_type,
            ssrc: header.ssrc,
            sequence: header.sequence,
            marker: header.marker || manner.audio_only,
            of_keyframe: false,
        };
        let is_resent = Some(header.payload_type) == self.rtx_pt;
        if self.ledger.throws_away(&entry, is_resent) {
            return Taken::Nothing;
        }
        let (mut stamp, mut original, mut is_intact) = (None, None, true);
        if self.witness || is_resent {
            let Some(keys) = self.keys.as_mut() else { return Taken::Nothing };
            let Ok(plain) = keys.open.decrypt_rtp(datagram) else { return Taken::Refused };
            let mut payload = payload_of(&plain, &header);
            if is_resent {
                // RFC 4588 section 4: the original sequence number, then what the packet held. Padding alone has neither.
                let Some((number, rest)) = payload.split_first_chunk::<2>() else { return Taken::Nothing };
                (original, payload) = (Some(u16::from_be_bytes(*number)), rest);
            }
            stamp = Stamp::read(payload).filter(|stamp| stamp.run == manner.run);
            entry.of_keyframe = stamp.as_ref().is_some_and(|stamp| stamp.of_keyframe);
            // In the books of who opens some packets and not all, stamps would be holes.
            stamp = stamp.filter(|_| self.witness);
            is_intact = stamp.as_ref().is_none_or(|stamp| source::is_intact(payload, stamp));
        } else if self.ledger.seeks_keyframe()
            && let Some(keys) = self.keys.as_mut()
        {
            // Of what was read before the hole was seen there is the head alone, which does not open.
            let plain = keys.open.decrypt_rtp(datagram).ok();
            let stamp = plain.and_then(|plain| Stamp::read(payload_of(&plain, &header)));
            entry.of_keyframe = stamp.is_some_and(|stamp| stamp.run == manner.run && stamp.of_keyframe);
        }
        if let Some(stamp) = &stamp {
            let age = Duration::from_nanos(at_ns.saturating_sub(stamp.sent_ns));
            if self.phases.live.is_none() && stamp.kind == StampKind::Video && at_ns > 0 && age < LIVE_AGE + manner.delay {
                // It may have waited for its turn here.
                self.phases.live = Some(now.saturating_sub(Duration::from_nanos(sys::unix_ns().saturating_sub(at_ns))));
            }
            // What was published before this viewer came is a replay, and no latency.
            let from = tally.window_from_ns.load(Ordering::Relaxed).max(self.ledger.began_ns());
            let to = tally.window_to_ns.load(Ordering::Relaxed);
            if (from..to).contains(&stamp.sent_ns) && at_ns > 0 {
                measured.opened.packets += 1;
                measured.opened.altered += u64::from(!is_intact);
                let latency = at_ns.saturating_sub(stamp.sent_ns);
                let of_kind = match (stamp.kind, stamp.of_keyframe) {
                    (StampKind::Audio, _) => &mut *measured.audio_ns,
                    (StampKind::Video, false) => &mut *measured.video_ns,
                    (StampKind::Video, true) => &mut *measured.keyframe_ns,
                };
                of_kind.add(latency);
                self.latency_ns = (self.latency_ns.0 + latency, self.latency_ns.1 + 1);
                measured.seconds.add(at_ns, latency);
                if let Some(moment) = tally.burst.moment(stamp.sent_ns).filter(|_| !self.of_burst) {
                    measured.around.add(moment, latency);
                }
            }
        }
        let heard = match original {
            Some(number) => self.ledger.take_resent(now, number, &entry, stamp.as_ref()),
            None => self.ledger.take(now, &entry, stamp.as_ref()),
        };
        match heard {
            Heard::Nothing => Taken::Nothing,
            Heard::Hole => {
                if self.report_at != Duration::MAX {
                    self.report_at = self.report_at.min(now + NACK_INTERVAL);
                }
                Taken::Nothing
            }
            Heard::FirstFrame => {
                self.phases.first_frame = Some(now);
                if self.of_burst {
                    return Taken::FirstFrame;
                }
                let ttff = now.saturating_sub(self.phases.scheduled).as_micros() as u64;
                tally.ttff_us.fetch_add(ttff, Ordering::Relaxed);
                tally.ttff_us_max.fetch_max(ttff, Ordering::Relaxed);
                Taken::FirstFrame
            }
        }
    }

    /// A receiver report each second, and requests for what is missing.
    pub fn report(&mut self, now: Duration, recover: bool) {
        let Some(keys) = self.keys.as_mut() else { return };
        let Some(remote) = self.remote.as_ref() else { return };
        let mut out = [0; 1_200];
        let Some(mut length) = rtcp::write_rr(&mut out, OWN_SSRC, &self.ledger.blocks(BLOCKS_MAX)) else { return };
        if recover {
            for (ssrc, wanted) in self.ledger.wanted(now) {
                if let Some(added) = rtcp::write_nack(&mut out[length..], OWN_SSRC, ssrc, &wanted) {
                    length += added;
                }
            }
        }
        if let Ok(sealed) = keys.seal.encrypt_rtcp(&out[..length]) {
            remote.send(&sealed);
        }
        self.report_at = now + if self.ledger.has_requests() { NACK_INTERVAL } else { REPORT_INTERVAL };
    }

    /// `stopped`: until when it was due something; none: it has left before.
    pub fn account(&self, stopped: Option<Duration>) -> Account {
        Account {
            phases: self.phases,
            failure: self.failure.clone(),
            profile: self.profile,
            sums: self.ledger.sums(),
            latency_ns: self.latency_ns,
            silent: stopped.zip(self.ledger.newest_at()).map_or(Duration::ZERO, |(end, newest)| end.saturating_sub(newest)),
            socket_drops: self.remote.as_ref().map_or(0, |remote| sys::drops(&remote.socket)),
        }
    }
}

/// RFC 3550 section 5.1: the last byte of padding says how much there is.
fn payload_of<'p>(plain: &'p [u8], header: &rtp::RtpHeader) -> &'p [u8] {
    let padding = if header.padding { plain.last().copied().unwrap_or_default() } else { 0 };
    let end = plain.len().saturating_sub(usize::from(padding));
    plain.get(header.header_len..end).unwrap_or_default()
}

/// Where latencies go.
pub struct Measured<'c> {
    pub audio_ns: &'c mut Histogram,
    pub video_ns: &'c mut Histogram,
    pub keyframe_ns: &'c mut Histogram,
    pub seconds: &'c mut Seconds,
    pub around: &'c mut Around,
    pub opened: &'c mut Opened,
}

/// Packets of the hold that witnesses opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Opened {
    pub packets: u64,
    /// Of these, not what was published.
    pub altered: u64,
}

/// Latency second by second.
#[derive(Default)]
pub struct Seconds {
    current: u64,
    histogram: Option<Histogram>,
    pub done: Vec<(u64, f64, f64, f64)>,
}

impl Seconds {
    pub fn add(&mut self, at_ns: u64, latency_ns: u64) {
        let second = at_ns / 1_000_000_000;
        if second != self.current {
            self.close();
            self.current = second;
        }
        self.histogram.get_or_insert_with(Histogram::new).add(latency_ns);
    }

    pub fn close(&mut self) {
        let Some(histogram) = self.histogram.take() else { return };
        let at = |quantile: f64| histogram.at(quantile).unwrap_or_default() / 1e3;
        self.done.push((self.current, at(0.5), at(0.99), at(0.999)));
    }
}
