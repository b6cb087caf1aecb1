//! Receipts where they are kept: with the evidence of the answer, in the tenant's evidence table.
//!
//! Evidence reaches its table a second or so after it is durable. For that time, and a while longer, the process that made
//! a receipt has it at hand; another one finds it when it is in the table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use catalog::clock::Clock;
use catalog::evidence::{Evidence, EvidenceEntry, EvidenceUnavailable, Exhibit};
use catalog::guard::{Decision, Permit, Read};
use catalog::ids::{CorrelationId, RecordId, TenantId};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;
use moka::sync::Cache;
use serde::Deserialize;
use serde_json::json;

use super::SignedReceipt;
use crate::table::{self, ScanRequest, TableKind, Tables};

/// The act in evidence.
const ANSWERED: &str = "Query.Answered";
/// What an exhibit that is a receipt is called.
const RECEIPT: &str = "Receipt";
/// How long, and how many of them, are at hand beside the table.
const AT_HAND: Duration = Duration::from_secs(600);
const AT_HAND_MAX: u64 = 20_000;
/// No answer takes longer: the key that signs its receipt would have ended.
const ANSWER_MICROS_MAX: i64 = 24 * 3_600 * 1_000_000;
/// How far the clocks of two nodes may be apart.
const CLOCKS_MICROS_MAX: i64 = 600 * 1_000_000;
/// How far back a request is looked for by its correlation id.
const REQUESTS_BACK: Duration = Duration::from_secs(24 * 3_600);
/// Receipts of one request that are given.
const OF_REQUEST_MAX: usize = 100;
const COLUMNS: &[&str] = &[
    "action",
    "actor_id",
    "resource_id",
    "correlation_id",
    "context",
];

/// Receipts by name, and what they are sought by.
type Found = BTreeMap<RecordId, (String, Arc<SignedReceipt>)>;

/// Keeps receipts, and finds them again.
pub struct Receipts {
    evidence: Arc<dyn Evidence>,
    tables: Arc<Tables>,
    clock: Arc<dyn Clock>,
    at_hand: Cache<(TenantId, RecordId), Arc<Kept>>,
}

struct Kept {
    subject: String,
    correlation: CorrelationId,
    receipt: Arc<SignedReceipt>,
}

/// The context of the evidence of an answer.
#[derive(Deserialize)]
struct Context {
    receipt: SignedReceipt,
}

impl Receipts {
    /// Receipts as part of this evidence, in these tables.
    pub fn new(evidence: Arc<dyn Evidence>, tables: Arc<Tables>, clock: Arc<dyn Clock>) -> Self {
        Self {
            evidence,
            tables,
            clock,
            at_hand: Cache::builder()
                .max_capacity(AT_HAND_MAX)
                .time_to_live(AT_HAND)
                .build(),
        }
    }

    /// Makes the receipt of an answer durable.
    ///
    /// # Errors
    /// When it is not; the answer must not end well then.
    pub(crate) async fn keep(
        &self,
        decision: &Decision,
        plan_digest: [u8; 32],
        signed: SignedReceipt,
    ) -> Result<Arc<SignedReceipt>, EvidenceUnavailable> {
        let receipt = signed.receipt();
        let basis = vec![
            format!("Decision.{}", receipt.id),
            format!("Rows.{}", receipt.rows),
            format!("Answer.sha256:{}", receipt.answer_digest),
        ];
        let entry = EvidenceEntry {
            basis: decision.basis.iter().cloned().chain(basis).collect(),
            plan_digest: Some(plan_digest),
            exhibit: Some(Exhibit {
                kind: RECEIPT,
                id: receipt.id.to_string(),
                document: json!({ "receipt": signed }).to_string(),
            }),
            ts: receipt.answered_at,
            ..decision.entry(ANSWERED)
        };
        self.evidence.record(entry).await?;
        let at = (decision.tenant.clone(), receipt.id);
        let kept = Arc::new(signed);
        self.at_hand.insert(
            at,
            Arc::new(Kept {
                subject: decision.subject.clone(),
                correlation: decision.correlation.clone(),
                receipt: Arc::clone(&kept),
            }),
        );
        Ok(kept)
    }

    /// The receipt of this name, if it is one of the caller's, or of anybody's in the tenant for those who see evidence.
    ///
    /// # Errors
    /// When the evidence cannot be read.
    pub async fn find(
        &self,
        permit: &Permit<Read>,
        id: RecordId,
    ) -> Result<Option<Arc<SignedReceipt>>, table::Error> {
        let decision = permit.decision();
        if let Some(kept) = self.at_hand.get(&(decision.tenant.clone(), id)) {
            let is_theirs = may_have(decision, &kept.subject);
            return Ok(is_theirs.then(|| Arc::clone(&kept.receipt)));
        }
        let made = i64::try_from(id.timestamp_millis()).unwrap_or(i64::MAX / 1_000);
        let made = made.saturating_mul(1_000);
        let sought = col("resource_id").eq(lit(id.to_string())).and(between(
            made.saturating_sub(CLOCKS_MICROS_MAX),
            made.saturating_add(ANSWER_MICROS_MAX + CLOCKS_MICROS_MAX),
        ));
        let found = self.scan(decision, &sought).await?;
        Ok(found.get(&id).map(|(_, receipt)| Arc::clone(receipt)))
    }

    /// The receipts of a request of the last day, the newest first; those that the caller may have.
    ///
    /// # Errors
    /// When the evidence cannot be read.
    pub async fn of_request(
        &self,
        permit: &Permit<Read>,
        correlation: &CorrelationId,
    ) -> Result<Vec<Arc<SignedReceipt>>, table::Error> {
        let decision = permit.decision();
        let now = self.clock.now();
        let since = now.minus(REQUESTS_BACK).as_micros();
        let until = now.as_micros().saturating_add(CLOCKS_MICROS_MAX);
        let sought = col("correlation_id").eq(lit(correlation.as_str()));
        let mut found = self
            .scan(decision, &sought.and(between(since, until)))
            .await?;
        found.retain(|_, (of, _)| of == correlation.as_str());
        for (at, kept) in &self.at_hand {
            let (tenant, id) = &*at;
            let is_sought = *tenant == decision.tenant && kept.correlation == *correlation;
            if is_sought && may_have(decision, &kept.subject) {
                let of = correlation.as_str().to_owned();
                found.insert(*id, (of, Arc::clone(&kept.receipt)));
            }
        }
        let newest_first = found.into_values().rev();
        Ok(newest_first
            .map(|(_, receipt)| receipt)
            .take(OF_REQUEST_MAX)
            .collect())
    }

    /// At least the receipts in the evidence table that the predicate selects; none that the caller may not have.
    async fn scan(&self, decision: &Decision, sought: &Expr) -> Result<Found, table::Error> {
        let (tenant, silo) = (&decision.tenant, &decision.silo);
        let table = self.tables.table(tenant, silo, TableKind::Evidence).await?;
        let state = table.state().await?;
        let mut found = Found::new();
        if state.file_count() == 0 {
            return Ok(found);
        }
        let schema = DFSchema::try_from(Arc::clone(&state.schema)).map_err(|_| misread())?;
        let predicate = create_physical_expr(
            sought,
            &schema,
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        );
        let index = |name: &&str| state.schema.index_of(name).ok();
        let request = ScanRequest {
            projection: COLUMNS.iter().filter_map(index).collect(),
            predicate: Some(predicate.map_err(|_| misread())?),
            target_partitions: 1,
        };
        let plan = table.scan(Arc::clone(&state), request).await?;
        let mut batches =
            execute_stream(plan, Arc::new(TaskContext::default())).map_err(|_| misread())?;
        while let Some(batch) = batches.try_next().await.map_err(|_| misread())? {
            for row in 0..batch.num_rows() {
                if let Some((correlation, signed)) = receipt_of(decision, &batch, row)? {
                    found.insert(signed.receipt().id, (correlation, Arc::new(signed)));
                }
            }
        }
        Ok(found)
    }
}

/// Whose receipts a caller may have.
fn may_have(decision: &Decision, subject: &str) -> bool {
    decision.subject == subject || decision.may_see_evidence
}

fn between(since: i64, until: i64) -> Expr {
    let at = |micros| {
        lit(ScalarValue::TimestampMicrosecond(
            Some(micros),
            Some("UTC".into()),
        ))
    };
    let created = || col("created_at");
    created().gt_eq(at(since)).and(created().lt_eq(at(until)))
}

fn receipt_of(
    decision: &Decision,
    batch: &RecordBatch,
    row: usize,
) -> Result<Option<(String, SignedReceipt)>, table::Error> {
    let text = |name: &str| {
        let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let is_answer = text("action").and_then(|action| action.strip_prefix("decision."));
    if is_answer != Some(ANSWERED) || !text("actor_id").is_some_and(|who| may_have(decision, who)) {
        return Ok(None);
    }
    let context: Context =
        serde_json::from_str(text("context").unwrap_or_default()).map_err(|_| misread())?;
    let named = text("resource_id") == Some(&*context.receipt.receipt().id.to_string());
    if named {
        let correlation = text("correlation_id").unwrap_or_default().to_owned();
        Ok(Some((correlation, context.receipt)))
    } else {
        Err(misread())
    }
}

fn misread() -> table::Error {
    table::Error::Tampered {
        what: "receipts cannot be read back",
    }
}

impl fmt::Debug for Receipts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipts").finish_non_exhaustive()
    }
}
