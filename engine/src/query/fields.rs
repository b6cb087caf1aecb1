//! How a field is named when it is allowed or refused, and which fields a caller may filter and sort by.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::table_name::TableName;

/// A column of a table, or one label of its map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Field {
    /// The table it stands in.
    pub(crate) table: TableName,
    /// The column.
    pub(crate) column: Arc<str>,
    /// The key, where one entry of a map is named by a literal.
    pub(crate) key: Option<Arc<str>>,
}

/// The fields that an expression's value is made of.
pub(crate) type Fields = BTreeSet<Field>;

impl Field {
    pub(crate) fn column(table: TableName, column: &str) -> Self {
        Self {
            table,
            column: column.into(),
            key: None,
        }
    }

    /// One entry of this map column.
    pub(crate) fn at(&self, key: &str) -> Self {
        Self {
            key: Some(key.into()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}.{key}", self.column),
            None => f.write_str(&self.column),
        }
    }
}
