//! Adapters: one recorder process per recording that control wants, with the reel to read and the directory to write
//! in, and nothing else. Level-triggered: whatever the last list says is made so - what is missing is started, what is
//! not wanted any more is asked to end, what died is started again.
//!
//! Owns the socket pair that control tells the list on, so that recorders go on while control is restarted. Parses
//! nothing from the network: a list has ids, numbers and words, and the path is the configuration's.

use super::children::{Child, Death, Plan, describe};
use super::hold::Hold;
use super::sys::Watch;
use super::terminal::{say, warn};
use crate::config::RecordingSettings;
use crate::wanted::{DATAGRAM_BYTES_MAX, ListError, Run, Trouble, Wanted, parse_list};
use spillway_proto::id::StreamId;
use spillway_proto::limits::FINISHING_MAX;
use spillway_proto::link::tap::{TAP_VARIABLE, Tap};
use spillway_proto::time::Time;
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files can wait; packets of live sessions cannot.
const NICE: i32 = 10;
/// What could not be opened is tried again so often.
const OPEN_RETRY: Duration = Duration::from_secs(2);
/// A recorder that was asked to end writes what it has; a disk that hangs does not hold it for ever.
const END_PATIENCE: Duration = Duration::from_secs(30);
/// Lists that are read before children have their turn.
const LISTS_PER_LOOK: usize = 64;

/// How recorders are started, the same each time.
pub struct Recorders {
    pub program: PathBuf,
    pub cores: Vec<usize>,
    /// Before `record` or `finish`.
    pub arguments: Vec<&'static str>,
}

pub struct Adapters {
    recorders: Recorders,
    /// Ours, and the one that every control inherits.
    socket: UnixDatagram,
    control: UnixDatagram,
    /// As the last good list has it.
    wanted: Vec<Wanted>,
    running: Vec<Adapter>,
    /// What was wrong with the list before, so that it is said once.
    refused: Option<ListError>,
    /// The node is stopped: who has recorded is finished.
    is_stopping: bool,
}

struct Adapter {
    wanted: Wanted,
    state: State,
    /// What was told of it last: the same is told once.
    told: String,
}

enum State {
    /// Its directory or reel could not be opened.
    Waits { until: Instant },
    Runs(Box<Running>),
    /// It has made its files final: there is nothing to start again.
    Done,
}

struct Running {
    child: Child,
    /// It was asked to end, and is killed then.
    kill_at: Option<Instant>,
    /// Inherited by each process; closed with the last.
    _inherited: Vec<OwnedFd>,
}

impl Adapters {
    pub fn new(recorders: Recorders) -> io::Result<Adapters> {
        let (socket, control) = UnixDatagram::pair()?;
        // Control's end is a file description that its successors share: nobody waits on either.
        socket.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        Ok(Adapters { recorders, socket, control, wanted: Vec::new(), running: Vec::new(), refused: None, is_stopping: false })
    }

    /// What control inherits.
    pub fn control_fd(&self) -> RawFd {
        self.control.as_raw_fd()
    }

    pub fn watches(&self) -> impl Iterator<Item = Watch<'_>> {
        let children = self.running.iter().filter_map(|adapter| adapter.child());
        std::iter::once(Watch::new(self.socket.as_fd())).chain(children.flat_map(Child::watches))
    }

    pub fn deadline(&self) -> Option<Instant> {
        let of = |adapter: &Adapter| match &adapter.state {
            State::Waits { until } => Some(*until),
            State::Runs(running) => [running.child.deadline(), running.kill_at].into_iter().flatten().min(),
            State::Done => None,
        };
        self.running.iter().filter_map(of).min()
    }

    /// Reads lists, looks after processes, and makes what is so what is wanted.
    pub fn step(&mut self, now: Instant, hold: &Hold, settings: &RecordingSettings, data: &Path) {
        self.read_lists();
        for at in 0..self.running.len() {
            self.look_after(at, now);
        }
        self.reconcile(now, hold, settings, data);
    }

    fn read_lists(&mut self) {
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX + 1];
        for _ in 0..LISTS_PER_LOOK {
            let Ok(length) = self.socket.recv(&mut bytes) else { return };
            match parse_list(bytes.get(..length).unwrap_or_default()) {
                Ok(wanted) => (self.wanted, self.refused) = (wanted, None),
                Err(error) if self.refused.as_ref() == Some(&error) => {}
                Err(error) => {
                    warn(format!("what control wants of recorders is refused, the list before goes on: {error}"));
                    self.refused = Some(error);
                }
            }
        }
    }

    fn look_after(&mut self, at: usize, now: Instant) {
        let Some(adapter) = self.running.get_mut(at) else { return };
        let State::Runs(running) = &mut adapter.state else { return };
        running.child.on_output();
        let death = running.child.on_exit(now);
        running.child.on_ready();
        if running.kill_at.is_some_and(|kill_at| now >= kill_at) {
            warn(format!("the recorder of {} did not end within {} s of SIGTERM: killed", adapter.wanted.recording, END_PATIENCE.as_secs()));
            running.child.signal(libc::SIGKILL);
            running.kill_at = None;
        }
        let is_wanted = self.wanted.contains(&adapter.wanted);
        match death {
            Some(death) => on_death(adapter, &death, now, is_wanted, &self.socket),
            None => running.child.on_time(now),
        }
    }

    fn reconcile(&mut self, now: Instant, hold: &Hold, settings: &RecordingSettings, data: &Path) {
        let wanted = &self.wanted;
        self.running.retain_mut(|adapter| {
            if wanted.contains(&adapter.wanted) {
                return true;
            }
            let State::Runs(running) = &mut adapter.state else { return false };
            running.child.forget_start();
            if running.child.is_running() && running.kill_at.is_none() {
                running.child.signal(libc::SIGTERM);
                running.kill_at = Some(now + END_PATIENCE);
            }
            running.child.is_running()
        });
        for wanted in &self.wanted {
            // One that is to end first has the same directory.
            if !self.running.iter().any(|adapter| adapter.wanted.recording == wanted.recording) {
                let state = State::Waits { until: now };
                self.running.push(Adapter { wanted: wanted.clone(), state, told: String::new() });
            }
        }
        for adapter in &mut self.running {
            let State::Waits { until } = &adapter.state else { continue };
            if now < *until || !self.wanted.contains(&adapter.wanted) {
                continue;
            }
            adapter.state = match start(&self.recorders, &adapter.wanted, now, hold, settings, data) {
                Ok(running) => State::Runs(Box::new(running)),
                Err(trouble) => {
                    adapter.tell(&self.socket, trouble);
                    State::Waits { until: now + OPEN_RETRY }
                }
            };
        }
    }

    /// Whether a process of theirs still runs, or is to.
    pub fn are_running(&self) -> bool {
        self.running.iter().any(|adapter| adapter.waits() || adapter.child().is_some_and(Child::is_running))
    }

    /// Whether one still writes what it has.
    pub fn are_recording(&self) -> bool {
        let records = |adapter: &Adapter| matches!(adapter.wanted.run, Run::Record { .. });
        self.running.iter().filter(|adapter| records(adapter)).filter_map(Adapter::child).any(Child::is_running)
    }

    /// On the way out: recorders are asked to end, and what they leave is finished (`step_stopping`).
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.end(|wanted| matches!(wanted.run, Run::Record { .. }).then_some(libc::SIGTERM));
    }

    /// Nothing more is started, and what runs is killed: the next start goes on where it was.
    pub fn stop_by_force(&mut self) {
        self.is_stopping = false;
        self.end(|_| Some(libc::SIGKILL));
    }

    /// Nothing is wanted any more; each process gets its signal.
    fn end(&mut self, signal: impl Fn(&Wanted) -> Option<libc::c_int>) {
        self.wanted.clear();
        self.running.retain_mut(|adapter| {
            let State::Runs(running) = &mut adapter.state else { return false };
            running.child.forget_start();
            if let Some(signal) = signal(&adapter.wanted) {
                running.child.signal(signal);
            }
            true
        });
    }

    /// While the node is stopped: once recorders are asked to end, what each has left is finished, a few at a time. Control
    /// is gone; it reads at the next start that there is nothing left to do.
    pub fn step_stopping(&mut self, now: Instant, hold: &Hold, settings: &RecordingSettings, data: &Path) {
        for at in 0..self.running.len() {
            self.look_after(at, now);
        }
        if !self.is_stopping {
            return;
        }
        self.running.retain_mut(|adapter| {
            if adapter.waits() || adapter.child().is_some_and(Child::is_running) {
                return true;
            }
            let has_recorded = matches!(adapter.wanted.run, Run::Record { .. });
            (adapter.wanted.run, adapter.state) = (Run::Finish, State::Waits { until: now + OPEN_RETRY });
            has_recorded
        });
        let finishing = self.running.iter().filter(|adapter| adapter.wanted.run == Run::Finish && !adapter.waits()).count();
        let free = FINISHING_MAX.saturating_sub(finishing);
        for adapter in self.running.iter_mut().filter(|adapter| adapter.waits()).take(free) {
            // What cannot be opened now is the next start's matter.
            adapter.state = start(&self.recorders, &adapter.wanted, now, hold, settings, data)
                .map_or(State::Done, |running| State::Runs(Box::new(running)));
        }
    }

    pub fn kill(&mut self) {
        for adapter in &mut self.running {
            if let State::Runs(running) = &mut adapter.state {
                running.child.kill();
            }
        }
    }

    #[cfg(test)]
    fn pid(&self, recording: &str) -> Option<u32> {
        self.running.iter().find(|adapter| adapter.wanted.recording == recording)?.child()?.ready_pid()
    }
}

impl Adapter {
    fn child(&self) -> Option<&Child> {
        match &self.state {
            State::Runs(running) => Some(&running.child),
            _ => None,
        }
    }

    fn waits(&self) -> bool {
        matches!(self.state, State::Waits { .. })
    }

    /// Says what keeps it from running, to whoever started us and to control; the same again is no news.
    fn tell(&mut self, socket: &UnixDatagram, detail: String) {
        if self.told == detail {
            return;
        }
        warn(format!("recording {}: {detail}", self.wanted.recording));
        let trouble = Trouble { recording: self.wanted.recording.clone(), detail: detail.clone() };
        // Nobody reads while there is no control: it asks the journal.
        let _ = socket.send(trouble.write().as_bytes());
        self.told = detail;
    }
}

fn on_death(adapter: &mut Adapter, death: &Death, now: Instant, is_wanted: bool, socket: &UnixDatagram) {
    let State::Runs(running) = &mut adapter.state else { return };
    running.kill_at = None;
    if !is_wanted {
        return;
    }
    if adapter.wanted.run == Run::Finish && death.status.success() {
        adapter.state = State::Done;
        return;
    }
    let (restart, status) = (death.restart, describe(death.status));
    running.child.start_at(now + restart.delay);
    let recording = &adapter.wanted.recording;
    if !restart.is_news {
        return;
    }
    if restart.is_hopeless {
        let words = running.child.last_words();
        let last = words.last().cloned().unwrap_or_default();
        for line in words {
            say(format!("  | {line}"));
        }
        let detail = format!("its recorder dies before it is ready, again and again ({status}): {last}");
        return adapter.tell(socket, detail);
    }
    match death.was_asked {
        true => say(format!("the recorder of {recording} (pid {}) ended; it is started again", death.pid)),
        false => warn(format!("the recorder of {recording} (pid {}) died ({status}); it is started again", death.pid)),
    }
}

/// An error says what could not be opened.
fn start(
    recorders: &Recorders,
    wanted: &Wanted,
    now: Instant,
    hold: &Hold,
    settings: &RecordingSettings,
    data: &Path,
) -> Result<Running, String> {
    let root = settings.directory(data);
    let (mode, since) = match wanted.run {
        Run::Record { since_ns, .. } => ("record", Time(since_ns)),
        Run::Finish => ("finish", Time::ZERO),
    };
    let directory = open_directory(&root, &wanted.recording, mode == "record")
        .map_err(|error| format!("cannot open {}: {error}; see recording.dir", root.join(&wanted.recording).display()))?;
    let reel = match wanted.run {
        Run::Record { stream, .. } => Some(hold.reel(stream).map_err(|error| format!("cannot open the reel: {error}"))?),
        Run::Finish => None,
    };
    let arguments = recorders.arguments.iter().copied().chain([mode]).map(Into::into).collect();
    let (program, cores) = (recorders.program.clone(), recorders.cores.clone());
    let mut child = Child::new(Plan { name: "recorder", program, arguments, cores, nice: NICE })
        .map_err(|error| format!("cannot make a pipe: {error}"))?;
    let tap = Tap {
        ready: child.ready_fd(),
        directory: directory.as_raw_fd(),
        reel: reel.as_ref().map(AsRawFd::as_raw_fd),
        recording: wanted.recording.clone(),
        stream: match wanted.run {
            Run::Record { stream, generation, .. } => Some(StreamId::new(stream, generation).to_bits()),
            Run::Finish => None,
        },
        since,
        fsync: settings.fsync(),
        file_bytes_max: settings.file_bytes_max,
        file_seconds_max: settings.file_seconds_max.into(),
    };
    let keep = [Some(tap.ready), Some(tap.directory), tap.reel].into_iter().flatten().collect();
    child.hand_over(TAP_VARIABLE, tap.to_text(), keep);
    child.start_at(now);
    child.on_time(now);
    Ok(Running { child, kill_at: None, _inherited: [Some(directory), reel].into_iter().flatten().collect() })
}

/// The recording's own directory below `root`, made if it is to be written in. `id` was checked; what stands there and
/// is no directory, or leads elsewhere, is not followed.
fn open_directory(root: &Path, id: &str, make: bool) -> io::Result<OwnedFd> {
    let path = root.join(id);
    if make {
        DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    Ok(OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

#[cfg(test)]
mod tests {
    //! Goal: what the list says is so, whoever dies; a recorder gets its descriptors and nothing else.
    //! Method: a shell script in the recorder's place, which writes down what it was given.

    use super::super::media::bind_http;
    use super::super::sys::poll;
    use super::*;
    use crate::data_dir::tests::Scratch;
    use crate::wanted::write_list;
    use std::fs;

    const A: &str = "rec_00000000000000000000000001";
    const B: &str = "rec_00000000000000000000000002";

    struct Desk {
        scratch: Scratch,
        hold: Hold,
        adapters: Adapters,
        settings: RecordingSettings,
    }

    impl Desk {
        fn new(script: &str) -> Desk {
            let hold = Hold::new(bind_http("127.0.0.1:0".parse().unwrap()).unwrap(), Vec::new(), 1).unwrap();
            // The script's $1 is the mode. Its directory is the descriptor that SPILLWAY_TAP names.
            let script = format!(
                "for field in $SPILLWAY_TAP; do export \"$field\"; done; d=/proc/self/fd/$directory; {script}"
            );
            let arguments = vec!["-c", Box::leak(script.into_boxed_str()), "recorder"];
            let recorders = Recorders { program: "/bin/sh".into(), cores: Vec::new(), arguments };
            let (scratch, settings) = (Scratch::new(), RecordingSettings::default());
            Desk { scratch, hold, adapters: Adapters::new(recorders).unwrap(), settings }
        }

        fn want(&mut self, list: &[(&str, Run)]) {
            let list: Vec<Wanted> = list.iter().map(|(id, run)| Wanted { recording: (*id).into(), run: *run }).collect();
            self.adapters.control.send(write_list(&list).as_bytes()).unwrap();
        }

        fn step(&mut self) {
            self.adapters.step(Instant::now(), &self.hold, &self.settings, &self.scratch.0);
        }

        fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Desk) -> bool) {
            let began = Instant::now();
            loop {
                self.step();
                if is_so(self) {
                    return;
                }
                assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
                let mut watches: Vec<Watch> = self.adapters.watches().collect();
                poll(&mut watches, Duration::from_millis(20)).unwrap();
            }
        }

        fn read(&self, id: &str, name: &str) -> String {
            fs::read_to_string(self.scratch.0.join("recordings").join(id).join(name)).unwrap_or_default()
        }
    }

    impl Drop for Desk {
        fn drop(&mut self) {
            self.adapters.kill();
        }
    }

    const RECORD: Run = Run::Record { stream: 3, generation: 1, since_ns: 77 };
    /// Notes each start, is ready, and waits for SIGTERM.
    const STAYS: &str = "echo $1 $$ >> $d/log; trap 'echo end >> $d/log; exit 0' TERM; echo ready >/dev/fd/$ready; \
                         while :; do sleep 0.05; done";

    #[test]
    fn what_is_missing_starts_what_is_unwanted_ends_and_finishing_comes_after() {
        let mut desk = Desk::new(STAYS);
        desk.want(&[(A, RECORD), (B, RECORD)]);
        desk.until("both run", |desk| desk.adapters.pid(A).is_some() && desk.adapters.pid(B).is_some());
        let (a, b) = (desk.adapters.pid(A), desk.adapters.pid(B));
        // The same list again is no reason for anything; neither is one that cannot be read.
        desk.want(&[(A, RECORD), (B, RECORD)]);
        desk.adapters.control.send(b"{").unwrap();
        desk.step();
        assert_eq!((desk.adapters.pid(A), desk.adapters.pid(B)), (a, b));
        desk.want(&[(A, Run::Finish)]);
        desk.until("B is gone and A finishes", |desk| {
            desk.adapters.pid(B).is_none() && desk.adapters.pid(A).is_some_and(|pid| Some(pid) != a)
        });
        let log = desk.read(A, "log");
        let lines: Vec<&str> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(lines, ["record", "end", "finish"], "one at a time: {log}");
        desk.until("B has ended", |desk| desk.adapters.running.len() == 1);
        assert!(desk.read(B, "log").ends_with("end\n"));
    }

    #[test]
    fn what_dies_is_started_again_and_what_is_finished_is_not() {
        let mut desk = Desk::new(
            "echo $1 >> $d/log; echo ready >/dev/fd/$ready; if [ $1 = finish ]; then exit 0; fi; while :; do sleep 0.05; done",
        );
        desk.want(&[(A, RECORD), (B, Run::Finish)]);
        // A directory that is to be finished must be there.
        fs::create_dir_all(desk.scratch.0.join("recordings").join(B)).unwrap();
        desk.until("A runs, B is done", |desk| desk.adapters.pid(A).is_some() && desk.read(B, "log") == "finish\n");
        let first = desk.adapters.pid(A);
        desk.adapters.running.iter().find_map(Adapter::child).unwrap().signal(libc::SIGKILL);
        desk.until("A runs again", |desk| desk.adapters.pid(A).is_some_and(|pid| Some(pid) != first));
        assert_eq!((desk.read(A, "log").as_str(), desk.read(B, "log").as_str()), ("record\nrecord\n", "finish\n"));
        // Control was restarted, and does not know yet that it is done.
        desk.want(&[(B, Run::Finish), (A, RECORD)]);
        desk.step();
        assert_eq!(desk.read(B, "log"), "finish\n");
    }

    #[test]
    fn a_recorder_gets_its_reel_to_read_its_directory_and_nothing_else() {
        let mut desk = Desk::new(
            "ls /proc/$$/fd > $d/fds; echo $since $recording $fsync $file_bytes $file_seconds > $d/given; echo ready >/dev/fd/$ready; \
             while :; do sleep 0.05; done",
        );
        desk.settings.fsync = "segment".into();
        (desk.settings.file_bytes_max, desk.settings.file_seconds_max) = (5, 6);
        desk.want(&[(A, RECORD)]);
        desk.until("it runs", |desk| desk.adapters.pid(A).is_some());
        assert_eq!(desk.read(A, "given"), format!("77 {A} segment 5 6\n"));
        let fds = desk.read(A, "fds");
        // 0, 1, 2, ready, directory, reel, and 255 or 10 where a shell keeps one of its own for a moment.
        assert!(fds.lines().filter(|fd| fd.parse::<i32>().is_ok()).count() <= 7, "{fds}");
        let pid = desk.adapters.pid(A).unwrap();
        let reel: i32 = tap_field(pid, "reel").parse().unwrap();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{reel}")).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim().to_owned();
        assert_eq!(i32::from_str_radix(&flags, 8).unwrap() & libc::O_ACCMODE, libc::O_RDONLY);
        let nice = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert_eq!(nice.rsplit(')').next().unwrap().split_whitespace().nth(16), Some("10"));
    }

    #[test]
    fn on_the_way_out_what_was_recorded_is_finished_a_few_at_a_time() {
        // Whoever finishes notes how many do so at once.
        let mut desk = Desk::new(
            "echo $1 >> $d/log; trap 'echo end >> $d/log; exit 0' TERM; echo ready >/dev/fd/$ready; \
             if [ $1 = finish ]; then mkdir $d/busy; ls -d $d/../*/busy | wc -l >> $d/log; sleep 0.2; rmdir $d/busy; exit 0; fi; \
             while :; do sleep 0.05; done",
        );
        let ids: Vec<String> = (1..=5).map(|number| format!("rec_0000000000000000000000000{number}")).collect();
        let list: Vec<(&str, Run)> = ids.iter().map(|id| (id.as_str(), RECORD)).collect();
        desk.want(&list);
        desk.until("all run", |desk| ids.iter().all(|id| desk.adapters.pid(id).is_some()));
        desk.adapters.stop();
        let began = Instant::now();
        while desk.adapters.are_running() {
            desk.adapters.step_stopping(Instant::now(), &desk.hold, &desk.settings, &desk.scratch.0);
            assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: all are finished");
            let mut watches: Vec<Watch> = desk.adapters.watches().collect();
            poll(&mut watches, Duration::from_millis(20)).unwrap();
        }
        for id in &ids {
            let log = desk.read(id, "log");
            let lines: Vec<&str> = log.lines().collect();
            assert!(matches!(lines[..], ["record", "end", "finish", "1" | "2"]), "{log}");
        }
    }

    #[test]
    fn whoever_is_stopped_by_force_finishes_nothing() {
        let mut desk = Desk::new(STAYS);
        desk.want(&[(A, RECORD), (B, RECORD)]);
        desk.until("both run", |desk| desk.adapters.pid(A).is_some() && desk.adapters.pid(B).is_some());
        desk.adapters.stop();
        desk.adapters.stop_by_force();
        let began = Instant::now();
        while desk.adapters.are_running() {
            desk.adapters.step_stopping(Instant::now(), &desk.hold, &desk.settings, &desk.scratch.0);
            assert!(began.elapsed() < Duration::from_secs(20), "waited in vain: all are gone");
        }
        assert!(!desk.read(A, "log").contains("finish") && !desk.read(B, "log").contains("finish"));
    }

    fn tap_field(pid: u32, name: &str) -> String {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let all = environment.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned());
        let tap = all.into_iter().find_map(|entry| entry.strip_prefix("SPILLWAY_TAP=").map(str::to_owned)).unwrap();
        let fields = tap.split(' ').filter_map(|field| field.split_once('='));
        fields.into_iter().find(|(field, _)| *field == name).unwrap().1.to_owned()
    }

    #[test]
    fn what_keeps_it_from_running_is_told_once_and_goes_by() {
        let mut desk = Desk::new(STAYS);
        // A file stands where the directory of all recordings should be.
        fs::write(desk.scratch.0.join("recordings"), "").unwrap();
        desk.want(&[(A, RECORD)]);
        desk.step();
        let mut bytes = [0; 4_096];
        let length = desk.adapters.control.recv(&mut bytes).unwrap();
        let trouble = Trouble::parse(&bytes[..length]).unwrap();
        assert!(trouble.recording == A && trouble.detail.contains("recording.dir"), "{trouble:?}");
        fs::remove_file(desk.scratch.0.join("recordings")).unwrap();
        desk.until("it runs", |desk| desk.adapters.pid(A).is_some());
        assert!(desk.adapters.control.recv(&mut bytes).is_err(), "told once");
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let mut desk = Desk::new(STAYS);
        let elsewhere = desk.scratch.0.join("elsewhere");
        fs::create_dir_all(desk.scratch.0.join("recordings")).unwrap();
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, desk.scratch.0.join("recordings").join(A)).unwrap();
        desk.want(&[(A, RECORD), (B, RECORD)]);
        desk.until("the other one runs", |desk| desk.adapters.pid(B).is_some());
        assert!(fs::read_dir(&elsewhere).unwrap().next().is_none());
        assert_eq!(desk.adapters.pid(A), None);
    }
}
