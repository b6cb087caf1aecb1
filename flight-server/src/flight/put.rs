//! Bulk loads: DoPut of `CommandStatementIngest`, what ADBC's `adbc_ingest` sends.
//!
//! Rows take the way of all records, in their order, some at a time. A stream of batches has no end that could be waited
//! for, so nothing is taken back: rows that can be stored are, and if any cannot, the call fails at its end and says how
//! many were stored and which were not, and why. Sending the same rows again is safe: each has its key.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementIngest, DoPutUpdateResult, TableExistsOption};
use bytes::Bytes;
use catalog::guard::{self, Denial, OperationKind, Permit, Write};
use catalog::ids::{StreamName, TenantId};
use engine::ingest::{IncomingRecord, Mode, Outcome};
use engine::record::columns::{Columns, Reading, Row};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tonic::Status;

use crate::intake::{self, Tally};
use crate::limits::{Admitted, Class, Limited, NoRoom, Share};
use crate::problem::{Problem, Slug};
use crate::service::Service;

use super::TrailhouseFlight;
use super::call::{Caller, Refusal};
use super::command::no_transaction;
use super::limits::{LOAD_IDLE_MAX, LOAD_VALUES_MAX, MESSAGE_BYTES_MAX};
use super::untrusted::{has_at_most, unpackable};

/// The one table that can be loaded into, and its schema.
const TARGET: (&str, &str) = ("audit", "records");
/// Rows that are stored together.
const CHUNK_ROWS: usize = 4_096;
/// Bytes of rows that are stored together.
const CHUNK_BYTES: usize = 4 << 20;
/// A load that goes on for longer asks anew whether it may.
const PERMIT_AGE_MAX: Duration = Duration::from_secs(60);
/// Rows that the answer explains.
const EXPLAINED_MAX: usize = 10;
/// What those explanations may take, so that they fit into the details of a status.
const EXPLAINED_BYTES_MAX: usize = 2_500;
/// Faults of one row that the answer explains.
const FAULTS_MAX: usize = 3;

impl TrailhouseFlight {
    /// Stores what the stream brings.
    pub(super) async fn ingest<S>(
        &self,
        caller: &Caller,
        command: CommandStatementIngest,
        messages: S,
    ) -> Result<Bytes, Refusal>
    where
        S: Stream<Item = Result<FlightData, Status>> + Send + 'static,
    {
        let tenant = caller.context.tenant();
        no_transaction(command.transaction_id.as_ref())?;
        if names_another_catalog(&command, tenant) {
            let gate = &self.service.gate;
            let denial = gate
                .deny(
                    &caller.context,
                    OperationKind::Write,
                    Denial::CrossTenantQuery,
                    None,
                )
                .await;
            return Err(denial.into());
        }
        check_target(&command)?;
        let mut load = Load {
            flight: self,
            caller,
            permits: HashMap::new(),
            report: Report::default(),
        };
        load.permit(None).await?;
        let admitted = Arc::new(admitted(&self.service, caller)?);
        let share = Arc::new(Mutex::new(self.room.share()));
        let charged = messages
            .then(move |message| charged(Arc::clone(&admitted), Arc::clone(&share), message));
        match load.run(hurried(charged)).await {
            Ok(()) => load.report.result(),
            Err(problem) => Err(load.report.stopped(*problem).into()),
        }
    }

    async fn permit_to_write(
        &self,
        caller: &Caller,
        stream: Option<&StreamName>,
    ) -> Result<Permit<Write>, Problem> {
        let stream = stream.cloned().unwrap_or_else(StreamName::audit_default);
        let request = guard::Request::at(self.silo.clone()).with_stream(stream);
        let permit = self
            .service
            .gate
            .authorize::<Write>(&caller.context, request);
        Ok(permit.await?)
    }
}

/// The load counts as a request that writes, and its messages as the bytes of one.
fn admitted(service: &Service, caller: &Caller) -> Result<Admitted, Problem> {
    let admitted = service.rates.admit(caller.context.clone(), Class::Write);
    Ok(admitted?)
}

/// The messages of a load, none of which may be long in coming: whoever is silent holds room that others wait for.
fn hurried<S>(messages: S) -> impl Stream<Item = Result<FlightData, FlightError>> + Send
where
    S: Stream<Item = Result<FlightData, FlightError>> + Send + 'static,
{
    stream::unfold(Some(Box::pin(messages)), |messages| async move {
        let mut messages = messages?;
        match timeout(LOAD_IDLE_MAX, messages.next()).await {
            Ok(message) => message.map(|message| (message, Some(messages))),
            Err(_) => Some((Err(FlightError::ExternalError(Box::new(Silent))), None)),
        }
    })
}

/// No message came in all the time that a load may be silent.
#[derive(Debug, thiserror::Error)]
#[error("a load was silent for {} seconds", LOAD_IDLE_MAX.as_secs())]
struct Silent;

/// A message that is paid for, and has room until the next one comes.
async fn charged(
    admitted: Arc<Admitted>,
    share: Arc<Mutex<Share>>,
    message: Result<FlightData, Status>,
) -> Result<FlightData, FlightError> {
    let message = message?;
    let bytes = message.data_header.len() + message.data_body.len();
    let covered = share.lock().await.cover(bytes).await;
    covered.map_err(|none| FlightError::ExternalError(Box::new(none)))?;
    let charged = admitted.charge(bytes).await;
    charged.map_err(|limited| FlightError::ExternalError(Box::new(limited)))?;
    Ok(message)
}

/// Why a message was not taken, as [`charged`] says it.
fn held_back(error: Box<dyn std::error::Error + Send + Sync>) -> Problem {
    match error.downcast::<Limited>() {
        Ok(limited) => (*limited).into(),
        Err(error) => match error.downcast::<NoRoom>() {
            Ok(none) => (*none).into(),
            Err(error) if error.is::<Silent>() => {
                Problem::new(Slug::DeadlineExceeded, Silent.to_string())
            }
            Err(_) => unreadable(),
        },
    }
}

/// Whether the load is for a catalog that is not the caller's.
fn names_another_catalog(command: &CommandStatementIngest, tenant: &TenantId) -> bool {
    match command.catalog.as_deref() {
        None | Some("") => false,
        Some(catalog) => TenantId::parse(catalog).ok().as_ref() != Some(tenant),
    }
}

/// Refuses every load but one that appends records.
fn check_target(command: &CommandStatementIngest) -> Result<(), Problem> {
    let refused = |detail: &str| Err(Problem::new(Slug::StatementNotAllowed, detail));
    let (schema, table) = TARGET;
    let named = command.schema.as_deref().unwrap_or_default();
    if !(named.is_empty() || named == schema) || command.table != table {
        return refused("only the table audit.records can be loaded into");
    }
    if command.temporary {
        return refused("there are no temporary tables; load into audit.records");
    }
    if !command.options.is_empty() {
        return refused("a load takes no options");
    }
    let if_exists = command
        .table_definition_options
        .map(|options| options.if_exists());
    match if_exists {
        Some(TableExistsOption::Append) => Ok(()),
        Some(TableExistsOption::Replace) => {
            refused("records are never replaced; load with the mode append")
        }
        Some(TableExistsOption::Fail | TableExistsOption::Unspecified) | None => {
            refused("the table is there already; load with the mode append")
        }
    }
}

/// One load on its way.
struct Load<'a> {
    flight: &'a TrailhouseFlight,
    caller: &'a Caller,
    permits: HashMap<Option<StreamName>, (Instant, Permit<Write>)>,
    report: Report,
}

/// A row and its number.
///
/// Boxed: rows are large, and are sorted by stream.
type Numbered = (u64, Box<Row>);

impl Load<'_> {
    async fn run<S>(&mut self, messages: S) -> Result<(), Box<Problem>>
    where
        S: Stream<Item = Result<FlightData, FlightError>> + Send + 'static,
    {
        let mut batches = Batches::new(messages);
        let mut columns: Option<Columns> = None;
        while let Some(batch) = batches.next().await? {
            let columns = match &mut columns {
                Some(columns) => columns,
                none @ None => none.insert(columns_of(&batch.schema())?),
            };
            self.store(columns, &batch).await?;
        }
        match (columns, batches.schema()) {
            // A stream without rows is told what is wrong with its columns all the same.
            (None, Some(schema)) => columns_of(schema).map(drop).map_err(Box::new),
            (None, None) => Err(unreadable().into()),
            (Some(_), _) => Ok(()),
        }
    }

    async fn store(&mut self, columns: &Columns, batch: &RecordBatch) -> Result<(), Box<Problem>> {
        let tenant = self.caller.context.tenant().clone();
        let reading = Reading {
            tenant: &tenant,
            now: self.flight.service.clock.now(),
            record_bytes_max: self.flight.service.config.limits.record_bytes_max,
        };
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        for row in columns.rows(batch, reading) {
            bytes += row.bytes;
            chunk.push((self.report.rows, Box::new(row)));
            self.report.rows += 1;
            if chunk.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                self.store_rows(std::mem::take(&mut chunk)).await?;
                bytes = 0;
            }
        }
        self.store_rows(chunk).await
    }

    async fn store_rows(&mut self, rows: Vec<Numbered>) -> Result<(), Box<Problem>> {
        let mut by_stream: BTreeMap<Option<StreamName>, Vec<Numbered>> = BTreeMap::new();
        for (number, row) in rows {
            by_stream
                .entry(row.stream.clone())
                .or_default()
                .push((number, row));
        }
        for (stream, rows) in by_stream {
            let service = &self.flight.service;
            let (numbers, records): (Vec<u64>, Vec<IncomingRecord>) = rows
                .into_iter()
                .map(|(number, row)| (number, IncomingRecord::Row(row)))
                .unzip();
            let permit = self.permit(stream).await?;
            let outcomes = intake::take(service, permit, records, Mode::Batch).await?;
            for (number, outcome) in numbers.into_iter().zip(outcomes) {
                self.report.add(number, outcome);
            }
        }
        Ok(())
    }

    /// The permission to write to a stream, not older than a minute.
    async fn permit(&mut self, stream: Option<StreamName>) -> Result<&Permit<Write>, Problem> {
        let fresh = |(since, _): &(Instant, Permit<Write>)| since.elapsed() < PERMIT_AGE_MAX;
        if !self.permits.get(&stream).is_some_and(fresh) {
            let permit = self.flight.permit_to_write(self.caller, stream.as_ref());
            let permit = (Instant::now(), permit.await?);
            self.permits.insert(stream.clone(), permit);
        }
        let permit = self.permits.get(&stream);
        let permit = permit.map(|(_, permit)| permit);
        permit.ok_or_else(|| Problem::new(Slug::Internal, "a permit was lost"))
    }
}

fn columns_of(schema: &Schema) -> Result<Columns, Problem> {
    Columns::of(schema).map_err(|violations| {
        let named: Vec<_> = violations
            .iter()
            .map(|one| format!("{} {}", one.pointer.trim_start_matches('/'), one.message))
            .collect();
        let detail = format!(
            "no row was stored; columns do not fit: {}",
            named.join("; ")
        );
        let violations: Vec<_> = violations
            .iter()
            .map(|one| json!({"pointer": one.pointer, "message": one.message}))
            .collect();
        Problem::new(Slug::InvalidRecord, shortened(detail)).with("violations", violations)
    })
}

/// A text that is no longer than a status message should be.
fn shortened(mut text: String) -> String {
    if text.len() > EXPLAINED_BYTES_MAX {
        text.truncate(text.floor_char_boundary(EXPLAINED_BYTES_MAX));
        text.push('…');
    }
    text
}

/// What became of the rows so far.
#[derive(Default)]
struct Report {
    rows: u64,
    tally: Tally,
    explained: Vec<Value>,
    explained_bytes: usize,
    in_words: Vec<String>,
}

impl Report {
    fn add(&mut self, row: u64, outcome: Outcome) {
        self.tally.count(&outcome);
        let Err(problem) = Problem::of_outcome(outcome) else {
            return;
        };
        if self.explained.len() == EXPLAINED_MAX {
            return;
        }
        let json = problem.to_json();
        let faults: Vec<Value> = json["violations"]
            .as_array()
            .map(|faults| faults.iter().take(FAULTS_MAX).cloned().collect())
            .unwrap_or_default();
        let words = match faults.first() {
            Some(fault) => format!(
                "row {row}: {} {}",
                fault["pointer"]
                    .as_str()
                    .unwrap_or_default()
                    .trim_start_matches('/'),
                fault["message"].as_str().unwrap_or_default()
            ),
            None => format!("row {row}: {}", problem.detail()),
        };
        let mut explained = json!({"row": row, "problem": problem.slug().as_str()});
        if !faults.is_empty() {
            explained["violations"] = faults.into();
        }
        if let Some(evidence) = json.get("evidenceRef") {
            explained["evidenceRef"] = evidence.clone();
        }
        let bytes = explained.to_string().len();
        if self.explained_bytes + bytes <= EXPLAINED_BYTES_MAX {
            self.explained_bytes += bytes;
            self.explained.push(explained);
            self.in_words.push(words);
        }
    }

    /// The answer to a load that was read to its end.
    fn result(self) -> Result<Bytes, Refusal> {
        let Tally {
            accepted,
            quarantined,
            rejected,
            ..
        } = self.tally;
        if quarantined + rejected > 0 {
            let detail = format!(
                "{} of {} rows were not stored ({rejected} rejected, {quarantined} quarantined); \
                 rows count from 0: {}",
                quarantined + rejected,
                self.rows,
                self.in_words.join("; ")
            );
            let problem = Problem::new(Slug::InvalidRecord, shortened(detail));
            return Err(self.described(problem).into());
        }
        let result = DoPutUpdateResult {
            record_count: i64::try_from(accepted).unwrap_or(i64::MAX),
        };
        Ok(result.encode_to_vec().into())
    }

    /// The problem that stopped a load, and what had been stored by then.
    fn stopped(self, problem: Problem) -> Problem {
        if self.rows == 0 {
            return problem;
        }
        self.described(problem)
    }

    fn described(self, problem: Problem) -> Problem {
        problem
            .with("summary", json!(self.tally))
            .with("rows", self.explained)
    }
}

/// The batches of a stream, one at a time.
struct Batches(FlightRecordBatchStream);

impl Batches {
    fn new<S>(messages: S) -> Self
    where
        S: Stream<Item = Result<FlightData, FlightError>> + Send + 'static,
    {
        // Some clients send the descriptor in a message of its own.
        let carrying = messages.try_filter(|message| {
            let carries = !message.data_header.is_empty();
            async move { carries }
        });
        let unpacked = unpackable(carrying, usize::MAX);
        Self(FlightRecordBatchStream::new_from_flight_data(unpacked))
    }

    fn schema(&self) -> Option<&Schema> {
        self.0.schema().map(AsRef::as_ref)
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, Problem> {
        // The decoder indexes buffers by offsets it was sent, and panics when they are beyond the message.
        match AssertUnwindSafe(self.0.try_next()).catch_unwind().await {
            Ok(Ok(Some(batch))) if !has_at_most(&batch, LOAD_VALUES_MAX) => Err(unreadable()),
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(FlightError::Tonic(status))) => Err(broken(&status)),
            Ok(Err(FlightError::ExternalError(error))) => Err(held_back(error)),
            Ok(Err(_)) | Err(_) => Err(unreadable()),
        }
    }
}

fn broken(status: &Status) -> Problem {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            let detail = format!("a message of a load has at most {MESSAGE_BYTES_MAX} bytes");
            Problem::new(Slug::PayloadTooLarge, detail).with("bytesMax", MESSAGE_BYTES_MAX)
        }
        _ => Problem::new(Slug::InvalidRecord, "the stream broke off"),
    }
}

fn unreadable() -> Problem {
    Problem::new(Slug::InvalidRecord, "the record batches cannot be read")
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};

    use super::*;
    use crate::limits::Room;
    use crate::world::{World, bearer};

    #[tokio::test]
    async fn a_message_has_room_until_the_next_one_comes_and_the_last_gives_it_back() {
        let world = World::new().await;
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&world.writer()))]);
        let context = world.service.context(&headers).await.unwrap();
        let admitted = world.service.rates.admit(context, Class::Write).unwrap();
        let (admitted, room) = (Arc::new(admitted), Room::new());
        let share = Arc::new(Mutex::new(room.share()));
        let all = room.free();
        for bytes in [1 << 20, 4 << 20, 2 << 20] {
            let message = FlightData::new().with_data_body(vec![0; bytes]);
            let taken = charged(Arc::clone(&admitted), Arc::clone(&share), Ok(message)).await;
            assert_eq!(taken.unwrap().data_body.len(), bytes);
            assert_eq!(all - room.free(), bytes);
        }
        drop(share);
        assert_eq!(room.free(), all);
        let problem = held_back(Box::new(NoRoom));
        assert_eq!(problem.slug(), Slug::Unavailable);
        assert_eq!(held_back("other".into()).slug(), Slug::InvalidRecord);
    }
}
