//! When a publisher's packets arrived, by their transport-wide sequence number: what its bandwidth estimate lives on.
//!
//! One per publishing session, on its shard: the numbers count all packets of the transport, audio, video and
//! retransmissions alike. Without this feedback libwebrtc's encoder stays near its start bitrate for minutes.

use crate::limits::{ARRIVALS_WINDOW, TRANSPORT_CC_INTERVAL};
use crate::time::Time;
use crate::wire::transport_cc::{STATUSES_MAX, write_feedback};

/// A packet that comes this much behind what was reported is reported again with all that followed it.
const REPEAT_MAX: u64 = 256;
/// Numbers are 16 bits: room below the first one, so that an earlier packet has a place.
const FIRST: u64 = 1 << 16;

pub struct Arrivals {
    /// Id of the header extension the numbers stand in.
    pub extension: u8,
    /// (number + 1, nanoseconds) by number modulo the window; a wrong number: nothing came.
    seen: Box<[(u64, u64); ARRIVALS_WINDOW]>,
    /// The highest number so far, extended to 64 bits; 0 before the first packet.
    newest: u64,
    /// The next number to report.
    next: u64,
    sent_at: Time,
    number: u8,
}

impl Arrivals {
    pub fn new(extension: u8) -> Arrivals {
        Arrivals {
            extension,
            seen: Box::new([(0, 0); ARRIVALS_WINDOW]),
            newest: 0,
            next: 0,
            sent_at: Time::ZERO,
            number: 0,
        }
    }

    pub fn on_packet(&mut self, now: Time, number: u16) {
        if self.newest == 0 {
            self.newest = FIRST + u64::from(number);
            self.next = self.newest;
        }
        let ahead = number.wrapping_sub(self.newest as u16) as i16;
        let number = self.newest.saturating_add_signed(i64::from(ahead));
        self.newest = self.newest.max(number);
        if self.newest - number >= ARRIVALS_WINDOW as u64 {
            return;
        }
        self.seen[number as usize % ARRIVALS_WINDOW] = (number + 1, now.as_nanos());
        if number < self.next && self.next - number <= REPEAT_MAX {
            self.next = number;
        }
        // Numbers that leaped left nothing to tell of what is between.
        self.next = self.next.max((self.newest + 1).saturating_sub(ARRIVALS_WINDOW as u64));
    }

    /// When `write` has something to say.
    pub fn deadline(&self) -> Time {
        if self.next <= self.newest && self.newest > 0 { self.sent_at + TRANSPORT_CC_INTERVAL } else { Time::NEVER }
    }

    /// One feedback packet from `sender` about the transport of `media`; None if there is nothing more to tell. Call
    /// again for what did not fit into it.
    pub fn write(&mut self, now: Time, out: &mut [u8], sender: u32, media: u32) -> Option<usize> {
        let missing = |number: &u64| self.arrival(*number).is_none();
        // Before the next packet that came there is nothing to measure from.
        let lead = (self.next..=self.newest).take_while(missing).count() as u64;
        let base = if lead > (STATUSES_MAX / 2) as u64 { self.next + lead } else { self.next };
        let count = usize::try_from((self.newest + 1).checked_sub(base)?).ok()?;
        let (length, covered) = write_feedback(out, (sender, media), self.number, base as u16, count, |n| {
            self.arrival(base + n as u64)
        })?;
        self.number = self.number.wrapping_add(1);
        self.next = base + covered as u64;
        self.sent_at = now;
        Some(length)
    }

    fn arrival(&self, number: u64) -> Option<u64> {
        let (tag, at) = self.seen[number as usize % ARRIVALS_WINDOW];
        (tag == number + 1).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Time = Time::from_millis;

    /// Base, count and number of a feedback packet.
    fn head(packet: &[u8]) -> (u16, u16, u8) {
        (u16::from_be_bytes([packet[12], packet[13]]), u16::from_be_bytes([packet[14], packet[15]]), packet[19])
    }

    fn write(arrivals: &mut Arrivals, now: Time) -> Option<(u16, u16, u8)> {
        let mut out = [0; 1_000];
        arrivals.write(now, &mut out, 1, 2).map(|length| head(&out[..length]))
    }

    #[test]
    fn what_came_is_told_once_and_a_late_packet_again() {
        let mut arrivals = Arrivals::new(3);
        assert_eq!(arrivals.deadline(), Time::NEVER);
        assert_eq!(write(&mut arrivals, MS(1)), None);
        for (ms, number) in [(10, 65_534), (11, 65_535), (12, 1)] {
            arrivals.on_packet(MS(ms), number);
        }
        assert!(arrivals.deadline() <= MS(60));
        assert_eq!(write(&mut arrivals, MS(60)), Some((65_534, 4, 0)));
        assert_eq!(arrivals.deadline(), Time::NEVER);
        assert_eq!(write(&mut arrivals, MS(70)), None);
        arrivals.on_packet(MS(80), 0);
        assert_eq!(arrivals.deadline(), MS(60) + TRANSPORT_CC_INTERVAL);
        assert_eq!(write(&mut arrivals, MS(120)), Some((0, 2, 1)), "the late one and its successor");
        arrivals.on_packet(MS(121), 4);
        assert_eq!(write(&mut arrivals, MS(170)), Some((2, 3, 2)), "from where the last one ended, holes told");
    }

    #[test]
    fn more_than_one_packet_holds_goes_into_several() {
        let mut arrivals = Arrivals::new(3);
        for number in 0..1_000u16 {
            arrivals.on_packet(MS(u64::from(number)), number);
        }
        let heads: Vec<_> = std::iter::from_fn(|| write(&mut arrivals, MS(1_000))).collect();
        assert_eq!(heads, [(0, 400, 0), (400, 400, 1), (800, 200, 2)]);
    }

    #[test]
    fn leaping_numbers_cost_no_more_than_the_window() {
        let mut arrivals = Arrivals::new(3);
        let mut number = 7u16;
        for step in 0..10_000u64 {
            number = number.wrapping_add((step * 7_919 % 40_000) as u16);
            arrivals.on_packet(MS(step), number);
            if step % 16 == 0 {
                let told = std::iter::from_fn(|| write(&mut arrivals, MS(step))).take(100).count();
                assert!(told <= ARRIVALS_WINDOW / STATUSES_MAX + 20, "{told} packets");
            }
        }
    }
}
