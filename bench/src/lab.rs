//! A network of its own on this machine, and Spillway in it: the place of every figure of ours (performance, method 1).
//!
//! ```text
//!   namespace sb-PID-s, core 0          veth, offloads off          namespace sb-PID-v, core 1
//!   spillway serve, the publisher  10.77.0.1 ---------- 10.77.0.2   the viewers (this process)
//! ```
//!
//! A GSO send is really cut into packets on the server's core, as with a NIC that cannot do it. Everything is removed at
//! the end, also after Ctrl-C; what a killed run left is removed by the next.

use crate::cli::{FindMaxArgs, LabArgs, Part, RunArgs};
use crate::null::NullNic;
use crate::run::{Elsewhere, RunError};
use crate::sys;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The target of every run here.
pub const TARGET: &str = "http://10.77.0.1:7080";
const VIEWERS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Of those who stay on the cable when the others' packets end in the null NIC.
const CABLED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const READY_MAX: Duration = Duration::from_secs(20);
const PREFIX: &str = "sb-";

pub struct Lab {
    names: [String; 2],
    server: Option<Child>,
    data: PathBuf,
    null: bool,
}

fn failed(text: impl Into<String>) -> RunError {
    RunError::Failed(text.into())
}

pub fn command(program: &str, arguments: &[&str]) -> Result<(), RunError> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed(format!("{program}: {error}; install it: apt-get install iproute2 ethtool util-linux")))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{program} {}: {}", arguments.join(" "), words.trim())))
}

/// Namespaces of runs whose process is gone.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = command("ip", &["netns", "delete", &name]);
        }
    }
}

fn pid_of(node: &Path, part: Part) -> Option<u64> {
    let node: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(node).ok()?).ok()?;
    let name = match part {
        Part::Control => "control_pid",
        Part::Engine => "engine_pid",
    };
    node.get(name)?.as_u64()
}

impl Lab {
    /// Makes the network, starts the server, and moves this thread (and all it will start) to the viewers' side.
    pub fn open(args: &LabArgs, null: bool) -> Result<Lab, RunError> {
        if !sys::is_root() {
            return Err(failed("namespaces need root: sudo spillway-bench lab ..."));
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if args.shards > cores as u64 {
            return Err(failed(format!("{} shards need as many cores: there are {cores}", args.shards)));
        }
        if cores < 2 {
            return Err(failed("two cores are needed: one for the server, one for the viewers"));
        }
        let program = match &args.spillway {
            Some(path) => path.clone(),
            None => std::env::current_exe().map_err(|error| failed(error.to_string()))?.with_file_name("spillway"),
        };
        if !program.exists() {
            return Err(failed(format!("{} is not there: cargo build --release, or --spillway FILE", program.display())));
        }
        remove_leftovers();
        let pid = std::process::id();
        let names = [format!("{PREFIX}{pid}-s"), format!("{PREFIX}{pid}-v")];
        let data = std::env::temp_dir().join(format!("spillway-lab-{pid}"));
        let mut lab = Lab { names, server: None, data, null };
        lab.make_network()?;
        if let Some(bps) = args.link {
            // A queue of 300 ms is what home routers have and worse.
            let rate = format!("{bps}bit");
            command("ip", &["netns", "exec", &lab.names[0], "tc", "qdisc", "add", "dev", "sb0", "root", "tbf", "rate", &rate, "burst", "16kb", "latency", "300ms"])?;
        }
        lab.start(&program, args.shards)?;
        lab.enter(1)?;
        sys::pin_to(1);
        Ok(lab)
    }

    fn make_network(&self) -> Result<(), RunError> {
        let [server, viewers] = [&self.names[0], &self.names[1]];
        command("ip", &["netns", "add", server])?;
        command("ip", &["netns", "add", viewers])?;
        command("ip", &["link", "add", "sb0", "netns", server, "type", "veth", "peer", "name", "sb0", "netns", viewers])?;
        for (name, address) in [(server, SERVER), (viewers, VIEWERS)] {
            let address = format!("{address}/24");
            command("ip", &["-n", name, "address", "add", &address, "dev", "sb0"])?;
            if name == viewers {
                command("ip", &["-n", name, "address", "add", &format!("{CABLED}/24"), "dev", "sb0"])?;
            }
            // A viewer has a port of its own: the usual range ends at 28,000 of them.
            command("ip", &["netns", "exec", name, "sh", "-c", "echo 1024 65535 > /proc/sys/net/ipv4/ip_local_port_range"])?;
            command("ip", &["-n", name, "link", "set", "lo", "up"])?;
            command("ip", &["-n", name, "link", "set", "sb0", "up"])?;
            command("ip", &["netns", "exec", name, "ethtool", "-K", "sb0", "tx-udp-segmentation", "off", "gro", "off", "tso", "off", "gso", "on"])?;
        }
        Ok(())
    }

    fn start(&mut self, program: &Path, shards: u64) -> Result<(), RunError> {
        std::fs::create_dir_all(&self.data).map_err(|error| failed(error.to_string()))?;
        let log = File::create(self.data.join("log")).map_err(|error| failed(error.to_string()))?;
        let errors = log.try_clone().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new("ip");
        sys::end_with_us(&mut command);
        let child = command
            .args(["netns", "exec", &self.names[0], "taskset", "-c", &format!("0-{}", shards - 1)])
            .arg(program)
            // What a node can do is what is measured: it may not stop before.
            .env("SPILLWAY__LIMITS__BUSY_PERCENT_MAX", "0")
            // All viewers have one address.
            .env("SPILLWAY__LIMITS__REQUESTS_PER_SECOND_PER_ADDRESS", "0")
            .args(["serve", "--http", &format!("{SERVER}:7080"), "--media", &format!("{SERVER}:7081"), "--shards", &shards.to_string(), "--data"])
            .arg(&self.data)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        self.server = Some(child);
        let deadline = sys::monotonic() + READY_MAX;
        loop {
            let node = self.data.join("node.json");
            if pid_of(&node, Part::Engine).is_some() && pid_of(&node, Part::Control).is_some() {
                return Ok(());
            }
            let ended = self.server.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended || sys::monotonic() > deadline {
                let log = std::fs::read_to_string(self.data.join("log")).unwrap_or_default();
                return Err(failed(format!("the server did not start: {}", log.trim())));
            }
            if sys::is_interrupted() {
                return Err(RunError::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Moves this thread into one of the two networks.
    fn enter(&self, side: usize) -> Result<(), RunError> {
        let file = self.open_namespace(side)?;
        sys::enter_network(&file).map_err(|error| failed(format!("{}: {error}", self.names[side])))
    }

    fn open_namespace(&self, side: usize) -> Result<File, RunError> {
        let path = format!("/run/netns/{}", self.names[side]);
        File::open(&path).map_err(|error| failed(format!("{path}: {error}")))
    }

    /// Where the publisher runs: beside the server, on its core.
    pub fn beside_server(&self, kill: Option<Part>) -> Result<Elsewhere, RunError> {
        let node = self.data.join("node.json");
        let deed = kill.map(|part| {
            let kill: Box<dyn Fn()> = Box::new(move || match pid_of(&node, part) {
                Some(pid) => {
                    let _ = command("kill", &["-KILL", &pid.to_string()]);
                }
                None => eprintln!("{} names no process to kill", node.display()),
            });
            kill
        });
        let make = || NullNic::make(&self.names[0], self.open_namespace(0)?, VIEWERS.into(), CABLED.into());
        let null = self.null.then(make).transpose()?;
        Ok(Elsewhere { namespace: self.open_namespace(0)?, server: SERVER.into(), viewers: VIEWERS.into(), core: 0, deed, null })
    }

    pub fn run_args(&self, args: &LabArgs) -> RunArgs {
        let pid = self.server.as_ref().map(Child::id).into_iter().collect();
        let mut run = args.run.clone();
        (run.key_file, run.server_pid) = (Some(self.data.join("keys/signing.key")), pid);
        run
    }

    pub fn find_max_args(&self, args: &LabArgs) -> FindMaxArgs {
        FindMaxArgs { run: self.run_args(args), search: args.search.clone() }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // `ip netns exec` and `taskset` have become the server: it is its pid.
            sys::terminate(server.id());
            let deadline = sys::monotonic() + Duration::from_secs(5);
            while server.try_wait().is_ok_and(|status| status.is_none()) && sys::monotonic() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = server.kill();
            let _ = server.wait();
        }
        for name in &self.names {
            let _ = command("ip", &["netns", "delete", name]);
        }
        let _ = std::fs::remove_dir_all(&self.data);
    }
}
