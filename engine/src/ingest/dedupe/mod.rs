//! The index of idempotency keys: which record of a table has which key. A file beside the log of the node, rebuilt
//! from the table whenever it is missing, damaged or of another table.
//!
//! ```text
//! catch_up: files after the mark ──rows──▶ entries ──▶ file        get_many: keys ──▶ records that are in the table
//! apply:    what a commit stored ──▶ entries and mark, together
//! ```
//!
//! **Never a wrong answer.** A place (tenant and silo) answers only while it is covered: while its mark was compared with
//! the table since the file was opened, and every commit after it was applied in order. In any other case, a disk that
//! failed among them, the caller gets [`Error::Stale`] and lets the index catch up. What a place once answered for, or
//! was told of, it answers for from then on: catching up with an older state, begun before, covers nothing. The table
//! is the truth and is written first; the index is written without waiting for the disk, and what a crash takes of it is
//! read again.
//!
//! **Bounds.** Memory: the cache ([`CACHE_BYTES`] unless said otherwise) and the rows of one batch while catching up.
//! Disk: some 350 bytes a record with the slack of the tree, for every record that the tables hold; nothing is dropped for
//! its age. Time: opening reads the file once. Without a file the index lies in memory, and memory grows with the records.

mod entry;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use catalog::guard::{Permit, TenantAdmin};
use catalog::ids::{SiloId, TenantId};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use tokio::sync::OwnedMutexGuard;

use crate::sequencer::LaneError;
use crate::table::{self, ScanRequest, Table, TableKind, TableState, Tables};

use self::store::{Fault, Mark, Resume, Store};

pub(crate) use self::entry::{KeyDigest, Known};

/// Memory for pages of the file, in bytes.
pub const CACHE_BYTES: usize = 64 << 20;
/// The name of the file in its folder.
pub(crate) const FILE_NAME: &str = "dedup.redb";
/// Keys that are looked up without leaving the caller's thread.
const KEYS_INLINE_MAX: usize = 64;
/// Times that catching up begins again after the file was lost under it.
const ATTEMPTS_MAX: usize = 3;

/// Why the index did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has it open.
    #[error("the index of idempotency keys is in use by another process")]
    InUse,
    /// The place is not covered, or no longer: let it catch up and ask again.
    #[error("the index of idempotency keys does not cover the table")]
    Stale,
    /// The disk failed.
    #[error("the index of idempotency keys cannot be read or written")]
    Disk(#[source] std::io::Error),
    /// The table that it is read from.
    #[error("the index of idempotency keys cannot be read from the table")]
    Table(#[from] table::Error),
}

impl From<Error> for LaneError {
    fn from(error: Error) -> Self {
        match error {
            Error::Table(error) => error.into(),
            other => {
                tracing::warn!(
                    error = &other as &dyn std::error::Error,
                    "duplicates cannot be told"
                );
                Self::Unavailable
            }
        }
    }
}

/// Whose keys: the records of a tenant in a silo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) tenant: TenantId,
    pub(crate) silo: SiloId,
}

impl Place {
    /// The place's table in the file. Neither name can have a slash.
    fn table(&self) -> String {
        format!("{}/{}", self.tenant, self.silo)
    }
}

/// The index. Clones share it.
#[derive(Debug, Clone)]
pub struct Dedup(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: Option<PathBuf>,
    cache_bytes: usize,
    openings: AtomicUsize,
    store: RwLock<Option<Store>>,
    /// The newest version of each place that was covered, or that a commit was told of: its keys may be nowhere else.
    due: Mutex<HashMap<Place, u64>>,
    /// Held by whoever reads a place's table.
    turns: Mutex<HashMap<Place, Arc<tokio::sync::Mutex<()>>>>,
}

impl Dedup {
    /// Opens the index in `folder`, or begins one. A file that is damaged or none of ours is set aside. Reads the whole
    /// file: call it where that may block.
    ///
    /// # Errors
    /// When another process has it open, or the disk fails.
    pub fn open(folder: &Path, cache_bytes: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::Disk)?;
        let index = Self::closed(Some(folder.join(FILE_NAME)), cache_bytes);
        index.0.reopen(None)?;
        Ok(index)
    }

    /// An index that ends with the process.
    pub fn in_memory() -> Self {
        Self::closed(None, CACHE_BYTES)
    }

    fn closed(path: Option<PathBuf>, cache_bytes: usize) -> Self {
        Self(Arc::new(Shared {
            path,
            cache_bytes,
            openings: AtomicUsize::new(0),
            store: RwLock::new(None),
            due: Mutex::default(),
            turns: Mutex::default(),
        }))
    }

    /// The records that are in the table under these keys, in their order.
    ///
    /// # Errors
    /// [`Error::Stale`] when the place has to catch up first.
    pub(crate) async fn get_many(
        &self,
        place: &Place,
        keys: &[KeyDigest],
    ) -> Result<Vec<Option<Known>>, Error> {
        let found = if keys.len() <= KEYS_INLINE_MAX {
            self.0.with(None, |store| self.0.get(store, place, keys))?
        } else {
            let (place, keys) = (place.clone(), keys.to_vec());
            self.blocking(move |shared| shared.with(None, |store| shared.get(store, &place, &keys)))
                .await?
        };
        found.ok_or(Error::Stale)
    }

    /// Takes up what the commit of `version` stored. Only the commit after the last one covered is taken; after any
    /// other, or when the index cannot be written, the place is no longer covered, and the next question says so.
    pub(crate) async fn apply(
        &self,
        place: &Place,
        version: u64,
        entries: Vec<(KeyDigest, Known)>,
    ) {
        let (own, place) = (place.clone(), place);
        let applied = self
            .blocking(move |shared| {
                shared.with(None, |store| match store.covered(&own) {
                    Some(mark) if mark.version + 1 == version => {
                        store.put(&own, &entries, Some(&Mark { version, ..mark }))
                    }
                    _ => {
                        store.uncover(&own);
                        Ok(())
                    }
                })
            })
            .await;
        // Not before: whoever asks meanwhile still has these keys.
        self.0.is_due(place, version);
        if let Err(error) = applied {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a commit is not in the index of idempotency keys: it will be read from the table"
            );
        }
    }

    /// Covers the place up to `state`, if it was not further already, by the files that were added since it was last
    /// covered: all of them for a new index, those of other writers, or of a commit whose answer was lost, later.
    ///
    /// # Errors
    /// When the table or the index cannot be read.
    pub(crate) async fn catch_up(
        &self,
        place: &Place,
        table: &Table,
        state: &Arc<TableState>,
    ) -> Result<(), Error> {
        let _turn = self.turn(place).await;
        self.read(place, table, state).await
    }

    /// One at a time reads a place: what it drops before it reads, another may just have read, and would cover.
    async fn turn(&self, place: &Place) -> OwnedMutexGuard<()> {
        let turn = {
            let turns = self.0.turns.lock();
            let mut turns = turns.unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(place.clone()).or_default())
        };
        turn.lock_owned().await
    }

    async fn read(
        &self,
        place: &Place,
        table: &Table,
        state: &Arc<TableState>,
    ) -> Result<(), Error> {
        for _ in 0..ATTEMPTS_MAX {
            match self.read_table(place, table, state).await {
                Err(Error::Stale) => {}
                done => return done,
            }
        }
        Err(Error::Stale)
    }

    /// Forgets the records in this silo of the tenant that the permit is about, and reads them from the table again.
    /// Returns how many rows that were.
    ///
    /// # Errors
    /// When the table or the index cannot be read.
    pub async fn rebuild(
        &self,
        permit: &Permit<TenantAdmin>,
        tables: &Tables,
        silo: &SiloId,
    ) -> Result<u64, Error> {
        let decision = permit.decision();
        let place = Place {
            tenant: decision.target.as_ref().unwrap_or(&decision.tenant).clone(),
            silo: silo.clone(),
        };
        let table = tables
            .table(&place.tenant, silo, TableKind::Records)
            .await?;
        let state = table.state().await?;
        let _turn = self.turn(&place).await;
        self.forget(&place).await?;
        self.read(&place, &table, &state).await?;
        Ok(state.row_count())
    }

    /// Drops what the index has of a place.
    async fn forget(&self, place: &Place) -> Result<(), Error> {
        self.0.due().remove(place);
        let place = place.clone();
        self.blocking(move |shared| shared.with(None, |store| store.forget(&place)))
            .await
    }

    async fn read_table(
        &self,
        place: &Place,
        table: &Table,
        state: &Arc<TableState>,
    ) -> Result<(), Error> {
        let now = Mark {
            table_id: state.table_id().to_owned(),
            version: state.version,
        };
        let covered = self.0.with(None, |store| Ok(store.covered(place)))?;
        if covered.is_some_and(|mark| mark.covers(&now)) {
            return Ok(());
        }
        let (asked, wanted) = (place.clone(), now.clone());
        let (generation, resume) = self
            .blocking(move |shared| {
                let is_known = shared.due().contains_key(&asked);
                shared.with(None, |store| {
                    let resume = store.resume(&asked, &wanted, is_known)?;
                    Ok((store.generation, resume))
                })
            })
            .await?;
        let since = match resume {
            Resume::After(since) => since,
            Resume::Ahead => return Ok(()),
        };
        let new = Arc::new(state.with_rows_after(since));
        if new.file_count() > 0 {
            let projection = entry::COLUMNS
                .iter()
                .filter_map(|name| state.schema.index_of(name).ok())
                .collect();
            let request = ScanRequest {
                projection,
                predicate: None,
                target_partitions: 1,
            };
            let plan = table.scan(new, request).await?;
            let mut rows =
                execute_stream(plan, Arc::new(TaskContext::default())).map_err(unreadable)?;
            while let Some(batch) = rows.try_next().await.map_err(unreadable)? {
                let entries = entry::of_rows(&place.tenant, &batch)?;
                self.put(generation, place, entries, None).await?;
            }
        }
        let version = now.version;
        self.put(generation, place, Vec::new(), Some(now)).await?;
        self.0.is_due(place, version);
        Ok(())
    }

    async fn put(
        &self,
        generation: usize,
        place: &Place,
        entries: Vec<(KeyDigest, Known)>,
        mark: Option<Mark>,
    ) -> Result<(), Error> {
        let place = place.clone();
        self.blocking(move |shared| {
            shared.with(Some(generation), |store| {
                store.put(&place, &entries, mark.as_ref())
            })
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || act(&shared))
            .await
            .unwrap_or(Err(Error::Stale))
    }
}

impl Shared {
    fn due(&self) -> MutexGuard<'_, HashMap<Place, u64>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a place answers for this version, or not at all.
    fn is_due(&self, place: &Place, version: u64) {
        let mut due = self.due();
        match due.get_mut(place) {
            Some(newest) => *newest = version.max(*newest),
            None => drop(due.insert(place.clone(), version)),
        }
    }

    /// What is known under these keys; `None` when the place is not covered, or was further already.
    fn get(
        &self,
        store: &Store,
        place: &Place,
        keys: &[KeyDigest],
    ) -> Result<Option<Vec<Option<Known>>>, Fault> {
        let due = self.due().get(place).copied();
        match store.covered(place) {
            Some(mark) if due.is_none_or(|due| mark.version >= due) => store.get(place, keys),
            _ => Ok(None),
        }
    }

    /// Does something with the index, which is opened if it is not open: the same `opening` as before, if that matters.
    /// An index that fails is opened again, and set aside if it is damaged: then it covers nothing any more.
    fn with<T>(
        &self,
        opening: Option<usize>,
        act: impl FnOnce(&Store) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        self.reopen(None)?;
        let (failed, fault) = {
            let open = self.store.read().unwrap_or_else(PoisonError::into_inner);
            let store = open.as_ref().ok_or(Error::Stale)?;
            if opening.is_some_and(|opening| opening != store.generation) {
                return Err(Error::Stale);
            }
            match act(store) {
                Ok(done) => return Ok(done),
                Err(fault) => (store.generation, fault),
            }
        };
        tracing::warn!(
            error = &fault as &dyn std::error::Error,
            "the index of idempotency keys is opened again"
        );
        self.reopen(Some(failed))?;
        Err(fault.into())
    }

    /// Opens the index if it is not open, or if it is as the `failed` opening left it.
    fn reopen(&self, failed: Option<usize>) -> Result<(), Error> {
        let is_open = |open: &Option<Store>| {
            open.as_ref()
                .is_some_and(|store| Some(store.generation) != failed)
        };
        if is_open(&self.store.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let mut open = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if is_open(&open) {
            return Ok(());
        }
        // The file has to be closed before it can be opened.
        drop(open.take());
        let generation = self.openings.fetch_add(1, Ordering::Relaxed);
        *open = Some(Store::open(
            self.path.as_deref(),
            self.cache_bytes,
            generation,
        )?);
        Ok(())
    }
}

/// A file that does not decrypt keeps the tenant from writing: to go on could store a record twice.
fn unreadable(error: DataFusionError) -> Error {
    let what = "stored records cannot be read back";
    Error::Table(table::scan_fault(&error, what))
}
