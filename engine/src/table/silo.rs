//! Silos: where data lives, and what may be told when it does not answer.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use catalog::ids::SiloId;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;

use super::Error;
use super::store::FsyncStore;

/// One place where data lives: its id and the store rooted at its root.
#[derive(Debug, Clone)]
pub struct Silo {
    id: SiloId,
    store: Arc<dyn ObjectStore>,
}

impl Silo {
    /// Opens the silo whose root is `file:///…` (created when absent) or, for tests, `memory:///`.
    pub fn open(id: SiloId, root: &Url) -> Result<Self, Error> {
        let store: Arc<dyn ObjectStore> = match root.scheme() {
            "file" => {
                let path = root.to_file_path().map_err(|()| Error::Malformed {
                    what: "the silo root is no local path",
                })?;
                Arc::new(FsyncStore::open(&path)?)
            }
            "memory" => Arc::new(InMemory::new()),
            _ => {
                return Err(Error::Malformed {
                    what: "the silo root must be a file:// URL",
                });
            }
        };
        Ok(Self { id, store })
    }

    /// The silo's id.
    pub fn id(&self) -> &SiloId {
        &self.id
    }

    /// The store, rooted at the silo's root.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.store)
    }
}

/// What went wrong in the store, without the path that every `object_store` error carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StoreFault {
    class: &'static str,
    kind: Option<ErrorKind>,
}

impl StoreFault {
    fn text(self) -> String {
        match self.kind {
            Some(kind) => format!("{}: {kind}", self.class),
            None => self.class.to_owned(),
        }
    }

    pub(crate) fn of_file_system(kind: Option<ErrorKind>) -> Self {
        Self {
            class: "the file system failed",
            kind,
        }
    }

    pub(crate) fn from_store(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let class = match error {
            E::NotFound { .. } => "not found",
            E::AlreadyExists { .. } => "already there",
            E::Precondition { .. } | E::NotModified { .. } => "a condition did not hold",
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => "access refused",
            E::NotSupported { .. } | E::NotImplemented { .. } => "not supported by this store",
            _ => "the store failed",
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut kind = None;
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                kind = Some(io.kind());
            }
            cause = error.source();
        }
        Self { class, kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_no_path() {
        let error = object_store::Error::NotFound {
            path: "tenants/acme/secret".into(),
            source: io::Error::from(ErrorKind::NotFound).into(),
        };
        let text = StoreFault::from_store(&error).to_string();
        assert!(
            !text.contains("acme") && text.contains("not found"),
            "{text}"
        );
    }

    #[test]
    fn a_silo_is_a_folder_and_in_tests_memory() {
        let open = |root: &str| Silo::open(SiloId::parse("eu").unwrap(), &root.parse().unwrap());
        assert!(open("memory:///").is_ok());
        assert!(matches!(open("s3://bucket/"), Err(Error::Malformed { .. })));
        let directory = tempfile::tempdir().unwrap();
        let root = Url::from_directory_path(directory.path().join("new/silo")).unwrap();
        assert!(open(root.as_str()).is_ok());
        assert!(directory.path().join("new/silo").is_dir());
    }
}
