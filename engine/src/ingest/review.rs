//! What becomes of quarantined records: looked at, and released or discarded, once.
//!
//! ```text
//! open --release--> released    decided (a row), then stored (the ordinary lane, under the entry's own key)
//!   '----discard--> discarded   decided (a row)
//! ```
//! The table of quarantine only grows: a decision is a row of its own. It comes before what it decides, so that a process
//! that stops in between leaves a release that is finished by deciding the same again, and nothing that could be decided
//! otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catalog::clock::{Clock, Timestamp};
use catalog::guard::{Decision, Denial, Permit, QuarantineDecide, QuarantineRead};
use catalog::ids::{RecordId, RecordIds, StreamName, TenantId};
use catalog::policy::{MaskRule, RetentionClass};
use moka::sync::Cache;
use tokio::sync::Mutex;

use crate::record::StoredRecord;
use crate::record::batch::QuarantineRow;
use crate::table::{self, Tables};

use super::Ingest;
use super::entries::{Decisions, Entries};
use super::outcome::{Error, Receipt};

/// Entries of one page at most.
pub const PAGE_MAX: usize = 1_000;
/// How long a decision is remembered beside the table, where it may not be yet.
const REMEMBERED: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: u64 = 100_000;
/// Tenants whose decisions wait for each other.
const TENANTS_MAX: u64 = 10_000;

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Open,
    /// Its record is in the tenant's records.
    Released,
    /// Its record stays out.
    Discarded,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Open, Self::Released, Self::Discarded];

    /// The word in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Released => "released",
            Self::Discarded => "discarded",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What was decided of an entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Decided {
    /// Released or discarded.
    pub state: State,
    /// Why, in the words of who decided.
    pub reason: String,
    /// The subject who decided.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// One entry, as its reviewer sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id: what the sender was given as `evidenceRef`.
    pub id: RecordId,
    /// When it was put aside.
    pub at: Timestamp,
    /// The stream it was sent to.
    pub stream: String,
    /// Slug of the problem that kept it out.
    pub reason: String,
    /// The policy it was redacted by.
    pub policy_version: Option<String>,
    /// Correlation id its sender was given.
    pub correlation_id: Option<String>,
    /// What was decided.
    pub decided: Option<Decided>,
    /// The key it was sent under; only of an entry by itself, and for callers whose profile masks nothing.
    pub idempotency_key: Option<String>,
    /// The redacted record as JSON text, likewise: no rule can be trusted to find its field in what was refused.
    pub payload: Option<String>,
}

impl Entry {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.decided
            .as_ref()
            .map_or(State::Open, |decided| decided.state)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decided")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Which entries.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// In this state; all of them without.
    pub state: Option<State>,
    /// At most so many, and never more than [`PAGE_MAX`].
    pub limit: usize,
    /// Older than this one.
    pub before: Option<RecordId>,
}

/// Some entries, the newest first.
#[derive(Debug)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where the next page goes on, if there is one.
    pub next: Option<RecordId>,
}

/// Why an entry is not shown or not decided.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// There is none of this id in the caller's tenant.
    #[error("there is no such quarantine entry")]
    NotFound,
    /// It was decided before, and otherwise.
    #[error("the quarantine entry is {} already", .0.as_str())]
    Decided(State),
    /// It was put aside by a version that kept no record to release.
    #[error("the quarantine entry holds no record that could be released")]
    NoRecord,
    /// There are more decisions than are looked through.
    #[error("there are too many entries for a list")]
    TooMany,
    /// The evidence is missing.
    #[error("the act is not allowed")]
    Denied(#[source] Denial),
    /// The record could not be stored.
    #[error("the entry could not be decided now")]
    Ingest(#[from] Error),
    /// The table could not be read.
    #[error("the quarantine cannot be read")]
    Table(#[from] table::Error),
}

/// Looks at quarantined records, and decides of them.
pub struct Review {
    tables: Arc<Tables>,
    ingest: Arc<Ingest>,
    ids: Arc<RecordIds>,
    clock: Arc<dyn Clock>,
    /// Decisions of this process. What is durable need not be in the table yet.
    made: Cache<(TenantId, RecordId), Decided>,
    /// One decision of a tenant at a time: two that differ must not both find the entry open.
    deciding: Cache<TenantId, Arc<Mutex<()>>>,
}

impl fmt::Debug for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Review").finish_non_exhaustive()
    }
}

impl Review {
    /// Reviews what this ingest keeps aside in these tables.
    pub fn new(
        tables: Arc<Tables>,
        ingest: Arc<Ingest>,
        ids: Arc<RecordIds>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            tables,
            ingest,
            ids,
            clock,
            made: Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .time_to_live(REMEMBERED)
                .build(),
            deciding: Cache::builder()
                .max_capacity(TENANTS_MAX)
                .time_to_idle(REMEMBERED)
                .build(),
        }
    }

    /// A page of entries.
    ///
    /// # Errors
    /// When the table cannot be read, or the evidence is missing.
    pub async fn entries(
        &self,
        permit: &Permit<QuarantineRead>,
        filter: Filter,
    ) -> Result<Page, ReviewError> {
        let decision = permit.decision();
        let decisions = self.decisions(decision).await?;
        let quarantine = self.quarantine(decision);
        let limit = filter.limit.clamp(1, PAGE_MAX);
        // One more than asked for, to know whether there is another page.
        let mut newest: BTreeMap<RecordId, Entry> = BTreeMap::new();
        let take = |mut entry: Entry| {
            entry.decided = decisions.get(&entry.id).cloned();
            let wanted = filter.state.is_none_or(|state| state == entry.state());
            let older = filter.before.is_none_or(|before| entry.id < before);
            if wanted && older {
                newest.insert(entry.id, entry);
            }
            if newest.len() > limit + 1 {
                newest.pop_first();
            }
        };
        quarantine.each(take).await?;
        permit
            .evidence_durable()
            .await
            .map_err(ReviewError::Denied)?;
        let more = newest.len() > limit;
        let entries: Vec<Entry> = newest.into_values().rev().take(limit).collect();
        let next = entries.last().map(|entry| entry.id).filter(|_| more);
        Ok(Page { entries, next })
    }

    /// One entry.
    ///
    /// # Errors
    /// [`ReviewError::NotFound`], or when the table cannot be read or the evidence is missing.
    pub async fn entry(
        &self,
        permit: &Permit<QuarantineRead>,
        id: RecordId,
    ) -> Result<Entry, ReviewError> {
        let decision = permit.decision();
        let (mut entry, _) = self.find(decision, id).await?;
        if !is_clear(decision) {
            entry.idempotency_key = None;
            entry.payload = None;
        }
        permit
            .evidence_durable()
            .await
            .map_err(ReviewError::Denied)?;
        Ok(entry)
    }

    /// Releases an entry: its record is stored as it was redacted when it was put aside. Doing so again gives the same
    /// receipt. The schema of its version is not asked again: the record met it before it was put aside, a version that is
    /// registered never changes, and what is redacted is not what the schema describes.
    ///
    /// # Errors
    /// [`ReviewError::NotFound`], [`ReviewError::Decided`] when it was discarded, or when something is out of reach.
    pub async fn release(
        &self,
        permit: &Permit<QuarantineDecide>,
        id: RecordId,
        reason: &str,
    ) -> Result<Receipt, ReviewError> {
        let stored = self
            .decide(permit, id, State::Released, reason)
            .await?
            .ok_or(ReviewError::NoRecord)?;
        Ok(self.ingest.release(permit.decision(), id, stored).await?)
    }

    /// Discards an entry: its record stays out. Doing so again changes nothing.
    ///
    /// # Errors
    /// [`ReviewError::NotFound`], [`ReviewError::Decided`] when it was released, or when something is out of reach.
    pub async fn discard(
        &self,
        permit: &Permit<QuarantineDecide>,
        id: RecordId,
        reason: &str,
    ) -> Result<(), ReviewError> {
        self.decide(permit, id, State::Discarded, reason).await?;
        Ok(())
    }

    /// Makes the decision durable, if it is not yet, and gives the entry's record.
    async fn decide(
        &self,
        permit: &Permit<QuarantineDecide>,
        id: RecordId,
        state: State,
        reason: &str,
    ) -> Result<Option<StoredRecord>, ReviewError> {
        let decision = permit.decision();
        permit
            .evidence_durable()
            .await
            .map_err(ReviewError::Denied)?;
        let deciding = self
            .deciding
            .get_with(decision.tenant.clone(), Arc::default);
        let _one_at_a_time = deciding.lock().await;
        let (entry, stored) = self.find(decision, id).await?;
        match entry.state() {
            State::Open if state == State::Released && stored.is_none() => {
                return Err(ReviewError::NoRecord);
            }
            State::Open => {}
            decided if decided == state => return Ok(stored),
            decided => return Err(ReviewError::Decided(decided)),
        }
        let decided = Decided {
            state,
            reason: reason.to_owned(),
            by: decision.subject.clone(),
            at: self.clock.now(),
        };
        let row = self.row(decision, &entry, &decided);
        self.ingest.keep_aside(&decision.tenant, vec![row]).await?;
        self.made.insert((decision.tenant.clone(), id), decided);
        Ok(stored)
    }

    fn row(&self, decision: &Decision, entry: &Entry, decided: &Decided) -> QuarantineRow {
        QuarantineRow {
            tenant_id: decision.tenant.clone(),
            record_id: self.ids.next(&decision.tenant),
            ingested_at: decided.at,
            stream: StreamName::parse(&entry.stream)
                .unwrap_or_else(|_| StreamName::audit_default()),
            // Why a record is where it is, or nowhere, is kept like the proof that it is.
            retention_class: RetentionClass::kept(),
            reason: entry.reason.clone().into(),
            idempotency_key: None,
            payload: None,
            payload_hash: None,
            policy_version: Some(decision.policy.version.clone()),
            correlation_id: decision.correlation.clone(),
            entry_id: entry.id,
            state: decided.state.as_str().into(),
            decision_reason: Some(decided.reason.clone()),
            decided_by: Some(decided.by.clone()),
            sealed_record: None,
        }
    }

    async fn find(
        &self,
        decision: &Decision,
        id: RecordId,
    ) -> Result<(Entry, Option<StoredRecord>), ReviewError> {
        let (mut entry, stored) = self.quarantine(decision).find(id).await?;
        entry.decided = self.decisions(decision).await?.remove(&id);
        Ok((entry, stored))
    }

    async fn decisions(&self, decision: &Decision) -> Result<Decisions, ReviewError> {
        let mut decisions = self.quarantine(decision).decisions().await?;
        for (key, decided) in &self.made {
            let (tenant, entry) = &*key;
            if *tenant == decision.tenant {
                decisions.entry(*entry).or_insert(decided);
            }
        }
        Ok(decisions)
    }

    fn quarantine<'a>(&'a self, decision: &'a Decision) -> Entries<'a> {
        Entries {
            tables: &self.tables,
            decision,
        }
    }
}

/// Whether the caller's profile masks nothing at all.
fn is_clear(decision: &Decision) -> bool {
    let mut rules = decision.profile.fields.values();
    rules.all(|rule| *rule == MaskRule::Clear)
}
