//! The backend of plain system calls: recvmmsg and sendmsg, ppoll to park. Works on every kernel and in every container.
//!
//! One transmit buffer is enough: a send is done, or refused, when the call returns. Only a run of which the kernel took
//! a part before it was full stays in the buffer; `buffer` gives None until the rest is out.

use std::mem;
use std::os::fd::RawFd;

use spillway_proto::limits::SEND_SIZE_MAX;
use spillway_proto::time::Time;

use super::bound::Sockets;
use super::cmsg::{Control, Name};
use super::egress::{Egress, Next, Run};
use super::inbox::{Inbox, errno};
use super::sizes::{MEMORY_RETRY_NS, SOCKETS_PER_SHARD_MAX};
use super::{Datagram, Io, Path, Sent, Tally};
use crate::clock;
use std::time::Duration;

pub struct Socket {
    sockets: Sockets,
    inbox: Inbox,
    outbox: Outbox,
    egress: Egress,
    /// The buffer holds the rest of this run.
    unfinished: Option<Run>,
    blocked: Option<Blocked>,
}

/// Why sending stopped: what `park` also waits for.
#[derive(Clone, Copy)]
enum Blocked {
    /// Room in this socket.
    Writable(usize),
    /// Memory of the kernel.
    Memory,
}

impl Socket {
    /// `gso_segments` is what the probe found.
    pub fn new(sockets: Sockets, gso_segments: usize) -> Socket {
        Socket {
            sockets,
            inbox: Inbox::new(),
            outbox: Outbox { bytes: vec![0; SEND_SIZE_MAX].into_boxed_slice(), name: Name::EMPTY, control: Control::EMPTY },
            egress: Egress::new(gso_segments),
            unfinished: None,
            blocked: None,
        }
    }

    /// Sends what is left of `run`; Some is what could not go yet.
    fn push(&mut self, mut run: Run) -> Option<Run> {
        self.blocked = None;
        // Each round sends at least a segment, drops the run or makes its parts smaller, but for EINTR,
        // which MSG_DONTWAIT does not give twice in a row without a signal each.
        loop {
            let fd = self.sockets.list().get(run.socket)?.fd();
            let mapped = self.sockets.writes_mapped(run.socket);
            let result = self.outbox.send(fd, &run, mapped, &mut self.egress);
            match self.egress.settle(&mut run, result) {
                Next::Done => return None,
                Next::Again => {}
                Next::WhenWritable => {
                    self.blocked = Some(Blocked::Writable(run.socket));
                    return Some(run);
                }
                Next::Later => {
                    self.blocked = Some(Blocked::Memory);
                    return Some(run);
                }
            }
        }
    }

    fn finish(&mut self) {
        if let Some(run) = self.unfinished.take() {
            self.unfinished = self.push(run);
        }
    }
}

impl Io for Socket {
    fn receive(&mut self, max: usize, f: impl FnMut(Datagram<'_>)) -> usize {
        self.inbox.receive(&self.sockets, &mut self.egress.tally, max, f)
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        if self.unfinished.is_some() {
            return None;
        }
        Some(&mut self.outbox.bytes)
    }

    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        if self.unfinished.is_some() {
            return Sent::Blocked;
        }
        let Some(socket) = self.sockets.choose(path) else {
            self.egress.tally.dropped += 1;
            return Sent::Queued;
        };
        let Some(run) = self.egress.run(path, socket, length, segment) else { return Sent::Queued };
        match self.push(run) {
            None => Sent::Queued,
            Some(rest) if rest.untouched() => Sent::Blocked,
            Some(rest) => {
                self.unfinished = Some(rest);
                Sent::Queued
            }
        }
    }

    fn submit(&mut self) {
        self.finish();
    }

    fn park(&mut self, until: Option<Time>) {
        if self.unfinished.is_some() {
            self.finish();
            if self.unfinished.is_none() {
                // The caller got no buffer because of this run; now there is one.
                return;
            }
        }
        let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; SOCKETS_PER_SHARD_MAX + 1];
        polled[0] = libc::pollfd { fd: self.sockets.wake(), events: libc::POLLIN, revents: 0 };
        for (place, socket) in polled[1..].iter_mut().zip(self.sockets.list()) {
            *place = libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 };
        }
        let mut until = until;
        match self.blocked.take() {
            Some(Blocked::Writable(socket)) => {
                if let Some(place) = polled.get_mut(socket + 1) {
                    place.events |= libc::POLLOUT;
                }
            }
            Some(Blocked::Memory) => {
                let retry = Time(clock::now().0 + MEMORY_RETRY_NS);
                until = Some(until.map_or(retry, |until| until.min(retry)));
            }
            None => {}
        }
        let timeout = until.filter(|until| *until != Time::NEVER).map(|until| {
            let span = until.since(clock::now());
            libc::timespec { tv_sec: span.as_secs() as libc::time_t, tv_nsec: libc::c_long::from(span.subsec_nanos()) }
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout as *const _);
        let count = self.sockets.list().len() as libc::nfds_t + 1;
        // JUSTIFICATION: std cannot wait for several descriptors.
        // SAFETY: `count` entries of `polled` are live, `timeout` is null or a live timespec. An error (EINTR) is an
        // early return, which callers expect.
        unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, std::ptr::null()) };
        if polled[0].revents != 0 {
            self.sockets.drain_wake();
        }
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn worked(&self) -> Duration {
        clock::thread_cpu()
    }

    fn gso_segments(&self) -> usize {
        self.egress.gso_segments()
    }

    fn tally(&self) -> Tally {
        self.egress.tally
    }
}

/// The transmit buffer and what a send says beside it.
struct Outbox {
    bytes: Box<[u8]>,
    name: Name,
    control: Control,
}

impl Outbox {
    /// Sends the next part of `run`; bytes or a negative error number.
    fn send(&mut self, fd: RawFd, run: &Run, mapped: bool, egress: &mut Egress) -> i32 {
        if let Some(fault) = egress.fault() {
            return fault;
        }
        let mut part = libc::iovec {
            iov_base: self.bytes[run.offset..run.offset + run.part()].as_mut_ptr().cast(),
            iov_len: run.part(),
        };
        // JUSTIFICATION: as in `Inbox::new`.
        // SAFETY: plain data; all zeros is a valid value.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_namelen = self.name.write(run.path.remote, mapped);
        header.msg_name = self.name.as_mut_ptr().cast();
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_controllen = self.control.write(run.path.local, run.cut()) as _;
        header.msg_control = self.control.as_mut_ptr().cast();
        // JUSTIFICATION: std sends without control messages: no source address, no UDP_SEGMENT.
        // SAFETY: the header names live memory with its true sizes; the kernel only reads it.
        let sent = unsafe { libc::sendmsg(fd, &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        // At most SEND_SIZE_MAX bytes.
        if sent >= 0 { sent as i32 } else { -errno() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::suite::{self, Backend};
    use super::*;

    impl Backend for Socket {
        const NAME: &str = "socket";
        fn start(sockets: Sockets, gso_segments: usize) -> Socket {
            Socket::new(sockets, gso_segments)
        }
        fn faults(&mut self) -> &mut std::collections::VecDeque<i32> {
            &mut self.egress.faults
        }
    }

    suite::suite!(Socket);
}
