//! One caller, resolved: what of a table they see, under which masks, and what they may filter and sort by.
//!
//! Made once per request from the decision, and shared by the code that guards and the code that verifies. The verifier
//! compares identities (the decision's id) and asks this for rules; it never asks the guard whether it has guarded.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema, SchemaRef};
use catalog::guard::Decision;
use catalog::keys::SecretKey;
use catalog::policy::{MaskRule, QueryMode};
use catalog::schema::Part;
use udfs::Mask;

use super::cut::Cut;
use super::evolving::{Upcasts, keys_of};
use super::fields::Field;
use super::labels::Labels;
use super::masking::{ColumnMask, Document, Secrets, active};
use super::rules::{Place, Rule, followed, tells_nothing};
use super::table_name::TableName;
use crate::record::evolve::Evolution;
use crate::record::restore::pointer_of;
use crate::record::schema::{self, Visibility};

/// The column that names the tenant of a row. Every table has it.
pub(crate) const TENANT: &str = "tenant_id";
/// The column of labels.
pub(crate) const LABELS: &str = "labels";
const CONTEXT: &str = "context";
const EXTRAS: &str = "extras";
const SEALED_FIELDS: &str = "sealed_fields";
/// Of the quarantine: a whole record as JSON text.
const PAYLOAD: &str = "payload";

/// One caller for the time of one request.
pub(crate) struct Viewer {
    decision: Arc<Decision>,
    secrets: Secrets,
    /// What the profile says, and what it says of promoted columns said of the places they were cut out of: a rule that
    /// names the column must hold for the value wherever it stands.
    rules: Vec<Rule>,
    /// What happens to old records, if anything does.
    evolving: Option<Evolving>,
}

/// The upcasters of the tenant, as far as this caller may have them applied.
struct Evolving {
    evolution: Evolution,
    /// The rules, and what follows from them along the steps.
    rules: Vec<Rule>,
    /// Every step, applied or not: the places it names are not what is stored there.
    touched: Vec<catalog::schema::Pointer>,
}

/// A column of a table as one caller sees it.
#[derive(Debug, Clone)]
pub(crate) struct VisibleColumn {
    /// Where it stands in the stored schema.
    pub(crate) stored: usize,
    /// What happens to its values before the caller sees them.
    pub(crate) mask: ColumnMask,
}

/// A table as one caller sees it.
#[derive(Debug)]
pub(crate) struct View {
    /// The columns, in order, with the types after masking.
    pub(crate) schema: SchemaRef,
    /// The same columns: where they are stored and how they are masked.
    pub(crate) columns: Vec<VisibleColumn>,
    /// What old rows go through before they are masked.
    pub(crate) upcasts: Option<Arc<Upcasts>>,
}

impl Viewer {
    /// The caller of this decision. The secrets are the tenant's, for masks that hash.
    pub(crate) fn new(
        decision: Arc<Decision>,
        hash: Option<Arc<SecretKey>>,
        token: Option<Arc<SecretKey>>,
        evolution: Option<&Evolution>,
    ) -> Self {
        let bundle = &decision.policy.bundle;
        let profile = &decision.profile;
        let said = active(profile).map(|(path, rule)| Rule::of(path, rule));
        let of_promoted = bundle.promoted().filter_map(|(column, path)| {
            let rule = bundle.mask_for_column(profile, column.as_str());
            (rule != MaskRule::Clear).then(|| Rule::of(path, rule))
        });
        let rules: Vec<Rule> = said.chain(of_promoted).collect();
        Self {
            evolving: evolution.map(|evolution| Evolving::new(evolution, &rules)),
            decision,
            secrets: Secrets { hash, token },
            rules,
        }
    }

    pub(crate) fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    /// The tenant whose rows this caller sees, in its one spelling.
    pub(crate) fn tenant(&self) -> &str {
        self.decision.tenant.as_str()
    }

    /// Whether the table is in this caller's session.
    pub(crate) fn may_see(&self, table: TableName) -> bool {
        match table {
            TableName::Records => true,
            TableName::Evidence => self.decision.may_see_evidence,
            TableName::Quarantine => self.decision.may_see_quarantine,
            // Counts of all rows, hidden ones among them.
            TableName::Segments => self.decision.rows.is_none(),
        }
    }

    /// The tables in this caller's session.
    pub(crate) fn tables(&self) -> Vec<TableName> {
        let mut tables = TableName::ALL.to_vec();
        tables.retain(|table| self.may_see(*table));
        tables
    }

    /// What this caller sees of a table with these stored columns.
    pub(crate) fn view(&self, table: TableName, stored: &Schema) -> View {
        let evolving = self
            .evolving
            .as_ref()
            .filter(|_| table == TableName::Records);
        let mut fields = Vec::new();
        let mut columns = Vec::new();
        for (index, field) in stored.fields().iter().enumerate() {
            if !self.has_column(field.name()) {
                continue;
            }
            let mask = self.mask(field, stored, evolving);
            let nullable = field.is_nullable() || !mask.is_clear();
            // Metadata of a field is the engine's own: it stays behind.
            fields.push(ArrowField::new(
                field.name(),
                field.data_type().clone(),
                nullable,
            ));
            columns.push(VisibleColumn {
                stored: index,
                mask,
            });
        }
        View {
            schema: Arc::new(Schema::new(fields)),
            columns,
            upcasts: evolving.and_then(|evolving| {
                let cut = self.cut(stored, "/");
                let upcasts = Upcasts::new(evolving.evolution.clone(), stored, cut);
                upcasts.map(Arc::new)
            }),
        }
    }

    /// Whether rows may be selected by a field that the view masks as it says.
    pub(crate) fn may_filter(&self, field: &Field, view: &View) -> bool {
        let Some(mask) = view.mask_of(&field.column) else {
            return false;
        };
        let is_shown = match &field.key {
            Some(key) => mask.shows_entry(key),
            None => mask.shows_all(),
        };
        let is_listed =
            &*field.column == TENANT || self.decision.policy.bundle.query.may_filter(&field.column);
        is_shown && is_listed
    }

    /// Whether rows may be ordered by a field. What is masked is ordered by what the caller sees of it.
    pub(crate) fn may_sort(&self, field: &Field) -> bool {
        &*field.column == TENANT || self.decision.policy.bundle.query.may_sort(&field.column)
    }

    /// Whether the short list of fields is in force, which knows one more form: pages by key.
    pub(crate) fn is_strict(&self) -> bool {
        self.decision.policy.bundle.query.mode == QueryMode::Strict
    }

    /// Hidden columns are in no session. A column that the pinned policy no longer describes is in none either: there
    /// would be no rule to mask it by.
    fn has_column(&self, name: &str) -> bool {
        match schema::visibility(name) {
            Visibility::Hidden => false,
            // A position among all rows counts the hidden ones.
            Visibility::WithoutRowPolicy => self.decision.rows.is_none(),
            Visibility::Everyone => schema::description(name).is_some() || self.is_promoted(name),
        }
    }

    fn is_promoted(&self, name: &str) -> bool {
        let mut promoted = self.decision.policy.bundle.promoted();
        promoted.any(|(column, _)| column.as_str() == name)
    }

    fn mask(&self, field: &ArrowField, stored: &Schema, evolving: Option<&Evolving>) -> ColumnMask {
        let name = field.name().as_str();
        let bundle = &self.decision.policy.bundle;
        let mut rule = bundle.mask_for_column(&self.decision.profile, name);
        let rules = evolving.map_or(&self.rules, |evolving| &evolving.rules);
        if let Some(evolving) = evolving {
            rule = rule.stricter(evolving.rule_for_part(name));
            let mut promoted = bundle.promoted();
            let place = promoted.find(|(column, _)| column.as_str() == name);
            let place = place.map(|(_, path)| Place::of(path));
            if let Some(place) = place.filter(|place| evolving.touches(place)) {
                rule = rule.stricter(evolving.rule_for(&place));
                let mask = self.secrets.mask(rule, name);
                return ColumnMask::Promoted { place, mask };
            }
        }
        if let Some(mask) = self.secrets.mask(rule, name) {
            return ColumnMask::Whole(mask);
        }
        let evolves = evolving.is_some();
        match (name, field.data_type()) {
            (LABELS, DataType::Map(..)) => ColumnMask::Labels {
                cut: self.cut(stored, "/labels/"),
                masks: Labels::of(&self.secrets, rules),
                evolves,
            },
            (CONTEXT, _) => ColumnMask::Document {
                document: Document::Context,
                cut: self.cut(stored, "/context/"),
                mask: self.secrets.json(Document::Context, rules),
                evolves,
            },
            (EXTRAS, _) => ColumnMask::Document {
                document: Document::Extras,
                cut: self.cut(stored, "/extras/"),
                mask: self.secrets.json(Document::Extras, rules),
                evolves,
            },
            // What is in a quarantined record is whatever was refused: no rule can be trusted to find its field there.
            (PAYLOAD, _) if !self.rules.is_empty() => ColumnMask::Whole(Mask::Redact),
            _ => ColumnMask::Clear,
        }
    }

    /// Where the values are that were cut out from under this pointer.
    fn cut(&self, stored: &Schema, prefix: &str) -> Cut {
        let promoted = self
            .decision
            .policy
            .bundle
            .promoted()
            .filter_map(|(column, path)| {
                let pointer = pointer_of(path).filter(|pointer| pointer.starts_with(prefix))?;
                Some((stored.index_of(column.as_str()).ok()?, pointer))
            });
        Cut {
            sealed_fields: stored.index_of(SEALED_FIELDS).ok(),
            promoted: promoted.collect(),
        }
    }
}

impl Evolving {
    fn new(evolution: &Evolution, rules: &[Rule]) -> Self {
        let rules = followed(rules, evolution.chains());
        let steps = evolution.chains().flatten();
        let touched = steps.flat_map(|step| {
            let targets = step.targets();
            step.source().cloned().into_iter().chain(targets)
        });
        let touched = touched.collect();
        let mut evolution = evolution.clone();
        evolution.retain(|step| tells_nothing(step, &rules));
        Self {
            evolution,
            rules,
            touched,
        }
    }

    /// Whether a step can reach what stands at a place, or the place is in what it reaches.
    fn touches(&self, place: &Place) -> bool {
        self.touched.iter().any(|at| place.overlaps(at))
    }

    /// What the rules do to the value of one place. Where they mask only something in it, all of it goes.
    fn rule_for(&self, place: &Place) -> MaskRule {
        let Place::In(part, steps) = place else {
            return MaskRule::Redact;
        };
        let Some(keys) = keys_of(steps) else {
            return MaskRule::Redact;
        };
        self.rules.iter().fold(MaskRule::Clear, |strictest, own| {
            if own.covers(*part, &keys) {
                strictest.stricter(own.rule)
            } else if matches!(own.place, Place::In(..)) && own.reaches_into(*part, &keys) {
                strictest.stricter(own.rule).stricter(MaskRule::Redact)
            } else {
                strictest
            }
        })
    }

    /// What the rules do to a whole column of this name.
    fn rule_for_part(&self, name: &str) -> MaskRule {
        let part = Part::ALL.into_iter().find(|part| part.as_str() == name);
        let whole = self.rules.iter().filter(|own| match &own.place {
            Place::In(of, steps) => steps.is_empty() && Some(*of) == part,
            Place::Column(_) | Place::AnyKey(_) => false,
        });
        whole.fold(MaskRule::Clear, |strictest, own| {
            strictest.stricter(own.rule)
        })
    }
}

impl View {
    /// How a column is masked, if the caller sees it at all.
    pub(crate) fn mask_of(&self, column: &str) -> Option<&ColumnMask> {
        let index = self.schema.index_of(column).ok()?;
        self.columns.get(index).map(|column| &column.mask)
    }
}

impl fmt::Debug for Viewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewer")
            .field("profile", &self.decision.profile.name)
            .finish_non_exhaustive()
    }
}
