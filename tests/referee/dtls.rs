//! Goal: our DTLS finishes handshakes with code that shares nothing with it, both sides get the same SRTP
//! keys, and as the server we land on GCM though the client prefers SHA1-80, as Chromium does. In either role it
//! takes datagrams that are lost, copied, cut into smaller fragments and out of order. RSA keys, which theirs has not, are in `rsa`.
//! Method: webrtc-dtls over loopback sockets, in either role; the rough wire is seeded.

use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::rng::Rng;
use spillway_proto::session::dtls::{DTLS_DATAGRAM_MAX, Dtls, DtlsError, DtlsOutput, Handshake, Identity, SrtpKeys};
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use webrtc_dtls::config::{ClientAuthType, Config};
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::crypto::Certificate;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_util_dtls::KeyingMaterialExporter;

/// What is between the two: a wire, or one that loses and copies until both are connected. Towards ours it also cuts
/// and shuffles, which theirs answers with an alert. What a server says last arrives as it is: a Finished before its
/// ChangeCipherSpec is as good as lost to ours, and theirs never says it again (RFC 6347 section 4.2.4 wants it to).
struct Between {
    rough: Option<Rng>,
    ours_connected: watch::Sender<bool>,
    both_connected: watch::Receiver<bool>,
}

impl Between {
    /// What arrives of a datagram.
    fn carry(&mut self, datagram: &[u8], to: To) -> Vec<Vec<u8>> {
        let calm = *self.both_connected.borrow();
        let Some(rng) = self.rough.as_mut().filter(|_| !calm) else { return vec![datagram.to_vec()] };
        let said_once = to == To::Ours && (datagram[0] == 20 || datagram[4] == 1);
        match rng.below(7) {
            0 if !said_once => vec![],
            1 => vec![datagram.to_vec(), datagram.to_vec()],
            _ if to == To::Theirs || said_once => vec![datagram.to_vec()],
            _ => {
                let mut pieces = in_pieces(datagram, 80 + rng.below(300) as usize);
                for place in (1..pieces.len()).rev() {
                    pieces.swap(place, rng.below(place as u64 + 1) as usize);
                }
                pieces
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Ours,
    Theirs,
}

/// Each record of a datagram as a datagram of its own, plain handshake messages in fragments of `size` bytes
/// (RFC 6347 sections 4.1 and 4.2.3).
pub(super) fn in_pieces(mut datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while datagram.len() >= 13 {
        let end = 13 + usize::from(u16::from_be_bytes([datagram[11], datagram[12]]));
        let (record, rest) = datagram.split_at(end);
        datagram = rest;
        let plain_handshake = record[0] == 22 && record[3..5] == [0, 0] && record.len() > 25;
        // One whole message of one fragment; anything else goes as it is.
        if !plain_handshake || record[14..17] != record[22..25] {
            pieces.push(record.to_vec());
            continue;
        }
        for (number, body) in record[25..].chunks(size).enumerate() {
            let mut piece = record[..25].to_vec();
            piece[11..13].copy_from_slice(&(12 + body.len() as u16).to_be_bytes());
            piece[19..22].copy_from_slice(&((number * size) as u32).to_be_bytes()[1..]);
            piece[22..25].copy_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
            piece.extend_from_slice(body);
            pieces.push(piece);
        }
    }
    pieces
}

/// Runs ours until it is connected and the other side has all it needs.
async fn drive(
    ours: &mut Dtls,
    socket: &UdpSocket,
    begin: Instant,
    keys: &mut Option<SrtpKeys>,
    mut between: Between,
) {
    let mut out = [0; DTLS_DATAGRAM_MAX];
    let mut datagram = [0; 2_048];
    loop {
        let now = Time(begin.elapsed().as_nanos() as u64);
        match ours.poll(now, &mut out).expect("our side goes on") {
            DtlsOutput::Datagram(length) => {
                for arriving in between.carry(&out[..length], To::Theirs) {
                    socket.send(&arriving).await.expect("loopback");
                }
            }
            DtlsOutput::Connected(got) => {
                *keys = Some(got);
                between.ours_connected.send_replace(true);
            }
            DtlsOutput::Closed => return,
            DtlsOutput::Wait(until) => {
                let wait = until.since(now).min(Duration::from_secs(60));
                if let Ok(length) = tokio::time::timeout(wait, socket.recv(&mut datagram)).await {
                    let now = Time(begin.elapsed().as_nanos() as u64);
                    for arriving in between.carry(&datagram[..length.expect("loopback")], To::Ours) {
                        ours.handle_datagram(now, &arriving).expect("our side goes on");
                    }
                }
            }
        }
    }
}

async fn handshake(role: DtlsRole, offered: Vec<SrtpProtectionProfile>) -> (SrtpKeys, Vec<u8>) {
    let names = vec!["localhost".to_string()];
    let certificate = Certificate::generate_self_signed(names).expect("a certificate");
    handshake_with(role, offered, certificate, None).await
}

async fn handshake_with(
    role: DtlsRole,
    offered: Vec<SrtpProtectionProfile>,
    certificate: Certificate,
    rough: Option<Rng>,
) -> (SrtpKeys, Vec<u8>) {
    // Two of rustls' providers may be linked; the referee panics unless one is named.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fingerprint = fingerprint_of(&certificate);

    let (socket, their_socket) = (
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
    );
    socket.connect(their_socket.local_addr().expect("bound")).await.expect("loopback");
    their_socket.connect(socket.local_addr().expect("bound")).await.expect("loopback");

    let config = Config {
        certificates: vec![certificate],
        srtp_protection_profiles: offered,
        client_auth: ClientAuthType::RequireAnyClientCert,
        insecure_skip_verify: true,
        flight_interval: if rough.is_some() { Duration::from_millis(60) } else { Duration::default() },
        ..Config::default()
    };
    let identity = Identity::new().expect("an identity");
    let begin = Instant::now();
    let mut ours = Dtls::new(&identity, role, fingerprint, Time::ZERO, begin).expect("ours");
    let ((ours_connected, ours_are), (both_connected, both_are)) = (watch::channel(false), watch::channel(false));
    let between = Between { rough, ours_connected, both_connected: both_are };
    let theirs = async {
        let mut ours_are = ours_are;
        let theirs =
            DTLSConn::new(Arc::new(their_socket), config, role == DtlsRole::Server, None).await.expect("theirs");
        let state = theirs.connection_state().await;
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], 88)
            .await
            .expect("a finished handshake exports keys");
        // Theirs may have said its last word, and ours not heard it yet.
        ours_are.wait_for(|connected| *connected).await.expect("ours");
        both_connected.send_replace(true);
        theirs.close().await.expect("a goodbye");
        material
    };
    let mut keys = None;
    // Ours ends when it has verified the close_notify of theirs.
    let (_, material) = tokio::join!(drive(&mut ours, &socket, begin, &mut keys, between), theirs);
    (keys.expect("keys before the goodbye"), material)
}

/// RFC 5764 section 4.2, spelled out once more: client key, server key, client salt, server salt.
pub(super) fn assert_keys(role: DtlsRole, keys: &SrtpKeys, material: &[u8]) {
    let (key, salt) = (keys.profile.key_len(), keys.profile.salt_len());
    let (client, server) = match role {
        DtlsRole::Client => (&keys.send, &keys.receive),
        DtlsRole::Server => (&keys.receive, &keys.send),
    };
    let expected =
        [&client.key[..key], &server.key[..key], &client.salt[..salt], &server.salt[..salt]].concat();
    assert_eq!(expected[..], material[..2 * (key + salt)]);
}

const SHA1_80: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80;
const GCM_128: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm;
const GCM_256: SrtpProtectionProfile = SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm;

#[tokio::test]
async fn as_the_server_we_take_gcm_from_a_client_that_prefers_sha1() {
    for (offered, chosen) in [
        (vec![SHA1_80, GCM_256, GCM_128], Profile::AeadAes256Gcm),
        (vec![SHA1_80, GCM_128], Profile::AeadAes128Gcm),
        (vec![SHA1_80], Profile::Aes128CmSha1_80),
    ] {
        let (keys, material) = handshake(DtlsRole::Server, offered).await;
        assert_eq!(keys.profile, chosen);
        assert_keys(DtlsRole::Server, &keys, &material);
    }
}

#[tokio::test]
async fn as_the_client_we_finish_with_a_server_that_sends_cookies() {
    let (keys, material) = handshake(DtlsRole::Client, vec![GCM_128]).await;
    assert_eq!(keys.profile, Profile::AeadAes128Gcm);
    assert_keys(DtlsRole::Client, &keys, &material);
}

/// Row 5 of the threats: a client that answers our CertificateRequest with nothing. (RFC 8827 section 6.5: both sides
/// authenticate; without a certificate there is no fingerprint to compare.)
#[tokio::test]
async fn threat_05_a_client_without_a_certificate_gets_no_keys() {
    let error = refusal(Vec::new(), Fingerprint([7; 32])).await;
    assert!(matches!(error, DtlsError::NoCertificate | DtlsError::Handshake(_)), "{error}");
}

/// What ours, as the server, says of a client that it must refuse.
async fn refusal(certificates: Vec<Certificate>, expected: Fingerprint) -> DtlsError {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (socket, their_socket) = (
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
    );
    socket.connect(their_socket.local_addr().expect("bound")).await.expect("loopback");
    their_socket.connect(socket.local_addr().expect("bound")).await.expect("loopback");
    let config = Config {
        certificates,
        srtp_protection_profiles: vec![GCM_256],
        insecure_skip_verify: true,
        ..Config::default()
    };
    let begin = Instant::now();
    let identity = Identity::new().expect("an identity");
    let mut ours = Dtls::new(&identity, DtlsRole::Server, expected, Time::ZERO, begin).expect("ours");
    // It may give up, or wait for ever: what counts is what ours says.
    let theirs = tokio::spawn(DTLSConn::new(Arc::new(their_socket), config, true, None));
    let mut out = [0; DTLS_DATAGRAM_MAX];
    let mut datagram = [0; 2_048];
    let error = loop {
        let now = Time(begin.elapsed().as_nanos() as u64);
        match ours.poll(now, &mut out) {
            Ok(DtlsOutput::Datagram(length)) => {
                let _ = socket.send(&out[..length]).await;
            }
            Ok(DtlsOutput::Connected(_)) => panic!("keys for nobody knows whom"),
            Ok(DtlsOutput::Closed) => panic!("a goodbye before the handshake"),
            Ok(DtlsOutput::Wait(until)) => {
                let wait = until.since(now).min(Duration::from_secs(60));
                if let Ok(Ok(length)) = tokio::time::timeout(wait, socket.recv(&mut datagram)).await {
                    let now = Time(begin.elapsed().as_nanos() as u64);
                    if let Err(error) = ours.handle_datagram(now, &datagram[..length]) {
                        break error;
                    }
                }
            }
            Err(error) => break error,
        }
    };
    theirs.abort();
    // The object is dead: the engine closes the session with this error, and counts it.
    let dead = ours.poll(Time(begin.elapsed().as_nanos() as u64), &mut out);
    assert!(matches!(dead, Err(DtlsError::Ended)), "after {error}");
    // It refused at once: the handshake's own end, 10 s later, would hide that nobody looked.
    assert!(begin.elapsed() < Duration::from_secs(8), "{error}");
    error
}

/// Goal: an RSA certificate is no way around what a certificate is for. Method: a client shows the promised one (of
/// OpenSSL's) without having its key, and signs with an ECDSA key; or it has a key, but another one was promised.
#[tokio::test]
async fn a_client_without_the_key_of_the_promised_rsa_certificate_gets_no_keys() {
    let own = Certificate::generate_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let certificate = vec![crate::rsa::Identity::new("stolen", 2_048).der.clone().into()];
    let stolen = Certificate { certificate, private_key: own.private_key.clone() };
    let promised = fingerprint_of(&stolen);
    let error = refusal(vec![stolen], promised).await;
    assert!(matches!(&error, DtlsError::Handshake(error) if error.to_string().contains("public key")), "{error}");
    let error = refusal(vec![own], promised).await;
    assert!(matches!(error, DtlsError::FingerprintMismatch), "{error}");
}

fn fingerprint_of(certificate: &Certificate) -> Fingerprint {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate.certificate[0]);
    Fingerprint(digest.as_ref().try_into().expect("32 bytes"))
}

/// A certificate longer than our datagrams comes in fragments, and the library below must not be handed
/// less room than it needs (it panics).
#[tokio::test]
async fn a_remote_with_a_long_certificate_connects_in_either_role() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let names: Vec<String> = (0..200).map(|n| format!("a-name-that-takes-room-{n}.example")).collect();
        let certificate = Certificate::generate_self_signed(names).expect("a certificate");
        assert!(certificate.certificate[0].len() > 4 * DTLS_DATAGRAM_MAX);
        let (keys, material) = handshake_with(role, vec![GCM_256], certificate, None).await;
        assert_keys(role, &keys, &material);
    }
}

#[tokio::test]
async fn a_rough_wire_is_no_reason_to_fail_in_either_role() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        for seed in 0..8 {
            let certificate = Certificate::generate_self_signed(vec!["localhost".to_string()]).expect("a certificate");
            let handshake = handshake_with(role, vec![GCM_128], certificate, Some(Rng::new(seed)));
            let finished = tokio::time::timeout(Duration::from_secs(10), handshake).await;
            let (keys, material) = finished.unwrap_or_else(|_| panic!("not connected: {role:?}, seed {seed}"));
            assert_keys(role, &keys, &material);
        }
    }
}
