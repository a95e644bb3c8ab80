//! The directory of recordings as control sees it: opens a recording's files to read, lists directories, removes what
//! was deleted. Writes nothing: that is the recorders' work.
//!
//! Names come from requests. A recording's directory is opened by an id that only control can have made, a file by a
//! name of digits, each as one step that follows no link; so nothing outside the directory is ever reached.

use crate::adapters::journal::{JOURNAL_NAME, LINE_BYTES_MAX};
use spillway_proto::link::tap::is_recording_id;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `0001.mp4`: digits, a dot, and what it is.
const FILE_NAME_CHARS_MAX: usize = 16;
/// Of a journal, what is read at a time.
const JOURNAL_BYTES: usize = 64 * 1_024;
/// Directories that are looked through for what nobody knows.
const DIRECTORIES_MAX: usize = 100_000;
const FILES_MAX: usize = 10_000;

const _: () = assert!(JOURNAL_BYTES > LINE_BYTES_MAX);

#[derive(Clone, Debug, Default)]
pub struct RecordingFiles(PathBuf);

/// Whether `name` is one that a recorder gives its files.
pub fn is_file_name(name: &str) -> bool {
    let Some((stem, kind)) = name.split_once('.') else { return false };
    let is_stem = stem.len() >= 4 && stem.bytes().all(|byte| byte.is_ascii_digit());
    let is_kind = ["mp4", "webm"].contains(&kind);
    is_stem && is_kind && name.len() <= FILE_NAME_CHARS_MAX
}

pub fn content_type(name: &str) -> &'static str {
    if name.ends_with(".webm") { "video/webm" } else { "video/mp4" }
}

impl RecordingFiles {
    pub fn new(root: PathBuf) -> RecordingFiles {
        RecordingFiles(root)
    }

    #[cfg(test)]
    pub fn root(&self) -> &Path {
        &self.0
    }

    fn not_found() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOENT)
    }

    fn directory(&self, id: &str) -> io::Result<File> {
        if !is_recording_id(id) {
            return Err(RecordingFiles::not_found());
        }
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(self.0.join(id))
    }

    /// Opens a name in an open directory: whatever the path of that directory has become, this is beneath it.
    fn beneath(directory: &File, name: &str) -> io::Result<(File, Metadata)> {
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        // A pipe in the file's place is not waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
        let facts = file.metadata()?;
        if facts.is_file() { Ok((file, facts)) } else { Err(RecordingFiles::not_found()) }
    }

    pub fn open(&self, id: &str, name: &str) -> io::Result<(File, Metadata)> {
        if !is_file_name(name) {
            return Err(RecordingFiles::not_found());
        }
        RecordingFiles::beneath(&self.directory(id)?, name)
    }

    /// Bytes of a recording's journal from `from` on; empty: there is nothing new, or no journal yet.
    pub fn journal(&self, id: &str, from: u64) -> io::Result<Vec<u8>> {
        let opened = self.directory(id).and_then(|directory| RecordingFiles::beneath(&directory, JOURNAL_NAME));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?.0,
        };
        let mut bytes = vec![0; JOURNAL_BYTES];
        let mut length = 0;
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, from + length as u64)? {
                0 => break,
                read => length += read,
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The recording's media files with their sizes now.
    pub fn sizes(&self, id: &str) -> io::Result<Vec<(String, u64)>> {
        let directory = self.directory(id)?;
        let mut sizes = Vec::new();
        for entry in fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?.take(FILES_MAX) {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if is_file_name(&name) {
                sizes.extend(RecordingFiles::beneath(&directory, &name).map(|(_, facts)| (name, facts.len())));
            }
        }
        sizes.sort();
        Ok(sizes)
    }

    /// Directories that are named like recordings.
    pub fn ids(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let names = entries.take(DIRECTORIES_MAX).flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_recording_id(name)).collect())
    }

    /// Removes a recording's directory with the files in it; one that is gone is removed.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let directory = match self.directory(id) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let names: Vec<_> = fs::read_dir(&path)?.take(FILES_MAX).collect::<io::Result<_>>()?;
        for entry in names {
            // Not recursive: what is no file of a recorder keeps the directory.
            fs::remove_file(Path::new(&path).join(entry.file_name()))?;
        }
        fs::remove_dir(self.0.join(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::Scratch;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    const ID: &str = "rec_00000000000000000000000001";

    fn with_one() -> (Scratch, RecordingFiles) {
        let scratch = Scratch::new();
        let root = scratch.0.join("recordings");
        fs::create_dir_all(root.join(ID)).unwrap();
        fs::write(root.join(ID).join("0001.mp4"), "media").unwrap();
        fs::write(root.join(ID).join(JOURNAL_NAME), "line\nhalf").unwrap();
        fs::write(scratch.0.join("secret.mp4"), "secret").unwrap();
        fs::write(root.join("0001.mp4"), "secret").unwrap();
        (scratch, RecordingFiles::new(root))
    }

    fn text(opened: io::Result<(File, Metadata)>) -> String {
        let mut text = String::new();
        opened.unwrap().0.read_to_string(&mut text).unwrap();
        text
    }

    /// Threat 13: no name reaches anything but a recorder's files.
    #[test]
    fn threat_13_no_name_leads_out_of_a_recordings_directory() {
        let (scratch, files) = with_one();
        assert_eq!(text(files.open(ID, "0001.mp4")), "media");
        let long = format!("rec_{}", "0".repeat(300));
        let ids = ["..", ".", "", "/", "../recordings/rec_00000000000000000000000001", "rec_0000000000000000000000000\u{e9}",
            "rec_..%2f..%2f..%2f..%2f..%2f..", "rec_00000000000000000000000001/", "REC_00000000000000000000000001", &long];
        for id in ids {
            assert!(files.open(id, "0001.mp4").is_err() && files.sizes(id).is_err(), "{id}");
            assert!(files.journal(id, 0).is_ok_and(|bytes| bytes.is_empty()), "{id}");
        }
        let long = format!("{}.mp4", "1".repeat(300));
        let names = ["../0001.mp4", "../../secret.mp4", "..", ".", "", "/etc/passwd", "0001.mp4/", "0001.mp4\0", "0001.m\u{70}4\u{301}",
            "\u{661}\u{661}\u{661}\u{661}.mp4", "journal.jsonl", "0001.mp4.part", "1.mp4", "./0001.mp4", &long];
        for name in names {
            assert!(files.open(ID, name).is_err() && !is_file_name(name), "{name}");
        }
        // Links, in place of a file and in place of the directory; a pipe; a directory named as a file.
        let directory = files.root().join(ID);
        symlink(scratch.0.join("secret.mp4"), directory.join("0002.mp4")).unwrap();
        fs::create_dir(directory.join("0003.mp4")).unwrap();
        let other = "rec_00000000000000000000000002";
        symlink(&directory, files.root().join(other)).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(directory.join("0004.mp4")).status().unwrap().success());
        for name in ["0002.mp4", "0003.mp4", "0004.mp4"] {
            assert!(files.open(ID, name).is_err(), "{name}");
        }
        assert!(files.open(other, "0001.mp4").is_err());
        assert_eq!(files.sizes(ID).unwrap(), [("0001.mp4".to_owned(), 5)]);
        assert_eq!(files.ids().unwrap(), [ID]);
    }

    #[test]
    fn a_journal_is_read_from_where_it_was_left() {
        let (_scratch, files) = with_one();
        assert_eq!(files.journal(ID, 0).unwrap(), b"line\nhalf");
        assert_eq!(files.journal(ID, 5).unwrap(), b"half");
        assert_eq!(files.journal(ID, 500).unwrap(), b"");
        assert_eq!(files.journal("rec_00000000000000000000000009", 0).unwrap(), b"");
    }

    #[test]
    fn what_is_removed_is_a_recordings_files_and_nothing_they_lead_to() {
        let (scratch, files) = with_one();
        symlink(scratch.0.join("secret.mp4"), files.root().join(ID).join("0002.mp4")).unwrap();
        files.remove(ID).unwrap();
        assert!(files.ids().unwrap().is_empty() && scratch.0.join("secret.mp4").exists());
        files.remove(ID).unwrap();
        assert!(files.remove("..").is_ok() && scratch.0.exists() && files.root().join("0001.mp4").exists());
        // Somebody keeps things of his own in there.
        fs::create_dir_all(files.root().join(ID).join("mine")).unwrap();
        assert!(files.remove(ID).is_err() && files.root().join(ID).join("mine").exists());
    }
}
