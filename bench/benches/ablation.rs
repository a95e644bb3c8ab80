//! Why the hot path is as it is: thread CPU time in ns per packet of each way to send, without and with sealing.
//!
//! 1,000 destinations, each with keys of its own, in a network whose only device is an `ifb` that frees every packet (cut in
//! software, no driver, no receive half). Rows without sealing copy; a frame is 9 packets of 1,200 bytes, W1's is 6 and 2
//! of two sizes and now and then sound. Rows take turns within each round; the median of the rounds is printed.
//!
//! `sudo cargo bench -p spillway-bench --bench ablation` (`sudo -E env PATH=$PATH` where cargo is root's stranger); with
//! `-- --test` one small round over loopback, to see that it runs.

use io_uring::{IoUring, opcode, types};
use spillway_bench::{median, thread_cpu_time};
use spillway_engine::io::Path;
use spillway_engine::io::frames::headers::Headers;
use spillway_engine::io::frames::ring::{Kick, Ring};
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{Profile, Sealer};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const HEADER: usize = 12;
const PACKET: usize = 1_200;
const TAG: usize = 16;
const SOUND: usize = 160;
/// Sends that one call or submission carries.
const BATCH: usize = 64;
const ROUNDS: u64 = 15;

/// The packets of one turn of a session: sizes before sealing. Sound has 50 packets to the picture's 30 frames; a third of it
/// comes within 10 ms of a frame's end.
const FRAME: [usize; 9] = [PACKET; 9];
const W1_FRAME: [usize; 8] = [1_199, 1_199, 1_199, 1_199, 1_199, 1_199, PACKET, PACKET];

/// One row: a turn for every destination, from this index on. It returns how many packets that were.
struct Row {
    name: &'static str,
    turn: Box<dyn FnMut(u64) -> usize>,
    rounds: Vec<f64>,
}

fn row(name: &'static str, turn: impl FnMut(u64) -> usize + 'static) -> Row {
    Row { name, turn: Box::new(turn), rounds: Vec::new() }
}

fn master(session: usize) -> MasterKey {
    let [low, high, ..] = session.to_le_bytes();
    let key = std::array::from_fn(|i| if i % 2 == 0 { low } else { high } ^ i as u8);
    MasterKey { key, salt: std::array::from_fn(|i| low ^ high ^ i as u8), reserved: [0; 2] }
}

fn header(session: usize, index: u64) -> [u8; HEADER] {
    let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
    header[8..12].copy_from_slice(&(session as u32).to_be_bytes());
    header
}

/// What is sent: sealed, or copied with room for the tag.
enum Work {
    Copy,
    Seal(Vec<Sealer>),
}

impl Work {
    fn seal(profile: Profile, sessions: usize) -> Work {
        Work::Seal((0..sessions).map(|session| Sealer::new(profile, &master(session))).collect())
    }

    /// Writes one packet of `size` bytes before sealing; its length on the wire.
    fn write(&self, session: usize, index: u64, size: usize, plain: &[u8], out: &mut [u8]) -> usize {
        let header = header(session, index);
        match self {
            Work::Copy => {
                out[..HEADER].copy_from_slice(&header);
                out[HEADER..size + TAG].copy_from_slice(&plain[..size + TAG - HEADER]);
                size + TAG
            }
            Work::Seal(sealers) => sealers[session].seal_into(&header, &[], &plain[..size - HEADER], index, out).expect("room"),
        }
    }

    /// The packets of one send behind each other, from this index on: how long they are together, and the longest.
    fn write_run(&self, session: usize, first: u64, sizes: &[usize], plain: &[u8], out: &mut [u8]) -> (usize, usize) {
        let (mut length, mut segment) = (0, 0);
        for (index, &size) in (first..).zip(sizes) {
            let sealed = self.write(session, index, size, plain, &mut out[length..]);
            segment = segment.max(sealed);
            length += sealed;
        }
        (length, segment)
    }
}

/// The destinations, and one unconnected socket as a shard has it.
struct Net {
    socket: UdpSocket,
    to: Vec<libc::sockaddr_in>,
    addresses: Vec<SocketAddrV4>,
}

fn net(sessions: usize, at: Ipv4Addr) -> io::Result<Rc<Net>> {
    let addresses: Vec<_> = (0..sessions).map(|n| SocketAddrV4::new(at, 10_000 + n as u16)).collect();
    let to = addresses
        .iter()
        .map(|address| libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
            sin_zero: [0; 8],
        })
        .collect();
    Ok(Rc::new(Net { socket: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?, to, addresses }))
}

/// A control message that says how a send is cut; nothing where it is one datagram.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Cut([u8; 24]);

impl Cut {
    fn of(segment: usize) -> Cut {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&18_usize.to_ne_bytes());
        bytes[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
        bytes[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        bytes[16..18].copy_from_slice(&(segment as u16).to_ne_bytes());
        Cut(bytes)
    }
}

/// A message with all that it points to. It is sent from where it lies.
struct Message {
    head: libc::msghdr,
    part: libc::iovec,
    cut: Cut,
}

impl Message {
    fn new() -> Box<Message> {
        // JUSTIFICATION: the kernel's structures have fields that libc does not name.
        // SAFETY: all of it is numbers and pointers, for which zero is a value.
        Box::new(unsafe { std::mem::zeroed() })
    }

    fn aim(&mut self, to: &libc::sockaddr_in, bytes: &[u8], segment: usize) -> *const libc::msghdr {
        self.part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.head.msg_name = std::ptr::from_ref(to).cast_mut().cast();
        self.head.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
        self.head.msg_iov = &mut self.part;
        self.head.msg_iovlen = 1;
        self.cut = Cut::of(segment);
        let is_cut = segment < bytes.len();
        self.head.msg_control = if is_cut { std::ptr::from_mut(&mut self.cut).cast() } else { std::ptr::null_mut() };
        self.head.msg_controllen = if is_cut { size_of::<Cut>() } else { 0 };
        &self.head
    }
}

/// One call per send; `runs` says how many packets each of them takes.
fn by_sendmsg(name: &'static str, net: &Rc<Net>, work: Work, sizes: &'static [usize], runs: &'static [usize]) -> Row {
    let (net, plain) = (Rc::clone(net), vec![0x5A; PACKET + TAG]);
    let (mut message, mut buffer) = (Message::new(), vec![0; 64 * 1_024]);
    row(name, move |first| {
        for (session, to) in net.to.iter().enumerate() {
            let mut packet = 0;
            for count in runs {
                let (length, segment) = work.write_run(session, first + packet as u64, &sizes[packet..packet + count], &plain, &mut buffer);
                packet += count;
                let head = message.aim(to, &buffer[..length], segment);
                // JUSTIFICATION: std cannot cut a send.
                // SAFETY: what the message points to lives until the call returns.
                let sent = unsafe { libc::sendmsg(net.socket.as_raw_fd(), head, libc::MSG_DONTWAIT) };
                assert_eq!(sent, length as isize, "{}", io::Error::last_os_error());
            }
        }
        net.to.len() * sizes.len()
    })
}

/// Many single datagrams with one call.
fn by_sendmmsg(name: &'static str, net: &Rc<Net>) -> Row {
    let (net, plain) = (Rc::clone(net), vec![0x5A; PACKET + TAG]);
    let mut buffers = vec![vec![0; PACKET + TAG]; BATCH];
    let mut messages: Vec<Box<Message>> = (0..BATCH).map(|_| Message::new()).collect();
    row(name, move |first| {
        let mut heads: Vec<libc::mmsghdr> = Vec::with_capacity(BATCH);
        let flush = |heads: &mut Vec<libc::mmsghdr>| {
            // JUSTIFICATION: std sends one datagram a call.
            // SAFETY: the heads and what they point to live until the call returns.
            let sent = unsafe { libc::sendmmsg(net.socket.as_raw_fd(), heads.as_mut_ptr(), heads.len() as u32, libc::MSG_DONTWAIT) };
            assert_eq!(sent, heads.len() as i32, "{}", io::Error::last_os_error());
            heads.clear();
        };
        for (session, to) in net.to.iter().enumerate() {
            for packet in 0..FRAME.len() {
                let place = heads.len();
                let length = Work::Copy.write(session, first + packet as u64, PACKET, &plain, &mut buffers[place]);
                messages[place].aim(to, &buffers[place][..length], length);
                heads.push(libc::mmsghdr { msg_hdr: messages[place].head, msg_len: 0 });
                if heads.len() == BATCH {
                    flush(&mut heads);
                }
            }
        }
        if !heads.is_empty() {
            flush(&mut heads);
        }
        net.to.len() * FRAME.len()
    })
}

/// GSO sends of 9 through a ring, a batch per submission.
fn by_uring(name: &'static str, net: &Rc<Net>, work: Work, zero_copy: bool) -> io::Result<Row> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    let mut ring: IoUring = builder.build(2 * BATCH as u32)?;
    let (net, plain) = (Rc::clone(net), vec![0x5A; PACKET + TAG]);
    let mut buffers = vec![vec![0; FRAME.len() * (PACKET + TAG)]; BATCH];
    let mut messages: Vec<Box<Message>> = (0..BATCH).map(|_| Message::new()).collect();
    Ok(row(name, move |first| {
        let fd = types::Fd(net.socket.as_raw_fd());
        for (batch, sessions) in net.to.chunks(BATCH).enumerate() {
            for (place, to) in sessions.iter().enumerate() {
                let (mut length, session) = (0, batch * BATCH + place);
                for (packet, &size) in FRAME.iter().enumerate() {
                    length += work.write(session, first + packet as u64, size, &plain, &mut buffers[place][length..]);
                }
                let head = messages[place].aim(to, &buffers[place][..length], length / FRAME.len());
                let entry = if zero_copy { opcode::SendMsgZc::new(fd, head).build() } else { opcode::SendMsg::new(fd, head).build() };
                // JUSTIFICATION: the ring is told of memory by address.
                // SAFETY: what the entry points to lives until its last completion was seen, below.
                unsafe { ring.submission().push(&entry) }.expect("room for a batch");
            }
            // A zero-copy send completes, and later gives its memory back.
            let mut awaited = sessions.len() * if zero_copy { 2 } else { 1 };
            while awaited > 0 {
                ring.submit_and_wait(1).expect("the ring works");
                for done in ring.completion() {
                    assert!(done.result() >= 0, "{}", io::Error::from_raw_os_error(-done.result()));
                    awaited -= 1;
                }
            }
        }
        net.to.len() * FRAME.len()
    }))
}

/// Runs as frames, sealed where the kernel reads them: the engine's own ring and headers, as many a call as there.
fn by_frames(name: &'static str, net: &Rc<Net>, device: &str, work: Work, sizes: &'static [usize], runs: &'static [usize]) -> io::Result<Row> {
    let device = std::ffi::CString::new(device)?;
    // JUSTIFICATION: std has no names of devices.
    // SAFETY: the name ends with a zero and lives through the call.
    let index = unsafe { libc::if_nametoindex(device.as_ptr()) };
    let mut ring = Ring::open(index)?;
    let (net, plain) = (Rc::clone(net), vec![0x5A; PACKET + TAG]);
    let port = net.socket.local_addr()?.port();
    let local = if net.addresses[0].ip().is_loopback() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(10, 78, 0, 1) };
    let path = |remote: &SocketAddrV4| Path { local: SocketAddrV4::new(local, port).into(), remote: (*remote).into() };
    let headers: Vec<Headers> = net.addresses.iter().map(|remote| Headers::new(&path(remote), [0; 6]).expect("one family")).collect();
    Ok(row(name, move |first| {
        for (session, headers) in headers.iter().enumerate() {
            let mut packet = 0;
            for count in runs {
                assert_eq!(ring.room(), Ok(true));
                let buffer = ring.payload().expect("room");
                let (length, segment) = work.write_run(session, first + packet as u64, &sizes[packet..packet + count], &plain, buffer);
                packet += count;
                assert!(ring.push(headers, [0; 6], length, segment, packet as u16));
                if ring.pushed() == 16 {
                    assert_eq!(ring.kick(), Kick::Done);
                }
            }
        }
        assert_eq!(ring.kick(), Kick::Done);
        headers.len() * sizes.len()
    }))
}

/// The same frames without the ring: written into warm memory, from which the kernel copies them, as many with one call.
fn by_copied_frames(name: &'static str, net: &Rc<Net>, device: &str, sizes: &'static [usize]) -> io::Result<Row> {
    /// A `virtio_net_hdr` stands in front of each frame; libc has no name for the option.
    const VNET_HEADER: usize = 10;
    const PACKET_VNET_HDR: i32 = 15;
    const RUNS: usize = 16;
    let device = std::ffi::CString::new(device)?;
    // JUSTIFICATION: std knows neither devices' names nor sockets of this family.
    // SAFETY: calls by values and with one live name, one live number and one live address; the descriptor is fresh and nobody else's.
    let socket = unsafe {
        let index = libc::if_nametoindex(device.as_ptr());
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let (on, bytes) = (1_i32, 4_i32 << 20);
        let size = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(fd, libc::SOL_PACKET, PACKET_VNET_HDR, (&raw const on).cast(), size);
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, (&raw const bytes).cast(), size);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        (address.sll_family, address.sll_ifindex) = (libc::AF_PACKET as u16, index as i32);
        if libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) != 0 {
            return Err(io::Error::last_os_error());
        }
        socket
    };
    let local = Path { local: SocketAddrV4::new(*net.addresses[0].ip(), net.socket.local_addr()?.port()).into(), remote: net.addresses[0].into() };
    let headers: Vec<Headers> = net.addresses.iter().map(|remote| Headers::new(&Path { remote: (*remote).into(), ..local }, [0; 6]).expect("one family")).collect();
    let mut runs: Vec<(Box<Message>, Vec<u8>)> = (0..RUNS).map(|_| (Message::new(), vec![0; 64 << 10])).collect();
    let plain = vec![0x5A; PACKET + TAG];
    Ok(row(name, move |first| {
        for (batch, to) in headers.chunks(RUNS).enumerate() {
            let mut calls: Vec<libc::mmsghdr> = Vec::with_capacity(RUNS);
            for (place, (headers, (message, bytes))) in to.iter().zip(&mut runs).enumerate() {
                let front = VNET_HEADER + headers.length();
                let (length, segment) = Work::Copy.write_run(batch * RUNS + place, first, sizes, &plain, &mut bytes[front..]);
                headers.write(&mut bytes[VNET_HEADER..front], [0; 6], length, 0);
                // A checksum is due; cut as UDP; how long the headers are, the segments; where the checksum begins and stands.
                bytes[..2].copy_from_slice(&[1, 5]);
                for (at, number) in [(2, headers.length()), (4, segment), (6, headers.udp()), (8, 6)] {
                    bytes[at..at + 2].copy_from_slice(&(number as u16).to_ne_bytes());
                }
                message.part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: front + length };
                (message.head.msg_iov, message.head.msg_iovlen) = (&mut message.part, 1);
                calls.push(libc::mmsghdr { msg_hdr: message.head, msg_len: 0 });
            }
            // JUSTIFICATION: std sends one datagram a call.
            // SAFETY: the heads and what they point to live until the call returns.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), calls.as_mut_ptr(), calls.len() as u32, libc::MSG_DONTWAIT) };
            assert_eq!(sent, calls.len() as i32, "{}", io::Error::last_os_error());
        }
        headers.len() * sizes.len()
    }))
}

/// The packages of the first design: webrtc-srtp, and a future per packet.
fn by_tokio_uring(name: &'static str, net: &Rc<Net>) -> Row {
    let net = Rc::clone(net);
    let context = |session: usize| {
        let master = master(session);
        Context::new(&master.key[..16], &master.salt[..12], ProtectionProfile::AeadAes128Gcm, None, None).expect("a context")
    };
    let mut contexts: Vec<Context> = (0..net.to.len()).map(context).collect();
    row(name, move |first| {
        tokio_uring::start(async {
            let socket = tokio_uring::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0).into()).await.expect("a socket");
            let mut packet = vec![0x5A; PACKET];
            for (session, context) in contexts.iter_mut().enumerate() {
                for index in first..first + FRAME.len() as u64 {
                    packet[..HEADER].copy_from_slice(&header(session, index));
                    let sealed = context.encrypt_rtp(&packet).expect("sealed").to_vec();
                    let (sent, _) = socket.send_to(sealed, net.addresses[session].into()).await;
                    sent.expect("sent");
                }
            }
        });
        net.to.len() * FRAME.len()
    })
}

/// A network of this thread's own with nothing but a device that frees what it gets.
fn into_a_null_network() -> Result<(), String> {
    // JUSTIFICATION: std has no namespaces.
    // SAFETY: the call takes a number; it fails or moves this thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err("a network of its own needs root: run it with sudo, or with -- --test over loopback".into());
    }
    for line in [
        "ip link add null0 type ifb",
        "ip link set null0 up",
        "ip address add 10.78.0.1/16 dev null0",
        "tc qdisc replace dev null0 root noqueue",
        "ethtool -K null0 tx-udp-segmentation off tso off gso on",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let status = Command::new(words[0]).args(&words[1..]).status();
        let fine = status.is_ok_and(|status| status.success());
        fine.then_some(()).ok_or(format!("{line}: failed; needed are iproute2, ethtool and the kernel's ifb"))?;
    }
    Ok(())
}

fn main() {
    // `cargo test` and `cargo bench -- --test` only want to know whether it runs.
    let test = std::env::args().any(|argument| argument == "--test") || !std::env::args().any(|argument| argument == "--bench");
    let (sessions, rounds, at) = if test { (2, 1, Ipv4Addr::LOCALHOST) } else { (1_000, ROUNDS, Ipv4Addr::new(10, 78, 0, 2)) };
    if !test && let Err(reason) = into_a_null_network() {
        eprintln!("ablation: {reason}");
        std::process::exit(2);
    }
    let net = net(sessions, at).expect("a socket");
    let gcm = |profile| Work::seal(profile, sessions);
    const ONE_BY_ONE: &[usize] = &[1; 9];
    let mut rows = vec![
        by_sendmsg("copy, sendmsg for each packet", &net, Work::Copy, &FRAME, ONE_BY_ONE),
        by_sendmmsg("copy, sendmmsg of 64", &net),
        by_sendmsg("copy, sendmsg with GSO of 9", &net, Work::Copy, &FRAME, &[9]),
        by_sendmsg("AES-256-GCM, sendmsg for each packet", &net, gcm(Profile::AeadAes256Gcm), &FRAME, ONE_BY_ONE),
        by_sendmsg("AES-256-GCM, GSO of 9", &net, gcm(Profile::AeadAes256Gcm), &FRAME, &[9]),
        by_sendmsg("AES-128-GCM, GSO of 9", &net, gcm(Profile::AeadAes128Gcm), &FRAME, &[9]),
        by_sendmsg("AES-CM and SHA1-80, GSO of 9", &net, gcm(Profile::Aes128CmSha1_80), &FRAME, &[9]),
        by_sendmsg("AES-256-GCM, W1's frame in two runs", &net, gcm(Profile::AeadAes256Gcm), &W1_FRAME, &[6, 2]),
        by_sendmsg("the same, and sound by itself", &net, gcm(Profile::AeadAes256Gcm), &W1_AND_SOUND, &[6, 2, 1]),
        by_sendmsg("the same, sound as the last segment", &net, gcm(Profile::AeadAes256Gcm), &W1_AND_SOUND, &[6, 3]),
    ];
    let rings = [("copy, io_uring with GSO of 9", Work::Copy, false), ("copy, the same with zero copy", Work::Copy, true), ("AES-256-GCM, io_uring with GSO of 9", gcm(Profile::AeadAes256Gcm), false)];
    for (name, work, zero_copy) in rings {
        match by_uring(name, &net, work, zero_copy) {
            Ok(row) => rows.push(row),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    let device = if test { "lo" } else { "null0" };
    let framed: [(_, _, &'static [usize], &'static [usize]); 4] = [
        ("copy, a frame for each packet", Work::Copy, &FRAME, ONE_BY_ONE),
        ("copy, frames cut into 9", Work::Copy, &FRAME, &[9]),
        ("AES-256-GCM, frames cut into 9", gcm(Profile::AeadAes256Gcm), &FRAME, &[9]),
        ("AES-256-GCM, W1's frame and sound, as frames", gcm(Profile::AeadAes256Gcm), &W1_AND_SOUND, &[6, 2, 1]),
    ];
    for (name, work, sizes, runs) in framed {
        match by_frames(name, &net, device, work, sizes, runs) {
            Ok(row) => rows.push(row),
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    match by_copied_frames("copy, the same by sendmmsg of 16, no ring", &net, device, &FRAME) {
        Ok(row) => rows.push(row),
        Err(error) => eprintln!("frames by sendmmsg: {error}"),
    }
    rows.push(by_tokio_uring("webrtc-srtp AES-128-GCM, tokio-uring", &net));
    // The first round warms up and is not counted.
    for round in 0..rounds + 1 {
        for row in &mut rows {
            let begin = thread_cpu_time();
            let packets = (row.turn)(round * 16);
            let took = (thread_cpu_time() - begin).as_nanos() as f64 / packets as f64;
            if round > 0 {
                row.rounds.push(took);
            }
        }
    }
    println!("CPU per packet, {sessions} destinations, {}, median of {rounds} rounds", if test { "loopback" } else { "a NIC that drops" });
    println!("{:<44} {:>9}", "", "ns/packet");
    for row in rows {
        println!("{:<44} {:>9.0}", row.name, median(row.rounds));
    }
}

const W1_AND_SOUND: [usize; 9] = {
    let mut sizes = [SOUND; 9];
    let mut at = 0;
    while at < W1_FRAME.len() {
        sizes[at] = W1_FRAME[at];
        at += 1;
    }
    sizes
};
