//! What can be said on the command line, and what `--help` teaches.

use crate::model;
use crate::source::{Packetizer, Plan, VideoCodec};
use crate::threshold::{self, Threshold};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How the program ends. When several hold, the first of these counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Ok,
    Usage,
    /// The target is not there.
    Unreachable,
    /// The generator itself was the limit: nothing is said of the server.
    Saturated,
    /// A threshold failed.
    Failed,
    /// Ctrl-C or SIGTERM: what was measured until then is told.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Usage => 2,
            Exit::Unreachable => 98,
            Exit::Saturated => 97,
            Exit::Failed => 99,
            // As shells have it of SIGINT.
            Exit::Interrupted => 130,
        })
    }
}

#[derive(Parser, Debug)]
#[command(
    name = "spillway-bench",
    version,
    about = "A load tester for WebRTC broadcast: what does a WHIP/WHEP server carry?",
    disable_help_subcommand = true,
    after_help = "Examples:
  spillway-bench run --target http://127.0.0.1:7080 --key-file ./spillway-data/keys/signing.key --viewers 200
  spillway-bench run --target http://127.0.0.1:8889 --whip-path '/{room}/whip' --whep-path '/{room}/whep' --viewers 100
  spillway-bench find-max --target http://127.0.0.1:7080 --key-file ./spillway-data/keys/signing.key --viewers 500
  sudo spillway-bench lab --scenario W1 --json w1.json
  sudo spillway-bench lab --scenario rooms-100x30 --rooms 1 --report rooms.html
  spillway-bench model --viewers 50000 --cores 32
  spillway-bench run ... --server-pid $(pidof spillway | tr ' ' '\\n' | head -1) --fail 'ttff_p99<1s' --fail 'loss<0.1%'

Exit codes: 0 ok, 2 usage, 98 target unreachable, 97 the generator itself was the limit, 99 a threshold failed,
130 interrupted"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Publish, let viewers join, hold, and say what arrived
    Run(RunArgs),
    /// More and more viewers until something breaks: how many were carried, and what was the limit
    FindMax(FindMaxArgs),
    /// The same in a network of its own on this machine: Spillway on core 0, viewers on core 1 (root)
    #[command(mut_args(of_lab))]
    Lab(LabArgs),
    /// The lab with a NIC that drops: viewers join over the cable, then all packets end in the server's network (root)
    #[command(mut_args(of_lab))]
    Null(NullArgs),
    /// What a box with more cores than there are here would carry: computed from measured parts, with what is assumed
    Model(ModelArgs),
    /// Measures what bench/SPECIFICATION.md promises, one line per promise (root); exit code 1: a row could not be measured
    Spec(SpecArgs),
}

/// What the lab knows by itself.
fn of_lab(arg: clap::Arg) -> clap::Arg {
    match arg.get_id().as_str() {
        "target" => arg.required(false).default_value(crate::lab::TARGET).hide(true),
        "no_publish" | "token" | "key_file" | "whip_path" | "whep_path" | "server_pid" | "room" => arg.hide(true),
        _ => arg,
    }
}

impl Cli {
    /// The later of two words about the same counts, so that a scenario's can be overridden.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let last_counts = |command: clap::Command| command.args_override_self(true);
        let command = Cli::command().mut_subcommand("run", last_counts).mut_subcommand("find-max", last_counts).mut_subcommand("lab", last_counts).mut_subcommand("null", last_counts);
        Cli::from_arg_matches(&command.try_get_matches_from(words)?)
    }
}

#[derive(Args, Clone, Debug)]
pub struct FindMaxArgs {
    /// --viewers is where it begins
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub search: SearchArgs,
}

/// How the number is searched for.
#[derive(Args, Clone, Debug)]
pub struct SearchArgs {
    /// It ends when it knows the number so well
    #[arg(long, value_name = "RATIO", default_value = "5%", value_parser = ratio)]
    pub precision: f64,
    /// One more step at the end, with as many viewers as keep the server so busy (of one core)
    #[arg(long, value_name = "RATIO", value_parser = busy)]
    pub busy: Option<f64>,
}

/// A process of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    Control,
    Engine,
}

#[derive(Args, Clone, Debug)]
pub struct LabArgs {
    /// --scenario is W1 unless said otherwise; with --find-max --viewers is where it begins
    #[command(flatten)]
    pub run: RunArgs,
    /// As many as are carried
    #[arg(long)]
    pub find_max: bool,
    #[command(flatten)]
    pub search: SearchArgs,
    /// The server's program, if not the one beside this
    #[arg(long, value_name = "FILE")]
    pub spillway: Option<PathBuf>,
    /// Of the server, each on a core of its own from core 0 on: the last of them is the viewers', too
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub shards: u64,
    /// A process of the server is killed (SIGKILL) when a third of the hold is over
    #[arg(long, value_enum)]
    pub kill: Option<Part>,
    /// The way from the server carries no more, and 300 ms of it wait (a token bucket on the server's end)
    #[arg(long, value_name = "BPS", value_parser = bitrate)]
    pub link: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub struct NullArgs {
    #[command(flatten)]
    lab: LabArgs,
    /// How long is measured, 20 at most: the same as --hold
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: Option<u64>,
}

impl NullArgs {
    pub fn lab(&self) -> LabArgs {
        let mut lab = self.lab.clone();
        lab.run.hold = self.seconds.map(Duration::from_secs).or(lab.run.hold);
        lab
    }
}

#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Of one stream, all together
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub viewers: u64,
    /// One or two of them are control's
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub cores: u64,
    /// What each viewer gets a second
    #[arg(long, value_name = "N", default_value_t = 310, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub packets: u64,
    /// Sends by packets; of W1 on a busy shard 0.28 were measured
    #[arg(long, value_name = "X", default_value_t = 0.28)]
    pub sends: f64,
    /// Of the video; audio adds 64 kbit/s
    #[arg(long, value_name = "BPS", default_value = "2.5M", value_parser = bitrate)]
    pub bitrate: u64,
    /// Viewers who come meanwhile
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub joins: Option<f64>,
    /// How busy a shard may be
    #[arg(long, value_name = "RATIO", default_value = "85%", value_parser = busy)]
    pub busy: f64,
    /// The result as one JSON value; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl ModelArgs {
    pub fn forecast(&self) -> model::Forecast {
        let bps = self.bitrate as f64 + 64_000.0;
        let load = model::Load {
            viewers: self.viewers as f64,
            packets: self.packets as f64,
            sends_per_packet: self.sends.clamp(0.0, 1.0),
            bps,
            joins: self.joins.unwrap_or(0.0),
        };
        model::forecast(&model::Parts::fit(&model::MEASURED).unwrap_or_default(), &load, self.cores, self.busy)
    }
}

#[derive(Args, Clone, Debug)]
pub struct SpecArgs {
    /// Rows, or beginnings of them: all unless said otherwise
    #[arg(value_name = "ROW")]
    pub rows: Vec<String>,
    /// The rows as one JSON value on standard output
    #[arg(long)]
    pub json: bool,
    /// What is promised and was measured last; nothing is run
    #[arg(long)]
    pub list: bool,
    /// What was measured goes into the file, with date and machine
    #[arg(long)]
    pub write: bool,
    /// Each row so often; the middle counts, the least and the most are its spread
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub repeats: u64,
    /// Another specification
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sink {
    /// Every viewer opens every packet
    Full,
    /// One viewer in fifty does; the others count by clear headers
    Cheap,
}

/// What is made of the numbers.
#[derive(Args, Clone, Default, Debug)]
pub struct VerdictArgs {
    /// What has to hold, as 'ttff_p99<1s', 'loss<0.1%', 'viewers>=200'; may be repeated
    #[arg(long = "fail", value_name = "TEXT", value_parser = threshold::parse)]
    pub thresholds: Vec<Threshold>,
    /// The result as one JSON value; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The result as one page with plots, readable offline
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// What an hour of a core costs, in whatever money: adds the price of 1,000 viewer-hours (needs --server-pid)
    #[arg(long, value_name = "X", value_parser = money)]
    pub price_core_hour: Option<f64>,
    /// What a gigabyte (10^9 bytes) to viewers costs
    #[arg(long, value_name = "Y", value_parser = money)]
    pub price_gb: Option<f64>,
}

/// What the viewers do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Profile {
    /// They come and stay
    Fanout,
    /// The same in many rooms: --rooms 10 unless said otherwise
    Rooms,
    /// They come all at once
    Storm,
    /// Each stays for 3 to 12 s, then another comes in its place
    Churn,
    /// They lose 1 of 100 packets and ask again; 50 ms of delay; 1 % out of order; all are witnesses
    Lossy,
    /// Churn for an hour (--hold 60m), and what memory and open files did
    Soak,
}

impl Profile {
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fanout => "fanout",
            Profile::Rooms => "rooms",
            Profile::Storm => "storm",
            Profile::Churn => "churn",
            Profile::Lossy => "lossy",
            Profile::Soak => "soak",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    /// The server's address, as http://127.0.0.1:7080
    #[arg(long, value_name = "URL")]
    pub target: String,
    /// The room; with --rooms the first part of each room's name
    #[arg(long, value_name = "R", default_value = "bench")]
    pub room: String,
    /// Options under a name (W1, audio-only, rooms-100x30, rooms-1000x3, storm, reference-floor) or in a file; others given count more
    #[arg(long, value_name = "NAME|FILE")]
    pub scenario: Option<String>,
    /// What the viewers do; it sets the options below that are not given
    #[arg(long, value_enum, default_value = "fanout")]
    pub profile: Profile,
    /// How many rooms, each with a publisher; viewers are spread over them [default: 1; profile rooms: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rooms: Option<u64>,
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub viewers: u64,
    /// How fast viewers come, on a fixed clock: a slow join still counts from when it was due [default: 50/s; profile storm: at once]
    #[arg(long, value_name = "N/s", value_parser = rate)]
    ramp: Option<f64>,
    /// So many more come when a third of the hold is over, into a room of their own with a thin stream: what those feel who are
    /// there. The hold goes on until they have a picture
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100_000))]
    pub burst: u64,
    /// How fast these come, on a fixed clock, too
    #[arg(long, value_name = "N/s", default_value = "1000/s", value_parser = rate)]
    pub burst_ramp: f64,
    /// How long is measured, when all are there [default: 10s; profile soak: 60m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    hold: Option<Duration>,
    /// Of the video; audio adds 64 kbit/s
    #[arg(long, value_name = "BPS", default_value = "2.5M", value_parser = bitrate)]
    pub bitrate: u64,
    /// Sound alone
    #[arg(long)]
    pub no_video: bool,
    /// Pictures alone
    #[arg(long, conflicts_with = "no_video")]
    pub no_audio: bool,
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    pub fps: u32,
    /// From one keyframe to the next
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub gop: Duration,
    #[arg(long, value_enum, default_value = "h264")]
    pub codec: VideoCodec,
    #[arg(long, value_enum, default_value = "libwebrtc")]
    pub packetizer: Packetizer,
    /// An ordinary frame is spread over so much; 0ms: one burst
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = duration)]
    pub pacing: Duration,
    /// The stream is published by somebody else
    #[arg(long)]
    pub no_publish: bool,
    /// Requests for keyframes are counted but not followed, as by cameras
    #[arg(long)]
    pub deaf: bool,
    /// [default: cheap; profile lossy: full]
    #[arg(long, value_enum)]
    sink: Option<Sink>,
    /// Threads of the crowd
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub threads: u64,
    /// Throw away one of so many packets, as if the network had lost it [default: 0; profile lossy: 1/100]
    #[arg(long, value_name = "1/N", value_parser = share)]
    drop: Option<u64>,
    /// Packets reach a viewer so much later [default: 0ms; profile lossy: 50ms]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    delay: Option<Duration>,
    /// This share of the packets comes 20 ms behind its place [default: 0; profile lossy: 1%]
    #[arg(long, value_name = "1/N", value_parser = share)]
    reorder: Option<u64>,
    /// Which packets come out of order, and how long viewers of a churn stay
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// What is lost is not asked for again
    #[arg(long)]
    pub no_recover: bool,
    /// Every room is recorded meanwhile (Spillway, with its key)
    #[arg(long)]
    pub record: bool,
    /// Viewers say nothing while it is measured, neither checks nor reports: for `null`, where a stream is so thin that these
    /// would be most of the packets
    #[arg(long)]
    pub silent: bool,
    /// One token for everybody
    #[arg(long, value_name = "TOKEN", conflicts_with = "key_file")]
    pub token: Option<String>,
    /// Spillway's signing key (DATA/keys/signing.key): everybody gets a token of his own
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    #[arg(long, value_name = "PATH", default_value = "/whip/{room}")]
    pub whip_path: String,
    #[arg(long, value_name = "PATH", default_value = "/whep/{room}")]
    pub whep_path: String,
    /// A process of the server on this machine, children included; may be repeated
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,
    #[command(flatten)]
    pub verdict: VerdictArgs,
}

impl RunArgs {
    /// What `run --target URL` alone means.
    pub fn defaults(target: String) -> RunArgs {
        let given = Cli::try_parse_from(["spillway-bench", "run", "--target", &target]);
        match given.map(|cli| cli.command) {
            Ok(Command::Run(args)) => args,
            _ => unreachable!("a target is all that `run` needs"),
        }
    }

    fn lossy(&self) -> bool {
        self.profile == Profile::Lossy
    }

    pub fn rooms(&self) -> u64 {
        self.rooms.unwrap_or(if self.profile == Profile::Rooms { 10 } else { 1 })
    }

    pub fn ramp(&self) -> f64 {
        self.ramp.unwrap_or(if self.profile == Profile::Storm { 1e6 } else { 50.0 })
    }

    pub fn hold(&self) -> Duration {
        self.hold.unwrap_or(Duration::from_secs(if self.profile == Profile::Soak { 3_600 } else { 10 }))
    }

    pub fn sink(&self) -> Sink {
        self.sink.unwrap_or(if self.lossy() { Sink::Full } else { Sink::Cheap })
    }

    pub fn drop(&self) -> u64 {
        self.drop.unwrap_or(if self.lossy() { 100 } else { 0 })
    }

    pub fn delay(&self) -> Duration {
        self.delay.unwrap_or(Duration::from_millis(if self.lossy() { 50 } else { 0 }))
    }

    pub fn reorder(&self) -> u64 {
        self.reorder.unwrap_or(if self.lossy() { 100 } else { 0 })
    }

    /// How long each viewer stays, at least and at most.
    pub fn stay(&self) -> Option<(Duration, Duration)> {
        let comes_and_goes = matches!(self.profile, Profile::Churn | Profile::Soak);
        comes_and_goes.then(|| (Duration::from_secs(3), Duration::from_secs(12)))
    }

    /// The same with other numbers.
    pub fn with(&self, viewers: u64, rooms: u64, ramp: f64, hold: Duration) -> RunArgs {
        RunArgs { viewers, rooms: Some(rooms), ramp: Some(ramp), hold: Some(hold), ..self.clone() }
    }

    pub fn plan(&self) -> Plan {
        Plan {
            bitrate_bps: if self.no_video { 0 } else { self.bitrate },
            fps: self.fps,
            gop: self.gop,
            codec: self.codec,
            packetizer: self.packetizer,
            pacing: self.pacing,
            has_audio: !self.no_audio,
        }
    }
}

fn positive(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)
}

fn ratio(text: &str) -> Result<f64, String> {
    let found = match text.strip_suffix('%') {
        Some(percent) => positive(percent).map(|value| value / 100.0),
        None => positive(text),
    };
    found.filter(|value| (0.001..=0.5).contains(value)).ok_or_else(|| "write a share, as 5% or 0.05".to_owned())
}

/// A share of a core.
fn busy(text: &str) -> Result<f64, String> {
    let found = match text.strip_suffix('%') {
        Some(percent) => positive(percent).map(|value| value / 100.0),
        None => positive(text),
    };
    found.filter(|value| (0.05..=0.95).contains(value)).ok_or_else(|| "write a share of a core, as 70%".to_owned())
}

fn money(text: &str) -> Result<f64, String> {
    positive(text).ok_or_else(|| "write a number, as 0.04".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let found = positive(text.strip_suffix("/s").unwrap_or(text)).filter(|value| *value > 0.0);
    found.ok_or_else(|| "write how many a second, as 200/s".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    for (unit, scale) in [("ms", 0.001), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3_600.0)] {
        if let Some(value) = text.strip_suffix(unit).and_then(positive).filter(|value| value * scale < 1e8) {
            return Ok(Duration::from_secs_f64(value * scale));
        }
    }
    Err("write a number and a unit, as 30s, 10ms or 5m".into())
}

fn bitrate(text: &str) -> Result<u64, String> {
    let (digits, scale) = match text.strip_suffix(['M', 'm']) {
        Some(digits) => (digits, 1e6),
        None => text.strip_suffix(['k', 'K']).map_or((text, 1.0), |digits| (digits, 1e3)),
    };
    let found = positive(digits).map(|value| (value * scale) as u64).filter(|value| (10_000..=1_000_000_000).contains(value));
    found.ok_or_else(|| "write bits a second, as 2.5M or 200k".into())
}

/// `1/100`, `1%` or 0; the result is the denominator.
fn share(text: &str) -> Result<u64, String> {
    let found = match (text.strip_prefix("1/"), text.strip_suffix('%')) {
        (Some(of), _) => of.parse().ok().filter(|of| *of > 1),
        (_, Some(percent)) => positive(percent).filter(|value| *value > 0.0 && *value <= 50.0).map(|value| (100.0 / value).round() as u64),
        _ => (text == "0").then_some(0),
    };
    found.ok_or_else(|| "write one of how many, as 1/100".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_people_write_them() {
        assert_eq!((rate("200/s"), rate("0.5")), (Ok(200.0), Ok(0.5)));
        assert_eq!((duration("1.5s"), duration("10ms"), duration("2m")), (Ok(Duration::from_millis(1_500)), Ok(Duration::from_millis(10)), Ok(Duration::from_secs(120))));
        assert_eq!((bitrate("2.5M"), bitrate("200k"), bitrate("64000")), (Ok(2_500_000), Ok(200_000), Ok(64_000)));
        assert_eq!((share("1/100"), share("5%"), share("0")), (Ok(100), Ok(20), Ok(0)));
        assert_eq!((busy("70%"), money("0.04")), (Ok(0.7), Ok(0.04)));
        assert!(busy("1").is_err() && money("-1").is_err() && money("free").is_err());
        assert!(rate("fast").is_err() && rate("0").is_err() && duration("10").is_err() && bitrate("1").is_err() && share("1/1").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(RunArgs::defaults("http://127.0.0.1:1".to_owned()).target, "http://127.0.0.1:1");
    }
}
