//! What went wrong below, as a problem: one exhaustive match for each kind of failure, and no other anywhere.

use catalog::guard::Denial;
use catalog::schema;
use engine::ingest::{self, Outcome, QuarantineReason, Receipt, ReviewError};
use engine::{export, proof, query, table};
use serde_json::json;

use super::{Problem, Slug};
use crate::limits::{Limited, NoRoom};

impl From<Denial> for Problem {
    fn from(denial: Denial) -> Self {
        let slug = match &denial {
            Denial::MissingTenant => Slug::MissingTenant,
            Denial::InvalidTenantFormat => Slug::InvalidTenantFormat,
            Denial::TenantMismatch => Slug::TenantMismatch,
            Denial::UnknownTenant => Slug::UnknownTenant,
            Denial::InvalidToken | Denial::TokenTooLong { .. } => Slug::InvalidToken,
            Denial::Forbidden { .. } | Denial::PolicyDenies | Denial::PolicyFails => {
                Slug::Forbidden
            }
            Denial::CrossTenantQuery => Slug::CrossTenantQuery,
            Denial::ResidencyConflict => Slug::ResidencyConflict,
            Denial::PolicyVersionStale => Slug::PolicyVersionStale,
            Denial::PolicySignatureInvalid => Slug::PolicySignatureInvalid,
            Denial::PolicyInvalid(_) => Slug::PolicyInvalid,
            Denial::InvalidStream => Slug::InvalidRecord,
            Denial::NotFound => Slug::NotFound,
            Denial::PreconditionFailed => Slug::PreconditionFailed,
            Denial::KeyUnavailable => Slug::KeyUnavailable,
            Denial::EvidenceUnavailable => Slug::EvidenceUnavailable,
            Denial::Unavailable => Slug::Unavailable,
        };
        let problem = Self::new(slug, denial.to_string());
        match denial {
            Denial::Forbidden { needs } => problem.with("needs", needs),
            Denial::PolicyInvalid(reasons) => problem.with("reasons", reasons),
            _ => problem,
        }
    }
}

impl From<schema::Error> for Problem {
    fn from(error: schema::Error) -> Self {
        let detail = error.to_string();
        match error {
            schema::Error::Invalid(reasons) => {
                Self::new(Slug::SchemaInvalid, detail).with("reasons", reasons)
            }
            schema::Error::Incompatible(reasons) => {
                Self::new(Slug::SchemaIncompatible, detail).with("reasons", reasons)
            }
            other => {
                tracing::warn!(
                    error = &other as &dyn std::error::Error,
                    "the schemas cannot be used"
                );
                Denial::from(&other).into()
            }
        }
    }
}

impl From<query::Error> for Problem {
    fn from(error: query::Error) -> Self {
        let text = error.to_string();
        match error {
            query::Error::Denied(denial) => denial.into(),
            query::Error::InvalidQuery { detail } => Self::new(Slug::InvalidQuery, detail),
            query::Error::StatementNotAllowed { detail } => {
                Self::new(Slug::StatementNotAllowed, detail)
            }
            query::Error::UnsupportedFilter { field } => {
                Self::new(Slug::UnsupportedFilter, text).with("field", field)
            }
            query::Error::UnsupportedSort { field } => {
                Self::new(Slug::UnsupportedSort, text).with("field", field)
            }
            query::Error::LimitExceeded { detail } => Self::new(Slug::QueryLimitExceeded, detail),
            query::Error::KeyUnavailable => Self::new(Slug::KeyUnavailable, text),
            query::Error::Unavailable | query::Error::Busy => Self::new(Slug::Unavailable, text),
            query::Error::TooManyQueries => {
                Self::new(Slug::RateLimited, text).with("limited", "queries")
            }
            query::Error::Deadline => Self::new(Slug::DeadlineExceeded, text),
            query::Error::Internal => Self::new(Slug::Internal, text),
        }
    }
}

impl From<proof::Error> for Problem {
    fn from(error: proof::Error) -> Self {
        match error {
            proof::Error::Table(error) => query::Error::from(error).into(),
            proof::Error::Keys(error) => query::Error::from(error).into(),
            proof::Error::Schemas(_) | proof::Error::Outrun => query::Error::Unavailable.into(),
            proof::Error::Tampered { .. } => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "something of a log cannot be proven"
                );
                query::Error::Internal.into()
            }
        }
    }
}

impl From<export::Error> for Problem {
    fn from(error: export::Error) -> Self {
        let text = error.to_string();
        match error {
            export::Error::Denied(denial) => denial.into(),
            export::Error::Invalid { detail } => Self::new(Slug::InvalidQuery, detail),
            export::Error::UnsupportedFormat { .. } => {
                Self::new(Slug::ExportUnsupportedFormat, text)
            }
            export::Error::TooMany { at_once } => {
                Self::new(Slug::ExportConcurrencyExceeded, text).with("atOnce", at_once)
            }
            export::Error::TooLarge { .. } => Self::new(Slug::PayloadTooLarge, text),
            export::Error::NotFound => Self::new(Slug::NotFound, text),
            export::Error::NotReady { state } => {
                Self::new(Slug::PreconditionFailed, text).with("state", state)
            }
            export::Error::PolicyStale => Self::new(Slug::PolicyVersionStale, text),
            export::Error::ChecksumMismatch => Self::new(Slug::ChecksumMismatch, text),
            export::Error::Query(error) => error.into(),
            export::Error::KeyUnavailable => Self::new(Slug::KeyUnavailable, text),
            export::Error::Late => Self::new(Slug::DeadlineExceeded, text),
            export::Error::Unavailable | export::Error::Lost => Self::new(Slug::Unavailable, text),
            export::Error::Internal => Self::new(Slug::Internal, text),
        }
    }
}

impl From<ingest::Error> for Problem {
    fn from(error: ingest::Error) -> Self {
        let detail = error.to_string();
        match error {
            ingest::Error::Denied(denial) => denial.into(),
            ingest::Error::PayloadTooLarge => Self::new(Slug::PayloadTooLarge, detail),
            ingest::Error::KeyUnavailable => Self::new(Slug::KeyUnavailable, detail),
            ingest::Error::Full
            | ingest::Error::Elsewhere
            | ingest::Error::Halted
            | ingest::Error::Unavailable => Self::new(Slug::Unavailable, detail),
        }
    }
}

impl From<ReviewError> for Problem {
    fn from(error: ReviewError) -> Self {
        let detail = error.to_string();
        match error {
            ReviewError::NotFound => Self::new(Slug::NotFound, detail),
            ReviewError::Decided(state) => {
                Self::new(Slug::QuarantineDecided, detail).with("state", state.as_str())
            }
            ReviewError::NoRecord => Self::new(Slug::PreconditionFailed, detail),
            ReviewError::TooMany => Self::new(Slug::QueryLimitExceeded, detail),
            ReviewError::Denied(denial) => denial.into(),
            ReviewError::Ingest(error) => error.into(),
            ReviewError::Table(table::Error::KeyUnavailable(_)) => {
                Self::new(Slug::KeyUnavailable, detail)
            }
            ReviewError::Table(_) => Self::new(Slug::Unavailable, detail),
        }
    }
}

impl From<NoRoom> for Problem {
    fn from(none: NoRoom) -> Self {
        Self::new(Slug::Unavailable, none.to_string())
    }
}

impl From<Limited> for Problem {
    fn from(limited: Limited) -> Self {
        Self::new(Slug::RateLimited, limited.to_string())
            .with("limited", limited.what.as_str())
            .again_after(limited.retry_after)
    }
}

impl Problem {
    /// What to tell the sender of a record that was not simply stored.
    ///
    /// # Errors
    /// Every outcome but an accepted record is a problem.
    pub fn of_outcome(outcome: Outcome) -> Result<Receipt, Box<Self>> {
        let problem = match outcome {
            Outcome::Accepted(receipt) => return Ok(receipt),
            Outcome::Invalid(violations) => {
                let detail = match violations.len() {
                    1 => "the record breaks the schema in one place".to_owned(),
                    places => format!("the record breaks the schema in {places} places"),
                };
                let violations: Vec<_> = violations
                    .iter()
                    .map(|one| json!({"pointer": one.pointer, "message": one.message}))
                    .collect();
                Self::new(Slug::InvalidRecord, detail).with("violations", violations)
            }
            Outcome::TooLarge => Self::new(Slug::PayloadTooLarge, "the record is too large"),
            Outcome::IdempotencyRequired => Self::new(
                Slug::IdempotencyRequired,
                "the record has no idempotency key, neither in its body nor in a header",
            ),
            Outcome::IdempotencyConflict {
                submitted,
                submitted_keyed,
                stored_keyed,
                evidence_ref,
            } => Self::new(
                Slug::IdempotencyConflict,
                "the idempotency key was used for a record with another payload",
            )
            .with("submittedHash", submitted)
            .with("submittedKeyedHash", submitted_keyed)
            .with("storedKeyedHash", stored_keyed)
            .with("evidenceRef", evidence_ref),
            Outcome::Quarantined {
                reason,
                evidence_ref,
            } => {
                let (slug, detail) = match reason {
                    QuarantineReason::TenantMismatch => (
                        Slug::TenantMismatch,
                        "the record names another tenant than its sender's; it was quarantined",
                    ),
                    QuarantineReason::IdempotencyMismatch => (
                        Slug::IdempotencyMismatch,
                        "the idempotency key was used for another payload; the record was quarantined",
                    ),
                };
                let problem = Self::new(slug, detail).quarantined();
                problem.with("evidenceRef", evidence_ref)
            }
        };
        Err(Box::new(problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_denial() -> Vec<Denial> {
        vec![
            Denial::MissingTenant,
            Denial::InvalidTenantFormat,
            Denial::TenantMismatch,
            Denial::UnknownTenant,
            Denial::InvalidToken,
            Denial::TokenTooLong { bytes_max: 7 },
            Denial::Forbidden { needs: "a role" },
            Denial::CrossTenantQuery,
            Denial::ResidencyConflict,
            Denial::PolicyVersionStale,
            Denial::PolicySignatureInvalid,
            Denial::PolicyInvalid(vec!["one".to_owned(), "two".to_owned()]),
            Denial::InvalidStream,
            Denial::NotFound,
            Denial::PreconditionFailed,
            Denial::KeyUnavailable,
            Denial::EvidenceUnavailable,
            Denial::Unavailable,
        ]
    }

    #[test]
    fn a_denial_and_its_problem_have_one_name() {
        for denial in every_denial() {
            let name = denial.slug();
            assert_eq!(Problem::from(denial).slug().as_str(), name);
        }
    }

    #[test]
    fn what_is_needed_and_every_reason_are_members() {
        let json = Problem::from(Denial::Forbidden { needs: "a role" }).to_json();
        assert_eq!(json["needs"], "a role");
        let reasons = vec!["one".to_owned(), "two".to_owned()];
        let json = Problem::from(Denial::PolicyInvalid(reasons)).to_json();
        assert_eq!(json["reasons"].as_array().unwrap().len(), 2);
    }

    #[track_caller]
    fn becomes(problem: impl Into<Problem>, slug: Slug) {
        assert_eq!(problem.into().slug(), slug);
    }

    #[test]
    fn every_failure_of_a_query_has_its_slug() {
        let detail = || "why".to_owned();
        let field = || "actor_id".to_owned();
        becomes(
            query::Error::Denied(Denial::CrossTenantQuery),
            Slug::CrossTenantQuery,
        );
        becomes(
            query::Error::InvalidQuery { detail: detail() },
            Slug::InvalidQuery,
        );
        becomes(
            query::Error::StatementNotAllowed { detail: detail() },
            Slug::StatementNotAllowed,
        );
        becomes(
            query::Error::UnsupportedFilter { field: field() },
            Slug::UnsupportedFilter,
        );
        becomes(
            query::Error::UnsupportedSort { field: field() },
            Slug::UnsupportedSort,
        );
        becomes(
            query::Error::LimitExceeded { detail: detail() },
            Slug::QueryLimitExceeded,
        );
        becomes(query::Error::KeyUnavailable, Slug::KeyUnavailable);
        becomes(query::Error::Unavailable, Slug::Unavailable);
        becomes(query::Error::Busy, Slug::Unavailable);
        becomes(query::Error::TooManyQueries, Slug::RateLimited);
        becomes(query::Error::Deadline, Slug::DeadlineExceeded);
        becomes(query::Error::Internal, Slug::Internal);
        let problem = Problem::from(query::Error::UnsupportedFilter { field: field() });
        assert_eq!(problem.to_json()["field"], "actor_id");
    }

    #[test]
    fn every_failure_of_an_export_has_its_slug() {
        let detail = || "why".to_owned();
        let allowed = "parquet".to_owned();
        becomes(
            export::Error::Denied(Denial::ResidencyConflict),
            Slug::ResidencyConflict,
        );
        becomes(
            export::Error::Invalid { detail: detail() },
            Slug::InvalidQuery,
        );
        becomes(
            export::Error::UnsupportedFormat { allowed },
            Slug::ExportUnsupportedFormat,
        );
        becomes(
            export::Error::TooMany { at_once: 8 },
            Slug::ExportConcurrencyExceeded,
        );
        becomes(
            export::Error::TooLarge { detail: detail() },
            Slug::PayloadTooLarge,
        );
        becomes(export::Error::NotFound, Slug::NotFound);
        becomes(export::Error::PolicyStale, Slug::PolicyVersionStale);
        becomes(export::Error::ChecksumMismatch, Slug::ChecksumMismatch);
        becomes(
            export::Error::Query(query::Error::TooManyQueries),
            Slug::RateLimited,
        );
        becomes(export::Error::KeyUnavailable, Slug::KeyUnavailable);
        becomes(export::Error::Unavailable, Slug::Unavailable);
        becomes(export::Error::Lost, Slug::Unavailable);
        becomes(export::Error::Late, Slug::DeadlineExceeded);
        becomes(export::Error::Internal, Slug::Internal);
        let problem = Problem::from(export::Error::NotReady { state: "running" });
        assert_eq!(problem.slug(), Slug::PreconditionFailed);
        assert_eq!(problem.to_json()["state"], "running");
    }

    #[test]
    fn every_failure_and_outcome_of_a_write_has_its_slug() {
        becomes(
            ingest::Error::Denied(Denial::Forbidden { needs: "x" }),
            Slug::Forbidden,
        );
        becomes(ingest::Error::PayloadTooLarge, Slug::PayloadTooLarge);
        becomes(ingest::Error::KeyUnavailable, Slug::KeyUnavailable);
        becomes(ingest::Error::Unavailable, Slug::Unavailable);
        let problem = |outcome| *Problem::of_outcome(outcome).unwrap_err();
        let aside = |reason| Outcome::Quarantined {
            reason,
            evidence_ref: "e".to_owned(),
        };
        becomes(problem(Outcome::Invalid(Vec::new())), Slug::InvalidRecord);
        becomes(problem(Outcome::TooLarge), Slug::PayloadTooLarge);
        becomes(
            problem(Outcome::IdempotencyRequired),
            Slug::IdempotencyRequired,
        );
        for (reason, slug) in [
            (QuarantineReason::TenantMismatch, Slug::TenantMismatch),
            (
                QuarantineReason::IdempotencyMismatch,
                Slug::IdempotencyMismatch,
            ),
        ] {
            let problem = problem(aside(reason));
            assert_eq!((problem.slug(), problem.status().as_u16()), (slug, 202));
            assert_eq!(problem.to_json()["evidenceRef"], "e");
        }
    }
}
