//! Where modules are evaluated: on threads of their own, a few at a time, and fewer for any one tenant.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::ids::TenantId;

use super::{Obligations, Refusal, Rego, failed, thread};

/// Evaluations at a time.
const SLOTS: usize = 8;
/// Those of them that one tenant can have.
const SLOTS_OF_TENANT: usize = 2;
/// How long a request waits for its turn and its answer together.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Asks modules. What is not answered in time is refused, and keeps its slot for as long as it goes on.
#[derive(Debug)]
pub(crate) struct Judge {
    slots: Arc<Semaphore>,
    /// For each tenant that has asked; there are as many as tenants with a module.
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

impl Judge {
    pub(crate) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(SLOTS)),
            tenants: Mutex::default(),
        }
    }

    /// The module's answer.
    pub(crate) async fn ask(
        &self,
        tenant: &TenantId,
        rego: &Arc<Rego>,
        input: serde_json::Value,
    ) -> Result<Obligations, Refusal> {
        let answered = async {
            let slots = self.slots_for(tenant).await?;
            let (answer, answered) = oneshot::channel();
            let rego = Arc::clone(rego);
            let run = move || {
                let asked = catch_unwind(AssertUnwindSafe(|| rego.ask(&input)));
                drop(slots);
                // Nobody may be waiting any more.
                let _ = answer.send(asked.unwrap_or_else(|_| Err(failed("a panic"))));
            };
            thread().spawn(run).map_err(|_| Refusal::Busy)?;
            answered.await.map_err(|_| Refusal::Fails)?
        };
        timeout(WAIT_MAX, answered)
            .await
            .unwrap_or(Err(Refusal::Busy))
    }

    async fn slots_for(&self, tenant: &TenantId) -> Result<[OwnedSemaphorePermit; 2], Refusal> {
        let own = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            let own = tenants.entry(tenant.clone());
            Arc::clone(own.or_insert_with(|| Arc::new(Semaphore::new(SLOTS_OF_TENANT))))
        };
        let own = own.acquire_owned().await.map_err(|_| Refusal::Busy)?;
        let any = Arc::clone(&self.slots).acquire_owned().await;
        Ok([own, any.map_err(|_| Refusal::Busy)?])
    }
}
