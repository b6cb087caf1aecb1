//! The stores of a process: one for each silo, and that of the control documents; opened, tried out, handed out.

use std::collections::BTreeMap;
use std::sync::Arc;

use catalog::clock::Random;
use catalog::ids::SiloId;
use engine::table::{self, ProbeError, Root, Silo, probe};
use object_store::ObjectStore;

use crate::config::Config;

/// Why a store is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not open.
    #[error("`{setting}` cannot be opened")]
    Open {
        /// The setting that names it.
        setting: String,
        /// Why.
        source: table::Error,
    },
    /// It does not do what is needed of it.
    #[error("`{setting}` cannot be used")]
    Unfit {
        /// The setting that names it.
        setting: String,
        /// Why.
        source: ProbeError,
    },
    /// A configuration without a silo.
    #[error("no silo is configured")]
    NoSilo,
}

/// The stores of a process.
#[derive(Debug)]
pub struct Stores {
    silos: Vec<Silo>,
    control: Arc<dyn ObjectStore>,
}

impl Stores {
    /// Opens every configured store and tries it out.
    ///
    /// # Errors
    /// When one does not open or does not do what is needed; the setting that names it is told.
    pub async fn open(config: &Config, random: &dyn Random) -> Result<Self, Error> {
        let mut silos = Vec::new();
        for silo in &config.silos {
            let setting = format!("silos.{}.root", silo.id);
            let store = open(setting, &silo.root, random).await?;
            silos.push(Silo::over(silo.id.clone(), store));
        }
        // The same store object where the roots are the same: one door to one place.
        let existing = silos
            .iter()
            .zip(&config.silos)
            .find(|(_, configured)| configured.root.is(&config.control_root))
            .map(|(silo, _)| silo.store());
        let control = match existing {
            Some(store) => store,
            None => open("control.root".to_owned(), &config.control_root, random).await?,
        };
        Ok(Self { silos, control })
    }

    /// The same with something around each store: what a test needs that makes stores fail. The silo is `None` for a
    /// store that holds only control documents.
    #[must_use]
    pub fn wrapped(
        self,
        wrap: impl Fn(Option<&SiloId>, Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Self {
        let mut control = None;
        let around = |silo: Silo| {
            let store = wrap(Some(silo.id()), silo.store());
            if Arc::ptr_eq(&silo.store(), &self.control) {
                control = Some(Arc::clone(&store));
            }
            Silo::over(silo.id().clone(), store)
        };
        let silos = self.silos.into_iter().map(around).collect();
        Self {
            silos,
            control: control.unwrap_or_else(|| wrap(None, self.control)),
        }
    }

    pub(crate) fn home(&self) -> Result<&SiloId, Error> {
        self.silos.first().map(Silo::id).ok_or(Error::NoSilo)
    }

    pub(crate) fn control(&self) -> &Arc<dyn ObjectStore> {
        &self.control
    }

    pub(crate) fn by_silo(&self) -> BTreeMap<SiloId, Arc<dyn ObjectStore>> {
        let pair = |silo: &Silo| (silo.id().clone(), silo.store());
        self.silos.iter().map(pair).collect()
    }

    pub(crate) fn silos(&self) -> impl Iterator<Item = Silo> {
        self.silos.iter().cloned()
    }
}

async fn open(
    setting: String,
    root: &Root,
    random: &dyn Random,
) -> Result<Arc<dyn ObjectStore>, Error> {
    if root.is_volatile() {
        tracing::warn!(
            setting,
            "this store is memory: all of it is gone when this process ends"
        );
    }
    let store = match root.open() {
        Ok(store) => store,
        Err(source) => return Err(Error::Open { setting, source }),
    };
    match probe(&*store, random).await {
        Ok(()) => Ok(store),
        Err(source) => Err(Error::Unfit { setting, source }),
    }
}
