//! `/v1/query`: records page by page, for applications.
//!
//! ```text
//! GET  /v1/query?action=Login&labels.env=prod&from=..&to=..&sort=-createdAt&limit=100&cursor=..
//! POST /v1/query   {"stream": "..", "timeRange": {"from": "..", "to": ".."}, "filters": {"action": ["Login", ".."]},
//!                   "sort": "-createdAt", "limit": 100, "cursor": ".."}
//!                  {"records": [..], "nextCursor": "..", "receiptId": ".."}
//! ```
//! A page is a statement like any other: guarded, masked, in evidence, with a receipt. A field may be given several times,
//! or with a list; a record has one of the values. `nextCursor` is null after the last page, and goes with the same
//! question.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use catalog::clock::Timestamp;
use catalog::guard::{self, Decision, Permit, Read};
use catalog::ids::RecordId;
use engine::query::listing::{Listing, Order, Position};
use engine::query::{self, Further, Part, VerifiedPlan, strip_literals};
use futures::TryStreamExt;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chosen::{TimeRange, filter, instant, invalid, stream};
use super::headers::kept_by_nobody;
use super::router::Listener;
use super::{body, chosen, cursor, rows};
use crate::limits::{Admitted, Share};
use crate::problem::{Problem, Slug};

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1_000;
/// Bytes of the rows of one page.
const PAGE_BYTES_MAX: usize = 32 << 20;
/// The longest question.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// What is asked.
#[derive(Default)]
struct Asked {
    listing: Listing,
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Question {
    stream: Option<String>,
    #[serde(default)]
    time_range: TimeRange,
    #[serde(default)]
    filters: Map<String, Value>,
    sort: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

/// One page.
pub(super) async fn page(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    match paged(&listener, &caller, request).await {
        Ok(answer) => answer,
        Err(problem) => problem
            .correlated(caller.context.correlation())
            .into_response(),
    }
}

async fn paged(
    listener: &Listener,
    caller: &Admitted,
    request: Request,
) -> Result<Response, Problem> {
    let mut share = listener.room.share();
    let asked = if request.method() == Method::POST {
        of_body(request, &mut share).await?
    } else {
        of_parameters(request.uri().query().unwrap_or_default())?
    };
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid(format!("limit is 1 to {PAGE_MAX}")));
    }
    let service = &listener.service;
    // What is asked of which columns; its values are parameters, and in no text.
    let (text, _) = asked.listing.page(None, limit);
    let asks = guard::Request::at(listener.silo.clone()).with_statement(strip_literals(&text));
    let permit = service.gate.authorize_planning(&caller.context, asks);
    let permit = permit.await?;
    let root = service.cursor_key().ok_or_else(|| {
        let detail = "the key that cursors are sealed with is not available";
        Problem::new(Slug::KeyUnavailable, detail)
    })?;
    let (clock, random) = (&*service.clock, &*service.random);
    let decision = permit.decision();
    let opened = asked.cursor.as_deref();
    let opened = opened.map(|text| cursor::open((&root, clock), decision, &asked.listing, text));
    let (sql, parameters) = asked.listing.page(opened.transpose()?, limit);
    let plan = match service.queries.plan(&permit, &sql, Some(parameters)).await {
        Ok(plan) => plan,
        Err(error) => return Err(service.refused(&caller.context, &permit, &sql, error)),
    };
    let decision = Arc::clone(decision);
    let (records, receipt) = read(listener, &permit, (plan, sql), &mut share).await?;
    let next = match records.last().filter(|_| records.len() == limit) {
        Some(last) => {
            let end = position(last).ok_or_else(|| internal("a record has no place"))?;
            let made = (&root, random, clock);
            Some(cursor::seal(made, &decision, &asked.listing, end)?)
        }
        None => None,
    };
    Ok(answer(&decision, &records, next, receipt))
}

/// The records of a plan, and the name of their receipt.
async fn read(
    listener: &Listener,
    permit: &Permit<Read>,
    (plan, sql): (VerifiedPlan, Arc<str>),
    share: &mut Share,
) -> Result<(Vec<Map<String, Value>>, RecordId), Problem> {
    let service = &listener.service;
    let text = Some(strip_literals(&sql));
    let permit = service.gate.witnessed(permit, text, plan.plan_digest());
    let further = Further {
        sql,
        parameters: Vec::new(),
    };
    let mut parts = service.queries.answer(permit, plan, further).await?;
    let (mut records, mut bytes, mut receipt) = (Vec::new(), 0, None);
    while let Some(part) = parts.try_next().await? {
        match part {
            Part::Rows(batch) => {
                bytes += rows::bytes(&batch);
                if bytes > PAGE_BYTES_MAX {
                    let detail =
                        "the records of this page are too large together: ask for fewer of them";
                    return Err(Problem::new(Slug::PayloadTooLarge, detail));
                }
                share.cover(bytes).await?;
                rows::add(&batch, &mut records).map_err(|_| internal("a record cannot be told"))?;
            }
            Part::Receipt(signed) => receipt = Some(signed.receipt().id),
        }
    }
    let receipt = receipt.ok_or_else(|| internal("an answer ended without its receipt"))?;
    Ok((records, receipt))
}

fn answer(
    decision: &Decision,
    records: &[Map<String, Value>],
    next: Option<String>,
    receipt: RecordId,
) -> Response {
    let told = json!({
        "records": records,
        "nextCursor": next,
        "receiptId": receipt,
        "policyVersion": decision.policy.version,
        "maskProfile": decision.profile.name,
    });
    kept_by_nobody(Json(told))
}

fn position(record: &Map<String, Value>) -> Option<Position> {
    Some(Position {
        created_at: Timestamp::parse_rfc3339(record.get("createdAt")?.as_str()?).ok()?,
        record_id: RecordId::parse(record.get("recordId")?.as_str()?).ok()?,
    })
}

async fn of_body(request: Request, share: &mut Share) -> Result<Asked, Problem> {
    let text = body::json(request, BODY_BYTES_MAX, share).await?;
    let question: Question = serde_json::from_slice(&text).map_err(|_| {
        invalid("the body is {\"stream\", \"timeRange\": {\"from\", \"to\"}, \"filters\": {..}, \"sort\", \"limit\", \"cursor\"}, all of them optional")
    })?;
    let mut asked = Asked {
        limit: question.limit,
        cursor: question.cursor,
        ..Asked::default()
    };
    let listing = &mut asked.listing;
    listing.stream = question.stream.as_deref().map(stream).transpose()?;
    question.time_range.narrow(listing)?;
    if let Some(sort) = question.sort {
        listing.order = order(&sort)?;
    }
    chosen::filters(listing, question.filters)?;
    Ok(asked)
}

fn of_parameters(query: &str) -> Result<Asked, Problem> {
    let mut asked = Asked::default();
    let mut seen = BTreeSet::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let (name, value) = (&*name, &*value);
        let is_ours = ["stream", "from", "to", "sort", "limit", "cursor"].contains(&name);
        if is_ours && !seen.insert(name.to_owned()) {
            return Err(invalid(format!("the parameter {name} is given twice")));
        }
        let listing = &mut asked.listing;
        match name {
            "stream" => listing.stream = Some(stream(value)?),
            "from" => listing.from = instant(name, Some(value))?,
            "to" => listing.until = instant(name, Some(value))?,
            "sort" => listing.order = order(value)?,
            "limit" => {
                let number = || invalid(format!("limit is 1 to {PAGE_MAX}"));
                asked.limit = Some(value.parse().map_err(|_| number())?);
            }
            "cursor" => asked.cursor = Some(value.to_owned()),
            _ => filter(listing, name, value)?,
        }
    }
    Ok(asked)
}

fn order(sort: &str) -> Result<Order, Problem> {
    match sort {
        "-createdAt" | "-createdAt,-recordId" => Ok(Order::Descending),
        "createdAt" | "createdAt,recordId" => Ok(Order::Ascending),
        _ => {
            let detail = "records are sorted by -createdAt, from the newest, or by createdAt";
            Err(Problem::new(Slug::UnsupportedSort, detail))
        }
    }
}

fn internal(what: &'static str) -> Problem {
    tracing::error!(what, "a page of records cannot be told");
    Problem::from(query::Error::Internal)
}
