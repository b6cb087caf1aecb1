//! `information_schema`: what this caller's session holds, and nothing else.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::about::{self, About};
use super::error::Error;
use super::table_name::{AUDIT, INFORMATION_SCHEMA, TableName};
use super::tables::SessionTables;

const TABLES: &str = "tables";
const COLUMNS: &str = "columns";
const SCHEMATA: &str = "schemata";

/// The kind of every table, in the words of the standard.
pub(crate) const BASE_TABLE: &str = "BASE TABLE";

/// The schema `information_schema` of one session.
#[derive(Debug)]
pub(super) struct InformationSchema {
    tables: Arc<SessionTables>,
}

impl InformationSchema {
    pub(super) fn new(tables: Arc<SessionTables>) -> Self {
        Self { tables }
    }
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        [TABLES, COLUMNS, SCHEMATA].map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let rows = match name {
            TABLES => tables(&self.tables)?,
            COLUMNS => columns(&self.tables).await?,
            SCHEMATA => schemata(&self.tables)?,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(InformationTable {
            decision_id: self.tables.viewer().decision().id,
            rows,
        })))
    }

    fn table_exist(&self, name: &str) -> bool {
        [TABLES, COLUMNS, SCHEMATA].contains(&name)
    }
}

/// One table of metadata: its rows are made when it is looked up.
pub(crate) struct InformationTable {
    decision_id: [u8; 32],
    rows: RecordBatch,
}

impl InformationTable {
    /// Under which decision it was made.
    pub(crate) fn decision_id(&self) -> [u8; 32] {
        self.decision_id
    }
}

#[async_trait]
impl TableProvider for InformationTable {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = MemorySourceConfig::try_new_exec(
            &[vec![self.rows.clone()]],
            self.schema(),
            projection.cloned(),
        )?;
        Ok(rows)
    }
}

impl fmt::Debug for InformationTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InformationTable").finish_non_exhaustive()
    }
}

/// The tables that the caller may read.
pub(super) fn tables(session: &SessionTables) -> Result<RecordBatch, Error> {
    let mut rows = Texts::new(["table_catalog", "table_schema", "table_name", "table_type"]);
    for table in session.viewer().tables() {
        rows.push([session.viewer().tenant(), AUDIT, table.as_str(), BASE_TABLE]);
    }
    for table in [TABLES, COLUMNS, SCHEMATA] {
        rows.push([session.viewer().tenant(), INFORMATION_SCHEMA, table, "VIEW"]);
    }
    rows.finish(Vec::new())
}

/// The columns of the tables that the caller may read, as the caller sees them.
async fn columns(session: &SessionTables) -> Result<RecordBatch, Error> {
    let mut rows = Texts::new([
        "table_catalog",
        "table_schema",
        "table_name",
        "column_name",
        "is_nullable",
        "data_type",
    ]);
    let mut positions = Vec::new();
    let mut told = Vec::new();
    for table in session.viewer().tables() {
        let guarded = session.guarded(table).await?;
        for (position, field) in (1..).zip(guarded.view().schema.fields()) {
            rows.push([
                session.viewer().tenant(),
                AUDIT,
                table.as_str(),
                field.name(),
                if field.is_nullable() { "YES" } else { "NO" },
                &field.data_type().to_string(),
            ]);
            positions.push(position);
        }
        told.extend(about::columns(session.viewer(), guarded.view()));
    }
    let positions: ArrayRef = Arc::new(Int32Array::from(positions));
    let mut more = vec![("ordinal_position", positions)];
    more.extend(comments(&told));
    rows.finish(more)
}

/// What columns are, as columns: `comment` for people, the parts of it for programs.
fn comments(told: &[About]) -> [(&'static str, ArrayRef); 3] {
    let comment: StringArray = told.iter().map(|about| Some(about.comment())).collect();
    let class: StringArray = told.iter().map(|about| about.class.as_deref()).collect();
    let mask: StringArray = told.iter().map(|about| about.mask.as_deref()).collect();
    [
        ("comment", Arc::new(comment)),
        ("class", Arc::new(class)),
        ("mask", Arc::new(mask)),
    ]
}

fn schemata(session: &SessionTables) -> Result<RecordBatch, Error> {
    let mut rows = Texts::new(["catalog_name", "schema_name"]);
    for schema in [AUDIT, INFORMATION_SCHEMA] {
        rows.push([session.viewer().tenant(), schema]);
    }
    rows.finish(Vec::new())
}

/// What DESCRIBE and SHOW COLUMNS answer for a table.
pub(super) async fn describe(
    session: &SessionTables,
    table: TableName,
) -> Result<RecordBatch, Error> {
    let mut rows = Texts::new(["column_name", "data_type", "is_nullable"]);
    let guarded = session.guarded(table).await?;
    let told = about::columns(session.viewer(), guarded.view());
    for field in guarded.view().schema.fields() {
        rows.push([
            field.name(),
            &field.data_type().to_string(),
            if field.is_nullable() { "YES" } else { "NO" },
        ]);
    }
    let [comment, ..] = comments(&told);
    rows.finish(vec![comment])
}

/// Columns of text in the making.
struct Texts<const N: usize> {
    names: [&'static str; N],
    columns: [Vec<String>; N],
}

impl<const N: usize> Texts<N> {
    fn new(names: [&'static str; N]) -> Self {
        Self {
            names,
            columns: std::array::from_fn(|_| Vec::new()),
        }
    }

    fn push(&mut self, row: [&str; N]) {
        for (column, value) in self.columns.iter_mut().zip(row) {
            column.push(value.to_owned());
        }
    }

    fn finish(self, more: Vec<(&'static str, ArrayRef)>) -> Result<RecordBatch, Error> {
        let texts = self.names.into_iter().zip(self.columns);
        let texts = texts.map(|(name, column)| {
            let column: ArrayRef = Arc::new(StringArray::from(column));
            (Field::new(name, DataType::Utf8, false), column)
        });
        let more = more
            .into_iter()
            .map(|(name, column)| (Field::new(name, column.data_type().clone(), true), column));
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = texts.chain(more).unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|_| Error::Internal)
    }
}

/// The columns of an answer that is one text beside another.
pub(super) fn text_rows<const N: usize>(
    names: [&'static str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<RecordBatch, Error> {
    let mut texts = Texts::new(names);
    for row in rows {
        texts.push(row.each_ref().map(String::as_str));
    }
    texts.finish(Vec::new())
}
