//! Tokens: the node's signing key, minting and verifying. One algorithm (HS256), pinned.
//!
//! Owns `DATA/keys/signing.key`, sealed under the master key (`vault`). Knows no HTTP beyond the text of a header, and never logs a token.

use crate::ids;
use crate::store;
use crate::vault::{self, Origin, Sources, Vault, VaultError};
use aws_lc_rs::{digest, hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use spillway_proto::limits::ROOM_NAME_CHARS_MAX;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who a token is for: a token of another product signed with the same key must not open a room.
pub const AUDIENCE: &str = "spillway";
const ISSUER: &str = "spillway";
const KEY_BYTES: usize = 32;
/// Longer than any token of ours (about 400 characters) and shorter than a header may be.
const TOKEN_CHARS_MAX: usize = 4_096;

/// What stands before the hexadecimal digits of a sealed key; without it they are the key itself, as an operator may
/// have put it there, and as nodes before had it.
const SEALED: &str = "sealed:";
const PURPOSE: &str = "signing key";

/// The node's HMAC key, in `DATA/keys/signing.key` (0600).
#[derive(Clone)]
pub struct SigningKey {
    bytes: [u8; KEY_BYTES],
    /// The `kid` of its tokens, and the account of tokens that name none.
    id: String,
    /// The first part of its tokens, as we write it and sorted by name, as others do.
    headers: [String; 2],
    hmac: hmac::Key,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot {action} {path}: {source}; check that the data directory belongs to this user")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not a signing key (64 hexadecimal digits, or sealed by a node); restore it, or remove it to have a new one made (old tokens end)")]
    Malformed { path: PathBuf },
    #[error(
        "{path} is sealed under a master key, and there is none here: set ENCRYPTION_KEY as the node has it, or put \
         DATA/master.key back; or remove {path} to have a new one made (old tokens end)"
    )]
    NoMasterKey { path: PathBuf },
    #[error(
        "{path} is sealed under another master key than that of {origin}: give the right one; or remove {path} to have a new \
         one made (old tokens end)"
    )]
    OtherMasterKey { path: PathBuf, origin: Origin },
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the system gives no random bytes, so no key can be made")]
    NoRandomness,
}

impl SigningKey {
    /// Reads the key, or makes it. Two processes that start at the same time end up with the same key.
    pub fn load_or_create(data: &Path) -> Result<SigningKey, KeyError> {
        SigningKey::load_or_create_with(data, &Sources::of_environment())
    }

    /// `sources`: where the master key may stand. One that lies there in clear is sealed where it lies.
    pub fn load_or_create_with(data: &Path, sources: &Sources) -> Result<SigningKey, KeyError> {
        let path = data.join("keys/signing.key");
        match read_key(&path, data, sources) {
            Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Ok((key, true)) => return Ok(key),
            Ok((key, false)) => {
                write_key(&path, &key, &master_key(data, sources)?, true)?;
                return Ok(key);
            }
            Err(error) => return Err(error),
        }
        let directory = data.join("keys");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|source| KeyError::File { action: "make", path: directory, source })?;
        let mut bytes = [0u8; KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_| KeyError::NoRandomness)?;
        write_key(&path, &SigningKey::from_bytes(bytes), &master_key(data, sources)?, false)?;
        Ok(read_key(&path, data, sources)?.0)
    }

    #[cfg(test)]
    pub fn bytes(&self) -> [u8; KEY_BYTES] {
        self.bytes
    }

    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> SigningKey {
        let id = hex(digest::digest(&digest::SHA256, &bytes).as_ref().get(..8).unwrap_or_default());
        let header = Header { kid: Some(id.clone()), ..Header::new(Algorithm::HS256) };
        // Four strings become JSON; tokens of a key without it are verified all the same.
        let header = serde_json::to_vec(&header).map_or(String::new(), |json| URL_SAFE_NO_PAD.encode(json));
        let sorted = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":"{id}","typ":"JWT"}}"#));
        SigningKey { bytes, id, headers: [header, sorted], hmac: hmac::Key::new(hmac::HMAC_SHA256, &bytes) }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// The master key, made if nothing was ever sealed here.
fn master_key(data: &Path, sources: &Sources) -> Result<Vault, VaultError> {
    match Vault::existing(data, sources)? {
        Some((vault, _)) => Ok(vault),
        None if store::has_master_key(data) => Err(VaultError::Missing { path: data.join(vault::FILE) }),
        None => Vault::load(data, sources, None),
    }
}

/// Written aside: nobody ever reads half a key. `replaces`: takes the place of the one that is there; else the first
/// one wins.
fn write_key(path: &Path, key: &SigningKey, vault: &Vault, replaces: bool) -> Result<(), KeyError> {
    let at = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| KeyError::File { action, path, source }
    };
    let directory = path.parent().unwrap_or(path);
    let sealed = vault.seal(PURPOSE, b"", &key.bytes).ok_or(KeyError::NoRandomness)?;
    let aside = directory.join(format!(".signing.key.{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(at("write", &aside))?;
    writeln!(file, "{SEALED}{}", hex(&sealed)).and_then(|()| file.sync_all()).map_err(at("write", &aside))?;
    let placed = if replaces { fs::rename(&aside, path) } else { fs::hard_link(&aside, path) };
    let _ = fs::remove_file(&aside);
    match placed {
        Err(error) if replaces || error.kind() != io::ErrorKind::AlreadyExists => return Err(at("make", path)(error)),
        _ => {}
    }
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(at("make", path))
}

/// The key, and whether it is sealed where it lies.
fn read_key(path: &Path, data: &Path, sources: &Sources) -> Result<(SigningKey, bool), KeyError> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData => KeyError::Malformed { path: path.to_owned() },
        _ => KeyError::File { action: "read", path: path.to_owned(), source },
    })?;
    let metadata =
        fs::metadata(path).map_err(|source| KeyError::File { action: "read", path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let malformed = || KeyError::Malformed { path: path.to_owned() };
    let Some(digits) = text.trim().strip_prefix(SEALED) else {
        let bytes = unhex::<KEY_BYTES>(text.trim()).ok_or_else(malformed)?;
        return Ok((SigningKey::from_bytes(bytes), false));
    };
    let sealed = unhex::<{ vault::sealed_bytes(KEY_BYTES) }>(digits).ok_or_else(malformed)?;
    let Some((vault, origin)) = Vault::existing(data, sources)? else {
        return Err(KeyError::NoMasterKey { path: path.to_owned() });
    };
    let opened = vault.open(PURPOSE, b"", &sealed).and_then(|bytes| bytes.try_into().ok());
    let bytes = opened.ok_or_else(|| KeyError::OtherMasterKey { path: path.to_owned(), origin })?;
    Ok((SigningKey::from_bytes(bytes), true))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// Exactly `N` bytes of hexadecimal digits.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [char::from(*pair.first()?).to_digit(16)?, char::from(*pair.last()?).to_digit(16)?];
        *byte = (high << 4 | low) as u8;
    }
    Some(out)
}

/// What a token's bearer may do in its room.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Publish,
    View,
    /// Publish and view, and everything else in its room.
    Admin,
    /// The API of the whole node, and no room's media.
    Node,
}

impl Role {
    pub fn may_publish(self) -> bool {
        matches!(self, Role::Publish | Role::Admin)
    }
    pub fn may_view(self) -> bool {
        matches!(self, Role::View | Role::Admin)
    }
    pub fn name(self) -> &'static str {
        match self {
            Role::Publish => "publish",
            Role::View => "view",
            Role::Admin => "admin",
            Role::Node => "node",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "publish" => Ok(Role::Publish),
            "view" => Ok(Role::View),
            "admin" => Ok(Role::Admin),
            "node" => Ok(Role::Node),
            other => Err(format!("\"{other}\" is no role: publish, view, admin or node")),
        }
    }
}

/// What a token shall say.
#[derive(Clone, Debug)]
pub struct Grant {
    pub room: String,
    pub role: Role,
    /// Who: two tokens with one `sub` are one publisher, and may take over from each other.
    pub sub: String,
    /// Who pays; `None` is the key's id.
    pub acct: Option<String>,
    pub ttl: Duration,
}

/// What a verified token says.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub iss: String,
    pub sub: String,
    #[serde(default)]
    pub acct: String,
    pub aud: String,
    #[serde(default)]
    pub room: String,
    pub role: Role,
    #[serde(default)]
    pub iat: u64,
    pub exp: u64,
    #[serde(default)]
    pub jti: String,
}

/// Why a token opens nothing. The first group is a 401, `WrongRoom` and `WrongRole` are a 403.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AuthError {
    #[error("the key is unknown: it was revoked or rotated, or is damaged")]
    Key,
    #[error("no token: send `Authorization: Bearer TOKEN` (make one with: spillway token --room ROOM --role ROLE)")]
    Missing,
    #[error("the token is no JWT of Spillway: {0}")]
    Malformed(String),
    #[error("the token's algorithm is not HS256")]
    Algorithm,
    #[error("the token was signed with another key (of another node, or of another data directory)")]
    Signature,
    #[error("the token expired {0} s ago; make a new one with: spillway token")]
    Expired(u64),
    #[error("the token is for another audience, not `{AUDIENCE}`")]
    Audience,
    #[error("the token is for room `{token}`, not `{asked}`")]
    WrongRoom { token: String, asked: String },
    #[error("the backend says that this token opens nothing")]
    Denied,
    #[error("the token's role `{0}` does not allow this; it needs {1}")]
    WrongRole(&'static str, &'static str),
}

impl AuthError {
    /// Not signed by us: somebody else may know the token.
    pub fn is_foreign(&self) -> bool {
        matches!(self, AuthError::Malformed(_) | AuthError::Algorithm | AuthError::Signature)
    }
}

/// Mints a token that is valid from now on.
pub fn mint(key: &SigningKey, grant: Grant) -> String {
    mint_at(key, grant, unix_now())
}

/// Mints a token as of `now` (Unix seconds).
pub fn mint_at(key: &SigningKey, grant: Grant, now: u64) -> String {
    let mut jti = [0u8; 16];
    // A token without a unique id is still a good token: nothing looks the id up yet.
    let _ = rand::fill(&mut jti);
    let claims = Claims {
        iss: ISSUER.to_owned(),
        sub: grant.sub,
        acct: grant.acct.unwrap_or_else(|| key.id.clone()),
        aud: AUDIENCE.to_owned(),
        room: grant.room,
        role: grant.role,
        iat: now,
        exp: now.saturating_add(grant.ttl.as_secs()),
        jti: hex(&jti),
    };
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.id.clone());
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&key.bytes))
        .expect("strings and numbers become JSON, and HMAC takes any key")
}

/// What the token says, if it is ours and still valid at `now` (Unix seconds).
pub fn verify(key: &SigningKey, token: &str, now: u64) -> Result<Claims, AuthError> {
    if token.len() > TOKEN_CHARS_MAX {
        return Err(AuthError::Malformed("too long".to_owned()));
    }
    let claims = match minted(key, token) {
        Some(claims) => claims,
        None => decoded(key, token)?,
    };
    if claims.exp <= now {
        return Err(AuthError::Expired(now - claims.exp));
    }
    // The node's role names no room, every other role names one.
    if (claims.role == Role::Node) != claims.room.is_empty() || !claims.room.is_empty() && !is_room_name(&claims.room) {
        return Err(AuthError::Malformed("its room is no room name ([A-Za-z0-9_-], 1 to 64 characters)".to_owned()));
    }
    Ok(Claims { acct: if claims.acct.is_empty() { key.id.clone() } else { claims.acct }, ..claims })
}

/// What tokens begin with that libraries make with the key: `{"alg":"HS256","typ":"JWT"}`, and the other way round.
const PLAIN_HEADERS: [&str; 2] = ["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9"];

/// A token with a header that is known: nothing of it is to be parsed but the claims, and these once. What is not right about
/// it `decoded` finds, and says.
fn minted(key: &SigningKey, token: &str) -> Option<Claims> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    if key.headers.iter().all(|known| header != known) && !PLAIN_HEADERS.contains(&header) {
        return None;
    }
    hmac::verify(&key.hmac, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    (claims.aud == AUDIENCE).then_some(claims)
}

/// Any token that is signed with the key.
fn decoded(key: &SigningKey, token: &str) -> Result<Claims, AuthError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "aud", "sub"]);
    // Compared with the caller's clock.
    validation.validate_exp = false;
    jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&key.bytes), &validation)
        .map(|token| token.claims)
        .map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => AuthError::Signature,
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => AuthError::Algorithm,
            ErrorKind::InvalidAudience => AuthError::Audience,
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => AuthError::Audience,
            // `alg: none` and unknown names do not even become a header.
            ErrorKind::Json(_) if !names_hs256(token) => AuthError::Algorithm,
            ErrorKind::Json(_) => AuthError::Malformed("its claims are not those of Spillway".to_owned()),
            ErrorKind::MissingRequiredClaim(claim) => AuthError::Malformed(format!("claim `{claim}` is missing")),
            _ => AuthError::Malformed("not three parts of base64url".to_owned()),
        })
}

fn names_hs256(token: &str) -> bool {
    jsonwebtoken::decode_header(token).is_ok_and(|header| header.alg == Algorithm::HS256)
}

/// A key of the API or of a stream, as its holder has it: `spk_`, its id, its secret.
///
/// ```text
///    spk_01k9qz4n6v8w3x5y7a9b1c2d3e_<40 characters, 200 bits>
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText {
    /// As the API names it: `key_...`.
    pub id: String,
    pub hash: [u8; 32],
}

const KEY_PREFIX: &str = "spk_";
const KEY_SECRET_CHARS: usize = 40;

impl KeyText {
    /// None: this is no key, perhaps a token.
    pub fn parse(text: &str) -> Option<KeyText> {
        let (id, secret) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        ids::decode(id)?;
        (secret.len() == KEY_SECRET_CHARS).then(|| KeyText { id: format!("key_{id}"), hash: hash_of(text) })
    }

    /// A new secret for the key of this id; None: the system gives no random bytes.
    pub fn fresh(id: &str) -> Option<(String, [u8; 32])> {
        let mut random = [0; 32];
        rand::fill(&mut random).ok()?;
        let (first, second) = random.split_at(16);
        let text = |half: &[u8]| half.first_chunk::<16>().map(|bytes| ids::encode(*bytes));
        // Of each half the lower digits: the first of 26 is never above 7.
        let secret: String = [text(first)?, text(second)?].iter().map(|half| half.get(6..).unwrap_or_default()).collect();
        let text = format!("{KEY_PREFIX}{}_{secret}", id.strip_prefix("key_")?);
        let hash = hash_of(&text);
        Some((text, hash))
    }
}

/// SHA-256: a key has 200 random bits, there is nothing to guess that a slow hash would hinder.
fn hash_of(text: &str) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().first_chunk::<32>().copied().unwrap_or_default()
}

/// Compares without telling by the time where they differ.
pub fn is_same(left: &[u8; 32], right: &[u8; 32]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(left, right).is_ok()
}

/// The token of a request: `Authorization: Bearer TOKEN`, the bare header value (some players send it
/// so), or `?token=` (RFC 9725 section 4.7 allows it in the URL).
pub fn token_of<'a>(authorization: Option<&'a str>, query: Option<&'a str>) -> Option<&'a str> {
    let from_header = authorization.map(str::trim).map(|value| match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        // The scheme alone, of a client whose token is empty.
        None if value.eq_ignore_ascii_case("bearer") => "",
        _ => value,
    });
    let from_query = || query?.split('&').find_map(|pair| pair.strip_prefix("token="));
    from_header.filter(|token| !token.is_empty()).or_else(from_query).filter(|token| !token.is_empty())
}

/// A room's name stands in URLs, logs and file names.
pub fn is_room_name(name: &str) -> bool {
    (1..=ROOM_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Unix seconds.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn key() -> SigningKey {
        SigningKey::from_bytes([7; KEY_BYTES])
    }

    fn claims() -> Claims {
        Claims {
            iss: ISSUER.into(),
            sub: "ann".into(),
            acct: "a1".into(),
            aud: AUDIENCE.into(),
            room: "demo".into(),
            role: Role::Publish,
            iat: NOW,
            exp: NOW + 60,
            jti: "1".into(),
        }
    }

    fn signed(algorithm: Algorithm, claims: &impl Serialize) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(&key().bytes)).unwrap()
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("spillway-auth-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn both_ways_of_reading_a_token_say_the_same() {
        let key = key();
        let grant = Grant { room: "demo".into(), role: Role::View, sub: "ann".into(), acct: None, ttl: Duration::from_secs(60) };
        let token = mint_at(&key, grant, NOW);
        assert_eq!(minted(&key, &token), Some(decoded(&key, &token).unwrap()));
        let of = |claims: &Claims| {
            let header = Header { kid: Some(key.id.clone()), ..Header::new(Algorithm::HS256) };
            jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(&key.bytes)).unwrap()
        };
        assert_eq!(minted(&key, &of(&claims())), Some(claims()));
        let other = Claims { aud: "other".into(), ..claims() };
        assert_eq!((minted(&key, &of(&other)), decoded(&key, &of(&other))), (None, Err(AuthError::Audience)));
        assert_eq!(minted(&key, &signed(Algorithm::HS256, &claims())), Some(claims()), "typ first");
        let sorted = format!(r#"{{"alg":"HS256","kid":"{}","typ":"JWT"}}"#, key.id);
        for (header, is_known) in [(sorted.as_str(), true), (r#"{"alg":"HS256","typ":"JWT"}"#, true), (r#"{"alg":"HS256"}"#, false), (r#"{"alg":"none","typ":"JWT"}"#, false)] {
            let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims()).unwrap());
            let text = format!("{}.{body}", URL_SAFE_NO_PAD.encode(header));
            let text = format!("{text}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key.hmac, text.as_bytes())));
            assert_eq!((minted(&key, &text).is_some(), decoded(&key, &text).is_ok()), (is_known, !header.contains("none")), "{header}");
        }
        assert_eq!(minted(&SigningKey::from_bytes([8; KEY_BYTES]), &token), None);
        // Any character changed, any left out: nothing that the one takes the other refuses.
        for at in 0..token.len() {
            let flipped = |byte: u8| if byte == b'A' { 'B' } else { 'A' };
            let changed = format!("{}{}{}", &token[..at], flipped(token.as_bytes()[at]), &token[at + 1..]);
            let shorter = format!("{}{}", &token[..at], &token[at + 1..]);
            for bad in [changed, shorter, token[..at].to_owned()] {
                assert!(minted(&key, &bad).is_none() && decoded(&key, &bad).is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn the_key_is_sealed_where_it_lies_and_one_in_clear_becomes_so() {
        let data = scratch("sealed");
        let path = data.join("keys/signing.key");
        let none = Sources::default();
        fs::create_dir_all(&data).unwrap();
        let key = SigningKey::load_or_create_with(&data, &none).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(SEALED) && !text.contains(&hex(&key.bytes)), "{text}");
        assert_eq!(SigningKey::load_or_create_with(&data, &none).unwrap().bytes, key.bytes);
        // An operator's own, or that of a node of before.
        fs::write(&path, format!("{}\n", hex(&[5; 32]))).unwrap();
        assert_eq!(SigningKey::load_or_create_with(&data, &none).unwrap().bytes, [5; 32]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(SEALED) && !text.contains(&hex(&[5; 32])), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load_or_create_with(&data, &none).unwrap().bytes, [5; 32]);
        // Another master key, none, and bytes that were touched.
        let other = Sources { variable: Some(hex(&[1; 32])), credentials: None };
        let refused = SigningKey::load_or_create_with(&data, &other).unwrap_err();
        assert!(matches!(refused, KeyError::OtherMasterKey { .. }) && refused.to_string().contains("ENCRYPTION_KEY"), "{refused}");
        let master = data.join(vault::FILE);
        let kept = fs::read(&master).unwrap();
        fs::remove_file(&master).unwrap();
        let refused = SigningKey::load_or_create_with(&data, &none).unwrap_err();
        assert!(matches!(refused, KeyError::NoMasterKey { .. }), "{refused}");
        assert!(!master.exists(), "no other master key over what is sealed");
        fs::write(&master, kept).unwrap();
        fs::set_permissions(&master, fs::Permissions::from_mode(0o600)).unwrap();
        let (cut, last) = text.trim().split_at(text.trim().len() - 2);
        let touched = u8::from_str_radix(last, 16).unwrap() ^ 1;
        let touched = format!("{cut}{touched:02x}");
        for (wrong, is_malformed) in [(cut.to_owned(), true), (touched, false), (format!("{cut}zz"), true)] {
            fs::write(&path, &wrong).unwrap();
            let refused = SigningKey::load_or_create_with(&data, &none).unwrap_err();
            assert_eq!(matches!(refused, KeyError::Malformed { .. }), is_malformed, "{wrong}: {refused}");
        }
        let _ = fs::remove_dir_all(&data);
    }

    #[tokio::test]
    async fn no_master_key_is_made_beside_a_database_that_has_one() {
        let data = scratch("has-one");
        fs::create_dir_all(&data).unwrap();
        drop(crate::store::Store::open_with(&data, &Sources::default()).unwrap());
        fs::remove_file(data.join(vault::FILE)).unwrap();
        let refused = SigningKey::load_or_create_with(&data, &Sources::default()).unwrap_err();
        assert!(matches!(refused, KeyError::Vault(VaultError::Missing { .. })), "{refused}");
        assert!(!data.join(vault::FILE).exists() && !data.join("keys/signing.key").exists());
        let _ = fs::remove_dir_all(&data);
    }

    #[test]
    fn a_minted_token_says_what_was_granted() {
        let grant =
            Grant { room: "demo".into(), role: Role::View, sub: "bob".into(), acct: None, ttl: Duration::from_secs(5) };
        let token = mint_at(&key(), grant, NOW);
        let claims = verify(&key(), &token, NOW + 4).unwrap();
        assert_eq!((claims.room.as_str(), claims.sub.as_str(), claims.role), ("demo", "bob", Role::View));
        assert_eq!((claims.acct.as_str(), claims.iat, claims.exp), (key().id.as_str(), NOW, NOW + 5));
        assert_eq!(claims.jti.len(), 32);
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!((header.alg, header.kid.as_deref()), (Algorithm::HS256, Some(key().id.as_str())));
        assert_eq!(verify(&key(), &token, NOW + 5), Err(AuthError::Expired(0)));
    }

    #[test]
    fn other_algorithms_keys_audiences_and_times_are_refused() {
        let good = claims();
        assert_eq!(verify(&key(), &signed(Algorithm::HS256, &good), NOW), Ok(good.clone()));
        assert_eq!(verify(&key(), &signed(Algorithm::HS384, &good), NOW), Err(AuthError::Algorithm));
        assert_eq!(verify(&key(), &signed(Algorithm::HS512, &good), NOW), Err(AuthError::Algorithm));
        let token = signed(Algorithm::HS256, &good);
        let other = SigningKey::from_bytes([8; KEY_BYTES]);
        assert_eq!(verify(&other, &token, NOW), Err(AuthError::Signature));
        assert_eq!(verify(&key(), &token, NOW + 60), Err(AuthError::Expired(0)));
        assert_eq!(verify(&key(), &token, NOW + 100), Err(AuthError::Expired(40)));
        let wrong = Claims { aud: "other".into(), ..good.clone() };
        assert_eq!(verify(&key(), &signed(Algorithm::HS256, &wrong), NOW), Err(AuthError::Audience));
        let wrong = Claims { room: "a/b".into(), ..good };
        assert!(matches!(verify(&key(), &signed(Algorithm::HS256, &wrong), NOW), Err(AuthError::Malformed(_))));
        assert!(matches!(verify(&key(), "", NOW), Err(AuthError::Malformed(_))));
        assert!(matches!(verify(&key(), &"a".repeat(5_000), NOW), Err(AuthError::Malformed(_))));
    }

    #[test]
    fn alg_none_and_a_changed_payload_are_refused() {
        // {"alg":"none","typ":"JWT"} in base64url.
        let payload = signed(Algorithm::HS256, &claims());
        let payload = payload.split('.').nth(1).unwrap().to_owned();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
        assert_eq!(verify(&key(), &none, NOW), Err(AuthError::Algorithm));
        let admin = signed(Algorithm::HS256, &Claims { role: Role::Admin, ..claims() });
        let view = signed(Algorithm::HS256, &Claims { role: Role::View, ..claims() });
        let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
        let forged = format!("{}.{}.{}", parts(&view)[0], parts(&admin)[1], parts(&view)[2]);
        assert_eq!(verify(&key(), &forged, NOW), Err(AuthError::Signature));
    }

    #[test]
    fn claims_that_are_missing_are_named_or_refused() {
        #[derive(Serialize)]
        struct NoAudience {
            sub: &'static str,
            room: &'static str,
            role: &'static str,
            exp: u64,
        }
        let token = signed(Algorithm::HS256, &NoAudience { sub: "a", room: "demo", role: "view", exp: NOW + 9 });
        assert!(matches!(verify(&key(), &token, NOW), Err(AuthError::Malformed(_) | AuthError::Audience)));
    }

    #[test]
    fn a_token_of_the_node_names_no_room_and_all_others_name_one() {
        let node = Claims { role: Role::Node, room: String::new(), ..claims() };
        assert_eq!(verify(&key(), &signed(Algorithm::HS256, &node), NOW), Ok(node.clone()));
        assert!(!node.role.may_publish() && !node.role.may_view());
        for wrong in [Claims { room: "demo".into(), ..node }, Claims { room: String::new(), ..claims() }] {
            assert!(matches!(verify(&key(), &signed(Algorithm::HS256, &wrong), NOW), Err(AuthError::Malformed(_))));
        }
    }

    #[test]
    fn keys_are_told_from_tokens_and_from_damaged_keys() {
        let id = ids::fresh("key", 1_800_000_000_000).unwrap();
        let (text, hash) = KeyText::fresh(&id).unwrap();
        let (other, _) = KeyText::fresh(&id).unwrap();
        assert_ne!(text, other);
        let parsed = KeyText::parse(&text).unwrap();
        assert_eq!(parsed.id, id);
        assert!(is_same(&parsed.hash, &hash) && !is_same(&KeyText::parse(&other).unwrap().hash, &hash));
        for wrong in ["", "spk_", &text[..text.len() - 1], &text.replace("spk_", "spx_"), "a.b.c"] {
            assert!(KeyText::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn tokens_are_found_in_three_places() {
        assert_eq!(token_of(Some("Bearer abc"), None), Some("abc"));
        assert_eq!(token_of(Some("bearer  abc "), None), Some("abc"));
        assert_eq!(token_of(Some("abc"), None), Some("abc"));
        assert_eq!(token_of(None, Some("a=b&token=abc")), Some("abc"));
        assert_eq!(token_of(Some("Bearer abc"), Some("token=other")), Some("abc"));
        assert_eq!(token_of(Some(""), Some("token=abc")), Some("abc"));
        assert_eq!(token_of(Some("Bearer "), None), None);
        assert_eq!(token_of(None, Some("token=")), None);
        assert_eq!(token_of(None, None), None);
    }

    #[test]
    fn the_key_is_made_once_kept_private_and_checked() {
        let data = scratch("key");
        let made = SigningKey::load_or_create(&data).unwrap();
        let path = data.join("keys/signing.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(data.join("keys")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(SigningKey::load_or_create(&data).unwrap().bytes, made.bytes);
        assert_eq!(fs::read_dir(data.join("keys")).unwrap().count(), 1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::load_or_create(&data), Err(KeyError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(SigningKey::load_or_create(&data), Err(KeyError::Malformed { .. })));
        let _ = fs::remove_dir_all(&data);
    }

    #[test]
    fn room_names_are_plain() {
        assert!(is_room_name("demo") && is_room_name("a_B-9") && is_room_name(&"x".repeat(64)));
        assert!(!is_room_name("") && !is_room_name(&"x".repeat(65)) && !is_room_name("a b") && !is_room_name("ä"));
    }
}
