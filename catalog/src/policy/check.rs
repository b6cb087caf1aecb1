//! What a well-formed bundle may not say, because it cannot work or because it would not protect what it names.

use std::collections::BTreeSet;

use crate::ids::StreamName;

use super::bundle::{Bundle, ColumnName, FieldRule, RETENTION_CLASSES_MAX, RetentionClass};
use super::column::{self, ColumnKind};
use super::path::{FieldPath, Step};
use super::row::RowField;
use super::rule::{Generalize, MaskRule, WriteRule};

/// Columns of the evidence and quarantine tables: masks and visibility go by name, so no promoted column shares one.
const NAMES_ELSEWHERE: &[&str] = &[
    "operation",
    "decision",
    "problem",
    "masking_profile",
    "residency",
    "basis",
    "plan_digest",
    "statement",
    "correlation_id",
    "reason",
    "payload",
];

/// All of them at once.
pub(super) fn reasons_against(bundle: &Bundle) -> Vec<String> {
    let mut reasons = Vec::new();
    residency_and_retention(bundle, &mut reasons);
    fields(bundle, &mut reasons);
    promotions(bundle, &mut reasons);
    profiles(bundle, &mut reasons);
    purposes(bundle, &mut reasons);
    row_policies(bundle, &mut reasons);
    query(bundle, &mut reasons);
    reasons
}

fn residency_and_retention(bundle: &Bundle, reasons: &mut Vec<String>) {
    if bundle.residency.allowed_silos.is_empty() {
        reasons.push("residency.allowedSilos: names no silo".to_owned());
    }
    if bundle.retention.contains_key(&StreamName::evidence()) {
        reasons.push(
            "retention.streams: the retention of evidence is not the bundle's to set".to_owned(),
        );
    }
    let classes: BTreeSet<&RetentionClass> = bundle
        .retention
        .values()
        .map(|retention| &retention.class)
        .collect();
    if classes.len() > RETENTION_CLASSES_MAX {
        reasons.push(format!(
            "retention.streams: more than {RETENTION_CLASSES_MAX} retention classes"
        ));
    }
}

fn fields(bundle: &Bundle, reasons: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for rule in &bundle.fields {
        let path = &rule.path;
        if !seen.insert(folded(path)) {
            reasons.push(format!("{path}: has two rules"));
        }
        if let FieldPath::Column(name) = path
            && !column::find(name).is_some_and(|column| column.rewritable)
        {
            reasons.push(format!(
                "{path}: this column is stored as it comes and can have no write rule"
            ));
            continue;
        }
        let identifies = rule.class.as_deref().is_some_and(identifies_subject);
        if identifies && rule.write != WriteRule::Drop {
            reasons.push(format!(
                "{path}: a class that identifies the subject allows only DROP in this version"
            ));
        }
        // Drop fits everything; the rest fits where the mask that does the same fits.
        let fault = rule.write.as_mask().and_then(|mask| misfit(path, mask));
        reasons.extend(fault.map(|fault| format!("{path}: {fault}")));
    }
}

fn identifies_subject(class: &str) -> bool {
    class == "subject" || class.starts_with("subject.")
}

/// Names match without regard to case where the path does.
fn folded(path: &FieldPath) -> FieldPath {
    match path {
        FieldPath::AnyKey(name) => FieldPath::AnyKey(name.to_ascii_lowercase()),
        FieldPath::Column(_) | FieldPath::Context(_) | FieldPath::Label(_) => path.clone(),
    }
}

fn promotions(bundle: &Bundle, reasons: &mut Vec<String>) {
    let promoted = |rule: &'_ FieldRule| rule.promote.is_some();
    let mut names: BTreeSet<&ColumnName> = BTreeSet::new();
    for rule in bundle.fields.iter().filter(|rule| promoted(rule)) {
        let (path, Some(name)) = (&rule.path, &rule.promote) else {
            continue;
        };
        if column::find(name.as_str()).is_some() || NAMES_ELSEWHERE.contains(&name.as_str()) {
            reasons.push(format!(
                "{path}: promoted under the name of a column that is there already: {name}"
            ));
        }
        if !names.insert(name) {
            reasons.push(format!(
                "{path}: promoted under a name that another field has: {name}"
            ));
        }
        let one_value = match path {
            FieldPath::Context(steps) => !steps.contains(&Step::AnyElement),
            FieldPath::Label(_) => true,
            FieldPath::Column(_) | FieldPath::AnyKey(_) => false,
        };
        if !one_value {
            reasons.push(format!(
                "{path}: only one place in the context, or one label, can be promoted"
            ));
        }
        if bundle.write_rule_for(path) == WriteRule::Drop {
            reasons.push(format!(
                "{path}: is dropped, so there is nothing to promote"
            ));
        }
        let around = bundle
            .fields
            .iter()
            .find(|other| promoted(other) && other.path != *path && other.path.covers(path));
        if let Some(around) = around {
            reasons.push(format!(
                "{path}: lies inside {}, which is promoted too",
                around.path
            ));
        }
    }
}

fn profiles(bundle: &Bundle, reasons: &mut Vec<String>) {
    if bundle.masking_profiles.is_empty() {
        reasons.push(
            "maskingProfiles: needs at least one profile; an empty one says that nothing is masked"
                .to_owned(),
        );
    }
    for profile in bundle.masking_profiles.values() {
        for (path, mask) in &profile.fields {
            let at = format!("maskingProfiles.{}.{path}", profile.name);
            if let FieldPath::Column(name) = path
                && !column::find(name).is_some_and(|column| column.maskable)
            {
                reasons.push(format!("{at}: this column cannot be masked"));
            } else if let Some(fault) = misfit(path, *mask) {
                reasons.push(format!("{at}: {fault}"));
            }
        }
    }
}

fn purposes(bundle: &Bundle, reasons: &mut Vec<String>) {
    for (purpose, profiles) in &bundle.purposes {
        for (role, profile) in profiles {
            if !bundle.masking_profiles.contains_key(profile) {
                let role = role.profile_name();
                reasons.push(format!(
                    "purposes.{purpose}.{role}: there is no masking profile {profile}"
                ));
            }
        }
    }
}

fn row_policies(bundle: &Bundle, reasons: &mut Vec<String>) {
    for (name, policy) in &bundle.row_policies {
        let at = format!("rowPolicies.{name}");
        if policy.roles.is_empty() && !policy.mandatory && bundle.rego.is_none() {
            reasons.push(format!(
                "{at}: is for nobody; give it roles, make it mandatory, or have the Rego module ask for it"
            ));
        }
        let mut fields = BTreeSet::new();
        policy
            .predicate
            .each(&mut |test| fields.extend(test.field()));
        for field in fields {
            let path = match &field {
                RowField::Label(key) => FieldPath::Label(key.clone()),
                RowField::Column(column) => bundle
                    .promoted()
                    .find(|(promoted, _)| promoted.as_str() == column)
                    .map_or_else(
                        || FieldPath::Column(column.clone()),
                        |(_, path)| path.clone(),
                    ),
            };
            // What is stored is not what was sent: no comparison that the author can write is about it.
            if bundle.write_rule_for(&path) != WriteRule::Keep {
                reasons.push(format!(
                    "{at}: {field} is rewritten before it is stored, so no value equals it"
                ));
            }
        }
    }
}

/// Why a rule cannot be applied to what a path names.
fn misfit(path: &FieldPath, mask: MaskRule) -> Option<&'static str> {
    let kind = match path {
        FieldPath::Column(name) => {
            column::find(name).map_or(ColumnKind::Other, |column| column.kind)
        }
        // Any JSON value; what is not text of the right form falls back to REDACT.
        FieldPath::Context(_) | FieldPath::Label(_) | FieldPath::AnyKey(_) => return None,
    };
    let (fits, fault) = match kind {
        ColumnKind::Text => (
            !matches!(
                mask,
                MaskRule::Generalize(Generalize::Day | Generalize::Month)
            ),
            "only a time can be generalised to a day or month",
        ),
        ColumnKind::Json => (
            matches!(mask, MaskRule::Clear | MaskRule::Redact | MaskRule::Nullify),
            "a whole JSON column takes only REDACT, NULLIFY, or DROP before it is stored",
        ),
        ColumnKind::Timestamp => (
            matches!(
                mask,
                MaskRule::Clear
                    | MaskRule::Nullify
                    | MaskRule::Generalize(Generalize::Day | Generalize::Month)
            ),
            "a time takes only NULLIFY, or GENERALIZE to day or month",
        ),
        ColumnKind::Map => (
            matches!(mask, MaskRule::Clear | MaskRule::Nullify),
            "all labels together take only NULLIFY, or DROP before they are stored",
        ),
        ColumnKind::Other => (false, "a policy cannot speak about this column"),
    };
    (!fits).then_some(fault)
}

fn query(bundle: &Bundle, reasons: &mut Vec<String>) {
    let promoted: BTreeSet<&str> = bundle.promoted().map(|(name, _)| name.as_str()).collect();
    for (key, listed) in [
        ("filterable", &bundle.query.filterable),
        ("sortable", &bundle.query.sortable),
    ] {
        for name in listed.iter().flatten() {
            let known = column::find(name).is_some_and(|column| column.kind != ColumnKind::Other);
            if !known && !promoted.contains(name.as_str()) {
                reasons.push(format!("query.{key}: no such column: {name}"));
            }
        }
    }
}
