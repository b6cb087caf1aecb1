//! Exports under way: chunk by chunk, each written down when it is whole.
//!
//! ```text
//! slices ──task──▶ pages of records with their leaves ──Cutter──▶ ChunkWriter ──Upload──▶ store ──▶ the job's next version
//! ```
//! The task that reads is one page ahead of what is encoded. Whatever passes (a store, a key service, a queue that is full) is
//! tried again from the last finished chunk; whatever does not ends the export, and its problem stands in the job.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::keys::{KeyPurpose, SecretKey};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Exports;
use super::chunk::Feed;
use super::error::Error;
use super::job::{ExportId, Job, Progress, State, WrappedKey};
use super::kept::{TenantJobs, Versioned};
use super::schedule::Owner;
use super::select::{Place, Selection};
use super::watch::{LOOK_BEATS, Seen};

/// How often what passes is tried again without a finished chunk in between, and the longest wait.
const TRIES_MAX: u32 = 20;
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How many processes take an export up, one after the other.
const ATTEMPTS_MAX: u32 = 25;
/// Chunks of one export: its document has to hold them.
const CHUNKS_MAX: usize = 5_000;

/// An export that waits for its turn.
pub(super) enum Turn {
    /// One that this process has not begun.
    New(Box<Versioned>),
    /// One that it has under way.
    Begun(Box<Running>),
}

/// An export that this process has under way.
pub(super) struct Running {
    pub(super) jobs: TenantJobs,
    job: Job,
    version: u64,
    key: Arc<SecretKey>,
    pub(super) feed: Option<Feed>,
    tries: u32,
}

/// What came of a turn.
enum Came {
    /// A chunk was finished; there may be more.
    Further,
    /// The export has ended.
    Ended,
}

impl Running {
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    pub(super) fn job_mut(&mut self) -> &mut Job {
        &mut self.job
    }

    pub(super) fn key(&self) -> &Arc<SecretKey> {
        &self.key
    }

    pub(super) fn place(&self) -> Option<Place> {
        let last = self.job.chunks.last();
        last.map(|chunk| (chunk.last_created_at, chunk.last_record_id))
    }

    /// What the finished chunks have.
    pub(super) fn finished(&self) -> Progress {
        let chunks = self.job.chunks.iter();
        Progress {
            records: chunks.clone().map(|chunk| chunk.rows).sum(),
            bytes: chunks.map(|chunk| chunk.arrow_bytes).sum(),
        }
    }

    /// Writes down what is known of the job.
    pub(super) async fn save(&mut self) -> Result<(), Error> {
        self.jobs.put(&self.job, self.version + 1).await?;
        self.version += 1;
        Ok(())
    }

    /// The name of an object of this attempt, below the export's folder.
    pub(super) fn object(&self, path: &str) -> String {
        format!("{}/{path}", self.job.attempt)
    }
}

impl Exports {
    /// Makes exports for as long as it is polled.
    pub async fn run(self: Arc<Self>) {
        let mut workers = JoinSet::new();
        for _ in 0..self.schedule.at_once() {
            let exports = Arc::clone(&self);
            workers.spawn(async move {
                loop {
                    let (owner, turn) = exports.schedule.next().await;
                    exports.turn(owner, turn).await;
                }
            });
        }
        let mut seen = Seen::default();
        let mut looks = interval(self.settings.beat * LOOK_BEATS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look(&mut seen).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "exports are looked for later");
            }
        }
    }

    async fn turn(self: &Arc<Self>, owner: Owner, turn: Turn) {
        let running = match turn {
            Turn::Begun(running) => Some(running),
            Turn::New(found) => self.begin(*found).await,
        };
        let (work, again) = match running {
            Some(running) => self.go_on(running).await,
            None => (0, None),
        };
        self.schedule.done(owner, work, again.map(Turn::Begun));
    }

    /// Takes an export up; `None` if it is somebody else's, or has ended before its first record.
    async fn begin(&self, found: Versioned) -> Option<Box<Running>> {
        let Versioned { job, version } = found;
        match self.begun(job, version).await {
            Ok(running) => Some(Box::new(running)),
            Err(Error::Lost) => None,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "an export is begun later"
                );
                sleep(self.settings.beat).await;
                None
            }
        }
    }

    async fn begun(&self, mut job: Job, version: u64) -> Result<Running, Error> {
        let (tenant, silo) = (job.mandate.tenant().clone(), job.mandate.silo().clone());
        let jobs = self.jobs.of(&silo, &tenant).await?;
        if job.attempt >= ATTEMPTS_MAX {
            // What ends every process that takes it up must not do so for ever.
            job.fail(&Error::Internal, self.parts.clock.now());
            jobs.put(&job, version + 1).await?;
            return Err(Error::Lost);
        }
        job.state = State::Running;
        job.runner = Some(self.runner.clone());
        job.attempt += 1;
        job.started_at = job.started_at.or(Some(self.parts.clock.now()));
        if job.key.is_none() {
            let keys = &self.parts.keys;
            let epoch = keys.current(&tenant, &silo, KeyPurpose::Data).await?;
            let random = &*self.parts.random;
            let dek = SecretKey::random(random);
            job.key = Some(WrappedKey {
                epoch: epoch.wrapped().clone(),
                dek: URL_SAFE_NO_PAD.encode(epoch.wrap_dek(&dek, random)?),
            });
        }
        let key = self.key_of(&job).await?;
        let mut running = Running {
            jobs,
            job,
            version,
            key,
            feed: None,
            tries: 0,
        };
        running.job.progress = running.finished();
        // From here on it is this process's.
        running.save().await?;
        Ok(running)
    }

    /// One chunk more, or the end. Gives how much was done, and the export if it wants another turn.
    async fn go_on(self: &Arc<Self>, mut running: Box<Running>) -> (u64, Option<Box<Running>>) {
        let before = running.job.progress.bytes;
        let came = self.chunk_or_end(&mut running).await;
        let work = running.job.progress.bytes.saturating_sub(before);
        let error = match came {
            Ok(Came::Further) => {
                running.tries = 0;
                return (work, Some(running));
            }
            Ok(Came::Ended) => return (work, None),
            Err(Error::Lost) => {
                self.clear_up_after(&running).await;
                return (work, None);
            }
            Err(error) => error,
        };
        running.feed = None;
        running.tries += 1;
        running.job.progress = running.finished();
        warn(&error, &running.job.id);
        if error.passes() && running.tries < TRIES_MAX {
            let seconds = 1 << running.tries.min(6);
            let wait = sleep(WAIT_MAX.min(Duration::from_secs(seconds)));
            let waiting = async {
                wait.await;
                Ok(())
            };
            let is_ours = self.beating(&mut running, waiting).await.is_ok();
            return (work, is_ours.then_some(running));
        }
        running.job.fail(&error, self.parts.clock.now());
        if let Err(error) = running.save().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "that an export failed is not written down");
        }
        (work, None)
    }

    /// Waits for something, and says meanwhile that the job is being worked on.
    ///
    /// # Errors
    /// Those of the work; and [`Error::Lost`], as soon as the job is somebody else's or was called off.
    pub(super) async fn beating<T>(
        &self,
        running: &mut Running,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut work = std::pin::pin!(work);
        let mut ticks = interval(self.settings.beat);
        ticks.reset();
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    match running.save().await {
                        Ok(()) => {}
                        Err(Error::Lost) => return Err(Error::Lost),
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::debug!(error, "a beat of an export was missed");
                        }
                    }
                }
            }
        }
    }

    async fn chunk_or_end(self: &Arc<Self>, running: &mut Running) -> Result<Came, Error> {
        let began = running.job.created_at;
        if self.parts.clock.now() > began.plus(self.settings.time_max) {
            return Err(Error::Late);
        }
        if running.feed.is_none() {
            self.feed(running).await?;
        }
        match Box::pin(self.chunk(running)).await? {
            Some(chunk) => {
                running.job.chunks.push(chunk);
                self.check_size(running)?;
                running.save().await?;
                Ok(Came::Further)
            }
            None => {
                self.finish(running).await?;
                running.save().await?;
                Ok(Came::Ended)
            }
        }
    }

    fn check_size(&self, running: &Running) -> Result<(), Error> {
        let bytes: u64 = running.job.stored().map(|file| file.bytes).sum();
        let bytes_max = running.job.bytes_max;
        if let Some(bytes_max) = bytes_max.filter(|bytes_max| bytes > *bytes_max) {
            return Err(Error::TooLarge {
                detail: format!("{bytes} bytes so far, of {bytes_max} at most"),
            });
        }
        if running.job.chunks.len() > CHUNKS_MAX {
            return Err(Error::TooLarge {
                detail: format!("{CHUNKS_MAX} chunks at most"),
            });
        }
        Ok(())
    }

    pub(super) fn selection(&self, job: &Job) -> Selection {
        Selection {
            queries: Arc::clone(&self.parts.queries),
            logs: Arc::clone(&self.parts.logs),
            gate: Arc::clone(&self.parts.gate),
            clock: Arc::clone(&self.parts.clock),
            job: Arc::new(job.clone()),
        }
    }
}

fn warn(error: &Error, id: &ExportId) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, %id, "an export was cut off");
}
