//! Pages of records: what an application may filter by and sort by, as one statement for the guard.
//!
//! The fields are those of the `strict` profile ([`STRICT_FILTERABLE`], [`STRICT_SORTABLE`]) under the names that records
//! have when they come in. The guard then refuses those that are masked for the caller or that the tenant's policy does
//! not list. A page goes on after a position, not after a number of rows: what comes in between is neither shown twice
//! nor makes a row be left out.
//!
//! [`STRICT_FILTERABLE`]: catalog::policy::STRICT_FILTERABLE
//! [`STRICT_SORTABLE`]: catalog::policy::STRICT_SORTABLE

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use catalog::clock::Timestamp;
use catalog::ids::{RecordId, StreamName};
use datafusion::common::{ParamValues, ScalarValue};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Values that one field may have at most.
pub const VALUES_MAX: usize = 100;
/// Fields that a listing may filter by at the same time.
pub const FIELDS_MAX: usize = 32;

/// The columns of a page, in their order.
pub const COLUMNS: &[&str] = &[
    "record_id",
    "created_at",
    "ingested_at",
    "stream",
    "action",
    "resource_type",
    "resource_id",
    "actor_type",
    "actor_id",
    "trace_id",
    "span_id",
    "purpose",
    "labels",
    "context",
    "extras",
    "schema_version",
    "policy_version",
];

/// What a listing may filter by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `tenantId`: the caller's own.
    Tenant,
    /// `action`.
    Action,
    /// `resource.type`.
    ResourceType,
    /// `resource.id`.
    ResourceId,
    /// `actor.type`.
    ActorType,
    /// `actor.id`.
    ActorId,
    /// `labels.<name>`.
    Label(String),
}

/// Which way time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// From the newest.
    #[default]
    Descending,
    /// From the oldest.
    Ascending,
}

/// Where a page ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// When the last record was created.
    pub created_at: Timestamp,
    /// Which it is.
    pub record_id: RecordId,
}

/// Which records, in which order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Of this stream only.
    pub stream: Option<StreamName>,
    /// Created then or later.
    pub from: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// With one of these values in each of these fields.
    pub filters: BTreeMap<Field, BTreeSet<String>>,
    /// In this order.
    pub order: Order,
}

impl Field {
    /// The field of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "tenantId" => Self::Tenant,
            "action" => Self::Action,
            "resource.type" => Self::ResourceType,
            "resource.id" => Self::ResourceId,
            "actor.type" => Self::ActorType,
            "actor.id" => Self::ActorId,
            _ => Self::Label(name.strip_prefix("labels.")?.to_owned()),
        })
    }

    /// The name of the field.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Tenant => "tenantId".to_owned(),
            Self::Action => "action".to_owned(),
            Self::ResourceType => "resource.type".to_owned(),
            Self::ResourceId => "resource.id".to_owned(),
            Self::ActorType => "actor.type".to_owned(),
            Self::ActorId => "actor.id".to_owned(),
            Self::Label(name) => format!("labels.{name}"),
        }
    }

    /// Its column; or the label, which has none of its own.
    pub(crate) fn place(&self) -> Result<&'static str, &str> {
        match self {
            Self::Tenant => Ok("tenant_id"),
            Self::Action => Ok("action"),
            Self::ResourceType => Ok("resource_type"),
            Self::ResourceId => Ok("resource_id"),
            Self::ActorType => Ok("actor_type"),
            Self::ActorId => Ok("actor_id"),
            Self::Label(name) => Err(name),
        }
    }

    fn expression(&self) -> String {
        match self.place() {
            Ok(column) => column.to_owned(),
            Err(label) => format!("labels['{}']", label.replace('\'', "''")),
        }
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| de::Error::custom("not a field"))
    }
}

impl Listing {
    /// The statement of a page, and its parameters: `limit` records, after a position if there is one.
    #[must_use]
    pub fn page(&self, after: Option<Position>, limit: usize) -> (Arc<str>, ParamValues) {
        let (beyond, way) = match self.order {
            Order::Descending => ('<', "DESC"),
            Order::Ascending => ('>', "ASC"),
        };
        let mut bound = Bound::default();
        let mut tests = self.conditions(&mut bound);
        if let Some(after) = after {
            let time = bound.instant(after.created_at);
            let record = bound.text(&after.record_id.to_string());
            tests.push(format!(
                "(created_at, record_id) {beyond} ({time}, {record})"
            ));
        }
        let columns = COLUMNS.join(", ");
        let selected = selected(&columns, &tests);
        let sql = format!("{selected} ORDER BY created_at {way}, record_id {way} LIMIT {limit}");
        (sql.into(), bound.into_parameters())
    }

    /// What holds for the records of the listing, each a condition of its own.
    pub(crate) fn conditions(&self, bound: &mut Bound) -> Vec<String> {
        let mut tests = Vec::new();
        if let Some(stream) = &self.stream {
            tests.push(format!("stream = {}", bound.text(stream.as_str())));
        }
        if let Some(from) = self.from {
            tests.push(format!("created_at >= {}", bound.instant(from)));
        }
        if let Some(until) = self.until {
            tests.push(format!("created_at < {}", bound.instant(until)));
        }
        for (field, values) in &self.filters {
            let values: Vec<_> = values.iter().map(|value| bound.text(value)).collect();
            tests.push(format!("{} IN ({})", field.expression(), values.join(", ")));
        }
        tests
    }
}

/// A statement that selects these columns of the records for which all of these conditions hold.
pub(crate) fn selected(columns: &str, tests: &[String]) -> String {
    let mut sql = format!("SELECT {columns} FROM audit.records");
    for (number, test) in tests.iter().enumerate() {
        let word = if number == 0 { "WHERE" } else { "AND" };
        // Writing to a text does not fail.
        let _ = write!(sql, " {word} {test}");
    }
    sql
}

/// Values that a statement names by number.
#[derive(Default)]
pub(crate) struct Bound(Vec<ScalarValue>);

impl Bound {
    pub(crate) fn into_parameters(self) -> ParamValues {
        ParamValues::from(self.0)
    }

    pub(crate) fn number(&mut self, number: i64) -> String {
        self.bind(ScalarValue::from(number))
    }

    pub(crate) fn text(&mut self, text: &str) -> String {
        self.bind(ScalarValue::from(text))
    }

    pub(crate) fn instant(&mut self, instant: Timestamp) -> String {
        let utc = Some("UTC".into());
        self.bind(ScalarValue::TimestampMicrosecond(
            Some(instant.as_micros()),
            utc,
        ))
    }

    fn bind(&mut self, value: ScalarValue) -> String {
        self.0.push(value);
        format!("${}", self.0.len())
    }
}
