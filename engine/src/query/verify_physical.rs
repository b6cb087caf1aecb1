//! The third gate: a physical plan reads guarded tables, or is not run.
//!
//! Runs before the first physical rule, after the last, and once more when the plan is turned into a stream. Types are
//! compared by what a node *is*: a node may say that it stands for another (`downcast_delegate`), and then it is refused.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::Result as DataFusionResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::buffer::BufferExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec,
};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::recursive_query::RecursiveQueryExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::scalar_subquery::ScalarSubqueryExec;
use datafusion::physical_plan::sorts::partial_sort::PartialSortExec;
use datafusion::physical_plan::sorts::partitioned_topk::PartitionedTopKExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::work_table::WorkTableExec;

use super::charged::Charged;
use super::error::Error;
use super::functions::FUNCTIONS;
use super::gauge::GaugeExec;
use super::guarded_exec::GuardedScanExec;

/// Verifies a physical plan. `memory` says whether the logical plan had rows of its own.
pub(crate) fn verify(
    plan: &Arc<dyn ExecutionPlan>,
    decision_id: [u8; 32],
    memory: bool,
) -> Result<(), Error> {
    plan.apply(|node| {
        verify_node(node.as_ref(), decision_id, memory)?;
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(super::sanitize::own)?;
    Ok(())
}

fn verify_node(node: &dyn ExecutionPlan, decision_id: [u8; 32], memory: bool) -> Result<(), Error> {
    if node.downcast_delegate().is_some() {
        return Err(refused("a node that stands for another"));
    }
    if node.children().is_empty() {
        verify_leaf(node, decision_id, memory)?;
    } else if !is_known(node) {
        return Err(refused("a node of an unknown kind"));
    }
    node.apply_expressions(&mut |root| {
        root.apply(|part| {
            verify_expr(part)?;
            Ok(TreeNodeRecursion::Continue)
        })
    })
    .map_err(super::sanitize::own)?;
    verify_aggregates(node)
}

fn verify_leaf(leaf: &dyn ExecutionPlan, decision_id: [u8; 32], memory: bool) -> Result<(), Error> {
    let leaf = leaf as &dyn Any;
    if let Some(scan) = leaf.downcast_ref::<GuardedScanExec>() {
        return if scan.decision_id() == decision_id {
            Ok(())
        } else {
            Err(refused("a scan of another decision"))
        };
    }
    if let Some(source) = leaf.downcast_ref::<DataSourceExec>() {
        let source = source.data_source().as_ref() as &dyn Any;
        return if memory && source.is::<MemorySourceConfig>() {
            Ok(())
        } else {
            Err(refused("a source that is not guarded"))
        };
    }
    let is_empty =
        leaf.is::<EmptyExec>() || leaf.is::<PlaceholderRowExec>() || leaf.is::<WorkTableExec>();
    if is_empty {
        Ok(())
    } else {
        Err(refused("a leaf of an unknown kind"))
    }
}

fn is_known(node: &dyn ExecutionPlan) -> bool {
    let node = node as &dyn Any;
    node.is::<FilterExec>()
        || node.is::<ProjectionExec>()
        || node.is::<AggregateExec>()
        || node.is::<SortExec>()
        || node.is::<PartialSortExec>()
        || node.is::<PartitionedTopKExec>()
        || node.is::<SortPreservingMergeExec>()
        || node.is::<CoalescePartitionsExec>()
        || node.is::<RepartitionExec>()
        || node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<UnionExec>()
        || node.is::<InterleaveExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<WindowAggExec>()
        || node.is::<BoundedWindowAggExec>()
        || node.is::<UnnestExec>()
        || node.is::<RecursiveQueryExec>()
        || node.is::<ScalarSubqueryExec>()
        || node.is::<CooperativeExec>()
        || node.is::<BufferExec>()
        || node.is::<GaugeExec>()
}

fn verify_expr(part: &Arc<dyn PhysicalExpr>) -> Result<(), Error> {
    let Some(call) = (part.as_ref() as &dyn Any).downcast_ref::<ScalarFunctionExpr>() else {
        return Ok(());
    };
    let function = call.fun();
    let charged = (function.inner().as_ref() as &dyn Any).downcast_ref::<Charged>();
    if FUNCTIONS.admits_scalar(charged.map_or(function, Charged::inner)) {
        Ok(())
    } else {
        Err(refused("a function that is not listed"))
    }
}

fn verify_aggregates(node: &dyn ExecutionPlan) -> Result<(), Error> {
    let Some(aggregate) = (node as &dyn Any).downcast_ref::<AggregateExec>() else {
        return Ok(());
    };
    for call in aggregate.aggr_expr() {
        if !FUNCTIONS.admits_aggregate(call.fun()) {
            return Err(refused("an aggregate that is not listed"));
        }
    }
    Ok(())
}

/// A plan that nobody's statement can bring about: a fault of ours, or an attack.
pub(super) fn refused(what: &'static str) -> Error {
    tracing::error!(what, "a physical plan was refused");
    Error::Internal
}

/// The same verification as a rule of the optimizer. What rows in memory are is not known here, so they pass.
#[derive(Debug)]
pub(crate) struct VerifyPhysical {
    pub(crate) decision_id: [u8; 32],
}

impl PhysicalOptimizerRule for VerifyPhysical {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        verify(&plan, self.decision_id, true).map_err(DataFusionError::from)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "verify_guards"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
