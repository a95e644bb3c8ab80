//! The handshake of a witness: webrtc-dtls, which shares nothing with the server under test. It is asynchronous and
//! has a thread with a runtime of its own; the socket stays with the crowd, which hands over what is DTLS.

use crate::offer::Agreed;
use crate::remote::{EXPORTER, Keys, fingerprint_of};
use async_trait::async_trait;
use std::any::Any;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Mutex, mpsc};
use webrtc_dtls::config::{Config, ExtendedMasterSecretType};
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::crypto::Certificate;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use webrtc_srtp::protection_profile::ProtectionProfile;
use webrtc_util_dtls::conn::Conn;
use webrtc_util_dtls::{Error as UtilError, KeyingMaterialExporter};

/// Datagrams of one handshake that wait for the runtime.
const QUEUE_MAX: usize = 64;

type Outcome = Result<(ProtectionProfile, Vec<u8>), String>;

/// One handshake, begun when the way is known.
pub struct Witness {
    certificate: Certificate,
    inbox: Option<mpsc::Sender<Vec<u8>>>,
    outcome: Option<Receiver<Outcome>>,
    we_are_client: bool,
}

/// The certificate all witnesses of this process show, and its fingerprint.
pub fn certificate() -> Result<(Certificate, [u8; 32]), String> {
    static MADE: OnceLock<Result<Certificate, String>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        // Two of rustls' providers are linked; the library panics unless one is named.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Certificate::generate_self_signed(vec!["spillway-bench".to_owned()]).map_err(|error| error.to_string())
    });
    let certificate = made.clone()?;
    let fingerprint = certificate.certificate.first().map(|bytes| fingerprint_of(bytes)).unwrap_or_default();
    Ok((certificate, fingerprint))
}

/// The thread in which the handshakes run.
fn runtime() -> Result<&'static tokio::runtime::Handle, String> {
    static RUNTIME: OnceLock<Result<tokio::runtime::Handle, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let handle = runtime.handle().clone();
        let spawned = std::thread::Builder::new()
            .name("witnesses".to_owned())
            .spawn(move || runtime.block_on(std::future::pending::<()>()));
        spawned.map(|_| handle).map_err(|error| error.to_string())
    });
    made.as_ref().map_err(Clone::clone)
}

impl Witness {
    pub fn new(certificate: Certificate) -> Witness {
        Witness { certificate, inbox: None, outcome: None, we_are_client: true }
    }

    pub fn handle(&mut self, datagram: &[u8]) {
        if let Some(inbox) = &self.inbox {
            // Full: lost, as on any network.
            let _ = inbox.try_send(datagram.to_vec());
        }
    }

    /// Begins the handshake, once.
    pub fn begin(&mut self, socket: &UdpSocket, agreed: &Agreed) -> Result<(), String> {
        if self.inbox.is_some() {
            return Ok(());
        }
        let socket = socket.try_clone().map_err(|error| error.to_string())?;
        let (inbox, queue) = mpsc::channel(QUEUE_MAX);
        let (outcome, receiver) = channel();
        self.we_are_client = !agreed.server_is_active;
        let (certificate, fingerprint, client) = (self.certificate.clone(), agreed.fingerprint, self.we_are_client);
        runtime()?.spawn(async move {
            let _ = outcome.send(shake(Arc::new(Line { socket, queue: Mutex::new(queue) }), certificate, fingerprint, client).await);
        });
        (self.inbox, self.outcome) = (Some(inbox), Some(receiver));
        Ok(())
    }

    /// The keys, when they are there, once.
    pub fn keys(&mut self) -> Result<Option<Keys>, String> {
        let Some(receiver) = &self.outcome else { return Ok(None) };
        match receiver.try_recv() {
            Ok(Ok((profile, material))) => {
                self.outcome = None;
                Keys::new(profile, &material, self.we_are_client).map(Some)
            }
            Ok(Err(error)) => Err(format!("DTLS (webrtc-dtls): {error}")),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err("DTLS (webrtc-dtls): the handshake vanished".into()),
        }
    }
}

async fn shake(line: Arc<Line>, certificate: Certificate, fingerprint: [u8; 32], client: bool) -> Outcome {
    let config = Config {
        certificates: vec![certificate],
        // In the order of browsers; a server that cares chooses.
        srtp_protection_profiles: vec![
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        ],
        extended_master_secret: ExtendedMasterSecretType::Require,
        client_auth: webrtc_dtls::config::ClientAuthType::RequireAnyClientCert,
        // Certificates are self-signed: the fingerprint below is what counts.
        insecure_skip_verify: true,
        ..Default::default()
    };
    let conn = DTLSConn::new(line, config, client, None).await.map_err(|error| error.to_string())?;
    let state = conn.connection_state().await;
    if state.peer_certificates.first().map(|shown| fingerprint_of(shown)) != Some(fingerprint) {
        return Err("the server's certificate is not the one its answer names".into());
    }
    let profile = match conn.selected_srtpprotection_profile() {
        SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
        other => return Err(format!("the SRTP profile {other:?} was chosen, which was not offered")),
    };
    let length = 2 * (profile.key_len() + profile.salt_len());
    let material = state.export_keying_material(EXPORTER, &[], length).await.map_err(|error| error.to_string())?;
    Ok((profile, material))
}

/// What webrtc-dtls takes for a socket.
struct Line {
    socket: UdpSocket,
    queue: Mutex<mpsc::Receiver<Vec<u8>>>,
}

#[async_trait]
impl Conn for Line {
    async fn connect(&self, _: SocketAddr) -> Result<(), UtilError> {
        Ok(())
    }

    async fn recv(&self, buf: &mut [u8]) -> Result<usize, UtilError> {
        let datagram = self.queue.lock().await.recv().await.ok_or(UtilError::ErrClosedListener)?;
        let length = datagram.len().min(buf.len());
        buf[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }

    async fn recv_from(&self, buf: &mut [u8]) -> Result<(usize, SocketAddr), UtilError> {
        let length = self.recv(buf).await?;
        Ok((length, self.socket.peer_addr()?))
    }

    async fn send(&self, buf: &[u8]) -> Result<usize, UtilError> {
        Ok(self.socket.send(buf)?)
    }

    async fn send_to(&self, buf: &[u8], _: SocketAddr) -> Result<usize, UtilError> {
        self.send(buf).await
    }

    fn local_addr(&self) -> Result<SocketAddr, UtilError> {
        Ok(self.socket.local_addr()?)
    }

    fn remote_addr(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    async fn close(&self) -> Result<(), UtilError> {
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
