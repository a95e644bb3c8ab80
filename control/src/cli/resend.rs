//! What a publisher keeps to answer a NACK: its last packets as they were sent. Bounded by number and age.

use std::time::{Duration, Instant};

/// By sequence number modulo this; the built-in clips send 60 packets in a second, a film of 10 Mbit/s 1,000.
const PACKETS_MAX: usize = 1_024;
/// What is older comes too late for anybody: a receiver has given up by then.
const AGE_MAX: Duration = Duration::from_secs(1);
/// A path that loses one of five loses all of five in a row once in 3,000.
const RESENDS_MAX: u8 = 5;

/// The last packets of one source.
pub struct Resends {
    kept: Vec<Option<Kept>>,
}

struct Kept {
    sequence: u16,
    sent_at: Instant,
    resent: u8,
    sealed: Box<[u8]>,
}

impl Resends {
    pub fn new() -> Resends {
        Resends { kept: std::iter::repeat_with(|| None).take(PACKETS_MAX).collect() }
    }

    pub fn keep(&mut self, now: Instant, sequence: u16, sealed: &[u8]) {
        if let Some(place) = self.kept.get_mut(usize::from(sequence) % PACKETS_MAX) {
            *place = Some(Kept { sequence, sent_at: now, resent: 0, sealed: sealed.into() });
        }
    }

    /// The packet as it was sent, byte by byte: the same key, SSRC and index must never protect other bytes.
    pub fn again(&mut self, now: Instant, sequence: u16) -> Option<&[u8]> {
        let kept = self.kept.get_mut(usize::from(sequence) % PACKETS_MAX)?.as_mut()?;
        let young = now.saturating_duration_since(kept.sent_at) <= AGE_MAX;
        if kept.sequence != sequence || !young || kept.resent >= RESENDS_MAX {
            return None;
        }
        kept.resent += 1;
        Some(&kept.sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_within_a_second_is_sent_again_a_few_times() {
        let (start, mut resends) = (Instant::now(), Resends::new());
        resends.keep(start, 65_535, b"one");
        resends.keep(start, 0, b"two");
        assert_eq!(resends.again(start, 65_535), Some(&b"one"[..]));
        assert_eq!(resends.again(start, 1), None, "never sent");
        assert_eq!(resends.again(start, 1_024), None, "another packet stands in its place");
        assert_eq!(resends.again(start + AGE_MAX, 0), Some(&b"two"[..]));
        assert_eq!(resends.again(start + AGE_MAX + Duration::from_millis(1), 0), None, "too old");
        let again = (0..10).filter(|_| resends.again(start, 65_535).is_some()).count();
        assert_eq!(again + 1, usize::from(RESENDS_MAX), "a flood of NACKs costs no more than this");
        resends.keep(start, 1_023, b"later");
        assert_eq!(resends.again(start, 65_535), None, "overwritten");
    }
}
