//! A handshake without cryptography: DTLS's four flights and its retransmissions, keys made of the seed.
//!
//! ```text
//!   client hello (fingerprint, random) ->                      <- server hello (fingerprint, random)
//!   client finished (epoch 1)          -> server is connected  <- server finished (epoch 1): client is connected
//! ```
//!
//! Records have DTLS's form, so that the engine's own `classify_late` understands them. Nothing is secret here: who
//! reads a datagram may know the keys, which is what the sniffer needs and gets from the `KeyLog`.

use super::hash::hash;
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::rng::Rng;
use spillway_proto::session::dtls::{DtlsError, DtlsOutput, Handshake, SrtpKeys};
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
const RECORD_HEADER: usize = 13;
/// Type, profile, fingerprint, random.
const HELLO_BODY: usize = 2 + 32 + 16;
const RETRY: Duration = Duration::from_millis(100);
/// Doubles up to this: a handshake in a bad time goes on soon after it, so that the picture after the faults has a bound.
const RETRY_SLOWEST: Duration = Duration::from_millis(800);

/// A client's random names its remote, so that the log can say whose keys these are.
pub type Random = [u8; 16];

/// What a server's handshakes leave for the sniffer: keys by the client's random.
#[derive(Clone, Default)]
pub struct KeyLog(Arc<Mutex<BTreeMap<Random, SrtpKeys>>>);

impl KeyLog {
    fn note(&self, random: Random, keys: SrtpKeys) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(random, keys);
    }

    /// As the server has them.
    pub fn keys(&self, random: &Random) -> Option<SrtpKeys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(random).copied()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A client that has not spoken, a server that has heard nothing.
    New,
    /// The hello went out.
    Hello,
    /// The client's finished went out.
    Finished,
    Connected,
    Over,
}

pub struct Stub {
    role: DtlsRole,
    own: Fingerprint,
    expected: Fingerprint,
    state: State,
    /// Client's, server's.
    randoms: [Random; 2],
    profile: Profile,
    log: KeyLog,
    out: VecDeque<Vec<u8>>,
    keys: Option<SrtpKeys>,
    mac: [u8; 16],
    last: Vec<u8>,
    retry_at: Time,
    retries: u32,
}

impl Stub {
    pub fn new(
        role: DtlsRole,
        own: Fingerprint,
        expected: Fingerprint,
        random: Random,
        profile: Profile,
        log: KeyLog,
    ) -> Stub {
        let mut randoms = [[0; 16]; 2];
        randoms[usize::from(role == DtlsRole::Server)] = random;
        Stub {
            role,
            own,
            expected,
            state: State::New,
            randoms,
            profile,
            log,
            out: VecDeque::new(),
            keys: None,
            mac: [0; 16],
            last: Vec::new(),
            retry_at: Time::ZERO,
            retries: 0,
        }
    }

    fn hello(&self) -> Vec<u8> {
        let server = self.role == DtlsRole::Server;
        let mut body = vec![1 + u8::from(server), self.profile as u8];
        body.extend_from_slice(&self.own.0);
        body.extend_from_slice(&self.randoms[usize::from(server)]);
        record(HANDSHAKE, 0, &body)
    }

    fn finished(&self) -> Vec<u8> {
        let mut body = vec![20, self.role as u8];
        body.extend_from_slice(&self.mac);
        record(HANDSHAKE, 1, &body)
    }

    fn make_keys(&mut self) -> SrtpKeys {
        let (low, high) = hash(&self.randoms.concat());
        let mut rng = Rng::new(low ^ high);
        rng.fill(&mut self.mac);
        let mut master = || {
            let mut master = MasterKey { key: [0; 32], salt: [0; 14], reserved: [0; 2] };
            rng.fill(&mut master.key[..self.profile.key_len()]);
            rng.fill(&mut master.salt[..self.profile.salt_len()]);
            master
        };
        let (client, server) = (master(), master());
        match self.role {
            DtlsRole::Client => SrtpKeys { profile: self.profile, receive: server, send: client },
            DtlsRole::Server => SrtpKeys { profile: self.profile, receive: client, send: server },
        }
    }

    fn take(&mut self, now: Time, record: &[u8]) -> Result<(), DtlsError> {
        let (content, body) = (record[0], &record[RECORD_HEADER..]);
        let connected = self.state == State::Connected;
        match (content, body.first().copied(), self.role) {
            (HANDSHAKE, Some(1), DtlsRole::Server) if !connected => self.hear_hello(body, 0, now),
            (HANDSHAKE, Some(2), DtlsRole::Client) if self.state == State::Hello => self.hear_hello(body, 1, now),
            (HANDSHAKE, Some(20), DtlsRole::Server) if self.state == State::Hello && self.verify(body.get(2..).unwrap_or_default()) => {
                let keys = self.make_keys();
                self.log.note(self.randoms[0], keys);
                self.last = self.finished();
                self.out.push_back(self.last.clone());
                (self.keys, self.state, self.retry_at) = (Some(keys), State::Connected, Time::NEVER);
                Ok(())
            }
            (HANDSHAKE, Some(20), DtlsRole::Client) if self.state == State::Finished && self.verify(body.get(2..).unwrap_or_default()) => {
                let keys = self.make_keys();
                (self.keys, self.state, self.retry_at) = (Some(keys), State::Connected, Time::NEVER);
                Ok(())
            }
            (ALERT, Some(_), _) if connected && self.verify(&body[1..]) => {
                self.state = State::Over;
                Ok(())
            }
            // Late, repeated or forged.
            _ => Ok(()),
        }
    }

    fn verify(&self, mac: &[u8]) -> bool {
        !mac.is_empty() && mac == self.mac
    }

    fn hear_hello(&mut self, body: &[u8], from: usize, now: Time) -> Result<(), DtlsError> {
        // What is no hello is no hello with a wrong promise either (RFC 6347 section 4.1.2.7: it is discarded). Strangers
        // make noise under other people's addresses.
        let (HELLO_BODY, Some(fingerprint), Some(random)) = (body.len(), body.get(2..34), body.get(34..50)) else {
            return Ok(());
        };
        if fingerprint != self.expected.0 {
            return Err(DtlsError::FingerprintMismatch);
        }
        self.randoms[from].copy_from_slice(random);
        if let Some(profile) = Profile::from_u16(u16::from(body[1])) {
            self.profile = profile;
        }
        self.make_keys();
        let (next, answer) = match self.role {
            DtlsRole::Server => (State::Hello, self.hello()),
            DtlsRole::Client => (State::Finished, self.finished()),
        };
        self.state = next;
        self.last = answer.clone();
        self.out.push_back(answer);
        (self.retries, self.retry_at) = (0, now + RETRY);
        Ok(())
    }
}

impl Handshake for Stub {
    fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), DtlsError> {
        if self.state == State::Over {
            return Err(DtlsError::Ended);
        }
        let mut rest = datagram;
        while rest.len() >= RECORD_HEADER {
            let length = RECORD_HEADER + usize::from(u16::from_be_bytes([rest[11], rest[12]]));
            let Some((record, after)) = rest.split_at_checked(length) else { break };
            self.take(now, record)?;
            rest = after;
        }
        Ok(())
    }

    fn poll(&mut self, now: Time, out: &mut [u8]) -> Result<DtlsOutput, DtlsError> {
        if self.role == DtlsRole::Client && self.state == State::New {
            self.state = State::Hello;
            self.last = self.hello();
            self.out.push_back(self.last.clone());
            self.retry_at = now + RETRY;
        } else if now >= self.retry_at && matches!(self.state, State::Hello | State::Finished) {
            self.retries += 1;
            self.retry_at = now + (RETRY * (1 << self.retries.min(8))).min(RETRY_SLOWEST);
            self.out.push_back(self.last.clone());
        }
        if let Some(datagram) = self.out.pop_front() {
            out[..datagram.len()].copy_from_slice(&datagram);
            return Ok(DtlsOutput::Datagram(datagram.len()));
        }
        if let Some(keys) = self.keys.take() {
            return Ok(DtlsOutput::Connected(keys));
        }
        let waits = matches!(self.state, State::Hello | State::Finished);
        match self.state {
            State::Over => Ok(DtlsOutput::Closed),
            _ => Ok(DtlsOutput::Wait(if waits { self.retry_at } else { Time::NEVER })),
        }
    }

    fn close(&mut self) {
        if self.state == State::Connected {
            let mut body = vec![1];
            body.extend_from_slice(&self.mac);
            self.out.push_back(record(ALERT, 1, &body));
        }
    }

    fn sealed_close_notify(&mut self, out: &mut [u8]) -> usize {
        if self.state != State::Connected {
            return 0;
        }
        let mut body = vec![1];
        body.extend_from_slice(&self.mac);
        let datagram = record(ALERT, 1, &body);
        out[..datagram.len()].copy_from_slice(&datagram);
        datagram.len()
    }

    fn last_flight(&self) -> &[u8] {
        if self.role == DtlsRole::Server { &self.last } else { &[] }
    }
}

fn record(content: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
    let mut record = vec![content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 1];
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(body);
    record
}

#[cfg(test)]
mod tests {
    //! Goal: the stub connects as DTLS does, over a wire that loses. Method: both ends, every third datagram lost.
    use super::*;

    fn end(role: DtlsRole, own: u8, expected: u8, log: &KeyLog) -> Stub {
        let fingerprint = |byte| Fingerprint([byte; 32]);
        Stub::new(role, fingerprint(own), fingerprint(expected), [own; 16], Profile::AeadAes256Gcm, log.clone())
    }

    #[test]
    fn both_ends_get_the_same_keys_though_datagrams_are_lost() {
        let log = KeyLog::default();
        let mut ends = [end(DtlsRole::Client, 1, 2, &log), end(DtlsRole::Server, 2, 1, &log)];
        let mut keys = [None, None];
        let (mut now, mut sent, mut out) = (Time::from_millis(5), 0, [0; 2_048]);
        for _ in 0..100 {
            now = now + Duration::from_millis(20);
            for at in 0..2 {
                loop {
                    match ends[at].poll(now, &mut out).unwrap() {
                        DtlsOutput::Datagram(length) => {
                            sent += 1;
                            if sent % 3 != 0 {
                                ends[1 - at].handle_datagram(now, &out[..length]).unwrap();
                            }
                        }
                        DtlsOutput::Connected(made) => keys[at] = Some(made),
                        DtlsOutput::Closed => panic!("closed"),
                        DtlsOutput::Wait(_) => break,
                    }
                }
            }
        }
        // The server's last flight is the engine's to repeat; here its loss may leave the client waiting.
        let server = keys[1].expect("the server is connected");
        assert!(log.keys(&[1; 16]).is_some_and(|keys| keys.send.key == server.send.key));
        if let Some(client) = keys[0] {
            assert!(client.receive.key == server.send.key && client.send.salt == server.receive.salt);
        }
    }

    #[test]
    fn a_wrong_fingerprint_is_refused() {
        let log = KeyLog::default();
        let (mut client, mut server) = (end(DtlsRole::Client, 1, 2, &log), end(DtlsRole::Server, 2, 9, &log));
        let mut out = [0; 2_048];
        let Ok(DtlsOutput::Datagram(length)) = client.poll(Time::ZERO, &mut out) else { panic!("no hello") };
        // A record of noise that begins as a hello does.
        let mut noise = record(HANDSHAKE, 0, &[1; 300]);
        server.handle_datagram(Time::ZERO, &noise).unwrap();
        noise.truncate(40);
        server.handle_datagram(Time::ZERO, &noise).unwrap();
        let heard = server.handle_datagram(Time::ZERO, &out[..length]);
        assert!(matches!(heard, Err(DtlsError::FingerprintMismatch)));
    }
}
