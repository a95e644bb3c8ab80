//! Reads a recording back after any end - a stop, a kill, a power loss - and closes it: where the last whole fragment
//! ends, what a run that goes on must know, and what makes a plain file with an index of it.
//!
//! The file is input like any other: nothing in it makes this panic, or take more memory than `limits.rs` allows.
//! Reading is the caller's (`Bytes`), and so is what is to be written:
//!
//! 1. cut the file at `whole_length`; go on (`muxer`), or close:
//! 2. append `Closing::append` at `Closing::at`, make it durable,
//! 3. write each of `Closing::then`, in order, each durable before the next. The last one makes the file final; killed
//!    before it, one begins again at 1 and comes to the same end.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use super::container::{Container, Muxer, State};
use super::mark::{Digest, HEAD_BYTES_MAX, Head, MARK_BYTES, Mark};
use super::sample::TrackFormat;
use super::{fmp4, webm};
use crate::limits::{DAMAGES_MAX, FILE_SAMPLES_MAX, FRAGMENT_OVERHEAD_BYTES_MAX, TAIL_BYTES};

/// The caller's file.
pub trait Bytes {
    type Error;
    fn length(&mut self) -> Result<u64, Self::Error>;
    /// How many bytes there were; 0 at the end.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<usize, Self::Error>;
}

/// A file in memory.
impl Bytes for &[u8] {
    type Error = std::convert::Infallible;
    fn length(&mut self) -> Result<u64, Self::Error> {
        Ok(self.len() as u64)
    }
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<usize, Self::Error> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        if let (Some(to), Some(from)) = (into.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        Ok(count)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InspectError<E> {
    #[error("the file cannot be read ({0}); look at the disk, then start again")]
    Read(E),
    #[error("the file does not begin as a recording does; nothing of it can be shown, so delete it or copy it elsewhere")]
    NotOurs,
    #[error("the file has more frames than one file may have; play or copy it as it is: ffmpeg -i FILE -c copy NEW.mp4")]
    TooLong,
}

/// What is in a recording's file.
#[derive(Clone, Debug)]
pub struct Contents {
    pub container: Container,
    /// It is closed; nothing is to be done.
    pub is_final: bool,
    /// Up to here everything is whole; what is behind it (a fragment half written, a half index) is to be cut off.
    pub whole_length: u64,
    pub tracks: Vec<TrackFormat>,
    pub started_unix_ms: u64,
    pub end_ns: u64,
    pub fragments: u32,
    pub video_frames: u64,
    /// With the silence that fills holes.
    pub audio_frames: u64,
    /// Fragments inside that are not what was written: left out when the file is closed.
    pub damaged: u32,
    state: State,
    /// Only of files that were read as a whole and are not closed.
    index: Option<Index>,
}

#[derive(Clone, Debug, Default)]
struct Index {
    /// MP4: per track.
    tables: Vec<fmp4::Table>,
    /// WebM.
    cues: Vec<webm::Cue>,
    /// WebM: damaged Clusters become a Void. (Where, how long.)
    voids: Vec<(u64, u64)>,
    header_bytes: u32,
}

/// What closes a file; see above.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Closing {
    /// The file is cut here first.
    pub at: u64,
    pub append: Vec<u8>,
    pub then: Vec<(u64, Vec<u8>)>,
}

/// Reads the whole file and holds each fragment to its digest: before it is closed, and of a closed one to count what plays.
pub fn inspect<B: Bytes>(file: &mut B) -> Result<Contents, InspectError<B::Error>> {
    Inspector { file }.run(true, 0)
}

/// Reads the marks and holds the last `TAIL_BYTES` to their digests: before a run goes on, which a gap is waiting for.
/// Such contents close nothing.
pub fn inspect_tail<B: Bytes>(file: &mut B) -> Result<Contents, InspectError<B::Error>> {
    let length = file.length().map_err(InspectError::Read)?;
    Inspector { file }.run(false, length.saturating_sub(TAIL_BYTES))
}

impl Contents {
    /// Goes on with the file, once it is cut at `whole_length`. None: it is closed.
    pub fn muxer(&self) -> Option<Muxer> {
        let resumed = || Muxer::resumed(self.container, self.tracks.clone(), self.started_unix_ms, self.state);
        (!self.is_final).then(resumed)
    }

    /// None: the file is closed, or nothing is in it, or only its tail was read.
    pub fn closing(self) -> Option<Closing> {
        let at = self.whole_length;
        let index = self.index.filter(|_| self.fragments > 0)?;
        Some(match self.container {
            Container::Mp4 => {
                let append = fmp4::closing(&self.tracks, index.tables, self.started_unix_ms);
                Closing { at, append, then: vec![fmp4::final_place(at)] }
            }
            Container::WebM => {
                let (append, first) = webm::closing(&self.tracks, &index.cues, self.started_unix_ms, index.header_bytes, self.end_ns, at);
                let blank = |(at, bytes): (u64, u64)| {
                    let mut void = Vec::new();
                    webm::void(&mut void, bytes);
                    (at, void)
                };
                let then = index.voids.into_iter().map(blank).chain([(0, first)]).collect();
                Closing { at, append, then }
            }
        })
    }
}

struct Inspector<'a, B> {
    file: &'a mut B,
}

impl<B: Bytes> Inspector<'_, B> {
    /// As much as there is.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<usize, InspectError<B::Error>> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let room = rest.len();
            let count = self.file.read_at(offset.saturating_add(filled as u64), rest).map_err(InspectError::Read)?;
            if count == 0 {
                break;
            }
            filled += count.min(room);
        }
        Ok(filled)
    }

    fn array<const N: usize>(&mut self, offset: u64) -> Result<Option<[u8; N]>, InspectError<B::Error>> {
        let mut bytes = [0; N];
        Ok((self.read(offset, &mut bytes)? == N).then_some(bytes))
    }

    /// `verified_from`: fragments that end behind it are held to their digests.
    fn run(mut self, has_index: bool, verified_from: u64) -> Result<Contents, InspectError<B::Error>> {
        let length = self.file.length().map_err(InspectError::Read)?;
        let mut first = vec![0; fmp4::HEAD_AT.max(webm::HEAD_AT) + HEAD_BYTES_MAX];
        let count = self.read(0, &mut first)?;
        first.truncate(count);
        let at = match first.as_slice() {
            [_, _, _, _, b'f', b't', b'y', b'p', ..] => fmp4::HEAD_AT,
            [0x1A, 0x45, 0xDF, 0xA3, ..] => webm::HEAD_AT,
            _ => return Err(InspectError::NotOurs),
        };
        let head = first.get(at..).and_then(Head::parse).filter(|head| u64::from(head.header_bytes) <= length);
        let head = head.filter(|head| (head.container == Container::Mp4) == (at == fmp4::HEAD_AT)).ok_or(InspectError::NotOurs)?;
        let end = match head.container {
            Container::Mp4 => self.closed_mp4(&first, length)?,
            Container::WebM => closed_webm(&first, length),
        };
        let mut contents = Contents {
            container: head.container,
            is_final: end.is_some(),
            whole_length: u64::from(head.header_bytes),
            tracks: head.tracks,
            started_unix_ms: head.started_unix_ms,
            end_ns: 0,
            fragments: 0,
            video_frames: 0,
            audio_frames: 0,
            damaged: 0,
            state: State::default(),
            index: None,
        };
        if has_index && end.is_none() {
            let tables = contents.tracks.iter().map(|_| fmp4::Table::default()).collect();
            contents.index = Some(Index { tables, header_bytes: head.header_bytes, ..Index::default() });
        }
        self.walk(&mut contents, end.unwrap_or(length), verified_from)?;
        if end.is_some() {
            contents.whole_length = length;
        }
        Ok(contents)
    }

    /// Where the moov of a closed file stands. One that was cut behind its closing is not closed any more.
    fn closed_mp4(&mut self, first: &[u8], length: u64) -> Result<Option<u64>, InspectError<B::Error>> {
        let place = first.get(fmp4::FTYP_BYTES..).and_then(|place| place.first_chunk::<{ fmp4::PLACE_BYTES }>());
        let Some([0, 0, 0, 1, b'm', b'd', b'a', b't', size @ ..]) = place else { return Ok(None) };
        let Some(moov_at) = u64::from_be_bytes(*size).checked_add(fmp4::FTYP_BYTES as u64) else { return Ok(None) };
        let Some(bytes) = self.array::<8>(moov_at)? else { return Ok(None) };
        let [size @ .., b'm', b'o', b'o', b'v'] = bytes else { return Ok(None) };
        let is_end = moov_at.checked_add(u64::from(u32::from_be_bytes(size))) == Some(length);
        Ok(is_end.then_some(moov_at))
    }

    /// From mark to mark, as long as they are whole.
    fn walk(&mut self, contents: &mut Contents, end: u64, verified_from: u64) -> Result<(), InspectError<B::Error>> {
        let mut at = contents.whole_length;
        let mut sequence = 0;
        // Damaged fragments with no whole one behind them yet.
        let mut pending = Vec::new();
        loop {
            let Some(mark) = self.mark(contents.container, at)?.filter(|mark| mark.sequence == sequence + 1) else { break };
            let begin = at + mark_bytes(contents.container);
            let Some(next) = begin.checked_add(mark.length).filter(|next| *next <= end) else { break };
            sequence = mark.sequence;
            at = next;
            if next > verified_from && self.digest(begin, mark.length)? != Some(mark.digest) {
                pending.push((begin, mark.length));
                if pending.len() + contents.damaged as usize > DAMAGES_MAX {
                    break;
                }
                continue;
            }
            self.take(contents, &mark, begin)?;
            contents.damaged += pending.len() as u32;
            if let Some(index) = contents.index.as_mut().filter(|_| contents.container == Container::WebM) {
                index.voids.append(&mut pending);
            }
            pending.clear();
            contents.whole_length = next;
        }
        Ok(())
    }

    fn mark(&mut self, container: Container, at: u64) -> Result<Option<Mark>, InspectError<B::Error>> {
        let mut bytes = Vec::with_capacity(mark_bytes(container) as usize);
        match container {
            Container::Mp4 => fmp4::mark(&Mark::default(), &mut bytes),
            Container::WebM => webm::mark(&Mark::default(), &mut bytes),
        }
        // The frame around a mark is always the same.
        let expected = bytes.clone();
        if self.read(at, &mut bytes)? < bytes.len() {
            return Ok(None);
        }
        let frame = bytes.len() - MARK_BYTES;
        let is_framed = bytes.get(..frame) == expected.get(..frame);
        Ok(bytes.last_chunk().filter(|_| is_framed).and_then(Mark::parse))
    }

    fn digest(&mut self, at: u64, length: u64) -> Result<Option<[u8; 16]>, InspectError<B::Error>> {
        const PART: u64 = 256 * 1_024;
        let mut part = vec![0; length.min(PART) as usize];
        let mut digest = Digest::new();
        let mut done = 0;
        while done < length {
            let wanted = (length - done).min(PART) as usize;
            let Some(into) = part.get_mut(..wanted) else { return Ok(None) };
            if self.read(at + done, into)? < wanted {
                return Ok(None);
            }
            digest.update(into);
            done += wanted as u64;
        }
        Ok(Some(digest.finish()))
    }

    /// Adds a whole fragment.
    fn take(&mut self, contents: &mut Contents, mark: &Mark, begin: u64) -> Result<(), InspectError<B::Error>> {
        contents.fragments += 1;
        contents.end_ns = contents.end_ns.max(mark.until_ns);
        contents.video_frames += u64::from(mark.video_frames);
        contents.audio_frames += u64::from(mark.audio_frames);
        contents.state = State {
            sequence: mark.sequence,
            sound_ns: mark.sound_ns,
            video_floor: mark.video_floor,
            audio_next: mark.audio_next,
            samples: contents.video_frames + contents.audio_frames,
        };
        let Some(index) = &mut contents.index else { return Ok(()) };
        match contents.container {
            Container::Mp4 => {
                let size = self.array::<4>(begin)?.map_or(0, u32::from_be_bytes);
                if size as usize > FRAGMENT_OVERHEAD_BYTES_MAX || u64::from(size) > mark.length {
                    return Err(InspectError::NotOurs);
                }
                let mut moof = vec![0; size as usize];
                self.read(begin, &mut moof)?;
                if !fmp4::absorb(&mut index.tables, &contents.tracks, &moof, begin, mark.length) {
                    return Err(InspectError::NotOurs);
                }
                if index.tables.iter().map(fmp4::Table::samples).sum::<usize>() > FILE_SAMPLES_MAX {
                    return Err(InspectError::TooLong);
                }
            }
            Container::WebM => {
                // Sound alone: players can begin anywhere.
                let is_sound = contents.video_frames == 0;
                let time_ns = if is_sound { mark.start_ns } else { mark.key_ns };
                if time_ns != u64::MAX {
                    index.cues.push(webm::Cue { time_ns, at: begin });
                }
                if index.cues.len() > FILE_SAMPLES_MAX {
                    return Err(InspectError::TooLong);
                }
            }
        }
        Ok(())
    }
}

fn mark_bytes(container: Container) -> u64 {
    match container {
        Container::Mp4 => fmp4::MARK_BOX_BYTES as u64,
        Container::WebM => webm::MARK_VOID_BYTES as u64,
    }
}

/// A Segment whose size is that of the file.
fn closed_webm(first: &[u8], length: u64) -> Option<u64> {
    let size = first.get(webm::SEGMENT_AT - 8..)?.first_chunk().copied().map(u64::from_be_bytes)?;
    (size == 1 << 56 | length.checked_sub(webm::SEGMENT_AT as u64)?).then_some(length)
}

#[cfg(test)]
mod tests;
