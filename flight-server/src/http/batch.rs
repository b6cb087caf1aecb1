//! A batch: one record a line (NDJSON), one result a line that was read, in the same order.
//!
//! A batch is handed on in chunks while it arrives, one chunk after the other, so that leaves are in the order of lines.
//! What stops it (a limit, a connection that breaks, storage that goes away) stops it at a line: those before are stored
//! and answered, and sending the same lines again stores none of them twice.

use catalog::context::TenantContext;
use catalog::guard::{Permit, Write};
use catalog::ids::{CorrelationId, StreamName};
use catalog::schema::SchemaVersion;
use engine::ingest::{IncomingRecord, Mode, Outcome};
use serde::Serialize;
use serde_json::{Value, json};

use super::body::{self, Stopped, Upload};
use super::lines::Line;
use super::receipt::{Answer, Stored};
use super::router::Listener;
use crate::intake::{self, Tally};
use crate::problem::{Problem, Slug};

/// What became of the lines so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Results {
    results: Vec<LineResult>,
    #[serde(rename = "summary")]
    tally: Tally,
}

/// What became of one line.
#[derive(Debug, Serialize)]
struct LineResult {
    index: usize,
    line: u64,
    status: u16,
    #[serde(flatten)]
    answer: LineAnswer,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum LineAnswer {
    Stored(Box<Stored>),
    Problem { problem: Value },
}

/// Takes in what an upload brings, until it ends or something stops it.
pub(super) async fn take(
    listener: &Listener,
    context: &TenantContext,
    permit: &Permit<Write>,
    mut upload: Upload,
) -> (Results, Option<Stopped>) {
    let mut results = Results::default();
    let mut next = upload.chunk().await;
    while let Some(lines) = next {
        let line = lines.first().map_or(0, |line| line.number);
        let taken = results.take(listener, context, permit, lines);
        let (taken, following) = tokio::join!(taken, upload.chunk());
        if let Err(problem) = taken {
            return (results, Some(Stopped { problem, line }));
        }
        next = following;
    }
    (results, upload.stopped())
}

impl Results {
    /// Takes some lines in, and notes what became of each.
    pub(super) async fn take(
        &mut self,
        listener: &Listener,
        context: &TenantContext,
        permit: &Permit<Write>,
        lines: Vec<Line>,
    ) -> Result<(), Problem> {
        let mut places = Vec::with_capacity(lines.len());
        let mut records = Vec::with_capacity(lines.len());
        for Line { number, record } in lines {
            places.push((number, record.is_some()));
            // A line's key is its own: one header cannot be the key of many.
            records.extend(record.map(|text| IncomingRecord::Json {
                text,
                idempotency_key: None,
            }));
        }
        let outcomes = intake::take(&listener.service, permit, records, Mode::Batch).await?;
        let mut outcomes = outcomes.into_iter();
        let record_bytes_max = listener.service.config.limits.record_bytes_max;
        for (line, is_record) in places {
            match is_record.then(|| outcomes.next()).flatten() {
                Some(outcome) => self.add(line, outcome, context),
                None if is_record => {
                    let problem = Problem::new(Slug::Internal, "the record was not answered");
                    self.refuse(line, problem, context.correlation());
                }
                None => {
                    let problem = body::too_large(record_bytes_max);
                    self.refuse(line, problem, context.correlation());
                }
            }
        }
        Ok(())
    }

    /// Notes what became of a record that was handed on.
    pub(super) fn add(&mut self, line: u64, outcome: Outcome, context: &TenantContext) {
        self.tally.count(&outcome);
        let answer = Answer::of(outcome, context.tenant());
        self.push(line, answer, context.correlation());
    }

    /// Notes why a record was not handed on.
    pub(super) fn refuse(&mut self, line: u64, problem: Problem, correlation: &CorrelationId) {
        self.tally.rejected += 1;
        self.push(line, Answer::Problem(Box::new(problem)), correlation);
    }

    /// Which schemas the records that are stored are of.
    pub(super) fn schemas(&self) -> impl Iterator<Item = (&StreamName, SchemaVersion)> {
        let answers = self.results.iter().map(|result| &result.answer);
        answers.filter_map(|answer| match answer {
            LineAnswer::Stored(stored) => stored.schema(),
            LineAnswer::Problem { .. } => None,
        })
    }

    fn push(&mut self, line: u64, answer: Answer, correlation: &CorrelationId) {
        let status = answer.status().as_u16();
        let answer = match answer {
            Answer::Stored(stored) => LineAnswer::Stored(stored),
            Answer::Problem(problem) => LineAnswer::Problem {
                problem: problem.correlated(correlation).to_json(),
            },
        };
        self.results.push(LineResult {
            index: self.results.len(),
            line,
            status,
            answer,
        });
    }

    /// The answer. A batch that was read to its end is answered 200, whatever became of its lines; one that was not is
    /// answered with what stopped it, and with what became of the lines before.
    pub(super) fn answer(self, stopped: Option<Stopped>) -> Result<Self, Problem> {
        match stopped {
            None if self.results.is_empty() => Err(Problem::new(
                Slug::InvalidRecord,
                "the batch holds no record",
            )),
            None => Ok(self),
            Some(Stopped { problem, line }) => Err(problem
                .with("stoppedAtLine", line)
                .with("summary", json!(self.tally))
                .with("results", json!(self.results))),
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::ids::{PolicyVersion, RecordId, TenantId};
    use engine::ingest::Receipt;

    use super::*;

    fn stored() -> Answer {
        let tenant = TenantId::parse("acme").unwrap();
        let receipt = Receipt {
            record_id: RecordId::parse("01KDVDN0000000000000000001").unwrap(),
            policy_version: PolicyVersion {
                tenant: tenant.clone(),
                number: 1,
            },
            stream: StreamName::audit_default(),
            schema_version: SchemaVersion::parse("1.0"),
            leaf_index: 7,
            segment_id: None,
            duplicate: true,
            promise: None,
        };
        Answer::Stored(Box::new(Stored::new(receipt, &tenant)))
    }

    fn correlation() -> CorrelationId {
        CorrelationId::parse("c-4").unwrap()
    }

    #[test]
    fn results_keep_the_order_and_the_numbers_of_the_lines() {
        let mut results = Results::default();
        results.push(2, stored(), &correlation());
        let aside = Problem::new(Slug::TenantMismatch, "aside").quarantined();
        results.refuse(5, aside, &correlation());
        let answer = json!(results.answer(None).unwrap());
        let results = answer["results"].as_array().unwrap();
        assert_eq!(
            results[0],
            json!({
                "index": 0, "line": 2, "status": 200,
                "recordId": "01KDVDN0000000000000000001", "tenantId": "acme", "policyVersion": "tenant:acme@1",
                "stream": "audit.default", "segmentId": null, "schemaVersion": "1.0", "leafIndex": 7, "duplicate": true, "integrity": null,
            })
        );
        assert_eq!(
            (&results[1]["index"], &results[1]["line"]),
            (&json!(1), &json!(5))
        );
        assert_eq!(results[1]["status"], 202);
        assert_eq!(results[1]["problem"]["correlationId"], "c-4");
        assert_eq!(answer["summary"]["rejected"], 1);
    }

    #[test]
    fn what_stops_a_batch_comes_with_the_results_so_far() {
        let mut results = Results::default();
        results.push(1, stored(), &correlation());
        let problem = Problem::new(Slug::Unavailable, "storage");
        let stopped = Stopped { problem, line: 2 };
        let problem = results.answer(Some(stopped)).unwrap_err();
        let json = problem.to_json();
        assert_eq!(
            (problem.slug(), &json["stoppedAtLine"]),
            (Slug::Unavailable, &json!(2))
        );
        assert_eq!(json["results"][0]["leafIndex"], 7);
        let empty = Results::default().answer(None).unwrap_err();
        assert_eq!(empty.slug(), Slug::InvalidRecord);
    }
}
