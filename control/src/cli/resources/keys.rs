//! `spillway keys`.

use super::{body, gone, text_field};
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, card, number, or_dash, since, string, text};
use crate::cli::token::{parse_room, parse_ttl};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway keys create --role admin --name backend           everything; its secret is shown this once
  spillway keys create --role stream --room lobby --name OBS     OBS's Bearer Token
  KEY=$(spillway keys create --role read --json | jq -r .secret)
  spillway keys rotate key_01m7zqmsa62mx5ksr000000004 --grace 1h
  spillway keys revoke key_01m7zqmsa62mx5ksr000000004")]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Keys, oldest first, without their secrets
    List {
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Make a key; its secret is shown this once
    Create {
        /// admin (everything), read (everything that changes nothing) or stream (publish in its room)
        #[arg(long, value_parser = ["admin", "read", "stream"])]
        role: String,
        /// For people
        #[arg(long)]
        name: Option<String>,
        /// Of a stream key: its room
        #[arg(long, value_parser = parse_room)]
        room: Option<String>,
        /// Who pays
        #[arg(long)]
        account: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Give a key another secret
    Rotate {
        /// As `spillway keys list` shows it
        key: String,
        /// How long the secret before goes on, as 30m or 1d, up to a week [default: not at all]
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        grace: Option<Duration>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Revoke a key: it opens nothing from the next request on
    Revoke {
        /// As `spillway keys list` shows it
        key: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub const COLUMNS: &[Column] = &[
    text("KEY", |key| string(&key["id"])),
    text("ROLE", |key| string(&key["role"])),
    text("NAME", |key| or_dash(&key["name"])),
    text("ROOM", |key| or_dash(&key["room"])),
    text("ACCOUNT", |key| or_dash(&key["account"])),
    number("AGE", |key| since(&key["created_at"])),
    number("SECRET'S AGE", |key| since(&key["rotated_at"])),
];

pub fn card_with_secret(key: &Value) -> Painted {
    card(&[
        ("key", string(&key["id"])),
        ("role", string(&key["role"])),
        ("name", string(&key["name"])),
        ("room", string(&key["room"])),
        ("account", string(&key["account"])),
        ("secret", format!("{}\nshown this once: keep it now", string(&key["secret"]))),
    ])
}

pub fn run(args: KeysArgs) -> ExitCode {
    let path = |key: &str| format!("/v1/keys/{}", escaped(key));
    match args.action {
        Action::List { limit, api } => client::run(
            &api,
            |server| server.list("/v1/keys", &[], limit),
            |page| show::table(COLUMNS, page, "no keys"),
        ),
        Action::Create { role, name, room, account, api } => {
            let asked = body([
                ("role", Some(json!(role))),
                ("name", text_field(&name)),
                ("room", text_field(&room)),
                ("account", text_field(&account)),
            ]);
            client::run(&api, |server| server.ask("POST", "/v1/keys", Some(&asked)), card_with_secret)
        }
        Action::Rotate { key, grace, api } => {
            let asked = body([("grace_seconds", grace.map(|grace| json!(grace.as_secs())))]);
            let asked_of = format!("{}/rotate", path(&key));
            client::run(&api, |server| server.ask("POST", &asked_of, Some(&asked)), card_with_secret)
        }
        Action::Revoke { key, api } => {
            client::run(&api, |server| server.ask("DELETE", &path(&key), None), |_| gone("revoked", &key))
        }
    }
}
