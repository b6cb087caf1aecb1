//! The tree cut into tiles, as C2SP tlog-tiles (<https://c2sp.org/tlog-tiles>) lays them out: what a log stores, and which
//! of it a proof needs.
//!
//! A tile of level L has up to 256 hashes, of subtrees of 256^L leaves each: the leaves in level 0, and in the levels
//! above the roots of the full tiles below. Its bytes are the hashes one after the other. A full tile never changes; the
//! last one of a level is **partial** until it has 256.
//!
//! ```text
//! tile/<L>/<N>        a full tile: N in groups of three digits, all but the last with an x: tile/0/x001/x234/067
//! tile/<L>/<N>.p/<W>  a partial one of W hashes, 1 to 255
//! ```
//! A log of n leaves has in level L n / 256^L hashes. Nodes between the levels are made from a tile when they are needed.

use super::merkle::{self, Frontier, Hash, half};

/// Hashes of a full tile.
pub const TILE_WIDTH: usize = 256;
/// Levels of the tree that one level of tiles spans.
const TILE_HEIGHT: u32 = 8;
/// Levels that a log of 2^63 leaves has.
const LEVELS_MAX: u32 = 8;

/// One tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileId {
    /// From 0, the leaves.
    pub level: u32,
    /// From 0, the oldest.
    pub index: u64,
    /// How many hashes it has, 1 to 256.
    pub width: usize,
}

impl TileId {
    /// Whether nothing can be added to it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The full tile in its place.
    #[must_use]
    pub fn full(&self) -> Self {
        Self {
            width: TILE_WIDTH,
            ..*self
        }
    }

    /// Its path below the log, `tile/…`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut groups = vec![format!("{:03}", self.index % 1_000)];
        let mut rest = self.index / 1_000;
        while rest > 0 {
            groups.push(format!("x{:03}", rest % 1_000));
            rest /= 1_000;
        }
        groups.reverse();
        let path = format!("tile/{}/{}", self.level, groups.join("/"));
        if self.is_full() {
            path
        } else {
            format!("{path}.p/{}", self.width)
        }
    }

    /// The tile of a path, if it is the one spelling of one.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("tile/")?;
        let (level, rest) = rest.split_once('/')?;
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok()?),
            None => (rest, TILE_WIDTH),
        };
        let mut index: u64 = 0;
        for group in number.split('/') {
            let digits = group.strip_prefix('x').unwrap_or(group);
            let is_three = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_three.then_some(())?;
            index = index
                .checked_mul(1_000)?
                .checked_add(digits.parse().ok()?)?;
        }
        let tile = Self {
            level: level.parse().ok()?,
            index,
            width,
        };
        let is_one = tile.level < LEVELS_MAX && (1..=TILE_WIDTH).contains(&width);
        (is_one && tile.path() == path).then_some(tile)
    }

    /// The tile of this place in a log of `size` leaves, if the log has it.
    #[must_use]
    pub fn in_log(level: u32, index: u64, size: u64) -> Option<Self> {
        let hashes = size.checked_shr(TILE_HEIGHT * level)?;
        let before = index.checked_mul(TILE_WIDTH as u64)?;
        let width = hashes.checked_sub(before)?.min(TILE_WIDTH as u64);
        let width = usize::try_from(width).ok().filter(|width| *width > 0)?;
        Some(Self {
            level,
            index,
            width,
        })
    }

    /// The partial tiles of a log of this size, the leaves' first.
    pub fn partial(size: u64) -> impl Iterator<Item = Self> {
        (0..LEVELS_MAX).filter_map(move |level| {
            let hashes = size >> (TILE_HEIGHT * level);
            Self::in_log(level, hashes / TILE_WIDTH as u64, size)
        })
    }

    /// All tiles of a log of this size, level by level.
    pub fn all(size: u64) -> impl Iterator<Item = Self> {
        (0..LEVELS_MAX).flat_map(move |level| {
            let hashes = size >> (TILE_HEIGHT * level);
            (0..hashes.div_ceil(TILE_WIDTH as u64))
                .filter_map(move |index| Self::in_log(level, index, size))
        })
    }
}

/// The right edge of a log: of each level the hashes of the tile that is not full. All that appending needs, and all
/// that a log of tiles has to give anew when it has grown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
}

/// A tile that has become full, and its hashes.
pub type FullTile = (TileId, Vec<Hash>);

impl Edge {
    /// The edge of a log of this size, from its partial tiles ([`TileId::partial`]), in their order.
    #[must_use]
    pub fn of(size: u64, tiles: Vec<Vec<Hash>>) -> Option<Self> {
        let ids: Vec<_> = TileId::partial(size).collect();
        let fit = ids.len() == tiles.len()
            && ids
                .iter()
                .zip(&tiles)
                .all(|(id, tile)| id.width == tile.len());
        fit.then_some(())?;
        let mut levels = Vec::new();
        for (id, tile) in ids.into_iter().zip(tiles) {
            levels.resize(id.level as usize, Vec::new());
            levels.push(tile);
        }
        Some(Self { size, levels })
    }

    /// How many leaves the log has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf; what becomes full by it is added to `full`.
    pub fn push(&mut self, leaf: Hash, full: &mut Vec<FullTile>) {
        self.size += 1;
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let tile = &mut self.levels[level];
            tile.push(hash);
            if tile.len() < TILE_WIDTH {
                return;
            }
            let tile = std::mem::take(tile);
            hash = merkle::perfect(&tile);
            // Levels are few.
            let height = u32::try_from(level).unwrap_or(u32::MAX);
            let index = (self.size >> (TILE_HEIGHT * (height + 1))) - 1;
            let id = TileId {
                level: height,
                index,
                width: TILE_WIDTH,
            };
            full.push((id, tile));
        }
    }

    /// The partial tiles and their hashes.
    pub fn tiles(&self) -> impl Iterator<Item = (TileId, &[Hash])> {
        TileId::partial(self.size).filter_map(|id| {
            let tile = self.levels.get(id.level as usize)?;
            Some((id, tile.as_slice()))
        })
    }

    /// The same log as the tables note it.
    #[must_use]
    pub fn frontier(&self) -> Frontier {
        let mut roots = Vec::new();
        for tile in self.levels.iter().rev() {
            let mut rest = tile.as_slice();
            for bit in (0..TILE_HEIGHT).rev() {
                let width = 1 << bit;
                if tile.len() & width != 0 {
                    let (subtree, after) = rest.split_at(width);
                    roots.push(merkle::perfect(subtree));
                    rest = after;
                }
            }
        }
        Frontier::of_roots(self.size, roots)
    }
}

/// A perfect subtree: 2^height leaves, the first of them index × 2^height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    height: u32,
    index: u64,
}

/// One hash of a proof: that of the tree over these subtrees, which stand side by side.
pub type Part = Vec<Node>;

impl Node {
    /// The subtree of this height and place among those of its height.
    #[must_use]
    pub fn new(height: u32, index: u64) -> Self {
        Self { height, index }
    }

    /// The tile of a log of `size` leaves that the hash can be made from.
    #[must_use]
    pub fn tile(&self, size: u64) -> Option<TileId> {
        let first = self.index << (self.height % TILE_HEIGHT);
        TileId::in_log(self.height / TILE_HEIGHT, first / TILE_WIDTH as u64, size)
    }

    /// The hash, from the hashes of that tile.
    #[must_use]
    pub fn hash(&self, tile: &[Hash]) -> Option<Hash> {
        let width = 1 << (self.height % TILE_HEIGHT);
        let first = (self.index << (self.height % TILE_HEIGHT)) % TILE_WIDTH as u64;
        let first = usize::try_from(first).ok()?;
        Some(merkle::perfect(tile.get(first..first + width)?))
    }
}

/// What the audit path of a leaf is made of (RFC 6962, section 2.1.1), from the leaf upwards; `None` if there is no such
/// leaf.
#[must_use]
pub fn inclusion(index: u64, size: u64) -> Option<Vec<Part>> {
    (index < size).then_some(())?;
    let mut path = Vec::new();
    let (mut begin, mut end) = (0, size);
    while end - begin > 1 {
        let middle = begin + half(end - begin);
        if index < middle {
            path.push(subtrees(middle, end));
            end = middle;
        } else {
            path.push(subtrees(begin, middle));
            begin = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// What the proof is made of that a log of `new` leaves begins with the one of `old` (RFC 6962, section 2.1.2); empty if
/// they are one, or `old` is empty. `None` if `new` is the smaller one.
#[must_use]
pub fn consistency(old: u64, new: u64) -> Option<Vec<Part>> {
    (old <= new).then_some(())?;
    let mut path = Vec::new();
    if old == 0 || old == new {
        return Some(path);
    }
    let (mut begin, mut end) = (0, new);
    while end != old {
        let middle = begin + half(end - begin);
        if old <= middle {
            path.push(subtrees(middle, end));
            end = middle;
        } else {
            path.push(subtrees(begin, middle));
            begin = middle;
        }
    }
    // Whoever checks has the root of the old log; a part of it they have not.
    if begin > 0 {
        path.push(subtrees(begin, end));
    }
    path.reverse();
    Some(path)
}

/// What the root of a log of `size` leaves is made of.
#[must_use]
pub fn whole(size: u64) -> Part {
    subtrees(0, size)
}

/// The hash over subtrees that stand side by side.
#[must_use]
pub fn joined(hashes: &[Hash]) -> Option<Hash> {
    let mut hashes = hashes.iter().rev();
    let last = *hashes.next()?;
    Some(hashes.fold(last, |right, left| merkle::node(left, &right)))
}

/// The leaves from `begin` to `end` as perfect subtrees, the largest first; such a range begins where one can.
fn subtrees(mut begin: u64, end: u64) -> Part {
    let mut nodes = Vec::new();
    while begin < end {
        let height = (end - begin).ilog2();
        nodes.push(Node {
            height,
            index: begin >> height,
        });
        begin += 1 << height;
    }
    nodes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::super::merkle::{Group, verify_consistency, verify_path};
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count)
            .map(|number| Sha256::digest(number.to_le_bytes()).into())
            .collect()
    }

    /// Every tile of a log, the partial ones too.
    fn log(size: u64) -> (Edge, BTreeMap<TileId, Vec<Hash>>) {
        let (mut edge, mut full) = (Edge::default(), Vec::new());
        for leaf in leaves(size) {
            edge.push(leaf, &mut full);
        }
        let mut tiles: BTreeMap<_, _> = full.into_iter().collect();
        tiles.extend(edge.tiles().map(|(id, tile)| (id, tile.to_vec())));
        (edge, tiles)
    }

    fn hashes(path: &[Part], size: u64, tiles: &BTreeMap<TileId, Vec<Hash>>) -> Vec<Hash> {
        let of = |node: &Node| node.hash(&tiles[&node.tile(size).unwrap()]).unwrap();
        path.iter()
            .map(|part| joined(&part.iter().map(of).collect::<Vec<_>>()).unwrap())
            .collect()
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        let tile = |level, index, width| TileId {
            level,
            index,
            width,
        };
        for (tile, path) in [
            (tile(0, 0, 256), "tile/0/000"),
            (tile(0, 1_234_067, 256), "tile/0/x001/x234/067"),
            (tile(1, 999, 1), "tile/1/999.p/1"),
            (tile(3, 1_000, 255), "tile/3/x001/000.p/255"),
        ] {
            assert_eq!(tile.path(), path);
            assert_eq!(TileId::parse(path), Some(tile));
        }
        for path in [
            "",
            "tile",
            "tile/0",
            "tile/0/0",
            "tile/00/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/8/000",
            "tile/+0/000",
            "tile/0/+00",
            "tile/0/000/",
            "tile/0/../000",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(TileId::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_log_of_every_size_is_that_of_the_frontier() {
        let (mut edge, mut full, mut frontier) = (Edge::default(), Vec::new(), Frontier::default());
        for (leaf, size) in leaves(70_000).into_iter().zip(1..) {
            edge.push(leaf, &mut full);
            frontier.push(leaf);
            if size < 600 || size % 997 == 0 || size > 65_530 {
                assert_eq!(edge.frontier(), frontier, "{size}");
                let tiles = edge.tiles().map(|(_, tile)| tile.to_vec()).collect();
                assert_eq!(Edge::of(size, tiles), Some(edge.clone()));
            }
        }
        assert_eq!(full.len(), 70_000 / 256 + 1);
        assert_eq!(
            TileId::all(70_000).collect::<Vec<_>>().len(),
            full.len() + edge.tiles().count()
        );
        assert!(TileId::all(70_000).filter(TileId::is_full).eq({
            let mut ids: Vec<_> = full.iter().map(|(id, _)| *id).collect();
            ids.sort_unstable();
            ids
        }));
        assert_eq!(Edge::of(3, vec![leaves(2)]), None);
        assert_eq!(Edge::of(3, vec![]), None);
    }

    #[test]
    fn the_paths_of_small_logs_are_those_of_the_trees() {
        let all = leaves(40);
        for size in 1..=40 {
            let (_, tiles) = log(size);
            let count = usize::try_from(size).unwrap();
            let group = Group::new(all[..count].to_vec());
            for index in 0..size {
                let path = hashes(&inclusion(index, size).unwrap(), size, &tiles);
                assert_eq!(Some(path), group.path(usize::try_from(index).unwrap()));
            }
            assert_eq!(inclusion(size, size), None);
            for old in 0..=size {
                let before = Group::new(all[..usize::try_from(old).unwrap()].to_vec()).root();
                let path = hashes(&consistency(old, size).unwrap(), size, &tiles);
                assert!(verify_consistency(
                    (old, &before),
                    (size, &group.root()),
                    &path
                ));
                let mut other = before;
                other[0] ^= 1;
                assert!(!verify_consistency(
                    (old, &other),
                    (size, &group.root()),
                    &path
                ));
            }
            assert_eq!(consistency(size + 1, size), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_proof_of_a_large_log_holds_and_none_for_another(size in 1_u64..70_000, at: u64, old: u64) {
            let (edge, tiles) = log(size);
            let root = edge.frontier().root();
            let index = at % size;
            let path = hashes(&inclusion(index, size).unwrap(), size, &tiles);
            let all = leaves(size);
            let leaf = all[usize::try_from(index).unwrap()];
            prop_assert!(verify_path(&leaf, index, size, &path, &root));
            prop_assert!(!verify_path(&leaf, (index + 1) % size, size, &path, &root) || size == 1);
            let old = old % (size + 1);
            let (before, _) = log(old);
            let before = before.frontier().root();
            let path = hashes(&consistency(old, size).unwrap(), size, &tiles);
            prop_assert!(verify_consistency((old, &before), (size, &root), &path));
            prop_assert!(old == 0 || old == size || !verify_consistency((old, &root), (size, &root), &path));
        }

        #[test]
        fn a_path_that_parses_is_the_one_spelling(path in "tile/[0-9]{1,2}/(x?[0-9]{3}/){0,2}[0-9]{3}(\\.p/[0-9]{1,3})?") {
            if let Some(tile) = TileId::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
        }
    }
}
