//! Rows of Arrow columns as records: what bulk loads from data frames bring.
//!
//! The columns are named as `audit.records` names them, and found by name:
//!
//! | column | of a record | type |
//! |---|---|---|
//! | `idempotency_key`, `action` | `idempotencyKey`, `action` | text, required |
//! | `created_at` | `createdAt` | timestamp with a zone, any unit; or RFC 3339 text; required |
//! | `resource_type`, `resource_id`, `actor_type`, `actor_id` | `resource.type` .. `actor.id` | text, required |
//! | `trace_id`, `span_id` | `correlation.traceId`, `correlation.spanId` | text, the first required |
//! | `purpose`, `schema_version`, `tenant_id` | `purpose`, `schemaVersion`, `tenantId` (the caller's own if absent) | text |
//! | `labels`, `context` | `labels`, `context` | JSON text, map or struct |
//! | `stream` | the stream the row is for | text |
//!
//! Text is any of Arrow's three layouts, plain or behind a dictionary. A struct's null members are absent. What does not
//! fit is refused before a row is read, all of it at once; what is wrong with single rows comes with the rows.
//!
//! Invariant: a row becomes the same members that its JSON would have, and [`super::parse`] checks both. Nothing is
//! copied out of a row before it is known to be no larger than a record may be: a dictionary or a view says little and
//! means much.

mod document;

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, downcast_dictionary_array};
use arrow::datatypes::{
    DataType, Schema, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use catalog::clock::Timestamp;
use catalog::ids::{StreamName, TenantId};
use serde_json::{Map, Value};

use super::json::{VIOLATIONS_MAX, Violation, push_key};
use super::parse::{AuditRecord, RECORD_BYTES_MAX, Refusal, Terms, record};

/// Characters of a type in a report.
const TYPE_CHARACTERS_MAX: usize = 80;

/// One row as a record.
#[derive(Debug)]
pub struct Row {
    /// The record, or what is wrong with it.
    pub record: Result<AuditRecord, Refusal>,
    /// The stream it names.
    pub stream: Option<StreamName>,
    /// About how much it weighs.
    pub bytes: usize,
}

/// What rows are read under.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The tenant of rows that name none.
    pub tenant: &'a TenantId,
    /// The server's clock.
    pub now: Timestamp,
    /// The largest record, at most [`RECORD_BYTES_MAX`].
    pub record_bytes_max: usize,
}

/// Which column of a schema is what.
#[derive(Debug, Clone)]
pub struct Columns {
    found: Vec<(usize, &'static Known)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Instant,
    Document,
    Stream,
}

/// A column that is taken.
#[derive(Debug)]
struct Known {
    name: &'static str,
    /// Where its value stands in a record.
    place: &'static [&'static str],
    kind: Kind,
    required: bool,
}

const fn known(
    name: &'static str,
    place: &'static [&'static str],
    kind: Kind,
    required: bool,
) -> Known {
    Known {
        name,
        place,
        kind,
        required,
    }
}

const KNOWN: &[Known] = &[
    known("tenant_id", &["tenantId"], Kind::Text, false),
    known("idempotency_key", &["idempotencyKey"], Kind::Text, true),
    known("created_at", &["createdAt"], Kind::Instant, true),
    known("action", &["action"], Kind::Text, true),
    known("resource_type", &["resource", "type"], Kind::Text, true),
    known("resource_id", &["resource", "id"], Kind::Text, true),
    known("actor_type", &["actor", "type"], Kind::Text, true),
    known("actor_id", &["actor", "id"], Kind::Text, true),
    known("trace_id", &["correlation", "traceId"], Kind::Text, true),
    known("span_id", &["correlation", "spanId"], Kind::Text, false),
    known("purpose", &["purpose"], Kind::Text, false),
    known("schema_version", &["schemaVersion"], Kind::Text, false),
    known("labels", &["labels"], Kind::Document, false),
    known("context", &["context"], Kind::Document, false),
    known("stream", &[], Kind::Stream, false),
];

impl Columns {
    /// Finds the columns of a schema.
    ///
    /// # Errors
    /// Every column that is unknown, made by the server, of a wrong type, there twice, or missing.
    pub fn of(schema: &Schema) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            let fault = match KNOWN.iter().find(|known| known.name == name) {
                _ if !seen.insert(name) => Some("is there more than once".to_owned()),
                None if super::schema::is_reserved(name) => {
                    Some("is made by the server; leave it out".to_owned())
                }
                None => Some("is not a column that is taken".to_owned()),
                Some(known) => {
                    found.push((index, known));
                    known.fault(field.data_type())
                }
            };
            violations.extend(fault.map(|message| of_column(name, message)));
        }
        for known in KNOWN {
            if known.required && !seen.contains(&known.name.to_owned()) {
                violations.push(of_column(known.name, "is required"));
            }
        }
        violations.truncate(VIOLATIONS_MAX);
        if violations.is_empty() {
            Ok(Self { found })
        } else {
            Err(violations)
        }
    }

    /// The rows of a batch of that schema, one by one.
    pub fn rows<'a>(
        &self,
        batch: &'a RecordBatch,
        reading: Reading<'a>,
    ) -> impl Iterator<Item = Row> + use<'a> {
        let cells: Vec<_> = self
            .found
            .iter()
            .filter_map(|(index, known)| Some((*known, batch.columns().get(*index)?)))
            .collect();
        (0..batch.num_rows()).map(move |row| read(&cells, row, &reading))
    }
}

fn of_column(name: &str, message: impl Into<String>) -> Violation {
    let mut pointer = String::new();
    push_key(&mut pointer, name);
    Violation::new(pointer, message)
}

impl Known {
    /// What is wrong with a column of this type.
    fn fault(&self, data_type: &DataType) -> Option<String> {
        let (fits, expected) = match self.kind {
            Kind::Text | Kind::Stream => (is_text(data_type), "text"),
            Kind::Instant => (
                is_text(data_type) || matches!(data_type, DataType::Timestamp(_, Some(_))),
                "a timestamp with a time zone",
            ),
            Kind::Document => (
                is_text(data_type)
                    || matches!(data_type, DataType::Struct(_) | DataType::Map(_, _))
                        && document::is_document(data_type, 1),
                "JSON text, a map or a struct",
            ),
        };
        let fits = fits || (!self.required && *data_type == DataType::Null);
        (!fits).then(|| {
            let given: String = data_type
                .to_string()
                .chars()
                .take(TYPE_CHARACTERS_MAX)
                .collect();
            format!("must be {expected}, not {given}")
        })
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => matches!(
            **values,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ),
        _ => false,
    }
}

/// How much a row may still weigh.
struct Budget {
    left: usize,
    spent: usize,
}

/// The row is larger than a record may be.
struct Spent;

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), Spent> {
        self.left = self.left.checked_sub(bytes).ok_or(Spent)?;
        self.spent += bytes;
        Ok(())
    }
}

fn read(cells: &[(&'static Known, &ArrayRef)], row: usize, reading: &Reading<'_>) -> Row {
    let mut budget = Budget {
        left: reading.record_bytes_max.min(RECORD_BYTES_MAX),
        spent: 0,
    };
    let mut draft = Draft::default();
    let stream = match draft.fill(cells, row, &mut budget) {
        Ok(()) => draft.stream(),
        Err(Spent) => {
            return Row {
                record: Err(Refusal::TooLarge),
                stream: None,
                bytes: budget.spent,
            };
        }
    };
    Row {
        record: draft.record(reading),
        stream,
        bytes: budget.spent,
    }
}

/// The members a row has so far, and what is wrong with them.
#[derive(Default)]
struct Draft {
    members: Map<String, Value>,
    stream: Option<String>,
    violations: Vec<Violation>,
}

impl Draft {
    fn fill(
        &mut self,
        cells: &[(&'static Known, &ArrayRef)],
        row: usize,
        budget: &mut Budget,
    ) -> Result<(), Spent> {
        // Objects that a record must have are asked for member by member.
        for parent in ["resource", "actor", "correlation"] {
            self.members
                .insert(parent.to_owned(), Value::Object(Map::new()));
        }
        for (known, column) in cells {
            if column.is_null(row) {
                continue;
            }
            // A name in quotes, a colon, quotes and a comma, as in JSON.
            budget.take(known.name.len() + 6)?;
            let value = match (&known.kind, column.data_type()) {
                (Kind::Instant, DataType::Timestamp(unit, _)) => {
                    budget.take(27)?;
                    self.instant(column, row, *unit)
                }
                (Kind::Document, DataType::Struct(_) | DataType::Map(_, _)) => {
                    let mut pointer = format!("/{}", known.name);
                    document::value(column, row, &mut pointer, budget, &mut self.violations)?
                }
                (Kind::Document, _) => match text(column, row) {
                    Some(text) => {
                        budget.take(text.len())?;
                        document::parsed(known.name, text, &mut self.violations)
                    }
                    None => Value::Null,
                },
                (Kind::Text | Kind::Instant | Kind::Stream, _) => match text(column, row) {
                    Some(text) => {
                        budget.take(text.len())?;
                        Value::String(text.to_owned())
                    }
                    None => Value::Null,
                },
            };
            self.put(known.place, value);
        }
        Ok(())
    }

    fn put(&mut self, place: &[&str], value: Value) {
        match (place, value) {
            ([], Value::String(stream)) => self.stream = Some(stream),
            ([name], value) => {
                self.members.insert((*name).to_owned(), value);
            }
            ([parent, name], value) => {
                if let Some(Value::Object(parent)) = self.members.get_mut(*parent) {
                    parent.insert((*name).to_owned(), value);
                }
            }
            _ => {}
        }
    }

    fn instant(&mut self, column: &ArrayRef, row: usize, unit: TimeUnit) -> Value {
        let micros = match unit {
            TimeUnit::Second => {
                let seconds = column.as_primitive::<TimestampSecondType>().value(row);
                seconds.checked_mul(1_000_000)
            }
            TimeUnit::Millisecond => {
                let millis = column.as_primitive::<TimestampMillisecondType>().value(row);
                millis.checked_mul(1_000)
            }
            TimeUnit::Microsecond => {
                Some(column.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            TimeUnit::Nanosecond => {
                let nanos = column.as_primitive::<TimestampNanosecondType>().value(row);
                (nanos % 1_000 == 0).then_some(nanos / 1_000)
            }
        };
        match micros {
            Some(micros) => Timestamp::from_micros(micros).to_string().into(),
            None => {
                let message = "is no time that microseconds hold exactly";
                self.violations.push(of_column("created_at", message));
                Value::Null
            }
        }
    }

    fn stream(&mut self) -> Option<StreamName> {
        let stream = StreamName::parse(self.stream.as_deref()?);
        if stream.is_err() {
            self.violations
                .push(of_column("stream", "is not the name of a stream"));
        }
        stream.ok()
    }

    fn record(mut self, reading: &Reading<'_>) -> Result<AuditRecord, Refusal> {
        self.members
            .entry("tenantId")
            .or_insert_with(|| reading.tenant.as_str().into());
        let terms = Terms {
            now: reading.now,
            header_key: None,
        };
        let mut violations = self.violations;
        match record(self.members, &terms) {
            Ok(record) if violations.is_empty() => return Ok(record),
            Err(Refusal::Invalid(more)) => {
                // What could not be read is not asked for again.
                let known: BTreeSet<_> = violations.iter().map(|one| one.pointer.clone()).collect();
                let more = more.into_iter().map(in_columns);
                violations.extend(more.filter(|one| !known.contains(&one.pointer)));
            }
            Err(refusal) if violations.is_empty() => return Err(refusal),
            Ok(_) | Err(_) => {}
        }
        violations.truncate(VIOLATIONS_MAX);
        Err(Refusal::Invalid(violations))
    }
}

/// The same violation, at the column instead of the place in a record.
fn in_columns(violation: Violation) -> Violation {
    let column = KNOWN.iter().find(|known| {
        let places = known.place.iter();
        !known.place.is_empty()
            && places.fold(String::new(), |pointer, step| format!("{pointer}/{step}"))
                == violation.pointer
    });
    match column {
        Some(known) => of_column(known.name, violation.message),
        None => violation,
    }
}

/// The text in a row of a column of text.
fn text(column: &dyn Array, row: usize) -> Option<&str> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Some(column.as_string_view().value(row)),
        DataType::Dictionary(_, _) => {
            let (values, key) = behind_dictionary(column, row)?;
            text(values, key)
        }
        _ => None,
    }
}

/// The values of a dictionary, and which of them a row means.
fn behind_dictionary(column: &dyn Array, row: usize) -> Option<(&dyn Array, usize)> {
    let key = downcast_dictionary_array!(
        column => column.key(row),
        _ => None
    )?;
    let values: &dyn Array = column.as_any_dictionary().values();
    (key < values.len()).then_some((values, key))
}

#[cfg(test)]
mod tests;
