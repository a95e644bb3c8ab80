//! Goal: our DTLS finishes handshakes with code that shares nothing with it, both sides get the same SRTP
//! keys, and as the server we land on GCM though the client prefers SHA1-80, as Chromium does.
//! Method: webrtc-dtls over loopback sockets, in either role.

use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::session::dtls::{DTLS_DATAGRAM_MAX, Dtls, DtlsError, DtlsOutput, Handshake, Identity, SrtpKeys};
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use webrtc_dtls::config::{ClientAuthType, Config};
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::crypto::Certificate;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_util_dtls::KeyingMaterialExporter;

/// Runs ours until it is connected and the other side has all it needs.
async fn drive(ours: &mut Dtls, socket: &UdpSocket, begin: Instant, keys: &mut Option<SrtpKeys>) {
    let mut out = [0; DTLS_DATAGRAM_MAX];
    let mut datagram = [0; 2_048];
    loop {
        let now = Time(begin.elapsed().as_nanos() as u64);
        match ours.poll(now, &mut out).expect("our side goes on") {
            DtlsOutput::Datagram(length) => {
                socket.send(&out[..length]).await.expect("loopback");
            }
            DtlsOutput::Connected(got) => *keys = Some(got),
            DtlsOutput::Closed => return,
            DtlsOutput::Wait(until) => {
                let wait = until.since(now).min(Duration::from_secs(60));
                if let Ok(length) = tokio::time::timeout(wait, socket.recv(&mut datagram)).await {
                    let now = Time(begin.elapsed().as_nanos() as u64);
                    let datagram = &datagram[..length.expect("loopback")];
                    ours.handle_datagram(now, datagram).expect("our side goes on");
                }
            }
        }
    }
}

async fn handshake(role: DtlsRole, offered: Vec<SrtpProtectionProfile>) -> (SrtpKeys, Vec<u8>) {
    let names = vec!["localhost".to_string()];
    let certificate = Certificate::generate_self_signed(names).expect("a certificate");
    handshake_with(role, offered, certificate).await
}

async fn handshake_with(
    role: DtlsRole,
    offered: Vec<SrtpProtectionProfile>,
    certificate: Certificate,
) -> (SrtpKeys, Vec<u8>) {
    // Two of rustls' providers may be linked; the referee panics unless one is named.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate.certificate[0]);
    let fingerprint = Fingerprint(digest.as_ref().try_into().expect("32 bytes"));

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
        ..Config::default()
    };
    let identity = Identity::new().expect("an identity");
    let begin = Instant::now();
    let mut ours = Dtls::new(&identity, role, fingerprint, Time::ZERO, begin).expect("ours");
    let theirs = async {
        let theirs =
            DTLSConn::new(Arc::new(their_socket), config, role == DtlsRole::Server, None).await.expect("theirs");
        let state = theirs.connection_state().await;
        let material = state
            .export_keying_material("EXTRACTOR-dtls_srtp", &[], 88)
            .await
            .expect("a finished handshake exports keys");
        theirs.close().await.expect("a goodbye");
        material
    };
    let mut keys = None;
    // Ours ends when it has verified the close_notify of theirs.
    let (_, material) = tokio::join!(drive(&mut ours, &socket, begin, &mut keys), theirs);
    (keys.expect("keys before the goodbye"), material)
}

/// RFC 5764 section 4.2, spelled out once more: client key, server key, client salt, server salt.
fn assert_keys(role: DtlsRole, keys: &SrtpKeys, material: &[u8]) {
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
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (socket, their_socket) = (
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
        UdpSocket::bind("127.0.0.1:0").await.expect("loopback"),
    );
    socket.connect(their_socket.local_addr().expect("bound")).await.expect("loopback");
    their_socket.connect(socket.local_addr().expect("bound")).await.expect("loopback");
    let config = Config {
        certificates: Vec::new(),
        srtp_protection_profiles: vec![GCM_256],
        insecure_skip_verify: true,
        ..Config::default()
    };
    let begin = Instant::now();
    let identity = Identity::new().expect("an identity");
    let mut ours = Dtls::new(&identity, DtlsRole::Server, Fingerprint([7; 32]), Time::ZERO, begin).expect("ours");
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
    assert!(matches!(error, DtlsError::NoCertificate | DtlsError::Handshake(_)), "{error}");
    // It refused at once: the handshake's own end, 10 s later, would hide that nobody looked.
    assert!(begin.elapsed() < Duration::from_secs(8), "{error}");
}

/// A certificate longer than our datagrams comes in fragments, and the library below must not be handed
/// less room than it needs (it panics).
#[tokio::test]
async fn a_remote_with_a_long_certificate_connects_in_either_role() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let names: Vec<String> = (0..200).map(|n| format!("a-name-that-takes-room-{n}.example")).collect();
        let certificate = Certificate::generate_self_signed(names).expect("a certificate");
        assert!(certificate.certificate[0].len() > 4 * DTLS_DATAGRAM_MAX);
        let (keys, material) = handshake_with(role, vec![GCM_256], certificate).await;
        assert_keys(role, &keys, &material);
    }
}
