//! Sealing what a log's segments have: which of them have ended, and what of them no seal has yet.
//!
//! Where segments begin stands in the commits. A segment that has ended in a commit is sealed before a checkpoint says so
//! much of the log: whoever has the checkpoint can ask for the seal. One that is open is sealed some time after its hour.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Range;
use std::time::Duration;

use catalog::clock::Timestamp;
use futures::{StreamExt, TryStreamExt, stream};

use super::objects::Objects;
use super::{Error, LogName, Logs};
use crate::seal::segment::{end_of, message};
use crate::seal::tile::{FullTile, TILE_WIDTH};
use crate::seal::{Edge, Hash, OpenSegment, Owner, Segment, SegmentSeal, TileId, segment_of};
use crate::table::{Seals, TableState};

/// How long after its hour a segment is sealed that no other follows: rows of it may wait to be committed.
const GRACE: Duration = Duration::from_secs(60);
/// How much later yet, at most: not all logs at once.
const SPREAD_S: u64 = 45;
/// Leaves of an open segment after which it is sealed as it is: a process that begins has to read what is not sealed.
const LEAVES_MAX: u64 = 1 << 22;
/// Tiles that are read at once, and at a time.
const READS_AT_ONCE: usize = 16;
const TILES_AT_A_TIME: u64 = 1_024;

/// A log that leaves are appended to: its tiles and its segments.
pub(super) struct Growing {
    pub(super) edge: Edge,
    /// Tiles that have become full.
    pub(super) full: Vec<FullTile>,
    pub(super) sealing: Option<Sealing>,
    /// Segments that begin further on.
    begun: VecDeque<(u64, String)>,
    /// Where a seal says more than the edge has: how far it goes, and the root it says.
    ahead: Option<(u64, Hash)>,
}

/// What of a log no seal has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sealing {
    open: OpenSegment,
    /// Segments that have ended, the oldest first.
    ended: VecDeque<Segment>,
    /// Since when there are leaves in the open one, for this process.
    since: Option<Timestamp>,
    /// When the log was last sealed because it was time.
    sealed: Option<Timestamp>,
}

impl Growing {
    fn new(edge: Edge, sealing: Option<Sealing>, state: &TableState, stream: &str) -> Self {
        let from = edge.size();
        let begun = state.segments_from(stream, from);
        Self {
            edge,
            full: Vec::new(),
            sealing,
            begun: begun.map(|(first, id)| (first, id.to_owned())).collect(),
            ahead: None,
        }
    }

    /// A log that is published up to this edge.
    pub(super) async fn of(
        logs: &Logs,
        (log, objects): (&LogName, &Objects),
        state: &TableState,
        edge: Edge,
        sealing: Option<Sealing>,
    ) -> Result<Self, Error> {
        let stream = log.stream.as_str();
        if sealing.is_some() || state.segments_from(stream, 0).next().is_none() {
            return Ok(Self::new(edge, sealing, state, stream));
        }
        let sealed = newest(logs, log).await?;
        let begin = match &sealed {
            Some(sealed) => sealed.segment.end(),
            None => {
                let first = state.segments_from(stream, 0).next();
                first.map_or(edge.size(), |(first, _)| first)
            }
        };
        let open = sealed.as_ref();
        let open = open.map(|sealed| Sealing::new(OpenSegment::after(&sealed.segment)));
        let head = sealed.map(|sealed| sealed.segment.tree);
        if begin > edge.size() {
            let mut growing = Self::new(edge, open, state, stream);
            growing.ahead = head.map(|head| (begin, head));
            if head.is_some() {
                growing.begun.retain(|(first, _)| *first >= begin);
            }
            return Ok(growing);
        }
        // What is published and not sealed is read from its tiles; the edge proves them.
        let size = edge.size();
        let before = edge_at(objects, &edge, begin).await?;
        if head.is_some_and(|head| before.frontier().root() != head) {
            return Err(Error::tampered("the tiles do not make the root of a seal"));
        }
        let mut growing = Self::new(before, open, state, stream);
        let mut next = begin;
        while next < size {
            let tiles = next / TILE_WIDTH as u64 + TILES_AT_A_TIME;
            let end = size.min(tiles.saturating_mul(TILE_WIDTH as u64));
            let leaves = leaves(objects, &edge, next..end).await?;
            growing = growing.grown(leaves).await?;
            growing.full.clear();
            next = end;
        }
        if growing.edge != edge {
            return Err(Error::tampered("the tiles of a log do not fit together"));
        }
        Ok(growing)
    }

    /// With these leaves.
    pub(super) async fn grown(mut self, leaves: Vec<Hash>) -> Result<Self, Error> {
        let grow = tokio::task::spawn_blocking(move || {
            let grown = leaves.into_iter().all(|leaf| self.push(leaf));
            grown.then_some(self)
        });
        let grown = grow.await.map_err(|_| Error::tampered("hashing stopped"))?;
        grown.ok_or(Error::tampered("a seal says another root than its table"))
    }

    /// What it is with all leaves of its table.
    pub(super) fn whole(mut self) -> Result<(Edge, Option<Sealing>), Error> {
        if !self.reached() {
            return Err(Error::tampered("a seal says another root than its table"));
        }
        match self.ahead {
            Some(_) => Err(Error::tampered("the table is older than its seals")),
            None => Ok((self.edge, self.sealing)),
        }
    }

    /// Whether it is what the newest seal says, where it has come so far just now.
    fn reached(&mut self) -> bool {
        let size = self.edge.size();
        let head = self.ahead.take_if(|(end, _)| *end == size);
        head.is_none_or(|(_, head)| self.edge.frontier().root() == head)
    }

    fn push(&mut self, leaf: Hash) -> bool {
        let at = self.edge.size();
        if !self.reached() {
            return false;
        }
        if let Some((_, id)) = self.begun.pop_front_if(|(first, _)| *first == at) {
            match &mut self.sealing {
                None => {
                    self.sealing = Some(Sealing::new(OpenSegment::first(id, at)));
                }
                Some(Sealing {
                    open, ended, since, ..
                }) => {
                    ended.extend(open.begin_other(id, self.edge.frontier().root()));
                    *since = None;
                }
            }
        }
        if self.ahead.is_none()
            && let Some(sealing) = &mut self.sealing
        {
            sealing.open.push(leaf);
        }
        self.edge.push(leaf, &mut self.full);
        true
    }
}

impl Sealing {
    fn new(open: OpenSegment) -> Self {
        Self {
            open,
            ended: VecDeque::new(),
            since: None,
            sealed: None,
        }
    }

    /// When the open segment is to be sealed though no other has begun: when its hour is over, or the one in which this
    /// process first saw a leaf of it, should a clock have been wrong that named it.
    pub(super) fn due(&mut self, log: &LogName, now: Timestamp) -> Option<Timestamp> {
        if self.open.is_empty() {
            return None;
        }
        if self.open.len() >= LEAVES_MAX {
            return Some(now);
        }
        // A clock that was put right again was wrong then.
        let since = self.since.map_or(now, |since| since.min(now));
        self.since = Some(since);
        let ends = [end_of(self.open.id()), end_of(&segment_of(since))];
        let end = ends.into_iter().flatten().min()?;
        let mut hasher = DefaultHasher::new();
        log.hash(&mut hasher);
        let spread = Duration::from_secs(hasher.finish() % SPREAD_S);
        let due = end.plus(GRACE).plus(spread);
        // Rows that come late yet are gathered.
        Some(
            due.max(
                self.sealed
                    .map_or(due, |sealed| sealed.min(now).plus(GRACE)),
            ),
        )
    }

    /// Ends the open segment here, at the end of the log.
    pub(super) fn end_here(&mut self, tree: Hash, now: Timestamp) {
        let ended = self.open.end_here(tree);
        self.ended.push_back(ended);
        self.since = None;
        self.sealed = Some(now);
    }
}

impl Logs {
    /// Seals the segments of a log that have ended.
    pub(super) async fn seal(&self, log: &LogName, sealing: &mut Sealing) -> Result<(), Error> {
        let seals = self.tables.seals((&log.tenant, &log.silo), &log.stream)?;
        while let Some(segment) = sealing.ended.front() {
            self.seal_one(log, &seals, segment).await?;
            sealing.ended.pop_front();
        }
        Ok(())
    }

    async fn seal_one(&self, log: &LogName, seals: &Seals, segment: &Segment) -> Result<(), Error> {
        let owner = self.owner(log).await?;
        let now = self.clock.now();
        let message = message(&owner, segment, now);
        let (key, _, signature) = self.keys.sign(&log.tenant, &log.silo, &message).await?;
        let seal = SegmentSeal::new(owner, segment.clone(), now, (key, signature));
        if seals.create(segment.number, seal.to_json()).await? {
            return Ok(());
        }
        // Another process was first, or this one did not hear that it was done.
        let there = seal_at(self, log, seals, segment.number).await?;
        if there.is_some_and(|there| there.segment == *segment) {
            Ok(())
        } else {
            // It ended the segment elsewhere, which is as good.
            Err(Error::Outrun)
        }
    }

    /// What seals say of a log's owner.
    pub(super) async fn owner(&self, log: &LogName) -> Result<Owner, Error> {
        Ok(Owner {
            tenant: log.tenant.clone(),
            silo: log.silo.clone(),
            stream: log.stream.clone(),
            origin: self.origin(log).await?,
        })
    }
}

/// The newest seal of a log.
pub(super) async fn newest(logs: &Logs, log: &LogName) -> Result<Option<SegmentSeal>, Error> {
    let seals = logs.tables.seals((&log.tenant, &log.silo), &log.stream)?;
    match seals.count_from(0).await?.checked_sub(1) {
        Some(number) => seal_at(logs, log, &seals, number).await,
        None => Ok(None),
    }
}

async fn seal_at(
    logs: &Logs,
    log: &LogName,
    seals: &Seals,
    number: u64,
) -> Result<Option<SegmentSeal>, Error> {
    let Some(json) = seals.read(number).await? else {
        return Ok(None);
    };
    let seal = SegmentSeal::from_json(&json);
    let seal = seal.map_err(|_| Error::tampered("a seal is none"))?;
    let is_signed = seal.verify(&logs.public_keys(log).await?).is_ok();
    let is_of_log = seal.owner == logs.owner(log).await? && seal.segment.number == number;
    if is_signed && is_of_log {
        Ok(Some(seal))
    } else {
        Err(Error::tampered("a seal is not the tenant's, or another's"))
    }
}

/// The edge that a log had when it was smaller.
async fn edge_at(objects: &Objects, edge: &Edge, size: u64) -> Result<Edge, Error> {
    let mut tiles = Vec::new();
    for tile in TileId::partial(size) {
        let mut hashes = tile_of(objects, edge, tile).await?;
        hashes.truncate(tile.width);
        tiles.push(hashes);
    }
    Edge::of(size, tiles).ok_or(Error::tampered("a tile is missing"))
}

/// The leaves of these numbers, from the tiles.
async fn leaves(objects: &Objects, edge: &Edge, numbers: Range<u64>) -> Result<Vec<Hash>, Error> {
    let width = TILE_WIDTH as u64;
    let indices = numbers.start / width..numbers.end.div_ceil(width);
    let reading: Vec<_> = indices
        .filter_map(|index| TileId::in_log(0, index, edge.size()))
        .map(|tile| tile_of(objects, edge, tile))
        .collect();
    let tiles: Vec<_> = stream::iter(reading)
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let skipped = usize::try_from(numbers.start % width).unwrap_or(0);
    let count = usize::try_from(numbers.end - numbers.start).unwrap_or(0);
    let leaves = tiles.into_iter().flatten().skip(skipped).take(count);
    Ok(leaves.collect())
}

/// The hashes of a tile as far as the log has it now: a stored one if it is full, and otherwise the edge's own.
async fn tile_of(objects: &Objects, edge: &Edge, tile: TileId) -> Result<Vec<Hash>, Error> {
    let mut own = edge.tiles();
    let own = own.find(|(id, _)| (id.level, id.index) == (tile.level, tile.index));
    if let Some((_, hashes)) = own {
        return Ok(hashes.to_vec());
    }
    let stored = objects.tile(tile.full()).await?;
    stored.ok_or(Error::tampered("a tile is missing"))
}
