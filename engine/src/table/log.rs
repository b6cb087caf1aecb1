//! The Delta log of one table as a numbered list of entries, each written once.
//!
//! The **digest** of a log up to an entry is SHA-256(the digest up to the one before ‖ SHA-256 of the entry's bytes), and 32
//! zero bytes before the first.
//!
//! Reading follows the numbers (`version + 1` until there is none), so its cost is that of the new entries. Listing
//! happens once, when a table is opened.

use std::sync::Arc;

use bytes::Bytes;
use deltalake_core::kernel::Action;
use deltalake_core::logstore::{commit_uri_from_version, get_actions};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use sha2::{Digest as _, Sha256};

use super::{Error, StoreFault};

/// Entries read at once when a table is opened.
const READ_AHEAD: usize = 32;
/// An entry names the files of one commit: some hundred bytes for each of them and for what they are counted by.
const ENTRY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Digits of an entry's name.
const DIGITS: usize = 20;

/// The log of one table.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    store: Arc<dyn ObjectStore>,
}

/// An entry that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) actions: Vec<Action>,
    sha256: [u8; 32],
}

impl Read {
    /// The digest of the log up to and with this entry.
    pub(crate) fn digest(&self, before: &[u8; 32]) -> [u8; 32] {
        Sha256::new()
            .chain_update(before)
            .chain_update(self.sha256)
            .finalize()
            .into()
    }
}

/// What became of an entry that was to be written.
#[derive(Debug)]
pub(crate) enum Written {
    /// The entry is there, and durable.
    Created,
    /// The number is taken: by another writer, or by this entry on an earlier try.
    Taken,
    /// Nobody knows: the store answered with an error.
    Unknown(StoreFault),
}

impl Log {
    /// The log of the table rooted at `root`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self {
            store: Arc::new(PrefixStore::new(store, root)),
        }
    }

    /// The store rooted at the table's root.
    pub(crate) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// How many entries there are, by the highest number. A list is no snapshot: entries that were made while it was taken
    /// may be missing from it, newer ones in it, so that what is missing is only known when it is read.
    pub(crate) async fn length(&self) -> Result<u64, Error> {
        let listed = self.store.list(Some(&Path::from("_delta_log")));
        let lengths = listed.try_fold(0, |length, entry| async move {
            let version = entry.location.filename().and_then(version_of);
            let next = version.and_then(|version| version.checked_add(1));
            Ok(next.map_or(length, |next| length.max(next)))
        });
        lengths.await.map_err(unavailable)
    }

    /// The entries from 0 up to `length`, in order, several read at once. They are numbered without holes: a log that lost
    /// one is refused.
    pub(crate) fn first(
        &self,
        length: u64,
    ) -> impl stream::Stream<Item = Result<Read, Error>> + Send + '_ {
        stream::iter(0..length)
            .map(move |version| async move {
                self.read(version).await?.ok_or(Error::Tampered {
                    what: "the log has a hole",
                })
            })
            .buffered(READ_AHEAD)
    }

    /// An entry, `None` when there is none of this number.
    pub(crate) async fn read(&self, version: u64) -> Result<Option<Read>, Error> {
        let bytes = match self
            .store
            .get(&commit_uri_from_version(Some(version)))
            .await
        {
            Ok(found) if found.meta.size > ENTRY_BYTES_MAX => {
                return Err(Error::Tampered {
                    what: "a log entry is larger than any that is written",
                });
            }
            Ok(found) => found.bytes().await.map_err(unavailable)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let actions = get_actions(version, &bytes).map_err(|_| Error::Tampered {
            what: "a log entry is malformed",
        })?;
        Ok(Some(Read {
            actions,
            sha256: Sha256::digest(&bytes).into(),
        }))
    }

    /// Whether there is an entry of this number.
    pub(crate) async fn has(&self, version: u64) -> Result<bool, Error> {
        let path = commit_uri_from_version(Some(version));
        match self.store.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Writes an entry if its number is free. This is the one linearization point of a table.
    pub(crate) async fn create(&self, version: u64, entry: &Bytes) -> Written {
        let payload = PutPayload::from_bytes(entry.clone());
        let path = commit_uri_from_version(Some(version));
        #[expect(
            clippy::disallowed_methods,
            reason = "the commit point of engine::table"
        )]
        let put = self
            .store
            .put_opts(&path, payload, PutMode::Create.into())
            .await;
        match put {
            Ok(_) => Written::Created,
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Written::Taken,
            Err(error) => Written::Unknown(StoreFault::from_store(&error)),
        }
    }
}

/// One entry: an action a line.
pub(crate) fn encode(actions: &[Action]) -> Result<Bytes, Error> {
    let mut entry = Vec::new();
    for action in actions {
        serde_json::to_writer(&mut entry, action).map_err(|_| Error::Malformed {
            what: "a log entry cannot be written",
        })?;
        entry.push(b'\n');
    }
    Ok(entry.into())
}

pub(crate) fn unavailable(error: object_store::Error) -> Error {
    Error::Unavailable {
        what: "the table's store failed",
        source: StoreFault::from_store(&error),
    }
}

pub(super) fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use deltalake_core::kernel::Transaction;
    use object_store::memory::InMemory;

    fn log() -> Log {
        Log::new(
            Arc::new(InMemory::new()),
            Path::from("tenants/acme/audit/records"),
        )
    }

    fn entry(version: i64) -> Bytes {
        encode(&[Action::Txn(Transaction::new("app", version))]).unwrap()
    }

    #[tokio::test]
    async fn an_entry_is_written_once_and_read_back() {
        let log = log();
        assert_eq!(log.length().await.unwrap(), 0);
        assert!(matches!(log.create(0, &entry(1)).await, Written::Created));
        assert!(matches!(log.create(0, &entry(2)).await, Written::Taken));
        assert_eq!(
            log.read(0).await.unwrap().unwrap().actions,
            [Action::Txn(Transaction::new("app", 1))]
        );
        assert!(log.read(1).await.unwrap().is_none());
        assert_eq!(log.length().await.unwrap(), 1);
        assert_eq!(log.first(1).try_collect::<Vec<_>>().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_hole_and_a_broken_entry_are_refused() {
        let log = log();
        for version in [0, 2] {
            log.create(version, &entry(0)).await;
        }
        assert_eq!(log.length().await.unwrap(), 3);
        let read: Result<Vec<_>, _> = log.first(3).try_collect().await;
        assert!(matches!(read, Err(Error::Tampered { .. })));
        log.create(1, &Bytes::from_static(b"{\"add\":")).await;
        assert!(matches!(log.read(1).await, Err(Error::Tampered { .. })));
    }

    #[test]
    fn only_entries_have_versions() {
        assert_eq!(version_of("00000000000000000012.json"), Some(12));
        for other in [
            "_last_checkpoint",
            "00000000000000000012.checkpoint.parquet",
            "12.json",
            "+0000000000000000012.json",
        ] {
            assert_eq!(version_of(other), None);
        }
    }
}
