//! What lanes tell whoever publishes logs: the leaves of a commit if there is room for them, and at least that a log has
//! grown.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::ids::{SiloId, StreamName, TenantId};
use tokio::sync::mpsc;

use crate::seal::Hash;

/// Commits that may wait to be taken.
const COMMITS_MAX: usize = 64;

/// The log of one stream of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogName {
    /// Whose.
    pub tenant: TenantId,
    /// Where.
    pub silo: SiloId,
    /// Which stream.
    pub stream: StreamName,
}

/// Leaves that a commit has brought into a log.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) log: LogName,
    /// The first one's number.
    pub(crate) first: u64,
    pub(crate) leaves: Vec<Hash>,
}

/// Logs that may have leaves that are not published.
#[derive(Clone, Default)]
pub(crate) struct Growth(Arc<Mutex<HashSet<LogName>>>);

/// Where lanes tell it.
#[derive(Clone)]
pub struct Feed {
    commits: mpsc::Sender<Committed>,
    grown: Growth,
}

/// Where it is heard.
pub struct Heard {
    pub(crate) commits: mpsc::Receiver<Committed>,
    grown: Growth,
}

impl Growth {
    pub(crate) fn tell(&self, log: LogName) {
        self.logs().insert(log);
    }

    fn logs(&self) -> MutexGuard<'_, HashSet<LogName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// A feed for lanes, and where it is heard.
    #[must_use]
    pub fn new() -> (Self, Heard) {
        let (commits, taken) = mpsc::channel(COMMITS_MAX);
        let grown = Growth::default();
        let heard = Heard {
            commits: taken,
            grown: grown.clone(),
        };
        (Self { commits, grown }, heard)
    }

    /// Tells of a commit; never waits.
    pub(super) fn tell(&self, committed: Committed) {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.commits.try_send(committed) {
            Ok(()) | Err(Closed(_)) => {}
            Err(Full(committed)) => self.tell_grown(committed.log),
        }
    }

    /// Tells that a log may have leaves that are not published.
    pub(super) fn tell_grown(&self, log: LogName) {
        if !self.commits.is_closed() {
            self.grown.tell(log);
        }
    }
}

impl Heard {
    /// The logs that have grown by leaves which nobody brought.
    pub(crate) fn grown(&self) -> HashSet<LogName> {
        std::mem::take(&mut *self.grown.logs())
    }

    /// Where others tell that logs have grown.
    pub(crate) fn growth(&self) -> Growth {
        self.grown.clone()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").finish_non_exhaustive()
    }
}
