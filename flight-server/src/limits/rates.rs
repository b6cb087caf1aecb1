//! What each tenant may send: requests, bytes and writes at once, each tenant by itself, so that a flood is its sender's
//! problem and nobody else's.
//!
//! ```text
//! token --> tenant --> admit(class)    a request's cell, for a write also one of the turns   429 at once
//!                        '--> charge   its bytes, from its length or as they arrive          a pause, then 429
//! ```
//! Invariants: the decision needs nothing but the tenant and stands before the evidence of a permit; what is refused is
//! counted here and told to the evidence once a window; nothing waits on a disk.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::clock::{Clock, Timestamp};
use catalog::context::TenantContext;
use catalog::guard::OperationKind;
use catalog::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bucket::{Bucket, Rate, Standing, Tick, Ticks};

/// Bytes are counted in cells of this size: a nanosecond, the finest interval there is, is too coarse for single ones.
const CELL_BYTES: u64 = 1024;
/// How long the bytes of one request may be held back before it is refused, all pauses together.
pub(crate) const PAUSES_MAX: Duration = Duration::from_secs(5);
/// How long a tenant that had too many writes at once is told to wait.
const TURN_WAIT: Duration = Duration::from_secs(1);
/// Refusals of one tenant that are recorded together.
const WINDOW: Duration = Duration::from_secs(60);
/// Tenants whose buckets are kept. When there are more, the quarter that called longest ago begins anew.
const ACCOUNTS_MAX: usize = 16_384;

/// What a route does, as far as its limits go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Records come in.
    Write,
    /// Something is read, planned or looked up.
    Query,
}

impl Class {
    /// The word in metrics and problems.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Query => "query",
        }
    }

    const fn operation(self) -> OperationKind {
        match self {
            Self::Write => OperationKind::Write,
            Self::Query => OperationKind::Read,
        }
    }
}

/// What one tenant may. Whatever is 0 is not limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Requests that write, each second.
    pub write_requests_per_s: u32,
    /// Bytes that these bring, each second.
    pub write_bytes_per_s: u64,
    /// Requests that read, each second.
    pub query_requests_per_s: u32,
    /// As many times that may come at once.
    pub burst: u32,
    /// Requests that write, at the same time.
    pub writes_at_once: u32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self {
            write_requests_per_s: 2_000,
            write_bytes_per_s: 256 * 1024 * 1024,
            query_requests_per_s: 2_000,
            burst: 2,
            writes_at_once: 256,
        }
    }
}

/// What tenants may: all of them, and single ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// Everyone who is not named.
    pub each: TenantLimits,
    /// Those who are.
    pub tenants: BTreeMap<TenantId, TenantLimits>,
}

/// Why a request is refused for now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tenant has used up its {what} for the moment")]
pub struct Limited {
    /// What there was too much of.
    pub what: What,
    /// How long until it is worth trying again.
    pub retry_after: Duration,
    /// Where the tenant's requests stand, where these are limited.
    pub standing: Option<Standing>,
}

/// What there was too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Requests.
    Requests,
    /// Bytes.
    Bytes,
    /// Writes at the same time.
    AtOnce,
    /// Queries at the same time.
    QueriesAtOnce,
}

impl What {
    /// The word in metrics and problems.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::AtOnce => "writes at once",
            Self::QueriesAtOnce => "queries at once",
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Refusals of one tenant within one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals {
    /// The first caller of them.
    pub first: TenantContext,
    /// What was asked for.
    pub operation: OperationKind,
    /// How many there were.
    pub count: u64,
    /// When the first was refused.
    pub since: Timestamp,
}

/// The rates of all tenants.
#[derive(Debug)]
pub struct Rates {
    limits: RateLimits,
    ticks: Ticks,
    accounts: Mutex<HashMap<(TenantId, Class), Arc<Account>>>,
}

/// What is kept of a tenant in one class.
#[derive(Debug)]
struct Account {
    tenant: TenantId,
    ticks: Ticks,
    class: Class,
    requests: Option<Bucket>,
    cells: Option<Bucket>,
    turns: Option<Arc<Semaphore>>,
    used: Mutex<Tick>,
    refused: Mutex<Option<(Tick, Refusals)>>,
}

/// A request that may go on. Its turn ends when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    /// Who asks.
    pub context: TenantContext,
    /// Where the tenant's requests stand, where these are limited.
    pub standing: Option<Standing>,
    account: Arc<Account>,
    bytes: AtomicU64,
    paused_ns: AtomicU64,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Rates {
    /// Rates by this clock.
    pub fn new(limits: RateLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            limits,
            ticks: Ticks::new(clock),
            accounts: Mutex::default(),
        }
    }

    /// Lets one request of this caller go on, or not.
    ///
    /// # Errors
    /// The tenant has used up what it may for now.
    pub fn admit(&self, context: TenantContext, class: Class) -> Result<Admitted, Limited> {
        let account = self.account(context.tenant(), class);
        let one = NonZeroU32::MIN;
        let standing = match account.requests.as_ref().map(|bucket| bucket.take(one)) {
            None => None,
            Some(Ok(standing)) => Some(standing),
            Some(Err(wait)) => {
                return Err(account.refuse(&context, What::Requests, wait));
            }
        };
        let turn = account.turns.as_ref().map(Arc::clone);
        let turn = match turn.map(Semaphore::try_acquire_owned) {
            None => None,
            Some(Ok(turn)) => Some(turn),
            Some(Err(_)) => {
                return Err(account.refuse(&context, What::AtOnce, TURN_WAIT));
            }
        };
        Ok(Admitted {
            context,
            standing,
            account,
            bytes: AtomicU64::new(0),
            paused_ns: AtomicU64::new(0),
            _turn: turn,
        })
    }

    /// Lets one request go on that names a tenant and no caller: it is counted with the tenant's others. What is refused
    /// stands in the metrics alone, since evidence names who asked.
    ///
    /// # Errors
    /// The tenant has used up what it may for now.
    pub fn admit_nobody(
        &self,
        tenant: &TenantId,
        class: Class,
    ) -> Result<Option<Standing>, Limited> {
        let account = self.account(tenant, class);
        let taken = account.requests.as_ref();
        let taken = taken.map(|bucket| bucket.take(NonZeroU32::MIN)).transpose();
        taken.map_err(|wait| account.limited(What::Requests, wait))
    }

    /// Counts a query of this caller that was let go on and then found no slot among its tenant's: it is evidence with
    /// those that were refused before.
    pub fn found_no_slot(&self, context: &TenantContext) {
        let account = self.account(context.tenant(), Class::Query);
        account.refuse(context, What::QueriesAtOnce, TURN_WAIT);
    }

    /// The refusals whose window is over, or all of them; each is given out once.
    pub fn refusals(&self, all: bool) -> Vec<Refusals> {
        let now = self.ticks.now();
        let accounts = lock(&self.accounts);
        let due = |account: &Arc<Account>| {
            let mut refused = lock(&account.refused);
            let over = refused
                .as_ref()
                .is_some_and(|(first, _)| all || now.since(*first) >= WINDOW);
            if over { refused.take() } else { None }
        };
        accounts
            .values()
            .filter_map(due)
            .map(|(_, refusals)| refusals)
            .collect()
    }

    fn account(&self, tenant: &TenantId, class: Class) -> Arc<Account> {
        let now = self.ticks.now();
        let mut accounts = lock(&self.accounts);
        let key = (tenant.clone(), class);
        if let Some(account) = accounts.get(&key) {
            *lock(&account.used) = now;
            return Arc::clone(account);
        }
        if accounts.len() >= ACCOUNTS_MAX {
            forget_quarter(&mut accounts);
        }
        let limits = self.limits.tenants.get(tenant).unwrap_or(&self.limits.each);
        let account = Arc::new(Account::new(tenant.clone(), class, limits, &self.ticks));
        accounts.insert(key, Arc::clone(&account));
        account
    }
}

/// Makes room. Refusals that are forgotten with an account have been counted in the metrics.
fn forget_quarter(accounts: &mut HashMap<(TenantId, Class), Arc<Account>>) {
    let mut uses: Vec<Tick> = accounts.values().map(|one| *lock(&one.used)).collect();
    let quarter = uses.len() / 4;
    let (_, border, _) = uses.select_nth_unstable(quarter);
    let border = *border;
    accounts.retain(|_, one| *lock(&one.used) > border);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    fn new(tenant: TenantId, class: Class, limits: &TenantLimits, ticks: &Ticks) -> Self {
        let bucket = |per_s: u32| {
            let per_s = NonZeroU32::new(per_s)?;
            let burst = NonZeroU32::new(limits.burst).unwrap_or(NonZeroU32::MIN);
            let rate = Rate {
                per_s,
                burst: per_s.saturating_mul(burst),
            };
            Some(Bucket::new(rate, ticks.clone()))
        };
        let cells_per_s = limits.write_bytes_per_s.div_ceil(CELL_BYTES);
        let cells_per_s = u32::try_from(cells_per_s).unwrap_or(u32::MAX);
        let (requests, cells, turns) = match class {
            Class::Write => (
                limits.write_requests_per_s,
                cells_per_s,
                limits.writes_at_once,
            ),
            Class::Query => (limits.query_requests_per_s, 0, 0),
        };
        Self {
            tenant,
            ticks: ticks.clone(),
            class,
            requests: bucket(requests),
            cells: bucket(cells),
            turns: (turns > 0).then(|| Arc::new(Semaphore::new(turns as usize))),
            used: Mutex::new(ticks.now()),
            refused: Mutex::default(),
        }
    }

    fn refuse(&self, context: &TenantContext, what: What, retry_after: Duration) -> Limited {
        let limited = self.limited(what, retry_after);
        let mut refused = lock(&self.refused);
        let (_, refusals) = refused.get_or_insert_with(|| {
            let none = Refusals {
                first: context.clone(),
                operation: self.class.operation(),
                count: 0,
                since: self.ticks.wall(),
            };
            (self.ticks.now(), none)
        });
        refusals.count += 1;
        limited
    }

    fn limited(&self, what: What, retry_after: Duration) -> Limited {
        metrics::counter!("trailhouse_limited_total", "tenant" => self.tenant.to_string(),
            "class" => self.class.as_str(), "what" => what.as_str())
        .increment(1);
        Limited {
            what,
            retry_after,
            standing: self.requests.as_ref().map(|bucket| bucket.standing(0)),
        }
    }
}

impl Admitted {
    /// Charges bytes of this request to its tenant. While the tenant has none left it waits, for a bounded time, and with
    /// it whoever sends.
    ///
    /// # Errors
    /// The time is up: the rest of the request is to be refused.
    pub async fn charge(&self, bytes: usize) -> Result<(), Limited> {
        let Some(bucket) = &self.account.cells else {
            return Ok(());
        };
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let after = before.saturating_add(bytes as u64);
        // What one chunk leaves of a cell the next one fills.
        let mut owed = after.div_ceil(CELL_BYTES) - before.div_ceil(CELL_BYTES);
        while owed > 0 {
            let part = u32::try_from(owed).unwrap_or(u32::MAX).min(bucket.burst());
            let Some(part) = NonZeroU32::new(part) else {
                break;
            };
            match bucket.take(part) {
                Ok(_) => owed -= u64::from(part.get()),
                Err(wait) => self.pause(wait).await?,
            }
        }
        Ok(())
    }

    async fn pause(&self, wait: Duration) -> Result<(), Limited> {
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let paused_ns = self.paused_ns.fetch_add(wait_ns, Ordering::Relaxed);
        if Duration::from_nanos(paused_ns.saturating_add(wait_ns)) > PAUSES_MAX {
            return Err(self.account.refuse(&self.context, What::Bytes, wait));
        }
        metrics::histogram!("trailhouse_throttled_seconds", "tenant" => self.account.tenant.to_string())
            .record(wait.as_secs_f64());
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

#[cfg(test)]
impl Rates {
    pub(super) fn accounts_max(&self) -> usize {
        ACCOUNTS_MAX
    }

    pub(super) fn accounts(&self) -> usize {
        lock(&self.accounts).len()
    }

    pub(super) fn touch(&self, tenant: &TenantId) {
        drop(self.account(tenant, Class::Query));
    }
}
