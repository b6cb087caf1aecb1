//! What the tests of the log share: a key service that can be switched off, tenants, and a folder on a disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use catalog::clock::{Clock, ManualClock, Random, SystemRandom, Timestamp};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{
    EpochKey, KeyError, KeyId, KeyPurpose, KeyRing, Kms, LocalKms, SecretKey, SigningKeyId,
    TenantKeys,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::recovery::Opened;
use super::{Recovery, Settings, Source, Wal};
use crate::disk::{Disk, SystemDisk};

/// The local key service behind a switch.
#[derive(Debug)]
struct Switched {
    inner: LocalKms,
    away: AtomicBool,
}

impl Switched {
    fn ask(&self) -> Result<&LocalKms, KeyError> {
        if self.away.load(Ordering::SeqCst) {
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

/// A machine: keys, time, and a folder for the log.
pub(super) struct World {
    folder: tempfile::TempDir,
    kms: Arc<Switched>,
    clock: Arc<ManualClock>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) sources: Vec<(Source, Arc<EpochKey>)>,
}

impl World {
    /// A world with the tables of these tenants as sources.
    pub(super) async fn new(tenants: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
        let kms = Arc::new(Switched {
            inner,
            away: AtomicBool::new(false),
        });
        let clock = Arc::new(ManualClock::new(
            Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap(),
        ));
        let silo = SiloId::parse("local").unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let keys = KeyRing::new(
            Arc::clone(&kms) as Arc<dyn Kms>,
            BTreeMap::from([(silo.clone(), store)]),
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(SystemRandom),
        );
        let mut sources = Vec::new();
        for tenant in tenants {
            let tenant = TenantId::parse(tenant).unwrap();
            let made = TenantKeys::create(&*kms, &silo).await.unwrap();
            keys.enroll(&tenant, &silo, &made).unwrap();
            let key = keys
                .current(&tenant, &silo, KeyPurpose::Data)
                .await
                .unwrap();
            let source = Source {
                tenant,
                silo: silo.clone(),
                table: "records".into(),
                purpose: KeyPurpose::Data,
            };
            sources.push((source, key));
        }
        Self {
            folder,
            kms,
            clock,
            keys: Arc::new(keys),
            sources,
        }
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.folder.path().join("wal")
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            folder: self.folder(),
            segment_bytes_max: 64 * 1024,
            bytes_max: 1024 * 1024,
        }
    }

    /// Opens the log on the operating system's disk.
    pub(super) fn open(&self) -> (Arc<Wal>, Recovery) {
        self.try_open(self.settings()).unwrap()
    }

    pub(super) fn try_open(
        &self,
        settings: Settings,
    ) -> Result<(Arc<Wal>, Recovery), super::Error> {
        open_on(Arc::new(SystemDisk), settings)
    }

    /// The key service goes away and takes the cached keys with it, or comes back.
    pub(super) fn key_service(&self, away: bool) {
        self.clock.advance(Duration::from_secs(600));
        self.kms.away.store(away, Ordering::SeqCst);
    }

    /// The names and bytes of the log's files.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        std::fs::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }

    pub(super) async fn append(&self, wal: &Wal, source: usize, payload: &[u8]) -> u64 {
        let (source, key) = &self.sources[source];
        wal.append(source, key, payload.to_vec())
            .await
            .unwrap()
            .position
    }

    /// Positions and payloads of a source.
    pub(super) async fn frames(&self, wal: &Wal, source: usize) -> Vec<(u64, Vec<u8>)> {
        let frames = wal.recover(&self.sources[source].0, &self.keys).await;
        let frames = frames.unwrap().into_iter();
        frames
            .map(|frame| (frame.position, frame.payload.to_vec()))
            .collect()
    }
}

/// The node of all these logs.
pub(super) const NODE: &str = "node-1";

/// The log at its next start.
pub(super) fn next(
    settings: Settings,
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
) -> Result<Opened, super::Error> {
    let folder = Wal::take(settings, NODE, disk, random)?;
    let generation = folder.generation() + 1;
    folder.writer(generation)
}

pub(super) fn open_on(
    disk: Arc<dyn Disk>,
    settings: Settings,
) -> Result<(Arc<Wal>, Recovery), super::Error> {
    let folder = Wal::take(settings, NODE, disk, Arc::new(SystemRandom))?;
    let generation = folder.generation() + 1;
    folder.open(generation)
}
