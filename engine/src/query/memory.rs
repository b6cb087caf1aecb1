//! The memory of queries: one budget for the process, and within it one for each tenant and each query.
//!
//! ```text
//! budget ─┬─ floors: a part for each query that may run at once, which nobody else can take
//!         └─ common: what queries take beyond their floor; one tenant has a part of it at most
//! ```
//! So a query that needs little is never refused because of what others hold. Inside a query, operators that can spill
//! share evenly what the others leave. Whoever gets no more spills or fails; no text says what anybody else has.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::ids::TenantId;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation,
};

/// The budget of a process, and who has what of it.
#[derive(Debug)]
pub(super) struct Ledger {
    floor: usize,
    common_max: usize,
    tenant_max: usize,
    common: Mutex<Common>,
}

/// What is taken of the common part.
#[derive(Debug, Default)]
struct Common {
    taken: usize,
    /// By whom; nobody is listed with nothing.
    tenants: HashMap<TenantId, usize>,
    /// What all queries hold, floors included.
    held: usize,
}

impl Ledger {
    /// A budget of `bytes_max`, half of it in floors for `queries_max` queries. Beyond their floors a tenant's queries get
    /// `tenant_bytes_max` at most.
    pub(super) fn new(bytes_max: usize, tenant_bytes_max: usize, queries_max: usize) -> Self {
        let floor = bytes_max / 2 / queries_max.max(1);
        Self {
            floor,
            common_max: bytes_max - floor * queries_max,
            tenant_max: tenant_bytes_max,
            common: Mutex::default(),
        }
    }

    /// Bytes that queries hold now.
    pub(super) fn held(&self) -> usize {
        self.common().held
    }

    fn common(&self) -> MutexGuard<'_, Common> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes from one size of a query to another. A query that may not grow stays as it was, unless it `must`.
    fn resize(&self, tenant: &TenantId, from: usize, to: usize, must: bool) -> bool {
        let before = from.saturating_sub(self.floor);
        let after = to.saturating_sub(self.floor);
        let mut common = self.common();
        if after > before {
            let more = after - before;
            let tenants = common.tenants.get(tenant).copied().unwrap_or(0) + more;
            let all = common.taken + more;
            if !must && (tenants > self.tenant_max || all > self.common_max) {
                return false;
            }
            common.taken = all;
            common.tenants.insert(tenant.clone(), tenants);
        } else if before > after {
            let less = before - after;
            common.taken = common.taken.saturating_sub(less);
            let tenants = common.tenants.get(tenant).copied().unwrap_or(0);
            match tenants.saturating_sub(less) {
                0 => common.tenants.remove(tenant),
                left => common.tenants.insert(tenant.clone(), left),
            };
        }
        common.held = (common.held + to).saturating_sub(from);
        true
    }
}

/// The memory of one query.
pub(super) struct QueryMemory {
    ledger: Arc<Ledger>,
    tenant: TenantId,
    bytes_max: usize,
    held: Mutex<Held>,
}

/// What the operators of a query hold.
#[derive(Debug, Default)]
struct Held {
    /// Operators that can spill.
    spillers: usize,
    /// What these hold.
    spillable: usize,
    /// What the others hold.
    fixed: usize,
}

impl QueryMemory {
    pub(super) fn new(ledger: Arc<Ledger>, tenant: TenantId, bytes_max: usize) -> Self {
        Self {
            ledger,
            tenant,
            bytes_max,
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, reservation: &MemoryReservation, bytes: usize, must: bool) -> bool {
        let mut held = self.held();
        let spills = reservation.consumer().can_spill();
        let size = held.spillable + held.fixed;
        let has_room = if spills {
            // One that holds more than its part from before gives it back when it asks for more, and not earlier.
            let part = self.bytes_max.saturating_sub(held.fixed) / held.spillers.max(1);
            reservation.size().saturating_add(bytes) <= part
        } else {
            size.saturating_add(bytes) <= self.bytes_max
        };
        let to = size.saturating_add(bytes);
        if !(has_room || must) || !self.ledger.resize(&self.tenant, size, to, must) {
            return false;
        }
        if spills {
            held.spillable += bytes;
        } else {
            held.fixed += bytes;
        }
        true
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            self.held().spillers += 1;
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if consumer.can_spill() {
            let mut held = self.held();
            held.spillers = held.spillers.saturating_sub(1);
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.add(reservation, additional, true);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut held = self.held();
        let size = held.spillable + held.fixed;
        if reservation.consumer().can_spill() {
            held.spillable = held.spillable.saturating_sub(shrink);
        } else {
            held.fixed = held.fixed.saturating_sub(shrink);
        }
        let to = held.spillable + held.fixed;
        self.ledger.resize(&self.tenant, size, to, true);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.add(reservation, additional, false) {
            return Ok(());
        }
        // The kind of error that makes an operator spill.
        let text = "the query has no more memory".to_owned();
        Err(DataFusionError::ResourcesExhausted(text))
    }

    fn reserved(&self) -> usize {
        let held = self.held();
        held.spillable + held.fixed
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

impl fmt::Debug for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryMemory").finish_non_exhaustive()
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("query")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 1 << 20;

    fn ledger() -> Arc<Ledger> {
        // Four floors of eight, and 32 that are common.
        Arc::new(Ledger::new(64 * UNIT, 20 * UNIT, 4))
    }

    fn query(ledger: &Arc<Ledger>, tenant: &str, units: usize) -> Arc<dyn MemoryPool> {
        let tenant = TenantId::parse(tenant).expect("a tenant");
        Arc::new(QueryMemory::new(Arc::clone(ledger), tenant, units * UNIT))
    }

    fn fixed(pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        MemoryConsumer::new("fixed").register(pool)
    }

    fn spiller(pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        let consumer = MemoryConsumer::new("spiller").with_can_spill(true);
        consumer.register(pool)
    }

    /// Grows by units for as long as it goes.
    fn fill(reservation: &MemoryReservation) -> usize {
        while reservation.try_grow(UNIT).is_ok() {}
        reservation.size() / UNIT
    }

    #[test]
    fn a_query_has_its_limit_its_tenant_a_part_and_everyone_a_floor() {
        let ledger = ledger();
        let queries = [
            query(&ledger, "hog", 16),
            query(&ledger, "hog", 16),
            query(&ledger, "hog", 16),
        ];
        let held: Vec<_> = queries.iter().map(fixed).collect();
        let units: Vec<_> = held.iter().map(fill).collect();
        // Eight of the floor each; of the common part its limit, again, and what is left of the tenant's twenty.
        assert_eq!(units, [16, 16, 12]);
        let quiet = query(&ledger, "quiet", 64);
        assert_eq!(fill(&fixed(&quiet)), 20, "its floor and the rest");
        let floor = fixed(&quiet);
        floor.try_grow(8 * UNIT).expect("its floor");
        assert!(held[2].try_grow(UNIT).is_err());
        drop(held);
        assert_eq!(ledger.held(), 8 * UNIT);
        drop(floor);
        assert_eq!(ledger.held(), 0);
        let common = ledger.common();
        assert_eq!((common.taken, common.tenants.len()), (0, 0));
    }

    #[test]
    fn operators_that_can_spill_share_what_the_others_leave() {
        let pool = query(&ledger(), "acme", 16);
        let one = spiller(&pool);
        assert_eq!(fill(&one), 16);
        one.free();
        let other = spiller(&pool);
        assert_eq!(fill(&one), 8);
        let built = fixed(&pool);
        built.try_grow(4 * UNIT).expect("room");
        assert_eq!(fill(&other), 6);
        assert!(one.try_grow(1).is_err(), "it is over its part");
        assert!(built.try_grow(1).is_err());
        one.free();
        assert_eq!(fill(&one), 6);
        assert_eq!(pool.reserved(), 16 * UNIT);
    }

    #[test]
    fn what_must_be_taken_is_accounted_for() {
        let ledger = ledger();
        let pool = query(&ledger, "acme", 16);
        let held = fixed(&pool);
        held.grow(100 * UNIT);
        assert_eq!(ledger.held(), 100 * UNIT);
        assert!(held.try_grow(1).is_err());
        let other = query(&ledger, "other", 16);
        let floor = fixed(&other);
        assert!(floor.try_grow(8 * UNIT).is_ok());
        let refused = floor.try_grow(UNIT).expect_err("all is taken");
        assert_eq!(
            refused.strip_backtrace(),
            "Resources exhausted: the query has no more memory"
        );
        drop(held);
        assert_eq!(fill(&floor), 16);
    }
}
