//! The pages: plain files of control/web, embedded in the binary.

use super::problem::Problem;
use crate::auth::hex;
use aws_lc_rs::digest;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use spillway_proto::link::tap::is_recording_id;

/// Only what we serve ourselves runs, loads or connects; media comes from the browser's own streams.
const CONTENT_POLICY: &str = "default-src 'self'; media-src 'self' blob: mediastream:; img-src 'self' data: blob:; \
                              object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! file {
    ($name:literal, $content_type:literal) => {
        File { name: $name, content_type: $content_type, bytes: include_bytes!(concat!("../../web/", $name)) }
    };
}

static HOME: File = file!("index.html", "text/html; charset=utf-8");
static PUBLISH: File = file!("publish.html", "text/html; charset=utf-8");
static WATCH: File = file!("watch.html", "text/html; charset=utf-8");
static RECORDING: File = file!("recording.html", "text/html; charset=utf-8");
static ADMIN: File = file!("admin.html", "text/html; charset=utf-8");
static DOCS: File = file!("docs.html", "text/html; charset=utf-8");
static ASSETS: [File; 16] = [
    file!("admin.css", "text/css; charset=utf-8"),
    file!("admin.js", "text/javascript; charset=utf-8"),
    file!("admin-views.js", "text/javascript; charset=utf-8"),
    file!("app.css", "text/css; charset=utf-8"),
    file!("common.js", "text/javascript; charset=utf-8"),
    file!("chart.js", "text/javascript; charset=utf-8"),
    file!("docs.js", "text/javascript; charset=utf-8"),
    file!("home.js", "text/javascript; charset=utf-8"),
    file!("latency.js", "text/javascript; charset=utf-8"),
    file!("publish.js", "text/javascript; charset=utf-8"),
    file!("recording.css", "text/css; charset=utf-8"),
    file!("recording.js", "text/javascript; charset=utf-8"),
    file!("recording-words.js", "text/javascript; charset=utf-8"),
    file!("watch.js", "text/javascript; charset=utf-8"),
    file!("whip.js", "text/javascript; charset=utf-8"),
    file!("favicon.svg", "image/svg+xml"),
];

pub async fn home(headers: HeaderMap) -> Response {
    serve(&HOME, &headers)
}

pub async fn admin(headers: HeaderMap) -> Response {
    serve(&ADMIN, &headers)
}

pub fn docs(headers: &HeaderMap) -> Response {
    serve(&DOCS, headers)
}

pub async fn publish(Path(room): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    super::require_room_name(&room)?;
    Ok(serve(&PUBLISH, &headers))
}

pub async fn watch(Path(room): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    super::require_room_name(&room)?;
    Ok(serve(&WATCH, &headers))
}

pub async fn recording(Path(id): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    if !is_recording_id(&id) {
        return Err(Problem::not_found());
    }
    Ok(serve(&RECORDING, &headers))
}

pub async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let file = ASSETS.iter().find(|file| file.name == name).ok_or_else(Problem::not_found)?;
    Ok(serve(file, &headers))
}

fn serve(file: &File, request: &HeaderMap) -> Response {
    let hash = digest::digest(&digest::SHA256, file.bytes);
    let tag = format!("\"{}\"", hex(hash.as_ref().get(..8).unwrap_or_default()));
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.bytes.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    headers.extend(HeaderValue::try_from(tag).map(|tag| (header::ETAG, tag)));
    // Asked for again each time, sent again only after an upgrade.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}
