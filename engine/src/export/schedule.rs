//! Whose export is worked on next: one chunk at a time, each tenant by its weight, so that a large export and a hundred of
//! one tenant keep nobody waiting for longer than a chunk takes.
//!
//! Of the exports that wait, and whose tenant has a slot, that one is next whose tenant has been given least, counted in
//! work divided by weight (start-time fair queueing: Goyal, Vin and Cheng, 1996). A tenant that comes back after a while
//! begins where the others are: it saved nothing up.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use catalog::ids::TenantId;
use tokio::sync::Notify;

use super::job::ExportId;

/// Exports that wait, each as a `T`, and those that are worked on.
pub(super) struct Schedule<T> {
    at_once: usize,
    tenant_at_once: usize,
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    waiting: Vec<(Owner, T)>,
    /// What is worked on now.
    busy: Vec<Owner>,
    /// Work over weight, by tenant; only of those that have something here.
    given: HashMap<TenantId, u64>,
    /// What the last one that was taken had been given.
    floor: u64,
}

/// Whose export it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) id: ExportId,
    pub(super) tenant: TenantId,
    /// Its share, from 1.
    pub(super) weight: u32,
}

impl<T> Schedule<T> {
    /// So many at the same time, and of one tenant.
    pub(super) fn new(at_once: usize, tenant_at_once: usize) -> Self {
        Self {
            at_once: at_once.max(1),
            tenant_at_once: tenant_at_once.max(1),
            state: Mutex::new(State {
                waiting: Vec::new(),
                busy: Vec::new(),
                given: HashMap::new(),
                floor: 0,
            }),
            changed: Notify::new(),
        }
    }

    /// Slots that there are.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// Adds an export, unless it waits or is worked on already.
    pub(super) fn add(&self, owner: Owner, turn: T) {
        let mut state = self.state();
        if !state.has(&owner.id) {
            state.push(owner, turn);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Whether an export waits here or is worked on.
    pub(super) fn has(&self, id: &ExportId) -> bool {
        self.state().has(id)
    }

    /// The next turn, as soon as there is one.
    pub(super) async fn next(&self) -> (Owner, T) {
        loop {
            let changed = self.changed.notified();
            if let Some(taken) = self.take() {
                return taken;
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<(Owner, T)> {
        let taken = self.state().take(self.tenant_at_once)?;
        // There may be one for another slot too.
        self.changed.notify_one();
        Some(taken)
    }

    /// Gives a slot back: so much was done, and the export wants another turn or not.
    pub(super) fn done(&self, owner: Owner, work: u64, again: Option<T>) {
        let mut state = self.state();
        state.busy.retain(|busy| busy.id != owner.id);
        let share = work.max(1) / u64::from(owner.weight.max(1));
        let floor = state.floor;
        let given = state.given.entry(owner.tenant.clone()).or_insert(floor);
        *given = given.saturating_add(share.max(1));
        if let Some(turn) = again {
            state.push(owner, turn);
        }
        state.forget();
        drop(state);
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    fn has(&self, id: &ExportId) -> bool {
        let waiting = self.waiting.iter().map(|(owner, _)| owner);
        waiting.chain(&self.busy).any(|owner| owner.id == *id)
    }

    fn push(&mut self, owner: Owner, turn: T) {
        let given = self.given.entry(owner.tenant.clone()).or_default();
        *given = (*given).max(self.floor);
        self.waiting.push((owner, turn));
    }

    fn take(&mut self, tenant_at_once: usize) -> Option<(Owner, T)> {
        let busy = |tenant: &TenantId| {
            self.busy
                .iter()
                .filter(|busy| busy.tenant == *tenant)
                .count()
        };
        let given = |tenant: &TenantId| self.given.get(tenant).copied().unwrap_or(0);
        let ready = self.waiting.iter().enumerate();
        let ready = ready.filter(|(_, (owner, _))| busy(&owner.tenant) < tenant_at_once);
        // Of one tenant the one that has waited longest: they stand in the order in which they came.
        let (at, least) = ready
            .map(|(at, (owner, _))| (at, given(&owner.tenant)))
            .min_by_key(|(_, given)| *given)?;
        self.floor = self.floor.max(least);
        let (owner, turn) = self.waiting.remove(at);
        self.busy.push(owner.clone());
        Some((owner, turn))
    }

    /// Forgets tenants that have nothing here.
    fn forget(&mut self) {
        let waiting = self.waiting.iter().map(|(owner, _)| &owner.tenant);
        let here: Vec<_> = waiting
            .chain(self.busy.iter().map(|owner| &owner.tenant))
            .collect();
        self.given.retain(|tenant, _| here.contains(&tenant));
    }
}

#[cfg(test)]
mod tests {
    use catalog::ids::RecordId;

    use super::*;

    fn owner(number: u8, tenant: &str, weight: u32) -> Owner {
        Owner {
            id: ExportId::new(RecordId::from_bytes([number; 16])),
            tenant: TenantId::parse(tenant).unwrap(),
            weight,
        }
    }

    /// Gives `turns` turns of the same work, and says whose they were.
    fn turns(schedule: &Schedule<u8>, turns: usize, work: u64) -> Vec<String> {
        let mut taken = Vec::new();
        for _ in 0..turns {
            let (owner, turn) = schedule.take().expect("a turn");
            taken.push(owner.tenant.to_string());
            schedule.done(owner, work, Some(turn));
        }
        taken
    }

    #[test]
    fn a_tenant_with_many_exports_gets_no_more_than_another() {
        let schedule = Schedule::new(2, 1);
        (1..=50).for_each(|number| schedule.add(owner(number, "many", 1), number));
        schedule.add(owner(99, "one", 1), 99);
        let taken = turns(&schedule, 20, 1_000);
        assert_eq!(taken.iter().filter(|tenant| *tenant == "one").count(), 10);
    }

    #[test]
    fn weights_are_shares() {
        let schedule = Schedule::new(2, 1);
        schedule.add(owner(1, "large", 3), 1);
        schedule.add(owner(2, "small", 1), 2);
        let taken = turns(&schedule, 40, 9_000);
        assert_eq!(taken.iter().filter(|tenant| *tenant == "large").count(), 30);
    }

    #[test]
    fn who_comes_late_has_saved_nothing_up() {
        let schedule = Schedule::new(2, 1);
        schedule.add(owner(1, "early", 1), 1);
        turns(&schedule, 100, 1_000);
        schedule.add(owner(2, "late", 1), 2);
        let taken = turns(&schedule, 10, 1_000);
        assert_eq!(taken.iter().filter(|tenant| *tenant == "late").count(), 5);
    }

    #[test]
    fn a_tenant_has_its_slots_and_no_more() {
        let schedule = Schedule::new(4, 2);
        (1..=3).for_each(|number| schedule.add(owner(number, "acme", 1), number));
        let (first, _) = schedule.take().expect("a slot");
        assert!(schedule.take().is_some());
        assert!(schedule.take().is_none());
        assert!(schedule.has(&first.id));
        // What is worked on is not added again.
        schedule.add(first.clone(), 9);
        schedule.done(first.clone(), 1, None);
        assert!(!schedule.has(&first.id));
        let (_, turn) = schedule.take().expect("the third");
        assert_eq!(turn, 3);
        assert!(schedule.take().is_none());
    }
}
