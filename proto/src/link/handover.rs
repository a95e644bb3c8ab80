//! The handover: what the supervisor tells a child it starts, in the one environment variable
//! `SPILLWAY_HANDOVER`. Numbers of inherited descriptors and where to run; nothing secret.
//!
//! ```text
//!    v=1 link=3 records=4 ready=5 shard_wake=6,7 control_wake=8 media=9,10;11,12 reels=20-1043 http=12
//!    adapters=13 boot=81230 io=auto shards=2 cores=0,1
//! ```
//!
//! Lists are numbers and ranges (`20-1043`) with commas; `media` has a group of sockets per `--media` address,
//! one socket per shard. A field that does not apply (records, for control) is left out. Nothing here opens, closes or checks a
//! descriptor.

use super::fields::{Fields, FieldsError, Form};
use crate::limits::{PUBLISHERS_MAX, SHARDS_MAX};
use std::fmt::Write as _;

/// The environment variable's name.
pub const HANDOVER_VARIABLE: &str = "SPILLWAY_HANDOVER";
const HANDOVER_VERSION: i32 = 1;
/// One address per family.
const MEDIA_GROUPS_MAX: usize = 2;
/// No list is longer than that of the reels.
const LIST_MAX: usize = PUBLISHERS_MAX;
/// Every reel's number by itself, and the rest: longer is no handover.
const TEXT_BYTES_MAX: usize = 16 * 1_024;

/// `--io`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoChoice {
    /// frames where they may be sent and pass over nobody, else uring where it works, else socket.
    #[default]
    Auto,
    Frames,
    Uring,
    Socket,
}

impl IoChoice {
    pub const ALL: [IoChoice; 4] = [IoChoice::Auto, IoChoice::Frames, IoChoice::Uring, IoChoice::Socket];

    pub const fn name(self) -> &'static str {
        match self {
            IoChoice::Auto => "auto",
            IoChoice::Frames => "frames",
            IoChoice::Uring => "uring",
            IoChoice::Socket => "socket",
        }
    }
    pub fn from_name(name: &str) -> Option<IoChoice> {
        IoChoice::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Handover {
    pub link: i32,
    /// The record segment, which holds keys: the engine only.
    pub records: Option<i32>,
    /// The child writes here once, when it is ready.
    pub ready: i32,
    /// Eventfd per shard: wakes the parked shard.
    pub shard_wake: Vec<i32>,
    /// Eventfd that wakes control.
    pub control_wake: i32,
    /// Per `--media` address, one socket per shard: the engine only.
    pub media: Vec<Vec<i32>>,
    /// The reel file of each stream, by the stream's index.
    pub reels: Vec<i32>,
    /// The listening HTTP socket: control only.
    pub http: Option<i32>,
    /// The socket on which control says what it wants of adapters: control only.
    pub adapters: Option<i32>,
    /// The supervisor's own number, another one each time a node is started.
    pub boot: Option<i32>,
    pub io: IoChoice,
    pub shards: usize,
    /// Cores to run on: of the engine one per shard. Empty: anywhere.
    pub cores: Vec<usize>,
}

static FORM: Form = Form {
    variable: HANDOVER_VARIABLE,
    names: &[
        "v", "link", "records", "ready", "shard_wake", "control_wake", "media", "reels", "http", "adapters", "boot", "io",
        "shards", "cores",
    ],
    bytes_max: TEXT_BYTES_MAX,
};

/// The numbers of a list, which is the value of `field` or a part of it.
fn list(fields: &Fields, field: &'static str, value: &str) -> Result<Vec<i32>, FieldsError> {
    let mut numbers = Vec::new();
    for item in value.split(',').filter(|item| !item.is_empty()) {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (i32, i32) = (fields.number_in(field, first)?, fields.number_in(field, last)?);
        let length = i64::from(last) - i64::from(first) + 1;
        if length < 1 || length > (LIST_MAX - numbers.len()) as i64 {
            return Err(fields.wrong(field, item, "a range, and no more numbers than there are streams,"));
        }
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

impl Handover {
    pub fn to_text(&self) -> String {
        let mut text = format!("v={HANDOVER_VERSION} link={}", self.link);
        let mut field = |name: &str, value: String| {
            if !value.is_empty() {
                // Writing to a String cannot fail.
                let _ = write!(text, " {name}={value}");
            }
        };
        field("records", self.records.map_or(String::new(), |number| number.to_string()));
        field("ready", self.ready.to_string());
        field("shard_wake", ranges(&self.shard_wake));
        field("control_wake", self.control_wake.to_string());
        field("media", self.media.iter().map(|group| ranges(group)).collect::<Vec<_>>().join(";"));
        field("reels", ranges(&self.reels));
        field("http", self.http.map_or(String::new(), |number| number.to_string()));
        field("adapters", self.adapters.map_or(String::new(), |number| number.to_string()));
        field("boot", self.boot.map_or(String::new(), |number| number.to_string()));
        field("io", self.io.name().into());
        field("shards", self.shards.to_string());
        field("cores", self.cores.iter().map(usize::to_string).collect::<Vec<_>>().join(","));
        text
    }

    pub fn parse(text: &str) -> Result<Handover, FieldsError> {
        let fields = FORM.split(text)?;
        let whole = |field| list(&fields, field, fields.optional(field).unwrap_or(""));
        if fields.number::<i32>("v")? != HANDOVER_VERSION {
            return Err(fields.wrong("v", fields.text("v")?, "1 (supervisor and child of the same build)"));
        }
        let shards: usize = fields.number("shards")?;
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(fields.wrong("shards", fields.text("shards")?, "1 to 64"));
        }
        let per_shard = |field: &'static str, numbers: Vec<i32>| {
            if numbers.len() == shards {
                Ok(numbers)
            } else {
                Err(fields.wrong(field, &ranges(&numbers), "one number per shard"))
            }
        };
        let media = fields.optional("media").map_or(Ok(Vec::new()), |groups| {
            let media = groups.split(';').map(|group| per_shard("media", list(&fields, "media", group)?));
            media.collect::<Result<Vec<_>, _>>()
        })?;
        if media.len() > MEDIA_GROUPS_MAX {
            return Err(fields.wrong("media", fields.text("media")?, "at most one group per address family"));
        }
        Ok(Handover {
            link: fields.number("link")?,
            records: fields.optional_number("records")?,
            ready: fields.number("ready")?,
            shard_wake: per_shard("shard_wake", whole("shard_wake")?)?,
            control_wake: fields.number("control_wake")?,
            media,
            reels: whole("reels")?,
            http: fields.optional_number("http")?,
            adapters: fields.optional_number("adapters")?,
            boot: fields.optional_number("boot")?,
            io: IoChoice::from_name(fields.text("io")?)
                .ok_or_else(|| fields.wrong("io", fields.text("io").unwrap_or(""), "auto, uring or socket"))?,
            shards,
            cores: whole("cores")?.into_iter().filter_map(|core| usize::try_from(core).ok()).collect(),
        })
    }
}

/// Numbers with commas; runs of three and more as a range.
fn ranges(numbers: &[i32]) -> String {
    let mut text = String::new();
    for run in numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
        let separator = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match run {
            [first, _, .., last] => write!(text, "{separator}{first}-{last}"),
            [first, second] => write!(text, "{separator}{first},{second}"),
            [first] => write!(text, "{separator}{first}"),
            [] => Ok(()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> Handover {
        Handover {
            link: 3,
            records: Some(4),
            ready: 5,
            shard_wake: vec![6, 7],
            control_wake: 8,
            media: vec![vec![9, 10], vec![11, 12]],
            reels: (20..=1043).collect(),
            http: None,
            adapters: None,
            boot: None,
            io: IoChoice::Uring,
            shards: 2,
            cores: vec![0, 1],
        }
    }

    #[test]
    fn text_and_back() {
        let engine = engine();
        assert_eq!(
            engine.to_text(),
            "v=1 link=3 records=4 ready=5 shard_wake=6,7 control_wake=8 media=9,10;11,12 reels=20-1043 io=uring \
             shards=2 cores=0,1"
        );
        assert_eq!(Handover::parse(&engine.to_text()), Ok(engine.clone()));
        let control = Handover {
            records: None,
            media: vec![],
            reels: vec![9, 4, 5, 6, 1],
            http: Some(30),
            adapters: Some(31),
            boot: Some(i32::MAX),
            io: IoChoice::Auto,
            cores: vec![],
            ..engine
        };
        assert_eq!(Handover::parse(&control.to_text()), Ok(control));
    }

    #[test]
    fn errors_name_the_field() {
        let good = engine().to_text();
        let cases = [
            ("link=3", "link=x", "field `link`"),
            ("link=3", "link=-3", "field `link`"),
            ("link=3 ", "", "field `link` is missing"),
            ("ready=5", "ready=5 ready=6", "field `ready` stands there twice"),
            ("shard_wake=6,7", "shard_wake=6", "field `shard_wake`"),
            ("media=9,10;", "media=9;", "field `media`"),
            ("media=", "media=1,2;3,4;", "field `media`"),
            ("reels=20-1043", "reels=20-1044", "field `reels`"),
            ("reels=20-1043", "reels=20-19", "field `reels`"),
            ("reels=20-1043", "reels=0-2147483647,0-2147483647", "field `reels`"),
            ("io=uring", "io=telegraph", "field `io`"),
            ("shards=2", "shards=0", "field `shards`"),
            ("shards=2", "shards=65", "field `shards`"),
            ("v=1", "v=2", "field `v`"),
            ("v=1", "v=1 colour=blue", "unknown field `colour`"),
            ("v=1", "v=1 nonsense", "`nonsense` is not of the form"),
        ];
        for (from, to, expected) in cases {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good);
            let error = Handover::parse(&text).expect_err(&text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let long = Handover::parse(&"x=1 ".repeat(5_000)).expect_err("too long").to_string();
        assert!(long.contains("longer than 16384 bytes"), "{long}");
    }
}
