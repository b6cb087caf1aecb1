//! A random secret that lies in a document, wrapped by the KMS: made once, by whoever is first.
//!
//! The document is JSON: `{"master_key_id": "kms://…", "wrapped": "<base64>"}`.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::{KeyError, KeyId, KeyPurpose, Kms, SecretKey, WrapAad};
use crate::clock::Random;
use crate::documents::{DocumentError, Documents};
use crate::ids::{SiloId, TenantId};

const CONTROL: &str = "control";
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

/// The secret of a control root: it seals the registry, and other keys are derived from it.
///
/// It lies in `control/root-keys/control`, under a KMS key of its own, wrapped with AAD = `_system`, silo, `control`,
/// `root-keys/control`, each length-prefixed (u32 LE); made on first start. It is fetched when it is first needed and
/// then kept while the process lives. So a process can start while the key service is away: until that is back,
/// whoever needs the secret is told that the key service does not answer.
#[derive(Debug)]
pub struct RootSecret {
    kms: Arc<dyn Kms>,
    documents: Documents,
    home: SiloId,
    random: Arc<dyn Random>,
    kept: OnceCell<Arc<SecretKey>>,
}

impl RootSecret {
    /// The secret of the control root `store`, whose home silo is `home`. Nothing is fetched yet.
    pub fn new(
        kms: Arc<dyn Kms>,
        store: Arc<dyn ObjectStore>,
        home: SiloId,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            kms,
            documents: Documents::new(store, Path::from(CONTROL)),
            home,
            random,
            kept: OnceCell::new(),
        }
    }

    /// The secret.
    ///
    /// # Errors
    /// When the key service does not answer, or does not give it out.
    pub async fn get(&self) -> Result<Arc<SecretKey>, KeyError> {
        let secret = self.kept.get_or_try_init(|| self.fetch()).await?;
        Ok(Arc::clone(secret))
    }

    /// The secret, if it has been fetched.
    pub fn kept(&self) -> Option<Arc<SecretKey>> {
        self.kept.get().map(Arc::clone)
    }

    async fn fetch(&self) -> Result<Arc<SecretKey>, KeyError> {
        let aad = WrapAad {
            tenant: &TenantId::system(),
            silo: &self.home,
            purpose: KeyPurpose::Control,
        }
        .labelled("root-keys/control");
        let stored = StoredSecret {
            kms: &*self.kms,
            documents: &self.documents,
            kind: ROOT_KEYS,
            id: ROOT_CONTROL,
            aad: &aad,
        };
        let secret = stored.load_or_make(MasterKey::New(&self.home), &*self.random);
        Ok(Arc::new(secret.await?))
    }
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
    use object_store::memory::InMemory;

    use super::*;
    use crate::clock::SystemRandom;
    use crate::keys::LocalKms;

    #[tokio::test]
    async fn the_root_secret_is_one_for_all_processes_and_for_its_silo_only() {
        let folder = tempfile::tempdir().unwrap();
        let kms = LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
        let (kms, store) = (Arc::new(kms), Arc::new(InMemory::new()));
        let root = |home: &str| {
            let home = SiloId::parse(home).unwrap();
            let kms = Arc::clone(&kms) as _;
            RootSecret::new(kms, Arc::clone(&store) as _, home, Arc::new(SystemRandom))
        };
        let (one, two) = (root("local"), root("local"));
        assert_eq!(one.kept(), None);
        let (a, b) = futures::join!(one.get(), two.get());
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(one.kept(), two.kept());
        let elsewhere = root("eu").get().await;
        assert!(matches!(elsewhere, Err(KeyError::Unauthentic(_))));
    }
}
