//! What the queries of a process share: threads, slots, memory and room on disk.
//!
//! ```text
//! slots ──▶ Share (memory, key of its spill) ──▶ planning, on a thread of its own ──▶ running, on the workers
//! ```
//! A [`Share`] is one query's part. Whoever plans or runs for the query holds it, and the last of them gives it back.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalog::clock::Random;
use catalog::ids::TenantId;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use tokio::runtime::Handle;

use super::error::Error;
use super::memory::{Ledger, QueryMemory};
use super::slots::{Slot, Slots};
use super::spill::{QuerySpill, SpillFolder, Spills};
use super::workers::Workers;
use crate::disk::SystemDisk;

/// Spilled files that are merged in one go. Each takes a frame of memory that nobody accounts for.
const MERGED_MAX: usize = 32;

/// How much the queries of a process may use together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory.
    pub memory_bytes_max: usize,
    /// Bytes of memory that the queries of one tenant may have beyond what each query is sure of.
    pub tenant_memory_bytes_max: usize,
    /// Queries at the same time.
    pub queries_max: usize,
    /// Queries of one tenant at the same time.
    pub tenant_queries_max: usize,
    /// How long a query waits for its turn, once at most for its tenant's and once for everybody's.
    pub wait_max: Duration,
    /// Threads to run them on.
    pub threads: usize,
    /// Where queries put what does not fit their memory; without it they fail instead.
    pub spill: Option<SpillRoom>,
}

/// Room on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpillRoom {
    /// The folder; made when it is needed.
    pub folder: PathBuf,
    /// Bytes, of all queries together.
    pub bytes_max: u64,
}

/// What queries use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Queries that run.
    pub queries: usize,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Bytes on disk.
    pub spill_bytes: u64,
}

/// What the queries of a process share.
#[derive(Debug)]
pub struct Resources {
    workers: Workers,
    slots: Slots,
    ledger: Arc<Ledger>,
    spill: Option<Arc<SpillFolder>>,
    random: Arc<dyn Random>,
}

impl Resources {
    /// Starts the threads, and clears the spill folder of what an earlier process left.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(budget: &Budget, random: Arc<dyn Random>) -> io::Result<Self> {
        let ledger = Ledger::new(
            budget.memory_bytes_max,
            budget.tenant_memory_bytes_max,
            budget.queries_max,
        );
        let spill = budget.spill.as_ref().map(|room| {
            let disk = Arc::new(SystemDisk);
            Arc::new(SpillFolder::new(disk, room.folder.clone(), room.bytes_max))
        });
        Ok(Self {
            workers: Workers::start(budget.threads)?,
            slots: Slots::new(
                budget.queries_max,
                budget.tenant_queries_max,
                budget.wait_max,
            ),
            ledger: Arc::new(ledger),
            spill,
            random,
        })
    }

    /// What queries use now.
    pub fn usage(&self) -> Usage {
        Usage {
            queries: self.slots.running(),
            memory_bytes: self.ledger.held(),
            spill_bytes: self.spill.as_ref().map_or(0, |folder| folder.bytes()),
        }
    }

    /// A query's share, as soon as there is a slot for it.
    ///
    /// # Errors
    /// [`Error::TooManyQueries`] or [`Error::Busy`] when there is none for too long.
    pub(super) async fn share(
        self: &Arc<Self>,
        tenant: &TenantId,
        memory_bytes_max: usize,
    ) -> Result<Arc<Share>, Error> {
        let slot = self.slots.get(tenant).await?;
        let ledger = Arc::clone(&self.ledger);
        let memory = QueryMemory::new(ledger, tenant.clone(), memory_bytes_max);
        let spill = self.spill.as_ref().map(|folder| {
            let random = Arc::clone(&self.random);
            QuerySpill::new(Arc::clone(folder), random)
        });
        Ok(Arc::new(Share {
            resources: Arc::clone(self),
            memory: Arc::new(memory),
            spill,
            _slot: slot,
        }))
    }
}

/// One query's part of it all.
pub(crate) struct Share {
    resources: Arc<Resources>,
    memory: Arc<dyn MemoryPool>,
    spill: Option<Arc<QuerySpill>>,
    _slot: Slot,
}

impl Share {
    /// The memory that everything the query does is charged to.
    pub(super) fn memory(&self) -> &Arc<dyn MemoryPool> {
        &self.memory
    }

    /// Where the query's operators put what does not fit.
    pub(super) fn disk(&self) -> DiskManagerBuilder {
        let builder = DiskManagerBuilder::default().with_max_spill_merge_fan_in(MERGED_MAX);
        match &self.spill {
            Some(spill) => builder.with_temp_file_factory(Arc::new(Spills(Arc::clone(spill)))),
            None => builder.with_mode(DiskManagerMode::Disabled),
        }
    }

    /// What the query's tasks run on.
    pub(super) fn workers(&self) -> &Handle {
        self.resources.workers.handle()
    }

    /// Runs a plan, which holds the share until its last row.
    pub(super) fn run(
        self: &Arc<Self>,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> SendableRecordBatchStream {
        let workers = &self.resources.workers;
        workers.run(Arc::clone(self), plan, context)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").finish_non_exhaustive()
    }
}
