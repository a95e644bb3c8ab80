//! The table of everything that can be configured. Whoever adds a key adds a row: the file, the environment, `config
//! show`, `config init` and the README's table all follow it.

/// What a value may be, as it is written in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An IP address and a port.
    Address,
    /// The same, or empty.
    MaybeAddress,
    /// A list of them.
    Addresses,
    /// A list of IP addresses.
    Ips,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number within these bounds.
    Number { min: u64, max: u64 },
    /// true or false.
    Flag,
    Text,
    Texts,
    /// A path to a file.
    File,
    /// Like text, but neither in the file nor ever shown.
    Secret,
}

/// One key.
#[derive(Debug)]
pub struct Key {
    pub table: &'static str,
    pub name: &'static str,
    pub kind: Kind,
    /// As it would stand in the file.
    pub default: &'static str,
    /// Names of the environment that mean the same, of systems that came before.
    pub alias: Option<Alias>,
    /// The flag of `serve` that means the same.
    pub flag: Option<&'static str>,
    /// SIGHUP applies it; another one waits for a restart.
    pub is_live: bool,
    pub help: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alias {
    Same(&'static str),
    /// Only the port of the address.
    Port(&'static str),
}

impl Alias {
    pub fn name(self) -> &'static str {
        match self {
            Alias::Same(name) | Alias::Port(name) => name,
        }
    }
}

impl Key {
    pub fn path(&self) -> String {
        format!("{}.{}", self.table, self.name)
    }
    /// Its own name in the environment.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}__{}", self.table.to_uppercase(), self.name.to_uppercase())
    }
}

/// What every name of ours in the environment begins with.
pub const PREFIX: &str = "SPILLWAY__";

const COUNT: Kind = Kind::Number { min: 0, max: 1_000_000 };
const PLAIN: Key =
    Key { table: "", name: "", kind: Kind::Text, default: "\"\"", alias: None, flag: None, is_live: false, help: "" };
const LIMIT: Key = Key { table: "limits", kind: COUNT, default: "0", is_live: true, ..PLAIN };
/// Up to an exabyte.
const SIZE: Kind = Kind::Number { min: 0, max: 1_000_000_000_000_000_000 };
const RECORDING: Key = Key { table: "recording", default: "0", is_live: true, ..PLAIN };
const TURN: Key = Key { table: "turn", is_live: true, ..PLAIN };

pub const KEYS: [Key; 34] = [
    Key {
        table: "server",
        name: "http",
        kind: Kind::Address,
        default: "\"127.0.0.1:7080\"",
        alias: Some(Alias::Port("PORT")),
        flag: Some("--http"),
        help: "where pages, WHIP, WHEP and the API listen (port 0: any free one)",
        ..PLAIN
    },
    Key {
        table: "server",
        name: "metrics",
        kind: Kind::MaybeAddress,
        flag: Some("--metrics"),
        help: "an address of its own for /metrics and the probes, open to whoever reaches it; empty: /metrics stands on \
               server.http, for this machine and for keys",
        ..PLAIN
    },
    Key {
        table: "server",
        name: "public_url",
        is_live: true,
        help: "what ready links begin with, as https://live.example.org; empty: the address of the request",
        ..PLAIN
    },
    Key {
        table: "server",
        name: "cors_origins",
        kind: Kind::Texts,
        default: "[\"*\"]",
        is_live: true,
        help: "pages of which origins may call, as [\"https://www.example.org\"]; \"*\": all, since every call needs a token",
        ..PLAIN
    },
    Key {
        table: "server",
        name: "trusted_proxies",
        kind: Kind::Texts,
        default: "[]",
        is_live: true,
        help: "proxies whose X-Forwarded-For is believed, addresses or networks, as [\"127.0.0.1\", \"10.0.0.0/8\"]",
        ..PLAIN
    },
    Key {
        table: "server",
        name: "list_rooms",
        kind: Kind::Word(&["off", "public"]),
        default: "\"off\"",
        is_live: true,
        help: "public: the first page lists the live rooms to whoever opens it; off: only to who has a key or a room's token",
        ..PLAIN
    },
    Key {
        table: "node",
        name: "id",
        alias: Some(Alias::Same("SERVER_ID")),
        is_live: true,
        help: "this node's name in GET /v1/node; empty: the machine's",
        ..PLAIN
    },
    Key {
        table: "log",
        name: "format",
        kind: Kind::Word(&["auto", "text", "json"]),
        default: "\"auto\"",
        help: "what serve prints: text, json (an object per line), or auto: text on a terminal, else json",
        ..PLAIN
    },
    Key {
        table: "media",
        name: "listen",
        kind: Kind::Addresses,
        default: "[\"127.0.0.1:7081\"]",
        flag: Some("--media"),
        help: "where media comes in and goes out, UDP; at most one address per family",
        ..PLAIN
    },
    Key {
        table: "media",
        name: "announce",
        kind: Kind::Ips,
        default: "[]",
        alias: Some(Alias::Same("MEDIASOUP_ANNOUNCED_IP")),
        flag: Some("--announce"),
        help: "the addresses remotes are told to send to, instead of those of the interfaces",
        ..PLAIN
    },
    Key {
        table: "engine",
        name: "io",
        kind: Kind::Word(&["auto", "frames", "uring", "socket"]),
        default: "\"auto\"",
        flag: Some("--io"),
        help: "how the engine sends; frames: past the kernel's UDP and netfilter's output rules (needs CAP_NET_RAW); auto: frames where that passes over no rule, else io_uring where it works, else plain sockets",
        ..PLAIN
    },
    Key {
        table: "engine",
        name: "shards",
        kind: Kind::Number { min: 0, max: spillway_proto::limits::SHARDS_MAX as u64 },
        default: "0",
        alias: Some(Alias::Same("MEDIASOUP_WORKERS")),
        flag: Some("--shards"),
        help: "forwarding threads, one per core; 0: cores - 1 up to 8 cores, cores - 2 above",
        ..PLAIN
    },
    Key {
        name: "publishers_max",
        alias: Some(Alias::Same("MEDIA_MAX_PUBLISHERS")),
        help: "publishers of this node; 0: no limit of policy (the engine has its own), here and below",
        ..LIMIT
    },
    Key { name: "publishers_per_account_max", help: "publishers of one account (`acct` in tokens)", ..LIMIT },
    Key { name: "viewers_max", help: "viewers of this node", ..LIMIT },
    Key {
        name: "viewers_per_room_max",
        alias: Some(Alias::Same("MEDIA_MAX_SUBSCRIBERS_PER_ROOM")),
        help: "viewers of one room; a room's own setting goes before",
        ..LIMIT
    },
    Key { name: "viewers_per_account_max", help: "viewers of one account, all its rooms together", ..LIMIT },
    Key { name: "joins_per_second_max", help: "viewers that may join per second, on this node", ..LIMIT },
    Key { name: "egress_mbps_max", help: "Mbit/s that go out to viewers; one that would need more is refused", ..LIMIT },
    Key {
        name: "busy_percent_max",
        kind: Kind::Number { min: 0, max: 100 },
        default: "85",
        help: "percent of its time a shard may be busy before no more viewers come to it; those who watch come first",
        ..LIMIT
    },
    Key {
        name: "requests_per_second_per_address",
        default: "50",
        help: "HTTP requests of one address (IPv6: of one /64), ten seconds' worth at once; loopback is free; 0: no limit",
        ..LIMIT
    },
    Key {
        name: "requests_per_second_per_token",
        default: "1000",
        help: "HTTP requests with one token or key, ten seconds' worth at once; 0: no limit",
        ..LIMIT
    },
    Key {
        table: "auth",
        name: "backend_url",
        alias: Some(Alias::Same("BACKEND_API_URL")),
        is_live: true,
        help: "who is asked about tokens that are none of ours, at /api/verify-media-server-token below it; empty: nobody",
        ..PLAIN
    },
    Key {
        table: "webhooks",
        name: "allow_private",
        kind: Kind::Flag,
        default: "false",
        is_live: true,
        help: "webhooks may lead to private addresses (10.0.0.0/8, fc00::/7, loopback, ...); link-local ones never",
        ..PLAIN
    },
    Key {
        name: "dir",
        kind: Kind::File,
        default: "\"\"",
        is_live: false,
        alias: Some(Alias::Same("MEDIA_RECORDINGS_DIR")),
        help: "where recordings are written, a directory of its own for each; empty: recordings in the data directory",
        ..RECORDING
    },
    Key {
        name: "fsync",
        kind: Kind::Word(&["fragment", "segment", "none"]),
        default: "\"fragment\"",
        help: "what a loss of power may cost: the last fragment (about a second), the file that is being written, or \
               whatever the system has not written yet",
        ..RECORDING
    },
    Key {
        name: "reconnect_seconds",
        kind: Kind::Number { min: 0, max: 86_400 },
        default: "15",
        help: "how long a recording waits for its publisher to come back before it is finished",
        ..RECORDING
    },
    Key { name: "file_bytes_max", kind: SIZE, help: "bytes of a file before the next one begins; 0: no limit", ..RECORDING },
    Key {
        name: "file_seconds_max",
        kind: Kind::Number { min: 0, max: 1_000_000_000 },
        help: "seconds of a file before the next one begins; 0: no limit",
        ..RECORDING
    },
    Key {
        name: "urls",
        kind: Kind::Texts,
        default: "[]",
        alias: Some(Alias::Same("TURN_URLS")),
        help: "STUN and TURN servers that clients are told of, as turn:turn.example.org:3478?transport=udp",
        ..TURN
    },
    Key { name: "username", alias: Some(Alias::Same("TURN_USERNAME")), help: "the name of a static credential", ..TURN },
    Key {
        name: "credential",
        kind: Kind::Secret,
        alias: Some(Alias::Same("TURN_CREDENTIAL")),
        help: "a static credential; in the environment only",
        ..TURN
    },
    Key { name: "credential_file", kind: Kind::File, help: "a file with the static credential", ..TURN },
    Key {
        name: "secret_file",
        kind: Kind::File,
        help: "a file with the secret shared with the TURN server (coturn's static-auth-secret): each client gets a \
               credential of its own for a day",
        ..TURN
    },
];

/// The key of a dotted name.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| path.split_once('.') == Some((key.table, key.name)))
}

/// The key a name that is none may mean, as a dotted name.
pub fn suggest(path: &str) -> Option<String> {
    let path = path.to_lowercase();
    let name = path.rsplit('.').next().unwrap_or_default();
    let closest = KEYS.iter().min_by_key(|key| distance(&path, &key.path()).min(1 + distance(name, key.name)))?;
    let far = distance(&path, &closest.path()).min(distance(name, closest.name));
    (far <= (name.len() / 3).max(2)).then(|| closest.path())
}

/// Letters to add, drop, change, or words to swap around: `max_viewers` is near to `viewers_max`.
fn distance(a: &str, b: &str) -> usize {
    let sorted = |text: &str| {
        let mut words: Vec<&str> = text.split(['_', '.']).collect();
        words.sort_unstable();
        words.join("_")
    };
    letters(a, b).min(1 + letters(&sorted(a), &sorted(b)))
}

fn letters(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
        for (j, right) in b.iter().enumerate() {
            let (before, above) = (row.get(j).copied().unwrap_or(0), row.get(j + 1).copied().unwrap_or(0));
            let changed = diagonal + usize::from(left != *right);
            diagonal = above;
            if let Some(cell) = row.get_mut(j + 1) {
                *cell = changed.min(above + 1).min(before + 1);
            }
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_found_and_what_was_not_is_not_guessed() {
        for (wrong, meant) in [
            ("limits.viewer_max", "limits.viewers_max"),
            ("limits.max_viewers", "limits.viewers_max"),
            ("limits.max_viewers_per_room", "limits.viewers_per_room_max"),
            ("limit.publishers_max", "limits.publishers_max"),
            ("server.announce", "media.announce"),
            ("http", "server.http"),
            ("Engine.Shard", "engine.shards"),
        ] {
            assert_eq!(suggest(wrong).as_deref(), Some(meant), "{wrong}");
        }
        assert_eq!(suggest("recording.retention_days"), None);
    }

    #[test]
    fn every_key_has_one_name_one_variable_and_words_for_people() {
        let mut names: Vec<String> = KEYS.iter().map(Key::variable).collect();
        names.extend(KEYS.iter().filter_map(|key| Some(key.alias?.name().to_owned())));
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(KEYS.iter().all(|key| !key.help.is_empty() && find(&key.path()).is_some()));
        assert_eq!(find("limits.viewers_max").unwrap().variable(), "SPILLWAY__LIMITS__VIEWERS_MAX");
    }
}
