//! Datagrams in and out: the trait a shard is generic over, and what its backends share.
//!
//! A backend belongs to one shard and is used by that shard's thread only. It knows datagrams and
//! addresses, never RTP. Nothing in here waits except `park`, and nothing allocates after the start.
//!
//! - `socket`: recvmmsg and sendmsg; works everywhere.
//! - `uring`: one io_uring per shard, for sends and to wait in; recvmmsg.
//! - `frames`: media past the kernel's UDP; one of the two above for the rest.
//! - `sim`: memory and virtual time, for tests.
//!
//! Beside them `steering`: which shard's socket the kernel gives a publisher's datagrams to.

use std::net::SocketAddr;

use spillway_proto::time::Time;
use std::time::Duration;

pub mod bound;
mod cmsg;
mod egress;
pub mod frames;
mod inbox;
pub mod probe;
pub mod sim;
pub mod socket;
pub mod steering;
#[cfg(test)]
mod suite;
pub mod uring;

/// Both ends of what a datagram travels on; `local` is one of this machine's addresses, never a wildcard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// One datagram as it arrived. An IPv4 address is a plain one, also where the socket is an IPv6 one.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// The address it was sent to, and the port of the socket it came to.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Lent until the callback returns; may be opened in place. At most DATAGRAM_SIZE_MAX bytes.
    pub bytes: &'a mut [u8],
}

impl Datagram<'_> {
    pub fn path(&self) -> Path {
        Path { local: self.local, remote: self.remote }
    }
}

/// What became of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Sent {
    /// The backend has taken it: sent, or on its way, or dropped and counted because this destination cannot be reached.
    Queued,
    /// Nothing of it was taken; the buffer is free again. The caller keeps its cursor and tries in the next tick.
    Blocked,
}

/// What a backend did since its start. Read once per tick; differences go into the counters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Datagrams given to the caller.
    pub received: u64,
    /// Datagrams dropped because they were longer than DATAGRAM_SIZE_MAX or came without an address.
    pub malformed: u64,
    /// Errors of receiving, or of the ring, other than "nothing there".
    pub receive_errors: u64,
    /// Datagrams (segments) the kernel took.
    pub sent: u64,
    /// Calls or ring entries that carried them.
    pub sends: u64,
    /// Runs dropped, wholly or from some segment on: destination unreachable, or refused by a local rule.
    pub dropped: u64,
    /// Times the kernel had no room.
    pub blocked: u64,
    /// Runs refused as GSO that went again one by one.
    pub one_by_one: u64,
    /// Of those sent: as frames, past the kernel's UDP.
    pub framed: u64,
}

/// A shard's way to the network. The shard is generic over it: no dyn call per packet.
pub trait Io {
    /// Takes at most `max` datagrams that are there now and gives each to `f`. Never waits. Returns how many it gave.
    fn receive(&mut self, max: usize, f: impl FnMut(Datagram<'_>)) -> usize;

    /// A free transmit buffer of SEND_SIZE_MAX bytes, or None: back-pressure, the caller keeps its cursor.
    /// Asking twice without a `send` gives the same buffer; its contents are arbitrary.
    fn buffer(&mut self) -> Option<&mut [u8]>;

    /// Sends `buffer[..length]` of the buffer lent last, cut every `segment` bytes (the last may be shorter).
    /// `segment >= length` is one datagram.
    fn send(&mut self, path: &Path, length: usize, segment: usize) -> Sent;

    /// Sends one datagram that is not media: checks, handshakes, reports. They always go through the kernel.
    fn send_beside(&mut self, path: &Path, length: usize) -> Sent {
        self.send(path, length, length)
    }

    /// What is sent from now on is for the session of this number among the shard's: a backend may keep what it knows of each.
    fn turn_of(&mut self, _who: u32) {}

    /// Its turn is soon: what that takes may be fetched into the processor's cache.
    fn look_ahead(&self, _who: u32) {}

    /// Everything queued goes to the kernel, what is complete is collected. Once per tick.
    fn submit(&mut self);

    /// Sleeps until there is a datagram, a wake (eventfd), room for a send that was blocked, or `until`
    /// (None = no deadline). It may return early; a wake that came since the last `park` is never slept over.
    fn park(&mut self, until: Option<Time>);

    fn now(&self) -> Time;

    /// CPU time that this thread has used. A system call: not for every tick.
    fn worked(&self) -> Duration;

    /// Segments one send should carry at most; 1 = GSO is off. More are taken too, in several sends.
    fn gso_segments(&self) -> usize;

    fn tally(&self) -> Tally;
}

/// The numbers of the backends.
pub(crate) mod sizes {
    /// `--media` addresses of one shard: one per family.
    pub const SOCKETS_PER_SHARD_MAX: usize = 4;
    /// Datagrams of one recvmmsg: 64 are as cheap per datagram as more.
    pub const RECEIVE_BATCH: usize = 64;
    /// Destinations remembered as refusing GSO, one per bucket; a forgotten one is refused once more.
    pub const REFUSALS: usize = 1_024;
    /// Runs in flight in a ring. They complete while they are submitted, so this is a batch, not a queue.
    pub const TRANSMIT_BUFFERS: usize = 32;
    /// Parts of a run that one submit sends after each other where GSO is refused; the rest goes with the next.
    pub const SEND_ROUNDS_MAX: usize = 128;
    /// How long a park lasts at most after the kernel ran out of memory (there is nothing to poll for then).
    pub const MEMORY_RETRY_NS: u64 = 1_000_000;
}
