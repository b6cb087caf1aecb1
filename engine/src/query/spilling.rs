//! Tests: queries that need more memory than they have, with room on disk.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use catalog::context::Role;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use super::error::Error;
use super::resources::{Budget, SpillRoom, Usage};
use super::run::BatchStream;
use super::source::{Layout, RawScan, RecordSource, Sources};
use super::table_name::TableName;
use super::testing::{CANARY, Caller, ONE, World, numbered_records, plenty, resources};

const ROWS: i64 = 6_000;
const BATCH_ROWS: u32 = 200;

/// Rows in batches that share no memory, as those of files are.
#[derive(Debug, Clone)]
struct Batches(Vec<RecordBatch>);

impl Batches {
    fn new() -> Self {
        let rows = numbered_records(World { foreign: 0, ..ONE }, 0..ROWS);
        let ends = (0..u32::try_from(rows.num_rows()).expect("few")).step_by(BATCH_ROWS as usize);
        let batches = ends.map(|start| {
            let numbers = UInt32Array::from_iter_values(start..start + BATCH_ROWS);
            take_record_batch(&rows, &numbers).expect("rows")
        });
        Self(batches.collect())
    }
}

#[async_trait]
impl Sources for Batches {
    async fn open(&self, _table: TableName) -> Result<Arc<dyn RecordSource>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl RecordSource for Batches {
    fn schema(&self) -> SchemaRef {
        self.0[0].schema()
    }

    fn layout(&self) -> Layout {
        Layout::OneTenant
    }

    fn version(&self) -> u64 {
        1
    }

    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let parts = [self.0.clone()];
        let rows = MemorySourceConfig::try_new_exec(&parts, self.schema(), Some(scan.projection));
        Ok(rows.expect("rows"))
    }
}

/// A caller with all the memory there is.
fn plain() -> Caller {
    let mut caller = Caller::new(ONE, Role::Reader);
    caller.sources = Arc::new(Batches::new());
    caller.limits.batch_rows = BATCH_ROWS as usize;
    caller
}

/// A caller with little memory, and room on disk below a folder.
fn caller(home: &tempfile::TempDir, memory_bytes_max: usize) -> Caller {
    let room = SpillRoom {
        folder: home.path().join("spill"),
        bytes_max: 1 << 30,
    };
    let mut caller = plain();
    caller.limits.memory_bytes_max = memory_bytes_max;
    caller.resources = resources(&Budget {
        spill: Some(room),
        ..plenty()
    });
    caller
}

/// The bytes of files of this process that lie in a spill folder and have no name any more.
fn on_disk() -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").expect("files") {
        let path = entry.expect("a file").path();
        let target = fs::read_link(&path).unwrap_or_default();
        let target = target.to_string_lossy().into_owned();
        if target.contains("/spill/spill-") {
            assert!(target.ends_with(" (deleted)"), "{target}");
            bytes.extend(fs::read(&path).unwrap_or_default());
        }
    }
    bytes
}

fn holds(bytes: &[u8], text: &str) -> bool {
    String::from_utf8_lossy(bytes).contains(text)
}

async fn started(caller: &Caller, sql: &str) -> BatchStream {
    let planned = caller.plan(sql).await.expect(sql);
    caller.verified(planned).execute().expect(sql)
}

async fn rest(stream: BatchStream) -> Result<usize, Error> {
    let batches: Vec<_> = stream.collect().await;
    let rows = batches.into_iter().map(|batch| Ok(batch?.num_rows()));
    rows.sum::<Result<_, _>>().map_err(Error::from_stream)
}

const NOTHING: Usage = Usage {
    queries: 0,
    memory_bytes: 0,
    spill_bytes: 0,
};

/// Waits until nothing is held: the last of a query may go a moment after its last row came.
async fn idle(caller: &Caller) {
    while caller.resources.usage() != NOTHING {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_spilled_gives_the_same_rows_and_is_not_read_off_the_disk() {
    let home = tempfile::tempdir().expect("a folder");
    for (sql, memory) in [
        (
            "SELECT leaf_index, context, record_id, action FROM records ORDER BY context, leaf_index",
            1 << 20,
        ),
        (
            "SELECT record_id, context, count(*) AS n FROM records GROUP BY record_id, context ORDER BY 1",
            2 << 20,
        ),
        (
            "SELECT a.leaf_index, a.context FROM records a JOIN records b ON a.leaf_index = b.leaf_index \
             ORDER BY a.context",
            3 << 20,
        ),
    ] {
        let caller = caller(&home, memory);
        let mut stream = started(&caller, sql).await;
        let first = stream
            .next()
            .await
            .expect("a batch")
            .map_err(Error::from_stream);
        let first = first.expect(sql);
        let raw = on_disk();
        assert!(raw.len() > 100_000, "{sql}: {} bytes", raw.len());
        assert!(caller.resources.usage().spill_bytes > 100_000, "{sql}");
        // In every row, in what the caller sees as in what they do not.
        for text in ["attempt", "Appointment.", "redacted", CANARY] {
            assert!(!holds(&raw, text), "{sql}: {text}");
        }
        let rows = first.num_rows() + rest(stream).await.expect(sql);
        assert_eq!(rows, usize::try_from(ROWS).expect("a number"), "{sql}");
        let spilled = caller.shows(sql).await;
        assert!(holds(spilled.as_bytes(), "attempt"), "{sql}");
        assert_eq!(spilled, plain().shows(sql).await, "{sql}");
        idle(&caller).await;
        assert!(on_disk().is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn without_room_on_disk_a_query_is_refused_and_nothing_stays() {
    let home = tempfile::tempdir().expect("a folder");
    let mut caller = caller(&home, 1 << 20);
    let sql = "SELECT leaf_index, context FROM records ORDER BY context, leaf_index";
    for spill in [
        None,
        Some(SpillRoom {
            folder: home.path().join("spill"),
            bytes_max: 200_000,
        }),
    ] {
        caller.resources = resources(&Budget { spill, ..plenty() });
        let refused = caller.rows(sql).await.map(|_| ());
        assert!(
            matches!(refused, Err(Error::LimitExceeded { .. })),
            "{refused:?}"
        );
        idle(&caller).await;
    }
}

#[tokio::test]
async fn a_stream_that_is_dropped_gives_everything_back() {
    let home = tempfile::tempdir().expect("a folder");
    let caller = caller(&home, 1 << 20);
    for sql in [
        "SELECT leaf_index, context FROM records ORDER BY context, leaf_index",
        "SELECT sum(a.leaf_index + c.leaf_index) FROM records a, records b, records c, records d",
    ] {
        let mut stream = started(&caller, sql).await;
        // It has begun: it holds memory.
        while caller.resources.usage().memory_bytes == 0 {
            let first = tokio::time::timeout(Duration::from_millis(5), stream.next()).await;
            assert!(
                !matches!(first, Ok(Some(Err(_)) | None)),
                "{sql}: {first:?}"
            );
        }
        drop(stream);
        idle(&caller).await;
    }
}
