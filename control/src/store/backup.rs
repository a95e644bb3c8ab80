//! A copy of the database while a node writes it.
//!
//! `VACUUM INTO` reads one moment of the database (WAL: nobody waits for it, and it waits for nobody), where SQLite's
//! backup interface would begin anew with every write of the other process.

use super::{FILE, StoreError};
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{0} is there already; a backup replaces nothing")]
    Exists(PathBuf),
    #[error("cannot write {0}: {1}")]
    File(PathBuf, io::Error),
    #[error("there is no database in {0}; is this the data directory?")]
    Nothing(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whole, checked and on the disk before it has its name. Its size in bytes.
pub fn backup(data: &Path, file: &Path) -> Result<u64, BackupError> {
    let path = data.join(FILE);
    if !path.exists() {
        return Err(BackupError::Nothing(data.to_owned()));
    }
    if file.exists() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let at = |source| BackupError::Store(StoreError::Open { path: path.clone(), source });
    let failed = |error| BackupError::File(file.to_owned(), error);
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let _ = fs::remove_file(&part);
    // Nobody else's to read, from the first byte on; SQLite fills a file that is empty.
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
    let copied = copy(&path, &part).map_err(at).and_then(|()| {
        let copy = fs::File::open(&part).map_err(failed)?;
        copy.sync_all().map_err(failed)?;
        // Fails where somebody made that name meanwhile.
        fs::hard_link(&part, file).map_err(failed)?;
        Ok(copy.metadata().map_err(failed)?.len())
    });
    let _ = fs::remove_file(&part);
    copied
}

fn copy(path: &Path, part: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(super::BUSY_WAIT)?;
    connection.execute("VACUUM INTO ?1", [part.to_string_lossy()])?;
    let copy = Connection::open_with_flags(part, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let check: String = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if check == "ok" { Ok(()) } else { Err(rusqlite::Error::InvalidQuery) }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[tokio::test]
    async fn a_copy_made_while_others_write_is_whole_and_has_what_was_committed() {
        let data = std::env::temp_dir().join(format!("spillway-backup-{}", std::process::id()));
        let _ = fs::remove_dir_all(&data);
        fs::create_dir_all(data.join("copy")).unwrap();
        let store = Store::open(&data).unwrap();
        let numbers = async |store: &Store, count: usize| {
            for number in 0..count {
                store.join_room(&format!("room-{number}"), "ann", 0).await.unwrap();
            }
        };
        numbers(&store, 50).await;
        let file = data.join("copy").join(FILE);
        let (made, ()) = tokio::join!(
            tokio::task::spawn_blocking({
                let (data, file) = (data.clone(), file.clone());
                move || backup(&data, &file)
            }),
            numbers(&store, 200)
        );
        assert!(made.unwrap().unwrap() > 0);
        assert!(matches!(backup(&data, &file), Err(BackupError::Exists(_))));
        assert!(matches!(backup(&data.join("copy/none"), &data.join("x")), Err(BackupError::Nothing(_))));
        assert!(backup(&data, &data.join("nowhere/x")).is_err());
        // The copy with its key is a store like the other.
        fs::copy(data.join("master.key"), data.join("copy/master.key")).unwrap();
        let copy = Store::open(&data.join("copy")).unwrap();
        assert_eq!(copy.join_room("room-49", "ann", 0).await.unwrap().number, 50);
        assert!(!data.join("copy").join(format!("{FILE}.part")).exists());
        let _ = fs::remove_dir_all(&data);
    }
}
