//! The records lane of one tenant: drop what is known, number what is new, promise each its place.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::clock::Clock;
use catalog::ids::{PolicyVersion, StreamName, TenantId};
use catalog::keys::KeyRing;
use catalog::lease::{Lease, LeaseError, Leases};
use catalog::node::Holder;

use crate::record::StoredRecord;
use crate::record::canonical::read_payload;
use crate::seal::Hash;
use crate::sequencer::{Berth, Freight, LaneError, Payload, Plan, Prepared, StoredAt, Tree};
use crate::table::{TableKind, TableState};

use super::dedupe::{Dedup, Error, KeyDigest, Known, Place};
use super::outcome::Receipt;
use super::promising::Promising;
use super::round::Round;
use super::rows::RecordRows;

/// Records that are decided without leaving the task.
const RECORDS_INLINE_MAX: usize = 1_024;
/// Keys of a flush that are dealt with together: whoever takes records waits for that long.
const KEYS_AT_ONCE: usize = 512;
/// Times that the index of keys catches up with what others commit before a request is told to come again.
const CATCH_UPS_MAX: usize = 16;
const NO_SEQUEL: LaneError = LaneError::Fault(
    "the write-ahead log does not go on where the table ends: another node has written",
);

/// A redacted record that has no place in the log yet.
pub(crate) struct Candidate {
    pub(crate) stored: Box<StoredRecord>,
    pub(crate) key: KeyDigest,
    /// The keyed hash of its payload.
    pub(crate) payload: [u8; 32],
    pub(crate) policy_version: PolicyVersion,
    pub(crate) leaf: Hash,
}

/// Candidates that are appended together.
pub(crate) struct Portion {
    pub(crate) candidates: Vec<Candidate>,
    /// How large they were when they were sent.
    pub(crate) bytes: usize,
}

/// What the lane made of a candidate.
pub(crate) enum Disposition {
    /// It is in the log.
    Stored(Receipt),
    /// Its key belongs to another payload.
    Mismatch {
        /// The candidate, which is not stored.
        rejected: Box<StoredRecord>,
        /// The stored payload's keyed hash.
        stored_keyed: String,
    },
}

/// The one writer of a tenant's records in this process.
pub(crate) struct Records {
    index: Dedup,
    clock: Arc<dyn Clock>,
    promising: Arc<Promising>,
    leases: Option<(Arc<Leases>, Holder)>,
    lease: tokio::sync::Mutex<Option<Lease>>,
    log: Mutex<Log>,
}

/// What is durable, beyond what the table's newest commit says.
#[derive(Default)]
struct Log {
    streams: BTreeMap<StreamName, Stream>,
    /// Records that the index of the table does not have yet.
    known: HashMap<KeyDigest, Known>,
}

/// The end of a stream's log.
#[derive(Clone)]
pub(super) struct Stream {
    pub(super) next: i64,
    pub(super) segment: Option<Arc<str>>,
    /// The root of the last group.
    pub(super) group: Option<Hash>,
}

/// What a group adds to the log.
pub(crate) struct Memo {
    pub(super) streams: BTreeMap<StreamName, Stream>,
    pub(super) known: Vec<(KeyDigest, Known)>,
}

impl Records {
    pub(super) fn new(
        index: Dedup,
        clock: Arc<dyn Clock>,
        keys: Arc<KeyRing>,
        leases: Option<(Arc<Leases>, Holder)>,
    ) -> Self {
        Self {
            index,
            clock,
            promising: Promising::new(keys),
            leases,
            lease: tokio::sync::Mutex::default(),
            log: Mutex::default(),
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each key. Whatever leaves the log's memory is in the index before, so that order matters here.
    async fn look_up(
        &self,
        berth: &Berth,
        keys: &[KeyDigest],
    ) -> Result<Vec<Option<Known>>, LaneError> {
        let mut known: Vec<Option<Known>> = {
            let log = self.log();
            keys.iter().map(|key| log.known.get(key).cloned()).collect()
        };
        let missing: Vec<KeyDigest> = keys
            .iter()
            .zip(&known)
            .filter(|(_, known)| known.is_none())
            .map(|(key, _)| *key)
            .collect();
        if missing.is_empty() {
            return Ok(known);
        }
        let place = place(berth);
        let mut attempts = 0;
        let found = loop {
            match self.index.get_many(&place, &missing).await {
                Err(Error::Stale) if attempts < CATCH_UPS_MAX => {
                    attempts += 1;
                    let state = berth.table.state().await?;
                    self.index.catch_up(&place, &berth.table, &state).await?;
                }
                answered => break answered?,
            }
        };
        let slots = known.iter_mut().filter(|known| known.is_none());
        for (slot, found) in slots.zip(found) {
            *slot = found;
        }
        Ok(known)
    }

    /// The ends of the logs of these streams. A stream that this lane has not written to is as the table has it.
    async fn ends(
        &self,
        berth: &Berth,
        candidates: &[Candidate],
    ) -> Result<BTreeMap<StreamName, Stream>, LaneError> {
        let mut ends = BTreeMap::new();
        {
            let log = self.log();
            for candidate in candidates {
                let stream = &candidate.stored.stream;
                if !ends.contains_key(stream) {
                    ends.insert(stream.clone(), log.streams.get(stream).cloned());
                }
            }
        }
        let mut found = BTreeMap::new();
        for (stream, end) in ends {
            let end = match end {
                Some(end) => end,
                None => {
                    let state = berth.table.state().await?;
                    Stream::of(&berth.tree(&state, stream.as_str()).await?)
                }
            };
            found.insert(stream, end);
        }
        Ok(found)
    }
}

impl Stream {
    fn of(tree: &Tree) -> Self {
        Self {
            next: tree.next(),
            segment: tree.segment.as_deref().map(Arc::from),
            group: tree.group,
        }
    }

    /// The segment that a record of this moment is in. A clock that goes back does not bring an older one back.
    pub(super) fn segment(&mut self, now: &str) -> Arc<str> {
        match &self.segment {
            Some(last) if **last >= *now => Arc::clone(last),
            _ => Arc::clone(self.segment.insert(now.into())),
        }
    }
}

fn place(berth: &Berth) -> Place {
    Place {
        tenant: berth.tenant.clone(),
        silo: berth.silo.clone(),
    }
}

impl Freight for Records {
    type Work = Portion;
    type Answer = Vec<Disposition>;
    type Rows = RecordRows;
    type Memo = Memo;
    type Entries = Vec<KeyDigest>;
    const TABLE: TableKind = TableKind::Records;

    fn weigh(portion: &Portion) -> usize {
        portion.bytes
    }

    async fn claim(&self, berth: &Berth) -> Result<Option<i64>, LaneError> {
        let mut lease = self.lease.lock().await;
        if lease.is_none() {
            let (leases, holder) = self.leases.as_ref().ok_or(LaneError::Unavailable)?;
            let taken = leases.acquire(&berth.tenant, &berth.silo, holder);
            *lease = Some(taken.await.map_err(|error| match &error {
                LeaseError::HeldBy { node } => {
                    tracing::warn!(tenant = %berth.tenant, node, "another node takes this tenant's records");
                    LaneError::Elsewhere
                }
                LeaseError::Abandoned => {
                    tracing::error!("this node was abandoned: it takes no records any more");
                    LaneError::Elsewhere
                }
                other => {
                    tracing::warn!(tenant = %berth.tenant, error = other as &dyn std::error::Error,
                        "the right to take a tenant's records cannot be had");
                    LaneError::Unavailable
                }
            })?);
        }
        let fence = lease.as_ref().map_or(0, Lease::fence);
        Ok(Some(i64::try_from(fence).unwrap_or(i64::MAX)))
    }

    async fn open(
        &self,
        berth: &Berth,
        state: &Arc<TableState>,
        recovered: &[RecordRows],
    ) -> Result<(), LaneError> {
        self.index
            .catch_up(&place(berth), &berth.table, state)
            .await?;
        self.promising.open(berth).await;
        let mut log = Log::default();
        for rows in recovered {
            let (frames, decode) = (rows.frames.clone(), RecordRows::decoded);
            let stored = tokio::task::spawn_blocking(move || decode(&frames));
            let stored = stored.await.map_err(|_| LaneError::Unavailable)?;
            let stored = stored.ok_or(LaneError::Unavailable)?;
            for (row, key) in stored.iter().zip(&rows.keys) {
                let stream = &row.stream;
                if !log.streams.contains_key(stream) {
                    let tree = berth.tree(state, stream.as_str()).await?;
                    log.streams.insert(stream.clone(), Stream::of(&tree));
                }
                let end = log.streams.get_mut(stream);
                let (Some(end), Some(known)) = (end, known_of(row)) else {
                    return Err(LaneError::Unavailable);
                };
                if row.leaf_index != Some(end.next) {
                    return Err(NO_SEQUEL);
                }
                end.next += 1;
                end.segment = row.segment_id.as_deref().map(Arc::from);
                end.group = rows.groups.get(stream).copied();
                log.known.insert(*key, known);
            }
        }
        *self.log() = log;
        Ok(())
    }

    async fn plan(&self, berth: &Berth, works: Vec<Portion>) -> Result<Plan<Self>, LaneError> {
        let sizes: Vec<usize> = works.iter().map(|work| work.candidates.len()).collect();
        let candidates: Vec<Candidate> =
            works.into_iter().flat_map(|work| work.candidates).collect();
        let keys: Vec<KeyDigest> = candidates.iter().map(|candidate| candidate.key).collect();
        let known = self.look_up(berth, &keys).await?;
        let ends = self.ends(berth, &candidates).await?;
        let (now, key) = (self.clock.now(), self.promising.key());
        let round = move || Round::new(ends, now, key).decide(candidates, known, &sizes);
        if keys.len() <= RECORDS_INLINE_MAX {
            return Ok(round());
        }
        let decided = tokio::task::spawn_blocking(round);
        decided.await.map_err(|_| LaneError::Unavailable)
    }

    fn advance(&self, memo: Memo) {
        let mut log = self.log();
        log.streams.extend(memo.streams);
        log.known.extend(memo.known);
    }

    fn decode(payload: Payload) -> Option<RecordRows> {
        RecordRows::of(payload)
    }

    fn prepare(rows: RecordRows) -> Result<Prepared<Vec<KeyDigest>>, LaneError> {
        rows.prepared()
    }

    async fn stored(
        &self,
        berth: &Berth,
        at: StoredAt<'_>,
        keys: &Vec<KeyDigest>,
    ) -> Result<(), LaneError> {
        let place = place(berth);
        match at {
            StoredAt::Version(version) => {
                let mut entries = Vec::with_capacity(keys.len());
                for keys in keys.chunks(KEYS_AT_ONCE) {
                    {
                        let log = self.log();
                        let known = |key: &KeyDigest| Some((*key, log.known.get(key)?.clone()));
                        entries.extend(keys.iter().filter_map(known));
                    }
                    tokio::task::yield_now().await;
                }
                self.index.apply(&place, version, entries).await;
            }
            StoredAt::Before(state) => {
                self.index.catch_up(&place, &berth.table, state).await?;
            }
        }
        self.promising.renew(berth);
        for keys in keys.chunks(KEYS_AT_ONCE) {
            {
                let mut log = self.log();
                for key in keys {
                    log.known.remove(key);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn close(&self, tenant: &TenantId, settled: bool) {
        *self.log() = Log::default();
        self.promising.forget();
        let lease = self.lease.lock().await.take();
        // The numbers of what is in the log alone are promised: the lease stays with this node.
        let (true, Some(lease), Some((leases, _))) = (settled, lease, &self.leases) else {
            return;
        };
        if let Err(error) = leases.release(lease).await {
            tracing::warn!(%tenant, error = &error as &dyn std::error::Error,
                "the right to take a tenant's records was not given back");
        }
    }
}

/// What its sender was told of a record.
fn known_of(row: &StoredRecord) -> Option<Known> {
    Some(Known {
        payload: read_payload(row.payload_hash.as_deref()?)?,
        receipt: Receipt {
            record_id: row.record_id,
            policy_version: PolicyVersion::parse(row.policy_version.as_deref()?).ok()?,
            stream: row.stream.clone(),
            schema_version: None,
            leaf_index: row.leaf_index?,
            segment_id: row.segment_id.as_deref().map(Arc::from),
            duplicate: true,
            promise: None,
        },
    })
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").finish_non_exhaustive()
    }
}
