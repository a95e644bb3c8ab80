//! `GET /livez`: the process runs. `GET /readyz`: it can take publishers and viewers.

use super::problem::Problem;
use crate::service::Service;
use axum::extract::State;
use std::sync::Arc;

pub async fn live() -> &'static str {
    "ok\n"
}

pub async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Problem> {
    service.require_engine()?;
    Ok("ok\n")
}
