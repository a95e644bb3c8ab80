//! `POST /whep/{room}`: a viewer comes (the WHEP draft).

use super::problem::Problem;
use super::{
    Right, SDP_TYPE, claims_of, created, is_read, nothing, offer_of, options, require, require_room_name,
};
use crate::service::Service;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
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
    match method {
        Method::POST => {
            let claims = claims_of(&service, &headers, query.as_deref(), Some(&room)).await?;
            require(&claims, &room, Right::View)?;
            service.require_engine()?;
            let offer = offer_of(&headers, body).await?;
            let links = service.ice_links(&claims.sub);
            created("whep", &room, service.view(claims, offer).await?, links)
        }
        Method::OPTIONS => Ok(options(METHODS, true)),
        // WHEP section 4.2: HEAD tells that this is a WHEP endpoint.
        Method::HEAD => {
            let mut response = StatusCode::OK.into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(SDP_TYPE));
            Ok(response)
        }
        read if is_read(&read) => Ok(nothing()),
        other => Err(Problem::method(METHODS, &other)),
    }
}
