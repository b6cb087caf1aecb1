//! What the registry knows of a tenant.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{SiloId, StreamName, TenantId};
use crate::keys::TenantKeys;

use super::lifecycle::TenantState;
use super::rotation::TenantKey;

/// Characters of the longest name to show.
pub const DISPLAY_NAME_MAX: usize = 128;
/// Streams one tenant may have.
pub const STREAMS_MAX: usize = 64;
/// Principals that may be bound to one tenant.
pub const PRINCIPALS_MAX: usize = 256;

/// One tenant, as one version of its registry document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantRecord {
    /// Its id in folded form.
    #[serde(with = "stored_id")]
    pub id: TenantId,
    /// Its name as people write it.
    pub display_name: String,
    /// Where its data lives.
    pub silo: SiloId,
    /// Where it is in its life.
    pub state: TenantState,
    /// The streams it may write to. The evidence stream is not among them: nobody writes to that.
    pub streams: BTreeSet<StreamName>,
    /// Its keys.
    pub keys: TenantKeys,
    /// The policy version known to be applied at least: an older one is no longer believed to be the current one.
    pub policy: u64,
    /// Principals whose tenant may come from a header alone: a token's subject, or `issuer subject` where several
    /// issuers are trusted.
    pub principals: BTreeSet<String>,
    /// Since when the newest version of each key is in use, where it is not the first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys_since: BTreeMap<TenantKey, Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version of the document this was read from.
    #[serde(skip)]
    pub etag: u64,
}

/// A tenant to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTenant {
    /// Its id.
    pub id: TenantId,
    /// Its name as people write it; usually the id in its original casing.
    pub display_name: String,
    /// Where its data will live.
    pub silo: SiloId,
    /// The streams it may write to, beside `audit.default` and `audit.security`, which every tenant has.
    pub streams: BTreeSet<StreamName>,
    /// Principals whose tenant may come from a header alone.
    pub principals: BTreeSet<String>,
}

impl NewTenant {
    /// A tenant with what every tenant has.
    #[must_use]
    pub fn new(id: TenantId, silo: SiloId) -> Self {
        Self {
            display_name: id.to_string(),
            id,
            silo,
            streams: BTreeSet::new(),
            principals: BTreeSet::new(),
        }
    }

    /// Why this cannot become a tenant.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let shown = self.display_name.chars();
        if self.id.is_system() {
            Some("the system tenant is reserved")
        } else if self.display_name.is_empty() || shown.clone().count() > DISPLAY_NAME_MAX {
            Some("a display name has 1 to 128 characters")
        } else if shown.clone().any(char::is_control) {
            Some("a display name has no control characters")
        } else if self.streams.contains(&StreamName::evidence()) {
            Some("the evidence stream is not the tenant's to have")
        } else if self.streams.len() > STREAMS_MAX - 2 {
            Some("a tenant has at most 64 streams")
        } else if self.principals.len() > PRINCIPALS_MAX {
            Some("a tenant has at most 256 bound principals")
        } else if self
            .principals
            .iter()
            .any(|principal| principal.trim().is_empty() || principal.len() > 1024)
        {
            Some("a bound principal has 1 to 1024 bytes")
        } else {
            None
        }
    }
}

/// The reserved tenant is in the registry too, and outside the grammar of ids from outside.
mod stored_id {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::ids::TenantId;

    pub(super) fn serialize<S: Serializer>(
        id: &TenantId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TenantId, D::Error> {
        let text = String::deserialize(deserializer)?;
        TenantId::from_stored(&text).map_err(de::Error::custom)
    }
}
