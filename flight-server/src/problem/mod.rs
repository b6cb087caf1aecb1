//! What goes wrong, as callers see it: RFC 9457 over HTTP and the same JSON over gRPC.
//!
//! Invariant: this is the only module that turns a failure of the crates below into a status, and no problem carries a
//! data value, another tenant's id, a path or SQL of ours.

mod cause;
mod slug;
mod status;

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

pub use slug::Slug;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The header (HTTP) and trailer (gRPC) that carries the correlation id of every answer.
pub const REQUEST_ID: &str = "x-trailhouse-request-id";

/// One occurrence of a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    slug: Slug,
    status: StatusCode,
    detail: String,
    correlation: Option<String>,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem of this kind. `detail` is shown to the caller: it says what to change, and quotes nothing.
    pub fn new(slug: Slug, detail: impl Into<String>) -> Self {
        Self {
            slug,
            status: slug.http(),
            detail: detail.into(),
            correlation: None,
            retry_after: slug.retry_after_s().map(|s| Duration::from_secs(s.into())),
            members: Map::new(),
        }
    }

    /// Adds one extension member (RFC 9457, section 3.2).
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.members.insert(member.to_owned(), value.into());
        self
    }

    /// Names the request this problem answers.
    #[must_use]
    pub fn correlated(mut self, correlation: impl std::fmt::Display) -> Self {
        self.correlation = Some(correlation.to_string());
        self
    }

    /// Says how long until the same request is worth another try.
    #[must_use]
    pub fn again_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// How long until the same request is worth another try, if it ever is.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The record was taken, but into quarantine: 202 whatever the kind.
    #[must_use]
    pub fn quarantined(mut self) -> Self {
        self.status = StatusCode::ACCEPTED;
        self
    }

    /// The range that was asked for is nowhere in the file: 416 whatever the kind.
    #[must_use]
    pub fn unsatisfiable(mut self) -> Self {
        self.status = StatusCode::RANGE_NOT_SATISFIABLE;
        self
    }

    /// What kind of problem this is.
    #[must_use]
    pub fn slug(&self) -> Slug {
        self.slug
    }

    /// The HTTP status of this occurrence.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the caller reads.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The request this problem answers, once it is known.
    #[must_use]
    pub fn correlation(&self) -> Option<&str> {
        self.correlation.as_deref()
    }

    /// The JSON object of RFC 9457: the same over HTTP, inside a batch's results, and in gRPC details.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = self.members.clone();
        object.insert("type".to_owned(), self.slug.type_uri().into());
        object.insert("title".to_owned(), self.slug.title().into());
        object.insert("status".to_owned(), self.status.as_u16().into());
        object.insert("detail".to_owned(), self.detail.clone().into());
        if let Some(correlation) = &self.correlation {
            object.insert("correlationId".to_owned(), correlation.clone().into());
        }
        Value::Object(object)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_json().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.slug == Slug::InvalidToken {
            // RFC 9110 wants a challenge with every 401.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            // Whole seconds are all the header knows; a second early is a refusal more.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, seconds.max(1).into());
        }
        if let Some(Ok(id)) = self.correlation.as_deref().map(HeaderValue::from_str) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_members_do_not_displace_the_standard_ones() {
        let problem = Problem::new(Slug::Forbidden, "needs the scope audit.read")
            .with("status", 200)
            .with("needs", "audit.read")
            .correlated("c-1");
        let json = problem.to_json();
        assert_eq!(json["status"], 403);
        assert_eq!(json["needs"], "audit.read");
        assert_eq!(json["type"], "https://trailhouse.dev/problems/forbidden");
        assert_eq!(json["correlationId"], "c-1");
    }

    #[test]
    fn a_response_carries_media_type_challenge_and_request_id() {
        let response = Problem::new(Slug::InvalidToken, "no credentials")
            .correlated("c-2")
            .into_response();
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["content-type"], MEDIA_TYPE);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
        assert_eq!(response.headers()[REQUEST_ID], "c-2");
    }

    #[test]
    fn a_quarantined_record_is_accepted_and_still_a_problem() {
        let problem = Problem::new(Slug::TenantMismatch, "quarantined").quarantined();
        assert_eq!(problem.clone().into_response().status(), 202);
        assert_eq!(problem.to_json()["status"], 202);
    }

    #[test]
    fn what_may_be_retried_says_when() {
        let response = Problem::new(Slug::Unavailable, "storage").into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        let limited = Problem::new(Slug::RateLimited, "much");
        for (wait_ms, shown) in [(1, "1"), (1_000, "1"), (1_001, "2"), (7_000, "7")] {
            let problem = limited.clone().again_after(Duration::from_millis(wait_ms));
            assert_eq!(problem.into_response().headers()["retry-after"], shown);
        }
        let response = Problem::new(Slug::Forbidden, "no").into_response();
        assert!(response.headers().get("retry-after").is_none());
    }
}
