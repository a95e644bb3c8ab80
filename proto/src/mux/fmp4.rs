//! MP4 as it grows and as it is closed (ISO/IEC 14496-12): H264, H265, AV1, VP9 and Opus.
//!
//! ```text
//!  growing:  ftyp 32 | free 16 | uuid: head | moov, empty, mvex |  uuid: mark | moof | mdat |  uuid: mark | moof | mdat | ...
//!  closed:   ftyp 32 | mdat 16 . . . . . . . all of that is its body now . . . . . . . . . . . . . . . . | moov, of all samples
//! ```
//! Behind the fragments stands, at the end, an index of everything; then one write of 16 bytes makes an `mdat` of the
//! `free` box, and the file is a plain MP4. Nothing is copied, and before that write it is a fragmented one.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::container::{Container, Piece, State, opus_ns, ticks};
use super::mark::{Head, MARK_BYTES, Mark};
use super::sample::TrackFormat;
use crate::id::{Codec, Kind};

pub(super) const FTYP_BYTES: usize = 32;
/// Of `free`, or of the header of the `mdat` it becomes.
pub(super) const PLACE_BYTES: usize = 16;
/// Where the head's magic stands: behind ftyp, free and the box's length and type.
pub(super) const HEAD_AT: usize = FTYP_BYTES + PLACE_BYTES + 8;
pub(super) const MARK_BOX_BYTES: usize = 8 + MARK_BYTES;

/// Of movie times: both tracks' units are whole in it.
const MOVIE_SCALE: u64 = 720_000;
/// From 1904 to 1970.
const EPOCH_SECONDS: u64 = 2_082_844_800;
/// ISO/IEC 14496-12 section 8.8.3.1: depends on no other sample; or does, and nobody can begin there.
const SYNC: u32 = 0x0200_0000;
const NOT_SYNC: u32 = 0x0101_0000;
/// Units that sound may be off its place and still be put there, so that durations are all the same: 1 ms.
const SNAP: u64 = 48;

fn scale(kind: Kind) -> u64 {
    Container::Mp4.scale(kind)
}

/// A box around what `body` writes.
fn boxed(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(kind);
    body(out);
    let size = (out.len() - at) as u32;
    patch(out, at, size);
}

/// A full box: with a version and flags.
fn full(out: &mut Vec<u8>, kind: &[u8; 4], version: u8, flags: u32, body: impl FnOnce(&mut Vec<u8>)) {
    boxed(out, kind, |out| {
        put(out, u32::from(version) << 24 | flags);
        body(out);
    });
}

fn put(out: &mut Vec<u8>, number: u32) {
    out.extend(number.to_be_bytes());
}
fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend(number.to_be_bytes());
}
fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend(number.to_be_bytes());
}
fn patch(out: &mut [u8], at: usize, number: u32) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

pub(super) fn header(tracks: &[TrackFormat], started_unix_ms: u64, out: &mut Vec<u8>) {
    let at = out.len();
    boxed(out, b"ftyp", |out| {
        out.extend(b"isom\0\0\x02\0isomiso6mp41mp42");
    });
    boxed(out, b"free", |out| out.extend([0; PLACE_BYTES - 8]));
    // The head says how long the header is, and is a part of it.
    let mut moov = Vec::new();
    let empty: Vec<_> = tracks.iter().map(|format| (format, None)).collect();
    write_moov(&mut moov, started_unix_ms, &empty);
    let mut head = Head { container: Container::Mp4, header_bytes: 0, started_unix_ms, tracks: tracks.to_vec() };
    let mut bytes = Vec::new();
    head.write(&mut bytes);
    head.header_bytes = (out.len() - at + 8 + bytes.len() + moov.len()) as u32;
    boxed(out, b"uuid", |out| head.write(out));
    out.append(&mut moov);
}

pub(super) fn mark(mark: &Mark, out: &mut Vec<u8>) {
    boxed(out, b"uuid", |out| mark.write(out));
}

/// What makes the growing file a plain one, once the moov stands at `moov_at`: (where, bytes).
pub(super) fn final_place(moov_at: u64) -> (u64, Vec<u8>) {
    let mut bytes = Vec::with_capacity(PLACE_BYTES);
    put(&mut bytes, 1);
    bytes.extend(b"mdat");
    put64(&mut bytes, moov_at - FTYP_BYTES as u64);
    (FTYP_BYTES as u64, bytes)
}

/// A sample of a fragment in its track's units.
struct Entry {
    time: u64,
    duration: u32,
    size: u32,
    keyframe: bool,
    /// Presentation less decode time.
    offset: i32,
}

/// moof and mdat. At most one track of each kind, at least one piece.
pub(super) fn fragment(state: &mut State, tracks: &[TrackFormat], video: &[Piece], audio: &[Piece], until_ns: u64, out: &mut Vec<u8>) {
    let at = out.len();
    let mut places = Vec::new();
    boxed(out, b"moof", |out| {
        full(out, b"mfhd", 0, 0, |out| put(out, state.sequence));
        for (index, track) in tracks.iter().enumerate() {
            let kind = track.codec.kind();
            let (pieces, entries) = match kind {
                Kind::Video => (video, pictures(state, video, until_ns)),
                Kind::Audio => (audio, sound(state, audio)),
            };
            if !pieces.is_empty() {
                places.push((traf(out, index as u32 + 1, kind, &entries), pieces));
            }
        }
    });
    let mut offset = out.len() - at + 8;
    for (place, pieces) in &places {
        patch(out, *place, offset as u32);
        offset += pieces.iter().map(|piece| piece.data.len()).sum::<usize>();
    }
    boxed(out, b"mdat", |out| {
        let pieces = places.iter().flat_map(|(_, pieces)| *pieces);
        pieces.for_each(|piece| out.extend(piece.data));
    });
}

/// Decode times are the presentation times in order (with B-frames a picture may then be shown before it is decoded,
/// by a negative offset, ISO/IEC 14496-12 section 8.6.1.3), and grow.
fn pictures(state: &mut State, pieces: &[Piece], until_ns: u64) -> Vec<Entry> {
    let scale = scale(Kind::Video);
    let shown: Vec<u64> = pieces.iter().map(|piece| ticks(piece.time_ns, scale)).collect();
    let mut decoded = shown.clone();
    decoded.sort_unstable();
    for time in &mut decoded {
        *time = (*time).max(state.video_floor);
        state.video_floor = *time + 1;
    }
    let interval = match decoded.as_slice() {
        [.., before, last] => last - before,
        _ => scale / 30,
    };
    let end = decoded.last().map_or(0, |last| ticks(until_ns, scale).max(last + interval.min(1)));
    // Where the next picture is not after this one, it stays as long as the one before.
    let end = if decoded.last().is_some_and(|last| end <= last + 1) { end + interval } else { end };
    let ends = decoded.iter().skip(1).copied().chain([end]);
    let times = decoded.iter().copied().zip(ends).zip(pieces.iter().zip(&shown));
    let entry = |((time, end), (piece, shown)): ((u64, u64), (&Piece, &u64))| Entry {
        time,
        duration: u32::try_from(end - time).unwrap_or(u32::MAX),
        size: piece.data.len() as u32,
        keyframe: piece.keyframe,
        offset: (*shown as i64 - time as i64).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
    };
    times.map(entry).collect()
}

fn sound(state: &mut State, pieces: &[Piece]) -> Vec<Entry> {
    let scale = scale(Kind::Audio);
    let mut entries: Vec<Entry> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (time, next) = (ticks(piece.time_ns, scale), state.audio_next);
        // No packet is shorter than 120 units: what comes too early is still behind the one before.
        let time = if next > 0 && time.abs_diff(next) <= SNAP { next } else { time.max(next.saturating_sub(119)) };
        let duration = ticks(opus_ns(piece.data), scale);
        if let Some(before) = entries.last_mut() {
            before.duration = u32::try_from(time - before.time).unwrap_or(u32::MAX);
        }
        state.audio_next = time + duration;
        entries.push(Entry { time, duration: duration as u32, size: piece.data.len() as u32, keyframe: true, offset: 0 });
    }
    entries
}

const TRUN_OFFSET: u32 = 1;
const TRUN_DURATION: u32 = 0x100;
const TRUN_SIZE: u32 = 0x200;
const TRUN_FLAGS: u32 = 0x400;
const TRUN_COMPOSITION: u32 = 0x800;

/// Where the offset of its data is to be put.
fn traf(out: &mut Vec<u8>, id: u32, kind: Kind, entries: &[Entry]) -> usize {
    let mut place = 0;
    let is_moved = entries.iter().any(|entry| entry.offset != 0);
    let flags = TRUN_OFFSET | TRUN_DURATION | TRUN_SIZE;
    let flags = flags | if kind == Kind::Video { TRUN_FLAGS } else { 0 } | if is_moved { TRUN_COMPOSITION } else { 0 };
    boxed(out, b"traf", |out| {
        // default-base-is-moof
        full(out, b"tfhd", 0, 0x02_0000, |out| put(out, id));
        full(out, b"tfdt", 1, 0, |out| put64(out, entries.first().map_or(0, |entry| entry.time)));
        full(out, b"trun", 1, flags, |out| {
            put(out, entries.len() as u32);
            place = out.len();
            put(out, 0);
            for entry in entries {
                put(out, entry.duration);
                put(out, entry.size);
                if kind == Kind::Video {
                    put(out, if entry.keyframe { SYNC } else { NOT_SYNC });
                }
                if is_moved {
                    put(out, entry.offset as u32);
                }
            }
        });
    });
    place
}

/// The samples of a track, as the index of a closed file has them. At most 12 bytes per sample, for runs of equal
/// durations 4.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    first: u64,
    /// Of the newest sample: its decode time, how long it lasts if none follows.
    last: u64,
    last_duration: u32,
    /// The latest end of what is shown.
    end: u64,
    sizes: Vec<u32>,
    durations: Runs<u32>,
    offsets: Runs<i32>,
    sync: Vec<u32>,
    chunks: Vec<u64>,
    per_chunk: Runs<u32>,
}

/// (How often, what).
#[derive(Clone, Debug)]
struct Runs<T>(Vec<(u32, T)>);

impl<T> Default for Runs<T> {
    fn default() -> Runs<T> {
        Runs(Vec::new())
    }
}

impl<T: PartialEq> Runs<T> {
    fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some((count, last)) if *last == value => *count += 1,
            _ => self.0.push((1, value)),
        }
    }
}

impl Table {
    pub fn samples(&self) -> usize {
        self.sizes.len()
    }

    fn push(&mut self, time: u64, duration: u32, size: u32, keyframe: bool, offset: i32) {
        if self.sizes.is_empty() {
            self.first = time;
        } else {
            self.durations.push(u32::try_from(time.saturating_sub(self.last)).unwrap_or(u32::MAX));
        }
        (self.last, self.last_duration) = (time.max(self.last), duration);
        self.end = self.end.max(self.last.saturating_add_signed(i64::from(offset)).saturating_add(u64::from(duration)));
        self.sizes.push(size);
        self.offsets.push(offset);
        if keyframe {
            self.sync.push(self.sizes.len() as u32);
        }
    }

    /// What the tables hold, in bytes; room that vectors keep is not counted.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        4 * (self.sizes.len() + self.sync.len()) + 8 * (self.durations.0.len() + self.offsets.0.len() + self.chunks.len() + self.per_chunk.0.len())
    }
}

/// Adds the samples of the fragment whose moof is `moof` and stands at `at` in the file; false: it is none of ours.
/// `tables`: of track 1 and 2.
pub(super) fn absorb(tables: &mut [Table], tracks: &[TrackFormat], moof: &[u8], at: u64, length: u64) -> bool {
    absorbed(tables, tracks, moof, at, length).is_some()
}

fn absorbed(tables: &mut [Table], tracks: &[TrackFormat], moof: &[u8], at: u64, length: u64) -> Option<()> {
    for (kind, traf) in boxes(boxes(moof).find(|(kind, _)| *kind == b"moof")?.1) {
        if kind != b"traf" {
            continue;
        }
        let body = |wanted: &[u8; 4]| boxes(traf).find(|(kind, _)| *kind == wanted).map(|(_, body)| body);
        let id = u32_at(body(b"tfhd")?, 4)?;
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        let (table, kind) = (tables.get_mut(index)?, tracks.get(index)?.codec.kind());
        let mut time = u64::from_be_bytes(*body(b"tfdt")?.get(4..)?.first_chunk()?);
        let trun = body(b"trun")?;
        let (flags, count, offset) = (u32_at(trun, 0)? & 0xFF_FFFF, u32_at(trun, 4)?, u32_at(trun, 8)?);
        let is_moved = flags & TRUN_COMPOSITION != 0;
        let expected = TRUN_OFFSET | TRUN_DURATION | TRUN_SIZE | if kind == Kind::Video { TRUN_FLAGS } else { 0 };
        let entry_bytes: usize = 8 + if kind == Kind::Video { 4 } else { 0 } + if is_moved { 4 } else { 0 };
        let entries = trun.get(12..)?;
        if flags & !TRUN_COMPOSITION != expected || entries.len() != entry_bytes.checked_mul(usize::try_from(count).ok()?)? || count == 0 {
            return None;
        }
        let mut end = u64::from(offset);
        for entry in entries.chunks_exact(entry_bytes) {
            let (duration, size) = (u32_at(entry, 0)?, u32_at(entry, 4)?);
            let keyframe = kind == Kind::Audio || u32_at(entry, 8)? == SYNC;
            let moved = if is_moved { u32_at(entry, entry_bytes - 4)? as i32 } else { 0 };
            table.push(time, duration, size, keyframe, moved);
            time = time.checked_add(u64::from(duration))?;
            end += u64::from(size);
        }
        if end > length {
            return None;
        }
        table.chunks.push(at + u64::from(offset));
        table.per_chunk.push(count);
    }
    Some(())
}

/// The boxes of a body: type and body; damage ends them. Every turn takes at least eight bytes.
pub(super) fn boxes(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = usize::try_from(u32_at(rest, 0)?).ok()?;
        let kind = rest.get(4..)?.first_chunk()?;
        let body = rest.get(8..size)?;
        rest = rest.get(size..)?;
        Some((kind, body))
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

/// The moov of a closed file. Tracks without samples are left out.
pub(super) fn closing(tracks: &[TrackFormat], tables: Vec<Table>, started_unix_ms: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let filled: Vec<_> = tracks.iter().zip(tables.into_iter().map(Some)).filter(|(_, table)| table.as_ref().is_some_and(|table| table.samples() > 0)).collect();
    write_moov(&mut out, started_unix_ms, &filled);
    out
}

/// With a table: of a closed file. Without: what stands before the fragments.
fn write_moov(out: &mut Vec<u8>, started_unix_ms: u64, tracks: &[(&TrackFormat, Option<Table>)]) {
    let created = started_unix_ms / 1_000 + EPOCH_SECONDS;
    let movie = |table: &Table, kind: Kind| table.end.saturating_mul(MOVIE_SCALE / scale(kind));
    let duration = tracks.iter().filter_map(|(format, table)| Some(movie(table.as_ref()?, format.codec.kind()))).max().unwrap_or(0);
    let is_growing = tracks.iter().all(|(_, table)| table.is_none());
    boxed(out, b"moov", |out| {
        full(out, b"mvhd", 1, 0, |out| {
            put64(out, created);
            put64(out, created);
            put(out, MOVIE_SCALE as u32);
            put64(out, duration);
            put(out, 0x0001_0000);
            put16(out, 0x0100);
            out.extend([0; 10]);
            matrix(out);
            out.extend([0; 24]);
            put(out, tracks.len() as u32 + 1);
        });
        for (index, (format, table)) in tracks.iter().enumerate() {
            let kind = format.codec.kind();
            let id = index as u32 + 1;
            boxed(out, b"trak", |out| {
                // Enabled, in the movie.
                full(out, b"tkhd", 1, 3, |out| {
                    put64(out, created);
                    put64(out, created);
                    put(out, id);
                    put(out, 0);
                    put64(out, table.as_ref().map_or(0, |table| movie(table, kind)));
                    out.extend([0; 12]);
                    put16(out, if kind == Kind::Audio { 0x0100 } else { 0 });
                    put16(out, 0);
                    matrix(out);
                    put(out, format.width << 16);
                    put(out, format.height << 16);
                });
                if let Some(table) = table.as_ref().filter(|table| table.first > 0) {
                    edits(out, table, kind);
                }
                boxed(out, b"mdia", |out| {
                    full(out, b"mdhd", 1, 0, |out| {
                        put64(out, created);
                        put64(out, created);
                        put(out, scale(kind) as u32);
                        put64(out, table.as_ref().map_or(0, |table| table.end - table.first.min(table.end)));
                        // "und", in three times five bits.
                        put(out, 0x55C4_0000);
                    });
                    full(out, b"hdlr", 0, 0, |out| {
                        put(out, 0);
                        out.extend(if kind == Kind::Video { b"vide" } else { b"soun" });
                        out.extend([0; 12]);
                        out.extend(if kind == Kind::Video { b"Video\0" } else { b"Sound\0" });
                    });
                    boxed(out, b"minf", |out| {
                        match kind {
                            Kind::Video => full(out, b"vmhd", 0, 1, |out| out.extend([0; 8])),
                            Kind::Audio => full(out, b"smhd", 0, 0, |out| out.extend([0; 4])),
                        }
                        boxed(out, b"dinf", |out| {
                            full(out, b"dref", 0, 0, |out| {
                                put(out, 1);
                                full(out, b"url ", 0, 1, |_| {});
                            });
                        });
                        boxed(out, b"stbl", |out| {
                            full(out, b"stsd", 0, 0, |out| {
                                put(out, 1);
                                description(out, format);
                            });
                            samples(out, table.as_ref(), kind);
                        });
                    });
                });
            });
        }
        if is_growing {
            boxed(out, b"mvex", |out| {
                for (index, (format, _)) in tracks.iter().enumerate() {
                    full(out, b"trex", 0, 0, |out| {
                        let flags = if format.codec.kind() == Kind::Video { NOT_SYNC } else { SYNC };
                        for number in [index as u32 + 1, 1, 0, 0, flags] {
                            put(out, number);
                        }
                    });
                }
            });
        }
    });
}

fn matrix(out: &mut Vec<u8>) {
    for number in [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000] {
        put(out, number);
    }
}

/// A track that begins later than the recording: nothing until then, then all of it (section 8.6.6).
fn edits(out: &mut Vec<u8>, table: &Table, kind: Kind) {
    let unit = MOVIE_SCALE / scale(kind);
    boxed(out, b"edts", |out| {
        full(out, b"elst", 1, 0, |out| {
            put(out, 2);
            for (length, at) in [(table.first, -1_i64), (table.end - table.first.min(table.end), 0)] {
                put64(out, length.saturating_mul(unit));
                put64(out, at as u64);
                put(out, 0x0001_0000);
            }
        });
    });
}

fn description(out: &mut Vec<u8>, format: &TrackFormat) {
    // avc1 and hvc1 also where parameter sets stand in the samples: who knows only these players plays on, who reads the
    // samples finds the newer sets there.
    let (entry, configuration): (&[u8; 4], &[u8; 4]) = match format.codec {
        Codec::H264 => (b"avc1", b"avcC"),
        Codec::H265 => (b"hvc1", b"hvcC"),
        Codec::Av1 => (b"av01", b"av1C"),
        Codec::Vp9 => (b"vp09", b"vpcC"),
        Codec::Vp8 => (b"vp08", b"vpcC"),
        Codec::Opus => (b"Opus", b"dOps"),
    };
    boxed(out, entry, |out| {
        // Reserved, then the only data reference.
        out.extend([0, 0, 0, 0, 0, 0, 0, 1]);
        match format.codec.kind() {
            Kind::Video => {
                out.extend([0; 16]);
                put16(out, u16::try_from(format.width).unwrap_or(u16::MAX));
                put16(out, u16::try_from(format.height).unwrap_or(u16::MAX));
                put(out, 0x0048_0000);
                put(out, 0x0048_0000);
                put(out, 0);
                put16(out, 1);
                out.extend([0; 32]);
                put16(out, 24);
                put16(out, 0xFFFF);
            }
            Kind::Audio => {
                out.extend([0; 8]);
                put16(out, 2);
                put16(out, 16);
                put(out, 0);
                put(out, 48_000 << 16);
            }
        }
        boxed(out, configuration, |out| out.extend(&format.private));
    });
}

fn samples(out: &mut Vec<u8>, table: Option<&Table>, kind: Kind) {
    let Some(table) = table else {
        for kind in [b"stts", b"stsc", b"stco"] {
            full(out, kind, 0, 0, |out| put(out, 0));
        }
        full(out, b"stsz", 0, 0, |out| put64(out, 0));
        return;
    };
    full(out, b"stts", 0, 0, |out| {
        // The last one lasts as its fragment says.
        let last = (1, table.last_duration);
        put(out, table.durations.0.len() as u32 + 1);
        for (count, duration) in table.durations.0.iter().chain([&last]) {
            put(out, *count);
            put(out, *duration);
        }
    });
    if table.offsets.0.iter().any(|(_, offset)| *offset != 0) {
        full(out, b"ctts", 1, 0, |out| {
            put(out, table.offsets.0.len() as u32);
            for (count, offset) in &table.offsets.0 {
                put(out, *count);
                put(out, *offset as u32);
            }
        });
    }
    if kind == Kind::Video && table.sync.len() < table.sizes.len() {
        full(out, b"stss", 0, 0, |out| {
            put(out, table.sync.len() as u32);
            table.sync.iter().for_each(|number| put(out, *number));
        });
    }
    full(out, b"stsc", 0, 0, |out| {
        put(out, table.per_chunk.0.len() as u32);
        let mut first = 1;
        for (count, samples) in &table.per_chunk.0 {
            put(out, first);
            put(out, *samples);
            put(out, 1);
            first += count;
        }
    });
    full(out, b"stsz", 0, 0, |out| {
        put(out, 0);
        put(out, table.sizes.len() as u32);
        table.sizes.iter().for_each(|size| put(out, *size));
    });
    full(out, b"co64", 0, 0, |out| {
        put(out, table.chunks.len() as u32);
        table.chunks.iter().for_each(|at| put64(out, *at));
    });
}
