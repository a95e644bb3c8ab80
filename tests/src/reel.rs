//! A stream without an engine: a reel in a memfd, and a publisher that writes a clip into it in real time. For tests of
//! what reads reels in other processes.

use spillway_proto::id::{Codec, Kind, StreamId};
use spillway_proto::limits::SLABS_PER_STREAM_MAX;
use spillway_proto::mux::matroska::Clip;
use spillway_proto::mux::packetize;
use spillway_proto::stream::feedback::SrMapping;
use spillway_proto::stream::reel::{ReelWriter, STREAM_FILE_BYTES, Slabs, SlotFlags, SlotMeta};
use spillway_proto::time::{NtpTime, Time};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// CLOCK_MONOTONIC, as the engine stamps packets.
pub fn now() -> Time {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // JUSTIFICATION: std hides the clock's value.
    // SAFETY: clock_gettime writes one timespec to the pointer it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// A copy of a descriptor that the next child inherits.
pub fn inheritable(descriptor: &impl AsRawFd) -> OwnedFd {
    // JUSTIFICATION: std's descriptors are closed at exec.
    // SAFETY: the descriptor is open; a non-negative result is a new one that nobody else owns.
    unsafe {
        let number = libc::dup(descriptor.as_raw_fd());
        assert!(number >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(number)
    }
}

pub struct TestReel {
    file: File,
    base: *mut u8,
}

// JUSTIFICATION: the publisher's thread writes it.
// SAFETY: only an address; what lies behind it is reached through reels.
unsafe impl Send for TestReel {}
// SAFETY: as above.
unsafe impl Sync for TestReel {}

impl TestReel {
    pub fn new() -> Arc<TestReel> {
        // JUSTIFICATION: std has neither memfds nor mappings.
        // SAFETY: the name is a C string; the descriptor is new; the mapping's address is the kernel's choice, and it is
        // never unmapped.
        unsafe {
            let number = libc::memfd_create(c"test-reel".as_ptr(), libc::MFD_CLOEXEC);
            assert!(number >= 0, "{}", std::io::Error::last_os_error());
            let file = File::from_raw_fd(number);
            file.set_len(STREAM_FILE_BYTES as u64).expect("a sparse file");
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let base = libc::mmap(std::ptr::null_mut(), STREAM_FILE_BYTES, protection, libc::MAP_SHARED, number, 0);
            assert_ne!(base, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
            Arc::new(TestReel { file, base: base.cast() })
        }
    }

    /// To read and no more, as a supervisor gives it.
    pub fn read_only(&self) -> File {
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd() as RawFd)).expect("our own descriptor")
    }

    fn writer(&self, place: usize, codec: Codec, stream: StreamId) -> ReelWriter {
        // JUSTIFICATION: a reel is written in place.
        // SAFETY: the mapping is whole, writable and stays; each test has one publisher at a time.
        let writer = unsafe { ReelWriter::create(self.base, STREAM_FILE_BYTES, place, codec) };
        let mut writer = writer.expect("a reel");
        writer.set_stream(stream);
        writer
    }
}

/// Slabs come back at once: a reader that believed what it copied without looking again would be found out.
struct Pool(Vec<u32>);

impl Slabs for Pool {
    fn take(&mut self) -> Option<u32> {
        self.0.pop()
    }
    fn give_back(&mut self, slab: u32) {
        self.0.push(slab);
    }
}

struct Track {
    reel: ReelWriter,
    codec: Codec,
    index: u64,
    picture: u16,
}

impl Track {
    fn send(&mut self, data: &[u8], keyframe: bool, timestamp: u32, pool: &mut Pool, lose: bool) {
        let mut payloads: Vec<(Vec<u8>, bool)> = Vec::new();
        let emit = |payload: &[u8], last: bool| payloads.push((payload.to_vec(), last));
        self.picture = self.picture.wrapping_add(1) & 0x7FFF;
        match self.codec {
            Codec::Vp9 => packetize::vp9(data, keyframe, self.picture, emit),
            Codec::Av1 => packetize::av1(data, keyframe, emit),
            _ => assert!(packetize::opus(data, emit)),
        }
        let arrival = now();
        for (place, (payload, last)) in payloads.iter().enumerate() {
            let flags = SlotFlags::NONE.with_if(place == 0, SlotFlags::FRAME_START).with_if(*last, SlotFlags::FRAME_END);
            let index = self.index;
            self.index += 1;
            if lose {
                continue;
            }
            let meta = SlotMeta { index, timestamp, arrival, flags, codec: self.codec, layer: 0 };
            self.reel.push(&meta, payload, pool).expect("room in the reel");
            if keyframe && place == 0 {
                self.reel.set_keyframe(index);
            }
        }
        self.reel.trim(arrival, None, pool);
    }
}

#[derive(Default)]
pub struct Wishes {
    stop: AtomicBool,
    /// Nothing is sent.
    pub pause: AtomicBool,
    /// The next picture is lost on the way.
    pub lose: AtomicBool,
    /// Another publisher with AV1.
    pub take_over: AtomicBool,
    pub pictures: AtomicU64,
    pub sounds: AtomicU64,
}

/// 30 pictures a second with a keyframe every half, 50 packets of sound, until it is dropped.
pub struct ReelPublisher {
    pub wishes: Arc<Wishes>,
    thread: Option<JoinHandle<()>>,
    pub since: Time,
}

impl ReelPublisher {
    pub fn begin(reel: &Arc<TestReel>, stream: StreamId, has_video: bool) -> ReelPublisher {
        let wishes = Arc::new(Wishes::default());
        let (theirs, reel, since) = (Arc::clone(&wishes), Arc::clone(reel), now());
        let thread = std::thread::spawn(move || publish(&reel, stream, has_video, &theirs));
        ReelPublisher { wishes, thread: Some(thread), since }
    }

    /// How many pictures and packets of sound it sent, once all is in the reel.
    pub fn end(mut self) -> (u64, u64) {
        self.stop();
        (self.wishes.pictures.load(Ordering::SeqCst), self.wishes.sounds.load(Ordering::SeqCst))
    }

    fn stop(&mut self) {
        self.wishes.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the publisher's thread");
        }
    }
}

impl Drop for ReelPublisher {
    fn drop(&mut self) {
        self.stop();
    }
}

fn publish(reel: &TestReel, stream: StreamId, has_video: bool, wishes: &Wishes) {
    let clips: [&[u8]; 2] = [
        include_bytes!("../../proto/src/wire/payload/fixtures/vp9.webm"),
        include_bytes!("../../proto/src/wire/payload/fixtures/av1.mkv"),
    ];
    let clips = clips.map(|file| Clip::parse(file).expect("a clip"));
    let pictures = |which: usize| clips[which].frames.iter().filter(|frame| frame.track == Kind::Video);
    let mut which = 0;
    let mut pools = [0, 1].map(|half| {
        let most = SLABS_PER_STREAM_MAX as u32 / 2;
        Pool((half * most..(half + 1) * most).collect())
    });
    let track = |place, codec| Track { reel: reel.writer(place, codec, stream), codec, index: 128, picture: 0 };
    let mut video = has_video.then(|| track(0, Codec::Vp9));
    let mut audio = track(1, Codec::Opus);
    let start = now();
    let (mut picture, mut sound, mut reports) = (0u64, 0u64, 0u64);
    while !wishes.stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(2));
        let elapsed = now().since(start).as_nanos() as u64;
        let paused = wishes.pause.load(Ordering::SeqCst);
        if let Some(video) = video.as_mut().filter(|_| wishes.take_over.swap(false, Ordering::SeqCst)) {
            which = 1;
            video.codec = Codec::Av1;
            video.reel.set_publisher_epoch(2);
            // A new publisher begins with a keyframe.
            picture = picture.next_multiple_of(45);
        }
        while has_video && picture * 1_000_000_000 / 30 <= elapsed {
            let frame = pictures(which).nth(picture as usize % 45).expect("45 pictures");
            if let Some(video) = video.as_mut().filter(|_| !paused) {
                let lose = wishes.lose.swap(false, Ordering::SeqCst);
                video.send(&frame.data, frame.keyframe, picture as u32 * 3_000, &mut pools[0], lose);
                wishes.pictures.fetch_add(1, Ordering::SeqCst);
            }
            picture += 1;
        }
        while sound * 20_000_000 <= elapsed {
            if !paused {
                audio.send(&[0xF8, 0xFF, 0xFE], true, sound as u32 * 960, &mut pools[1], false);
                wishes.sounds.fetch_add(1, Ordering::SeqCst);
            }
            sound += 1;
        }
        if elapsed / 1_000_000_000 >= reports {
            reports += 1;
            let ntp = NtpTime(0xE900_0000_0000_0000) + Duration::from_nanos(elapsed);
            let ticks = |rate: u64| (elapsed * rate / 1_000_000_000) as u32;
            let report = |rate| SrMapping { ntp, timestamp: ticks(rate), arrival: now() };
            audio.reel.set_sr(&report(48_000));
            if let Some(video) = &mut video {
                video.reel.set_sr(&report(90_000));
            }
        }
    }
}
