//! `trailhouse token`: tokens of the development issuer.

use std::time::Duration;

use catalog::clock::{Clock, SystemClock, SystemRandom};
use catalog::context::{Role, Scope};

use crate::auth::developer::{Developer, TokenRequest};
use crate::config::Config;

use super::{Error, operator, say};

/// What the token says.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Tenant the token is for
    #[arg(long)]
    tenant: String,
    /// Role, e.g. Reader or Audit.Reader; may be repeated
    #[arg(long)]
    role: Vec<String>,
    /// Scope, e.g. audit.write; may be repeated
    #[arg(long)]
    scope: Vec<String>,
    /// Whom the token is about
    #[arg(long, default_value = "developer")]
    subject: String,
    /// Purpose, for policies that look at it
    #[arg(long)]
    purpose: Option<String>,
    /// Part of the organisation, likewise
    #[arg(long)]
    org_unit: Option<String>,
    /// Edition, likewise
    #[arg(long)]
    edition: Option<String>,
    /// Minutes until it expires
    #[arg(long, default_value_t = 720, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
}

pub(super) fn run(config: Config, arguments: &Arguments) -> Result<(), Error> {
    let request = TokenRequest {
        subject: arguments.subject.clone(),
        tenant: Some(arguments.tenant.clone()),
        roles: arguments
            .role
            .iter()
            .map(|role| role_name(role))
            .collect::<Result<_, _>>()?,
        scopes: arguments
            .scope
            .iter()
            .map(|scope| scope_name(scope))
            .collect::<Result<_, _>>()?,
        purpose: arguments.purpose.clone(),
        org_unit: arguments.org_unit.clone(),
        edition: arguments.edition.clone(),
        ..TokenRequest::default()
    };
    say(mint(
        &config,
        &request,
        Duration::from_secs(arguments.minutes * 60),
    )?);
    Ok(())
}

/// A token of the development issuer, if it is on.
pub(super) fn mint(
    config: &Config,
    request: &TokenRequest,
    lifetime: Duration,
) -> Result<String, operator::Error> {
    if !config.auth.developer {
        return Err(operator::Error::NoDeveloper);
    }
    let developer =
        Developer::open(&config.keys_folder, &SystemRandom).map_err(operator::Error::Developer)?;
    Ok(developer.mint(request, lifetime, SystemClock.now()))
}

/// The role as tokens spell it.
pub(super) fn role_name(text: &str) -> Result<String, operator::Error> {
    let role = Role::parse(text).or_else(|| Role::parse_profile(text));
    let role = role.ok_or_else(|| {
        let known: Vec<_> = Role::ALL.iter().map(|role| role.as_str()).collect();
        operator::Error::Word {
            what: "role",
            known: known.join(", "),
        }
    })?;
    Ok(role.as_str().to_owned())
}

fn scope_name(text: &str) -> Result<String, operator::Error> {
    let scope = Scope::parse(text).ok_or_else(|| {
        let known: Vec<_> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        operator::Error::Word {
            what: "scope",
            known: known.join(", "),
        }
    })?;
    Ok(scope.as_str().to_owned())
}
