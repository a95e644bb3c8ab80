//! Intake: numbering over losses, lateness and takeovers; where a picture can be entered; the receiver's account.

use super::*;
use crate::rng::Rng;
use std::collections::BTreeSet;

const NO: PayloadFacts = PayloadFacts::NONE;
const SPS: PayloadFacts = PayloadFacts { parameter_sets: true, ..PayloadFacts::NONE };
const IDR: PayloadFacts = PayloadFacts { keyframe: true, ..PayloadFacts::NONE };

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

/// A track of H.264 and a way to feed it: (source index, timestamp, marker, facts) -> index and entry.
struct Video(Intake, u64);

impl Video {
    fn new() -> Video {
        Video(Intake::new(Codec::H264, 0), 1_000)
    }
    fn packet(&mut self, source: u64, timestamp: u32, marker: bool, facts: PayloadFacts) -> Accepted {
        self.1 += 1;
        self.0.accept(at(self.1), source, timestamp, marker, facts, 100).unwrap()
    }
    fn flags(&mut self, source: u64, timestamp: u32, marker: bool) -> (bool, bool) {
        let flags = self.packet(source, timestamp, marker, NO).meta.flags;
        (flags.contains(SlotFlags::FRAME_START), flags.contains(SlotFlags::FRAME_END))
    }
}

#[test]
fn numbers_follow_the_source_with_its_holes() {
    let mut rng = Rng::new(4);
    for round in 0..50 {
        let mut intake = Intake::new(Codec::H264, 1);
        // Some begin just below a rollover, some at nothing, some at the end of all numbers.
        let start = [0, 65_530, rng.below(1 << 30), (1 << 48) - 70_000][round % 4];
        let mut head = start;
        let mut known = BTreeSet::new();
        for step in 0..20_000u64 {
            let source = match rng.below(50) {
                0 => head + 1 + rng.below(300),
                1 | 2 => head.saturating_sub(rng.below(6_000)).max(start),
                _ => head + 1,
            };
            if source >= 1 << 48 {
                break;
            }
            let result = intake.accept(at(step), source, source as u32, false, NO, 10);
            if step == 0 {
                // Whatever comes first is FIRST_INDEX.
                assert_eq!(result.unwrap().meta.index, FIRST_INDEX);
                (head, known) = (source, BTreeSet::from([source]));
                continue;
            }
            let first = known.first().copied().unwrap_or(0);
            match result {
                Ok(accepted) => {
                    assert!(known.insert(source));
                    assert_eq!(
                        accepted.meta.index.wrapping_sub(FIRST_INDEX),
                        source.wrapping_sub(intake_first(&intake))
                    );
                    assert_eq!((accepted.meta.timestamp, accepted.meta.layer), (source as u32, 1));
                }
                Err(IntakeError::Duplicate) => assert!(known.contains(&source), "{source}"),
                Err(IntakeError::TooLate) => assert!(head - source >= SLOTS || source + FIRST_INDEX < first),
            }
            head = head.max(source);
        }
    }
}

fn intake_first(intake: &Intake) -> u64 {
    FIRST_INDEX.wrapping_sub(intake.index_offset())
}

#[test]
fn a_packet_in_order_may_be_padded_and_a_late_one_not() {
    let mut intake = Intake::new(Codec::Vp8, 0);
    let mut flags = |source, timestamp, marker, size| {
        let accepted = intake.accept(at(source), source, timestamp, marker, NO, size).unwrap();
        accepted.meta.flags.contains(SlotFlags::PADDED)
    };
    assert!(!flags(10, 0, false, 900) && !flags(11, 0, true, 901), "learned here");
    assert!(flags(12, 3_000, false, 700));
    assert!(flags(14, 3_000, false, 700));
    assert!(!flags(13, 3_000, false, 700), "it goes out alone");
    assert!(!flags(15, 3_000, true, 701));
    let mut sound = Intake::new(Codec::Opus, 0);
    for source in 0..20 {
        let accepted = sound.accept(at(source), source, 0, false, NO, 100 + source as usize).unwrap();
        assert!(!accepted.meta.flags.contains(SlotFlags::PADDED));
    }
}

#[test]
fn what_was_sent_before_the_first_arrival_has_a_place() {
    let mut video = Video::new();
    assert_eq!(video.packet(0, 9, false, NO).meta.index, FIRST_INDEX);
    let mut video = Video::new();
    assert_eq!(video.packet(1_000, 9, false, NO).meta.index, FIRST_INDEX);
    assert_eq!(video.packet(999, 9, false, NO).meta.index, FIRST_INDEX - 1);
    assert_eq!(video.packet(1_000 - FIRST_INDEX, 9, false, NO).meta.index, 0);
    let refused = video.0.accept(at(5), 999 - FIRST_INDEX, 9, false, NO, 1);
    assert_eq!(refused, Err(IntakeError::TooLate));
    assert_eq!(video.0.accept(at(5), 999, 9, false, NO, 1), Err(IntakeError::Duplicate));
    assert_eq!((video.0.stats().too_late, video.0.stats().duplicates, video.0.stats().packets), (1, 1, 3));
}

#[test]
fn a_place_of_the_ring_that_is_used_again_is_empty() {
    let mut video = Video::new();
    video.packet(10, 1, true, NO);
    // The same place, a ring later; and a jump of many rings.
    assert!(video.0.accept(at(2), 10 + SLOTS, 2, false, NO, 1).is_ok());
    assert!(video.0.accept(at(2), 9 + SLOTS, 2, false, NO, 1).is_ok(), "late, its place was never taken");
    assert!(video.0.accept(at(3), 10 + 9 * SLOTS, 3, false, NO, 1).is_ok());
    assert!(video.0.accept(at(3), 9 + 9 * SLOTS, 3, false, NO, 1).is_ok());
    assert_eq!(video.0.accept(at(3), 11 + 8 * SLOTS, 3, false, NO, 1).map(|_| ()), Ok(()), "the oldest place");
    assert_eq!(video.0.accept(at(3), 10 + 8 * SLOTS, 3, false, NO, 1), Err(IntakeError::TooLate));
}

#[test]
fn frames_begin_and_end() {
    let mut video = Video::new();
    assert_eq!(video.flags(10, 100, false), (true, false), "the first of all");
    assert_eq!(video.flags(11, 100, false), (false, false));
    assert_eq!(video.flags(12, 100, true), (false, true));
    assert_eq!(video.flags(13, 100, false), (true, false), "after a marker, same timestamp: another frame");
    assert_eq!(video.flags(14, 200, false), (true, false), "a new timestamp without a marker");
    assert_eq!(video.flags(16, 200, true), (false, true), "behind a hole");
    assert_eq!(video.flags(15, 200, false), (false, false), "late, in the middle");
    // 17 ends, 18 is lost, 19 has a new timestamp: nobody knows whether 18 belonged to it.
    // A ring later, the marker in a predecessor's place is another packet's.
    let mut again = Video::new();
    again.flags(20, 1, true);
    again.flags(30 + SLOTS, 2, false);
    assert_eq!(again.flags(21 + SLOTS, 2, false), (false, false));
    assert_eq!(video.flags(17, 300, true), (true, true));
    assert_eq!(video.flags(19, 400, true), (false, true));
    assert_eq!(video.flags(18, 400, false), (true, false), "late, after a marker");
    assert_eq!(video.0.stats().frames, 5);

    // What the payload says of itself counts more, also behind a gap and without a marker.
    let mut told = Video::new();
    let starts = |video: &mut Video, source, frame_start| {
        let facts = PayloadFacts { frame_start: Some(frame_start), ..NO };
        video.packet(source, 500, false, facts).meta.flags.contains(SlotFlags::FRAME_START)
    };
    assert_eq!([(50, true), (60, true), (61, false)].map(|(source, is)| starts(&mut told, source, is)), [true, true, false]);
    told.flags(62, 500, true);
    assert!(!starts(&mut told, 63, false), "a marker that came too early");

    let mut audio = Intake::new(Codec::Opus, 0);
    for source in [5, 6, 9, 7] {
        let flags = audio.accept(at(1), source, source as u32 * 960, source == 5, NO, 80).unwrap().meta.flags;
        assert!(flags.contains(SlotFlags::FRAME_START.with(SlotFlags::FRAME_END)));
        assert_eq!(flags.contains(SlotFlags::MARKER), source == 5);
    }
}

#[test]
fn a_picture_is_entered_at_its_parameter_sets() {
    let mut video = Video::new();
    video.packet(10, 100, true, NO);
    // SPS, PPS, IDR in three packets and more.
    let sps = video.packet(11, 200, false, SPS);
    assert_eq!((sps.entry, sps.entry_is_new), (None, false), "no IDR yet");
    assert!(sps.meta.flags.contains(SlotFlags::PARAMETER_SETS) && !sps.meta.flags.contains(SlotFlags::KEYFRAME));
    assert_eq!(video.packet(12, 200, false, SPS).entry, None);
    let idr = video.packet(13, 200, false, IDR);
    assert_eq!((idr.entry, idr.entry_is_new), (Some(sps.meta.index), true));
    assert_eq!(video.packet(14, 200, true, IDR).entry, None, "the same picture");
    // All in one packet.
    let one = video.packet(15, 300, true, PayloadFacts { keyframe: true, parameter_sets: true, ..PayloadFacts::NONE });
    assert_eq!((one.entry, one.entry_is_new), (Some(one.meta.index), true));
    // An IDR alone; the parameter sets of another picture are not its own.
    video.packet(16, 400, true, SPS);
    let alone = video.packet(17, 500, true, IDR);
    assert_eq!(alone.entry, Some(alone.meta.index));
    assert_eq!(video.0.stats().keyframes, 3);
}

#[test]
fn a_picture_whose_beginning_comes_late_is_entered_there() {
    let mut video = Video::new();
    video.packet(10, 100, true, NO);
    let idr = video.packet(12, 200, false, IDR);
    assert_eq!((idr.entry, idr.entry_is_new), (Some(idr.meta.index), true));
    let sps = video.packet(11, 200, false, SPS);
    assert_eq!((sps.entry, sps.entry_is_new), (Some(idr.meta.index - 1), false), "the same keyframe");
    // An older picture's IDR that comes after a newer one is nobody's entry.
    let newer = video.packet(30, 400, false, IDR);
    assert!(newer.entry_is_new);
    assert_eq!(video.packet(20, 300, false, IDR).entry, None);
    // Parameter sets that wait for their IDR are not forgotten for an older picture's.
    let waiting = video.packet(60, 800, false, SPS);
    let late = video.packet(50, 700, false, IDR);
    assert_eq!(late.entry, Some(late.meta.index));
    assert_eq!(video.packet(55, 750, false, SPS).entry, None);
    assert_eq!(video.packet(61, 800, true, IDR).entry, Some(waiting.meta.index));
    assert_eq!(video.0.stats().keyframes, 4);
}

#[test]
fn the_keyframe_interval_is_measured_by_arrival() {
    let mut video = Video::new();
    video.1 = 10_000;
    video.packet(10, 100, true, IDR);
    assert_eq!(video.0.stats().keyframe_interval_ms, 0);
    video.1 = 12_000;
    video.packet(11, 200, false, IDR);
    video.packet(12, 200, true, IDR);
    assert_eq!((video.0.stats().keyframe_interval_ms, video.0.stats().keyframes), (2_000, 2));
    assert_eq!((video.0.stats().packets, video.0.stats().bytes), (3, 300));
    // Audio has none.
    let mut audio = Intake::new(Codec::Opus, 0);
    assert_eq!(audio.accept(at(1), 5, 5, false, IDR, 80).unwrap().entry, None);
}

#[test]
fn a_takeover_goes_on_without_a_hole_in_number_or_time() {
    let mut video = Video::new();
    let before = video.0.accept(at(1_000), 500, 90_000, true, NO, 10).unwrap().meta;
    video.0.accept(at(1_000), 498, 90_000, false, NO, 10).unwrap();
    assert_eq!((video.0.index_offset().wrapping_add(500), video.0.timestamp_offset()), (before.index, 0));
    video.0.on_sender_report(at(1_000), NtpTime(1), 90_000).unwrap();
    video.0.takeover(Codec::H264);
    assert_eq!(video.0.report_block(at(1_100), 1), None, "a new remote's account");
    assert_eq!(video.0.on_sender_report(at(1_200), NtpTime(5), 7), None, "its timescale is not known yet");
    // 2.5 s later another publisher, with numbers of its own.
    let first = video.0.accept(at(3_500), 60_000, 4_000_000_000, false, SPS, 10).unwrap().meta;
    assert_eq!(first.index, before.index + 1);
    assert_eq!(first.timestamp, 90_000 + 225_000);
    assert!(first.flags.contains(SlotFlags::FRAME_START));
    let idr = video.0.accept(at(3_500), 60_001, 4_000_000_000, false, IDR, 10).unwrap();
    assert_eq!((idr.entry, idr.entry_is_new), (Some(first.index), true));
    assert_eq!(video.0.accept(at(3_533), 60_002, 4_000_003_000, true, NO, 10).unwrap().meta.timestamp, 318_000);
    // A hole the old publisher left is not filled by the new one.
    assert_eq!(video.0.accept(at(3_540), 59_998, 3_999_990_000, true, NO, 10), Err(IntakeError::TooLate));
    let report = video.0.report_block(at(3_600), 9).unwrap();
    assert_eq!((report.sequence_max, report.cumulative_lost), (60_002, 0));
    let mapping = video.0.on_sender_report(at(3_600), NtpTime(6), 4_000_000_000).unwrap();
    assert_eq!(mapping, SrMapping { ntp: NtpTime(6), timestamp: 315_000, arrival: at(3_600) });
    // At once, the same moment: still another picture.
    video.0.takeover(Codec::H264);
    let at_once = video.0.accept(at(3_533), 1, 1, false, SPS, 10).unwrap().meta;
    assert_eq!((at_once.index, at_once.timestamp), (before.index + 4, 318_090));
}

/// A keyframe whose SPS it overtook, or that was lost, is no beginning: who asks for a picture then has the publisher
/// asked, not the reel.
#[test]
fn a_new_publishers_keyframe_without_its_parameter_sets_is_no_beginning() {
    let mut video = Video::new();
    let begins = |accepted: Accepted| accepted.meta.flags.contains(SlotFlags::FRAME_START);
    assert!(!begins(video.packet(501, 7, false, IDR)), "the first publisher's");
    video.0.takeover(Codec::H264);
    let head = video.0.head;
    let idr = video.packet(60_001, 7_000, false, IDR);
    assert!(!begins(idr) && idr.meta.index == head, "without a hole");
    video.0.takeover(Codec::H264);
    assert!(begins(video.packet(900, 7_000, false, SPS)), "in order it is one");
}

#[test]
fn a_report_tells_losses_as_rfc_3550_counts_them() {
    let mut video = Video::new();
    assert_eq!(video.0.report_block(at(0), 1), None);
    // 65,500..65,600 without every fourth.
    for source in (65_500u64..65_600).filter(|source| source % 4 != 3) {
        video.packet(source, 1, false, NO);
    }
    let report = video.0.report_block(at(2_000), 77).unwrap();
    // The last, 65,599, is one of the lost: nobody knows of it yet.
    assert_eq!((report.ssrc, report.sequence_max), (77, 65_598));
    assert_eq!((report.cumulative_lost, report.fraction_lost), (24, (24 * 256 / 99) as u8));
    assert_eq!((report.last_sr, report.delay_since_sr), (0, 0));
    // One comes late: the sum falls, and the interval has no loss.
    video.packet(65_503, 1, false, NO);
    let ntp = NtpTime(0x1111_2222_3333_4444);
    video.0.on_sender_report(at(2_000), ntp, 0);
    let report = video.0.report_block(at(3_500), 77).unwrap();
    assert_eq!((report.cumulative_lost, report.fraction_lost), (23, 0));
    assert_eq!((report.last_sr, report.delay_since_sr), (0x2222_3333, 98_304));
}

#[test]
fn jitter_is_rfc_3550s() {
    // One packet every 20 ms; transit swings by 10 ms: |D| = 480 units at 48 kHz, and J settles at it.
    let mut audio = Intake::new(Codec::Opus, 0);
    for count in 0..400u64 {
        let swing = if count % 2 == 0 { 0 } else { 10 };
        audio.accept(at(1_000 + count * 20 + swing), count, count as u32 * 960, false, NO, 80).unwrap();
    }
    let jitter = audio.report_block(at(0), 1).unwrap().jitter;
    assert!((475..=480).contains(&jitter), "{jitter}");
    // A steady stream has none, and a clock that jumps by ten seconds is no jitter.
    let mut audio = Intake::new(Codec::Opus, 0);
    for count in 0..400u64 {
        let jump = if count < 398 { 0 } else { 480_000 };
        audio.accept(at(1_000 + count * 20), count, count as u32 * 960 + jump, false, NO, 80).unwrap();
    }
    assert_eq!(audio.report_block(at(0), 1).unwrap().jitter, 0);
}

/// What came again in a stream of its own is there for viewers, and lost for the publisher's rate control.
#[test]
fn a_retransmission_heals_and_is_reported_as_lost() {
    let mut intake = Intake::new(Codec::Vp8, 0);
    let take = |intake: &mut Intake, index: u64| intake.accept(at(index), index, 0, false, NO, 10).unwrap();
    for index in [100, 101, 103, 105] {
        take(&mut intake, index);
    }
    assert_eq!(intake.source_newest(), Some(105));
    take(&mut intake, 102);
    assert_eq!(intake.expected_and_lost(), (6, 1), "resent as it was");
    take(&mut intake, 104);
    intake.on_retransmission();
    assert_eq!(intake.expected_and_lost(), (6, 0));
    assert_eq!(intake.report_block(at(200), 1).unwrap().cumulative_lost, 1);
    intake.takeover(Codec::Vp8);
    assert_eq!((intake.source_newest(), intake.expected_and_lost()), (None, (0, 0)));
}

/// A publisher whose parameter sets stand only in its description: each keyframe gets a packet before it, what comes
/// behind moves up, what comes late from before stays where it belongs.
#[test]
fn parameter_sets_of_the_description_go_before_keyframes() {
    let mut video = Video::new();
    video.0.add_sets(true);
    let first = video.packet(10, 100, false, IDR);
    let sets = first.sets.unwrap();
    assert_eq!((sets.index, first.meta.index, first.meta.timestamp), (FIRST_INDEX, FIRST_INDEX + 1, sets.timestamp));
    assert_eq!((first.entry, first.entry_is_new), (Some(FIRST_INDEX), true), "the picture begins with its sets");
    let begins = |meta: &SlotMeta| meta.flags.contains(SlotFlags::FRAME_START);
    assert!(begins(&sets) && !begins(&first.meta));
    assert!(sets.flags.contains(SlotFlags::PARAMETER_SETS) && !sets.flags.contains(SlotFlags::MARKER));
    let second = video.packet(11, 100, true, NO);
    assert_eq!((second.sets, second.meta.index), (None, FIRST_INDEX + 2));
    // 12 comes late, behind the next keyframe.
    let key = video.packet(13, 300, true, IDR);
    assert_eq!((key.sets.unwrap().index, key.meta.index), (FIRST_INDEX + 4, FIRST_INDEX + 5));
    assert_eq!(key.entry, Some(FIRST_INDEX + 4));
    let late = video.packet(12, 200, true, NO);
    assert_eq!((late.sets, late.meta.index), (None, FIRST_INDEX + 3), "its own place, before the sets");
    let sources = [0, 1, 2, 3, 4, 5].map(|place| video.0.source_of(FIRST_INDEX + place));
    assert_eq!(sources, [None, Some(10), Some(11), Some(12), None, Some(13)]);
    assert_eq!(video.0.accept(at(2_000), 13, 300, true, IDR, 100), Err(IntakeError::Duplicate), "and no second sets");
    assert_eq!(video.0.stats().frames, 2, "pictures in sequence, each once");
    assert_eq!((video.0.stats().packets, video.0.expected_and_lost()), (4, (4, 0)), "ours count nowhere");
    // Another publisher: its description had none.
    video.0.takeover(Codec::H264);
    assert_eq!(video.packet(7, 9, true, IDR).sets, None);
}

#[test]
fn a_keyframe_that_comes_late_without_sets_is_no_entry() {
    let mut video = Video::new();
    video.0.add_sets(true);
    video.packet(10, 100, true, NO);
    let behind = video.packet(12, 200, true, NO);
    let late = video.packet(11, 200, false, IDR);
    assert_eq!((late.sets, late.entry), (None, None), "nothing can be put between {} and the rest", behind.meta.index);
    assert_eq!(late.meta.index, FIRST_INDEX + 1);
    assert_eq!(video.packet(13, 300, true, IDR).entry, Some(FIRST_INDEX + 3), "the next one is");
}

#[test]
fn sets_that_come_in_band_end_it() {
    let mut video = Video::new();
    video.0.add_sets(true);
    assert!(video.packet(10, 100, true, IDR).sets.is_some());
    let own = video.packet(11, 200, false, SPS).meta.index;
    let key = video.packet(12, 200, true, IDR);
    assert_eq!((key.sets, key.entry), (None, Some(own)));
    assert_eq!(video.packet(13, 300, true, IDR).sets, None, "the description's may be out of date");
}

/// Any order of arrival within 40 packets: no two packets share a place, and the source's order is the reel's.
#[test]
fn added_sets_keep_the_order_of_the_source() {
    let mut rng = Rng::new(23);
    for _ in 0..50 {
        let mut intake = Intake::new(Codec::H265, 0);
        intake.add_sets(true);
        let mut arrivals: Vec<(u64, u64)> = (0..600).map(|source| (source + rng.below(40), source)).collect();
        arrivals.sort_unstable();
        let (mut places, mut sets_seen) = (BTreeSet::new(), 0);
        let mut of_source = Vec::new();
        for (step, (_, source)) in arrivals.into_iter().enumerate() {
            let facts = if source % 30 == 0 { IDR } else { NO };
            // Packets from before the anchor's reserve may not have a place.
            let Ok(accepted) = intake.accept(at(step as u64), source, source as u32 * 3_000, true, facts, 10) else { continue };
            if let Some(sets) = accepted.sets {
                assert!(places.insert(sets.index) && sets.index + 1 == accepted.meta.index);
                sets_seen += 1;
            }
            assert!(places.insert(accepted.meta.index));
            of_source.push((source, accepted.meta.index));
        }
        of_source.sort_unstable();
        assert!(of_source.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(of_source.len() > 590 && sets_seen > 0, "{} {sets_seen}", of_source.len());
    }
}
