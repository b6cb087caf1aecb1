//! The lanes of one kind of table: found by tenant, started when needed, ended together.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::ids::TenantId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::lane::{Job, Lane, Status};
use super::{Freight, LaneError, Sequencer};

/// Jobs that may wait; the next one is told to come back.
const QUEUE_JOBS_MAX: usize = 4_096;
/// Times that a caller meets a lane that just ends.
const MEETINGS_MAX: usize = 8;

/// The lanes of one kind of table.
pub(crate) struct Lanes<F: Freight>(Arc<Berths<F>>);

/// Makes the freight of a tenant's lane.
type Make<F> = Box<dyn Fn(&TenantId) -> F + Send + Sync>;

pub(super) struct Berths<F: Freight> {
    sequencer: Arc<Sequencer>,
    make: Make<F>,
    lanes: Mutex<Open<F>>,
}

struct Open<F: Freight> {
    by_tenant: HashMap<TenantId, Entry<F>>,
    /// Lanes that are to end, and those that ended lately.
    tasks: Vec<JoinHandle<usize>>,
    stopping: bool,
}

struct Entry<F: Freight> {
    jobs: mpsc::Sender<Job<F>>,
    status: watch::Receiver<Status>,
}

impl<F: Freight> Clone for Entry<F> {
    fn clone(&self) -> Self {
        Self {
            jobs: self.jobs.clone(),
            status: self.status.clone(),
        }
    }
}

impl<F: Freight> Berths<F> {
    fn lock(&self) -> MutexGuard<'_, Open<F>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a lane unless somebody has work for it.
    pub(super) fn leave(&self, tenant: &TenantId, jobs: &mut mpsc::Receiver<Job<F>>) -> bool {
        let mut open = self.lock();
        if !jobs.is_empty() {
            return false;
        }
        jobs.close();
        open.by_tenant.remove(tenant);
        true
    }
}

impl<F: Freight> Lanes<F> {
    pub(crate) fn new(
        sequencer: Arc<Sequencer>,
        make: impl Fn(&TenantId) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Berths {
            sequencer,
            make: Box::new(make),
            lanes: Mutex::new(Open {
                by_tenant: HashMap::new(),
                tasks: Vec::new(),
                stopping: false,
            }),
        }))
    }

    /// Starts the lanes of tenants whose rows are in the log and not in the table.
    pub(crate) fn recover(&self, tenants: impl IntoIterator<Item = TenantId>) {
        for tenant in tenants {
            let _ = self.lane(&tenant, true);
        }
    }

    /// Waits until the tenant's lane takes work.
    pub(crate) async fn ready(&self, tenant: &TenantId) -> Result<(), LaneError> {
        for _ in 0..MEETINGS_MAX {
            let mut entry = self.lane(tenant, false)?;
            let known = entry
                .status
                .wait_for(|status| !matches!(status, Status::Opening))
                .await
                .map(|status| *status);
            match known {
                Ok(Status::Refusing(error)) => return Err(error),
                Ok(_) => return Ok(()),
                // It has ended since.
                Err(_) => {}
            }
        }
        Err(LaneError::Unavailable)
    }

    /// Hands work to the tenant's lane, now. What it says resolves when the work is as durable as it has to be.
    pub(crate) fn submit(
        &self,
        tenant: &TenantId,
        work: F::Work,
    ) -> Result<oneshot::Receiver<Result<F::Answer, LaneError>>, LaneError> {
        let (reply, answer) = oneshot::channel();
        let mut job = Job { work, reply };
        for _ in 0..MEETINGS_MAX {
            match self.lane(tenant, false)?.jobs.try_send(job) {
                Ok(()) => return Ok(answer),
                Err(mpsc::error::TrySendError::Closed(back)) => job = back,
                Err(mpsc::error::TrySendError::Full(_)) => return Err(LaneError::Unavailable),
            }
        }
        Err(LaneError::Unavailable)
    }

    /// Takes nothing any more, and puts into the tables what is pending, until `end` at the latest. Gives how many tables
    /// have, or may have, something left.
    ///
    /// What has not ended by then goes on as long as the process does.
    pub(crate) async fn drain(&self, end: Instant) -> usize {
        let tasks = {
            let mut open = self.0.lock();
            open.stopping = true;
            open.by_tenant.clear();
            std::mem::take(&mut open.tasks)
        };
        let mut left = 0;
        for task in tasks {
            left += match timeout_at(end, task).await {
                Ok(ended) => ended.unwrap_or(1),
                Err(_) => 1,
            };
        }
        left
    }

    fn lane(&self, tenant: &TenantId, recovers: bool) -> Result<Entry<F>, LaneError> {
        let mut open = self.0.lock();
        if open.stopping {
            return Err(LaneError::Unavailable);
        }
        if let Some(entry) = open.by_tenant.get(tenant)
            && !entry.jobs.is_closed()
        {
            return Ok(entry.clone());
        }
        let (jobs, waiting) = mpsc::channel(QUEUE_JOBS_MAX);
        let (status, told) = watch::channel(Status::Opening);
        let lane = Lane {
            sequencer: Arc::clone(&self.0.sequencer),
            freight: (self.0.make)(tenant),
            tenant: tenant.clone(),
            berths: Arc::downgrade(&self.0),
            jobs: waiting,
            status,
            recovers,
        };
        open.tasks.retain(|task| !task.is_finished());
        open.tasks.push(self.0.sequencer.runtime.spawn(lane.run()));
        let entry = Entry { jobs, status: told };
        open.by_tenant.insert(tenant.clone(), entry.clone());
        Ok(entry)
    }
}

impl<F: Freight> fmt::Debug for Lanes<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("table", &F::TABLE)
            .finish_non_exhaustive()
    }
}
