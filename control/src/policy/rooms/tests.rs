//! Rooms with an engine of the imagination: what it would be told, and what is true afterwards.

use super::*;
use spillway_proto::link::command::Note;
use spillway_proto::link::event::CloseReason;

const PUBLISH: &str = include_str!("../../../../proto/src/sdp/fixtures/chromium_publish.sdp");
const OBS: &str = include_str!("../../../../proto/src/sdp/fixtures/obs_publish.sdp");
const VIEW: &str = include_str!("../../../../proto/src/sdp/fixtures/chromium_view.sdp");
const EPOCH: u64 = 5;
const ROOM: u32 = 1;

static NOBODY: Who = Who { sub: String::new(), account: String::new() };

/// The rest of a request that most tests do not care for.
fn request(offer: &OfferFacts) -> JoinRequest<'_> {
    JoinRequest {
        room: ROOM,
        room_name: "demo",
        resource: ResourceId([0; 16]),
        sub: 0,
        who: &NOBODY,
        expiry: 9,
        offer,
        viewers_max: None,
        now: Time::ZERO,
        at_ms: 1_000,
    }
}

struct World {
    rooms: Rooms,
    resources: u8,
    indices: u32,
    generation: u32,
    /// What the engine would dump.
    sessions: Vec<(usize, SessionId, Side, Note)>,
    tracks: Vec<(usize, TrackId, StreamId, SessionId, Codec, Note)>,
    feeds: Vec<(usize, SessionId, TrackId)>,
}

impl World {
    fn new() -> World {
        let mut rooms = Rooms::new(2);
        assert!(rooms.rebuild(EPOCH, &[], &[], &HashMap::new(), |_| false).is_empty());
        World {
            rooms,
            resources: 0,
            indices: 0,
            generation: 0,
            sessions: Vec::new(),
            tracks: Vec::new(),
            feeds: Vec::new(),
        }
    }

    fn resource(&mut self) -> ResourceId {
        self.resources += 1;
        ResourceId([self.resources; 16])
    }

    fn index(&mut self) -> u32 {
        self.indices += 1;
        self.indices
    }

    fn publish(&mut self, sub: u64, offer: &str) -> Result<(ResourceId, SessionId, Vec<Order>), Refusal> {
        let (resource, offer) = (self.resource(), OfferFacts::parse(offer).unwrap());
        let request = JoinRequest { room: ROOM, room_name: "demo", resource, sub, expiry: 9, offer: &offer, ..request(&offer) };
        self.generation += 1;
        let plan = self.rooms.admit_publish(&request, self.generation)?;
        let session = SessionId::new(self.index(), 1);
        self.sessions.push((plan.shard, session, Side::Publisher, plan.note.write()));
        let mut ids = Vec::new();
        for planned in &plan.tracks {
            let id = if planned.track.is_none() { TrackId::new(self.index(), 1) } else { planned.track };
            self.tracks.retain(|track| track.1 != id);
            self.tracks.push((plan.shard, id, plan.stream, session, planned.sent.codec, planned.note.write()));
            ids.push(id);
        }
        let orders = self.rooms.published(&plan, session, &ids)?;
        self.obey(&orders);
        assert_loads(&self.rooms);
        Ok((resource, session, orders))
    }

    fn live(&mut self, session: SessionId) {
        self.rooms.on_event(&Event::SessionConnected { session, profile: 7 });
        for (_, track, ..) in &self.tracks {
            self.rooms.on_event(&Event::TrackState { track: *track, live: true });
        }
    }

    fn view(&mut self, offer: &str) -> Result<(ResourceId, SessionId, ViewPlan), Refusal> {
        let (resource, offer) = (self.resource(), OfferFacts::parse(offer).unwrap());
        let request = JoinRequest { room: ROOM, room_name: "demo", resource, sub: 0, expiry: 9, offer: &offer, ..request(&offer) };
        let plan = self.rooms.admit_view(&request)?;
        let session = SessionId::new(self.index(), 1);
        self.sessions.push((plan.shard, session, Side::Viewer, plan.note.write()));
        self.feeds.extend(plan.feeds.iter().map(|feed| (plan.shard, session, feed.track)));
        self.rooms.viewed(&plan, session)?;
        self.rooms.on_event(&Event::SessionConnected { session, profile: 7 });
        assert_loads(&self.rooms);
        Ok((resource, session, plan))
    }

    fn obey(&mut self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::Command { command: Command::RemoveSession { session }, .. } => {
                    self.sessions.retain(|entry| entry.1 != *session);
                    self.feeds.retain(|entry| entry.1 != *session);
                    for track in self.tracks.iter_mut().filter(|track| track.3 == *session) {
                        track.3 = SessionId::NONE;
                    }
                }
                Order::Command { command: Command::DetachTrack { track }, .. } => {
                    self.tracks.retain(|entry| entry.1 != *track);
                }
                Order::Command { command, .. } => panic!("{command:?}"),
                Order::Forget(_) => {}
            }
        }
    }

    fn dump(&self) -> Vec<(usize, DumpEntry)> {
        let sessions = self.sessions.iter().map(|(shard, session, side, note)| {
            (*shard, DumpEntry::Session { session: *session, side: *side, state: SessionState::Connected, note: *note })
        });
        let tracks = self.tracks.iter().map(|(shard, track, stream, session, codec, note)| {
            let entry =
                DumpEntry::Track { track: *track, stream: *stream, session: *session, codec: *codec, note: *note };
            (*shard, entry)
        });
        let feeds = self.feeds.iter().map(|(shard, session, track)| {
            let feed = spillway_proto::id::FeedId::new(1, 1);
            (*shard, DumpEntry::Feed { feed, session: *session, track: *track })
        });
        sessions.chain(tracks).chain(feeds).collect()
    }

    fn known(&self) -> Vec<KnownSession> {
        (1..=self.resources)
            .map(|number| KnownSession { resource: ResourceId([number; 16]), room: ROOM, engine_epoch: EPOCH, who: Who::default() })
            .collect()
    }

    /// What a control that was killed and started again makes of engine and store.
    fn rebuilt(&self) -> (Rooms, Vec<Order>) {
        let mut rooms = Rooms::new(2);
        let names = HashMap::from([(ROOM, "demo".to_owned())]);
        let orders = rooms.rebuild(EPOCH, &self.dump(), &self.known(), &names, |_| true);
        assert_loads(&rooms);
        (rooms, orders)
    }

    fn close(&mut self, session: SessionId) -> Vec<Order> {
        let orders = self.rooms.on_event(&Event::SessionClosed { session, reason: CloseReason::RemoteClosed });
        self.obey(&[Order::Command { shard: 0, command: Command::RemoveSession { session } }]);
        self.obey(&orders);
        assert_loads(&self.rooms);
        orders
    }
}

/// What is kept of each shard's sessions is what a count of them gives.
fn assert_loads(rooms: &Rooms) {
    let mut counted = vec![Load::default(); rooms.loads.len()];
    for session in rooms.sessions.values() {
        *count_of(&mut counted, session.shard, session.note.side).unwrap() += 1;
    }
    assert_eq!(rooms.loads, counted);
}

fn commands(orders: &[Order]) -> Vec<Command> {
    let command = |order: &Order| match order {
        Order::Command { command, .. } => Some(command.clone()),
        Order::Forget(_) => None,
    };
    orders.iter().filter_map(command).collect()
}

#[test]
fn nothing_is_admitted_without_an_engine() {
    let mut world = World::new();
    world.rooms.engine_gone();
    assert_eq!(world.publish(1, PUBLISH).unwrap_err(), Refusal::EngineRestarting);
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::EngineRestarting);
}

#[test]
fn a_room_is_live_when_its_publisher_is_connected_and_packets_come() {
    let mut world = World::new();
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::StreamNotLive);
    let (_, session, orders) = world.publish(1, PUBLISH).unwrap();
    assert!(orders.is_empty());
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::StreamNotLive);
    world.live(session);
    assert!(world.rooms.take_changed().contains("demo"));
    let (_, _, plan) = world.view(VIEW).unwrap();
    assert_eq!(plan.feeds.len(), 2);
    assert_ne!(plan.shard, 0, "the publisher is load, too");
    let state = world.rooms.state("demo");
    assert_eq!((state.live, state.viewers, state.epoch), (true, 1, EPOCH << 32 | 1));
    let track = world.tracks[0].1;
    let other = world.tracks[1].1;
    world.rooms.on_event(&Event::TrackState { track, live: false });
    assert!(world.rooms.state("demo").live, "audio alone is live");
    world.rooms.on_event(&Event::TrackState { track: other, live: false });
    assert!(!world.rooms.state("demo").live);
}

#[test]
fn the_same_sub_takes_over_with_the_same_tracks_and_viewers_stay() {
    let mut world = World::new();
    let (first, first_session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(first_session);
    let (_, _, _) = world.view(VIEW).unwrap();
    let tracks: Vec<TrackId> = world.tracks.iter().map(|track| track.1).collect();
    let before = world.rooms.state("demo").epoch;
    let (_, second_session, orders) = world.publish(1, PUBLISH).unwrap();
    assert_eq!(commands(&orders), [Command::RemoveSession { session: first_session }]);
    assert!(orders.contains(&Order::Forget(first)));
    assert_eq!(world.tracks.iter().map(|track| track.1).collect::<Vec<_>>(), tracks);
    assert!(!world.rooms.state("demo").live, "until the new publisher is connected");
    world.live(second_session);
    let state = world.rooms.state("demo");
    assert_eq!((state.live, state.viewers, state.epoch), (true, 1, before));
    // The engine's word that the first one is gone comes late and means nothing.
    assert!(world.close(first_session).is_empty());
    assert_eq!(world.rooms.end("demo", Side::Publisher, first), Err(Refusal::SessionNotFound));
}

#[test]
fn another_sub_finds_the_room_busy_until_the_publisher_leaves() {
    let mut world = World::new();
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    world.view(VIEW).unwrap();
    assert_eq!(world.publish(2, PUBLISH).unwrap_err(), Refusal::RoomBusy);
    let orders = world.close(session);
    assert!(commands(&orders).is_empty(), "the tracks are kept for the viewer");
    let state = world.rooms.state("demo");
    assert_eq!((state.live, state.viewers), (false, 1));
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::StreamNotLive);
    let (_, session, orders) = world.publish(2, PUBLISH).unwrap();
    assert!(orders.is_empty());
    world.live(session);
    assert_eq!(world.rooms.state("demo"), RoomState { live: true, ..state });
}

#[test]
fn a_stream_ends_with_its_last_session_and_its_place_is_free() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    world.live(publisher);
    let (viewer, _, _) = world.view(VIEW).unwrap();
    world.close(publisher);
    assert_eq!(world.tracks.len(), 2);
    let orders = world.rooms.end("demo", Side::Viewer, viewer).unwrap();
    world.obey(&orders);
    assert!(world.tracks.is_empty() && world.sessions.is_empty());
    assert!(world.rooms.streams_used.is_empty() && world.rooms.rooms.is_empty() && world.rooms.names.is_empty());
    assert_eq!(world.rooms.end("demo", Side::Viewer, viewer), Err(Refusal::SessionNotFound));
    let epoch = world.rooms.state("demo").epoch;
    world.publish(2, PUBLISH).unwrap();
    assert_ne!(world.rooms.state("demo").epoch, epoch);
    assert_eq!(world.rooms.streams_used, BTreeSet::from([1]), "places are taken in turn");
}

#[test]
fn a_session_is_found_only_under_its_own_room_and_side() {
    let mut world = World::new();
    let (resource, ..) = world.publish(1, PUBLISH).unwrap();
    assert!(world.rooms.find("demo", Side::Publisher, resource).is_ok());
    assert!(world.rooms.find("demo", Side::Viewer, resource).is_err());
    assert!(world.rooms.find("other", Side::Publisher, resource).is_err());
}

#[test]
fn a_takeover_with_another_codec_keeps_those_who_have_it() {
    let mut world = World::new();
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    world.view(VIEW).unwrap();
    let only_vp8 = VIEW.replace("H264/90000", "H265/90000");
    let (loser, loser_session, _) = world.view(&only_vp8).unwrap();
    let (_, second, orders) = world.publish(1, OBS).unwrap();
    assert!(commands(&orders).contains(&Command::RemoveSession { session: loser_session }));
    assert!(orders.contains(&Order::Forget(loser)));
    world.live(second);
    assert_eq!(world.rooms.state("demo").viewers, 1);
    assert_eq!(world.rooms.state("demo").tracks[1].1, Codec::H264);
    assert_eq!(world.view(&only_vp8).unwrap_err().to_string(), "no common codec: offered VP8, H265, AV1 (0), VP9 (0); possible H264");

    // AV1, which the first viewer negotiated as it came; its note says so, also to a control that is started anew.
    let av1 = OBS.replace("H264/90000", "AV1/90000");
    let (_, third, orders) = world.publish(1, &av1).unwrap();
    world.live(third);
    assert!(!commands(&orders).iter().any(|command| matches!(command, Command::RemoveSession { session } if *session != second)));
    assert_eq!(world.rooms.state("demo").viewers, 1);
    assert_eq!(world.rooms.state("demo").tracks[1].1, Codec::Av1);
}

#[test]
fn a_join_that_fails_half_way_leaves_nothing() {
    let mut world = World::new();
    let offer = OfferFacts::parse(PUBLISH).unwrap();
    let resource = world.resource();
    let request = JoinRequest { room: ROOM, room_name: "demo", resource, sub: 1, expiry: 9, offer: &offer, ..request(&offer) };
    let plan = world.rooms.admit_publish(&request, 1).unwrap();
    let second = JoinRequest { resource: ResourceId([99; 16]), ..request.clone() };
    assert_eq!(world.rooms.admit_publish(&second, 2).unwrap_err(), Refusal::RoomBusy, "one at a time");
    let (session, track) = (SessionId::new(1, 1), TrackId::new(1, 1));
    let orders = world.rooms.abandon(resource, plan.shard, EPOCH, Some(session), &[track], false);
    assert_eq!(commands(&orders), [Command::RemoveSession { session }, Command::DetachTrack { track }]);
    assert!(world.rooms.rooms.is_empty() && world.rooms.sessions.is_empty() && world.rooms.streams_used.is_empty());
    assert!(world.rooms.published(&plan, session, &[track]).is_err());
    world.publish(1, PUBLISH).unwrap();
}

#[test]
fn a_takeover_that_fails_after_it_took_a_track_ends_the_old_publisher_too() {
    let mut world = World::new();
    let (_, old, _) = world.publish(1, PUBLISH).unwrap();
    world.live(old);
    world.view(VIEW).unwrap();
    let offer = OfferFacts::parse(PUBLISH).unwrap();
    let resource = world.resource();
    let request = JoinRequest { room: ROOM, room_name: "demo", resource, sub: 1, expiry: 9, offer: &offer, ..request(&offer) };
    let plan = world.rooms.admit_publish(&request, 9).unwrap();
    let new = SessionId::new(77, 1);
    let orders = world.rooms.abandon(resource, plan.shard, EPOCH, Some(new), &[], true);
    assert_eq!(
        commands(&orders),
        [Command::RemoveSession { session: new }, Command::RemoveSession { session: old }]
    );
    assert!(!world.rooms.state("demo").live);
    world.publish(2, PUBLISH).unwrap();
}

#[test]
fn a_killed_control_is_whole_again_without_a_command() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    world.live(publisher);
    let (viewer, ..) = world.view(VIEW).unwrap();
    world.view(VIEW).unwrap();
    let (rooms, orders) = world.rebuilt();
    assert!(commands(&orders).is_empty(), "{orders:?}");
    assert_eq!(rooms.state("demo"), world.rooms.state("demo"), "the same epoch: no page POSTs anew");
    world.rooms = rooms;
    // And goes on as if nothing had happened.
    assert_eq!(world.publish(2, PUBLISH).unwrap_err(), Refusal::RoomBusy);
    world.publish(1, PUBLISH).unwrap();
    let orders = world.rooms.end("demo", Side::Viewer, viewer).unwrap();
    assert_eq!(commands(&orders).len(), 1);
}

#[test]
fn a_stream_whose_publisher_left_is_rebuilt_as_kept() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    world.live(publisher);
    world.view(VIEW).unwrap();
    world.close(publisher);
    let (rooms, orders) = world.rebuilt();
    assert!(commands(&orders).is_empty(), "{orders:?}");
    assert_eq!(rooms.state("demo"), world.rooms.state("demo"));
    assert!(!rooms.state("demo").live);
}

#[test]
fn unknown_and_half_made_sessions_are_removed_and_unseen_ones_forgotten() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    world.live(publisher);
    let (viewer, session, _) = world.view(VIEW).unwrap();
    // Half-made: no feed was attached before control died.
    world.feeds.clear();
    // Unknown: the store has no row.
    let foreign = SessionId::new(500, 1);
    let note = SessionNote { resource: ResourceId([200; 16]), ..SessionNote::read(&world.sessions[0].3).unwrap() };
    world.sessions.push((1, foreign, Side::Viewer, note.write()));
    world.sessions.push((1, SessionId::new(501, 1), Side::Viewer, [0; 64]));
    let (rooms, orders) = world.rebuilt();
    let removed: Vec<Command> = commands(&orders);
    for session in [session, foreign, SessionId::new(501, 1)] {
        assert!(removed.contains(&Command::RemoveSession { session }), "{session}");
    }
    assert_eq!(removed.len(), 3);
    assert!(orders.contains(&Order::Forget(viewer)));
    assert_eq!((rooms.state("demo").live, rooms.state("demo").viewers), (true, 0));
}

#[test]
fn what_was_written_for_another_engine_is_not_believed() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    let mut known = world.known();
    known[0].engine_epoch = EPOCH - 1;
    let names = HashMap::from([(ROOM, "demo".to_owned())]);
    let orders = Rooms::new(2).rebuild(EPOCH, &world.dump(), &known, &names, |_| true);
    assert!(commands(&orders).contains(&Command::RemoveSession { session: publisher }));
}

#[test]
fn a_takeover_cut_in_half_is_finished_by_the_rebuild() {
    let mut world = World::new();
    let (_, old, _) = world.publish(1, PUBLISH).unwrap();
    world.live(old);
    let note = SessionNote { resource: world.resource(), ..SessionNote::read(&world.sessions[0].3).unwrap() };
    let new = SessionId::new(300, 1);
    world.sessions.push((0, new, Side::Publisher, note.write()));
    // Both tracks moved, the old session was not yet removed.
    for track in &mut world.tracks {
        track.3 = new;
    }
    let (rooms, orders) = world.rebuilt();
    assert_eq!(commands(&orders), [Command::RemoveSession { session: old }]);
    assert!(rooms.find("demo", Side::Publisher, note.resource).is_ok());
    // One track moved: the one that feeds the first track wins, the other goes.
    world.tracks[1].3 = old;
    let (_, orders) = world.rebuilt();
    assert_eq!(commands(&orders), [Command::RemoveSession { session: old }]);
}

#[test]
fn tracks_nobody_needs_are_detached_by_the_rebuild() {
    let mut world = World::new();
    let (_, publisher, _) = world.publish(1, PUBLISH).unwrap();
    world.obey(&[Order::Command { shard: 0, command: Command::RemoveSession { session: publisher } }]);
    let (rooms, orders) = world.rebuilt();
    assert_eq!(commands(&orders).len(), 2);
    assert!(rooms.rooms.is_empty() && rooms.streams_used.is_empty());
}

#[test]
fn a_new_engine_forgets_everything_live_and_changes_the_epoch() {
    let mut world = World::new();
    let (publisher, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    let before = world.rooms.state("demo").epoch;
    assert_eq!(world.rooms.engine_gone(), [Order::Forget(publisher)]);
    assert!(world.rooms.take_changed().contains("demo"));
    let names = HashMap::from([(ROOM, "demo".to_owned())]);
    let orders = world.rooms.rebuild(EPOCH + 1, &[], &world.known(), &names, |_| true);
    assert_eq!(orders, [Order::Forget(publisher)]);
    assert_ne!(world.rooms.state("demo").epoch, before);
    // An answer that comes from before is of no use.
    let offer = OfferFacts::parse(VIEW).unwrap();
    assert_eq!(
        world.rooms.admit_view(&JoinRequest {
            room: ROOM,
            room_name: "demo",
            resource: ResourceId([9; 16]),
            sub: 0,
            expiry: 9,
            offer: &offer,
            ..request(&offer)
        }).unwrap_err(),
        Refusal::StreamNotLive
    );
}

#[test]
fn the_streams_of_a_node_are_bounded() {
    let mut rooms = Rooms::new(1);
    rooms.rebuild(EPOCH, &[], &[], &HashMap::new(), |_| false);
    let offer = OfferFacts::parse(OBS).unwrap();
    for number in 0..=PUBLISHERS_MAX as u32 {
        let mut resource = [0; 16];
        resource[..4].copy_from_slice(&number.to_le_bytes());
        let request = JoinRequest {
            room: number,
            room_name: &format!("r{number}"),
            resource: ResourceId(resource),
            sub: 1,
            expiry: 9,
            offer: &offer,
            ..request(&offer)
        };
        let plan = rooms.admit_publish(&request, number + 1);
        assert_eq!(plan.is_ok(), number < PUBLISHERS_MAX as u32);
    }
}

// ---- limits ----

/// Each place taken is seen by the next that asks, whether or not its join has come to an end.
#[test]
fn joins_under_way_have_their_places() {
    let mut world = World::new();
    world.rooms.set_limits(Limits { viewers_per_room_max: 2, ..Limits::default() });
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    let offer = OfferFacts::parse(VIEW).unwrap();
    let mut plans = Vec::new();
    for number in 100..102 {
        let request = JoinRequest { resource: ResourceId([number; 16]), ..request(&offer) };
        plans.push(world.rooms.admit_view(&request).unwrap());
    }
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::RoomFull { max: 2 });
    // One fails half-way: its place is free.
    let plan = plans.pop().unwrap();
    world.rooms.abandon(plan.resource, plan.shard, EPOCH, None, &[], false);
    assert!(world.view(VIEW).is_ok());
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::RoomFull { max: 2 });
}

#[test]
fn who_takes_over_from_itself_needs_no_place_and_accounts_count_apart() {
    let mut world = World::new();
    world.rooms.set_limits(Limits { publishers_max: 1, publishers_per_account_max: 1, ..Limits::default() });
    world.publish(1, PUBLISH).unwrap();
    world.publish(1, PUBLISH).unwrap();
    let offer = OfferFacts::parse(PUBLISH).unwrap();
    let other_room = JoinRequest { room: 2, room_name: "two", resource: ResourceId([88; 16]), ..request(&offer) };
    assert_eq!(world.rooms.admit_publish(&other_room, 99).unwrap_err(), Refusal::NodeFull("publishers, by its limit"));
    world.rooms.set_limits(Limits { publishers_per_account_max: 1, ..Limits::default() });
    let refusal = world.rooms.admit_publish(&other_room, 99).unwrap_err();
    assert_eq!(refusal, Refusal::AccountFull { what: "publishers", max: 1 });
    let payer = Who { account: "other".into(), ..Who::default() };
    assert!(world.rooms.admit_publish(&JoinRequest { who: &payer, ..other_room }, 99).is_ok());
}

#[test]
fn a_viewer_whose_stream_does_not_fit_the_uplink_is_refused() {
    let mut world = World::new();
    world.rooms.set_limits(Limits { egress_mbps_max: 5, ..Limits::default() });
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    let stream = world.rooms.streams()[0].id;
    world.rooms.measure(&HashMap::from([(stream, 2_000_000)]), 0, &[]);
    assert!(world.view(VIEW).is_ok() && world.view(VIEW).is_ok());
    assert_eq!(world.view(VIEW).unwrap_err(), Refusal::EgressFull { max: 5 });
    assert_eq!(world.rooms.usage(None).egress_bps, 4_000_000);
}

#[test]
fn what_is_shown_of_streams_and_viewers_is_the_same_after_a_rebuild() {
    let mut world = World::new();
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    for _ in 0..3 {
        world.view(VIEW).unwrap();
    }
    let (streams, viewers) = (world.rooms.streams(), world.rooms.viewers(None, None, 99));
    assert_eq!((streams.len(), streams[0].viewers, streams[0].began_ms, viewers.len()), (1, 3, 1_000, 3));
    assert!(viewers.is_sorted_by_key(|viewer| viewer.id));
    assert_eq!(world.rooms.viewers(Some("demo"), Some(viewers[0].id), 1), viewers[1..2]);
    assert!(world.rooms.viewers(Some("other"), None, 99).is_empty());
    let (dump, known) = (world.dump(), world.known());
    let orders = world.rooms.rebuild(EPOCH, &dump, &known, &HashMap::from([(ROOM, "demo".to_owned())]), |_| true);
    assert!(orders.is_empty(), "{orders:?}");
    assert_eq!((world.rooms.streams(), world.rooms.viewers(None, None, 99)), (streams, viewers));
}

#[test]
fn a_kick_and_an_end_leave_nothing() {
    let mut world = World::new();
    let (_, session, _) = world.publish(1, PUBLISH).unwrap();
    world.live(session);
    world.view(VIEW).unwrap();
    world.view(VIEW).unwrap();
    let viewers = world.rooms.viewers(None, None, 9);
    let orders = world.rooms.kick(viewers[0].id).unwrap();
    world.obey(&orders);
    assert_eq!(world.rooms.kick(viewers[0].id), None);
    assert_eq!((world.sessions.len(), world.rooms.viewers(None, None, 9)), (2, viewers[1..].to_vec()));
    let stream = world.rooms.streams()[0].id;
    let orders = world.rooms.end_stream(stream).unwrap();
    world.obey(&orders);
    assert!(world.sessions.is_empty() && world.tracks.is_empty() && world.rooms.streams().is_empty());
    assert_eq!(world.rooms.end_stream(stream), None);
}
