//! The terminal: single keys while `serve` stands in its foreground, colour where it is wanted.
//!
//! The settings found at start are put back on every way out: dropped, panicking, stopped by a signal (the
//! supervisor reads its signals, so that each of them ends in a drop).

use super::sys;
use crate::logging::{self, Level};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd};

/// Single keys from the terminal, as long as it lives.
pub struct Keys {
    terminal: File,
    found: sys::TerminalSettings,
}

impl Keys {
    /// `None`: there is no terminal, or its foreground is somebody else's.
    pub fn take() -> Option<Keys> {
        if !stdin().is_terminal() {
            return None;
        }
        Keys::of(File::from(stdin().as_fd().try_clone_to_owned().ok()?))
    }

    fn of(terminal: File) -> Option<Keys> {
        let found = sys::terminal_settings(terminal.as_fd()).ok()?;
        let keys = Keys { terminal, found };
        keys.apply().then_some(keys)
    }

    /// Also after a stop and `fg`: the shell has put its own settings back in between.
    pub fn apply(&self) -> bool {
        sys::is_foreground(self.terminal.as_fd()) && self.found.with_single_keys().set(self.terminal.as_fd()).is_ok()
    }

    /// The keys that were pressed. An error: the terminal is gone.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut keys = [0; 64];
        match self.terminal.read(&mut keys)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            length => Ok(keys.get(..length).unwrap_or_default().to_vec()),
        }
    }
}

impl AsFd for Keys {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A background job that touches the terminal would be stopped by the kernel.
        if sys::is_foreground(self.terminal.as_fd()) {
            let _ = self.found.set(self.terminal.as_fd());
        }
    }
}

#[derive(Clone, Copy)]
pub enum Colour {
    Bold,
    Dim,
    Green,
    Yellow,
    Red,
}

/// `text` in colour, if `stream` is a terminal and nobody said NO_COLOR (no-color.org).
fn paint(colour: Colour, text: &str, on: bool) -> String {
    let code = match colour {
        Colour::Bold => "1",
        Colour::Dim => "2",
        Colour::Green => "32",
        Colour::Yellow => "33",
        Colour::Red => "31",
    };
    if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

fn is_colour_wanted(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// For standard output.
pub fn coloured(colour: Colour, text: &str) -> String {
    paint(colour, text, is_colour_wanted(stdout().is_terminal()))
}

/// A line for whoever started us. Nobody there to read it is no reason to stop serving.
pub fn say(line: impl AsRef<str>) {
    log(Level::Info, "supervisor", line.as_ref(), &Map::new());
}

/// A line of a process of ours: an object where JSON is wanted, else words for people.
pub fn log(level: Level, process: &str, message: &str, facts: &Map<String, Value>) {
    let text = match logging::is_json() {
        true => logging::json_line(crate::service::now_ms(), level, process, message, facts),
        false => logging::text_line(message, facts),
    };
    match (level, logging::is_json()) {
        (Level::Info, _) | (_, true) => print_out(&text),
        (Level::Warn, false) => print_error(Colour::Yellow, "warning:", &text),
        (Level::Error, false) => print_error(Colour::Red, "error:", &text),
    }
}

fn print_out(line: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn print_error(colour: Colour, label: &str, line: &str) {
    let label = paint(colour, label, is_colour_wanted(stderr().is_terminal()));
    let _ = writeln!(stderr().lock(), "{label} {line}");
}

/// A line about something that is not as it should be.
pub fn warn(line: impl AsRef<str>) {
    log(Level::Warn, "supervisor", line.as_ref(), &Map::new());
}

/// A line about something that ends what was asked for.
pub fn complain(line: impl AsRef<str>) {
    log(Level::Error, "supervisor", line.as_ref(), &Map::new());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        assert_eq!(paint(Colour::Red, "x", false), "x");
        assert_eq!(paint(Colour::Red, "x", true), "\x1b[31mx\x1b[0m");
        assert!(!is_colour_wanted(false), "a file gets no escape codes");
    }

    #[test]
    fn what_is_no_terminal_gives_no_keys() {
        assert!(Keys::of(File::open("/dev/null").unwrap()).is_none());
    }
}
