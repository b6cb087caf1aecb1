//! Readers: so many connections that ask one question after the other, and how long answers take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use super::load::Token;
use super::report::quantile_ms;
use super::{Error, unreachable};

/// What somebody who looks at audit records asks, each about as often.
const QUESTIONS: [&str; 5] = [
    "SELECT count(*) FROM audit.records",
    "SELECT * FROM audit.records ORDER BY created_at DESC, record_id DESC LIMIT 100",
    "SELECT action, count(*) AS n FROM audit.records GROUP BY action ORDER BY n DESC LIMIT 20",
    "SELECT * FROM audit.records WHERE trace_id = '4bf92f3577b34da6a3ce929d0e0e4736'",
    "SELECT date_trunc('hour', created_at) AS hour, count(*) AS n FROM audit.records GROUP BY 1 ORDER BY 1",
];

/// Everything a run needs.
#[derive(Debug)]
pub(super) struct Readers {
    pub(super) uri: String,
    pub(super) endpoint: Endpoint,
    pub(super) token: Token,
    pub(super) connections: u16,
    pub(super) lasts: Duration,
    /// Asked instead of the usual questions.
    pub(super) statement: Option<String>,
}

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    connections: u16,
    seconds: f64,
    rows: u64,
    bytes: u64,
    /// Up to the first batch.
    first: Vec<Duration>,
    /// Up to the end.
    whole: Vec<Duration>,
    refused: BTreeMap<String, u64>,
}

/// Connects all, then has them ask until the time is over; who asks then gets the answer still.
pub(super) async fn run(readers: &Readers) -> Result<Outcome, Error> {
    let mut connected = Vec::new();
    for _ in 0..readers.connections {
        let channel = readers.endpoint.connect().await;
        let channel = channel.map_err(|error| unreachable(&readers.uri, error))?;
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(readers.token.0.clone());
        connected.push(client);
    }
    let statement: Option<Arc<str>> = readers.statement.as_deref().map(Arc::from);
    let started = Instant::now();
    let mut asking = JoinSet::new();
    for (first, client) in connected.into_iter().enumerate() {
        let statement = statement.clone();
        asking.spawn(ask_on(client, statement, first, started + readers.lasts));
    }
    let mut outcome = Outcome::default();
    while let Some(own) = asking.join_next().await {
        outcome.merge(own?);
    }
    outcome.connections = readers.connections;
    outcome.seconds = started.elapsed().as_secs_f64();
    Ok(outcome)
}

async fn ask_on(
    mut client: FlightSqlServiceClient<Channel>,
    statement: Option<Arc<str>>,
    first: usize,
    end: Instant,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut questions = QUESTIONS.iter().cycle().skip(first % QUESTIONS.len());
    while Instant::now() < end {
        let usual = questions.next().copied().unwrap_or_default();
        let question = statement.as_deref().unwrap_or(usual);
        if let Err(error) = ask(&mut client, question, &mut outcome).await {
            let code = match error {
                arrow_flight::error::FlightError::Tonic(status) => format!("{:?}", status.code()),
                _ => "unreadable".to_owned(),
            };
            *outcome.refused.entry(code).or_default() += 1;
        }
    }
    outcome
}

async fn ask(
    client: &mut FlightSqlServiceClient<Channel>,
    question: &str,
    outcome: &mut Outcome,
) -> Result<(), arrow_flight::error::FlightError> {
    let started = Instant::now();
    let info = client.execute(question.to_owned(), None).await?;
    let tickets = info.endpoint.into_iter().filter_map(|one| one.ticket);
    let mut first = None;
    for ticket in tickets {
        let mut answer = client.do_get(ticket).await?;
        while let Some(batch) = answer.try_next().await? {
            first.get_or_insert_with(|| started.elapsed());
            outcome.rows += batch.num_rows() as u64;
            outcome.bytes += batch.get_array_memory_size() as u64;
        }
    }
    let whole = started.elapsed();
    outcome.first.push(first.unwrap_or(whole));
    outcome.whole.push(whole);
    Ok(())
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.first.extend(other.first);
        self.whole.extend(other.whole);
        for (why, count) in other.refused {
            *self.refused.entry(why).or_default() += count;
        }
    }

    /// For people.
    pub(super) fn table(&mut self) -> String {
        let value = self.json();
        let number = |path: &str| value.pointer(path).and_then(Value::as_f64).unwrap_or(0.0);
        let answers = number("/answers");
        let mut text = format!(
            "{} connections, {:.1} s: {answers} answers ({:.1}/s), {} rows, {:.1} MB/s\n\
             first batch p50 {:.1} p99 {:.1} ms, whole answer p50 {:.1} p95 {:.1} p99 {:.1} ms",
            self.connections,
            self.seconds,
            answers / self.seconds.max(f64::MIN_POSITIVE),
            self.rows,
            number("/bytes") / 1e6 / self.seconds.max(f64::MIN_POSITIVE),
            number("/firstBatchMs/p50"),
            number("/firstBatchMs/p99"),
            number("/wholeMs/p50"),
            number("/wholeMs/p95"),
            number("/wholeMs/p99"),
        );
        for (why, count) in &self.refused {
            text.push_str(&format!("\n{count} refused: {why}"));
        }
        text
    }

    /// For programs.
    pub(super) fn json(&mut self) -> Value {
        self.first.sort_unstable();
        self.whole.sort_unstable();
        let quantiles = |of: &[Duration]| {
            json!({
                "p50": quantile_ms(of, 500),
                "p95": quantile_ms(of, 950),
                "p99": quantile_ms(of, 990),
            })
        };
        json!({
            "connections": self.connections,
            "seconds": self.seconds,
            "answers": self.whole.len(),
            "rows": self.rows,
            "bytes": self.bytes,
            "firstBatchMs": quantiles(&self.first),
            "wholeMs": quantiles(&self.whole),
            "refused": self.refused,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_add_up() {
        let one = |ms: u64| Outcome {
            rows: 10,
            bytes: 1_000_000,
            first: vec![Duration::from_millis(ms)],
            whole: vec![Duration::from_millis(2 * ms)],
            refused: BTreeMap::from([("Unavailable".to_owned(), 1)]),
            ..Outcome::default()
        };
        let mut sum = Outcome {
            connections: 2,
            seconds: 1.0,
            ..Outcome::default()
        };
        for ms in [30, 10, 20] {
            sum.merge(one(ms));
        }
        let value = sum.json();
        assert_eq!(value["answers"], 3);
        assert_eq!(value["firstBatchMs"]["p50"], 20.0);
        assert_eq!(value["refused"]["Unavailable"], 3);
        let table = sum.table();
        assert!(
            table.contains("3 answers (3.0/s), 30 rows, 3.0 MB/s"),
            "{table}"
        );
        assert!(table.ends_with("3 refused: Unavailable"), "{table}");
    }
}
