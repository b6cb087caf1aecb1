//! Logs as others can check them: published tiles and checkpoints, and proofs made from those.
//!
//! ```text
//! commit ──sequencer──▶ Publisher ──logs──▶ tile/…  then  checkpoint      (audit/log/<stream>/ of the tenant)
//! caller ──prove──▶ tiles ──▶ audit path, consistency path, RecordProof ──verify──▶ yes or no, without a server
//! ```
//! A commit is what counts; what is published follows it, can be made again from it, and is never ahead of it. Whoever
//! publishes needs no lease: of one table version there is one checkpoint, and a tile has one content.

mod audit;
mod audited_files;
mod audited_log;
mod audited_seals;
mod leaves;
mod logs;
mod look_back;
mod objects;
mod omitted;
mod prove;
mod publisher;
mod record;
mod sealing;
mod showing;
mod witnessing;

use catalog::keys::KeyError;
use catalog::schema;

use crate::seal::Unsigned;
use crate::sequencer::LaneError;
use crate::table;

pub use crate::sequencer::LogName;
pub use audit::{About, Audit, AuditedLog, Finding};
pub use audited_files::{AuditedFiles, NotResumed};
pub use logs::Logs;
pub use prove::ConsistencyProof;
pub use publisher::Publisher;
pub use record::{Proven, RecordProof, Unproven};
pub use witnessing::{Answer, Unanswered, Witness};

/// Why a log cannot be published, or something of it not proven.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table.
    #[error("the log's table cannot be read")]
    Table(#[from] table::Error),
    /// The tenant's keys.
    #[error("the tenant's keys cannot be used")]
    Keys(#[from] KeyError),
    /// The tenant's schemas.
    #[error("the tenant's schemas cannot be read")]
    Schemas(#[from] schema::Error),
    /// Another process has sealed the segment, and ended it elsewhere: look again.
    #[error("another process has sealed what follows in a log")]
    Outrun,
    /// What is stored is not what was written: refuse, raise an alarm, do not retry.
    #[error("a published log failed a check: {what}")]
    Tampered {
        /// Which check, in words that name nothing of the tenant's.
        what: &'static str,
    },
}

impl Error {
    fn tampered(what: &'static str) -> Self {
        Self::Tampered { what }
    }
}

impl From<Unsigned> for Error {
    fn from(_: Unsigned) -> Self {
        Self::tampered("a checkpoint is not signed by the tenant")
    }
}

impl From<LaneError> for Error {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Fault(what) => Self::tampered(what),
            LaneError::KeyUnavailable => Self::Keys(KeyError::unavailable(error)),
            LaneError::Full | LaneError::Elsewhere | LaneError::Unavailable => {
                Self::Table(table::Error::Conflict)
            }
        }
    }
}
