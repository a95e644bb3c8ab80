//! `spillway webhook`.

use super::{body, gone, text_field};
use crate::cli::client::{self, ApiArgs, escaped};
use crate::cli::show::{self, Column, Painted, card, line, number, or_dash, since, string, text, yes_no};
use crate::cli::token::{parse_room, parse_ttl};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway webhook create https://example.org/hooks --types stream.started,stream.ended     its secret is shown this once
  spillway webhook test wh_01m7zqmsa62mx5ksr000000004
  spillway webhook deliveries wh_01m7zqmsa62mx5ksr000000004
  spillway webhook retry wh_01m7zqmsa62mx5ksr000000004 dl_01m7zqmsa62mx5ksr000000009
  spillway webhook update wh_01m7zqmsa62mx5ksr000000004 --enabled false")]
pub struct WebhookArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Clone, Debug)]
enum Action {
    /// Webhooks, oldest first, without their secrets
    List {
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Have events sent to a URL; the secret that signs them is shown this once
    Create {
        url: String,
        /// These types alone, with commas between them
        #[arg(long, value_delimiter = ',')]
        types: Vec<String>,
        /// Of this room alone
        #[arg(long, value_parser = parse_room)]
        room: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// One webhook
    Get(Named),
    /// Change a webhook
    Update {
        /// As `spillway webhook list` shows it
        webhook: String,
        #[arg(long)]
        url: Option<String>,
        /// These types alone, with commas between them
        #[arg(long, value_delimiter = ',')]
        types: Option<Vec<String>>,
        /// Whether anything is sent
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Delete a webhook: nothing is sent any more
    Delete(Named),
    /// Give a webhook another secret; both sign for a while
    Rotate {
        /// As `spillway webhook list` shows it
        webhook: String,
        /// How long the secret before goes on signing, as 1d
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        grace: Option<Duration>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Send a webhook an event that means nothing
    Test(Named),
    /// What was sent, and how it went
    Deliveries {
        /// As `spillway webhook list` shows it
        webhook: String,
        /// Show at most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Send a delivery once more
    Retry {
        /// As `spillway webhook list` shows it
        webhook: String,
        /// As `spillway webhook deliveries` shows it
        delivery: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Args, Clone, Debug)]
struct Named {
    /// As `spillway webhook list` shows it
    webhook: String,
    #[command(flatten)]
    api: ApiArgs,
}

fn types(webhook: &Value) -> String {
    let names: Vec<String> = webhook["types"].as_array().into_iter().flatten().map(string).collect();
    if names.is_empty() { "all".to_owned() } else { names.join(",") }
}

pub const COLUMNS: &[Column] = &[
    text("WEBHOOK", |webhook| string(&webhook["id"])),
    text("URL", |webhook| string(&webhook["url"])),
    text("TYPES", types),
    text("ROOM", |webhook| or_dash(&webhook["room"])),
    text("ENABLED", |webhook| yes_no(&webhook["enabled"])),
    number("AGE", |webhook| since(&webhook["created_at"])),
];

pub const DELIVERIES: &[Column] = &[
    text("DELIVERY", |delivery| string(&delivery["id"])),
    text("TYPE", |delivery| string(&delivery["type"])),
    text("STATE", |delivery| or_dash(&delivery["status"])),
    number("TRIES", |delivery| or_dash(&delivery["attempts"])),
    number("ANSWER", |delivery| or_dash(&delivery["response_status"])),
    number("AGE", |delivery| since(&delivery["created_at"])),
    text("ERROR", |delivery| or_dash(&delivery["error"])),
];

pub fn card_of(webhook: &Value) -> Painted {
    let secret = match &webhook["secret"] {
        Value::String(secret) => format!("{secret}\nshown this once: keep it now"),
        _ => String::new(),
    };
    let since_text = |name: &str| webhook[name].as_str().map(|_| format!("{} ago", since(&webhook[name]))).unwrap_or_default();
    card(&[
        ("webhook", string(&webhook["id"])),
        ("url", string(&webhook["url"])),
        ("types", types(webhook)),
        ("room", string(&webhook["room"])),
        ("enabled", yes_no(&webhook["enabled"])),
        ("disabled", string(&webhook["disabled_reason"])),
        ("failing", since_text("failing_since")),
        ("made", since_text("created_at")),
        ("secret", secret),
    ])
}

/// What one attempt came to.
pub fn test_line(test: &Value) -> Painted {
    let status = test["status"].as_u64().map(|status| format!(", answered with {status}")).unwrap_or_default();
    let error = test["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
    line(match test["delivered"] == true {
        true => format!("delivered{status} after {} ms", test["milliseconds"]),
        false => format!("not delivered{status}{error}"),
    })
}

pub fn run(args: WebhookArgs) -> ExitCode {
    let path = |webhook: &str| format!("/v1/webhooks/{}", escaped(webhook));
    match args.action {
        Action::List { limit, api } => client::run(
            &api,
            |server| server.list("/v1/webhooks", &[], limit),
            |page| show::table(COLUMNS, page, "no webhooks"),
        ),
        Action::Create { url, types, room, api } => {
            let types = (!types.is_empty()).then(|| json!(types));
            let asked = body([("url", Some(json!(url))), ("types", types), ("room", text_field(&room))]);
            client::run(&api, |server| server.ask("POST", "/v1/webhooks", Some(&asked)), card_of)
        }
        Action::Get(Named { webhook, api }) => client::run(&api, |server| server.get(&path(&webhook)), card_of),
        Action::Update { webhook, url, types, enabled, api } => {
            let asked = body([
                ("url", text_field(&url)),
                ("types", types.map(|types| json!(types))),
                ("enabled", enabled.map(|enabled| json!(enabled))),
            ]);
            client::run(&api, |server| server.ask("PATCH", &path(&webhook), Some(&asked)), card_of)
        }
        Action::Delete(Named { webhook, api }) => {
            client::run(&api, |server| server.ask("DELETE", &path(&webhook), None), |_| gone("deleted", &webhook))
        }
        Action::Rotate { webhook, grace, api } => {
            let asked = body([("grace_seconds", grace.map(|grace| json!(grace.as_secs())))]);
            let asked_of = format!("{}/rotate", path(&webhook));
            client::run(&api, |server| server.ask("POST", &asked_of, Some(&asked)), card_of)
        }
        Action::Test(Named { webhook, api }) => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/test", path(&webhook)), None),
            test_line,
        ),
        Action::Deliveries { webhook, limit, api } => client::run(
            &api,
            |server| server.list(&format!("{}/deliveries", path(&webhook)), &[], limit),
            |page| show::table(DELIVERIES, page, "nothing was sent yet"),
        ),
        Action::Retry { webhook, delivery, api } => client::run(
            &api,
            |server| server.ask("POST", &format!("{}/deliveries/{}/retry", path(&webhook), escaped(&delivery)), None),
            |_| line(format!("{delivery} is on its way once more")),
        ),
    }
}
