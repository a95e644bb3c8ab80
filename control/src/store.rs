//! What survives a restart of control: rooms' numbers and the sessions it has given URLs to. SQLite in
//! `DATA/spillway.db`, touched by one thread of its own; callers wait for it without blocking theirs.
//!
//! The truth about live sessions is the engine's; a row here only says "this one is ours". It is written
//! before the engine is asked to make the session, so that a killed control never loses one.

use crate::auth::unhex;
use crate::policy::{ResourceId, rooms::KnownSession};
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Requests that may wait for the thread: a join storm's worth.
const REQUESTS_MAX: usize = 4_096;
/// How long another process (a backup) may hold the database.
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Each step once, in order; `user_version` counts those that were taken.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE rooms (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name   TEXT NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE sessions (
        resource     TEXT PRIMARY KEY,          -- hexadecimal, the last part of the session's URL
        room         INTEGER NOT NULL REFERENCES rooms(number),
        side         INTEGER NOT NULL,          -- 1 publisher, 2 viewer
        engine_epoch INTEGER NOT NULL,
        sub          TEXT NOT NULL,
        remote_ufrag TEXT NOT NULL,
        expiry       INTEGER NOT NULL           -- Unix seconds
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE counters (
        name  TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO counters VALUES ('stream_generation', 0);
"];

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open {path}: {source}; is the disk full or the directory of another user? To start without what it knows, move it away")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{path} is damaged ({reason}); restore it or move it away (rooms get new numbers, live sessions are ended)")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} has version {found}, this build knows {known}: use the newer build, or move the file away")]
    TooNew { path: PathBuf, found: i64, known: i64 },
    #[error("the database refused: {0}")]
    Query(#[from] rusqlite::Error),
    #[error("the database does not keep up; try again in a second")]
    Busy,
    #[error("the database's thread has ended")]
    Gone,
}

/// A session as it is written before the engine makes it.
#[derive(Clone, Debug)]
pub struct SessionRow {
    pub resource: ResourceId,
    pub room: u32,
    pub side: u8,
    pub engine_epoch: u64,
    pub sub: String,
    pub remote_ufrag: String,
    pub expiry: u64,
}

/// Everything that `Rooms::rebuild` asks for.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub sessions: Vec<KnownSession>,
    pub names: HashMap<u32, String>,
}

type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle on the database's thread, which ends with the last handle.
#[derive(Clone)]
pub struct Store {
    tasks: mpsc::SyncSender<Task>,
}

impl Store {
    pub fn open(data: &Path) -> Result<Store, StoreError> {
        let mut connection = open(&data.join("spillway.db"))?;
        let (tasks, queue) = mpsc::sync_channel::<Task>(REQUESTS_MAX);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Ok(task) = queue.recv() {
                    task(&mut connection);
                }
            })
            .map_err(|_| StoreError::Gone)?;
        Ok(Store { tasks })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        let task: Task = Box::new(move |connection| {
            // Whoever asked may have gone; the work is done all the same.
            let _ = answer.send(work(connection));
        });
        self.tasks.try_send(task).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreError::Busy,
            mpsc::TrySendError::Disconnected(_) => StoreError::Gone,
        })?;
        Ok(wait.await.map_err(|_| StoreError::Gone)??)
    }

    /// The number of a room; a name that is new gets one.
    pub async fn room_number(&self, name: &str) -> Result<u32, StoreError> {
        let name = name.to_owned();
        self.run(move |db| {
            let known = db
                .prepare_cached("SELECT number FROM rooms WHERE name = ?1")?
                .query_row([&name], |row| row.get(0))
                .optional()?;
            match known {
                Some(number) => Ok(number),
                None => db
                    .prepare_cached("INSERT INTO rooms (name) VALUES (?1) RETURNING number")?
                    .query_row([&name], |row| row.get(0)),
            }
        })
        .await
    }

    /// A number that no stream had before.
    pub async fn stream_generation(&self) -> Result<u32, StoreError> {
        self.run(|db| {
            let sql = "UPDATE counters SET value = value + 1 WHERE name = 'stream_generation' RETURNING value";
            db.prepare_cached(sql)?.query_row([], |row| row.get(0))
        })
        .await
    }

    pub async fn add_session(&self, row: SessionRow) -> Result<(), StoreError> {
        self.run(move |db| {
            db.prepare_cached("INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
                row.resource.to_string(),
                row.room,
                row.side,
                row.engine_epoch as i64,
                row.sub,
                row.remote_ufrag,
                row.expiry as i64
            ])?;
            Ok(())
        })
        .await
    }

    pub async fn forget_sessions(&self, resources: Vec<ResourceId>) -> Result<(), StoreError> {
        self.run(move |db| {
            let transaction = db.transaction()?;
            {
                let mut delete = transaction.prepare_cached("DELETE FROM sessions WHERE resource = ?1")?;
                for resource in resources {
                    delete.execute([resource.to_string()])?;
                }
            }
            transaction.commit()
        })
        .await
    }

    /// The ufrag the session's offer had; a trickle fragment with another one asks for an ICE restart.
    pub async fn remote_ufrag(&self, resource: ResourceId) -> Result<Option<String>, StoreError> {
        self.run(move |db| {
            db.prepare_cached("SELECT remote_ufrag FROM sessions WHERE resource = ?1")?
                .query_row([resource.to_string()], |row| row.get(0))
                .optional()
        })
        .await
    }

    pub async fn known(&self) -> Result<Known, StoreError> {
        self.run(|db| {
            let mut known = Known::default();
            let mut rows = db.prepare_cached("SELECT resource, room, engine_epoch FROM sessions")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let resource: String = row.get(0)?;
                if let Some(resource) = unhex(&resource).map(ResourceId) {
                    let engine_epoch = row.get::<_, i64>(2)? as u64;
                    known.sessions.push(KnownSession { resource, room: row.get(1)?, engine_epoch });
                }
            }
            let mut rows = db.prepare_cached("SELECT number, name FROM rooms")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                known.names.insert(row.get(0)?, row.get(1)?);
            }
            Ok(known)
        })
        .await
    }
}

fn open(path: &Path) -> Result<Connection, StoreError> {
    let at = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            StoreError::Damaged { path: path.to_owned(), reason: source.to_string() }
        }
        _ => StoreError::Open { path: path.to_owned(), source },
    };
    let mut connection = Connection::open(path).map_err(at)?;
    connection.busy_timeout(BUSY_WAIT).map_err(at)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(at)?;
    // With WAL a crash of the process loses nothing; a loss of power loses the last joins, which are over then.
    connection.pragma_update(None, "synchronous", "normal").map_err(at)?;
    connection.pragma_update(None, "foreign_keys", "on").map_err(at)?;
    let check: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(at)?;
    if check != "ok" {
        return Err(StoreError::Damaged { path: path.to_owned(), reason: check });
    }
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(at)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    let taken = usize::try_from(found).unwrap_or(0);
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(taken) {
        let transaction = connection.transaction().map_err(at)?;
        transaction.execute_batch(migration).map_err(at)?;
        transaction.pragma_update(None, "user_version", number as i64 + 1).map_err(at)?;
        transaction.commit().map_err(at)?;
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("spillway-store-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn row(number: u8) -> SessionRow {
        SessionRow {
            resource: ResourceId([number; 16]),
            room: 1,
            side: 2,
            engine_epoch: 3,
            sub: "ann".into(),
            remote_ufrag: "abcd".into(),
            expiry: 9,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let data = Scratch::new("restart");
        let store = Store::open(&data.0).unwrap();
        assert_eq!(store.room_number("demo").await.unwrap(), 1);
        assert_eq!(store.room_number("other").await.unwrap(), 2);
        assert_eq!(store.room_number("demo").await.unwrap(), 1);
        assert_eq!(store.stream_generation().await.unwrap(), 1);
        store.add_session(row(1)).await.unwrap();
        store.add_session(row(2)).await.unwrap();
        store.forget_sessions(vec![ResourceId([2; 16]), ResourceId([77; 16])]).await.unwrap();
        drop(store);
        let store = Store::open(&data.0).unwrap();
        let known = store.known().await.unwrap();
        assert_eq!(known.sessions, [KnownSession { resource: ResourceId([1; 16]), room: 1, engine_epoch: 3 }]);
        assert_eq!(known.names.get(&2).map(String::as_str), Some("other"));
        assert_eq!(store.stream_generation().await.unwrap(), 2);
        assert_eq!(store.remote_ufrag(ResourceId([1; 16])).await.unwrap().as_deref(), Some("abcd"));
        assert_eq!(store.remote_ufrag(ResourceId([2; 16])).await.unwrap(), None);
        assert!(store.add_session(row(1)).await.is_err(), "a resource is given once");
    }

    #[test]
    fn a_damaged_or_newer_database_says_what_to_do() {
        let data = Scratch::new("damaged");
        std::fs::write(data.0.join("spillway.db"), "this is no database, but long enough to be looked at".repeat(50)).unwrap();
        let error = Store::open(&data.0).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        std::fs::remove_file(data.0.join("spillway.db")).unwrap();
        let connection = open(&data.0.join("spillway.db")).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        assert!(matches!(Store::open(&data.0).err().unwrap(), StoreError::TooNew { found: 99, .. }));
        assert!(matches!(Store::open(&data.0.join("nowhere")).err().unwrap(), StoreError::Open { .. }));
    }
}
