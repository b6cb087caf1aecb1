//! `trailhouse table`: what a tenant's tables consist of, and how they are put in order.

use std::sync::Arc;
use std::time::Duration;

use catalog::guard::{Permit, TenantAdmin};
use catalog::ids::TenantId;
use catalog::tenant;
use engine::table::{Compaction, Table, TableKind};

use crate::config::Config;

use super::operator::{self, Operator, Why};
use super::{Error, say};

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show rows, files and bytes of a tenant's tables, and what there is to put in order
    #[command(after_help = "Example:\n  trailhouse table stats --tenant acme")]
    Stats {
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Join small files, and remove those that were joined some time ago. Servers may go on; they do the same by themselves
    #[command(
        after_help = "Example:\n  trailhouse table maintain --tenant acme --dry-run\n  trailhouse table maintain --tenant acme --grace-hours 168"
    )]
    Maintain {
        /// The tenant
        #[arg(long)]
        tenant: String,
        /// Say what there is to do, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// How long what was joined stays in the store for those who still read it; default: `tables.grace_hours`
        #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(1..=8_760))]
        grace_hours: Option<u64>,
        #[command(flatten)]
        why: Why,
    },
}

const KINDS: [TableKind; 3] = [
    TableKind::Records,
    TableKind::Evidence,
    TableKind::Quarantine,
];

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let operator = Operator::open(config).await?;
    let done = match arguments.verb {
        Verb::Stats { tenant } => stats(&operator, &tenant).await.map_err(Error::from),
        Verb::Maintain {
            tenant,
            dry_run,
            grace_hours,
            why,
        } => {
            let hours = grace_hours.map(|hours| Duration::from_secs(hours * 3_600));
            let grace = hours.unwrap_or(operator.service.config.maintenance.grace);
            if dry_run {
                foresee(&operator, &tenant, grace)
                    .await
                    .map_err(Error::from)
            } else {
                maintain(&operator, &tenant, grace, &why).await
            }
        }
    };
    operator.close().await;
    done
}

async fn stats(operator: &Operator, tenant: &str) -> Result<(), operator::Error> {
    let (_, tables) = open(operator, tenant).await?;
    for table in tables {
        let found = table.state().await?.stats();
        say(format!(
            "{:<10} {} row(s) in {} file(s), {} bytes, version {}; {} file(s) would be joined next, {} joined one(s) wait",
            table.kind().name(),
            found.rows,
            found.files,
            found.bytes,
            found.version,
            found.due,
            found.waiting,
        ));
    }
    Ok(())
}

/// What there is to do.
async fn foresee(
    operator: &Operator,
    tenant: &str,
    grace: Duration,
) -> Result<(), operator::Error> {
    let (_, tables) = open(operator, tenant).await?;
    for table in tables {
        let name = table.kind().name();
        let due = table.state().await?.stats().due;
        say(format!("{name:<10} {due} file(s) would be joined first"));
        let gone = table.vacuum(grace, true).await?;
        let (files, bytes) = (gone.files, gone.bytes);
        say(format!(
            "{name:<10} {files} file(s), {bytes} bytes would be removed"
        ));
    }
    Ok(())
}

async fn maintain(
    operator: &Operator,
    tenant: &str,
    grace: Duration,
    why: &Why,
) -> Result<(), Error> {
    let (permit, tables) = open(operator, tenant).await?;
    let mut done = Vec::new();
    let mut failed = None;
    for table in tables {
        let name = table.kind().name();
        let (mut files, mut rows) = (0, 0);
        let joined = join(&table, &mut files, &mut rows).await;
        done.push(format!("{name}: {files} file(s) of {rows} row(s) joined"));
        let gone = table.vacuum(grace, false).await;
        if let Ok(gone) = &gone {
            let (files, bytes) = (gone.files, gone.bytes);
            let removed = format!("{files} file(s), {bytes} bytes removed");
            say(format!("{name:<10} {removed}"));
            done.push(format!("{name}: {removed}"));
        }
        // The other tables have their turn, and what was done is noted.
        for error in [joined.err(), gone.err()].into_iter().flatten() {
            say(format!("{name:<10} not done: {error}"));
            failed = Some(Error::Unfinished(error.into()));
        }
    }
    let basis = (format!("Table.{}", done.join("; ")), why);
    operator.note(&permit, "Table.Maintained", basis).await?;
    failed.map_or(Ok(()), Err)
}

/// Joins files until there are none of a size, and says so each time. Files among which one cannot be read are left alone
/// from then on; that there are such is the answer in the end.
async fn join(
    table: &Table,
    files: &mut usize,
    rows: &mut u64,
) -> Result<(), engine::table::Error> {
    let name = table.kind().name();
    let mut damaged = None;
    loop {
        match table.compact().await? {
            Compaction::Nothing => return damaged.map_or(Ok(()), Err),
            Compaction::Damaged { what, files } => {
                say(format!("{name:<10} {files} file(s) are left alone: {what}"));
                damaged = Some(engine::table::Error::Tampered { what });
            }
            Compaction::Lost => say(format!("{name:<10} another process was faster; once more")),
            Compaction::Done(done) => {
                *files += done.files;
                *rows += done.rows;
                say(format!(
                    "{name:<10} {} file(s) of {} row(s) joined",
                    done.files, done.rows
                ));
            }
        }
    }
}

/// The tables that the tenant has, and the permit to put them in order.
async fn open(
    operator: &Operator,
    tenant: &str,
) -> Result<(Permit<TenantAdmin>, Vec<Arc<Table>>), operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    let permit = operator.permit::<TenantAdmin>(&tenant).await?;
    let service = &operator.service;
    let record = service.registry.get(&tenant).await?;
    let record = record.ok_or(tenant::Error::Unknown)?;
    let mut tables = Vec::new();
    for kind in KINDS {
        let existing = service.tables.existing(&record.id, &record.silo, kind);
        tables.extend(existing.await?);
    }
    Ok((permit, tables))
}
