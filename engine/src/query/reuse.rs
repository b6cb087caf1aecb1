//! Answers that are given again: a dashboard that asks the same twice in a moment is answered from memory.
//!
//! **Whose.** The same caller's, in the same roles, under the same policy and masks, of the same statement and parameters,
//! over the same version of the records. The guard decides each time and the plan is made and verified each time;
//! evidence and receipt are those of any answer. Only the execution is left out.
//!
//! **Not kept**: what a row policy had a part in, what reads another table than the records, what a clock or chance goes
//! into, and what is large. Whoever adds a field to [`Decision`] is made to say here whether it matters.
//!
//! **Bounds.** [`HELD_BYTES_MAX`] in all, [`ANSWER_BYTES_MAX`] each, and a moment: what a policy, a key or a schema no
//! longer allows is not given for longer than that.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use catalog::guard::{Decision, OperationKind};
use datafusion::common::ParamValues;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::DefaultTableSource;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, Volatility};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::error::Error;
use super::guarded::GuardedTable;
use super::sanitize;
use super::table_name::TableName;

/// Bytes of all answers that are kept.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Bytes of the largest answer that is kept.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The answers of a process that may be given again.
pub(crate) struct Reuse {
    /// How long each is kept; zero for not at all.
    time: Duration,
    held: Mutex<HashMap<[u8; 32], Answer>>,
}

struct Answer {
    decision: Arc<Decision>,
    batches: Vec<RecordBatch>,
    bytes: usize,
    ends: Instant,
}

/// The place of one answer among them.
pub(crate) struct Slot {
    reuse: Arc<Reuse>,
    key: [u8; 32],
    decision: Arc<Decision>,
}

impl Reuse {
    /// Keeps each answer for this long.
    pub(crate) fn new(time: Duration) -> Self {
        Self {
            time,
            held: Mutex::default(),
        }
    }

    /// The place of the answer of a verified plan, if it may be given again.
    pub(crate) fn slot(
        self: &Arc<Self>,
        decision: &Arc<Decision>,
        (sql, parameters): (&str, Option<&ParamValues>),
        plan: &LogicalPlan,
    ) -> Result<Option<Slot>, Error> {
        let is_plain = decision.operation == OperationKind::Read
            && decision.rows.is_none()
            && decision.target.is_none();
        if self.time.is_zero() || !is_plain {
            return Ok(None);
        }
        let version = version_of(plan).map_err(sanitize::own)?;
        Ok(version.map(|version| Slot {
            reuse: Arc::clone(self),
            key: key(decision, sql, parameters, version),
            decision: Arc::clone(decision),
        }))
    }

    fn get(&self, slot: &Slot) -> Option<Vec<RecordBatch>> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = held.get(&slot.key)?;
        let is_theirs = is_same(&answer.decision, &slot.decision);
        (is_theirs && Instant::now() < answer.ends).then(|| answer.batches.clone())
    }

    fn put(&self, slot: &Slot, batches: Vec<RecordBatch>, bytes: usize) {
        let now = Instant::now();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, answer| now < answer.ends);
        held.remove(&slot.key);
        let kept: usize = held.values().map(|answer| answer.bytes).sum();
        if kept + bytes > HELD_BYTES_MAX {
            return;
        }
        let answer = Answer {
            decision: Arc::clone(&slot.decision),
            batches,
            bytes,
            ends: now + self.time,
        };
        held.insert(slot.key, answer);
    }
}

impl Slot {
    /// The rows that were given a moment ago.
    pub(super) fn rows(&self) -> Option<Vec<RecordBatch>> {
        self.reuse.get(self)
    }

    /// The same rows, which are kept when the last of them was given.
    pub(super) fn keeping(self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        let schema = rows.schema();
        let keeping = Keeping {
            rows,
            kept: Some((self, Vec::new(), 0)),
        };
        let rows = stream::unfold(keeping, |mut keeping| async move {
            let batch = keeping.next().await?;
            Some((batch, keeping))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

struct Keeping {
    rows: SendableRecordBatchStream,
    /// What there is so far, until it is too much.
    kept: Option<(Slot, Vec<RecordBatch>, usize)>,
}

impl Keeping {
    async fn next(&mut self) -> Option<Result<RecordBatch, DataFusionError>> {
        let batch = self.rows.next().await;
        let kept = self.kept.take();
        match (&batch, kept) {
            (Some(Ok(batch)), Some((slot, mut batches, bytes))) => {
                let bytes = bytes + batch.get_array_memory_size();
                if bytes <= ANSWER_BYTES_MAX {
                    batches.push(batch.clone());
                    self.kept = Some((slot, batches, bytes));
                }
            }
            (None, Some((slot, batches, bytes))) => slot.reuse.put(&slot, batches, bytes),
            _ => {}
        }
        batch
    }
}

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reuse").finish_non_exhaustive()
    }
}

/// Whether two decisions show their callers the same.
fn is_same(one: &Decision, other: &Decision) -> bool {
    let Decision {
        // What differs from request to request and is in no row.
        id: _,
        basis: _,
        correlation: _,
        expires_at: _,
        made_at: _,
        stream: _,
        tenant,
        target,
        silo,
        operation,
        subject,
        client,
        roles,
        scopes,
        profile,
        rows,
        policy,
        attributes,
        may_see_quarantine,
        may_see_evidence,
    } = one;
    *tenant == other.tenant
        && *target == other.target
        && *silo == other.silo
        && *operation == other.operation
        && *subject == other.subject
        && *client == other.client
        && *roles == other.roles
        && *scopes == other.scopes
        && *profile == other.profile
        && *rows == other.rows
        && policy.version == other.policy.version
        && policy.digest == other.policy.digest
        && *attributes == other.attributes
        && *may_see_quarantine == other.may_see_quarantine
        && *may_see_evidence == other.may_see_evidence
}

fn key(decision: &Decision, sql: &str, parameters: Option<&ParamValues>, version: u64) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in [
        decision.tenant.as_str(),
        decision.silo.as_str(),
        &decision.subject,
        &format!("{:?}", decision.roles),
        sql,
        &format!("{parameters:?}"),
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.update(version.to_be_bytes());
    digest.finalize().into()
}

/// The version of the records that a plan reads, if it reads nothing else and gives the same rows each time.
fn version_of(plan: &LogicalPlan) -> Result<Option<u64>, DataFusionError> {
    let (mut version, mut is_steady) = (None, true);
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let read = records_version(scan);
            is_steady &= read.is_some() && version.is_none_or(|version| Some(version) == read);
            version = read;
        }
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                is_steady &= !changes(part);
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(version.filter(|_| is_steady))
}

fn records_version(scan: &TableScan) -> Option<u64> {
    let source = (scan.source.as_ref() as &dyn Any).downcast_ref::<DefaultTableSource>()?;
    let table = source.table_provider.as_ref() as &dyn Any;
    let table = table.downcast_ref::<GuardedTable>()?;
    (table.table() == TableName::Records).then(|| table.version())
}

/// Whether a function may say something else a moment later.
fn changes(expression: &Expr) -> bool {
    let volatility = match expression {
        Expr::ScalarFunction(call) => call.func.signature().volatility,
        Expr::AggregateFunction(call) => call.func.signature().volatility,
        Expr::WindowFunction(call) => call.fun.signature().volatility,
        Expr::ScalarVariable(..) => Volatility::Volatile,
        _ => Volatility::Immutable,
    };
    volatility != Volatility::Immutable
}

#[cfg(test)]
mod tests {
    use catalog::context::Role;

    use super::super::hidden_rows;
    use super::super::source::Layout;
    use super::super::testing::{Caller, ONE, numbered_records};
    use super::*;

    const COUNT: &str = "SELECT count(*) AS n, max(action) AS a FROM records";

    fn keeping(caller: Caller) -> Caller {
        let reuse = Arc::new(Reuse::new(Duration::from_secs(60)));
        Caller { reuse, ..caller }.over(numbered_records(ONE, 0..3), Layout::Mixed)
    }

    /// The same caller when the table has other rows, which only an answer that is made anew can show.
    fn later(caller: Caller) -> Caller {
        caller.over(numbered_records(ONE, 0..8), Layout::Mixed)
    }

    #[tokio::test]
    async fn the_same_question_of_the_same_state_is_answered_once() {
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        let first = caller.shows(COUNT).await;
        let caller = later(caller);
        assert_eq!(caller.shows(COUNT).await, first);
        // Other words are another question, and after a commit all are.
        let other = caller.shows(&format!("{COUNT} ")).await;
        assert_ne!(other, first);
        caller.set_version(2);
        assert_eq!(caller.shows(COUNT).await, other);
    }

    #[tokio::test]
    async fn parameters_are_part_of_the_question() {
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        let sql = "SELECT $1 AS n, count(*) AS c FROM records";
        let ask = async |value: datafusion::common::ScalarValue| {
            let rows = caller.rows_with(sql, Some(vec![value].into())).await;
            format!("{:?}", rows.expect(sql))
        };
        let one = ask(1_i64.into()).await;
        assert_ne!(ask(2_i64.into()).await, one);
        assert_ne!(ask("1".into()).await, one);
        assert_eq!(ask(1_i64.into()).await, one);
    }

    #[tokio::test]
    async fn an_answer_is_given_for_a_moment() {
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        let reuse = Arc::new(Reuse::new(Duration::from_millis(1)));
        let caller = Caller { reuse, ..caller };
        let first = caller.shows(COUNT).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert_ne!(later(caller).shows(COUNT).await, first);
    }

    #[tokio::test]
    async fn nobody_is_given_what_another_was() {
        let one = keeping(Caller::new(ONE, Role::Investigator));
        let sql = "SELECT actor_id FROM records ORDER BY record_id";
        let clear = one.shows(sql).await;
        let other = |caller: Caller| {
            let reuse = Arc::clone(&one.reuse);
            later(Caller { reuse, ..caller })
        };
        let reader = other(Caller::new(ONE, Role::Reader)).shows(sql).await;
        assert!(clear.contains("canary") && !reader.contains("canary"));
        let admin = other(Caller::new(ONE, Role::AuditAdmin));
        assert_ne!(admin.shows(sql).await, clear);
        assert_eq!(
            other(Caller::new(ONE, Role::Investigator)).shows(sql).await,
            clear
        );
    }

    /// Each field of a decision but those of the request alone.
    #[test]
    fn decisions_are_compared_field_by_field() {
        let decision = Caller::new(ONE, Role::Reader);
        let decision = decision.viewer.decision().as_ref().clone();
        let changed = |change: fn(&mut Decision)| {
            let mut other = decision.clone();
            change(&mut other);
            is_same(&decision, &other)
        };
        assert!(changed(|other| other.id = [1; 32]));
        let changes: [fn(&mut Decision); 9] = [
            |other| other.subject.push('x'),
            |other| other.client = Some("x".to_owned()),
            |other| other.roles = [Role::AuditAdmin].into(),
            |other| other.attributes.org_unit = None,
            |other| other.operation = OperationKind::QuarantineRead,
            |other| Arc::make_mut(&mut other.profile).fields.clear(),
            |other| Arc::make_mut(&mut other.policy).digest = [1; 32],
            |other| other.may_see_evidence ^= true,
            |other| other.may_see_quarantine ^= true,
        ];
        for (n, change) in changes.into_iter().enumerate() {
            assert!(!changed(change), "{n}");
        }
    }

    #[tokio::test]
    async fn what_may_be_otherwise_a_moment_later_is_not_kept() {
        for sql in [
            "SELECT count(*) AS n, now() > max(created_at) AS t FROM records",
            "SELECT count(*) AS n FROM records WHERE created_at < current_timestamp",
            "SELECT (SELECT count(*) FROM records) AS n, current_date IS NULL AS t",
            "SELECT count(*) AS n FROM records, information_schema.tables",
        ] {
            let caller = keeping(Caller::new(ONE, Role::Investigator));
            let first = caller.shows(sql).await;
            assert_ne!(later(caller).shows(sql).await, first, "{sql}");
        }
        let caller = Caller::under(ONE, Role::Reader, &hidden_rows::policy(hidden_rows::ROWS));
        let caller = keeping(caller);
        let planned = caller.plan(COUNT).await.expect(COUNT);
        assert!(planned.slot.is_none());
    }

    #[tokio::test]
    async fn what_was_not_read_to_its_end_or_is_large_is_not_kept() {
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        let planned = caller.plan(COUNT).await.expect(COUNT);
        let mut rows = caller.verified(planned).execute().expect("rows");
        assert!(rows.next().await.is_some());
        drop(rows);
        let first = later(caller).shows(COUNT).await;
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        assert_ne!(caller.shows(COUNT).await, first);

        // Three rows seven times over, of a thousand characters each.
        let large = "SELECT repeat('x', 1000) AS n FROM records, records b, records c, records d, records e, \
                     records f, records g";
        let caller = keeping(Caller::new(ONE, Role::Investigator));
        let rows = caller.rows(large).await.expect(large);
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 2_187);
        assert!(caller.reuse.held.lock().unwrap().is_empty());
    }
}
