//! Goal: the load tester says what is true, of our server and of another's, and ends with the code that says so.
//! Method: its binary against a node; losses of its own making; a core it has to share; a server that is not there, or answers
//! one join at a time; a WHIP and WHEP server on aiortc, which shares nothing with ours.

use serde_json::Value;
use spillway_tests::node::{Machine, Node, Scratch, binary};
use spillway_tests::program::{Program, tool};
use spillway_tests::slow_server::SlowServer;
use spillway_tests::wait::seconds;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::Duration;

struct Ran {
    code: i32,
    said: String,
    json: Value,
}

fn bench() -> PathBuf {
    binary().with_file_name("spillway-bench")
}

/// One `run` with a JSON of its own. `before` is put before the program: a core to run on, for example.
fn run_as(before: &[&str], arguments: &[String]) -> Ran {
    let scratch = Scratch::new();
    let json = scratch.0.join("result.json");
    let program = bench();
    let mut words: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
    words.push(program.display().to_string());
    words.push("run".to_owned());
    words.extend_from_slice(arguments);
    words.extend(["--json".to_owned(), json.display().to_string()]);
    let Output { status, stdout, stderr } = Command::new(&words[0]).args(&words[1..]).output().expect("it is built");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let json = std::fs::read_to_string(json).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    Ran { code: status.code().unwrap_or(-1), said, json }
}

fn against(node: &Node, more: &[&str]) -> Vec<String> {
    let key = node.data().join("keys/signing.key").display().to_string();
    let own = ["--target", node.http.base(), "--key-file", &key];
    own.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

/// Where the machine is busy with something else, that comes first: 97 before 99 before 0.
fn ended_with(ran: &Ran, code: i32) {
    let expected = if ran.json["generator"]["saturated"] == true { 97 } else { code };
    assert_eq!(ran.code, expected, "{}", ran.said);
}

fn number(ran: &Ran, path: &str) -> f64 {
    ran.json.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} of {}\n{}", ran.json, ran.said))
}

#[test]
fn a_run_against_our_node_measures_what_was_offered() {
    let _machine = Machine::alone();
    let node = Node::start();
    let pid = node.pid("supervisor_pid").to_string();
    let more = ["--viewers", "60", "--ramp", "60/s", "--hold", "4s", "--server-pid", &pid, "--fail", "viewers>=60", "--fail", "loss<=0"];
    let ran = run_as(&[], &against(&node, &more));
    ended_with(&ran, 0);
    assert_eq!((number(&ran, "/viewers_joined"), number(&ran, "/join_failures")), (60.0, 0.0), "{}", ran.said);
    // Four seconds hold two keyframes, or a part of a third.
    let pps = number(&ran, "/pps_per_viewer");
    assert!((295.0..330.0).contains(&pps), "{}", ran.said);
    assert_eq!(number(&ran, "/offered_pps_per_viewer"), 310.0);
    assert!(number(&ran, "/latency_us/samples") > 2.0 * 280.0 * 4.0 * 0.9, "two witnesses: {}", ran.said);
    for path in ["/ttff_ms/p50", "/ttff_ms/p99", "/join_ms/http/p50", "/join_ms/ice/p50", "/join_ms/dtls/p50", "/join_ms/first_packet/p99", "/latency_us/p50", "/latency_us/p999"] {
        assert!(number(&ran, path) >= 0.0);
    }
    assert!(number(&ran, "/ttff_ms/p50") <= number(&ran, "/ttff_ms/p99"));
    assert_eq!(ran.json["srtp_profile"], "AEAD_AES_256_GCM");
    // Supervisor, engine and control, of which the engine works.
    let processes = ran.json["server"]["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 3, "{}", ran.said);
    assert!(number(&ran, "/server/cpu_ns_per_packet") > 0.0 && number(&ran, "/publisher/lost_sessions") == 0.0, "{}", ran.said);
    assert!(ran.said.contains("60 of 60 in 1 room"), "{}", ran.said);
}

#[test]
fn one_of_a_hundred_thrown_away_is_one_percent_and_heals_when_it_is_asked_for() {
    let _machine = Machine::alone();
    let node = Node::start();
    // A keyframe each second: who lost a part of its first one has a picture with the next whole one, and the hold begins.
    let loss = ["--viewers", "20", "--ramp", "40/s", "--hold", "5s", "--drop", "1/100", "--gop", "1s"];
    let pictures = |ran: &Ran| ran.json["ttff_curve_ms"].as_array().map_or(0, Vec::len);
    let ran = run_as(&[], &against(&node, &[&loss[..], &["--no-recover"]].concat()));
    let (raw, after) = (number(&ran, "/loss_raw_ratio"), number(&ran, "/loss_ratio"));
    assert!((raw - 0.01).abs() <= 0.0005 && raw == after, "{}", ran.said);
    assert_eq!(pictures(&ran), 20, "{}", ran.said);
    // By what witnesses read, and by clear headers: here both know the same.
    let ran = run_as(&[], &against(&node, &[&loss[..], &["--no-recover", "--sink", "full"]].concat()));
    let (raw, after) = (number(&ran, "/loss_raw_ratio"), number(&ran, "/loss_ratio"));
    assert!((raw - 0.01).abs() <= 0.0005 && raw == after, "{}", ran.said);
    assert_eq!(pictures(&ran), 20, "{}", ran.said);
    for sink in ["cheap", "full"] {
        let ran = run_as(&[], &against(&node, &[&loss[..], &["--sink", sink]].concat()));
        let (raw, after) = (number(&ran, "/loss_raw_ratio"), number(&ran, "/loss_ratio"));
        assert!((raw - 0.01).abs() <= 0.001 && after < 0.002, "{sink}: {}", ran.said);
        // It came in the stream for that, which a cheap sink opens as well.
        let resent = number(&ran, "/resent_packets");
        assert!(resent > 0.9 * raw * 20.0 * 310.0 * 5.0, "{sink}: {resent} by RTX: {}", ran.said);
    }
}

#[test]
fn it_ends_with_the_code_of_what_happened() {
    let _machine = Machine::alone();
    // Port 9 is discard: nobody listens there.
    let ran = run_as(&[], &["--target", "http://127.0.0.1:9"].map(str::to_owned));
    assert!(ran.code == 98 && ran.said.contains("http://127.0.0.1:9 cannot be reached"), "{} {}", ran.code, ran.said);
    let ran = run_as(&[], &["--target", "127.0.0.1:9"].map(str::to_owned));
    assert!(ran.code == 2 && ran.said.contains("http://127.0.0.1:7080"), "{} {}", ran.code, ran.said);
    let node = Node::start();
    let ran = run_as(&[], &against(&node, &["--viewers", "4", "--hold", "1s", "--fail", "ttff_p99<0.1ms"]));
    ended_with(&ran, 99);
    assert_eq!(ran.json["thresholds"][0]["met"], false);
    assert!(ran.said.contains("NOT MET      ttff_p99<0.1ms"), "{}", ran.said);
}

/// Core 1 has something to do as long as this lives.
struct BusyCore(Child);

impl BusyCore {
    fn begin() -> BusyCore {
        BusyCore(Command::new("taskset").args(["-c", "1", "sh", "-c", "while :; do :; done"]).spawn().expect("taskset"))
    }
}

impl Drop for BusyCore {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_generator_without_a_core_of_its_own_never_blames_the_server() {
    let _machine = Machine::alone();
    let node = Node::start();
    let _busy = BusyCore::begin();
    // A threshold fails as well: 97 comes before 99.
    let ran = run_as(&["taskset", "-c", "1"], &against(&node, &["--viewers", "60", "--ramp", "60/s", "--hold", "3s", "--fail", "ttff_p99<0.1ms"]));
    assert_eq!(ran.code, 97, "{}", ran.said);
    assert_eq!(ran.json["generator"]["saturated"], true);
    assert_eq!(ran.json["thresholds"][0]["met"], false);
    assert!(ran.said.contains("this says nothing about the server"), "{}", ran.said);
    // And 98 before both.
    let arguments = ["--target", "http://127.0.0.1:9", "--viewers", "60", "--hold", "1s", "--fail", "ttff_p99<0.1ms"];
    let ran = run_as(&["taskset", "-c", "1"], &arguments.map(str::to_owned));
    assert_eq!(ran.code, 98, "{}", ran.said);
}

#[test]
fn a_server_that_goes_away_meanwhile_is_not_there_either() {
    let _machine = Machine::alone();
    let node = Node::start();
    let arguments = against(&node, &["--viewers", "4", "--ramp", "40/s", "--hold", "8s", "--fail", "ttff_p99<0.1ms"]);
    let mut command = Command::new(bench());
    command.arg("run").args(arguments);
    let mut program = Program::begin(command);
    program.until("it measures", seconds(30), |lines| lines.iter().any(|line| line.contains("holding")).then_some(()));
    drop(node);
    assert_eq!(program.exit_code(seconds(90)), Some(98), "{}", program.lines().join("\n"));
}

#[test]
fn a_join_that_had_to_wait_for_others_counts_from_when_it_was_due() {
    let _machine = Machine::alone();
    let node = Node::start();
    // Twelve joins due within 0.3 s, of which each takes a quarter: the last is done some 3 s after it was due. A tester that
    // began each join when the one before was over would say that everybody waited for 250 ms.
    let one = Duration::from_millis(250);
    let server = SlowServer::before(node.http.base(), one);
    let key = node.data().join("keys/signing.key").display().to_string();
    let arguments = ["--target", &server.base, "--key-file", &key, "--viewers", "12", "--ramp", "40/s", "--hold", "1s"];
    let ran = run_as(&[], &arguments.map(str::to_owned));
    assert_eq!(number(&ran, "/viewers_joined"), 12.0, "{}", ran.said);
    let last_ms = (one * 12).as_secs_f64() * 1e3 - 300.0;
    for path in ["/join_ms/http/p99", "/ttff_ms/p99"] {
        assert!(number(&ran, path) >= last_ms * 0.97, "{path}: {}", ran.said);
    }
    assert!(number(&ran, "/join_ms/http/p50") >= last_ms * 0.4, "{}", ran.said);
}

#[test]
fn somebody_elses_server_is_measured_as_well() {
    let _machine = Machine::alone();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/foreign_server.py")).env("PYTHONPATH", tool("aiortc"));
    let mut server = Program::begin(command);
    let address = server.until("the server listens", seconds(30), |lines| {
        lines.iter().find_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["http"].as_str()?.to_owned()))
    });
    let target = format!("http://{address}");
    let common = ["--target", &target, "--whip-path", "/whip", "--whep-path", "/whep", "--viewers", "3", "--ramp", "5/s", "--hold", "2s"];
    for more in [&["--codec", "vp8", "--sink", "full"][..], &["--no-publish", "--codec", "h264"]] {
        let ran = run_as(&[], &common.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>());
        ended_with(&ran, 0);
        assert_eq!((number(&ran, "/viewers_joined"), number(&ran, "/loss_ratio")), (3.0, 0.0), "{}", ran.said);
        // It sends pictures and sound of its own, not what was published.
        assert!(number(&ran, "/pps_per_viewer") > 50.0 && number(&ran, "/latency_us/samples") == 0.0, "{}", ran.said);
        let publishes = !more.contains(&"--no-publish");
        assert_eq!(number(&ran, "/publisher/packets") > 600.0, publishes, "{}", ran.said);
    }
}

#[test]
fn a_scenario_of_sound_alone_is_told_with_its_price_and_on_a_page() {
    let _machine = Machine::alone();
    let node = Node::start();
    let scratch = Scratch::new();
    let page = scratch.0.join("page.html").display().to_string();
    let pid = node.pid("supervisor_pid").to_string();
    let more = ["--scenario", "audio-only", "--rooms", "2", "--viewers", "8", "--hold", "3s", "--server-pid", &pid];
    let more = [&more[..], &["--price-core-hour", "0.04", "--price-gb", "0.01", "--report", &page]].concat();
    let ran = run_as(&[], &against(&node, &more));
    ended_with(&ran, 0);
    assert_eq!((number(&ran, "/viewers_joined"), number(&ran, "/rooms"), number(&ran, "/offered_pps_per_viewer")), (8.0, 2.0, 50.0), "{}", ran.said);
    let pps = number(&ran, "/pps_per_viewer");
    assert!((48.0..52.0).contains(&pps) && number(&ran, "/latency_video_us/samples") == 0.0, "{}", ran.said);
    // 50 packets of 160 bytes with 56 of headers and tag: 10.8 kB a second, 38.9 MB an hour.
    let gigabytes = number(&ran, "/price/traffic_gb");
    assert!((37.0..41.0).contains(&gigabytes), "{gigabytes}");
    let cost = number(&ran, "/price/core_hours") * 0.04 + gigabytes * 0.01;
    assert!((number(&ran, "/price/cost") - cost).abs() < 1e-9 && ran.said.contains("1,000 viewer-hours cost"), "{}", ran.said);
    let page = std::fs::read_to_string(page).expect("it was asked for");
    assert!(page.contains("8 viewers (audio-only)") && page.contains("1,000 viewer-hours cost") && !page.contains("http-equiv"));
}

const SPECIFICATION: &str = "Measured last on nothing.

## small

    sudo target/release/spillway-bench lab --scenario W1 --viewers 8 --bitrate 400k --sink full --hold 3s --kill control

| id | promise | floor | goal | measured | spread | met | date |
|---|---|---|---|---|---|---|---|
| `control-killed` | Nobody misses a packet | = 0 packets | = 0 packets | - | - | - | - |
| `latency-100-p50` | Faster than can be | <= 0.001 us | <= 0.0001 us | - | - | - | - |
";

#[test]
fn a_specification_is_measured_row_by_row_and_written_down() {
    let _machine = Machine::alone();
    let scratch = Scratch::new();
    let file = scratch.0.join("SPECIFICATION.md");
    std::fs::write(&file, SPECIFICATION).expect("a scratch file");
    let spec = |words: &[&str]| Command::new(bench()).arg("spec").arg("--file").arg(&file).args(words).output().expect("it is built");
    let output = spec(&["--repeats", "1", "--json", "--write"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!((&rows[0]["id"], &rows[1]["id"]), (&Value::from("control-killed"), &Value::from("latency-100-p50")), "{rows}");
    let text = std::fs::read_to_string(&file).expect("it was there");
    // On a machine that is busy with something else nothing is said of the server: then both rows have a reason.
    if rows[0]["measured"].is_null() {
        let why = rows[0]["note"].as_str().unwrap_or_default();
        assert!(why.contains("the generator was the limit") && output.status.code() == Some(1), "{rows}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "not met is measured: {rows}");
    assert_eq!((&rows[0]["measured"], &rows[0]["met"]), (&Value::from(0.0), &Value::from("goal")), "{rows}");
    assert_eq!(rows[1]["met"], "no", "{rows}");
    assert!(text.contains("| = 0 packets | = 0 packets | 0 packets | 0 .. 0 (1) | goal | 20") && text.contains("(1) | no | 20"), "{text}");
    assert!(text.contains("Measured last on 20") && text.contains("Linux "), "{text}");
    // What it wrote is what it reads; a row that does not exist is told with those that do.
    let listed = spec(&["--list"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("last 0 packets"));
    let stranger = spec(&["--list", "speed"]);
    assert!(stranger.status.code() == Some(2) && String::from_utf8_lossy(&stranger.stderr).contains("control-killed, latency-100-p50"));
}
