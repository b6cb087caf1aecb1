//! Who calls: bearer tokens in, verified claims out.
//!
//! ```text
//! "Bearer eyJ…"  |  mod: scheme, size     --> token text
//!                |  jwt: form, algorithm  --> header, unverified claims (they only pick the issuer)
//!                |  jwks: kid             --> public key
//!                |  jwt: signature        --> claims somebody vouches for
//!                |  claims: iss aud time  --> catalog's VerifiedClaims
//! ```
//!
//! Which claim means what, and what it allows, is catalog's business.

mod claims;
pub mod developer;
pub mod jobs;
mod jwks;
mod jwt;
mod signer;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use catalog::clock::Clock;
use catalog::context::{ClaimProfile, VerifiedClaims};
use catalog::guard::Denial;
use catalog::ids::TenantId;

use crate::config::Auth;
use crate::limits::TOKEN_BYTES_MAX;
use developer::Developer;
use jobs::JobTokens;
use jwks::KeySet;
use source::Source;

/// Why a token is not believed. The caller learns only that it is not; the reason is counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Missing,
    Scheme,
    TooLong,
    Malformed,
    Algorithm,
    TokenType,
    Critical,
    UnknownKey,
    AmbiguousKey,
    KeysUnavailable,
    Signature,
    Issuer,
    Audience,
    NoExpiry,
    Expired,
    NotYet,
}

impl Refusal {
    /// A bounded label for metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Scheme => "scheme",
            Self::TooLong => "too-long",
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::TokenType => "token-type",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown-key",
            Self::AmbiguousKey => "ambiguous-key",
            Self::KeysUnavailable => "keys-unavailable",
            Self::Signature => "signature",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::NoExpiry => "no-expiry",
            Self::Expired => "expired",
            Self::NotYet => "not-yet",
        }
    }
}

/// Why no authenticator can be made.
#[derive(Debug, thiserror::Error)]
#[error("the keys of an issuer cannot be set up")]
pub struct Error(#[source] source::Error);

/// Verifies tokens against the configured issuers, against the development issuer where there is one, and those of jobs.
#[derive(Debug)]
pub struct Authenticator {
    issuers: BTreeMap<String, Issuer>,
    leeway: Duration,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Issuer {
    audience: String,
    profile: ClaimProfile,
    /// The tenants it is believed about, if not about all.
    tenants: Option<Arc<BTreeSet<TenantId>>>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    Published(Arc<KeySet>),
    Jobs(Arc<JobTokens>),
}

impl Authenticator {
    /// Nothing is fetched yet: an issuer that is down does not keep the server from starting.
    ///
    /// # Errors
    /// When no HTTP client can be made for an issuer's keys.
    pub fn new(
        config: &Auth,
        developer: Option<&Developer>,
        jobs: Arc<JobTokens>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let mut issuers = BTreeMap::new();
        for trusted in &config.issuers {
            let source = Source::new(&trusted.issuer, &trusted.jwks).map_err(Error)?;
            let issuer = Issuer {
                audience: trusted.audience.clone(),
                profile: trusted.profile,
                tenants: trusted.tenants.clone().map(Arc::new),
                keys: Keys::Published(Arc::new(KeySet::new(source, config.jwks_refresh))),
            };
            issuers.insert(trusted.issuer.clone(), issuer);
        }
        if let Some(developer) = developer {
            let issuer = Issuer {
                audience: developer::AUDIENCE.to_owned(),
                profile: ClaimProfile::Generic,
                tenants: None,
                keys: Keys::Published(Arc::new(KeySet::fixed(
                    developer.key_id(),
                    &developer.public_key(),
                ))),
            };
            issuers.insert(developer::ISSUER.to_owned(), issuer);
        }
        let own = Issuer {
            audience: jobs::AUDIENCE.to_owned(),
            profile: ClaimProfile::Generic,
            tenants: None,
            keys: Keys::Jobs(jobs),
        };
        issuers.insert(jobs::ISSUER.to_owned(), own);
        Ok(Self {
            issuers,
            leeway: config.leeway,
            clock,
        })
    }

    /// Verifies the value of an `Authorization` header: `Bearer <token>` and nothing else.
    ///
    /// # Errors
    /// `InvalidToken` whatever is wrong with it; `Unavailable` while the issuer's keys cannot be had.
    pub async fn authenticate(
        &self,
        authorization: Option<&str>,
    ) -> Result<VerifiedClaims, Denial> {
        let token = bearer(authorization).map_err(refused)?;
        self.verify(token).await.map_err(refused)
    }

    /// The same for a login (Flight's Handshake): besides `Bearer`, `Basic` whose password is the token and whose
    /// user may be anything. Gives the token too, which is what later calls have to send.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub async fn login(
        &self,
        authorization: Option<&str>,
    ) -> Result<(VerifiedClaims, String), Denial> {
        let token = match basic(authorization) {
            Some(token) => token.map_err(refused)?,
            None => bearer(authorization).map_err(refused)?.to_owned(),
        };
        let claims = self.verify(&token).await.map_err(refused)?;
        Ok((claims, token))
    }

    async fn verify(&self, token: &str) -> Result<VerifiedClaims, Refusal> {
        let unverified = jwt::Unverified::parse(token)?;
        let name = unverified.issuer().ok_or(Refusal::Issuer)?.to_owned();
        let issuer = self.issuers.get(&name).ok_or(Refusal::Issuer)?;
        let now = self.clock.now();
        let (key_id, algorithm) = (unverified.key_id.as_deref(), unverified.algorithm);
        let key = match &issuer.keys {
            Keys::Published(keys) => keys.find(key_id, algorithm, now).await?,
            Keys::Jobs(jobs) => jobs.find(key_id, algorithm)?,
        };
        let claims = unverified.verify(&key)?;
        let expected = claims::Expected {
            issuer: &name,
            audience: &issuer.audience,
            leeway: self.leeway,
            now,
        };
        let expires_at = claims::check(&claims, expected)?;
        Ok(VerifiedClaims {
            issuer: name,
            profile: issuer.profile,
            believed_about: issuer.tenants.clone(),
            claims,
            expires_at,
        })
    }
}

fn refused(refusal: Refusal) -> Denial {
    let reason = refusal.label();
    metrics::counter!("trailhouse_auth_refusals_total", "reason" => reason).increment(1);
    tracing::debug!(reason, "a token was refused");
    match refusal {
        // Not the token's fault: a 401 would make clients throw good tokens away.
        Refusal::KeysUnavailable => Denial::Unavailable,
        // Says nothing of the token but what its sender can count.
        Refusal::TooLong => Denial::TokenTooLong {
            bytes_max: TOKEN_BYTES_MAX,
        },
        Refusal::Missing
        | Refusal::Scheme
        | Refusal::Malformed
        | Refusal::Algorithm
        | Refusal::TokenType
        | Refusal::Critical
        | Refusal::UnknownKey
        | Refusal::AmbiguousKey
        | Refusal::Signature
        | Refusal::Issuer
        | Refusal::Audience
        | Refusal::NoExpiry
        | Refusal::Expired
        | Refusal::NotYet => Denial::InvalidToken,
    }
}

/// What follows the scheme's name, which is compared without regard to case (RFC 9110, 11.1).
fn after_scheme<'a>(authorization: &'a str, scheme: &str) -> Option<&'a str> {
    let (name, rest) = authorization.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

fn bearer(authorization: Option<&str>) -> Result<&str, Refusal> {
    let authorization = authorization.ok_or(Refusal::Missing)?;
    after_scheme(authorization, "Bearer").ok_or(Refusal::Scheme)
}

/// RFC 7617 wants the padding; the clients written in Go leave it out.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The password of a Basic login; `None` when this is another scheme.
fn basic(authorization: Option<&str>) -> Option<Result<String, Refusal>> {
    let encoded = after_scheme(authorization?, "Basic")?;
    // Base64 makes three bytes four, and a user's name comes before the token.
    if encoded.len() > TOKEN_BYTES_MAX * 2 {
        return Some(Err(Refusal::TooLong));
    }
    let decoded = BASIC.decode(encoded).ok();
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let password = text.as_deref().and_then(|text| text.split_once(':'));
    Some(match password {
        Some((_, token)) => Ok(token.to_owned()),
        None => Err(Refusal::Malformed),
    })
}

#[cfg(test)]
mod tests;
