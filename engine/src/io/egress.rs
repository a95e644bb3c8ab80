//! What both backends know about sending: how a run is cut, and what the kernel's answer to a send means.
//!
//! A run is one buffer to one destination, cut into segments. It goes out in parts of as many segments as one GSO
//! send takes; normally that is the whole run. Where GSO is refused for a destination the parts are single segments.
//! Makes no system call.

use std::net::IpAddr;

use spillway_proto::limits::SEND_SIZE_MAX;

use super::sizes::REFUSALS;
use super::{Path, Tally};

/// A run on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub path: Path,
    pub socket: usize,
    /// The first byte that is not sent yet.
    pub offset: usize,
    pub length: usize,
    pub segment: usize,
    /// Segments per send, from now on.
    segments: usize,
    /// GSO was refused within this run.
    refused: bool,
}

impl Run {
    /// Bytes of the next send.
    pub fn part(&self) -> usize {
        (self.length - self.offset).min(self.segment * self.segments)
    }
    /// The segment size to name in the next send, where it is more than one datagram.
    pub fn cut(&self) -> Option<u16> {
        // segment < part <= SEND_SIZE_MAX < 65,536.
        (self.part() > self.segment).then_some(self.segment as u16)
    }
    pub fn untouched(&self) -> bool {
        self.offset == 0
    }
}

/// What to do with a run after a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The buffer is free.
    Done,
    /// Send its next part now.
    Again,
    /// The socket is full: the same part again when it is writable.
    WhenWritable,
    /// The kernel has no memory: the same part again a little later.
    Later,
}

/// A destination that refused GSO, and the smallest segment it refused.
#[derive(Clone, Copy)]
struct Refusal {
    remote: IpAddr,
    segment: usize,
}

pub(crate) struct Egress {
    pub tally: Tally,
    gso_segments: usize,
    /// One bucket per hash of an address: a newcomer replaces the older one.
    refusals: Box<[Option<Refusal>]>,
    /// Answers to give instead of the kernel's (0: ask the kernel), for tests of what loopback never does.
    #[cfg(test)]
    pub faults: std::collections::VecDeque<i32>,
}

impl Egress {
    pub fn new(gso_segments: usize) -> Egress {
        Egress {
            tally: Tally::default(),
            gso_segments: gso_segments.max(1),
            refusals: vec![None; REFUSALS].into_boxed_slice(),
            #[cfg(test)]
            faults: Default::default(),
        }
    }

    pub fn gso_segments(&self) -> usize {
        self.gso_segments
    }

    /// A test's answer to the next send, which then does not reach the kernel.
    #[inline]
    pub fn fault(&mut self) -> Option<i32> {
        #[cfg(test)]
        return self.faults.pop_front().filter(|fault| *fault != 0);
        #[cfg(not(test))]
        None
    }

    /// A run as the caller asks for it; None where there is nothing to send.
    pub fn run(&self, path: &Path, socket: usize, length: usize, segment: usize) -> Option<Run> {
        let length = length.min(SEND_SIZE_MAX);
        if length == 0 {
            return None;
        }
        let segment = if segment == 0 { length } else { segment.min(length) };
        let refused = self.refusals[bucket(path.remote.ip())]
            .is_some_and(|refusal| refusal.remote == path.remote.ip() && segment >= refusal.segment);
        let segments = if refused { 1 } else { self.gso_segments };
        Some(Run { path: *path, socket, offset: 0, length, segment, segments, refused: false })
    }

    /// The kernel's answer to the send of `run.part()`: its bytes, or a negative error number.
    pub fn settle(&mut self, run: &mut Run, result: i32) -> Next {
        if result >= 0 {
            let part = run.part();
            self.tally.sends += 1;
            self.tally.sent += part.div_ceil(run.segment) as u64;
            if run.refused {
                // Single datagrams pass where GSO did not: this destination's device cannot do it.
                self.remember(run);
                run.refused = false;
            }
            run.offset += part;
            return if run.offset < run.length { Next::Again } else { Next::Done };
        }
        match -result {
            libc::EAGAIN => {
                self.tally.blocked += 1;
                Next::WhenWritable
            }
            libc::ENOBUFS | libc::ENOMEM => {
                self.tally.blocked += 1;
                Next::Later
            }
            libc::EINTR => Next::Again,
            // EMSGSIZE (EINVAL on older kernels): a segment above the device's MTU. EIO, EINVAL: no checksum offload.
            libc::EMSGSIZE | libc::EINVAL | libc::EIO if run.cut().is_some() => {
                self.tally.one_by_one += 1;
                run.segments = 1;
                run.refused = true;
                Next::Again
            }
            _ => {
                self.tally.dropped += 1;
                Next::Done
            }
        }
    }

    fn remember(&mut self, run: &Run) {
        let remote = run.path.remote.ip();
        let place = &mut self.refusals[bucket(remote)];
        let smallest = match place {
            Some(old) if old.remote == remote => old.segment.min(run.segment),
            _ => run.segment,
        };
        *place = Some(Refusal { remote, segment: smallest });
    }
}

/// Fibonacci hashing of the address. Whoever finds collisions makes two destinations slower, nothing else.
fn bucket(address: IpAddr) -> usize {
    let folded = match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64 ^ (v6.to_bits() as u64).rotate_left(32),
    };
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - REFUSALS.ilog2())) as usize
}

const _: () = assert!(REFUSALS.is_power_of_two());
const _: () = assert!(SEND_SIZE_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn path(remote: &str) -> Path {
        Path { local: "127.0.0.1:1".parse().unwrap(), remote: remote.parse().unwrap() }
    }

    fn run(egress: &Egress, length: usize, segment: usize) -> Run {
        egress.run(&path("192.0.2.1:9"), 0, length, segment).unwrap()
    }

    #[test]
    fn a_run_goes_in_parts_of_whole_segments() {
        let mut egress = Egress::new(4);
        let mut run = run(&egress, 950, 100);
        let mut parts = Vec::new();
        loop {
            parts.push((run.part(), run.cut()));
            let part = run.part() as i32;
            if egress.settle(&mut run, part) == Next::Done {
                break;
            }
        }
        assert_eq!(parts, [(400, Some(100)), (400, Some(100)), (150, Some(100))]);
        assert_eq!((egress.tally.sends, egress.tally.sent), (3, 10));
    }

    #[test]
    fn without_gso_and_for_odd_sizes_nothing_is_cut() {
        let egress = Egress::new(1);
        assert_eq!((run(&egress, 950, 100).part(), run(&egress, 950, 100).cut()), (100, None));
        let egress = Egress::new(64);
        assert_eq!((run(&egress, 950, 0).part(), run(&egress, 950, 0).cut()), (950, None));
        assert_eq!((run(&egress, 950, 2_000).part(), run(&egress, 950, 2_000).cut()), (950, None));
        assert_eq!(run(&egress, usize::MAX, usize::MAX).part(), SEND_SIZE_MAX);
        assert!(egress.run(&path("192.0.2.1:9"), 0, 0, 100).is_none());
    }

    #[test]
    fn a_refusal_is_remembered_for_its_destination_and_size_once_single_datagrams_pass() {
        let mut egress = Egress::new(64);
        let mut first = run(&egress, 3_000, 1_400);
        assert_eq!(egress.settle(&mut first, -libc::EMSGSIZE), Next::Again);
        assert_eq!((first.part(), first.cut()), (1_400, None));
        assert_eq!(run(&egress, 3_000, 1_400).part(), 3_000, "not before a single one has passed");
        assert_eq!(egress.settle(&mut first, 1_400), Next::Again);
        assert_eq!(egress.settle(&mut first, 1_400), Next::Again);
        assert_eq!(egress.settle(&mut first, 200), Next::Done);
        assert_eq!(run(&egress, 3_000, 1_400).part(), 1_400, "remembered");
        assert_eq!(run(&egress, 3_000, 1_000).part(), 3_000, "smaller segments still go as one");
        let other = egress.run(&path("192.0.2.2:9"), 0, 3_000, 1_400).unwrap();
        assert_eq!(other.part(), 3_000, "another destination does not suffer");
        assert_eq!((egress.tally.one_by_one, egress.tally.dropped, egress.tally.sent), (1, 0, 3));
    }

    #[test]
    fn a_run_that_is_refused_for_another_reason_is_dropped_and_not_remembered() {
        let mut egress = Egress::new(64);
        let mut first = run(&egress, 3_000, 1_400);
        // EINVAL also says "not your address": single datagrams fail as well.
        assert_eq!(egress.settle(&mut first, -libc::EINVAL), Next::Again);
        assert_eq!(egress.settle(&mut first, -libc::EINVAL), Next::Done);
        assert_eq!(run(&egress, 3_000, 1_400).part(), 3_000);
        assert_eq!(egress.tally.dropped, 1);
        let mut second = run(&egress, 3_000, 1_400);
        assert_eq!(egress.settle(&mut second, -libc::ECONNREFUSED), Next::Done);
        assert_eq!(egress.tally.dropped, 2);
    }

    #[test]
    fn a_full_socket_keeps_the_run_where_it_is() {
        let mut egress = Egress::new(2);
        let mut run = run(&egress, 300, 100);
        assert_eq!(egress.settle(&mut run, -libc::EAGAIN), Next::WhenWritable);
        assert!(run.untouched());
        assert_eq!(egress.settle(&mut run, 200), Next::Again);
        assert_eq!(egress.settle(&mut run, -libc::ENOBUFS), Next::Later);
        assert_eq!((run.offset, run.part(), run.untouched()), (200, 100, false));
        assert_eq!(egress.tally.blocked, 2);
    }

    #[test]
    fn addresses_spread_over_the_buckets() {
        let mut used = std::collections::HashSet::new();
        for i in 0..512_u32 {
            used.insert(bucket(IpAddr::from((0x0a00_0000 + i).to_be_bytes())));
        }
        assert!(used.len() > 300, "{}", used.len());
    }
}
