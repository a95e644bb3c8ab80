//! WebM as it grows and as it is closed (RFC 9559): VP8, VP9, AV1 and Opus.
//!
//! ```text
//!  growing:  EBML | Segment of unknown size | Void, room for a SeekHead | Info | Void: head | Tracks |  Void: mark | Clusters |  Void: mark | ...
//!  closed:   EBML | Segment of its size     | SeekHead -> Cues | Info with its Duration | Void: head | Tracks | ...       ...      | Cues
//! ```
//! A fragment is one Cluster, or several where its times do not fit into one. Closing appends the Cues, then one write
//! puts the header's first bytes right.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::container::{Container, Piece, State, ticks};
use super::mark::{Head, MARK_BYTES, Mark};
use super::sample::TrackFormat;
use crate::id::{Codec, Kind};

// RFC 8794 section 11 and RFC 9559 section 5: element ids with their length marker.
const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114D_9B74;
const INFO: u32 = 0x1549_A966;
const TRACKS: u32 = 0x1654_AE6B;
const CUES: u32 = 0x1C53_BB6B;
const CLUSTER: u32 = 0x1F43_B675;
const VOID: u32 = 0xEC;
const SIMPLE_BLOCK: u32 = 0xA3;

/// The EBML header, the Segment's id and its size: the Segment's body begins there.
pub(super) const SEGMENT_AT: usize = 36 + 12;
/// Room for three entries of 21 bytes.
const SEEK_BYTES: usize = 80;
const INFO_BYTES: usize = 74;
/// Where the head's magic stands: behind a Void's id and size.
pub(super) const HEAD_AT: usize = SEGMENT_AT + SEEK_BYTES + INFO_BYTES + VOID_HEADER_BYTES;
pub(super) const VOID_HEADER_BYTES: usize = 9;
pub(super) const MARK_VOID_BYTES: usize = VOID_HEADER_BYTES + MARK_BYTES;
/// Blocks say their time in 16 bits, relative to their cluster's.
const CLUSTER_MS_MAX: u64 = 30_000;
/// All ones: unknown (RFC 8794 section 6.2).
const UNKNOWN: u64 = (1 << 56) - 1;

fn id(out: &mut Vec<u8>, id: u32) {
    let bytes = id.to_be_bytes();
    out.extend(bytes.iter().skip(id.leading_zeros() as usize / 8));
}

/// A size in eight bytes.
fn size(out: &mut Vec<u8>, size: u64) {
    out.extend((1 << 56 | size).to_be_bytes());
}

/// An element with its size in as many bytes as it needs.
fn element(out: &mut Vec<u8>, name: u32, body: &[u8]) {
    id(out, name);
    let length = body.len() as u64;
    let bytes = (1..8_usize).find(|bytes| length < (1 << (7 * bytes)) - 1).unwrap_or(8);
    let coded: u64 = 1 << (7 * bytes) | length;
    out.extend(coded.to_be_bytes().iter().skip(8 - bytes));
    out.extend(body);
}

fn number(out: &mut Vec<u8>, name: u32, number: u64) {
    let bytes = number.to_be_bytes();
    element(out, name, bytes.get((number.leading_zeros() as usize / 8).min(7)..).unwrap_or(&bytes));
}

/// A Void of exactly this many bytes, at least nine.
pub(super) fn void(out: &mut Vec<u8>, bytes: u64) {
    id(out, VOID);
    size(out, bytes - VOID_HEADER_BYTES as u64);
}

/// What is known of a file at its end.
pub(super) struct Closed {
    /// Bytes of the Segment's body.
    pub body_bytes: u64,
    /// In the Segment's body.
    pub cues_at: u64,
    pub duration_ms: u64,
}

pub(super) fn header(tracks: &[TrackFormat], started_unix_ms: u64, closed: Option<&Closed>, out: &mut Vec<u8>) {
    let mut entries = Vec::new();
    for (index, track) in tracks.iter().enumerate() {
        element(&mut entries, 0xAE, &entry(index as u64 + 1, track));
    }
    let mut behind = Vec::new();
    element(&mut behind, TRACKS, &entries);
    let mut head = Head { container: Container::WebM, header_bytes: 0, started_unix_ms, tracks: tracks.to_vec() };
    let mut bytes = Vec::new();
    head.write(&mut bytes);
    let tracks_at = HEAD_AT + bytes.len();
    head.header_bytes = (tracks_at + behind.len()) as u32;
    beginning(started_unix_ms, closed, (tracks_at - SEGMENT_AT) as u64, out);
    void(out, (VOID_HEADER_BYTES + bytes.len()) as u64);
    head.write(out);
    out.append(&mut behind);
}

/// As far as the Info's end; always as long. `tracks_at`: in the Segment's body.
fn beginning(started_unix_ms: u64, closed: Option<&Closed>, tracks_at: u64, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (name, value) in [(0x4286, 1), (0x42F7, 1), (0x42F2, 4), (0x42F3, 8)] {
        number(&mut body, name, value);
    }
    element(&mut body, 0x4282, b"webm");
    // DocTypeVersion 4 has CodecDelay and SeekPreRoll; readers of 2 know SimpleBlocks.
    for (name, value) in [(0x4287, 4), (0x4285, 2)] {
        number(&mut body, name, value);
    }
    element(out, EBML, &body);
    id(out, SEGMENT);
    size(out, closed.map_or(UNKNOWN, |closed| closed.body_bytes));

    let mut seeks = Vec::new();
    if let Some(closed) = closed {
        let places = [(INFO, SEEK_BYTES as u64), (TRACKS, tracks_at), (CUES, closed.cues_at)];
        let mut entries = Vec::new();
        for (name, place) in places.into_iter().filter(|(_, place)| *place > 0) {
            let mut seek = Vec::new();
            element(&mut seek, 0x53AB, &name.to_be_bytes());
            element(&mut seek, 0x53AC, &place.to_be_bytes());
            element(&mut entries, 0x4DBB, &seek);
        }
        element(&mut seeks, SEEK_HEAD, &entries);
    }
    let rest = SEEK_BYTES - seeks.len();
    out.append(&mut seeks);
    filler(out, rest);

    let mut info = Vec::new();
    number(&mut info, 0x2A_D7B1, 1_000_000);
    match closed {
        Some(closed) => element(&mut info, 0x4489, &(closed.duration_ms as f64).to_be_bytes()),
        None => filler(&mut info, 11),
    }
    // Nanoseconds since 2001.
    let date = (started_unix_ms as i64).saturating_sub(978_307_200_000).saturating_mul(1_000_000);
    element(&mut info, 0x4461, &date.to_be_bytes());
    element(&mut info, 0x4D80, b"Spillway recorder");
    element(&mut info, 0x5741, b"Spillway recorder");
    element(out, INFO, &info);
}

/// A Void of 2 to 127 bytes.
fn filler(out: &mut Vec<u8>, bytes: usize) {
    let body = vec![0; bytes - 2];
    element(out, VOID, &body);
}

fn entry(number_of: u64, track: &TrackFormat) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = track.codec.kind();
    number(&mut out, 0xD7, number_of);
    number(&mut out, 0x73C5, number_of);
    number(&mut out, 0x83, if kind == Kind::Video { 1 } else { 2 });
    // No lacing.
    number(&mut out, 0x9C, 0);
    element(&mut out, 0x22_B59C, b"und");
    let name: &[u8] = match track.codec {
        Codec::Vp8 => b"V_VP8",
        Codec::Vp9 => b"V_VP9",
        Codec::Av1 => b"V_AV1",
        Codec::H264 => b"V_MPEG4/ISO/AVC",
        Codec::H265 => b"V_MPEGH/ISO/HEVC",
        Codec::Opus => b"A_OPUS",
    };
    element(&mut out, 0x86, name);
    match track.codec {
        Codec::Opus => {
            // RFC 7845 section 5.1: dOps's fields in little endian, behind a magic; no pre-skip, no gain.
            element(&mut out, 0x63A2, b"OpusHead\x01\x02\0\0\x80\xBB\0\0\0\0\0");
            number(&mut out, 0x56AA, 0);
            // RFC 7845 section 4: a decoder is in step after 80 ms.
            number(&mut out, 0x56BB, 80_000_000);
            let mut audio = Vec::new();
            element(&mut audio, 0xB5, &48_000_f64.to_be_bytes());
            number(&mut audio, 0x9F, 2);
            element(&mut out, 0xE1, &audio);
        }
        codec => {
            if matches!(codec, Codec::Av1 | Codec::H264 | Codec::H265) {
                element(&mut out, 0x63A2, &track.private);
            }
            let mut video = Vec::new();
            number(&mut video, 0xB0, u64::from(track.width));
            number(&mut video, 0xBA, u64::from(track.height));
            element(&mut out, 0xE0, &video);
        }
    }
    out
}

pub(super) fn mark(mark: &Mark, out: &mut Vec<u8>) {
    void(out, MARK_VOID_BYTES as u64);
    mark.write(out);
}

/// Clusters. At most one track of each kind, at least one piece.
pub(super) fn fragment(state: &mut State, tracks: &[TrackFormat], video: &[Piece], audio: &[Piece], out: &mut Vec<u8>) {
    let track_of = |kind: Kind| tracks.iter().position(|track| track.codec.kind() == kind).map_or(1, |index| index as u8 + 1);
    let of = |pieces: &[Piece], kind: Kind| pieces.iter().map(|piece| (ticks(piece.time_ns, 1_000), track_of(kind), piece.keyframe)).collect::<Vec<_>>();
    let (pictures, sounds) = (of(video, Kind::Video), of(audio, Kind::Audio));
    let mut pieces: Vec<_> = pictures.into_iter().zip(video).chain(sounds.into_iter().zip(audio)).collect();
    // Stable: the pictures of one time stay before the sound, and each track in its order (no B-frames in these codecs).
    pieces.sort_by_key(|((time, ..), _)| *time);
    let mut rest = pieces.as_slice();
    while let Some(((begin, ..), _)) = rest.first() {
        let count = rest.iter().take_while(|((time, ..), _)| time - begin <= CLUSTER_MS_MAX).count();
        let (now, later) = rest.split_at(count);
        rest = later;
        let mut body = Vec::new();
        number(&mut body, 0xE7, *begin);
        for ((time, track, keyframe), piece) in now {
            id(&mut body, SIMPLE_BLOCK);
            size(&mut body, 4 + piece.data.len() as u64);
            body.push(0x80 | track);
            body.extend(((time - begin) as u16).to_be_bytes());
            body.push(if *keyframe { 0x80 } else { 0 });
            body.extend(piece.data);
        }
        element(out, CLUSTER, &body);
    }
    if let Some(((last, ..), _)) = pieces.last() {
        state.video_floor = last + 1;
    }
}

/// A place where a player can begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cue {
    pub time_ns: u64,
    /// Of its cluster, in the file.
    pub at: u64,
}

/// The Cues, and the bytes that the file is to begin with.
pub(super) fn closing(tracks: &[TrackFormat], cues: &[Cue], started_unix_ms: u64, header_bytes: u32, end_ns: u64, at: u64) -> (Vec<u8>, Vec<u8>) {
    let mut points = Vec::new();
    for cue in cues {
        let (mut positions, mut point) = (Vec::new(), Vec::new());
        number(&mut positions, 0xF7, 1);
        number(&mut positions, 0xF1, cue.at.saturating_sub(SEGMENT_AT as u64));
        number(&mut point, 0xB3, ticks(cue.time_ns, 1_000));
        element(&mut point, 0xB7, &positions);
        element(&mut points, 0xBB, &point);
    }
    let mut append = Vec::new();
    if !cues.is_empty() {
        element(&mut append, CUES, &points);
    }
    let segment = SEGMENT_AT as u64;
    let closed = Closed {
        body_bytes: (at + append.len() as u64).saturating_sub(segment),
        cues_at: if cues.is_empty() { 0 } else { at.saturating_sub(segment) },
        duration_ms: ticks(end_ns, 1_000),
    };
    let mut first = Vec::new();
    header(tracks, started_unix_ms, Some(&closed), &mut first);
    // A file that another version began keeps its own tracks.
    if first.len() != header_bytes as usize {
        first.truncate(HEAD_AT - VOID_HEADER_BYTES);
    }
    (append, first)
}
