//! `spillway limits`.

use super::{Limit, parse_limit};
use crate::cli::client::{self, ApiArgs};
use crate::cli::show::{Painted, bitrate, line, string};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway limits get
  spillway limits set viewers_per_room_max=200 egress_mbps_max=900     at once, and over restarts
  spillway limits set viewers_per_room_max=default                     back to the configuration")]
pub struct LimitsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// The limits in force, and what of them is used
    Get {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Set limits, at once and over restarts; nobody is sent away
    Set {
        /// As `spillway limits get` names them; 0 is no limit, default puts one back to the configuration
        #[arg(value_name = "NAME=N", required = true, value_parser = parse_setting)]
        settings: Vec<(String, Limit)>,
        #[command(flatten)]
        api: ApiArgs,
    },
}

fn parse_setting(text: &str) -> Result<(String, Limit), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\": write NAME=N, as viewers_max=1000"))?;
    Ok((name.to_owned(), parse_limit(value)?))
}

/// Each with what of it is used, as far as that is one number.
pub fn shown(limits: &Value) -> Painted {
    let used = |name: &str| match name {
        "publishers_max" => string(&limits["used"]["publishers"]),
        "viewers_max" => string(&limits["used"]["viewers"]),
        "egress_mbps_max" => bitrate(&limits["used"]["egress_bps"]),
        _ => String::new(),
    };
    let is_set = |name: &str| limits["set_here"].as_array().is_some_and(|set| set.iter().any(|set| set == name));
    let rows: Vec<[String; 4]> = limits
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| name.ends_with("_max") && value.is_number())
        .map(|(name, value)| {
            let limit = if *value == 0 { "none".to_owned() } else { string(value) };
            [name.clone(), limit, used(name), if is_set(name) { "API" } else { "configuration" }.to_owned()]
        })
        .collect();
    let page = json!({ "data": rows });
    use crate::cli::show::{Column, number, table, text};
    const COLUMNS: &[Column] = &[
        text("LIMIT", |row| string(&row[0])),
        number("VALUE", |row| string(&row[1])),
        number("USED", |row| string(&row[2])),
        text("SET BY", |row| string(&row[3])),
    ];
    match rows.is_empty() {
        true => line("no limits"),
        false => table(COLUMNS, &page, ""),
    }
}

pub fn run(args: LimitsArgs) -> ExitCode {
    match args.action {
        Action::Get { api } => client::run(&api, |server| server.get("/v1/limits"), shown),
        Action::Set { settings, api } => {
            let asked: Map<String, Value> = settings.into_iter().map(|(name, Limit(value))| (name, json!(value))).collect();
            client::run(&api, |server| server.ask("PATCH", "/v1/limits", Some(&Value::Object(asked))), shown)
        }
    }
}
