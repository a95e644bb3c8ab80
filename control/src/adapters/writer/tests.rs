//! Goal: a disk that is slow, full or broken costs a bounded piece of the recording, says so, and what stands in the
//! file is whole at every moment.
//! Method: a disk in memory that does what the test wants, behind the writer's seam; the file is read back by
//! `spillway_proto::mux::finish`.

use super::*;
use crate::adapters::journal::{Line, tests::scratch};
use spillway_proto::id::Codec;
use spillway_proto::mux::finish::{Contents, inspect};

const SECOND: u64 = 1_000_000_000;

#[derive(Default)]
struct Wishes {
    files: Vec<(String, Vec<u8>)>,
    /// Writes wait.
    holds: bool,
    /// What the next writes answer, after half of the bytes.
    error: Option<i32>,
    /// The same of the next syncs.
    sync_error: Option<i32>,
    /// No file may become larger.
    file_max: Option<usize>,
    syncs: usize,
    attempts: usize,
}

#[derive(Clone, Default)]
struct FakeDisk(Arc<(Mutex<Wishes>, Condvar)>);

impl FakeDisk {
    fn set(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }
    fn get<T>(&self, look: impl FnOnce(&Wishes) -> T) -> T {
        look(&self.0.0.lock().unwrap())
    }
    /// Waits until it is so.
    fn until(&self, what: &str, mut is_so: impl FnMut(&Wishes) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.get(&mut is_so) {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    fn contents(&self, place: usize) -> Contents {
        let bytes = self.get(|wishes| wishes.files[place].1.clone());
        let contents = inspect(&mut bytes.as_slice()).unwrap();
        assert_eq!(contents.whole_length, bytes.len() as u64, "nothing half written stays");
        contents
    }
}

impl Disk for FakeDisk {
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.set(|wishes| wishes.files.push((name.to_owned(), Vec::new())));
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let held = self.0.0.lock().unwrap();
        let mut wishes = self.0.1.wait_while(held, |wishes| wishes.holds).unwrap();
        wishes.attempts += 1;
        let (error, file_max) = (wishes.error, wishes.file_max);
        let file = &mut wishes.files.last_mut().unwrap().1;
        assert_eq!(file.len() as u64, offset, "right behind what is whole");
        match error {
            None if file_max.is_some_and(|most| file.len() + bytes.len() > most) => {
                let room = file_max.unwrap_or(0) - file.len();
                file.extend_from_slice(&bytes[..room]);
                return Err(io::Error::from_raw_os_error(libc::EFBIG));
            }
            None => file.extend_from_slice(bytes),
            Some(number) => {
                file.extend_from_slice(&bytes[..bytes.len() / 2]);
                return Err(io::Error::from_raw_os_error(number));
            }
        }
        Ok(())
    }
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set(|wishes| wishes.files.last_mut().unwrap().1.truncate(length as usize));
        Ok(())
    }
    fn sync(&mut self, _: bool) -> io::Result<()> {
        let mut wishes = self.0.0.lock().unwrap();
        wishes.syncs += 1;
        wishes.sync_error.map_or(Ok(()), |number| Err(io::Error::from_raw_os_error(number)))
    }
}

/// A second of pictures (the first of every fourth piece is a keyframe) and sound.
fn piece(number: u64, bytes: usize) -> Piece {
    let start_ns = number * SECOND;
    let sample = |kind, place: u64, each_ns: u64, keyframe| {
        let length = if kind == Kind::Video { bytes / 10 } else { 40 };
        let mut data = vec![0x30; length];
        data[0] = if kind == Kind::Video { 0x30 } else { 0xFC };
        Sample { kind, time_ns: start_ns + place * each_ns, keyframe, data }
    };
    let pictures = (0..10).map(|place| sample(Kind::Video, place, SECOND / 10, place == 0 && number % 4 == 0));
    let sounds = (0..50).map(|place| sample(Kind::Audio, place, SECOND / 50, true));
    let video = TrackFormat { codec: Codec::Vp8, width: 64, height: 64, private: Vec::new() };
    let audio = TrackFormat { codec: Codec::Opus, width: 0, height: 0, private: vec![0, 2, 0, 0, 0, 0, 0xBB, 0x80, 0, 0, 0] };
    let begins = (number == 0).then(|| vec![video, audio]);
    let samples = pictures.chain(sounds).collect();
    Piece { begins, samples, start_ns, until_ns: start_ns + SECOND, gap_ns: None, start_at_ns: start_ns as i64 }
}

fn begin(disk: &FakeDisk, fsync: Fsync) -> (Writer, std::fs::File) {
    let file = scratch();
    let (journal, _) = Journal::open(file.try_clone().unwrap()).unwrap();
    let settings = Settings { fsync, files: 0, has_started: false, end_ns: None, unix_offset_ns: 0 };
    (Writer::start(disk.clone(), journal, None, settings).unwrap(), file)
}

fn lines(journal: std::fs::File) -> Vec<Event> {
    Journal::open(journal).unwrap().1.into_iter().map(|line: Line| line.event).collect()
}

#[test]
fn pieces_are_fragments_each_durable_by_policy() {
    for (fsync, syncs) in [(Fsync::Fragment, 6), (Fsync::Segment, 2), (Fsync::None, 0)] {
        let disk = FakeDisk::default();
        let (writer, journal) = begin(&disk, fsync);
        (0..6).for_each(|number| writer.push(piece(number, 5_000)));
        writer.close();
        assert_eq!(disk.get(|wishes| wishes.syncs), syncs, "{fsync:?}");
        let contents = disk.contents(0);
        assert_eq!((contents.fragments, contents.video_frames, contents.end_ns / SECOND), (6, 60, 6));
        let started = Event::Started { codecs: vec!["VP8".into(), "opus".into()], file: "0001.webm".into() };
        assert_eq!(lines(journal), [started]);
    }
}

#[test]
fn a_disk_that_stands_still_costs_the_oldest_and_a_gap_that_says_so() {
    let disk = FakeDisk::default();
    let (writer, journal) = begin(&disk, Fsync::Fragment);
    writer.push(piece(0, 5_000));
    disk.until("the first piece is written", |wishes| wishes.attempts == 1);
    disk.set(|wishes| wishes.holds = true);
    // 200 MB of pictures: more than it may hold.
    for number in 1..200 {
        writer.push(piece(number, 1_000_000));
        let queue = lock(&writer.shared);
        assert!(queue.bytes <= RECORDER_QUEUE_BYTES_MAX && queue.pieces <= RECORDER_QUEUE_PIECES_MAX);
    }
    assert!(writer.dropped() > 150);
    disk.set(|wishes| wishes.holds = false);
    disk.until("the rest is written", |wishes| wishes.attempts > 30);
    writer.close();
    let contents = disk.contents(0);
    assert_eq!(contents.end_ns / SECOND, 200);
    let gaps: Vec<Event> = lines(journal).into_iter().filter(|event| matches!(event, Event::Gap { .. })).collect();
    let [Event::Gap { at_ms, length_ms, reason: GapReason::DiskFull, .. }] = &gaps[..] else { panic!("{gaps:?}") };
    // The one that was being written came through.
    assert!(*at_ms == 2_000 && (150_000..190_000).contains(length_ms), "{at_ms} {length_ms}");
    // Pictures go on at a keyframe: every fourth piece has one.
    let after = contents.video_frames - 20;
    assert_eq!(after % 40, 0, "{after}");
}

#[test]
fn a_full_disk_is_said_once_and_tried_again_from_the_last_whole_fragment() {
    for (error, code) in [(libc::ENOSPC, "disk_full"), (libc::EDQUOT, "disk_full"), (libc::EIO, "disk_error")] {
        let disk = FakeDisk::default();
        let (writer, journal) = begin(&disk, Fsync::Fragment);
        (0..3).for_each(|number| writer.push(piece(number, 5_000)));
        disk.until("three pieces", |wishes| wishes.attempts == 3);
        disk.set(|wishes| wishes.error = Some(error));
        (3..5).for_each(|number| writer.push(piece(number, 5_000)));
        disk.until("it is tried again", |wishes| wishes.attempts >= 5);
        disk.set(|wishes| wishes.error = None);
        disk.until("the rest", |wishes| wishes.attempts >= 7);
        writer.close();
        // Nothing was lost: the queue held it.
        assert_eq!((disk.contents(0).video_frames, disk.contents(0).fragments), (50, 5));
        let failed: Vec<String> = lines(journal)
            .into_iter()
            .filter_map(|event| match event {
                Event::Failed { code, .. } => Some(code),
                _ => None,
            })
            .collect();
        assert_eq!(failed, [code]);
    }
}

#[test]
fn what_could_not_be_made_durable_is_written_again() {
    let disk = FakeDisk::default();
    let (writer, _) = begin(&disk, Fsync::Fragment);
    disk.set(|wishes| wishes.sync_error = Some(libc::EIO));
    writer.push(piece(0, 5_000));
    disk.until("it is tried again", |wishes| wishes.attempts >= 2);
    disk.set(|wishes| wishes.sync_error = None);
    writer.push(piece(1, 5_000));
    disk.until("the second piece", |wishes| wishes.attempts >= 4);
    writer.close();
    assert_eq!(disk.get(|wishes| wishes.files.len()), 1, "the file that was made is taken again");
    assert_eq!(disk.contents(0).video_frames, 20);
}

#[test]
fn a_disk_that_never_answers_does_not_keep_the_recorder() {
    let disk = FakeDisk::default();
    let (writer, _) = begin(&disk, Fsync::Fragment);
    disk.set(|wishes| wishes.error = Some(libc::ENOSPC));
    writer.push(piece(0, 5_000));
    let begun = Instant::now();
    writer.close();
    assert!(begun.elapsed() < CLOSE_WAIT + 3 * RETRY);
}

#[test]
fn a_file_that_may_not_grow_is_followed_by_another_one() {
    // As large as three pieces and a bit.
    let disk = FakeDisk::default();
    let (writer, _) = begin(&disk, Fsync::None);
    (0..3).for_each(|number| writer.push(piece(number, 5_000)));
    writer.close();
    let most = disk.get(|wishes| wishes.files[0].1.len()) + 100;

    let disk = FakeDisk::default();
    let (writer, journal) = begin(&disk, Fsync::Fragment);
    disk.set(|wishes| wishes.file_max = Some(most));
    (0..12).for_each(|number| writer.push(piece(number, 5_000)));
    writer.close();
    // Every fourth piece has a keyframe: pieces 3, 7 and 11 could begin no file.
    assert_eq!(disk.get(|wishes| wishes.files.len()), 3);
    for place in 0..3 {
        let contents = disk.contents(place);
        assert_eq!((contents.fragments, contents.video_frames, contents.end_ns / SECOND), (3, 30, 3), "{place}");
    }
    let told = lines(journal);
    let files: Vec<&str> = told.iter().filter_map(|event| match event { Event::File { file, .. } => Some(file.as_str()), _ => None }).collect();
    assert_eq!(files, ["0002.webm", "0003.webm"]);
    let gaps: Vec<(u64, u64)> = told.iter().filter_map(|event| match event { Event::Gap { at_ms, length_ms, .. } => Some((*at_ms, *length_ms)), _ => None }).collect();
    assert_eq!(gaps, [(3_000, 1_000), (7_000, 1_000)]);
    assert_eq!(told.iter().filter(|event| matches!(event, Event::WantKeyframe)).count(), 3, "what is missing is asked for");
    assert!(!told.iter().any(|event| matches!(event, Event::Failed { .. })), "{told:?}");
}

#[test]
fn a_bound_that_no_file_can_keep_ends_the_recording_in_words() {
    let disk = FakeDisk::default();
    let (writer, journal) = begin(&disk, Fsync::Fragment);
    disk.set(|wishes| wishes.file_max = Some(3_000));
    (0..8).for_each(|number| writer.push(piece(number, 5_000)));
    let begun = Instant::now();
    writer.close();
    assert!(begun.elapsed() < CLOSE_WAIT, "nothing is tried again");
    assert_eq!(disk.get(|wishes| (wishes.attempts, wishes.files.len())), (1, 1));
    let told = lines(journal);
    let [Event::Failed { code, detail }] = &told[..] else { panic!("{told:?}") };
    assert!(code == FILE_LIMIT && detail.contains("ulimit -f") && detail.contains("ends"), "{detail}");
}
