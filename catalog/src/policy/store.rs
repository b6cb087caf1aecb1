//! Which policy applies: the versions of every tenant, signed when they are applied and verified whenever they are read.
//!
//! `tenants/<tenant>/control/policy/bundle/<version>` in the tenant's silo. Creating the document of the next version is
//! what makes it current; nothing else does. The version in the registry is a floor below which none is believed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::clock::{Clock, Timestamp};
use crate::documents::{DocumentError, Documents};
use crate::guard::{Denial, Permit, PolicyRead, PolicyWrite};
use crate::ids::{PolicyVersion, SiloId, TenantId};
use crate::keys::{Cache, KeyError, Kms, SigningKeyId};
use crate::tenant::{self, Registry, TenantRecord};

use super::bundle::{Bundle, BundleRefused, PinnedPolicy};
use super::signed::{SignedBundle, Unverified};

/// How long a version counts as current without a look at the store.
pub const CONFIRMED_FOR: Duration = Duration::from_secs(2);
/// How long a version may serve, tagged as cached, while the store does not answer.
pub const CACHED_FOR_MAX: Duration = Duration::from_secs(300);
const POLICIES_CACHED_MAX: usize = 2_000;
/// A key id never names another key, so that no outage of the KMS stops decisions.
const PUBLIC_KEY_LIFETIME: Duration = Duration::MAX;
const VERIFIED_FOR: Duration = Duration::from_secs(3_600);
const KIND: &str = "policy";
const ID: &str = "bundle";

/// Why there is no policy to go by, or none was applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The new bundle is refused.
    #[error("the bundle is refused")]
    Refused(#[source] BundleRefused),
    /// Another version was applied since the author looked.
    #[error("another version was applied in between")]
    Raced,
    /// The stored policy does not verify, is missing, or was rolled back.
    #[error("the stored policy does not verify")]
    Unverified(#[source] Unverified),
    /// There is none, or the registry knows of a later one than the store has.
    #[error("the tenant's policy is missing")]
    Missing,
    /// No such version.
    #[error("no such version")]
    NotFound,
    /// The store does not answer, and what was last read from it has been superseded.
    #[error("the version at hand has been superseded")]
    Stale,
    /// This process does not serve the tenant's silo.
    #[error("the tenant's silo is not served here")]
    WrongSilo,
    /// Keys cannot be had.
    #[error("the policy's keys cannot be had")]
    Keys(#[source] KeyError),
    /// Documents cannot be read or written.
    #[error("the policy's documents cannot be used")]
    Documents(#[source] DocumentError),
    /// The registry cannot be used, or does not know the tenant.
    #[error("the tenant cannot be looked up")]
    Tenant(#[source] tenant::Error),
    /// A signed bundle could not be written down.
    #[error("the signed bundle cannot be written")]
    Form(#[source] serde_json::Error),
}

impl From<&Error> for Denial {
    fn from(error: &Error) -> Self {
        match error {
            Error::Refused(refused) => Self::PolicyInvalid(refused.reasons.clone()),
            Error::Raced | Error::Stale => Self::PolicyVersionStale,
            Error::Unverified(_)
            | Error::Missing
            | Error::Documents(DocumentError::Tampered(_)) => Self::PolicySignatureInvalid,
            Error::NotFound => Self::NotFound,
            Error::WrongSilo => Self::ResidencyConflict,
            Error::Keys(_) => Self::KeyUnavailable,
            Error::Tenant(error) => error.into(),
            Error::Documents(_) | Error::Form(_) => Self::Unavailable,
        }
    }
}

/// The policy to go by.
#[derive(Debug, Clone)]
pub struct CurrentPolicy {
    /// The policy.
    pub policy: Arc<PinnedPolicy>,
    /// Whether the store confirmed it within [`CONFIRMED_FOR`]; otherwise it is what was current a while ago.
    pub confirmed: bool,
}

/// The version last known as current, and when that was.
#[derive(Debug)]
struct Known {
    policy: Arc<PinnedPolicy>,
    at: Timestamp,
}

/// All tenants' policies.
#[derive(Debug)]
pub struct Policies {
    stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    registry: Arc<Registry>,
    kms: Arc<dyn Kms>,
    clock: Arc<dyn Clock>,
    documents: Mutex<HashMap<(SiloId, TenantId), Arc<Documents>>>,
    current: Cache<TenantId, Known>,
    pinned: Cache<(TenantId, u64), PinnedPolicy>,
    public_keys: Cache<SigningKeyId, [u8; 32]>,
}

impl Policies {
    /// Policies in the stores of the silos, each rooted at its silo.
    pub fn new(
        stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
        registry: Arc<Registry>,
        kms: Arc<dyn Kms>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let cache_clock = || Arc::clone(&clock);
        Self {
            stores,
            registry,
            kms,
            documents: Mutex::default(),
            current: Cache::new(cache_clock(), CACHED_FOR_MAX, POLICIES_CACHED_MAX),
            pinned: Cache::new(cache_clock(), VERIFIED_FOR, POLICIES_CACHED_MAX),
            public_keys: Cache::new(cache_clock(), PUBLIC_KEY_LIFETIME, POLICIES_CACHED_MAX),
            clock,
        }
    }

    /// The policy to decide by. While the store does not answer, what was current at most [`CACHED_FOR_MAX`] ago.
    ///
    /// # Errors
    /// When there is none that verifies; a broken one is never stood in for by an older one.
    pub async fn current(&self, record: &TenantRecord) -> Result<CurrentPolicy, Error> {
        let now = self.clock.now();
        let last = self.current.get(&record.id);
        let known = last
            .as_ref()
            .filter(|known| known.policy.version.number >= record.policy);
        if let Some(known) = known
            && now.since(known.at).is_some_and(|age| age < CONFIRMED_FOR)
        {
            return Ok(CurrentPolicy {
                policy: Arc::clone(&known.policy),
                confirmed: true,
            });
        }
        match self.newest(record).await {
            Ok(policy) => {
                self.keep(now, &policy);
                Ok(CurrentPolicy {
                    policy,
                    confirmed: true,
                })
            }
            Err(Error::Documents(DocumentError::Unavailable { source })) => {
                tracing::warn!(
                    error = &source as &dyn std::error::Error,
                    "the current policy cannot be confirmed"
                );
                match (known, &last) {
                    (Some(known), _) => Ok(CurrentPolicy {
                        policy: Arc::clone(&known.policy),
                        confirmed: false,
                    }),
                    // There is a newer one, and it cannot be read.
                    (None, Some(_)) => Err(Error::Stale),
                    (None, None) => Err(Error::Documents(DocumentError::Unavailable { source })),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The author's text of a version, or of the current one.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a version that never was.
    pub async fn source(
        &self,
        permit: &Permit<PolicyRead>,
        version: Option<u64>,
    ) -> Result<(PolicyVersion, String), Error> {
        let record = self.record(permit.decision().about()).await?;
        let documents = self.documents(&record)?;
        let (version, bytes) = match version {
            Some(version) => {
                let bytes = documents
                    .get(KIND, ID, version)
                    .await
                    .map_err(Error::Documents)?;
                (version, bytes.ok_or(Error::NotFound)?)
            }
            None => documents
                .latest(KIND, ID)
                .await
                .map_err(Error::Documents)?
                .ok_or(Error::Missing)?,
        };
        let (policy, signed) = self.verified(&record, version, &bytes).await?;
        Ok((policy.version.clone(), signed.yaml().to_owned()))
    }

    /// Signs a bundle with the tenant's key and makes it the current version. Applying the same bytes again is fine.
    ///
    /// # Errors
    /// [`Error::Refused`] with every reason, [`Error::Raced`] when another version came first.
    pub async fn apply(
        &self,
        permit: &Permit<PolicyWrite>,
        yaml: &[u8],
    ) -> Result<PolicyVersion, Error> {
        let record = self.record(permit.decision().about()).await?;
        self.publish(&record, yaml).await
    }

    /// Applies the default bundle to a tenant that has none.
    pub(crate) async fn initialise(&self, record: &TenantRecord) -> Result<(), Error> {
        let newest = self
            .documents(record)?
            .latest(KIND, ID)
            .await
            .map_err(Error::Documents)?;
        if newest.is_none() {
            self.publish(
                record,
                Bundle::default_yaml(&record.id, &record.silo).as_bytes(),
            )
            .await?;
        }
        Ok(())
    }

    async fn publish(&self, record: &TenantRecord, yaml: &[u8]) -> Result<PolicyVersion, Error> {
        let bundle = Bundle::parse(yaml, &record.id).map_err(Error::Refused)?;
        let text = std::str::from_utf8(yaml)
            .map_err(|_| refused("the bundle: must be UTF-8".to_owned()))?;
        let documents = self.documents(record)?;
        let newest = documents.latest(KIND, ID).await.map_err(Error::Documents)?;
        let newest = newest.map_or(0, |(version, _)| version);
        if newest < record.policy {
            return Err(Error::Missing);
        }
        let version = PolicyVersion {
            tenant: record.id.clone(),
            number: bundle.version,
        };
        let signed = SignedBundle::sign(&*self.kms, &record.keys.signing, &version, text).await;
        let bytes = signed
            .map_err(Error::Keys)?
            .to_bytes()
            .map_err(Error::Form)?;
        // A repeated call, or one whose first answer was lost: signatures are deterministic, so its bytes are these.
        let repeated = bundle.version == newest && self.holds(&documents, newest, &bytes).await?;
        if !repeated {
            fits(record, &bundle, newest)?;
            self.create(&documents, bundle.version, bytes.clone())
                .await?;
        }
        let (policy, _) = self.verified(record, bundle.version, &bytes).await?;
        self.keep(self.clock.now(), &policy);
        // The document is what counts: a floor that is raised later than it could be is still true.
        if let Err(error) = self.registry.note_policy(&record.id, bundle.version).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the applied policy version was not noted"
            );
        }
        Ok(version)
    }

    async fn create(&self, documents: &Documents, version: u64, bytes: Bytes) -> Result<(), Error> {
        match documents.put(KIND, ID, version, bytes.clone()).await {
            Ok(()) => Ok(()),
            Err(DocumentError::VersionTaken | DocumentError::Unavailable { .. })
                if self.holds(documents, version, &bytes).await? =>
            {
                Ok(())
            }
            Err(DocumentError::VersionTaken | DocumentError::NotNext) => Err(Error::Raced),
            Err(error) => Err(Error::Documents(error)),
        }
    }

    async fn holds(
        &self,
        documents: &Documents,
        version: u64,
        bytes: &Bytes,
    ) -> Result<bool, Error> {
        let found = documents
            .get(KIND, ID, version)
            .await
            .map_err(Error::Documents)?;
        Ok(found.as_ref() == Some(bytes))
    }

    async fn newest(&self, record: &TenantRecord) -> Result<Arc<PinnedPolicy>, Error> {
        let documents = self.documents(record)?;
        let newest = documents.latest(KIND, ID).await.map_err(Error::Documents)?;
        let (version, bytes) = newest
            .filter(|(version, _)| *version >= record.policy)
            .ok_or(Error::Missing)?;
        if let Some(policy) = self.pinned.get(&(record.id.clone(), version)) {
            return Ok(policy);
        }
        let (policy, _) = self.verified(record, version, &bytes).await?;
        Ok(policy)
    }

    /// The only way from stored bytes to a policy.
    async fn verified(
        &self,
        record: &TenantRecord,
        version: u64,
        bytes: &[u8],
    ) -> Result<(Arc<PinnedPolicy>, SignedBundle), Error> {
        let signed = SignedBundle::from_bytes(bytes).map_err(Error::Unverified)?;
        if !signed.is_signed_with(&record.keys.signing) {
            return Err(Error::Unverified(Unverified::ForeignKey));
        }
        let public_key = self.public_key(signed.key()).await?;
        let policy = signed
            .verify(&record.id, version, &record.keys.signing, &public_key)
            .map_err(Error::Unverified)?;
        let policy = Arc::new(policy);
        self.pinned.insert(
            (record.id.clone(), version),
            self.clock.now(),
            Arc::clone(&policy),
        );
        Ok((policy, signed))
    }

    async fn public_key(&self, key: &SigningKeyId) -> Result<Arc<[u8; 32]>, Error> {
        if let Some(known) = self.public_keys.get(key) {
            return Ok(known);
        }
        let asked = self.clock.now();
        let public_key = Arc::new(self.kms.public_key(key).await.map_err(Error::Keys)?);
        self.public_keys
            .insert(key.clone(), asked, Arc::clone(&public_key));
        Ok(public_key)
    }

    async fn record(&self, tenant: &TenantId) -> Result<Arc<TenantRecord>, Error> {
        let record = self.registry.get(tenant).await.map_err(Error::Tenant)?;
        record.ok_or(Error::Tenant(tenant::Error::Unknown))
    }

    /// The tenant's documents: one value a tenant, for what it remembers of the versions it has seen.
    fn documents(&self, record: &TenantRecord) -> Result<Arc<Documents>, Error> {
        let mut all = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let place = (record.silo.clone(), record.id.clone());
        if let Some(documents) = all.get(&place) {
            return Ok(Arc::clone(documents));
        }
        let store = self.stores.get(&record.silo).ok_or(Error::WrongSilo)?;
        let prefix = Path::from_iter(["tenants", record.id.as_str(), "control"]);
        let documents = Arc::new(Documents::new(Arc::clone(store), prefix));
        all.insert(place, Arc::clone(&documents));
        Ok(documents)
    }

    fn keep(&self, at: Timestamp, policy: &Arc<PinnedPolicy>) {
        let known = Known {
            policy: Arc::clone(policy),
            at,
        };
        self.current
            .insert(policy.version.tenant.clone(), at, Arc::new(known));
    }
}

/// What only the tenant's record and history can say against a bundle.
fn fits(record: &TenantRecord, bundle: &Bundle, newest: u64) -> Result<(), Error> {
    let mut reasons = Vec::new();
    let next = newest.saturating_add(1);
    if bundle.version != next {
        reasons.push(format!(
            "version: must be {next}, the one after the current"
        ));
    }
    if !bundle.residency.allowed_silos.contains(&record.silo) {
        reasons
            .push("residency.allowedSilos: must contain the silo the tenant lives in".to_owned());
    }
    let named = bundle.signing_key.as_deref();
    if named.is_some_and(|named| named != record.keys.signing.as_str()) {
        reasons.push("signingKey: is not the tenant's signing key; it can be left out".to_owned());
    }
    for stream in bundle
        .retention
        .keys()
        .filter(|stream| !record.streams.contains(stream))
    {
        reasons.push(format!(
            "retention.streams.{stream}: is not one of the tenant's streams"
        ));
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(BundleRefused { reasons }))
    }
}

fn refused(reason: String) -> Error {
    Error::Refused(BundleRefused {
        reasons: vec![reason],
    })
}
