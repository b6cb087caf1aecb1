//! An export from a server that listens, into a folder that then proves itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use engine::export::verify_bundle;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::client::{Client, Error};
use super::{Wanted, body, download, watch};
use crate::cli::ingest;
use crate::cli::serve::Server;
use crate::service::Surroundings;
use crate::world::{World, record};

struct Running {
    world: World,
    client: Client,
    serving: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A server with this many records.
async fn running(records: usize) -> Running {
    let settings = "exports.chunk_mib = 1\nexports.beat_ms = 20";
    let world = World::of(settings, Surroundings::default()).await;
    let server = Server::bind(Arc::clone(&world.service)).await.unwrap();
    let url = format!("http://{}", server.addresses().unwrap()[0].http);
    let serving = tokio::spawn(async move { drop(server.run(std::future::pending()).await) });
    let target = ingest::Target {
        url: &url,
        tenant: "acme",
        token: &world.writer(),
        stream: None,
    };
    for n in 0..records {
        let sent = ingest::records(&target, [record(&format!("n-{n}"))]).await;
        assert_eq!(sent.unwrap().accepted, 1);
    }
    let token = world.token("acme", &["Export.Operator"], &[]);
    Running {
        client: Client::at(&url, "acme", token),
        world,
        serving,
    }
}

fn wanted(filters: &[&str]) -> Wanted {
    Wanted {
        stream: "audit.default".to_owned(),
        from: Some("2026-01-01T00:00:00Z".to_owned()),
        to: Some("2026-02-01T00:00:00Z".to_owned()),
        filter: filters.iter().map(ToString::to_string).collect(),
        format: "parquet".to_owned(),
        purpose: Some("case 17".to_owned()),
    }
}

async fn finished(client: &Client) -> Value {
    let body = body(&wanted(&["action=Order.Placed", "action=Order.Paid"])).unwrap();
    let job = client.create(&body).await.unwrap();
    watch::until_ended(client, job).await.unwrap()
}

fn read(folder: &Path, job: &Value) -> Vec<(String, Vec<u8>)> {
    let files = job["files"].as_array().unwrap();
    let path = |file: &Value| file["path"].as_str().unwrap().to_owned();
    files
        .iter()
        .map(|file| (path(file), fs::read(folder.join(path(file))).unwrap()))
        .collect()
}

#[tokio::test]
async fn what_is_downloaded_verifies_with_the_tenants_keys_alone() {
    let running = running(3).await;
    let client = &running.client;
    let job = finished(client).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("one/bundle");
    let (files, bytes) = download::all(client, &job, &target, false).await.unwrap();
    let read = read(&target, &job);
    assert_eq!(files, read.len());
    assert_eq!(
        bytes,
        read.iter()
            .map(|(_, bytes)| bytes.len() as u64)
            .sum::<u64>()
    );
    let tenant = catalog::ids::TenantId::parse("acme").unwrap();
    let (keys, silo) = (&running.world.service.keys, &running.world.silo);
    let keys = keys.public_keys(&tenant, silo).await.unwrap();
    let report = verify_bundle(&target, &keys).unwrap();
    assert_eq!(report.findings, Vec::<String>::new());
    assert_eq!(report.rows, 3);
    // What is there is somebody's.
    let again = download::all(client, &job, &target, false).await;
    assert!(matches!(again, Err(Error::Occupied(_))), "{again:?}");
    let id = job["exportId"].as_str().unwrap();
    assert_eq!(client.verify(id).await.unwrap()["ok"], true);
    let all = client.all().await.unwrap();
    assert_eq!(all["exports"][0]["exportId"], id);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let running = running(2).await;
    let client = &running.client;
    let job = finished(client).await;
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("bundle");
    download::all(client, &job, &target, false).await.unwrap();
    let whole = read(&target, &job);
    let cut = |path: &str, part: &[u8]| {
        let file = target.join(path);
        fs::remove_file(&file).unwrap();
        fs::write(target.join(format!("{path}.part")), part).unwrap();
    };
    let bytes_of = |path: &str| {
        let (_, bytes) = whole.iter().find(|(known, _)| known == path).unwrap();
        bytes.as_slice()
    };
    let rows = "part-00000.parquet";
    cut(rows, &bytes_of(rows)[..100]);
    // All of it but its name, nothing, too much, and a file that was changed on the disk.
    cut("manifest.json", bytes_of("manifest.json"));
    cut("manifest.sig", b"");
    cut(
        "dictionary.json",
        &[bytes_of("dictionary.json"), b"x"].concat(),
    );
    fs::write(target.join("README-verify.md"), "changed").unwrap();
    download::all(client, &job, &target, true).await.unwrap();
    assert_eq!(read(&target, &job), whole);
    let left = fs::read_dir(&target).unwrap();
    let left = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().ends_with(".part")
    });
    assert_eq!(left.count(), 0);
    // What is not a beginning of the file is found out at its end, and gone then.
    cut(rows, b"not what it begins with");
    let damaged = download::all(client, &job, &target, true).await;
    assert!(matches!(damaged, Err(Error::Damaged(_))), "{damaged:?}");
    assert!(!target.join(rows).exists() && !target.join(format!("{rows}.part")).exists());
    download::all(client, &job, &target, true).await.unwrap();
    assert_eq!(read(&target, &job), whole);
}

#[tokio::test]
async fn what_is_not_finished_is_neither_waited_for_in_vain_nor_fetched() {
    let running = running(1).await;
    let client = &running.client;
    let folder = tempfile::tempdir().unwrap();
    let job = json!({ "exportId": "exp-1", "state": "running", "files": [] });
    let nothing = download::all(client, &job, folder.path(), false).await;
    assert!(matches!(nothing, Err(Error::NotThere(state)) if state == "running"));
    for (state, error) in [
        ("cancelled", Value::Null),
        (
            "failed",
            json!({ "slug": "payload-too-large", "detail": "too much" }),
        ),
    ] {
        let job = json!({ "exportId": "exp-1", "state": state, "error": error });
        let ended = watch::until_ended(client, job).await;
        assert!(matches!(ended, Err(Error::Ended { .. })), "{ended:?}");
    }
    let refused = client.job("exp-01KDVDN0000000000000000001").await;
    assert!(matches!(refused, Err(Error::Refused { status: 404, .. })));
    let refused = client.create(&json!({})).await;
    assert!(matches!(refused, Err(Error::Refused { status: 400, .. })));
    let nobody = Client::at("http://127.0.0.1:1", "acme", "x".to_owned());
    assert!(matches!(nobody.all().await, Err(Error::Unreachable(_))));
}

#[test]
fn filters_are_pairs_and_values_of_one_field_go_together() {
    let asked = body(&wanted(&["action=a", "labels.x=y=z", "action=b"])).unwrap();
    let filters = json!({ "action": ["a", "b"], "labels.x": ["y=z"] });
    assert_eq!(asked["filters"], filters);
    assert_eq!(asked["purpose"], "case 17");
    let open = Wanted {
        from: None,
        to: None,
        purpose: None,
        ..wanted(&[])
    };
    let asked = body(&open).unwrap();
    assert_eq!(
        (&asked["timeRange"], &asked["filters"]),
        (&json!({}), &json!({}))
    );
    assert!(asked.get("purpose").is_none());
    assert!(matches!(body(&wanted(&["action"])), Err(Error::Filter(_))));
}
