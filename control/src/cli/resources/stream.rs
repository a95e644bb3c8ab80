//! `spillway stream`.

use super::gone;
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, bitrate, card, line, number, or_dash, percent, since, string, text, yes_no};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway stream list
  spillway stream get st_01m7zqms8v0000000g00000000          its tracks, and what to put right at the publisher
  spillway stream keyframe st_01m7zqms8v0000000g00000000     asks its publisher for a picture to begin with
  spillway stream end $(spillway stream list --room lobby --json | jq -r .data[0].id)")]
pub struct StreamArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Streams, oldest first
    List {
        /// Of this room alone
        #[arg(long)]
        room: Option<String>,
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// One stream: its tracks, and what viewers will notice
    Get(Named),
    /// Send a stream's publisher and viewers away
    End(Named),
    /// Ask a stream's publisher for a keyframe
    Keyframe(Named),
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// As `spillway stream list` shows it
    stream: String,
    #[command(flatten)]
    api: ApiArgs,
}

fn tracks(stream: &Value) -> impl Iterator<Item = &Value> {
    stream["tracks"].as_array().into_iter().flatten()
}

fn video(stream: &Value, field: &str) -> Value {
    tracks(stream).find(|track| track["kind"] == "video").map_or(Value::Null, |track| track[field].clone())
}

pub const COLUMNS: &[Column] = &[
    text("STREAM", |stream| string(&stream["id"])),
    text("ROOM", |stream| string(&stream["room"])),
    text("LIVE", |stream| yes_no(&stream["live"])),
    number("VIEWERS", |stream| string(&stream["viewers"])),
    number("BITRATE", |stream| bitrate(&stream["bitrate_bps"])),
    number("FPS", |stream| or_dash(&video(stream, "frames_per_second"))),
    number("LOSS", |stream| percent(&video(stream, "loss_ratio"))),
    text("CODECS", |stream| tracks(stream).map(|track| string(&track["codec"])).collect::<Vec<_>>().join(" ")),
    number("AGE", |stream| since(&stream["started_at"])),
    text("WARNINGS", |stream| {
        let codes = stream["warnings"].as_array().into_iter().flatten().map(|warning| string(&warning["code"]));
        codes.collect::<Vec<_>>().join(" ")
    }),
];

pub fn card_of(stream: &Value) -> Painted {
    let publisher = match &stream["publisher"] {
        Value::Null => "gone; its viewers wait".to_owned(),
        publisher => format!("{} (account {})", string(&publisher["sub"]), or_dash(&publisher["account"])),
    };
    let mut facts = vec![
        ("stream", string(&stream["id"])),
        ("room", string(&stream["room"])),
        ("live", yes_no(&stream["live"])),
        ("started", format!("{} ago", since(&stream["started_at"]))),
        ("publisher", publisher),
        ("viewers", string(&stream["viewers"])),
        ("bitrate", bitrate(&stream["bitrate_bps"])),
    ];
    for track in tracks(stream) {
        let mut words = vec![string(&track["codec"]), bitrate(&track["bitrate_bps"])];
        if track["kind"] == "video" {
            words.push(format!("{} fps", string(&track["frames_per_second"])));
            if let Some(ms @ 1..) = track["keyframe_interval_ms"].as_u64() {
                words.push(format!("a keyframe each {:.1} s", ms as f64 / 1_000.0));
            }
        }
        words.push(format!("{} lost", percent(&track["loss_ratio"])));
        if track["live"] != true {
            words.push("no packets come".to_owned());
        }
        facts.push((if track["kind"] == "video" { "video" } else { "audio" }, words.join(", ")));
    }
    for warning in stream["warnings"].as_array().into_iter().flatten() {
        facts.push(("warning", format!("{}: {}", string(&warning["code"]), string(&warning["detail"]))));
    }
    card(&facts)
}

pub fn run(args: StreamArgs) -> ExitCode {
    let path = |stream: &str| format!("/v1/streams/{}", escaped(stream));
    match args.action {
        Action::List { room, limit, api } => client::run(
            &api,
            |server| server.list("/v1/streams", &[("room", room.as_deref())], limit),
            |page| show::table(COLUMNS, page, "no streams: nobody publishes"),
        ),
        Action::Get(Named { stream, api }) => client::run(&api, |server| server.get(&path(&stream)), card_of),
        Action::End(Named { stream, api }) => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/end", path(&stream)), None),
            |_| gone("ended", &stream),
        ),
        Action::Keyframe(Named { stream, api }) => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/keyframe", path(&stream)), None),
            |_| line(format!("asked the publisher of {stream} for a keyframe")),
        ),
    }
}
