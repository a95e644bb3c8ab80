//! A real Chromium, driven by chromedriver (WebDriver is JSON over HTTP). Headless, with a fake camera.

use crate::kernel;
use crate::node::Scratch;
use crate::wait::until;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--proxy-server=direct://",
    // Several windows are looked at by turns; none of them sleeps meanwhile.
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--disable-background-timer-throttling",
];
/// Before a page's own scripts: `window.connections` are its peer connections, for statistics the pages do not show.
const KEEP_CONNECTIONS: &str = "window.connections = []; window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...given) { super(...given); window.connections.push(this); } };";
/// Of relays only, and none is named: no candidate is ever gathered.
const RELAYS_ONLY: &str = "window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(given) { super({ ...given, iceTransportPolicy: 'relay' }); } };";
/// The server's candidates in answers name another address: the way leads through a proxy. ADDRESS is filled in.
const REROUTE: &str = "window.RTCPeerConnection = class extends RTCPeerConnection {
    setRemoteDescription({ type, sdp }) {
        sdp = sdp.replace(/^(a=candidate:\\S+ \\d+ \\S+ \\d+) \\S+ \\d+ /gm, '$1 ADDRESS ');
        return super.setRemoteDescription({ type, sdp });
    } };";
/// What the publish page adds to the answer goes again: the browser begins at its own 300 kbit/s.
const NO_START_BITRATE: &str = "window.RTCPeerConnection = class extends RTCPeerConnection {
    setRemoteDescription({ type, sdp }) {
        return super.setRemoteDescription({ type, sdp: sdp.replace(/;?x-google-start-bitrate=\\d+/g, '') });
    } };";
/// The first start of a browser on a cold disk.
const TIMEOUT: Duration = Duration::from_secs(60);

pub struct Browser {
    driver: Child,
    agent: ureq::Agent,
    /// `http://127.0.0.1:PORT/session/ID`
    session: String,
    /// The window commands go to now.
    focus: RefCell<String>,
    _profile: Scratch,
}

/// One window of a browser.
pub struct Page<'b> {
    browser: &'b Browser,
    handle: String,
}

/// It takes any free port of IPv4 and then the same of IPv6, and ends where somebody has that one: then another.
fn start_driver() -> (Child, u16) {
    let mut said = Vec::new();
    for _ in 0..5 {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        for name in ["NO_PROXY", "no_proxy"] {
            command.env(name, "127.0.0.1,localhost,::1");
        }
        kernel::end_with_us(&mut command);
        let mut driver = command.spawn().expect("chromedriver is installed (Debian: chromium-driver)");
        // "ChromeDriver was started successfully on port 40123."
        for line in BufReader::new(driver.stdout.take().expect("its output")).lines().map_while(Result::ok) {
            let port = line.split_once("started successfully on port ").and_then(|(_, port)| port.trim_end_matches('.').parse().ok());
            if let Some(port) = port {
                return (driver, port);
            }
            said.push(line);
        }
        let _ = driver.wait();
    }
    panic!("chromedriver does not start: {said:?}");
}

impl Browser {
    pub fn start() -> Browser {
        Browser::start_with(&[])
    }

    /// Its fake camera shows this file (Y4M), over and over.
    pub fn start_with_camera(film: &Path) -> Browser {
        Browser::start_with(&[format!("--use-file-for-fake-video-capture={}", film.display())])
    }

    fn start_with(more: &[String]) -> Browser {
        let (driver, port) = start_driver();
        let base = format!("http://127.0.0.1:{port}");
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        let agent: ureq::Agent = config.proxy(None).build().into();
        let profile = Scratch::new();
        let mut flags: Vec<String> = FLAGS.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--user-data-dir={}", profile.0.display()));
        flags.extend_from_slice(more);
        if !has_interface() {
            flags.push("--allow-loopback-in-peer-connection".to_owned());
            // Where there is no IPv4 Chromium finds no name for its address, and offers none.
            flags.push("--disable-features=WebRtcHideLocalIpsWithMdns".to_owned());
        }
        let options = json!({"args": flags, "binary": "/usr/bin/chromium"});
        let wanted = json!({"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}}});
        let mut browser = Browser { driver, agent, session: base, focus: RefCell::default(), _profile: profile };
        let made = browser.post("/session", &wanted);
        let id = made["sessionId"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
        browser.session = format!("{}/session/{id}", browser.session);
        *browser.focus.borrow_mut() = browser.get("/window").as_str().unwrap_or_default().to_owned();
        browser
    }

    /// A new window at `url`.
    pub fn open(&self, url: &str) -> Page<'_> {
        self.open_with(KEEP_CONNECTIONS, url)
    }

    /// A new window whose media goes by `proxy`.
    pub fn open_through(&self, proxy: SocketAddr, url: &str) -> Page<'_> {
        let address = format!("{} {}", proxy.ip(), proxy.port());
        self.open_with(&format!("{KEEP_CONNECTIONS}\n{}", REROUTE.replace("ADDRESS", &address)), url)
    }

    /// A new window whose encoder begins as low as the browser likes.
    pub fn open_slowly(&self, url: &str) -> Page<'_> {
        self.open_with(&format!("{KEEP_CONNECTIONS}\n{NO_START_BITRATE}"), url)
    }

    /// A new window that looks for no way to the server: what a browser does on a machine with loopback only.
    pub fn open_without_interfaces(&self, url: &str) -> Page<'_> {
        self.open_with(RELAYS_ONLY, url)
    }

    /// `script` runs before the page's own.
    fn open_with(&self, script: &str, url: &str) -> Page<'_> {
        let made = self.post("/window/new", &json!({"type": "window"}));
        let page = Page { browser: self, handle: made["handle"].as_str().unwrap_or_default().to_owned() };
        page.focus();
        let command = json!({"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": script}});
        self.post("/goog/cdp/execute", &command);
        page.go(url);
        page
    }

    /// What the browser itself found wrong on any page: broken rules of the content policy, uncaught errors,
    /// requests that were refused.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({"type": "browser"}));
        let is_severe = |entry: &&Value| entry["level"] == "SEVERE";
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        entries.as_array().map(|entries| entries.iter().filter(is_severe).map(text).collect()).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Value {
        self.answer(self.agent.get(format!("{}{path}", self.session)).call(), path)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{path}", self.session)).header("content-type", "application/json");
        self.answer(request.send(body.to_string()), path)
    }

    fn answer(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>, path: &str) -> Value {
        let mut response = response.unwrap_or_else(|error| panic!("chromedriver, {path}: {error}"));
        let text = response.body_mut().read_to_string().unwrap_or_default();
        let mut value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(response.status().is_success(), "chromedriver, {path}: {}", value["value"]["message"]);
        value["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends Chromium; chromedriver is a process of ours.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Without any interface but loopback Chromium gathers no candidate unless it is told to.
fn has_interface() -> bool {
    // Nothing is sent: connect only asks which way it would go (RFC 5737, an address of nobody).
    UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("203.0.113.1:9")).is_ok()
}

impl Page<'_> {
    fn focus(&self) {
        if *self.browser.focus.borrow() != self.handle {
            self.browser.post("/window", &json!({"handle": self.handle}));
            self.browser.focus.borrow_mut().clone_from(&self.handle);
        }
    }

    pub fn go(&self, url: &str) {
        self.focus();
        self.browser.post("/url", &json!({"url": url}));
    }

    /// The value of a JavaScript function body; a promise is waited for.
    pub fn run(&self, script: &str) -> Value {
        self.focus();
        self.browser.post("/execute/sync", &json!({"script": script, "args": []}))
    }

    /// Waits until `script` returns something true.
    pub fn until(&self, what: &str, patience: Duration, script: &str) -> Value {
        until(&format!("{what} ({})", self.url()), patience, || {
            let value = self.run(script);
            let is_true = !matches!(&value, Value::Null | Value::Bool(false)) && value != json!(0) && value != json!("");
            if is_true { Ok(value) } else { Err(format!("{value}; {}", self.report())) }
        })
    }

    /// `window.spillway` in a few words, for messages.
    pub fn report(&self) -> Value {
        self.run("return window.spillway ? {state: spillway.state, errors: spillway.errors, live: spillway.live} : document.title")
    }

    pub fn stats(&self) -> Value {
        self.run("return window.spillway.stats()")
    }

    pub fn url(&self) -> String {
        self.focus();
        self.browser.get("/url").as_str().unwrap_or_default().to_owned()
    }

    /// The text of an element, as it is shown; empty while it is hidden.
    pub fn text(&self, selector: &str) -> String {
        let script = format!(
            "const e = document.querySelector({selector:?}); return e && e.checkVisibility() ? e.innerText.trim() : ''"
        );
        self.run(&script).as_str().unwrap_or_default().to_owned()
    }

    pub fn is_visible(&self, selector: &str) -> bool {
        self.run(&format!("return document.querySelector({selector:?})?.checkVisibility() ?? false")) == true
    }

    /// As wide and as high as a screen of another size.
    pub fn resize(&self, width: u32, height: u32) {
        self.focus();
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.browser.post("/goog/cdp/execute", &json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}));
    }

    /// One key, pressed and released.
    pub fn press(&self, key: &str) {
        self.focus();
        let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        self.browser.post("/actions", &json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}));
    }
}
