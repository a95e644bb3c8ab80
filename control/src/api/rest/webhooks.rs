//! The rows of webhooks: who is told, what became of it, once more.

use super::bodies::{Delivery, NewWebhook, Webhook, WebhookPatch, WebhookRotation, WebhookTest, WebhookWithSecret};
use super::page::{Page, Wanted};
use super::{Answer, Call, Reply};
use crate::api::problem::Problem;
use crate::auth;
use crate::event_log::TYPES;
use crate::ids::{self, rfc3339};
use crate::outbound::Target;
use crate::policy::Refusal;
use crate::policy::webhooks::LIFE_MS;
use crate::service::{Changed, DeliveryRow, RotatedSecret, WEBHOOKS_MAX, WebhookChange, WebhookRow, now_ms};
use crate::webhooks;
use axum::http::header;

const GRACE_SECONDS_DEFAULT: u64 = 24 * 3_600;
const GRACE_SECONDS_MAX: u64 = 7 * 86_400;

pub async fn list(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let rows = call.service.store().webhooks_after(&after, count + 1).await.map_err(Refusal::from)?;
    Ok(Reply::json(200, &Page::new(rows.iter().map(body).collect(), count, |hook: &Webhook| hook.id.clone())))
}

pub async fn create(call: Call) -> Answer {
    let new: NewWebhook = call.body()?;
    let now = now_ms();
    let id = ids::fresh("wh", now).ok_or_else(Problem::no_randomness)?;
    let secret = webhooks::fresh_secret().ok_or_else(Problem::no_randomness)?;
    let row = WebhookRow {
        url: url(&call, new.url)?,
        types: types(new.types.unwrap_or_default())?,
        room: room(new.room)?,
        enabled: new.enabled.unwrap_or(true),
        reason: None,
        secret: webhooks::seal(call.service.store().vault(), &id, &secret).ok_or_else(Problem::no_randomness)?,
        former_secret: None,
        former_until_ms: 0,
        failing_since_ms: None,
        created_ms: now,
        version: 1,
        id,
    };
    let reply = Reply::json(201, &with_secret(&row, secret)).with(header::LOCATION, format!("/v1/webhooks/{}", row.id));
    let (reply, record) = call.record(reply.version(row.version));
    if !call.service.store().create_webhook(row, record).await.map_err(Refusal::from)? {
        return Err(Problem::webhooks_full(WEBHOOKS_MAX));
    }
    webhooks::reload(&call.service).await.map_err(Refusal::from)?;
    Ok(reply)
}

pub async fn read(call: Call) -> Answer {
    let row = named(&call).await?;
    Ok(Reply::json(200, &body(&row)).version(row.version))
}

pub async fn update(call: Call) -> Answer {
    let patch: WebhookPatch = call.body()?;
    // null and nothing are two things in a merge patch (RFC 7396).
    let is_named = |name: &str| call.body.get(name).is_some();
    let change = WebhookChange {
        url: patch.url.map(|text| url(&call, text)).transpose()?,
        types: if is_named("types") { Some(types(patch.types.unwrap_or_default())?) } else { None },
        room: if is_named("room") { Some(room(patch.room)?) } else { None },
        enabled: patch.enabled,
    };
    let changed = call.service.store().change_webhook(call.part("webhook"), call.expected()?, change).await;
    match changed.map_err(Refusal::from)? {
        Changed::Done(row) => {
            webhooks::reload(&call.service).await.map_err(Refusal::from)?;
            Ok(Reply::json(200, &body(&row)).version(row.version))
        }
        Changed::OtherVersion(version) => Err(Problem::version_mismatch(version)),
        Changed::NotFound => Err(Problem::missing("webhook")),
    }
}

pub async fn delete(call: Call) -> Answer {
    if !call.service.store().delete_webhook(call.part("webhook")).await.map_err(Refusal::from)? {
        return Err(Problem::missing("webhook"));
    }
    webhooks::reload(&call.service).await.map_err(Refusal::from)?;
    Ok(Reply::nothing())
}

pub async fn rotate(call: Call) -> Answer {
    let rotation: WebhookRotation = call.body()?;
    let grace = rotation.grace_seconds.unwrap_or(GRACE_SECONDS_DEFAULT);
    if grace > GRACE_SECONDS_MAX {
        return Err(Problem::bad_request(format!("grace_seconds must be from 0 to {GRACE_SECONDS_MAX}")));
    }
    let row = named(&call).await?;
    let secret = webhooks::fresh_secret().ok_or_else(Problem::no_randomness)?;
    let sealed = webhooks::seal(call.service.store().vault(), &row.id, &secret).ok_or_else(Problem::no_randomness)?;
    let rotated = RotatedSecret { secret: sealed, former_until_ms: now_ms() + grace * 1_000 };
    let (reply, record) = call.record(Reply::json(200, &with_secret(&row, secret)));
    let done = call.service.store().rotate_webhook(&row.id, rotated, record).await.map_err(Refusal::from)?;
    done.ok_or_else(|| Problem::missing("webhook"))?;
    webhooks::reload(&call.service).await.map_err(Refusal::from)?;
    Ok(reply)
}

pub async fn test(call: Call) -> Answer {
    let row = named(&call).await?;
    let tested = webhooks::test(&call.service, row).await.ok_or_else(Problem::no_randomness)?;
    let (delivered, status) = (tested.error.is_none(), tested.http_status.map(u32::from));
    Ok(Reply::json(200, &WebhookTest { delivered, status, error: tested.error, milliseconds: tested.milliseconds }))
}

pub async fn deliveries(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let status = call.query.get("status").map(String::as_str);
    if status.is_some_and(|status| !["queued", "delivered", "dead"].contains(&status)) {
        return Err(Problem::bad_request("status must be queued, delivered or dead"));
    }
    let row = named(&call).await?;
    let found = call.service.store().deliveries_before(&row.id, &after, status, count + 1).await.map_err(Refusal::from)?;
    let bodies = found.iter().map(delivery_body).collect();
    Ok(Reply::json(200, &Page::new(bodies, count, |delivery: &Delivery| delivery.id.clone())))
}

pub async fn delivery(call: Call) -> Answer {
    let row = named(&call).await?;
    let found = call.service.store().delivery(&row.id, call.part("delivery")).await.map_err(Refusal::from)?;
    Ok(Reply::json(200, &delivery_body(&found.ok_or_else(|| Problem::missing("delivery"))?)))
}

pub async fn retry(call: Call) -> Answer {
    let row = named(&call).await?;
    let now = now_ms();
    let found = call.service.store().retry_delivery(&row.id, call.part("delivery"), now, now + LIFE_MS).await;
    let found = found.map_err(Refusal::from)?.ok_or_else(|| Problem::missing("delivery"))?;
    call.service.webhooks.wake(&row.id);
    Ok(Reply::json(200, &delivery_body(&found)))
}

async fn named(call: &Call) -> Result<WebhookRow, Problem> {
    let found = call.service.store().webhook(call.part("webhook")).await.map_err(Refusal::from)?;
    found.ok_or_else(|| Problem::missing("webhook"))
}

fn url(call: &Call, url: String) -> Result<String, Problem> {
    let target = Target::parse(&url).map_err(|what| Problem::bad_request(format!("url: {what}")))?;
    match target.forbidden(call.service.webhooks.reach()) {
        Some(error) => Err(Problem::bad_request(format!("url: {error}"))),
        None => Ok(url),
    }
}

fn types(types: Vec<String>) -> Result<Vec<String>, Problem> {
    match types.iter().find(|name| !TYPES.iter().any(|(known, _)| known == name)) {
        None => Ok(types),
        Some(_) => {
            let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
            Err(Problem::bad_request(format!("types: these are: {}", known.join(", "))))
        }
    }
}

fn room(room: Option<String>) -> Result<Option<String>, Problem> {
    match room.as_ref().is_none_or(|room| auth::is_room_name(room)) {
        true => Ok(room),
        false => Err(Problem::bad_request("room: a room's name is 1 to 64 characters of A-Z a-z 0-9 _ -")),
    }
}

fn body(row: &WebhookRow) -> Webhook {
    Webhook {
        id: row.id.clone(),
        url: row.url.clone(),
        types: row.types.clone(),
        room: row.room.clone(),
        enabled: row.enabled,
        disabled_reason: row.reason.clone(),
        failing_since: row.failing_since_ms.map(rfc3339),
        created_at: rfc3339(row.created_ms),
    }
}

fn with_secret(row: &WebhookRow, secret: String) -> WebhookWithSecret {
    let Webhook { id, url, types, room, enabled, disabled_reason, failing_since, created_at } = body(row);
    WebhookWithSecret { id, url, types, room, enabled, disabled_reason, failing_since, created_at, secret }
}

fn delivery_body(row: &DeliveryRow) -> Delivery {
    Delivery {
        id: row.id.clone(),
        r#type: row.kind.clone(),
        status: row.status.clone(),
        attempts: row.attempts,
        created_at: rfc3339(row.created_ms),
        attempted_at: row.attempt_ms.map(rfc3339),
        next_attempt_at: (row.status == "queued").then(|| rfc3339(row.due_ms)),
        response_status: row.http_status.map(u32::from),
        error: row.error.clone(),
        payload: serde_json::from_str(&row.body).unwrap_or_default(),
    }
}
