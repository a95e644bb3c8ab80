//! One session's remote: its client, its address, what it receives, and the sniffer on its wire.
//!
//! The sniffer stands where the datagrams leave the shard, before the network: it sees what is lost later.

use super::feed::{Feed, Sent};
use super::handshake::{KeyLog, Random};
use super::hash::hash;
use super::media::{Broadcast, MediaItem, Studio};
use super::network::Packet;
use super::reception::Reception;
use super::violation::{Invariant, Violation};
use spillway_engine::io::Path;
use spillway_engine::shard::world::SERVER;
use spillway_proto::id::{Kind, SessionId, Side};
use spillway_proto::limits::CONSENT_EXPIRY;
use spillway_proto::session::client::Client;
use spillway_proto::session::srtp::{Opener, Profile};
use spillway_proto::time::Time;
use spillway_proto::wire::rtp::{Rtp, parse_header};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

pub struct Remote {
    pub person: usize,
    pub side: Side,
    pub room: u32,
    pub address: SocketAddr,
    /// The shard the kernel gives its datagrams to; None: another each time.
    pub lands_on: Option<usize>,
    pub session: SessionId,
    pub resource: [u8; 16],
    pub client: Client,
    pub random: Random,
    pub admitted_at: Time,
    pub connected_at: Option<Time>,
    /// Its client runs. After that its address still stands for it.
    pub alive: bool,
    /// When the engine last heard what keeps consent: a check, or a publisher's media.
    pub heard_at: Time,
    /// The engine has ended the session: no media from here on.
    pub ended_at: Option<Time>,
    pub feeds: Vec<Feed>,
    pub receptions: Vec<Reception>,
    pub broadcast: Option<usize>,
    pub report_at: Time,
    /// Its entry in the heap of timers; NEVER: none.
    pub wake_at: Time,
    opener: Option<Opener>,
    /// SRTCP datagrams by SSRC and index.
    reports: BTreeMap<(u32, u32), (u64, u64)>,
}

/// What a datagram of the engine's is.
pub enum Sniffed {
    Bytes,
    Media(Packet),
}

impl Remote {
    #[allow(clippy::too_many_arguments, reason = "each is a fact of the admission")]
    pub fn new(
        person: usize,
        side: Side,
        room: u32,
        address: SocketAddr,
        lands_on: Option<usize>,
        session: SessionId,
        resource: [u8; 16],
        client: Client,
        random: Random,
        feeds: Vec<Feed>,
        nack: bool,
        now: Time,
    ) -> Remote {
        let receptions = feeds.iter().map(|feed| Reception::new(feed.video, nack)).collect();
        Remote {
            person,
            side,
            room,
            address,
            lands_on,
            session,
            resource,
            client,
            random,
            admitted_at: now,
            connected_at: None,
            alive: true,
            heard_at: now,
            ended_at: None,
            feeds,
            receptions,
            broadcast: None,
            report_at: Time::NEVER,
            wake_at: Time::NEVER,
            opener: None,
            reports: BTreeMap::new(),
        }
    }

    pub fn path(&self) -> Path {
        Path { local: SERVER.parse().expect("an address"), remote: self.address }
    }

    /// When something of its own is due; `broadcast` is what it publishes.
    pub fn deadline(&self, broadcast: Option<&Broadcast>) -> Time {
        let receptions = self.receptions.iter().map(Reception::deadline).min().unwrap_or(Time::NEVER);
        let broadcast = broadcast.map_or(Time::NEVER, |broadcast| broadcast.next_at().min(self.report_at));
        self.client.deadline().min(receptions).min(broadcast)
    }

    pub fn name(&self) -> String {
        format!("{} {} ({:?}, {})", if self.side == Side::Viewer { "viewer" } else { "publisher" }, self.person, self.session, self.address)
    }

    fn fault<T>(&self, invariant: Invariant, now: Time, text: &str) -> Result<T, Violation> {
        Err(Violation::new(invariant, now, format!("{}: {text}", self.name())))
    }

    /// Looks at a datagram the engine sent to this remote. `slack` is how much later than at the sockets a check may
    /// have reached the session's shard.
    pub fn sniff(&mut self, now: Time, bytes: &[u8], keys: &KeyLog, studio: &Studio, slack: Duration) -> Result<Sniffed, Violation> {
        let first = bytes.first().copied().unwrap_or_default();
        // RFC 7983: 0..3 STUN, 20..63 DTLS, 128..191 RTP and RTCP, which RFC 5761 section 4 tells apart.
        if first < 4 {
            return Ok(Sniffed::Bytes);
        }
        if now.since(self.heard_at) > CONSENT_EXPIRY + slack {
            let silent = now.since(self.heard_at);
            return self.fault(Invariant::Consent, now, &format!("{} bytes after {silent:?} of silence", bytes.len()));
        }
        if first < 128 {
            return Ok(Sniffed::Bytes);
        }
        let Some(keys) = keys.keys(&self.random) else {
            return self.fault(Invariant::Admission, now, "media before the handshake was over");
        };
        if (192..224).contains(&bytes.get(1).copied().unwrap_or_default()) {
            self.sniff_report(now, bytes, keys.profile)?;
            return Ok(Sniffed::Bytes);
        }
        let opener = self.opener.get_or_insert_with(|| Opener::new(keys.profile, &keys.send));
        let Ok(header) = parse_header(bytes) else {
            return self.fault(Invariant::Payload, now, "an RTP header that cannot be read");
        };
        if let Some(ended) = self.ended_at {
            return self.fault(Invariant::Admission, now, &format!("media after the session ended at {ended:?}"));
        }
        let Some(at) = self.feeds.iter().position(|feed| {
            feed.ssrc == header.ssrc || (feed.rtx_ssrc != 0 && feed.rtx_ssrc == header.ssrc)
        }) else {
            return self.fault(Invariant::Admission, now, &format!("SSRC {} is of no feed it was given", header.ssrc));
        };
        let repeated = self.feeds[at].ssrc != header.ssrc;
        let index = self.feeds[at].index_of(header.sequence, repeated);
        let digest = hash(bytes);
        let before = if repeated {
            self.feeds[at].repeated.get(&index).copied()
        } else {
            self.feeds[at].sent.get(&index).map(|sent| sent.hash)
        };
        if let Some(before) = before
            && before != digest
        {
            let text = format!("SSRC {}, index {index}: two different datagrams under one nonce", header.ssrc);
            return self.fault(Invariant::Nonce, now, &text);
        }
        if before.is_some() && !repeated {
            // A resend, byte for byte.
            let item = self.feeds[at].sent[&index].item;
            return Ok(Sniffed::Media(Packet { feed: at, index, item }));
        }
        let mut plain = bytes.to_vec();
        let Ok(opened) = opener.open_rtp(&mut plain) else {
            let text = format!("SSRC {}, index {index}: the viewer's key does not open it", header.ssrc);
            return self.fault(Invariant::Payload, now, &text);
        };
        if opened.index != index {
            let text = format!("SSRC {}: sealed as index {}, numbered as {index}", header.ssrc, opened.index);
            return self.fault(Invariant::Nonce, now, &text);
        }
        let Ok(rtp) = Rtp::parse(&plain[..opened.length]) else {
            return self.fault(Invariant::Payload, now, "an RTP packet that cannot be read");
        };
        if rtp.padding_len > 1 {
            return self.fault(Invariant::Payload, now, "more padding than makes a picture's packets alike");
        }
        let packet = if repeated {
            self.sniff_repeated(now, at, index, digest, &rtp, studio)?
        } else {
            let item = self.compare(now, at, rtp.payload, rtp.payload_type, false, studio)?;
            let published = studio.published(item);
            if item.video && rtp.marker != published.is_last() {
                return self.fault(Invariant::Payload, now, &format!("{item:?} has the marker wrong: {}", rtp.marker));
            }
            self.feeds[at].sent.insert(index, Sent { hash: digest, item, timestamp: rtp.timestamp, at: now });
            Packet { feed: at, index, item }
        };
        Ok(Sniffed::Media(packet))
    }

    /// RFC 4588 section 4: the original sequence number, then the original payload.
    fn sniff_repeated(
        &mut self,
        now: Time,
        at: usize,
        index: u64,
        digest: (u64, u64),
        rtp: &Rtp<'_>,
        studio: &Studio,
    ) -> Result<Packet, Violation> {
        let Some((original, payload)) = rtp.payload.split_first_chunk::<2>() else {
            return self.fault(Invariant::Payload, now, "an RTX packet without an original sequence number");
        };
        let original = self.feeds[at].index_of(u16::from_be_bytes(*original), false);
        let item = self.compare(now, at, payload, rtp.payload_type, true, studio)?;
        match self.feeds[at].sent.get(&original) {
            Some(sent) if sent.item == item && sent.timestamp == rtp.timestamp => {}
            Some(sent) => {
                let text = format!("RTX repeats {original} as {item:?}, which was {:?}", sent.item);
                return self.fault(Invariant::Payload, now, &text);
            }
            // A hole of a replay's that began again under other numbers: what came late for it goes to where it
            // is asked for, and under its own number nothing else may follow.
            None if self.feeds[at].fits(original, item, rtp.timestamp, studio) => {
                self.feeds[at].filled.insert(original, item);
            }
            None => {
                let text = format!("RTX of {original}, which was never sent, with {item:?}, which has no place there");
                return self.fault(Invariant::Payload, now, &text);
            }
        }
        self.feeds[at].repeated.insert(index, digest);
        Ok(Packet { feed: at, index: original, item })
    }

    /// The payload against what was published, and whether this viewer may have it.
    fn compare(
        &self,
        now: Time,
        at: usize,
        payload: &[u8],
        payload_type: u8,
        repeated: bool,
        studio: &Studio,
    ) -> Result<MediaItem, Violation> {
        let feed = &self.feeds[at];
        let Some(item) = studio.find(payload) else {
            return self.fault(Invariant::Payload, now, "a payload nobody published");
        };
        let published = studio.published(item);
        if published.payload != payload {
            return self.fault(Invariant::Payload, now, &format!("{item:?} is not as it was published"));
        }
        let broadcast = &studio.broadcasts[item.broadcast as usize];
        if broadcast.room != self.room || item.video != feed.video {
            let text = format!("{item:?} of room {}, but it was admitted to room {}", broadcast.room, self.room);
            return self.fault(Invariant::Admission, now, &text);
        }
        let codec = broadcast.track(item.video).codec;
        let types = if repeated { &feed.rtx_payload_types } else { &feed.payload_types };
        debug_assert_eq!(item.video, codec.kind() == Kind::Video);
        if types[codec as usize] != payload_type || payload_type == 0 {
            let text = format!("{codec:?} under payload type {payload_type}, which it did not negotiate");
            return self.fault(Invariant::Admission, now, &text);
        }
        Ok(item)
    }

    /// SRTCP: the index stands in clear at the end, before the tag where the profile is no GCM (RFC 3711 section 3.4,
    /// RFC 7714 section 9).
    fn sniff_report(&mut self, now: Time, bytes: &[u8], profile: Profile) -> Result<(), Violation> {
        let end = if profile.is_gcm() { bytes.len() } else { bytes.len().saturating_sub(10) };
        let word = |at: usize| bytes.get(at..at + 4).and_then(|w| Some(u32::from_be_bytes(w.try_into().ok()?)));
        let (Some(ssrc), Some(index)) = (word(4), end.checked_sub(4).and_then(word)) else {
            return self.fault(Invariant::Nonce, now, "an SRTCP datagram without an index");
        };
        // Its first bit says that the rest is encrypted.
        let index = index & 0x7FFF_FFFF;
        let digest = hash(bytes);
        // One sealer, one nonce space of each SSRC.
        match self.reports.insert((ssrc, index), digest) {
            Some(before) if before != digest => {
                self.fault(Invariant::Nonce, now, &format!("SRTCP index {index} sealed two different datagrams"))
            }
            _ => Ok(()),
        }
    }
}
