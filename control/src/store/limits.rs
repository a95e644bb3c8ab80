//! Limits that the API has set: they go before the configuration, and stay when the node is restarted.

use super::{Changed, Store, StoreError};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// Grows with each change: the ETag.
    pub version: u64,
    pub values: BTreeMap<String, u32>,
}

fn read(db: &Connection) -> rusqlite::Result<Overrides> {
    let sql = "SELECT value FROM counters WHERE name = 'limits_version'";
    let version: i64 = db.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    let mut rows = db.prepare_cached("SELECT name, value FROM limits")?;
    let values = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    Ok(Overrides { version: version.unsigned_abs(), values })
}

impl Store {
    pub async fn limits(&self) -> Result<Overrides, StoreError> {
        self.run(read).await
    }

    /// None takes a value away, so that the configuration counts again.
    pub async fn change_limits(
        &self,
        expected: Option<u64>,
        changes: BTreeMap<String, Option<u32>>,
    ) -> Result<Changed<Overrides>, StoreError> {
        self.run(move |db| {
            let before = read(db)?;
            if expected.is_some_and(|expected| expected != before.version) {
                return Ok(Changed::OtherVersion(before.version));
            }
            for (name, value) in changes {
                match value {
                    Some(value) => db
                        .prepare_cached("INSERT OR REPLACE INTO limits VALUES (?1, ?2)")?
                        .execute(params![name, value])?,
                    None => db.prepare_cached("DELETE FROM limits WHERE name = ?1")?.execute([name])?,
                };
            }
            db.execute("UPDATE counters SET value = value + 1 WHERE name = 'limits_version'", [])?;
            Ok(Changed::Done(read(db)?))
        })
        .await
    }
}
