//! Many small files made one, and files that no state names any more removed.
//!
//! ```text
//! files of a partition ──eight of a size class──▶ read, checked, sorted, sealed anew ──one entry──▶ Remove each, Add one
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

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use uuid::Uuid;

use super::commit::{AppendOutcome, Entry};
use super::index::{DataFile, TableState};
use super::layout::{Partition, id_of};
use super::{Error, ScanRequest, Table, log, scan};

/// Files of a class that are joined, and at the most.
const FILES: std::ops::RangeInclusive<usize> = 8..=64;
/// The base of the size classes, in rows.
const CLASS: u64 = 8;
/// A file of so many rows, or bytes, is left as it is.
const ROWS_FULL: u64 = 262_144;
const BYTES_FULL: u64 = 128 * 1024 * 1024;
/// Rows of a file that is made.
const ROWS_MAX: u64 = 2 * ROWS_FULL;
/// What the rows of a file that is made take in memory. Those that do not fit wait for the next one.
const MEMORY_MAX: usize = 256 * 1024 * 1024;

/// Rows that are decoded at once: whoever else wants the thread does not wait for more.
const ROWS_AT_ONCE: usize = 1_024;

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
    /// Joins files, if there are enough of a size; once. `None` when there are not, or when another writer was faster.
    ///
    /// # Errors
    /// When a file does not open, or the store fails. The table is as it was, or rewritten: read the state.
    pub async fn compact(&self) -> Result<Option<Compacted>, Error> {
        let state = self.state().await?;
        let (files, batches) = loop {
            let due = due(&state, &self.large());
            if due.is_empty() {
                return Ok(None);
            }
            let (files, batches) = self.read_within(&state, &due).await?;
            if files.len() >= 2 {
                break (files, batches);
            }
            // Nor will they fit the next time: others have their turn.
            let ids = due.iter().take(2).filter_map(|file| id_of(&file.path));
            self.large().extend(ids);
        };
        let staged = self.stage(Arc::clone(&state.schema), batches).await?;
        let entry = Entry::rewrite(
            &state,
            &files,
            &staged,
            &*self.shared.clock,
            &*self.shared.random,
        )?;
        match entry.write_after(&self.log, state.version).await {
            Ok(AppendOutcome::Committed { version }) => Ok(Some(Compacted {
                files: files.len(),
                rows: files.iter().map(|file| file.count()).sum(),
                version,
            })),
            Ok(AppendOutcome::Conflict) | Err(Error::Conflict) => {
                self.discard(&staged).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Files that did not fit into memory together with another.
    fn large(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As many of the files as fit into memory together, and their rows.
    async fn read_within(
        &self,
        state: &TableState,
        due: &[Arc<DataFile>],
    ) -> Result<(Vec<Arc<DataFile>>, Vec<RecordBatch>), Error> {
        let (mut files, mut batches, mut bytes) = (Vec::new(), Vec::new(), 0);
        for file in due {
            let rows = self.rows_of(state, file).await?;
            bytes += rows
                .iter()
                .map(RecordBatch::get_array_memory_size)
                .sum::<usize>();
            if bytes > MEMORY_MAX {
                break;
            }
            files.push(Arc::clone(file));
            batches.extend(rows);
        }
        Ok((files, batches))
    }

    /// All rows of one file, with every column.
    async fn rows_of(
        &self,
        state: &TableState,
        file: &Arc<DataFile>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let only = state.with_only(file);
        let epochs = self.open_epochs(&only).await?;
        let request = ScanRequest {
            projection: (0..state.schema.fields().len()).collect(),
            predicate: None,
            target_partitions: 1,
        };
        let plan = scan::plan(
            &self.name,
            self.log.store(),
            &self.shared.footers,
            epochs,
            &only,
            request,
        )?;
        let unreadable = |_| Error::Tampered {
            what: "a file that is to be joined with others cannot be read",
        };
        let config = SessionConfig::new().with_batch_size(ROWS_AT_ONCE);
        let context = TaskContext::default().with_session_config(config);
        let batches = execute_stream(plan, Arc::new(context));
        let batches: Vec<RecordBatch> = batches
            .map_err(unreadable)?
            .try_collect()
            .await
            .map_err(unreadable)?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if rows as u64 != file.count() {
            return Err(Error::Tampered {
                what: "a file does not have the rows that the log says",
            });
        }
        Ok(batches)
    }

    /// Removes files that no state names: those that a rewrite took out before `grace`, and what writers left that did not
    /// come to their entry. With `dry_run` they are only counted.
    ///
    /// # Errors
    /// When the store fails; what was removed by then is gone, and nothing else.
    pub async fn vacuum(&self, grace: Duration, dry_run: bool) -> Result<Vacuumed, Error> {
        let now_ms = self.shared.clock.now().as_micros() / 1_000;
        let before = now_ms.saturating_sub(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX));
        let listed: Vec<_> = self
            .log
            .store()
            .list(None)
            .try_collect()
            .await
            .map_err(log::unavailable)?;
        // The store's own time: a clock that is ahead must not make a file old that a writer is about to name.
        let times = listed
            .iter()
            .map(|object| object.last_modified.timestamp_millis());
        let store_before = times
            .max()
            .unwrap_or_default()
            .saturating_sub(now_ms - before);
        // Newer than the list: what was committed meanwhile is named.
        let state = self.state().await?;
        let named: HashSet<&str> = state.files().map(|file| file.path.as_str()).collect();
        let mut found = Vacuumed::default();
        for object in listed {
            let path = object.location.as_ref();
            let Some(id) = id_of(path) else { continue };
            let is_young = match state.taken_out().get(&id) {
                Some(taken_out) => *taken_out >= before,
                None => object.last_modified.timestamp_millis() >= store_before,
            };
            if named.contains(path) || is_young {
                continue;
            }
            found.files += 1;
            found.bytes += object.size;
            if !dry_run {
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
        }
        if !dry_run && state.taken_out().values().any(|at| *at < before) {
            let entry = Entry::vacuumed(&state, before, &*self.shared.clock, &*self.shared.random)?;
            let _ = entry.write_after(&self.log, state.version).await?;
        }
        Ok(found)
    }
}

/// The files that are joined next: the oldest of the fullest class.
fn due(state: &TableState, large: &HashSet<Uuid>) -> Vec<Arc<DataFile>> {
    let mut classes: BTreeMap<(&Partition, u32), Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in state.files() {
        let is_large = || id_of(&file.path).is_some_and(|id| large.contains(&id));
        if file.count() < ROWS_FULL && file.size < BYTES_FULL && !is_large() {
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
        rows <= ROWS_MAX && bytes <= 2 * BYTES_FULL
    };
    let files = fullest.into_iter().flatten().take(*FILES.end());
    files.take_while(fits).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        assert_eq!(table.compact().await.unwrap(), None, "too few");
        grow(&table, 3).await;
        let before = table.state().await.unwrap();
        let done = table.compact().await.unwrap().unwrap();
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
            while let Some(done) = table.compact().await.unwrap() {
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
        let done: Vec<_> = done.into_iter().filter_map(Result::unwrap).collect();
        assert!(!done.is_empty());
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
        while table.compact().await.unwrap().is_some() {}
        let state = table.state().await.unwrap();
        assert_eq!((state.file_count(), state.row_count()), (2, 20));
    }

    #[tokio::test]
    async fn what_was_taken_out_stays_for_its_time_and_is_then_removed() {
        let world = World::new();
        let table = world.records("acme").await;
        grow(&table, 8).await;
        let before = table.state().await.unwrap();
        table.compact().await.unwrap().unwrap();
        // What the store says of the time of files is that of the machine; the clock goes on from there.
        let machine = std::time::UNIX_EPOCH.elapsed().unwrap();
        world.clock.set(catalog::clock::Timestamp::from_micros(
            i64::try_from(machine.as_micros()).unwrap(),
        ));
        grow(&table, 8).await;
        table.compact().await.unwrap().unwrap();
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
        assert!(table.compact().await.is_err());
        assert_eq!(table.state().await.unwrap().file_count(), 8);
    }
}
