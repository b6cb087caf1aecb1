//! `trailhouse key`: a tenant's keys, new versions of them, and the public halves that signatures are checked by.

use std::time::Duration;

use catalog::guard::{PolicyRead, TenantAdmin};
use catalog::ids::TenantId;
use catalog::keys::KeyPurpose;
use catalog::tenant::{self, TenantKey, TenantRecord};

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
    /// Print the public halves of a tenant's signing keys, as a JSON Web Key Set
    #[command(after_help = "Example:\n  trailhouse key export --tenant acme > acme.jwks")]
    Export {
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// List the keys of a tenant: which version is in use, and since when
    #[command(after_help = "Example:\n  trailhouse key list --tenant acme")]
    List {
        /// The tenant
        #[arg(long)]
        tenant: String,
    },
    /// Make the next version of keys and use it from now on. Old versions stay for reading; nothing is encrypted anew
    #[command(
        after_help = "Example:\n  trailhouse key rotate --tenant acme --key signing --reason \"ticket 4711\"\n  trailhouse key rotate --all --older-than-days 90 --reason \"quarterly\"     # from cron"
    )]
    Rotate {
        /// The tenant
        #[arg(long, required_unless_present = "all")]
        tenant: Option<String>,
        /// Every tenant whose silo is served with these settings
        #[arg(long, conflicts_with = "tenant")]
        all: bool,
        /// Which: data, evidence, control or signing, or an epoch key alone: epoch-data or epoch-evidence; default: all
        /// four keys, which renews the epoch keys as well
        #[arg(long, value_name = "KEY")]
        key: Vec<String>,
        /// Only those that are in use for so many days
        #[arg(long, value_name = "DAYS")]
        older_than_days: Option<u32>,
        #[command(flatten)]
        why: Why,
    },
}

/// What is renewed.
#[derive(Debug, Clone, Copy)]
enum Renewed {
    Key(TenantKey),
    Epoch(KeyPurpose),
}

const KEYS: [(&str, Renewed); 6] = [
    ("data", Renewed::Key(TenantKey::Data)),
    ("evidence", Renewed::Key(TenantKey::Evidence)),
    ("control", Renewed::Key(TenantKey::Control)),
    ("signing", Renewed::Key(TenantKey::Signing)),
    ("epoch-data", Renewed::Epoch(KeyPurpose::Data)),
    ("epoch-evidence", Renewed::Epoch(KeyPurpose::Evidence)),
];
const DAY: Duration = Duration::from_secs(24 * 3_600);

pub(super) async fn run(config: Config, arguments: Arguments) -> Result<(), Error> {
    let operator = Operator::open(config).await?;
    let done = match arguments.verb {
        Verb::Export { tenant } => export(&operator, &tenant).await.map(say),
        Verb::List { tenant } => list(&operator, &tenant).await,
        Verb::Rotate {
            tenant,
            key,
            older_than_days,
            why,
            ..
        } => {
            let age_min = older_than_days.map(|days| DAY * days);
            rotate(&operator, tenant.as_deref(), &key, age_min, &why).await
        }
    };
    operator.close().await;
    Ok(done?)
}

async fn list(operator: &Operator, tenant: &str) -> Result<(), operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    operator.permit::<PolicyRead>(&tenant).await?;
    let record = operator.service.registry.get(&tenant).await?;
    let record = record.ok_or(tenant::Error::Unknown)?;
    for key in TenantKey::ALL {
        let (name, since) = (key.of(&record.keys), record.key_since(key));
        say(format!("{:<10} {name}   since {since}", key.as_str()));
    }
    Ok(())
}

async fn rotate(
    operator: &Operator,
    tenant: Option<&str>,
    words: &[String],
    age_min: Option<Duration>,
    why: &Why,
) -> Result<(), operator::Error> {
    let mut renewed = Vec::new();
    for word in words {
        let known = KEYS.iter().find(|(known, _)| known == word);
        let (_, known) = known.ok_or_else(|| operator::Error::Word {
            what: "key",
            known: KEYS.map(|(known, _)| known).join(", "),
        })?;
        renewed.push(*known);
    }
    let has_no_age = |renewed: &Renewed| matches!(renewed, Renewed::Epoch(_));
    if age_min.is_some() && renewed.iter().any(has_no_age) {
        return Err(operator::Error::Word {
            what: "key with an age",
            known: TenantKey::ALL.map(TenantKey::as_str).join(", "),
        });
    }
    if renewed.is_empty() {
        renewed.extend(TenantKey::ALL.map(Renewed::Key));
    }
    let registry = &operator.service.registry;
    let tenants = match tenant {
        Some(id) => {
            let record = registry.get(&TenantId::parse(id)?).await?;
            vec![record.ok_or(tenant::Error::Unknown)?]
        }
        None => registry.list().await?,
    };
    let silos = &operator.service.config.silos;
    let mut failed = None;
    for record in tenants
        .iter()
        .filter(|record| silos.iter().any(|silo| silo.id == record.silo))
    {
        for renewed in &renewed {
            let done = rotate_one(operator, record, *renewed, (age_min, why)).await;
            if let Err(error) = done {
                // The others' keys grow old all the same.
                say(format!("{:<24} not done: {error}", record.display_name));
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn rotate_one(
    operator: &Operator,
    record: &TenantRecord,
    renewed: Renewed,
    (age_min, why): (Option<Duration>, &Why),
) -> Result<(), operator::Error> {
    let service = &operator.service;
    let now = service.clock.now();
    let is_due = |key: TenantKey| {
        let age = now.since(record.key_since(key)).unwrap_or_default();
        age_min.is_none_or(|age_min| age >= age_min)
    };
    let permit = operator.permit::<TenantAdmin>(&record.id).await?;
    let done = match renewed {
        Renewed::Key(key) if !is_due(key) => return Ok(()),
        Renewed::Key(key) => {
            let rotated = service.registry.rotate_key(&permit, &record.id, key);
            let (old, new) = rotated.await?;
            format!("{key} {old} -> {new}")
        }
        Renewed::Epoch(purpose) => {
            let renewing = service.keys.renew_epoch(&record.id, &record.silo, purpose);
            renewing.await.map_err(operator::Error::Keys)?;
            format!("epoch key of {}", purpose.as_str())
        }
    };
    let basis = (format!("Key.{done}"), why);
    operator.note(&permit, "Key.Rotated", basis).await?;
    say(format!("{:<24} {done}", record.display_name));
    Ok(())
}

async fn export(operator: &Operator, tenant: &str) -> Result<String, operator::Error> {
    let tenant = TenantId::parse(tenant)?;
    operator.permit::<PolicyRead>(&tenant).await?;
    let service = &operator.service;
    let record = service.registry.get(&tenant).await?;
    let record = record.ok_or(tenant::Error::Unknown)?;
    let keys = service.keys.public_keys(&record.id, &record.silo).await;
    let keys = keys.map_err(operator::Error::Keys)?.to_json();
    Ok(serde_json::to_string_pretty(&keys).unwrap_or_else(|_| keys.to_string()))
}
