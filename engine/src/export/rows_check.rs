//! Rows of a bundle against what is said of them, and against what their leaves open.

use std::collections::{BTreeSet, HashSet};

use arrow::array::{Array, AsArray, MapArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::TimestampMicrosecondType;
use serde_json::{Map, Value};

use super::manifest::{Manifest, Values};
use crate::record::json;
use crate::seal::Hash;
use crate::seal::opened::{LyingValue, labels_of, leaf_of};

/// Columns of text that a leaf has as they are.
const TEXTS: [&str; 14] = [
    "tenant_id",
    "stream",
    "record_id",
    "action",
    "resource_type",
    "resource_id",
    "actor_type",
    "actor_id",
    "trace_id",
    "span_id",
    "purpose",
    "schema_version",
    "policy_version",
    "idempotency_key",
];
const INSTANTS: [&str; 2] = ["created_at", "ingested_at"];
/// What a leaf says of its record whatever shape that is read in.
const NAMES: [&str; 5] = [
    "tenant_id",
    "stream",
    "record_id",
    "created_at",
    "ingested_at",
];
const DOCUMENTS: [&str; 3] = ["context", "extras", "labels"];
/// In the leaf, and in no bundle.
const RETENTION_CLASS: &str = "retention_class";

/// What is wrong with a row.
pub(super) type Fault = String;

/// The columns of some rows.
pub(super) struct Rows<'b> {
    texts: Vec<(&'static str, &'b StringArray)>,
    instants: Vec<(&'static str, &'b TimestampMicrosecondArray)>,
    labels: &'b MapArray,
}

/// What a row's leaf came to.
pub(super) struct Opened {
    pub(super) hash: Hash,
    pub(super) shown: u64,
    pub(super) withheld: u64,
}

impl<'b> Rows<'b> {
    /// The columns of a batch; `None` if one is missing or of another type.
    pub(super) fn of(batch: &'b RecordBatch) -> Option<Self> {
        let column = |name: &str| batch.column_by_name(name);
        let documents = DOCUMENTS.iter().filter(|name| **name != "labels");
        let texts = TEXTS.iter().chain(documents).map(|name| {
            let column = column(name)?.as_string_opt::<i32>()?;
            Some((*name, column))
        });
        let instants = INSTANTS.iter().map(|name| {
            let column = column(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
            Some((*name, column))
        });
        Some(Self {
            texts: texts.collect::<Option<_>>()?,
            instants: instants.collect::<Option<_>>()?,
            labels: column("labels")?.as_map_opt()?,
        })
    }

    fn text(&self, name: &str, row: usize) -> Option<&'b str> {
        let (_, column) = self.texts.iter().find(|(known, _)| *known == name)?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn instant(&self, name: &str, row: usize) -> Option<i64> {
        let (_, column) = self.instants.iter().find(|(known, _)| *known == name)?;
        column.is_valid(row).then(|| column.value(row))
    }

    /// Where a row stands in the order of the bundle.
    pub(super) fn place(&self, row: usize) -> Option<(i64, &'b str)> {
        Some((
            self.instant("created_at", row)?,
            self.text("record_id", row)?,
        ))
    }

    /// Whether a row is one that the manifest speaks of.
    pub(super) fn check(&self, row: usize, manifest: &Manifest) -> Result<(), Fault> {
        if self.text("tenant_id", row) != Some(manifest.tenant_id.as_str()) {
            return Err("it is of another tenant".to_owned());
        }
        if self.text("stream", row) != Some(manifest.stream.as_str()) {
            return Err("it is of another stream".to_owned());
        }
        let created = self
            .instant("created_at", row)
            .ok_or("it has no created_at")?;
        if !self.has_labels(row) {
            return Err("its labels are no texts, or one stands twice".to_owned());
        }
        let range = &manifest.time_range;
        if range.from.is_some_and(|from| created < from.as_micros())
            || range.to.is_some_and(|to| created >= to.as_micros())
        {
            return Err("it is outside the time range".to_owned());
        }
        for (field, values) in &manifest.filters {
            let is_one = match field.place() {
                Ok(column) => self
                    .text(column, row)
                    .is_some_and(|text| values.contains(text)),
                Err(label) => self.labels(row).is_some_and(|labels| {
                    let found = labels.get(label).and_then(Value::as_str);
                    found.is_some_and(|text| values.contains(text))
                }),
            };
            if !is_one {
                return Err(format!("it does not match the filter {}", field.name()));
            }
        }
        Ok(())
    }

    /// Whether every reader finds the same labels in a row, or none.
    fn has_labels(&self, row: usize) -> bool {
        if !self.labels.is_valid(row) {
            return true;
        }
        let entries = self.labels.value(row);
        let [keys, values] = entries.columns() else {
            return false;
        };
        let (Some(keys), Some(_)) = (keys.as_string_opt::<i32>(), values.as_string_opt::<i32>())
        else {
            return false;
        };
        let mut met = HashSet::new();
        keys.iter()
            .all(|key| key.is_some_and(|key| met.insert(key)))
    }

    fn labels(&self, row: usize) -> Option<Map<String, Value>> {
        if !self.labels.is_valid(row) {
            return None;
        }
        let entries = self.labels.value(row);
        let [keys, values] = entries.columns() else {
            return None;
        };
        let (keys, values) = (keys.as_string_opt::<i32>()?, values.as_string_opt::<i32>()?);
        let entries = keys.iter().flatten().map(str::to_owned);
        Some(entries.zip(values.iter().map(Value::from)).collect())
    }

    /// A document of a row as JSON; what is no JSON that records have, for a member that stands twice, is a text.
    fn document(&self, name: &str, row: usize) -> Option<Value> {
        if name == "labels" {
            return self.labels(row).map(Value::Object);
        }
        let text = self.text(name, row)?;
        Some(json::parse(text.as_bytes()).unwrap_or_else(|_| Value::from(text)))
    }

    /// The leaf of a row, once all that it opens is found to be the row's.
    pub(super) fn open(
        &self,
        row: usize,
        parts: &[u8],
        manifest: &Manifest,
    ) -> Result<Opened, Fault> {
        let id = self.text("record_id", row).unwrap_or_default();
        let names = [manifest.tenant_id.as_str(), manifest.stream.as_str(), id];
        let leaf = leaf_of(names, parts).ok_or("its leaf is none")?;
        let shown = leaf.shown;
        let as_stored = manifest.integrity.values == Values::Stored;
        let told = Told {
            pointers: shown
                .iter()
                .filter(|value| value.name.starts_with('/'))
                .map(|value| value.name)
                .collect(),
            is_whole: leaf.withheld == 0,
        };
        for value in &shown {
            if as_stored || NAMES.contains(&value.name) {
                self.compare(row, value, &told)?;
            }
        }
        if told.is_whole && as_stored {
            self.check_absent(row, &shown, &told)?;
        }
        Ok(Opened {
            hash: leaf.hash,
            shown: shown.len() as u64,
            withheld: leaf.withheld,
        })
    }

    fn compare(&self, row: usize, value: &LyingValue<'_>, told: &Told<'_>) -> Result<(), Fault> {
        let name = value.name;
        let differs = || format!("its {name} is not the one that was sealed");
        let is_same = if TEXTS.contains(&name) {
            let found = self.text(name, row).map(str::as_bytes);
            match value.kind {
                0 => value.value.is_empty() && found.is_none(),
                1 => found == Some(value.value),
                _ => false,
            }
        } else if INSTANTS.contains(&name) {
            let found = self.instant(name, row).map(i64::to_le_bytes);
            value.kind == 3 && found.as_ref().map(<[u8; 8]>::as_slice) == Some(value.value)
        } else if name == RETENTION_CLASS {
            true
        } else if DOCUMENTS.contains(&name) {
            self.is_as_sealed(row, value) || {
                let stored = stored(value).ok_or_else(differs)?;
                let found = self.document(name, row);
                told.covers(stored.as_ref(), found.as_ref(), &mut format!("/{name}"))
            }
        } else if let Some(pointer) = name.strip_prefix('/') {
            self.is_at(row, pointer, value)
        } else {
            false
        };
        if is_same { Ok(()) } else { Err(differs()) }
    }

    /// Whether a document is the sealed one to the letter, as most are.
    fn is_as_sealed(&self, row: usize, value: &LyingValue<'_>) -> bool {
        let found = self.text(value.name, row);
        value.kind == 2 && found.map(str::as_bytes) == Some(value.value)
    }

    /// Whether a value that stands apart in the leaf is at its place in the row.
    fn is_at(&self, row: usize, pointer: &str, value: &LyingValue<'_>) -> bool {
        let (document, rest) = match pointer.split_once('/') {
            Some((document, _)) => (document, &pointer[document.len()..]),
            None => (pointer, ""),
        };
        let found = self.document(document, row);
        let found = found.as_ref().and_then(|found| found.pointer(rest));
        let Some(stored) = stored(value) else {
            return false;
        };
        match (stored, found) {
            (None, found) => found.is_none_or(Value::is_null),
            (Some(stored), Some(found)) => is_equal(&stored, found),
            (Some(_), None) => false,
        }
    }

    /// Where the whole leaf is open: what it does not have, the row does not have either.
    fn check_absent(
        &self,
        row: usize,
        shown: &[LyingValue<'_>],
        told: &Told<'_>,
    ) -> Result<(), Fault> {
        let has = |name: &str| shown.iter().any(|value| value.name == name);
        let text = TEXTS
            .iter()
            .find(|name| !has(name) && self.text(name, row).is_some());
        if let Some(name) = text {
            return Err(format!("its {name} was not sealed"));
        }
        for name in DOCUMENTS.iter().filter(|name| !has(name)) {
            let found = self.document(name, row);
            if !told.covers(None, found.as_ref(), &mut format!("/{name}")) {
                return Err(format!("its {name} was not sealed"));
            }
        }
        Ok(())
    }
}

/// A committed value as JSON, null being none; nothing, if it is not of its type.
#[expect(clippy::option_option, reason = "null is a value")]
fn stored(value: &LyingValue<'_>) -> Option<Option<Value>> {
    Some(match value.kind {
        0 => value.value.is_empty().then_some(None)?,
        1 => Some(Value::from(std::str::from_utf8(value.value).ok()?)),
        2 => Some(serde_json::from_slice(value.value).ok()?),
        4 => Some(Value::Object(labels_of(value.value)?)),
        _ => return None,
    })
}

/// What of a leaf is open.
struct Told<'l> {
    /// The places of the values that stand apart in it.
    pointers: BTreeSet<&'l str>,
    /// Whether nothing is withheld.
    is_whole: bool,
}

impl Told<'_> {
    /// Whether the row has what was sealed, and beyond that only what stands apart in the leaf.
    fn covers(&self, stored: Option<&Value>, found: Option<&Value>, path: &mut String) -> bool {
        match (stored, found) {
            (None | Some(Value::Null), None) => true,
            (None | Some(Value::Null), Some(found)) => {
                found.is_null() || self.is_put_back(found, path)
            }
            (Some(_), None) => false,
            (Some(Value::Object(stored)), Some(Value::Object(found))) => {
                let kept = stored.iter().all(|(key, value)| {
                    self.below(path, key, |path| {
                        self.covers(Some(value), found.get(key), path)
                    })
                });
                kept && found
                    .iter()
                    .filter(|(key, _)| !stored.contains_key(*key))
                    .all(|(key, value)| {
                        self.below(path, key, |path| self.covers(None, Some(value), path))
                    })
            }
            (Some(Value::Array(stored)), Some(Value::Array(found))) => {
                stored.len() == found.len()
                    && stored
                        .iter()
                        .zip(found)
                        .enumerate()
                        .all(|(at, (stored, found))| {
                            let at = at.to_string();
                            self.below(path, &at, |path| {
                                self.covers(Some(stored), Some(found), path)
                            })
                        })
            }
            (Some(stored), Some(found)) => is_equal(stored, found),
        }
    }

    /// Whether a value that the sealed document does not have was put back: it is one that stands apart, or has such, or
    /// something is withheld that it may be.
    fn is_put_back(&self, found: &Value, path: &mut String) -> bool {
        if !self.is_whole || self.pointers.contains(path.as_str()) {
            return true;
        }
        match found {
            Value::Object(members) => {
                !members.is_empty()
                    && members.iter().all(|(key, value)| {
                        self.below(path, key, |path| self.is_put_back(value, path))
                    })
            }
            _ => false,
        }
    }

    fn below(&self, path: &mut String, key: &str, look: impl FnOnce(&mut String) -> bool) -> bool {
        let length = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let found = look(path);
        path.truncate(length);
        found
    }
}

/// Whether two values are one in JSON, which knows no kinds of numbers.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| is_equal(value, other)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Builder, MapBuilder, StringBuilder};
    use serde_json::json;

    use super::*;

    fn rows(labels: &MapArray) -> Rows<'_> {
        Rows {
            texts: Vec::new(),
            instants: Vec::new(),
            labels,
        }
    }

    #[test]
    fn a_label_stands_once_and_is_text() {
        for (keys, expected) in [
            (&["env", "team"][..], true),
            (&[], true),
            (&["env", "team", "env"], false),
        ] {
            let mut labels = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            for key in keys {
                labels.keys().append_value(key);
                labels.values().append_value("x");
            }
            labels.append(true).unwrap();
            assert_eq!(rows(&labels.finish()).has_labels(0), expected, "{keys:?}");
        }
        let mut numbers = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
        numbers.append(true).unwrap();
        assert!(!rows(&numbers.finish()).has_labels(0));
    }

    #[test]
    fn a_document_has_what_was_sealed_and_what_stands_apart() {
        let told = |pointers: &[&'static str], is_whole| Told {
            pointers: pointers.iter().copied().collect(),
            is_whole,
        };
        let stored = json!({"a": 1, "list": [null, {"b": "x"}]});
        for (found, pointers, expected) in [
            (json!({"a": 1.0, "list": [null, {"b": "x"}]}), &[][..], true),
            (json!({"a": 1}), &[], false),
            (json!({"a": 2, "list": [null, {"b": "x"}]}), &[], false),
            (json!({"a": 1, "list": [null]}), &[], false),
            (json!({"a": 1, "list": ["e", {"b": "x"}]}), &[], false),
            (
                json!({"a": 1, "list": ["e", {"b": "x"}]}),
                &["/context/list/0"],
                true,
            ),
            (
                json!({"a": 1, "list": [null, {"b": "x"}], "u": {"m": "e"}}),
                &["/context/u/m"],
                true,
            ),
            (
                json!({"a": 1, "list": [null, {"b": "x"}], "u": {"m": "e", "n": 1}}),
                &["/context/u/m"],
                false,
            ),
            (
                json!({"a": 1, "list": [null, {"b": "x"}], "v": 1}),
                &["/context/u"],
                false,
            ),
        ] {
            let path = || "/context".to_owned();
            let covers = |told: Told<'_>| told.covers(Some(&stored), Some(&found), &mut path());
            assert_eq!(covers(told(pointers, true)), expected, "{found}");
            // What may be withheld is not known, what is open has to be there all the same.
            let is_kept = found["a"].as_f64() == Some(1.0) && found["list"][1]["b"] == "x";
            assert_eq!(covers(told(pointers, false)), is_kept, "{found}");
        }
    }
}
