//! Tables kept in order while a server runs: small files are joined, and those that were joined are removed after a time.
//!
//! One table at a time, and only those that this process has open, since it writes or reads them. Where it is cut off, as
//! when the process ends, it leaves the table as it was and a file that nobody names.

use std::sync::Arc;
use std::time::Duration;

use engine::table::{Error, Table};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Maintenance;
use crate::service::Service;

const EVERY: Duration = Duration::from_secs(30);
/// Rewrites of one table before the next one's turn.
const REWRITES: usize = 4;
const VACUUM_EVERY: Duration = Duration::from_secs(3_600);

/// Keeps the tables of this process in order for as long as it is polled.
pub(crate) async fn run(service: Arc<Service>) {
    let settings = service.config.maintenance;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut vacuumed = Instant::now();
    loop {
        ticks.tick().await;
        let vacuums = vacuumed.elapsed() >= VACUUM_EVERY;
        if vacuums {
            vacuumed = Instant::now();
        }
        for table in service.tables.opened() {
            if let Err(error) = keep(&table, settings, vacuums).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a table is put in order later");
            }
        }
    }
}

async fn keep(table: &Table, settings: Maintenance, vacuums: bool) -> Result<(), Error> {
    for _ in 0..REWRITES {
        let Some(done) = table.compact().await? else {
            break;
        };
        tracing::debug!(files = done.files, rows = done.rows, "files were joined");
        metrics::counter!("trailhouse_files_joined_total").increment(done.files as u64);
    }
    if vacuums {
        let gone = table.vacuum(settings.grace, false).await?;
        metrics::counter!("trailhouse_files_removed_total").increment(gone.files);
    }
    Ok(())
}
