//! The load: who sends what when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::error::ArrowError;
use catalog::clock::{SeededRandom, Timestamp};
use serde_json::Value;
use tokio::task::JoinSet;

use super::report::{Row, Samples};
use super::send::{Door, Sender};
use super::{Error, send};
use crate::cli::generate::Generator;
use crate::cli::reach::Reach;

/// Everything a run needs.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) shares: Vec<Share>,
    pub(super) batch: u32,
    pub(super) rate: Option<u32>,
    pub(super) lasts: Duration,
    pub(super) url: String,
    pub(super) uri: String,
    pub(super) reach: Reach,
}

/// One tenant's part of the load.
#[derive(Debug, Clone)]
pub(super) struct Share {
    pub(super) tenant: String,
    pub(super) token: Token,
    pub(super) weight: f64,
    pub(super) lines: Arc<Vec<send::Line>>,
    pub(super) columns: Arc<send::Columns>,
}

/// A bearer token; it is never shown.
#[derive(Clone)]
pub(super) struct Token(pub(super) String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Share {
    pub(super) fn new(
        tenant: String,
        token: String,
        weight: f64,
        pool: Vec<Value>,
    ) -> Result<Self, ArrowError> {
        Ok(Self {
            tenant,
            token: Token(token),
            weight,
            columns: Arc::new(send::Columns::new(&pool)?),
            lines: Arc::new(pool.iter().map(send::Line::new).collect()),
        })
    }
}

/// Made-up records of a tenant.
pub(super) fn pool(tenant: &str, until: Timestamp, seed: u64, records: usize) -> Vec<Value> {
    Generator::new(tenant, until, Arc::new(SeededRandom::new(seed)))
        .take(records)
        .collect()
}

/// Sends through one door over so many connections, and says what came of it.
pub(super) async fn run(load: &Load, door: Door, connections: u16) -> Result<Row, Error> {
    let mut senders = JoinSet::new();
    let schedule = Arc::new(Schedule::new(load, door));
    // Connected before the clock starts: what is measured is records, not handshakes.
    let mut connected = Vec::new();
    for connection in 0..connections {
        let share = pick(&load.shares, connection, connections);
        connected.push(Sender::connect(load, share.clone(), door).await?);
    }
    let started = Instant::now();
    for sender in connected {
        senders.spawn(send_all(sender, Arc::clone(&schedule), started, load.lasts));
    }
    let mut samples = Samples::default();
    while let Some(own) = senders.join_next().await {
        samples.merge(own?);
    }
    Ok(Row::new(
        door,
        connections,
        load,
        started.elapsed(),
        samples,
    ))
}

/// The tenant of a connection: connections are dealt out by weight, so that the shares come out right.
fn pick(shares: &[Share], connection: u16, connections: u16) -> &Share {
    let total: f64 = shares.iter().map(|share| share.weight).sum();
    let mut at = (f64::from(connection) + 0.5) / f64::from(connections) * total;
    for share in shares {
        at -= share.weight;
        if at <= 0.0 {
            return share;
        }
    }
    &shares[shares.len() - 1]
}

/// When requests are due.
#[derive(Debug)]
struct Schedule {
    every: Option<Duration>,
    next: AtomicU64,
}

impl Schedule {
    fn new(load: &Load, door: Door) -> Self {
        let records = f64::from(door.records(load.batch));
        let every = load
            .rate
            .map(|rate| Duration::from_secs_f64(records / f64::from(rate.max(1))));
        Self {
            every,
            next: AtomicU64::new(0),
        }
    }

    /// How long after the start the next request is due; `None` when it is due as soon as it can be sent.
    fn due(&self) -> Option<Duration> {
        let every = self.every?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        Some(every.mul_f64(f64::from(u32::try_from(turn).unwrap_or(u32::MAX))))
    }
}

async fn send_all(
    mut sender: Sender,
    schedule: Arc<Schedule>,
    started: Instant,
    lasts: Duration,
) -> Samples {
    let mut samples = Samples::default();
    loop {
        let due = schedule.due();
        if let Some(due) = due {
            if due >= lasts {
                return samples;
            }
            tokio::time::sleep_until((started + due).into()).await;
        } else if started.elapsed() >= lasts {
            return samples;
        }
        let since = due.map_or_else(Instant::now, |due| started + due);
        let answer = sender.send().await;
        samples.add(since.elapsed(), answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(tenant: &str, weight: f64) -> Share {
        let pool = pool(tenant, Timestamp::from_micros(0), 1, 2);
        Share::new(tenant.to_owned(), String::new(), weight, pool).unwrap()
    }

    #[test]
    fn connections_are_dealt_out_by_weight() {
        let shares = [share("a", 1.0), share("b", 0.5), share("c", 0.25)];
        let count = |tenant: &str| {
            (0..70)
                .filter(|connection| pick(&shares, *connection, 70).tenant == tenant)
                .count()
        };
        assert_eq!((count("a"), count("b"), count("c")), (40, 20, 10));
        assert_eq!(pick(&shares, 0, 1).tenant, "a");
    }

    #[test]
    fn a_rate_counts_records_not_requests() {
        let load = Load {
            shares: vec![share("a", 1.0)],
            batch: 100,
            rate: Some(1_000),
            lasts: Duration::from_secs(1),
            url: String::new(),
            uri: String::new(),
            reach: Reach::default(),
        };
        let batches = Schedule::new(&load, Door::Batch);
        assert_eq!(batches.due(), Some(Duration::ZERO));
        assert_eq!(batches.due(), Some(Duration::from_millis(100)));
        let single = Schedule::new(&load, Door::Single);
        single.due();
        assert_eq!(single.due(), Some(Duration::from_millis(1)));
    }
}
