//! From a masking profile to what happens to a column, and its application to a batch.
//!
//! ```text
//! profile rule      actor_id: HASH       context.user.name: REDACT    email: HASH (any key)      labels.team: NULLIFY
//! column            actor_id             context                      context, extras, labels    labels
//! what is done      a mask, all values   a mask at a place            wherever the key stands    a mask for one entry
//! ```
//! The values that were cut out of a record when it was stored are put back first, so that they go through the same
//! masks as if they had never left.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, StringBuilder};
use arrow::error::ArrowError;
use catalog::keys::SecretKey;
use catalog::policy::{FieldPath, Generalize, MaskProfile, MaskRule, Step};
use catalog::schema::Part;
use udfs::{HashKey, JsonMask, JsonPath, JsonStep, Mask};

use super::cut::{Cut, CutColumns};
use super::evolving::{self, UpcastRows};
use super::labels::Labels;
use super::rules::{Place, Rule};
use crate::record::restore::restore_document;

/// Version of the tenant's mask keys, shown in every hash.
const KEY_VERSION: u32 = 1;

/// Finds the stored column of an index among those that were read.
pub(crate) type Stored<'s, 'a> = dyn Fn(usize) -> Result<&'a ArrayRef, ArrowError> + 's;

/// What happens to a column's values before the caller sees them.
#[derive(Debug, Clone)]
pub(crate) enum ColumnMask {
    /// Nothing.
    Clear,
    /// One mask for all of it.
    Whole(Mask),
    /// A JSON text: values are put back, then masked where they stand.
    Document {
        /// Which one.
        document: Document,
        /// What is put back.
        cut: Cut,
        /// Masks at places of the text, if any.
        mask: Option<JsonMask>,
        /// Whether upcasters reach it.
        evolves: bool,
    },
    /// The label map: entries are put back, then masked by key.
    Labels {
        /// What is put back.
        cut: Cut,
        /// Masks for entries.
        masks: Labels,
        /// Whether upcasters reach them.
        evolves: bool,
    },
    /// A promoted column that upcasters reach: in old rows its value stands elsewhere.
    Promoted {
        /// The place whose values it shows.
        place: Place,
        /// One mask for all of it, if any.
        mask: Option<Mask>,
    },
}

/// A JSON text that values are cut out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    /// The column `context`.
    Context,
    /// The column `extras`.
    Extras,
}

impl ColumnMask {
    /// Whether the caller sees what is stored, byte for byte. Only then may a predicate or an order be taken to storage.
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self, Self::Clear)
    }

    /// Whether nothing is withheld of the value as it was sent.
    pub(crate) fn shows_all(&self) -> bool {
        match self {
            Self::Clear => true,
            Self::Whole(_) => false,
            Self::Document { mask, .. } => mask.is_none(),
            Self::Labels { masks, .. } => masks.is_empty(),
            Self::Promoted { mask, .. } => mask.is_none(),
        }
    }

    /// What is withheld, in a word or two; `None` where nothing is.
    pub(crate) fn told(&self) -> Option<&'static str> {
        match self {
            Self::Whole(mask)
            | Self::Promoted {
                mask: Some(mask), ..
            } => Some(mask.name()),
            Self::Document { .. } | Self::Labels { .. } if !self.shows_all() => Some("in part"),
            Self::Clear | Self::Document { .. } | Self::Labels { .. } | Self::Promoted { .. } => {
                None
            }
        }
    }

    /// Whether old rows have to be upcast to show it.
    pub(crate) fn evolves(&self) -> bool {
        match self {
            Self::Clear | Self::Whole(_) => false,
            Self::Document { evolves, .. } | Self::Labels { evolves, .. } => *evolves,
            Self::Promoted { .. } => true,
        }
    }

    /// Whether nothing is withheld of one entry of the map.
    pub(crate) fn shows_entry(&self, key: &str) -> bool {
        match self {
            Self::Labels { masks, .. } => masks.mask_of(key).is_none(),
            Self::Clear | Self::Whole(_) | Self::Document { .. } | Self::Promoted { .. } => {
                self.shows_all()
            }
        }
    }

    /// The stored columns, beside its own, that it takes to show this column.
    pub(crate) fn needs(&self) -> Vec<usize> {
        match self {
            Self::Clear | Self::Whole(_) | Self::Promoted { .. } => Vec::new(),
            Self::Document { cut, .. } | Self::Labels { cut, .. } => cut.needs(),
        }
    }

    /// Masks a column. Total in its values: what fails is a fault of the schema, and no row is shown.
    pub(crate) fn apply<'a>(
        &'a self,
        values: &'a ArrayRef,
        stored: &Stored<'_, 'a>,
        upcast: Option<&UpcastRows>,
    ) -> Result<ArrayRef, ArrowError> {
        let upcast = upcast.filter(|_| self.evolves());
        match self {
            Self::Clear => Ok(Arc::clone(values)),
            Self::Whole(mask) => mask.apply(values),
            Self::Document {
                document,
                cut,
                mask,
                ..
            } => {
                let cut = CutColumns::find(cut, stored)?;
                let restored = document.put_back(values, &cut, upcast)?;
                match mask {
                    Some(mask) => mask.apply(&restored),
                    None => Ok(restored),
                }
            }
            Self::Labels { cut, masks, .. } => {
                masks.restored_and_masked(values, &CutColumns::find(cut, stored)?, upcast)
            }
            Self::Promoted { place, mask } => {
                let rows = upcast.ok_or_else(unfit)?;
                let shown = evolving::promoted(values, place, rows)?;
                match mask {
                    Some(mask) => mask.apply(&shown),
                    None => Ok(shown),
                }
            }
        }
    }
}

impl Document {
    fn part(self) -> Part {
        match self {
            Self::Context => Part::Context,
            Self::Extras => Part::Extras,
        }
    }

    fn put_back(
        self,
        texts: &ArrayRef,
        cut: &CutColumns<'_>,
        upcast: Option<&UpcastRows>,
    ) -> Result<ArrayRef, ArrowError> {
        let texts = text(texts)?;
        let mut shown = StringBuilder::with_capacity(texts.len(), texts.values().len());
        let (mut held, mut restored) = (Vec::new(), String::new());
        for row in 0..texts.len() {
            if let Some(record) = upcast.and_then(|rows| rows.get(row)) {
                shown.append_option(evolving::document_text(record, self.part()));
                continue;
            }
            if texts.is_null(row) {
                shown.append_null();
                continue;
            }
            held.clear();
            cut.add(row, &mut held)?;
            restored.clear();
            let is_whole =
                restore_document(self.part(), &mut restored, texts.value(row), &mut held);
            shown.append_option(is_whole.then_some(&restored));
        }
        Ok(Arc::new(shown.finish()))
    }
}

/// The tenant's secrets for masks that hash. A mask whose secret is missing redacts.
pub(crate) struct Secrets {
    pub(crate) hash: Option<Arc<SecretKey>>,
    pub(crate) token: Option<Arc<SecretKey>>,
}

impl Secrets {
    /// The function of a rule; none for CLEAR. The scope separates the hashes of one field from those of another.
    pub(super) fn mask(&self, rule: MaskRule, scope: &str) -> Option<Mask> {
        let keyed = |secret: &Option<Arc<SecretKey>>, keyed: fn(HashKey) -> Mask| {
            secret.as_ref().map_or(Mask::Redact, |secret| {
                keyed(HashKey::new(secret.expose(), scope, KEY_VERSION))
            })
        };
        Some(match rule {
            MaskRule::Clear => return None,
            MaskRule::Mask {
                show_first,
                show_last,
            } => Mask::Partial {
                show_first,
                show_last,
            },
            MaskRule::Generalize(Generalize::IpPrefix) => Mask::GeneralizeIp,
            MaskRule::Generalize(Generalize::Day) => Mask::GeneralizeDay,
            MaskRule::Generalize(Generalize::Month) => Mask::GeneralizeMonth,
            MaskRule::Hash => keyed(&self.hash, Mask::Hash),
            MaskRule::Token => keyed(&self.token, Mask::Token),
            MaskRule::Redact => Mask::Redact,
            MaskRule::Nullify => Mask::Nullify,
        })
    }

    /// The masks inside a JSON text, of the rules that reach it.
    pub(super) fn json(&self, document: Document, rules: &[Rule]) -> Option<JsonMask> {
        let paths: Vec<_> = rules
            .iter()
            .filter_map(|rule| {
                let place = match &rule.place {
                    Place::AnyKey(key) => JsonPath::AnyKey(key.clone()),
                    Place::In(part, steps) if *part == document.part() && !steps.is_empty() => {
                        JsonPath::Steps(json_steps(steps))
                    }
                    Place::In(..) | Place::Column(_) => return None,
                };
                Some((place, self.mask(rule.rule, &rule.scope)?))
            })
            .collect();
        (!paths.is_empty()).then(|| JsonMask::new(paths))
    }
}

fn json_steps(steps: &[Step]) -> Vec<JsonStep> {
    let steps = steps.iter().map(|step| match step {
        Step::Key(key) => JsonStep::Key(key.clone()),
        Step::AnyElement => JsonStep::AnyElement,
    });
    steps.collect()
}

/// The rules of a profile that do something, by the path they are about.
pub(super) fn active(profile: &MaskProfile) -> impl Iterator<Item = (&FieldPath, MaskRule)> {
    profile
        .fields
        .iter()
        .map(|(path, rule)| (path, *rule))
        .filter(|(_, rule)| *rule != MaskRule::Clear)
}

pub(super) fn text(array: &ArrayRef) -> Result<&StringArray, ArrowError> {
    array.as_string_opt::<i32>().ok_or_else(unfit)
}

pub(super) fn unfit() -> ArrowError {
    ArrowError::SchemaError("a column that is not of its declared type".to_owned())
}
