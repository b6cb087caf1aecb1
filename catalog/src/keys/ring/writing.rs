//! Keys that writes go on with while the KMS does not answer.
//!
//! A record that comes in during an outage is kept, sealed, in the write-ahead log; it needs the tenant's secrets for its
//! redaction and an epoch key for the log. So what a process has once fetched for writing it keeps while it lives, and
//! uses it on when, and only when, the answer to "may I still?" is that nobody answers. A key that is disabled or
//! destroyed is forgotten at the next question. Reading has no such grace.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::documents::DocumentError;
use crate::keys::KeyError;

use super::KEYS_CACHED_MAX;

/// How long a KMS that may be away is waited for, by those who have a key to go on with.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long it is left alone after it did not answer.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// Keys that were fetched for writing.
pub(super) struct Held<K, V> {
    clock: Arc<dyn Clock>,
    entries: Mutex<HashMap<K, Entry<V>>>,
}

struct Entry<V> {
    value: Arc<V>,
    /// When it was last asked for with success.
    asked: Timestamp,
    /// When it was last asked for in vain, since then.
    in_vain: Option<Timestamp>,
}

impl<K: Eq + Hash + Clone + Sync, V: Send + Sync> Held<K, V> {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            entries: Mutex::default(),
        }
    }

    /// The key as `fetch` gives it, or as it was if nobody answers.
    pub(super) async fn get(
        &self,
        key: &K,
        fetch: impl Future<Output = Result<Arc<V>, KeyError>> + Send,
    ) -> Result<Arc<V>, KeyError> {
        let now = self.clock.now();
        let held = {
            let entries = self.lock();
            entries.get(key).map(|entry| {
                let age = entry.in_vain.and_then(|at| now.since(at));
                let in_vain = age.is_some_and(|age| age < ASK_AGAIN);
                (Arc::clone(&entry.value), in_vain)
            })
        };
        let Some((value, in_vain)) = held else {
            let value = fetch.await?;
            self.insert(key, now, &value);
            return Ok(value);
        };
        if in_vain {
            return Ok(value);
        }
        match tokio::time::timeout(ANSWER_WAIT_MAX, fetch).await {
            Ok(Ok(value)) => {
                self.insert(key, now, &value);
                Ok(value)
            }
            Ok(Err(error)) if !is_outage(&error) => {
                self.lock().remove(key);
                Err(error)
            }
            Ok(Err(_)) | Err(_) => {
                tracing::warn!(
                    "the key service does not answer: writes go on with the keys at hand"
                );
                if let Some(entry) = self.lock().get_mut(key) {
                    entry.in_vain = Some(self.clock.now());
                }
                Ok(value)
            }
        }
    }

    /// Forgets every entry whose key is so.
    pub(super) fn forget(&self, is_so: impl Fn(&K) -> bool) {
        self.lock().retain(|key, _| !is_so(key));
    }

    fn insert(&self, key: &K, asked: Timestamp, value: &Arc<V>) {
        let mut entries = self.lock();
        if entries.len() >= KEYS_CACHED_MAX && !entries.contains_key(key) {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.asked);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                entries.remove(&oldest);
            }
        }
        let entry = Entry {
            value: Arc::clone(value),
            asked,
            in_vain: None,
        };
        entries.insert(key.clone(), entry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody answered, as opposed to an answer that is no.
fn is_outage(error: &KeyError) -> bool {
    error.is_outage()
        || matches!(
            error,
            KeyError::Documents(DocumentError::Unavailable { .. })
        )
}

// Only how many: the values are keys.
impl<K, V> fmt::Debug for Held<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Held")
            .field("entries", &entries.len())
            .finish_non_exhaustive()
    }
}
