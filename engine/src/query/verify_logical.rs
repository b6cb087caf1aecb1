//! The second gate: a logical plan is what the guard expects of it, or is not run.
//!
//! Runs on the plan before any optimizer has seen it, after parameters are bound, and once more as the last rule of the
//! analyzer. It knows nothing of how the plan came about. An allow-list throughout: kinds of nodes, kinds of expressions,
//! functions by name and type, tables by type *and* decision.

use std::any::Any;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion::common::{DataFusionError, Result as DataFusionResult};
use datafusion::datasource::DefaultTableSource;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, TableScan, WindowFunctionDefinition};
use datafusion::optimizer::AnalyzerRule;

use super::error::Error;
use super::functions::FUNCTIONS;
use super::guarded::GuardedTable;
use super::information::InformationTable;
use super::limits::Limits;
use super::lineage::{Leaf, Walk};
use super::sanitize;
use super::table_name::TableName;
use super::viewer::Viewer;

/// What a verified plan may have at its leaves, for the physical verifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaves {
    /// Whether there are rows in memory: literals of the statement, or metadata.
    pub(crate) memory: bool,
}

/// Verifies a logical plan for a caller.
pub(crate) fn verify(
    plan: &LogicalPlan,
    viewer: &Viewer,
    limits: &Limits,
) -> Result<Leaves, Error> {
    let mut shape = Shape {
        viewer,
        limits,
        nodes: 0,
        depth: 0,
        memory: false,
    };
    plan.visit_with_subqueries(&mut shape)
        .map_err(sanitize::own)?;
    let leaf_of = |plan: &LogicalPlan| leaf_of(plan, viewer);
    Walk::new(viewer, &leaf_of).plan(plan)?;
    Ok(Leaves {
        memory: shape.memory,
    })
}

/// Nodes, expressions and sizes, before anything recurses over the plan.
struct Shape<'a> {
    viewer: &'a Viewer,
    limits: &'a Limits,
    nodes: usize,
    depth: usize,
    memory: bool,
}

impl<'n> TreeNodeVisitor<'n> for Shape<'_> {
    type Node = LogicalPlan;

    fn f_down(&mut self, plan: &'n LogicalPlan) -> DataFusionResult<TreeNodeRecursion> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > self.limits.plan_nodes_max || self.depth > self.limits.plan_depth_max {
            return Err(Error::limit("the plan has too many steps").into());
        }
        match plan {
            LogicalPlan::TableScan(_) => {
                if let Leaf::Metadata = leaf_of(plan, self.viewer)? {
                    self.memory = true;
                }
            }
            LogicalPlan::Values(_) => self.memory = true,
            _ => {}
        }
        plan.apply_expressions(|expr| expr.apply(|part| Ok(admit(part)?)))?;
        Ok(TreeNodeRecursion::Continue)
    }

    fn f_up(&mut self, _plan: &'n LogicalPlan) -> DataFusionResult<TreeNodeRecursion> {
        self.depth -= 1;
        Ok(TreeNodeRecursion::Continue)
    }
}

/// One part of an expression, without its own parts.
fn admit(part: &Expr) -> Result<TreeNodeRecursion, Error> {
    let is_known = match part {
        Expr::ScalarFunction(function) => FUNCTIONS.admits_scalar(&function.func),
        Expr::AggregateFunction(function) => FUNCTIONS.admits_aggregate(&function.func),
        Expr::WindowFunction(function) => match &function.fun {
            WindowFunctionDefinition::AggregateUDF(function) => {
                FUNCTIONS.admits_aggregate(function)
            }
            WindowFunctionDefinition::WindowUDF(function) => FUNCTIONS.admits_window(function),
        },
        // The planner makes a bounded function of it.
        Expr::BinaryExpr(binary) => binary.op != Operator::StringConcat,
        Expr::Placeholder(parameter) => {
            return Err(Error::invalid(format!(
                "the parameter {} has no value",
                parameter.id
            )));
        }
        Expr::Alias(_)
        | Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::InList(_)
        | Expr::Exists(_)
        | Expr::InSubquery(_)
        | Expr::SetComparison(_)
        | Expr::ScalarSubquery(_)
        | Expr::GroupingSet(_)
        | Expr::OuterReferenceColumn(..) => true,
        #[expect(
            deprecated,
            reason = "an expression that is refused is named all the same"
        )]
        Expr::Wildcard { .. } => false,
        Expr::ScalarVariable(..)
        | Expr::Unnest(_)
        | Expr::HigherOrderFunction(_)
        | Expr::Lambda(_)
        | Expr::LambdaVariable(_) => false,
    };
    if is_known {
        Ok(TreeNodeRecursion::Continue)
    } else {
        Err(Error::not_allowed("a function or expression of this kind"))
    }
}

/// What a scan reads. Anything but a table of this decision, a recursive query's rows or our metadata is refused; so is a
/// scan that something has already pushed a filter or a limit into.
fn leaf_of(plan: &LogicalPlan, viewer: &Viewer) -> Result<Leaf, Error> {
    let LogicalPlan::TableScan(scan) = plan else {
        return Err(Error::Internal);
    };
    if !scan.filters.is_empty() || scan.fetch.is_some() {
        return Err(refused("a scan was optimized before it was verified"));
    }
    let provider = provider(scan).ok_or_else(|| refused("a scan of an unknown source"))?;
    if let Some(table) = provider.downcast_ref::<GuardedTable>() {
        if table.decision_id() != viewer.decision().id {
            return Err(refused("a scan of another decision's table"));
        }
        if viewer.decision().rows.is_some() && table.table() != TableName::Records {
            return Err(refused("a table that a row policy keeps from the caller"));
        }
        return Ok(Leaf::Table(table.table(), Arc::clone(table.view())));
    }
    if let Some(table) = provider.downcast_ref::<InformationTable>() {
        if table.decision_id() != viewer.decision().id {
            return Err(refused("metadata of another decision"));
        }
        return Ok(Leaf::Metadata);
    }
    if let Some(table) = provider.downcast_ref::<CteWorkTable>() {
        return Ok(Leaf::WorkTable(table.name().to_owned()));
    }
    Err(refused("a scan of an unguarded table"))
}

fn provider(scan: &TableScan) -> Option<&dyn Any> {
    let source = scan.source.as_ref() as &dyn Any;
    let source = source.downcast_ref::<DefaultTableSource>()?;
    Some(source.table_provider.as_ref() as &dyn Any)
}

/// A plan that nobody's statement can bring about: a fault of ours, or an attack.
fn refused(what: &'static str) -> Error {
    tracing::error!(what, "a logical plan was refused");
    Error::Internal
}

/// The same verification as the last step of the analyzer.
#[derive(Debug)]
pub(crate) struct VerifyLogical {
    pub(crate) viewer: Arc<Viewer>,
    pub(crate) limits: Limits,
}

impl AnalyzerRule for VerifyLogical {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DataFusionResult<LogicalPlan> {
        verify(&plan, &self.viewer, &self.limits).map_err(DataFusionError::from)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "verify_guards"
    }
}
