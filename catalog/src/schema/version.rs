//! `major.minor` of a record's schema.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `major.minor` of the record schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaVersion {
    /// Changes when old readers cannot read new records.
    pub major: u16,
    /// Changes when fields are added.
    pub minor: u16,
}

impl SchemaVersion {
    /// The version of records that do not say.
    pub const DEFAULT: Self = Self { major: 1, minor: 0 };

    /// Reads `major.minor`, each of one to four digits without leading zeros.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |digits: &str| {
            let plain =
                matches!(digits.len(), 1..=4) && digits.bytes().all(|byte| byte.is_ascii_digit());
            let plain = plain && (digits == "0" || !digits.starts_with('0'));
            plain.then(|| digits.parse().ok()).flatten()
        };
        Some(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }
}

impl fmt::Display for SchemaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for SchemaVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SchemaVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a version is major.minor"))
    }
}
