//! From a datagram to the session it belongs to, on this shard or another.
//!
//! STUN names its session in the ufrag; everything else is found by (local, remote) in the directory, which
//! holds only pairs that passed MESSAGE-INTEGRITY. A datagram of a stranger gets no answer and leaves no
//! state: it is counted and dropped.

use super::session::Held;
use super::{CHECKS_WAITING_MAX, CHECKS_WAITING_PER_SESSION_MAX, Core, EARLY_MAX, EARLY_PER_SESSION_MAX};
use super::{FLIGHT_RESEND_INTERVAL, HEARD_MAX, HEARD_PER_SESSION_MAX};
use crate::io::Path;
use spillway_proto::id::{SessionId, Side};
use spillway_proto::limits::FEEDS_PER_SESSION_MAX;
use spillway_proto::link::command::SessionState;
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::CloseReason;
use spillway_proto::link::quality::SessionStats;
use spillway_proto::session::dtls::{AfterHandshake, classify_late};
use spillway_proto::session::ice::{self, IceOutcome, Refusal};
use spillway_proto::session::record::Pair;
use spillway_proto::session::srtp::{OpenError, Window};
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtcp::{self, Rtcp};
use spillway_proto::wire::stun;

/// A connectivity check that waits; a place of its own, as viewers' consent comes all the time.
pub struct Check {
    id: SessionId,
    path: Path,
    length: usize,
    bytes: [u8; Check::BYTES_MAX],
}

impl Check {
    /// With the longest names that RFC 8839 allows a check has some 400.
    const BYTES_MAX: usize = 512;

    fn new(id: SessionId, path: &Path, datagram: &[u8]) -> Option<Check> {
        let mut bytes = [0; Check::BYTES_MAX];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Check { id, path: *path, length: datagram.len(), bytes })
    }

    fn datagram(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Core {
    /// A datagram the kernel gave to this shard.
    pub fn handle_datagram(&mut self, path: &Path, datagram: &mut [u8]) {
        let class = classify(datagram);
        let slot = match class {
            Class::Stun => stun_slot(datagram),
            Class::Dtls | Class::Rtp | Class::Rtcp => self.shared.directory.find(&pair_of(path)),
            Class::Unknown => None,
        };
        let Some((slot, owner)) = slot.and_then(|slot| Some((slot, self.shared.owners.of_session(slot)?))) else {
            let counter = if class == Class::Dtls { CounterId::DtlsRefused } else { CounterId::DatagramsUnknown };
            self.tally.add(counter, 1);
            return;
        };
        if owner == self.index {
            self.handle_own(class, slot, path, datagram);
            return;
        }
        self.tally.add(CounterId::StrayDatagrams, 1);
        if self.strays.send(owner, path, datagram) {
            self.shared.wake(owner);
        } else {
            self.tally.add(CounterId::MeshDropped, 1);
        }
    }

    /// Datagrams other shards received for our sessions. True if there were any.
    pub fn receive_strays(&mut self, max: usize) -> bool {
        for n in 0..max {
            let Some(mut stray) = self.strays.receive() else { return n > 0 };
            let path = stray.path;
            let datagram = stray.bytes_mut();
            let class = classify(datagram);
            let slot = match class {
                Class::Stun => stun_slot(datagram),
                _ => self.shared.directory.find(&pair_of(&path)),
            };
            match slot {
                Some(slot) => {
                    self.handle_own(class, slot, &path, datagram);
                    if class == Class::Rtp {
                        self.steer(slot, &path);
                    }
                }
                None => self.tally.add(CounterId::DatagramsUnknown, 1),
            }
        }
        true
    }

    /// A publisher's media came to another shard: from now on the kernel gives it to this one.
    fn steer(&mut self, slot: u32, path: &Path) {
        let Some(session) = self.sessions.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        // Where we send to is a pair that passed its check: whoever writes other addresses into datagrams moves nothing.
        if session.side == Side::Publisher && session.path == Some(*path) && session.steered != Some(path.remote) {
            session.steered = Some(path.remote);
            self.shared.steering.steer(slot, path.remote, self.index);
        }
    }

    fn handle_own(&mut self, class: Class, slot: u32, path: &Path, datagram: &mut [u8]) {
        match class {
            Class::Stun => self.take_check(slot, path, datagram),
            Class::Dtls => self.handle_dtls(slot, path, datagram),
            Class::Rtp => self.handle_rtp(slot, path, datagram),
            Class::Rtcp => self.handle_rtcp(slot, path, datagram),
            Class::Unknown => {}
        }
    }

    /// The first few of a tick are answered at once, the others when media is out: five hundred who come together cost 12 ms.
    fn take_check(&mut self, slot: u32, path: &Path, datagram: &[u8]) {
        if self.checks_left > 0 && self.checks.is_empty() {
            self.checks_left -= 1;
            return self.answer_check(slot, path, datagram);
        }
        let full = self.checks.len() >= CHECKS_WAITING_MAX;
        // Who does not know the name of the session takes nobody's place in the queue.
        let named = match stun::parse(datagram) {
            Ok(stun::Message::Request(request)) => self.table.session(slot).is_some_and(|record| ice::is_named(record, &request)),
            _ => false,
        };
        let session = self.session_mut(slot).filter(|session| named && !full && session.checks_waiting < CHECKS_WAITING_PER_SESSION_MAX);
        let check = session.and_then(|session| Check::new(session.id, path, datagram).inspect(|_| session.checks_waiting += 1));
        match check {
            Some(check) => self.checks.push_back(check),
            None => self.tally.add(CounterId::StunRefused, 1),
        }
    }

    /// Those that wait, as many as this tick has left. True if more wait.
    pub fn answer_checks(&mut self) -> bool {
        while self.checks_left > 0
            && let Some(check) = self.checks.pop_front()
        {
            // A session that is gone leaves its datagrams; its slot may be another's by now.
            if let Some(session) = self.session_mut(check.id.index).filter(|session| session.id == check.id) {
                session.checks_waiting -= 1;
                self.checks_left -= 1;
                self.answer_check(check.id.index, &check.path, check.datagram());
            }
        }
        !self.checks.is_empty()
    }

    fn answer_check(&mut self, slot: u32, path: &Path, datagram: &[u8]) {
        let Ok(stun::Message::Request(request)) = stun::parse(datagram) else {
            self.tally.add(CounterId::StunRefused, 1);
            return;
        };
        let now = self.now;
        let pair = pair_of(path);
        let Some(record) = self.table.session(slot) else {
            self.tally.add(CounterId::StunRefused, 1);
            return;
        };
        let mut outcome = IceOutcome::Refused(Refusal::NoRoom);
        self.outbox.put(path, |out| {
            outcome = ice::handle_request(record, &request, pair, path.remote, now, out);
            match outcome {
                IceOutcome::Answered { length, .. } => Some(length),
                IceOutcome::Refused(_) => None,
            }
        });
        let IceOutcome::Answered { new_pair, replaced, selected_changed, .. } = outcome else {
            self.tally.add(CounterId::StunRefused, 1);
            return;
        };
        self.tally.add(CounterId::StunAnswered, 1);
        let selected = ice::selected(record);
        let is_new = record.state == SessionState::New as u8;
        if let Some(gone) = replaced {
            self.shared.directory.remove(&gone, slot);
        }
        // The pair is whose check came last: with another session's name in it, made by somebody who writes the
        // remote's address into a datagram, it comes back with the next check.
        if new_pair || self.shared.directory.find(&pair) != Some(slot) {
            self.shared.directory.insert(&pair, slot);
        }
        if new_pair || selected_changed {
            if let (Some(session), Some(pair)) = (self.session_mut(slot), selected) {
                session.path = Some(Path { local: pair.local.to_socket_addr(), remote: pair.remote.to_socket_addr() });
            }
        }
        if is_new {
            SessionStats::step(&self.quality(slot).checked_at, now);
            self.begin_handshake(slot);
        }
    }

    /// Only from a pair that passed MESSAGE-INTEGRITY; the handshake itself is driven beside the shard.
    pub fn handle_dtls(&mut self, slot: u32, path: &Path, datagram: &[u8]) {
        let knows = self.table.session(slot).is_some_and(|record| ice::knows(record, pair_of(path)));
        let full = self.heard_waiting >= HEARD_MAX;
        let Some(session) = self.session_mut(slot).filter(|session| knows && (session.is_shaking_hands() || session.sealer.is_some())) else {
            self.tally.add(CounterId::DtlsRefused, 1);
            return;
        };
        if session.sealer.is_some() && classify_late(datagram) == AfterHandshake::Resend {
            self.resend_last_flight(slot, path);
        } else if matches!(session.handshake, Held::None) {
            if session.farewell.is_some_and(|farewell| farewell.is_said_by(datagram)) {
                return self.close_session(slot, CloseReason::RemoteClosed);
            }
            self.tally.add(CounterId::DtlsRefused, 1);
        } else if full || session.heard.len() >= HEARD_PER_SESSION_MAX {
            self.tally.add(CounterId::DtlsRefused, 1);
        } else {
            session.heard.push(datagram.to_vec());
            self.heard_waiting += 1;
            self.go_on_with_handshake(slot);
        }
    }

    /// The remote missed our last flight; each of its resends is answered by one small datagram.
    fn resend_last_flight(&mut self, slot: u32, path: &Path) {
        let now = self.now;
        let Some(session) = self.session_mut(slot).filter(|session| session.flight_resend_at <= now) else { return };
        session.flight_resend_at = now + FLIGHT_RESEND_INTERVAL;
        let Some(record) = self.table.session(slot) else { return };
        let flight = record.last_flight;
        self.outbox.put(path, |out| {
            let bytes = flight.bytes.get(..flight.length as usize)?;
            out.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(bytes.len())
        });
    }

    pub fn handle_rtp(&mut self, slot: u32, path: &Path, datagram: &mut [u8]) {
        if !self.table.session(slot).is_some_and(|record| ice::knows(record, pair_of(path))) {
            self.tally.add(CounterId::DatagramsUnknown, 1);
            return;
        }
        let now = self.now;
        let Some(mut session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return };
        if !session.flood.is_open(now) {
            self.tally.add(CounterId::PacketsRefusedFlood, 1);
        } else if let Some(opener) = session.opener.as_mut().filter(|_| session.side == Side::Publisher) {
            match opener.open_rtp(datagram) {
                Ok(opened) => {
                    session.flood.on_packet(now, datagram.len());
                    let window = opener.window(opened.ssrc).map(Window::kept);
                    self.take_in(&mut session, &opened, window, datagram);
                }
                Err(error) => self.tally.add(refusal(&error), 1),
            }
        } else if session.side == Side::Publisher && session.is_shaking_hands() {
            if self.early_waiting < EARLY_MAX && session.early.len() < EARLY_PER_SESSION_MAX {
                session.early.push((*path, datagram.to_vec()));
                self.early_waiting += 1;
            } else {
                self.tally.add(CounterId::PacketsRefusedFlood, 1);
            }
        }
        self.sessions[slot as usize] = Some(session);
    }

    fn handle_rtcp(&mut self, slot: u32, path: &Path, datagram: &mut [u8]) {
        if !self.table.session(slot).is_some_and(|record| ice::knows(record, pair_of(path))) {
            self.tally.add(CounterId::DatagramsUnknown, 1);
            return;
        }
        let Some(mut session) = self.sessions.get_mut(slot as usize).and_then(Option::take) else { return };
        let opened = session.opener.as_mut().map(|opener| opener.open_rtcp(datagram));
        let mut gone = false;
        match opened {
            Some(Ok(length)) => {
                self.tally.add(CounterId::RtcpReceived, 1);
                for packet in rtcp::packets(&datagram[..length]) {
                    match session.side {
                        Side::Publisher => gone |= self.hear_publisher(&mut session, &packet),
                        Side::Viewer => self.hear_viewer(&mut session, &packet),
                    }
                }
            }
            Some(Err(_)) => self.tally.add(CounterId::RtcpRefused, 1),
            None => {}
        }
        self.sessions[slot as usize] = Some(session);
        if gone {
            self.close_session(slot, CloseReason::RemoteClosed);
        }
    }

    /// A viewer's requests. What a viewer lost is answered from the reel, never upstream.
    fn hear_viewer(&mut self, session: &mut super::session::Session, packet: &Rtcp<'_>) {
        match packet {
            Rtcp::Pli { media, .. } => self.hear_keyframe_request(session, *media),
            Rtcp::Fir { entries, .. } => {
                let entries = entries.clone().take(FEEDS_PER_SESSION_MAX);
                entries.for_each(|entry| self.hear_keyframe_request(session, entry.media));
            }
            Rtcp::Nack { media, losses, .. } => {
                self.hear_replay_losses(session, *media, losses.clone());
                self.hear_nack(session, *media, losses.clone());
            }
            Rtcp::ReceiverReport { blocks, .. } | Rtcp::SenderReport { blocks, .. } => self.hear_report(session, blocks.clone()),
            _ => {}
        }
    }
}

pub fn pair_of(path: &Path) -> Pair {
    Pair { local: path.local.into(), remote: path.remote.into() }
}

fn stun_slot(datagram: &[u8]) -> Option<u32> {
    match stun::parse(datagram) {
        Ok(stun::Message::Request(request)) => ice::decode_ufrag(request.local_ufrag()).map(|name| name.index),
        _ => None,
    }
}

fn refusal(error: &OpenError) -> CounterId {
    match error {
        OpenError::Replayed | OpenError::TooOld => CounterId::PacketsRefusedReplay,
        OpenError::Unauthentic => CounterId::PacketsRefusedAuth,
        OpenError::TooManySsrcs => CounterId::PacketsRefusedUnknownSsrc,
        OpenError::TooShort | OpenError::Malformed => CounterId::PacketsRefusedMalformed,
    }
}
