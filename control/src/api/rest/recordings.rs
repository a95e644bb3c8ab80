//! Recordings: begun, stopped, listed, downloaded, deleted. What may be is `policy::recordings`'; nothing here opens a
//! path that came with a request (`recording_files` does, beneath its directory).

use super::bodies::{Problemlet, Recording, RecordingFile, RecordingGap};
use super::page::{Page, Wanted};
use super::{Answer, Call, Reply, Scope};
use crate::api::problem::Problem;
use crate::ids::rfc3339;
use crate::policy::Refusal;
use crate::policy::recordings::Reason;
use crate::recording_files::{content_type, is_file_name};
use crate::service::{FINISHED, Filter, WholeRecording};
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, StatusCode, header};
use spillway_proto::link::tap::is_recording_id;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;

/// Downloads at a time: each holds two pieces.
const DOWNLOADS_MAX: usize = 256;
static DOWNLOADS: Semaphore = Semaphore::const_new(DOWNLOADS_MAX);
const PIECE_BYTES: usize = 256 * 1_024;
const STATES: [&str; 4] = ["recording", "waiting", "finishing", FINISHED];

pub async fn start(call: Call) -> Answer {
    let (room, service) = (call.part("room").to_owned(), call.service.clone());
    let answered = |made: &WholeRecording| {
        let reply = Reply::json(201, &body(&call.base, made));
        call.record(reply.with(header::LOCATION, format!("/v1/recordings/{}", made.row.id)))
    };
    Ok(service.start_recording(&room, answered).await?)
}

pub async fn stop(call: Call) -> Answer {
    let found = named(&call).await?;
    // One that is over is stopped.
    call.service.stop_recording(&found.row.id, Reason::Stopped).await?;
    Ok(Reply::json(200, &body(&call.base, &named(&call).await?)))
}

pub async fn list(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let state = call.query.get("state").cloned();
    if state.as_ref().is_some_and(|state| !STATES.contains(&state.as_str())) {
        return Err(Problem::bad_request(format!("state must be one of {}", STATES.join(", "))));
    }
    let room = match (&call.caller.scope, call.query.get("room").cloned()) {
        (Scope::Room(own), Some(asked)) if *own != asked => {
            return Ok(Reply::json(200, &Page::<Recording>::new(Vec::new(), count, |_| String::new())));
        }
        (Scope::Room(own), _) => Some(own.clone()),
        (_, asked) => asked,
    };
    let found = call.service.recordings(&after, Filter { room, state }, count + 1).await?;
    let bodies = found.iter().map(|one| body(&call.base, one)).collect();
    Ok(Reply::json(200, &Page::new(bodies, count, |one: &Recording| one.id.clone())))
}

pub async fn read(call: Call) -> Answer {
    Ok(Reply::json(200, &body(&call.base, &named(&call).await?)))
}

pub async fn delete(call: Call) -> Answer {
    let found = named(&call).await?;
    if found.row.state != FINISHED {
        return Err(Refusal::RecordingOpen.into());
    }
    call.service.delete_recording(&found.row.id).await?;
    Ok(Reply::nothing())
}

/// The recording in the path; one of another room is not there for who may not see it.
async fn named(call: &Call) -> Result<WholeRecording, Problem> {
    let id = call.part("recording");
    let found = if is_recording_id(id) { call.service.recording(id).await? } else { None };
    found.filter(|found| call.caller.sees(&found.row.room)).ok_or_else(|| Problem::missing("recording"))
}

fn body(base: &str, whole: &WholeRecording) -> Recording {
    let row = &whole.row;
    let problemlet = |(code, detail): &(String, String)| Problemlet { code: code.clone(), detail: detail.clone() };
    let files = whole.files.iter().map(|file| RecordingFile {
        name: file.name.clone(),
        path: format!("{}/{}", row.id, file.name),
        url: format!("{base}/v1/recordings/{}/download?file={}", row.id, file.name),
        codecs: file.codecs.clone(),
        r#final: file.is_final,
        size: file.bytes,
        sha256: file.sha256.clone(),
        duration_ms: file.is_final.then_some(file.duration_ms),
        started_at: file.started_ms.map(rfc3339),
        width: file.is_final.then_some(file.width),
        height: file.is_final.then_some(file.height),
        frames: file.is_final.then_some(file.frames),
    });
    let gaps = whole.gaps.iter().map(|gap| RecordingGap {
        file: gap.file.clone(),
        at_ms: gap.at_ms,
        length_ms: gap.length_ms,
        reason: gap.reason.clone(),
    });
    Recording {
        id: row.id.clone(),
        room: Some(row.room.clone()).filter(|room| !room.is_empty()),
        stream: Some(row.stream.clone()).filter(|stream| !stream.is_empty()),
        state: row.state.clone(),
        begun_by: row.begun_by.clone(),
        created_at: rfc3339(row.created_ms),
        started_at: row.started_ms.map(rfc3339),
        stopped_at: row.stopped_ms.map(rfc3339),
        reason: row.reason.clone(),
        duration_ms: row.duration_ms,
        size: whole.files.iter().map(|file| file.bytes).sum(),
        files: files.collect(),
        gaps: gaps.collect(),
        gaps_count: row.gaps,
        gaps_ms: row.gaps_ms,
        error: row.error.as_ref().map(problemlet),
        warnings: row.warnings.iter().map(problemlet).collect(),
        page: format!("{base}/recordings/{}", row.id),
    }
}

// ---- downloads ----

/// What of a file is asked for (RFC 9110 section 14.1.2). A field that is none of these is passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Whole,
    /// First and last byte.
    Range(u64, u64),
    Unsatisfiable,
}

fn part_of(field: Option<&str>, length: u64) -> Part {
    let Some(spec) = field.and_then(|field| field.strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Part::Whole };
    let number = |text: &str| -> Option<u64> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are beyond the end of every file.
        is_number.then(|| text.parse().unwrap_or(u64::MAX))
    };
    // Several ranges at once are answered with the whole file, as RFC 9110 section 14.2 allows.
    match (number(first), number(last), first.is_empty(), last.is_empty()) {
        (Some(first), Some(last), ..) if last < first => Part::Whole,
        (Some(first), ..) if first >= length => Part::Unsatisfiable,
        (Some(first), Some(last), ..) => Part::Range(first, last.min(length - 1)),
        (Some(first), None, _, true) => Part::Range(first, length - 1),
        (None, Some(0), true, _) => Part::Unsatisfiable,
        (None, Some(_), true, _) if length == 0 => Part::Unsatisfiable,
        (None, Some(count), true, _) => Part::Range(length - count.min(length), length - 1),
        _ => Part::Whole,
    }
}

pub async fn download(call: Call) -> Answer {
    let found = named(&call).await?;
    let name = match (call.query.get("file"), found.files.as_slice()) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.name.clone(),
        (None, []) => return Err(Problem::missing("file")),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|file| file.name.as_str()).collect();
            return Err(Problem::bad_request(format!("it has several files, say which: file={}", names.join(", "))));
        }
    };
    let (id, files) = (found.row.id.clone(), call.service.recorder.files());
    if !is_file_name(&name) {
        return Err(Problem::missing("file"));
    }
    let place = DOWNLOADS.try_acquire().map_err(|_| Refusal::NodeFull("downloads"))?;
    let opened = {
        let name = name.clone();
        tokio::task::spawn_blocking(move || files.open(&id, &name)).await
    };
    let (file, facts) = match opened.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(opened) => opened,
        Err(error) if [libc::ENOENT, libc::ELOOP, libc::ENOTDIR].contains(&error.raw_os_error().unwrap_or(0)) => {
            return Err(Problem::missing("file"));
        }
        Err(error) => return Err(Refusal::RecordingFiles(error.to_string()).into()),
    };
    let length = facts.len();
    // What was written of a growing file stays as it is until it is made final.
    let final_tag = found.files.iter().find(|file| file.name == name && file.is_final).and_then(|file| file.sha256.clone());
    let tag = format!("\"{}\"", final_tag.unwrap_or_else(|| format!("growing-{}-{name}", found.row.id)));
    let text = |name: HeaderName| call.headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag)) && tag.len() == 66 {
        return Ok(Reply::file(304, None).with(header::ETAG, tag));
    }
    // RFC 9110 section 13.1.5: of another version the whole is sent.
    let is_same = text(header::IF_RANGE).is_none_or(|known| known.trim() == tag);
    let (status, first, count, range) = match part_of(text(header::RANGE).filter(|_| is_same), length) {
        Part::Whole => (200, 0, length, None),
        Part::Range(first, last) => (206, first, last - first + 1, Some(format!("bytes {first}-{last}/{length}"))),
        Part::Unsatisfiable => return Err(Problem::range(length)),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let _place = place;
        let file = Arc::new(file);
        let mut at = first;
        while at < first + count {
            let (file, wanted) = (file.clone(), usize::try_from(first + count - at).unwrap_or(usize::MAX).min(PIECE_BYTES));
            let piece = tokio::task::spawn_blocking(move || read_piece(&file, at, wanted)).await;
            let piece = piece.unwrap_or_else(|error| Err(io::Error::other(error)));
            at += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            let is_over = piece.is_err();
            // Who has gone wants no more; one whose file broke sees the connection break.
            if sender.send(piece).await.is_err() || is_over {
                return;
            }
        }
    });
    let reply = Reply::file(status, Some(Body::from_stream(ReceiverStream::new(receiver))))
        .with(header::CONTENT_TYPE, content_type(&name))
        .with(header::CONTENT_LENGTH, count.to_string())
        .with(header::ACCEPT_RANGES, "bytes")
        .with(header::ETAG, tag)
        .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        // Both are of characters that we chose.
        .with(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}-{name}\"", found.row.id));
    Ok(match range {
        Some(range) => reply.with(header::CONTENT_RANGE, range),
        None => reply,
    })
}

fn read_piece(file: &File, at: u64, wanted: usize) -> io::Result<Bytes> {
    let mut bytes = vec![0; wanted];
    let length = file.read_at(&mut bytes, at)?;
    if length == 0 {
        // Shorter than it was: what was promised cannot be sent.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(length);
    Ok(bytes.into())
}

impl Reply {
    /// A file's bytes, whose type and length come with headers.
    fn file(status: u16, body: Option<Body>) -> Reply {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        let body = body.map_or(super::Content::Nothing, super::Content::File);
        Reply { status, headers: Vec::new(), body, is_recorded: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_what_rfc_9110_says() {
        let cases = [
            (None, Part::Whole),
            (Some("bytes=0-0"), Part::Range(0, 0)),
            (Some("bytes=0-"), Part::Range(0, 99)),
            (Some("bytes=10-19"), Part::Range(10, 19)),
            (Some("bytes=90-1000"), Part::Range(90, 99)),
            (Some("bytes=-10"), Part::Range(90, 99)),
            (Some("bytes=-1000"), Part::Range(0, 99)),
            (Some("bytes=99999999999999999999999-"), Part::Unsatisfiable),
            (Some("bytes=0-99999999999999999999999"), Part::Range(0, 99)),
            (Some("bytes=100-"), Part::Unsatisfiable),
            (Some("bytes=-0"), Part::Unsatisfiable),
            (Some("bytes=5-4"), Part::Whole),
            (Some("bytes=0-1,5-6"), Part::Whole),
            (Some("bytes=-"), Part::Whole),
            (Some("bytes=a-b"), Part::Whole),
            (Some("bytes=+1-2"), Part::Whole),
            (Some("bytes=1"), Part::Whole),
            (Some("lines=0-1"), Part::Whole),
        ];
        for (field, expected) in cases {
            assert_eq!(part_of(field, 100), expected, "{field:?}");
        }
        assert_eq!((part_of(Some("bytes=0-"), 0), part_of(Some("bytes=-5"), 0)), (Part::Unsatisfiable, Part::Unsatisfiable));
        assert_eq!(part_of(Some("bytes=0-"), u64::MAX), Part::Range(0, u64::MAX - 1));
    }
}
