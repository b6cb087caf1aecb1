//! The connections of a listener as they come: so many at the most, and with TLS agreed on where TLS is spoken.

mod serving;
mod tls;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

pub(crate) use serving::{Protocol, serve};
pub use tls::Error as TlsError;
pub(crate) use tls::Tls;

/// What the connections of a listener may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// So many at the same time; the next one waits for one to end.
    pub(crate) connections_max: usize,
    /// How long it may take to agree on TLS. Whoever has not yet is in nobody's way but takes a place.
    pub(crate) agree_wait_max: Duration,
    /// How long it may take the first request, and the headers of any, to arrive.
    pub(crate) headers_wait_max: Duration,
    /// How long a connection may be without a request under way.
    pub(crate) idle_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            agree_wait_max: Duration::from_secs(5),
            headers_wait_max: Duration::from_secs(30),
            idle_max: Duration::from_mins(10),
        }
    }
}

/// How long nobody is let in after the system had no more room for a connection.
const REST: Duration = Duration::from_millis(200);

/// One connection. Its turn ends with it.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    _turn: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Hands on connections until `stopped` says so, or nobody takes them any more.
fn connections(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(accept(listener, tls, stopped, bounds, sender));
    receiver
}

/// Resolves when it is over.
async fn told(mut stopped: watch::Receiver<bool>) {
    // An error says that the sender is gone: then it is over as well.
    drop(stopped.wait_for(|stop| *stop).await);
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    stopped: watch::Receiver<bool>,
    bounds: Bounds,
    sender: mpsc::Sender<Connection>,
) {
    let room = Arc::new(Semaphore::new(bounds.connections_max));
    let mut agreeing = JoinSet::new();
    loop {
        let (stream, turn) = tokio::select! {
            () = told(stopped.clone()) => break,
            () = sender.closed() => break,
            next = next(&listener, &room) => next,
        };
        while agreeing.try_join_next().is_some() {}
        let tls = tls.clone();
        let (sender, wait) = (sender.clone(), bounds.agree_wait_max);
        // Beside the others: a client that takes its time holds up nobody while there is room.
        agreeing.spawn(async move {
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => {
                    let agreed = tokio::time::timeout(wait, tls.acceptor().accept(stream)).await;
                    match agreed {
                        Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                        // Whoever does not speak TLS, or is not let in, is told so by TLS itself.
                        Ok(Err(_)) | Err(_) => return,
                    }
                }
            };
            // Nobody takes it: the listener has stopped.
            let _turn = turn;
            drop(sender.send(Connection { stream, _turn }).await);
        });
    }
}

async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed.
    let turn = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The rest of an answer does not wait until the client has confirmed its beginning, which clients put
                // off for some 40 ms. A socket that is gone already is noticed at its first use.
                let _ = stream.set_nodelay(true);
                return (stream, turn);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a connection was not taken"
                );
                tokio::time::sleep(REST).await;
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
