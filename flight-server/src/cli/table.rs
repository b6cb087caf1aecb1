//! `trailhouse table`: what a tenant's tables consist of, and how they are put in order.

use std::time::Duration;

use catalog::guard::TenantAdmin;
use catalog::ids::TenantId;
use catalog::tenant;
use engine::table::{Table, TableKind};

use crate::config::Config;

use super::operator::{self, Operator};
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
        Verb::Stats { tenant } => stats(&operator, &tenant).await,
        Verb::Maintain {
            tenant,
            dry_run,
            grace_hours,
        } => {
            let hours = grace_hours.map(|hours| Duration::from_secs(hours * 3_600));
            let grace = hours.unwrap_or(operator.service.config.maintenance.grace);
            maintain(&operator, &tenant, grace, dry_run).await
        }
    };
    operator.close().await;
    Ok(done?)
}

async fn stats(operator: &Operator, tenant: &str) -> Result<(), operator::Error> {
    for table in KINDS {
        let table = open(operator, tenant, table).await?;
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

async fn maintain(
    operator: &Operator,
    tenant: &str,
    grace: Duration,
    dry_run: bool,
) -> Result<(), operator::Error> {
    for table in KINDS {
        let table = open(operator, tenant, table).await?;
        let name = table.kind().name();
        if dry_run {
            let due = table.state().await?.stats().due;
            say(format!("{name:<10} {due} file(s) would be joined first"));
        } else {
            while let Some(done) = table.compact().await? {
                let (files, rows) = (done.files, done.rows);
                say(format!(
                    "{name:<10} {files} file(s) of {rows} row(s) joined"
                ));
            }
        }
        let gone = table.vacuum(grace, dry_run).await?;
        let (files, bytes) = (gone.files, gone.bytes);
        let removed = if dry_run {
            "would be removed"
        } else {
            "removed"
        };
        say(format!(
            "{name:<10} {files} file(s), {bytes} bytes {removed}"
        ));
    }
    Ok(())
}

async fn open(
    operator: &Operator,
    tenant: &str,
    kind: TableKind,
) -> Result<std::sync::Arc<Table>, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    operator.permit::<TenantAdmin>(&tenant).await?;
    let service = &operator.service;
    let record = service.registry.get(&tenant).await?;
    let record = record.ok_or(tenant::Error::Unknown)?;
    Ok(service.tables.table(&record.id, &record.silo, kind).await?)
}
