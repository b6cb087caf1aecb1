//! Worlds for tests: rows of two tenants in one file, values behind masks, hidden columns, all marked with canaries.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use catalog::clock::{Clock, ManualClock, SystemRandom, Timestamp};
use catalog::context::{Attributes, Role};
use catalog::evidence::{EvidenceReceipt, EvidenceRef};
use catalog::guard::{Decision, OperationKind};
use catalog::ids::{CorrelationId, PolicyVersion, RecordId, SiloId, TenantId};
use catalog::keys::SecretKey;
use catalog::policy::row::Predicate;
use catalog::policy::{Bundle, PinnedPolicy, RowRule};
use datafusion::common::ParamValues;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::{FutureExt, StreamExt};

use super::error::Error;
use super::limits::Limits;
use super::planning::{Planned, Planning};
use super::resources::{Budget, Resources, Share};
use super::reuse::Reuse;
use super::run::VerifiedPlan;
use super::source::{Layout, RawScan, RecordSource, Sources};
use super::table_name::TableName;
use super::tables::SessionTables;
use super::viewer::Viewer;
use crate::record::batch;
use crate::record::evolve::Evolution;
use crate::record::stored::{Promoted, StoredRecord};
use crate::record::testing::bare;

/// The caller's tenant.
pub(super) const OWN: &str = "acme";
/// Another tenant, whose rows lie between the caller's.
pub(super) const FOREIGN: &str = "globex";
/// In every value that the caller must not see.
pub(super) const CANARY: &str = "canary";

/// 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600_000_000;
const MINUTE: i64 = 60_000_000;

/// A policy with every kind of mask, and columns promoted from the context and the labels.
pub(super) const POLICY: &str = r#"
tenant: "acme"
version: 1
residency: { allowedSilos: ["local"] }
retention: { streams: { audit.default: { ttlDays: 30, graceDays: 1, class: standard } } }
fields:
  - { path: context.user.phone, class: pii.phone, write: KEEP, promote: user_phone }
  - { path: labels.owner, class: pii.name, write: KEEP, promote: owner }
  - { path: context.ticket, write: KEEP, promote: ticket }
maskingProfiles:
  Reader:
    actor_id: REDACT
    resource_id: { kind: MASK, params: { showFirst: 4, showLast: 0 } }
    trace_id: NULLIFY
    purpose: HASH
    user_phone: REDACT
    context.secret: REDACT
    email: NULLIFY
    labels.team: REDACT
    labels.owner: NULLIFY
  Investigator:
    actor_id: CLEAR
  Admin:
    actor_id: CLEAR
"#;

/// What differs between two worlds that the caller must not be able to tell apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    /// Rows of the other tenant for each row of the caller's.
    pub(super) foreign: usize,
    /// Goes into every value that the caller does not see.
    pub(super) secret: &'static str,
}

/// The world of the leak tests.
pub(super) const ONE: World = World {
    foreign: 1,
    secret: "one",
};

/// The same to the caller, and different in everything they must not see.
pub(super) const OTHER: World = World {
    foreign: 3,
    secret: "other",
};

/// What the callers of a process share: plenty.
static RESOURCES: LazyLock<Arc<Resources>> = LazyLock::new(|| resources(&plenty()));

/// More than any test needs, and no disk.
pub(super) fn plenty() -> Budget {
    Budget {
        memory_bytes_max: 1 << 40,
        tenant_memory_bytes_max: 1 << 40,
        queries_max: 1_000,
        tenant_queries_max: 1_000,
        wait_max: Duration::from_secs(1),
        threads: 2,
        spill: None,
    }
}

pub(super) fn resources(budget: &Budget) -> Arc<Resources> {
    let random = Arc::new(SystemRandom);
    Arc::new(Resources::start(budget, random).expect("threads"))
}

/// One caller in one world.
pub(super) struct Caller {
    pub(super) viewer: Arc<Viewer>,
    pub(super) sources: Arc<dyn Sources>,
    pub(super) limits: Limits,
    pub(super) resources: Arc<Resources>,
    pub(super) clock: Arc<ManualClock>,
    /// None are kept, unless a test says so.
    pub(super) reuse: Arc<Reuse>,
    /// The columns that scans of this caller's have read.
    pub(super) read: Arc<Mutex<Vec<String>>>,
    /// Of the table, whichever it is.
    pub(super) version: Arc<AtomicU64>,
}

impl Caller {
    pub(super) fn new(world: World, role: Role) -> Self {
        Self::under(world, role, POLICY)
    }

    /// A caller under the same policy in its strict mode.
    pub(super) fn strict(world: World, role: Role) -> Self {
        Self::under(world, role, &format!("{POLICY}query: {{ mode: strict }}\n"))
    }

    /// A caller under another policy.
    pub(super) fn under(world: World, role: Role, policy: &str) -> Self {
        let read = Arc::default();
        let version = Arc::new(AtomicU64::new(1));
        Self {
            viewer: Arc::new(viewer(role, policy, None)),
            sources: Arc::new(Memory {
                streams: halves(&records(world)),
                layout: Layout::Mixed,
                read: Arc::clone(&read),
                version: Arc::clone(&version),
            }),
            read,
            version,
            limits: Limits {
                target_partitions: 2,
                memory_bytes_max: 64 * 1024 * 1024,
                deadline: Duration::from_secs(20),
                ..Limits::default()
            },
            resources: Arc::clone(&RESOURCES),
            reuse: Arc::new(Reuse::new(Duration::ZERO)),
            clock: Arc::new(ManualClock::new(at(1_000_000))),
        }
    }

    /// A caller under another policy, whose tenant has upcasters, over these rows.
    pub(super) fn upcasting(
        role: Role,
        policy: &str,
        evolution: &Evolution,
        batch: RecordBatch,
    ) -> Self {
        let caller = Self::under(ONE, role, policy);
        Self {
            viewer: Arc::new(viewer(role, policy, Some(evolution))),
            sources: Arc::new(Memory {
                streams: halves(&batch),
                layout: Layout::Mixed,
                read: Arc::clone(&caller.read),
                version: Arc::clone(&caller.version),
            }),
            ..caller
        }
    }

    /// The caller of the leak tests, all of whose rows are old: upcasters take what is masked, what is not and what was
    /// cut out to other places.
    pub(super) fn evolved(world: World, role: Role) -> Self {
        let steps = serde_json::json!([
            { "op": "rename", "path": "/context/secret", "to": "covert" },
            { "op": "move", "from": "/context/user/email", "to": "/context/contact/mail" },
            { "op": "move", "from": "/context/user/phone", "to": "/labels/phone" },
            { "op": "move", "from": "/context/attempt", "to": "/extras/attempt" },
            { "op": "move", "from": "/context/ticket", "to": "/context/order/ticket" },
            { "op": "move", "from": "/labels/team", "to": "/context/team" },
            { "op": "rename", "path": "/labels/owner", "to": "holder" },
            { "op": "rename", "path": "/labels/EMAIL", "to": "post" },
            { "op": "default", "path": "/context/currency", "value": "USD" },
            { "op": "split", "path": "/context/covert", "separator": "-", "to": ["/context/s1", "/context/s2"] },
            { "op": "cast", "path": "/context/contact/mail", "to": "number" },
        ]);
        Self::upcasting(role, POLICY, &evolution(steps), records(world))
    }

    /// The same caller over a table that holds the rows of its tenant only, as it promises.
    pub(super) fn alone(self) -> Self {
        let own = World {
            foreign: 0,
            secret: "alone",
        };
        self.over(records(own), Layout::OneTenant)
    }

    /// The same with this many rows.
    pub(super) fn with_rows(self, count: i64) -> Self {
        self.over(numbered_records(ONE, 0..count), Layout::Mixed)
    }

    /// The same over these rows.
    pub(super) fn over(self, batch: RecordBatch, layout: Layout) -> Self {
        self.reading(halves(&batch), layout)
    }

    /// The same over these rows, the batches of each stream.
    pub(super) fn reading(mut self, streams: Vec<Vec<RecordBatch>>, layout: Layout) -> Self {
        self.sources = Arc::new(Memory {
            streams,
            layout,
            read: Arc::clone(&self.read),
            version: Arc::clone(&self.version),
        });
        self
    }

    /// The table as it is from now on, written to in between.
    pub(super) fn set_version(&self, version: u64) {
        self.version.store(version, Ordering::SeqCst);
    }

    /// The same caller over a table that breaks that promise.
    pub(super) fn betrayed(self) -> Self {
        self.over(records(ONE), Layout::OneTenant)
    }

    pub(super) fn planning(&self) -> Planning {
        Planning {
            tables: Arc::new(SessionTables::new(
                Arc::clone(&self.viewer),
                Arc::clone(&self.sources),
            )),
            limits: self.limits.clone(),
            now: self.clock.now(),
            reuse: Arc::clone(&self.reuse),
            share: self.share(),
        }
    }

    /// A share that nobody has to wait for.
    fn share(&self) -> Arc<Share> {
        let tenant = &self.viewer.decision().tenant;
        let memory_bytes_max = self.limits.memory_bytes_max;
        let share = self.resources.share(tenant, memory_bytes_max);
        let share = share.now_or_never().expect("at once");
        share.expect("a share")
    }

    pub(super) async fn plan(&self, sql: &str) -> Result<Planned, Error> {
        self.planning().plan(sql, None).await
    }

    pub(super) fn verified(&self, planned: Planned) -> VerifiedPlan {
        self.verified_with(planned, durable())
    }

    /// A plan whose evidence is on its way as this receipt says.
    pub(super) fn verified_with(
        &self,
        planned: Planned,
        evidence: EvidenceReceipt,
    ) -> VerifiedPlan {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let decision = Arc::clone(self.viewer.decision());
        VerifiedPlan::new(planned, decision, evidence, clock, self.limits.deadline)
    }

    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        self.rows_with(sql, None).await
    }

    pub(super) async fn rows_with(
        &self,
        sql: &str,
        parameters: Option<ParamValues>,
    ) -> Result<Vec<RecordBatch>, Error> {
        let planned = self.planning().plan(sql, parameters).await?;
        collect(self.verified(planned)).await
    }

    /// The rows as a table of text.
    pub(super) async fn shows(&self, sql: &str) -> String {
        match self.rows(sql).await {
            Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
            Err(error) => format!("{error:?}"),
        }
    }

    /// Everything that a caller can observe of a statement: schema, rows or error, the plan, the description.
    pub(super) async fn observes(&self, sql: &str) -> String {
        let described = match self.planning().describe(sql).await {
            Ok(described) => format!("{described:?}"),
            Err(error) => chain(&error),
        };
        let explained = self.told(&format!("EXPLAIN {sql}")).await;
        let answered = self.told(sql).await;
        [described, explained, answered].join("\n---\n")
    }

    async fn told(&self, sql: &str) -> String {
        match self.plan(sql).await {
            Err(error) => chain(&error),
            Ok(planned) => {
                let schema = planned.schema.to_string();
                match collect(self.verified(planned)).await {
                    Ok(batches) => {
                        let rows = pretty_format_batches(&batches).unwrap();
                        format!("{schema}\n{rows}")
                    }
                    Err(error) => chain(&error),
                }
            }
        }
    }
}

/// The rows of a stream, or what ended it.
pub(super) async fn collect(plan: VerifiedPlan) -> Result<Vec<RecordBatch>, Error> {
    let announced = plan.schema();
    let mut stream = plan.execute()?;
    assert_eq!(stream.schema(), announced);
    let mut batches = Vec::new();
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(Error::from_stream)?;
        assert_eq!(batch.schema(), announced);
        batches.push(batch);
    }
    Ok(batches)
}

/// An error with all its causes, in both forms that a log could write.
pub(super) fn chain(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    text
}

fn durable() -> EvidenceReceipt {
    futures::future::ready(Ok(EvidenceRef("evidence".to_owned())))
        .boxed()
        .shared()
}

/// The caller of a role: the profile of that name.
fn viewer(role: Role, policy: &str, evolution: Option<&Evolution>) -> Viewer {
    let secret = |byte| Some(Arc::new(SecretKey::new([byte; 32])));
    Viewer::new(
        Arc::new(decision(role, policy)),
        secret(1),
        secret(2),
        evolution,
    )
}

/// The upcaster from 1.0 to 2.0 with these steps, of the stream that all rows are in.
pub(super) fn evolution(steps: serde_json::Value) -> Evolution {
    let known = |version: &str| serde_json::json!({ "version": version, "registeredAt": "2026-01-01T00:00:00Z", "digest": "", "document": 1 });
    let mut newest = known("2.0");
    newest["upcaster"] = serde_json::json!({ "from": "1.0", "to": "2.0", "steps": steps });
    let stream = serde_json::json!({ "required": "backward", "versions": [known("1.0"), newest] });
    let schemas = serde_json::json!({ "streams": { "audit.default": stream } });
    Evolution::of(&serde_json::from_value(schemas).unwrap()).unwrap()
}

fn decision(role: Role, policy: &str) -> Decision {
    let bundle = Bundle::parse(policy.as_bytes(), &TenantId::parse(OWN).unwrap()).unwrap();
    let profile = bundle
        .masking_profiles
        .get(role.profile_name())
        .unwrap()
        .clone();
    let tenant = TenantId::parse(OWN).unwrap();
    let attributes = Attributes {
        org_unit: Some("north".to_owned()),
        ..Attributes::default()
    };
    let rows = rows(&bundle, &attributes);
    let is_admin = role == Role::AuditAdmin && rows.is_none();
    Decision {
        id: [7; 32],
        tenant: tenant.clone(),
        target: None,
        silo: SiloId::parse("local").unwrap(),
        operation: OperationKind::Read,
        subject: "someone".to_owned(),
        client: None,
        roles: [role].into(),
        scopes: Default::default(),
        profile: Arc::new(profile),
        rows,
        policy: Arc::new(PinnedPolicy {
            version: PolicyVersion { tenant, number: 1 },
            bundle,
            digest: [0; 32],
        }),
        stream: None,
        attributes,
        basis: vec!["RLS.Tenant".to_owned()],
        correlation: CorrelationId::parse("0123456789abcdef0123456789abcdef").unwrap(),
        expires_at: at(2_000_000),
        made_at: at(1_000_000),
        may_see_quarantine: is_admin,
        may_see_evidence: is_admin,
    }
}

/// The rows that all policies of a bundle select.
fn rows(bundle: &Bundle, attributes: &Attributes) -> Option<Arc<RowRule>> {
    let policies = bundle.row_policies.values();
    let all: Vec<_> = policies
        .map(|policy| policy.for_caller(attributes))
        .collect();
    (!all.is_empty()).then(|| {
        Arc::new(RowRule {
            policies: bundle.row_policies.keys().cloned().collect(),
            predicate: Predicate::All(all),
        })
    })
}

/// A time, in minutes from the first record.
pub(super) fn at(minute: i64) -> Timestamp {
    Timestamp::from_micros(EPOCH + minute * MINUTE)
}

/// Twelve rows of the caller's tenant, those of the other tenant between them, newest first.
pub(super) fn records(world: World) -> RecordBatch {
    numbered_records(world, 0..12)
}

/// The same for other numbers, which are minutes as well.
pub(super) fn numbered_records(world: World, numbers: Range<i64>) -> RecordBatch {
    let mut rows = Vec::new();
    for number in numbers {
        rows.push(own_row(number, world.secret));
        for copy in 0..world.foreign {
            rows.push(foreign_row(number, copy, world.secret));
        }
    }
    batch::records(&rows, &["user_phone", "owner", "ticket"]).unwrap()
}

pub(super) fn own_row(number: i64, secret: &str) -> StoredRecord {
    let hidden = |what: &str| format!("{CANARY}-{what}-{secret}-{number}");
    let text = |value: String| Some(value);
    let actions = ["Appointment.Booked", "Appointment.Cancelled", "Login"];
    let action = actions[usize::try_from(number).unwrap() % 3];
    let labels = BTreeMap::from([
        (
            "env".to_owned(),
            text(["prod", "test"][usize::try_from(number).unwrap() % 2].to_owned()),
        ),
        ("team".to_owned(), text(hidden("team"))),
        ("EMAIL".to_owned(), text(hidden("labelmail"))),
    ]);
    let mut row = row(OWN, number);
    row.action = text(action.to_owned());
    row.resource_type = text(if number < 6 { "Appointment" } else { "User" }.to_owned());
    row.resource_id = text(format!("res-{}", hidden("resource")));
    row.actor_type = text("User".to_owned());
    row.actor_id = text(hidden("actor"));
    row.trace_id = text(hidden("trace"));
    // Hashed: shown as a function of the value, so the two worlds share it.
    row.purpose = text(format!("{CANARY}-purpose-{}", number % 2));
    row.labels = Some(labels);
    row.context = text(format!(
        r#"{{"attempt":{number},"secret":"{}","user":{{"email":"{}","phone":null}}}}"#,
        hidden("secret"),
        hidden("email"),
    ));
    row.promoted = vec![
        promoted("user_phone", "/context/user/phone", hidden("phone")),
        promoted("owner", "/labels/owner", hidden("owner")),
        promoted("ticket", "/context/ticket", format!("T-{number}")),
    ];
    row.sealed_fields = BTreeMap::from([(
        "/context/user/email".to_owned(),
        format!("\"{}\"", hidden("sealed")),
    )]);
    row.payload_hash = text(hidden("payload"));
    row.leaf_layout = hidden("layout");
    row
}

pub(super) fn foreign_row(number: i64, copy: usize, secret: &str) -> StoredRecord {
    let foreign = || Some(format!("{CANARY}-foreign-{secret}-{number}-{copy}"));
    let mut row = row(FOREIGN, number * 10 + i64::try_from(copy).unwrap() + 100);
    // Between the caller's rows, in time as in the file.
    row.created_at = at(number);
    row.ingested_at = at(number + 1);
    row.action = foreign();
    row.resource_type = foreign();
    row.resource_id = foreign();
    row.actor_type = foreign();
    row.actor_id = foreign();
    row.trace_id = foreign();
    row.purpose = foreign();
    row.labels = Some(BTreeMap::from([("env".to_owned(), foreign())]));
    row.context = Some(format!(r#"{{"foreign":"{}"}}"#, foreign().unwrap()));
    row.promoted = vec![
        promoted("user_phone", "/context/user/phone", foreign().unwrap()),
        promoted("owner", "/labels/owner", foreign().unwrap()),
        promoted("ticket", "/context/ticket", foreign().unwrap()),
    ];
    row.payload_hash = foreign();
    row.leaf_layout = foreign().unwrap();
    row
}

pub(super) fn row(tenant: &str, number: i64) -> StoredRecord {
    StoredRecord {
        tenant_id: TenantId::parse(tenant).unwrap(),
        record_id: RecordId::parse(&format!("01KDVDN0000000000000{number:06}")).unwrap(),
        created_at: at(number),
        ingested_at: at(number + 1),
        schema_version: Some("1.0".to_owned()),
        leaf_index: Some(number),
        salt: [0; 16],
        ..bare()
    }
}

pub(super) fn promoted(column: &str, pointer: &str, value: String) -> Promoted {
    Promoted {
        column: column.to_owned(),
        pointer: pointer.to_owned(),
        value: Some(value),
    }
}

/// Two streams, so that plans repartition and merge.
pub(super) fn halves(rows: &RecordBatch) -> Vec<Vec<RecordBatch>> {
    let half = rows.num_rows() / 2;
    vec![
        vec![rows.slice(0, half)],
        vec![rows.slice(half, rows.num_rows() - half)],
    ]
}

/// Rows in memory, read by operators that would say in an error what they found.
#[derive(Debug)]
struct Memory {
    /// The batches of each stream, of one schema.
    streams: Vec<Vec<RecordBatch>>,
    layout: Layout,
    read: Arc<Mutex<Vec<String>>>,
    version: Arc<AtomicU64>,
}

#[async_trait]
impl Sources for Memory {
    async fn open(&self, _table: TableName) -> Result<Arc<dyn RecordSource>, Error> {
        Ok(Arc::new(Self {
            streams: self.streams.clone(),
            layout: self.layout,
            read: Arc::clone(&self.read),
            version: Arc::clone(&self.version),
        }))
    }
}

#[async_trait]
impl RecordSource for Memory {
    fn schema(&self) -> SchemaRef {
        self.streams[0][0].schema()
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn layout(&self) -> Layout {
        self.layout
    }

    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let schema = self.schema();
        let mut plan: Arc<dyn ExecutionPlan> =
            MemorySourceConfig::try_new_exec(&self.streams, Arc::clone(&schema), None).unwrap();
        if let Some(predicate) = scan.predicate {
            plan = Arc::new(FilterExec::try_new(predicate, plan).unwrap());
        }
        let columns = scan.projection.iter().map(|index| {
            let name = schema.field(*index).name();
            self.read.lock().unwrap().push(name.clone());
            (col(name, &schema).unwrap(), name.clone())
        });
        Ok(Arc::new(
            ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan).unwrap(),
        ))
    }
}
