//! The tap's handover: what the supervisor tells a recorder it starts, in the one environment variable
//! `SPILLWAY_TAP`. Numbers of inherited descriptors, the recording's id and its bounds; no path, no room, nothing secret.
//!
//! ```text
//!    v=1 ready=3 directory=4 reel=5 recording=rec_01jd... stream=12884901895 since=81230000000 fsync=fragment file_bytes=... file_seconds=...
//! ```
//!
//! With `reel` the process records; without, it finishes what stands in the directory. Nothing here opens, closes or
//! checks a descriptor.

use super::fields::{FieldsError, Form};
use crate::time::Time;
use std::fmt::Write as _;

/// The environment variable's name.
pub const TAP_VARIABLE: &str = "SPILLWAY_TAP";
const TAP_VERSION: u64 = 1;
/// Ten fields of at most 32 characters.
const TEXT_BYTES_MAX: usize = 512;
/// `rec_` and 128 bits in base 32: the directory's name, made by control.
const PREFIX: &str = "rec_";
const ID_CHARS: usize = 26;

/// `recording.fsync`: what is durable when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fsync {
    /// Each fragment before the next one is written: a loss of power costs at most the fragment being written.
    #[default]
    Fragment,
    /// A file when it is finished: a loss of power may cost the file being written.
    Segment,
    /// As the system likes.
    None,
}

impl Fsync {
    pub const ALL: [Fsync; 3] = [Fsync::Fragment, Fsync::Segment, Fsync::None];

    pub const fn name(self) -> &'static str {
        match self {
            Fsync::Fragment => "fragment",
            Fsync::Segment => "segment",
            Fsync::None => "none",
        }
    }
    pub fn from_name(name: &str) -> Option<Fsync> {
        Fsync::ALL.into_iter().find(|fsync| fsync.name() == name)
    }
}

/// Whether `text` is the id of a recording: what a directory may be named, and nothing else.
pub fn is_recording_id(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|id| {
        id.len() == ID_CHARS && id.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    })
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tap {
    /// The process writes `ready` here once it works.
    pub ready: i32,
    /// The recording's directory: everything it opens is beneath it.
    pub directory: i32,
    /// The stream's reels, read-only. None: it finishes the directory's files.
    pub reel: Option<i32>,
    pub recording: String,
    /// Bits of the stream's id: reels in the file that say another one are another room's. None: the first that has something.
    pub stream: Option<u64>,
    /// What arrived before (CLOCK_MONOTONIC) is another stream's: a reel's file is used again.
    pub since: Time,
    pub fsync: Fsync,
    /// A file as large, or as old, is finished and the next one begun; 0: no bound.
    pub file_bytes_max: u64,
    pub file_seconds_max: u64,
}

static FORM: Form = Form {
    variable: TAP_VARIABLE,
    names: &["v", "ready", "directory", "reel", "recording", "stream", "since", "fsync", "file_bytes", "file_seconds"],
    bytes_max: TEXT_BYTES_MAX,
};

impl Tap {
    pub fn to_text(&self) -> String {
        let mut text = format!("v={TAP_VERSION} ready={} directory={}", self.ready, self.directory);
        // Writing to a String cannot fail.
        if let Some(reel) = self.reel {
            let _ = write!(text, " reel={reel}");
        }
        let _ = write!(text, " recording={}", self.recording);
        if let Some(stream) = self.stream {
            let _ = write!(text, " stream={stream}");
        }
        let _ = write!(
            text,
            " since={} fsync={} file_bytes={} file_seconds={}",
            self.since.0,
            self.fsync.name(),
            self.file_bytes_max,
            self.file_seconds_max
        );
        text
    }

    pub fn parse(text: &str) -> Result<Tap, FieldsError> {
        let fields = FORM.split(text)?;
        if fields.number::<u64>("v")? != TAP_VERSION {
            return Err(fields.wrong("v", fields.text("v")?, "1 (supervisor and recorder of the same build)"));
        }
        let recording = fields.text("recording")?;
        if !is_recording_id(recording) {
            return Err(fields.wrong("recording", recording, "a recording's id, rec_..."));
        }
        let fsync = fields.text("fsync")?;
        Ok(Tap {
            ready: fields.number("ready")?,
            directory: fields.number("directory")?,
            reel: fields.optional_number("reel")?,
            recording: recording.into(),
            stream: fields.optional_number("stream")?,
            since: Time(fields.number("since")?),
            fsync: Fsync::from_name(fsync).ok_or_else(|| fields.wrong("fsync", fsync, "fragment, segment or none"))?,
            file_bytes_max: fields.number("file_bytes")?,
            file_seconds_max: fields.number("file_seconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rec_01jd0000000000000000000000";

    fn record() -> Tap {
        Tap {
            ready: 3,
            directory: 4,
            reel: Some(5),
            recording: ID.into(),
            stream: Some(7),
            since: Time(81_230_000_000),
            fsync: Fsync::Segment,
            file_bytes_max: 0,
            file_seconds_max: 3_600,
        }
    }

    #[test]
    fn text_and_back() {
        let record = record();
        assert_eq!(
            record.to_text(),
            format!(
                "v=1 ready=3 directory=4 reel=5 recording={ID} stream=7 since=81230000000 fsync=segment file_bytes=0 \
                 file_seconds=3600"
            )
        );
        assert_eq!(Tap::parse(&record.to_text()), Ok(record.clone()));
        let finish = Tap { reel: None, stream: None, since: Time(u64::MAX), fsync: Fsync::None, ..record };
        assert_eq!(Tap::parse(&finish.to_text()), Ok(finish));
    }

    #[test]
    fn errors_name_the_field() {
        let good = record().to_text();
        let cases = [
            ("v=1", "v=2", "field `v`"),
            ("ready=3", "ready=-3", "field `ready`"),
            ("directory=4 ", "", "field `directory` is missing"),
            ("directory=4", "directory=99999999999", "field `directory`"),
            ("reel=5", "reel=five", "field `reel`"),
            ("reel=5", "reel=5 reel=6", "field `reel` stands there twice"),
            (ID, "rec_../../../../../../etc/pass", "field `recording`"),
            (ID, "rec_01JD0000000000000000000000", "field `recording`"),
            (ID, "", "field `recording`"),
            ("stream=7", "stream=seven", "field `stream`"),
            ("since=81230000000", "since=-1", "field `since`"),
            ("since=81230000000", "since=18446744073709551616", "field `since`"),
            ("fsync=segment", "fsync=sometimes", "field `fsync`"),
            ("file_bytes=0", "file_bytes=1e9", "field `file_bytes`"),
            (" file_seconds=3600", "", "field `file_seconds` is missing"),
            ("v=1", "v=1 room=demo", "unknown field `room`"),
            ("v=1", "v=1 nonsense", "`nonsense` is not of the form"),
        ];
        for (from, to, expected) in cases {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            let error = Tap::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let long = Tap::parse(&"x=1 ".repeat(200)).expect_err("too long").to_string();
        assert!(long.contains("longer than 512 bytes"), "{long}");
    }

    #[test]
    fn only_names_that_control_makes_are_recordings() {
        assert!(is_recording_id(ID));
        let long = format!("rec_{}", "0".repeat(300));
        for name in ["", "rec_", "..", "rec_..", "rec_01jd000000000000000000000é", &ID.replacen('0', "/", 1), &long, &ID[..29]] {
            assert!(!is_recording_id(name), "{name}");
        }
    }
}
