//! What a table's log says of the tree of its records, and its rows: where it says nothing the tree is made again, and
//! where the two do not fit nothing is written.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tests::ledger::Ledger;
use tests::{World, record};

const TREE: &str = "th.tree:audit.default";

fn entries(folder: &Path) -> Vec<PathBuf> {
    let log = folder.join("eu/tenants/acme/audit/records/_delta_log");
    let entries = std::fs::read_dir(log).expect("a log");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("one").path()).collect();
    paths.sort();
    paths
}

fn actions(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("an entry");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn write(path: &Path, actions: &[Value]) {
    let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
    std::fs::write(path, lines.join("\n")).expect("written");
}

/// Takes out of an entry what it says of the tree.
fn silence(path: &Path) {
    let mut all = actions(path);
    let info = all
        .iter_mut()
        .find_map(|action| action.get_mut("commitInfo"));
    let info = info.and_then(Value::as_object_mut).expect("commit info");
    info.remove(TREE).expect("a tree");
    write(path, &all);
}

async fn halted(world: &World) {
    let token = world.token("acme", &[], &["audit.write"]);
    let body = record("acme", "refused", json!({})).to_string();
    let path = "/v1/audit/records";
    let (status, answer) = world.post("eu", &token, path, body).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(
        answer["type"], "https://trailhouse.dev/problems/unavailable",
        "{answer}"
    );
    let detail = answer["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("operator"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_is_not_told_is_made_from_the_rows() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    let mut acme = Ledger::of("acme", "eu");
    for _ in 0..3 {
        acme.send(&world, 2, 3).await;
    }
    let folder = world.stop().await;
    let all = entries(folder.path());
    silence(all.last().expect("an entry"));
    let world = World::start_in(folder).await;
    acme.send(&world, 2, 3).await;
    assert_eq!(acme.refused, 0);
    acme.check(&world).await;
    acme.repeat(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_make_the_log_stop_the_writes_of_their_tenant_alone() {
    let world = World::start().await;
    for tenant in ["acme", "globex"] {
        world.tenant(tenant, "eu").await;
    }
    let (mut acme, mut globex) = (Ledger::of("acme", "eu"), Ledger::of("globex", "eu"));
    for _ in 0..3 {
        acme.send(&world, 1, 0).await;
    }
    acme.check(&world).await;
    let mut folder = world.stop().await;
    let all = entries(folder.path());
    let [.., first, second] = all.as_slice() else {
        panic!("no entries")
    };
    let whole = [
        std::fs::read(first).expect("an entry"),
        std::fs::read(second).expect("an entry"),
    ];
    let add = |actions: &[Value]| {
        let add = actions
            .iter()
            .position(|action| action.get("add").is_some());
        add.expect("a file")
    };
    let size = |actions: &[Value], by: i64| -> Vec<Value> {
        let mut actions = actions.to_vec();
        for action in &mut actions {
            if action["txn"]["appId"] == "th.log:audit.default" {
                let version = action["txn"]["version"].as_i64().expect("a size");
                action["txn"]["version"] = json!(version + by);
            }
        }
        actions
    };
    let (earlier, newest) = (actions(first), actions(second));
    let mut doubled = newest.clone();
    doubled[add(&newest)] = earlier[add(&earlier)].clone();
    for (what, changed, silent) in [
        ("one row stands for another", doubled, true),
        ("more leaves than rows", size(&newest, 1), false),
        ("fewer leaves than rows", size(&newest, -1), false),
    ] {
        write(second, &changed);
        if silent {
            silence(second);
        }
        let world = World::start_in(folder).await;
        halted(&world).await;
        let (_, ready) = world.ready("eu").await;
        let faults = ready["tablesNotWritten"].as_object().expect("faults");
        assert_eq!(faults.len(), 1, "{what}: {ready}");
        globex.send(&world, 1, 1).await;
        assert_eq!(globex.refused, 0, "{what}");
        folder = world.stop().await;
        assert_eq!(entries(folder.path()).len(), all.len(), "{what}: written");
    }
    std::fs::write(first, &whole[0]).expect("restored");
    std::fs::write(second, &whole[1]).expect("restored");
    let world = World::start_in(folder).await;
    acme.send(&world, 2, 2).await;
    assert_eq!(acme.refused, 0);
    acme.check(&world).await;
    globex.check(&world).await;
}
