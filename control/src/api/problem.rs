//! Refusals as `application/problem+json` (RFC 9457): a status, a stable code, and what to do next.

use crate::auth::{AuthError, hex};
use crate::policy::Refusal;
use aws_lc_rs::rand;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

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
        Problem { status, code, title, detail: detail.into(), retry_after_seconds: None, allow: None }
    }

    fn retry(self, seconds: u64) -> Problem {
        Problem { retry_after_seconds: Some(seconds), ..self }
    }

    pub fn not_found() -> Problem {
        let detail = "there is nothing at this path; pages are /, /publish/{room} and /watch/{room}";
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
            AuthError::WrongRoom { .. } => (StatusCode::FORBIDDEN, "wrong_room", "Token is for another room"),
            AuthError::WrongRole(..) => (StatusCode::FORBIDDEN, "wrong_role", "Token does not allow this"),
        };
        Problem::new(status, code, title, error.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let detail = refusal.to_string();
        let problem = |status, code, title| Problem::new(status, code, title, detail);
        match refusal {
            Refusal::Sdp(_) => problem(StatusCode::BAD_REQUEST, "bad_sdp", "SDP not readable"),
            Refusal::StreamNotLive => problem(StatusCode::CONFLICT, "stream_not_live", "Nothing is live").retry(2),
            Refusal::RoomBusy => problem(StatusCode::CONFLICT, "room_busy", "Room is busy"),
            Refusal::NoCommonCodec { .. } => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "no_common_codec", "No common codec")
            }
            Refusal::TooManyTracks(_) => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "too_many_tracks", "Too many tracks")
            }
            Refusal::IceRestartUnsupported => {
                problem(StatusCode::UNPROCESSABLE_ENTITY, "ice_restart_unsupported", "ICE restart not supported")
            }
            Refusal::EngineRestarting => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "engine_restarting", "Media engine is starting").retry(1)
            }
            Refusal::EngineBusy => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "engine_busy", "Media engine is busy").retry(1)
            }
            Refusal::EngineTimeout => {
                problem(StatusCode::GATEWAY_TIMEOUT, "engine_timeout", "Media engine did not answer").retry(1)
            }
            Refusal::NodeFull(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "node_full", "Node is full").retry(10),
            Refusal::SessionNotFound => problem(StatusCode::NOT_FOUND, "session_not_found", "No such session"),
            Refusal::Store(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", "Database unavailable").retry(1)
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
            eprintln!("{} {} request {request_id}: {}", self.status.as_u16(), self.code, self.detail);
        }
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
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
