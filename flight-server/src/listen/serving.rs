//! HTTP, and gRPC with it, over the connections of one listener: none goes on without asking for anything.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use tower::{ServiceExt, service_fn};

use super::{Bounds, Connection, Tls, told};
use crate::limits::HEADERS_BYTES_MAX;

/// Requests of one connection at the same time.
const REQUESTS_AT_ONCE_MAX: u32 = 256;

/// Which versions of HTTP are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// 1.1 and 2.
    Http,
    /// 2 alone.
    Grpc,
}

/// Serves until `stopped` says so, and then until every request that is under way has its answer.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    (router, protocol): (Router, Protocol),
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let mut incoming = super::connections(listener, tls, stopped.clone(), bounds);
    let mut connections = JoinSet::new();
    while let Some(connection) = incoming.recv().await {
        while connections.try_join_next().is_some() {}
        let served = (router.clone(), protocol);
        connections.spawn(one(connection, served, stopped.clone(), bounds));
    }
    while connections.join_next().await.is_some() {}
}

async fn one(
    connection: Connection,
    (router, protocol): (Router, Protocol),
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
) {
    let activity = Arc::new(Activity::default());
    let noted = Arc::clone(&activity);
    let service = service_fn(move |request: Request<_>| {
        let turn = Turn::new(&noted);
        let answer = router.clone().oneshot(request.map(Body::new));
        async move {
            let answer = answer.await?;
            let held = |body| Body::new(Held::new(body, turn));
            Ok::<Response, Infallible>(answer.map(held))
        }
    });
    let builder = builder(protocol, bounds);
    let service = TowerToHyperService::new(service);
    let connection = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(connection);
    let wait = bounds.headers_wait_max;
    let mut ticks = interval_at(Instant::now() + wait, wait);
    let over = told(stopped);
    tokio::pin!(over);
    let (mut serving, mut asked, mut idle) = (true, 0, 0);
    let (mut took, mut stuck) = (0, 0);
    loop {
        tokio::select! {
            // How a connection ends is its client's business.
            _ = connection.as_mut() => return,
            _ = ticks.tick() => {
                let (requests, under_way) = activity.now();
                let is_idle = under_way == 0 && requests == asked;
                // Answers that nobody takes are no reason to stay, either.
                let (untaken, taken) = activity.taken();
                let is_stuck = under_way > 0 && untaken == under_way && taken == took;
                (took, stuck) = (taken, if is_stuck { stuck + 1 } else { 0 });
                if wait * stuck >= bounds.idle_max {
                    return;
                }
                // Before the first request it is not even known which version of the protocol is spoken.
                if requests == 0 || (is_idle && !serving) {
                    return;
                }
                (asked, idle) = (requests, if is_idle { idle + 1 } else { 0 });
                if wait * idle >= bounds.idle_max {
                    connection.as_mut().graceful_shutdown();
                    serving = false;
                }
            }
            () = over.as_mut(), if serving => {
                if activity.now() == (0, 0) {
                    return;
                }
                connection.as_mut().graceful_shutdown();
                serving = false;
            }
        }
    }
}

fn builder(protocol: Protocol, bounds: Bounds) -> Builder<TokioExecutor> {
    let wait = bounds.headers_wait_max;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(HEADERS_BYTES_MAX as usize)
        .header_read_timeout(wait);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Intermediaries drop connections that are silent for a minute.
        .keep_alive_interval(wait)
        .max_concurrent_streams(REQUESTS_AT_ONCE_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    match protocol {
        Protocol::Http => builder,
        Protocol::Grpc => builder.http2_only(),
    }
}

/// What is asked over one connection.
#[derive(Debug, Default)]
struct Activity {
    requests: AtomicU64,
    under_way: AtomicUsize,
    /// Answers whose next part nobody has asked for yet.
    untaken: AtomicUsize,
    /// How often a part of an answer was asked for.
    taken: AtomicU64,
}

impl Activity {
    /// How many requests there were, and how many of them still have no answer or are being answered.
    fn now(&self) -> (u64, usize) {
        let requests = self.requests.load(Ordering::Acquire);
        (requests, self.under_way.load(Ordering::Acquire))
    }

    /// How many answers wait for somebody to take their next part, and how many parts have been asked for.
    fn taken(&self) -> (usize, u64) {
        let untaken = self.untaken.load(Ordering::Acquire);
        (untaken, self.taken.load(Ordering::Acquire))
    }
}

/// One request, up to the end of its answer.
#[derive(Debug)]
struct Turn(Arc<Activity>);

impl Turn {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.under_way.fetch_add(1, Ordering::AcqRel);
        activity.requests.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer. The request is under way as long as it is there.
#[derive(Debug)]
struct Held {
    body: Body,
    is_untaken: bool,
    turn: Turn,
}

impl Held {
    fn new(body: Body, turn: Turn) -> Self {
        turn.0.untaken.fetch_add(1, Ordering::AcqRel);
        Self {
            body,
            is_untaken: true,
            turn,
        }
    }

    fn set_untaken(&mut self, is_untaken: bool) {
        let untaken = &self.turn.0.untaken;
        match (self.is_untaken, is_untaken) {
            (false, true) => untaken.fetch_add(1, Ordering::AcqRel),
            (true, false) => untaken.fetch_sub(1, Ordering::AcqRel),
            _ => return,
        };
        self.is_untaken = is_untaken;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set_untaken(false);
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let own = self.get_mut();
        own.turn.0.taken.fetch_add(1, Ordering::AcqRel);
        own.set_untaken(false);
        let polled = Pin::new(&mut own.body).poll_frame(context);
        own.set_untaken(matches!(polled, Poll::Ready(Some(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let served = (router, Protocol::Http);
        tokio::spawn(serve(listener, None, served, stopped, bounds));
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

    /// A request as HTTP/2 frames: the preface, empty settings, GET / of one stream.
    const WHOLE_H2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
        \0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x";

    #[tokio::test]
    async fn a_connection_that_asks_nothing_more_is_ended() {
        let (address, _stop) = started(Bounds {
            headers_wait_max: Duration::from_millis(100),
            idle_max: Duration::from_millis(200),
            ..Bounds::default()
        })
        .await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(WHOLE_H2).await.unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        let read = String::from_utf8_lossy(&read).into_owned();
        assert!(read.contains("here"), "{read}");
    }

    #[tokio::test]
    async fn nobody_who_asks_nothing_is_waited_for_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = (Router::new(), Protocol::Grpc);
        let serving = serve(listener, None, served, stopped, Bounds::default());
        let serving = tokio::spawn(serving);
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut half = TcpStream::connect(address).await.unwrap();
        half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        // The server's own settings: it has the connection.
        half.read_u8().await.unwrap();
        stop.send_replace(true);
        let in_time = Bounds::default().headers_wait_max / 2;
        tokio::time::timeout(in_time, serving)
            .await
            .unwrap()
            .unwrap();
        drop(silent.read_u8().await);
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

    #[tokio::test]
    async fn an_answer_that_nobody_takes_does_not_hold_its_connection_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let endless = || async {
            let parts = futures::stream::repeat_with(|| {
                Ok::<_, Infallible>(Bytes::from(vec![b'x'; 65_536]))
            });
            Body::from_stream(parts)
        };
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            "there"
        };
        let router = Router::new()
            .route("/", get(endless))
            .route("/slow", get(slow));
        let bounds = Bounds {
            headers_wait_max: Duration::from_millis(100),
            idle_max: Duration::from_millis(500),
            ..Bounds::default()
        };
        tokio::spawn(serve(
            listener,
            None,
            (router, Protocol::Http),
            stopped,
            bounds,
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(WHOLE).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut read = Vec::new();
        let whole = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut read));
        // Whatever was on its way comes; then it is over, well or badly.
        assert!(whole.await.is_ok());
        // Work is not taken for that.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(answer(&mut stream).await.contains("there"));
    }
}
