//! What the tests of this module share: a silo on disk, a local key service, and rows with a canary in them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, Int64Array, MapBuilder, MapFieldNames, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use catalog::clock::{Clock, ManualClock, Random, SystemRandom, Timestamp};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{EpochKey, KeyId, KeyRing, LocalKms, TenantKeys, WrappedEpoch};
use datafusion::physical_plan::{ExecutionPlan, collect};

use super::key_material::KeyMaterial;
use super::layout::TableName;
use super::{Error, Root, ScanRequest, Silo, Table, TableKind, TableState, Tables};
use crate::record::schema::{instant, text_map};

/// A text that stands in every row, and must stand nowhere on disk.
pub(crate) const CANARY: &str = "canary-e3b0c44298fc1c14";

/// A machine: its disk, its clock, its key service.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) keys: Arc<KeyRing>,
    silo: Silo,
    enrolled: Mutex<HashMap<TenantId, TenantKeys>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(
            Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap(),
        ));
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let silo = Silo::open(
            silo(),
            &Root::folder(&directory.path().join("silo")).unwrap(),
        )
        .unwrap();
        let kms = LocalKms::open(&directory.path().join("keys"), Arc::clone(&random)).unwrap();
        let stores = BTreeMap::from([(silo.id().clone(), silo.store())]);
        let keys = Arc::new(KeyRing::new(
            Arc::new(kms),
            stores,
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::clone(&random),
        ));
        Self {
            directory,
            clock,
            random,
            keys,
            silo,
            enrolled: Mutex::default(),
        }
    }

    /// Where the silo's files lie.
    pub(crate) fn silo_path(&self) -> PathBuf {
        self.directory.path().join("silo")
    }

    /// Tables as a process that starts now has them.
    pub(crate) fn tables(&self) -> Tables {
        Tables::new(
            [self.silo.clone()],
            Arc::clone(&self.keys),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
            Arc::clone(&self.random),
        )
    }

    pub(crate) fn tables_store(&self) -> Arc<dyn object_store::ObjectStore> {
        self.silo.store()
    }

    pub(crate) fn name(&self, tenant: &str, kind: TableKind) -> TableName {
        TableName {
            tenant: TenantId::parse(tenant).unwrap(),
            silo: silo(),
            kind,
        }
    }

    pub(crate) async fn epoch(&self, tenant: &str, kind: TableKind) -> Arc<EpochKey> {
        self.enroll(tenant).await;
        let name = self.name(tenant, kind);
        self.keys
            .current(&name.tenant, &name.silo, kind.purpose())
            .await
            .unwrap()
    }

    pub(crate) async fn records(&self, tenant: &str) -> Arc<Table> {
        self.open(tenant).await.unwrap()
    }

    /// The records of a tenant, as a process that starts now finds them.
    pub(crate) async fn open(&self, tenant: &str) -> Result<Arc<Table>, Error> {
        self.open_kind(tenant, TableKind::Records).await
    }

    pub(crate) async fn open_kind(
        &self,
        tenant: &str,
        kind: TableKind,
    ) -> Result<Arc<Table>, Error> {
        self.enroll(tenant).await;
        let name = self.name(tenant, kind);
        self.tables().table(&name.tenant, &name.silo, kind).await
    }

    /// Destroys the key that seals a tenant's records.
    pub(crate) async fn shred(&self, tenant: &str) {
        let tenant = TenantId::parse(tenant).unwrap();
        let key = self.enrolled.lock().unwrap()[&tenant].data.clone();
        self.keys.kms().destroy(&key).await.unwrap();
        self.keys.forget(&tenant);
    }

    async fn enroll(&self, tenant: &str) {
        let tenant = TenantId::parse(tenant).unwrap();
        if !self.enrolled.lock().unwrap().contains_key(&tenant) {
            let keys = TenantKeys::create(&**self.keys.kms(), &silo())
                .await
                .unwrap();
            self.keys.enroll(&tenant, &silo(), &keys).unwrap();
            self.enrolled.lock().unwrap().insert(tenant, keys);
        }
    }

    /// Every file of the silo with its bytes.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![self.silo_path()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push((path.clone(), std::fs::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    /// The data files of a tenant's records.
    pub(crate) fn data_files(&self, tenant: &str) -> Vec<PathBuf> {
        let root = self
            .silo_path()
            .join("tenants")
            .join(tenant)
            .join("audit/records");
        let parquet = |path: &PathBuf| {
            path.extension()
                .is_some_and(|extension| extension == "parquet")
        };
        self.files()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| path.starts_with(&root) && parquet(path))
            .collect()
    }
}

fn silo() -> SiloId {
    SiloId::parse("local").unwrap()
}

/// One row: when, and in which stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row(i64, &'static str);

pub(crate) fn row(created_at: i64, stream: &'static str) -> Row {
    Row(created_at, stream)
}

/// A batch of rows with some of the columns of records, a map among them.
pub(crate) fn rows(rows: &[Row]) -> RecordBatch {
    let text = |value: &dyn Fn(&Row) -> String| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(value(row)))
                .collect::<StringArray>(),
        )
    };
    let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.0)).collect();
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let leaves: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let columns: Vec<(&str, DataType, bool, ArrayRef)> = vec![
        (
            "tenant_id",
            DataType::Utf8,
            false,
            text(&|_| "acme".to_owned()),
        ),
        (
            "record_id",
            DataType::Utf8,
            false,
            text(&|row| format!("{:026}", row.0)),
        ),
        ("created_at", instant(), true, Arc::clone(&times)),
        ("ingested_at", instant(), false, times),
        (
            "stream",
            DataType::Utf8,
            true,
            text(&|row| row.1.to_owned()),
        ),
        (
            "ingest_date",
            DataType::Utf8,
            true,
            text(&|_| "2026-11-22".to_owned()),
        ),
        (
            "retention_class",
            DataType::Utf8,
            true,
            text(&|_| "standard".to_owned()),
        ),
        (
            "action",
            DataType::Utf8,
            true,
            text(&|row| format!("{CANARY} action {}", row.0 % 3)),
        ),
        ("labels", text_map(), true, labels(rows)),
        (
            "context",
            DataType::Utf8,
            true,
            text(&|row| format!("{{\"{CANARY}\":{}}}", row.0)),
        ),
        ("leaf_index", DataType::Int64, true, Arc::new(leaves)),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, kind, nullable, _)| Field::new(*name, kind.clone(), *nullable))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|column| column.3).collect(),
    )
    .unwrap()
}

fn labels(rows: &[Row]) -> ArrayRef {
    let names = MapFieldNames {
        entry: "key_value".into(),
        key: "key".into(),
        value: "value".into(),
    };
    let mut labels = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        labels.keys().append_value("env");
        labels.values().append_value(format!("{CANARY}-{}", row.0));
        labels.append(true).unwrap();
    }
    Arc::new(labels.finish())
}

/// A scan of these columns, all rows.
pub(crate) fn request(state: &TableState, columns: &[&str]) -> ScanRequest {
    ScanRequest {
        projection: columns
            .iter()
            .map(|name| state.schema.index_of(name).unwrap())
            .collect(),
        predicate: None,
        target_partitions: 2,
    }
}

/// All batches of a plan. Errors are this module's own, or the test fails.
pub(crate) async fn run(plan: Arc<dyn ExecutionPlan>) -> Result<Vec<RecordBatch>, Error> {
    use datafusion::error::DataFusionError;
    match collect(plan, Arc::default()).await {
        Ok(batches) => Ok(batches),
        Err(DataFusionError::External(error)) => Err(*error.downcast::<Error>().unwrap()),
        Err(DataFusionError::Shared(error)) => panic!("{error:?}"),
        Err(other) => panic!("not an error of this module: {other:?}"),
    }
}

/// Key material of nobody's.
pub(crate) fn no_key() -> KeyMaterial {
    KeyMaterial::from_parts(
        WrappedEpoch {
            master_key_id: KeyId::parse("kms://local/0a/v1").unwrap(),
            epoch_id: [0; 16],
            wrapped: Vec::new(),
        },
        Vec::new(),
    )
}
