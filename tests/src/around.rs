//! What is around a world's server: the real things, or others in their place.

use std::sync::Arc;
use std::time::Duration;

use catalog::clock::ManualClock;
use catalog::keys::Kms;
use flight_server::config::Config;
use flight_server::service::{self, Service, Surroundings};
use flight_server::stores::Stores;
use flight_server::volume;

use crate::fault_store::Plan;

/// What is around a world's server in the place of the real thing.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// The clock.
    pub clock: Option<Arc<ManualClock>>,
    /// The key service.
    pub kms: Option<Arc<dyn Kms>>,
    /// What goes wrong with its stores.
    pub faults: Option<Arc<Plan>>,
}

impl Around {
    /// Builds a service; one that died a moment ago may not have let go of the folder yet.
    pub(crate) async fn build(&self, config: Config) -> Result<Arc<Service>, service::Error> {
        for _ in 0..100 {
            match self.build_once(config.clone()).await {
                Err(service::Error::Volume(
                    volume::Error::Log(engine::wal::Error::Locked)
                    | volume::Error::Index(engine::ingest::dedupe::Error::InUse),
                )) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                built => return built,
            }
        }
        self.build_once(config).await
    }

    async fn build_once(&self, config: Config) -> Result<Arc<Service>, service::Error> {
        let mut surroundings = Surroundings {
            kms: self.kms.clone(),
            ..Surroundings::default()
        };
        if let Some(clock) = &self.clock {
            surroundings.clock = Arc::<ManualClock>::clone(clock);
        }
        if let Some(plan) = &self.faults {
            let stores = Stores::open(&config, &*surroundings.random).await?;
            surroundings.stores = Some(stores.wrapped(|_, store| plan.around(store)));
        }
        Service::build_in(config, surroundings).await
    }
}
