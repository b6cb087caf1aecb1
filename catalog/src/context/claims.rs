//! What a verified token says, read through the alias table of its issuer.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::guard::Denial;
use crate::ids::{SiloId, TenantId};

use super::attributes::{self, Attributes};
use super::role::{Role, Scope};

/// Which claims an issuer uses for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClaimProfile {
    /// No particular identity provider.
    Generic,
    /// Microsoft Entra ID. Its `tid` names a directory, never a tenant of ours.
    AzureAd,
    /// Okta.
    Okta,
    /// Auth0, which keeps what is not standard under a namespace or in `app_metadata`.
    Auth0,
}

/// The claims of a token whose signature, issuer, audience and times were verified. Whoever makes one vouches for that.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedClaims {
    /// Who issued the token.
    pub issuer: String,
    /// How its claims are read.
    pub profile: ClaimProfile,
    /// The tenants that the issuer is believed about; every one, where none are named.
    pub believed_about: Option<Arc<BTreeSet<TenantId>>>,
    /// All of them.
    pub claims: Map<String, Value>,
    /// The token's end.
    pub expires_at: Timestamp,
}

/// A claim by its place: a key, or a key inside an object.
type Claim = &'static [&'static str];

/// The claims that count, the first of each list that is there wins; roles add up (and see [`VerifiedClaims::tenant`]).
struct Aliases {
    tenant: &'static [Claim],
    subject: &'static [Claim],
    client: &'static [Claim],
    scopes: &'static [Claim],
    roles: &'static [Claim],
    edition: &'static [Claim],
    data_silo: &'static [Claim],
    org_unit: &'static [Claim],
    purpose: &'static [Claim],
}

const GENERIC: Aliases = Aliases {
    tenant: &[
        &["tenant"],
        &["tenant_id"],
        &["app_tid"],
        &["custom:tenantId"],
        &["tid"],
    ],
    subject: &[&["sub"], &["oid"], &["client_id"]],
    client: &[&["azp"], &["client_id"]],
    scopes: &[&["scp"], &["scope"]],
    roles: &[&["roles"], &["groups"]],
    edition: &[&["edition"], &["custom:edition"]],
    data_silo: &[&["data_silo"], &["custom:data_silo"]],
    org_unit: &[&["org_unit"], &["custom:org_unit"]],
    purpose: &[&["purpose"]],
};

const AZURE_AD: Aliases = Aliases {
    tenant: &[
        &["tenant"],
        &["tenant_id"],
        &["app_tid"],
        &["custom:tenantId"],
    ],
    subject: &[&["sub"], &["oid"], &["appid"]],
    client: &[&["azp"], &["appid"]],
    // What an application may do by itself Entra grants as roles, and names no scopes.
    scopes: &[&["scp"], &["roles"]],
    roles: &[&["roles"]],
    ..GENERIC
};

const OKTA: Aliases = Aliases {
    tenant: &[
        &["tenant"],
        &["tenant_id"],
        &["app_tid"],
        &["custom:tenantId"],
    ],
    subject: &[&["sub"], &["uid"], &["cid"]],
    client: &[&["cid"], &["azp"]],
    ..GENERIC
};

const AUTH0: Aliases = Aliases {
    tenant: &[
        &["https://trailhouse.dev/tenant"],
        &["tenant"],
        &["tenant_id"],
        &["custom:tenantId"],
        &["app_metadata", "tenant"],
    ],
    scopes: &[&["permissions"], &["scope"]],
    roles: &[&["https://trailhouse.dev/roles"], &["roles"]],
    edition: &[
        &["https://trailhouse.dev/edition"],
        &["app_metadata", "edition"],
        &["custom:edition"],
    ],
    data_silo: &[
        &["https://trailhouse.dev/data_silo"],
        &["data_silo"],
        &["custom:data_silo"],
    ],
    ..GENERIC
};

impl ClaimProfile {
    /// Reads the name as the configuration spells it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "generic" => Self::Generic,
            "azuread" => Self::AzureAd,
            "okta" => Self::Okta,
            "auth0" => Self::Auth0,
            _ => return None,
        })
    }

    const fn aliases(self) -> &'static Aliases {
        match self {
            Self::Generic => &GENERIC,
            Self::AzureAd => &AZURE_AD,
            Self::Okta => &OKTA,
            Self::Auth0 => &AUTH0,
        }
    }
}

impl VerifiedClaims {
    /// Whether the issuer is believed about a tenant.
    #[must_use]
    pub fn may_name(&self, tenant: &TenantId) -> bool {
        let tenants = self.believed_about.as_ref();
        tenants.is_none_or(|tenants| tenants.contains(tenant))
    }

    /// The tenant the token names, the reserved one only for operators.
    ///
    /// # Errors
    /// [`Denial::InvalidTenantFormat`] for anything but a text of the grammar, [`Denial::TenantMismatch`] when two
    /// aliases differ, [`Denial::Forbidden`] for the system tenant in a token that may not have it.
    pub fn tenant(&self) -> Result<Option<TenantId>, Denial> {
        let mut named: Option<TenantId> = None;
        for claim in self.profile.aliases().tenant {
            let Some(value) = self.value(claim) else {
                continue;
            };
            let text = value.as_str().ok_or(Denial::InvalidTenantFormat)?;
            let tenant = TenantId::from_stored(text).map_err(|_| Denial::InvalidTenantFormat)?;
            if named.as_ref().is_some_and(|named| *named != tenant) {
                return Err(Denial::TenantMismatch);
            }
            named = Some(tenant);
        }
        let roles = self.roles();
        let operator = roles.contains(&Role::SreAdmin) || roles.contains(&Role::SecurityAdmin);
        if named.as_ref().is_some_and(TenantId::is_system) && !operator {
            return Err(Denial::Forbidden {
                needs: "the role SRE.Admin or Security.Admin",
            });
        }
        Ok(named)
    }

    /// Who the token is about.
    ///
    /// # Errors
    /// [`Denial::InvalidToken`] when it says nothing usable.
    pub fn subject(&self) -> Result<String, Denial> {
        self.text(self.profile.aliases().subject)
            .ok_or(Denial::InvalidToken)
    }

    /// The application that got the token.
    #[must_use]
    pub fn client(&self) -> Option<String> {
        self.text(self.profile.aliases().client)
    }

    /// Our roles among the words of the token.
    #[must_use]
    pub fn roles(&self) -> BTreeSet<Role> {
        self.words(self.profile.aliases().roles)
            .filter_map(Role::parse)
            .collect()
    }

    /// Our scopes among those of the token.
    #[must_use]
    pub fn scopes(&self) -> BTreeSet<Scope> {
        // What a person may do stands beside what the application was given for them, and is no scope of it.
        let scopes = self.profile.aliases().scopes;
        let first = scopes.iter().position(|claim| self.value(claim).is_some());
        let scopes = first.and_then(|first| scopes.get(first..=first));
        self.words(scopes.unwrap_or_default())
            .filter_map(Scope::parse)
            .collect()
    }

    /// What the token says of its bearer, for policies to ask about.
    ///
    /// # Errors
    /// [`Denial::ResidencyConflict`] when it is bound to something that cannot be a silo, [`Denial::InvalidToken`] when
    /// another attribute is no text of at most 128 characters, or two aliases of it differ.
    pub fn attributes(&self) -> Result<Attributes, Denial> {
        let aliases = self.profile.aliases();
        Ok(Attributes {
            edition: self.attribute(aliases.edition)?,
            org_unit: self.attribute(aliases.org_unit)?,
            purpose: self.attribute(aliases.purpose)?,
            data_silo: self.data_silo()?,
        })
    }

    fn attribute(&self, claims: &[Claim]) -> Result<Option<String>, Denial> {
        let mut said: Option<&str> = None;
        for value in claims.iter().filter_map(|claim| self.value(claim)) {
            let text = value.as_str().map(str::trim);
            let text = text.filter(|text| attributes::is_value(text));
            let text = text.ok_or(Denial::InvalidToken)?;
            if said.is_some_and(|said| said != text) {
                return Err(Denial::InvalidToken);
            }
            said = Some(text);
        }
        Ok(said.map(str::to_owned))
    }

    fn data_silo(&self) -> Result<Option<SiloId>, Denial> {
        let mut named: Option<SiloId> = None;
        for value in self
            .profile
            .aliases()
            .data_silo
            .iter()
            .filter_map(|claim| self.value(claim))
        {
            let silo = value
                .as_str()
                .and_then(|text| SiloId::parse(text).ok())
                .ok_or(Denial::ResidencyConflict)?;
            if named.as_ref().is_some_and(|named| *named != silo) {
                return Err(Denial::ResidencyConflict);
            }
            named = Some(silo);
        }
        Ok(named)
    }

    fn value(&self, claim: Claim) -> Option<&Value> {
        let (first, rest) = claim.split_first()?;
        let found = rest
            .iter()
            .try_fold(self.claims.get(*first)?, |value, key| value.get(key))?;
        Some(found).filter(|value| !value.is_null())
    }

    fn text(&self, claims: &[Claim]) -> Option<String> {
        let texts = claims
            .iter()
            .filter_map(|claim| self.value(claim)?.as_str());
        texts
            .map(str::trim)
            .find(|text| !text.is_empty())
            .map(str::to_owned)
    }

    /// The words of all the claims, each a list of texts or one text with spaces.
    fn words<'a>(&'a self, claims: &'a [Claim]) -> impl Iterator<Item = &'a str> {
        claims
            .iter()
            .filter_map(|claim| self.value(claim))
            .flat_map(|value| match value {
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>(),
                Value::String(text) => text.split_ascii_whitespace().collect(),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
            })
    }
}
