//! A recording's directory: its files by number, its journal, and the file that is being written.
//!
//! Everything is opened beneath the one descriptor the process was given, by names made here, never through a link.

use super::journal::{JOURNAL_NAME, Journal, Line};
use super::sys::{open_at, reserve};
use super::writer::{Disk, file_name};
use spillway_proto::limits::RECORDING_FILES_MAX;
use spillway_proto::mux::container::Container;
use spillway_proto::mux::finish::Bytes;
use spillway_proto::mux::mark::{HEAD_BYTES_MAX, HEAD_MAGIC, Head};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Room for some hundred lines on a disk that has become full.
const JOURNAL_RESERVE: i64 = 64 * 1_024;
/// A file's head stands within its first bytes.
const HEAD_WITHIN: usize = 4 * HEAD_BYTES_MAX + 64 * 1_024;

pub struct Directory {
    descriptor: OwnedFd,
}

impl Directory {
    pub fn new(descriptor: OwnedFd) -> Directory {
        Directory { descriptor }
    }

    pub fn again(&self) -> io::Result<Directory> {
        Ok(Directory { descriptor: self.descriptor.try_clone()? })
    }

    /// The journal, made if there is none; half a line at its end is gone.
    pub fn journal(&self) -> io::Result<(Journal, Vec<Line>)> {
        let file = open_at(&self.descriptor, JOURNAL_NAME, libc::O_RDWR | libc::O_CREAT)?;
        // Not every file system can.
        let _ = reserve(&file, JOURNAL_RESERVE);
        self.sync()?;
        Journal::open(file)
    }

    pub fn open(&self, name: &str) -> io::Result<File> {
        let file = open_at(&self.descriptor, name, libc::O_RDWR | libc::O_NONBLOCK)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no plain file")),
        }
    }

    /// Names of the recording's files in their order; numbers have no holes.
    pub fn files(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for number in 1..=RECORDING_FILES_MAX {
            let before = names.len();
            for container in [Container::Mp4, Container::WebM] {
                let name = file_name(number, container.extension());
                match open_at(&self.descriptor, &name, libc::O_RDONLY | libc::O_NONBLOCK) {
                    Ok(_) => names.push(name),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if names.len() == before {
                break;
            }
        }
        Ok(names)
    }

    /// Makes the names durable.
    pub fn sync(&self) -> io::Result<()> {
        open_at(&self.descriptor, ".", libc::O_RDONLY | libc::O_DIRECTORY)?.sync_all()
    }
}

/// The number of a file of ours.
pub fn number_of(name: &str) -> Option<u32> {
    name.split_once('.')?.0.parse().ok()
}

/// What a file says of itself at its beginning; None: nothing.
pub fn head_of(file: &File) -> io::Result<Option<Head>> {
    let mut bytes = vec![0; HEAD_WITHIN];
    let count = FileBytes(file).read_at(0, &mut bytes)?;
    bytes.truncate(count);
    let at = bytes.windows(HEAD_MAGIC.len()).position(|window| window == HEAD_MAGIC);
    Ok(at.and_then(|at| Head::parse(bytes.get(at..)?)))
}

/// A file as `finish` reads it.
pub struct FileBytes<'a>(pub &'a File);

impl Bytes for FileBytes<'_> {
    type Error = io::Error;
    fn length(&mut self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }
}

/// The real disk.
pub struct FileDisk {
    pub directory: Directory,
    pub file: Option<File>,
}

impl FileDisk {
    fn current(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("no file is open"))
    }
}

impl Disk for FileDisk {
    fn create(&mut self, name: &str) -> io::Result<()> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        self.file = Some(open_at(&self.directory.descriptor, name, flags)?);
        Ok(())
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.current()?.write_all_at(bytes, offset)
    }
    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.current()?.set_len(length)
    }
    fn sync(&mut self, name_too: bool) -> io::Result<()> {
        self.current()?.sync_data()?;
        if name_too { self.directory.sync() } else { Ok(()) }
    }
}
