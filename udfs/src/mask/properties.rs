//! What holds for every mask and every input: total, closed, and the same function for every array type.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Float64Array,
    Int16Array, Int32Array, ListArray, MapArray, NullArray, RunArray, StringArray, StructArray,
    TimestampNanosecondArray, UInt8Array, new_empty_array, new_null_array,
};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, TimeUnit, UInt16Type};
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{HashKey, JsonMask, JsonPath, JsonStep, LabelMask, Mask, REDACTED, strictest};

fn any_mask() -> impl Strategy<Value = Mask> {
    let key = || any::<[u8; 32]>().prop_map(|key| HashKey::new(&key, "email", 1));
    prop_oneof![
        key().prop_map(Mask::Hash),
        key().prop_map(Mask::Token),
        (0..6_usize, 0..6_usize).prop_map(|(show_first, show_last)| Mask::Partial {
            show_first,
            show_last,
        }),
        Just(Mask::Redact),
        Just(Mask::Nullify),
        Just(Mask::GeneralizeIp),
        Just(Mask::GeneralizeDay),
        Just(Mask::GeneralizeMonth),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-c]{0,3}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,9})?(Z|[+-][0-9]{2}:[0-9]{2})",
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?",
        any::<u128>().prop_map(|bits| std::net::Ipv6Addr::from_bits(bits).to_string()),
    ]
}

fn any_rows() -> impl Strategy<Value = Vec<Option<String>>> {
    prop::collection::vec(prop::option::of(any_text()), 0..40)
}

/// The same rows in every type that holds text.
fn in_every_type(rows: &[Option<String>]) -> Vec<ArrayRef> {
    let text: ArrayRef = Arc::new(StringArray::from(rows.to_vec()));
    let dictionary = |keys: DataType, values: DataType| {
        let texts = cast(&text, &values).unwrap();
        cast(&texts, &DataType::Dictionary(keys.into(), values.into())).unwrap()
    };
    let mut arrays = vec![
        cast(&text, &DataType::LargeUtf8).unwrap(),
        cast(&text, &DataType::Utf8View).unwrap(),
        dictionary(DataType::Int8, DataType::Utf8),
        dictionary(DataType::Int32, DataType::LargeUtf8),
        dictionary(DataType::UInt16, DataType::Utf8View),
    ];
    arrays.push(text);
    arrays
}

/// The text of every row, whatever the type.
fn rows_of(array: &ArrayRef) -> Vec<Option<String>> {
    let text = cast(array, &DataType::Utf8).unwrap();
    let text = text.as_string::<i32>().iter();
    text.map(|value| value.map(str::to_owned)).collect()
}

/// Arrays of types that no text mask is made for.
fn not_text() -> Vec<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]));
    let fields = Fields::from(vec![Field::new("n", DataType::Int32, false)]);
    let ones: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let map_field = Field::new_map(
        "labels",
        "key_value",
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
        false,
        true,
    );
    let keys = Int16Array::from(vec![Some(1), None, Some(0)]);
    let codes: ArrayRef = Arc::new(UInt8Array::from(vec![7, 8]));
    let runs = RunArray::<Int32Type>::try_new(
        &Int32Array::from(vec![2, 3]),
        &StringArray::from(vec!["a", "b"]),
    );
    vec![
        Arc::clone(&numbers),
        Arc::new(Float64Array::from(vec![f64::NAN, 0.0, 1.5])),
        Arc::new(BooleanArray::from(vec![true, false, true])),
        Arc::new(NullArray::new(3)),
        Arc::new(FixedSizeBinaryArray::new(2, b"abcdef".into(), None)),
        Arc::new(StructArray::new(fields, vec![ones], None)),
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1)]),
            None,
            Some(vec![]),
        ])),
        Arc::new(MapArray::from(
            new_null_array(map_field.data_type(), 3).to_data(),
        )),
        Arc::new(DictionaryArray::new(keys, codes)),
        Arc::new(runs.unwrap()),
    ]
}

#[test]
fn a_column_that_a_mask_is_not_made_for_becomes_null() {
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1, 2, 3]));
    for mask in [
        Mask::Redact,
        Mask::Nullify,
        Mask::GeneralizeIp,
        Mask::Hash(HashKey::new(&[1; 32], "n", 1)),
    ] {
        for array in not_text().into_iter().chain([Arc::clone(&times)]) {
            let masked = mask.apply(&array).unwrap();
            assert_eq!(masked.data_type(), array.data_type());
            assert_eq!(masked.len(), array.len());
            assert_eq!(masked.logical_null_count(), 3, "{}", array.data_type());
        }
    }
    for array in not_text() {
        let json = JsonMask::new(Vec::new()).apply(&array).unwrap();
        assert_eq!((json.len(), json.logical_null_count()), (3, 3));
        for mask in [Mask::GeneralizeDay, Mask::GeneralizeMonth] {
            assert_eq!(mask.apply(&array).unwrap().logical_null_count(), 3);
        }
    }
}

#[test]
fn an_empty_column_stays_empty() {
    for array in not_text().into_iter().chain(in_every_type(&[])) {
        let empty = new_empty_array(array.data_type());
        assert_eq!(Mask::Redact.apply(&empty).unwrap().len(), 0);
        assert_eq!(Mask::Nullify.apply(&empty).unwrap().len(), 0);
        let json = JsonMask::new(Vec::new()).apply(&empty).unwrap();
        assert_eq!(json.data_type(), array.data_type());
        let labels = LabelMask::new(vec![("a".to_owned(), Mask::Redact)]);
        assert_eq!(labels.apply(&empty).unwrap().len(), 0);
    }
}

/// A dictionary whose second value no row names, and whose third lies behind a null key.
#[test]
fn no_raw_value_stays_in_the_buffers_of_a_masked_column() {
    let canary = "canary-0123456789@example.com";
    let values: ArrayRef = Arc::new(StringArray::from(vec!["short", canary, canary]));
    let keys = Int32Array::new(vec![0, 2].into(), Some(vec![true, false].into()));
    let dictionary: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::clone(&values)));
    let views = cast(&values, &DataType::Utf8View).unwrap();
    let keep = BooleanArray::from(vec![true, false, false]);
    let arrays = [
        dictionary,
        values.slice(0, 1),
        views.slice(0, 1),
        filter(&views, &keep).unwrap(),
    ];
    for array in arrays {
        for mask in [Mask::Redact, Mask::GeneralizeDay, Mask::Nullify] {
            let masked = mask.apply(&array).unwrap().to_data();
            let children = masked.child_data().iter().flat_map(|child| child.buffers());
            for buffer in masked.buffers().iter().chain(children) {
                let bytes = buffer.as_slice();
                let mut windows = bytes.windows(6);
                assert!(!windows.any(|window| window == b"canary"), "{mask:?}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_mask_is_one_function_for_every_type_of_text(mask in any_mask(), rows in any_rows(), cut in 0..40_usize) {
        let expected: Vec<_> = rows
            .iter()
            .map(|row| row.as_deref().and_then(|value| mask.apply_str(value)))
            .collect();
        let cut = cut.min(rows.len());
        for array in in_every_type(&rows) {
            let masked = mask.apply(&array).unwrap();
            masked.to_data().validate_full().unwrap();
            prop_assert_eq!(masked.data_type(), array.data_type());
            prop_assert_eq!(&rows_of(&masked), &expected);
            let tail = mask.apply(&array.slice(cut, rows.len() - cut)).unwrap();
            prop_assert_eq!(&rows_of(&tail), &expected[cut..]);
        }
    }

    #[test]
    fn a_masked_json_column_is_one_function_for_every_type_of_text(rows in any_rows()) {
        let mask = JsonMask::new(vec![(JsonPath::AnyKey("a".to_owned()), Mask::Redact)]);
        let expected: Vec<_> = rows
            .iter()
            .map(|row| row.as_deref().map(|value| mask.apply_str(value)))
            .collect();
        for array in in_every_type(&rows) {
            let masked = mask.apply(&array).unwrap();
            prop_assert_eq!(masked.data_type(), array.data_type());
            prop_assert_eq!(&rows_of(&masked), &expected);
        }
    }

    #[test]
    fn timestamps_of_every_unit_are_floored_or_null(value: i64, unit in 0..4_usize, zoned: bool) {
        let unit = [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond][unit];
        let zone = zoned.then(|| "-03:00".into());
        let numbers: ArrayRef = Arc::new(arrow::array::Int64Array::from(vec![Some(value), None]));
        let array = cast(&numbers, &DataType::Timestamp(unit, zone)).unwrap();
        for mask in [Mask::GeneralizeDay, Mask::GeneralizeMonth] {
            let once = mask.apply(&array).unwrap();
            prop_assert_eq!(once.data_type(), array.data_type());
            prop_assert!(once.is_null(1));
            let twice = mask.apply(&once).unwrap();
            prop_assert_eq!(&once, &twice);
            let floored = cast(&once, &DataType::Int64).unwrap();
            let floored = floored.as_primitive::<arrow::datatypes::Int64Type>();
            if floored.is_valid(0) {
                prop_assert!(floored.value(0) <= value);
            }
        }
    }

    #[test]
    fn a_dictionary_with_more_values_than_rows_gives_the_same_rows(rows in any_rows(), mask in any_mask(), key: u16) {
        prop_assume!(!rows.is_empty());
        let values: ArrayRef = Arc::new(StringArray::from(rows.clone()));
        let index = usize::from(key) % rows.len();
        let keys = vec![Some(u16::try_from(index).unwrap())];
        let array = DictionaryArray::<UInt16Type>::new(keys.into_iter().collect(), values);
        let array: ArrayRef = Arc::new(array);
        let expected = rows[index].as_deref().and_then(|value| mask.apply_str(value));
        prop_assert_eq!(rows_of(&mask.apply(&array).unwrap()), vec![expected]);
    }

    #[test]
    fn generalized_text_is_its_own_generalization(value in any_text()) {
        for mask in [Mask::GeneralizeIp, Mask::GeneralizeDay, Mask::GeneralizeMonth] {
            let once = mask.apply_str(&value).unwrap();
            prop_assert_eq!(mask.apply_str(&once).unwrap(), once);
        }
    }

    #[test]
    fn any_text_is_read_as_json_or_redacted(text: String, paths in any_paths()) {
        let masked = JsonMask::new(paths).apply_str(&text);
        let expected = if serde_json::from_str::<Value>(&text).is_ok() { None } else { Some(Value::from(REDACTED)) };
        let masked: Value = serde_json::from_str(&masked).unwrap();
        if let Some(expected) = expected {
            prop_assert_eq!(masked, expected);
        }
    }

    #[test]
    fn json_is_masked_as_a_tree_would_be(value in any_json(), paths in any_paths()) {
        let masked = JsonMask::new(paths.clone()).apply_str(&value.to_string());
        let expected = by_tree(&value, &paths, &[]);
        // Text, not values: canonical text stays canonical.
        prop_assert_eq!(masked, expected.to_string());
    }
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof!["[abA]", "[ab\"\\\\é]{0,2}"]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_key(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_paths() -> impl Strategy<Value = Vec<(JsonPath, Mask)>> {
    let step = prop_oneof![
        any_key().prop_map(JsonStep::Key),
        Just(JsonStep::AnyElement),
    ];
    let path = prop_oneof![
        prop::collection::vec(step, 0..4).prop_map(JsonPath::Steps),
        any_key().prop_map(JsonPath::AnyKey),
    ];
    prop::collection::vec((path, any_mask()), 0..4)
}

/// The slow and obvious way: whether a path names a place is decided by its whole trail from the root.
fn by_tree(value: &Value, paths: &[(JsonPath, Mask)], trail: &[JsonStep]) -> Value {
    let named = paths.iter().filter(|(path, _)| match (path, trail.last()) {
        (JsonPath::Steps(steps), _) => steps == trail,
        (JsonPath::AnyKey(key), Some(JsonStep::Key(last))) => key.eq_ignore_ascii_case(last),
        (JsonPath::AnyKey(_), _) => false,
    });
    if let Some(mask) = strictest(named.map(|(_, mask)| mask)) {
        return match value {
            Value::Null => Value::Null,
            Value::String(text) => mask.apply_str(text).map_or(Value::Null, Value::from),
            _ if *mask == Mask::Nullify => Value::Null,
            _ => Value::from(REDACTED),
        };
    }
    let below = |step: JsonStep, value: &Value| by_tree(value, paths, &[trail, &[step]].concat());
    match value {
        Value::Array(elements) => {
            let elements = elements.iter();
            elements
                .map(|value| below(JsonStep::AnyElement, value))
                .collect()
        }
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (key.clone(), below(JsonStep::Key(key.clone()), value)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        leaf => leaf.clone(),
    }
}
