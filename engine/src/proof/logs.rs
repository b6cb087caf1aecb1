//! Published logs: brought up to what their tables say, tiles first, then the checkpoint.
//!
//! What is kept of a log in memory is its right edge, a few tiles. A process that does not have it takes it from the
//! partial tiles of the newest checkpoint, and the leaves since then from whoever committed them, or from the rows. The
//! edge must give the roots that checkpoint and table say: so full tiles are never made again, and none that were changed
//! are built upon.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catalog::clock::{Clock, Timestamp};
use catalog::keys::{KeyRing, PublicKeys, TenantSecret};
use catalog::schema::Schemas;
use catalog::tenant::Registry;
use futures::{StreamExt, TryStreamExt, stream};
use moka::sync::Cache;
use tokio::sync::Mutex;

use super::objects::Objects;
use super::sealing::{Growing, Sealing};
use super::witnessing::{Asked, Witness};
use super::{Error, LogName};
use crate::seal::{Checkpoint, Edge, Hash, Origin, SignedCheckpoint, TileId};
use crate::sequencer::{self, Committed, Tree};
use crate::table::{Table, TableState, Tables, table_of};

/// Logs whose edge is at hand.
const LOGS_MAX: u64 = 4_096;
/// Tiles of a log that are stored at once.
const PUTS_AT_ONCE: usize = 8;
/// When witnesses are asked again that did not cosign.
const WITNESS_AGAIN: Duration = Duration::from_secs(30);
/// Leaves that are read from the rows at a time.
const LEAVES_AT_ONCE: i64 = 1 << 20;

/// The logs of all tenants.
pub struct Logs {
    pub(super) tables: Arc<Tables>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) schemas: Arc<Schemas>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) registry: Arc<Registry>,
    pub(super) witnesses: Vec<Asked>,
    published: Cache<LogName, Known>,
}

/// A log as it is published.
#[derive(Clone)]
pub(super) struct Published {
    /// Its newest tiles.
    pub(super) edge: Edge,
    pub(super) checkpoint: Arc<SignedCheckpoint>,
    /// Of what no seal is stored.
    sealing: Option<Sealing>,
}

/// What is known of a published log; nothing, if nobody has looked yet.
pub(super) type Known = Arc<Mutex<Option<Published>>>;

impl Logs {
    /// The logs of these tables, signed with the keys of this ring, and shown to these witnesses.
    pub fn new(
        tables: Arc<Tables>,
        (registry, keys, schemas): (Arc<Registry>, Arc<KeyRing>, Arc<Schemas>),
        clock: Arc<dyn Clock>,
        witnesses: Vec<Arc<dyn Witness>>,
    ) -> Self {
        Self {
            tables,
            keys,
            schemas,
            clock,
            registry,
            witnesses: witnesses.into_iter().map(Asked::new).collect(),
            published: Cache::new(LOGS_MAX),
        }
    }

    /// Brings a log up to what its table says, and seals its last segment if that is over. `news` are leaves that were
    /// committed since the last time, as far as they are at hand. Returns when to come again.
    ///
    /// # Errors
    /// If table, keys or store are out of reach; and if what is stored does not fit together, which is an alarm.
    pub(super) async fn publish(
        &self,
        log: &LogName,
        news: VecDeque<Committed>,
    ) -> Result<Option<Timestamp>, Error> {
        let known = self.known(log);
        let mut held = known.lock().await;
        self.advance(log, &mut held, news).await?;
        let due = self.seal_what_is_over(log, &mut held).await?;
        let published = held.clone();
        drop(held);
        // Witnesses may take their time: nobody else is kept waiting.
        let is_left = match published {
            Some(published) => self.witness(log, &known, published).await?,
            None => false,
        };
        let again = is_left.then(|| self.clock.now().plus(WITNESS_AGAIN));
        Ok(due.into_iter().chain(again).min())
    }

    /// Seals the last segment if its hour is over; says when it will be.
    async fn seal_what_is_over(
        &self,
        log: &LogName,
        known: &mut Option<Published>,
    ) -> Result<Option<Timestamp>, Error> {
        let Some(Published {
            edge,
            sealing: Some(sealing),
            ..
        }) = known
        else {
            return Ok(None);
        };
        let now = self.clock.now();
        let due = sealing.due(log, now);
        if due.is_none_or(|due| due > now) {
            return Ok(due);
        }
        sealing.end_here(edge.frontier().root(), now);
        match self.seal(log, sealing).await {
            Ok(()) => Ok(None),
            // Another process may have sealed, with a newer key too: what it did is looked at the next time.
            Err(Error::Outrun | Error::Tampered { .. }) => {
                *known = None;
                Ok(Some(now))
            }
            Err(error) => {
                *known = None;
                Err(error)
            }
        }
    }

    /// A log brought up to its table; or as it was, if table, store or keys do not answer.
    pub(super) async fn newest(&self, log: &LogName) -> Result<Option<Published>, Error> {
        if !self.has_leaves(log).await? {
            return Ok(None);
        }
        let known = self.known(log);
        let mut known = known.lock().await;
        match self.advance(log, &mut known, VecDeque::new()).await {
            Err(error) if known.is_none() || matches!(error, Error::Tampered { .. }) => {
                return Err(error);
            }
            _ => {}
        }
        Ok(known.clone())
    }

    /// What is at hand of a log, without a look at anything.
    pub(super) async fn at_hand(&self, log: &LogName) -> Option<Published> {
        let known = self.published.get(log)?;
        known.lock().await.clone()
    }

    /// Whether there is such a log: callers name streams as they like.
    async fn has_leaves(&self, log: &LogName) -> Result<bool, Error> {
        let kind = table_of(&log.stream);
        let table = self.tables.table(&log.tenant, &log.silo, kind).await?;
        let state = table.state().await?;
        Ok(sequencer::streams(&state).any(|stream| stream == log.stream.as_str()))
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

    fn known(&self, log: &LogName) -> Known {
        self.published
            .get_with_by_ref(log, || Arc::new(Mutex::default()))
    }

    /// Brings what is known of a log up to its table. What does not fit is looked at once more: another process may have
    /// published, sealed or committed between two looks, or the tenant have a newer key than is known here.
    async fn advance(
        &self,
        log: &LogName,
        known: &mut Option<Published>,
        mut news: VecDeque<Committed>,
    ) -> Result<(), Error> {
        match self.try_to_advance(log, known, &mut news).await {
            Err(Error::Tampered { .. } | Error::Outrun) => {
                let before = known.take();
                // Reading a tenant is what makes its keys known.
                let _ = self.registry.get(&log.tenant).await;
                let again = self.try_to_advance(log, known, &mut news).await;
                if known.is_none() && !matches!(again, Ok(()) | Err(Error::Tampered { .. })) {
                    *known = before;
                }
                again
            }
            advanced => advanced,
        }
    }

    async fn try_to_advance(
        &self,
        log: &LogName,
        known: &mut Option<Published>,
        news: &mut VecDeque<Committed>,
    ) -> Result<(), Error> {
        let objects = Objects::new(&self.tables, log)?;
        let before = match known {
            Some(published) => Some(published.clone()),
            None => self.load(log, &objects).await?,
        };
        // The table is looked at after its checkpoint, which is never ahead of it.
        let kind = table_of(&log.stream);
        let table = self.tables.table(&log.tenant, &log.silo, kind).await?;
        let state = table.state().await?;
        let tree = tree_of(&state, log)?;
        let size = tree.frontier().size();
        if size == 0 && before.is_none() {
            return Ok(());
        }
        let (edge, sealing) = match &before {
            Some(published) => (published.edge.clone(), published.sealing.clone()),
            None => (unpublished(&objects, size).await?, None),
        };
        if edge.size() > size {
            return Err(Error::tampered("the table is older than its checkpoint"));
        }
        let grown = edge.size() < size;
        let mut growing = Growing::of(self, (log, &objects), &state, edge, sealing).await?;
        while growing.edge.size() < size {
            let leaves = next_leaves(&table, &state, &growing.edge, size, news, log).await?;
            growing = growing.grown(leaves).await?;
            let full = std::mem::take(&mut growing.full);
            let puts: Vec<_> = full
                .iter()
                .map(|(tile, hashes)| objects.put_tile(*tile, hashes))
                .collect();
            stream::iter(puts)
                .buffer_unordered(PUTS_AT_ONCE)
                .try_collect::<()>()
                .await?;
        }
        let (edge, mut sealing) = growing.whole()?;
        if edge.frontier() != *tree.frontier() {
            return Err(Error::tampered(
                "the tiles do not make the root of the table",
            ));
        }
        if let Some(sealing) = &mut sealing {
            self.seal(log, sealing).await?;
        }
        let checkpoint = match before {
            Some(published) if !grown => published.checkpoint,
            before => {
                for (tile, hashes) in edge.tiles() {
                    objects.put_tile(tile, hashes).await?;
                }
                let signed = Arc::new(self.signed(log, &state, &tree).await?);
                let keys = self.public_keys(log).await?;
                replace((log, &objects), before.as_ref(), &signed, &keys).await?;
                signed
            }
        };
        *known = Some(Published {
            edge,
            checkpoint,
            sealing,
        });
        Ok(())
    }

    /// The log as its newest checkpoint has it, if there is one.
    async fn load(&self, log: &LogName, objects: &Objects) -> Result<Option<Published>, Error> {
        let Some(note) = objects.checkpoint().await? else {
            return Ok(None);
        };
        let keys = self.public_keys(log).await?;
        let signed = SignedCheckpoint::verify(&note, &keys)?;
        let checkpoint = signed.checkpoint();
        if checkpoint.origin != self.origin(log).await? {
            return Err(Error::tampered("a checkpoint is another log's"));
        }
        let missing = || Error::tampered("a tile is missing");
        let mut tiles = Vec::new();
        for tile in TileId::partial(checkpoint.size) {
            let hashes = match objects.tile(tile).await? {
                Some(hashes) => Some(hashes),
                // It has become full meanwhile.
                None => objects.tile(tile.full()).await?.map(|mut hashes| {
                    hashes.truncate(tile.width);
                    hashes
                }),
            };
            tiles.push(hashes.ok_or_else(missing)?);
        }
        let edge = Edge::of(checkpoint.size, tiles).ok_or_else(missing)?;
        if edge.frontier().root() != checkpoint.root {
            return Err(Error::tampered(
                "the tiles do not make the root of their checkpoint",
            ));
        }
        Ok(Some(Published {
            edge,
            checkpoint: Arc::new(signed),
            sealing: None,
        }))
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

/// Puts a checkpoint in the place of the one before, unless another process has put a newer one there meanwhile. Then
/// partial tiles go in whose place there is a full one.
async fn replace(
    (log, objects): (&LogName, &Objects),
    before: Option<&Published>,
    signed: &SignedCheckpoint,
    keys: &PublicKeys,
) -> Result<(), Error> {
    let size = signed.checkpoint().size;
    let there = objects.checkpoint().await?;
    if there.is_none() && before.is_some() {
        let (tenant, stream) = (&log.tenant, &log.stream);
        tracing::error!(%tenant, %stream, "a checkpoint was taken away: it is published anew");
    }
    let is_newer = match there.map(|note| SignedCheckpoint::verify(&note, keys)) {
        Some(Ok(there)) => there.checkpoint().size >= size,
        Some(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(tenant = %log.tenant, stream = %log.stream, error, "a checkpoint was changed: it is published anew");
            false
        }
        None => false,
    };
    if !is_newer {
        objects.put_checkpoint(signed.to_text()).await?;
    }
    let partial = before.map(|published| TileId::partial(published.edge.size()));
    for tile in partial.into_iter().flatten() {
        let now = TileId::in_log(tile.level, tile.index, size);
        if now.is_some_and(|now| now.is_full()) {
            objects.discard_partial(tile).await;
        }
    }
    Ok(())
}

/// The edge of a log that has no checkpoint. Its tiles cannot go further than the table, unless both the checkpoint and
/// the end of the table were taken away.
async fn unpublished(objects: &Objects, size: u64) -> Result<Edge, Error> {
    let tiles = objects.listed().await?.tiles;
    let goes_further = |tile: &TileId| {
        TileId::in_log(tile.level, tile.index, size).is_none_or(|there| there.width < tile.width)
    };
    if tiles.iter().any(goes_further) {
        return Err(Error::tampered(
            "a log has tiles beyond its table, and no checkpoint",
        ));
    }
    Ok(Edge::default())
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
) -> Result<Vec<Hash>, Error> {
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
