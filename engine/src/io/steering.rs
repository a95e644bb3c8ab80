//! Steering: the kernel gives a publisher's datagrams to the shard that owns the publisher.
//!
//! The media port has one socket per shard (SO_REUSEPORT), and the kernel chooses by a hash of both addresses. Whose datagrams come to
//! another shard than its owner's (strays) is named here, and a thread has the kernel look at a list before it hashes: a program of
//! classic BPF on the group of sockets (SO_ATTACH_REUSEPORT_CBPF), which needs no privilege and is replaced at once. What waits in
//! another shard's socket at that moment crosses the mesh as before: nothing is lost or read twice. The program knows source addresses
//! only; whom it does not know, the kernel hashes.

use super::bound::Sockets;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// BPF_MAXINSNS.
const INSTRUCTIONS_MAX: usize = 4_096;
/// What is to be done gathers so long before it is done: a program takes some 100 us to make, and publishers come in crowds after a restart.
const GATHER: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Steered {
    slot: u32,
    remote: SocketAddr,
    shard: usize,
}

#[derive(Default)]
struct List {
    steered: Vec<Steered>,
    /// The kernel has not been told yet.
    is_new: bool,
    is_over: bool,
}

/// One for the process.
#[derive(Default)]
pub struct Steering {
    list: Mutex<List>,
    told: Condvar,
}

impl Steering {
    /// Datagrams from `remote` belong to `slot`, which is `shard`'s. They still go where they went, for some 50 ms.
    pub fn steer(&self, slot: u32, remote: SocketAddr, shard: usize) {
        let mut list = self.list();
        list.steered.retain(|known| known.slot != slot && known.remote != remote);
        // Beyond what one program can hold they cross the mesh, as they would without any of this.
        if list.steered.len() < INSTRUCTIONS_MAX {
            list.steered.push(Steered { slot, remote, shard });
        }
        list.is_new = true;
        self.told.notify_one();
    }

    /// The session of `slot` is over.
    pub fn forget(&self, slot: u32) {
        let mut list = self.list();
        let before = list.steered.len();
        list.steered.retain(|known| known.slot != slot);
        if list.steered.len() != before {
            list.is_new = true;
            self.told.notify_one();
        }
    }

    /// Tells the kernel what is new, until it is over. `groups`: one socket of each media address, whose group has a socket per shard in
    /// the shards' order. Where the kernel takes no program, strays cross the mesh.
    pub fn run(&self, groups: &[OwnedFd]) {
        // What a predecessor left: its sessions are gone.
        groups.iter().for_each(|group| attach(group, &[]));
        loop {
            let waiting = self.told.wait_while(self.list(), |list| !list.is_new && !list.is_over);
            drop(waiting);
            let stopping = self.told.wait_timeout_while(self.list(), GATHER, |list| !list.is_over);
            drop(stopping);
            let mut list = self.list();
            if list.is_over {
                return;
            }
            list.is_new = false;
            let steered = list.steered.clone();
            drop(list);
            groups.iter().for_each(|group| attach(group, &steered));
        }
    }

    pub fn stop(&self) {
        self.list().is_over = true;
        self.told.notify_all();
    }

    /// Whose datagrams belong to which shard.
    #[cfg(test)]
    pub fn named(&self) -> Vec<(SocketAddr, usize)> {
        self.list().steered.iter().map(|one| (one.remote, one.shard)).collect()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A second descriptor of one socket per media address.
pub fn groups(sockets: &Sockets) -> Vec<OwnedFd> {
    sockets.list().iter().filter_map(|socket| socket.duplicate().ok()).collect()
}

/// Those of `steered` who found room are looked for from now on, and nobody else.
fn attach(group: &OwnedFd, mut steered: &[Steered]) {
    while !steered.is_empty() {
        match hand_over(group, &program(steered)) {
            // net.core.optmem_max, which is small on older kernels: half as many, then.
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => steered = &steered[..steered.len() / 2],
            _ => return,
        }
    }
    let none = 0_i32;
    // JUSTIFICATION: socket2 has no such option.
    // SAFETY: the kernel reads one i32. Refused where there is no program.
    unsafe {
        let length = size_of::<i32>() as libc::socklen_t;
        libc::setsockopt(group.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, (&raw const none).cast(), length);
    }
}

fn hand_over(group: &OwnedFd, code: &[libc::sock_filter]) -> io::Result<()> {
    let name = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    // JUSTIFICATION: socket2 has no such option.
    // SAFETY: the kernel reads the name and as many instructions as it says; both live through the call.
    let result = unsafe {
        let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
        libc::setsockopt(group.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, (&raw const name).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// What classic BPF has (linux/filter.h, linux/bpf_common.h): one accumulator, loads from the packet, jumps forward.

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const GO: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the IP header begins, whatever the packet has been pulled to (SKF_NET_OFF).
const IP: u32 = -0x10_0000_i32 as u32;
/// No socket has this number: the kernel hashes.
const HASH: u32 = u32::MAX;

/// The program's parts, in order. A jump counts the instructions that it passes over.
type Code = Vec<libc::sock_filter>;

fn put(code: &mut Code, operation: u16, operand: u32) {
    code.push(libc::sock_filter { code: operation, jt: 0, jf: 0, k: operand });
}

fn put_if(code: &mut Code, operation: u16, operand: u32, (then, otherwise): (u8, u8)) {
    code.push(libc::sock_filter { code: operation, jt: then, jf: otherwise, k: operand });
}

/// Both families, as a socket may carry both; who does not fit into one program is left to the hash.
fn program(steered: &[Steered]) -> Code {
    let (mut four, mut six): (Vec<&Steered>, Vec<&Steered>) = steered.iter().partition(|one| one.remote.is_ipv4());
    loop {
        let code = both(&mut four, &mut six);
        if code.len() <= INSTRUCTIONS_MAX {
            return code;
        }
        four.truncate(four.len() * 3 / 4);
        six.truncate(six.len() * 3 / 4);
    }
}

fn both(four: &mut [&Steered], six: &mut [&Steered]) -> Code {
    let (mut of_four, mut of_six) = (Code::new(), Code::new());
    // The port stands behind the header, which is the shortest one, or the packet is left to the hash.
    put(&mut of_four, LOAD_BYTE, IP);
    put_if(&mut of_four, IF_EQUAL, 0x45, (1, 0));
    put(&mut of_four, RETURN, HASH);
    put(&mut of_four, LOAD_HALF, IP + 20);
    search(&mut of_four, four);
    const NEXT_IS_UDP: u32 = 17;
    put(&mut of_six, LOAD_BYTE, IP + 6);
    put_if(&mut of_six, IF_EQUAL, NEXT_IS_UDP, (1, 0));
    put(&mut of_six, RETURN, HASH);
    put(&mut of_six, LOAD_HALF, IP + 40);
    search(&mut of_six, six);
    let mut code = Code::new();
    put(&mut code, LOAD_BYTE, IP);
    put(&mut code, AND, 0xF0);
    put_if(&mut code, IF_EQUAL, 0x60, (0, 1));
    put(&mut code, GO, of_four.len() as u32);
    code.append(&mut of_four);
    code.append(&mut of_six);
    code
}

/// The accumulator holds the source port: finds it by halves.
fn search(code: &mut Code, steered: &mut [&Steered]) {
    steered.sort_by_key(|one| one.remote.port());
    let port = |one: &Steered| u32::from(one.remote.port());
    let (Some(first), Some(last)) = (steered.first(), steered.last()) else { return put(code, RETURN, HASH) };
    if port(first) == port(last) {
        put_if(code, IF_EQUAL, port(first), (1, 0));
        put(code, RETURN, HASH);
        steered.iter().for_each(|one| compare(code, one));
        return put(code, RETURN, HASH);
    }
    // Those of one port stay together.
    let middle = port(steered[steered.len() / 2]);
    let middle = if middle == port(first) { middle + 1 } else { middle };
    let (low, high) = steered.split_at_mut(steered.partition_point(|one| port(one) < middle));
    let mut of_low = Code::new();
    search(&mut of_low, low);
    put_if(code, IF_AT_LEAST, middle, (0, 1));
    put(code, GO, of_low.len() as u32);
    code.append(&mut of_low);
    search(code, high);
}

/// The port is right: is the address?
fn compare(code: &mut Code, one: &Steered) {
    let mut words = |at: u32, address: &[u8]| {
        let (words, _) = address.as_chunks::<4>();
        for (number, word) in words.iter().enumerate() {
            put(code, LOAD_WORD, IP + at + 4 * number as u32);
            // Past the rest of this one.
            let rest = 2 * (words.len() - number) - 1;
            put_if(code, IF_EQUAL, u32::from_be_bytes(*word), (0, rest as u8));
        }
    };
    match one.remote.ip() {
        IpAddr::V4(ip) => words(12, &ip.octets()),
        IpAddr::V6(ip) => words(8, &ip.octets()),
    }
    put(code, RETURN, one.shard as u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::UdpSocket;
    use std::os::fd::FromRawFd;

    /// Sockets of one group, as the supervisor binds them, on loopback.
    fn group(ip: &str, shards: usize) -> Vec<UdpSocket> {
        let mut address: SocketAddr = SocketAddr::new(ip.parse().unwrap(), 0);
        (0..shards)
            .map(|_| {
                let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
                // JUSTIFICATION: std binds before options can be set.
                // SAFETY: calls by values; the descriptor is new and ours.
                let socket = unsafe { OwnedFd::from_raw_fd(libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)) };
                let socket = socket2::Socket::from(socket);
                socket.set_reuse_port(true).unwrap();
                socket.bind(&address.into()).unwrap();
                socket.set_nonblocking(true).unwrap();
                let socket = UdpSocket::from(socket);
                address = socket.local_addr().unwrap();
                socket
            })
            .collect()
    }

    fn remote(ip: &str, to: SocketAddr) -> UdpSocket {
        let remote = UdpSocket::bind((ip, 0)).unwrap();
        remote.connect(to).unwrap();
        remote
    }

    /// Which sockets the datagrams that are there came to, and what they say.
    fn read(shards: &[UdpSocket]) -> Vec<(usize, u32)> {
        let mut found = Vec::new();
        for (shard, socket) in shards.iter().enumerate() {
            let mut bytes = [0; 8];
            while let Ok(length) = socket.recv(&mut bytes) {
                assert_eq!(length, 4);
                found.push((shard, u32::from_be_bytes(*bytes.first_chunk().unwrap())));
            }
        }
        found
    }

    fn handle(socket: &UdpSocket) -> OwnedFd {
        socket.try_clone().unwrap().into()
    }

    /// Goal: whoever is named comes to the shard that was named, whoever is not goes where the kernel's hash says, in both families. Method: a hundred
    /// remotes on two addresses, of which every other one is named; each sends one datagram before, with and after the program.
    #[test]
    fn who_is_named_comes_to_its_shard_and_who_is_not_is_hashed() {
        const SHARDS: usize = 3;
        for (ip, others) in [("127.0.0.1", ["127.0.0.1", "127.0.0.2"]), ("::1", ["::1", "::1"])] {
            let shards = group(ip, SHARDS);
            let group = handle(&shards[0]);
            let address = shards[0].local_addr().unwrap();
            let mut remotes: Vec<UdpSocket> = (0..100).map(|number| remote(others[number % 2], address)).collect();
            if address.is_ipv4() {
                // The same port on another address is somebody else.
                let port = remotes[0].local_addr().unwrap().port();
                let twin = UdpSocket::bind(("127.0.0.3", port)).unwrap();
                twin.connect(address).unwrap();
                remotes.insert(1, twin);
            }
            let landed = || {
                remotes.iter().zip(0_u32..).for_each(|(remote, number)| assert_eq!(remote.send(&number.to_be_bytes()).unwrap(), 4));
                let mut landed = read(&shards);
                landed.sort_by_key(|(_, number)| *number);
                assert_eq!(landed.len(), remotes.len());
                landed.into_iter().map(|(shard, _)| shard).collect::<Vec<_>>()
            };
            let hashed = landed();
            assert_eq!(hashed.iter().collect::<HashSet<_>>().len(), SHARDS, "the kernel spreads them");
            let name = |number: usize| Steered { slot: number as u32, remote: remotes[number].local_addr().unwrap(), shard: (hashed[number] + 1) % SHARDS };
            let steered: Vec<Steered> = (0..remotes.len()).step_by(2).map(name).collect();
            attach(&group, &steered);
            let expected: Vec<usize> = (0..remotes.len()).map(|number| if number % 2 == 0 { (hashed[number] + 1) % SHARDS } else { hashed[number] }).collect();
            assert_eq!(landed(), expected, "{ip}");
            attach(&group, &[]);
            assert_eq!(landed(), hashed);
        }
    }

    /// Goal: a move loses no datagram and makes none twice. Method: one remote sends without a pause while it is moved between two shards a thousand times.
    #[test]
    fn nothing_is_lost_while_a_publisher_is_moved() {
        const MOVES: u32 = 1_000;
        let shards = group("127.0.0.1", 2);
        let group = handle(&shards[0]);
        let remote = remote("127.0.0.1", shards[0].local_addr().unwrap());
        let address = remote.local_addr().unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let mut found = Vec::new();
        let sent = std::thread::scope(|scope| {
            let mover = scope.spawn(|| {
                for number in 0..MOVES {
                    attach(&group, &[Steered { slot: 1, remote: address, shard: number as usize % 2 }]);
                }
                is_over.store(true, std::sync::atomic::Ordering::Release);
            });
            let mut sent = 0_u32;
            while !is_over.load(std::sync::atomic::Ordering::Acquire) {
                // Fewer than wait in a socket at most.
                for _ in 0..8 {
                    assert_eq!(remote.send(&sent.to_be_bytes()).unwrap(), 4);
                    sent += 1;
                }
                found.append(&mut read(&shards));
            }
            mover.join().unwrap();
            sent
        });
        found.append(&mut read(&shards));
        let on = |shard: usize| found.iter().filter(|(at, _)| *at == shard).count();
        assert!(on(0) > 0 && on(1) > 0, "it was moved while it sent: {} and {}", on(0), on(1));
        let mut numbers: Vec<u32> = found.into_iter().map(|(_, number)| number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..sent).collect::<Vec<_>>());
    }

    /// Goal: as many as fit are steered, and a crowd is no error. Method: more publishers than a program has room for; the kernel takes what is made of them.
    #[test]
    fn a_crowd_makes_a_program_that_the_kernel_takes() {
        let shards = group("127.0.0.1", 2);
        let crowd = |family: &dyn Fn(u32) -> IpAddr| -> Vec<Steered> {
            let one = |number: u32| Steered { slot: number, remote: SocketAddr::new(family(number), (number * 7) as u16), shard: 1 };
            (0..6_000).map(one).collect()
        };
        let four = crowd(&|number| IpAddr::from((number | 10 << 24).to_be_bytes()));
        let six = crowd(&|number| IpAddr::from((u128::from(number) | 0xFD << 120).to_be_bytes()));
        for crowd in [&four[..], &six[..], &[&four[..3_000], &six[..3_000]].concat()[..]] {
            let code = program(crowd);
            assert!(code.len() <= INSTRUCTIONS_MAX && code.len() > INSTRUCTIONS_MAX / 2, "{}", code.len());
            assert!(matches!(hand_over(&handle(&shards[0]), &code).map_err(|error| error.raw_os_error()), Ok(()) | Err(Some(libc::ENOMEM))));
        }
    }

    /// Goal: what is told reaches the kernel, for as long as the session lasts, and a publisher has one address. Method: the thread itself.
    #[test]
    fn what_is_told_reaches_the_kernel() {
        let shards = group("127.0.0.1", 2);
        let to = shards[0].local_addr().unwrap();
        let remotes = [remote("127.0.0.1", to), remote("127.0.0.1", to)];
        let lands = |remote: &UdpSocket| {
            remote.send(&[0; 4]).unwrap();
            read(&shards)[0].0
        };
        let hashed = [lands(&remotes[0]), lands(&remotes[1])];
        let steering = Steering::default();
        let groups = [handle(&shards[0])];
        // A predecessor's, whose sessions are gone.
        attach(&groups[0], &[Steered { slot: 3, remote: remotes[1].local_addr().unwrap(), shard: 1 - hashed[1] }]);
        /// Also where an assertion fails: the scope waits for its threads.
        struct Stop<'a>(&'a Steering);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.stop();
            }
        }
        std::thread::scope(|scope| {
            let _stop = Stop(&steering);
            scope.spawn(|| steering.run(&groups));
            let comes_to = |remote: usize, shard: usize| {
                let deadline = std::time::Instant::now() + Duration::from_secs(10);
                while lands(&remotes[remote]) != shard {
                    assert!(std::time::Instant::now() < deadline, "remote {remote} does not come to shard {shard}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let elsewhere = [1 - hashed[0], 1 - hashed[1]];
            comes_to(1, hashed[1]);
            steering.steer(7, remotes[0].local_addr().unwrap(), elsewhere[0]);
            comes_to(0, elsewhere[0]);
            // Its network changed: the session is where it was, the first address is somebody else's.
            steering.steer(7, remotes[1].local_addr().unwrap(), elsewhere[1]);
            comes_to(1, elsewhere[1]);
            comes_to(0, hashed[0]);
            steering.forget(7);
            comes_to(1, hashed[1]);
        });
    }
}
