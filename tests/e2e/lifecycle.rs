//! Goal: a node starts, says what it is, is found, restarted and stopped as scripts rely on it, and refuses
//! loudly what cannot be.
//! Method: the binary's own subcommands, node.json, the files of the data directory, the output of `serve`.

use spillway_tests::http::Http;
use spillway_tests::kernel::{self, Terminal};
use spillway_tests::node::{Machine, Node, Scratch, Start, Task, binary, spillway, stderr, stdout};
use spillway_tests::wait::{seconds, until};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn is_running(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn a_log_that_no_terminal_shows_is_json_with_room_and_request_and_says_the_same_once() {
    let _machine = Machine::shared();
    let mut node = Node::start_with(&Start { format: "auto", ..Start::default() });
    let token = node.token_of("demo", "view", &["--sub", "anna"]);
    for _ in 0..50 {
        assert_eq!(node.http.offer("/whep/demo", &token, crate::offers::VIEW).code(), "stream_not_live");
    }
    let _publisher = node.publish("demo", "vp8");
    until("the stream is told of", seconds(10), || if node.output().contains("stream.started") { Ok(()) } else { Err(node.output()) });
    node.stop();
    let lines: Vec<serde_json::Value> =
        node.output().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    for line in &lines {
        let has = |name: &str| line[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(has("time") && has("level") && has("process") && has("message"), "{line}");
    }
    let refused: Vec<_> = lines.iter().filter(|line| line["message"] == "whep: refused, stream_not_live").collect();
    assert_eq!(refused.len(), 1, "fifty are one line: {refused:?}");
    assert_eq!((&refused[0]["room"], &refused[0]["sub"], refused[0]["request_id"].is_string()), (&"demo".into(), &"anna".into(), true));
    let started = lines.iter().find(|line| line["message"] == "stream.started").expect("a stream");
    assert!(started["room"] == "demo" && started["stream"].as_str().is_some_and(|id| id.starts_with("st_")), "{started}");
    // Links carry tokens, which belong into no log.
    assert!(!node.output().contains("eyJ"), "a token in the log");
}

#[test]
fn node_json_says_what_runs_and_goes_with_a_clean_stop() {
    let _machine = Machine::shared();
    let mut node = Node::start();
    let facts = node.facts();
    let mut keys: Vec<&str> = facts.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["control_pid", "engine_pid", "gso", "http", "io", "media", "shards", "supervisor_pid", "version"]);
    assert_eq!(facts["shards"], 2);
    assert!(["uring", "socket"].contains(&facts["io"].as_str().unwrap_or_default()), "{facts}");
    assert!(facts["gso"].is_u64() && facts["version"].is_string(), "{facts}");
    for key in ["http", "media"] {
        let address: std::net::SocketAddr = facts[key].as_str().unwrap_or_default().parse().expect("host:port");
        assert_ne!(address.port(), 0, "port 0 is never what is written");
    }
    let pids = ["supervisor_pid", "control_pid", "engine_pid"].map(|key| facts[key].as_u64().expect("a pid"));
    for pid in pids {
        assert!(is_running(pid));
    }
    let said = node.stop();
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(node.try_facts().is_none(), "node.json is removed");
    for pid in pids {
        assert!(!is_running(pid), "{pid} is left behind");
    }
    let again = node.run(&["stop"]);
    assert!(!again.status.success() && stderr(&again).contains("no Spillway runs"), "{}", stderr(&again));
}

#[test]
fn what_is_private_is_readable_by_its_owner_only() {
    let _machine = Machine::shared();
    let scratch = Scratch::new();
    let data = scratch.0.join("data");
    // `token` works with no node running, and makes the key.
    let made = spillway(&["token", "--room", "demo", "--role", "view", "--data", &data.display().to_string()]);
    assert_eq!(stdout(&made).split('.').count(), 3, "{}", stderr(&made));
    assert_eq!((mode(&data), mode(&data.join("keys/signing.key"))), (0o700, 0o600));
    let node = Node::start();
    assert_eq!((mode(node.data()), mode(&node.data().join("keys/signing.key"))), (0o700, 0o600));
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").filter_map(Result::ok).map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn no_token_and_no_key_reaches_the_output_besides_the_links() {
    let _machine = Machine::shared();
    let mut node = Node::start_with_key(&[0xA7; 32]);
    let publisher = node.publish("demo", "h264");
    let token = node.token("demo", "admin");
    node.http.offer("/whip/demo?token=eyJhbGciOi.no.good", &token, "hello");
    node.play("demo", 1);
    publisher.stop();
    node.stop();
    let key = "a7".repeat(32);
    let output = node.output();
    assert!(!output.contains(&key), "the key is in the output");
    // Nor in any file: the one it was put into is sealed.
    for file in walk(node.data()) {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!has(key.as_bytes()) && !has(&[0xA7; 32]), "the key is in {}", file.display());
    }
    for line in output.lines().filter(|line| line.contains("eyJ")) {
        assert!(line.contains("#token=eyJ") || line.contains("Bearer Token eyJ"), "a token in: {line}");
    }
    assert!(output.lines().any(|line| line.contains("/publish/demo#token=")), "the dev links are there: {output}");
    assert!(output.lines().any(|line| line.contains("/watch/demo#token=")), "the dev links are there: {output}");
    assert!(!output.contains(&token), "a request's token is in the output");
}

#[test]
fn a_dev_link_works_as_it_is_printed() {
    let _machine = Machine::shared();
    let node = Node::start();
    let link = |way: &str| {
        let found = node.output().split_whitespace().find(|word| word.contains(&format!("/{way}/demo#token="))).map(str::to_owned);
        found.and_then(|link| Some(link.split_once("#token=")?.1.split('&').next()?.to_owned())).expect("a link")
    };
    assert_eq!(node.http.offer("/whip", &link("publish"), crate::offers::PUBLISH).status, 201);
    assert_eq!(node.http.live("demo", &link("watch"))["viewers"], 0);
}

#[test]
fn a_second_node_on_the_same_data_or_ports_is_refused_and_told_the_pid() {
    let _machine = Machine::shared();
    let node = Node::start();
    let facts = node.facts();
    let pid = format!("pid {}", facts["supervisor_pid"]);
    let serve = |data: &Path, http: &str, media: &str| {
        spillway(&["serve", "--data", &data.display().to_string(), "--http", http, "--media", media, "--shards", "1"])
    };
    let refused = serve(node.data(), "127.0.0.1:0", "127.0.0.1:0");
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains(&pid), "{}", stderr(&refused));

    let other = Scratch::new();
    let http = facts["http"].as_str().unwrap_or_default();
    let media = facts["media"].as_str().unwrap_or_default();
    for (http, media, taken) in [(http, "127.0.0.1:0", http), ("127.0.0.1:0", media, media)] {
        let refused = serve(&other.0, http, media);
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(&pid) && stderr(&refused).contains(taken), "{}", stderr(&refused));
    }
    assert!(!other.0.join("node.json").exists());
    assert_eq!(node.facts(), facts, "the first node has not noticed");

    // Anybody's port, not only a node's.
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let us = format!("pid {}", std::process::id());
    let http = tcp.local_addr().expect("its address").to_string();
    let media = udp.local_addr().expect("its address").to_string();
    for (http, media) in [(http.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", media.as_str())] {
        let refused = serve(&other.0, http, media);
        assert!(!refused.status.success() && stderr(&refused).contains(&us), "{}", stderr(&refused));
    }
}

#[test]
fn restart_shows_a_new_ready_process() {
    let _machine = Machine::shared();
    let node = Node::start();
    for name in ["control", "engine"] {
        let key = format!("{name}_pid");
        let before = node.facts();
        let said = node.run(&["restart", name]);
        assert!(said.status.success(), "{}", stderr(&said));
        let after = node.facts();
        assert!(after[&key].is_u64() && after[&key] != before[&key], "{before} {after}");
        assert!(stdout(&said).contains(&after[&key].to_string()), "{}", stdout(&said));
        for other in ["supervisor_pid", "http", "media"] {
            assert_eq!(after[other], before[other]);
        }
    }
    let token = node.token("demo", "publish");
    // A process that is ready serves at once.
    until("the node serves", seconds(5), || match node.http.offer("/whip/demo", &token, crate::offers::PUBLISH).status {
        201 => Ok(()),
        status => Err(status.to_string()),
    });
}

#[test]
fn the_supervisors_death_ends_all_and_leaves_no_obstacle() {
    let _machine = Machine::shared();
    let mut node = Node::start();
    let facts = node.facts();
    let [supervisor, control, engine] =
        ["supervisor_pid", "control_pid", "engine_pid"].map(|key| facts[key].as_u64().expect("a pid"));
    kernel::kill_9(supervisor as u32);
    node.wait_end();
    until("its children ended with it", seconds(10), || match is_running(control) || is_running(engine) {
        true => Err("still there".to_owned()),
        false => Ok(()),
    });
    // The same directory and the same ports at once.
    let again = ["--data", &node.data().display().to_string()].map(str::to_owned);
    let http = facts["http"].as_str().unwrap_or_default();
    let media = facts["media"].as_str().unwrap_or_default();
    let arguments = ["serve", &again[0], &again[1], "--http", http, "--media", media, "--shards", "2"];
    let task = Task::begin(&arguments);
    until("a new node serves", seconds(20), || match Http::new(format!("http://{http}")).try_ask("GET", "/readyz", &[], None) {
        Some(answer) if answer.status == 200 => Ok(()),
        _ => Err("no answer".to_owned()),
    });
    until("node.json is of the new node", seconds(5), || match node.try_facts() {
        Some(facts) if facts["supervisor_pid"] == task.pid() => Ok(()),
        facts => Err(format!("{facts:?}")),
    });
    assert!(task.stop().status.success());
}

#[test]
fn signals_stop_a_node_cleanly() {
    let _machine = Machine::shared();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut node = Node::start();
        let _publisher = node.publish("demo", "vp8");
        kernel::signal(node.pid("supervisor_pid"), signal);
        assert!(node.wait_end().success());
        assert!(node.try_facts().is_none());
    }
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let _machine = Machine::shared();
    let scratch = Scratch::new();
    let data = scratch.0.display().to_string();
    for (arguments, code, words) in [
        (&["play", "demo", "--data", &data][..], 5, "no node runs"),
        (&["token", "--room", "no room", "--role", "view", "--data", &data], 2, "A-Z"),
        (&["serve", "--shards", "0", "--data", &data], 2, "shards"),
        (&["serve", "--io", "carrier-pigeon", "--data", &data], 2, "uring"),
        (&["serve", "--media", "192.0.2.254:0", "--http", "127.0.0.1:0", "--data", &data], 3, "ip address"),
        (&["serve", "--media", "127.0.0.1:0", "--media", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", &data], 2, "famil"),
    ] {
        let output = spillway(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{arguments:?}: {}", stderr(&output));
    }
    let node = Node::start_with(&Start { more: &["--shards", "1"], ..Start::default() });
    let output = node.run(&["play", "demo", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    assert!(stderr(&output).contains("stream_not_live"), "{}", stderr(&output));
}

/// Root may lock any memory: that right is taken away first.
const WITHOUT_LOCKABLE_MEMORY: &str = r#"ulimit -l 0
if [ "$(id -u)" = 0 ]; then exec setpriv --bounding-set=-ipc_lock "$@"; fi
exec "$@""#;

#[test]
fn a_backend_that_was_asked_for_and_cannot_be_had_is_refused_once() {
    let _machine = Machine::shared();
    let scratch = Scratch::new();
    let output = std::process::Command::new("sh")
        // A node that goes on trying is ended after 20 s: red, not hanging.
        .args(["-c", WITHOUT_LOCKABLE_MEMORY, "sh", "timeout", "20"])
        .arg(binary())
        .args(["serve", "--io", "uring", "--http", "127.0.0.1:0", "--media", "127.0.0.1:0", "--data"])
        .arg(&scratch.0)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("a shell");
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(said.matches("LimitMEMLOCK").count(), 1, "it says what to do, once: {said}");
}

#[test]
fn on_a_terminal_p_publishes_and_q_or_ctrl_c_quits_and_puts_it_back() {
    let _machine = Machine::shared();
    for (quit, says) in [(b'q', "stopping (q)"), (3, "stopping (Ctrl-C)")] {
        let terminal = Terminal::new();
        let before = terminal.settings();
        let scratch = Scratch::new();
        let data = scratch.0.display().to_string();
        let arguments = ["--data", &data, "--http", "127.0.0.1:0", "--media", "127.0.0.1:0", "--shards", "1"];
        // `serve` is the default.
        let task = Task::begin_on(&terminal, &arguments);
        let mut seen = String::new();
        let mut wait = |words: &str| {
            until(words, seconds(20), || {
                seen += &terminal.read();
                if seen.contains(words) { Ok(()) } else { Err(seen.lines().filter(|line| !line.contains("eyJ")).collect()) }
            });
        };
        wait("press p");
        assert_ne!(terminal.settings(), before, "keys are read one by one");
        let facts: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(scratch.0.join("node.json")).expect("it is ready")).expect("JSON");
        let http = Http::new(format!("http://{}", facts["http"].as_str().unwrap_or_default()));
        terminal.press(b'p');
        wait("starting a synthetic publisher");
        let token = stdout(&spillway(&["token", "--room", "demo", "--role", "view", "--data", &data]));
        until("the room is live", seconds(10), || match http.try_live("demo", &token) {
            Some(state) if state["live"] == true => Ok(()),
            state => Err(format!("{state:?}")),
        });
        terminal.press(quit);
        wait(says);
        wait("stopped");
        assert!(task.finish().status.success());
        assert_eq!(terminal.settings(), before, "the terminal is as it was");
        assert!(!scratch.0.join("node.json").exists());
    }
}
