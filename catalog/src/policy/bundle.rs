//! The bundle: one tenant's policy as a value.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::context::Role;
use crate::ids::{PolicyVersion, SiloId, StreamName, TenantId};

use super::path::FieldPath;
use super::rego::Rego;
use super::row::RowPolicy;
use super::rule::{MaskProfile, MaskRule, WriteRule};
use super::{check, parse};

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
    /// Masks by the short name of the role they are for, or by a name that `purposes` or the Rego module uses.
    /// Never empty.
    pub masking_profiles: BTreeMap<String, MaskProfile>,
    /// The profiles that stand in for those of a role where the caller's token has a purpose, by purpose.
    pub purposes: BTreeMap<String, BTreeMap<Role, String>>,
    /// Which rows callers may know of, by name.
    pub row_policies: BTreeMap<String, RowPolicy>,
    /// What is asked beside all that.
    pub rego: Option<Arc<Rego>>,
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
    /// Days of the longest time range of one export; with it, every export names its range.
    pub max_days: Option<u32>,
    /// Records of the largest export.
    pub max_records: Option<u64>,
    /// Bytes of all files of the largest export.
    pub max_bytes: Option<u64>,
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
    /// Reads and checks a bundle for `tenant`.
    ///
    /// # Errors
    /// Every reason to refuse it: not YAML, unknown or missing keys, values out of range, rules that cannot work.
    pub fn parse(yaml: &[u8], tenant: &TenantId) -> Result<Self, BundleRefused> {
        Self::checked(parse::bundle(yaml, Some(tenant))?)
    }

    /// The same for whoever the bundle says it is for: to look at, and never to decide by.
    ///
    /// # Errors
    /// Those of [`Bundle::parse`].
    pub fn parse_any(yaml: &[u8]) -> Result<Self, BundleRefused> {
        Self::checked(parse::bundle(yaml, None)?)
    }

    fn checked(bundle: Self) -> Result<Self, BundleRefused> {
        let reasons = check::reasons_against(&bundle);
        if reasons.is_empty() {
            Ok(bundle)
        } else {
            Err(BundleRefused { reasons })
        }
    }

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

    /// The class of a retention rule that names none.
    #[must_use]
    pub fn standard() -> Self {
        Self("standard".to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Generalize, MaskRule};

    fn tenant() -> TenantId {
        TenantId::parse("splootvets").unwrap()
    }

    fn parse(yaml: &str) -> Result<Bundle, Vec<String>> {
        Bundle::parse(yaml.as_bytes(), &tenant()).map_err(|refused| refused.reasons)
    }

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(text).unwrap()
    }

    /// The smallest bundle, with lines of the test's own.
    fn with(lines: &str) -> String {
        let base = "tenant: splootvets\nversion: 2\nresidency: { allowedSilos: [us] }\n";
        let mut yaml = base.to_owned();
        for (section, text) in [
            (
                "retention:",
                "retention: { streams: { audit.default: { ttlDays: 1 } } }\n",
            ),
            ("maskingProfiles:", "maskingProfiles: { Reader: {} }\n"),
        ] {
            if !lines.contains(section) {
                yaml.push_str(text);
            }
        }
        yaml + lines
    }

    #[track_caller]
    fn refused(lines: &str, reason: &str) {
        let reasons = parse(&with(lines)).unwrap_err();
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{reason:?} not in {reasons:#?}"
        );
    }

    const SOURCES_EXAMPLE: &str = r#"
tenant: splootvets
version: 42
signingKey: kms://us/policy/signing/v2
residency:
  allowedSilos: [us]
  writeFailover: forbidden
retention:
  streams:
    audit.default: { ttlDays: 365, graceDays: 7 }
    audit.security: { ttlDays: 2555, graceDays: 14 } # ~7y
redaction:
  defaultByField:
    email: { kind: HASH, params: { algo: SHA256, saltRef: "tenant-salt" } }
    phone: { kind: MASK, params: { showLast: 4 } }
maskingProfiles:
  Investigator: { email: MASK, phone: MASK }
  Reader: { email: HASH, phone: HASH }
export:
  allowedActors: ["Export.Operator","Export.Admin"]
  formats: ["parquet","ndjson"]
  purposeRequired: true
"#;

    #[test]
    fn the_short_form_is_read() {
        let bundle = parse(SOURCES_EXAMPLE).unwrap();
        assert_eq!(bundle.version, 42);
        assert_eq!(
            bundle.signing_key.as_deref(),
            Some("kms://us/policy/signing/v2")
        );
        assert_eq!(
            bundle.write_rule_for(&path("context.a.EMAIL")),
            WriteRule::Hash
        );
        assert_eq!(
            bundle.write_rule_for(&path("phone")),
            WriteRule::Mask {
                show_first: 0,
                show_last: 4
            }
        );
        assert_eq!(bundle.write_rule_for(&path("context.a")), WriteRule::Keep);
        let reader = &bundle.masking_profiles["Reader"];
        assert_eq!(
            reader.rule_for(&path("context.owner[*].phone")),
            MaskRule::Hash
        );
        assert_eq!(
            bundle.export.allowed_actors,
            BTreeSet::from([Role::ExportOperator, Role::ExportAdmin])
        );
        let export = &bundle.export;
        assert_eq!(
            (export.max_days, export.max_records, export.max_bytes),
            (None, None, None)
        );
        assert_eq!(
            bundle
                .retention_class(&StreamName::audit_default())
                .as_str(),
            "standard"
        );
        assert_eq!(
            bundle
                .retention_class(&StreamName::parse("other").unwrap())
                .as_str(),
            "kept"
        );
        assert_eq!(bundle.stale_mode, StaleMode::Serve);
    }

    #[test]
    fn the_long_form_is_read() {
        let lines = r#"
fields:
  - { path: context.userIdentity.userName, class: pii.name, write: HASH, promote: user_name }
  - { path: labels.env, promote: env }
  - { path: actor_id, write: TOKEN }
maskingProfiles:
  Audit.Reader:
    user_name: MASK
    context.userIdentity: REDACT
    created_at: { kind: GENERALIZE, params: { to: day } }
  Investigator: { userName: { kind: MASK, params: { showFirst: 1 } } }
query: { mode: strict, filterable: [action, user_name] }
staleMode: reject
"#;
        let bundle = parse(&with(lines)).unwrap();
        let promoted: Vec<_> = bundle
            .promoted()
            .map(|(name, path)| format!("{name}={path}"))
            .collect();
        assert_eq!(
            promoted,
            ["user_name=context.userIdentity.userName", "env=labels.env"]
        );
        assert_eq!(bundle.write_rule_for(&path("actor_id")), WriteRule::Token);
        let (reader, investigator) = (
            &bundle.masking_profiles["Reader"],
            &bundle.masking_profiles["Investigator"],
        );
        assert_eq!(
            bundle.mask_for_column(reader, "user_name"),
            MaskRule::Redact
        );
        assert_eq!(bundle.mask_for_column(reader, "env"), MaskRule::Clear);
        assert_eq!(
            bundle.mask_for_column(reader, "created_at"),
            MaskRule::Generalize(Generalize::Day)
        );
        let partial = MaskRule::Mask {
            show_first: 1,
            show_last: 0,
        };
        assert_eq!(bundle.mask_for_column(investigator, "user_name"), partial);
        assert!(bundle.query.may_filter("user_name") && !bundle.query.may_filter("created_at"));
        assert!(bundle.query.may_sort("created_at") && !bundle.query.may_sort("action"));
        assert_eq!(bundle.stale_mode, StaleMode::Reject);
    }

    #[test]
    fn exports_are_bounded_where_the_bundle_says_so() {
        let lines =
            "export: { formats: [ndjson], maxDays: 36500, maxRecords: 1, maxBytes: 5000000000 }\n";
        let export = parse(&with(lines)).unwrap().export;
        let wanted = ExportPolicy {
            formats: BTreeSet::from(["ndjson".to_owned()]),
            purpose_required: true,
            max_days: Some(36_500),
            max_records: Some(1),
            max_bytes: Some(5_000_000_000),
            ..ExportPolicy::default()
        };
        assert_eq!(export, wanted);
        assert!(ExportPolicy::default().allowed_actors.is_empty());
        for (member, reason) in [
            ("maxDays: 0", "export.maxDays: must be a whole number"),
            ("maxDays: 36501", "export.maxDays: must be a whole number"),
            ("maxRecords: 0", "export.maxRecords: must be a whole number"),
            ("maxRecords: x", "export.maxRecords: must be a whole number"),
            ("maxBytes: 0", "export.maxBytes: must be a whole number"),
            ("maxBytes: 1.5", "export.maxBytes: must be a whole number"),
            ("maxbytes: 1", "export.maxbytes: unknown key"),
            (
                "formats: [csv]",
                "export.formats[0]: must be parquet or ndjson",
            ),
        ] {
            refused(&format!("export: {{ {member} }}\n"), reason);
        }
    }

    #[test]
    fn the_default_bundle_is_accepted_and_tells_the_roles_apart() {
        for tenant in [
            tenant(),
            TenantId::system(),
            TenantId::parse("123").unwrap(),
        ] {
            let yaml = Bundle::default_yaml(&tenant, &SiloId::parse("local").unwrap());
            let bundle = Bundle::parse(yaml.as_bytes(), &tenant).unwrap();
            assert_eq!((bundle.version, bundle.retention.len()), (1, 2));
            let profile = |name: &str| &bundle.masking_profiles[name];
            for (field, reader, investigator) in [
                ("actor_id", MaskRule::Hash, MaskRule::Clear),
                (
                    "context.sourceIPAddress",
                    MaskRule::Generalize(Generalize::IpPrefix),
                    MaskRule::Clear,
                ),
                (
                    "context.requestParameters.name",
                    MaskRule::Redact,
                    MaskRule::Clear,
                ),
            ] {
                assert_eq!(profile("Reader").rule_for(&path(field)), reader, "{field}");
                assert_eq!(
                    profile("Investigator").rule_for(&path(field)),
                    investigator,
                    "{field}"
                );
            }
            for secret in [
                "password",
                "secretAccessKey",
                "sessionToken",
                "SSN",
                "Authorization",
                "accessKeyId",
            ] {
                let stored = bundle.write_rule_for(&path(&format!("context.a[*].{secret}")));
                assert!(
                    stored.stricter(WriteRule::Token) == stored,
                    "{secret}: {stored:?}"
                );
            }
        }
    }

    #[test]
    fn the_strictest_profile_is_at_least_as_strict_as_every_other() {
        let yaml = Bundle::default_yaml(&tenant(), &SiloId::parse("local").unwrap());
        let bundle = parse(&yaml).unwrap();
        let strictest = bundle.strictest_profile();
        for (path, rule) in bundle
            .masking_profiles
            .values()
            .flat_map(|profile| &profile.fields)
        {
            assert!(
                strictest.rule_for(path).strictness() >= rule.strictness(),
                "{path}"
            );
        }
        assert_eq!(strictest.rule_for(&path("actor_id")), MaskRule::Token);
    }

    #[test]
    fn every_reason_is_listed_at_once() {
        let lines = "colour: red\nstaleMode: maybe\nfields: [{ path: 'a.b', wrote: X }]\nexport: { formats: [xml] }\n";
        let reasons = parse(&with(lines)).unwrap_err();
        for wanted in [
            "colour: unknown key",
            "staleMode: must be",
            "fields[0].wrote: unknown",
            "fields[0].path:",
            "export.formats[0]:",
        ] {
            assert!(
                reasons.iter().any(|reason| reason.starts_with(wanted)),
                "{wanted} not in {reasons:#?}"
            );
        }
    }

    #[test]
    fn malformed_documents_are_refused() {
        for yaml in [
            "",
            "[]",
            "a: [",
            "a: 1\na: 2",
            "x: &a 1\ny: *a",
            "--- {}\n--- {}",
            "tenant: \u{7}",
        ] {
            assert!(parse(yaml).is_err(), "{yaml:?}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&deep).is_err());
        assert!(parse(&" ".repeat(BUNDLE_BYTES_MAX + 1)).unwrap_err()[0].contains("bytes"));
        assert!(Bundle::parse(&[0xff, 0xfe, 0xff], &tenant()).is_err());
    }

    #[test]
    fn missing_and_foreign_parts_are_refused() {
        let reasons = parse("{}").unwrap_err();
        for key in [
            "tenant",
            "version",
            "residency",
            "retention",
            "maskingProfiles",
        ] {
            assert!(
                reasons.contains(&format!("{key}: missing")),
                "{key} not in {reasons:?}"
            );
        }
        let foreign = SOURCES_EXAMPLE.replace("tenant: splootvets", "tenant: another");
        assert_eq!(
            parse(&foreign).unwrap_err(),
            ["tenant: must be the tenant the bundle is applied to"]
        );
        let system = SOURCES_EXAMPLE.replace("tenant: splootvets", "tenant: _system");
        assert!(parse(&system).is_err());
    }

    const UNWORKABLE: &[(&str, &str)] = &[
        (
            "maskingProfiles: { Reader: { record_id: HASH } }",
            "cannot be masked",
        ),
        (
            "maskingProfiles: { Reader: { labels: HASH } }",
            "all labels together",
        ),
        (
            "maskingProfiles: { Reader: { context: HASH } }",
            "a whole JSON column",
        ),
        (
            "maskingProfiles: { Reader: { email: DROP } }",
            "must be CLEAR",
        ),
        ("maskingProfiles: { Owner: {} }", "is not a role"),
        (
            "maskingProfiles: { Reader: {}, Audit.Reader: {} }",
            "names a profile twice",
        ),
        ("maskingProfiles: {}", "at least one profile"),
        (
            "maskingProfiles: { Reader: { a: GENERALIZE } }",
            "needs params",
        ),
        (
            "maskingProfiles: { Reader: { a: { kind: MASK, params: { showLast: -1 } } } }",
            "whole number",
        ),
        (
            "redaction: { defaultByField: { email: ENCRYPT } }",
            "ENCRYPT is not available in this version",
        ),
        (
            "redaction: { defaultByField: { email: { kind: HASH, params: { algo: MD5 } } } }",
            "must be SHA256",
        ),
        (
            "redaction: { defaultByField: { email: HASH, Email: KEEP } }",
            "has two rules",
        ),
        (
            "fields: [{ path: context.a, class: subject.email, write: HASH }]",
            "allows only DROP",
        ),
        (
            "fields: [{ path: context.a, class: subject }]",
            "allows only DROP",
        ),
        ("query: { sortable: [nothing] }", "no such column"),
        ("query: { filterable: [salt] }", "no such column"),
        ("export: { allowedActors: [Owner] }", "must be a role"),
        (
            "retention: { streams: { audit.evidence: { ttlDays: 1 } } }",
            "evidence",
        ),
        (
            "retention: { streams: { audit.default: { ttlDays: 0 } } }",
            "whole number",
        ),
    ];

    #[test]
    fn rules_that_cannot_work_are_refused() {
        for (lines, reason) in UNWORKABLE {
            refused(lines, reason);
        }
        for column in [
            "tenant_id",
            "record_id",
            "created_at",
            "ingested_at",
            "stream",
            "action",
        ] {
            refused(
                &format!("fields: [{{ path: {column}, write: HASH }}]"),
                "can have no write rule",
            );
        }
        for rule in [
            "HASH",
            "MASK",
            "REDACT",
            "TOKEN",
            "{ kind: GENERALIZE, params: { to: ip } }",
        ] {
            refused(
                &format!("maskingProfiles: {{ Reader: {{ created_at: {rule} }} }}"),
                "a time takes only",
            );
        }
        let many: Vec<_> = (0..17)
            .map(|n| format!("s{n}: {{ ttlDays: 1, class: c{n} }}"))
            .collect();
        refused(
            &format!("retention: {{ streams: {{ {} }} }}", many.join(", ")),
            "retention classes",
        );
    }

    #[test]
    fn promotions_that_cannot_work_are_refused() {
        for name in ["action", "salt", "ingest_date", "statement"] {
            refused(
                &format!("fields: [{{ path: context.a, promote: {name} }}]"),
                "is there already",
            );
        }
        for name in ["A", "1a", "a-b", "'a b'", "_a", &"a".repeat(64)] {
            refused(
                &format!("fields: [{{ path: context.a, promote: {name} }}]"),
                "must be a column name",
            );
        }
        refused(
            "fields: [{ path: context.a, promote: x }, { path: context.b, promote: x }]",
            "that another field has",
        );
        refused("fields: [{ path: email, promote: x }]", "only one place");
        refused(
            "fields: [{ path: 'context.a[*]', promote: x }]",
            "only one place",
        );
        refused(
            "fields: [{ path: context.a, promote: x, write: DROP }]",
            "nothing to promote",
        );
        refused(
            "fields: [{ path: context.a, promote: x }, { path: context.a.b, promote: y }]",
            "lies inside",
        );
    }
}
