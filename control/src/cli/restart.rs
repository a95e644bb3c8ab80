//! `spillway restart control|engine`: ends that process; the supervisor starts it anew, from the binary as it
//! stands on disk now.

use super::{DataArgs, Exit, stop};
use crate::data_dir::DataDir;
use crate::supervisor::node_json::NodeJson;
use crate::supervisor::sys::Pidfd;
use crate::supervisor::terminal::{complain, warn};
use clap::{Args, ValueEnum};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway restart control      viewers lose nothing
  spillway restart engine       pages show picture again by themselves")]
pub struct RestartArgs {
    #[arg(value_enum)]
    pub process: Restartable,
    #[command(flatten)]
    pub data: DataArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Restartable {
    Control,
    Engine,
}

impl Restartable {
    fn name(self) -> &'static str {
        match self {
            Restartable::Control => "control",
            Restartable::Engine => "engine",
        }
    }
    fn pid(self, node: &NodeJson) -> Option<u32> {
        match self {
            Restartable::Control => node.control_pid,
            Restartable::Engine => node.engine_pid,
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(3);
/// A restart is a fork, an exec and some mappings; a supervisor that backs off waits 2 s.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub fn run(args: RestartArgs) -> ExitCode {
    let Some((data, supervisor_pid, supervisor)) = stop::running(&args.data.data) else {
        return Exit::NotFound.into();
    };
    let name = args.process.name();
    let ready_pid = || ready_pid(&data, supervisor_pid, args.process);
    let process = ready_pid().and_then(|pid| Some((pid, Pidfd::open(pid).ok()?)));
    let Some((old, process)) = process.filter(|(pid, _)| ready_pid() == Some(*pid)) else {
        complain(format!("{name} is not ready just now, so there is nothing to restart; see the node's output"));
        return Exit::Failed.into();
    };
    if let Err(error) = process.signal(libc::SIGTERM) {
        complain(format!("cannot end {name} (pid {old}): {error}; run this as the user it runs as"));
        return Exit::Failed.into();
    }
    if !process.wait(PATIENCE) {
        warn(format!("{name} (pid {old}) did not end within {} s: killed", PATIENCE.as_secs()));
        let _ = process.signal(libc::SIGKILL);
    }
    let deadline = Instant::now() + READY_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(new) = ready_pid().filter(|new| *new != old) {
            println!("{name} {old} -> {new}");
            return ExitCode::SUCCESS;
        }
        if supervisor.wait(Duration::ZERO) {
            complain("the node was stopped meanwhile");
            return Exit::Failed.into();
        }
        sleep(LOOK_INTERVAL);
    }
    complain(format!(
        "{name} (was pid {old}) is not ready again after {} s; see the node's output",
        READY_TIMEOUT.as_secs()
    ));
    Exit::Failed.into()
}

/// As node.json has it, if that is the running supervisor's.
fn ready_pid(data: &DataDir, supervisor_pid: u32, process: Restartable) -> Option<u32> {
    let node = NodeJson::read(data).filter(|node| node.supervisor_pid == supervisor_pid)?;
    process.pid(&node)
}
