//! Masks inside a column of maps, by key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, MapArray, StructArray, new_null_array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{not, nullif};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use super::{Mask, is_text, strictest};

/// Masks for the values of a map with text keys.
///
/// Keys are compared exactly and shown as they are. Where a key is named twice, the strictest mask wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelMask {
    labels: Vec<(String, Mask)>,
}

impl LabelMask {
    /// Masks for these keys, in any order.
    pub fn new(labels: Vec<(String, Mask)>) -> Self {
        Self { labels }
    }

    /// Masks a map column: same type, same length, nulls stay null. A column of another type becomes null, as does a map
    /// whose keys or values are no text, or whose values cannot be null and must be.
    pub fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let Some(map) = array.as_map_opt() else {
            return Ok(new_null_array(array.data_type(), array.len()));
        };
        Ok(match self.masked_entries(map)? {
            Some(entries) => Arc::new(with_entries(map, entries)?),
            None => new_null_array(array.data_type(), array.len()),
        })
    }

    fn masked_entries(&self, map: &MapArray) -> Result<Option<StructArray>, ArrowError> {
        let keys = map.keys();
        let mut values = Arc::clone(map.values());
        if !is_text(values.data_type()) {
            return Ok(None);
        }
        for (label, _) in &self.labels {
            let same = self.labels.iter().filter(|(other, _)| other == label);
            let Some(mask) = strictest(same.map(|(_, mask)| mask)) else {
                continue;
            };
            let Some(named) = entries_of(keys, label) else {
                return Ok(None);
            };
            if named.true_count() > 0 {
                let masked = mask.apply(&nullif(map.values(), &not(&named)?)?)?;
                values = zip(&named, &masked, &values)?;
            }
        }
        // Views that were taken over still point into buffers that hold the raw values beside them.
        if let Some(views) = values.as_string_view_opt() {
            values = Arc::new(views.gc());
        }
        let DataType::Struct(fields) = map.entries().data_type() else {
            return Ok(None);
        };
        let is_value_required = fields.get(1).is_some_and(|field| !field.is_nullable());
        if is_value_required && values.null_count() > 0 {
            return Ok(None);
        }
        let columns = vec![Arc::clone(keys), values];
        StructArray::try_new(fields.clone(), columns, map.entries().nulls().cloned()).map(Some)
    }
}

/// Which entries have this key; none if keys are not text.
fn entries_of(keys: &ArrayRef, label: &str) -> Option<BooleanArray> {
    let is_label = |key: Option<&str>| Some(key == Some(label));
    match keys.data_type() {
        DataType::Utf8 => Some(keys.as_string_opt::<i32>()?.iter().map(is_label).collect()),
        DataType::LargeUtf8 => Some(keys.as_string_opt::<i64>()?.iter().map(is_label).collect()),
        DataType::Utf8View => Some(keys.as_string_view_opt()?.iter().map(is_label).collect()),
        _ => None,
    }
}

fn with_entries(map: &MapArray, entries: StructArray) -> Result<MapArray, ArrowError> {
    let DataType::Map(field, is_ordered) = map.data_type() else {
        return Err(ArrowError::SchemaError(
            "a map array of another type".to_owned(),
        ));
    };
    MapArray::try_new(
        Arc::clone(field),
        map.offsets().clone(),
        entries,
        map.nulls().cloned(),
        *is_ordered,
    )
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, MapBuilder, StringArray, StringBuilder};
    use arrow::compute::cast;
    use arrow::datatypes::{Field, Fields};

    use super::*;

    type Row<'t> = Option<&'t [(&'t str, Option<&'t str>)]>;

    fn map(rows: &[Row<'_>]) -> ArrayRef {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in rows {
            for (key, value) in row.iter().copied().flatten() {
                builder.keys().append_value(key);
                builder.values().append_option(*value);
            }
            builder.append(row.is_some()).unwrap();
        }
        Arc::new(builder.finish())
    }

    fn masks() -> LabelMask {
        let last = Mask::Partial {
            show_first: 0,
            show_last: 2,
        };
        LabelMask::new(vec![
            ("email".to_owned(), last),
            ("ip".to_owned(), Mask::GeneralizeIp),
            ("email".to_owned(), Mask::Redact),
            ("secret".to_owned(), Mask::Nullify),
        ])
    }

    #[test]
    fn values_are_masked_by_key_and_the_others_stay() {
        let before = map(&[
            Some(&[("email", Some("bob@x.org")), ("env", Some("prod"))]),
            None,
            Some(&[]),
            Some(&[
                ("ip", Some("203.0.113.7")),
                ("email", None),
                ("secret", Some("s")),
            ]),
            Some(&[("Email", Some("bob@x.org"))]),
        ]);
        let after = map(&[
            Some(&[("email", Some("[redacted]")), ("env", Some("prod"))]),
            None,
            Some(&[]),
            Some(&[
                ("ip", Some("203.0.113.0/24")),
                ("email", None),
                ("secret", None),
            ]),
            Some(&[("Email", Some("bob@x.org"))]),
        ]);
        let masked = masks().apply(&before).unwrap();
        assert_eq!(&masked, &after);
        assert_eq!(
            &masks().apply(&before.slice(1, 3)).unwrap(),
            &after.slice(1, 3)
        );
    }

    #[test]
    fn no_raw_value_stays_in_the_buffers_of_a_masked_map() {
        let canary = "canary-0123456789@example.com";
        let texts = map(&[Some(&[
            ("email", Some(canary)),
            ("env", Some("a value longer than a view")),
        ])]);
        let DataType::Map(entries, _) = texts.data_type() else {
            unreachable!("a map was built");
        };
        let DataType::Struct(fields) = entries.data_type() else {
            unreachable!("a map has entries");
        };
        let viewed = Field::new("values", DataType::Utf8View, true);
        let viewed = Fields::from(vec![fields[0].as_ref().clone(), viewed]);
        let viewed = Field::new("entries", DataType::Struct(viewed), false);
        let views = cast(&texts, &DataType::Map(Arc::new(viewed), false)).unwrap();
        for array in [texts, views] {
            let masked = masks().apply(&array).unwrap();
            assert_eq!(masked.data_type(), array.data_type());
            assert_eq!(masked.null_count(), 0);
            let values = masked.as_map().values().to_data();
            for buffer in values.buffers() {
                let mut windows = buffer.as_slice().windows(6);
                assert!(!windows.any(|window| window == b"canary"));
            }
        }
    }

    #[test]
    fn what_is_no_map_of_texts_becomes_null() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        assert_eq!(masks().apply(&text).unwrap().null_count(), 1);

        let mut builder = MapBuilder::new(None, Int32Array::builder(1), StringBuilder::new());
        builder.keys().append_value(1);
        builder.values().append_value("a");
        builder.append(true).unwrap();
        let numbered: ArrayRef = Arc::new(builder.finish());
        let masked = masks().apply(&numbered).unwrap();
        assert_eq!((masked.len(), masked.null_count()), (1, 1));
        assert_eq!(masked.data_type(), numbered.data_type());
    }

    #[test]
    fn a_required_value_that_must_be_null_takes_the_map_with_it() {
        let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new())
            .with_values_field(Field::new("values", DataType::Utf8, false));
        builder.keys().append_value("secret");
        builder.values().append_value("s");
        builder.append(true).unwrap();
        let required: ArrayRef = Arc::new(builder.finish());
        let masked = masks().apply(&required).unwrap();
        assert_eq!(masked.null_count(), 1);
        assert_eq!(masked.data_type(), required.data_type());
    }
}
