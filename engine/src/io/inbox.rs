//! The receiving half of both backends: recvmmsg, many datagrams at a time.
//!
//! io_uring could do it, too, and did: a multishot receive costs 1.7 times as much per datagram, and as a waiter on the
//! socket it is woken, for nothing, by every packet that leaves it.

use std::mem;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use spillway_proto::limits::DATAGRAM_SIZE_MAX;

use super::bound::Sockets;
use super::cmsg::{self, Control, Name};
use super::sizes::RECEIVE_BATCH;
use super::{Datagram, Tally};

/// What one recvmmsg fills.
pub struct Inbox {
    headers: Box<[libc::mmsghdr]>,
    parts: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
    bytes: Box<[u8]>,
    /// Where `receive` begins, so that no socket starves the others.
    first: usize,
}

impl Inbox {
    pub fn new() -> Inbox {
        // JUSTIFICATION: libc gives these types no constructor that works on every libc.
        // SAFETY: plain data of integers and raw pointers; all zeros is a valid value.
        let header: libc::mmsghdr = unsafe { mem::zeroed() };
        Inbox {
            headers: vec![header; RECEIVE_BATCH].into_boxed_slice(),
            parts: vec![libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; RECEIVE_BATCH].into_boxed_slice(),
            names: vec![Name::EMPTY; RECEIVE_BATCH].into_boxed_slice(),
            controls: vec![Control::EMPTY; RECEIVE_BATCH].into_boxed_slice(),
            bytes: vec![0; RECEIVE_BATCH * DATAGRAM_SIZE_MAX].into_boxed_slice(),
            first: 0,
        }
    }

    /// `Io::receive`.
    pub fn receive(&mut self, sockets: &Sockets, tally: &mut Tally, max: usize, mut f: impl FnMut(Datagram<'_>)) -> usize {
        let mut given = 0;
        let count = sockets.list().len();
        self.first = (self.first + 1) % count;
        for turn in 0..count {
            let socket = &sockets.list()[(self.first + turn) % count];
            let port = socket.address().port();
            // What arrived, malformed or not, counts against `max`, so that this ends whatever comes in.
            let mut room = max - given;
            while room > 0 {
                let asked = room.min(RECEIVE_BATCH);
                let got = match self.fill(socket.fd(), asked) {
                    Ok(got) => got,
                    Err(libc::EAGAIN | libc::EINTR) => break,
                    Err(_) => {
                        tally.receive_errors += 1;
                        break;
                    }
                };
                for index in 0..got.min(asked) {
                    match self.datagram(index, port) {
                        Some(datagram) => {
                            given += 1;
                            f(datagram);
                        }
                        None => tally.malformed += 1,
                    }
                }
                room -= got.min(room);
                if got < asked {
                    break;
                }
            }
            if given == max {
                break;
            }
        }
        tally.received += given as u64;
        given
    }

    /// Takes up to `asked` datagrams; the error is the kernel's number.
    fn fill(&mut self, fd: RawFd, asked: usize) -> Result<usize, i32> {
        let asked = asked.min(RECEIVE_BATCH);
        // The kernel writes lengths into the headers, so they are set anew each time.
        for (index, bytes) in self.bytes.chunks_exact_mut(DATAGRAM_SIZE_MAX).enumerate().take(asked) {
            let (name, control) = (&mut self.names[index], &mut self.controls[index]);
            let part = &mut self.parts[index];
            *part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = name.as_mut_ptr().cast();
            header.msg_namelen = cmsg::NAME_SIZE as libc::socklen_t;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = Control::SIZE as _;
            header.msg_flags = 0;
        }
        // JUSTIFICATION: std takes one datagram per call and no control messages.
        // SAFETY: `asked` headers name live memory of this struct with its true sizes, nothing else borrows it now.
        let got = unsafe {
            libc::recvmmsg(fd, self.headers.as_mut_ptr(), asked as libc::c_uint, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        usize::try_from(got).map_err(|_| errno())
    }

    /// The datagram at `index` of the last fill, if it is whole and its addresses are known.
    fn datagram(&mut self, index: usize, port: u16) -> Option<Datagram<'_>> {
        let filled = self.headers.get(index)?;
        let header = &filled.msg_hdr;
        if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
            return None;
        }
        let remote = cmsg::parse_name(self.names[index].bytes().get(..header.msg_namelen as usize)?)?;
        #[allow(clippy::unnecessary_cast, reason = "it is no usize on every libc")]
        let control = self.controls[index].bytes().get(..header.msg_controllen as usize)?;
        let local: SocketAddr = cmsg::parse_local(control, port)?;
        let start = index * DATAGRAM_SIZE_MAX;
        let bytes = self.bytes.get_mut(start..start + filled.msg_len as usize)?;
        Some(Datagram { local, remote, bytes })
    }
}

pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
