//! Published logs: brought up to what their tables say, tiles first, then the checkpoint.
//!
//! What is kept of a log in memory is its right edge, a few tiles. A process that does not have it takes it from the
//! partial tiles of the newest checkpoint, and the leaves since then from whoever committed them, or from the rows. The
//! edge must give the roots that checkpoint and table say: so full tiles are never made again, and none that were changed
//! are built upon.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyRing, PublicKeys, TenantSecret};
use catalog::schema::Schemas;
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::objects::Objects;
use super::{Error, LogName};
use crate::seal::{Checkpoint, Edge, Origin, SignedCheckpoint, TileId};
use crate::sequencer::{self, Committed, Tree};
use crate::table::{Table, TableState, Tables, table_of};

/// Logs whose edge is at hand.
const LOGS_MAX: u64 = 4_096;
/// Leaves that are read from the rows at a time.
const LEAVES_AT_ONCE: i64 = 1 << 20;

/// The logs of all tenants.
pub struct Logs {
    pub(super) tables: Arc<Tables>,
    keys: Arc<KeyRing>,
    pub(super) schemas: Arc<Schemas>,
    published: Cache<LogName, Arc<Mutex<Published>>>,
}

/// A log as far as it is published.
#[derive(Default)]
pub(super) struct Published {
    /// Its newest tiles; `None` if nobody has looked yet.
    pub(super) edge: Option<Edge>,
    /// None before the first leaf.
    pub(super) checkpoint: Option<Arc<SignedCheckpoint>>,
}

impl Logs {
    /// The logs of these tables, signed with the keys of this ring.
    pub fn new(tables: Arc<Tables>, keys: Arc<KeyRing>, schemas: Arc<Schemas>) -> Self {
        Self {
            tables,
            keys,
            schemas,
            published: Cache::new(LOGS_MAX),
        }
    }

    /// Brings a log up to what its table says, and gives its newest checkpoint; `None` if it has no leaves. `news` are
    /// leaves that were committed since the last time, as far as they are at hand.
    ///
    /// # Errors
    /// If table, keys or store are out of reach; and if what is stored does not fit together, which is an alarm.
    pub async fn publish(
        &self,
        log: &LogName,
        news: VecDeque<Committed>,
    ) -> Result<Option<Arc<SignedCheckpoint>>, Error> {
        let published = self.published(log);
        let mut published = published.lock().await;
        self.advance(log, &mut published, news).await?;
        Ok(published.checkpoint.clone())
    }

    /// The streams of a tenant that have leaves, in records and evidence.
    ///
    /// # Errors
    /// If a table cannot be read.
    pub async fn of_tenant(&self, tenant: &TenantId, silo: &SiloId) -> Result<Vec<LogName>, Error> {
        use crate::table::TableKind::{Evidence, Records};
        let mut logs = Vec::new();
        for kind in [Records, Evidence] {
            let state = self.tables.table(tenant, silo, kind).await?.state().await?;
            let streams = sequencer::streams(&state);
            let named = streams.filter_map(|stream| catalog::ids::StreamName::parse(stream).ok());
            logs.extend(named.map(|stream| LogName {
                tenant: tenant.clone(),
                silo: silo.clone(),
                stream,
            }));
        }
        Ok(logs)
    }

    /// The public halves of the keys that sign a tenant's logs.
    ///
    /// # Errors
    /// If the key service does not give them.
    pub async fn public_keys(&self, log: &LogName) -> Result<PublicKeys, Error> {
        Ok(self.keys.public_keys(&log.tenant, &log.silo).await?)
    }

    /// The name that a log has outside: it tells nothing of whose it is.
    ///
    /// # Errors
    /// If the tenant's keys are out of reach.
    pub async fn origin(&self, log: &LogName) -> Result<Origin, Error> {
        let secret = self
            .keys
            .tenant_secret(&log.tenant, &log.silo, TenantSecret::Logs)
            .await?;
        let id = secret.derive(&format!("th-log {}", log.stream));
        let mut origin = [0; 16];
        for (to, from) in origin.iter_mut().zip(id.expose()) {
            *to = *from;
        }
        Ok(Origin::new(origin))
    }

    pub(super) fn published(&self, log: &LogName) -> Arc<Mutex<Published>> {
        self.published
            .get_with_by_ref(log, || Arc::new(Mutex::default()))
    }

    pub(super) async fn advance(
        &self,
        log: &LogName,
        published: &mut Published,
        mut news: VecDeque<Committed>,
    ) -> Result<(), Error> {
        let kind = table_of(&log.stream);
        let table = self.tables.table(&log.tenant, &log.silo, kind).await?;
        let state = table.state().await?;
        let tree = tree_of(&state, log)?;
        let size = tree.frontier().size();
        let objects = Objects::new(&self.tables, log)?;
        if size == 0 {
            return Ok(());
        }
        let mut edge = match published.edge.take() {
            Some(edge) => edge,
            None => self.load(log, published, &objects, &tree).await?,
        };
        let is_behind = published.checkpoint.is_none() || edge.size() < size;
        let before = edge.size();
        while edge.size() < size {
            let leaves = next_leaves(&table, &state, &edge, size, &mut news, log).await?;
            let mut full = Vec::new();
            let grow = tokio::task::spawn_blocking(move || {
                leaves
                    .into_iter()
                    .for_each(|leaf| edge.push(leaf, &mut full));
                (edge, full)
            });
            let (grown, full) = grow.await.map_err(|_| Error::tampered("hashing stopped"))?;
            edge = grown;
            for (tile, hashes) in &full {
                objects.put_tile(*tile, hashes).await?;
            }
        }
        if edge.frontier() != *tree.frontier() {
            return Err(Error::tampered(
                "the tiles do not make the root of the table",
            ));
        }
        if is_behind {
            for (tile, hashes) in edge.tiles() {
                objects.put_tile(tile, hashes).await?;
            }
            let signed = self.signed(log, &state, &tree).await?;
            objects.put_checkpoint(signed.to_text()).await?;
            let superseded = published.checkpoint.replace(Arc::new(signed));
            let before = superseded.map_or(before, |signed| signed.checkpoint().size);
            for tile in TileId::partial(before) {
                if !TileId::partial(size).any(|kept| kept == tile) {
                    objects.discard(tile).await;
                }
            }
        }
        published.edge = Some(edge);
        Ok(())
    }

    /// The edge of the log as its newest checkpoint has it.
    async fn load(
        &self,
        log: &LogName,
        published: &mut Published,
        objects: &Objects,
        tree: &Tree,
    ) -> Result<Edge, Error> {
        let Some(note) = objects.checkpoint().await? else {
            return Ok(Edge::default());
        };
        let keys = self.public_keys(log).await?;
        let signed = SignedCheckpoint::verify(&note, &keys)?;
        let checkpoint = signed.checkpoint();
        if checkpoint.origin != self.origin(log).await? {
            return Err(Error::tampered("a checkpoint is another log's"));
        }
        if checkpoint.size > tree.frontier().size() {
            return Err(Error::tampered("the table is older than its checkpoint"));
        }
        let mut tiles = Vec::new();
        for tile in TileId::partial(checkpoint.size) {
            let hashes = match objects.tile(tile).await? {
                Some(hashes) => Some(hashes),
                // Another process published meanwhile, and the tile has become full.
                None => objects.tile(tile.full()).await?.map(|mut hashes| {
                    hashes.truncate(tile.width);
                    hashes
                }),
            };
            tiles.push(hashes.ok_or(Error::tampered("a tile is missing"))?);
        }
        let edge = Edge::of(checkpoint.size, tiles);
        let edge = edge.ok_or(Error::tampered("a tile is missing"))?;
        if edge.frontier().root() != checkpoint.root {
            return Err(Error::tampered(
                "the tiles do not make the root of their checkpoint",
            ));
        }
        published.checkpoint = Some(Arc::new(signed));
        Ok(edge)
    }

    async fn signed(
        &self,
        log: &LogName,
        state: &Arc<TableState>,
        tree: &Tree,
    ) -> Result<SignedCheckpoint, Error> {
        let files = Arc::clone(state);
        let files = tokio::task::spawn_blocking(move || files.file_set_root());
        let checkpoint = Checkpoint {
            origin: self.origin(log).await?,
            size: tree.frontier().size(),
            root: tree.frontier().root(),
            table_version: state.version,
            table_log_digest: state.log_digest,
            file_set_root: files
                .await
                .map_err(|_| Error::tampered("hashing stopped"))?,
        };
        let text = checkpoint.to_text();
        let (id, key, signature) = self
            .keys
            .sign(&log.tenant, &log.silo, text.as_bytes())
            .await?;
        Ok(SignedCheckpoint::new(checkpoint, (id, &key), signature)?)
    }
}

/// What the table says of the log.
fn tree_of(state: &TableState, log: &LogName) -> Result<Tree, Error> {
    Tree::of(state, log.stream.as_str())
        .map_err(|_| Error::tampered("a table does not say the tree of a log"))
}

/// Leaves that follow the edge: those at hand, or some of the rows.
async fn next_leaves(
    table: &Table,
    state: &Arc<TableState>,
    edge: &Edge,
    size: u64,
    news: &mut VecDeque<Committed>,
    log: &LogName,
) -> Result<Vec<crate::seal::Hash>, Error> {
    while let Some(next) = news.pop_front() {
        if next.first == edge.size() && next.first + next.leaves.len() as u64 <= size {
            return Ok(next.leaves);
        }
    }
    let first = i64::try_from(edge.size()).unwrap_or(i64::MAX);
    let end = i64::try_from(size).unwrap_or(i64::MAX);
    let end = end.min(first.saturating_add(LEAVES_AT_ONCE));
    Ok(sequencer::leaves(table, state, log.stream.as_str(), first..end).await?)
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").finish_non_exhaustive()
    }
}
