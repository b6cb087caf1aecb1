//! Proofs from published tiles. None leaves that does not hold: a tile that was changed shows here.
//!
//! That a log has only grown is `{"format": "trailhouse-consistency-1", "origin": "<of both checkpoints>", "from": n,
//! "to": m, "path": [hash, …]}`, n and m being the sizes and path that of RFC 9162, section 2.1.4, as unpadded base64url.
//! A larger log is at a newer version of the table; of one version there is one checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::logs::Published;
use super::objects::Objects;
use super::record::Hashes;
use super::{Error, LogName, Logs};
use crate::seal::{
    Checkpoint, Hash, SignedCheckpoint, TileId, tile, verify_consistency, verify_path,
};

/// What a consistency proof says of itself.
const FORMAT: &str = "trailhouse-consistency-1";

/// That a log of one size is the beginning of the same log at another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ConsistencyProof {
    format: String,
    origin: String,
    /// Leaves of the older log.
    pub from: u64,
    /// Leaves of the newer one.
    pub to: u64,
    path: Hashes,
}

impl ConsistencyProof {
    /// Reads a proof.
    ///
    /// # Errors
    /// What is wrong with it, as the reader of JSON says it.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Whether it proves that the newer checkpoint's log begins with the older one's.
    #[must_use]
    pub fn holds(&self, old: &Checkpoint, new: &Checkpoint) -> bool {
        let is_about = self.format == FORMAT
            && self.origin == old.origin.as_str()
            && old.origin == new.origin
            && (self.from, self.to) == (old.size, new.size);
        let path = self.path.hashes();
        is_about
            && verify_consistency((old.size, &old.root), (new.size, &new.root), path)
            && follows(old, new)
    }
}

/// Of one version of a table there is one checkpoint. A log that did not grow may have been signed at several versions, by
/// several processes, and these in any order.
fn follows(old: &Checkpoint, new: &Checkpoint) -> bool {
    if old.size == new.size {
        old == new || old.table_version != new.table_version
    } else {
        old.table_version < new.table_version
    }
}

/// A log to prove something of, at its newest checkpoint.
pub(super) struct Prover {
    objects: Objects,
    checkpoint: Arc<SignedCheckpoint>,
    /// Tiles that were read or are at hand.
    tiles: BTreeMap<TileId, Vec<Hash>>,
}

impl Logs {
    /// The newest checkpoint of a log, brought up to its table; `None` where there is no leaf.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn checkpoint(&self, log: &LogName) -> Result<Option<Arc<SignedCheckpoint>>, Error> {
        let newest = self.newest(log).await?;
        Ok(newest.map(|published| published.checkpoint))
    }

    /// The bytes of a tile; `None` where there is none of that width yet.
    ///
    /// # Errors
    /// As [`Self::publish`], and if the store fails.
    pub async fn tile(&self, log: &LogName, tile: TileId) -> Result<Option<Bytes>, Error> {
        let covers = |published: &Published| {
            let size = published.checkpoint.checkpoint().size;
            TileId::in_log(tile.level, tile.index, size).filter(|there| there.width >= tile.width)
        };
        // A tile that is there does not change.
        let at_hand = self
            .at_hand(log)
            .await
            .filter(|published| covers(published).is_some());
        let published = match at_hand {
            Some(published) => Some(published),
            None => self.newest(log).await?,
        };
        let there = published.and_then(|published| Some((covers(&published)?, published)));
        let Some((there, published)) = there else {
            return Ok(None);
        };
        let mut prover = self.prover_of(log, published)?;
        let hashes = prover.tile(there).await?;
        let hashes = hashes.get(..tile.width).unwrap_or_default();
        Ok(Some(Bytes::copy_from_slice(hashes.as_flattened())))
    }

    /// That the log of `from` leaves is the beginning of that of `to`; `None` if the log has not that many, or `from` is
    /// the larger.
    ///
    /// # Errors
    /// As [`Self::publish`], and if tiles do not make the log that is signed.
    pub async fn consistency(
        &self,
        log: &LogName,
        from: u64,
        to: u64,
    ) -> Result<Option<ConsistencyProof>, Error> {
        let Some(published) = self.newest(log).await? else {
            return Ok(None);
        };
        let origin = published.checkpoint.checkpoint().origin.to_string();
        let path = self.path(log, published, (from, to)).await?;
        Ok(path.map(|path| ConsistencyProof {
            format: FORMAT.to_owned(),
            origin,
            from,
            to,
            path: path.into(),
        }))
    }

    /// The hashes of that proof, for what is published.
    pub(super) async fn path(
        &self,
        log: &LogName,
        published: Published,
        (from, to): (u64, u64),
    ) -> Result<Option<Vec<Hash>>, Error> {
        let mut prover = self.prover_of(log, published)?;
        if to > prover.checkpoint.checkpoint().size {
            return Ok(None);
        }
        let Some(parts) = tile::consistency(from, to) else {
            return Ok(None);
        };
        let path = prover.hashes(&parts).await?;
        let (old, new) = (prover.root(from).await?, prover.root(to).await?);
        if !verify_consistency((from, &old), (to, &new), &path) {
            return Err(Error::tampered("the tiles of a log contradict each other"));
        }
        Ok(Some(path))
    }

    /// The newest checkpoint, and what it takes to prove something of it.
    pub(super) async fn prover(&self, log: &LogName) -> Result<Option<Prover>, Error> {
        let published = self.newest(log).await?;
        published
            .map(|published| self.prover_of(log, published))
            .transpose()
    }

    fn prover_of(&self, log: &LogName, published: Published) -> Result<Prover, Error> {
        let tiles = published.edge.tiles();
        Ok(Prover {
            objects: Objects::new(&self.tables, log)?,
            tiles: tiles
                .map(|(tile, hashes)| (tile, hashes.to_vec()))
                .collect(),
            checkpoint: published.checkpoint,
        })
    }
}

impl Prover {
    pub(super) fn checkpoint(&self) -> &SignedCheckpoint {
        &self.checkpoint
    }

    /// The audit path of a leaf, which leads to the signed root.
    pub(super) async fn inclusion(&mut self, index: u64, leaf: &Hash) -> Result<Vec<Hash>, Error> {
        let (size, root) = {
            let checkpoint = self.checkpoint.checkpoint();
            (checkpoint.size, checkpoint.root)
        };
        let parts = tile::inclusion(index, size);
        let parts = parts.ok_or(Error::tampered("a record is beyond the end of its log"))?;
        let path = self.hashes(&parts).await?;
        if !verify_path(leaf, index, size, &path, &root) {
            return Err(Error::tampered("a record is not the one in the log"));
        }
        Ok(path)
    }

    /// Lets go of the tiles that were read, if they are more than so many.
    pub(super) fn keep_tiles(&mut self, tiles_max: usize) {
        if self.tiles.len() > tiles_max {
            self.tiles.retain(|tile, _| !tile.is_full());
        }
    }

    /// The root of the log when it had `size` leaves.
    async fn root(&mut self, size: u64) -> Result<Hash, Error> {
        if size == 0 {
            return Ok(crate::seal::Frontier::default().root());
        }
        let hashes = self.hashes(&[tile::whole(size)]).await?;
        hashes
            .first()
            .copied()
            .ok_or(Error::tampered("a log has no root"))
    }

    pub(super) async fn hashes(&mut self, parts: &[tile::Part]) -> Result<Vec<Hash>, Error> {
        let missing = || Error::tampered("a proof needs what no tile has");
        let size = self.checkpoint.checkpoint().size;
        let mut hashes = Vec::with_capacity(parts.len());
        for part in parts {
            let mut of_part = Vec::with_capacity(part.len());
            for node in part {
                let tile = self.tile(node.tile(size).ok_or_else(missing)?).await?;
                of_part.push(node.hash(tile).ok_or_else(missing)?);
            }
            hashes.push(tile::joined(&of_part).ok_or_else(missing)?);
        }
        Ok(hashes)
    }

    async fn tile(&mut self, tile: TileId) -> Result<&[Hash], Error> {
        if !self.tiles.contains_key(&tile) {
            let hashes = self.objects.tile(tile).await?;
            let hashes = hashes.ok_or(Error::tampered("a tile is missing"))?;
            self.tiles.insert(tile, hashes);
        }
        Ok(self.tiles.get(&tile).map(Vec::as_slice).unwrap_or_default())
    }
}
