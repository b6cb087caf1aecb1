//! How much memory arrays take, for bounds that must never be estimated too low.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

/// Members of all lists of a column, down to the innermost.
pub(super) fn members(array: &dyn Array) -> usize {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = ends(list.value_offsets().iter().map(|offset| i64::from(*offset)));
            let inner = list.values().slice(first, last - first);
            members(inner.as_ref()).max(last - first)
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (first, last) = ends(list.value_offsets().iter().copied());
            let inner = list.values().slice(first, last - first);
            members(inner.as_ref()).max(last - first)
        }
        DataType::FixedSizeList(_, size) => {
            let size = usize::try_from(*size).unwrap_or(0);
            array.len().saturating_mul(size)
        }
        _ => array.len(),
    }
}

fn ends(offsets: impl DoubleEndedIterator<Item = i64> + Clone) -> (usize, usize) {
    let at = |offset: Option<i64>| offset.and_then(|at| usize::try_from(at).ok()).unwrap_or(0);
    (at(offsets.clone().next()), at(offsets.clone().next_back()))
}

/// Bytes of all columns of a batch.
pub(super) fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    columns.map(|column| array_bytes(column.as_ref())).sum()
}

/// Bytes of the part of the buffers that an array shows; of views inside other types all that they could show.
pub(super) fn array_bytes(array: &dyn Array) -> usize {
    match array.data_type() {
        DataType::Utf8View => view_bytes(array.as_string_view().lengths()),
        DataType::BinaryView => view_bytes(array.as_binary_view().lengths()),
        data_type if has_views(data_type) => array.get_array_memory_size(),
        _ => {
            let shown = array.to_data().get_slice_memory_size();
            shown.unwrap_or_else(|_| array.get_array_memory_size())
        }
    }
}

fn view_bytes(lengths: impl Iterator<Item = u32>) -> usize {
    // A view itself has 16 bytes.
    let bytes = lengths.map(|length| (length as usize).saturating_add(16));
    bytes.fold(0, usize::saturating_add)
}

fn has_views(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8View
        | DataType::BinaryView
        | DataType::ListView(_)
        | DataType::LargeListView(_) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => has_views(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_views(field.data_type())),
        DataType::Dictionary(_, values) => has_views(values),
        _ => false,
    }
}

/// Bytes of the widest row, or more: the widest value of each column.
pub(super) fn row_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let widest = columns.map(|column| value_bytes(column.as_ref()));
    widest.fold(0, usize::saturating_add)
}

/// Bytes of the widest value of an array, or more.
pub(super) fn value_bytes(array: &dyn Array) -> usize {
    let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    match array.data_type() {
        DataType::Utf8 => {
            let texts = array.as_string::<i32>();
            longest(&mut texts.iter().map(|text| text.map_or(0, str::len)))
        }
        DataType::LargeUtf8 => {
            let texts = array.as_string::<i64>();
            longest(&mut texts.iter().map(|text| text.map_or(0, str::len)))
        }
        DataType::Utf8View => {
            let texts = array.as_string_view();
            longest(&mut texts.lengths().map(|length| length as usize))
        }
        DataType::BinaryView => {
            let texts = array.as_binary_view();
            longest(&mut texts.lengths().map(|length| length as usize))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let count = longest(&mut list.iter().map(|member| member.map_or(0, |of| of.len())));
            count.saturating_mul(value_bytes(list.values().as_ref()).max(1))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let count = longest(&mut map.iter().map(|entry| entry.map_or(0, |of| of.len())));
            let widest = value_bytes(map.keys().as_ref()) + value_bytes(map.values().as_ref());
            count.saturating_mul(widest.max(1))
        }
        DataType::Struct(_) => {
            let members = array.as_struct().columns().iter();
            members.map(|member| value_bytes(member.as_ref())).sum()
        }
        data_type => match data_type.primitive_width() {
            Some(width) => width,
            None if array.is_empty() => 0,
            // Of other types any value may be all there is.
            None => array_bytes(array),
        },
    }
}
