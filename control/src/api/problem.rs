//! Refusals as `application/problem+json` (RFC 9457): a status, a stable code, and what to do next.

use crate::auth::{AuthError, hex};
use crate::logging::{self, Level};
use crate::policy::Refusal;
use crate::service::Refused;
use aws_lc_rs::rand;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Every code there is, with what to do. README.md has the same table, and a test compares them.
pub const CODES: &[(&str, &str)] = &[
    ("token_missing", "send a token"),
    ("token_expired", "make a new one; `--ttl`"),
    ("token_invalid", "it was signed with another key (another node, another `--data`), is damaged, or not for Spillway"),
    ("key_invalid", "the key was revoked or rotated, or is damaged: make a new one"),
    ("wrong_room", "make one for this room"),
    ("wrong_role", "make one for this role"),
    ("token_denied", "your backend says that this token opens nothing"),
    ("bad_sdp", "the detail names the line of the offer"),
    ("bad_body", "the body is no UTF-8, or no JSON"),
    ("bad_request", "the detail names the field, and what it may be"),
    ("not_found", "look at the path; a room's name may have only the characters above"),
    ("session_not_found", "it has ended; POST anew"),
    ("room_not_found", "nobody declared it and nobody is in it"),
    ("stream_not_found", "it has ended; GET /v1/streams"),
    ("viewer_not_found", "it has gone; GET /v1/viewers"),
    ("ban_not_found", "it has ended or was lifted; GET /v1/rooms/{room}/bans"),
    ("key_not_found", "it was revoked; GET /v1/keys"),
    ("webhook_not_found", "it was deleted; GET /v1/webhooks"),
    ("delivery_not_found", "it made room for newer ones, or never was"),
    ("recording_not_found", "it was deleted, or never was; GET /v1/recordings"),
    ("recording_off", "PATCH the room's `record` to manual or auto"),
    ("recording_runs", "the detail names the one that runs; stop it, or let it go on"),
    ("recording_open", "stop it, and wait until its state is finished"),
    ("file_not_found", "GET the recording: its `files` have their names"),
    ("range_not_satisfiable", "Content-Range says how long the file is now"),
    ("recordings_unavailable", "the recordings' disk cannot be read: look at recording.dir"),
    ("method_not_allowed", "see the header Allow"),
    ("request_timeout", "the body did not come within 8 s; send it again"),
    ("stream_not_live", "nobody publishes; wait 2 s and try again (pages do)"),
    ("room_busy", "another publisher is live: use its `sub`, or end it"),
    ("room_exists", "it is declared already; PATCH it"),
    ("room_full", "as many watch as the room may have; wait, or raise `viewers_max`"),
    ("idempotency_mismatch", "the key was used for another request; take a new one"),
    ("idempotency_pending", "the same request is being answered; wait a second"),
    ("version_mismatch", "somebody else changed it; GET, then PATCH anew"),
    ("body_too_large", "64 KiB are allowed"),
    ("unsupported_media_type", "`application/sdp`, for PATCH `application/trickle-ice-sdpfrag`; JSON for `/v1`"),
    ("no_common_codec", "the detail names both lists; H264, H265, VP8, VP9, AV1 and Opus are forwarded"),
    ("too_many_tracks", "one audio and one video"),
    ("ice_restart_unsupported", "DELETE, then POST"),
    ("webhooks_full", "the node has as many webhooks as it may have; delete one"),
    ("banned", "whoever this token is for was sent away from this room for a while; Retry-After says how long"),
    ("rate_limited", "too many requests of this address or with this token; wait as long as Retry-After says"),
    ("backend_unavailable", "your backend was asked about this token and gave no answer: look at it"),
    ("account_full", "the account has as many publishers or viewers as it may have"),
    ("join_rate", "more viewers come per second than may; wait a second"),
    ("capacity_full", "the node's shards are as busy as they may be; wait, or another node"),
    ("egress_full", "one more viewer would need more than may go out; wait, or another node"),
    ("engine_restarting", "wait a second"),
    ("engine_busy", "many are joining; wait a second"),
    ("node_full", "a table or a limit is full (the detail names it): another node, or later"),
    ("store_unavailable", "the database cannot be written: look at the disk"),
    ("engine_timeout", "wait a second; if it stays, look at what `serve` prints"),
];

#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    status: StatusCode,
    /// Stable: clients may compare it.
    code: &'static str,
    /// Short enough for OBS's dialog.
    title: &'static str,
    detail: String,
    retry_after_seconds: Option<u64>,
    /// What a 405 allows.
    allow: Option<&'static str>,
    /// How long the file of a 416 is.
    length: Option<u64>,
}

/// What a refusal was, beside its response: for who looks at it on its way out.
#[derive(Clone)]
pub struct Told {
    pub code: &'static str,
    pub detail: String,
    pub request_id: String,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Problem {
        Problem { status, code, title, detail: detail.into(), retry_after_seconds: None, allow: None, length: None }
    }

    fn retry(self, seconds: u64) -> Problem {
        Problem { retry_after_seconds: Some(seconds), ..self }
    }

    pub fn not_found() -> Problem {
        let detail = "there is nothing at this path; pages are /, /publish/{room}, /watch/{room}, /admin and /docs";
        Problem::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    pub fn method(allow: &'static str, method: &Method) -> Problem {
        let detail = format!("{method} is not possible here; {allow} are");
        let problem =
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail);
        Problem { allow: Some(allow), ..problem }
    }

    pub fn media_type(wanted: &str) -> Problem {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "Wrong content type",
            format!("send Content-Type: {wanted}"),
        )
    }

    pub fn too_large(bytes_max: usize) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "Body too large",
            format!("the body may have {bytes_max} bytes"),
        )
    }

    pub fn bad_body(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_body", "Body not readable", detail)
    }

    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_request", "Request not understood", detail)
    }

    /// A room, stream, viewer or key that is not there, or not for who asks.
    pub fn missing(what: &'static str) -> Problem {
        let (code, title) = match what {
            "room" => ("room_not_found", "No such room"),
            "stream" => ("stream_not_found", "No such stream"),
            "viewer" => ("viewer_not_found", "No such viewer"),
            "ban" => ("ban_not_found", "No such ban"),
            "webhook" => ("webhook_not_found", "No such webhook"),
            "delivery" => ("delivery_not_found", "No such delivery"),
            "recording" => ("recording_not_found", "No such recording"),
            "file" => ("file_not_found", "No such file"),
            _ => ("key_not_found", "No such key"),
        };
        let detail = format!("there is no such {what}; it has ended, or never was");
        Problem::new(StatusCode::NOT_FOUND, code, title, detail)
    }

    pub fn room_exists(name: &str) -> Problem {
        let detail = format!("{name} is declared already; PATCH changes it");
        Problem::new(StatusCode::CONFLICT, "room_exists", "Room exists", detail)
    }

    pub fn version_mismatch(version: u64) -> Problem {
        let detail = format!("somebody else changed it: it is at version \"{version}\"; GET it, then PATCH it anew");
        Problem::new(StatusCode::PRECONDITION_FAILED, "version_mismatch", "Changed meanwhile", detail)
    }

    pub fn idempotency_mismatch() -> Problem {
        let detail = "this Idempotency-Key was used within the last 24 h for another request; take a new key";
        Problem::new(StatusCode::CONFLICT, "idempotency_mismatch", "Key used for something else", detail)
    }

    pub fn still_answering() -> Problem {
        let detail = "a request with this Idempotency-Key is being answered; send it again in a second";
        Problem::new(StatusCode::CONFLICT, "idempotency_pending", "Still being answered", detail).retry(1)
    }

    pub fn webhooks_full(max: usize) -> Problem {
        let detail = format!("a node has at most {max} webhooks, and these are there; delete one");
        Problem::new(StatusCode::CONFLICT, "webhooks_full", "Too many webhooks", detail)
    }

    pub fn rate_limited(by: &str, seconds: u64) -> Problem {
        let detail = format!("more requests than one {by} may send; try again in {seconds} s");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", detail).retry(seconds)
    }

    pub fn range(length: u64) -> Problem {
        let detail = format!("the file has {length} bytes just now; ask for some of these");
        let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "Range beyond the file", detail);
        Problem { length: Some(length), ..problem }
    }

    pub fn no_randomness() -> Problem {
        Refusal::NodeFull("random bytes").into()
    }

    pub fn too_slow() -> Problem {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "request_timeout",
            "Request took too long",
            "the request was not complete in time; send it again",
        )
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        let (status, code, title) = match &error {
            AuthError::Missing => (StatusCode::UNAUTHORIZED, "token_missing", "Token missing"),
            AuthError::Expired(_) => (StatusCode::UNAUTHORIZED, "token_expired", "Token expired"),
            AuthError::Malformed(_) | AuthError::Algorithm | AuthError::Signature | AuthError::Audience => {
                (StatusCode::UNAUTHORIZED, "token_invalid", "Token invalid")
            }
            AuthError::Denied => (StatusCode::UNAUTHORIZED, "token_denied", "Token denied"),
            AuthError::Key => (StatusCode::UNAUTHORIZED, "key_invalid", "Key invalid"),
            AuthError::WrongRoom { .. } => (StatusCode::FORBIDDEN, "wrong_room", "Token is for another room"),
            AuthError::WrongRole(..) => (StatusCode::FORBIDDEN, "wrong_role", "Token does not allow this"),
        };
        Problem::new(status, code, title, error.to_string())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::Auth(error) => error.into(),
            Refused::Backend(_) => {
                let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, "backend_unavailable");
                Problem::new(status, code, "Backend did not answer", refused.to_string()).retry(1)
            }
            Refused::Policy(refusal) => refusal.into(),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let detail = refusal.to_string();
        let code = refusal.code();
        let problem = |status, title| Problem::new(status, code, title, detail);
        match refusal {
            Refusal::Sdp(_) => problem(StatusCode::BAD_REQUEST, "SDP not readable"),
            Refusal::StreamNotLive => problem(StatusCode::CONFLICT, "Nothing is live").retry(2),
            Refusal::RoomBusy => problem(StatusCode::CONFLICT, "Room is busy"),
            Refusal::NoCommonCodec { .. } => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "No common codec")
            }
            Refusal::TooManyTracks(_) => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "Too many tracks")
            }
            Refusal::IceRestartUnsupported => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "ICE restart not supported")
            }
            Refusal::EngineRestarting => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "Media engine is starting").retry(1)
            }
            Refusal::EngineBusy => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "Media engine is busy").retry(1)
            }
            Refusal::EngineTimeout => {
                problem(StatusCode::GATEWAY_TIMEOUT, "Media engine did not answer").retry(1)
            }
            Refusal::NodeFull(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "Node is full").retry(10),
            Refusal::RoomFull { .. } => problem(StatusCode::CONFLICT, "Room is full").retry(10),
            Refusal::AccountFull { .. } => problem(StatusCode::FORBIDDEN, "Account is full").retry(10),
            Refusal::JoinRate { .. } => {
                problem(StatusCode::TOO_MANY_REQUESTS, "Too many are joining").retry(1)
            }
            Refusal::EgressFull { .. } => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "Uplink is full").retry(10)
            }
            Refusal::Banned { seconds } => problem(StatusCode::FORBIDDEN, "Sent away").retry(seconds),
            Refusal::CapacityFull { .. } => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "Node is busy").retry(10)
            }
            Refusal::SessionNotFound => problem(StatusCode::NOT_FOUND, "No such session"),
            Refusal::RecordingOff => problem(StatusCode::CONFLICT, "Recording is off"),
            Refusal::RecordingRuns { .. } => problem(StatusCode::CONFLICT, "Already recording"),
            Refusal::RecordingOpen => problem(StatusCode::CONFLICT, "Recording is not finished"),
            Refusal::RecordingFiles(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "Recordings unavailable").retry(10),
            Refusal::Store(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "Database unavailable").retry(1)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut id = [0; 8];
        // An id of zeros names the request badly, but does not hinder the answer.
        let _ = rand::fill(&mut id);
        let request_id = hex(&id);
        if self.status.is_server_error() {
            // Neither path nor query: tokens and session URLs do not belong into logs.
            let message = format!("{} {}: {}", self.status.as_u16(), self.code, self.detail);
            logging::tell(Level::Error, &message, &[("request_id", &request_id)]);
        }
        let told_id = request_id.clone();
        let body = Body {
            r#type: format!("urn:spillway:problem:{}", self.code.replace('_', "-")),
            title: self.title,
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            request_id,
            retry_after_seconds: self.retry_after_seconds,
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut response = (self.status, text).into_response();
        response.extensions_mut().insert(Told { code: self.code, detail: self.detail, request_id: told_id });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(range) = self.length.and_then(|length| HeaderValue::try_from(format!("bytes */{length}")).ok()) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
