//! The link's rings: what a reader makes of any words another process left there. Whatever is understood is the
//! same when it is written by our own side, byte for byte; whatever is not is refused, and nobody waits for ever.

use super::choices::Choices;
use spillway_proto::limits::{
    COMMAND_SLOT_BYTES, EVENT_SLOT_BYTES, FEEDS_MAX, PARAMETER_SETS_BYTES_MAX, PUBLISHERS_MAX, SESSIONS_MAX, TRACKS_MAX,
    TRACKS_PER_STREAM_MAX,
};
use spillway_proto::link::command::{ANSWER_BODY_BYTES, Answer, COMMAND_BODY_BYTES, Command, Status};
use spillway_proto::link::event::Event;
use spillway_proto::link::ring::{
    CommandReader, CommandWriter, EventReader, EventWriter, Memory, Received, command_ring_words, event_ring_words,
};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const SLOTS: usize = 4;
const EPOCH: u64 = 7;
// Where things stand in a ring, as `ring.rs` draws it.
const HEAD: usize = 0;
const TAIL: usize = 16;
const THIRD: usize = 32;
const HEADER_WORDS: usize = 48;
const COMMAND_SLOT_WORDS: usize = COMMAND_SLOT_BYTES / 8;
const EVENT_SLOT_WORDS: usize = EVENT_SLOT_BYTES / 8;
const BODY: usize = 3;
const RESULT: usize = COMMAND_SLOT_WORDS / 2;

#[derive(Clone)]
struct Words(Rc<Vec<AtomicU64>>);

impl Memory for Words {
    type Word = AtomicU64;
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Words {
    fn zeros(words: usize) -> Words {
        Words(Rc::new((0..words).map(|_| AtomicU64::new(0)).collect()))
    }
    fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Relaxed);
    }
    fn set_bytes(&self, word: usize, bytes: &[u8]) {
        for (place, chunk) in bytes.chunks(8).enumerate() {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            self.set(word + place, u64::from_le_bytes(eight));
        }
    }
    fn bytes(&self, word: usize, length: usize) -> Vec<u8> {
        let bytes = self.0[word..].iter().flat_map(|word| word.load(Relaxed).to_le_bytes());
        bytes.take(length).collect()
    }
}

type Writer = CommandWriter<Words, SLOTS>;
type Reader = CommandReader<Words, SLOTS>;

pub fn link_decode(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.u8() % 4 {
        0 => command(&mut choices),
        1 => answer(&mut choices),
        2 => event(&mut choices),
        _ => any_words(&mut choices),
    }
}

/// A slot that is published as a command's is, with any kind and any body.
fn command(choices: &mut Choices<'_>) {
    let kind = u32::from(choices.u8());
    let body = choices.bytes(COMMAND_BODY_BYTES);
    let words = Words::zeros(command_ring_words(SLOTS));
    let mut writer = Writer::attach(words.clone());
    writer.push(EPOCH, &Command::Dump { cursor: 0 }).expect("an empty ring has room");
    words.set(HEADER_WORDS + 2, u64::from(kind) | (body.len() as u64) << 32);
    words.set_bytes(HEADER_WORDS + BODY, body);
    let mut reader = Reader::attach(words);
    match reader.next(EPOCH) {
        Some(Received::Command(command)) => {
            assert_indices(&command);
            let (again, kind_again, body_again) = pushed(&command);
            assert_eq!(again, Received::Command(command));
            assert_eq!((kind_again, &body_again[..]), (kind, body), "a command has one form");
            reader.answer(Status::Done, &Answer::Nothing);
            assert_eq!(writer.poll_answer(), Some((0, Status::Done, Answer::Nothing)));
        }
        Some(Received::Refused(status)) => {
            assert_eq!(status, Status::Invalid);
            assert_eq!(writer.poll_answer(), Some((0, Status::Invalid, Answer::Nothing)));
        }
        None => panic!("a published command is handed out or refused"),
    }
    assert!(reader.next(EPOCH).is_none() && writer.poll_answer().is_none());
}

/// The command through a ring of its own: as it is read, and its kind and bytes.
fn pushed(command: &Command) -> (Received, u32, Vec<u8>) {
    let words = Words::zeros(command_ring_words(SLOTS));
    Writer::attach(words.clone()).push(EPOCH, command).expect("an empty ring has room");
    let head = words.0[HEADER_WORDS + 2].load(Relaxed);
    let body = words.bytes(HEADER_WORDS + BODY, (head >> 32) as usize);
    (Reader::attach(words).next(EPOCH).expect("it was pushed"), head as u32, body)
}

/// Whoever has decoded a name indexes with it.
fn assert_indices(command: &Command) {
    match command {
        Command::AddSession { .. } | Command::Dump { .. } => {}
        Command::AddViewer { feeds, .. } => {
            assert!(feeds.iter().all(|(track, _)| (track.index as usize) < TRACKS_MAX) && feeds.len() <= TRACKS_PER_STREAM_MAX);
        }
        Command::RemoveSession { session } => assert!((session.index as usize) < SESSIONS_MAX),
        Command::AttachTrack { session, stream, track, facts, .. } => {
            assert!((session.index as usize) < SESSIONS_MAX && (stream.index as usize) < PUBLISHERS_MAX);
            assert!((track.index as usize) < TRACKS_MAX);
            assert!(facts.payload_type < 128 && facts.rtx_payload_type < 128);
        }
        Command::SetParameterSets { track, sets } => {
            assert!((track.index as usize) < TRACKS_MAX && sets.len() <= PARAMETER_SETS_BYTES_MAX);
        }
        Command::DetachTrack { track } | Command::RequestKeyframe { track } => assert!((track.index as usize) < TRACKS_MAX),
        Command::AttachFeed { session, track, facts } => {
            assert!((session.index as usize) < SESSIONS_MAX && (track.index as usize) < TRACKS_MAX);
            assert!(facts.payload_types.iter().chain(&facts.rtx_payload_types).all(|payload_type| *payload_type < 128));
        }
        Command::DetachFeed { feed } => assert!((feed.index as usize) < FEEDS_MAX),
        Command::SelectLayer { feed, .. } => assert!((feed.index as usize) < FEEDS_MAX),
        #[allow(unreachable_patterns, reason = "commands may come that name nothing")]
        _ => {}
    }
}

/// An answered slot with any status and any body.
fn answer(choices: &mut Choices<'_>) {
    let status = u32::from(choices.u8() % 12);
    let body = choices.bytes(ANSWER_BODY_BYTES);
    let words = Words::zeros(command_ring_words(SLOTS));
    let mut writer = Writer::attach(words.clone());
    writer.push(EPOCH, &Command::Dump { cursor: 0 }).expect("an empty ring has room");
    words.set(HEADER_WORDS + RESULT, u64::from(status) | (body.len() as u64) << 32);
    words.set_bytes(HEADER_WORDS + RESULT + 1, body);
    words.set(TAIL, 1);
    let (ticket, found, answer) = writer.poll_answer().expect("the shard's tail says it is answered");
    assert_eq!(ticket, 0);
    assert!(writer.poll_answer().is_none());
    if found == Status::Invalid && answer == Answer::Nothing {
        return;
    }
    assert_eq!(found as u32, status);
    // The same answer by our own side.
    let words = Words::zeros(command_ring_words(SLOTS));
    let mut writer = Writer::attach(words.clone());
    writer.push(EPOCH, &Command::Dump { cursor: 0 }).expect("an empty ring has room");
    let mut reader = Reader::attach(words.clone());
    assert!(matches!(reader.next(EPOCH), Some(Received::Command(_))));
    reader.answer(found, &answer);
    let head = words.0[HEADER_WORDS + RESULT].load(Relaxed);
    let mut again = words.bytes(HEADER_WORDS + RESULT + 1, (head >> 32) as usize);
    let mut body = body.to_vec();
    if let Answer::Dump { next: None, .. } = answer {
        // Without "there is more" nobody reads the cursor.
        again[2..6].fill(0);
        body[2..6].fill(0);
    }
    assert_eq!(again, body, "an answer has one form");
    assert_eq!(writer.poll_answer(), Some((0, found, answer)));
}

/// A published event with any body.
fn event(choices: &mut Choices<'_>) {
    let body = choices.bytes(EVENT_SLOT_BYTES - 8);
    let words = Words::zeros(event_ring_words(SLOTS));
    words.set_bytes(HEADER_WORDS + 1, body);
    words.set(HEAD, 1);
    let mut reader = EventReader::<Words, SLOTS>::attach(words);
    let dropped = reader.dropped();
    let Some(event) = reader.pop() else {
        assert!(reader.dropped() > dropped, "what cannot be read is counted");
        return;
    };
    match event {
        Event::SessionConnected { session, .. } | Event::SessionClosed { session, .. } => {
            assert!((session.index as usize) < SESSIONS_MAX);
        }
        Event::TrackState { track, .. } => assert!((track.index as usize) < TRACKS_MAX),
        #[allow(unreachable_patterns, reason = "events may come that name nothing")]
        _ => {}
    }
    let words = Words::zeros(event_ring_words(SLOTS));
    assert!(EventWriter::<Words, SLOTS>::attach(words.clone()).push_or_drop(&event));
    assert_eq!(EventReader::<Words, SLOTS>::attach(words).pop(), Some(event));
}

/// Positions and slots of any content, written while both sides go on: every call comes back, a side never takes
/// more than there are slots without the other's having moved.
fn any_words(choices: &mut Choices<'_>) {
    let (commands, events) = (Words::zeros(command_ring_words(SLOTS)), Words::zeros(event_ring_words(SLOTS)));
    scribble(choices, &commands, COMMAND_SLOT_WORDS);
    scribble(choices, &events, EVENT_SLOT_WORDS);
    let mut writer = Writer::attach(commands.clone());
    let mut reader = Reader::attach(commands.clone());
    let mut told = EventWriter::<Words, SLOTS>::attach(events.clone());
    let mut heard = EventReader::<Words, SLOTS>::attach(events.clone());
    for _ in 0..64 {
        if choices.is_over() {
            break;
        }
        match choices.u8() % 8 {
            0 => scribble(choices, &commands, COMMAND_SLOT_WORDS),
            1 => scribble(choices, &events, EVENT_SLOT_WORDS),
            2 => {
                let _ = writer.push(EPOCH, &Command::Dump { cursor: 1 });
                assert!(writer.outstanding() <= SLOTS);
            }
            3 => {
                // Bounded by the slots, whatever the head says.
                let taken = std::iter::from_fn(|| {
                    let received = reader.next(EPOCH)?;
                    reader.answer(Status::Done, &Answer::Nothing);
                    Some(received)
                });
                assert!(taken.take(SLOTS + 1).count() <= SLOTS);
            }
            4 => {
                let answers = std::iter::from_fn(|| writer.poll_answer());
                assert!(answers.take(SLOTS + 1).count() <= SLOTS);
            }
            5 => {
                let _ = told.push_or_drop(&Event::TrackState { track: Default::default(), live: true });
            }
            6 => {
                let events = std::iter::from_fn(|| heard.pop());
                assert!(events.take(SLOTS + 1).count() <= SLOTS);
                let _ = (heard.dropped(), heard.is_empty(), reader.is_empty());
            }
            // One side dies, and another takes its place.
            _ => match choices.u8() % 4 {
                0 => writer = Writer::attach(commands.clone()),
                1 => reader = Reader::attach(commands.clone()),
                2 => told = EventWriter::attach(events.clone()),
                _ => heard = EventReader::attach(events.clone()),
            },
        }
    }
}

/// Writes a word: a position near the others, or anything anywhere.
fn scribble(choices: &mut Choices<'_>, words: &Words, slot_words: usize) {
    let kind = choices.u8();
    let small = u64::from(choices.u8());
    let place = match kind % 8 {
        0 => HEAD,
        1 => TAIL,
        2 => THIRD,
        slot => HEADER_WORDS + (usize::from(slot) % SLOTS) * slot_words + usize::from(kind >> 3) % slot_words,
    };
    words.set(place, if kind & 0x80 == 0 { small } else { choices.u64() });
}
