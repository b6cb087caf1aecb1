//! Appends to a table: one log entry, numbered after the version the caller saw.
//!
//! ```text
//! write entry v+1 ──created──▶ Committed
//!        │ taken: ours (an earlier try got through) ──▶ Committed
//!        │ taken: theirs, moved one of our txns, changed the schema, or removes what nobody names ──▶ Conflict
//!        │ taken: theirs, anything else ──▶ try v+2
//!        └ unknown, or taken and not there ──▶ try the same number again: it is then created, or taken by ours or theirs
//! ```
//!
//! The cost is that of the entries which came in between; no step looks at the table's files.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use catalog::clock::{Clock, Random, array};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::{
    Action, Add, CommitInfo, MetadataExt, Protocol, Remove, StructType, Transaction, new_metadata,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::file_writer::SealedFile;
use super::index::{DataFile, FORMAT, TAG_KEY, TAG_SHA256, TAG_STATS, TAG_VERSION, TableState};
use super::log::{self, Log, Written};
use super::{Error, StoreFault};
use crate::record::schema::PARTITIONS;

/// The commit info key that tells one's own entry from another's.
pub(crate) const COMMIT_ID: &str = "th.commitId";
/// The application id whose version every entry moves that takes files out: of two that do so at once, one conflicts.
pub(crate) const REWRITE: &str = "th.rewrite";
/// The commit info key of the time, in milliseconds since 1970, before which what was taken out leaves the store. So does
/// what no entry before this one names: an append that has stored its files meanwhile has to store them anew.
pub(crate) const VACUUMED: &str = "th.vacuumed";
/// How many other commits one append steps over before its caller has to look again.
const STEPS_MAX: u64 = 1_000;
/// How often an entry is written again after the store gave no answer.
const UNKNOWN_MAX: u32 = 4;
const UNKNOWN_WAIT: Duration = Duration::from_millis(25);

/// How an append ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum AppendOutcome {
    /// The rows are in the table, durably, since this version.
    Committed {
        /// The version that this append made.
        version: u64,
    },
    /// Nothing was appended: since the state was read, another writer moved one of the append's transactions or changed
    /// the schema. Read the state again and decide anew.
    Conflict,
}

/// What an append says besides its files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notes {
    pub(crate) txns: Vec<(String, i64)>,
    pub(crate) info: Vec<(String, Value)>,
    /// The table's columns from this commit on, when they change.
    pub(crate) schema: Option<SchemaRef>,
}

/// A log entry ready to be written.
#[derive(Debug)]
pub(crate) struct Entry {
    id: String,
    bytes: Bytes,
    app_ids: Vec<String>,
    /// Whether it names files that were stored before it.
    names_files: bool,
}

impl Entry {
    pub(crate) fn append(
        state: &TableState,
        files: &[SealedFile],
        notes: Notes,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let id = new_id(clock, random);
        let now = clock.now().as_micros() / 1_000;
        let mut said: HashMap<String, Value> = notes.info.into_iter().collect();
        said.insert(COMMIT_ID.to_owned(), Value::String(id.to_string()));
        let mut actions = vec![Action::CommitInfo(CommitInfo {
            timestamp: Some(now),
            operation: Some("WRITE".to_owned()),
            operation_parameters: Some(HashMap::from([("mode".to_owned(), json!("Append"))])),
            read_version: Some(state.version),
            is_blind_append: Some(true),
            engine_info: Some(concat!("trailhouse/", env!("CARGO_PKG_VERSION")).to_owned()),
            info: said,
            ..CommitInfo::default()
        })];
        if let Some(schema) = &notes.schema {
            let metadata = state.metadata().clone().with_schema(&columns(schema)?);
            actions.push(Action::Metadata(metadata.map_err(|_| unsayable())?));
        }
        for file in files {
            actions.push(Action::Add(add(file, now)?));
        }
        let app_ids = notes
            .txns
            .iter()
            .map(|(app_id, _)| app_id.clone())
            .collect();
        let txns = notes.txns.into_iter();
        actions.extend(txns.map(|(app_id, version)| {
            Action::Txn(Transaction::new_with_last_update(
                app_id,
                version,
                Some(now),
            ))
        }));
        Ok(Self {
            id: id.to_string(),
            bytes: log::encode(&actions)?,
            app_ids,
            names_files: !files.is_empty(),
        })
    }

    /// The entry that puts these files in the place of those, which hold the same rows.
    pub(crate) fn rewrite(
        state: &TableState,
        taken_out: &[Arc<DataFile>],
        files: &[SealedFile],
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let id = new_id(clock, random).to_string();
        let now = clock.now().as_micros() / 1_000;
        let mut actions = vec![info("OPTIMIZE", &id, now, state, HashMap::new())];
        for file in taken_out {
            actions.push(Action::Remove(remove(file, now)?));
        }
        for file in files {
            actions.push(Action::Add(Add {
                data_change: false,
                ..add(file, now)?
            }));
        }
        let version = state.txn(REWRITE).unwrap_or(0) + 1;
        actions.push(Action::Txn(Transaction::new_with_last_update(
            REWRITE.to_owned(),
            version,
            Some(now),
        )));
        Ok(Self {
            id,
            bytes: log::encode(&actions)?,
            app_ids: vec![REWRITE.to_owned()],
            names_files: true,
        })
    }

    /// The entry that comes before files are removed: those taken out before a time, and those that nobody names.
    pub(crate) fn vacuumed(
        state: &TableState,
        before: i64,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let id = new_id(clock, random).to_string();
        let now = clock.now().as_micros() / 1_000;
        let said = HashMap::from([(VACUUMED.to_owned(), json!(before))]);
        Ok(Self {
            bytes: log::encode(&[info("VACUUM START", &id, now, state, said)])?,
            id,
            app_ids: Vec::new(),
            names_files: false,
        })
    }

    /// The entry that makes a table.
    pub(crate) fn create(
        schema: &Schema,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let id = new_id(clock, random).to_string();
        let protocol: Protocol =
            serde_json::from_value(json!({"minReaderVersion": 1, "minWriterVersion": 2}))
                .map_err(|_| unsayable())?;
        // Other writers must not add statistics of their own: they would stand in the log in the clear.
        let metadata = new_metadata(
            &columns(schema)?,
            PARTITIONS,
            [("delta.dataSkippingNumIndexedCols", "0")],
        )
        .map_err(|_| unsayable())?;
        let created = CommitInfo {
            timestamp: Some(clock.now().as_micros() / 1_000),
            operation: Some("CREATE TABLE".to_owned()),
            engine_info: Some(concat!("trailhouse/", env!("CARGO_PKG_VERSION")).to_owned()),
            info: HashMap::from([(COMMIT_ID.to_owned(), Value::String(id.clone()))]),
            ..CommitInfo::default()
        };
        let actions = [
            Action::CommitInfo(created),
            Action::Protocol(protocol),
            Action::Metadata(metadata),
        ];
        Ok(Self {
            id,
            bytes: log::encode(&actions)?,
            app_ids: Vec::new(),
            names_files: false,
        })
    }

    /// Writes the entry that makes a table; it does not matter whose gets there first.
    pub(crate) async fn write_first(&self, log: &Log) -> Result<(), Error> {
        let mut unknown = 0;
        loop {
            match log.create(0, &self.bytes).await {
                Written::Created => return Ok(()),
                Written::Taken if log.read(0).await?.is_some() => return Ok(()),
                Written::Taken => retry(&mut unknown, StoreFault::contradiction()).await?,
                Written::Unknown(fault) => retry(&mut unknown, fault).await?,
            }
        }
    }

    /// Writes the entry after `seen`, stepping over what others commit.
    pub(crate) async fn write_after(&self, log: &Log, seen: u64) -> Result<AppendOutcome, Error> {
        let mut version = seen + 1;
        let mut unknown = 0;
        // A number that got no answer is tried again until it has one: only then is it certain that nothing was written.
        while version <= seen + STEPS_MAX {
            match log.create(version, &self.bytes).await {
                Written::Created => return Ok(AppendOutcome::Committed { version }),
                Written::Unknown(fault) => retry(&mut unknown, fault).await?,
                Written::Taken => {
                    let Some(there) = log.read(version).await? else {
                        retry(&mut unknown, StoreFault::contradiction()).await?;
                        continue;
                    };
                    let there = there.actions;
                    if self.is(&there) {
                        return Ok(AppendOutcome::Committed { version });
                    }
                    if self.conflicts_with(&there) {
                        return Ok(AppendOutcome::Conflict);
                    }
                    version += 1;
                }
            }
        }
        Err(Error::Conflict)
    }

    fn is(&self, there: &[Action]) -> bool {
        there.iter().any(|action| match action {
            Action::CommitInfo(info) => {
                info.info.get(COMMIT_ID).and_then(Value::as_str) == Some(self.id.as_str())
            }
            _ => false,
        })
    }

    fn conflicts_with(&self, there: &[Action]) -> bool {
        there.iter().any(|action| match action {
            Action::Txn(txn) => self.app_ids.contains(&txn.app_id),
            Action::Metadata(_) | Action::Protocol(_) => true,
            Action::CommitInfo(info) => self.names_files && info.info.contains_key(VACUUMED),
            _ => false,
        })
    }
}

/// A time-ordered id; the time is the clock's, the rest is random.
pub(crate) fn new_id(clock: &dyn Clock, random: &dyn Random) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(clock.now().as_millis(), &array(random)).into_uuid()
}

async fn retry(unknown: &mut u32, fault: StoreFault) -> Result<(), Error> {
    *unknown += 1;
    if *unknown > UNKNOWN_MAX {
        return Err(Error::Unavailable {
            what: "the commit got no answer",
            source: fault,
        });
    }
    tokio::time::sleep(UNKNOWN_WAIT * 2_u32.pow(*unknown)).await;
    Ok(())
}

fn info(
    operation: &str,
    id: &str,
    now: i64,
    state: &TableState,
    mut said: HashMap<String, Value>,
) -> Action {
    said.insert(COMMIT_ID.to_owned(), Value::String(id.to_owned()));
    Action::CommitInfo(CommitInfo {
        timestamp: Some(now),
        operation: Some(operation.to_owned()),
        operation_parameters: Some(HashMap::new()),
        read_version: Some(state.version),
        is_blind_append: Some(false),
        engine_info: Some(concat!("trailhouse/", env!("CARGO_PKG_VERSION")).to_owned()),
        info: said,
        ..CommitInfo::default()
    })
}

fn remove(file: &DataFile, now: i64) -> Result<Remove, Error> {
    Ok(Remove {
        path: file.path.clone(),
        data_change: false,
        deletion_timestamp: Some(now),
        extended_file_metadata: Some(true),
        partition_values: Some(file.partition.to_log()),
        size: Some(i64::try_from(file.size).map_err(|_| unsayable())?),
        ..Remove::default()
    })
}

fn add(file: &SealedFile, now: i64) -> Result<Add, Error> {
    let tags = [
        (TAG_VERSION, FORMAT),
        (TAG_SHA256, &file.sha256),
        (TAG_KEY, &file.key_material),
        (TAG_STATS, &file.stats),
    ];
    Ok(Add {
        path: file.path.clone(),
        partition_values: file.partition.to_log(),
        size: i64::try_from(file.bytes.len()).map_err(|_| unsayable())?,
        modification_time: now,
        data_change: true,
        stats: Some(json!({"numRecords": file.count}).to_string()),
        tags: Some(
            tags.into_iter()
                .map(|(name, value)| (name.to_owned(), Some(value.to_owned())))
                .collect(),
        ),
        ..Add::default()
    })
}

fn columns(schema: &Schema) -> Result<StructType, Error> {
    schema.try_into_kernel().map_err(|_| Error::Malformed {
        what: "a column has a type that tables do not store",
    })
}

fn unsayable() -> Error {
    Error::Malformed {
        what: "a log entry cannot be written",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing::{World, request, row, rows, run};
    use crate::table::{Root, Silo, Table, TableKind};
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    async fn append(
        table: &Table,
        state: &TableState,
        at: i64,
        txns: &[(&str, i64)],
    ) -> AppendOutcome {
        let txns = txns
            .iter()
            .map(|(id, version)| ((*id).to_owned(), *version))
            .collect();
        table
            .append(state, vec![rows(&[row(at, "a")])], txns, vec![])
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn the_slower_of_two_writers_of_one_log_learns_that_it_lost() {
        let world = World::new();
        let (one, two) = (world.records("acme").await, world.records("acme").await);
        let (seen_one, seen_two) = (one.state().await.unwrap(), two.state().await.unwrap());
        let first = append(&one, &seen_one, 1, &[("th.log:a", 1)]).await;
        assert_eq!(first, AppendOutcome::Committed { version: 1 });
        assert_eq!(
            append(&two, &seen_two, 2, &[("th.log:a", 1)]).await,
            AppendOutcome::Conflict
        );
        let seen_two = two.state().await.unwrap();
        assert_eq!(seen_two.txn("th.log:a"), Some(1));
        assert_eq!(
            append(&two, &seen_two, 2, &[("th.log:a", 2)]).await,
            AppendOutcome::Committed { version: 2 }
        );
    }

    #[tokio::test]
    async fn writers_of_different_logs_step_over_each_other() {
        let world = World::new();
        let (one, two) = (world.records("acme").await, world.records("acme").await);
        let seen_two = two.state().await.unwrap();
        for at in 1..=5 {
            let seen_one = one.state().await.unwrap();
            let _ = append(&one, &seen_one, at, &[("th.log:a", at)]).await;
        }
        assert_eq!(
            append(&two, &seen_two, 9, &[("th.log:b", 1)]).await,
            AppendOutcome::Committed { version: 6 }
        );
    }

    #[tokio::test]
    async fn a_commit_without_rows_moves_transactions_only() {
        let world = World::new();
        let table = world.records("acme").await;
        let seen = table.state().await.unwrap();
        let outcome = table
            .append(&seen, vec![], vec![("th.wal:1".to_owned(), 7)], vec![])
            .await
            .unwrap();
        assert_eq!(outcome, AppendOutcome::Committed { version: 1 });
        let state = table.state().await.unwrap();
        assert_eq!((state.txn("th.wal:1"), state.file_count()), (Some(7), 0));
    }

    /// A lost answer: the entry is there, and the store said nothing. Writing it again must find one's own.
    #[tokio::test]
    async fn an_entry_that_got_through_unnoticed_is_recognised() {
        let world = World::new();
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        let log = Log::new(
            world.tables_store(),
            world.name("acme", TableKind::Records).root(),
        );
        let notes = Notes {
            txns: vec![("th.log:a".to_owned(), 1)],
            ..Notes::default()
        };
        let entry = Entry::append(&state, &[], notes, &*world.clock, &*world.random).unwrap();
        assert!(matches!(
            log.create(1, &entry.bytes).await,
            Written::Created
        ));
        assert_eq!(
            entry.write_after(&log, 0).await.unwrap(),
            AppendOutcome::Committed { version: 1 }
        );
        assert!(log.read(2).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_store_that_never_answers_is_unavailable() {
        let mut unknown = 0;
        let fault = StoreFault::from_store(&object_store::Error::NotSupported {
            source: "no".into(),
        });
        for _ in 0..UNKNOWN_MAX {
            retry(&mut unknown, fault).await.unwrap();
        }
        assert!(matches!(
            retry(&mut unknown, fault).await,
            Err(Error::Unavailable { .. })
        ));
    }

    /// A build with `TRAILHOUSE_NIGHTLY` set makes many more.
    const COMMITS: i64 = if option_env!("TRAILHOUSE_NIGHTLY").is_some() {
        2_000
    } else {
        50
    };

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    #[expect(clippy::print_stderr, reason = "the counts of the run")]
    async fn ten_writers_lose_and_double_nothing() {
        let world = Arc::new(World::new());
        world.records("acme").await;
        let writers: Vec<_> = (0..10_i64)
            .map(|writer| {
                let world = Arc::clone(&world);
                tokio::spawn(async move {
                    let table = world.records("acme").await;
                    let own = format!("th.log:{writer}");
                    for n in 0..COMMITS {
                        let seen = table.state().await.unwrap();
                        let id = writer * COMMITS + n;
                        let outcome = append(&table, &seen, id, &[(&own, n + 1)]).await;
                        assert!(matches!(outcome, AppendOutcome::Committed { .. }));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        let all = 10 * COMMITS;
        assert_eq!(i64::try_from(state.version), Ok(all));
        assert!((0..10).all(|writer| state.txn(&format!("th.log:{writer}")) == Some(COMMITS)));
        let request = request(&state, &["leaf_index"]);
        let batches = run(table.scan(state, request).await.unwrap())
            .await
            .unwrap();
        let mut ids = Vec::new();
        for batch in &batches {
            let numbers = batch.column(0).as_primitive::<Int64Type>();
            ids.extend_from_slice(numbers.values());
        }
        ids.sort_unstable();
        assert!(ids.into_iter().eq(0..all), "a row is lost or double");
        eprintln!("ten writers, {COMMITS} commits each: {all} rows, each there once");
    }

    /// The library that the log's format comes from reads it too.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn delta_lake_reads_the_log() {
        let world = World::new();
        let table = world.records("acme").await;
        for at in 1..=3 {
            let seen = table.state().await.unwrap();
            let _ = append(&table, &seen, at, &[("th.log:a", at)]).await;
        }
        let root = world.silo_path().join("tenants/acme/audit/records");
        let url = url::Url::from_directory_path(root).unwrap();
        let opened = deltalake_core::DeltaTableBuilder::from_url(url)
            .unwrap()
            .load()
            .await
            .unwrap();
        assert_eq!(opened.version(), Some(3));
        assert_eq!(opened.get_file_uris().unwrap().count(), 3);
    }

    #[tokio::test]
    async fn memory_silos_serve_tests() {
        let log = Log::new(Arc::new(InMemory::new()), Path::from("x"));
        let entry = Entry::create(
            &TableKind::Evidence.schema(),
            &*World::new().clock,
            &*World::new().random,
        )
        .unwrap();
        entry.write_first(&log).await.unwrap();
        entry.write_first(&log).await.unwrap();
        assert_eq!(log.length().await.unwrap(), 1);
        assert!(
            Silo::open(
                catalog::ids::SiloId::parse("eu").unwrap(),
                &Root::parse("memory://eu", &BTreeMap::new(), &[]).unwrap()
            )
            .is_ok()
        );
    }
}
