//! Tries out, before anything is served, whether a store does what everything else relies on.
//!
//! A put-if-absent of a key that is there must fail and change nothing: it is what makes one of two writers of a log
//! entry lose. What was written is read and listed at once. There are stores that say yes to everything.

use std::time::Duration;

use bytes::Bytes;
use catalog::clock::{Random, array};
use futures::{TryStreamExt, future};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::StoreFault;

/// Where the objects of a trial lie, each under a name of its own.
const FOLDER: &str = "_probe";
/// For all of it. A store that takes longer serves nobody.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Why a store is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Two writers would both win.
    #[error(
        "the store lets a second put-if-absent (`If-None-Match: *`) of one key succeed: acknowledged data would be \
         overwritten, so this store cannot be used"
    )]
    NotExclusive,
    /// A read does not give what was written.
    #[error("the store does not give back what was just written")]
    NotRead,
    /// A list does not name what was written.
    #[error("the store does not list what was just written")]
    NotListed,
    /// No bucket, no container.
    #[error("the bucket or container does not exist")]
    NoContainer,
    /// No answer.
    #[error("the store did not answer in {} s", TIME_MAX.as_secs())]
    Silent,
    /// A step that failed.
    #[error("{step} failed")]
    Failed {
        /// Which one.
        step: &'static str,
        /// What the store says.
        #[source]
        source: StoreFault,
    },
}

/// Tries a store out, and leaves nothing behind.
///
/// # Errors
/// When the store cannot be used, with the reason.
pub async fn probe(store: &dyn ObjectStore, random: &dyn Random) -> Result<(), ProbeError> {
    let name: [u8; 16] = array(random);
    let path = Path::from(FOLDER).join(uuid::Uuid::from_bytes(name).simple().to_string());
    let attempt = tokio::time::timeout(TIME_MAX, attempt(store, &path)).await;
    #[expect(
        clippy::disallowed_methods,
        reason = "only this trial wrote the object, and nothing refers to it"
    )]
    let removed = tokio::time::timeout(TIME_MAX, store.delete(&path)).await;
    attempt.unwrap_or(Err(ProbeError::Silent))?;
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(
            error = &StoreFault::from_store(&error) as &dyn std::error::Error,
            "an object of the store's trial cannot be removed"
        ),
        Err(_) => tracing::warn!("an object of the store's trial cannot be removed"),
    }
    Ok(())
}

async fn attempt(store: &dyn ObjectStore, path: &Path) -> Result<(), ProbeError> {
    use object_store::Error as E;
    let first = Bytes::from_static(b"first");
    match put(store, path, &first).await {
        // The client tries again by itself, and then meets what its first try wrote.
        Ok(()) | Err(E::AlreadyExists { .. } | E::Precondition { .. }) => {}
        Err(E::NotFound { .. }) => return Err(ProbeError::NoContainer),
        Err(error) => return Err(failed("writing", &error)),
    }
    match put(store, path, &Bytes::from_static(b"second")).await {
        Ok(()) => return Err(ProbeError::NotExclusive),
        Err(E::AlreadyExists { .. } | E::Precondition { .. }) => {}
        Err(error) => return Err(failed("a second put-if-absent", &error)),
    }
    let found = match store.get(path).await {
        Ok(found) => found.bytes().await,
        Err(E::NotFound { .. }) => return Err(ProbeError::NotRead),
        Err(error) => Err(error),
    };
    let found = found.map_err(|error| failed("reading", &error))?;
    if found == b"second"[..] {
        return Err(ProbeError::NotExclusive);
    }
    if found != first {
        return Err(ProbeError::NotRead);
    }
    let mut listed = store
        .list(Some(&Path::from(FOLDER)))
        .try_filter(|object| future::ready(object.location == *path));
    match listed.try_next().await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(ProbeError::NotListed),
        Err(error) => Err(failed("listing", &error)),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the trial of a store, in a folder of its own"
)]
async fn put(store: &dyn ObjectStore, path: &Path, bytes: &Bytes) -> object_store::Result<()> {
    let payload = PutPayload::from_bytes(bytes.clone());
    let put = store.put_opts(path, payload, PutMode::Create.into()).await;
    put.map(drop)
}

fn failed(step: &'static str, error: &object_store::Error) -> ProbeError {
    ProbeError::Failed {
        step,
        source: StoreFault::from_store(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use catalog::clock::SystemRandom;
    use object_store::memory::InMemory;

    use super::*;
    use crate::table::FsyncStore;

    #[tokio::test]
    async fn stores_of_this_machine_pass_and_are_left_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let stores: [Arc<dyn ObjectStore>; 2] = [
            Arc::new(InMemory::new()),
            Arc::new(FsyncStore::open(folder.path()).unwrap()),
        ];
        for store in stores {
            for _ in 0..2 {
                probe(&*store, &SystemRandom).await.unwrap();
            }
            let left: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
