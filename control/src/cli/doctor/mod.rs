//! `spillway doctor`: looks for what will not work on this machine, and says one thing to do about each. Changes
//! nothing: where a node runs it joins it as a publisher of a room of its own for a second, and leaves.

mod ice;
mod machine;

use super::{Exit, ServeArgs};
use crate::config::Settings;
use crate::data_dir::DataDir;
use crate::supervisor::lock;
use crate::supervisor::node_json::NodeJson;
use crate::supervisor::terminal::{Colour, coloured, say};
use clap::Args;
use serde::Serialize;
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway doctor                                   the node of ./spillway-data, or what one would find here
  spillway doctor --config /etc/spillway/spillway.toml --data /var/lib/spillway
  spillway doctor --json | jq -r '.findings[] | select(.level != \"ok\") | .fix'

Exit codes: 0 nothing breaks (warnings are possible), 1 something will break")]
pub struct DoctorArgs {
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    /// Something will break.
    Fault,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Finding {
    check: &'static str,
    level: Level,
    says: String,
    /// One command, or one thing to do.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Finding {
        Finding { check, level: Level::Ok, says: says.into(), fix: None }
    }
    fn warning(check: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, level: Level::Warning, says: says.into(), fix: Some(fix.into()) }
    }
    fn fault(check: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, level: Level::Fault, says: says.into(), fix: Some(fix.into()) }
    }
}

/// A message of ours says what is wrong up to its first `; ` or `: run`, and behind it what to do.
fn split_fix(text: &str) -> (String, String) {
    let cut = text.find("; ").map(|at| (at, 2)).or_else(|| text.find(": run ").map(|at| (at, 2)));
    match cut {
        Some((at, width)) => (text[..at].to_owned(), text[at + width..].to_owned()),
        None => (text.to_owned(), "as the message says".to_owned()),
    }
}

/// A node that runs on the data directory.
pub struct Running {
    data: DataDir,
    supervisor: u32,
    facts: NodeJson,
}

pub fn run(args: &DoctorArgs) -> ExitCode {
    let findings = examine(&args.serve);
    let faults = findings.iter().filter(|finding| finding.level == Level::Fault).count();
    let warnings = findings.iter().filter(|finding| finding.level == Level::Warning).count();
    if args.json {
        say(serde_json::json!({ "ok": faults == 0, "findings": findings }).to_string());
    } else {
        findings.iter().for_each(|finding| say(line_of(finding)));
        let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        say(match faults + warnings {
            0 => "nothing to do".to_owned(),
            _ => format!("{}, {}", count(faults, "fault"), count(warnings, "warning")),
        });
    }
    if faults == 0 { ExitCode::SUCCESS } else { Exit::Failed.into() }
}

fn line_of(finding: &Finding) -> String {
    let mark = match finding.level {
        Level::Ok => coloured(Colour::Green, "ok     "),
        Level::Warning => coloured(Colour::Yellow, "warning"),
        Level::Fault => coloured(Colour::Red, "fault  "),
    };
    let fix = finding.fix.as_ref().map(|fix| format!("\n{:17}fix: {fix}", "")).unwrap_or_default();
    format!("{mark}  {:<7} {}{fix}", finding.check, finding.says)
}

fn examine(args: &ServeArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    let settings = match args.configuration() {
        Ok(config) => {
            findings.extend(config.warnings.iter().map(|text| {
                let (says, fix) = split_fix(text);
                Finding::warning("config", says, fix)
            }));
            if config.warnings.is_empty() {
                findings.push(Finding::ok("config", "can be read"));
            }
            Some(config.settings())
        }
        Err(error) => {
            let (says, fix) = split_fix(&error.to_string());
            findings.push(Finding::fault("config", says, fix));
            None
        }
    };
    let data = DataDir::existing(&args.data.data);
    let running = data.clone().and_then(|data| {
        let supervisor = lock::holder(&data)?;
        Some(Running { supervisor, facts: NodeJson::read(&data)?, data })
    });
    findings.push(node(&args.data.data.display().to_string(), data.as_ref(), running.as_ref()));
    findings.extend(machine::data_directory(&args.data.data, data.as_ref()));
    findings.push(machine::disk(&args.data.data));
    findings.extend(settings.as_ref().map(|settings| machine::recordings(&settings.recording.directory(&args.data.data))));
    let pid = running.as_ref().map(|running| running.supervisor);
    let io = settings.as_ref().map_or("auto", |settings: &Settings| settings.io.as_str());
    findings.extend(machine::engine(io, running.as_ref().map(|running| &running.facts)));
    findings.push(machine::memlock(pid));
    findings.push(machine::priority(pid, settings.as_ref().and_then(|settings| settings.shards).map(|shards| shards as usize)));
    findings.push(machine::files(pid));
    findings.push(machine::clock());
    match (&running, settings) {
        (Some(running), _) => {
            findings.extend(machine::system_buffers(running.supervisor));
            findings.extend(ice::of_node(running));
        }
        (None, Some(settings)) => findings.extend(ice::without_node(&settings)),
        (None, None) => {}
    }
    findings
}

fn node(path: &str, data: Option<&DataDir>, running: Option<&Running>) -> Finding {
    match (data.and_then(lock::holder), running) {
        (_, Some(running)) => {
            let NodeJson { version, http, media, .. } = &running.facts;
            Finding::ok("node", format!("{version} runs on {path}: HTTP {http}, media {media}/udp"))
        }
        (Some(pid), None) => Finding::warning(
            "node",
            format!("a supervisor runs on {path} (pid {pid}), but its node is not ready"),
            format!("look at what it prints, or at: journalctl _PID={pid}"),
        ),
        (None, None) => Finding::ok("node", format!("none runs on {path}: what one would find here is looked at")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_into_what_is_wrong_and_what_to_do() {
        assert_eq!(split_fix("it is taken; stop that process"), ("it is taken".into(), "stop that process".into()));
        assert_eq!(split_fix("switched off: run `sysctl -w a=0`"), ("switched off".into(), "run `sysctl -w a=0`".into()));
        assert_eq!(split_fix("odd").0, "odd");
    }

    #[test]
    fn a_finding_that_is_not_good_has_its_fix_below() {
        let line = line_of(&Finding::fault("clock", "is wrong", "timedatectl set-ntp true"));
        assert_eq!(line, "fault    clock   is wrong\n                 fix: timedatectl set-ntp true");
        assert_eq!(line_of(&Finding::ok("disk", "9 GiB free")), "ok       disk    9 GiB free");
    }

    #[test]
    fn a_broken_configuration_is_a_fault_and_the_rest_is_looked_at_all_the_same() {
        let scratch = crate::data_dir::tests::Scratch::new();
        let file = scratch.0.join("spillway.toml");
        std::fs::write(&file, "[limits]\nviewer_max = 3\n").unwrap();
        let data = super::super::DataArgs { data: scratch.0.join("data") };
        let args = ServeArgs { data, config: Some(file), http: None, metrics: None, media: vec![], announce: vec![], io: None, shards: None };
        let findings = examine(&args);
        let of = |check: &str| findings.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(of("config").level, Level::Fault);
        assert!(of("config").fix.as_ref().unwrap().contains("viewers_max"), "{findings:?}");
        assert!(findings.iter().any(|finding| finding.check == "disk"));
        assert!(findings.iter().all(|finding| finding.fix.is_some() == (finding.level != Level::Ok)));
    }
}
