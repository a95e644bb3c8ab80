//! `GET /metrics`: for Prometheus on this machine, or with a key or token that may read the API.

use super::listener::Peer;
use super::problem::Problem;
use super::rest::{Caller, Scope};
use crate::auth::AuthError;
use crate::service::Service;
use axum::extract::{ConnectInfo, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

pub async fn metrics(
    State(service): State<Arc<Service>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // What a proxy on this machine passes on comes from elsewhere, and says so.
    let is_passed_on = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    if !peer.ip().is_loopback() || is_passed_on || headers.contains_key(header::AUTHORIZATION) {
        let caller = Caller::of(&service, &headers, query.as_deref()).await?;
        if caller.scope != Scope::Node {
            return Err(AuthError::WrongRole("token", "an API key, or a token of the role node").into());
        }
    }
    Ok(exposed(&service))
}

/// On an address of its own, which the operator chose: whoever reaches it may read.
pub async fn open(State(service): State<Arc<Service>>) -> Response {
    exposed(&service)
}

fn exposed(service: &Service) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], service.metrics()).into_response()
}
