//! Witnesses: others who keep in mind what they have seen of a log, and sign that nothing they see contradicts it.
//!
//! They are asked after a checkpoint is published, and it is published again with what they say. One that does not answer,
//! or does not know the log, holds nothing up: whoever checks decides how many they want to have heard.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use tokio::time::Instant;

use super::logs::{Known, Published};
use super::objects::Objects;
use super::{Error, LogName, Logs};
use crate::seal::note::Note;
use crate::seal::witness::AddCheckpoint;
use crate::seal::{SignedCheckpoint, WitnessKey};

/// How long one that did not answer, or did not cosign, is left alone.
const REST: Duration = Duration::from_secs(30);
/// How often a witness may say that it has seen another checkpoint last.
const ROUNDS: usize = 2;

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Lines of signatures.
    Cosigned(String),
    /// It has cosigned a checkpoint of so many leaves last.
    Other(u64),
    /// It does not cosign, with the status of its answer.
    Refused(u16),
}

/// A witness that does not answer.
#[derive(Debug, thiserror::Error)]
#[error("a witness does not answer")]
pub struct Unanswered(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Where a witness is asked.
#[async_trait]
pub trait Witness: fmt::Debug + Send + Sync {
    /// Who it is.
    fn key(&self) -> &WitnessKey;

    /// Asks it to cosign, with the body of `add-checkpoint`. It answers soon, or has not answered.
    async fn add_checkpoint(&self, body: String) -> Result<Answer, Unanswered>;
}

/// A witness, and what is known of it.
pub(super) struct Asked {
    witness: Arc<dyn Witness>,
    /// How many leaves it has seen of logs.
    seen: Mutex<HashMap<LogName, u64>>,
    /// Logs that it is not asked about until then; `None`: any of them.
    resting: Mutex<HashMap<Option<LogName>, Instant>>,
}

impl Asked {
    pub(super) fn new(witness: Arc<dyn Witness>) -> Self {
        Self {
            witness,
            seen: Mutex::default(),
            resting: Mutex::default(),
        }
    }

    fn seen(&self, log: &LogName) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(log).copied().unwrap_or(0)
    }

    fn has_seen(&self, log: &LogName, size: u64) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(log.clone(), size);
    }

    fn rests(&self, log: &LogName) -> bool {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, until| *until > Instant::now());
        resting.contains_key(&None) || resting.contains_key(&Some(log.clone()))
    }

    fn rest(&self, log: Option<&LogName>) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.insert(log.cloned(), Instant::now() + REST);
    }
}

impl Logs {
    /// Has a published checkpoint cosigned, and published again with that. Says whether somebody is to be asked again.
    pub(super) async fn witness(
        &self,
        log: &LogName,
        known: &Known,
        published: Published,
    ) -> Result<bool, Error> {
        let note = published.checkpoint.note();
        let missing = |asked: &&Asked| !note.is_cosigned_by(asked.witness.key());
        let missing: Vec<_> = self.witnesses.iter().filter(missing).collect();
        if missing.is_empty() {
            return Ok(false);
        }
        let asking = missing.iter().filter(|asked| !asked.rests(log));
        let asking = asking.map(|asked| async {
            let lines = self.ask(asked, log, &published).await;
            if lines.is_none() {
                asked.rest(Some(log));
            }
            Some((asked.witness.key(), lines?))
        });
        let answers = join_all(asking).await;
        let mut cosigned = SignedCheckpoint::clone(&published.checkpoint);
        let mut count = 0;
        for (key, lines) in answers.into_iter().flatten() {
            match cosigned.cosigned(key, &lines) {
                Ok(with) => {
                    cosigned = with;
                    count += 1;
                }
                Err(_) => {
                    tracing::warn!(witness = %key, "what a witness answers is no cosignature of its own")
                }
            }
        }
        let left = count < missing.len();
        if count == 0 {
            return Ok(left);
        }
        let mut known = known.lock().await;
        let is_newest = |text: &str| text == cosigned.note().text();
        let objects = Objects::new(&self.tables, log)?;
        let there = objects.checkpoint().await?;
        let there = there.and_then(|there| Note::parse(&there).ok());
        // More of the log may have been published meanwhile, here or by another process.
        if there.is_some_and(|there| is_newest(there.text())) {
            objects.put_checkpoint(cosigned.to_text()).await?;
        }
        let known = known.as_mut();
        let known = known.filter(|known| is_newest(known.checkpoint.note().text()));
        if let Some(known) = known {
            known.checkpoint = Arc::new(cosigned);
        }
        Ok(left)
    }

    async fn ask(&self, asked: &Asked, log: &LogName, published: &Published) -> Option<String> {
        let size = published.checkpoint.checkpoint().size;
        let key = asked.witness.key();
        let mut old = asked.seen(log).min(size);
        for _ in 0..=ROUNDS {
            let proof = self.path(log, published.clone(), (old, size)).await;
            let proof = proof.ok()??;
            let note = published.checkpoint.to_text();
            let body = AddCheckpoint::body(old, &proof, &note);
            match asked.witness.add_checkpoint(body).await {
                Ok(Answer::Cosigned(lines)) => {
                    asked.has_seen(log, size);
                    return Some(lines);
                }
                Ok(Answer::Other(seen)) if seen <= size && seen != old => {
                    asked.has_seen(log, seen);
                    old = seen;
                }
                Ok(Answer::Other(seen)) => {
                    let (tenant, stream) = (&log.tenant, &log.stream);
                    tracing::error!(%tenant, %stream, witness = %key, seen, size, "a witness has seen another log than this");
                    return None;
                }
                Ok(Answer::Refused(status)) => {
                    let (tenant, stream) = (&log.tenant, &log.stream);
                    tracing::warn!(%tenant, %stream, witness = %key, status, "a witness does not cosign");
                    return None;
                }
                Err(error) => {
                    // Nor will it answer for others.
                    asked.rest(None);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(witness = %key, error, "a witness is asked again later");
                    return None;
                }
            }
        }
        None
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Asked").field(&self.witness).finish()
    }
}
