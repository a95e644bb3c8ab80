//! The command line as a WHIP or WHEP client: finds the server and a token, offers, and runs one session over
//! one socket. Shared by `publish` and `play`; it shares the server's protocol code and is no referee of it.

use super::Exit;
use crate::auth::{self, Grant, Role, SigningKey};
use crate::data_dir::DataDir;
use crate::supervisor::node_json::NodeJson;
use clap::Args;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::{BODY_BYTES_MAX, DATAGRAM_SIZE_MAX};
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::sdp::answer::{AcceptedText, MediaText, OfferText, SourceText};
use spillway_proto::sdp::offer::{OfferFacts, PayloadFacts};
use spillway_proto::sdp::{Direction, Feedback, MediaKind, Setup};
use spillway_proto::session::client::{Client, ClientError, ClientFacts, Received};
use spillway_proto::session::dtls::Identity;
use spillway_proto::time::Time;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest the socket is waited for: Ctrl-C is heard after this.
const WAIT_MAX: Duration = Duration::from_millis(100);
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);

/// Where the server is: a node of this machine by its data directory, or any by its address.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The data directory of a node on this machine: its address is read there, and a token is made with its key
    #[arg(long, value_name = "DIR", default_value = "./spillway-data", conflicts_with = "server")]
    pub data: PathBuf,
    /// A server's address instead, as http://127.0.0.1:7080
    #[arg(long, value_name = "URL", requires = "token")]
    pub server: Option<String>,
    /// The token for --server
    #[arg(long, value_name = "TOKEN", requires = "server")]
    pub token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("no node runs on {0}: start one with `spillway serve --data {0}`, or name a server with --server URL --token TOKEN")]
    NoNode(String),
    #[error("{0}")]
    Key(String),
    #[error("{0} cannot be reached: {1}")]
    Http(String, String),
    #[error("only http:// addresses are spoken to by now: put {0} behind http on this machine, or run this on the server")]
    Scheme(String),
    /// A refusal in the server's words; `retry_after` is what it asked for.
    #[error("{title} ({status} {code}): {detail}")]
    Refused { status: u16, code: String, title: String, detail: String, retry_after: Option<Duration> },
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    #[error("the socket for media failed: {0}")]
    Socket(std::io::Error),
    #[error(transparent)]
    Session(#[from] ClientError),
}

impl RemoteError {
    pub fn exit(&self) -> Exit {
        match self {
            RemoteError::NoNode(_) => Exit::NotFound,
            RemoteError::Refused { code, .. } if code == "stream_not_live" => Exit::NotFound,
            RemoteError::Refused { status: 401 | 403, .. } | RemoteError::Key(_) => Exit::Auth,
            RemoteError::Scheme(_) => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    /// Whether the same attempt may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            RemoteError::Http(..) | RemoteError::Session(_) | RemoteError::Socket(_) => true,
            RemoteError::Refused { status, .. } => *status == 409 || *status >= 500,
            _ => false,
        }
    }
}

/// A server and the right to speak to it.
pub struct Server {
    pub base: String,
    token: String,
    http: ureq::Agent,
}

impl Server {
    pub fn find(args: &ServerArgs, room: &str, role: Role) -> Result<Server, RemoteError> {
        let config = ureq::Agent::config_builder().timeout_global(Some(HTTP_TIMEOUT)).http_status_as_error(false);
        let http = config.proxy(None).build().into();
        if let (Some(base), Some(token)) = (&args.server, &args.token) {
            if !base.starts_with("http://") {
                return Err(RemoteError::Scheme(base.clone()));
            }
            return Ok(Server { base: base.trim_end_matches('/').to_owned(), token: token.clone(), http });
        }
        let shown = args.data.display().to_string();
        let data = DataDir::existing(&args.data).ok_or_else(|| RemoteError::NoNode(shown.clone()))?;
        let node = NodeJson::read(&data).ok_or(RemoteError::NoNode(shown))?;
        let key = SigningKey::load_or_create(data.path()).map_err(|error| RemoteError::Key(error.to_string()))?;
        // One name per role: a second synthetic publisher takes over from the first.
        let sub = format!("cli-{}", role.name());
        let token = auth::mint(&key, Grant { room: room.to_owned(), role, sub, acct: None, ttl: TOKEN_TTL });
        Ok(Server { base: format!("http://{}", node.http), token, http })
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn post(&self, path: &str, offer: &str) -> Result<(String, String), RemoteError> {
        let unreachable = |error: ureq::Error| RemoteError::Http(self.base.clone(), error.to_string());
        let mut response = self
            .http
            .post(format!("{}{path}", self.base))
            .header("authorization", self.authorization())
            .header("content-type", "application/sdp")
            .send(offer)
            .map_err(unreachable)?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let (location, retry_after) = (header("location"), header("retry-after"));
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(BODY_BYTES_MAX as u64).read_to_string();
        let body = body.map_err(unreachable)?;
        if status == 201 {
            let location = location.ok_or_else(|| RemoteError::Answer("it has no Location".to_owned()))?;
            return Ok((location, body));
        }
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let text = |name: &str| problem.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        Err(RemoteError::Refused { status, code: text("code"), title: text("title"), detail: text("detail"), retry_after })
    }

    pub fn delete(&self, location: &str) {
        let url = if location.starts_with('/') { format!("{}{location}", self.base) } else { location.to_owned() };
        // The server notices a gone session by itself; this only tells it sooner.
        let _ = self.http.delete(url).header("authorization", self.authorization()).call();
    }
}

/// One media section of our offer.
pub struct Section {
    /// Each with its payload type and that of its retransmissions, 0 for none.
    pub codecs: Vec<(Codec, u8, u8)>,
    pub direction: Direction,
    /// What we send, 0 if we only receive.
    pub ssrc: u32,
}

/// What `wait` saw.
pub enum Heard {
    Nothing,
    /// Plain RTP in the buffer given to `wait`.
    Rtp(usize),
    /// A plain RTCP compound in it.
    Rtcp(usize),
}

/// A session that was granted, and that nothing was sent to yet.
pub struct Offered {
    pub location: String,
    pub answer: OfferFacts,
    pub ufrag: String,
    seed: u64,
}

impl Offered {
    /// Of a publisher that will publish nothing: what its answer says is what is wanted.
    pub fn publisher(server: &Server, path: &str) -> Result<Offered, RemoteError> {
        let identity = Identity::new().map_err(ClientError::from)?;
        let sound = Section { codecs: vec![(Codec::Opus, 111, 0)], direction: Direction::SendOnly, ssrc: 1 };
        Offered::of(server, path, &[sound], &identity)
    }

    fn of(server: &Server, path: &str, sections: &[Section], identity: &Identity) -> Result<Offered, RemoteError> {
        let mut random = [0u8; 24];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| RemoteError::Key("the system gives no random bytes".into()))?;
        let (ufrag, pwd) = (auth::hex(&random[..4]), auth::hex(&random[4..20]));
        let seed = u64::from_le_bytes(random[16..].try_into().unwrap_or_default());
        let offer = OfferText {
            origin: seed >> 2 | 1,
            ice_ufrag: ufrag.clone(),
            ice_pwd: pwd,
            fingerprint: identity.fingerprint().0,
            setup: Setup::ActPass,
            media: sections.iter().enumerate().map(|(mid, section)| media_text(mid, section)).collect(),
        };
        let (location, answer) = server.post(path, &offer.write())?;
        let answer = OfferFacts::parse(&answer).map_err(|error| RemoteError::Answer(error.to_string()))?;
        Ok(Offered { location, answer, ufrag, seed })
    }
}

/// A connected session.
pub struct Session<'s> {
    server: &'s Server,
    location: String,
    /// What the server granted.
    pub answer: OfferFacts,
    pub client: Client,
    socket: UdpSocket,
    origin: Instant,
}

impl<'s> Session<'s> {
    /// Offers and connects; ends early with Ok(None) when `stop` is set.
    pub fn connect(
        server: &'s Server,
        path: &str,
        sections: &[Section],
        stop: &Stop,
    ) -> Result<Option<Session<'s>>, RemoteError> {
        let identity = Identity::new().map_err(ClientError::from)?;
        let Offered { location, answer, ufrag, seed } = Offered::of(server, path, sections, &identity)?;
        let socket = media_socket(&answer)?;
        let facts = ClientFacts {
            local_ufrag: ufrag,
            remote_ufrag: answer.ice_ufrag.clone(),
            remote_pwd: answer.ice_pwd.clone(),
            remote_fingerprint: Fingerprint(answer.fingerprint),
            role: match answer.setup {
                Setup::Active => DtlsRole::Server,
                Setup::ActPass | Setup::Passive => DtlsRole::Client,
            },
        };
        let origin = Instant::now();
        let client = Client::new(&identity, facts, seed, Time::ZERO, origin)?;
        let mut session = Session { server, location, answer, client, socket, origin };
        let mut buffer = [0; DATAGRAM_SIZE_MAX];
        while !session.client.is_connected() {
            if stop.is_set() {
                session.leave();
                return Ok(None);
            }
            session.wait(WAIT_MAX, &mut buffer)?;
        }
        Ok(Some(session))
    }

    pub fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    /// Sends what is due, then waits for at most one datagram, at most so long.
    pub fn wait(&mut self, longest: Duration, buffer: &mut [u8]) -> Result<Heard, RemoteError> {
        self.client.handle_timeout(self.now())?;
        self.flush();
        let wait = self.client.deadline().since(self.now()).min(longest).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(wait)).map_err(RemoteError::Socket)?;
        self.receive(buffer)
    }

    /// Takes a datagram if there is one, after the read timeout at the latest.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Heard, RemoteError> {
        let length = match self.socket.recv(buffer) {
            Ok(length) => length,
            // ECONNREFUSED: the server's port is closed for a moment (a restart); its checks will tell.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(Heard::Nothing);
            }
            Err(error) => return Err(RemoteError::Socket(error)),
        };
        let now = self.now();
        let received = self.client.handle_datagram(now, &mut buffer[..length])?;
        self.flush();
        Ok(match received {
            Received::Rtp(length) => Heard::Rtp(length),
            Received::Rtcp(length) => Heard::Rtcp(length),
            _ => Heard::Nothing,
        })
    }

    pub fn send(&self, datagram: &[u8]) {
        // A full socket or a closed port loses it, as a network does.
        let _ = self.socket.send(datagram);
    }

    /// Seals a plain RTCP compound and sends it.
    pub fn send_rtcp(&mut self, compound: &[u8]) {
        let mut out = [0; DATAGRAM_SIZE_MAX];
        if let Some(sealed) = self.client.seal_rtcp(compound, &mut out).and_then(|length| out.get(..length)) {
            self.send(sealed);
        }
    }

    fn flush(&mut self) {
        while let Some(datagram) = self.client.poll_datagram() {
            self.send(&datagram);
        }
    }

    pub fn leave(&mut self) {
        self.client.close(self.now());
        self.flush();
        self.server.delete(&self.location);
    }
}

/// A socket towards the first of the server's addresses that there is a way to from here.
fn media_socket(answer: &OfferFacts) -> Result<UdpSocket, RemoteError> {
    let mut refused = RemoteError::Answer("it has no UDP candidate".to_owned());
    for candidate in answer.candidates.iter().filter(|candidate| candidate.udp) {
        let Some(remote) = candidate.address.map(|address| SocketAddr::new(address, candidate.port)) else { continue };
        let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let connected = UdpSocket::bind(any).and_then(|socket| {
            socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20)?;
            socket.connect(remote)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(error) => refused = RemoteError::Socket(error),
        }
    }
    Err(refused)
}

fn media_text(mid: usize, section: &Section) -> MediaText {
    let kind = section.codecs.first().map_or(Kind::Video, |(codec, ..)| codec.kind());
    let source = (section.ssrc != 0).then(|| SourceText {
        ssrc: section.ssrc,
        rtx_ssrc: 0,
        cname: "spillway-cli".to_owned(),
        msid: ("spillway".to_owned(), format!("track-{mid}")),
    });
    let both = |&(codec, number, rtx): &(Codec, u8, u8)| {
        let rtx = (rtx != 0).then(|| PayloadFacts::rtx(rtx, number, codec.clock_rate()));
        std::iter::once(payload(codec, number)).chain(rtx)
    };
    let payloads: Vec<PayloadFacts> = section.codecs.iter().flat_map(both).collect();
    MediaText {
        kind: MediaKind::Rtp(kind),
        mid: mid.to_string(),
        protocol: "UDP/TLS/RTP/SAVPF".to_owned(),
        format_first: payloads.first().map_or_else(String::new, |payload| payload.payload_type.to_string()),
        accepted: Some(AcceptedText {
            direction: section.direction,
            payloads,
            extensions: Vec::new(),
            extmap_allow_mixed: false,
            rtcp_rsize: true,
            source,
        }),
    }
}

fn payload(codec: Codec, payload_type: u8) -> PayloadFacts {
    let video = codec.kind() == Kind::Video;
    PayloadFacts {
        payload_type,
        name: codec.sdp_name().to_owned(),
        clock_rate: codec.clock_rate(),
        channels: if codec == Codec::Opus { 2 } else { 1 },
        fmtp: match codec {
            Codec::H264 => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f".to_owned(),
            Codec::H265 => "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST".to_owned(),
            Codec::Vp9 => "profile-id=0".to_owned(),
            Codec::Av1 => "level-idx=5;profile=0;tier=0".to_owned(),
            Codec::Opus => "minptime=10;useinbandfec=1".to_owned(),
            Codec::Vp8 => String::new(),
        },
        feedback: Feedback { nack: true, nack_pli: video, ccm_fir: video, ..Feedback::default() },
    }
}

/// Set by Ctrl-C or SIGTERM: the session is left in order.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn listen() -> std::io::Result<Stop> {
        let stop = Stop(Arc::new(AtomicBool::new(false)));
        let set = Arc::clone(&stop.0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                use tokio::signal::unix::{SignalKind, signal};
                let (Ok(mut interrupt), Ok(mut terminate)) =
                    (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
                else {
                    return;
                };
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                set.store(true, Ordering::SeqCst);
            });
        })?;
        Ok(stop)
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
