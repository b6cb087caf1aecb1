//! Keys of a process, each certified by a tenant's signing key: what signs without asking the key service.
//!
//! A **statement** says that an Ed25519 key speaks for a tenant in a silo for some hours. It is JSON,
//! `{"format": "trailhouse-process-key-1", "tenant", "silo", "key": "<base64>", "notBefore", "notAfter",
//! "signingKey": "kms://…/s1", "signature": "<base64>"}`. Signed with the signing key is, each part after the first as a
//! u32 LE length and its bytes, `"trailhouse process key 1\0" | tenant | silo | key (32 bytes) | notBefore | notAfter |
//! signingKey`, the times as they stand in the JSON. What the key itself signs is `domain | message`, with a domain of its
//! own for each use. Ed25519 as in RFC 8032, verified strictly. Vectors are in the tests.
//!
//! The public halves of a tenant's signing keys are given out as a JSON Web Key Set (RFC 7517, RFC 8037):
//! `{"tenant": "…", "keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "kms://…/s1",
//! "x": "<base64url>"}], "introductions": [..]}`, the last as in [`super::introduced`].

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Introduction, SecretKey, SigningKeyId, push_prefixed};
use crate::clock::Timestamp;
use crate::ids::{SiloId, TenantId};

const FORMAT: &str = "trailhouse-process-key-1";
const DOMAIN: &[u8] = b"trailhouse process key 1\0";
/// Keys of one set.
const KEYS_MAX: usize = 1_000;

/// Why a signature proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// Not of its format.
    #[error("the process key's statement is not of a format that is known here")]
    Form,
    /// Signed with a key that is not among the tenant's.
    #[error("the process key is certified by a key that is not among the tenant's")]
    ForeignKey,
    /// The tenant's key did not sign this statement.
    #[error("the tenant's key did not sign the process key's statement")]
    Statement,
    /// The statement is about another tenant or silo.
    #[error("the process key speaks for another tenant or silo")]
    Subject,
    /// Signed when the statement did not hold.
    #[error("the process key was not certified at that time")]
    Time,
    /// The process key did not sign this.
    #[error("the process key did not sign this")]
    Signature,
}

/// A tenant's statement that a key speaks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyStatement {
    format: String,
    tenant: TenantId,
    silo: SiloId,
    key: String,
    not_before: Timestamp,
    not_after: Timestamp,
    signing_key: SigningKeyId,
    signature: String,
}

impl KeyStatement {
    /// A statement that is still to be signed.
    pub(super) fn unsigned(
        (tenant, silo): (&TenantId, &SiloId),
        key: &SigningKey,
        (not_before, not_after): (Timestamp, Timestamp),
        signing_key: &SigningKeyId,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            tenant: tenant.clone(),
            silo: silo.clone(),
            key: BASE64.encode(key.verifying_key().to_bytes()),
            not_before,
            not_after,
            signing_key: signing_key.clone(),
            signature: String::new(),
        }
    }

    pub(super) fn signed(self, signature: [u8; 64]) -> Self {
        Self {
            signature: BASE64.encode(signature),
            ..self
        }
    }

    /// Reads a statement, which has one text but for its spaces; what comes out is not verified yet.
    ///
    /// # Errors
    /// [`Unproven::Form`].
    pub fn from_json(text: &[u8]) -> Result<Self, Unproven> {
        let statement: Self = serde_json::from_slice(text).map_err(|_| Unproven::Form)?;
        let said: Value = serde_json::from_slice(text).map_err(|_| Unproven::Form)?;
        if statement.format == FORMAT && said == json!(statement) {
            Ok(statement)
        } else {
            Err(Unproven::Form)
        }
    }

    /// What the tenant's key signs.
    pub(super) fn message(&self) -> Vec<u8> {
        let mut message = DOMAIN.to_vec();
        // Text that is no key signs nothing: it fails where the key is used.
        let key = BASE64.decode(&self.key).unwrap_or_default();
        push_prefixed(&mut message, self.tenant.as_str().as_bytes());
        push_prefixed(&mut message, self.silo.as_str().as_bytes());
        push_prefixed(&mut message, &key);
        push_prefixed(&mut message, self.not_before.to_string().as_bytes());
        push_prefixed(&mut message, self.not_after.to_string().as_bytes());
        push_prefixed(&mut message, self.signing_key.as_str().as_bytes());
        message
    }

    /// The tenant it speaks for.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The silo it speaks for the tenant in.
    #[must_use]
    pub fn silo(&self) -> &SiloId {
        &self.silo
    }

    /// The name that the key goes by: the SHA-256 of its public half, in lower-case hex. `None` if it is no key.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let key: [u8; 32] = BASE64.decode(&self.key).ok()?.try_into().ok()?;
        Some(name_of(&key))
    }

    /// The key of the tenant that it is signed with.
    #[must_use]
    pub fn signing_key(&self) -> &SigningKeyId {
        &self.signing_key
    }

    pub(super) fn holds_at(&self, time: Timestamp) -> bool {
        self.not_before <= time && time < self.not_after
    }

    /// Verifies that the process key signed `domain | message` at `time` for this tenant and silo, and that one of these
    /// keys certified it.
    ///
    /// # Errors
    /// The first link that does not hold.
    pub fn verify(
        &self,
        keys: &PublicKeys,
        (tenant, silo, time): (&TenantId, &SiloId, Timestamp),
        (domain, message): (&[u8], &[u8]),
        signature: &[u8; 64],
    ) -> Result<(), Unproven> {
        if self.format != FORMAT {
            return Err(Unproven::Form);
        }
        let certifying = keys.get(&self.signing_key).ok_or(Unproven::ForeignKey)?;
        let certificate = BASE64.decode(&self.signature).ok();
        let certificate = certificate.and_then(|bytes| bytes.try_into().ok());
        let certificate: [u8; 64] = certificate.ok_or(Unproven::Statement)?;
        if !signed_by(certifying, &self.message(), &certificate) {
            return Err(Unproven::Statement);
        }
        if self.tenant != *tenant || self.silo != *silo {
            return Err(Unproven::Subject);
        }
        if !self.holds_at(time) {
            return Err(Unproven::Time);
        }
        let key = BASE64.decode(&self.key).ok();
        let key = key.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let signs = key.is_some_and(|key| signed_by(&key, &[domain, message].concat(), signature));
        if signs {
            Ok(())
        } else {
            Err(Unproven::Signature)
        }
    }
}

/// Whether the key signed the message: Ed25519 as in RFC 8032, verified strictly.
#[must_use]
pub fn signed_by(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    let signature = Signature::from_bytes(signature);
    VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
}

fn name_of(public: &[u8; 32]) -> String {
    let digest = Sha256::digest(public);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key that this process signs with for one tenant. It is in no document, and gone with the process.
pub struct ProcessKey {
    key: SigningKey,
    name: String,
    statement: KeyStatement,
}

impl ProcessKey {
    pub(super) fn new(key: SigningKey, statement: KeyStatement) -> Self {
        Self {
            name: name_of(&Self::public(&key)),
            key,
            statement,
        }
    }

    /// The name it goes by, as in [`KeyStatement::name`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key pair of a fresh secret.
    pub(super) fn pair(secret: &SecretKey) -> SigningKey {
        SigningKey::from_bytes(secret.expose())
    }

    fn public(key: &SigningKey) -> [u8; 32] {
        key.verifying_key().to_bytes()
    }

    /// What says whose key it is.
    #[must_use]
    pub fn statement(&self) -> &KeyStatement {
        &self.statement
    }

    /// Signs `domain | message`; `None` when the statement does not hold at this time.
    #[must_use]
    pub fn sign(&self, time: Timestamp, domain: &[u8], message: &[u8]) -> Option<[u8; 64]> {
        let message = [domain, message].concat();
        let holds = self.statement.holds_at(time);
        holds.then(|| self.key.sign(&message).to_bytes())
    }
}

impl fmt::Debug for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessKey").finish_non_exhaustive()
    }
}

/// The public halves of a tenant's signing keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKeys {
    tenant: Option<TenantId>,
    keys: BTreeMap<SigningKeyId, [u8; 32]>,
    introductions: Vec<Introduction>,
}

/// A member of a key set, as far as it matters here.
#[derive(Deserialize)]
struct Member {
    kty: String,
    crv: String,
    kid: String,
    x: String,
}

impl PublicKeys {
    pub(super) fn new(tenant: &TenantId, keys: BTreeMap<SigningKeyId, [u8; 32]>) -> Self {
        Self {
            tenant: Some(tenant.clone()),
            keys,
            introductions: Vec::new(),
        }
    }

    /// The same keys, with what they say of each other.
    pub(super) fn introduced(self, introductions: Vec<Introduction>) -> Self {
        Self {
            introductions,
            ..self
        }
    }

    pub(super) fn introductions(&self) -> &[Introduction] {
        &self.introductions
    }

    /// The same keys and one more.
    pub(super) fn with(mut self, id: SigningKeyId, key: [u8; 32]) -> Self {
        self.keys.insert(id, key);
        self
    }

    /// Whose keys they are, where the set says so.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// The keys by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&SigningKeyId, &[u8; 32])> {
        self.keys.iter()
    }

    fn get(&self, key: &SigningKeyId) -> Option<&[u8; 32]> {
        self.keys.get(key)
    }

    /// The key set.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let keys = self.keys.iter().map(|(id, key)| {
            json!({
                "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
                "kid": id, "x": BASE64URL.encode(key),
            })
        });
        let mut set = json!({ "keys": keys.collect::<Vec<_>>() });
        if let Some(tenant) = &self.tenant {
            set["tenant"] = json!(tenant);
        }
        if !self.introductions.is_empty() {
            set["introductions"] = json!(self.introductions);
        }
        set
    }

    /// Reads a key set, or one key of it by itself. Keys of other kinds are left out.
    ///
    /// # Errors
    /// [`Unproven::Form`] where there is no key of ours.
    pub fn from_json(text: &[u8]) -> Result<Self, Unproven> {
        let set: Value = serde_json::from_slice(text).map_err(|_| Unproven::Form)?;
        let tenant = match set.get("tenant") {
            Some(tenant) => {
                let name = tenant.as_str().ok_or(Unproven::Form)?;
                Some(TenantId::parse(name).map_err(|_| Unproven::Form)?)
            }
            None => None,
        };
        let introductions = match set.get("introductions") {
            Some(statements) => Vec::deserialize(statements).map_err(|_| Unproven::Form)?,
            None => Vec::new(),
        };
        if introductions.len() > KEYS_MAX {
            return Err(Unproven::Form);
        }
        let members = match set.get("keys") {
            Some(Value::Array(members)) => members.clone(),
            Some(_) => return Err(Unproven::Form),
            None => vec![set],
        };
        let read = |member: Value| {
            let member: Member = serde_json::from_value(member).ok()?;
            let is_ours = member.kty == "OKP" && member.crv == "Ed25519";
            let id = SigningKeyId::parse(&member.kid).ok().filter(|_| is_ours)?;
            let key = BASE64URL.decode(member.x).ok()?;
            Some((id, key.try_into().ok()?))
        };
        let keys: BTreeMap<_, _> = members
            .into_iter()
            .take(KEYS_MAX)
            .filter_map(read)
            .collect();
        if keys.is_empty() {
            return Err(Unproven::Form);
        }
        Ok(Self {
            tenant,
            keys,
            introductions,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: (&[u8], &[u8]) = (b"test\0", b"hello");

    fn at(hour: u32) -> Timestamp {
        Timestamp::parse_rfc3339(&format!("2026-03-15T{hour:02}:00:00Z")).unwrap()
    }

    fn names() -> (TenantId, SiloId) {
        (
            TenantId::parse("acme").unwrap(),
            SiloId::parse("eu").unwrap(),
        )
    }

    /// The tenant's key has the seed 01 01 …, the process's 02 02 ….
    fn certified() -> (ProcessKey, PublicKeys) {
        let tenants = SigningKey::from_bytes(&[1; 32]);
        let own = SigningKey::from_bytes(&[2; 32]);
        let (tenant, silo) = names();
        let id = SigningKeyId::parse("kms://eu/0a/s1").unwrap();
        let statement = KeyStatement::unsigned((&tenant, &silo), &own, (at(1), at(13)), &id);
        let signature = tenants.sign(&statement.message()).to_bytes();
        let keys = BTreeMap::from([(id, tenants.verifying_key().to_bytes())]);
        (
            ProcessKey::new(own, statement.signed(signature)),
            PublicKeys::new(&tenant, keys),
        )
    }

    fn verified(statement: &KeyStatement, keys: &PublicKeys, hour: u32) -> Result<(), Unproven> {
        let (tenant, silo) = names();
        let (key, _) = certified();
        let signature = key.sign(at(5), SAID.0, SAID.1).unwrap();
        statement.verify(keys, (&tenant, &silo, at(hour)), SAID, &signature)
    }

    #[test]
    fn a_statement_has_the_bytes_of_the_vector() {
        let (key, keys) = certified();
        let stored = json!({
            "format": "trailhouse-process-key-1", "tenant": "acme", "silo": "eu",
            "key": "gTl3Dqh9F19Wo1Rmw0x+zMuNipG07jeiXfYPW4/Js5Q=",
            "notBefore": "2026-03-15T01:00:00.000000Z", "notAfter": "2026-03-15T13:00:00.000000Z",
            "signingKey": "kms://eu/0a/s1",
            "signature": "nLppCh9vCcnSHPneQ5rTngDY5D5k6rdr6O/De78xmLg1Ft/6NxAIgQENPYEV+P3gk5ogurDfPKQ+lO3Rz3TdCQ==",
        });
        assert_eq!(json!(key.statement()), stored);
        let signature = key.sign(at(5), SAID.0, SAID.1).unwrap();
        assert_eq!(
            BASE64.encode(signature),
            "JITqhy8YsVzQU1wiziBeL51kxQNTnXThPNfer3WKqHImVZhXUA72RQm/XQZYaPELTl5On5LY2rpoUhLfDeXpAQ=="
        );
        assert_eq!(
            keys.to_json()["keys"][0]["x"],
            "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w"
        );
    }

    #[test]
    fn the_chain_holds_from_the_tenants_key_to_what_was_signed() {
        let (key, keys) = certified();
        assert_eq!(verified(key.statement(), &keys, 5), Ok(()));
        let read = PublicKeys::from_json(keys.to_json().to_string().as_bytes()).unwrap();
        assert_eq!(read, keys);
        let one = keys.to_json()["keys"][0].to_string();
        let one = PublicKeys::from_json(one.as_bytes()).unwrap();
        assert_eq!(verified(key.statement(), &one, 5), Ok(()));
    }

    #[test]
    fn every_link_can_break() {
        let (key, keys) = certified();
        let with = |change: &dyn Fn(&mut KeyStatement)| {
            let mut statement = key.statement().clone();
            change(&mut statement);
            verified(&statement, &keys, 5)
        };
        assert_eq!(with(&|it| it.format.push('0')), Err(Unproven::Form));
        assert_eq!(
            with(&|it| it.tenant = TenantId::system()),
            Err(Unproven::Statement)
        );
        assert_eq!(with(&|it| it.not_after = at(23)), Err(Unproven::Statement));
        assert_eq!(
            with(&|it| it.key = it.signature.clone()),
            Err(Unproven::Statement)
        );
        let other = SigningKeyId::parse("kms://eu/0b/s1").unwrap();
        assert_eq!(
            with(&|it| it.signing_key = other.clone()),
            Err(Unproven::ForeignKey)
        );
        for hour in [0, 13] {
            assert_eq!(verified(key.statement(), &keys, hour), Err(Unproven::Time));
            assert!(key.sign(at(hour), SAID.0, SAID.1).is_none());
        }
        let (tenant, silo) = names();
        let mut signature = key.sign(at(5), SAID.0, SAID.1).unwrap();
        let check = |about: (&TenantId, &SiloId), said, signature: &[u8; 64]| {
            let statement = key.statement();
            statement.verify(&keys, (about.0, about.1, at(5)), said, signature)
        };
        assert_eq!(check((&tenant, &silo), SAID, &signature), Ok(()));
        let stranger = TenantId::parse("globex").unwrap();
        assert_eq!(
            check((&stranger, &silo), SAID, &signature),
            Err(Unproven::Subject)
        );
        let elsewhere = SiloId::parse("us").unwrap();
        assert_eq!(
            check((&tenant, &elsewhere), SAID, &signature),
            Err(Unproven::Subject)
        );
        for said in [(&b"test"[..], &b"\0hello!"[..]), (b"other\0", b"hello")] {
            assert_eq!(
                check((&tenant, &silo), said, &signature),
                Err(Unproven::Signature)
            );
        }
        signature[3] ^= 1;
        assert_eq!(
            check((&tenant, &silo), SAID, &signature),
            Err(Unproven::Signature)
        );
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"keys": {}}"#,
            r#"{"keys": []}"#,
            r#"{"keys": [{"kty": "RSA"}]}"#,
            r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "kms://eu/0a/s1", "x": "AAAA"}]}"#,
            r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "kms://eu/0a/v1", "x": "AAAA"}]}"#,
        ] {
            assert_eq!(
                PublicKeys::from_json(text.as_bytes()),
                Err(Unproven::Form),
                "{text}"
            );
        }
    }
}
