//! `GET /livez`: the process runs. `GET /startupz`: it knows its engine. `GET /readyz`: it can take publishers and viewers.

use super::problem::Problem;
use crate::policy::Refusal;
use crate::service::Service;
use axum::extract::State;
use std::sync::Arc;

pub async fn live() -> &'static str {
    "ok\n"
}

/// 200 once this control knows its first engine's state, and from then on.
pub async fn started(State(service): State<Arc<Service>>) -> Result<&'static str, Problem> {
    if service.has_started() { Ok("ok\n") } else { Err(Refusal::EngineRestarting.into()) }
}

pub async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Problem> {
    service.require_engine()?;
    Ok("ok\n")
}
