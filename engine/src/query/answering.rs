//! An answer on its way out: rows, each of them digested, and after the last one the receipt.
//!
//! Invariant: there is no other way from a plan to its rows, and it ends with a receipt that is durable, or with an error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use catalog::guard::{Denial, Permit, Read};
use catalog::ids::RecordId;
use catalog::keys::{ProcessKey, SecretKey};
use datafusion::common::ParamValues;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use super::account::TableAccount;
use super::error::Error;
use super::queries::Queries;
use super::run::{BatchStream, VerifiedPlan};
use crate::receipt::{AnswerDigest, Receipt, SignedReceipt, TableState, Undigestible, hexadecimal};

/// The parts of an answer as they come.
pub type AnswerStream = BoxStream<'static, Result<Part, Error>>;

/// A part of an answer.
#[derive(Debug)]
pub enum Part {
    /// Some rows.
    Rows(RecordBatch),
    /// The end.
    Receipt(Arc<SignedReceipt>),
}

/// What is executed after the first plan, for the same answer.
#[derive(Clone)]
pub struct Further {
    /// The statement.
    pub sql: Arc<str>,
    /// Its parameters, a row an execution.
    pub parameters: Vec<ParamValues>,
}

impl fmt::Debug for Further {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Statements and parameters hold what has no place in logs.
        f.debug_struct("Further").finish_non_exhaustive()
    }
}

/// Starts an answer with a first plan.
pub(super) fn answering(
    queries: Arc<Queries>,
    permit: Permit<Read>,
    (key, state_key): (Arc<ProcessKey>, SecretKey),
    first: VerifiedPlan,
    further: Further,
) -> Result<AnswerStream, Error> {
    let schema = first.schema();
    let digest = AnswerDigest::new(&schema)?;
    let mut certificate = Certificate::default();
    certificate.add(&first);
    let answer = Answer {
        rows: first.witnessed(&permit)?.execute()?,
        sql: further.sql,
        parameters: further.parameters.into_iter(),
        queries,
        permit,
        key,
        state_key,
        schema,
        digest: Some(digest),
        certificate,
    };
    let parts = stream::try_unfold(answer, |mut answer| async move {
        let part = answer.next().await?;
        Ok(part.map(|part| (part, answer)))
    });
    Ok(parts.boxed())
}

struct Answer {
    queries: Arc<Queries>,
    permit: Permit<Read>,
    key: Arc<ProcessKey>,
    /// Keys the names that stand for the versions of tables.
    state_key: SecretKey,
    sql: Arc<str>,
    parameters: std::vec::IntoIter<ParamValues>,
    rows: BatchStream,
    schema: SchemaRef,
    /// Until the receipt is made.
    digest: Option<AnswerDigest>,
    certificate: Certificate,
}

impl Answer {
    async fn next(&mut self) -> Result<Option<Part>, Error> {
        let Some(mut digest) = self.digest.take() else {
            return Ok(None);
        };
        loop {
            if let Some(batch) = self.rows.try_next().await.map_err(Error::from_stream)? {
                digest.update(&batch)?;
                self.digest = Some(digest);
                return Ok(Some(Part::Rows(batch)));
            }
            let Some(parameters) = self.parameters.next() else {
                return Ok(Some(Part::Receipt(self.receipt(digest).await?)));
            };
            let planned = self.queries.plan(&self.permit, &self.sql, Some(parameters));
            let plan = planned.await?;
            if plan.schema() != self.schema {
                return Err(Error::invalid(
                    "the rows of parameters give results of different types",
                ));
            }
            self.certificate.add(&plan);
            self.rows = plan.execute()?;
        }
    }

    /// Signs what there is to say, and sees to it that it is kept.
    async fn receipt(&mut self, digest: AnswerDigest) -> Result<Arc<SignedReceipt>, Error> {
        let decision = self.permit.decision();
        let evidence = self.permit.evidence_durable().await;
        let id =
            RecordId::parse(&evidence.map_err(Error::Denied)?.0).map_err(|_| Error::Internal)?;
        let digested = digest.finish();
        let plan_digest = self.certificate.digest();
        let receipt = Receipt {
            id,
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            policy_version: decision.policy.version.clone(),
            mask_profile: decision.profile.name.clone(),
            rules: decision.basis.clone(),
            tables: self.certificate.states(&self.state_key, id),
            plan_digest: hexadecimal(&plan_digest),
            rows: digested.rows,
            answer_digest: hexadecimal(&digested.digest),
            decided_at: decision.made_at,
            answered_at: self.queries.clock().now(),
        };
        let signed = SignedReceipt::sign(receipt, &self.key).ok_or(Error::KeyUnavailable)?;
        let kept = self.queries.receipts().keep(decision, plan_digest, signed);
        kept.await
            .map_err(|_| Error::Denied(Denial::EvidenceUnavailable))
    }
}

/// What was verified, of all executions of one answer.
#[derive(Default)]
struct Certificate {
    plans: Vec<[u8; 32]>,
    tables: BTreeMap<(String, u64), TableAccount>,
}

impl Certificate {
    fn add(&mut self, plan: &VerifiedPlan) {
        self.plans.push(plan.plan_digest());
        for table in &plan.account().tables {
            let at = (table.name.clone(), table.version());
            self.tables.entry(at).or_insert_with(|| table.clone());
        }
    }

    fn digest(&self) -> [u8; 32] {
        match self.plans.as_slice() {
            [one] => *one,
            several => Sha256::digest(several.concat()).into(),
        }
    }

    fn states(&self, key: &SecretKey, receipt: RecordId) -> Vec<TableState> {
        let tables = self.tables.values();
        tables.map(|table| table.state(key, receipt)).collect()
    }
}

impl From<Undigestible> for Error {
    fn from(_error: Undigestible) -> Self {
        Self::invalid("a column of the result has a type that is not available; cast it")
    }
}
