//! Events that tell of what stands in this store: each is written in the transaction of what it tells of, told once that
//! is committed, and taken away in the transaction that writes its deliveries. A control that is killed anywhere in
//! between leaves what nobody was told of to the next one.
//!
//! ```text
//!    rows + event = one commit --> event log --> deliveries written, event taken away = one commit
//! ```

use super::{Store, StoreError};
use crate::event_log::{Event, EventLog};
use rusqlite::{Connection, params};
use std::sync::Arc;

/// As many as the event log holds; they are taken away within milliseconds, if anybody takes them.
const KEPT_MAX: i64 = 10_000;

/// Events to be, and whom the store tells of them.
pub struct Drafts {
    pub log: Arc<EventLog>,
    pub events: Vec<Event>,
}

pub fn save(db: &Connection, events: &[Event]) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached("INSERT INTO outbox (id, type, room, json) VALUES (?1, ?2, ?3, ?4)")?;
    for event in events {
        insert.execute(params![event.id, event.kind, event.room, event.json])?;
    }
    if !events.is_empty() {
        let sql = "DELETE FROM outbox WHERE number <= (SELECT max(number) FROM outbox) - ?1";
        db.prepare_cached(sql)?.execute([KEPT_MAX])?;
    }
    Ok(())
}

/// Whether it was still there: of two that take it one has it.
pub fn take(db: &Connection, id: &str) -> rusqlite::Result<bool> {
    Ok(db.prepare_cached("DELETE FROM outbox WHERE id = ?1")?.execute([id])? == 1)
}

impl Store {
    /// What was written down and not delivered, the oldest first.
    pub async fn kept_events(&self) -> Result<Vec<Event>, StoreError> {
        self.run(|db| {
            // A later build may know what this one does not, and an earlier one is not run after it.
            let of = |row: &rusqlite::Row<'_>| {
                let kind: String = row.get(1)?;
                Ok(Event::kept(row.get(0)?, &kind, row.get(2)?, row.get(3)?))
            };
            let all = db.prepare_cached("SELECT id, type, room, json FROM outbox ORDER BY number")?.query_map([], of)?
                .collect::<rusqlite::Result<Vec<Option<Event>>>>()?;
            Ok(all.into_iter().flatten().collect())
        })
        .await
    }

    /// As `run`, for what is told as well: `work` says which events come of it. Whoever waits may go away meanwhile, they
    /// are told all the same.
    pub(super) async fn run_telling<T: Send + 'static>(
        &self,
        log: Arc<EventLog>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<(T, Vec<Event>)> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = move |db: &Connection| {
            let (value, events) = work(db)?;
            save(db, &events)?;
            Ok((value, events))
        };
        let tell = move |(value, events): (T, Vec<Event>)| {
            events.into_iter().for_each(|event| log.tell(event));
            value
        };
        self.queue(true, work, tell).await
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what is written down is told, once, whoever is killed between the two.
    //! Method: a store of its own; the log that hears of it is dropped with all it holds, as a kill does.

    use super::*;
    use crate::data_dir::tests::Scratch;
    use crate::store::recordings::tests::row;
    use crate::store::{NewDelivery, RoomRow, Step};
    use serde_json::json;

    fn drafts(kind: &'static str, count: usize) -> Drafts {
        let log = Arc::new(EventLog::default());
        let events = (0..count).map(|number| log.draft(kind, Some("demo".into()), 1_000, &json!({ "n": number }))).collect();
        Drafts { log, events }
    }

    fn delivery(event: &Event) -> NewDelivery {
        let (id, event_id) = (format!("dl_{}", event.id), event.id.clone());
        NewDelivery { id, event: event_id, webhook: "wh_a".into(), kind: event.kind.into(), body: "{}".into(), now_ms: 1, until_ms: 9 }
    }

    #[tokio::test]
    async fn an_event_stands_beside_its_row_until_its_deliveries_do() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        store.create_webhook(crate::store::webhooks::tests::hook("wh_a"), None).await.unwrap();
        store.save_recordings(vec![row("rec_1")], None).await.unwrap();
        let started = drafts("recording.started", 1);
        let (log, event) = (started.log.clone(), started.events[0].clone());
        assert!(store.follow_recording("rec_1", 0, 100, vec![Step::Started { at_ms: 1 }], started).await.unwrap());
        assert_eq!(*log.from(1, 9).0[0], event, "told, once it is committed");
        // Killed before anybody took it from the log: the row is there, and so is the event.
        drop((log, store));
        let store = Store::open(&data.0).unwrap();
        assert_eq!(store.recording("rec_1").await.unwrap().unwrap().row.journal, 100);
        assert_eq!(store.kept_events().await.unwrap(), [event.clone()]);
        // The same lines again, of a control that did not know: neither twice.
        let again = drafts("recording.started", 1);
        let log = again.log.clone();
        assert!(!store.follow_recording("rec_1", 0, 100, Vec::new(), again).await.unwrap());
        assert!(log.from(1, 9).0.is_empty() && store.kept_events().await.unwrap().len() == 1);
        // Its delivery stands; after a kill right then nobody writes another.
        assert_eq!(store.queue_deliveries(vec![delivery(&event)], vec![event.id.clone()]).await.unwrap(), 0);
        drop(store);
        let store = Store::open(&data.0).unwrap();
        assert!(store.kept_events().await.unwrap().is_empty());
        assert_eq!(store.queue_deliveries(vec![delivery(&event)], vec![event.id.clone()]).await.unwrap(), 0);
        assert_eq!(store.deliveries_before("wh_a", "", None, 9).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_did_not_happen_is_not_told() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        let room = RoomRow { name: "demo".into(), created_ms: 1, version: 1, viewers_max: None, record: None };
        let (first, second) = (drafts("room.created", 1), drafts("room.created", 1));
        let (told, untold) = (first.log.clone(), second.log.clone());
        assert!(store.create_room(room.clone(), None, first).await.unwrap());
        assert!(!store.create_room(room, None, second).await.unwrap());
        assert_eq!((told.from(1, 9).0.len(), untold.from(1, 9).0.len()), (1, 0));
        // Neither is what a disk refuses.
        store.run(|db| db.query_row("PRAGMA max_page_count = 1", [], |row| row.get::<_, i64>(0))).await.unwrap();
        let mut large = drafts("room.deleted", 1);
        large.events[0].json = "x".repeat(200_000);
        let log = large.log.clone();
        assert!(store.delete_room("demo", large).await.is_err());
        assert!(log.from(1, 9).0.is_empty() && store.room("demo").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn what_nobody_takes_is_bounded() {
        let data = Scratch::new();
        let store = Store::open(&data.0).unwrap();
        let many = drafts("room.updated", KEPT_MAX as usize + 5);
        let last = many.events.last().unwrap().clone();
        store.run(move |db| save(db, &many.events)).await.unwrap();
        let kept = store.kept_events().await.unwrap();
        assert_eq!((kept.len(), kept.last()), (KEPT_MAX as usize, Some(&last)));
    }
}
