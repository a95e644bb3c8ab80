//! The command line: what can be said, and what `--help` teaches. Each subcommand's work stands in its own
//! file; `serve` is the supervisor's.

pub mod backup;
pub mod check;
mod client;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod play;
pub mod publish;
mod remote;
mod resend;
pub mod resources;
pub mod restart;
mod show;
pub mod stop;
pub mod token;

use crate::adapters::recorder::Mode;
use crate::config::{Config, ConfigError, Given, Value};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use spillway_proto::limits::SHARDS_MAX;
use spillway_proto::link::handover::IoChoice;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

/// How every subcommand ends. 0 is success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    /// clap's own code for an argument it refuses.
    Usage = 2,
    /// The configuration, the data directory, a port.
    Config = 3,
    /// A token was refused, or none can be made.
    Auth = 4,
    NotFound = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

#[derive(Parser, Debug)]
#[command(
    name = "spillway",
    version,
    about = "A live WebRTC broadcast server: from a camera to many screens.",
    long_about = "A live WebRTC broadcast server: from a camera to many screens.\n\nWithout a subcommand it serves (as `spillway serve` does): on loopback, with links to click.",
    after_help = "Examples:
  spillway                                              serve on loopback; then press p for a synthetic publisher
  spillway token --room demo --role view                a token for one viewer
  spillway serve --http 0.0.0.0:7080 --media 0.0.0.0:7081 --announce 203.0.113.5
  spillway config init > spillway.toml && spillway check --config spillway.toml && spillway serve --config spillway.toml
  spillway publish synthetic demo                       a publisher without a camera
  spillway play demo --seconds 5 --json                 a viewer without a screen
  spillway stream list                                  who publishes; also room, viewer, keys, limits, webhook, node
  spillway events                                       what happens, as it happens
  spillway doctor                                       what will not work on this machine, and the fix
  spillway restart engine                               viewers see picture again by themselves
  spillway stop

Exit codes: 0 ok, 1 failed, 2 usage, 3 config (file, data directory, port), 4 auth, 5 not found",
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a node: the supervisor, the forwarding engine and the control service
    Serve(ServeArgs),
    /// Show the configuration, or write a file to begin with
    Config(config::ConfigArgs),
    /// Check configuration, data directory and ports before a start
    Check(ServeArgs),
    /// Print a token for one room and role (works with no node running)
    Token(token::TokenArgs),
    /// Rooms: list, create, get, update, end, delete
    Room(resources::room::RoomArgs),
    /// Streams: list, get, end, keyframe
    Stream(resources::stream::StreamArgs),
    /// Viewers: list, get, kick
    Viewer(resources::viewer::ViewerArgs),
    /// Recordings: start, stop, list, get, delete
    Record(resources::record::RecordArgs),
    /// API keys and stream keys: list, create, rotate, revoke
    Keys(resources::keys::KeysArgs),
    /// Limits of admission: get, set
    Limits(resources::limits::LimitsArgs),
    /// Webhooks: list, create, get, update, delete, rotate, test, deliveries, retry
    Webhook(resources::webhook::WebhookArgs),
    /// Follow what happens on a node
    Events(resources::events::EventsArgs),
    /// What a node is and carries
    Node(resources::node::NodeArgs),
    /// Whether a node works, as an exit code
    Health(resources::node::HealthArgs),
    /// Look for what will not work on this machine, with one fix each
    Doctor(doctor::DoctorArgs),
    /// Publish without a camera
    Publish(publish::PublishArgs),
    /// Watch without a screen, and say what arrived
    Play(play::PlayArgs),
    /// Write the database to a file while the node runs
    Backup(backup::BackupArgs),
    /// Stop the node that runs on a data directory
    Stop(DataArgs),
    /// Restart one of a node's processes
    Restart(restart::RestartArgs),
    /// Print what a shell needs to complete these commands
    Completions(completions::CompletionsArgs),
    /// Print the version
    Version,
    /// The forwarding engine's process; started by the supervisor
    #[command(hide = true)]
    Engine,
    /// The control service's process; started by the supervisor
    #[command(hide = true)]
    Control(ControlArgs),
    /// Run an adapter: started by the supervisor, which hands it a stream's reel and a directory; not by hand
    #[command(hide = true, subcommand)]
    Adapter(Adapter),
}

#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    /// The data directory: signing key, lock, node.json
    #[arg(long, value_name = "DIR", default_value = "./spillway-data")]
    pub data: PathBuf,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway serve
  spillway serve --http 0.0.0.0:7080 --media 0.0.0.0:7081 --media [::]:7081
  spillway serve --media 0.0.0.0:7081 --announce 203.0.113.5     behind a 1:1 NAT (cloud)
  spillway serve --io socket --shards 2                          without io_uring, two shards

One UDP port carries all media; open it in the firewall: nft add rule inet filter input udp dport 7081 accept")]
pub struct ServeArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// A TOML file [default: $SPILLWAY_CONFIG, else none]; flags go before it. See `spillway config --help`
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where pages, WHIP, WHEP and the API listen (port 0: any free one) [default: 127.0.0.1:7080]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub http: Option<SocketAddr>,
    /// An address of its own for /metrics and the probes [default: /metrics stands on --http]
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub metrics: Option<SocketAddr>,
    /// Where media comes in and goes out, UDP; at most one address per family (port 0: any free one) [default: 127.0.0.1:7081]
    #[arg(long, value_name = "ADDR", num_args = 1.., value_parser = parse_address)]
    pub media: Vec<SocketAddr>,
    /// The addresses remotes are told to send to, instead of those of the interfaces
    #[arg(long, value_name = "IP", num_args = 1..)]
    pub announce: Vec<IpAddr>,
    /// How the engine sends; frames: past the kernel's UDP and netfilter's output rules (needs CAP_NET_RAW); auto: frames where
    /// that passes over no rule, else io_uring where it works, else plain sockets [default: auto]
    #[arg(long, value_name = "IO", value_parser = io_parser())]
    pub io: Option<IoChoice>,
    /// Forwarding threads, one per core [default: cores - 1 up to 8 cores, cores - 2 above]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SHARDS_MAX as i64))]
    pub shards: Option<u32>,
}

#[derive(Subcommand, Clone, Debug)]
pub enum Adapter {
    /// Write a stream's packets into a recording's files
    Recorder {
        /// What to do with the directory
        mode: Mode,
    },
}

#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Where the engine's sockets are bound: what candidates are made from
    #[arg(long)]
    pub media: Vec<SocketAddr>,
    #[arg(long)]
    pub announce: Vec<IpAddr>,
}

impl ServeArgs {
    /// What these flags, the file they name and the environment come to.
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let list = |items: Vec<String>| (!items.is_empty()).then_some(Value::List(items));
        let given = [
            ("--http", self.http.map(|address| Value::Text(address.to_string()))),
            ("--metrics", self.metrics.map(|address| Value::Text(address.to_string()))),
            ("--media", list(self.media.iter().map(SocketAddr::to_string).collect())),
            ("--announce", list(self.announce.iter().map(IpAddr::to_string).collect())),
            ("--io", self.io.map(|io| Value::Text(io.name().to_owned()))),
            ("--shards", self.shards.map(|shards| Value::Number(shards.into()))),
        ];
        let flags: Vec<Given> =
            given.into_iter().filter_map(|(flag, value)| Some(Given { flag, value: value? })).collect();
        let named = std::env::var_os("SPILLWAY_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = self.config.clone().or(named);
        // Names and values that are no text cannot be ours.
        let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Config::load(file.as_deref(), environment, &flags)
    }
}

fn io_parser() -> impl TypedValueParser<Value = IoChoice> {
    let names = IoChoice::ALL.map(IoChoice::name);
    PossibleValuesParser::new(names).try_map(|name| IoChoice::from_name(&name).ok_or("auto, frames, uring or socket"))
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, as 127.0.0.1:7081 or [::1]:7081".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_and_takes_its_flags_without_its_name() {
        let cli = Cli::try_parse_from(["spillway", "--http", "127.0.0.1:0", "--io", "socket"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!((cli.serve.http.map(|http| http.port()), cli.serve.io), (Some(0), Some(IoChoice::Socket)));
        let cli = Cli::try_parse_from(["spillway", "serve", "--shards", "2"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Serve(ServeArgs { shards: Some(2), .. }))));
    }

    #[test]
    fn media_may_be_given_twice() {
        for arguments in [
            &["spillway", "serve", "--media", "127.0.0.1:1", "--media", "[::1]:2"][..],
            &["spillway", "serve", "--media", "127.0.0.1:1", "[::1]:2"][..],
        ] {
            let Some(Command::Serve(serve)) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
            assert_eq!(serve.media, ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        }
    }

    #[test]
    fn no_shard_and_too_many_shards_are_refused() {
        for shards in ["0", "65"] {
            assert!(Cli::try_parse_from(["spillway", "--shards", shards]).is_err());
        }
        assert!(Cli::try_parse_from(["spillway", "--shards", "64"]).is_ok());
    }
}
