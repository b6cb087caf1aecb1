//! An answer on its way out: rows, each of them digested, and after the last one the receipt.
//!
//! Invariant: there is no other way from a plan to its rows, and it ends with a receipt that is durable, or with an error.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use catalog::clock::Timestamp;
use catalog::guard::{Decision, Denial, Permit, Read};
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
use crate::receipt::{AnswerDigest, Digested, Receipt, SignedReceipt, Undigestible, hexadecimal};

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
        let plan_digest = self.certificate.digest();
        let answered_at = self.queries.clock().now();
        let receipt = self.certificate.receipt(
            (id, decision),
            &self.state_key,
            digest.finish(),
            answered_at,
        );
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
    tables: BTreeMap<String, TableAccount>,
}

impl Certificate {
    fn add(&mut self, plan: &VerifiedPlan) {
        self.plans.push(plan.plan_digest());
        for table in &plan.account().tables {
            let known = self.tables.entry(table.name.clone());
            let known = known.or_insert_with(|| table.clone());
            known.add(table);
        }
    }

    fn digest(&self) -> [u8; 32] {
        match self.plans.as_slice() {
            [one] => *one,
            several => Sha256::digest(several.concat()).into(),
        }
    }

    /// The receipt of this name, of an answer of these rows.
    fn receipt(
        &self,
        (id, decision): (RecordId, &Decision),
        state_key: &SecretKey,
        digested: Digested,
        answered_at: Timestamp,
    ) -> Receipt {
        let tables = self.tables.values();
        Receipt {
            id,
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            policy_version: decision.policy.version.clone(),
            mask_profile: decision.profile.name.clone(),
            rules: decision.basis.clone(),
            tables: tables
                .flat_map(|table| table.states(state_key, id))
                .collect(),
            plan_digest: hexadecimal(&self.digest()),
            rows: digested.rows,
            answer_digest: hexadecimal(&digested.digest),
            decided_at: decision.made_at,
            answered_at,
        }
    }
}

impl From<Undigestible> for Error {
    fn from(_error: Undigestible) -> Self {
        Self::invalid("a column of the result has a type that is not available; cast it")
    }
}

#[cfg(test)]
mod tests {
    use catalog::context::Role;

    use super::super::hidden_rows::{self, ROWS, UNSEEN};
    use super::super::source::Layout;
    use super::super::testing::{CANARY, Caller, ONE, OTHER, World, at, collect};
    use super::*;

    const STATEMENTS: &[&str] = &[
        "SELECT * FROM records ORDER BY record_id",
        "SELECT count(*), max(created_at) FROM records",
        "SELECT action, count(*) FROM records GROUP BY action ORDER BY action",
        "SELECT count(*) FROM records a JOIN records b ON a.action = b.action",
        "SELECT action FROM records WHERE action = 'Hidden.x'",
        "SELECT count(*) FROM (SELECT action FROM records UNION ALL SELECT 'x') u",
        "SELECT 1",
    ];

    /// A caller to whom a policy shows some rows only.
    fn restricted(world: World, role: Role, hidden: usize, layout: Layout) -> Caller {
        let caller = Caller::under(world, role, &hidden_rows::policy(ROWS));
        caller.over(hidden_rows::records(world, 12, hidden), layout)
    }

    /// The receipt of a statement that is executed once at each of these versions of its table.
    async fn receipt(caller: &Caller, sql: &str, versions: &[u64]) -> Receipt {
        let mut certificate = Certificate::default();
        let mut digest = None;
        for version in versions {
            caller.set_version(*version);
            let plan = caller.verified(caller.plan(sql).await.expect(sql));
            certificate.add(&plan);
            let schema = plan.schema();
            let digest = digest.get_or_insert_with(|| AnswerDigest::new(&schema).expect(sql));
            for batch in collect(plan).await.expect(sql) {
                digest.update(&batch).expect(sql);
            }
        }
        certificate.receipt(
            (
                RecordId::parse("01KDVDN0000000000000000001").unwrap(),
                caller.viewer.decision(),
            ),
            &SecretKey::new([3; 32]),
            digest.expect("an execution").finish(),
            at(1_000_001),
        )
    }

    /// The receipt without the words that stand for what a table has been through.
    fn opaque(mut receipt: Receipt, sql: &str) -> Receipt {
        for table in &mut receipt.tables {
            let is_opaque = table.state.len() == 34 && table.state.starts_with("o:");
            assert!(is_opaque, "{sql}: {}", table.state);
            table.state.clear();
        }
        receipt
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_receipt_tells_nothing_of_hidden_rows() {
        let secret = |world| World {
            foreign: 0,
            ..world
        };
        let (mixed, alone) = (Layout::Mixed, Layout::OneTenant);
        for (here, there) in [
            (
                restricted(ONE, Role::Reader, 1, mixed),
                restricted(OTHER, Role::Reader, 4, mixed),
            ),
            (
                restricted(secret(ONE), Role::Investigator, 0, alone),
                restricted(secret(ONE), Role::Investigator, 4, alone),
            ),
        ] {
            for sql in STATEMENTS {
                let one = opaque(receipt(&here, sql, &[1]).await, sql);
                let told = serde_json::to_string(&one).expect("text");
                assert!(!told.contains(UNSEEN) && !told.contains(CANARY), "{told}");
                let other = opaque(receipt(&there, sql, &[9]).await, sql);
                assert_eq!(one, other, "{sql}");
                // Of rows that came and went between two executions there is no more to see than of one version.
                let still = opaque(receipt(&here, sql, &[3, 3]).await, sql);
                let moved = opaque(receipt(&here, sql, &[3, 4]).await, sql);
                assert_eq!(still, moved, "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn a_receipt_tells_who_sees_every_row_which_versions_were_read() {
        let caller = Caller::new(ONE, Role::Investigator);
        let told = receipt(&caller, STATEMENTS[0], &[3, 3, 4]).await.tables;
        let states: Vec<_> = told.iter().map(|table| table.state.as_str()).collect();
        assert_eq!(states, ["v3", "v4"]);
    }
}
