//! What the node carried over the last hour, a point each ten seconds: charts without a Prometheus. Its memory is taken
//! once; it is lost with the process.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub const INTERVAL_SECONDS: u64 = 10;
/// An hour.
const POINTS_MAX: usize = 360;

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Point {
    /// Unix milliseconds of its end.
    pub at_ms: u64,
    pub viewers: u64,
    pub streams: u64,
    pub egress_bps: u64,
    /// Of the busiest shard: the part of the time that it was not asleep.
    pub busy_ratio: f64,
}

/// What is looked at once a second.
#[derive(Clone, Debug)]
pub struct Look {
    pub at_ms: u64,
    pub viewers: u64,
    pub streams: u64,
    /// Running totals, which begin anew with the supervisor alone.
    pub bytes_sent: u64,
    pub busy_ns: Vec<u64>,
}

#[derive(Debug)]
pub struct History(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    points: VecDeque<Point>,
    /// Where the point that is being made began.
    before: Option<Look>,
}

impl Default for History {
    fn default() -> History {
        History(Mutex::new(Inner { points: VecDeque::with_capacity(POINTS_MAX), before: None }))
    }
}

impl History {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn look(&self, look: Look) {
        let mut inner = self.inner();
        let Some(before) = &inner.before else {
            inner.before = Some(look);
            return;
        };
        let span_ms = look.at_ms.saturating_sub(before.at_ms);
        if span_ms < INTERVAL_SECONDS * 1_000 {
            // The clock was put back: from here on it counts again.
            if look.at_ms < before.at_ms {
                inner.before = Some(look);
            }
            return;
        }
        let busy = look.busy_ns.iter().zip(&before.busy_ns).map(|(now, then)| now.saturating_sub(*then));
        let span = span_ms as f64;
        let point = Point {
            at_ms: look.at_ms,
            viewers: look.viewers,
            streams: look.streams,
            egress_bps: (look.bytes_sent.saturating_sub(before.bytes_sent) as f64 * 8_000.0 / span) as u64,
            busy_ratio: (busy.max().unwrap_or(0) as f64 / (span * 1e6)).min(1.0),
        };
        if inner.points.len() >= POINTS_MAX {
            inner.points.pop_front();
        }
        inner.points.push_back(point);
        inner.before = Some(look);
    }

    /// Oldest first.
    pub fn points(&self) -> Vec<Point> {
        self.inner().points.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(second: u64) -> Look {
        Look { at_ms: second * 1_000, viewers: second, streams: 1, bytes_sent: second * 1_000, busy_ns: vec![second * 100_000_000, second * 250_000_000] }
    }

    #[test]
    fn a_point_is_ten_seconds_with_the_busiest_shard() {
        let history = History::default();
        (0..=25).for_each(|second| history.look(look(second)));
        let points = history.points();
        assert_eq!(points.len(), 2);
        assert_eq!(points[1], Point { at_ms: 20_000, viewers: 20, streams: 1, egress_bps: 8_000, busy_ratio: 0.25 });
    }

    #[test]
    fn an_hour_is_kept_and_no_more_memory_is_taken() {
        let history = History::default();
        let room = history.inner().points.capacity();
        (0..8_000).for_each(|second| history.look(look(second)));
        assert_eq!((history.points().len(), history.inner().points.capacity()), (POINTS_MAX, room));
        assert_eq!(history.points().last().unwrap().at_ms, 7_990_000);
    }

    #[test]
    fn a_clock_that_is_put_back_stops_nothing() {
        let history = History::default();
        (100..=110).for_each(|second| history.look(look(second)));
        (0..=12).for_each(|second| history.look(look(second)));
        assert_eq!(history.points().len(), 2);
        assert_eq!(history.points()[1].at_ms, 10_000);
    }
}
