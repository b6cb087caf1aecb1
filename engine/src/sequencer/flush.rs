//! The half of a lane that brings what is pending into the table: one Delta commit at a time.
//!
//! A flush that fails is tried again, with waits that grow, for as long as the lane lives: the log keeps the rows. Two
//! things end the lane instead. Another writer has moved a log that this lane has given numbers in: it is fenced off. Or
//! the rows cannot become a batch at all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::keys::KeyError;

use crate::table::{self, AppendOutcome, TableState};

use super::journal::InTable;
use super::lane::Opened;
use super::opening::Backoff;
use super::pending::{Load, Mark};
use super::tree::{self, Notes};
use super::{Cargo, Committed, Freight, LaneError, Leaves, Prepared, Sequencer, StoredAt};

/// Rounds after which a flush waits before it goes on against other writers of the same table.
const ROUNDS_MAX: usize = 20;
/// How long a lane that stops goes on trying is bounded by whoever waits for it; this is how often.
const STOP_WAIT_MAX: Duration = Duration::from_millis(500);

/// Why a commit was not made.
enum Fault {
    /// Try again.
    Later(LaneError),
    /// Never again from here.
    Fenced,
    /// The key is gone, or not to be used any more.
    Revoked,
}

impl From<table::Error> for Fault {
    fn from(error: table::Error) -> Self {
        Self::Later(error.into())
    }
}

impl From<LaneError> for Fault {
    fn from(error: LaneError) -> Self {
        Self::Later(error)
    }
}

/// Flushes until the lane has stopped and nothing is left, or the lane cannot go on.
pub(super) async fn run<F: Freight>(sequencer: &Sequencer, freight: &F, opened: &Opened<F>) {
    let flusher = Flusher {
        sequencer,
        freight,
        opened,
    };
    let settings = &sequencer.settings;
    loop {
        let age = sequencer.jittered(settings.flush_age);
        let Some(groups) = opened.pending.due(age, settings.flush_bytes).await else {
            return;
        };
        if let Err(error) = Box::pin(flusher.flush(Load::of(groups))).await {
            opened.pending.fail(error);
            return;
        }
    }
}

struct Flusher<'l, F: Freight> {
    sequencer: &'l Sequencer,
    freight: &'l F,
    opened: &'l Opened<F>,
}

/// Rows that became a batch.
struct Commit<F: Freight> {
    prepared: Arc<Prepared<F::Entries>>,
    mark: Option<Mark>,
    rows: usize,
}

impl<F: Freight> Flusher<'_, F> {
    async fn flush(&self, load: Load<F>) -> Result<(), LaneError> {
        let Load {
            rows,
            mark,
            bytes,
            since,
            mut waiting,
        } = load;
        let count = rows.len();
        if count > 0 {
            let prepared = tokio::task::spawn_blocking(move || F::prepare(rows))
                .await
                .map_err(|_| LaneError::Unavailable)
                .and_then(|prepared| prepared);
            let prepared = prepared.inspect_err(|_| self.log_unpreparable())?;
            let commit = Commit {
                prepared: Arc::new(prepared),
                mark,
                rows: count,
            };
            let mut backoff = Backoff::new();
            loop {
                match Box::pin(self.commit(&commit)).await {
                    Ok(()) => break,
                    Err(Fault::Later(error)) => {
                        metrics::counter!("trailhouse_flush_errors_total", "table" => F::TABLE.name(),
                            "tenant" => self.opened.berth.tenant.to_string())
                        .increment(1);
                        self.shut(Some(error));
                        for waiting in std::mem::take(&mut waiting) {
                            let _ = waiting.reply.send(Err(error));
                        }
                        if mark.is_none() {
                            // Nothing keeps these rows, and nobody was told that they are kept.
                            self.opened.pending.done(bytes);
                            return Ok(());
                        }
                        self.wait(&mut backoff).await;
                    }
                    Err(Fault::Fenced) => {
                        tracing::error!(tenant = %self.opened.berth.tenant, table = F::TABLE.name(),
                            "another node has written for this tenant: this one stops");
                        return Err(LaneError::Elsewhere);
                    }
                    Err(Fault::Revoked) => return Err(LaneError::KeyUnavailable),
                }
            }
            self.shut(None);
            if let Some(since) = since {
                metrics::histogram!("trailhouse_flush_lag_seconds", "table" => F::TABLE.name())
                    .record(since.elapsed().as_secs_f64());
            }
        }
        self.opened.pending.done(bytes);
        self.gauge();
        for waiting in waiting {
            let _ = waiting.reply.send(Ok(waiting.answer));
        }
        Ok(())
    }

    fn shut(&self, why: Option<LaneError>) {
        let tenant = &self.opened.berth.tenant;
        self.sequencer.shut(tenant, F::TABLE, why);
    }

    fn log_unpreparable(&self) {
        tracing::error!(tenant = %self.opened.berth.tenant, table = F::TABLE.name(),
            "rows of the write-ahead log do not make a batch");
    }

    fn gauge(&self) {
        let bytes = self.opened.pending.bytes();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a gauge of bytes, far below 2^53"
        )]
        metrics::gauge!("trailhouse_pending_bytes", "table" => F::TABLE.name(),
            "tenant" => self.opened.berth.tenant.to_string())
        .set(bytes as f64);
    }

    async fn wait(&self, backoff: &mut Backoff) {
        let wait = backoff.next(self.sequencer);
        let stopping = self.opened.pending.is_stopping();
        let wait = if stopping {
            wait.min(STOP_WAIT_MAX)
        } else {
            wait
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = self.opened.pending.stopped(), if !stopping => {}
        }
    }

    async fn commit(&self, commit: &Commit<F>) -> Result<(), Fault> {
        let started = Instant::now();
        let berth = &self.opened.berth;
        self.renew_key().await?;
        if let Some(log) = &self.sequencer.journal {
            match log.check_standing().await {
                Err(LaneError::Elsewhere) => return Err(Fault::Fenced),
                checked => checked?,
            }
        }
        let at = self.append(commit).await?;
        self.tell(&commit.prepared.leaves, &at);
        let at = match &at {
            Appended::At(version, _) => StoredAt::Version(*version),
            Appended::Before(state) => StoredAt::Before(state),
        };
        self.freight
            .stored(berth, at, &commit.prepared.entries)
            .await?;
        if let (Some(log), Some(own), Some(mark)) =
            (&self.sequencer.journal, &self.opened.journal, &commit.mark)
        {
            own.reached.store(mark.position, Ordering::Release);
            log.release(&own.source, mark.position);
        }
        metrics::histogram!("trailhouse_flush_seconds", "table" => F::TABLE.name())
            .record(started.elapsed().as_secs_f64());
        metrics::counter!("trailhouse_flush_rows_total", "table" => F::TABLE.name())
            .increment(commit.rows as u64);
        Ok(())
    }

    /// Fetches the key to append with ahead of need, never while somebody waits for an append. An outage of the KMS
    /// leaves the lane the key it has; a key that was switched off ends the lane.
    async fn renew_key(&self) -> Result<(), Fault> {
        let Some(own) = &self.opened.journal else {
            return Ok(());
        };
        let berth = &self.opened.berth;
        let keys = &self.sequencer.keys;
        let key = keys
            .writing_key(&berth.tenant, &berth.silo, F::TABLE.purpose())
            .await;
        match key {
            Ok(key) => {
                own.renew(key);
                Ok(())
            }
            Err(error) => {
                let error: KeyError = error;
                tracing::error!(tenant = %berth.tenant, error = &error as &dyn std::error::Error,
                    "the key for the write-ahead log may not be used any more");
                Err(Fault::Revoked)
            }
        }
    }

    /// Makes the commit, unless an earlier try has made it.
    async fn append(&self, commit: &Commit<F>) -> Result<Appended, Fault> {
        let table = &self.opened.berth.table;
        for _ in 0..ROUNDS_MAX {
            let state = table.state().await?;
            let mut notes = Notes::default();
            if let Some(fence) = self.opened.fence {
                if tree::fence(&state) != fence {
                    return Err(Fault::Fenced);
                }
                tree::note_fence(fence, &mut notes);
            }
            if let (Some(log), Some(mark)) = (&self.sequencer.journal, &commit.mark) {
                let there = log.in_table(&state);
                if there == Some(InTable::at(mark)) {
                    return Ok(Appended::Before(state));
                }
                // Nobody else writes from this log: it was copied, and the copy is in use.
                if there.and_then(|there| there.position) >= Some(mark.position) {
                    return Err(Fault::Fenced);
                }
                log.note(mark, &mut notes);
            }
            let (batch, firsts) = self.numbered(&state, &commit.prepared, &mut notes).await?;
            tree::note_id(&state, commit.prepared.last_id, &mut notes);
            let Notes { txns, info } = notes;
            match table.append(&state, vec![batch], txns, info).await? {
                AppendOutcome::Committed { version } => return Ok(Appended::At(version, firsts)),
                AppendOutcome::Conflict => {}
            }
        }
        Err(Fault::Later(LaneError::Unavailable))
    }

    /// Tells whoever publishes the logs.
    fn tell(&self, leaves: &[Leaves], at: &Appended) {
        let (feed, berth) = (&self.sequencer.feed, &self.opened.berth);
        match at {
            Appended::At(_, firsts) => {
                for (leaves, first) in leaves.iter().zip(firsts) {
                    feed.tell(Committed {
                        log: berth.log(&leaves.stream),
                        first: u64::try_from(*first).unwrap_or(0),
                        leaves: leaves.hashes.clone(),
                    });
                }
            }
            Appended::Before(_) => {
                let streams = leaves.iter().map(|leaves| &leaves.stream);
                streams.for_each(|stream| feed.tell_grown(berth.log(stream)));
            }
        }
    }

    /// The batch with its final leaf numbers, those of the first leaf of each stream, and the new trees among the notes.
    async fn numbered(
        &self,
        state: &Arc<TableState>,
        prepared: &Arc<Prepared<F::Entries>>,
        notes: &mut Notes,
    ) -> Result<(RecordBatch, Vec<i64>), Fault> {
        let mut batch = prepared.batch.clone();
        let mut firsts = Vec::new();
        for (at, leaves) in prepared.leaves.iter().enumerate() {
            let stream = leaves.stream.as_str();
            let tree = self.opened.berth.tree(state, stream).await?;
            match leaves.first {
                Some(first) if first != tree.next() => return Err(Fault::Fenced),
                Some(_) => {}
                None => batch = moved(&batch, tree.next()).ok_or(LaneError::Unavailable)?,
            }
            firsts.push(tree.next());
            // Hashes for many milliseconds when the flush is large.
            let prepared = Arc::clone(prepared);
            let appending = tokio::task::spawn_blocking(move || {
                let mut notes = Notes::default();
                tree.append(&prepared.leaves[at], &mut notes);
                notes
            });
            let noted = appending.await.map_err(|_| LaneError::Unavailable)?;
            notes.txns.extend(noted.txns);
            notes.info.extend(noted.info);
        }
        Ok((batch, firsts))
    }
}

enum Appended {
    /// The version, and the number of the first leaf of each stream.
    At(u64, Vec<i64>),
    Before(Arc<TableState>),
}

/// The batch with its leaf numbers moved up by `by`.
fn moved(batch: &RecordBatch, by: i64) -> Option<RecordBatch> {
    let (at, _) = batch.schema_ref().column_with_name("leaf_index")?;
    let numbers = batch.column(at).as_primitive_opt::<Int64Type>()?;
    let numbers: Int64Array = numbers.unary(|number| number + by);
    let mut columns = batch.columns().to_vec();
    *columns.get_mut(at)? = Arc::new(numbers);
    RecordBatch::try_new(batch.schema(), columns).ok()
}
