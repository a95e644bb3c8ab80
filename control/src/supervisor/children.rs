//! A child: one process started from our own binary, what it says, and when it is started again.
//!
//! Owns its process and the two pipes that outlive it: `ready`, on which it says that it is ready, and
//! `output`, its standard output and error. Decides nothing about the other children.

use super::notify;
use super::restarts::{Restart, Restarts};
use super::sys::{ChildSetup, Pidfd, Watch, pipe};
use super::terminal::{log, warn};
use super::words::{LastWords, Lines, Ready};
use crate::logging::{self, FOLD, Folder, Level};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How a child is started, the same each time.
pub struct Plan {
    pub name: &'static str,
    /// By path: a new binary at this path is what the next start runs.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// Where it may run; empty: everywhere.
    pub cores: Vec<usize>,
    /// Above 0: the others go before it.
    pub nice: i32,
}

pub struct Child {
    plan: Plan,
    handover: Option<(&'static str, String)>,
    keep: Vec<RawFd>,
    ready: File,
    ready_end: OwnedFd,
    output: File,
    output_end: OwnedFd,
    ready_lines: Lines,
    output_lines: Lines,
    words: LastWords,
    folder: Folder,
    process: Option<Process>,
    /// When it is to be started; `None`: not by itself.
    start_at: Option<Instant>,
    restarts: Restarts,
}

struct Process {
    process: std::process::Child,
    pidfd: Pidfd,
    started: Instant,
    /// When it is killed for not being ready; `None`: it is ready, or it was killed.
    deadline: Option<Instant>,
    is_ready: bool,
}

/// A child that died.
pub struct Death {
    pub pid: u32,
    pub status: ExitStatus,
    /// It was ready, and ended as it does when it is told to.
    pub was_asked: bool,
    /// When it is started again, and whether it has died so often before it was ready that this is no accident.
    pub restart: Restart,
}

/// A child that says nothing for so long is killed and started again.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// What is read from a child before the others have their turn.
const READ_BYTES_MAX: usize = 64 * 1_024;

impl Child {
    pub fn new(plan: Plan) -> io::Result<Child> {
        let (ready, ready_end) = pipe()?;
        let (output, output_end) = pipe()?;
        Ok(Child {
            plan,
            handover: None,
            keep: Vec::new(),
            ready,
            ready_end,
            output,
            output_end,
            ready_lines: Lines::default(),
            output_lines: Lines::default(),
            words: LastWords::default(),
            folder: Folder::default(),
            process: None,
            start_at: None,
            restarts: Restarts::default(),
        })
    }

    /// Where it writes that it is ready.
    pub fn ready_fd(&self) -> RawFd {
        self.ready_end.as_raw_fd()
    }
    /// What it inherits besides its output, and the variable of its environment that tells the numbers. One that
    /// was handed something must say that it is ready.
    pub fn hand_over(&mut self, variable: &'static str, value: String, keep: Vec<RawFd>) {
        self.handover = Some((variable, value));
        self.keep = keep;
    }
    pub fn name(&self) -> &'static str {
        self.plan.name
    }
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.process.id())
    }
    /// The pid of a process that is ready.
    pub fn ready_pid(&self) -> Option<u32> {
        self.process.as_ref().filter(|process| process.is_ready).map(|process| process.process.id())
    }

    /// What to poll for it: end of the process (if it runs), ready, output.
    pub fn watches(&self) -> impl Iterator<Item = Watch<'_>> {
        let process = self.process.iter().map(|process| Watch::new(process.pidfd.as_fd()));
        process.chain([Watch::new(self.ready.as_fd()), Watch::new(self.output.as_fd())])
    }

    pub fn start_at(&mut self, at: Instant) {
        self.start_at = Some(at);
    }

    /// Not to be started again.
    pub fn forget_start(&mut self) {
        self.start_at = None;
    }

    /// When `on_time` has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        [self.due(), self.folder.deadline()].into_iter().flatten().min()
    }

    /// When it is to be started, or killed for not being ready.
    fn due(&self) -> Option<Instant> {
        match &self.process {
            Some(process) => process.deadline,
            None => self.start_at,
        }
    }

    /// Starts it when it is time, and kills one that never gets ready.
    pub fn on_time(&mut self, now: Instant) {
        for (line, again) in self.folder.settle(now) {
            self.log(Level::Info, &format!("{line} (again {again} times within {} s)", FOLD.as_secs()), &Map::new());
        }
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        match &mut self.process {
            Some(process) => {
                let seconds = START_TIMEOUT.as_secs();
                warn(format!(
                    "{} (pid {}) did not get ready within {seconds} s: killed",
                    self.plan.name,
                    process.process.id()
                ));
                // Once; its death comes by its pidfd.
                process.deadline = None;
                let _ = process.pidfd.signal(libc::SIGKILL);
            }
            None => {
                self.start_at = None;
                if let Err(error) = self.start(now) {
                    let restart = self.restarts.on_death(now, now, false);
                    self.start_at = Some(now + restart.delay);
                    if restart.is_news {
                        warn(format!("cannot start {} ({}): {error}", self.plan.name, self.plan.program.display()));
                    }
                }
            }
        }
    }

    fn start(&mut self, now: Instant) -> io::Result<()> {
        let output = || Ok::<_, io::Error>(Stdio::from(self.output_end.try_clone()?));
        let mut command = Command::new(&self.plan.program);
        command.args(&self.plan.arguments).stdin(Stdio::null()).stdout(output()?).stderr(output()?);
        for name in notify::ENVIRONMENT {
            command.env_remove(name);
        }
        if let Some((variable, value)) = &self.handover {
            command.env(variable, value);
        }
        ChildSetup { keep: self.keep.clone(), cores: self.plan.cores.clone(), nice: self.plan.nice }.apply(&mut command);
        self.words.clear();
        let mut process = command.spawn()?;
        // It is not reaped yet, so that its pid is still its own.
        match Pidfd::open(process.id()) {
            Ok(pidfd) => {
                // One that gets no handover has nothing to say either.
                let deadline = self.handover.is_some().then(|| now + START_TIMEOUT);
                self.process = Some(Process { process, pidfd, started: now, deadline, is_ready: deadline.is_none() });
                Ok(())
            }
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Passes on what it wrote, line by line.
    pub fn on_output(&mut self) {
        let mut bytes = [0; 4_096];
        for _ in 0..READ_BYTES_MAX / bytes.len() {
            let Ok(length @ 1..) = self.output.read(&mut bytes) else { break };
            self.output_lines.push(bytes.get(..length).unwrap_or_default());
            while let Some(line) = self.output_lines.pop() {
                let (level, message, facts) = logging::read(&line);
                if !self.restarts.is_hopeless() && self.folder.is_news(&folded(&message, &facts), Instant::now()) {
                    self.log(level, &message, &facts);
                }
                self.words.push(logging::text_line(&message, &facts));
            }
        }
    }

    /// With its name in front where people read it.
    fn log(&self, level: Level, message: &str, facts: &Map<String, Value>) {
        match logging::is_json() {
            true => log(level, self.plan.name, message, facts),
            false => log(level, self.plan.name, &format!("{:<8} {message}", self.plan.name), facts),
        }
    }

    /// The line by which it says that it is ready, once per process.
    pub fn on_ready(&mut self) -> Option<Ready> {
        let mut bytes = [0; 4_096];
        if let Ok(length @ 1..) = self.ready.read(&mut bytes) {
            self.ready_lines.push(bytes.get(..length).unwrap_or_default());
        }
        while let Some(line) = self.ready_lines.pop() {
            match (Ready::parse(&line), &mut self.process) {
                (Some(ready), Some(process)) if !process.is_ready => {
                    process.is_ready = true;
                    process.deadline = None;
                    self.restarts.on_ready();
                    return Some(Ready { after: process.started.elapsed(), ..ready });
                }
                (Some(_), _) => {}
                // What stands in the way of being ready, in its own words.
                (None, _) => {
                    if !self.restarts.is_hopeless() {
                        warn(format!("{}: {line}", self.plan.name));
                    }
                    self.words.push(line);
                }
            }
        }
        None
    }

    /// Takes notice of its end, if it has ended.
    pub fn on_exit(&mut self, now: Instant) -> Option<Death> {
        let process = self.process.as_mut()?;
        let status = process.process.try_wait().ok()??;
        let Process { process, started, is_ready, .. } = self.process.take()?;
        // All it wrote is in the pipes by now; the next process must find them empty.
        self.on_output();
        self.on_ready();
        if let Some(rest) = self.output_lines.take_rest() {
            self.words.push(rest);
        }
        self.ready_lines.take_rest();
        let was_asked = is_ready && (status.success() || status.signal() == Some(libc::SIGTERM));
        let mut restart = match was_asked {
            true => self.restarts.on_asked_end(now, started),
            false => self.restarts.on_death(now, started, is_ready),
        };
        if restart.is_hopeless {
            restart.is_news |= self.words.is_new();
        }
        Some(Death { pid: process.id(), status, was_asked, restart })
    }

    /// Its last lines, and none of them a second time.
    pub fn last_words(&mut self) -> Vec<String> {
        self.words.take()
    }

    pub fn signal(&self, signal: libc::c_int) {
        if let Some(process) = &self.process {
            // It may have ended just now, which is what a signal is for.
            let _ = process.pidfd.signal(signal);
        }
    }

    /// Kills and reaps it.
    pub fn kill(&mut self) {
        if let Some(Process { mut process, .. }) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What makes a line the same again: which request it was does not.
fn folded(message: &str, facts: &Map<String, Value>) -> String {
    let mut facts = facts.clone();
    facts.remove("request_id");
    logging::text_line(message, &facts)
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    let signal_name = |signal| match signal {
        libc::SIGKILL => " (SIGKILL)",
        libc::SIGTERM => " (SIGTERM)",
        libc::SIGSEGV => " (SIGSEGV)",
        libc::SIGBUS => " (SIGBUS)",
        libc::SIGABRT => " (SIGABRT)",
        libc::SIGINT => " (SIGINT)",
        _ => "",
    };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}{}", signal_name(signal)),
        (None, None) => "an unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sys::poll;
    use super::*;

    fn wait_for(child: &Child) {
        let mut watches: Vec<Watch> = child.watches().collect();
        poll(&mut watches, Duration::from_secs(10)).unwrap();
    }

    fn shell(script: &str) -> Child {
        let plan = Plan {
            name: "test",
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            cores: Vec::new(),
            nice: 0,
        };
        let mut child = Child::new(plan).unwrap();
        child.hand_over("READY_FD", child.ready_fd().to_string(), vec![child.ready_fd()]);
        child
    }

    #[test]
    fn a_child_is_ready_when_it_says_so_and_its_death_is_seen() {
        let mut child = shell(
            "echo last words; echo \"ready io=uring gso=64 why=the best there is\" >/dev/fd/$READY_FD; exec sleep 60",
        );
        child.start_at(Instant::now());
        child.on_time(Instant::now());
        assert_eq!(child.ready_pid(), None, "running is not ready");
        let ready = loop {
            wait_for(&child);
            child.on_output();
            assert!(child.on_exit(Instant::now()).is_none(), "{:?}", child.last_words());
            if let Some(ready) = child.on_ready() {
                break ready;
            }
        };
        assert_eq!((ready.io.as_str(), ready.gso, ready.why.as_str()), ("uring", 64, "the best there is"));
        assert_eq!(child.ready_pid(), child.pid());
        child.signal(libc::SIGKILL);
        let death = loop {
            wait_for(&child);
            if let Some(death) = child.on_exit(Instant::now()) {
                break death;
            }
        };
        assert_eq!(describe(death.status), "signal 9 (SIGKILL)");
        assert_eq!(child.ready_pid(), None);
        assert_eq!(child.last_words(), ["last words"]);
    }

    #[test]
    fn a_child_inherits_what_it_is_given_and_nothing_else() {
        let (_kept, given) = pipe().unwrap();
        // No pipeline: the shell itself would have its ends open for a moment.
        let mut child = shell("ls /proc/$$/fd; :");
        let fd = given.as_raw_fd();
        child.keep.push(fd);
        child.start_at(Instant::now());
        child.on_time(Instant::now());
        while child.on_exit(Instant::now()).is_none() {
            wait_for(&child);
        }
        let mut expected = vec![0, 1, 2, fd, child.ready_fd()];
        expected.sort_unstable();
        let words = child.last_words().join(" ");
        let mut found: Vec<RawFd> = words.split_whitespace().map(|fd| fd.parse().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}
