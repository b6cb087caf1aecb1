//! The answers under way, so that whoever asked can end them without their streams: CancelFlightInfo.

use std::collections::HashMap;
use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::stream::{self, AbortHandle, StreamExt, abortable};
use sha2::{Digest, Sha256};
use tonic::Status;

use super::encode::FlightDataStream;
use super::statement::Principal;

/// Whose answer it is, and to which ticket.
type Name = (Principal, [u8; 32]);

/// An answer, until it is cancelled.
type Held = Arc<Mutex<Option<FlightDataStream>>>;

struct Answer {
    name: Name,
    handle: AbortHandle,
    held: Held,
}

/// All answers of one listener that are being streamed.
#[derive(Default)]
pub(crate) struct Running {
    answers: Mutex<HashMap<u64, Answer>>,
    next: AtomicU64,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Running {
    /// The same stream, which can be cancelled as long as somebody holds it. One that is cancelled ends with an error.
    pub(crate) fn watched(
        self: &Arc<Self>,
        principal: &Principal,
        ticket: &[u8],
        answer: FlightDataStream,
    ) -> FlightDataStream {
        let held: Held = Arc::new(Mutex::new(Some(answer)));
        let polled = Arc::clone(&held);
        let answer = stream::poll_fn(move |context| {
            let mut answer = polled.lock().unwrap_or_else(PoisonError::into_inner);
            match answer.as_mut() {
                Some(answer) => answer.poll_next_unpin(context),
                None => Poll::Ready(None),
            }
        });
        let (answer, handle) = abortable(answer);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let name = (principal.clone(), digest(ticket));
        let listed = Answer {
            name,
            handle: handle.clone(),
            held,
        };
        self.answers().insert(id, listed);
        let listed = Listed {
            running: Arc::clone(self),
            id,
        };
        let end = stream::once(async move {
            let cancelled = || Err(Status::cancelled("the caller has cancelled this query"));
            handle.is_aborted().then(cancelled)
        });
        answer
            .chain(end.filter_map(ready))
            .inspect(move |_| {
                let _held = &listed;
            })
            .boxed()
    }

    /// Cancels the answers to this ticket of this principal; says whether there was one.
    pub(crate) fn cancel(&self, principal: &Principal, ticket: &[u8]) -> bool {
        let name = (principal.clone(), digest(ticket));
        let mut dropped = Vec::new();
        for answer in self.answers().values().filter(|answer| answer.name == name) {
            answer.handle.abort();
            // Nobody may be reading: then nobody polls, and what feeds the answer would go on.
            let mut held = answer.held.lock().unwrap_or_else(PoisonError::into_inner);
            dropped.push(held.take());
        }
        !dropped.is_empty()
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<u64, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an answer listed until its stream is dropped.
struct Listed {
    running: Arc<Running>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.answers().remove(&self.id);
    }
}

fn digest(ticket: &[u8]) -> [u8; 32] {
    Sha256::digest(ticket).into()
}

#[cfg(test)]
mod tests {
    use arrow_flight::FlightData;
    use catalog::ids::TenantId;

    use super::*;

    fn principal(subject: &str) -> Principal {
        Principal {
            tenant: TenantId::parse("acme").unwrap(),
            subject: subject.to_owned(),
        }
    }

    #[tokio::test]
    async fn an_answer_is_cancelled_by_its_owner_while_it_lasts() {
        let running = Arc::new(Running::default());
        let alice = principal("alice");
        let endless = || stream::repeat_with(|| Ok(FlightData::default())).boxed();
        let mut answer = running.watched(&alice, b"ticket", endless());
        let mut other = running.watched(&alice, b"another ticket", endless());
        assert!(answer.next().await.unwrap().is_ok());
        assert!(!running.cancel(&principal("mallory"), b"ticket"));
        assert!(answer.next().await.unwrap().is_ok());
        assert!(running.cancel(&alice, b"ticket"));
        let end = answer.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), tonic::Code::Cancelled);
        assert!(answer.next().await.is_none());
        assert!(other.next().await.unwrap().is_ok(), "the other goes on");
        drop((answer, other));
        assert!(!running.cancel(&alice, b"ticket"), "nothing runs");
        assert!(running.answers().is_empty());
    }

    #[tokio::test]
    async fn what_feeds_a_cancelled_answer_ends_though_nobody_reads_it() {
        let running = Arc::new(Running::default());
        let (held, ended) = futures::channel::oneshot::channel::<()>();
        let endless = stream::repeat_with(move || {
            assert!(!held.is_canceled());
            Ok(FlightData::default())
        });
        let mut answer = running.watched(&principal("alice"), b"ticket", endless.boxed());
        assert!(answer.next().await.unwrap().is_ok());
        assert!(running.cancel(&principal("alice"), b"ticket"));
        assert!(ended.await.is_err(), "dropped before it is asked again");
        assert!(answer.next().await.unwrap().is_err());
    }

    #[tokio::test]
    async fn an_answer_that_was_not_cancelled_ends_as_it_is() {
        let running = Arc::new(Running::default());
        let one = stream::iter([Ok(FlightData::default())]).boxed();
        let answer = running.watched(&principal("alice"), b"ticket", one);
        assert_eq!(answer.collect::<Vec<_>>().await.len(), 1);
    }
}
