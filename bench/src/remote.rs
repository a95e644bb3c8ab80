//! One remote of ours behind its socket: checks (ICE, controlling), the handshake, then keys. Publishers, the crowd and the
//! witnesses share it; only the handshake differs: dimpl for the many, webrtc-dtls for the witnesses.

use crate::offer::{Agreed, Credentials};
use crate::sys;
use crate::witness::Witness;
use aws_lc_rs::digest::{SHA256, digest};
use dimpl::{Config, DtlsCertificate, Output, SrtpProfile};
use spillway_proto::wire::stun;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const CHECK_FIRST: Duration = Duration::from_millis(50);
const CHECK_SLOWEST: Duration = Duration::from_secs(1);
/// RFC 7675 section 5.1: about every five seconds.
const CONSENT_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_EXPIRY: Duration = Duration::from_secs(15);
/// RFC 7675 section 5.1: consent ends 30 s after the last answer.
const CONSENT_EXPIRY: Duration = Duration::from_secs(30);
const PRIORITY: u32 = (126 << 24) | (65_535 << 8) | 255;
const DATAGRAM_BYTES: usize = 1_200;
/// The longest certificate that may come back out of the library.
const MESSAGE_BYTES_MAX: usize = 16 * 1_024;
/// RFC 5764 section 4.2.
pub const EXPORTER: &str = "EXTRACTOR-dtls_srtp";

/// What all remotes of this process show: making a key for each would measure the generator.
pub struct Identity {
    certificate: DtlsCertificate,
    config: Arc<Config>,
    fingerprint: [u8; 32],
}

impl Identity {
    pub fn new() -> Result<Identity, String> {
        let certificate = dimpl::certificate::generate_self_signed_certificate().map_err(|error| error.to_string())?;
        let config = Config::builder()
            .mtu(DATAGRAM_BYTES)
            .use_server_cookie(false)
            .handshake_timeout(CONNECT_EXPIRY)
            .build()
            .map_err(|error| error.to_string())?;
        let fingerprint = fingerprint_of(&certificate.certificate);
        Ok(Identity { certificate, config: Arc::new(config), fingerprint })
    }

    /// Names of its own for each remote.
    pub fn credentials(&self) -> Credentials {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let mut random = [0_u8; 16];
        // Without randomness the number still keeps them apart; nothing secret hangs on a load tester's names.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pwd: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Credentials { ufrag: format!("b{number:07}"), pwd, fingerprint: self.fingerprint }
    }
}

pub fn fingerprint_of(certificate: &[u8]) -> [u8; 32] {
    digest(&SHA256, certificate).as_ref().try_into().unwrap_or_default()
}

/// What a handshake leaves.
pub struct Keys {
    pub profile: &'static str,
    /// Master key and salt of our direction.
    pub own: (Vec<u8>, Vec<u8>),
    pub seal: Context,
    pub open: Context,
}

impl Keys {
    /// RFC 5764 section 4.2: client key, server key, client salt, server salt.
    pub fn new(profile: ProtectionProfile, material: &[u8], we_are_client: bool) -> Result<Keys, String> {
        let (key, salt) = (profile.key_len(), profile.salt_len());
        let (Some(keys), Some(salts)) = (material.get(..2 * key), material.get(2 * key..2 * (key + salt))) else {
            return Err("the handshake gave too few bytes of keys".into());
        };
        let context = |place: usize| {
            let (key, salt) = (&keys[place * key..(place + 1) * key], &salts[place * salt..(place + 1) * salt]);
            Context::new(key, salt, profile, None, None).map_err(|error| error.to_string())
        };
        let (client, server) = (context(0)?, context(1)?);
        let (seal, open) = if we_are_client { (client, server) } else { (server, client) };
        let place = usize::from(!we_are_client);
        let own = (keys[place * key..(place + 1) * key].to_vec(), salts[place * salt..(place + 1) * salt].to_vec());
        Ok(Keys { profile: name_of(profile), own, seal, open })
    }
}

fn name_of(profile: ProtectionProfile) -> &'static str {
    match profile {
        ProtectionProfile::AeadAes256Gcm => "AEAD_AES_256_GCM",
        ProtectionProfile::AeadAes128Gcm => "AEAD_AES_128_GCM",
        _ => "AES128_CM_HMAC_SHA1_80",
    }
}

enum Handshake {
    Crowd { inner: Box<dimpl::Dtls>, certificate: bool },
    Witness(Witness),
    Over,
}

pub enum Event {
    Nothing,
    /// The first check was answered.
    Reached,
    Connected(Keys),
}

pub struct Remote {
    pub socket: UdpSocket,
    agreed: Agreed,
    username: String,
    handshake: Handshake,
    /// The same moment on both clocks: ours counts from an unknown one.
    anchor: (Duration, Instant),
    began: Duration,
    answered_at: Option<Duration>,
    connected: bool,
    transaction: [u8; 12],
    check_at: Duration,
    check_interval: Duration,
    handshake_at: Duration,
}

/// A socket towards the first candidate there is a way to.
pub fn connect(agreed: &Agreed, from: Option<IpAddr>, bytes: usize, stamps: bool) -> io::Result<UdpSocket> {
    let mut refused = io::Error::other("no candidate");
    for candidate in &agreed.candidates {
        let any: IpAddr = match candidate.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let connected = UdpSocket::bind((from.unwrap_or(any), 0)).and_then(|socket| {
            socket.connect(candidate)?;
            sys::prepare(&socket, bytes, stamps)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

impl Remote {
    /// A remote of the crowd.
    pub fn new(identity: &Identity, ufrag: &str, agreed: Agreed, socket: UdpSocket) -> Remote {
        let anchor = (sys::monotonic(), Instant::now());
        let mut inner = dimpl::Dtls::new_12(Arc::clone(&identity.config), identity.certificate.clone(), anchor.1);
        inner.set_active(!agreed.server_is_active);
        Remote::over(Handshake::Crowd { inner: Box::new(inner), certificate: false }, ufrag, agreed, socket, anchor)
    }

    /// One whose handshake is webrtc-dtls's.
    pub fn witnessed(witness: Witness, ufrag: &str, agreed: Agreed, socket: UdpSocket) -> Remote {
        Remote::over(Handshake::Witness(witness), ufrag, agreed, socket, (sys::monotonic(), Instant::now()))
    }

    fn over(handshake: Handshake, ufrag: &str, agreed: Agreed, socket: UdpSocket, anchor: (Duration, Instant)) -> Remote {
        let username = format!("{}:{ufrag}", agreed.ufrag);
        let now = anchor.0;
        Remote {
            socket,
            agreed,
            username,
            handshake,
            anchor,
            began: now,
            answered_at: None,
            connected: false,
            transaction: [0; 12],
            check_at: now,
            check_interval: CHECK_FIRST,
            handshake_at: Duration::MAX,
        }
    }

    /// When `handle_timeout` wants to be called.
    pub fn deadline(&self) -> Duration {
        self.check_at.min(self.handshake_at)
    }

    pub fn handle_timeout(&mut self, now: Duration) -> Result<Event, String> {
        if !self.connected && now.saturating_sub(self.began) > CONNECT_EXPIRY {
            return Err(if self.answered_at.is_none() {
                "no answer to checks (ICE) within 15 s: is the media address reachable, and UDP open?".into()
            } else {
                "the handshake (DTLS) was not over within 15 s".into()
            });
        }
        if self.answered_at.is_some_and(|at| now.saturating_sub(at) > CONSENT_EXPIRY) {
            return Err("the server stopped answering checks (consent, 30 s)".into());
        }
        if now >= self.check_at {
            self.check(now);
        }
        if now >= self.handshake_at { self.drive(now) } else { Ok(Event::Nothing) }
    }

    fn check(&mut self, now: Duration) {
        // Without randomness the server answers the same transaction again; nothing secret hangs on it.
        let _ = aws_lc_rs::rand::fill(&mut self.transaction);
        let mut out = [0; 256];
        let tie_breaker = u64::from_le_bytes(self.transaction[..8].try_into().unwrap_or_default());
        let pwd = self.agreed.pwd.as_bytes();
        let length = stun::write_request(&mut out, &self.transaction, &self.username, pwd, PRIORITY, tie_breaker, true);
        self.send(&out[..length.unwrap_or_default()]);
        let interval = if self.answered_at.is_some() { CHECK_SLOWEST } else { self.check_interval };
        self.check_interval = (self.check_interval * 2).min(CHECK_SLOWEST);
        self.check_at = now + interval;
    }

    /// A STUN message.
    pub fn handle_stun(&mut self, now: Duration, datagram: &[u8]) -> Result<Event, String> {
        match stun::parse(datagram) {
            Ok(stun::Message::Success(success)) if success.transaction == self.transaction => {
                self.check_at = now + CONSENT_INTERVAL;
                if self.answered_at.replace(now).is_some() {
                    return Ok(Event::Nothing);
                }
                // Nothing to show but the way: the handshake begins with the next call.
                self.handshake_at = now;
                Ok(Event::Reached)
            }
            // A server that is a full agent checks us too. Whoever knows our ufrag may have an answer.
            Ok(stun::Message::Request(request)) => {
                let mut out = [0; 128];
                let from = self.socket.peer_addr().map_err(|error| error.to_string())?;
                let length = stun::write_success(&mut out, &request.transaction, from, self.own_pwd().as_bytes());
                self.send(&out[..length.unwrap_or_default()]);
                Ok(Event::Nothing)
            }
            _ => Ok(Event::Nothing),
        }
    }

    fn own_pwd(&self) -> &str {
        self.agreed.own_pwd.as_str()
    }

    pub fn handle_dtls(&mut self, now: Duration, datagram: &[u8]) -> Result<Event, String> {
        match &mut self.handshake {
            Handshake::Crowd { inner, .. } => inner.handle_packet(datagram).map_err(|error| format!("DTLS: {error}"))?,
            Handshake::Witness(witness) => witness.handle(datagram),
            Handshake::Over => return Ok(Event::Nothing),
        }
        self.drive(now)
    }

    fn drive(&mut self, now: Duration) -> Result<Event, String> {
        if self.answered_at.is_none() {
            self.handshake_at = Duration::MAX;
            return Ok(Event::Nothing);
        }
        let instant = self.anchor.1 + now.saturating_sub(self.anchor.0);
        let mut keys = None;
        match &mut self.handshake {
            Handshake::Over => self.handshake_at = Duration::MAX,
            Handshake::Witness(witness) => {
                witness.begin(&self.socket, &self.agreed)?;
                keys = witness.keys()?;
                self.handshake_at = now + Duration::from_millis(2);
            }
            Handshake::Crowd { inner, certificate } => {
                inner.handle_timeout(instant).map_err(|error| format!("DTLS: {error}"))?;
                let mut out = [0; MESSAGE_BYTES_MAX];
                loop {
                    match inner.poll_output(&mut out) {
                        Output::Packet(packet) => {
                            let _ = self.socket.send(packet);
                        }
                        Output::PeerCert(shown) if fingerprint_of(shown) == self.agreed.fingerprint => *certificate = true,
                        Output::PeerCert(_) => return Err("the server's certificate is not the one its answer names".into()),
                        Output::KeyingMaterial(material, profile) if *certificate => {
                            let profile = match profile {
                                SrtpProfile::AEAD_AES_256_GCM => ProtectionProfile::AeadAes256Gcm,
                                SrtpProfile::AEAD_AES_128_GCM => ProtectionProfile::AeadAes128Gcm,
                                _ => ProtectionProfile::Aes128CmHmacSha1_80,
                            };
                            keys = Some(Keys::new(profile, &material, !self.agreed.server_is_active)?);
                        }
                        Output::CloseNotify => return Err("the server said goodbye (DTLS close_notify)".into()),
                        Output::Timeout(at) => {
                            let wait = at.saturating_duration_since(instant);
                            self.handshake_at = if wait > Duration::from_secs(3_600) { Duration::MAX } else { now + wait };
                            break;
                        }
                        _ => {}
                    }
                }
            }
        }
        let Some(keys) = keys else { return Ok(Event::Nothing) };
        self.connected = true;
        // The object holds some 10 KB, and what a server may still say in it is goodbye, which silence says too. As
        // the DTLS server our last flight may have to go again: kept.
        if !self.agreed.server_is_active {
            self.handshake = Handshake::Over;
            self.handshake_at = Duration::MAX;
        }
        Ok(Event::Connected(keys))
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Without a handshake.
    #[cfg(test)]
    pub fn pretend_connected(&mut self) {
        self.connected = true;
    }

    pub fn send(&self, datagram: &[u8]) {
        // A full socket or a closed port loses it, as a network does; the next check tells.
        let _ = self.socket.send(datagram);
    }
}
