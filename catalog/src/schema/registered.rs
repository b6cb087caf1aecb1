//! What a tenant has registered, as one version of its document says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::StreamName;

use super::compatibility::Compatibility;
use super::upcaster::Upcaster;
use super::version::SchemaVersion;

/// Versions one stream may have.
pub(super) const VERSIONS_MAX: usize = 64;
/// How long a version goes on after it was said to end.
pub(super) const DEPRECATED_DAYS_MIN: u32 = 90;
/// The longest notice.
pub(super) const DEPRECATED_DAYS_MAX: u32 = 3_650;

/// All schemas of a tenant.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantSchemas {
    /// By stream; a stream without schemas is not there.
    pub streams: BTreeMap<StreamName, StreamSchemas>,
    /// The version of the document this was read from; 0 if there is none.
    #[serde(skip)]
    pub etag: u64,
}

/// The schemas of one stream.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSchemas {
    /// What a new version must be able to.
    pub required: Required,
    /// Oldest first. Never empty in a document.
    pub versions: Vec<Registered>,
}

/// One version of a stream's schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Registered {
    /// `major.minor`.
    pub version: SchemaVersion,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// SHA-256 of its text, in hexadecimal digits.
    pub digest: String,
    /// The version of the document that holds its text.
    pub document: u64,
    /// How records of the version before are read as records of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upcaster: Option<Upcaster>,
    /// Whether it is about to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
}

/// The announcement that a version will end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deprecation {
    /// When it was made.
    pub since: Timestamp,
    /// When the version ends, 90 days later at the earliest.
    pub sunset: Timestamp,
}

/// What a new version must be able to, compared with the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Required {
    /// The new schema reads old records.
    #[default]
    Backward,
    /// The old schema reads new records.
    Forward,
    /// Both.
    Full,
}

impl Required {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Backward, Self::Forward, Self::Full];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Full => "full",
        }
    }

    /// Whether a change is good enough.
    #[must_use]
    pub const fn admits(self, found: Compatibility) -> bool {
        match (self, found) {
            (_, Compatibility::Full)
            | (Self::Backward, Compatibility::Backward)
            | (Self::Forward, Compatibility::Forward) => true,
            (
                Self::Backward | Self::Forward | Self::Full,
                Compatibility::Backward | Compatibility::Forward | Compatibility::Breaking,
            ) => false,
        }
    }
}

impl StreamSchemas {
    /// One version, if it is registered.
    #[must_use]
    pub fn get(&self, version: SchemaVersion) -> Option<&Registered> {
        self.versions.iter().find(|known| known.version == version)
    }

    /// The newest version.
    #[must_use]
    pub fn latest(&self) -> Option<&Registered> {
        self.versions.last()
    }

    /// The major versions that records may be of.
    #[must_use]
    pub fn majors(&self) -> BTreeSet<u16> {
        self.versions
            .iter()
            .map(|known| known.version.major)
            .collect()
    }

    /// The upcasters, oldest first. A record of version `v` goes through those whose `to` is newer than `v`; between two
    /// that do not touch lie only minor versions, whose records the next one reads as they are.
    pub fn chain(&self) -> impl Iterator<Item = &Upcaster> {
        self.versions
            .iter()
            .filter_map(|known| known.upcaster.as_ref())
    }
}

impl TenantSchemas {
    /// Whether any stream has an upcaster with something to do.
    #[must_use]
    pub fn evolves(&self) -> bool {
        let mut chains = self.streams.values().flat_map(StreamSchemas::chain);
        chains.any(|upcaster| !upcaster.steps.is_empty())
    }

    /// The major versions that records of a stream may be of: 1 where nothing is registered.
    #[must_use]
    pub fn majors(&self, stream: &StreamName) -> BTreeSet<u16> {
        match self.streams.get(stream) {
            Some(schemas) => schemas.majors(),
            None => BTreeSet::from([SchemaVersion::DEFAULT.major]),
        }
    }

    /// The announced end of a version of a stream.
    #[must_use]
    pub fn deprecation(&self, stream: &StreamName, version: SchemaVersion) -> Option<Deprecation> {
        self.streams.get(stream)?.get(version)?.deprecated
    }
}

impl Deprecation {
    /// Announced now, for the end of these days.
    pub(super) fn announced(now: Timestamp, days: u32) -> Self {
        Self {
            since: now,
            sunset: now.plus(Duration::from_secs(u64::from(days) * 86_400)),
        }
    }
}
