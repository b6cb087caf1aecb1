//! The Merkle tree of RFC 6962, section 2: what a log of leaves is at a size, in one hash.
//!
//! A leaf's hash begins with 0x00 ([`super::leaf`]), a node's with 0x01: `node = SHA-256(0x01 ‖ left ‖ right)`. The root of
//! no leaves is SHA-256 of nothing; that of one leaf is the leaf; that of n > 1 leaves is the node over the first k and the
//! rest, k being the largest power of two below n.
//!
//! # Frontier
//! A log of n leaves is a row of perfect trees, one for each bit that is set in n, the largest first. Their roots are all
//! that is needed to append and to say the root of the log. The text form is the unpadded base64url of the roots, one after
//! the other; with the size beside it, a text of any other length is refused.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// A leaf, a node or a root.
pub type Hash = [u8; 32];

/// Leaves that a log has at most: the log of the table counts them in an `i64`.
const LEAVES_MAX: u64 = i64::MAX.unsigned_abs();
const NODE: [u8; 1] = [1];

/// A text that is no frontier of a log of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored frontier is not that of a log of this size")]
pub struct MalformedFrontier;

/// A whole log, as far as appending to it goes.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// One for each bit of the size, the largest first.
    roots: Vec<Hash>,
}

impl Frontier {
    /// The frontier of a log of `size` leaves from its text.
    ///
    /// # Errors
    /// If the text is not base64url, or holds another number of roots than a log of that size has.
    pub fn from_text(size: u64, text: &str) -> Result<Self, MalformedFrontier> {
        let roots_len = size.count_ones() as usize;
        // Longer texts are not even decoded.
        if size > LEAVES_MAX || text.len() > (roots_len * size_of::<Hash>()).div_ceil(3) * 4 {
            return Err(MalformedFrontier);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| MalformedFrontier)?;
        let (roots, rest) = bytes.as_chunks::<{ size_of::<Hash>() }>();
        if roots.len() != roots_len || !rest.is_empty() {
            return Err(MalformedFrontier);
        }
        Ok(Self {
            size,
            roots: roots.to_vec(),
        })
    }

    /// The frontier of these roots, as many as bits are set in the size, the largest tree's first.
    pub(super) fn of_roots(size: u64, roots: Vec<Hash>) -> Self {
        debug_assert_eq!(roots.len(), size.count_ones() as usize);
        Self { size, roots }
    }

    /// The text of the roots; the size is not in it.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.roots.as_flattened())
    }

    /// How many leaves the log has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends one leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut tree = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                tree = node(&left, &tree);
            }
        }
        self.roots.push(tree);
        self.size += 1;
    }

    /// The root of the log.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else {
            return Sha256::digest([]).into();
        };
        roots.fold(*last, |right, left| node(left, &right))
    }
}

impl Extend<Hash> for Frontier {
    fn extend<I: IntoIterator<Item = Hash>>(&mut self, leaves: I) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

impl fmt::Debug for Frontier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frontier")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// The leaves of one commit as a tree of their own.
#[derive(Debug, Clone)]
pub struct Group {
    /// The leaves, the nodes over them, and so on up to the root. A node without a neighbour is taken along as it is,
    /// which gives the tree of the RFC.
    levels: Vec<Vec<Hash>>,
}

impl Group {
    /// The tree over these leaves.
    pub fn new(leaves: Vec<Hash>) -> Self {
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left, right),
                    single => single.first().copied().unwrap_or_default(),
                })
                .collect();
            levels.push(above);
        }
        Self { levels }
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The root of the group.
    pub fn root(&self) -> Hash {
        let root = self.levels.last().and_then(|top| top.first());
        root.copied().unwrap_or_else(|| Sha256::digest([]).into())
    }

    /// A leaf; `None` if there is no such leaf.
    pub fn leaf(&self, index: usize) -> Option<Hash> {
        self.levels.first()?.get(index).copied()
    }

    /// The audit path of a leaf (RFC 6962, section 2.1.1), from the leaf upwards; `None` if there is no such leaf.
    pub fn path(&self, index: usize) -> Option<Vec<Hash>> {
        self.levels.first()?.get(index)?;
        let neighbour = |(height, level): (usize, &Vec<Hash>)| {
            let at = index.checked_shr(u32::try_from(height).ok()?)?;
            level.get(at ^ 1).copied()
        };
        Some(
            self.levels
                .iter()
                .enumerate()
                .filter_map(neighbour)
                .collect(),
        )
    }
}

/// Whether the path leads from the leaf at `index` to the root of a tree of `size` leaves (RFC 9162, section 2.1.3.2).
pub fn verify_path(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for neighbour in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(neighbour, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, neighbour);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the path leads from the root of a log of `old` leaves to that of one of `new`, which has the same leaves and
/// then others (RFC 9162, section 2.1.4.2). Everything begins with the empty log.
pub fn verify_consistency(
    (old, old_root): (u64, &Hash),
    (new, new_root): (u64, &Hash),
    path: &[Hash],
) -> bool {
    if old == 0 || old >= new {
        let fits = old < new && *old_root == Frontier::default().root()
            || old == new && old_root == new_root;
        return path.is_empty() && fits;
    }
    let mut path = path.iter();
    let (mut at, mut last) = (old - 1, new - 1);
    let shift = at.trailing_ones();
    (at, last) = (at >> shift, last >> shift);
    // A log of a power of two is a subtree of the new one, and its root begins both.
    let first = if old.is_power_of_two() {
        Some(old_root)
    } else {
        path.next()
    };
    let Some(first) = first else { return false };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for neighbour in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            old_hash = node(neighbour, &old_hash);
            new_hash = node(neighbour, &new_hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node(&new_hash, neighbour);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The root over a power of two of hashes.
pub(super) fn perfect(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => Sha256::digest([]).into(),
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node(&perfect(left), &perfect(right))
        }
    }
}

/// The largest power of two below `width`, which is more than 1: where a tree over so many leaves is cut.
pub(super) fn half(width: u64) -> u64 {
    1 << (width - 1).ilog2()
}

pub(super) fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update(NODE)
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    use super::*;

    /// The test vectors of the certificate transparency project: leaves, and the root after each.
    const VECTORS: [(&str, &str); 8] = [
        (
            "",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        ),
        (
            "00",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        ),
        (
            "10",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        ),
        (
            "2021",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
        (
            "3031",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        ),
        (
            "40414243",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        ),
        (
            "5051525354555657",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        ),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        (0..hexadecimal.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap())
            .collect()
    }

    fn leaf(data: &[u8]) -> Hash {
        Sha256::new()
            .chain_update([0])
            .chain_update(data)
            .finalize()
            .into()
    }

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|n| leaf(&n.to_le_bytes())).collect()
    }

    #[test]
    fn the_roots_of_the_certificate_transparency_vectors() {
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root().as_slice(), bytes(EMPTY));
        let mut group = Vec::new();
        assert_eq!(Group::new(Vec::new()).root().as_slice(), bytes(EMPTY));
        for (data, root) in VECTORS {
            frontier.push(leaf(&bytes(data)));
            group.push(leaf(&bytes(data)));
            assert_eq!(frontier.root().as_slice(), bytes(root));
            assert_eq!(Group::new(group.clone()).root().as_slice(), bytes(root));
        }
        assert_eq!(frontier.size(), 8);
        // PATH(0, D[5]) and PATH(5, D[8]) of the same vectors begin so.
        let five = Group::new(group[..5].to_vec());
        let lone = five.path(4).unwrap();
        assert_eq!(lone.len(), 1);
        assert_eq!(lone[0].as_slice(), bytes(VECTORS[3].1));
    }

    #[test]
    fn every_path_of_every_tree_leads_to_the_root_and_is_the_oracles() {
        let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut frontier = Frontier::default();
        let all = leaves(70);
        for size in 1..=70_usize {
            oracle.push((size - 1).to_le_bytes().to_vec());
            frontier.push(all[size - 1]);
            let group = Group::new(all[..size].to_vec());
            let root = group.root();
            assert_eq!(oracle.root().as_bytes().as_slice(), root);
            assert_eq!(frontier.root(), root);
            for index in 0..size {
                let path = group.path(index).unwrap();
                assert_eq!(
                    oracle.prove_inclusion(index).as_bytes(),
                    path.as_flattened()
                );
                let (at, of) = (index as u64, size as u64);
                assert!(verify_path(&all[index], at, of, &path, &root));
                // A path proves one leaf at one place of one tree.
                assert!(!verify_path(&all[(index + 1) % 70], at, of, &path, &root));
                assert!(!verify_path(&all[index], of, of, &path, &root));
                assert!(!verify_path(&all[index], at, of, &path, &[0; 32]));
                let mut longer = path.clone();
                longer.push(root);
                assert!(!verify_path(&all[index], at, of, &longer, &root));
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!verify_path(&all[index], at, of, shorter, &root));
                }
                if index > 0 && size > 1 {
                    assert!(!verify_path(&all[index], at - 1, of, &path, &root));
                }
            }
            assert_eq!(group.path(size), None);
        }
    }

    #[test]
    fn a_frontier_whose_size_does_not_fit_is_refused() {
        let mut frontier = Frontier::default();
        frontier.extend(leaves(11));
        let text = frontier.to_text();
        assert_eq!(Frontier::from_text(11, &text), Ok(frontier));
        assert_eq!(Frontier::from_text(0, ""), Ok(Frontier::default()));
        for size in [0, 3, 10, 15, 1 << 63, u64::MAX] {
            assert_eq!(
                Frontier::from_text(size, &text),
                Err(MalformedFrontier),
                "{size}"
            );
        }
        for text in [
            &text[1..],
            &format!("{text}A"),
            &text.replace(&text[..1], "="),
            "",
        ] {
            assert_eq!(
                Frontier::from_text(11, text),
                Err(MalformedFrontier),
                "{text}"
            );
        }
        let many = "A".repeat(86 * 32);
        assert!(Frontier::from_text(u64::MAX, &many).is_err());
    }

    proptest! {
        #[test]
        fn a_log_goes_on_from_its_text(before in 0..200_usize, after in 0..200_usize) {
            let all = leaves(before + after);
            let mut frontier = Frontier::default();
            frontier.extend(all[..before].iter().copied());
            let mut again = Frontier::from_text(frontier.size(), &frontier.to_text()).unwrap();
            again.extend(all[before..].iter().copied());
            prop_assert_eq!(again.root(), Group::new(all).root());
        }

        #[test]
        fn no_text_makes_it_panic(size in any::<u64>(), text in ".{0,100}", index in any::<u64>()) {
            let _ = Frontier::from_text(size, &text);
            prop_assert!(!verify_path(&[1; 32], index, size, &[[0; 32]; 3], &[2; 32]));
        }
    }
}
