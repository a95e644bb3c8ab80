//! The REST API: requests are found in one table (`table`), which also is the OpenAPI document. Here is what all of
//! them have in common: who asks, what he sends, what may be repeated, what is answered.
//!
//! ```text
//!    method + path -> row -> who asks (401, 403) -> body (400, 413, 415) -> seen before? (409, or the answer again)
//!      -> handler -> answer, written down in the same transaction as what it tells
//! ```

mod bodies;
mod caller;
mod docs;
mod events;
mod handlers;
mod idempotency;
mod bans;
mod insight;
mod openapi;
mod page;
mod recordings;
pub mod schema;
mod table;
mod webhooks;

pub use caller::{Caller, Scope};

use super::problem::Problem;
use crate::policy::Refusal;
use crate::service::{Record, Service};
use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use table::{Access, ROWS, Row};

/// A request as handlers get it.
pub struct Call {
    pub service: Arc<Service>,
    pub caller: Caller,
    pub path: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    pub headers: HeaderMap,
    /// Null where there is none.
    pub body: Value,
    /// What ready links begin with.
    pub base: String,
    /// Where the answer is to be written down.
    seal: Option<idempotency::Seal>,
}

/// An answer before it is one.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: Vec<(header::HeaderName, String)>,
    body: Content,
    /// It stands in the store already.
    is_recorded: bool,
}

#[derive(Debug)]
enum Content {
    Nothing,
    Json(String),
    /// Server-sent events.
    Events(Body),
    /// Its type is among the headers.
    File(Body),
}

pub type Answer = Result<Reply, Problem>;
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Reply {
    pub fn json(status: u16, body: &impl Serialize) -> Reply {
        // Strings, numbers and maps with text as keys always become JSON.
        let body = serde_json::to_string(body).unwrap_or_default();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        Reply { status, headers: Vec::new(), body: Content::Json(body), is_recorded: false }
    }

    pub fn nothing() -> Reply {
        Reply { status: StatusCode::NO_CONTENT, headers: Vec::new(), body: Content::Nothing, is_recorded: false }
    }

    pub fn stream(body: Body) -> Reply {
        Reply { status: StatusCode::OK, headers: Vec::new(), body: Content::Events(body), is_recorded: false }
    }

    pub fn with(mut self, name: header::HeaderName, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    pub fn version(self, version: u64) -> Reply {
        self.with(header::ETAG, format!("\"{version}\""))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let typed = |kind| [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
        let mut response = match self.body {
            Content::Json(body) => (self.status, typed("application/json"), body).into_response(),
            Content::Events(body) => (self.status, typed("text/event-stream"), body).into_response(),
            Content::File(body) => (self.status, body).into_response(),
            Content::Nothing => self.status.into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.extend(HeaderValue::try_from(value).ok().map(|value| (name, value)));
        }
        response
    }
}

impl Call {
    /// A part of the path; the table says that it is there.
    pub fn part(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let body = if self.body.is_null() { Value::Object(Default::default()) } else { self.body.clone() };
        serde_json::from_value(body).map_err(|error| Problem::bad_request(error.to_string()))
    }

    /// The version a PATCH expects.
    pub fn expected(&self) -> Result<Option<u64>, Problem> {
        let Some(value) = self.headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(None);
        }
        // A tag of another form is not one that we gave: it cannot match (RFC 9110 section 13.1.1).
        Ok(Some(text.strip_prefix('"').and_then(|text| text.strip_suffix('"')?.parse().ok()).unwrap_or(u64::MAX)))
    }

    /// For a handler that writes: the reply, and what is to be written beside it in the same transaction.
    pub fn record(&self, reply: Reply) -> (Reply, Option<Record>) {
        let record = self.seal.as_ref().and_then(|seal| seal.record(&reply));
        (Reply { is_recorded: record.is_some(), ..reply }, record)
    }
}

/// A route for each path of the table.
pub fn router() -> Router<Arc<Service>> {
    let mut paths: Vec<&'static str> = ROWS.iter().map(|row| row.path).collect();
    paths.sort_unstable();
    paths.dedup();
    let add = |router: Router<Arc<Service>>, path: &'static str| {
        router.route(path, any(move |service, parts, request| async move { answer(path, service, parts, request).await }))
    };
    paths.into_iter().fold(Router::new(), add).merge(docs::router())
}

async fn answer(path: &'static str, State(service): State<Arc<Service>>, parts: RawPathParams, request: Request) -> Response {
    let rows: Vec<&'static Row> = ROWS.iter().filter(|row| row.path == path).collect();
    let method = request.method().clone();
    if method == Method::OPTIONS {
        return super::options(allowed(&rows), false);
    }
    let is_head = method == Method::HEAD;
    let wanted = if is_head { Method::GET } else { method.clone() };
    let Some(row) = rows.iter().find(|row| row.method == wanted.as_str()) else {
        return Problem::method(allowed(&rows), &method).into_response();
    };
    let path = parts.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    match handle(row, service, path, request).await {
        Ok(reply) => reply.into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// As `Allow` names them. There are few sets of methods, and each is written once.
fn allowed(rows: &[&Row]) -> &'static str {
    let has = |method: &str| rows.iter().any(|row| row.method == method);
    match (has("GET"), has("POST"), has("PATCH"), has("DELETE")) {
        (true, true, _, _) => "GET, HEAD, POST, OPTIONS",
        (true, false, true, true) => "GET, HEAD, PATCH, DELETE, OPTIONS",
        (true, false, true, false) => "GET, HEAD, PATCH, OPTIONS",
        (true, false, false, true) => "GET, HEAD, DELETE, OPTIONS",
        (true, false, false, false) => "GET, HEAD, OPTIONS",
        (false, false, false, true) => "DELETE, OPTIONS",
        _ => "POST, OPTIONS",
    }
}

async fn handle(row: &'static Row, service: Arc<Service>, path: BTreeMap<String, String>, request: Request) -> Answer {
    let (head, body) = request.into_parts();
    let raw_query = head.uri.query().map(str::to_owned);
    let caller = match row.access {
        Access::Anyone => Caller::nobody(),
        _ => Caller::of(&service, &head.headers, raw_query.as_deref()).await?,
    };
    caller.require(row, path.get("room").map(String::as_str))?;
    if path.get("room").is_some_and(|room| !crate::auth::is_room_name(room)) {
        return Err(Problem::not_found());
    }
    let query = query_of(row, raw_query.as_deref().unwrap_or_default())?;
    let body = match row.takes_body() {
        true => body_of(&head.headers, body).await?,
        // Not read: whatever it says, it is not asked for.
        false => Value::Null,
    };
    let base = base_of(&service, &head.headers);
    let mut call = Call { service, caller, path, query, headers: head.headers, body, base, seal: None };
    if row.method != "POST" {
        return (row.handler)(call).await;
    }
    let Some(asked) = idempotency::Asked::of(&call, row)? else { return (row.handler)(call).await };
    let service = call.service.clone();
    // Nobody else answers the same request at the same time.
    let _turn = asked.turn(&service)?;
    if let Some(reply) = asked.seen(&service).await? {
        return Ok(reply);
    }
    call.seal = Some(asked.seal(&service));
    let seal = asked.seal(&service);
    let reply = (row.handler)(call).await?;
    if !reply.is_recorded
        && let Some(record) = seal.record(&reply)
    {
        // What was done changes nothing when it is done again, so that it may be written down afterwards.
        service.store().remember(record).await.map_err(Refusal::from)?;
    }
    Ok(reply)
}

/// The query's fields; one that the row does not name is a mistake.
fn query_of(row: &Row, text: &str) -> Result<BTreeMap<String, String>, Problem> {
    let mut query = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "token" {
            continue;
        }
        if !row.query.iter().any(|field| field.name == name) {
            let known: Vec<&str> = row.query.iter().map(|field| field.name).collect();
            let known = if known.is_empty() { "none is".to_owned() } else { format!("these are: {}", known.join(", ")) };
            return Err(Problem::bad_request(format!("the query's `{}` is not known here; {known}", shown(name))));
        }
        let value = unescaped(value).ok_or_else(|| Problem::bad_request(format!("the query's `{name}` is no text")))?;
        query.insert(name.to_owned(), value);
    }
    Ok(query)
}

/// Of what a client sends, as much as goes into an answer.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// `%41` and `+` of a query.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

async fn body_of(headers: &HeaderMap, body: Body) -> Result<Value, Problem> {
    let text = super::text_of(headers, body).await?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    // `curl -d` says that it sends a form; nothing here takes one, so that the mistake can be forgiven.
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_json = ["", "application/json", "application/merge-patch+json", "application/x-www-form-urlencoded"];
    if !is_json.contains(&essence.as_str()) {
        return Err(Problem::media_type("application/json"));
    }
    let value: Value = serde_json::from_str(&text).map_err(|error| Problem::bad_body(format!("the body is no JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Problem::bad_request("the body must be a JSON object")) }
}

/// What was configured, or the address the client used.
fn base_of(service: &Service, headers: &HeaderMap) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_plain = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
    service.public_url().unwrap_or_else(|| format!("http://{}", if is_plain { host } else { "localhost" }))
}

#[cfg(test)]
mod tests;
