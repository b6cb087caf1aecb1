//! A tenant's new signing key, introduced by the one before it: whoever trusts the old one can tell that the new one is the
//! same tenant's, and not of somebody who changed a list of keys.
//!
//! A statement is JSON, `{"format": "trailhouse-signing-key-1", "tenant", "silo", "key": "kms://…/s2", "x": "<base64url>",
//! "introducedBy": "kms://…/s1", "at", "signature": "<base64>"}`. Signed with the old key is, each part after the first as a
//! u32 LE length and its bytes, `"trailhouse signing key 1\0" | tenant | silo | key | x (32 bytes) | introducedBy | at`, the
//! texts as they stand in the JSON. Statements stand beside the keys in a tenant's key set, as `"introductions"`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};

use super::{PublicKeys, SigningKeyId, push_prefixed, signed_by};
use crate::clock::Timestamp;
use crate::ids::{SiloId, TenantId};

const FORMAT: &str = "trailhouse-signing-key-1";
const DOMAIN: &[u8] = b"trailhouse signing key 1\0";

/// A statement of one signing key about the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Introduction {
    format: String,
    #[serde(deserialize_with = "crate::ids::stored_tenant")]
    tenant: TenantId,
    silo: SiloId,
    key: SigningKeyId,
    x: String,
    introduced_by: SigningKeyId,
    at: Timestamp,
    signature: String,
}

impl Introduction {
    /// Whether it is about this key.
    pub(super) fn is_of(&self, key: &SigningKeyId) -> bool {
        self.key == *key
    }

    pub(super) fn unsigned(
        (tenant, silo): (&TenantId, &SiloId),
        (key, public): (&SigningKeyId, &[u8; 32]),
        introduced_by: &SigningKeyId,
        at: Timestamp,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            tenant: tenant.clone(),
            silo: silo.clone(),
            key: key.clone(),
            x: BASE64URL.encode(public),
            introduced_by: introduced_by.clone(),
            at,
            signature: String::new(),
        }
    }

    pub(super) fn signed(self, signature: [u8; 64]) -> Self {
        Self {
            signature: BASE64.encode(signature),
            ..self
        }
    }

    /// What the old key signs.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        let key = BASE64URL.decode(&self.x).unwrap_or_default();
        for part in [
            self.tenant.as_str().as_bytes(),
            self.silo.as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            &key,
            self.introduced_by.as_str().as_bytes(),
            self.at.to_string().as_bytes(),
        ] {
            push_prefixed(&mut message, part);
        }
        message
    }

    /// The key that is introduced, if one of these keys does so.
    fn introduced(&self, by: &PublicKeys) -> Option<(SigningKeyId, [u8; 32])> {
        let (_, old) = by.iter().find(|(id, _)| **id == self.introduced_by)?;
        let of_them = by.tenant().is_none_or(|tenant| *tenant == self.tenant);
        let signature = BASE64.decode(&self.signature).ok()?.try_into().ok()?;
        let holds = self.format == FORMAT && of_them && signed_by(old, &self.message(), &signature);
        holds.then_some(())?;
        let key = BASE64URL.decode(&self.x).ok()?.try_into().ok()?;
        Some((self.key.clone(), key))
    }
}

/// The keys of `new` that nobody whom `old` trusts has introduced: none, if `new` can take its place.
#[must_use]
pub fn strangers(old: &PublicKeys, new: &PublicKeys) -> Vec<SigningKeyId> {
    let mut trusted = old.clone();
    // Each round introduces one key at least, or is the last.
    while let Some((id, key)) = new
        .introductions()
        .iter()
        .filter_map(|statement| statement.introduced(&trusted))
        .find(|(id, _)| trusted.iter().all(|(known, _)| known != id))
    {
        trusted = trusted.with(id, key);
    }
    let is_known = |id: &SigningKeyId, key: &[u8; 32]| {
        trusted
            .iter()
            .any(|(known, trusted)| known == id && trusted == key)
    };
    let of_another = old.tenant().is_some() && old.tenant() != new.tenant();
    new.iter()
        .filter(|(id, key)| of_another || !is_known(id, key))
        .map(|(id, _)| id.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn id(version: u64) -> SigningKeyId {
        SigningKeyId::parse(&format!("kms://eu/0a/s{version}")).unwrap()
    }

    fn pair(version: u8) -> SigningKey {
        SigningKey::from_bytes(&[version; 32])
    }

    fn introduction(by: u8, new: u8) -> Introduction {
        let names = (
            TenantId::parse("acme").unwrap(),
            SiloId::parse("eu").unwrap(),
        );
        let public = pair(new).verifying_key().to_bytes();
        let at = Timestamp::parse_rfc3339("2026-03-15T01:00:00Z").unwrap();
        let (new, old) = (id(new.into()), id(by.into()));
        let statement = Introduction::unsigned((&names.0, &names.1), (&new, &public), &old, at);
        let signature = pair(by).sign(&statement.message()).to_bytes();
        statement.signed(signature)
    }

    fn keys(versions: &[u8], introductions: Vec<Introduction>) -> PublicKeys {
        let keys: BTreeMap<_, _> = versions
            .iter()
            .map(|&version| {
                let key = pair(version).verifying_key().to_bytes();
                (id(version.into()), key)
            })
            .collect();
        let tenant = TenantId::parse("acme").unwrap();
        PublicKeys::new(&tenant, keys).introduced(introductions)
    }

    #[test]
    fn a_chain_of_statements_leads_from_a_kept_key_to_the_newest() {
        let all = vec![introduction(2, 3), introduction(1, 2)];
        let new = keys(&[1, 2, 3], all.clone());
        assert_eq!(strangers(&keys(&[1], vec![]), &new), []);
        assert_eq!(strangers(&keys(&[2], vec![]), &new), [id(1)]);
        let read = PublicKeys::from_json(new.to_json().to_string().as_bytes()).unwrap();
        assert_eq!(read, new);
        let broken = keys(&[1, 2, 3], all[..1].to_vec());
        assert_eq!(strangers(&keys(&[1], vec![]), &broken), [id(2), id(3)]);
    }

    #[test]
    fn the_system_tenants_statements_are_read_back() {
        let statement = Introduction {
            tenant: TenantId::system(),
            ..introduction(1, 2)
        };
        let text = serde_json::to_string(&statement).unwrap();
        assert_eq!(
            serde_json::from_str::<Introduction>(&text).unwrap(),
            statement
        );
    }

    #[test]
    fn a_statement_that_was_changed_introduces_nobody() {
        let old = keys(&[1], vec![]);
        let with = |change: &dyn Fn(&mut Introduction)| {
            let mut statement = introduction(1, 2);
            change(&mut statement);
            strangers(&old, &keys(&[1, 2], vec![statement]))
        };
        assert_eq!(with(&|_| {}), []);
        assert_eq!(with(&|it| it.format.push('0')), [id(2)]);
        assert_eq!(with(&|it| it.key = id(3)), [id(2)]);
        assert_eq!(with(&|it| it.x = introduction(1, 3).x), [id(2)]);
        assert_eq!(with(&|it| it.introduced_by = id(2)), [id(2)]);
        assert_eq!(with(&|it| it.tenant = TenantId::system()), [id(2)]);
        assert_eq!(
            with(&|it| it.signature = introduction(2, 2).signature),
            [id(2)]
        );
        // Nor does it stand for a key of that name that is another.
        let other = PublicKeys::new(
            &TenantId::parse("acme").unwrap(),
            BTreeMap::from([(id(2), [7; 32])]),
        );
        assert_eq!(
            strangers(&old, &other.introduced(vec![introduction(1, 2)])),
            [id(2)]
        );
    }
}
