//! One text function over a column: once per distinct value where that is cheap to know, packed into fresh buffers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder, GenericStringBuilder,
    OffsetSizeTrait, StringViewArray, make_view, new_null_array,
};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::compute::{not, nullif};
use arrow::error::ArrowError;

/// Distinct values that a batch remembers at most.
const MEMO_MAX: usize = 4096;

/// Look-ups after which a memo that finds less than one in eight is given up: the column is all but unique.
const MEMO_TRIAL: usize = 512;

/// Bytes of results after which a new block begins: offsets of a view have 32 bits.
const BLOCK_BYTES: usize = 1 << 30;

/// What one call of the function costs, beside a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// The result is the same for every value.
    Constant,
    /// Less than a look-up.
    Cheap,
    /// More than a look-up.
    Dear,
}

/// Applies a function to every value of a text column; the function appends its result, or says that it is null.
///
/// A column of another type becomes null. So does a result that no longer fits the offsets of the type.
pub(super) fn text(
    array: &dyn Array,
    work: Work,
    write: impl Fn(&str, &mut String) -> bool,
) -> Result<ArrayRef, ArrowError> {
    if let Some(array) = array.as_string_opt::<i32>() {
        let rows = array.iter().map(|value| value.map(|value| (value, value)));
        return Ok(Masked::collect(rows, work, write).into_offsets::<i32>());
    }
    if let Some(array) = array.as_string_opt::<i64>() {
        let rows = array.iter().map(|value| value.map(|value| (value, value)));
        return Ok(Masked::collect(rows, work, write).into_offsets::<i64>());
    }
    if let Some(array) = array.as_string_view_opt() {
        // A view is the value or the place where it lies. Rows decoded from one dictionary page share the place, and
        // comparing sixteen bytes is cheaper than hashing the text. Equal text in two places is only computed twice.
        let rows = array.views().iter().zip(array.iter());
        let rows = rows.map(|(view, value)| value.map(|value| (*view, value)));
        return Masked::collect(rows, work, write).into_views();
    }
    Ok(new_null_array(array.data_type(), array.len()))
}

/// Applies a function to the values of a dictionary and keeps the keys.
///
/// A filter or a slice can leave far more values than rows: then those that no row names become null instead.
pub(super) fn dictionary(
    array: &dyn Array,
    map: impl Fn(&ArrayRef) -> Result<ArrayRef, ArrowError>,
) -> Result<ArrayRef, ArrowError> {
    let Some(dictionary) = array.as_any_dictionary_opt() else {
        return Ok(new_null_array(array.data_type(), array.len()));
    };
    let values = dictionary.values();
    if values.len() <= array.len() {
        return Ok(dictionary.with_values(map(values)?));
    }
    let mut named = BooleanBufferBuilder::new(values.len());
    named.append_n(values.len(), false);
    for key in dictionary.normalized_keys() {
        named.set_bit(key, true);
    }
    let unnamed = not(&BooleanArray::new(named.finish(), None))?;
    Ok(dictionary.with_values(map(&nullif(values, &unnamed)?)?))
}

/// Where a result lies.
#[derive(Debug, Clone, Copy)]
struct Slot {
    block: usize,
    start: usize,
    length: usize,
}

/// The results of a column: each distinct one once, and a slot or null for each row.
#[derive(Debug)]
struct Masked {
    blocks: Vec<String>,
    rows: Vec<Option<Slot>>,
}

impl Masked {
    fn collect<'v, K: Eq + Hash>(
        values: impl Iterator<Item = Option<(K, &'v str)>>,
        work: Work,
        write: impl Fn(&str, &mut String) -> bool,
    ) -> Self {
        let mut masked = Self {
            blocks: vec![String::new()],
            rows: Vec::with_capacity(values.size_hint().0),
        };
        let mut constant = None;
        let mut memo = Memo::new();
        for value in values {
            let row = value.and_then(|(key, value)| match work {
                Work::Constant => *constant.get_or_insert_with(|| masked.push(value, &write)),
                Work::Cheap => masked.push(value, &write),
                Work::Dear => memo.get_or(key, || masked.push(value, &write)),
            });
            masked.rows.push(row);
        }
        masked
    }

    fn push(&mut self, value: &str, write: impl Fn(&str, &mut String) -> bool) -> Option<Slot> {
        if self
            .blocks
            .last()
            .is_none_or(|block| block.len() >= BLOCK_BYTES)
        {
            self.blocks.push(String::new());
        }
        let index = self.blocks.len() - 1;
        let block = self.blocks.last_mut()?;
        let start = block.len();
        if !write(value, block) {
            return None;
        }
        Some(Slot {
            block: index,
            start,
            length: block.len() - start,
        })
    }

    fn get(&self, slot: Slot) -> Option<&str> {
        let end = slot.start.checked_add(slot.length)?;
        self.blocks.get(slot.block)?.get(slot.start..end)
    }

    fn into_offsets<O: OffsetSizeTrait>(self) -> ArrayRef {
        let bytes = self.rows.iter().flatten().map(|slot| slot.length).sum();
        let mut builder = GenericStringBuilder::<O>::with_capacity(self.rows.len(), bytes);
        let mut end = 0_usize;
        for row in &self.rows {
            let value = row.and_then(|slot| self.get(slot)).filter(|value| {
                let fits = O::from_usize(end.saturating_add(value.len())).is_some();
                end += if fits { value.len() } else { 0 };
                fits
            });
            builder.append_option(value);
        }
        Arc::new(builder.finish())
    }

    fn into_views(self) -> Result<ArrayRef, ArrowError> {
        let mut views = Vec::with_capacity(self.rows.len());
        let mut valid = BooleanBufferBuilder::new(self.rows.len());
        for row in &self.rows {
            let view = row.and_then(|slot| self.view(slot));
            views.push(view.unwrap_or(0));
            valid.append(view.is_some());
        }
        let blocks: Vec<Buffer> = self
            .blocks
            .into_iter()
            .map(|block| Buffer::from_vec(block.into_bytes()))
            .collect();
        let nulls = NullBuffer::new(valid.finish());
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        let array = StringViewArray::try_new(views.into(), blocks, nulls)?;
        Ok(Arc::new(array))
    }

    fn view(&self, slot: Slot) -> Option<u128> {
        i32::try_from(slot.length).ok()?;
        let block = u32::try_from(slot.block).ok()?;
        let start = u32::try_from(slot.start).ok()?;
        Some(make_view(self.get(slot)?.as_bytes(), block, start))
    }
}

/// The slots of the values seen in this batch; bounded, and given up where it does not pay.
#[derive(Debug)]
struct Memo<K> {
    seen: HashMap<K, Option<Slot>>,
    lookups: usize,
    hits: usize,
}

impl<K: Eq + Hash> Memo<K> {
    fn new() -> Self {
        Self {
            seen: HashMap::new(),
            lookups: 0,
            hits: 0,
        }
    }

    fn get_or(&mut self, key: K, compute: impl FnOnce() -> Option<Slot>) -> Option<Slot> {
        if self.lookups >= MEMO_TRIAL && self.hits.saturating_mul(8) < self.lookups {
            return compute();
        }
        self.lookups += 1;
        if let Some(slot) = self.seen.get(&key) {
            self.hits += 1;
            return *slot;
        }
        let slot = compute();
        if self.seen.len() < MEMO_MAX {
            self.seen.insert(key, slot);
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use arrow::array::{DictionaryArray, LargeStringArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    /// Upper-cases, and counts how often it is called.
    fn shout(calls: &Cell<usize>) -> impl Fn(&str, &mut String) -> bool {
        |value, out| {
            calls.set(calls.get() + 1);
            out.push_str(&value.to_uppercase());
            value != "null"
        }
    }

    #[test]
    fn dear_work_is_done_once_per_distinct_value() {
        let values = ["a", "a longer value than a view holds", "a"].repeat(100);
        let calls = Cell::new(0);
        text(
            &StringArray::from(values.clone()),
            Work::Dear,
            shout(&calls),
        )
        .unwrap();
        assert_eq!(calls.replace(0), 2);
        // As a reader makes them from a dictionary page: many views of one place.
        let page = StringViewArray::from(vec!["a", "a longer value than a view holds"]);
        let (views, buffers, _) = page.into_parts();
        let views: Vec<u128> = [views[0], views[1], views[0]].repeat(100);
        let array = StringViewArray::try_new(views.into(), buffers, None).unwrap();
        let masked = text(&array, Work::Dear, shout(&calls)).unwrap();
        assert_eq!(calls.get(), 2);
        let expected: Vec<String> = values.iter().map(|value| value.to_uppercase()).collect();
        assert_eq!(masked.as_string_view(), &StringViewArray::from(expected));
    }

    #[test]
    fn a_memo_that_does_not_pay_is_given_up_and_changes_nothing() {
        let values: Vec<String> = (0..10_000).map(|n| format!("value {}", n % 6000)).collect();
        let calls = Cell::new(0);
        let array = LargeStringArray::from(values.clone());
        let masked = text(&array, Work::Dear, shout(&calls)).unwrap();
        assert_eq!(calls.get(), values.len());
        let expected: Vec<String> = values.iter().map(|value| value.to_uppercase()).collect();
        assert_eq!(masked.as_string::<i64>(), &LargeStringArray::from(expected));
    }

    #[test]
    fn constant_work_is_done_once() {
        let calls = Cell::new(0);
        let array = StringArray::from(vec![None, Some("a"), Some("a")]);
        let masked = text(&array, Work::Constant, shout(&calls)).unwrap();
        assert_eq!(calls.get(), 1);
        let expected = StringArray::from(vec![None, Some("A"), Some("A")]);
        assert_eq!(masked.as_string::<i32>(), &expected);
    }

    #[test]
    fn a_function_that_says_null_leaves_nothing_behind() {
        let array =
            StringViewArray::from(vec!["first of the values", "null", "last of the values"]);
        let masked = text(&array, Work::Cheap, shout(&Cell::new(0))).unwrap();
        let expected = vec![
            Some("FIRST OF THE VALUES"),
            None,
            Some("LAST OF THE VALUES"),
        ];
        assert_eq!(masked.as_string_view(), &StringViewArray::from(expected));
    }

    #[test]
    fn only_the_named_values_of_a_large_dictionary_are_computed() {
        let values: Vec<String> = (0..1000).map(|n| format!("value {n}")).collect();
        let values: ArrayRef = Arc::new(StringArray::from(values));
        let keys = arrow::array::Int32Array::from(vec![Some(7), None, Some(7), Some(900)]);
        let array = DictionaryArray::<Int32Type>::new(keys, values);
        let calls = Cell::new(0);
        let masked = dictionary(&array, |values| text(values, Work::Cheap, shout(&calls))).unwrap();
        // The key behind a null is arbitrary and may name one more.
        assert!(calls.get() <= 3, "{} calls", calls.get());
        let masked = masked.as_dictionary::<Int32Type>();
        let rows = masked.downcast_dict::<StringArray>().unwrap();
        let rows: Vec<_> = rows.into_iter().collect();
        let expected = [Some("VALUE 7"), None, Some("VALUE 7"), Some("VALUE 900")];
        assert_eq!(rows, expected);
        assert_eq!(masked.values().null_count(), 1000 - calls.get());
    }
}
