//! The key that a lane signs promises with: at hand before it is needed, and waited for by no append and no flush. While
//! there is none, promises are not signed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::keys::{KeyRing, ProcessKey};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sequencer::Berth;

/// How long the key ring is not asked again. A key holds for hours after it was given.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How long a lane that opens waits for its first key.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(2);

/// The key of one lane.
pub(super) struct Promising {
    keys: Arc<KeyRing>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    key: Option<Arc<ProcessKey>>,
    asked: Option<Instant>,
    is_asking: bool,
}

impl Promising {
    pub(super) fn new(keys: Arc<KeyRing>) -> Arc<Self> {
        Arc::new(Self {
            keys,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key, if there is one.
    pub(super) fn key(&self) -> Option<Arc<ProcessKey>> {
        self.state().key.clone()
    }

    /// Has a key for a lane that opens, unless the KMS takes its time.
    pub(super) async fn open(self: &Arc<Self>, berth: &Berth) {
        if let Some(asking) = self.renew(berth) {
            // Whoever asks goes on: a key that is certified late is still one.
            let _ = tokio::time::timeout(FIRST_WAIT_MAX, asking).await;
        }
    }

    /// Asks for the key of now, beside whatever else goes on, once in a while.
    pub(super) fn renew(self: &Arc<Self>, berth: &Berth) -> Option<JoinHandle<()>> {
        {
            let mut state = self.state();
            let was_asked = state.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN);
            if was_asked || state.is_asking {
                return None;
            }
            state.asked = Some(Instant::now());
            state.is_asking = true;
        }
        let (own, tenant, silo) = (Arc::clone(self), berth.tenant.clone(), berth.silo.clone());
        Some(tokio::spawn(async move {
            let asked = own.keys.process_key(&tenant, &silo).await;
            let mut state = own.state();
            state.is_asking = false;
            match asked {
                Ok(key) => state.key = Some(key),
                Err(error) => {
                    // What was given before an outage holds on; what was taken away does not.
                    if !error.is_outage() {
                        state.key = None;
                    }
                    drop(state);
                    tracing::warn!(%tenant, error = &error as &dyn std::error::Error,
                        "no new key to sign promises with was certified");
                }
            }
        }))
    }

    /// Forgets the key: the lane is closed.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        (state.key, state.asked) = (None, None);
    }
}

/// Says nothing of the key.
impl fmt::Debug for Promising {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promising").finish_non_exhaustive()
    }
}
