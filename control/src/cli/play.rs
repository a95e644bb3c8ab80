//! `spillway play ROOM`: a viewer without a screen, and the cheapest truth teller. It decodes nothing; it says
//! what arrived, in which order, and what did not. What is missing it asks for again, as a browser does.

use super::remote::{Heard, RemoteError, Section, Server, ServerArgs, Session, Stop};
use super::token::parse_room;
use crate::auth::Role;
use crate::supervisor::terminal::complain;
use clap::Args;
use serde::Serialize;
use spillway_proto::id::{Codec, Kind};
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::sdp::Direction;
use spillway_proto::session::srtp::Profile;
use spillway_proto::time::Time;
use spillway_proto::wire::rtp::Rtp;
use spillway_proto::wire::{payload, rtcp};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The payload types we offer, and those of their retransmissions.
const AUDIO: [(Codec, u8, u8); 1] = [(Codec::Opus, 111, 0)];
const VIDEO: [(Codec, u8, u8); 5] = [
    (Codec::H264, 102, 103),
    (Codec::Vp8, 96, 97),
    (Codec::Vp9, 98, 99),
    (Codec::Av1, 45, 46),
    (Codec::H265, 49, 50),
];
const WAIT: Duration = Duration::from_millis(100);
/// What waits for a repair is looked at this often.
const WAIT_REPAIR: Duration = Duration::from_millis(10);
/// A receiver has no SSRC of its own; libwebrtc's, too, reports as 1.
const REPORT_SSRC: u32 = 1;
/// A packet that was only overtaken comes within this.
const ASK_AFTER: Duration = Duration::from_millis(10);
/// Longer than a round trip within a continent.
const ASK_INTERVAL: Duration = Duration::from_millis(60);
/// libwebrtc's number; 600 ms later nobody waits for the picture any more.
const ASKS_MAX: u8 = 10;
/// More than that is not a loss but an outage: the newest are asked for.
const MISSING_MAX: usize = 512;
/// Pictures that a repair may still belong to.
const PICTURES_KEPT: usize = 64;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway play demo --seconds 5 --json
  spillway play demo --server http://192.0.2.7:7080 --token TOKEN

ttff_ms runs from the request to the last packet of the first keyframe; lost, seq_gaps and duplicates count
audio and video. Missing packets are asked for again: recovered of them came, lost did not; a viewer of a perfect
path shows seq_gaps, recovered and lost all 0. Exit codes: 0 played, 5 nothing is live in the room, 4 the token was refused.")]
pub struct PlayArgs {
    /// The room to watch
    #[arg(value_name = "ROOM", value_parser = parse_room)]
    pub room: String,
    /// How long to watch, from the moment of the request
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub seconds: u64,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// What a viewer of one room got.
#[derive(Serialize, Default, Debug)]
pub struct Played {
    ttff_ms: Option<u64>,
    packets: u64,
    frames: u64,
    lost: u64,
    seq_gaps: u64,
    duplicates: u64,
    /// Packets that came only after they were asked for again.
    recovered: u64,
    codec: Option<&'static str>,
    profile: Option<&'static str>,
    audio_packets: u64,
}

pub fn run(args: PlayArgs) -> ExitCode {
    let outcome = Stop::listen().map_err(RemoteError::Socket).and_then(|stop| play(&args, &stop));
    let (played, failure) = match outcome {
        Ok((played, failure)) => (played, failure),
        Err(error) => {
            complain(error.to_string());
            return error.exit().into();
        }
    };
    if args.json {
        // A struct of numbers and names always has a text.
        println!("{}", serde_json::to_string(&played).unwrap_or_default());
    } else {
        let ttff = played.ttff_ms.map_or_else(|| "no picture".to_owned(), |ms| format!("first picture after {ms} ms"));
        println!(
            "{ttff}; {} {} packets in {} frames, {} audio packets; lost {}, gaps {}, recovered {}, duplicates {}; {}",
            played.packets,
            played.codec.unwrap_or("video"),
            played.frames,
            played.audio_packets,
            played.lost,
            played.seq_gaps,
            played.recovered,
            played.duplicates,
            played.profile.unwrap_or("not connected"),
        );
    }
    match failure {
        None => ExitCode::SUCCESS,
        Some(error) => {
            complain(error.to_string());
            error.exit().into()
        }
    }
}

/// What was seen, and what ended it early.
fn play(args: &PlayArgs, stop: &Stop) -> Result<(Played, Option<RemoteError>), RemoteError> {
    let began = Instant::now();
    let end = began + Duration::from_secs(args.seconds);
    let server = Server::find(&args.server, &args.room, Role::View)?;
    let sections = [
        Section { codecs: AUDIO.to_vec(), direction: Direction::RecvOnly, ssrc: 0 },
        Section { codecs: VIDEO.to_vec(), direction: Direction::RecvOnly, ssrc: 0 },
    ];
    let mut played = Played::default();
    let Some(mut session) = Session::connect(&server, &format!("/whep/{}", args.room), &sections, stop)? else {
        return Ok((played, None));
    };
    played.profile = session.client.profile().map(|profile| match profile {
        Profile::AeadAes256Gcm => "AEAD_AES_256_GCM",
        Profile::AeadAes128Gcm => "AEAD_AES_128_GCM",
        Profile::Aes128CmSha1_80 => "AES128_CM_HMAC_SHA1_80",
    });
    // By the SSRC of retransmissions: whose packets they repeat.
    let repairs: HashMap<u32, u32> =
        session.answer.media.iter().flat_map(|media| &media.fid_groups).map(|(media, rtx)| (*rtx, *media)).collect();
    let mut sources: HashMap<u32, Sequence> = HashMap::new();
    let mut picture = Picture::default();
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    let mut failure = None;
    while Instant::now() < end && !stop.is_set() {
        let now = session.now();
        for (ssrc, source) in &mut sources {
            let asks = source.asks(now);
            let mut out = [0; DATAGRAM_SIZE_MAX];
            let written = rtcp::write_nack(&mut out, REPORT_SSRC, *ssrc, &asks);
            if let Some(nack) = written.filter(|length| *length > 0).and_then(|length| out.get(..length)) {
                session.send_rtcp(nack);
            }
        }
        let waits = sources.values().any(|source| !source.missing.is_empty());
        let wait = if waits { WAIT_REPAIR } else { WAIT };
        let length = match session.wait(wait.min(end.saturating_duration_since(Instant::now())), &mut buffer) {
            Ok(Heard::Rtp(length)) => length,
            Ok(_) => continue,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        let Ok(rtp) = Rtp::parse(&buffer[..length]) else { continue };
        let repairs_something = is_rtx(rtp.payload_type);
        let Some((codec, rtp)) = unwrap(rtp, &repairs) else { continue };
        let now = session.now();
        match sources.entry(rtp.ssrc) {
            Entry::Occupied(mut source) => {
                if !source.get_mut().take(now, rtp.sequence) {
                    continue;
                }
            }
            // Nothing was missed yet: what is repeated lies before our beginning.
            Entry::Vacant(_) if repairs_something => continue,
            Entry::Vacant(place) => _ = place.insert(Sequence::new(rtp.sequence)),
        }
        if codec.kind() == Kind::Audio {
            played.audio_packets += 1;
            continue;
        }
        played.packets += 1;
        played.codec = Some(codec.sdp_name());
        if picture.take(codec, &rtp) {
            played.ttff_ms = Some(began.elapsed().as_millis() as u64);
        }
        played.frames = picture.frames;
    }
    if failure.is_none() {
        session.leave();
    }
    for source in sources.values() {
        played.lost += source.lost();
        played.seq_gaps += source.gaps;
        played.duplicates += source.duplicates;
        played.recovered += source.recovered;
    }
    Ok((played, failure))
}

fn is_rtx(payload_type: u8) -> bool {
    VIDEO.iter().any(|(_, _, rtx)| *rtx == payload_type)
}

/// What a packet carries; a retransmission becomes what it repeats (RFC 4588 section 4): its own payload type and
/// SSRC tell whose, its first two bytes the sequence number.
fn unwrap<'a>(mut rtp: Rtp<'a>, repairs: &HashMap<u32, u32>) -> Option<(Codec, Rtp<'a>)> {
    let ours = |(_, media, rtx): &&(Codec, u8, u8)| [*media, *rtx].contains(&rtp.payload_type);
    let (codec, ..) = *AUDIO.iter().chain(&VIDEO).find(ours)?;
    if is_rtx(rtp.payload_type) {
        let (sequence, payload) = rtp.payload.split_first_chunk::<2>()?;
        (rtp.sequence, rtp.payload) = (u16::from_be_bytes(*sequence), payload);
        rtp.ssrc = *repairs.get(&rtp.ssrc)?;
    }
    Some((codec, rtp))
}

/// When the first picture is complete, and how many there were.
#[derive(Default)]
struct Picture {
    entered: bool,
    shown: bool,
    /// Of the last pictures: a repaired packet comes after those of the next picture.
    timestamps: VecDeque<u32>,
    frames: u64,
}

impl Picture {
    /// True once: with the last packet of the first keyframe.
    fn take(&mut self, codec: Codec, rtp: &Rtp<'_>) -> bool {
        if !self.timestamps.contains(&rtp.timestamp) {
            self.frames += 1;
            self.timestamps.truncate(PICTURES_KEPT - 1);
            self.timestamps.push_front(rtp.timestamp);
        }
        self.entered |= payload::facts(codec, rtp.payload).keyframe;
        self.entered && rtp.marker && !std::mem::replace(&mut self.shown, true)
    }
}

/// What became of one source's sequence numbers.
struct Sequence {
    first: u64,
    next: u64,
    received: u64,
    gaps: u64,
    duplicates: u64,
    recovered: u64,
    /// Of the last 1,024: what did not come yet.
    missing: BTreeMap<u64, Missing>,
    /// Which of the last 1,024 came: a late packet fills its hole, a copy is none.
    recent: [bool; 1_024],
}

/// A packet that is asked for.
struct Missing {
    asks: u8,
    next_at: Time,
}

impl Sequence {
    fn new(sequence: u16) -> Sequence {
        // Room below, for packets that overtook each other at the start.
        let first = 1 << 20 | u64::from(sequence);
        let mut source = Sequence {
            first,
            next: first,
            received: 0,
            gaps: 0,
            duplicates: 0,
            recovered: 0,
            missing: BTreeMap::new(),
            recent: [false; 1_024],
        };
        source.take(Time::ZERO, sequence);
        source
    }

    /// False for a copy of what came already.
    fn take(&mut self, now: Time, sequence: u16) -> bool {
        let step = sequence.wrapping_sub(self.next as u16);
        if step < 0x8000 {
            let index = self.next + u64::from(step);
            self.gaps += u64::from(step > 0);
            for skipped in self.next..index.min(self.next + 1_024) {
                self.recent[(skipped % 1_024) as usize] = false;
            }
            for skipped in self.next.max(index.saturating_sub(MISSING_MAX as u64))..index {
                self.missing.insert(skipped, Missing { asks: 0, next_at: now + ASK_AFTER });
            }
            while self.missing.len() > MISSING_MAX {
                self.missing.pop_first();
            }
            self.recent[(index % 1_024) as usize] = true;
            self.next = index + 1;
            self.received += 1;
            return true;
        }
        let behind = u64::from(self.next as u16).wrapping_sub(u64::from(sequence)) & 0xFFFF;
        let index = self.next - behind;
        let seen = &mut self.recent[(index % 1_024) as usize];
        if behind > 1_024 || index < self.first || *seen {
            self.duplicates += 1;
            return false;
        }
        *seen = true;
        self.received += 1;
        self.recovered += u64::from(self.missing.remove(&index).is_some_and(|missing| missing.asks > 0));
        true
    }

    /// What to ask for now, in order. Given up after some tries.
    fn asks(&mut self, now: Time) -> Vec<u16> {
        self.missing.retain(|_, missing| missing.asks < ASKS_MAX || missing.next_at > now);
        let due = self.missing.iter_mut().filter(|(_, missing)| missing.next_at <= now);
        due.map(|(index, missing)| {
            missing.asks += 1;
            missing.next_at = now + ASK_INTERVAL;
            *index as u16
        })
        .collect()
    }

    fn lost(&self) -> u64 {
        (self.next - self.first).saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(sequences: &[u16]) -> (u64, u64, u64) {
        let mut source = Sequence::new(sequences[0]);
        sequences[1..].iter().for_each(|&sequence| _ = source.take(Time::ZERO, sequence));
        (source.lost(), source.gaps, source.duplicates)
    }

    #[test]
    fn losses_gaps_and_copies_are_told_apart() {
        assert_eq!(account(&[65_534, 65_535, 0, 1]), (0, 0, 0));
        assert_eq!(account(&[1, 2, 5, 6]), (2, 1, 0));
        assert_eq!(account(&[1, 3, 2, 4]), (0, 1, 0), "a late packet is not lost");
        assert_eq!(account(&[1, 2, 2, 3, 1]), (0, 0, 2));
        assert_eq!(account(&[10, 3_000, 11]), (2_989, 1, 1), "too late to be told from a copy");
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes_or_is_given_up() {
        let at = Time::from_millis;
        let mut source = Sequence::new(65_534);
        source.take(at(0), 1);
        assert!(source.asks(at(9)).is_empty(), "it may only have been overtaken");
        assert!(source.take(at(9), 65_535));
        assert_eq!(source.asks(at(10)), [0]);
        assert!(source.asks(at(11)).is_empty(), "one round trip's time");
        assert!(source.take(at(30), 0) && !source.take(at(31), 0), "a copy is none");
        assert_eq!((source.lost(), source.recovered, source.duplicates), (0, 1, 1));
        source.take(at(40), 3);
        let asked = (40..5_000).filter(|ms| !source.asks(at(*ms)).is_empty()).count();
        assert_eq!((asked, source.lost()), (usize::from(ASKS_MAX), 1));
        source.take(at(5_000), 3_000);
        let asks = source.asks(at(6_000));
        assert_eq!((asks.len(), asks[0], *asks.last().unwrap()), (MISSING_MAX, 2_488, 2_999), "the newest, in order");
    }

    #[test]
    fn a_picture_whose_packet_was_repaired_is_one_picture() {
        let mut picture = Picture::default();
        let mut take = |timestamp: u32| {
            let mut bytes = vec![0; 13];
            let header = bytes.first_chunk_mut().unwrap();
            spillway_proto::wire::rtp::write_header(header, false, 96, 7, timestamp, 5);
            picture.take(Codec::Vp8, &Rtp::parse(&bytes).unwrap());
            picture.frames
        };
        assert_eq!([take(10), take(10), take(20), take(10), take(20), take(30)], [1, 1, 2, 2, 2, 3]);
        assert_eq!((40..1_000).map(take).last(), Some(963), "and the memory for it is bounded");
        assert_eq!(picture.timestamps.len(), PICTURES_KEPT);
    }

    #[test]
    fn a_retransmission_becomes_what_it_repeats() {
        let packet = |payload_type: u8, ssrc: u32, payload: &[u8]| {
            let mut bytes = vec![0; 12];
            let header = bytes.first_chunk_mut().unwrap();
            spillway_proto::wire::rtp::write_header(header, true, payload_type, 7, 90, ssrc);
            bytes.extend_from_slice(payload);
            bytes
        };
        let repairs = HashMap::from([(6, 5)]);
        let read = |bytes: &[u8]| {
            let (codec, rtp) = unwrap(Rtp::parse(bytes).unwrap(), &repairs)?;
            Some((codec, rtp.ssrc, rtp.sequence, rtp.payload.to_vec()))
        };
        assert_eq!(read(&packet(96, 5, b"abc")), Some((Codec::Vp8, 5, 7, b"abc".to_vec())));
        assert_eq!(read(&packet(97, 6, b"\x01\x02abc")), Some((Codec::Vp8, 5, 0x0102, b"abc".to_vec())));
        assert_eq!(read(&packet(103, 6, b"\x01\x02")), Some((Codec::H264, 5, 0x0102, Vec::new())));
        assert_eq!(read(&packet(97, 9, b"\x01\x02abc")), None, "nobody's retransmission");
        assert_eq!(read(&packet(97, 6, b"\x01")), None);
        assert_eq!(read(&packet(99, 5, b"abc")), None);
    }
}
