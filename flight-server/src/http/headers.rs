//! What the headers of a write say beside who makes it: stream, key, media type; and that an answer is not to be kept.

use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use catalog::ids::StreamName;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use crate::problem::{Problem, Slug};

/// An answer that nobody in between may keep.
pub(super) const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// The same answer, for nobody in between to keep.
pub(super) fn kept_by_nobody(answer: impl IntoResponse) -> Response {
    let mut answer = answer.into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, NOT_KEPT);
    answer
}

/// A header's value, if it is there once and is text.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).map_err(|_| {
            Problem::new(
                Slug::InvalidRecord,
                format!("the header {name} is not text"),
            )
        }),
        (Some(_), Some(_)) => Err(Problem::new(
            Slug::InvalidRecord,
            format!("the header {name} is there more than once"),
        )),
    }
}

/// The idempotency key, under either name; both may be there if they agree.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    const PLAIN: HeaderName = HeaderName::from_static("idempotency-key");
    const PREFIXED: HeaderName = HeaderName::from_static("x-idempotency-key");
    let key = match (single(headers, &PLAIN)?, single(headers, &PREFIXED)?) {
        (Some(plain), Some(prefixed)) if plain != prefixed => {
            let detail = "Idempotency-Key and X-Idempotency-Key differ";
            return Err(Problem::new(Slug::InvalidRecord, detail));
        }
        (Some(key), _) | (None, Some(key)) => key,
        (None, None) => return Ok(None),
    };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail = format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return Err(Problem::new(Slug::InvalidRecord, detail));
    }
    Ok(Some(key.to_owned()))
}

/// The stream, from `?stream=` or `x-stream`; both may be there if they agree.
pub(super) fn stream(uri: &Uri, headers: &HeaderMap) -> Result<Option<StreamName>, Problem> {
    const HEADER: HeaderName = HeaderName::from_static("x-stream");
    let mut named: Option<StreamName> = None;
    let query = uri.query().unwrap_or_default().as_bytes();
    let in_query: Vec<String> = url::form_urlencoded::parse(query)
        .filter(|(name, _)| name == "stream")
        .map(|(_, value)| value.into_owned())
        .collect();
    let in_header = single(headers, &HEADER)?.map(str::to_owned);
    for text in in_query.into_iter().chain(in_header) {
        let stream = StreamName::parse(&text)
            .map_err(|_| Problem::new(Slug::InvalidRecord, "the stream's name is malformed"))?;
        if named.as_ref().is_some_and(|named| *named != stream) {
            let detail = "the stream is named twice, and differently";
            return Err(Problem::new(Slug::InvalidRecord, detail));
        }
        named = Some(stream);
    }
    Ok(named)
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Not at all.
    Identity,
    /// With gzip.
    Gzip,
}

/// The compression of a body that may be compressed.
pub(super) fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    match single(headers, &header::CONTENT_ENCODING)? {
        None => Ok(Coding::Identity),
        Some(name) if name.eq_ignore_ascii_case("identity") => Ok(Coding::Identity),
        Some(name) if name.eq_ignore_ascii_case("gzip") => Ok(Coding::Gzip),
        Some(_) => Err(Problem::new(
            Slug::UnsupportedMediaType,
            "bodies are taken plain or compressed with gzip",
        )),
    }
}

/// Refuses a body that is compressed.
pub(super) fn check_uncompressed(headers: &HeaderMap) -> Result<(), Problem> {
    match coding(headers)? {
        Coding::Identity => Ok(()),
        Coding::Gzip => Err(Problem::new(
            Slug::UnsupportedMediaType,
            "this body is taken uncompressed; batches may be compressed",
        )),
    }
}

/// The media type of the body, in lower case and without parameters; empty if there is none, or one not in UTF-8.
pub(super) fn media_type(headers: &HeaderMap) -> Result<String, Problem> {
    let given = single(headers, &header::CONTENT_TYPE)?.unwrap_or_default();
    let (essence, parameters) = given.split_once(';').unwrap_or((given, ""));
    let utf8 = parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, set)| set.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    Ok(if utf8 {
        essence.trim().to_ascii_lowercase()
    } else {
        String::new()
    })
}

/// Refuses a body of another media type.
pub(super) fn check_media_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    if accepted.contains(&media_type(headers)?.as_str()) {
        return Ok(());
    }
    let detail = format!("the body has to be {}, in UTF-8", accepted.join(" or "));
    Err(Problem::new(Slug::UnsupportedMediaType, detail))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[track_caller]
    fn refused<T: std::fmt::Debug>(outcome: Result<T, Problem>, slug: Slug) {
        assert_eq!(outcome.unwrap_err().slug(), slug);
    }

    #[test]
    fn both_names_of_the_key_are_taken_if_they_agree() {
        let key = |pairs: &[(&'static str, &str)]| idempotency_key(&headers(pairs));
        assert_eq!(key(&[]).unwrap(), None);
        for pairs in [
            &[("idempotency-key", "k1")][..],
            &[("x-idempotency-key", "k1")],
            &[("idempotency-key", "k1"), ("x-idempotency-key", "k1")],
        ] {
            assert_eq!(key(pairs).unwrap().as_deref(), Some("k1"));
        }
        refused(
            key(&[("idempotency-key", "k1"), ("x-idempotency-key", "k2")]),
            Slug::InvalidRecord,
        );
        refused(
            key(&[("idempotency-key", "k1"), ("idempotency-key", "k1")]),
            Slug::InvalidRecord,
        );
        refused(key(&[("idempotency-key", "")]), Slug::InvalidRecord);
        refused(
            key(&[("idempotency-key", &"k".repeat(257))]),
            Slug::InvalidRecord,
        );
    }

    #[test]
    fn the_stream_comes_from_either_place() {
        let named = |uri: &str, pairs: &[(&'static str, &str)]| {
            stream(&uri.parse().unwrap(), &headers(pairs))
        };
        assert_eq!(named("/r", &[]).unwrap(), None);
        let security = Some(StreamName::parse("audit.security").unwrap());
        assert_eq!(named("/r?stream=audit.security", &[]).unwrap(), security);
        assert_eq!(
            named("/r?x=1", &[("x-stream", "Audit.Security")]).unwrap(),
            security
        );
        assert_eq!(
            named(
                "/r?stream=audit%2Esecurity",
                &[("x-stream", "audit.security")]
            )
            .unwrap(),
            security
        );
        refused(
            named("/r?stream=audit.default", &[("x-stream", "audit.security")]),
            Slug::InvalidRecord,
        );
        refused(named("/r?stream=a&stream=b", &[]), Slug::InvalidRecord);
        refused(named("/r?stream=", &[]), Slug::InvalidRecord);
        refused(named("/r?stream=../x", &[]), Slug::InvalidRecord);
    }

    #[test]
    fn other_bodies_than_plain_json_in_utf8_are_refused() {
        let check = |pairs: &[(&'static str, &str)]| {
            check_media_type(&headers(pairs), &["application/json"])
        };
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\"",
        ] {
            assert!(check(&[("content-type", good)]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "text/plain",
            "application/jsonx",
            "application/json; charset=latin1",
        ] {
            refused(check(&[("content-type", bad)]), Slug::UnsupportedMediaType);
        }
        refused(check(&[]), Slug::UnsupportedMediaType);
    }

    #[test]
    fn gzip_is_the_one_compression_and_not_everywhere() {
        let of = |coding: &str| headers(&[("content-encoding", coding)]);
        assert_eq!(coding(&headers(&[])).unwrap(), Coding::Identity);
        assert_eq!(coding(&of("identity")).unwrap(), Coding::Identity);
        assert_eq!(coding(&of("GZIP")).unwrap(), Coding::Gzip);
        assert!(check_uncompressed(&of("identity")).is_ok());
        refused(check_uncompressed(&of("gzip")), Slug::UnsupportedMediaType);
        for odd in ["br", "zstd", "gzip, gzip", "deflate", ""] {
            refused(coding(&of(odd)), Slug::UnsupportedMediaType);
        }
    }
}
