//! Which path is what, on the listeners of a silo and on the admin listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRef, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use catalog::ids::SiloId;
use http::{HeaderMap, HeaderValue};

use super::{
    admit, docs, events, exports, health, integrity, jobs, links, plans, problems, quarantine,
    query, receipts, records, schemas,
};
use crate::limits::Room;
use crate::observe::{CORRELATION_ID, Seen, observed};
use crate::problem::{Problem, REQUEST_ID, Slug};
use crate::service::Service;

/// What the handlers of a silo's listener know.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) service: Arc<Service>,
    pub(super) silo: SiloId,
    /// For the bodies that arrive here.
    pub(super) room: Room,
}

/// What the handlers of the admin listener know.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) service: Arc<Service>,
}

impl FromRef<Listener> for Admin {
    fn from_ref(listener: &Listener) -> Self {
        Self {
            service: Arc::clone(&listener.service),
        }
    }
}

/// What a silo's HTTP listener serves.
pub fn silo(service: Arc<Service>, silo: SiloId) -> Router {
    let observed = Arc::clone(&service);
    let room = Room::new();
    let listener = Listener {
        service,
        silo,
        room,
    };
    let writes = |route: MethodRouter<Listener>| {
        route.route_layer(middleware::from_fn_with_state(
            listener.clone(),
            admit::writes,
        ))
    };
    let reads = |route| reads(&listener, route);
    let entry = get(quarantine::show).post(quarantine::decide);
    let schemas = get(schemas::list).post(schemas::register);
    Router::new()
        .route("/v1/audit/quarantine", reads(get(quarantine::list)))
        .route("/v1/audit/quarantine/{entry}", reads(entry))
        .route("/v1/audit/records", writes(post(records::one)))
        .route("/v1/audit/records:batch", writes(post(records::many)))
        .route("/v1/audit/events", writes(post(events::take)))
        .route("/v1/audit/schemas", reads(schemas))
        .route("/v1/audit/schemas:check", reads(post(schemas::check)))
        .route("/v1/audit/schemas/{stream}", reads(get(schemas::stream)))
        .route(
            "/v1/audit/schemas/{stream}/{version}",
            reads(get(schemas::version)),
        )
        .route(
            "/v1/audit/records/{id}/proof",
            reads(get(integrity::record)),
        )
        .route(
            "/v1/audit/integrity/{stream}/checkpoint",
            reads(get(integrity::checkpoint)),
        )
        .route(
            "/v1/audit/integrity/{stream}/keys",
            reads(get(integrity::keys)),
        )
        .route(
            "/v1/audit/integrity/{stream}/tile/{*tile}",
            reads(get(integrity::tile)),
        )
        .route(
            "/v1/audit/integrity/{stream}/proof/consistency",
            reads(get(integrity::consistency)),
        )
        .route(
            "/v1/audit/integrity/{stream}/proof/inclusion",
            reads(get(integrity::inclusion)),
        )
        .route("/v1/job-tokens", reads(post(jobs::token)))
        .route("/v1/keys", reads(get(receipts::keys)))
        .route("/v1/keys/process/{name}", reads(get(receipts::process_key)))
        .route("/v1/receipts", reads(get(receipts::of_request)))
        .route("/v1/receipts/{id}", reads(get(receipts::one)))
        .route("/v1/query", reads(get(query::page).post(query::page)))
        .route("/v1/query/plan", reads(post(plans::plan)))
        .merge(exported(&listener))
        .merge(open())
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(middleware::from_fn_with_state(observed, observe))
        .with_state(listener)
}

/// What becomes of records beside answers.
fn exported(listener: &Listener) -> Router<Listener> {
    let reads = |route| reads(listener, route);
    let all = get(exports::list).post(exports::create);
    let one = get(exports::show).delete(exports::cancel);
    Router::new()
        .route("/v1/exports", reads(all))
        .route("/v1/exports/{id}", reads(one))
        .route("/v1/exports/{id}/manifest", reads(get(exports::manifest)))
        .route("/v1/exports/{id}/verify", reads(get(exports::verify)))
        .route("/v1/exports/{id}/files/{*path}", reads(get(exports::file)))
        .route("/v1/exports/{id}/links", reads(post(links::create)))
}

fn reads(listener: &Listener, route: MethodRouter<Listener>) -> MethodRouter<Listener> {
    let admitting = middleware::from_fn_with_state(listener.clone(), admit::reads);
    route.route_layer(admitting)
}

/// What is of no tenant, and for everybody; and links, which say by themselves whose they are.
fn open() -> Router<Listener> {
    Router::new()
        .route("/v1/links/{link}", get(links::file))
        .route("/openapi.json", get(docs::api))
        .route("/docs", get(docs::page))
        .route("/docs/{part}", get(docs::part))
        .route("/problems/{slug}", get(problems::document))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
}

/// What the admin listener serves.
pub fn admin(service: Arc<Service>) -> Router {
    let observed = Arc::clone(&service);
    Router::new()
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(nothing)
        .method_not_allowed_fallback(nothing)
        .layer(middleware::from_fn_with_state(observed, observe))
        .with_state(Admin { service })
}

async fn nothing(headers: HeaderMap) -> Problem {
    not_found("there is nothing of this name and method", &headers)
}

/// A problem of a request that is nobody's yet. `observe` has seen to its correlation id.
pub(super) fn not_found(detail: &str, headers: &HeaderMap) -> Problem {
    correlated(Problem::new(Slug::NotFound, detail), headers)
}

/// The problem with the request's correlation id, if there is one.
pub(super) fn correlated(problem: Problem, headers: &HeaderMap) -> Problem {
    let correlation = headers.get(CORRELATION_ID).and_then(|id| id.to_str().ok());
    match correlation {
        Some(correlation) => problem.correlated(correlation),
        None => problem,
    }
}

/// A bounded name for the path: the path itself could carry anything into logs and metrics.
fn route(path: &str) -> &'static str {
    match path {
        "/v1/audit/records" => "records",
        "/v1/audit/records:batch" => "records-batch",
        "/v1/audit/events" => "events",
        "/healthz" => "healthz",
        "/readyz" => "readyz",
        "/metrics" => "metrics",
        "/v1/audit/quarantine" => "quarantine",
        "/v1/job-tokens" => "job-tokens",
        "/v1/keys" => "keys",
        "/v1/receipts" => "receipts",
        "/v1/query" => "query",
        "/openapi.json" | "/docs" => "docs",
        "/v1/query/plan" => "plan",
        "/v1/exports" => "exports",
        path if path.starts_with("/v1/exports/") => "exports",
        path if path.starts_with("/v1/links/") => "export-links",
        path if path.starts_with("/v1/keys/") => "keys",
        path if path.starts_with("/v1/receipts/") => "receipts",
        path if path.starts_with("/v1/audit/integrity/") => "integrity",
        path if path.starts_with("/v1/audit/records/") => "record-proof",
        path if path.starts_with("/v1/audit/quarantine/") => "quarantine-entry",
        path if path.starts_with("/v1/audit/schemas") => "schemas",
        path if path.starts_with("/problems/") => "problems",
        _ => "other",
    }
}

/// Gives every request its id and every answer the same, and counts both.
async fn observe(
    State(service): State<Arc<Service>>,
    mut request: Request,
    next: Next,
) -> Response {
    let correlation = service.ingress(request.headers()).correlation().clone();
    let id = HeaderValue::from_str(correlation.as_str()).ok();
    if let Some(id) = &id {
        // From here on there is one id, also where the caller sent none or one that is none.
        request.headers_mut().insert(CORRELATION_ID, id.clone());
    }
    let route = route(request.uri().path());
    let seen = Seen {
        transport: "http",
        route,
        correlation,
        quiet: matches!(route, "healthz" | "readyz" | "metrics"),
    };
    let status = |response: &Response| response.status().as_u16().to_string();
    let mut response = observed(seen, next.run(request), status).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
