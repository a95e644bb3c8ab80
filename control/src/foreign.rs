//! Foreign tokens: a bearer that is none of ours is shown to the operator's backend, which says what it opens.
//!
//! ```text
//!    token -> known for a while? -> its answer
//!          -> being asked for?   -> wait for the same answer       (200 viewers with one token: one request)
//!          -> POST BACKEND/api/verify-media-server-token {"token": ...}   200: what it opens; 401, 403: nothing;
//!                                                                        anything else, or 1.5 s: not known, ask again
//! ```
//!
//! Only who brings such a token waits for the backend; a backend that is gone keeps nobody else out. Tokens are
//! kept as their SHA-256.

use crate::auth::{self, Role};
use crate::outbound::{Outbound, Reach, Target};
use aws_lc_rs::digest;
use axum::body::Bytes;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

const ANSWER_WAIT: Duration = Duration::from_millis(1_500);
const PATH: &str = "/api/verify-media-server-token";
/// An answer that is longer says more than we ask.
const BODY_BYTES_MAX: usize = 16 * 1_024;
/// Some 300 bytes each.
const TOKENS_MAX: usize = 10_000;
/// A backend's word that a token is good; a revoked one opens that much longer.
const GOOD_WAIT: Duration = Duration::from_secs(60);
/// Shorter: whoever has just been given rights should not wait for them.
const BAD_WAIT: Duration = Duration::from_secs(5);
/// Requests to the backend at a time: a storm of made-up tokens does not become one of requests.
const REQUESTS_MAX: usize = 32;
/// What a session is given whose token has no end, Unix seconds from now.
const LIFE_SECONDS: u64 = 3_600;

/// What a foreign token opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted {
    /// None: every room, to watch.
    pub room: Option<String>,
    pub role: Role,
    pub sub: String,
    pub account: String,
    /// Unix seconds.
    pub expiry: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Granted(Granted),
    Denied,
    /// For people: what the backend did instead of an answer.
    Unknown(String),
}

/// What the backend says besides 200; everything may be left out.
#[derive(Deserialize, Default)]
struct Said {
    #[serde(default)]
    room: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    sub: Option<String>,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    exp: Option<u64>,
}

enum Entry {
    Asking(watch::Receiver<Option<Verdict>>),
    Known { verdict: Verdict, until: Instant },
}

pub struct Foreign {
    outbound: Outbound,
    tokens: Mutex<HashMap<[u8; 32], Entry>>,
    requests: Semaphore,
}

impl Default for Foreign {
    fn default() -> Foreign {
        Foreign { outbound: Outbound::default(), tokens: Mutex::default(), requests: Semaphore::new(REQUESTS_MAX) }
    }
}

impl Foreign {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another backend is asked from now on: what the one before said counts no more.
    pub fn forget(&self) {
        self.lock().clear();
    }

    pub async fn ask(self: &Arc<Self>, backend: &str, token: &str) -> Verdict {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let key = hash.as_ref().first_chunk::<32>().copied().unwrap_or_default();
        let mut receiver = {
            let mut tokens = self.lock();
            match tokens.get(&key) {
                Some(Entry::Known { verdict, until }) if Instant::now() < *until => return verdict.clone(),
                Some(Entry::Asking(receiver)) => receiver.clone(),
                _ => {
                    if !make_room(&mut tokens) {
                        return Verdict::Unknown("more tokens are being asked for than may".to_owned());
                    }
                    let (sender, receiver) = watch::channel(None);
                    tokens.insert(key, Entry::Asking(receiver.clone()));
                    drop(tokens);
                    let (foreign, backend, token) = (self.clone(), backend.to_owned(), token.to_owned());
                    // To its end, whether or not the first one waits for it: others may.
                    tokio::spawn(async move {
                        let verdict = foreign.request(&backend, &token, &key).await;
                        foreign.remember(key, &verdict);
                        sender.send_replace(Some(verdict));
                    });
                    receiver
                }
            }
        };
        match receiver.wait_for(Option::is_some).await.map(|verdict| verdict.clone()) {
            Ok(Some(verdict)) => verdict,
            _ => Verdict::Unknown("the request was given up".to_owned()),
        }
    }

    fn remember(&self, key: [u8; 32], verdict: &Verdict) {
        let mut tokens = self.lock();
        let wait = match verdict {
            Verdict::Granted(granted) => GOOD_WAIT.min(Duration::from_secs(granted.expiry.saturating_sub(auth::unix_now()))),
            Verdict::Denied => BAD_WAIT,
            // The next one asks again.
            Verdict::Unknown(_) => {
                tokens.remove(&key);
                return;
            }
        };
        tokens.insert(key, Entry::Known { verdict: verdict.clone(), until: Instant::now() + wait });
    }

    async fn request(&self, backend: &str, token: &str, key: &[u8; 32]) -> Verdict {
        let Ok(target) = Target::parse(&format!("{}{PATH}", backend.trim_end_matches('/'))) else {
            return Verdict::Unknown("auth.backend_url is no URL".to_owned());
        };
        let body = Bytes::from(json!({ "token": token }).to_string());
        // The operator has named it: it may be anywhere.
        let reach = Reach { anywhere: true, ..Reach::default() };
        let whole = async {
            let _turn = self.requests.acquire().await;
            self.outbound.post(&target, reach, &[], body, ANSWER_WAIT, BODY_BYTES_MAX).await
        };
        match tokio::time::timeout(ANSWER_WAIT, whole).await {
            Err(_) => Verdict::Unknown(format!("no answer within {ANSWER_WAIT:?}")),
            Ok(Err(error)) => Verdict::Unknown(error.to_string()),
            Ok(Ok(answer)) => match answer.status {
                StatusCode::OK => granted(&answer.body, key, auth::unix_now()),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::Denied,
                other => Verdict::Unknown(format!("it answered {other}")),
            },
        }
    }
}

/// What has ended makes room, then what was asked for; false: everything is being asked for.
fn make_room(tokens: &mut HashMap<[u8; 32], Entry>) -> bool {
    if tokens.len() < TOKENS_MAX {
        return true;
    }
    let now = Instant::now();
    tokens.retain(|_, entry| !matches!(entry, Entry::Known { until, .. } if *until <= now));
    if tokens.len() >= TOKENS_MAX {
        // Rare, and all alike: a tenth of them, so that it stays rare.
        let mut count = TOKENS_MAX / 10;
        tokens.retain(|_, entry| {
            let goes = count > 0 && matches!(entry, Entry::Known { .. });
            count -= usize::from(goes);
            !goes
        });
    }
    tokens.len() < TOKENS_MAX
}

/// A body that is no JSON object of ours is an answer all the same: 200 is what counts, and it opens the least. One that
/// names something that cannot be is a fault of the backend, and opens nothing.
fn granted(body: &[u8], key: &[u8; 32], now: u64) -> Verdict {
    let said: Said = match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) if value.is_object() => match serde_json::from_value(value) {
            Ok(said) => said,
            Err(error) => return Verdict::Unknown(format!("its answer cannot be read: {error}")),
        },
        _ => Said::default(),
    };
    let wrong = |what: &str| Verdict::Unknown(format!("its answer names {what}"));
    let role = match said.role.as_deref().map(str::parse) {
        None => Role::View,
        Some(Ok(role @ (Role::View | Role::Publish | Role::Admin))) => role,
        Some(_) => return wrong("a role that is none of view, publish and admin"),
    };
    let room = said.room.filter(|room| !room.is_empty());
    if room.as_ref().is_some_and(|room| !auth::is_room_name(room)) {
        return wrong("a room that can have no such name");
    }
    if room.is_none() && role != Role::View {
        return wrong("no room: only `view` is for all of them");
    }
    let plain = |text: &String| text.len() <= 400 && !text.chars().any(char::is_control);
    let texts = [&said.sub, &said.account];
    if !texts.into_iter().flatten().all(plain) {
        return wrong("a sub or an account that is too long, or has control characters");
    }
    // Who has another token is somebody else.
    let sub = said.sub.filter(|sub| !sub.is_empty()).unwrap_or_else(|| format!("foreign-{}", auth::hex(&key[..8])));
    let expiry = said.exp.unwrap_or(now + LIFE_SECONDS);
    if expiry <= now {
        return Verdict::Denied;
    }
    let account = said.account.filter(|account| !account.is_empty()).unwrap_or_else(|| "backend".to_owned());
    Verdict::Granted(Granted { room, role, sub, account, expiry })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn of(body: &str) -> Verdict {
        granted(body.as_bytes(), &KEY, 1_000)
    }

    #[test]
    fn a_bare_200_opens_the_least_and_nonsense_nothing() {
        let least = Granted {
            room: None,
            role: Role::View,
            sub: "foreign-0707070707070707".into(),
            account: "backend".into(),
            expiry: 1_000 + LIFE_SECONDS,
        };
        for body in ["", "OK", "true", "{}", "[]", r#"{"valid":true}"#, r#"{"role":"view"}"#, r#"{"room":"","sub":""}"#] {
            assert_eq!(of(body), Verdict::Granted(least.clone()), "{body}");
        }
        let all = of(r#"{"room":"demo","role":"publish","sub":"ann","account":"acme","exp":2000}"#);
        let wanted = Granted { room: Some("demo".into()), role: Role::Publish, sub: "ann".into(), account: "acme".into(), expiry: 2_000 };
        assert_eq!(all, Verdict::Granted(wanted));
        for wrong in [
            r#"{"role":"node"}"#,
            r#"{"role":"root","room":"demo"}"#,
            r#"{"role":"publish"}"#,
            r#"{"role":"admin"}"#,
            r#"{"room":"a b"}"#,
            r#"{"room":7}"#,
            r#"{"sub":"a\nb"}"#,
            r#"{"exp":"tomorrow"}"#,
        ] {
            assert!(matches!(of(wrong), Verdict::Unknown(_)), "{wrong}");
        }
        assert_eq!(of(r#"{"exp":1000}"#), Verdict::Denied);
    }

    #[test]
    fn the_table_of_tokens_is_bounded() {
        let mut tokens = HashMap::new();
        let known = |until| Entry::Known { verdict: Verdict::Denied, until };
        for number in 0..TOKENS_MAX as u64 {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            tokens.insert(key, known(Instant::now() + BAD_WAIT));
        }
        assert!(make_room(&mut tokens));
        assert_eq!(tokens.len(), TOKENS_MAX - TOKENS_MAX / 10);
        let (_sender, receiver) = watch::channel(None);
        tokens.values_mut().for_each(|entry| *entry = Entry::Asking(receiver.clone()));
        for number in 0..TOKENS_MAX as u64 {
            let mut key = [1; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            tokens.insert(key, Entry::Asking(receiver.clone()));
        }
        assert!(!make_room(&mut tokens), "what is being asked for does not go");
    }
}
