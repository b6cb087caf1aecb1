//! From YAML to a bundle's value, collecting every fault of form on the way.
//!
//! The document is read as a plain tree and taken apart by hand, so that one answer lists all unknown keys, missing keys
//! and values out of range instead of the first one. What a well-formed bundle may say is `check`'s business.

mod access;
mod reader;
mod rule;

use std::collections::BTreeMap;

use crate::context::Role;
use crate::ids::{SiloId, StreamName, TenantId};

use super::bundle::{
    Bundle, BundleRefused, ColumnName, ExportPolicy, FieldRule, QueryMode, QueryPolicy, Residency,
    Retention, RetentionClass, StaleMode, WriteFailover,
};
use super::path::FieldPath;
use super::rule::MaskProfile;

use reader::{Node, Reader, join, tree};

/// Days of the longest retention, and of the longest range of an export: a hundred years.
const DAYS_MAX: u64 = 36_500;

/// The keys at the top of a bundle.
const SECTIONS: &[&str] = &[
    "tenant",
    "version",
    "signingKey",
    "residency",
    "retention",
    "redaction",
    "fields",
    "maskingProfiles",
    "purposes",
    "rowPolicies",
    "rego",
    "query",
    "export",
    "staleMode",
];

/// The keys of `export`.
const EXPORT: &[&str] = &[
    "allowedActors",
    "formats",
    "purposeRequired",
    "maxDays",
    "maxRecords",
    "maxBytes",
];

const EXPORT_FORMATS: [&str; 2] = ["parquet", "ndjson"];

/// Reads a bundle for `tenant`, or for any; what comes out is well-formed, not yet checked.
pub(super) fn bundle(yaml: &[u8], tenant: Option<&TenantId>) -> Result<Bundle, BundleRefused> {
    let value = tree(yaml).map_err(|reason| BundleRefused {
        reasons: vec![reason],
    })?;
    let mut reader = Reader::default();
    let bundle = reader.bundle(
        &Node {
            value: &value,
            place: String::new(),
        },
        tenant,
    );
    match bundle {
        Some(bundle) if reader.reasons.is_empty() => Ok(bundle),
        Some(_) | None => Err(BundleRefused {
            reasons: reader.reasons(),
        }),
    }
}

impl Reader {
    fn bundle(&mut self, root: &Node<'_>, tenant: Option<&TenantId>) -> Option<Bundle> {
        let section = self.section(root, SECTIONS);
        let named = self.required(&section, "tenant").and_then(|node| {
            self.word(&node, "the tenant the bundle is applied to", |text| {
                TenantId::from_stored(text)
                    .ok()
                    .filter(|named| tenant.is_none_or(|tenant| named == tenant))
            })
        });
        let version = self
            .required(&section, "version")
            .and_then(|node| self.number(&node, 1, u64::MAX >> 1));
        let signing_key = section
            .get("signingKey")
            .and_then(|node| self.text(&node))
            .map(str::to_owned);
        let residency = self
            .required(&section, "residency")
            .and_then(|node| self.residency(&node));
        let retention = self
            .required(&section, "retention")
            .map(|node| self.retention(&node));
        let mut fields = section
            .get("fields")
            .map(|node| self.fields(&node))
            .unwrap_or_default();
        fields.extend(
            section
                .get("redaction")
                .map(|node| self.redaction(&node))
                .unwrap_or_default(),
        );
        let profiles = self
            .required(&section, "maskingProfiles")
            .map(|node| self.profiles(&node));
        let purposes = section
            .get("purposes")
            .map(|node| self.purposes(&node))
            .unwrap_or_default();
        let row_policies = section
            .get("rowPolicies")
            .map(|node| self.row_policies(&node, &fields))
            .unwrap_or_default();
        let rego = section.get("rego").and_then(|node| self.rego(&node));
        let query = section
            .get("query")
            .map(|node| self.query(&node))
            .unwrap_or_default();
        let export = section
            .get("export")
            .map(|node| self.export(&node))
            .unwrap_or_default();
        let stale_mode = section
            .get("staleMode")
            .and_then(|node| self.stale_mode(&node));
        Some(Bundle {
            tenant: named?,
            version: version?,
            signing_key,
            residency: residency?,
            retention: retention?,
            fields,
            masking_profiles: profiles?,
            purposes,
            row_policies,
            rego,
            query,
            export,
            stale_mode: stale_mode.unwrap_or_default(),
        })
    }

    fn stale_mode(&mut self, node: &Node<'_>) -> Option<StaleMode> {
        self.word(node, "serve or reject", |text| match text {
            "serve" => Some(StaleMode::Serve),
            "reject" => Some(StaleMode::Reject),
            _ => None,
        })
    }

    fn residency(&mut self, node: &Node<'_>) -> Option<Residency> {
        let section = self.section(node, &["allowedSilos", "writeFailover"]);
        let silos = self.required(&section, "allowedSilos")?;
        let allowed_silos = self.words(&silos, "a silo id", |text| SiloId::parse(text).ok());
        let write_failover = section.get("writeFailover").and_then(|node| {
            self.word(&node, "forbidden or allowed", |text| match text {
                "forbidden" => Some(WriteFailover::Forbidden),
                "allowed" => Some(WriteFailover::Allowed),
                _ => None,
            })
        });
        Some(Residency {
            allowed_silos,
            write_failover: write_failover.unwrap_or_default(),
        })
    }

    fn retention(&mut self, node: &Node<'_>) -> BTreeMap<StreamName, Retention> {
        let section = self.section(node, &["streams"]);
        let mut retention = BTreeMap::new();
        let Some(streams) = self.required(&section, "streams") else {
            return retention;
        };
        for (name, value) in self.entries(&streams).into_iter().flatten() {
            let place = join(&streams.place, name);
            let Ok(stream) = StreamName::parse(name) else {
                self.refuse(&place, "is not a stream name");
                continue;
            };
            let section = self.section(
                &Node {
                    value,
                    place: place.clone(),
                },
                &["ttlDays", "graceDays", "class"],
            );
            let ttl = self
                .required(&section, "ttlDays")
                .and_then(|node| self.number(&node, 1, DAYS_MAX));
            let grace = section
                .get("graceDays")
                .and_then(|node| self.number(&node, 0, DAYS_MAX));
            let class = section.get("class").and_then(|node| {
                self.word(
                    &node,
                    "a class name: a-z 0-9 _ -, at most 32",
                    RetentionClass::parse,
                )
            });
            let days = |days: u64| u32::try_from(days).unwrap_or(u32::MAX);
            let rule = Retention {
                ttl_days: ttl.map_or(u32::MAX, days),
                grace_days: grace.map_or(0, days),
                class: class.unwrap_or_else(RetentionClass::standard),
            };
            if retention.insert(stream, rule).is_some() {
                self.refuse(&place, "names a stream twice");
            }
        }
        retention
    }

    fn fields(&mut self, node: &Node<'_>) -> Vec<FieldRule> {
        let mut fields = Vec::new();
        for item in self.items(node) {
            let section = self.section(&item, &["path", "class", "write", "promote"]);
            let path = self
                .required(&section, "path")
                .and_then(|node| self.path(&node));
            let class = section.get("class").and_then(|node| {
                self.word(&node, "a class: a-z 0-9 . _ -, at most 64", |text| {
                    let good = |byte: u8| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte)
                    };
                    (text.len() <= 64 && text.bytes().all(good)).then(|| text.to_owned())
                })
            });
            let write = section
                .get("write")
                .and_then(|node| self.write_rule(&node))
                .unwrap_or_default();
            let promote = section.get("promote").and_then(|node| {
                self.word(
                    &node,
                    "a column name: a-z first, then a-z 0-9 _, at most 63",
                    ColumnName::parse,
                )
            });
            fields.extend(path.map(|path| FieldRule {
                path,
                class,
                write,
                promote,
            }));
        }
        fields
    }

    fn redaction(&mut self, node: &Node<'_>) -> Vec<FieldRule> {
        let section = self.section(node, &["defaultByField"]);
        let Some(by_field) = section.get("defaultByField") else {
            return Vec::new();
        };
        let mut fields = Vec::new();
        for (name, value) in self.entries(&by_field).into_iter().flatten() {
            let node = Node {
                value,
                place: join(&by_field.place, name),
            };
            let path = self.path_text(name, &node.place);
            let write = self.write_rule(&node);
            let rule = path.zip(write);
            fields.extend(rule.map(|(path, write)| FieldRule {
                path,
                class: None,
                write,
                promote: None,
            }));
        }
        fields
    }

    fn profiles(&mut self, node: &Node<'_>) -> BTreeMap<String, MaskProfile> {
        let mut profiles = BTreeMap::new();
        for (name, value) in self.entries(node).into_iter().flatten() {
            let place = join(&node.place, name);
            let Some(name) = access::profile_name(name) else {
                self.refuse(
                    &place,
                    "is not a role, and a profile of another name begins with a small letter",
                );
                continue;
            };
            let mut fields = BTreeMap::new();
            for (path, rule) in self
                .entries(&Node {
                    value,
                    place: place.clone(),
                })
                .into_iter()
                .flatten()
            {
                let node = Node {
                    value: rule,
                    place: join(&place, path),
                };
                let path = self.path_text(path, &node.place);
                let rule = self.mask_rule(&node);
                fields.extend(path.zip(rule));
            }
            if profiles
                .insert(name.clone(), MaskProfile { name, fields })
                .is_some()
            {
                self.refuse(&place, "names a profile twice");
            }
        }
        profiles
    }

    fn query(&mut self, node: &Node<'_>) -> QueryPolicy {
        let section = self.section(node, &["mode", "filterable", "sortable"]);
        let mode = section.get("mode").and_then(|node| {
            self.word(&node, "default or strict", |text| match text {
                "default" => Some(QueryMode::Default),
                "strict" => Some(QueryMode::Strict),
                _ => None,
            })
        });
        let mut columns = |key| {
            let node = section.get(key)?;
            Some(self.words(&node, "a column name", |text| {
                ColumnName::parse(text).map(|name| name.to_string())
            }))
        };
        let (filterable, sortable) = (columns("filterable"), columns("sortable"));
        QueryPolicy {
            mode: mode.unwrap_or_default(),
            filterable,
            sortable,
        }
    }

    fn export(&mut self, node: &Node<'_>) -> ExportPolicy {
        let section = self.section(node, EXPORT);
        let actors = section.get("allowedActors");
        let formats = section.get("formats");
        let purpose_required = section
            .get("purposeRequired")
            .and_then(|node| self.flag(&node));
        let max_days = section
            .get("maxDays")
            .and_then(|node| self.number(&node, 1, DAYS_MAX));
        let mut at_most = |key| {
            let node = section.get(key)?;
            self.number(&node, 1, u64::MAX >> 1)
        };
        let (max_records, max_bytes) = (at_most("maxRecords"), at_most("maxBytes"));
        ExportPolicy {
            allowed_actors: actors
                .map(|node| self.words(&node, "a role", Role::parse))
                .unwrap_or_default(),
            formats: formats
                .map(|node| {
                    self.words(&node, "parquet or ndjson", |text| {
                        EXPORT_FORMATS.contains(&text).then(|| text.to_owned())
                    })
                })
                .unwrap_or_default(),
            purpose_required: purpose_required.unwrap_or(true),
            max_days: max_days.and_then(|days| u32::try_from(days).ok()),
            max_records,
            max_bytes,
        }
    }

    fn path(&mut self, node: &Node<'_>) -> Option<FieldPath> {
        let text = self.text(node)?;
        self.path_text(text, &node.place)
    }

    fn path_text(&mut self, text: &str, place: &str) -> Option<FieldPath> {
        FieldPath::parse(text)
            .map_err(|fault| self.refuse(place, fault))
            .ok()
    }
}
