//! Tables kept in order while a server runs: small files are joined, and those that were joined are removed after a time.
//!
//! One table at a time, and only those that this process has open, since it writes or reads them. Where it is cut off, as
//! when the process ends, it leaves the table as it was and a file that nobody names.

use std::sync::Arc;
use std::time::Duration;

use engine::table::{Compaction, Error, Table};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::Maintenance;
use crate::service::Service;

const EVERY: Duration = Duration::from_secs(30);
/// Rewrites of one table before the next one's turn.
const REWRITES: usize = 4;
const VACUUM_EVERY: Duration = Duration::from_secs(3_600);
/// After so long for the first time, so that a process which is often started anew gets to it.
const VACUUM_FIRST: Duration = Duration::from_secs(300);

/// Keeps the tables of this process in order for as long as it is polled.
pub(crate) async fn run(service: Arc<Service>) {
    let settings = service.config.maintenance;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut vacuum_at = Instant::now() + VACUUM_FIRST;
    loop {
        ticks.tick().await;
        let vacuums = Instant::now() >= vacuum_at;
        if vacuums {
            vacuum_at = Instant::now() + VACUUM_EVERY;
        }
        for table in service.tables.opened() {
            let kind = table.kind().name();
            let later = |error: Error| {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, kind, "a table is put in order later");
            };
            // What cannot be joined does not keep what is of no use any more.
            join(&table).await.unwrap_or_else(later);
            if vacuums {
                vacuum(&table, settings).await.unwrap_or_else(later);
            }
        }
    }
}

async fn join(table: &Table) -> Result<(), Error> {
    for _ in 0..REWRITES {
        match table.compact().await? {
            Compaction::Done(done) => {
                tracing::debug!(files = done.files, rows = done.rows, "files were joined");
                metrics::counter!("trailhouse_files_joined_total").increment(done.files as u64);
            }
            Compaction::Damaged { what, files } => {
                let kind = table.kind().name();
                tracing::error!(what, files, kind, "files are not joined: verify the table");
            }
            // Another process is at work: the next tick sees what it has left.
            Compaction::Nothing | Compaction::Lost => break,
        }
    }
    Ok(())
}

async fn vacuum(table: &Table, settings: Maintenance) -> Result<(), Error> {
    let gone = table.vacuum(settings.grace, false).await?;
    metrics::counter!("trailhouse_files_removed_total").increment(gone.files);
    Ok(())
}
