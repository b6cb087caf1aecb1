//! A leaf taken apart, so that some of its values can be shown and all of it be checked.
//!
//! A value that is shown comes with its own salt, never with the record's: that one would open the values that are not.
//! Of one that is withheld there is its commitment, which tells nothing without a salt. The format of a leaf is that of
//! [`super::leaf`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::ids::{RecordId, StreamName, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::Digest as _;

use super::leaf::{self, Committed, Unsealable};
use super::merkle::Hash;
use crate::record::layout::{Entry, Layout};
use crate::record::{RecordView, StoredRecord};

/// Commitments that a leaf has at most, those of records that anybody sends being far fewer.
const PARTS_MAX: usize = 100_000;

/// A part of a leaf: what is committed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafPart<'l> {
    /// The rest: all that has no commitment of its own.
    Rest,
    /// A value of its own.
    Value(Entry<'l>),
}

/// A leaf's preimage, with some of its values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OpenedLeaf {
    /// Whose record it is.
    pub tenant: TenantId,
    /// In which stream.
    pub stream: StreamName,
    /// Which one.
    pub record_id: RecordId,
    /// The commitments, in their order.
    parts: Vec<Opened>,
}

/// One commitment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, untagged)]
enum Opened {
    Shown {
        /// The name of a column, a JSON pointer, or nothing for the rest.
        path: String,
        #[serde(rename = "type")]
        kind: u8,
        /// Unpadded base64url.
        salt: Base64,
        value: Base64,
    },
    Withheld {
        commitment: Base64,
    },
}

/// Bytes as unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Base64(Vec<u8>);

impl From<Base64> for String {
    fn from(bytes: Base64) -> Self {
        URL_SAFE_NO_PAD.encode(bytes.0)
    }
}

impl TryFrom<String> for Base64 {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        URL_SAFE_NO_PAD.decode(text).map(Self)
    }
}

/// The parts of a record's leaf as bytes: their number, then each as `0x00 ‖ commitment` or
/// `0x01 ‖ salt ‖ lp(path) ‖ type ‖ lp(value)`, in the words of [`super::leaf`].
///
/// # Errors
/// If the record has no leaf.
pub(crate) fn parts_of(
    record: &RecordView<'_>,
    layout: &Layout<'_>,
    shows: impl Fn(LeafPart<'_>, &[u8]) -> bool,
) -> Result<Vec<u8>, Unsealable> {
    let mut bytes = leaf::length(1 + layout.entries().len()).to_vec();
    leaf::commit(record, layout, |entry, committed| {
        let part = entry.map_or(LeafPart::Rest, LeafPart::Value);
        if shows(part, committed.value) {
            bytes.push(1);
            bytes.extend_from_slice(committed.salt);
            push_bytes(&mut bytes, committed.path.as_bytes());
            bytes.push(committed.kind);
            push_bytes(&mut bytes, committed.value);
        } else {
            bytes.push(0);
            bytes.extend_from_slice(&committed.hash());
        }
    })?;
    Ok(bytes)
}

/// A value that a leaf shows, where it lies in the bytes of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LyingValue<'b> {
    /// Which column or place.
    pub(crate) name: &'b str,
    /// Its type, as a leaf has it.
    pub(crate) kind: u8,
    /// As it is committed to.
    pub(crate) value: &'b [u8],
}

/// A leaf in the bytes of its parts.
#[derive(Debug)]
pub(crate) struct LyingLeaf<'b> {
    pub(crate) hash: Hash,
    pub(crate) shown: Vec<LyingValue<'b>>,
    /// How many parts are withheld.
    pub(crate) withheld: u64,
}

/// The leaf of tenant, stream and record with these parts, nothing copied; `None` if they are not of the form, or say
/// something that cannot be.
pub(crate) fn leaf_of<'b>(names: [&str; 3], parts: &'b [u8]) -> Option<LyingLeaf<'b>> {
    let mut bytes = Bytes(parts);
    let count = bytes.length()?;
    (1..=PARTS_MAX).contains(&count).then_some(())?;
    let mut hash = leaf::begin(names, count);
    let (mut shown, mut withheld) = (Vec::with_capacity(24), 0);
    for at in 0..count {
        let is_shown = match bytes.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let first = bytes.hash()?;
        if !is_shown {
            withheld += 1;
            hash.update(first);
            continue;
        }
        let committed = Committed {
            salt: first,
            path: bytes.text()?,
            kind: bytes.byte()?,
            value: bytes.prefixed()?,
        };
        hash.update(committed.hash());
        let is_rest = at == 0;
        let Committed {
            path, kind, value, ..
        } = committed;
        if is_rest != path.is_empty() || is_rest != (kind == leaf::REST) {
            return None;
        }
        if is_rest {
            read_rest_in(value, &mut shown)?;
        } else {
            shown.push(LyingValue {
                name: path,
                kind,
                value,
            });
        }
    }
    bytes.0.is_empty().then(|| LyingLeaf {
        hash: hash.finalize().into(),
        shown,
        withheld,
    })
}

fn push_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&leaf::length(bytes.len()));
    to.extend_from_slice(bytes);
}

/// A value that a leaf shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownValue {
    /// Which column or place.
    pub name: String,
    /// The type of the value, as a leaf has it.
    pub kind: u8,
    /// As text; times as microseconds since 1970.
    pub value: String,
}

/// The leaf shows values that cannot be its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the values that are shown are not those of this record")]
pub struct Contradictory;

impl OpenedLeaf {
    /// The leaf of a record, with the values of the parts that `shows` picks, by part and committed value.
    ///
    /// # Errors
    /// If the record has no leaf.
    pub fn of(
        record: &StoredRecord,
        shows: impl Fn(LeafPart<'_>, &[u8]) -> bool,
    ) -> Result<Self, Unsealable> {
        let layout = Layout::parse(&record.leaf_layout).map_err(Unsealable::Layout)?;
        let mut parts = Vec::new();
        leaf::commit(&record.view(), &layout, |entry, committed| {
            let part = entry.map_or(LeafPart::Rest, LeafPart::Value);
            parts.push(if shows(part, committed.value) {
                Opened::Shown {
                    path: committed.path.to_owned(),
                    kind: committed.kind,
                    salt: Base64(committed.salt.to_vec()),
                    value: Base64(committed.value.to_vec()),
                }
            } else {
                Opened::Withheld {
                    commitment: Base64(committed.hash().to_vec()),
                }
            });
        })?;
        Ok(Self {
            tenant: record.tenant_id.clone(),
            stream: record.stream.clone(),
            record_id: record.record_id,
            parts,
        })
    }

    /// The hash of the leaf; `None` if no leaf has such parts.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        if self.parts.is_empty() || self.parts.len() > PARTS_MAX {
            return None;
        }
        let mut id = [0; RecordId::LEN];
        let names = [
            self.tenant.as_str(),
            self.stream.as_str(),
            self.record_id.encode(&mut id),
        ];
        let mut hash = leaf::begin(names, self.parts.len());
        for part in &self.parts {
            let commitment: Hash = match part {
                Opened::Withheld { commitment } => commitment.0.as_slice().try_into().ok()?,
                Opened::Shown {
                    path,
                    kind,
                    salt,
                    value,
                } => Committed {
                    salt: salt.0.as_slice().try_into().ok()?,
                    path,
                    kind: *kind,
                    value: &value.0,
                }
                .hash(),
            };
            hash.update(commitment);
        }
        Some(hash.finalize().into())
    }

    /// How many values are not shown.
    #[must_use]
    pub fn withheld(&self) -> usize {
        let is_withheld = |part: &&Opened| matches!(part, Opened::Withheld { .. });
        self.parts.iter().filter(is_withheld).count()
    }

    /// What is shown, in the order of the leaf.
    ///
    /// # Errors
    /// If something that is shown is no value, or says another tenant, stream or record than the leaf.
    pub fn shown(&self) -> Result<Vec<ShownValue>, Contradictory> {
        let mut shown = Vec::new();
        for (at, part) in self.parts.iter().enumerate() {
            let Opened::Shown {
                path, kind, value, ..
            } = part
            else {
                continue;
            };
            // The rest comes first, has no path, and nothing else is like it.
            let is_rest = at == 0;
            if is_rest != path.is_empty() || is_rest != (*kind == leaf::REST) {
                return Err(Contradictory);
            }
            if is_rest {
                self.read_rest(&value.0, &mut shown)?;
            } else {
                shown.push(ShownValue {
                    name: path.clone(),
                    kind: *kind,
                    value: value_text(*kind, &value.0).ok_or(Contradictory)?,
                });
            }
        }
        Ok(shown)
    }

    fn read_rest(&self, rest: &[u8], shown: &mut Vec<ShownValue>) -> Result<(), Contradictory> {
        let id = self.record_id.to_string();
        for told in read_rest(rest).ok_or(Contradictory)? {
            let own = match told.name.as_str() {
                "tenant_id" => Some(self.tenant.as_str()),
                "stream" => Some(self.stream.as_str()),
                "record_id" => Some(id.as_str()),
                _ => None,
            };
            if own.is_some_and(|own| own != told.value) {
                return Err(Contradictory);
            }
            shown.push(told);
        }
        Ok(())
    }
}

/// The columns of the rest, and their values as text; `None` if it is no rest.
pub(crate) fn read_rest(rest: &[u8]) -> Option<Vec<ShownValue>> {
    let mut columns = Vec::new();
    read_rest_in(rest, &mut columns)?;
    let told = columns.into_iter().map(|column| {
        Some(ShownValue {
            name: column.name.to_owned(),
            kind: column.kind,
            value: value_text(column.kind, column.value)?,
        })
    });
    told.collect()
}

fn read_rest_in<'b>(rest: &'b [u8], columns: &mut Vec<LyingValue<'b>>) -> Option<()> {
    let mut bytes = Bytes(rest);
    let mut before = 0;
    while !bytes.0.is_empty() {
        let number = bytes.byte()?;
        let name = if number == leaf::PROMOTED {
            bytes.text()?
        } else {
            (number > before).then_some(())?;
            before = number;
            let at = usize::from(number).checked_sub(1)?;
            *leaf::COLUMNS.get(at)?
        };
        columns.push(LyingValue {
            name,
            kind: bytes.byte()?,
            value: bytes.prefixed()?,
        });
    }
    Some(())
}

/// A value as text.
fn value_text(kind: u8, value: &[u8]) -> Option<String> {
    match kind {
        0 => value.is_empty().then(|| "null".to_owned()),
        1 | 2 => Some(std::str::from_utf8(value).ok()?.to_owned()),
        3 => Some(i64::from_le_bytes(value.try_into().ok()?).to_string()),
        4 => labels_text(value),
        _ => None,
    }
}

/// Labels as JSON.
fn labels_text(value: &[u8]) -> Option<String> {
    Some(Value::from(labels_of(value)?).to_string())
}

/// Labels that are committed to as these bytes.
pub(crate) fn labels_of(value: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let mut bytes = Bytes(value);
    let mut labels = serde_json::Map::new();
    for _ in 0..bytes.length()? {
        let key = bytes.text()?.to_owned();
        let value = match bytes.byte()? {
            0 => None,
            1 => Some(bytes.text()?),
            _ => return None,
        };
        labels.insert(key, value.into());
    }
    bytes.0.is_empty().then_some(labels)
}

/// What is left to read.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn hash(&mut self) -> Option<&'b Hash> {
        let (hash, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(hash)
    }

    fn length(&mut self) -> Option<usize> {
        let (length, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    }

    fn prefixed(&mut self) -> Option<&'b [u8]> {
        let length = self.length()?;
        let (value, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(value)
    }

    fn text(&mut self) -> Option<&'b str> {
        std::str::from_utf8(self.prefixed()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::leaf_hash;
    use super::*;
    use crate::record::testing::stored;

    proptest! {
        #[test]
        fn whatever_is_shown_the_leaf_is_the_same(record in stored(), picks: u64) {
            let leaf = leaf_hash(&record).unwrap();
            let number = std::cell::Cell::new(0);
            let opened = OpenedLeaf::of(&record, |_, _| {
                number.set(number.get() + 1);
                picks >> (number.get() % 64) & 1 == 1
            }).unwrap();
            prop_assert_eq!(opened.hash(), Some(leaf));
            prop_assert!(opened.shown().is_ok());
            let kept = serde_json::to_string(&opened).unwrap();
            let read: OpenedLeaf = serde_json::from_str(&kept).unwrap();
            prop_assert_eq!(&read, &opened);
            let layout = Layout::parse(&record.leaf_layout).unwrap();
            number.set(0);
            let bytes = parts_of(&record.view(), &layout, |_, _| {
                number.set(number.get() + 1);
                picks >> (number.get() % 64) & 1 == 1
            }).unwrap();
            let id = record.record_id.to_string();
            let spelled = [record.tenant_id.as_str(), record.stream.as_str(), id.as_str()];
            let lying = leaf_of(spelled, &bytes).unwrap();
            prop_assert_eq!(lying.hash, leaf);
            prop_assert_eq!(lying.withheld, opened.withheld() as u64);
            let told: Vec<_> = lying.shown.iter().map(|value| ShownValue {
                name: value.name.to_owned(),
                kind: value.kind,
                value: value_text(value.kind, value.value).unwrap(),
            }).collect();
            prop_assert_eq!(told, opened.shown().unwrap());
            for end in [0, 4, bytes.len() / 2, bytes.len() - 1] {
                prop_assert!(leaf_of(spelled, &bytes[..end]).is_none());
            }
            let longer = [&bytes[..], &[0]].concat();
            prop_assert!(leaf_of(spelled, &longer).is_none());
            let all = OpenedLeaf::of(&record, |_, _| true).unwrap();
            prop_assert_eq!(all.withheld(), 0);
            prop_assert_eq!(all.hash(), Some(leaf));
            let shown = all.shown().unwrap();
            let id = record.record_id.to_string();
            let has_id = shown.iter().any(|shown| shown.name == "record_id" && shown.value == id);
            prop_assert!(has_id);
            let none = OpenedLeaf::of(&record, |_, _| false).unwrap();
            prop_assert_eq!(none.hash(), Some(leaf));
            prop_assert_eq!(none.shown().unwrap(), vec![]);
        }
    }

    #[test]
    fn a_leaf_that_says_another_record_is_refused() {
        use proptest::strategy::ValueTree as _;
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let record = stored().new_tree(&mut runner).unwrap().current();
        let all = OpenedLeaf::of(&record, |_, _| true).unwrap();
        let other = OpenedLeaf {
            record_id: RecordId::from_bytes([9; 16]),
            ..all.clone()
        };
        assert_eq!(other.shown(), Err(Contradictory));
        assert_ne!(other.hash(), all.hash());
        for change in [
            json!({"path": "actor_id"}),
            json!({"type": 1}),
            json!({"value": "AQ"}),
        ] {
            let mut text = json!(all);
            for (member, value) in change.as_object().unwrap() {
                text["parts"][0][member] = value.clone();
            }
            let other: OpenedLeaf = serde_json::from_value(text).unwrap();
            assert_eq!(other.shown(), Err(Contradictory));
            assert_ne!(other.hash(), all.hash());
        }
        let mut none = json!(all);
        none["parts"] = json!([]);
        let none: OpenedLeaf = serde_json::from_value(none).unwrap();
        assert_eq!(none.hash(), None);
    }
}
