//! From pieces to files and the journal, on a thread of its own: the disk may be slow, full or broken, and the
//! recorder goes on reading.
//!
//! The queue is bounded in bytes and pieces; what is too much is dropped oldest first, and a gap says so. A piece that
//! cannot be written is tried again: the file is cut back to its last whole fragment first, so that it can be played to
//! there whatever happens. Each piece is durable before the next one is written (`fragment`). A file that may not grow any
//! more (`ulimit -f`, the file system's bound) is left as it is, and the recording goes on in the next one; if that does not
//! take a piece either, the recording is over.

use super::journal::{Event, FILE_LIMIT, GapReason, Journal};
use spillway_proto::id::Kind;
use spillway_proto::limits::{RECORDER_QUEUE_BYTES_MAX, RECORDER_QUEUE_PIECES_MAX, RECORDING_FILES_MAX};
use spillway_proto::link::tap::Fsync;
use spillway_proto::mux::codec_config::track_format;
use spillway_proto::mux::container::{Container, Muxer};
use spillway_proto::mux::recording::{Note, Piece, Reason};
use spillway_proto::mux::sample::{Sample, TrackFormat};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two attempts with a disk that takes nothing.
const RETRY: Duration = Duration::from_secs(1);
/// A stopped recorder tries so long to write what it has.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Notes waiting for the journal; more are one too many.
const NOTES_MAX: usize = 1_024;

/// Where the bytes go: the one file that is being written.
pub trait Disk: Send + 'static {
    /// Makes a new file, empty, in place of the one before.
    fn create(&mut self, name: &str) -> io::Result<()>;
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// Makes the file durable; `name_too`: also that it is there.
    fn sync(&mut self, name_too: bool) -> io::Result<()>;
}

/// The file that is gone on with.
pub struct Current {
    pub name: String,
    pub muxer: Muxer,
    pub length: u64,
    /// Since the recording's start.
    pub start_ns: u64,
}

pub struct Settings {
    pub fsync: Fsync,
    /// Files there are already.
    pub files: u32,
    /// The journal has its first line.
    pub has_started: bool,
    /// Where an earlier run ended.
    pub end_ns: Option<u64>,
    /// Unix time less this machine's clock.
    pub unix_offset_ns: i64,
}

enum Item {
    Piece(Piece),
    Note(Note),
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    pieces: usize,
    bytes: usize,
    /// Of a file whose first piece was dropped.
    begins: Option<Vec<TrackFormat>>,
    /// Pieces were dropped before the next one.
    has_lost: bool,
    dropped: u64,
    closing: Option<Instant>,
}

type Shared = Arc<(Mutex<Queue>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Queue> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The recorder's end of the queue.
pub struct Writer {
    shared: Shared,
    thread: JoinHandle<()>,
}

fn piece_bytes(piece: &Piece) -> usize {
    piece.samples.iter().map(|sample| sample.data.len() + size_of::<Sample>()).sum::<usize>() + 1_024
}

impl Writer {
    pub fn start<D: Disk>(disk: D, journal: Journal, current: Option<Current>, settings: Settings) -> io::Result<Writer> {
        let shared = Shared::default();
        let theirs = Arc::clone(&shared);
        let written_ns = settings.end_ns;
        let work = Work { disk, journal, current, pending: None, settings, written_ns, skips: false, failing: None, has_ended: false };
        let thread = std::thread::Builder::new().name("writer".into()).spawn(move || work.run(&theirs))?;
        Ok(Writer { shared, thread })
    }

    pub fn push(&self, piece: Piece) {
        let mut queue = lock(&self.shared);
        queue.bytes += piece_bytes(&piece);
        queue.pieces += 1;
        queue.items.push_back(Item::Piece(piece));
        while queue.bytes > RECORDER_QUEUE_BYTES_MAX || queue.pieces > RECORDER_QUEUE_PIECES_MAX {
            let Some(oldest) = queue.items.iter().position(|item| matches!(item, Item::Piece(_))) else { break };
            let Some(Item::Piece(piece)) = queue.items.remove(oldest) else { break };
            queue.bytes -= piece_bytes(&piece);
            queue.pieces -= 1;
            queue.dropped += 1;
            queue.has_lost = true;
            queue.begins = piece.begins.or(queue.begins.take());
        }
        self.shared.1.notify_one();
    }

    pub fn note(&self, note: Note) {
        let mut queue = lock(&self.shared);
        if queue.items.len() < NOTES_MAX {
            queue.items.push_back(Item::Note(note));
            self.shared.1.notify_one();
        }
    }

    /// Pieces the disk was too slow for.
    pub fn dropped(&self) -> u64 {
        lock(&self.shared).dropped
    }

    /// Writes what is there, if the disk takes it in time.
    pub fn close(self) {
        lock(&self.shared).closing = Some(Instant::now() + CLOSE_WAIT);
        self.shared.1.notify_one();
        // A write that never returns keeps the thread; the process ends all the same.
        let end = Instant::now() + CLOSE_WAIT + RETRY;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Work<D> {
    disk: D,
    journal: Journal,
    current: Option<Current>,
    /// A file that was made and has nothing whole yet.
    pending: Option<String>,
    settings: Settings,
    /// Since the recording's start: what is written.
    written_ns: Option<u64>,
    /// Pictures were lost: the next one is a keyframe.
    skips: bool,
    /// What the disk answered last, while it takes nothing.
    failing: Option<&'static str>,
    /// No file takes anything any more.
    has_ended: bool,
}

impl<D: Disk> Work<D> {
    fn run(mut self, shared: &Shared) {
        loop {
            let mut queue = lock(shared);
            let item = loop {
                if let Some(item) = queue.items.pop_front() {
                    break item;
                }
                if queue.closing.is_some() {
                    drop(queue);
                    return self.finish();
                }
                queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
            };
            match item {
                Item::Note(note) => {
                    drop(queue);
                    self.tell(note);
                }
                Item::Piece(mut piece) => {
                    queue.bytes -= piece_bytes(&piece);
                    queue.pieces -= 1;
                    let has_lost = std::mem::take(&mut queue.has_lost);
                    piece.begins = piece.begins.or(queue.begins.take());
                    drop(queue);
                    self.skips |= has_lost;
                    self.write_or_wait(piece, shared);
                }
            }
        }
    }

    fn finish(&mut self) {
        if self.settings.fsync == Fsync::Segment {
            // What cannot be made durable now is looked at by whoever finishes the file.
            let _ = self.disk.sync(true);
        }
    }

    fn write_or_wait(&mut self, mut piece: Piece, shared: &Shared) {
        while !self.has_ended && self.begin_at_keyframe(&mut piece, shared) {
            let lost = self.lost_before(&piece);
            match self.write(&piece, lost) {
                Ok(()) => {
                    self.failing = None;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                    if piece.begins.is_some() {
                        return self.give_up(&error);
                    }
                    self.begin_next(&mut piece);
                    continue;
                }
                Err(error) => self.fail(&error),
            }
            let mut queue = lock(shared);
            if queue.has_lost {
                // It was the oldest: who waits behind it pushes it out.
                queue.begins = queue.begins.take().or(piece.begins);
                queue.dropped += 1;
                return;
            }
            if queue.closing.is_some_and(|end| Instant::now() >= end) {
                return;
            }
            let wait = if queue.closing.is_some() { RETRY / 5 } else { RETRY };
            drop(queue);
            std::thread::sleep(wait);
        }
    }

    /// After a loss, pictures are left out up to the next keyframe. False: there is nothing in the piece to be written.
    fn begin_at_keyframe(&mut self, piece: &mut Piece, shared: &Shared) -> bool {
        if self.skips {
            // Of the pictures only what begins with a keyframe can be shown.
            let mut skips = true;
            piece.samples.retain(|sample| {
                skips &= !(sample.kind == Kind::Video && sample.keyframe);
                sample.kind == Kind::Audio || !skips
            });
            let has_pictures = self.current.as_ref().is_none_or(|current| has_video(current.muxer.tracks()));
            self.skips = skips && has_pictures;
            if piece.begins.as_ref().is_some_and(|formats| has_video(formats)) && skips {
                // The file's first picture must be one: with the next piece, then.
                let mut queue = lock(shared);
                queue.begins = queue.begins.take().or(piece.begins.take());
                queue.has_lost = true;
                return false;
            }
        }
        !piece.samples.is_empty()
    }

    /// The file takes no more: the piece begins the next one, of the same tracks, at a keyframe.
    fn begin_next(&mut self, piece: &mut Piece) {
        let Some(current) = &self.current else { return };
        let format = |known: &TrackFormat| {
            let first = piece.samples.iter().find(|sample| sample.kind == known.codec.kind() && sample.keyframe);
            // The picture's size may have changed since.
            first.and_then(|sample| track_format(known.codec, &sample.data)).unwrap_or_else(|| known.clone())
        };
        let formats: Vec<TrackFormat> = current.muxer.tracks().iter().map(format).collect();
        let first = piece.samples.iter().find(|sample| sample.kind == Kind::Video);
        if has_video(&formats) && !first.is_some_and(|sample| sample.keyframe) {
            self.skips = true;
            self.log(Event::WantKeyframe);
        }
        piece.begins = Some(formats);
    }

    fn give_up(&mut self, error: &io::Error) {
        self.has_ended = true;
        let detail = format!(
            "{error}: not even a new file takes a second of it (ulimit -f, or the file system's bound); the recording ends, what \
             was written is kept"
        );
        self.log(Event::Failed { code: FILE_LIMIT.into(), detail });
    }

    /// Time between what is written and the piece, that only this side knows of.
    fn lost_before(&self, piece: &Piece) -> Option<u64> {
        let start = piece.samples.iter().map(|sample| sample.time_ns).min()?;
        let written = self.written_ns?;
        let missing = start.saturating_sub(written);
        (missing >= 100_000_000 && missing > piece.gap_ns.unwrap_or(0) + 100_000_000).then_some(missing)
    }

    fn write(&mut self, piece: &Piece, lost: Option<u64>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let begins = piece.begins.as_ref();
        let (mut muxer, start_ns, offset) = match (begins, &self.current) {
            (None, Some(current)) => (current.muxer.clone(), current.start_ns, current.length),
            (Some(formats), _) => {
                let video = formats.iter().find(|format| format.codec.kind() == Kind::Video).map(|format| format.codec);
                let container = Container::for_codecs(video);
                let started_ns = piece.start_at_ns.saturating_add(self.settings.unix_offset_ns);
                let muxer = Muxer::new(container, formats, u64::try_from(started_ns / 1_000_000).unwrap_or(0));
                muxer.header(&mut bytes);
                self.create(container)?;
                (muxer, piece.start_ns, 0)
            }
            // Nothing says what the pieces are of: they can be of no use.
            (None, None) => return Ok(()),
        };
        let samples: Vec<Sample> = piece
            .samples
            .iter()
            .map(|sample| Sample { time_ns: sample.time_ns.saturating_sub(start_ns), ..sample.clone() })
            .collect();
        let until_ns = piece.until_ns.saturating_sub(start_ns);
        muxer.fragment(&samples, until_ns, lost.or(piece.gap_ns), &mut bytes);
        let is_first = offset == 0;
        let written = self.disk.write_at(offset, &bytes).and_then(|()| match self.settings.fsync {
            Fsync::Fragment => self.disk.sync(is_first),
            Fsync::Segment if is_first => self.disk.sync(true),
            _ => Ok(()),
        });
        if let Err(error) = written {
            // To the end of what is whole. If that fails too, the next run or the end finds it.
            let _ = self.disk.cut(offset);
            return Err(error);
        }
        let length = offset + bytes.len() as u64;
        let name = self.pending.take().or(self.current.take().map(|current| current.name)).unwrap_or_default();
        let codecs = || muxer.tracks().iter().map(|track| track.codec.sdp_name().to_owned()).collect();
        if is_first {
            let (file, codecs) = (name.clone(), codecs());
            let has_started = std::mem::replace(&mut self.settings.has_started, true);
            self.log(if has_started { Event::File { file, codecs } } else { Event::Started { codecs, file } });
        }
        self.current = Some(Current { name, muxer, length, start_ns });
        self.written_ns = Some(piece.until_ns);
        if let Some(length_ns) = lost {
            let at_ns = piece.start_ns.saturating_sub(length_ns);
            self.gap(at_ns, length_ns, GapReason::DiskFull);
        }
        Ok(())
    }

    /// A file of the next number; one that was made for this piece before is taken again.
    fn create(&mut self, container: Container) -> io::Result<()> {
        let extension = container.extension();
        if self.pending.as_ref().is_some_and(|name| name.ends_with(extension)) {
            return Ok(());
        }
        if self.settings.fsync == Fsync::Segment && self.current.is_some() {
            self.disk.sync(false)?;
        }
        if self.settings.files >= RECORDING_FILES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the recording has as many files as it may have"));
        }
        let name = file_name(self.settings.files + 1, extension);
        self.disk.create(&name)?;
        self.settings.files += 1;
        self.pending = Some(name);
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        let code = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "disk_full",
            _ => "disk_error",
        };
        if self.failing.replace(code) != Some(code) {
            let detail = format!("{error}; the recording goes on when the disk takes it again, with a gap if that lasts");
            self.log(Event::Failed { code: code.into(), detail });
        }
    }

    fn tell(&mut self, note: Note) {
        match note {
            Note::WantKeyframe => self.log(Event::WantKeyframe),
            Note::Warning { code, detail } => self.log(Event::Warning { code: code.into(), detail }),
            Note::Gap { at_ns, length_ns, reason } => {
                let reason = match reason {
                    Reason::PublisherAway => GapReason::PublisherAway,
                    Reason::Loss => GapReason::Loss,
                    Reason::Behind => GapReason::Behind,
                    Reason::Restart => GapReason::Restart,
                };
                self.gap(at_ns, length_ns, reason);
            }
        }
    }

    fn gap(&mut self, at_ns: u64, length_ns: u64, reason: GapReason) {
        let file = self.current.as_ref().map_or_else(String::new, |current| current.name.clone());
        self.log(Event::Gap { file, at_ms: at_ns / 1_000_000, length_ms: length_ns / 1_000_000, reason });
    }

    fn log(&mut self, event: Event) {
        // A disk that is full takes what fits the room that was reserved for the journal; beyond it nothing can be said.
        let _ = self.journal.write(unix_ms(), event);
    }
}

fn has_video(formats: &[TrackFormat]) -> bool {
    formats.iter().any(|format| format.codec.kind() == Kind::Video)
}

pub fn file_name(number: u32, extension: &str) -> String {
    format!("{number:04}.{extension}")
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests;
