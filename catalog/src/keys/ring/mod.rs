//! The keys in use: one epoch key a month for each tenant, silo and purpose, and the tenant's own secrets.
//!
//! Both live wrapped in documents under `tenants/<tenant>/control/` of the tenant's silo, put-if-absent, so that two
//! processes agree on them; unwrapped they live here, for at most five minutes after they were asked for. A KMS outage
//! is therefore not noticed for so long, and a revoked key is not used for longer. There is no answer from an expired
//! entry: reads fail closed. Only who writes may go on with what the process has, while the KMS does not answer (`writing`).
//!
//! Which KMS keys a tenant has is the registry's to say: it [enrolls](KeyRing::enroll) them when it reads the tenant.

mod attesting;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::stored::{self, MasterKey, StoredSecret};
use super::{
    EpochKey, KeyError, KeyId, KeyPurpose, Kms, ProcessKey, SecretKey, SigningKeyId, TenantKeys,
    TenantSecret, WrapAad, WrappedEpoch,
};
use crate::clock::{self, Clock, Random};
use crate::documents::{DocumentError, Documents};
use crate::ids::{SiloId, TenantId};

use self::attesting::RENEWED_AFTER;
use self::writing::Held;

/// How long an unwrapped key may be used without asking the KMS again.
pub const KEY_LIFETIME_MAX: Duration = Duration::from_secs(300);
/// How many unwrapped keys of a kind are held at most.
const KEYS_CACHED_MAX: usize = 4096;
/// How many fetches of different keys run side by side; those of one key wait for each other.
const FETCH_LANES: usize = 64;
/// How often a lost race for a document version is run again.
const RACES_MAX: usize = 16;

const EPOCH_KEYS: &str = "epoch-keys";
const TENANT_SECRETS: &str = "tenant-secrets";

/// A tenant in a silo.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    tenant: TenantId,
    silo: SiloId,
}

impl Place {
    fn new(tenant: &TenantId, silo: &SiloId) -> Self {
        Self {
            tenant: tenant.clone(),
            silo: silo.clone(),
        }
    }

    fn aad(&self, purpose: KeyPurpose) -> WrapAad<'_> {
        WrapAad {
            tenant: &self.tenant,
            silo: &self.silo,
            purpose,
        }
    }
}

/// A place's documents and keys. The documents live as long as the ring, for what they remember.
#[derive(Debug, Clone)]
struct Enrolled {
    documents: Arc<Documents>,
    keys: Arc<TenantKeys>,
}

/// An epoch key's document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EpochDocument {
    /// `YYYY-MM`, from when on the key was the one to write with.
    month: String,
    key: WrappedEpoch,
}

/// The keys in use.
#[derive(Debug)]
pub struct KeyRing {
    kms: Arc<dyn Kms>,
    stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    places: Mutex<HashMap<Place, Enrolled>>,
    current: Cache<(Place, KeyPurpose), EpochKey>,
    opened: Cache<(Place, KeyPurpose, WrappedEpoch), EpochKey>,
    secrets: Cache<(Place, TenantSecret), SecretKey>,
    writing_keys: Held<(Place, KeyPurpose), EpochKey>,
    writing_secrets: Held<(Place, TenantSecret), SecretKey>,
    process_keys: Cache<Place, ProcessKey>,
    renewed_keys: Held<Place, ProcessKey>,
    signing_publics: Cache<SigningKeyId, [u8; 32]>,
    lanes: Vec<tokio::sync::Mutex<()>>,
    hasher: RandomState,
}

impl KeyRing {
    /// A ring over one KMS and the stores of the silos, each rooted at its silo.
    pub fn new(
        kms: Arc<dyn Kms>,
        stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            kms,
            stores,
            random,
            places: Mutex::default(),
            current: Cache::new(Arc::clone(&clock), KEY_LIFETIME_MAX, KEYS_CACHED_MAX),
            opened: Cache::new(Arc::clone(&clock), KEY_LIFETIME_MAX, KEYS_CACHED_MAX),
            secrets: Cache::new(Arc::clone(&clock), KEY_LIFETIME_MAX, KEYS_CACHED_MAX),
            writing_keys: Held::new(Arc::clone(&clock)),
            writing_secrets: Held::new(Arc::clone(&clock)),
            process_keys: Cache::new(Arc::clone(&clock), RENEWED_AFTER, KEYS_CACHED_MAX),
            renewed_keys: Held::new(Arc::clone(&clock)),
            signing_publics: Cache::new(Arc::clone(&clock), KEY_LIFETIME_MAX, KEYS_CACHED_MAX),
            clock,
            lanes: std::iter::repeat_with(tokio::sync::Mutex::default)
                .take(FETCH_LANES)
                .collect(),
            hasher: RandomState::new(),
        }
    }

    /// The key service behind this ring.
    pub fn kms(&self) -> &Arc<dyn Kms> {
        &self.kms
    }

    /// Tells the ring which keys a tenant has in a silo. Cheap when nothing changed; the last call counts.
    pub fn enroll(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        keys: &TenantKeys,
    ) -> Result<(), KeyError> {
        if keys.silos().iter().any(|&named| named != silo) {
            return Err(KeyError::WrongSilo);
        }
        let place = Place::new(tenant, silo);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(enrolled) = places.get_mut(&place) {
            if *enrolled.keys != *keys {
                enrolled.keys = Arc::new(keys.clone());
                self.current.forget(|(at, _)| *at == place);
            }
            return Ok(());
        }
        let store = self.stores.get(silo).ok_or(KeyError::UnknownSilo)?;
        let prefix = Path::from_iter(["tenants", tenant.as_str(), "control"]);
        let enrolled = Enrolled {
            documents: Arc::new(Documents::new(Arc::clone(store), prefix)),
            keys: Arc::new(keys.clone()),
        };
        places.insert(place, enrolled);
        Ok(())
    }

    /// Wipes what is cached of a tenant, everywhere: its keys were destroyed or switched off.
    pub fn forget(&self, tenant: &TenantId) {
        self.current.forget(|(place, _)| place.tenant == *tenant);
        self.opened.forget(|(place, _, _)| place.tenant == *tenant);
        self.secrets.forget(|(place, _)| place.tenant == *tenant);
        self.writing_keys
            .forget(|(place, _)| place.tenant == *tenant);
        self.writing_secrets
            .forget(|(place, _)| place.tenant == *tenant);
        self.process_keys.forget(|place| place.tenant == *tenant);
        self.renewed_keys.forget(|place| place.tenant == *tenant);
    }

    /// The epoch key to write with: this month's, made on first use and after every rotation of its KMS key.
    pub async fn current(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        purpose: KeyPurpose,
    ) -> Result<Arc<EpochKey>, KeyError> {
        let at = (Place::new(tenant, silo), purpose);
        if let Some(key) = self.current.get(&at) {
            return Ok(key);
        }
        let _alone = self.lane(&at).lock().await;
        if let Some(key) = self.current.get(&at) {
            return Ok(key);
        }
        let asked = self.clock.now();
        let key = self.current_from_documents(&at.0, purpose).await?;
        self.opened.insert(
            (at.0.clone(), purpose, key.wrapped().clone()),
            asked,
            Arc::clone(&key),
        );
        self.current.insert(at, asked, Arc::clone(&key));
        Ok(key)
    }

    /// The epoch key a file or frame names: to read with.
    pub async fn open(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        purpose: KeyPurpose,
        wrapped: &WrappedEpoch,
    ) -> Result<Arc<EpochKey>, KeyError> {
        if wrapped.master_key_id.silo() != silo {
            return Err(KeyError::WrongSilo);
        }
        let at = (Place::new(tenant, silo), purpose, wrapped.clone());
        if let Some(key) = self.opened.get(&at) {
            return Ok(key);
        }
        let _alone = self.lane(&at).lock().await;
        if let Some(key) = self.opened.get(&at) {
            return Ok(key);
        }
        let asked = self.clock.now();
        let key = Arc::new(self.unwrap_epoch(&at.0, purpose, wrapped).await?);
        self.opened.insert(at, asked, Arc::clone(&key));
        Ok(key)
    }

    /// A secret of the tenant, made on first use.
    pub async fn tenant_secret(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        secret: TenantSecret,
    ) -> Result<Arc<SecretKey>, KeyError> {
        let at = (Place::new(tenant, silo), secret);
        if let Some(key) = self.secrets.get(&at) {
            return Ok(key);
        }
        let _alone = self.lane(&at).lock().await;
        if let Some(key) = self.secrets.get(&at) {
            return Ok(key);
        }
        let asked = self.clock.now();
        let key = Arc::new(self.secret_from_documents(&at.0, secret).await?);
        self.secrets.insert(at, asked, Arc::clone(&key));
        Ok(key)
    }

    /// The epoch key to write with, and while the KMS does not answer the one that this process wrote with before.
    ///
    /// # Errors
    /// When there is none, or the KMS says that it is not to be used.
    pub async fn writing_key(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        purpose: KeyPurpose,
    ) -> Result<Arc<EpochKey>, KeyError> {
        let at = (Place::new(tenant, silo), purpose);
        let fetch = self.current(tenant, silo, purpose);
        self.writing_keys.get(&at, fetch).await
    }

    /// A secret of the tenant for what is about to be written; the same grace as [`Self::writing_key`].
    ///
    /// # Errors
    /// When there is none, or the KMS says that it is not to be used.
    pub async fn writing_secret(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        secret: TenantSecret,
    ) -> Result<Arc<SecretKey>, KeyError> {
        let at = (Place::new(tenant, silo), secret);
        let fetch = self.tenant_secret(tenant, silo, secret);
        self.writing_secrets.get(&at, fetch).await
    }

    async fn current_from_documents(
        &self,
        place: &Place,
        purpose: KeyPurpose,
    ) -> Result<Arc<EpochKey>, KeyError> {
        let Enrolled { documents, keys } = self.enrolled(place)?;
        let master = keys.wrapping(purpose);
        for _ in 0..RACES_MAX {
            let newest = documents.latest(EPOCH_KEYS, purpose.as_str()).await?;
            let month = self.clock.now().month();
            let next = newest.as_ref().map_or(1, |(version, _)| version + 1);
            if let Some((_, bytes)) = newest {
                let document: EpochDocument = stored::parse(&bytes)?;
                // Another process may be ahead of this one's clock or registry: its key is good here too. Only so do
                // two processes that disagree for a moment not make a key each time they look.
                if document.month >= month && document.key.master_key_id.succeeds(master) {
                    let key = self.unwrap_epoch(place, purpose, &document.key).await?;
                    return Ok(Arc::new(key));
                }
            }
            match self.put_epoch(place, purpose, next).await {
                Ok(key) => return Ok(Arc::new(key)),
                Err(KeyError::Documents(DocumentError::VersionTaken)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KeyError::unavailable(DocumentError::VersionTaken))
    }

    /// Makes a new epoch key to write with, this month's notwithstanding; other processes have it within five minutes.
    ///
    /// # Errors
    /// When the key service does not wrap it, or it cannot be kept.
    pub async fn renew_epoch(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        purpose: KeyPurpose,
    ) -> Result<(), KeyError> {
        let at = (Place::new(tenant, silo), purpose);
        let Enrolled { documents, .. } = self.enrolled(&at.0)?;
        let newest = documents.latest(EPOCH_KEYS, purpose.as_str()).await?;
        let next = newest.map_or(1, |(version, _)| version + 1);
        self.put_epoch(&at.0, purpose, next).await?;
        self.current.forget(|known| *known == at);
        Ok(())
    }

    /// Makes an epoch key for this month and keeps it as this version, if there is none.
    async fn put_epoch(
        &self,
        place: &Place,
        purpose: KeyPurpose,
        version: u64,
    ) -> Result<EpochKey, KeyError> {
        let Enrolled { documents, keys } = self.enrolled(place)?;
        let month = self.clock.now().month();
        let key = self
            .make_epoch(place, purpose, keys.wrapping(purpose))
            .await?;
        let document = EpochDocument {
            month,
            key: key.wrapped().clone(),
        };
        let document = stored::json(&document)?;
        documents
            .put(EPOCH_KEYS, purpose.as_str(), version, document)
            .await?;
        Ok(key)
    }

    async fn make_epoch(
        &self,
        place: &Place,
        purpose: KeyPurpose,
        master: &KeyId,
    ) -> Result<EpochKey, KeyError> {
        let key = SecretKey::random(&*self.random);
        let wrapped = WrappedEpoch {
            master_key_id: master.clone(),
            epoch_id: clock::array(&*self.random),
            wrapped: self
                .kms
                .wrap(master, &place.aad(purpose).bytes(), &key)
                .await?,
        };
        Ok(EpochKey::new(wrapped, key))
    }

    async fn unwrap_epoch(
        &self,
        place: &Place,
        purpose: KeyPurpose,
        wrapped: &WrappedEpoch,
    ) -> Result<EpochKey, KeyError> {
        let aad = place.aad(purpose).bytes();
        let key = self
            .kms
            .unwrap(&wrapped.master_key_id, &aad, &wrapped.wrapped)
            .await?;
        Ok(EpochKey::new(wrapped.clone(), key))
    }

    async fn secret_from_documents(
        &self,
        place: &Place,
        secret: TenantSecret,
    ) -> Result<SecretKey, KeyError> {
        let Enrolled { documents, keys } = self.enrolled(place)?;
        let aad = place
            .aad(KeyPurpose::Control)
            .labelled(&format!("{TENANT_SECRETS}/{}", secret.as_str()));
        StoredSecret {
            kms: &*self.kms,
            documents: &documents,
            kind: TENANT_SECRETS,
            id: secret.as_str(),
            aad: &aad,
        }
        .load_or_make(MasterKey::Known(&keys.control), &*self.random)
        .await
    }

    fn enrolled(&self, place: &Place) -> Result<Enrolled, KeyError> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(place).cloned().ok_or(KeyError::NotEnrolled)
    }

    fn lane(&self, key: &impl Hash) -> &tokio::sync::Mutex<()> {
        let lanes = self.lanes.len() as u64;
        let lane = usize::try_from(self.hasher.hash_one(key) % lanes).unwrap_or(0);
        &self.lanes[lane]
    }
}
