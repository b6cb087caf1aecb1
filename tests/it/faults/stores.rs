//! The fault table: every step of storage, failing in every way, under load, with a crash in the middle.

use std::sync::Arc;

use catalog::guard::TenantAdmin;
use catalog::ids::{SiloId, TenantId};
use catalog::tenant::{NewTenant, onboard};
use engine::table::TableKind;
use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use serde_json::json;
use tests::fault_store::{Fault, Plan, Step};
use tests::ledger::{Ledger, sealed};
use tests::{Around, Setup, World, record};

use super::NIGHTLY;

const STEPS: [Step; 5] = [
    Step::DataPut,
    Step::LogPut,
    Step::DocumentPut,
    Step::Get,
    Step::List,
];
const FAULTS: [Fault; 5] = [
    Fault::Lost,
    Fault::Unanswered,
    Fault::Slow,
    Fault::Torn,
    Fault::Burst,
];
const SETUP: Setup = Setup {
    node: "one",
    wal: "flush_age_ms = 30",
    more: "",
};

/// Whether a store can do that at all: an object comes into being whole, or not at all, but a data file's name is not
/// known to anybody before it is whole, so that it is put to the test as well.
fn possible(step: Step, fault: Fault) -> bool {
    match fault {
        Fault::Torn => !matches!(step, Step::LogPut | Step::DocumentPut),
        Fault::Unanswered => !matches!(step, Step::Get | Step::List),
        Fault::Lost | Fault::Slow | Fault::Burst => true,
    }
}

/// The server, its clients, and what goes wrong.
struct Trial {
    world: World,
    plan: Arc<Plan>,
    acme: Ledger,
    globex: Ledger,
    lives: usize,
}

impl Trial {
    async fn start() -> Self {
        let plan = Arc::new(Plan::default());
        let around = Around {
            faults: Some(Arc::clone(&plan)),
            ..Around::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let world = World::restart_around(folder, SETUP, around).await;
        for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
            world.tenant(tenant, silo).await;
        }
        Self {
            world,
            plan,
            acme: Ledger::of("acme", "eu"),
            globex: Ledger::of("globex", "us"),
            lives: 1,
        }
    }

    /// Load while the step fails, a crash, a restart while it goes on failing, and more load.
    async fn suffer(mut self, step: Step, fault: Fault, round: usize) -> (Self, String) {
        let name = format!("t-{step:?}-{fault:?}-{round}").to_lowercase();
        let permit = self.world.operator::<TenantAdmin>(&name).await;
        let (acknowledged, refused) = (self.acknowledged(), self.refused());
        self.plan.arm(step, fault, 2 + 3 * round as u64 % 17);
        let service = Arc::clone(&self.world.service);
        let new = NewTenant::new(
            TenantId::parse(&name).unwrap(),
            SiloId::parse("eu").unwrap(),
        );
        let onboarding = onboard(&service.registry, &service.policies, &permit, new);
        let sql = "SELECT count(*) FROM audit.records";
        let _ = tokio::join!(
            self.acme.send(&self.world, 3, 4),
            self.globex.send(&self.world, 2, 2),
            trespass(&self.world),
            self.world.query("acme", "eu", "Audit.Reader", sql),
            onboarding,
        );
        drop(service);
        self.world = self.world.crash_and_restart().await;
        self.lives += 1;
        self.acme.send(&self.world, 2, 3).await;
        self.globex.send(&self.world, 1, 2).await;
        let hits = self.plan.disarm();
        self.recover().await;
        assert!(hits > 0, "{step:?} {fault:?} never happened");
        let row = format!(
            "{:<12} {:<11} {hits:>4} {:>13} {:>8}   recovered",
            format!("{step:?}"),
            format!("{fault:?}"),
            self.acknowledged() - acknowledged,
            self.refused() - refused,
        );
        (self, row)
    }

    /// Nothing fails any more: everything is stored, once, and all seals hold.
    async fn recover(&mut self) {
        self.acme.settle(&self.world).await;
        self.globex.settle(&self.world).await;
        self.acme.check(&self.world).await;
        self.globex.check(&self.world).await;
        for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
            sealed(
                &self.world,
                tenant,
                silo,
                TableKind::Evidence,
                "audit.evidence",
            )
            .await;
        }
        assert_eq!(self.plan.overwritten(), 0, "an object was changed");
    }

    fn acknowledged(&self) -> usize {
        self.acme.acknowledged() + self.globex.acknowledged()
    }

    fn refused(&self) -> u64 {
        self.acme.refused + self.globex.refused
    }
}

/// What must not succeed, whatever else fails: a body of another tenant, another silo's door, no token, claims that were
/// changed, a query of another tenant.
async fn trespass(world: &World) {
    let path = "/v1/audit/records";
    let token = world.token("acme", &[], &["audit.write"]);
    let body = |tenant: &str| record(tenant, "trespass", json!({})).to_string();
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let changed = format!("{head}.{}.{signature}", claims.replace('a', "b"));
    for (what, silo, token, tenant, allowed) in [
        (
            "a body of another tenant",
            "eu",
            &*token,
            "globex",
            &[202, 503][..],
        ),
        ("another silo", "us", &*token, "acme", &[409, 503]),
        ("no token", "eu", "", "acme", &[401]),
        ("changed claims", "eu", &*changed, "acme", &[401]),
    ] {
        let (status, answer) = world.post(silo, token, path, body(tenant)).await;
        assert!(allowed.contains(&status), "{what}: {status} {answer}");
    }
    let sql = "SELECT * FROM globex.audit.records";
    let seen = world.query("acme", "eu", "Audit.Admin", sql).await;
    assert!(seen.is_err(), "another tenant's records were read");
}

/// Refusals leave evidence, with the fault behind us as without one.
async fn evidence(world: &World) -> String {
    trespass(world).await;
    let sql = "SELECT DISTINCT problem FROM audit.evidence WHERE decision = 'Deny'";
    let wanted = ["residency-conflict", "cross-tenant-query"];
    let mut shown = String::new();
    for _ in 0..200 {
        let rows = world.query("acme", "eu", "Audit.Admin", sql).await;
        shown = tests::text(&rows.expect("evidence"));
        if wanted.iter().all(|problem| shown.contains(problem)) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    shown
}

fn flush_errors(world: &World) -> usize {
    let metrics = world.service.metrics.render();
    let of_flushes = |line: &&str| line.starts_with("trailhouse_flush_errors_total{");
    metrics.lines().filter(of_flushes).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the table is the result")]
async fn every_fault_of_every_step_is_recovered_from() {
    let mut trial = Trial::start().await;
    println!("step         fault       hits  acknowledged  refused   outcome");
    for round in 1..=NIGHTLY {
        for step in STEPS {
            for fault in FAULTS {
                if possible(step, fault) {
                    let (after, row) = Box::pin(trial.suffer(step, fault, round)).await;
                    trial = after;
                    println!("{row}");
                }
            }
        }
    }
    let shown = evidence(&trial.world).await;
    assert!(
        shown.contains("residency-conflict") && shown.contains("cross-tenant-query"),
        "{shown}"
    );
    assert!(
        flush_errors(&trial.world) > 0,
        "failed flushes were not counted"
    );
    println!(
        "{} lives, {} records sent, {} acknowledged, {} answers refused, each record there once, all trees made again \
         from the rows",
        trial.lives,
        trial.acme.sent() + trial.globex.sent(),
        trial.acknowledged(),
        trial.refused(),
    );
}

/// The check is one that can fail.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "it does what no store may see")]
async fn an_object_that_is_changed_is_noticed() {
    let plan = Arc::new(Plan::default());
    let store = plan.around(Arc::new(InMemory::new()));
    let at = |name: &str| Path::from(format!("documents/{name}"));
    store.put(&at("a"), "mine".into()).await.unwrap();
    store.put(&at("a"), "mine".into()).await.unwrap();
    assert_eq!(plan.overwritten(), 0);
    store.put(&at("a"), "other".into()).await.unwrap();
    assert_eq!(plan.overwritten(), 1);
    for (fault, there) in [(Fault::Lost, false), (Fault::Unanswered, true)] {
        plan.arm(Step::DocumentPut, fault, 1);
        let name = at(&format!("{fault:?}"));
        assert!(store.put(&name, "mine".into()).await.is_err());
        assert_eq!(plan.disarm(), 1);
        assert_eq!(store.head(&name).await.is_ok(), there, "{fault:?}");
    }
}
