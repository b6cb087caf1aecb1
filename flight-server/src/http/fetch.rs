//! A file of an export as an answer: whole, a range of it, or that it is known already (RFC 9110, sections 13 and 14).
//!
//! Files do not change, so a file's hash is its strong validator. What is read is checked frame by frame. Where that fails,
//! or the store does, before anything was sent, that is the answer; later the connection breaks, and nobody takes what there
//! was for the whole.

use std::ops::Range;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use engine::export::{self, BundleFile};
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::headers::NOT_KEPT;
use crate::problem::{Problem, Slug};

const HASH: HeaderName = HeaderName::from_static("x-trailhouse-sha256");
const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const MEDIA_TYPES: &[(&str, &str)] = &[
    ("parquet", "application/vnd.apache.parquet"),
    ("ndjson", "application/x-ndjson"),
    ("json", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
];

/// What of a file a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fetch {
    /// All of it.
    Whole,
    /// These bytes.
    Part(Range<u64>),
    /// What it is, without its bytes.
    Described,
    /// Nothing: the client has it.
    Known,
    /// Nothing: there are no such bytes.
    Beyond,
}

impl Fetch {
    /// What this request is to get.
    pub(super) fn of(file: &BundleFile, method: &Method, headers: &HeaderMap) -> Self {
        Self::chosen(&tag(file), file.bytes, method, headers)
    }

    fn chosen(tag: &str, bytes: u64, method: &Method, headers: &HeaderMap) -> Self {
        if lists(headers, tag) {
            return Self::Known;
        }
        if method == Method::HEAD {
            return Self::Described;
        }
        let mut ranges = headers.get_all(header::RANGE).iter();
        let range = match (ranges.next(), ranges.next()) {
            (Some(range), None) => range.to_str().ok(),
            _ => None,
        };
        let is_of_this = match headers.get(header::IF_RANGE) {
            // A date, or another file's tag: what the client has is of no use any more.
            Some(known) => known.as_bytes() == tag.as_bytes(),
            None => true,
        };
        let range = range.filter(|_| is_of_this);
        range.map_or(Self::Whole, |range| ranged(range, bytes))
    }

    /// Whether bytes of the file leave.
    pub(super) fn sends(&self) -> bool {
        match self {
            Self::Whole | Self::Part(_) => true,
            Self::Described | Self::Known | Self::Beyond => false,
        }
    }

    /// The answer.
    pub(super) async fn answer(
        self,
        file: &BundleFile,
        correlation: impl std::fmt::Display,
    ) -> Response {
        let part = match &self {
            Self::Whole => 0..file.bytes,
            Self::Part(range) => range.clone(),
            Self::Described | Self::Known | Self::Beyond => 0..0,
        };
        match read(file, part).await {
            Ok(body) => self.around(body, file, correlation),
            Err(error) => Problem::from(error).correlated(correlation).into_response(),
        }
    }

    fn around(
        self,
        body: Body,
        file: &BundleFile,
        correlation: impl std::fmt::Display,
    ) -> Response {
        let bytes = file.bytes;
        let mut answer = match &self {
            Self::Whole => body.into_response(),
            Self::Part(_) => (StatusCode::PARTIAL_CONTENT, body).into_response(),
            Self::Described => Body::empty().into_response(),
            Self::Known => StatusCode::NOT_MODIFIED.into_response(),
            Self::Beyond => {
                let problem = Problem::new(Slug::InvalidQuery, "the range begins behind the file");
                let problem = problem.correlated(correlation).unsatisfiable();
                let mut answer = problem.into_response();
                insert(
                    &mut answer,
                    header::CONTENT_RANGE,
                    &format!("bytes */{bytes}"),
                );
                return answer;
            }
        };
        let headers = answer.headers_mut();
        headers.insert(header::CACHE_CONTROL, NOT_KEPT);
        headers.insert(header::ACCEPT_RANGES, BYTES);
        insert(&mut answer, header::ETAG, &tag(file));
        insert(&mut answer, HASH, &file.sha256);
        if self == Self::Known {
            return answer;
        }
        let length = match &self {
            Self::Part(range) => {
                let (first, last) = (range.start, range.end.saturating_sub(1));
                let told = format!("bytes {first}-{last}/{bytes}");
                insert(&mut answer, header::CONTENT_RANGE, &told);
                range.end - range.start
            }
            _ => bytes,
        };
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        insert(&mut answer, header::CONTENT_TYPE, media_type(&file.path));
        let disposition = format!("attachment; filename=\"{}\"", name(&file.path));
        insert(&mut answer, header::CONTENT_DISPOSITION, &disposition);
        answer
    }
}

/// These bytes, the first of which are there.
async fn read(file: &BundleFile, range: Range<u64>) -> Result<Body, export::Error> {
    if range.is_empty() {
        return Ok(Body::empty());
    }
    let mut parts = file.read(range);
    let first = parts.try_next().await?;
    let rest = parts.inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::warn!(error, "a file of an export broke off");
    });
    Ok(Body::from_stream(stream::iter(first.map(Ok)).chain(rest)))
}

fn insert(answer: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
}

fn tag(file: &BundleFile) -> String {
    format!("\"{}\"", file.sha256)
}

/// Whether the client says that it has this one.
fn lists(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut known = known
        .filter_map(|tags| tags.to_str().ok())
        .flat_map(|tags| tags.split(','))
        .map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// What a range is of so many bytes. One that cannot be read, and several, are no range: all of it is an answer to them.
fn ranged(text: &str, bytes: u64) -> Fetch {
    let range = text
        .split_once('=')
        .filter(|(unit, range)| unit.trim().eq_ignore_ascii_case("bytes") && !range.contains(','));
    let Some((first, last)) = range.and_then(|(_, range)| range.trim().split_once('-')) else {
        return Fetch::Whole;
    };
    let range = match (number(first), number(last)) {
        (None, Some(count)) if first.is_empty() => bytes.saturating_sub(count)..bytes,
        (Some(first), None) if last.is_empty() => first..bytes,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(bytes),
        _ => return Fetch::Whole,
    };
    if range.is_empty() {
        Fetch::Beyond
    } else {
        Fetch::Part(range)
    }
}

/// A number of digits only. One that is too large is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

fn media_type(path: &str) -> &'static str {
    let extension = path.rsplit_once('.').map(|(_, extension)| extension);
    let known = MEDIA_TYPES
        .iter()
        .find(|(known, _)| Some(*known) == extension);
    known.map_or("application/octet-stream", |(_, media_type)| media_type)
}

/// The last part of a path, of characters that mean nothing in a header.
fn name(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or_default().chars();
    name.filter(|one| one.is_ascii_alphanumeric() || "._-".contains(*one))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"abc\"";

    fn chosen(method: Method, pairs: &[(HeaderName, &'static str)]) -> Fetch {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        Fetch::chosen(TAG, 10, &method, &headers)
    }

    #[test]
    fn a_range_is_one_or_none() {
        for (text, wanted) in [
            ("bytes=0-0", Fetch::Part(0..1)),
            ("bytes=0-9", Fetch::Part(0..10)),
            ("bytes=3-99", Fetch::Part(3..10)),
            ("bytes=9-", Fetch::Part(9..10)),
            ("bytes=-3", Fetch::Part(7..10)),
            ("bytes=-99", Fetch::Part(0..10)),
            ("Bytes = 1-2", Fetch::Part(1..3)),
            ("bytes=4-99999999999999999999999", Fetch::Part(4..10)),
            ("bytes=10-", Fetch::Beyond),
            ("bytes=10-12", Fetch::Beyond),
            ("bytes=-0", Fetch::Beyond),
            ("bytes=5-3", Fetch::Whole),
            ("bytes=0-1,4-5", Fetch::Whole),
            ("bytes=-", Fetch::Whole),
            ("bytes=+1-2", Fetch::Whole),
            ("bytes=a-2", Fetch::Whole),
            ("bytes=1-b", Fetch::Whole),
            ("bytes", Fetch::Whole),
            ("rows=0-1", Fetch::Whole),
            ("", Fetch::Whole),
        ] {
            assert_eq!(ranged(text, 10), wanted, "{text}");
        }
        assert_eq!(ranged("bytes=0-", 0), Fetch::Beyond);
        assert_eq!(ranged("bytes=-1", 0), Fetch::Beyond);
    }

    #[test]
    fn a_range_of_another_file_is_all_of_this_one() {
        let range = (header::RANGE, "bytes=1-2");
        let part = Fetch::Part(1..3);
        assert_eq!(chosen(Method::GET, std::slice::from_ref(&range)), part);
        let of = |tag| chosen(Method::GET, &[range.clone(), (header::IF_RANGE, tag)]);
        assert_eq!(of("\"abc\""), part);
        for other in [
            "\"abd\"",
            "W/\"abc\"",
            "Sat, 29 Oct 1994 19:43:31 GMT",
            "abc",
        ] {
            assert_eq!(of(other), Fetch::Whole, "{other}");
        }
        let twice = [range.clone(), (header::RANGE, "bytes=3-4")];
        assert_eq!(chosen(Method::GET, &twice), Fetch::Whole);
        assert_eq!(chosen(Method::HEAD, &[range]), Fetch::Described);
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for (tags, is_known) in [
            ("\"abc\"", true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("*", true),
            ("\"abd\"", false),
            ("abc", false),
            ("", false),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let asked = [(header::IF_NONE_MATCH, tags), (header::RANGE, "bytes=99-")];
                let fetch = chosen(method, &asked);
                assert_eq!(fetch == Fetch::Known, is_known, "{tags}");
            }
        }
    }

    #[test]
    fn files_have_media_types_and_plain_names() {
        assert_eq!(
            media_type("part-00000.parquet"),
            "application/vnd.apache.parquet"
        );
        assert_eq!(
            media_type("proofs/part-0.leaves.ndjson"),
            "application/x-ndjson"
        );
        assert_eq!(media_type("proofs/checkpoint"), "application/octet-stream");
        assert_eq!(media_type("manifest.sig"), "application/octet-stream");
        assert_eq!(
            name("proofs/part-00000.leaves.parquet"),
            "part-00000.leaves.parquet"
        );
        assert_eq!(name("a/b\"; x\r\n.json"), "bx.json");
    }
}
