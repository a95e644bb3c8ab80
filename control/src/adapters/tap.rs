//! A tap: one stream's reels, read into a recording. Read-only; it copies packets out and trusts nothing it reads.
//!
//! A stream's file is used again by later streams, of other rooms. What arrived before `since` is not ours, and reels
//! that say another stream than ours are never read (if we were told none, the first that has something since then says it).

use super::sys::ReelFile;
use spillway_proto::id::Kind;
use spillway_proto::limits::TRACKS_PER_STREAM_MAX;
use spillway_proto::mux::recording::Recording;
use spillway_proto::stream::feedback::SrMapping;
use spillway_proto::stream::tap::ReelTap;
use spillway_proto::time::Time;

pub struct Tap {
    file: ReelFile,
    since: Time,
    stream: Option<u64>,
    places: [Option<Place>; TRACKS_PER_STREAM_MAX],
    /// Sound begins where the picture does when the recording begins in the middle of a stream.
    begin: Option<Time>,
    payload: Vec<u8>,
}

struct Place {
    kind: Kind,
    reel: ReelTap,
    /// The next index to read, and the next of the late list.
    cursor: u64,
    late: u64,
    epoch: u32,
    report: Option<SrMapping>,
}

impl Tap {
    pub fn new(file: ReelFile, stream: Option<u64>, since: Time) -> Tap {
        Tap { file, since, stream, places: Default::default(), begin: None, payload: Vec::new() }
    }

    /// All that came since the last time, into the recording.
    pub fn read(&mut self, recording: &mut Recording, now: Time) {
        self.look_for_tracks(recording);
        let Tap { places, payload, .. } = self;
        for place in places.iter_mut() {
            let Some(found) = place else { continue };
            found.read(recording, payload, now);
            if !found.reel.is_open() {
                *place = None;
            }
        }
    }

    fn look_for_tracks(&mut self, recording: &mut Recording) {
        // Pictures first: sound begins where they do.
        for kind in [Kind::Video, Kind::Audio] {
            for number in 0..TRACKS_PER_STREAM_MAX {
                // Of several layers the first one is recorded.
                if self.places.iter().flatten().any(|place| place.kind == kind) {
                    break;
                }
                let free = self.places.get(number).is_some_and(Option::is_none);
                if let Some(place) = free.then(|| self.attach(number, kind, recording)).flatten() {
                    self.places[number] = Some(place);
                }
            }
        }
    }

    fn attach(&mut self, number: usize, kind: Kind, recording: &mut Recording) -> Option<Place> {
        let reel = self.file.tap(number).ok()?;
        let stream = reel.stream();
        if !reel.is_open() || reel.codec()?.kind() != kind || self.stream.is_some_and(|ours| ours != stream) {
            return None;
        }
        let (head, tail, late) = (reel.head(), reel.tail(), reel.late_count());
        let since = |at: Time| (tail..head).find(|index| reel.meta(*index).is_some_and(|meta| meta.arrival >= at));
        let first = since(self.since)?;
        // Nothing was dropped yet: it begins where its publisher does. Later, at the newest keyframe.
        let is_whole = tail == 0;
        let from = match (kind, self.begin) {
            (Kind::Video, _) if !is_whole => {
                let keyframe = reel.keyframe().filter(|keyframe| *keyframe >= first);
                self.begin = keyframe.and_then(|keyframe| reel.meta(keyframe)).map(|meta| meta.arrival);
                keyframe.unwrap_or(first)
            }
            (Kind::Audio, Some(begin)) => since(begin).unwrap_or(head),
            _ => first,
        };
        let (epoch, _) = reel.epoch();
        self.stream = Some(stream);
        recording.add_track(kind, first, from, epoch);
        // The late list tells of packets that stand below the cursor; those before now are read in their places.
        Some(Place { kind, reel, cursor: first, late, epoch, report: None })
    }
}

impl Place {
    fn read(&mut self, recording: &mut Recording, payload: &mut Vec<u8>, now: Time) {
        let head = self.reel.head();
        let (epoch, from) = self.reel.epoch();
        if epoch != self.epoch {
            self.epoch = epoch;
            recording.on_epoch(self.kind, from, epoch);
        }
        let report = self.reel.sr();
        if let Some(report) = report.filter(|_| report != self.report && self.reel.epoch().0 == epoch) {
            self.report = Some(report);
            recording.on_report(self.kind, epoch, &report);
        }
        let tail = self.reel.tail();
        if self.cursor < tail {
            let keyframe = self.reel.keyframe().filter(|_| self.kind == Kind::Video);
            self.cursor = keyframe.unwrap_or(tail).max(tail);
            recording.on_behind(self.kind, self.cursor, now);
        }
        for index in self.cursor..head {
            if let Some(meta) = self.reel.copy(index, payload) {
                recording.on_packet(self.kind, &meta, payload);
            }
        }
        self.cursor = self.cursor.max(head);
        let late = self.reel.late_count();
        // Of more than it holds the oldest are gone.
        for number in self.late.max(late.saturating_sub(256))..late {
            let Some(index) = self.reel.late(number).filter(|index| *index < self.cursor) else { continue };
            if let Some(meta) = self.reel.copy(index, payload) {
                recording.on_packet(self.kind, &meta, payload);
            }
        }
        self.late = late;
    }
}
