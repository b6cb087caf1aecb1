//! GetSqlInfo: what this server is and can do, for drivers that ask before they work.
//!
//! Clients cast the children of the union unchecked, by id. An id that drivers are known to read as different types
//! (503, 505, 507, 528) is therefore left out, and takes their default; so are ids (500..502) whose mere presence some
//! read as a yes.

use std::collections::BTreeSet;

use arrow::array::RecordBatch;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlInfo, SqlSupportedGroupBy, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SupportedSqlGrammar,
};

use super::limits::PREPARED_IDLE_MAX;

/// Words that need quotes as identifiers, beyond those of SQL-92 that every driver knows.
const KEYWORDS: &[&str] = &[
    "ANALYZE",
    "ANTI",
    "ARRAY",
    "ASOF",
    "CLUSTER",
    "CUBE",
    "DISTRIBUTE",
    "EXCLUDE",
    "EXPLAIN",
    "FETCH",
    "FILTER",
    "GROUPING",
    "ILIKE",
    "LATERAL",
    "LIMIT",
    "OFFSET",
    "OVER",
    "PARTITION",
    "PIVOT",
    "QUALIFY",
    "RLIKE",
    "ROLLUP",
    "SEMI",
    "SETS",
    "TABLESAMPLE",
    "TOP",
    "UNNEST",
    "UNPIVOT",
    "WINDOW",
];

/// No id that Flight SQL assigns is this large.
const ID_END: u32 = 1000;

/// Builds the answer once.
pub(crate) fn sql_info() -> Result<SqlInfoData, FlightError> {
    let mut infos = SqlInfoDataBuilder::new();
    server(&mut infos);
    language(&mut infos);
    infos.build()
}

fn server(infos: &mut SqlInfoDataBuilder) {
    infos.append(SqlInfo::FlightSqlServerName, "Trailhouse");
    // ODBC wants dotted numbers.
    infos.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    infos.append(SqlInfo::FlightSqlServerArrowVersion, "59.3.2");
    infos.append(SqlInfo::FlightSqlServerReadOnly, true);
    infos.append(SqlInfo::FlightSqlServerSql, true);
    infos.append(SqlInfo::FlightSqlServerSubstrait, false);
    infos.append(
        SqlInfo::FlightSqlServerTransaction,
        SqlSupportedTransaction::None as i32,
    );
    infos.append(SqlInfo::FlightSqlServerCancel, true);
    infos.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    infos.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let idle_ms = i32::try_from(PREPARED_IDLE_MAX.as_millis()).unwrap_or(i32::MAX);
    infos.append(SqlInfo::FlightSqlServerStatementTimeout, idle_ms);
    infos.append(SqlInfo::SqlTransactionsSupported, false);
    infos.append(SqlInfo::SqlBatchUpdatesSupported, false);
    infos.append(SqlInfo::SqlSavepointsSupported, false);
}

fn language(infos: &mut SqlInfoDataBuilder) {
    infos.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    infos.append(SqlInfo::SqlAllTablesAreSelectable, true);
    infos.append(SqlInfo::SqlKeywords, KEYWORDS);
    infos.append(SqlInfo::SqlSearchStringEscape, "\\");
    infos.append(SqlInfo::SqlExtraNameCharacters, "");
    infos.append(SqlInfo::SqlSupportsColumnAliasing, true);
    infos.append(SqlInfo::SqlNullPlusNullIsNull, true);
    infos.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    infos.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    infos.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    infos.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    infos.append(
        SqlInfo::SqlSupportedGroupBy,
        bits(&[
            SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
            SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
        ]),
    );
    infos.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    infos.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    infos.append(
        SqlInfo::SqlSupportedGrammar,
        bits(&[
            SupportedSqlGrammar::SqlMinimumGrammar as i32,
            SupportedSqlGrammar::SqlCoreGrammar as i32,
            SupportedSqlGrammar::SqlExtendedGrammar as i32,
        ]),
    );
    // Entry level.
    infos.append(SqlInfo::SqlAnsi92SupportedLevel, bits(&[0]));
    infos.append(SqlInfo::SqlSchemaTerm, "schema");
    infos.append(SqlInfo::SqlCatalogTerm, "catalog");
    infos.append(SqlInfo::SqlCatalogAtStart, true);
    infos.append(SqlInfo::SqlSelectForUpdateSupported, false);
    infos.append(SqlInfo::SqlStoredProceduresSupported, false);
    infos.append(
        SqlInfo::SqlSupportedSubqueries,
        bits(&[
            SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
            SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
            SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
        ]),
    );
    infos.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    infos.append(
        SqlInfo::SqlSupportedUnions,
        bits(&[
            SqlSupportedUnions::SqlUnion as i32,
            SqlSupportedUnions::SqlUnionAll as i32,
        ]),
    );
}

/// The enumerations number bits, not values.
fn bits(positions: &[i32]) -> i32 {
    positions.iter().fold(0, |mask, bit| mask | (1 << bit))
}

/// The rows asked for; all of them if none is named. Unknown ids have no row.
pub(crate) fn answer(infos: &SqlInfoData, asked: Vec<u32>) -> Result<RecordBatch, FlightError> {
    // Each id costs a pass over the table, and a caller may name a million of them.
    let mut known: BTreeSet<u32> = asked.iter().copied().filter(|id| *id < ID_END).collect();
    if known.is_empty() && !asked.is_empty() {
        known.insert(ID_END);
    }
    infos.record_batch(known)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{DataType, UInt32Type, UnionMode};

    use super::*;

    fn rows(asked: Vec<u32>) -> Vec<(u32, i8)> {
        let batch = answer(&sql_info().unwrap(), asked).unwrap();
        let names = batch.column(0).as_primitive::<UInt32Type>().values();
        let values = batch.column(1).as_union();
        names
            .iter()
            .enumerate()
            .map(|(row, name)| (*name, values.type_id(row)))
            .collect()
    }

    #[test]
    fn the_union_is_laid_out_as_clients_cast_it() {
        let batch = answer(&sql_info().unwrap(), vec![]).unwrap();
        assert_eq!(&*batch.schema(), SqlInfoDataBuilder::schema());
        let DataType::Union(fields, mode) = batch.column(1).data_type() else {
            panic!("not a union");
        };
        assert_eq!(*mode, UnionMode::Dense);
        let children: Vec<_> = fields
            .iter()
            .map(|(id, field)| (id, field.name().as_str(), field.data_type().clone()))
            .collect();
        assert_eq!(children[0], (0, "string_value", DataType::Utf8));
        assert_eq!(children[1], (1, "bool_value", DataType::Boolean));
        assert_eq!(children[2], (2, "bigint_value", DataType::Int64));
        assert_eq!(children[3], (3, "int32_bitmask", DataType::Int32));
        assert_eq!((children[4].0, children[4].1), (4, "string_list"));
        assert_eq!(
            (children[5].0, children[5].1),
            (5, "int32_to_int32_list_map")
        );
    }

    #[test]
    fn each_id_is_of_the_type_that_drivers_read() {
        let asked = vec![0, 1, 2, 3, 4, 5, 8, 9, 10, 504, 508];
        let expected = [
            (0, 0),
            (1, 0),
            (2, 0),
            (3, 1),
            (4, 1),
            (5, 1),
            (8, 3),
            (9, 1),
            (10, 1),
            (504, 0),
            (508, 4),
        ];
        assert_eq!(rows(asked), expected);
    }

    #[test]
    fn nothing_asked_is_everything_and_unknown_is_nothing() {
        let all = rows(vec![]);
        assert!(all.len() > 30);
        assert!(all.is_sorted());
        for unclear in [500, 501, 502, 503, 505, 507, 528] {
            assert!(!all.iter().any(|(id, _)| *id == unclear));
        }
        assert_eq!(rows(vec![1_000_000]), []);
        assert_eq!(rows(vec![4, 4, 4]), [(4, 1)]);
        assert_eq!(rows((0..5000).collect()), all);
    }

    #[test]
    fn values_survive_the_filter() {
        let batch = answer(&sql_info().unwrap(), vec![504, 1]).unwrap();
        let values = batch.column(1).as_union();
        assert_eq!(values.value(1).as_string::<i32>().value(0), "\"");
        let version = values.value(0);
        let version = version.as_string::<i32>().value(0);
        assert!(version.split('.').all(|part| part.parse::<u32>().is_ok()));
    }
}
