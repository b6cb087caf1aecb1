//! The registry: which tenants there are, where each lives, and where it is in its life.
//!
//! One sealed document a tenant, `control/tenant/<id>/<version>`, changed by compare-and-set. Reading is cached for
//! [`RECORD_AGE_MAX`], so that a suspended tenant's writes stop that long after at the latest, in every process; only
//! while the store does not answer an older record is given out, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::OnceCell;

use crate::clock::{Clock, Random, Timestamp};
use crate::documents::{DocumentError, Documents, SealedDocuments};
use crate::guard::{Denial, Permit, TenantAdmin};
use crate::ids::{IdError, SiloId, StreamName, TenantId};
use crate::keys::{Cache, KeyError, KeyRing, RootSecret, TenantKeys};

use super::lifecycle::{self, Event, IllegalTransition, TenantState};
use super::record::{NewTenant, PRINCIPALS_MAX, TenantRecord};

/// How old a record may be that decisions are made from.
pub const RECORD_AGE_MAX: Duration = Duration::from_secs(2);
/// How old a record may be while the store does not answer.
pub const RECORD_AGE_OUTAGE_MAX: Duration = Duration::from_secs(300);
const RECORDS_CACHED_MAX: usize = 10_000;
/// Times a change is made again after somebody else changed the same record.
const ATTEMPTS_MAX: usize = 8;
const CONTROL: &str = "control";
const TENANT: &str = "tenant";

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tenant of that id is there already, and differs from what was asked for.
    #[error("the tenant exists already")]
    Exists,
    /// No such tenant.
    #[error("no such tenant")]
    Unknown,
    /// The request itself cannot be met.
    #[error("{0}")]
    Invalid(&'static str),
    /// The permit is about another tenant, or the tenant is the system's own.
    #[error("the permit does not cover this tenant")]
    NotPermitted,
    /// The state does not allow it.
    #[error("the tenant's state does not allow this")]
    Illegal(#[source] IllegalTransition),
    /// The record is no longer the one the caller saw, or changes faster than it can be changed.
    #[error("the tenant's record has changed")]
    Changed,
    /// Keys could not be made or opened.
    #[error("the registry's keys cannot be had")]
    Keys(#[source] KeyError),
    /// Documents could not be read or written.
    #[error("the registry's documents cannot be used")]
    Documents(#[source] DocumentError),
    /// A record is there and is none of ours.
    #[error("a tenant's record cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// The registry names a tenant that cannot be one.
    #[error("the registry holds a name that is no tenant id")]
    Name(#[source] IdError),
}

impl From<DocumentError> for Error {
    fn from(error: DocumentError) -> Self {
        Self::Documents(error)
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::Keys(error)
    }
}

impl From<&Error> for Denial {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unknown => Self::NotFound,
            Error::Exists | Error::Illegal(_) | Error::Changed => Self::PreconditionFailed,
            Error::NotPermitted => Self::Forbidden {
                needs: "a permit for this tenant",
            },
            Error::Invalid(_) => Self::InvalidTenantFormat,
            Error::Keys(_) => Self::KeyUnavailable,
            Error::Documents(_) | Error::Malformed(_) | Error::Name(_) => Self::Unavailable,
        }
    }
}

/// All tenants.
#[derive(Debug)]
pub struct Registry {
    root: Arc<RootSecret>,
    store: Arc<dyn ObjectStore>,
    random: Arc<dyn Random>,
    /// There once the secret is.
    sealed: OnceCell<SealedDocuments>,
    pub(super) ring: Arc<KeyRing>,
    pub(super) clock: Arc<dyn Clock>,
    records: Cache<TenantId, Known>,
}

/// What the registry says of a tenant.
#[derive(Debug, Clone)]
pub struct Found {
    /// The tenant, if there is one.
    pub record: Option<Arc<TenantRecord>>,
    /// Whether this is at most [`RECORD_AGE_MAX`] old; otherwise the store does not answer.
    pub confirmed: bool,
}

/// What was read last, and when it was asked for.
#[derive(Debug)]
struct Known {
    record: Option<Arc<TenantRecord>>,
    at: Timestamp,
}

impl Registry {
    /// The registry in the control folder of `store`, the root of the home silo, sealed with `root`. Tenants that are
    /// read are enrolled in `ring`. Nothing is read yet.
    pub fn new(
        root: Arc<RootSecret>,
        store: Arc<dyn ObjectStore>,
        ring: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            root,
            store,
            random,
            sealed: OnceCell::new(),
            ring,
            records: Cache::new(
                Arc::clone(&clock),
                RECORD_AGE_OUTAGE_MAX,
                RECORDS_CACHED_MAX,
            ),
            clock,
        }
    }

    async fn documents(&self) -> Result<&SealedDocuments, KeyError> {
        let open = || async {
            let key = self.root.get().await?;
            let documents = Documents::new(Arc::clone(&self.store), Path::from(CONTROL));
            let random = Arc::clone(&self.random);
            Ok(SealedDocuments::new(documents, key, random))
        };
        self.sealed.get_or_try_init(open).await
    }

    /// The tenant, if there is one.
    ///
    /// # Errors
    /// When the registry cannot be read, and was not lately.
    pub async fn get(&self, id: &TenantId) -> Result<Option<Arc<TenantRecord>>, Error> {
        Ok(self.look_up(id).await?.record)
    }

    /// The tenant, if there is one, and whether that is certain.
    ///
    /// # Errors
    /// When the registry cannot be read, and was not lately.
    pub async fn look_up(&self, id: &TenantId) -> Result<Found, Error> {
        let known = self.records.get(id);
        let age = known
            .as_ref()
            .and_then(|known| self.clock.now().since(known.at));
        if let Some(known) = &known
            && age.is_some_and(|age| age < RECORD_AGE_MAX)
        {
            return Ok(Found {
                record: known.record.clone(),
                confirmed: true,
            });
        }
        match (self.fresh(id).await, known) {
            (Ok(record), _) => Ok(Found {
                record,
                confirmed: true,
            }),
            (Err(Error::Documents(DocumentError::Unavailable { source })), Some(known)) => {
                tracing::warn!(
                    error = &source as &dyn std::error::Error,
                    "a tenant's record cannot be confirmed"
                );
                Ok(Found {
                    record: known.record.clone(),
                    confirmed: false,
                })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// All tenants, the system's own among them.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn list(&self) -> Result<Vec<Arc<TenantRecord>>, Error> {
        let mut records = Vec::new();
        for id in self.documents().await?.list(TENANT).await? {
            let id = TenantId::from_stored(&id).map_err(Error::Name)?;
            records.extend(self.get(&id).await?);
        }
        Ok(records)
    }

    /// Makes a tenant with its keys, in the state Provisioning. Making it again with the same properties gives the one
    /// that is there, so that a provisioning that was interrupted can be taken up.
    ///
    /// # Errors
    /// [`Error::Exists`] when it is there with other properties.
    pub async fn create(
        &self,
        permit: &Permit<TenantAdmin>,
        tenant: NewTenant,
    ) -> Result<Arc<TenantRecord>, Error> {
        covers(permit, &tenant.id)?;
        match tenant.fault() {
            Some(fault) => Err(Error::Invalid(fault)),
            None => self.make(tenant).await,
        }
    }

    /// Makes the system tenant, which is there before there is anybody who could ask for it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) async fn make_system(&self, silo: SiloId) -> Result<Arc<TenantRecord>, Error> {
        match self.get(&TenantId::system()).await? {
            Some(record) => Ok(record),
            None => self.make(NewTenant::new(TenantId::system(), silo)).await,
        }
    }

    /// Moves a tenant through its life.
    ///
    /// # Errors
    /// [`Error::Illegal`] for an event its state does not allow.
    pub async fn transition(
        &self,
        permit: &Permit<TenantAdmin>,
        id: &TenantId,
        event: Event,
    ) -> Result<Arc<TenantRecord>, Error> {
        covers(permit, id)?;
        if id.is_system() {
            return Err(Error::NotPermitted);
        }
        self.advance(id, event).await
    }

    /// Binds a principal to a tenant, so that its requests may name the tenant in a header alone.
    ///
    /// # Errors
    /// When there are too many.
    pub async fn bind(
        &self,
        permit: &Permit<TenantAdmin>,
        id: &TenantId,
        principal: &str,
    ) -> Result<Arc<TenantRecord>, Error> {
        covers(permit, id)?;
        self.change(id, |record| {
            record.principals.insert(principal.to_owned());
            if record.principals.len() > PRINCIPALS_MAX {
                return Err(Error::Invalid("a tenant has at most 256 bound principals"));
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn advance(
        &self,
        id: &TenantId,
        event: Event,
    ) -> Result<Arc<TenantRecord>, Error> {
        self.change(id, |record| {
            record.state = lifecycle::transition(record.state, event).map_err(Error::Illegal)?;
            Ok(())
        })
        .await
    }

    /// Notes that a policy version was applied, so that no older one is believed again.
    pub(crate) async fn note_policy(
        &self,
        id: &TenantId,
        version: u64,
    ) -> Result<Arc<TenantRecord>, Error> {
        self.change(id, |record| {
            record.policy = record.policy.max(version);
            Ok(())
        })
        .await
    }

    async fn make(&self, tenant: NewTenant) -> Result<Arc<TenantRecord>, Error> {
        if let Some(record) = self.fresh(&tenant.id).await? {
            return same(record, &tenant);
        }
        let keys = TenantKeys::create(&**self.ring.kms(), &tenant.silo).await?;
        let record = TenantRecord {
            id: tenant.id.clone(),
            display_name: tenant.display_name.clone(),
            silo: tenant.silo.clone(),
            state: TenantState::Provisioning,
            streams: streams(&tenant),
            keys,
            policy: 0,
            principals: tenant.principals.clone(),
            keys_since: BTreeMap::new(),
            created_at: self.clock.now(),
            etag: 1,
        };
        match self.put(record).await {
            // Somebody made it at the same time; the keys made here were never used.
            Err(Error::Changed) => {
                let record = self.fresh(&tenant.id).await?.ok_or(Error::Changed)?;
                same(record, &tenant)
            }
            made => made,
        }
    }

    /// Compare-and-set: reads the newest record, changes it, and writes the next version, again if it was not next.
    pub(super) async fn change(
        &self,
        id: &TenantId,
        apply: impl Fn(&mut TenantRecord) -> Result<(), Error> + Send,
    ) -> Result<Arc<TenantRecord>, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let current = self.fresh(id).await?.ok_or(Error::Unknown)?;
            let mut next = (*current).clone();
            apply(&mut next)?;
            if next == *current {
                return Ok(current);
            }
            next.etag = current.etag.saturating_add(1);
            match self.put(next).await {
                Err(Error::Changed) => {}
                outcome => return outcome,
            }
        }
        Err(Error::Changed)
    }

    async fn put(&self, record: TenantRecord) -> Result<Arc<TenantRecord>, Error> {
        let bytes = serde_json::to_vec(&record).map_err(Error::Malformed)?;
        let asked = self.clock.now();
        let documents = self.documents().await?;
        let put = documents.put(TENANT, record.id.as_str(), record.etag, &bytes);
        match put.await {
            Ok(()) => {
                let record = Arc::new(record);
                self.keep(asked, &record.id, Some(&record));
                Ok(record)
            }
            Err(DocumentError::VersionTaken) => Err(Error::Changed),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn fresh(&self, id: &TenantId) -> Result<Option<Arc<TenantRecord>>, Error> {
        let asked = self.clock.now();
        let documents = self.documents().await?;
        let record = match documents.latest(TENANT, id.as_str()).await? {
            Some((version, bytes)) => {
                let mut record: TenantRecord =
                    serde_json::from_slice(&bytes).map_err(Error::Malformed)?;
                record.etag = version;
                Some(Arc::new(record))
            }
            None => None,
        };
        self.keep(asked, id, record.as_ref());
        Ok(record)
    }

    fn keep(&self, asked: Timestamp, id: &TenantId, record: Option<&Arc<TenantRecord>>) {
        if let Some(record) = record
            && self
                .ring
                .enroll(&record.id, &record.silo, &record.keys)
                .is_err()
        {
            // Another process serves that silo; here the guard answers that the data does not live in this one.
            tracing::debug!("a tenant's silo is not served by this process");
        }
        let known = Known {
            record: record.map(Arc::clone),
            at: asked,
        };
        self.records.insert(id.clone(), asked, Arc::new(known));
    }
}

pub(super) fn covers(permit: &Permit<TenantAdmin>, id: &TenantId) -> Result<(), Error> {
    let covered = permit.decision().target.as_ref() == Some(id);
    if covered {
        Ok(())
    } else {
        Err(Error::NotPermitted)
    }
}

fn streams(tenant: &NewTenant) -> BTreeSet<StreamName> {
    let mut streams = tenant.streams.clone();
    streams.extend([StreamName::audit_default(), StreamName::audit_security()]);
    streams
}

fn same(record: Arc<TenantRecord>, tenant: &NewTenant) -> Result<Arc<TenantRecord>, Error> {
    let same = record.display_name == tenant.display_name
        && record.silo == tenant.silo
        && record.streams == streams(tenant)
        && record.principals == tenant.principals;
    if same { Ok(record) } else { Err(Error::Exists) }
}
