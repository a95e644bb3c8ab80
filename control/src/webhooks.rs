//! Webhooks as Standard Webhooks has them: events become rows, rows become signed POSTs until they are taken or a day is
//! over. Owns a worker for each webhook; the schedule is `policy::webhooks`', the rows are the store's.
//!
//! ```text
//!    event log --feed--> rows on the disk --worker of each webhook, few at a time--> POST --> row: delivered, due later, dead
//! ```
//!
//! A receiver that hangs holds its own worker, nobody else's. What is on the disk outlives us; an attempt that was cut
//! off by a kill is made again, with the same `webhook-id`.

use crate::event_log::{Event, EventLog};
use crate::logging;
use crate::outbound::{Outbound, OutboundError, Reach, Target};
use crate::policy::webhooks::{Attempt, LIFE_MS, disabled, next_ms};
use crate::service::{Service, now_ms};
use crate::store::{Delivered, DeliveryRow, NewDelivery, StoreError, WEBHOOKS_MAX, WebhookRow};
use crate::vault::Vault;
use crate::ids;
use aws_lc_rs::{hmac, rand};
use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

/// From the resolver to the status line.
const ATTEMPT_WAIT: Duration = Duration::from_secs(10);
/// Attempts of one webhook at a time; one while it fails.
const ATTEMPTS_MAX: usize = 4;
/// Events that become rows in one transaction.
const BATCH: usize = 256;
const STORE_RETRY: Duration = Duration::from_secs(1);
/// A worker looks at the disk so often though nobody called it.
const LOOK_WAIT: Duration = Duration::from_secs(60);
/// The depth of the queue is counted so often.
const COUNT_WAIT: Duration = Duration::from_secs(1);
const SECRET_BYTES: usize = 32;
const SECRET_PREFIX: &str = "whsec_";
/// Of an error, as much as goes into the log of deliveries.
const ERROR_CHARS_MAX: usize = 300;
const PURPOSE: &str = "webhook";

/// A webhook as it is used.
#[derive(Clone, Debug)]
struct Hook {
    row: WebhookRow,
    target: Option<Target>,
}

struct Worker {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

/// All of them. What is here is made anew from the store at start.
pub struct Webhooks {
    hooks: Mutex<Vec<Arc<Hook>>>,
    workers: Mutex<HashMap<String, Worker>>,
    outbound: Outbound,
    reach: Mutex<Reach>,
    ended: Mutex<BTreeMap<&'static str, u64>>,
    queued: AtomicU64,
    numbers: AtomicU64,
    /// Of two that read the store the later one's word counts.
    reloading: tokio::sync::Mutex<()>,
}

impl Default for Webhooks {
    fn default() -> Webhooks {
        Webhooks {
            hooks: Mutex::default(),
            workers: Mutex::default(),
            outbound: Outbound::default(),
            reach: Mutex::default(),
            ended: Mutex::new(RESULTS.iter().map(|result| (*result, 0)).collect()),
            queued: AtomicU64::new(0),
            numbers: AtomicU64::new(0),
            reloading: tokio::sync::Mutex::default(),
        }
    }
}

/// What deliveries come to, for the counter.
const RESULTS: [&str; 4] = ["delivered", "failed", "dead", "dropped"];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a test brought.
#[derive(Clone, Debug)]
pub struct Tested {
    pub http_status: Option<u16>,
    pub error: Option<String>,
    pub milliseconds: u64,
}

impl Webhooks {
    pub fn set_reach(&self, reach: Reach) {
        *lock(&self.reach) = reach;
    }

    pub fn reach(&self) -> Reach {
        *lock(&self.reach)
    }

    pub fn results(&self) -> Vec<(&'static str, u64)> {
        lock(&self.ended).iter().map(|(result, count)| (*result, *count)).collect()
    }

    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    fn count(&self, result: &'static str, by: u64) {
        *lock(&self.ended).entry(result).or_default() += by;
    }

    /// Calls a webhook's worker: there is something to do.
    pub fn wake(&self, id: &str) {
        if let Some(worker) = lock(&self.workers).get(id) {
            worker.wake.notify_one();
        }
    }

    fn hook(&self, id: &str) -> Option<Arc<Hook>> {
        lock(&self.hooks).iter().find(|hook| hook.row.id == id).cloned()
    }
}

/// A new secret, as its holder has it; None: no random bytes.
pub fn fresh_secret() -> Option<String> {
    let mut random = [0; SECRET_BYTES];
    rand::fill(&mut random).ok()?;
    Some(format!("{SECRET_PREFIX}{}", STANDARD.encode(random)))
}

pub fn seal(vault: &Vault, id: &str, secret: &str) -> Option<Vec<u8>> {
    vault.seal(PURPOSE, id.as_bytes(), secret.as_bytes())
}

/// `v1,` and the HMAC-SHA256 of id, time and body in base64.
fn signature(secret: &str, id: &str, seconds: u64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), format!("{id}.{seconds}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(tag.as_ref())))
}

/// One by the secret, and one more by the one before while it counts.
fn signatures(vault: &Vault, row: &WebhookRow, id: &str, now_ms: u64, body: &str) -> Option<String> {
    let former = row.former_secret.as_ref().filter(|_| now_ms < row.former_until_ms);
    let mut all = Vec::new();
    for sealed in [Some(&row.secret), former].into_iter().flatten() {
        let secret = String::from_utf8(vault.open(PURPOSE, row.id.as_bytes(), sealed)?).ok()?;
        all.push(signature(&secret, id, now_ms / 1_000, body)?);
    }
    Some(all.join(" "))
}

/// What receivers get: `type`, `timestamp` and `data` as Standard Webhooks has them, and what our events have besides.
fn body_of(event: &Event) -> String {
    let mut value: Value = serde_json::from_str(&event.json).unwrap_or_default();
    let time = value["time"].take();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("time");
        fields.insert("timestamp".to_owned(), time);
    }
    value.to_string()
}

fn wants(row: &WebhookRow, event: &Event) -> bool {
    let in_room = row.room.is_none() || row.room == event.room;
    row.enabled && in_room && (row.types.is_empty() || row.types.iter().any(|kind| kind == event.kind))
}

/// Begins: events from `cursor` on become rows, and what is on the disk is sent.
pub async fn begin(service: &Arc<Service>, cursor: u64) -> Result<(), StoreError> {
    reload(service).await?;
    tokio::spawn(feed(service.clone(), cursor));
    tokio::spawn(count(service.clone()));
    Ok(())
}

/// Takes over what the store says; a worker for each webhook, and none for what is gone.
pub async fn reload(service: &Arc<Service>) -> Result<(), StoreError> {
    let _alone = service.webhooks.reloading.lock().await;
    let rows = service.store().webhooks_after("", WEBHOOKS_MAX).await?;
    let hooks = rows.into_iter().map(|row| Arc::new(Hook { target: Target::parse(&row.url).ok(), row })).collect();
    *lock(&service.webhooks.hooks) = hooks;
    let mut workers = lock(&service.webhooks.workers);
    let hooks = lock(&service.webhooks.hooks);
    workers.retain(|id, worker| {
        let is_there = hooks.iter().any(|hook| hook.row.id == *id);
        if !is_there {
            worker.task.abort();
        }
        is_there
    });
    for hook in hooks.iter() {
        let worker = workers.entry(hook.row.id.clone()).or_insert_with(|| {
            let wake = Arc::new(Notify::new());
            let task = start_worker(service.clone(), hook.row.id.clone(), wake.clone());
            Worker { wake, task }
        });
        worker.wake.notify_one();
    }
    Ok(())
}

/// A function of its own: a worker may reload, which may start workers.
fn start_worker(service: Arc<Service>, id: String, wake: Arc<Notify>) -> JoinHandle<()> {
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work(service, id, wake));
    tokio::spawn(work)
}

/// Events become rows.
async fn feed(service: Arc<Service>, mut cursor: u64) {
    let mut newest = service.log.watch();
    loop {
        newest.mark_unchanged();
        let (events, next, missed) = service.log.from(cursor, BATCH);
        if events.is_empty() && !missed {
            if newest.changed().await.is_err() {
                return;
            }
            continue;
        }
        let hooks: Vec<Arc<Hook>> = lock(&service.webhooks.hooks).clone();
        let now_ms = now_ms();
        let gap = missed.then(|| EventLog::missed(now_ms, events.first().map_or("", |event| &event.id)));
        // What the store keeps is not missed, however far behind we are.
        let stored = if missed { service.store().kept_events().await.unwrap_or_default() } else { Vec::new() };
        let unheard = stored.iter().filter(|event| events.iter().all(|heard| heard.id != event.id));
        let (mut rows, mut kept) = (Vec::new(), Vec::new());
        for event in gap.iter().chain(unheard).chain(events.iter().map(|event| &**event)) {
            kept.extend(event.is_kept.then(|| event.id.clone()));
            // Most nodes have none, and a join has several events.
            let mut wanted = hooks.iter().filter(|hook| wants(&hook.row, event)).peekable();
            let body = if wanted.peek().is_some() { body_of(event) } else { String::new() };
            for hook in wanted {
                rows.extend(new_delivery(&service.webhooks, &hook.row.id, event, body.clone(), now_ms));
            }
        }
        if !rows.is_empty() || !kept.is_empty() {
            match service.store().queue_deliveries(rows, kept).await {
                Ok(0) => {}
                Ok(dropped) => service.webhooks.count("dropped", dropped as u64),
                Err(error) => {
                    // Nothing of it was written: the same again. Who waits too long finds that events were missed.
                    logging::complain(format_args!("webhooks: {error}"));
                    tokio::time::sleep(STORE_RETRY).await;
                    continue;
                }
            }
            lock(&service.webhooks.workers).values().for_each(|worker| worker.wake.notify_one());
        }
        cursor = next;
    }
}

fn new_delivery(webhooks: &Webhooks, webhook: &str, event: &Event, body: String, now_ms: u64) -> Option<NewDelivery> {
    let number = webhooks.numbers.fetch_add(1, Ordering::Relaxed);
    let (webhook, kind, event) = (webhook.to_owned(), event.kind.to_owned(), event.id.clone());
    Some(NewDelivery { id: ids::in_order("dl", now_ms, number)?, event, webhook, kind, body, now_ms, until_ms: now_ms + LIFE_MS })
}

/// A worker: what is due is sent, a few at a time.
async fn work(service: Arc<Service>, id: String, wake: Arc<Notify>) {
    loop {
        let Some(hook) = service.webhooks.hook(&id) else { return };
        if !hook.row.enabled {
            wake.notified().await;
            continue;
        }
        // One at a time until something is taken.
        let count = if hook.row.failing_since_ms.is_some() { 1 } else { ATTEMPTS_MAX };
        let wait = match service.store().due_deliveries(&id, now_ms(), count).await {
            Ok((due, later)) if due.is_empty() => later.map_or(LOOK_WAIT, Duration::from_millis).min(LOOK_WAIT),
            Ok((due, _)) => {
                send(&service, &hook, due).await;
                continue;
            }
            Err(error) => {
                logging::complain(format_args!("webhooks: {error}"));
                STORE_RETRY
            }
        };
        let _ = tokio::time::timeout(wait, wake.notified()).await;
    }
}

async fn send(service: &Arc<Service>, hook: &Arc<Hook>, due: Vec<DeliveryRow>) {
    let mut attempts = JoinSet::new();
    for row in due {
        let (service, hook) = (service.clone(), hook.clone());
        attempts.spawn(async move { attempt(&service, &hook, row).await });
    }
    let done: Vec<Delivered> = attempts.join_all().await;
    for one in &done {
        service.webhooks.count(if one.error.is_none() { "delivered" } else { "failed" }, 1);
        if one.error.is_some() && one.due_ms.is_none() {
            service.webhooks.count("dead", 1);
        }
    }
    let has_failed = done.iter().any(|one| one.error.is_some());
    let told = |reason: &String| {
        let data = json!({ "id": hook.row.id, "url": hook.row.url, "reason": reason });
        service.log.draft("webhook.disabled", None, now_ms(), &data)
    };
    let events: Vec<Event> = done.iter().filter_map(|one| one.disable.as_ref()).map(told).collect();
    loop {
        match service.store().finish_deliveries(done.clone(), service.drafts(events.clone())).await {
            Ok(disabled) => {
                if has_failed != hook.row.failing_since_ms.is_some() || !disabled.is_empty() {
                    // Otherwise the next time it is told.
                    let _ = reload(service).await;
                }
                return;
            }
            Err(error) => {
                // They were sent: not to write it down would send them again.
                logging::complain(format_args!("webhooks: {error}"));
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    }
}

async fn attempt(service: &Service, hook: &Hook, row: DeliveryRow) -> Delivered {
    let (http_status, retry_after_seconds, error) = post(service, hook, &row.id, row.body).await;
    let now_ms = now_ms();
    let due_ms = match (&error, http_status) {
        (None, _) | (Some(_), Some(410)) => None,
        (Some(_), _) => {
            let mut chance = [0; 8];
            // Zeros are a chance as well.
            let _ = rand::fill(&mut chance);
            let chance = u64::from_le_bytes(chance);
            next_ms(&Attempt { before: row.attempts, now_ms, until_ms: row.until_ms, retry_after_seconds, chance })
        }
    };
    let is_dead = error.is_some() && due_ms.is_none();
    let disable = disabled(http_status, is_dead, hook.row.failing_since_ms, now_ms).filter(|_| error.is_some());
    Delivered { id: row.id, webhook: row.webhook, at_ms: now_ms, http_status, error, due_ms, disable }
}

/// Status, what Retry-After says, and what went wrong.
async fn post(service: &Service, hook: &Hook, id: &str, body: String) -> (Option<u16>, Option<u64>, Option<String>) {
    let Some(target) = &hook.target else { return (None, None, Some("the URL cannot be used".to_owned())) };
    let now_ms = now_ms();
    let Some(signatures) = signatures(service.store().vault(), &hook.row, id, now_ms, &body) else {
        return (None, None, Some("its secret cannot be opened: rotate it".to_owned()));
    };
    let headers = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", (now_ms / 1_000).to_string()),
        ("webhook-signature", signatures),
    ];
    let (reach, body) = (service.webhooks.reach(), Bytes::from(body));
    // Nothing of the answer's body is read, so that nothing in it can cost us anything.
    match service.webhooks.outbound.post(target, reach, &headers, body, ATTEMPT_WAIT, 0).await {
        Ok(answer) if answer.status.is_success() => (Some(answer.status.as_u16()), None, None),
        Ok(answer) => {
            let what = match answer.status.is_redirection() {
                true => format!("the receiver answered {}: redirects are not followed", answer.status),
                false => format!("the receiver answered {}", answer.status),
            };
            (Some(answer.status.as_u16()), answer.retry_after_seconds, Some(what))
        }
        Err(error) => (None, None, Some(error_text(&error))),
    }
}

fn error_text(error: &OutboundError) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect()
}

/// One attempt with an event of its own, at once, and no row.
pub async fn test(service: &Service, row: WebhookRow) -> Option<Tested> {
    let now_ms = now_ms();
    let id = ids::in_order("dl", now_ms, service.webhooks.numbers.fetch_add(1, Ordering::Relaxed))?;
    let data = json!({ "id": row.id });
    let body = json!({ "type": "webhook.test", "timestamp": ids::rfc3339(now_ms), "id": id, "room": null, "data": data });
    let hook = Hook { target: Target::parse(&row.url).ok(), row };
    let began = Instant::now();
    let (http_status, _, error) = post(service, &hook, &id, body.to_string()).await;
    let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Some(Tested { http_status, error, milliseconds })
}

async fn count(service: Arc<Service>) {
    let mut tick = tokio::time::interval(COUNT_WAIT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let is_idle = lock(&service.webhooks.hooks).is_empty();
        let queued = if is_idle { Ok(0) } else { service.store().queued_deliveries().await };
        if let Ok(queued) = queued {
            service.webhooks.queued.store(queued, Ordering::Relaxed);
        }
    }
}

/// Where webhooks may lead, by the settings.
pub fn reach_of(settings: &crate::config::Settings) -> Reach {
    // A node on loopback is one on somebody's desk, and so is what it tells.
    Reach { loopback: settings.http.ip().is_loopback(), private: settings.allow_private, anywhere: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_published_vector() {
        // github.com/standard-webhooks/standard-webhooks, the libraries' tests.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
        let fresh = fresh_secret().unwrap();
        assert_eq!(STANDARD.decode(fresh.strip_prefix("whsec_").unwrap()).unwrap().len(), SECRET_BYTES);
        assert_ne!(fresh_secret().unwrap(), fresh);
    }

    #[test]
    fn a_body_is_of_the_standards_form() {
        let log = EventLog::default();
        log.push("stream.started", Some("demo".into()), 1_614_265_330_000, &json!({ "id": "st_1" }));
        let (events, ..) = log.from(1, 1);
        let body: Value = serde_json::from_str(&body_of(&events[0])).unwrap();
        assert_eq!((body["type"].as_str(), body["timestamp"].as_str()), (Some("stream.started"), Some("2021-02-25T15:02:10.000Z")));
        assert_eq!((body["data"]["id"].as_str(), body["room"].as_str()), (Some("st_1"), Some("demo")));
        assert!(body["time"].is_null());
    }
}
