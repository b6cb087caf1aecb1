//! The documents behind the registry, and what is remembered of them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use object_store::path::Path;

use crate::clock::Timestamp;
use crate::documents::{DocumentError, Documents, SealedDocuments};
use crate::guard::Permit;
use crate::ids::StreamName;
use crate::keys::TenantSecret;
use crate::tenant::{self, TenantRecord};

use super::definition::Definition;
use super::error::Error;
use super::registered::{Registered, TenantSchemas};
use super::store::{Place, RACES_MAX, Schemas};

/// How long what is registered counts as current without a look at the store.
const CONFIRMED_FOR: Duration = Duration::from_secs(2);
/// How long it may serve while the store does not answer.
const CACHED_FOR_MAX: Duration = Duration::from_secs(300);
const REGISTRY: (&str, &str) = ("schemas", "registry");
const TEXT_KIND: &str = "schema";

/// What was read last, and when.
#[derive(Debug)]
pub(super) struct Known {
    schemas: Arc<TenantSchemas>,
    at: Timestamp,
}

impl Schemas {
    pub(super) async fn put_text(
        &self,
        documents: &SealedDocuments,
        stream: &StreamName,
        definition: &Definition,
    ) -> Result<u64, Error> {
        for _ in 0..RACES_MAX {
            let versions = documents
                .versions(TEXT_KIND, stream.as_str())
                .await
                .map_err(Error::Documents)?;
            let next = versions.last().copied().unwrap_or(0) + 1;
            let text = definition.text().as_bytes();
            match documents.put(TEXT_KIND, stream.as_str(), next, text).await {
                Ok(()) => return Ok(next),
                Err(DocumentError::VersionTaken) => {}
                Err(error) => return Err(Error::Documents(error)),
            }
        }
        Err(Error::Raced)
    }

    /// Makes this the current version; false if another came first.
    pub(super) async fn put(
        &self,
        documents: &SealedDocuments,
        place: &Place,
        mut next: TenantSchemas,
    ) -> Result<bool, Error> {
        let (kind, id) = REGISTRY;
        next.etag += 1;
        let bytes = serde_json::to_vec(&next).map_err(Error::Form)?;
        match documents.put(kind, id, next.etag, &bytes).await {
            Ok(()) => {
                self.keep(place, Arc::new(next));
                Ok(true)
            }
            Err(DocumentError::VersionTaken) => Ok(false),
            Err(error) => Err(Error::Documents(error)),
        }
    }

    pub(super) async fn current(&self, place: &Place) -> Result<Arc<TenantSchemas>, Error> {
        let now = self.clock.now();
        let known = self.current.get(place);
        if let Some(known) = &known
            && now.since(known.at).is_some_and(|age| age < CONFIRMED_FOR)
        {
            return Ok(Arc::clone(&known.schemas));
        }
        match self.newest(place).await {
            Err(Error::Documents(DocumentError::Unavailable { source })) => {
                tracing::warn!(
                    error = &source as &dyn std::error::Error,
                    "the registered schemas cannot be confirmed"
                );
                let fresh = |at| now.since(at).is_some_and(|age| age < CACHED_FOR_MAX);
                let known = known.filter(|known| fresh(known.at)).ok_or(Error::Stale)?;
                Ok(Arc::clone(&known.schemas))
            }
            newest => newest,
        }
    }

    /// What is registered now. The tenant's secret is asked for only if that is not what is known already, so that a
    /// tenant without schemas needs none, and one with them can go on for a while without its key service.
    pub(super) async fn newest(&self, place: &Place) -> Result<Arc<TenantSchemas>, Error> {
        let (kind, id) = REGISTRY;
        let documents = self.documents(place)?;
        let stored = documents.latest(kind, id).await.map_err(Error::Documents)?;
        let etag = stored.map_or(0, |(version, _)| version);
        if let Some(known) = self.current.get(place)
            && known.schemas.etag == etag
        {
            self.keep(place, Arc::clone(&known.schemas));
            return Ok(Arc::clone(&known.schemas));
        }
        let mut schemas = TenantSchemas::default();
        if etag > 0 {
            let sealed = self.sealed(place).await?;
            let bytes = sealed.get(kind, id, etag).await.map_err(Error::Documents)?;
            schemas =
                serde_json::from_slice(&bytes.ok_or(Error::NotFound)?).map_err(Error::Form)?;
            schemas.etag = etag;
        }
        let schemas = Arc::new(schemas);
        self.keep(place, Arc::clone(&schemas));
        Ok(schemas)
    }

    pub(super) async fn definition(
        &self,
        place: &Place,
        stream: &StreamName,
        known: &Registered,
    ) -> Result<Definition, Error> {
        let documents = self.sealed(place).await?;
        let text = documents
            .get(TEXT_KIND, stream.as_str(), known.document)
            .await
            .map_err(Error::Documents)?;
        let definition =
            Definition::parse(&text.ok_or(Error::NotFound)?).map_err(Error::Invalid)?;
        if definition.digest() == known.digest {
            Ok(definition)
        } else {
            Err(Error::Digest)
        }
    }

    pub(super) async fn subject<Op>(
        &self,
        permit: &Permit<Op>,
    ) -> Result<(Arc<TenantRecord>, Place), Error> {
        let tenant = permit.decision().about();
        let record = self.registry.get(tenant).await.map_err(Error::Tenant)?;
        let record = record.ok_or(Error::Tenant(tenant::Error::Unknown))?;
        let place = (record.silo.clone(), record.id.clone());
        Ok((record, place))
    }

    pub(super) async fn sealed(&self, (silo, tenant): &Place) -> Result<SealedDocuments, Error> {
        let documents = self.documents(&(silo.clone(), tenant.clone()))?;
        let secret = self
            .keys
            .tenant_secret(tenant, silo, TenantSecret::Documents)
            .await
            .map_err(Error::Keys)?;
        Ok(SealedDocuments::new(
            documents,
            secret,
            Arc::clone(&self.random),
        ))
    }

    /// The tenant's documents: one value a tenant, for what it remembers of the versions it has seen.
    fn documents(&self, place: &Place) -> Result<Arc<Documents>, Error> {
        let mut all = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(documents) = all.get(place) {
            return Ok(Arc::clone(documents));
        }
        let (silo, tenant) = place;
        let store = self.stores.get(silo).ok_or(Error::WrongSilo)?;
        let prefix = Path::from_iter(["tenants", tenant.as_str(), "control"]);
        let documents = Arc::new(Documents::new(Arc::clone(store), prefix));
        all.insert(place.clone(), Arc::clone(&documents));
        Ok(documents)
    }

    fn keep(&self, place: &Place, schemas: Arc<TenantSchemas>) {
        let at = self.clock.now();
        let known = Arc::new(Known { schemas, at });
        self.current.insert(place.clone(), at, known);
    }
}
