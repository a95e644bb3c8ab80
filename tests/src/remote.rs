//! One remote of a test's own, as far as publishers and viewers share it: an offer, a socket, ICE, DTLS and SRTP.
//!
//! The offer is written here by hand, as browsers write it, so that a test says what is negotiated; the answer
//! may name another media address than the node's, for a way through a `Proxy`. It runs the project's own client
//! code and is no referee of it; what it heard is plain bytes.

use crate::http::Http;
use crate::node::Node;
use spillway_proto::id::Codec;
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::sdp::Setup;
use spillway_proto::sdp::offer::{MediaFacts, OfferFacts};
use spillway_proto::session::client::{Client, ClientError, ClientFacts, Received};
use spillway_proto::session::dtls::Identity;
use spillway_proto::time::Time;
use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

pub const AUDIO_PT: u8 = 111;
pub const VIDEO_PT: u8 = 96;
pub const RTX_PT: u8 = 97;
/// How our own reports and requests are signed when we send no media.
pub const OWN_SSRC: u32 = 0x0BEE_0001;

/// What a remote offers.
#[derive(Clone, Debug)]
pub struct Offer {
    pub codec: Codec,
    pub nack: bool,
    /// Retransmissions in a stream of their own (RFC 4588).
    pub rtx: bool,
    /// Media sources to announce: audio, video, retransmissions of video. None: this remote watches.
    pub sources: Option<[u32; 3]>,
    /// More parameters of the codec: its parameter sets, each with a semicolon before it.
    pub sets: String,
}

impl Offer {
    fn write(&self, ufrag: &str, pwd: &str, fingerprint: &Fingerprint) -> String {
        let direction = if self.sources.is_some() { "sendonly" } else { "recvonly" };
        let print: Vec<String> = fingerprint.0.iter().map(|byte| format!("{byte:02X}")).collect();
        let transport = format!(
            "c=IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n",
            print.join(":")
        );
        let mut out = String::from("v=0\r\no=- 4611686018427387905 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n");
        let _ = write!(out, "m=audio 9 UDP/TLS/RTP/SAVPF {AUDIO_PT}\r\n{transport}a=mid:0\r\na={direction}\r\n");
        let _ = write!(out, "a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:{AUDIO_PT} opus/48000/2\r\na=fmtp:{AUDIO_PT} minptime=10;useinbandfec=1\r\n");
        if let Some([audio, _, _]) = self.sources {
            let _ = write!(out, "a=msid:test sound\r\na=ssrc:{audio} cname:test\r\n");
        }
        let rtx = if self.rtx { format!(" {RTX_PT}") } else { String::new() };
        let _ = write!(out, "m=video 9 UDP/TLS/RTP/SAVPF {VIDEO_PT}{rtx}\r\n{transport}a=mid:1\r\na={direction}\r\n");
        let _ = write!(out, "a=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:{VIDEO_PT} {}/90000\r\n", self.codec.sdp_name());
        let parameters = match self.codec {
            Codec::H264 => "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            Codec::H265 => "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST",
            Codec::Vp9 => "profile-id=0",
            Codec::Av1 => "level-idx=5;profile=0;tier=0",
            _ => "",
        };
        if !parameters.is_empty() {
            let _ = write!(out, "a=fmtp:{VIDEO_PT} {parameters}{}\r\n", self.sets);
        }
        let _ = write!(out, "a=rtcp-fb:{VIDEO_PT} ccm fir\r\na=rtcp-fb:{VIDEO_PT} nack pli\r\n");
        if self.nack {
            let _ = write!(out, "a=rtcp-fb:{VIDEO_PT} nack\r\n");
        }
        if self.rtx {
            let _ = write!(out, "a=rtpmap:{RTX_PT} rtx/90000\r\na=fmtp:{RTX_PT} apt={VIDEO_PT}\r\n");
        }
        if let Some([_, video, again]) = self.sources {
            out.push_str("a=msid:test picture\r\n");
            if self.rtx {
                let _ = write!(out, "a=ssrc-group:FID {video} {again}\r\na=ssrc:{again} cname:test\r\n");
            }
            let _ = write!(out, "a=ssrc:{video} cname:test\r\n");
        }
        out
    }
}

/// Where a remote goes, and with which right.
#[derive(Clone)]
pub struct Way {
    pub base: String,
    /// `/whip/ROOM` or `/whep/ROOM`.
    pub path: String,
    pub token: String,
    /// The media address to use instead of the answer's: a proxy's.
    pub through: Option<SocketAddr>,
}

impl Way {
    pub fn to_publish(node: &Node, room: &str) -> Way {
        Way::new(node, "whip", room, "publish")
    }

    pub fn to_watch(node: &Node, room: &str) -> Way {
        Way::new(node, "whep", room, "view")
    }

    fn new(node: &Node, protocol: &str, room: &str, role: &str) -> Way {
        let (base, path) = (node.http.base().to_owned(), format!("/{protocol}/{room}"));
        Way { base, path, token: node.token(room, role), through: None }
    }

    pub fn through(&self, proxy: SocketAddr) -> Way {
        Way { through: Some(proxy), ..self.clone() }
    }
}

/// A session, connected or not yet.
pub struct Session {
    pub client: Client,
    /// False: once it is connected it sends no checks any more, as the first WHIP muxers of ffmpeg did.
    pub checks: bool,
    socket: UdpSocket,
    origin: Instant,
    http: Http,
    token: String,
    location: String,
    answer: OfferFacts,
}

impl Session {
    /// Posts the offer. The handshake is up to `turn`.
    pub fn open(way: &Way, offer: &Offer) -> Result<Session, String> {
        let identity = Identity::new().map_err(|error| error.to_string())?;
        let mut random = [0u8; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| "no random bytes")?;
        let text: String = random[..24].iter().map(|byte| format!("{byte:02x}")).collect();
        let (ufrag, pwd) = text.split_at(8);
        let http = Http::new(way.base.clone());
        let answer = http.offer(&way.path, &way.token, &offer.write(ufrag, pwd, &identity.fingerprint()));
        if answer.status != 201 {
            return Err(format!("{}: {}", answer.status, answer.body));
        }
        let location = answer.header("location").unwrap_or_default().to_owned();
        let answer = OfferFacts::parse(&answer.body).map_err(|error| format!("{error}: {}", answer.body))?;
        let named = answer.candidates.iter().find_map(|found| Some(SocketAddr::new(found.address?, found.port)));
        let remote = way.through.or(named).ok_or("the answer names no address")?;
        let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).map_err(|error| error.to_string())?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).map_err(|error| error.to_string())?;
        socket.connect(remote).map_err(|error| error.to_string())?;
        let facts = ClientFacts {
            local_ufrag: ufrag.to_owned(),
            remote_ufrag: answer.ice_ufrag.clone(),
            remote_pwd: answer.ice_pwd.clone(),
            remote_fingerprint: Fingerprint(answer.fingerprint),
            role: if answer.setup == Setup::Active { DtlsRole::Server } else { DtlsRole::Client },
        };
        let origin = Instant::now();
        let seed = u64::from_le_bytes(std::array::from_fn(|at| random[24 + at]));
        let client = Client::new(&identity, facts, seed, Time::ZERO, origin).map_err(|error| error.to_string())?;
        Ok(Session { client, checks: true, socket, origin, http, token: way.token.clone(), location, answer })
    }

    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    /// The answer's section of video: what was agreed.
    pub fn video(&self) -> Option<&MediaFacts> {
        self.answer.section(spillway_proto::id::Kind::Video)
    }

    pub fn has_nack(&self) -> bool {
        let is_agreed = |video: &MediaFacts| video.payloads.iter().any(|payload| payload.feedback.nack);
        self.video().is_some_and(is_agreed)
    }

    /// Retransmissions of video have a stream of their own.
    pub fn has_rtx(&self) -> bool {
        self.video().is_some_and(|video| video.payloads.iter().any(|payload| payload.payload_type == RTX_PT))
    }

    /// Sends what is due and takes at most one datagram, within `longest`. What it held stands in `buffer`.
    pub fn turn(&mut self, longest: Duration, buffer: &mut [u8]) -> Result<Received, ClientError> {
        let mut wait = longest;
        if self.checks || !self.client.is_connected() {
            self.client.handle_timeout(self.now())?;
            wait = self.client.deadline().since(self.now()).min(longest).max(Duration::from_millis(1));
        }
        self.flush();
        let _ = self.socket.set_read_timeout(Some(wait));
        // An error is the timeout, or a port that is closed for a moment.
        let Ok(length) = self.socket.recv(buffer) else { return Ok(Received::Nothing) };
        let received = self.client.handle_datagram(self.now(), &mut buffer[..length])?;
        self.flush();
        Ok(received)
    }

    pub fn send_rtp(&self, header: &[u8], payload: &[u8], index: u64) {
        let mut out = [0; DATAGRAM_SIZE_MAX];
        if let Some(length) = self.client.seal_rtp(header, payload, index, &mut out) {
            let _ = self.socket.send(&out[..length]);
        }
    }

    pub fn send_rtcp(&mut self, compound: &[u8]) {
        let mut out = [0; DATAGRAM_SIZE_MAX];
        if let Some(length) = self.client.seal_rtcp(compound, &mut out) {
            let _ = self.socket.send(&out[..length]);
        }
    }

    fn flush(&mut self) {
        while let Some(datagram) = self.client.poll_datagram() {
            let _ = self.socket.send(&datagram);
        }
    }

    pub fn leave(&mut self) {
        self.client.close(self.now());
        self.flush();
        let bearer = format!("Bearer {}", self.token);
        let _ = self.http.try_ask("DELETE", &self.location, &[("authorization", &bearer)], None);
    }
}

/// A payload as one number, to tell which packet it was.
pub fn hash(payload: &[u8]) -> u64 {
    // FNV-1a: the same on every machine and in every run.
    payload.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}
