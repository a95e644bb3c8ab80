//! `Idempotency-Key`: a POST sent twice is done once. The answer stands in the store for a day, sealed, because it may
//! hold what is shown once.

use super::{Call, Content, Reply};
use crate::api::problem::Problem;
use crate::policy::Refusal;
use crate::service::{Found, Record, Service, now_ms};
use crate::vault::Vault;
use aws_lc_rs::digest;
use axum::http::{StatusCode, header};
use std::sync::{Arc, PoisonError};

const KEY_CHARS_MAX: usize = 255;
/// What the master key seals here.
const PURPOSE: &str = "idempotency";

/// A request that may be repeated.
pub struct Asked {
    key: [u8; 32],
    fingerprint: [u8; 32],
}

/// Writes an answer down.
pub struct Seal {
    key: [u8; 32],
    fingerprint: [u8; 32],
    vault: Vault,
}

/// While it is held, the same key is refused.
pub struct Turn {
    service: Arc<Service>,
    key: [u8; 32],
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.service.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl Asked {
    /// None: the request has no such key.
    pub fn of(call: &Call, row: &super::Row) -> Result<Option<Asked>, Problem> {
        let Some(given) = call.headers.get("idempotency-key") else { return Ok(None) };
        let text = given.to_str().unwrap_or_default();
        if text.is_empty() || text.len() > KEY_CHARS_MAX {
            let detail = format!("Idempotency-Key must be 1 to {KEY_CHARS_MAX} characters of ASCII");
            return Err(Problem::bad_request(detail));
        }
        // By its holder and its path: two callers may count 1, 2, 3 alike.
        let path: Vec<&str> = call.path.values().map(String::as_str).collect();
        let asked = [row.path, &path.join("/"), &call.body.to_string()].join("\n");
        Ok(Some(Asked { key: hash(&[&call.caller.id, text]), fingerprint: hash(&[&asked]) }))
    }

    pub fn turn(&self, service: &Arc<Service>) -> Result<Turn, Problem> {
        let mut pending = service.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match pending.insert(self.key) {
            true => Ok(Turn { service: service.clone(), key: self.key }),
            false => Err(Problem::still_answering()),
        }
    }

    /// The answer it had before.
    pub async fn seen(&self, service: &Service) -> Result<Option<Reply>, Problem> {
        let found = service.store().idempotent(self.key, self.fingerprint, now_ms()).await;
        match found.map_err(Refusal::from)? {
            Found::Nothing => Ok(None),
            Found::Other => Err(Problem::idempotency_mismatch()),
            Found::Same(record) => {
                // Damaged: nobody can tell any more what it said.
                let opened = service.store().vault().open(PURPOSE, &context(&record.key, &record.fingerprint), &record.body);
                let body = opened.and_then(|body| String::from_utf8(body).ok()).ok_or_else(Problem::idempotency_mismatch)?;
                let headers: Vec<(String, String)> = serde_json::from_str(&record.headers).unwrap_or_default();
                let named = headers.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value)));
                let reply = Reply {
                    status: StatusCode::from_u16(record.status).unwrap_or(StatusCode::OK),
                    headers: named.collect(),
                    body: if body.is_empty() { Content::Nothing } else { Content::Json(body) },
                    is_recorded: true,
                };
                Ok(Some(reply.with(header::HeaderName::from_static("idempotent-replayed"), "true")))
            }
        }
    }

    pub fn seal(&self, service: &Service) -> Seal {
        Seal { key: self.key, fingerprint: self.fingerprint, vault: service.store().vault().clone() }
    }
}

impl Seal {
    /// None where it cannot be sealed: then it is not written down.
    pub fn record(&self, reply: &Reply) -> Option<Record> {
        let headers: Vec<(&str, &str)> =
            reply.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = match &reply.body {
            Content::Json(text) => text.as_bytes(),
            Content::Nothing => &[],
            // What goes on for ever is no answer to repeat.
            Content::Events(_) | Content::File(_) => return None,
        };
        let body = self.vault.seal(PURPOSE, &context(&self.key, &self.fingerprint), body)?;
        Some(Record {
            key: self.key,
            fingerprint: self.fingerprint,
            status: reply.status.as_u16(),
            headers: serde_json::to_string(&headers).ok()?,
            body,
            at_ms: now_ms(),
        })
    }
}

fn context(key: &[u8; 32], fingerprint: &[u8; 32]) -> Vec<u8> {
    [*key, *fingerprint].concat()
}

fn hash(parts: &[&str]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().first_chunk::<32>().copied().unwrap_or_default()
}
