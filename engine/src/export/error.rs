//! What a caller is told of an export that does not go through.

use catalog::documents::DocumentError;
use catalog::guard::Denial;
use catalog::keys::KeyError;
use catalog::store::StoreFault;

use crate::{proof, query, table};

/// Why an export was not made, or cannot be given out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision does not allow it.
    #[error(transparent)]
    Denied(#[from] Denial),
    /// What was asked cannot be.
    #[error("{detail}")]
    Invalid {
        /// What is wrong, in terms of the request.
        detail: String,
    },
    /// The policy does not list the format, or nobody knows it.
    #[error("an export is made as {allowed}")]
    UnsupportedFormat {
        /// Which formats the tenant's policy allows.
        allowed: String,
    },
    /// The tenant has as many exports under way as it may.
    #[error("{at_once} exports of this tenant are under way: wait for one, or cancel one")]
    TooMany {
        /// How many it may have.
        at_once: usize,
    },
    /// The export is larger than it may be.
    #[error("the export is larger than the tenant's policy allows: {detail}")]
    TooLarge {
        /// Which bound.
        detail: String,
    },
    /// There is none of that name for this caller.
    #[error("there is no export of that name, or it has no such file")]
    NotFound,
    /// It is not finished, or ended otherwise.
    #[error("the export is {state}")]
    NotReady {
        /// The state it is in.
        state: &'static str,
    },
    /// The policy, or the caller's masks, changed since.
    #[error("the policy, or what the caller may see, is another one since: export again")]
    PolicyStale,
    /// A file in the store is not the one that was made.
    #[error("a file of the export is not the one that was made: export again")]
    ChecksumMismatch,
    /// A query of it.
    #[error(transparent)]
    Query(#[from] query::Error),
    /// A key cannot be had now.
    #[error("a key that the export needs cannot be had now")]
    KeyUnavailable,
    /// The store does not answer, or has no room.
    #[error("the store of the export does not answer")]
    Unavailable,
    /// It took longer than an export may.
    #[error("the export took longer than one may: ask for less of it at a time")]
    Late,
    /// Another process has the job now, or it was cancelled.
    #[error("the export is not this process's any more")]
    Lost,
    /// A fault of the engine's.
    #[error("the export failed for a reason of the server's")]
    Internal,
}

impl Error {
    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid {
            detail: detail.into(),
        }
    }

    /// The cause goes to the log here: a store's error tells paths.
    pub(super) fn of_store(error: object_store::Error) -> Self {
        let fault = StoreFault::from_store(&error);
        tracing::warn!(%fault, "the store of an export failed");
        match error {
            object_store::Error::NotFound { .. } => Self::ChecksumMismatch,
            _ => Self::Unavailable,
        }
    }

    /// Whether the same may go through a little later.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::KeyUnavailable | Self::Unavailable => true,
            Self::Denied(denial) => matches!(
                denial,
                Denial::KeyUnavailable | Denial::EvidenceUnavailable | Denial::Unavailable
            ),
            Self::Query(error) => matches!(
                error,
                query::Error::KeyUnavailable
                    | query::Error::Unavailable
                    | query::Error::TooManyQueries
                    | query::Error::Busy
                    | query::Error::Deadline
                    | query::Error::Denied(
                        Denial::KeyUnavailable | Denial::EvidenceUnavailable | Denial::Unavailable
                    )
            ),
            _ => false,
        }
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a key of an export cannot be had");
        Self::KeyUnavailable
    }
}

impl From<DocumentError> for Error {
    fn from(error: DocumentError) -> Self {
        match error {
            DocumentError::VersionTaken => Self::Lost,
            DocumentError::Unavailable { .. } => Self::Unavailable,
            other => {
                let error = &other as &dyn std::error::Error;
                tracing::error!(error, "the job of an export cannot be read or written");
                Self::Internal
            }
        }
    }
}

impl From<table::Error> for Error {
    fn from(error: table::Error) -> Self {
        Self::Query(error.into())
    }
}

impl From<proof::Error> for Error {
    fn from(error: proof::Error) -> Self {
        match error {
            proof::Error::Table(error) => error.into(),
            proof::Error::Keys(error) => error.into(),
            proof::Error::Schemas(_) | proof::Error::Outrun => Self::Unavailable,
            proof::Error::Tampered { what } => {
                tracing::error!(what, "an export cannot be proven");
                Self::Internal
            }
        }
    }
}

/// The problem's name, for evidence and for whoever asks later why an export failed.
pub(super) fn slug(error: &Error) -> &'static str {
    match error {
        Error::Denied(denial) | Error::Query(query::Error::Denied(denial)) => denial.slug(),
        Error::Invalid { .. } | Error::Query(query::Error::InvalidQuery { .. }) => "invalid-query",
        Error::UnsupportedFormat { .. } => "export-unsupported-format",
        Error::TooMany { .. } => "export-concurrency-exceeded",
        Error::TooLarge { .. } => "payload-too-large",
        Error::NotFound => "not-found",
        Error::NotReady { .. } => "precondition-failed",
        Error::PolicyStale => "policy-version-stale",
        Error::ChecksumMismatch => "checksum-mismatch",
        Error::KeyUnavailable | Error::Query(query::Error::KeyUnavailable) => "key-unavailable",
        Error::Query(query::Error::StatementNotAllowed { .. }) => "statement-not-allowed",
        Error::Query(query::Error::UnsupportedFilter { .. }) => "unsupported-filter",
        Error::Query(query::Error::UnsupportedSort { .. }) => "unsupported-sort",
        Error::Query(query::Error::LimitExceeded { .. }) => "query-limit-exceeded",
        Error::Query(query::Error::TooManyQueries) => "rate-limited",
        Error::Late | Error::Query(query::Error::Deadline) => "deadline-exceeded",
        Error::Unavailable | Error::Query(query::Error::Unavailable | query::Error::Busy) => {
            "unavailable"
        }
        Error::Lost | Error::Internal | Error::Query(query::Error::Internal) => "internal",
    }
}
