//! What this node has on a disk of its own: the write-ahead log, and the index of idempotency keys beside it.
//!
//! ```text
//! take folder --> claim generation --> open log, index --> confirm --> lanes of whoever has rows in the log
//!                                                          drain --> drained --> close
//! ```
//! The log is durable state: without it, what was acknowledged and is in no table yet is lost. So a folder that is not
//! the one this node left is refused before anything is served.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::clock::Random;
use catalog::ids::{SiloId, TenantId};
use catalog::lease::Leases;
use catalog::node::{Holder, NodeError, Nodes, Standing};
use engine::disk::SystemDisk;
use engine::ingest::dedupe::{self, CACHE_BYTES, Dedup};
use engine::table::TableKind;
use engine::wal::{self, Wal};
use object_store::ObjectStore;

use crate::config;

/// Why the node's own disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log.
    #[error("the write-ahead log cannot be opened")]
    Log(#[from] wal::Error),
    /// The node is not the one that was left.
    #[error("this node may not take up its write-ahead log")]
    Node(#[from] NodeError),
    /// The index.
    #[error("the index of idempotency keys cannot be opened")]
    Index(#[from] dedupe::Error),
    /// Reading the disk broke off.
    #[error("the write-ahead log was not read to its end")]
    Broken(#[from] tokio::task::JoinError),
}

/// The node's own disk.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) wal: Arc<Wal>,
    pub(crate) index: Dedup,
    pub(crate) leases: Arc<Leases>,
    pub(crate) holder: Holder,
    nodes: Arc<Nodes>,
    unreleased: Vec<wal::Unreleased>,
}

impl Volume {
    /// Opens it and says so to the other nodes.
    pub(crate) async fn open(
        config: &config::Wal,
        nodes: Arc<Nodes>,
        silos: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
        random: &Arc<dyn Random>,
    ) -> Result<Self, Error> {
        let settings = wal::Settings {
            folder: config.folder.clone(),
            segment_bytes_max: config.segment_bytes_max,
            bytes_max: config.bytes_max,
        };
        let (path, node) = (settings.folder.clone(), config.node.clone());
        let random = Arc::clone(random);
        let taking = tokio::task::spawn_blocking(move || {
            Wal::take(settings, &node, Arc::new(SystemDisk), random)
        });
        let folder = taking.await??;
        let claim = nodes.claim(&config.node, folder.id(), folder.generation());
        let claim = claim.await?;
        let generation = claim.generation();
        let opening = tokio::task::spawn_blocking(move || {
            let (wal, recovery) = folder.open(generation)?;
            Ok::<_, Error>((wal, recovery, Dedup::open(&path, CACHE_BYTES)?))
        });
        let (wal, recovery, index) = opening.await??;
        nodes.confirm(&config.node, claim).await?;
        if recovery.torn_bytes > 0 {
            let bytes = recovery.torn_bytes;
            tracing::warn!(
                bytes,
                "the write-ahead log ended in what was never acknowledged"
            );
        }
        Ok(Self {
            holder: Holder {
                node: config.node.clone(),
                wal: wal.id(),
                generation,
            },
            leases: Arc::new(Leases::new(silos, Arc::clone(&nodes))),
            wal,
            index,
            nodes,
            unreleased: recovery.sources,
        })
    }

    /// Whether the log still is this process's.
    pub(crate) fn standing(&self) -> Standing {
        Standing::new(Arc::clone(&self.nodes), self.holder.clone())
    }

    /// The tenants that have anything in the log.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.unreleased
            .iter()
            .map(|unreleased| &unreleased.source.tenant)
    }

    /// The tenants that have rows of this table in the log.
    pub(crate) fn unreleased(&self, table: TableKind) -> impl Iterator<Item = TenantId> {
        let of_table = self
            .unreleased
            .iter()
            .filter(move |unreleased| *unreleased.source.table == *table.name());
        of_table.map(|unreleased| unreleased.source.tenant.clone())
    }

    /// Closes the log. `left`: how many tables lack something that only the log has.
    pub(crate) async fn close(&self, left: usize) {
        if left == 0 {
            let Holder {
                node,
                wal,
                generation,
            } = &self.holder;
            if let Err(error) = self.nodes.drained(node, *wal, *generation).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "it was not noted that the write-ahead log is empty"
                );
            }
        } else {
            tracing::warn!(
                tables = left,
                "stopping: rows stay in the write-ahead log; the next start puts them into their tables"
            );
        }
        self.wal.close().await;
    }
}
