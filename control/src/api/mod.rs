//! The HTTP API: one handler file per resource, no decisions here. What a status means stands in
//! `problem`; who may do what in `auth` and `policy`.

mod attempt;
mod health;
mod listener;
mod live;
mod metrics;
mod pages;
mod problem;
mod rate;
mod rest;
mod session;
mod whep;
mod whip;

pub use listener::{Bounded, Peer};
pub use problem::CODES;
pub use rate::{Rates, RequestLimits};

use crate::auth::{self, AuthError, Claims, Role};
use crate::service::{Joined, Service};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use problem::Problem;
use spillway_proto::limits::BODY_BYTES_MAX;
use spillway_proto::sdp::offer::OfferFacts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const SDP_TYPE: &str = "application/sdp";
/// A body of 64 KiB at 64 kbit/s takes 8 s, which is also OBS's own patience.
const BODY_WAIT: Duration = Duration::from_secs(8);
/// KiB of all bodies that are being read: thousands of clients that each send a large one slowly take 64 MiB, no more.
static BODIES: Semaphore = Semaphore::const_new(64 * 1_024);

/// Everything, for a listener that tells the peers' addresses.
pub fn app(service: Arc<Service>) -> IntoMakeServiceWithConnectInfo<Router, Peer> {
    router(service).into_make_service_with_connect_info()
}

/// What an address for monitoring alone serves; whoever reaches it may read.
pub fn monitoring(service: Arc<Service>) -> IntoMakeServiceWithConnectInfo<Router, Peer> {
    probes()
        .route("/metrics", get(metrics::open))
        .fallback(|| async { Problem::not_found() })
        .with_state(service)
        .into_make_service_with_connect_info()
}

fn probes() -> Router<Arc<Service>> {
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/startupz", get(health::started))
}

/// All routes.
fn router(service: Arc<Service>) -> Router {
    let metrics = match service.has_metrics_elsewhere() {
        true => Router::new(),
        false => Router::new().route("/metrics", get(metrics::metrics)),
    };
    Router::new()
        .merge(metrics)
        .merge(rest::router())
        .merge(probes())
        .merge(joins(service.clone()))
        .route("/whip/{room}/{session}", any(session::publisher))
        .route("/whep/{room}/{session}", any(session::viewer))
        .route("/v1/rooms/{room}/live", any(live::events))
        .route("/", get(pages::home))
        .route("/admin", get(pages::admin))
        .route("/publish/{room}", get(pages::publish))
        .route("/watch/{room}", get(pages::watch))
        .route("/recordings/{recording}", get(pages::recording))
        .route("/assets/{file}", get(pages::asset))
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|request: Request| async move { Problem::method("GET, HEAD", request.method()) })
        .layer(middleware::from_fn_with_state(service.clone(), rate::limited))
        .layer(middleware::from_fn_with_state(service.clone(), cross_origin))
        .with_state(service)
}

/// What comes to nothing here is kept for who looks for the reason.
fn joins(service: Arc<Service>) -> Router<Arc<Service>> {
    Router::new()
        .route("/whip", any(whip::endpoint_without_room))
        .route("/whip/{room}", any(whip::endpoint))
        .route("/whep/{room}", any(whep::endpoint))
        .layer(middleware::from_fn_with_state(service, attempt::watch))
}

/// Pages of any origin may publish and watch unless it is configured otherwise: what protects a room is its token
/// (RFC 9725 section 4.2).
async fn cross_origin(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let origins = service.request_limits().origins;
    let is_any = origins.iter().any(|origin| origin == "*");
    let own = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let allowed = match is_any {
        true => Some(HeaderValue::from_static("*")),
        false => own.filter(|own| origins.iter().any(|origin| origin.as_bytes() == own.as_bytes())),
    };
    if !is_any {
        // A cache must not give one origin what was said to another.
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    let Some(allowed) = allowed else { return response };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("Location, Link, ETag, Retry-After, Idempotent-Replayed, Content-Range, Accept-Ranges"),
    );
    response
}

/// The answer to OPTIONS: what a browser asks before a POST of another origin.
fn options(methods: &'static str, accept_post: bool) -> Response {
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("Authorization, Content-Type, If-Match, Idempotency-Key, Range, If-Range"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    if accept_post {
        headers.insert(HeaderName::from_static("accept-post"), HeaderValue::from_static(SDP_TYPE));
    }
    response
}

/// What the request's token says, if it is valid.
async fn claims_of(
    service: &Service,
    headers: &HeaderMap,
    query: Option<&str>,
    room: Option<&str>,
) -> Result<Claims, Problem> {
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = auth::token_of(authorization, query).ok_or(AuthError::Missing)?;
    let claims = service.claims(token, room).await?;
    attempt::note_claims(&claims);
    Ok(claims)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Right {
    Publish,
    View,
    Any,
}

fn require(claims: &Claims, room: &str, right: Right) -> Result<(), Problem> {
    // A node's token opens every room's events, and no room's media.
    if claims.role == Role::Node && right == Right::Any {
        return Ok(());
    }
    if claims.role == Role::Node {
        return Err(AuthError::WrongRole(claims.role.name(), "publish, view or admin").into());
    }
    if claims.room != room {
        return Err(AuthError::WrongRoom { token: claims.room.clone(), asked: room.to_owned() }.into());
    }
    let (allowed, needed) = match right {
        Right::Publish => (claims.role.may_publish(), "publish or admin"),
        Right::View => (claims.role.may_view(), "view or admin"),
        Right::Any => (true, ""),
    };
    if allowed { Ok(()) } else { Err(AuthError::WrongRole(claims.role.name(), needed).into()) }
}

/// A path whose room is no room name leads nowhere.
fn require_room_name(room: &str) -> Result<(), Problem> {
    if auth::is_room_name(room) { Ok(()) } else { Err(Problem::not_found()) }
}

fn require_type(headers: &HeaderMap, wanted: &'static str) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) { Ok(()) } else { Err(Problem::media_type(wanted)) }
}

/// The body as text, within its bound and in time.
async fn text_of(headers: &HeaderMap, body: Body) -> Result<String, Problem> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        return Err(Problem::too_large(BODY_BYTES_MAX));
    }
    let kib = announced.map_or(BODY_BYTES_MAX, |length| length as usize).div_ceil(1_024);
    let Ok(_place) = BODIES.try_acquire_many(u32::try_from(kib).unwrap_or(u32::MAX)) else {
        return Err(crate::policy::Refusal::NodeFull("request bodies").into());
    };
    let bytes: Bytes = match tokio::time::timeout(BODY_WAIT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Err(_) => return Err(Problem::too_slow()),
        Ok(Ok(bytes)) => bytes,
        // The only other failure is a connection that broke off: nobody reads its answer.
        Ok(Err(_)) => return Err(Problem::too_large(BODY_BYTES_MAX)),
    };
    String::from_utf8(bytes.into()).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes().iter().take(good).filter(|byte| **byte == b'\n').count() + 1;
        Problem::bad_body(format!("line {line}: the body is no UTF-8 text"))
    })
}

/// The offer in a POST.
async fn offer_of(headers: &HeaderMap, body: Body) -> Result<OfferFacts, Problem> {
    require_type(headers, SDP_TYPE)?;
    let text = text_of(headers, body).await?;
    attempt::note_offer(&text);
    OfferFacts::parse(&text).map_err(|error| Problem::from(crate::policy::Refusal::Sdp(error)))
}

/// 201 with the answer, and the session's URL as a path: OBS drops the query of a relative one.
fn created(protocol: &str, room: &str, joined: Joined, links: Vec<String>) -> Result<Response, Problem> {
    let location = HeaderValue::try_from(format!("/{protocol}/{room}/{}", joined.resource))
        .map_err(|_| Problem::not_found())?;
    attempt::note_answer(joined.resource, &joined.answer);
    let mut response = (StatusCode::CREATED, joined.answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP_TYPE));
    headers.insert(header::LOCATION, location);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for link in links {
        // One that is no header value was refused with the configuration.
        headers.extend(HeaderValue::try_from(link).ok().map(|link| (header::LINK, link)));
    }
    Ok(response)
}

/// RFC 9725 section 4.1: GET of a protocol URL has a good status and no content.
fn nothing() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

#[cfg(test)]
mod test_node;
#[cfg(test)]
mod tests;
