//! One reel for all shards, or a copy of it per shard: ns per packet and viewer of a shard that reads a reel another core
//! writes, sealing straight from it or from a copy of its own that it makes first; and, beside them, from a reel that its own core wrote.
//!
//! A frame of nine packets is pushed into a real reel on the second core; then, on the first, each viewer of the shard is sealed those nine,
//! from one of the three. They take turns, frame by frame; the median of the frames is printed.
//!
//! `cargo bench -p spillway-bench --bench reel`; with `-- --test` a few frames, to see that it runs.

use spillway_bench::{median, sys};
use spillway_proto::id::Codec;
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{Profile, Sealer};
use spillway_proto::stream::reel::{ReelReader, ReelWriter, STREAM_FILE_BYTES, SlotFlags, SlotMeta, Slabs};
use spillway_proto::time::Time;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

const PAYLOAD: usize = 1_188;
const PACKETS: u64 = 9;
/// Transmit memory: as much as 64 sends of a frame touch.
const SENDS: usize = 64;
const SEND: usize = 12 << 10;

/// Where a viewer's packets are sealed from.
#[derive(Clone, Copy)]
enum From {
    /// The reel; another core wrote it.
    Shared,
    /// A copy, made once per frame.
    Copy,
    /// The reel; this core wrote it.
    Own,
}

const ALL: [From; 3] = [From::Shared, From::Copy, From::Own];

struct Pool(VecDeque<u32>);

impl Slabs for Pool {
    fn take(&mut self) -> Option<u32> {
        self.0.pop_front()
    }
    fn give_back(&mut self, slab: u32) {
        self.0.push_back(slab);
    }
}

/// Where a reel lives, for as long as the program.
#[derive(Clone, Copy)]
struct Memory(*mut u8);

// JUSTIFICATION: one thread writes the reel while another reads it, which is what a reel is for.
// SAFETY: it is an address; what may be done with it is said where a reel is made of it.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> Memory {
        let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // JUSTIFICATION: a reel stands in mapped memory, of which only what is used shall be there.
        // SAFETY: fresh memory at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), STREAM_FILE_BYTES, read_write, private, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Memory(base.cast())
    }

    fn writer(self) -> Writer {
        // JUSTIFICATION: the constructor takes an address.
        // SAFETY: the memory is never unmapped; this is its only writer; the reader holds no slot while it writes.
        let reel = unsafe { ReelWriter::create(self.0, STREAM_FILE_BYTES, 0, Codec::Vp8) }.expect("room for a reel");
        Writer { reel, pool: Pool((0..64).collect()), payload: vec![0x5A; PAYLOAD] }
    }

    fn reader(self) -> ReelReader {
        // JUSTIFICATION: the constructor takes an address.
        // SAFETY: as above.
        unsafe { ReelReader::attach(self.0, STREAM_FILE_BYTES, 0) }.expect("there is a reel")
    }
}

struct Writer {
    reel: ReelWriter,
    pool: Pool,
    payload: Vec<u8>,
}

impl Writer {
    fn frame(&mut self, first: u64) {
        for index in first..first + PACKETS {
            // A second of a stream stays in the reel, as it does in the engine's.
            let arrival = Time(index / PACKETS * 33_333_333);
            let meta = SlotMeta { index, timestamp: (index / PACKETS) as u32 * 3_000, arrival, flags: SlotFlags::NONE, codec: Codec::Vp8, layer: 0 };
            self.payload[..8].copy_from_slice(&index.to_ne_bytes());
            self.reel.push(&meta, &self.payload, &mut self.pool).expect("it fits");
            self.reel.trim(arrival, None, &mut self.pool);
        }
    }
}

/// The viewers of one shard.
struct Shard {
    sealers: Vec<Sealer>,
    sends: Vec<u8>,
    at: usize,
    copy: Vec<u8>,
}

impl Shard {
    fn new(viewers: usize) -> Shard {
        let master = |viewer: usize| {
            let [low, high, ..] = viewer.to_le_bytes();
            MasterKey { key: std::array::from_fn(|i| if i % 2 == 0 { low } else { high } ^ i as u8), salt: std::array::from_fn(|i| low ^ high ^ i as u8), reserved: [0; 2] }
        };
        let sealers = (0..viewers).map(|viewer| Sealer::new(Profile::AeadAes256Gcm, &master(viewer))).collect();
        Shard { sealers, sends: vec![0; SENDS * SEND], at: 0, copy: Vec::with_capacity(PACKETS as usize * PAYLOAD) }
    }

    /// The frame that begins at `first`, to everybody.
    fn send(&mut self, reel: &ReelReader, first: u64, from: From) {
        let packets = first..first + PACKETS;
        if matches!(from, From::Copy) {
            self.copy.clear();
            packets.clone().for_each(|index| self.copy.extend_from_slice(reel.slot(index).expect("it was pushed").padded));
        }
        for (viewer, sealer) in self.sealers.iter().enumerate() {
            let (mut length, send) = (0, &mut self.sends[self.at * SEND..(self.at + 1) * SEND]);
            for (place, index) in packets.clone().enumerate() {
                let payload = match from {
                    From::Copy => &self.copy[place * PAYLOAD..(place + 1) * PAYLOAD],
                    From::Shared | From::Own => reel.slot(index).expect("it was pushed").padded,
                };
                let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
                header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                header[8..12].copy_from_slice(&(viewer as u32).to_be_bytes());
                length += sealer.seal_into(&header, &[], payload, index, &mut send[length..]).expect("room");
            }
            black_box(&send[..length]);
            self.at = (self.at + 1) % SENDS;
        }
    }
}

/// The other core: it writes a frame whenever it is asked for one, and waits without sleeping.
struct Other {
    asked: AtomicU64,
    written: AtomicU64,
    over: AtomicBool,
}

impl Other {
    fn run(&self, mut writer: Writer) {
        let mut written = 0;
        while !self.over.load(Ordering::Acquire) {
            let asked = self.asked.load(Ordering::Acquire);
            if asked > written {
                writer.frame((asked - 1) * PACKETS);
                written = asked;
                self.written.store(written, Ordering::Release);
            }
            std::hint::spin_loop();
        }
    }

    fn frame(&self, number: u64) {
        self.asked.store(number + 1, Ordering::Release);
        while self.written.load(Ordering::Acquire) <= number {
            std::hint::spin_loop();
        }
    }
}

/// Frames until everything is warm.
const WARM: u64 = 30;

/// What a packet costs each of so many viewers, by where it is sealed from: median of the frames.
fn measure(viewers: usize, frames: u64, other: usize) -> [f64; 3] {
    let (shared, own) = (Memory::new(), Memory::new());
    let (writer, mut beside) = (shared.writer(), own.writer());
    let (reel, own) = (shared.reader(), own.reader());
    let both = Other { asked: AtomicU64::new(0), written: AtomicU64::new(0), over: AtomicBool::new(false) };
    let mut shard = Shard::new(viewers);
    let mut took = ALL.map(|_| Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sys::pin_to(other);
            both.run(writer);
        });
        for number in 0..WARM + frames {
            let which = number as usize % ALL.len();
            let (first, from) = (number * PACKETS, ALL[which]);
            both.frame(number);
            beside.frame(first);
            let reel = if matches!(from, From::Own) { &own } else { &reel };
            let begin = Instant::now();
            shard.send(reel, first, from);
            if number >= WARM {
                took[which].push(begin.elapsed().as_nanos() as f64 / (PACKETS * viewers as u64) as f64);
            }
        }
        both.over.store(true, Ordering::Release);
    });
    took.map(median)
}

fn main() {
    // `cargo test` and `cargo bench -- --test` only want to know whether it runs.
    let test = std::env::args().any(|argument| argument == "--test") || !std::env::args().any(|argument| argument == "--bench");
    let cores = sys::allowed_cores();
    let (Some(&mine), Some(&other)) = (cores.first(), cores.last()) else { return };
    if !test && mine == other {
        eprintln!("reel: needs two cores, for one that writes and one that reads");
        std::process::exit(2);
    }
    sys::pin_to(mine);
    println!("{:>9} {:>14} {:>18} {:>14}   ns per packet and viewer", "viewers", "shared reel", "copy per shard", "own core's");
    for viewers in [1, 3, 10, 100, 1_000] {
        let frames = if test { 3 } else { (300_000 / viewers as u64).clamp(300, 6_000) };
        let [shared, copy, own] = measure(viewers, frames, other);
        println!("{viewers:>9} {shared:>14.0} {copy:>18.0} {own:>14.0}");
    }
}
