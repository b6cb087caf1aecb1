//! What a policy does to a value: write rules before it is stored, mask rules when it is read.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use super::path::FieldPath;

/// Characters a MASK without parameters leaves at the front and at the end.
pub const MASK_SHOWN_DEFAULT: (usize, usize) = (2, 2);

/// How a value is made coarser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generalize {
    /// An address to its network: /24 for IPv4, /48 for IPv6.
    IpPrefix,
    /// A time to its day.
    Day,
    /// A time to its month.
    Month,
}

/// What happens to a value before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WriteRule {
    /// Stored as it came.
    #[default]
    Keep,
    /// Replaced by a keyed hash: equal values stay equal.
    Hash,
    /// Replaced by a keyed token, under another key than HASH.
    Token,
    /// All but the ends replaced.
    Mask {
        /// Characters left at the front.
        show_first: usize,
        /// Characters left at the end.
        show_last: usize,
    },
    /// Replaced by one fixed word.
    Redact,
    /// Removed with its key.
    Drop,
    /// Replaced by null.
    Nullify,
    /// Made coarser.
    Generalize(Generalize),
}

/// What a reader gets in place of a stored value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MaskRule {
    /// The value.
    #[default]
    Clear,
    /// All but the ends replaced.
    Mask {
        /// Characters left at the front.
        show_first: usize,
        /// Characters left at the end.
        show_last: usize,
    },
    /// Made coarser.
    Generalize(Generalize),
    /// A keyed hash.
    Hash,
    /// A keyed token.
    Token,
    /// One fixed word.
    Redact,
    /// Null.
    Nullify,
}

impl WriteRule {
    /// The stricter of two rules, in the order DROP > NULLIFY > REDACT > TOKEN > HASH > GENERALIZE > MASK > KEEP.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self.as_mask(), other.as_mask()) {
            (None, _) | (_, None) => Self::Drop,
            (Some(own), Some(theirs)) => own.stricter(theirs).into(),
        }
    }

    /// The mask that does the same to a value; none does what DROP does.
    #[must_use]
    pub const fn as_mask(self) -> Option<MaskRule> {
        Some(match self {
            Self::Keep => MaskRule::Clear,
            Self::Hash => MaskRule::Hash,
            Self::Token => MaskRule::Token,
            Self::Mask {
                show_first,
                show_last,
            } => MaskRule::Mask {
                show_first,
                show_last,
            },
            Self::Redact => MaskRule::Redact,
            Self::Nullify => MaskRule::Nullify,
            Self::Generalize(to) => MaskRule::Generalize(to),
            Self::Drop => return None,
        })
    }
}

impl From<MaskRule> for WriteRule {
    fn from(mask: MaskRule) -> Self {
        match mask {
            MaskRule::Clear => Self::Keep,
            MaskRule::Mask {
                show_first,
                show_last,
            } => Self::Mask {
                show_first,
                show_last,
            },
            MaskRule::Generalize(to) => Self::Generalize(to),
            MaskRule::Hash => Self::Hash,
            MaskRule::Token => Self::Token,
            MaskRule::Redact => Self::Redact,
            MaskRule::Nullify => Self::Nullify,
        }
    }
}

impl MaskRule {
    /// Place in the fixed order NULLIFY > REDACT > TOKEN > HASH > GENERALIZE > MASK > clear.
    #[must_use]
    pub const fn strictness(&self) -> u8 {
        match self {
            Self::Clear => 0,
            Self::Mask { .. } => 1,
            Self::Generalize(_) => 2,
            Self::Hash => 3,
            Self::Token => 4,
            Self::Redact => 5,
            Self::Nullify => 6,
        }
    }

    /// The stricter of two rules. Of two of a kind: the one that shows less, at both ends; the coarser one.
    #[must_use]
    pub fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Mask {
                    show_first,
                    show_last,
                },
                Self::Mask {
                    show_first: first,
                    show_last: last,
                },
            ) => Self::Mask {
                show_first: show_first.min(first),
                show_last: show_last.min(last),
            },
            (Self::Generalize(own), Self::Generalize(theirs)) => Self::Generalize(own.max(theirs)),
            (own, theirs) => match own.strictness().cmp(&theirs.strictness()) {
                Ordering::Less => theirs,
                Ordering::Equal | Ordering::Greater => own,
            },
        }
    }
}

impl fmt::Display for Generalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IpPrefix => "ip",
            Self::Day => "day",
            Self::Month => "month",
        })
    }
}

impl fmt::Display for MaskRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear => f.write_str("CLEAR"),
            Self::Mask {
                show_first,
                show_last,
            } => write!(f, "MASK({show_first},{show_last})"),
            Self::Generalize(to) => write!(f, "GENERALIZE({to})"),
            Self::Hash => f.write_str("HASH"),
            Self::Token => f.write_str("TOKEN"),
            Self::Redact => f.write_str("REDACT"),
            Self::Nullify => f.write_str("NULLIFY"),
        }
    }
}

/// The masks one caller's reads go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskProfile {
    /// The role's short name; of a merged profile the names joined by `+`; `strictest` where no role has a profile.
    pub name: String,
    /// The rules. A field that several of them cover takes the strictest.
    pub fields: BTreeMap<FieldPath, MaskRule>,
}

impl MaskProfile {
    /// The most restrictive of several profiles, field by field. Because rules only ever add up, uniting the rules and
    /// taking the strictest where two name the same path gives just that.
    #[must_use]
    pub fn merged<'a>(name: String, profiles: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut fields: BTreeMap<FieldPath, MaskRule> = BTreeMap::new();
        for (path, rule) in profiles.into_iter().flat_map(|profile| &profile.fields) {
            let strictest = fields.entry(path.clone()).or_default();
            *strictest = strictest.stricter(*rule);
        }
        Self { name, fields }
    }

    /// The rule for everything at `path`: the strictest that covers it.
    #[must_use]
    pub fn rule_for(&self, path: &FieldPath) -> MaskRule {
        let covering = self.fields.iter().filter(|(own, _)| own.covers(path));
        covering.fold(MaskRule::Clear, |strictest, (_, rule)| {
            strictest.stricter(*rule)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [MaskRule; 10] = [
        MaskRule::Clear,
        MaskRule::Mask {
            show_first: 3,
            show_last: 0,
        },
        MaskRule::Mask {
            show_first: 0,
            show_last: 4,
        },
        MaskRule::Generalize(Generalize::IpPrefix),
        MaskRule::Generalize(Generalize::Day),
        MaskRule::Generalize(Generalize::Month),
        MaskRule::Hash,
        MaskRule::Token,
        MaskRule::Redact,
        MaskRule::Nullify,
    ];

    fn profile(name: &str, fields: &[(&str, MaskRule)]) -> MaskProfile {
        let fields = fields
            .iter()
            .map(|(path, rule)| (FieldPath::parse(path).unwrap(), *rule))
            .collect();
        MaskProfile {
            name: name.to_owned(),
            fields,
        }
    }

    #[test]
    fn stricter_is_commutative_associative_and_never_looser() {
        for a in ALL {
            assert_eq!(a.stricter(a), a);
            for b in ALL {
                assert_eq!(a.stricter(b), b.stricter(a));
                assert!(a.stricter(b).strictness() >= a.strictness());
                for c in ALL {
                    assert_eq!(a.stricter(b).stricter(c), a.stricter(b.stricter(c)));
                }
            }
        }
        let merged = MaskRule::Mask {
            show_first: 3,
            show_last: 0,
        }
        .stricter(MaskRule::Mask {
            show_first: 0,
            show_last: 4,
        });
        assert_eq!(
            merged,
            MaskRule::Mask {
                show_first: 0,
                show_last: 0
            }
        );
    }

    #[test]
    fn a_specific_clear_does_not_loosen_a_general_rule() {
        let one = profile(
            "A",
            &[
                ("email", MaskRule::Hash),
                ("context.contact.email", MaskRule::Clear),
            ],
        );
        let path = FieldPath::parse("context.contact.email").unwrap();
        assert_eq!(one.rule_for(&path), MaskRule::Hash);
        let other = profile(
            "B",
            &[
                ("context.contact", MaskRule::Redact),
                (
                    "actor_id",
                    MaskRule::Mask {
                        show_first: 1,
                        show_last: 1,
                    },
                ),
            ],
        );
        let merged = MaskProfile::merged("A+B".to_owned(), [&one, &other]);
        assert_eq!(merged.rule_for(&path), MaskRule::Redact);
        for path in one.fields.keys().chain(other.fields.keys()) {
            assert!(merged.rule_for(path).strictness() >= one.rule_for(path).strictness());
            assert!(merged.rule_for(path).strictness() >= other.rule_for(path).strictness());
        }
    }
}
