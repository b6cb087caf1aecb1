//! What a lane has made durable and the table does not have yet.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::{Cargo, Freight, LaneError};

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: u64,
    /// The digest of the log up to and with this position.
    pub(crate) digest: [u8; 32],
}

/// Where a result is awaited.
pub(super) type Reply<F> = oneshot::Sender<Result<<F as Freight>::Answer, LaneError>>;

/// A caller who waits for the commit, and what it will be told.
pub(super) struct Waiting<F: Freight> {
    pub(super) reply: Reply<F>,
    pub(super) answer: F::Answer,
}

/// What was appended together.
pub(super) struct Group<F: Freight> {
    /// `None` where there is no log.
    pub(super) mark: Option<Mark>,
    pub(super) rows: F::Rows,
    pub(super) bytes: usize,
    pub(super) since: Instant,
    pub(super) waiting: Vec<Waiting<F>>,
}

/// The groups of one lane, in the order of the log.
pub(super) struct Pending<F: Freight> {
    state: Mutex<State<F>>,
    /// For the one who flushes.
    changed: Notify,
    /// For the one who appends.
    failed: Notify,
}

struct State<F: Freight> {
    groups: VecDeque<Group<F>>,
    /// Bytes of the groups here.
    queued: usize,
    /// Bytes of these, and of those that are being flushed.
    bytes: usize,
    /// Everything here is to be flushed at once, and then it is over.
    stopping: bool,
    failure: Option<LaneError>,
}

/// Whether there is something to flush.
enum Look<F: Freight> {
    /// Nothing, and nothing will come.
    Over,
    Due(Vec<Group<F>>),
    /// Not before this time, if there is anything at all.
    From(Option<Instant>),
}

impl<F: Freight> Pending<F> {
    pub(super) fn new(groups: Vec<Group<F>>) -> Self {
        let bytes = groups.iter().map(|group| group.bytes).sum();
        Self {
            state: Mutex::new(State {
                groups: groups.into(),
                queued: bytes,
                bytes,
                stopping: false,
                failure: None,
            }),
            changed: Notify::new(),
            failed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<F>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, group: Group<F>) {
        let mut state = self.lock();
        state.queued += group.bytes;
        state.bytes += group.bytes;
        state.groups.push_back(group);
        drop(state);
        self.changed.notify_one();
    }

    /// Bytes that the table does not have.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Nothing more comes: flush what is here, and end.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// Resolves when it is to be flushed and over; for the one who flushes.
    pub(super) async fn stopped(&self) {
        while !self.is_stopping() {
            self.changed.notified().await;
        }
    }

    /// Ends the lane: what is pending stays in the log.
    pub(super) fn fail(&self, error: LaneError) {
        let mut state = self.lock();
        state.failure = Some(error);
        for waiting in state.groups.drain(..).flat_map(|group| group.waiting) {
            let _ = waiting.reply.send(Err(error));
        }
        drop(state);
        self.failed.notify_one();
    }

    /// Resolves when the lane has to end.
    pub(super) async fn failure(&self) -> LaneError {
        loop {
            if let Some(error) = self.lock().failure {
                return error;
            }
            self.failed.notified().await;
        }
    }

    /// Waits until something is to be flushed and takes it, oldest first, until it has `bytes_max`. `None`: it is over.
    pub(super) async fn due(&self, age_max: Duration, bytes_max: usize) -> Option<Vec<Group<F>>> {
        loop {
            let oldest = match self.look(age_max, bytes_max) {
                Look::Over => return None,
                Look::Due(groups) => return Some(groups),
                Look::From(oldest) => oldest,
            };
            let aged = async {
                match oldest {
                    Some(oldest) => tokio::time::sleep_until(oldest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = aged => {}
            }
        }
    }

    fn look(&self, age_max: Duration, bytes_max: usize) -> Look<F> {
        let mut state = self.lock();
        let Some(first) = state.groups.front() else {
            return if state.stopping {
                Look::Over
            } else {
                Look::From(None)
            };
        };
        let oldest = first.since + age_max;
        let waits = state.groups.iter().any(|group| !group.waiting.is_empty());
        if state.stopping || waits || state.queued >= bytes_max || oldest <= Instant::now() {
            Look::Due(state.take(bytes_max))
        } else {
            Look::From(Some(oldest))
        }
    }

    /// Notes that the table has these bytes, or will not get them.
    pub(super) fn done(&self, bytes: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }
}

impl<F: Freight> State<F> {
    fn take(&mut self, bytes_max: usize) -> Vec<Group<F>> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max
            && let Some(group) = self.groups.pop_front()
        {
            bytes += group.bytes;
            taken.push(group);
        }
        self.queued = self.queued.saturating_sub(bytes);
        taken
    }
}

/// The groups of one flush.
pub(super) struct Load<F: Freight> {
    pub(super) rows: F::Rows,
    /// The last of them in the log.
    pub(super) mark: Option<Mark>,
    pub(super) bytes: usize,
    pub(super) since: Option<Instant>,
    pub(super) waiting: Vec<Waiting<F>>,
}

impl<F: Freight> Load<F> {
    pub(super) fn of(groups: Vec<Group<F>>) -> Self {
        let mut load = Self {
            rows: F::Rows::default(),
            mark: None,
            bytes: 0,
            since: None,
            waiting: Vec::new(),
        };
        for group in groups {
            load.rows.join(group.rows);
            load.mark = group.mark.or(load.mark);
            load.bytes += group.bytes;
            load.since = load.since.or(Some(group.since));
            load.waiting.extend(group.waiting);
        }
        load
    }
}
