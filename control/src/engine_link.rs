//! Control's end of the link: one command writer per shard, answers brought back to whoever asked, events
//! handed on. Decides nothing.
//!
//! `pump` is called by one task (see `service`), whenever the engine wakes control and on a slow tick in
//! case a wake was lost with a killed engine. Commands may be sent from any task.

use crate::shm::Wake;
use spillway_proto::limits::{FEEDS_MAX, SESSIONS_MAX, TRACKS_MAX};
use spillway_proto::link::command::{Answer, Command, DumpEntry, Status};
use spillway_proto::link::counters::{CounterId, TrackStats};
use spillway_proto::link::event::Event;
use spillway_proto::link::layout::{EngineFacts, Link};
use spillway_proto::link::park;
use spillway_proto::link::quality::{Counted, HistogramId, SessionStats};
use spillway_proto::link::ring::{CommandWriter, EventReader, Ticket};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// A shard answers within a tick; one that needs longer than this is dead or drowning.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// A dump has at least one entry per chunk.
const DUMP_CHUNKS_MAX: usize = SESSIONS_MAX + FEEDS_MAX + TRACKS_MAX;
/// Events taken per shard before the others get their turn.
const EVENTS_PER_PUMP_MAX: usize = 1_024;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkFailure {
    #[error("the shard's command ring is full; try again in a second")]
    Full,
    #[error("the shard did not answer in time; try again in a second")]
    Timeout,
    #[error("the media engine is starting; try again in a second")]
    EngineRestarting,
    #[error("the shard refused the command ({0:?})")]
    Refused(Status),
}

pub struct EngineLink {
    link: Link,
    shards: Vec<Shard>,
}

struct Shard {
    commands: Mutex<Commands>,
    events: Mutex<Events>,
    wake: Wake,
}

struct Commands {
    writer: CommandWriter,
    /// At most as many as the ring has slots.
    waiting: HashMap<Ticket, Waiting>,
    /// What undoes answers nobody waited for, with the epoch they are good for.
    undo: Vec<(u64, Command)>,
}

struct Waiting {
    answer: oneshot::Sender<(Status, Answer)>,
    epoch: u64,
    /// Whether a track of the answer is a new one, and not one taken over.
    makes_track: bool,
}

struct Events {
    reader: EventReader,
    dropped: u64,
}

/// What a pump found.
#[derive(Debug, Default)]
pub struct Pumped {
    pub events: Vec<Event>,
    /// Events were lost: only a dump can tell what is true.
    pub overflowed: bool,
    pub answers: usize,
}

impl Pumped {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.overflowed && self.answers == 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The state behind these locks is whole after every statement, so a panic elsewhere poisons nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineLink {
    /// `wakes` has the eventfd of each shard of the link.
    pub fn attach(link: Link, wakes: Vec<Wake>) -> EngineLink {
        let shards = wakes
            .into_iter()
            .take(link.shards())
            .enumerate()
            .map(|(number, wake)| {
                let reader = link.events_reader(number);
                let dropped = reader.dropped();
                Shard {
                    commands: Mutex::new(Commands {
                        writer: link.commands_writer(number),
                        waiting: HashMap::new(),
                        undo: Vec::new(),
                    }),
                    events: Mutex::new(Events { reader, dropped }),
                    wake,
                }
            })
            .collect();
        link.begin_control_epoch();
        EngineLink { link, shards }
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The engine that takes commands, if there is one.
    pub fn engine(&self) -> Option<(u64, EngineFacts)> {
        self.link.engine_facts()
    }

    /// A counter over all shards.
    pub fn counter_sum(&self, id: CounterId) -> u64 {
        self.link.counter_sum(id)
    }

    pub fn counter(&self, shard: usize, id: CounterId) -> u64 {
        self.link.counters(shard).get(id)
    }

    pub fn histogram_sum(&self, id: HistogramId) -> Counted {
        self.link.histogram_sum(id)
    }

    pub fn session_stats(&self, index: u32) -> &'static SessionStats {
        self.link.session_stats(index)
    }

    pub fn track_stats(&self, index: u32) -> &'static TrackStats {
        self.link.track_stats(index as usize)
    }

    /// Has a command executed by the engine of `epoch`. A command whose answer comes too late is undone.
    pub async fn command(&self, epoch: u64, shard: usize, command: Command) -> Result<Answer, LinkFailure> {
        if self.link.engine_facts().is_none_or(|(ready, _)| ready != epoch) {
            return Err(LinkFailure::EngineRestarting);
        }
        let place = self.shards.get(shard).ok_or(LinkFailure::Refused(Status::WrongShard))?;
        let (answer, wait) = oneshot::channel();
        {
            let mut commands = lock(&place.commands);
            let ticket = commands.writer.push(epoch, &command).map_err(|_| LinkFailure::Full)?;
            let makes_track = matches!(&command, Command::AttachTrack { track, .. } if track.is_none());
            commands.waiting.insert(ticket, Waiting { answer, epoch, makes_track });
        }
        self.wake(shard);
        match tokio::time::timeout(ANSWER_WAIT, wait).await {
            Ok(Ok((Status::Done, answer))) => Ok(answer),
            Ok(Ok((Status::StaleEpoch, _))) => Err(LinkFailure::EngineRestarting),
            Ok(Ok((status, _))) => Err(LinkFailure::Refused(status)),
            Ok(Err(_)) => Err(LinkFailure::EngineRestarting),
            Err(_) if self.link.engine_facts().is_none_or(|(ready, _)| ready != epoch) => {
                Err(LinkFailure::EngineRestarting)
            }
            Err(_) => Err(LinkFailure::Timeout),
        }
    }

    /// Everything the engine of `epoch` has, each entry with its shard.
    pub async fn dump(&self, epoch: u64) -> Result<Vec<(usize, DumpEntry)>, LinkFailure> {
        let mut all = Vec::new();
        for shard in 0..self.shards.len() {
            let mut cursor = Some(0);
            for _ in 0..DUMP_CHUNKS_MAX {
                let Some(from) = cursor else { break };
                match self.command(epoch, shard, Command::Dump { cursor: from }).await? {
                    Answer::Dump { next, entries } => {
                        all.extend(entries.into_iter().map(|entry| (shard, entry)));
                        cursor = next;
                    }
                    _ => return Err(LinkFailure::Refused(Status::Invalid)),
                }
            }
        }
        Ok(all)
    }

    /// Brings answers to whoever waits for them and takes the events.
    pub fn pump(&self) -> Pumped {
        let mut pumped = Pumped::default();
        for (number, shard) in self.shards.iter().enumerate() {
            let mut commands = lock(&shard.commands);
            while let Some((ticket, status, answer)) = commands.writer.poll_answer() {
                pumped.answers += 1;
                // Tickets of a predecessor have nobody waiting; the dump shows what became of them.
                let Some(waiting) = commands.waiting.remove(&ticket) else { continue };
                let undo = undo_of(&answer, waiting.makes_track);
                if waiting.answer.send((status, answer)).is_err() && status == Status::Done {
                    commands.undo.extend(undo.map(|command| (waiting.epoch, command)));
                }
            }
            let mut pushed = false;
            while let Some((epoch, command)) = commands.undo.pop() {
                if commands.writer.push(epoch, &command).is_err() {
                    commands.undo.push((epoch, command));
                    break;
                }
                pushed = true;
            }
            drop(commands);
            if pushed {
                self.wake(number);
            }
            let mut events = lock(&shard.events);
            for _ in 0..EVENTS_PER_PUMP_MAX {
                let Some(event) = events.reader.pop() else { break };
                pumped.events.push(event);
            }
            let dropped = events.reader.dropped();
            pumped.overflowed |= dropped != std::mem::replace(&mut events.dropped, dropped);
        }
        pumped
    }

    /// Announces that control goes to sleep: pump once more after this, then sleep.
    pub fn park(&self) {
        park::park_begins(self.link.control_parked());
    }

    pub fn unpark(&self) {
        park::park_ends(self.link.control_parked());
    }

    fn wake(&self, shard: usize) {
        if let Some(place) = self.shards.get(shard)
            && park::must_wake(self.link.shard_parked(shard))
        {
            place.wake.wake();
        }
    }
}

/// What takes back what an answer gave, when nobody is there any more to use it.
fn undo_of(answer: &Answer, makes_track: bool) -> Option<Command> {
    match answer {
        Answer::Session { session } | Answer::Viewer { session, .. } => Some(Command::RemoveSession { session: *session }),
        Answer::Track { track } if makes_track => Some(Command::DetachTrack { track: *track }),
        // A feed goes with its session.
        _ => None,
    }
}
