//! What a run came to, for people and for programs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::load::Load;
use super::send::{Answer, Door};

/// The requests of some connections.
#[derive(Debug, Default)]
pub(super) struct Samples {
    latencies: Vec<Duration>,
    stored: u64,
    refused: HashMap<String, u64>,
}

impl Samples {
    /// One more request.
    pub(super) fn add(&mut self, latency: Duration, answer: Answer) {
        self.latencies.push(latency);
        self.stored += answer.stored;
        for (why, count) in answer.refused {
            *self.refused.entry(why).or_default() += count;
        }
    }

    /// Those of another connection.
    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.stored += other.stored;
        for (why, count) in other.refused {
            *self.refused.entry(why).or_default() += count;
        }
    }
}

/// A quantile of what is sorted, in milliseconds.
pub(super) fn quantile_ms(sorted: &[Duration], per_mille: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let latency = sorted.get(last * per_mille / 1_000);
    latency.map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    door: &'static str,
    connections: u16,
    records_a_request: u32,
    tenants: usize,
    rate: Option<u32>,
    seconds: f64,
    requests: usize,
    stored: u64,
    refused: BTreeMap<String, u64>,
    /// p50, p95, p99 in milliseconds.
    latency: [f64; 3],
}

impl Row {
    pub(super) fn new(
        door: Door,
        connections: u16,
        load: &Load,
        took: Duration,
        mut samples: Samples,
    ) -> Self {
        samples.latencies.sort_unstable();
        let quantile = |per_mille: usize| quantile_ms(&samples.latencies, per_mille);
        Self {
            door: door.name(),
            connections,
            records_a_request: door.records(load.batch),
            tenants: load.shares.len(),
            rate: load.rate,
            seconds: took.as_secs_f64(),
            requests: samples.latencies.len(),
            stored: samples.stored,
            latency: [quantile(500), quantile(950), quantile(990)],
            refused: samples.refused.into_iter().collect(),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate for people; counts beyond 2^52 do not happen"
    )]
    fn a_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    fn errors(&self) -> String {
        if self.refused.is_empty() {
            return "0".to_owned();
        }
        let each = self
            .refused
            .iter()
            .map(|(why, count)| format!("{count} x {why}"));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// The report as an aligned table.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<7} {:>11} {:>11} {:>12} {:>9} {:>9} {:>9}  {}",
        "door", "connections", "records/req", "records/s", "p50 ms", "p95 ms", "p99 ms", "errors"
    );
    for row in rows {
        let [p50, p95, p99] = row.latency;
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n{:<7} {:>11} {:>11} {:>12.0} {:>9.2} {:>9.2} {:>9.2}  {}",
            row.door,
            row.connections,
            row.records_a_request,
            row.a_second(row.stored),
            p50,
            p95,
            p99,
            row.errors()
        );
    }
    text
}

/// The report for programs.
pub(super) fn json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|row| {
            json!({
                "door": row.door, "connections": row.connections, "recordsPerRequest": row.records_a_request,
                "tenants": row.tenants, "rate": row.rate, "seconds": row.seconds, "requests": row.requests,
                "stored": row.stored, "recordsPerSecond": row.a_second(row.stored),
                "latencyMs": {"p50": row.latency[0], "p95": row.latency[1], "p99": row.latency[2]},
                "refused": row.refused,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reach::Reach;

    #[test]
    fn quantiles_and_rates_are_those_of_the_samples() {
        let mut samples = Samples::default();
        for latency in (1..=100).rev() {
            let answer = Answer {
                stored: 10,
                refused: HashMap::new(),
            };
            samples.add(Duration::from_millis(latency), answer);
        }
        let mut other = Samples::default();
        let refused = HashMap::from([("429".to_owned(), 10)]);
        other.add(Duration::from_millis(500), Answer { stored: 0, refused });
        samples.merge(other);
        let load = Load {
            shares: Vec::new(),
            batch: 10,
            rate: None,
            lasts: Duration::ZERO,
            url: String::new(),
            uri: String::new(),
            reach: Reach::default(),
        };
        let row = Row::new(Door::Batch, 4, &load, Duration::from_secs(2), samples);
        assert_eq!(row.latency, [51.0, 96.0, 100.0]);
        let shown = json(std::slice::from_ref(&row));
        assert_eq!(shown[0]["recordsPerSecond"], 500.0);
        assert_eq!(shown[0]["refused"]["429"], 10);
        let text = table(&[row]);
        assert!(text.contains("10 x 429"), "{text}");
    }
}
