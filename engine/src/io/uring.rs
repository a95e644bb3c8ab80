//! The backend of io_uring: one ring per shard, for sends from a pool of buffers and as the one place to wait in.
//!
//! The ring is made and used by the shard's thread only (SINGLE_ISSUER; the type is not Send). With DEFER_TASKRUN the
//! kernel touches our memory only inside our own io_uring_enter. What nobody received yet stays in the sockets, where
//! it survives this process.
//!
//! A transmit buffer is free, lent (at most one), in the ring, or waiting. Waiting are runs whose next part
//! is to be sent: the socket was full, or GSO was refused. They go before anything new.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem;
use std::ptr::NonNull;

use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use spillway_proto::limits::SEND_SIZE_MAX;
use spillway_proto::time::Time;

use super::bound::Sockets;
use super::cmsg::{Control, Name};
use super::egress::{Egress, Next, Run};
use super::inbox::Inbox;
use super::probe::{RingStep, UringError};
use super::sizes::{MEMORY_RETRY_NS, SEND_ROUNDS_MAX, SOCKETS_PER_SHARD_MAX, TRANSMIT_BUFFERS};
use super::{Datagram, Io, Path, Sent, Tally};
use crate::clock;
use crate::shm::Mapping;
use std::time::Duration;

/// Every transmit buffer once, a wait per socket, the wake, the wait for room.
const SUBMISSIONS: u32 = (TRANSMIT_BUFFERS + SOCKETS_PER_SHARD_MAX + 2).next_power_of_two() as u32;
/// All that can complete before we look: so the completion queue never overflows.
const COMPLETIONS: u32 = 2 * SUBMISSIONS;

// What a completion belongs to: the kind in the upper half of its user data, an index in the lower.
const READABLE: u64 = 1 << 32;
const SEND: u64 = 2 << 32;
const WAKE: u64 = 3 << 32;
const WRITABLE: u64 = 4 << 32;

pub struct Uring {
    ring: IoUring,
    sockets: Sockets,
    inbox: Inbox,
    outlet: Outlet,
    egress: Egress,
    /// Runs to be sent on, oldest first.
    waiting: VecDeque<usize>,
    blocked: Option<Blocked>,
    /// A wake was seen and no park has taken it yet.
    woken: bool,
    wake_armed: bool,
    writable_armed: bool,
    /// By socket: a wait for its next datagram stands in the ring.
    readable_armed: Vec<bool>,
    /// One has ended, and no park has taken note yet.
    readable: bool,
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
        let mut files: Vec<_> = sockets.list().iter().map(|socket| socket.fd()).collect();
        files.push(sockets.wake());
        ring.submitter().register_files(&files).map_err(|error| UringError::at(RingStep::Files, error))?;
        let mut uring = Uring {
            ring,
            inbox: Inbox::new(),
            readable_armed: vec![false; sockets.list().len()],
            sockets,
            outlet: Outlet::new()?,
            egress: Egress::new(gso_segments),
            waiting: VecDeque::with_capacity(TRANSMIT_BUFFERS),
            blocked: None,
            woken: false,
            wake_armed: false,
            writable_armed: false,
            readable: false,
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
        // SAFETY: entries name message headers in `outlet`: boxed memory that lives as long as the ring and is not
        // changed while an entry of it is outstanding.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Waits for what a park ends with: a datagram, a wake. Whoever waits on a socket is woken by each packet that
    /// leaves it, too, so nobody does while there is work.
    fn arm(&mut self) {
        for socket in 0..self.readable_armed.len() {
            if !self.readable_armed[socket] {
                let entry = opcode::PollAdd::new(Fixed(socket as u32), libc::POLLIN as u32).build().user_data(READABLE | socket as u64);
                self.readable_armed[socket] = self.push(&entry);
            }
        }
        if !self.wake_armed {
            let wake = Fixed(self.readable_armed.len() as u32);
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
                READABLE => {
                    self.readable = true;
                    if let Some(armed) = self.readable_armed.get_mut(index) {
                        *armed = false;
                    }
                }
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
    fn receive(&mut self, max: usize, f: impl FnMut(Datagram<'_>)) -> usize {
        self.inbox.receive(&self.sockets, &mut self.egress.tally, max, f)
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
        if self.woken || mem::take(&mut self.readable) || (!self.waiting.is_empty() && self.blocked.is_none()) {
            return;
        }
        let span = until.map(|until| until.since(clock::now()));
        if span.is_some_and(|span| span.is_zero()) {
            self.enter();
            return;
        }
        let span = span.map(Timespec::from);
        let result = match &span {
            _ if self.ring.params().is_feature_no_iowait() => self.wait_idle(span.as_ref()),
            None => self.ring.submit_and_wait(1),
            Some(span) => self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(span)),
        };
        if let Err(error) = result {
            self.count_enter_error(&error);
        }
        self.reap();
    }

    /// The same, and the core is told to be idle meanwhile (Linux 6.15). It else counts as waiting for a disk: an idle node looks like one in
    /// trouble, and a core in `iowait` is kept from its deeper sleeps.
    fn wait_idle(&mut self, span: Option<&Timespec>) -> std::io::Result<usize> {
        /// io_uring_getevents_arg of linux/io_uring.h.
        #[repr(C)]
        struct Arguments {
            mask: u64,
            mask_bytes: u32,
            wait_at_least: u32,
            span: u64,
        }
        const GET_EVENTS: u32 = 1 << 0;
        const HAS_ARGUMENTS: u32 = 1 << 3;
        const NO_IOWAIT: u32 = 1 << 7;
        let queued = self.ring.submission().len() as u32;
        let span = span.map_or(0, |span| std::ptr::from_ref(span).expose_provenance() as u64);
        let arguments = Arguments { mask: 0, mask_bytes: 0, wait_at_least: 0, span };
        // JUSTIFICATION: the library's own calls have no such flag.
        // SAFETY: what is queued was pushed by `push`; arguments and span live through the call, which says how long the arguments are.
        unsafe { self.ring.submitter().enter(queued, 1, GET_EVENTS | HAS_ARGUMENTS | NO_IOWAIT, Some(&arguments)) }
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
            // JUSTIFICATION: libc gives msghdr no constructor that works on every libc.
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

#[cfg(test)]
mod tests {
    use super::super::suite::{self, Backend};
    use super::*;
    use std::io::Write;
    use std::net::UdpSocket;

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

    /// Threads of this machine that the kernel counts as waiting for a disk.
    fn waiting_for_disks() -> usize {
        let counts = std::fs::read_to_string("/proc/stat").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("procs_blocked ")).unwrap().parse().unwrap()
    }

    /// Goal: a shard that waits for datagrams is no core that waits for a disk, with a deadline and without. Method: the fewest that the kernel counts while one
    /// waits, against the fewest before; others have disks to wait for, so it may be tried again.
    #[test]
    fn a_parked_shard_is_idle() {
        let fewest = || (0..100).map(|_| { std::thread::sleep(Duration::from_millis(1)); waiting_for_disks() }).min().unwrap();
        let is_idle = |span: Option<Duration>| {
            let before = fewest();
            let wake = suite::eventfd();
            let mut waker = std::fs::File::from(wake.try_clone().unwrap());
            let sockets = Sockets::new(vec![UdpSocket::bind("127.0.0.1:0").unwrap().into()], wake).unwrap();
            let (parks, parked) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                let mut io = Uring::new(sockets, 1).expect("io_uring works on this machine");
                parks.send(io.ring.params().is_feature_no_iowait()).unwrap();
                io.park(span.map(|span| clock::now() + span));
            });
            let may_say_so = parked.recv().unwrap();
            let during = fewest();
            waker.write_all(&1_u64.to_ne_bytes()).unwrap();
            thread.join().unwrap();
            !may_say_so || during <= before
        };
        for span in [None, Some(Duration::from_secs(5))] {
            assert!((0..10).any(|_| is_idle(span)), "{span:?}");
        }
    }
}
