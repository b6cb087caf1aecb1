//! The write-ahead log as lanes use it.

use std::sync::Arc;

use catalog::ids::{SiloId, TenantId};
use catalog::keys::{EpochKey, KeyRing};
use catalog::node::Standing;
use serde_json::{Value, json};

use crate::record::canonical::{digest_text, read_digest};
use crate::table::{TableKind, TableState};
use crate::wal::{self, AppendError, Frame, Payload, Source, Wal};

use super::LaneError;
use super::pending::Mark;
use super::tree::Notes;

/// The log of this node.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    wal: Arc<Wal>,
    standing: Standing,
    /// Where it ended when it was opened.
    opened_at: u64,
    app_id: Arc<str>,
}

impl Journal {
    pub(super) fn new(wal: Arc<Wal>, standing: Standing) -> Self {
        Self {
            opened_at: wal.last_position(),
            app_id: format!("th.wal:{}", wal.id()).into(),
            wal,
            standing,
        }
    }

    /// Refuses when the log is no longer this process's to bring into tables: a copy of it was started since, and what
    /// both wrote under one position would be taken for the same.
    pub(super) async fn check_standing(&self) -> Result<(), LaneError> {
        match self.standing.holds().await {
            Ok(true) => Ok(()),
            Ok(false) => Err(LaneError::Elsewhere),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "it cannot be seen whether this node is the one that is registered"
                );
                Err(LaneError::Unavailable)
            }
        }
    }

    pub(super) fn opened_at(&self) -> u64 {
        self.opened_at
    }

    /// What a table takes rows from.
    pub(super) fn source(tenant: &TenantId, silo: &SiloId, table: TableKind) -> Source {
        Source {
            tenant: tenant.clone(),
            silo: silo.clone(),
            table: table.name().into(),
            purpose: table.purpose(),
        }
    }

    /// The frames that the log has not been told to forget.
    pub(super) async fn recover(
        &self,
        source: &Source,
        keys: &KeyRing,
    ) -> Result<Vec<Frame>, LaneError> {
        self.wal.recover(source, keys).await.map_err(|error| {
            tracing::error!(tenant = %source.tenant, table = &*source.table, error = &error as &dyn std::error::Error,
                "the write-ahead log cannot be read back");
            match error {
                wal::Error::KeyUnavailable(_) => LaneError::KeyUnavailable,
                _ => LaneError::Unavailable,
            }
        })
    }

    /// Makes a payload durable.
    pub(super) async fn append(
        &self,
        source: &Source,
        key: &Arc<EpochKey>,
        payload: Payload,
    ) -> Result<Mark, LaneError> {
        match self.wal.append(source, key, payload).await {
            Ok(appended) => Ok(Mark {
                position: appended.position,
                digest: appended.digest,
            }),
            Err(error) => {
                tracing::error!(tenant = %source.tenant, table = &*source.table, error = &error as &dyn std::error::Error,
                    "the write-ahead log takes nothing");
                Err(match error {
                    AppendError::Full => LaneError::Full,
                    AppendError::TooLarge | AppendError::Failed | AppendError::Stopped => {
                        LaneError::Unavailable
                    }
                })
            }
        }
    }

    /// Lets go of what is in the table.
    pub(super) fn release(&self, source: &Source, position: u64) {
        self.wal.release(source, position);
    }

    /// How far this log is in the table, as the table says.
    pub(super) fn in_table(&self, state: &TableState) -> Option<InTable> {
        let position = u64::try_from(state.txn(&self.app_id)?).ok();
        let noted = state.info(&self.app_id);
        let digest = noted
            .filter(|noted| noted["position"].as_u64() == position)
            .and_then(|noted| read_digest(noted["digest"].as_str()?));
        Some(InTable { position, digest })
    }

    /// Notes with a commit how far it brings the table.
    pub(super) fn note(&self, mark: &Mark, notes: &mut Notes) {
        let position = i64::try_from(mark.position).unwrap_or(i64::MAX);
        notes.txns.push((self.app_id.to_string(), position));
        let value: Value = json!({"position": mark.position, "digest": digest_text(&mark.digest)});
        notes.info.push((self.app_id.to_string(), value));
    }
}

/// What a table says of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InTable {
    /// The last position in it; `None` if what it says is no position.
    pub(super) position: Option<u64>,
    /// The log's digest there; `None` if it says another position's, or nothing.
    pub(super) digest: Option<[u8; 32]>,
}

impl InTable {
    /// What a table says once this is in it.
    pub(super) fn at(mark: &Mark) -> Self {
        Self {
            position: Some(mark.position),
            digest: Some(mark.digest),
        }
    }
}
