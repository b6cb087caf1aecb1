//! Where jobs are kept: sealed documents of their tenant.
//!
//! ```text
//! tenants/<tenant>/control/exports/<export id>/<n>             the job
//! tenants/<tenant>/control/export-requests/<fingerprint>/<n>   which export a request has led to
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use catalog::clock::Random;
use catalog::documents::{DocumentError, Documents, SealedDocuments};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyRing, TenantSecret};
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::job::{ExportId, Job};

const JOBS: &str = "exports";
const REQUESTS: &str = "export-requests";
/// How often a lost race for a document version is run again.
const RACES_MAX: usize = 8;

type Place = (SiloId, TenantId);

/// The jobs of all tenants.
pub(super) struct Jobs {
    stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    keys: Arc<KeyRing>,
    random: Arc<dyn Random>,
    documents: Mutex<HashMap<Place, Arc<Documents>>>,
}

impl Jobs {
    pub(super) fn new(
        stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
        keys: Arc<KeyRing>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            stores,
            keys,
            random,
            documents: Mutex::default(),
        }
    }

    pub(super) fn store(&self, silo: &SiloId) -> Result<Arc<dyn ObjectStore>, Error> {
        self.stores.get(silo).map(Arc::clone).ok_or(Error::Internal)
    }

    pub(super) async fn of(&self, silo: &SiloId, tenant: &TenantId) -> Result<TenantJobs, Error> {
        let secret = TenantSecret::Exports;
        let key = self.keys.tenant_secret(tenant, silo, secret).await?;
        let documents = self.documents(silo, tenant)?;
        let random = Arc::clone(&self.random);
        Ok(TenantJobs(Arc::new(SealedDocuments::new(
            documents, key, random,
        ))))
    }

    fn documents(&self, silo: &SiloId, tenant: &TenantId) -> Result<Arc<Documents>, Error> {
        let store = self.store(silo)?;
        let mut all = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = (silo.clone(), tenant.clone());
        let documents = all.entry(place).or_insert_with(|| {
            let prefix = Path::from_iter(["tenants", tenant.as_str(), "control"]);
            Arc::new(Documents::new(store, prefix))
        });
        Ok(Arc::clone(documents))
    }
}

/// The jobs of one tenant.
#[derive(Clone)]
pub(super) struct TenantJobs(Arc<SealedDocuments>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    export: ExportId,
}

impl TenantJobs {
    /// The names of all that there ever were.
    pub(super) async fn list(&self) -> Result<Vec<ExportId>, Error> {
        let names = self.0.list(JOBS).await?;
        Ok(names
            .iter()
            .filter_map(|name| ExportId::parse(name))
            .collect())
    }

    /// A job as it is now.
    pub(super) async fn latest(&self, id: &ExportId) -> Result<Option<Versioned>, Error> {
        let Some((version, text)) = self.0.latest(JOBS, &id.to_string()).await? else {
            return Ok(None);
        };
        let job = serde_json::from_slice(&text).map_err(|_| Error::Internal)?;
        Ok(Some(Versioned { job, version }))
    }

    /// Takes a new job in, or gives the one that the same request has led to and that is still under way.
    pub(super) async fn begin(
        &self,
        fingerprint: &str,
        new: Job,
    ) -> Result<(Versioned, bool), Error> {
        for _ in 0..RACES_MAX {
            let known = self.0.latest(REQUESTS, fingerprint).await?;
            let version = known.as_ref().map_or(0, |(version, _)| *version);
            let mut job = new.clone();
            if let Some((_, text)) = known {
                let request: Request =
                    serde_json::from_slice(&text).map_err(|_| Error::Internal)?;
                match self.latest(&request.export).await? {
                    Some(there) if there.job.state.is_open() => return Ok((there, false)),
                    Some(_) => {}
                    // Whoever asked first came no further: the job is all that the request says.
                    None => {
                        job.id = request.export;
                        match self.put(&job, 1).await {
                            Ok(()) => return Ok((Versioned { job, version: 1 }, true)),
                            Err(Error::Lost) => continue,
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
            let request = Request {
                export: job.id.clone(),
            };
            let text = serde_json::to_vec(&request).map_err(|_| Error::Internal)?;
            match self.0.put(REQUESTS, fingerprint, version + 1, &text).await {
                Ok(()) => {}
                Err(DocumentError::VersionTaken) => continue,
                Err(error) => return Err(error.into()),
            }
            match self.put(&job, 1).await {
                Ok(()) => return Ok((Versioned { job, version: 1 }, true)),
                // The same request of somebody else's found the name without its job.
                Err(Error::Lost) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unavailable)
    }

    /// Writes a version, which must be the next one.
    pub(super) async fn put(&self, job: &Job, version: u64) -> Result<(), Error> {
        let text = serde_json::to_vec(job).map_err(|_| Error::Internal)?;
        let id = job.id.to_string();
        Ok(self.0.put(JOBS, &id, version, &text).await?)
    }
}

/// A job and the version that says so.
#[derive(Debug, Clone)]
pub(super) struct Versioned {
    pub(super) job: Job,
    pub(super) version: u64,
}
