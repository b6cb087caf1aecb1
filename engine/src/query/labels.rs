//! Masks for the label map: values that were cut out are put back, then entries are masked by their keys.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, MapArray, MapBuilder, MapFieldNames, StringBuilder, StructArray,
};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use catalog::policy::{MaskRule, Step};
use catalog::schema::Part;
use udfs::{JsonPath, JsonStep, Mask};

use super::cut::{CutColumns, entries_of};
use super::evolving::{self, UpcastRows};
use super::masking::{Secrets, text, unfit};
use super::rules::{Place, Rule};
use crate::record::restore::restore_labels;

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

    pub(super) fn is_empty(&self) -> bool {
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
    pub(super) fn mask_of(&self, key: &str) -> Option<&Mask> {
        let for_key = self
            .0
            .iter()
            .filter(|own| own.key == key || (own.any_case && own.key.eq_ignore_ascii_case(key)));
        for_key
            .max_by_key(|own| own.rule.strictness())
            .map(|own| &own.mask)
    }

    pub(super) fn restored_and_masked(
        &self,
        labels: &ArrayRef,
        cut: &CutColumns<'_>,
        upcast: Option<&UpcastRows>,
    ) -> Result<ArrayRef, ArrowError> {
        let map = labels.as_map_opt().ok_or_else(unfit)?;
        if upcast.is_none() && !cut.has_labels()? {
            return self.masked(map);
        }
        let (keys, values) = (text(map.keys())?, text(map.values())?);
        let mut masked = map_builder(map.data_type())?;
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
                for entry in entries_of(map, row) {
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

    /// The map with the values of the entries that have a mask replaced by it.
    fn masked(&self, map: &MapArray) -> Result<ArrayRef, ArrowError> {
        let (keys, values) = (text(map.keys())?, text(map.values())?);
        let masks = keys.iter().map(|key| self.mask_of(key.unwrap_or_default()));
        if masks.clone().all(|mask| mask.is_none()) {
            return Ok(Arc::new(map.clone()));
        }
        let mut shown = StringBuilder::with_capacity(values.len(), values.values().len());
        for (value, mask) in values.iter().zip(masks) {
            match mask {
                Some(mask) => shown.append_option(value.and_then(|value| mask.apply_str(value))),
                None => shown.append_option(value),
            }
        }
        let DataType::Map(entries, is_sorted) = map.data_type() else {
            return Err(unfit());
        };
        let DataType::Struct(members) = entries.data_type() else {
            return Err(unfit());
        };
        let columns: Vec<ArrayRef> = vec![Arc::clone(map.keys()), Arc::new(shown.finish())];
        let shown = StructArray::try_new(members.clone(), columns, map.entries().nulls().cloned())?;
        let offsets = map.offsets().clone();
        let nulls = map.nulls().cloned();
        let shown = MapArray::try_new(Arc::clone(entries), offsets, shown, nulls, *is_sorted)?;
        Ok(Arc::new(shown))
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
