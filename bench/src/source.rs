//! What is published: a plan of frames and packets that is the same for every server, and their payloads.
//!
//! A plan is pure: frame n of it has so many packets of these sizes at those moments. Payloads are such that a
//! server finds keyframes and frame boundaries in them (RFC 6184, RFC 7741), but no decoder finds a picture. The last
//! bytes of each are a stamp: who it is, its number in its track, when it was handed to the socket.

use std::time::Duration;

/// RTP header of ours, without extension.
pub const HEADER_BYTES: usize = 12;
/// With the header: what libwebrtc and everybody else stays below.
pub const PACKET_BYTES_MAX: usize = 1_200;
pub const AUDIO_INTERVAL: Duration = Duration::from_millis(20);
/// 64 kbit/s, as browsers speak Opus in stereo.
const AUDIO_BYTES: usize = 160;
/// How much larger than another frame a keyframe is. With W1 (2.5 Mbit/s, 30 fps, 2 s) it makes 60 packets of 520.
const KEYFRAME_WEIGHT: f64 = 7.7;

const STAMP_MAGIC: [u8; 4] = *b"SpWb";
pub const STAMP_BYTES: usize = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum VideoCodec {
    H264,
    Vp8,
}

impl VideoCodec {
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::H264 => "H264",
            VideoCodec::Vp8 => "VP8",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Packetizer {
    /// A frame in packets of nearly the same size, the last ones a byte longer: browsers
    Libwebrtc,
    /// Packets as long as may be and a tail: OBS, ffmpeg
    Mtu,
}

/// The shape of the published stream.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of the picture; 0: there is none.
    pub bitrate_bps: u64,
    pub fps: u32,
    pub gop: Duration,
    pub codec: VideoCodec,
    pub packetizer: Packetizer,
    /// An ordinary frame is spread over so much.
    pub pacing: Duration,
    pub has_audio: bool,
}

impl Plan {
    pub fn has_video(&self) -> bool {
        self.bitrate_bps > 0
    }

    pub fn frames_per_gop(&self) -> u64 {
        ((self.gop.as_secs_f64() * f64::from(self.fps)).round() as u64).max(1)
    }

    fn packets_per_gop(&self) -> u64 {
        let bytes = self.bitrate_bps as f64 * self.gop.as_secs_f64() / 8.0;
        ((bytes / PACKET_BYTES_MAX as f64) as u64).max(self.frames_per_gop())
    }

    fn keyframe_packets(&self) -> u64 {
        let (all, frames) = (self.packets_per_gop(), self.frames_per_gop());
        let share = all as f64 * KEYFRAME_WEIGHT / (KEYFRAME_WEIGHT + frames as f64 - 1.0);
        (share.round() as u64).clamp(1, all - (frames - 1))
    }

    /// Packets of the frame at `place` in its GOP: 0 is the keyframe.
    pub fn packets_of(&self, place: u64) -> u64 {
        if place == 0 || self.frames_per_gop() == 1 {
            return self.keyframe_packets();
        }
        let (rest, frames) = (self.packets_per_gop() - self.keyframe_packets(), self.frames_per_gop() - 1);
        // Spread evenly: the remainders fall on frames that are far apart.
        place * rest / frames - (place - 1) * rest / frames
    }

    /// Video packets a second, on average.
    pub fn video_pps(&self) -> f64 {
        if !self.has_video() {
            return 0.0;
        }
        self.packets_per_gop() as f64 / self.gop.as_secs_f64()
    }

    /// Video and audio: what a viewer has to get.
    pub fn pps(&self) -> f64 {
        self.video_pps() + if self.has_audio { 1.0 / AUDIO_INTERVAL.as_secs_f64() } else { 0.0 }
    }

    pub fn frame_interval(&self) -> Duration {
        Duration::from_secs(1) / self.fps
    }

    /// From one packet of a frame of so many to the next: the pace of an ordinary frame, from whose first packet to its
    /// last it is `pacing`; but a large one is out before the next frame is due.
    pub fn packet_interval(&self, packets: u64) -> Duration {
        let ordinary = self.packets_of(self.frames_per_gop().min(2) - 1).max(2);
        (self.pacing / (ordinary - 1) as u32).min(self.frame_interval() / packets.max(1) as u32)
    }

    /// The sizes (header and payload) of a frame's packets.
    pub fn sizes_of(&self, packets: u64) -> Vec<usize> {
        let count = packets.max(1) as usize;
        match self.packetizer {
            // As libwebrtc splits: "about equally", the last ones one byte wider. A third of the packets has the byte.
            Packetizer::Libwebrtc => {
                let wide = count / 3;
                (0..count).map(|n| PACKET_BYTES_MAX - 1 + usize::from(n >= count - wide)).collect()
            }
            Packetizer::Mtu => {
                let tail = PACKET_BYTES_MAX / 2;
                (0..count).map(|n| if n + 1 == count && count > 1 { tail } else { PACKET_BYTES_MAX }).collect()
            }
        }
    }
}

/// Which track a stamped packet is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StampKind {
    Audio = 0,
    Video = 1,
}

/// What stands in the last bytes of every payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub kind: StampKind,
    /// A frame can be entered here.
    pub keyframe: bool,
    /// The frame is a keyframe.
    pub of_keyframe: bool,
    pub run: u16,
    pub number: u64,
    /// UNIX time in nanoseconds: the kernel stamps arrivals with the same clock.
    pub sent_ns: u64,
}

impl Stamp {
    pub fn write(&self, payload: &mut [u8]) {
        let Some(out) = payload.last_chunk_mut::<STAMP_BYTES>() else { return };
        out[..4].copy_from_slice(&STAMP_MAGIC);
        out[4] = self.kind as u8;
        out[5] = u8::from(self.keyframe) | u8::from(self.of_keyframe) << 1;
        out[6..8].copy_from_slice(&self.run.to_be_bytes());
        out[8..16].copy_from_slice(&self.number.to_be_bytes());
        out[16..].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let bytes = payload.last_chunk::<STAMP_BYTES>()?;
        let kind = match (bytes[..4] == STAMP_MAGIC, bytes[4]) {
            (true, 0) => StampKind::Audio,
            (true, 1) => StampKind::Video,
            _ => return None,
        };
        Some(Stamp {
            kind,
            keyframe: bytes[5] & 1 != 0,
            of_keyframe: bytes[5] & 2 != 0,
            run: u16::from_be_bytes([bytes[6], bytes[7]]),
            number: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            sent_ns: u64::from_be_bytes(bytes[16..].try_into().ok()?),
        })
    }
}

/// Where nothing but filler stands: behind what a codec wants first.
const FILLER_AT: usize = 48;
const FILLER_VIDEO: u8 = 0xA5;
const FILLER_AUDIO: u8 = 0x5A;

/// A stamped payload is what was published, byte for byte.
pub fn is_intact(payload: &[u8], stamp: &Stamp) -> bool {
    let (from, filler) = match stamp.kind {
        StampKind::Audio => (1, FILLER_AUDIO),
        StampKind::Video => (FILLER_AT, FILLER_VIDEO),
    };
    payload.get(from..payload.len().saturating_sub(STAMP_BYTES)).is_some_and(|bytes| bytes.iter().all(|byte| *byte == filler))
}

/// Parameter sets of a 640 x 360 constrained baseline stream, as one STAP-A (RFC 6184 section 5.7.1).
const H264_SETS: [u8; 23] = [
    0x78, 0, 14, 0x67, 0x42, 0xC0, 0x1E, 0xD9, 0x00, 0xA0, 0x2F, 0xF9, 0x61, 0x00, 0x00, 0x03, 0x00, 0, 4, 0x68, 0xCB, 0x83, 0xCB,
];

/// The payload of one packet, but for its stamp.
pub fn video_payload(codec: VideoCodec, keyframe: bool, place: usize, count: usize, size: usize) -> Vec<u8> {
    let length = size.saturating_sub(HEADER_BYTES).max(STAMP_BYTES + FILLER_AT);
    // Neither zeros, which somebody might compress, nor a start code.
    let mut payload = vec![FILLER_VIDEO; length];
    let (first, last) = (place == 0, place + 1 == count);
    match codec {
        VideoCodec::H264 if keyframe && first && count > 1 => {
            payload[..H264_SETS.len()].copy_from_slice(&H264_SETS);
            // A third unit fills it up: supplemental information, which nobody needs.
            let room = (length - H264_SETS.len() - 2) as u16;
            payload[H264_SETS.len()..H264_SETS.len() + 2].copy_from_slice(&room.to_be_bytes());
            payload[H264_SETS.len() + 2] = 0x06;
        }
        VideoCodec::H264 => {
            let unit: u8 = if keyframe { 5 } else { 1 };
            // The sets have a packet of their own: the picture begins with the one behind it.
            let begin = if keyframe && count > 1 { place == 1 } else { first };
            // 0x88: first_mb_in_slice is 0, a frame begins here.
            if begin && last {
                payload[..2].copy_from_slice(&[0x60 | unit, 0x88]);
            } else {
                payload[..3].copy_from_slice(&[0x60 | 28, u8::from(begin) << 7 | u8::from(last) << 6 | unit, 0x88]);
            }
        }
        VideoCodec::Vp8 => {
            payload[0] = u8::from(first) << 4;
            if first {
                payload[1] = if keyframe { 0x10 } else { 0x11 };
                payload[2] = 0x40;
                payload[3] = 0x01;
                payload[4..11].copy_from_slice(&[0x9D, 0x01, 0x2A, 0x80, 0x02, 0x68, 0x01]);
            }
        }
    }
    payload
}

pub fn audio_payload() -> Vec<u8> {
    let mut payload = vec![FILLER_AUDIO; AUDIO_BYTES];
    // SILK-less CELT, 20 ms, stereo, one frame (RFC 6716 section 3.1).
    payload[0] = 0xFC;
    payload
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use spillway_proto::wire::payload::{h264, vp8};

    pub const W1: Plan = Plan {
        bitrate_bps: 2_500_000,
        fps: 30,
        gop: Duration::from_secs(2),
        codec: VideoCodec::H264,
        packetizer: Packetizer::Libwebrtc,
        pacing: Duration::from_millis(10),
        has_audio: true,
    };

    #[test]
    fn keyframes_alone_are_a_stream_too() {
        let plan = Plan { bitrate_bps: 66_000, fps: 1, gop: Duration::from_secs(1), has_audio: false, ..W1 };
        assert_eq!((plan.packets_of(0), plan.packets_of(1), plan.pps()), (6, 6, 6.0));
        assert!(crate::bare::run(&plan, 10, crate::sys::allowed_cores()[0], &crate::bare::Sends::None).is_some());
    }

    #[test]
    fn w1_is_what_the_definition_says() {
        assert_eq!(W1.frames_per_gop(), 60);
        assert_eq!(W1.packets_of(0), 60);
        assert_eq!((0..60).map(|place| W1.packets_of(place)).sum::<u64>(), 520);
        assert_eq!((W1.video_pps(), W1.pps()), (260.0, 310.0));
        for place in 1..60 {
            let packets = W1.packets_of(place);
            let spread = W1.packet_interval(packets) * (packets as u32 - 1);
            assert!((7..=8).contains(&packets) && (Duration::from_micros(9_990)..Duration::from_millis(12)).contains(&spread), "{spread:?}");
        }
        assert!(W1.packet_interval(60) * 60 <= W1.frame_interval());
        assert_eq!(W1.sizes_of(8), [1199, 1199, 1199, 1199, 1199, 1199, 1200, 1200]);
    }

    #[test]
    fn the_plan_keeps_its_bitrate_for_every_shape() {
        for (bitrate_bps, fps, seconds) in [(200_000, 30, 2), (1_000_000, 25, 1), (6_000_000, 60, 10), (50_000, 30, 1)] {
            let plan = Plan { bitrate_bps, fps, gop: Duration::from_secs(seconds), ..W1 };
            let packets: u64 = (0..plan.frames_per_gop()).map(|place| plan.packets_of(place)).sum();
            assert!((0..plan.frames_per_gop()).all(|place| plan.packets_of(place) >= 1), "{bitrate_bps}");
            let wanted = (bitrate_bps * seconds / 8 / 1_200).max(plan.frames_per_gop());
            assert_eq!(packets, wanted, "{bitrate_bps}");
        }
    }

    #[test]
    fn a_stamp_survives_its_payload_and_filler_is_none() {
        let stamp = Stamp { kind: StampKind::Video, keyframe: true, of_keyframe: true, run: 7, number: 1 << 40, sent_ns: u64::MAX - 5 };
        let mut payload = video_payload(VideoCodec::H264, true, 0, 5, 1_199);
        assert_eq!(Stamp::read(&payload), None);
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        let magic = payload.len() - STAMP_BYTES;
        payload[magic] ^= 1;
        assert_eq!(Stamp::read(&payload), None, "whatever looks like the rest of one");
    }

    #[test]
    fn a_byte_that_changed_on_the_way_is_found() {
        for (mut payload, kind) in [
            (video_payload(VideoCodec::H264, true, 0, 5, 1_199), StampKind::Video),
            (video_payload(VideoCodec::H264, false, 2, 5, 1_200), StampKind::Video),
            (video_payload(VideoCodec::Vp8, true, 0, 1, 200), StampKind::Video),
            (audio_payload(), StampKind::Audio),
        ] {
            let stamp = Stamp { kind, keyframe: false, of_keyframe: false, run: 7, number: 9, sent_ns: 5 };
            stamp.write(&mut payload);
            assert!(is_intact(&payload, &stamp));
            for place in [60, payload.len() - STAMP_BYTES - 1] {
                payload[place] ^= 1;
                assert!(!is_intact(&payload, &stamp));
                payload[place] ^= 1;
            }
            assert!(!is_intact(&payload[..10], &stamp));
        }
    }

    #[test]
    fn servers_find_keyframes_and_nothing_but_keyframes() {
        for count in [1, 2, 9] {
            for place in 0..count {
                let of = |codec, keyframe| video_payload(codec, keyframe, place, count, 1_200);
                let key = h264::facts(&of(VideoCodec::H264, true));
                assert_eq!(key.keyframe, place == usize::from(count > 1), "{place} of {count}");
                assert_eq!(key.parameter_sets, count > 1 && place == 0);
                assert!(!h264::facts(&of(VideoCodec::H264, false)).keyframe);
                assert_eq!(vp8::facts(&of(VideoCodec::Vp8, true)).keyframe, place == 0);
                assert!(!vp8::facts(&of(VideoCodec::Vp8, false)).keyframe);
            }
        }
    }
}
