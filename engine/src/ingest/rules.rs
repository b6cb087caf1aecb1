//! What turns a record of one policy into a stored one: the policy's redactor and the tenant's secrets, kept ready.
//!
//! The secrets are asked for with every request, which the key ring answers from its cache; it goes on doing so while the
//! KMS is away, and stops when the KMS says that they are not to be used. So a redactor that is kept here is in use for
//! no longer than its secrets.

use std::fmt;
use std::sync::Arc;

use catalog::guard::Decision;
use catalog::keys::{KeyError, KeyRing, SecretKey, TenantSecret};
use moka::sync::Cache;

use crate::record::{Redactor, Secrets};

use super::Error;

/// Policies whose rules are kept ready.
const REDACTORS_MAX: u64 = 1_024;

/// The rules of one policy.
pub(super) struct Rules {
    pub(super) redactor: Redactor,
    pub(super) payload_key: Arc<SecretKey>,
}

/// The rules of the policies in use.
pub(super) struct RuleBook {
    keys: Arc<KeyRing>,
    rules: Cache<[u8; 32], Arc<Rules>>,
}

impl RuleBook {
    pub(super) fn new(keys: Arc<KeyRing>) -> Self {
        Self {
            keys,
            rules: Cache::new(REDACTORS_MAX),
        }
    }

    /// The rules that the permit is pinned to.
    pub(super) async fn of(&self, decision: &Decision) -> Result<Arc<Rules>, Error> {
        let secret = |kind| {
            self.keys
                .writing_secret(&decision.tenant, &decision.silo, kind)
        };
        let hash = secret(TenantSecret::Hash).await.map_err(key_error)?;
        let token = secret(TenantSecret::Token).await.map_err(key_error)?;
        let payload_key = secret(TenantSecret::Payload).await.map_err(key_error)?;
        if let Some(rules) = self.rules.get(&decision.policy.digest) {
            return Ok(rules);
        }
        let secrets = Secrets {
            hash: &hash,
            token: &token,
            version: 1,
        };
        let rules = Arc::new(Rules {
            redactor: Redactor::new(&decision.policy.bundle, &secrets),
            payload_key,
        });
        self.rules
            .insert(decision.policy.digest, Arc::clone(&rules));
        Ok(rules)
    }
}

/// Says nothing of the keys.
impl fmt::Debug for RuleBook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleBook").finish_non_exhaustive()
    }
}

fn key_error(error: KeyError) -> Error {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "a tenant's secrets cannot be had"
    );
    Error::KeyUnavailable
}
