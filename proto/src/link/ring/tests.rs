//! Goal: no order of steps, no death at any store and no contents of the memory make a ring lose, tear or
//! invent anything, panic or loop. Method: loom for the orders, a memory that dies after its n-th store for
//! the deaths, a model of queues for long runs, random words for the contents.

use super::*;
use crate::id::{FeedId, SessionId, TrackId};
use crate::rng::Rng;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

// ---- memories ----

#[derive(Clone)]
struct Plain(Arc<Vec<AtomicU64>>);

impl Plain {
    fn zeros(words: usize) -> Plain {
        Plain(Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Memory for Plain {
    type Word = AtomicU64;
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Word for loom::sync::atomic::AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        loom::sync::atomic::AtomicU64::load(self, order)
    }
    fn store(&self, value: u64, order: Ordering) {
        loom::sync::atomic::AtomicU64::store(self, value, order);
    }
}

#[derive(Clone)]
struct Loom(Arc<Vec<loom::sync::atomic::AtomicU64>>);

impl Loom {
    fn zeros(words: usize) -> Loom {
        Loom(Arc::new((0..words).map(|_| loom::sync::atomic::AtomicU64::new(0)).collect()))
    }
}

impl Memory for Loom {
    type Word = loom::sync::atomic::AtomicU64;
    fn words(&self) -> &[Self::Word] {
        &self.0
    }
}

/// A word of a process that dies: after its last store nothing it does reaches the memory.
struct MortalWord {
    word: Rc<AtomicU64>,
    stores_left: Rc<Cell<usize>>,
}

impl Word for MortalWord {
    fn load(&self, order: Ordering) -> u64 {
        self.word.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        if let Some(left) = self.stores_left.get().checked_sub(1) {
            self.stores_left.set(left);
            self.word.store(value, order);
        }
    }
}

struct Mortal(Vec<MortalWord>);

impl Memory for Mortal {
    type Word = MortalWord;
    fn words(&self) -> &[MortalWord] {
        &self.0
    }
}

struct Mapping(Vec<Rc<AtomicU64>>);

impl Mapping {
    fn zeros(words: usize) -> Mapping {
        Mapping((0..words).map(|_| Rc::new(AtomicU64::new(0))).collect())
    }
    /// The mapping as a process sees that dies after `stores` stores.
    fn process(&self, stores: usize) -> Mortal {
        let stores_left = Rc::new(Cell::new(stores));
        Mortal(self.0.iter().map(|word| MortalWord { word: word.clone(), stores_left: stores_left.clone() }).collect())
    }
}

const IMMORTAL: usize = usize::MAX;

// ---- helpers ----

fn answer_to(command: &Command) -> Answer {
    let Command::Dump { cursor } = command else { panic!("only dumps are asked here: {command:?}") };
    Answer::Session { session: SessionId::new(*cursor % 1_000, *cursor + 1) }
}

fn event(number: u32) -> Event {
    Event::TrackState { track: TrackId::new(number % 1_000, number + 1), live: number.is_multiple_of(2) }
}

// ---- loom ----

#[test]
fn loom_commands_are_answered_in_order_and_slots_reused() {
    const SLOTS: usize = 1;
    const COMMANDS: u32 = 2;
    loom::model(|| {
        let memory = Loom::zeros(command_ring_words(SLOTS));
        let shard = {
            let mut reader = CommandReader::<_, SLOTS>::attach(memory.clone());
            loom::thread::spawn(move || {
                let mut answered = 0;
                while answered < COMMANDS {
                    match reader.next(7) {
                        Some(Received::Command(command)) => {
                            assert_eq!(command, Command::Dump { cursor: answered }, "in order and whole");
                            reader.answer(Status::Done, &answer_to(&command));
                            answered += 1;
                        }
                        Some(Received::Refused(status)) => panic!("{status:?}"),
                        None => loom::thread::yield_now(),
                    }
                }
            })
        };
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory);
        let (mut pushed, mut harvested) = (0, 0);
        while harvested < COMMANDS {
            if pushed < COMMANDS && writer.push(7, &Command::Dump { cursor: pushed }).is_ok() {
                pushed += 1;
            }
            match writer.poll_answer() {
                Some((ticket, status, answer)) => {
                    assert_eq!((ticket, status), (u64::from(harvested), Status::Done));
                    assert_eq!(answer, answer_to(&Command::Dump { cursor: harvested }), "the whole answer");
                    harvested += 1;
                }
                None => loom::thread::yield_now(),
            }
        }
        shard.join().unwrap();
    });
}

#[test]
fn loom_events_arrive_whole_or_are_counted() {
    const SLOTS: usize = 2;
    const EVENTS: u32 = 3;
    loom::model(|| {
        let memory = Loom::zeros(event_ring_words(SLOTS));
        let shard = {
            let mut writer = EventWriter::<_, SLOTS>::attach(memory.clone());
            loom::thread::spawn(move || (0..EVENTS).filter(|number| writer.push_or_drop(&event(*number))).collect::<Vec<_>>())
        };
        let mut reader = EventReader::<_, SLOTS>::attach(memory);
        let mut seen = Vec::new();
        for _ in 0..2 {
            seen.extend(reader.pop());
            loom::thread::yield_now();
        }
        let pushed = shard.join().unwrap();
        seen.extend(std::iter::from_fn(|| reader.pop()));
        assert_eq!(seen, pushed.iter().map(|number| event(*number)).collect::<Vec<_>>());
        assert_eq!(reader.dropped(), u64::from(EVENTS) - pushed.len() as u64);
    });
}

// ---- death at every store ----

/// More stores than any step of the scripts below makes.
const STORES_MAX: usize = 40;

#[test]
fn threat_30_a_writer_may_die_at_any_store() {
    for stores in 0..STORES_MAX {
        let mapping = Mapping::zeros(command_ring_words(2));
        let mut shard = CommandReader::<_, 2>::attach(mapping.process(IMMORTAL));
        let mut first = CommandWriter::<_, 2>::attach(mapping.process(IMMORTAL));
        first.push(1, &Command::Dump { cursor: 100 }).unwrap();
        assert!(matches!(shard.next(1), Some(Received::Command(_))));
        shard.answer(Status::Done, &Answer::Nothing);

        // Harvests that answer, pushes two more, dies somewhere in between.
        let mut dying = CommandWriter::<_, 2>::attach(mapping.process(stores));
        assert!(dying.poll_answer().is_some());
        dying.push(1, &Command::Dump { cursor: 101 }).unwrap();
        dying.push(1, &Command::Dump { cursor: 102 }).unwrap();

        // What was published is whole and in order; the successor harvests every ticket from where it stands.
        let mut successor = CommandWriter::<_, 2>::attach(mapping.process(IMMORTAL));
        let published = successor.attached_at();
        let mut executed = Vec::new();
        while let Some(received) = shard.next(1) {
            let Received::Command(command) = received else { panic!("{stores} stores: {received:?}") };
            shard.answer(Status::Done, &answer_to(&command));
            executed.push(command);
        }
        let expected: Vec<_> = (1..published).map(|ticket| Command::Dump { cursor: 100 + ticket as u32 }).collect();
        assert_eq!(executed, expected, "{stores} stores");
        let harvested: Vec<_> = std::iter::from_fn(|| successor.poll_answer()).map(|(ticket, ..)| ticket).collect();
        assert!(harvested.last().is_none_or(|last| last + 1 == published), "{stores} stores: {harvested:?}");
        assert!(harvested.is_sorted_by(|a, b| a + 1 == *b), "{stores} stores: {harvested:?}");
        assert_eq!(successor.outstanding(), 0);
        assert_eq!(successor.push(1, &Command::Dump { cursor: 9 }), Ok(published));
    }
}

#[test]
fn threat_30_a_reader_may_die_at_any_store() {
    for stores in 0..STORES_MAX {
        let mapping = Mapping::zeros(command_ring_words(4));
        let mut control = CommandWriter::<_, 4>::attach(mapping.process(IMMORTAL));
        for cursor in 0..4 {
            control.push(1, &Command::Dump { cursor }).unwrap();
        }
        let mut dying = CommandReader::<_, 4>::attach(mapping.process(stores));
        for _ in 0..3 {
            let Some(Received::Command(command)) = dying.next(1) else { panic!("{stores} stores") };
            dying.answer(Status::Done, &answer_to(&command));
        }
        let mut successor = CommandReader::<_, 4>::attach(mapping.process(IMMORTAL));
        while let Some(received) = successor.next(2) {
            assert_eq!(received, Received::Refused(Status::StaleEpoch), "{stores} stores");
        }
        // Each exactly once: with its own answer, or refused.
        let mut stale = false;
        for cursor in 0..4 {
            let (ticket, status, answer) = control.poll_answer().unwrap();
            assert_eq!(ticket, u64::from(cursor));
            stale |= status == Status::StaleEpoch;
            let expected = if stale { (Status::StaleEpoch, Answer::Nothing) } else { (Status::Done, answer_to(&Command::Dump { cursor })) };
            assert_eq!((status, answer), expected, "{stores} stores");
        }
        assert_eq!(control.poll_answer(), None);
        assert!(stale, "the fourth was never read by the one that died");
    }
}

#[test]
fn threat_30_either_end_of_the_event_ring_may_die_at_any_store() {
    for stores in 0..STORES_MAX {
        let mapping = Mapping::zeros(event_ring_words(4));
        let mut dying = EventWriter::<_, 4>::attach(mapping.process(stores));
        for number in 0..3 {
            dying.push_or_drop(&event(number));
        }
        let mut successor = EventWriter::<_, 4>::attach(mapping.process(IMMORTAL));
        assert!(successor.push_or_drop(&event(3)));
        let mut dying = EventReader::<_, 4>::attach(mapping.process(stores % 3));
        while dying.pop().is_some() {}
        let mut reader = EventReader::<_, 4>::attach(mapping.process(IMMORTAL));
        let seen: Vec<_> = std::iter::from_fn(|| reader.pop()).collect();
        let all: Vec<_> = (0..4).map(event).collect();
        let published = all.iter().take(3).take(stores / 9).chain([&all[3]]).copied().collect::<Vec<_>>();
        assert!(published.ends_with(&seen), "{stores} stores: {seen:?} of {published:?}");
        assert_eq!(seen.len(), published.len().saturating_sub(stores % 3), "{stores} stores");
        assert_eq!(reader.dropped(), 0);
    }
}

// ---- the model ----

#[test]
fn random_operations_agree_with_a_queue() {
    const SLOTS: usize = 4;
    for seed in 0..64 {
        let mut rng = Rng::new(seed);
        let memory = Plain::zeros(command_ring_words(SLOTS));
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory.clone());
        let mut reader = CommandReader::<_, SLOTS>::attach(memory.clone());
        let mut waiting: VecDeque<(Ticket, u64, Command)> = VecDeque::new();
        let mut answered: VecDeque<(Ticket, Status, Answer)> = VecDeque::new();
        let (mut epoch, mut cursor) = (1, 0);
        for _ in 0..2_000 {
            match rng.below(10) {
                0..4 => {
                    cursor += 1;
                    let command = Command::Dump { cursor };
                    // Sometimes for an engine that is gone.
                    let addressed = if rng.below(8) == 0 { epoch - 1 } else { epoch };
                    match writer.push(addressed, &command) {
                        Ok(ticket) => waiting.push_back((ticket, addressed, command)),
                        Err(PushError::Full) => assert_eq!(waiting.len() + answered.len(), SLOTS),
                    }
                }
                4..7 => match (reader.next(epoch), waiting.front().cloned()) {
                    (None, None) => {}
                    (Some(Received::Command(command)), Some((ticket, addressed, expected))) => {
                        assert_eq!((&command, addressed), (&expected, epoch));
                        // Sometimes the answer has to wait; then the command comes again.
                        if rng.below(4) > 0 {
                            reader.answer(Status::Done, &answer_to(&command));
                            waiting.pop_front();
                            answered.push_back((ticket, Status::Done, answer_to(&command)));
                        }
                    }
                    (Some(Received::Refused(status)), Some((ticket, addressed, _))) => {
                        assert_eq!(status, Status::StaleEpoch);
                        assert_ne!(addressed, epoch);
                        waiting.pop_front();
                        answered.push_back((ticket, status, Answer::Nothing));
                    }
                    other => panic!("{other:?}"),
                },
                7..9 => assert_eq!(writer.poll_answer(), answered.pop_front()),
                _ if rng.below(4) == 0 => {
                    reader = CommandReader::attach(memory.clone());
                    epoch += 1;
                }
                _ => {
                    writer = CommandWriter::attach(memory.clone());
                    assert_eq!(writer.outstanding(), waiting.len() + answered.len());
                }
            }
            assert_eq!(reader.is_empty(), waiting.is_empty());
        }
    }
}

#[test]
fn random_events_agree_with_a_queue() {
    const SLOTS: usize = 4;
    let memory = Plain::zeros(event_ring_words(SLOTS));
    let mut writer = EventWriter::<_, SLOTS>::attach(memory.clone());
    let mut reader = EventReader::<_, SLOTS>::attach(memory.clone());
    let (mut rng, mut model, mut dropped) = (Rng::new(5), VecDeque::new(), 0);
    for number in 0..20_000 {
        match rng.below(9) {
            0..5 => {
                let room = model.len() < SLOTS;
                assert_eq!(writer.push_or_drop(&event(number)), room);
                if room {
                    model.push_back(event(number));
                } else {
                    dropped += 1;
                }
            }
            5..7 => assert_eq!(reader.pop(), model.pop_front()),
            7 => writer = EventWriter::attach(memory.clone()),
            _ => reader = EventReader::attach(memory.clone()),
        }
        assert_eq!(reader.dropped(), dropped);
    }
    assert!(dropped > 100, "the ring was full now and then");
}

#[test]
fn an_answer_that_does_not_fit_says_full() {
    use super::super::command::DumpEntry;
    let memory = Plain::zeros(command_ring_words(2));
    let mut writer = CommandWriter::<_, 2>::attach(memory.clone());
    let mut reader = CommandReader::<_, 2>::attach(memory);
    let entry = DumpEntry::Feed { feed: FeedId::new(1, 1), session: SessionId::new(1, 1), track: TrackId::new(1, 1) };
    writer.push(1, &Command::Dump { cursor: 0 }).unwrap();
    assert!(reader.next(1).is_some());
    reader.answer(Status::Done, &Answer::Dump { next: None, entries: vec![entry; 30] });
    assert_eq!(writer.poll_answer(), Some((0, Status::Full, Answer::Nothing)));
    // Nothing was asked: no second answer.
    reader.answer(Status::Done, &Answer::Nothing);
    assert_eq!(writer.poll_answer(), None);
}

// ---- hostile contents ----

#[test]
fn threat_30_any_contents_end_without_a_panic() {
    const SLOTS: usize = 4;
    let mut rng = Rng::new(11);
    for round in 0..2_000 {
        let commands = Plain::zeros(command_ring_words(SLOTS));
        let events = Plain::zeros(event_ring_words(SLOTS));
        let scribble = |rng: &mut Rng, memory: &Plain| {
            for word in memory.0.iter() {
                // Nonsense, and numbers small enough to be believed.
                let value = if rng.below(2) == 0 { rng.next_u64() } else { rng.below(9) | rng.below(9) << 32 };
                word.store(value, Ordering::Relaxed);
            }
        };
        let attach_first = round % 2 == 0;
        if !attach_first {
            scribble(&mut rng, &commands);
            scribble(&mut rng, &events);
        }
        let mut writer = CommandWriter::<_, SLOTS>::attach(commands.clone());
        let mut reader = CommandReader::<_, SLOTS>::attach(commands.clone());
        let mut event_writer = EventWriter::<_, SLOTS>::attach(events.clone());
        let mut event_reader = EventReader::<_, SLOTS>::attach(events.clone());
        for _ in 0..4 {
            if attach_first {
                scribble(&mut rng, &commands);
                scribble(&mut rng, &events);
            }
            for cursor in 0..6 {
                let _ = writer.push(3, &Command::Dump { cursor });
                if reader.next(3).is_some() {
                    reader.answer(Status::Done, &Answer::Nothing);
                }
                let _ = writer.poll_answer();
                event_writer.push_or_drop(&event(cursor));
                let _ = (event_reader.pop(), event_reader.dropped(), event_reader.is_empty());
            }
            assert!(writer.outstanding() <= SLOTS);
        }
    }
}

#[test]
fn threat_30_positions_that_cannot_be_are_set_right_by_whoever_attaches() {
    const SLOTS: usize = 4;
    let mut rng = Rng::new(12);
    for round in 0..200 {
        let memory = Plain::zeros(command_ring_words(SLOTS));
        for word in [HEAD, TAIL, THIRD] {
            memory.0[word].store(rng.next_u64(), Ordering::Relaxed);
        }
        // In either order.
        let early = (round % 2 == 0).then(|| CommandReader::<_, SLOTS>::attach(memory.clone()));
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory.clone());
        let mut reader = early.unwrap_or_else(|| CommandReader::attach(memory.clone()));
        assert_eq!(reader.next(1), None);
        let ticket = writer.push(1, &Command::Dump { cursor: 8 }).unwrap();
        assert_eq!(reader.next(1), Some(Received::Command(Command::Dump { cursor: 8 })));
        reader.answer(Status::Done, &Answer::Nothing);
        assert_eq!(writer.poll_answer(), Some((ticket, Status::Done, Answer::Nothing)));

        let memory = Plain::zeros(event_ring_words(SLOTS));
        for word in [HEAD, TAIL] {
            memory.0[word].store(rng.next_u64(), Ordering::Relaxed);
        }
        let mut reader = EventReader::<_, SLOTS>::attach(memory.clone());
        assert_eq!(reader.pop(), None);
        assert_eq!(reader.dropped(), 1, "control is told that it missed something");
        let mut writer = EventWriter::<_, SLOTS>::attach(memory);
        assert!(writer.push_or_drop(&event(1)));
        assert_eq!(reader.pop(), Some(event(1)));
    }
}

#[test]
fn threat_30_the_other_side_out_of_range_is_nothing_to_do() {
    const SLOTS: usize = 4;
    for far in [SLOTS as u64 + 1, u64::MAX, 1 << 63] {
        let memory = Plain::zeros(command_ring_words(SLOTS));
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory.clone());
        let mut reader = CommandReader::<_, SLOTS>::attach(memory.clone());
        writer.push(1, &Command::Dump { cursor: 1 }).unwrap();
        memory.0[HEAD].store(far, Ordering::Relaxed);
        assert_eq!(reader.next(1), None, "a head {far} ahead");
        memory.0[HEAD].store(1, Ordering::Relaxed);
        assert!(matches!(reader.next(1), Some(Received::Command(_))), "nothing was skipped");
        reader.answer(Status::Done, &Answer::Nothing);

        memory.0[TAIL].store(far, Ordering::Relaxed);
        assert_eq!(writer.poll_answer(), None, "a tail {far} ahead");
        memory.0[TAIL].store(1, Ordering::Relaxed);
        assert_eq!(writer.poll_answer(), Some((0, Status::Done, Answer::Nothing)));

        let memory = Plain::zeros(event_ring_words(SLOTS));
        let mut writer = EventWriter::<_, SLOTS>::attach(memory.clone());
        memory.0[TAIL].store(far.wrapping_neg(), Ordering::Relaxed);
        assert!(!writer.push_or_drop(&event(1)), "a tail {far} behind");
    }
}

/// Positions that are in range and slots that do not belong to them: nothing of an earlier round is executed, believed
/// or told a second time.
#[test]
fn threat_30_a_position_without_its_slot_brings_nothing_old_back() {
    const SLOTS: usize = 4;
    let round = |memory: &Plain| {
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory.clone());
        let mut reader = CommandReader::<_, SLOTS>::attach(memory.clone());
        for cursor in 0..SLOTS as u32 {
            writer.push(1, &Command::Dump { cursor }).unwrap();
            let Some(Received::Command(command)) = reader.next(1) else { panic!("{cursor}") };
            reader.answer(Status::Done, &answer_to(&command));
            assert!(writer.poll_answer().is_some());
        }
        (writer, reader)
    };
    let words = command_ring_words(SLOTS);
    let fifth = SLOTS as u64 + 1;
    // A head without a command: the slot still has the first one.
    let memory = Plain::zeros(words);
    let (_, mut reader) = round(&memory);
    memory.0[HEAD].store(fifth, Ordering::Relaxed);
    assert_eq!(reader.next(1), Some(Received::Refused(Status::Invalid)), "an old command came again");
    // A tail without an answer: the slot still has that of the first command.
    let memory = Plain::zeros(words);
    let (mut writer, _) = round(&memory);
    let ticket = writer.push(1, &Command::Dump { cursor: 9 }).unwrap();
    memory.0[TAIL].store(fifth, Ordering::Relaxed);
    assert_eq!(writer.poll_answer(), Some((ticket, Status::Invalid, Answer::Nothing)), "an old answer came again");
    // An answer in a slot that says it is of another ticket.
    let memory = Plain::zeros(words);
    let (mut writer, mut reader) = round(&memory);
    let ticket = writer.push(1, &Command::Dump { cursor: 9 }).unwrap();
    assert!(reader.next(1).is_some());
    reader.answer(Status::Done, &Answer::Nothing);
    memory.0[HEADER_WORDS + TICKET].store(99, Ordering::Relaxed);
    assert_eq!(writer.poll_answer(), Some((ticket, Status::Invalid, Answer::Nothing)), "another ticket's answer");
    // An event ring's head without an event.
    let memory = Plain::zeros(event_ring_words(SLOTS));
    let mut events = EventWriter::<_, SLOTS>::attach(memory.clone());
    let mut seen = EventReader::<_, SLOTS>::attach(memory.clone());
    for number in 0..SLOTS as u32 {
        assert!(events.push_or_drop(&event(number)));
        assert_eq!(seen.pop(), Some(event(number)));
    }
    memory.0[HEAD].store(fifth, Ordering::Relaxed);
    assert_eq!((seen.pop(), seen.dropped()), (None, 1), "an old event came again");
}

/// The shard's own position is spoiled while control goes on: a shard that attaches finds what is not harvested.
#[test]
fn threat_30_a_shard_that_finds_nonsense_goes_on_at_what_control_waits_for() {
    const SLOTS: usize = 4;
    for far in [SLOTS as u64 + 2, 1 << 63] {
        let memory = Plain::zeros(command_ring_words(SLOTS));
        let mut writer = CommandWriter::<_, SLOTS>::attach(memory.clone());
        let ticket = writer.push(1, &Command::Dump { cursor: 7 }).unwrap();
        memory.0[TAIL].store(far, Ordering::Relaxed);
        let mut reader = CommandReader::<_, SLOTS>::attach(memory.clone());
        assert_eq!(reader.next(1), Some(Received::Command(Command::Dump { cursor: 7 })), "tail {far}");
        reader.answer(Status::Done, &Answer::Nothing);
        assert_eq!(writer.poll_answer(), Some((ticket, Status::Done, Answer::Nothing)));
    }
}
