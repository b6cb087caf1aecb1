//! The tables of the `audit` schema.

use std::fmt;

/// The schema that holds them.
pub(crate) const AUDIT: &str = "audit";

/// The schema that describes them.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// A table that a session may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TableName {
    /// Audit records.
    Records,
    /// Decisions and compliance events.
    Evidence,
    /// What was set aside at ingest.
    Quarantine,
    /// The seals of the logs of records and evidence.
    Segments,
}

impl TableName {
    /// All there are.
    pub(crate) const ALL: [Self; 4] = [
        Self::Records,
        Self::Evidence,
        Self::Quarantine,
        Self::Segments,
    ];

    /// The name in SQL, within the schema.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Evidence => "evidence",
            Self::Quarantine => "quarantine",
            Self::Segments => "segments",
        }
    }

    /// The table of this name, folded as SQL folds it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{AUDIT}.{}", self.as_str())
    }
}
