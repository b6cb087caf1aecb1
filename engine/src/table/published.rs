//! What was published of a table's logs, where it lies, and that no table is opened which is older than that.
//!
//! ```text
//! <silo root>/tenants/<tenant>/audit/log/<stream>/checkpoint      what the log is, signed
//! <silo root>/tenants/<tenant>/audit/log/<stream>/tile/…          its hashes
//! ```
//! A checkpoint is published after the commit that it is about, and after its tiles; so tiles may go further than it does,
//! where somebody was interrupted. A table whose log has fewer leaves than its checkpoint, or
//! an older version, was put back to what it was before, or replaced: nobody reads or writes it until an operator has
//! looked. The signature is not asked for here: whoever forges a checkpoint can take a table away, as by deleting it.

use std::sync::Arc;

use catalog::ids::{SiloId, StreamName, TenantId};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::index::{TREE_SIZE, TableState};
use super::layout::{TableKind, TableName};
use super::{Error, Tables, log};
use crate::seal::Checkpoint;
use crate::seal::note::Note;

/// The name of the newest checkpoint below its log.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Where the log of a stream is published, below the silo's root.
pub(crate) fn log_folder(tenant: &TenantId, stream: &StreamName) -> Path {
    logs(tenant).join(stream.as_str())
}

fn logs(tenant: &TenantId) -> Path {
    Path::from_iter(["tenants", tenant.as_str(), "audit", "log"])
}

/// The table whose rows are the leaves of this stream.
pub(crate) fn table_of(stream: &StreamName) -> TableKind {
    if *stream == StreamName::evidence() {
        TableKind::Evidence
    } else {
        TableKind::Records
    }
}

impl Tables {
    /// The streams of a tenant of which something is published.
    pub(crate) async fn published_streams(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
    ) -> Result<Vec<StreamName>, Error> {
        streams(&self.store(silo)?, tenant).await
    }
}

async fn streams(
    store: &Arc<dyn ObjectStore>,
    tenant: &TenantId,
) -> Result<Vec<StreamName>, Error> {
    let listed = store.list_with_delimiter(Some(&logs(tenant))).await;
    let folders = listed.map_err(log::unavailable)?.common_prefixes;
    let named = folders.iter().filter_map(|folder| folder.filename());
    Ok(named
        .filter_map(|name| StreamName::parse(name).ok())
        .collect())
}

/// Refuses a table that is behind one of its checkpoints, and to make one anew where there are any.
pub(super) async fn check(
    store: &Arc<dyn ObjectStore>,
    table: &TableName,
    state: Option<&TableState>,
) -> Result<(), Error> {
    for stream in streams(store, &table.tenant).await? {
        if table_of(&stream) != table.kind {
            continue;
        }
        let folder = log_folder(&table.tenant, &stream);
        let checkpoint = match store.get(&folder.join(CHECKPOINT)).await {
            Ok(found) => found.bytes().await.map_err(log::unavailable)?,
            Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(log::unavailable(error)),
        };
        let note = Note::parse(&checkpoint).ok();
        let checkpoint = note.and_then(|note| Checkpoint::parse(note.text()).ok());
        let Some(checkpoint) = checkpoint else {
            // No more is lost by it than by one that was deleted. Who publishes says so too, and goes no further.
            tracing::error!(tenant = %table.tenant, %stream, "a published checkpoint is none");
            continue;
        };
        let leaves = state.and_then(|state| state.txn(&format!("{TREE_SIZE}{stream}")));
        let leaves = u64::try_from(leaves.unwrap_or(0)).unwrap_or(0);
        let version = state.map_or(0, |state| state.version);
        if checkpoint.size > leaves || checkpoint.table_version > version {
            return Err(Error::Tampered {
                what: "the table is older than its published checkpoint",
            });
        }
    }
    Ok(())
}
