//! Many small files made one, and files that no state names any more removed.
//!
//! ```text
//! files of a partition ──eight of a size class──▶ merged by their order, sealed anew ──one entry──▶ Remove each, Add one
//! ```
//!
//! Every flush makes a file, so a table that is written all day would have tens of thousands. Files of about the same number
//! of rows are joined eight at a time: a row is written anew once for each class that it passes, seven times at the most.
//! Nothing of the rows changes, and so no leaf, no seal and no checkpoint: an entry that rewrites must leave the table
//! with a row for each leaf, or no reader takes it in.
//!
//! Two that rewrite at once would double the rows of the files that both took: every rewriting entry moves the
//! transaction `th.rewrite`, on which the slower one loses. What a rewrite has taken out stays in the store for a time of
//! grace, for those who read an older state; then [`Table::vacuum`] removes it.
//!
//! Files of which nobody knows are removed as well, and some of them a writer is about to name. So an entry says that
//! first: an append that finds it has to store its files anew, however long ago it stored them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use datafusion::execution::TaskContext;
use datafusion::physical_expr::LexOrdering;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties as _, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore as _, ObjectStoreExt as _};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::commit::{self, AppendOutcome, Entry};
use super::file_writer::{FileWriter, SealedFile};
use super::index::{DataFile, TableState};
use super::layout::{Partition, id_of};
use super::rows::file_schema;
use super::{Error, ScanRequest, Table, log, scan};

/// Files of a class that are joined, and at the most.
const FILES: std::ops::RangeInclusive<usize> = 8..=16;
/// The base of the size classes, in rows.
const CLASS: u64 = 8;
/// A file of so many rows, or bytes, is left as it is.
const ROWS_FULL: u64 = 262_144;
const BYTES_FULL: u64 = 64 * 1024 * 1024;
/// Rows of a file that is made.
const ROWS_MAX: u64 = 2 * ROWS_FULL;
/// Bytes of the files that are joined, which are in memory while they are, and so is the one that is made.
const BYTES_MAX: u64 = 2 * BYTES_FULL;
/// Rows of each file that are decoded at once: a row can have a MiB.
const ROWS_AT_ONCE: usize = 64;
/// Merged batches that wait to be written.
const BATCHES_AHEAD: usize = 4;

/// The folder of the table's log, in which nothing is garbage.
const LOG: &str = "_delta_log";

/// What came of an attempt to join files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Compaction {
    /// There are not enough files of a size.
    Nothing,
    /// Files were joined.
    Done(Compacted),
    /// Another writer was faster. Look again.
    Lost,
    /// Among the files of a size is one that cannot be read. They are left alone from then on: look again.
    Damaged {
        /// What is wrong with it.
        what: &'static str,
        /// How many they are.
        files: usize,
    },
}

/// What one rewrite did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Files that were joined.
    pub files: usize,
    /// Their rows.
    pub rows: u64,
    /// The version of the entry.
    pub version: u64,
}

/// Files that are in the store and in no state that anybody may still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacuumed {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a table consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStats {
    /// The version these are of.
    pub version: u64,
    /// Rows.
    pub rows: u64,
    /// Files that hold them.
    pub files: usize,
    /// Bytes of these, encrypted as they are.
    pub bytes: u64,
    /// Files that a rewrite has taken out and that wait for their time of grace to pass.
    pub waiting: usize,
    /// Files that would be joined next.
    pub due: usize,
}

impl TableState {
    /// What the table consists of.
    #[must_use]
    pub fn stats(&self) -> TableStats {
        TableStats {
            version: self.version,
            rows: self.row_count(),
            files: self.file_count(),
            bytes: self.files().map(|file| file.size).sum(),
            waiting: self.taken_out().len(),
            due: due(self, &HashSet::new()).len(),
        }
    }
}

impl Table {
    /// Joins files, if there are enough of a size; once.
    ///
    /// # Errors
    /// When the store fails, or the table itself is damaged. It is as it was, or rewritten: read the state.
    pub async fn compact(&self) -> Result<Compaction, Error> {
        let state = self.state().await?;
        let files = due(&state, &self.set_aside());
        let Some(first) = files.first() else {
            return Ok(Compaction::Nothing);
        };
        let made = match self.merge(&state, &files, first.partition.clone()).await {
            Ok(made) => [made],
            Err(Error::Tampered { what } | Error::Malformed { what }) => {
                let ids = files.iter().filter_map(|file| id_of(&file.path));
                self.set_aside().extend(ids);
                let files = files.len();
                return Ok(Compaction::Damaged { what, files });
            }
            Err(error) => return Err(error),
        };
        self.put(&made[0]).await?;
        let (clock, random) = (&*self.shared.clock, &*self.shared.random);
        let entry = Entry::rewrite(&state, &files, &made, clock, random)?;
        match entry.write_after(&self.log, state.version).await {
            Ok(AppendOutcome::Committed { version }) => Ok(Compaction::Done(Compacted {
                files: files.len(),
                rows: made[0].count,
                version,
            })),
            Ok(AppendOutcome::Conflict) | Err(Error::Conflict) => {
                self.discard(&made).await;
                Ok(Compaction::Lost)
            }
            Err(error) => Err(error),
        }
    }

    /// Files that could not be joined.
    fn set_aside(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.set_aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One file with the rows of all of these, which are of one partition.
    async fn merge(
        &self,
        state: &TableState,
        files: &[Arc<DataFile>],
        partition: Partition,
    ) -> Result<SealedFile, Error> {
        let (tenant, silo) = (&self.name.tenant, &self.name.silo);
        let purpose = self.name.kind.purpose();
        let epoch = self.shared.keys.current(tenant, silo, purpose).await?;
        let plan = self.merged(state, files).await?;
        let (rows, mut written) = mpsc::channel(BATCHES_AHEAD);
        let (name, shared, schema) = (self.name.clone(), Arc::clone(&self.shared), plan.schema());
        let count = files.iter().map(|file| file.count()).sum::<u64>();
        let writing = tokio::task::spawn_blocking(move || {
            let random = &*shared.random;
            let path = partition.file(commit::new_id(&*shared.clock, random));
            let place = (path, partition);
            let mut file = FileWriter::begin(&name, place, (&schema, count), &epoch, random)?;
            while let Some(batch) = written.blocking_recv() {
                file.write(&batch)?;
            }
            file.finish(&epoch, random)
        });
        let unreadable = |error| {
            let what = "a file that is to be joined with others cannot be read";
            scan::fault(&error, what)
        };
        let config = SessionConfig::new().with_batch_size(ROWS_AT_ONCE);
        let context = TaskContext::default().with_session_config(config);
        let mut batches = execute_stream(plan, Arc::new(context)).map_err(unreadable)?;
        while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
            // Whoever writes says below why it has ended.
            if rows.send(batch).await.is_err() {
                break;
            }
        }
        drop(rows);
        let made = writing.await.map_err(|_| Error::Malformed {
            what: "encoding did not finish",
        })??;
        if made.count != count {
            return Err(Error::Tampered {
                what: "files do not have the rows that the log says",
            });
        }
        Ok(made)
    }

    /// A plan for all rows of these files, with the columns that files have and in the order that they have, if they have one.
    async fn merged(
        &self,
        state: &TableState,
        files: &[Arc<DataFile>],
    ) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let stored = file_schema(&state.schema);
        let projection = stored.fields().iter();
        let projection = projection.map(|field| state.schema.index_of(field.name()));
        let projection: Vec<_> =
            projection
                .collect::<Result<_, _>>()
                .map_err(|_| Error::Malformed {
                    what: "a column of files is none of the table",
                })?;
        let mut plans = Vec::with_capacity(files.len());
        for file in files {
            let only = Arc::new(state.with_only(file));
            let request = ScanRequest {
                projection: projection.clone(),
                predicate: None,
                target_partitions: 1,
            };
            plans.push(self.scan(only, request).await?);
        }
        let order: Option<LexOrdering> = plans[0].output_ordering().cloned();
        let are_ordered = plans
            .iter()
            .all(|plan| plan.output_ordering() == order.as_ref());
        let all = UnionExec::try_new(plans).map_err(|_| Error::Malformed {
            what: "files do not join",
        })?;
        // Rows without an order, as those without a time, come file by file.
        Ok(match order.filter(|_| are_ordered) {
            Some(order) => Arc::new(SortPreservingMergeExec::new(order, all)),
            None => all,
        })
    }

    /// Removes files that no state names: those that a rewrite took out before `grace`, and what writers left that did not
    /// come to their entry. With `dry_run` they are only counted.
    ///
    /// # Errors
    /// When the store fails; what was removed by then is gone, and nothing else.
    pub async fn vacuum(&self, grace: Duration, dry_run: bool) -> Result<Vacuumed, Error> {
        let now_ms = self.shared.clock.now().as_micros() / 1_000;
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms.saturating_sub(grace_ms);
        let listed = self.stored().await?;
        // The store's own time: a clock that is ahead must not make a file old that a writer is about to name.
        let times = listed
            .iter()
            .map(|object| object.last_modified.timestamp_millis());
        let store_before = times.max().unwrap_or_default().saturating_sub(grace_ms);
        // Newer than the list: what was committed meanwhile is named.
        let state = self.state().await?;
        let mut gone = listed;
        gone.retain(|object| {
            id_of(object.location.as_ref()).is_some_and(|id| match state.taken_out().get(&id) {
                Some(taken_out) => *taken_out < before,
                None => object.last_modified.timestamp_millis() < store_before,
            })
        });
        unnamed(&mut gone, &state);
        if !dry_run && !gone.is_empty() {
            let (clock, random) = (&*self.shared.clock, &*self.shared.random);
            let entry = Entry::vacuumed(&state, before, clock, random)?;
            let AppendOutcome::Committed { version } =
                entry.write_after(&self.log, state.version).await?
            else {
                return Err(Error::Conflict);
            };
            let state = self.state().await?;
            if state.version < version {
                return Err(Error::Tampered {
                    what: "a log entry vanished",
                });
            }
            unnamed(&mut gone, &state);
            self.delete(&gone).await?;
        }
        Ok(Vacuumed {
            files: gone.len() as u64,
            bytes: gone.iter().map(|object| object.size).sum(),
        })
    }

    /// What lies in the partitions of the table.
    async fn stored(&self) -> Result<Vec<ObjectMeta>, Error> {
        let store = self.log.store();
        let listed = store.list_with_delimiter(None).await;
        let mut objects = Vec::new();
        for folder in listed.map_err(log::unavailable)?.common_prefixes {
            if folder.as_ref() != LOG {
                let found = store.list(Some(&folder)).try_collect::<Vec<_>>().await;
                objects.extend(found.map_err(log::unavailable)?);
            }
        }
        Ok(objects)
    }

    async fn delete(&self, objects: &[ObjectMeta]) -> Result<(), Error> {
        for object in objects {
            #[expect(
                clippy::disallowed_methods,
                reason = "engine::table removes what it has taken out of its table"
            )]
            let deleted = self.log.store().delete(&object.location).await;
            match deleted {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(log::unavailable(error)),
            }
        }
        Ok(())
    }
}

/// Leaves out what a state names.
fn unnamed(objects: &mut Vec<ObjectMeta>, state: &TableState) {
    let named: HashSet<&str> = state.files().map(|file| file.path.as_str()).collect();
    objects.retain(|object| !named.contains(object.location.as_ref()));
}

/// The files that are joined next: the oldest of the fullest class.
fn due(state: &TableState, set_aside: &HashSet<Uuid>) -> Vec<Arc<DataFile>> {
    let mut classes: BTreeMap<(&Partition, u32), Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in state.files() {
        let is_aside = || id_of(&file.path).is_some_and(|id| set_aside.contains(&id));
        if file.count() < ROWS_FULL && file.size < BYTES_FULL && !is_aside() {
            let class = file.count().max(1).ilog(CLASS);
            classes
                .entry((&file.partition, class))
                .or_default()
                .push(file);
        }
    }
    let fullest = classes.into_values().max_by_key(Vec::len);
    let fullest = fullest.filter(|files| files.len() >= *FILES.start());
    let (mut rows, mut bytes) = (0, 0);
    let fits = |file: &&Arc<DataFile>| {
        rows += file.count();
        bytes += file.size;
        rows <= ROWS_MAX && bytes <= BYTES_MAX
    };
    let files = fullest.into_iter().flatten().take(*FILES.end());
    files.take_while(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::commit::Notes;
    use crate::table::testing::{World, request, row, rows, run};
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use futures::future::join_all;

    const DAY: Duration = Duration::from_secs(86_400);

    /// Appends this many rows, each in a file of its own, to the log of one stream.
    async fn grow(table: &Table, count: i64) {
        for _ in 0..count {
            loop {
                let state = table.state().await.unwrap();
                let at = state.txn("th.log:audit.default").unwrap_or(0);
                let batch = rows(&[row(at, "audit.default")]);
                let txns = vec![("th.log:audit.default".to_owned(), at + 1)];
                let outcome = table.append(&state, vec![batch], txns, vec![]).await;
                if matches!(outcome.unwrap(), AppendOutcome::Committed { .. }) {
                    break;
                }
            }
        }
    }

    async fn joined(table: &Table) -> Option<Compacted> {
        match table.compact().await.unwrap() {
            Compaction::Done(done) => Some(done),
            Compaction::Nothing => None,
            found => panic!("nobody else rewrites, and nothing is damaged: {found:?}"),
        }
    }

    /// The numbers of all leaves that a state shows.
    async fn leaves(table: &Table, state: &Arc<TableState>) -> Vec<i64> {
        let plan = table
            .scan(Arc::clone(state), request(state, &["leaf_index"]))
            .await
            .unwrap();
        let batches = run(plan).await.unwrap();
        let mut found = Vec::new();
        for batch in batches {
            let numbers = batch.column_by_name("leaf_index").unwrap();
            found.extend(numbers.as_primitive::<Int64Type>().values().iter());
        }
        found.sort_unstable();
        found
    }

    #[tokio::test]
    async fn small_files_become_one_and_every_row_is_there_once() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 7).await;
        assert_eq!(joined(&table).await, None, "too few");
        grow(&table, 3).await;
        let before = table.state().await.unwrap();
        let done = joined(&table).await.unwrap();
        assert_eq!((done.files, done.rows), (10, 10));
        for table in [table, world.records("acme").await] {
            let state = table.state().await.unwrap();
            let stats = state.stats();
            assert_eq!(
                (stats.version, stats.rows, stats.files),
                (done.version, 10, 1)
            );
            assert_eq!((stats.waiting, stats.due), (10, 0));
            assert_eq!(leaves(&table, &state).await, (0..10).collect::<Vec<_>>());
            assert_eq!(state.txn("th.log:audit.default"), Some(10));
            // Whoever began before goes on.
            assert_eq!(leaves(&table, &before).await, (0..10).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn what_was_joined_is_not_joined_again_before_there_are_more_of_its_size() {
        let world = World::new();
        let table = world.records("acme").await;
        let mut rewritten = 0;
        for _ in 0..16 {
            grow(&table, 8).await;
            while let Some(done) = joined(&table).await {
                rewritten += done.rows;
            }
        }
        let state = table.state().await.unwrap();
        assert!(state.file_count() <= 10, "{}", state.file_count());
        assert!(
            rewritten <= 3 * 128,
            "each row thrice at the most: {rewritten}"
        );
        assert_eq!(leaves(&table, &state).await, (0..128).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn of_several_that_rewrite_at_once_one_does_and_appends_go_on() {
        let world = World::new();
        let writer = world.records("acme").await;
        grow(&writer, 20).await;
        let mut others = Vec::new();
        for _ in 0..4 {
            others.push(world.records("acme").await);
        }
        let rewriting = join_all(others.iter().map(|table| table.compact()));
        let (done, ()) = tokio::join!(rewriting, grow(&writer, 5));
        let done: Vec<_> = done.into_iter().map(Result::unwrap).collect();
        let is_done = |done: &&Compaction| matches!(done, Compaction::Done(_));
        assert!(done.iter().any(|done| is_done(&done)), "{done:?}");
        assert!(!done.contains(&Compaction::Nothing), "{done:?}");
        let state = world.records("acme").await.state().await.unwrap();
        assert_eq!(leaves(&writer, &state).await, (0..25).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn partitions_are_not_mixed() {
        let world = World::new();
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        for at in 0..10 {
            let batch = rows(&[row(at, "a"), row(at + 100, "b")]);
            let _ = table
                .append(&state, vec![batch], vec![], vec![])
                .await
                .unwrap();
        }
        while joined(&table).await.is_some() {}
        let state = table.state().await.unwrap();
        assert_eq!((state.file_count(), state.row_count()), (2, 20));
    }

    #[tokio::test]
    async fn what_was_taken_out_stays_for_its_time_and_is_then_removed() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 8).await;
        let before = table.state().await.unwrap();
        joined(&table).await.unwrap();
        // What the store says of the time of files is that of the machine; the clock goes on from there.
        let machine = std::time::UNIX_EPOCH.elapsed().unwrap();
        world.clock.set(catalog::clock::Timestamp::from_micros(
            i64::try_from(machine.as_micros()).unwrap(),
        ));
        grow(&table, 8).await;
        joined(&table).await.unwrap();
        assert_eq!(world.data_files("acme").len(), 18);
        world.clock.advance(DAY / 2);
        grow(&table, 1).await;
        // The first eight went out long ago by the clock of then.
        let eight = table.vacuum(DAY, true).await.unwrap();
        assert_eq!(eight.files, 8);
        assert_eq!(world.data_files("acme").len(), 19, "only counted");
        assert_eq!(leaves(&table, &before).await.len(), 8);
        assert_eq!(table.vacuum(DAY, false).await.unwrap(), eight);
        assert_eq!(world.data_files("acme").len(), 11);
        assert_eq!(table.vacuum(DAY, false).await.unwrap().files, 0);
        let state = world.records("acme").await.state().await.unwrap();
        assert_eq!(state.stats().waiting, 8, "the others wait");
        assert_eq!(leaves(&table, &state).await, (0..17).collect::<Vec<_>>());
        world.clock.advance(DAY);
        assert_eq!(table.vacuum(DAY, false).await.unwrap().files, 8);
        let state = table.state().await.unwrap();
        assert_eq!(world.data_files("acme").len(), state.file_count());
        assert_eq!(leaves(&table, &state).await, (0..17).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_clock_that_is_ahead_makes_no_file_old_that_nobody_names_yet() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 2).await;
        let state = table.state().await.unwrap();
        let batch = rows(&[row(7, "audit.default")]);
        let staged = table.stage(Arc::clone(&state.schema), vec![batch]).await;
        assert_eq!(staged.unwrap().len(), 1);
        world.clock.advance(100 * DAY);
        assert_eq!(table.vacuum(DAY, false).await.unwrap().files, 0);
        assert_eq!(world.data_files("acme").len(), 3);
    }

    #[tokio::test]
    async fn a_writer_that_slept_over_a_vacuum_stores_its_file_anew() {
        let world = World::new();
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        let batch = rows(&[row(0, "audit.default")]);
        let staged = table.stage(Arc::clone(&state.schema), vec![batch]).await;
        let staged = staged.unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let other = world.records("acme").await;
        grow(&other, 1).await;
        let gone = table.vacuum(Duration::ZERO, false).await.unwrap();
        assert_eq!(gone.files, 1);
        let (clock, random) = (&*world.clock, &*world.random);
        let entry = Entry::append(&state, &staged, Notes::default(), clock, random).unwrap();
        let outcome = entry.write_after(&table.log, state.version).await;
        assert_eq!(outcome.unwrap(), AppendOutcome::Conflict);
        // One that names no file goes on.
        let notes = Notes {
            txns: vec![("else".to_owned(), 1)],
            ..Notes::default()
        };
        let entry = Entry::append(&state, &[], notes, clock, random).unwrap();
        let outcome = entry.write_after(&table.log, state.version).await;
        assert_eq!(outcome.unwrap(), AppendOutcome::Committed { version: 3 });
    }

    #[tokio::test]
    async fn an_audit_tells_a_file_that_was_joined_from_one_that_is_missing() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 9).await;
        let seen = table.state().await.unwrap();
        let name = world.name("acme", table.kind());
        let auditor = world
            .tables()
            .auditor(&name.tenant, &name.silo, name.kind)
            .unwrap();
        let read = async |file: &Arc<DataFile>| {
            let count = |count: &mut usize, batch: &arrow::array::RecordBatch| {
                *count += batch.num_rows();
                Some(())
            };
            auditor.rows(&seen, file, count).await
        };
        let files: Vec<_> = seen.files().cloned().collect();
        assert_eq!(read(&files[0]).await.unwrap(), Ok(1));
        joined(&table).await.unwrap();
        world.clock.advance(DAY);
        grow(&table, 1).await;
        assert_eq!(table.vacuum(DAY / 2, false).await.unwrap().files, 9);
        let gone = read(&files[0]).await;
        assert!(matches!(gone, Err(Error::Unavailable { .. })), "{gone:?}");
        let state = table.state().await.unwrap();
        for path in world.data_files("acme") {
            std::fs::remove_file(path).unwrap();
        }
        let file = state.files().next().unwrap();
        let missing = auditor.rows(&state, file, |(): &mut (), _| Some(())).await;
        assert_eq!(missing.unwrap().unwrap_err().reason, "the file is missing");
    }

    #[tokio::test]
    async fn rows_that_were_joined_are_not_new() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 8).await;
        let seen = table.state().await.unwrap().version;
        joined(&table).await.unwrap();
        let state = table.state().await.unwrap();
        assert_eq!(state.with_rows_after(Some(seen)).file_count(), 0);
        assert_eq!(state.with_rows_after(Some(seen - 1)).row_count(), 8);
        grow(&table, 1).await;
        let state = table.state().await.unwrap();
        assert_eq!(state.with_rows_after(Some(seen)).row_count(), 1);
        assert_eq!(state.with_rows_after(None).row_count(), 9);
    }

    #[tokio::test]
    async fn files_that_are_joined_keep_their_order() {
        let world = World::new();
        let table = world.records("acme").await;
        // Their times cross: 0, 8, 16, …, and 1, 9, 17, ….
        for file in 0..8 {
            let state = table.state().await.unwrap();
            let times: Vec<_> = (0..200).map(|at| row(at * 8 + file, "a")).collect();
            let appended = table.append(&state, vec![rows(&times)], vec![], vec![]);
            let _ = appended.await.unwrap();
        }
        joined(&table).await.unwrap();
        let state = table.state().await.unwrap();
        let plan = table.scan(
            Arc::clone(&state),
            request(&state, &["created_at", "leaf_index"]),
        );
        let plan = plan.await.unwrap();
        assert!(plan.output_ordering().is_some());
        let mut found: Vec<i64> = Vec::new();
        for batch in run(plan).await.unwrap() {
            found.extend(batch.column(1).as_primitive::<Int64Type>().values().iter());
        }
        assert_eq!(found, (0..1_600).rev().collect::<Vec<i64>>());
    }

    #[tokio::test]
    async fn an_entry_that_takes_rows_out_is_not_believed() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 8).await;
        let state = table.state().await.unwrap();
        let files: Vec<_> = state.files().cloned().collect();
        let (clock, random) = (&*world.clock, &*world.random);
        let entry = Entry::rewrite(&state, &files[..2], &[], clock, random).unwrap();
        let _ = entry.write_after(&table.log, state.version).await.unwrap();
        assert!(matches!(table.state().await, Err(Error::Tampered { .. })));
        assert!(matches!(
            world.open("acme").await,
            Err(Error::Tampered { .. })
        ));
    }

    #[tokio::test]
    async fn a_file_that_was_changed_is_not_joined() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 8).await;
        let path = world.data_files("acme").remove(3);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let found = table.compact().await.unwrap();
        assert!(
            matches!(found, Compaction::Damaged { files: 8, .. }),
            "{found:?}"
        );
        assert_eq!(table.state().await.unwrap().file_count(), 8);
        // The others do not wait for it.
        assert_eq!(joined(&table).await, None);
        grow(&table, 8).await;
        assert_eq!(joined(&table).await.unwrap().files, 8);
        assert_eq!(table.state().await.unwrap().file_count(), 9);
    }
}
