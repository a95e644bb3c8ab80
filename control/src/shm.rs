//! The link's mapping and the eventfds, from inherited descriptors. The only unsafe code of control.
//!
//! A descriptor named in the handover is taken over here, once; nothing here reads what is in the link.

use crate::policy::candidates::InterfaceAddress;
use spillway_proto::link::layout::{LINK_BYTES, Link, LinkError};
use spillway_proto::time::Time;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    #[error("descriptor {0} of the handover is not open; start control with `spillway serve`, not by hand")]
    NotOpen(RawFd),
    #[error("cannot map the link: {0}")]
    Map(io::Error),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Takes over an inherited descriptor.
pub fn inherit(number: RawFd) -> Result<OwnedFd, ShmError> {
    // JUSTIFICATION: a number out of the environment must be made a descriptor somewhere.
    // SAFETY: F_GETFD looks at a descriptor of any number and changes nothing.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(ShmError::NotOpen(number));
    }
    // JUSTIFICATION: as above.
    // SAFETY: it is open (checked), and the supervisor passed each number for exactly one use, so that
    // nobody else in this process closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Maps the link for the rest of the process's life.
pub fn map_link(file: OwnedFd) -> Result<Link, ShmError> {
    // JUSTIFICATION: the link is shared memory.
    // SAFETY: a new mapping of the descriptor's file at an address the kernel chooses touches no other memory.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LINK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(ShmError::Map(io::Error::last_os_error()));
    }
    let length = File::from(file).metadata().map_err(ShmError::Map)?.len();
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(LINK_BYTES);
    // JUSTIFICATION: from here on the link is reached through its handle, which is safe.
    // SAFETY: `length` bytes are mapped and within the file, which nobody shortens (a sealed or sparse memfd of the
    // supervisor); it is never unmapped; only handles touch it.
    Ok(unsafe { Link::attach(base.cast::<u8>(), length) }?)
}

/// An eventfd: written to wake, read to fall asleep again.
#[derive(Debug)]
pub struct Wake(File);

impl Wake {
    pub fn inherit(number: RawFd) -> Result<Wake, ShmError> {
        let file = File::from(inherit(number)?);
        // JUSTIFICATION: tokio needs a descriptor that does not block.
        // SAFETY: both calls look at and set flags of a descriptor that `file` keeps open.
        unsafe {
            let flags = libc::fcntl(file.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK);
        }
        Ok(Wake(file))
    }

    /// A new one, for tests that play the engine.
    #[cfg(test)]
    pub fn pair() -> (Wake, Wake) {
        // JUSTIFICATION: std has no eventfd.
        // SAFETY: makes a descriptor, touches no memory.
        let number = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        let wake = Wake::inherit(number).unwrap();
        (Wake(wake.0.try_clone().unwrap()), wake)
    }

    #[cfg(test)]
    pub fn again(&self) -> Wake {
        Wake(self.0.try_clone().unwrap())
    }

    /// For tokio to wait on; only within its runtime.
    pub fn watch(self) -> io::Result<AsyncFd<Wake>> {
        // JUSTIFICATION: tokio asks for the promise below.
        // SAFETY: `as_raw_fd` always gives the descriptor of the file inside, which stays open, and the same,
        // as long as this value lives, which the AsyncFd now owns.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(|error| error.into_parts().1)
    }

    pub fn wake(&self) {
        // A full counter wakes as well, and a closed one has nobody to wake.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Reads the counter to zero.
    pub fn clear(&self) {
        let mut word = [0; 8];
        let _ = (&self.0).read(&mut word);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// CLOCK_MONOTONIC, as the engine stamps packets; `Instant` does not give its number away.
pub fn monotonic_now() -> Time {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // JUSTIFICATION: std hides the clock's value.
    // SAFETY: clock_gettime writes one timespec to the pointer it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Time(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// A link in ordinary memory, for tests that play the engine on another thread.
#[cfg(test)]
pub fn heap_link(shards: u32) -> Link {
    let layout = std::alloc::Layout::from_size_align(LINK_BYTES, 4_096).unwrap();
    // JUSTIFICATION: the tests' link needs aligned zeroed memory.
    // SAFETY: the layout is not empty; the memory is never freed, and only handles touch it.
    unsafe { Link::create(std::alloc::alloc_zeroed(layout), LINK_BYTES, shards).unwrap() }
}

/// The addresses of this machine, as the system lists them.
pub fn interface_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // JUSTIFICATION: std does not list interfaces.
    // SAFETY: getifaddrs writes a list's head to the pointer it is given, and nothing else.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut entry = first;
    while !entry.is_null() {
        // JUSTIFICATION: the list is C structures linked by pointers.
        // SAFETY: `entry` is an element of the list until freeifaddrs below; its name is a C string, and its
        // address, where there is one, has the structure that its family says.
        unsafe {
            let here = &*entry;
            if let Some(ip) = address_of(here.ifa_addr) {
                let interface = std::ffi::CStr::from_ptr(here.ifa_name).to_string_lossy().into_owned();
                found.push(InterfaceAddress { interface, ip, up: here.ifa_flags & libc::IFF_UP as u32 != 0 });
            }
            entry = here.ifa_next;
        }
    }
    // JUSTIFICATION: as above.
    // SAFETY: the list came from getifaddrs and nothing of it is used after this.
    unsafe { libc::freeifaddrs(first) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address of the size its family has.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // JUSTIFICATION: a socket address is a union told apart by its family.
    // SAFETY: the caller's promise; reads are unaligned because nothing is said about the alignment.
    unsafe {
        match i32::from(std::ptr::read_unaligned(address).sa_family) {
            libc::AF_INET => {
                let v4 = std::ptr::read_unaligned(address.cast::<libc::sockaddr_in>());
                Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let v6 = std::ptr::read_unaligned(address.cast::<libc::sockaddr_in6>());
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_addresses_have_a_loopback() {
        let found = interface_addresses().unwrap();
        assert!(found.iter().any(|address| address.ip.is_loopback()), "{found:?}");
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert!(matches!(inherit(1_000_000), Err(ShmError::NotOpen(1_000_000))));
        assert!(matches!(inherit(1), Err(ShmError::NotOpen(1))));
    }
}
