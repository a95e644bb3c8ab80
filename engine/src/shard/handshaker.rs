//! A shard's handshakes have a thread of their own beside it: a step takes up to a millisecond of elliptic curves, and packets would wait for its end.
//!
//! The shard lends a session's handshake out together with the datagrams that came for it, and gets it back with what it has to say. One
//! thread has it at a time, so nothing is shared and nobody waits for anybody. Whether the session still exists when it comes back is the shard's
//! business (`session`). In virtual time whoever ticks the shards calls `work` himself.

use crate::clock;
use rtrb::{Consumer, Producer, RingBuffer};
use spillway_proto::id::SessionId;
use spillway_proto::limits::DATAGRAM_SIZE_MAX;
use spillway_proto::link::command::{DtlsRole, Fingerprint};
use spillway_proto::session::dtls::{DtlsError, DtlsOutput, Handshake, SrtpKeys};
use spillway_proto::session::farewell::Farewell;
use spillway_proto::session::record::KeptDatagram;
use spillway_proto::session::srtp::{Opener, Sealer};
use spillway_proto::time::Time;
use std::thread::Thread;
use std::time::Duration;
use std::vec;

/// Makes the state machine of one handshake; a simulator puts a stub here.
pub type HandshakeMaker = Box<dyn FnMut(DtlsRole, Fingerprint, Time) -> Result<Box<dyn Handshake>, DtlsError> + Send>;

/// Handshakes lent out at a time. Who finds no room is looked at again in a millisecond.
const LENT_MAX: usize = 1_024;
/// Datagrams one call into the handshake may produce; a flight of ours has four at most.
const FLIGHT_MAX: usize = 16;

pub struct Job {
    pub session: SessionId,
    pub task: Task,
    /// In their order; none where its timer is due.
    pub datagrams: Vec<Vec<u8>>,
}

pub enum Task {
    Begin { role: DtlsRole, fingerprint: Fingerprint },
    GoOn(Box<dyn Handshake>),
}

pub struct Done {
    pub session: SessionId,
    /// None: it is not needed any more.
    pub handshake: Option<Box<dyn Handshake>>,
    pub said: Vec<Vec<u8>>,
    pub outcome: Result<Step, DtlsError>,
    /// How many datagrams went with the job, and those that came behind its end.
    pub heard: usize,
    pub unheard: vec::IntoIter<Vec<u8>>,
    pub took: Duration,
}

pub enum Step {
    /// It is to be called without a datagram then.
    Wait(Time),
    Connected(Box<Connected>),
    Closed,
}

/// What a handshake leaves behind, and its keys ready for use.
pub struct Connected {
    pub keys: SrtpKeys,
    pub opener: Opener,
    pub sealer: Sealer,
    pub close: KeptDatagram,
    pub last_flight: KeptDatagram,
    pub farewell: Option<Farewell>,
}

/// The shard's end.
pub struct Lending {
    jobs: Producer<Job>,
    done: Consumer<Done>,
    lent: usize,
    /// None in virtual time.
    thread: Option<Thread>,
}

/// The other end.
pub struct Handshaker {
    jobs: Consumer<Job>,
    done: Producer<Done>,
    make: HandshakeMaker,
}

pub fn handshaker(make: HandshakeMaker) -> (Lending, Handshaker) {
    let (jobs, taken) = RingBuffer::new(LENT_MAX);
    let (given, done) = RingBuffer::new(LENT_MAX);
    (Lending { jobs, done, lent: 0, thread: None }, Handshaker { jobs: taken, done: given, make })
}

impl Lending {
    /// Who works, to be woken.
    pub fn to(self, thread: Thread) -> Lending {
        Lending { thread: Some(thread), ..self }
    }

    pub fn has_room(&self) -> bool {
        self.lent < LENT_MAX
    }

    /// Only where there is room.
    pub fn lend(&mut self, job: Job) {
        if self.jobs.push(job).is_ok() {
            self.lent += 1;
            self.thread.as_ref().inspect(|thread| thread.unpark());
        }
    }

    pub fn take_back(&mut self) -> Option<Done> {
        let done = self.done.pop().ok()?;
        self.lent -= 1;
        Some(done)
    }

    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    #[cfg(any(test, feature = "simulation"))]
    pub fn lent(&self) -> usize {
        self.lent
    }
}

impl Handshaker {
    /// Works until `stopped`, whose thread unparks this one, and tells the shard of each handshake that is back.
    pub fn run(&mut self, stopped: impl Fn() -> bool, wake: impl Fn()) {
        while !stopped() {
            if self.work(clock::now) {
                wake();
            } else {
                std::thread::park();
            }
        }
    }

    /// The job that has waited longest. False: there was none.
    pub fn work(&mut self, clock: impl Fn() -> Time) -> bool {
        let Ok(job) = self.jobs.pop() else { return false };
        let began = clock();
        let Job { session, task, datagrams } = job;
        let heard = datagrams.len();
        let (mut said, mut unheard) = (Vec::new(), datagrams.into_iter());
        let made = match task {
            Task::Begin { role, fingerprint } => (self.make)(role, fingerprint, began),
            Task::GoOn(handshake) => Ok(handshake),
        };
        let (handshake, outcome) = match made {
            Ok(mut handshake) => {
                let outcome = go_on(handshake.as_mut(), began, &mut unheard, &mut said);
                // What it was good for stands in 37 bytes: it goes, with its 10 KB.
                let is_over = matches!(&outcome, Ok(Step::Connected(left)) if left.farewell.is_some()) || outcome.is_err();
                (Some(handshake).filter(|_| !is_over), outcome)
            }
            Err(error) => (None, Err(error)),
        };
        let took = clock().since(began);
        // There is room: no more are lent than this holds.
        let _ = self.done.push(Done { session, handshake, said, outcome, heard, unheard, took });
        true
    }
}

/// Hears what came until there is an end, and says what is to be said.
fn go_on(
    handshake: &mut dyn Handshake,
    now: Time,
    heard: &mut vec::IntoIter<Vec<u8>>,
    said: &mut Vec<Vec<u8>>,
) -> Result<Step, DtlsError> {
    loop {
        if let Some(datagram) = heard.next() {
            handshake.handle_datagram(now, &datagram)?;
        }
        let step = speak(handshake, now, said)?;
        if heard.len() == 0 || !matches!(step, Step::Wait(_)) {
            return Ok(step);
        }
    }
}

fn speak(handshake: &mut dyn Handshake, now: Time, said: &mut Vec<Vec<u8>>) -> Result<Step, DtlsError> {
    let mut buffer = [0; DATAGRAM_SIZE_MAX];
    let (mut connected, mut wait) = (None, now);
    for _ in 0..FLIGHT_MAX {
        match handshake.poll(now, &mut buffer)? {
            DtlsOutput::Datagram(length) => said.push(buffer[..length].to_vec()),
            DtlsOutput::Connected(keys) => connected = Some(keys),
            DtlsOutput::Closed => return Ok(Step::Closed),
            DtlsOutput::Wait(at) => {
                wait = at;
                break;
            }
        }
    }
    let Some(keys) = connected else { return Ok(Step::Wait(wait)) };
    let close = handshake.sealed_close_notify(&mut buffer);
    Ok(Step::Connected(Box::new(Connected {
        keys,
        opener: Opener::new(keys.profile, &keys.receive),
        sealer: Sealer::new(keys.profile, &keys.send),
        close: keep(&buffer[..close]),
        last_flight: keep(handshake.last_flight()),
        farewell: handshake.farewell(),
    })))
}

/// A datagram too long to be kept is not kept: its protocol repeats it, or does without.
fn keep(datagram: &[u8]) -> KeptDatagram {
    let mut kept = KeptDatagram { length: 0, bytes: [0; 508] };
    if let Some(bytes) = kept.bytes.get_mut(..datagram.len()) {
        bytes.copy_from_slice(datagram);
        kept.length = datagram.len() as u32;
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_proto::session::dtls::{Dtls, Identity};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::Arc;
    use std::time::Instant;

    /// Goal: a job is done and told of in the other thread, however often that fell asleep, and a stop wakes it. Method: the thread, real handshakes.
    #[test]
    fn the_thread_wakes_for_each_job_and_for_the_end() {
        let identity = Identity::new().unwrap();
        let promised = identity.fingerprint();
        let make = move |role, fingerprint, now| Ok(Box::new(Dtls::new(&identity, role, fingerprint, now, Instant::now())?) as Box<dyn Handshake>);
        let (lending, mut beside) = handshaker(Box::new(make));
        let (stop, woken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = {
            let (stop, woken) = (Arc::clone(&stop), Arc::clone(&woken));
            std::thread::spawn(move || beside.run(|| stop.load(Ordering::SeqCst), || _ = woken.fetch_add(1, Ordering::SeqCst)))
        };
        let mut lending = lending.to(thread.thread().clone());
        for number in 0..50 {
            let task = Task::Begin { role: DtlsRole::Client, fingerprint: promised };
            lending.lend(Job { session: SessionId::new(number, 1), task, datagrams: Vec::new() });
            let lent = Instant::now();
            let done = loop {
                match lending.take_back() {
                    Some(done) => break done,
                    None => std::thread::yield_now(),
                }
                assert!(lent.elapsed() < Duration::from_secs(20), "the thread sleeps");
            };
            assert_eq!((done.session, done.said.len()), (SessionId::new(number, 1), 1), "a hello");
            assert!(done.handshake.is_some() && matches!(done.outcome, Ok(Step::Wait(_))) && done.took > Duration::ZERO);
        }
        stop.store(true, Ordering::SeqCst);
        thread.thread().unpark();
        thread.join().unwrap();
        assert_eq!((woken.load(Ordering::SeqCst), lending.lent()), (50, 0));
    }
}
