//! Exports that nobody works on: taken up by whoever finds them, and removed when their time is over.

use std::collections::HashMap;

use catalog::clock::Timestamp;
use catalog::ids::{SiloId, TenantId};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::Exports;
use super::error::Error;
use super::job::{ExportId, Job, State};
use super::kept::{TenantJobs, Versioned};
use super::run::Running;

/// Beats between two looks for exports that nobody runs.
pub(super) const LOOK_BEATS: u32 = 2;

/// What was seen of jobs that are not this process's.
#[derive(Default)]
pub(super) struct Seen {
    /// The version of those under way, and how often it was still that one.
    open: HashMap<ExportId, (u64, u32)>,
    /// Until when there is nothing to see of those that have ended.
    quiet: HashMap<ExportId, Timestamp>,
}

impl Exports {
    /// Takes up exports that nobody runs, and removes those whose time is over.
    pub(super) async fn look(&self, seen: &mut Seen) -> Result<(), Error> {
        let tenants = self.parts.registry.list().await;
        let tenants = tenants.map_err(|_| Error::Unavailable)?;
        for tenant in tenants {
            if !self.parts.stores.contains_key(&tenant.silo) {
                continue;
            }
            if let Err(error) = self.look_at(&tenant.silo, &tenant.id, seen).await {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, tenant = %tenant.id, "the exports of a tenant are looked for later");
            }
        }
        Ok(())
    }

    async fn look_at(
        &self,
        silo: &SiloId,
        tenant: &TenantId,
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let jobs = self.jobs.of(silo, tenant).await?;
        let now = self.parts.clock.now();
        for id in jobs.list().await? {
            let is_quiet = seen.quiet.get(&id).is_some_and(|until| *until > now);
            if is_quiet || self.schedule.has(&id) {
                continue;
            }
            let Some(found) = jobs.latest(&id).await? else {
                continue;
            };
            if found.job.state.is_open() {
                let looks = seen.open.entry(id).or_insert((found.version, 0));
                *looks = if looks.0 == found.version {
                    (looks.0, looks.1 + 1)
                } else {
                    (found.version, 0)
                };
                let is_silent = looks.1 > self.settings.looks_missed_max;
                if is_silent || self.was_ours(&found.job) {
                    self.enqueue(found);
                }
                continue;
            }
            seen.open.remove(&id);
            self.ended().insert(id.clone());
            let is_removed = found.job.removed;
            let end = found.job.expires_at.filter(|end| *end > now && !is_removed);
            self.remove_if_over(&jobs, found).await?;
            // Of one that has ended there is nothing more to see before its files go, and then nothing at all.
            let until = end.unwrap_or(Timestamp::from_micros(i64::MAX));
            seen.quiet.insert(id, until);
        }
        Ok(())
    }

    async fn remove_if_over(&self, jobs: &TenantJobs, found: Versioned) -> Result<(), Error> {
        let Versioned { mut job, version } = found;
        let now = self.parts.clock.now();
        if job.removed || job.expires_at.is_none_or(|end| end > now) {
            return Ok(());
        }
        self.remove_files(&job).await?;
        job.removed = true;
        jobs.put(&job, version + 1).await
    }

    /// Whether nobody runs a job, or this node did before it was started anew: there are no two of one name.
    fn was_ours(&self, job: &Job) -> bool {
        let own = format!("{} ", self.settings.host);
        let runner = job.runner.as_deref();
        runner.is_none_or(|runner| runner.starts_with(&own) && runner != self.runner)
    }

    /// Removes what was still written of an export after it had been called off.
    pub(super) async fn clear_up_after(&self, running: &Running) {
        let job = running.job();
        let cleared = async {
            match running.jobs.latest(&job.id).await? {
                Some(found) if found.job.state == State::Cancelled => self.remove_files(job).await,
                _ => Ok::<_, Error>(()),
            }
        };
        if let Err(error) = cleared.await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, id = %job.id, "files of an export that was called off stay");
        }
    }

    async fn remove_files(&self, job: &Job) -> Result<(), Error> {
        let store = self.jobs.store(job.mandate.silo())?;
        let folder = job.folder();
        let objects: Vec<_> = store
            .list(Some(&folder))
            .try_collect()
            .await
            .map_err(Error::of_store)?;
        for object in objects {
            #[expect(
                clippy::disallowed_methods,
                reason = "engine::export removes the files of exports whose time is over"
            )]
            let deleted = store.delete(&object.location).await;
            deleted.map_err(Error::of_store)?;
        }
        Ok(())
    }
}
