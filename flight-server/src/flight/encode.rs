//! A result on its way out: cut into messages, made to fit, encoded.
//!
//! Nothing here runs ahead of the client. The stream is polled as the connection has room, and dropping it drops the
//! query that feeds it.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::types::{Int16Type, Int32Type, Int64Type, RunEndIndexType};
use arrow::array::{Array, AsArray, RecordBatch, UnionArray};
use arrow::datatypes::{ArrowNativeType, DataType, SchemaRef};
use arrow::ipc::CompressionType;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::problem::{Problem, Slug};

use super::limits::MESSAGE_BYTES_TARGET;
use super::schema::conform;

/// What DoGet answers.
pub(crate) type FlightDataStream =
    Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// What the client asks for in this header of DoGet is done to the buffers of the answer (Arrow's format, Message.fbs:
/// `BodyCompression`). Nobody gets it unasked: some clients cannot read it.
pub(crate) const COMPRESSION: &str = "x-trailhouse-compression";

/// How messages are written for a client that sends these headers.
pub(crate) fn options(metadata: &MetadataMap) -> Result<IpcWriteOptions, Problem> {
    let refused = || {
        let detail = format!("{COMPRESSION} is lz4 or zstd, or is left out");
        Problem::new(Slug::InvalidQuery, detail)
    };
    let asked = metadata.get(COMPRESSION).map(MetadataValue::to_str);
    let codec = match asked.transpose().map_err(|_| refused())? {
        None => None,
        Some("lz4") => Some(CompressionType::LZ4_FRAME),
        Some("zstd") => Some(CompressionType::ZSTD),
        Some(_) => return Err(refused()),
    };
    let options = IpcWriteOptions::default().try_with_compression(codec);
    options.map_err(|_| refused())
}

/// Encodes batches as the advertised schema. The schema message is sent even when no row follows. `broken` is the
/// answer when a batch does not fit: errors of casts quote values, so they stay here.
pub(crate) fn encode<S>(
    schema: SchemaRef,
    batches: S,
    (options, broken): (IpcWriteOptions, Status),
) -> FlightDataStream
where
    S: Stream<Item = Result<RecordBatch, Status>> + Send + 'static,
{
    let target = Arc::clone(&schema);
    let messages = batches
        .map_ok(move |batch| {
            let target = Arc::clone(&target);
            stream::iter(cut(&batch, MESSAGE_BYTES_TARGET))
                .map(move |part| conform(&part, &target).map_err(FlightError::Arrow))
        })
        .map_err(FlightError::from)
        .try_flatten();
    FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_options(options)
        // The encoder would cut again, by the size of buffers that slices share.
        .with_max_flight_data_size(usize::MAX)
        .build(messages)
        .map_err(move |error| match error {
            FlightError::Tonic(status) => *status,
            _ => broken.clone(),
        })
        .boxed()
}

/// Slices of the batch whose rows add up to at most `bytes`, or that are one row.
fn cut(batch: &RecordBatch, bytes: usize) -> Vec<RecordBatch> {
    let mut rows = vec![0; batch.num_rows()];
    for column in batch.columns() {
        add_row_bytes(column.as_ref(), &mut rows);
    }
    let mut parts = Vec::new();
    let (mut start, mut size) = (0, 0_usize);
    for (row, row_bytes) in rows.iter().enumerate() {
        if row > start && size.saturating_add(*row_bytes) > bytes {
            parts.push(batch.slice(start, row - start));
            (start, size) = (row, 0);
        }
        size = size.saturating_add(*row_bytes);
    }
    if start < rows.len() {
        parts.push(batch.slice(start, rows.len() - start));
    }
    parts
}

/// How large all rows of these columns are once hydrated.
pub(crate) fn hydrated_bytes(batch: &RecordBatch) -> usize {
    let mut rows = vec![0; batch.num_rows()];
    for column in batch.columns() {
        add_row_bytes(column.as_ref(), &mut rows);
    }
    rows.into_iter().fold(0, usize::saturating_add)
}

/// Adds to each row what it takes in the advertised layout: measured, because rows of one batch differ by orders of
/// magnitude, and because dictionaries and views repeat what they hold once.
fn add_row_bytes(array: &dyn Array, rows: &mut [usize]) {
    match array.data_type() {
        // It takes no room but where it is shown.
        DataType::Null => rows.iter_mut().for_each(|row| add(row, 8)),
        DataType::Utf8 => add_lengths(array.as_string::<i32>().offsets(), 4, rows),
        DataType::LargeUtf8 => add_lengths(array.as_string::<i64>().offsets(), 8, rows),
        DataType::Binary => add_lengths(array.as_binary::<i32>().offsets(), 4, rows),
        DataType::LargeBinary => add_lengths(array.as_binary::<i64>().offsets(), 8, rows),
        DataType::Utf8View => add_view_lengths(array.as_string_view().views(), rows),
        DataType::BinaryView => add_view_lengths(array.as_binary_view().views(), rows),
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let mut values = vec![0; dictionary.values().len()];
            add_row_bytes(dictionary.values().as_ref(), &mut values);
            if !values.is_empty() {
                for (row, key) in rows.iter_mut().zip(dictionary.normalized_keys()) {
                    add(row, values.get(key).copied().unwrap_or_default());
                }
            }
        }
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                add_row_bytes(column.as_ref(), rows);
            }
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            add_items(list.offsets(), list.values().as_ref(), rows);
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            add_items(list.offsets(), list.values().as_ref(), rows);
        }
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let mut sizes = vec![0; list.values().len()];
            add_row_bytes(list.values().as_ref(), &mut sizes);
            let each = usize::try_from(list.value_length()).unwrap_or_default();
            for (row, held) in rows.iter_mut().zip(sizes.chunks(each.max(1))) {
                add(row, held.iter().copied().fold(0, usize::saturating_add));
            }
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            add_items(map.offsets(), map.entries(), rows);
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            add_viewed((list.offsets(), list.sizes()), list.values().as_ref(), rows);
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            add_viewed((list.offsets(), list.sizes()), list.values().as_ref(), rows);
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => add_runs::<Int16Type>(array, rows),
            DataType::Int32 => add_runs::<Int32Type>(array, rows),
            _ => add_runs::<Int64Type>(array, rows),
        },
        DataType::Union(_, _) => add_union(array.as_union(), rows),
        other => {
            let width = other
                .primitive_width()
                .unwrap_or_else(|| array.get_array_memory_size() / array.len().max(1));
            rows.iter_mut().for_each(|row| add(row, width));
        }
    }
}

fn add(row: &mut usize, bytes: usize) {
    *row = row.saturating_add(bytes);
}

fn add_lengths<O: ArrowNativeType>(offsets: &[O], width: usize, rows: &mut [usize]) {
    for (row, pair) in rows.iter_mut().zip(offsets.windows(2)) {
        if let [start, end] = pair {
            add(row, end.as_usize().saturating_sub(start.as_usize()) + width);
        }
    }
}

fn add_view_lengths(views: &[u128], rows: &mut [usize]) {
    for (row, view) in rows.iter_mut().zip(views) {
        // The low 32 bits of a view are the length of its value.
        add(row, (*view & u128::from(u32::MAX)).as_usize() + 4);
    }
}

fn add_items<O: ArrowNativeType>(offsets: &[O], items: &dyn Array, rows: &mut [usize]) {
    let mut sizes = vec![0; items.len()];
    add_row_bytes(items, &mut sizes);
    for (row, pair) in rows.iter_mut().zip(offsets.windows(2)) {
        if let [start, end] = pair {
            let held = sizes.get(start.as_usize()..end.as_usize());
            let held = held.unwrap_or_default().iter().copied();
            add(row, held.fold(8, usize::saturating_add));
        }
    }
}

/// Lists that may lie in one another: what lies before each item tells what any of them takes.
fn add_viewed<O: ArrowNativeType>(
    (offsets, sizes): (&[O], &[O]),
    items: &dyn Array,
    rows: &mut [usize],
) {
    let mut each = vec![0; items.len()];
    add_row_bytes(items, &mut each);
    let mut before = Vec::with_capacity(each.len() + 1);
    before.push(0_usize);
    for size in each {
        let last = before.last().copied().unwrap_or_default();
        before.push(last.saturating_add(size));
    }
    for (row, (offset, size)) in rows.iter_mut().zip(offsets.iter().zip(sizes)) {
        let start = offset.as_usize();
        let end = start.saturating_add(size.as_usize());
        let held = |at: usize| before.get(at).copied().unwrap_or(usize::MAX);
        add(row, held(end).saturating_sub(held(start)).saturating_add(8));
    }
}

fn add_runs<R: RunEndIndexType>(array: &dyn Array, rows: &mut [usize]) {
    let Some(runs) = array.as_run_opt::<R>() else {
        return rows.iter_mut().for_each(|row| *row = usize::MAX);
    };
    let mut values = vec![0; runs.values().len()];
    add_row_bytes(runs.values().as_ref(), &mut values);
    for (at, row) in rows.iter_mut().enumerate() {
        let value = values.get(runs.get_physical_index(at));
        add(row, value.copied().unwrap_or(usize::MAX));
    }
}

fn add_union(union: &UnionArray, rows: &mut [usize]) {
    let mut members: HashMap<i8, Vec<usize>> = HashMap::new();
    for (at, row) in rows.iter_mut().enumerate() {
        let id = union.type_id(at);
        let sizes = members.entry(id).or_insert_with(|| {
            let member = union.child(id);
            let mut sizes = vec![0; member.len()];
            add_row_bytes(member.as_ref(), &mut sizes);
            sizes
        });
        let size = sizes.get(union.value_offset(at));
        add(row, size.copied().unwrap_or(usize::MAX));
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BinaryViewArray, DictionaryArray, Int64Array, MapBuilder, StringArray, StringBuilder,
        StringViewArray,
    };
    use arrow::datatypes::Int32Type;
    use arrow_flight::decode::FlightRecordBatchStream;

    use super::super::schema::advertised;
    use super::*;

    fn one_column(array: impl Array + 'static) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(vec![("c", Arc::new(array) as _, true)]).unwrap()
    }

    fn lengths(parts: &[RecordBatch]) -> Vec<usize> {
        parts.iter().map(RecordBatch::num_rows).collect()
    }

    #[test]
    fn skewed_rows_are_cut_where_they_lie() {
        let long = "x".repeat(1000);
        let batch = one_column(StringArray::from(vec!["a", "b", &long, "c", &long, &long]));
        assert_eq!(lengths(&cut(&batch, 1008)), [2, 1, 1, 1, 1]);
        assert_eq!(lengths(&cut(&batch, 1)), [1; 6], "a row is never split");
        assert_eq!(lengths(&cut(&batch, usize::MAX)), [6]);
    }

    #[test]
    fn slices_are_measured_and_not_what_they_share() {
        let text: Vec<_> = (0..1000).map(|n| format!("{n:0>100}")).collect();
        let batch = one_column(StringArray::from(text)).slice(10, 5);
        assert_eq!(lengths(&cut(&batch, 520)), [5]);
    }

    #[test]
    fn a_dictionary_counts_as_often_as_it_is_used() {
        let long = "x".repeat(1000);
        let dictionary: DictionaryArray<Int32Type> = [long.as_str(); 10].into_iter().collect();
        assert_eq!(lengths(&cut(&one_column(dictionary), 5 * 1004)), [5, 5]);
        let nulls: DictionaryArray<Int32Type> = vec![None::<&str>; 3].into_iter().collect();
        assert_eq!(lengths(&cut(&one_column(nulls), 1)), [3]);
    }

    #[test]
    fn views_and_maps_count_what_they_hold() {
        let long = "x".repeat(100);
        let view = one_column(StringViewArray::from(vec![long.as_str(); 4]));
        assert_eq!(lengths(&cut(&view, 208)), [2, 2]);
        let view = one_column(BinaryViewArray::from(vec![long.as_bytes(); 4]));
        assert_eq!(lengths(&cut(&view, 208)), [2, 2]);
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for pairs in [1, 0, 3] {
            for _ in 0..pairs {
                map.keys().append_value("k");
                map.values().append_value(&long);
            }
            map.append(true).unwrap();
        }
        assert_eq!(lengths(&cut(&one_column(map.finish()), 200)), [2, 1]);
    }

    fn broken() -> (IpcWriteOptions, Status) {
        (IpcWriteOptions::default(), Status::internal("broken"))
    }

    fn asking(value: &str) -> Result<IpcWriteOptions, Problem> {
        let mut metadata = MetadataMap::new();
        metadata.insert(COMPRESSION, value.parse().unwrap());
        options(&metadata)
    }

    #[tokio::test]
    async fn what_is_asked_for_is_compressed_and_nothing_else() {
        let column: StringArray = std::iter::repeat_n(Some("the same text"), 1_000).collect();
        let batch = one_column(column);
        let sent = async |options: IpcWriteOptions| {
            let batches = stream::iter([Ok(batch.clone())]);
            let stream = encode(batch.schema(), batches, (options, broken().1));
            let messages: Vec<FlightData> = stream.try_collect().await.unwrap();
            let bytes: usize = messages.iter().map(|message| message.data_body.len()).sum();
            let back = decoded(stream::iter(messages.into_iter().map(Ok)).boxed()).await;
            assert_eq!(back, std::slice::from_ref(&batch));
            bytes
        };
        let plain = sent(options(&MetadataMap::new()).unwrap()).await;
        for codec in ["lz4", "zstd"] {
            assert!(sent(asking(codec).unwrap()).await < plain / 4, "{codec}");
        }
        assert_eq!(asking("gzip").unwrap_err().slug(), Slug::InvalidQuery);
    }

    async fn decoded(stream: FlightDataStream) -> Vec<RecordBatch> {
        FlightRecordBatchStream::new_from_flight_data(stream.map_err(FlightError::from))
            .try_collect()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn no_message_is_larger_than_clients_take() {
        let rows = 20_000;
        let text: DictionaryArray<Int32Type> = std::iter::repeat_n(["y".repeat(500)], rows)
            .flatten()
            .collect::<Vec<_>>()
            .iter()
            .map(String::as_str)
            .collect();
        let batch = RecordBatch::try_from_iter(vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..20_000)) as _),
            ("t", Arc::new(text) as _),
        ])
        .unwrap();
        let schema = advertised(&batch.schema());
        let messages: Vec<_> = encode(Arc::clone(&schema), stream::iter([Ok(batch)]), broken())
            .try_collect()
            .await
            .unwrap();
        assert!(messages.len() > 4);
        for message in &messages {
            assert!(message.data_body.len() <= MESSAGE_BYTES_TARGET + 64 * 1024);
        }
        let back = decoded(stream::iter(messages.into_iter().map(Ok)).boxed()).await;
        assert_eq!(back.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
        assert!(back.iter().all(|part| part.schema() == schema));
    }

    #[tokio::test]
    async fn an_empty_result_still_sends_its_schema() {
        let schema = advertised(&one_column(StringArray::from(vec!["a"])).schema());
        let messages: Vec<_> = encode(Arc::clone(&schema), stream::empty(), broken())
            .try_collect()
            .await
            .unwrap();
        assert_eq!(messages.len(), 1);
        let told = arrow::datatypes::Schema::try_from(&messages[0]).unwrap();
        assert_eq!(told, *schema);
    }

    #[tokio::test]
    async fn an_error_in_the_middle_is_an_error() {
        let batch = one_column(StringArray::from(vec!["a"]));
        let schema = advertised(&batch.schema());
        let failing = stream::iter([Ok(batch), Err(Status::unavailable("store"))]);
        let results: Vec<_> = encode(schema, failing, broken()).collect().await;
        assert_eq!(results.len(), 3, "schema, batch, error and no more");
        let status = results[2].as_ref().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
    }

    #[tokio::test]
    async fn a_batch_that_does_not_fit_is_an_error_that_quotes_nothing() {
        let told = one_column(Int64Array::from(vec![1])).schema();
        let batch = one_column(StringArray::from(vec!["secret"]));
        let results: Vec<_> = encode(told, stream::iter([Ok(batch)]), broken())
            .collect()
            .await;
        assert_eq!(results.len(), 2, "schema, error and no more");
        let status = results[1].as_ref().unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Internal, "broken")
        );
    }
}
