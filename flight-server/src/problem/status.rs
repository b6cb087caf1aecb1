//! A problem as a gRPC status: `google.rpc.Status` in the details, so that every client library can read it.
//!
//! The details hold a `google.rpc.ErrorInfo` (reason = the slug in upper snake case) and the problem's JSON as a
//! `google.protobuf.StringValue`; where another try is worth it, a `google.rpc.RetryInfo` says when. The messages are
//! small ones, written out here.

use std::time::Duration;

use prost::Message;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::{Problem, REQUEST_ID};

/// Details beyond this are left out: clients cut off headers at 8 KiB, and losing the status is worse than losing
/// a list of violations.
const DETAILS_BYTES_MAX: usize = 4 * 1024;

const DOMAIN: &str = "trailhouse.dev";

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<AnyMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyMessage {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StringValue {
    #[prost(string, tag = "1")]
    value: String,
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let code = problem.slug().grpc();
        let message = format!("{}: {}", problem.slug().as_str(), problem.detail());
        let mut metadata = MetadataMap::new();
        if let Some(correlation) = problem.correlation()
            && let Ok(id) = MetadataValue::try_from(correlation)
        {
            metadata.insert(REQUEST_ID, id);
        }
        let mut any = vec![error_info(&problem), problem_json(&problem)];
        any.extend(problem.retry_after().map(retry_info));
        let details = RpcStatus {
            code: code.into(),
            message: message.clone(),
            details: any,
        };
        Self::with_details_and_metadata(code, message, details.encode_to_vec().into(), metadata)
    }
}

fn error_info(problem: &Problem) -> AnyMessage {
    let info = ErrorInfo {
        reason: problem.slug().as_str().to_uppercase().replace('-', "_"),
        domain: DOMAIN.to_owned(),
        metadata: problem
            .correlation()
            .map(|id| ("correlationId".to_owned(), id.to_owned()))
            .into_iter()
            .collect(),
    };
    AnyMessage {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec(),
    }
}

fn retry_info(wait: Duration) -> AnyMessage {
    let delay = Delay {
        seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(wait.subsec_nanos()).unwrap_or(i32::MAX),
    };
    let info = RetryInfo {
        retry_delay: Some(delay),
    };
    AnyMessage {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: info.encode_to_vec(),
    }
}

fn problem_json(problem: &Problem) -> AnyMessage {
    let mut text = problem.to_json().to_string();
    if text.len() > DETAILS_BYTES_MAX {
        let mut short = problem.clone();
        short.members.clear();
        text = short.to_json().to_string();
    }
    AnyMessage {
        type_url: "type.googleapis.com/google.protobuf.StringValue".to_owned(),
        value: StringValue { value: text }.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Slug;
    use super::*;

    fn decoded(status: &Status) -> (ErrorInfo, serde_json::Value) {
        let outer = RpcStatus::decode(status.details()).unwrap();
        assert_eq!(outer.code, i32::from(status.code()));
        let info = ErrorInfo::decode(outer.details[0].value.as_slice()).unwrap();
        let json = StringValue::decode(outer.details[1].value.as_slice()).unwrap();
        (info, serde_json::from_str(&json.value).unwrap())
    }

    #[test]
    fn a_status_carries_the_same_json_the_reason_and_the_request_id() {
        let problem = Problem::new(Slug::CrossTenantQuery, "the query names another tenant")
            .correlated("c-3");
        let json = problem.to_json();
        let status = Status::from(problem);
        assert_eq!(status.code(), tonic::Code::PermissionDenied);
        assert_eq!(status.metadata().get(REQUEST_ID).unwrap(), "c-3");
        let (info, details) = decoded(&status);
        assert_eq!(info.reason, "CROSS_TENANT_QUERY");
        assert_eq!(info.domain, DOMAIN);
        assert_eq!(details, json);
    }

    #[test]
    fn a_status_says_when_to_try_again() {
        let wait = Duration::from_millis(1_250);
        let status = Status::from(Problem::new(Slug::RateLimited, "much").again_after(wait));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let outer = RpcStatus::decode(status.details()).unwrap();
        let info = RetryInfo::decode(outer.details[2].value.as_slice()).unwrap();
        let delay = info.retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 250_000_000));
        let status = Status::from(Problem::new(Slug::Forbidden, "no"));
        assert_eq!(
            RpcStatus::decode(status.details()).unwrap().details.len(),
            2
        );
    }

    #[test]
    fn long_extensions_are_left_out_rather_than_the_status_lost() {
        let violations: Vec<_> = (0..1000).map(|n| format!("/context/{n}")).collect();
        let status = Status::from(
            Problem::new(Slug::InvalidRecord, "1000 violations").with("violations", violations),
        );
        assert!(status.details().len() < DETAILS_BYTES_MAX);
        let (_, details) = decoded(&status);
        assert_eq!(details["status"], 400);
        assert!(details.get("violations").is_none());
    }
}
