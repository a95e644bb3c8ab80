//! What is seen while a run goes on: one line that renews itself on a terminal, a line every few seconds elsewhere.

use crate::crowd::Tally;
use crate::sys;
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const TERMINAL_INTERVAL: Duration = Duration::from_millis(200);
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
const BAR_CELLS: u64 = 24;

pub struct Live {
    terminal: bool,
    viewers: u64,
    shown_at: Cell<Duration>,
    last: Cell<(Duration, u64, u64)>,
}

impl Live {
    pub fn new(viewers: u64) -> Live {
        let terminal = std::io::stderr().is_terminal();
        Live { terminal, viewers, shown_at: Cell::new(Duration::ZERO), last: Cell::new((Duration::ZERO, 0, 0)) }
    }

    fn show(&self, always: bool, text: impl FnOnce() -> String) {
        let now = sys::monotonic();
        let interval = if self.terminal { TERMINAL_INTERVAL } else { PLAIN_INTERVAL };
        if !always && now.saturating_sub(self.shown_at.get()) < interval {
            return;
        }
        self.shown_at.set(now);
        let text = text();
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{text}");
        }
    }

    pub fn note(&self, text: &str) {
        // Hundreds of rooms are not hundreds of lines.
        self.show(self.shown_at.get() == Duration::ZERO, || text.to_owned());
    }

    pub fn joining(&self, tally: &Tally, begun: &AtomicU64) {
        let (begun, shown) = (begun.load(Ordering::Relaxed).min(self.viewers), tally.shown.load(Ordering::Relaxed));
        self.show(false, || {
            format!("joining {} {begun} begun, {shown} with a picture of {}{}", bar(shown, self.viewers), self.viewers, self.rate(tally))
        });
    }

    pub fn holding(&self, tally: &Tally, spent: Duration, of: Duration) {
        self.show(false, || {
            let bar = bar(spent.as_millis() as u64, of.as_millis() as u64);
            format!("holding {bar} {:.0} of {:.0} s, {} viewers{}", spent.as_secs_f64(), of.as_secs_f64(), tally.shown.load(Ordering::Relaxed), self.rate(tally))
        });
    }

    fn rate(&self, tally: &Tally) -> String {
        let now = sys::monotonic();
        let (packets, bytes) = (tally.packets.load(Ordering::Relaxed), tally.bytes.load(Ordering::Relaxed));
        let (then, old_packets, old_bytes) = self.last.replace((now, packets, bytes));
        let seconds = (now - then).as_secs_f64();
        if then == Duration::ZERO || seconds <= 0.0 {
            return String::new();
        }
        let failed = tally.failed.load(Ordering::Relaxed);
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!(", {:.0} packets/s, {:.1} Mbit/s{failed}", (packets - old_packets) as f64 / seconds, (bytes - old_bytes) as f64 * 8e-6 / seconds)
    }

    pub fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn bar(part: u64, whole: u64) -> String {
    let filled = (part * BAR_CELLS / whole.max(1)).min(BAR_CELLS) as usize;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(BAR_CELLS as usize - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_never_longer_than_its_frame() {
        assert_eq!(bar(0, 0).len(), 26);
        assert_eq!(bar(5, 10), format!("[{}{}]", "#".repeat(12), ".".repeat(12)));
        assert_eq!(bar(50, 10), format!("[{}]", "#".repeat(24)));
    }
}
