//! Lanes: one writer for each table of a tenant, from what callers hand in to rows in the table.
//!
//! ```text
//! submit ──lanes──▶ queue ──lane──▶ group ──wal──▶ acknowledged ──pending──▶ flush ──▶ one Delta commit ──▶ wal.release
//!                                                                  ▲
//!                                    restart: wal ──recover────────┘
//! ```
//! A lane takes whatever queued up while its last append waited for the disk, so an idle lane appends at once and a
//! busy one shares an append among many. What a group changes in memory (leaf numbers, known keys) is taken over only
//! after the append. Every few moments, or when there is much, or when somebody waits for it, what is pending becomes
//! one commit; that commit says how far the log is in the table, so that a replay is a no-op.
//!
//! What differs between records, evidence and quarantine is their [`Freight`].

mod feed;
mod flush;
mod journal;
mod lane;
mod lanes;
mod opening;
mod pending;
mod rebuild;
mod recover;
mod tree;

pub(crate) use self::feed::{Committed, Growth};
pub use self::feed::{Feed, Heard, LogName};
pub(crate) use self::rebuild::leaves;
pub(crate) use self::tree::{said, streams};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use catalog::clock::{Clock, Random};
use catalog::ids::{RecordId, RecordIds, SiloId, StreamName, TenantId};
use catalog::keys::KeyRing;
use catalog::node::Standing;
use catalog::tenant::Registry;
use tokio::runtime::Handle;

use crate::seal::Hash;
use crate::table::{self, Table, TableKind, TableState, Tables};
use crate::wal::Wal;

use self::journal::Journal;
pub(crate) use self::lanes::Lanes;
use self::tree::NoTree;
pub(crate) use self::tree::Tree;
pub(crate) use crate::wal::Payload;

/// When a write is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// When it is durable in the write-ahead log.
    Wal,
    /// When it is in the table.
    Commit,
}

/// How lanes write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When a write is acknowledged.
    pub ack: Ack,
    /// How old what is pending gets before it is put into the table.
    pub flush_age: Duration,
    /// How many bytes of it are put into the table at once, and are reason enough to do it.
    pub flush_bytes: usize,
    /// How many bytes of one table of a tenant may wait; writes beyond are refused.
    pub tenant_bytes_max: usize,
    /// How long a table that nobody writes to stays this node's.
    pub idle: Duration,
}

/// Why a lane did not take what it was handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneError {
    /// The tenant's keys are out of reach.
    KeyUnavailable,
    /// As much waits for the table as may, or the log has no room.
    Full,
    /// Another node writes for the tenant.
    Elsewhere,
    /// The log or storage is out of reach.
    Unavailable,
    /// The table, or the log, is not what was written: an operator has to look at it. The reason in a few words.
    Fault(&'static str),
}

impl LaneError {
    /// The reason in a few words, the same for every occurrence.
    const fn reason(self) -> &'static str {
        match self {
            Self::KeyUnavailable => "the tenant's keys are not available",
            Self::Full => "as much waits for the table as may",
            Self::Elsewhere => "another node writes for the tenant",
            Self::Unavailable => "the table cannot be written now",
            Self::Fault(reason) => reason,
        }
    }
}

impl fmt::Display for LaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for LaneError {}

impl From<table::Error> for LaneError {
    fn from(error: table::Error) -> Self {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a table was not reached"
        );
        match error {
            table::Error::KeyUnavailable(_) => Self::KeyUnavailable,
            table::Error::Tampered { what } => Self::Fault(what),
            table::Error::Unavailable { .. }
            | table::Error::Conflict
            | table::Error::Malformed { .. } => Self::Unavailable,
        }
    }
}

/// Where a lane writes.
#[derive(Debug)]
pub(crate) struct Berth {
    pub(crate) tenant: TenantId,
    pub(crate) silo: SiloId,
    pub(crate) table: Arc<Table>,
}

impl Berth {
    /// The log of a stream.
    fn log(&self, stream: &StreamName) -> LogName {
        LogName {
            tenant: self.tenant.clone(),
            silo: self.silo.clone(),
            stream: stream.clone(),
        }
    }

    /// The log of a stream as `state` has it.
    pub(crate) async fn tree(
        &self,
        state: &Arc<TableState>,
        stream: &str,
    ) -> Result<Tree, LaneError> {
        match Tree::of(state, stream) {
            Ok(tree) => Ok(tree),
            Err(NoTree) => {
                tracing::warn!(tenant = %self.tenant, "a table does not say the tree of a log: it is made from the rows");
                rebuild::tree(&self.table, state, stream).await
            }
        }
    }
}

/// What a lane carries: how work becomes rows, and rows a commit.
///
/// One value serves one lane. It is used by one caller at a time for `open`, `plan` and `advance`; `stored` runs beside
/// those.
pub(crate) trait Freight: Send + Sync + Sized + 'static {
    /// What a caller hands in.
    type Work: Send + 'static;
    /// What a caller gets back.
    type Answer: Send + 'static;
    /// Rows on their way to the table.
    type Rows: Cargo;
    /// What the freight remembers of a group once it is durable.
    type Memo: Send + 'static;
    /// What the freight has to do once rows are in the table.
    type Entries: Send + Sync + 'static;
    /// Which table.
    const TABLE: TableKind;

    /// About how many bytes work has.
    fn weigh(work: &Self::Work) -> usize;

    /// Makes sure that nobody else writes what this lane will number, and gives the fence that its table is to have;
    /// none where rows are numbered at the commit, or not at all. Doing so again is fine.
    fn claim(&self, berth: &Berth) -> impl Future<Output = Result<Option<i64>, LaneError>> + Send;

    /// Takes up the table at `state`, and the rows that are in the log and not in it.
    fn open(
        &self,
        berth: &Berth,
        state: &Arc<TableState>,
        recovered: &[Self::Rows],
    ) -> impl Future<Output = Result<(), LaneError>> + Send;

    /// Decides a group; nothing is remembered yet. As many answers as works.
    fn plan(
        &self,
        berth: &Berth,
        works: Vec<Self::Work>,
    ) -> impl Future<Output = Result<Plan<Self>, LaneError>> + Send;

    /// Remembers a group that is durable.
    fn advance(&self, memo: Self::Memo);

    /// The rows of a payload.
    fn decode(payload: Payload) -> Option<Self::Rows>;

    /// Makes the rows of one commit; it may take its time.
    fn prepare(rows: Self::Rows) -> Result<Prepared<Self::Entries>, LaneError>;

    /// Learns that rows are in the table: since `version`, or, if that is unknown, some time before `state`.
    fn stored(
        &self,
        berth: &Berth,
        at: StoredAt<'_>,
        entries: &Self::Entries,
    ) -> impl Future<Output = Result<(), LaneError>> + Send;

    /// Forgets what it took up, and if everything is `settled`, which is to say in the table, lets go of what others may
    /// want to have.
    fn close(&self, tenant: &TenantId, settled: bool) -> impl Future<Output = ()> + Send;
}

/// Rows on their way to the table.
pub(crate) trait Cargo: Default + Send + Sync + 'static {
    fn len(&self) -> usize;

    /// Appends the rows that came after.
    fn join(&mut self, after: Self);

    /// The greatest record id among them.
    fn last_id(&self) -> Option<RecordId>;
}

/// A decided group.
pub(crate) struct Plan<F: Freight> {
    pub(crate) rows: F::Rows,
    /// The rows as the log is to have them; nothing of it matters if there are none.
    pub(crate) payload: Payload,
    pub(crate) answers: Vec<F::Answer>,
    pub(crate) memo: F::Memo,
}

/// The rows of one commit.
pub(crate) struct Prepared<E> {
    pub(crate) batch: RecordBatch,
    pub(crate) leaves: Vec<Leaves>,
    pub(crate) last_id: Option<RecordId>,
    pub(crate) entries: E,
}

/// The leaves of one stream in one commit, in their order.
pub(crate) struct Leaves {
    pub(crate) stream: StreamName,
    /// The first one's number, where it was given before. Otherwise the batch has numbers that begin with 0, and the
    /// commit moves them to the end of the log.
    pub(crate) first: Option<i64>,
    pub(crate) hashes: Vec<Hash>,
    /// The segments they are in, each with its first one of these.
    pub(crate) segments: Vec<(usize, String)>,
    /// The root of the last group of them that was appended together.
    pub(crate) group: Option<Hash>,
}

impl Leaves {
    pub(crate) fn new(stream: StreamName) -> Self {
        Self {
            stream,
            first: None,
            hashes: Vec::new(),
            segments: Vec::new(),
            group: None,
        }
    }

    pub(crate) fn push(&mut self, leaf: Hash, segment: Option<&str>) {
        let last = self.segments.last().map(|(_, last)| last.as_str());
        if let Some(segment) = segment.filter(|segment| last != Some(segment)) {
            self.segments.push((self.hashes.len(), segment.to_owned()));
        }
        self.hashes.push(leaf);
    }
}

/// Since when rows are in the table.
pub(crate) enum StoredAt<'a> {
    Version(u64),
    Before(&'a Arc<TableState>),
}

/// What all lanes of a process have in common.
pub struct Sequencer {
    tables: Arc<Tables>,
    registry: Arc<Registry>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    ids: Arc<RecordIds>,
    journal: Option<Journal>,
    settings: Settings,
    runtime: Handle,
    /// Who publishes logs.
    feed: Feed,
    /// Tables that are not written, and why.
    shut: Mutex<BTreeMap<(TenantId, &'static str), LaneError>>,
    /// How far lanes of this process that have ended got.
    reached: Mutex<HashMap<(TenantId, TableKind), u64>>,
}

/// What a [`Sequencer`] is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "each is what its type says")]
pub struct Parts {
    pub tables: Arc<Tables>,
    pub registry: Arc<Registry>,
    pub keys: Arc<KeyRing>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub ids: Arc<RecordIds>,
    pub feed: Feed,
}

impl Sequencer {
    /// Lanes over this log. Without one, a write is acknowledged when it is in its table, and records are not taken.
    ///
    /// Their tasks run where this is called.
    pub fn new(parts: Parts, log: Option<(Arc<Wal>, Standing)>, settings: Settings) -> Self {
        let Parts {
            tables,
            registry,
            keys,
            clock,
            random,
            ids,
            feed,
        } = parts;
        Self {
            tables,
            registry,
            keys,
            clock,
            random,
            ids,
            journal: log.map(|(wal, standing)| Journal::new(wal, standing)),
            settings,
            runtime: Handle::current(),
            feed,
            shut: Mutex::default(),
            reached: Mutex::default(),
        }
    }

    /// How many tables are not written until an operator has looked at them, by reason.
    pub fn faults(&self) -> BTreeMap<&'static str, usize> {
        self.counted(|error| matches!(error, LaneError::Fault(_)))
    }

    /// How many tables are not written for the time being, by what is missing.
    pub fn waiting(&self) -> BTreeMap<&'static str, usize> {
        self.counted(|error| !matches!(error, LaneError::Fault(_)))
    }

    fn counted(&self, which: impl Fn(LaneError) -> bool) -> BTreeMap<&'static str, usize> {
        let shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = BTreeMap::new();
        for error in shut.values().filter(|error| which(**error)) {
            *counted.entry(error.reason()).or_default() += 1;
        }
        counted
    }

    pub(crate) fn ids(&self) -> &Arc<RecordIds> {
        &self.ids
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn random(&self) -> &Arc<dyn Random> {
        &self.random
    }

    /// Notes why a table is not written, or that it is.
    fn shut(&self, tenant: &TenantId, table: TableKind, why: Option<LaneError>) {
        let at = (tenant.clone(), table.name());
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match why {
            Some(why) => shut.insert(at, why),
            None => shut.remove(&at),
        };
        if let Some(LaneError::Fault(reason)) = why
            && before != why
        {
            tracing::error!(%tenant, table = table.name(), reason, "writes are refused until an operator has looked");
        }
    }

    /// How far a lane of this process got in the log, if there was one.
    fn reached(&self, tenant: &TenantId, table: TableKind) -> Option<u64> {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.get(&(tenant.clone(), table)).copied()
    }

    fn note_reached(&self, tenant: &TenantId, table: TableKind, position: u64) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.insert((tenant.clone(), table), position);
    }

    /// `duration`, made up to a tenth shorter, so that lanes that began together do not stay so.
    fn jittered(&self, duration: Duration) -> Duration {
        let chance = u32::from(catalog::clock::array::<1>(&*self.random)[0]);
        duration - duration / 10 * chance / 256
    }
}

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
