//! What a recording says of itself, so that it can be read back after any end: a *head* behind the file's first
//! bytes (which tracks, since when), and a *mark* before each fragment (how long, which times, is it whole).
//!
//! Both stand where players look over them, in a `uuid` box (MP4) or a Void element (WebM). Numbers are little endian.
//!
//! ```text
//! head: magic 16 | version u8 | container u8 | tracks u8 | 0 | header bytes u32 | started unix ms u64 |
//!       per track: codec u8 | 0 | private bytes u16 | width u32 | height u32 | private     | digest 8
//! mark: magic 16 | sequence u32 | 0 u32 | bytes behind it u64 | start ns | until ns | gap ns | key ns | sound ns |
//!       video floor u64 | audio next u64 | video frames u32 | audio frames u32 | digest of the bytes 16 | digest 8
//! ```
//! A digest is the beginning of a SHA-256: a machine that lost its power leaves pages of zeros where frames were.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::container::Container;
use super::sample::TrackFormat;
use crate::id::Codec;
use crate::limits::{CODEC_PRIVATE_BYTES_MAX, FRAGMENT_BYTES_MAX, FRAGMENT_OVERHEAD_BYTES_MAX, SAMPLE_NS_MAX};
use aws_lc_rs::digest;

/// Chosen by chance once (RFC 9562 version 4); as a `uuid` box they are its type.
pub const HEAD_MAGIC: [u8; 16] = [0x5B, 0x0E, 0x7A, 0xC4, 0x1D, 0x93, 0x4F, 0x62, 0x9A, 0x57, 0xE1, 0x2C, 0x08, 0xB6, 0x3D, 0x71];
pub const MARK_MAGIC: [u8; 16] = [0xC2, 0x41, 0x9F, 0x16, 0x6E, 0xD8, 0x4B, 0x05, 0xB3, 0x7E, 0x24, 0xAD, 0x90, 0x5C, 0xF7, 0x38];
pub const MARK_BYTES: usize = 120;
const VERSION: u8 = 1;
/// A head with two tracks of the longest configuration.
pub const HEAD_BYTES_MAX: usize = 16 + 16 + 2 * (12 + CODEC_PRIVATE_BYTES_MAX) + DIGEST_SHORT;
const DIGEST: usize = 16;
const DIGEST_SHORT: usize = 8;

/// SHA-256 of bytes that come in parts.
pub struct Digest(digest::Context);

impl Digest {
    pub fn new() -> Digest {
        Digest(digest::Context::new(&digest::SHA256))
    }
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    pub fn finish(self) -> [u8; DIGEST] {
        first(self.0.finish().as_ref())
    }
}

fn short(bytes: &[u8]) -> [u8; DIGEST_SHORT] {
    first(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

/// Takes numbers off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }
    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    pub container: Container,
    /// Of the whole file header: the first mark stands there.
    pub header_bytes: u32,
    pub started_unix_ms: u64,
    /// At most one of each kind.
    pub tracks: Vec<TrackFormat>,
}

impl Head {
    pub fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend(HEAD_MAGIC);
        out.extend([VERSION, if self.container == Container::Mp4 { 1 } else { 2 }, self.tracks.len() as u8, 0]);
        out.extend(self.header_bytes.to_le_bytes());
        out.extend(self.started_unix_ms.to_le_bytes());
        for track in &self.tracks {
            out.extend([track.codec as u8, 0]);
            out.extend((track.private.len() as u16).to_le_bytes());
            out.extend(track.width.to_le_bytes());
            out.extend(track.height.to_le_bytes());
            out.extend(&track.private);
        }
        let digest = short(out.get(at..).unwrap_or_default());
        out.extend(digest);
    }

    /// `bytes` begin with its magic; what stands behind it is left alone.
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let mut reader = Reader(bytes);
        if reader.array()? != HEAD_MAGIC || reader.u8()? != VERSION {
            return None;
        }
        let container = match reader.u8()? {
            1 => Container::Mp4,
            2 => Container::WebM,
            _ => return None,
        };
        let [count, 0] = reader.array()? else { return None };
        let (header_bytes, started_unix_ms) = (reader.u32()?, reader.u64()?);
        let mut tracks: Vec<TrackFormat> = Vec::new();
        for _ in 0..count {
            let codec = Codec::from_u8(reader.u8()?)?;
            reader.u8()?;
            let (length, width, height) = (usize::from(reader.u16()?), reader.u32()?, reader.u32()?);
            let (private, rest) = reader.0.split_at_checked(length).filter(|_| length <= CODEC_PRIVATE_BYTES_MAX)?;
            reader.0 = rest;
            if tracks.iter().any(|track| track.codec.kind() == codec.kind()) {
                return None;
            }
            tracks.push(TrackFormat { codec, width, height, private: private.to_vec() });
        }
        let written = bytes.get(..bytes.len() - reader.0.len())?;
        (reader.array()? == short(written)).then_some(Head { container, header_bytes, started_unix_ms, tracks })
    }
}

/// What stands before a fragment. Times are nanoseconds since the recording's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// From 1.
    pub sequence: u32,
    /// Of the fragment behind it.
    pub length: u64,
    /// Its first frame of either kind.
    pub start_ns: u64,
    /// Where the next one begins.
    pub until_ns: u64,
    /// Time without media before it; 0: none.
    pub gap_ns: u64,
    /// Its first picture, if a viewer can begin there; else `u64::MAX`.
    pub key_ns: u64,
    /// Where the sound ends when it is played without a stop; 0: there was none.
    pub sound_ns: u64,
    /// The earliest decode time of the next picture, in the container's units.
    pub video_floor: u64,
    /// Where the next frame of sound belongs, in the container's units; 0: none came.
    pub audio_next: u64,
    pub video_frames: u32,
    pub audio_frames: u32,
    pub digest: [u8; DIGEST],
}

impl Mark {
    pub fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend(MARK_MAGIC);
        out.extend(u64::from(self.sequence).to_le_bytes());
        let times = [self.length, self.start_ns, self.until_ns, self.gap_ns, self.key_ns, self.sound_ns, self.video_floor, self.audio_next];
        times.iter().for_each(|number| out.extend(number.to_le_bytes()));
        out.extend(self.video_frames.to_le_bytes());
        out.extend(self.audio_frames.to_le_bytes());
        out.extend(self.digest);
        let digest = short(out.get(at..).unwrap_or_default());
        out.extend(digest);
    }

    pub fn parse(bytes: &[u8; MARK_BYTES]) -> Option<Mark> {
        let mut reader = Reader(bytes);
        if reader.array()? != MARK_MAGIC {
            return None;
        }
        let mark = Mark {
            sequence: u32::try_from(reader.u64()?).ok()?,
            length: reader.u64()?,
            start_ns: reader.u64()?,
            until_ns: reader.u64()?,
            gap_ns: reader.u64()?,
            key_ns: reader.u64()?,
            sound_ns: reader.u64()?,
            video_floor: reader.u64()?,
            audio_next: reader.u64()?,
            video_frames: reader.u32()?,
            audio_frames: reader.u32()?,
            digest: reader.array()?,
        };
        let (written, _) = bytes.split_at_checked(MARK_BYTES - DIGEST_SHORT)?;
        let is_whole = reader.array()? == short(written);
        // What is added to them still fits.
        let numbers = [mark.start_ns, mark.until_ns, mark.sound_ns, mark.video_floor, mark.audio_next];
        let is_sane = numbers.iter().all(|number| *number <= 2 * SAMPLE_NS_MAX);
        (is_whole && is_sane && mark.length <= (FRAGMENT_BYTES_MAX + FRAGMENT_OVERHEAD_BYTES_MAX) as u64).then_some(mark)
    }
}
