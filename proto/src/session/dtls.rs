//! DTLS of one session, on dimpl: certificates, the handshake in either role, the SRTP keys it makes.
//!
//! Version and profile are chosen here and nowhere else: DTLS 1.2, because there dimpl as a server takes
//! AES-256-GCM, then AES-128-GCM, then SHA1-80, whatever the client prefers (in 1.3 it takes the client's
//! first, which is SHA1-80 in Chromium: seven times the crypto per packet). As the client (a remote that offered
//! `a=setup:passive`) we only propose, GCM first; ffmpeg knows SHA1-80 alone. No cookie: an object is made
//! only after a STUN check with MESSAGE-INTEGRITY from that address. Handshake messages come through
//! `reassembler`. A client may show an ECDSA or an RSA certificate (`rsa`), a server an ECDSA one. The one place of this crate that draws randomness from the system: keys need it.
//!
//! Keys are given out only after the remote's certificate had the fingerprint its offer promised. Calls
//! into the library run under catch_unwind; after any error the object is dead and the session is to be
//! closed.
//!
//! After the handshake the object may go (it holds some 10 KB). What a remote may still send, and what
//! is left to answer it with:
//!
//! * It missed our last flight (we were the server) and sends its own again: `classify_late` says Resend,
//!   the datagram kept from `last_flight` is sent again as it was. A remote that had it drops it as a replay.
//! * Our flights again, when we were the client: nothing is owed. The server's last flight, which made us connected,
//!   proves that ours arrived (RFC 6347 section 4.2.4); dimpl drops late copies.
//! * It says close_notify: sealed with keys that went with the object. Anybody who can write the remote's
//!   address into a datagram can make one that looks like it, so it must never close a session. Where a
//!   clean goodbye matters (publishers) keep the object, which verifies the alert and polls `Closed`; it
//!   does so even after `sealed_close_notify`. Elsewhere (viewers) consent expiry or a DELETE ends it.

use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_EXPIRY, HANDSHAKE_FRAGMENTS_MAX};
use crate::link::command::{DtlsRole, Fingerprint};
use crate::session::reassembler::{CONTENT_ALERT, CONTENT_HANDSHAKE, Reassembler, Records, content_type, epoch};
use crate::session::record::MasterKey;
use crate::session::rsa;
use crate::session::srtp::Profile;
use crate::time::Time;
use aws_lc_rs::digest::{SHA256, digest};
use dimpl::{Config, DtlsCertificate, Output, SrtpProfile};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thiserror::Error;

/// The longest datagram a handshake of ours sends: fits every tunnel that carries WebRTC.
pub const DTLS_DATAGRAM_MAX: usize = 1_150;
/// First retransmission: ICE has just shown that the path is alive, so a lost flight costs a join this much
/// and a path slower than this one needless resend. Doubles each time.
const FLIGHT_TIMEOUT: Duration = Duration::from_millis(100);
/// 100 ms doubled seven times is 12.7 s in all: HANDSHAKE_EXPIRY comes first.
const FLIGHT_RETRIES: usize = 7;
/// dimpl answers "nothing to wait for" with ten years.
const TIMER_MAX: Duration = Duration::from_secs(3_600);

/// Why a session's DTLS is over. Every one of them is final.
#[derive(Debug, Error)]
pub enum DtlsError {
    #[error("no certificate could be made ({0}): check the system's randomness")]
    Identity(String),
    #[error("the remote's certificate is not the one its offer named: the offer is stale, or somebody is between")]
    FingerprintMismatch,
    #[error("the remote showed no certificate: WebRTC requires one from both sides (RFC 8827 section 6.5)")]
    NoCertificate,
    #[error("no SRTP profile in common: the remote must offer AES-GCM or AES128_CM_HMAC_SHA1_80 in use_srtp")]
    NoSrtpProfile,
    #[error("the handshake failed ({0}): see whether the remote speaks DTLS 1.2 with ECDHE_ECDSA, and shows a \
             certificate of ECDSA (P-256 or P-384) or, as the client, of RSA with 2,048 bits or more")]
    Handshake(dimpl::Error),
    #[error("the DTLS library panicked: please report it with the remote's name and version")]
    Panicked,
    #[error("this DTLS association has ended with an error before")]
    Ended,
    #[error("an output of {0} bytes is too small: give DTLS_DATAGRAM_MAX")]
    OutputTooSmall(usize),
}

/// Certificate and key of this process, made once and shown to every remote.
pub struct Identity {
    certificate: DtlsCertificate,
    fingerprint: Fingerprint,
    as_server: Arc<Config>,
    as_client: Arc<Config>,
}

impl Identity {
    pub fn new() -> Result<Identity, DtlsError> {
        let certificate = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| DtlsError::Identity(error.to_string()))?;
        let config = || {
            Config::builder()
                .use_server_cookie(false)
                .require_client_certificate(true)
                .flight_start_rto(FLIGHT_TIMEOUT)
                .flight_retries(FLIGHT_RETRIES)
                .handshake_timeout(HANDSHAKE_EXPIRY)
                // All the reassembler may hand over at once, and the records around it.
                .max_queue_rx(2 * HANDSHAKE_FRAGMENTS_MAX)
        };
        // Our request for a certificate is widened after the library has filled its datagram. What a server asks of
        // us is hashed as it came: as the client nothing is put between.
        let as_server = config().mtu(DTLS_DATAGRAM_MAX - rsa::WIDENED_BY).with_crypto_provider(rsa::provider()).build();
        let as_client = config().mtu(DTLS_DATAGRAM_MAX).build();
        let shared = |config: Result<Config, dimpl::Error>| {
            config.map(Arc::new).map_err(|error| DtlsError::Identity(error.to_string()))
        };
        let fingerprint = fingerprint_of(&certificate.certificate);
        Ok(Identity { certificate, fingerprint, as_server: shared(as_server)?, as_client: shared(as_client)? })
    }

    /// What our SDP promises.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

/// What the handshake leaves for the rest of the session.
#[derive(Clone, Copy)]
pub struct SrtpKeys {
    pub profile: Profile,
    /// Opens what the remote sends.
    pub receive: MasterKey,
    /// Seals what we send.
    pub send: MasterKey,
}

pub enum DtlsOutput {
    /// Send the first so many bytes of `out`.
    Datagram(usize),
    /// Once: the handshake is over and the fingerprint was right.
    Connected(SrtpKeys),
    /// The remote said close_notify, verified.
    Closed,
    /// Nothing until this time, or the next datagram.
    Wait(Time),
}

/// One side of a DTLS association, as the engine drives it. The simulator has a stub of its own.
pub trait Handshake {
    /// Takes a datagram of the remote. Poll until `Wait` afterwards.
    fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), DtlsError>;
    /// Gives what is to be done; call again until it says `Wait`, and at the time it then names.
    /// `out` has at least `DTLS_DATAGRAM_MAX` bytes.
    fn poll(&mut self, now: Time, out: &mut [u8]) -> Result<DtlsOutput, DtlsError>;
    /// Says goodbye: once connected, the next polls give a sealed close_notify. Before that it just ends.
    fn close(&mut self);
    /// Writes the sealed close_notify into `out` and returns its length, to be kept and sent at the end of
    /// the session. Works once, after `Connected` was polled and then `Wait`; 0 otherwise.
    fn sealed_close_notify(&mut self, out: &mut [u8]) -> usize;
    /// The datagram a remote may have missed after we were connected; empty when we were the client (the
    /// server's last flight proves that ours arrived). One datagram: ChangeCipherSpec and Finished, 75 bytes.
    fn last_flight(&self) -> &[u8];
}

/// dimpl behind `Handshake`.
pub struct Dtls {
    /// None after an error.
    inner: Option<dimpl::Dtls>,
    reassembler: Reassembler,
    role: DtlsRole,
    expected: Fingerprint,
    /// The same instant on both clocks.
    anchor: (Time, Instant),
    certificate: Certificate,
    /// The library says that the handshake is over; the keys are its next word.
    finished: bool,
    connected: bool,
    /// Nothing is left to poll: what comes next is the answer to what is asked next.
    drained: bool,
    last_flight: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificate {
    Missing,
    AsPromised,
}

/// One step of the library's output, copied out of its hands.
enum Step {
    Datagram(usize),
    TooLong,
    Certificate(Fingerprint),
    Finished,
    Keys(SrtpProfile, dimpl::KeyingMaterial),
    Closed,
    Nothing,
    Wait(Instant),
}

impl Dtls {
    /// `anchor` is what the library's clock showed at `now`.
    pub fn new(
        identity: &Identity,
        role: DtlsRole,
        expected: Fingerprint,
        now: Time,
        anchor: Instant,
    ) -> Result<Dtls, DtlsError> {
        let config = match role {
            DtlsRole::Server => &identity.as_server,
            DtlsRole::Client => &identity.as_client,
        };
        let inner = catch_unwind(|| {
            let mut inner = dimpl::Dtls::new_12(Arc::clone(config), identity.certificate.clone(), anchor);
            inner.set_active(role == DtlsRole::Client);
            inner
        })
        .map_err(|_| DtlsError::Panicked)?;
        Ok(Dtls {
            inner: Some(inner),
            reassembler: Reassembler::new(),
            role,
            expected,
            anchor: (now, anchor),
            certificate: Certificate::Missing,
            finished: false,
            connected: false,
            drained: false,
            last_flight: Vec::new(),
        })
    }

    /// What was refused before the library saw it.
    pub fn reassembler(&self) -> &Reassembler {
        &self.reassembler
    }

    fn instant(&self, now: Time) -> Instant {
        self.anchor.1 + now.since(self.anchor.0)
    }

    fn time(&self, instant: Instant, now: Time) -> Time {
        let time = self.anchor.0 + instant.saturating_duration_since(self.anchor.1);
        if time.since(now) > TIMER_MAX { Time::NEVER } else { time }
    }

    /// Runs `call` on the library; an error or a panic is its end.
    fn guard<T>(
        &mut self,
        call: impl FnOnce(&mut dimpl::Dtls, &mut Reassembler) -> Result<T, dimpl::Error>,
    ) -> Result<T, DtlsError> {
        let inner = self.inner.as_mut().ok_or(DtlsError::Ended)?;
        let reassembler = &mut self.reassembler;
        let result = match catch_unwind(AssertUnwindSafe(|| call(inner, reassembler))) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => DtlsError::Handshake(error),
            Err(_) => DtlsError::Panicked,
        };
        self.inner = None;
        Err(result)
    }

    fn fail<T>(&mut self, error: DtlsError) -> Result<T, DtlsError> {
        self.inner = None;
        Err(error)
    }

    fn step(&mut self, out: &mut [u8]) -> Result<Step, DtlsError> {
        let (role, room) = (self.role, out.len());
        let step = self.guard(|inner, _| {
            // The library panics when the remote's certificate does not fit, and it may be as long as a
            // message may be.
            let mut scratch = [0; HANDSHAKE_BYTES_MAX];
            Ok(match inner.poll_output(&mut scratch) {
                Output::Packet(packet) if role == DtlsRole::Server => match rsa::widen_datagram(packet, out) {
                    Some(length) => Step::Datagram(length),
                    None => Step::TooLong,
                },
                Output::Packet(packet) => {
                    out[..packet.len()].copy_from_slice(packet);
                    Step::Datagram(packet.len())
                }
                Output::PeerCert(certificate) => Step::Certificate(fingerprint_of(certificate)),
                Output::Connected => Step::Finished,
                Output::KeyingMaterial(material, profile) => Step::Keys(profile, material),
                Output::CloseNotify => Step::Closed,
                Output::Timeout(instant) => Step::Wait(instant),
                // Data channels are not offered.
                _ => Step::Nothing,
            })
        })?;
        // Cannot be: the library's datagrams are shorter by what is added, and hold one request at most.
        if matches!(step, Step::TooLong) { self.fail(DtlsError::OutputTooSmall(room)) } else { Ok(step) }
    }

    /// RFC 5764 section 4.2: client key, server key, client salt, server salt.
    fn split_keys(&self, profile: SrtpProfile, material: &[u8]) -> Option<SrtpKeys> {
        let profile = match profile {
            SrtpProfile::AES128_CM_SHA1_80 => Profile::Aes128CmSha1_80,
            SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
            SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
            _ => return None,
        };
        let (keys, salts) = material.split_at_checked(2 * profile.key_len())?;
        let master = |place: usize| {
            let mut master = MasterKey { key: [0; 32], salt: [0; 14], reserved: [0; 2] };
            let (key, salt) = (profile.key_len(), profile.salt_len());
            master.key[..key].copy_from_slice(keys.get(place * key..(place + 1) * key)?);
            master.salt[..salt].copy_from_slice(salts.get(place * salt..(place + 1) * salt)?);
            Some(master)
        };
        let (client, server) = (master(0)?, master(1)?);
        Some(match self.role {
            DtlsRole::Client => SrtpKeys { profile, receive: server, send: client },
            DtlsRole::Server => SrtpKeys { profile, receive: client, send: server },
        })
    }
}

impl Handshake for Dtls {
    fn handle_datagram(&mut self, now: Time, datagram: &[u8]) -> Result<(), DtlsError> {
        self.drained = false;
        let instant = self.instant(now);
        self.guard(|inner, reassembler| {
            inner.handle_timeout(instant)?;
            reassembler.handle_datagram(datagram, |record| inner.handle_packet(record))
        })
    }

    fn poll(&mut self, now: Time, out: &mut [u8]) -> Result<DtlsOutput, DtlsError> {
        if out.len() < DTLS_DATAGRAM_MAX {
            return Err(DtlsError::OutputTooSmall(out.len()));
        }
        let instant = self.instant(now);
        self.guard(|inner, _| inner.handle_timeout(instant))?;
        loop {
            let step = self.step(out)?;
            if self.finished && !self.connected && !matches!(step, Step::Keys(..)) {
                return self.fail(DtlsError::NoSrtpProfile);
            }
            match step {
                Step::Datagram(length) => {
                    if self.connected && self.role == DtlsRole::Server && content_type(out) != CONTENT_ALERT {
                        self.last_flight.clear();
                        self.last_flight.extend_from_slice(&out[..length]);
                    }
                    return Ok(DtlsOutput::Datagram(length));
                }
                Step::Certificate(fingerprint) if fingerprint == self.expected => {
                    self.certificate = Certificate::AsPromised;
                }
                Step::Certificate(_) => return self.fail(DtlsError::FingerprintMismatch),
                Step::Finished => self.finished = true,
                Step::Keys(..) if self.certificate == Certificate::Missing => {
                    return self.fail(DtlsError::NoCertificate);
                }
                Step::Keys(profile, material) => {
                    let Some(keys) = self.split_keys(profile, &material) else {
                        return self.fail(DtlsError::NoSrtpProfile);
                    };
                    self.connected = true;
                    return Ok(DtlsOutput::Connected(keys));
                }
                Step::Closed => return Ok(DtlsOutput::Closed),
                Step::Nothing | Step::TooLong => {}
                Step::Wait(instant) => {
                    self.drained = true;
                    return Ok(DtlsOutput::Wait(self.time(instant, now)));
                }
            }
        }
    }

    fn close(&mut self) {
        // An error here ends the association, which is what was asked.
        if self.guard(|inner, _| inner.close()).is_err() {
            self.inner = None;
        }
    }

    fn sealed_close_notify(&mut self, out: &mut [u8]) -> usize {
        if !self.connected || !self.drained || out.len() < DTLS_DATAGRAM_MAX {
            return 0;
        }
        self.close();
        match self.step(out) {
            Ok(Step::Datagram(length)) => length,
            _ => 0,
        }
    }

    fn last_flight(&self) -> &[u8] {
        &self.last_flight
    }
}

/// What a DTLS datagram means after the object has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterHandshake {
    /// The remote is still finishing: send the kept last flight again (not more often than its own
    /// retransmissions come, since this is not authenticated).
    Resend,
    /// An alert under keys we no longer have, most likely close_notify: count it, believe nothing.
    Alert,
    Ignore,
}

/// A remote that missed our last flight sends its own again, and that always ends with a Finished of
/// epoch 1; records of epoch 0 alone ask for nothing we kept.
pub fn classify_late(datagram: &[u8]) -> AfterHandshake {
    let mut found = AfterHandshake::Ignore;
    for record in Records(datagram).flatten().filter(|record| epoch(record) == 1) {
        match content_type(record) {
            CONTENT_HANDSHAKE => return AfterHandshake::Resend,
            CONTENT_ALERT => found = AfterHandshake::Alert,
            _ => {}
        }
    }
    found
}

fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
    Fingerprint(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::reassembler::tests::fragment;
    use crate::session::srtp::{Opener, Sealer};

    /// Two of ours over a wire that does what a test says with each datagram.
    struct Wire {
        ends: [Dtls; 2],
        keys: [Option<SrtpKeys>; 2],
        closed: [bool; 2],
        now: Time,
        sent: usize,
    }

    const CLIENT: usize = 0;
    const SERVER: usize = 1;

    fn ends_expecting(expected: [Option<Fingerprint>; 2]) -> Wire {
        let (client, server) = (Identity::new().unwrap(), Identity::new().unwrap());
        let (now, anchor) = (Time::from_millis(77), Instant::now());
        let end = |identity: &Identity, role, expected| Dtls::new(identity, role, expected, now, anchor).unwrap();
        Wire {
            ends: [
                end(&client, DtlsRole::Client, expected[CLIENT].unwrap_or(server.fingerprint())),
                end(&server, DtlsRole::Server, expected[SERVER].unwrap_or(client.fingerprint())),
            ],
            keys: [None; 2],
            closed: [false; 2],
            now,
            sent: 0,
        }
    }

    fn wire() -> Wire {
        ends_expecting([None, None])
    }

    impl Wire {
        /// Everything `end` has to say now, and when it wants to be asked again.
        fn poll(&mut self, end: usize) -> Result<(Vec<Vec<u8>>, Time), DtlsError> {
            let mut datagrams = Vec::new();
            let mut out = [0; DTLS_DATAGRAM_MAX];
            loop {
                match self.ends[end].poll(self.now, &mut out)? {
                    DtlsOutput::Datagram(length) => datagrams.push(out[..length].to_vec()),
                    DtlsOutput::Connected(keys) => {
                        assert!(self.keys[end].replace(keys).is_none(), "once");
                    }
                    DtlsOutput::Closed => self.closed[end] = true,
                    DtlsOutput::Wait(time) => return Ok((datagrams, time)),
                }
            }
        }

        /// Runs until both are connected and silent. `change` makes of each datagram what arrives.
        fn run(&mut self, mut change: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>>) -> Result<(), DtlsError> {
            for _ in 0..1_000 {
                let mut next = Time::NEVER;
                let mut moved = false;
                for end in [CLIENT, SERVER] {
                    let (datagrams, wait) = self.poll(end)?;
                    next = next.min(wait);
                    for datagram in datagrams {
                        moved = true;
                        let number = self.sent;
                        self.sent += 1;
                        for arriving in change(number, datagram) {
                            self.ends[1 - end].handle_datagram(self.now, &arriving)?;
                        }
                    }
                }
                if !moved {
                    if self.keys.iter().all(Option::is_some) {
                        return Ok(());
                    }
                    assert_ne!(next, Time::NEVER, "both wait for ever");
                    assert!(next > self.now);
                    self.now = next;
                }
            }
            panic!("the handshake does not end");
        }

        fn assert_keys_match(&self) {
            let [client, server] = self.keys.map(|keys| keys.unwrap());
            assert_eq!(client.profile, server.profile);
            for (sender, receiver) in [(client, server), (server, client)] {
                let sealer = Sealer::new(sender.profile, &sender.send);
                let mut opener = Opener::new(receiver.profile, &receiver.receive);
                let mut out = [0; 64];
                let header = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
                let length = sealer.seal_into(&header, &[], b"hello", 1, &mut out).unwrap();
                assert!(opener.open_rtp(&mut out[..length]).is_ok());
            }
        }
    }

    #[test]
    fn two_of_ours_agree_on_aes_256_gcm() {
        let mut wire = wire();
        wire.run(|_, datagram| vec![datagram]).unwrap();
        wire.assert_keys_match();
        assert_eq!(wire.keys[SERVER].unwrap().profile, Profile::AeadAes256Gcm);
        assert_eq!(wire.now, Time::from_millis(77), "no timer was needed");
    }

    #[test]
    fn any_lost_datagram_costs_a_timer_and_no_more() {
        let mut whole = wire();
        whole.run(|_, datagram| vec![datagram]).unwrap();
        assert_eq!(whole.sent, 4, "four flights of one datagram each");
        for lost in 0..whole.sent {
            let mut wire = wire();
            wire.run(|number, datagram| if number == lost { vec![] } else { vec![datagram] }).unwrap();
            wire.assert_keys_match();
            let took = wire.now.since(Time::from_millis(77));
            assert!(took < Duration::from_millis(400), "datagram {lost} cost {took:?}");
        }
    }

    #[test]
    fn it_connects_through_heavy_loss_doubling_and_fragments_of_any_size() {
        let mut rng = crate::rng::Rng::new(3);
        for _ in 0..20 {
            let mut wire = wire();
            wire.run(|_, datagram| match rng.below(6) {
                0 => vec![],
                1 => vec![datagram.clone(), datagram],
                _ => split_handshake(&datagram, 60 + rng.below(500) as usize, &mut rng),
            })
            .unwrap();
            wire.assert_keys_match();
        }
    }

    /// Each datagram takes its own time, so that flights mix; some are lost, copied or cut in pieces. What both ends
    /// have to take here is the same, whoever is the client.
    #[test]
    fn it_connects_through_a_network_that_reorders_everything() {
        let mut rng = crate::rng::Rng::new(11);
        for round in 0..60 {
            let mut wire = wire();
            let begin = wire.now;
            let mut under_way: Vec<(Time, usize, Vec<u8>)> = Vec::new();
            while wire.keys.iter().any(Option::is_none) {
                assert!(wire.now.since(begin) < HANDSHAKE_EXPIRY, "round {round}");
                let mut next = Time::NEVER;
                for end in [CLIENT, SERVER] {
                    let (datagrams, wait) = wire.poll(end).unwrap();
                    next = next.min(wait);
                    for datagram in datagrams {
                        let arriving = match rng.below(8) {
                            0 => vec![],
                            1 | 2 => vec![datagram.clone(), datagram],
                            _ => split_handshake(&datagram, 100 + rng.below(400) as usize, &mut rng),
                        };
                        for datagram in arriving {
                            let delay = Duration::from_millis(rng.below(250));
                            under_way.push((wire.now + delay, 1 - end, datagram));
                        }
                    }
                }
                let first = under_way.iter().map(|(at, ..)| *at).min().unwrap_or(Time::NEVER);
                wire.now = first.min(next).max(wire.now);
                let now = wire.now;
                for (_, to, datagram) in under_way.extract_if(.., |(at, ..)| *at <= now) {
                    wire.ends[to].handle_datagram(now, &datagram).unwrap();
                }
            }
            wire.assert_keys_match();
        }
    }

    /// Which end still owes something when copies arrive late: RFC 6347 section 4.2.4 lets only the side that sent
    /// the last flight answer, and in a full handshake of 1.2 that is the server.
    #[test]
    fn late_copies_make_only_the_server_repeat_itself() {
        let mut wire = wire();
        let mut said: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
        let mut number = 0;
        wire.run(|_, datagram| {
            // Four flights, by turns; the client's are the even ones.
            said[number % 2].push(datagram.clone());
            number += 1;
            vec![datagram]
        })
        .unwrap();
        assert_eq!((said[CLIENT].len(), said[SERVER].len()), (2, 2));
        let keys = wire.keys;
        for _ in 0..3 {
            wire.now = wire.now + Duration::from_millis(700);
            for datagram in &said[SERVER] {
                wire.ends[CLIENT].handle_datagram(wire.now, datagram).unwrap();
                assert!(wire.poll(CLIENT).unwrap().0.is_empty(), "the client's flight was answered, nothing is owed");
            }
            for datagram in &said[CLIENT] {
                wire.ends[SERVER].handle_datagram(wire.now, datagram).unwrap();
            }
            let (again, _) = wire.poll(SERVER).unwrap();
            assert!(again.len() == 1, "{} datagrams", again.len());
            assert_eq!(content_type(&again[0]), 20, "ChangeCipherSpec and Finished");
            wire.ends[CLIENT].handle_datagram(wire.now, &again[0]).unwrap();
            assert!(wire.poll(CLIENT).unwrap().0.is_empty());
        }
        assert!(wire.closed == [false, false]);
        assert!(keys.iter().all(Option::is_some) && wire.ends[CLIENT].last_flight().is_empty());
    }

    /// Each plain handshake message of a datagram in pieces, in datagrams of their own, shuffled.
    fn split_handshake(datagram: &[u8], size: usize, rng: &mut crate::rng::Rng) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        let mut rest = Vec::new();
        for record in Records(datagram).flatten() {
            if content_type(record) != CONTENT_HANDSHAKE || epoch(record) != 0 || record.len() < 25 + 2 * size {
                rest.extend_from_slice(record);
                continue;
            }
            let (header, body) = record.split_at(25);
            let base = u32::from_be_bytes([0, header[19], header[20], header[21]]) as usize;
            for from in (0..body.len()).step_by(size) {
                let piece = &body[from..(from + size).min(body.len())];
                let mut datagram = header.to_vec();
                datagram[11..13].copy_from_slice(&(12 + piece.len() as u16).to_be_bytes());
                datagram[19..22].copy_from_slice(&((base + from) as u32).to_be_bytes()[1..]);
                datagram[22..25].copy_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
                datagram.extend_from_slice(piece);
                datagrams.push(datagram);
            }
        }
        for i in (1..datagrams.len()).rev() {
            datagrams.swap(i, rng.below(i as u64 + 1) as usize);
        }
        if !rest.is_empty() {
            datagrams.push(rest);
        }
        datagrams
    }

    #[test]
    fn a_client_hello_resplit_after_loss_is_answered() {
        let mut wire = wire();
        let (datagrams, _) = wire.poll(CLIENT).unwrap();
        let body = &datagrams[0][25..];
        let half = body.len() / 2;
        for (from, to) in [(0, half + 20), (0, half - 30), (half - 30, body.len())] {
            wire.ends[SERVER].handle_datagram(wire.now, &fragment(0, body, from, to)).unwrap();
        }
        let (answer, _) = wire.poll(SERVER).unwrap();
        assert!(!answer.is_empty());
    }

    #[test]
    fn the_server_takes_gcm_whatever_the_client_prefers() {
        for (offered, chosen) in [
            ([1u8, 8, 7], 8),
            ([1, 7, 8], 8),
            ([1, 7, 7], 7),
            ([1, 1, 1], 1),
        ] {
            let mut wire = wire();
            let (mut datagrams, _) = wire.poll(CLIENT).unwrap();
            // use_srtp (14), its length, the list's length, three profiles, no MKI.
            let start = [0, 14, 0, 9, 0, 6];
            let at = datagrams[0].windows(6).position(|bytes| bytes == start).expect("use_srtp") + 6;
            for (place, profile) in offered.iter().enumerate() {
                datagrams[0][at + 2 * place + 1] = *profile;
            }
            wire.ends[SERVER].handle_datagram(wire.now, &datagrams[0]).unwrap();
            let answer = wire.poll(SERVER).unwrap().0.concat();
            let expected = [0, 14, 0, 5, 0, 2, 0, chosen, 0];
            assert!(answer.windows(9).any(|bytes| bytes == expected), "{offered:?}");
        }
    }

    /// Goal: every client is asked for ECDSA or RSA, in one datagram. Method: the flight itself, said again after loss.
    #[test]
    fn our_first_flight_asks_for_both_kinds_of_certificates_in_one_datagram() {
        // Types ecdsa_sign and rsa_sign, four algorithms, no authorities.
        let request = [2, 64, 1, 0, 8, 4, 3, 5, 3, 4, 1, 5, 1, 0, 0];
        let mut wire = wire();
        let (hello, _) = wire.poll(CLIENT).unwrap();
        wire.ends[SERVER].handle_datagram(wire.now, &hello[0]).unwrap();
        for _ in 0..4 {
            let (flight, next) = wire.poll(SERVER).unwrap();
            let [datagram] = &flight[..] else { panic!("{} datagrams", flight.len()) };
            assert!(datagram.len() <= DTLS_DATAGRAM_MAX - 200, "{} bytes: a longer one would be cut", datagram.len());
            let kinds: Vec<u8> = Records(datagram).flatten().map(|record| record[13]).collect();
            assert_eq!(kinds, [2, 11, 12, 13, 14], "each message whole");
            let asked = Records(datagram).flatten().nth(3).unwrap();
            assert_eq!((&asked[14..17], &asked[22..25], &asked[25..]), (&[0, 0, 15][..], &[0, 0, 15][..], &request[..]));
            wire.now = next;
        }
    }

    /// Goal: nobody between the two changes what a client may sign with. Method: each byte of our request's body is
    /// changed under way, and our addition taken out of it, as an attacker would who cannot sign.
    #[test]
    fn a_request_changed_under_way_ends_the_handshake() {
        let narrow = |datagram: &[u8]| {
            let mut out = Vec::new();
            for record in Records(datagram).flatten() {
                let mut record = record.to_vec();
                if record[13] == 13 {
                    record.splice(25.., [1, 64, 0, 4, 4, 3, 5, 3, 0, 0]);
                    (record[12], record[16], record[24]) = (22, 10, 10);
                }
                out.extend(record);
            }
            out
        };
        for place in 0..15 {
            let mut wire = wire();
            let changed = wire.run(|_, mut datagram| {
                let request = datagram.windows(4).position(|bytes| bytes == [2, 64, 1, 0]);
                match request.filter(|_| datagram[0] == CONTENT_HANDSHAKE && datagram[13] == 2) {
                    Some(_) if place == 0 => datagram = narrow(&datagram),
                    // Of the lengths the library sees that they are wrong; the types and algorithms may be any.
                    Some(at) => datagram[at + place] ^= 0x10,
                    None => {}
                }
                vec![datagram]
            });
            assert!(matches!(changed, Err(DtlsError::Handshake(_))), "byte {place}");
            assert!(wire.keys.iter().all(Option::is_none), "byte {place}");
        }
    }

    #[test]
    fn another_certificate_gets_no_keys() {
        for wrong in [CLIENT, SERVER] {
            let mut expected = [None, None];
            expected[wrong] = Some(Fingerprint([7; 32]));
            let mut wire = ends_expecting(expected);
            let error = wire.run(|_, datagram| vec![datagram]).unwrap_err();
            assert!(matches!(error, DtlsError::FingerprintMismatch), "{error}");
            assert!(wire.keys[wrong].is_none());
            let dead = wire.ends[wrong].poll(wire.now, &mut [0; DTLS_DATAGRAM_MAX]);
            assert!(matches!(dead, Err(DtlsError::Ended)));
        }
    }

    #[test]
    fn nobody_answering_ends_with_an_error_in_time() {
        let mut wire = wire();
        let begin = wire.now;
        let error = loop {
            match wire.poll(CLIENT) {
                Ok((_, next)) => wire.now = next,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, DtlsError::Handshake(_)), "{error}");
        assert!(wire.now.since(begin) <= HANDSHAKE_EXPIRY);
        assert!(wire.now.since(begin) > HANDSHAKE_EXPIRY / 2);
    }

    #[test]
    fn the_kept_last_flight_connects_a_remote_that_missed_it() {
        let mut wire = wire();
        // The server's last flight is the one datagram that comes after its keys.
        loop {
            let (datagrams, _) = wire.poll(CLIENT).unwrap();
            for datagram in datagrams {
                wire.ends[SERVER].handle_datagram(wire.now, &datagram).unwrap();
            }
            let (datagrams, _) = wire.poll(SERVER).unwrap();
            if wire.keys[SERVER].is_some() {
                break;
            }
            for datagram in datagrams {
                wire.ends[CLIENT].handle_datagram(wire.now, &datagram).unwrap();
            }
        }
        let kept = wire.ends[SERVER].last_flight().to_vec();
        assert!(!kept.is_empty() && kept.len() <= 508, "a record keeps 508 bytes: {}", kept.len());
        // The server's object is gone; the client repeats its flight.
        let (_, next) = wire.poll(CLIENT).unwrap();
        wire.now = next;
        let (again, _) = wire.poll(CLIENT).unwrap();
        assert!(again.iter().any(|datagram| classify_late(datagram) == AfterHandshake::Resend));
        wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
        wire.poll(CLIENT).unwrap();
        wire.assert_keys_match();
        assert!(wire.ends[CLIENT].last_flight().is_empty());
        // Once more changes nothing.
        wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
        assert!(wire.poll(CLIENT).unwrap().0.is_empty());
    }

    #[test]
    fn a_kept_close_notify_closes_the_other_end_and_ours_still_listens() {
        let mut wire = wire();
        let mut out = [0; DTLS_DATAGRAM_MAX];
        assert_eq!(wire.ends[SERVER].sealed_close_notify(&mut out), 0, "no keys yet");
        wire.run(|_, datagram| vec![datagram]).unwrap();
        let flight = wire.ends[SERVER].last_flight().to_vec();
        let length = wire.ends[SERVER].sealed_close_notify(&mut out);
        let kept = out[..length].to_vec();
        assert!(length > 0 && length <= 508);
        assert_eq!(classify_late(&kept), AfterHandshake::Alert);
        assert_eq!(wire.ends[SERVER].sealed_close_notify(&mut out), 0, "once");
        assert_eq!(wire.ends[SERVER].last_flight(), flight);

        // A forged one closes nothing.
        let mut forged = kept.clone();
        forged[length - 1] ^= 1;
        wire.ends[CLIENT].handle_datagram(wire.now, &forged).unwrap();
        wire.poll(CLIENT).unwrap();
        assert!(!wire.closed[CLIENT]);

        // The other end goes first: ours verifies it though its own goodbye is sealed already.
        wire.ends[CLIENT].close();
        let (goodbye, _) = wire.poll(CLIENT).unwrap();
        assert_eq!(goodbye.len(), 1);
        wire.ends[SERVER].handle_datagram(wire.now, &goodbye[0]).unwrap();
        wire.poll(SERVER).unwrap();
        assert!(wire.closed[SERVER]);

        wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
        wire.poll(CLIENT).unwrap();
        assert!(wire.closed[CLIENT]);
    }

    #[test]
    fn late_datagrams_are_told_apart() {
        let record = |content, epoch| vec![content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(classify_late(&record(22, 1)), AfterHandshake::Resend);
        assert_eq!(classify_late(&[record(22, 0), record(20, 0), record(22, 1)].concat()), AfterHandshake::Resend);
        assert_eq!(classify_late(&record(22, 0)), AfterHandshake::Ignore);
        assert_eq!(classify_late(&record(21, 1)), AfterHandshake::Alert);
        assert_eq!(classify_late(&record(21, 0)), AfterHandshake::Ignore);
        assert_eq!(classify_late(&record(23, 1)), AfterHandshake::Ignore);
        assert_eq!(classify_late(&record(22, 1)[..13]), AfterHandshake::Ignore);
        assert_eq!(classify_late(&[]), AfterHandshake::Ignore);
    }

    #[test]
    fn noise_between_the_flights_changes_nothing() {
        let mut rng = crate::rng::Rng::new(8);
        for _ in 0..20 {
            let mut wire = wire();
            wire.run(|_, datagram| {
                // Random bytes, the same records under unknown content types, the datagram cut: none of
                // them can be taken for an honest message. (Changed bodies are an attack, and fail it.)
                let mut random = vec![0; 300];
                rng.fill(&mut random);
                random[0] = CONTENT_HANDSHAKE + 2 + rng.below(200) as u8;
                let mut noise = Vec::new();
                for record in Records(&datagram).flatten() {
                    noise.extend_from_slice(record);
                    let at = noise.len() - record.len();
                    noise[at] = random[0];
                }
                vec![random, noise, datagram[..datagram.len() / 2].to_vec(), datagram]
            })
            .unwrap();
            wire.assert_keys_match();
        }
    }

    #[test]
    fn no_bytes_panic_or_loop() {
        let mut rng = crate::rng::Rng::new(9);
        for _ in 0..300 {
            let mut wire = wire();
            let result = wire.run(|number, mut datagram| {
                if number > 60 {
                    return vec![datagram];
                }
                for _ in 0..rng.below(4) {
                    let at = rng.below(datagram.len() as u64) as usize;
                    datagram[at] = rng.next_u32() as u8;
                }
                vec![datagram]
            });
            assert!(!matches!(result, Err(DtlsError::Panicked)));
        }
    }
}
