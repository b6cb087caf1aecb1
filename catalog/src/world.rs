//! A small world for tests: real keys in a folder, real documents in memory, a clock that stands still, and a ledger
//! that takes the evidence. Nobody gets a permit in it but through the gate.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::clock::{Clock, ManualClock, Random, SeededRandom, Timestamp};
use crate::context::{ClaimProfile, IngressHeaders, TenantContext, VerifiedClaims};
use crate::evidence::{Evidence, EvidenceEntry, EvidenceReceipt, EvidenceRef, EvidenceUnavailable};
use crate::guard::{Denial, Gate, Operation, Permit, Request, TenantAdmin};
use crate::ids::{SiloId, TenantId};
use crate::keys::{KeyRing, Kms, LocalKms, RootSecret};
use crate::policy::Policies;
use crate::schema::Schemas;
use crate::tenant::{self, Event, NewTenant, Registry, TenantRecord};

static PROCESSES: AtomicU64 = AtomicU64::new(1);
pub(crate) const ISSUER: &str = "https://login.example/idp";

/// One process over one store and one key folder.
#[derive(Debug)]
pub(crate) struct World {
    folder: Arc<TempDir>,
    pub(crate) store: Arc<Switch>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) kms: Arc<dyn Kms>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) gate: Gate,
}

pub(crate) fn silo() -> SiloId {
    SiloId::parse("local").unwrap()
}

pub(crate) fn id(text: &str) -> TenantId {
    TenantId::from_stored(text).unwrap()
}

impl World {
    /// A first start: the system tenant is there, nobody else.
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::new(
            Timestamp::parse_rfc3339("2026-03-01T10:00:00Z").unwrap(),
        ));
        Self::over(Arc::new(TempDir::new().unwrap()), Arc::default(), clock).await
    }

    /// Another process over the same store, keys and time, which remembers nothing.
    pub(crate) async fn restarted(&self) -> Self {
        Self::over(
            Arc::clone(&self.folder),
            Arc::clone(&self.store),
            Arc::clone(&self.clock),
        )
        .await
    }

    async fn over(folder: Arc<TempDir>, store: Arc<Switch>, clock: Arc<ManualClock>) -> Self {
        // Every process has its own chance, as in life.
        let seed = PROCESSES.fetch_add(1, Ordering::SeqCst);
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let kms: Arc<dyn Kms> =
            Arc::new(LocalKms::open(&folder.path().join("keys"), Arc::clone(&random)).unwrap());
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let root = Arc::clone(&store) as Arc<dyn ObjectStore>;
        let stores = BTreeMap::from([(silo(), Arc::clone(&root))]);
        let ring = Arc::new(KeyRing::new(
            Arc::clone(&kms),
            stores.clone(),
            Arc::clone(&shared),
            Arc::clone(&random),
        ));
        let secret = RootSecret::new(
            Arc::clone(&kms),
            Arc::clone(&root),
            silo(),
            Arc::clone(&random),
        );
        let registry = Arc::new(Registry::new(
            Arc::new(secret),
            Arc::clone(&root),
            Arc::clone(&ring),
            Arc::clone(&shared),
            Arc::clone(&random),
        ));
        let schemas = Schemas::new(
            stores.clone(),
            Arc::clone(&registry),
            ring,
            Arc::clone(&shared),
            random,
        );
        let policies = Arc::new(Policies::new(
            stores,
            Arc::clone(&registry),
            Arc::clone(&kms),
            Arc::clone(&shared),
        ));
        tenant::onboard_system(&registry, &policies, &silo())
            .await
            .unwrap();
        let ledger = Arc::new(Ledger::default());
        let gate = Gate::new(
            Arc::clone(&registry),
            Arc::clone(&policies),
            Arc::clone(&ledger) as Arc<dyn Evidence>,
            shared,
        );
        Self {
            folder,
            store,
            clock,
            kms,
            registry,
            policies,
            schemas: Arc::new(schemas),
            ledger,
            gate,
        }
    }

    /// Claims as a verified token of an hour has them.
    pub(crate) fn claims(&self, claims: Value) -> VerifiedClaims {
        let Value::Object(claims) = claims else {
            unreachable!("claims are an object")
        };
        let expires_at = self.clock.now().plus(Duration::from_secs(3600));
        VerifiedClaims {
            issuer: ISSUER.to_owned(),
            profile: ClaimProfile::Generic,
            believed_about: None,
            claims,
            expires_at,
        }
    }

    pub(crate) async fn identify(
        &self,
        claims: Value,
        headers: &[(&str, &str)],
    ) -> Result<TenantContext, Denial> {
        let headers = IngressHeaders::from_pairs(headers.iter().copied(), &SeededRandom::new(3));
        self.gate.identify(&self.claims(claims), &headers).await
    }

    pub(crate) async fn permit<Op: Operation>(
        &self,
        claims: Value,
        request: Request,
    ) -> Result<Permit<Op>, Denial> {
        let context = self.identify(claims, &[]).await?;
        self.gate.authorize(&context, request).await
    }

    /// An operator's permit about a tenant.
    pub(crate) async fn admin(&self, about: &str) -> Permit<TenantAdmin> {
        let request = Request::at(silo()).with_target(id(about));
        self.permit(operator(), request).await.unwrap()
    }

    pub(crate) async fn onboard(&self, name: &str) -> Arc<TenantRecord> {
        let permit = self.admin(name).await;
        tenant::onboard(
            &self.registry,
            &self.policies,
            &permit,
            NewTenant::new(id(name), silo()),
        )
        .await
        .unwrap()
    }

    pub(crate) async fn advance(&self, name: &str, event: Event) -> Arc<TenantRecord> {
        let permit = self.admin(name).await;
        self.registry
            .transition(&permit, &id(name), event)
            .await
            .unwrap()
    }
}

pub(crate) fn operator() -> Value {
    json!({ "sub": "ops@example", "tenant": "_system", "roles": ["SRE.Admin"] })
}

/// Takes the evidence, or fails to.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<Vec<EvidenceEntry>>,
    pub(crate) broken: AtomicBool,
}

impl Ledger {
    pub(crate) fn take(&self) -> Vec<EvidenceEntry> {
        std::mem::take(&mut self.entries.lock().unwrap())
    }
}

impl Evidence for Ledger {
    fn record(&self, entry: EvidenceEntry) -> EvidenceReceipt {
        let mut entries = self.entries.lock().unwrap();
        entries.push(entry);
        let name = EvidenceRef(format!("evidence-{}", entries.len()));
        let answer = if self.broken.load(Ordering::SeqCst) {
            Err(EvidenceUnavailable)
        } else {
            Ok(name)
        };
        futures::future::ready(answer).boxed().shared()
    }
}

/// A store in memory that can be switched off.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    pub(crate) inner: InMemory,
    pub(crate) off: AtomicBool,
}

impl Switch {
    fn on(&self) -> object_store::Result<()> {
        if self.off.load(Ordering::SeqCst) {
            return Err(object_store::Error::Generic {
                store: "switch",
                source: "off".into(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Switch")
    }
}

#[async_trait]
#[expect(
    clippy::disallowed_methods,
    reason = "passes calls on to the store inside"
)]
impl ObjectStore for Switch {
    async fn put_opts(
        &self,
        at: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.on()?;
        self.inner.put_opts(at, bytes, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.on()?;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.on()?;
        self.inner.get_opts(at, options).await
    }

    async fn get_ranges(
        &self,
        at: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.on()?;
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.on() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => Box::pin(futures::stream::once(async { Err(error) })),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.on() {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => Box::pin(futures::stream::once(async { Err(error) })),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.on()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.on()?;
        self.inner.copy_opts(from, to, options).await
    }
}
