//! Records on their way in, the same for every door: taken, timed, counted, and answered for once they are durable.

use std::collections::BTreeMap;
use std::time::Instant;

use catalog::guard::{Permit, Write};
use engine::ingest::{IncomingRecord, Mode, Outcome};
use serde::Serialize;

use crate::observe;
use crate::problem::Problem;
use crate::service::Service;

/// Records that are handed on together. A door reads the next ones meanwhile, and no more.
pub(crate) const CHUNK_RECORDS: usize = 1_000;
/// Bytes of records that are handed on together.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// Takes records in; the outcomes are in their order, and so are their leaves.
pub(crate) async fn take(
    service: &Service,
    permit: &Permit<Write>,
    records: Vec<IncomingRecord>,
    mode: Mode,
) -> Result<Vec<Outcome>, Problem> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let started = Instant::now();
    let tenant = &permit.decision().tenant;
    let outcomes = service.ingest.submit(permit, records, mode).await?;
    // No receipt leaves before the evidence of the permission to write is as durable as the records.
    permit.evidence_durable().await?;
    observe::ingest_took(tenant, started.elapsed());
    let mut counts = BTreeMap::new();
    for outcome in &outcomes {
        *counts.entry(label(outcome)).or_default() += 1;
    }
    for (label, count) in counts {
        observe::ingested(tenant, label, count);
    }
    Ok(outcomes)
}

/// The name under which an outcome is counted.
fn label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted(receipt) if receipt.duplicate => "duplicate",
        Outcome::Accepted(_) => "accepted",
        Outcome::Invalid(_) => "invalid",
        Outcome::TooLarge => "too-large",
        Outcome::IdempotencyRequired => "idempotency-required",
        Outcome::IdempotencyConflict { .. } => "idempotency-conflict",
        Outcome::Quarantined { .. } => "quarantined",
    }
}

/// How many records of a request became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Newly stored.
    pub(crate) accepted: u64,
    /// Stored by an earlier call.
    pub(crate) duplicates: u64,
    /// Kept aside for an operator.
    pub(crate) quarantined: u64,
    /// Neither.
    pub(crate) rejected: u64,
}

impl Tally {
    /// Counts one more.
    pub(crate) fn count(&mut self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Accepted(receipt) if receipt.duplicate => &mut self.duplicates,
            Outcome::Accepted(_) => &mut self.accepted,
            Outcome::Quarantined { .. } => &mut self.quarantined,
            Outcome::Invalid(_)
            | Outcome::TooLarge
            | Outcome::IdempotencyRequired
            | Outcome::IdempotencyConflict { .. } => &mut self.rejected,
        };
        *counter += 1;
    }
}
