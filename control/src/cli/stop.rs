//! `spillway stop`: ends the node on a data directory, and says which process hangs if it does not end.

use super::{DataArgs, Exit};
use crate::data_dir::DataDir;
use crate::supervisor::lock;
use crate::supervisor::node_json::NodeJson;
use crate::supervisor::sys::Pidfd;
use crate::supervisor::terminal::complain;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Control, recordings that are finished, engine: the supervisor waits for at most 3, 5 and 3 s.
const PATIENCE: Duration = Duration::from_secs(13);

pub fn run(args: DataArgs) -> ExitCode {
    let Some((data, pid, supervisor)) = running(&args.data) else { return Exit::NotFound.into() };
    // Read now: a clean stop removes it.
    let node = NodeJson::read(&data);
    if let Err(error) = supervisor.signal(libc::SIGTERM) {
        complain(format!("cannot stop the supervisor (pid {pid}): {error}; run this as the user it runs as"));
        return Exit::Failed.into();
    }
    if supervisor.wait(PATIENCE) {
        println!("stopped (pid {pid})");
        return ExitCode::SUCCESS;
    }
    // Opened only now: of a process that is gone there is nothing to open.
    let hangs = |pid: u32| Pidfd::open(pid).is_ok_and(|process| !process.wait(Duration::ZERO));
    let mut hanging = vec![format!("supervisor (pid {pid})")];
    if let Some(node) = node {
        for (name, pid) in [("control", node.control_pid), ("engine", node.engine_pid)] {
            hanging.extend(pid.filter(|pid| hangs(*pid)).map(|pid| format!("{name} (pid {pid})")));
        }
    }
    complain(format!(
        "still running after {} s: {}; end them with: kill -9 {pid} (its children end with it)",
        PATIENCE.as_secs(),
        hanging.join(", ")
    ));
    Exit::Failed.into()
}

/// The supervisor that holds the lock of `data`; `None`, and it was said: there is none.
pub fn running(data: &Path) -> Option<(DataDir, u32, Pidfd)> {
    let found = DataDir::existing(data).and_then(|data| {
        let pid = lock::holder(&data)?;
        let supervisor = Pidfd::open(pid).ok()?;
        // The same holder after the open: the pid was not another process's by then.
        (lock::holder(&data) == Some(pid)).then_some((data, pid, supervisor))
    });
    if found.is_none() {
        complain(format!("no Spillway runs on {} (name another data directory with --data DIR)", data.display()));
    }
    found
}
