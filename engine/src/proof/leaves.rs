//! The leaves of records that a caller was given, opened as far as that caller sees them: what a bundle proves its rows by.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use catalog::clock::Timestamp;
use catalog::guard::{Decision, Permit, Read};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::{PhysicalExpr, conjunction, expressions};
use datafusion::physical_plan::{ExecutionPlan, execute_stream_partitioned};
use futures::{TryStreamExt, stream};
use tokio::task::{JoinError, JoinSet};

use super::showing::Showing;
use super::{Error, LogName, Logs};
use crate::record::evolve::Evolution;
use crate::record::layout::Layout;
use crate::record::views_of;
use crate::seal::opened::parts_of;
use crate::table::{self, ScanRequest, TableKind, TableState};

/// Streams of the table that are read side by side.
const PARTITIONS: usize = 2;
/// Batches whose leaves are opened side by side.
const OPENED_AT_ONCE: usize = 4;

/// The place of a leaf, and its parts as `seal::opened` writes them.
type Parts = HashMap<u64, Vec<u8>>;

impl Logs {
    /// Whether records of the tenant are upcast when they are read, so that what a caller sees is not what a leaf has.
    ///
    /// # Errors
    /// If the tenant's schemas cannot be read.
    pub(crate) async fn are_upcast(&self, decision: &Decision) -> Result<bool, Error> {
        let schemas = self.schemas.of(decision).await?;
        Ok(Evolution::of(&schemas).is_some())
    }

    /// The leaves at these places, in their order, with the values that the caller sees as they are stored. All of them
    /// are of records that were created between the two moments.
    ///
    /// # Errors
    /// If table, keys or store are out of reach; and if one of them is not there, which is an alarm.
    pub(crate) async fn opened(
        &self,
        permit: &Permit<Read>,
        log: &LogName,
        (first, last): (Timestamp, Timestamp),
        places: &[u64],
    ) -> Result<Vec<Vec<u8>>, Error> {
        let decision = permit.decision();
        if decision.rows.is_some() {
            return Err(Error::tampered("leaves were asked for under a row policy"));
        }
        let (Some(lowest), Some(highest)) = (places.iter().min(), places.iter().max()) else {
            return Ok(Vec::new());
        };
        let table = self
            .tables
            .table(&log.tenant, &log.silo, TableKind::Records);
        let table = table.await?;
        let state = table.state().await?;
        let bounds = (first, last, *lowest, *highest);
        let request = ScanRequest {
            projection: (0..state.schema.fields().len()).collect(),
            predicate: Some(sought(&state, log, bounds)?),
            target_partitions: PARTITIONS,
        };
        let plan = table.scan(state, request).await?;
        let evolves = self.are_upcast(decision).await?;
        let wanted: Arc<HashSet<u64>> = Arc::new(places.iter().copied().collect());
        let mut found = self.read(plan, decision, &wanted, evolves).await?;
        let missing = || Error::tampered("a record that a query gave is not in the table");
        let in_order = places.iter().map(|at| found.remove(at).ok_or_else(missing));
        in_order.collect()
    }

    async fn read(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        decision: &Arc<Decision>,
        wanted: &Arc<HashSet<u64>>,
        evolves: bool,
    ) -> Result<Parts, Error> {
        let context = Arc::new(TaskContext::default());
        let partitions = execute_stream_partitioned(plan, context).map_err(|_| unread())?;
        let mut batches = stream::select_all(partitions);
        let (mut opening, mut found) = (JoinSet::new(), Parts::new());
        while let Some(batch) = batches.try_next().await.map_err(|_| unread())? {
            let (decision, wanted) = (Arc::clone(decision), Arc::clone(wanted));
            opening.spawn_blocking(move || open(&batch, &decision, &wanted, evolves));
            while opening.len() > OPENED_AT_ONCE {
                found.extend(opened(opening.join_next().await)?);
            }
        }
        while !opening.is_empty() {
            found.extend(opened(opening.join_next().await)?);
        }
        Ok(found)
    }
}

fn opened(joined: Option<Result<Result<Parts, Error>, JoinError>>) -> Result<Parts, Error> {
    joined.ok_or_else(unread)?.map_err(|_| unread())?
}

fn open(
    batch: &RecordBatch,
    decision: &Decision,
    wanted: &HashSet<u64>,
    evolves: bool,
) -> Result<Parts, Error> {
    let unfit = || Error::tampered("a row of the table is no record");
    let mut parts = Parts::new();
    let showing = Showing::new(decision, evolves);
    // Those of a table are mostly the same.
    let mut known: Option<(&str, Layout<'_>)> = None;
    for record in views_of(batch).map_err(|_| unread())? {
        let record = record.map_err(|_| unread())?;
        let place = record
            .leaf_index
            .and_then(|place| u64::try_from(place).ok());
        let place = place.ok_or_else(unfit)?;
        if !wanted.contains(&place) {
            continue;
        }
        if known
            .as_ref()
            .is_none_or(|(text, _)| *text != record.leaf_layout)
        {
            let layout = Layout::parse(record.leaf_layout).map_err(|_| unfit())?;
            known = Some((record.leaf_layout, layout));
        }
        let Some((_, layout)) = &known else { continue };
        let opened = parts_of(&record, layout, |part, value| showing.shows(part, value));
        parts.insert(place, opened.map_err(|_| unfit())?);
    }
    Ok(parts)
}

/// Rows of the log between these moments and places.
fn sought(
    state: &TableState,
    log: &LogName,
    (first, last, lowest, highest): (Timestamp, Timestamp, u64, u64),
) -> Result<Arc<dyn PhysicalExpr>, Error> {
    let schema = &state.schema;
    let is = |column, operator, value: ScalarValue| {
        let column = expressions::col(column, schema)?;
        expressions::binary(column, operator, expressions::lit(value), schema)
    };
    let moment = |moment: Timestamp| {
        ScalarValue::TimestampMicrosecond(Some(moment.as_micros()), Some("UTC".into()))
    };
    let place = |place: u64| ScalarValue::Int64(i64::try_from(place).ok());
    let all = || {
        Ok::<_, DataFusionError>(conjunction([
            is(
                "stream",
                Operator::Eq,
                ScalarValue::from(log.stream.as_str()),
            )?,
            is("created_at", Operator::GtEq, moment(first))?,
            is("created_at", Operator::LtEq, moment(last))?,
            is("leaf_index", Operator::GtEq, place(lowest))?,
            is("leaf_index", Operator::LtEq, place(highest))?,
        ]))
    };
    all().map_err(|_| unread())
}

fn unread() -> Error {
    Error::Table(table::Error::Tampered {
        what: "a record cannot be read back",
    })
}
