//! What probes ask: is the process alive, can it serve, what has it counted.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::router::Admin;

/// Alive: the process answers. Says nothing about what it depends on, so that no outage elsewhere restarts it.
pub(super) async fn alive() -> Response {
    let text = "local, not for production";
    Json(json!({"status": "alive", "version": env!("CARGO_PKG_VERSION"), "keyProvider": text}))
        .into_response()
}

/// Ready: the registry can be read and nobody has asked the process to stop. Names the development issuer, because a
/// server that believes its own tokens must not pass for a production one.
pub(super) async fn ready(State(admin): State<Admin>) -> Response {
    let service = &admin.service;
    let (code, status) = match service.readiness().await {
        Ok(()) => (StatusCode::OK, "ready"),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    let silos: Vec<&str> = service
        .config
        .silos
        .iter()
        .map(|silo| silo.id.as_str())
        .collect();
    let developer = service
        .developer
        .as_ref()
        .map(|_| json!({"issuer": crate::auth::developer::ISSUER, "note": "for development only"}));
    let body = json!({
        "status": status,
        "silos": silos,
        "developmentIssuer": developer,
        // Other tenants' tables are written all the same, so that the process stays in rotation.
        "tablesNotWritten": service.sequencer.faults(),
        // What these lack is in the log meanwhile, and gets into them by itself.
        "tablesWaiting": service.sequencer.waiting(),
    });
    (code, Json(body)).into_response()
}

/// The metrics as Prometheus reads them.
pub(super) async fn metrics(State(admin): State<Admin>) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    (
        [(header::CONTENT_TYPE, text)],
        admin.service.metrics.render(),
    )
        .into_response()
}
