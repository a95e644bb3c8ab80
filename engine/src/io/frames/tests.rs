//! Frames over real kernels: a network of the test's own, a cable out of it, and plain sockets in another network at its end.
//!
//! Method: what a socket there receives is compared with what was sent. Needs root (namespaces).

use super::netlink::network::{enter, run, thread, within};
use super::rules::tests::chain;
use super::*;
use crate::alloc_count::allocations_in;
use crate::clock;
use crate::io::bound::Sockets;
use crate::io::socket::Socket;
use crate::io::suite::{self, Backend, eventfd, room_to_receive};
use std::collections::VecDeque;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// No address makes itself: that would be news at any time.
const NEAR: &str = "link set lo up
    link add v0 address 02:00:00:00:00:01 type veth peer name v1 address 02:00:00:00:00:02
    link set v0 addrgenmode none";
const NEAR_UP: &str = "address replace 10.0.0.1/24 dev v0
    address replace 2001:db8::1/64 dev v0 nodad
    link set v0 up";
const FAR_UP: &str = "link set v1 addrgenmode none
    address add 10.0.0.2/24 dev v1
    address add 10.0.0.3/24 dev v1
    address add 2001:db8::2/64 dev v1 nodad
    link set v1 up";
const KNOWN: &str = "neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent
    neighbour replace 10.0.0.3 lladdr 02:00:00:00:00:02 dev v0 nud permanent
    neighbour replace 2001:db8::2 lladdr 02:00:00:00:00:02 dev v0 nud permanent";

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        std::thread::yield_now();
    }
}

/// The network at the cable's other end.
struct Far {
    thread: i32,
    lines: Sender<String>,
    sockets: Receiver<Vec<UdpSocket>>,
}

impl Far {
    fn new() -> Far {
        let ((lines, to_run), (tell, told), (give, sockets)) = (channel::<String>(), channel(), channel());
        std::thread::spawn(move || {
            enter();
            tell.send(thread()).unwrap();
            while let Ok(lines) = to_run.recv() {
                run(&lines);
                // One for each address there is.
                let addresses = ["10.0.0.2:5000", "10.0.0.3:5000", "[2001:db8::2]:5000"];
                let _ = give.send(addresses.into_iter().filter_map(|address| UdpSocket::bind(address).ok()).collect());
            }
        });
        Far { thread: told.recv().unwrap(), lines, sockets }
    }

    fn run(&self, lines: &str) -> Vec<UdpSocket> {
        self.lines.send(lines.to_owned()).unwrap();
        let sockets = self.sockets.recv().unwrap();
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            room_to_receive(socket, 64 << 20);
        }
        sockets
    }
}

/// A backend at one end, sockets at the other.
struct Cable {
    io: Frames<Socket>,
    allowed: Arc<AtomicBool>,
    /// 10.0.0.1 and 2001:db8::1
    locals: [SocketAddr; 2],
    /// 10.0.0.2, 10.0.0.3, 2001:db8::2
    remotes: Vec<UdpSocket>,
    far: Far,
    sent: u8,
}

impl Cable {
    fn new(lines: &str) -> Cable {
        let far = Far::new();
        run(NEAR);
        let remotes = plug(&far);
        run(lines);
        let sockets = ["10.0.0.1:0", "[2001:db8::1]:0"].map(|address| UdpSocket::bind(address).unwrap());
        let locals = [0, 1].map(|at: usize| sockets[at].local_addr().unwrap());
        let allowed = Arc::new(AtomicBool::new(true));
        let below = Socket::new(Sockets::new(sockets.map(Into::into).into(), eventfd()).unwrap(), 64);
        let io = Frames::new(below, Arc::clone(&allowed), 7).unwrap();
        Cable { io, allowed, locals, remotes, far, sent: 0 }
    }

    fn path(&self, to: usize) -> Path {
        let remote = self.remotes[to].local_addr().unwrap();
        Path { local: self.locals[usize::from(remote.is_ipv6())], remote }
    }

    /// Bytes that no other run has in this order.
    fn fill(&mut self, length: usize) -> Vec<u8> {
        self.sent = self.sent.wrapping_add(1);
        let bytes: Vec<u8> = (0..length).map(|at| ((at * 31 + at / 251) as u8).wrapping_add(self.sent)).collect();
        self.io.buffer().expect("a buffer")[..length].copy_from_slice(&bytes);
        bytes
    }

    fn send(&mut self, to: usize, length: usize, segment: usize) -> Vec<u8> {
        let (bytes, path) = (self.fill(length), self.path(to));
        self.io.turn_of(to as u32);
        assert_eq!(self.io.send(&path, length, segment), Sent::Queued);
        bytes
    }

    fn arrives(&self, to: usize, bytes: &[u8], segment: usize) {
        let mut got = [0; 65_536];
        for part in bytes.chunks(segment) {
            let (length, from) = self.remotes[to].recv_from(&mut got).expect("a datagram within ten seconds");
            assert_eq!(from, self.path(to).local);
            assert_eq!(length, part.len());
            assert!(got[..length] == *part, "what arrived is not what was sent");
        }
    }

    fn nothing_arrives(&self) {
        for remote in &self.remotes {
            remote.set_nonblocking(true).unwrap();
            assert!(remote.recv_from(&mut [0; 9]).is_err());
            remote.set_nonblocking(false).unwrap();
        }
    }

    fn framed(&self) -> u64 {
        self.io.tally().framed
    }

    /// Ticks as a shard does until news were looked at again.
    fn tick(&mut self) {
        let again = clock::now() + LOOK_EVERY;
        while clock::now() <= again {
            self.io.park(Some(again));
        }
        self.io.receive(64, |_| ());
        self.io.submit();
    }
}

/// The far end of the cable goes into its network, and both ends get their addresses.
fn plug(far: &Far) -> Vec<UdpSocket> {
    run(&format!("link set v1 netns {}", far.thread));
    let remotes = far.run(FAR_UP);
    run(NEAR_UP);
    until("the cable is seen up", || run("-o link show v0").contains("state UP"));
    remotes
}

/// Goal: at the other end nobody can tell. Method: runs with a shorter last segment, single datagrams, two destinations, both families;
/// with a device that makes checksums and cuts, with one that does not, and with a receiver that looks at every checksum.
#[test]
fn runs_arrive_as_their_datagrams() {
    const RUNS: [(usize, usize); 8] = [(9 * 1_216 + 160, 1_216), (1, 1), (2_400, 1_200), (1_201, 1_200), (160, 1_216), (64 * 90, 90), (77, 0), (5, 2)];
    for offloads in ["", "[ethtool] -K v0 tso off gso off", "[ethtool] -K v0 tx off", "[ethtool] -K v0 tx off sg off"] {
        within("", || {
            let mut cable = Cable::new(KNOWN);
            run(offloads);
            if !offloads.is_empty() {
                cable.remotes.clear();
                cable.remotes = cable.far.run("[ethtool] -K v1 rx off");
            }
            let (mut sent, mut datagrams) = (Vec::new(), 0);
            for _ in 0..20 {
                for to in 0..3 {
                    for (length, segment) in RUNS {
                        let segment = if segment == 0 { length } else { segment };
                        datagrams += length.div_ceil(segment) as u64;
                        sent.push((to, cable.send(to, length, segment), segment));
                    }
                    cable.io.submit();
                }
                sent.drain(..).for_each(|(to, bytes, segment)| cable.arrives(to, &bytes, segment));
                cable.nothing_arrives();
            }
            let tally = cable.io.tally();
            assert_eq!((tally.framed, tally.sent, tally.sends), (datagrams, datagrams, 20 * 3 * RUNS.len() as u64), "{offloads}");
            assert_eq!((tally.dropped, tally.blocked), (0, 0));
        });
    }
}

/// Goal: no two datagrams of a destination that may be made into fragments have one identification. Method: what leaves is read from the cable.
#[test]
fn identifications_do_not_repeat() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        let mut tap = socket2::Socket::new(libc::AF_PACKET.into(), socket2::Type::RAW, Some(i32::from(3_u16.to_be()).into())).unwrap();
        for _ in 0..5 {
            for (length, segment) in [(9_000, 1_000), (100, 100), (2_000, 1_000)] {
                cable.send(0, length, segment);
                cable.io.submit();
            }
        }
        let (mut next, mut runs) = (None, 0);
        let mut bytes = [0; 16_384];
        while runs < 15 {
            let length = tap.read(&mut bytes).unwrap();
            let frame = &bytes[..length];
            if frame[..12] != [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1] || frame[23] != 17 {
                continue;
            }
            // One that is not cut yet: the cut counts on from its first.
            let first = u16::from_be_bytes([frame[18], frame[19]]);
            assert!(next.is_none_or(|next| next == first), "{next:?}, {first}");
            let segment = if length > 1_000 { 1_000 } else { 100 };
            next = Some(first.wrapping_add((length - 42).div_ceil(segment) as u16));
            runs += 1;
        }
    });
}

/// Goal: the kernel resolves whom frames cannot be sent to yet, and no run is lost or mixed up with another by where it was sealed.
/// Method: all four of lent and used: the ring and below, each for itself and for the other; then one ring for another.
#[test]
fn what_is_sealed_for_one_way_goes_the_other() {
    within("", || {
        let mut cable = Cable::new("");
        // Below, and used below: nobody knows the neighbour.
        let bytes = cable.send(0, 2_500, 1_200);
        assert_eq!((cable.io.lent, cable.framed()), (Lent::Nothing, 0));
        cable.arrives(0, &bytes, 1_200);
        // Below, but the neighbour is known now: copied into the ring.
        until("the neighbour is used", || {
            cable.tick();
            cable.io.routes.address(cable.io.ways.get(0, &cable.path(0), || None).unwrap().hop).is_some()
        });
        cable.io.lent = Lent::Below;
        let bytes = cable.fill(2_500);
        assert_eq!(cable.io.lent, Lent::Below);
        let path = cable.path(0);
        assert_eq!(cable.io.send(&path, 2_500, 1_200), Sent::Queued);
        cable.io.submit();
        cable.arrives(0, &bytes, 1_200);
        assert_eq!(cable.framed(), 3);
        // The ring, and used as it stands.
        let bytes = cable.fill(2_500);
        assert_eq!(cable.io.lent, Lent::Ring(0));
        assert_eq!(cable.io.send(&path, 2_500, 1_200), Sent::Queued);
        cable.io.submit();
        cable.arrives(0, &bytes, 1_200);
        assert_eq!(cable.framed(), 6);
        // The ring, but this neighbour is not known; and something that is not media.
        let bytes = cable.fill(1_300);
        assert_eq!(cable.io.lent, Lent::Ring(0));
        let path = cable.path(1);
        assert_eq!(cable.io.send(&path, 1_300, 1_200), Sent::Queued);
        cable.arrives(1, &bytes, 1_200);
        let bytes = cable.fill(99);
        let path = cable.path(0);
        assert_eq!(cable.io.send_beside(&path, 99), Sent::Queued);
        cable.arrives(0, &bytes, 99);
        assert_eq!(cable.framed(), 6);

        // Another device's ring: a second cable, of which only the frames count.
        run("link add w0 address 02:00:00:00:00:03 type veth peer name w1
            link set w1 up
            address add 10.0.9.1/24 dev w0
            link set w0 up
            neighbour add 10.0.9.2 lladdr 02:00:00:00:00:04 dev w0 nud permanent");
        until("the cable is seen up", || run("-o link show w0").contains("state UP"));
        let other = Path { local: "10.0.9.1:4000".parse().unwrap(), remote: "10.0.9.2:5000".parse().unwrap() };
        cable.tick();
        cable.fill(50);
        assert_eq!(cable.io.send(&other, 50, 50), Sent::Queued);
        assert_eq!((cable.framed(), cable.io.last), (7, 1));
        let bytes = cable.fill(2_500);
        assert_eq!(cable.io.lent, Lent::Ring(1));
        assert_eq!(cable.io.send(&path, 2_500, 1_200), Sent::Queued);
        cable.io.submit();
        cable.arrives(0, &bytes, 1_200);
        assert_eq!((cable.framed(), cable.io.last), (10, 0));
        cable.nothing_arrives();
    });
}

/// Goal: a run that is being sealed stays where it is. Method: the ring has no room, gets some, and the buffer is asked for again.
#[test]
fn the_buffer_stays_the_same_until_it_is_sent() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        cable.send(0, 100, 100);
        cable.io.lent = Lent::Below;
        let first = cable.io.buffer().unwrap().as_ptr();
        assert_eq!(cable.io.buffer().unwrap().as_ptr(), first);
        cable.io.submit();
        assert_eq!(cable.io.buffer().unwrap().as_ptr(), first);
        assert_eq!(cable.io.lent, Lent::Below, "though the ring has room");
        cable.send(0, 100, 100);
        let second = cable.io.buffer().unwrap().as_ptr();
        assert!(second != first && cable.io.lent == Lent::Ring(0));
        assert_eq!(cable.io.buffer().unwrap().as_ptr(), second);
    });
}

/// Goal: a device that goes takes nothing with it but what was on its way. Method: down and up, gone and made anew, sending all the time.
#[test]
fn a_device_that_goes_is_done_without() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        let bytes = cable.send(0, 100, 100);
        cable.io.submit();
        cable.arrives(0, &bytes, 100);
        for (goes, comes) in [("link set v0 down", ""), ("link delete v0", NEAR)] {
            let before = cable.io.tally();
            for _ in 0..3 {
                cable.send(0, 2_400, 1_200);
            }
            run(goes);
            cable.io.submit();
            assert_eq!(cable.io.tally().dropped, before.dropped + 3, "{goes}: what was on its way");
            // The kernel has no route, and drops them; nothing waits.
            let began = Instant::now();
            for _ in 0..5 {
                cable.tick();
                let (bytes, path) = (cable.fill(100), cable.path(0));
                assert!(bytes.len() == 100 && cable.io.send(&path, 100, 100) == Sent::Queued);
            }
            assert!(began.elapsed() < Duration::from_secs(1));
            assert_eq!((cable.framed(), cable.io.tally().dropped), (before.framed + 6, before.dropped + 8), "{goes}: tried and dropped");
            assert!(cable.io.devices.iter().all(|device| device.ring.is_none()), "{goes}: its ring is closed");

            run(comes);
            if comes.is_empty() {
                run(NEAR_UP);
                until("the cable is seen up", || run("-o link show v0").contains("state UP"));
            } else {
                cable.remotes.clear();
                cable.remotes = plug(&cable.far);
            }
            run(KNOWN);
            let framed = cable.framed();
            until("frames are used again", || {
                cable.tick();
                let bytes = cable.send(0, 100, 100);
                cable.io.submit();
                cable.arrives(0, &bytes, 100);
                cable.framed() > framed
            });
            assert_eq!(cable.io.devices.iter().filter(|device| device.ring.is_some()).count(), 1);
        }
    });
}

/// Goal: devices that come and go use nothing up. Method: more of them, one after the other, than a shard has rings.
#[test]
fn devices_that_went_leave_their_places() {
    within("link set lo up", || {
        let below = Socket::new(Sockets::new(vec![UdpSocket::bind("0.0.0.0:4000").unwrap().into()], eventfd()).unwrap(), 64);
        let mut io = Frames::new(below, Arc::new(AtomicBool::new(true)), 7).unwrap();
        let path = Path { local: "10.0.0.1:4000".parse().unwrap(), remote: "10.0.0.2:5000".parse().unwrap() };
        for times in 1..=2 * DEVICES_MAX as u64 {
            run("link add v0 type veth peer name v1
                link set v1 up
                address add 10.0.0.1/24 dev v0
                link set v0 up
                neighbour add 10.0.0.2 lladdr 02:00:00:00:00:02 dev v0 nud permanent");
            until("the cable is used", || {
                let again = clock::now() + LOOK_EVERY;
                while clock::now() <= again {
                    io.park(Some(again));
                }
                io.receive(8, |_| ());
                io.buffer().unwrap()[..50].fill(7);
                assert_eq!(io.send(&path, 50, 50), Sent::Queued);
                io.submit();
                io.tally().framed >= times
            });
            let framed = io.tally().framed;
            assert_eq!(framed, times);
            run("link delete v0");
        }
    });
}

#[test]
fn what_may_not_be_framed_goes_by_the_kernel_at_once() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        let bytes = cable.send(0, 2_500, 1_200);
        cable.io.submit();
        cable.arrives(0, &bytes, 1_200);
        for (allowed, framed) in [(false, 3), (true, 6)] {
            cable.allowed.store(allowed, Ordering::Relaxed);
            cable.io.receive(8, |_| ());
            let bytes = cable.send(0, 2_500, 1_200);
            cable.io.submit();
            cable.arrives(0, &bytes, 1_200);
            assert_eq!((cable.framed(), cable.io.tally().sent), (framed, if allowed { 9 } else { 6 }));
        }
    });
}

/// Goal: a ring that the device does not empty is back-pressure, no loss, and no sleep. Method: a queue that lets little through.
#[test]
fn a_ring_without_room_blocks_and_recovers() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        // 12 kB a ms; the burst is longer than a run, so that runs stay whole, in their places.
        run("[tc] qdisc add dev v0 root tbf rate 100mbit burst 100kb latency 2s");
        let path = cable.path(0);
        let (mut sent, mut blocked) = (VecDeque::new(), 0);
        for _ in 0..400 {
            let bytes = cable.fill(12_000);
            if cable.io.send(&path, 12_000, 1_200) == Sent::Queued {
                sent.push_back(bytes);
                continue;
            }
            blocked += 1;
            cable.io.submit();
            // Nobody else wakes it.
            let far = clock::now() + Duration::from_secs(20);
            cable.io.park(Some(far));
            assert!(clock::now() < far, "slept though there was room");
            while sent.len() > 32 {
                let bytes = sent.pop_front().unwrap();
                cable.arrives(0, &bytes, 1_200);
            }
        }
        assert!(blocked > 0 && cable.io.tally().blocked == blocked, "{blocked}");
        cable.io.submit();
        sent.iter().for_each(|bytes| cable.arrives(0, bytes, 1_200));
        cable.nothing_arrives();
    });
}

/// Goal: what the device's own rules drop is lost alone. Method: a chain at the device's way out that drops; what was pushed meanwhile
/// does not come when it is gone.
#[test]
fn what_the_device_refuses_holds_nobody_back() {
    const NETDEV: u8 = 5;
    within("", || {
        let mut cable = Cable::new(KNOWN);
        chain(NETDEV, "house", 1, Some("v0"), false);
        for _ in 0..100 {
            cable.send(0, 2_500, 1_200);
        }
        cable.io.submit();
        assert_eq!(cable.io.kick(), false, "nothing waits");
        let refused = cable.io.tally().dropped;
        assert_eq!(refused, 100);
        chain(NETDEV, "house", 1, Some("v0"), true);
        for _ in 0..100 {
            let bytes = cable.send(0, 2_500, 1_200);
            cable.io.submit();
            cable.arrives(0, &bytes, 1_200);
        }
        assert_eq!((cable.io.tally().dropped, cable.io.tally().framed), (100, 600));
    });
}

/// What is longer than the way is the kernel's: it makes fragments of it, or does not.
#[test]
fn segments_beyond_the_mtu_are_the_kernels() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        // Behind one that is too long all are, so that none overtakes it. Of IPv6 the way may take less than the device.
        for (to, length, is_framed) in [(0, 1_472, true), (0, 1_473, false), (0, 100, false), (2, 1_232, true), (2, 1_233, false), (2, 100, false)] {
            let before = cable.framed();
            let bytes = cable.send(to, length, length);
            cable.io.submit();
            cable.arrives(to, &bytes, length);
            assert_eq!(cable.framed() > before, is_framed, "{to}: {length}");
        }
        run("link set v0 mtu 9000");
        cable.far.run("link set v1 mtu 9000");
        cable.tick();
        let before = cable.framed();
        let bytes = cable.send(0, 40_000, 8_972);
        cable.io.submit();
        cable.arrives(0, &bytes, 8_972);
        assert_eq!(cable.framed(), before + 5);
    });
}

/// Goal: a device with another header than Ethernet's is not taken for one, and nothing is sent to find out. Method: a tunnel without any, as
/// VLANs are not in every kernel; and an MTU that is not the device's, which looks as a longer header does.
#[test]
fn a_device_with_another_header_is_known() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        run("tuntap add t0 mode tun
            link set t0 addrgenmode none
            link set t0 up");
        let index = |name: &str| run(&format!("-o link show {name}")).split(':').next().unwrap().parse::<u32>().unwrap();
        let prober = Prober::open().unwrap();
        assert!(prober.is_plain(index("v0"), 1_500));
        assert!(!prober.is_plain(index("t0"), 1_500));
        assert!(!prober.is_plain(index("v0"), 1_496) && !prober.is_plain(index("v0"), 1_504) && !prober.is_plain(99, 1_500));
        cable.nothing_arrives();
        // A ring of one that became such is closed within a second, and opened again where it is one no more.
        let bytes = cable.send(0, 100, 100);
        cable.io.submit();
        cable.arrives(0, &bytes, 100);
        cable.io.devices[0].index = index("t0");
        until("the ring is closed", || {
            cable.tick();
            cable.io.devices[0].ring.is_none()
        });
        cable.io.devices[0].index = index("v0");
        until("the ring is open", || {
            cable.tick();
            let bytes = cable.send(0, 100, 100);
            cable.io.submit();
            cable.arrives(0, &bytes, 100);
            cable.io.devices[0].ring.is_some()
        });
    });
}

#[test]
fn nothing_is_allocated_once_paths_are_known() {
    within("", || {
        let mut cable = Cable::new(KNOWN);
        let paths = [0, 1, 2].map(|to| cable.path(to));
        let round = |io: &mut Frames<Socket>| {
            for (who, path) in (0..).zip(&paths) {
                io.receive(64, |_| ());
                io.look_ahead(who);
                io.turn_of(who);
                io.buffer().unwrap()[..2_500].fill(7);
                assert_eq!(io.send(path, 2_500, 1_200), Sent::Queued);
            }
            io.submit();
        };
        round(&mut cable.io);
        assert_eq!(allocations_in(|| (0..50).for_each(|_| round(&mut cable.io))), 0);
        assert_eq!(cable.framed(), 51 * 9);
    });
}

impl Backend for Frames<Socket> {
    const NAME: &str = "frames";
    fn start(sockets: Sockets, gso_segments: usize) -> Frames<Socket> {
        Frames::new(Socket::start(sockets, gso_segments), Arc::new(AtomicBool::new(true)), 7).unwrap()
    }
    fn faults(&mut self) -> &mut VecDeque<i32> {
        self.below.faults()
    }
}

// Over loopback everything passes below.
suite::suite!(Frames<Socket>);
