//! Receipts: what an answer was, by whose rules it came to be, and the tenant's word for it.
//!
//! ```text
//! tenant's signing key (KMS) ──statement──▶ process key ──signature──▶ receipt ──digest──▶ the rows themselves
//! ```
//! A receipt is made when the last row of an answer has been read: the certificate of the plan that was verified, how many
//! rows came of it, and their [digest](AnswerDigest). It tells nothing that its caller was not shown: no statement, no
//! literal, no path, no statistic; of a table that a caller sees only some rows of, no version either.
//!
//! **Format.** `{"format": "trailhouse-receipt-1", "receipt": {…}, "processKey": {…}, "signature": "<base64>"}`. The
//! process key signs `"trailhouse receipt 1\0" |` the RFC 8785 form of `receipt`; its statement is specified in
//! `catalog::keys`. The members of `receipt` are those of [`Receipt`].
//!
//! **Promise.** An answer that ends without an error has a receipt, and the receipt is durable, as evidence, before the end
//! of the answer is sent. An answer whose receipt cannot be kept ends in an error after its last row: it counts as not
//! given, though its rows were seen, which is what the evidence of its decision says. An answer that the caller broke
//! off has no receipt.

mod digest;
mod kept;
mod saved;
mod values;

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::clock::Timestamp;
use catalog::ids::{PolicyVersion, RecordId, SiloId, TenantId};
use catalog::keys::{KeyStatement, ProcessKey, PublicKeys, Unproven};
use serde::{Deserialize, Serialize};

use crate::record::canonical;

pub use digest::{AnswerDigest, Digested, Undigestible};
pub use kept::Receipts;
pub use saved::{Unreadable, saved};

const FORMAT: &str = "trailhouse-receipt-1";
const DOMAIN: &[u8] = b"trailhouse receipt 1\0";

/// What is said of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Receipt {
    /// The record id of the decision's evidence; the receipt goes by the same name.
    pub id: RecordId,
    /// Whose data it is.
    pub tenant: TenantId,
    /// Where it lies.
    pub silo: SiloId,
    /// The policy that the answer was made under.
    pub policy_version: PolicyVersion,
    /// The masks that it went through.
    pub mask_profile: String,
    /// The rules that carried the decision, by name.
    pub rules: Vec<String>,
    /// The tables that were read.
    pub tables: Vec<TableState>,
    /// SHA-256 that names the verified plan, as in the evidence; of several executions, of their digests in order. Hex.
    pub plan_digest: String,
    /// How many rows were given.
    pub rows: u64,
    /// Their digest, hex: see [`AnswerDigest`].
    pub answer_digest: String,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// When the last row was read.
    pub answered_at: Timestamp,
}

/// A table as it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableState {
    /// Its name in SQL.
    pub name: String,
    /// Its version, `v17`; or a word that only the server can read, `o:…`.
    pub state: String,
}

/// A receipt with its signature, and the statement of the key that made that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignedReceipt {
    format: String,
    receipt: Receipt,
    process_key: KeyStatement,
    signature: String,
}

/// What is wrong with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Faulty {
    /// Not of its format.
    #[error("this is no receipt of a format that is known here")]
    Form,
    /// A link from the tenant's key to the receipt does not hold.
    #[error("the receipt is not signed as it should be")]
    Unproven(#[from] Unproven),
    /// The rows are more or fewer.
    #[error("the result has {found} row(s), the receipt {said}")]
    Rows {
        /// In the receipt.
        said: u64,
        /// In the result.
        found: u64,
    },
    /// The rows, their order, or the columns are not the ones that were given.
    #[error("the values, their order or the columns of the result are not those of the receipt")]
    Values,
}

impl SignedReceipt {
    /// Signs a receipt; `None` if the key does not hold any more.
    #[must_use]
    pub fn sign(receipt: Receipt, key: &ProcessKey) -> Option<Self> {
        let message = receipt.canonical()?;
        let signature = key.sign(receipt.answered_at, DOMAIN, message.as_bytes())?;
        Some(Self {
            format: FORMAT.to_owned(),
            receipt,
            process_key: key.statement().clone(),
            signature: BASE64.encode(signature),
        })
    }

    /// Reads a receipt; what comes out is not verified yet.
    ///
    /// # Errors
    /// [`Faulty::Form`].
    pub fn from_json(text: &[u8]) -> Result<Self, Faulty> {
        let read: Self = serde_json::from_slice(text).map_err(|_| Faulty::Form)?;
        if read.format == FORMAT {
            Ok(read)
        } else {
            Err(Faulty::Form)
        }
    }

    /// The receipt as text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be text.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What is said of the answer, whether or not it is true.
    #[must_use]
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Verifies that a process for which one of these keys speaks signed this receipt.
    ///
    /// # Errors
    /// The first link that does not hold.
    pub fn verify(&self, keys: &PublicKeys) -> Result<&Receipt, Faulty> {
        let receipt = &self.receipt;
        if keys
            .tenant()
            .is_some_and(|tenant| *tenant != receipt.tenant)
        {
            return Err(Faulty::Unproven(Unproven::Subject));
        }
        let message = receipt.canonical().ok_or(Faulty::Form)?;
        let signature = BASE64.decode(&self.signature).ok();
        let signature = signature.and_then(|bytes| bytes.try_into().ok());
        let about = (&receipt.tenant, &receipt.silo, receipt.answered_at);
        self.process_key.verify(
            keys,
            about,
            (DOMAIN, message.as_bytes()),
            &signature.ok_or(Faulty::Form)?,
        )?;
        Ok(receipt)
    }
}

impl Receipt {
    /// What is signed. Texts and whole numbers always have this form.
    fn canonical(&self) -> Option<String> {
        let value = serde_json::to_value(self).ok()?;
        canonical::text(&value).ok()
    }

    /// Compares the answer that is told of with one at hand.
    ///
    /// # Errors
    /// What is different.
    pub fn matches(&self, found: Digested) -> Result<(), Faulty> {
        if self.rows != found.rows {
            Err(Faulty::Rows {
                said: self.rows,
                found: found.rows,
            })
        } else if self.answer_digest != hexadecimal(&found.digest) {
            Err(Faulty::Values)
        } else {
            Ok(())
        }
    }
}

/// Bytes as receipts write them.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
