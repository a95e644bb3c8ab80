//! Goal: the engine finishes a handshake it begins itself, with remotes that offered `a=setup:passive` (ffmpeg), and
//! takes no remote but the one the offer promised.
//! Method: `Sim` in virtual time, real handshakes; our own client as the DTLS server.

use super::session::Held;
use super::world::{Source, World, number_of};
use spillway_proto::id::{Codec, Side, TrackId};
use spillway_proto::limits::HANDSHAKE_EXPIRY;
use spillway_proto::link::command::{Command, DtlsRole, Fingerprint};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::event::{CloseReason, Event};
use spillway_proto::session::dtls::Identity;
use std::time::Duration;

/// What became of the session of a remote.
fn closed(world: &World, remote: usize) -> Option<CloseReason> {
    let session = world.remotes[remote].session;
    world.heard.iter().find_map(|event| match event {
        Event::SessionClosed { session: closed, reason } if *closed == session => Some(*reason),
        _ => None,
    })
}

#[test]
fn a_publisher_and_a_viewer_that_wait_for_our_hello_are_served() {
    let mut world = World::new(1);
    let publisher = world.add_as(0, Side::Publisher, DtlsRole::Client);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    let viewer = world.add_as(0, Side::Viewer, DtlsRole::Client);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    Source::new(publisher, 77).play(&mut world, 40, 4);
    assert_eq!(world.remotes[viewer].of(ssrc).len(), 160);
    assert_eq!(world.counter(CounterId::DtlsHandshakes), 2);
    // Their goodbyes are sealed with the right keys too.
    for remote in [publisher, viewer] {
        let now = world.now;
        world.remotes[remote].client.close(now);
        world.run(Duration::from_millis(20));
        assert_eq!(closed(&world, remote), Some(CloseReason::RemoteClosed));
    }
}

/// It holds 10 KB. What it was good for is kept elsewhere: the flight the remote missed, and who knows its goodbye.
#[test]
fn the_handshake_goes_when_it_is_over_and_goodbyes_are_believed_without_it() {
    let mut world = World::new(1);
    let [publisher, viewer, other] = [Side::Publisher, Side::Viewer, Side::Viewer].map(|side| world.add(0, side));
    world.connect();
    for remote in [publisher, viewer, other] {
        let slot = world.remotes[remote].session.index;
        let session = world.shards[0].parts().1.session_mut(slot).unwrap();
        assert!(matches!(session.handshake, Held::None) && session.farewell.is_some(), "{remote}");
    }
    // Another's goodbye from this one's address, and its own with a bit of it changed.
    let goodbye = |world: &mut World, remote: usize| {
        let now = world.now;
        world.remotes[remote].client.close(now);
        let mut said = Vec::new();
        while let Some(datagram) = world.remotes[remote].client.poll_datagram() {
            said.push(datagram);
        }
        said.into_iter().find(|datagram| datagram[0] == 21).expect("a close_notify")
    };
    let [others, own] = [other, viewer].map(|remote| goodbye(&mut world, remote));
    let mut forged = own.clone();
    *forged.last_mut().unwrap() ^= 1;
    for datagram in [others, forged] {
        let refused = world.counter(CounterId::DtlsRefused);
        world.push(viewer, datagram);
        world.run(Duration::from_millis(2));
        assert_eq!((closed(&world, viewer), world.counter(CounterId::DtlsRefused) - refused), (None, 1));
    }
    world.push(viewer, own);
    world.run(Duration::from_millis(2));
    assert_eq!(closed(&world, viewer), Some(CloseReason::RemoteClosed));
    let own = goodbye(&mut world, publisher);
    world.push(publisher, own);
    world.run(Duration::from_millis(2));
    assert_eq!(closed(&world, publisher), Some(CloseReason::RemoteClosed));
}

#[test]
fn our_lost_flights_go_again_by_themselves() {
    for lost in 1..5 {
        let mut world = World::new(1);
        let publisher = world.add_as(0, Side::Publisher, DtlsRole::Client);
        world.remotes[publisher].handshakes_lost_max = lost;
        world.run(Duration::from_millis(20));
        assert!(!world.remotes[publisher].connected, "the first hello was lost");
        // 100 ms, doubled each time, and the library's jitter.
        world.run(Duration::from_millis(200 << lost));
        assert_eq!(world.remotes[publisher].handshakes_lost, lost);
        assert!(world.remotes[publisher].connected, "{lost} lost");
        assert_eq!(world.shards[0].parts().1.timers.handshakes_running(), 0);
    }
}

/// Ticks are many and handshakes may be hundreds: they are looked at once a millisecond and when one is due, not in every tick.
#[test]
fn running_handshakes_cost_ticks_nothing() {
    let mut world = World::new(1);
    for _ in 0..100 {
        let remote = world.add_as(0, Side::Viewer, DtlsRole::Client);
        world.remotes[remote].handshakes_lost_max = usize::MAX;
    }
    world.run(Duration::from_millis(30));
    assert_eq!(world.shards[0].parts().1.timers.handshakes_running(), 100);
    let looks = world.shards[0].parts().1.timers.handshakes_looked_at();
    for _ in 0..1_000 {
        world.shards[0].parts().0.advance(Duration::from_micros(20));
        world.shards[0].tick();
    }
    let looks = world.shards[0].parts().1.timers.handshakes_looked_at() - looks;
    assert!(looks <= 20 * 100, "{looks} looks at 100 handshakes in 20 ms of a thousand ticks");
    // Once they are over nothing is looked at any more.
    world.run(HANDSHAKE_EXPIRY + Duration::from_secs(1));
    assert_eq!(world.shards[0].parts().1.timers.handshakes_running(), 0);
}

#[test]
fn nobody_is_greeted_before_its_check_and_no_longer_than_a_handshake_may_take() {
    let mut world = World::new(1);
    let silent = world.add_as(0, Side::Publisher, DtlsRole::Client);
    world.remotes[silent].silent = true;
    let deaf = world.add_as(0, Side::Publisher, DtlsRole::Client);
    world.remotes[deaf].handshakes_lost_max = usize::MAX;
    world.run(Duration::from_secs(1));
    let to_silent = world.remotes[silent].address;
    let (io, _) = world.shards[0].parts();
    assert!(io.take_sent().iter().all(|sent| sent.path.remote != to_silent));
    world.run(HANDSHAKE_EXPIRY);
    assert_eq!(closed(&world, deaf), Some(CloseReason::HandshakeFailed));
    let greeted = world.remotes[deaf].handshakes_lost;
    assert!((4..=8).contains(&greeted), "greeted {greeted} times in ten seconds");
}

#[test]
fn a_server_with_another_certificate_gets_no_keys() {
    let mut world = World::new(1);
    let identity = Identity::new().unwrap();
    let publisher =
        world.add_promising(0, Side::Publisher, DtlsRole::Client, &identity, Fingerprint([7; 32]));
    world.run(Duration::from_millis(300));
    assert_eq!(closed(&world, publisher), Some(CloseReason::FingerprintMismatch));
    assert_eq!((world.counter(CounterId::DtlsHandshakes), world.counter(CounterId::DtlsFailed)), (0, 1));
    assert!(!world.remotes[publisher].connected);
}

/// What this remote says now.
fn said(world: &mut World, remote: usize) -> Vec<Vec<u8>> {
    let now = world.now;
    world.remotes[remote].client.handle_timeout(now).unwrap();
    std::iter::from_fn(|| world.remotes[remote].client.poll_datagram()).collect()
}

/// A step takes up to a millisecond: packets go out meanwhile, and the shard sleeps where there are none.
#[test]
fn media_does_not_wait_for_handshakes() {
    let mut world = World::new(1);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    world.connect();
    world.handshakers_rest = true;
    let newcomers: Vec<usize> = (0..40).map(|_| world.add(0, Side::Viewer)).collect();
    Source::new(publisher, 77).play(&mut world, 40, 4);
    assert_eq!((world.remotes[viewer].of(ssrc).len(), world.lent(0)), (160, 40));
    assert!(!world.shards[0].tick());
    let parks = |world: &mut World| {
        let before = world.counter(CounterId::Parks);
        world.shards[0].park();
        world.shards[0].core.flush_counters();
        world.counter(CounterId::Parks) - before
    };
    assert_eq!(parks(&mut world), 1);
    // One that is back while the shard lies down keeps it awake.
    world.handshakers_rest = false;
    assert!(world.shake_hands(0));
    assert_eq!(parks(&mut world), 0);
    world.run(Duration::from_millis(500));
    assert!(newcomers.iter().all(|&remote| world.remotes[remote].connected));
}

/// Its handshake comes back to nobody, though another session has its slot by then; and one that never comes back keeps no session.
#[test]
fn a_session_may_go_while_its_handshake_is_lent_out() {
    let mut world = World::new(1);
    let gone = world.add(0, Side::Viewer);
    world.handshakers_rest = true;
    world.run(Duration::from_millis(100));
    let session = world.remotes[gone].session;
    for _ in 0..5 {
        world.push(gone, vec![22; 60]);
    }
    world.shards[0].tick();
    assert_eq!((world.lent(0), world.shards[0].parts().1.heard_waiting > 0), (1, true));
    world.done(0, &Command::RemoveSession { session });
    world.remotes[gone].silent = true;
    let next = world.add(0, Side::Viewer);
    assert_eq!(world.remotes[next].session.index, session.index);
    world.run(Duration::from_millis(5));
    world.handshakers_rest = false;
    world.connect();
    assert_eq!(world.counter(CounterId::DtlsFailed), 0);
    assert_eq!((world.lent(0), world.shards[0].parts().1.heard_waiting), (0, 0));
    let never = world.add(0, Side::Viewer);
    world.handshakers_rest = true;
    world.run(HANDSHAKE_EXPIRY + Duration::from_secs(1));
    assert_eq!(closed(&world, never), Some(CloseReason::HandshakeFailed));
    assert_eq!(closed(&world, next), None);
}

/// What comes behind a handshake's end is not lost with it.
#[test]
fn who_says_goodbye_with_its_last_flight_has_gone() {
    let mut world = World::new(1);
    let viewer = world.add_as(0, Side::Viewer, DtlsRole::Client);
    while !world.remotes[viewer].connected {
        world.run(Duration::from_millis(1));
    }
    let now = world.now;
    world.remotes[viewer].client.close(now);
    let last = said(&mut world, viewer);
    assert!(last.len() >= 2 && last.last().is_some_and(|datagram| datagram[0] == 21));
    // All of it waits while the handshake is out for something else.
    world.handshakers_rest = true;
    for datagram in [vec![vec![22; 60]], last].concat() {
        world.push(viewer, datagram);
    }
    world.shards[0].tick();
    assert_eq!((world.lent(0), world.counter(CounterId::DtlsHandshakes)), (1, 0));
    world.handshakers_rest = false;
    world.run(Duration::from_millis(2));
    assert_eq!(world.counter(CounterId::DtlsHandshakes), 1);
    assert_eq!(closed(&world, viewer), Some(CloseReason::RemoteClosed));
}

/// What came while a handshake was out sends it out again at once, and wakes nobody a millisecond later.
#[test]
fn a_handshake_that_goes_out_again_is_not_looked_at() {
    let mut world = World::new(1);
    let viewer = world.add_as(0, Side::Viewer, DtlsRole::Client);
    world.remotes[viewer].handshakes_lost_max = usize::MAX;
    world.run(Duration::from_millis(30));
    for _ in 0..2 {
        world.push(viewer, vec![22; 60]);
    }
    world.shards[0].tick();
    assert!(world.shake_hands(0));
    world.handshakers_rest = true;
    world.shards[0].tick();
    assert_eq!(world.lent(0), 1, "the second datagram sends it out again");
    let looks = world.shards[0].parts().1.timers.handshakes_looked_at();
    world.run(Duration::from_millis(10));
    assert_eq!(world.shards[0].parts().1.timers.handshakes_looked_at(), looks);
}

/// Goal: who is the DTLS server sends media right behind its last flight, and the first picture is whole all the same. Method: both come while the
/// handshake is out.
#[test]
fn media_that_comes_before_its_keys_is_kept_for_them() {
    let mut world = World::new(1);
    let publisher = world.add_as(0, Side::Publisher, DtlsRole::Client);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    let viewer = world.add(0, Side::Viewer);
    let (_, ssrc) = world.feed(0, viewer, track);
    while !world.remotes[publisher].connected {
        world.run(Duration::from_millis(1));
    }
    world.handshakers_rest = true;
    let last = said(&mut world, publisher);
    for datagram in [last, Source::new(publisher, 77).frame(&world, 8)].concat() {
        world.push(publisher, datagram);
    }
    world.run(Duration::from_millis(30));
    assert_eq!(world.shards[0].parts().1.early_waiting, 8);
    world.handshakers_rest = false;
    world.connect();
    let numbers: Vec<u64> = world.remotes[viewer].of(ssrc).iter().map(|seen| number_of(&seen.payload)).collect();
    assert_eq!(numbers, (60_000..60_008).collect::<Vec<_>>());
    assert_eq!(world.shards[0].parts().1.early_waiting, 0);
}

/// What has no keys yet is kept of publishers alone, and not without bound; it goes with its session.
#[test]
fn media_without_keys_fills_no_memory() {
    let mut world = World::new(1);
    let publishers: Vec<usize> = (0..20).map(|_| world.add(0, Side::Publisher)).collect();
    let viewer = world.add(0, Side::Viewer);
    world.handshakers_rest = true;
    world.run(Duration::from_millis(100));
    let flood = |world: &mut World, remote: usize| {
        let refused = world.counter(CounterId::PacketsRefusedFlood);
        (0..200).for_each(|_| world.push(remote, vec![0x80; 1_200]));
        world.run(Duration::from_millis(5));
        (world.shards[0].parts().1.early_waiting, world.counter(CounterId::PacketsRefusedFlood) - refused)
    };
    assert_eq!(flood(&mut world, viewer), (0, 0));
    assert_eq!(flood(&mut world, publishers[0]), (128, 72));
    let full = publishers[1..].iter().map(|&remote| flood(&mut world, remote)).last();
    assert_eq!(full, Some((2_048, 200)));
    let session = world.remotes[publishers[0]].session;
    world.done(0, &Command::RemoveSession { session });
    assert_eq!(world.shards[0].parts().1.early_waiting, 2_048 - 128);
    world.handshakers_rest = false;
    world.run(Duration::from_millis(300));
    assert_eq!(world.shards[0].parts().1.early_waiting, 0);
}

/// Fan-out had its turn when handshakes come back: who is connected then does not wait for the next datagram of somebody else.
#[test]
fn who_connects_is_served_at_once() {
    let mut world = World::new(1);
    let publisher = world.add(0, Side::Publisher);
    let track = world.track(0, publisher, TrackId::NONE, Codec::Vp8, 77);
    world.connect();
    Source::new(publisher, 77).play(&mut world, 1, 4);
    let viewer = world.add(0, Side::Viewer);
    world.feed(0, viewer, track);
    let mut more = false;
    for _ in 0..100 {
        world.handshakers_rest = true;
        world.run(Duration::from_millis(5));
        world.handshakers_rest = false;
        world.shake_hands(0);
        more = world.shards[0].tick();
        if world.counter(CounterId::DtlsHandshakes) == 2 {
            break;
        }
    }
    assert_eq!((world.counter(CounterId::DtlsHandshakes), more), (2, true), "the shard sleeps");
    assert_ne!(world.shards[0].parts().1.fanout.waiting().0, 0);
    world.shards[0].tick();
    assert_eq!(world.shards[0].parts().1.fanout.waiting().0, 0);
}
