//! A node of a test's own: `spillway serve` on ports the system gives, with a data directory that goes away.
//!
//! Ends what it started, by pid, also when the test panics; then its output is shown.

use crate::http::Http;
use crate::kernel::{self, Counters};
use crate::wait::{seconds, until};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tests that measure time or speed have the machine to themselves. The others share it, a few at a time, and come first: who wants it
/// alone would keep everybody waiting while the last of the others ends. Who drives a browser or loads a core weighs more than who mostly waits.
static MACHINE: Mutex<Held> = Mutex::new(Held { shares: 0, busy: 0, sharers_waiting: 0, busy_waiting: 0, alone: false });
static FREED: Condvar = Condvar::new();
/// Tests that share it mostly wait: with one more than there are cores, two cores were idle for seven tenths of the time.
const SHARES_BEYOND_CORES: usize = 3;
/// What a busy one takes of the shares: two cores bear two of them and a third that waits.
const SHARES_BUSY: usize = 2;

struct Held {
    shares: usize,
    /// How many of the busy run.
    busy: usize,
    sharers_waiting: usize,
    busy_waiting: usize,
    alone: bool,
}

impl Held {
    /// Whether there is room, and for whom waits longest: one of the busy is always under way while there are some.
    fn has_room(&self, what: &Take) -> bool {
        let shares_max = std::thread::available_parallelism().map_or(1, usize::from) + SHARES_BEYOND_CORES;
        let kept = if self.busy_waiting > 0 && self.busy == 0 { SHARES_BUSY } else { 0 };
        match what {
            Take::Share => !self.alone && self.shares + 1 + kept <= shares_max,
            Take::Busy => !self.alone && self.shares + SHARES_BUSY <= shares_max,
            Take::All => !self.alone && self.shares + self.sharers_waiting + self.busy_waiting == 0,
        }
    }
}

enum Take {
    Share,
    Busy,
    All,
}

/// A share of the machine, or all of it, as long as it is held.
pub struct Machine {
    took: Take,
}

impl Machine {
    /// For a test that mostly waits.
    pub fn shared() -> Machine {
        Machine::take(Take::Share)
    }

    /// For one with a browser or a core's load, whose outcome does not depend on how fast it is.
    pub fn busy() -> Machine {
        Machine::take(Take::Busy)
    }

    pub fn alone() -> Machine {
        Machine::take(Take::All)
    }

    fn take(took: Take) -> Machine {
        let mut held = held();
        let waits = |held: &mut Held, more: isize| match took {
            Take::Share => held.sharers_waiting = held.sharers_waiting.saturating_add_signed(more),
            Take::Busy => held.busy_waiting = held.busy_waiting.saturating_add_signed(more),
            Take::All => {}
        };
        waits(&mut held, 1);
        while !held.has_room(&took) {
            held = FREED.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        waits(&mut held, -1);
        match took {
            Take::Share => held.shares += 1,
            Take::Busy => (held.shares, held.busy) = (held.shares + SHARES_BUSY, held.busy + 1),
            Take::All => held.alone = true,
        }
        Machine { took }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut held = held();
        match self.took {
            Take::Share => held.shares -= 1,
            Take::Busy => (held.shares, held.busy) = (held.shares - SHARES_BUSY, held.busy - 1),
            Take::All => held.alone = false,
        }
        FREED.notify_all();
    }
}

fn held() -> MutexGuard<'static, Held> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A directory below the system's temporary one, removed with its contents.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("spillway-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("room for temporary files");
        Scratch(path)
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The binary that was built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("spillway");
    assert!(
        path.is_file(),
        "{} is missing: build it first, as tests/run does: cargo build --workspace --all-targets --release",
        path.display()
    );
    path
}

/// A `spillway` command that runs to its end.
pub fn spillway(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the binary starts")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null());
    // A test under systemd is no service.
    // Tests read what people read; one asks for JSON.
    command.env("SPILLWAY__LOG__FORMAT", "text");
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("JOURNAL_STREAM");
    command
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

/// How a node is started.
pub struct Start<'a> {
    pub http: &'a str,
    pub media: &'a [&'a str],
    pub more: &'a [&'a str],
    /// `log.format`: most tests read what people read.
    pub format: &'a str,
}

impl Default for Start<'_> {
    fn default() -> Self {
        Start { http: "127.0.0.1:0", media: &["127.0.0.1:0"], more: &["--shards", "2"], format: "text" }
    }
}

pub struct Node {
    process: Child,
    data: Scratch,
    pub http: Http,
}

const READY_TIMEOUT: Duration = seconds(30);
const STOP_TIMEOUT: Duration = seconds(10);

impl Node {
    /// Two shards on loopback.
    pub fn start() -> Node {
        Node::start_with(&Start::default())
    }

    pub fn start_with(start: &Start<'_>) -> Node {
        Node::start_in(Scratch::new(), start)
    }

    /// On this machine's own address, or loopback where there is no other: clients that tie their sockets to an
    /// interface (libnice, Firefox) do not reach loopback from there.
    pub fn start_reachable() -> Node {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // Nothing is sent: connect only asks which way it would go (RFC 5737, an address of nobody).
        let own = socket.connect("203.0.113.1:9").and_then(|()| socket.local_addr());
        let own = own.map_or_else(|_| "127.0.0.1".to_owned(), |address| address.ip().to_string());
        Node::start_with(&Start { media: &[&format!("{own}:0")], ..Start::default() })
    }

    /// On a directory that may have a key already.
    /// A node that signs with `key`: put there in clear, as an operator may; the node seals it.
    pub fn start_with_key(key: &[u8; 32]) -> Node {
        let data = Scratch::new();
        let keys = data.0.join("keys");
        std::fs::create_dir_all(&keys).expect("a directory");
        let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = keys.join("signing.key");
        std::fs::write(&file, digits).expect("a file");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("our own file");
        Node::start_in(data, &Start::default())
    }

    pub fn start_in(data: Scratch, start: &Start<'_>) -> Node {
        let output = File::create(data.0.with_extension("log")).expect("a log file");
        let mut command = command(&["serve", "--data", &data.0.display().to_string(), "--http", start.http]);
        for media in start.media {
            command.args(["--media", media]);
        }
        command.args(start.more).env("SPILLWAY__LOG__FORMAT", start.format);
        // A correctness test does not depend on how busy the machine is; who tests that sets it by the API.
        command.env("SPILLWAY__LIMITS__BUSY_PERCENT_MAX", "0");
        command.stdout(output.try_clone().expect("a log file")).stderr(output);
        kernel::end_with_us(&mut command);
        let process = command.spawn().expect("the binary starts");
        let mut node = Node { process, data, http: Http::new("") };
        let facts = until("the node is ready", READY_TIMEOUT, || {
            if let Ok(Some(status)) = node.process.try_wait() {
                panic!("serve ended ({status}):\n{}", node.output());
            }
            let facts = node.try_facts().ok_or("no node.json")?;
            if facts["control_pid"].is_null() || facts["engine_pid"].is_null() { Err(facts.to_string()) } else { Ok(facts) }
        });
        node.http = Http::new(format!("http://{}", facts["http"].as_str().unwrap_or_default()));
        node
    }

    pub fn data(&self) -> &Path {
        &self.data.0
    }

    fn data_text(&self) -> String {
        self.data.0.display().to_string()
    }

    /// All that `serve` and its children printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.data.0.with_extension("log")).unwrap_or_default()
    }

    /// Where media comes in: what a proxy stands before.
    pub fn media(&self) -> SocketAddr {
        self.facts()["media"].as_str().and_then(|address| address.parse().ok()).expect("node.json names the media address")
    }

    /// node.json as it stands.
    pub fn facts(&self) -> Value {
        self.try_facts().expect("node.json is there while the node runs")
    }

    pub fn try_facts(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(self.data.0.join("node.json")).ok()?).ok()
    }

    /// `supervisor_pid`, `control_pid` or `engine_pid`, as soon as that process is ready.
    pub fn pid(&self, key: &str) -> u32 {
        until(key, READY_TIMEOUT, || self.facts()[key].as_u64().map(|pid| pid as u32).ok_or(self.facts().to_string()))
    }

    /// The pid in node.json once it is another one than `old`.
    pub fn next_pid(&self, key: &str, old: u32) -> u32 {
        until(&format!("{key} is another than {old}"), READY_TIMEOUT, || match self.facts()[key].as_u64() {
            Some(pid) if pid as u32 != old => Ok(pid as u32),
            _ => Err(self.facts().to_string()),
        })
    }

    pub fn counters(&self) -> Counters {
        Counters::of(self.process.id())
    }

    pub fn token(&self, room: &str, role: &str) -> String {
        self.token_of(room, role, &[])
    }

    /// With more arguments, as `--sub NAME` or `--ttl 1s`.
    pub fn token_of(&self, room: &str, role: &str, more: &[&str]) -> String {
        let data = self.data_text();
        let arguments = ["token", "--room", room, "--role", role, "--data", &data];
        let output = spillway(&[&arguments, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// A subcommand on this node's data directory, to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        spillway(&[arguments, &["--data", &self.data_text()]].concat())
    }

    /// A subcommand on this node's data directory, beside the test.
    pub fn begin(&self, arguments: &[&str]) -> Task {
        Task::begin(&[arguments, &["--data", &self.data_text()]].concat())
    }

    /// A synthetic publisher, as soon as its room is live and has a picture to begin with.
    pub fn publish(&self, room: &str, codec: &str) -> Task {
        let counters = self.counters();
        let before = counters.keyframes();
        let task = self.begin(&["publish", "synthetic", room, "--codec", codec]);
        self.wait_live(room);
        until("a keyframe has arrived", seconds(10), || match counters.keyframes() {
            // Fewer than before: an engine that has just been started has begun to count anew.
            count if count > before || (1..before).contains(&count) => Ok(()),
            count => Err(count.to_string()),
        });
        task
    }

    pub fn wait_live(&self, room: &str) -> Value {
        let token = self.token(room, "admin");
        until(&format!("{room} is live"), seconds(10), || match self.http.try_live(room, &token) {
            Some(state) if state["live"] == true => Ok(state),
            state => Err(format!("{state:?}")),
        })
    }

    /// What a headless viewer saw in so many seconds.
    pub fn play(&self, room: &str, count: u64) -> Value {
        self.begin(&["play", room, "--seconds", &count.to_string(), "--json"]).json()
    }

    /// Until it has ended; its output.
    pub fn stop(&mut self) -> Output {
        let output = self.run(&["stop"]);
        self.wait_end();
        output
    }

    /// How the supervisor ended.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        until("the supervisor ended", STOP_TIMEOUT, || match self.process.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
    }
}

/// SIGTERM, and SIGKILL if it does not help.
pub(crate) fn end(process: &mut Child) {
    if matches!(process.try_wait(), Ok(Some(_))) {
        return;
    }
    kernel::signal(process.id(), libc::SIGTERM);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < deadline {
        if matches!(process.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = process.kill();
    let _ = process.wait();
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Links carry tokens, which belong into no log.
            let output: Vec<String> = self.output().lines().filter(|line| !line.contains("eyJ")).map(str::to_owned).collect();
            eprintln!("---- output of the node\n{}", output.join("\n"));
        }
        end(&mut self.process);
        let _ = fs::remove_file(self.data.0.with_extension("log"));
    }
}

/// A subcommand that runs beside the test: `publish`, `play`. Ends with it.
pub struct Task(Option<Child>);

impl Task {
    pub fn begin(arguments: &[&str]) -> Task {
        let mut command = command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        kernel::end_with_us(&mut command);
        Task(Some(command.spawn().expect("the binary starts")))
    }

    /// In the foreground of a terminal.
    pub fn begin_on(terminal: &kernel::Terminal, arguments: &[&str]) -> Task {
        let mut command = command(arguments);
        terminal.give_to(&mut command);
        kernel::end_with_us(&mut command);
        Task(Some(command.spawn().expect("the binary starts")))
    }

    pub fn pid(&self) -> u32 {
        self.0.as_ref().map(Child::id).unwrap_or_default()
    }

    /// Waits for its own end.
    pub fn finish(mut self) -> Output {
        let child = self.0.take().expect("not finished yet");
        child.wait_with_output().expect("its output")
    }

    /// Waits for its end, which must be a good one, and reads the one line it printed.
    pub fn json(self) -> Value {
        let output = self.finish();
        assert!(output.status.success(), "{} {} {}", output.status, stdout(&output), stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| panic!("{error}: {}", stdout(&output)))
    }

    /// SIGTERM, as Ctrl-C would; then its output.
    pub fn stop(self) -> Output {
        kernel::signal(self.pid(), libc::SIGTERM);
        self.finish()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}
