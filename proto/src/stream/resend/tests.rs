//! Goal: what a viewer asks for again is found, answered a few times at most, and within its share.
//! Method: against a map from index to answers; a viewer that asks for everything all the time.

use super::*;
use crate::rng::Rng;
use std::collections::HashMap;

fn at(ms: u64) -> Time {
    Time::from_millis(5_000 + ms)
}

#[test]
fn a_sequence_number_means_the_newest_packet_that_was_sent_with_it() {
    assert_eq!(index_before(0, 5), None, "nothing was sent");
    assert_eq!(index_before(6, 5), Some(5));
    assert_eq!(index_before(5, 5), None, "not sent yet, and no rollover before it");
    assert_eq!(index_before(0x1_0005, 5), Some(5), "not sent yet: the one of a turn ago");
    assert_eq!(index_before(0x1_0006, 5), Some(0x1_0005));
    assert_eq!(index_before(0x1_0006, 0xFFFF), Some(0xFFFF));
}

/// Whoever loses nothing, or asks for what was never sent or is long gone, costs no window.
#[test]
fn memory_is_taken_by_the_first_packet_that_can_be_answered() {
    let mut resends = Resends::new(Kind::Video);
    assert_eq!(resends.ask(at(0), 0, 7, 2), Ask::Unknown);
    assert_eq!(resends.ask(at(0), 5_000, 7, 2), Ask::Unknown);
    assert_eq!((resends.next(0), resends.is_waiting(), resends.packets.len()), (None, false, 0));
    assert_eq!(resends.ask(at(1), 5_000, 4_999, 2), Ask::Waits);
    assert_eq!((resends.next(0), resends.packets.len()), (Some(4_999), RESEND_WINDOW_VIDEO));
}

#[test]
fn answers_are_apart_and_no_more_than_so_many() {
    for (most, expected) in [(ANSWERS_PER_PACKET_MAX, &[0, 10][..]), (ANSWERS_WITH_CREDIT_MAX, &[0, 10, 20])] {
        let mut resends = Resends::new(Kind::Video);
        let mut answered = Vec::new();
        for ms in 0..100 {
            let ask = resends.ask(at(ms), 1_000, 7, most);
            if let Some(index) = resends.next(0) {
                assert_eq!((ask, index), (Ask::Waits, 7));
                resends.answered(index, at(ms));
                answered.push(ms);
            } else {
                assert_eq!(ask, Ask::TooOften);
            }
        }
        assert_eq!(answered, expected);
        // Far behind: another packet stands in its place.
        assert_eq!(resends.ask(at(100), 1_032, 7, most), Ask::Unknown);
        assert_eq!(resends.ask(at(100), 1_032, 1_031, most), Ask::Waits);
    }
}

/// Who loses 5 % earns more than it spends; who asks for everything never has what it began with again.
#[test]
fn a_third_answer_is_for_who_asks_for_little() {
    let (mut lossy, mut greedy) = (Budget::default(), Budget::default());
    assert_eq!(lossy.answers_max(), ANSWERS_PER_PACKET_MAX, "nothing is earned yet");
    for packet in 0..1_000 {
        let now = at(4 * packet);
        for budget in [&mut lossy, &mut greedy] {
            budget.earn(1_200);
        }
        if packet % 19 == 18 {
            lossy.spend(now, 1_200);
        }
        if greedy.covers(1_200) {
            greedy.spend(now, 1_200);
        }
        assert_eq!(lossy.answers_max(), ANSWERS_WITH_CREDIT_MAX, "packet {packet}");
        assert_eq!(greedy.answers_max(), ANSWERS_PER_PACKET_MAX, "packet {packet}");
    }
}

/// Random asks, answers and refusals while packets go on being sent: the table says what a map says.
#[test]
fn agrees_with_a_map() {
    let mut rng = Rng::new(9);
    for kind in [Kind::Video, Kind::Audio] {
        let mut resends = Resends::new(kind);
        let window = u64::from(resends.window);
        let mut model: HashMap<u64, (u8, u64, bool)> = HashMap::new();
        let mut sent = 65_000 + rng.below(100);
        for ms in 0..20_000u64 {
            sent += rng.below(8);
            for _ in 0..rng.below(4) {
                let index = (sent + 3).saturating_sub(rng.below(window + 20));
                let known = index < sent && sent - index <= window;
                let most = 2 + rng.below(2) as u8;
                let entry = model.entry(index).or_insert((0, 0, false));
                let expected = match *entry {
                    _ if !known => Ask::Unknown,
                    (_, _, true) => Ask::Waits,
                    (answers, at, _) if answers >= most || (answers > 0 && ms < at + 10) => Ask::TooOften,
                    _ => Ask::Waits,
                };
                assert_eq!(resends.ask(at(ms), sent, index as u16, most), expected, "{index} of {sent}");
                entry.2 |= expected == Ask::Waits;
            }
            // What left the window waits no more once the table has moved.
            let end = resends.end;
            model.retain(|index, _| end.saturating_sub(window) <= *index);
            let mut from = 0;
            while let Some(index) = resends.next(from).filter(|_| rng.below(3) > 0) {
                let entry = model.get_mut(&index).unwrap();
                assert!(entry.2);
                entry.2 = false;
                if rng.below(4) > 0 {
                    resends.answered(index, at(ms));
                    (entry.0, entry.1) = (entry.0 + 1, ms);
                } else {
                    resends.forget(index);
                }
                from = if rng.below(2) == 0 { index + 1 } else { 0 };
            }
            assert_eq!(resends.waiting, model.values().filter(|entry| entry.2).count());
            assert_eq!(resends.is_waiting(), resends.next(0).is_some());
        }
    }
}

#[test]
fn answers_cost_at_most_their_share_and_a_little_at_the_start() {
    let mut budget = Budget::default();
    let (mut media, mut answers) = (0u64, 0u64);
    for ms in 0..60_000 {
        // 2.4 Mbit/s, and a viewer that asks for every packet ten times.
        budget.earn(300);
        media += 300;
        for _ in 0..10 {
            if budget.covers(1_000) && at(ms) >= budget.due() {
                budget.spend(at(ms), 1_000);
                answers += 1_000;
            }
        }
    }
    assert!(answers <= media * RTX_PERCENT_MAX / 100 + RTX_BYTES_START, "{answers} of {media}");
    assert!(answers + 2_000 > media * RTX_PERCENT_MAX / 100, "and what is due is given");
    // A quiet hour earns no more than one burst.
    for _ in 0..100_000 {
        budget.earn(1_000);
    }
    assert!(!budget.covers(RTX_BURST_BYTES_MAX as usize + 1));
    assert!(budget.covers(RTX_BURST_BYTES_MAX as usize));
}

#[test]
fn a_burst_of_answers_is_paced() {
    let mut budget = Budget::default();
    budget.earn(10_000_000);
    let (mut now, mut sent) = (at(0), 0);
    while now < at(100) && sent < 1_000_000 {
        while now >= budget.due() && sent < 1_000_000 {
            budget.spend(now, 1_000);
            sent += 1_000;
        }
        now = budget.due();
    }
    assert!((210_000..=212_000).contains(&sent), "16 Mbit/s for 100 ms and 10 kB ahead: {sent}");
}

#[test]
fn so_many_numbers_are_looked_at_and_no_more() {
    let mut budget = Budget::default();
    let looked = |budget: &mut Budget, ms: u64| (0..5_000).filter(|_| budget.look(at(ms))).count();
    assert_eq!(looked(&mut budget, 0), NACK_LOOKS_MAX);
    assert_eq!(looked(&mut budget, 9), 0);
    assert_eq!(looked(&mut budget, 10), NACK_LOOKS_MAX);
}
