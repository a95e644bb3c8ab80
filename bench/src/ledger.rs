//! What one viewer was due and what it got. Pure: whoever reads the socket tells it of each packet.
//!
//! Two books are kept. One by sequence numbers, which stand in clear headers and are all that cheap sinks see: it finds
//! holes, so that they can be asked for. One by the numbers the publisher wrote into its stamps, which only witnesses read:
//! a server that renumbers around a hole, or jumps ahead without leaving one, cannot hide there what it lost. Where stamps
//! are read they decide what was due.

use crate::sequence::{Arrival, Sequence};
use crate::source::Stamp;
use spillway_proto::wire::rtcp::ReportBlock;
use std::collections::BTreeMap;
use std::time::Duration;

/// A hole is asked for when it is so old in packets, then again.
const NACK_PATIENCE: u64 = 3;
pub const NACK_INTERVAL: Duration = Duration::from_millis(40);
const NACKS_MAX: u8 = 4;
/// Numbers one request names.
const NACK_NUMBERS_MAX: usize = 64;
/// Sources of one viewer: audio, video, and those after a server began anew. Beyond it they are not counted.
const SOURCES_MAX: usize = 16;

pub struct Ledger {
    video_pt: u8,
    /// One of so many packets counts as lost by the network; 0: none.
    drop_each: u64,
    /// When the first packet came, in UNIX nanoseconds: what was published before is a replay, of which a server gives
    /// as much as it likes.
    began_ns: u64,
    sources: Vec<Source>,
    /// By the publisher's own numbers: audio, video.
    published: [Sequence; 2],
    /// Packets that came in the stream for what is resent, and those of them that the network did not lose.
    resent_arrivals: u64,
    resent: u64,
    has_picture: bool,
    /// Numbers passed over since `take_passed`.
    passed: u64,
}

/// One source as it arrives.
struct Source {
    payload_type: u8,
    ssrc: u32,
    sequence: Sequence,
    /// Its packets carry stamps of this run.
    is_stamped: bool,
    arrivals: u64,
    recovered: u64,
    /// Asked for: when last, and how often.
    asked: BTreeMap<u64, (Duration, u8)>,
    /// What came of the first frame, or of the newest keyframe, until it is whole.
    opening: BTreeMap<u64, Opening>,
    /// What comes from before it is of no interest any more.
    opening_from: u64,
    newest_at: Option<Duration>,
}

/// A packet of a frame that may become the first picture.
#[derive(Clone, Copy, Debug)]
struct Opening {
    marker: bool,
    of_keyframe: bool,
}

/// What the ledger needs of a packet's header.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub payload_type: u8,
    pub ssrc: u32,
    pub sequence: u16,
    pub marker: bool,
    /// It is of a keyframe: no header says so, it is known of packets that were opened.
    pub of_keyframe: bool,
}

/// What a packet showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    Nothing,
    /// Something before it has not come.
    Hole,
    /// The first frame is whole, or a keyframe after it.
    FirstFrame,
}

/// What it comes to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sums {
    pub due: u64,
    pub received: u64,
    /// Of those that a request brought back.
    pub recovered: u64,
    pub duplicates: u64,
    /// Packets that came in the stream for what is resent.
    pub resent: u64,
}

impl Ledger {
    pub fn new(video_pt: u8, drop_each: u64) -> Ledger {
        let published = [Sequence::new(), Sequence::new()];
        Ledger { video_pt, drop_each, began_ns: 0, sources: Vec::new(), published, resent_arrivals: 0, resent: 0, has_picture: false, passed: 0 }
    }

    /// The first packet is there.
    pub fn begin(&mut self, unix_ns: u64) {
        self.began_ns = unix_ns;
    }

    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    fn source(&mut self, payload_type: u8, ssrc: u32) -> Option<&mut Source> {
        if let Some(place) = self.sources.iter().position(|source| source.ssrc == ssrc) {
            return self.sources.get_mut(place);
        }
        if self.sources.len() == SOURCES_MAX {
            return None;
        }
        // Each begins elsewhere in the round: else every source would end before its last loss.
        let arrivals = (u64::from(ssrc) * 7_919).checked_rem(self.drop_each).unwrap_or_default();
        self.sources.push(Source { payload_type, ssrc, arrivals, ..Source::new() });
        self.sources.last_mut()
    }

    /// Whether this packet is one of those the network is said to have lost: nobody has seen it, and a hole is found by
    /// what comes behind it.
    pub fn throws_away(&mut self, entry: &Entry, is_resent: bool) -> bool {
        let each = self.drop_each;
        if each == 0 {
            return false;
        }
        if is_resent {
            self.resent_arrivals += 1;
            return self.resent_arrivals % each == 0;
        }
        let Some(source) = self.source(entry.payload_type, entry.ssrc) else { return false };
        source.arrivals += 1;
        source.arrivals % each == 0
    }

    /// A packet, with its stamp where one was read.
    pub fn take(&mut self, now: Duration, entry: &Entry, stamp: Option<&Stamp>) -> Heard {
        // Two tracks of numbers, and not one per source: a server that begins a new source goes on in them.
        let live = stamp.filter(|stamp| stamp.sent_ns >= self.began_ns);
        let published = live.map(|stamp| self.published[stamp.kind as usize].arrive_at(stamp.number).1);
        let (video_pt, has_picture) = (self.video_pt, self.has_picture);
        let Some(source) = self.source(entry.payload_type, entry.ssrc) else { return Heard::Nothing };
        source.is_stamped |= stamp.is_some();
        let was_due = if stamp.is_some() { published == Some(Arrival::Late) } else { true };
        let (extended, arrival) = source.sequence.arrive(entry.sequence);
        match arrival {
            Arrival::Late => {
                source.recovered += u64::from(source.asked.remove(&extended).is_some() && was_due);
            }
            Arrival::Ahead(_) => source.newest_at = Some(now),
            Arrival::Duplicate | Arrival::Strange => {}
        }
        let passed = if let Arrival::Ahead(passed) = arrival { passed } else { 0 };
        let heard = if passed > 0 { Heard::Hole } else { Heard::Nothing };
        let mut whole = false;
        if !has_picture && source.payload_type == video_pt && arrival != Arrival::Strange {
            whole = source.open(extended, Opening { marker: entry.marker, of_keyframe: entry.of_keyframe });
            if whole {
                source.opening.clear();
            }
        }
        self.passed += passed;
        self.has_picture |= whole;
        if whole { Heard::FirstFrame } else { heard }
    }

    /// The video packet of this number came again, in the stream for that (RFC 4588), which `entry` names.
    pub fn take_resent(&mut self, now: Duration, original: u16, entry: &Entry, stamp: Option<&Stamp>) -> Heard {
        let video_pt = self.video_pt;
        let source = self.sources.iter().rev().find(|source| source.payload_type == video_pt);
        // Nothing of video has come: whatever this is, nobody asked for it.
        let Some(ssrc) = source.map(|source| source.ssrc) else { return Heard::Nothing };
        self.resent += 1;
        self.take(now, &Entry { payload_type: video_pt, ssrc, sequence: original, ..*entry }, stamp)
    }

    /// There is no picture yet and its frame has a hole. If nothing fills it, the first picture is the next whole keyframe, and
    /// to know one its packets have to be opened.
    pub fn seeks_keyframe(&self) -> bool {
        !self.has_picture && self.sources.iter().any(Source::has_broken_frame)
    }

    /// The numbers passed over since this was asked last, whatever has come of them.
    pub fn take_passed(&mut self) -> u64 {
        std::mem::take(&mut self.passed)
    }

    /// An answer to a request is still to come.
    pub fn is_waiting(&self) -> bool {
        self.sources.iter().any(|source| !source.asked.is_empty())
    }

    /// Something is still to be asked for.
    pub fn has_requests(&self) -> bool {
        self.sources.iter().any(|source| source.asked.values().any(|(_, times)| *times < NACKS_MAX))
    }

    /// For a receiver report: at most so many.
    pub fn blocks(&self, most: usize) -> Vec<ReportBlock> {
        self.sources.iter().take(most).map(Source::block).collect()
    }

    /// The numbers whose time to be asked for has come, by SSRC.
    pub fn wanted(&mut self, now: Duration) -> impl Iterator<Item = (u32, Vec<u16>)> + '_ {
        self.sources.iter_mut().map(move |source| (source.ssrc, source.wanted(now)))
    }

    /// When the newest packet came.
    pub fn newest_at(&self) -> Option<Duration> {
        self.sources.iter().filter_map(|source| source.newest_at).max()
    }

    pub fn sums(&self) -> Sums {
        let mut sums = Sums { resent: self.resent, ..Sums::default() };
        let numbered = self.sources.iter().filter(|source| !source.is_stamped).map(|source| &source.sequence);
        for sequence in numbered.chain(&self.published) {
            sums.due += sequence.due();
            sums.received += sequence.received();
        }
        for source in &self.sources {
            sums.recovered += source.recovered;
            sums.duplicates += source.sequence.duplicates();
        }
        sums
    }
}

impl Source {
    fn new() -> Source {
        Source {
            payload_type: 0,
            ssrc: 0,
            sequence: Sequence::new(),
            is_stamped: false,
            arrivals: 0,
            recovered: 0,
            asked: BTreeMap::new(),
            opening: BTreeMap::new(),
            opening_from: 0,
            newest_at: None,
        }
    }

    /// One more packet before there is a picture. Whether there is one now.
    fn open(&mut self, at: u64, packet: Opening) -> bool {
        if at < self.opening_from {
            return false;
        }
        self.opening.insert(at, packet);
        // Where a keyframe begins it begins anew: what is missing before is not needed for this one. That it begins is seen
        // with its first packet or, if they come in another order, with the last one of the frame before.
        for begin in [at, at + 1] {
            let is_behind_a_frame = self.opening.get(&(begin - 1)).is_some_and(|before| before.marker);
            if is_behind_a_frame && self.opening.get(&begin).is_some_and(|first| first.of_keyframe) {
                self.opening = self.opening.split_off(&begin);
                self.opening_from = begin;
            }
        }
        self.has_whole_frame()
    }

    /// A frame is there when nothing is missing from the first packet to a marker.
    fn has_whole_frame(&self) -> bool {
        let mut next = self.opening.keys().next().copied().unwrap_or_default();
        for (at, packet) in &self.opening {
            if *at != next {
                return false;
            }
            if packet.marker {
                return true;
            }
            next += 1;
        }
        false
    }

    fn has_broken_frame(&self) -> bool {
        let (first, last) = (self.opening.first_key_value(), self.opening.last_key_value());
        first.zip(last).is_some_and(|((first, _), (last, _))| last - first >= self.opening.len() as u64)
    }

    fn block(&self) -> ReportBlock {
        let lost = self.sequence.due().saturating_sub(self.sequence.received());
        ReportBlock {
            ssrc: self.ssrc,
            cumulative_lost: lost.min(0x7F_FFFF) as i32,
            sequence_max: self.sequence.highest() as u32,
            ..Default::default()
        }
    }

    fn wanted(&mut self, now: Duration) -> Vec<u16> {
        let missing: Vec<u64> = self.sequence.missing(1_024, NACK_PATIENCE).take(NACK_NUMBERS_MAX).collect();
        // What came, and what is too old to matter, is forgotten; what was asked for often enough is not asked for again.
        self.asked.retain(|number, _| missing.contains(number));
        let mut wanted = Vec::new();
        for number in missing {
            let entry = self.asked.entry(number).or_insert((Duration::ZERO, 0));
            let is_due = entry.1 == 0 || now.saturating_sub(entry.0) >= NACK_INTERVAL;
            if entry.1 < NACKS_MAX && is_due {
                *entry = (now, entry.1 + 1);
                wanted.push(number as u16);
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::StampKind;

    const VIDEO_PT: u8 = 96;
    const AUDIO_PT: u8 = 111;
    /// In the stream for what is resent.
    const RESENT: Entry = Entry { payload_type: 97, ssrc: 70, sequence: 1, marker: false, of_keyframe: false };

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn video(sequence: u16) -> Entry {
        Entry { payload_type: VIDEO_PT, ssrc: 7, sequence, marker: false, of_keyframe: false }
    }

    fn stamp(number: u64) -> Stamp {
        Stamp { kind: StampKind::Video, keyframe: false, of_keyframe: false, run: 1, number, sent_ns: 0 }
    }

    fn sums(due: u64, received: u64, recovered: u64, duplicates: u64) -> Sums {
        Sums { due, received, recovered, duplicates, resent: 0 }
    }

    fn take_all(ledger: &mut Ledger, numbers: &[u16]) {
        for number in numbers {
            ledger.take(at(0), &video(*number), None);
        }
    }

    /// A server that loses what it likes and gives what is left a row of numbers without a hole.
    fn renumbered(ledger: &mut Ledger, lost: impl Fn(u64) -> bool, reads_stamps: bool) {
        let mut sequence = 65_000_u16;
        for number in (1_000..2_000).filter(|number| !lost(*number)) {
            ledger.take(at(0), &video(sequence), reads_stamps.then(|| stamp(number)).as_ref());
            sequence = sequence.wrapping_add(1);
        }
    }

    #[test]
    fn a_server_that_renumbers_around_a_hole_hides_nothing_from_a_witness() {
        let lost = |number: u64| number % 10 == 5 || (1_500..1_600).contains(&number);
        let (mut cheap, mut witness) = (Ledger::new(VIDEO_PT, 0), Ledger::new(VIDEO_PT, 0));
        renumbered(&mut cheap, lost, false);
        renumbered(&mut witness, lost, true);
        assert_eq!(cheap.sums(), sums(810, 810, 0, 0), "by its numbers nothing is missing");
        assert_eq!(witness.sums(), sums(1_000, 810, 0, 0));
    }

    #[test]
    fn a_server_that_begins_a_new_source_loses_what_it_leaves_out() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        for number in 0..100 {
            ledger.take(at(0), &video(number as u16), Some(&stamp(number)));
        }
        for number in 150..200 {
            ledger.take(at(0), &Entry { ssrc: 8, ..video(number as u16) }, Some(&stamp(number)));
        }
        assert_eq!(ledger.sums(), sums(200, 150, 0, 0));
    }

    #[test]
    fn a_replay_is_not_due_and_what_is_asked_for_of_it_is_no_recovery() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        ledger.begin(1_000);
        let sent = |number: u64| Some(Stamp { sent_ns: 100 * number, ..stamp(number) });
        // Five of a replay, the third of which is missing at first; then live, from another number on.
        for number in [1, 2, 4, 5, 20, 21, 23] {
            ledger.take(at(0), &video(number as u16), sent(number).as_ref());
        }
        ledger.wanted(at(1)).for_each(drop);
        ledger.take(at(2), &video(3), sent(3).as_ref());
        assert_eq!(ledger.sums(), sums(4, 3, 0, 0));
    }

    #[test]
    fn audio_and_video_have_numbers_of_their_own_and_other_streams_count_by_sequence() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        for number in 0..50 {
            ledger.take(at(0), &video(number), Some(&stamp(u64::from(number))));
            let audio = Entry { payload_type: AUDIO_PT, ssrc: 9, marker: true, ..video(number) };
            ledger.take(at(0), &audio, Some(&Stamp { kind: StampKind::Audio, ..stamp(u64::from(number) + 7_000) }));
        }
        assert_eq!(ledger.sums(), sums(100, 100, 0, 0));
        for sequence in [4, 5, 9] {
            ledger.take(at(0), &Entry { payload_type: AUDIO_PT, ssrc: 10, marker: true, ..video(sequence) }, None);
        }
        assert_eq!(ledger.sums(), sums(106, 103, 0, 0));
    }

    #[test]
    fn what_was_asked_for_and_comes_is_recovered_whichever_way_it_comes() {
        for by_rtx in [false, true] {
            for stamped in [false, true] {
                let mut ledger = Ledger::new(VIDEO_PT, 0);
                let of = |number: u16| stamped.then(|| stamp(u64::from(number)));
                for number in (10..20).filter(|number| *number != 12) {
                    let heard = ledger.take(at(0), &video(number), of(number).as_ref());
                    assert_eq!(heard == Heard::Hole, number == 13);
                }
                assert_eq!(ledger.sums(), sums(10, 9, 0, 0));
                assert_eq!(ledger.wanted(at(1)).collect::<Vec<_>>(), [(7, vec![12])]);
                assert!(ledger.is_waiting() && ledger.has_requests());
                if by_rtx {
                    ledger.take_resent(at(2), 12, &RESENT, of(12).as_ref());
                } else {
                    ledger.take(at(2), &video(12), of(12).as_ref());
                }
                let resent = u64::from(by_rtx);
                assert_eq!(ledger.sums(), Sums { resent, ..sums(10, 10, 1, 0) }, "rtx {by_rtx}, stamps {stamped}");
                assert!(!ledger.is_waiting());
                ledger.take_resent(at(3), 12, &RESENT, of(12).as_ref());
                assert_eq!(ledger.sums(), Sums { resent: resent + 1, ..sums(10, 10, 1, 1) }, "a second copy is one too many");
            }
        }
    }

    #[test]
    fn what_is_only_late_was_not_recovered() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        take_all(&mut ledger, &[1, 2, 4, 3, 5]);
        assert_eq!(ledger.sums(), sums(5, 5, 0, 0));
    }

    #[test]
    fn a_hole_is_asked_for_four_times_and_not_more_often_than_answers_can_come() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        take_all(&mut ledger, &[1, 2, 4]);
        let mut asks = |now| ledger.wanted(at(now)).map(|(_, numbers)| numbers.len()).sum::<usize>();
        assert_eq!(asks(0), 0, "3 may be behind 4 on the way");
        take_all(&mut ledger, &[5, 6, 7]);
        let mut asks = |now| ledger.wanted(at(now)).map(|(_, numbers)| numbers.len()).sum::<usize>();
        let asked: Vec<u64> = (0..400).filter(|now| asks(*now) > 0).collect();
        assert_eq!(asked, [0, 40, 80, 120]);
        assert!(!ledger.has_requests() && ledger.is_waiting());
        assert_eq!(ledger.sums(), sums(7, 6, 0, 0));
        // A thousand packets later nobody waits for it any more.
        (8..2_000).for_each(|number| take_all(&mut ledger, &[number]));
        ledger.wanted(at(500)).for_each(drop);
        assert!(!ledger.is_waiting());
    }

    #[test]
    fn exactly_one_of_so_many_is_thrown_away_of_each_source_and_of_what_is_resent() {
        let mut ledger = Ledger::new(VIDEO_PT, 100);
        for ssrc in [7, 8] {
            let thrown = (0..10_000).filter(|number| ledger.throws_away(&Entry { ssrc, ..video(*number as u16) }, false)).count();
            assert_eq!(thrown, 100);
        }
        assert_eq!((0..10_000).filter(|_| ledger.throws_away(&video(0), true)).count(), 100);
        // Sources that are short lose theirs as well, some early and some late.
        let first = |ssrc| {
            let mut ledger = Ledger::new(VIDEO_PT, 100);
            (0..100).position(|number| ledger.throws_away(&Entry { ssrc, ..video(number) }, false)).unwrap()
        };
        assert!((0..50).map(first).min() < Some(10) && (0..50).map(first).max() > Some(90));
        assert!(!(0..1_000).any(|_| Ledger::new(VIDEO_PT, 0).throws_away(&video(0), false)));
    }

    #[test]
    fn the_first_frame_is_the_first_without_a_hole() {
        let of = |packets: &[(u16, bool)]| {
            let mut ledger = Ledger::new(VIDEO_PT, 0);
            let heard = |(number, marker): &(u16, bool)| ledger.take(at(0), &Entry { marker: *marker, ..video(*number) }, None);
            packets.iter().map(heard).position(|heard| heard == Heard::FirstFrame)
        };
        assert_eq!(of(&[(1, false), (2, false), (3, true), (4, true)]), Some(2));
        assert_eq!(of(&[(1, false), (3, true), (2, false)]), Some(2), "the hole was filled");
        assert_eq!(of(&[(1, false), (3, true), (4, true)]), None);
        assert_eq!(of(&[(1, true), (2, true)]), Some(0), "and there is but one first frame");
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        let heard = |number| ledger.take(at(0), &Entry { marker: true, ..video(number) }, None);
        assert_eq!((0..50).map(heard).filter(|heard| *heard == Heard::FirstFrame).count(), 1);
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        let sound = Entry { payload_type: AUDIO_PT, ssrc: 9, marker: true, ..video(1) };
        assert_eq!(ledger.take(at(0), &sound, None), Heard::Nothing, "sound is no picture");
    }

    /// A keyframe of four packets, two frames of three, and again, from number 1 on.
    fn of_a_stream(number: u16) -> Entry {
        let place = (number - 1) % 10;
        Entry { marker: matches!(place, 3 | 6 | 9), of_keyframe: place < 4, ..video(number) }
    }

    #[test]
    fn behind_a_hole_that_stays_the_first_picture_is_the_next_whole_keyframe() {
        let of = |numbers: &[u16], is_opened: bool| {
            let mut ledger = Ledger::new(VIDEO_PT, 0);
            let heard = |number: &u16| {
                let entry = Entry { of_keyframe: is_opened && ledger.seeks_keyframe() && of_a_stream(*number).of_keyframe, ..of_a_stream(*number) };
                ledger.take(at(0), &entry, None)
            };
            numbers.iter().map(heard).position(|heard| heard == Heard::FirstFrame).map(|place| numbers[place])
        };
        let without = |lost: &[u16]| (1..60).filter(|number| !lost.contains(number)).collect::<Vec<u16>>();
        assert_eq!(of(&without(&[]), true), Some(4));
        for lost in [2, 3, 4] {
            assert_eq!(of(&without(&[lost]), true), Some(14), "{lost}: neither a frame that hangs on it nor never");
            assert_eq!(of(&without(&[lost]), false), None, "{lost}: a header does not say what is a keyframe");
        }
        // The next one has a hole as well: at its end, in its middle, where it begins, and just before.
        for lost in [14, 12, 11, 10] {
            assert_eq!(of(&without(&[2, lost]), true), Some(24), "{lost}");
        }
        // What comes in another order, and too late.
        assert_eq!(of(&[1, 3, 4, 5, 6, 7, 8, 9, 11, 12, 10, 13, 14, 15], true), Some(14));
        assert_eq!(of(&[1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2, 14, 13, 15], true), Some(13));
        // Filled in time it is the first frame, by a resend as well.
        assert_eq!(of(&[1, 3, 4, 5, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14], true), Some(2));
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        for number in [1, 2, 3, 5, 6] {
            assert!(ledger.take(at(0), &of_a_stream(number), None) != Heard::FirstFrame);
        }
        assert_eq!(ledger.take_resent(at(0), 4, &Entry { marker: true, ..RESENT }, None), Heard::FirstFrame);
    }

    #[test]
    fn only_who_has_a_hole_and_no_picture_opens_packets_for_a_keyframe_and_keeps_no_more_than_those_of_one() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        ledger.take(at(0), &Entry { payload_type: AUDIO_PT, ssrc: 9, ..video(1) }, None);
        ledger.take(at(0), &Entry { payload_type: AUDIO_PT, ssrc: 9, ..video(3) }, None);
        ledger.take(at(0), &of_a_stream(1), None);
        ledger.take(at(0), &of_a_stream(2), None);
        assert!(!ledger.seeks_keyframe(), "a hole in sound is none");
        ledger.take(at(0), &of_a_stream(4), None);
        assert!(ledger.seeks_keyframe());
        // Nobody's keyframe is whole for long.
        for number in (5..2_001).filter(|number| number % 10 != 3) {
            ledger.take(at(0), &of_a_stream(number), None);
            assert!(ledger.seeks_keyframe() || number % 10 < 3, "{number}");
            assert!(ledger.sources[1].opening.len() <= 10);
        }
        for number in 2_001..2_005 {
            ledger.take(at(0), &of_a_stream(number), None);
        }
        assert!(ledger.has_picture && !ledger.seeks_keyframe());
        ledger.take(at(0), &of_a_stream(2_009), None);
        assert!(!ledger.seeks_keyframe() && ledger.sources[1].opening.is_empty());
        // A server that begins a new source, of which the first picture is.
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        for entry in [of_a_stream(1), of_a_stream(3)] {
            ledger.take(at(0), &entry, None);
        }
        assert!(ledger.seeks_keyframe());
        assert_eq!(ledger.take(at(0), &Entry { ssrc: 8, ..of_a_stream(4) }, None), Heard::FirstFrame);
        assert!(!ledger.seeks_keyframe());
    }

    #[test]
    fn a_report_says_what_is_missing_and_sources_without_end_are_not_kept() {
        let mut ledger = Ledger::new(VIDEO_PT, 0);
        take_all(&mut ledger, &[1, 2, 5]);
        let block = ledger.blocks(4)[0];
        assert_eq!((block.ssrc, block.cumulative_lost, block.sequence_max), (7, 2, 65_536 + 5));
        assert_eq!((ledger.take_passed(), ledger.take_passed()), (2, 0), "each hole is told once");
        for ssrc in 0..1_000 {
            ledger.take(at(9), &Entry { ssrc, ..video(1) }, None);
        }
        assert_eq!((ledger.sources.len(), ledger.blocks(4).len()), (SOURCES_MAX, 4));
        assert_eq!(ledger.newest_at(), Some(at(9)));
    }
}
