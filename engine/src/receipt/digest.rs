//! The digest of an answer: over its logical values in order, whatever batches, encodings or files they come in.
//!
//! ```text
//! answer = SHA-256( "trailhouse answer 1\0" | u32 columns | (name | TYPE) of each | u64 rows | COLUMN of each )
//! COLUMN = SHA-256( V(row 0) | V(row 1) | … )
//! V(v)   = 00 if v is null, else 01 | payload
//! ```
//! Numbers are little-endian; a text (names, type words) is its length as u32 and its UTF-8 bytes.
//!
//! | Arrow types | TYPE | payload |
//! |---|---|---|
//! | Null | `null` | none: every value is null |
//! | Boolean | `bool` | 1 byte, 0 or 1 |
//! | Int8..64, UInt8..32 | `int` | i64 |
//! | UInt64 | `uint64` | u64 |
//! | Float16, 32, 64 | `float` | f64 bits; every NaN is 0x7ff8000000000000, and -0 is not 0 |
//! | Decimal32, 64, 128 | `decimal(<scale>)` | i128 |
//! | Decimal256 | `decimal256(<scale>)` | i256 |
//! | Utf8, LargeUtf8, Utf8View | `utf8` | u32 length, bytes |
//! | Binary, LargeBinary, BinaryView, FixedSizeBinary | `binary` | u32 length, bytes |
//! | Date32 | `date` | days since 1970 as i64 |
//! | Date64 | `date64` | milliseconds since 1970 as i64 |
//! | Timestamp with a zone, of any unit | `instant` | seconds since 1970 as i64 (rounded down), nanoseconds in it as u32 |
//! | Timestamp without | `timestamp` | the same |
//! | Time32, Time64 | `time` | nanoseconds since midnight as i64 |
//! | Duration | `duration` | as a timestamp |
//! | Interval | `interval` | months i32, days i32, nanoseconds i64 |
//! | List, LargeList, FixedSizeList of T | `list` then TYPE of T | u32 count, V of each item |
//! | Map of K to T | `map` then TYPE of K and of T | u32 count, V of each key, V of each value, as stored |
//! | Struct | `struct`, u32 fields, then name and TYPE of each | V of each field |
//! | Dictionary of T | that of T | that of T |
//!
//! Nullability, metadata and zone names are not in it. Vectors are in the tests, and a second implementation of it, in
//! Python, in the client tests.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use sha2::{Digest, Sha256};

use super::values::{Sink, count, encode};

const DOMAIN: &[u8] = b"trailhouse answer 1\0";

/// A column has a type, or a value a size, that an answer cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a column has a type that an answer cannot have")]
pub struct Undigestible;

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digested {
    /// Its rows.
    pub rows: u64,
    /// Its digest.
    pub digest: [u8; 32],
}

/// The digest of an answer that is still growing.
#[derive(Debug)]
pub struct AnswerDigest {
    head: Sha256,
    columns: Vec<Sha256>,
    rows: u64,
}

impl AnswerDigest {
    /// The digest of an answer with these columns and no rows yet.
    ///
    /// # Errors
    /// When a column is of a type that answers do not have.
    pub fn new(schema: &Schema) -> Result<Self, Undigestible> {
        let mut told = count(schema.fields().len())?.to_vec();
        for field in schema.fields() {
            push_text(&mut told, field.name())?;
            push_type(&mut told, field.data_type())?;
        }
        Ok(Self {
            head: Sha256::new_with_prefix(DOMAIN).chain_update(told),
            columns: vec![Sha256::new(); schema.fields().len()],
            rows: 0,
        })
    }

    /// Takes the next rows in, which have the columns of the schema.
    ///
    /// # Errors
    /// When they do not.
    pub fn update(&mut self, batch: &RecordBatch) -> Result<(), Undigestible> {
        if batch.num_columns() != self.columns.len() {
            return Err(Undigestible);
        }
        for (column, hash) in batch.columns().iter().zip(&mut self.columns) {
            let mut sink = Sink::new(hash);
            encode(column.as_ref(), 0..batch.num_rows(), &mut sink)?;
            sink.flush();
        }
        self.rows = self.rows.saturating_add(batch.num_rows() as u64);
        Ok(())
    }

    /// What the whole answer comes to.
    #[must_use]
    pub fn finish(self) -> Digested {
        let mut whole = self.head;
        whole.update(self.rows.to_le_bytes());
        for column in self.columns {
            whole.update(column.finalize());
        }
        Digested {
            rows: self.rows,
            digest: whole.finalize().into(),
        }
    }
}

fn push_text(told: &mut Vec<u8>, text: &str) -> Result<(), Undigestible> {
    told.extend_from_slice(&count(text.len())?);
    told.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The logical type: what all physical layouts of it have in common.
fn push_type(told: &mut Vec<u8>, data_type: &DataType) -> Result<(), Undigestible> {
    use DataType::{
        Binary, BinaryView, Boolean, Date32, Date64, Decimal32, Decimal64, Decimal128, Decimal256,
        Dictionary, Duration, FixedSizeBinary, FixedSizeList, Float16, Float32, Float64, Int8,
        Int16, Int32, Int64, Interval, LargeBinary, LargeList, LargeUtf8, List, ListView, Map,
        Null, RunEndEncoded, Struct, Time32, Time64, Timestamp, UInt8, UInt16, UInt32, UInt64,
        Union, Utf8, Utf8View,
    };
    let word = match data_type {
        Null => "null",
        Boolean => "bool",
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => "int",
        UInt64 => "uint64",
        Float16 | Float32 | Float64 => "float",
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) => {
            return push_text(told, &format!("decimal({scale})"));
        }
        Decimal256(_, scale) => return push_text(told, &format!("decimal256({scale})")),
        Utf8 | LargeUtf8 | Utf8View => "utf8",
        Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => "binary",
        Date32 => "date",
        Date64 => "date64",
        Timestamp(_, Some(_)) => "instant",
        Timestamp(_, None) => "timestamp",
        Time32(_) | Time64(_) => "time",
        Duration(_) => "duration",
        Interval(_) => "interval",
        List(item) | LargeList(item) | FixedSizeList(item, _) => {
            push_text(told, "list")?;
            return push_type(told, item.data_type());
        }
        Map(entries, _) => {
            let Struct(fields) = entries.data_type() else {
                return Err(Undigestible);
            };
            push_text(told, "map")?;
            return fields
                .iter()
                .try_for_each(|field| push_type(told, field.data_type()));
        }
        Struct(fields) => {
            push_text(told, "struct")?;
            told.extend_from_slice(&count(fields.len())?);
            return fields.iter().try_for_each(|field| {
                push_text(told, field.name())?;
                push_type(told, field.data_type())
            });
        }
        Dictionary(_, values) => return push_type(told, values),
        ListView(_) | DataType::LargeListView(_) | RunEndEncoded(..) | Union(..) => {
            return Err(Undigestible);
        }
    };
    push_text(told, word)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, DictionaryArray, FixedSizeListArray, Float32Array, Float64Array, Int8Array,
        Int64Array, LargeStringArray, ListArray, MapBuilder, NullArray, StringArray, StringBuilder,
        StringViewArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray,
        TimestampSecondArray, UInt64Array,
    };
    use arrow::compute::concat_batches;
    use arrow::datatypes::{Field, Int8Type, Int64Type};
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn digest(batches: &[RecordBatch]) -> Digested {
        let mut digest = AnswerDigest::new(&batches[0].schema()).unwrap();
        for batch in batches {
            digest.update(batch).unwrap();
        }
        digest.finish()
    }

    fn labels(rows: &[&[(&str, Option<&str>)]]) -> ArrayRef {
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in rows {
            for (key, value) in *row {
                map.keys().append_value(key);
                map.values().append_option(*value);
            }
            map.append(true).unwrap();
        }
        Arc::new(map.finish())
    }

    /// The page read literally, for the vector.
    #[test]
    fn the_bytes_of_the_page_make_the_digest() {
        let batch = batch(vec![
            ("n", Arc::new(Int64Array::from(vec![Some(-2), None])) as _),
            ("t", Arc::new(StringArray::from(vec!["", "\u{e9}"])) as _),
        ]);
        let column = |parts: &[&[u8]]| Sha256::digest(parts.concat());
        let n = column(&[&[1], &(-2_i64).to_le_bytes(), &[0]]);
        let t = column(&[&[1, 0, 0, 0, 0], &[1, 2, 0, 0, 0, 0xc3, 0xa9]]);
        let told: [&[u8]; 6] = [
            b"trailhouse answer 1\0\x02\0\0\0",
            b"\x01\0\0\0n\x03\0\0\0int\x01\0\0\0t\x04\0\0\0utf8",
            b"\x02\0\0\0\0\0\0\0",
            &n,
            &t,
            b"",
        ];
        let expected = Sha256::digest(told.concat());
        let digested = digest(&[batch]);
        assert_eq!((digested.rows, hex(&digested.digest)), (2, hex(&expected)));
    }

    #[test]
    fn nothing_is_something_too() {
        let empty = digest(&[batch(vec![("n", Arc::new(NullArray::new(0)) as _)])]);
        let one = digest(&[batch(vec![("n", Arc::new(NullArray::new(1)) as _)])]);
        assert_eq!(
            hex(&empty.digest),
            hex(&Sha256::digest(
                [
                    &b"trailhouse answer 1\0\x01\0\0\0\x01\0\0\0n\x04\0\0\0null\0\0\0\0\0\0\0\0"[..],
                    &Sha256::digest(b""),
                ]
                .concat()
            ))
        );
        assert_ne!(empty, one);
    }

    /// What is the same to a reader has the same digest.
    #[test]
    fn layouts_of_one_value_have_one_digest() {
        let text = ["x", "a text that is longer than twelve bytes", "x"];
        let dictionary: DictionaryArray<Int8Type> = text.into_iter().collect();
        let ticks = |zone: bool| -> Vec<ArrayRef> {
            let zone = zone.then_some("UTC");
            vec![
                Arc::new(TimestampSecondArray::from(vec![-1, 0]).with_timezone_opt(zone)),
                Arc::new(TimestampMillisecondArray::from(vec![-1_000, 0]).with_timezone_opt(zone)),
                Arc::new(
                    TimestampMicrosecondArray::from(vec![-1_000_000, 0]).with_timezone_opt(zone),
                ),
            ]
        };
        let list = |values: Vec<Option<Vec<Option<i64>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values))
        };
        let pairs = [Some(vec![Some(1), None]), Some(vec![Some(3), Some(4)])];
        let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(pairs.clone(), 2);
        let groups: Vec<Vec<ArrayRef>> = vec![
            vec![
                Arc::new(StringArray::from(text.to_vec())),
                Arc::new(LargeStringArray::from(text.to_vec())),
                Arc::new(StringViewArray::from(text.to_vec())),
                Arc::new(dictionary),
            ],
            vec![
                Arc::new(Int8Array::from(vec![-1, 5])),
                Arc::new(Int64Array::from(vec![-1, 5])),
            ],
            vec![
                Arc::new(Float32Array::from(vec![0.5, f32::NAN])),
                Arc::new(Float64Array::from(vec![0.5, -f64::NAN])),
            ],
            vec![list(pairs.to_vec()), Arc::new(fixed)],
            ticks(true),
            ticks(false),
            vec![Arc::new(UInt64Array::from(vec![u64::MAX, 5]))],
        ];
        let mut seen = Vec::new();
        for group in groups {
            let digests: Vec<_> = group
                .into_iter()
                .map(|array| digest(&[batch(vec![("c", array)])]).digest)
                .collect();
            assert!(digests.iter().all(|other| *other == digests[0]));
            assert!(!seen.contains(&digests[0]));
            seen.push(digests[0]);
        }
    }

    #[test]
    fn what_differs_has_another_digest() {
        let text =
            |values: &[Option<&str>]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let field = Arc::new(Field::new("a", DataType::Utf8, true));
        let whole = StructArray::from(vec![(field, text(&[Some("a")]))]);
        let different: Vec<(&str, ArrayRef)> = vec![
            ("c", text(&[Some("a"), None])),
            ("d", text(&[Some("a"), None])),
            ("c", text(&[None, Some("a")])),
            ("c", text(&[Some("a"), Some("")])),
            ("c", text(&[Some("a")])),
            ("c", text(&[Some("b"), None])),
            ("c", Arc::new(whole)),
            ("c", labels(&[&[("a", Some("b"))], &[]])),
            ("c", labels(&[&[], &[("a", Some("b"))]])),
            ("c", labels(&[&[("a", None)], &[]])),
            ("c", Arc::new(Float64Array::from(vec![0.0]))),
            ("c", Arc::new(Float64Array::from(vec![-0.0]))),
        ];
        let digests: Vec<_> = different
            .into_iter()
            .map(|column| digest(&[batch(vec![column])]).digest)
            .collect();
        for (index, one) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(one), "{index}");
        }
    }

    #[test]
    fn what_no_answer_has_is_refused() {
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let schema = Schema::new(vec![Field::new("c", DataType::ListView(item), true)]);
        assert!(AnswerDigest::new(&schema).is_err());
        let one = batch(vec![("c", labels(&[&[]]))]);
        let mut digest = AnswerDigest::new(&one.schema()).unwrap();
        let two = batch(vec![("c", labels(&[&[]])), ("d", labels(&[&[]]))]);
        assert!(digest.update(&two).is_err());
    }

    proptest! {
        #[test]
        fn batches_make_no_difference(
            rows in prop::collection::vec((any::<Option<i64>>(), ".{0,40}", prop::collection::vec(".{0,3}", 0..3)), 1..60),
            cuts in prop::collection::vec(0_usize..60, 0..6),
        ) {
            let maps: Vec<Vec<(&str, Option<&str>)>> = rows
                .iter()
                .map(|(_, _, keys)| keys.iter().map(|key| (key.as_str(), None)).collect())
                .collect();
            let maps: Vec<&[_]> = maps.iter().map(Vec::as_slice).collect();
            let whole = batch(vec![
                ("n", Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()) as _),
                ("t", Arc::new(rows.iter().map(|row| Some(&row.1)).collect::<StringArray>()) as _),
                ("m", labels(&maps)),
            ]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).collect();
            cuts.extend([0, rows.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts
                .windows(2)
                .map(|pair| whole.slice(pair[0], pair[1] - pair[0]))
                .collect();
            let expected = digest(&[whole]);
            prop_assert_eq!(digest(&parts), expected);
            let schema = parts[0].schema();
            prop_assert_eq!(digest(&[concat_batches(&schema, &parts).unwrap()]), expected);
        }
    }
}
