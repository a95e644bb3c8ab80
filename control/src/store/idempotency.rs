//! Answers to repeat: what a POST with an Idempotency-Key was answered, for a day. Written in the transaction of what
//! it answers, so that a killed control has both or neither.

use super::{Store, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// SHA-256 of who asked and the key he sent.
    pub key: [u8; 32],
    /// SHA-256 of what he asked for.
    pub fingerprint: [u8; 32],
    pub status: u16,
    /// JSON.
    pub headers: String,
    /// Sealed.
    pub body: Vec<u8>,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// What stands under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    Nothing,
    /// The key was used for something else.
    Other,
    Same(Record),
}

/// Kept that long; then a key may be used anew.
pub const KEPT_MS: u64 = 24 * 3_600 * 1_000;
/// Old ones that one write takes away: two for one, so that they come to an end.
const SWEPT: i64 = 2;

pub fn save(db: &Connection, record: Option<Record>) -> rusqlite::Result<()> {
    let Some(record) = record else { return Ok(()) };
    let expired = record.at_ms.saturating_sub(KEPT_MS) as i64;
    let sql = "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE created_ms < ?1 LIMIT ?2)";
    db.prepare_cached(sql)?.execute(params![expired, SWEPT])?;
    // The same key again is one that has expired.
    db.prepare_cached("INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        record.key,
        record.fingerprint,
        record.status,
        record.headers,
        record.body,
        record.at_ms as i64
    ])?;
    Ok(())
}

impl Store {
    pub async fn idempotent(&self, key: [u8; 32], fingerprint: [u8; 32], now_ms: u64) -> Result<Found, StoreError> {
        self.run(move |db| {
            let sql = "SELECT fingerprint, status, headers, body, created_ms FROM idempotency WHERE key = ?1 AND created_ms >= ?2";
            let found = db.prepare_cached(sql)?.query_row(params![key, now_ms.saturating_sub(KEPT_MS) as i64], |row| {
                Ok(Record {
                    key,
                    fingerprint: row.get(0)?,
                    status: row.get(1)?,
                    headers: row.get(2)?,
                    body: row.get(3)?,
                    at_ms: row.get::<_, i64>(4)?.unsigned_abs(),
                })
            });
            Ok(match found.optional()? {
                None => Found::Nothing,
                Some(record) if record.fingerprint == fingerprint => Found::Same(record),
                Some(_) => Found::Other,
            })
        })
        .await
    }

    pub async fn remember(&self, record: Record) -> Result<(), StoreError> {
        self.run(move |db| save(db, Some(record))).await
    }
}
