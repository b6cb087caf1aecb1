//! The quarantine lane: records kept aside for an operator, redacted and sealed like all others.

use std::sync::Arc;

use catalog::clock::Clock;
use catalog::ids::{SiloId, TenantId};

use crate::record::batch::{self, QuarantineRow};
use crate::sequencer::{Job, Lane, LaneError, ROUNDS_MAX};
use crate::table::{AppendOutcome, TableKind, Tables};

/// A request's rows.
pub(crate) type Work = Vec<QuarantineRow>;
/// Whether they are durable.
pub(crate) type Reply = Result<(), LaneError>;

/// The one writer of a tenant's quarantine in this process.
#[derive(Debug)]
pub(crate) struct QuarantineLane {
    pub(crate) tenant: TenantId,
    pub(crate) silo: SiloId,
    pub(crate) tables: Arc<Tables>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Lane for QuarantineLane {
    type Work = Work;
    type Reply = Reply;

    async fn commit(&mut self, jobs: Vec<Job<Work, Reply>>) {
        let mut rows = Vec::new();
        let mut replies = Vec::with_capacity(jobs.len());
        for job in jobs {
            rows.extend(job.work);
            replies.push(job.reply);
        }
        let stored = self.store(rows).await;
        for reply in replies {
            let _ = reply.send(stored);
        }
    }
}

impl QuarantineLane {
    async fn store(&self, mut rows: Vec<QuarantineRow>) -> Result<(), LaneError> {
        let ingested_at = self.clock.now();
        rows.iter_mut()
            .for_each(|row| row.ingested_at = ingested_at);
        let batch = batch::quarantine(rows).map_err(|_| LaneError::Unavailable)?;
        let table = self
            .tables
            .table(&self.tenant, &self.silo, TableKind::Quarantine)
            .await?;
        for _ in 0..ROUNDS_MAX {
            let state = table.state().await?;
            let outcome = table
                .append(&state, vec![batch.clone()], Vec::new(), Vec::new())
                .await?;
            if matches!(outcome, AppendOutcome::Committed { .. }) {
                return Ok(());
            }
        }
        Err(LaneError::Unavailable)
    }
}
