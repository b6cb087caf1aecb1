//! From a masking profile to what happens to a column, and its application to a batch.
//!
//! ```text
//! profile rule      actor_id: HASH       context.user.name: REDACT    email: HASH (any key)      labels.team: NULLIFY
//! column            actor_id             context                      context, extras, labels    labels
//! what is done      a mask, all values   a mask at a place            wherever the key stands    a mask for one entry
//! ```
//! The values that were cut out of a record when it was stored are put back first, so that they go through the same
//! masks as if they had never left.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, MapArray, MapBuilder, MapFieldNames, StringArray, StringBuilder,
};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use catalog::keys::SecretKey;
use catalog::policy::{FieldPath, Generalize, MaskProfile, MaskRule, Step};
use catalog::schema::Part;
use udfs::{HashKey, JsonMask, JsonPath, JsonStep, Mask};

use super::evolving::{self, UpcastRows};
use super::rules::{Place, Rule};
use crate::record::restore::{Held, restore_context, restore_extras, restore_labels};

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

/// Where the values that were cut out of a column are stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    /// The map of sealed fields, by pointer.
    pub(crate) sealed_fields: Option<usize>,
    /// Promoted columns, with the pointer of the place that each was cut out of.
    pub(crate) promoted: Vec<(usize, String)>,
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

impl Cut {
    pub(super) fn needs(&self) -> Vec<usize> {
        let promoted = self.promoted.iter().map(|(column, _)| *column);
        self.sealed_fields.into_iter().chain(promoted).collect()
    }
}

/// The columns of one batch that hold what was cut out.
pub(super) struct CutColumns<'a> {
    sealed_fields: Option<&'a MapArray>,
    promoted: Vec<(&'a StringArray, &'a str)>,
}

impl<'a> CutColumns<'a> {
    pub(super) fn find(cut: &'a Cut, stored: &Stored<'_, 'a>) -> Result<Self, ArrowError> {
        let sealed_fields = match cut.sealed_fields {
            Some(index) => Some(stored(index)?.as_map_opt().ok_or_else(unfit)?),
            None => None,
        };
        let promoted = cut
            .promoted
            .iter()
            .map(|(index, pointer)| Ok((text(stored(*index)?)?, pointer.as_str())))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self {
            sealed_fields,
            promoted,
        })
    }

    /// What was cut out of one row, by pointer.
    pub(super) fn of(&self, row: usize) -> Result<Vec<(&'a str, Held<'a>)>, ArrowError> {
        let mut held = Vec::new();
        if let Some(map) = self.sealed_fields
            && map.is_valid(row)
        {
            let (pointers, values) = (text(map.keys())?, text(map.values())?);
            let entries = map.value_offsets();
            let entry_of = |row: usize| entries.get(row).map_or(0, |offset| *offset as usize);
            for entry in entry_of(row)..entry_of(row + 1) {
                if values.is_valid(entry) {
                    held.push((pointers.value(entry), Held::Json(values.value(entry))));
                }
            }
        }
        for (column, pointer) in &self.promoted {
            if column.is_valid(row) {
                held.push((pointer, Held::Text(column.value(row))));
            }
        }
        Ok(held)
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
        let mut restored = StringBuilder::with_capacity(texts.len(), texts.values().len());
        for row in 0..texts.len() {
            if let Some(record) = upcast.and_then(|rows| rows.get(row)) {
                restored.append_option(evolving::document_text(record, self.part()));
                continue;
            }
            if texts.is_null(row) {
                restored.append_null();
                continue;
            }
            let (own, held) = (texts.value(row), cut.of(row)?);
            if held.is_empty() {
                restored.append_value(own);
                continue;
            }
            restored.append_option(match self {
                Self::Context => restore_context(own, held),
                Self::Extras => restore_extras(own, held),
            });
        }
        Ok(Arc::new(restored.finish()))
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

/// Masks for entries of the label map.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels(Vec<LabelMask>);

#[derive(Debug, Clone)]
struct LabelMask {
    key: String,
    /// Whether letter case matters: it does for a rule on a label, not for one on any key.
    any_case: bool,
    rule: MaskRule,
    mask: Mask,
}

impl Labels {
    /// The rules that reach labels.
    pub(super) fn of(secrets: &Secrets, rules: &[Rule]) -> Self {
        let masks = rules.iter().filter_map(|rule| {
            let (key, any_case) = match &rule.place {
                Place::In(Part::Labels, steps) => match steps.as_slice() {
                    [Step::Key(key)] => (key, false),
                    _ => return None,
                },
                Place::AnyKey(key) => (key, true),
                Place::In(..) | Place::Column(_) => return None,
            };
            Some(LabelMask {
                key: key.clone(),
                any_case,
                rule: rule.rule,
                mask: secrets.mask(rule.rule, &rule.scope)?,
            })
        });
        Self(masks.collect())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The masks that were made for just this place, for a verifier.
    pub(super) fn at(&self, place: &JsonPath) -> impl Iterator<Item = &Mask> {
        let wanted = match place {
            JsonPath::AnyKey(key) => Some((key, true)),
            JsonPath::Steps(steps) => match steps.as_slice() {
                [JsonStep::Key(key)] => Some((key, false)),
                _ => None,
            },
        };
        let own = self.0.iter();
        let own = own.filter(move |own| wanted == Some((&own.key, own.any_case)));
        own.map(|own| &own.mask)
    }

    /// The strictest mask for the entry of a key.
    fn mask_of(&self, key: &str) -> Option<&Mask> {
        let for_key = self
            .0
            .iter()
            .filter(|own| own.key == key || (own.any_case && own.key.eq_ignore_ascii_case(key)));
        for_key
            .max_by_key(|own| own.rule.strictness())
            .map(|own| &own.mask)
    }

    fn restored_and_masked(
        &self,
        labels: &ArrayRef,
        cut: &CutColumns<'_>,
        upcast: Option<&UpcastRows>,
    ) -> Result<ArrayRef, ArrowError> {
        let map = labels.as_map_opt().ok_or_else(unfit)?;
        let (keys, values) = (text(map.keys())?, text(map.values())?);
        let mut masked = map_builder(map.data_type())?;
        let offsets = map.value_offsets();
        let entry_of = |row: usize| offsets.get(row).map_or(0, |offset| *offset as usize);
        for row in 0..map.len() {
            if let Some(record) = upcast.and_then(|rows| rows.get(row)) {
                let entries = evolving::label_entries(record);
                let is_there = entries.is_some();
                self.write(entries.unwrap_or_default(), &mut masked);
                masked.append(is_there)?;
                continue;
            }
            let mut entries = BTreeMap::new();
            if map.is_valid(row) {
                for entry in entry_of(row)..entry_of(row + 1) {
                    let value = values
                        .is_valid(entry)
                        .then(|| values.value(entry).to_owned());
                    entries.insert(keys.value(entry).to_owned(), value);
                }
            }
            restore_labels(&mut entries, cut.of(row)?);
            let is_there = map.is_valid(row) || !entries.is_empty();
            self.write(entries, &mut masked);
            masked.append(is_there)?;
        }
        Ok(Arc::new(masked.finish()))
    }

    fn write(
        &self,
        entries: BTreeMap<String, Option<String>>,
        masked: &mut MapBuilder<StringBuilder, StringBuilder>,
    ) {
        for (key, value) in entries {
            let shown = match self.mask_of(&key) {
                Some(mask) => value.and_then(|value| mask.apply_str(&value)),
                None => value,
            };
            masked.keys().append_value(key);
            masked.values().append_option(shown);
        }
    }
}

fn map_builder(
    data_type: &DataType,
) -> Result<MapBuilder<StringBuilder, StringBuilder>, ArrowError> {
    let DataType::Map(entry, _) = data_type else {
        return Err(unfit());
    };
    let DataType::Struct(members) = entry.data_type() else {
        return Err(unfit());
    };
    let [key, value] = members.as_ref() else {
        return Err(unfit());
    };
    let names = MapFieldNames {
        entry: entry.name().clone(),
        key: key.name().clone(),
        value: value.name().clone(),
    };
    Ok(
        MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
            .with_keys_field(Arc::clone(key))
            .with_values_field(Arc::clone(value)),
    )
}

pub(super) fn text(array: &ArrayRef) -> Result<&StringArray, ArrowError> {
    array.as_string_opt::<i32>().ok_or_else(unfit)
}

pub(super) fn unfit() -> ArrowError {
    ArrowError::SchemaError("a column that is not of its declared type".to_owned())
}
