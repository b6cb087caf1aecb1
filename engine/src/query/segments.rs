//! `audit.segments`: the seals of a tenant's logs as rows, each verified before it is shown.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use catalog::guard::Decision;
use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::keys::PublicKeys;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use tokio::sync::OnceCell;

use super::error::Error;
use super::source::{Layout, RawScan, RecordSource};
use crate::record::canonical::digest_text;
use crate::record::schema;
use crate::seal::SegmentSeal;
use crate::seal::segment::ALGO;
use crate::table::{TableKind, Tables, table_of};

/// What the seals that are at hand take together, in bytes; and about what one of them does.
const BYTES_MAX: u64 = 64 << 20;
const SEAL_BYTES: usize = 768;
/// Seals that are read at once, and at a time.
const READS_AT_ONCE: usize = 16;
const READS_AT_A_TIME: u64 = 512;

type Log = (TenantId, SiloId, StreamName);
/// The seals of a log, in their order. Whoever holds it reads more.
type Known = Arc<tokio::sync::Mutex<Arc<Vec<SegmentSeal>>>>;

/// Seals that were read and verified. None ever changes.
pub(super) struct KnownSeals {
    logs: Cache<Log, (Known, usize)>,
}

impl Default for KnownSeals {
    fn default() -> Self {
        let logs = Cache::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|_, (_, seals): &(Known, usize)| {
                u32::try_from((seals + 1) * SEAL_BYTES).unwrap_or(u32::MAX)
            })
            .build();
        Self { logs }
    }
}

impl KnownSeals {
    /// The seals of all logs that the caller may read, as they are now.
    async fn of_decision(
        &self,
        tables: &Tables,
        decision: &Decision,
    ) -> Result<RecordBatch, Error> {
        let (tenant, silo) = (&decision.tenant, &decision.silo);
        let mut streams = tables.published_streams(tenant, silo).await?;
        streams
            .retain(|stream| decision.may_see_evidence || table_of(stream) != TableKind::Evidence);
        streams.sort_unstable();
        let keys = tables.keys().public_keys(tenant, silo).await?;
        let mut seals = Vec::new();
        for stream in streams {
            let log = (tenant.clone(), silo.clone(), stream);
            seals.push(self.of(tables, log, &keys).await?);
        }
        rows(&seals).map_err(|_| Error::Internal)
    }

    async fn of(
        &self,
        tables: &Tables,
        log: Log,
        keys: &PublicKeys,
    ) -> Result<Arc<Vec<SegmentSeal>>, Error> {
        let (tenant, silo, stream) = &log;
        let stored = tables.seals((tenant, silo), stream)?;
        let fresh = || (Known::default(), 0);
        let (known, _) = self.logs.get_with_by_ref(&log, fresh);
        let mut known = known.lock().await;
        let mut next = known.len() as u64;
        let end = next + stored.count_from(next).await?;
        while next < end {
            let numbers = next..end.min(next + READS_AT_A_TIME);
            next = numbers.end;
            let mut seals = known.to_vec();
            // Futures are made before they are streamed: a closure over references would make this one impossible to spawn.
            let reading: Vec<_> = numbers.map(|number| stored.read(number)).collect();
            let read: Vec<_> = stream::iter(reading)
                .buffered(READS_AT_ONCE)
                .try_collect()
                .await?;
            for json in read {
                let seal = json.and_then(|json| SegmentSeal::from_json(&json).ok());
                let seal = seal
                    .filter(|seal| seal.verify(keys).is_ok() && follows(seal, &log, seals.last()));
                let seal = seal.ok_or_else(|| {
                    let number = seals.len();
                    tracing::error!(%tenant, %stream, number, "a seal is missing, or not what was signed");
                    Error::Internal
                })?;
                seals.push(seal);
            }
            *known = Arc::new(seals);
            self.weigh(&log, known.len());
        }
        Ok(Arc::clone(&known))
    }

    /// Says anew how much is at hand of a log.
    fn weigh(&self, log: &Log, seals: usize) {
        if let Some((known, before)) = self.logs.get(log)
            && before != seals
        {
            self.logs.insert(log.clone(), (known, seals));
        }
    }
}

/// Whether a seal is of this log, and begins where the one before it ends.
fn follows(seal: &SegmentSeal, (tenant, silo, stream): &Log, before: Option<&SegmentSeal>) -> bool {
    let owner = &seal.owner;
    (&owner.tenant, &owner.silo, &owner.stream) == (tenant, silo, stream)
        && seal.segment.follows(before.map(|before| &before.segment))
}

impl fmt::Debug for KnownSeals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownSeals").finish_non_exhaustive()
    }
}

/// The seals of a session, read when they are first asked for: who only asks for columns needs none.
#[derive(Debug)]
pub(super) struct Segments {
    pub(super) seals: Arc<KnownSeals>,
    pub(super) tables: Arc<Tables>,
    pub(super) decision: Arc<Decision>,
    pub(super) rows: OnceCell<RecordBatch>,
}

#[async_trait]
impl RecordSource for Segments {
    fn schema(&self) -> SchemaRef {
        schema::segments()
    }

    /// Seals are only ever added.
    fn version(&self) -> u64 {
        self.rows.get().map_or(0, |rows| rows.num_rows() as u64)
    }

    /// Each of them was verified to be the tenant's.
    fn layout(&self) -> Layout {
        Layout::OneTenant
    }

    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let rows = self
            .rows
            .get_or_try_init(|| self.seals.of_decision(&self.tables, &self.decision))
            .await?;
        let parts = [vec![rows.clone()]];
        let plan = MemorySourceConfig::try_new_exec(&parts, self.schema(), Some(scan.projection));
        Ok(plan.map_err(|_| Error::Internal)?)
    }
}

fn rows(seals: &[Arc<Vec<SegmentSeal>>]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let seals = || seals.iter().flat_map(|seals| seals.iter());
    let texts = |text: &dyn Fn(&SegmentSeal) -> Option<String>| -> ArrayRef {
        Arc::new(seals().map(text).collect::<StringArray>())
    };
    let numbers = |number: &dyn Fn(&SegmentSeal) -> u64| -> ArrayRef {
        let numbers = seals().map(|seal| i64::try_from(number(seal)).ok());
        Arc::new(numbers.collect::<Int64Array>())
    };
    let signed_at = seals().map(|seal| seal.signed_at.as_micros());
    let signed_at = TimestampMicrosecondArray::from_iter_values(signed_at).with_timezone("UTC");
    let columns = vec![
        texts(&|seal| Some(seal.owner.tenant.to_string())),
        texts(&|seal| Some(seal.owner.stream.to_string())),
        numbers(&|seal| seal.segment.number),
        texts(&|seal| Some(seal.segment.id.clone())),
        numbers(&|seal| seal.segment.first),
        numbers(&|seal| seal.segment.count),
        texts(&|seal| Some(digest_text(&seal.segment.root))),
        texts(&|seal| seal.segment.prev.as_ref().map(digest_text)),
        numbers(&|seal| seal.segment.end()),
        texts(&|seal| Some(digest_text(&seal.segment.tree))),
        texts(&|_| Some(ALGO.to_owned())),
        Arc::new(signed_at),
        texts(&|seal| Some(seal.key.to_string())),
        texts(&|seal| Some(seal.signature())),
        texts(&|seal| Some(seal.owner.silo.to_string())),
        texts(&|seal| Some(seal.owner.origin.to_string())),
    ];
    RecordBatch::try_new(schema::segments(), columns)
}
