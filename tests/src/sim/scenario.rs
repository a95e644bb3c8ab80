//! The scenarios: who comes and goes, and what goes wrong. Each draws its own course from the run's seed, ends with
//! `calm`, and runs for `DECODABLE_WITHIN` after it.

use super::media::Size;
use super::network::Weather;
use super::person::Person;
use super::run::{Action, Leaving, Run};
use spillway_proto::id::{Codec, Side};
use spillway_proto::limits::DECODABLE_WITHIN;
use spillway_proto::rng::Rng;
use spillway_proto::session::srtp::Profile;
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub struct Scenario {
    pub name: &'static str,
    pub text: &'static str,
    shards_max: u64,
    rooms: u32,
    /// Says when it is calm.
    build: fn(&mut Run) -> Duration,
}

pub const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "fan-out",
        text: "one publisher, 1,000 viewers within a third of a second",
        shards_max: 4,
        rooms: 1,
        build: fan_out,
    },
    Scenario {
        name: "join-storm",
        text: "300 viewers of two rooms POST at once while others watch, some over bad paths",
        shards_max: 4,
        rooms: 2,
        build: join_storm,
    },
    Scenario {
        name: "leave-storm",
        text: "of 80 viewers most leave at once: by DELETE, by a goodbye, or without a word (until consent expires)",
        shards_max: 4,
        rooms: 2,
        build: leave_storm,
    },
    Scenario {
        name: "lossy-crowd",
        text: "loss to 30 %, bursts, duplicates, reordering, cut paths, new addresses, sockets that take nothing",
        shards_max: 3,
        rooms: 2,
        build: lossy_crowd,
    },
    Scenario {
        name: "publisher-takeover",
        text: "publishers follow each other, also with another codec; somebody else tries to get in; some flap",
        shards_max: 3,
        rooms: 3,
        build: publisher_takeover,
    },
    Scenario {
        name: "control-crash",
        text: "control dies again and again amid joins, leaves and takeovers, and comes back from the engine's dump",
        shards_max: 3,
        rooms: 3,
        build: control_crash,
    },
    Scenario {
        name: "stray-storm",
        text: "many shards; datagrams land on wrong ones; shards that pause; noise of strangers",
        shards_max: 8,
        rooms: 3,
        build: stray_storm,
    },
];

pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// The world of `seed`, its course laid out, and when it ends.
    pub fn begin(&self, seed: u64) -> (Run, Duration) {
        // Scenarios with one seed have nothing in common.
        let own = self.name.bytes().fold(seed, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut rng = Rng::new(own);
        let shards = 2 + rng.below(self.shards_max - 1);
        let mut run = Run::new(rng.next_u64(), shards as usize, self.rooms);
        let calm = (self.build)(&mut run);
        run.at(calm, Action::Calm);
        (run, calm + DECODABLE_WITHIN)
    }
}

fn publisher(run: &mut Run, room: u32, sub: u64) -> usize {
    let mut person = Person::new(Side::Publisher, room, sub, Weather::CLEAR);
    person.video = if run.rng.below(3) == 0 { Codec::H264 } else { Codec::Vp8 };
    person.size = Size::any(&mut run.rng);
    run.add(person)
}

fn viewer(run: &mut Run, room: u32) -> usize {
    let sub = run.rng.next_u64();
    let mut person = Person::new(Side::Viewer, room, sub, Weather::CLEAR);
    person.profile = match run.rng.below(10) {
        0 => Profile::Aes128CmSha1_80,
        1 => Profile::AeadAes128Gcm,
        _ => Profile::AeadAes256Gcm,
    };
    person.route.weather.delay_ms = 1 + run.rng.below(30);
    run.add(person)
}

/// A publisher who is there from the beginning.
fn first_publisher(run: &mut Run, room: u32) -> usize {
    let person = publisher(run, room, u64::from(room));
    run.at(ms(1), Action::Join(person));
    person
}

fn any_leaving(rng: &mut Rng) -> Leaving {
    [Leaving::Delete, Leaving::Delete, Leaving::Goodbye, Leaving::Silently][rng.below(4) as usize]
}

fn between(rng: &mut Rng, from: u64, to: u64) -> Duration {
    ms(from + rng.below(to - from))
}

fn fan_out(run: &mut Run) -> Duration {
    let person = first_publisher(run, 1);
    run.people[person].size = Size { keyframe_packets: 6, frame_packets: 1, payload_max: 400, frames_per_keyframe: 60 };
    for _ in 0..1_000 {
        let person = viewer(run, 1);
        run.people[person].profile = Profile::AeadAes256Gcm;
        let at = between(&mut run.rng, 300, 633);
        run.at(at, Action::Join(person));
    }
    ms(700)
}

fn join_storm(run: &mut Run) -> Duration {
    for room in [1, 2] {
        first_publisher(run, room);
    }
    for number in 0..310 {
        let room = 1 + run.rng.below(2) as u32;
        let person = viewer(run, room);
        if run.rng.below(4) == 0 {
            run.people[person].route.weather = Weather::bad(&mut run.rng);
        }
        let at = if number < 10 { between(&mut run.rng, 300, 400) } else { between(&mut run.rng, 900, 1_000) };
        run.at(at, Action::Join(person));
    }
    ms(1_600)
}

fn leave_storm(run: &mut Run) -> Duration {
    let publishers: Vec<usize> = [1, 2].map(|room| first_publisher(run, room)).into();
    for &person in &publishers {
        run.people[person].size.payload_max = 300;
    }
    for _ in 0..80 {
        let room = 1 + run.rng.below(2) as u32;
        let person = viewer(run, room);
        let at = between(&mut run.rng, 200, 600);
        run.at(at, Action::Join(person));
        if run.rng.below(10) > 0 {
            // Some before they have their answer.
            let at = between(&mut run.rng, 550, 1_600);
            let leaving = any_leaving(&mut run.rng);
            run.at(at, Action::Leave(person, leaving));
        }
        if run.rng.below(8) == 0 {
            let at = between(&mut run.rng, 1_700, 3_000);
            run.at(at, Action::Join(person));
        }
    }
    if run.rng.below(2) == 0 {
        // Nobody is left to publish, and then somebody is.
        let (person, leaving) = (publishers[0], any_leaving(&mut run.rng));
        let at = between(&mut run.rng, 1_500, 4_000);
        run.at(at, Action::Leave(person, leaving));
        let at = between(&mut run.rng, 6_000, 9_000);
        run.at(at, Action::Join(person));
    }
    // Consent of the silent ones expires within.
    ms(33_000)
}

fn lossy_crowd(run: &mut Run) -> Duration {
    let calm = 9_000;
    for room in [1, 2] {
        let person = first_publisher(run, room);
        run.people[person].route.weather = Weather { loss: run.rng.below(40), ..Weather::bad(&mut run.rng) };
        run.people[person].deaf = run.rng.below(4) == 0;
        // Who hears requests need not send a keyframe by himself.
        let unasked = if run.people[person].deaf || run.rng.below(2) == 0 { 30 + run.rng.below(40) } else { 100_000 };
        run.people[person].size.frames_per_keyframe = unasked as u32;
    }
    for _ in 0..30 {
        let room = 1 + run.rng.below(2) as u32;
        let person = viewer(run, room);
        run.people[person].route.weather = Weather::bad(&mut run.rng);
        let at = between(&mut run.rng, 300, 3_000);
        run.at(at, Action::Join(person));
        for _ in 0..run.rng.below(3) {
            let (at, span) = (between(&mut run.rng, 1_000, calm), between(&mut run.rng, 20, 2_500));
            let action = if run.rng.below(2) == 0 { Action::Cut(person, span) } else { Action::Rebind(person) };
            run.at(at, action);
        }
    }
    // Once, for longer than a client waits.
    let (person, at) = (2 + run.rng.below(30) as usize, between(&mut run.rng, 2_000, 4_000));
    run.at(at, Action::Cut(person, ms(4_700)));
    for _ in 0..20 {
        let shard = run.rng.below(run.shards() as u64) as usize;
        let (at, sends) = (between(&mut run.rng, 500, calm), 1 + run.rng.below(30) as usize);
        run.at(at, Action::Block(shard, sends));
        let room_again = at + between(&mut run.rng, 1, 40);
        run.at(room_again, Action::Block(shard, 0));
    }
    ms(calm)
}

fn publisher_takeover(run: &mut Run) -> Duration {
    let calm = 10_000;
    for room in [1, 2] {
        let mut turns = vec![first_publisher(run, room)];
        for _ in 0..1 + run.rng.below(4) {
            let person = publisher(run, room, u64::from(room));
            let at = between(&mut run.rng, 1_000, calm);
            run.at(at, Action::Join(person));
            turns.push(person);
        }
        for &person in &turns {
            if run.rng.below(2) == 0 {
                run.people[person].route.weather = Weather { loss: run.rng.below(60), ..Weather::bad(&mut run.rng) };
            }
            if run.rng.below(3) == 0 {
                let (at, leaving) = (between(&mut run.rng, 1_500, calm), any_leaving(&mut run.rng));
                run.at(at, Action::Leave(person, leaving));
                let back = at + between(&mut run.rng, 50, 1_500);
                run.at(back, Action::Join(person));
            }
        }
        // Another sub: never gets in while somebody is there.
        let intruder = publisher(run, room, 1_000 + u64::from(room));
        let at = between(&mut run.rng, 500, calm);
        run.at(at, Action::Join(intruder));
        let left = at + between(&mut run.rng, 500, 3_000);
        run.at(left, Action::Leave(intruder, Leaving::Delete));
        // Whatever came before, somebody publishes in the end.
        run.at(ms(calm - 1), Action::Join(turns[0]));
    }
    // Where nobody watches, the stream goes with its publisher, and its memory with it.
    let alone = publisher(run, 3, 3);
    run.people[alone].size = Size { keyframe_packets: 12, frame_packets: 6, payload_max: 1_100, frames_per_keyframe: 45 };
    for second in 0..calm / 2_000 {
        run.at(ms(second * 2_000 + 1), Action::Join(alone));
        let leaving = if second % 2 == 0 { Leaving::Delete } else { Leaving::Goodbye };
        let at = ms(second * 2_000) + between(&mut run.rng, 1_000, 1_990);
        run.at(at, Action::Leave(alone, leaving));
    }
    for _ in 0..24 {
        let room = 1 + run.rng.below(2) as u32;
        let person = viewer(run, room);
        let at = between(&mut run.rng, 300, 6_000);
        run.at(at, Action::Join(person));
        if run.rng.below(4) == 0 {
            run.people[person].route.weather = Weather::bad(&mut run.rng);
        }
    }
    ms(calm)
}

fn control_crash(run: &mut Run) -> Duration {
    let calm = 10_000;
    let mut people = Vec::new();
    for room in [1, 2, 3] {
        people.push(first_publisher(run, room));
        let second = publisher(run, room, u64::from(room));
        let at = between(&mut run.rng, 1_000, calm);
        run.at(at, Action::Join(second));
    }
    for _ in 0..40 {
        let room = 1 + run.rng.below(3) as u32;
        let person = viewer(run, room);
        let at = between(&mut run.rng, 200, calm);
        run.at(at, Action::Join(person));
        people.push(person);
    }
    for &person in &people {
        if run.rng.below(3) == 0 {
            let (at, leaving) = (between(&mut run.rng, 800, calm), any_leaving(&mut run.rng));
            run.at(at, Action::Leave(person, leaving));
            let back = at + between(&mut run.rng, 10, 3_000);
            run.at(back, Action::Join(person));
        }
    }
    for _ in 0..3 + run.rng.below(6) {
        // Half of them while joins are under way.
        let at = if run.rng.below(2) == 0 { between(&mut run.rng, 1, 1_200) } else { between(&mut run.rng, 1, calm) };
        run.at(at, Action::CrashControl);
        let down = between(&mut run.rng, 1, 600);
        run.at(at + down, Action::StartControl);
    }
    ms(calm)
}

fn stray_storm(run: &mut Run) -> Duration {
    let calm = 6_000;
    for room in [1, 2, 3] {
        first_publisher(run, room);
    }
    for _ in 0..36 {
        let room = 1 + run.rng.below(3) as u32;
        let person = viewer(run, room);
        let at = between(&mut run.rng, 200, 3_000);
        run.at(at, Action::Join(person));
        if run.rng.below(3) == 0 {
            run.people[person].route.weather = Weather::bad(&mut run.rng);
        }
        if run.rng.below(6) == 0 {
            let at = between(&mut run.rng, 1_000, calm);
            run.at(at, Action::Rebind(person));
        }
    }
    for person in &mut run.people {
        // The kernel deals out by address, and scatters one remote's datagrams while sockets change: every viewer's,
        // and every second publisher's. The others' all land on one shard, the wrong one.
        person.strays = person.side == Side::Viewer || run.rng.below(2) == 0;
        person.lands_wrong = true;
    }
    for _ in 0..run.rng.below(8) {
        let shard = run.rng.below(run.shards() as u64) as usize;
        let (at, span) = (between(&mut run.rng, 300, calm), between(&mut run.rng, 5, 250));
        run.at(at, Action::Stall(shard, span));
    }
    for _ in 0..100 {
        let (at, datagrams) = (between(&mut run.rng, 1, calm), 1 + run.rng.below(30) as usize);
        run.at(at, Action::Noise(datagrams));
    }
    ms(calm)
}
