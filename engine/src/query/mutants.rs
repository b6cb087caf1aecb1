//! Tests: plans that no statement can bring about are refused, each by the verifier that should.
//!
//! Every test undoes one guard by hand, and expects another to notice.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use catalog::context::Role;
use datafusion::catalog::TableProvider;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::error::Error;
use super::guarded::GuardedTable;
use super::planning::{Planned, Work};
use super::table_name::TableName;
use super::tables::SessionTables;
use super::testing::{Caller, ONE, records};
use super::verify_logical::Leaves;
use super::viewer::Viewer;
use super::{verify_logical, verify_physical};

const OWN_ID: [u8; 32] = [7; 32];

fn caller() -> Caller {
    Caller::new(ONE, Role::Reader)
}

/// The rows as they are stored, as anyone would make a table of them.
fn unguarded() -> Arc<dyn TableProvider> {
    let rows = records(ONE);
    Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table"))
}

fn scan_of(provider: Arc<dyn TableProvider>) -> LogicalPlan {
    LogicalPlanBuilder::scan("records", provider_as_source(provider), None)
        .and_then(LogicalPlanBuilder::build)
        .expect("a scan")
}

async fn guarded(caller: &Caller) -> Arc<GuardedTable> {
    let tables = SessionTables::new(Arc::clone(&caller.viewer), Arc::clone(&caller.sources));
    tables.guarded(TableName::Records).await.expect("a table")
}

fn logical(plan: &LogicalPlan) -> Result<Leaves, Error> {
    let caller = caller();
    verify_logical::verify(plan, &caller.viewer, &caller.limits)
}

async fn physical_of(sql: &str) -> (Arc<dyn ExecutionPlan>, Planned) {
    let planned = caller().plan(sql).await.expect("planned");
    let Work::Plan { plan, .. } = &planned.work else {
        panic!("{sql} has no plan");
    };
    (Arc::clone(plan), planned)
}

#[tokio::test]
async fn what_is_guarded_passes() {
    let table = guarded(&caller()).await;
    assert!(logical(&scan_of(table)).is_ok());
    let (plan, _) = physical_of("SELECT actor_id FROM records").await;
    assert!(verify_physical::verify(&plan, OWN_ID, false).is_ok());
}

#[tokio::test]
async fn an_unguarded_table_is_refused_before_any_rule() {
    let plan = scan_of(unguarded());
    assert!(matches!(logical(&plan), Err(Error::Internal)));
    // Folded into a literal by statistics there would be no scan left to refuse.
    let counted = LogicalPlanBuilder::from(plan)
        .aggregate(
            Vec::<datafusion::logical_expr::Expr>::new(),
            vec![datafusion::functions_aggregate::expr_fn::max(col(
                "actor_id",
            ))],
        )
        .and_then(LogicalPlanBuilder::build)
        .expect("an aggregate");
    assert!(matches!(logical(&counted), Err(Error::Internal)));
    let caller = caller();
    let state = caller.planning().state().expect("a session");
    let error = state.create_physical_plan(&counted).await;
    assert!(error.is_err(), "the analyzer's verifier stands in the way");
}

#[tokio::test]
async fn a_table_of_another_decision_is_refused() {
    let caller = caller();
    let mut other = caller.viewer.decision().as_ref().clone();
    other.id = [8; 32];
    let other = Caller {
        viewer: Arc::new(Viewer::new(Arc::new(other), None, None, None)),
        ..self::caller()
    };
    let foreign = guarded(&other).await;
    let plan = scan_of(Arc::clone(&foreign) as _);
    assert!(matches!(logical(&plan), Err(Error::Internal)));

    // The scan itself refuses the session, and the verifier refuses the scan.
    let state = caller.planning().state().expect("a session");
    assert!(foreign.scan(&state, None, &[], None).await.is_err());
    let (plan, _) = physical_of("SELECT actor_id FROM records").await;
    assert!(matches!(
        verify_physical::verify(&plan, [8; 32], false),
        Err(Error::Internal)
    ));
}

#[tokio::test]
async fn a_plan_kept_for_another_decision_does_not_run() {
    let (_, mut planned) = physical_of("SELECT actor_id FROM records").await;
    let caller = caller();
    let mut other = caller.viewer.decision().as_ref().clone();
    other.id = [8; 32];
    let other = Caller {
        viewer: Arc::new(Viewer::new(Arc::new(other), None, None, None)),
        ..caller
    };
    // The context is exchanged as well, so that only the scan can notice.
    let state = other.planning().state().expect("a session");
    if let Work::Plan { plan, context, .. } = &mut planned.work {
        assert!(plan.execute(0, state.task_ctx()).is_err());
        *context = state.task_ctx();
    }
    assert!(other.verified(planned).execute().is_err());
}

#[tokio::test]
async fn a_plan_that_was_optimized_before_it_was_verified_is_refused() {
    let table = guarded(&caller()).await;
    let LogicalPlan::TableScan(mut scan) = scan_of(table) else {
        panic!("a scan");
    };
    scan.filters = vec![col("actor_id").eq(lit("x"))];
    let filtered = LogicalPlan::TableScan(scan.clone());
    assert!(matches!(logical(&filtered), Err(Error::Internal)));
    scan.filters.clear();
    scan.fetch = Some(1);
    let limited = LogicalPlan::TableScan(scan);
    assert!(matches!(logical(&limited), Err(Error::Internal)));
}

#[tokio::test]
async fn a_view_over_the_raw_table_is_refused() {
    let plan = scan_of(unguarded());
    let view = LogicalPlanBuilder::from(plan)
        .filter(col("tenant_id").eq(lit("acme")))
        .and_then(LogicalPlanBuilder::build)
        .expect("a view");
    assert!(matches!(logical(&view), Err(Error::Internal)));
}

#[tokio::test]
async fn functions_that_are_not_listed_are_refused_in_both_plans() {
    let table = guarded(&caller()).await;
    let mask = udfs::MaskFunction::new(udfs::Mask::Redact);
    let mask = datafusion::logical_expr::ScalarUDF::new_from_impl(mask);
    for call in [
        datafusion::functions::core::version().call(vec![]),
        datafusion::functions::string::repeat().call(vec![col("action"), lit(3)]),
        mask.call(vec![col("action")]),
    ] {
        let plan = LogicalPlanBuilder::from(scan_of(Arc::clone(&table) as _))
            .project(vec![call])
            .and_then(LogicalPlanBuilder::build)
            .expect("a projection");
        assert!(matches!(
            logical(&plan),
            Err(Error::StatementNotAllowed { .. })
        ));
    }
}

fn raw_scan() -> Arc<dyn ExecutionPlan> {
    let rows: RecordBatch = records(ONE);
    MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None).expect("a scan")
}

#[tokio::test]
async fn a_raw_scan_in_a_physical_plan_is_refused() {
    let raw = raw_scan();
    let wrapped: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(Arc::clone(&raw)));
    for plan in [raw, wrapped] {
        assert!(matches!(
            verify_physical::verify(&plan, OWN_ID, false),
            Err(Error::Internal)
        ));
    }
    let empty: Arc<dyn ExecutionPlan> = Arc::new(PlaceholderRowExec::new(records(ONE).schema()));
    assert!(verify_physical::verify(&empty, OWN_ID, false).is_ok());
}

#[tokio::test]
async fn a_node_that_stands_for_another_is_refused() {
    let (guarded, _) = physical_of("SELECT actor_id FROM records").await;
    let mut scan = None;
    guarded
        .apply(|node| {
            if node.children().is_empty() {
                scan = Some(Arc::clone(node));
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .expect("a walk");
    let disguised: Arc<dyn ExecutionPlan> = Arc::new(Disguised {
        says: scan.expect("a scan"),
        is: raw_scan(),
    });
    // The engine's own test of a type is deceived, ours is not.
    assert!(disguised.is::<super::guarded_exec::GuardedScanExec>());
    let plan = guarded
        .transform_up(|node| {
            Ok(if node.children().is_empty() {
                Transformed::yes(Arc::clone(&disguised))
            } else {
                Transformed::no(node)
            })
        })
        .expect("a rewrite")
        .data;
    assert!(matches!(
        verify_physical::verify(&plan, OWN_ID, false),
        Err(Error::Internal)
    ));
}

#[tokio::test]
async fn a_guarded_scan_offers_no_way_in() {
    let caller = caller();
    let table = guarded(&caller).await;
    assert!(table.get_logical_plan().is_none());
    assert!(table.get_table_definition().is_none());
    assert!(table.statistics().is_none());
    assert!(table.constraints().is_none());
    let (plan, _) = physical_of("SELECT actor_id, action FROM records").await;
    plan.apply(|node| {
        if (node.as_ref() as &dyn Any).is::<super::guarded_exec::GuardedScanExec>() {
            assert!(node.children().is_empty());
            assert!(node.with_fetch(Some(1)).is_none());
            assert!(node.metrics().is_none());
            let shown = node.schema();
            let names: Vec<_> = shown.fields().iter().map(|field| field.name()).collect();
            assert_eq!(names, ["action", "actor_id"]);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .expect("a walk");
}

/// A node that says it is one thing and is another.
#[derive(Debug)]
struct Disguised {
    says: Arc<dyn ExecutionPlan>,
    is: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for Disguised {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disguised")
    }
}

impl ExecutionPlan for Disguised {
    fn name(&self) -> &str {
        "Disguised"
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.says.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.says.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.is.execute(partition, context)
    }
}
