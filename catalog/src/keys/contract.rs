//! What every key service promises, run against each of them.

use ed25519_dalek::{Signature, VerifyingKey};

use super::{KeyError, KeyId, Kms, SEALED_KEY_LEN, SecretKey, SigningKeyId};
use crate::ids::SiloId;

fn silo() -> SiloId {
    SiloId::parse("local").unwrap()
}

fn secret() -> SecretKey {
    SecretKey::new([7; 32])
}

/// The whole contract, against a service that may already hold keys.
pub(crate) async fn check(kms: &dyn Kms) {
    kms.probe().await.unwrap();
    wrapping_is_bound_to_key_and_context(kms).await;
    versions_are_keys_of_their_own(kms).await;
    a_destroyed_version_never_comes_back(kms).await;
    unknown_keys_are_unknown(kms).await;
    signatures_verify(kms).await;
}

async fn wrapping_is_bound_to_key_and_context(kms: &dyn Kms) {
    let (one, two) = (
        kms.create(&silo()).await.unwrap(),
        kms.create(&silo()).await.unwrap(),
    );
    assert_ne!(one, two);
    assert_eq!((one.silo(), one.version()), (&silo(), 1));
    let wrapped = kms.wrap(&one, b"aad", &secret()).await.unwrap();
    assert_eq!(wrapped.len(), SEALED_KEY_LEN);
    assert_ne!(wrapped, kms.wrap(&one, b"aad", &secret()).await.unwrap());
    assert_eq!(kms.unwrap(&one, b"aad", &wrapped).await.unwrap(), secret());
    for outcome in [
        kms.unwrap(&one, b"other", &wrapped).await,
        kms.unwrap(&two, b"aad", &wrapped).await,
        kms.unwrap(&one, b"aad", &wrapped[..wrapped.len() - 1])
            .await,
        kms.unwrap(&one, b"aad", &[]).await,
    ] {
        assert!(matches!(outcome, Err(KeyError::Unauthentic(_))));
    }
}

async fn versions_are_keys_of_their_own(kms: &dyn Kms) {
    let one = kms.create(&silo()).await.unwrap();
    let wrapped = kms.wrap(&one, b"", &secret()).await.unwrap();
    let two = kms.rotate(&one).await.unwrap();
    assert_eq!((two.opaque(), two.version()), (one.opaque(), 2));
    assert!(kms.unwrap(&two, b"", &wrapped).await.is_err());
    assert_eq!(kms.unwrap(&one, b"", &wrapped).await.unwrap(), secret());
    assert_eq!(
        kms.rotate(&one).await.unwrap().version(),
        3,
        "the next after the newest"
    );
    kms.disable(&one).await.unwrap();
    kms.disable(&one).await.unwrap();
    assert!(matches!(
        kms.unwrap(&one, b"", &wrapped).await,
        Err(KeyError::Disabled)
    ));
    assert!(matches!(
        kms.wrap(&one, b"", &secret()).await,
        Err(KeyError::Disabled)
    ));
    assert!(kms.wrap(&two, b"", &secret()).await.is_ok());
}

async fn a_destroyed_version_never_comes_back(kms: &dyn Kms) {
    let one = kms.create(&silo()).await.unwrap();
    let two = kms.rotate(&one).await.unwrap();
    let wrapped = kms.wrap(&two, b"", &secret()).await.unwrap();
    kms.destroy(&two).await.unwrap();
    kms.destroy(&two).await.unwrap();
    assert!(matches!(
        kms.unwrap(&two, b"", &wrapped).await,
        Err(KeyError::Destroyed)
    ));
    assert!(matches!(
        kms.wrap(&two, b"", &secret()).await,
        Err(KeyError::Destroyed)
    ));
    assert!(matches!(kms.disable(&two).await, Err(KeyError::Destroyed)));
    assert!(kms.wrap(&one, b"", &secret()).await.is_ok());
    assert_eq!(kms.rotate(&one).await.unwrap().version(), 3);
}

async fn unknown_keys_are_unknown(kms: &dyn Kms) {
    for text in ["kms://local/0a/v1", "kms://elsewhere/0a/v1"] {
        let id = KeyId::parse(text).unwrap();
        assert!(matches!(
            kms.wrap(&id, b"", &secret()).await,
            Err(KeyError::Unknown)
        ));
        assert!(matches!(
            kms.unwrap(&id, b"", &[0; 60]).await,
            Err(KeyError::Unknown)
        ));
        assert!(matches!(kms.rotate(&id).await, Err(KeyError::Unknown)));
        assert!(matches!(kms.disable(&id).await, Err(KeyError::Unknown)));
        assert!(matches!(kms.destroy(&id).await, Err(KeyError::Unknown)));
    }
    let id = SigningKeyId::parse("kms://local/0a/s1").unwrap();
    assert!(matches!(kms.sign(&id, b"").await, Err(KeyError::Unknown)));
    assert!(matches!(kms.public_key(&id).await, Err(KeyError::Unknown)));
}

async fn signatures_verify(kms: &dyn Kms) {
    let one = kms.create_signing(&silo()).await.unwrap();
    let two = kms.create_signing(&silo()).await.unwrap();
    let signature = Signature::from_bytes(&kms.sign(&one, b"message").await.unwrap());
    let key = |bytes: [u8; 32]| VerifyingKey::from_bytes(&bytes).unwrap();
    let public = key(kms.public_key(&one).await.unwrap());
    public.verify_strict(b"message", &signature).unwrap();
    assert!(public.verify_strict(b"other", &signature).is_err());
    let other = key(kms.public_key(&two).await.unwrap());
    assert!(other.verify_strict(b"message", &signature).is_err());
    let next = kms.rotate_signing(&one).await.unwrap();
    assert_eq!((next.opaque(), next.version()), (one.opaque(), 2));
    assert_eq!(kms.rotate_signing(&one).await.unwrap().version(), 3);
    assert_ne!(
        kms.public_key(&next).await.unwrap(),
        kms.public_key(&one).await.unwrap()
    );
    let again = Signature::from_bytes(&kms.sign(&one, b"message").await.unwrap());
    assert_eq!(again, signature, "the old one goes on");
}
