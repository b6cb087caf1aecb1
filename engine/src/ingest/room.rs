//! Room for records on their way: so much for all, and for no tenant more than its share, so that one that waits makes
//! only itself wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use catalog::ids::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Error;

/// Kibibytes of records that may be on their way at once; more wait.
const ALL_KIB_MAX: usize = 256 << 10;
/// Of these, what one tenant's may be.
const SHARE_KIB_MAX: usize = ALL_KIB_MAX / 2;
/// How long a request waits for room before it is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The room there is, and who has how much of it.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    /// The tenants that have something on its way. A share ends with the last request that holds it.
    shares: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// Room that was given; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    _of_all: OwnedSemaphorePermit,
    _of_share: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL_KIB_MAX)),
            shares: Mutex::default(),
        }
    }
}

impl Room {
    /// Waits for room, first within the tenant's share: whoever waits there is in nobody else's way.
    pub(super) async fn reserve(&self, tenant: &TenantId, bytes: usize) -> Result<Reserved, Error> {
        let kib = bytes / 1024 + 1;
        if kib > ALL_KIB_MAX {
            return Err(Error::PayloadTooLarge);
        }
        let share = self.share(tenant);
        let reserved = async {
            // A request of more than a share takes all of it, and is alone then.
            let of_share = acquire(share, kib.min(SHARE_KIB_MAX)).await?;
            let of_all = acquire(Arc::clone(&self.all), kib).await?;
            Ok(Reserved {
                _of_all: of_all,
                _of_share: of_share,
            })
        };
        tokio::time::timeout(WAIT_MAX, reserved)
            .await
            .map_err(|_| Error::Unavailable)?
    }

    fn share(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(tenant).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(SHARE_KIB_MAX));
        shares.insert(tenant.clone(), Arc::downgrade(&share));
        share
    }
}

async fn acquire(semaphore: Arc<Semaphore>, kib: usize) -> Result<OwnedSemaphorePermit, Error> {
    let kib = u32::try_from(kib).map_err(|_| Error::PayloadTooLarge)?;
    semaphore
        .acquire_many_owned(kib)
        .await
        .map_err(|_| Error::Unavailable)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const SHARE: usize = SHARE_KIB_MAX * 1024 - 1;

    fn tenant(name: &str) -> TenantId {
        TenantId::parse(name).unwrap()
    }

    #[tokio::test]
    async fn one_tenant_waits_for_itself_and_not_in_the_way_of_others() {
        let room = Room::default();
        let (noisy, quiet) = (tenant("noisy"), tenant("quiet"));
        let held = room.reserve(&noisy, SHARE).await.unwrap();
        let mut waiting = Box::pin(room.reserve(&noisy, 1));
        assert!(waiting.as_mut().now_or_never().is_none());
        let other = room.reserve(&quiet, SHARE).await.unwrap();
        assert!(room.reserve(&tenant("third"), 1).now_or_never().is_none());
        drop(held);
        drop(waiting.await.unwrap());
        drop(other);
        assert!(room.reserve(&tenant("third"), 1).await.is_ok());
        assert_eq!(room.shares.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn more_than_a_share_is_taken_alone_and_more_than_all_is_not() {
        let room = Room::default();
        let tenant = tenant("large");
        let large = room.reserve(&tenant, SHARE + 5_000_000).await.unwrap();
        assert!(room.reserve(&tenant, 1).now_or_never().is_none());
        drop(large);
        let all = room.reserve(&tenant, ALL_KIB_MAX * 1024).await;
        assert!(matches!(all, Err(Error::PayloadTooLarge)));
    }
}
