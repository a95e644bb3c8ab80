//! ICE servers for clients, as `Link` headers (RFC 9725 section 4.6): with a static credential, or one made for each
//! client from the secret shared with the TURN server.

use crate::config::{TurnSecret, TurnSettings};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use std::fs;

/// How long a credential made for a client opens the TURN server.
const VALID_SECONDS: u64 = 24 * 3_600;

#[derive(Clone, Default)]
pub struct IceServers {
    urls: Vec<String>,
    username: String,
    secret: Secret,
}

#[derive(Clone, Default)]
enum Secret {
    #[default]
    None,
    Static(String),
    Shared(hmac::Key),
}

/// What a client is told of one server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IceServer {
    pub url: String,
    pub credential: Option<(String, String)>,
}

impl fmt::Debug for IceServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IceServers({:?})", self.urls)
    }
}

impl IceServers {
    /// Reads what the settings name.
    pub fn load(settings: &TurnSettings) -> Result<IceServers, String> {
        let text = |path: &std::path::Path| match fs::read_to_string(path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err(format!("turn: {} cannot be read: {error}", path.display())),
        };
        let secret = match &settings.secret {
            None => Secret::None,
            Some(TurnSecret::Variable(name)) => std::env::var(name).map_or(Secret::None, Secret::Static),
            Some(TurnSecret::CredentialFile(path)) => Secret::Static(text(path)?),
            // What coturn's `use-auth-secret` computes; SHA-1 is the protocol's, as a MAC it is not broken.
            Some(TurnSecret::SharedFile(path)) => {
                Secret::Shared(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, text(path)?.as_bytes()))
            }
        };
        Ok(IceServers { urls: settings.urls.clone(), username: settings.username.clone(), secret })
    }

    /// For the client of this `sub`, at Unix seconds `now`.
    pub fn for_client(&self, sub: &str, now: u64) -> Vec<IceServer> {
        let credential = match &self.secret {
            Secret::None => None,
            Secret::Static(secret) => Some((self.username.clone(), secret.clone())),
            Secret::Shared(key) => {
                // The name ends up in a header and in the TURN server's log.
                let sub: String = sub.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).take(64).collect();
                let username = format!("{}:{sub}", now + VALID_SECONDS);
                let credential = STANDARD.encode(hmac::sign(key, username.as_bytes()));
                Some((username, credential))
            }
        };
        let one = |url: &String| IceServer {
            url: url.clone(),
            credential: credential.clone().filter(|_| url.starts_with("turn")),
        };
        self.urls.iter().map(one).collect()
    }

    /// The same as values of `Link`.
    pub fn links(&self, sub: &str, now: u64) -> Vec<String> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let link = |server: IceServer| match server.credential {
            Some((username, credential)) => format!(
                "<{}>; rel=\"ice-server\"; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
                server.url,
                quoted(&username),
                quoted(&credential)
            ),
            None => format!("<{}>; rel=\"ice-server\"", server.url),
        };
        self.for_client(sub, now).into_iter().map(link).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::Scratch;

    #[test]
    fn only_turn_gets_a_credential_and_a_shared_secret_makes_one_for_each() {
        let scratch = Scratch::new();
        let file = scratch.0.join("secret");
        fs::write(&file, "north\n").unwrap();
        let settings = TurnSettings {
            urls: vec!["stun:s.example.org".into(), "turn:t.example.org?transport=udp".into()],
            username: "u".into(),
            secret: Some(TurnSecret::CredentialFile(file.clone())),
        };
        let servers = IceServers::load(&settings).unwrap();
        assert_eq!(servers.links("ann", 1), [
            "<stun:s.example.org>; rel=\"ice-server\"",
            "<turn:t.example.org?transport=udp>; rel=\"ice-server\"; username=\"u\"; credential=\"north\"; credential-type=\"password\"",
        ]);
        assert!(!format!("{servers:?}").contains("north"));
        let shared = TurnSettings { secret: Some(TurnSecret::SharedFile(file)), ..settings };
        let made = IceServers::load(&shared).unwrap().for_client("ann\"\r\n", 1_000_000);
        // printf '1086400:ann' | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(made[1].credential, Some(("1086400:ann".into(), "p+bDLyMcZxnWv4hvrGAg+VDbskg=".into())));
        assert_eq!(made[0].credential, None);
    }
}
