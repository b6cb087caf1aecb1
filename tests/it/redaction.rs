//! Values that the policy redacts are nowhere: not in the bytes on disk, and not in what all live keys decrypt.

use std::sync::Arc;

use arrow::array::RecordBatch;
use catalog::documents::{Documents, SealedDocuments};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::RootSecret;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use engine::table::{ScanRequest, TableKind};
use object_store::path::Path;
use serde_json::{Value, json};
use tests::{World, files, record, text};

/// Twenty values, each under a key that the default policy redacts, drops, hashes, masks or tokenises.
const KEYS: [&str; 20] = [
    "email",
    "emailAddress",
    "phone",
    "phoneNumber",
    "cardNumber",
    "ssn",
    "socialSecurityNumber",
    "password",
    "newPassword",
    "oldPassword",
    "passphrase",
    "secret",
    "secretString",
    "clientSecret",
    "secretAccessKey",
    "privateKey",
    "apiKey",
    "accessToken",
    "sessionToken",
    "cookie",
];

fn canaries() -> Vec<(String, String)> {
    let value = |(position, key): (usize, &&str)| {
        (
            (*key).to_owned(),
            format!("canary-{position:02}-Zq7Xv-{key}-end"),
        )
    };
    KEYS.iter().enumerate().map(value).collect()
}

/// Records with every canary: at the top of the context, deep inside, in an array, in labels; and one that conflicts.
fn records() -> Vec<Value> {
    let top: serde_json::Map<_, _> = canaries()
        .into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect();
    let labels = json!({ "email": top["email"], "secret": top["secret"], "region": "eu" });
    vec![
        record("acme", "top", json!({ "context": top })),
        record(
            "acme",
            "deep",
            json!({ "context": { "a": { "b": [1, { "c": top }] } }, "labels": labels }),
        ),
        record("acme", "conflict", json!({ "context": { "n": 1 } })),
    ]
}

async fn load(world: &World) {
    world.ingest("acme", "eu", &records()).await;
    let writer = world.token("acme", &[], &["audit.write"]);
    let top: serde_json::Map<_, _> = canaries()
        .into_iter()
        .map(|(key, value)| (key, value.into()))
        .collect();
    // These two end in quarantine.
    let conflict = record("acme", "conflict", json!({ "context": top }));
    assert_eq!(
        world
            .post("eu", &writer, "/v1/audit/records", conflict.to_string())
            .await
            .0,
        409
    );
    let foreign = record("globex", "foreign", json!({ "context": top }));
    assert_eq!(
        world
            .post("eu", &writer, "/v1/audit/records", foreign.to_string())
            .await
            .0,
        202
    );
}

/// Everything in clear that the keys of this world give access to, hidden columns included.
async fn decrypted(world: &World) -> String {
    let mut seen = String::new();
    for (tenant, silo) in [("acme", "eu"), ("_system", "eu")] {
        for kind in [
            TableKind::Records,
            TableKind::Evidence,
            TableKind::Quarantine,
        ] {
            let tenant = TenantId::from_stored(tenant).unwrap();
            let table = world
                .service
                .tables
                .table(&tenant, &SiloId::parse(silo).unwrap(), kind)
                .await
                .unwrap();
            let state = table.state().await.unwrap();
            let projection = (0..state.schema.fields().len()).collect();
            let request = ScanRequest {
                projection,
                predicate: None,
                target_partitions: 1,
            };
            let plan = table.scan(state, request).await.unwrap();
            let rows: Vec<RecordBatch> = collect(plan, Arc::new(TaskContext::default()))
                .await
                .unwrap();
            seen.push_str(&text(&rows));
        }
    }
    let service = &world.service;
    let store =
        engine::table::Silo::open(SiloId::parse("eu").unwrap(), &service.config.control_root)
            .unwrap()
            .store();
    let documents = || Documents::new(Arc::clone(&store), Path::from("control"));
    let home = SiloId::parse("eu").unwrap();
    let (kms, random) = (Arc::clone(service.keys.kms()), Arc::clone(&service.random));
    let root = RootSecret::new(kms, Arc::clone(&store), home, Arc::clone(&random));
    let sealed = SealedDocuments::new(documents(), root.get().await.unwrap(), random);
    for id in sealed.list("tenant").await.unwrap() {
        let (_, document) = sealed.latest("tenant", &id).await.unwrap().unwrap();
        seen.push_str(&String::from_utf8_lossy(&document));
    }
    assert!(
        seen.contains("Order.Placed") && seen.contains("kms://"),
        "the scan sees nothing"
    );
    seen
}

fn raw(world: &World) -> Vec<u8> {
    let content = files(world.folder())
        .into_iter()
        .map(|path| std::fs::read(path).unwrap());
    content.flatten().collect()
}

fn found(canaries: &[(String, String)], hay: &[u8]) -> Vec<String> {
    let holds = |value: &str| {
        hay.windows(value.len())
            .any(|window| window == value.as_bytes())
    };
    canaries
        .iter()
        .filter(|(_, value)| holds(value))
        .map(|(key, _)| key.clone())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redacted_values_are_neither_on_disk_nor_behind_any_key() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    load(&world).await;
    assert_eq!(
        found(&canaries(), decrypted(&world).await.as_bytes()),
        [""; 0]
    );
    assert_eq!(found(&canaries(), &raw(&world)), [""; 0]);
}

/// The same scan with redaction switched off finds all of them, so the one above can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redaction_the_same_scan_finds_them_all() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    let policy = "tenant: acme\nversion: 2\nresidency: { allowedSilos: [eu] }\nretention:\n  streams:\n    \
                  audit.default: { ttlDays: 30, graceDays: 1 }\nmaskingProfiles: { Reader: {} }\n";
    world.policy("acme", policy).await;
    load(&world).await;
    assert_eq!(
        found(&canaries(), decrypted(&world).await.as_bytes()).len(),
        KEYS.len()
    );
    assert_eq!(
        found(&canaries(), &raw(&world)),
        [""; 0],
        "stored values are sealed all the same"
    );
}
