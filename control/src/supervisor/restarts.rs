//! When a child that died is started again. Pure: time comes in, a decision goes out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A child that lived so long died of something new.
const LIFE_MIN: Duration = Duration::from_secs(10);
const ASKED_LIFE_MIN: Duration = Duration::from_secs(1);
const DELAY_MIN: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(2);
/// So many deaths before ready within `LIFE_MIN` are no accident.
const EARLY_DEATHS: usize = 5;

/// When a child that died is started again: at once, then after 100 ms, doubling to 2 s.
#[derive(Default)]
pub struct Restarts {
    in_a_row: u32,
    early: VecDeque<Instant>,
    is_hopeless: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Restart {
    pub delay: Duration,
    pub is_hopeless: bool,
    /// Not said yet.
    pub is_news: bool,
}

impl Restarts {
    /// It ended because somebody asked it to (`spillway restart`), so it comes back at once; one that lived
    /// shorter than `ASKED_LIFE_MIN` is no such thing.
    pub fn on_asked_end(&mut self, now: Instant, started: Instant) -> Restart {
        if now.saturating_duration_since(started) < ASKED_LIFE_MIN {
            return self.on_death(now, started, true);
        }
        Restart { delay: Duration::ZERO, is_hopeless: false, is_news: true }
    }

    pub fn on_death(&mut self, now: Instant, started: Instant, was_ready: bool) -> Restart {
        if now.saturating_duration_since(started) >= LIFE_MIN {
            self.in_a_row = 0;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if !was_ready {
            self.early.push_back(now);
            if self.early.len() > EARLY_DEATHS {
                self.early.pop_front();
            }
        }
        let is_first = !self.is_hopeless;
        let oldest = self.early.front().copied();
        let are_many = self.early.len() == EARLY_DEATHS;
        self.is_hopeless |= are_many && oldest.is_some_and(|at| now.saturating_duration_since(at) <= LIFE_MIN);
        let delay = match self.in_a_row {
            _ if self.is_hopeless => DELAY_MAX,
            1 => Duration::ZERO,
            deaths => DELAY_MIN.saturating_mul(1 << (deaths - 2).min(8)).min(DELAY_MAX),
        };
        Restart { delay, is_hopeless: self.is_hopeless, is_news: is_first }
    }
    pub fn on_ready(&mut self) {
        self.early.clear();
        self.is_hopeless = false;
    }
    pub fn is_hopeless(&self) -> bool {
        self.is_hopeless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_wait_longer() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let delays: Vec<u128> = (0..8)
            .map(|death| {
                restarts.on_death(start + Duration::from_secs(death), start + Duration::from_secs(death), true)
            })
            .map(|restart| restart.delay.as_millis())
            .collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        let later = start + Duration::from_secs(60);
        assert_eq!(restarts.on_death(later, later - LIFE_MIN, true).delay, Duration::ZERO, "that one lived");
    }

    #[test]
    fn an_end_that_was_asked_for_is_no_death_unless_it_comes_too_soon() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let later = start + ASKED_LIFE_MIN;
        let delays: Vec<Duration> = (0..3).map(|_| restarts.on_asked_end(later, start).delay).collect();
        assert_eq!(delays, [Duration::ZERO; 3]);
        let delays: Vec<Duration> = (0..2).map(|_| restarts.on_asked_end(start, start).delay).collect();
        assert_eq!(delays, [Duration::ZERO, DELAY_MIN], "a loop of ends waits like a loop of deaths");
    }

    #[test]
    fn five_deaths_before_ready_are_told_once() {
        let mut restarts = Restarts::default();
        let start = Instant::now();
        let early: Vec<Restart> =
            (0..7).map(|ms| start + Duration::from_millis(ms)).map(|at| restarts.on_death(at, at, false)).collect();
        assert!(early[..4].iter().all(|restart| !restart.is_hopeless && restart.is_news));
        assert_eq!(early[4], Restart { delay: DELAY_MAX, is_hopeless: true, is_news: true });
        assert!(early[5..].iter().all(|restart| restart.is_hopeless && !restart.is_news));
        restarts.on_ready();
        assert!(!restarts.on_death(start, start, false).is_hopeless);
    }
}
