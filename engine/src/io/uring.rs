//! The backend of io_uring: one ring per shard, multishot receive into provided buffers, sends from a pool of buffers.
//!
//! The ring is made and used by the shard's thread only (SINGLE_ISSUER; the type is not Send). With DEFER_TASKRUN the
//! kernel takes datagrams and touches our memory only inside our own io_uring_enter: what nobody received yet
//! stays in the sockets, where it survives this process.
//!
//! A transmit buffer is free, lent (at most one), in the ring, or waiting. Waiting are runs whose next part
//! is to be sent: the socket was full, or GSO was refused. They go before anything new.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use spillway_proto::limits::{DATAGRAM_SIZE_MAX, SEND_SIZE_MAX};
use spillway_proto::time::Time;

use super::bound::Sockets;
use super::cmsg::{self, Control, Name};
use super::egress::{Egress, Next, Run};
use super::probe::{RingStep, UringError};
use super::sizes::{MEMORY_RETRY_NS, RECEIVE_BUFFERS, SEND_ROUNDS_MAX, SOCKETS_PER_SHARD_MAX, TRANSMIT_BUFFERS};
use super::{Datagram, Io, Path, Sent, Tally};
use crate::clock;
use crate::shm::Mapping;

/// Every transmit buffer once, a receive per socket, the wake, the wait for room.
const SUBMISSIONS: u32 = (TRANSMIT_BUFFERS + SOCKETS_PER_SHARD_MAX + 2).next_power_of_two() as u32;
/// All that can complete before we look: so the completion queue never overflows.
const COMPLETIONS: u32 =
    (SOCKETS_PER_SHARD_MAX * (RECEIVE_BUFFERS + 2) + 2 * SUBMISSIONS as usize).next_power_of_two() as u32;

// What a completion belongs to: the kind in the upper half of its user data, an index in the lower.
const RECEIVE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;
const WRITABLE: u64 = 4 << 32;

pub struct Uring {
    ring: IoUring,
    sockets: Sockets,
    inlets: Vec<Inlet>,
    arrived: VecDeque<Arrived>,
    outlet: Outlet,
    egress: Egress,
    /// Runs to be sent on, oldest first.
    waiting: VecDeque<usize>,
    blocked: Option<Blocked>,
    /// A wake was seen and no park has taken it yet.
    woken: bool,
    wake_armed: bool,
    writable_armed: bool,
    /// The kernel refuses any other thread than the one that made the ring.
    _one_thread: PhantomData<*const ()>,
}

/// Why sending stopped: what `park` also waits for.
#[derive(Clone, Copy)]
enum Blocked {
    /// Room in this socket.
    Writable(usize),
    /// Memory of the kernel.
    Memory,
}

/// A receive buffer that the kernel filled.
#[derive(Clone, Copy)]
struct Arrived {
    socket: usize,
    buffer: u16,
    length: usize,
}

impl Uring {
    /// Makes the ring in the calling thread, which must be the shard's. `gso_segments` is what the probe found.
    pub fn new(sockets: Sockets, gso_segments: usize) -> Result<Uring, UringError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .dontfork()
            .build(SUBMISSIONS)
            .map_err(|error| UringError::at(RingStep::Setup, error))?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(UringError::at(RingStep::Setup, std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        sockets.wait_in_kernel()?;
        let mut files: Vec<_> = sockets.list().iter().map(|socket| socket.fd()).collect();
        files.push(sockets.wake());
        ring.submitter().register_files(&files).map_err(|error| UringError::at(RingStep::Files, error))?;
        let mut inlets = Vec::with_capacity(sockets.list().len());
        for group in 0..sockets.list().len() as u16 {
            inlets.push(Inlet::new(&ring, group)?);
        }
        let mut uring = Uring {
            ring,
            arrived: VecDeque::with_capacity(inlets.len() * RECEIVE_BUFFERS),
            inlets,
            sockets,
            outlet: Outlet::new()?,
            egress: Egress::new(gso_segments),
            waiting: VecDeque::with_capacity(TRANSMIT_BUFFERS),
            blocked: None,
            woken: false,
            wake_armed: false,
            writable_armed: false,
            _one_thread: PhantomData,
        };
        uring.arm();
        uring.ring.submit().map_err(|error| UringError::at(RingStep::Enter, error))?;
        uring.reap();
        Ok(uring)
    }

    /// Puts an entry into the submission queue. It has a place for everything that can be outstanding, so false
    /// means only that the kernel did not consume the last batch; the caller tries again later.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // JUSTIFICATION: the kernel reads memory by the addresses in the entry.
        // SAFETY: entries name message headers in `inlets` and `outlet`: boxed or mapped memory that lives as long
        // as the ring and is not changed while an entry of it is outstanding.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Starts whatever is to be running all the time and is not: receives, and the wait for a wake.
    fn arm(&mut self) {
        for socket in 0..self.inlets.len() {
            let inlet = &self.inlets[socket];
            if !inlet.armed {
                let entry = opcode::RecvMsgMulti::new(Fixed(socket as u32), &*inlet.header, socket as u16)
                    .build()
                    .user_data(RECEIVE | socket as u64);
                self.inlets[socket].armed = self.push(&entry);
            }
        }
        if !self.wake_armed {
            let wake = Fixed(self.inlets.len() as u32);
            let entry = opcode::PollAdd::new(wake, libc::POLLIN as u32).multi(true).build().user_data(WAKE);
            self.wake_armed = self.push(&entry);
        }
    }

    /// Lets the kernel take what is queued and do what it deferred, if there is any, and collects the results.
    /// False: there was nothing to do.
    fn enter(&mut self) -> bool {
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        if !idle && let Err(error) = self.ring.submit() {
            self.count_enter_error(&error);
        }
        self.reap() || !idle
    }

    fn count_enter_error(&mut self, error: &std::io::Error) {
        // A signal, a deadline, a moment without memory: the queue keeps what is in it.
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY)) {
            self.egress.tally.receive_errors += 1;
        }
    }

    /// Takes all completions. False: there was none.
    fn reap(&mut self) -> bool {
        let mut any = false;
        loop {
            let completion = self.ring.completion().next();
            let Some(completion) = completion else { return any };
            any = true;
            let (kind, index) = (completion.user_data() & !0xffff_ffff, completion.user_data() as u32 as usize);
            match kind {
                RECEIVE => self.on_receive(index, &completion),
                SEND => self.on_sent(index, completion.result()),
                WAKE => {
                    self.woken = true;
                    self.wake_armed = cqueue::more(completion.flags());
                }
                _ => {
                    self.writable_armed = false;
                    self.blocked = None;
                }
            }
        }
    }

    fn on_receive(&mut self, socket: usize, completion: &cqueue::Entry) {
        let Some(inlet) = self.inlets.get_mut(socket) else { return };
        inlet.armed = cqueue::more(completion.flags());
        match (usize::try_from(completion.result()), cqueue::buffer_select(completion.flags())) {
            (Ok(length), Some(buffer)) => self.arrived.push_back(Arrived { socket, buffer, length }),
            (Err(_), buffer) => {
                if let Some(buffer) = buffer {
                    inlet.give_back(buffer);
                    inlet.publish();
                }
                // ENOBUFS: all buffers are full. It goes on when they came back.
                if completion.result() != -libc::ENOBUFS {
                    self.egress.tally.receive_errors += 1;
                }
            }
            (Ok(_), None) => {}
        }
    }

    fn on_sent(&mut self, slot: usize, result: i32) {
        let Some(run) = self.outlet.run(slot) else { return };
        let socket = run.socket;
        match self.egress.settle(run, result) {
            Next::Done => {
                self.outlet.free.push(slot);
                return;
            }
            Next::Again => {}
            Next::WhenWritable => self.blocked = Some(Blocked::Writable(socket)),
            Next::Later => self.blocked = Some(Blocked::Memory),
        }
        self.waiting.push_back(slot);
    }

    /// Queues the next part of a slot's run.
    fn queue(&mut self, slot: usize) {
        if let Some(fault) = self.egress.fault() {
            return self.on_sent(slot, fault);
        }
        let Some(run) = self.outlet.run(slot) else { return };
        let socket = run.socket;
        let mapped = self.sockets.writes_mapped(socket);
        let Some(header) = self.outlet.prepare(slot, mapped) else { return };
        let entry = opcode::SendMsg::new(Fixed(socket as u32), header)
            .flags((libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32)
            .build()
            .user_data(SEND | slot as u64);
        if !self.push(&entry) {
            self.waiting.push_back(slot);
        }
    }

    /// Sends what is queued and what waits, until it is out or blocked.
    fn flush(&mut self) {
        self.blocked = None;
        for _ in 0..SEND_ROUNDS_MAX {
            for _ in 0..self.waiting.len() {
                if let Some(slot) = self.waiting.pop_front() {
                    self.queue(slot);
                }
            }
            self.enter();
            if self.waiting.is_empty() || self.blocked.is_some() {
                break;
            }
        }
    }
}

impl Io for Uring {
    fn receive(&mut self, max: usize, mut f: impl FnMut(Datagram<'_>)) -> usize {
        let (mut taken, mut given) = (0, 0);
        while taken < max {
            if self.arrived.is_empty() {
                self.arm();
                self.enter();
            }
            let mut any = false;
            while taken < max
                && let Some(arrived) = self.arrived.pop_front()
            {
                any = true;
                taken += 1;
                let Some(inlet) = self.inlets.get_mut(arrived.socket) else { continue };
                let port = self.sockets.list()[arrived.socket].address().port();
                match inlet.datagram(arrived, port) {
                    Some(datagram) => {
                        given += 1;
                        f(datagram);
                    }
                    None => self.egress.tally.malformed += 1,
                }
                inlet.give_back(arrived.buffer);
            }
            if !any {
                break;
            }
            self.inlets.iter_mut().for_each(Inlet::publish);
        }
        self.egress.tally.received += given as u64;
        given
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        if self.outlet.lent.is_none() {
            if self.outlet.free.is_empty() && self.blocked.is_none() {
                self.flush();
            }
            if !self.waiting.is_empty() {
                return None;
            }
            self.outlet.lent = self.outlet.free.pop();
        }
        self.outlet.lent_bytes()
    }

    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent {
        if !self.waiting.is_empty() {
            return Sent::Blocked;
        }
        let (Some(socket), true) = (self.sockets.choose(path), self.outlet.lent.is_some()) else {
            self.egress.tally.dropped += 1;
            return Sent::Queued;
        };
        let Some(run) = self.egress.run(path, socket, length, segment) else { return Sent::Queued };
        if let Some(slot) = self.outlet.take_lent(run) {
            self.queue(slot);
        }
        Sent::Queued
    }

    fn submit(&mut self) {
        self.flush();
    }

    fn park(&mut self, until: Option<Time>) {
        if !mem::take(&mut self.woken) {
            self.arm();
            let waited = !self.waiting.is_empty();
            self.flush();
            if waited && self.waiting.is_empty() {
                // The caller got no buffer because of these runs; now there is one.
                return;
            }
            self.wait(until);
            if !mem::take(&mut self.woken) {
                return;
            }
        }
        // The eventfd is emptied only here, by the one who answers for the wake: the caller looks at its rings next.
        self.sockets.drain_wake();
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn gso_segments(&self) -> usize {
        self.egress.gso_segments()
    }

    fn tally(&self) -> Tally {
        self.egress.tally
    }
}

impl Uring {
    /// Sleeps until something completes. Returns at once if something is there to be worked on.
    fn wait(&mut self, until: Option<Time>) {
        let mut until = until.filter(|until| *until != Time::NEVER);
        match self.blocked {
            Some(Blocked::Writable(socket)) if !self.writable_armed => {
                let entry = opcode::PollAdd::new(Fixed(socket as u32), libc::POLLOUT as u32).build().user_data(WRITABLE);
                self.writable_armed = self.push(&entry);
            }
            Some(Blocked::Memory) => {
                let retry = Time(clock::now().0 + MEMORY_RETRY_NS);
                until = Some(until.map_or(retry, |until| until.min(retry)));
            }
            _ => {}
        }
        if self.woken || !self.arrived.is_empty() || (!self.waiting.is_empty() && self.blocked.is_none()) {
            return;
        }
        let result = match until {
            None => self.ring.submit_and_wait(1),
            Some(until) => {
                let span = until.since(clock::now());
                if span.is_zero() {
                    self.enter();
                    return;
                }
                let span = Timespec::from(span);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&span))
            }
        };
        if let Err(error) = result {
            self.count_enter_error(&error);
        }
        self.reap();
    }
}

/// What the kernel writes ahead of the bytes: struct io_uring_recvmsg_out, then name and control in full size.
const OUT_SIZE: usize = 16;
const BYTES_AT: usize = OUT_SIZE + cmsg::NAME_SIZE + Control::SIZE;
const RECEIVE_SIZE: usize = BYTES_AT + DATAGRAM_SIZE_MAX;
/// From one receive buffer to the next: whole cache lines.
const RECEIVE_STRIDE: usize = RECEIVE_SIZE.next_multiple_of(64);

/// The receiving half of one socket: a ring of buffers that the kernel takes from and we give back to.
struct Inlet {
    /// RECEIVE_BUFFERS entries; the kernel reads them.
    entries: Mapping,
    /// RECEIVE_BUFFERS times RECEIVE_STRIDE bytes.
    bytes: Mapping,
    /// The next entry to be written; published by `publish`.
    tail: u16,
    /// How much name and control the kernel is to write; read whenever a receive is armed.
    header: Box<libc::msghdr>,
    armed: bool,
}

impl Inlet {
    fn new(ring: &IoUring, group: u16) -> Result<Inlet, UringError> {
        let entries = Mapping::private(RECEIVE_BUFFERS * size_of::<BufRingEntry>())?;
        let bytes = Mapping::private(RECEIVE_BUFFERS * RECEIVE_STRIDE)?;
        // JUSTIFICATION: libc gives msghdr no constructor that works on every libc.
        // SAFETY: plain data of integers and pointers; all zeros is a valid value.
        let mut header: Box<libc::msghdr> = Box::new(unsafe { mem::zeroed() });
        header.msg_namelen = cmsg::NAME_SIZE as libc::socklen_t;
        header.msg_controllen = Control::SIZE as _;
        // JUSTIFICATION: the kernel keeps the address of the ring of buffers.
        // SAFETY: page-aligned memory of that many entries. It outlives its use: the kernel works on it only inside
        // io_uring_enter (DEFER_TASKRUN), which nobody calls once this shard's `Uring` is gone.
        unsafe {
            let start = entries.start().as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(start, RECEIVE_BUFFERS as u16, group, 0)
        }
        .map_err(|error| UringError::at(RingStep::Buffers, error))?;
        let mut inlet = Inlet { entries, bytes, tail: 0, header, armed: false };
        (0..RECEIVE_BUFFERS as u16).for_each(|buffer| inlet.give_back(buffer));
        inlet.publish();
        Ok(inlet)
    }

    /// Where buffer number `buffer` begins; None for a number that is none of ours.
    fn start_of(&self, buffer: u16) -> Option<NonNull<u8>> {
        let index = usize::from(buffer);
        // JUSTIFICATION: the kernel fills this memory by address; no slice of it may exist meanwhile.
        // SAFETY: `bytes` holds RECEIVE_BUFFERS strides and the index is below that.
        (index < RECEIVE_BUFFERS).then(|| unsafe { self.bytes.start().add(index * RECEIVE_STRIDE) })
    }

    fn give_back(&mut self, buffer: u16) {
        let Some(start) = self.start_of(buffer) else { return };
        let place = usize::from(self.tail) % RECEIVE_BUFFERS;
        // JUSTIFICATION: the ring of buffers is shared with the kernel.
        // SAFETY: `place` is inside the ring, and between head and tail there are never more entries than buffers,
        // so the kernel does not read this one until `publish`. Address, length and number are written and not
        // the fourth field, which in entry 0 is the tail.
        unsafe {
            let entry = &mut *self.entries.start().cast::<BufRingEntry>().add(place).as_ptr();
            entry.set_addr(start.as_ptr() as u64);
            entry.set_len(RECEIVE_SIZE as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel see what was given back.
    fn publish(&mut self) {
        // JUSTIFICATION: the tail is a word shared with the kernel.
        // SAFETY: `tail` gives the address of a u16 inside entry 0, aligned and alive; the kernel only reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.start().as_ptr().cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// What the kernel put into a buffer, if it is whole and its addresses are known.
    fn datagram(&mut self, arrived: Arrived, port: u16) -> Option<Datagram<'_>> {
        let start = self.start_of(arrived.buffer)?;
        // JUSTIFICATION: see `start_of`.
        // SAFETY: the buffer is ours between its completion and `give_back`, and `&mut self` is held as long as the slice.
        let buffer = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), RECEIVE_SIZE) };
        let (out, rest) = buffer.get_mut(..arrived.length)?.split_at_mut_checked(OUT_SIZE)?;
        let word = |index: usize| {
            let bytes = out.get(4 * index..)?.first_chunk::<4>()?;
            Some(u32::from_ne_bytes(*bytes) as usize)
        };
        let (name, control, length, flags) = (word(0)?, word(1)?, word(2)?, word(3)?);
        if flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) as usize != 0 {
            return None;
        }
        let (names, rest) = rest.split_at_mut_checked(cmsg::NAME_SIZE)?;
        let (controls, bytes) = rest.split_at_mut_checked(Control::SIZE)?;
        let remote = cmsg::parse_name(names.get(..name)?)?;
        let local = cmsg::parse_local(controls.get(..control)?, port)?;
        Some(Datagram { local, remote, bytes: bytes.get_mut(..length)? })
    }
}

/// The transmit buffers and what is being sent from them.
struct Outlet {
    /// TRANSMIT_BUFFERS times SEND_STRIDE bytes.
    bytes: Mapping,
    slots: Box<[Slot]>,
    /// The one used last is on top: it is the warmest.
    free: Vec<usize>,
    lent: Option<usize>,
}

const SEND_STRIDE: usize = SEND_SIZE_MAX.next_multiple_of(4_096);

/// What the kernel reads about one send.
struct Slot {
    run: Option<Run>,
    name: Name,
    control: Control,
    part: libc::iovec,
    header: libc::msghdr,
}

impl Outlet {
    fn new() -> Result<Outlet, UringError> {
        let slot = || Slot {
            run: None,
            name: Name::EMPTY,
            control: Control::EMPTY,
            part: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            // JUSTIFICATION: as in `Inlet::new`.
            // SAFETY: plain data; all zeros is a valid value.
            header: unsafe { mem::zeroed() },
        };
        Ok(Outlet {
            bytes: Mapping::private(TRANSMIT_BUFFERS * SEND_STRIDE)?,
            slots: (0..TRANSMIT_BUFFERS).map(|_| slot()).collect(),
            free: (0..TRANSMIT_BUFFERS).rev().collect(),
            lent: None,
        })
    }

    fn start_of(&self, slot: usize) -> Option<NonNull<u8>> {
        // JUSTIFICATION: the kernel reads this memory by address.
        // SAFETY: `bytes` holds TRANSMIT_BUFFERS strides and the slot is below that.
        (slot < TRANSMIT_BUFFERS).then(|| unsafe { self.bytes.start().add(slot * SEND_STRIDE) })
    }

    fn lent_bytes(&mut self) -> Option<&mut [u8]> {
        let start = self.start_of(self.lent?)?;
        // JUSTIFICATION: see `start_of`.
        // SAFETY: a lent buffer is in no entry of the ring, no other slice of it exists while `&mut self` is held.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), SEND_SIZE_MAX) })
    }

    /// The lent buffer becomes `run`'s.
    fn take_lent(&mut self, run: Run) -> Option<usize> {
        let slot = self.lent.take()?;
        self.slots.get_mut(slot)?.run = Some(run);
        Some(slot)
    }

    fn run(&mut self, slot: usize) -> Option<&mut Run> {
        self.slots.get_mut(slot)?.run.as_mut()
    }

    /// Describes the next part of the slot's run to the kernel.
    fn prepare(&mut self, slot: usize, mapped: bool) -> Option<*const libc::msghdr> {
        let start = self.start_of(slot)?;
        let slot = self.slots.get_mut(slot)?;
        let run = slot.run.as_ref()?;
        // run.offset <= run.length <= SEND_SIZE_MAX, see `Egress::run`.
        slot.part = libc::iovec {
            iov_base: start.as_ptr().wrapping_add(run.offset).cast(),
            iov_len: run.part(),
        };
        slot.header.msg_namelen = slot.name.write(run.path.remote, mapped);
        slot.header.msg_controllen = slot.control.write(run.path.local, run.cut()) as _;
        slot.header.msg_name = slot.name.as_mut_ptr().cast();
        slot.header.msg_control = slot.control.as_mut_ptr().cast();
        slot.header.msg_iov = &mut slot.part;
        slot.header.msg_iovlen = 1;
        Some(&raw const slot.header)
    }
}

const _: () = assert!(RECEIVE_BUFFERS.is_power_of_two() && RECEIVE_BUFFERS <= 32_768);

#[cfg(test)]
mod tests {
    use super::super::suite::{self, Backend};
    use super::*;

    impl Backend for Uring {
        const NAME: &str = "uring";
        fn start(sockets: Sockets, gso_segments: usize) -> Uring {
            Uring::new(sockets, gso_segments).expect("io_uring works on this machine")
        }
        fn faults(&mut self) -> &mut VecDeque<i32> {
            &mut self.egress.faults
        }
    }

    suite::suite!(Uring);

    #[test]
    fn every_receive_buffer_comes_back() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (local, remote) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        let mut io = Uring::start(Sockets::new(vec![socket.into()], suite::eventfd()).unwrap(), 64);
        // Whole, malformed and empty ones, more than there are buffers.
        let lengths = [100, DATAGRAM_SIZE_MAX + 1, 0];
        let total = 2 * RECEIVE_BUFFERS;
        let deadline = clock::now() + std::time::Duration::from_secs(20);
        // 16 at a time: they fit into the socket whatever its buffer is.
        for index in 0..total {
            remote.send_to(&vec![0; lengths[index % 3]], local).unwrap();
            while index % 16 == 15 && io.tally().received + io.tally().malformed <= index as u64 {
                assert!(clock::now() < deadline, "{:?}", io.tally());
                io.park(Some(deadline));
                io.receive(64, |_| ());
            }
        }
        assert_eq!(usize::from(io.inlets[0].tail), RECEIVE_BUFFERS + total);
    }
}
