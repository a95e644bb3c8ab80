//! A small HTTP client: every status is an answer, nothing goes through a proxy, no connection is kept (control
//! may be killed between two requests).

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(15);

pub struct Http {
    base: String,
    agent: ureq::Agent,
}

pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    /// The header's value; names in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The `code` of a refusal, after checking that it is a whole problem (RFC 9457).
    pub fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}: {}", self.status, self.body);
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for key in ["type", "title", "detail", "code", "request_id"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {problem}");
        }
        problem["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Headers of a request.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

impl Http {
    /// `base` without a slash at its end.
    pub fn new(base: impl Into<String>) -> Http {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_idle_connections(0)
            .max_redirects(0)
            .proxy(None)
            .allow_non_standard_methods(true)
            .build();
        Http { base: base.into(), agent: config.into() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// None: nobody answered.
    pub fn try_ask(&self, method: &str, path: &str, headers: Headers<'_>, body: Option<&str>) -> Option<Answer> {
        let mut request = ureq::http::Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answered = match body {
            Some(body) => self.agent.run(request.body(body.to_owned()).expect("a request")),
            None => self.agent.run(request.body(()).expect("a request")),
        };
        let mut response = answered.ok()?;
        let text = |value: &ureq::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().unwrap_or_default();
        Some(Answer { status, headers, body })
    }

    pub fn ask(&self, method: &str, path: &str, headers: Headers<'_>, body: Option<&str>) -> Answer {
        self.try_ask(method, path, headers, body).unwrap_or_else(|| panic!("no answer: {method} {path}"))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], None)
    }

    /// An offer with a bearer.
    pub fn offer(&self, path: &str, token: &str, sdp: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.ask("POST", path, &[("authorization", &bearer), ("content-type", "application/sdp")], Some(sdp))
    }

    pub fn delete(&self, path: &str, token: &str) -> Answer {
        self.ask("DELETE", path, &[("authorization", &format!("Bearer {token}"))], None)
    }

    /// The `state` events of a room, as they come; None: nobody answered.
    fn events(&self, room: &str, token: &str) -> Option<impl Iterator<Item = Value>> {
        let request = self.agent.get(format!("{}/v1/rooms/{room}/live", self.base));
        let response = request.header("authorization", format!("Bearer {token}")).call().ok()?;
        let lines = BufReader::new(response.into_body().into_reader()).lines().map_while(Result::ok);
        Some(lines.filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok()))
    }

    /// The first `state` event of a room; None: nobody answered.
    pub fn try_live(&self, room: &str, token: &str) -> Option<Value> {
        self.events(room, token)?.next()
    }

    /// The first `state` event that `is_wanted`, as one listener hears them.
    pub fn hear(&self, room: &str, token: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let events = self.events(room, token).unwrap_or_else(|| panic!("nobody tells of {room}"));
        for event in events {
            if is_wanted(&event) {
                return event;
            }
            last = event;
        }
        panic!("not within {} s of events; the last one: {last}", TIMEOUT.as_secs())
    }

    pub fn live(&self, room: &str, token: &str) -> Value {
        self.try_live(room, token).unwrap_or_else(|| panic!("no state event of {room}"))
    }
}
