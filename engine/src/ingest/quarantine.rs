//! The quarantine lane: records kept aside for an operator, redacted and sealed like all others.

use std::sync::Arc;

use catalog::ids::{RecordId, TenantId};

use crate::record::batch::{self, QuarantineRow};
use crate::record::frame;
use crate::sequencer::{Berth, Cargo, Freight, LaneError, Payload, Plan, Prepared, StoredAt};
use crate::table::{TableKind, TableState};

/// Rows that are encoded without leaving the task.
const ROWS_INLINE_MAX: usize = 256;

/// The one writer of a tenant's quarantine in this process. Its rows have no numbers, so that several nodes may write.
#[derive(Debug)]
pub(crate) struct Quarantine;

impl Cargo for Vec<QuarantineRow> {
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

impl Freight for Quarantine {
    type Work = Vec<QuarantineRow>;
    type Answer = ();
    type Rows = Vec<QuarantineRow>;
    type Memo = ();
    type Entries = ();
    const TABLE: TableKind = TableKind::Quarantine;

    fn weigh(rows: &Self::Rows) -> usize {
        let payload = |row: &QuarantineRow| row.payload.as_ref().map_or(0, String::len);
        rows.iter().map(|row| payload(row) + 512).sum()
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

    async fn plan(&self, _: &Berth, works: Vec<Self::Rows>) -> Result<Plan<Self>, LaneError> {
        let answers = vec![(); works.len()];
        let rows: Self::Rows = works.into_iter().flatten().collect();
        let is_small = rows.len() <= ROWS_INLINE_MAX;
        let encoded = move || (frame::encode_quarantine(&rows), rows);
        let (payload, rows) = if is_small {
            encoded()
        } else {
            let encoding = tokio::task::spawn_blocking(encoded);
            encoding.await.map_err(|_| LaneError::Unavailable)?
        };
        Ok(Plan {
            rows,
            payload: payload.into(),
            answers,
            memo: (),
        })
    }

    fn advance(&self, (): ()) {}

    fn decode(payload: Payload) -> Option<Self::Rows> {
        frame::decode_quarantine(&payload).ok()
    }

    fn prepare(rows: Self::Rows) -> Result<Prepared<()>, LaneError> {
        let last_id = rows.last_id();
        Ok(Prepared {
            batch: batch::quarantine(rows).map_err(|_| LaneError::Unavailable)?,
            leaves: Vec::new(),
            last_id,
            entries: (),
        })
    }

    async fn stored(&self, _: &Berth, _: StoredAt<'_>, (): &()) -> Result<(), LaneError> {
        Ok(())
    }

    async fn close(&self, _: &TenantId, _: bool) {}
}
