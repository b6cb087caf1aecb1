//! The schema a client is told, and the batches made to fit it.
//!
//! Invariant: `advertised` is the only function that decides what a result looks like on the wire. GetSchema, FlightInfo,
//! prepared statements, `table_schema` and the stream itself all use it, so they cannot differ.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_flight::{IpcMessage, SchemaAsIpc};
use bytes::Bytes;

/// What clients are told about a result of this schema: plain layouts only, and no metadata of ours.
///
/// Dictionaries, views and run-end encodings become what they stand for. Some clients throw on them, and a view sends
/// the whole of the buffer it points into. Every column may be null, because a mask may make it so.
pub(crate) fn advertised(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let nullable = plain_field(field).as_ref().clone().with_nullable(true);
        Arc::new(nullable)
    });
    Arc::new(Schema::new(fields.collect::<Fields>()))
}

fn plain_field(field: &FieldRef) -> FieldRef {
    Arc::new(Field::new(
        field.name(),
        plain_type(field.data_type()),
        field.is_nullable(),
    ))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        // The encoder makes plain lists of large ones, so that is what is announced.
        DataType::List(item)
        | DataType::ListView(item)
        | DataType::LargeList(item)
        | DataType::LargeListView(item) => DataType::List(plain_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        other => other.clone(),
    }
}

/// The same rows in the advertised schema.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError(
            "a batch has another number of columns than its plan".to_owned(),
        ));
    }
    // What cannot be cast is an error: the default is to make it null.
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                cast_with_options(column, field.data_type(), &strict)
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// A schema as an encapsulated IPC message, which is what every schema field of the protocol holds.
pub(crate) fn encapsulated(schema: &Schema) -> Result<Bytes, ArrowError> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &Default::default()).try_into()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::{
        Array, AsArray, DictionaryArray, Int32Array, ListArray, StringArray, StringViewArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn field(data_type: DataType) -> Field {
        Field::new("c", data_type, true)
    }

    #[test]
    fn every_encoding_becomes_the_plain_layout_at_any_depth() {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let cases = [
            (DataType::Utf8View, DataType::Utf8),
            (DataType::BinaryView, DataType::Binary),
            (dictionary.clone(), DataType::Utf8),
            (
                DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8View)),
                DataType::Utf8,
            ),
            (
                DataType::List(Arc::new(field(dictionary.clone()))),
                DataType::List(Arc::new(field(DataType::Utf8))),
            ),
            (
                DataType::Struct(Fields::from(vec![field(dictionary)])),
                DataType::Struct(Fields::from(vec![field(DataType::Utf8)])),
            ),
            (DataType::Decimal128(38, 2), DataType::Decimal128(38, 2)),
            (DataType::Null, DataType::Null),
        ];
        for (given, expected) in cases {
            let told = advertised(&Schema::new(vec![field(given.clone())]));
            assert_eq!(told.field(0).data_type(), &expected, "{given}");
        }
    }

    #[test]
    fn metadata_is_not_told_and_every_column_may_be_null() {
        let metadata = HashMap::from([("internal".to_owned(), "yes".to_owned())]);
        let schema = Schema::new(vec![
            Field::new("a", DataType::Utf8View, false).with_metadata(metadata.clone()),
        ])
        .with_metadata(metadata);
        let told = advertised(&schema);
        assert!(told.metadata().is_empty());
        assert!(told.field(0).metadata().is_empty());
        assert!(told.field(0).is_nullable());
    }

    #[test]
    fn batches_are_made_to_fit() {
        let dictionary: DictionaryArray<Int32Type> =
            vec![Some("x"), None, Some("x")].into_iter().collect();
        let view =
            StringViewArray::from(vec![Some("a value too long for a view"), Some("b"), None]);
        let items = StringViewArray::from(vec!["p", "q", "r"]);
        let list = ListArray::new(
            Arc::new(Field::new("item", DataType::Utf8View, true)),
            OffsetBuffer::from_lengths([1, 0, 2]),
            Arc::new(items),
            None,
        );
        let batch = RecordBatch::try_from_iter_with_nullable(vec![
            ("d", Arc::new(dictionary) as _, true),
            ("v", Arc::new(view) as _, true),
            ("l", Arc::new(list) as _, true),
            ("n", Arc::new(Int32Array::from(vec![1, 2, 3])) as _, false),
        ])
        .unwrap();
        let schema = advertised(&batch.schema());
        let fitted = conform(&batch.slice(1, 2), &schema).unwrap();
        assert_eq!(fitted.schema(), schema);
        let strings: Vec<_> = fitted.column(0).as_string::<i32>().iter().collect();
        assert_eq!(strings, [None, Some("x")]);
        let strings: Vec<_> = fitted.column(1).as_string::<i32>().iter().collect();
        assert_eq!(strings, [Some("b"), None]);
        let last = fitted.column(2).as_list::<i32>().value(1);
        assert_eq!(last.as_string::<i32>(), &StringArray::from(vec!["q", "r"]));
        assert_eq!(fitted.column(3).len(), 2);
    }

    #[test]
    fn a_result_without_columns_keeps_its_rows() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let batch =
            RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options).unwrap();
        assert_eq!(conform(&batch, &schema).unwrap().num_rows(), 3);
    }

    #[test]
    fn a_schema_is_an_encapsulated_message() {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, false)]);
        let bytes = encapsulated(&schema).unwrap();
        assert_eq!(bytes[..4], [0xff; 4], "the continuation marker");
        assert_eq!(Schema::try_from(IpcMessage(bytes)).unwrap(), schema);
    }
}
