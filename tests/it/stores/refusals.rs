//! The trial before anything is served: which stores pass it, which do not, and what is told of those.

use std::collections::BTreeMap;
use std::error::Error;

use catalog::clock::SystemRandom;
use engine::table::{ProbeError, probe};
use flight_server::config;
use flight_server::stores::Stores;
use futures::TryStreamExt;
use object_store::ObjectStore;
use tests::emulators::{Emulator, Kind};

use super::{Subject, cache, emulator, open};

pub(super) async fn passes_and_leaves_nothing(subject: &Subject) {
    for _ in 0..3 {
        probe(&subject.store, &SystemRandom).await.unwrap();
    }
    let left: Vec<_> = subject.store.list(None).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_overwrites_is_refused() {
    let subject = emulator(Kind::S3rver).await;
    let refused = probe(&subject.store, &SystemRandom).await;
    assert!(
        matches!(refused, Err(ProbeError::NotExclusive)),
        "{refused:?}"
    );
}

/// All that an operator sees of a refusal.
async fn told(root: &str, settings: &BTreeMap<String, String>) -> String {
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| format!("{name} = '{value}'\n"))
        .collect();
    let file = format!(
        "[silos.eu]\nroot = '{root}'\n[silos.eu.store]\n{}",
        settings.concat()
    );
    let config = config::from_text(&file, []).unwrap();
    let error = Stores::open(&config, &SystemRandom).await.unwrap_err();
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_setting_and_tell_no_secret() {
    let emulator = Emulator::start(Kind::Azurite, cache());
    let (root, good) = emulator.bucket("acme").await;
    let with = |name: &str, value: &str| {
        let mut settings = good.clone();
        settings.insert(name.to_owned(), value.to_owned());
        settings
    };
    let wrong_key = with("account_key", "bm90LXRoZS1rZXk=");
    assert_eq!(
        told(&root, &wrong_key).await,
        "`silos.eu.root` cannot be used: writing failed: access refused"
    );
    assert_eq!(
        told("az://missing", &good).await,
        "`silos.eu.root` cannot be used: the bucket or container does not exist"
    );
    let nobody = with("endpoint", "http://127.0.0.1:1/devstoreaccount1");
    assert_eq!(
        told(&root, &nobody).await,
        "`silos.eu.root` cannot be used: writing failed: the store cannot be reached: connection refused"
    );
    let store = open(&root, &good);
    probe(&store, &SystemRandom).await.unwrap();
    assert!(store.list(None).try_next().await.unwrap().is_none());
}
