//! `spillway room`.

use super::{Limit, body, gone, parse_limit, text_field};
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, card, number, or_dash, since, string, text, yes_no};
use crate::cli::token::parse_room;
use crate::policy::recordings::Mode;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway room create lobby --viewers-max 500
  spillway room list
  spillway room update lobby --viewers-max default     what the node allows each room
  spillway room update lobby --record auto             every publisher is recorded
  spillway room end lobby                              sends everybody in it away
  spillway room bans lobby                             who may not come, and until when: room unban lobby BAN
  spillway room get lobby --json | jq .viewers")]
pub struct RoomArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Rooms that were declared or hold somebody
    List {
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Declare a room; rooms need not be declared to be used, one with settings does
    Create {
        #[arg(value_parser = parse_room)]
        room: String,
        /// How many may watch at once; 0: no limit, default: what the node allows each room
        #[arg(long, value_name = "N", value_parser = parse_limit)]
        viewers_max: Option<Limit>,
        /// auto: record each publisher; manual: what is asked for; off: nothing [default: manual]
        #[arg(long, value_name = "MODE", value_parser = Mode::ALL.map(Mode::name))]
        record: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// One room
    Get(Named),
    /// Change a declared room's settings; they count from the next join on
    Update {
        #[arg(value_parser = parse_room)]
        room: String,
        /// How many may watch at once; 0: no limit, default: what the node allows each room
        #[arg(long, value_name = "N", value_parser = parse_limit)]
        viewers_max: Option<Limit>,
        /// auto: record each publisher; manual: what is asked for; off: nothing [default: manual]
        #[arg(long, value_name = "MODE", value_parser = Mode::ALL.map(Mode::name))]
        record: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Send everybody in a room away; whoever still has a valid token may come again
    End(Named),
    /// Who was kicked out with --ban and may not come yet
    Bans(Named),
    /// Let somebody come again before his ban ends
    Unban {
        #[arg(value_parser = parse_room)]
        room: String,
        /// As `spillway room bans` shows it
        ban: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Take a room's declaration back; who is in it stays
    Delete(Named),
}

#[derive(Args, Clone, Debug)]
struct Named {
    #[arg(value_parser = parse_room)]
    room: String,
    #[command(flatten)]
    api: ApiArgs,
}

pub const COLUMNS: &[Column] = &[
    text("ROOM", |room| string(&room["id"])),
    text("LIVE", |room| yes_no(&room["live"])),
    number("VIEWERS", |room| string(&room["viewers"])),
    number("MAX", |room| or_dash(&room["viewers_max"])),
    text("DECLARED", |room| yes_no(&room["declared"])),
    text("STREAM", |room| or_dash(&room["stream"])),
];

const BANS: &[Column] =
    &[text("BAN", |ban| string(&ban["id"])), text("SUB", |ban| string(&ban["sub"])), text("UNTIL", |ban| string(&ban["until"]))];

pub fn card_of(room: &Value) -> Painted {
    let max = match &room["viewers_max"] {
        Value::Null => "what the node allows each room".to_owned(),
        max if *max == 0 => "no limit".to_owned(),
        max => string(max),
    };
    let declared = match room["declared"] == true {
        true => format!("{} ago", since(&room["created_at"])),
        false => "no: it is there as long as somebody is in it".to_owned(),
    };
    card(&[
        ("room", string(&room["id"])),
        ("live", yes_no(&room["live"])),
        ("stream", string(&room["stream"])),
        ("viewers", string(&room["viewers"])),
        ("viewers max", max),
        ("record", string(&room["record"])),
        ("declared", declared),
    ])
}

pub fn run(args: RoomArgs) -> ExitCode {
    let path = |room: &str| format!("/v1/rooms/{}", escaped(room));
    match args.action {
        Action::List { limit, api } => client::run(
            &api,
            |server| server.list("/v1/rooms", &[], limit),
            |page| show::table(COLUMNS, page, "no rooms: nobody is here, and none is declared"),
        ),
        Action::Create { room, viewers_max, record, api } => {
            let asked = body([("id", Some(json!(room))), ("viewers_max", viewers_max.map(|max| json!(max.0))), ("record", text_field(&record))]);
            client::run(&api, |server| server.ask("POST", "/v1/rooms", Some(&asked)), card_of)
        }
        Action::Get(Named { room, api }) => client::run(&api, |server| server.get(&path(&room)), card_of),
        Action::Update { room, viewers_max, record, api } => {
            let asked = body([("viewers_max", viewers_max.map(|max| json!(max.0))), ("record", text_field(&record))]);
            client::run(&api, |server| server.ask("PATCH", &path(&room), Some(&asked)), card_of)
        }
        Action::End(Named { room, api }) => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/end", path(&room)), None),
            |_| gone("everybody was sent away from", &room),
        ),
        Action::Bans(Named { room, api }) => client::run(
            &api,
            |server| server.list(&format!("{}/bans", path(&room)), &[], None),
            |page| show::table(BANS, page, "nobody is banned"),
        ),
        Action::Unban { room, ban, api } => client::run(
            &api,
            |server| server.ask("DELETE", &format!("{}/bans/{}", path(&room), escaped(&ban)), None),
            |_| gone("lifted: the ban", &ban),
        ),
        Action::Delete(Named { room, api }) => client::run(
            &api,
            |server| server.ask("DELETE", &path(&room), None),
            |_| gone("taken back: the declaration of", &room),
        ),
    }
}
