//! Group commit: all requests that wait for one table share its next commit.
//!
//! One task per table takes whatever has queued up while the last commit ran, so an idle table commits at once and a
//! busy one carries many requests per commit. The task also numbers leaves: for each stream it continues from the
//! tree size in the newest log entry (`th.log:<stream>`) and commits the new size with the rows, so two processes that
//! write one table conflict instead of numbering two records alike.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use catalog::ids::TenantId;
use tokio::sync::{mpsc, oneshot};

use crate::table;

/// Requests that one commit carries at most.
const GROUP_JOBS_MAX: usize = 512;
/// Requests that may wait; the next one is told to come back.
const QUEUE_JOBS_MAX: usize = 4_096;

/// Rounds after which a group gives up against other writers of the same table.
pub(crate) const ROUNDS_MAX: usize = 20;

/// Why a group was not committed; every job of it gets a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneError {
    /// The tenant's keys are out of reach.
    KeyUnavailable,
    /// Storage is out of reach, or what it holds is not what was written.
    Unavailable,
}

impl From<table::Error> for LaneError {
    fn from(error: table::Error) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a group was not committed"
        );
        match error {
            table::Error::KeyUnavailable(_) => Self::KeyUnavailable,
            table::Error::Tampered { .. }
            | table::Error::Unavailable { .. }
            | table::Error::Conflict
            | table::Error::Malformed { .. } => Self::Unavailable,
        }
    }
}

/// Work for one table, and where its result is awaited.
pub(crate) struct Job<W, R> {
    pub(crate) work: W,
    pub(crate) reply: oneshot::Sender<R>,
}

/// Commits groups of jobs; the only writer of its table in this process.
pub(crate) trait Lane: Send + 'static {
    /// What a caller hands in.
    type Work: Send;
    /// What a caller gets back.
    type Reply: Send;

    /// Commits one group and answers every job of it.
    fn commit(
        &mut self,
        jobs: Vec<Job<Self::Work, Self::Reply>>,
    ) -> impl Future<Output = ()> + Send;
}

/// The queue of one lane.
#[derive(Debug)]
pub(crate) struct Queue<W, R> {
    jobs: mpsc::Sender<Job<W, R>>,
}

impl<W, R> Clone for Queue<W, R> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
        }
    }
}

impl<W: Send + 'static, R: Send + 'static> Queue<W, R> {
    /// Starts the task of `lane`. It ends when the last queue to it is dropped and what had queued up is committed.
    pub(crate) fn start<L: Lane<Work = W, Reply = R>>(lane: L) -> Self {
        let (jobs, waiting) = mpsc::channel(QUEUE_JOBS_MAX);
        tokio::spawn(run(lane, waiting));
        Self { jobs }
    }

    /// Queues work; the receiver resolves when its commit is durable. `None`: the queue is full or its task has died.
    pub(crate) fn submit(&self, work: W) -> Option<oneshot::Receiver<R>> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job { work, reply }).ok()?;
        Some(answer)
    }
}

/// The queues of one kind of table, one for each tenant that was active since the start.
#[derive(Debug)]
pub(crate) struct Queues<W, R>(Mutex<HashMap<TenantId, Queue<W, R>>>);

impl<W, R> Default for Queues<W, R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<W: Send + 'static, R: Send + 'static> Queues<W, R> {
    /// The tenant's queue, whose lane is started if it is the first time.
    pub(crate) fn of<L>(&self, tenant: &TenantId, lane: impl FnOnce() -> L) -> Queue<W, R>
    where
        L: Lane<Work = W, Reply = R>,
    {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queues
            .entry(tenant.clone())
            .or_insert_with(|| Queue::start(lane()))
            .clone()
    }
}

async fn run<L: Lane>(mut lane: L, mut waiting: mpsc::Receiver<Job<L::Work, L::Reply>>) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP_JOBS_MAX).await > 0 {
        lane.commit(std::mem::take(&mut group)).await;
    }
}

/// The `txn` application id that carries the tree size of a stream.
pub(crate) fn log_app_id(stream: &str) -> String {
    format!("th.log:{stream}")
}

/// Hands out leaf indexes, stream by stream, from the tree sizes of one table state.
#[derive(Debug, Default)]
pub(crate) struct Leaves {
    sizes: BTreeMap<String, i64>,
}

impl Leaves {
    /// The next leaf index of `stream`; `committed` is the tree size in the log, asked once per stream.
    pub(crate) fn next(&mut self, stream: &str, committed: impl FnOnce() -> Option<i64>) -> i64 {
        let size = match self.sizes.get_mut(stream) {
            Some(size) => size,
            None => self
                .sizes
                .entry(stream.to_owned())
                .or_insert_with(|| committed().unwrap_or(0)),
        };
        let index = *size;
        *size += 1;
        index
    }

    /// The `txn` actions of a commit: each stream's new tree size.
    pub(crate) fn into_txns(self) -> Vec<(String, i64)> {
        self.sizes
            .into_iter()
            .map(|(stream, size)| (log_app_id(&stream), size))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    struct Counting {
        gate: Arc<Semaphore>,
        commits: Arc<AtomicUsize>,
    }

    impl Lane for Counting {
        type Work = usize;
        type Reply = usize;

        async fn commit(&mut self, jobs: Vec<Job<usize, usize>>) {
            self.gate.acquire().await.expect("open").forget();
            self.commits.fetch_add(1, Ordering::SeqCst);
            for job in jobs {
                let _ = job.reply.send(job.work * 2);
            }
        }
    }

    #[tokio::test]
    async fn what_waits_shares_one_commit() {
        let gate = Arc::new(Semaphore::new(0));
        let commits = Arc::new(AtomicUsize::new(0));
        let queue = Queue::start(Counting {
            gate: Arc::clone(&gate),
            commits: Arc::clone(&commits),
        });
        let first = queue.submit(1).expect("queued");
        tokio::task::yield_now().await;
        let rest: Vec<_> = (2..50)
            .map(|work| queue.submit(work).expect("queued"))
            .collect();
        gate.add_permits(10);
        assert_eq!(first.await.expect("answered"), 2);
        for (position, answer) in rest.into_iter().enumerate() {
            assert_eq!(answer.await.expect("answered"), (position + 2) * 2);
        }
        assert!(
            commits.load(Ordering::SeqCst) <= 3,
            "49 jobs took {commits:?} commits"
        );
    }

    #[test]
    fn leaves_continue_from_the_committed_size() {
        let mut leaves = Leaves::default();
        assert_eq!(leaves.next("audit.default", || Some(7)), 7);
        assert_eq!(leaves.next("audit.default", || None), 8);
        assert_eq!(leaves.next("audit.security", || None), 0);
        assert_eq!(
            leaves.into_txns(),
            [
                ("th.log:audit.default".to_owned(), 9),
                ("th.log:audit.security".to_owned(), 1)
            ]
        );
    }
}
