//! The ring over a real key service that can be switched off, and documents in memory.

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
    async fn rotate_signing(&self, key: &SigningKeyId) -> Result<SigningKeyId, KeyError> {
        self.ask()?.rotate_signing(key).await
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
        let inner = LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
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
    let eu_keys = TenantKeys::create(&*world.kms, &elsewhere).await.unwrap();
    let enrolled = ring.enroll(&world.tenant, &elsewhere, &eu_keys);
    assert!(matches!(enrolled, Err(KeyError::UnknownSilo)));
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

#[tokio::test]
async fn writing_goes_on_while_the_kms_is_away_and_reading_does_not() {
    let world = World::new().await;
    let ring = world.ring();
    let (tenant, silo) = (&world.tenant, &world.silo);
    let key = || ring.writing_key(tenant, silo, KeyPurpose::Data);
    let secret = |which| ring.writing_secret(tenant, silo, which);
    let held = (
        key().await.unwrap(),
        secret(TenantSecret::Hash).await.unwrap(),
    );
    world.kms.down.store(true, Ordering::SeqCst);
    // Longer than anything may be read with, and into another month.
    for _ in 0..3 {
        world.clock.advance(Duration::from_hours(24 * 20));
        assert_eq!(key().await.unwrap().wrapped(), held.0.wrapped());
        assert!(*secret(TenantSecret::Hash).await.unwrap() == *held.1);
        assert!(world.current(&ring).await.is_err());
        assert!(world.open(&ring, held.0.wrapped()).await.is_err());
    }
    // What this process never had, and what another has, it does not get.
    assert!(secret(TenantSecret::Token).await.is_err());
    let other = world.ring();
    let fetched = other.writing_key(tenant, silo, KeyPurpose::Data).await;
    assert!(matches!(fetched, Err(KeyError::Unavailable { .. })));
    // While it is away it is left alone for a while after each question.
    let before = world.calls();
    for _ in 0..5 {
        key().await.unwrap();
    }
    assert!(world.calls() <= before + 1);
    world.kms.down.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(60));
    assert_ne!(
        key().await.unwrap().wrapped(),
        held.0.wrapped(),
        "another month"
    );
}

#[tokio::test]
async fn a_key_that_was_switched_off_is_not_written_with_any_more() {
    let world = World::new().await;
    let ring = world.ring();
    let (tenant, silo) = (&world.tenant, &world.silo);
    ring.writing_key(tenant, silo, KeyPurpose::Data)
        .await
        .unwrap();
    world.kms.inner.disable(&world.keys.data).await.unwrap();
    world.clock.advance(KEY_LIFETIME_MAX);
    let refused = ring.writing_key(tenant, silo, KeyPurpose::Data).await;
    assert!(matches!(refused, Err(KeyError::Disabled)));
    // It is forgotten, also when nobody answers any more.
    world.kms.down.store(true, Ordering::SeqCst);
    let refused = ring.writing_key(tenant, silo, KeyPurpose::Data).await;
    assert!(matches!(refused, Err(KeyError::Unavailable { .. })));
}

#[tokio::test]
async fn a_process_key_is_certified_once_and_renewed_in_time() {
    let world = World::new().await;
    let ring = world.ring();
    let key = || ring.process_key(&world.tenant, &world.silo);
    let before = world.calls();
    let waiting = futures::future::join_all((0..20).map(|_| key())).await;
    assert_eq!(world.calls(), before + 1, "one signature for everyone");
    let first = waiting[0].as_ref().unwrap();
    let keys = ring.public_keys(&world.tenant, &world.silo).await.unwrap();
    let now = world.clock.now();
    let said = (&b"test\0"[..], &b"hello"[..]);
    let signature = first.sign(now, said.0, said.1).unwrap();
    let about = (&world.tenant, &world.silo, now);
    assert_eq!(
        first.statement().verify(&keys, about, said, &signature),
        Ok(())
    );
    // Another process has another key, and each has left its statement.
    let other = world.ring();
    let other = other.process_key(&world.tenant, &world.silo).await.unwrap();
    assert_ne!(other.statement(), first.statement());
    let documents = Documents::new(Arc::clone(&world.store), Path::from("tenants/acme/control"));
    assert_eq!(documents.list("process-keys").await.unwrap().len(), 2);
    // The key service is away when half of the time is over: the old key goes on, to an hour before its end.
    world.clock.advance(Duration::from_secs(7 * 3_600));
    world.kms.down.store(true, Ordering::SeqCst);
    assert_eq!(key().await.unwrap().statement(), first.statement());
    world.clock.advance(Duration::from_secs(4 * 3_600));
    assert!(matches!(key().await, Err(KeyError::Unavailable { .. })));
    world.kms.down.store(false, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(60));
    assert_ne!(key().await.unwrap().statement(), first.statement());
}

#[tokio::test]
async fn there_is_no_process_key_without_its_statement() {
    let world = World::new().await;
    world.kms.down.store(true, Ordering::SeqCst);
    let ring = world.ring();
    let key = ring.process_key(&world.tenant, &world.silo).await;
    assert!(matches!(key, Err(KeyError::Unavailable { .. })));
    let stranger = TenantId::parse("globex").unwrap();
    let key = ring.process_key(&stranger, &world.silo).await;
    assert!(matches!(key, Err(KeyError::NotEnrolled)));
}
