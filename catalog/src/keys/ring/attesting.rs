//! Keys that this process signs with, one for each tenant, certified by the tenant's signing key when first needed.
//!
//! The statement is stored as the document `process-keys/<SHA-256 of the public key>` of the tenant, in the clear, before
//! anything is signed. After that the key service is asked again only when half of the key's time is over, for a new key;
//! while it does not answer the old one goes on to its end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Enrolled, KeyRing, Place, RACES_MAX};
use crate::clock::Timestamp;
use crate::documents::DocumentError;
use crate::ids::{SiloId, TenantId};
use crate::keys::attested::{KeyStatement, ProcessKey, PublicKeys};
use crate::keys::{Introduction, KeyError, SecretKey, SigningKeyId, stored};

/// How long a process key speaks for a tenant.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// After this long there is a new one.
pub(super) const RENEWED_AFTER: Duration = Duration::from_secs(6 * 3_600);
/// A key that has less time than this left is given to nobody: what it is for has to end before the key does.
const LEFT_MIN: Duration = Duration::from_secs(3_600);
const PROCESS_KEYS: &str = "process-keys";
/// Statements of signing keys about the next ones, in the clear.
const INTRODUCTIONS: &str = "signing-keys";

impl KeyRing {
    /// The key that this process signs with for a tenant.
    ///
    /// # Errors
    /// When there is none that holds for another hour, and none can be certified.
    pub async fn process_key(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
    ) -> Result<Arc<ProcessKey>, KeyError> {
        let place = Place::new(tenant, silo);
        if let Some(key) = self.process_keys.get(&place) {
            return Ok(key);
        }
        let _alone = self.lane(&(PROCESS_KEYS, &place)).lock().await;
        if let Some(key) = self.process_keys.get(&place) {
            return Ok(key);
        }
        let certified = async {
            let asked = self.clock.now();
            let key = Arc::new(self.certified(&place, asked).await?);
            let kept = Arc::clone(&key);
            self.process_keys.insert(place.clone(), asked, kept);
            Ok(key)
        };
        let key = self.renewed_keys.get(&place, certified).await?;
        if key.statement().holds_at(self.clock.now().plus(LEFT_MIN)) {
            Ok(key)
        } else {
            Err(KeyError::unavailable(
                "the process key is about to end, and was not renewed",
            ))
        }
    }

    /// What says whose process key it is that goes by this name, if one of the tenant's does.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn process_key_statement(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        name: &str,
    ) -> Result<Option<KeyStatement>, KeyError> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if name.len() != 64 || !name.bytes().all(is_digit) {
            return Ok(None);
        }
        let Enrolled { documents, .. } = self.enrolled(&Place::new(tenant, silo))?;
        let document = documents.get(PROCESS_KEYS, name, 1).await?;
        let document = document.as_ref();
        document.map(|document| stored::parse(document)).transpose()
    }

    /// Signs a message with the tenant's signing key itself, and says which version of it and its public half. It asks the
    /// key service each time.
    ///
    /// # Errors
    /// When the key service does not sign.
    pub async fn sign(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        message: &[u8],
    ) -> Result<(SigningKeyId, [u8; 32], [u8; 64]), KeyError> {
        let Enrolled { keys, .. } = self.enrolled(&Place::new(tenant, silo))?;
        let signature = self.kms.sign(&keys.signing, message).await?;
        let key = self.public_key(&keys.signing).await?;
        Ok((keys.signing.clone(), *key, signature))
    }

    /// The public halves of all versions of a tenant's signing key.
    ///
    /// # Errors
    /// When the key service does not give them.
    pub async fn public_keys(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
    ) -> Result<PublicKeys, KeyError> {
        let newest = self
            .enrolled(&Place::new(tenant, silo))?
            .keys
            .signing
            .clone();
        let introductions = self.introductions(&Place::new(tenant, silo)).await?;
        let mut keys = BTreeMap::new();
        for version in 1..=newest.version() {
            let id = SigningKeyId::new(newest.silo(), newest.opaque(), version);
            // A version that a rotation made and never came to introduce has signed nothing, and never will.
            let is_in_use = version == 1 || introductions.iter().any(|about| about.is_of(&id));
            if !is_in_use && id != newest {
                continue;
            }
            let key = self.public_key(&id).await?;
            keys.insert(id, *key);
        }
        Ok(PublicKeys::new(tenant, keys).introduced(introductions))
    }

    /// Has the old signing key of a tenant say that the new one is the tenant's, and keeps what it says.
    pub(crate) async fn introduce(
        &self,
        (tenant, silo): (&TenantId, &SiloId),
        old: &SigningKeyId,
        new: &SigningKeyId,
    ) -> Result<(), KeyError> {
        let Enrolled { documents, .. } = self.enrolled(&Place::new(tenant, silo))?;
        let public = self.kms.public_key(new).await?;
        let now = self.clock.now();
        let statement = Introduction::unsigned((tenant, silo), (new, &public), old, now);
        let signature = self.kms.sign(old, &statement.message()).await?;
        let document = stored::json(&statement.signed(signature))?;
        for _ in 0..RACES_MAX {
            let newest = documents.latest(INTRODUCTIONS, new.opaque()).await?;
            let next = newest.map_or(1, |(version, _)| version + 1);
            let put = documents.put(INTRODUCTIONS, new.opaque(), next, document.clone());
            match put.await {
                Err(DocumentError::VersionTaken) => {}
                done => return Ok(done?),
            }
        }
        Err(KeyError::unavailable(DocumentError::VersionTaken))
    }

    async fn introductions(&self, place: &Place) -> Result<Vec<Introduction>, KeyError> {
        let Enrolled { documents, keys } = self.enrolled(place)?;
        if keys.signing.version() == 1 {
            return Ok(Vec::new());
        }
        let id = keys.signing.opaque();
        let mut introductions = Vec::new();
        for version in documents.versions(INTRODUCTIONS, id).await? {
            let document = documents.get(INTRODUCTIONS, id, version).await?;
            let document = document.ok_or(KeyError::Malformed)?;
            introductions.push(stored::parse(&document)?);
        }
        Ok(introductions)
    }

    async fn public_key(&self, id: &SigningKeyId) -> Result<Arc<[u8; 32]>, KeyError> {
        if let Some(key) = self.signing_publics.get(id) {
            return Ok(key);
        }
        let asked = self.clock.now();
        let key = Arc::new(self.kms.public_key(id).await?);
        self.signing_publics
            .insert(id.clone(), asked, Arc::clone(&key));
        Ok(key)
    }

    async fn certified(&self, place: &Place, now: Timestamp) -> Result<ProcessKey, KeyError> {
        let Enrolled { documents, keys } = self.enrolled(place)?;
        let pair = ProcessKey::pair(&SecretKey::random(&*self.random));
        let lasts = (now, now.plus(LIFETIME));
        let about = (&place.tenant, &place.silo);
        let statement = KeyStatement::unsigned(about, &pair, lasts, &keys.signing);
        let signature = self.kms.sign(&keys.signing, &statement.message()).await?;
        let key = ProcessKey::new(pair, statement.signed(signature));
        let document = stored::json(key.statement())?;
        documents.put(PROCESS_KEYS, key.name(), 1, document).await?;
        Ok(key)
    }
}
