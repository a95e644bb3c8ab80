//! What a scenario has happen: people come and go, paths are cut, control dies, shards pause, strangers make noise.

use super::{Action, Leaving, MS, Run};
use crate::sim::network::{Parcel, Route, Weather};
use spillway_engine::io::Path;
use spillway_engine::shard::world::SERVER;
use spillway_proto::time::Time;
use std::cmp::Reverse;
use std::net::SocketAddr;

impl Run {
    pub(super) fn act(&mut self) {
        while let Some(&Reverse((at, number))) = self.actions.peek() {
            if at > self.now {
                break;
            }
            self.actions.pop();
            if let Some(action) = self.scheduled.remove(&number) {
                self.do_action(action);
            }
        }
    }

    fn do_action(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Join(person) => {
                if !std::mem::replace(&mut self.people[person].wants, true) {
                    self.people[person].since = now;
                    self.schedule_post(person, now);
                }
            }
            Action::Leave(person, leaving) => self.leave(person, leaving),
            Action::Cut(person, span) => self.people[person].route.cut_until = now + span,
            Action::Rebind(person) => {
                if let Some(at) = self.people[person].remote {
                    let turn = self.remotes[at].address.port() - 4_999;
                    let address = self.new_address(at, turn);
                    self.remotes[at].address = address;
                    self.addresses.insert(address, at);
                }
            }
            Action::CrashControl => {
                self.control.crash();
                let waiting: Vec<usize> =
                    (0..self.people.len()).filter(|&person| self.people[person].post.is_some()).collect();
                // Their connections are reset.
                for person in waiting {
                    let on_way = self.posts.values().any(|post| Some(post.number) == self.people[person].post);
                    if !on_way {
                        self.try_again(person);
                    }
                }
                self.answers.clear();
            }
            Action::StartControl => {
                if !self.control.is_up() {
                    self.control.start(&self.world);
                }
            }
            Action::Stall(shard, span) => {
                self.stalled_until[shard] = now + span;
                self.slack = self.slack.max(span + 2 * MS);
            }
            Action::Block(shard, sends) => self.world.block(shard, sends),
            Action::Noise(datagrams) => self.noise(datagrams),
            Action::Calm => self.calm(),
        }
    }

    fn calm(&mut self) {
        self.calm_at = self.now;
        for person in &mut self.people {
            person.route = Route::new(Weather::CLEAR);
        }
        self.stalled_until.fill(Time::ZERO);
        (0..self.shards()).for_each(|shard| self.world.block(shard, 0));
        if !self.control.is_up() {
            self.control.start(&self.world);
        }
    }

    fn leave(&mut self, person: usize, leaving: Leaving) {
        let who = &mut self.people[person];
        who.wants = false;
        let Some(at) = who.remote.take() else { return };
        if let Some(broadcast) = self.remotes[at].broadcast {
            self.studio.broadcasts[broadcast].end();
        }
        match leaving {
            Leaving::Delete => self.delete(at),
            Leaving::Goodbye => {
                self.remotes[at].client.close(self.now);
                self.drain(at);
            }
            Leaving::Silently => {}
        }
        self.remotes[at].alive = false;
    }

    /// Datagrams of somebody without a password: of every class, some from an address of a remote's.
    fn noise(&mut self, datagrams: usize) {
        let shards = self.shards() as u64;
        for _ in 0..datagrams {
            let known = self.rng.below(4) == 0 && !self.remotes.is_empty();
            let remote = if known {
                self.remotes[self.rng.below(self.remotes.len() as u64) as usize].address
            } else {
                SocketAddr::from(([203, 0, 113, self.rng.below(250) as u8], 1_024 + self.rng.below(60_000) as u16))
            };
            let mut bytes = vec![0; 1 + self.rng.below(400) as usize];
            self.rng.fill(&mut bytes);
            bytes[0] = [0, 1, 22, 23, 21, 0x80, 0x90, 0xFF][self.rng.below(8) as usize];
            let path = Path { local: SERVER.parse().expect("an address"), remote };
            let parcel =
                Parcel::ToEngine { shard: self.rng.below(shards) as usize, path, remote: usize::MAX, bytes, media: None };
            self.network.put(self.now + MS, parcel);
        }
    }
}
