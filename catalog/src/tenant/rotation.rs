//! New versions of a tenant's keys. The older ones stay for reading; nothing is encrypted anew, and nothing stops.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::registry::covers;
use super::{Error, Registry, TenantRecord};
use crate::clock::Timestamp;
use crate::guard::{Permit, TenantAdmin};
use crate::ids::TenantId;
use crate::keys::TenantKeys;

/// One of a tenant's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantKey {
    /// Wraps the epoch keys of records and quarantine.
    Data,
    /// Wraps the epoch keys of evidence.
    Evidence,
    /// Wraps the tenant's secrets: those that are there stay under the version that wrapped them.
    Control,
    /// Signs policies, checkpoints and the keys of processes.
    Signing,
}

impl TenantKey {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Data, Self::Evidence, Self::Control, Self::Signing];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Evidence => "evidence",
            Self::Control => "control",
            Self::Signing => "signing",
        }
    }

    /// The key of this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|key| key.as_str() == word)
    }

    /// The newest version of it.
    #[must_use]
    pub fn of(self, keys: &TenantKeys) -> String {
        match self {
            Self::Data => keys.data.to_string(),
            Self::Evidence => keys.evidence.to_string(),
            Self::Control => keys.control.to_string(),
            Self::Signing => keys.signing.to_string(),
        }
    }
}

impl fmt::Display for TenantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TenantRecord {
    /// Since when the newest version of a key is in use.
    #[must_use]
    pub fn key_since(&self, key: TenantKey) -> Timestamp {
        self.keys_since
            .get(&key)
            .copied()
            .unwrap_or(self.created_at)
    }
}

impl Registry {
    /// Makes the next version of a key and puts it to use: what is written from now on is written with it, in other
    /// processes when they next look at the tenant. A new signing key is introduced by a statement of the old one first.
    /// Gives the names of both.
    ///
    /// # Errors
    /// When key service or documents do not do their part, or another rotation came in between: the key in use is then
    /// still the old one, or the other's.
    pub async fn rotate_key(
        &self,
        permit: &Permit<TenantAdmin>,
        id: &TenantId,
        key: TenantKey,
    ) -> Result<(String, String), Error> {
        covers(permit, id)?;
        let record = self.fresh(id).await?.ok_or(Error::Unknown)?;
        let old = record.keys.clone();
        let mut new = old.clone();
        let kms = self.ring.kms();
        match key {
            TenantKey::Data => new.data = kms.rotate(&old.data).await?,
            TenantKey::Evidence => new.evidence = kms.rotate(&old.evidence).await?,
            TenantKey::Control => new.control = kms.rotate(&old.control).await?,
            TenantKey::Signing => {
                new.signing = kms.rotate_signing(&old.signing).await?;
                let place = (&record.id, &record.silo);
                self.ring
                    .introduce(place, &old.signing, &new.signing)
                    .await?;
            }
        }
        let now = self.clock.now();
        self.change(id, |record| {
            if record.keys != old {
                return Err(Error::Changed);
            }
            record.keys = new.clone();
            record.keys_since.insert(key, now);
            Ok(())
        })
        .await?;
        Ok((key.of(&old), key.of(&new)))
    }
}
