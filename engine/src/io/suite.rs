//! One suite for every backend that has a kernel below it: the same behaviour through `socket`, `uring` and `frames`.
//!
//! Method: sockets on loopback, a plain std socket as the remote. Whatever is waited for is a datagram or a deadline of
//! the backend itself; no test sleeps. A machine without io_uring fails the `uring` half.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use spillway_proto::limits::{DATAGRAM_SIZE_MAX, SEND_SIZE_MAX};

use super::bound::Sockets;
use super::{Io, Path, Sent};
use crate::alloc_count::allocations_in;
use crate::clock;

/// What a test needs from a backend beside the trait.
pub(super) trait Backend: Io {
    const NAME: &str;
    fn start(sockets: Sockets, gso_segments: usize) -> Self;
    /// Error numbers (negative) that the next sends get instead of reaching the kernel.
    fn faults(&mut self) -> &mut std::collections::VecDeque<i32>;
}

pub(super) fn eventfd() -> OwnedFd {
    // SAFETY: a call by values; the descriptor is fresh and owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// As much as is asked for, or allowed.
pub(super) fn room_to_receive(socket: &UdpSocket, bytes: i32) {
    // SAFETY: the kernel reads one i32.
    unsafe {
        let value = (&raw const bytes).cast();
        let result = libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value, 4);
        if result != 0 {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, 4);
        }
    }
}

fn wake(eventfd: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: 8 live bytes.
    assert_eq!(unsafe { libc::write(eventfd.as_raw_fd(), one.as_ptr().cast(), 8) }, 8);
}

/// A backend on `address` and a remote that knows it.
struct Pair<B> {
    io: B,
    local: SocketAddr,
    remote: UdpSocket,
    wake: OwnedFd,
}

impl<B: Backend> Pair<B> {
    fn on(address: &str) -> Pair<B> {
        Pair::with_gso(address, address, 64)
    }

    fn with_gso(bound: &str, remote: &str, gso_segments: usize) -> Pair<B> {
        let socket = UdpSocket::bind(bound).unwrap();
        let port = socket.local_addr().unwrap().port();
        let remote = UdpSocket::bind(remote).unwrap();
        [&socket, &remote].into_iter().for_each(|socket| room_to_receive(socket, 8 << 20));
        let local = SocketAddr::new(remote.local_addr().unwrap().ip(), port);
        // Long enough for any machine, short enough to fail instead of hanging.
        remote.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let wake = eventfd();
        let sockets = Sockets::new(vec![socket.into()], wake.try_clone().unwrap()).unwrap();
        Pair { io: B::start(sockets, gso_segments), local, remote, wake }
    }

    fn path(&self) -> Path {
        Path { local: self.local, remote: self.remote.local_addr().unwrap() }
    }

    fn fill(&mut self, length: usize) {
        let buffer = self.io.buffer().expect("a free buffer");
        assert!(buffer.len() >= SEND_SIZE_MAX);
        for (index, byte) in buffer[..length].iter_mut().enumerate() {
            *byte = pattern(index);
        }
    }

    fn send(&mut self, length: usize, segment: usize) -> Sent {
        self.fill(length);
        let path = self.path();
        self.io.send(&path, length, segment)
    }

    /// The next datagram at the remote.
    fn arrived(&self) -> Vec<u8> {
        let mut bytes = [0; 65_536];
        let (length, from) = self.remote.recv_from(&mut bytes).expect("a datagram within 20 s");
        assert_eq!(from, self.local);
        bytes[..length].to_vec()
    }

    fn arrived_nothing(&self) {
        self.remote.set_nonblocking(true).unwrap();
        let got = self.remote.recv_from(&mut [0; 16]);
        assert_eq!(got.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        self.remote.set_nonblocking(false).unwrap();
    }

    /// Receives `count` datagrams, parking between.
    fn collect(&mut self, count: usize, max: usize) -> Vec<(Path, Vec<u8>)> {
        let deadline = clock::now() + Duration::from_secs(20);
        let mut all = Vec::new();
        while all.len() < count {
            assert!(clock::now() < deadline, "{} of {count} datagrams after 20 s", all.len());
            let got = self.io.receive(max, |datagram| all.push((datagram.path(), datagram.bytes.to_vec())));
            assert!(got <= max);
            if got == 0 {
                self.io.park(Some(deadline));
            }
        }
        all
    }
}

fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

pub(super) fn receives_with_both_addresses<B: Backend>() {
    for (bound, remote) in
        [("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
    {
        let mut pair = Pair::<B>::with_gso(bound, remote, 64);
        pair.remote.send_to(b"hello", pair.local).unwrap();
        assert_eq!(pair.collect(1, 8), [(pair.path(), b"hello".to_vec())], "{} on {bound}", B::NAME);
        assert_eq!(pair.send(5, 5), Sent::Queued);
        pair.io.submit();
        assert_eq!(pair.arrived().len(), 5, "{} on {bound}: the answer", B::NAME);
    }
}

pub(super) fn answers_from_the_address_that_was_asked<B: Backend>() {
    let mut pair = Pair::<B>::with_gso("0.0.0.0:0", "127.0.0.1:0", 64);
    // Another of this machine's addresses; by route alone the answer would come from 127.0.0.1.
    pair.local.set_ip("127.0.0.77".parse().unwrap());
    pair.remote.send_to(b"hello", pair.local).unwrap();
    assert_eq!(pair.collect(1, 8)[0].0.local, pair.local);
    assert_eq!(pair.send(5, 5), Sent::Queued);
    pair.io.submit();
    assert_eq!(pair.arrived().len(), 5);
}

pub(super) fn a_run_arrives_as_its_segments<B: Backend>() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // 64: one GSO send; 4: three of them; 1: no GSO.
        for gso in [64, 4, 1] {
            let mut pair = Pair::<B>::with_gso(address, address, gso);
            assert_eq!(pair.io.gso_segments(), gso);
            assert_eq!(pair.send(9 * 1_216 + 160, 1_216), Sent::Queued);
            pair.io.submit();
            let mut offset = 0;
            for index in 0..10 {
                let bytes = pair.arrived();
                assert_eq!(bytes.len(), if index < 9 { 1_216 } else { 160 });
                assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == pattern(offset + at)), "segment {index}");
                offset += bytes.len();
            }
            pair.arrived_nothing();
            let sends = [(64, 1), (4, 3), (1, 10)].iter().find(|row| row.0 == gso).unwrap().1;
            assert_eq!((pair.io.tally().sent, pair.io.tally().sends), (10, sends));
        }
    }
}

pub(super) fn a_full_socket_blocks_and_the_run_goes_later<B: Backend>() {
    for fault in [libc::EAGAIN, libc::ENOBUFS] {
        let mut pair = Pair::<B>::on("127.0.0.1:0");
        pair.io.faults().push_back(-fault);
        let first = pair.send(2_400, 1_200);
        pair.io.submit();
        // Either nothing of it was taken, or the backend keeps it; never both, never neither.
        let deadline = clock::now() + Duration::from_secs(20);
        if first == Sent::Blocked {
            pair.arrived_nothing();
            pair.io.park(Some(deadline));
            assert!(clock::now() < deadline, "slept though there was room");
            assert_eq!(pair.send(2_400, 1_200), Sent::Queued);
        }
        // Parks until there is room, not until the deadline.
        while pair.io.tally().sent < 2 && clock::now() < deadline {
            pair.io.park(Some(deadline));
            pair.io.submit();
        }
        assert!(clock::now() < deadline);
        assert_eq!((pair.arrived().len(), pair.arrived().len()), (1_200, 1_200));
        pair.arrived_nothing();
        assert_eq!((pair.io.tally().sent, pair.io.tally().blocked), (2, 1));
    }
}

pub(super) fn the_rest_of_a_run_holds_back_the_next<B: Backend>() {
    let mut pair = Pair::<B>::with_gso("127.0.0.1:0", "127.0.0.1:0", 1);
    // One segment passes, then the socket is full, twice.
    pair.io.faults().extend([0, -libc::EAGAIN, -libc::EAGAIN]);
    assert_eq!(pair.send(300, 100), Sent::Queued, "a part of it is out, so all of it is taken");
    pair.io.submit();
    assert_eq!(pair.arrived(), (0..100).map(pattern).collect::<Vec<_>>());
    pair.arrived_nothing();
    assert!(pair.io.buffer().is_none(), "the run that waits goes before anything new");
    let deadline = clock::now() + Duration::from_secs(20);
    while pair.io.tally().sent < 3 && clock::now() < deadline {
        pair.io.park(Some(deadline));
        pair.io.submit();
    }
    assert!(clock::now() < deadline, "slept though the run was out");
    for part in 1..3 {
        assert_eq!(pair.arrived(), (100 * part..100 * part + 100).map(pattern).collect::<Vec<_>>());
    }
    assert_eq!(pair.io.tally().blocked, 2);
    pair.io.submit();
    assert!(pair.io.buffer().is_some());
}

pub(super) fn refused_gso_goes_again_one_by_one<B: Backend>() {
    for fault in [libc::EMSGSIZE, libc::EIO, libc::EINVAL] {
        let mut pair = Pair::<B>::on("127.0.0.1:0");
        pair.io.faults().push_back(-fault);
        for sends in [4, 8] {
            assert_eq!(pair.send(3_700, 1_200), Sent::Queued);
            pair.io.submit();
            let sizes: Vec<_> = (0..4).map(|_| pair.arrived().len()).collect();
            assert_eq!(sizes, [1_200, 1_200, 1_200, 100]);
            assert_eq!(pair.io.tally().sends, sends, "the second time it is known and not tried");
        }
        assert_eq!((pair.io.tally().one_by_one, pair.io.tally().dropped), (1, 0));
    }
    // And as the kernel says it: segments above the MTU of loopback (65,536) cannot be made, so the real refusal
    // here is a source address that is not ours: everything fails, nothing is remembered, nothing blocks.
    let mut pair = Pair::<B>::with_gso("0.0.0.0:0", "127.0.0.1:0", 64);
    let own = pair.path();
    let mut path = own;
    path.local.set_ip("192.0.2.1".parse().unwrap());
    pair.fill(2_400);
    assert_eq!(pair.io.send(&path, 2_400, 1_200), Sent::Queued);
    pair.io.submit();
    assert_eq!(pair.io.tally().dropped, 1);
    assert_eq!(pair.send(2_400, 1_200), Sent::Queued);
    pair.io.submit();
    assert_eq!((pair.arrived().len(), pair.io.tally().sends), (1_200, 1));
}

pub(super) fn a_path_that_is_not_ours_is_dropped_and_counted<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    let path = Path { local: "[::1]:9".parse().unwrap(), remote: "[::1]:9".parse().unwrap() };
    assert_eq!(pair.io.send(&path, 100, 100), Sent::Queued);
    assert_eq!(pair.send(0, 0), Sent::Queued);
    pair.io.submit();
    assert_eq!((pair.io.tally().dropped, pair.io.tally().sends), (1, 0));
    assert!(pair.io.buffer().is_some());
}

pub(super) fn park_ends_by_datagram_wake_and_deadline<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    let far = || Some(clock::now() + Duration::from_secs(20));
    let in_time = |until: Option<_>| assert!(clock::now() < until.unwrap(), "slept to the deadline");

    // A deadline: not before it.
    let until = clock::now() + Duration::from_millis(3);
    while clock::now() < until {
        pair.io.park(Some(until));
    }
    pair.io.park(Some(until - Duration::from_secs(1)));

    // A datagram that is there already, and one that comes while parked.
    for comes_later in [false, true] {
        let until = far();
        let (remote, local) = (pair.remote.try_clone().unwrap(), pair.local);
        let send = move || {
            remote.send_to(b"x", local).unwrap();
        };
        let thread = if comes_later { Some(std::thread::spawn(send)) } else { send(); None };
        let mut got = 0;
        while got == 0 {
            pair.io.park(until);
            in_time(until);
            got = pair.io.receive(8, |_| ());
        }
        if let Some(thread) = thread {
            thread.join().unwrap();
        }
        assert_eq!(pair.io.receive(8, |_| ()), 0);
    }

    // A wake, three times: the first must not swallow the second. It counts even when it came before the park,
    // with a receive between.
    for _ in 0..3 {
        let until = far();
        wake(&pair.wake);
        assert_eq!(pair.io.receive(8, |_| ()), 0);
        pair.io.submit();
        pair.io.park(until);
        in_time(until);
        let mut count = [0_u8; 8];
        // SAFETY: 8 live bytes; the backend made the eventfd non-blocking.
        let left = unsafe { libc::read(pair.wake.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        assert_eq!(left, -1, "the wake was taken");
    }
    let other = pair.wake.try_clone().unwrap();
    let thread = std::thread::spawn(move || wake(&other));
    let until = far();
    pair.io.park(until);
    in_time(until);
    thread.join().unwrap();

    // And afterwards it sleeps again: nothing is left that would end every park at once.
    let until = clock::now() + Duration::from_millis(20);
    let mut parks = 0;
    while clock::now() < until {
        pair.io.park(Some(until));
        parks += 1;
    }
    assert!(parks < 10, "{parks} parks in 20 ms");
}

pub(super) fn ten_thousand_datagrams_all_arrive<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    let (remote, local) = (pair.remote.try_clone().unwrap(), pair.local);
    // All before the first receive, so that it does not depend on who is faster: 10,000 of 100 bytes fit into 8 MiB
    // only if they are accounted below 838 bytes each; 2,000 at a time always do.
    let mut seen = Vec::new();
    for round in 0..5_u32 {
        for index in 0..2_000_u32 {
            let mut bytes = [0; 100];
            bytes[..4].copy_from_slice(&(round * 2_000 + index).to_be_bytes());
            remote.send_to(&bytes, local).unwrap();
        }
        for (_, bytes) in pair.collect(2_000, 512) {
            seen.push(u32::from_be_bytes(bytes[..4].try_into().unwrap()));
        }
    }
    assert!(seen.into_iter().eq(0..10_000), "all of them, once, in order");
    assert_eq!(pair.io.tally().received, 10_000);
}

pub(super) fn at_most_max_are_given_and_the_rest_stays<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    for index in 0..300_u16 {
        pair.remote.send_to(&index.to_be_bytes(), pair.local).unwrap();
    }
    let all = pair.collect(300, 7);
    assert!(all.iter().map(|(_, bytes)| u16::from_be_bytes([bytes[0], bytes[1]])).eq(0..300));
    // Of both sockets together.
    let sockets = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    for socket in &sockets {
        for _ in 0..3 {
            pair.remote.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        }
    }
    let mut io = B::start(Sockets::new(sockets.map(Into::into).into(), eventfd()).unwrap(), 64);
    let (mut all, deadline) = (0, clock::now() + Duration::from_secs(20));
    while all < 6 && clock::now() < deadline {
        io.park(Some(deadline));
        let given = io.receive(4, |_| ());
        assert!(given <= 4, "{given}");
        all += given;
    }
    assert_eq!(all, 6);
    pair.remote.send_to(b"x", pair.local).unwrap();
    assert_eq!(pair.io.receive(0, |_| panic!("none was asked for")), 0);
    assert_eq!(pair.collect(1, 1).len(), 1);
}

pub(super) fn too_long_datagrams_are_dropped_and_counted<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    for length in [DATAGRAM_SIZE_MAX + 1, DATAGRAM_SIZE_MAX, 0, 9_000, 1] {
        pair.remote.send_to(&vec![3; length], pair.local).unwrap();
    }
    let sizes: Vec<_> = pair.collect(3, 8).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(sizes, [DATAGRAM_SIZE_MAX, 0, 1]);
    assert_eq!((pair.io.tally().malformed, pair.io.tally().received), (2, 3));
}

pub(super) fn two_sockets_are_both_served<B: Backend>() {
    let four = UdpSocket::bind("127.0.0.1:0").unwrap();
    let six = UdpSocket::bind("[::1]:0").unwrap();
    let locals = [four.local_addr().unwrap(), six.local_addr().unwrap()];
    let sockets = Sockets::new(vec![four.into(), six.into()], eventfd()).unwrap();
    let mut io = B::start(sockets, 64);
    let remotes = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap()];
    for (remote, local) in remotes.iter().zip(locals) {
        remote.send_to(b"x", local).unwrap();
    }
    let deadline = clock::now() + Duration::from_secs(20);
    let mut paths = Vec::new();
    while paths.len() < 2 && clock::now() < deadline {
        io.park(Some(deadline));
        io.receive(8, |datagram| paths.push(datagram.path()));
    }
    paths.sort_by_key(|path| path.local.is_ipv6());
    for ((path, local), remote) in paths.iter().zip(locals).zip(&remotes) {
        assert_eq!(*path, Path { local, remote: remote.local_addr().unwrap() });
        io.buffer().unwrap()[..3].fill(1);
        assert_eq!(io.send(path, 3, 3), Sent::Queued);
        io.submit();
        assert_eq!(remote.recv_from(&mut [0; 8]).unwrap(), (3, local));
    }
    assert_eq!(paths.len(), 2);
}

pub(super) fn nothing_is_allocated_once_it_runs<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    let path = pair.path();
    let mut bytes = [0_u8; 2_048];
    let mut round = |pair: &mut Pair<B>| {
        for _ in 0..100 {
            pair.remote.send_to(&bytes[..1_200], pair.local).unwrap();
        }
        let mut got = 0;
        while got < 100 {
            pair.io.park(Some(clock::now() + Duration::from_secs(20)));
            got += pair.io.receive(64, |datagram| datagram.bytes[0] ^= 1);
        }
        for _ in 0..100 {
            pair.io.buffer().unwrap()[..3_600].fill(9);
            assert_eq!(pair.io.send(&path, 3_600, 1_200), Sent::Queued);
        }
        pair.io.submit();
        for _ in 0..300 {
            pair.remote.recv_from(&mut bytes).unwrap();
        }
    };
    round(&mut pair);
    assert_eq!(allocations_in(|| (0..5).for_each(|_| round(&mut pair))), 0);
}

pub(super) fn a_parked_shard_costs_no_cpu<B: Backend>() {
    let mut pair = Pair::<B>::on("127.0.0.1:0");
    pair.remote.send_to(b"x", pair.local).unwrap();
    pair.collect(1, 8);
    let (before, until) = (clock::thread_cpu(), clock::now() + Duration::from_millis(200));
    while clock::now() < until {
        pair.io.park(Some(until));
    }
    // A loop that spins takes 200 ms, or what the machine gives it of them; a park takes some 20 us.
    let used = clock::thread_cpu() - before;
    assert!(used < Duration::from_millis(10), "{used:?}");
}

/// All of the suite for one backend.
macro_rules! suite {
    ($backend:ty: $($name:ident)*) => {
        $(#[test] fn $name() { crate::io::suite::$name::<$backend>(); })*
    };
    ($backend:ty) => {
        crate::io::suite::suite! { $backend:
            receives_with_both_addresses
            answers_from_the_address_that_was_asked
            a_run_arrives_as_its_segments
            a_full_socket_blocks_and_the_run_goes_later
            the_rest_of_a_run_holds_back_the_next
            refused_gso_goes_again_one_by_one
            a_path_that_is_not_ours_is_dropped_and_counted
            park_ends_by_datagram_wake_and_deadline
            ten_thousand_datagrams_all_arrive
            at_most_max_are_given_and_the_rest_stays
            too_long_datagrams_are_dropped_and_counted
            two_sockets_are_both_served
            nothing_is_allocated_once_it_runs
            a_parked_shard_costs_no_cpu
        }
    };
}
pub(super) use suite;
