//! `/openapi.json` and `/docs`: the document, and a page that shows it without anything from elsewhere.

use super::openapi;
use crate::api::pages;
use crate::service::Service;
use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::{Arc, LazyLock};

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string_pretty(&openapi::document()).unwrap_or_default());

pub fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/openapi.json", get(document))
        .route("/docs", get(|headers: HeaderMap| async move { pages::docs(&headers) }))
}

async fn document() -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, json)], DOCUMENT.as_str()).into_response()
}
