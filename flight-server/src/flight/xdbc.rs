//! GetXdbcTypeInfo: the SQL types that columns and literals have here. ODBC asks for it as SQLGetTypeInfo.

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType, XdbcDatetimeSubcode};

/// Builds the answer once.
pub(crate) fn type_info() -> Result<XdbcTypeInfoData, FlightError> {
    let mut infos = XdbcTypeInfoDataBuilder::new();
    for info in [
        text(),
        bytes(),
        boolean(),
        number("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        number("INTEGER", XdbcDataType::XdbcInteger, 10),
        number("BIGINT", XdbcDataType::XdbcBigint, 19),
        approximate("REAL", XdbcDataType::XdbcReal, 24),
        approximate("DOUBLE", XdbcDataType::XdbcDouble, 53),
        decimal(),
        date(),
        timestamp(),
    ] {
        infos.append(info);
    }
    infos.build()
}

fn base(name: &str, data_type: XdbcDataType, column_size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        local_type_name: Some(name.to_owned()),
        data_type,
        sql_data_type: data_type,
        column_size: Some(column_size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..XdbcTypeInfo::default()
    }
}

fn quoted(info: XdbcTypeInfo, prefix: &str) -> XdbcTypeInfo {
    XdbcTypeInfo {
        literal_prefix: Some(prefix.to_owned()),
        literal_suffix: Some("'".to_owned()),
        ..info
    }
}

fn text() -> XdbcTypeInfo {
    XdbcTypeInfo {
        case_sensitive: true,
        ..quoted(base("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX), "'")
    }
}

fn bytes() -> XdbcTypeInfo {
    quoted(
        base("VARBINARY", XdbcDataType::XdbcVarbinary, i32::MAX),
        "X'",
    )
}

fn boolean() -> XdbcTypeInfo {
    base("BOOLEAN", XdbcDataType::XdbcBit, 1)
}

fn number(name: &str, data_type: XdbcDataType, digits: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        minimum_scale: Some(0),
        maximum_scale: Some(0),
        num_prec_radix: Some(10),
        ..base(name, data_type, digits)
    }
}

fn approximate(name: &str, data_type: XdbcDataType, bits: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        num_prec_radix: Some(2),
        ..base(name, data_type, bits)
    }
}

fn decimal() -> XdbcTypeInfo {
    XdbcTypeInfo {
        create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
        maximum_scale: Some(38),
        ..number("DECIMAL", XdbcDataType::XdbcDecimal, 38)
    }
}

fn date() -> XdbcTypeInfo {
    XdbcTypeInfo {
        sql_data_type: XdbcDataType::XdbcDatetime,
        // Code 1, which ODBC calls SQL_CODE_DATE.
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeYear),
        ..quoted(base("DATE", XdbcDataType::XdbcDate, 10), "DATE '")
    }
}

fn timestamp() -> XdbcTypeInfo {
    XdbcTypeInfo {
        sql_data_type: XdbcDataType::XdbcDatetime,
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
        minimum_scale: Some(0),
        maximum_scale: Some(6),
        ..quoted(
            base("TIMESTAMP", XdbcDataType::XdbcTimestamp, 26),
            "TIMESTAMP '",
        )
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn every_type_is_listed_once_in_the_order_of_its_code() {
        let batch = type_info().unwrap().record_batch(None).unwrap();
        assert_eq!(batch.num_rows(), 11);
        let codes = batch.column(1).as_primitive::<Int32Type>().values();
        assert!(codes.is_sorted());
    }

    #[test]
    fn one_type_can_be_asked_for() {
        let infos = type_info().unwrap();
        let varchar = XdbcDataType::XdbcVarchar as i32;
        let batch = infos.record_batch(varchar).unwrap();
        assert_eq!(batch.num_rows(), 1);
        assert_eq!(batch.column(0).as_string::<i32>().value(0), "VARCHAR");
        assert_eq!(infos.record_batch(12345).unwrap().num_rows(), 0);
    }
}
