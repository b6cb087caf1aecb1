//! From the batches of a flush to the rows of files: columns as the table has them, one part per partition, in order.
//!
//! ```text
//! batches, any column order ──conform──▶ the table's columns ──split──▶ (partition, rows sorted for their file)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::SortOptions;
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Error;
use super::layout::Partition;
use crate::record::schema::PARTITIONS;

/// The sort order of every file: these columns, those of them that the table has, newest first.
pub(crate) const SORT: [&str; 2] = ["created_at", "record_id"];

/// How [`SORT`] orders: as `ORDER BY … DESC` does when it says no more, so that such a query needs no sort.
pub(crate) const SORT_OPTIONS: SortOptions = SortOptions {
    descending: true,
    nulls_first: true,
};

/// The table's schema after this batch: `None` when it already has every column, and an error when it cannot.
pub(crate) fn evolved(table: &Schema, batch: &Schema) -> Result<Option<SchemaRef>, Error> {
    let added: Vec<Field> = batch
        .fields()
        .iter()
        .filter(|field| table.field_with_name(field.name()).is_err())
        .map(|field| Field::new(field.name(), field.data_type().clone(), true))
        .collect();
    if added.is_empty() {
        return Ok(None);
    }
    let new_and_required = |field: &Field| {
        batch
            .field_with_name(field.name())
            .is_ok_and(|field| !field.is_nullable())
    };
    if added.iter().any(new_and_required) {
        return Err(Error::Malformed {
            what: "a new column is not nullable",
        });
    }
    if !added.iter().all(|field| storable(field.data_type())) {
        return Err(Error::Malformed {
            what: "a new column has a type that tables do not store",
        });
    }
    let fields = table
        .fields()
        .iter()
        .cloned()
        .chain(added.into_iter().map(Arc::new));
    Ok(Some(Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
}

/// The rows of all batches with exactly the columns of `schema`, sorted as files are, split by partition.
/// The partition columns are taken out: they stand in the path.
pub(crate) fn split(
    schema: &SchemaRef,
    batches: &[RecordBatch],
) -> Result<Vec<(Partition, RecordBatch)>, Error> {
    let conformed = batches
        .iter()
        .map(|batch| conform(schema, batch))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = concat_batches(schema, &conformed).map_err(|_| Error::Malformed {
        what: "batches do not join",
    })?;
    drop(conformed);
    let stored: Vec<usize> = (0..schema.fields().len())
        .filter(|&column| !PARTITIONS.contains(&schema.field(column).name().as_str()))
        .collect();
    let misfit = |_| Error::Malformed {
        what: "rows cannot be split by partition",
    };
    let mut files = Vec::new();
    for (partition, indices) in partitions(&rows)? {
        let rows = rows.project(&stored).map_err(misfit)?;
        let rows = if indices.len() == rows.num_rows() {
            rows
        } else {
            take_record_batch(&rows, &UInt32Array::from(indices)).map_err(misfit)?
        };
        files.push((partition, sorted(rows)?));
    }
    Ok(files)
}

/// The columns of the Parquet files of a table: all but the partition columns, in the table's order.
pub(crate) fn file_schema(table: &Schema) -> SchemaRef {
    let fields: Vec<_> = table
        .fields()
        .iter()
        .filter(|field| !PARTITIONS.contains(&field.name().as_str()))
        .cloned()
        .collect();
    Arc::new(Schema::new(fields))
}

fn conform(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, Error> {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => as_stored(column, field.data_type()),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            None => Err(Error::Malformed {
                what: "a required column is missing",
            }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|_| Error::Malformed {
        what: "a required column has nulls",
    })
}

/// The column in the type that the table stores. Only the same values in another layout are taken, never a conversion.
fn as_stored(column: &ArrayRef, stored: &DataType) -> Result<ArrayRef, Error> {
    if column.data_type() == stored {
        return Ok(Arc::clone(column));
    }
    let same_values = match (column.data_type(), stored) {
        (DataType::Utf8View | DataType::LargeUtf8, DataType::Utf8)
        | (DataType::BinaryView | DataType::LargeBinary, DataType::Binary)
        | (DataType::Map(..), DataType::Map(..))
        | (DataType::Null, _) => true,
        (DataType::Dictionary(_, values), stored) => values.as_ref() == stored,
        _ => false,
    };
    if !same_values {
        return Err(Error::Malformed {
            what: "a column has another type than the table",
        });
    }
    cast(column, stored).map_err(|_| Error::Malformed {
        what: "a column has another type than the table",
    })
}

/// Which rows belong to which partition, in the order of the rows.
fn partitions(rows: &RecordBatch) -> Result<BTreeMap<Partition, Vec<u32>>, Error> {
    let missing = || Error::Malformed {
        what: "a partition column is missing",
    };
    let columns = PARTITIONS
        .iter()
        .map(|name| {
            rows.column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>())
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(missing)?;
    let mut found: BTreeMap<Partition, Vec<u32>> = BTreeMap::new();
    let mut last: Option<(Partition, Vec<u32>)> = None;
    for row in 0..rows.num_rows() {
        if columns
            .iter()
            .any(|column| column.is_null(row) || column.value(row).is_empty())
        {
            return Err(Error::Malformed {
                what: "a row has no partition",
            });
        }
        let index = u32::try_from(row).map_err(|_| Error::Malformed {
            what: "too many rows in one append",
        })?;
        match &mut last {
            Some((partition, indices))
                if columns
                    .iter()
                    .zip(&partition.0)
                    .all(|(c, v)| c.value(row) == v) =>
            {
                indices.push(index);
            }
            _ => {
                if let Some((partition, mut indices)) = last.take() {
                    found.entry(partition).or_default().append(&mut indices);
                }
                let mut values = <[String; PARTITIONS.len()]>::default();
                for (value, column) in values.iter_mut().zip(&columns) {
                    column.value(row).clone_into(value);
                }
                last = Some((Partition(values), vec![index]));
            }
        }
    }
    if let Some((partition, mut indices)) = last {
        found.entry(partition).or_default().append(&mut indices);
    }
    Ok(found)
}

/// The rows in the order that scans promise. Callers sort already, and then this moves nothing.
fn sorted(rows: RecordBatch) -> Result<RecordBatch, Error> {
    let unsortable = |_| Error::Malformed {
        what: "rows cannot be sorted",
    };
    let keys: Vec<SortColumn> = SORT
        .iter()
        .filter_map(|name| rows.column_by_name(name))
        .map(|column| SortColumn {
            values: Arc::clone(column),
            options: Some(SORT_OPTIONS),
        })
        .collect();
    if keys.is_empty() || rows.num_rows() < 2 {
        return Ok(rows);
    }
    let order = lexsort_to_indices(&keys, None).map_err(unsortable)?;
    if order.values().windows(2).all(|pair| pair[0] < pair[1]) {
        return Ok(rows);
    }
    take_record_batch(&rows, &order).map_err(unsortable)
}

/// The types that the Delta log and the files of this product know.
fn storable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::Binary | DataType::Int64 | DataType::Boolean => true,
        DataType::Timestamp(unit, zone) => {
            *unit == arrow::datatypes::TimeUnit::Microsecond && zone.as_deref() == Some("UTC")
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) => fields.iter().all(|field| storable(field.data_type())),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing::{row, rows};
    use arrow::array::StringArray;
    use arrow::datatypes::TimestampMicrosecondType;

    fn created(rows: &RecordBatch) -> Vec<i64> {
        rows.column_by_name("created_at")
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .to_vec()
    }

    #[test]
    fn rows_go_to_their_partition_in_order() {
        let batch = rows(&[
            row(3, "a"),
            row(9, "b"),
            row(5, "a"),
            row(1, "a"),
            row(7, "b"),
        ]);
        let files = split(&batch.schema(), &[batch.clone(), rows(&[row(4, "a")])]).unwrap();
        let seen: Vec<_> = files
            .iter()
            .map(|(p, rows)| (p.0[0].as_str(), created(rows)))
            .collect();
        assert_eq!(seen, [("a", vec![5, 4, 3, 1]), ("b", vec![9, 7])]);
        assert!(
            files
                .iter()
                .all(|(_, rows)| rows.column_by_name("stream").is_none())
        );
    }

    #[test]
    fn a_row_without_partition_and_a_foreign_type_are_refused() {
        let batch = rows(&[row(3, "")]);
        assert!(matches!(
            split(&batch.schema(), &[batch]),
            Err(Error::Malformed { .. })
        ));
        let batch = rows(&[row(3, "a")]);
        let schema = batch.schema();
        let text = Field::new("created_at", DataType::Utf8, true);
        let other = Arc::new(Schema::new(
            schema
                .fields()
                .iter()
                .map(|f| {
                    if f.name() == "created_at" {
                        Arc::new(text.clone())
                    } else {
                        Arc::clone(f)
                    }
                })
                .collect::<Vec<_>>(),
        ));
        let columns = batch.columns().iter().zip(other.fields()).map(|(c, f)| {
            if f.name() == "created_at" {
                Arc::new(StringArray::from(vec!["3"])) as ArrayRef
            } else {
                Arc::clone(c)
            }
        });
        let foreign = RecordBatch::try_new(Arc::clone(&other), columns.collect()).unwrap();
        assert!(matches!(
            split(&schema, &[foreign]),
            Err(Error::Malformed { .. })
        ));
    }

    #[test]
    fn only_nullable_columns_of_stored_types_join_a_table() {
        let table = Schema::new(vec![Field::new("a", DataType::Utf8, false)]);
        let with = |field: Field| Schema::new(vec![Field::new("a", DataType::Utf8, false), field]);
        assert!(evolved(&table, &table).unwrap().is_none());
        let grown = evolved(&table, &with(Field::new("b", DataType::Utf8, true)))
            .unwrap()
            .unwrap();
        assert_eq!(grown.fields().len(), 2);
        assert!(evolved(&table, &with(Field::new("b", DataType::Utf8, false))).is_err());
        assert!(evolved(&table, &with(Field::new("b", DataType::UInt8, true))).is_err());
    }
}
