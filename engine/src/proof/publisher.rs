//! Publishes logs after their commits: soon, but not each of them. And again when their last segment is over.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::clock::Timestamp;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};

use super::{Error, LogName, Logs};
use crate::sequencer::{Committed, Growth, Heard};

/// How long commits are gathered before their logs are published.
const AGE: Duration = Duration::from_secs(1);
/// How often those that have grown are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long a log that could not be published is left alone.
const AGAIN: Duration = Duration::from_secs(10);
/// How long after it failed an earlier process's logs are looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Logs that are published at once.
const AT_ONCE: usize = 4;
/// Logs that wait, or are published, because they are due.
const DUE_AT_ONCE: usize = 2;
/// Leaves of all logs that are kept for them, 32 bytes each; the others are read from their rows.
const LEAVES_MAX: usize = 1 << 20;

/// Publishes what lanes commit, until it is told to finish.
pub struct Publisher {
    logs: Arc<Logs>,
    grown: Growth,
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Task {
    logs: Arc<Logs>,
    heard: Heard,
    stop: Arc<Notify>,
    grown: Grown,
    running: FuturesUnordered<BoxFuture<'static, (LogName, Published)>>,
    /// Logs that are being published.
    busy: HashSet<LogName>,
    /// Logs that are left alone until then.
    failed: HashMap<LogName, Instant>,
    /// When logs are looked at again: their last segment is over by then, or a witness may answer.
    due: HashMap<LogName, Timestamp>,
    /// Those of them that wait, or are looked at.
    taken: HashSet<LogName>,
}

/// When a log is to be looked at again, if it is; `None` if it was not published.
type Published = Option<Option<Timestamp>>;

/// Logs that have grown, and the leaves at hand.
#[derive(Default)]
struct Grown {
    logs: HashMap<LogName, Waiting>,
    leaves: usize,
}

struct Waiting {
    since: Instant,
    news: VecDeque<Committed>,
}

impl Publisher {
    /// Publishes these logs from now on, where this is called; lanes tell it what they commit.
    #[must_use]
    pub fn start(logs: Arc<Logs>, heard: Heard) -> Self {
        let stop = Arc::new(Notify::new());
        let grown = heard.growth();
        let task = Task {
            logs: Arc::clone(&logs),
            heard,
            stop: Arc::clone(&stop),
            grown: Grown::default(),
            running: FuturesUnordered::new(),
            busy: HashSet::new(),
            failed: HashMap::new(),
            due: HashMap::new(),
            taken: HashSet::new(),
        };
        let task = Mutex::new(Some(tokio::spawn(task.run())));
        Self {
            logs,
            grown,
            stop,
            task,
        }
    }

    /// Looks, beside everything else, for what an earlier process has left: commits that are not published, and segments
    /// that are over and not sealed.
    pub fn look_back(&self) {
        let (logs, grown) = (Arc::clone(&self.logs), self.grown.clone());
        tokio::spawn(async move {
            while !looked_back(&logs, &grown).await {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// Publishes what it was told of until now, and ends; at `end` at the latest.
    pub async fn finish(&self, end: Instant) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut task) = { task }.take() else {
            return;
        };
        if timeout_at(end, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("some logs are published later");
        }
    }
}

async fn looked_back(logs: &Logs, grown: &Growth) -> bool {
    let looked = logs.look_back(grown).await;
    let looked = looked.inspect_err(|error| {
        let error = error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "logs that an earlier process has left are looked for later"
        );
    });
    looked.is_ok()
}

impl Task {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                news = self.heard.commits.recv() => {
                    let Some(news) = news else { break };
                    self.grown.note(news);
                }
                Some((log, published)) = self.running.next() => {
                    self.done(log, published);
                    self.begin(AGE);
                }
                _ = tick.tick() => self.begin(AGE),
                () = self.stop.notified() => break,
            }
        }
        while let Ok(news) = self.heard.commits.try_recv() {
            self.grown.note(news);
        }
        self.failed.clear();
        self.begin(Duration::ZERO);
        while let Some((log, _)) = self.running.next().await {
            // One that failed is tried again by whoever opens the log next.
            self.busy.remove(&log);
            self.begin(Duration::ZERO);
        }
    }

    /// Begins to publish what has grown for so long, so many at once: those first that have waited longest.
    fn begin(&mut self, age: Duration) {
        for log in self.heard.grown() {
            self.grown.wait(log);
        }
        self.take_due();
        let now = Instant::now();
        self.failed.retain(|_, until| *until > now);
        let is_free = |log: &&LogName| !self.busy.contains(*log) && !self.failed.contains_key(*log);
        let room = AT_ONCE.saturating_sub(self.running.len());
        let waiting = self.grown.logs.iter();
        let mut due: Vec<_> = waiting
            .filter(|(log, waiting)| is_free(log) && waiting.since + age <= now)
            .map(|(log, waiting)| (waiting.since, log.clone()))
            .collect();
        due.sort_unstable_by_key(|(since, _)| *since);
        for (_, log) in due.into_iter().take(room) {
            let news = self.grown.take(&log);
            self.busy.insert(log.clone());
            let logs = Arc::clone(&self.logs);
            self.running.push(
                async move {
                    let published = logs.publish(&log, news).await;
                    let published = published.inspect_err(|error| complain(&log, error));
                    (log, published.ok())
                }
                .boxed(),
            );
        }
    }

    /// Adds some of those that are due, a few at a time: all logs are due at the end of an hour, and what is committed
    /// meanwhile must not wait for that.
    fn take_due(&mut self) {
        let room = DUE_AT_ONCE.saturating_sub(self.taken.len());
        let now = self.logs.clock.now();
        let due = self.due.extract_if(|_, due| *due <= now).take(room);
        for (log, _) in due {
            self.grown.wait(log.clone());
            self.taken.insert(log);
        }
    }

    fn done(&mut self, log: LogName, published: Published) {
        self.busy.remove(&log);
        self.taken.remove(&log);
        match published {
            None => {
                self.failed.insert(log.clone(), Instant::now() + AGAIN);
                self.grown.wait(log);
            }
            Some(Some(due)) => {
                self.due.insert(log, due);
            }
            Some(None) => {
                self.due.remove(&log);
            }
        }
    }
}

impl Grown {
    fn note(&mut self, news: Committed) {
        let count = news.leaves.len();
        let has_room = self.leaves + count <= LEAVES_MAX;
        let waiting = self.wait(news.log.clone());
        // Without room the log's rows are read; and with a gap what came after is of no use.
        if has_room {
            waiting.push_back(news);
            self.leaves += count;
        }
    }

    fn wait(&mut self, log: LogName) -> &mut VecDeque<Committed> {
        let waiting = self.logs.entry(log).or_insert_with(|| Waiting {
            since: Instant::now(),
            news: VecDeque::new(),
        });
        &mut waiting.news
    }

    fn take(&mut self, log: &LogName) -> VecDeque<Committed> {
        let waiting = self.logs.remove(log);
        let news = waiting.map(|waiting| waiting.news).unwrap_or_default();
        self.leaves -= news.iter().map(|news| news.leaves.len()).sum::<usize>();
        news
    }
}

fn complain(log: &LogName, error: &Error) {
    let reason = match error {
        Error::Tampered { .. } => "tampered",
        Error::Keys(_) => "keys",
        Error::Table(_) | Error::Schemas(_) | Error::Outrun => "store",
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
