//! Memory that outlives the process: a mapping of a file the supervisor holds, and holes in it. And memory that is about
//! to be used: how it is fetched into the cache beforehand.
//!
//! Owns the address range and nothing else: what lies in it, and who may write it, is decided by
//! the types that are built on it (link, records, reels). Never creates or resizes a file.

use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("a mapping of 0 bytes was asked for: this is a bug, please report it")]
    Empty,
    #[error("the shared file holds {found} bytes and this version needs {needed}: stop the node and start it again, so that it is made anew")]
    TooSmall { found: u64, needed: usize },
    #[error("the size of the shared file cannot be read ({0}): the descriptor given to this process is not a file")]
    Stat(#[source] io::Error),
    #[error("{length} bytes cannot be mapped ({source}): raise the limit of address space (ulimit -v) or of memory (container, LimitAS)")]
    Map { length: usize, source: io::Error },
}

/// A readable and writable range of memory, page-aligned and zero where nobody wrote yet. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// JUSTIFICATION: a mapping is made at start-up and handed to the thread that works in it.
// SAFETY: it is an address range without thread affinity; every access through `start` is unsafe and
// answers for its own races.
unsafe impl Send for Mapping {}
// JUSTIFICATION: link and reels are read by many threads at once through one mapping.
// SAFETY: `&Mapping` gives only the address and the length; see above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `file`, shared with every other process that maps it.
    ///
    /// The size is checked first: an access beyond the end of a file is a SIGBUS, not an error.
    pub fn shared(file: impl AsFd, length: usize) -> Result<Mapping, MapError> {
        let found = file_size(file.as_fd()).map_err(MapError::Stat)?;
        if found < length as u64 {
            return Err(MapError::TooSmall { found, needed: length });
        }
        map(length, libc::MAP_SHARED, file.as_fd().as_raw_fd(), 0)
    }

    /// Maps `length` bytes that a kernel's object other than a file shows at `offset`, say the rings of a socket.
    pub fn of_device(object: impl AsFd, length: usize, offset: libc::off_t) -> Result<Mapping, MapError> {
        map(length, libc::MAP_SHARED | libc::MAP_POPULATE, object.as_fd().as_raw_fd(), offset)
    }

    /// Memory of this process alone, for what the kernel reads and writes by address.
    pub fn private(length: usize) -> Result<Mapping, MapError> {
        map(length, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // JUSTIFICATION: std has no mappings.
        // SAFETY: start and length are those mmap returned, and nothing else unmaps them.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Gives the pages of a range back to the system; the range reads as zeros afterwards and the file keeps its size.
pub fn punch_hole(file: impl AsFd, offset: u64, length: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = libc::off_t::try_from(offset).map_err(too_far)?;
    let length = libc::off_t::try_from(length).map_err(too_far)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // JUSTIFICATION: std has no fallocate.
    // SAFETY: a call by values on a borrowed descriptor.
    match unsafe { libc::fallocate(file.as_fd().as_raw_fd(), mode, offset, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn file_size(file: BorrowedFd<'_>) -> io::Result<u64> {
    // JUSTIFICATION: std reads sizes only through a File, which would own the descriptor.
    // SAFETY: stat is plain data, all zeros is a valid value of it; fstat writes only inside it.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(file.as_raw_fd(), &mut stat), stat)
    };
    match result {
        0 => Ok(u64::try_from(stat.st_size).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn map(length: usize, flags: libc::c_int, file: libc::c_int, offset: libc::off_t) -> Result<Mapping, MapError> {
    if length == 0 {
        return Err(MapError::Empty);
    }
    // JUSTIFICATION: std has no mappings.
    // SAFETY: the kernel chooses a free range (no MAP_FIXED), so nothing that exists is touched.
    let start = unsafe {
        libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, file, offset)
    };
    if start == libc::MAP_FAILED {
        return Err(MapError::Map { length, source: io::Error::last_os_error() });
    }
    let start = NonNull::new(start.cast()).ok_or(MapError::Empty)?;
    Ok(Mapping { start, length })
}

/// A line of the cache of every processor we know.
const CACHE_LINE: usize = 64;
/// No memory of a process lies below.
const ADDRESS_MIN: usize = 1 << 16;

/// Fetches `value` into the cache while something else is worked on. Changes nothing, and is no access.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    prefetch_at(std::ptr::from_ref(value).cast(), size_of_val(value));
}

/// Fetches the first `length` bytes of what the words of `value` point at: for a type that does not show its pointers.
#[inline]
pub fn prefetch_behind<T>(value: &T, length: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in 0..size_of::<T>() / size_of::<usize>() {
        let place = std::ptr::from_ref(value).cast::<usize>().wrapping_add(at);
        let word: usize;
        // JUSTIFICATION: a cipher keeps its keys behind a pointer that is private to it, and padding cannot be read by Rust.
        // SAFETY: the instruction reads a word within a live value; whatever it finds is a number, and only prefetched.
        unsafe {
            std::arch::asm!("mov {word}, [{place}]", word = out(reg) word, place = in(reg) place, options(readonly, nostack, preserves_flags));
        }
        if word >= ADDRESS_MIN {
            prefetch_at(std::ptr::without_provenance(word), length);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, length);
}

/// The same of `length` bytes at an address, whoever else has them just now.
#[inline]
pub fn prefetch_at(start: *const u8, length: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..length).step_by(CACHE_LINE) {
        // JUSTIFICATION: std has no prefetch.
        // SAFETY: it is a hint, which no address makes fault and no program can see.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, length);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::os::unix::fs::MetadataExt;

    fn memfd(size: u64) -> OwnedFd {
        // SAFETY: a literal name; the descriptor is fresh and owned by nobody else.
        let fd = unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd)
        };
        let file = File::from(fd);
        file.set_len(size).unwrap();
        file.into()
    }

    fn at(mapping: &Mapping, offset: usize) -> *mut u8 {
        assert!(offset < mapping.length());
        // SAFETY: inside the mapping.
        unsafe { mapping.start().as_ptr().add(offset) }
    }

    /// Goal: a prefetch is no access. Method: values without bytes, and words that are addresses of nothing, of the kernel, of themselves.
    #[test]
    fn what_is_fetched_beforehand_may_be_anything() {
        let mut words = [0, 1, ADDRESS_MIN - 1, ADDRESS_MIN, 1 << 47, usize::MAX - 640, usize::MAX, 0];
        words[7] = std::ptr::from_ref(&words).addr();
        let before = words;
        prefetch(&words);
        prefetch(&words[8..]);
        prefetch(&());
        prefetch_behind(&words, 640);
        prefetch_behind(&(1_u8, 7_u64), 640);
        prefetch_behind(&(), 640);
        assert_eq!(words, before);
    }

    #[test]
    fn two_mappings_of_one_file_see_each_others_bytes() {
        let file = memfd(8_192);
        let one = Mapping::shared(&file, 8_192).unwrap();
        let two = Mapping::shared(&file, 8_192).unwrap();
        // SAFETY: inside both mappings, one thread.
        unsafe {
            at(&one, 8_191).write_volatile(7);
            assert_eq!(at(&two, 8_191).read_volatile(), 7);
        }
    }

    #[test]
    fn a_file_one_byte_too_small_is_refused() {
        let file = memfd(8_191);
        assert!(matches!(Mapping::shared(&file, 8_192), Err(MapError::TooSmall { found: 8_191, needed: 8_192 })));
        assert!(matches!(Mapping::shared(&file, 0), Err(MapError::Empty)));
    }

    #[test]
    fn a_hole_gives_memory_back_and_reads_as_zeros() {
        let size = 64 * 4_096;
        let file = memfd(size as u64);
        let mapping = Mapping::shared(&file, size).unwrap();
        for offset in (0..size).step_by(4_096) {
            // SAFETY: inside the mapping.
            unsafe { at(&mapping, offset).write_volatile(1) };
        }
        let file = File::from(file);
        let full = file.metadata().unwrap().blocks();
        punch_hole(&file, 4_096, 32 * 4_096).unwrap();
        let meta = file.metadata().unwrap();
        assert_eq!(meta.blocks(), full - 32 * 8, "32 pages of 8 blocks each went back");
        assert_eq!(meta.len(), size as u64);
        // SAFETY: inside the mapping.
        unsafe {
            assert_eq!(at(&mapping, 4_096).read_volatile(), 0);
            assert_eq!(at(&mapping, 0).read_volatile(), 1);
            assert_eq!(at(&mapping, 33 * 4_096).read_volatile(), 1);
        }
    }
}
