//! The remote's side of a session: a controlling ICE agent towards one server candidate, DTLS, SRTP.
//!
//! What `spillway publish`, `spillway play`, the load tester and the kill tests are behind their sockets. Sans-IO:
//! datagrams in by `handle_datagram`, out by `poll_datagram`. It shares our SRTP, DTLS and STUN code and is
//! therefore no referee of them.
//!
//! States: *checking* (no answer to a check yet) -> *handshake* -> *connected* -> *over*. Checks go on in every
//! state: they are what consent to be sent to consists of (RFC 7675).

use super::dtls::{Dtls, DtlsError, DtlsOutput, Handshake, Identity, SrtpKeys};
use super::srtp::{Opener, Profile, Sealer};
use crate::limits::DATAGRAM_SIZE_MAX;
use crate::link::command::{DtlsRole, Fingerprint};
use crate::rng::Rng;
use crate::time::Time;
use crate::wire::demux::{Class, classify};
use crate::wire::stun;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Until the first answer a check goes out this often, then the interval doubles up to a second.
const CHECK_FIRST: Duration = Duration::from_millis(50);
const CHECK_SLOWEST: Duration = Duration::from_secs(1);
/// RFC 7675 section 5.1 says every five seconds or so; ours come earlier, so that a server that was restarted
/// is noticed soon.
const CONSENT_INTERVAL: Duration = Duration::from_secs(2);
/// An unanswered check goes again after this (RFC 5389 section 7.2.1: the first retransmission).
const CONSENT_RETRY: Duration = Duration::from_millis(500);
/// No answer for this long: the server has forgotten us.
const LOST_AFTER: Duration = Duration::from_secs(4);
const CONNECT_EXPIRY: Duration = Duration::from_secs(15);
/// Host candidate, first component (RFC 8445 section 5.1.2).
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;
/// Datagrams that wait for the socket; a handshake flight has four at most.
const OUTBOX_MAX: usize = 32;

#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Dtls(#[from] DtlsError),
    #[error("the server did not answer within 15 s: is its media address reachable from here, and UDP open?")]
    Unreachable,
    #[error("the server closed the session")]
    Closed,
    #[error("the server stopped answering: it was restarted, or the network is gone")]
    Lost,
}

/// Both sides' credentials and the role this client takes.
#[derive(Clone, Debug)]
pub struct ClientFacts {
    pub local_ufrag: String,
    pub remote_ufrag: String,
    pub remote_pwd: String,
    pub remote_fingerprint: Fingerprint,
    pub role: DtlsRole,
}

/// What a datagram held for the application. Plain bytes stand in the datagram's own memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// Nothing to see: a check, a handshake step, or something refused.
    Nothing,
    /// The handshake is over: media may flow.
    Connected(Profile),
    /// An RTP packet: the first so many bytes of the datagram.
    Rtp(usize),
    /// An RTCP compound: the first so many bytes.
    Rtcp(usize),
}

pub struct Client {
    facts: ClientFacts,
    username: String,
    rng: Rng,
    dtls: Box<dyn Handshake + Send>,
    dtls_at: Time,
    transaction: [u8; 12],
    check_at: Time,
    check_interval: Duration,
    answered: bool,
    answered_at: Time,
    began: Time,
    opener: Option<Opener>,
    sealer: Option<Sealer>,
    srtcp_index: u32,
    outbox: VecDeque<Vec<u8>>,
    /// Packets and reports that failed to open.
    pub refused: u64,
}

impl Client {
    /// `anchor` is the same instant as `now` on the standard library's clock.
    pub fn new(
        identity: &Identity,
        facts: ClientFacts,
        seed: u64,
        now: Time,
        anchor: Instant,
    ) -> Result<Client, ClientError> {
        let dtls = Dtls::new(identity, facts.role, facts.remote_fingerprint, now, anchor)?;
        Ok(Client::over(Box::new(dtls), facts, seed, now))
    }

    /// With a handshake of the caller's: a simulator's clients draw nothing from the system.
    pub fn over(dtls: Box<dyn Handshake + Send>, facts: ClientFacts, seed: u64, now: Time) -> Client {
        let username = format!("{}:{}", facts.remote_ufrag, facts.local_ufrag);
        Client {
            facts,
            username,
            rng: Rng::new(seed),
            dtls,
            dtls_at: Time::NEVER,
            transaction: [0; 12],
            check_at: now,
            check_interval: CHECK_FIRST,
            answered: false,
            answered_at: now,
            began: now,
            opener: None,
            sealer: None,
            srtcp_index: 0,
            outbox: VecDeque::new(),
            refused: 0,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.sealer.is_some()
    }

    pub fn profile(&self) -> Option<Profile> {
        self.sealer.as_ref().map(Sealer::profile)
    }

    pub fn handle_datagram(&mut self, now: Time, datagram: &mut [u8]) -> Result<Received, ClientError> {
        match classify(datagram) {
            Class::Stun => {
                self.handle_stun(now, datagram)?;
                Ok(Received::Nothing)
            }
            Class::Dtls => {
                if !self.answered {
                    return Ok(Received::Nothing);
                }
                self.dtls.handle_datagram(now, datagram)?;
                self.drive(now)
            }
            Class::Rtp => {
                Ok(self.open(datagram, |opener, d| opener.open_rtp(d).map(|opened| Received::Rtp(opened.length)).ok()))
            }
            Class::Rtcp => Ok(self.open(datagram, |opener, d| opener.open_rtcp(d).map(Received::Rtcp).ok())),
            Class::Unknown => Ok(Received::Nothing),
        }
    }

    fn open(
        &mut self,
        datagram: &mut [u8],
        open: impl FnOnce(&mut Opener, &mut [u8]) -> Option<Received>,
    ) -> Received {
        let Some(opener) = self.opener.as_mut() else { return Received::Nothing };
        open(opener, datagram).unwrap_or_else(|| {
            self.refused += 1;
            Received::Nothing
        })
    }

    fn handle_stun(&mut self, now: Time, datagram: &[u8]) -> Result<(), ClientError> {
        let Ok(stun::Message::Success(success)) = stun::parse(datagram) else { return Ok(()) };
        if success.transaction != self.transaction || !success.verify(self.facts.remote_pwd.as_bytes()) {
            return Ok(());
        }
        self.check_at = now + CONSENT_INTERVAL;
        self.answered_at = now;
        if !std::mem::replace(&mut self.answered, true) {
            self.drive(now)?;
        }
        Ok(())
    }

    /// Timers; call at `deadline` and whenever convenient.
    pub fn handle_timeout(&mut self, now: Time) -> Result<Received, ClientError> {
        if !self.is_connected() && now.since(self.began) > CONNECT_EXPIRY {
            return Err(ClientError::Unreachable);
        }
        if self.is_connected() && now.since(self.answered_at) > LOST_AFTER {
            return Err(ClientError::Lost);
        }
        if now >= self.check_at {
            self.rng.fill(&mut self.transaction);
            let tie_breaker = self.rng.next_u64();
            let mut out = vec![0; 256];
            let pwd = self.facts.remote_pwd.as_bytes();
            if let Some(length) =
                stun::write_request(&mut out, &self.transaction, &self.username, pwd, PRIORITY, tie_breaker, true)
            {
                out.truncate(length);
                self.put(out);
            }
            let interval = if self.answered { CONSENT_RETRY } else { self.check_interval };
            self.check_interval = (self.check_interval * 2).min(CHECK_SLOWEST);
            self.check_at = now + interval;
        }
        if now >= self.dtls_at { self.drive(now) } else { Ok(Received::Nothing) }
    }

    pub fn deadline(&self) -> Time {
        self.check_at.min(self.dtls_at)
    }

    /// The next datagram for the server.
    pub fn poll_datagram(&mut self) -> Option<Vec<u8>> {
        self.outbox.pop_front()
    }

    fn drive(&mut self, now: Time) -> Result<Received, ClientError> {
        let mut received = Received::Nothing;
        let mut out = [0; DATAGRAM_SIZE_MAX];
        loop {
            match self.dtls.poll(now, &mut out)? {
                DtlsOutput::Datagram(length) => self.put(out[..length].to_vec()),
                DtlsOutput::Connected(keys) => received = self.connect(&keys),
                DtlsOutput::Closed => return Err(ClientError::Closed),
                DtlsOutput::Wait(at) => {
                    self.dtls_at = at;
                    return Ok(received);
                }
            }
        }
    }

    fn connect(&mut self, keys: &SrtpKeys) -> Received {
        self.opener = Some(Opener::new(keys.profile, &keys.receive));
        self.sealer = Some(Sealer::new(keys.profile, &keys.send));
        Received::Connected(keys.profile)
    }

    fn put(&mut self, datagram: Vec<u8>) {
        if self.outbox.len() < OUTBOX_MAX {
            self.outbox.push_back(datagram);
        }
    }

    /// Seals an RTP packet with the 48-bit `index` its header's sequence belongs to. None before the handshake is over.
    pub fn seal_rtp(&self, header: &[u8], payload: &[u8], index: u64, out: &mut [u8]) -> Option<usize> {
        self.sealer.as_ref()?.seal_into(header, &[], payload, index, out)
    }

    pub fn seal_rtcp(&mut self, compound: &[u8], out: &mut [u8]) -> Option<usize> {
        let sealer = self.sealer.as_ref()?;
        let index = self.srtcp_index;
        self.srtcp_index += 1;
        sealer.seal_rtcp_into(compound, index, out)
    }

    /// Says goodbye: poll the datagrams afterwards.
    pub fn close(&mut self, now: Time) {
        self.dtls.close();
        let _ = self.drive(now);
    }
}

#[cfg(test)]
mod tests {
    //! Against the server's own parts: ICE-lite over a record, DTLS, SRTP. Virtual time.
    use super::*;
    use crate::id::SessionId;
    use crate::session::ice::{IceOutcome, encode_ufrag, handle_request};
    use crate::session::record::{Pair, SessionRecord};
    use crate::wire::rtp::write_header;
    use std::net::SocketAddr;

    const PWD: &[u8; 24] = b"0123456789abcdefghijklmn";

    struct Server {
        record: Box<SessionRecord>,
        dtls: Dtls,
        keys: Option<SrtpKeys>,
        back: Vec<Vec<u8>>,
    }

    impl Server {
        fn handle(&mut self, now: Time, datagram: &[u8]) {
            let remote: SocketAddr = "192.0.2.1:5000".parse().unwrap();
            match classify(datagram) {
                Class::Stun => {
                    let Ok(stun::Message::Request(request)) = stun::parse(datagram) else { panic!("no check") };
                    let mut out = vec![0; 512];
                    let outcome =
                        handle_request(&mut self.record, &request, Pair::default(), remote, now, &mut out);
                    let IceOutcome::Answered { length, .. } = outcome else { panic!("{outcome:?}") };
                    self.back.push(out[..length].to_vec());
                }
                _ => self.dtls.handle_datagram(now, datagram).unwrap(),
            }
            let mut out = [0; DATAGRAM_SIZE_MAX];
            loop {
                match self.dtls.poll(now, &mut out).unwrap() {
                    DtlsOutput::Datagram(length) => self.back.push(out[..length].to_vec()),
                    DtlsOutput::Connected(keys) => self.keys = Some(keys),
                    DtlsOutput::Closed | DtlsOutput::Wait(_) => return,
                }
            }
        }
    }

    #[test]
    fn connects_though_first_datagrams_are_lost_and_exchanges_media() {
        let (ours, theirs) = (Identity::new().unwrap(), Identity::new().unwrap());
        let (start, anchor) = (Time::from_millis(1_000), Instant::now());
        let id = SessionId::new(5, 1);
        // SAFETY: all zeros is a valid record.
        // JUSTIFICATION: the record has no Default.
        let mut record: Box<SessionRecord> = Box::new(unsafe { std::mem::zeroed() });
        record.generation = 1;
        record.ufrag_random = *b"abcdefghi";
        record.pwd = *PWD;
        let ufrag = String::from_utf8(encode_ufrag(id, &record.ufrag_random).to_vec()).unwrap();
        let facts = ClientFacts {
            local_ufrag: "client".into(),
            remote_ufrag: ufrag,
            remote_pwd: String::from_utf8(PWD.to_vec()).unwrap(),
            remote_fingerprint: theirs.fingerprint(),
            role: DtlsRole::Client,
        };
        let mut client = Client::new(&ours, facts, 7, start, anchor).unwrap();
        let dtls = Dtls::new(&theirs, DtlsRole::Server, ours.fingerprint(), start, anchor).unwrap();
        let mut server = Server { record, dtls, keys: None, back: Vec::new() };

        let (mut now, mut sent, mut connected) = (start, 0, false);
        for _ in 0..1_000 {
            now = now + Duration::from_millis(10);
            connected |= matches!(client.handle_timeout(now).unwrap(), Received::Connected(_));
            while let Some(datagram) = client.poll_datagram() {
                sent += 1;
                // Every third is lost on the way there.
                if sent % 3 != 0 {
                    server.handle(now, &datagram);
                }
            }
            for mut datagram in std::mem::take(&mut server.back) {
                connected |= matches!(client.handle_datagram(now, &mut datagram).unwrap(), Received::Connected(_));
            }
            if connected && server.keys.is_some() {
                break;
            }
        }
        assert!(connected, "not connected after ten seconds");
        let keys = server.keys.unwrap();
        assert_eq!(client.profile(), Some(Profile::AeadAes256Gcm));

        let mut header = [0; 12];
        write_header(&mut header, true, 96, 77, 90_000, 42);
        let mut out = [0; 256];
        let length = client.seal_rtp(&header, b"picture", 77, &mut out).unwrap();
        let opened = Opener::new(keys.profile, &keys.receive).open_rtp(&mut out[..length]).unwrap();
        assert_eq!(&out[12..opened.length], b"picture");
        let length = Sealer::new(keys.profile, &keys.send).seal_into(&header, &[], b"back", 77, &mut out).unwrap();
        assert_eq!(client.handle_datagram(now, &mut out[..length]).unwrap(), Received::Rtp(16));
        assert_eq!(client.handle_datagram(now, &mut out[..length]).unwrap(), Received::Nothing, "opened twice");
    }

    #[test]
    fn a_server_that_never_answers_is_reported() {
        let identity = Identity::new().unwrap();
        let facts = ClientFacts {
            local_ufrag: "a".into(),
            remote_ufrag: "b".into(),
            remote_pwd: "c".into(),
            remote_fingerprint: identity.fingerprint(),
            role: DtlsRole::Client,
        };
        let mut client = Client::new(&identity, facts, 7, Time::ZERO, Instant::now()).unwrap();
        assert!(client.handle_timeout(Time::from_millis(14_000)).is_ok());
        assert!(matches!(client.handle_timeout(Time::from_millis(15_001)), Err(ClientError::Unreachable)));
    }
}
