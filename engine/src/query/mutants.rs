//! Tests: plans that no statement can bring about are refused, and by whom.
//!
//! Every mutant undoes one guard by hand. A table says which verifiers notice: none may survive, each has to be noticed by
//! the verifier that is there for it, and no verifier may be one that notices nothing.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use catalog::context::Role;
use catalog::guard::Decision;
use catalog::ids::TenantId;
use catalog::policy::RowRule;
use catalog::policy::row::Predicate;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, Result};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::functions_aggregate::expr_fn::{approx_percentile_cont, max};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateView, DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, Operator, Partitioning,
    ScalarUDF, binary_expr, col, exists, lit, placeholder, scalar_subquery,
};
use datafusion::optimizer::OptimizerConfig;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, collect,
};
use udfs::{JsonMask, JsonPath, Mask, MaskFunction};

use super::error::Error;
use super::guarded::GuardedTable;
use super::guarded_exec::{GuardedScanExec, Parts};
use super::hidden_rows::{ROWS, policy};
use super::labels::Labels;
use super::masking::ColumnMask;
use super::planning::Work;
use super::rows::RowFilter;
use super::source::{Layout, RawScan, RecordSource};
use super::table_name::TableName;
use super::tables::SessionTables;
use super::testing::{Caller, ONE, records};
use super::verify_scans::each;
use super::viewer::{View, Viewer, VisibleColumn};
use super::{verify_logical, verify_masks, verify_physical, verify_rows, verify_scans};

/// Everything that may notice, in the order in which a plan meets it.
const LAYERS: &[&str] = &[
    "verify_logical",
    "analyzer",
    "optimizer",
    "verify_physical",
    "verify_rows",
    "verify_masks",
    "scan",
];

fn caller() -> Caller {
    Caller::new(ONE, Role::Reader)
}

/// A caller to whom a policy shows some rows only.
fn restricted() -> Caller {
    Caller::under(ONE, Role::Reader, &policy(ROWS))
}

/// A caller that was decided otherwise, under the same decision's name.
fn otherwise(caller: Caller, other: impl FnOnce(&mut Decision)) -> Caller {
    let mut decision = caller.viewer.decision().as_ref().clone();
    other(&mut decision);
    Caller {
        viewer: Arc::new(Viewer::new(Arc::new(decision), None, None, None)),
        ..caller
    }
}

/// The rows as they are stored, as anyone would make a table of them.
fn unguarded() -> LogicalPlanBuilder {
    let rows = records(ONE);
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table");
    scan_of(Arc::new(table))
}

fn scan_of(provider: Arc<dyn TableProvider>) -> LogicalPlanBuilder {
    LogicalPlanBuilder::scan("records", provider_as_source(provider), None).expect("a scan")
}

async fn table(caller: &Caller, table: TableName) -> Arc<GuardedTable> {
    let tables = SessionTables::new(Arc::clone(&caller.viewer), Arc::clone(&caller.sources));
    tables.guarded(table).await.expect("a table")
}

async fn guarded(caller: &Caller) -> LogicalPlanBuilder {
    scan_of(table(caller, TableName::Records).await)
}

/// Whether an error is a refusal of ours, and not the engine's inability.
fn is_ours(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::External(error) => error.is::<Error>(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            is_ours(inner)
        }
        DataFusionError::Shared(inner) => is_ours(inner),
        _ => false,
    }
}

/// A plan that somebody has tampered with, and for whom it is to run.
struct Mutant {
    name: &'static str,
    /// Who is there to notice it.
    by: &'static str,
    plan: Plan,
    caller: Caller,
}

enum Plan {
    Logical(LogicalPlan),
    Physical(Arc<dyn ExecutionPlan>),
}

impl Mutant {
    /// Who notices it.
    async fn noticed(&self) -> BTreeSet<&'static str> {
        match &self.plan {
            Plan::Logical(plan) => self.logical(plan).await,
            Plan::Physical(plan) => self.physical(plan).await,
        }
    }

    async fn logical(&self, plan: &LogicalPlan) -> BTreeSet<&'static str> {
        let state = self.caller.planning().state().expect("a session");
        let verified = verify_logical::verify(plan, &self.caller.viewer, &self.caller.limits);
        let analyzer = state.analyzer();
        let analyzed = analyzer.execute_and_check(plan.clone(), &state.options(), |_, _| {});
        // As if nobody had looked at the logical plan at all.
        let planned = state
            .query_planner()
            .create_physical_plan(plan, &state)
            .await;
        let noticed = [
            ("verify_logical", verified.is_err()),
            ("analyzer", analyzed.is_err_and(|error| is_ours(&error))),
            ("optimizer", planned.is_err_and(|error| is_ours(&error))),
        ];
        noticing(noticed)
    }

    async fn physical(&self, plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<&'static str> {
        let decision = self.caller.viewer.decision();
        let state = self.caller.planning().state().expect("a session");
        let ran = collect(Arc::clone(plan), state.task_ctx()).await;
        let noticed = [
            (
                "verify_physical",
                verify_physical::verify(plan, decision.id, false).is_err(),
            ),
            (
                "verify_rows",
                each(plan, |scan| verify_rows::verify(scan, decision)).is_err(),
            ),
            (
                "verify_masks",
                each(plan, |scan| verify_masks::verify(scan, decision)).is_err(),
            ),
            ("scan", ran.is_err_and(|error| is_ours(&error))),
        ];
        noticing(noticed)
    }
}

fn noticing<const N: usize>(noticed: [(&'static str, bool); N]) -> BTreeSet<&'static str> {
    let noticed = noticed.into_iter().filter(|(_, is_noticed)| *is_noticed);
    noticed.map(|(layer, _)| layer).collect()
}

fn logical(name: &'static str, plan: Result<LogicalPlanBuilder>, caller: Caller) -> Mutant {
    let plan = plan.and_then(LogicalPlanBuilder::build).expect(name);
    Mutant {
        name,
        by: "verify_logical",
        plan: Plan::Logical(plan),
        caller,
    }
}

/// Scans of what nobody guards.
async fn unguarded_scans() -> Vec<Mutant> {
    let own = guarded(&caller()).await;
    let raw = Arc::new(unguarded().build().expect("a scan"));
    let none = Vec::<Expr>::new;
    let view = unguarded().filter(col("tenant_id").eq(lit("acme")));
    let branch = own.clone().project(vec![col("action")]);
    let other_branch = unguarded().project(vec![col("action")]);
    let united = branch.and_then(|own| own.union(other_branch?.build()?));
    let beside = own.clone().alias("own");
    let beside = beside.and_then(|own| own.cross_join(unguarded().build()?));
    let one = unguarded().aggregate(none(), vec![max(col("actor_id"))]);
    let one = Arc::new(one.and_then(LogicalPlanBuilder::build).expect("one row"));
    vec![
        logical("a scan of an unguarded table", Ok(unguarded()), caller()),
        logical(
            "an aggregate that statistics could answer",
            unguarded().aggregate(none(), vec![max(col("actor_id"))]),
            caller(),
        ),
        logical("a view over an unguarded table", view, caller()),
        logical("a union with an unguarded branch", united, caller()),
        logical("a join with an unguarded side", beside, caller()),
        logical(
            "a subquery over an unguarded table in a filter",
            own.clone().filter(exists(raw)),
            caller(),
        ),
        logical(
            "a subquery over an unguarded table among the columns",
            own.project(vec![scalar_subquery(one)]),
            caller(),
        ),
    ]
}

/// Guarded scans that are not what they were made as.
async fn tampered_scans() -> Vec<Mutant> {
    let foreign = otherwise(caller(), |decision| decision.id = [8; 32]);
    let scan = guarded(&caller()).await.build().expect("a scan");
    let LogicalPlan::TableScan(scan) = scan else {
        panic!("a scan");
    };
    let mut filtered = scan.clone();
    filtered.filters = vec![col("actor_id").eq(lit("x"))];
    let mut limited = scan;
    limited.fetch = Some(1);
    let of = |scan| Ok(LogicalPlanBuilder::from(LogicalPlan::TableScan(scan)));
    let seeing = otherwise(restricted(), |decision| decision.may_see_evidence = true);
    let evidence = scan_of(table(&seeing, TableName::Evidence).await);
    vec![
        logical(
            "a table of another decision",
            Ok(guarded(&foreign).await),
            caller(),
        ),
        logical(
            "a scan with a filter pushed into it",
            of(filtered),
            caller(),
        ),
        logical("a scan with a limit pushed into it", of(limited), caller()),
        logical(
            "a table that a row policy keeps from the caller",
            Ok(evidence),
            seeing,
        ),
    ]
}

/// Steps that no query has.
async fn foreign_steps() -> Vec<Mutant> {
    let own = guarded(&caller()).await;
    let target = provider_as_source(table(&caller(), TableName::Records).await);
    let input = own.clone().build().expect("a scan");
    let insert =
        LogicalPlanBuilder::insert_into(input.clone(), "records", target, InsertOp::Append);
    let view = LogicalPlan::Ddl(DdlStatement::CreateView(CreateView {
        name: "mine".into(),
        input: Arc::new(input),
        or_replace: false,
        definition: None,
        temporary: false,
    }));
    let spread = own.clone().repartition(Partitioning::RoundRobinBatch(2));
    vec![
        logical("an insert", insert, caller()),
        logical("a view made", Ok(LogicalPlanBuilder::from(view)), caller()),
        logical(
            "EXPLAIN of the engine's",
            own.clone().explain(true, false),
            caller(),
        ),
        logical(
            "EXPLAIN ANALYZE",
            own.clone().explain(false, true),
            caller(),
        ),
        logical(
            "a prepared statement",
            own.clone().prepare("p".to_owned(), Vec::new()),
            caller(),
        ),
        logical("a step that only optimizers add", spread, caller()),
    ]
}

/// Expressions that must not be in a plan.
async fn foreign_expressions() -> Vec<Mutant> {
    let own = guarded(&caller()).await;
    let mask = ScalarUDF::new_from_impl(MaskFunction::new(Mask::Redact));
    let version = datafusion::functions::core::version().call(vec![]);
    let repeat = datafusion::functions::string::repeat().call(vec![col("action"), lit(3)]);
    let joined = binary_expr(col("action"), Operator::StringConcat, lit("x"));
    let field = Field::new("x", DataType::Utf8, true);
    let variable = Expr::ScalarVariable(Arc::new(field), vec!["@x".to_owned()]);
    let quantile = approx_percentile_cont(col("leaf_index").sort(true, false), lit(0.5), None);
    let on = vec![col("own.actor_id").eq(col("other.actor_id"))];
    let other = own
        .clone()
        .alias("other")
        .and_then(LogicalPlanBuilder::build);
    let by_mask = own
        .clone()
        .alias("own")
        .and_then(|own| own.join_on(other?, JoinType::Inner, on));
    let shown = |expr: Expr| own.clone().project(vec![expr]);
    let kept = |expr: Expr| own.clone().filter(expr);
    vec![
        logical("a function that is not listed", shown(version), caller()),
        logical("the unbounded form of a function", shown(repeat), caller()),
        logical(
            "a mask that a caller can call",
            shown(mask.call(vec![col("action")])),
            caller(),
        ),
        logical("the unbounded form of an operator", shown(joined), caller()),
        logical("a variable of the server's", shown(variable), caller()),
        logical(
            "a parameter without a value",
            kept(col("action").eq(placeholder("$1"))),
            caller(),
        ),
        logical(
            "an aggregate that is not listed",
            own.clone().aggregate(Vec::<Expr>::new(), vec![quantile]),
            caller(),
        ),
        logical(
            "a filter on a masked column",
            kept(col("actor_id").eq(lit("x"))),
            caller(),
        ),
        logical("a join on a masked column", by_mask, caller()),
        logical(
            "a filter for another tenant",
            kept(col("tenant_id").eq(lit("globex"))),
            caller(),
        ),
    ]
}

fn physical(
    name: &'static str,
    by: &'static str,
    plan: Arc<dyn ExecutionPlan>,
    caller: Caller,
) -> Mutant {
    Mutant {
        name,
        by,
        plan: Plan::Physical(plan),
        caller,
    }
}

fn raw_scan() -> Arc<dyn ExecutionPlan> {
    let rows: RecordBatch = records(ONE);
    MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None).expect("a scan")
}

/// A scan of these columns, made the way a guarded table makes it, with something changed.
async fn scan_with(
    caller: &Caller,
    name: TableName,
    columns: &[&str],
    change: impl FnOnce(&mut View, &Schema, usize),
    tamper: impl FnOnce(&mut Parts, &Schema),
) -> Arc<dyn ExecutionPlan> {
    let source: Arc<dyn RecordSource> = caller.sources.open(name).await.expect("a source");
    let stored = source.schema();
    let mut view = caller.viewer.view(name, &stored);
    let index = |name: &&str| view.schema.index_of(name).expect("a column");
    let shown: Vec<usize> = columns.iter().map(index).collect();
    change(&mut view, &stored, shown[0]);
    let rows = RowFilter::of(caller.viewer.decision(), name, &stored).expect("rows");
    let mut parts = Parts::for_columns(&view, &stored, &shown, rows).expect("parts");
    tamper(&mut parts, &stored);
    let raw = RawScan {
        projection: parts.stored.clone(),
        predicate: None,
        target_partitions: 2,
    };
    let inner = source.scan(raw).await.expect("a scan");
    let viewer = Arc::clone(&caller.viewer);
    let scan = GuardedScanExec::new(viewer, (name, source), (inner, 2), parts, false);
    let scan: Arc<dyn ExecutionPlan> = Arc::new(scan.expect("a guarded scan"));
    Arc::new(CoalescePartitionsExec::new(scan))
}

async fn scan(caller: &Caller, columns: &[&str]) -> Arc<dyn ExecutionPlan> {
    scan_with(caller, TableName::Records, columns, |_, _, _| {}, |_, _| {}).await
}

async fn scan_masked(column: &'static str, mask: ColumnMask) -> Arc<dyn ExecutionPlan> {
    let change = |view: &mut View, _: &Schema, shown: usize| {
        view.columns[shown].mask = mask;
    };
    scan_with(&caller(), TableName::Records, &[column], change, |_, _| {}).await
}

/// Leaves and steps that are not guarded.
async fn physical_steps() -> Vec<Mutant> {
    let own = scan(&caller(), &["action"]).await;
    let coalesced = Arc::new(CoalescePartitionsExec::new(raw_scan()));
    let index = raw_scan().schema().index_of("action").expect("a column");
    let narrow = vec![(action(index), "action".to_owned())];
    let narrow = ProjectionExec::try_new(narrow, raw_scan()).expect("a projection");
    let united = UnionExec::try_new(vec![Arc::clone(&own), Arc::new(narrow)]).expect("a union");
    let joined = CrossJoinExec::new(Arc::clone(&own), raw_scan());
    let measured = AnalyzeExec::builder(false, false, Arc::clone(&own), own.schema()).build();
    let leaf = Arc::clone(own.children()[0]);
    let disguised = |children: Vec<Arc<dyn ExecutionPlan>>, stands_for: bool| {
        Arc::new(Other {
            says: Arc::clone(&leaf),
            is: raw_scan(),
            children,
            stands_for,
        })
    };
    let by = "verify_physical";
    let mut mutants = vec![
        physical("a scan without a guard", by, raw_scan(), caller()),
        physical("the same below a step", by, coalesced, caller()),
        physical(
            "a union with an unguarded branch of rows",
            by,
            united,
            caller(),
        ),
        physical(
            "a join with an unguarded side of rows",
            by,
            Arc::new(joined),
            caller(),
        ),
        physical(
            "a step that measures others",
            by,
            Arc::new(measured),
            caller(),
        ),
        physical(
            "a leaf that stands for a guarded scan",
            by,
            disguised(vec![], true),
            caller(),
        ),
        physical(
            "a leaf of an unknown kind",
            by,
            disguised(vec![], false),
            caller(),
        ),
        physical(
            "a step of an unknown kind over a guarded scan",
            by,
            disguised(vec![Arc::clone(&own)], false),
            caller(),
        ),
    ];
    mutants.extend(physical_calls(&own));
    mutants
}

fn action(index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("action", index))
}

/// Functions that must not be called on rows.
fn physical_calls(own: &Arc<dyn ExecutionPlan>) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    let mask = ScalarUDF::new_from_impl(MaskFunction::new(Mask::Redact));
    let version = datafusion::functions::core::version();
    for (name, function, arguments) in [
        ("a function that is not listed, of rows", version, vec![]),
        (
            "a mask that a step applies",
            Arc::new(mask),
            vec![action(0)],
        ),
    ] {
        let field = Arc::new(Field::new("x", DataType::Utf8, true));
        let call = ScalarFunctionExpr::new("x", function, arguments, field, Arc::default());
        let called = vec![(Arc::new(call) as Arc<dyn PhysicalExpr>, "x".to_owned())];
        let called = ProjectionExec::try_new(called, Arc::clone(own)).expect("a projection");
        mutants.push(physical(
            name,
            "verify_physical",
            Arc::new(called),
            caller(),
        ));
    }
    mutants
}

/// Guarded scans of another decision or tenant.
async fn decisions() -> Vec<Mutant> {
    let columns = &["action"];
    let foreign = otherwise(caller(), |decision| decision.id = [8; 32]);
    let globex = otherwise(caller(), |decision| {
        decision.tenant = TenantId::parse("globex").expect("an id");
    });
    let by_action = |parts: &mut Parts, stored: &Schema| {
        parts.stored[0] = stored.index_of("action").expect("a column");
    };
    let records = TableName::Records;
    let by_action = scan_with(&caller(), records, &["record_id"], |_, _, _| {}, by_action).await;
    let mut mutants = Vec::new();
    for (name, by, scan) in [
        (
            "a scan of another decision",
            "verify_physical",
            scan(&foreign, columns).await,
        ),
        (
            "rows of another tenant",
            "verify_masks",
            scan(&globex, columns).await,
        ),
        (
            "tenants told apart by another column",
            "verify_masks",
            by_action,
        ),
        (
            "a table of one tenant that holds another",
            "scan",
            scan(&caller().betrayed(), columns).await,
        ),
    ] {
        mutants.push(physical(name, by, scan, caller()));
    }
    let kept = scan(&caller(), columns).await;
    mutants.push(physical(
        "a plan kept for another decision",
        "scan",
        kept,
        foreign,
    ));
    mutants
}

/// Guarded scans under another row policy than was decided.
async fn row_policies() -> Vec<Mutant> {
    let (by, columns) = ("verify_rows", &["action"]);
    let none = otherwise(restricted(), |decision| decision.rows = None);
    let altered = otherwise(restricted(), |decision| {
        decision.rows = Some(Arc::new(RowRule {
            policies: decision.rows.as_ref().expect("rows").policies.clone(),
            predicate: Predicate::All(Vec::new()),
        }));
    });
    let evidence = TableName::Evidence;
    let evidence = scan_with(&caller(), evidence, columns, |_, _, _| {}, |_, _| {}).await;
    let mut mutants = Vec::new();
    for (name, scan) in [
        ("a row policy dropped", scan(&none, columns).await),
        ("a row policy altered", scan(&altered, columns).await),
        ("a table that counts hidden rows", evidence),
    ] {
        mutants.push(physical(name, by, scan, restricted()));
    }
    let more = scan(&restricted(), columns).await;
    mutants.push(physical("a row policy added", by, more, caller()));
    mutants
}

/// Columns under other masks than were decided.
async fn masks() -> Vec<Mutant> {
    let partial = |show_first| {
        ColumnMask::Whole(Mask::Partial {
            show_first,
            show_last: 0,
        })
    };
    let email = JsonPath::AnyKey("email".to_owned());
    let email = JsonMask::new(vec![(email, Mask::Nullify)]);
    let (clear, redact) = (|| ColumnMask::Clear, ColumnMask::Whole(Mask::Redact));
    let mut mutants = Vec::new();
    for (name, column, mask) in [
        ("a mask dropped", "actor_id", clear()),
        (
            "a mask that shows an end in place of none",
            "actor_id",
            partial(2),
        ),
        (
            "a mask that shows more of an end",
            "resource_id",
            partial(9),
        ),
        ("a word in place of null", "trace_id", redact),
        ("a mask of a promoted column dropped", "user_phone", clear()),
        ("a mask of a promoted label dropped", "owner", clear()),
        ("all masks of a document dropped", "context", document(None)),
        (
            "a mask of a document dropped",
            "context",
            document(Some(email)),
        ),
        ("a document as it is stored", "context", clear()),
        ("the masks of labels dropped", "labels", labels()),
    ] {
        let scan = scan_masked(column, mask).await;
        mutants.push(physical(name, "verify_masks", scan, caller()));
    }
    mutants
}

/// The context under other masks.
fn document(mask: Option<JsonMask>) -> ColumnMask {
    match caller_mask("context") {
        ColumnMask::Document {
            document,
            cut,
            evolves,
            ..
        } => ColumnMask::Document {
            document,
            cut,
            mask,
            evolves,
        },
        _ => panic!("a document"),
    }
}

/// Labels under no masks.
fn labels() -> ColumnMask {
    match caller_mask("labels") {
        ColumnMask::Labels { cut, evolves, .. } => ColumnMask::Labels {
            cut,
            masks: Labels::default(),
            evolves,
        },
        _ => panic!("labels"),
    }
}

/// Guarded scans that show what they must not.
async fn shown() -> Vec<Mutant> {
    let mut mutants = Vec::new();
    for (name, change) in [
        (
            "a hidden column",
            show_hidden as fn(&mut View, &Schema, usize),
        ),
        ("a column that shows another one's values", show_another),
        ("a column's metadata left on", show_metadata),
    ] {
        let scan = scan_with(
            &caller(),
            TableName::Records,
            &["action"],
            change,
            |_, _| {},
        )
        .await;
        mutants.push(physical(name, "verify_masks", scan, caller()));
    }
    let counted = scan(&caller(), &["leaf_index"]).await;
    mutants.push(physical(
        "a position among all rows under a row policy",
        "verify_masks",
        counted,
        restricted(),
    ));
    mutants
}

fn caller_mask(column: &str) -> ColumnMask {
    let view = caller()
        .viewer
        .view(TableName::Records, &records(ONE).schema());
    view.mask_of(column).expect("a column").clone()
}

fn show_hidden(view: &mut View, stored: &Schema, shown: usize) {
    let hidden = stored.index_of("payload_hash").expect("a column");
    let mut fields: Vec<_> = view.schema.fields().iter().cloned().collect();
    fields[shown] = Arc::clone(&stored.fields()[hidden]);
    view.schema = Arc::new(Schema::new(fields));
    view.columns[shown] = VisibleColumn {
        stored: hidden,
        mask: ColumnMask::Clear,
    };
}

fn show_another(view: &mut View, stored: &Schema, shown: usize) {
    view.columns[shown].stored = stored.index_of("actor_id").expect("a column");
}

fn show_metadata(view: &mut View, _stored: &Schema, shown: usize) {
    let told = [("max".to_owned(), "a value".to_owned())];
    let mut fields: Vec<_> = view.schema.fields().iter().cloned().collect();
    let field = fields[shown].as_ref().clone();
    fields[shown] = Arc::new(field.with_metadata(told.into()));
    view.schema = Arc::new(Schema::new(fields));
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "the table of the run")]
async fn every_mutant_is_killed() {
    let mut mutants = unguarded_scans().await;
    mutants.extend(tampered_scans().await);
    mutants.extend(foreign_steps().await);
    mutants.extend(foreign_expressions().await);
    mutants.extend(physical_steps().await);
    mutants.extend(decisions().await);
    mutants.extend(row_policies().await);
    mutants.extend(masks().await);
    mutants.extend(shown().await);
    let (mut faults, mut kills) = (Vec::new(), BTreeMap::<_, usize>::new());
    eprintln!("{:<55} | killed by", "mutant");
    for mutant in &mutants {
        let noticed = mutant.noticed().await;
        let in_order = LAYERS.iter().filter(|layer| noticed.contains(**layer));
        let killers: Vec<_> = in_order.copied().collect();
        eprintln!("{:<55} | {}", mutant.name, killers.join(", "));
        for layer in killers {
            *kills.entry(layer).or_default() += 1;
        }
        if !noticed.contains(mutant.by) {
            faults.push(format!("{} is not noticed by {}", mutant.name, mutant.by));
        }
    }
    eprintln!(
        "{} mutants, {} not killed; {kills:?}",
        mutants.len(),
        faults.len()
    );
    for layer in LAYERS {
        if !kills.contains_key(layer) {
            faults.push(format!("{layer} notices nothing"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What the mutants are made from passes.
#[tokio::test]
async fn what_is_guarded_passes() {
    for caller in [caller(), restricted(), Caller::evolved(ONE, Role::Reader)] {
        let plan = guarded(&caller).await.build().expect("a scan");
        assert!(verify_logical::verify(&plan, &caller.viewer, &caller.limits).is_ok());
        let decision = caller.viewer.decision();
        let columns = ["action", "actor_id", "context", "labels", "owner"];
        let made = scan(&caller, &columns).await;
        let planned = caller.plan("SELECT * FROM records").await.expect("planned");
        let Work::Plan { plan, .. } = planned.work else {
            panic!("a plan");
        };
        for plan in [made, plan] {
            assert!(verify_physical::verify(&plan, decision.id, false).is_ok());
            assert!(verify_scans::verify(&plan, decision).is_ok());
        }
    }
    let empty: Arc<dyn ExecutionPlan> = Arc::new(PlaceholderRowExec::new(records(ONE).schema()));
    assert!(verify_physical::verify(&empty, [7; 32], false).is_ok());
}

/// The engine's own test of a type is deceived by a node that stands for another.
#[tokio::test]
async fn a_node_that_stands_for_another_deceives_the_engine() {
    let own = scan(&caller(), &["action"]).await;
    let disguised: Arc<dyn ExecutionPlan> = Arc::new(Other {
        says: Arc::clone(own.children()[0]),
        is: raw_scan(),
        children: Vec::new(),
        stands_for: true,
    });
    assert!(disguised.is::<GuardedScanExec>());
    assert!(!(disguised.as_ref() as &dyn Any).is::<GuardedScanExec>());
}

#[tokio::test]
async fn a_guarded_scan_offers_no_way_in() {
    let caller = caller();
    let table = table(&caller, TableName::Records).await;
    assert!(table.get_logical_plan().is_none());
    assert!(table.get_table_definition().is_none());
    assert!(table.statistics().is_none());
    assert!(table.constraints().is_none());
    let coalesced = scan(&caller, &["actor_id", "action"]).await;
    let scan = coalesced.children()[0];
    assert!((scan.as_ref() as &dyn Any).is::<GuardedScanExec>());
    assert!(scan.children().is_empty());
    let few = scan.with_fetch(Some(2)).expect("a limit of what is shown");
    let fewer = few.with_fetch(Some(5)).expect("a limit of what is shown");
    assert!((fewer.as_ref() as &dyn Any).is::<GuardedScanExec>());
    assert_eq!((fewer.fetch(), scan.fetch()), (Some(2), None));
    assert!(scan.metrics().is_none());
    let shown = scan.schema();
    let names: Vec<_> = shown.fields().iter().map(|field| field.name()).collect();
    assert_eq!(names, ["actor_id", "action"]);
}

/// Of how many rows there are, a scan says only what its caller may know.
#[tokio::test]
async fn a_scan_counts_no_rows_that_its_caller_does_not_see() {
    use datafusion::common::stats::Precision;
    use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

    let counted = |plan: &Arc<dyn ExecutionPlan>| {
        let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new());
        let statistics = statistics.expect("statistics");
        let mut known = statistics.column_statistics.iter();
        let is_told = known.any(|column| {
            column
                .min_value
                .get_value()
                .or(column.max_value.get_value())
                .is_some()
        });
        assert!(!is_told);
        statistics.num_rows
    };
    let columns = &["action"];
    let alone = scan(&caller().alone(), columns).await;
    assert_eq!(counted(&alone), Precision::Exact(12));
    let ruled = restricted().over(records(ONE), Layout::OneTenant);
    for plan in [scan(&caller(), columns).await, scan(&ruled, columns).await] {
        assert_eq!(counted(&plan), Precision::Absent);
    }
}

/// A node of no known kind; it may say that it stands for another.
#[derive(Debug)]
struct Other {
    says: Arc<dyn ExecutionPlan>,
    is: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    stands_for: bool,
}

impl DisplayAs for Other {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Other")
    }
}

impl ExecutionPlan for Other {
    fn name(&self) -> &str {
        "Other"
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        self.stands_for.then_some(self.says.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.says.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.children.iter().collect()
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
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        self.is.execute(0, context)
    }
}
