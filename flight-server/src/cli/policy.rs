//! `trailhouse policy`: apply and show bundles.

use std::path::PathBuf;

use catalog::guard::{PolicyRead, PolicyWrite};
use catalog::ids::TenantId;
use catalog::policy;

use crate::config::Config;

use super::operator::{self, Operator};
use super::{Error, say};

/// What to do with which policy.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Sign a bundle and make it the current version
    #[command(after_help = "Example:\n  trailhouse policy apply acme.yaml --tenant acme")]
    Apply {
        /// The bundle; its `version` is the current one plus one
        file: PathBuf,
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Print a bundle as it was written
    #[command(after_help = "Example:\n  trailhouse policy show --tenant acme --version 1")]
    Show {
        /// The tenant
        #[arg(long)]
        tenant: String,
        /// The version; default: the current one
        #[arg(long = "version")]
        number: Option<u64>,
    },
}

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    match arguments.verb {
        Verb::Apply { file, tenant } => {
            let yaml = std::fs::read(&file).map_err(|source| Error::File(file, source))?;
            let operator = Operator::open(config).await?;
            let applied = apply(&operator, &tenant, &yaml).await;
            operator.close().await;
            say(applied?);
        }
        Verb::Show { tenant, number } => {
            let operator = Operator::open(config).await?;
            let shown = show(&operator, &tenant, number).await;
            operator.close().await;
            say(shown?.trim_end());
        }
    }
    Ok(())
}

async fn apply(operator: &Operator, tenant: &str, yaml: &[u8]) -> Result<String, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    let permit = operator.permit::<PolicyWrite>(&tenant).await?;
    match operator.service.policies.apply(&permit, yaml).await {
        Err(policy::Error::Refused(refused)) => Err(operator::Error::Refused(refused.reasons)),
        applied => Ok(applied?.to_string()),
    }
}

async fn show(
    operator: &Operator,
    tenant: &str,
    number: Option<u64>,
) -> Result<String, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    let permit = operator.permit::<PolicyRead>(&tenant).await?;
    let (_, yaml) = operator.service.policies.source(&permit, number).await?;
    Ok(yaml)
}
