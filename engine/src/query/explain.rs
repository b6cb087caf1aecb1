//! EXPLAIN: the verified plan of the caller's own statement, and under each scan the rules that it goes through.
//!
//! The text is made from the logical plan before any optimizer has touched it, so it holds what the caller wrote, over
//! columns that the caller sees. It holds no statistics, no paths, and of the rules the names only.

use std::any::Any;
use std::fmt::Write as _;

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNodeRecursion, TreeNodeVisitor};
use datafusion::datasource::DefaultTableSource;
use datafusion::logical_expr::{LogicalPlan, TableScan};

use super::error::Error;
use super::guarded::GuardedTable;
use super::information;
use super::sanitize;
use super::table_name::TableName;
use super::viewer::Viewer;

/// The rows that EXPLAIN answers.
pub(crate) fn rows(plan: &LogicalPlan, viewer: &Viewer) -> Result<RecordBatch, Error> {
    let text = text(plan, viewer)?;
    information::text_rows(["plan_type", "plan"], [["logical_plan".to_owned(), text]])
}

/// The plan as text: one line for each step, indented.
pub(crate) fn text(plan: &LogicalPlan, viewer: &Viewer) -> Result<String, Error> {
    let mut tree = Tree {
        viewer,
        depth: 0,
        text: String::new(),
    };
    plan.visit_with_subqueries(&mut tree)
        .map_err(sanitize::own)?;
    Ok(tree.text.trim_end().to_owned())
}

struct Tree<'a> {
    viewer: &'a Viewer,
    depth: usize,
    text: String,
}

impl Tree<'_> {
    fn line(&mut self, depth: usize, line: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "", indent = depth * 2);
    }
}

impl<'n> TreeNodeVisitor<'n> for Tree<'_> {
    type Node = LogicalPlan;

    fn f_down(&mut self, plan: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                self.line(self.depth, format_args!("TableScan: {}", scan.table_name));
                if let Some(guard) = guard(scan, self.viewer) {
                    self.line(self.depth + 1, guard);
                }
            }
            other => self.line(self.depth, other.display()),
        }
        self.depth += 1;
        Ok(TreeNodeRecursion::Continue)
    }

    fn f_up(&mut self, _plan: &'n LogicalPlan) -> Result<TreeNodeRecursion> {
        self.depth -= 1;
        Ok(TreeNodeRecursion::Continue)
    }
}

fn guard(scan: &TableScan, viewer: &Viewer) -> Option<String> {
    let source = (scan.source.as_ref() as &dyn Any).downcast_ref::<DefaultTableSource>()?;
    let table = (source.table_provider.as_ref() as &dyn Any).downcast_ref::<GuardedTable>()?;
    let view = table.view();
    let shown = scan.projected_schema.fields().iter();
    let masked: Vec<&str> = shown
        .map(|field| field.name().as_str())
        .filter(|name| view.mask_of(name).is_some_and(|mask| !mask.shows_all()))
        .collect();
    Some(guard_line(viewer, table.table(), &masked))
}

/// What a guarded scan says of itself: the rules by name, nothing of their values.
pub(super) fn guard_line(viewer: &Viewer, table: TableName, masked: &[&str]) -> String {
    let profile = &viewer.decision().profile.name;
    let rows = viewer.decision().rows.as_deref();
    let policies: String = rows
        .into_iter()
        .flat_map(|rows| &rows.policies)
        .map(|policy| format!("RLS.Row.{policy},"))
        .collect();
    format!(
        "GuardedScanExec: {table} profile={profile} rules=[RLS.Tenant,{policies}Mask.{profile}] masked=[{}]",
        masked.join(",")
    )
}
