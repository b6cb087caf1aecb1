//! Memory for bodies on their way in: what is buffered of all of them together is bounded, and each takes room for what
//! it has sent and not for what it announced, so that a slow sender keeps out nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What all bodies of one listener may fill.
const ROOM_UNITS: usize = 2_048;
/// Room is given out in pieces of this many bytes.
const UNIT_BYTES: usize = 128 << 10;
/// How long a body waits for room before its sender is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// There was no room for a body in all the time it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many bodies are arriving; try again with the same keys")]
pub(crate) struct NoRoom;

/// The room of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// What one body has of it.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    held: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(ROOM_UNITS)))
    }

    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share {
            room: self.clone(),
            held: None,
        }
    }
}

impl Share {
    /// Makes room for this many bytes in all; gives back what is not needed.
    pub(crate) async fn cover(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let units = bytes.div_ceil(UNIT_BYTES).min(ROOM_UNITS);
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        if units < held {
            drop(
                self.held
                    .as_mut()
                    .and_then(|held_now| held_now.split(held - units)),
            );
        }
        let missing = u32::try_from(units.saturating_sub(held)).unwrap_or(u32::MAX);
        if missing == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.room.0).acquire_many_owned(missing);
        match tokio::time::timeout(WAIT_MAX, more).await {
            Ok(Ok(more)) => {
                match &mut self.held {
                    Some(held) => held.merge(more),
                    None => self.held = Some(more),
                }
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(NoRoom),
        }
    }
}

#[cfg(test)]
impl Room {
    /// Bytes that nobody holds.
    pub(crate) fn free(&self) -> usize {
        self.0.available_permits() * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_body_holds_what_it_buffers_and_the_last_one_waits() {
        let room = Room::new();
        let (mut one, mut other) = (room.share(), room.share());
        one.cover(1).await.unwrap();
        assert_eq!(room.0.available_permits(), ROOM_UNITS - 1);
        one.cover((ROOM_UNITS - 1) * UNIT_BYTES).await.unwrap();
        other.cover(UNIT_BYTES).await.unwrap();
        assert!(other.cover(2 * UNIT_BYTES).now_or_never().is_none());
        one.cover(0).await.unwrap();
        other.cover(2 * UNIT_BYTES).await.unwrap();
        drop(other);
        // More than there is at all is all there is.
        one.cover(usize::MAX).await.unwrap();
        drop(one);
        assert_eq!(room.0.available_permits(), ROOM_UNITS);
    }
}
