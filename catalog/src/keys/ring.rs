//! The keys in use: one epoch key a month for each tenant, silo and purpose, and the tenant's own secrets.
//!
//! Both live wrapped in documents under `tenants/<tenant>/control/` of the tenant's silo, put-if-absent, so that two
//! processes agree on them; unwrapped they live here, for at most five minutes after they were asked for. A KMS outage
//! is therefore not noticed for so long, and a revoked key is not used for longer. There is no answer from an expired
//! entry: reads fail closed.
//!
//! Which KMS keys a tenant has is the registry's to say: it [enrolls](KeyRing::enroll) them when it reads the tenant.

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
    EpochKey, KeyError, KeyId, KeyPurpose, Kms, SecretKey, TenantKeys, TenantSecret, WrapAad,
    WrappedEpoch,
};
use crate::clock::{self, Clock, Random};
use crate::documents::{DocumentError, Documents};
use crate::ids::{SiloId, TenantId};

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
        if KeyPurpose::ALL
            .iter()
            .any(|&purpose| keys.wrapping(purpose).silo() != silo)
        {
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
        let store = self.stores.get(silo).ok_or(KeyError::WrongSilo)?;
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
            let key = self.make_epoch(place, purpose, master).await?;
            let document = EpochDocument {
                month,
                key: key.wrapped().clone(),
            };
            match documents
                .put(EPOCH_KEYS, purpose.as_str(), next, stored::json(&document)?)
                .await
            {
                Ok(()) => return Ok(Arc::new(key)),
                Err(DocumentError::VersionTaken) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(KeyError::unavailable(DocumentError::VersionTaken))
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use object_store::memory::InMemory;

    use super::*;
    use crate::clock::{ManualClock, SystemRandom, Timestamp};
    use crate::keys::{LocalKms, SigningKeyId};

    /// The local key service behind a switch, counting what is asked of it.
    #[derive(Debug)]
    struct Switched {
        inner: LocalKms,
        down: AtomicBool,
        calls: AtomicUsize,
    }

    impl Switched {
        fn ask(&self) -> Result<&LocalKms, KeyError> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            if self.down.load(Ordering::SeqCst) {
                Err(KeyError::unavailable("switched off"))
            } else {
                Ok(&self.inner)
            }
        }
    }

    #[async_trait]
    impl Kms for Switched {
        async fn create(&self, silo: &SiloId) -> Result<KeyId, KeyError> {
            self.ask()?.create(silo).await
        }
        async fn wrap(&self, key: &KeyId, aad: &[u8], of: &SecretKey) -> Result<Vec<u8>, KeyError> {
            self.ask()?.wrap(key, aad, of).await
        }
        async fn unwrap(&self, key: &KeyId, aad: &[u8], of: &[u8]) -> Result<SecretKey, KeyError> {
            self.ask()?.unwrap(key, aad, of).await
        }
        async fn rotate(&self, key: &KeyId) -> Result<KeyId, KeyError> {
            self.ask()?.rotate(key).await
        }
        async fn disable(&self, key: &KeyId) -> Result<(), KeyError> {
            self.ask()?.disable(key).await
        }
        async fn destroy(&self, key: &KeyId) -> Result<(), KeyError> {
            self.ask()?.destroy(key).await
        }
        async fn probe(&self) -> Result<(), KeyError> {
            self.ask()?.probe().await
        }
        async fn create_signing(&self, silo: &SiloId) -> Result<SigningKeyId, KeyError> {
            self.ask()?.create_signing(silo).await
        }
        async fn sign(&self, key: &SigningKeyId, message: &[u8]) -> Result<[u8; 64], KeyError> {
            self.ask()?.sign(key, message).await
        }
        async fn public_key(&self, key: &SigningKeyId) -> Result<[u8; 32], KeyError> {
            self.ask()?.public_key(key).await
        }
    }

    struct World {
        _folder: tempfile::TempDir,
        kms: Arc<Switched>,
        store: Arc<dyn ObjectStore>,
        clock: Arc<ManualClock>,
        tenant: TenantId,
        silo: SiloId,
        keys: TenantKeys,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let inner =
                LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
            let silo = SiloId::parse("local").unwrap();
            let keys = TenantKeys::create(&inner, &silo).await.unwrap();
            let start = Timestamp::parse_rfc3339("2026-03-15T12:00:00Z").unwrap();
            Self {
                _folder: folder,
                kms: Arc::new(Switched {
                    inner,
                    down: AtomicBool::new(false),
                    calls: AtomicUsize::new(0),
                }),
                store: Arc::new(InMemory::new()),
                clock: Arc::new(ManualClock::new(start)),
                tenant: TenantId::parse("acme").unwrap(),
                silo,
                keys,
            }
        }

        /// Another process's ring over the same world.
        fn ring(&self) -> KeyRing {
            let ring = KeyRing::new(
                Arc::clone(&self.kms) as Arc<dyn Kms>,
                BTreeMap::from([(self.silo.clone(), Arc::clone(&self.store))]),
                Arc::clone(&self.clock) as Arc<dyn Clock>,
                Arc::new(SystemRandom),
            );
            ring.enroll(&self.tenant, &self.silo, &self.keys).unwrap();
            ring
        }

        async fn current(&self, ring: &KeyRing) -> Result<Arc<EpochKey>, KeyError> {
            ring.current(&self.tenant, &self.silo, KeyPurpose::Data)
                .await
        }

        async fn open(&self, ring: &KeyRing, of: &WrappedEpoch) -> Result<Arc<EpochKey>, KeyError> {
            ring.open(&self.tenant, &self.silo, KeyPurpose::Data, of)
                .await
        }

        fn calls(&self) -> usize {
            self.kms.calls.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn two_processes_agree_on_the_epoch_key() {
        let world = World::new().await;
        let rings: Vec<KeyRing> = (0..6).map(|_| world.ring()).collect();
        let keys = futures::future::join_all(rings.iter().map(|ring| world.current(ring))).await;
        let first = keys[0].as_ref().unwrap();
        let dek = SecretKey::random(&SystemRandom);
        let wrapped = first.wrap_dek(&dek, &SystemRandom).unwrap();
        for key in &keys {
            let key = key.as_ref().unwrap();
            assert_eq!(key.wrapped(), first.wrapped());
            assert_eq!(key.unwrap_dek(&wrapped).unwrap(), dek);
        }
    }

    #[tokio::test]
    async fn one_call_serves_five_minutes_and_everyone_who_waits() {
        let world = World::new().await;
        let ring = world.ring();
        let before = world.calls();
        let waiting = futures::future::join_all((0..20).map(|_| world.current(&ring))).await;
        assert!(waiting.iter().all(Result::is_ok));
        let key = waiting[0].as_ref().unwrap();
        world.open(&ring, key.wrapped()).await.unwrap();
        assert_eq!(world.calls(), before + 1);
    }

    #[tokio::test]
    async fn an_outage_is_bridged_for_five_minutes_and_then_fails_closed() {
        let world = World::new().await;
        let ring = world.ring();
        let key = world.current(&ring).await.unwrap();
        let secret = TenantSecret::Hash;
        ring.tenant_secret(&world.tenant, &world.silo, secret)
            .await
            .unwrap();
        world.kms.down.store(true, Ordering::SeqCst);
        world
            .clock
            .advance(KEY_LIFETIME_MAX - Duration::from_micros(1));
        assert!(world.current(&ring).await.is_ok());
        assert!(world.open(&ring, key.wrapped()).await.is_ok());
        world.clock.advance(Duration::from_micros(1));
        assert!(matches!(
            world.current(&ring).await,
            Err(KeyError::Unavailable { .. })
        ));
        let opened = world.open(&ring, key.wrapped()).await;
        assert!(matches!(opened, Err(KeyError::Unavailable { .. })));
        let secret = ring.tenant_secret(&world.tenant, &world.silo, secret).await;
        assert!(matches!(secret, Err(KeyError::Unavailable { .. })));
        world.kms.down.store(false, Ordering::SeqCst);
        assert_eq!(world.current(&ring).await.unwrap().wrapped(), key.wrapped());
    }

    #[tokio::test]
    async fn a_month_or_a_rotation_brings_a_new_epoch_and_the_old_ones_stay_readable() {
        let mut world = World::new().await;
        let ring = world.ring();
        let march = world.current(&ring).await.unwrap();
        world
            .clock
            .set(Timestamp::parse_rfc3339("2026-04-01T00:00:00Z").unwrap());
        let april = world.current(&ring).await.unwrap();
        assert_ne!(april.wrapped(), march.wrapped());
        let before_rotation = world.keys.clone();
        world.keys.data = world.kms.rotate(&world.keys.data).await.unwrap();
        ring.enroll(&world.tenant, &world.silo, &world.keys)
            .unwrap();
        let rotated = world.current(&ring).await.unwrap();
        assert_eq!(rotated.wrapped().master_key_id, world.keys.data);
        for old in [&march, &april, &rotated] {
            let fresh = world.ring();
            assert_eq!(
                world.open(&fresh, old.wrapped()).await.unwrap().wrapped(),
                old.wrapped()
            );
        }
        // A process that is behind, in its clock and in its registry, uses what is there.
        let behind = world.ring();
        behind
            .enroll(&world.tenant, &world.silo, &before_rotation)
            .unwrap();
        world
            .clock
            .set(Timestamp::parse_rfc3339("2026-03-31T23:59:59Z").unwrap());
        assert_eq!(
            world.current(&behind).await.unwrap().wrapped(),
            rotated.wrapped()
        );
    }

    #[tokio::test]
    async fn tenants_silos_and_purposes_do_not_open_each_other() {
        let world = World::new().await;
        let ring = world.ring();
        let key = world.current(&ring).await.unwrap();
        let other = TenantId::parse("other").unwrap();
        let opened = ring
            .open(&other, &world.silo, KeyPurpose::Data, key.wrapped())
            .await;
        assert!(matches!(opened, Err(KeyError::Unauthentic(_))));
        let opened = ring
            .open(
                &world.tenant,
                &world.silo,
                KeyPurpose::Evidence,
                key.wrapped(),
            )
            .await;
        assert!(matches!(opened, Err(KeyError::Unauthentic(_))));
        let elsewhere = SiloId::parse("eu").unwrap();
        let opened = ring
            .open(&world.tenant, &elsewhere, KeyPurpose::Data, key.wrapped())
            .await;
        assert!(matches!(opened, Err(KeyError::WrongSilo)));
        let enrolled = ring.enroll(&world.tenant, &elsewhere, &world.keys);
        assert!(matches!(enrolled, Err(KeyError::WrongSilo)));
        let current = ring.current(&other, &world.silo, KeyPurpose::Data).await;
        assert!(matches!(current, Err(KeyError::NotEnrolled)));
    }

    #[tokio::test]
    async fn a_forged_epoch_id_does_not_poison_the_cache() {
        let world = World::new().await;
        let ring = world.ring();
        let key = world.current(&ring).await.unwrap();
        let evidence = ring
            .current(&world.tenant, &world.silo, KeyPurpose::Evidence)
            .await
            .unwrap();
        let forged = WrappedEpoch {
            epoch_id: key.wrapped().epoch_id,
            ..evidence.wrapped().clone()
        };
        ring.open(&world.tenant, &world.silo, KeyPurpose::Evidence, &forged)
            .await
            .unwrap();
        let dek = SecretKey::random(&SystemRandom);
        let wrapped = key.wrap_dek(&dek, &SystemRandom).unwrap();
        let opened = world.open(&ring, key.wrapped()).await.unwrap();
        assert_eq!(opened.unwrap_dek(&wrapped).unwrap(), dek);
    }

    #[tokio::test]
    async fn a_destroyed_key_is_gone_once_the_ring_forgets() {
        let world = World::new().await;
        let ring = world.ring();
        let key = world.current(&ring).await.unwrap();
        world.kms.destroy(&world.keys.data).await.unwrap();
        ring.forget(&world.tenant);
        assert!(matches!(
            world.current(&ring).await,
            Err(KeyError::Destroyed)
        ));
        assert!(matches!(
            world.open(&ring, key.wrapped()).await,
            Err(KeyError::Destroyed)
        ));
        let evidence = ring
            .current(&world.tenant, &world.silo, KeyPurpose::Evidence)
            .await;
        assert!(evidence.is_ok(), "the proof survives the data");
    }

    #[tokio::test]
    async fn secrets_are_random_per_use_and_shared_by_processes() {
        let world = World::new().await;
        let (one, two) = (world.ring(), world.ring());
        let all = [
            TenantSecret::Hash,
            TenantSecret::Token,
            TenantSecret::Payload,
            TenantSecret::Directory,
        ];
        let mut found: Vec<Arc<SecretKey>> = Vec::new();
        for secret in all {
            let (a, b) = futures::join!(
                one.tenant_secret(&world.tenant, &world.silo, secret),
                two.tenant_secret(&world.tenant, &world.silo, secret),
            );
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!(a, b);
            assert!(found.iter().all(|other| **other != *a));
            found.push(a);
        }
    }

    #[tokio::test]
    async fn a_swapped_secret_document_does_not_open() {
        let world = World::new().await;
        let ring = world.ring();
        ring.tenant_secret(&world.tenant, &world.silo, TenantSecret::Hash)
            .await
            .unwrap();
        let prefix = || Path::from("tenants/acme/control");
        let documents = Documents::new(Arc::clone(&world.store), prefix());
        let (_, bytes) = documents
            .latest(TENANT_SECRETS, "hash")
            .await
            .unwrap()
            .unwrap();
        documents
            .put(TENANT_SECRETS, "token", 1, bytes)
            .await
            .unwrap();
        let token = ring
            .tenant_secret(&world.tenant, &world.silo, TenantSecret::Token)
            .await;
        assert!(matches!(token, Err(KeyError::Unauthentic(_))));
    }
}
