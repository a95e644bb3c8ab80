//! `spillway adapter recorder finish`: makes plain files of what recorders left, once.
//!
//! The one way to a final file, whether the recording was stopped, its recorder killed, or the power lost. Everything it
//! does can be done again: killed anywhere, the next run comes to the same end.

use super::directory::{Directory, FileBytes, head_of};
use super::journal::{Event, Journal, Line, Segment};
use super::sys;
use super::writer::unix_ms;
use aws_lc_rs::digest;
use spillway_proto::id::Kind;
use spillway_proto::mux::finish::{Bytes, Contents, InspectError, inspect};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file was finished, or it holds nothing.
enum Finished {
    Segment(Segment),
    Nothing(String),
}

/// Finishes all files of the directory. An error: it is to be run again, when the disk is better.
pub fn finish(directory: &Directory) -> io::Result<()> {
    let (mut journal, lines) = directory.journal()?;
    let result = finish_files(directory, &mut journal, &lines);
    if let Err(error) = &result {
        let code = if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) { "disk_full" } else { "disk_error" };
        let detail = format!("{error}; what was recorded can be played as it is; it is finished when the disk takes it");
        let last = lines.iter().rev().find_map(|line| match &line.event {
            Event::Failed { code, .. } => Some(code.as_str()),
            Event::Segment(_) => Some(""),
            _ => None,
        });
        // Once, however often it is tried.
        if last != Some(code) {
            let _ = journal.write(unix_ms(), Event::Failed { code: code.into(), detail });
        }
    }
    result
}

fn finish_files(directory: &Directory, journal: &mut Journal, lines: &[Line]) -> io::Result<()> {
    if lines.iter().any(|line| matches!(line.event, Event::Stopped { .. })) {
        return Ok(());
    }
    let mut segments: Vec<Segment> = Vec::new();
    for line in lines {
        if let Event::Segment(segment) = &line.event {
            segments.push(segment.clone());
        }
    }
    for name in directory.files()? {
        if segments.iter().any(|segment| segment.file == name) {
            continue;
        }
        match finish_file(directory, &name)? {
            Finished::Segment(segment) => {
                journal.write(unix_ms(), Event::Segment(segment.clone()))?;
                segments.push(segment);
            }
            Finished::Nothing(why) => {
                let code = "nothing_in_file".to_owned();
                let said = |line: &Line| matches!(&line.event, Event::Warning { code, detail } if code == "nothing_in_file" && detail.starts_with(&name));
                if !lines.iter().any(said) {
                    journal.write(unix_ms(), Event::Warning { code, detail: format!("{name}: {why}") })?;
                }
            }
        }
    }
    let first = segments.iter().map(|segment| segment.started_at).min().unwrap_or(0);
    let end = segments.iter().map(|segment| segment.started_at + segment.duration_ms).max().unwrap_or(0);
    let bytes = segments.iter().map(|segment| segment.bytes).sum();
    let files = segments.len() as u32;
    journal.write(unix_ms(), Event::Stopped { duration_ms: end - first, bytes, files })
}

fn finish_file(directory: &Directory, name: &str) -> io::Result<Finished> {
    let file = directory.open(name)?;
    let contents = match inspect(&mut FileBytes(&file)) {
        Ok(contents) => contents,
        Err(InspectError::Read(error)) => return Err(error),
        Err(error) => return Ok(Finished::Nothing(error.to_string())),
    };
    if contents.fragments == 0 {
        return Ok(Finished::Nothing("it ends before its first frames are whole".into()));
    }
    let facts = facts_of(&contents);
    if !contents.is_final
        && let Err(error) = close(&file, contents)
        // One that may not grow plays as it is.
        && error.kind() != io::ErrorKind::FileTooLarge
    {
        return Err(error);
    }
    file.sync_all()?;
    directory.sync()?;
    let started_at = match head_of(&file)? {
        Some(head) => head.started_unix_ms,
        None => facts.started_at,
    };
    let bytes = file.metadata()?.len();
    let sha256 = hash(&file)?;
    Ok(Finished::Segment(Segment { file: name.to_owned(), bytes, sha256, started_at, ..facts }))
}

fn facts_of(contents: &Contents) -> Segment {
    let video = contents.tracks.iter().find(|track| track.codec.kind() == Kind::Video);
    Segment {
        file: String::new(),
        bytes: 0,
        sha256: String::new(),
        duration_ms: contents.end_ns / 1_000_000,
        started_at: contents.started_unix_ms,
        width: video.map_or(0, |track| track.width),
        height: video.map_or(0, |track| track.height),
        frames: if video.is_some() { contents.video_frames } else { contents.audio_frames },
    }
}

/// In the order that leaves a file which can be played at each step (see `finish` in spillway-proto).
fn close(file: &File, contents: Contents) -> io::Result<()> {
    let Some(closing) = contents.closing() else { return Ok(()) };
    let written = file
        .set_len(closing.at)
        .and_then(|()| file.write_all_at(&closing.append, closing.at))
        .and_then(|()| file.sync_data());
    if let Err(error) = written {
        // Room for others; the file is what it was.
        let _ = file.set_len(closing.at);
        return Err(error);
    }
    for (at, bytes) in &closing.then {
        file.write_all_at(bytes, *at)?;
        file.sync_data()?;
    }
    Ok(())
}

fn hash(file: &File) -> io::Result<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = FileBytes(file).read_at(at, &mut buffer)?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        context.update(read);
        at += count as u64;
        if sys::is_asked_to_stop() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "asked to stop; the next run finishes it"));
        }
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
