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
    last: Cell<Last>,
}

/// What was counted when the last line was shown.
#[derive(Clone, Copy, Default)]
struct Last {
    at: Duration,
    packets: u64,
    bytes: u64,
    lost: u64,
    cpu: Duration,
}

impl Live {
    pub fn new(viewers: u64) -> Live {
        let terminal = std::io::stderr().is_terminal();
        Live { terminal, viewers, shown_at: Cell::new(Duration::ZERO), last: Cell::new(Last::default()) }
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
            // Without wrapping: a line that is too long for the window is cut, not spread over two.
            eprint!("\r\x1b[?7l\x1b[K{text}\x1b[?7h");
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
            format!("joining {} {begun} begun, {shown} of {} with a picture{}{}", bar(shown, self.viewers), self.viewers, ttff(tally), self.rate(tally))
        });
    }

    pub fn holding(&self, tally: &Tally, spent: Duration, of: Duration) {
        self.show(false, || {
            let bar = bar(spent.as_millis() as u64, of.as_millis() as u64);
            format!("holding {bar} {:.0} of {:.0} s, {} viewers{}{}", spent.as_secs_f64(), of.as_secs_f64(), tally.shown.load(Ordering::Relaxed), ttff(tally), self.rate(tally))
        });
    }

    fn rate(&self, tally: &Tally) -> String {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let new = Last { at: sys::monotonic(), packets: of(&tally.packets), bytes: of(&tally.bytes), lost: of(&tally.lost), cpu: sys::process_cpu_time() };
        let old = self.last.replace(new);
        let seconds = (new.at - old.at).as_secs_f64();
        if old.at == Duration::ZERO || seconds <= 0.0 {
            return String::new();
        }
        let failed = of(&tally.failed);
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let (packets, lost) = (new.packets - old.packets, new.lost - old.lost);
        format!(
            ", {:.0} packets/s, {:.1} Mbit/s, {:.2} % lost, own CPU {:.0} %{failed}",
            packets as f64 / seconds,
            (new.bytes - old.bytes) as f64 * 8e-6 / seconds,
            lost as f64 * 100.0 / (packets + lost).max(1) as f64,
            (new.cpu.saturating_sub(old.cpu)).as_secs_f64() * 100.0 / seconds,
        )
    }

    pub fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Time to the first frame so far: the mean and the longest.
fn ttff(tally: &Tally) -> String {
    let shown = tally.shown.load(Ordering::Relaxed);
    if shown == 0 {
        return String::new();
    }
    let ms = |us: u64| us as f64 / 1e3;
    format!(", first frame {:.0} ms ({:.0} at most)", ms(tally.ttff_us.load(Ordering::Relaxed) / shown), ms(tally.ttff_us_max.load(Ordering::Relaxed)))
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
