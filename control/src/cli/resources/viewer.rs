//! `spillway viewer`.

use super::gone;
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, bitrate, card, number, or_dash, percent, since, string, text, yes_no};
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
    number("RTT", |viewer| viewer["rtt_ms"].as_f64().map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"))),
    number("LOSS", |viewer| percent(&viewer["loss_ratio"])),
];

/// What is told of viewers in words of its own; a server that knows more shows the rest as it comes.
const TOLD: [&str; 8] = ["id", "room", "sub", "account", "joined_at", "connected", "protocol", "codecs"];

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
    for (name, value) in viewer.as_object().into_iter().flatten().filter(|(name, _)| !TOLD.contains(&name.as_str())) {
        let shown = match name.as_str() {
            name if name.ends_with("_ratio") => percent(value),
            name if name.ends_with("_bps") => bitrate(value),
            _ => string(value),
        };
        facts.push((name, shown));
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
