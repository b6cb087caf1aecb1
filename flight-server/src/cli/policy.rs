//! `trailhouse policy`: apply, test and show bundles.

use std::path::PathBuf;

use catalog::guard::{PolicyRead, PolicyWrite};
use catalog::ids::TenantId;
use catalog::policy;
use catalog::policy::rego::suite;

use crate::config::Config;

use super::operator::{self, Operator, Why};
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
        #[command(flatten)]
        why: Why,
    },
    /// Run the tests of a bundle's Rego module; nothing is applied and no data is touched
    #[command(after_help = "Example:\n  trailhouse policy test acme.yaml acme_test.rego")]
    Test {
        /// The bundle
        bundle: PathBuf,
        /// A module of tests beside it: rules named test_…
        tests: Option<PathBuf>,
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
        Verb::Apply { file, tenant, why } => {
            let yaml = std::fs::read(&file).map_err(|source| Error::File(file, source))?;
            let operator = Operator::open(config).await?;
            let applied = apply(&operator, &tenant, &yaml, &why).await;
            operator.close().await;
            say(applied?);
        }
        Verb::Test { bundle, tests } => test(bundle, tests)?,
        Verb::Show { tenant, number } => {
            let operator = Operator::open(config).await?;
            let shown = show(&operator, &tenant, number).await;
            operator.close().await;
            say(shown?.trim_end());
        }
    }
    Ok(())
}

fn test(bundle: PathBuf, tests: Option<PathBuf>) -> Result<(), Error> {
    let yaml = std::fs::read(&bundle).map_err(|source| Error::File(bundle, source))?;
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path);
        text.map_err(|source| Error::File(path, source))
    };
    let tests = tests.map(read).transpose()?;
    let outcomes = suite::run(&yaml, tests.as_deref())
        .map_err(|refused| operator::Error::Refused(refused.reasons))?;
    let mut failed = 0;
    for outcome in &outcomes {
        match &outcome.fault {
            None => say(format_args!("pass  {}", outcome.test)),
            Some(fault) => {
                failed += 1;
                say(format_args!("FAIL  {}: {fault}", outcome.test));
            }
        }
    }
    if failed > 0 || outcomes.is_empty() {
        return Err(Error::PolicyTests {
            failed,
            all: outcomes.len(),
        });
    }
    say(format_args!("{} tests, all pass", outcomes.len()));
    Ok(())
}

async fn apply(
    operator: &Operator,
    tenant: &str,
    yaml: &[u8],
    why: &Why,
) -> Result<String, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    let permit = operator.permit::<PolicyWrite>(&tenant).await?;
    match operator.service.policies.apply(&permit, yaml).await {
        Err(policy::Error::Refused(refused)) => Err(operator::Error::Refused(refused.reasons)),
        applied => {
            let applied = applied?.to_string();
            let basis = (format!("Policy.{applied}"), why);
            operator.note(&permit, "Policy.Applied", basis).await?;
            Ok(applied)
        }
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
