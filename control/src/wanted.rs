//! What control wants of adapters, as it tells the supervisor, and what the supervisor tells it back: one JSON object
//! per datagram of a socket pair that the supervisor holds.
//!
//! ```text
//!    control -> supervisor   the whole list each time; a list that is lost or late is made up for by the next
//!    supervisor -> control   what keeps an adapter from running, in words
//! ```
//!
//! Datagrams are whole or not there, so that a control that is killed leaves no half of a list. Both sides check what
//! they read; nothing here opens or starts anything.

use serde::{Deserialize, Serialize};
use spillway_proto::limits::{FINISHING_MAX, PUBLISHERS_MAX, RECORDINGS_MAX};
use spillway_proto::link::tap::is_recording_id;

/// What a list takes at most, with room: an entry has some 135 bytes.
pub const DATAGRAM_BYTES_MAX: usize = 32 * 1_024;
const VERSION: u32 = 1;
const ENTRIES_MAX: usize = RECORDINGS_MAX + FINISHING_MAX;
/// Of what an operating system says.
const DETAIL_CHARS_MAX: usize = 300;

const _: () = assert!(ENTRIES_MAX * 160 < DATAGRAM_BYTES_MAX);

/// What a recorder is to do. One that is to do something else is another process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Run {
    /// Read the reel of the stream in this place; what arrived before `since_ns` (CLOCK_MONOTONIC) is not this stream's.
    Record { stream: u32, generation: u32, since_ns: u64 },
    /// Make what stands in the directory final.
    Finish,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub recording: String,
    pub run: Run,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    v: u32,
    wanted: Vec<Wanted>,
}

/// Why an adapter does not do what is wanted of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trouble {
    pub recording: String,
    pub detail: String,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ListError {
    #[error("a list of {0} entries; {ENTRIES_MAX} are the most")]
    TooMany(usize),
    #[error("`{0}` is no recording's id")]
    Id(String),
    #[error("{0} stands there twice")]
    Twice(String),
    #[error("there is no stream number {0}")]
    Stream(u32),
    #[error("it cannot be read: {0}")]
    Form(String),
}

pub fn write_list(wanted: &[Wanted]) -> String {
    let list = List { v: VERSION, wanted: wanted.to_vec() };
    // Numbers and plain text always become JSON.
    serde_json::to_string(&list).unwrap_or_default()
}

pub fn parse_list(bytes: &[u8]) -> Result<Vec<Wanted>, ListError> {
    let form = |error: String| ListError::Form(error.chars().take(DETAIL_CHARS_MAX).collect());
    let list: List = serde_json::from_slice(bytes).map_err(|error| form(error.to_string()))?;
    if list.v != VERSION {
        return Err(form(format!("version {} is not known here", list.v)));
    }
    if list.wanted.len() > ENTRIES_MAX {
        return Err(ListError::TooMany(list.wanted.len()));
    }
    for (at, entry) in list.wanted.iter().enumerate() {
        if !is_recording_id(&entry.recording) {
            return Err(ListError::Id(entry.recording.chars().filter(|c| !c.is_control()).take(64).collect()));
        }
        if list.wanted.iter().take(at).any(|other| other.recording == entry.recording) {
            return Err(ListError::Twice(entry.recording.clone()));
        }
        match entry.run {
            Run::Record { stream, .. } if stream as usize >= PUBLISHERS_MAX => return Err(ListError::Stream(stream)),
            _ => {}
        }
    }
    Ok(list.wanted)
}

impl Trouble {
    pub fn write(&self) -> String {
        let detail = self.detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect();
        serde_json::to_string(&Trouble { recording: self.recording.clone(), detail }).unwrap_or_default()
    }

    pub fn parse(bytes: &[u8]) -> Option<Trouble> {
        serde_json::from_slice(bytes).ok().filter(|trouble: &Trouble| is_recording_id(&trouble.recording))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> String {
        format!("rec_{number:026}")
    }

    #[test]
    fn a_list_comes_back_and_a_full_one_fits() {
        let entry = |number| {
            let run = if number % 2 == 0 { Run::Finish } else { Run::Record { stream: 1_023, generation: u32::MAX, since_ns: u64::MAX } };
            Wanted { recording: id(number), run }
        };
        for count in [0, 1, ENTRIES_MAX] {
            let list: Vec<Wanted> = (0..count).map(entry).collect();
            let text = write_list(&list);
            assert!(text.len() <= DATAGRAM_BYTES_MAX);
            assert_eq!(parse_list(text.as_bytes()), Ok(list));
        }
        let more: Vec<Wanted> = (0..=ENTRIES_MAX).map(entry).collect();
        assert_eq!(parse_list(write_list(&more).as_bytes()), Err(ListError::TooMany(ENTRIES_MAX + 1)));
    }

    #[test]
    fn a_list_that_is_none_is_refused_whole() {
        let one = |recording: &str, run| write_list(&[Wanted { recording: recording.into(), run }]);
        assert_eq!(parse_list(one("rec_../../etc", Run::Finish).as_bytes()), Err(ListError::Id("rec_../../etc".into())));
        let far = one(&id(1), Run::Record { stream: PUBLISHERS_MAX as u32, generation: 1, since_ns: 0 });
        assert_eq!(parse_list(far.as_bytes()), Err(ListError::Stream(PUBLISHERS_MAX as u32)));
        let twice = write_list(&[1, 1].map(|number| Wanted { recording: id(number), run: Run::Finish }));
        assert_eq!(parse_list(twice.as_bytes()), Err(ListError::Twice(id(1))));
        let good = one(&id(1), Run::Finish);
        for end in 0..good.len() {
            assert!(matches!(parse_list(&good.as_bytes()[..end]), Err(ListError::Form(_))), "{end}");
        }
        for (from, to) in [("\"v\":1", "\"v\":2"), ("\"finish\"", "\"delete\""), ("\"v\":1", "\"v\":1,\"w\":1")] {
            assert!(matches!(parse_list(good.replace(from, to).as_bytes()), Err(ListError::Form(_))), "{to}");
        }
    }

    #[test]
    fn trouble_is_bounded_and_of_a_recording() {
        let trouble = Trouble { recording: id(7), detail: "no room\n".repeat(500) };
        let read = Trouble::parse(trouble.write().as_bytes()).unwrap();
        assert_eq!((read.recording, read.detail.chars().count()), (id(7), DETAIL_CHARS_MAX));
        assert_eq!(Trouble::parse(br#"{"recording":"demo","detail":""}"#), None);
        assert_eq!(Trouble::parse(b"\xff"), None);
    }
}
