//! Which schema the caller and the stream agree on, and what the caller is told of versions that are about to end.

use std::collections::BTreeSet;

use axum::Json;
use axum::response::{IntoResponse, Response};
use catalog::ids::StreamName;
use catalog::schema::{Deprecation, SchemaVersion, StreamSchemas, TenantSchemas};
use chrono::DateTime;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;

use crate::problem::{Problem, Slug};

/// The one kind of document this server speaks; its major versions are the stream's.
const SCHEMA: &str = "audit-record";
/// Versions that an answer warns of.
const WARNINGS_MAX: usize = 8;

/// Refuses an `Accept-Schema` that names no major version of the stream's records.
pub(super) fn check_schema(headers: &HeaderMap, majors: &BTreeSet<u16>) -> Result<(), Problem> {
    const ACCEPT_SCHEMA: HeaderName = HeaderName::from_static("accept-schema");
    let mut values = headers.get_all(ACCEPT_SCHEMA).iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    // A list, like Accept: one that is spoken here is enough.
    let is_met = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .any(|accepted| is_ours(accepted, majors));
    if is_met {
        return Ok(());
    }
    let spoken: Vec<String> = majors
        .iter()
        .map(|major| format!("{SCHEMA};v={major}"))
        .collect();
    let detail = format!("the records of this stream are {}", spoken.join(", "));
    Err(Problem::new(Slug::UnsupportedSchema, detail))
}

fn is_ours(accepted: &str, majors: &BTreeSet<u16>) -> bool {
    let mut parts = accepted.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let name_fits = name.eq_ignore_ascii_case(SCHEMA) || name == "*";
    let version_fits = parts
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("v"))
        .all(|(_, version)| {
            let major = version.trim().parse::<u16>();
            major.is_ok_and(|major| majors.contains(&major))
        });
    name_fits && version_fits
}

/// The answer, with a `Warning` (299) for each of these versions that is about to end, and with them `Deprecation`
/// (RFC 9745) and `Sunset` (RFC 8594) of the one that ends first.
pub(super) fn told<'u>(
    schemas: &TenantSchemas,
    used: impl Iterator<Item = (&'u StreamName, SchemaVersion)>,
    answer: &impl Serialize,
) -> Response {
    let ending = ending(schemas, used);
    let mut answer = Json(answer).into_response();
    for (stream, version, end) in ending.iter().take(WARNINGS_MAX) {
        let latest = schemas.streams.get(*stream).and_then(StreamSchemas::latest);
        let successor =
            latest.map_or_else(String::new, |latest| format!("; use {}", latest.version));
        let warning = format!(
            "299 trailhouse \"schema {version} of {stream} ends on {}{successor}\"",
            end.sunset.date()
        );
        append(&mut answer, "warning", &warning);
    }
    if let Some((_, _, first)) = ending.first() {
        let since = first.since.as_micros().div_euclid(1_000_000);
        append(&mut answer, "deprecation", &format!("@{since}"));
        if let Some(sunset) = DateTime::from_timestamp_micros(first.sunset.as_micros()) {
            let date = sunset.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
            append(&mut answer, "sunset", &date);
        }
    }
    answer
}

/// Those of the versions that are about to end, the first to end first.
fn ending<'u>(
    schemas: &TenantSchemas,
    used: impl Iterator<Item = (&'u StreamName, SchemaVersion)>,
) -> Vec<(&'u StreamName, SchemaVersion, Deprecation)> {
    let mut announced = schemas.streams.values().flat_map(|stream| &stream.versions);
    if announced.all(|known| known.deprecated.is_none()) {
        return Vec::new();
    }
    let used: BTreeSet<(&StreamName, SchemaVersion)> = used.collect();
    let ending = used.into_iter().filter_map(|(stream, version)| {
        let end = schemas.deprecation(stream, version)?;
        Some((stream, version, end))
    });
    let mut ending: Vec<_> = ending.collect();
    ending.sort_by_key(|(_, _, end)| end.sunset);
    ending
}

fn append(answer: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        let headers = answer.headers_mut();
        headers.append(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepts(majors: &[u16], accepted: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("accept-schema", HeaderValue::from_str(accepted).unwrap());
        let majors = majors.iter().copied().collect();
        match check_schema(&headers, &majors) {
            Ok(()) => true,
            Err(problem) => {
                assert_eq!(problem.slug(), Slug::UnsupportedSchema);
                false
            }
        }
    }

    #[test]
    fn a_schema_is_met_if_one_of_the_list_is_spoken() {
        for good in [
            "audit-record;v=1",
            "Audit-Record; v=1",
            "audit-record",
            "*",
            "other;v=3, audit-record;v=1",
        ] {
            assert!(accepts(&[1], good), "{good}");
        }
        assert!(check_schema(&HeaderMap::new(), &BTreeSet::from([1])).is_ok());
        for bad in [
            "audit-record;v=2",
            "other",
            "",
            "audit-record;v=1.0",
            "audit-record;v=",
        ] {
            assert!(!accepts(&[1], bad), "{bad}");
        }
        assert!(accepts(&[1, 2], "audit-record;v=2"));
        assert!(!accepts(&[2], "audit-record;v=1"));
    }
}
