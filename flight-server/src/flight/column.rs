//! What drivers want to know of a column, in the metadata of the fields of a `table_schema`.
//!
//! JDBC and ADBC read these keys for getColumns and GetObjects; without them type names and sizes are empty.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use engine::query::{About, VisibleTable};

use super::schema::advertised;

/// The advertised schema of a table, each field saying where it belongs, what SQL calls its type and what it is.
pub(crate) fn described(catalog: &str, table: &VisibleTable) -> SchemaRef {
    let plain = advertised(&table.columns);
    let columns = plain.fields().iter().zip(&table.about);
    let fields: Vec<Field> = columns
        .map(|(field, about)| {
            let metadata = column_metadata(catalog, table, field.data_type(), about);
            field.as_ref().clone().with_metadata(metadata)
        })
        .collect();
    Arc::new(Schema::new(fields))
}

fn column_metadata(
    catalog: &str,
    table: &VisibleTable,
    data_type: &DataType,
    about: &About,
) -> HashMap<String, String> {
    let (precision, scale) = digits(data_type);
    let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8);
    let flag = |set: bool| Some(if set { "1" } else { "0" }.to_owned());
    [
        ("CATALOG_NAME", Some(catalog.to_owned())),
        ("SCHEMA_NAME", Some(table.schema.clone())),
        ("TABLE_NAME", Some(table.name.clone())),
        ("TYPE_NAME", Some(type_name(data_type))),
        ("PRECISION", precision.map(|digits| digits.to_string())),
        ("SCALE", scale.map(|digits| digits.to_string())),
        ("IS_AUTO_INCREMENT", flag(false)),
        ("IS_CASE_SENSITIVE", flag(text)),
        ("IS_READ_ONLY", flag(true)),
        ("IS_SEARCHABLE", flag(true)),
        ("REMARKS", Some(about.comment())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((format!("ARROW:FLIGHT:SQL:{key}"), value?)))
    .collect()
}

/// The name of a type as GetXdbcTypeInfo lists it, or as SQL writes it if it is none of those.
fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => "VARCHAR",
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => "VARBINARY",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "SMALLINT",
        DataType::Int32 | DataType::UInt16 => "INTEGER",
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "BIGINT",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => "ARRAY",
        DataType::Map(_, _) => "MAP",
        DataType::Struct(_) => "STRUCT",
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            return format!("DECIMAL({precision}, {scale})");
        }
        other => return other.to_string(),
    };
    name.to_owned()
}

/// Precision and scale, where they say something.
fn digits(data_type: &DataType) -> (Option<i32>, Option<i32>) {
    match data_type {
        DataType::Boolean => (Some(1), None),
        DataType::Int8 => (Some(3), Some(0)),
        DataType::Int16 => (Some(5), Some(0)),
        DataType::Int32 => (Some(10), Some(0)),
        DataType::Int64 => (Some(19), Some(0)),
        DataType::Float32 => (Some(24), None),
        DataType::Float64 => (Some(53), None),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            (Some(i32::from(*precision)), Some(i32::from(*scale)))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => (Some(26), Some(6)),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_say_where_they_belong_and_what_they_are() {
        let columns = Schema::new(vec![
            Field::new("action", DataType::Utf8View, true),
            Field::new(
                "created_at",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
        ]);
        let about = |mask: Option<&str>| About {
            meaning: "What it is".to_owned(),
            class: None,
            mask: mask.map(str::to_owned),
        };
        let table = VisibleTable {
            schema: "audit".to_owned(),
            name: "records".to_owned(),
            kind: "TABLE".to_owned(),
            columns: Arc::new(columns),
            about: vec![about(Some("HASH")), about(None)],
        };
        let schema = described("acme", &table);
        let action = schema.field(0);
        assert_eq!(action.data_type(), &DataType::Utf8, "what a query returns");
        let key = |name: &str| format!("ARROW:FLIGHT:SQL:{name}");
        assert_eq!(action.metadata()[&key("CATALOG_NAME")], "acme");
        assert_eq!(action.metadata()[&key("SCHEMA_NAME")], "audit");
        assert_eq!(action.metadata()[&key("TABLE_NAME")], "records");
        assert_eq!(action.metadata()[&key("TYPE_NAME")], "VARCHAR");
        assert_eq!(action.metadata()[&key("IS_CASE_SENSITIVE")], "1");
        let remarks = &action.metadata()[&key("REMARKS")];
        assert_eq!(remarks, "What it is; masked for you: HASH");
        assert!(!action.metadata().contains_key(&key("PRECISION")));
        let created_at = schema.field(1).metadata();
        assert_eq!(created_at[&key("TYPE_NAME")], "TIMESTAMP WITH TIME ZONE");
        assert_eq!(created_at[&key("SCALE")], "6");
        assert_eq!(created_at[&key("IS_READ_ONLY")], "1");
    }
}
