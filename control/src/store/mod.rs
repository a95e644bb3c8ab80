//! What survives a restart of control: rooms, keys, limits, answers to repeat, and the sessions it has given URLs
//! to. SQLite in `DATA/spillway.db`, touched by one thread of its own; callers wait for it without blocking theirs.
//!
//! The truth about live sessions is the engine's; a row here only says "this one is ours". It is written
//! before the engine is asked to make the session, so that a killed control never loses one.
//!
//! Nobody is answered before what he asked for is on the disk (of a join: written, see `run_passing`). What waits is done in one transaction, so that a join
//! storm costs a few writes to the disk and not one per join:
//!
//! ```text
//!    begin; savepoint, work, release (or rollback to it); savepoint, work, ...; commit = fsync; answers
//! ```

use crate::auth::unhex;
use crate::policy::ResourceId;
use crate::policy::rooms::{KnownSession, Who};
use crate::vault::{Sources, Vault, VaultError};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

mod backup;
mod bans;
mod idempotency;
mod keys;
mod limits;
mod outbox;
mod recordings;
mod rooms;
mod webhooks;

pub use backup::{BackupError, backup};
pub use idempotency::{Found, Record};
pub use keys::{KeyRow, Rotated};
pub use limits::Overrides;
pub use outbox::Drafts;
pub use recordings::{FINISHED, FileRow, Filter, GapRow, RecordingRow, Step, WholeRecording};
use rooms::KnownRooms;
pub use rooms::{Changed, JoinRoom, RoomChange, RoomRow};
pub use webhooks::{
    Delivered, DeliveryRow, NewDelivery, RotatedSecret, WEBHOOKS_MAX, WebhookChange, WebhookRow,
};

/// In the data directory.
pub const FILE: &str = "spillway.db";
/// What one commit carries at most: a bound for how long the first waits for the last.
const BATCH_MAX: usize = 256;
/// Requests that may wait for the thread: a join storm's worth.
const REQUESTS_MAX: usize = 4_096;
/// How long another process (a backup) may hold the database.
/// A known text, sealed under the master key in use.
const CHECK: &str = "SELECT value FROM vault WHERE name = 'check'";
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// Each step once, in order; `user_version` counts those that were taken.
const MIGRATIONS: [&str; 5] = ["
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
", "
    ALTER TABLE sessions ADD COLUMN account TEXT NOT NULL DEFAULT '';
    ALTER TABLE rooms ADD COLUMN declared INTEGER NOT NULL DEFAULT 0;    -- made by the API, not by a token alone
    ALTER TABLE rooms ADD COLUMN created_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE rooms ADD COLUMN viewers_max INTEGER;                    -- NULL: what the node allows
    CREATE TABLE keys (
        id           TEXT PRIMARY KEY,
        role         TEXT NOT NULL,
        name         TEXT NOT NULL,
        room         TEXT,                      -- of a stream key
        account      TEXT NOT NULL,
        hash         BLOB NOT NULL,             -- SHA-256 of the secret, which is nowhere
        former_hash  BLOB,                      -- of the secret before the last rotation
        former_until INTEGER NOT NULL DEFAULT 0,-- Unix milliseconds
        created_ms   INTEGER NOT NULL,
        rotated_ms   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE idempotency (
        key         BLOB PRIMARY KEY,           -- SHA-256 of who asked and the key he sent
        fingerprint BLOB NOT NULL,              -- SHA-256 of what he asked for
        status      INTEGER NOT NULL,
        headers     TEXT NOT NULL,
        body        BLOB NOT NULL,              -- sealed: it may hold a secret that is shown once
        created_ms  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX idempotency_by_age ON idempotency (created_ms);
    CREATE TABLE limits (
        name  TEXT PRIMARY KEY,                 -- set by the API; goes before the configuration
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO counters VALUES ('limits_version', 0);
", "
    CREATE TABLE vault (
        name  TEXT PRIMARY KEY,
        value BLOB NOT NULL                     -- 'check': a known text sealed under the master key
    ) STRICT, WITHOUT ROWID;
    -- Sealed under the signing key until now.
    DELETE FROM idempotency;
    CREATE TABLE webhooks (
        id            TEXT PRIMARY KEY,
        url           TEXT NOT NULL,
        types         TEXT NOT NULL,            -- of events, with commas; empty: all
        room          TEXT,                     -- NULL: all, and what is of no room
        enabled       INTEGER NOT NULL,
        reason        TEXT,                     -- why the node disabled it
        secret        BLOB NOT NULL,            -- sealed
        former_secret BLOB,                     -- sealed; before the last rotation
        former_until  INTEGER NOT NULL,         -- Unix milliseconds, as all times here
        failing_since INTEGER,                  -- NULL: the last attempt was taken
        created_ms    INTEGER NOT NULL,
        version       INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE deliveries (
        id          TEXT PRIMARY KEY,
        webhook     TEXT NOT NULL REFERENCES webhooks(id) ON DELETE CASCADE,
        type        TEXT NOT NULL,
        body        TEXT NOT NULL,              -- JSON
        status      TEXT NOT NULL,              -- queued, delivered or dead
        attempts    INTEGER NOT NULL,
        created_ms  INTEGER NOT NULL,
        due_ms      INTEGER NOT NULL,           -- of the next attempt
        until_ms    INTEGER NOT NULL,           -- no attempt after it
        attempt_ms  INTEGER,                    -- of the last attempt
        http_status INTEGER,
        error       TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX deliveries_by_webhook ON deliveries (webhook, id);
    CREATE INDEX deliveries_queued ON deliveries (webhook, due_ms) WHERE status = 'queued';
    CREATE TABLE bans (
        room     TEXT NOT NULL,
        sub      TEXT NOT NULL,
        until_ms INTEGER NOT NULL,
        PRIMARY KEY (room, sub)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX bans_by_end ON bans (until_ms);
", "
    ALTER TABLE rooms ADD COLUMN record TEXT;   -- auto, manual or off; NULL: manual
    CREATE TABLE recordings (
        id                TEXT PRIMARY KEY,     -- also the name of its directory
        room              TEXT NOT NULL,
        stream            TEXT NOT NULL,        -- the last one it was of
        source_index      INTEGER,              -- NULL: there is no stream just now
        source_generation INTEGER,
        source_since      INTEGER,              -- CLOCK_MONOTONIC
        begun_by          TEXT NOT NULL,
        state             TEXT NOT NULL,
        away_ms           INTEGER,              -- Unix milliseconds, as all times here
        reason            TEXT,
        boot              INTEGER NOT NULL,     -- of the node that recorded it
        journal           INTEGER NOT NULL DEFAULT 0,   -- bytes of it that are in here
        created_ms        INTEGER NOT NULL,
        started_ms        INTEGER,
        stopped_ms        INTEGER,
        duration_ms       INTEGER NOT NULL DEFAULT 0,
        gaps              INTEGER NOT NULL DEFAULT 0,
        gaps_ms           INTEGER NOT NULL DEFAULT 0,
        error_code        TEXT,
        error_detail      TEXT,
        warnings          TEXT NOT NULL DEFAULT '[]'    -- JSON
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX recordings_open ON recordings (state) WHERE state != 'finished';
    CREATE INDEX recordings_by_stream ON recordings (stream, id);
    CREATE INDEX recordings_by_room ON recordings (room, id);
    CREATE TABLE recording_files (
        recording   TEXT NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
        name        TEXT NOT NULL,
        codecs      TEXT NOT NULL,              -- with commas
        final       INTEGER NOT NULL DEFAULT 0,
        bytes       INTEGER NOT NULL DEFAULT 0, -- what is below is known once it is final
        sha256      TEXT,
        duration_ms INTEGER NOT NULL DEFAULT 0,
        started_ms  INTEGER,
        width       INTEGER NOT NULL DEFAULT 0,
        height      INTEGER NOT NULL DEFAULT 0,
        frames      INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (recording, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE recording_gaps (
        recording TEXT NOT NULL REFERENCES recordings(id) ON DELETE CASCADE,
        number    INTEGER NOT NULL,
        file      TEXT NOT NULL,
        at_ms     INTEGER NOT NULL,             -- from the recording's beginning
        length_ms INTEGER NOT NULL,
        reason    TEXT NOT NULL,
        PRIMARY KEY (recording, number)
    ) STRICT, WITHOUT ROWID;
", "
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id     TEXT NOT NULL UNIQUE,            -- of the event; gone with the commit of its deliveries
        type   TEXT NOT NULL,
        room   TEXT,
        json   TEXT NOT NULL
    ) STRICT;
"];

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open {path}: {source}; is the disk full or the directory of another user? To start without what it knows, move it away")]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("{path} is damaged ({reason}); restore it or move it away (rooms get new numbers, live sessions are ended)")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} has version {found}, this build knows {known}: use the newer build, or move the file away")]
    TooNew { path: PathBuf, found: i64, known: i64 },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("the database refused: {0}")]
    Query(#[from] rusqlite::Error),
    #[error("the database could not write: {0}")]
    Commit(String),
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
    pub account: String,
}

/// Everything that `Rooms::rebuild` asks for.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub sessions: Vec<KnownSession>,
    pub names: HashMap<u32, String>,
}

/// Tells whoever asked, once the commit is done or has failed.
type Told = Box<dyn FnOnce(Result<(), String>) + Send>;
/// The second argument: it is alone in its transaction.
type Work = Box<dyn FnOnce(&Connection, bool) -> Told + Send>;

struct Task {
    work: Work,
    /// What it writes outlives a loss of power.
    is_lasting: bool,
}

/// A handle on the database's thread, which ends with the last handle.
#[derive(Clone)]
pub struct Store {
    tasks: mpsc::SyncSender<Task>,
    vault: Arc<Vault>,
    rooms: Arc<KnownRooms>,
    /// Sessions that have ended and whose rows still stand.
    forgotten: Arc<Mutex<Vec<ResourceId>>>,
}

impl Store {
    pub fn open(data: &Path) -> Result<Store, StoreError> {
        Store::open_with(data, &Sources::of_environment())
    }

    /// `sources`: where the master key may stand.
    pub fn open_with(data: &Path, sources: &Sources) -> Result<Store, StoreError> {
        let connection = open(&data.join(FILE))?;
        let check: Option<Vec<u8>> = connection.query_row(CHECK, [], |row| row.get(0)).optional()?;
        let vault = Vault::load(data, sources, check.as_deref())?;
        if check.is_none() {
            // Before anything else is sealed.
            let check = vault.check().ok_or(VaultError::NoRandomness)?;
            connection.execute("INSERT INTO vault VALUES ('check', ?1)", [check])?;
        }
        let (tasks, queue) = mpsc::sync_channel::<Task>(REQUESTS_MAX);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                // As `open` left it.
                let mut is_lasting = true;
                while let Ok(first) = queue.recv() {
                    batch(&connection, &mut is_lasting, std::iter::once(first).chain(queue.try_iter()).take(BATCH_MAX));
                }
            })
            .map_err(|_| StoreError::Gone)?;
        Ok(Store { tasks, vault: Arc::new(vault), rooms: Arc::default(), forgotten: Arc::default() })
    }

    /// What seals secrets before they are written.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Does `work` and comes back when it is on the disk. What `work` refuses leaves nothing behind.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(true, work, std::convert::identity).await
    }

    /// The same for what is of this engine's sessions: it outlives a kill of control, and nobody waits for the disk,
    /// because a loss of power ends the sessions, too.
    async fn run_passing<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.queue(false, work, std::convert::identity).await
    }

    /// `then` is done on this thread once the work is committed, whether or not anybody waits.
    async fn queue<W: Send + 'static, T: Send + 'static>(
        &self,
        is_lasting: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<W> + Send + 'static,
        then: impl FnOnce(W) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, wait) = oneshot::channel();
        let work: Work = Box::new(move |connection, is_alone| {
            let result = whole(connection, is_alone, work);
            Box::new(move |committed| {
                // Whoever asked may have gone; the work is done all the same.
                let _ = answer.send(match committed {
                    Ok(()) => result.map(then).map_err(StoreError::Query),
                    Err(reason) => Err(StoreError::Commit(reason)),
                });
            })
        });
        self.tasks.try_send(Task { work, is_lasting }).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => StoreError::Busy,
            mpsc::TrySendError::Disconnected(_) => StoreError::Gone,
        })?;
        wait.await.map_err(|_| StoreError::Gone)?
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
        let forgotten = self.forgotten.clone();
        self.run_passing(move |db| {
            // Who came before has gone: in this transaction, as each costs more than its rows.
            forget(db, &forgotten)?;
            db.prepare_cached("INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(params![
                row.resource.to_string(),
                row.room,
                row.side,
                row.engine_epoch as i64,
                row.sub,
                row.remote_ufrag,
                row.expiry as i64,
                row.account
            ])?;
            Ok(())
        })
        .await
    }

    /// Their rows go with the next session that is written, or when `write_forgotten` is called. A kill before that
    /// leaves them, and the engine's word counts.
    pub fn forget_sessions(&self, resources: Vec<ResourceId>) {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).extend(resources);
    }

    pub fn has_forgotten(&self) -> bool {
        !self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub async fn write_forgotten(&self) -> Result<(), StoreError> {
        let forgotten = self.forgotten.clone();
        self.run_passing(move |db| forget(db, &forgotten)).await
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
        let forgotten = self.forgotten.clone();
        self.run(move |db| {
            forget(db, &forgotten)?;
            let mut known = Known::default();
            let mut rows = db.prepare_cached("SELECT resource, room, engine_epoch, sub, account FROM sessions")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let resource: String = row.get(0)?;
                if let Some(resource) = unhex(&resource).map(ResourceId) {
                    let engine_epoch = row.get::<_, i64>(2)? as u64;
                    let who = Who { sub: row.get(3)?, account: row.get(4)? };
                    known.sessions.push(KnownSession { resource, room: row.get(1)?, engine_epoch, who });
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

/// One transaction for all of them; whoever's work failed has his part taken back alone.
/// `is_lasting`: how the connection commits now.
fn batch(connection: &Connection, is_lasting: &mut bool, tasks: impl Iterator<Item = Task>) {
    let tasks: Vec<Task> = tasks.collect();
    // A commit that lasts takes those before it along: they stand in the same log, in order.
    let lasts = tasks.iter().any(|task| task.is_lasting);
    let mut prepared = Ok(());
    if lasts != *is_lasting {
        prepared = connection.pragma_update(None, "synchronous", if lasts { "full" } else { "normal" });
        *is_lasting = if prepared.is_ok() { lasts } else { *is_lasting };
    }
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(|_| ());
    let begun = prepared.and_then(|()| run("BEGIN IMMEDIATE"));
    let is_alone = tasks.len() == 1;
    let told: Vec<Told> = tasks.into_iter().map(|task| (task.work)(connection, is_alone)).collect();
    let committed = begun.and_then(|()| run("COMMIT")).map_err(|error| error.to_string());
    if committed.is_err() {
        // Fails where the commit has rolled back by itself.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for tell in told {
        tell(committed.clone());
    }
}

fn forget(db: &Connection, forgotten: &Mutex<Vec<ResourceId>>) -> rusqlite::Result<()> {
    let resources = std::mem::take(&mut *forgotten.lock().unwrap_or_else(PoisonError::into_inner));
    let mut delete = db.prepare_cached("DELETE FROM sessions WHERE resource = ?1")?;
    resources.iter().try_for_each(|resource| delete.execute([resource.to_string()]).map(|_| ()))
}

/// All of `work` or nothing of it.
fn whole<T>(connection: &Connection, is_alone: bool, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    // The transaction did not begin (another process has held the database for too long): what is told as failed is not
    // done behind everybody's back.
    if connection.is_autocommit() {
        return Err(rusqlite::Error::InvalidQuery);
    }
    let run = |sql| connection.prepare_cached(sql)?.execute([]);
    if is_alone {
        // There is nobody's work but this to be kept.
        let result = work(connection);
        if result.is_err() {
            run("ROLLBACK")?;
            run("BEGIN IMMEDIATE")?;
        }
        return result;
    }
    run("SAVEPOINT one")?;
    let result = work(connection);
    if result.is_err() {
        run("ROLLBACK TO one")?;
    }
    run("RELEASE one")?;
    result
}

/// Whether a master key exists by this database's word, so that no other one may be made. Changes nothing.
pub fn has_master_key(data: &Path) -> bool {
    let path = data.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // A database that cannot be read is control's to complain about; an older one has no such table.
    path.exists()
        && Connection::open_with_flags(path, flags).is_ok_and(|db| {
            let _ = db.busy_timeout(BUSY_WAIT);
            db.query_row(CHECK, [], |row| row.get::<_, Vec<u8>>(0)).is_ok()
        })
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
    // Each commit waits for the disk (those of sessions alone do not, see `batch`): an answer of the API outlives a
    // loss of power.
    connection.pragma_update(None, "synchronous", "full").map_err(at)?;
    connection.pragma_update(None, "foreign_keys", "on").map_err(at)?;
    let check: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(at)?;
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

    async fn join(store: &Store, name: &str) -> u32 {
        store.join_room(name, "ann", 0).await.unwrap().number
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
            account: "a1".into(),
        }
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let data = Scratch::new("restart");
        let store = Store::open(&data.0).unwrap();
        assert_eq!(join(&store, "demo").await, 1);
        assert_eq!(join(&store, "other").await, 2);
        assert_eq!(join(&store, "demo").await, 1);
        assert_eq!(store.stream_generation().await.unwrap(), 1);
        store.add_session(row(1)).await.unwrap();
        store.add_session(row(2)).await.unwrap();
        store.forget_sessions(vec![ResourceId([2; 16]), ResourceId([77; 16])]);
        assert!(store.has_forgotten());
        store.write_forgotten().await.unwrap();
        assert!(!store.has_forgotten());
        drop(store);
        let store = Store::open(&data.0).unwrap();
        let known = store.known().await.unwrap();
        let who = Who { sub: "ann".into(), account: "a1".into() };
        assert_eq!(known.sessions, [KnownSession { resource: ResourceId([1; 16]), room: 1, engine_epoch: 3, who }]);
        assert_eq!(known.names.get(&2).map(String::as_str), Some("other"));
        assert_eq!(store.stream_generation().await.unwrap(), 2);
        assert_eq!(store.remote_ufrag(ResourceId([1; 16])).await.unwrap().as_deref(), Some("abcd"));
        assert_eq!(store.remote_ufrag(ResourceId([2; 16])).await.unwrap(), None);
        assert!(store.add_session(row(1)).await.is_err(), "a resource is given once");
    }

    #[tokio::test]
    async fn who_joins_finds_the_room_as_it_was_left() {
        let data = Scratch::new("known");
        let store = Store::open(&data.0).unwrap();
        let drafts = || Drafts { log: Arc::default(), events: Vec::new() };
        let viewers_max = async || store.join_room("demo", "ann", 0).await.unwrap().viewers_max;
        let room = RoomRow { name: "demo".into(), created_ms: 1, version: 1, viewers_max: Some(3), record: None };
        // Twice each time: from the database, and as it is known.
        for _ in 0..2 {
            assert_eq!(viewers_max().await, None);
        }
        assert!(store.create_room(room, None, drafts()).await.unwrap());
        for _ in 0..2 {
            assert_eq!(viewers_max().await, Some(3));
        }
        let change = RoomChange { viewers_max: Some(Some(7)), record: None };
        assert!(matches!(store.change_room("demo", None, change, drafts()).await, Ok(Changed::Done(_))));
        for _ in 0..2 {
            assert_eq!(viewers_max().await, Some(7));
        }
        assert!(store.delete_room("demo", drafts()).await.unwrap());
        assert_eq!(viewers_max().await, None);
    }

    #[tokio::test]
    async fn rows_of_who_left_go_with_the_next_one_that_is_written() {
        let data = Scratch::new("forgotten");
        let store = Store::open(&data.0).unwrap();
        join(&store, "demo").await;
        store.add_session(row(1)).await.unwrap();
        store.forget_sessions(vec![row(1).resource]);
        let rows = async || store.run(|db| db.query_row("SELECT count(*) FROM sessions", [], |row| row.get::<_, i64>(0))).await.unwrap();
        assert_eq!(rows().await, 1);
        store.add_session(row(2)).await.unwrap();
        assert_eq!((rows().await, store.has_forgotten()), (1, false));
        store.forget_sessions(vec![row(2).resource]);
        assert!(store.known().await.unwrap().sessions.is_empty(), "whoever asks does not hear of them");
    }

    #[tokio::test]
    async fn one_that_is_refused_takes_nothing_of_its_neighbours_with_it() {
        let data = Scratch::new("batch");
        let store = Store::open(&data.0).unwrap();
        join(&store, "demo").await;
        // All in one batch or in several: the same.
        let (first, same, second) =
            tokio::join!(store.add_session(row(1)), store.add_session(row(1)), store.add_session(row(2)));
        assert!(first.is_ok() && same.is_err() && second.is_ok());
        // Half of the work is taken back with the other half.
        let half = store.run(|db| {
            db.execute("DELETE FROM sessions", [])?;
            db.execute("INSERT INTO no_table VALUES (1)", [])
        });
        assert!(half.await.is_err());
        assert_eq!(store.known().await.unwrap().sessions.len(), 2);
    }

    #[tokio::test]
    async fn what_lasts_waits_for_the_disk_and_sessions_do_not() {
        let data = Scratch::new("lasting");
        let store = Store::open(&data.0).unwrap();
        let mode = |db: &Connection| db.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
        for _ in 0..3 {
            assert_eq!(store.run(mode).await.unwrap(), 2, "full");
            assert_eq!(store.run_passing(mode).await.unwrap(), 1, "normal");
        }
        // In one batch or in two: what lasts is never less.
        for _ in 0..50 {
            let (first, lasting, _) = tokio::join!(store.run_passing(mode), store.run(mode), store.run_passing(mode));
            assert!((1..=2).contains(&first.unwrap()) && lasting.unwrap() == 2);
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_told_to_everybody_and_ends_with_it() {
        let data = Scratch::new("full");
        let store = Store::open(&data.0).unwrap();
        join(&store, "demo").await;
        // SQLite's own bound stands for the disk: not a page more than there are.
        store.run(|db| db.query_row("PRAGMA max_page_count = 1", [], |row| row.get::<_, i64>(0))).await.unwrap();
        let large = |number: u8| SessionRow { sub: "x".repeat(100_000), ..row(number) };
        let (a, b) = tokio::join!(store.add_session(large(1)), store.add_session(large(2)));
        assert!(a.is_err() && b.is_err(), "{a:?} {b:?}");
        store.run(|db| db.query_row("PRAGMA max_page_count = 100000", [], |row| row.get::<_, i64>(0))).await.unwrap();
        store.add_session(large(3)).await.unwrap();
        assert_eq!(store.known().await.unwrap().sessions.len(), 1);
    }

    #[tokio::test]
    async fn what_is_told_as_failed_was_not_done() {
        let data = Scratch::new("held");
        let store = Store::open(&data.0).unwrap();
        join(&store, "demo").await;
        // A backup that never ends.
        let other = Connection::open(data.0.join("spillway.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(store.add_session(row(1)).await, Err(StoreError::Commit(_))));
        other.execute_batch("ROLLBACK").unwrap();
        assert!(store.known().await.unwrap().sessions.is_empty());
        store.add_session(row(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_database_of_the_first_version_is_taken_along() {
        let data = Scratch::new("migrate");
        let old = Connection::open(data.0.join("spillway.db")).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch("INSERT INTO rooms (name) VALUES ('demo'); PRAGMA user_version = 1;").unwrap();
        old.execute("INSERT INTO sessions VALUES (?1, 1, 2, 3, 'ann', 'abcd', 9)", [ResourceId([5; 16]).to_string()]).unwrap();
        drop(old);
        let store = Store::open(&data.0).unwrap();
        assert_eq!(store.known().await.unwrap().sessions[0].who, Who { sub: "ann".into(), account: String::new() });
        assert_eq!(join(&store, "demo").await, 1);
        assert_eq!(store.room("demo").await.unwrap(), None, "a token made it, nobody declared it");
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
