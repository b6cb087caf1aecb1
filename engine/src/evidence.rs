//! Evidence of decisions: a record for each, in the tenant's evidence table, through lanes of its own.
//!
//! Nobody is told the number of an evidence record, so it is numbered when it gets into the table, and several nodes may
//! write the evidence of one tenant.

use std::fmt;
use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::evidence::{
    Evidence, EvidenceEntry, EvidenceReceipt, EvidenceRef, EvidenceUnavailable,
};
use catalog::ids::{RecordId, RecordIds, StreamName, TenantId};
use catalog::policy::RetentionClass;
use futures::FutureExt;
use tokio::time::Instant;

use crate::record::batch::{self, EvidencePlace};
use crate::record::schema::SALT_BYTES;
use crate::record::{StoredRecord, frame};
use crate::seal::{leaf_hash, segment_of};
use crate::sequencer::{
    Berth, Cargo, Freight, LaneError, Lanes, Leaves, Payload, Plan, Prepared, Sequencer, StoredAt,
};
use crate::table::{TableKind, TableState};

/// Makes decisions durable.
pub struct EvidenceLog(Lanes<Decisions>);

impl EvidenceLog {
    /// Evidence in the tables of each tenant's own silo.
    pub fn new(sequencer: &Arc<Sequencer>) -> Self {
        let made = Arc::clone(sequencer);
        Self(Lanes::new(Arc::clone(sequencer), move |_| Decisions {
            clock: Arc::clone(made.clock()),
            random: Arc::clone(made.random()),
            ids: Arc::clone(made.ids()),
        }))
    }

    /// Puts what an earlier process left in the log into the tables of these tenants.
    pub fn recover(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.0.recover(tenants);
    }

    /// Takes nothing any more, and resolves when all of it is in the tables, or at `end`; gives how many tables lack
    /// something.
    pub async fn drain(&self, end: Instant) -> usize {
        self.0.drain(end).await
    }
}

impl fmt::Debug for EvidenceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvidenceLog").finish_non_exhaustive()
    }
}

impl Evidence for EvidenceLog {
    fn record(&self, entry: EvidenceEntry) -> EvidenceReceipt {
        let tenant = entry.tenant.clone();
        // Queued now, not when the receipt is polled: a dropped receipt loses the answer, never the entry.
        let answer = self.0.submit(&tenant, entry);
        async move {
            let answer = answer.map_err(|_| EvidenceUnavailable)?;
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
#[derive(Debug)]
struct Decisions {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    ids: Arc<RecordIds>,
}

impl Cargo for Vec<StoredRecord> {
    fn len(&self) -> usize {
        self.len()
    }

    fn join(&mut self, mut after: Self) {
        self.append(&mut after);
    }

    fn last_id(&self) -> Option<RecordId> {
        self.iter().map(|row| row.record_id).max()
    }
}

impl Decisions {
    fn place(&self, tenant: &TenantId) -> EvidencePlace {
        let mut salt = [0; SALT_BYTES];
        self.random.fill(&mut salt);
        EvidencePlace {
            record_id: self.ids.next(tenant),
            ingested_at: self.clock.now(),
            retention_class: RetentionClass::kept(),
            leaf_index: None,
            salt,
        }
    }
}

impl Freight for Decisions {
    type Work = EvidenceEntry;
    type Answer = EvidenceRef;
    type Rows = Vec<StoredRecord>;
    type Memo = ();
    type Entries = ();
    const TABLE: TableKind = TableKind::Evidence;

    fn weigh(entry: &EvidenceEntry) -> usize {
        let shown = entry.exhibit.as_ref();
        let statement = entry.statement.as_ref().map_or(0, String::len);
        statement + shown.map_or(0, |shown| shown.document.len()) + 1_024
    }

    async fn claim(&self, _: &Berth) -> Result<Option<i64>, LaneError> {
        Ok(None)
    }

    async fn open(
        &self,
        _: &Berth,
        _: &Arc<TableState>,
        _: &[Self::Rows],
    ) -> Result<(), LaneError> {
        Ok(())
    }

    async fn plan(
        &self,
        berth: &Berth,
        works: Vec<EvidenceEntry>,
    ) -> Result<Plan<Self>, LaneError> {
        let rows: Vec<_> = works
            .iter()
            .map(|entry| batch::evidence_record(entry, self.place(&berth.tenant)))
            .collect();
        Ok(Plan {
            answers: rows
                .iter()
                .map(|row| EvidenceRef(row.record_id.to_string()))
                .collect(),
            payload: frame::encode_records(&rows).into(),
            rows,
            memo: (),
        })
    }

    fn advance(&self, (): ()) {}

    fn decode(payload: Payload) -> Option<Self::Rows> {
        frame::decode_records(&payload).ok()
    }

    fn prepare(mut rows: Self::Rows) -> Result<Prepared<()>, LaneError> {
        let last_id = rows.last_id();
        let mut leaves = Leaves::new(StreamName::evidence());
        for (row, number) in rows.iter_mut().zip(0..) {
            let leaf = leaf_hash(row).map_err(|_| LaneError::Unavailable)?;
            row.segment_id = Some(segment_of(row.ingested_at));
            row.leaf_index = Some(number);
            leaves.push(leaf, row.segment_id.as_deref());
        }
        Ok(Prepared {
            batch: batch::evidence(&rows).map_err(|_| LaneError::Unavailable)?,
            leaves: vec![leaves],
            last_id,
            entries: (),
        })
    }

    async fn stored(&self, _: &Berth, _: StoredAt<'_>, (): &()) -> Result<(), LaneError> {
        Ok(())
    }

    async fn close(&self, _: &TenantId, _: bool) {}
}
