//! Publishes logs after their commits: soon, but not each of them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::{Error, LogName, Logs};
use crate::sequencer::Committed;

/// How long commits are gathered before their logs are published.
const AGE: Duration = Duration::from_secs(1);
/// How long a log that could not be published is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// Logs that are published at once.
const AT_ONCE: usize = 4;
/// Leaves of one log that are kept for it; the others are read from their rows.
const LEAVES_MAX: usize = 1 << 20;
/// News that may wait to be taken.
const NEWS_MAX: usize = 256;

/// Publishes what lanes commit, until it is told to finish.
pub struct Publisher {
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Task {
    logs: Arc<Logs>,
    news: mpsc::Receiver<Committed>,
    stop: Arc<Notify>,
}

/// Logs that have grown.
type Grown = HashMap<LogName, VecDeque<Committed>>;

impl Publisher {
    /// Publishes these logs from now on, where this is called; lanes tell it what they commit.
    #[must_use]
    pub fn start(logs: Arc<Logs>) -> (Self, mpsc::Sender<Committed>) {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        let stop = Arc::new(Notify::new());
        let task = Task {
            logs,
            news,
            stop: Arc::clone(&stop),
        };
        let task = Mutex::new(Some(tokio::spawn(task.run())));
        (Self { stop, task }, tell)
    }

    /// Publishes what it was told of until now, and ends; at `end` at the latest.
    pub async fn finish(&self, end: Instant) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let task = { task }.take();
        if let Some(task) = task
            && timeout_at(end, task).await.is_err()
        {
            tracing::warn!("some logs are published later");
        }
    }
}

impl Task {
    async fn run(mut self) {
        let mut grown = Grown::new();
        let mut failed: HashMap<LogName, Instant> = HashMap::new();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                news = self.news.recv() => {
                    let Some(news) = news else { break };
                    if grown.is_empty() {
                        due = Instant::now() + AGE;
                    }
                    note(&mut grown, news);
                }
                () = tokio::time::sleep_until(due), if !grown.is_empty() => {
                    let now = Instant::now();
                    failed.retain(|_, until| *until > now);
                    let (later, ready) = std::mem::take(&mut grown)
                        .into_iter()
                        .partition::<Grown, _>(|(log, _)| failed.contains_key(log));
                    grown = later;
                    for log in self.publish(ready).await {
                        failed.insert(log.clone(), now + AGAIN);
                        grown.insert(log, VecDeque::new());
                    }
                    due = Instant::now() + AGE;
                }
                () = self.stop.notified() => break,
            }
        }
        while let Ok(news) = self.news.try_recv() {
            note(&mut grown, news);
        }
        self.publish(grown).await;
    }

    /// Publishes these logs, and gives those that could not be.
    async fn publish(&self, grown: Grown) -> Vec<LogName> {
        let publishing: Vec<_> = grown
            .into_iter()
            .map(|(log, news)| async move {
                let error = self.logs.publish(&log, news).await.err()?;
                complain(&log, &error);
                Some(log)
            })
            .collect();
        stream::iter(publishing)
            .buffer_unordered(AT_ONCE)
            .filter_map(futures::future::ready)
            .collect()
            .await
    }
}

fn note(grown: &mut Grown, news: Committed) {
    let log = LogName {
        tenant: news.tenant.clone(),
        silo: news.silo.clone(),
        stream: news.stream.clone(),
    };
    let waiting = grown.entry(log).or_default();
    let leaves: usize = waiting.iter().map(|news| news.leaves.len()).sum();
    if leaves + news.leaves.len() <= LEAVES_MAX {
        waiting.push_back(news);
    } else {
        // With a gap the rest is of no use either.
        waiting.clear();
    }
}

fn complain(log: &LogName, error: &Error) {
    let reason = match error {
        Error::Tampered { .. } => "tampered",
        Error::Keys(_) => "keys",
        Error::Table(_) | Error::Schemas(_) => "store",
    };
    metrics::counter!("trailhouse_publish_errors_total", "reason" => reason).increment(1);
    let (tenant, stream) = (&log.tenant, &log.stream);
    let error = error as &dyn std::error::Error;
    if reason == "tampered" {
        tracing::error!(%tenant, %stream, error, "a log is not published until an operator has looked");
    } else {
        tracing::warn!(%tenant, %stream, error, "a log is published later");
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}
