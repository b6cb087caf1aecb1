//! A plan over the files of a state that may hold matching rows.
//!
//! ```text
//! files ──prune──▶ survivors ──no overlap?──▶ ordered groups ──▶ DataSourceExec
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use catalog::keys::EpochKey;
use chrono::DateTime;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource, parquet::ParquetAccessPlan,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::utils::reassign_expr_columns;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, expressions};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use parquet::errors::ParquetError;

use super::file_reader::SealedReaderFactory;
use super::index::TableState;
use super::layout::TableName;
use super::prune::{self, Survivor};
use super::rows::{SORT, SORT_OPTIONS, file_schema};
use super::source::SealedSource;
use super::stats::FileStats;
use super::{Error, Shared};
use crate::record::schema::PARTITIONS;

/// Above this many surviving files no order is declared: their statistics would cost more memory than sorting.
const ORDERED_FILES_MAX: usize = 4_096;
/// How many times the wanted parallelism an order may cost: each group is read, and merged, beside the others.
const ORDERED_GROUPS_FACTOR: usize = 8;
/// Not below any text: the upper bound of record ids, whose true range is not known without opening a file.
const TEXT_MAX: &str = "\u{10FFFF}";

/// What a scan is to read.
#[derive(Debug, Clone)]
pub struct ScanRequest {
    /// Positions in the state's schema, in output order.
    pub projection: Vec<usize>,
    /// Rows that cannot match may be left out; others may come all the same. Columns are those of the state's schema.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// How many partitions the plan should have, about.
    pub target_partitions: usize,
}

/// Builds the plan; the keys of every epoch of the state are open already.
pub(super) async fn plan(
    table: &TableName,
    store: &Arc<dyn ObjectStore>,
    shared: &Shared,
    epochs: HashMap<[u8; 16], Arc<EpochKey>>,
    state: &TableState,
    request: ScanRequest,
) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let projected = state
        .schema
        .project(&request.projection)
        .map_err(|_| Error::Malformed {
            what: "a projected column is not there",
        })?;
    let place = (table, store, &shared.filters);
    let survivors = prune::survivors(place, &epochs, state, request.predicate.as_ref()).await?;
    if survivors.is_empty() {
        return Ok(Arc::new(EmptyExec::new(Arc::new(projected))));
    }
    let schema = table_schema(&state.schema);
    let footers = shared.footers.clone();
    let factory = SealedReaderFactory::new(table.clone(), Arc::clone(store), epochs, footers);
    build(&schema, store, factory, &survivors, state, request).map_err(|_| Error::Malformed {
        what: "the scan cannot be planned",
    })
}

fn build(
    schema: &TableSchema,
    store: &Arc<dyn ObjectStore>,
    factory: SealedReaderFactory,
    survivors: &[Survivor<'_>],
    state: &TableState,
    request: ScanRequest,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let all = schema.table_schema();
    let mut source = ParquetSource::new(schema.clone())
        .with_parquet_file_reader_factory(Arc::new(factory))
        .with_pushdown_filters(true)
        .with_reorder_filters(false)
        .with_bloom_filter_on_read(false)
        .with_enable_page_index(true);
    if let Some(predicate) = request.predicate {
        source = source.with_predicate(reassign_expr_columns(predicate, all)?);
    }
    // The state's schema has the partition columns where they belong, the scan's has them last.
    let projection = request
        .projection
        .iter()
        .map(|&column| all.index_of(state.schema.field(column).name()));
    let projection = projection.collect::<Result<Vec<_>, _>>()?;
    let (groups, ordering) = groups(all, survivors, request.target_partitions.max(1))?;
    let rows = survivors
        .iter()
        .map(|survivor| survivor.stats.count)
        .sum::<u64>();
    let mut statistics = Statistics::new_unknown(all);
    statistics.num_rows = Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX));
    let config =
        FileScanConfigBuilder::new(ObjectStoreUrl::parse(SealedSource::URL)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_output_ordering(ordering.into_iter().collect())
            .with_projection_indices(Some(projection))?
            .build();
    Ok(DataSourceExec::from_data_source(SealedSource::new(
        config,
        Arc::clone(store),
    )))
}

/// Why a scan failed, if it is ours; else that stored data is not what was written, in these words.
pub(crate) fn fault(error: &DataFusionError, what: &'static str) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let held = match error.downcast_ref::<DataFusionError>() {
            Some(DataFusionError::External(held)) => Some(&**held),
            Some(DataFusionError::ParquetError(error)) => match &**error {
                ParquetError::External(held) => Some(&**held),
                _ => None,
            },
            _ => None,
        };
        cause = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
        if let Some(Error::Unavailable { what, source }) =
            cause.and_then(|cause| cause.downcast_ref())
        {
            return Error::Unavailable {
                what,
                source: *source,
            };
        }
    }
    Error::Tampered { what }
}

/// The scan's columns: those of the files, then those of the partition.
fn table_schema(schema: &Schema) -> TableSchema {
    let partition: Vec<_> = PARTITIONS
        .iter()
        .filter_map(|name| {
            schema
                .fields()
                .iter()
                .find(|field| field.name() == name)
                .cloned()
        })
        .collect();
    TableSchema::builder(file_schema(schema))
        .with_table_partition_cols(partition)
        .build()
}

/// Files in groups that are read one after the other, and the order that every group has.
fn groups(
    schema: &SchemaRef,
    survivors: &[Survivor<'_>],
    target: usize,
) -> Result<(Vec<FileGroup>, Option<LexOrdering>), DataFusionError> {
    let ordered = survivors.len() <= ORDERED_FILES_MAX
        && survivors
            .iter()
            .all(|survivor| survivor.stats.created_at.is_some());
    let files = |statistics: bool| {
        survivors
            .iter()
            .map(|survivor| partitioned(schema, survivor, statistics))
            .collect::<Result<Vec<_>, _>>()
    };
    if ordered && let Some(ordering) = ordering(schema)? {
        let files = FileGroup::new(files(true)?);
        let groups = FileScanConfig::split_groups_by_statistics_with_target_partitions(
            schema,
            &[files],
            &ordering,
            target,
        )?;
        if groups.len() <= target.saturating_mul(ORDERED_GROUPS_FACTOR) {
            return Ok((groups, Some(ordering)));
        }
    }
    Ok((FileGroup::new(files(ordered)?).split_files(target), None))
}

/// The order of every file: [`SORT`], as far as the table has those columns. `None` without the first.
fn ordering(schema: &SchemaRef) -> Result<Option<LexOrdering>, DataFusionError> {
    if schema.index_of(SORT[0]).is_err() {
        return Ok(None);
    }
    let keys = SORT.iter().filter(|name| schema.index_of(name).is_ok());
    let keys = keys.map(|name| {
        Ok(PhysicalSortExpr::new(
            expressions::col(name, schema)?,
            SORT_OPTIONS,
        ))
    });
    Ok(LexOrdering::new(
        keys.collect::<Result<Vec<_>, DataFusionError>>()?,
    ))
}

fn partitioned(
    schema: &SchemaRef,
    survivor: &Survivor<'_>,
    with_statistics: bool,
) -> Result<PartitionedFile, DataFusionError> {
    let Survivor {
        file,
        stats,
        groups,
    } = survivor;
    let meta = ObjectMeta {
        location: Path::parse(&file.path)
            .map_err(|error| DataFusionError::External(Box::new(error)))?,
        last_modified: DateTime::UNIX_EPOCH,
        size: file.size,
        e_tag: None,
        version: None,
    };
    let values = file
        .partition
        .0
        .iter()
        .map(|value| ScalarValue::Utf8(Some(value.clone())))
        .collect();
    let partitioned = PartitionedFile::new_from_meta(meta)
        .with_partition_values(values)
        .with_extension(Arc::clone(file));
    let partitioned = match groups {
        Some(groups) => {
            let mut access = ParquetAccessPlan::new_all(groups.len());
            for (group, _) in groups
                .iter()
                .enumerate()
                .filter(|(_, may_have)| !**may_have)
            {
                access.skip(group);
            }
            partitioned.with_extension(access)
        }
        None => partitioned,
    };
    Ok(if with_statistics {
        partitioned.with_statistics(Arc::new(file_statistics(schema, stats)))
    } else {
        partitioned
    })
}

/// What a file's statistics say, for the columns of the file. Nothing in them is exact enough to stand in for a value.
fn file_statistics(schema: &SchemaRef, stats: &FileStats) -> Statistics {
    let stored = schema.fields().len() - PARTITIONS.len();
    let column_statistics = schema.fields()[..stored]
        .iter()
        .map(|field| match field.name().as_str() {
            "created_at" => bounds(
                stats
                    .created_at
                    .map(|(first, last)| (instant(first), instant(last))),
            ),
            "leaf_index" => bounds(
                stats
                    .leaf_index
                    .map(|(first, last)| (position(first), position(last))),
            ),
            // Only there so that files which do not overlap in time can be seen not to overlap at all.
            "record_id" => ColumnStatistics {
                min_value: Precision::Inexact(ScalarValue::Utf8(Some(String::new()))),
                max_value: Precision::Inexact(ScalarValue::Utf8(Some(TEXT_MAX.to_owned()))),
                ..ColumnStatistics::new_unknown()
            },
            _ => ColumnStatistics::new_unknown(),
        })
        .collect();
    Statistics {
        num_rows: Precision::Exact(usize::try_from(stats.count).unwrap_or(usize::MAX)),
        total_byte_size: Precision::Absent,
        column_statistics,
    }
}

fn bounds(range: Option<(ScalarValue, ScalarValue)>) -> ColumnStatistics {
    match range {
        Some((first, last)) => ColumnStatistics {
            null_count: Precision::Exact(0),
            min_value: Precision::Exact(first),
            max_value: Precision::Exact(last),
            ..ColumnStatistics::new_unknown()
        },
        None => ColumnStatistics::new_unknown(),
    }
}

fn instant(micros: i64) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))
}

fn position(index: i64) -> ScalarValue {
    ScalarValue::Int64(Some(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testing::{World, request, row, rows, run};
    use crate::table::{AppendOutcome, Table};
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::TimestampMicrosecondType;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col, lit};
    use datafusion::physical_plan::ExecutionPlanProperties;
    use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;

    #[tokio::test]
    async fn a_file_is_not_opened_for_an_identifier_that_it_does_not_have() {
        let world = World::new();
        let table = world.records("acme").await;
        for file in 0..2 {
            let state = table.state().await.unwrap();
            let own: Vec<_> = (0..5_000).map(|at| row(file * 5_000 + at, "a")).collect();
            let appended = table.append(&state, vec![rows(&own)], vec![], vec![]);
            let _ = appended.await.unwrap();
        }
        let state = table.state().await.unwrap();
        let all = request(&state, &["record_id", "leaf_index"]);
        let plan = table.scan(Arc::clone(&state), all.clone()).await.unwrap();
        let batches = run(plan).await.unwrap();
        let known = batches[0].column(0).as_string::<i32>().value(17).to_owned();
        let column = col("record_id", &state.schema).unwrap();
        for (values, expected) in [
            (vec![known.as_str()], 1),
            (vec!["01NOT"], 0),
            (vec![known.as_str(), "01NOT"], 1),
        ] {
            let equals = values.iter().map(|value| {
                binary(
                    Arc::clone(&column),
                    Operator::Eq,
                    lit(*value),
                    &state.schema,
                )
                .unwrap()
            });
            let any = |one, other| binary(one, Operator::Or, other, &state.schema).unwrap();
            let request = ScanRequest {
                predicate: equals.reduce(any),
                ..all.clone()
            };
            let plan = table.scan(Arc::clone(&state), request).await.unwrap();
            // Every scan holds files; one that is sure to give no row has none.
            assert_eq!(plan.name() == "EmptyExec", expected == 0, "{values:?}");
            let found = run(plan).await.unwrap();
            let found = found
                .iter()
                .map(arrow::array::RecordBatch::num_rows)
                .sum::<usize>();
            assert_eq!(found, expected, "{values:?}");
        }
    }

    /// Files 0..10, 10..20, … of the streams given.
    async fn table(world: &World, streams: &[&'static str]) -> (Arc<Table>, Arc<TableState>) {
        let table = world.records("acme").await;
        for (file, stream) in (0_i64..).zip(streams) {
            let state = table.state().await.unwrap();
            let batch = rows(
                &(file * 10..file * 10 + 10)
                    .map(|at| row(at, stream))
                    .collect::<Vec<_>>(),
            );
            let outcome = table
                .append(&state, vec![batch], vec![], vec![])
                .await
                .unwrap();
            assert!(matches!(outcome, AppendOutcome::Committed { .. }));
        }
        let state = table.state().await.unwrap();
        (table, state)
    }

    fn at_least(state: &TableState, micros: i64) -> Arc<dyn PhysicalExpr> {
        let column = col("created_at", &state.schema).unwrap();
        binary(column, Operator::GtEq, lit(instant(micros)), &state.schema).unwrap()
    }

    async fn times(plan: Arc<dyn ExecutionPlan>) -> Vec<i64> {
        let batches = run(plan).await.unwrap();
        batches
            .iter()
            .flat_map(|batch| {
                batch
                    .column(0)
                    .as_primitive::<TimestampMicrosecondType>()
                    .values()
                    .to_vec()
            })
            .collect()
    }

    #[tokio::test]
    async fn files_outside_the_range_are_not_even_looked_for() {
        let world = World::new();
        let (table, state) = table(&world, &["a"; 4]).await;
        let mut request = request(&state, &["created_at"]);
        request.predicate = Some(at_least(&state, 25));
        // The two oldest files are gone: only a scan that skips them succeeds.
        let mut gone = 0;
        for file in state.files() {
            let epoch = world
                .keys
                .open(
                    &world.name("acme", table.kind()).tenant,
                    &world.name("acme", table.kind()).silo,
                    table.kind().purpose(),
                    &file.key.epoch,
                )
                .await
                .unwrap();
            if file
                .stats(&world.name("acme", table.kind()), &epoch)
                .unwrap()
                .created_at
                .unwrap()
                .1
                < 20
            {
                std::fs::remove_file(
                    world
                        .silo_path()
                        .join("tenants/acme/audit/records")
                        .join(&file.path),
                )
                .unwrap();
                gone += 1;
            }
        }
        assert_eq!(gone, 2);
        let mut found = times(
            table
                .scan(Arc::clone(&state), request.clone())
                .await
                .unwrap(),
        )
        .await;
        found.sort_unstable();
        assert_eq!(
            found,
            (25..40).collect::<Vec<_>>(),
            "and the predicate is a row filter"
        );
        request.predicate = None;
        assert!(
            run(table.scan(state, request).await.unwrap())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn partition_values_prune_and_filter() {
        let world = World::new();
        let (table, state) = table(&world, &["a", "b", "a"]).await;
        let stream = col("stream", &state.schema).unwrap();
        let mut request = request(&state, &["created_at", "stream", "retention_class"]);
        request.predicate = Some(binary(stream, Operator::Eq, lit("b"), &state.schema).unwrap());
        let batches = run(table
            .scan(Arc::clone(&state), request.clone())
            .await
            .unwrap())
        .await
        .unwrap();
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 10);
        assert!(batches.iter().all(|batch| {
            batch
                .column(1)
                .as_string::<i32>()
                .iter()
                .all(|value| value == Some("b"))
        }));
        let stream = col("stream", &state.schema).unwrap();
        request.predicate = Some(binary(stream, Operator::Eq, lit("c"), &state.schema).unwrap());
        let plan = table.scan(Arc::clone(&state), request).await.unwrap();
        assert!(plan.is::<EmptyExec>());
        assert_eq!(
            plan.schema().field(0),
            state.schema.field_with_name("created_at").unwrap()
        );
    }

    #[tokio::test]
    async fn files_that_do_not_overlap_are_read_in_order() {
        let world = World::new();
        let (table, state) = table(&world, &["a"; 5]).await;
        let plan = table
            .scan(
                Arc::clone(&state),
                request(&state, &["created_at", "record_id"]),
            )
            .await
            .unwrap();
        assert_eq!(plan.output_partitioning().partition_count(), 2);
        let ordering = plan.output_ordering().unwrap().clone();
        assert_eq!(ordering.len(), 2);
        let merged = Arc::new(SortPreservingMergeExec::new(ordering, plan));
        assert_eq!(times(merged).await, (0..50).rev().collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn files_that_overlap_are_never_one_after_the_other_in_an_ordered_group() {
        let world = World::new();
        let table = world.records("acme").await;
        for start in 0..6 {
            let state = table.state().await.unwrap();
            let batch = rows(&(0..10).map(|n| row(start + n * 7, "a")).collect::<Vec<_>>());
            let _ = table
                .append(&state, vec![batch], vec![], vec![])
                .await
                .unwrap();
        }
        let state = table.state().await.unwrap();
        let plan = table
            .scan(
                Arc::clone(&state),
                request(&state, &["created_at", "record_id"]),
            )
            .await
            .unwrap();
        let ordering = plan.output_ordering().unwrap().clone();
        assert_eq!(plan.output_partitioning().partition_count(), 6);
        let found = times(Arc::new(SortPreservingMergeExec::new(ordering, plan))).await;
        assert!(found.is_sorted_by(|a, b| a >= b));
        assert_eq!(found.len(), 60);
        // Where that would cost too many groups, the order is given up instead.
        let mut narrow = request(&state, &["created_at"]);
        narrow.target_partitions = 0;
        let plan = table.scan(state, narrow).await.unwrap();
        assert_eq!(times(plan).await.len(), 60);
    }

    #[tokio::test]
    async fn a_row_count_is_known_without_reading_and_a_plan_shows_nothing() {
        let world = World::new();
        let (table, state) = table(&world, &["a", "b"]).await;
        let plan = table
            .scan(Arc::clone(&state), request(&state, &["created_at"]))
            .await
            .unwrap();
        let shown = datafusion::physical_plan::displayable(plan.as_ref())
            .indent(true)
            .to_string();
        assert!(
            !shown.contains("stream=") && !shown.contains("parquet"),
            "{shown}"
        );
        assert!(!format!("{plan:?}").contains("stream="));
        let limited = plan.with_fetch(Some(3)).unwrap();
        assert!(times(limited).await.len() < 20);
    }

    #[tokio::test]
    async fn columns_of_the_partition_keep_their_place_in_the_projection() {
        let world = World::new();
        let (table, state) = table(&world, &["a"]).await;
        let columns = [
            "retention_class",
            "created_at",
            "stream",
            "record_id",
            "ingest_date",
        ];
        let plan = table
            .scan(Arc::clone(&state), request(&state, &columns))
            .await
            .unwrap();
        let names: Vec<_> = plan
            .schema()
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        assert_eq!(names, columns);
        let batch = run(plan).await.unwrap().remove(0);
        assert_eq!(batch.column(0).as_string::<i32>().value(0), "standard");
        assert_eq!(batch.column(4).as_string::<i32>().value(0), "2026-11-22");
        assert_eq!(batch.column(0).len(), 10);
    }
}
