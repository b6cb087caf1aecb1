//! The records lane of one tenant: drop what is known, number what is new, commit once for all who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use catalog::clock::Clock;
use catalog::ids::{PolicyVersion, SiloId, TenantId};

use crate::record::{StoredRecord, batch};
use crate::sequencer::{Job, Lane, LaneError, Leaves, ROUNDS_MAX, log_app_id};
use crate::table::{AppendOutcome, TableKind, TableState, Tables};

use super::dedupe::{self, Dedup, KeyDigest, Known, Place};
use super::outcome::Receipt;

/// A redacted record that has no place in the log yet.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) stored: StoredRecord,
    pub(crate) key: String,
    pub(crate) policy_version: PolicyVersion,
}

/// What the lane made of a candidate.
#[derive(Debug, Clone)]
pub(crate) enum Disposition {
    /// It is in the table.
    Stored(Receipt),
    /// Its key belongs to another payload.
    Mismatch {
        /// That payload's keyed hash.
        stored_keyed: String,
    },
}

/// A request's candidates, in order.
pub(crate) type Work = Vec<Candidate>;
/// Their dispositions, in the same order.
pub(crate) type Reply = Result<Vec<Disposition>, LaneError>;

/// The one writer of a tenant's records in this process.
#[derive(Debug)]
pub(crate) struct RecordLane {
    pub(crate) tenant: TenantId,
    pub(crate) silo: SiloId,
    pub(crate) tables: Arc<Tables>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) index: Dedup,
}

impl Lane for RecordLane {
    type Work = Work;
    type Reply = Reply;

    async fn commit(&mut self, jobs: Vec<Job<Work, Reply>>) {
        let mut waiting = Vec::with_capacity(jobs.len());
        let mut candidates = Vec::new();
        for job in jobs {
            waiting.push((job.reply, job.work.len()));
            candidates.extend(job.work);
        }
        let stored = self.store(&mut candidates).await;
        let mut dispositions = stored.as_ref().map(|all| all.iter().cloned());
        for (reply, size) in waiting {
            let own = dispositions
                .as_mut()
                .map(|all| all.by_ref().take(size).collect());
            // A caller that went away finds its receipt by sending the record again.
            let _ = reply.send(own.map_err(|error| **error));
        }
    }
}

/// What everyone is told if this round commits.
struct Round {
    dispositions: Vec<Disposition>,
    rows: Vec<StoredRecord>,
    /// The rows as the index will know them.
    entries: HashMap<KeyDigest, Known>,
    leaves: Leaves,
}

impl RecordLane {
    /// Repeats rounds until one commits; a round that loses against another writer has stored nothing.
    async fn store(&mut self, candidates: &mut [Candidate]) -> Result<Vec<Disposition>, LaneError> {
        let table = self
            .tables
            .table(&self.tenant, &self.silo, TableKind::Records)
            .await?;
        let place = Place {
            tenant: self.tenant.clone(),
            silo: self.silo.clone(),
        };
        let keys = candidates
            .iter()
            .map(|candidate| dedupe::key_digest(&candidate.key))
            .collect::<Option<Vec<_>>>()
            .ok_or(LaneError::Unavailable)?;
        for _ in 0..ROUNDS_MAX {
            let state = table.state().await?;
            self.index.catch_up(&place, &table, &state).await?;
            let known = self.index.get_many(&place, &keys).await?;
            let round = self.plan(candidates, &keys, known, &state);
            if round.rows.is_empty() {
                return Ok(round.dispositions);
            }
            let promoted: [&str; 0] = [];
            let batch =
                batch::records(round.rows, &promoted).map_err(|_| LaneError::Unavailable)?;
            let started = Instant::now();
            let outcome = table
                .append(&state, vec![batch], round.leaves.into_txns(), Vec::new())
                .await?;
            if let AppendOutcome::Committed { version } = outcome {
                metrics::histogram!("trailhouse_commit_seconds", "tenant" => self.tenant.to_string())
                    .record(started.elapsed().as_secs_f64());
                let entries = round.entries.into_iter().collect();
                self.index.apply(&place, version, entries).await;
                return Ok(round.dispositions);
            }
        }
        Err(LaneError::Unavailable)
    }

    fn plan(
        &self,
        candidates: &mut [Candidate],
        keys: &[KeyDigest],
        known: Vec<Option<Known>>,
        state: &TableState,
    ) -> Round {
        let ingested_at = self.clock.now();
        let mut round = Round {
            dispositions: Vec::with_capacity(candidates.len()),
            rows: Vec::new(),
            entries: HashMap::new(),
            leaves: Leaves::default(),
        };
        for ((candidate, key), indexed) in candidates.iter_mut().zip(keys).zip(&known) {
            let payload = candidate.stored.payload_hash.as_deref();
            let payload = payload.and_then(dedupe::payload_mac).unwrap_or_default();
            let disposition = match indexed.as_ref().or_else(|| round.entries.get(key)) {
                Some(known) if known.payload == payload => Disposition::Stored(Receipt {
                    duplicate: true,
                    ..known.receipt.clone()
                }),
                Some(known) => Disposition::Mismatch {
                    stored_keyed: dedupe::payload_text(&known.payload),
                },
                None => {
                    let receipt = place(candidate, ingested_at, &mut round.leaves, state);
                    round.rows.push(candidate.stored.clone());
                    let known = Known {
                        payload,
                        receipt: receipt.clone(),
                        segment_id: candidate.stored.segment_id.clone(),
                    };
                    round.entries.insert(*key, known);
                    Disposition::Stored(receipt)
                }
            };
            round.dispositions.push(disposition);
        }
        round
    }
}

/// Gives a candidate its place in the log of its stream.
fn place(
    candidate: &mut Candidate,
    ingested_at: catalog::clock::Timestamp,
    leaves: &mut Leaves,
    state: &TableState,
) -> Receipt {
    let stored = &mut candidate.stored;
    let leaf_index = leaves.next(stored.stream.as_str(), || {
        state.txn(&log_app_id(stored.stream.as_str()))
    });
    stored.ingested_at = ingested_at;
    stored.leaf_index = Some(leaf_index);
    Receipt {
        record_id: stored.record_id,
        policy_version: candidate.policy_version.clone(),
        stream: stored.stream.clone(),
        leaf_index,
        duplicate: false,
    }
}
