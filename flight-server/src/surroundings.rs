//! What a service finds around it: given by tests, the system's otherwise.

use std::sync::Arc;

use catalog::clock::{Clock, Random, SystemClock, SystemRandom};
use catalog::keys::Kms;

use crate::stores::Stores;

/// What a service finds around it.
#[derive(Debug)]
pub struct Surroundings {
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub random: Arc<dyn Random>,
    /// The key service; the local one of the configuration if there is none.
    pub kms: Option<Arc<dyn Kms>>,
    /// The stores; those of the configuration if there are none.
    pub stores: Option<Stores>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            kms: None,
            stores: None,
        }
    }
}
