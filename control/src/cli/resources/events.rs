//! `spillway events`: what happens on a node, as it happens, over broken lines and restarts of control.

use crate::cli::client::{self, Api, ApiArgs, escaped};
use crate::cli::show::string;
use crate::supervisor::terminal::{Colour, coloured, say, warn};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway events
  spillway events --room lobby --types viewer.joined,viewer.left
  spillway events --json --count 1 --types stream.started | jq -r .room      waits for the next stream
  spillway events --after ev_01m7zqmsa62mx5ksr000000004                      what came since then, too

A line that breaks is begun anew where it was: what came meanwhile is told, or that something was missed.")]
pub struct EventsArgs {
    /// Of these types alone, with commas between them; control/README.md has them all
    #[arg(long, value_name = "TYPES")]
    types: Option<String>,
    /// Of this room alone
    #[arg(long)]
    room: Option<String>,
    /// Begin behind the event of this id
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    api: ApiArgs,
}

/// `18:02:11  stream.started   demo  st_...`
fn shown(event: &Value) -> String {
    let time = string(&event["time"]);
    let clock = time.get(11..19).unwrap_or(&time).to_owned();
    let mut words = vec![coloured(Colour::Dim, &clock), format!("{:<16}", string(&event["type"]))];
    words.extend(event["room"].as_str().map(str::to_owned));
    let data = event["data"].as_object().into_iter().flatten();
    for (name, value) in data.filter(|(_, value)| !value.is_null() && **value != "") {
        // The room's own events carry its name a second time.
        match name.as_str() {
            "id" if *value == event["room"] => {}
            "id" => words.push(string(value)),
            name => words.push(format!("{name}={}", string(value))),
        }
    }
    words.join("  ").chars().map(|c| if c.is_control() && c != '\x1b' { ' ' } else { c }).collect()
}

pub fn run(args: EventsArgs) -> ExitCode {
    let fields = [("types", &args.types), ("room", &args.room)];
    let fields = fields.iter().filter_map(|(name, value)| Some(format!("{name}={}", escaped(value.as_deref()?))));
    let path = format!("/v1/events?{}", fields.collect::<Vec<_>>().join("&"));
    let mut last = args.after.clone();
    let mut left = args.count;
    let mut wait = RETRY_FIRST;
    let mut is_news = true;
    loop {
        let mut has_come = false;
        // Found anew each time: a node that was started again may stand elsewhere.
        let followed = Api::find(&args.api).and_then(|server| {
            server.follow(&path, last.clone().as_deref(), |id, data| {
                has_come = true;
                last = Some(id.to_owned());
                match args.api.json {
                    true => say(data),
                    false => say(shown(&serde_json::from_str(data).unwrap_or_default())),
                }
                left = left.map(|left| left.saturating_sub(1));
                left != Some(0)
            })
        });
        if left == Some(0) {
            return ExitCode::SUCCESS;
        }
        match followed {
            // A line that stood is begun anew at once; one that broke more than once waits.
            Ok(()) if has_come => {
                wait = RETRY_FIRST;
                is_news = true;
            }
            Ok(()) => {}
            Err(error) if error.is_passing() || last.is_some() && matches!(error, client::ApiError::NoNode(_)) => {
                if std::mem::take(&mut is_news) {
                    warn(format!("{error}; trying again"));
                }
            }
            Err(error) => return client::failed(&args.api, &error),
        }
        std::thread::sleep(wait);
        wait = (wait * 2).min(RETRY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_line_that_names_nothing_twice() {
        let event = json!({ "id": "ev_1", "type": "viewer.left", "time": "2026-11-21T18:59:33.830Z", "room": "demo",
            "data": { "id": "vw_1", "sub": "anna\x1b\n", "account": "", "reason": "kicked" } });
        assert_eq!(shown(&event).replace('\x1b', "?"), "18:59:33  viewer.left       demo  vw_1  reason=kicked  sub=anna? ");
        let event = json!({ "type": "room.created", "time": "2026-11-21T18:59:33.830Z", "room": "a", "data": { "id": "a" } });
        assert_eq!(shown(&event), "18:59:33  room.created      a");
    }
}
