//! A part of the third gate: whoever is under a row policy reads through it, or reads nothing.
//!
//! Compares what a scan says it enforces with what was decided, by value. It takes nothing from the code that makes scans.

use catalog::guard::Decision;

use super::error::Error;
use super::guarded_exec::GuardedScanExec;
use super::table_name::TableName;
use super::verify_physical::refused;

/// Verifies that a scan enforces the rows of the decision, no others and no fewer.
pub(crate) fn verify(scan: &GuardedScanExec, decision: &Decision) -> Result<(), Error> {
    let refused = |what| Err(refused(what));
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
