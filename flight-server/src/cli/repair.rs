//! `trailhouse repair`: put right what a lost disk or a copied folder left behind.

use std::path::Path;
use std::time::Instant;

use catalog::guard::TenantAdmin;
use catalog::ids::TenantId;
use catalog::tenant::{TenantRecord, TenantState};
use engine::disk::SystemDisk;
use engine::ingest::dedupe::{self, CACHE_BYTES, Dedup};
use engine::wal::{self, Inspection, SetAside, Source, Wal};

use crate::config::Config;

use super::operator::{self, Operator, Why};
use super::{Error, say};

/// What to repair.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Build the index of idempotency keys anew from the tables; the server must not run
    #[command(after_help = "Example:\n  trailhouse repair dedup --tenant acme")]
    Dedup {
        /// Only this tenant's; default: everybody's
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Show what this node's log holds, and what keeps it from being opened; the server must not run
    #[command(after_help = "Example:\n  trailhouse repair wal")]
    Wal {
        /// Set damaged segments aside: what is whole of them stays, acknowledged records that are not are given up
        #[arg(long)]
        set_aside: bool,
    },
    /// Give up the log of a node that will not come back, or take this node's log up again after a copy of it was started
    #[command(
        after_help = "Example:\n  trailhouse repair node --abandon node-1 --reason \"its disk burnt, ticket 4711\"\n  trailhouse repair node --readmit --reason \"the copy is stopped, this is the newest folder\""
    )]
    Node {
        /// Give up the log of this node, which must not be running, with every acknowledged record in it that is in no
        /// table yet; the tenants it wrote for are free for others
        #[arg(long, value_name = "NODE", required_unless_present = "readmit")]
        abandon: Option<String>,
        /// Take up the configured folder, which is this node's and has the most of what was acknowledged; no server may
        /// run with it or with a copy of it
        #[arg(long, conflicts_with = "abandon")]
        readmit: bool,
        /// Why, for those who ask later
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let operator = Operator::open(config).await?;
    let done = match arguments.verb {
        Verb::Dedup { tenant } => dedup(&operator, tenant.as_deref()).await,
        Verb::Wal { set_aside } => log(&operator, set_aside).await,
        Verb::Node {
            abandon: Some(node),
            reason,
            ..
        } => abandon(&operator, &node, &reason).await,
        Verb::Node { reason, .. } => readmit(&operator, &reason).await,
    };
    operator.close().await;
    Ok(done?)
}

async fn dedup(operator: &Operator, tenant: Option<&str>) -> Result<(), operator::Error> {
    let service = &operator.service;
    let tenants = match tenant {
        Some(id) => {
            let tenant = service.registry.get(&TenantId::parse(id)?).await?;
            vec![tenant.ok_or(catalog::tenant::Error::Unknown)?]
        }
        None => service.registry.list().await?,
    };
    let index = Dedup::open(&service.config.wal.folder, CACHE_BYTES).map_err(unusable)?;
    let started = Instant::now();
    let (mut count, mut rows) = (0_u64, 0);
    for record in tenants
        .iter()
        .filter(|record| has_records(operator, record))
    {
        let permit = operator.permit::<TenantAdmin>(&record.id).await?;
        let rebuilt = index.rebuild(&permit, &service.tables, &record.silo).await;
        let own = rebuilt.map_err(unusable)?;
        say(format!("{:<24} {own} row(s)", record.display_name));
        count += 1;
        rows += own;
    }
    let seconds = started.elapsed().as_secs_f64();
    say(format!("{count} tenant(s), {rows} row(s), {seconds:.1} s"));
    Ok(())
}

fn has_records(operator: &Operator, record: &TenantRecord) -> bool {
    let silos = &operator.service.config.silos;
    let gone = matches!(
        record.state,
        TenantState::Provisioning | TenantState::Deleted
    );
    !record.id.is_system() && !gone && silos.iter().any(|silo| silo.id == record.silo)
}

fn unusable(error: dedupe::Error) -> operator::Error {
    match error {
        dedupe::Error::InUse => operator::Error::Running,
        other => operator::Error::Index(other),
    }
}

async fn readmit(operator: &Operator, reason: &str) -> Result<(), operator::Error> {
    let permit = operator.permit::<TenantAdmin>(&TenantId::system()).await?;
    let config = &operator.service.config.wal;
    let found = Wal::inspect(&settings(&config.folder), &SystemDisk)?.found;
    let volume = (config.node.as_str(), found.id, found.generation);
    operator
        .service
        .nodes
        .readmit(&permit, volume, reason)
        .await?;
    let basis = (format!("Node.{}", config.node), &Why::because(reason));
    operator.note(&permit, "Node.Readmitted", basis).await?;
    say(format!(
        "{}: the folder is taken at the next start, and no copy of it",
        config.node
    ));
    Ok(())
}

/// Neither looking nor setting aside minds how large the log may become.
fn settings(folder: &Path) -> wal::Settings {
    wal::Settings {
        folder: folder.to_owned(),
        segment_bytes_max: u64::MAX,
        bytes_max: u64::MAX,
    }
}

async fn abandon(operator: &Operator, name: &str, reason: &str) -> Result<(), operator::Error> {
    let permit = operator.permit::<TenantAdmin>(&TenantId::system()).await?;
    operator
        .service
        .nodes
        .abandon(&permit, name, reason)
        .await?;
    let basis = (format!("Node.{name}"), &Why::because(reason));
    operator.note(&permit, "Node.Abandoned", basis).await?;
    say(format!(
        "{name} is abandoned: its tenants are free for other nodes, and its log's folder is not taken again"
    ));
    Ok(())
}

async fn log(operator: &Operator, set_aside: bool) -> Result<(), operator::Error> {
    let permit = operator.permit::<TenantAdmin>(&TenantId::system()).await?;
    let settings = settings(&operator.service.config.wal.folder);
    if set_aside {
        let given_up = Wal::set_aside(&settings, &SystemDisk, &*operator.service.random)?;
        if given_up.is_empty() {
            say("nothing is damaged");
        }
        given_up.iter().for_each(report);
        let basis = format!("Segments.{}", given_up.len());
        let basis = (basis, &Why::default());
        operator.note(&permit, "Log.SetAside", basis).await?;
    }
    show(&Wal::inspect(&settings, &SystemDisk)?);
    Ok(())
}

fn show(log: &Inspection) {
    let found = &log.found;
    say(format!("log        {}", found.id));
    say(format!("generation {}", found.generation));
    say(format!("position   {}", found.last_position));
    for (first, bytes) in &log.segments {
        say(format!("segment    {first:020}.wal  {bytes} bytes"));
    }
    for pending in &found.sources {
        let (frames, bytes) = (pending.frames, pending.bytes);
        say(format!(
            "pending    {}  {frames} frame(s), {bytes} bytes",
            name(&pending.source)
        ));
    }
    if log.uncertain_frames > 0 {
        say(format!(
            "uncertain  {} frame(s) at the end",
            log.uncertain_frames
        ));
    }
    if found.torn_bytes > 0 {
        say(format!("torn       {} bytes at the end", found.torn_bytes));
    }
}

fn report(segment: &SetAside) {
    say(format!("set aside  {:020}.wal", segment.segment));
    for (first, last) in &segment.lost {
        say(format!("  lost     positions {first} to {last}"));
    }
    for (source, frames) in &segment.saved {
        say(format!("  saved    {}  {frames} frame(s)", name(source)));
    }
    for source in &segment.concerned {
        say(format!("  concerns {}", name(source)));
    }
}

fn name(source: &Source) -> String {
    format!("{}/{}/{}", source.silo, source.tenant, source.table)
}
