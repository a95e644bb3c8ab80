//! The two rings of the link: commands with their answers (control to shard), events (shard to control).
//!
//! One producer and one consumer each, in different processes, and either may die at any store: a slot is
//! visible only after one Release store of a position, and whoever comes next goes on from the positions it
//! finds. Positions are 64-bit and only grow; position p stands in slot p modulo the number of slots.
//!
//! ```text
//!    command ring:   harvested <= tail <= head <= harvested + slots
//!      head       producer: commands before it are published
//!      tail       consumer: commands before it are executed and their answers written
//!      harvested  producer: answers before it are read, their slots are free again
//!    event ring:     tail <= head <= tail + slots
//! ```
//!
//! A handle keeps its own positions to itself and believes the shared copy only once, when it attaches. The other
//! side's positions are checked each time: one out of range means "nothing to do here" and never a panic
//! or an endless loop. Words are read once, into memory of our own, before they are checked.
//!
//! The words come through `Memory`, so that the tests put loom's in their place.

use super::codec::EVENT_BODY_BYTES;
use super::command::{Answer, Command, Status, ANSWER_BODY_BYTES, COMMAND_BODY_BYTES};
use super::event::Event;
use crate::limits::{COMMAND_SLOTS, COMMAND_SLOT_BYTES, EVENT_SLOTS, EVENT_SLOT_BYTES};
use std::sync::atomic::{AtomicU64, Ordering};

/// A word both sides can see.
pub trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

impl Word for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }
}

/// The words of one ring.
pub trait Memory {
    type Word: Word;
    fn words(&self) -> &[Self::Word];
}

impl Memory for &'static [AtomicU64] {
    type Word = AtomicU64;
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// A ring in the mapped link.
pub type Shared = &'static [AtomicU64];

/// Each position has two cache lines for itself: processors fetch lines in pairs.
const HEAD: usize = 0;
const TAIL: usize = 16;
/// Command ring: `harvested`. Event ring: events dropped.
const THIRD: usize = 32;
const HEADER_WORDS: usize = 48;

const COMMAND_SLOT_WORDS: usize = COMMAND_SLOT_BYTES / 8;
// Words of a command slot.
const TICKET: usize = 0;
const EPOCH: usize = 1;
const KIND_AND_LENGTH: usize = 2;
const BODY: usize = 3;
const RESULT: usize = COMMAND_SLOT_WORDS / 2;
const RESULT_BODY: usize = RESULT + 1;
const EVENT_SLOT_WORDS: usize = EVENT_SLOT_BYTES / 8;

pub const fn command_ring_words(slots: usize) -> usize {
    HEADER_WORDS + slots * COMMAND_SLOT_WORDS
}
pub const fn event_ring_words(slots: usize) -> usize {
    HEADER_WORDS + slots * EVENT_SLOT_WORDS
}

/// A command's position in its ring: unique as long as the link lives, whoever pushed it.
pub type Ticket = u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PushError {
    #[error("the shard has too many commands unanswered: try again in a second")]
    Full,
}

/// What a shard finds in its command ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    /// To be executed and then answered.
    Command(Command),
    /// Could not be executed; the ring has answered it already. Counts against the tick's bound all the same.
    Refused(Status),
}

/// The words of a ring of `SLOTS` slots (a power of two) of `WORDS` words each.
struct Slots<M, const SLOTS: usize, const WORDS: usize>(M);

impl<M: Memory, const SLOTS: usize, const WORDS: usize> Slots<M, SLOTS, WORDS> {
    fn new(memory: M) -> Self {
        const { assert!(SLOTS.is_power_of_two()) };
        assert!(memory.words().len() >= HEADER_WORDS + SLOTS * WORDS, "the memory is a whole ring");
        Slots(memory)
    }
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.0.words()[word].load(order)
    }
    fn store(&self, word: usize, value: u64, order: Ordering) {
        self.0.words()[word].store(value, order);
    }
    /// The words of the slot that position `position` is in.
    fn slot(&self, position: u64) -> &[M::Word] {
        let first = HEADER_WORDS + (position % SLOTS as u64) as usize * WORDS;
        &self.0.words()[first..first + WORDS]
    }
    /// Positions from `from` up to `to`; None if there are more than slots.
    fn distance(from: u64, to: u64) -> Option<u64> {
        Some(to.wrapping_sub(from)).filter(|distance| *distance <= SLOTS as u64)
    }
}

fn write_bytes<W: Word>(words: &[W], bytes: &[u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
}

fn read_bytes<W: Word>(words: &[W], bytes: &mut [u8]) {
    for (word, chunk) in words.iter().zip(bytes.chunks_mut(8)) {
        chunk.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes()[..chunk.len()]);
    }
}

/// Two 32-bit halves of a word, the first one at the lower address.
const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}
const fn word_of(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

/// Control's end of a shard's command ring. There is one at a time; control keeps it behind a lock.
pub struct CommandWriter<M: Memory = Shared, const SLOTS: usize = COMMAND_SLOTS> {
    ring: Slots<M, SLOTS, COMMAND_SLOT_WORDS>,
    head: u64,
    harvested: u64,
    attached_at: Ticket,
}

impl<M: Memory, const SLOTS: usize> CommandWriter<M, SLOTS> {
    /// Goes on where the predecessor died. Positions that cannot be are set to the shard's: what stood in
    /// between is forgotten, and a dump shows what became of it.
    pub fn attach(memory: M) -> Self {
        let ring = Slots::new(memory);
        let tail = ring.load(TAIL, Ordering::Acquire);
        let (mut head, mut harvested) = (ring.load(HEAD, Ordering::Relaxed), ring.load(THIRD, Ordering::Relaxed));
        let sane = Slots::<M, SLOTS, COMMAND_SLOT_WORDS>::distance(harvested, head)
            .is_some_and(|used| tail.wrapping_sub(harvested) <= used);
        if !sane {
            (head, harvested) = (tail, tail);
            ring.store(HEAD, head, Ordering::Release);
            ring.store(THIRD, harvested, Ordering::Release);
        }
        CommandWriter { ring, head, harvested, attached_at: head }
    }

    /// Tickets below this one are of a predecessor.
    pub fn attached_at(&self) -> Ticket {
        self.attached_at
    }

    /// Commands pushed and not yet harvested.
    pub fn outstanding(&self) -> usize {
        self.head.wrapping_sub(self.harvested) as usize
    }

    /// Publishes a command for the engine of `epoch`. Then ask `park::must_wake` whether the shard sleeps.
    pub fn push(&mut self, epoch: u64, command: &Command) -> Result<Ticket, PushError> {
        if self.outstanding() >= SLOTS {
            return Err(PushError::Full);
        }
        let ticket = self.head;
        let mut body = [0; COMMAND_BODY_BYTES];
        let (kind, length) = command.encode(&mut body);
        let slot = self.ring.slot(ticket);
        slot[TICKET].store(ticket, Ordering::Relaxed);
        slot[EPOCH].store(epoch, Ordering::Relaxed);
        slot[KIND_AND_LENGTH].store(word_of(kind, length as u32), Ordering::Relaxed);
        write_bytes(&slot[BODY..RESULT], &body[..length]);
        slot[RESULT].store(word_of(Status::Pending as u32, 0), Ordering::Relaxed);
        self.head = ticket.wrapping_add(1);
        self.ring.store(HEAD, self.head, Ordering::Release);
        Ok(ticket)
    }

    /// The next answer, in the order of the tickets; each command gets exactly one. An answer that cannot be read counts as
    /// `Invalid`: what became of such a command only a dump can tell. A successor of a killed control may
    /// read the last answer of its predecessor a second time.
    pub fn poll_answer(&mut self) -> Option<(Ticket, Status, Answer)> {
        let tail = self.ring.load(TAIL, Ordering::Acquire);
        let answered = tail.wrapping_sub(self.harvested);
        if answered == 0 || answered > self.head.wrapping_sub(self.harvested) {
            return None;
        }
        let ticket = self.harvested;
        let (status, answer) = self.read_answer(ticket).unwrap_or((Status::Invalid, Answer::Nothing));
        self.harvested = ticket.wrapping_add(1);
        self.ring.store(THIRD, self.harvested, Ordering::Release);
        Some((ticket, status, answer))
    }

    fn read_answer(&self, ticket: Ticket) -> Option<(Status, Answer)> {
        let slot = self.ring.slot(ticket);
        let (status, length) = halves(slot[RESULT].load(Ordering::Relaxed));
        let status = Status::from_u32(status).filter(|status| *status != Status::Pending)?;
        let mut body = [0; ANSWER_BODY_BYTES];
        let body = body.get_mut(..length as usize)?;
        read_bytes(&slot[RESULT_BODY..], body);
        if slot[TICKET].load(Ordering::Relaxed) != ticket {
            return None;
        }
        Some((status, Answer::decode(body)?))
    }
}

/// The shard's end of its command ring.
pub struct CommandReader<M: Memory = Shared, const SLOTS: usize = COMMAND_SLOTS> {
    ring: Slots<M, SLOTS, COMMAND_SLOT_WORDS>,
    tail: u64,
    /// A command was handed out and waits for its answer.
    asked: bool,
}

impl<M: Memory, const SLOTS: usize> CommandReader<M, SLOTS> {
    /// Goes on where the predecessor died: what that one left unanswered carries its epoch and is refused as stale.
    pub fn attach(memory: M) -> Self {
        let ring = Slots::<M, SLOTS, COMMAND_SLOT_WORDS>::new(memory);
        let tail_found = ring.load(TAIL, Ordering::Relaxed);
        let head = ring.load(HEAD, Ordering::Acquire);
        let mut tail = tail_found;
        if Slots::<M, SLOTS, COMMAND_SLOT_WORDS>::distance(tail, head).is_none() {
            // Our own position is nonsense: begin at what control has not harvested, else at its end.
            let harvested = ring.load(THIRD, Ordering::Relaxed);
            tail = Slots::<M, SLOTS, COMMAND_SLOT_WORDS>::distance(harvested, head).map_or(head, |_| harvested);
            ring.store(TAIL, tail, Ordering::Release);
        }
        CommandReader { ring, tail, asked: false }
    }

    /// Whether nothing waits: the check before parking.
    pub fn is_empty(&self) -> bool {
        self.ring.load(HEAD, Ordering::Acquire) == self.tail
    }

    /// The next command for the engine of `epoch`. A command that was not answered yet is handed out again.
    pub fn next(&mut self, epoch: u64) -> Option<Received> {
        let head = self.ring.load(HEAD, Ordering::Acquire);
        let waiting = head.wrapping_sub(self.tail);
        if waiting == 0 || waiting > SLOTS as u64 {
            return None;
        }
        self.asked = true;
        match self.read_command(epoch) {
            Ok(command) => Some(Received::Command(command)),
            Err(status) => {
                self.answer(status, &Answer::Nothing);
                Some(Received::Refused(status))
            }
        }
    }

    fn read_command(&self, epoch: u64) -> Result<Command, Status> {
        let slot = self.ring.slot(self.tail);
        if slot[TICKET].load(Ordering::Relaxed) != self.tail {
            return Err(Status::Invalid);
        }
        if slot[EPOCH].load(Ordering::Relaxed) != epoch {
            return Err(Status::StaleEpoch);
        }
        let (kind, length) = halves(slot[KIND_AND_LENGTH].load(Ordering::Relaxed));
        let mut body = [0; COMMAND_BODY_BYTES];
        let body = body.get_mut(..length as usize).ok_or(Status::Invalid)?;
        read_bytes(&slot[BODY..RESULT], body);
        Command::decode(kind, body).ok_or(Status::Invalid)
    }

    /// Completes the command that `next` handed out; without one nothing happens. An answer that does not fit (see
    /// `dump_fits`) is replaced by `Full`, so that nobody waits for ever.
    pub fn answer(&mut self, status: Status, answer: &Answer) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let mut body = [0; ANSWER_BODY_BYTES];
        let (status, length) = match answer.encode(&mut body) {
            Some(length) => (status, length),
            None => (Status::Full, 0),
        };
        let slot = self.ring.slot(self.tail);
        write_bytes(&slot[RESULT_BODY..], &body[..length]);
        slot[RESULT].store(word_of(status as u32, length as u32), Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        self.ring.store(TAIL, self.tail, Ordering::Release);
    }
}

/// The shard's end of its event ring.
pub struct EventWriter<M: Memory = Shared, const SLOTS: usize = EVENT_SLOTS> {
    ring: Slots<M, SLOTS, EVENT_SLOT_WORDS>,
    head: u64,
}

impl<M: Memory, const SLOTS: usize> EventWriter<M, SLOTS> {
    pub fn attach(memory: M) -> Self {
        let ring = Slots::<M, SLOTS, EVENT_SLOT_WORDS>::new(memory);
        let tail = ring.load(TAIL, Ordering::Acquire);
        let mut head = ring.load(HEAD, Ordering::Relaxed);
        if Slots::<M, SLOTS, EVENT_SLOT_WORDS>::distance(tail, head).is_none() {
            head = tail;
            ring.store(HEAD, head, Ordering::Release);
        }
        EventWriter { ring, head }
    }

    /// Publishes an event, or counts it as dropped when control is behind by a whole ring.
    pub fn push_or_drop(&mut self, event: &Event) -> bool {
        let tail = self.ring.load(TAIL, Ordering::Acquire);
        if self.head.wrapping_sub(tail) >= SLOTS as u64 {
            let dropped = self.ring.load(THIRD, Ordering::Relaxed);
            self.ring.store(THIRD, dropped.wrapping_add(1), Ordering::Release);
            return false;
        }
        let slot = self.ring.slot(self.head);
        slot[0].store(self.head, Ordering::Relaxed);
        write_bytes(&slot[1..], &event.encode());
        self.head = self.head.wrapping_add(1);
        self.ring.store(HEAD, self.head, Ordering::Release);
        true
    }
}

/// Control's end of a shard's event ring.
pub struct EventReader<M: Memory = Shared, const SLOTS: usize = EVENT_SLOTS> {
    ring: Slots<M, SLOTS, EVENT_SLOT_WORDS>,
    tail: u64,
    /// Events that could not be read.
    unreadable: u64,
}

impl<M: Memory, const SLOTS: usize> EventReader<M, SLOTS> {
    pub fn attach(memory: M) -> Self {
        let ring = Slots::new(memory);
        let tail = ring.load(TAIL, Ordering::Relaxed);
        EventReader { ring, tail, unreadable: 0 }
    }

    /// The next event, oldest first.
    pub fn pop(&mut self) -> Option<Event> {
        let head = self.ring.load(HEAD, Ordering::Acquire);
        let Some(waiting) = Slots::<M, SLOTS, EVENT_SLOT_WORDS>::distance(self.tail, head) else {
            // The positions do not belong together: go to the writer's and have a dump made.
            self.unreadable = self.unreadable.wrapping_add(1);
            self.advance(head);
            return None;
        };
        for _ in 0..waiting {
            let slot = self.ring.slot(self.tail);
            let position = slot[0].load(Ordering::Relaxed);
            let mut body = [0; EVENT_BODY_BYTES];
            read_bytes(&slot[1..], &mut body);
            let event = Event::decode(&body).filter(|_| position == self.tail);
            self.advance(self.tail.wrapping_add(1));
            if event.is_some() {
                return event;
            }
            self.unreadable = self.unreadable.wrapping_add(1);
        }
        None
    }

    /// Events control never saw: dropped by the shard since the link was made, and unreadable to this
    /// reader. When it has grown, ask for a dump.
    pub fn dropped(&self) -> u64 {
        self.ring.load(THIRD, Ordering::Acquire).wrapping_add(self.unreadable)
    }

    /// Whether nothing waits: the check before control sleeps.
    pub fn is_empty(&self) -> bool {
        self.ring.load(HEAD, Ordering::Acquire) == self.tail
    }

    fn advance(&mut self, tail: u64) {
        self.tail = tail;
        self.ring.store(TAIL, tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
