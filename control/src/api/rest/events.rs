//! `GET /v1/events`: what happens on this node, as server-sent events that go on, or as a page of what is kept.

use super::page::{COUNT_MAX, Page};
use super::{Answer, Call, Reply, Scope};
use crate::api::problem::Problem;
use crate::auth::{self, AuthError};
use crate::event_log::{Event, EventLog, TYPES};
use crate::service::now_ms;
use axum::body::Body;
use axum::http::header;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// Events taken from the ring at a time.
const BATCH: usize = 64;
/// A comment is written when nothing happens, so that nobody on the way takes the connection for dead; and then it is
/// looked at whether the caller still may.
const PAUSE_MAX: Duration = Duration::from_secs(10);
const COUNT_DEFAULT: usize = 50;

/// Which events somebody wants, and may have.
struct Wanted {
    room: Option<String>,
    types: Vec<&'static str>,
}

impl Wanted {
    fn of(call: &Call) -> Result<Wanted, Problem> {
        let asked = call.query.get("room").cloned();
        let room = match (&call.caller.scope, asked) {
            (Scope::Room(own), Some(asked)) if *own != asked => {
                return Err(AuthError::WrongRoom { token: own.clone(), asked }.into());
            }
            (Scope::Room(own), _) => Some(own.clone()),
            (_, asked) => asked,
        };
        let named = call.query.get("types").map(String::as_str).unwrap_or_default();
        let mut types = Vec::new();
        for name in named.split(',').filter(|name| !name.is_empty()) {
            match TYPES.iter().find(|(known, _)| *known == name) {
                Some((known, _)) => types.push(*known),
                None => {
                    let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
                    return Err(Problem::bad_request(format!("types: these are: {}", known.join(", "))));
                }
            }
        }
        Ok(Wanted { room, types })
    }

    fn has(&self, event: &Event) -> bool {
        let in_room = self.room.as_ref().is_none_or(|room| event.room.as_ref() == Some(room));
        in_room && (self.types.is_empty() || self.types.contains(&event.kind))
    }
}

pub async fn events(call: Call) -> Answer {
    let wanted = Wanted::of(&call)?;
    let header_text = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let last = header_text("last-event-id").or(call.query.get("after").cloned()).filter(|last| !last.is_empty());
    let is_page = header_text("accept").is_some_and(|kinds| kinds.contains("application/json"));
    if is_page { page(&call, &wanted, last.as_deref()) } else { Ok(stream(call, wanted, last.as_deref())) }
}

fn page(call: &Call, wanted: &Wanted, last: Option<&str>) -> Answer {
    let count = match call.query.get("limit").map(|text| text.parse()) {
        None => COUNT_DEFAULT,
        Some(Ok(count @ 1..=COUNT_MAX)) => count,
        _ => return Err(Problem::bad_request(format!("limit must be a number from 1 to {COUNT_MAX}"))),
    };
    let log = &call.service.log;
    let (mut cursor, missed) = match last {
        Some(_) => log.cursor(last),
        None => (0, false),
    };
    let mut found: Vec<Value> = Vec::new();
    let mut add = |event: &Event| found.extend(serde_json::from_str::<Value>(&event.json));
    if missed {
        add(&EventLog::missed(now_ms(), last.unwrap_or_default()));
    }
    let mut shown = usize::from(missed);
    loop {
        let (events, next, _) = log.from(cursor, BATCH);
        for event in events.iter().filter(|event| wanted.has(event)) {
            // One more than is shown: whether there is another page.
            if shown <= count {
                add(event);
                shown += 1;
            }
        }
        if events.is_empty() || shown > count {
            break;
        }
        cursor = next;
    }
    let name = |event: &Value| event["id"].as_str().unwrap_or_default().to_owned();
    let mut page = Page::new(found, count, name);
    // Of events there is always a next page: the one that comes.
    page.next_cursor = page.data.last().map(name).or(last.map(str::to_owned));
    Ok(Reply::json(200, &page))
}

fn stream(call: Call, wanted: Wanted, last: Option<&str>) -> Reply {
    let (mut cursor, missed) = call.service.log.cursor(last);
    let first = missed.then(|| EventLog::missed(now_ms(), last.unwrap_or_default()).text());
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(BATCH);
    let Call { service, caller, .. } = call;
    tokio::spawn(async move {
        let mut newest = service.log.watch();
        // The headers go out at once, with something behind them.
        if sender.send(first.unwrap_or_else(|| ":\n\n".to_owned())).await.is_err() {
            return;
        }
        loop {
            newest.mark_unchanged();
            let (events, next, missed) = service.log.from(cursor, BATCH);
            cursor = next;
            let gap = missed.then(|| EventLog::missed(now_ms(), events.first().map_or("", |event| &event.id)).text());
            for text in gap.into_iter().chain(events.iter().filter(|event| wanted.has(event)).map(|event| event.text())) {
                // Who does not read is waited for here; what he misses meanwhile he is told.
                if sender.send(text).await.is_err() {
                    return;
                }
            }
            if !events.is_empty() {
                continue;
            }
            if auth::unix_now() >= caller.expiry {
                return;
            }
            if tokio::time::timeout(PAUSE_MAX, newest.changed()).await.is_err() {
                // A key that was revoked opens nothing any more.
                let is_revoked = caller.id.starts_with("key_") && matches!(service.store().key(&caller.id).await, Ok(None));
                if is_revoked || sender.send(":\n\n".to_owned()).await.is_err() {
                    return;
                }
            }
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, Infallible>));
    Reply::stream(body).with(header::HeaderName::from_static("x-accel-buffering"), "no")
}
