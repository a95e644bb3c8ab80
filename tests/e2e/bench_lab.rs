//! Goal: the load tester's figures agree with what others count beside it, and its lab leaves nothing behind.
//! Method: `lab` with few viewers (root). While it runs, this test listens on the cable with a packet socket of its own, reads the
//! interface's counter and /proc, and cuts the same window out of them that the result names. Then: interrupted at three
//! moments; with a burst of viewers; and beside `strace`, which counts the engine's calls into the kernel.

use serde_json::Value;
use spillway_proto::link::counters::CounterId;
use spillway_tests::kernel::{self, Tap};
use spillway_tests::node::{Machine, Scratch, binary};
use spillway_tests::program::Program;
use spillway_tests::wait::{seconds, until};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Of the interface's counter: everything that came in, and when.
const COUNTER_TOLERANCE: f64 = 0.005;
const CPU_TOLERANCE: f64 = 0.03;

struct Lab {
    program: Program,
    json: PathBuf,
    _scratch: Scratch,
}

impl Lab {
    fn begin(more: &[&str]) -> Lab {
        Lab::begin_as("lab", more)
    }

    fn begin_as(command: &str, more: &[&str]) -> Lab {
        let subcommand = command;
        let scratch = Scratch::new();
        let json = scratch.0.join("result.json");
        let mut command = Command::new(binary().with_file_name("spillway-bench"));
        command.args([subcommand, "--scenario", "W1", "--json"]).arg(&json).args(more);
        Lab { program: Program::begin(command), json, _scratch: scratch }
    }

    fn namespace(&self, side: &str) -> PathBuf {
        format!("/run/netns/sb-{}-{side}", self.program.pid()).into()
    }

    fn data(&self) -> PathBuf {
        std::env::temp_dir().join(format!("spillway-lab-{}", self.program.pid()))
    }

    /// Supervisor, control and engine, once all three are there.
    fn server_pids(&self) -> Vec<u32> {
        until("the lab's server is ready", seconds(30), || {
            let node = fs::read_to_string(self.data().join("node.json")).map_err(|error| error.to_string())?;
            let node: Value = serde_json::from_str(&node).map_err(|error| error.to_string())?;
            let pid = |key: &str| node[key].as_u64().map(|pid| pid as u32).ok_or_else(|| node.to_string());
            Ok::<_, String>(vec![pid("supervisor_pid")?, pid("control_pid")?, pid("engine_pid")?])
        })
    }

    fn result(&mut self) -> Value {
        let code = self.program.exit_code(seconds(90));
        let said = self.program.lines().join("\n");
        // Where the machine is busy with something else that is told, and the numbers agree all the same.
        assert!(matches!(code, Some(0 | 97)), "{code:?}\n{said}");
        let json = fs::read_to_string(&self.json).unwrap_or_default();
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}\n{said}"))
    }
}

fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Time these processes' threads have been on a core, in nanoseconds.
fn cpu_ns(pids: &[u32]) -> u64 {
    let threads = pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let time = |path: PathBuf| fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok();
    threads.filter_map(|thread| time(thread.path())).sum()
}

/// What the interface of this thread's network says it has received.
fn received() -> u64 {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("sb0:"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or_default()
}

/// IPv4, UDP, and neither STUN nor DTLS (RFC 7983 section 7) nor RTCP (RFC 5761 section 4).
fn is_rtp(packet: &[u8]) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or_default() & 0x0F) * 4;
    let payload = packet.get(header + 8..).unwrap_or_default();
    packet.get(9) == Some(&17) && matches!(payload, [128..=191, kind, ..] if !(192..=223).contains(kind))
}

/// Moments and what a counter showed then.
#[derive(Default)]
struct Curve(Vec<(u64, u64)>);

impl Curve {
    /// What it showed at a moment between two of them: on the straight line.
    fn at(&self, moment: u64) -> f64 {
        let next = self.0.partition_point(|(at, _)| *at < moment);
        let ((from, low), (to, high)) = (self.0[next - 1], self.0[next]);
        low as f64 + (high - low) as f64 * (moment - from) as f64 / (to - from).max(1) as f64
    }

    fn between(&self, from: u64, to: u64) -> f64 {
        self.at(to) - self.at(from)
    }
}

/// What came in to the viewers' network meanwhile, and what the server used.
struct Seen {
    rtp_at: Vec<u64>,
    all_at: Vec<u64>,
    counter: Curve,
    cpu: Curve,
}

fn watch(network: &Path, pids: &[u32], stop: &AtomicBool) -> Seen {
    let network = File::open(network).expect("the viewers' network");
    std::thread::scope(|scope| {
        let tap = scope.spawn(|| {
            kernel::enter_network(&network);
            let (tap, mut bytes, mut rtp_at, mut all_at) = (Tap::open(), [0; 64], Vec::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let Some((length, at)) = tap.next(&mut bytes).filter(|(length, _)| *length > 0) else { continue };
                all_at.push(at);
                if is_rtp(&bytes[..length]) {
                    rtp_at.push(at);
                }
            }
            (rtp_at, all_at)
        });
        let counters = scope.spawn(|| {
            kernel::enter_network(&network);
            let (mut counter, mut cpu) = (Curve::default(), Curve::default());
            while !stop.load(Ordering::Relaxed) {
                counter.0.push((unix_ns(), received()));
                cpu.0.push((unix_ns(), cpu_ns(pids)));
                // How often one looks: what lies between two looks is on a straight line.
                std::thread::sleep(Duration::from_millis(2));
            }
            (counter, cpu)
        });
        let (rtp_at, all_at) = tap.join().expect("the tap");
        let (counter, cpu) = counters.join().expect("the counters");
        Seen { rtp_at, all_at, counter, cpu }
    })
}

fn assert_near(what: &str, ours: f64, theirs: f64, tolerance: f64, of: &Value) {
    let off = ours / theirs - 1.0;
    assert!(off.abs() <= tolerance, "{what}: {ours:.0}, and counted beside it {theirs:.0}: {:+.2} %\n{of}", off * 100.0);
}

#[test]
fn packets_and_cpu_are_those_that_the_interface_and_proc_count() {
    let _machine = Machine::alone();
    let mut lab = Lab::begin(&["--viewers", "60", "--hold", "6s"]);
    let (pids, network, stop) = (lab.server_pids(), lab.namespace("v"), AtomicBool::new(false));
    let (seen, result) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| watch(&network, &pids, &stop));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.result()));
        stop.store(true, Ordering::Relaxed);
        (seen.join().expect("the watch"), result.unwrap_or_else(|error| std::panic::resume_unwind(error)))
    });
    let moment = |key: &str| result["window"][key].as_u64().expect("a moment");
    let (from, to) = (moment("from_unix_ns"), moment("to_unix_ns"));
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {result}"));
    assert!((to - from) as f64 / 1e9 >= 5.9 && number("/duration_s") == (to - from) as f64 / 1e9, "{result}");
    let within = |stamps: &[u64]| stamps.iter().filter(|at| (from..to).contains(*at)).count() as f64;
    let (rtp, all, counter) = (within(&seen.rtp_at), within(&seen.all_at), seen.counter.between(from, to));
    assert_near("the tap and the counter", all, counter, COUNTER_TOLERANCE, &result);
    assert_near("delivered_packets", number("/delivered_packets"), rtp, COUNTER_TOLERANCE, &result);
    // HTTP is over by then, but for a few bytes: what is left is what viewers got.
    let taken = number("/delivered_packets") + number("/other_packets");
    assert_near("all that viewers took", taken, counter, COUNTER_TOLERANCE, &result);
    let cpu = seen.cpu.between(from, to);
    assert_near("cpu_ns_per_packet", number("/server/cpu_ns_per_packet"), cpu / rtp, CPU_TOLERANCE, &result);
    assert_near("cpu_ratio", number("/server/cpu_ratio"), cpu / (to - from) as f64, CPU_TOLERANCE, &result);
    // The bare loop sent over the same cable, and all of it was taken: to send costs more than not to, and the first packets of 60 viewers' are not the last.
    assert!(number("/server/bare_ns_per_packet") > number("/server/seal_ns_per_packet") && number("/server/bare_latency_us") > 10.0, "{result}");
}

/// With a NIC that drops: the engine's own counter has what the device took, and one viewer of the thirty sees what it sends, which is
/// what was published.
#[test]
fn a_null_nic_takes_what_the_engine_sends() {
    let _machine = Machine::alone();
    let mut lab = Lab::begin_as("null", &["--viewers", "30", "--seconds", "4"]);
    let (pids, network, stop) = (lab.server_pids(), lab.namespace("v"), AtomicBool::new(false));
    let (sent, came, result) = std::thread::scope(|scope| {
        let counters = scope.spawn(|| {
            kernel::enter_network(&File::open(&network).expect("the viewers' network"));
            let engine = kernel::Counters::of(pids[0]);
            let (mut sent, mut came) = (Curve::default(), Curve::default());
            while !stop.load(Ordering::Relaxed) {
                sent.0.push((unix_ns(), engine.sum(CounterId::PacketsSent)));
                came.0.push((unix_ns(), received()));
                // As above.
                std::thread::sleep(Duration::from_millis(2));
            }
            (sent, came)
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.result()));
        stop.store(true, Ordering::Relaxed);
        let (sent, came) = counters.join().expect("the counters");
        (sent, came, result.unwrap_or_else(|error| std::panic::resume_unwind(error)))
    });
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {result}"));
    let (from, to) = (number("/window/from_unix_ns") as u64, number("/window/to_unix_ns") as u64);
    assert_eq!((&result["network"], &result["viewers_joined"]), (&"null".into(), &30.into()), "{result}");
    assert_near("delivered_packets", number("/delivered_packets"), sent.between(from, to), 0.01, &result);
    // A keyframe more or less at either end.
    assert_near("pps_per_viewer", number("/pps_per_viewer"), 310.0, 0.07, &result);
    let of_one = number("/delivered_packets") / 30.0;
    assert!(came.between(from, to) < of_one * 1.5, "viewers got {}", came.between(from, to));
    assert!(number("/opened_packets") > of_one * 0.9 && number("/altered_packets") == 0.0, "{result}");
    assert!(number("/server/sends_per_packet") <= 1.0 && number("/server/seal_ns_per_packet") > 10.0, "{result}");
    // To send costs more than not to.
    assert!(number("/server/bare_ns_per_packet") > number("/server/seal_ns_per_packet"), "{result}");
}

/// Calls that a summary of `strace -c` counts, by name.
fn calls(summary: &str) -> BTreeMap<String, u64> {
    // % time, seconds, usecs/call, calls, errors or nothing, name.
    let rows = summary.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter_map(|row| Some(((*row.last()?).to_owned(), row.get(3)?.parse().ok()?))).filter(|(name, _)| name != "total").collect()
}

/// 500 viewers of W1: all that the engine asks of the kernel, receiving and waiting included, is less than half a call for each
/// packet it sends. (The time strace costs it makes it busier, not the packets fewer.)
#[test]
fn five_hundred_viewers_cost_less_than_half_a_system_call_per_packet() {
    let _machine = Machine::alone();
    let mut lab = Lab::begin(&["--viewers", "500", "--ramp", "200/s", "--hold", "15s"]);
    let pids = lab.server_pids();
    lab.program.until("everybody is there", seconds(60), |lines| lines.iter().any(|line| line.contains("holding")).then_some(()));
    let scratch = Scratch::new();
    let (counters, table) = (kernel::Counters::of(pids[0]), scratch.0.join("calls"));
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(&table).args(["-p", &pids[2].to_string()]);
    let mut strace = Program::begin(command);
    strace.until("strace is there (apt-get install strace)", seconds(20), |lines| lines.iter().any(|line| line.contains("attached")).then_some(()));
    let sent = || counters.sum(CounterId::PacketsSent);
    let before = sent();
    // So many that what strace saw before and after is nothing beside them: a second's.
    until("packets are sent", seconds(30), || (sent() - before >= 155_000).then_some(()).ok_or_else(|| format!("{}", sent() - before)));
    let packets = sent() - before;
    kernel::signal(strace.pid(), libc::SIGINT);
    strace.exit_code(seconds(20));
    let calls = calls(&fs::read_to_string(&table).unwrap_or_default());
    let all: u64 = calls.values().sum();
    assert!(all > 100 && calls.keys().any(|name| name == "recvmmsg"), "strace saw the shard at work: {calls:?}");
    assert!(all * 2 <= packets, "{all} calls for {packets} packets: {calls:?}");
}

/// Newcomers are told apart from those who are there: they are in no count but their own.
#[test]
fn a_burst_is_counted_by_itself() {
    let _machine = Machine::alone();
    let mut lab = Lab::begin(&["--viewers", "10", "--ramp", "50/s", "--sink", "full", "--hold", "6s", "--burst", "60", "--burst-ramp", "60/s"]);
    let result = lab.result();
    let burst = &result["burst"];
    assert_eq!((&result["viewers_offered"], &result["viewers_joined"], &result["witnesses"]), (&10.into(), &10.into(), &10.into()), "{result}");
    assert_eq!((&burst["viewers"], &burst["joined"], &burst["failures"]), (&60.into(), &60.into(), &serde_json::json!({})), "{result}");
    let number = |path: &str| result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {result}"));
    let (due, took) = (number("/burst/due_s"), number("/burst/took_s"));
    assert!((due - 59.0 / 60.0).abs() < 0.01 && took >= due, "due in {due} s, took {took} s");
    // Ten witnesses of 310 packets a second: a second before it, and as long as it took.
    let (before, during) = (number("/burst/latency_before_us/samples"), number("/burst/latency_during_us/samples"));
    assert!((0.9..=1.3).contains(&(before / 3_100.0)), "{before} samples before");
    assert!((took * 0.9 - 0.1..=took * 1.1 + 0.3).contains(&(during / 3_100.0)), "{during} samples in {took} s");
    // The stream of the others is not in it.
    assert_near("delivered_packets", number("/delivered_packets"), 3_100.0 * number("/duration_s"), 0.03, &result);
}

#[test]
fn an_interrupted_lab_leaves_nothing_behind() {
    let _machine = Machine::busy();
    let saying = |lab: &mut Lab, word: &str| {
        lab.program.until(word, seconds(60), |lines| lines.iter().any(|line| line.contains(word)).then_some(()));
    };
    for (moment, signal) in [("server", libc::SIGINT), ("joining", libc::SIGTERM), ("holding", libc::SIGINT)] {
        let mut lab = Lab::begin(&["--viewers", if moment == "joining" { "2000" } else { "20" }, "--hold", "60s"]);
        let pids = if moment == "server" {
            // In the middle of its start: the network is there, and not more.
            until("the network", seconds(30), || lab.namespace("v").exists().then_some(()).ok_or_else(|| "not yet".to_owned()));
            Vec::new()
        } else {
            saying(&mut lab, moment);
            lab.server_pids()
        };
        kernel::signal(lab.program.pid(), signal);
        let code = lab.program.exit_code(seconds(60));
        let said = lab.program.lines().join("\n");
        assert_eq!(code, Some(130), "{moment}: {said}");
        for path in [lab.namespace("s"), lab.namespace("v"), lab.data()] {
            assert!(!path.exists(), "{moment}: {} is still there\n{said}", path.display());
        }
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{moment}: process {pid} still runs\n{said}");
        }
        // What was measured until then is told.
        let json: Value = serde_json::from_str(&fs::read_to_string(&lab.json).unwrap_or_default()).unwrap_or_default();
        if moment == "holding" {
            assert!(json["viewers_joined"] == 20 && json["duration_s"].as_f64() < Some(59.0), "{json}\n{said}");
        }
    }
}
