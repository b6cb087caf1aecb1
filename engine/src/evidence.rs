//! Evidence of decisions: a record for each, in the tenant's evidence table, through the same group commit as records.

use std::fmt;
use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::evidence::{
    Evidence, EvidenceEntry, EvidenceReceipt, EvidenceRef, EvidenceUnavailable,
};
use catalog::ids::{RecordIds, StreamName, TenantId};
use catalog::policy::RetentionClass;
use catalog::tenant::Registry;
use futures::FutureExt;

use crate::record::batch::{self, EvidencePlace};
use crate::record::schema::SALT_BYTES;
use crate::sequencer::{Job, Lane, LaneError, Leaves, Queues, ROUNDS_MAX, log_app_id};
use crate::table::{AppendOutcome, TableKind, Tables};

type Reply = Result<EvidenceRef, LaneError>;

/// Makes decisions durable.
pub struct EvidenceLog {
    parts: Parts,
    queues: Arc<Queues<EvidenceEntry, Reply>>,
}

/// What every lane needs.
#[derive(Clone)]
struct Parts {
    tables: Arc<Tables>,
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    ids: Arc<RecordIds>,
}

impl EvidenceLog {
    /// Evidence in the tables of each tenant's own silo.
    pub fn new(
        tables: Arc<Tables>,
        registry: Arc<Registry>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        ids: Arc<RecordIds>,
    ) -> Self {
        Self {
            parts: Parts {
                tables,
                registry,
                clock,
                random,
                ids,
            },
            queues: Arc::default(),
        }
    }
}

impl fmt::Debug for EvidenceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvidenceLog").finish_non_exhaustive()
    }
}

impl Evidence for EvidenceLog {
    fn record(&self, entry: EvidenceEntry) -> EvidenceReceipt {
        let lane = || EvidenceLane {
            tenant: entry.tenant.clone(),
            parts: self.parts.clone(),
        };
        // Queued now, not when the receipt is polled: a dropped receipt loses the answer, never the entry.
        let answer = self.queues.of(&entry.tenant, lane).submit(entry.clone());
        async move {
            let answer = answer.ok_or(EvidenceUnavailable)?;
            answer
                .await
                .map_err(|_| EvidenceUnavailable)?
                .map_err(|_| EvidenceUnavailable)
        }
        .boxed()
        .shared()
    }
}

/// The one writer of a tenant's evidence in this process.
struct EvidenceLane {
    tenant: TenantId,
    parts: Parts,
}

impl Lane for EvidenceLane {
    type Work = EvidenceEntry;
    type Reply = Reply;

    async fn commit(&mut self, jobs: Vec<Job<EvidenceEntry, Reply>>) {
        let (entries, replies): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.work, job.reply)).unzip();
        match self.store(&entries).await {
            Ok(refs) => {
                for (reply, evidence) in replies.into_iter().zip(refs) {
                    let _ = reply.send(Ok(evidence));
                }
            }
            Err(error) => {
                tracing::error!(tenant = %self.tenant, "evidence of {} decisions was not recorded", entries.len());
                for reply in replies {
                    let _ = reply.send(Err(error));
                }
            }
        }
    }
}

impl EvidenceLane {
    async fn store(&self, entries: &[EvidenceEntry]) -> Result<Vec<EvidenceRef>, LaneError> {
        let tenant = self
            .parts
            .registry
            .get(&self.tenant)
            .await
            .map_err(|_| LaneError::Unavailable)?;
        let tenant = tenant.ok_or(LaneError::Unavailable)?;
        let table = self
            .parts
            .tables
            .table(&self.tenant, &tenant.silo, TableKind::Evidence)
            .await?;
        let stream = StreamName::evidence();
        for _ in 0..ROUNDS_MAX {
            let state = table.state().await?;
            let mut leaves = Leaves::default();
            let rows: Vec<_> = entries
                .iter()
                .map(|entry| {
                    let leaf =
                        leaves.next(stream.as_str(), || state.txn(&log_app_id(stream.as_str())));
                    batch::evidence_record(entry, self.place(leaf))
                })
                .collect();
            let refs = rows
                .iter()
                .map(|row| EvidenceRef(row.record_id.to_string()))
                .collect();
            let batch = batch::evidence(rows).map_err(|_| LaneError::Unavailable)?;
            let outcome = table
                .append(&state, vec![batch], leaves.into_txns(), Vec::new())
                .await?;
            if matches!(outcome, AppendOutcome::Committed { .. }) {
                return Ok(refs);
            }
        }
        Err(LaneError::Unavailable)
    }

    fn place(&self, leaf_index: i64) -> EvidencePlace {
        let mut salt = [0; SALT_BYTES];
        self.parts.random.fill(&mut salt);
        EvidencePlace {
            record_id: self.parts.ids.next(&self.tenant),
            ingested_at: self.parts.clock.now(),
            retention_class: RetentionClass::kept(),
            leaf_index: Some(leaf_index),
            salt,
        }
    }
}
