//! `POST /v1/query/plan`, `{"sql": ".."}`: the plan that a statement would have for this caller, and nothing is executed.
//!
//! It tells what EXPLAIN tells, for programs: no value but those the caller typed, no path, no statistic.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use catalog::guard;
use engine::query::{VerifiedPlan, strip_literals};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body;
use super::receipts::answer;
use super::router::Listener;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

/// The longest body; statements themselves are bounded below it.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
}

/// The plan of a statement.
pub(super) async fn plan(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    answer(planned(&listener, &caller, request).await, &caller)
}

async fn planned(
    listener: &Listener,
    caller: &Admitted,
    request: Request,
) -> Result<Value, Problem> {
    let sql = asked(listener, request).await?;
    let service = &listener.service;
    let request = guard::Request::at(listener.silo.clone()).with_statement(strip_literals(&sql));
    let permit = service.gate.authorize_planning(&caller.context, request);
    let permit = permit.await?;
    let plan = match service.queries.plan(&permit, &sql, None).await {
        Ok(plan) => plan,
        Err(error) => return Err(service.refused(&caller.context, &permit, &sql, error)),
    };
    let decision = permit.decision();
    let mut told = told(&plan);
    told["sql"] = json!(sql);
    told["policyVersion"] = json!(decision.policy.version);
    told["maskProfile"] = json!(decision.profile.name);
    told["rules"] = json!(decision.basis);
    // A statement that names another one is refused.
    told["detectedTenants"] = json!([decision.tenant]);
    Ok(told)
}

fn told(plan: &VerifiedPlan) -> Value {
    let account = plan.account();
    let digest = plan.plan_digest();
    let tables = account.tables.iter();
    let tables = tables.map(|table| json!({ "name": table.name, "maskedColumns": table.masked }));
    let schema = plan.schema();
    let columns = schema.fields().iter();
    let columns =
        columns.map(|field| json!({ "name": field.name(), "type": field.data_type().to_string() }));
    json!({
        "plan": account.text.lines().collect::<Vec<_>>(),
        "planDigest": digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "tables": tables.collect::<Vec<_>>(),
        "columns": columns.collect::<Vec<_>>(),
    })
}

async fn asked(listener: &Listener, request: Request) -> Result<String, Problem> {
    let mut share = listener.room.share();
    let text = body::json(request, BODY_BYTES_MAX, &mut share).await?;
    let asked: Result<Asked, _> = serde_json::from_slice(&text);
    let needed = |_| Problem::new(Slug::InvalidQuery, "the body is {\"sql\": \"..\"}");
    Ok(asked.map_err(needed)?.sql)
}
