//! The master key, and what is sealed under it: secrets that must be read again and never stand on the disk in clear
//! (the signing key, webhooks' secrets, kept answers). AES-256-GCM, a key of its own for each purpose.
//!
//! Owns `DATA/master.key`. Never makes another key while something is sealed: what was sealed could not be read again.

use crate::auth::{hex, unhex};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// In the environment, and the credential's and the file's name.
pub const VARIABLE: &str = "ENCRYPTION_KEY";
pub const FILE: &str = "master.key";
/// Length of what `seal` makes of so many bytes: with the nonce and the tag.
pub const fn sealed_bytes(plain: usize) -> usize {
    NONCE_BYTES + plain + TAG_BYTES
}

/// Sealed at first use: who can open it has the right key.
const CHECK: &[u8] = b"spillway";

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot {action} {path}: {source}; check that the data directory belongs to this user")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is no master key: 32 bytes, as 64 hexadecimal digits or as base64 (make one with: openssl rand -hex 32)")]
    Malformed(Origin),
    #[error("{path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the database holds secrets that are sealed under a master key, and there is none: set {VARIABLE}, or put {path} \
         back from your backup; to start without those secrets (webhooks end), move the database away"
    )]
    Missing { path: PathBuf },
    #[error(
        "the database's secrets are sealed under another master key than that of {0}: give it the right one, or put the \
         database back that belongs to it"
    )]
    Wrong(Origin),
    #[error("the system gives no random bytes, so no key can be made")]
    NoRandomness,
}

/// Where a key came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Environment,
    File(PathBuf),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => write!(f, "{VARIABLE} in the environment"),
            Origin::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where a key may stand besides the data directory.
#[derive(Clone, Default)]
pub struct Sources {
    /// `ENCRYPTION_KEY`.
    pub variable: Option<String>,
    /// systemd's directory of credentials.
    pub credentials: Option<PathBuf>,
}

impl Sources {
    pub fn of_environment() -> Sources {
        Sources {
            variable: std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty()),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// The master key. Gives out nothing but what it sealed or opened.
#[derive(Clone)]
pub struct Vault {
    key: [u8; KEY_BYTES],
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// `check` is what the last `check()` gave, None where nothing was ever sealed.
    pub fn load(data: &Path, sources: &Sources, check: Option<&[u8]>) -> Result<Vault, VaultError> {
        let path = data.join(FILE);
        let (key, origin) = match find(&path, sources)? {
            Some(found) => found,
            None if check.is_some() => return Err(VaultError::Missing { path }),
            None => {
                create(&path)?;
                read(&path, true)?.ok_or(VaultError::Missing { path })?
            }
        };
        let vault = Vault { key };
        match check.map(|check| vault.open("check", b"", check)) {
            None => Ok(vault),
            Some(Some(text)) if text == CHECK => Ok(vault),
            Some(_) => Err(VaultError::Wrong(origin)),
        }
    }

    /// The key that is there, and where it came from; none is made.
    pub fn existing(data: &Path, sources: &Sources) -> Result<Option<(Vault, Origin)>, VaultError> {
        Ok(find(&data.join(FILE), sources)?.map(|(key, origin)| (Vault { key }, origin)))
    }

    /// What tells the right key from another; None: the system gives no random bytes.
    pub fn check(&self) -> Option<Vec<u8>> {
        self.seal("check", b"", CHECK)
    }

    fn key_of(&self, purpose: &str) -> Option<LessSafeKey> {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), purpose.as_bytes());
        Some(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, tag.as_ref()).ok()?))
    }

    /// Opens with the same purpose and context alone: nobody moves a secret to another row. None: no random bytes.
    pub fn seal(&self, purpose: &str, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key_of(purpose)?.seal_in_place_append_tag(unique, Aad::from(context), &mut sealed).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    pub fn open(&self, purpose: &str, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key_of(purpose)?.open_in_place(nonce, Aad::from(context), &mut text).ok()?;
        Some(opened.to_vec())
    }
}

/// By the order in which the places are looked at.
fn find(path: &Path, sources: &Sources) -> Result<Option<([u8; KEY_BYTES], Origin)>, VaultError> {
    if let Some(text) = &sources.variable {
        let key = parse(text.as_bytes()).ok_or(VaultError::Malformed(Origin::Environment))?;
        return Ok(Some((key, Origin::Environment)));
    }
    match sources.credentials.as_ref().map(|directory| directory.join(FILE)).filter(|path| path.exists()) {
        // systemd gives it to this service alone, whatever its mode says.
        Some(credential) => read(&credential, false),
        None => read(path, true),
    }
}

/// 64 hexadecimal digits, base64, or the bytes themselves (as systemd-creds may have them).
fn parse(bytes: &[u8]) -> Option<[u8; KEY_BYTES]> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(bytes) {
        return Some(raw);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    unhex::<KEY_BYTES>(text).or_else(|| STANDARD.decode(text).ok()?.try_into().ok())
}

/// None: there is no such file.
fn read(path: &Path, is_ours: bool) -> Result<Option<([u8; KEY_BYTES], Origin)>, VaultError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(VaultError::File { action: "read", path: path.to_owned(), source }),
    };
    let metadata = fs::metadata(path).map_err(|source| VaultError::File { action: "read", path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if is_ours && mode & 0o077 != 0 {
        return Err(VaultError::Exposed { path: path.to_owned(), mode });
    }
    let origin = Origin::File(path.to_owned());
    match parse(&bytes) {
        Some(key) => Ok(Some((key, origin))),
        None => Err(VaultError::Malformed(origin)),
    }
}

/// Written aside and linked into place: nobody ever reads half a key, and of two the first one wins.
fn create(path: &Path) -> Result<(), VaultError> {
    let failed = |action: &'static str| {
        let path = path.to_owned();
        move |source| VaultError::File { action, path, source }
    };
    let mut bytes = [0u8; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| VaultError::NoRandomness)?;
    let aside = path.with_extension(format!("key.{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(failed("write"))?;
    writeln!(file, "{}", hex(&bytes)).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    let linked = fs::hard_link(&aside, path);
    let _ = fs::remove_file(&aside);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(error)),
        _ => {}
    }
    // The name, too, is on the disk before anything is sealed.
    if let Some(directory) = path.parent() {
        fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("make"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path = std::env::temp_dir().join(format!("spillway-vault-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn variable(text: &str) -> Sources {
        Sources { variable: Some(text.to_owned()), credentials: None }
    }

    #[test]
    fn what_was_sealed_opens_for_the_same_purpose_and_place_alone() {
        let vault = Vault { key: [7; 32] };
        let sealed = vault.seal("webhook", b"wh_1", b"whsec_x").unwrap();
        assert_eq!(vault.open("webhook", b"wh_1", &sealed).as_deref(), Some(b"whsec_x".as_slice()));
        assert_ne!(vault.seal("webhook", b"wh_1", b"whsec_x").unwrap(), sealed, "never the same nonce");
        assert_eq!(vault.open("webhook", b"wh_2", &sealed), None);
        assert_eq!(vault.open("idempotency", b"wh_1", &sealed), None);
        assert_eq!(Vault { key: [8; 32] }.open("webhook", b"wh_1", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(vault.open("webhook", b"wh_1", &sealed[..length]), None);
        }
    }

    #[test]
    fn a_key_comes_from_the_environment_a_credential_or_the_file() {
        let data = Scratch::new("sources");
        let raw = [9; 32];
        for text in [hex(&raw), format!(" {}\n", STANDARD.encode(raw))] {
            assert_eq!(Vault::load(&data.0, &variable(&text), None).unwrap().key, raw);
        }
        assert!(!data.0.join(FILE).exists(), "a key that was given is not written down");
        let credentials = data.0.join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join(FILE), [5; 32]).unwrap();
        let sources = Sources { variable: None, credentials: Some(credentials) };
        assert_eq!(Vault::load(&data.0, &sources, None).unwrap().key, [5; 32]);
        let made = Vault::load(&data.0, &Sources::default(), None).unwrap().key;
        assert_eq!(Vault::load(&data.0, &Sources::default(), None).unwrap().key, made);
        assert_eq!(fs::metadata(data.0.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(data.0.join(FILE), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::load(&data.0, &Sources::default(), None), Err(VaultError::Exposed { .. })));
        for wrong in ["", "00", "not a key", &"zz".repeat(32)] {
            assert!(matches!(Vault::load(&data.0, &variable(wrong), None), Err(VaultError::Malformed(_))), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_or_missing_key_over_sealed_data_is_said_and_never_replaced() {
        let data = Scratch::new("wrong");
        let check = Vault::load(&data.0, &Sources::default(), None).unwrap().check().unwrap();
        Vault::load(&data.0, &Sources::default(), Some(&check)).unwrap();
        let wrong = Vault::load(&data.0, &variable(&hex(&[1; 32])), Some(&check)).unwrap_err();
        assert!(matches!(wrong, VaultError::Wrong(Origin::Environment)) && wrong.to_string().contains(VARIABLE), "{wrong}");
        fs::remove_file(data.0.join(FILE)).unwrap();
        let missing = Vault::load(&data.0, &Sources::default(), Some(&check)).unwrap_err();
        assert!(matches!(missing, VaultError::Missing { .. }) && missing.to_string().contains(FILE), "{missing}");
        assert!(!data.0.join(FILE).exists(), "no new key over sealed data");
    }
}
