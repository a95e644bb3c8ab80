//! Goal: an engine killed with SIGKILL at any moment leaves in the record segment indices that no datagram on
//! the wire has reached (so that its successor repeats no nonce), and loses no datagram that waits in a socket.
//! Method: this test is the supervisor. It holds the memfds, eventfds and sockets, starts the real engine again
//! and again, and is control at the link's other end and every client at the sockets'. While a burst of media
//! is on its way it kills the engine, reads what the wire showed and what the segment says, and compares. What it
//! sends to the port while no engine runs, the next engine has to count.

use socket2::{Domain, Socket, Type};
use spillway_engine::clock;
use spillway_engine::io::probe::probe;
use spillway_proto::id::{Codec, FeedId, SessionId, Side, StreamId, TrackId};
use spillway_proto::limits::UFRAG_RANDOM_CHARS;
use spillway_proto::link::command::{Answer, Command, DtlsRole, FeedFacts, Fingerprint, Status, TrackFacts};
use spillway_proto::link::counters::CounterId;
use spillway_proto::link::handover::{HANDOVER_VARIABLE, Handover, IoChoice};
use spillway_proto::link::layout::{LINK_BYTES, Link};
use spillway_proto::link::park::must_wake;
use spillway_proto::link::ring::CommandWriter;
use spillway_proto::rng::Rng;
use spillway_proto::session::client::{Client, ClientFacts, Received};
use spillway_proto::session::dtls::Identity;
use spillway_proto::session::ice::encode_ufrag;
use spillway_proto::session::record::{RECORDS_BYTES, Records};
use spillway_proto::stream::reel::STREAM_FILE_BYTES;
use spillway_proto::wire::demux::{Class, classify};
use spillway_proto::wire::rtp::write_header;
use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const KILLS: usize = 200;
const SHARDS: usize = 2;
const VIEWERS_PER_SHARD: usize = 2;
/// Datagrams that reach the port while no engine runs.
const QUEUED: u64 = 1_000;
const BUFFER_BYTES: libc::c_int = 8 * 1_024 * 1_024;
/// While sessions connect. As fast as the loop goes it would be more than a publisher may send (10,000 packets a second), and what is
/// waited for here would hang on what is refused of it.
const FRAME_INTERVAL: Duration = Duration::from_millis(1);
/// Only so that a hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(20);
const PWD: &[u8; 24] = b"0123456789abcdefghijklmn";
const UFRAG_RANDOM: [u8; UFRAG_RANDOM_CHARS] = *b"abcdefghi";
const VIDEO_SSRC: u32 = 77;
const AUDIO_SSRC: u32 = 88;
/// The payload type viewers get video as, and where a packet carries its number.
const VIDEO_TYPE: u8 = 103;
const NUMBER: std::ops::Range<usize> = 8..16;

fn memfd(bytes: usize) -> File {
    // JUSTIFICATION: std has no memfd_create.
    // SAFETY: a name with its NUL; the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::memfd_create(c"engine_kill".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len(bytes as u64).expect("a sparse file");
    file
}

fn eventfd() -> File {
    // JUSTIFICATION: std has no eventfd.
    // SAFETY: no pointers; the descriptor is new and ours.
    unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)) }
}

/// Mapped for the rest of the process.
fn map(file: &File, bytes: usize, protection: libc::c_int) -> *mut u8 {
    // JUSTIFICATION: std has no mappings.
    // SAFETY: the kernel chooses a free range.
    let base = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(base, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    base.cast()
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    // JUSTIFICATION: socket2 lacks IP_PKTINFO, IP_MTU_DISCOVER and SO_*BUFFORCE.
    // SAFETY: pointer and length name `value`, which lives through the call.
    let result = unsafe {
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size)
    };
    result == 0
}

/// One socket of the group, as the supervisor binds it.
fn media_socket(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("SO_REUSEPORT");
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    assert!(set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1));
    assert!(set_option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT));
    for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if !set_option(&socket, libc::SOL_SOCKET, force, BUFFER_BYTES) {
            set_option(&socket, libc::SOL_SOCKET, plain, BUFFER_BYTES);
        }
    }
    socket.bind(&address.into()).expect("a free port of loopback");
    socket
}

/// What outlives every engine.
struct Supervisor {
    link: Link,
    link_file: File,
    records_file: File,
    records: *const Records,
    reel: File,
    shard_wake: Vec<File>,
    control_wake: File,
    media: Vec<Socket>,
    address: SocketAddr,
    commands: Vec<CommandWriter>,
}

impl Supervisor {
    fn new() -> Supervisor {
        let (link_file, records_file) = (memfd(LINK_BYTES), memfd(RECORDS_BYTES));
        let base = map(&link_file, LINK_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        // JUSTIFICATION: the link is shared memory.
        // SAFETY: LINK_BYTES, mapped for the rest of the process.
        let link = unsafe { Link::create(base, LINK_BYTES, SHARDS as u32) }.expect("a new link");
        let records = map(&records_file, RECORDS_BYTES, libc::PROT_READ).cast();
        let mut media = vec![media_socket(SocketAddr::from(([127, 0, 0, 1], 0)))];
        let address = media[0].local_addr().expect("it is bound").as_socket().expect("an IPv4 address");
        media.resize_with(SHARDS, || media_socket(address));
        Supervisor {
            link,
            link_file,
            records_file,
            records,
            reel: memfd(STREAM_FILE_BYTES),
            shard_wake: (0..SHARDS).map(|_| eventfd()).collect(),
            control_wake: eventfd(),
            media,
            address,
            commands: (0..SHARDS).map(|shard| link.commands_writer(shard)).collect(),
        }
    }

    /// How many small datagrams a socket is sure to hold beside what clients left in it.
    fn queued(&self) -> u64 {
        let granted = self.media.iter().map(|socket| socket.recv_buffer_size().unwrap_or(0)).min().unwrap_or(0);
        QUEUED.min(granted as u64 / 4_096)
    }

    /// Starts an engine and waits for its ready line.
    fn start(&self, io: IoChoice) -> Engine {
        let (mut ready, ready_end) = std::io::pipe().expect("a pipe");
        let handover = Handover {
            link: self.link_file.as_raw_fd(),
            records: Some(self.records_file.as_raw_fd()),
            ready: ready_end.as_raw_fd(),
            shard_wake: self.shard_wake.iter().map(AsRawFd::as_raw_fd).collect(),
            control_wake: self.control_wake.as_raw_fd(),
            media: vec![self.media.iter().map(AsRawFd::as_raw_fd).collect()],
            reels: vec![self.reel.as_raw_fd()],
            io,
            shards: SHARDS,
            ..Handover::default()
        };
        let mut keep: Vec<RawFd> = vec![handover.link, handover.ready, handover.control_wake, self.reel.as_raw_fd()];
        keep.extend(handover.records.iter().chain(&handover.shard_wake).chain(handover.media.iter().flatten()));
        let mut command = std::process::Command::new(binary());
        command.arg("engine").env(HANDOVER_VARIABLE, handover.to_text()).stdin(Stdio::null()).stdout(Stdio::null());
        // JUSTIFICATION: std clears no close-on-exec flag.
        // SAFETY: between fork and exec only system calls, on values made before.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0, 0, 0);
                for fd in &keep {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("the engine starts");
        drop(ready_end);
        // An engine that fails closes its end, so that this ends.
        let mut line = [0; 256];
        let length = ready.read(&mut line).expect("the ready line");
        let line = String::from_utf8_lossy(&line[..length]);
        assert!(line.starts_with(&format!("ready io={}", io.name())), "the engine is not ready: `{line}`");
        let (epoch, facts) = self.link.engine_facts().expect("ready engines have facts");
        Engine { child, epoch, fingerprint: facts.fingerprint }
    }

    fn command(&mut self, engine: &mut Engine, shard: usize, command: &Command) -> Answer {
        self.commands[shard].push(engine.epoch, command).expect("the ring has room");
        if must_wake(self.link.shard_parked(shard)) {
            self.shard_wake[shard].write_all(&1u64.to_ne_bytes()).expect("an eventfd takes a 1");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((_, status, answer)) = self.commands[shard].poll_answer() {
                assert_eq!(status, Status::Done, "{command:?}");
                return answer;
            }
            engine.check_runs();
            assert!(Instant::now() < deadline, "no answer to {command:?}");
            std::thread::yield_now();
        }
    }

    /// A session of the engine's with its client behind a socket of its own.
    fn add(&mut self, engine: &mut Engine, identity: &Identity, shard: usize, side: Side) -> Remote {
        let command = Command::AddSession {
            side,
            dtls_role: DtlsRole::Server,
            ufrag_random: UFRAG_RANDOM,
            pwd: *PWD,
            fingerprint: identity.fingerprint(),
            note: [0; 64],
        };
        let Answer::Session { session } = self.command(engine, shard, &command) else { panic!("not a session") };
        let facts = ClientFacts {
            local_ufrag: "client".into(),
            remote_ufrag: String::from_utf8(encode_ufrag(session, &UFRAG_RANDOM).to_vec()).expect("ICE characters"),
            remote_pwd: String::from_utf8(PWD.to_vec()).expect("ICE characters"),
            remote_fingerprint: engine.fingerprint,
            role: DtlsRole::Client,
        };
        let seed = session.to_bits();
        let client = Client::new(identity, facts, seed, clock::now(), Instant::now()).expect("a client");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(self.address).expect("loopback");
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        Remote { session, client, socket, feeds: Vec::new(), rtp: HashMap::new(), srtcp: None, opened: 0, newest: 0 }
    }

    /// What the segment says of a feed: (SSRC, one more than the highest index sealed).
    fn feed(&self, feed: FeedId) -> (u32, u64) {
        // JUSTIFICATION: the segment is plain shared memory.
        // SAFETY: mapped read-only for the rest of the process, in bounds by the array's own check; the engine, its
        // one writer, is dead.
        unsafe {
            let record = &raw const (*self.records).feeds[feed.index as usize];
            assert_eq!((*record).generation, feed.generation, "the record of a live feed stands");
            ((*record).ssrc, (*record).rtp_index.load(Ordering::Relaxed))
        }
    }

    /// What the segment says of a session: its next SRTCP index.
    fn srtcp_index(&self, session: SessionId) -> u64 {
        // JUSTIFICATION and SAFETY: as in `feed`.
        unsafe {
            let record = &raw const (*self.records).sessions[session.index as usize];
            assert_eq!((*record).generation, session.generation, "the record of a live session stands");
            (*record).srtcp_index.load(Ordering::Relaxed)
        }
    }
}

/// The binary under test stands beside the directory of this one.
fn binary() -> std::path::PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let binary = own.ancestors().nth(2).expect("target/<profile>/deps").join("spillway");
    assert!(binary.exists(), "{} is missing: build it with the same profile first", binary.display());
    binary
}

struct Engine {
    child: Child,
    epoch: u64,
    fingerprint: Fingerprint,
}

impl Engine {
    /// It only ever ends by our hand.
    fn check_runs(&mut self) {
        if let Some(status) = self.child.try_wait().expect("the child is ours") {
            panic!("the engine ended by itself: {status}");
        }
    }

    fn kill(&mut self) {
        self.check_runs();
        self.child.kill().expect("the child is ours");
        let status = self.child.wait().expect("the child is ours");
        assert_eq!(status.signal(), Some(libc::SIGKILL), "the engine ended by itself: {status}");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client, and what it saw on the wire.
struct Remote {
    session: SessionId,
    client: Client,
    socket: UdpSocket,
    /// The feeds it has, by the SSRC the engine promised.
    feeds: Vec<(FeedId, u32)>,
    /// By SSRC: the highest SRTP index. The rollover counter begins at 0 and the first index is below 2^15, so
    /// that in the few thousand packets of one engine's life the sequence number is the index; a packet with
    /// another one would not open.
    rtp: HashMap<u32, u64>,
    srtcp: Option<u64>,
    opened: u64,
    /// The highest number a video packet carried.
    newest: u64,
}

impl Remote {
    /// Everything the socket holds, and what the client has to say.
    fn pump(&mut self) {
        let mut datagram = [0; 2_048];
        loop {
            let length = match self.socket.recv(&mut datagram) {
                Ok(length) => length,
                // Refused: told by ICMP while no engine ran and its socket was full; the next call goes on.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(_) => break,
            };
            let bytes = &mut datagram[..length];
            let rtcp = classify(bytes) == Class::Rtcp;
            // RFC 7714 section 9.1 (and RFC 3711 section 3.4 where it is authenticated only): the word with the
            // index ends the packet.
            let word = bytes.last_chunk().map_or(0, |word| u32::from_be_bytes(*word));
            match self.client.handle_datagram(clock::now(), bytes).expect("a client that is fed by an engine") {
                Received::Rtp(length) => {
                    let index = u64::from(u16::from_be_bytes([datagram[2], datagram[3]]));
                    let ssrc = u32::from_be_bytes([datagram[8], datagram[9], datagram[10], datagram[11]]);
                    let highest = self.rtp.entry(ssrc).or_default();
                    *highest = index.max(*highest);
                    self.opened += 1;
                    if let Some(number) = datagram[12..length].get(NUMBER).filter(|_| datagram[1] & 0x7F == VIDEO_TYPE) {
                        self.newest = self.newest.max(u64::from_be_bytes(number.try_into().expect("8 bytes")));
                    }
                }
                Received::Rtcp(_) => {
                    assert!(rtcp);
                    self.srtcp = self.srtcp.max(Some(u64::from(word & 0x7FFF_FFFF)));
                }
                Received::Connected(_) | Received::Nothing => {}
            }
        }
    }

    fn talk(&mut self) {
        self.pump();
        self.client.handle_timeout(clock::now()).expect("an engine that answers");
        while let Some(datagram) = self.client.poll_datagram() {
            let _ = self.socket.send(&datagram);
        }
    }
}

/// A publisher's video and audio: short packets, a keyframe every eighth frame; keyframe requests change nothing.
struct Source {
    video_index: u64,
    audio_index: u64,
    frame: u32,
}

impl Source {
    /// Nothing before there are keys: an index counts what was sent. A receiver takes the first index it meets for one below 2^16 (RFC 3711
    /// section 3.3.1), and opens nothing of a source that counted further meanwhile.
    fn send_frame(&mut self, publisher: &Remote) {
        if !publisher.client.is_connected() {
            return;
        }
        for packet in 0..3 {
            let mut payload = [0; 60];
            payload[NUMBER].copy_from_slice(&self.video_index.to_be_bytes());
            payload[0] = if packet == 0 { 0x10 } else { 0 };
            payload[1] = u8::from(packet != 0 || self.frame % 8 != 0);
            let timestamp = self.frame.wrapping_mul(3_000);
            send(publisher, (96, packet == 2, VIDEO_SSRC), self.video_index, timestamp, &payload);
            self.video_index += 1;
        }
        let timestamp = self.frame.wrapping_mul(1_600);
        send(publisher, (111, false, AUDIO_SSRC), self.audio_index, timestamp, &[0xFC; 40]);
        self.audio_index += 1;
        self.frame += 1;
    }
}

fn send(publisher: &Remote, (payload_type, marker, ssrc): (u8, bool, u32), index: u64, timestamp: u32, payload: &[u8]) {
    let (mut header, mut out) = ([0; 12], [0; 128]);
    write_header(&mut header, marker, payload_type, index as u16, timestamp, ssrc);
    if let Some(length) = publisher.client.seal_rtp(&header, payload, index, &mut out) {
        let _ = publisher.socket.send(&out[..length]);
    }
}

/// Who takes part in one engine's life: the publisher first, viewers on both shards.
fn gather(supervisor: &mut Supervisor, engine: &mut Engine, identity: &Identity) -> Vec<Remote> {
    let mut remotes = vec![supervisor.add(engine, identity, 0, Side::Publisher)];
    let mut attach = |codec, payload_type, ssrc| {
        let command = Command::AttachTrack {
            session: remotes[0].session,
            stream: StreamId::new(0, 1),
            track: TrackId::NONE,
            facts: TrackFacts::new(codec, payload_type, ssrc),
            note: [0; 64],
        };
        let Answer::Track { track } = supervisor.command(engine, 0, &command) else { panic!("not a track") };
        track
    };
    let tracks = [attach(Codec::Vp8, 96, VIDEO_SSRC), attach(Codec::Opus, 111, AUDIO_SSRC)];
    let mut payload_types = [0; Codec::COUNT];
    payload_types[Codec::Vp8 as usize] = VIDEO_TYPE;
    payload_types[Codec::Opus as usize] = 104;
    let facts = FeedFacts { payload_types, ..FeedFacts::default() };
    for number in 0..SHARDS * VIEWERS_PER_SHARD {
        let shard = number % SHARDS;
        let mut viewer = supervisor.add(engine, identity, shard, Side::Viewer);
        for track in tracks {
            let command = Command::AttachFeed { session: viewer.session, track, facts };
            let Answer::Feed { feed, ssrc, .. } = supervisor.command(engine, shard, &command) else {
                panic!("not a feed")
            };
            viewer.feeds.push((feed, ssrc));
        }
        remotes.push(viewer);
    }
    remotes
}

/// The records of a dead engine against what its clients saw. Returns how many indices were compared.
fn compare(segment: &[Segment], remotes: &[Remote]) -> usize {
    let mut compared = 0;
    for (remote, segment) in remotes.iter().zip(segment) {
        if let Some(seen) = remote.srtcp {
            let next = segment.srtcp;
            assert!(next > seen, "SRTCP of {}: index {seen} was on the wire, the segment says {next}", remote.session);
            compared += 1;
        }
        for (ssrc, seen) in &remote.rtp {
            let next = segment.feeds.iter().find(|(promised, _)| promised == ssrc).expect("an SSRC of a feed").1;
            assert!(next > *seen, "SSRC {ssrc} of {}: index {seen} was on the wire, the segment says {next}", remote.session);
            compared += 1;
        }
    }
    compared
}

/// What the segment said of one remote when its engine was dead.
struct Segment {
    srtcp: u64,
    feeds: Vec<(u32, u64)>,
}

fn wait_until(what: &str, engine: &mut Engine, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        engine.check_runs();
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// What there is to say of an engine that lets somebody wait.
fn tell(kill: usize, remotes: &[Remote], source: &Source, link: &Link) {
    println!("kill {kill}: {} frames sent", source.frame);
    for remote in remotes {
        let Remote { session, rtp, srtcp, opened, newest, feeds, .. } = remote;
        println!("  {session}: {opened} packets of {} feeds, highest {rtp:?}, SRTCP {srtcp:?}, newest {newest}", feeds.len());
    }
    for id in CounterId::ALL {
        match link.counter_sum(*id) {
            0 => {}
            sum => println!("  {id:?} {sum}"),
        }
    }
}

#[test]
fn no_index_is_behind_the_wire_and_no_queued_datagram_is_lost() {
    let backends = match probe().uring {
        Ok(()) => vec![IoChoice::Uring, IoChoice::Socket],
        Err(reason) => {
            println!("without io_uring, which does not work here: {reason}");
            vec![IoChoice::Socket]
        }
    };
    let began = Instant::now();
    let mut rng = Rng::new(2);
    let mut supervisor = Supervisor::new();
    let identity = Identity::new().expect("a certificate");
    let strangers: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
    for stranger in &strangers {
        stranger.connect(supervisor.address).expect("loopback");
    }
    // A DTLS record of a pair that passed no check: counted by itself, so that nothing a client left hides a loss.
    let mut noise = [0; 40];
    noise[..3].copy_from_slice(&[22, 254, 253]);
    let queued = supervisor.queued();
    let (mut compared, mut opened, mut mid_flight) = (0, 0, 0);
    let mut before: Option<(Vec<Remote>, Vec<Segment>)> = None;
    let mut base = [0; 2];
    for kill in 0..KILLS {
        let mut engine = supervisor.start(backends[kill % backends.len()]);
        if let Some((mut remotes, segment)) = before.take() {
            let counters = [CounterId::DatagramsReceived, CounterId::DtlsRefused];
            let link = supervisor.link;
            wait_until("queued datagrams are lost", &mut engine, || {
                counters.iter().zip(base).all(|(id, base)| link.counter_sum(*id) - base >= queued)
            });
            // Whatever the dead engine still sent has arrived by now.
            remotes.iter_mut().for_each(Remote::pump);
            compared += compare(&segment, &remotes);
            opened += remotes.iter().map(|remote| remote.opened).sum::<u64>();
        }

        let mut remotes = gather(&mut supervisor, &mut engine, &identity);
        let mut source = Source { video_index: 100, audio_index: 100, frame: 0 };
        // One in eight dies while its sessions connect.
        if rng.below(8) == 0 {
            for _ in 0..rng.below(40) {
                remotes.iter_mut().for_each(Remote::talk);
                source.send_frame(&remotes[0]);
                std::thread::yield_now();
            }
        } else {
            let (started, link) = (Instant::now(), supervisor.link);
            let (mut is_told, mut sent_at) = (false, started);
            wait_until("every feed flows", &mut engine, || {
                remotes.iter_mut().for_each(Remote::talk);
                if sent_at.elapsed() >= FRAME_INTERVAL {
                    source.send_frame(&remotes[0]);
                    sent_at = Instant::now();
                }
                std::thread::yield_now();
                let flows = remotes[1..].iter().all(|viewer| viewer.rtp.len() == viewer.feeds.len());
                if !flows && started.elapsed() + Duration::from_secs(1) > PATIENCE && !std::mem::replace(&mut is_told, true) {
                    tell(kill, &remotes, &source, &link);
                }
                flows
            });
            // A burst, and the end somewhere in the work it makes.
            for _ in 0..1 + rng.below(12) {
                source.send_frame(&remotes[0]);
            }
            let end = Instant::now() + Duration::from_micros(rng.below(400));
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        }
        engine.kill();

        base = [CounterId::DatagramsReceived, CounterId::DtlsRefused].map(|id| supervisor.link.counter_sum(id));
        let segment: Vec<Segment> = remotes
            .iter()
            .map(|remote| Segment {
                srtcp: supervisor.srtcp_index(remote.session),
                feeds: remote.feeds.iter().map(|(feed, _)| supervisor.feed(*feed)).collect(),
            })
            .collect();
        for (remote, segment) in remotes.iter().zip(&segment) {
            let promised: Vec<u32> = remote.feeds.iter().map(|(_, ssrc)| *ssrc).collect();
            assert_eq!(segment.feeds.iter().map(|(ssrc, _)| *ssrc).collect::<Vec<_>>(), promised);
        }
        remotes.iter_mut().for_each(Remote::pump);
        let newest = source.video_index - 1;
        mid_flight += usize::from(remotes[1..].iter().any(|viewer| (1..newest).contains(&viewer.newest)));
        for number in 0..queued {
            let stranger = &strangers[number as usize % strangers.len()];
            stranger.send(&noise).expect("loopback takes it");
        }
        before = Some((remotes, segment));
    }
    println!(
        "{KILLS} kills in {:.1} s: {compared} indices compared, {opened} packets opened, {mid_flight} kills with packets \
         on their way, {queued} datagrams queued at each",
        began.elapsed().as_secs_f64()
    );
    assert!(compared > KILLS && opened > KILLS as u64 * 8 && mid_flight > KILLS / 4, "the test met what it is about");
}
