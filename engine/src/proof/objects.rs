//! The objects of a published log.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use super::{Error, LogName};
use crate::seal::tile::TILE_WIDTH;
use crate::seal::{Hash, TileId};
use crate::table::{self, CHECKPOINT, Seals, StoreFault, Tables, log_folder};

/// What a tile has, in bytes.
const TILE_BYTES: u64 = (TILE_WIDTH * size_of::<Hash>()) as u64;
/// What a checkpoint has at most, in bytes.
const CHECKPOINT_BYTES_MAX: u64 = crate::seal::note::NOTE_BYTES_MAX as u64;

/// The folder of one log.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

/// What lies in the folder of a log, besides its checkpoint.
#[derive(Debug, Default)]
pub(super) struct Listed {
    pub(super) tiles: BTreeSet<TileId>,
    /// The numbers of its seals.
    pub(super) seals: BTreeSet<u64>,
    /// Paths of what does not belong there.
    pub(super) strangers: Vec<String>,
}

impl Objects {
    pub(super) fn new(tables: &Tables, log: &LogName) -> Result<Self, Error> {
        Ok(Self {
            store: tables.store(&log.silo)?,
            folder: log_folder(&log.tenant, &log.stream),
        })
    }

    /// The path of one of its objects below the silo's root.
    pub(super) fn name(&self, path: &str) -> String {
        format!("{}/{path}", self.folder)
    }

    /// What is there.
    pub(super) async fn listed(&self) -> Result<Listed, Error> {
        let listed: Vec<_> = self
            .store
            .list(Some(&self.folder))
            .try_collect()
            .await
            .map_err(unavailable)?;
        let mut found = Listed::default();
        for object in listed {
            let path = object.location.as_ref();
            let below = path
                .strip_prefix(self.folder.as_ref())
                .and_then(|below| below.strip_prefix('/'));
            if let Some(tile) = below.and_then(TileId::parse) {
                found.tiles.insert(tile);
            } else if let Some(seal) = below.and_then(Seals::number) {
                found.seals.insert(seal);
            } else if below != Some(CHECKPOINT) {
                found.strangers.push(path.to_owned());
            }
        }
        Ok(found)
    }

    /// The newest checkpoint, as it stands there.
    pub(super) async fn checkpoint(&self) -> Result<Option<Bytes>, Error> {
        self.read(&self.folder.clone().join(CHECKPOINT), CHECKPOINT_BYTES_MAX)
            .await
    }

    /// Puts a checkpoint in the place of the one before.
    pub(super) async fn put_checkpoint(&self, note: String) -> Result<(), Error> {
        let path = self.folder.clone().join(CHECKPOINT);
        self.put(&path, note.into()).await
    }

    /// The hashes of a tile, if it is there.
    pub(super) async fn tile(&self, tile: TileId) -> Result<Option<Vec<Hash>>, Error> {
        let bytes = self.read(&self.path(tile)?, TILE_BYTES).await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let (hashes, rest) = bytes.as_chunks();
        if hashes.len() != tile.width || !rest.is_empty() {
            return Err(Error::tampered(
                "a tile has another size than its name says",
            ));
        }
        Ok(Some(hashes.to_vec()))
    }

    /// Stores a tile of which no checkpoint says anything yet. What is there already is what an earlier try has left.
    pub(super) async fn put_tile(&self, tile: TileId, hashes: &[Hash]) -> Result<(), Error> {
        let bytes = Bytes::copy_from_slice(hashes.as_flattened());
        self.put(&self.path(tile)?, bytes).await
    }

    /// Removes all partial tiles in the place of a full one. Those that stay do no harm.
    pub(super) async fn discard_partial(&self, tile: TileId) {
        let Ok(path) = self.path(tile) else { return };
        let parts: Vec<_> = path.parts().collect();
        let Some((_, folder)) = parts.split_last() else {
            return;
        };
        let folder = Path::from_iter(folder.iter().cloned());
        let Ok(listed) = self.store.list(Some(&folder)).try_collect::<Vec<_>>().await else {
            return;
        };
        for object in listed {
            #[expect(
                clippy::disallowed_methods,
                reason = "engine::proof removes partial tiles that it has replaced"
            )]
            let deleted = self.store.delete(&object.location).await;
            if deleted.is_err() {
                tracing::debug!("a partial tile stays");
            }
        }
    }

    fn path(&self, tile: TileId) -> Result<Path, Error> {
        let path = Path::parse(tile.path());
        let path = path.map_err(|_| Error::tampered("a tile has no place"))?;
        Ok(Path::from_iter(self.folder.parts().chain(path.parts())))
    }

    async fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Bytes>, Error> {
        match self.store.get(path).await {
            Ok(found) if found.meta.size > bytes_max => {
                Err(Error::tampered("a published object is larger than any"))
            }
            Ok(found) => Ok(Some(found.bytes().await.map_err(unavailable)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn put(&self, path: &Path, bytes: Bytes) -> Result<(), Error> {
        let payload = PutPayload::from_bytes(bytes);
        #[expect(
            clippy::disallowed_methods,
            reason = "engine::proof publishes tiles and checkpoints here"
        )]
        let put = self.store.put(path, payload).await;
        put.map(drop).map_err(unavailable)
    }
}

fn unavailable(error: object_store::Error) -> Error {
    Error::Table(table::Error::Unavailable {
        what: "the store of a published log failed",
        source: StoreFault::from_store(&error),
    })
}
