//! Somebody else's program beside a test (ffmpeg, GStreamer): what it prints is kept, and it ends with its test.

use crate::kernel;
use crate::node::end;
use crate::wait::until;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub struct Program {
    process: Child,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Its errors and its output come together.
    pub fn begin(mut command: Command) -> Program {
        let name = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdin(Stdio::null()).stdout(writer.try_clone().expect("a pipe")).stderr(writer);
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "*");
        }
        kernel::end_with_us(&mut command);
        let process = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let printed = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&printed);
        // Ends with the program, whose end of the pipe is the last: ours went with `command`.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Program { process, printed }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// How it ended; waits for that. None: by a signal.
    pub fn exit_code(&mut self, patience: Duration) -> Option<i32> {
        until("the program ends", patience, || match self.process.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            _ => Err(self.lines().join("\n")),
        })
    }

    pub fn lines(&self) -> Vec<String> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What `look` finds in the lines printed so far; a program that has ended finds nothing more.
    pub fn until<T>(&mut self, what: &str, patience: Duration, look: impl Fn(&[String]) -> Option<T>) -> T {
        until(what, patience, || {
            let ended = self.process.try_wait().ok().flatten();
            let lines = self.lines();
            let found = look(&lines);
            if let (None, Some(status)) = (&found, ended) {
                panic!("{what}: the program ended ({status}):\n{}", lines.join("\n"));
            }
            found.ok_or_else(|| lines[lines.len().saturating_sub(20)..].join("\n"))
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A library of Python that `tests/run` has put below the target directory.
pub fn library(name: &str) -> PathBuf {
    tool(name)
}

/// A program that `tests/run` has put below the target directory.
pub fn tool(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let target = test.ancestors().nth(3).expect("target/PROFILE/deps");
    let path = target.join("tools").join(name);
    assert!(path.exists(), "{} is missing: run tests/run once, which gets it", path.display());
    path
}
