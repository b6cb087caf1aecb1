//! Exports: a tenant's records as files that prove themselves to whoever has the tenant's public keys.
//!
//! ```text
//! asked ──▶ job (a sealed document) ──schedule──▶ run ──select (guarded queries)──▶ package ──sealed──▶ store
//!                                                   '──proof: leaves, omitted──▶ manifest, signed ──▶ deliver, verify
//! ```
//! An export is a guarded query with a manifest: it has no scan of its own, sees what its caller sees, and every slice of it is
//! decided anew. What it has in it is fixed when it begins, and written so that the same records give the same bytes; so
//! it can be cut off anywhere and goes on at its last finished chunk. Nothing of it can be fetched before its manifest is
//! signed.
//!
//! # Bundle
//! `manifest.json`, `manifest.sig` ([`manifest`]), `dictionary.json`, `README-verify.md`, and
//! ```text
//! part-00000.parquet …               records, zstd; or part-00000.ndjson …: a JSON object a line, all members in each
//! proofs/checkpoint                  the head of the log, a signed note
//! proofs/part-00000.leaves.parquet … for each row: leaf_index, and parts, the opened leaf
//! proofs/omitted                     the hashes of all other leaves, subtree by subtree, 32 bytes each
//! ```
//! The proofs are for callers from whom no row is hidden: places in a log count rows. The parts of a leaf are the bytes that
//! `seal::opened` makes of it, the omitted hashes those that [`Included::root`] takes. The columns of the
//! rows are [`crate::query::listing::COLUMNS`] between `tenant_id` and `idempotency_key`, then `leaf_index` where there are proofs.
//! In NDJSON moments are RFC 3339, `labels` is an object, and `context` and `extras` are text that is JSON: their shapes
//! differ from record to record, and readers want one.
//!
//! # At rest
//! `<silo root>/tenants/<tenant>/exports/<stream>/<from>-<to>/<export>/<attempt>/…`, each file sealed ([`sealed`]) under a random
//! key of the export's, which lies in the job wrapped under the tenant's data key: whoever shreds the tenant's data
//! shreds its exports.
//!
//! [`Included::root`]: crate::seal::Included::root

mod asked;
mod bundle;
mod bundle_files;
mod chunk;
mod deliver;
mod error;
mod finish;
mod job;
mod kept;
mod manifest;
mod package;
mod rows_check;
mod run;
mod schedule;
mod sealed;
mod select;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use catalog::clock::{Clock, Random};
use catalog::context::TenantContext;
use catalog::guard::{Decision, Export, Gate, Permit};
use catalog::ids::{RecordIds, SiloId};
use catalog::keys::KeyRing;
use catalog::tenant::Registry;
use object_store::ObjectStore;

use crate::proof::Logs;
use crate::query::Queries;
use crate::receipt::hexadecimal;

pub use asked::{Asked, Format, PURPOSE_CHARACTERS_MAX};
pub use bundle::{BundleReport, Unreadable, verify_bundle};
pub use deliver::{BundleFile, StoredReport};
pub use error::Error;
pub use job::{ExportId, Fault, Job, Progress, State};
pub use manifest::{MANIFEST, SIGNATURE};

use self::kept::{Jobs, TenantJobs, Versioned};
use self::manifest::Maker;
use self::run::Turn;
use self::schedule::{Owner, Schedule};

/// Exports of a tenant that a list looks at.
const LISTED_MAX: usize = 200;

/// How exports are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Exports of a silo that are worked on at the same time, in one process.
    pub at_once: usize,
    /// Of one tenant.
    pub tenant_at_once: usize,
    /// Exports of one tenant that may be under way.
    pub tenant_open_max: usize,
    /// Bytes that end a chunk.
    pub chunk_bytes: u64,
    /// How long a finished export can be fetched.
    pub kept: Duration,
    /// How long an export may take, from when it was asked for.
    pub time_max: Duration,
    /// How often whoever runs one says so.
    pub beat: Duration,
    /// After how many looks, every other beat, without a word of it another process takes an export up.
    pub looks_missed_max: u32,
    /// The share of a tenant of this edition, where it is not 1.
    pub weights: BTreeMap<String, u32>,
    /// The name of this machine, for manifests.
    pub host: String,
    /// The kind of each silo's store, for manifests: `s3`, for example.
    pub stores: BTreeMap<SiloId, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_once: 2,
            tenant_at_once: 1,
            tenant_open_max: 8,
            chunk_bytes: 160 << 20,
            kept: Duration::from_hours(7 * 24),
            time_max: Duration::from_hours(24),
            beat: Duration::from_secs(5),
            looks_missed_max: 3,
            weights: BTreeMap::new(),
            host: "trailhouse".to_owned(),
            stores: BTreeMap::new(),
        }
    }
}

/// What exports are made of.
pub struct Parts {
    /// What reads.
    pub queries: Arc<Queries>,
    /// What proves.
    pub logs: Arc<Logs>,
    /// Who decides.
    pub gate: Arc<Gate>,
    /// Which tenants there are.
    pub registry: Arc<Registry>,
    /// The keys in use.
    pub keys: Arc<KeyRing>,
    /// The stores of the silos, each rooted at its silo.
    pub stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub random: Arc<dyn Random>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// The exports of all tenants.
pub struct Exports {
    parts: Parts,
    settings: Settings,
    jobs: Jobs,
    ids: RecordIds,
    schedule: Schedule<Turn>,
    /// Exports that have ended: nobody has to read them again to know so.
    ended: Mutex<HashSet<ExportId>>,
    /// Names this process in the jobs that it runs.
    runner: String,
}

impl Exports {
    /// Exports made so. Nothing is made before [`Self::run`].
    #[must_use]
    pub fn new(parts: Parts, settings: Settings) -> Self {
        let jobs = Jobs::new(
            parts.stores.clone(),
            Arc::clone(&parts.keys),
            Arc::clone(&parts.random),
        );
        let ids = RecordIds::new(Arc::clone(&parts.clock), Arc::clone(&parts.random));
        let chance: [u8; 16] = catalog::clock::array(&*parts.random);
        Self {
            schedule: Schedule::new(settings.at_once, settings.tenant_at_once),
            runner: format!("{} {}", settings.host, hexadecimal(&chance)),
            ended: Mutex::default(),
            ids,
            jobs,
            parts,
            settings,
        }
    }

    /// Takes an export in. The same request of the same caller, while that export is under way, is that export; the flag
    /// says whether it is a new one.
    ///
    /// # Errors
    /// Why not. What the policy forbids is the caller's to put into evidence.
    pub async fn create(
        &self,
        permit: &Permit<Export>,
        context: &TenantContext,
        asked: Asked,
    ) -> Result<(Job, bool), Error> {
        let decision = permit.decision();
        asked.check(decision)?;
        self.check_planned(permit, &asked).await?;
        let jobs = self.jobs.of(&decision.silo, &decision.tenant).await?;
        let now = self.parts.clock.now();
        let fingerprint = asked.fingerprint(decision)?;
        let job = Job::new(
            (ExportId::new(self.ids.next(&decision.tenant)), now),
            (asked, fingerprint.clone()),
            // For as long as links to it may be used; how long it may take is looked at apart.
            context.mandate(
                &decision.silo,
                now.plus(self.settings.time_max + self.settings.kept),
            ),
            decision,
        );
        self.check_open(&jobs, &fingerprint).await?;
        permit.evidence_durable().await?;
        let (begun, is_new) = jobs.begin(&fingerprint, job).await?;
        if is_new {
            let job = &begun.job;
            let about = vec![
                format!("Export.{}", job.id),
                format!("Stream.{}", job.asked.stream),
                format!("Format.{}", job.asked.format.as_str()),
            ];
            self.enqueue(begun.clone());
            self.parts.gate.note(permit, "Export.Create", about).await?;
        }
        Ok((begun.job, is_new))
    }

    /// Whether its records can be selected at all: by filters that this caller may use.
    async fn check_planned(&self, permit: &Permit<Export>, asked: &Asked) -> Result<(), Error> {
        let (sql, parameters) = asked.listing().page(None, 1);
        let reading = permit.reading();
        let planned = self.parts.queries.plan(&reading, &sql, Some(parameters));
        planned.await?;
        Ok(())
    }

    async fn check_open(&self, jobs: &TenantJobs, fingerprint: &str) -> Result<(), Error> {
        let at_once = self.settings.tenant_open_max;
        let mut open = 0;
        for id in jobs.list().await? {
            if self.ended().contains(&id) {
                continue;
            }
            let Some(found) = jobs.latest(&id).await? else {
                continue;
            };
            if !found.job.state.is_open() {
                self.ended().insert(id);
            } else if found.job.fingerprint == fingerprint {
                return Ok(());
            } else {
                open += 1;
            }
        }
        if open < at_once {
            Ok(())
        } else {
            Err(Error::TooMany { at_once })
        }
    }

    /// The exports of this caller among the tenant's newest, the newest first.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn list(&self, permit: &Permit<Export>) -> Result<Vec<Job>, Error> {
        let decision = permit.decision();
        let jobs = self.jobs.of(&decision.silo, &decision.tenant).await?;
        let mut names = jobs.list().await?;
        names.sort_unstable();
        let mut own = Vec::new();
        for id in names.iter().rev().take(LISTED_MAX) {
            let found = jobs.latest(id).await?.map(|found| found.job);
            own.extend(found.filter(|job| is_own(job, decision)));
        }
        Ok(own)
    }

    /// An export of this caller.
    ///
    /// # Errors
    /// [`Error::NotFound`] for everybody else's.
    pub async fn show(&self, permit: &Permit<Export>, id: &ExportId) -> Result<Job, Error> {
        Ok(self.own(permit, id).await?.job)
    }

    /// Calls an export off, or does nothing if it has ended. What was made of it is removed.
    ///
    /// # Errors
    /// As [`Self::show`], and when it cannot be written down.
    pub async fn cancel(&self, permit: &Permit<Export>, id: &ExportId) -> Result<Job, Error> {
        let decision = permit.decision();
        let jobs = self.jobs.of(&decision.silo, &decision.tenant).await?;
        permit.evidence_durable().await?;
        loop {
            let Versioned { mut job, version } = self.own(permit, id).await?;
            if !job.state.is_open() {
                return Ok(job);
            }
            let now = self.parts.clock.now();
            job.state = State::Cancelled;
            job.ended_at = Some(now);
            job.expires_at = Some(now);
            match jobs.put(&job, version + 1).await {
                Ok(()) => return Ok(job),
                // Whoever runs it has come further meanwhile.
                Err(Error::Lost) => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn own(&self, permit: &Permit<Export>, id: &ExportId) -> Result<Versioned, Error> {
        let decision = permit.decision();
        let jobs = self.jobs.of(&decision.silo, &decision.tenant).await?;
        let found = jobs.latest(id).await?;
        found
            .filter(|found| is_own(&found.job, decision))
            .ok_or(Error::NotFound)
    }

    pub(super) fn ended(&self) -> std::sync::MutexGuard<'_, HashSet<ExportId>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn maker(&self, silo: &SiloId) -> Maker {
        let store = self.settings.stores.get(silo);
        Maker {
            host: self.settings.host.clone(),
            store: store.cloned().unwrap_or_else(|| "object store".to_owned()),
        }
    }

    fn weight(&self, job: &Job) -> u32 {
        let edition = job.mandate.attributes().edition.as_deref();
        let weight = edition.and_then(|edition| self.settings.weights.get(edition));
        weight.copied().unwrap_or(1).max(1)
    }

    fn enqueue(&self, found: Versioned) {
        let owner = Owner {
            id: found.job.id.clone(),
            tenant: found.job.mandate.tenant().clone(),
            weight: self.weight(&found.job),
        };
        self.schedule.add(owner, Turn::New(Box::new(found)));
    }
}

/// Whether it is this caller's. Another one may see other records.
fn is_own(job: &Job, decision: &Decision) -> bool {
    job.mandate.subject() == decision.subject && *job.mandate.tenant() == decision.tenant
}

impl fmt::Debug for Exports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exports").finish_non_exhaustive()
    }
}
