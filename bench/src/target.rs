//! The server under test as WHIP and WHEP see it: tokens, one POST per join, one DELETE per goodbye.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thiserror::Error;

const KEY_BYTES: usize = 32;
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 * 1_024;
/// Longer than any run.
const TOKEN_TTL: Duration = Duration::from_secs(48 * 3_600);

#[derive(Debug, Error)]
pub enum TargetError {
    #[error("{0} is no server's address: it has to begin with http://, as in http://127.0.0.1:7080")]
    Scheme(String),
    #[error("cannot read the signing key {path}: {reason}")]
    Key { path: PathBuf, reason: String },
    #[error("{base} cannot be reached: {reason}")]
    Unreachable { base: String, reason: String },
    #[error("{method} {path}: {status} {reason}")]
    Refused { method: &'static str, path: String, status: u16, reason: String },
    #[error("{path}: {reason}")]
    Answer { path: String, reason: String },
}

/// Who may do what.
#[derive(Clone, Debug)]
enum Rights {
    Nothing,
    /// One token for everybody.
    Token(String),
    /// Spillway's signing key: each remote gets a token of its own.
    Key(Vec<u8>),
}

pub struct Target {
    base: String,
    whip: String,
    whep: String,
    rights: Rights,
    http: ureq::Agent,
    tokens: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Publish,
    View,
    /// The whole node's API.
    Node,
}

/// What a Spillway engine says of its sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sends {
    sends: u64,
    packets: u64,
}

impl Sends {
    fn read(metrics: &str) -> Option<Sends> {
        let of = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        Some(Sends { sends: of("spillway_engine_sends_total")?, packets: of("spillway_engine_packets_sent_total")? })
    }

    pub fn per_packet_since(&self, before: &Sends) -> Option<f64> {
        // An engine that was killed begins anew.
        let packets = self.packets.checked_sub(before.packets).filter(|packets| *packets > 0)?;
        Some(self.sends.checked_sub(before.sends)? as f64 / packets as f64)
    }
}

/// A session the server has made.
#[derive(Clone, Debug)]
pub struct Joined {
    pub answer: String,
    location: Option<String>,
    token: Option<String>,
}

#[cfg(test)]
impl Joined {
    /// What no server needs to be told of.
    pub fn of_nobody() -> Joined {
        Joined { answer: String::new(), location: None, token: None }
    }
}

impl Target {
    /// `whip` and `whep` are paths in which `{room}` stands for the room's name.
    pub fn new(base: &str, whip: &str, whep: &str, token: Option<&str>, key: Option<&Path>) -> Result<Target, TargetError> {
        if !base.starts_with("http://") {
            return Err(TargetError::Scheme(base.to_owned()));
        }
        let rights = match (token, key) {
            (Some(token), _) => Rights::Token(token.to_owned()),
            (None, Some(path)) => Rights::Key(read_key(path)?),
            (None, None) => Rights::Nothing,
        };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(HTTP_TIMEOUT))
            .http_status_as_error(false)
            .max_idle_connections_per_host(64)
            .proxy(None);
        Ok(Target {
            base: base.trim_end_matches('/').to_owned(),
            whip: whip.to_owned(),
            whep: whep.to_owned(),
            rights,
            http: config.build().into(),
            tokens: AtomicU64::new(1),
        })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether anybody listens there at all.
    pub fn reach(&self) -> Result<(), TargetError> {
        match self.http.get(format!("{}/", self.base)).call() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.unreachable(&error)),
        }
    }

    pub fn join(&self, role: Role, room: &str, offer: &str) -> Result<Joined, TargetError> {
        let path = match role {
            Role::Publish => &self.whip,
            Role::View | Role::Node => &self.whep,
        };
        let path = path.replace("{room}", room);
        let token = self.token(role, room);
        let mut request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/sdp");
        if let Some(token) = &token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.send(offer).map_err(|error| self.unreachable(&error))?;
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let status = response.status().as_u16();
        let answer = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let answer = answer.map_err(|error| self.unreachable(&error))?;
        if !(200..300).contains(&status) {
            let reason = reason_of(&answer);
            return Err(TargetError::Refused { method: "POST", path, status, reason });
        }
        Ok(Joined { answer, location, token })
    }

    /// Tells the server; one that does not listen finds out by itself.
    pub fn leave(&self, joined: &Joined) {
        let Some(location) = &joined.location else { return };
        let url = if location.starts_with("http") { location.clone() } else { format!("{}{location}", self.base) };
        let mut request = self.http.delete(url);
        if let Some(token) = &joined.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let _ = request.call();
    }

    /// How many sends carried how many packets so far; of Spillway, with its signing key.
    pub fn sends(&self) -> Option<Sends> {
        let Rights::Key(key) = &self.rights else { return None };
        let token = mint(key, Role::Node, "", "bench");
        let request = self.http.get(format!("{}/metrics", self.base)).header("authorization", format!("Bearer {token}"));
        let text = request.call().ok()?.body_mut().read_to_string().ok()?;
        Sends::read(&text)
    }

    /// What is published in the room from now on is recorded; of Spillway, with its signing key.
    pub fn record(&self, room: &str) -> Result<(), TargetError> {
        let path = "/v1/rooms";
        let refused = |status: u16, reason: String| TargetError::Refused { method: "POST", path: path.to_owned(), status, reason };
        let Rights::Key(key) = &self.rights else {
            return Err(refused(401, "--record needs Spillway's signing key: --key-file DATA/keys/signing.key".to_owned()));
        };
        let token = mint(key, Role::Node, "", "bench");
        let request = self.http.post(format!("{}{path}", self.base)).header("authorization", format!("Bearer {token}"));
        let body = json!({ "id": room, "record": "auto" }).to_string();
        let mut response = request.header("content-type", "application/json").send(body).map_err(|error| self.unreachable(&error))?;
        match response.status().as_u16() {
            201 => Ok(()),
            status => {
                let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
                Err(refused(status, reason_of(&text)))
            }
        }
    }

    fn token(&self, role: Role, room: &str) -> Option<String> {
        match &self.rights {
            Rights::Nothing => None,
            Rights::Token(token) => Some(token.clone()),
            Rights::Key(key) => {
                let number = self.tokens.fetch_add(1, Ordering::Relaxed);
                // One publisher's name: a second run takes the room over from the first.
                let sub = if role == Role::Publish { "bench".to_owned() } else { format!("bench-{number}") };
                Some(mint(key, role, room, &sub))
            }
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> TargetError {
        TargetError::Unreachable { base: self.base.clone(), reason: error.to_string() }
    }
}

/// The words of a refusal: a problem's detail (RFC 9457), else the beginning of the text.
fn reason_of(body: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let text = |name: &str| problem.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let words = text("detail").or_else(|| text("title")).unwrap_or_else(|| body.to_owned());
    words.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn read_key(path: &Path) -> Result<Vec<u8>, TargetError> {
    let failed = |reason: String| TargetError::Key { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let wrong = || failed("it is not 64 hexadecimal digits, nor sealed by a node; Spillway's stands in DATA/keys/signing.key".into());
    let Some(sealed) = text.trim().strip_prefix("sealed:") else {
        return unhex(text.trim()).filter(|key| key.len() == KEY_BYTES).ok_or_else(wrong);
    };
    let master = match std::env::var("ENCRYPTION_KEY") {
        Ok(text) => text,
        Err(_) => {
            let file = path.ancestors().nth(2).unwrap_or(path).join("master.key");
            let why = |error| failed(format!("it is sealed, and its master key {} cannot be read: {error}", file.display()));
            std::fs::read_to_string(&file).map_err(why)?
        }
    };
    let master = unhex(master.trim()).ok_or_else(|| failed("the master key it is sealed under is not hexadecimal".into()))?;
    unhex(sealed).and_then(|sealed| open(&master, &sealed)).ok_or_else(|| failed("it is sealed under another master key".into()))
}

/// As control/README has it ("Secrets"): AES-256-GCM under HMAC-SHA256(master key, purpose); nonce, text, tag.
fn open(master: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, master), b"signing key");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).ok()?);
    let (nonce, text) = sealed.split_first_chunk::<12>()?;
    let mut text = text.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut text).ok()?;
    Some(opened.to_vec())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect::<Option<Vec<u8>>>()?;
    digits.chunks(2).map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect()
}

/// A token as Spillway's control verifies it: HS256, named by the key (RFC 7519).
fn mint(key: &[u8], role: Role, room: &str, sub: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id: String = digest::digest(&digest::SHA256, key).as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let role = match role {
        Role::Publish => "publish",
        Role::View => "view",
        Role::Node => "node",
    };
    let header = json!({"typ": "JWT", "alg": "HS256", "kid": id});
    let claims = json!({
        "iss": "spillway", "aud": "spillway", "sub": sub, "acct": id, "room": room, "role": role,
        "iat": now, "exp": now + TOKEN_TTL.as_secs(), "jti": format!("{now}-{sub}"),
    });
    let signed = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{signed}.{}", base64(tag.as_ref()))
}

/// URL-safe, without padding (RFC 4648 section 5).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(DIGITS[(word >> (18 - 6 * place) & 63) as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("\u{3ff}\u{3fe}", "z7_Pvg")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
    }

    #[test]
    fn sends_are_read_from_the_metrics_and_counted_between_two_looks() {
        let text = |sends, packets| format!("# HELP spillway_engine_sends_total x\nspillway_engine_sends_total {sends}\nspillway_engine_sends_failed_total 9\nspillway_engine_packets_sent_total {packets}\n");
        let (before, after) = (Sends::read(&text(10, 100)).unwrap(), Sends::read(&text(30, 200)).unwrap());
        assert_eq!(after.per_packet_since(&before), Some(0.2));
        assert_eq!((before.per_packet_since(&after), before.per_packet_since(&before)), (None, None));
        assert_eq!(Sends::read("<html>"), None);
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_and_one_line() {
        assert_eq!(reason_of(r#"{"title":"Not live","detail":"nothing is live"}"#), "nothing is live");
        assert_eq!(reason_of("<html>\nno"), "<html> no");
        assert_eq!(reason_of(&"x".repeat(5_000)).len(), 200);
    }

    #[test]
    fn other_schemes_are_refused_with_an_example() {
        let error = Target::new("ftp://x", "/whip", "/whep", None, None).err().unwrap().to_string();
        assert!(error.contains("http://127.0.0.1:7080"), "{error}");
    }
}
