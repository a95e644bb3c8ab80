//! Webhooks in the store: who is told of events, and the deliveries, each a row from the event until it was taken or
//! given up. Secrets are sealed before they come here.

use super::{Changed, Drafts, Record, Store, StoreError, idempotency, outbox};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};

/// Each is a worker with connections of its own.
pub const WEBHOOKS_MAX: usize = 32;
/// Some 600 bytes each: 100 MB when every webhook is full.
pub const DELIVERIES_PER_WEBHOOK_MAX: usize = 5_000;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookRow {
    pub id: String,
    pub url: String,
    /// Empty: all.
    pub types: Vec<String>,
    pub room: Option<String>,
    pub enabled: bool,
    /// Why the node disabled it.
    pub reason: Option<String>,
    /// Sealed.
    pub secret: Vec<u8>,
    pub former_secret: Option<Vec<u8>>,
    pub former_until_ms: u64,
    pub failing_since_ms: Option<u64>,
    pub created_ms: u64,
    pub version: u64,
}

/// What a PATCH says; None leaves a setting as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WebhookChange {
    pub url: Option<String>,
    pub types: Option<Vec<String>>,
    pub room: Option<Option<String>>,
    pub enabled: Option<bool>,
}

/// Another secret.
#[derive(Clone, Debug)]
pub struct RotatedSecret {
    pub secret: Vec<u8>,
    /// Until when the one before signs as well.
    pub former_until_ms: u64,
}

/// An event for one webhook.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    pub id: String,
    /// The event's.
    pub event: String,
    pub webhook: String,
    pub kind: String,
    pub body: String,
    pub now_ms: u64,
    pub until_ms: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeliveryRow {
    pub id: String,
    pub webhook: String,
    pub kind: String,
    pub body: String,
    /// `queued`, `delivered` or `dead`.
    pub status: String,
    pub attempts: u32,
    pub created_ms: u64,
    pub due_ms: u64,
    pub until_ms: u64,
    pub attempt_ms: Option<u64>,
    pub http_status: Option<u16>,
    pub error: Option<String>,
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub id: String,
    pub webhook: String,
    pub at_ms: u64,
    pub http_status: Option<u16>,
    /// None: it was taken.
    pub error: Option<String>,
    /// When it is tried again; None after an error: never.
    pub due_ms: Option<u64>,
    /// The webhook is disabled for this reason.
    pub disable: Option<String>,
}

const COLUMNS: &str =
    "id, url, types, room, enabled, reason, secret, former_secret, former_until, failing_since, created_ms, version";
const DELIVERY: &str =
    "id, webhook, type, body, status, attempts, created_ms, due_ms, until_ms, attempt_ms, http_status, error";

fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::unsigned_abs)
}

fn maybe_time(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(index)?.map(i64::unsigned_abs))
}

fn webhook(row: &Row<'_>) -> rusqlite::Result<WebhookRow> {
    let types: String = row.get(2)?;
    Ok(WebhookRow {
        id: row.get(0)?,
        url: row.get(1)?,
        types: types.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        room: row.get(3)?,
        enabled: row.get(4)?,
        reason: row.get(5)?,
        secret: row.get(6)?,
        former_secret: row.get(7)?,
        former_until_ms: time(row, 8)?,
        failing_since_ms: maybe_time(row, 9)?,
        created_ms: time(row, 10)?,
        version: time(row, 11)?,
    })
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: row.get(0)?,
        webhook: row.get(1)?,
        kind: row.get(2)?,
        body: row.get(3)?,
        status: row.get(4)?,
        attempts: row.get(5)?,
        created_ms: time(row, 6)?,
        due_ms: time(row, 7)?,
        until_ms: time(row, 8)?,
        attempt_ms: maybe_time(row, 9)?,
        http_status: row.get(10)?,
        error: row.get(11)?,
    })
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<WebhookRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM webhooks WHERE id = ?1"))?.query_row([id], webhook).optional()
}

fn find_delivery(db: &Connection, webhook: &str, id: &str) -> rusqlite::Result<Option<DeliveryRow>> {
    let sql = format!("SELECT {DELIVERY} FROM deliveries WHERE id = ?1 AND webhook = ?2");
    db.prepare_cached(&sql)?.query_row([id, webhook], delivery).optional()
}

impl Store {
    /// False: there are as many as there may be.
    pub async fn create_webhook(&self, new: WebhookRow, record: Option<Record>) -> Result<bool, StoreError> {
        self.run(move |db| {
            let count: i64 = db.prepare_cached("SELECT count(*) FROM webhooks")?.query_row([], |row| row.get(0))?;
            if count >= WEBHOOKS_MAX as i64 {
                return Ok(false);
            }
            let sql = "INSERT INTO webhooks VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?6, NULL, 0, NULL, ?7, ?8)";
            db.prepare_cached(sql)?.execute(params![
                new.id,
                new.url,
                new.types.join(","),
                new.room,
                new.enabled,
                new.secret,
                new.created_ms as i64,
                new.version as i64
            ])?;
            idempotency::save(db, record)?;
            Ok(true)
        })
        .await
    }

    pub async fn webhook(&self, id: &str) -> Result<Option<WebhookRow>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| find(db, &id)).await
    }

    pub async fn webhooks_after(&self, after: &str, count: usize) -> Result<Vec<WebhookRow>, StoreError> {
        let after = after.to_owned();
        self.run(move |db| {
            let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id > ?1 ORDER BY id LIMIT ?2");
            db.prepare_cached(&sql)?.query_map(params![after, count as i64], webhook)?.collect()
        })
        .await
    }

    pub async fn change_webhook(
        &self,
        id: &str,
        expected: Option<u64>,
        change: WebhookChange,
    ) -> Result<Changed<WebhookRow>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| {
            let Some(old) = find(db, &id)? else { return Ok(Changed::NotFound) };
            if expected.is_some_and(|expected| expected != old.version) {
                return Ok(Changed::OtherVersion(old.version));
            }
            let is_same_place = change.url.as_ref().is_none_or(|url| *url == old.url);
            // Whoever enables it again, or names another place, lets it begin anew.
            let begins_anew = change.enabled == Some(true) || !is_same_place;
            let new = WebhookRow {
                url: change.url.unwrap_or(old.url),
                types: change.types.unwrap_or(old.types),
                room: change.room.unwrap_or(old.room),
                enabled: change.enabled.unwrap_or(old.enabled),
                reason: old.reason.filter(|_| !begins_anew),
                failing_since_ms: old.failing_since_ms.filter(|_| !begins_anew),
                version: old.version + 1,
                ..old
            };
            let sql = "UPDATE webhooks SET url = ?2, types = ?3, room = ?4, enabled = ?5, reason = ?6, failing_since = ?7,
                       version = ?8 WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![
                new.id,
                new.url,
                new.types.join(","),
                new.room,
                new.enabled,
                new.reason,
                new.failing_since_ms.map(|time| time as i64),
                new.version as i64
            ])?;
            Ok(Changed::Done(new))
        })
        .await
    }

    /// None: there is no such webhook.
    pub async fn rotate_webhook(
        &self,
        id: &str,
        rotated: RotatedSecret,
        record: Option<Record>,
    ) -> Result<Option<WebhookRow>, StoreError> {
        let id = id.to_owned();
        self.run(move |db| {
            let sql = "UPDATE webhooks SET former_secret = secret, secret = ?2, former_until = ?3, version = version + 1
                       WHERE id = ?1";
            db.prepare_cached(sql)?.execute(params![id, rotated.secret, rotated.former_until_ms as i64])?;
            let found = find(db, &id)?;
            if found.is_some() {
                idempotency::save(db, record)?;
            }
            Ok(found)
        })
        .await
    }

    /// With its deliveries. False: there was none.
    pub async fn delete_webhook(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.run(move |db| Ok(db.prepare_cached("DELETE FROM webhooks WHERE id = ?1")?.execute([&id])? == 1)).await
    }

    // ---- deliveries ----

    /// Those that are finished make room, the oldest first; how many of the new ones found none. `kept`: events that stand
    /// in the outbox until now; of one that does not any more the deliveries were queued before.
    pub async fn queue_deliveries(&self, mut new: Vec<NewDelivery>, kept: Vec<String>) -> Result<usize, StoreError> {
        self.run(move |db| {
            for id in &kept {
                if !outbox::take(db, id)? {
                    new.retain(|delivery| delivery.event != *id);
                }
            }
            let mut dropped = 0;
            let mut webhooks: Vec<&str> = new.iter().map(|delivery| delivery.webhook.as_str()).collect();
            webhooks.dedup();
            webhooks.sort_unstable();
            webhooks.dedup();
            for id in webhooks {
                if find(db, id)?.is_none() {
                    // Deleted meanwhile: nobody waits for it.
                    continue;
                }
                let wanted: Vec<&NewDelivery> = new.iter().filter(|delivery| delivery.webhook == id).collect();
                let count = |db: &Connection| {
                    let sql = "SELECT count(*) FROM deliveries WHERE webhook = ?1";
                    db.prepare_cached(sql)?.query_row([id], |row| row.get::<_, i64>(0))
                };
                let over = count(db)? + wanted.len() as i64 - DELIVERIES_PER_WEBHOOK_MAX as i64;
                if over > 0 {
                    let sql = "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries
                               WHERE webhook = ?1 AND status <> 'queued' ORDER BY id LIMIT ?2)";
                    db.prepare_cached(sql)?.execute(params![id, over])?;
                }
                let room = usize::try_from(DELIVERIES_PER_WEBHOOK_MAX as i64 - count(db)?).unwrap_or(0);
                dropped += wanted.len().saturating_sub(room);
                let sql = "INSERT INTO deliveries VALUES (?1, ?2, ?3, ?4, 'queued', 0, ?5, ?5, ?6, NULL, NULL, NULL)";
                let mut insert = db.prepare_cached(sql)?;
                for delivery in wanted.into_iter().take(room) {
                    insert.execute(params![
                        delivery.id,
                        delivery.webhook,
                        delivery.kind,
                        delivery.body,
                        delivery.now_ms as i64,
                        delivery.until_ms as i64
                    ])?;
                }
            }
            Ok(dropped)
        })
        .await
    }

    /// The next ones to be sent, and how many milliseconds from now the one after them is due.
    pub async fn due_deliveries(
        &self,
        webhook: &str,
        now_ms: u64,
        count: usize,
    ) -> Result<(Vec<DeliveryRow>, Option<u64>), StoreError> {
        let id = webhook.to_owned();
        self.run(move |db| {
            let sql = format!(
                "SELECT {DELIVERY} FROM deliveries WHERE webhook = ?1 AND status = 'queued' ORDER BY due_ms, id LIMIT ?2"
            );
            let mut found: Vec<DeliveryRow> =
                db.prepare_cached(&sql)?.query_map(params![id, count as i64], delivery)?.collect::<rusqlite::Result<_>>()?;
            let later = found.iter().find(|delivery| delivery.due_ms > now_ms).map(|delivery| delivery.due_ms - now_ms);
            found.retain(|delivery| delivery.due_ms <= now_ms);
            Ok((found, later))
        })
        .await
    }

    /// Writes attempts down; the names of webhooks that were disabled by it. `drafts`: what is told of each attempt that
    /// disables, in their order.
    pub async fn finish_deliveries(&self, done: Vec<Delivered>, drafts: Drafts) -> Result<Vec<String>, StoreError> {
        self.run_telling(drafts.log, move |db| {
            let (mut disabled, mut told) = (Vec::new(), Vec::new());
            let mut events = drafts.events.into_iter();
            for one in done {
                let status = match (&one.error, one.due_ms) {
                    (None, _) => "delivered",
                    (Some(_), Some(_)) => "queued",
                    (Some(_), None) => "dead",
                };
                let sql = "UPDATE deliveries SET status = ?2, attempts = attempts + 1, due_ms = coalesce(?3, due_ms),
                           attempt_ms = ?4, http_status = ?5, error = ?6 WHERE id = ?1";
                let due_ms = one.due_ms.map(|time| time as i64);
                db.prepare_cached(sql)?
                    .execute(params![one.id, status, due_ms, one.at_ms as i64, one.http_status, one.error])?;
                match one.error {
                    None => db.prepare_cached("UPDATE webhooks SET failing_since = NULL WHERE id = ?1")?.execute([&one.webhook])?,
                    Some(_) => db
                        .prepare_cached("UPDATE webhooks SET failing_since = coalesce(failing_since, ?2) WHERE id = ?1")?
                        .execute(params![one.webhook, one.at_ms as i64])?,
                };
                if let Some(reason) = one.disable {
                    let event = events.next();
                    let sql = "UPDATE webhooks SET enabled = 0, reason = ?2, version = version + 1 WHERE id = ?1 AND enabled = 1";
                    if db.prepare_cached(sql)?.execute(params![one.webhook, reason])? == 1 {
                        disabled.push(one.webhook);
                        told.extend(event);
                    }
                }
            }
            Ok((disabled, told))
        })
        .await
    }

    /// Newest first; `before` is the last one that was shown.
    pub async fn deliveries_before(
        &self,
        webhook: &str,
        before: &str,
        status: Option<&str>,
        count: usize,
    ) -> Result<Vec<DeliveryRow>, StoreError> {
        let mut values = vec![Value::from(webhook.to_owned())];
        let mut sql = format!("SELECT {DELIVERY} FROM deliveries WHERE webhook = ?1");
        for (text, condition) in [(Some(before).filter(|text| !text.is_empty()), "id <"), (status, "status =")] {
            if let Some(text) = text {
                values.push(Value::from(text.to_owned()));
                sql += &format!(" AND {condition} ?{}", values.len());
            }
        }
        values.push(Value::from(count as i64));
        sql += &format!(" ORDER BY id DESC LIMIT ?{}", values.len());
        self.run(move |db| db.prepare_cached(&sql)?.query_map(params_from_iter(values), delivery)?.collect()).await
    }

    pub async fn delivery(&self, webhook: &str, id: &str) -> Result<Option<DeliveryRow>, StoreError> {
        let (webhook, id) = (webhook.to_owned(), id.to_owned());
        self.run(move |db| find_delivery(db, &webhook, &id)).await
    }

    /// Once more from the beginning, whatever became of it. None: there is no such delivery.
    pub async fn retry_delivery(
        &self,
        webhook: &str,
        id: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<DeliveryRow>, StoreError> {
        let (webhook, id) = (webhook.to_owned(), id.to_owned());
        self.run(move |db| {
            let sql = "UPDATE deliveries SET status = 'queued', attempts = 0, due_ms = ?3, until_ms = ?4
                       WHERE id = ?1 AND webhook = ?2";
            db.prepare_cached(sql)?.execute(params![id, webhook, now_ms as i64, until_ms as i64])?;
            find_delivery(db, &webhook, &id)
        })
        .await
    }

    /// How many wait, of all webhooks.
    pub async fn queued_deliveries(&self) -> Result<u64, StoreError> {
        self.run(|db| {
            let sql = "SELECT count(*) FROM deliveries WHERE status = 'queued'";
            db.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
        })
        .await
    }
}

#[cfg(test)]
pub(super) mod tests;
