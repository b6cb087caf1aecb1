//! A part of the third gate: whoever is under a row policy reads through it, or reads nothing.
//!
//! Compares what a scan says it enforces with what was decided, by value. It takes nothing from the code that makes scans.

use std::any::Any;
use std::sync::Arc;

use catalog::guard::Decision;
use datafusion::common::Result as DataFusionResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use super::error::Error;
use super::guarded_exec::GuardedScanExec;
use super::table_name::TableName;

/// Verifies that each scan of a plan enforces the rows of the decision, no others and no fewer.
pub(crate) fn verify(plan: &Arc<dyn ExecutionPlan>, decision: &Decision) -> Result<(), Error> {
    plan.apply(|node| {
        if let Some(scan) = (node.as_ref() as &dyn Any).downcast_ref::<GuardedScanExec>() {
            verify_scan(scan, decision)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(super::sanitize::own)?;
    Ok(())
}

fn verify_scan(scan: &GuardedScanExec, decision: &Decision) -> Result<(), Error> {
    let refused = |what: &'static str| {
        tracing::error!(what, "a physical plan was refused");
        Err(Error::Internal)
    };
    match (&decision.rows, scan.row_rule()) {
        (None, None) => Ok(()),
        (Some(_), _) if scan.table() != TableName::Records => {
            refused("a table that a row policy keeps from the caller")
        }
        (Some(decided), Some(enforced)) if decided == enforced => Ok(()),
        (Some(_), Some(_)) => refused("a scan under another row policy than was decided"),
        (Some(_), None) => refused("a scan without the row policy that was decided"),
        (None, Some(_)) => refused("a scan under a row policy that was not decided"),
    }
}

/// The same verification as a rule of the optimizer.
#[derive(Debug)]
pub(crate) struct VerifyRows {
    pub(crate) decision: Arc<Decision>,
}

impl PhysicalOptimizerRule for VerifyRows {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        verify(&plan, &self.decision).map_err(DataFusionError::from)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "verify_rows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
