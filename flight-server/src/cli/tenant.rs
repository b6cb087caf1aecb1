//! `trailhouse tenant`: make tenants and move them through their life.

use catalog::guard::TenantAdmin;
use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::tenant::{Event, NewTenant, TenantRecord, onboard};

use crate::config::Config;

use super::operator::{self, Operator, Why};
use super::{Error, say};

/// What to do with which tenant.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Make a tenant: its keys, its default policy, its place in the registry
    #[command(
        after_help = "Example:\n  trailhouse tenant create Acme --silo eu --stream audit.orders"
    )]
    Create {
        /// 1 to 128 of A-Z a-z 0-9 . _ -
        id: String,
        /// Where its data lives; default: the first silo of the configuration
        #[arg(long)]
        silo: Option<String>,
        /// Streams beside audit.default and audit.security; may be repeated
        #[arg(long)]
        stream: Vec<String>,
        #[command(flatten)]
        why: Why,
    },
    /// Show one tenant
    #[command(after_help = "Example:\n  trailhouse tenant show acme")]
    Show {
        /// The tenant
        id: String,
    },
    /// List all tenants
    #[command(after_help = "Example:\n  trailhouse tenant list")]
    List,
    /// Refuse writes until reinstated; reads go on
    #[command(
        after_help = "Example:\n  trailhouse tenant suspend acme --reason \"unpaid\" --ticket OPS-4711"
    )]
    Suspend {
        /// The tenant
        id: String,
        #[command(flatten)]
        why: Why,
    },
    /// Lift a suspension
    #[command(after_help = "Example:\n  trailhouse tenant reinstate acme")]
    Reinstate {
        /// The tenant
        id: String,
        #[command(flatten)]
        why: Why,
    },
}

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let operator = Operator::open(config).await?;
    let done = act(&operator, arguments.verb).await;
    operator.close().await;
    done
}

async fn act(operator: &Operator, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Create {
            id,
            silo,
            stream,
            why,
        } => {
            let made = create(operator, &id, (silo.as_deref(), &stream), &why).await?;
            say(line(&made));
        }
        Verb::Show { id } => show(operator, &id).await?,
        Verb::List => list(operator).await?,
        Verb::Suspend { id, why } => {
            let act = (Event::Suspend, "Tenant.Suspended");
            say(line(&advance(operator, &id, act, &why).await?));
        }
        Verb::Reinstate { id, why } => {
            let act = (Event::Reinstate, "Tenant.Reinstated");
            say(line(&advance(operator, &id, act, &why).await?));
        }
    }
    Ok(())
}

/// Makes a tenant; making the same one again finishes what was interrupted.
pub(super) async fn create(
    operator: &Operator,
    id: &str,
    (silo, streams): (Option<&str>, &[String]),
    why: &Why,
) -> Result<TenantRecord, operator::Error> {
    let tenant = TenantId::parse(id)?;
    let silos = &operator.service.config.silos;
    let silo = match silo {
        Some(name) => SiloId::parse(name)?,
        None => silos
            .first()
            .map(|silo| silo.id.clone())
            .ok_or_else(|| unknown_silo(operator))?,
    };
    if !silos.iter().any(|known| known.id == silo) {
        return Err(unknown_silo(operator));
    }
    let permit = operator.permit::<TenantAdmin>(&tenant).await?;
    let streams = streams
        .iter()
        .map(|name| StreamName::parse(name))
        .collect::<Result<_, _>>()?;
    let new = NewTenant {
        display_name: id.to_owned(),
        streams,
        ..NewTenant::new(tenant, silo)
    };
    let service = &operator.service;
    let record = onboard(&service.registry, &service.policies, &permit, new).await?;
    let basis = (format!("Silo.{}", record.silo), why);
    operator.note(&permit, "Tenant.Created", basis).await?;
    Ok((*record).clone())
}

fn unknown_silo(operator: &Operator) -> operator::Error {
    let known: Vec<_> = operator
        .service
        .config
        .silos
        .iter()
        .map(|silo| silo.id.to_string())
        .collect();
    operator::Error::Word {
        what: "silo in the configuration",
        known: known.join(", "),
    }
}

async fn advance(
    operator: &Operator,
    id: &str,
    (event, act): (Event, &'static str),
    why: &Why,
) -> Result<TenantRecord, operator::Error> {
    let tenant = TenantId::parse(id)?;
    let permit = operator.permit::<TenantAdmin>(&tenant).await?;
    let record = operator
        .service
        .registry
        .transition(&permit, &tenant, event)
        .await?;
    let basis = (format!("State.{}", record.state), why);
    operator.note(&permit, act, basis).await?;
    Ok((*record).clone())
}

async fn show(operator: &Operator, id: &str) -> Result<(), operator::Error> {
    let tenant = TenantId::parse(id)?;
    operator.permit::<TenantAdmin>(&tenant).await?;
    let record = operator.service.registry.get(&tenant).await?;
    let record = record.ok_or(operator::Error::Registry(catalog::tenant::Error::Unknown))?;
    say(line(&record));
    let streams: Vec<_> = record.streams.iter().map(ToString::to_string).collect();
    say(format!("streams  {}", streams.join(", ")));
    say(format!("policy   tenant:{}@{}", record.id, record.policy));
    say(format!("created  {}", record.created_at));
    say(format!("etag     {}", record.etag));
    Ok(())
}

async fn list(operator: &Operator) -> Result<(), operator::Error> {
    operator.permit::<TenantAdmin>(&TenantId::system()).await?;
    for record in operator.service.registry.list().await? {
        say(line(&record));
    }
    Ok(())
}

fn line(record: &TenantRecord) -> String {
    format!(
        "{:<24} {:<12} silo {}",
        record.display_name,
        record.state.to_string(),
        record.silo
    )
}
