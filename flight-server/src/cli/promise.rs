//! `trailhouse verify promise`: what a sender was promised, and whether the log kept it.

use std::path::PathBuf;

use catalog::keys::{KeyStatement, PublicKeys};
use engine::proof::RecordProof;
use engine::record::canonical::digest_text;
use engine::seal::promised;

use super::receipt::read;
use super::{say, verify};

/// What to check.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// The receipt of one record, as it was answered when the record was sent: a JSON object
    receipt: PathBuf,
    /// The statement of the process key that signed it: GET /v1/keys/process/<integrity.key of the receipt>
    #[arg(long, value_name = "FILE")]
    process_key: PathBuf,
    /// The tenant's public keys: a JSON Web Key Set
    #[arg(long, alias = "key", value_name = "FILE")]
    jwks: PathBuf,
    /// A proof of the record: the log must have kept the promise
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

pub(super) fn verify(check: &Check) -> Result<(), super::Error> {
    let keys = PublicKeys::from_json(&read(&check.jwks)?).map_err(verify::Error::Keys)?;
    let statement = KeyStatement::from_json(&read(&check.process_key)?);
    let statement = statement.map_err(verify::Error::Statement)?;
    let promise = promised(&read(&check.receipt)?, &statement, &keys);
    let promise = promise.map_err(verify::Error::Promise)?;
    if let Some(proof) = &check.proof {
        let proof = RecordProof::from_json(&read(proof)?).map_err(verify::Error::Proof)?;
        let proven = proof.verify(&keys).map_err(verify::Error::Proof)?;
        // Which record it is stands in the leaf; the receipt only tells.
        let is_log =
            (&proven.leaf.tenant, &proven.leaf.stream) == (&promise.tenant, &promise.stream);
        let is_place = proven.leaf_index == promise.leaf_index;
        let is_record = proven.leaf.record_id == promise.record_id;
        if !is_log || !(is_place || is_record) {
            return Err(verify::Error::OtherRecord.into());
        }
        if !(is_place && is_record && proven.leaf.hash() == Some(promise.leaf)) {
            return Err(verify::Error::Broken.into());
        }
        let size = proven.checkpoint.checkpoint().size;
        say(format!(
            "verified: the log of {size} records has kept the promise"
        ));
    }
    say(format!(
        "verified: {} promised at {} that leaf {} of {} is {}",
        promise.tenant,
        promise.at,
        promise.leaf_index,
        promise.stream,
        digest_text(&promise.leaf)
    ));
    Ok(())
}
