//! The data directory: what stands where below `--data`, and that nobody else can read it.
//!
//! Owns the names. The signing key belongs to `auth`, the lock to `supervisor::lock`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where everything stands that outlives a run.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot make the data directory {0}: {1}; name another one with --data DIR")]
    Make(PathBuf, io::Error),
    #[error("the data directory {0} is not a directory; name another one with --data DIR")]
    NotADirectory(PathBuf),
    #[error(
        "the data directory {path} belongs to user {owner} and others may read it (mode {mode:o}); run as that user: chmod 700 {path}"
    )]
    Exposed { path: PathBuf, owner: u32, mode: u32 },
}

impl DataDir {
    /// The directory as an absolute path, made if it is missing; 0700, because it holds the signing key.
    pub fn open(path: &Path) -> Result<DataDir, DataDirError> {
        let made = |error| DataDirError::Make(path.to_owned(), error);
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(DataDirError::NotADirectory(path.to_owned()));
            }
            other => other.map_err(made)?,
        }
        let path = fs::canonicalize(path).map_err(made)?;
        let metadata = fs::metadata(&path).map_err(made)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 && fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).is_err() {
            return Err(DataDirError::Exposed { path, owner: metadata.uid(), mode });
        }
        Ok(DataDir(path))
    }

    /// The directory if it is there: `stop` and `restart` make nothing.
    pub fn existing(path: &Path) -> Option<DataDir> {
        path.is_dir().then(|| DataDir(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
    /// Held by the supervisor as long as it runs, with its pid as text.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
    /// What runs here and where it listens; there only while a node is ready.
    pub fn node_json(&self) -> PathBuf {
        self.0.join("node.json")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory of this test's own, removed at its end.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new() -> Scratch {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name = format!("spillway-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn is_made_for_its_owner_alone() {
        let scratch = Scratch::new();
        let data = DataDir::open(&scratch.0.join("a/b")).unwrap();
        assert_eq!(mode(data.path()), 0o700);
    }

    #[test]
    fn one_that_others_can_read_is_closed() {
        let scratch = Scratch::new();
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
        let data = DataDir::open(&scratch.0).unwrap();
        assert_eq!(mode(data.path()), 0o700);
    }

    #[test]
    fn a_file_is_no_data_directory() {
        let scratch = Scratch::new();
        let file = scratch.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataDir::open(&file), Err(DataDirError::NotADirectory(_))));
    }
}
