//! A table looked at by somebody who does not trust its store: entry by entry, file by file, with a name for what is wrong.
//!
//! It reads what is there now and asks no state that an earlier read has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use bytes::Bytes;
use catalog::ids::{SiloId, TenantId};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use sha2::{Digest as _, Sha256};

use super::file_writer::hex;
use super::index::{self, DataFile, TableState};
use super::layout::TableName;
use super::log::{self, Log};
use super::{Error, ScanRequest, Shared, StoreFault, Table, TableKind, Tables};

/// Entries that are read at once.
const READ_AHEAD: usize = 32;
/// Rows that are looked at together: as many as stay near the processor.
const ROWS_AT_ONCE: usize = 1_024;

/// What an audit takes into memory of one file, whatever its entry says.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
const OTHER_BYTES: &str = "the bytes are not those that the log names";

/// What is wrong with one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Its path below the silo's root.
    pub(crate) object: String,
    pub(crate) reason: String,
}

/// A table that is looked at.
pub(crate) struct Auditor {
    name: TableName,
    log: Log,
    shared: Arc<Shared>,
}

impl Tables {
    /// A look at a table, which need not be one that opens.
    pub(crate) fn auditor(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        kind: TableKind,
    ) -> Result<Auditor, Error> {
        let name = TableName {
            tenant: tenant.clone(),
            silo: silo.clone(),
            kind,
        };
        Ok(Auditor {
            log: Log::new(self.store(silo)?, name.root()),
            name,
            shared: Arc::clone(&self.shared),
        })
    }
}

impl Auditor {
    /// The table as the entries of its log make it, each of them shown to `each` when it has been taken in; `None` where
    /// there is no table. Ends at the first entry that cannot be taken in, with the state before it.
    pub(crate) async fn history(
        &self,
        mut each: impl FnMut(&TableState) + Send,
    ) -> Result<(Option<TableState>, Vec<Fault>), Error> {
        let mut faults = Vec::new();
        let length = self.length(&mut faults).await?;
        let mut entries = Box::pin(
            stream::iter(0..length)
                .map(|version| async move { (version, self.log.read(version).await) })
                .buffered(READ_AHEAD),
        );
        let mut state: Option<TableState> = None;
        while let Some((version, entry)) = entries.next().await {
            let entry = match entry {
                Err(error @ Error::Unavailable { .. }) => return Err(error),
                entry => entry.and_then(|entry| {
                    entry.ok_or(Error::Tampered {
                        what: "a log entry is missing",
                    })
                }),
            };
            let taken_in = entry.and_then(|entry| match &mut state {
                None => TableState::first(&entry).map(|first| state = Some(first)),
                Some(state) => {
                    let mut next = state.clone();
                    next.apply(version, &entry)?;
                    *state = next;
                    Ok(())
                }
            });
            if let Err(error) = taken_in {
                faults.push(self.fault(&entry_name(version), &error.to_string()));
                break;
            }
            state.iter().for_each(&mut each);
        }
        drop(entries);
        Ok((state, faults))
    }

    /// How many entries the log has, up to its last one; holes and what does not belong there are faults.
    async fn length(&self, faults: &mut Vec<Fault>) -> Result<u64, Error> {
        let folder = Path::from("_delta_log");
        let store = self.log.store();
        let listed: Vec<_> = store
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(log::unavailable)?;
        let mut length = 0;
        for object in &listed {
            let path = object.location.as_ref();
            let version = object.location.filename().and_then(log::version_of);
            let entry = version.filter(|version| entry_name(*version) == path);
            match entry.and_then(|version| version.checked_add(1)) {
                Some(next) => length = length.max(next),
                None => faults.push(self.fault(path, "it is no entry of the log")),
            }
        }
        Ok(length)
    }

    /// Folds the rows of a file, batch by batch, once its bytes are those that the log names. `fold` gives `None` at a row
    /// that cannot be. All of it is work of the calling task, for as long as it takes.
    pub(crate) async fn rows<T: Default + Send>(
        &self,
        state: &TableState,
        file: &Arc<DataFile>,
        fold: impl Fn(&mut T, &RecordBatch) -> Option<()> + Send + Sync,
    ) -> Result<Result<T, Fault>, Error> {
        let fault = |reason: &str| Ok(Err(self.fault(&file.path, reason)));
        let path = Path::parse(&file.path).map_err(|_| Error::Malformed {
            what: "a file has no place",
        })?;
        let found = match self.log.store().get(&path).await {
            Ok(found) => found,
            Err(error @ object_store::Error::NotFound { .. }) => {
                if self.is_named_still(state, file).await? {
                    return fault("the file is missing");
                }
                return Err(Error::Unavailable {
                    what: "a file was joined with others and removed before it was read: verify again",
                    source: StoreFault::from_store(&error),
                });
            }
            Err(error) => return Err(log::unavailable(error)),
        };
        if found.meta.size != file.size {
            return fault(OTHER_BYTES);
        }
        if file.size > FILE_BYTES_MAX {
            return fault("the file is larger than any that is written");
        }
        let bytes = found.bytes().await.map_err(log::unavailable)?;
        if hex(&Sha256::digest(&bytes)) != file.sha256 {
            return fault(OTHER_BYTES);
        }
        let only = Arc::new(state.with_only(file));
        let table = self.holding(&only, &path, bytes).await?;
        let request = ScanRequest {
            projection: (0..only.schema.fields().len()).collect(),
            predicate: None,
            target_partitions: 1,
        };
        let plan = match table.scan(Arc::clone(&only), request).await {
            Ok(plan) => plan,
            Err(Error::Unavailable { what, source }) => {
                return Err(Error::Unavailable { what, source });
            }
            Err(Error::KeyUnavailable(error)) if error.is_outage() => {
                return Err(Error::KeyUnavailable(error));
            }
            Err(Error::KeyUnavailable(_)) => {
                return fault("the key that it names is not to be had");
            }
            Err(Error::Tampered { what } | Error::Malformed { what }) => return fault(what),
            Err(Error::Conflict) => return fault("it cannot be read"),
        };
        match folded(plan, &fold).await {
            Ok(Some(folded)) => Ok(Ok(folded)),
            Ok(None) => fault("a row of it is no record"),
            Err(_) => fault("the file does not open, or is not what was written"),
        }
    }

    /// Whether no entry after this state takes a file out.
    async fn is_named_still(&self, state: &TableState, file: &DataFile) -> Result<bool, Error> {
        match index::refresh(&self.log, Arc::new(state.clone())).await {
            Ok(now) => Ok(now.files().any(|named| named.path == file.path)),
            Err(error @ Error::Unavailable { .. }) => Err(error),
            // What such entries say counts for nothing.
            Err(_) => Ok(true),
        }
    }

    /// The data files that lie below the table's root, by their paths.
    pub(crate) async fn stored(&self) -> Result<HashMap<String, ObjectMeta>, Error> {
        let listed: Vec<_> = self
            .log
            .store()
            .list(None)
            .try_collect()
            .await
            .map_err(log::unavailable)?;
        let named = listed
            .into_iter()
            .map(|object| (object.location.to_string(), object));
        Ok(named
            .filter(|(path, _)| !path.starts_with("_delta_log/"))
            .collect())
    }

    /// A digest of everything that the outcome of reading a file depends on but the keys: which table it is of and with
    /// which columns, what the log says of the file, and how the store lists it.
    pub(crate) fn mark(
        &self,
        state: &TableState,
        file: &DataFile,
        listed: &ObjectMeta,
    ) -> Result<String, Error> {
        let mut mark = Sha256::new();
        for part in [
            self.name.root().as_ref().as_bytes(),
            state.table_id().as_bytes(),
            &file.digest()?,
            &listed.size.to_le_bytes(),
            listed.last_modified.to_rfc3339().as_bytes(),
            listed.e_tag.as_deref().unwrap_or_default().as_bytes(),
        ] {
            mark.update((part.len() as u64).to_le_bytes());
            mark.update(part);
        }
        for field in state.schema.fields() {
            let kind = field.data_type();
            let column = format!("{:?} {kind:?} {}", field.name(), field.is_nullable());
            mark.update((column.len() as u64).to_le_bytes());
            mark.update(column);
        }
        Ok(hex(&mark.finalize()))
    }

    /// A table of one file that is here already: what was hashed is what is read, whatever the store says next.
    async fn holding(
        &self,
        state: &Arc<TableState>,
        path: &Path,
        bytes: Bytes,
    ) -> Result<Table, Error> {
        let held = InMemory::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "the store is the memory of this call"
        )]
        held.put(path, bytes.into())
            .await
            .map_err(log::unavailable)?;
        Ok(Table {
            name: self.name.clone(),
            log: Log::new(Arc::new(held), Path::default()),
            shared: Arc::clone(&self.shared),
            latest: tokio::sync::Mutex::new(Arc::clone(state)),
            set_aside: Mutex::default(),
        })
    }

    /// The table's root below that of the silo.
    pub(crate) fn root(&self) -> String {
        self.name.root().to_string()
    }

    pub(crate) fn fault(&self, path: &str, reason: &str) -> Fault {
        Fault {
            object: format!("{}/{path}", self.name.root()),
            reason: reason.to_owned(),
        }
    }
}

async fn folded<T: Default + Send>(
    plan: Arc<dyn ExecutionPlan>,
    fold: &(impl Fn(&mut T, &RecordBatch) -> Option<()> + Send + Sync),
) -> Result<Option<T>, DataFusionError> {
    let config = SessionConfig::new().with_batch_size(ROWS_AT_ONCE);
    let context = TaskContext::default().with_session_config(config);
    let mut batches = execute_stream(plan, Arc::new(context))?;
    let mut made = T::default();
    while let Some(batch) = batches.try_next().await? {
        if fold(&mut made, &batch).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(made))
}

/// The name of an entry below the table's root.
pub(crate) fn entry_name(version: u64) -> String {
    format!("_delta_log/{version:020}.json")
}
