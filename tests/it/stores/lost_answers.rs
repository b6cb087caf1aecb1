//! A put that got through, and whose answer was lost: the store's client tries again and is told that the name is
//! taken. Who wrote it must learn that it is his.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use catalog::documents::{DocumentError, Documents};
use engine::table::AppendOutcome;
use http::{Method, StatusCode, header};
use object_store::path::Path;
use tests::emulators::{Emulator, Kind};
use tokio::net::TcpListener;

use super::commits::{self, Machine};
use super::{cache, open};

const BODY_BYTES_MAX: usize = 16 << 20;

/// Passes requests on to a store, and answers the first put of each name with 503 after the store has done it.
#[derive(Clone)]
struct Forgetful {
    store: String,
    client: reqwest::Client,
    seen: Arc<Mutex<HashSet<String>>>,
}

async fn pass(State(proxy): State<Forgetful>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().unwrap().to_string();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.unwrap();
    let mut headers = parts.headers;
    headers.remove(header::HOST);
    let request = proxy
        .client
        .request(parts.method.clone(), format!("{}{target}", proxy.store))
        .headers(headers)
        .body(body);
    let answer = request.send().await.unwrap();
    if parts.method == Method::PUT && proxy.seen.lock().unwrap().insert(target) {
        assert!(answer.status().is_success(), "{answer:?}");
        return status(StatusCode::SERVICE_UNAVAILABLE);
    }
    let mut passed = status(answer.status());
    *passed.headers_mut() = answer.headers().clone();
    passed.headers_mut().remove(header::TRANSFER_ENCODING);
    if parts.method != Method::HEAD {
        passed.headers_mut().remove(header::CONTENT_LENGTH);
    }
    *passed.body_mut() = Body::from(answer.bytes().await.unwrap());
    passed
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The endpoint in front of this one.
async fn forgetful(store: String) -> (String, Arc<Mutex<HashSet<String>>>) {
    let proxy = Forgetful {
        store,
        client: reqwest::Client::new(),
        seen: Arc::default(),
    };
    let seen = Arc::clone(&proxy.seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(pass).with_state(proxy);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (endpoint, seen)
}

async fn ones_own_is_recognised(kind: Kind) {
    flight_server::service::install_tls_provider();
    let emulator = Emulator::start(kind, cache());
    let (root, mut settings): (_, BTreeMap<_, _>) = emulator.bucket("acme").await;
    let (proxy, seen) = forgetful(emulator.endpoint()).await;
    let endpoint = settings["endpoint"].replace(&emulator.endpoint(), &proxy);
    settings.insert("endpoint".to_owned(), endpoint);
    let store = open(&root, &settings);

    let documents = Documents::new(Arc::clone(&store), Path::from("control"));
    documents
        .put("holds", "h1", 1, "mine".into())
        .await
        .unwrap();
    let other = Documents::new(Arc::clone(&store), Path::from("control"));
    let taken = other.put("holds", "h1", 1, "another's".into()).await;
    assert!(
        matches!(taken, Err(DocumentError::VersionTaken)),
        "{taken:?}"
    );
    assert_eq!(other.versions("holds", "h1").await.unwrap(), [1]);

    let machine = Machine::new(store).await;
    let table = machine.records().await;
    for first in [0, 2] {
        let outcome = commits::append(&table, first, 2).await;
        assert!(matches!(outcome, AppendOutcome::Committed { .. }));
    }
    assert_eq!(
        commits::leaves(&*machine.records().await).await,
        [0, 1, 2, 3]
    );
    assert!(seen.lock().unwrap().len() >= 6, "no answer was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_s3() {
    ones_own_is_recognised(Kind::MiniStack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_azure() {
    ones_own_is_recognised(Kind::Azurite).await;
}
