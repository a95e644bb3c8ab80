//! A recording's journal: what happened to it, one JSON object per line in `journal.jsonl` beside its files.
//!
//! Written by the recorder alone, each line durable before the next thing is done; read by control, which makes
//! events and states of it, and by the next run of the recorder. A line counts once its line feed stands: half a
//! line at the end, as a crash leaves it, is cut by the next run and passed over by everybody else.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

pub const JOURNAL_NAME: &str = "journal.jsonl";

/// The code of a failure that ends the recording: no file may grow by as much as a fragment.
pub const FILE_LIMIT: &str = "file_limit";

/// A line longer than this was not written by us.
pub const LINE_BYTES_MAX: usize = 4_096;
/// A journal longer than this is not read: a recorder that reports so much is broken.
pub const JOURNAL_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// Detail of a failure or a warning: escaped, each byte may take six.
const DETAIL_BYTES_MAX: usize = 512;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds of Unix time when it was written.
    pub at: u64,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The first fragment of the recording stands on the disk.
    Started { codecs: Vec<String>, file: String },
    /// A further file begins.
    File { file: String, codecs: Vec<String> },
    /// A later run goes on with a file.
    Resumed { file: String },
    /// Time without media; it stays in the timeline. `at_ms`: since the recording's start.
    Gap { file: String, at_ms: u64, length_ms: u64, reason: GapReason },
    Warning { code: String, detail: String },
    /// The picture is broken until the publisher sends a keyframe.
    WantKeyframe,
    /// Something could not be written. `detail` says whether it goes on.
    Failed { code: String, detail: String },
    /// A file is final: its name, bytes and hash change no more.
    Segment(Segment),
    /// Nothing more comes.
    Stopped { duration_ms: u64, bytes: u64, files: u32 },
    /// What a newer version wrote.
    #[serde(other, skip_serializing)]
    Unknown,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segment {
    pub file: String,
    pub bytes: u64,
    /// In lower-case hexadecimal digits.
    pub sha256: String,
    pub duration_ms: u64,
    /// Unix time of its first frame, in milliseconds.
    pub started_at: u64,
    pub width: u32,
    pub height: u32,
    pub frames: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// The publisher sent nothing, or was away.
    PublisherAway,
    /// Packets were lost for good.
    Loss,
    /// The recorder did not run for so long that the reel went on without it.
    Behind,
    /// The disk did not take it: full, slow or broken.
    DiskFull,
    /// Between two runs of the recorder.
    Restart,
}

impl Line {
    /// The line with its line feed.
    pub fn to_text(&self) -> String {
        // JSON escapes line feeds, so that no value breaks the line.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// A line without its line feed; `None`: it is none of ours.
    pub fn parse(text: &[u8]) -> Option<Line> {
        if text.len() > LINE_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(text).ok()
    }
}

/// What a piece of a journal holds: its lines, and how many bytes of it they take (the rest is half a line).
/// What is between line feeds and no line of ours is passed over.
pub fn lines(bytes: &[u8]) -> (Vec<Line>, usize) {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).filter_map(Line::parse);
    (lines.collect(), whole)
}

/// The one writer.
pub struct Journal {
    file: File,
    length: u64,
}

impl Journal {
    /// Takes the journal over: reads what stands in it, and cuts half a line at its end.
    pub fn open(mut file: File) -> io::Result<(Journal, Vec<Line>)> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        Read::by_ref(&mut file).take(JOURNAL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > JOURNAL_BYTES_MAX {
            return Err(io::Error::other("the journal is longer than any recorder writes"));
        }
        let (lines, whole) = lines(&bytes);
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
            file.sync_data()?;
        }
        Ok((Journal { file, length: whole as u64 }, lines))
    }

    /// Writes a line and makes it durable. After an error the journal ends where it ended before.
    pub fn write(&mut self, at: u64, event: Event) -> io::Result<()> {
        let text = Line { at, event: shortened(event) }.to_text();
        let written = self.file.seek(SeekFrom::Start(self.length)).and_then(|_| self.file.write_all(text.as_bytes()));
        if let Err(error) = written {
            // Half a line would make one of the next: what cannot be cut now is written over then.
            let _ = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += text.len() as u64;
        self.file.sync_data()
    }
}

/// Words of the system have no bound of their own.
fn shortened(mut event: Event) -> Event {
    if let Event::Warning { detail, .. } | Event::Failed { detail, .. } = &mut event {
        let end = (0..=DETAIL_BYTES_MAX.min(detail.len())).rev().find(|end| detail.is_char_boundary(*end));
        detail.truncate(end.unwrap_or(0));
    }
    event
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn all() -> Vec<Event> {
        let segment = Segment {
            file: "0001.mp4".into(),
            bytes: 1 << 40,
            sha256: "0f".repeat(32),
            duration_ms: 61_000,
            started_at: 1_795_000_000_000,
            width: 1_280,
            height: 720,
            frames: 1_830,
        };
        let reasons =
            [GapReason::PublisherAway, GapReason::Loss, GapReason::Behind, GapReason::DiskFull, GapReason::Restart];
        let gap = |reason| Event::Gap { file: "0001.mp4".into(), at_ms: 5, length_ms: 77, reason };
        let mut all: Vec<Event> = reasons.into_iter().map(gap).collect();
        all.extend([
            Event::Started { codecs: vec!["H264".into(), "opus".into()], file: "0001.mp4".into() },
            Event::File { file: "0002.webm".into(), codecs: vec!["VP8".into()] },
            Event::Resumed { file: "0001.mp4".into() },
            Event::Warning { code: "b_frames".into(), detail: "two\nlines, \"quoted\"".into() },
            Event::WantKeyframe,
            Event::Failed { code: "disk_full".into(), detail: "goes on".into() },
            Event::Segment(segment),
            Event::Stopped { duration_ms: 61_000, bytes: 7, files: 1 },
        ]);
        all
    }

    /// A new file nobody else has, without a name as soon as it is open.
    pub fn scratch() -> File {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("spillway-journal-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    #[test]
    fn every_event_is_one_line_and_comes_back() {
        for event in all() {
            let line = Line { at: 9, event };
            let text = line.to_text();
            assert_eq!(text.matches('\n').count(), 1);
            assert_eq!(Line::parse(text.trim_end().as_bytes()), Some(line));
        }
        let gap = Event::Gap { file: "1".into(), at_ms: 2, length_ms: 3, reason: GapReason::PublisherAway };
        let text = r#"{"at":4,"event":"gap","file":"1","at_ms":2,"length_ms":3,"reason":"publisher_away"}"#;
        assert_eq!(Line { at: 4, event: gap }.to_text(), format!("{text}\n"));
        assert_eq!(Line { at: 4, event: Event::WantKeyframe }.to_text(), "{\"at\":4,\"event\":\"want_keyframe\"}\n");
    }

    #[test]
    fn what_a_newer_version_wrote_is_known_as_unknown() {
        let line = Line::parse(br#"{"at":1,"event":"uploaded","to":"elsewhere"}"#).unwrap();
        assert_eq!(line, Line { at: 1, event: Event::Unknown });
        let more = Line::parse(br#"{"at":1,"event":"resumed","file":"a","run":7}"#).unwrap();
        assert_eq!(more.event, Event::Resumed { file: "a".into() });
        assert_eq!(Line::parse(br#"{"at":1,"event":"resumed"}"#), None);
        assert_eq!(Line::parse(b"[1]"), None);
        assert_eq!(Line::parse(&[b' '; LINE_BYTES_MAX + 1]), None);
    }

    /// Cut at each byte: whole lines come back, the half one counts as nothing.
    #[test]
    fn a_journal_that_ends_anywhere_gives_its_whole_lines() {
        let texts: Vec<String> = all().into_iter().map(|event| Line { at: 1, event }.to_text()).collect();
        let journal = texts.concat();
        for end in 0..=journal.len() {
            let (found, whole) = lines(&journal.as_bytes()[..end]);
            let (mut count, mut length) = (0, 0);
            while count < texts.len() && length + texts[count].len() <= end {
                length += texts[count].len();
                count += 1;
            }
            assert_eq!((found.len(), whole), (count, length));
        }
        // Zeros, as a file system leaves them after a power cut.
        let (found, whole) = lines(&[texts[0].as_bytes(), &[0; 90], b"\n", texts[1].as_bytes()].concat());
        assert_eq!((found.len(), whole), (2, texts[0].len() + 91 + texts[1].len()));
    }

    #[test]
    fn the_next_run_cuts_half_a_line_and_goes_on_behind_it() {
        let file = scratch();
        let (mut journal, before) = Journal::open(file.try_clone().unwrap()).unwrap();
        assert!(before.is_empty());
        journal.write(1, Event::WantKeyframe).unwrap();
        journal.write(2, Event::Resumed { file: "0001.mp4".into() }).unwrap();
        (&file).write_all(br#"{"at":3,"event":"go"#).unwrap();
        let (mut journal, before) = Journal::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(before.iter().map(|line| line.at).collect::<Vec<_>>(), [1, 2]);
        journal.write(4, Event::WantKeyframe).unwrap();
        let (_, after) = Journal::open(file).unwrap();
        assert_eq!(after.iter().map(|line| line.at).collect::<Vec<_>>(), [1, 2, 4]);
    }

    #[test]
    fn words_of_the_system_stay_below_a_lines_bound() {
        let (mut journal, _) = Journal::open(scratch()).unwrap();
        journal.write(1, Event::Failed { code: "disk_error".into(), detail: format!("\u{fc}{}", "\u{1}".repeat(9_000)) }).unwrap();
        let (_, lines) = Journal::open(journal.file).unwrap();
        assert_eq!(lines.len(), 1);
    }
}
