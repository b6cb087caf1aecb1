//! Tokens for jobs: one scope, one tenant, one silo, and an end.
//!
//! Whoever may do something asks for a token that may do only that, and gives it to a job that runs on its own. It is
//! signed with a key that every process over one control root derives for itself, and verified like any other token.

use std::fmt;
use std::time::Duration;

use catalog::clock::Timestamp;
use catalog::context::{Attribute, Scope, TenantContext};
use catalog::ids::SiloId;
use catalog::keys::SecretKey;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::Refusal;
use super::signer::Signer;

/// The `iss` of these tokens.
pub const ISSUER: &str = "trailhouse-jobs";
/// Their `aud`.
pub(super) const AUDIENCE: &str = "trailhouse";
/// The scopes that jobs can have.
pub const SCOPES: &[Scope] = &[Scope::BackfillRun];
/// How long a job can be let run.
pub const LIFETIME_MAX: Duration = Duration::from_hours(12);

/// Issues job tokens.
pub struct JobTokens {
    /// The seed of their key, as soon as there is one.
    secret: Box<dyn Fn() -> Option<SecretKey> + Send + Sync>,
}

impl fmt::Debug for JobTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobTokens").finish_non_exhaustive()
    }
}

impl JobTokens {
    /// Tokens under the key of this seed, which may not be there yet.
    pub fn new(secret: impl Fn() -> Option<SecretKey> + Send + Sync + 'static) -> Self {
        Self {
            secret: Box::new(secret),
        }
    }

    fn signer(&self) -> Option<Signer> {
        Some(Signer::new((self.secret)()?.expose()))
    }

    /// The key that a token of this header was signed with.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, Refusal> {
        let signer = self.signer().ok_or(Refusal::KeysUnavailable)?;
        if algorithm != Algorithm::EdDSA || id != Some(signer.key_id()) {
            return Err(Refusal::UnknownKey);
        }
        Ok(DecodingKey::from_ed_der(&signer.public_key()))
    }

    /// A token that lets a job of this caller do what the scope says, in this silo, until then; `None` while there is no
    /// key. What the caller's own token says of them it says too, so that policies answer both alike.
    pub(crate) fn mint(
        &self,
        caller: &TenantContext,
        silo: &SiloId,
        scope: Scope,
        (now, expires_at): (Timestamp, Timestamp),
    ) -> Option<String> {
        let seconds = |moment: Timestamp| moment.as_micros() / 1_000_000;
        let mut claims: Map<String, Value> = Map::from_iter([
            ("iss".to_owned(), ISSUER.into()),
            ("aud".to_owned(), AUDIENCE.into()),
            ("sub".to_owned(), caller.subject().into()),
            ("tenant".to_owned(), caller.tenant().as_str().into()),
            ("data_silo".to_owned(), silo.as_str().into()),
            ("scope".to_owned(), scope.as_str().into()),
            ("jti".to_owned(), caller.correlation().as_str().into()),
            ("iat".to_owned(), seconds(now).into()),
            ("nbf".to_owned(), seconds(now).into()),
            ("exp".to_owned(), seconds(expires_at).into()),
        ]);
        let told = [
            ("azp", caller.client()),
            ("purpose", caller.attributes().get(Attribute::Purpose)),
            ("org_unit", caller.attributes().get(Attribute::OrgUnit)),
            ("edition", caller.attributes().get(Attribute::Edition)),
        ];
        for (name, value) in told {
            if let Some(value) = value {
                claims.insert(name.to_owned(), value.into());
            }
        }
        Some(self.signer()?.sign(&claims))
    }
}
