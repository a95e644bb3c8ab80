//! What one source's numbers say: how many packets were due, how many came, which came twice. Sequence numbers stand in
//! the clear header, so that sinks which do not decrypt count exactly too; a stamp's numbers never wrap.

/// How far back a late or doubled packet is told apart from one not seen yet.
const WINDOW: usize = 4_096;

/// The numbers of one SSRC as they arrive.
#[derive(Clone)]
pub struct Sequence {
    first: u64,
    highest: u64,
    seen: Box<[u64; WINDOW / 64]>,
    received: u64,
    duplicates: u64,
    started: bool,
}

/// What became of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The first, or ahead of all others; so many were passed over.
    Ahead(u64),
    /// It fills a hole.
    Late,
    Duplicate,
    /// From before the first one, or so late that nobody waits: not due.
    Strange,
}

impl Sequence {
    pub fn new() -> Sequence {
        Sequence { first: 0, highest: 0, seen: Box::new([0; WINDOW / 64]), received: 0, duplicates: 0, started: false }
    }

    /// A sequence number: with its rounds, and what became of it.
    pub fn arrive(&mut self, number: u16) -> (u64, Arrival) {
        if !self.started {
            // A round ahead, so that a step back from the first packet does not go below zero.
            return self.arrive_at(65_536 + u64::from(number));
        }
        let step = i64::from(number.wrapping_sub(self.highest as u16) as i16);
        let Some(extended) = self.highest.checked_add_signed(step) else { return (0, Arrival::Strange) };
        self.arrive_at(extended)
    }

    /// The same with a number that does not wrap.
    pub fn arrive_at(&mut self, extended: u64) -> (u64, Arrival) {
        if !self.started {
            self.started = true;
            self.first = extended;
            self.highest = extended;
            self.mark(extended);
            self.received = 1;
            return (extended, Arrival::Ahead(0));
        }
        if extended > self.highest {
            let passed = extended - self.highest - 1;
            if passed >= WINDOW as u64 {
                self.seen.fill(0);
            } else {
                (self.highest + 1..extended).for_each(|passed| self.clear(passed));
            }
            self.highest = extended;
            self.mark(extended);
            self.received += 1;
            return (extended, Arrival::Ahead(passed));
        }
        if extended < self.first || self.highest - extended >= WINDOW as u64 {
            return (extended, Arrival::Strange);
        }
        if self.is_seen(extended) {
            self.duplicates += 1;
            return (extended, Arrival::Duplicate);
        }
        self.mark(extended);
        self.received += 1;
        (extended, Arrival::Late)
    }

    /// Packets from the first to the highest.
    pub fn due(&self) -> u64 {
        if self.started { self.highest - self.first + 1 } else { 0 }
    }

    /// With its rounds, of which the first counts as one.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// The numbers not seen among the newest `back`, but for those within `patience` of the newest.
    pub fn missing(&self, back: u64, patience: u64) -> impl Iterator<Item = u64> + '_ {
        let end = (self.highest + 1).saturating_sub(patience);
        let begin = self.first.max(self.highest.saturating_sub(back.min(WINDOW as u64 - 1)));
        (begin..end.max(begin)).filter(|number| self.started && !self.is_seen(*number))
    }

    fn place(number: u64) -> (usize, u64) {
        let bit = number as usize % WINDOW;
        (bit / 64, 1 << (bit % 64))
    }

    fn mark(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] |= bit;
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn is_seen(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.seen[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: impl IntoIterator<Item = u16>) -> Sequence {
        let mut sequence = Sequence::new();
        for number in numbers {
            sequence.arrive(number);
        }
        sequence
    }

    #[test]
    fn every_packet_counts_once_also_across_the_wrap() {
        let sequence = of((0..200_000_u32).map(|n| (n + 65_000) as u16));
        assert_eq!((sequence.due(), sequence.received(), sequence.duplicates()), (200_000, 200_000, 0));
        assert_eq!(sequence.missing(4_000, 0).count(), 0);
    }

    #[test]
    fn holes_late_ones_and_doubles_are_told_apart() {
        let mut sequence = of([10, 11, 14, 15, 15, 12]);
        assert_eq!((sequence.due(), sequence.received(), sequence.duplicates()), (6, 5, 1));
        assert_eq!(sequence.missing(100, 0).map(|n| n as u16).collect::<Vec<_>>(), [13]);
        assert_eq!(sequence.missing(100, 3).count(), 0, "13 is within the patience");
        assert_eq!(sequence.arrive(13).1, Arrival::Late);
        assert_eq!(sequence.arrive(13).1, Arrival::Duplicate);
        assert_eq!(sequence.arrive(9).1, Arrival::Strange, "before the first: not due");
        assert_eq!(sequence.arrive(20).1, Arrival::Ahead(4));
        assert_eq!((sequence.due(), sequence.received()), (11, 7));
    }

    #[test]
    fn a_jump_of_any_length_is_a_hole_of_that_length() {
        let mut sequence = of([]);
        assert_eq!(sequence.due(), 0);
        sequence.arrive_at(5);
        assert_eq!(sequence.arrive_at(1 << 60).1, Arrival::Ahead((1 << 60) - 6));
        assert_eq!((sequence.due(), sequence.received()), ((1 << 60) - 4, 2));
        assert_eq!(sequence.missing(4_095, 0).count(), 4_095, "nothing of before the jump is taken for seen");
        assert_eq!(sequence.arrive_at((1 << 60) - 1).1, Arrival::Late);
        assert_eq!(sequence.arrive_at(6).1, Arrival::Strange, "nobody waits for it any more");
    }

    #[test]
    fn a_number_of_a_round_ago_is_forgotten() {
        let mut sequence = of((0..5_000).map(|n| n as u16));
        // 4,096 further on the same bit stands for another packet.
        assert_eq!(sequence.arrive(9_000).1, Arrival::Ahead(4_000));
        assert_eq!(sequence.missing(4_095, 0).count(), 4_000);
    }
}
