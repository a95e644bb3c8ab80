//! Keys in the store: who may call the API, and who may publish with a stream key. Of the secrets only their SHA-256.

use super::{Record, Store, StoreError, idempotency};
use rusqlite::{Connection, OptionalExtension, Row, params};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    pub id: String,
    pub role: String,
    /// For people.
    pub name: String,
    /// Of a stream key.
    pub room: Option<String>,
    pub account: String,
    pub hash: [u8; 32],
    /// The secret before the last rotation, and until when it opens (Unix milliseconds).
    pub former_hash: Option<[u8; 32]>,
    pub former_until_ms: u64,
    pub created_ms: u64,
    pub rotated_ms: u64,
}

/// A rotation as it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Rotated {
    pub hash: [u8; 32],
    pub now_ms: u64,
    /// Until when the secret before it opens.
    pub former_until_ms: u64,
}

const COLUMNS: &str = "id, role, name, room, account, hash, former_hash, former_until, created_ms, rotated_ms";

fn row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let time = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
    Ok(KeyRow {
        id: row.get(0)?,
        role: row.get(1)?,
        name: row.get(2)?,
        room: row.get(3)?,
        account: row.get(4)?,
        hash: row.get(5)?,
        former_hash: row.get(6)?,
        former_until_ms: time(7)?,
        created_ms: time(8)?,
        rotated_ms: time(9)?,
    })
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<KeyRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM keys WHERE id = ?1"))?.query_row([id], row).optional()
}

impl Store {
    pub async fn create_key(&self, key: KeyRow, record: Option<Record>) -> Result<(), StoreError> {
        self.run(move |db| {
            db.prepare_cached("INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, 0, ?7, ?8)")?.execute(params![
                key.id,
                key.role,
                key.name,
                key.room,
                key.account,
                key.hash,
                key.created_ms as i64,
                key.rotated_ms as i64
            ])?;
            idempotency::save(db, record)
        })
        .await
    }

    pub async fn key(&self, id: &str) -> Result<Option<KeyRow>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| find(db, &id)).await
    }

    pub async fn keys_after(&self, after: &str, count: usize) -> Result<Vec<KeyRow>, StoreError> {
        let after = after.to_owned();
        self.run(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM keys WHERE id > ?1 ORDER BY id LIMIT ?2");
            db.prepare_cached(&sql)?.query_map(params![after, count as i64], row)?.collect()
        })
        .await
    }

    /// None: there is no such key.
    pub async fn rotate_key(
        &self,
        id: &str,
        rotated: Rotated,
        record: Option<Record>,
    ) -> Result<Option<KeyRow>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| {
            let Some(old) = find(db, &id)? else { return Ok(None) };
            let sql = "UPDATE keys SET hash = ?2, former_hash = ?3, former_until = ?4, rotated_ms = ?5 WHERE id = ?1";
            let (until, now) = (rotated.former_until_ms as i64, rotated.now_ms as i64);
            db.prepare_cached(sql)?.execute(params![id, rotated.hash, old.hash, until, now])?;
            idempotency::save(db, record)?;
            find(db, &id)
        })
        .await
    }

    /// False: there was none.
    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.run(move |db| Ok(db.prepare_cached("DELETE FROM keys WHERE id = ?1")?.execute([&id])? == 1)).await
    }
}
