//! Encrypted tables on object storage: the only module that knows the Delta log, and the only one that seals Parquet.
//!
//! ```text
//! append: rows ──rows──▶ (partition, sorted rows) ──file_writer──▶ sealed file ──store──▶ commit ──▶ log
//! scan:   log ──index──▶ TableState ──scan──▶ files that may match ──file_reader──▶ rows
//! ```
//!
//! What stands in the clear on the store: paths with partition values, sizes, row counts, times, and the names of
//! columns in the log. Everything else is ciphertext under a key of the tenant, bound to the place where it lies.

mod audit;
mod cloud;
mod commit;
mod compaction;
mod file_reader;
mod file_set;
mod file_writer;
mod files;
mod index;
mod key_material;
mod layout;
mod log;
mod lookup;
mod objects;
#[cfg(test)]
mod power;
mod probe;
mod prune;
mod published;
mod root;
mod rows;
mod scan;
mod seals;
mod silo;
mod source;
mod stats;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use catalog::clock::{Clock, Random};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{EpochKey, KeyError, KeyRing};
use datafusion::physical_plan::ExecutionPlan;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde_json::Value;
use tokio::sync::OnceCell;
use uuid::Uuid;

pub use catalog::store::StoreFault;
pub use commit::AppendOutcome;
pub use compaction::{Compacted, Compaction, TableStats, Vacuumed};
pub use index::TableState;
pub use layout::TableKind;
pub use probe::{ProbeError, probe};
pub use root::{Root, RootError};
pub use scan::ScanRequest;
pub use silo::Silo;
pub use store::FsyncStore;

pub(crate) use audit::{Auditor, Fault, entry_name};
pub(crate) use index::{DataFile, SEGMENT};
pub(crate) use published::{CHECKPOINT, log_folder, table_of};
pub(crate) use rows::{SORT, SORT_OPTIONS};
pub(crate) use scan::fault as scan_fault;
pub(crate) use seals::Seals;

use commit::{Entry, Notes};
use file_reader::Footers;
use file_writer::SealedFile;
use layout::TableName;
use log::Log;
use lookup::Filters;

/// Epoch keys that a scan opens at once; more than one means more than one KMS call.
const EPOCHS_AT_ONCE: usize = 8;
/// Files of one append that are stored at once.
const PUTS_AT_ONCE: usize = 4;

/// Why a table did not do as asked. No variant carries a path, a name or a value.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tenant's key cannot be had: fail closed, try again later.
    #[error("the table's key cannot be used")]
    KeyUnavailable(#[source] KeyError),
    /// What is stored is not what was written: refuse, raise an alarm, do not retry.
    #[error("stored data failed a check: {what}")]
    Tampered {
        /// Which check, in words that name nothing of the tenant's.
        what: &'static str,
    },
    /// The store failed: try again later.
    #[error("{what}")]
    Unavailable {
        /// Which step.
        what: &'static str,
        /// The store's answer, without the path.
        #[source]
        source: StoreFault,
    },
    /// Others committed faster for a whole round of attempts: read the state again and try again.
    #[error("other writers were faster")]
    Conflict,
    /// The caller's batch, schema or silo does not fit: a mistake of the program or of its configuration.
    #[error("the request does not fit the table: {what}")]
    Malformed {
        /// What does not fit.
        what: &'static str,
    },
}

impl From<KeyError> for Error {
    /// A wrapped key that does not open is no outage: the tag that carries it was changed, or is another tenant's.
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unauthentic(_) | KeyError::Malformed | KeyError::WrongSilo => {
                Self::Tampered {
                    what: "an epoch key does not open",
                }
            }
            other => Self::KeyUnavailable(other),
        }
    }
}

/// Opens tables, and keeps them open.
pub struct Tables {
    silos: HashMap<SiloId, Silo>,
    shared: Arc<Shared>,
    open: Mutex<HashMap<TableName, Arc<OnceCell<Arc<Table>>>>>,
}

/// What all tables of a process have in common.
struct Shared {
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    footers: Footers,
    filters: Filters,
}

impl Tables {
    /// Tables in these silos, sealed with the keys of this ring.
    pub fn new(
        silos: impl IntoIterator<Item = Silo>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            silos: silos
                .into_iter()
                .map(|silo| (silo.id().clone(), silo))
                .collect(),
            shared: Arc::new(Shared {
                keys,
                clock,
                random,
                footers: Footers::new(),
                filters: Filters::new(),
            }),
            open: Mutex::new(HashMap::new()),
        }
    }

    /// The table of a tenant in a silo, made on first use. Two processes may make it at the same time.
    pub async fn table(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        kind: TableKind,
    ) -> Result<Arc<Table>, Error> {
        let name = TableName {
            tenant: tenant.clone(),
            silo: silo.clone(),
            kind,
        };
        let silo = self.silos.get(silo).ok_or(Error::Malformed {
            what: "the silo is not served here",
        })?;
        let cell = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(open.entry(name.clone()).or_default())
        };
        let table = cell
            .get_or_try_init(|| async {
                let shared = Arc::clone(&self.shared);
                Table::open(name, silo, shared, &kind.schema())
                    .await
                    .map(Arc::new)
            })
            .await?;
        Ok(Arc::clone(table))
    }

    /// The tables that this process has open.
    #[must_use]
    pub fn opened(&self) -> Vec<Arc<Table>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.values()
            .filter_map(|table| table.get().map(Arc::clone))
            .collect()
    }

    /// The store of a silo, rooted at the silo's root.
    pub(crate) fn store(&self, silo: &SiloId) -> Result<Arc<dyn ObjectStore>, Error> {
        let silo = self.silos.get(silo).ok_or(Error::Malformed {
            what: "the silo is not served here",
        })?;
        Ok(silo.store())
    }

    /// The table of a tenant in a silo, if there is one.
    pub async fn existing(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        kind: TableKind,
    ) -> Result<Option<Arc<Table>>, Error> {
        if self.has_entry(tenant, silo, (kind, 0)).await? {
            self.table(tenant, silo, kind).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether the log of a table has an entry of this number.
    pub(crate) async fn has_entry(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        (kind, version): (TableKind, u64),
    ) -> Result<bool, Error> {
        let name = TableName {
            tenant: tenant.clone(),
            silo: silo.clone(),
            kind,
        };
        let log = Log::new(self.store(silo)?, name.root());
        log.has(version).await
    }

    /// The ring that holds the tables' keys.
    pub(crate) fn keys(&self) -> &Arc<KeyRing> {
        &self.shared.keys
    }

    /// Forgets decrypted footers, the file keys in them, and filters. Call it when a key is destroyed.
    pub fn forget_keys(&self) {
        self.shared.footers.purge();
        self.shared.filters.purge();
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables")
            .field("silos", &self.silos.keys())
            .finish_non_exhaustive()
    }
}

/// One table of one tenant in one silo.
pub struct Table {
    name: TableName,
    log: Log,
    shared: Arc<Shared>,
    latest: tokio::sync::Mutex<Arc<TableState>>,
    /// Files that a compaction could not join.
    set_aside: Mutex<HashSet<Uuid>>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("kind", &self.name.kind)
            .finish_non_exhaustive()
    }
}

impl Table {
    async fn open(
        name: TableName,
        silo: &Silo,
        shared: Arc<Shared>,
        schema: &SchemaRef,
    ) -> Result<Self, Error> {
        let log = Log::new(silo.store(), name.root());
        let mut state = index::load(&log).await?;
        let mut seen = None;
        while published::is_behind(&silo.store(), &name, state.as_ref()).await? {
            let version = state.as_ref().map(|state| state.version);
            if seen == Some(version) {
                return Err(Error::Tampered {
                    what: "the table is older than its published checkpoint",
                });
            }
            seen = Some(version);
            state = match state {
                Some(state) => {
                    let newer = index::refresh(&log, Arc::new(state)).await?;
                    Some(Arc::unwrap_or_clone(newer))
                }
                None => index::load(&log).await?,
            };
        }
        let state = match state {
            Some(state) => state,
            None => {
                Entry::create(schema, &*shared.clock, &*shared.random)?
                    .write_first(&log)
                    .await?;
                index::load(&log).await?.ok_or(Error::Tampered {
                    what: "a log entry vanished",
                })?
            }
        };
        Ok(Self {
            name,
            log,
            shared,
            latest: tokio::sync::Mutex::new(Arc::new(state)),
            set_aside: Mutex::default(),
        })
    }

    /// Which table this is.
    pub fn kind(&self) -> TableKind {
        self.name.kind
    }

    /// The table as it is now. Costs one look for a newer log entry, and the folding of those that came.
    pub async fn state(&self) -> Result<Arc<TableState>, Error> {
        let mut latest = self.latest.lock().await;
        *latest = index::refresh(&self.log, Arc::clone(&latest)).await?;
        Ok(Arc::clone(&latest))
    }

    /// Appends rows, and moves transactions, in one log entry after `state`.
    ///
    /// `batches` have the table's columns, those of the partition included; new nullable columns extend the table. The
    /// rows are visible, durable and complete once this returns `Committed`. After an error they may or may not be: read
    /// the state again and look at the transactions.
    pub async fn append(
        &self,
        state: &TableState,
        batches: Vec<RecordBatch>,
        txns: Vec<(String, i64)>,
        info: Vec<(String, Value)>,
    ) -> Result<AppendOutcome, Error> {
        let mut schema = Arc::clone(&state.schema);
        for batch in &batches {
            schema = rows::evolved(&schema, &batch.schema())?.unwrap_or(schema);
        }
        let grown = (schema != state.schema).then(|| Arc::clone(&schema));
        let files = self.stage(schema, batches).await?;
        let notes = Notes {
            txns,
            info,
            schema: grown,
        };
        let entry = Entry::append(
            state,
            &files,
            notes,
            &*self.shared.clock,
            &*self.shared.random,
        )?;
        let outcome = entry.write_after(&self.log, state.version).await;
        if matches!(outcome, Ok(AppendOutcome::Conflict) | Err(Error::Conflict)) {
            self.discard(&files).await;
        }
        outcome
    }

    /// A plan that reads the rows of `state` that may match, decrypting as it goes.
    ///
    /// Its schema is the projected part of `state.schema`, type for type. The keys are opened here: a scan that starts
    /// does not need the KMS any more.
    pub async fn scan(
        &self,
        state: Arc<TableState>,
        request: ScanRequest,
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let epochs = self.open_epochs(&state).await?;
        scan::plan(
            &self.name,
            self.log.store(),
            &self.shared,
            epochs,
            &state,
            request,
        )
        .await
    }

    /// Encodes, seals and stores the rows. Nobody sees the files before an entry names them.
    async fn stage(
        &self,
        schema: SchemaRef,
        batches: Vec<RecordBatch>,
    ) -> Result<Vec<SealedFile>, Error> {
        if batches.iter().all(|batch| batch.num_rows() == 0) {
            return Ok(Vec::new());
        }
        let (tenant, silo) = (&self.name.tenant, &self.name.silo);
        let epoch = self
            .shared
            .keys
            .current(tenant, silo, self.name.kind.purpose())
            .await?;
        let (name, shared) = (self.name.clone(), Arc::clone(&self.shared));
        let encoded = tokio::task::spawn_blocking(move || {
            rows::split(&schema, &batches)?
                .into_iter()
                .map(|(partition, rows)| {
                    // A name of its own for every attempt: a retry makes other ciphertext.
                    let path = partition.file(commit::new_id(&*shared.clock, &*shared.random));
                    file_writer::seal(&name, path, partition, &rows, &epoch, &*shared.random)
                })
                .collect::<Result<Vec<_>, Error>>()
        });
        let files = encoded.await.map_err(|_| Error::Malformed {
            what: "encoding did not finish",
        })??;
        // Futures are made before they are streamed: a closure over references would make this one impossible to spawn.
        let puts: Vec<_> = files.iter().map(|file| self.put(file)).collect();
        stream::iter(puts)
            .buffer_unordered(PUTS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(files)
    }

    async fn put(&self, file: &SealedFile) -> Result<(), Error> {
        let payload = PutPayload::from_bytes(file.bytes.clone());
        let path = Path::parse(&file.path).map_err(|_| Error::Malformed {
            what: "a file has no place",
        })?;
        #[expect(
            clippy::disallowed_methods,
            reason = "engine::table writes its data files here"
        )]
        let put = self
            .log
            .store()
            .put_opts(&path, payload, PutMode::Create.into())
            .await;
        use object_store::Error as E;
        let Err(error) = put else { return Ok(()) };
        // The name is new: what has it is what an earlier try of the store's client left, if all of it got through.
        if matches!(error, E::AlreadyExists { .. } | E::Precondition { .. }) {
            let there = self.log.store().get(&path).await;
            let there = there.map_err(log::unavailable)?.bytes().await;
            if there.map_err(log::unavailable)? == file.bytes {
                return Ok(());
            }
        }
        Err(log::unavailable(error))
    }

    /// Removes files that are certainly in no entry. What this misses is garbage, and harmless.
    async fn discard(&self, files: &[SealedFile]) {
        for file in files {
            let Ok(path) = Path::parse(&file.path) else {
                continue;
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "engine::table removes its own orphans here"
            )]
            let deleted = self.log.store().delete(&path).await;
            if deleted.is_err() {
                tracing::debug!("an orphaned data file stays until the next vacuum");
            }
        }
    }

    async fn open_epochs(
        &self,
        state: &TableState,
    ) -> Result<HashMap<[u8; 16], Arc<EpochKey>>, Error> {
        let mut wrapped = HashMap::new();
        for file in state.files() {
            wrapped
                .entry(file.key.epoch.epoch_id)
                .or_insert(&file.key.epoch);
        }
        let opened: Vec<_> = wrapped
            .into_iter()
            .map(|(id, epoch)| async move {
                let (tenant, silo) = (&self.name.tenant, &self.name.silo);
                let purpose = self.name.kind.purpose();
                let key = self.shared.keys.open(tenant, silo, purpose, epoch).await?;
                Ok((id, key))
            })
            .collect();
        stream::iter(opened)
            .buffer_unordered(EPOCHS_AT_ONCE)
            .try_collect()
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{CANARY, World, request, row, rows, run};
    use super::*;
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

    const COLUMNS: [&str; 9] = [
        "stream",
        "created_at",
        "record_id",
        "labels",
        "context",
        "leaf_index",
        "action",
        "ingest_date",
        "salt",
    ];

    async fn append(table: &Table, batch: RecordBatch) -> u64 {
        let state = table.state().await.unwrap();
        match table
            .append(&state, vec![batch], vec![], vec![])
            .await
            .unwrap()
        {
            AppendOutcome::Committed { version } => version,
            AppendOutcome::Conflict => panic!("nobody else writes"),
        }
    }

    async fn all(table: &Table, columns: &[&str]) -> RecordBatch {
        let state = table.state().await.unwrap();
        let request = request(&state, columns);
        let schema = Arc::new(state.schema.project(&request.projection).unwrap());
        let plan = table.scan(state, request).await.unwrap();
        assert_eq!(plan.schema(), schema);
        concat_batches(&schema, &run(plan).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn rows_come_back_as_they_went_in() {
        let world = World::new();
        let table = world.records("acme").await;
        let empty = all(&table, &COLUMNS).await;
        assert_eq!(empty.num_rows(), 0);

        let batch = rows(&[
            row(3, "audit.default"),
            row(2, "a/b"),
            row(1, "audit.default"),
        ]);
        assert_eq!(append(&table, batch.clone()).await, 1);
        let found = all(&table, &COLUMNS).await;
        assert_eq!(found.num_rows(), 3);
        let order = arrow::compute::sort_to_indices(found.column(5), None, None).unwrap();
        let found = arrow::compute::take_record_batch(&found, &order).unwrap();
        assert_eq!(
            found.column(5).as_primitive::<Int64Type>().values(),
            &[1, 2, 3]
        );
        assert_eq!(
            found
                .column(1)
                .as_primitive::<TimestampMicrosecondType>()
                .values(),
            &[1, 2, 3]
        );
        assert_eq!(found.column(0).as_string::<i32>().value(1), "a/b");
        let context: Vec<_> = found
            .column(4)
            .as_string::<i32>()
            .iter()
            .flatten()
            .collect();
        assert_eq!(context[2], format!("{{\"{CANARY}\":3}}"));
        let labels = found.column(3).as_map();
        assert_eq!(
            labels.values().as_string::<i32>().value(2),
            format!("{CANARY}-3")
        );
        assert_eq!(found.column(8).null_count(), 3);
    }

    #[tokio::test]
    async fn another_process_finds_the_table_as_it_was_left() {
        let world = World::new();
        let table = world.records("acme").await;
        append(&table, rows(&[row(1, "a")])).await;
        let state = table.state().await.unwrap();
        let txns = vec![("th.wal:a".to_owned(), 1)];
        let info = vec![("th.root".to_owned(), Value::from("abc"))];
        let outcome = table
            .append(&state, vec![rows(&[row(2, "b")])], txns, info)
            .await
            .unwrap();
        assert_eq!(outcome, AppendOutcome::Committed { version: 2 });

        let reopened = world.records("acme").await;
        let state = reopened.state().await.unwrap();
        assert_eq!(
            (state.version, state.file_count(), state.row_count()),
            (2, 2, 2)
        );
        assert_eq!(state.txn("th.wal:a"), Some(1));
        assert_eq!(state.txn("th.wal:b"), None);
        assert_eq!(state.info("th.root"), Some(&Value::from("abc")));
        assert_eq!(all(&reopened, &["record_id"]).await.num_rows(), 2);
    }

    #[tokio::test]
    async fn no_byte_on_disk_tells_what_the_rows_say() {
        let world = World::new();
        let table = world.records("acme").await;
        append(&table, rows(&[row(1_234_567, "a"), row(7_654_321, "a")])).await;
        for (path, bytes) in world.files() {
            for secret in [CANARY, "7654321", "1234567"] {
                let found = bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} in {}", path.display());
            }
        }
        let log = std::fs::read_to_string(
            world
                .silo_path()
                .join("tenants/acme/audit/records/_delta_log/00000000000000000001.json"),
        )
        .unwrap();
        assert!(log.contains(r#""stats":"{\"numRecords\":2}""#), "{log}");
        assert!(!log.contains("minValues"));
    }

    #[tokio::test]
    async fn two_processes_that_make_a_table_at_once_make_one() {
        let world = World::new();
        let (one, two) = tokio::join!(world.records("acme"), world.records("acme"));
        append(&one, rows(&[row(1, "a")])).await;
        append(&two, rows(&[row(2, "a")])).await;
        assert_eq!(all(&one, &["record_id"]).await.num_rows(), 2);
    }

    #[tokio::test]
    async fn destroying_the_key_of_records_leaves_evidence_readable() {
        let world = World::new();
        let kinds = [
            TableKind::Records,
            TableKind::Quarantine,
            TableKind::Evidence,
        ];
        let mut tables = Vec::new();
        for kind in kinds {
            let table = world.open_kind("acme", kind).await.unwrap();
            let batch = rows(&[row(1, "a")]);
            let known: Vec<usize> = (0..batch.num_columns())
                .filter(|&column| {
                    let name = batch.schema_ref().field(column).name().clone();
                    kind.schema().field_with_name(&name).is_ok()
                })
                .collect();
            append(&table, batch.project(&known).unwrap()).await;
            assert_eq!(all(&table, &["record_id", "stream"]).await.num_rows(), 1);
            tables.push(table);
        }
        world.shred("acme").await;
        for table in tables {
            let state = table.state().await.unwrap();
            let request = request(&state, &["record_id"]);
            let planned = table.scan(state, request).await;
            match table.kind() {
                TableKind::Evidence => assert_eq!(run(planned.unwrap()).await.unwrap().len(), 1),
                _ => assert!(
                    matches!(planned, Err(Error::KeyUnavailable(_))),
                    "{planned:?}"
                ),
            }
        }
    }

    #[tokio::test]
    async fn a_silo_that_is_not_served_is_refused() {
        let world = World::new();
        let elsewhere = SiloId::parse("us").unwrap();
        let found = world
            .tables()
            .table(
                &TenantId::parse("acme").unwrap(),
                &elsewhere,
                TableKind::Records,
            )
            .await;
        assert!(matches!(found, Err(Error::Malformed { .. })));
    }

    #[tokio::test]
    async fn a_new_nullable_column_joins_the_table_and_older_rows_have_none() {
        let world = World::new();
        let table = world.records("acme").await;
        append(&table, rows(&[row(1, "a")])).await;
        let batch = rows(&[row(2, "a")]);
        let mut fields = batch.schema().fields().to_vec();
        fields.push(Arc::new(arrow::datatypes::Field::new(
            "order_no",
            arrow::datatypes::DataType::Utf8,
            true,
        )));
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(arrow::array::StringArray::from(vec!["17"])));
        let grown =
            RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap();
        let seen_before = table.state().await.unwrap();
        assert_eq!(append(&table, grown).await, 2);
        let found = all(&table, &["created_at", "order_no"]).await;
        let mut values: Vec<_> = found
            .column(1)
            .as_string::<i32>()
            .iter()
            .map(|v| v.map(str::to_owned))
            .collect();
        values.sort();
        assert_eq!(values, [None, Some("17".to_owned())]);

        // A writer that still has the old columns in mind has to look again.
        let outcome = table
            .append(&seen_before, vec![rows(&[row(3, "a")])], vec![], vec![])
            .await
            .unwrap();
        assert_eq!(outcome, AppendOutcome::Conflict);
        assert_eq!(all(&table, &["created_at"]).await.num_rows(), 2);
        assert_eq!(
            world.data_files("acme").len(),
            2,
            "the files of a lost append are removed"
        );
    }
}
