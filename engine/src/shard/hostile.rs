//! Goal: what comes at once, late, forged or in floods costs its sender alone.
//! Method: a whole engine over `Sim`, its ticks and its datagrams in the order a race or an attacker would choose.

use super::demux::pair_of;
use super::world::{SERVER, Source, World};
use crate::io::Path;
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::link::command::{Answer, Command, DtlsRole, DumpEntry, FeedFacts, Fingerprint, Status, TrackFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::session::record::NIL;
use std::time::Duration;

fn publishing(shards: usize) -> (World, Source, TrackId) {
    let mut world = World::new(shards);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    (world, Source::new(publisher, 77), track)
}

/// A DTLS record of epoch 1, as whoever can write a remote's address makes it.
fn forged(content: u8) -> Vec<u8> {
    vec![content, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0]
}

fn path_of(world: &World, remote: usize) -> Path {
    Path { local: SERVER.parse().unwrap(), remote: world.remotes[remote].address }
}

#[test]
fn feeds_of_a_detached_track_do_not_wake_up_on_the_next_one() {
    let (mut world, mut source, track) = publishing(2);
    // Keeps the stream's place while its video goes and comes.
    world.track(0, source.remote, TrackId::NONE, Codec::Opus, 88);
    let old = world.add(1, Side::Viewer);
    let (old_feed, old_ssrc) = world.feed(1, old, track);
    let new = world.add(1, Side::Viewer);
    source.play(&mut world, 30, 2);
    // Shard 1 hears of none of this before its own command.
    world.done(0, &Command::DetachTrack { track });
    let again = world.track(0, source.remote, TrackId::NONE, Codec::Vp8, 77);
    assert_eq!(again.index, track.index, "the same place, another reel");
    let (_, new_ssrc) = world.feed(1, new, again);
    let before = world.remotes[old].of(old_ssrc).len();
    assert!(before > 0);
    source.frame = 0;
    source.play(&mut world, 60, 8);
    assert_eq!(world.remotes[new].of(new_ssrc).len(), 60 * 8);
    assert_eq!(world.remotes[old].of(old_ssrc).len(), before);
    assert_eq!(world.command(1, &Command::DetachFeed { feed: old_feed }).0, Status::NotFound);
}

#[test]
fn a_viewer_is_made_with_all_its_feeds_or_not_at_all() {
    let (mut world, source, track) = publishing(1);
    let sound = world.track(0, source.remote, TrackId::NONE, Codec::Opus, 88);
    let mut facts = FeedFacts::default();
    facts.payload_types[Codec::Vp8 as usize] = 96;
    facts.rtx_payload_types[Codec::Vp8 as usize] = 97;
    let add = |feeds: Vec<(TrackId, FeedFacts)>| Command::AddViewer {
        dtls_role: DtlsRole::Server,
        ufrag_random: *b"abcdefghi",
        pwd: *super::world::PWD,
        fingerprint: Fingerprint([1; 32]),
        note: [9; 64],
        feeds,
    };
    let there = |world: &mut World| {
        let (mut all, mut cursor) = (Vec::new(), Some(0));
        while let Some(at) = cursor {
            let Answer::Dump { next, entries } = world.done(0, &Command::Dump { cursor: at }) else { panic!("no dump") };
            all.extend(entries);
            cursor = next;
        }
        all
    };
    let before = there(&mut world);
    let gone = TrackId::new(track.index, track.generation + 1);
    for feeds in [vec![(track, facts), (gone, facts)], vec![(gone, facts)]] {
        assert_eq!(world.command(0, &add(feeds)).0, Status::NotFound);
        assert_eq!(there(&mut world), before, "nothing is left of it");
    }
    let Answer::Viewer { session, ssrcs } = world.done(0, &add(vec![(sound, FeedFacts::default()), (track, facts)])) else { panic!() };
    assert_eq!(ssrcs, [(2, 0), (3, 4)]);
    let after = there(&mut world);
    let notes = after.iter().filter(|entry| matches!(entry, DumpEntry::Session { session: id, side: Side::Viewer, note, .. } if *id == session && *note == [9; 64]));
    let feeds = after.iter().filter(|entry| matches!(entry, DumpEntry::Feed { session: id, .. } if *id == session));
    assert_eq!((notes.count(), feeds.count(), after.len()), (1, 2, before.len() + 3));
    world.done(0, &Command::RemoveSession { session });
    assert_eq!(there(&mut world), before);
}

#[test]
fn commands_for_a_track_of_another_shard_say_so() {
    let (mut world, _, track) = publishing(2);
    assert_eq!(world.command(1, &Command::DetachTrack { track }).0, Status::WrongShard);
    let publisher = world.add(1, Side::Publisher);
    let command = Command::AttachTrack {
        session: world.remotes[publisher].session,
        stream: spillway_proto::id::StreamId::new(1, 1),
        track,
        facts: TrackFacts::new(Codec::Vp8, 96, 0),
        note: [0; 64],
    };
    assert_eq!(world.command(1, &command).0, Status::WrongShard);
}

#[test]
fn connected_sessions_cost_no_look_per_tick() {
    let (mut world, _, _) = publishing(1);
    for _ in 0..5 {
        world.add(0, Side::Viewer);
    }
    world.connect();
    let timers = &world.shards[0].parts().1.timers;
    assert_eq!((timers.handshakes_running(), timers.handshakes_looked_at()), (0, 0), "nor one when it is over");
}

#[test]
fn a_tick_takes_eight_handshakes_back() {
    let (mut world, _, _) = publishing(1);
    for _ in 0..20 {
        world.add(0, Side::Viewer);
    }
    world.handshakers_rest = true;
    world.step();
    assert_eq!((world.lent(0), world.shards[0].tick()), (20, false), "while they are out the shard has nothing to do");
    world.handshakers_rest = false;
    assert!(world.shake_hands(0));
    for left in [12, 4, 0] {
        assert_eq!(world.shards[0].tick(), left > 0, "the rest has its turn at once");
        assert_eq!(world.lent(0), left);
    }
}

/// The checks that these remotes would send now.
fn checks_of(world: &mut World, remotes: &[usize]) -> Vec<Vec<u8>> {
    let now = world.now;
    let mut checks = Vec::new();
    for &remote in remotes {
        world.remotes[remote].client.handle_timeout(now).unwrap();
        checks.push(world.remotes[remote].client.poll_datagram().expect("a check"));
        while world.remotes[remote].client.poll_datagram().is_some() {}
    }
    checks
}

/// A check is answered, and a handshake begun, in 25 us: a packet behind five hundred of them would be late by 12 ms.
#[test]
fn media_goes_before_the_checks_of_those_who_come() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    world.feed(0, viewer, track);
    world.connect();
    source.play(&mut world, 3, 1);
    let newcomers: Vec<usize> = (0..30).map(|_| world.add(0, Side::Viewer)).collect();
    for (check, &remote) in checks_of(&mut world, &newcomers).into_iter().zip(&newcomers) {
        world.push(remote, check);
    }
    for datagram in source.frame(&world, 1) {
        world.push(source.remote, datagram);
    }
    let address = world.remotes[viewer].address;
    let before = world.counter(CounterId::StunAnswered);
    world.shards[0].parts().0.take_sent();
    let mut answered = Vec::new();
    let mut more = true;
    while more {
        more = world.shards[0].tick();
        answered.push(world.counter(CounterId::StunAnswered) - before);
        let sent = world.shards[0].parts().0.take_sent();
        assert_eq!(sent.iter().any(|sent| sent.path.remote == address), answered.len() == 1, "the packet goes in the tick it came in");
    }
    assert_eq!(answered, [8, 16, 24, 30]);
}

#[test]
fn one_viewer_does_not_fill_the_queue_of_handshakes() {
    let (mut world, _, _) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    // Its handshake gets nowhere: one that is over takes no steps.
    world.remotes[viewer].handshakes_lost_max = usize::MAX;
    world.run(Duration::from_millis(50));
    let refused = world.counter(CounterId::DtlsRefused);
    for _ in 0..400 {
        world.push(viewer, forged(23));
    }
    world.shards[0].tick();
    assert_eq!((world.lent(0), world.shards[0].parts().1.heard_waiting), (1, 17), "one went out at once, sixteen wait");
    assert_eq!(world.counter(CounterId::DtlsRefused) - refused, 383);
    // A session that is gone leaves nothing for the next one in its slot.
    let session = world.remotes[viewer].session;
    world.done(0, &Command::RemoveSession { session });
    world.remotes[viewer].silent = true;
    let next = world.add(0, Side::Viewer);
    assert_eq!(world.remotes[next].session.index, session.index);
    world.connect();
    assert_eq!(world.counter(CounterId::DtlsFailed), 0);
}

#[test]
fn the_last_flight_is_not_repeated_for_a_flood() {
    let (mut world, _, _) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    world.connect();
    let address = world.remotes[viewer].address;
    let flights = |world: &mut World| {
        for _ in 0..20 {
            world.push(viewer, forged(22));
        }
        world.shards[0].tick();
        let sent = world.shards[0].parts().0.take_sent();
        sent.iter().filter(|sent| sent.path.remote == address && (20..64).contains(&sent.bytes[0])).count()
    };
    assert_eq!(flights(&mut world), 1);
    assert_eq!(flights(&mut world), 0);
    world.run(Duration::from_millis(60));
    assert_eq!(flights(&mut world), 1);
}

#[test]
fn slots_that_come_and_go_in_a_replay_stand_in_no_list_twice() {
    let (mut world, mut source, track) = publishing(1);
    source.frames_per_keyframe = 1_000;
    source.play(&mut world, 60, 8);
    for _ in 0..5 {
        let viewer = world.add(0, Side::Viewer);
        world.feed(0, viewer, track);
        world.run(Duration::from_millis(30));
        // New packets bring it its turn before the replay's next one is due.
        for _ in 0..4 {
            let datagram = source.frame(&world, 1).remove(0);
            world.push(source.remote, datagram);
            world.shards[0].tick();
        }
        let (ready, paced) = world.shards[0].parts().1.fanout.waiting();
        assert!(ready <= 1 && paced == 1, "{ready} ready, {paced} paced");
        let session = world.remotes[viewer].session;
        world.done(0, &Command::RemoveSession { session });
        world.remotes[viewer].silent = true;
    }
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    source.play(&mut world, 60, 8);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 120 * 8 + 5 * 4);
}

#[test]
fn a_stolen_address_comes_back_with_the_next_check() {
    let (mut world, mut source, track) = publishing(1);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    let thief = world.add(0, Side::Viewer);
    world.connect();
    // The thief's own valid check, with the publisher's address as its source.
    let path = path_of(&world, source.remote);
    let later = world.now + Duration::from_secs(3);
    world.remotes[thief].client.handle_timeout(later).unwrap();
    let check = world.remotes[thief].client.poll_datagram().unwrap();
    world.shards[0].parts().0.push(path, check);
    world.shards[0].tick();
    let owner = |world: &mut World| world.shards[0].parts().1.shared.directory.find(&pair_of(&path));
    assert_eq!(owner(&mut world), Some(world.remotes[thief].session.index));
    source.play(&mut world, 90, 1);
    assert_eq!(owner(&mut world), Some(world.remotes[source.remote].session.index));
    let before = world.remotes[viewer].of(ssrc).len();
    source.play(&mut world, 30, 1);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), before + 30);
}

#[test]
fn a_sessions_record_names_its_feeds_and_no_others() {
    let (mut world, source, track) = publishing(1);
    let audio = world.track(0, source.remote, TrackId::NONE, Codec::Opus, 88);
    let viewer = world.add(0, Side::Viewer);
    let feeds = [track, audio, track].map(|track| world.feed(0, viewer, track).0);
    let slot = world.remotes[viewer].session.index;
    let named = |world: &mut World| {
        let table = &mut world.shards[0].parts().1.table;
        let (mut at, mut named) = (table.session(slot).unwrap().feed_first, Vec::new());
        while at != NIL {
            named.push(at);
            at = table.feed(at).unwrap().next;
        }
        named
    };
    let [first, second, third] = feeds.map(|feed| feed.index);
    assert_eq!(named(&mut world), [third, second, first]);
    world.done(0, &Command::DetachFeed { feed: feeds[1] });
    assert_eq!(named(&mut world), [third, first]);
    world.done(0, &Command::DetachTrack { track });
    world.run(Duration::from_millis(20));
    assert_eq!(named(&mut world), []);
}
