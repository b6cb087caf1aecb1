//! The bundle: one tenant's policy as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::context::Role;
use crate::ids::{PolicyVersion, SiloId, StreamName, TenantId};

use super::path::FieldPath;
use super::rule::{MaskProfile, MaskRule, WriteRule};

/// Bytes of the largest bundle.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;
/// Different retention classes one bundle may use: each is a partition of every table.
pub const RETENTION_CLASSES_MAX: usize = 16;
/// Columns that the `strict` query mode filters by, besides labels.
pub const STRICT_FILTERABLE: &[&str] = &[
    "created_at",
    "action",
    "resource_type",
    "resource_id",
    "actor_type",
    "actor_id",
    "labels",
];
/// Columns that the `strict` query mode sorts by.
pub const STRICT_SORTABLE: &[&str] = &["created_at", "record_id"];

/// A tenant's policy, checked: whatever holds a `Bundle` may rely on everything `check` refuses not being in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose policy.
    pub tenant: TenantId,
    /// Which version, from 1.
    pub version: u64,
    /// The signing key the author expects, where they say so.
    pub signing_key: Option<String>,
    /// Where the data may live.
    pub residency: Residency,
    /// How long each stream is kept.
    pub retention: BTreeMap<StreamName, Retention>,
    /// What happens to fields before they are stored.
    pub fields: Vec<FieldRule>,
    /// The masks of each role, by the role's short name. Never empty.
    pub masking_profiles: BTreeMap<String, MaskProfile>,
    /// What may be filtered and sorted by.
    pub query: QueryPolicy,
    /// Who may export what.
    pub export: ExportPolicy,
    /// What a read does when the current version cannot be confirmed.
    pub stale_mode: StaleMode,
}

/// Where a tenant's data may live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Residency {
    /// The silos that may serve it. Never empty.
    pub allowed_silos: BTreeSet<SiloId>,
    /// Whether writes may go to another of them when their own is down.
    pub write_failover: WriteFailover,
}

/// Whether writes may go elsewhere in need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteFailover {
    /// Never.
    #[default]
    Forbidden,
    /// To an allowed silo.
    Allowed,
}

/// How long records of a stream are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Days from ingestion.
    pub ttl_days: u32,
    /// Days between the end of that and the deletion.
    pub grace_days: u32,
    /// The partition that records of the stream go to.
    pub class: RetentionClass,
}

/// One field and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldRule {
    /// Which values.
    pub path: FieldPath,
    /// What they are, `pii.email` for example.
    pub class: Option<String>,
    /// What happens to them before they are stored.
    pub write: WriteRule,
    /// The column of their own that they get.
    pub promote: Option<ColumnName>,
}

/// What queries may filter and sort by. What is masked for a caller they may never filter by, whatever stands here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueryPolicy {
    /// The rules in general.
    pub mode: QueryMode,
    /// Exactly these columns, instead of the mode's.
    pub filterable: Option<BTreeSet<String>>,
    /// Exactly these columns, instead of the mode's.
    pub sortable: Option<BTreeSet<String>>,
}

/// How much of SQL is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryMode {
    /// Every unmasked column.
    #[default]
    Default,
    /// The few columns of [`STRICT_FILTERABLE`] and [`STRICT_SORTABLE`].
    Strict,
}

/// Who may export what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportPolicy {
    /// The roles that may; nobody by default.
    pub allowed_actors: BTreeSet<Role>,
    /// The formats they may take.
    pub formats: BTreeSet<String>,
    /// Whether they must say why.
    pub purpose_required: bool,
}

/// What a read does under a policy that could not be confirmed as current.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StaleMode {
    /// Goes on, tagged.
    #[default]
    Serve,
    /// Stops.
    Reject,
}

/// The name of a promoted column: `[a-z][a-z0-9_]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnName(String);

/// The name of a retention class: `[a-z0-9][a-z0-9_-]{0,31}`, safe as part of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetentionClass(String);

/// A bundle that was refused, with every reason there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy bundle was refused for {} reason(s)", reasons.len())]
pub struct BundleRefused {
    /// For the author of the bundle: where, and what is wrong.
    pub reasons: Vec<String>,
}

/// A bundle whose signature was verified, fixed for as long as a request lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedPolicy {
    /// The policy.
    pub bundle: Bundle,
    /// Its name in records and evidence.
    pub version: PolicyVersion,
    /// SHA-256 of the signed bytes.
    pub digest: [u8; 32],
}

impl Bundle {
    /// What onboarding applies as version 1, as text for people to start from.
    #[must_use]
    pub fn default_yaml(tenant: &TenantId, silo: &SiloId) -> String {
        include_str!("default.yaml")
            .replace("{tenant}", tenant.as_str())
            .replace("{silo}", silo.as_str())
    }

    /// The promoted columns and the fields they come from, in the order of the bundle.
    pub fn promoted(&self) -> impl Iterator<Item = (&ColumnName, &FieldPath)> {
        self.fields
            .iter()
            .filter_map(|rule| Some((rule.promote.as_ref()?, &rule.path)))
    }

    /// What happens to the values at `path` before they are stored: the strictest rule that covers it.
    #[must_use]
    pub fn write_rule_for(&self, path: &FieldPath) -> WriteRule {
        let covering = self.fields.iter().filter(|rule| rule.path.covers(path));
        covering.fold(WriteRule::Keep, |strictest, rule| {
            strictest.stricter(rule.write)
        })
    }

    /// What `profile` does to a column of the records table. For a promoted column that is the strictest of what is
    /// said about its name and about the field it comes from.
    #[must_use]
    pub fn mask_for_column(&self, profile: &MaskProfile, column: &str) -> MaskRule {
        let Some((_, from)) = self.promoted().find(|(name, _)| name.as_str() == column) else {
            return profile.rule_for(&FieldPath::Column(column.to_owned()));
        };
        let by_name = profile.rule_for(&FieldPath::AnyKey(column.to_owned()));
        by_name.stricter(profile.rule_for(from))
    }

    /// The partition that a record of `stream` goes to. A stream the bundle does not name is kept for good.
    #[must_use]
    pub fn retention_class(&self, stream: &StreamName) -> RetentionClass {
        self.retention
            .get(stream)
            .map_or_else(RetentionClass::kept, |retention| retention.class.clone())
    }

    /// The profile for callers whose role has none: everything that any profile masks, as strictly as any does.
    #[must_use]
    pub fn strictest_profile(&self) -> MaskProfile {
        MaskProfile::merged("strictest".to_owned(), self.masking_profiles.values())
    }
}

impl QueryPolicy {
    /// Whether an unmasked column may be filtered by.
    #[must_use]
    pub fn may_filter(&self, column: &str) -> bool {
        self.admits(self.filterable.as_ref(), STRICT_FILTERABLE, column)
    }

    /// Whether a column may be sorted by.
    #[must_use]
    pub fn may_sort(&self, column: &str) -> bool {
        self.admits(self.sortable.as_ref(), STRICT_SORTABLE, column)
    }

    fn admits(&self, listed: Option<&BTreeSet<String>>, strict: &[&str], column: &str) -> bool {
        match (listed, self.mode) {
            (Some(listed), _) => listed.contains(column),
            (None, QueryMode::Strict) => strict.contains(&column),
            (None, QueryMode::Default) => true,
        }
    }
}

impl ColumnName {
    /// Takes a name of the grammar; collisions with columns of the table are the bundle's check to find.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let good = text.len() <= 63
            && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        good.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ColumnName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ColumnName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RetentionClass {
    /// Takes a name of the grammar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let good = text.len() <= 32
            && bytes
                .next()
                .is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
            && bytes.all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte)
            });
        good.then(|| Self(text.to_owned()))
    }

    /// The class of what no retention rule names.
    #[must_use]
    pub fn kept() -> Self {
        Self("kept".to_owned())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RetentionClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
