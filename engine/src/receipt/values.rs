//! Values on their way into a digest, as [`super::AnswerDigest`] specifies them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, IntervalDayTimeType, IntervalMonthDayNanoType, IntervalYearMonthType,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit, TimeUnit};
use sha2::{Digest, Sha256};

use super::Undigestible;

/// Bytes that are gathered before they are hashed.
const GATHERED_MAX: usize = 32 * 1024;
const NAN: u64 = 0x7ff8_0000_0000_0000;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// Bytes on their way into a hash.
pub(super) struct Sink<'a> {
    hash: &'a mut Sha256,
    gathered: Vec<u8>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(hash: &'a mut Sha256) -> Self {
        Self {
            hash,
            gathered: Vec::with_capacity(GATHERED_MAX + 64),
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        if bytes.len() > GATHERED_MAX {
            self.flush();
            self.hash.update(bytes);
            return;
        }
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() > GATHERED_MAX {
            self.flush();
        }
    }

    fn null(&mut self) {
        self.push(&[0]);
    }

    fn value(&mut self, payload: &[u8]) {
        self.gathered.push(1);
        self.push(payload);
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Undigestible> {
        self.gathered.push(1);
        self.gathered.extend_from_slice(&count(bytes.len())?);
        self.push(bytes);
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        self.hash.update(&self.gathered);
        self.gathered.clear();
    }
}

pub(super) fn count(length: usize) -> Result<[u8; 4], Undigestible> {
    let length = u32::try_from(length).map_err(|_| Undigestible)?;
    Ok(length.to_le_bytes())
}

/// Encodes these rows of a column.
pub(super) fn encode(
    array: &dyn Array,
    rows: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), Undigestible> {
    match array.data_type() {
        DataType::Null => rows.for_each(|_| sink.null()),
        DataType::Boolean => {
            let values = array.as_boolean();
            for row in rows {
                if values.is_null(row) {
                    sink.null();
                } else {
                    sink.value(&[u8::from(values.value(row))]);
                }
            }
        }
        DataType::Utf8 => {
            let values = array.as_string::<i32>();
            return bytes(array, rows, sink, |row| values.value(row).as_bytes());
        }
        DataType::LargeUtf8 => {
            let values = array.as_string::<i64>();
            return bytes(array, rows, sink, |row| values.value(row).as_bytes());
        }
        DataType::Utf8View => {
            let values = array.as_string_view();
            return bytes(array, rows, sink, |row| values.value(row).as_bytes());
        }
        DataType::Binary => {
            let values = array.as_binary::<i32>();
            return bytes(array, rows, sink, |row| values.value(row));
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>();
            return bytes(array, rows, sink, |row| values.value(row));
        }
        DataType::BinaryView => {
            let values = array.as_binary_view();
            return bytes(array, rows, sink, |row| values.value(row));
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            return bytes(array, rows, sink, |row| values.value(row));
        }
        data_type if data_type.is_nested() || matches!(data_type, DataType::Dictionary(..)) => {
            return nested(array, rows, sink);
        }
        data_type if data_type.is_temporal() => return temporal(array, rows, sink),
        _ => return numeric(array, rows, sink),
    }
    Ok(())
}

fn bytes<'v>(
    array: &dyn Array,
    rows: Range<usize>,
    sink: &mut Sink<'_>,
    value: impl Fn(usize) -> &'v [u8],
) -> Result<(), Undigestible> {
    for row in rows {
        if array.is_null(row) {
            sink.null();
        } else {
            sink.bytes(value(row))?;
        }
    }
    Ok(())
}

fn fixed<T: ArrowPrimitiveType, const N: usize>(
    array: &dyn Array,
    rows: Range<usize>,
    sink: &mut Sink<'_>,
    payload: impl Fn(T::Native) -> [u8; N],
) {
    let values = array.as_primitive::<T>();
    for row in rows {
        if values.is_null(row) {
            sink.null();
        } else {
            sink.value(&payload(values.value(row)));
        }
    }
}

fn integers<T: ArrowPrimitiveType>(array: &dyn Array, rows: Range<usize>, sink: &mut Sink<'_>)
where
    T::Native: Into<i64>,
{
    fixed::<T, 8>(array, rows, sink, |value| value.into().to_le_bytes());
}

fn float(value: f64) -> [u8; 8] {
    let bits = if value.is_nan() { NAN } else { value.to_bits() };
    bits.to_le_bytes()
}

fn numeric(array: &dyn Array, rows: Range<usize>, sink: &mut Sink<'_>) -> Result<(), Undigestible> {
    match array.data_type() {
        DataType::Int8 => integers::<Int8Type>(array, rows, sink),
        DataType::Int16 => integers::<Int16Type>(array, rows, sink),
        DataType::Int32 => integers::<Int32Type>(array, rows, sink),
        DataType::Int64 => integers::<Int64Type>(array, rows, sink),
        DataType::UInt8 => integers::<UInt8Type>(array, rows, sink),
        DataType::UInt16 => integers::<UInt16Type>(array, rows, sink),
        DataType::UInt32 => integers::<UInt32Type>(array, rows, sink),
        DataType::UInt64 => fixed::<UInt64Type, 8>(array, rows, sink, u64::to_le_bytes),
        DataType::Float16 => {
            fixed::<Float16Type, 8>(array, rows, sink, |value| float(value.to_f64()));
        }
        DataType::Float32 => {
            fixed::<Float32Type, 8>(array, rows, sink, |value| float(value.into()));
        }
        DataType::Float64 => fixed::<Float64Type, 8>(array, rows, sink, float),
        DataType::Decimal32(..) => {
            fixed::<Decimal32Type, 16>(array, rows, sink, |value| i128::from(value).to_le_bytes())
        }
        DataType::Decimal64(..) => {
            fixed::<Decimal64Type, 16>(array, rows, sink, |value| i128::from(value).to_le_bytes())
        }
        DataType::Decimal128(..) => {
            fixed::<Decimal128Type, 16>(array, rows, sink, i128::to_le_bytes);
        }
        DataType::Decimal256(..) => {
            fixed::<Decimal256Type, 32>(array, rows, sink, |value| value.to_le_bytes());
        }
        _ => return Err(Undigestible),
    }
    Ok(())
}

/// Seconds, and nanoseconds in them, of a number of parts of a second.
fn moment(value: i64, per_second: i64) -> [u8; 12] {
    let nanos = value.rem_euclid(per_second) * (NANOS_PER_SECOND / per_second);
    let mut payload = [0; 12];
    payload[..8].copy_from_slice(&value.div_euclid(per_second).to_le_bytes());
    // Below a thousand million, always.
    payload[8..].copy_from_slice(&u32::try_from(nanos).unwrap_or_default().to_le_bytes());
    payload
}

fn moments<T: ArrowPrimitiveType<Native = i64>>(
    array: &dyn Array,
    rows: Range<usize>,
    sink: &mut Sink<'_>,
    per_second: i64,
) {
    fixed::<T, 12>(array, rows, sink, |value| moment(value, per_second));
}

fn interval(months: i32, days: i32, nanos: i64) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[..4].copy_from_slice(&months.to_le_bytes());
    payload[4..8].copy_from_slice(&days.to_le_bytes());
    payload[8..].copy_from_slice(&nanos.to_le_bytes());
    payload
}

fn temporal(
    array: &dyn Array,
    rows: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), Undigestible> {
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    match array.data_type() {
        DataType::Date32 => integers::<Date32Type>(array, rows, sink),
        DataType::Date64 => integers::<Date64Type>(array, rows, sink),
        DataType::Timestamp(Second, _) => moments::<TimestampSecondType>(array, rows, sink, 1),
        DataType::Timestamp(Millisecond, _) => {
            moments::<TimestampMillisecondType>(array, rows, sink, 1_000);
        }
        DataType::Timestamp(Microsecond, _) => {
            moments::<TimestampMicrosecondType>(array, rows, sink, 1_000_000);
        }
        DataType::Timestamp(Nanosecond, _) => {
            moments::<TimestampNanosecondType>(array, rows, sink, NANOS_PER_SECOND);
        }
        DataType::Duration(Second) => moments::<DurationSecondType>(array, rows, sink, 1),
        DataType::Duration(Millisecond) => {
            moments::<DurationMillisecondType>(array, rows, sink, 1_000);
        }
        DataType::Duration(Microsecond) => {
            moments::<DurationMicrosecondType>(array, rows, sink, 1_000_000);
        }
        DataType::Duration(Nanosecond) => {
            moments::<DurationNanosecondType>(array, rows, sink, NANOS_PER_SECOND);
        }
        DataType::Time32(Second) => fixed::<Time32SecondType, 8>(array, rows, sink, |value| {
            (i64::from(value) * NANOS_PER_SECOND).to_le_bytes()
        }),
        DataType::Time32(_) => fixed::<Time32MillisecondType, 8>(array, rows, sink, |value| {
            (i64::from(value) * 1_000_000).to_le_bytes()
        }),
        DataType::Time64(Microsecond) => {
            fixed::<Time64MicrosecondType, 8>(array, rows, sink, |value| {
                value.wrapping_mul(1_000).to_le_bytes()
            });
        }
        DataType::Time64(_) => integers::<Time64NanosecondType>(array, rows, sink),
        DataType::Interval(IntervalUnit::YearMonth) => {
            fixed::<IntervalYearMonthType, 16>(array, rows, sink, |months| interval(months, 0, 0));
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            fixed::<IntervalDayTimeType, 16>(array, rows, sink, |value| {
                interval(0, value.days, i64::from(value.milliseconds) * 1_000_000)
            });
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            fixed::<IntervalMonthDayNanoType, 16>(array, rows, sink, |value| {
                interval(value.months, value.days, value.nanoseconds)
            });
        }
        _ => return Err(Undigestible),
    }
    Ok(())
}

fn nested(array: &dyn Array, rows: Range<usize>, sink: &mut Sink<'_>) -> Result<(), Undigestible> {
    match array.data_type() {
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            each(array, rows, sink, |row, sink| {
                let key = keys.get(row).copied().ok_or(Undigestible)?;
                encode(dictionary.values().as_ref(), key..key + 1, sink)
            })
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (offsets, values) = (list.value_offsets(), [Arc::clone(list.values())]);
            each(array, rows, sink, |row, sink| {
                items(&values, held(offsets, row)?, sink)
            })
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (offsets, values) = (list.value_offsets(), [Arc::clone(list.values())]);
            each(array, rows, sink, |row, sink| {
                items(&values, held(offsets, row)?, sink)
            })
        }
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(list.value_length()).map_err(|_| Undigestible)?;
            let values = [Arc::clone(list.values())];
            let first = list.value_offset(0).as_usize();
            each(array, rows, sink, |row, sink| {
                let start = first + row * size;
                items(&values, start..start + size, sink)
            })
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (offsets, columns) = (map.value_offsets(), map.entries().columns());
            each(array, rows, sink, |row, sink| {
                items(columns, held(offsets, row)?, sink)
            })
        }
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            each(array, rows, sink, |row, sink| {
                sink.value(&[]);
                let mut columns = columns.iter();
                columns.try_for_each(|column| encode(column.as_ref(), row..row + 1, sink))
            })
        }
        _ => Err(Undigestible),
    }
}

fn each(
    array: &dyn Array,
    mut rows: Range<usize>,
    sink: &mut Sink<'_>,
    mut value: impl FnMut(usize, &mut Sink<'_>) -> Result<(), Undigestible>,
) -> Result<(), Undigestible> {
    rows.try_for_each(|row| {
        if array.is_null(row) {
            sink.null();
            Ok(())
        } else {
            value(row, sink)
        }
    })
}

/// Where the items of a row stand.
fn held<O: ArrowNativeType>(offsets: &[O], row: usize) -> Result<Range<usize>, Undigestible> {
    match offsets.get(row..row + 2) {
        Some([start, end]) => Ok(start.as_usize()..end.as_usize()),
        _ => Err(Undigestible),
    }
}

fn items(
    columns: &[ArrayRef],
    held: Range<usize>,
    sink: &mut Sink<'_>,
) -> Result<(), Undigestible> {
    sink.value(&count(held.len())?);
    let mut columns = columns.iter();
    columns.try_for_each(|column| encode(column.as_ref(), held.clone(), sink))
}
