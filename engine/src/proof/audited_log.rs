//! One published log, compared with the leaves that its table has.

use std::collections::{BTreeMap, BTreeSet};

use catalog::keys::PublicKeys;
use serde_json::Value;

use super::audit::{Audit, AuditedLog, Leaves, and_more};
use super::audited_seals::AuditedSeals;
use super::objects::{Listed, Objects};
use super::{Error, LogName, Logs};
use crate::record::canonical::digest_text;
use crate::seal::{Checkpoint, Edge, Hash, SignedCheckpoint, TileId};
use crate::sequencer;
use crate::table::{CHECKPOINT, TableState, table_of};

/// Holes of a log that are named; of more than that, the number is.
const HOLES_MAX: u64 = 100;

/// What a commit says of a log.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) version: u64,
    pub(super) size: u64,
    /// As it stands in the commit.
    pub(super) note: Option<Value>,
    /// `None` if it says nothing that is sound.
    pub(super) root: Option<Hash>,
}

/// A log, and its checkpoint if that is signed.
pub(super) struct LogAudit {
    name: LogName,
    objects: Objects,
    signed: Option<SignedCheckpoint>,
    keys: PublicKeys,
    /// Checkpoints of it that were kept.
    kept: Vec<Checkpoint>,
    /// The table at the versions of checkpoints: the digests of its files and of its log.
    met: BTreeMap<u64, (Hash, Hash)>,
}

impl LogAudit {
    pub(super) async fn open(
        logs: &Logs,
        name: LogName,
        (keys, kept): (&PublicKeys, &[SignedCheckpoint]),
        audit: &mut Audit,
    ) -> Result<Self, Error> {
        let origin = logs.origin(&name).await?;
        audit.meet(&origin);
        let objects = Objects::new(&logs.tables, &name)?;
        let path = objects.name(CHECKPOINT);
        let mut signed = None;
        match objects.checkpoint().await {
            Ok(None) => audit.find(path, None, "there is no checkpoint"),
            Err(Error::Tampered { what }) => audit.find(path, None, what),
            Err(error) => return Err(error),
            Ok(Some(note)) => match SignedCheckpoint::verify(&note, keys) {
                Err(unsigned) => audit.find(path, None, unsigned.to_string()),
                Ok(found) if found.checkpoint().origin != origin => {
                    audit.find(path, None, "it is the checkpoint of another log");
                }
                Ok(found) => signed = Some(found),
            },
        }
        let kept = kept.iter().map(SignedCheckpoint::checkpoint);
        let kept = kept.filter(|kept| kept.origin == origin);
        Ok(Self {
            name,
            objects,
            signed,
            keys: keys.clone(),
            kept: kept.cloned().collect(),
            met: BTreeMap::new(),
        })
    }

    pub(super) fn folder(&self) -> String {
        self.objects.name("")
    }

    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.signed.as_ref().map(SignedCheckpoint::checkpoint)
    }

    /// Takes note of the table if it is at a version that a checkpoint is about.
    pub(super) fn meet(&mut self, state: &TableState) {
        let mut checkpoints = self.kept.iter().chain(self.checkpoint());
        if checkpoints.any(|checkpoint| checkpoint.table_version == state.version) {
            let digests = (state.file_set_root(), state.log_digest);
            self.met.insert(state.version, digests);
        }
    }

    /// The newest version of the table that a checkpoint signs.
    pub(super) fn signed_version(&self) -> Option<u64> {
        let checkpoints = self.kept.iter().chain(self.checkpoint());
        checkpoints.map(|checkpoint| checkpoint.table_version).max()
    }

    /// Compares leaves, commits, tiles and checkpoint. `named` names the file of a leaf, `entry` that of a commit.
    pub(super) async fn check(
        &mut self,
        audit: &mut Audit,
        logs: &Logs,
        (state, mut leaves): (&TableState, Leaves),
        said: &[Said],
        (named, entry): (
            &(dyn Fn(u32) -> String + Sync),
            &(dyn Fn(u64) -> String + Sync),
        ),
    ) -> Result<(), Error> {
        leaves.sort_unstable_by_key(|(index, ..)| *index);
        let (size, _) = sequencer::said(state, self.name.stream.as_str());
        let whole = contiguous(audit, &self.folder(), size, &leaves, named);
        leaves.truncate(whole);
        let listed = self.objects.listed().await?;
        let log = (&self.name, &self.objects);
        let seals = AuditedSeals::read(logs, log, &self.keys, &listed, audit).await?;
        let mut tree = Rebuilt::default();
        let mut roots = said.iter().peekable();
        let checkpoints = self.kept.iter().chain(self.checkpoint());
        let wanted = checkpoints.map(|checkpoint| checkpoint.size);
        let wanted: BTreeSet<u64> = wanted.chain(seals.ends()).collect();
        for (_, leaf, _) in &leaves {
            tree.push(*leaf);
            if wanted.contains(&tree.edge.size()) {
                tree.roots.insert(tree.edge.size(), tree.root());
            }
            while let Some(said) = roots.next_if(|said| said.size <= tree.edge.size()) {
                let is_it = said.size == tree.edge.size() && said.root == Some(tree.root());
                if !is_it {
                    let reason = format!(
                        "the root it says for {} leaves is not that of the rows",
                        said.size
                    );
                    audit.find(entry(said.version), said.size.checked_sub(1), reason);
                }
            }
        }
        let mut beyond = roots.filter(|said| said.size > 0);
        if let Some(said) = beyond.next() {
            // One hole is one finding, and not one for every commit since: others have to have room beside it.
            let reason = format!(
                "it says {} leaves, and the rows end before; so do {} later ones",
                said.size,
                beyond.count()
            );
            audit.find(entry(said.version), Some(whole as u64), reason);
        }
        for kept in self.kept.iter().filter(|kept| kept.size > 0) {
            if tree.roots.get(&kept.size) != Some(&kept.root) {
                let reason = "the log is not what a checkpoint that was kept says of it: a record was removed, changed or moved";
                audit.find(self.folder(), kept.size.checked_sub(1), reason);
            }
        }
        self.check_checkpoint(audit, &tree);
        self.check_entries(audit);
        let signed = self.checkpoint().map_or(0, |checkpoint| checkpoint.size);
        // Where somebody has written since, there may be more than was read here.
        let (tenant, silo) = (&self.name.tenant, &self.name.silo);
        let next = (table_of(&self.name.stream), state.version + 1);
        let has_grown = logs.tables.has_entry(tenant, silo, next).await?;
        // Nor can what lies past a hole be compared: it may be as it was.
        let has_more = has_grown || (whole as u64) < size;
        let root = |size| tree.roots.get(&size).copied();
        let found = (state, leaves.as_slice(), signed);
        seals.check(audit, &self.objects, found, (has_more, &root));
        self.check_tiles(audit, (&tree, has_more), listed).await?;
        audit.logs.push(AuditedLog {
            stream: self.name.stream.clone(),
            leaves: tree.edge.size(),
            signed,
            sealed: seals.end(),
            root: digest_text(&tree.root()),
            checkpoint: self.signed.as_ref().map(SignedCheckpoint::to_text),
        });
        Ok(())
    }

    fn check_checkpoint(&self, audit: &mut Audit, tree: &Rebuilt) {
        let Some(checkpoint) = self.checkpoint() else {
            return;
        };
        let path = self.objects.name(CHECKPOINT);
        let leaf = checkpoint.size.checked_sub(1);
        if checkpoint.size > tree.edge.size() {
            let reason =
                "it signs leaves that the table does not have: the table is older, or lost rows";
            audit.find(path.clone(), Some(tree.edge.size()), reason);
        } else if tree.roots.get(&checkpoint.size) != Some(&checkpoint.root) {
            let reason = "the root it signs is not that of the rows";
            audit.find(path.clone(), leaf, reason);
        }
    }

    /// Compares what checkpoints sign of the table's entries and files, for which no row has to be read.
    pub(super) fn check_entries(&self, audit: &mut Audit) {
        for kept in self.kept.iter().filter(|kept| kept.size > 0) {
            if self.met.get(&kept.table_version) != Some(&digests(kept)) {
                let reason = "the table is not what a checkpoint that was kept says of it: entries or files of then were changed";
                audit.find(self.folder(), kept.size.checked_sub(1), reason);
            }
        }
        let Some(checkpoint) = self.checkpoint() else {
            return;
        };
        let path = self.objects.name(CHECKPOINT);
        match self.met.get(&checkpoint.table_version) {
            None => {
                let reason = "it is about a version that the table does not have";
                audit.find(path, None, reason);
            }
            Some((files, log)) => {
                if *files != checkpoint.file_set_root {
                    let reason = "the data files of its version are not those it signs";
                    audit.find(path.clone(), None, reason);
                }
                if *log != checkpoint.table_log_digest {
                    let reason = "entries of the table's log were changed, removed or moved since it was signed";
                    audit.find(path, None, reason);
                }
            }
        }
    }

    async fn check_tiles(
        &self,
        audit: &mut Audit,
        (tree, has_more): (&Rebuilt, bool),
        listed: Listed,
    ) -> Result<(), Error> {
        let signed = self.checkpoint().map_or(0, |checkpoint| checkpoint.size);
        let there = listed.tiles;
        for stranger in listed.strangers {
            audit.find(stranger, None, "it is no object of this log");
        }
        // One that grew since is there as what it has become.
        let is_there = |tile: &TileId| there.range(*tile..=tile.full()).next().is_some();
        for tile in TileId::all(signed.min(tree.edge.size())).filter(|tile| !is_there(tile)) {
            let path = self.objects.name(&tile.path());
            audit.find(path, first_leaf(tile), "the tile is missing");
        }
        for tile in there.iter().copied() {
            let path = self.objects.name(&tile.path());
            let stored = match self.objects.tile(tile).await {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                Err(Error::Tampered { what }) => {
                    audit.find(path, first_leaf(tile), what);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let made = tree.tile(tile);
            let differs = match made {
                None if has_more => continue,
                None => Some(0),
                Some(made) => (0..tile.width).find(|at| made.get(*at) != stored.get(*at)),
            };
            if let Some(at) = differs {
                let width = 1_u64.checked_shl(8 * tile.level).unwrap_or(u64::MAX);
                let leaf = first_leaf(tile).map(|first| first + at as u64 * width);
                audit.find(path, leaf, "the tile is not that of the rows");
            }
        }
        Ok(())
    }
}

fn digests(checkpoint: &Checkpoint) -> (Hash, Hash) {
    (checkpoint.file_set_root, checkpoint.table_log_digest)
}

/// The tree over the rows: its edge, all its full tiles, and its roots at the sizes of checkpoints.
#[derive(Default)]
struct Rebuilt {
    edge: Edge,
    full: BTreeMap<TileId, Vec<Hash>>,
    roots: BTreeMap<u64, Hash>,
}

impl Rebuilt {
    fn push(&mut self, leaf: Hash) {
        let mut full = Vec::new();
        self.edge.push(leaf, &mut full);
        self.full.extend(full);
    }

    fn root(&self) -> Hash {
        self.edge.frontier().root()
    }

    /// The hashes of a tile, at least as many as it has.
    fn tile(&self, tile: TileId) -> Option<&[Hash]> {
        if let Some(hashes) = self.full.get(&tile.full()) {
            return hashes.get(..tile.width);
        }
        let mut partial = self.edge.tiles();
        let (_, hashes) =
            partial.find(|(id, _)| (id.level, id.index) == (tile.level, tile.index))?;
        hashes.get(..tile.width)
    }
}

/// The number of the first leaf under a tile.
fn first_leaf(tile: TileId) -> Option<u64> {
    let shift = 8 * (tile.level + 1);
    tile.index.checked_shl(shift)
}

/// How many leaves there are from the first on, without a hole; what is missing, doubled or beyond the end is named.
fn contiguous(
    audit: &mut Audit,
    folder: &str,
    size: u64,
    leaves: &Leaves,
    named: &(dyn Fn(u32) -> String + Sync),
) -> usize {
    let mut expected = 0;
    let mut whole = None;
    let mut holes = 0;
    // By file: the first leaf, and how many.
    let mut twice: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut uncounted = twice.clone();
    for (at, (index, _, file)) in leaves.iter().enumerate() {
        if *index < expected {
            twice.entry(*file).or_insert((*index, 0)).1 += 1;
            whole.get_or_insert(at);
        } else {
            if *index > expected {
                holes += 1;
                if holes <= HOLES_MAX {
                    let reason = missing(expected, index - 1);
                    audit.find(folder.to_owned(), Some(expected), reason);
                }
                whole.get_or_insert(at);
            }
            expected = index.saturating_add(1);
        }
        if *index >= size {
            uncounted.entry(*file).or_insert((*index, 0)).1 += 1;
        }
    }
    if holes > HOLES_MAX {
        let reason = format!("rows are missing at {} more places", holes - HOLES_MAX);
        audit.find(folder.to_owned(), None, reason);
    }
    for (reason, rows) in [
        ("the leaf is in the table twice", twice),
        ("the log does not count the leaf", uncounted),
    ] {
        for (file, (first, count)) in rows {
            audit.find(named(file), Some(first), and_more(reason, count));
        }
    }
    if expected < size {
        let reason = missing(expected, size - 1);
        audit.find(folder.to_owned(), Some(expected), reason);
    }
    whole.unwrap_or(leaves.len())
}

fn missing(first: u64, last: u64) -> String {
    format!("the rows of leaves {first} to {last} are missing")
}
