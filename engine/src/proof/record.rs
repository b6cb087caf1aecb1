//! The proof of one record, in one file that a person can keep, and its verification without a server.
//!
//! ```text
//! {"format": "trailhouse-record-proof-1",
//!  "leaf": {"tenant", "stream", "recordId", "parts": [{"path", "type", "salt", "value"} or {"commitment"}, …]},
//!  "leafIndex": n, "path": [hash, …], "checkpoint": "<signed note>"}
//! ```
//! There are no other members, and none twice. Bytes and hashes are unpadded base64url, a salt 32 bytes, a path at most 64
//! hashes. The first part is the rest: if it is shown, its path is empty and its type 5, and tenant, stream and record in
//! it are those of the leaf; no other part is so. Whoever checks has the tenant's public keys from somewhere else, and then:
//! hashes the leaf ([`crate::seal::leaf`]), follows the audit path from place leafIndex to a root (RFC 6962), compares it
//! with the checkpoint's, and verifies the checkpoint's signature ([`crate::seal::checkpoint`]).

use std::sync::Arc;
use std::time::Duration;

use catalog::clock::Timestamp;
use catalog::guard::{Decision, Permit, Read};
use catalog::ids::{RecordId, StreamName};
use catalog::keys::PublicKeys;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::{PhysicalExpr, expressions};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::showing::Showing;
use super::{Error, LogName, Logs};
use crate::record::canonical::{digest_text, read_digest};
use crate::record::evolve::Evolution;
use crate::record::{StoredRecord, records_of};
use crate::seal::opened::{Contradictory, ShownValue};
use crate::seal::{Hash, OpenedLeaf, SignedCheckpoint, Unsigned, leaf_hash, verify_path};
use crate::table::{self, ScanRequest, TableKind, TableState};

const FORMAT: &str = "trailhouse-record-proof-1";
/// An id is made when its record is taken in, by a clock that may be a little off.
const DAY: Duration = Duration::from_secs(24 * 3_600);
const INCLUSION: &str = "trailhouse-inclusion-1";
/// Hashes of an audit path: the levels of the largest log.
const PATH_MAX: usize = 64;

/// Hashes as unpadded base64url.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub(super) struct Hashes(Vec<Hash>);

impl Hashes {
    pub(super) fn hashes(&self) -> &[Hash] {
        &self.0
    }
}

impl From<Vec<Hash>> for Hashes {
    fn from(hashes: Vec<Hash>) -> Self {
        Self(hashes)
    }
}

impl From<Hashes> for Vec<String> {
    fn from(hashes: Hashes) -> Self {
        hashes.0.iter().map(digest_text).collect()
    }
}

impl TryFrom<Vec<String>> for Hashes {
    type Error = &'static str;

    fn try_from(texts: Vec<String>) -> Result<Self, Self::Error> {
        if texts.len() > PATH_MAX {
            return Err("a path is longer than any");
        }
        let hashes = texts.iter().map(|text| read_digest(text));
        let hashes = hashes.collect::<Option<_>>();
        hashes.map(Self).ok_or("a hash is not 32 bytes")
    }
}

/// That a record is in a log, unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RecordProof {
    format: String,
    leaf: OpenedLeaf,
    leaf_index: u64,
    path: Hashes,
    /// The checkpoint, a signed note.
    checkpoint: String,
}

/// What a proof proves.
#[derive(Debug)]
pub struct Proven<'p> {
    /// The record's leaf.
    pub leaf: &'p OpenedLeaf,
    /// Its place in the log.
    pub leaf_index: u64,
    /// The values that it shows.
    pub shown: Vec<ShownValue>,
    /// The log at that time.
    pub checkpoint: SignedCheckpoint,
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Not of the form.
    #[error("it is no proof of a record")]
    Form,
    /// The values that it shows are not the record's.
    #[error(transparent)]
    Leaf(#[from] Contradictory),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] Unsigned),
    /// The path leads elsewhere.
    #[error(
        "the record is not in the log that the checkpoint signs: a value, its place or the path was changed"
    )]
    Path,
}

impl RecordProof {
    /// Reads a proof.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, Unproven> {
        let proof: Self = serde_json::from_slice(text).map_err(|_| Unproven::Form)?;
        // Names and numbers have one spelling: another one is not what was given out.
        let said: Value = serde_json::from_slice(text).map_err(|_| Unproven::Form)?;
        if proof.format == FORMAT && said == json!(proof) {
            Ok(proof)
        } else {
            Err(Unproven::Form)
        }
    }

    /// Which stream the record is in.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.leaf.stream
    }

    /// The same proof without anything of the record but its leaf's hash: for who has the record already.
    #[must_use]
    pub fn inclusion(&self) -> Value {
        json!({
            "format": INCLUSION,
            "recordId": self.leaf.record_id,
            "leafIndex": self.leaf_index,
            "leaf": self.leaf.hash().map(|hash| digest_text(&hash)),
            "path": self.path,
            "checkpoint": self.checkpoint,
        })
    }

    /// Checks the proof with the tenant's keys.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify(&self, keys: &PublicKeys) -> Result<Proven<'_>, Unproven> {
        let leaf = self.leaf.hash().ok_or(Unproven::Form)?;
        let shown = self.leaf.shown()?;
        let checkpoint = SignedCheckpoint::verify(self.checkpoint.as_bytes(), keys)?;
        if keys
            .tenant()
            .is_some_and(|tenant| *tenant != self.leaf.tenant)
        {
            return Err(Unproven::Checkpoint(Unsigned::Signature));
        }
        let said = checkpoint.checkpoint();
        if !verify_path(
            &leaf,
            self.leaf_index,
            said.size,
            self.path.hashes(),
            &said.root,
        ) {
            return Err(Unproven::Path);
        }
        Ok(Proven {
            leaf: &self.leaf,
            leaf_index: self.leaf_index,
            shown,
            checkpoint,
        })
    }
}

impl Logs {
    /// The proof of a record, with the values that the caller sees as they are stored, and commitments for the others;
    /// `None` if the tenant has no such record.
    ///
    /// # Errors
    /// If table, keys or store are out of reach; and if what is stored does not fit together, which is an alarm.
    pub async fn record(
        &self,
        permit: &Permit<Read>,
        id: RecordId,
    ) -> Result<Option<RecordProof>, Error> {
        let decision = permit.decision();
        if decision.rows.is_some() {
            // Places in a log count rows that a row policy hides.
            return Ok(None);
        }
        let Some(record) = self.find(decision, id).await? else {
            return Ok(None);
        };
        let unfit = || Error::tampered("a row of the table is no record");
        let leaf = leaf_hash(&record).map_err(|_| unfit())?;
        let index = record
            .leaf_index
            .and_then(|index| u64::try_from(index).ok());
        let index = index.ok_or_else(unfit)?;
        let log = LogName {
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            stream: record.stream.clone(),
        };
        let prover = self.prover(&log).await?;
        let mut prover = prover.ok_or(Error::tampered("a record has no log"))?;
        let path = prover.inclusion(index, &leaf).await?;
        let schemas = self.schemas.of(decision).await?;
        let evolves = Evolution::of(&schemas).is_some();
        let showing = Showing::new(decision, evolves);
        let leaf = OpenedLeaf::of(&record, |part, value| showing.shows(part, value));
        let leaf = leaf.map_err(|_| unfit())?;
        Ok(Some(RecordProof {
            format: FORMAT.to_owned(),
            leaf,
            leaf_index: index,
            path: path.into(),
            checkpoint: prover.checkpoint().to_text(),
        }))
    }

    async fn find(&self, decision: &Decision, id: RecordId) -> Result<Option<StoredRecord>, Error> {
        let (tenant, silo) = (&decision.tenant, &decision.silo);
        let table = self.tables.table(tenant, silo, TableKind::Records).await?;
        let state = table.state().await?;
        let request = ScanRequest {
            projection: (0..state.schema.fields().len()).collect(),
            predicate: Some(sought(&state, id)?),
            target_partitions: 1,
        };
        let plan = table.scan(state, request).await?;
        let context = Arc::new(TaskContext::default());
        let mut batches = execute_stream(plan, context).map_err(|_| unread())?;
        while let Some(batch) = batches.try_next().await.map_err(|_| unread())? {
            let read = tokio::task::spawn_blocking(move || records_of(&batch));
            let rows = read.await.map_err(|_| unread())?.map_err(|_| unread())?;
            if let Some(found) = rows.into_iter().find(|row| row.record_id == id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Rows of this id, in the partitions of the days around the moment that the id names: no other files are opened.
fn sought(state: &TableState, id: RecordId) -> Result<Arc<dyn PhysicalExpr>, Error> {
    let schema = &state.schema;
    let is = |column, operator, text: String| {
        let column = expressions::col(column, schema)?;
        expressions::binary(column, operator, expressions::lit(text), schema)
    };
    let made = i64::try_from(id.timestamp_millis()).unwrap_or(i64::MAX / 1_000);
    let made = Timestamp::from_micros(made.saturating_mul(1_000));
    let sought = || {
        let days = expressions::binary(
            is("ingest_date", Operator::GtEq, made.minus(DAY).date())?,
            Operator::And,
            is("ingest_date", Operator::LtEq, made.plus(DAY).date())?,
            schema,
        )?;
        let own = is("record_id", Operator::Eq, id.to_string())?;
        expressions::binary(days, Operator::And, own, schema)
    };
    sought().map_err(|_| unread())
}

fn unread() -> Error {
    Error::Table(table::Error::Tampered {
        what: "a record cannot be read back",
    })
}
