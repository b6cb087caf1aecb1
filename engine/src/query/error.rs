//! What a caller is told when a query does not go through.
//!
//! Invariant: no variant carries a value from the table, a path, or the name of anything the caller cannot see.

use catalog::guard::Denial;
use datafusion::error::DataFusionError;

/// Why a statement was not planned, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The decision does not allow it.
    #[error("the request was denied")]
    Denied(#[source] Denial),
    /// The statement is not valid SQL over what the caller can see.
    #[error("the query is not valid: {detail}")]
    InvalidQuery {
        /// What is wrong, in terms of the caller's own text.
        detail: String,
    },
    /// Anything but one read-only query.
    #[error("the statement is not allowed: {detail}")]
    StatementNotAllowed {
        /// Which part of it.
        detail: String,
    },
    /// Rows are selected by a field that this caller cannot filter by.
    #[error("rows cannot be selected by `{field}`")]
    UnsupportedFilter {
        /// The field, as the caller sees it.
        field: String,
    },
    /// Rows are ordered by a field that this caller cannot sort by.
    #[error("rows cannot be ordered by `{field}`")]
    UnsupportedSort {
        /// The field, as the caller sees it.
        field: String,
    },
    /// The statement or its execution is larger than the limits.
    #[error("the query exceeds a limit: {detail}")]
    LimitExceeded {
        /// Which limit.
        detail: String,
    },
    /// A key that the data needs cannot be had now.
    #[error("a key of the data is not available")]
    KeyUnavailable,
    /// The data cannot be read now.
    #[error("the data cannot be read now")]
    Unavailable,
    /// The tenant runs as many queries as it may, and as many wait.
    #[error("too many queries of this tenant run at the same time")]
    TooManyQueries,
    /// Everybody together runs as many queries as there can be.
    #[error("too many queries run at the same time")]
    Busy,
    /// The query ran longer than it may.
    #[error("the query took too long")]
    Deadline,
    /// A fault of the engine's.
    #[error("the query failed for a reason of the server's")]
    Internal,
}

impl Error {
    /// What ended a stream of rows.
    #[must_use]
    pub(crate) fn from_stream(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(error) => {
                error.downcast::<Self>().map_or(Self::Internal, |own| *own)
            }
            _ => Self::Internal,
        }
    }

    /// Whether it is the statement that is refused, and would be again: a decision about it, and so evidence.
    #[must_use]
    pub fn is_the_statements(&self) -> bool {
        match self {
            Self::Denied(_)
            | Self::InvalidQuery { .. }
            | Self::StatementNotAllowed { .. }
            | Self::UnsupportedFilter { .. }
            | Self::UnsupportedSort { .. }
            | Self::LimitExceeded { .. } => true,
            Self::KeyUnavailable
            | Self::Unavailable
            | Self::TooManyQueries
            | Self::Busy
            | Self::Deadline
            | Self::Internal => false,
        }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::InvalidQuery {
            detail: detail.into(),
        }
    }

    pub(crate) fn not_allowed(detail: impl Into<String>) -> Self {
        Self::StatementNotAllowed {
            detail: detail.into(),
        }
    }

    pub(crate) fn limit(detail: impl Into<String>) -> Self {
        Self::LimitExceeded {
            detail: detail.into(),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
