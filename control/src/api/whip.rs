//! `POST /whip/{room}` and `POST /whip`: a publisher comes (RFC 9725).

use super::problem::Problem;
use super::{Right, claims_of, created, is_read, nothing, offer_of, options, require, require_room_name};
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use std::sync::Arc;

const METHODS: &str = "POST, OPTIONS, GET, HEAD";

pub async fn endpoint(
    State(service): State<Arc<Service>>,
    Path(room): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    require_room_name(&room)?;
    answer(service, Some(room), method, query, headers, body).await
}

/// The room is the token's: OBS has one field for the URL and one for the token.
pub async fn endpoint_without_room(
    State(service): State<Arc<Service>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    answer(service, None, method, query, headers, body).await
}

async fn answer(
    service: Arc<Service>,
    room: Option<String>,
    method: Method,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    match method {
        Method::POST => {
            let claims = claims_of(&service, &headers, query.as_deref(), room.as_deref()).await?;
            // Empty: a foreign token for all rooms, which publishes in none.
            let room = room.unwrap_or_else(|| claims.room.clone());
            require(&claims, &room, Right::Publish)?;
            service.require_engine()?;
            let offer = offer_of(&headers, body).await?;
            let links = service.ice_links(&claims.sub);
            created("whip", &room, service.publish(claims, offer).await?, links)
        }
        Method::OPTIONS => Ok(options(METHODS, true)),
        read if is_read(&read) => Ok(nothing()),
        other => Err(Problem::method(METHODS, &other)),
    }
}
