//! `spillway play ROOM`: a viewer without a screen, and the cheapest truth teller. It decodes nothing; it says
//! what arrived, in which order, and what did not.

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
use spillway_proto::wire::payload;
use spillway_proto::wire::rtp::Rtp;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The payload types we offer.
const AUDIO: [(Codec, u8); 1] = [(Codec::Opus, 111)];
const VIDEO: [(Codec, u8); 5] =
    [(Codec::H264, 102), (Codec::Vp8, 96), (Codec::Vp9, 98), (Codec::Av1, 45), (Codec::H265, 49)];
const WAIT: Duration = Duration::from_millis(100);

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway play demo --seconds 5 --json
  spillway play demo --server http://192.0.2.7:7080 --token TOKEN

ttff_ms runs from the request to the last packet of the first keyframe; lost, seq_gaps and duplicates count
audio and video. Exit codes: 0 played, 5 nothing is live in the room, 4 the token was refused.")]
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
            "{ttff}; {} {} packets in {} frames, {} audio packets; lost {}, gaps {}, duplicates {}; {}",
            played.packets,
            played.codec.unwrap_or("video"),
            played.frames,
            played.audio_packets,
            played.lost,
            played.seq_gaps,
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
    let mut sources: HashMap<u32, Sequence> = HashMap::new();
    let mut picture = Picture::default();
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    let mut failure = None;
    while Instant::now() < end && !stop.is_set() {
        let wait = WAIT.min(end.saturating_duration_since(Instant::now()));
        let length = match session.wait(wait, &mut buffer) {
            Ok(Heard::Rtp(length)) => length,
            Ok(Heard::Nothing) => continue,
            Err(error) => {
                failure = Some(error);
                break;
            }
        };
        let Ok(rtp) = Rtp::parse(&buffer[..length]) else { continue };
        let known = AUDIO.iter().chain(&VIDEO).find(|(_, payload_type)| *payload_type == rtp.payload_type);
        let Some((codec, _)) = known.copied() else { continue };
        match sources.entry(rtp.ssrc) {
            Entry::Occupied(mut source) => source.get_mut().take(rtp.sequence),
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
    }
    Ok((played, failure))
}

/// When the first picture is complete, and how many there were.
#[derive(Default)]
struct Picture {
    entered: bool,
    shown: bool,
    timestamp: Option<u32>,
    frames: u64,
}

impl Picture {
    /// True once: with the last packet of the first keyframe.
    fn take(&mut self, codec: Codec, rtp: &Rtp<'_>) -> bool {
        if self.timestamp.replace(rtp.timestamp) != Some(rtp.timestamp) {
            self.frames += 1;
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
    /// Which of the last 1,024 came: a late packet fills its hole, a copy is none.
    recent: [bool; 1_024],
}

impl Sequence {
    fn new(sequence: u16) -> Sequence {
        // Room below, for packets that overtook each other at the start.
        let first = 1 << 20 | u64::from(sequence);
        let mut source = Sequence { first, next: first, received: 0, gaps: 0, duplicates: 0, recent: [false; 1_024] };
        source.take(sequence);
        source
    }

    fn take(&mut self, sequence: u16) {
        let step = sequence.wrapping_sub(self.next as u16);
        if step < 0x8000 {
            let index = self.next + u64::from(step);
            self.gaps += u64::from(step > 0);
            for skipped in self.next..index.min(self.next + 1_024) {
                self.recent[(skipped % 1_024) as usize] = false;
            }
            self.recent[(index % 1_024) as usize] = true;
            self.next = index + 1;
            self.received += 1;
            return;
        }
        let behind = u64::from(self.next as u16).wrapping_sub(u64::from(sequence)) & 0xFFFF;
        let index = self.next - behind;
        let seen = &mut self.recent[(index % 1_024) as usize];
        if behind > 1_024 || index < self.first || *seen {
            self.duplicates += 1;
        } else {
            *seen = true;
            self.received += 1;
        }
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
        sequences[1..].iter().for_each(|&sequence| source.take(sequence));
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
}
