//! `trailhouse receipt`: what an answer was, checked without a server.

use std::path::{Path, PathBuf};

use catalog::keys::{PublicKeys, Unproven};
use engine::receipt::{Faulty, Receipt, SignedReceipt, Unreadable, saved};

use super::say;

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Check a receipt against the tenant's public keys, and a result against the receipt; exit code 0 if all of it holds
    #[command(
        after_help = "Example:\n  trailhouse receipt verify receipt.json --jwks acme.jwks --data result.arrow"
    )]
    Verify(Check),
}

/// A receipt, and what to check of it.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The receipt, as JSON
    receipt: PathBuf,
    /// The tenant's public keys: a JSON Web Key Set, or one key of it
    #[arg(long, alias = "key", value_name = "FILE")]
    jwks: PathBuf,
    /// The result: an Arrow IPC file or stream, or Parquet
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

/// What speaks against a receipt, or against a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keys.
    #[error("the key file holds no key of a tenant")]
    Keys(#[source] Unproven),
    /// The receipt is not good, or is not about this result.
    #[error("not verified")]
    Faulty(#[from] Faulty),
    /// The result.
    #[error("not verified: the result cannot be compared")]
    Unreadable(#[from] Unreadable),
}

pub(super) fn run(arguments: &Arguments) -> Result<(), super::Error> {
    let Verb::Verify(check) = &arguments.verb;
    verify(check)
}

pub(super) fn verify(check: &Check) -> Result<(), super::Error> {
    let Check {
        receipt,
        jwks,
        data,
    } = check;
    let keys = PublicKeys::from_json(&read(jwks)?).map_err(Error::Keys)?;
    let signed = SignedReceipt::from_json(&read(receipt)?).map_err(Error::Faulty)?;
    let receipt = signed.verify(&keys).map_err(Error::Faulty)?;
    if let Some(data) = data {
        let found = saved(data).map_err(Error::Unreadable)?;
        receipt.matches(found).map_err(Error::Faulty)?;
    }
    lines(receipt, data.is_some()).iter().for_each(say);
    Ok(())
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, super::Error> {
    std::fs::read(path).map_err(|source| super::Error::File(path.to_owned(), source))
}

fn lines(receipt: &Receipt, compared: bool) -> Vec<String> {
    let tables = receipt.tables.iter();
    let tables: Vec<_> = tables
        .map(|table| format!("{} at {}", table.name, table.state))
        .collect();
    let result = if compared {
        "and the result is the one it is about"
    } else {
        "no result was given to compare"
    };
    vec![
        format!("verified: receipt {}, {result}", receipt.id),
        format!("tenant    {} in {}", receipt.tenant, receipt.silo),
        format!("answered  {}", receipt.answered_at),
        format!(
            "policy    {}, masks {}",
            receipt.policy_version, receipt.mask_profile
        ),
        format!("rules     {}", receipt.rules.join(", ")),
        format!("tables    {}", tables.join(", ")),
        format!(
            "rows      {}, sha256 {}",
            receipt.rows, receipt.answer_digest
        ),
    ]
}
