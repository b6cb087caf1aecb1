//! `leaf_layout`: which values of a record are committed apart from the rest of it, and where they are stored.
//!
//! The RFC 8785 text of an array of texts, which stand in this order:
//!
//! - columns that policy has a rule for, by name and in the order of the schema: `actor_id`;
//! - places that were cut out of the record, in byte order of their JSON pointers: `/context/user/email` where the value
//!   is in `sealed_fields`, and `user_name:/context/user/name` where it is in the promoted column `user_name`.
//!
//! The first of `/` and `:` tells them apart: column names have neither. Columns that no rule can name, `tenant_id`,
//! `record_id` and `stream` among them, are never here.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::canonical::{NoCanonicalForm, text};

/// What separates a promoted column from the pointer of its value.
const IN_COLUMN: char = ':';

/// One value that is committed apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The whole of a column of every record.
    Column(&'a str),
    /// A value in `sealed_fields`, under this pointer.
    Sealed(&'a str),
    /// A value in a promoted column.
    Promoted {
        /// The column.
        column: &'a str,
        /// Where the value stood in the record.
        pointer: &'a str,
    },
}

/// A text that is no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the leaf layout of a record cannot be read")]
pub struct MalformedLayout;

/// A layout that was read.
#[derive(Debug, Default)]
pub struct Layout<'a>(Vec<Name<'a>>);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Layout<'a> {
    /// Reads a layout. Whether its order is the one it must have, is for those who rely on it to check.
    ///
    /// # Errors
    /// If it is no JSON array of texts.
    pub fn parse(layout: &'a str) -> Result<Self, MalformedLayout> {
        if layout == "[]" {
            return Ok(Self::default());
        }
        serde_json::from_str(layout)
            .map(Self)
            .map_err(|_| MalformedLayout)
    }

    /// The values, in order.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        self.0.iter().map(|name| entry(&name.0))
    }
}

/// The text of a layout.
pub(crate) fn write<'e>(
    entries: impl IntoIterator<Item = Entry<'e>>,
) -> Result<String, NoCanonicalForm> {
    let names = entries.into_iter().map(|entry| match entry {
        Entry::Column(name) | Entry::Sealed(name) => Value::from(name),
        Entry::Promoted { column, pointer } => format!("{column}{IN_COLUMN}{pointer}").into(),
    });
    text(&names.collect())
}

fn entry(name: &str) -> Entry<'_> {
    if name.starts_with('/') {
        return Entry::Sealed(name);
    }
    match name.split_once(IN_COLUMN) {
        Some((column, pointer)) => Entry::Promoted { column, pointer },
        None => Entry::Column(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let entries = [
            Entry::Column("actor_id"),
            Entry::Sealed("/context/a:b\"\u{e9}\u{1}"),
            Entry::Promoted {
                column: "c",
                pointer: "/context/x:/y",
            },
        ];
        let written = write(entries).unwrap();
        assert_eq!(
            written,
            "[\"actor_id\",\"/context/a:b\\\"\u{e9}\\u0001\",\"c:/context/x:/y\"]"
        );
        assert!(Layout::parse(&written).unwrap().entries().eq(entries));
        assert_eq!(Layout::parse("[]").unwrap().entries().len(), 0);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "{}", "[1]", "[\"a\"", "[\"a\"]x", "[[\"a\"]]"] {
            assert_eq!(Layout::parse(text).unwrap_err(), MalformedLayout, "{text}");
        }
    }
}
