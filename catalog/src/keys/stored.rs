//! A random secret that lies in a document, wrapped by the KMS: made once, by whoever is first.
//!
//! The document is JSON: `{"master_key_id": "kms://…", "wrapped": "<base64>"}`.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{KeyError, KeyId, KeyPurpose, Kms, SecretKey, WrapAad};
use crate::clock::Random;
use crate::documents::{DocumentError, Documents};
use crate::ids::{SiloId, TenantId};

const ROOT_KEYS: &str = "root-keys";
const ROOT_CONTROL: &str = "control";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    master_key_id: KeyId,
    #[serde(with = "super::envelope::base64_bytes")]
    wrapped: Vec<u8>,
}

/// The place of a secret, and what it is bound to.
pub(crate) struct StoredSecret<'a> {
    pub(crate) kms: &'a dyn Kms,
    pub(crate) documents: &'a Documents,
    pub(crate) kind: &'a str,
    pub(crate) id: &'a str,
    pub(crate) aad: &'a [u8],
}

/// The KMS key that wraps a secret which is yet to be made.
pub(crate) enum MasterKey<'a> {
    /// This one.
    Known(&'a KeyId),
    /// A new one in this silo.
    New(&'a SiloId),
}

impl StoredSecret<'_> {
    /// The secret; the first caller of all processes makes it.
    pub(crate) async fn load_or_make(
        &self,
        master: MasterKey<'_>,
        random: &dyn Random,
    ) -> Result<SecretKey, KeyError> {
        if let Some(secret) = self.load().await? {
            return Ok(secret);
        }
        let master_key_id = match master {
            MasterKey::Known(id) => id.clone(),
            MasterKey::New(silo) => self.kms.create(silo).await?,
        };
        let secret = SecretKey::random(random);
        let wrapped = self.kms.wrap(&master_key_id, self.aad, &secret).await?;
        let document = json(&Stored {
            master_key_id,
            wrapped,
        })?;
        match self.documents.put(self.kind, self.id, 1, document).await {
            Ok(()) => Ok(secret),
            Err(DocumentError::VersionTaken) => self.load().await?.ok_or(KeyError::Unknown),
            Err(error) => Err(error.into()),
        }
    }

    async fn load(&self) -> Result<Option<SecretKey>, KeyError> {
        let Some((_, bytes)) = self.documents.latest(self.kind, self.id).await? else {
            return Ok(None);
        };
        let stored: Stored = parse(&bytes)?;
        let secret = self
            .kms
            .unwrap(&stored.master_key_id, self.aad, &stored.wrapped)
            .await?;
        Ok(Some(secret))
    }
}

/// The key that seals a silo's own documents (its registry), made on first start under a KMS key of its own.
///
/// It lies in `root-keys/control` of these documents, wrapped with AAD = `_system`, silo, `control`,
/// `root-keys/control`, each length-prefixed (u32 LE). The caller holds it while the process lives.
pub async fn root_secret(
    kms: &dyn Kms,
    documents: &Documents,
    silo: &SiloId,
    random: &dyn Random,
) -> Result<SecretKey, KeyError> {
    let aad = WrapAad {
        tenant: &TenantId::system(),
        silo,
        purpose: KeyPurpose::Control,
    }
    .labelled("root-keys/control");
    let stored = StoredSecret {
        kms,
        documents,
        kind: ROOT_KEYS,
        id: ROOT_CONTROL,
        aad: &aad,
    };
    stored.load_or_make(MasterKey::New(silo), random).await
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, KeyError> {
    serde_json::from_slice(bytes).map_err(|_| KeyError::Malformed)
}

pub(crate) fn json<T: Serialize>(document: &T) -> Result<Bytes, KeyError> {
    serde_json::to_vec(document)
        .map(Bytes::from)
        .map_err(|_| KeyError::Malformed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use object_store::path::Path;

    use super::*;
    use crate::clock::SystemRandom;
    use crate::keys::LocalKms;

    #[tokio::test]
    async fn the_root_secret_is_one_for_all_processes_and_for_its_silo_only() {
        let folder = tempfile::tempdir().unwrap();
        let kms = LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
        let store = Arc::new(InMemory::new());
        let documents = || Documents::new(Arc::clone(&store) as _, Path::from("control"));
        let silo = SiloId::parse("local").unwrap();
        let (one, two) = (documents(), documents());
        let (a, b) = futures::join!(
            root_secret(&kms, &one, &silo, &SystemRandom),
            root_secret(&kms, &two, &silo, &SystemRandom),
        );
        assert_eq!(a.unwrap(), b.unwrap());
        let other = SiloId::parse("eu").unwrap();
        let elsewhere = root_secret(&kms, &documents(), &other, &SystemRandom).await;
        assert!(matches!(elsewhere, Err(KeyError::Unauthentic(_))));
    }
}
