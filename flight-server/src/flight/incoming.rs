//! The messages of a DoPut, and what becomes of those that nobody wants.
//!
//! A call that is answered while its client still writes ends under those writes. Many clients report that as an end of
//! file and never look at the answer, so that whoever was refused does not learn why. Therefore what follows a refusal is
//! read and thrown away, within bounds, before the refusal is said.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use arrow_flight::FlightData;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;

use super::limits::{UNWANTED_BYTES_MAX, UNWANTED_IDLE_MAX, UNWANTED_TIME_MAX};

/// Messages that can be read on after whoever read them has given up.
pub(crate) struct Incoming<S>(Arc<Mutex<S>>);

impl<S> Clone for Incoming<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Incoming<S>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin,
{
    pub(crate) fn new(messages: S) -> Self {
        Self(Arc::new(Mutex::new(messages)))
    }

    /// Reads what nobody wants: to its end, or until its client waits, or has sent enough.
    pub(crate) async fn throw_away(mut self) {
        let deadline = Instant::now() + UNWANTED_TIME_MAX;
        let reading = async {
            let mut bytes = 0;
            while let Ok(Some(Ok(message))) = timeout(UNWANTED_IDLE_MAX, self.next()).await {
                bytes += message.encoded_len();
                if bytes > UNWANTED_BYTES_MAX {
                    return;
                }
            }
        };
        // Too slow is as good as the end.
        let _ = timeout_at(deadline, reading).await;
    }
}

impl<S> Stream for Incoming<S>
where
    S: Stream<Item = Result<FlightData, Status>> + Unpin,
{
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let mut messages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        messages.poll_next_unpin(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn message(bytes: usize) -> Result<FlightData, Status> {
        Ok(FlightData::new().with_data_body(vec![0; bytes]))
    }

    #[tokio::test]
    async fn what_nobody_wants_is_read_to_its_end_and_no_further_than_the_bounds() {
        let mut read = Incoming::new(stream::iter((0..5).map(|_| message(1))));
        assert!(read.next().await.is_some());
        read.clone().throw_away().await;
        assert!(read.next().await.is_none(), "to its end");

        let mut endless = Incoming::new(stream::repeat_with(|| message(1 << 20)));
        endless.clone().throw_away().await;
        assert!(endless.next().await.is_some(), "by bytes");

        // One that waits for its answer gets it.
        Incoming::new(stream::pending()).throw_away().await;
    }
}
