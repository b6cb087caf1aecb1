//! Memory that the engine's own nodes do not account for.
//!
//! Sorts, aggregates and the built side of joins take what they hold from the memory of their query. Three others do not:
//!
//! - a **window** keeps its input until the frame is complete: what arrives and has not left is charged here;
//! - a **join** repeats a row as often as it matches, thousands of times in one batch: rows must be narrow enough for that;
//! - an **unnest** makes a row for each member of a list, all of a batch at once: batches are cut until they fit.
//!
//! A **projection** or an **aggregate** of many expressions may copy a column as often: batches are cut for them as well.
//! What comes out of a join or an unnest is charged until the next batch is asked for.
//!
//! A **recursive query** holds little and need not end: its rounds are counted, and those of a query inside it with them.
//!
//! Every gauge gives the processor back after [`PACE`], and there is one wherever expressions are evaluated. The engine by
//! itself goes on for a hundred batches, which may be minutes: so long a query would go on whose client has left.
//!
//! Without this a short statement over a small table could take the memory of the process.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, stream};
use tokio::task::yield_now;

use super::error::Error;
use super::footprint::{array_bytes, bytes_of, members, row_bytes};

/// Puts the gauges of this module into a plan.
#[derive(Debug)]
pub(super) struct GaugeMemory {
    /// Bytes that one batch may come to.
    pub(super) batch_bytes_max: usize,
    /// Rows of a batch.
    pub(super) batch_rows: usize,
    /// Rounds of all recursive queries of a plan together.
    pub(super) recursion_rounds_max: usize,
}

impl PhysicalOptimizerRule for GaugeMemory {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rounds = Arc::new(AtomicUsize::new(0));
        plan.transform_up(|node| {
            if let Some(query) = (node.as_ref() as &dyn Any).downcast_ref::<RecursiveQueryExec>() {
                return self.counted(&node, query, &rounds).map(Transformed::yes);
            }
            let gauged = self.gauged(&node)?;
            Ok(gauged.map_or_else(|| Transformed::no(node), Transformed::yes))
        })
        .data()
    }

    fn name(&self) -> &str {
        "gauge_memory"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

impl GaugeMemory {
    /// The recursive query with its rounds counted.
    fn counted(
        &self,
        node: &Arc<dyn ExecutionPlan>,
        query: &RecursiveQueryExec,
        rounds: &Arc<AtomicUsize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let gauge = Gauge::Rounds {
            so_far: Arc::clone(rounds),
            rounds_max: self.recursion_rounds_max,
        };
        let first = Arc::clone(query.static_term());
        let again = GaugeExec::above(Arc::clone(query.recursive_term()), gauge);
        replace_children_if_necessary(Arc::clone(node), vec![first, again])
    }

    /// The node with gauges around it, if it needs any.
    fn gauged(&self, node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let kind = node.as_ref() as &dyn Any;
        if kind.is::<WindowAggExec>() || kind.is::<BoundedWindowAggExec>() {
            let held = Arc::new(Held::default());
            let window = over(node, || Gauge::Arriving(Arc::clone(&held)))?;
            return Ok(Some(GaugeExec::above(window, Gauge::Leaving(held))));
        }
        if let Some(unnest) = kind.downcast_ref::<UnnestExec>() {
            let lists = unnest.list_column_indices();
            let lists: Vec<usize> = lists
                .iter()
                .map(|list| list.index_in_input_schema)
                .collect();
            let gauge = || Gauge::Lists {
                lists: lists.clone(),
                batch_bytes_max: self.batch_bytes_max,
            };
            return Ok(Some(GaugeExec::above(over(node, gauge)?, Gauge::Passing)));
        }
        let copies = copies_of(kind);
        if copies > COPIES_FREE {
            let gauge = || Gauge::Copies {
                copies,
                batch_bytes_max: self.batch_bytes_max,
            };
            return over(node, gauge).map(Some);
        }
        let passes_on = |child: &&Arc<dyn ExecutionPlan>| {
            let child = child.as_ref() as &dyn Any;
            // An aggregate is done with what came from below when it gives something out.
            child.is::<GaugeExec>() || evaluates(child) && !child.is::<AggregateExec>()
        };
        if evaluates(kind) && !node.children().iter().all(passes_on) {
            return over(node, || Gauge::Pace).map(Some);
        }
        let is_join = kind.is::<HashJoinExec>()
            || kind.is::<CrossJoinExec>()
            || kind.is::<NestedLoopJoinExec>()
            || kind.is::<SortMergeJoinExec>();
        if is_join {
            let row_bytes_max = self.batch_bytes_max / self.batch_rows.max(1);
            let join = over(node, || Gauge::Width { row_bytes_max })?;
            return Ok(Some(GaugeExec::above(join, Gauge::Passing)));
        }
        Ok(None)
    }
}

/// How long a query keeps the processor, if one batch does not take longer.
const PACE: Duration = Duration::from_millis(10);

/// Whether a node evaluates expressions over batches that come from below it.
fn evaluates(node: &dyn Any) -> bool {
    node.is::<ProjectionExec>() || node.is::<FilterExec>() || node.is::<AggregateExec>()
}

/// Copies of a batch that nobody minds.
const COPIES_FREE: usize = 4;

/// Expressions that a node evaluates over a whole batch, columns as they are left out.
fn copies_of(node: &dyn Any) -> usize {
    let is_copy = |expr: &Arc<dyn PhysicalExpr>| !(expr.as_ref() as &dyn Any).is::<Column>();
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let exprs = projection.expr().iter();
        return exprs.filter(|projected| is_copy(&projected.expr)).count();
    }
    let Some(aggregate) = node.downcast_ref::<AggregateExec>() else {
        return 0;
    };
    let groups = aggregate.group_expr().expr().iter();
    let groups = groups.filter(|(expr, _)| is_copy(expr)).count();
    let calls = aggregate.aggr_expr().iter();
    let arguments = calls.flat_map(|call| call.expressions());
    groups + arguments.filter(is_copy).count()
}

/// The node with a gauge over each of its inputs.
fn over(
    node: &Arc<dyn ExecutionPlan>,
    gauge: impl Fn() -> Gauge,
) -> Result<Arc<dyn ExecutionPlan>> {
    let children = node.children().into_iter();
    let children = children.map(|child| GaugeExec::above(Arc::clone(child), gauge()));
    replace_children_if_necessary(Arc::clone(node), children.collect())
}

/// What a gauge looks at.
#[derive(Debug, Clone)]
enum Gauge {
    /// Rows are narrow.
    Width { row_bytes_max: usize },
    /// Batches are small, once these lists are unnested.
    Lists {
        lists: Vec<usize>,
        batch_bytes_max: usize,
    },
    /// Batches are small, once they are copied so often.
    Copies {
        copies: usize,
        batch_bytes_max: usize,
    },
    /// Any batch, as long as it is the last.
    Passing,
    /// Nothing.
    Pace,
    /// How often the rest of the plan is begun.
    Rounds {
        so_far: Arc<AtomicUsize>,
        rounds_max: usize,
    },
    /// What a window takes in.
    Arriving(Arc<Held>),
    /// What a window gives out.
    Leaving(Arc<Held>),
}

/// What the windows of one node hold, by partition.
#[derive(Debug, Default)]
struct Held(Mutex<Vec<Option<Arc<Account>>>>);

/// What one window holds: memory of the query's, for rows that have arrived and not left.
#[derive(Debug)]
struct Account {
    reservation: MemoryReservation,
    rows: AtomicUsize,
}

impl Held {
    fn open(&self, partition: usize, context: &TaskContext) -> Arc<Account> {
        let account = Arc::new(Account {
            reservation: MemoryConsumer::new("window").register(context.memory_pool()),
            rows: AtomicUsize::new(0),
        });
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if accounts.len() <= partition {
            accounts.resize(partition + 1, None);
        }
        if let Some(place) = accounts.get_mut(partition) {
            *place = Some(Arc::clone(&account));
        }
        account
    }

    fn find(&self, partition: usize) -> Option<Arc<Account>> {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.get(partition).cloned().flatten()
    }
}

impl Account {
    /// The window keeps the rows, and gives out as many with a column more.
    fn arrives(&self, batch: &RecordBatch) -> Result<()> {
        self.rows.fetch_add(batch.num_rows(), Ordering::Relaxed);
        self.reservation.try_grow(bytes_of(batch).saturating_mul(2))
    }

    fn leaves(&self, batch: &RecordBatch) {
        let gone = batch.num_rows();
        let held = self.rows.fetch_sub(gone, Ordering::Relaxed).max(1);
        let part = self.reservation.size() / held * gone;
        self.reservation.shrink(part.min(self.reservation.size()));
    }
}

/// Passes batches on, with a look at each.
#[derive(Debug)]
pub(super) struct GaugeExec {
    input: Arc<dyn ExecutionPlan>,
    gauge: Gauge,
}

impl GaugeExec {
    fn above(input: Arc<dyn ExecutionPlan>, gauge: Gauge) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { input, gauge })
    }
}

impl DisplayAs for GaugeExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GaugeExec")
    }
}

impl ExecutionPlan for GaugeExec {
    fn name(&self) -> &str {
        "GaugeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().ok_or(Error::Internal)?;
        Ok(Self::above(input, self.gauge.clone()))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let account = match &self.gauge {
            // Opened before the window below asks for its input.
            Gauge::Leaving(held) => Some(held.open(partition, &context)),
            Gauge::Arriving(held) => Some(
                held.find(partition)
                    .unwrap_or_else(|| held.open(partition, &context)),
            ),
            Gauge::Width { .. }
            | Gauge::Lists { .. }
            | Gauge::Copies { .. }
            | Gauge::Passing
            | Gauge::Pace => None,
            Gauge::Rounds { so_far, rounds_max } => {
                if so_far.fetch_add(1, Ordering::Relaxed) >= *rounds_max {
                    let why = format!("its recursion goes on after {rounds_max} rounds");
                    return Err(Error::limit(why).into());
                }
                None
            }
        };
        let passing = MemoryConsumer::new("passing").register(context.memory_pool());
        let rows = self.input.execute(partition, context)?;
        let schema = rows.schema();
        let gauged = Gauged {
            rows,
            gauge: self.gauge.clone(),
            account,
            passing,
            paced: Instant::now(),
            cut: VecDeque::new(),
        };
        let gauged = stream::try_unfold(gauged, |mut gauged| async move {
            let batch = gauged.next().await?;
            Ok(batch.map(|batch| (batch, gauged)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, gauged)))
    }
}

struct Gauged {
    rows: SendableRecordBatchStream,
    gauge: Gauge,
    account: Option<Arc<Account>>,
    /// What is charged for the last batch.
    passing: MemoryReservation,
    /// When the processor was last given back.
    paced: Instant,
    /// Parts of a batch that was too large as a whole.
    cut: VecDeque<RecordBatch>,
}

impl Gauged {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if self.paced.elapsed() > PACE {
            yield_now().await;
            self.paced = Instant::now();
        }
        if let Some(part) = self.cut.pop_front() {
            return Ok(Some(part));
        }
        self.passing.free();
        let Some(batch) = self.rows.next().await.transpose()? else {
            return Ok(None);
        };
        match (&self.gauge, &self.account) {
            (Gauge::Arriving(_), Some(account)) => account.arrives(&batch)?,
            (Gauge::Leaving(_), Some(account)) => account.leaves(&batch),
            (Gauge::Width { row_bytes_max }, _) => {
                if row_bytes(&batch) > *row_bytes_max {
                    return Err(Error::limit("a value is too large to be joined").into());
                }
            }
            (
                Gauge::Lists {
                    lists,
                    batch_bytes_max,
                },
                _,
            ) => {
                cut(batch, lists, *batch_bytes_max, &mut self.cut)?;
                return Ok(self.cut.pop_front());
            }
            (
                Gauge::Copies {
                    copies,
                    batch_bytes_max,
                },
                _,
            ) => {
                cut_copies(batch, *copies, *batch_bytes_max, &mut self.cut)?;
                return Ok(self.cut.pop_front());
            }
            (Gauge::Pace | Gauge::Rounds { .. }, _) => {}
            (Gauge::Passing, _) => self.passing.try_grow(bytes_of(&batch))?,
            (Gauge::Arriving(_) | Gauge::Leaving(_), None) => return Err(Error::Internal.into()),
        }
        Ok(Some(batch))
    }
}

/// Cuts a batch into halves until each of them is small once its lists are unnested. Never estimates too low: each row may
/// be as wide as all of them.
fn cut(
    batch: RecordBatch,
    lists: &[usize],
    batch_bytes_max: usize,
    parts: &mut VecDeque<RecordBatch>,
) -> Result<()> {
    let columns = lists.iter().filter_map(|index| batch.columns().get(*index));
    let members: usize = columns.map(|list| members(list.as_ref())).sum();
    let unnested = members.saturating_mul(bytes_of(&batch).saturating_add(64));
    if unnested <= batch_bytes_max || batch.num_rows() == 0 {
        parts.push_back(batch);
        return Ok(());
    }
    if batch.num_rows() == 1 {
        // One row repeats its other columns only.
        let lists = lists.iter().filter_map(|index| batch.columns().get(*index));
        let lists: usize = lists.map(|list| array_bytes(list.as_ref())).sum();
        let rest = bytes_of(&batch).saturating_sub(lists).saturating_add(64);
        if members.saturating_mul(rest).saturating_add(lists) > batch_bytes_max {
            return Err(Error::limit("a list is too large to be unnested").into());
        }
        parts.push_back(batch);
        return Ok(());
    }
    let half = batch.num_rows() / 2;
    cut(batch.slice(0, half), lists, batch_bytes_max, parts)?;
    cut(
        batch.slice(half, batch.num_rows() - half),
        lists,
        batch_bytes_max,
        parts,
    )
}

/// Cuts a batch into halves until so many copies of each of them are small.
fn cut_copies(
    batch: RecordBatch,
    copies: usize,
    batch_bytes_max: usize,
    parts: &mut VecDeque<RecordBatch>,
) -> Result<()> {
    let copied = bytes_of(&batch).saturating_mul(copies);
    let rows = batch.num_rows();
    if copied <= batch_bytes_max || rows == 0 {
        parts.push_back(batch);
        return Ok(());
    }
    if rows == 1 {
        return Err(Error::limit("a value is too large to be copied so often").into());
    }
    let half = rows / 2;
    cut_copies(batch.slice(0, half), copies, batch_bytes_max, parts)?;
    let rest = batch.slice(half, rows - half);
    cut_copies(rest, copies, batch_bytes_max, parts)
}
