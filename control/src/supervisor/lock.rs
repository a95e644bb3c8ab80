//! The lock on a data directory: one supervisor per directory, and everybody can tell which.
//!
//! The lock is flock's, so that it ends with its holder however that ends; the pid in the file is only
//! for people and for `stop`.

use crate::data_dir::DataDir;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::thread::sleep;
use std::time::Duration;

/// Held until it is dropped. Children do not inherit it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "Spillway already runs on {data} (pid {pid}); stop it with: spillway stop --data {data} (or give this one another --data)"
    )]
    Held { data: String, pid: String },
    #[error("cannot lock {0}: {1}; check that the data directory belongs to this user")]
    File(String, io::Error),
}

/// `holder` looks by taking the lock for a moment; a `serve` at that moment tries again.
const ATTEMPTS: u32 = 5;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(20);

impl Lock {
    pub fn take(data: &DataDir) -> Result<Lock, LockError> {
        let path = data.lock();
        let failed = |error| LockError::File(path.display().to_string(), error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        for attempt in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => sleep(ATTEMPT_INTERVAL),
                Err(TryLockError::WouldBlock) => {
                    let pid = read_pid(&mut file).map_or("unknown".to_owned(), |pid| pid.to_string());
                    return Err(LockError::Held { data: data.path().display().to_string(), pid });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Lock { _file: file })
    }
}

/// Who holds the lock now; `None`: nobody.
pub fn holder(data: &DataDir) -> Option<u32> {
    let mut file = File::open(data.lock()).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_pid(&mut file),
        _ => None,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::Scratch;
    use std::time::{Duration, Instant};

    #[test]
    fn the_second_is_told_who_holds_it_until_that_one_lets_go() {
        let scratch = Scratch::new();
        let data = DataDir::open(&scratch.0).unwrap();
        assert_eq!(holder(&data), None);
        let first = Lock::take(&data).unwrap();
        assert_eq!(holder(&data), Some(std::process::id()));
        let Err(LockError::Held { pid, .. }) = Lock::take(&data) else { panic!("taken twice") };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        // A process that another test starts right now has the file open until it is another program.
        let until = Instant::now() + Duration::from_secs(10);
        while holder(&data).is_some() {
            assert!(Instant::now() < until, "the pid in the file alone holds nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        while Lock::take(&data).is_err() {
            assert!(Instant::now() < until, "nobody holds it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
