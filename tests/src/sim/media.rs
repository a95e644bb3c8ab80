//! What publishers send: every packet with what it is of, kept until the run ends, so that whatever comes out at a
//! viewer can be compared with it byte for byte.
//!
//! A payload names itself: the broadcast, the track, its number. Its first bytes are what the codec wants there.

use spillway_proto::id::{Codec, Kind};
use spillway_proto::link::command::TrackFacts;
use spillway_proto::rng::Rng;
use spillway_proto::stream::nack::nearest;
use spillway_proto::time::Time;
use std::time::Duration;

const MAGIC: &[u8; 4] = b"SPLW";
/// Where the stamp stands: behind whatever a payload format puts first.
const STAMP: usize = 8;
const STAMP_END: usize = STAMP + 16;
pub const PAYLOAD_MIN: usize = 40;

/// One packet of one broadcast.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MediaItem {
    pub broadcast: u32,
    pub video: bool,
    /// Its number in the track, from 0 without holes.
    pub number: u32,
}

/// A packet as it was published.
#[derive(Clone, Debug)]
pub struct Published {
    pub payload: Vec<u8>,
    pub timestamp: u32,
    pub frame: u32,
    /// Its place among the frame's packets.
    pub place: u16,
    pub of: u16,
    pub keyframe: bool,
    pub captured_at: Time,
    /// When it first reached a shard's sockets; NEVER: lost.
    pub arrived_at: Time,
}

impl Published {
    pub fn is_last(&self) -> bool {
        self.place + 1 == self.of
    }
}

pub struct Track {
    pub codec: Codec,
    pub ssrc: u32,
    pub payload_type: u8,
    /// Payload type and SSRC of its retransmissions; None: a packet is sent again as it was.
    pub rtx: Option<(u8, u32)>,
    /// The next index of its retransmissions.
    rtx_index: u64,
    /// The publisher's 48-bit index of packet 0.
    pub first_index: u64,
    pub packets: Vec<Published>,
    /// The packet that reached a shard before all others.
    pub first_arrived: Option<u32>,
    timestamp: u32,
    next_at: Time,
    frame: u32,
    pub octets: u64,
}

/// How large a broadcast is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub keyframe_packets: u64,
    pub frame_packets: u64,
    pub payload_max: u64,
    pub frames_per_keyframe: u32,
}

impl Size {
    pub fn any(rng: &mut Rng) -> Size {
        Size {
            keyframe_packets: 3 + rng.below(10),
            frame_packets: 1 + rng.below(4),
            payload_max: 200 + rng.below(900),
            frames_per_keyframe: 30 + rng.below(90) as u32,
        }
    }
}

/// What one publisher's session sends. `remote` is who.
pub struct Broadcast {
    pub number: u32,
    pub remote: usize,
    pub room: u32,
    /// Video, audio.
    pub tracks: [Track; 2],
    pub size: Size,
    pub keyframe_wanted: bool,
    /// Never answers a request, as cameras do.
    pub deaf: bool,
    rng: Rng,
}

/// Packets a publisher keeps for whoever asks again, as many as `spillway publish` does.
const KEPT: u64 = 1_024;
const FRAME: Duration = Duration::from_nanos(33_333_333);
const AUDIO: Duration = Duration::from_millis(20);

impl Broadcast {
    /// `facts`: what was agreed for its video and its audio.
    pub fn new(number: u32, remote: usize, room: u32, facts: &[TrackFacts; 2], size: Size, deaf: bool, mut rng: Rng) -> Broadcast {
        let mut track = |facts: &TrackFacts| Track {
            codec: facts.codec,
            ssrc: facts.ssrc,
            payload_type: facts.payload_type,
            rtx: (facts.rtx_payload_type != 0).then_some((facts.rtx_payload_type, facts.rtx_ssrc)),
            rtx_index: 0,
            // Some sequences turn over on the way; the first packets come well before.
            first_index: if rng.below(4) == 0 { 65_536 - 200 - rng.below(200) } else { rng.below(1 << 15) },
            packets: Vec::new(),
            first_arrived: None,
            timestamp: rng.next_u32(),
            next_at: Time::NEVER,
            frame: 0,
            octets: 0,
        };
        let tracks = [track(&facts[0]), track(&facts[1])];
        Broadcast { number, remote, room, tracks, size, keyframe_wanted: false, deaf, rng }
    }

    pub fn begin(&mut self, now: Time) {
        for track in &mut self.tracks {
            track.next_at = now;
        }
    }

    pub fn end(&mut self) {
        for track in &mut self.tracks {
            track.next_at = Time::NEVER;
        }
    }

    pub fn next_at(&self) -> Time {
        self.tracks[0].next_at.min(self.tracks[1].next_at)
    }

    /// Makes what is due; returns the items, in order.
    pub fn capture(&mut self, now: Time) -> Vec<MediaItem> {
        let mut items = Vec::new();
        while self.tracks[0].next_at <= now {
            let track = &self.tracks[0];
            let keyframe = track.frame % self.size.frames_per_keyframe == 0 || (self.keyframe_wanted && !self.deaf);
            self.keyframe_wanted = false;
            if keyframe {
                // The interval begins anew, as an encoder's does.
                self.tracks[0].frame = 0;
            }
            let most = if keyframe { self.size.keyframe_packets } else { self.size.frame_packets };
            let of = if keyframe { most.max(2) } else { 1 + self.rng.below(most) } as u16;
            self.cut(0, now, keyframe, of, &mut items);
            let track = &mut self.tracks[0];
            track.frame += 1;
            track.timestamp = track.timestamp.wrapping_add(3_000);
            track.next_at = track.next_at + FRAME;
        }
        while self.tracks[1].next_at <= now {
            self.cut(1, now, false, 1, &mut items);
            let track = &mut self.tracks[1];
            track.timestamp = track.timestamp.wrapping_add(960);
            track.next_at = track.next_at + AUDIO;
        }
        items
    }

    fn cut(&mut self, at: usize, now: Time, keyframe: bool, of: u16, items: &mut Vec<MediaItem>) {
        let track = &mut self.tracks[at];
        let most = if at == 0 { self.size.payload_max } else { 120 };
        let frame = track.packets.last().map_or(0, |last| last.frame + 1);
        // Encoders cut a frame into packets of about the same size.
        let usual = PAYLOAD_MIN as u64 + self.rng.below(most);
        for place in 0..of {
            let mut payload = vec![0; (usual + self.rng.below(2)) as usize];
            self.rng.fill(&mut payload);
            open_payload(&mut payload, track.codec, keyframe, place, of);
            let number = track.packets.len() as u32;
            payload[STAMP..STAMP + 4].copy_from_slice(MAGIC);
            payload[STAMP + 4..STAMP + 8].copy_from_slice(&self.number.to_be_bytes());
            payload[STAMP + 8..STAMP + 12].copy_from_slice(&number.to_be_bytes());
            payload[STAMP + 12..STAMP_END].copy_from_slice(&(u32::from(at == 0)).to_be_bytes());
            track.octets += payload.len() as u64;
            track.packets.push(Published {
                payload,
                timestamp: track.timestamp,
                frame,
                place,
                of,
                keyframe,
                captured_at: now,
                arrived_at: Time::NEVER,
            });
            items.push(MediaItem { broadcast: self.number, video: at == 0, number });
        }
    }

    pub fn track(&self, video: bool) -> &Track {
        &self.tracks[usize::from(!video)]
    }

    /// What the publisher is asked to send again, if it still has it.
    pub fn find(&self, ssrc: u32, sequence: u16) -> Option<MediaItem> {
        let track = self.tracks.iter().find(|track| track.ssrc == ssrc)?;
        let count = track.packets.len() as u64;
        let index = nearest(track.first_index + count.checked_sub(1)?, sequence)?;
        let number = index.checked_sub(track.first_index).filter(|number| *number < count && count - number <= KEPT)?;
        Some(MediaItem { broadcast: self.number, video: track.codec.kind() == Kind::Video, number: number as u32 })
    }

    /// The index of its next retransmission.
    pub fn next_retransmission(&mut self, video: bool) -> u64 {
        let track = &mut self.tracks[usize::from(!video)];
        track.rtx_index += 1;
        track.rtx_index
    }
}

/// The first bytes as the payload format has them (RFC 7741, RFC 6184): the engine looks at these.
fn open_payload(payload: &mut [u8], codec: Codec, keyframe: bool, place: u16, of: u16) {
    match codec {
        Codec::Vp8 => {
            payload[0] = if place == 0 { 0x10 } else { 0 };
            payload[1] = if place == 0 { u8::from(!keyframe) } else { payload[1] };
        }
        Codec::H264 => {
            let (first, last) = (place == 0, place + 1 == of);
            match (keyframe, place) {
                // A parameter set of its own, then the picture in fragments.
                (true, 0) => payload[0] = 0x67,
                (true, _) => {
                    payload[0] = 0x7C;
                    payload[1] = 5 | if place == 1 { 0x80 } else { 0 } | if last { 0x40 } else { 0 };
                    payload[2] |= 0x80;
                }
                (false, _) if of == 1 => payload[0] = 0x41,
                (false, _) => {
                    payload[0] = 0x5C;
                    payload[1] = 1 | if first { 0x80 } else { 0 } | if last { 0x40 } else { 0 };
                }
            }
        }
        _ => {}
    }
}

/// Everything that was published in a run.
#[derive(Default)]
pub struct Studio {
    pub broadcasts: Vec<Broadcast>,
}

impl Studio {
    pub fn published(&self, item: MediaItem) -> &Published {
        &self.broadcasts[item.broadcast as usize].track(item.video).packets[item.number as usize]
    }

    /// Which packet a payload says it is.
    pub fn find(&self, payload: &[u8]) -> Option<MediaItem> {
        let stamp = payload.get(STAMP..STAMP_END)?;
        let word = |at: usize| Some(u32::from_be_bytes(stamp.get(at..at + 4)?.try_into().ok()?));
        if &stamp[..4] != MAGIC {
            return None;
        }
        let item = MediaItem { broadcast: word(4)?, video: word(12)? == 1, number: word(8)? };
        let track = self.broadcasts.get(item.broadcast as usize)?.track(item.video);
        (item.number < track.packets.len() as u32).then_some(item)
    }

    /// A packet reached a shard.
    pub fn arrived(&mut self, item: MediaItem, now: Time) {
        let broadcast = &mut self.broadcasts[item.broadcast as usize];
        let track = &mut broadcast.tracks[usize::from(!item.video)];
        track.first_arrived.get_or_insert(item.number);
        let packet = &mut track.packets[item.number as usize];
        packet.arrived_at = packet.arrived_at.min(now);
    }
}
