//! What a receiver misses of one stream, and when to ask for it (RFC 4585 section 6.2.1).
//!
//! Pure, and used on both sides: by the engine towards a publisher, by clients towards the engine. A gap is *seen*,
//! *asked for* after a moment in which reordered packets may still come, again while no answer comes, and *given up*
//! after `NACK_WINDOW`. A leap of more than `NACK_OUTSTANDING_MAX` packets is nothing to be asked for.

use crate::limits::{NACK_ATTEMPTS_MAX, NACK_DELAY, NACK_OUTSTANDING_MAX, NACK_WINDOW};
use crate::time::Time;
use std::time::Duration;

/// Assumed until the first answer shows how long one takes.
const ROUND_TRIP_FIRST: Duration = Duration::from_millis(50);
const ROUND_TRIP_MIN: Duration = Duration::from_millis(20);
const ROUND_TRIP_MAX: Duration = Duration::from_millis(300);

/// What a packet is to the account of losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The newest so far; so many before it are missing.
    Newest { missing: u64 },
    /// The newest, so far ahead that what lies between is not asked for.
    Leap,
    /// It was missing; asked for if it came no sooner.
    Filled { asked: bool },
    /// Behind the newest and not missing: a copy, given up, or from before the first.
    Known,
}

#[derive(Debug)]
pub struct Losses {
    /// Ascending by index; never longer than its capacity.
    missing: Vec<Missing>,
    /// One past the newest; None before the first packet.
    end: Option<u64>,
    round_trip: Duration,
    given_up: u64,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    index: u64,
    seen_at: Time,
    asked_first: Time,
    due: Time,
    attempts: u8,
}

impl Default for Losses {
    fn default() -> Losses {
        Losses::new()
    }
}

impl Losses {
    /// Takes its memory once.
    pub fn new() -> Losses {
        Losses {
            missing: Vec::with_capacity(NACK_OUTSTANDING_MAX),
            end: None,
            round_trip: ROUND_TRIP_FIRST,
            given_up: 0,
        }
    }

    /// A packet came, for the first time. `index` is its extended sequence number.
    pub fn on_packet(&mut self, now: Time, index: u64) -> Arrival {
        let Some(end) = self.end.filter(|end| index >= *end) else {
            if self.end.is_none() {
                self.end = Some(index + 1);
                return Arrival::Newest { missing: 0 };
            }
            return self.fill(now, index);
        };
        self.end = Some(index + 1);
        let gap = index - end;
        if gap > NACK_OUTSTANDING_MAX as u64 {
            self.given_up += self.missing.len() as u64;
            self.missing.clear();
            return Arrival::Leap;
        }
        // The oldest are given up for the newest.
        let excess = (self.missing.len() + gap as usize).saturating_sub(NACK_OUTSTANDING_MAX);
        self.missing.drain(..excess);
        self.given_up += excess as u64;
        for index in end..index {
            self.missing.push(Missing {
                index,
                seen_at: now,
                asked_first: Time::NEVER,
                due: now + NACK_DELAY,
                attempts: 0,
            });
        }
        Arrival::Newest { missing: gap }
    }

    fn fill(&mut self, now: Time, index: u64) -> Arrival {
        let Ok(at) = self.missing.binary_search_by_key(&index, |missing| missing.index) else { return Arrival::Known };
        let missing = self.missing.remove(at);
        // With two requests out nobody knows which one was answered; the first keeps the estimate from being too
        // short for good, and weighs an eighth.
        if (1..=2).contains(&missing.attempts) {
            let took = now.since(missing.asked_first).clamp(ROUND_TRIP_MIN, ROUND_TRIP_MAX);
            self.round_trip = (self.round_trip * 7 + took) / 8;
        }
        Arrival::Filled { asked: missing.attempts > 0 }
    }

    /// How long packets that were asked for take to come; None before one came.
    pub fn round_trip(&self) -> Option<Duration> {
        (self.round_trip != ROUND_TRIP_FIRST).then_some(self.round_trip)
    }

    /// The packets to ask for now, ascending, as many as `out` holds; returns how many. Gives up what is too old.
    pub fn poll(&mut self, now: Time, out: &mut [u16]) -> usize {
        let before = self.missing.len();
        self.missing.retain(|missing| {
            let over = missing.attempts >= NACK_ATTEMPTS_MAX && missing.due <= now;
            !over && now.since(missing.seen_at) < NACK_WINDOW
        });
        self.given_up += (before - self.missing.len()) as u64;
        let round_trip = self.round_trip;
        let due = self.missing.iter_mut().filter(|missing| missing.due <= now);
        let mut count = 0;
        for (missing, place) in due.zip(out) {
            if missing.attempts == 0 {
                missing.asked_first = now;
            }
            // A round trip, then half of one longer each time: who does not answer is not asked ever faster.
            missing.due = now + round_trip + round_trip * u32::from(missing.attempts) / 2;
            missing.attempts += 1;
            *place = missing.index as u16;
            count += 1;
        }
        count
    }

    /// When `poll` has something to do; `Time::NEVER` while nothing is missing.
    pub fn deadline(&self) -> Time {
        let due = |missing: &Missing| missing.due.min(missing.seen_at + NACK_WINDOW);
        self.missing.iter().map(due).min().unwrap_or(Time::NEVER)
    }

    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
    }

    /// The newest index.
    pub fn newest(&self) -> Option<u64> {
        self.end.map(|end| end - 1)
    }

    pub fn given_up(&self) -> u64 {
        self.given_up
    }
}

/// The index that ends in `sequence` and lies nearest to `newest`; None below zero.
pub fn nearest(newest: u64, sequence: u16) -> Option<u64> {
    newest.checked_add_signed(i64::from(sequence.wrapping_sub(newest as u16) as i16))
}

/// A retransmission's original sequence number and payload (RFC 4588 section 4). None for one that carries nothing:
/// what senders probe the network with.
pub fn unwrap_retransmission(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (original, payload) = payload.split_first_chunk::<2>()?;
    (!payload.is_empty()).then_some((u16::from_be_bytes(*original), payload))
}

#[cfg(test)]
mod tests;
