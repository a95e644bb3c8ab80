//! `/whip/{room}/{session}` and `/whep/{room}/{session}`: a session is ended or trickled to.
//!
//! A session's URL alone opens nothing: the token must be one that could have made the session (RFC 9725
//! section 4.7 asks for authentication here, too).

use super::problem::Problem;
use super::{Right, claims_of, is_read, nothing, options, require, require_room_name, require_type, text_of};
use crate::policy::{Refusal, ResourceId};
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use spillway_proto::id::Side;
use spillway_proto::sdp::offer::FragmentFacts;
use std::sync::Arc;

const METHODS: &str = "DELETE, PATCH, OPTIONS, GET, HEAD";
const FRAGMENT_TYPE: &str = "application/trickle-ice-sdpfrag";

pub async fn publisher(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    answer(service, Side::Publisher, path, method, query, headers, body).await
}

pub async fn viewer(
    State(service): State<Arc<Service>>,
    Path(path): Path<(String, String)>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    answer(service, Side::Viewer, path, method, query, headers, body).await
}

async fn answer(
    service: Arc<Service>,
    side: Side,
    (room, session): (String, String),
    method: Method,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_room_name(&room)?;
    match method {
        Method::OPTIONS => return Ok(options(METHODS, false)),
        ref read if is_read(read) => return Ok(nothing()),
        Method::DELETE | Method::PATCH => {}
        other => return Err(Problem::method(METHODS, &other)),
    }
    let claims = claims_of(&service, &headers, query.as_deref(), Some(&room)).await?;
    require(&claims, &room, if side == Side::Publisher { Right::Publish } else { Right::View })?;
    let resource = ResourceId::parse(&session).ok_or(Refusal::SessionNotFound)?;
    if method == Method::DELETE {
        // Whatever If-Match says (RFC 9725 section 4.3.1). Exactly 200: OBS takes a 204 for a failure.
        service.end(&room, side, resource).await?;
        return Ok(StatusCode::OK.into_response());
    }
    service.find(&room, side, resource)?;
    require_type(&headers, FRAGMENT_TYPE)?;
    let fragment = FragmentFacts::parse(&text_of(&headers, body).await?).map_err(Refusal::Sdp)?;
    // RFC 9725 section 4.3.3: `If-Match: "*"` asks for an ICE restart.
    if headers.get(header::IF_MATCH).is_some_and(|value| value == "\"*\"" || value == "*") {
        return Err(Refusal::IceRestartUnsupported.into());
    }
    service.trickle(&room, side, resource, &fragment.ice_ufrag).await?;
    Ok(nothing())
}
