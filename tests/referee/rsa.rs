//! Goal: a DTLS client with an RSA certificate connects as one with ECDSA does, and only if it has the key of the
//! certificate that was promised.
//! Method: OpenSSL's `s_client`, whose library is the one GStreamer's DTLS uses, over loopback. It shows a certificate only
//! if the request asks for one like it, and hashes and signs what came over the wire. Keys are compared.

use crate::dtls::{assert_keys, in_pieces};
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::session::dtls::{DTLS_DATAGRAM_MAX, Dtls, DtlsError, DtlsOutput, Handshake, SrtpKeys};
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use std::io::Write;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A self-signed certificate of OpenSSL's, with its key in a file.
pub(super) struct Identity {
    file: PathBuf,
    pub(super) der: Vec<u8>,
}

impl Identity {
    pub(super) fn new(name: &str, bits: usize) -> Identity {
        Identity::of(name, &["-newkey", &format!("rsa:{bits}")])
    }

    fn of(name: &str, key: &[&str]) -> Identity {
        let file = std::env::temp_dir().join(format!("spillway-referee-{}-{name}.pem", std::process::id()));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=referee"]).args(key);
        let made = command.args(["-keyout", "-", "-out", "-"]).output().expect("openssl");
        std::fs::write(&file, made.stdout).expect("a file");
        let der = Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(&file).output().expect("openssl").stdout;
        assert!(der.len() > 300, "openssl made no certificate");
        Identity { file, der }
    }

    fn fingerprint(&self) -> Fingerprint {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.der);
        Fingerprint(digest.as_ref().try_into().expect("32 bytes"))
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Ended with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Ours,
    Theirs,
}

/// A handshake, ours the server: our keys and theirs. `change` makes of each datagram, numbered, what arrives of it.
fn handshake(
    identity: &Identity,
    expected: Fingerprint,
    mut change: impl FnMut(To, usize, &[u8]) -> Vec<Vec<u8>>,
) -> Result<(SrtpKeys, Vec<u8>), DtlsError> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let mut command = Command::new("openssl");
    command.args(["s_client", "-dtls1_2", "-connect", &socket.local_addr().expect("bound").to_string(), "-cert"]);
    command.arg(&identity.file).arg("-key").arg(&identity.file);
    // Debian's own floor is 2,048 bits; here ours is asked.
    command.args(["-mtu", "1200", "-cipher", "DEFAULT@SECLEVEL=0"]);
    command.args(["-use_srtp", "SRTP_AES128_CM_SHA1_80:SRTP_AEAD_AES_256_GCM"]);
    command.args(["-keymatexport", "EXTRACTOR-dtls_srtp", "-keymatexportlen", "88"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = Client(command.spawn().expect("openssl"));

    let begin = Instant::now();
    let ours = spillway_proto::session::dtls::Identity::new().expect("an identity");
    let mut ours = Dtls::new(&ours, DtlsRole::Server, expected, Time::ZERO, begin).expect("ours");
    let (mut out, mut datagram) = ([0; DTLS_DATAGRAM_MAX], [0; 2_048]);
    let (mut keys, mut remote, mut number) = (None, None, 0);
    loop {
        assert!(begin.elapsed() < Duration::from_secs(20), "neither connected nor refused");
        let now = Time(begin.elapsed().as_nanos() as u64);
        match ours.poll(now, &mut out)? {
            DtlsOutput::Datagram(length) => {
                number += 1;
                for arriving in change(To::Theirs, number, &out[..length]) {
                    socket.send_to(&arriving, remote.expect("it spoke first")).expect("loopback");
                }
            }
            DtlsOutput::Connected(got) => {
                keys = Some(got);
                // It reads this when it is connected, says goodbye and ends.
                client.0.stdin.take().expect("piped").write_all(b"Q\n").expect("it listens");
            }
            DtlsOutput::Closed => break,
            DtlsOutput::Wait(until) => {
                let wait = until.since(now).clamp(Duration::from_millis(1), Duration::from_secs(1));
                socket.set_read_timeout(Some(wait)).expect("a socket");
                let Ok((length, from)) = socket.recv_from(&mut datagram) else { continue };
                remote = Some(from);
                number += 1;
                for arriving in change(To::Ours, number, &datagram[..length]) {
                    ours.handle_datagram(Time(begin.elapsed().as_nanos() as u64), &arriving)?;
                }
            }
        }
    }
    let mut said = String::new();
    std::io::Read::read_to_string(&mut client.0.stdout.take().expect("piped"), &mut said).expect("text");
    let hex = said.lines().find_map(|line| line.trim().strip_prefix("Keying material: ")).expect("its keys");
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    Ok((keys.expect("keys before the goodbye"), (0..hex.len()).step_by(2).map(digit).collect()))
}

fn as_it_is(_: To, _: usize, datagram: &[u8]) -> Vec<Vec<u8>> {
    vec![datagram.to_vec()]
}

#[test]
fn a_client_with_an_rsa_key_connects_as_one_with_ecdsa_does() {
    let ecdsa = Identity::of("p256", &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    for identity in [Identity::new("2048", 2_048), Identity::new("4096", 4_096), ecdsa] {
        let (keys, material) = handshake(&identity, identity.fingerprint(), as_it_is).expect("connected");
        assert_eq!(keys.profile, Profile::AeadAes256Gcm);
        assert_keys(DtlsRole::Server, &keys, &material);
    }
}

/// What comes is cut smaller than any certificate and turned round, and our first flight is lost: what is said again
/// is the same request.
#[test]
fn losses_and_fragments_change_nothing_of_it() {
    let identity = Identity::new("rough", 2_048);
    let connected = handshake(&identity, identity.fingerprint(), |to, number, datagram| match to {
        To::Theirs if number <= 2 => vec![],
        To::Theirs => vec![datagram.to_vec()],
        // A sealed Finished must not overtake its ChangeCipherSpec: that is as good as lost.
        To::Ours if datagram[0] == 20 || datagram[4] == 1 => vec![datagram.to_vec()],
        To::Ours => in_pieces(datagram, 100).into_iter().rev().collect(),
    });
    let (keys, material) = connected.expect("connected");
    assert_keys(DtlsRole::Server, &keys, &material);
}

/// Goal: what the certificate's owner did not sign, and what is not the promised certificate, get no keys. Method: one
/// bit of the CertificateVerify is another when it arrives; another fingerprint; a key of 1,024 bits.
#[test]
fn a_wrong_signature_another_certificate_or_a_weak_key_gets_no_keys() {
    let identity = Identity::new("wrong", 2_048);
    let mut changed = 0;
    let refused = handshake(&identity, identity.fingerprint(), |to, _, datagram| {
        let mut datagram = datagram.to_vec();
        let mut record = 0;
        while to == To::Ours && record + 25 < datagram.len() {
            let end = record + 13 + usize::from(u16::from_be_bytes([datagram[record + 11], datagram[record + 12]]));
            // A plain handshake record of type certificate_verify (15): its last byte is one of the signature.
            if datagram[record] == 22 && datagram[record + 4] == 0 && datagram[record + 13] == 15 {
                datagram[end - 1] ^= 1;
                changed += 1;
            }
            record = end;
        }
        vec![datagram]
    });
    assert!(changed > 0, "no CertificateVerify was seen");
    let error = refused.err().expect("keys for a wrong signature");
    assert!(matches!(&error, DtlsError::Handshake(error) if error.to_string().contains("verif")), "{error}");

    let error = handshake(&identity, Fingerprint([7; 32]), as_it_is).err().expect("keys for a stranger");
    assert!(matches!(error, DtlsError::FingerprintMismatch), "{error}");

    let weak = Identity::new("weak", 1_024);
    let error = handshake(&weak, weak.fingerprint(), as_it_is).err().expect("keys for a key of 1,024 bits");
    assert!(matches!(error, DtlsError::Handshake(_)), "{error}");
}
