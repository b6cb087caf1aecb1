//! A store that dies at once while it is written to, and comes back over what it had: what it acknowledged is there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::documents::Documents;
use object_store::path::Path;
use tests::emulators::{Emulator, Kind};

use super::{cache, open};

const ROUNDS: u64 = 3;
const WRITERS: u64 = 8;
/// How many documents a round has before the store dies.
const ENOUGH: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "nightly"]
#[expect(clippy::print_stdout, reason = "a long run tells its counts")]
async fn nightly_a_killed_store_keeps_what_it_acknowledged() {
    let mut emulator = Emulator::start(Kind::SeaweedFs, cache());
    flight_server::service::install_tls_provider();
    let (bucket, settings) = emulator.bucket("acme").await;
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        let store = open(&bucket, &settings);
        let documents = Arc::new(Documents::new(Arc::clone(&store), Path::from("control")));
        let (acknowledge, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (documents, acknowledge) = (Arc::clone(&documents), acknowledge.clone());
                tokio::spawn(async move {
                    for n in 0_u64.. {
                        let id = format!("r{round}-w{writer}-{n}");
                        let bytes = Bytes::from(format!("{id} ").repeat(100));
                        match documents.put("crash", &id, 1, bytes.clone()).await {
                            Ok(()) => acknowledge.send((id, bytes)).unwrap(),
                            Err(_) => return,
                        }
                    }
                })
            })
            .collect();
        drop(acknowledge);
        let before = all.len();
        while all.len() < before + ENOUGH {
            all.push(acknowledged.recv().await.expect("writers that go on"));
        }
        emulator.kill();
        for writer in writers {
            writer.abort();
            drop(writer.await);
        }
        while let Some(one) = acknowledged.recv().await {
            all.push(one);
        }
        assert!(emulator.resume(), "it does not start again");
        let store = open(&bucket, &settings);
        let documents = Documents::new(store, Path::from("control"));
        for (id, bytes) in &all {
            let there = read(&documents, id).await;
            assert_eq!(there.as_ref(), Some(bytes), "{id}");
        }
        println!(
            "round {}: killed, {} acknowledged documents are all there",
            round + 1,
            all.len()
        );
    }
}

/// A store that comes back listens before it can serve everything.
async fn read(documents: &Documents, id: &str) -> Option<Bytes> {
    for _ in 0..120 {
        match documents.get("crash", id, 1).await {
            Ok(found) => return found,
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
    None
}
