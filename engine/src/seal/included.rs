//! Some leaves of a log, and what it takes to make its root from them: the rest, subtree by subtree.
//!
//! ```text
//! root(lo, hi) of the leaves lo..hi, the whole log being 0..n:
//!   one leaf, and it is included:                   its hash
//!   none is included, and hi - lo is a power of 2:  the next of the omitted hashes
//!   otherwise, k the largest power of 2 below hi - lo:  node(root(lo, lo + k), root(lo + k, hi))
//! ```
//! Which subtrees are omitted follows from the places that are included and from the size of the log, so the hashes alone
//! are told, left to right. Whoever makes the root from them knows that there are just so many other leaves, and where.

use super::merkle::{Hash, half, node};

const WORD: u64 = u64::BITS as u64;

/// Which leaves of a log of some size.
#[derive(Debug, Clone)]
pub struct Included {
    size: u64,
    words: Vec<u64>,
    count: u64,
}

/// A part of the log, left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// An included leaf.
    Leaf(u64),
    /// A perfect subtree of 2^height leaves without an included one.
    Omitted {
        /// Its first leaf.
        first: u64,
        /// Its height.
        height: u32,
    },
}

impl Included {
    /// None of the leaves of a log of this size; `None` if that is more than memory holds.
    #[must_use]
    pub fn none(size: u64) -> Option<Self> {
        let words = usize::try_from(size.div_ceil(WORD)).ok()?;
        let mut room = Vec::new();
        room.try_reserve_exact(words).ok()?;
        room.resize(words, 0);
        Some(Self {
            size,
            words: room,
            count: 0,
        })
    }

    /// How many leaves the log has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many of them are included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Includes a leaf; `false` if the log has none there, or it was included before.
    pub fn insert(&mut self, leaf: u64) -> bool {
        let bit = 1 << (leaf % WORD);
        let word = usize::try_from(leaf / WORD).ok();
        let word = word.and_then(|word| self.words.get_mut(word));
        match word.filter(|word| leaf < self.size && **word & bit == 0) {
            Some(word) => {
                *word |= bit;
                self.count += 1;
                true
            }
            None => false,
        }
    }

    /// The parts of the log.
    #[must_use]
    pub fn steps(&self) -> Steps<'_> {
        Steps {
            included: self,
            open: if self.size == 0 {
                Vec::new()
            } else {
                vec![(0, self.size)]
            },
        }
    }

    /// The root of the log, from the included leaves and the hashes of what is omitted; `None` if a leaf is missing, or the
    /// hashes are fewer or more than it takes.
    pub fn root(
        &self,
        mut leaf: impl FnMut(u64) -> Option<Hash>,
        omitted: impl IntoIterator<Item = Hash>,
    ) -> Option<Hash> {
        if self.size == 0 {
            return None;
        }
        let mut omitted = omitted.into_iter();
        let root = self.root_of(0, self.size, &mut leaf, &mut omitted)?;
        omitted.next().is_none().then_some(root)
    }

    fn root_of(
        &self,
        from: u64,
        to: u64,
        leaf: &mut impl FnMut(u64) -> Option<Hash>,
        omitted: &mut impl Iterator<Item = Hash>,
    ) -> Option<Hash> {
        match self.step(from, to) {
            Some(Step::Leaf(at)) => leaf(at),
            Some(Step::Omitted { .. }) => omitted.next(),
            None => {
                let middle = from + half(to - from);
                let left = self.root_of(from, middle, leaf, omitted)?;
                let right = self.root_of(middle, to, leaf, omitted)?;
                Some(node(&left, &right))
            }
        }
    }

    /// What these leaves are, if they are one part.
    fn step(&self, from: u64, to: u64) -> Option<Step> {
        let width = to - from;
        if !self.has_any(from, to) {
            return width.is_power_of_two().then(|| Step::Omitted {
                first: from,
                height: width.ilog2(),
            });
        }
        (width == 1).then_some(Step::Leaf(from))
    }

    /// Whether any leaf from the first to before the second is included.
    #[must_use]
    pub fn has_any(&self, from: u64, to: u64) -> bool {
        if from >= to {
            return false;
        }
        let word = |at: u64| {
            let at = usize::try_from(at).ok();
            at.and_then(|at| self.words.get(at)).copied().unwrap_or(0)
        };
        let (first, last) = (from / WORD, (to - 1) / WORD);
        let above = u64::MAX << (from % WORD);
        let below = u64::MAX >> (WORD - 1 - (to - 1) % WORD);
        if first == last {
            return word(first) & above & below != 0;
        }
        word(first) & above != 0
            || word(last) & below != 0
            || (first + 1..last).any(|at| word(at) != 0)
    }
}

/// The parts of a log, left to right.
#[derive(Debug)]
pub struct Steps<'i> {
    included: &'i Included,
    open: Vec<(u64, u64)>,
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            let (from, to) = self.open.pop()?;
            if let Some(step) = self.included.step(from, to) {
                return Some(step);
            }
            let middle = from + half(to - from);
            self.open.push((middle, to));
            self.open.push((from, middle));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::merkle::{Frontier, perfect};
    use super::*;

    fn leaf(at: u64) -> Hash {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&at.to_le_bytes());
        hash
    }

    fn root(size: u64) -> Hash {
        let mut frontier = Frontier::default();
        (0..size).for_each(|at| frontier.push(leaf(at)));
        frontier.root()
    }

    fn omitted(included: &Included) -> Vec<Hash> {
        let hash = |step| match step {
            Step::Leaf(_) => None,
            Step::Omitted { first, height } => {
                let leaves: Vec<_> = (first..first + (1 << height)).map(leaf).collect();
                Some(perfect(&leaves))
            }
        };
        included.steps().filter_map(hash).collect()
    }

    proptest! {
        #[test]
        fn any_leaves_and_the_rest_make_the_root(
            size in 1_u64..400, picks in proptest::collection::vec(any::<bool>(), 400), sparse: bool,
        ) {
            let mut included = Included::none(size).unwrap();
            for at in 0..size {
                let is_picked = picks[usize::try_from(at).unwrap()] && (!sparse || at % 37 == 0);
                prop_assert!(!is_picked || included.insert(at));
                prop_assert!(!is_picked || !included.insert(at));
            }
            prop_assert!(!included.insert(size));
            let hashes = omitted(&included);
            let known = |at| Some(leaf(at));
            prop_assert_eq!(included.root(known, hashes.clone()), Some(root(size)));
            let longer = hashes.iter().copied().chain([leaf(0)]);
            prop_assert_eq!(included.root(known, longer), None);
            if let Some((_, fewer)) = hashes.split_last() {
                prop_assert_eq!(included.root(known, fewer.to_vec()), None);
            }
            let other = included.root(|at| Some(leaf(at + 1)), hashes);
            prop_assert!(included.count() == 0 || other != Some(root(size)));
        }
    }

    #[test]
    fn the_parts_of_a_small_log() {
        let mut included = Included::none(7).unwrap();
        assert!(included.insert(2));
        let steps: Vec<_> = included.steps().collect();
        let omitted = |first, height| Step::Omitted { first, height };
        let expected = [
            omitted(0, 1),
            Step::Leaf(2),
            omitted(3, 0),
            omitted(4, 1),
            omitted(6, 0),
        ];
        assert_eq!(steps, expected);
        assert!(Included::none(0).unwrap().root(|_| None, []).is_none());
    }
}
