//! Time as a value: nanoseconds of the node's monotonic clock, handed in by whoever calls.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant: nanoseconds of CLOCK_MONOTONIC, comparable between the processes of one node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);
    /// Later than anything that happens; the deadline of something that waits for nothing.
    pub const NEVER: Time = Time(u64::MAX);

    pub const fn from_millis(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }
    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Time::NEVER { f.write_str("never") } else { write!(f, "{:.6}s", self.0 as f64 / 1e9) }
    }
}

/// A wall-clock instant as RTCP carries it: NTP seconds in the upper, fraction in the lower 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(transparent)]
pub struct NtpTime(pub u64);

impl NtpTime {
    /// The middle 32 bits, as LSR and DLSR use them (RFC 3550 section 4).
    pub const fn middle(self) -> u32 {
        (self.0 >> 16) as u32
    }
}

impl Add<Duration> for NtpTime {
    type Output = NtpTime;
    fn add(self, span: Duration) -> NtpTime {
        let fraction = (u128::from(span.subsec_nanos()) << 32) / 1_000_000_000;
        NtpTime(self.0.wrapping_add(span.as_secs() << 32).wrapping_add(fraction as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_stays_never_and_zero_stays_zero() {
        assert_eq!(Time::NEVER + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time::ZERO - Duration::from_secs(1), Time::ZERO);
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }

    #[test]
    fn ntp_adds_halves_as_the_upper_bit_of_the_fraction() {
        let t = NtpTime(7 << 32) + Duration::from_millis(1500);
        assert_eq!(t.0, (8 << 32) | 0x8000_0000);
        assert_eq!(t.middle(), 0x0008_8000);
    }
}
