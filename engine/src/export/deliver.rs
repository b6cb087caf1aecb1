//! What is given out of a finished export: its files, by whom it was asked for, as long as they may see the same.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use catalog::guard::{Export, Permit, Request};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyPurpose, SecretKey};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Exports;
use super::asked::sight;
use super::error::Error;
use super::job::{ExportId, Job, State, StoredFile};
use super::manifest::{MANIFEST, Manifest, SIGNATURE, is_signed};
use super::sealed::SealedFile;
use crate::receipt::hexadecimal;

/// A file of a bundle.
#[derive(Clone)]
pub struct BundleFile {
    sealed: SealedFile,
    /// Its path in the bundle.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// Their SHA-256, hexadecimal.
    pub sha256: String,
}

/// What a look at the stored files of an export has found.
#[derive(Debug, Clone)]
pub struct StoredReport {
    /// Which files are not what was made, or are not there.
    pub damaged: Vec<String>,
    /// How many were looked at.
    pub files: usize,
    /// Whether the manifest is signed by the tenant.
    pub is_signed: bool,
}

impl StoredReport {
    /// Whether all of it holds.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.is_signed && self.damaged.is_empty()
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self, id: &ExportId) -> Value {
        json!({
            "exportId": id,
            "ok": self.is_ok(),
            "signature": if self.is_signed { "valid" } else { "invalid" },
            "files": self.files,
            "damaged": self.damaged,
        })
    }
}

impl BundleFile {
    /// The bytes of a range, which lies in the file.
    #[must_use]
    pub fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        self.sealed.read(range)
    }
}

impl fmt::Debug for BundleFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BundleFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Exports {
    /// A file of a finished export of this caller, by its path in the bundle.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotReady`], and [`Error::PolicyStale`] for whoever sees other records by now.
    pub async fn file(
        &self,
        permit: &Permit<Export>,
        id: &ExportId,
        path: &str,
    ) -> Result<BundleFile, Error> {
        let job = self.finished(permit, id).await?;
        let stored = job.stored().find(|file| file.path == path);
        let stored = stored.cloned().ok_or(Error::NotFound)?;
        let key = self.key_of(&job).await?;
        self.opened(&job, &key, &stored)
    }

    /// The authority that a link to files of an export stands on: that of who asked for it, decided anew and recorded.
    ///
    /// # Errors
    /// As [`Self::file`], and if they may not export any more.
    pub async fn linked(
        &self,
        (silo, tenant): (&SiloId, &TenantId),
        id: &ExportId,
        path: &str,
    ) -> Result<Permit<Export>, Error> {
        let jobs = self.jobs.of(silo, tenant).await?;
        let found = jobs.latest(id).await?.ok_or(Error::NotFound)?;
        let request = Request::at(silo.clone()).with_stream(found.job.asked.stream.clone());
        let gate = &self.parts.gate;
        let permit = gate.resume::<Export>(&found.job.mandate, request).await?;
        let about = vec![format!("Export.{id}"), format!("File.{path}")];
        gate.note(&permit, "Export.Link", about).await?;
        Ok(permit)
    }

    /// Looks at every stored file of a finished export, and at the signature.
    ///
    /// # Errors
    /// As [`Self::file`]; what is found is in the report.
    pub async fn verify(
        &self,
        permit: &Permit<Export>,
        id: &ExportId,
    ) -> Result<StoredReport, Error> {
        let job = self.finished(permit, id).await?;
        let key = self.key_of(&job).await?;
        let mut report = StoredReport {
            damaged: Vec::new(),
            files: 0,
            is_signed: self.is_signed(&job, &key).await?,
        };
        for stored in job.stored() {
            let file = self.opened(&job, &key, stored)?;
            let mut parts = file.read(0..file.bytes);
            let mut hash = Sha256::new();
            let read = loop {
                match parts.try_next().await {
                    Ok(Some(part)) => hash.update(&part),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            report.files += 1;
            match read {
                Ok(()) if hexadecimal(&hash.finalize()) == stored.sha256 => {}
                Ok(()) | Err(Error::ChecksumMismatch) => report.damaged.push(stored.path.clone()),
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    async fn is_signed(&self, job: &Job, key: &Arc<SecretKey>) -> Result<bool, Error> {
        let mut texts = Vec::new();
        for path in [MANIFEST, SIGNATURE] {
            let stored = job.files.iter().find(|file| file.path == path);
            let file = self.opened(job, key, stored.ok_or(Error::Internal)?)?;
            match file.sealed.read_all().await {
                Ok(text) => texts.push(text),
                Err(Error::ChecksumMismatch) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let [bytes, signature] = texts.as_slice() else {
            return Ok(false);
        };
        let (tenant, silo) = (job.mandate.tenant(), job.mandate.silo());
        let keys = self.parts.keys.public_keys(tenant, silo).await?;
        let manifest = Manifest::from_bytes(bytes);
        let signature = std::str::from_utf8(signature).unwrap_or_default();
        Ok(manifest.is_some_and(|manifest| is_signed(&keys, &manifest, bytes, signature)))
    }

    async fn finished(&self, permit: &Permit<Export>, id: &ExportId) -> Result<Job, Error> {
        let job = self.own(permit, id).await?.job;
        if job.state != State::Finished {
            return Err(Error::NotReady {
                state: job.state.as_str(),
            });
        }
        let now = self.parts.clock.now();
        if job.removed || job.expires_at.is_none_or(|end| end <= now) {
            return Err(Error::NotReady { state: "expired" });
        }
        if sight(permit.decision()) != job.sight {
            return Err(Error::PolicyStale);
        }
        Ok(job)
    }

    /// The key of an export's files.
    pub(super) async fn key_of(&self, job: &Job) -> Result<Arc<SecretKey>, Error> {
        let (tenant, silo) = (job.mandate.tenant(), job.mandate.silo());
        let wrapped = job.key.as_ref().ok_or(Error::Internal)?;
        let keys = &self.parts.keys;
        let epoch = keys.open(tenant, silo, KeyPurpose::Data, &wrapped.epoch);
        let dek = URL_SAFE_NO_PAD
            .decode(&wrapped.dek)
            .map_err(|_| Error::Internal)?;
        Ok(Arc::new(epoch.await?.unwrap_dek(&dek)?))
    }

    pub(super) fn opened(
        &self,
        job: &Job,
        key: &Arc<SecretKey>,
        stored: &StoredFile,
    ) -> Result<BundleFile, Error> {
        let object = object_store::path::Path::parse(format!("{}/{}", job.folder(), stored.object));
        Ok(BundleFile {
            sealed: SealedFile {
                store: self.jobs.store(job.mandate.silo())?,
                path: object.map_err(|_| Error::Internal)?,
                key: Arc::clone(key),
                bytes: stored.bytes,
            },
            path: stored.path.clone(),
            bytes: stored.bytes,
            sha256: stored.sha256.clone(),
        })
    }

    /// All of a stored file that is known to be small.
    pub(super) async fn read_stored(
        &self,
        job: &Job,
        key: &Arc<SecretKey>,
        stored: &StoredFile,
    ) -> Result<Vec<u8>, Error> {
        self.opened(job, key, stored)?.sealed.read_all().await
    }
}
