//! Evidence: every decision becomes an audit record of its own.
//!
//! [`Evidence`] is the one upward call: this crate decides and says so, the engine implements the trait and makes the
//! entry durable. What an entry never carries: a value of a record, a literal of a statement, a credential.

use std::fmt;

use futures::future::{BoxFuture, Shared};

use crate::clock::Timestamp;
use crate::ids::{CorrelationId, PolicyVersion, SiloId, TenantId};

/// Where decisions are recorded.
pub trait Evidence: Send + Sync + fmt::Debug {
    /// Takes the entry and starts to record it at once: dropping the receipt loses the answer, never the entry.
    /// An entry of a denial is recorded as well as can be; whoever allowed something waits for the receipt before the
    /// first byte leaves.
    fn record(&self, entry: EvidenceEntry) -> EvidenceReceipt;
}

/// Resolves when the entry is durable, or when it is known that it will not be.
pub type EvidenceReceipt = Shared<BoxFuture<'static, Result<EvidenceRef, EvidenceUnavailable>>>;

/// Names a durable entry: the record id of the evidence record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EvidenceRef(pub String);

impl fmt::Display for EvidenceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The entry could not be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the evidence of this decision could not be recorded")]
pub struct EvidenceUnavailable;

/// How a decision came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// A permit was given.
    Allow,
    /// The problem named in the entry's slug.
    Deny,
    /// Accepted, but set aside for a person to look at.
    Quarantine,
}

impl Verdict {
    /// The word in the evidence table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Quarantine => "Quarantine",
        }
    }
}

/// A document that is kept with a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhibit {
    /// What it is: `Receipt`.
    pub kind: &'static str,
    /// Its name among those of its kind.
    pub id: String,
    /// It, as the text of a JSON object.
    pub document: String,
}

/// One decision, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceEntry {
    /// Whose evidence stream it goes to: the caller's own tenant, or the system tenant where there is none.
    pub tenant: TenantId,
    /// What was asked for: `Read`, `Write`, `Policy.Updated`, `Tenant.Transition`, ….
    pub operation: &'static str,
    /// How it came out.
    pub decision: Verdict,
    /// The problem of a denial.
    pub slug: Option<&'static str>,
    /// The policy the decision is pinned to.
    pub policy_version: Option<PolicyVersion>,
    /// The profile reads go through.
    pub masking_profile: Option<String>,
    /// The silo that answers.
    pub residency: Option<SiloId>,
    /// The rules that carried the decision, by name.
    pub basis: Vec<String>,
    /// Who asked.
    pub subject: String,
    /// The statement without its literals.
    pub statement: Option<String>,
    /// SHA-256 of the verified plan, where one was made.
    pub plan_digest: Option<[u8; 32]>,
    /// What is kept with the decision.
    pub exhibit: Option<Exhibit>,
    /// Ties the entry to the request.
    pub correlation: CorrelationId,
    /// When it was decided.
    pub ts: Timestamp,
}
