//! `spillway viewer`.

use super::gone;
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, card, number, or_dash, percent, since, string, text, yes_no};
use crate::cli::token::parse_ttl;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway viewer list --room lobby
  spillway viewer list --limit 20
  spillway viewer kick vw_01m7zqmsa62mx5ksr000000004               with a valid token it may come again
  spillway viewer kick vw_01m7zqmsa62mx5ksr000000004 --ban 1h")]
pub struct ViewerArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Viewers, by the time they came
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
    /// One viewer
    Get(Named),
    /// Send a viewer away; with a valid token it may come again, unless it is banned
    Kick {
        /// As `spillway viewer list` shows it
        viewer: String,
        /// Nobody with its token's `sub` may come to its room for so long, as 10m or 1d
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        ban: Option<Duration>,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// As `spillway viewer list` shows it
    viewer: String,
    #[command(flatten)]
    api: ApiArgs,
}

pub const COLUMNS: &[Column] = &[
    text("VIEWER", |viewer| string(&viewer["id"])),
    text("ROOM", |viewer| string(&viewer["room"])),
    text("SUB", |viewer| or_dash(&viewer["sub"])),
    text("ACCOUNT", |viewer| or_dash(&viewer["account"])),
    text("CONNECTED", |viewer| yes_no(&viewer["connected"])),
    number("HERE FOR", |viewer| since(&viewer["joined_at"])),
    number("RTT", |viewer| ms(&viewer["quality"]["round_trip_ms"])),
    number("LOSS", |viewer| percent(&reception(viewer)["loss_ratio"])),
    number("FREEZES", |viewer| or_dash(&viewer["quality"]["freezes_estimated"])),
];

fn ms(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"))
}

/// What it reports of its video; of its audio where there is no video.
fn reception(viewer: &Value) -> &Value {
    let quality = &viewer["quality"];
    if quality["video"].is_null() { &quality["audio"] } else { &quality["video"] }
}

pub fn card_of(viewer: &Value) -> Painted {
    let codecs = viewer["codecs"].as_array().into_iter().flatten().map(string).collect::<Vec<_>>().join(" ");
    let mut facts = vec![
        ("viewer", string(&viewer["id"])),
        ("room", string(&viewer["room"])),
        ("sub", string(&viewer["sub"])),
        ("account", string(&viewer["account"])),
        ("here for", since(&viewer["joined_at"])),
        ("connected", yes_no(&viewer["connected"])),
        ("protocol", string(&viewer["protocol"])),
        ("codecs", codecs),
    ];
    let quality = &viewer["quality"];
    if quality.is_object() {
        let heard = |kind: &str| match &quality[kind] {
            Value::Null => String::new(),
            heard => format!("{} lost ({} packets so far), jitter {}", percent(&heard["loss_ratio"]), heard["packets_lost"], ms(&heard["jitter_ms"])),
        };
        facts.extend([
            ("first picture", format!("after {}", ms(&quality["join"]["first_picture_ms"]))),
            ("round trip", format!("{} (least {})", ms(&quality["round_trip_ms"]), ms(&quality["round_trip_min_ms"]))),
            ("video", heard("video")),
            ("audio", heard("audio")),
            ("repair", format!("{} packets asked for again, {} sent again", quality["packets_nacked"], quality["packets_resent"])),
            ("keyframes", format!("{} asked for", quality["keyframe_requests"])),
            ("freezes", format!("about {}, {} in all", quality["freezes_estimated"], ms(&quality["frozen_ms_estimated"]))),
        ]);
    }
    card(&facts)
}

pub fn run(args: ViewerArgs) -> ExitCode {
    let path = |viewer: &str| format!("/v1/viewers/{}", escaped(viewer));
    match args.action {
        Action::List { room, limit, api } => client::run(
            &api,
            |server| server.list("/v1/viewers", &[("room", room.as_deref())], limit),
            |page| show::table(COLUMNS, page, "no viewers"),
        ),
        Action::Get(Named { viewer, api }) => client::run(&api, |server| server.get(&path(&viewer)), card_of),
        Action::Kick { viewer, ban, api } => {
            let asked = ban.map(|ban| json!({ "ban_seconds": ban.as_secs() }));
            client::run(
                &api,
                |server| server.ask("POST", &format!("{}/kick", path(&viewer)), asked.as_ref()),
                |_| gone("sent away", &viewer),
            )
        }
    }
}
