//! HTTP over the connections of one listener: none goes on without asking for anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::limits::HEADERS_BYTES_MAX;
use crate::listen::{self, Bounds, Connection, Tls, told};

/// Serves until `stopped` says so, and then until every request that is under way has its answer.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let mut incoming = listen::connections(listener, tls, stopped.clone(), bounds);
    let mut connections = JoinSet::new();
    while let Some(connection) = incoming.recv().await {
        while connections.try_join_next().is_some() {}
        let wait = bounds.headers_wait_max;
        connections.spawn(one(connection, router.clone(), stopped.clone(), wait));
    }
    while connections.join_next().await.is_some() {}
}

async fn one(
    connection: Connection,
    router: Router,
    stopped: watch::Receiver<bool>,
    wait: Duration,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&asked);
    let router = router.map_request(move |request: Request<_>| {
        noted.store(true, Ordering::Relaxed);
        request.map(Body::new)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(wait);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(wait)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(connection);
    // Before the first request it is not even known which version of the protocol is spoken.
    let first = tokio::time::sleep(wait);
    tokio::pin!(first);
    let over = told(stopped);
    tokio::pin!(over);
    let (mut waiting, mut serving) = (true, true);
    loop {
        tokio::select! {
            // How a connection ends is its client's business.
            _ = connection.as_mut() => return,
            () = first.as_mut(), if waiting => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
            () = over.as_mut(), if serving => {
                connection.as_mut().graceful_shutdown();
                serving = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    const WHOLE: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn started(bounds: Bounds) -> (std::net::SocketAddr, watch::Sender<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let router = Router::new().route("/", get(|| async { "here" }));
        tokio::spawn(serve(listener, None, router, stopped, bounds));
        (address, stop)
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut read = vec![0; 1_024];
        let length = stream.read(&mut read).await.unwrap();
        String::from_utf8_lossy(&read[..length]).into_owned()
    }

    #[tokio::test]
    async fn a_connection_that_does_not_ask_is_closed_however_little_it_sends() {
        let (address, _stop) = started(Bounds {
            headers_wait_max: Duration::from_millis(200),
            ..Bounds::default()
        })
        .await;
        for sent in [
            b"".as_slice(),
            b"P",
            b"PRI * HTTP/2.0\r\n\r\nS",
            b"GET / HTTP/1.1\r\nhost: x\r\nx-slow",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            // It ends, with or without a word of why.
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
            let rest = String::from_utf8_lossy(&rest).into_owned();
            assert!(!rest.contains("here"), "{rest}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(WHOLE).await.unwrap();
        assert!(answer(&mut stream).await.contains("200 OK"));
        // Nor may it go to sleep between two requests for ever.
        assert_eq!(answer(&mut stream).await, "");
    }

    #[tokio::test]
    async fn beyond_the_most_a_connection_waits_for_another_to_end() {
        let (address, _stop) = started(Bounds {
            connections_max: 2,
            ..Bounds::default()
        })
        .await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(WHOLE).await.unwrap();
            assert!(answer(&mut stream).await.contains("200 OK"));
            held.push(stream);
        }
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(WHOLE).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), answer(&mut third)).await;
        assert!(early.is_err(), "served beyond the most: {early:?}");
        drop(held.pop());
        assert!(answer(&mut third).await.contains("200 OK"));
    }
}
