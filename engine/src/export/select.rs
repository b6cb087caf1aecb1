//! The records of an export: guarded queries, slice by slice of time, in the order of the bundle.
//!
//! ```text
//! pin ──▶ count by hour, minute, second ──▶ slices of some ten thousand records ──▶ one ordered query each
//! ```
//! A slice is sorted by itself, so that no sort is larger than one, and a run that was cut off goes on at the slice that
//! its last chunk ended in. What an export has in it is **pinned** when it begins: the leaves that the log had, or for callers under
//! a row policy the records up to the newest that they see (record ids ascend within a tenant). Records that come in later
//! are in no slice, whenever that is read.
//!
//! Every slice is decided, planned, verified and put into evidence as any query, by what the caller was when they asked.

use std::future::ready;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use catalog::clock::{Clock, Timestamp};
use catalog::guard::{Export, Gate, Permit, Request};
use catalog::ids::RecordId;
use datafusion::common::ParamValues;
use futures::{StreamExt, TryStreamExt};

use super::asked::sight;
use super::error::{Error, slug};
use super::job::{Job, Pinned};
use crate::proof::{LogName, Logs};
use crate::query::listing::{Bound, COLUMNS, selected};
use crate::query::{AnswerStream, Further, Part, Queries, strip_literals};

/// Records of one slice, where time can be cut so finely; and those that are worked on at a time.
pub(super) const SLICE_RECORDS: u64 = 32_768;
/// The units that time is cut by, and their length in microseconds.
const UNITS: [(&str, i64); 3] = [
    ("hour", 3_600_000_000),
    ("minute", 60_000_000),
    ("second", 1_000_000),
];
/// The place of a record's leaf: of callers from whom no row is hidden.
pub(super) const LEAF_INDEX: &str = "leaf_index";

/// What reads for one export.
#[derive(Clone)]
pub(super) struct Selection {
    pub(super) queries: Arc<Queries>,
    pub(super) logs: Arc<Logs>,
    pub(super) gate: Arc<Gate>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) job: Arc<Job>,
}

/// A piece of time, and how many records it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) records: u64,
}

/// Where in the order of the bundle a record stands.
pub(super) type Place = (Timestamp, RecordId);

impl Selection {
    /// Decides anew whether the export may go on, and as what.
    pub(super) async fn permit(&self) -> Result<Permit<Export>, Error> {
        let (job, mandate) = (&self.job, &self.job.mandate);
        let request = Request::at(mandate.silo().clone()).with_stream(job.asked.stream.clone());
        let permit = self.gate.resume::<Export>(mandate, request).await?;
        let decision = permit.decision();
        if decision.policy.version != job.policy_version || sight(decision) != job.sight {
            return Err(Error::PolicyStale);
        }
        Ok(permit)
    }

    /// Fixes what the export has in it.
    pub(super) async fn pin(&self) -> Result<Pinned, Error> {
        let permit = self.permit().await?;
        let decision = permit.decision();
        let mut pinned = Pinned {
            at: self.clock.now(),
            tree_size: None,
            checkpoint: None,
            until: None,
            records: 0,
            is_upcast: self.logs.are_upcast(decision).await?,
        };
        if decision.rows.is_none() {
            let checkpoint = self.logs.checkpoint(&self.log()).await?;
            let size = checkpoint
                .as_ref()
                .map_or(0, |signed| signed.checkpoint().size);
            pinned.tree_size = Some(size);
            pinned.checkpoint = checkpoint.map(|signed| signed.to_text());
        } else {
            pinned.until = self.newest(&permit).await?;
        }
        Ok(pinned)
    }

    pub(super) fn log(&self) -> LogName {
        LogName {
            tenant: self.job.mandate.tenant().clone(),
            silo: self.job.mandate.silo().clone(),
            stream: self.job.asked.stream.clone(),
        }
    }

    async fn newest(&self, permit: &Permit<Export>) -> Result<Option<RecordId>, Error> {
        let mut bound = Bound::default();
        let tests = self.conditions(permit, None, &mut bound);
        let sql = selected("max(record_id) AS newest", &tests);
        let rows: Vec<_> = self
            .answer(permit, sql, bound.into_parameters())
            .await?
            .try_collect()
            .await?;
        let newest = rows.iter().find_map(|part| match part {
            Part::Rows(batch) => text_at(batch, "newest", 0),
            Part::Receipt(_) => None,
        });
        let parsed = newest.map(|id| RecordId::parse(&id).map_err(|_| Error::Internal));
        parsed.transpose()
    }

    /// The pieces that the records are read in, in order. Those of a pinned export are the same each time.
    pub(super) async fn slices(&self, pinned: &Pinned) -> Result<Vec<Slice>, Error> {
        let mut open = vec![(None, 0)];
        let mut slices = Vec::new();
        while let Some((within, unit)) = open.pop() {
            let counted = self.counted(pinned, within, unit).await?;
            for slice in counted {
                match slices.last_mut() {
                    _ if slice.records > SLICE_RECORDS && unit + 1 < UNITS.len() => {
                        open.push((Some(slice), unit + 1));
                    }
                    Some(before) if is_joined(before, &slice) => {
                        before.until = slice.until;
                        before.records += slice.records;
                    }
                    _ => slices.push(slice),
                }
            }
        }
        slices.sort_unstable_by_key(|slice: &Slice| slice.from);
        Ok(slices)
    }

    /// How many records each unit of time has.
    async fn counted(
        &self,
        pinned: &Pinned,
        within: Option<Slice>,
        unit: usize,
    ) -> Result<Vec<Slice>, Error> {
        let (name, length) = UNITS[unit];
        let permit = self.permit().await?;
        let mut bound = Bound::default();
        let stream = bound.text(self.job.asked.stream.as_str());
        let pin = match (pinned.tree_size, pinned.until) {
            (Some(size), _) => {
                let size = bound.number(i64::try_from(size).unwrap_or(i64::MAX));
                format!("{LEAF_INDEX} < {size}")
            }
            (None, Some(until)) => format!("record_id <= {}", bound.text(&until.to_string())),
            (None, None) => return Ok(Vec::new()),
        };
        let tests = self.conditions(&permit, within, &mut bound);
        let columns = format!(
            "date_trunc('{name}', created_at) AS begin, \
             sum(CASE WHEN stream = {stream} AND {pin} THEN 1 ELSE 0 END) AS records"
        );
        let sql =
            selected(&columns, &tests) + &format!(" GROUP BY date_trunc('{name}', created_at)");
        let mut answer = self.answer(&permit, sql, bound.into_parameters()).await?;
        let mut slices = Vec::new();
        while let Some(part) = answer.try_next().await? {
            let Part::Rows(batch) = part else { continue };
            let begin = column::<TimestampMicrosecondType>(&batch, "begin")?;
            let records = column::<Int64Type>(&batch, "records")?;
            for (begin, records) in begin.iter().zip(records) {
                let records = records.and_then(|records| u64::try_from(records).ok());
                let (Some(begin), Some(records)) = (begin, records) else {
                    return Err(Error::Internal);
                };
                if records > 0 {
                    slices.push(self.bounded(begin, begin.saturating_add(length), records));
                }
            }
        }
        slices.sort_unstable_by_key(|slice| slice.from);
        Ok(slices)
    }

    /// A slice within the range of the export.
    fn bounded(&self, begin: i64, end: i64, records: u64) -> Slice {
        let (from, until) = (Timestamp::from_micros(begin), Timestamp::from_micros(end));
        let asked = &self.job.asked;
        Slice {
            from: asked.from.map_or(from, |bound| bound.max(from)),
            until: asked.until.map_or(until, |bound| bound.min(until)),
            records,
        }
    }

    /// The records of a slice that stand behind a place, in order, as the caller sees them.
    pub(super) async fn records(
        &self,
        pinned: &Pinned,
        slice: Slice,
        after: Option<Place>,
    ) -> Result<impl futures::Stream<Item = Result<RecordBatch, Error>> + use<>, Error> {
        let permit = self.permit().await?;
        let mut bound = Bound::default();
        let tests = self.conditions(&permit, Some(slice), &mut bound);
        let columns = columns(pinned.tree_size.is_some()).join(", ");
        let sql = selected(&columns, &tests) + " ORDER BY created_at, record_id";
        let answer = self.answer(&permit, sql, bound.into_parameters()).await?;
        let stream = self.job.asked.stream.to_string();
        let pin = Pin {
            tree_size: pinned.tree_size,
            until: pinned.until.map(|id| id.to_string()),
            after: after.map(|(moment, id)| (moment.as_micros(), id.to_string())),
            stream,
        };
        Ok(answer.filter_map(move |part| {
            let kept = match part {
                Ok(Part::Rows(batch)) => Some(pin.kept(&batch)),
                Ok(Part::Receipt(_)) => None,
                Err(error) => Some(Err(error.into())),
            };
            ready(kept)
        }))
    }

    /// What holds for the records. The stream is left out where the policy lets nobody select by it: then all streams are
    /// read, and those of others left out here.
    fn conditions(
        &self,
        permit: &Permit<Export>,
        within: Option<Slice>,
        bound: &mut Bound,
    ) -> Vec<String> {
        let mut listing = self.job.asked.listing();
        if !permit.decision().policy.bundle.query.may_filter("stream") {
            listing.stream = None;
        }
        if let Some(slice) = within {
            listing.from = Some(slice.from);
            listing.until = Some(slice.until);
        }
        listing.conditions(bound)
    }

    pub(super) async fn answer(
        &self,
        permit: &Permit<Export>,
        sql: String,
        parameters: ParamValues,
    ) -> Result<AnswerStream, Error> {
        let reading = permit.reading();
        let statement = strip_literals(&sql);
        let plan = match self.queries.plan(&reading, &sql, Some(parameters)).await {
            Ok(plan) => plan,
            Err(error) => {
                let error = Error::from(error);
                if !error.passes() {
                    self.gate.refused(&reading, slug(&error), Some(statement));
                }
                return Err(error);
            }
        };
        let digest = plan.plan_digest();
        let witnessed = self.gate.witnessed(&reading, Some(statement), digest);
        let further = Further {
            sql: sql.into(),
            parameters: Vec::new(),
        };
        Ok(self.queries.answer(witnessed, plan, further).await?)
    }
}

/// Whether the two can be one.
fn is_joined(before: &Slice, next: &Slice) -> bool {
    before.until <= next.from && before.records + next.records <= SLICE_RECORDS
}

/// The columns of a bundle, in their order.
pub(super) fn columns(is_whole: bool) -> Vec<&'static str> {
    let mut columns = vec!["tenant_id"];
    columns.extend(COLUMNS);
    columns.push("idempotency_key");
    columns.extend(is_whole.then_some(LEAF_INDEX));
    columns
}

/// What of a slice's rows is in the export.
struct Pin {
    stream: String,
    tree_size: Option<u64>,
    until: Option<String>,
    after: Option<(i64, String)>,
}

impl Pin {
    fn kept(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let streams = texts(batch, "stream")?;
        let ids = texts(batch, "record_id")?;
        let moments = column::<TimestampMicrosecondType>(batch, "created_at")?;
        let places = match self.tree_size {
            Some(_) => Some(column::<Int64Type>(batch, LEAF_INDEX)?),
            None => None,
        };
        let kept = (0..batch.num_rows()).map(|row| {
            let is_pinned = match (self.tree_size, places) {
                (Some(size), Some(places)) => {
                    u64::try_from(places.value(row)).is_ok_and(|place| place < size)
                }
                _ => self
                    .until
                    .as_deref()
                    .is_some_and(|until| ids.value(row) <= until),
            };
            let is_behind = self.after.as_ref().is_none_or(|(moment, id)| {
                (moments.value(row), ids.value(row)) > (*moment, id.as_str())
            });
            is_pinned && is_behind && streams.value(row) == self.stream
        });
        let kept: BooleanArray = kept.map(Some).collect();
        filter_record_batch(batch, &kept).map_err(|_| Error::Internal)
    }
}

/// A column of numbers or moments without nulls.
pub(super) fn column<'b, T: arrow::datatypes::ArrowPrimitiveType>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b arrow::array::PrimitiveArray<T>, Error> {
    let column = batch.column_by_name(name).ok_or(Error::Internal)?;
    column.as_primitive_opt().ok_or(Error::Internal)
}

/// A column of text.
pub(super) fn texts<'b>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b arrow::array::StringArray, Error> {
    let column = batch.column_by_name(name).ok_or(Error::Internal)?;
    column.as_string_opt().ok_or(Error::Internal)
}

fn text_at(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let texts = texts(batch, name).ok()?;
    (row < texts.len() && texts.is_valid(row)).then(|| texts.value(row).to_owned())
}
