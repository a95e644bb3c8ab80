//! The command line as a client of the REST API: finds the server and the right to speak to it, asks, reads lists over
//! all their pages, and turns refusals into words and exit codes. Knows no resource.

use super::Exit;
use super::show::{self, Painted};
use crate::api::CODES;
use crate::auth::{self, Grant, Role, SigningKey};
use crate::data_dir::DataDir;
use crate::supervisor::node_json::NodeJson;
use crate::supervisor::terminal::{complain, say};
use clap::Args;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream of events is begun anew, where it was, after this: a line that died unnoticed is noticed then.
const STREAM_TIMEOUT: Duration = Duration::from_secs(300);
/// Longer than any command; a stream takes a new one each time it is begun.
const TOKEN_TTL: Duration = Duration::from_secs(900);
const ANSWER_BYTES_MAX: u64 = 16 * 1_024 * 1_024;
/// What the server gives per page.
const PAGE_MAX: usize = 200;

/// Which server, and who asks.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ApiArgs {
    /// A server's address, as http://127.0.0.1:7080 [default: $SPILLWAY_URL, else the node of --data]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// An API key or a token [default: $SPILLWAY_TOKEN, else one made with the key of --data]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// The data directory of a node on this machine [default: ./spillway-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print what the API answers, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("no node runs on {0}: start one with `spillway serve --data {0}`, name its data directory with --data DIR, or a server with --server URL")]
    NoNode(String),
    #[error("{0} wants an API key or a token: --token TOKEN or SPILLWAY_TOKEN (on the server itself --data DIR is enough; `spillway token --role node` prints one)")]
    NoToken(String),
    #[error("{0}")]
    Key(String),
    #[error("{0} cannot be reached: {1}; does it run (`spillway health`), and is the address right?")]
    Unreachable(String, String),
    #[error("{0}: only http:// addresses are spoken to: run this on the server, or through an SSH tunnel (ssh -L 7080:127.0.0.1:7080 HOST)")]
    Scheme(String),
    #[error("{0} is no Spillway, or another version: {1}")]
    Answer(String, String),
    /// In the server's words.
    #[error("{}", text_of(.0))]
    Refused(Box<Value>),
    #[error("{0}")]
    Usage(String),
}

/// `Room is full (409 room_full)`, then what a problem says besides.
fn text_of(problem: &Value) -> String {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default();
    let code = text("code");
    let mut lines = vec![format!("{} ({} {code})", text("title"), problem["status"])];
    let to_do = CODES.iter().find(|(known, _)| *known == code).map_or("", |(_, to_do)| to_do);
    let retry = problem["retry_after_seconds"].as_u64().map(|seconds| format!("{seconds} s")).unwrap_or_default();
    for (name, value) in [("detail", text("detail")), ("to do", to_do), ("wait", &retry), ("request", text("request_id"))] {
        if !value.is_empty() {
            lines.push(format!("  {name:<8} {value}"));
        }
    }
    lines.join("\n")
}

impl ApiError {
    pub fn exit(&self) -> Exit {
        match self {
            ApiError::NoNode(_) => Exit::NotFound,
            ApiError::NoToken(_) | ApiError::Key(_) => Exit::Auth,
            ApiError::Scheme(_) | ApiError::Usage(_) => Exit::Usage,
            ApiError::Refused(problem) => match problem["code"].as_str().unwrap_or_default() {
                "token_missing" | "token_invalid" | "token_expired" | "key_invalid" | "wrong_role" | "wrong_room" => Exit::Auth,
                _ if problem["status"] == 404 => Exit::NotFound,
                _ => Exit::Failed,
            },
            ApiError::Unreachable(..) | ApiError::Answer(..) => Exit::Failed,
        }
    }

    pub fn is_passing(&self) -> bool {
        match self {
            ApiError::Unreachable(..) => true,
            ApiError::Refused(problem) => problem["status"].as_u64().is_some_and(|status| status >= 500),
            _ => false,
        }
    }
}

/// A server, and who asks it.
pub struct Api {
    pub base: String,
    bearer: Bearer,
    http: ureq::Agent,
}

enum Bearer {
    Nobody,
    Given(String),
    Minted(SigningKey),
}

fn agent(configured: ureq::config::ConfigBuilder<ureq::typestate::AgentScope>) -> ureq::Agent {
    configured.http_status_as_error(false).max_redirects(0).proxy(None).build().into()
}

fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Api {
    pub fn find(args: &ApiArgs) -> Result<Api, ApiError> {
        let api = Api::find_anonymous(args)?;
        match api.bearer {
            Bearer::Nobody => Err(ApiError::NoToken(api.base)),
            _ => Ok(api),
        }
    }

    /// Also without a token: probes ask for none.
    pub fn find_anonymous(args: &ApiArgs) -> Result<Api, ApiError> {
        let token = args.token.clone().or_else(|| from_environment("SPILLWAY_TOKEN"));
        // Who names a directory means its node, whatever the environment says.
        let url = args.server.clone().or_else(|| from_environment("SPILLWAY_URL").filter(|_| args.data.is_none()));
        let path = args.data.clone().unwrap_or_else(|| PathBuf::from("./spillway-data"));
        let data = DataDir::existing(&path);
        let base = match &url {
            Some(url) if url.starts_with("http://") => url.trim_end_matches('/').to_owned(),
            Some(url) => return Err(ApiError::Scheme(url.clone())),
            None => {
                let node = data.as_ref().and_then(NodeJson::read);
                format!("http://{}", node.ok_or_else(|| ApiError::NoNode(path.display().to_string()))?.http)
            }
        };
        let bearer = match (token, data) {
            (Some(token), _) => Bearer::Given(token),
            // To a server that was named by its address goes no token of a directory that happens to lie here.
            (None, Some(data)) if url.is_none() || args.data.is_some() => {
                Bearer::Minted(SigningKey::load_or_create(data.path()).map_err(|error| ApiError::Key(error.to_string()))?)
            }
            _ => Bearer::Nobody,
        };
        let http = agent(ureq::Agent::config_builder().timeout_global(Some(HTTP_TIMEOUT)));
        Ok(Api { base, bearer, http })
    }

    fn authorization(&self) -> Option<String> {
        match &self.bearer {
            Bearer::Nobody => None,
            Bearer::Given(token) => Some(format!("Bearer {token}")),
            Bearer::Minted(key) => {
                let grant = Grant { room: String::new(), role: Role::Node, sub: "cli".to_owned(), acct: None, ttl: TOKEN_TTL };
                Some(format!("Bearer {}", auth::mint(key, grant)))
            }
        }
    }

    fn request(&self, method: &str, path: &str) -> ureq::http::request::Builder {
        let request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        match self.authorization() {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        }
    }

    /// The status and the document of an answer, whatever the status; Null where there is none.
    pub fn ask_whole(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), ApiError> {
        let unreachable = |error: String| ApiError::Unreachable(self.base.clone(), error);
        let request = self.request(method, path);
        let answered = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body.to_string());
                self.http.run(request.map_err(|error| ApiError::Usage(error.to_string()))?)
            }
            None => self.http.run(request.body(()).map_err(|error| ApiError::Usage(error.to_string()))?),
        };
        let mut response = answered.map_err(|error| unreachable(error.to_string()))?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| unreachable(error.to_string()))?;
        let status = response.status().as_u16();
        if text.is_empty() {
            return Ok((status, Value::Null));
        }
        let value = serde_json::from_str(&text);
        Ok((status, value.map_err(|_| ApiError::Answer(self.base.clone(), format!("status {status}, and no JSON")))?))
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ApiError> {
        match self.ask_whole(method, path, body)? {
            (200..=299, value) => Ok(value),
            (_, problem) if problem["code"].is_string() => Err(ApiError::Refused(Box::new(problem))),
            (status, _) => Err(ApiError::Answer(self.base.clone(), format!("status {status}"))),
        }
    }

    /// A file's bytes, with the status (200, or 206 of a range) they come with. They may take long, and break off.
    pub fn open(&self, path: &str, headers: &[(&str, String)]) -> Result<(u16, impl Read + use<>), ApiError> {
        let http = agent(
            ureq::Agent::config_builder()
                .timeout_connect(Some(HTTP_TIMEOUT))
                .timeout_recv_response(Some(HTTP_TIMEOUT))
                .timeout_recv_body(Some(STREAM_TIMEOUT)),
        );
        let request = headers.iter().fold(self.request("GET", path), |request, (name, value)| request.header(*name, value));
        let request = request.body(()).map_err(|error| ApiError::Usage(error.to_string()))?;
        let unreachable = |error: ureq::Error| ApiError::Unreachable(self.base.clone(), error.to_string());
        let mut response = http.run(request).map_err(unreachable)?;
        let status = response.status().as_u16();
        if status == 200 || status == 206 {
            return Ok((status, response.into_body().into_reader()));
        }
        Err(self.refused(status, &response.body_mut().read_to_string().unwrap_or_default()))
    }

    fn refused(&self, status: u16, text: &str) -> ApiError {
        let problem: Value = serde_json::from_str(text).unwrap_or_default();
        match problem["code"].is_string() {
            true => ApiError::Refused(Box::new(problem)),
            false => ApiError::Answer(self.base.clone(), format!("status {status}")),
        }
    }

    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask("GET", path, None)
    }

    /// A list over all its pages, or as many entries as are wanted, as one page.
    pub fn list(&self, path: &str, query: &[(&str, Option<&str>)], wanted: Option<usize>) -> Result<Value, ApiError> {
        let wanted = wanted.unwrap_or(usize::MAX);
        let mut all: Vec<Value> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let limit = (wanted - all.len()).min(PAGE_MAX).to_string();
            let fields = query.iter().copied().chain([("limit", Some(limit.as_str())), ("after", after.as_deref())]);
            let fields: Vec<String> =
                fields.filter_map(|(name, value)| Some(format!("{name}={}", escaped(value?)))).collect();
            let mut page = self.get(&format!("{path}?{}", fields.join("&")))?;
            let Some(data) = page["data"].as_array_mut() else {
                return Err(ApiError::Answer(self.base.clone(), format!("{path} is no list")));
            };
            let count = data.len();
            all.append(data);
            let next = page["next_cursor"].as_str().map(str::to_owned);
            let is_over = page["has_more"] != true || count == 0 || next.is_none();
            if is_over || all.len() >= wanted {
                let has_more = !is_over;
                return Ok(json!({ "data": all, "has_more": has_more, "next_cursor": next.filter(|_| has_more) }));
            }
            after = next;
        }
    }

    /// Server-sent events, `(id, data)`, until the line ends; `on_event` ends it with false.
    pub fn follow(
        &self,
        path: &str,
        last: Option<&str>,
        mut on_event: impl FnMut(&str, &str) -> bool,
    ) -> Result<(), ApiError> {
        let unreachable = |error: String| ApiError::Unreachable(self.base.clone(), error);
        let http = agent(
            ureq::Agent::config_builder()
                .timeout_connect(Some(HTTP_TIMEOUT))
                .timeout_recv_response(Some(HTTP_TIMEOUT))
                .timeout_recv_body(Some(STREAM_TIMEOUT)),
        );
        let mut request = self.request("GET", path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(()).map_err(|error| ApiError::Usage(error.to_string()))?;
        let mut response = http.run(request).map_err(|error| unreachable(error.to_string()))?;
        if response.status() != 200 {
            let text = response.body_mut().read_to_string().unwrap_or_default();
            return Err(self.refused(response.status().as_u16(), &text));
        }
        let lines = BufReader::new(response.into_body().into_reader()).lines();
        let (mut id, mut data) = (String::new(), String::new());
        for line in lines {
            // A line that breaks off is begun anew by who follows.
            let Ok(line) = line else { return Ok(()) };
            if let Some(value) = line.strip_prefix("id: ") {
                id = value.to_owned();
            } else if let Some(value) = line.strip_prefix("data: ") {
                data = value.to_owned();
            } else if line.is_empty() && !data.is_empty() {
                if !on_event(&id, &data) {
                    return Ok(());
                }
                data.clear();
            }
        }
        Ok(())
    }
}

/// Text as a part of a path or query: what a name may not have is written as %41.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b',' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Asks, and shows what came: the document itself, or `painted` of it.
pub fn run(
    args: &ApiArgs,
    ask: impl FnOnce(&Api) -> Result<Value, ApiError>,
    painted: impl FnOnce(&Value) -> Painted,
) -> ExitCode {
    match Api::find(args).and_then(|api| ask(&api)) {
        Ok(value) => {
            show::print(args.json, &value, painted);
            ExitCode::SUCCESS
        }
        Err(error) => failed(args, &error),
    }
}

/// Says what went wrong: with --json a problem as it came.
pub fn failed(args: &ApiArgs, error: &ApiError) -> ExitCode {
    match error {
        ApiError::Refused(problem) if args.json => say(problem.to_string()),
        _ => complain(error.to_string()),
    }
    error.exit().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_which_request_it_was() {
        let problem = json!({ "title": "Room is full", "status": 409, "code": "room_full", "detail": "demo allows 2 viewers",
            "request_id": "01ab", "retry_after_seconds": 10 });
        let text = ApiError::Refused(Box::new(problem)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Room is full (409 room_full)");
        assert_eq!(lines[1], "  detail   demo allows 2 viewers");
        assert!(lines[2].starts_with("  to do    ") && lines[2].contains("viewers_max"), "{text}");
        assert_eq!(&lines[3..], ["  wait     10 s", "  request  01ab"]);
    }

    #[test]
    fn exit_codes_tell_what_kind_of_failure_it_was() {
        let refused = |status: u16, code: &str| ApiError::Refused(Box::new(json!({ "status": status, "code": code }))).exit();
        assert_eq!(refused(401, "token_expired"), Exit::Auth);
        assert_eq!(refused(403, "wrong_role"), Exit::Auth);
        // A full account is no fault of the key.
        assert_eq!(refused(403, "account_full"), Exit::Failed);
        assert_eq!(refused(404, "viewer_not_found"), Exit::NotFound);
        assert_eq!(refused(503, "node_full"), Exit::Failed);
        assert_eq!(ApiError::NoNode("x".into()).exit(), Exit::NotFound);
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(escaped("st_01-a"), "st_01-a");
        assert_eq!(escaped("../x?y#z é"), "..%2Fx%3Fy%23z%20%C3%A9");
    }
}
