//! One lane: groups what waits, makes it durable, answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use catalog::ids::TenantId;
use catalog::keys::EpochKey;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::wal::Source;

use super::lanes::Berths;
use super::pending::{Group, Mark, Pending, Reply, Waiting};
use super::{Ack, Berth, Cargo, Freight, LaneError, Plan, Sequencer, flush};

/// Jobs that one group carries at most.
const GROUP_JOBS_MAX: usize = 512;
/// Bytes after which a group takes no further job.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Work for a lane, and where its result is awaited.
pub(super) struct Job<F: Freight> {
    pub(super) work: F::Work,
    pub(super) reply: Reply<F>,
}

/// What a lane does with work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It reads table and log; work waits.
    Opening,
    /// It takes work.
    Open,
    /// It answers so.
    Refusing(LaneError),
}

/// The one writer of a table in this process.
pub(super) struct Lane<F: Freight> {
    pub(super) sequencer: Arc<Sequencer>,
    pub(super) freight: F,
    pub(super) tenant: TenantId,
    pub(super) berths: Weak<Berths<F>>,
    pub(super) jobs: mpsc::Receiver<Job<F>>,
    pub(super) status: watch::Sender<Status>,
    /// Whether the log has, or may have, rows that are not in the table.
    pub(super) recovers: bool,
}

/// A lane that has read table and log.
pub(super) struct Opened<F: Freight> {
    pub(super) berth: Berth,
    /// The fence of the table, where there is one.
    pub(super) fence: Option<i64>,
    pub(super) journal: Option<Journaled>,
    pub(super) pending: Pending<F>,
}

/// Where a lane writes in the log, and under which key.
pub(super) struct Journaled {
    pub(super) source: Source,
    /// Held as long as the lane lives, so that no outage of the KMS stops it.
    key: Mutex<Arc<EpochKey>>,
    /// How far the table is known to be.
    pub(super) reached: AtomicU64,
}

impl Journaled {
    pub(super) fn new(source: Source, key: Arc<EpochKey>) -> Self {
        Self {
            source,
            key: Mutex::new(key),
            reached: AtomicU64::new(0),
        }
    }

    fn key(&self) -> Arc<EpochKey> {
        Arc::clone(&self.key.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn renew(&self, key: Arc<EpochKey>) {
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

/// Why a lane stopped appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Idle,
    /// Nobody can hand in work any more.
    Closed,
    Failed(LaneError),
}

impl<F: Freight> Lane<F> {
    /// Runs until it was idle for long, or the lanes are drained; gives 1 if rows are left in the log alone.
    pub(super) async fn run(mut self) -> usize {
        loop {
            let Some(opened) = self.opened().await else {
                self.freight.close(&self.tenant, !self.recovers).await;
                return usize::from(self.recovers);
            };
            self.status.send_replace(Status::Open);
            let (ended, ()) = {
                let Self {
                    sequencer,
                    freight,
                    jobs,
                    ..
                } = &mut self;
                let writer = Writer {
                    sequencer,
                    freight,
                    opened: &opened,
                };
                tokio::join!(writer.append(jobs), flush::run(sequencer, freight, &opened))
            };
            self.note_reached(&opened);
            self.recovers = opened.pending.bytes() > 0 || matches!(ended, Ended::Failed(_));
            let status = match ended {
                Ended::Failed(error) => Status::Refusing(error),
                Ended::Idle | Ended::Closed => Status::Opening,
            };
            self.status.send_replace(status);
            self.freight.close(&self.tenant, !self.recovers).await;
            match ended {
                Ended::Closed => return usize::from(self.recovers),
                Ended::Idle if self.leave() => return 0,
                Ended::Idle => {}
                // The log still has what was acknowledged.
                Ended::Failed(_) => {}
            }
        }
    }

    fn note_reached(&self, opened: &Opened<F>) {
        let Some(journal) = &opened.journal else {
            return;
        };
        let reached = journal.reached.load(Ordering::Acquire);
        if reached > 0 {
            self.sequencer.note_reached(&self.tenant, F::TABLE, reached);
        }
    }

    /// Whether nobody has work, so that the lane can end. If it does, the next caller starts another.
    pub(super) fn leave(&mut self) -> bool {
        match self.berths.upgrade() {
            Some(berths) => berths.leave(&self.tenant, &mut self.jobs),
            None => true,
        }
    }
}

/// The half of a lane that makes groups durable.
struct Writer<'l, F: Freight> {
    sequencer: &'l Sequencer,
    freight: &'l F,
    opened: &'l Opened<F>,
}

impl<F: Freight> Writer<'_, F> {
    async fn append(&self, jobs: &mut mpsc::Receiver<Job<F>>) -> Ended {
        let pending = &self.opened.pending;
        loop {
            let idle = tokio::time::sleep(self.sequencer.settings.idle);
            tokio::select! {
                biased;
                error = pending.failure() => {
                    return Ended::Failed(error);
                }
                job = jobs.recv() => {
                    let Some(job) = job else {
                        pending.stop();
                        return Ended::Closed;
                    };
                    self.store(grouped(job, jobs)).await;
                }
                () = idle => {
                    if pending.bytes() == 0 {
                        pending.stop();
                        return Ended::Idle;
                    }
                }
            }
        }
    }

    async fn store(&self, jobs: Vec<Job<F>>) {
        let (works, replies): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.work, job.reply)).unzip();
        match self.make_durable(works).await {
            Err(error) => {
                for reply in replies {
                    let _ = reply.send(Err(error));
                }
            }
            Ok(durable) => {
                // A caller that went away finds its receipt by sending the same again.
                let waiting: Vec<_> = replies
                    .into_iter()
                    .zip(durable.answers)
                    .map(|(reply, answer)| Waiting { reply, answer })
                    .collect();
                let early =
                    self.sequencer.settings.ack == Ack::Wal && self.opened.journal.is_some();
                let mut group = Group {
                    mark: durable.mark,
                    rows: durable.rows,
                    bytes: durable.bytes,
                    since: Instant::now(),
                    waiting: Vec::new(),
                };
                if !early {
                    group.waiting = waiting;
                    self.opened.pending.push(group);
                    return;
                }
                if group.rows.len() > 0 {
                    self.opened.pending.push(group);
                }
                for waiting in waiting {
                    let _ = waiting.reply.send(Ok(waiting.answer));
                }
            }
        }
    }

    async fn make_durable(&self, works: Vec<F::Work>) -> Result<Durable<F>, LaneError> {
        let Plan {
            rows,
            payload,
            answers,
            memo,
        } = self.freight.plan(&self.opened.berth, works).await?;
        let mut durable: Durable<F> = Durable {
            rows,
            answers,
            bytes: payload.len(),
            mark: None,
        };
        if durable.rows.len() == 0 {
            return Ok(durable);
        }
        let waiting = self.opened.pending.bytes();
        if waiting > 0 && waiting + payload.len() > self.sequencer.settings.tenant_bytes_max {
            tracing::warn!(tenant = %self.opened.berth.tenant, table = F::TABLE.name(),
                "more waits for the table than may: writes are refused");
            return Err(LaneError::Full);
        }
        if let (Some(log), Some(own)) = (&self.sequencer.journal, &self.opened.journal) {
            durable.mark = Some(log.append(&own.source, &own.key(), payload).await?);
        }
        self.freight.advance(memo);
        Ok(durable)
    }
}

/// The job, and what waits behind it, as far as that goes into one group.
fn grouped<F: Freight>(first: Job<F>, jobs: &mut mpsc::Receiver<Job<F>>) -> Vec<Job<F>> {
    let mut bytes = F::weigh(&first.work);
    let mut group = vec![first];
    while bytes < GROUP_BYTES_MAX
        && group.len() < GROUP_JOBS_MAX
        && let Ok(job) = jobs.try_recv()
    {
        bytes += F::weigh(&job.work);
        group.push(job);
    }
    group
}

/// A group that the log has.
struct Durable<F: Freight> {
    rows: F::Rows,
    answers: Vec<F::Answer>,
    bytes: usize,
    mark: Option<Mark>,
}
