//! The supervisor: `spillway serve`. Holds the descriptors, starts engine and control, starts them again when
//! they die, and stops them in order.
//!
//! One thread, one `poll`. Parses nothing that comes from the network, and never ends because a child did.

mod adapters;
mod children;
mod greeting;
mod hold;
pub mod lock;
pub mod media;
pub mod node_json;
mod notify;
pub mod placement;
mod port_holder;
mod restarts;
pub mod sys;
pub mod terminal;
mod words;

use crate::logging;
use crate::auth::{KeyError, SigningKey};
use crate::cli::{Exit, ServeArgs};
use crate::config::{Config, ConfigError, SettingsError};
use crate::data_dir::{DataDir, DataDirError};
use adapters::{Adapters, Recorders};
use children::{Child, Death, Plan, describe};
use greeting::Greeting;
use hold::{Hold, HoldError, descriptors};
use lock::{Lock, LockError};
use media::{BindError, MediaGroup};
use node_json::NodeJson;
use notify::Notify;
use placement::place;
use spillway_proto::link::handover::{HANDOVER_VARIABLE, Handover};
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use sys::{Signals, Watch};
use terminal::{Keys, complain, say, warn};
use words::Ready;

/// Signals the supervisor reads instead of dying of them. SIGCONT: the terminal's settings are put back after `fg`.
const SIGNALS: [libc::c_int; 5] = [libc::SIGINT, libc::SIGTERM, libc::SIGQUIT, libc::SIGHUP, libc::SIGCONT];
/// A child that was asked to end has this long.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// All recorders together, from SIGTERM until their files are final: a hash over a gigabyte or two.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);
/// With nothing to wait for, look around this often.
const IDLE: Duration = Duration::from_secs(60);
/// All of them together, on the way out.
const RECORDERS: &str = "recorders";
const KEYS_GONE: &str = "the terminal is gone";

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            StartError::Config(error) if error.is_usage() => Exit::Usage,
            StartError::Config(_) | StartError::Settings(_) => Exit::Config,
            StartError::DataDir(_) | StartError::Lock(_) | StartError::Bind(_) => Exit::Config,
            StartError::Key(_) => Exit::Auth,
            StartError::Hold(_) | StartError::System(..) => Exit::Failed,
        }
    }
}

/// What the engine would find here, tried out.
pub struct IoProbe {
    /// An error says what to do.
    pub uring: Result<(), String>,
    /// Whether this process may send frames.
    pub frames: Result<(), String>,
    /// 1: the kernel does not cut.
    pub gso_segments: usize,
}

pub fn probe_io() -> IoProbe {
    let probe = spillway_engine::io::probe::probe();
    let frames = spillway_engine::io::frames::probe().map_err(|error| error.to_string());
    IoProbe { uring: probe.uring.map_err(|error| error.to_string()), frames, gso_segments: probe.gso_segments }
}

/// Serves until it is stopped.
pub fn run(args: ServeArgs) -> ExitCode {
    match Supervisor::start(args) {
        Ok(mut supervisor) => supervisor.run(),
        Err(error) => {
            complain(error.to_string());
            error.exit().into()
        }
    }
}

struct Supervisor {
    args: ServeArgs,
    /// What is in force.
    config: Config,
    data: DataDir,
    key: SigningKey,
    hold: Hold,
    http: SocketAddr,
    shards: usize,
    control: Child,
    engine: Child,
    adapters: Adapters,
    /// The one `p` starts and stops.
    synthetic: Child,
    /// What the engine that was ready last said.
    engine_ready: Ready,
    /// The settings changed while control was starting.
    owes_hangup: bool,
    /// Both were ready once: node.json stands there.
    node: Option<NodeJson>,
    stop: Option<Stop>,
    signals: Signals,
    notify: Notify,
    alive_at: Option<Instant>,
    keys: Option<Keys>,
    /// Last: given back when all else is gone.
    _lock: Lock,
}

/// On the way out: which child was asked to end, and until when.
#[derive(Default)]
struct Stop {
    asked: Option<(&'static str, Instant)>,
    /// A child had to be killed.
    is_forced: bool,
    /// What was asked for at the start cannot be had.
    is_refused: bool,
}

impl Supervisor {
    fn start(args: ServeArgs) -> Result<Supervisor, StartError> {
        let system = |what| move |error| StartError::System(what, error);
        let config = args.configuration()?;
        let settings = config.settings();
        if settings.log_format == "json" || settings.log_format != "text" && !std::io::stdout().is_terminal() {
            logging::print_json();
        }
        config.warnings.iter().for_each(|warning| warn(warning.clone()));
        let data = DataDir::open(&args.data.data)?;
        let lock = Lock::take(&data)?;
        // What a supervisor that was killed left behind.
        NodeJson::remove(&data);
        let key = SigningKey::load_or_create(data.path())?;
        let cores = sys::cores().map_err(system("read the affinity mask"))?;
        let placement = place(&cores, settings.shards.map(|shards| shards as usize));
        let shards = placement.shards.len();

        let http = media::bind_http(settings.http)?;
        let media =
            settings.media.iter().map(|address| MediaGroup::bind(*address, shards)).collect::<Result<Vec<_>, _>>()?;
        if let Some(advice) = media.iter().map(|group| group.buffer_bytes).min().and_then(media::buffer_advice) {
            warn(advice);
        }
        if !settings.http.ip().is_loopback() {
            warn(format!(
                "http://{} is open to the network without TLS: tokens travel readable, and browsers give no camera; \
                 put a TLS proxy in front",
                settings.http
            ));
        }
        let http_address = http.local_addr().map_err(system("read the HTTP port"))?;
        settings.write(&data)?;
        let hold = Hold::new(http, media, shards)?;
        let signals = Signals::take(&SIGNALS).map_err(system("take the signals"))?;

        let program = std::env::current_exe().map_err(system("find the path of this binary"))?;
        let child = |name, arguments: Vec<OsString>, cores: Vec<usize>| {
            let plan = Plan { name, program: program.clone(), arguments, cores, nice: 0 };
            Child::new(plan).map_err(system("make a pipe"))
        };
        let mut arguments: Vec<OsString> = vec!["control".into(), "--data".into(), data.path().into()];
        for address in hold.media.iter().map(|group| group.address) {
            arguments.extend(["--media".into(), address.to_string().into()]);
        }
        for ip in &settings.announce {
            arguments.extend(["--announce".into(), ip.to_string().into()]);
        }
        let mut control = child("control", arguments, placement.control.clone())?;
        let mut engine = child("engine", vec!["engine".into()], Vec::new())?;
        let arguments =
            ["publish".into(), "synthetic".into(), greeting::ROOM.into(), "--data".into(), data.path().into()];
        let synthetic = child("synthetic", arguments.to_vec(), placement.control.clone())?;
        let arguments = vec!["adapter", "recorder"];
        let recorders = Recorders { program: program.clone(), cores: placement.control.clone(), arguments };
        let adapters = Adapters::new(recorders).map_err(system("make a pair of sockets"))?;
        let give = |child: &mut Child, handover: Handover| {
            child.hand_over(HANDOVER_VARIABLE, handover.to_text(), descriptors(&handover));
        };
        let handover = hold.for_engine(engine.ready_fd(), settings.io(), &placement);
        give(&mut engine, handover);
        let handover = hold.for_control(control.ready_fd(), settings.io(), &placement);
        // Another one each time: what recorded before is over.
        let boot = i32::try_from(crate::service::now_ms() & 0x7fff_ffff).ok();
        let handover = Handover { adapters: Some(adapters.control_fd()), boot, ..handover };
        give(&mut control, handover);

        let notify = Notify::from_environment();
        let now = Instant::now();
        engine.start_at(now);
        control.start_at(now);
        Ok(Supervisor {
            alive_at: notify.watchdog_interval.map(|_| now),
            args,
            config,
            data,
            key,
            hold,
            http: http_address,
            shards,
            control,
            engine,
            adapters,
            synthetic,
            engine_ready: Ready::default(),
            owes_hangup: false,
            node: None,
            stop: None,
            signals,
            notify,
            keys: Keys::take(),
            _lock: lock,
        })
    }

    fn run(&mut self) -> ExitCode {
        loop {
            let now = Instant::now();
            self.on_time(now);
            if self.stop.is_some() && self.is_stopped(now) {
                break;
            }
            let has_keys = self.wait(now);
            self.on_signals();
            if has_keys {
                self.on_keys();
            }
            self.on_children();
        }
        let is_forced = self.stop.as_ref().is_some_and(|stop| stop.is_forced);
        if self.stop.as_ref().is_some_and(|stop| stop.is_refused) {
            return Exit::Config.into();
        }
        say(if is_forced { "stopped, by force" } else { "stopped" });
        if is_forced { Exit::Failed.into() } else { ExitCode::SUCCESS }
    }

    fn children(&mut self) -> [&mut Child; 3] {
        [&mut self.synthetic, &mut self.control, &mut self.engine]
    }

    fn on_time(&mut self, now: Instant) {
        for child in self.children() {
            child.on_time(now);
        }
        if let (Some(at), Some(interval)) = (self.alive_at, self.notify.watchdog_interval)
            && now >= at
        {
            self.notify.alive();
            self.alive_at = Some(now + interval);
        }
    }

    /// Waits for something to happen; whether it was a key.
    fn wait(&self, now: Instant) -> bool {
        let stop = self.stop.as_ref().and_then(|stop| Some(stop.asked?.1));
        let children = [self.synthetic.deadline(), self.control.deadline(), self.engine.deadline()];
        let next = children.into_iter().chain([self.alive_at, stop, self.adapters.deadline()]).flatten().min();
        let timeout = next.map_or(IDLE, |at| at.saturating_duration_since(now).min(IDLE));
        let mut watches = vec![Watch::new(self.signals.as_fd())];
        watches.extend(self.keys.iter().map(|keys| Watch::new(keys.as_fd())));
        for child in [&self.synthetic, &self.control, &self.engine] {
            watches.extend(child.watches());
        }
        watches.extend(self.adapters.watches());
        // What is there is read in any case; a failure (no memory) is tried again.
        let _ = sys::poll(&mut watches, timeout);
        self.keys.is_some() && watches.get(1).is_some_and(Watch::is_readable)
    }

    fn on_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            match signal {
                libc::SIGHUP => self.reload(),
                libc::SIGCONT => {
                    self.keys.as_ref().map(Keys::apply);
                }
                libc::SIGQUIT => self.quit("SIGQUIT"),
                // timeout(1) sends it twice; the second one is no impatience.
                libc::SIGTERM if self.stop.is_some() => {}
                libc::SIGTERM => self.quit("SIGTERM"),
                _ => self.quit("Ctrl-C"),
            }
        }
    }

    /// SIGHUP: applies what can be applied while running, says what cannot; a file with faults changes nothing.
    fn reload(&mut self) {
        let newer = match self.args.configuration() {
            Ok(newer) => newer,
            Err(error) => {
                complain(format!("SIGHUP: nothing changes, because:\n{error}"));
                return;
            }
        };
        newer.warnings.iter().for_each(|warning| warn(warning.clone()));
        let changes = self.config.changes(&newer);
        if changes.is_empty() {
            say("SIGHUP: the configuration is what it was");
        }
        for (key, old, new) in &changes {
            match key.is_live {
                true => say(format!("SIGHUP: {} = {new} (was {old})", key.path())),
                false => warn(format!("SIGHUP: {} = {new} waits for a restart; {old} goes on", key.path())),
            }
        }
        let applied = self.config.with_live_of(&newer);
        match applied.settings().write(&self.data) {
            Ok(()) => {
                self.config = applied;
                // Also when nothing changed here: the files that hold secrets may have. One that is only starting
                // may not know the signal yet, which would end it: it is told when it is ready.
                match self.control.ready_pid() {
                    Some(_) => self.control.signal(libc::SIGHUP),
                    None => self.owes_hangup = true,
                }
            }
            Err(error) => complain(format!("SIGHUP: nothing changes: {error}")),
        }
    }

    fn on_keys(&mut self) {
        match self.keys.as_mut().map(Keys::read) {
            Some(Ok(pressed)) => {
                for key in pressed {
                    match key {
                        b'q' => self.quit("q"),
                        b'p' if self.stop.is_none() => self.toggle_synthetic(),
                        _ => {}
                    }
                }
            }
            _ => {
                self.keys = None;
                self.quit(KEYS_GONE);
            }
        }
    }

    fn toggle_synthetic(&mut self) {
        if self.synthetic.is_running() {
            self.synthetic.signal(libc::SIGTERM);
        } else {
            say(format!("starting a synthetic publisher in room {} (p again stops it)", greeting::ROOM));
            self.synthetic.start_at(Instant::now());
        }
    }

    /// Stops in order; the second time by force.
    fn quit(&mut self, why: &str) {
        match &mut self.stop {
            None => {
                say(format!("stopping ({why})"));
                self.notify.stopping();
                self.stop = Some(Stop::default());
                for child in self.children() {
                    child.forget_start();
                }
            }
            Some(stop) => {
                stop.is_forced = true;
                warn(format!("{why} while stopping: killing what still runs"));
                for child in self.children() {
                    child.signal(libc::SIGKILL);
                }
                self.adapters.stop_by_force();
            }
        }
    }

    /// One child after the other: first who serves remotes, then the recorders, last the engine.
    fn is_stopped(&mut self, now: Instant) -> bool {
        let Some(stop) = &mut self.stop else { return false };
        if !self.synthetic.is_running() && !self.control.is_running() && self.adapters.are_running() {
            // Each writes what it has, and its files are made final.
            match stop.asked {
                Some((RECORDERS, deadline)) if now >= deadline => {
                    let seconds = FINISH_PATIENCE.as_secs();
                    match self.adapters.are_recording() {
                        true => warn(format!("recorders did not end within {seconds} s of SIGTERM: killed")),
                        false => say(format!("recordings are not finished within {seconds} s: the next start goes on with them")),
                    }
                    stop.is_forced |= self.adapters.are_recording();
                    self.adapters.stop_by_force();
                    stop.asked = Some((RECORDERS, now + STOP_PATIENCE));
                }
                Some((RECORDERS, _)) => {}
                _ => {
                    self.adapters.stop();
                    stop.asked = Some((RECORDERS, now + FINISH_PATIENCE));
                }
            }
            return false;
        }
        let children = [&self.synthetic, &self.control, &self.engine];
        let Some(child) = children.into_iter().find(|child| child.is_running()) else { return true };
        match stop.asked {
            Some((name, _)) if name != child.name() => stop.asked = None,
            _ => {}
        }
        match stop.asked {
            None => {
                child.signal(libc::SIGTERM);
                stop.asked = Some((child.name(), now + STOP_PATIENCE));
            }
            Some((name, deadline)) if now >= deadline => {
                warn(format!(
                    "{name} (pid {}) did not end within {} s of SIGTERM: killed",
                    child.pid().unwrap_or(0),
                    STOP_PATIENCE.as_secs()
                ));
                child.signal(libc::SIGKILL);
                stop.is_forced = true;
                stop.asked = Some((name, now + STOP_PATIENCE));
            }
            Some(_) => {}
        }
        false
    }

    fn on_children(&mut self) {
        let now = Instant::now();
        for child in self.children() {
            child.on_output();
        }
        // Deaths first: a line that says ready is believed only of the process that runs.
        if let Some(death) = self.engine.on_exit(now) {
            self.hold.link.clear_engine_ready();
            self.hold.wake_control();
            self.on_death(Process::Engine, &death, now);
        }
        if let Some(death) = self.control.on_exit(now) {
            self.on_death(Process::Control, &death, now);
        }
        if let Some(death) = self.synthetic.on_exit(now)
            && self.stop.is_none()
        {
            say(format!("the synthetic publisher ended ({}); p starts it again", describe(death.status)));
        }
        if let Some(ready) = self.engine.on_ready() {
            self.on_ready(Process::Engine, &ready);
            self.engine_ready = ready;
        }
        if let Some(ready) = self.control.on_ready() {
            self.on_ready(Process::Control, &ready);
            if std::mem::take(&mut self.owes_hangup) {
                self.control.signal(libc::SIGHUP);
            }
        }
        self.synthetic.on_ready();
        match self.stop {
            None => self.adapters.step(now, &self.hold, &self.config.settings().recording, self.data.path()),
            Some(_) => {
                self.adapters.step_stopping(now, &self.hold, &self.config.settings().recording, self.data.path());
            }
        }
        self.update_node();
    }

    fn child(&mut self, process: Process) -> &mut Child {
        match process {
            Process::Engine => &mut self.engine,
            Process::Control => &mut self.control,
        }
    }

    fn on_death(&mut self, process: Process, death: &Death, now: Instant) {
        if self.stop.is_some() {
            return;
        }
        // A node that never was ready, and whose engine says that it cannot do what was asked: it has said why,
        // and trying again would only say it again.
        if self.node.is_none() && death.status.code() == Some(spillway_engine::EXIT_REFUSED.into()) {
            self.notify.stopping();
            self.stop = Some(Stop { is_refused: true, ..Stop::default() });
            self.children().into_iter().for_each(Child::forget_start);
            return;
        }
        let restart = death.restart;
        let child = self.child(process);
        child.start_at(now + restart.delay);
        let (name, status) = (child.name(), describe(death.status));
        if restart.is_hopeless && restart.is_news {
            complain(format!("{name} dies before it is ready, again and again ({status}). Its last words:"));
            for line in child.last_words() {
                say(format!("  | {line}"));
            }
            say(format!("  it is tried again every {} s; Ctrl-C stops", restart.delay.as_secs()));
        } else if restart.is_news {
            let when = match restart.delay.as_millis() {
                0 => "at once".to_owned(),
                ms => format!("in {ms} ms"),
            };
            match death.was_asked {
                true => say(format!("{name} (pid {}) ended; it is started again {when}", death.pid)),
                false => warn(format!("{name} (pid {}) died ({status}); it is started again {when}", death.pid)),
            }
        }
        self.notify.status(&format!("{name} is being restarted"));
    }

    fn on_ready(&mut self, process: Process, ready: &Ready) {
        if self.node.is_none() {
            return;
        }
        let shards = self.shards;
        let child = self.child(process);
        let words = match process {
            Process::Engine => format!(": {}", greeting::engine_words(ready, shards)),
            Process::Control => String::new(),
        };
        say(format!(
            "{} is ready again (pid {}, {} ms){words}",
            child.name(),
            child.pid().unwrap_or(0),
            ready.after.as_millis()
        ));
    }

    /// node.json says what is; the first time, so do we.
    fn update_node(&mut self) {
        let (control_pid, engine_pid) = (self.control.ready_pid(), self.engine.ready_pid());
        let is_whole = control_pid.is_some() && engine_pid.is_some();
        if self.node.is_none() && !is_whole {
            return;
        }
        let addresses: Vec<SocketAddr> = self.hold.media.iter().map(|group| group.address).collect();
        let node = NodeJson {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            http: self.http.to_string(),
            media: addresses.first().map(SocketAddr::to_string).unwrap_or_default(),
            supervisor_pid: std::process::id(),
            control_pid,
            engine_pid,
            io: self.engine_ready.io.clone(),
            gso: self.engine_ready.gso,
            shards: self.shards,
        };
        if self.node.as_ref() == Some(&node) {
            return;
        }
        if let Err(error) = node.write(&self.data) {
            warn(format!("cannot write {}: {error}", self.data.node_json().display()));
        }
        let is_first = self.node.is_none();
        if is_whole && self.stop.is_none() {
            let status =
                format!("ready: http {}, media {}, io {}, shards {}", node.http, node.media, node.io, node.shards);
            if is_first {
                self.notify.ready(&status);
            } else {
                self.notify.status(&status);
            }
        }
        self.node = Some(node);
        if is_first {
            let greeting = Greeting {
                http: self.http,
                media: &addresses,
                announce: &self.config.settings().announce,
                shards: self.shards,
                engine: &self.engine_ready,
                data: &self.args.data.data,
                key: &self.key,
                has_keys: self.keys.is_some(),
                is_private: !self.notify.is_wanted() && !greeting::is_logged() && !logging::is_json(),
            };
            say(greeting.text());
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Process {
    Engine,
    Control,
}

impl Drop for Supervisor {
    /// Also when a bug of ours unwinds: no child stays, and no node.json that names one.
    fn drop(&mut self) {
        self.adapters.kill();
        for child in self.children() {
            child.kill();
        }
        NodeJson::remove(&self.data);
    }
}
