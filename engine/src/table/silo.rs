//! Silos: where data lives.

use std::sync::Arc;

use catalog::ids::SiloId;
use object_store::ObjectStore;

use super::{Error, Root};

/// One place where data lives: its id and the store rooted at its root.
#[derive(Debug, Clone)]
pub struct Silo {
    id: SiloId,
    store: Arc<dyn ObjectStore>,
}

impl Silo {
    /// Opens the silo at this root.
    pub fn open(id: SiloId, root: &Root) -> Result<Self, Error> {
        Ok(Self::over(id, root.open()?))
    }

    /// A silo over a store that is open already, rooted at the silo's root.
    pub fn over(id: SiloId, store: Arc<dyn ObjectStore>) -> Self {
        Self { id, store }
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
