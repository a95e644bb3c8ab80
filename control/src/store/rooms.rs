//! Rooms in the store: a number for each name, and the settings of those that the API declared.

use super::{Drafts, Record, Store, StoreError, bans, idempotency};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// As many as there may be publishers, and more; some 100 bytes each.
const KNOWN_MAX: usize = 4_096;

/// A room that was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRow {
    pub name: String,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Grows with each change: the ETag.
    pub version: u64,
    pub viewers_max: Option<u32>,
    /// As `policy::recordings::Mode` names it; None: manual.
    pub record: Option<String>,
}

/// A room as somebody who joins finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinRoom {
    pub number: u32,
    /// Its own limit.
    pub viewers_max: Option<u32>,
    /// Who joins was sent away, and may not come until then (Unix milliseconds).
    pub banned_until_ms: Option<u64>,
}

/// Rooms as joins find them, without asking the database for each: those that somebody joined lately, and that nobody
/// was sent away from. Whatever changes rooms or bans calls `change` on the database's thread, in its transaction: what
/// was read before it is not believed any more, by whomever and whenever it is kept.
#[derive(Default)]
pub(super) struct KnownRooms {
    version: AtomicU64,
    rooms: Mutex<HashMap<String, (u64, JoinRoom)>>,
}

impl KnownRooms {
    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    fn find(&self, name: &str) -> Option<JoinRoom> {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.get(name).filter(|(version, _)| *version == self.version()).map(|(_, room)| *room)
    }

    fn keep(&self, name: &str, version: u64, room: JoinRoom) {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.len() >= KNOWN_MAX {
            rooms.clear();
        }
        rooms.insert(name.to_owned(), (version, room));
    }
}

/// What a PATCH says; None leaves a setting as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RoomChange {
    pub viewers_max: Option<Option<u32>>,
    pub record: Option<Option<String>>,
}

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed<T> {
    Done(T),
    /// It has this version, another one was expected.
    OtherVersion(u64),
    NotFound,
}

const COLUMNS: &str = "name, created_ms, version, viewers_max, record";

fn row(row: &Row<'_>) -> rusqlite::Result<RoomRow> {
    Ok(RoomRow {
        name: row.get(0)?,
        created_ms: row.get::<_, i64>(1)?.unsigned_abs(),
        version: row.get::<_, i64>(2)?.unsigned_abs(),
        viewers_max: row.get(3)?,
        record: row.get(4)?,
    })
}

fn find(db: &Connection, name: &str) -> rusqlite::Result<Option<RoomRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM rooms WHERE name = ?1 AND declared = 1"))?
        .query_row([name], row)
        .optional()
}

impl Store {
    /// What a join must know of its room; a name that is new gets a number.
    pub async fn join_room(&self, name: &str, sub: &str, now_ms: u64) -> Result<JoinRoom, StoreError> {
        if let Some(known) = self.rooms.find(name) {
            return Ok(known);
        }
        let (rooms, asked, sub) = (self.rooms.clone(), name.to_owned(), sub.to_owned());
        let (version, room, has_bans) = self.run_passing(move |db| {
            let (name, version) = (asked, rooms.version());
            let known = db
                .prepare_cached("SELECT number, viewers_max FROM rooms WHERE name = ?1")?
                .query_row([&name], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let (number, viewers_max) = match known {
                Some(known) => known,
                None => db
                    .prepare_cached("INSERT INTO rooms (name) VALUES (?1) RETURNING number")?
                    .query_row([&name], |row| Ok((row.get(0)?, None)))?,
            };
            let room = JoinRoom { number, viewers_max, banned_until_ms: bans::until(db, &name, &sub, now_ms)? };
            Ok((version, room, bans::is_any(db, &name)?))
        })
        .await?;
        if !has_bans {
            self.rooms.keep(name, version, room);
        }
        Ok(room)
    }

    /// Declares a room; false if it was declared already.
    pub async fn create_room(&self, room: RoomRow, record: Option<Record>, drafts: Drafts) -> Result<bool, StoreError> {
        let rooms = self.rooms.clone();
        self.run_telling(drafts.log, move |db| {
            rooms.change();
            let sql = "INSERT INTO rooms (name, declared, created_ms, version, viewers_max, record) VALUES (?1, 1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (name) DO UPDATE SET declared = 1, created_ms = ?2, version = ?3, viewers_max = ?4, record = ?5
                       WHERE declared = 0";
            let made = db.prepare_cached(sql)?.execute(params![
                room.name,
                room.created_ms as i64,
                room.version as i64,
                room.viewers_max,
                room.record
            ])?;
            if made == 0 {
                return Ok((false, Vec::new()));
            }
            idempotency::save(db, record)?;
            Ok((true, drafts.events))
        })
        .await
    }

    pub async fn room(&self, name: &str) -> Result<Option<RoomRow>, StoreError> {
        let name = name.to_owned();
        self.run(move |db| find(db, &name)).await
    }

    /// Declared rooms after a name, by name.
    pub async fn rooms_after(&self, after: &str, count: usize) -> Result<Vec<RoomRow>, StoreError> {
        let after = after.to_owned();
        self.run(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM rooms WHERE declared = 1 AND name > ?1 ORDER BY name LIMIT ?2");
            db.prepare_cached(&sql)?.query_map(params![after, count as i64], row)?.collect()
        })
        .await
    }

    pub async fn change_room(
        &self,
        name: &str,
        expected: Option<u64>,
        change: RoomChange,
        drafts: Drafts,
    ) -> Result<Changed<RoomRow>, StoreError> {
        let name = name.to_owned();
        let rooms = self.rooms.clone();
        self.run_telling(drafts.log, move |db| {
            rooms.change();
            let Some(mut room) = find(db, &name)? else { return Ok((Changed::NotFound, Vec::new())) };
            if expected.is_some_and(|expected| expected != room.version) {
                return Ok((Changed::OtherVersion(room.version), Vec::new()));
            }
            room.viewers_max = change.viewers_max.unwrap_or(room.viewers_max);
            room.record = change.record.unwrap_or(room.record);
            room.version += 1;
            db.prepare_cached("UPDATE rooms SET viewers_max = ?2, version = ?3, record = ?4 WHERE name = ?1")?
                .execute(params![room.name, room.viewers_max, room.version as i64, room.record])?;
            Ok((Changed::Done(room), drafts.events))
        })
        .await
    }

    /// The declaration and its settings go; the number stays, because live sessions know it. False: there was none.
    pub async fn delete_room(&self, name: &str, drafts: Drafts) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let rooms = self.rooms.clone();
        self.run_telling(drafts.log, move |db| {
            rooms.change();
            let sql = "UPDATE rooms SET declared = 0, viewers_max = NULL, record = NULL WHERE name = ?1 AND declared = 1";
            let was_there = db.prepare_cached(sql)?.execute([&name])? == 1;
            Ok((was_there, if was_there { drafts.events } else { Vec::new() }))
        })
        .await
    }
}
