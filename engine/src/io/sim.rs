//! The backend of tests: memory instead of a network, and time that moves only when it is told to, or by parking.
//!
//! Deterministic: what goes in decides what comes out. Never used by a running engine.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use spillway_proto::limits::{DATAGRAM_SIZE_MAX, SEGMENTS_MAX, SEND_SIZE_MAX};
use spillway_proto::time::Time;

use super::{Datagram, Io, Path, Sent, Tally};

/// One datagram that the shard sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentDatagram {
    pub path: Path,
    pub bytes: Vec<u8>,
    /// Counts the calls of `send` from 0: datagrams of one run have the same number.
    pub run: u64,
    /// Whose turn it was; None: it is no media.
    pub whose: Option<u32>,
    pub at: Time,
}

pub struct Sim {
    now: Time,
    /// Of it, what others had of the core.
    robbed: Duration,
    incoming: VecDeque<(Path, Vec<u8>)>,
    sent: Vec<SentDatagram>,
    buffer: Box<[u8]>,
    blocked: usize,
    dry: usize,
    woken: bool,
    parked: Vec<Option<Time>>,
    gso_segments: usize,
    /// Keeps nothing of what is sent, and so allocates nothing.
    discards: bool,
    turn: Option<u32>,
    /// Whose turns were said to be soon, the last two.
    soon: Cell<[Option<u32>; 2]>,
    /// Turns, and those of them that were said to be soon by then.
    turns: [usize; 2],
    tally: Tally,
}

impl Sim {
    pub fn new(now: Time) -> Sim {
        Sim {
            now,
            robbed: Duration::ZERO,
            incoming: VecDeque::new(),
            sent: Vec::new(),
            buffer: vec![0; SEND_SIZE_MAX].into_boxed_slice(),
            blocked: 0,
            dry: 0,
            woken: false,
            parked: Vec::new(),
            gso_segments: SEGMENTS_MAX,
            discards: false,
            turn: None,
            soon: Default::default(),
            turns: [0; 2],
            tally: Tally::default(),
        }
    }

    /// A datagram arrives: `path.remote` sent it to `path.local`. Longer ones than DATAGRAM_SIZE_MAX are dropped as on a socket.
    pub fn push(&mut self, path: Path, bytes: impl Into<Vec<u8>>) {
        self.incoming.push_back((path, bytes.into()));
    }
    /// All datagrams sent since the last call, in order.
    pub fn take_sent(&mut self) -> Vec<SentDatagram> {
        std::mem::take(&mut self.sent)
    }
    /// From now on nothing of what is sent is kept: a tick over such a backend shows what the shard allocates.
    pub fn discard_sent(&mut self) {
        self.discards = true;
    }
    pub fn set_gso_segments(&mut self, segments: usize) {
        self.gso_segments = segments.max(1);
    }
    /// The next `sends` sends are answered with `Blocked`.
    pub fn block(&mut self, sends: usize) {
        self.blocked = sends;
    }
    /// The next `asks` for a buffer get none.
    pub fn run_dry(&mut self, asks: usize) {
        self.dry = asks;
    }
    /// Time passes in which somebody else has the core.
    pub fn rob(&mut self, span: Duration) {
        self.advance(span);
        self.robbed += span;
    }
    pub fn advance(&mut self, span: Duration) {
        self.now = self.now + span;
    }
    /// Turns since the last call, and how many of them were looked ahead to.
    pub fn take_turns(&mut self) -> [usize; 2] {
        std::mem::take(&mut self.turns)
    }
    /// What another thread does through the eventfd.
    pub fn wake(&mut self) {
        self.woken = true;
    }
    /// The deadlines of all parks since the last call.
    pub fn take_parked(&mut self) -> Vec<Option<Time>> {
        std::mem::take(&mut self.parked)
    }
}

impl Io for Sim {
    fn receive(&mut self, max: usize, mut f: impl FnMut(Datagram<'_>)) -> usize {
        let mut given = 0;
        while given < max {
            let Some((path, mut bytes)) = self.incoming.pop_front() else { break };
            if bytes.len() > DATAGRAM_SIZE_MAX {
                self.tally.malformed += 1;
                continue;
            }
            given += 1;
            f(Datagram { local: path.local, remote: path.remote, bytes: &mut bytes });
        }
        self.tally.received += given as u64;
        given
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        if self.dry > 0 {
            self.dry -= 1;
            return None;
        }
        Some(&mut self.buffer)
    }

    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        if self.blocked > 0 {
            self.blocked -= 1;
            self.tally.blocked += 1;
            return Sent::Blocked;
        }
        let length = length.min(SEND_SIZE_MAX);
        let segment = if segment == 0 { length } else { segment };
        let run = self.tally.sends;
        for bytes in self.buffer[..length].chunks(segment.max(1)) {
            if !self.discards {
                self.sent.push(SentDatagram { path: *path, bytes: bytes.to_vec(), run, whose: self.turn, at: self.now });
            }
            self.tally.sent += 1;
        }
        self.tally.sends += 1;
        // Whoever reads the buffer after it was sent shall see that it is not his any more.
        self.buffer[..length].fill(0xdd);
        Sent::Queued
    }

    fn send_beside(&mut self, path: &Path, length: usize) -> Sent {
        let turn = self.turn.take();
        let sent = self.send(path, length, length);
        self.turn = turn;
        sent
    }

    fn turn_of(&mut self, who: u32) {
        self.turns[0] += 1;
        self.turns[1] += usize::from(self.soon.get().contains(&Some(who)));
        self.turn = Some(who);
    }

    fn look_ahead(&self, who: u32) {
        self.soon.set([Some(who), self.soon.get()[0]]);
    }

    fn submit(&mut self) {}

    /// Time passes up to `until` if there is nothing to wake for.
    fn park(&mut self, until: Option<Time>) {
        self.parked.push(until);
        if std::mem::take(&mut self.woken) || !self.incoming.is_empty() {
            return;
        }
        if let Some(until) = until.filter(|until| *until != Time::NEVER) {
            self.now = self.now.max(until);
        }
    }

    fn now(&self) -> Time {
        self.now
    }

    /// Nobody else has this core.
    fn worked(&self) -> Duration {
        self.now.since(Time::ZERO).saturating_sub(self.robbed)
    }

    fn gso_segments(&self) -> usize {
        self.gso_segments
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        Path { local: "192.0.2.1:7081".parse().unwrap(), remote: "198.51.100.2:5000".parse().unwrap() }
    }

    #[test]
    fn runs_come_out_cut_and_blocked_ones_do_not() {
        let mut sim = Sim::new(Time::from_millis(5));
        sim.block(1);
        sim.buffer().unwrap()[..250].fill(7);
        assert_eq!(sim.send(&path(), 250, 100), Sent::Blocked);
        assert_eq!(sim.buffer().unwrap()[0], 7, "a blocked run stays in its buffer");
        assert_eq!(sim.send(&path(), 250, 100), Sent::Queued);
        assert_eq!(sim.send(&path(), 50, 50), Sent::Queued);
        let sent: Vec<_> = sim.take_sent().iter().map(|sent| (sent.bytes.len(), sent.run)).collect();
        assert_eq!(sent, [(100, 0), (100, 0), (50, 0), (50, 1)]);
    }

    #[test]
    fn time_passes_only_while_nothing_is_there() {
        let mut sim = Sim::new(Time::ZERO);
        let until = Some(Time::from_millis(20));
        sim.push(path(), [1]);
        sim.park(until);
        assert_eq!(sim.now(), Time::ZERO);
        assert_eq!(sim.receive(8, |datagram| assert_eq!((datagram.path(), &*datagram.bytes), (path(), &[1][..]))), 1);
        sim.wake();
        sim.park(until);
        assert_eq!(sim.now(), Time::ZERO);
        sim.park(until);
        assert_eq!(sim.now(), Time::from_millis(20));
        sim.park(None);
        assert_eq!(sim.now(), Time::from_millis(20));
        assert_eq!(sim.take_parked(), [until, until, until, None]);
    }

    #[test]
    fn dry_buffers_come_back() {
        let mut sim = Sim::new(Time::ZERO);
        sim.run_dry(1);
        assert!(sim.buffer().is_none());
        assert!(sim.buffer().is_some());
    }
}
