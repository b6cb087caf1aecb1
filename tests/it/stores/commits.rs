//! What appends to a table promise on any store: one winner of each version, nothing lost, everything read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use catalog::clock::{Clock, ManualClock, Random, SystemRandom, Timestamp};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyRing, LocalKms, TenantKeys};
use datafusion::physical_plan::collect;
use engine::table::{AppendOutcome, ScanRequest, Silo, Table, TableKind, Tables};
use futures::future::join_all;
use object_store::ObjectStore;

use super::Subject;

const WRITERS: usize = 16;
const ROUNDS: i64 = 16;

/// A tenant whose tables lie on one store, as any number of processes see it.
pub(super) struct Machine {
    _keys_folder: tempfile::TempDir,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    keys: Arc<KeyRing>,
}

fn silo() -> SiloId {
    SiloId::parse("eu").unwrap()
}

impl Machine {
    pub(super) async fn new(store: Arc<dyn ObjectStore>) -> Self {
        let keys_folder = tempfile::tempdir().unwrap();
        let now = Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(now));
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let kms = LocalKms::open(keys_folder.path(), Arc::clone(&random)).unwrap();
        let keys = Arc::new(KeyRing::new(
            Arc::new(kms),
            BTreeMap::from([(silo(), Arc::clone(&store))]),
            Arc::clone(&clock),
            Arc::clone(&random),
        ));
        let enrolled = TenantKeys::create(&**keys.kms(), &silo()).await.unwrap();
        let tenant = TenantId::parse("acme").unwrap();
        keys.enroll(&tenant, &silo(), &enrolled).unwrap();
        Self {
            _keys_folder: keys_folder,
            store,
            clock,
            random,
            keys,
        }
    }

    /// The tenant's records, as a process that starts now finds them.
    pub(super) async fn records(&self) -> Arc<Table> {
        let tables = Tables::new(
            [Silo::over(silo(), Arc::clone(&self.store))],
            Arc::clone(&self.keys),
            Arc::clone(&self.clock),
            Arc::clone(&self.random),
        );
        let tenant = TenantId::parse("acme").unwrap();
        let table = tables.table(&tenant, &silo(), TableKind::Records).await;
        table.unwrap()
    }
}

/// Appends rows that are the leaves `first..first + count` of the stream.
pub(super) async fn append(table: &Table, first: i64, count: i64) -> AppendOutcome {
    let state = table.state().await.unwrap();
    let txns = vec![("th.log:a".to_owned(), first + count)];
    let batches = vec![rows(first, count)];
    table.append(&state, batches, txns, vec![]).await.unwrap()
}

fn rows(first: i64, count: i64) -> RecordBatch {
    let numbers = || first..first + count;
    let text = |value: &dyn Fn(i64) -> String| -> ArrayRef {
        Arc::new(numbers().map(|n| Some(value(n))).collect::<StringArray>())
    };
    let instants = || -> ArrayRef {
        let micros: TimestampMicrosecondArray = numbers().map(Some).collect();
        Arc::new(micros.with_timezone("UTC"))
    };
    let leaves: Int64Array = numbers().map(Some).collect();
    let columns: Vec<(&str, bool, ArrayRef)> = vec![
        ("tenant_id", false, text(&|_| "acme".to_owned())),
        ("record_id", false, text(&|n| format!("{n:026}"))),
        ("created_at", true, instants()),
        ("ingested_at", false, instants()),
        ("stream", true, text(&|_| "a".to_owned())),
        ("ingest_date", true, text(&|_| "2026-11-22".to_owned())),
        ("retention_class", true, text(&|_| "standard".to_owned())),
        ("action", true, text(&|n| format!("action {n}"))),
        ("leaf_index", true, Arc::new(leaves)),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, nullable, array)| Field::new(*name, array.data_type().clone(), *nullable))
        .collect();
    let arrays = columns.into_iter().map(|(_, _, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// The leaf indexes of all rows, sorted.
pub(super) async fn leaves(table: &Table) -> Vec<i64> {
    let state = table.state().await.unwrap();
    let request = ScanRequest {
        projection: vec![
            state.schema.index_of("leaf_index").unwrap(),
            state.schema.index_of("action").unwrap(),
        ],
        predicate: None,
        target_partitions: 2,
    };
    let plan = table.scan(state, request).await.unwrap();
    let mut leaves = Vec::new();
    for batch in collect(plan, Arc::default()).await.unwrap() {
        assert_eq!(batch.column(1).data_type(), &DataType::Utf8);
        assert_eq!(batch.column(1).null_count(), 0);
        leaves.extend_from_slice(
            batch
                .column(0)
                .as_primitive::<arrow::datatypes::Int64Type>()
                .values(),
        );
    }
    leaves.sort_unstable();
    leaves
}

pub(super) async fn contract(subject: &Subject) {
    rows_come_back(subject).await;
    one_writer_wins_each_version(subject).await;
    writers_of_different_logs_all_get_through(subject).await;
}

async fn rows_come_back(subject: &Subject) {
    let machine = Machine::new(subject.part("rows")).await;
    let table = machine.records().await;
    for first in [0, 3, 6] {
        let outcome = append(&table, first, 3).await;
        assert!(matches!(outcome, AppendOutcome::Committed { .. }));
    }
    assert_eq!(leaves(&table).await, Vec::from_iter(0..9));
    assert_eq!(
        leaves(&*machine.records().await).await,
        Vec::from_iter(0..9)
    );
}

/// The heart of it: sixteen processes write the same version of one log at the same time, again and again.
async fn one_writer_wins_each_version(subject: &Subject) {
    let machine = Machine::new(subject.part("race")).await;
    let tables = join_all((0..WRITERS).map(|_| machine.records())).await;
    for round in 1..=ROUNDS {
        let states = join_all(tables.iter().map(|table| table.state())).await;
        let writes = tables.iter().zip(states).map(|(table, state)| {
            let table = Arc::clone(table);
            tokio::spawn(async move {
                let txns = vec![("th.wal:race".to_owned(), round)];
                table
                    .append(&state.unwrap(), vec![], txns, vec![])
                    .await
                    .unwrap()
            })
        });
        let outcomes = join_all(writes).await;
        let won = outcomes
            .into_iter()
            .filter(|outcome| matches!(outcome, Ok(AppendOutcome::Committed { .. })))
            .count();
        assert_eq!(won, 1, "round {round}");
    }
    let state = machine.records().await.state().await.unwrap();
    assert_eq!(state.txn("th.wal:race"), Some(ROUNDS));
    assert_eq!(i64::try_from(state.version), Ok(ROUNDS));
}

async fn writers_of_different_logs_all_get_through(subject: &Subject) {
    let machine = Machine::new(subject.part("many")).await;
    machine.records().await;
    let writes = (0..WRITERS).map(|writer| {
        let machine = &machine;
        async move {
            let table = machine.records().await;
            let state = table.state().await.unwrap();
            let txns = vec![(format!("th.wal:{writer}"), 1)];
            table.append(&state, vec![], txns, vec![]).await.unwrap()
        }
    });
    for outcome in join_all(writes).await {
        assert!(matches!(outcome, AppendOutcome::Committed { .. }));
    }
    let state = machine.records().await.state().await.unwrap();
    assert_eq!(usize::try_from(state.version), Ok(WRITERS));
    for writer in 0..WRITERS {
        assert_eq!(state.txn(&format!("th.wal:{writer}")), Some(1));
    }
}
