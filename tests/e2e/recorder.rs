//! Goal: a recorder's files hold what was in the reel, whatever happens to it: told to stop, killed at any moment,
//! stopped for seconds, a full disk, another publisher. They are finished once.
//! Method: the built binary as the supervisor starts it, on a reel that a publisher of the test's own writes in real
//! time. What it wrote is counted by ffprobe and read back by `spillway_proto::mux::finish`.

use spillway::adapters::journal::{Event, GapReason, JOURNAL_NAME, Line, Segment, lines};
use spillway_proto::id::StreamId;
use spillway_proto::link::tap::{Fsync, TAP_VARIABLE, Tap};
use spillway_proto::mux::finish::{Contents, inspect};
use spillway_proto::time::Time;
use spillway_tests::kernel::{self, kill_9};
use spillway_tests::node::{Machine, binary};
use spillway_tests::reel::{ReelPublisher, TestReel, inheritable, now};
use spillway_tests::wait::{seconds, until};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const ID: &str = "rec_01jd0000000000000000000000";
/// Bytes behind what is whole: more than a run here writes.
const HALF_WRITTEN: usize = 8 << 20;
const STREAM: StreamId = StreamId::new(3, 9);

/// A directory of its own, gone with the test.
struct Desk {
    path: PathBuf,
    is_mounted: bool,
    /// What the recorder is told of whose reels are ours.
    stream: Option<u64>,
    /// `ulimit -f`, in bytes.
    file_max: Option<u64>,
}

impl Desk {
    fn new() -> Desk {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("spillway-recorder-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Desk { path, is_mounted: false, stream: Some(STREAM.to_bits()), file_max: None }
    }

    /// On a file system of its own with so many bytes.
    fn of_bytes(bytes: u64) -> Desk {
        let mut desk = Desk::new();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(&desk.path);
        assert!(mount.status().unwrap().success(), "mounting needs root, as other tests here do");
        desk.is_mounted = true;
        desk
    }

    fn run(&self, mode: &str, reel: Option<&TestReel>, since: Time) -> Recorder {
        let (recorder, mut ready) = self.begin(mode, reel, since);
        let mut word = [0; 6];
        ready.read_exact(&mut word).expect("it says that it is ready");
        assert_eq!(&word, b"ready\n");
        recorder
    }

    fn begin(&self, mode: &str, reel: Option<&TestReel>, since: Time) -> (Recorder, std::io::PipeReader) {
        let (ready, theirs) = std::io::pipe().unwrap();
        let (theirs, directory) = (inheritable(&theirs), inheritable(&File::open(&self.path).unwrap()));
        let reel = reel.map(|reel| inheritable(&reel.read_only()));
        let tap = Tap {
            ready: theirs.as_raw_fd(),
            directory: directory.as_raw_fd(),
            reel: reel.as_ref().map(AsRawFd::as_raw_fd),
            recording: ID.into(),
            stream: self.stream,
            since,
            fsync: Fsync::Fragment,
            file_bytes_max: 0,
            file_seconds_max: 0,
        };
        let mut command = match self.file_max {
            None => Command::new(binary()),
            Some(_) => Command::new("prlimit"),
        };
        if let Some(most) = self.file_max {
            command.arg(format!("--fsize={most}")).arg(binary());
        }
        command.args(["adapter", "recorder", mode]).env(TAP_VARIABLE, tap.to_text()).stdin(Stdio::null());
        // What it has to say nobody takes: that is no reason to end.
        command.stderr(File::options().write(true).open("/dev/full").unwrap());
        kernel::end_with_us(&mut command);
        let process = command.spawn().unwrap();
        // The copies that it inherited are its own now.
        drop((theirs, directory, reel));
        (Recorder(process), ready)
    }

    fn finish(&self) -> Vec<Segment> {
        assert_eq!(self.run("finish", None, Time::ZERO).end(), Some(0));
        self.segments()
    }

    fn journal(&self) -> Vec<Line> {
        lines(&fs::read(self.path.join(JOURNAL_NAME)).unwrap_or_default()).0
    }

    fn segments(&self) -> Vec<Segment> {
        let segments = self.journal().into_iter().filter_map(|line| match line.event {
            Event::Segment(segment) => Some(segment),
            _ => None,
        });
        segments.collect()
    }

    /// Where, how long (milliseconds), why.
    fn gaps(&self) -> Vec<(u64, u64, GapReason)> {
        let gaps = self.journal().into_iter().filter_map(|line| match line.event {
            Event::Gap { at_ms, length_ms, reason, .. } => Some((at_ms, length_ms, reason)),
            _ => None,
        });
        gaps.collect()
    }

    fn contents(&self, name: &str) -> Option<Contents> {
        inspect(&mut fs::read(self.path.join(name)).ok()?.as_slice()).ok()
    }

    /// Waits until so many milliseconds stand in the file.
    fn wait_for(&self, name: &str, ms: u64) {
        until("the file grows", seconds(30), || match self.contents(name) {
            Some(contents) if contents.end_ns / 1_000_000 >= ms => Ok(()),
            other => Err(format!("{:?} ms; {:?}", other.map(|contents| contents.end_ns / 1_000_000), self.journal())),
        });
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

struct Recorder(Child);

impl Recorder {
    fn pid(&self) -> u32 {
        self.0.id()
    }
    fn stop(self) {
        kernel::signal(self.pid(), libc::SIGTERM);
        assert_eq!(self.end(), Some(0));
    }
    fn kill(mut self) {
        kill_9(self.pid());
        self.0.wait().unwrap();
    }
    fn end(mut self) -> Option<i32> {
        until("the recorder ends", seconds(20), || self.0.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())).code()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pictures that can be decoded, and the length in milliseconds, by ffprobe; it says nothing of damage.
fn probe(path: &Path) -> (u64, u64) {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-count_frames", "-select_streams", "v:0"]);
    command.args(["-show_entries", "stream=nb_read_frames:format=duration", "-of", "default=noprint_wrappers=1:nokey=1"]);
    let output = command.arg(path).output().expect("ffprobe");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{}: {said}", path.display());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = text.lines().map(|line| line.parse::<f64>().expect("a number"));
    (numbers.next().expect("frames") as u64, (numbers.next().expect("a length") * 1_000.0) as u64)
}

#[test]
fn all_that_was_in_the_reel_stands_in_the_file_and_is_finished_once() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 3_000);
    let (pictures, _) = publisher.end();
    recorder.stop();
    let contents = desk.contents("0001.mp4").unwrap();
    assert_eq!(contents.video_frames, pictures, "all of them; {:?}", desk.journal());
    assert!(!contents.is_final);
    let segments = desk.finish();
    let path = desk.path.join("0001.mp4");
    assert!(desk.contents("0001.mp4").unwrap().is_final);
    let (frames, length_ms) = probe(&path);
    assert_eq!((frames, segments[0].frames), (pictures, pictures));
    assert!(length_ms.abs_diff(pictures * 1_000 / 30) <= 60, "{length_ms} ms of {pictures} pictures");
    assert_eq!((segments.len(), segments[0].bytes), (1, fs::metadata(&path).unwrap().len()));
    let sum = Command::new("sha256sum").arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&sum.stdout).starts_with(&segments[0].sha256));
    assert_eq!(desk.gaps(), []);
    // Once more does nothing.
    let (journal, file) = (desk.journal(), fs::read(&path).unwrap());
    assert!(matches!(journal.last().unwrap().event, Event::Stopped { files: 1, .. }));
    desk.finish();
    assert!(desk.journal() == journal && fs::read(&path).unwrap() == file);
}

#[test]
fn killed_at_any_moment_it_goes_on_in_the_same_file() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let mut written = 0;
    for round in 0..6 {
        let recorder = desk.run("record", Some(&reel), publisher.since);
        // Somewhere in the next fragment, or just when it is written.
        desk.wait_for("0001.mp4", written + 1);
        let at = now() + Duration::from_millis(round * 137);
        until("a moment", seconds(5), || if now() >= at { Ok(()) } else { Err(String::new()) });
        recorder.kill();
        written = desk.contents("0001.mp4").unwrap().end_ns / 1_000_000;
    }
    // What a loss of power may leave behind the last fragment and line: longer than all that is written from here on.
    for name in ["0001.mp4", JOURNAL_NAME] {
        let mut file = File::options().append(true).open(desk.path.join(name)).unwrap();
        file.write_all(&vec![0xA5; HALF_WRITTEN]).unwrap();
    }
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", written + 1_000);
    // Already while it grows: who downloads it now gets nothing else.
    for name in ["0001.mp4", JOURNAL_NAME] {
        let bytes = fs::metadata(desk.path.join(name)).unwrap().len();
        assert!(bytes < HALF_WRITTEN as u64, "{name} has {bytes} bytes: what was half written stands in it");
    }
    let length_ms = now().since(publisher.since).as_millis() as u64;
    let (pictures, _) = publisher.end();
    recorder.stop();
    let segments = desk.finish();
    assert_eq!(segments.len(), 1, "{:?}", desk.journal());
    let (frames, probed_ms) = probe(&desk.path.join("0001.mp4"));
    assert_eq!(frames, segments[0].frames);
    // The reel has the last second and the newest keyframe, so that little is missing.
    assert!(frames <= pictures && frames + 6 * 45 >= pictures, "{frames} of {pictures}");
    assert!(probed_ms.abs_diff(length_ms) <= 250, "{probed_ms} ms in the file, {length_ms} ms passed");
    let resumed = desk.journal().iter().filter(|line| matches!(line.event, Event::Resumed { .. })).count();
    // Killed between the first fragment and its line, the next run writes that line instead.
    assert!(resumed == 6 || resumed == 5, "{resumed}");
}

#[test]
fn stopped_for_seconds_it_jumps_to_the_newest_keyframe_and_marks_the_gap() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 1_500);
    let stopped_at = publisher.wishes.pictures.load(Ordering::SeqCst);
    kernel::signal(recorder.pid(), libc::SIGSTOP);
    until("five seconds of pictures", seconds(20), || match publisher.wishes.pictures.load(Ordering::SeqCst) {
        sent if sent >= stopped_at + 150 => Ok(()),
        sent => Err(format!("{sent}")),
    });
    kernel::signal(recorder.pid(), libc::SIGCONT);
    desk.wait_for("0001.mp4", 7_500);
    let (pictures, _) = publisher.end();
    recorder.stop();
    let gaps = desk.gaps();
    let [(at, length, GapReason::Behind)] = gaps[..] else { panic!("{gaps:?}") };
    assert!((1_000..4_000).contains(&at) && (3_000..6_000).contains(&length), "{gaps:?}");
    desk.finish();
    let (frames, _) = probe(&desk.path.join("0001.mp4"));
    let missing = length * 30 / 1_000;
    assert!(pictures.abs_diff(frames + missing) <= 3, "{frames} of {pictures}, a gap of {length} ms");
}

#[test]
fn a_full_disk_costs_a_gap_and_says_so_and_it_goes_on_when_there_is_room() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::of_bytes(2 << 20), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 1_500);
    // All that is left goes to somebody else.
    let ballast = desk.path.join("ballast");
    let mut file = File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4_096]).is_ok() {}
    until("it says that the disk is full", seconds(20), || {
        let has = |line: &Line| matches!(&line.event, Event::Failed { code, .. } if code == "disk_full");
        if desk.journal().iter().any(has) { Ok(()) } else { Err(format!("{:?}", desk.journal())) }
    });
    let full = desk.contents("0001.mp4").unwrap();
    assert!(full.fragments >= 1, "what was there stays playable");
    drop(file);
    fs::remove_file(&ballast).unwrap();
    let end = full.end_ns / 1_000_000;
    desk.wait_for("0001.mp4", end + 2_000);
    let (pictures, _) = publisher.end();
    recorder.stop();
    let failed = desk.journal().iter().filter(|line| matches!(line.event, Event::Failed { .. })).count();
    assert_eq!(failed, 1, "once");
    desk.finish();
    // The queue held what the disk did not take.
    assert_eq!(probe(&desk.path.join("0001.mp4")).0, pictures, "{:?}", desk.gaps());
}

#[test]
fn another_publisher_with_another_codec_begins_the_next_file() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 1_500);
    publisher.wishes.take_over.store(true, Ordering::SeqCst);
    desk.wait_for("0002.mp4", 1_500);
    let (pictures, _) = publisher.end();
    recorder.stop();
    let segments = desk.finish();
    assert_eq!(segments.len(), 2, "{:?}", desk.journal());
    let frames: u64 = segments.iter().map(|segment| probe(&desk.path.join(&segment.file)).0).sum();
    assert_eq!(frames, pictures);
    let has_file = |line: &Line| matches!(&line.event, Event::File { codecs, .. } if codecs[0] == "AV1");
    assert!(desk.journal().iter().any(has_file));
}

#[test]
fn a_publisher_that_comes_back_goes_on_in_the_same_file_after_a_gap() {
    let _machine = Machine::shared();
    let (mut desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let since = publisher.since;
    let recorder = desk.run("record", Some(&reel), since);
    desk.wait_for("0001.mp4", 1_500);
    let (first, _) = publisher.end();
    recorder.stop();
    let gone = now();
    until("it is away", seconds(10), || if now().since(gone) > seconds(3) { Ok(()) } else { Err(String::new()) });
    // Another stream of the same room, in another reel.
    let reel = TestReel::new();
    let again = StreamId::new(5, 1);
    desk.stream = Some(again.to_bits());
    let publisher = ReelPublisher::begin(&reel, again, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 6_000);
    let length_ms = now().since(since).as_millis() as u64;
    let (second, _) = publisher.end();
    recorder.stop();
    let gaps = desk.gaps();
    let [(at, length, GapReason::PublisherAway)] = gaps[..] else { panic!("{gaps:?}") };
    assert!(at.abs_diff(first * 1_000 / 30) < 200 && (2_800..3_600).contains(&length), "{gaps:?}");
    desk.finish();
    let (frames, probed_ms) = probe(&desk.path.join("0001.mp4"));
    assert_eq!(frames, first + second);
    assert!(probed_ms.abs_diff(length_ms) < 300, "{probed_ms} {length_ms}");
}

#[test]
fn a_file_that_may_not_grow_is_followed_by_the_next() {
    let _machine = Machine::shared();
    let (mut desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    // How much three seconds are.
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 3_000);
    recorder.stop();
    let most = fs::metadata(desk.path.join("0001.mp4")).unwrap().len();
    // One that has no room for an index is final as it is.
    desk.file_max = Some(most);
    let segments = desk.finish();
    assert!(segments.len() == 1 && segments[0].bytes == most && !desk.contents("0001.mp4").unwrap().is_final, "{segments:?}");
    assert_eq!(probe(&desk.path.join("0001.mp4")).0, segments[0].frames);
    desk = Desk::new();
    desk.file_max = Some(most);
    let since = now();
    let recorder = desk.run("record", Some(&reel), since);
    desk.wait_for("0003.mp4", 1_000);
    let all_ms = now().since(since).as_millis() as u64;
    publisher.end();
    recorder.stop();
    let segments = desk.finish();
    assert!(segments.len() >= 3, "{:?}", desk.journal());
    let failed = desk.journal().into_iter().filter(|line| matches!(line.event, Event::Failed { .. })).count();
    assert_eq!(failed, 0, "{:?}", desk.journal());
    let (mut shown_ms, missing_ms) = (0, desk.gaps().iter().map(|(_, length, _)| length).sum::<u64>());
    for segment in &segments {
        assert!(segment.bytes <= most, "{} of {most}", segment.bytes);
        let (frames, _) = probe(&desk.path.join(&segment.file));
        assert_eq!(frames, segment.frames);
        shown_ms += frames * 1_000 / 30;
    }
    // It begins at the next keyframe.
    assert!((shown_ms + missing_ms).abs_diff(all_ms) < 2_500, "{shown_ms} + {missing_ms} of {all_ms}; {:?}", desk.journal());
    // One that not even a second fits in: it says so, once.
    let reel = TestReel::new();
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let mut desk = Desk::new();
    desk.file_max = Some(10_000);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    until("it says that no file takes it", seconds(20), || {
        let has = |line: &Line| matches!(&line.event, Event::Failed { code, .. } if code == "file_limit");
        if desk.journal().iter().any(has) { Ok(()) } else { Err(format!("{:?}", desk.journal())) }
    });
    recorder.stop();
    desk.finish();
    assert!(matches!(desk.journal().last().unwrap().event, Event::Stopped { files: 0, .. }));
}

#[test]
fn sound_alone_is_a_recording_too() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, false);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 2_500);
    let (_, sounds) = publisher.end();
    recorder.stop();
    let segments = desk.finish();
    assert!(segments[0].frames.abs_diff(sounds) <= 2, "{} of {sounds}", segments[0].frames);
}

/// What it has open is what it was given and its files; what it may do is no more than it needs.
#[test]
fn a_recorder_is_confined() {
    let _machine = Machine::shared();
    let (desk, reel) = (Desk::new(), TestReel::new());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    let recorder = desk.run("record", Some(&reel), publisher.since);
    desk.wait_for("0001.mp4", 500);
    let status = fs::read_to_string(format!("/proc/{}/status", recorder.pid())).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let open = fs::read_dir(format!("/proc/{}/fd", recorder.pid())).expect("root, as other tests here need");
    let open: Vec<PathBuf> = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(open.iter().all(|path| !path.to_string_lossy().starts_with("socket:")), "{open:?}");
    let writable = fs::read_to_string(format!("/proc/{}/maps", recorder.pid())).unwrap();
    let reel_line = writable.lines().find(|line| line.contains("test-reel")).expect("it maps the reel");
    assert!(reel_line.contains(" r--s "), "{reel_line}");
    recorder.stop();
    // A link where a file should be is not followed, and nothing is written elsewhere.
    let desk = Desk::new();
    let outside = Desk::new();
    std::os::unix::fs::symlink(outside.path.join("victim"), desk.path.join("0001.mp4")).unwrap();
    let mut recorder = desk.begin("record", Some(&reel), publisher.since).0;
    let code = until("it refuses", seconds(20), || recorder.0.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())).code();
    assert_eq!(code, Some(1));
    assert_eq!(fs::read_dir(&outside.path).unwrap().count(), 0);
}

/// A file is used again by streams of other rooms: what stood there before is not recorded, nor what comes after.
#[test]
fn nothing_of_another_stream_is_recorded() {
    let _machine = Machine::shared();
    // Told which stream, whatever stands in its file; and told since when alone.
    nothing_of_another(Some(STREAM.to_bits()), || Time::ZERO);
    nothing_of_another(None, now);
}

fn nothing_of_another(stream: Option<u64>, since: fn() -> Time) {
    let (mut desk, reel) = (Desk::new(), TestReel::new());
    desk.stream = stream;
    let before = ReelPublisher::begin(&reel, StreamId::new(3, 8), true);
    until("something is there", seconds(10), || match before.wishes.pictures.load(Ordering::SeqCst) {
        0..20 => Err(String::new()),
        _ => Ok(()),
    });
    // It stops without a word, as a publisher of an engine that was killed.
    drop(before);
    let recorder = desk.run("record", Some(&reel), since());
    let publisher = ReelPublisher::begin(&reel, STREAM, true);
    desk.wait_for("0001.mp4", 1_500);
    let (pictures, _) = publisher.end();
    let after = ReelPublisher::begin(&reel, StreamId::new(3, 10), true);
    until("the other one has sent for a while", seconds(10), || match after.wishes.pictures.load(Ordering::SeqCst) {
        0..60 => Err(String::new()),
        _ => Ok(()),
    });
    recorder.stop();
    let frames = desk.contents("0001.mp4").unwrap().video_frames;
    // The last one may have stood there for less than a look.
    assert!(frames == pictures || frames + 1 == pictures, "{frames} of {pictures}");
}
