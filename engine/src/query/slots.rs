//! How many queries run at once, in all and of one tenant, and how many may wait.
//!
//! A query holds its slot from planning to its last row. Its tenant's slots come first: what a tenant has too many of
//! waits behind that tenant's own queries, and only those that got past it wait for the process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::Error;

/// Queries that wait for each that runs.
const WAITING_FACTOR: usize = 4;

/// The slots of a process.
#[derive(Debug)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    queries_max: usize,
    tenant_queries_max: usize,
    wait_max: Duration,
    tenants: Mutex<HashMap<TenantId, Arc<Own>>>,
}

/// The slots of a tenant.
#[derive(Debug)]
struct Own {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to run one query, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Slots {
    pub(super) fn new(queries_max: usize, tenant_queries_max: usize, wait_max: Duration) -> Self {
        Self {
            all: Arc::new(Semaphore::new(queries_max)),
            queries_max,
            tenant_queries_max,
            wait_max,
            tenants: Mutex::default(),
        }
    }

    /// Queries that run now.
    pub(super) fn running(&self) -> usize {
        self.queries_max
            .saturating_sub(self.all.available_permits())
    }

    /// A slot, as soon as there is one.
    ///
    /// # Errors
    /// [`Error::TooManyQueries`] when the tenant has too many, [`Error::Busy`] when everybody together has.
    pub(super) async fn get(&self, tenant: &TenantId) -> Result<Slot, Error> {
        let own = self.own(tenant);
        let slots = Arc::clone(&own.slots);
        let own_slot = match slots.try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => self.queued(&own).await?,
        };
        let all = Arc::clone(&self.all).acquire_owned();
        match timeout(self.wait_max, all).await {
            Ok(Ok(slot)) => Ok(Slot {
                _own: own_slot,
                _all: slot,
            }),
            Ok(Err(_)) | Err(_) => Err(Error::Busy),
        }
    }

    async fn queued(&self, own: &Arc<Own>) -> Result<OwnedSemaphorePermit, Error> {
        let place = Waiting::new(own);
        if place.before >= self.tenant_queries_max.saturating_mul(WAITING_FACTOR) {
            return Err(Error::TooManyQueries);
        }
        let slot = Arc::clone(&own.slots).acquire_owned();
        match timeout(self.wait_max, slot).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(Error::TooManyQueries),
        }
    }

    fn own(&self, tenant: &TenantId) -> Arc<Own> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds or awaits a slot holds a second reference, to the entry or to its slots.
        tenants.retain(|_, own| Arc::strong_count(own) > 1 || Arc::strong_count(&own.slots) > 1);
        let own = tenants.entry(tenant.clone()).or_insert_with(|| {
            Arc::new(Own {
                slots: Arc::new(Semaphore::new(self.tenant_queries_max)),
                waiting: AtomicUsize::new(0),
            })
        });
        Arc::clone(own)
    }
}

/// A place in a tenant's queue.
struct Waiting {
    own: Arc<Own>,
    /// How many were there before.
    before: usize,
}

impl Waiting {
    fn new(own: &Arc<Own>) -> Self {
        Self {
            before: own.waiting.fetch_add(1, Ordering::Relaxed),
            own: Arc::clone(own),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.own.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).expect("a tenant")
    }

    #[tokio::test]
    async fn a_tenant_waits_for_itself_and_everyone_for_the_process() {
        let slots = Slots::new(3, 2, Duration::from_millis(10));
        let hog = tenant("hog");
        let held = [slots.get(&hog).await, slots.get(&hog).await];
        assert!(slots.get(&hog).now_or_never().is_none(), "it waits");
        let quiet = slots.get(&tenant("quiet")).now_or_never();
        let quiet = quiet.expect("at once").expect("a slot");
        assert_eq!(slots.running(), 3);
        let third = slots.get(&tenant("third")).await;
        assert!(matches!(third, Err(Error::Busy)), "{third:?}");
        let more = join_all((0..10).map(|_| slots.get(&hog))).await;
        let refused = |outcome: &Result<Slot, Error>| matches!(outcome, Err(Error::TooManyQueries));
        assert!(more.iter().all(refused), "{more:?}");
        drop(quiet);
        drop(held);
        assert_eq!(slots.running(), 0);
        assert!(slots.get(&hog).now_or_never().is_some());
    }

    #[tokio::test]
    async fn whoever_waits_gets_the_next_slot_and_too_many_do_not_wait() {
        let slots = Arc::new(Slots::new(1, 1, Duration::from_secs(5)));
        let hog = tenant("hog");
        let held = slots.get(&hog).await.expect("a slot");
        let mut waiting: Vec<_> = (0..WAITING_FACTOR)
            .map(|_| Box::pin(slots.get(&hog)))
            .collect();
        assert!(waiting.iter_mut().all(|one| one.now_or_never().is_none()));
        let refused = slots.get(&hog).now_or_never().expect("at once");
        assert!(matches!(refused, Err(Error::TooManyQueries)));
        drop(held);
        let next = waiting.remove(0).now_or_never();
        let next = next.expect("at once").expect("a slot");
        // A client that went away keeps no place.
        drop(waiting);
        drop(next);
        assert!(slots.get(&hog).now_or_never().is_some());
        assert_eq!(slots.own(&hog).waiting.load(Ordering::Relaxed), 0);
    }
}
