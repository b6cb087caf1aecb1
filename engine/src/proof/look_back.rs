//! What an earlier process has left: logs that are behind their tables, and segments that are over and not sealed.

use std::collections::BTreeSet;

use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::tenant;

use super::objects::Objects;
use super::sealing::newest;
use super::{Error, LogName, Logs};
use crate::seal::Checkpoint;
use crate::sequencer::{self, Growth};
use crate::table::{TableKind, table_of};

impl Logs {
    /// Tells of all logs of which a commit may not be published, or a segment not sealed.
    ///
    /// # Errors
    /// If the tenants cannot be listed. What is out of reach of one tenant is left to whoever opens its logs next.
    pub(super) async fn look_back(&self, grown: &Growth) -> Result<(), tenant::Error> {
        for record in self.registry.list().await? {
            let (tenant, silo) = (&record.id, &record.silo);
            for kind in [TableKind::Records, TableKind::Evidence] {
                match self.behind(tenant, silo, kind).await {
                    Ok(logs) => logs.into_iter().for_each(|log| grown.tell(log)),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(%tenant, error, "logs are looked at when they are used");
                    }
                }
            }
        }
        Ok(())
    }

    /// The logs of a table that may be behind it.
    async fn behind(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        kind: TableKind,
    ) -> Result<Vec<LogName>, Error> {
        let log = |stream| LogName {
            tenant: tenant.clone(),
            silo: silo.clone(),
            stream,
        };
        let (mut versions, mut unsealed) = (BTreeSet::new(), Vec::new());
        for stream in self.tables.published_streams(tenant, silo).await? {
            let log = log(stream);
            if table_of(&log.stream) != kind {
                continue;
            }
            let note = Objects::new(&self.tables, &log)?.checkpoint().await?;
            let checkpoint = note.and_then(|note| Checkpoint::unverified(&note).ok());
            let sealed = newest(self, &log).await?;
            let sealed = sealed.map_or(0, |seal| seal.segment.end());
            if checkpoint
                .as_ref()
                .is_none_or(|checkpoint| checkpoint.size > sealed)
            {
                unsealed.push(log);
            }
            versions.insert(checkpoint.map(|checkpoint| checkpoint.table_version));
        }
        let next = versions.last().copied().flatten();
        let next = next.map_or(0, |version| version + 1);
        // Of two logs the one that is behind may have leaves that the other's version does not tell of.
        if versions.len() < 2 && !self.tables.has_entry(tenant, silo, (kind, next)).await? {
            return Ok(unsealed);
        }
        let table = self.tables.table(tenant, silo, kind).await?;
        let state = table.state().await?;
        let streams = sequencer::streams(&state);
        let streams = streams.filter_map(|stream| StreamName::parse(stream).ok());
        Ok(streams.map(log).collect())
    }
}
