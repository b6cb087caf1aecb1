//! How tables are kept in order: `[tables]`.

use std::time::Duration;

use super::Error;
use super::raw::RawTables;
use super::resolved::refused;

const GRACE_HOURS: u64 = 24;
const GRACE_HOURS_CEILING: u64 = 8_760;

/// How tables are kept in order while this process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maintenance {
    /// Whether this process joins small files and removes those that were joined.
    pub automatic: bool,
    /// How long a file stays in the store after it was taken out of its table.
    pub grace: Duration,
}

pub(super) fn resolve(raw: &RawTables) -> Result<Maintenance, Error> {
    let hours = raw.grace_hours.unwrap_or(GRACE_HOURS);
    if !(1..=GRACE_HOURS_CEILING).contains(&hours) {
        let reason = format!("1 to {GRACE_HOURS_CEILING}");
        return Err(refused("tables.grace_hours", reason));
    }
    Ok(Maintenance {
        automatic: raw.maintenance.unwrap_or(true),
        grace: Duration::from_secs(hours * 3_600),
    })
}
