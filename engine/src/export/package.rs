//! Records as the files of a bundle: cut and encoded so that the same records give the same bytes, however they arrive.
//!
//! ```text
//! batches of any size ──Cutter──▶ batches that depend on the records alone ──ChunkWriter──▶ bytes of a chunk and of its leaves
//! ```
//! Encoders look at where batches end, so batches are cut anew from the beginning of each chunk: after so many rows or
//! bytes, whichever comes first. Where a row group and a chunk end follows from that too.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, MapArray, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::json::{LineDelimitedWriter, WriterBuilder};
use catalog::clock::Timestamp;
use catalog::ids::RecordId;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::asked::Format;
use super::error::Error;
use super::select::{LEAF_INDEX, Place, column, texts};

/// Rows and bytes of a batch, whichever is reached first.
const BATCH_ROWS: usize = 8_192;
const BATCH_BYTES: usize = 16 << 20;
/// Rows of a row group, unless its bytes are reached first; looked at after each batch.
const GROUP_ROWS: usize = 65_536;
const ZSTD_LEVEL: i32 = 1;
/// Columns in which hardly any value occurs twice: no dictionary is tried.
const DISTINCT: [&str; 6] = [
    "record_id",
    "context",
    "extras",
    "idempotency_key",
    LEAF_INDEX,
    PARTS,
];
/// The parts of a row's leaf, in the batches of callers from whom no row is hidden.
pub(super) const PARTS: &str = "parts";

/// Cuts what comes into batches that depend on nothing but the records.
#[derive(Default)]
pub(super) struct Cutter {
    waiting: VecDeque<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Cutter {
    /// Takes more records.
    pub(super) fn push(&mut self, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.rows += batch.num_rows();
            self.bytes += row_bytes(&batch).iter().sum::<usize>();
            self.waiting.push_back(batch);
        }
    }

    /// The next batch, once it is known where it ends: when `is_end`, with what there is.
    pub(super) fn next(&mut self, is_end: bool) -> Result<Option<RecordBatch>, Error> {
        let is_known = self.rows > BATCH_ROWS || self.bytes > BATCH_BYTES;
        if self.rows == 0 || !(is_known || is_end) {
            return Ok(None);
        }
        let (mut taken, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = self.waiting.pop_front() {
            let mut fits = 0;
            for row in row_bytes(&batch) {
                let is_first = rows + fits == 0;
                if rows + fits == BATCH_ROWS || (!is_first && bytes + row > BATCH_BYTES) {
                    break;
                }
                bytes += row;
                fits += 1;
            }
            rows += fits;
            if fits == batch.num_rows() {
                taken.push(batch);
            } else {
                taken.push(batch.slice(0, fits));
                self.waiting
                    .push_front(batch.slice(fits, batch.num_rows() - fits));
                break;
            }
        }
        self.rows -= rows;
        self.bytes = self.bytes.saturating_sub(bytes);
        let Some(first) = taken.first() else {
            return Ok(None);
        };
        let schema = first.schema();
        let whole = concat_batches(&schema, &taken).map_err(|_| Error::Internal)?;
        Ok(Some(whole))
    }
}

/// What the texts of each row take.
fn row_bytes(batch: &RecordBatch) -> Vec<usize> {
    let mut bytes = vec![64; batch.num_rows()];
    for column in batch.columns() {
        match column.data_type() {
            DataType::Utf8 => add_lengths(&mut bytes, column.as_string::<i32>().value_offsets()),
            DataType::Binary => add_lengths(&mut bytes, column.as_binary::<i32>().value_offsets()),
            DataType::Map(..) => {
                let map: &MapArray = column.as_map();
                let (keys, values) = (map.keys(), map.values());
                for (row, ends) in bytes.iter_mut().zip(map.value_offsets().windows(2)) {
                    let [from, to] = ends else { continue };
                    *row += length(keys, *from, *to) + length(values, *from, *to);
                }
            }
            _ => {}
        }
    }
    bytes
}

fn add_lengths(bytes: &mut [usize], offsets: &[i32]) {
    for (row, ends) in bytes.iter_mut().zip(offsets.windows(2)) {
        if let [from, to] = ends {
            *row += usize::try_from(to - from).unwrap_or(0);
        }
    }
}

/// The bytes of some texts of a column, one after the other.
fn length(texts: &ArrayRef, from: i32, to: i32) -> usize {
    let texts: Option<&StringArray> = texts.as_string_opt();
    let offsets = texts.map_or(&[][..], |texts| texts.value_offsets());
    let at = |index: i32| {
        usize::try_from(index)
            .ok()
            .and_then(|index| offsets.get(index))
    };
    match (at(from), at(to)) {
        (Some(from), Some(to)) => usize::try_from(to - from).unwrap_or(0),
        _ => 0,
    }
}

/// Encodes one chunk.
pub(super) struct ChunkWriter {
    rows: Rows,
    leaves: Option<ArrowWriter<Vec<u8>>>,
    places: Vec<u8>,
    group_rows: usize,
    group_bytes: usize,
    count: u64,
    last: Option<Place>,
    arrow_bytes: u64,
}

enum Rows {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Ndjson(LineDelimitedWriter<Vec<u8>>),
}

impl Rows {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        match self {
            Self::Parquet(writer) => writer.write(batch).map_err(|_| Error::Internal),
            Self::Ndjson(writer) => writer.write(batch).map_err(|_| Error::Internal),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::Parquet(writer) => writer.flush().map_err(|_| Error::Internal),
            Self::Ndjson(_) => Ok(()),
        }
    }
}

/// What a chunk came to.
pub(super) struct Encoded {
    pub(super) rows: Vec<u8>,
    pub(super) leaves: Vec<u8>,
    /// The places of its leaves, in the order of its rows: 8 bytes each, little endian.
    pub(super) places: Vec<u8>,
    pub(super) count: u64,
    pub(super) last: Option<Place>,
}

impl ChunkWriter {
    /// A writer of records that come with these columns, and with their leaves if there is a column for those. A row group
    /// takes so many bytes.
    pub(super) fn new(
        format: Format,
        schema: &SchemaRef,
        group_bytes: usize,
    ) -> Result<Self, Error> {
        let shown = shown(schema);
        let rows = match format {
            Format::Parquet => Rows::Parquet(Box::new(parquet(&shown)?)),
            Format::Ndjson => {
                let writer = WriterBuilder::new().with_explicit_nulls(true);
                Rows::Ndjson(writer.build(Vec::new()))
            }
        };
        let leaves = match schema.column_with_name(PARTS) {
            Some(_) => Some(parquet(&leaves_schema())?),
            None => None,
        };
        Ok(Self {
            rows,
            leaves,
            places: Vec::new(),
            group_rows: 0,
            group_bytes,
            count: 0,
            last: None,
            arrow_bytes: 0,
        })
    }

    /// Encodes a batch as the cutter gave it.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let rows = batch.num_rows();
        let shown = shown(&batch.schema());
        let width = shown.fields().len();
        let columns = batch.columns().get(..width).unwrap_or_default().to_vec();
        let seen = RecordBatch::try_new(shown, columns).map_err(|_| Error::Internal)?;
        self.arrow_bytes += bytes_of(&seen);
        let moments = column::<TimestampMicrosecondType>(batch, "created_at")?;
        let ids = texts(batch, "record_id")?;
        if rows > 0 {
            let id = RecordId::parse(ids.value(rows - 1)).map_err(|_| Error::Internal)?;
            self.last = Some((Timestamp::from_micros(moments.value(rows - 1)), id));
        }
        self.count += rows as u64;
        self.group_rows += rows;
        let leaves = match self.leaves {
            Some(_) => Some(leaves_of(batch)?),
            None => None,
        };
        if let Some(leaves) = &leaves {
            for place in column::<Int64Type>(leaves, LEAF_INDEX)?.values() {
                self.places.extend_from_slice(&place.to_le_bytes());
            }
        }
        self.both(
            |writer| writer.write(&seen),
            |writer| match &leaves {
                Some(leaves) => writer.write(leaves).map_err(|_| Error::Internal),
                None => Ok(()),
            },
        )?;
        self.end_group()
    }

    /// Does something with the rows, and with the leaves beside it: both cost about the same.
    fn both(
        &mut self,
        rows: impl FnOnce(&mut Rows) -> Result<(), Error>,
        leaves: impl FnOnce(&mut ArrowWriter<Vec<u8>>) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let Some(writer) = &mut self.leaves else {
            return rows(&mut self.rows);
        };
        std::thread::scope(|threads| {
            let beside = threads.spawn(move || leaves(writer));
            let done = rows(&mut self.rows);
            beside.join().map_err(|_| Error::Internal)??;
            done
        })
    }

    fn end_group(&mut self) -> Result<(), Error> {
        let is_large = match &self.rows {
            Rows::Parquet(writer) => writer.in_progress_size() >= self.group_bytes,
            Rows::Ndjson(_) => true,
        };
        if self.group_rows < GROUP_ROWS && !is_large {
            return Ok(());
        }
        self.group_rows = 0;
        self.both(Rows::flush, |writer| {
            writer.flush().map_err(|_| Error::Internal)
        })
    }

    /// Whether a row group has just ended: a chunk may end here.
    pub(super) fn is_between_groups(&self) -> bool {
        self.group_rows == 0
    }

    /// Bytes of Arrow data that were written.
    pub(super) fn arrow_bytes(&self) -> u64 {
        self.arrow_bytes
    }

    /// Records that were written.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The bytes that are ready, of the rows and of the leaves.
    pub(super) fn take(&mut self) -> (Vec<u8>, Vec<u8>) {
        let rows = match &mut self.rows {
            Rows::Parquet(writer) => std::mem::take(writer.inner_mut()),
            Rows::Ndjson(writer) => std::mem::take(writer.get_mut()),
        };
        let leaves = self.leaves.as_mut();
        let leaves = leaves.map(|writer| std::mem::take(writer.inner_mut()));
        (rows, leaves.unwrap_or_default())
    }

    /// Ends the chunk, and gives the bytes that are left.
    pub(super) fn finish(self) -> Result<Encoded, Error> {
        let rows = match self.rows {
            Rows::Parquet(writer) => writer.into_inner().map_err(|_| Error::Internal)?,
            Rows::Ndjson(mut writer) => {
                writer.finish().map_err(|_| Error::Internal)?;
                writer.into_inner()
            }
        };
        let leaves = match self.leaves {
            Some(writer) => writer.into_inner().map_err(|_| Error::Internal)?,
            None => Vec::new(),
        };
        Ok(Encoded {
            rows,
            leaves,
            places: self.places,
            count: self.count,
            last: self.last,
        })
    }
}

/// The bytes of the values, whatever larger buffers they lie in.
fn bytes_of(batch: &RecordBatch) -> u64 {
    let columns = batch.columns().iter();
    let sizes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0));
    sizes.sum::<usize>() as u64
}

/// The records with their leaves, in the order of the rows.
pub(super) fn with_parts(batch: &RecordBatch, parts: &[Vec<u8>]) -> Result<RecordBatch, Error> {
    let mut fields: Vec<_> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(PARTS, DataType::Binary, false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(BinaryArray::from_iter_values(parts)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|_| Error::Internal)
}

/// The columns of the bundle, without what a query says of them besides their types.
fn shown(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().filter(|field| field.name() != PARTS);
    let fields = fields.map(|field| {
        let plain = Field::new(field.name(), field.data_type().clone(), field.is_nullable());
        Arc::new(plain)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn leaves_of(batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let places = batch.column_by_name(LEAF_INDEX).ok_or(Error::Internal)?;
    let parts = batch.column_by_name(PARTS).ok_or(Error::Internal)?;
    let columns = vec![Arc::clone(places), Arc::clone(parts)];
    RecordBatch::try_new(leaves_schema(), columns).map_err(|_| Error::Internal)
}

fn leaves_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(LEAF_INDEX, DataType::Int64, true),
        Field::new(PARTS, DataType::Binary, false),
    ]))
}

fn parquet(schema: &SchemaRef) -> Result<ArrowWriter<Vec<u8>>, Error> {
    let level = ZstdLevel::try_new(ZSTD_LEVEL).map_err(|_| Error::Internal)?;
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("trailhouse version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(None);
    for name in DISTINCT {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    let properties = Some(properties.build());
    let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(schema), properties);
    writer.map_err(|_| Error::Internal)
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    fn records(numbers: std::ops::Range<usize>) -> RecordBatch {
        let ids = numbers
            .clone()
            .map(|number| format!("01KDVDN00000000000{number:08}"));
        let moments =
            TimestampMicrosecondArray::from_iter_values(numbers.clone().map(|n| n as i64));
        let text = numbers.clone().map(|number| "x".repeat(number % 700));
        let places: Vec<_> = numbers.map(|number| number as i64).collect();
        let batch = RecordBatch::try_from_iter([
            (
                "record_id",
                Arc::new(StringArray::from_iter_values(ids)) as ArrayRef,
            ),
            ("created_at", Arc::new(moments.with_timezone("UTC"))),
            ("context", Arc::new(StringArray::from_iter_values(text))),
            (
                LEAF_INDEX,
                Arc::new(arrow::array::Int64Array::from(places.clone())),
            ),
        ])
        .unwrap();
        let parts: Vec<_> = places
            .iter()
            .map(|place| place.to_le_bytes().to_vec())
            .collect();
        with_parts(&batch, &parts).unwrap()
    }

    fn written(format: Format, sizes: &[usize]) -> (Vec<u8>, Vec<u8>) {
        let mut cutter = Cutter::default();
        let mut writer = ChunkWriter::new(format, &records(0..1).schema(), 1 << 20).unwrap();
        let (mut rows, mut leaves) = (Vec::new(), Vec::new());
        let mut at = 0;
        for size in sizes.iter().cycle() {
            let end = (at + size).min(90_000);
            cutter.push(records(at..end));
            at = end;
            while let Some(batch) = cutter.next(at == 90_000).unwrap() {
                writer.write(&batch).unwrap();
                let (some, others) = writer.take();
                rows.extend(some);
                leaves.extend(others);
            }
            if at == 90_000 {
                break;
            }
        }
        let ended = writer.finish().unwrap();
        assert_eq!(ended.count, 90_000);
        assert_eq!(ended.places.len(), 8 * 90_000);
        rows.extend(ended.rows);
        leaves.extend(ended.leaves);
        (rows, leaves)
    }

    #[test]
    fn the_same_records_give_the_same_bytes() {
        for format in [Format::Parquet, Format::Ndjson] {
            let expected = written(format, &[8_192]);
            for sizes in [&[90_000][..], &[1, 5_000, 77], &[65_536, 3]] {
                assert!(written(format, sizes) == expected, "{format:?} {sizes:?}");
            }
        }
    }

    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let large = |count: usize| {
            let text = std::iter::repeat_n("y".repeat(3 << 20), count);
            let text = Arc::new(StringArray::from_iter_values(text)) as ArrayRef;
            RecordBatch::try_from_iter([("context", text)]).unwrap()
        };
        let mut cutter = Cutter::default();
        cutter.push(large(3));
        assert!(cutter.next(false).unwrap().is_none());
        cutter.push(large(4));
        assert_eq!(cutter.next(false).unwrap().unwrap().num_rows(), 5);
        assert!(cutter.next(false).unwrap().is_none());
        assert_eq!(cutter.next(true).unwrap().unwrap().num_rows(), 2);
        assert!(cutter.next(true).unwrap().is_none());
    }
}
