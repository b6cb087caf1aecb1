//! How a lane begins, and begins again: who it is, what the table has, what the log has beyond that.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic;
use std::time::Duration;

use catalog::ids::StreamName;
use catalog::keys::KeyError;
use catalog::tenant;
use tokio::time::Instant;

use crate::table::TableState;

use super::journal::Journal;
use super::lane::{Journaled, Lane, Opened, Status};
use super::pending::{Group, Mark, Pending};
use super::recover;
use super::tree::Notes;
use super::{Berth, Cargo, Freight, LaneError, Sequencer, tree};

/// The first wait after something failed, and the longest.
const WAIT: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// How often others may commit while a fence is put up, before that is tried anew.
const FENCE_ROUNDS_MAX: usize = 20;
const UNREADABLE: LaneError =
    LaneError::Fault("rows of the write-ahead log cannot be decoded by this version");

/// Waits that grow while something goes on failing.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(WAIT)
    }

    pub(super) fn next(&mut self, sequencer: &Sequencer) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(WAIT_MAX);
        sequencer.jittered(wait)
    }
}

/// The table's state once it has this fence. From then on whoever numbered rows of it before cannot commit them.
async fn fenced(berth: &Berth, fence: Option<i64>) -> Result<Arc<TableState>, LaneError> {
    for _ in 0..FENCE_ROUNDS_MAX {
        let state = berth.table.state().await?;
        let Some(fence) = fence else {
            return Ok(state);
        };
        match tree::fence(&state).cmp(&fence) {
            Ordering::Equal => return Ok(state),
            Ordering::Greater => return Err(LaneError::Elsewhere),
            Ordering::Less => {
                tracing::warn!(tenant = %berth.tenant, "a tenant is taken over from a node that had not let go of it");
                let mut notes = Notes::default();
                tree::note_fence(fence, &mut notes);
                // Whether it is ours or another's that got there: the state will say.
                let _ = berth
                    .table
                    .append(&state, Vec::new(), notes.txns, notes.info)
                    .await?;
            }
        }
    }
    Err(LaneError::Unavailable)
}

impl<F: Freight> Lane<F> {
    /// Begins, however long it takes; until then callers are told why not. `None`: nobody needs the lane any more.
    pub(super) async fn opened(&mut self) -> Option<Opened<F>> {
        let mut backoff = Backoff::new();
        loop {
            match Box::pin(self.open()).await {
                Ok(opened) => {
                    self.sequencer.shut(&self.tenant, F::TABLE, None);
                    return Some(opened);
                }
                Err(error) => {
                    if error == LaneError::Elsewhere {
                        self.freight.close(&self.tenant, false).await;
                    }
                    self.sequencer.shut(&self.tenant, F::TABLE, Some(error));
                    self.status.send_replace(Status::Refusing(error));
                    let wait = backoff.next(&self.sequencer);
                    let asked = self.refuse(error, Instant::now() + wait).await?;
                    // A table that waits for an operator is looked at again and again, and so is one that is owed rows.
                    let stays = self.recovers || matches!(error, LaneError::Fault(_));
                    if !asked && !stays && self.leave() {
                        self.sequencer.shut(&self.tenant, F::TABLE, None);
                        return None;
                    }
                }
            }
        }
    }

    /// Answers whoever comes until `end`; says whether anybody did. `None`: nobody can come any more.
    async fn refuse(&mut self, error: LaneError, end: Instant) -> Option<bool> {
        let mut asked = false;
        loop {
            tokio::select! {
                job = self.jobs.recv() => {
                    let _ = job?.reply.send(Err(error));
                    asked = true;
                }
                () = tokio::time::sleep_until(end) => return Some(asked),
            }
        }
    }

    async fn open(&mut self) -> Result<Opened<F>, LaneError> {
        let sequencer = Arc::clone(&self.sequencer);
        // Looked up for its keys as well: reading a tenant is what makes them known.
        let record = sequencer.registry.get(&self.tenant).await;
        let record = record.map_err(|error| {
            tracing::warn!(tenant = %self.tenant, error = &error as &dyn std::error::Error, "a tenant cannot be looked up");
            match error {
                tenant::Error::Keys(_) => LaneError::KeyUnavailable,
                _ => LaneError::Unavailable,
            }
        })?;
        let silo = record.ok_or(LaneError::Unavailable)?.silo.clone();
        let tables = &sequencer.tables;
        let berth = Berth {
            table: tables.table(&self.tenant, &silo, F::TABLE).await?,
            tenant: self.tenant.clone(),
            silo,
        };
        if let Some(log) = &sequencer.journal {
            log.check_standing().await?;
        }
        let fence = self.freight.claim(&berth).await?;
        let state = fenced(&berth, fence).await?;
        for stream in tree::streams(&state) {
            berth.tree(&state, stream).await?;
            // An earlier process may have committed and not come to publish it.
            if let Ok(stream) = StreamName::parse(stream) {
                sequencer.feed.tell_grown(berth.log(&stream));
            }
        }
        if let Some(id) = tree::last_id(&state) {
            sequencer.ids.observe(&self.tenant, id);
        }
        let (journal, groups) = match &sequencer.journal {
            Some(log) => self.read_log(log, &berth, &state).await?,
            None => (None, Vec::new()),
        };
        let (marks, rows): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        for id in rows.iter().filter_map(Cargo::last_id) {
            sequencer.ids.observe(&self.tenant, id);
        }
        self.freight.open(&berth, &state, &rows).await?;
        self.recovers = !rows.is_empty();
        if self.recovers {
            let count: usize = rows.iter().map(Cargo::len).sum();
            tracing::info!(tenant = %self.tenant, table = F::TABLE.name(), rows = count,
                "rows of the write-ahead log are put into the table");
        }
        let now = Instant::now();
        let groups = marks
            .into_iter()
            .zip(rows)
            .map(|((mark, bytes), rows)| Group {
                mark: Some(mark),
                rows,
                bytes,
                since: now,
                waiting: Vec::new(),
            });
        Ok(Opened {
            berth,
            fence,
            journal,
            pending: Pending::new(groups.collect()),
        })
    }

    /// What the log has and the table does not, and what is needed to write on.
    async fn read_log(
        &self,
        log: &Journal,
        berth: &Berth,
        state: &TableState,
    ) -> Result<(Option<Journaled>, Vec<((Mark, usize), F::Rows)>), LaneError> {
        let sequencer = &self.sequencer;
        let source = Journal::source(&berth.tenant, &berth.silo, F::TABLE);
        let frames = log.recover(&source, &sequencer.keys).await?;
        let marks: Vec<_> = frames
            .iter()
            .map(|frame| Mark {
                position: frame.position,
                digest: frame.digest,
            })
            .collect();
        let in_table = log.in_table(state);
        let reached = sequencer.reached(&berth.tenant, F::TABLE).unwrap_or(0);
        let written_max = log.opened_at().max(reached);
        let applied = recover::applied(in_table, written_max, &marks)?;
        if let Some(last) = applied.checked_sub(1).and_then(|last| marks.get(last)) {
            log.release(&source, last.position);
        }
        let decoding = tokio::task::spawn_blocking(move || {
            let rest = frames.into_iter().zip(marks).skip(applied);
            rest.map(|(frame, mark)| {
                Some((
                    (mark, frame.payload.len()),
                    F::decode(frame.payload.into())?,
                ))
            })
            .collect::<Option<Vec<_>>>()
        });
        let groups = decoding.await.map_err(|_| LaneError::Unavailable)?;
        let groups = groups.ok_or(UNREADABLE)?;
        let key = sequencer
            .keys
            .writing_key(&berth.tenant, &berth.silo, F::TABLE.purpose())
            .await
            .map_err(|error: KeyError| {
                tracing::warn!(tenant = %berth.tenant, error = &error as &dyn std::error::Error,
                    "the key for the write-ahead log cannot be had");
                LaneError::KeyUnavailable
            })?;
        let journal = Journaled::new(source, key);
        let position = in_table.and_then(|there| there.position).unwrap_or(0);
        journal.reached.store(position, atomic::Ordering::Release);
        Ok((Some(journal), groups))
    }
}
