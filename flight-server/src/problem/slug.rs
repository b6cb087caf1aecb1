//! The table of problems: one row a slug, and nothing else decides a status.
//!
//! Invariant: a slug that has no document in `problems/` does not compile.

use http::StatusCode;
use tonic::Code;

macro_rules! table {
    ($($variant:ident $slug:literal $http:ident $grpc:ident $title:literal;)*) => {
        /// One kind of problem. The order is that of the published table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Slug {
            $(#[doc = $title] $variant,)*
        }

        impl Slug {
            /// Every slug there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last segment of the problem's type URI.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $slug,)* }
            }

            /// The HTTP status of this kind of problem.
            #[must_use]
            pub const fn http(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$http,)* }
            }

            /// The gRPC code of this kind of problem.
            #[must_use]
            pub const fn grpc(self) -> Code {
                match self { $(Self::$variant => Code::$grpc,)* }
            }

            /// The short text that is the same for every occurrence.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What the type URI resolves to: Markdown, embedded in the binary.
            #[must_use]
            pub const fn document(self) -> &'static str {
                match self {
                    $(Self::$variant => include_str!(concat!("../../problems/", $slug, ".md")),)*
                }
            }
        }
    };
}

table! {
    MissingTenant "missing-tenant" BAD_REQUEST InvalidArgument "No tenant was named";
    InvalidTenantFormat "invalid-tenant-format" BAD_REQUEST InvalidArgument "The tenant id is malformed";
    TenantMismatch "tenant-mismatch" FORBIDDEN PermissionDenied "The tenants named do not agree";
    UnknownTenant "unknown-tenant" FORBIDDEN PermissionDenied "The tenant cannot be served";
    InvalidToken "invalid-token" UNAUTHORIZED Unauthenticated "The credentials are missing or not valid";
    Forbidden "forbidden" FORBIDDEN PermissionDenied "A role or scope is missing";
    CrossTenantQuery "cross-tenant-query" FORBIDDEN PermissionDenied "The query names another tenant";
    StatementNotAllowed "statement-not-allowed" BAD_REQUEST InvalidArgument "Only one read-only query is allowed";
    UnsupportedFilter "unsupported-filter" BAD_REQUEST InvalidArgument "This field cannot be filtered on";
    UnsupportedSort "unsupported-sort" BAD_REQUEST InvalidArgument "This field cannot be sorted by";
    InvalidQuery "invalid-query" BAD_REQUEST InvalidArgument "The query is not valid";
    InvalidCursor "invalid-cursor" BAD_REQUEST InvalidArgument "The cursor is not valid";
    ResidencyConflict "residency-conflict" CONFLICT FailedPrecondition "The tenant lives in another silo";
    IdempotencyRequired "idempotency-required" BAD_REQUEST InvalidArgument "A write needs an idempotency key";
    IdempotencyConflict "idempotency-conflict" CONFLICT AlreadyExists "The idempotency key was used for another payload";
    IdempotencyMismatch "idempotency-mismatch" ACCEPTED AlreadyExists "Quarantined: the idempotency key was used for another payload";
    InvalidRecord "invalid-record" BAD_REQUEST InvalidArgument "The record does not fit the schema";
    PayloadTooLarge "payload-too-large" PAYLOAD_TOO_LARGE ResourceExhausted "The payload is too large";
    UnsupportedSchema "unsupported-schema" NOT_ACCEPTABLE InvalidArgument "The schema version asked for is not served";
    RateLimited "rate-limited" TOO_MANY_REQUESTS ResourceExhausted "Too many requests";
    QuotaStorageExceeded "quota-storage-exceeded" CONFLICT ResourceExhausted "The storage quota is used up";
    ExportConcurrencyExceeded "export-concurrency-exceeded" CONFLICT ResourceExhausted "Too many exports are running";
    PolicyVersionStale "policy-version-stale" CONFLICT FailedPrecondition "The policy version is stale";
    PolicySignatureInvalid "policy-signature-invalid" UNPROCESSABLE_ENTITY FailedPrecondition "The policy bundle does not verify";
    KeyUnavailable "key-unavailable" SERVICE_UNAVAILABLE Unavailable "A key is not available";
    LegalHoldConflict "legal-hold-conflict" CONFLICT FailedPrecondition "A legal hold forbids this";
    HoldInvalidScope "hold-invalid-scope" BAD_REQUEST InvalidArgument "The scope of the hold is not valid";
    SubjectIdentifierUnsupported "subject-identifier-unsupported" BAD_REQUEST InvalidArgument "The subject identifier is not supported";
    ApprovalRequired "approval-required" FORBIDDEN PermissionDenied "A second person has to approve";
    BreakglassScope "breakglass-scope" FORBIDDEN PermissionDenied "Outside the scope of the break-glass grant";
    ExpiredGrant "expired-grant" FORBIDDEN PermissionDenied "The grant has expired";
    ExportUnsupportedFormat "export-unsupported-format" BAD_REQUEST InvalidArgument "The export format is not supported";
    ManifestSignatureInvalid "manifest-signature-invalid" UNPROCESSABLE_ENTITY DataLoss "The manifest's signature does not verify";
    ChecksumMismatch "checksum-mismatch" CONFLICT DataLoss "A checksum does not match";
    PreconditionFailed "precondition-failed" PRECONDITION_FAILED FailedPrecondition "The resource has changed meanwhile";
    NotFound "not-found" NOT_FOUND NotFound "There is no such resource";
    QueryLimitExceeded "query-limit-exceeded" UNPROCESSABLE_ENTITY ResourceExhausted "The query exceeds a limit";
    DeadlineExceeded "deadline-exceeded" GATEWAY_TIMEOUT DeadlineExceeded "The deadline has passed";
    Unavailable "unavailable" SERVICE_UNAVAILABLE Unavailable "Temporarily unavailable";
    EvidenceUnavailable "evidence-unavailable" SERVICE_UNAVAILABLE Unavailable "The evidence of this act cannot be recorded";
    PolicyInvalid "policy-invalid" UNPROCESSABLE_ENTITY FailedPrecondition "The policy bundle was refused";
    SchemaInvalid "schema-invalid" UNPROCESSABLE_ENTITY FailedPrecondition "The schema was refused";
    SchemaIncompatible "schema-incompatible" CONFLICT FailedPrecondition "The schema change is not compatible";
    UnsupportedMediaType "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE InvalidArgument "The media type is not supported";
    PreconditionRequired "precondition-required" PRECONDITION_REQUIRED FailedPrecondition "The request must be conditional";
    QuarantineDecided "quarantine-decided" CONFLICT FailedPrecondition "The quarantine entry was decided otherwise";
    Internal "internal" INTERNAL_SERVER_ERROR Internal "Something went wrong on our side";
}

impl Slug {
    /// The slug of this text, if it is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|slug| slug.as_str() == text)
    }

    /// The URI that RFC 9457 calls `type`.
    #[must_use]
    pub fn type_uri(self) -> String {
        format!("https://trailhouse.dev/problems/{}", self.as_str())
    }

    /// Whether the caller does well to try the same request again, and after how many seconds.
    #[must_use]
    pub const fn retry_after_s(self) -> Option<u32> {
        match self {
            Self::RateLimited | Self::Unavailable | Self::EvidenceUnavailable => Some(1),
            Self::KeyUnavailable => Some(5),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published table, row by row. A change here is a change of the interface.
    const PUBLISHED: &str = "\
missing-tenant 400 InvalidArgument
invalid-tenant-format 400 InvalidArgument
tenant-mismatch 403 PermissionDenied
unknown-tenant 403 PermissionDenied
invalid-token 401 Unauthenticated
forbidden 403 PermissionDenied
cross-tenant-query 403 PermissionDenied
statement-not-allowed 400 InvalidArgument
unsupported-filter 400 InvalidArgument
unsupported-sort 400 InvalidArgument
invalid-query 400 InvalidArgument
invalid-cursor 400 InvalidArgument
residency-conflict 409 FailedPrecondition
idempotency-required 400 InvalidArgument
idempotency-conflict 409 AlreadyExists
idempotency-mismatch 202 AlreadyExists
invalid-record 400 InvalidArgument
payload-too-large 413 ResourceExhausted
unsupported-schema 406 InvalidArgument
rate-limited 429 ResourceExhausted
quota-storage-exceeded 409 ResourceExhausted
export-concurrency-exceeded 409 ResourceExhausted
policy-version-stale 409 FailedPrecondition
policy-signature-invalid 422 FailedPrecondition
key-unavailable 503 Unavailable
legal-hold-conflict 409 FailedPrecondition
hold-invalid-scope 400 InvalidArgument
subject-identifier-unsupported 400 InvalidArgument
approval-required 403 PermissionDenied
breakglass-scope 403 PermissionDenied
expired-grant 403 PermissionDenied
export-unsupported-format 400 InvalidArgument
manifest-signature-invalid 422 DataLoss
checksum-mismatch 409 DataLoss
precondition-failed 412 FailedPrecondition
not-found 404 NotFound
query-limit-exceeded 422 ResourceExhausted
deadline-exceeded 504 DeadlineExceeded
unavailable 503 Unavailable
evidence-unavailable 503 Unavailable
policy-invalid 422 FailedPrecondition
schema-invalid 422 FailedPrecondition
schema-incompatible 409 FailedPrecondition
unsupported-media-type 415 InvalidArgument
precondition-required 428 FailedPrecondition
quarantine-decided 409 FailedPrecondition
internal 500 Internal
";

    #[test]
    fn the_table_is_the_published_one() {
        let mut table = String::new();
        for slug in Slug::ALL {
            table.push_str(&format!(
                "{} {} {:?}\n",
                slug.as_str(),
                slug.http().as_u16(),
                slug.grpc()
            ));
        }
        assert_eq!(table, PUBLISHED);
    }

    #[test]
    fn every_slug_parses_back_and_no_other_text_does() {
        for slug in Slug::ALL {
            assert_eq!(Slug::parse(slug.as_str()), Some(*slug));
        }
        assert_eq!(Slug::parse("Forbidden"), None);
        assert_eq!(Slug::parse("../forbidden"), None);
    }

    #[test]
    fn every_document_opens_with_the_title_and_names_both_statuses() {
        for slug in Slug::ALL {
            let document = slug.document();
            let mut lines = document.lines();
            assert_eq!(
                lines.next(),
                Some(format!("# {}", slug.title()).as_str()),
                "{}",
                slug.as_str()
            );
            let http = format!("HTTP {}", slug.http().as_u16());
            assert!(document.contains(&http), "{} lacks {http}", slug.as_str());
            let uri = slug.type_uri();
            assert!(document.contains(&uri), "{} lacks its type", slug.as_str());
            let code = format!("gRPC {}", upper_snake(&format!("{:?}", slug.grpc())));
            assert!(document.contains(&code), "{} lacks {code}", slug.as_str());
        }
    }

    fn upper_snake(camel: &str) -> String {
        let mut text = String::new();
        for (index, letter) in camel.char_indices() {
            if index > 0 && letter.is_uppercase() {
                text.push('_');
            }
            text.extend(letter.to_uppercase());
        }
        text
    }
}
