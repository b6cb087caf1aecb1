//! A place in a record that a schema change may touch.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes of the longest pointer.
const BYTES_MAX: usize = 512;
/// Keys of the longest pointer, below its part.
const KEYS_MAX: usize = 16;

/// The open parts of a record. All else has a column of its own and never changes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `context`
    Context,
    /// `labels`: text by key.
    Labels,
    /// `extras`: top-level fields that schema 1.0 does not have.
    Extras,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Context, Self::Labels, Self::Extras];

    /// The first key of its pointers, and the name of its column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Context => "context",
            Self::Labels => "labels",
            Self::Extras => "extras",
        }
    }
}

/// A JSON pointer (RFC 6901) to a place below `context`, `labels` or `extras`, by the keys of objects only: it never
/// leads into an array. A label has one key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pointer {
    part: Part,
    keys: Vec<String>,
}

/// Why a text is no such pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PointerError {
    /// Another part of the record, or none.
    #[error("a path is a JSON pointer below /context, /labels or /extras")]
    Part,
    /// An empty key, a control character, or a tilde that escapes nothing.
    #[error("a path has no empty keys, no control characters, and ~ only as ~0 or ~1")]
    Key,
    /// Over one of the two limits.
    #[error("a path has at most {BYTES_MAX} bytes and {KEYS_MAX} keys")]
    TooLong,
    /// A label is text: nothing lies in it.
    #[error("a path to a label has one key")]
    Label,
}

impl Pointer {
    /// Reads the text form.
    ///
    /// # Errors
    /// What of the grammar the text misses.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        if text.len() > BYTES_MAX {
            return Err(PointerError::TooLong);
        }
        let mut steps = text.split('/');
        let (Some(""), Some(first)) = (steps.next(), steps.next()) else {
            return Err(PointerError::Part);
        };
        let part = Part::ALL.into_iter().find(|part| part.as_str() == first);
        let part = part.ok_or(PointerError::Part)?;
        let keys: Vec<String> = steps.map(unescaped).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(PointerError::Part);
        }
        if keys.len() > KEYS_MAX {
            return Err(PointerError::TooLong);
        }
        if part == Part::Labels && keys.len() > 1 {
            return Err(PointerError::Label);
        }
        Ok(Self { part, keys })
    }

    /// The part it lies in.
    #[must_use]
    pub fn part(&self) -> Part {
        self.part
    }

    /// The keys below the part; one at least.
    #[must_use]
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Whether `other` is this place or lies below it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.part == other.part && other.keys.starts_with(&self.keys)
    }

    /// Whether one of the two lies in the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The place beside this one that has another last key.
    #[must_use]
    pub fn beside(&self, key: &str) -> Self {
        let mut keys = self.keys.clone();
        keys.pop();
        keys.push(key.to_owned());
        Self {
            part: self.part,
            keys,
        }
    }
}

fn unescaped(step: &str) -> Result<String, PointerError> {
    let mut key = String::with_capacity(step.len());
    let mut characters = step.chars();
    while let Some(character) = characters.next() {
        key.push(match character {
            '~' => match characters.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PointerError::Key),
            },
            control if control.is_control() => return Err(PointerError::Key),
            other => other,
        });
    }
    if key.is_empty() {
        return Err(PointerError::Key);
    }
    Ok(key)
}

/// A key as a step of a JSON pointer (RFC 6901).
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.part.as_str())?;
        for key in &self.keys {
            write!(f, "/{}", escaped(key))?;
        }
        Ok(())
    }
}

impl Serialize for Pointer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_read_and_write() {
        for text in [
            "/context/a",
            "/context/a~1b/c~0d",
            "/labels/app.io~1name",
            "/extras/x/0",
        ] {
            assert_eq!(
                Pointer::parse(text).map(|at| at.to_string()),
                Ok(text.to_owned())
            );
        }
        for (text, wanted) in [
            ("", PointerError::Part),
            ("/", PointerError::Part),
            ("context/a", PointerError::Part),
            ("/context", PointerError::Part),
            ("/actor/id", PointerError::Part),
            ("/tenantId", PointerError::Part),
            ("/action", PointerError::Part),
            ("/context/", PointerError::Key),
            ("/context/a~2", PointerError::Key),
            ("/context/a\n", PointerError::Key),
            ("/labels/a/b", PointerError::Label),
        ] {
            assert_eq!(Pointer::parse(text), Err(wanted), "{text}");
        }
        let long = format!("/context{}", "/k".repeat(KEYS_MAX + 1));
        assert_eq!(Pointer::parse(&long), Err(PointerError::TooLong));
    }
}
