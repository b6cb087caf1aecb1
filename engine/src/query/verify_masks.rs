//! A part of the third gate: a scan shows the tenant's rows, columns that the caller may see, and each of them masked as
//! was decided, or nothing.
//!
//! Compares what a scan says it does to every column with the profile and the bundle of the decision, rule by rule. It
//! takes nothing from the code that makes scans; what upcasters add to the rules can only be stricter, and is not looked
//! at here.

use catalog::guard::Decision;
use catalog::policy::{FieldPath, Generalize, MaskRule, Step};
use datafusion::physical_plan::ExecutionPlan;
use udfs::{JsonPath, JsonStep, Mask};

use super::error::Error;
use super::guarded_exec::{GuardedScanExec, Shows};
use super::masking::ColumnMask;
use super::table_name::TableName;
use super::verify_physical::refused;
use super::viewer::TENANT;
use crate::record::schema::{self, Visibility};

/// The texts in which a rule on any key reaches every member, and the map in which it reaches every label.
const OPEN: &[&str] = &["context", "extras", "labels"];
/// Of the quarantine: a whole record, in which no rule can be trusted to find its field.
const PAYLOAD: &str = "payload";

/// Verifies that a scan shows what the decision lets it show.
pub(crate) fn verify(scan: &GuardedScanExec, decision: &Decision) -> Result<(), Error> {
    if scan.tenant() != decision.tenant.as_str() || scan.told_apart_by() != Some(TENANT) {
        return Err(refused("a scan of another tenant's rows"));
    }
    let schema = scan.schema();
    let says_more = |field: &arrow::datatypes::FieldRef| !field.metadata().is_empty();
    if !schema.metadata().is_empty() || schema.fields().iter().any(says_more) {
        return Err(refused(
            "a scan that shows what the engine knows of a column",
        ));
    }
    for shows in scan.shows() {
        if shows.stored != Some(shows.name) {
            return Err(refused("a column that shows another one's values"));
        }
        if !may_be_shown(shows.name, decision) {
            return Err(refused("a column that the caller must not see"));
        }
        if !is_masked(&shows, scan.table(), decision) {
            return Err(refused("a column without a mask that was decided"));
        }
    }
    Ok(())
}

fn may_be_shown(name: &str, decision: &Decision) -> bool {
    let mut promoted = decision.policy.bundle.promoted();
    match schema::visibility(name) {
        Visibility::Hidden => false,
        Visibility::WithoutRowPolicy => decision.rows.is_none(),
        Visibility::Everyone => {
            schema::description(name).is_some()
                || promoted.any(|(column, _)| column.as_str() == name)
        }
    }
}

/// Whether every rule that reaches the column is done to it.
fn is_masked(shows: &Shows<'_>, table: TableName, decision: &Decision) -> bool {
    let (bundle, profile) = (&decision.policy.bundle, &decision.profile);
    let of = |column: &str| bundle.mask_for_column(profile, column);
    if !is_whole(shows.mask, of(shows.name)) {
        return false;
    }
    let rules = profile.fields.iter().map(|(path, rule)| (path, *rule));
    // What is said of a promoted column is said of the place that it was cut out of.
    let promoted = bundle.promoted();
    let promoted = promoted.map(|(column, path)| (path, of(column.as_str())));
    let mut active = rules
        .chain(promoted)
        .filter(|(_, rule)| *rule != MaskRule::Clear)
        .peekable();
    if table == TableName::Quarantine && shows.name == PAYLOAD && active.peek().is_some() {
        return matches!(shows.mask, ColumnMask::Whole(Mask::Redact | Mask::Nullify));
    }
    let mut inside = active.filter_map(|(path, rule)| Some((place(path, shows.name)?, rule)));
    inside.all(|(place, rule)| has(shows.mask, &place, rule))
}

/// Whether nothing more than the rule allows is shown of any value.
fn is_whole(mask: &ColumnMask, rule: MaskRule) -> bool {
    match mask {
        ColumnMask::Whole(mask)
        | ColumnMask::Promoted {
            mask: Some(mask), ..
        } => shows_no_more(mask, rule),
        _ => rule == MaskRule::Clear,
    }
}

/// Where a rule reaches into a column.
fn place(path: &FieldPath, column: &str) -> Option<JsonPath> {
    let steps = |steps: &[Step]| {
        let steps = steps.iter().map(|step| match step {
            Step::Key(key) => JsonStep::Key(key.clone()),
            Step::AnyElement => JsonStep::AnyElement,
        });
        JsonPath::Steps(steps.collect())
    };
    match path {
        FieldPath::Context(own) => (column == "context").then(|| steps(own)),
        FieldPath::Label(key) => (column == "labels").then(|| steps(&[Step::Key(key.clone())])),
        FieldPath::AnyKey(key) => OPEN
            .contains(&column)
            .then(|| JsonPath::AnyKey(key.clone())),
        FieldPath::Column(_) => None,
    }
}

/// Whether what stands at a place of a column is masked as the rule says.
fn has(mask: &ColumnMask, place: &JsonPath, rule: MaskRule) -> bool {
    match mask {
        ColumnMask::Whole(mask) => {
            matches!(mask, Mask::Redact | Mask::Nullify) || shows_no_more(mask, rule)
        }
        ColumnMask::Document { mask, .. } => {
            let mut masks = mask.iter().flat_map(|mask| mask.masks_at(place));
            masks.any(|mask| shows_no_more(mask, rule))
        }
        ColumnMask::Labels { masks, .. } => masks.at(place).any(|mask| shows_no_more(mask, rule)),
        ColumnMask::Clear | ColumnMask::Promoted { .. } => false,
    }
}

/// Whether a mask shows no more of a value than a rule lets it.
fn shows_no_more(mask: &Mask, rule: MaskRule) -> bool {
    let coarser = |own: Generalize| match rule {
        MaskRule::Generalize(to) => own >= to,
        _ => rule.strictness() < MaskRule::Generalize(own).strictness(),
    };
    match mask {
        Mask::Partial {
            show_first,
            show_last,
        } => match rule {
            MaskRule::Mask {
                show_first: first,
                show_last: last,
            } => *show_first <= first && *show_last <= last,
            _ => rule == MaskRule::Clear,
        },
        Mask::GeneralizeIp => coarser(Generalize::IpPrefix),
        Mask::GeneralizeDay => coarser(Generalize::Day),
        Mask::GeneralizeMonth => coarser(Generalize::Month),
        Mask::Hash(_) => rule.strictness() <= MaskRule::Hash.strictness(),
        Mask::Token(_) => rule.strictness() <= MaskRule::Token.strictness(),
        Mask::Redact => rule.strictness() <= MaskRule::Redact.strictness(),
        Mask::Nullify => true,
    }
}
