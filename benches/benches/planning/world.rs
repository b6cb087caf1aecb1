//! A tenant whose records lie in many files, and permits to read them: all parts are the product's, put together as a
//! server does, over a store in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use benches::record;
use catalog::clock::{Clock, Random, SystemClock, SystemRandom};
use catalog::context::{ClaimProfile, IngressHeaders, TenantContext, VerifiedClaims};
use catalog::guard::{Gate, Permit, PolicyWrite, Read, Request, TenantAdmin};
use catalog::ids::{RecordIds, SiloId, TenantId};
use catalog::keys::{KeyRing, Kms, LocalKms, RootSecret};
use catalog::policy::{Bundle, Policies};
use catalog::schema::Schemas;
use catalog::tenant::{self, NewTenant, Registry};
use engine::evidence::EvidenceLog;
use engine::query::{Budget, Limits, Queries, Resources, SpillRoom};
use engine::receipt::Receipts;
use engine::record::{StoredRecord, batch};
use engine::sequencer::{Ack, Feed, Parts, Sequencer, Settings};
use engine::table::{AppendOutcome, Silo, Table, TableKind, Tables};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const TENANT: &str = "acme";
const SILO: &str = "local";
/// Records of a file.
const ROWS: i64 = 20;

/// A column of the table is cut out of the context, as `benches::record` has it.
const PROMOTED: &str = "
fields:
  - { path: context.userIdentity.userName, class: pii.name, write: HASH, promote: user_name }
";
const ROW_POLICY: &str = "
rowPolicies:
  prod: { roles: [Reader], where: \"labels['env'] = 'prod' AND action LIKE 'ec2.%'\" }
";

/// A server without listeners.
pub(crate) struct World {
    pub(crate) queries: Queries,
    gate: Gate,
    policies: Arc<Policies>,
    tables: Arc<Tables>,
    clock: Arc<dyn Clock>,
    _folder: TempDir,
}

impl World {
    /// Starts it, with one tenant that has no records.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let stores = BTreeMap::from([(silo(), Arc::clone(&store))]);
        let kms = LocalKms::open(&folder.path().join("keys"), Arc::clone(&random)).unwrap();
        let kms: Arc<dyn Kms> = Arc::new(kms);
        let (time, chance) = (|| Arc::clone(&clock), || Arc::clone(&random));
        let ring = KeyRing::new(Arc::clone(&kms), stores.clone(), time(), chance());
        let ring = Arc::new(ring);
        let root = RootSecret::new(Arc::clone(&kms), Arc::clone(&store), silo(), chance());
        let root = Arc::new(root);
        let (secret, keys) = (Arc::clone(&root), Arc::clone(&ring));
        let registry = Registry::new(secret, Arc::clone(&store), keys, time(), chance());
        let registry = Arc::new(registry);
        let policies = Policies::new(stores.clone(), Arc::clone(&registry), kms, time());
        let policies = Arc::new(policies);
        let keys = Arc::clone(&ring);
        let schemas = Schemas::new(stores, Arc::clone(&registry), keys, time(), chance());
        let silo = [Silo::over(silo(), store)];
        let tables = Arc::new(Tables::new(silo, Arc::clone(&ring), time(), chance()));
        let evidence = Arc::new(evidence(&tables, &registry, &ring, (&clock, &random)));
        let receipts = Receipts::new(Arc::clone(&evidence) as _, Arc::clone(&tables), time());
        let resources = Resources::start(&budget(&folder), chance()).unwrap();
        let queries = Queries::new(
            Arc::clone(&tables),
            Arc::new(schemas),
            (Arc::new(receipts), root),
            time(),
            Limits::default(),
            resources,
        );
        let known = (Arc::clone(&registry), Arc::clone(&policies));
        let world = Self {
            queries,
            gate: Gate::new(known.0, known.1, evidence, time()),
            policies,
            tables,
            clock,
            _folder: folder,
        };
        world.onboard(&registry).await;
        world
    }

    async fn onboard(&self, registry: &Registry) {
        tenant::onboard_system(registry, &self.policies, &silo())
            .await
            .unwrap();
        let operator = self.context("_system", "SRE.Admin").await;
        let request = Request::at(silo()).with_target(acme());
        let permit = self.gate.authorize::<TenantAdmin>(&operator, request).await;
        let new = NewTenant::new(acme(), silo());
        tenant::onboard(registry, &self.policies, &permit.unwrap(), new)
            .await
            .unwrap();
    }

    /// The table of records in this many files, each of one commit, as flushes make them.
    pub(crate) async fn records(&self, files: usize) -> Arc<Table> {
        let (tenant, silo) = (acme(), silo());
        let table = self.tables.table(&tenant, &silo, TableKind::Records);
        let table = table.await.unwrap();
        let mut start = 0;
        loop {
            let state = table.state().await.unwrap();
            if state.file_count() >= files {
                return table;
            }
            let rows: Vec<_> = (start..start + ROWS).map(own_record).collect();
            let batch = batch::records::<&str>(&rows, &[]).unwrap();
            start += ROWS;
            let txns = vec![("th.log:audit.default".to_owned(), start)];
            let outcome = table.append(&state, vec![batch], txns, Vec::new()).await;
            assert!(matches!(outcome.unwrap(), AppendOutcome::Committed { .. }));
        }
    }

    /// Permits of a reader under the policy that tenants start with: without a row policy, and with one.
    pub(crate) async fn permits(&self) -> [Permit<Read>; 2] {
        let masks = Bundle::default_yaml(&acme(), &silo()) + PROMOTED;
        let masked = self.permit(&masks, 2).await;
        let rows = self.permit(&(masks + ROW_POLICY), 3).await;
        assert!(masked.decision().rows.is_none() && rows.decision().rows.is_some());
        [masked, rows]
    }

    async fn permit(&self, policy: &str, version: u64) -> Permit<Read> {
        let policy = policy.replace("version: 1", &format!("version: {version}"));
        let security = self.context(TENANT, "Security.Admin").await;
        let request = Request::at(silo());
        let permit = self.gate.authorize::<PolicyWrite>(&security, request).await;
        let permit = permit.unwrap();
        let applied = self.policies.apply(&permit, policy.as_bytes());
        applied.await.unwrap();
        let reader = self.context(TENANT, "Audit.Reader").await;
        let permit = self.gate.authorize_planning(&reader, Request::at(silo()));
        permit.await.unwrap()
    }

    async fn context(&self, tenant: &str, role: &str) -> TenantContext {
        let claims = json!({ "sub": "somebody", "tenant": tenant, "roles": [role] });
        let Value::Object(claims) = claims else {
            unreachable!("claims are an object")
        };
        let claims = VerifiedClaims {
            issuer: "https://login.example/idp".to_owned(),
            profile: ClaimProfile::Generic,
            believed_about: None,
            claims,
            expires_at: self.clock.now().plus(Duration::from_secs(86_400)),
        };
        let headers = IngressHeaders::from_pairs([], &SystemRandom);
        self.gate.identify(&claims, &headers).await.unwrap()
    }
}

/// A record of the tenant's.
pub(crate) fn own_record(number: i64) -> StoredRecord {
    StoredRecord {
        tenant_id: acme(),
        ..record(number)
    }
}

fn evidence(
    tables: &Arc<Tables>,
    registry: &Arc<Registry>,
    keys: &Arc<KeyRing>,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
) -> EvidenceLog {
    let parts = Parts {
        tables: Arc::clone(tables),
        registry: Arc::clone(registry),
        keys: Arc::clone(keys),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        ids: Arc::new(RecordIds::new(Arc::clone(clock), Arc::clone(random))),
        // Nobody publishes: plans are what is measured.
        feed: Feed::new().0,
    };
    let settings = Settings {
        ack: Ack::Commit,
        flush_age: Duration::from_secs(1),
        flush_bytes: 64 << 20,
        tenant_bytes_max: 256 << 20,
        idle: Duration::from_secs(60),
    };
    EvidenceLog::new(&Arc::new(Sequencer::new(parts, None, settings)))
}

fn budget(folder: &TempDir) -> Budget {
    Budget {
        memory_bytes_max: 2 << 30,
        tenant_memory_bytes_max: 512 << 20,
        queries_max: 64,
        tenant_queries_max: 16,
        wait_max: Duration::from_secs(10),
        threads: 2,
        spill: Some(SpillRoom {
            folder: folder.path().join("spill"),
            bytes_max: 1 << 30,
        }),
    }
}

fn acme() -> TenantId {
    TenantId::parse(TENANT).unwrap()
}

fn silo() -> SiloId {
    SiloId::parse(SILO).unwrap()
}
