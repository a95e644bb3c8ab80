//! A real Firefox, driven by Marionette: its own remote control, JSON over TCP. Headless, one window.

use crate::kernel;
use crate::node::{Scratch, end};
use crate::wait::{seconds, until};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The rest is as Firefox has it. Port 0: Firefox writes the one it took into its profile.
const PREFERENCES: &str = r#"
user_pref("marionette.port", 0);
user_pref("network.proxy.type", 0);
user_pref("media.autoplay.default", 0);
user_pref("media.peerconnection.ice.loopback", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.page", 0);
// Nobody outside this machine is asked for anything.
user_pref("app.normandy.enabled", false);
user_pref("app.update.enabled", false);
user_pref("browser.safebrowsing.update.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("extensions.update.enabled", false);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");
user_pref("toolkit.telemetry.enabled", false);
"#;
/// The first start on a cold disk.
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Firefox {
    process: Child,
    wire: RefCell<Wire>,
    _profile: Scratch,
}

/// Each message is its length, a colon and JSON: [0, number, name, parameters] there, [1, number, error, result] back.
struct Wire {
    stream: BufReader<TcpStream>,
    number: u64,
}

impl Firefox {
    pub fn start() -> Firefox {
        let profile = Scratch::new();
        fs::write(profile.0.join("user.js"), PREFERENCES).expect("room for a profile");
        let mut command = Command::new("firefox-esr");
        command.args(["--headless", "--marionette", "--no-remote", "--profile"]).arg(&profile.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What it keeps outside its profile lands beside it.
        command.env("HOME", &profile.0).env("MOZ_CRASHREPORTER_DISABLE", "1");
        kernel::end_with_us(&mut command);
        let mut process = command.spawn().expect("Firefox is installed (Debian: firefox-esr)");
        let stream = until("Firefox listens", TIMEOUT, || {
            if let Ok(Some(status)) = process.try_wait() {
                panic!("Firefox ended: {status}");
            }
            let port = fs::read_to_string(profile.0.join("MarionetteActivePort")).map_err(|error| error.to_string())?;
            let port = port.trim().parse::<u16>().map_err(|error| error.to_string())?;
            TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())
        });
        stream.set_read_timeout(Some(TIMEOUT)).expect("a socket");
        let mut wire = Wire { stream: BufReader::new(stream), number: 0 };
        let greeting = wire.receive();
        assert_eq!(greeting["marionetteProtocol"], 3, "{greeting}");
        let firefox = Firefox { process, wire: RefCell::new(wire), _profile: profile };
        firefox.ask("WebDriver:NewSession", &json!({}));
        firefox
    }

    pub fn go(&self, url: &str) {
        self.ask("WebDriver:Navigate", &json!({"url": url}));
    }

    /// The value of the body of an asynchronous JavaScript function.
    pub fn run(&self, script: &str) -> Value {
        let script = format!("return (async () => {{ {script} }})()");
        self.ask("WebDriver:ExecuteScript", &json!({"script": script, "args": []}))["value"].take()
    }

    /// Waits until `script` returns something true.
    pub fn until(&self, what: &str, patience: Duration, script: &str) -> Value {
        until(&format!("{what} (Firefox)"), patience, || {
            let value = self.run(script);
            let is_true = !matches!(&value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("");
            if is_true { Ok(value) } else { Err(format!("{value}; {}", self.run("return window.spillway?.errors"))) }
        })
    }

    fn ask(&self, name: &str, parameters: &Value) -> Value {
        let mut wire = self.wire.borrow_mut();
        wire.number += 1;
        let message = json!([0, wire.number, name, parameters]).to_string();
        write!(wire.stream.get_mut(), "{}:{message}", message.len()).expect("Firefox listens");
        let mut answer = wire.receive();
        assert!(answer[2].is_null(), "{name}: {}", answer[2]);
        answer[3].take()
    }
}

impl Wire {
    fn receive(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).expect("Firefox answers");
            match byte[0] {
                b':' => break,
                digit => length = length * 10 + usize::from(digit.wrapping_sub(b'0')),
            }
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("a whole answer");
        serde_json::from_slice(&bytes).expect("JSON")
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        // Asked to, it ends its own children; end() makes sure.
        let message = json!([0, 0, "Marionette:Quit", {"flags": ["eForceQuit"]}]).to_string();
        let _ = write!(self.wire.get_mut().stream.get_mut(), "{}:{message}", message.len());
        let process = &mut self.process;
        let gone = |process: &mut Child| matches!(process.try_wait(), Ok(Some(_)));
        let deadline = std::time::Instant::now() + seconds(5);
        while !gone(process) && std::time::Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        end(process);
    }
}
