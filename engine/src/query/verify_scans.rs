//! A part of the third gate: each scan of a plan enforces the rows that were decided, and shows the columns as decided.

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
use super::{verify_masks, verify_rows};

/// Verifies all scans of a plan.
pub(crate) fn verify(plan: &Arc<dyn ExecutionPlan>, decision: &Decision) -> Result<(), Error> {
    each(plan, |scan| {
        verify_rows::verify(scan, decision)?;
        verify_masks::verify(scan, decision)
    })
}

pub(super) fn each(
    plan: &Arc<dyn ExecutionPlan>,
    verify: impl Fn(&GuardedScanExec) -> Result<(), Error>,
) -> Result<(), Error> {
    plan.apply(|node| {
        if let Some(scan) = (node.as_ref() as &dyn Any).downcast_ref::<GuardedScanExec>() {
            verify(scan)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(super::sanitize::own)?;
    Ok(())
}

/// The same verification as a rule of the optimizer.
#[derive(Debug)]
pub(crate) struct VerifyScans {
    pub(crate) decision: Arc<Decision>,
}

impl PhysicalOptimizerRule for VerifyScans {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        verify(&plan, &self.decision).map_err(DataFusionError::from)?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "verify_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
