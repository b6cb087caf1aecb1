//! A small map that forgets: bounded in entries and in time, the time being the [`Clock`]'s.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// Values that were fetched at a known time and may be used for a fixed while after it.
pub(crate) struct Cache<K, V> {
    clock: Arc<dyn Clock>,
    lifetime: Duration,
    entries_max: usize,
    entries: Mutex<HashMap<K, (Timestamp, Arc<V>)>>,
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(crate) fn new(clock: Arc<dyn Clock>, lifetime: Duration, entries_max: usize) -> Self {
        Self {
            clock,
            lifetime,
            entries_max,
            entries: Mutex::default(),
        }
    }

    /// The value, if it was fetched less than a lifetime ago. A clock that went back before that makes it stale too.
    pub(crate) fn get(&self, key: &K) -> Option<Arc<V>> {
        let now = self.clock.now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (fetched, value) = entries.get(key)?;
        if self.is_fresh(now, *fetched) {
            return Some(Arc::clone(value));
        }
        entries.remove(key);
        None
    }

    /// Keeps a value that was asked for at `fetched`: the time before the answer, so that waiting does not lengthen it.
    pub(crate) fn insert(&self, key: K, fetched: Timestamp, value: Arc<V>) {
        let now = self.clock.now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.entries_max && !entries.contains_key(&key) {
            entries.retain(|_, (fetched, _)| self.is_fresh(now, *fetched));
        }
        if entries.len() >= self.entries_max && !entries.contains_key(&key) {
            // A scan of the whole map, which is cheap beside the call that fetched the value.
            let oldest = entries.iter().min_by_key(|(_, (fetched, _))| *fetched);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        entries.insert(key, (fetched, value));
    }

    /// Forgets every entry whose key is so.
    pub(crate) fn forget(&self, is_so: impl Fn(&K) -> bool) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|key, _| !is_so(key));
    }

    fn is_fresh(&self, now: Timestamp, fetched: Timestamp) -> bool {
        now.since(fetched).is_some_and(|age| age < self.lifetime)
    }
}

// Only how many: the values are keys.
impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Cache")
            .field("entries", &entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn cache(entries_max: usize) -> (Arc<ManualClock>, Cache<u32, u32>) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(1_000_000_000)));
        let lifetime = Duration::from_secs(300);
        let cache = Cache::new(Arc::clone(&clock) as Arc<dyn Clock>, lifetime, entries_max);
        (clock, cache)
    }

    #[test]
    fn a_value_lives_for_its_lifetime_and_no_longer() {
        let (clock, cache) = cache(10);
        cache.insert(1, clock.now(), Arc::new(1));
        clock.advance(Duration::from_secs(299));
        assert!(cache.get(&1).is_some());
        clock.advance(Duration::from_secs(1));
        assert!(cache.get(&1).is_none());
    }

    #[test]
    fn a_clock_that_goes_back_does_not_lengthen_a_life() {
        let (clock, cache) = cache(10);
        cache.insert(1, clock.now(), Arc::new(1));
        clock.set(Timestamp::from_micros(5));
        assert!(cache.get(&1).is_none());
    }

    #[test]
    fn a_full_cache_drops_its_oldest() {
        let (clock, cache) = cache(3);
        for key in 0..10 {
            clock.advance(Duration::from_secs(1));
            cache.insert(key, clock.now(), Arc::new(key));
        }
        let kept: Vec<u32> = (0..10).filter(|key| cache.get(key).is_some()).collect();
        assert_eq!(kept, [7, 8, 9]);
        cache.forget(|key| *key == 8);
        assert!(cache.get(&8).is_none());
        assert!(cache.get(&9).is_some());
    }
}
