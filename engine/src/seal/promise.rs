//! What a sender is promised when records are acknowledged: that the log of a stream has them, each at its place.
//!
//! All records of a stream that one append made durable are a group. Its leaves have consecutive numbers, and its root is
//! the RFC 6962 tree hash over their hashes. The process that took them signs, with its key for the tenant
//! ([`catalog::keys::KeyStatement`]),
//! ```text
//! "trailhouse promise 1\0" | tenant | silo | stream | first leaf | size | root | prev | at
//! ```
//! each part after the first as a u32 LE length and its bytes, the numbers as u64 LE, roots as 32 bytes (`prev`, the root of
//! the stream's group before, is empty where there was none), and the time as it stands in the receipt.
//!
//! A receipt of a record has it as `"integrity": {"firstLeaf", "size", "root", "prev", "signedAt", "key", "sig", "leaf",
//! "index", "path"}`: the group, when and with which key it was signed (lower-case hex of the SHA-256 of the public key), the
//! signature, the record's leaf, its place in the group, and the audit path from there to the root. Hashes and the signature
//! are unpadded base64url. A receipt without a signature (`"sig": null`) was given while no key could be certified; the
//! record is no less durable, and its [proof](super::OpenedLeaf) can be had all the same.
//!
//! The record's id is told and not signed: it is in the leaf, as [`super::leaf`] says.
//!
//! The statement is at `GET /v1/keys/process/<key>`, for who may read; kept with the receipt, it makes that proof of anything.
//! With a receipt, the key's statement and the tenant's public keys, whoever was answered can show that this leaf is to be
//! in the log at this place. A log that has another there, or ends before, was not kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use catalog::clock::Timestamp;
use catalog::ids::{RecordId, SiloId, StreamName, TenantId};
use catalog::keys::{KeyStatement, ProcessKey, PublicKeys, push_prefixed};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::merkle::{Hash, verify_path};
use crate::record::canonical::read_digest;

const DOMAIN: &[u8] = b"trailhouse promise 1\0";

/// What is signed of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHead<'g> {
    /// The number of its first leaf.
    pub first: u64,
    /// How many leaves it has.
    pub size: u64,
    /// The root over them.
    pub root: &'g Hash,
    /// The root of the group before.
    pub prev: Option<&'g Hash>,
    /// When it was signed.
    pub at: Timestamp,
}

impl GroupHead<'_> {
    /// Signs it with a key that this process has for the tenant; `None` when the key does not hold at that time.
    #[must_use]
    pub fn sign(&self, key: &ProcessKey, stream: &StreamName) -> Option<[u8; 64]> {
        let statement = key.statement();
        let message = self.message(statement.tenant(), statement.silo(), stream);
        key.sign(self.at, DOMAIN, &message)
    }

    fn message(&self, tenant: &TenantId, silo: &SiloId, stream: &StreamName) -> Vec<u8> {
        let mut message = Vec::new();
        for part in [
            tenant.as_str().as_bytes(),
            silo.as_str().as_bytes(),
            stream.as_str().as_bytes(),
            &self.first.to_le_bytes(),
            &self.size.to_le_bytes(),
            self.root,
            self.prev.map_or(&[][..], |prev| &prev[..]),
            self.at.to_string().as_bytes(),
        ] {
            push_prefixed(&mut message, part);
        }
        message
    }
}

/// Why a receipt promises nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unpromised {
    /// Not of the form.
    #[error("it is no receipt of a record")]
    Form,
    /// A duplicate's, or one without a signature.
    #[error(
        "the receipt promises nothing: it is that of a duplicate, or was given while no key could be certified"
    )]
    Unsigned,
    /// The statement is of another key.
    #[error(
        "it was signed with another process key: its statement is at /v1/keys/process/<integrity.key of the receipt>"
    )]
    OtherKey,
    /// Leaf, place and path do not lead to the root.
    #[error(
        "the record is not in the group that was signed: its leaf, its place or the path was changed"
    )]
    Path,
    /// The signature.
    #[error(transparent)]
    Unproven(#[from] catalog::keys::Unproven),
}

/// A record that a log is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promised {
    /// Which record, as the receipt tells: what is signed is the leaf, which has the id in it.
    pub record_id: RecordId,
    /// Whose.
    pub tenant: TenantId,
    /// In the log of which stream.
    pub stream: StreamName,
    /// At which place.
    pub leaf_index: u64,
    /// What stands there.
    pub leaf: Hash,
    /// When it was promised.
    pub at: Timestamp,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    record_id: RecordId,
    tenant_id: TenantId,
    stream: StreamName,
    leaf_index: u64,
    integrity: Option<Integrity>,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Integrity {
    first_leaf: u64,
    size: u64,
    root: String,
    prev: Option<String>,
    signed_at: Option<Timestamp>,
    key: Option<String>,
    sig: Option<String>,
    leaf: String,
    index: u64,
    path: Vec<String>,
}

/// What the receipt of a record, as JSON, promises in the name of these keys. `statement` is that of the key that signed.
///
/// # Errors
/// The first link that does not hold.
pub fn promised(
    receipt: &[u8],
    statement: &KeyStatement,
    keys: &PublicKeys,
) -> Result<Promised, Unpromised> {
    let text: Text = serde_json::from_slice(receipt).map_err(|_| Unpromised::Form)?;
    // Names and times have one spelling: another one is not what was given out.
    let said: Value = serde_json::from_slice(receipt).map_err(|_| Unpromised::Form)?;
    if !is_said(&json!(text), &said) {
        return Err(Unpromised::Form);
    }
    let integrity = text.integrity.ok_or(Unpromised::Unsigned)?;
    let (Some(at), Some(key), Some(sig)) = (integrity.signed_at, integrity.key, integrity.sig)
    else {
        return Err(Unpromised::Unsigned);
    };
    if statement.name().as_ref() != Some(&key) {
        return Err(Unpromised::OtherKey);
    }
    let hash = |text: &String| read_digest(text).ok_or(Unpromised::Form);
    let (leaf, root) = (hash(&integrity.leaf)?, hash(&integrity.root)?);
    let prev = integrity.prev.as_ref().map(hash).transpose()?;
    let path = integrity.path.iter().map(hash);
    let path: Vec<Hash> = path.collect::<Result<_, _>>()?;
    let is_there = integrity.first_leaf.checked_add(integrity.index) == Some(text.leaf_index)
        && verify_path(&leaf, integrity.index, integrity.size, &path, &root);
    if !is_there {
        return Err(Unpromised::Path);
    }
    let head = GroupHead {
        first: integrity.first_leaf,
        size: integrity.size,
        root: &root,
        prev: prev.as_ref(),
        at,
    };
    let signature = BASE64URL.decode(&sig).ok();
    let signature = signature.and_then(|bytes| bytes.try_into().ok());
    let silo = statement.silo().clone();
    let message = head.message(&text.tenant_id, &silo, &text.stream);
    let about = (&text.tenant_id, &silo, at);
    if keys.tenant().is_some_and(|own| *own != text.tenant_id) {
        return Err(catalog::keys::Unproven::Subject.into());
    }
    let signature = signature.ok_or(Unpromised::Form)?;
    statement.verify(keys, about, (DOMAIN, &message), &signature)?;
    Ok(Promised {
        record_id: text.record_id,
        tenant: text.tenant_id,
        stream: text.stream,
        leaf_index: text.leaf_index,
        leaf,
        at,
    })
}

/// Whether all members of `read` are said just so, whatever else is said.
fn is_said(read: &Value, said: &Value) -> bool {
    match (read, said) {
        (Value::Object(read), Value::Object(said)) => read
            .iter()
            .all(|(name, value)| is_said(value, said.get(name).unwrap_or(&Value::Null))),
        _ => read == said,
    }
}
