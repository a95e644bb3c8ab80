//! Goal: everything lost is asked for, soon but not at once, not for ever, and never what is not missing.
//! Method: virtual time; a model of who is missing under random loss, reordering and copies.

use super::*;
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

fn at(ms: u64) -> Time {
    Time::from_millis(1_000 + ms)
}

fn asked(losses: &mut Losses, now: Time) -> Vec<u16> {
    let mut out = [0; 600];
    let count = losses.poll(now, &mut out);
    out[..count].to_vec()
}

#[test]
fn a_gap_is_asked_for_after_a_moment() {
    let mut losses = Losses::new();
    assert_eq!(losses.on_packet(at(0), 65_535), Arrival::Newest { missing: 0 });
    assert_eq!(losses.deadline(), Time::NEVER);
    assert_eq!(losses.on_packet(at(0), 65_538), Arrival::Newest { missing: 2 });
    assert_eq!(losses.deadline(), at(10));
    assert_eq!(asked(&mut losses, at(9)), []);
    assert_eq!(losses.on_packet(at(9), 65_537), Arrival::Filled { asked: false }, "only late");
    assert_eq!(asked(&mut losses, at(10)), [0], "the sequence number turned over");
    assert_eq!(asked(&mut losses, at(11)), [], "once is enough for a round trip");
}

#[test]
fn it_is_asked_again_ever_more_slowly_and_given_up_after_a_second() {
    let mut losses = Losses::new();
    losses.on_packet(at(0), 10);
    losses.on_packet(at(0), 12);
    let mut times = Vec::new();
    for ms in 0..2_000 {
        if losses.deadline() <= at(ms) && !asked(&mut losses, at(ms)).is_empty() {
            times.push(ms);
        }
    }
    assert_eq!(times, [10, 60, 135, 235, 360, 510, 685, 885]);
    assert!(losses.is_empty());
    assert_eq!((losses.given_up(), losses.deadline()), (1, Time::NEVER));
    assert_eq!(losses.on_packet(at(2_000), 11), Arrival::Known);
}

/// At the shortest round trip the window has room for more requests than there are.
#[test]
fn so_many_requests_for_one_packet_and_no_more() {
    let mut losses = Losses::new();
    losses.on_packet(at(0), 0);
    for n in 0..60 {
        losses.on_packet(at(200 * n), 2 * n + 2);
        assert_eq!(asked(&mut losses, at(200 * n + 10)).len(), 1);
        losses.on_packet(at(200 * n + 11), 2 * n + 1);
    }
    losses.on_packet(at(12_000), 122);
    let requests = (0..1_200).filter(|ms| !asked(&mut losses, at(12_000 + ms)).is_empty()).count();
    assert_eq!(requests, usize::from(NACK_ATTEMPTS_MAX));
    assert!(losses.is_empty());
}

#[test]
fn the_spacing_follows_the_round_trip() {
    for (trip, spacing) in [(5, 20), (120, 120)] {
        let mut losses = Losses::new();
        losses.on_packet(at(0), 0);
        let mut now = 0;
        for n in 0..60 {
            losses.on_packet(at(now), 2 * n + 2);
            asked(&mut losses, at(now + 10));
            asked(&mut losses, at(now + 10 + trip.min(60)));
            assert_eq!(losses.on_packet(at(now + 10 + trip), 2 * n + 1), Arrival::Filled { asked: true });
            now += 200;
        }
        losses.on_packet(at(now), 130);
        asked(&mut losses, at(now + 10));
        let waits = losses.deadline().since(at(now + 10)).as_millis() as u64;
        assert!(waits.abs_diff(spacing) <= 3, "{waits} ms at a round trip of {trip} ms");
    }
}

#[test]
fn a_leap_is_not_asked_for_and_a_full_list_forgets_the_oldest() {
    let max = NACK_OUTSTANDING_MAX as u64;
    let mut losses = Losses::new();
    losses.on_packet(at(0), 0);
    assert_eq!(losses.on_packet(at(0), 2), Arrival::Newest { missing: 1 });
    assert_eq!(losses.on_packet(at(0), 4 + max), Arrival::Leap);
    assert!(losses.is_empty());
    assert_eq!(losses.on_packet(at(0), 5 + 2 * max), Arrival::Newest { missing: max });
    assert_eq!(losses.on_packet(at(0), 8 + 2 * max), Arrival::Newest { missing: 2 });
    let all = asked(&mut losses, at(10));
    assert_eq!(all.len(), NACK_OUTSTANDING_MAX);
    assert_eq!((all[0], *all.last().unwrap()), ((7 + max) as u16, (7 + 2 * max) as u16));
    assert_eq!(losses.given_up(), 1 + 2);
}

#[test]
fn what_does_not_fit_one_request_goes_into_the_next() {
    let mut losses = Losses::new();
    losses.on_packet(at(0), 0);
    losses.on_packet(at(0), 10);
    let mut out = [0; 4];
    let mut all: Vec<u16> = Vec::new();
    for _ in 0..3 {
        let count = losses.poll(at(10), &mut out);
        all.extend(&out[..count]);
    }
    assert_eq!(all, (1..10).collect::<Vec<u16>>());
}

/// Random loss, reordering and copies: asked for are exactly packets that have not come, and every one that is
/// missing for long enough is.
#[test]
fn only_the_missing_are_asked_for_and_all_of_them() {
    let mut rng = Rng::new(5);
    for _ in 0..50 {
        let mut losses = Losses::new();
        let base = 60_000 + rng.below(10_000);
        let mut flying: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut came = BTreeSet::new();
        let mut first_asked: BTreeMap<u16, u64> = BTreeMap::new();
        let mut lost = BTreeSet::new();
        for ms in 0..600u64 {
            let index = base + ms;
            if ms > 0 && rng.below(20) == 0 {
                lost.insert(index);
            } else {
                flying.insert((ms + u64::from(ms > 0) * rng.below(2) * rng.below(40), index), index);
            }
            while let Some(entry) = flying.first_entry().filter(|entry| entry.key().0 <= ms) {
                let index = entry.remove();
                let new = came.insert(index);
                assert!(new);
                losses.on_packet(at(ms), index);
            }
            for sequence in asked(&mut losses, at(ms)) {
                let index = nearest(base + ms, sequence).unwrap();
                assert!(!came.contains(&index), "{index} came");
                first_asked.entry(sequence).or_insert(ms);
            }
        }
        for index in lost.iter().filter(|index| **index < base + 500 && **index > *came.first().unwrap()) {
            assert!(first_asked.contains_key(&(*index as u16)), "{index} was never asked for");
        }
    }
}

#[test]
fn a_retransmission_is_unwrapped_and_a_probe_is_nothing() {
    assert_eq!(unwrap_retransmission(&[0x12, 0x34, 7, 8]), Some((0x1234, &[7, 8][..])));
    for empty in [&[][..], &[1], &[1, 2]] {
        assert_eq!(unwrap_retransmission(empty), None);
    }
    assert_eq!(nearest(0x1_0000, 0xFFFF), Some(0xFFFF));
    assert_eq!(nearest(0xFFFF, 0x0001), Some(0x1_0001));
    assert_eq!(nearest(0, 0xFFFF), None);
    assert_eq!(nearest(u64::MAX, 0), None);
}
