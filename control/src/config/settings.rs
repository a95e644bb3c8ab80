//! The configuration with its types: what the supervisor acts on, and what control is told in `DATA/settings.json`.

use super::{Config, Value};
use crate::data_dir::DataDir;
use crate::policy::limits::Limits;
use serde::{Deserialize, Serialize};
use spillway_proto::link::handover::IoChoice;
use spillway_proto::link::tap::Fsync;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a node was told, each value of its type.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub http: SocketAddr,
    /// An address of its own for monitoring.
    pub metrics: Option<SocketAddr>,
    /// Without a slash at its end; None: links begin with the address of the request.
    pub public_url: Option<String>,
    pub node_id: Option<String>,
    /// Anybody may know which rooms are live.
    #[serde(default)]
    pub list_rooms: bool,
    /// auto, text or json; the supervisor's matter.
    #[serde(default)]
    pub log_format: String,
    pub media: Vec<SocketAddr>,
    pub announce: Vec<IpAddr>,
    /// As `--io` has it.
    pub io: String,
    pub shards: Option<u32>,
    pub limits: Limits,
    pub turn: TurnSettings,
    /// `*`, or origins.
    #[serde(default)]
    pub cors_origins: Vec<String>,
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    #[serde(default)]
    pub requests_per_address: u32,
    #[serde(default)]
    pub requests_per_token: u32,
    /// Who knows foreign tokens.
    #[serde(default)]
    pub backend_url: Option<String>,
    /// Webhooks may lead to private addresses.
    #[serde(default)]
    pub allow_private: bool,
    #[serde(default)]
    pub recording: RecordingSettings,
}

/// Where recordings are written, and how.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RecordingSettings {
    /// None: in the data directory.
    pub dir: Option<PathBuf>,
    /// As `recording.fsync` has it.
    pub fsync: String,
    pub reconnect_seconds: u32,
    /// 0: no bound, here and below.
    pub file_bytes_max: u64,
    pub file_seconds_max: u32,
}

impl RecordingSettings {
    /// `data`: the data directory. A path that is not absolute counts from where the node was started.
    pub fn directory(&self, data: &Path) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| data.join("recordings"))
    }
    pub fn fsync(&self) -> Fsync {
        Fsync::from_name(&self.fsync).unwrap_or_default()
    }
}

/// ICE servers for clients. The secret itself is never in here, only where it stands.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct TurnSettings {
    pub urls: Vec<String>,
    pub username: String,
    pub secret: Option<TurnSecret>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnSecret {
    /// The credential, in a variable that children inherit.
    Variable(String),
    CredentialFile(PathBuf),
    /// Credentials are made from what stands there.
    SharedFile(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot {0} {1}: {2}; check that the data directory belongs to this user")]
    File(&'static str, PathBuf, io::Error),
    #[error("{0} is of another build ({1}); start the node with `spillway serve`")]
    Form(PathBuf, String),
}

const FILE: &str = "settings.json";

impl Settings {
    pub fn io(&self) -> IoChoice {
        IoChoice::from_name(&self.io).unwrap_or_default()
    }

    /// For control: replaced as a whole, so that nobody reads half of it.
    pub fn write(&self, data: &DataDir) -> Result<(), SettingsError> {
        let path = data.path().join(FILE);
        let aside = path.with_extension("json.new");
        let failed = |error| SettingsError::File("write", path.clone(), error);
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .map_err(failed)?;
        writeln!(file, "{text}").and_then(|()| fs::rename(&aside, &path)).map_err(failed)
    }

    pub fn read(data: &Path) -> Result<Settings, SettingsError> {
        let path = data.join(FILE);
        let bytes = fs::read(&path).map_err(|error| SettingsError::File("read", path.clone(), error))?;
        serde_json::from_slice(&bytes).map_err(|error| SettingsError::Form(path, error.to_string()))
    }
}

impl Config {
    pub fn settings(&self) -> Settings {
        let text = |path: &str| match &self.at(path).value {
            Value::Text(text) => text.clone(),
            _ => String::new(),
        };
        let list = |path: &str| match &self.at(path).value {
            Value::List(items) => items.clone(),
            _ => Vec::new(),
        };
        let number = |path: &str| match self.at(path).value {
            // Within the bounds of the table, which are those of a u32.
            Value::Number(number) => u32::try_from(number).unwrap_or(u32::MAX),
            _ => 0,
        };
        let some = |text: String| (!text.is_empty()).then_some(text);
        let from_file = |path: &str| some(text(path)).map(PathBuf::from);
        let variable = match &self.at("turn.credential").origin {
            super::Origin::Environment(name) => Some(TurnSecret::Variable(name.clone())),
            _ => None,
        };
        let secret = variable
            .filter(|_| !text("turn.credential").is_empty())
            .or_else(|| from_file("turn.credential_file").map(TurnSecret::CredentialFile))
            .or_else(|| from_file("turn.secret_file").map(TurnSecret::SharedFile));
        Settings {
            // Checked when it was taken.
            http: text("server.http").parse().unwrap_or_else(|_| SocketAddr::from(([127, 0, 0, 1], 7080))),
            metrics: text("server.metrics").parse().ok(),
            public_url: some(text("server.public_url").trim_end_matches('/').to_owned()),
            node_id: some(text("node.id")),
            list_rooms: text("server.list_rooms") == "public",
            log_format: text("log.format"),
            media: list("media.listen").iter().filter_map(|item| item.parse().ok()).collect(),
            announce: list("media.announce").iter().filter_map(|item| item.parse().ok()).collect(),
            io: text("engine.io"),
            shards: Some(number("engine.shards")).filter(|shards| *shards > 0),
            limits: Limits {
                publishers_max: number("limits.publishers_max"),
                publishers_per_account_max: number("limits.publishers_per_account_max"),
                viewers_max: number("limits.viewers_max"),
                viewers_per_room_max: number("limits.viewers_per_room_max"),
                viewers_per_account_max: number("limits.viewers_per_account_max"),
                joins_per_second_max: number("limits.joins_per_second_max"),
                egress_mbps_max: number("limits.egress_mbps_max"),
                busy_percent_max: number("limits.busy_percent_max"),
            },
            turn: TurnSettings { urls: list("turn.urls"), username: text("turn.username"), secret },
            cors_origins: list("server.cors_origins"),
            trusted_proxies: list("server.trusted_proxies"),
            requests_per_address: number("limits.requests_per_second_per_address"),
            requests_per_token: number("limits.requests_per_second_per_token"),
            backend_url: some(text("auth.backend_url").trim_end_matches('/').to_owned()),
            allow_private: self.at("webhooks.allow_private").value == Value::Flag(true),
            recording: RecordingSettings {
                dir: from_file("recording.dir"),
                fsync: text("recording.fsync"),
                reconnect_seconds: number("recording.reconnect_seconds"),
                file_bytes_max: match self.at("recording.file_bytes_max").value {
                    Value::Number(bytes) => bytes,
                    _ => 0,
                },
                file_seconds_max: number("recording.file_seconds_max"),
            },
        }
    }
}

/// What cannot be true together, and what most likely is not meant.
pub fn contradictions(config: &Config) -> (Vec<String>, Vec<String>) {
    let settings = config.settings();
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    let v4 = settings.media.iter().filter(|address| address.is_ipv4()).count();
    if v4 > 1 || settings.media.len() - v4 > 1 {
        let most = "give at most one IPv4 and one IPv6 address";
        faults.push(match &config.at("media.listen").origin {
            super::Origin::Flag(flag) => format!("{flag} was given twice for one family; {most}"),
            origin => format!("media.listen ({origin}) has two of one family; {most}"),
        });
    }
    let is_loopback = settings.media.iter().all(|address| address.ip().is_loopback());
    if is_loopback && settings.announce.iter().any(|ip| !ip.is_loopback()) {
        warnings.push("media.announce names another address, but media.listen is on loopback: nobody outside reaches it".to_owned());
    }
    if let Some(url) = settings.public_url.filter(|url| !is_base_url(url)) {
        faults.push(format!("server.public_url: {url} is not of the form https://live.example.org"));
    }
    for origin in settings.cors_origins.iter().filter(|origin| !is_origin(origin)) {
        faults.push(format!("server.cors_origins: {origin} is not of the form https://www.example.org, and not *"));
    }
    if let Err(item) = super::Proxies::parse(&settings.trusted_proxies) {
        faults.push(format!("server.trusted_proxies: {item} is no IP address and no network as 10.0.0.0/8"));
    }
    if let Some(url) = settings.backend_url.as_ref().filter(|url| !is_base_url(url)) {
        faults.push(format!("auth.backend_url: {url} is not of the form https://backend.example.org"));
    }
    for url in &settings.turn.urls {
        let scheme = url.split(':').next().unwrap_or_default();
        let rest = url.len() > scheme.len() + 1 && !url.contains([' ', '"', '<', '>', ',', ';']);
        if !["stun", "stuns", "turn", "turns"].contains(&scheme) || !rest {
            faults.push(format!("turn.urls: `{url}` is not of the form turn:turn.example.org:3478"));
        }
    }
    let is_turn = settings.turn.urls.iter().any(|url| url.starts_with("turn"));
    if is_turn && settings.turn.secret.is_none() {
        warnings.push("turn.urls names a TURN server, but there is no credential: set turn.secret_file, or TURN_USERNAME and TURN_CREDENTIAL".to_owned());
    }
    match &settings.turn.secret {
        Some(TurnSecret::CredentialFile(path) | TurnSecret::SharedFile(path)) => {
            if let Err(error) = fs::read_to_string(path) {
                faults.push(format!("turn: {} cannot be read: {error}", path.display()));
            }
        }
        _ => {}
    }
    (faults, warnings)
}

/// As browsers send it: no path, no slash at the end.
fn is_origin(origin: &str) -> bool {
    origin == "*" || is_base_url(origin) && origin.matches('/').count() == 2
}

fn is_base_url(url: &str) -> bool {
    let host = url.strip_prefix("https://").or(url.strip_prefix("http://")).unwrap_or_default();
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'"' | b'@'))
}
