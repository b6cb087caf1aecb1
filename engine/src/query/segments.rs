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

use super::error::Error;
use super::source::{Layout, RawScan, RecordSource};
use crate::record::canonical::digest_text;
use crate::record::schema;
use crate::seal::SegmentSeal;
use crate::seal::segment::ALGO;
use crate::table::{TableKind, Tables, table_of};

/// Logs whose seals are at hand.
const LOGS_MAX: u64 = 1_024;
/// Seals that are read at once.
const READS_AT_ONCE: usize = 16;

type Log = (TenantId, SiloId, StreamName);

/// Seals that were read and verified. None ever changes.
pub(super) struct KnownSeals(Cache<Log, Arc<Vec<SegmentSeal>>>);

impl Default for KnownSeals {
    fn default() -> Self {
        Self(Cache::new(LOGS_MAX))
    }
}

impl KnownSeals {
    /// The seals of all logs that the caller may read, as they are now.
    pub(super) async fn open(
        &self,
        tables: &Tables,
        decision: &Decision,
    ) -> Result<Arc<dyn RecordSource>, Error> {
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
        let rows = rows(&seals).map_err(|_| Error::Internal)?;
        Ok(Arc::new(Segments { rows }))
    }

    async fn of(
        &self,
        tables: &Tables,
        log: Log,
        keys: &PublicKeys,
    ) -> Result<Arc<Vec<SegmentSeal>>, Error> {
        let (tenant, silo, stream) = &log;
        let stored = tables.seals((tenant, silo), stream)?;
        let known = self.0.get(&log).unwrap_or_default();
        let next = known.len() as u64;
        let Some(newest) = stored.newest_from(next).await? else {
            return Ok(known);
        };
        let reading = (next..=newest).map(|number| stored.read(number));
        // Futures are made before they are streamed: a closure over references would make this one impossible to spawn.
        let reading: Vec<_> = reading.collect();
        let read: Vec<_> = stream::iter(reading)
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let mut seals = known.to_vec();
        for (number, json) in (next..).zip(read) {
            let seal = json.and_then(|json| SegmentSeal::from_json(&json).ok());
            let follows = |seal: &SegmentSeal| {
                let owner = &seal.owner;
                let before = seals
                    .last()
                    .map(|before| (before.segment.end(), before.segment.root));
                let begins = before.is_none_or(|(end, _)| end == seal.segment.first);
                (&owner.tenant, &owner.silo, &owner.stream) == (tenant, silo, stream)
                    && seal.segment.number == number
                    && seal.segment.prev == before.map(|(_, root)| root)
                    && begins
            };
            let seal = seal.filter(|seal| seal.verify(keys).is_ok() && follows(seal));
            let seal = seal.ok_or_else(|| {
                tracing::error!(%tenant, %stream, number, "a seal is missing, or not what was signed");
                Error::Internal
            })?;
            seals.push(seal);
        }
        let seals = Arc::new(seals);
        self.0.insert(log, Arc::clone(&seals));
        Ok(seals)
    }
}

impl fmt::Debug for KnownSeals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownSeals").finish_non_exhaustive()
    }
}

/// Seals at one moment.
#[derive(Debug)]
struct Segments {
    rows: RecordBatch,
}

#[async_trait]
impl RecordSource for Segments {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// Seals are only ever added.
    fn version(&self) -> u64 {
        self.rows.num_rows() as u64
    }

    /// Each of them was verified to be the tenant's.
    fn layout(&self) -> Layout {
        Layout::OneTenant
    }

    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let parts = [vec![self.rows.clone()]];
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
