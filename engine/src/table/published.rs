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
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::index::{TREE_SIZE, TableState};
use super::layout::{TableKind, TableName};
use super::{Error, Tables, log};
use crate::seal::Checkpoint;

/// Checkpoints that are read at once when a table is opened.
const READS_AT_ONCE: usize = 16;
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

/// Whether a table is behind one of its checkpoints. Where it is, it is looked at again: somebody may have committed, and
/// published, since it was read.
pub(super) async fn is_behind(
    store: &Arc<dyn ObjectStore>,
    table: &TableName,
    state: Option<&TableState>,
) -> Result<bool, Error> {
    let streams = streams(store, &table.tenant).await?;
    let reading: Vec<_> = streams
        .into_iter()
        .filter(|stream| table_of(stream) == table.kind)
        .map(|stream| async move {
            let found = checkpoint(store, table, &stream).await?;
            Ok::<_, Error>(found.map(|checkpoint| (stream, checkpoint)))
        })
        .collect();
    let mut reading = stream::iter(reading).buffer_unordered(READS_AT_ONCE);
    while let Some(found) = reading.try_next().await? {
        let Some((stream, checkpoint)) = found else {
            continue;
        };
        let leaves = state.and_then(|state| state.txn(&format!("{TREE_SIZE}{stream}")));
        let leaves = u64::try_from(leaves.unwrap_or(0)).unwrap_or(0);
        let version = state.map_or(0, |state| state.version);
        if checkpoint.size > leaves || checkpoint.table_version > version {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn checkpoint(
    store: &Arc<dyn ObjectStore>,
    table: &TableName,
    stream: &StreamName,
) -> Result<Option<Checkpoint>, Error> {
    let path = log_folder(&table.tenant, stream).join(CHECKPOINT);
    let note = match store.get(&path).await {
        Ok(found) => found.bytes().await.map_err(log::unavailable)?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(log::unavailable(error)),
    };
    let checkpoint = Checkpoint::unverified(&note).ok();
    if checkpoint.is_none() {
        // No more is lost by it than by one that was deleted. Who publishes says so too, and goes no further.
        tracing::error!(tenant = %table.tenant, %stream, "a published checkpoint is none");
    }
    Ok(checkpoint)
}
