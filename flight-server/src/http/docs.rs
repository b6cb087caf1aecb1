//! `/openapi.json`, and the same to read and to try at `/docs`: with Swagger UI, all of which is in the binary.
//!
//! Neither says anything of a tenant, and so neither asks for a token.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::router::not_found;

const API: &str = include_str!("../../docs/openapi.json");
const PAGE: &str = include_str!("../../docs/index.html");
/// The parts of the page: name, media type, text.
const PARTS: &[(&str, &str, &str)] = &[
    (
        "start.js",
        "text/javascript",
        include_str!("../../docs/start.js"),
    ),
    (
        "swagger-ui-bundle.js",
        "text/javascript",
        include_str!("../../docs/swagger-ui-bundle.js"),
    ),
    (
        "swagger-ui.css",
        "text/css",
        include_str!("../../docs/swagger-ui.css"),
    ),
];
/// The page has what is here and nothing else; tokens that are typed in go nowhere but here.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// What can be asked here.
pub(super) async fn api() -> Response {
    text("application/json", API)
}

/// The page.
pub(super) async fn page() -> Response {
    text("text/html; charset=utf-8", PAGE)
}

/// A part of it.
pub(super) async fn part(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match PARTS.iter().find(|(known, ..)| *known == name) {
        Some((_, media_type, part)) => text(media_type, part),
        None => not_found("the page has no such part", &headers).into_response(),
    }
}

fn text(media_type: &'static str, text: &'static str) -> Response {
    const SNIFFING: HeaderName = HeaderName::from_static("x-content-type-options");
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (SNIFFING, HeaderValue::from_static("nosniff")),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn api() -> Value {
        serde_json::from_str(API).unwrap()
    }

    /// The paths of the silo's listener, as its source has them.
    fn routes() -> BTreeSet<String> {
        let source = include_str!("router.rs");
        let (_, source) = source.split_once("pub fn silo").unwrap();
        let (source, _) = source.split_once("pub fn admin").unwrap();
        let texts = source.split('"').skip(1).step_by(2);
        texts.map(|path| path.replace('*', "")).collect()
    }

    #[test]
    fn every_path_is_described_and_no_other() {
        let api = api();
        let described = api["paths"].as_object().unwrap().keys();
        let described: BTreeSet<String> = described.cloned().collect();
        assert_eq!(described, routes());
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_reference_an_end() {
        let api = api();
        let mut names = BTreeSet::new();
        for operations in api["paths"].as_object().unwrap().values() {
            for operation in operations.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name}");
                assert!(operation["responses"].is_object(), "{name}");
            }
        }
        let references = API.split("\"$ref\": \"#").skip(1);
        for reference in references.map(|rest| rest.split('"').next().unwrap()) {
            assert!(api.pointer(reference).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_page_asks_for_what_is_here() {
        for part in PAGE.split("docs/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(PARTS.iter().any(|(known, ..)| *known == name), "{name}");
        }
        assert!(!PAGE.contains("://"));
    }
}
