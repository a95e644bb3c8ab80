//! Bans in the store: who was sent away from a room, and may not come again for a while.

use super::{Store, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

/// More of them than anybody decides by hand; beyond it those that end first go.
const BANS_MAX: i64 = 10_000;

/// Until when (Unix milliseconds) somebody may not come; None: he may.
pub fn until(db: &Connection, room: &str, sub: &str, now_ms: u64) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT until_ms FROM bans WHERE room = ?1 AND sub = ?2 AND until_ms > ?3";
    let found = db.prepare_cached(sql)?.query_row(params![room, sub, now_ms as i64], |row| row.get::<_, i64>(0));
    Ok(found.optional()?.map(i64::unsigned_abs))
}

/// Whether anybody was sent away from a room, perhaps long ago.
pub fn is_any(db: &Connection, room: &str) -> rusqlite::Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM bans WHERE room = ?1)")?.query_row([room], |row| row.get(0))
}

impl Store {
    pub async fn ban(&self, room: &str, sub: &str, now_ms: u64, until_ms: u64) -> Result<(), StoreError> {
        let (rooms, room, sub) = (self.rooms.clone(), room.to_owned(), sub.to_owned());
        self.run(move |db| {
            rooms.change();
            db.prepare_cached("DELETE FROM bans WHERE until_ms <= ?1")?.execute([now_ms as i64])?;
            // A second ban does not shorten the first.
            let sql = "INSERT INTO bans VALUES (?1, ?2, ?3)
                       ON CONFLICT (room, sub) DO UPDATE SET until_ms = max(until_ms, ?3)";
            db.prepare_cached(sql)?.execute(params![room, sub, until_ms as i64])?;
            let sql = "DELETE FROM bans WHERE (room, sub) IN (SELECT room, sub FROM bans ORDER BY until_ms
                       LIMIT max(0, (SELECT count(*) FROM bans) - ?1))";
            db.prepare_cached(sql)?.execute([BANS_MAX])?;
            Ok(())
        })
        .await
    }
}

impl Store {
    /// Those of a room that have not ended: `sub`, and until when.
    pub async fn bans(&self, room: &str, now_ms: u64) -> Result<Vec<(String, u64)>, StoreError> {
        let room = room.to_owned();
        self.run(move |db| {
            let mut found = db.prepare_cached("SELECT sub, until_ms FROM bans WHERE room = ?1 AND until_ms > ?2")?;
            let rows = found.query_map(params![room, now_ms as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?;
            rows.collect()
        })
        .await
    }

    /// False: there was none.
    pub async fn lift_ban(&self, room: &str, sub: &str) -> Result<bool, StoreError> {
        let (rooms, room, sub) = (self.rooms.clone(), room.to_owned(), sub.to_owned());
        self.run(move |db| {
            rooms.change();
            Ok(db.prepare_cached("DELETE FROM bans WHERE room = ?1 AND sub = ?2")?.execute(params![room, sub])? > 0)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ban_ends_and_is_of_one_room_and_there_are_not_too_many() {
        let data = std::env::temp_dir().join(format!("spillway-bans-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&data);
        std::fs::create_dir_all(&data).unwrap();
        let store = Store::open(&data).unwrap();
        store.ban("demo", "ann", 1_000, 5_000).await.unwrap();
        store.ban("demo", "ann", 1_000, 2_000).await.unwrap();
        let until = async |room: &str, sub: &str, now| store.join_room(room, sub, now).await.unwrap().banned_until_ms;
        assert_eq!(until("demo", "ann", 4_999).await, Some(5_000));
        assert_eq!(until("demo", "ann", 5_000).await, None);
        assert_eq!((until("other", "ann", 2_000).await, until("demo", "bob", 2_000).await), (None, None));
        assert_eq!(store.bans("demo", 4_999).await.unwrap(), [("ann".to_owned(), 5_000)]);
        assert!(store.bans("demo", 5_000).await.unwrap().is_empty() && store.bans("other", 0).await.unwrap().is_empty());
        assert!(!store.lift_ban("other", "ann").await.unwrap() && store.lift_ban("demo", "ann").await.unwrap());
        assert!(!store.lift_ban("demo", "ann").await.unwrap());
        assert_eq!(until("demo", "ann", 1_000).await, None);
        let many: Vec<_> = (0..BANS_MAX as u64 + 5).map(|number| (format!("s{number}"), 10_000 + number)).collect();
        store
            .run(move |db| many.iter().try_for_each(|(sub, until)| {
                db.prepare_cached("INSERT INTO bans VALUES ('full', ?1, ?2)")?.execute(params![sub, *until as i64]).map(|_| ())
            }))
            .await
            .unwrap();
        store.ban("demo", "last", 6_000, 1_000_000).await.unwrap();
        let count = store.run(|db| db.query_row("SELECT count(*) FROM bans", [], |row| row.get::<_, i64>(0))).await;
        assert_eq!(count.unwrap(), BANS_MAX);
        assert!(until("full", "s0", 7_000).await.is_none() && until("demo", "last", 7_000).await.is_some());
        let _ = std::fs::remove_dir_all(&data);
    }
}
