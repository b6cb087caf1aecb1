//! Which files of a state may hold rows that match, and which of their row groups.
//!
//! ```text
//! files ──sealed stats, partition values──▶ those whose bounds allow it ──sealed filters──▶ survivors, row groups
//! ```
//!
//! Nothing that prunes is taken from plain text: time and leaf ranges come from the sealed statistics, partition values
//! from the path that the file's AAD binds, identifiers from sealed filters. Bounds of row groups and pages, in the
//! encrypted footer, are the reader's.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Schema};
use catalog::keys::EpochKey;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::{Guarantee, LiteralGuarantee};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStore;

use super::Error;
use super::index::{DataFile, TableState};
use super::layout::TableName;
use super::lookup::Filters;
use super::stats::FileStats;
use crate::record::schema::PARTITIONS;

/// Files whose filters are read at once.
const FILTERS_AT_ONCE: usize = 8;

/// A file that may hold a matching row.
pub(super) struct Survivor<'a> {
    pub(super) file: &'a Arc<DataFile>,
    /// Verified.
    pub(super) stats: &'a FileStats,
    /// Its row groups that may, if filters told.
    pub(super) groups: Option<Vec<bool>>,
}

/// The files that may hold a row which matches.
pub(super) async fn survivors<'a>(
    place: (&TableName, &Arc<dyn ObjectStore>, &Filters),
    epochs: &HashMap<[u8; 16], Arc<EpochKey>>,
    state: &'a TableState,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Vec<Survivor<'a>>, Error> {
    let within_bounds = by_bounds(place.0, epochs, state, predicate)?;
    let wanted = predicate.map(wanted).unwrap_or_default();
    if wanted.is_empty() {
        return Ok(within_bounds);
    }
    looked_up(place, epochs, within_bounds, &wanted).await
}

/// The files whose bounds do not say that they hold no matching row, each with its verified statistics.
fn by_bounds<'a>(
    table: &TableName,
    epochs: &HashMap<[u8; 16], Arc<EpochKey>>,
    state: &'a TableState,
    predicate: Option<&Arc<dyn PhysicalExpr>>,
) -> Result<Vec<Survivor<'a>>, Error> {
    let known = state
        .files()
        .map(|file| {
            let epoch = epochs
                .get(&file.key.epoch.epoch_id)
                .ok_or(Error::Tampered {
                    what: "a file's epoch key was not opened",
                })?;
            Ok(Survivor {
                file,
                stats: file.stats(table, epoch)?,
                groups: None,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    // A predicate that cannot be turned into one over bounds prunes nothing.
    let kept = predicate
        .and_then(|predicate| {
            PruningPredicateBuilder::new()
                .with_file_schema(Arc::clone(&state.schema))
                .build(Arc::clone(predicate))
        })
        .and_then(|predicate| {
            predicate
                .prune(&Bounds {
                    files: &known,
                    schema: &state.schema,
                })
                .ok()
        });
    Ok(match kept {
        Some(kept) => known
            .into_iter()
            .zip(kept)
            .filter_map(|(file, keep)| keep.then_some(file))
            .collect(),
        None => known,
    })
}

/// A column and the values that it has in every row that is wanted.
struct Wanted {
    column: String,
    values: Vec<String>,
}

/// What a predicate says of columns that have to equal one of some texts.
fn wanted(predicate: &Arc<dyn PhysicalExpr>) -> Vec<Wanted> {
    let text = |literal: &ScalarValue| literal.try_as_str().flatten().map(str::to_owned);
    let equal = LiteralGuarantee::analyze(predicate).into_iter();
    let equal = equal.filter(|said| said.guarantee == Guarantee::In);
    let wanted = equal.filter_map(|said| {
        Some(Wanted {
            values: said.literals.iter().map(text).collect::<Option<_>>()?,
            column: said.column.name,
        })
    });
    wanted.collect()
}

/// Leaves out files whose filters say that no row group has the values that are wanted, and notes the row groups of others.
async fn looked_up<'a>(
    place: (&TableName, &Arc<dyn ObjectStore>, &Filters),
    epochs: &HashMap<[u8; 16], Arc<EpochKey>>,
    survivors: Vec<Survivor<'a>>,
    wanted: &[Wanted],
) -> Result<Vec<Survivor<'a>>, Error> {
    // Futures are made before they are streamed: a closure over references would make this one impossible to spawn.
    let mut looks = Vec::with_capacity(survivors.len());
    for survivor in survivors {
        looks.push(look_up(place, epochs, survivor, wanted));
    }
    let found: Vec<_> = stream::iter(looks)
        .buffered(FILTERS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

async fn look_up<'a>(
    (table, store, filters): (&TableName, &Arc<dyn ObjectStore>, &Filters),
    epochs: &HashMap<[u8; 16], Arc<EpochKey>>,
    mut survivor: Survivor<'a>,
    wanted: &[Wanted],
) -> Result<Option<Survivor<'a>>, Error> {
    for Wanted { column, values } in wanted {
        let lookup = survivor.stats.lookup.as_ref();
        let lookup = lookup.filter(|lookup| lookup.has(column));
        let epoch = epochs.get(&survivor.file.key.epoch.epoch_id);
        let (Some(lookup), Some(epoch)) = (lookup, epoch) else {
            continue;
        };
        let file = (&**survivor.file, &**epoch);
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        let found = filters.may_have((table, store), file, lookup, (column, &values));
        let Some(found) = found.await? else { continue };
        let groups = match survivor.groups {
            Some(before) => before.iter().zip(&found).map(|(a, b)| *a && *b).collect(),
            None => found,
        };
        if !groups.contains(&true) {
            return Ok(None);
        }
        survivor.groups = Some(groups);
    }
    Ok(Some(survivor))
}

/// The bounds of the files, as columns.
struct Bounds<'a> {
    files: &'a [Survivor<'a>],
    schema: &'a Schema,
}

impl Bounds<'_> {
    fn column(&self, column: &Column, end: impl Fn((i64, i64)) -> i64) -> Option<ArrayRef> {
        if let Some(index) = PARTITIONS.iter().position(|name| *name == column.name) {
            let values = self
                .files
                .iter()
                .map(|survivor| Some(survivor.file.partition.0[index].as_str()));
            return Some(Arc::new(values.collect::<StringArray>()));
        }
        let range = range_of(&column.name)?;
        let values = self
            .files
            .iter()
            .map(|survivor| range(survivor.stats).map(&end));
        match self.schema.field_with_name(&column.name).ok()?.data_type() {
            DataType::Int64 => Some(Arc::new(values.collect::<Int64Array>())),
            DataType::Timestamp(..) => Some(Arc::new(
                values
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            )),
            _ => None,
        }
    }
}

/// Reads the range of one column off a file's statistics.
type Range = fn(&FileStats) -> Option<(i64, i64)>;

fn range_of(column: &str) -> Option<Range> {
    match column {
        "created_at" => Some(|stats| stats.created_at),
        "leaf_index" => Some(|stats| stats.leaf_index),
        _ => None,
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column, |(first, _)| first)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column, |(_, last)| last)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        if PARTITIONS.contains(&column.name.as_str()) {
            return Some(Arc::new(UInt64Array::from(vec![0; self.files.len()])));
        }
        let range = range_of(&column.name)?;
        let counts = self
            .files
            .iter()
            .map(|survivor| range(survivor.stats).map(|_| 0));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(
            self.files
                .iter()
                .map(|survivor| Some(survivor.stats.count))
                .collect::<UInt64Array>(),
        ))
    }

    fn contained(
        &self,
        _: &Column,
        _: &std::collections::HashSet<ScalarValue>,
    ) -> Option<BooleanArray> {
        None
    }
}
