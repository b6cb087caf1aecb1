//! The seals of a log where they are stored: `audit/log/<stream>/seal/<number, 20 digits>`, each written once.

use std::sync::Arc;

use bytes::Bytes;
use catalog::ids::{SiloId, StreamName, TenantId};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::published::log_folder;
use super::{Error, Tables, log};

/// The folder of seals below their log.
const FOLDER: &str = "seal";
/// What a seal has at most, in bytes.
const BYTES_MAX: u64 = 16 << 10;

/// The seals of one log.
#[derive(Debug)]
pub(crate) struct Seals {
    store: Arc<dyn ObjectStore>,
    log: Path,
}

impl Tables {
    pub(crate) fn seals(
        &self,
        (tenant, silo): (&TenantId, &SiloId),
        stream: &StreamName,
    ) -> Result<Seals, Error> {
        Ok(Seals {
            store: self.store(silo)?,
            log: log_folder(tenant, stream),
        })
    }
}

impl Seals {
    /// The number of a seal by its path below the log, if it is the one spelling of one.
    pub(crate) fn number(path: &str) -> Option<u64> {
        let number = path.strip_prefix(FOLDER)?.strip_prefix('/')?.parse().ok()?;
        (Self::path(number) == path).then_some(number)
    }

    /// The path of a seal below the log.
    pub(crate) fn path(number: u64) -> String {
        format!("{FOLDER}/{number:020}")
    }

    /// How many there are from this number on, none of which is missing.
    pub(crate) async fn count_from(&self, number: u64) -> Result<u64, Error> {
        let folder = self.log.clone().join(FOLDER);
        let mut listed = match number.checked_sub(1) {
            None => self.store.list(Some(&folder)),
            Some(before) => self
                .store
                .list_with_offset(Some(&folder), &self.place(before)),
        };
        let (mut count, mut end) = (0, number);
        while let Some(object) = listed.try_next().await.map_err(log::unavailable)? {
            let name = object.location.filename().unwrap_or_default();
            if let Some(found) = Self::number(&format!("{FOLDER}/{name}")) {
                count += 1;
                end = end.max(found.saturating_add(1));
            }
        }
        if end - number == count {
            Ok(count)
        } else {
            Err(Error::Tampered {
                what: "a seal is missing",
            })
        }
    }

    /// A seal as it stands there, if it does.
    pub(crate) async fn read(&self, number: u64) -> Result<Option<Bytes>, Error> {
        match self.store.get(&self.place(number)).await {
            Ok(found) if found.meta.size > BYTES_MAX => Err(Error::Tampered {
                what: "a seal is larger than any",
            }),
            Ok(found) => Ok(Some(found.bytes().await.map_err(log::unavailable)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(log::unavailable(error)),
        }
    }

    /// Stores a seal, unless there is one of its number.
    pub(crate) async fn create(&self, number: u64, seal: Vec<u8>) -> Result<bool, Error> {
        let (path, payload) = (self.place(number), PutPayload::from(seal));
        #[expect(
            clippy::disallowed_methods,
            reason = "engine::table stores what engine::proof seals"
        )]
        let put = self.store.put_opts(&path, payload, PutMode::Create.into());
        match put.await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(log::unavailable(error)),
        }
    }

    fn place(&self, number: u64) -> Path {
        self.log.clone().join(FOLDER).join(format!("{number:020}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_has_one_path() {
        let path = Seals::path(12);
        assert_eq!(path, "seal/00000000000000000012");
        assert_eq!(Seals::number(&path), Some(12));
        for other in [
            "seal/12",
            "seal/",
            "seal/0000000000000000001x",
            "seal/+0000000000000000012",
            "tile/0/000",
        ] {
            assert_eq!(Seals::number(other), None, "{other}");
        }
    }
}
