//! `spillway adapter recorder record`: one stream's packets into one recording's files, until it is told to stop.
//!
//! Started by the supervisor with a reel that can be read and a directory that can be written, and nothing else. It can
//! be killed at any byte: the next run cuts off what is not whole, and goes on in the same file with the timeline kept.

use super::directory::{Directory, FileBytes, FileDisk, head_of, number_of};
use super::finish::finish;
use super::journal::{Event, Line};
use super::sys::{self, ReelFile};
use super::tap::Tap;
use super::writer::{Current, Settings, Writer, unix_ms};
use crate::logging;
use crate::shm::{inherit, monotonic_now};
use spillway_proto::id::Kind;
use spillway_proto::link::tap::{TAP_VARIABLE, Tap as Handover};
use spillway_proto::mux::finish::{InspectError, inspect_tail};
use spillway_proto::mux::recording::{Bounds, OpenFile, Output, Reason, Recording, Resumed};
use spillway_proto::time::Time;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks at the reel: a fiftieth of what it keeps at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Mode {
    /// Record the stream into the directory until SIGTERM; a later run goes on where this one ends
    Record,
    /// Make the directory's files final, once
    Finish,
}

pub fn run(mode: Mode) -> ExitCode {
    sys::hear_signals();
    match start(mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::complain(format_args!("recorder: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn start(mode: Mode) -> Result<(), String> {
    let text = std::env::var(TAP_VARIABLE)
        .map_err(|_| format!("{TAP_VARIABLE} is not set: recorders are started by `spillway serve`, not by hand"))?;
    let handover = Handover::parse(&text).map_err(|error| error.to_string())?;
    let take = |number| inherit(number).map_err(|error| error.to_string());
    let ready = take(handover.ready)?;
    let directory = Directory::new(take(handover.directory)?);
    let reel = handover.reel.map(take).transpose()?;
    if let Err(error) = sys::confine() {
        logging::complain(format_args!("recorder: runs unconfined: {error}"));
    }
    match (mode, reel) {
        (Mode::Finish, _) => {
            say_ready(ready).map_err(|error| error.to_string())?;
            finish(&directory).map_err(|error| format!("cannot finish {}: {error}", handover.recording))
        }
        (Mode::Record, Some(reel)) => {
            record(&handover, ready, &directory, reel).map_err(|error| format!("cannot record {}: {error}", handover.recording))
        }
        (Mode::Record, None) => Err(format!("{TAP_VARIABLE} names no reel: there is nothing to record")),
    }
}

fn say_ready(ready: OwnedFd) -> io::Result<()> {
    File::from(ready).write_all(b"ready\n")
}

fn record(handover: &Handover, ready: OwnedFd, directory: &Directory, reel: OwnedFd) -> io::Result<()> {
    let (mut journal, lines) = directory.journal()?;
    if lines.iter().any(|line| matches!(line.event, Event::Stopped { .. } | Event::Segment(_))) {
        return Err(io::Error::other("it was stopped before; a new recording is another one"));
    }
    let now = monotonic_now();
    let unix_offset_ns = (unix_ms() as i64).saturating_mul(1_000_000) - now.0 as i64;
    let before = recover(directory, &lines, handover.since, unix_offset_ns, now)?;
    if let Some(current) = &before.current {
        // A file whose line was not written any more is named now.
        let is_known = |line: &Line| match &line.event {
            Event::Started { file, .. } | Event::File { file, .. } => *file == current.name,
            _ => false,
        };
        let file = current.name.clone();
        let codecs: Vec<String> = current.muxer.tracks().iter().map(|track| track.codec.sdp_name().to_owned()).collect();
        let event = match (lines.iter().any(is_known), before.has_started) {
            (true, _) => Event::Resumed { file },
            (false, true) => Event::File { file, codecs },
            (false, false) => Event::Started { codecs, file },
        };
        journal.write(unix_ms(), event)?;
    }
    let settings = Settings {
        fsync: handover.fsync,
        files: before.files,
        has_started: before.has_started || before.current.is_some(),
        end_ns: before.resumed.as_ref().map(|resumed| resumed.end_ns),
        unix_offset_ns,
    };
    let bounds = Bounds { file_bytes_max: handover.file_bytes_max, file_seconds_max: handover.file_seconds_max };
    let mut recording = Recording::new(bounds, before.resumed);
    let mut tap = Tap::new(ReelFile::map(reel)?, handover.stream, handover.since);
    let disk = FileDisk { directory: directory.again()?, file: before.file };
    let writer = Writer::start(disk, journal, before.current, settings)?;
    say_ready(ready)?;
    loop {
        let drain = sys::is_asked_to_stop();
        let now = monotonic_now();
        tap.read(&mut recording, now);
        while let Some(output) = recording.poll(now, drain) {
            match output {
                Output::Piece(piece) => writer.push(piece),
                Output::Note(note) => writer.note(note),
            }
        }
        if drain {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let (dropped, lost) = (writer.dropped(), recording.dropped());
    writer.close();
    if dropped + lost.frames > 0 {
        logging::complain(format_args!("recorder: {dropped} fragments were not written, {} frames incomplete, {} packets missing", lost.frames, lost.packets));
    }
    Ok(())
}

/// What earlier runs left.
struct Before {
    current: Option<Current>,
    file: Option<File>,
    resumed: Option<Resumed>,
    files: u32,
    has_started: bool,
}

/// Finds where the recording ended, and cuts off what is not whole. A file that cannot be gone on with stays as it is.
fn recover(directory: &Directory, lines: &[Line], since: Time, unix_offset_ns: i64, now: Time) -> io::Result<Before> {
    let names = directory.files()?;
    let files = names.last().and_then(|name| number_of(name)).unwrap_or(0);
    let has_started = lines.iter().any(|line| matches!(line.event, Event::Started { .. }));
    let mut before = Before { current: None, file: None, resumed: None, files, has_started };
    // The recording's zero: its first file with a head. Its end: the last file with something whole in it.
    let mut zero_ms = None;
    for name in &names {
        if let Some(head) = head_of(&directory.open(name)?)? {
            zero_ms = Some(head.started_unix_ms);
            break;
        }
    }
    let Some(zero_ms) = zero_ms else { return Ok(before) };
    for name in names.iter().rev() {
        let file = directory.open(name)?;
        let contents = match inspect_tail(&mut FileBytes(&file)) {
            Ok(contents) if contents.fragments > 0 => contents,
            Ok(_) | Err(InspectError::NotOurs | InspectError::TooLong) => continue,
            Err(InspectError::Read(error)) => return Err(error),
        };
        let start_ns = contents.started_unix_ms.saturating_sub(zero_ms).saturating_mul(1_000_000);
        let end_ns = start_ns + contents.end_ns;
        let zero_ns = i64::try_from(zero_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        // A wall clock that was set back does not set the recording back.
        let origin_ns = zero_ns.saturating_sub(unix_offset_ns).min((now.0 as i64).saturating_sub_unsigned(end_ns));
        let is_last = names.last() == Some(name);
        let muxer = contents.muxer().filter(|_| is_last);
        let codec_of = |kind: Kind| contents.tracks.iter().map(|track| track.codec).find(|codec| codec.kind() == kind);
        let open = OpenFile {
            video: codec_of(Kind::Video),
            has_audio: codec_of(Kind::Audio).is_some(),
            start_ns,
            bytes: contents.whole_length,
            samples: contents.video_frames + contents.audio_frames,
        };
        // The stream began after that end: it is its publisher who was away, not the recorder.
        let was_away = since.0 as i64 >= origin_ns.saturating_add_unsigned(end_ns);
        let reason = if was_away { Reason::PublisherAway } else { Reason::Restart };
        before.resumed = Some(Resumed { origin_ns, end_ns, file: muxer.is_some().then_some(open), reason });
        if let Some(muxer) = muxer {
            file.set_len(contents.whole_length)?;
            file.sync_data()?;
            before.current = Some(Current { name: name.clone(), muxer, length: contents.whole_length, start_ns });
            before.file = Some(file);
        }
        break;
    }
    Ok(before)
}
