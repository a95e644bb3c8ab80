//! What a shard keeps of a session beside its record: the handshake while it is not lent out, expanded keys, feeds.
//!
//! Everything here can be made again from the record; nothing here is needed to know a session.

use super::Core;
use super::handshaker::{Connected, Done, Job, Step, Task};
use super::quality::FeedQuality;
use super::track::Source;
use crate::io::Path;
use spillway_proto::id::{SessionId, Side};
use spillway_proto::limits::{
    FEEDS_PER_SESSION_MAX, HANDSHAKE_EXPIRY, PUBLISHER_BPS_MAX, PUBLISHER_BURST, PUBLISHER_PACKETS_PER_SECOND_MAX,
};
use spillway_proto::link::command::{DtlsRole, Fingerprint, SessionState};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::link::quality::SessionStats;
use spillway_proto::session::dtls::{DtlsError, Handshake};
use spillway_proto::session::farewell::Farewell;
use spillway_proto::session::srtp::{Opener, Sealer};
use spillway_proto::stream::arrivals::Arrivals;
use spillway_proto::stream::resend::{Budget, Resends};
use spillway_proto::stream::start::Start;
use spillway_proto::time::Time;
use spillway_proto::wire::rtcp;
use std::net::SocketAddr;
use std::time::Duration;

/// Sources one BYE names (RFC 3550 section 6.6: a count of five bits).
const BYE_SOURCES_MAX: usize = 31;
/// Source of our receiver reports and requests; no media of ours has it.
pub const REPORT_SSRC: u32 = 1;

/// Where a session's handshake is.
pub enum Held {
    /// It has not begun, or is over.
    None,
    Here(Box<dyn Handshake>),
    /// Beside the shard (`handshaker`).
    Lent,
}

pub struct Session {
    pub id: SessionId,
    pub side: Side,
    pub handshake: Held,
    /// What is left of it once there are keys.
    pub farewell: Option<Farewell>,
    /// When the handshake wants to be called without a datagram.
    pub handshake_at: Time,
    pub handshake_began: Time,
    /// Its datagrams that came while it was lent out.
    pub heard: Vec<Vec<u8>>,
    /// A publisher's media that came before there were keys.
    pub early: Vec<(Path, Vec<u8>)>,
    /// Its checks that wait for a later tick.
    pub checks_waiting: u8,
    /// From then on our last flight may go out again.
    pub flight_resend_at: Time,
    pub opener: Option<Opener>,
    pub sealer: Option<Sealer>,
    /// Where we send: the selected pair.
    pub path: Option<Path>,
    /// The remote of which the kernel was told that it belongs to this shard (`io/steering`).
    pub steered: Option<SocketAddr>,
    pub feeds: Vec<Feed>,
    /// What its replays were sent is paid for until then (`Pacer`).
    pub replay_paid_until: Time,
    /// What answers to its NACKs may cost.
    pub answers: Budget,
    /// The tracks this session publishes.
    pub sources: Vec<Source>,
    /// When its packets arrived, of a publisher that negotiated transport-cc.
    pub arrivals: Option<Box<Arrivals>>,
    /// Last authenticated packet: a publisher that sends no checks lives by its media.
    pub media_at: Time,
    pub flood: FloodGate,
    /// A viewer that has not been sent a whole picture yet.
    pub joining: bool,
}

/// A publisher's share of the shard: a virtual clock that every packet moves on by what it may cost, and that may not
/// be ahead of ours by more than `PUBLISHER_BURST`.
#[derive(Clone, Copy)]
pub struct FloodGate {
    paid_until: Time,
}

impl FloodGate {
    const fn new() -> FloodGate {
        FloodGate { paid_until: Time::ZERO }
    }

    /// Whether one more packet may come. Asked before it is opened: what is refused costs no decryption.
    pub fn is_open(&self, now: Time) -> bool {
        self.paid_until <= now + PUBLISHER_BURST
    }

    /// A packet of `bytes` came. Only authentic ones count: whoever forges the publisher's address must not be able to
    /// spend its share.
    pub fn on_packet(&mut self, now: Time, bytes: usize) {
        let by_bytes = bytes as u64 * 8 * NANOS / PUBLISHER_BPS_MAX;
        let cost = by_bytes.max(NANOS / PUBLISHER_PACKETS_PER_SECOND_MAX);
        self.paid_until = self.paid_until.max(now) + Duration::from_nanos(cost);
    }
}

const NANOS: u64 = 1_000_000_000;

/// A feed's state beside its record.
pub struct Feed {
    pub slot: u32,
    pub track: u32,
    pub clock_rate: u32,
    pub start: Start,
    /// The first live packet went out: sender reports may follow.
    pub live_sent: bool,
    /// A report is due at once, for the first live packet.
    pub report_now: bool,
    /// What the viewer asked for again.
    pub resends: Resends,
    /// How many packets of the reel's late list it has heard of.
    pub late_seen: u64,
    pub quality: FeedQuality,
}

impl Session {
    pub fn new(id: SessionId, side: Side, now: Time) -> Session {
        Session {
            id,
            side,
            handshake: Held::None,
            farewell: None,
            handshake_at: Time::NEVER,
            handshake_began: Time::NEVER,
            heard: Vec::new(),
            early: Vec::new(),
            checks_waiting: 0,
            flight_resend_at: Time::ZERO,
            opener: None,
            sealer: None,
            path: None,
            steered: None,
            feeds: Vec::with_capacity(2),
            replay_paid_until: Time::ZERO,
            answers: Budget::default(),
            sources: Vec::with_capacity(2),
            arrivals: None,
            media_at: now,
            flood: FloodGate::new(),
            joining: side == Side::Viewer,
        }
    }

    /// When its handshake is to be looked at: at its own wish, for what came, or to be ended. One that has heard no
    /// whole message waits for nothing, and would stay.
    pub fn handshake_due(&self) -> Time {
        let end = self.handshake_began + HANDSHAKE_EXPIRY + Duration::from_nanos(1);
        match self.handshake {
            Held::Here(_) if !self.heard.is_empty() => Time::ZERO,
            Held::Here(_) => self.handshake_at.min(end),
            Held::None | Held::Lent => end,
        }
    }

    /// Its handshake has begun and is not over.
    pub fn is_shaking_hands(&self) -> bool {
        self.sealer.is_none() && !matches!(self.handshake, Held::None)
    }

    pub fn has_room_for_feed(&self) -> bool {
        self.feeds.len() < FEEDS_PER_SESSION_MAX
    }
}

impl Core {
    /// Begins the handshake once the first pair passed its check. Where so many run that there is no room, with a later check.
    pub fn begin_handshake(&mut self, slot: u32) {
        let now = self.now;
        if !self.lending.has_room() {
            return;
        }
        let Some(record) = self.table.session(slot) else { return };
        record.state = SessionState::Handshake as u8;
        let role = if record.dtls_role == DtlsRole::Client as u8 { DtlsRole::Client } else { DtlsRole::Server };
        let task = Task::Begin { role, fingerprint: Fingerprint(record.fingerprint) };
        let Some(session) = self.session_mut(slot) else { return };
        session.handshake = Held::Lent;
        session.handshake_began = now;
        let job = Job { session: session.id, task, datagrams: Vec::new() };
        self.timers.add_handshake(slot);
        self.timers.look_at_handshakes(now, now + HANDSHAKE_EXPIRY);
        self.lending.lend(job);
    }

    /// A datagram came for it, or its time: it goes out, if it is here and there is room.
    pub fn go_on_with_handshake(&mut self, slot: u32) {
        let now = self.now;
        let has_room = self.lending.has_room();
        let Some(session) = self.session_mut(slot) else { return };
        if session.sealer.is_none() && now.since(session.handshake_began) > HANDSHAKE_EXPIRY {
            return self.close_session(slot, CloseReason::HandshakeFailed);
        }
        if !matches!(session.handshake, Held::Here(_)) {
            return;
        }
        if !has_room {
            return self.timers.look_at_handshakes(now, now);
        }
        if let Held::Here(handshake) = std::mem::replace(&mut session.handshake, Held::Lent) {
            let datagrams = std::mem::take(&mut session.heard);
            let job = Job { session: session.id, task: Task::GoOn(handshake), datagrams };
            self.lending.lend(job);
        }
    }

    /// Handshakes that come back, so many at most: what became of them, and what they have to say. True: there are more, or there is
    /// something for fan-out, which had its turn.
    pub fn take_handshakes_back(&mut self, max: usize) -> bool {
        let mut connected = false;
        for _ in 0..max {
            let Some(done) = self.lending.take_back() else { break };
            connected |= matches!(done.outcome, Ok(Step::Connected(_)));
            self.take_handshake_back(done);
        }
        connected || !self.lending.is_empty()
    }

    fn take_handshake_back(&mut self, done: Done) {
        let Done { session: id, handshake, said, outcome, heard, unheard, took } = done;
        self.tally.add(CounterId::HandshakeNs, took.as_nanos() as u64);
        self.heard_waiting -= heard;
        let (now, slot) = (self.now, id.index);
        // One that is gone leaves its handshake; its slot may be another's by now.
        let Some(session) = self.session_mut(slot).filter(|session| session.id == id) else { return };
        session.handshake = handshake.map_or(Held::None, Held::Here);
        let path = session.path;
        for datagram in said {
            if let Some(path) = &path {
                self.outbox.put(path, |out| {
                    out.get_mut(..datagram.len())?.copy_from_slice(&datagram);
                    Some(datagram.len())
                });
            }
        }
        match outcome {
            Ok(Step::Wait(at)) => {
                let Some(session) = self.session_mut(slot) else { return };
                session.handshake_at = at;
                match session.handshake_due() {
                    // What came meanwhile goes out at once; a look at it later would wake the shard for nothing.
                    due if due <= now => self.go_on_with_handshake(slot),
                    due => self.timers.look_at_handshakes(now, due),
                }
            }
            Ok(Step::Connected(connected)) => {
                self.connect(id, *connected);
                self.take_early_in(slot);
                // What came behind its end: its last flight again, or goodbye.
                let meanwhile = self.session_mut(slot).map(|session| std::mem::take(&mut session.heard)).unwrap_or_default();
                self.heard_waiting -= meanwhile.len();
                for datagram in unheard.chain(meanwhile) {
                    path.inspect(|path| self.handle_dtls(slot, path, &datagram));
                }
            }
            Ok(Step::Closed) => self.close_session(slot, CloseReason::RemoteClosed),
            Err(DtlsError::FingerprintMismatch) => {
                self.tally.add(CounterId::DtlsFailed, 1);
                self.close_session(slot, CloseReason::FingerprintMismatch);
            }
            Err(error) => {
                self.tally.add(CounterId::DtlsFailed, 1);
                self.note_error(&error);
                self.close_session(slot, CloseReason::HandshakeFailed);
            }
        }
    }

    /// The media that was there before the keys.
    fn take_early_in(&mut self, slot: u32) {
        let early = self.session_mut(slot).map(|session| std::mem::take(&mut session.early)).unwrap_or_default();
        self.early_waiting -= early.len();
        for (path, mut datagram) in early {
            self.handle_rtp(slot, &path, &mut datagram);
        }
    }

    fn connect(&mut self, id: SessionId, left: Connected) {
        let (now, slot) = (self.now, id.index);
        let Some(session) = self.session_mut(slot) else { return };
        (session.opener, session.sealer, session.farewell) = (Some(left.opener), Some(left.sealer), left.farewell);
        session.media_at = now;
        // Now: a look at it later would wake the shard for nothing.
        self.timers.end_handshake(slot);
        // What the session needs to go on in another process.
        if let Some(record) = self.table.session(slot) {
            record.state = SessionState::Connected as u8;
            record.profile = left.keys.profile as u16;
            record.receive_key = left.keys.receive;
            record.send_key = left.keys.send;
            record.close_notify = left.close;
            record.last_flight = left.last_flight;
        }
        self.tally.add(CounterId::DtlsHandshakes, 1);
        self.connected += 1;
        self.fanout.set_connected(slot, true);
        SessionStats::step(&self.quality(slot).connected_at, now);
        self.tell(&Event::SessionConnected { session: id, profile: left.keys.profile as u16 });
        self.start_feeds(slot);
    }

    /// Ends a session: says goodbye, forgets keys and pairs, tells control why.
    pub fn close_session(&mut self, slot: u32, reason: CloseReason) {
        let Some(mut session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return };
        self.say_goodbye(&mut session);
        self.heard_waiting -= session.heard.len();
        self.early_waiting -= session.early.len();
        for feed in &session.feeds {
            self.fanout.unsubscribe(&self.shared, self.index, feed.track, slot);
            self.table.remove_feed(feed.slot);
        }
        for source in &session.sources {
            self.orphan_track(source.track, slot);
        }
        if let Some(record) = self.table.session(slot) {
            let pairs = usize::from(record.pairs).min(record.pair.len());
            for pair in &record.pair[..pairs] {
                self.shared.directory.remove(pair, slot);
            }
        }
        if session.steered.is_some() {
            self.shared.steering.forget(slot);
        }
        self.table.remove_session(slot);
        self.timers.remove(slot);
        self.tally_sessions(session.side, -1);
        self.connected -= usize::from(session.sealer.is_some());
        self.fanout.set_connected(slot, false);
        self.tally.add(CounterId::SessionsRemoved, 1);
        self.tally.add(CounterId::ConsentExpired, u64::from(reason == CloseReason::ConsentExpired));
        self.tell(&Event::SessionClosed { session: session.id, reason });
    }

    /// RTCP BYE for what we sent, and the sealed close_notify.
    fn say_goodbye(&mut self, session: &mut Session) {
        let Some(path) = session.path else { return };
        let ssrcs: Vec<u32> = session
            .feeds
            .iter()
            .filter_map(|feed| self.table.feed(feed.slot).map(|record| record.ssrc))
            .take(BYE_SOURCES_MAX)
            .collect();
        if !ssrcs.is_empty() {
            self.send_rtcp(session, |out| {
                let mut length = rtcp::write_rr(out, ssrcs[0], &[])?;
                length += rtcp::write_bye(&mut out[length..], &ssrcs)?;
                Some(length)
            });
        }
        let slot = session.id.index;
        let Some(record) = self.table.session(slot) else { return };
        let close = record.close_notify;
        self.outbox.put(&path, |out| {
            let length = close.length as usize;
            out.get_mut(..length)?.copy_from_slice(close.bytes.get(..length)?);
            Some(length)
        });
    }

    /// Seals a compound that `write` makes and puts it in the outbox.
    pub fn send_rtcp(&mut self, session: &Session, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
        let (Some(path), Some(sealer)) = (&session.path, &session.sealer) else { return false };
        let Some(record) = self.table.session(session.id.index) else { return false };
        let mut plain = [0u8; 1_024];
        let Some(length) = write(&mut plain) else { return false };
        // Advanced before the seal: a kill in between may skip an index, never repeat one.
        let index = record.srtcp_index.load(std::sync::atomic::Ordering::Relaxed);
        record.srtcp_index.store(index + 1, std::sync::atomic::Ordering::Release);
        let index = (index & 0x7FFF_FFFF) as u32;
        let sent = self.outbox.put(path, |out| sealer.seal_rtcp_into(&plain[..length], index, out));
        self.tally.add(CounterId::RtcpSent, u64::from(sent));
        sent
    }

    pub fn note_error(&mut self, error: &dyn std::error::Error) {
        // Rare by definition: an error of one handshake, not of a packet.
        self.shared.link.errors(self.index).note(self.now, &error.to_string());
    }

    pub fn tally_sessions(&mut self, side: Side, change: i64) {
        let id = match side {
            Side::Publisher => CounterId::SessionsPublisher,
            Side::Viewer => CounterId::SessionsViewer,
        };
        let counters = self.shared.link.counters(self.index);
        counters.set(id, counters.get(id).saturating_add_signed(change));
    }
}
