//! DTLS of one session, on dimpl: certificates, the handshake in either role, the SRTP keys it makes.
//!
//! Version and profile are chosen here and nowhere else: DTLS 1.2, because there dimpl as a server takes
//! AES-256-GCM, then AES-128-GCM, then SHA1-80, whatever the client prefers (in 1.3 it takes the client's
//! first, which is SHA1-80 in Chromium: seven times the crypto per packet). As the client (a remote that offered
//! `a=setup:passive`) we only propose, GCM first; ffmpeg knows SHA1-80 alone. A client may show an ECDSA or an RSA
//! certificate (`rsa`), a server an ECDSA one. No cookie: an object is made only after a STUN check with
//! MESSAGE-INTEGRITY from that address. Handshake messages come through `reassembler`. The one place of this crate that
//! draws randomness from the system: keys need it.
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
//! * It says close_notify. Anybody who can write the remote's address into a datagram can make one that looks like it,
//!   so it is verified: by what `farewell` gave before the object went (37 bytes), or by the object, which then polls
//!   `Closed`; it does so even after `sealed_close_notify`.

use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_EXPIRY, HANDSHAKE_FRAGMENTS_MAX};
use crate::link::command::{DtlsRole, Fingerprint};
use crate::session::farewell::{self, Farewell};
use crate::session::own_key;
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
/// Less than any timer of the library is apart from the call that set it.
const TIMER_STEP: Duration = Duration::from_micros(1);

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
             certificate of ECDSA (P-256 or P-384) or, as the client, of RSA with 2,048 to 4,096 bits")]
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
        // us is hashed as it came: as the client only the ciphers are watched.
        let provider = |provider| own_key::read(provider, &certificate.private_key);
        let as_server = config().mtu(DTLS_DATAGRAM_MAX - rsa::WIDENED_BY).with_crypto_provider(provider(rsa::provider())).build();
        let as_client = config().mtu(DTLS_DATAGRAM_MAX).with_crypto_provider(provider(farewell::provider())).build();
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

/// One side of a DTLS association, as the engine drives it: from another thread than the one that began it, as a rule. The simulator
/// has a stub of its own.
pub trait Handshake: Send {
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
    /// Once connected: what knows the remote's close_notify in this object's place, so that it may go. None: it has to
    /// stay.
    fn farewell(&self) -> Option<Farewell> {
        None
    }
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
    /// When the library wants to repeat its flight.
    due: Option<Instant>,
    certificate: Certificate,
    /// The library says that the handshake is over; the keys are its next word.
    finished: bool,
    connected: bool,
    /// Nothing is left to poll: what comes next is the answer to what is asked next.
    drained: bool,
    last_flight: Vec<u8>,
    /// With what the remote sealed the last record that was opened.
    farewell: Option<Farewell>,
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
            due: None,
            certificate: Certificate::Missing,
            finished: false,
            connected: false,
            drained: false,
            last_flight: Vec::new(),
            farewell: None,
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
        let called = catch_unwind(AssertUnwindSafe(|| call(inner, reassembler)));
        // Taken after every call, so that it is never another association's.
        self.farewell = farewell::take_opened().or(self.farewell);
        let result = match called {
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
        // A datagram that waited for its turn past our repeat answers it: first it, then the timer. The other way round the
        // library packs the needless repeat and the last flight into one datagram, too long to be kept.
        let due = self.due.filter(|_| !self.finished).map(|due| due - TIMER_STEP);
        let instant = due.map_or(self.instant(now), |due| due.min(self.instant(now)));
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
                    self.due = Some(instant);
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

    fn farewell(&self) -> Option<Farewell> {
        self.farewell.filter(|_| self.connected)
    }
}

/// What a DTLS datagram means after the object has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterHandshake {
    /// The remote is still finishing: send the kept last flight again (not more often than its own
    /// retransmissions come, since this is not authenticated).
    Resend,
    /// Most likely close_notify: believed if `Farewell` knows it.
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
mod tests;
