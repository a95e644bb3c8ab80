//! Whose turn is next. Decides who is served when, and knows nothing of what there is to send.
//!
//! A stream with news goes once around its sessions, a *lap*, a few at a time and in turn with the other streams, those with few
//! sessions first: a room of thousands does not keep the others waiting, and what arrives meanwhile goes out to those who have not
//! had their turn. Who had a turn and has more to read has the next one in the next lap, or with the others of that kind where they
//! are few and nothing is new. So a keyframe goes to all in rounds. What comes in the middle of a lap is read by those whose turns
//! are still to come, and the lap behind it is the others' alone. Laps that follow each other go forth and back: who was last is
//! first in the next, and each viewer's packets have waited as long, on the whole, as everybody else's.

use spillway_proto::limits::{SESSIONS_MAX, TRACKS_MAX, TRACKS_PER_STREAM_MAX};
use std::collections::VecDeque;

const STREAMS_MAX: usize = TRACKS_MAX / TRACKS_PER_STREAM_MAX;

/// Of 2^64.
const GOLDEN_RATIO: u64 = 0x9E37_79B9_7F4A_7C15;

/// Sessions in a round, behind which the sockets are looked at again: what arrives meanwhile waits for half a millisecond to two. While a large
/// stream has its lap they may be short, which costs more looks.
const ROUND: usize = 256;
const ROUND_SHORT: usize = 64;

/// A round is so many steps: in each, one stream's next sessions are queued.
const STEPS: usize = 4;

/// A stream with no more sessions than this is through in a millisecond, and goes before those with more.
const SMALL: usize = 256;

/// But for one step in so many, whatever the small ones have to say.
const LARGE_EVERY: usize = 4;

/// Where one in so many has more to read, everybody gets a turn again.
const MANY: usize = 4;

/// Of turns: however many there are.
const ALL: usize = usize::MAX;

pub struct Rounds {
    /// By stream.
    circles: Vec<Option<Box<Circle>>>,
    /// Streams with turns to come, in turn; each at most once, also one that is gone by now. And those with many sessions.
    small: VecDeque<u32>,
    large: VecDeque<u32>,
    steps: usize,
    /// The newest round is a short one.
    is_short: bool,
    /// By stream: it stands in one of them.
    in_streams: Vec<bool>,
    /// Whose turns ended in this step: what comes behind depends on who has more to read then.
    ended: Vec<u32>,
    /// Slots with something to read, in turn; each at most once, also when another session has it by now.
    ready: VecDeque<u32>,
    /// By slot.
    places: Vec<Place>,
    /// Turns that were given.
    #[cfg(test)]
    pub turns: usize,
}

/// Where a slot stands.
#[derive(Clone, Copy, Default)]
struct Place {
    /// In `ready`.
    ready: bool,
    /// In the `again` of a circle.
    again: bool,
    /// Its session has keys: without, there is nothing to be sent. Known here, as the sessions themselves lie far apart.
    connected: bool,
    /// Of those who leave just now.
    leaves: bool,
}

/// The sessions of one stream.
#[derive(Default)]
struct Circle {
    /// Slot, and how many of its feeds are of this stream.
    sessions: Vec<(u32, u8)>,
    /// Who is first when a lap begins out of rest, as a fraction of 2^64 of all: moved on by the golden ratio, so that after few
    /// of them everybody has stood in front, in the middle and at the end.
    first: u64,
    /// Where laps begin until there is rest again, and which way the one under way goes.
    begin: usize,
    back: bool,
    /// Turns of it that are over, and all of them.
    lap: (usize, usize),
    /// How many turns of the lap under way were over when the newest news came: those need another one. `ALL`: everybody does.
    missed: usize,
    /// Slots that had a turn and have more to read, in that order, and how many of them have the next one now.
    again: VecDeque<u32>,
    again_left: usize,
}

impl Circle {
    fn is_under_way(&self) -> bool {
        self.again_left > 0 || self.lap.0 < self.lap.1
    }

    /// Where nothing is under way: what comes next.
    fn begin(&mut self, places: &mut [Place]) {
        if self.is_under_way() {
            return;
        }
        let count = self.sessions.len();
        let missed = std::mem::take(&mut self.missed);
        if missed > count || missed > 0 && self.lap.1 != count || self.again.len() * MANY >= count {
            // They are among all.
            self.again.drain(..).for_each(|slot| places[slot as usize].again = false);
            self.lap = (0, count);
            self.back = !self.back;
        } else if missed > 0 {
            // As this one goes the other way, who was first in that one is last in this.
            self.lap = (count - missed, count);
            self.back = !self.back;
        } else {
            self.again_left = self.again.len();
        }
    }

    /// There is something to read for everybody.
    fn news(&mut self) {
        self.missed = if self.lap.0 < self.lap.1 { self.lap.0.max(self.missed) } else { ALL };
    }

    fn next(&mut self, places: &mut [Place]) -> Option<u32> {
        if self.again_left > 0 {
            self.again_left -= 1;
            let slot = self.again.pop_front()?;
            places[slot as usize].again = false;
            return Some(slot);
        }
        let (over, all) = self.lap;
        if over >= all {
            return None;
        }
        self.lap.0 += 1;
        let turn = if self.back { all - 1 - over } else { over };
        // Who left in the middle made it shorter; who came stands behind all who are in it.
        let count = self.sessions.len().min(all);
        self.sessions.get((self.begin + turn) % count.max(1)).map(|(slot, _)| *slot)
    }
}

impl Rounds {
    pub fn new() -> Rounds {
        let mut circles = Vec::new();
        circles.resize_with(STREAMS_MAX, || None);
        Rounds {
            circles,
            small: VecDeque::with_capacity(STREAMS_MAX),
            large: VecDeque::with_capacity(STREAMS_MAX),
            steps: 0,
            is_short: false,
            in_streams: vec![false; STREAMS_MAX],
            ended: Vec::with_capacity(STREAMS_MAX),
            ready: VecDeque::with_capacity(SESSIONS_MAX),
            places: vec![Place::default(); SESSIONS_MAX],
            #[cfg(test)]
            turns: 0,
        }
    }

    /// A feed of this track came.
    pub fn join(&mut self, track: u32, slot: u32) {
        let Some(circle) = self.circles.get_mut(stream(track)) else { return };
        let circle = circle.get_or_insert_default();
        match circle.sessions.iter_mut().find(|(other, _)| *other == slot) {
            Some((_, feeds)) => *feeds = feeds.saturating_add(1),
            None => {
                circle.sessions.push((slot, 1));
                // Room for all of them now, and not in the middle of a keyframe.
                circle.again.reserve(circle.sessions.len());
            }
        }
    }

    /// A feed of this track went, of each of these.
    pub fn leave(&mut self, track: u32, slots: &[u32]) {
        let Some(Some(circle)) = self.circles.get_mut(stream(track)) else { return };
        let places = &mut self.places;
        slots.iter().for_each(|&slot| places[slot as usize].leaves = true);
        circle.sessions.retain_mut(|(slot, feeds)| {
            *feeds -= u8::from(places[*slot as usize].leaves);
            *feeds > 0
        });
        slots.iter().for_each(|&slot| places[slot as usize].leaves = false);
        // Who stands where is different from now on: the lap under way may pass over somebody, and a part of one would be others' part.
        if circle.lap.0 < circle.lap.1 || circle.missed > 0 {
            circle.missed = ALL;
        }
        if circle.sessions.is_empty() {
            // What they have to read of other streams.
            let again = std::mem::take(&mut circle.again);
            self.circles[stream(track)] = None;
            for slot in again {
                self.places[slot as usize].again = false;
                self.queue(slot);
            }
        }
    }

    /// The slot's session has something to read.
    pub fn queue(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.places[slot as usize].ready, true) {
            self.ready.push_back(slot);
        }
    }

    /// Everybody who watches the track has something to read, in a lap's time.
    pub fn news(&mut self, track: u32) {
        let Some(Some(circle)) = self.circles.get_mut(stream(track)) else { return };
        circle.news();
        if !self.in_streams[stream(track)] {
            circle.first = circle.first.wrapping_add(GOLDEN_RATIO);
            circle.begin = (u128::from(circle.first) * circle.sessions.len() as u128 >> 64) as usize;
        }
        self.go_on(stream(track));
    }

    /// The slot's session had its turn, and has more to read of this track among others.
    pub fn again(&mut self, track: u32, slot: u32) {
        let Some(Some(circle)) = self.circles.get_mut(stream(track)) else { return self.queue(slot) };
        if !std::mem::replace(&mut self.places[slot as usize].again, true) {
            circle.again.push_back(slot);
        }
        self.go_on(stream(track));
    }

    fn go_on(&mut self, stream: usize) {
        if !std::mem::replace(&mut self.in_streams[stream], true) {
            let is_large = self.circles[stream].as_deref().is_some_and(|circle| circle.sessions.len() > SMALL);
            let waiting = if is_large { &mut self.large } else { &mut self.small };
            waiting.push_back(stream as u32);
        }
    }

    fn next_stream(&mut self) -> Option<u32> {
        self.steps = self.steps.wrapping_add(1);
        let (small, large) = (&mut self.small, &mut self.large);
        let (first, second) = if self.steps.is_multiple_of(LARGE_EVERY) { (large, small) } else { (small, large) };
        first.pop_front().or_else(|| second.pop_front())
    }

    /// The slot's session has keys, or is gone.
    pub fn set_connected(&mut self, slot: u32, connected: bool) {
        self.places[slot as usize].connected = connected;
    }

    /// The next round's sessions stand in the queue.
    pub fn step(&mut self, may_be_short: bool) {
        self.is_short = may_be_short && !self.large.is_empty();
        let round = if self.is_short { ROUND_SHORT } else { ROUND };
        let step = round / STEPS;
        let mut is_first = true;
        while std::mem::take(&mut is_first) || self.ready.len() < round - step {
            let Some(stream) = self.next_stream() else { break };
            self.in_streams[stream as usize] = false;
            let Some(circle) = self.circles[stream as usize].as_deref_mut() else { continue };
            circle.begin(&mut self.places);
            for _ in 0..step {
                let Some(slot) = circle.next(&mut self.places) else { break };
                let place = &mut self.places[slot as usize];
                if place.connected && !std::mem::replace(&mut place.ready, true) {
                    self.ready.push_back(slot);
                }
            }
            if circle.is_under_way() {
                self.go_on(stream as usize);
            } else if circle.missed > 0 || !circle.again.is_empty() {
                self.ended.push(stream);
            }
        }
        while let Some(stream) = self.ended.pop() {
            self.go_on(stream as usize);
        }
    }

    pub fn is_short(&self) -> bool {
        self.is_short
    }

    /// How many stand in the queue.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whose turn is after so many others.
    pub fn peek(&self, turns: usize) -> Option<u32> {
        self.ready.get(turns).copied()
    }

    pub fn pop(&mut self) -> Option<u32> {
        let slot = self.ready.pop_front()?;
        self.places[slot as usize].ready = false;
        #[cfg(test)]
        {
            self.turns += 1;
        }
        Some(slot)
    }

    /// It could not be served: the next turn is its own.
    pub fn put_back(&mut self, slot: u32) {
        self.places[slot as usize].ready = true;
        self.ready.push_front(slot);
    }

    pub fn is_over(&self) -> bool {
        self.ready.is_empty() && self.small.is_empty() && self.large.is_empty()
    }

    /// How many have something to read.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.ready.len() + self.circles.iter().flatten().map(|circle| circle.again.len()).sum::<usize>()
    }
}

fn stream(track: u32) -> usize {
    track as usize / TRACKS_PER_STREAM_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_proto::rng::Rng;

    /// Goal: who comes in the middle of a lap costs it nothing, and takes nobody's turn; who goes costs one more. Method: laps from every
    /// beginning, forth and back, counted.
    #[test]
    fn who_comes_in_the_middle_makes_no_lap() {
        for (goes, most) in [(false, 200), (true, 2 * 200)] {
            for first in 0..50 {
                let mut rounds = Rounds::new();
                (0..251).for_each(|slot| rounds.set_connected(slot, true));
                (0..200).for_each(|slot| rounds.join(0, slot));
                let mut turns = vec![0; 300];
                for _ in 0..first {
                    rounds.news(0);
                    while take(&mut rounds, 64).is_some() {}
                }
                rounds.news(0);
                let mut taken = Vec::new();
                taken.extend(take(&mut rounds, 64).unwrap());
                if goes {
                    rounds.leave(0, &[7]);
                } else {
                    rounds.join(0, 250);
                }
                while let Some(more) = take(&mut rounds, 64) {
                    taken.extend(more);
                }
                taken.iter().for_each(|slot| turns[*slot as usize] += 1);
                assert!(taken.len() <= most, "{} turns", taken.len());
                assert!((0..200).all(|slot| turns[slot] > 0 || goes && slot == 7), "somebody had no turn, lap {first}");
                assert!(goes || turns[..200].iter().all(|turns| *turns == 1));
            }
        }
    }

    /// Goal: news in the middle of a lap is a turn more for those who had theirs or stood in the queue, and for nobody else. Method: laps
    /// from every beginning, forth and back, news after some turns, and once more a little later.
    #[test]
    fn news_in_the_middle_is_another_turn_only_for_who_missed_it() {
        const VIEWERS: usize = 700;
        for first in 0..20 {
            for at in (0..VIEWERS).step_by(13) {
                let mut rounds = Rounds::new();
                (0..VIEWERS as u32).for_each(|slot| rounds.set_connected(slot, true));
                (0..VIEWERS as u32).for_each(|slot| rounds.join(0, slot));
                for _ in 0..first {
                    rounds.news(0);
                    while take(&mut rounds, 64).is_some() {}
                }
                rounds.news(0);
                take(&mut rounds, at);
                rounds.news(0);
                if first % 2 == 1 {
                    take(&mut rounds, 70);
                    rounds.news(0);
                }
                let mut turns = [0; VIEWERS];
                let after = take(&mut rounds, ALL).unwrap_or_default();
                after.iter().for_each(|slot| turns[*slot as usize] += 1);
                assert!(turns.iter().all(|turns| (1..=2).contains(turns)), "somebody missed it: lap {first}, news after {at}");
                // Whose turn is to come has it once, whoever had it once more; those in the queue both.
                assert!(after.len() <= VIEWERS + ROUND, "{} turns, lap {first}, news after {at}", after.len());
            }
        }
    }

    /// Goal: whoever comes, goes and has more to read meanwhile, nobody is forgotten, and it ends. Method: all of it at random.
    #[test]
    fn nobody_is_forgotten() {
        for seed in 0..500 {
            let mut rng = Rng::new(seed);
            let mut rounds = Rounds::new();
            // More than stand in the queue at a time.
            let mut slots: Vec<u32> = (0..600).collect();
            slots.iter().for_each(|slot| rounds.set_connected(*slot, true));
            slots.iter().for_each(|slot| rounds.join(0, *slot));
            // By slot: it has something to read.
            let mut hungry = [false; 800];
            for slot in 600..800 {
                match rng.below(9) {
                    0 => {
                        rounds.set_connected(slot, true);
                        rounds.join(0, slot);
                        rounds.queue(slot);
                        hungry[slot as usize] = true;
                        slots.push(slot);
                    }
                    1 if !slots.is_empty() => {
                        let slot = slots.swap_remove(rng.below(slots.len() as u64) as usize);
                        rounds.set_connected(slot, false);
                        rounds.leave(0, &[slot]);
                        hungry[slot as usize] = false;
                    }
                    2 | 3 => {
                        rounds.news(rng.below(2) as u32);
                        slots.iter().for_each(|slot| hungry[*slot as usize] = true);
                    }
                    turns => {
                        let turns = if turns == 8 { ALL } else { rng.below(400) as usize };
                        for slot in take(&mut rounds, turns).unwrap_or_default() {
                            hungry[slot as usize] = false;
                            if rng.below(50) == 0 && slots.contains(&slot) {
                                hungry[slot as usize] = true;
                                rounds.again(0, slot);
                            }
                        }
                    }
                }
                if rounds.is_over() {
                    assert!(rounds.waiting() == 0 && !hungry.contains(&true), "seed {seed}, step {slot}");
                }
            }
        }
    }

    /// Goal: a small stream is through as if the large ones were not there, but for one step in four; and however much the small ones have
    /// to say, a large one comes to its end. Method: news of a small one in the middle of a large one's lap; then small ones that never rest.
    #[test]
    fn small_streams_go_first_and_large_ones_are_not_forgotten() {
        for (may_be_short, length) in [(true, ROUND_SHORT), (false, ROUND)] {
            let mut rounds = Rounds::new();
            (0..1_200).for_each(|slot| rounds.set_connected(slot, true));
            let track = |stream: usize| (stream * TRACKS_PER_STREAM_MAX) as u32;
            (0..1_000).for_each(|slot| rounds.join(track(0), slot));
            (1_000..1_100).for_each(|slot| rounds.join(track(1), slot));
            (1_100..1_200).for_each(|slot| rounds.join(track(2), slot));
            let mut round = |news: &[usize]| {
                news.iter().for_each(|stream| rounds.news(track(*stream)));
                rounds.step(may_be_short);
                std::iter::from_fn(|| rounds.pop()).collect::<Vec<u32>>()
            };
            let first = round(&[0]);
            let mut taken = round(&[1]);
            assert!((length / 2..=length).contains(&first.len()) && taken.len() <= length);
            while taken.iter().filter(|slot| **slot >= 1_000).count() < 100 {
                taken.extend(round(&[]));
            }
            assert!(taken.len() <= 100 + 100 / 3 + length, "{} turns until 100 had theirs", taken.len());
            let rounds_at_most = 1_000 / (length / STEPS) + 8;
            let large: usize = (0..rounds_at_most).map(|_| round(&[1, 2]).iter().filter(|slot| **slot < 1_000).count()).sum();
            // Nobody waits for a small one's short rounds.
            while !round(&[]).is_empty() {}
            assert_eq!(round(&[1]).len(), 100);
            assert!(large + first.len() + taken.len() - 100 >= 1_000, "{large} of 1000 in {rounds_at_most} rounds");
        }
    }

    /// Goal: who has no keys, or is gone, has no turn.
    #[test]
    fn only_who_is_connected_has_a_turn() {
        let mut rounds = Rounds::new();
        (0..3).for_each(|slot| rounds.join(0, slot));
        for (slot, connected, turns) in [(1, true, &[1][..]), (0, true, &[0, 1]), (2, true, &[0, 1, 2]), (1, false, &[0, 2])] {
            rounds.set_connected(slot, connected);
            rounds.news(0);
            let mut taken = take(&mut rounds, 64).unwrap_or_default();
            taken.sort_unstable();
            assert_eq!(taken, turns);
        }
    }

    /// Some turns; None when there are none left.
    fn take(rounds: &mut Rounds, most: usize) -> Option<Vec<u32>> {
        let mut taken = Vec::new();
        while taken.len() < most && !rounds.is_over() {
            if rounds.ready() == 0 {
                rounds.step(false);
            }
            taken.extend(rounds.pop());
        }
        (!taken.is_empty()).then_some(taken)
    }
}
