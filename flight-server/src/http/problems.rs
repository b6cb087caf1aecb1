//! `GET /problems/<slug>`: what the type of a problem means, as Markdown.

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};

use super::router::not_found;
use crate::problem::Slug;

pub(super) async fn document(Path(slug): Path<String>, headers: HeaderMap) -> Response {
    match Slug::parse(&slug) {
        Some(slug) => {
            let text = "text/markdown; charset=utf-8";
            let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(text))];
            (headers, slug.document()).into_response()
        }
        None => not_found("there is no such problem", &headers).into_response(),
    }
}
