//! The configuration: one TOML file (an empty one is valid), the environment, the flags; strict, and everything knows
//! where it came from.
//!
//! ```text
//!    default < file < alias in the environment (PORT, TURN_URLS, ...) < SPILLWAY__TABLE__KEY < flag
//! ```
//!
//! Read by the supervisor at start and on SIGHUP; control gets `Settings`, so that a file that is being edited never
//! keeps a restarted control from starting.

pub mod keys;
mod proxies;
mod settings;

pub use proxies::Proxies;
pub use settings::{RecordingSettings, Settings, SettingsError, TurnSecret, TurnSettings};

use keys::{Alias, KEYS, Key, Kind, PREFIX};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A file longer than this is not ours.
const FILE_BYTES_MAX: u64 = 1_024 * 1_024;
const ITEMS_MAX: usize = 64;

/// A value before it is given its type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<String>),
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    File { path: PathBuf, line: usize },
    Environment(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A flag of `serve` that was given, as text.
#[derive(Clone, Debug)]
pub struct Given {
    pub flag: &'static str,
    pub value: Value,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub value: Value,
    pub origin: Origin,
}

/// Everything that is wrong, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    /// The command line is wrong, and nothing else: its faults begin with a flag.
    pub fn is_usage(&self) -> bool {
        self.0.iter().all(|fault| fault.starts_with("--"))
    }
}

/// Every key's value, in the order of the table.
#[derive(Clone, Debug)]
pub struct Config {
    entries: Vec<Entry>,
    /// What is allowed and most likely not meant.
    pub warnings: Vec<String>,
}

impl Config {
    /// From a file (none: defaults), the environment and flags.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Given],
    ) -> Result<Config, ConfigError> {
        let text = match file {
            Some(path) => Some((path, read(path).map_err(|fault| ConfigError(vec![fault]))?)),
            None => None,
        };
        Config::of(text.as_ref().map(|(path, text)| (*path, text.as_str())), environment, flags)
    }

    fn of(
        file: Option<(&Path, &str)>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[Given],
    ) -> Result<Config, ConfigError> {
        let mut building = Building::default();
        for key in &KEYS {
            building.set(key, default_of(key), Origin::Default);
        }
        if let Some((path, text)) = file {
            building.file(path, text);
        }
        // In the order of their names, so that the same faults come in the same order.
        building.environment(&environment.into_iter().collect());
        for given in flags {
            for key in KEYS.iter().filter(|key| key.flag == Some(given.flag)) {
                building.set(key, given.value.clone(), Origin::Flag(given.flag));
            }
        }
        building.finish()
    }

    pub fn entry(&self, key: &Key) -> &Entry {
        let at = KEYS.iter().position(|other| std::ptr::eq(other, key) || other.path() == key.path());
        // Every key was set to its default first.
        at.and_then(|at| self.entries.get(at)).expect("the table's keys all have an entry")
    }

    fn at(&self, path: &str) -> &Entry {
        self.entry(keys::find(path).expect("only keys of the table are asked for"))
    }

    /// The whole configuration as a file that means the same; secrets stand in it as comments.
    pub fn show(&self, with_origin: bool) -> String {
        let mut out = String::new();
        let mut table = "";
        for (key, entry) in KEYS.iter().zip(&self.entries) {
            if key.table != table {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "{}[{}]", if table.is_empty() { "" } else { "\n" }, key.table);
                table = key.table;
            }
            let line = match key.kind {
                Kind::Secret if entry.value == Value::Text(String::new()) => format!("# {} is not set", key.name),
                Kind::Secret => format!("# {} is set and not shown", key.name),
                _ => format!("{} = {}", key.name, written(&entry.value)),
            };
            let _ = match with_origin {
                true => writeln!(out, "{line:<44} # {}", entry.origin),
                false => writeln!(out, "{line}"),
            };
        }
        out
    }

    /// What differs in `newer`: key, old, new, as they would stand in the file.
    pub fn changes(&self, newer: &Config) -> Vec<(&'static Key, String, String)> {
        let pairs = KEYS.iter().zip(self.entries.iter().zip(&newer.entries));
        pairs
            .filter(|(_, (old, new))| old.value != new.value)
            .map(|(key, (old, new))| match key.kind {
                Kind::Secret => (key, "(a secret)".to_owned(), "(another secret)".to_owned()),
                _ => (key, written(&old.value), written(&new.value)),
            })
            .collect()
    }

    /// With `newer`'s values where a running node can take them.
    pub fn with_live_of(&self, newer: &Config) -> Config {
        let pairs = KEYS.iter().zip(self.entries.iter().zip(&newer.entries));
        let entries = pairs.map(|(key, (old, new))| if key.is_live { new.clone() } else { old.clone() }).collect();
        Config { entries, warnings: newer.warnings.clone() }
    }
}

/// A file with every key, its default and what it means, all of it as comments.
pub fn template() -> String {
    let mut out = String::from(
        "# Spillway's configuration. Every line may stay a comment: an empty file is valid. Each key can also be set as\n\
         # SPILLWAY__TABLE__KEY in the environment. Look at the result with: spillway config show --origin --config FILE\n",
    );
    let mut table = "";
    for key in &KEYS {
        if key.table != table {
            let _ = writeln!(out, "\n[{}]", key.table);
            table = key.table;
        }
        let alias = key.alias.map(|alias| format!("; also {}", alias.name())).unwrap_or_default();
        let _ = writeln!(out, "# {}{alias}", key.help);
        if key.kind != Kind::Secret {
            let _ = writeln!(out, "#{} = {}", key.name, key.default);
        }
    }
    out
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let cannot = |error| format!("{shown}: cannot be read: {error}");
    if fs::metadata(path).map_err(cannot)?.len() > FILE_BYTES_MAX {
        return Err(format!("{shown}: longer than {FILE_BYTES_MAX} bytes; this is no configuration"));
    }
    fs::read_to_string(path).map_err(cannot)
}

fn default_of(key: &Key) -> Value {
    parse_text(key, key.default.trim_matches(['"', '[', ']'])).expect("the table's defaults are values of their kind")
}

fn written(value: &Value) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    match value {
        Value::Text(text) => quoted(text),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ")),
    }
}

/// What a value of this kind looks like.
fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Address => "an IP address and a port, as \"127.0.0.1:7080\" or \"[::1]:7080\"".to_owned(),
        Kind::MaybeAddress => "an IP address and a port, or empty".to_owned(),
        Kind::Addresses => "a list of IP addresses with ports, as [\"0.0.0.0:7081\"]".to_owned(),
        Kind::Ips => "a list of IP addresses, as [\"203.0.113.5\"]".to_owned(),
        Kind::Word(words) => format!("one of {}", words.join(", ")),
        Kind::Number { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Flag => "true or false".to_owned(),
        Kind::Text | Kind::Secret => "text, in quotes".to_owned(),
        Kind::Texts => "a list of texts".to_owned(),
        Kind::File => "the path of a file, in quotes".to_owned(),
    }
}

/// A value as the environment or a flag has it; lists with commas.
fn parse_text(key: &Key, text: &str) -> Result<Value, String> {
    let value = match key.kind {
        Kind::Number { .. } => match text.trim().replace('_', "").parse() {
            Ok(number) => Value::Number(number),
            Err(_) => return Err(format!("`{text}` is not {}", wanted(key.kind))),
        },
        Kind::Flag => match text.trim().parse() {
            Ok(flag) => Value::Flag(flag),
            Err(_) => return Err(format!("`{text}` is not {}", wanted(key.kind))),
        },
        Kind::Addresses | Kind::Ips | Kind::Texts => {
            let items = text.split(',').map(|item| item.trim().trim_matches('"').to_owned());
            Value::List(items.filter(|item| !item.is_empty()).collect())
        }
        _ => Value::Text(text.trim().to_owned()),
    };
    checked(key, value)
}

/// The value, if it is one of this key.
fn checked(key: &Key, value: Value) -> Result<Value, String> {
    let fits = match (key.kind, &value) {
        (Kind::Address, Value::Text(text)) => text.parse::<SocketAddr>().is_ok(),
        (Kind::MaybeAddress, Value::Text(text)) => text.is_empty() || text.parse::<SocketAddr>().is_ok(),
        (Kind::Addresses, Value::List(items)) => {
            !items.is_empty() && items.len() <= 2 && items.iter().all(|item| item.parse::<SocketAddr>().is_ok())
        }
        (Kind::Ips, Value::List(items)) => {
            items.len() <= ITEMS_MAX && items.iter().all(|item| item.parse::<IpAddr>().is_ok())
        }
        (Kind::Texts, Value::List(items)) => items.len() <= ITEMS_MAX && items.iter().all(|item| is_plain(item)),
        (Kind::Word(words), Value::Text(text)) => words.contains(&text.as_str()),
        (Kind::Number { min, max }, Value::Number(number)) => (min..=max).contains(number),
        (Kind::Flag, Value::Flag(_)) => true,
        (Kind::Text | Kind::Secret | Kind::File, Value::Text(text)) => is_plain(text),
        _ => false,
    };
    match fits {
        true => Ok(value),
        // Of another type, as a table would be.
        false if matches!(value, Value::Flag(_)) => Err(String::new()),
        false if key.kind == Kind::Secret => Err(format!("this is not {}", wanted(key.kind))),
        false => Err(format!("{} is not {}", written(&value), wanted(key.kind))),
    }
}

/// Values end up in headers, links and log lines.
fn is_plain(text: &str) -> bool {
    text.len() <= 4_096 && !text.chars().any(char::is_control)
}

#[derive(Default)]
struct Building {
    entries: BTreeMap<usize, Entry>,
    faults: Vec<String>,
    warnings: Vec<String>,
}

impl Building {
    fn set(&mut self, key: &'static Key, value: Value, origin: Origin) {
        if let Some(at) = KEYS.iter().position(|other| other.path() == key.path()) {
            self.entries.insert(at, Entry { value, origin });
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let shown = path.display();
        let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let document = match DeTable::parse(text) {
            Ok(document) => document.into_inner(),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(span.start));
                // One line each, like every other fault.
                let words = error.message().replace('\n', "; ");
                self.faults.push(format!("{shown}:{line}: {words}"));
                return;
            }
        };
        for (table, content) in &document {
            let line = line_of(table.span().start);
            let DeValue::Table(content) = content.get_ref() else {
                self.faults.push(unknown(&format!("{shown}:{line}: "), "key", table.get_ref()));
                continue;
            };
            if !KEYS.iter().any(|key| key.table == table.get_ref().as_ref()) {
                let first = content.keys().next().map_or(String::new(), |key| format!(".{}", key.get_ref()));
                let fault = unknown(&format!("{shown}:{line}: "), "table", &format!("{}{first}", table.get_ref()));
                self.faults.push(fault);
                continue;
            }
            for (name, value) in content {
                let (line, name) = (line_of(name.span().start), format!("{}.{}", table.get_ref(), name.get_ref()));
                let Some(key) = keys::find(&name) else {
                    self.faults.push(unknown(&format!("{shown}:{line}: "), "key", &name));
                    continue;
                };
                if key.kind == Kind::Secret {
                    let (file, variable) = (format!("{name}_file"), key.variable());
                    self.faults.push(format!(
                        "{shown}:{line}: {name} is a secret and does not stand in the file: set {variable}, or {file}"
                    ));
                    continue;
                }
                match of_toml(value).and_then(|value| checked(key, value)) {
                    Ok(value) => self.set(key, value, Origin::File { path: path.to_owned(), line }),
                    Err(fault) if fault.is_empty() => {
                        self.faults.push(format!("{shown}:{line}: {name} must be {}", wanted(key.kind)));
                    }
                    Err(fault) => self.faults.push(format!("{shown}:{line}: {name}: {fault}")),
                }
            }
        }
    }

    fn environment(&mut self, environment: &BTreeMap<String, String>) {
        for key in &KEYS {
            let Some(alias) = key.alias else { continue };
            let Some(text) = environment.get(alias.name()).filter(|text| !text.trim().is_empty()) else { continue };
            if environment.contains_key(&key.variable()) {
                self.warnings.push(format!("{} is ignored: {} is set as well", alias.name(), key.variable()));
                continue;
            }
            let value = match alias {
                Alias::Same(_) => parse_text(key, text),
                Alias::Port(_) => self.port(key, text),
            };
            self.take(key, value, alias.name());
        }
        for (name, text) in environment.iter().filter(|(name, _)| name.starts_with(PREFIX)) {
            match KEYS.iter().find(|key| key.variable() == *name) {
                Some(key) => self.take(key, parse_text(key, text), name),
                None => {
                    let path = name.trim_start_matches(PREFIX).to_lowercase().replace("__", ".");
                    let meant = keys::suggest(&path).and_then(|path| keys::find(&path));
                    let meant = meant.map_or(String::new(), |key| format!("; did you mean {}?", key.variable()));
                    self.faults.push(format!("environment: {name} is no name of Spillway's{meant}"));
                }
            }
        }
    }

    fn take(&mut self, key: &'static Key, value: Result<Value, String>, name: &str) {
        match value {
            Ok(value) => self.set(key, value, Origin::Environment(name.to_owned())),
            Err(fault) => self.faults.push(format!("environment: {name}: {fault}")),
        }
    }

    /// The address so far with another port.
    fn port(&self, key: &Key, text: &str) -> Result<Value, String> {
        let port: u16 = text.trim().parse().map_err(|_| format!("`{text}` is not a port, 0 to 65535"))?;
        let at = KEYS.iter().position(|other| other.path() == key.path());
        let so_far = match at.and_then(|at| self.entries.get(&at)).map(|entry| &entry.value) {
            Some(Value::Text(address)) => address.parse::<SocketAddr>().ok(),
            _ => None,
        };
        match so_far {
            Some(mut address) => {
                address.set_port(port);
                Ok(Value::Text(address.to_string()))
            }
            None => Err("the address it belongs to cannot be read".to_owned()),
        }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        if !self.faults.is_empty() {
            return Err(ConfigError(self.faults));
        }
        let config = Config { entries: self.entries.into_values().collect(), warnings: Vec::new() };
        let (faults, warnings) = settings::contradictions(&config);
        self.warnings.extend(warnings);
        match faults.is_empty() {
            true => Ok(Config { warnings: self.warnings, ..config }),
            false => Err(ConfigError(faults)),
        }
    }
}

fn unknown(at: &str, what: &str, name: &str) -> String {
    let meant = keys::suggest(name).map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
    format!("{at}`{name}` is no {what} of Spillway's{meant}")
}

/// Err is empty where the kind of value is not one that any key has.
fn of_toml(value: &Spanned<DeValue<'_>>) -> Result<Value, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Value::Text(text.to_string())),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            let parsed = u64::from_str_radix(digits.trim_start_matches('+'), number.radix());
            parsed.map(Value::Number).map_err(|_| String::new())
        }
        DeValue::Boolean(flag) => Ok(Value::Flag(*flag)),
        DeValue::Array(items) => {
            let text = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(String::new()),
            };
            Ok(Value::List(items.iter().map(text).collect::<Result<_, _>>()?))
        }
        _ => Err(String::new()),
    }
}

#[cfg(test)]
mod tests;
