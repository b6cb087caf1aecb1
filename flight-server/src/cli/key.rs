//! `trailhouse key`: the public keys that a tenant checks signatures by.

use catalog::guard::PolicyRead;
use catalog::ids::TenantId;

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
    /// Print the public halves of a tenant's signing keys, as a JSON Web Key Set
    #[command(after_help = "Example:\n  trailhouse key export --tenant acme > acme.jwks")]
    Export {
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
}

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let Verb::Export { tenant } = arguments.verb;
    let operator = Operator::open(config).await?;
    let done = export(&operator, &tenant).await;
    operator.close().await;
    say(done?);
    Ok(())
}

async fn export(operator: &Operator, tenant: &str) -> Result<String, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    operator.permit::<PolicyRead>(&tenant).await?;
    let service = &operator.service;
    let record = service.registry.get(&tenant).await?;
    let record = record.ok_or(catalog::tenant::Error::Unknown)?;
    let keys = service.keys.public_keys(&record.id, &record.silo).await;
    let keys = keys.map_err(operator::Error::Keys)?.to_json();
    Ok(serde_json::to_string_pretty(&keys).unwrap_or_else(|_| keys.to_string()))
}
