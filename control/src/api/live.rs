//! `GET /v1/rooms/{room}/live`: the room's state as server-sent events, at once, on change and each second.

use super::problem::Problem;
use super::{Right, claims_of, options, require, require_room_name};
use crate::auth::{Role, unix_now};
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::sync::Arc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::WatchStream;

const METHODS: &str = "GET, OPTIONS";

pub async fn events(
    State(service): State<Arc<Service>>,
    Path(room): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    require_room_name(&room)?;
    match method {
        Method::GET => {}
        Method::OPTIONS => return Ok(options(METHODS, false)),
        other => return Err(Problem::method(METHODS, &other)),
    }
    let claims = claims_of(&service, &headers, query.as_deref(), Some(&room)).await?;
    require(&claims, &room, Right::Any)?;
    service.first_sync().await;
    let publishes = claims.role.may_publish() || claims.role == Role::Node;
    let expiry = claims.exp;
    let receiver = service.listen(&room);
    let stream = WatchStream::new(receiver)
        // A token opens the room as long as it is valid, and no longer.
        .take_while(move |_| unix_now() < expiry)
        .map(move |snapshot| {
            let json = if publishes { &snapshot.for_publishers } else { &snapshot.for_viewers };
            Ok::<_, Infallible>(format!("event: state\ndata: {json}\n\n"))
        });
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx passes events on as they come.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
