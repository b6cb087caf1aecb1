//! The key service goes away: writes go on, reads fail closed, and when it is back everything is there.

use std::sync::Arc;
use std::time::Duration;

use catalog::clock::{ManualClock, SystemRandom, Timestamp};
use catalog::keys::{KEY_LIFETIME_MAX, LocalKms};
use serde_json::json;
use tests::ledger::{CANARY, Ledger};
use tests::outage::Outage;
use tests::{Around, Setup, World, files, record};

use super::NIGHTLY;

const SETUP: Setup = Setup {
    node: "one",
    wal: "flush_age_ms = 30",
    more: "",
};
const ALL: u64 = 1_000;
const KEYS: &str = "https://trailhouse.dev/problems/key-unavailable";
const SQL: &str = "SELECT count(*) FROM audit.records";

struct Scene {
    world: World,
    outage: Arc<Outage>,
    clock: Arc<ManualClock>,
    acme: Ledger,
    /// Its keys are always answered for.
    globex: Ledger,
}

impl Scene {
    async fn start(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let kms = LocalKms::open(&keys, Arc::new(SystemRandom)).unwrap();
        let outage = Arc::new(Outage::of(kms, seed));
        let now = Timestamp::parse_rfc3339("2026-11-22T10:00:00Z").unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let around = Around {
            clock: Some(Arc::clone(&clock)),
            kms: Some(Arc::clone(&outage) as _),
            ..Around::default()
        };
        let world = World::restart_around(folder, SETUP, around).await;
        world.tenant("globex", "us").await;
        let mut globex = Ledger::of("globex", "us");
        globex.send(&world, 1, 1).await;
        globex.check(&world).await;
        outage.spare_used();
        world.tenant("acme", "eu").await;
        Self {
            world,
            outage,
            clock,
            acme: Ledger::of("acme", "eu"),
            globex,
        }
    }

    /// Everything that was learnt of keys before is too old to be used for reading.
    fn wait_out_caches(&self) {
        self.clock
            .advance(KEY_LIFETIME_MAX + Duration::from_secs(1));
    }

    /// How a write of acme is refused.
    async fn refused(&self) -> (u16, String) {
        let token = self.world.token("acme", &[], &["audit.write"]);
        let body = record("acme", "refused", json!({})).to_string();
        let path = "/v1/audit/records";
        let (status, answer) = self.world.post("eu", &token, path, body).await;
        (
            status,
            answer["type"].as_str().unwrap_or_default().to_owned(),
        )
    }

    async fn read(&self) -> Result<(), String> {
        let role = "Audit.Investigator";
        let rows = self.world.query("acme", "eu", role, SQL).await;
        rows.map(drop)
    }

    fn assert_nothing_in_clear(&self) {
        for path in files(self.world.folder()) {
            let content = std::fs::read(&path).unwrap_or_default();
            let canary = CANARY.as_bytes();
            let found = content.windows(canary.len()).any(|part| part == canary);
            assert!(!found, "a value lies in clear in {}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the counts of the run")]
async fn writes_outlive_an_outage_of_the_key_service_and_reads_wait_for_its_end() {
    let mut scene = Scene::start(1).await;
    scene.acme.send(&scene.world, 5, 5).await;
    scene.acme.check(&scene.world).await;
    assert_eq!(scene.acme.refused, 0);

    scene.outage.silence(ALL);
    scene.wait_out_caches();
    scene.acme.send(&scene.world, 10, 10).await;
    assert_eq!(scene.acme.refused, 0, "writes stopped with the key service");
    let refused = scene.read().await.unwrap_err();
    assert!(refused.contains("key-unavailable"), "{refused}");
    scene.assert_nothing_in_clear();

    scene.outage.silence(0);
    scene.wait_out_caches();
    scene.acme.check(&scene.world).await;
    scene.acme.repeat(&scene.world).await;
    println!(
        "outage: {} records acknowledged, {} questions unanswered, all records there after it",
        scene.acme.acknowledged(),
        scene.outage.unanswered()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_an_outage_takes_nothing_and_loses_nothing() {
    let mut scene = Scene::start(2).await;
    scene.acme.send(&scene.world, 5, 5).await;
    scene.outage.silence(ALL);
    scene.wait_out_caches();
    // These are in the log alone.
    scene.acme.send(&scene.world, 3, 3).await;
    let before = scene.acme.acknowledged();
    assert_eq!((before, scene.acme.refused), (16, 0));

    scene.world = scene.world.crash_and_restart().await;
    scene.acme.send(&scene.world, 2, 2).await;
    assert_eq!(
        scene.acme.acknowledged(),
        before,
        "acknowledged without a key"
    );
    assert!(scene.acme.refused > 0);
    assert_eq!(scene.refused().await, (503, KEYS.to_owned()));
    assert!(scene.read().await.is_err(), "read without a key");
    scene.globex.send(&scene.world, 3, 3).await;
    assert_eq!(scene.globex.refused, 0, "another tenant's keys are there");
    scene.globex.check(&scene.world).await;
    let (status, ready) = scene.world.ready("eu").await;
    assert_eq!(status, 200, "{ready}");
    let waiting = &ready["tablesWaiting"]["the tenant's keys are not available"];
    assert!(waiting.as_u64().is_some_and(|tables| tables > 0), "{ready}");
    scene.assert_nothing_in_clear();

    scene.outage.silence(0);
    scene.acme.settle(&scene.world).await;
    scene.acme.check(&scene.world).await;
    scene.acme.repeat(&scene.world).await;
    scene.globex.repeat(&scene.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_without_any_key_and_has_everything_once_they_are_back() {
    let mut scene = Scene::start(3).await;
    scene.acme.send(&scene.world, 4, 4).await;
    scene.outage.spare_none();
    scene.outage.silence(ALL);
    scene.wait_out_caches();
    // These are in the log alone.
    scene.acme.send(&scene.world, 2, 3).await;
    scene.globex.send(&scene.world, 2, 3).await;
    assert_eq!((scene.acme.refused, scene.globex.refused), (0, 0));

    for _ in 0..2 {
        scene.world = scene.world.crash_and_restart().await;
        let (status, ready) = scene.world.ready("eu").await;
        let said = ready["status"].as_str();
        assert_eq!(
            (status, said),
            (503, Some("the key service does not answer"))
        );
        assert_eq!(scene.refused().await, (503, KEYS.to_owned()));
        let refused = scene.read().await.unwrap_err();
        assert!(refused.contains("key-unavailable"), "{refused}");
        scene.assert_nothing_in_clear();
    }

    scene.outage.silence(0);
    scene.acme.check(&scene.world).await;
    scene.globex.check(&scene.world).await;
    let (status, ready) = scene.world.ready("eu").await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")));
    scene.acme.send(&scene.world, 2, 2).await;
    assert_eq!(scene.acme.refused, 0);
    scene.acme.check(&scene.world).await;
    scene.acme.repeat(&scene.world).await;
    scene.globex.repeat(&scene.world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the counts of the run")]
async fn an_unreliable_key_service_delays_and_loses_nothing() {
    let seed = u64::from_be_bytes(catalog::clock::array(&SystemRandom));
    println!("unreliable key service: seed {seed}");
    let mut scene = Scene::start(seed).await;
    scene.outage.silence(300);
    for round in 0..10 * NIGHTLY {
        scene.acme.send(&scene.world, 3, 3).await;
        let _ = scene.read().await;
        scene.clock.advance(Duration::from_mins(2));
        if round % 5 == 4 {
            scene.world = scene.world.crash_and_restart().await;
        }
    }
    scene.outage.silence(0);
    scene.acme.settle(&scene.world).await;
    scene.acme.check(&scene.world).await;
    println!(
        "seed {seed}: {} records acknowledged, {} answers refused, {} questions unanswered",
        scene.acme.acknowledged(),
        scene.acme.refused,
        scene.outage.unanswered()
    );
}
