//! Tenants: what is known of each, where it is in its life, and how one comes into being.

pub mod lifecycle;
mod record;
mod registry;
mod rotation;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::guard::{Denial, Permit, TenantAdmin};
use crate::ids::SiloId;
use crate::policy::{self, Policies};

pub use lifecycle::{Event, IllegalTransition, TenantState};
pub use record::{DISPLAY_NAME_MAX, NewTenant, PRINCIPALS_MAX, STREAMS_MAX, TenantRecord};
pub use registry::{Error, Found, RECORD_AGE_MAX, RECORD_AGE_OUTAGE_MAX, Registry};
pub use rotation::TenantKey;

/// Makes a tenant from nothing to Active: keys, record, the default policy as version 1. Every step is done once however
/// often this is called, so an interrupted onboarding is finished by calling again.
///
/// # Errors
/// What stopped it; the tenant stays in Provisioning then.
pub async fn onboard(
    registry: &Registry,
    policies: &Policies,
    permit: &Permit<TenantAdmin>,
    tenant: NewTenant,
) -> Result<Arc<TenantRecord>, OnboardError> {
    let record = registry.create(permit, tenant).await?;
    complete(registry, policies, record).await
}

/// Makes the system tenant, whose evidence stream takes what belongs to no tenant and from which operators act. Called
/// at every start, before there is anybody to ask for it.
///
/// # Errors
/// What stopped it.
pub async fn onboard_system(
    registry: &Registry,
    policies: &Policies,
    silo: &SiloId,
) -> Result<Arc<TenantRecord>, OnboardError> {
    let record = registry.make_system(silo.clone()).await?;
    complete(registry, policies, record).await
}

async fn complete(
    registry: &Registry,
    policies: &Policies,
    record: Arc<TenantRecord>,
) -> Result<Arc<TenantRecord>, OnboardError> {
    if record.state != TenantState::Provisioning {
        return Ok(record);
    }
    policies.initialise(&record).await?;
    match registry.advance(&record.id, Event::Complete).await {
        // Somebody else did the same at the same time.
        Err(Error::Illegal(illegal)) if illegal.state == TenantState::Active => {
            Ok(registry.get(&record.id).await?.unwrap_or(record))
        }
        outcome => Ok(outcome?),
    }
}

/// What stopped an onboarding.
#[derive(Debug, thiserror::Error)]
pub enum OnboardError {
    /// In the registry.
    #[error("the tenant could not be registered")]
    Registry(#[from] Error),
    /// In its policy.
    #[error("the tenant's first policy could not be applied")]
    Policy(#[from] policy::Error),
}

impl OnboardError {
    /// Whether the key service did not answer: later it may.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Registry(Error::Keys(error))
            | Self::Policy(
                policy::Error::Keys(error) | policy::Error::Tenant(Error::Keys(error)),
            ) => error.is_outage(),
            Self::Registry(_) | Self::Policy(_) => false,
        }
    }
}

impl From<&OnboardError> for Denial {
    fn from(error: &OnboardError) -> Self {
        match error {
            OnboardError::Registry(error) => error.into(),
            OnboardError::Policy(error) => error.into(),
        }
    }
}
