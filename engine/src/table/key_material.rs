//! The key material of a data file: Parquet's `PKMT1` JSON with double wrapping, as pyarrow and parquet-mr read it.
//!
//! A random file key (DEK) is wrapped under the epoch key, which is wrapped under the tenant's key in the KMS. The same
//! text stands in the file, as the metadata of its footer key, and in the tag `th.dek` of its Add action; reading trusts
//! neither: a wrong key simply does not open the file.
//!
//! ```json
//! {"keyMaterialType":"PKMT1","internalStorage":true,"isFooterKey":true,"kmsInstanceID":"DEFAULT",
//!  "kmsInstanceURL":"DEFAULT","masterKeyID":"kms://eu/…/v1","doubleWrapping":true,
//!  "keyEncryptionKeyID":"<epoch id>","wrappedKEK":"<epoch key under the master key>","wrappedDEK":"<file key under the epoch key>"}
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::clock::Random;
use catalog::keys::{EpochKey, KeyId, SecretKey, WrappedEpoch};
use serde::{Deserialize, Serialize};

use super::Error;

const TYPE: &str = "PKMT1";
const DEFAULT: &str = "DEFAULT";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    key_material_type: String,
    internal_storage: bool,
    is_footer_key: bool,
    #[serde(rename = "kmsInstanceID")]
    kms_instance_id: String,
    #[serde(rename = "kmsInstanceURL")]
    kms_instance_url: String,
    #[serde(rename = "masterKeyID")]
    master_key_id: String,
    double_wrapping: bool,
    #[serde(rename = "keyEncryptionKeyID")]
    key_encryption_key_id: String,
    #[serde(rename = "wrappedKEK")]
    wrapped_kek: String,
    #[serde(rename = "wrappedDEK")]
    wrapped_dek: String,
}

/// The wrapped keys of one data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyMaterial {
    pub(crate) epoch: WrappedEpoch,
    wrapped_dek: Vec<u8>,
}

impl KeyMaterial {
    /// Wraps a file key under the current epoch.
    pub(crate) fn wrap(
        epoch: &EpochKey,
        dek: &SecretKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let wrapped_dek = epoch.wrap_dek(dek, random).map_err(|_| Error::Malformed {
            what: "a file key cannot be wrapped",
        })?;
        Ok(Self {
            epoch: epoch.wrapped().clone(),
            wrapped_dek,
        })
    }

    #[cfg(test)]
    pub(crate) fn from_parts(epoch: WrappedEpoch, wrapped_dek: Vec<u8>) -> Self {
        Self { epoch, wrapped_dek }
    }

    /// The file key, opened with the epoch key that [`KeyMaterial::epoch`] names.
    pub(crate) fn unwrap(&self, epoch: &EpochKey) -> Result<SecretKey, Error> {
        epoch
            .unwrap_dek(&self.wrapped_dek)
            .map_err(|_| Error::Tampered {
                what: "the file key does not open under its epoch key",
            })
    }

    pub(crate) fn to_json(&self) -> Result<String, Error> {
        serde_json::to_string(&Document {
            key_material_type: TYPE.to_owned(),
            internal_storage: true,
            is_footer_key: true,
            kms_instance_id: DEFAULT.to_owned(),
            kms_instance_url: DEFAULT.to_owned(),
            master_key_id: self.epoch.master_key_id.as_str().to_owned(),
            double_wrapping: true,
            key_encryption_key_id: BASE64.encode(self.epoch.epoch_id),
            wrapped_kek: BASE64.encode(&self.epoch.wrapped),
            wrapped_dek: BASE64.encode(&self.wrapped_dek),
        })
        .map_err(|_| Error::Malformed {
            what: "key material cannot be written",
        })
    }

    pub(crate) fn from_json(text: &str) -> Result<Self, Error> {
        let broken = Error::Tampered {
            what: "the key material of a file is malformed",
        };
        let Ok(document) = serde_json::from_str::<Document>(text) else {
            return Err(broken);
        };
        let read = || {
            let known = document.key_material_type == TYPE
                && document.is_footer_key
                && document.double_wrapping;
            let epoch_id = BASE64.decode(&document.key_encryption_key_id).ok()?;
            let epoch = WrappedEpoch {
                master_key_id: KeyId::parse(&document.master_key_id).ok()?,
                epoch_id: epoch_id.try_into().ok()?,
                wrapped: BASE64.decode(&document.wrapped_kek).ok()?,
            };
            let wrapped_dek = BASE64.decode(&document.wrapped_dek).ok()?;
            known.then_some(Self { epoch, wrapped_dek })
        };
        read().ok_or(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableKind;
    use crate::table::testing::World;

    #[tokio::test]
    async fn the_text_has_the_fields_of_pkmt1_and_opens_again() {
        let world = World::new();
        let epoch = world.epoch("acme", TableKind::Records).await;
        let dek = SecretKey::random(&*world.random);
        let material = KeyMaterial::wrap(&epoch, &dek, &*world.random).unwrap();
        let text = material.to_json().unwrap();
        let fields: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(fields["keyMaterialType"], "PKMT1");
        assert_eq!(fields["doubleWrapping"], true);
        assert_eq!(fields["kmsInstanceID"], "DEFAULT");
        assert_eq!(fields["kmsInstanceURL"], "DEFAULT");
        assert_eq!(
            fields["masterKeyID"],
            epoch.wrapped().master_key_id.as_str()
        );
        assert_eq!(
            fields["keyEncryptionKeyID"],
            BASE64.encode(epoch.wrapped().epoch_id)
        );
        assert_eq!(fields.as_object().unwrap().len(), 10);

        let read = KeyMaterial::from_json(&text).unwrap();
        assert_eq!(read, material);
        assert_eq!(read.unwrap(&epoch).unwrap().expose(), dek.expose());
    }

    #[tokio::test]
    async fn another_epoch_or_a_changed_text_opens_nothing() {
        let world = World::new();
        let epoch = world.epoch("acme", TableKind::Records).await;
        let material =
            KeyMaterial::wrap(&epoch, &SecretKey::random(&*world.random), &*world.random).unwrap();
        let other = world.epoch("globex", TableKind::Records).await;
        assert!(matches!(
            material.unwrap(&other),
            Err(Error::Tampered { .. })
        ));
        let text = material.to_json().unwrap();
        for broken in [
            text.replace("PKMT1", "PKMT2"),
            text.replace("true", "false"),
            "{}".to_owned(),
            String::new(),
        ] {
            assert!(matches!(
                KeyMaterial::from_json(&broken),
                Err(Error::Tampered { .. })
            ));
        }
    }
}
