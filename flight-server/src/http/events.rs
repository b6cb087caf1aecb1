//! `POST /v1/audit/events`: CloudEvents 1.0, structured, batched, or with their attributes in headers.
//!
//! Each becomes a record ([`crate::cloudevents`]) and goes the way of all records.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use catalog::context::TenantContext;
use catalog::guard::{Permit, Write};
use engine::ingest::{IncomingRecord, Mode, Outcome};
use engine::record::{Violation, json as strict};
use http::HeaderMap;
use serde_json::{Map, Value};

use super::batch::Results;
use super::receipt::Answer;
use super::router::Listener;
use super::{body, headers, negotiation, records};
use crate::cloudevents::{self, Mapped};
use crate::intake::{self, CHUNK_BYTES, CHUNK_RECORDS};
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCHED: &str = "application/cloudevents-batch+json";
const PREFIX: &str = "ce-";

/// Takes one event in, or a batch of them.
pub(super) async fn take(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let context = &caller.context;
    match take_events(&listener, context, &parts, body).await {
        Ok(answer) => answer,
        Err(problem) => problem.correlated(context.correlation()).into_response(),
    }
}

/// How an event travels in a request.
enum Form {
    Structured,
    Batched,
    /// Its attributes in headers, its data the body.
    Binary,
}

fn form(media_type: &str, headers: &HeaderMap) -> Result<Form, Problem> {
    match media_type {
        STRUCTURED => Ok(Form::Structured),
        BATCHED => Ok(Form::Batched),
        _ if headers.contains_key("ce-specversion") => Ok(Form::Binary),
        _ => Err(Problem::new(
            Slug::UnsupportedMediaType,
            format!("an event is sent as {STRUCTURED}, as {BATCHED}, or with ce- headers"),
        )),
    }
}

async fn take_events(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    body: Body,
) -> Result<Response, Box<Problem>> {
    headers::check_uncompressed(&parts.headers)?;
    let media_type = headers::media_type(&parts.headers)?;
    let form = form(&media_type, &parts.headers)?;
    let (permit, schemas) = records::allow(listener, context, parts).await?;
    let limits = &listener.service.config.limits;
    let bytes_max = match form {
        Form::Batched => limits.batch_bytes_max,
        Form::Structured | Form::Binary => limits.record_bytes_max,
    };
    let mut share = listener.room.share();
    let body = body::read(&parts.headers, body, bytes_max, &mut share).await?;
    let event = match form {
        Form::Batched => {
            let results = take_batch(listener, context, &permit, &body).await?;
            return Ok(negotiation::told(&schemas, results.schemas(), &results));
        }
        Form::Structured => strict::parse(&body),
        Form::Binary => in_headers(&parts.headers, &media_type, &body),
    };
    let tenant = context.tenant().as_str();
    let outcome = match event.and_then(|event| cloudevents::record(event, tenant)) {
        Err(violations) => Outcome::Invalid(violations),
        Ok(mapped) => {
            let record = incoming(&mapped);
            let outcomes =
                intake::take(&listener.service, &permit, vec![record], Mode::Single).await?;
            let outcome = outcomes.into_iter().next();
            let unanswered = || Problem::new(Slug::Internal, "the event was not answered");
            in_event(outcome.ok_or_else(unanswered)?, &mapped)
        }
    };
    match Answer::of(outcome, context.tenant()) {
        Answer::Stored(stored) => {
            let schema = stored.schema().into_iter();
            Ok(negotiation::told(&schemas, schema, &stored))
        }
        Answer::Problem(problem) => Err(problem),
    }
}

fn incoming(mapped: &Mapped) -> IncomingRecord {
    IncomingRecord::Json {
        text: mapped.record.to_string().into(),
        idempotency_key: None,
    }
}

/// The outcome with its violations where they stand in the event.
fn in_event(outcome: Outcome, mapped: &Mapped) -> Outcome {
    match outcome {
        Outcome::Invalid(violations) => {
            let moved = violations.into_iter().map(|one| mapped.in_event(one));
            Outcome::Invalid(moved.collect())
        }
        other => other,
    }
}

/// The event whose attributes are headers.
fn in_headers(
    headers: &HeaderMap,
    media_type: &str,
    body: &Bytes,
) -> Result<Value, Vec<Violation>> {
    let mut event = Map::new();
    let mut faults = Vec::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let at = || format!("/{attribute}");
        match percent_decoded(value.as_bytes()) {
            None => faults.push(Violation::new(at(), "must be UTF-8, percent-encoded")),
            Some(text) => {
                if event.insert(attribute.to_owned(), text.into()).is_some() {
                    faults.push(Violation::new(at(), "is there more than once"));
                }
            }
        }
    }
    let is_json =
        media_type.is_empty() || media_type == "application/json" || media_type.ends_with("+json");
    match std::str::from_utf8(body) {
        _ if body.is_empty() => {}
        _ if is_json => match strict::parse(body) {
            Ok(data) => {
                event.insert("data".to_owned(), data);
            }
            Err(violations) => faults.extend(
                violations
                    .into_iter()
                    .map(|one| Violation::new(format!("/data{}", one.pointer), one.message)),
            ),
        },
        Ok(text) => {
            event.insert("data".to_owned(), text.into());
        }
        Err(_) => {
            event.insert("data_base64".to_owned(), STANDARD.encode(body).into());
        }
    }
    if faults.is_empty() {
        Ok(Value::Object(event))
    } else {
        Err(faults)
    }
}

/// A header's value as the HTTP binding of CloudEvents writes it.
fn percent_decoded(value: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// Takes the events of a JSON array in, some at a time, in their order.
async fn take_batch(
    listener: &Listener,
    context: &TenantContext,
    permit: &Permit<Write>,
    body: &Bytes,
) -> Result<Results, Box<Problem>> {
    let limits = &listener.service.config.limits;
    let events = elements(body)?;
    if events.len() > limits.batch_lines_max {
        let detail = format!("at most {} events are taken", limits.batch_lines_max);
        let problem = Problem::new(Slug::PayloadTooLarge, detail);
        return Err(problem.with("linesMax", limits.batch_lines_max).into());
    }
    let mut results = Results::default();
    let mut rest = events.as_slice();
    let mut number = 0;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(together(rest));
        if let Err(problem) = results
            .take_events(listener, context, permit, number, chunk)
            .await
        {
            let line = number + 1;
            let stopped = body::Stopped { problem, line };
            return Ok(results.answer(Some(stopped))?);
        }
        number += chunk.len() as u64;
        rest = after;
    }
    Ok(results.answer(None)?)
}

/// How many of these events are handed on together: one at least.
fn together(events: &[Bytes]) -> usize {
    let mut bytes = 0;
    let fits = events.iter().take(CHUNK_RECORDS).take_while(|event| {
        bytes += event.len();
        bytes <= CHUNK_BYTES
    });
    fits.count().max(1)
}

impl Results {
    async fn take_events(
        &mut self,
        listener: &Listener,
        context: &TenantContext,
        permit: &Permit<Write>,
        first: u64,
        events: &[Bytes],
    ) -> Result<(), Problem> {
        let tenant = context.tenant().as_str();
        let record_bytes_max = listener.service.config.limits.record_bytes_max;
        let mut settled: BTreeMap<usize, Outcome> = BTreeMap::new();
        let (mut sent, mut records) = (Vec::new(), Vec::new());
        for (index, event) in events.iter().enumerate() {
            if event.len() > record_bytes_max {
                settled.insert(index, Outcome::TooLarge);
                continue;
            }
            match strict::parse(event).and_then(|event| cloudevents::record(event, tenant)) {
                Ok(mapped) => {
                    records.push(incoming(&mapped));
                    sent.push((index, mapped));
                }
                Err(violations) => {
                    settled.insert(index, Outcome::Invalid(violations));
                }
            }
        }
        let outcomes = intake::take(&listener.service, permit, records, Mode::Batch).await?;
        for ((index, mapped), outcome) in sent.into_iter().zip(outcomes) {
            settled.insert(index, in_event(outcome, &mapped));
        }
        for (index, outcome) in settled {
            self.add(first + index as u64 + 1, outcome, context);
        }
        Ok(())
    }
}

/// The texts of the elements of a JSON array. What an element is made of is not looked at here, only where it ends.
fn elements(body: &Bytes) -> Result<Vec<Bytes>, Problem> {
    let refused = || Problem::new(Slug::InvalidRecord, "a batch of events is a JSON array");
    let inside = body.trim_ascii();
    let inside = inside.strip_prefix(b"[").ok_or_else(refused)?;
    let inside = inside.strip_suffix(b"]").ok_or_else(refused)?;
    if inside.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut elements = Vec::new();
    let (mut start, mut depth, mut in_text, mut escaped) = (0, 0_usize, false, false);
    for (at, byte) in inside.iter().enumerate() {
        match (in_text, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_text = !in_text,
            (true, _) => {}
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.checked_sub(1).ok_or_else(refused)?,
            (false, b',') if depth == 0 => {
                elements.push(body.slice_ref(&inside[start..at]));
                start = at + 1;
            }
            (false, _) => {}
        }
    }
    elements.push(body.slice_ref(&inside[start..]));
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_split_where_its_elements_end() {
        let split = |text: &'static str| {
            let elements = elements(&Bytes::from_static(text.as_bytes())).ok()?;
            let text = |element: Bytes| String::from_utf8(element.to_vec()).unwrap();
            Some(elements.into_iter().map(text).collect::<Vec<_>>())
        };
        let owned =
            |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(split(" [] "), owned(&[]));
        assert_eq!(split("[{\"a\":[1,2]},{}]"), owned(&["{\"a\":[1,2]}", "{}"]));
        assert_eq!(
            split(r#"["a,\"b]",{"c":"}"}]"#),
            owned(&[r#""a,\"b]""#, r#"{"c":"}"}"#])
        );
        assert_eq!(split("[1,,2]"), owned(&["1", "", "2"]));
        for odd in ["", "{}", "[1", "1]", "[1]]"] {
            assert!(split(odd).is_none_or(|found| found != ["1"]), "{odd}");
        }
        assert_eq!(split("[}]"), None);
    }

    #[test]
    fn header_values_are_percent_encoded() {
        let decoded = |text: &str| percent_decoded(text.as_bytes());
        assert_eq!(
            decoded("Euro%20%E2%82%AC %F0%9F%98%80").as_deref(),
            Some("Euro € 😀")
        );
        for odd in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(odd), None, "{odd}");
        }
    }
}
