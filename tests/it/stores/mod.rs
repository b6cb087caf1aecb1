//! What every store has to do, run against each: memory and folders, S3 and Azure as emulators, SeaweedFS by night.

mod commits;
mod crash;
mod documents;
mod lost_answers;
mod refusals;
mod server;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use engine::table::Root;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use tests::emulators::{Emulator, Kind};

/// A store to try, and what it lives on.
struct Subject {
    store: Arc<dyn ObjectStore>,
    _alive: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.store, f)
    }
}

impl Subject {
    /// A part of the store that nobody has used.
    fn part(&self, name: &str) -> Arc<dyn ObjectStore> {
        Arc::new(PrefixStore::new(Arc::clone(&self.store), name))
    }
}

/// Where emulators are installed.
fn cache() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn open(url: &str, settings: &BTreeMap<String, String>) -> Arc<dyn ObjectStore> {
    flight_server::service::install_tls_provider();
    Root::parse(url, settings, &[])
        .and_then(|root| root.open().map_err(|_| unreachable!("checked settings")))
        .unwrap()
}

async fn memory() -> Subject {
    Subject {
        store: open("memory://eu", &BTreeMap::new()),
        _alive: Box::new(()),
    }
}

async fn folder() -> Subject {
    let folder = tempfile::tempdir().unwrap();
    Subject {
        store: Root::folder(folder.path()).unwrap().open().unwrap(),
        _alive: Box::new(folder),
    }
}

async fn emulator(kind: Kind) -> Subject {
    flight_server::service::install_tls_provider();
    let emulator = Emulator::start(kind, cache());
    let (bucket, settings) = emulator.bucket("acme").await;
    Subject {
        store: open(&format!("{bucket}/audit/eu"), &settings),
        _alive: Box::new(emulator),
    }
}

async fn ministack() -> Subject {
    emulator(Kind::MiniStack).await
}

async fn azurite() -> Subject {
    emulator(Kind::Azurite).await
}

async fn seaweedfs() -> Subject {
    emulator(Kind::SeaweedFs).await
}

/// Each suite against this store.
macro_rules! suites {
    ($store:ident $(, #[$attribute:meta])?) => {
        mod $store {
            use crate::stores::{commits, documents, refusals};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            $(#[$attribute])?
            async fn documents() {
                documents::contract(&super::$store().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            $(#[$attribute])?
            async fn commits() {
                commits::contract(&super::$store().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            $(#[$attribute])?
            async fn trial() {
                refusals::passes_and_leaves_nothing(&super::$store().await).await;
            }
        }
    };
}

suites!(memory);
suites!(folder);
suites!(ministack);
suites!(azurite);

mod nightly {
    //! Too slow for every change.
    use super::seaweedfs;
    suites!(seaweedfs, #[ignore = "nightly"]);
}
