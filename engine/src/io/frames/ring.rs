//! One AF_PACKET socket with a ring to transmit from (TPACKET_V2): places in memory shared with the kernel. Each takes a run of
//! datagrams as one frame, which the device or the kernel cuts (UDP_SEGMENT); many are sent with one call, in order. The socket
//! receives nothing. The packets pass the device's queueing discipline and its egress hooks, as all packets do.
//!
//! A place is ours or the kernel's, by its first word: free, to be sent, being sent, free again. Layout: linux/if_packet.h,
//! linux/virtio_net.h; one place:
//!
//! | tpacket2_hdr, 32 bytes | room | virtio_net_hdr, 10 | headers, 42 or 62 | payload, from byte 128 |

use super::super::inbox::errno;
use super::headers::{CHECKSUM_OFFSET, ETHERNET, HEADERS_MAX, Headers};
use crate::shm::{Mapping, prefetch_at};
use spillway_proto::limits::SEND_SIZE_MAX;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

/// A device that sends at once has one batch of them at a time; a real one some batches.
const PLACES: usize = 64;
const PLACE_BYTES: usize = 1 << 16;
const PAYLOAD_AT: usize = 128;
/// `tpacket2_hdr`.
const PLACE_HEADER_BYTES: usize = 32;
/// `virtio_net_hdr`: what is to be done with the frame.
const REQUEST_BYTES: usize = 10;
const _: () = assert!(PLACE_HEADER_BYTES + REQUEST_BYTES + HEADERS_MAX <= PAYLOAD_AT && PAYLOAD_AT + SEND_SIZE_MAX <= PLACE_BYTES);

/// `tp_status`: what this side writes and reads.
const FREE: u32 = libc::TP_STATUS_AVAILABLE;
const TO_SEND: u32 = libc::TP_STATUS_SEND_REQUEST;

/// Options of `SOL_PACKET` that libc has no name for.
const PACKET_VNET_HDR: i32 = 15;
const PACKET_TX_HAS_OFF: i32 = 19;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`, `VIRTIO_NET_HDR_GSO_UDP_L4` (Linux 6.2).
const NEEDS_CHECKSUM: u8 = 1;
const CUT_AS_UDP: u8 = 5;
/// Means nothing: a frame that asks for it is malformed.
const NO_CUT_AT_ALL: u8 = 0x7F;
/// What may wait in a device's queue, as the sockets' own buffers are.
const SEND_BUFFER_BYTES: i32 = 4 << 20;

pub struct Ring {
    socket: OwnedFd,
    memory: Mapping,
    /// The place that is filled next.
    next: usize,
    /// The oldest that the kernel has not taken.
    waits: usize,
    /// From `waits` to `next`.
    pushed: usize,
    /// Of each place: bytes of its headers.
    lengths: [u8; PLACES],
    /// Runs that the device refused, until somebody asks.
    refused: u64,
}

/// What became of a kick.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kick {
    /// The kernel has taken everything, or refused it.
    Done,
    /// It has no room now.
    Later,
    /// The device is gone, or down.
    Dead,
}

impl Ring {
    pub fn open(device: u32) -> io::Result<Ring> {
        let socket = socket()?;
        let on = &1_i32;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &(libc::tpacket_versions::TPACKET_V2 as i32))?;
        set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, on)?;
        set(&socket, libc::SOL_PACKET, PACKET_TX_HAS_OFF, on)?;
        // What the kernel finds malformed is dropped; else it would stop at that place for ever.
        set(&socket, libc::SOL_PACKET, libc::PACKET_LOSS, on)?;
        // More of it needs CAP_NET_ADMIN, and less is good enough.
        if set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES).is_err() {
            let _ = set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER_BYTES);
        }
        let request = libc::tpacket_req {
            tp_block_size: PLACE_BYTES as u32,
            tp_block_nr: PLACES as u32,
            tp_frame_size: PLACE_BYTES as u32,
            tp_frame_nr: PLACES as u32,
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_TX_RING, &request)?;
        let memory = Mapping::of_device(&socket, PLACES * PLACE_BYTES, 0).map_err(io::Error::other)?;
        bind(&socket, device)?;
        Ok(Ring { socket, memory, next: 0, waits: 0, pushed: 0, lengths: [0; PLACES], refused: 0 })
    }

    /// Whether there is a place to fill; what was pushed is sent first where there is none.
    pub fn room(&mut self) -> Result<bool, Kick> {
        if self.is_free(self.next) {
            return Ok(true);
        }
        match self.kick() {
            Kick::Dead => Err(Kick::Dead),
            _ => Ok(self.is_free(self.next)),
        }
    }

    fn is_free(&self, place: usize) -> bool {
        self.status(place).load(Ordering::Acquire) == FREE
    }

    /// Pushed and not taken by the kernel.
    pub fn pushed(&self) -> usize {
        self.pushed
    }

    /// Runs that were pushed and refused since this was last asked.
    pub fn refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The payload of the frame that is pushed next; None without a free place.
    pub fn payload(&mut self) -> Option<&mut [u8]> {
        self.bytes(PAYLOAD_AT, SEND_SIZE_MAX)
    }

    /// Gives the next place to the kernel with the next kick: headers, then `length` bytes of the payload as they stand there, cut
    /// every `segment` bytes. False: there is no free place, or they do not fit.
    pub fn push(&mut self, headers: &Headers, hop: [u8; 6], length: usize, segment: usize, identification: u16) -> bool {
        if length > SEND_SIZE_MAX {
            return false;
        }
        let in_front = headers.length();
        let start = PAYLOAD_AT - in_front - REQUEST_BYTES;
        let Some(bytes) = self.bytes(start, REQUEST_BYTES + in_front) else { return false };
        let (request, front) = bytes.split_at_mut(REQUEST_BYTES);
        if !headers.write(front, hop, length, identification) {
            return false;
        }
        let is_cut = segment < length;
        // A single packet is copied, as it is small; of a run the kernel takes the memory as it is.
        let copied = if is_cut { in_front } else { in_front + length };
        request.copy_from_slice(&to_do(copied, if is_cut { segment } else { 0 }, headers.udp()));
        // tpacket2_hdr | status u32 | len u32 | snaplen u32 | mac u16 | net u16 | ...
        let Some(place) = self.bytes(4, 10) else { return false };
        place[..4].copy_from_slice(&((REQUEST_BYTES + in_front + length) as u32).to_ne_bytes());
        place[8..].copy_from_slice(&(start as u16).to_ne_bytes());
        self.status(self.next).store(TO_SEND, Ordering::Release);
        self.lengths[self.next] = in_front as u8;
        self.next = (self.next + 1) % PLACES;
        self.pushed += 1;
        self.look_ahead();
        true
    }

    /// Fetches what the run after the next one stands behind: the kernel wrote there last, a ring ago.
    fn look_ahead(&self) {
        let place = (self.next + 1) % PLACES;
        prefetch_at(self.memory.start().as_ptr().wrapping_add(place * PLACE_BYTES), PAYLOAD_AT);
    }

    /// Has the kernel send what was pushed.
    pub fn kick(&mut self) -> Kick {
        // Each round but the last gets rid of one that is refused.
        for _ in 0..=PLACES {
            if self.pushed == 0 {
                return Kick::Done;
            }
            // JUSTIFICATION: std sends bytes; this call sends what stands in the ring.
            // SAFETY: a call by values.
            let result = unsafe { libc::sendto(self.socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
            let error = if result < 0 { errno() } else { 0 };
            if matches!(error, libc::ENETDOWN | libc::ENXIO | libc::EBADF | libc::ENODEV) {
                return Kick::Dead;
            }
            while self.pushed > 0 && self.status(self.waits).load(Ordering::Acquire) != TO_SEND {
                self.waits = (self.waits + 1) % PLACES;
                self.pushed -= 1;
            }
            if matches!(error, 0 | libc::EAGAIN | libc::EINTR) {
                break;
            }
            if self.pushed > 0 {
                self.spoil();
            }
        }
        if self.pushed == 0 { Kick::Done } else { Kick::Later }
    }

    /// The oldest was refused by the device's queue or filter, and would be so again and again before all others. Malformed, it is
    /// dropped with the next kick, as a datagram would have been.
    fn spoil(&mut self) {
        let headers = self.lengths[self.waits];
        let start = PAYLOAD_AT - usize::from(headers) - REQUEST_BYTES;
        let at = self.waits * PLACE_BYTES + start + 1;
        // JUSTIFICATION: the kernel reads this memory by address.
        // SAFETY: a byte within the place. It waits to be sent, and the kernel reads such only in this thread's own call.
        unsafe { self.memory.start().as_ptr().add(at).write(NO_CUT_AT_ALL) };
        self.refused += 1;
    }

    fn status(&self, place: usize) -> &AtomicU32 {
        debug_assert!(place < PLACES);
        // JUSTIFICATION: the word is shared with the kernel.
        // SAFETY: the first word of a place within what was mapped; both sides only read and write it whole.
        unsafe { &*self.memory.start().as_ptr().add(place * PLACE_BYTES).cast::<AtomicU32>() }
    }

    /// Of the next place, where it is free.
    fn bytes(&mut self, at: usize, length: usize) -> Option<&mut [u8]> {
        debug_assert!(at >= size_of::<AtomicU32>() && at + length <= PLACE_BYTES);
        if !self.is_free(self.next) {
            return None;
        }
        // JUSTIFICATION: the kernel reads this memory by address.
        // SAFETY: the bytes lie in one place of `memory`, behind its status; it is free, so the kernel does not read it, and
        // `&mut self` is held.
        Some(unsafe { std::slice::from_raw_parts_mut(self.memory.start().as_ptr().add(self.next * PLACE_BYTES + at), length) })
    }
}

/// `virtio_net_hdr`: flags, kind of cut, bytes that are copied, bytes of a segment, where the checksum begins and where it stands.
fn to_do(copied: usize, segment: usize, udp: usize) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    request[0] = NEEDS_CHECKSUM;
    request[1] = if segment > 0 { CUT_AS_UDP } else { 0 };
    for (at, number) in [(2, copied), (4, segment), (6, udp), (8, CHECKSUM_OFFSET)] {
        request[at..at + 2].copy_from_slice(&(number as u16).to_ne_bytes());
    }
    request
}

/// Whether this process may send frames, and the kernel cuts them.
pub fn probe() -> io::Result<()> {
    let socket = socket()?;
    set(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, &1_i32)?;
    // Two datagrams of one byte, in one frame, to port 9 of this machine: a kernel that does not know the cut refuses it.
    let loopback = "127.0.0.1:9".parse().map_err(io::Error::other)?;
    let path = super::Path { local: loopback, remote: loopback };
    let headers = Headers::new(&path, [0; 6]).ok_or(io::ErrorKind::InvalidInput)?;
    let mut frame = [0; REQUEST_BYTES + HEADERS_MAX + 2];
    let end = REQUEST_BYTES + headers.length();
    headers.write(&mut frame[REQUEST_BYTES..end], [0; 6], 2, 0);
    frame[..REQUEST_BYTES].copy_from_slice(&to_do(headers.length(), 1, headers.udp()));
    let address = address(1);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // JUSTIFICATION: std knows no such address.
    // SAFETY: the kernel reads one live frame and one live address.
    let result = unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), end + 2, libc::MSG_DONTWAIT, (&raw const address).cast(), length) };
    let error = io::Error::last_os_error();
    // Any other refusal (loopback is down, say) tells nothing about the cut.
    if result < 0 && error.raw_os_error() == Some(libc::EINVAL) {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel does not cut frames (Linux 6.2 does)"));
    }
    Ok(())
}

/// A raw packet socket that receives nothing; it needs CAP_NET_RAW.
fn socket() -> io::Result<OwnedFd> {
    // JUSTIFICATION: std knows no such family.
    // SAFETY: a call by values; a descriptor that came back is fresh and owned by nobody else.
    unsafe {
        match libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Asks what of a device stands nowhere: whether its header is Ethernet's 14 bytes. The kernel takes as many bytes as the device's for the
/// header, and looks for IP behind them. A VLAN whose device below puts no tags in has 18, some USB adapters 22: every run would be dropped.
pub struct Prober(OwnedFd);

impl Prober {
    pub fn open() -> io::Result<Prober> {
        socket().map(Prober)
    }

    /// A frame may be as long as the MTU, the device's header and a tag. That is looked at before the frame itself is read, which stands
    /// nowhere: so nothing is ever sent.
    pub fn is_plain(&self, device: u32, mtu: u32) -> bool {
        const TAG: usize = 4;
        let longest = mtu as usize + ETHERNET + TAG;
        self.refusal(device, longest) == libc::EFAULT && self.refusal(device, longest + 1) == libc::EMSGSIZE
    }

    fn refusal(&self, device: u32, bytes: usize) -> i32 {
        let address = address(device);
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // JUSTIFICATION: std sends what is there.
        // SAFETY: the kernel reads one live address; where a frame would be nothing is mapped, which it says, and reads nothing.
        let result = unsafe { libc::sendto(self.0.as_raw_fd(), std::ptr::null(), bytes, libc::MSG_DONTWAIT, (&raw const address).cast(), length) };
        if result < 0 { errno() } else { 0 }
    }
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // JUSTIFICATION: socket2 has no options of this family.
    // SAFETY: the kernel reads one T, which is plain data.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn address(device: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        // None: nothing is received.
        sll_protocol: 0,
        sll_ifindex: device as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn bind(socket: &OwnedFd, device: u32) -> io::Result<()> {
    let address = address(device);
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // JUSTIFICATION: std knows no such address.
    // SAFETY: the kernel reads one live address.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
