//! Catalogs, schemas, tables, types and keys, as far as the caller may see them.
//!
//! A command that names no catalog means all of them. There is one: the caller's own tenant.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::{
    CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables,
};
use catalog::ids::TenantId;
use engine::query::VisibleTable;

use crate::problem::{Problem, Slug};

use super::column::described;
use super::limits::PATTERN_BYTES_MAX;
use super::session::SCHEMA;
use super::{sql_info, xdbc};

/// The type of everything that can be selected from here.
const TABLE: &str = "TABLE";

/// One question about the server or the caller's catalog.
#[derive(Debug)]
pub(crate) enum Question {
    Catalogs,
    DbSchemas(CommandGetDbSchemas),
    Tables(CommandGetTables),
    TableTypes,
    SqlInfo(Vec<u32>),
    PrimaryKeys,
    ForeignKeys,
    XdbcTypes(Option<i32>),
}

/// The answers that are the same for everyone.
pub(crate) struct Facts {
    sql_info: SqlInfoData,
    xdbc_types: XdbcTypeInfoData,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").finish_non_exhaustive()
    }
}

impl Facts {
    /// Builds them once.
    pub(crate) fn new() -> Result<Self, FlightError> {
        Ok(Self {
            sql_info: sql_info::sql_info()?,
            xdbc_types: xdbc::type_info()?,
        })
    }
}

impl Question {
    /// Whether the answer depends on what the caller may see.
    pub(crate) fn asks_for_tables(&self) -> bool {
        matches!(self, Self::Tables(_))
    }

    /// The schema of the answer.
    pub(crate) fn schema(&self, facts: &Facts) -> SchemaRef {
        match self {
            Self::Catalogs => CommandGetCatalogs {}.into_builder().schema(),
            Self::DbSchemas(command) => command.clone().into_builder().schema(),
            Self::Tables(command) => command.clone().into_builder().schema(),
            Self::TableTypes => CommandGetTableTypes {}.into_builder().schema(),
            Self::SqlInfo(_) => facts.sql_info.schema(),
            Self::XdbcTypes(_) => facts.xdbc_types.schema(),
            Self::PrimaryKeys => Arc::clone(&PRIMARY_KEYS),
            Self::ForeignKeys => Arc::clone(&FOREIGN_KEYS),
        }
    }

    /// The answer for a caller of this tenant who sees these tables, as far as it is about tables.
    pub(crate) fn answer(
        self,
        facts: &Facts,
        tenant: &TenantId,
        tables: &[VisibleTable],
    ) -> Result<RecordBatch, Problem> {
        let answer = match self {
            Self::Catalogs => {
                let mut rows = CommandGetCatalogs {}.into_builder();
                rows.append(tenant.as_str());
                rows.build()
            }
            Self::DbSchemas(command) => db_schemas(command, tenant),
            Self::Tables(command) => list_tables(command, tenant, tables),
            Self::TableTypes => table_types(),
            Self::SqlInfo(ids) => sql_info::answer(&facts.sql_info, ids),
            Self::XdbcTypes(code) => facts.xdbc_types.record_batch(code),
            // Records have no keys that a database would enforce.
            Self::PrimaryKeys => Ok(RecordBatch::new_empty(Arc::clone(&PRIMARY_KEYS))),
            Self::ForeignKeys => Ok(RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS))),
        };
        answer.map_err(|_| Problem::new(Slug::InvalidQuery, "a name pattern cannot be used"))
    }
}

/// The one schema is there even for a caller who sees nothing in it.
fn db_schemas(command: CommandGetDbSchemas, tenant: &TenantId) -> Result<RecordBatch, FlightError> {
    check_pattern(command.db_schema_filter_pattern.as_deref())?;
    let mut rows = command.into_builder();
    rows.append(tenant.as_str(), SCHEMA);
    rows.build()
}

fn list_tables(
    mut command: CommandGetTables,
    tenant: &TenantId,
    tables: &[VisibleTable],
) -> Result<RecordBatch, FlightError> {
    check_pattern(command.db_schema_filter_pattern.as_deref())?;
    check_pattern(command.table_name_filter_pattern.as_deref())?;
    // The builder makes one pass a type asked for, and a caller may name a million.
    let types: BTreeSet<String> = std::mem::take(&mut command.table_types)
        .into_iter()
        .collect();
    let mut rows = command.into_builder();
    for table in tables {
        if types.is_empty() || types.contains(AsRef::<str>::as_ref(&table.kind)) {
            let columns = described(tenant.as_str(), table);
            rows.append(
                tenant.as_str(),
                &table.schema,
                &table.name,
                &table.kind,
                &columns,
            )?;
        }
    }
    rows.build()
}

fn table_types() -> Result<RecordBatch, FlightError> {
    let mut rows = CommandGetTableTypes {}.into_builder();
    rows.append(TABLE);
    rows.build()
}

fn check_pattern(pattern: Option<&str>) -> Result<(), FlightError> {
    match pattern {
        Some(text) if text.len() > PATTERN_BYTES_MAX => {
            Err(FlightError::protocol("the pattern is too long"))
        }
        _ => Ok(()),
    }
}

fn columns(columns: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable))
        .collect();
    Arc::new(Schema::new(fields))
}

static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    columns(&[
        ("catalog_name", DataType::Utf8, true),
        ("db_schema_name", DataType::Utf8, true),
        ("table_name", DataType::Utf8, false),
        ("column_name", DataType::Utf8, false),
        ("key_name", DataType::Utf8, true),
        ("key_sequence", DataType::Int32, false),
    ])
});

static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    columns(&[
        ("pk_catalog_name", DataType::Utf8, true),
        ("pk_db_schema_name", DataType::Utf8, true),
        ("pk_table_name", DataType::Utf8, false),
        ("pk_column_name", DataType::Utf8, false),
        ("fk_catalog_name", DataType::Utf8, true),
        ("fk_db_schema_name", DataType::Utf8, true),
        ("fk_table_name", DataType::Utf8, false),
        ("fk_column_name", DataType::Utf8, false),
        ("key_sequence", DataType::Int32, false),
        ("fk_key_name", DataType::Utf8, true),
        ("pk_key_name", DataType::Utf8, true),
        ("update_rule", DataType::UInt8, false),
        ("delete_rule", DataType::UInt8, false),
    ])
});

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow_flight::IpcMessage;
    use engine::query::About;

    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn tables() -> Vec<VisibleTable> {
        let columns = Arc::new(Schema::new(vec![Field::new("c", DataType::Utf8View, true)]));
        ["records", "evidence", "quarantine"]
            .map(|name| VisibleTable {
                schema: SCHEMA.into(),
                name: name.into(),
                kind: TABLE.into(),
                columns: Arc::clone(&columns),
                about: vec![About {
                    meaning: String::new(),
                    class: None,
                    mask: None,
                }],
            })
            .into()
    }

    fn answer(question: Question) -> RecordBatch {
        let facts = Facts::new().unwrap();
        let schema = question.schema(&facts);
        let batch = question.answer(&facts, &tenant(), &tables()).unwrap();
        assert_eq!(batch.schema(), schema, "what FlightInfo said");
        batch
    }

    fn column(batch: &RecordBatch, name: &str) -> Vec<String> {
        let strings = batch.column_by_name(name).unwrap().as_string::<i32>();
        strings.iter().flatten().map(str::to_owned).collect()
    }

    fn table_names(command: CommandGetTables) -> Vec<String> {
        column(&answer(Question::Tables(command)), "table_name")
    }

    #[test]
    fn the_catalog_is_the_tenant() {
        let batch = answer(Question::Catalogs);
        assert_eq!(column(&batch, "catalog_name"), ["acme"]);
        assert!(!batch.schema().field(0).is_nullable());
    }

    #[test]
    fn schemas_without_a_catalog_are_all_and_a_foreign_catalog_has_none() {
        let names = |catalog: Option<&str>, pattern: Option<&str>| {
            let command = CommandGetDbSchemas {
                catalog: catalog.map(str::to_owned),
                db_schema_filter_pattern: pattern.map(str::to_owned),
            };
            column(&answer(Question::DbSchemas(command)), "db_schema_name")
        };
        assert_eq!(names(None, None), ["audit"]);
        assert_eq!(names(Some("acme"), Some("au%")), ["audit"]);
        assert_eq!(names(Some("globex"), None), [""; 0]);
        assert_eq!(names(Some(""), None), [""; 0]);
        assert_eq!(names(None, Some("x%")), [""; 0]);
    }

    #[test]
    fn tables_are_filtered_by_patterns_and_sorted() {
        let all = CommandGetTables::default();
        assert_eq!(
            table_names(all.clone()),
            ["evidence", "quarantine", "records"]
        );
        let like = |pattern: &str| {
            table_names(CommandGetTables {
                table_name_filter_pattern: Some(pattern.to_owned()),
                ..all.clone()
            })
        };
        assert_eq!(like("%e"), ["evidence", "quarantine"]);
        assert_eq!(like("record_"), ["records"]);
        assert_eq!(like("records"), ["records"]);
        assert_eq!(like("recor\\_s"), [""; 0]);
        assert_eq!(like("(.*"), [""; 0], "patterns are no regular expressions");
        let typed = |table_types: &[&str]| {
            table_names(CommandGetTables {
                table_types: table_types.iter().map(|&name| name.to_owned()).collect(),
                ..all.clone()
            })
        };
        assert_eq!(typed(&["VIEW"]), [""; 0]);
        assert_eq!(typed(&["VIEW", "TABLE"]).len(), 3);
        let foreign = CommandGetTables {
            catalog: Some("globex".to_owned()),
            ..all
        };
        assert_eq!(table_names(foreign), [""; 0]);
    }

    #[test]
    fn a_pattern_beyond_reason_is_refused() {
        let command = CommandGetTables {
            table_name_filter_pattern: Some("%a_".repeat(100_000)),
            ..CommandGetTables::default()
        };
        let problem = Question::Tables(command)
            .answer(&Facts::new().unwrap(), &tenant(), &tables())
            .unwrap_err();
        assert_eq!(problem.slug(), Slug::InvalidQuery);
    }

    #[test]
    fn table_schema_is_an_encapsulated_message() {
        let batch = answer(Question::Tables(CommandGetTables {
            include_schema: true,
            ..CommandGetTables::default()
        }));
        let bytes = batch.column_by_name("table_schema").unwrap();
        let bytes = bytes.as_binary::<i32>().value(0).to_vec();
        let schema = Schema::try_from(IpcMessage(bytes.into())).unwrap();
        assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
        let table = &schema.field(0).metadata()["ARROW:FLIGHT:SQL:TABLE_NAME"];
        assert_eq!(table, "evidence");
    }

    #[test]
    fn key_tables_are_empty_and_have_their_schemas() {
        assert_eq!(answer(Question::PrimaryKeys).num_columns(), 6);
        let batch = answer(Question::ForeignKeys);
        assert_eq!((batch.num_columns(), batch.num_rows()), (13, 0));
        assert_eq!(
            column(&answer(Question::TableTypes), "table_type"),
            ["TABLE"]
        );
        assert_eq!(answer(Question::XdbcTypes(Some(12))).num_rows(), 1);
        assert_eq!(answer(Question::SqlInfo(vec![504])).num_rows(), 1);
    }
}
