//! Old rows in the shape of new ones, inside the guarded leaf.
//!
//! ```text
//! stored row ──values put back──▶ record ──the steps its version has before it──▶ record in the newest shape ──masks──▶
//! ```
//! Only rows that have steps before them are touched, and only when a column is shown that a step can reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::array::{Array, AsArray, MapArray, StringArray, StringBuilder};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use catalog::policy::Step as PathStep;
use catalog::schema::{Part, Step};
use serde_json::{Map, Value};

use super::cut::{Cut, CutColumns};
use super::masking::{Stored, text, unfit};
use super::rules::Place;
use crate::record::canonical;
use crate::record::evolve::{self, Evolution};
use crate::record::json;
use crate::record::restore::put_cut;

/// What happens to old rows of a table before this caller sees them.
#[derive(Debug)]
pub(crate) struct Upcasts {
    evolution: Evolution,
    stream: usize,
    version: usize,
    parts: Vec<(Part, usize)>,
    cut: Cut,
}

/// The rows of a batch in their newest shape; `None` for those that have it already.
pub(crate) struct UpcastRows(Vec<Option<Value>>);

impl Upcasts {
    /// The steps over a table with these stored columns; `cut` is everything that was cut out of a record.
    pub(super) fn new(evolution: Evolution, stored: &Schema, cut: Cut) -> Option<Self> {
        let parts = Part::ALL.into_iter();
        let parts = parts.filter_map(|part| Some((part, stored.index_of(part.as_str()).ok()?)));
        Some(Self {
            evolution,
            stream: stored.index_of("stream").ok()?,
            version: stored.index_of("schema_version").ok()?,
            parts: parts.collect(),
            cut,
        })
    }

    /// The stored columns that it takes.
    pub(super) fn needs(&self) -> Vec<usize> {
        let parts = self.parts.iter().map(|(_, column)| *column);
        let own = [self.stream, self.version].into_iter().chain(parts);
        own.chain(self.cut.needs()).collect()
    }

    /// The rows of a batch that have steps before them, after these.
    pub(super) fn rows<'a>(&'a self, stored: &Stored<'_, 'a>) -> Result<UpcastRows, ArrowError> {
        let streams = text(stored(self.stream)?)?;
        let versions = text(stored(self.version)?)?;
        let cut = CutColumns::find(&self.cut, stored)?;
        let mut columns = Vec::with_capacity(self.parts.len());
        for (part, column) in &self.parts {
            columns.push((*part, stored(*column)?));
        }
        let mut rows = Vec::with_capacity(streams.len());
        for row in 0..streams.len() {
            let said = streams.is_valid(row) && versions.is_valid(row);
            let steps = said
                .then(|| {
                    self.evolution
                        .steps_for(streams.value(row), versions.value(row))
                })
                .flatten();
            rows.push(match steps {
                Some(steps) => Some(upcast(steps, &columns, &cut, row)?),
                None => None,
            });
        }
        Ok(UpcastRows(rows))
    }
}

fn upcast<'s>(
    steps: impl Iterator<Item = &'s Step>,
    columns: &[(Part, &ArrayRef)],
    cut: &CutColumns<'_>,
    row: usize,
) -> Result<Value, ArrowError> {
    let mut record = Map::new();
    for (part, column) in columns {
        let found = match part {
            Part::Labels => labels(column.as_map_opt().ok_or_else(unfit)?, row)?,
            Part::Context | Part::Extras => document(text(column)?, row),
        };
        record.extend(found.map(|found| (part.as_str().to_owned(), found)));
    }
    let mut record = put_cut(record, cut.of(row)?);
    for step in steps {
        evolve::apply(step, &mut record);
    }
    Ok(record)
}

/// A document that is not JSON is none: no step and no mask would find its way in it.
fn document(texts: &StringArray, row: usize) -> Option<Value> {
    let read = || json::parse(texts.value(row).as_bytes()).ok();
    texts.is_valid(row).then(read).flatten()
}

fn labels(map: &MapArray, row: usize) -> Result<Option<Value>, ArrowError> {
    if map.is_null(row) {
        return Ok(None);
    }
    let entries = map.value(row);
    let (keys, values) = (text(entries.column(0))?, text(entries.column(1))?);
    let labels = keys.iter().zip(values.iter()).filter_map(|(key, value)| {
        let value = value.map_or(Value::Null, Value::from);
        Some((key?.to_owned(), value))
    });
    Ok(Some(Value::Object(labels.collect())))
}

impl UpcastRows {
    /// The row, if it was upcast.
    pub(super) fn get(&self, row: usize) -> Option<&Value> {
        self.0.get(row)?.as_ref()
    }
}

/// The text of a document of an upcast row; none where there is no such document.
pub(super) fn document_text(row: &Value, part: Part) -> Option<String> {
    let document = row.get(part.as_str()).filter(|found| !found.is_null())?;
    canonical::text(document).ok()
}

/// The labels of an upcast row. What is not text is none.
pub(super) fn label_entries(row: &Value) -> Option<BTreeMap<String, Option<String>>> {
    let labels = row.get(Part::Labels.as_str())?.as_object()?;
    let entries = labels.iter().map(|(key, value)| {
        let value = value.as_str().map(str::to_owned);
        (key.clone(), value)
    });
    Some(entries.collect())
}

/// A promoted column with the values that stand at its place now: text as it is, numbers and truth values as their text.
/// An object or array has no one value.
pub(super) fn promoted(
    values: &ArrayRef,
    place: &Place,
    rows: &UpcastRows,
) -> Result<ArrayRef, ArrowError> {
    let stored = text(values)?;
    let keys = match place {
        Place::In(part, steps) => keys_of(steps).map(|keys| (*part, keys)),
        Place::Column(_) | Place::AnyKey(_) => None,
    };
    let (part, keys) = keys.ok_or_else(unfit)?;
    let mut shown = StringBuilder::with_capacity(stored.len(), stored.values().len());
    for row in 0..stored.len() {
        match rows.get(row) {
            None => shown.append_option(stored.is_valid(row).then(|| stored.value(row))),
            Some(record) => shown.append_option(match evolve::find(record, part, &keys) {
                Some(Value::String(text)) => Some(text.clone()),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => canonical::text(value).ok(),
                Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => None,
            }),
        }
    }
    Ok(Arc::new(shown.finish()))
}

/// The keys of a path that names one place.
pub(super) fn keys_of(steps: &[PathStep]) -> Option<Vec<String>> {
    let keys = steps.iter().map(|step| match step {
        PathStep::Key(key) => Some(key.clone()),
        PathStep::AnyElement => None,
    });
    keys.collect()
}
