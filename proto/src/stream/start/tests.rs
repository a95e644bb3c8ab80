//! Which way a feed starts, and that its time never runs back: decisions from both sides of every limit.

use super::*;
use crate::rng::Rng;
use crate::session::record::Mapping;
use crate::stream::rewrite;

const MS: fn(u64) -> Time = Time::from_millis;

fn entry(bytes: u64, deaf: bool) -> Entry {
    Entry { index: 500, timestamp: 90_000, arrival: MS(10_000), bytes, deaf }
}

fn way(bytes: u64, deaf: bool, age_ms: u64) -> Way {
    ReplayBudget::default().way(MS(10_000 + age_ms), &entry(bytes, deaf), Bound::Small)
}

#[test]
fn young_and_small_goes_the_short_way() {
    assert_eq!(way(1_000_000, false, 4_000), Way::Short);
    assert_eq!(way(1_000_001, false, 4_000), Way::Long, "too large");
    assert_eq!(way(1_000_000, false, 4_001), Way::Long, "too old");
    assert_eq!(way(1_000_000, true, 60_000), Way::Short, "there is no other way to a deaf publisher's picture");
    assert_eq!(way(1_000_001, true, 60_000), Way::Long);
    assert_eq!(way(1_000_000, false, 0), Way::Short, "it has just come");
}

#[test]
fn where_nobody_can_be_asked_more_is_replayed() {
    let wide = |bytes, deaf, age_ms: u64| ReplayBudget::default().join(MS(10_000 + age_ms), &entry(bytes, deaf), Bound::Wide);
    // 4 Mbit/s with a keyframe each 10 s.
    assert_eq!(wide(5_000_000, true, 10_000), Way::Short);
    assert_eq!(wide(6_000_000, true, 12_000), Way::Short);
    assert_eq!(wide(6_000_001, true, 30_000), Way::Long, "too large");
    assert_eq!(wide(6_000_000, true, 11_990), Way::Long, "it would take 4 s and something");
    assert_eq!(wide(1_000_000, true, 60_000), Way::Short, "however long, if it is small");
    assert_eq!(wide(1_000_001, true, 60_000), Way::Long);
    assert_eq!(wide(1_000_001, false, 3_000), Way::Long, "it can be asked");
    assert_eq!(way(1_000_001, true, 10_000), Way::Long);
    // Half of what a shard may replay is for all others.
    let mut budget = ReplayBudget::default();
    let now = MS(20_000);
    let wide = (0..100).filter(|_| budget.join(now, &entry(4_000_000, true), Bound::Wide) == Way::Short).count();
    let small = (0..100).filter(|_| budget.join(now, &entry(1_000_000, true), Bound::Small) == Way::Short).count();
    assert_eq!((wide, small), (4, 16));
}

#[test]
fn who_joins_may_have_much_and_who_watches_once_in_six_seconds() {
    let wide = entry(5_000_000, true);
    let now = MS(20_000);
    let again = |way, ask| Request::Again { way, ask };
    let budget = &mut ReplayBudget::default();
    let mut joins = entered(Way::Short, &wide, now);
    joins.on_sent(10, 90_000);
    assert_eq!(joins.on_request(now, Some(&wide), budget), again(Way::Short, false), "as it was granted");
    joins.give_up(now, Some(&wide));
    // At half the rate it would take ten seconds.
    assert!(!joins.may_replay(now + SECOND, &wide, budget));
    assert!(joins.may_replay(now + SECOND, &entry(1_500_000, true), budget));

    let budget = &mut ReplayBudget::default();
    let mut holds = entered(Way::Long, &wide, now);
    holds.on_keyframe_sent();
    holds.enter_again(now, Way::Long, &wide, Bend::default(), 700);
    holds.on_keyframe_sent();
    assert!(holds.may_replay(now, &wide, budget), "it was never live, whatever it asked for");
    holds.on_live(Bend::default());
    assert_eq!([holds.bound(now + SECOND), holds.bound(now + SECOND * 6)], [Bound::Small, Bound::Wide], "by the next keyframe");

    let mut watches = entered(Way::Short, &wide, now);
    watches.on_head_reached(now, 600);
    assert_eq!(watches.on_request(now, Some(&wide), budget), again(Way::Short, false));
    watches.enter_again(now, Way::Short, &wide, Bend::default(), 700);
    watches.on_sent(10, 90_000);
    assert_eq!(watches.on_request(now + SECOND, Some(&wide), budget), again(Way::Short, false), "as it was granted");
    watches.on_head_reached(now + SECOND, 800);
    let budget = &mut ReplayBudget::default();
    let sooner = MS(25_999);
    assert_eq!(watches.on_request(sooner, Some(&Entry { arrival: MS(16_000), ..wide }), budget), again(Way::Long, true));
    assert_eq!(watches.on_request(MS(26_000), Some(&Entry { arrival: MS(16_000), ..wide }), budget), again(Way::Short, false));
    watches.enter_again(sooner, Way::Long, &wide, Bend::default(), 900);
    watches.on_keyframe_sent();
    assert!(!watches.may_replay(sooner + SECOND, &Entry { arrival: MS(16_000), ..wide }, budget));
    watches.on_live(Bend::default());
    assert_eq!(watches.bound(sooner + SECOND), Bound::Small);
}

#[test]
fn a_source_as_fast_as_a_replay_is_not_replayed() {
    // 12 Mbit/s is three quarters of what a replay may do.
    assert_eq!(way(750_000, false, 500), Way::Short);
    assert_eq!(way(760_000, false, 500), Way::Long);
    assert_eq!(way(1_000_000, true, 501), Way::Long, "16 Mbit/s");
}

#[test]
fn a_shards_replays_share_a_budget_and_a_storm_goes_the_long_way() {
    let mut budget = ReplayBudget::default();
    let grand = entry(1_000_000, false);
    let at = |budget: &mut ReplayBudget, ms: u64, n: usize| {
        (0..n).filter(|_| budget.way(MS(ms), &grand, Bound::Small) == Way::Short).count()
    };
    assert_eq!(at(&mut budget, 11_000, 200), 32, "a second's worth");
    assert_eq!(at(&mut budget, 11_500, 200), 16, "and half of one");
    let (small, deaf) = (entry(10_000, false), entry(10_000, true));
    let mut budget = ReplayBudget::default();
    let short = (0..1_000).filter(|_| budget.join(MS(11_000), &small, Bound::Wide) == Way::Short).count();
    assert_eq!(short, 100);
    assert_eq!(budget.join(MS(11_000), &deaf, Bound::Wide), Way::Short, "a storm is no reason to see nothing");
    assert_eq!(budget.join(MS(11_011), &small, Bound::Wide), Way::Short);
    let mut budget = ReplayBudget::default();
    assert!((0..1_000).all(|_| budget.join(MS(10_099), &grand, Bound::Wide) == Way::Short), "of this moment");
    assert!((0..1_000).any(|_| budget.join(MS(10_100), &grand, Bound::Wide) == Way::Long));
}

fn mapping(offset: u32, bend: Bend) -> Mapping {
    let start = rewrite::start_mapping(500, 0, 7, offset);
    Mapping { meet: bend.meet, lead: bend.lead, ..start }
}

/// A viewer enters, again and again, at random moments and keyframes; every packet it is sent has a timestamp after
/// those of the pictures before, in one picture all the same, and past the meeting point the true one.
#[test]
fn time_never_runs_back() {
    let mut rng = Rng::new(4);
    let (mut bent, mut met, mut bent_live) = (0, 0, 0);
    for _ in 0..2_000 {
        let offset = rng.next_u32();
        let first = rng.next_u32();
        // Frame f arrives at 10 s + 33 ms * f.
        let timestamp = |frame: u64| first.wrapping_add(frame as u32 * 3_000);
        let arrival = |frame: u64| MS(10_000 + 33 * frame);
        let mut now = MS(10_000 + rng.below(20_000));
        let (mut sent, mut key): (Option<u32>, u64) = (None, 0);
        for _ in 0..5 {
            now = now + Duration::from_millis(1 + rng.below(3_000));
            let newest = (now.as_millis() - 10_000) / 33;
            key = key.max(newest.saturating_sub(rng.below(300)));
            let entry = Entry {
                index: key,
                timestamp: timestamp(key),
                arrival: arrival(key),
                bytes: 1_000 * (newest - key + 1),
                deaf: rng.below(2) == 0,
            };
            let way = if rng.below(4) == 0 { Way::Long } else { Way::Short };
            let bend = Bend::new(way, &entry, now, timestamp(newest), offset, sent, 90_000);
            assert!(bend.lead <= LEAD_WHOLE);
            bent += u32::from(bend.lead > 0);
            let mapping = mapping(offset, bend);
            let last = if way == Way::Long { key } else { key + rng.below(2 * (newest - key) + 40) };
            for frame in key..=last {
                let out = rewrite::timestamp(&mapping, timestamp(frame));
                if let Some(sent) = sent {
                    let step = out.wrapping_sub(sent) as i32;
                    assert!(step > 0 && step < 90_000 * 40, "a step of {step}");
                }
                sent = Some(out);
                let truth = timestamp(frame).wrapping_add(offset);
                assert!(out.wrapping_sub(truth) as i32 >= 0, "never earlier than true");
                if timestamp(frame).wrapping_sub(bend.meet) as i32 >= 0 {
                    assert_eq!(out, truth);
                    met += u32::from(bend.lead > 0);
                }
            }
            if way == Way::Long {
                // The keyframe is of now, so that the next one, which is live, follows it.
                let (index, timestamp) = (newest + 1, timestamp(newest + 1));
                let next = Entry { index, timestamp, arrival: arrival(newest + 1), ..entry };
                let bend = Bend::new(Way::Short, &next, next.arrival, timestamp, offset, sent, 90_000);
                bent_live += u32::from(bend.lead > 0);
                let ahead = rewrite::timestamp(&self::mapping(offset, bend), timestamp).wrapping_sub(sent.unwrap());
                assert!((1..9_000).contains(&ahead), "{ahead}");
            }
            // It was watched meanwhile, at ten times live and at most up to live.
            now = (now + Duration::from_micros(3_300 * (last - key))).max(arrival(last));
        }
    }
    assert!(bent > 2_000 && met > 2_000, "{bent} {met}");
    assert!(bent_live < 20, "rarely: {bent_live}");
}

#[test]
fn a_first_entry_is_not_bent_and_an_unseen_keyframe_neither() {
    let entry = entry(1_000, false);
    assert_eq!(Bend::new(Way::Short, &entry, MS(12_000), 270_000, 5, None, 90_000), Bend::default());
    assert_eq!(Bend::new(Way::Short, &entry, MS(12_000), 270_000, 5, Some(90_004), 90_000), Bend::default());
    assert_ne!(Bend::new(Way::Short, &entry, MS(12_000), 270_000, 5, Some(90_005), 90_000), Bend::default());
}

fn entered(way: Way, entry: &Entry, now: Time) -> Start {
    let mut start = Start::WAITING;
    start.enter(now, way, entry, Bend::default(), 0);
    start.on_sent(1, 1);
    start
}

#[test]
fn a_replay_restarts_three_times_and_never_asks_upstream() {
    let (entry, mut budget) = (entry(10_000, false), ReplayBudget::default());
    let mut now = MS(12_000);
    let mut start = entered(Way::Short, &entry, now);
    for _ in 0..3 {
        let again = Request::Again { way: Way::Short, ask: false };
        assert_eq!(start.on_request(now, Some(&entry), &mut budget), again);
        start.enter_again(now, Way::Short, &entry, Bend::default(), 9);
        assert_eq!(start.on_request(now, Some(&entry), &mut budget), Request::Ignored, "nothing was sent of it yet");
        start.on_sent(1, 2);
        assert_eq!(start.on_request(now, Some(&entry), &mut budget), Request::Ignored, "it is on its way");
        now = now + RESTART_GAP;
    }
    assert_eq!(start.on_request(now, Some(&entry), &mut budget), Request::Ignored);
    start.on_head_reached(now, 0);
    assert!(start.is_live());
}

#[test]
fn a_live_viewer_is_answered_from_the_reel_once_a_second_else_upstream() {
    let (young, mut budget) = (entry(10_000, false), ReplayBudget::default());
    let mut start = entered(Way::Short, &young, MS(10_010));
    start.on_head_reached(MS(10_010), 0);
    assert_eq!(start.on_request(MS(10_050), Some(&young), &mut budget), Request::Ignored, "on its way");
    let again = Request::Again { way: Way::Short, ask: false };
    assert_eq!(start.on_request(MS(11_000), Some(&young), &mut budget), again);
    start.enter_again(MS(11_000), Way::Short, &young, Bend::default(), 9);
    start.on_head_reached(MS(11_000), 0);
    assert_eq!(start.on_request(MS(11_999), Some(&young), &mut budget), Request::Ignored);
    assert_eq!(start.on_request(MS(12_000), Some(&young), &mut budget), again);
    assert_eq!(start.on_request(MS(14_001), Some(&young), &mut budget), Request::Upstream);
    assert_eq!(start.on_request(MS(14_001), None, &mut budget), Request::Upstream);
    let deaf = entry(1_000_001, true);
    let still = Request::Again { way: Way::Long, ask: true };
    assert_eq!(start.on_request(MS(14_001), Some(&deaf), &mut budget), still);
}

#[test]
fn a_lossy_replay_is_given_up_at_both_limits() {
    let entry = entry(10_000, false);
    let replay = |sent: usize| {
        let mut start = entered(Way::Short, &entry, MS(12_000));
        start.on_sent(sent - 1, 1);
        start
    };
    let mut start = replay(100);
    assert!((0..15).all(|n| !start.on_loss(MS(12_100), n)) && (0..15).all(|n| !start.on_loss(MS(12_100), n)), "the same ones again");
    assert!(start.on_loss(MS(12_100), 15), "16 of 100");
    let mut start = replay(320);
    assert!((0..16).all(|n| !start.on_loss(MS(12_100), n)), "16 of 320 are 5 %");
    assert!(start.on_loss(MS(12_100), 16));
    start.give_up(MS(13_000), Some(&entry));
    assert_eq!(*start.stage(), Stage::Hold);
    assert!(!start.on_loss(MS(12_100), 17) && !start.may_replay(MS(15_000), &entry, &mut ReplayBudget::default()), "it hears");
}

/// Behind a queue of 300 ms a replay is long over when its losses become known.
#[test]
fn what_a_queue_lost_of_a_replay_counts_also_when_that_is_over() {
    let (young, mut budget) = (entry(10_000, false), ReplayBudget::default());
    let live = || {
        let mut start = entered(Way::Short, &young, MS(12_000));
        start.on_sent(99, 1);
        start.on_head_reached(MS(12_100), 100);
        start.on_sent(1_000, 2);
        start
    };
    let mut start = live();
    assert!((0..15).all(|n| !start.on_loss(MS(12_600), n)) && start.on_loss(MS(12_600), 15), "16 of 100, in a row");
    assert!({ let mut live = live(); (0..33).all(|n| !live.on_loss(MS(12_600), 3 * n)) }, "the air loses one here and there");
    assert!({ let mut live = live(); (100..200).all(|n| !live.on_loss(MS(12_600), n)) }, "that was no replay");
    let late = MS(12_100) + REPLAY_NEWS_MAX;
    assert!({ let mut live = live(); (0..100).all(|n| !live.on_loss(late, n)) }, "that is old news");
    // The queue is empty 300 ms later, and no keyframe of before that is of use.
    start.give_up_full(MS(12_600), Some(&young));
    assert_eq!(*start.stage(), Stage::Hold);
    let next = |at| Entry { index: 900, timestamp: 99_000, arrival: MS(at), ..young };
    assert!(!start.is_newer(&next(12_899)) && start.is_newer(&next(12_900)));
    assert_eq!(start.on_request(MS(12_899), Some(&young), &mut budget), Request::Ignored);
    assert_eq!(start.on_request(MS(12_900), Some(&young), &mut budget), Request::Again { way: Way::Long, ask: false });
    assert!(!start.take_ask(MS(12_899)) && start.take_ask(MS(12_900)) && !start.take_ask(MS(12_901)), "once");
    // A short path has no such queue: the news came at once. The old keyframe once more does not spare the request.
    let mut start = live();
    start.give_up_full(MS(12_030), Some(&young));
    assert!(!start.take_ask(MS(12_059)));
    start.enter_again(MS(12_060), Way::Long, &young, Bend::default(), 200);
    start.on_keyframe_sent();
    assert!(start.take_ask(MS(12_060)));
}

/// A publisher that hears no requests: its viewers try again, slower, and not for ever.
#[test]
fn a_replay_that_was_given_up_is_tried_again_slower_where_nobody_can_be_asked() {
    let (entry, mut budget) = (entry(600_000, true), ReplayBudget::default());
    let mut start = entered(Way::Short, &entry, MS(12_000));
    let mut now = MS(13_000);
    let mut last = None;
    for tries in 1..=REPLAYS_SLOWER_MAX {
        start.give_up(now, Some(&entry));
        assert!(!start.may_replay(now + Duration::from_millis(999), &entry, &mut budget), "the path is full yet");
        now = now + Duration::from_secs(1);
        assert!(start.may_replay(now, &entry, &mut budget), "{tries}");
        start.enter_again(now, Way::Short, &entry, Bend::default(), 0);
        // What 100 kB cost.
        let mut paid = now;
        assert_eq!(start.pace(now, entry.arrival, 100_000, &mut paid), Pace::Now);
        let cost = paid.since(now);
        assert!(last.is_none_or(|last| cost == last * 2) && cost >= Duration::from_millis(100), "{cost:?}");
        last = Some(cost);
    }
    start.give_up(now, Some(&entry));
    assert!(!start.may_replay(now + Duration::from_secs(9), &entry, &mut budget), "that is all");
    // A source of 4 Mbit/s cannot be caught up with at four, one of 2.1 can.
    let fast = Entry { bytes: 800_000, ..entry };
    let (mut start, mut budget) = (entered(Way::Short, &fast, MS(12_000)), ReplayBudget::default());
    start.give_up(MS(12_000), Some(&fast));
    assert!(start.may_replay(MS(13_000), &fast, &mut budget));
    start.give_up(MS(12_000), Some(&fast));
    let faster = Entry { bytes: 1_000_000, arrival: MS(11_000), ..fast };
    assert!(start.may_replay(MS(13_000), &fast, &mut budget) && !start.may_replay(MS(13_000), &faster, &mut budget));
}

#[test]
fn who_holds_goes_on_at_the_next_keyframe_or_replays_once_the_publisher_is_deaf() {
    let (first, mut budget) = (entry(10_000, false), ReplayBudget::default());
    let mut start = entered(Way::Long, &first, MS(18_000));
    assert!(start.is_entry(90_000) && !start.is_entry(93_000));
    start.on_keyframe_sent();
    assert!(!start.is_newer(&first) && !start.is_newer(&Entry { index: 499, ..first }));
    assert!(start.is_newer(&Entry { index: 900, timestamp: 99_000, ..first }));
    assert!(!start.may_replay(MS(19_000), &first, &mut budget));
    assert!(start.may_replay(MS(19_000), &Entry { deaf: true, ..first }, &mut budget));
    assert!(!start.may_replay(MS(19_000), &Entry { deaf: true, bytes: 6_000_001, ..first }, &mut budget));
}

#[test]
fn a_replay_that_never_ends_is_given_up() {
    // 90 kB in 300 ms: 90 ms at the rate's bound.
    let start = entered(Way::Short, &entry(180_000, false), MS(10_300));
    assert!(!start.is_overdue(MS(10_300 + 680)) && start.is_overdue(MS(10_300 + 681)));
}
