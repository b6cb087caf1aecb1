//! Whose tokens are believed: `[auth]`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use catalog::context::ClaimProfile;
use catalog::ids::TenantId;
use url::Url;

use super::raw::{RawAuth, RawIssuer};
use super::resolved::{absolute, refused};
use super::{Config, Error};

const LEEWAY_S_MAX: u64 = 300;

/// Whom to believe.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// Whether this process issues tokens itself, for development.
    pub developer: bool,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How long a key set is used before it is fetched again.
    pub jwks_refresh: Duration,
    /// The file with the token that administrative commands act by, where no token is issued for them.
    pub operator_token: Option<PathBuf>,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
}

/// One trusted issuer.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// What `iss` has to be.
    pub issuer: String,
    /// What `aud` has to be or hold.
    pub audience: String,
    /// Where its public keys are.
    pub jwks: Jwks,
    /// How its claims are named.
    pub profile: ClaimProfile,
    /// The tenants it is believed about, if not about all.
    pub tenants: Option<BTreeSet<TenantId>>,
}

/// Where a key set is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// A file, read again when it is due.
    File(PathBuf),
    /// An address, fetched again when it is due.
    Url(Url),
    /// The issuer's discovery document, which names the address.
    Discovery(Url),
}

pub(super) fn resolve(raw: RawAuth, config: &Config) -> Result<Auth, Error> {
    let leeway_s = raw.leeway_s.unwrap_or(60);
    if leeway_s > LEEWAY_S_MAX {
        return Err(refused("auth.leeway_s", format!("at most {LEEWAY_S_MAX}")));
    }
    let operator_token = raw.operator_token.as_deref();
    let operator_token = operator_token
        .map(|path| absolute("auth.operator_token", path))
        .transpose()?;
    let issuers: Vec<Issuer> = raw
        .issuers
        .into_iter()
        .map(issuer)
        .collect::<Result<_, _>>()?;
    let mut names: Vec<&str> = issuers.iter().map(|one| one.issuer.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(refused("auth.issuers", "an issuer is named twice"));
    }
    let developer = raw.developer.unwrap_or(issuers.is_empty());
    let outside = config
        .listeners()
        .find(|(_, address)| !address.ip().is_loopback());
    match outside {
        Some((setting, _)) if developer => Err(refused(
            setting,
            "the development issuer runs on loopback addresses only: \
             configure [[auth.issuers]] and set auth.developer = false",
        )),
        _ if !developer && issuers.is_empty() => {
            Err(refused("auth.issuers", "nobody could call: configure one"))
        }
        _ => Ok(Auth {
            developer,
            leeway: Duration::from_secs(leeway_s),
            jwks_refresh: Duration::from_secs(raw.jwks_refresh_s.unwrap_or(600).max(30)),
            operator_token,
            issuers,
        }),
    }
}

fn issuer(raw: RawIssuer) -> Result<Issuer, Error> {
    let profile = raw.profile.as_deref().unwrap_or("generic");
    let profile = ClaimProfile::parse(profile).ok_or_else(|| {
        refused(
            "auth.issuers.profile",
            "one of generic, azuread, okta, auth0",
        )
    })?;
    if raw.issuer.is_empty() || raw.audience.is_empty() {
        return Err(refused("auth.issuers", "issuer and audience are needed"));
    }
    let jwks = match &raw.jwks {
        Some(text) => jwks(text)?,
        None => discovery(&raw.issuer)?,
    };
    Ok(Issuer {
        issuer: raw.issuer,
        audience: raw.audience,
        jwks,
        profile,
        tenants: raw.tenants.map(|names| tenants(&names)).transpose()?,
    })
}

fn tenants(names: &[String]) -> Result<BTreeSet<TenantId>, Error> {
    const SETTING: &str = "auth.issuers.tenants";
    if names.is_empty() {
        return Err(refused(SETTING, "one at least; without it, all of them"));
    }
    let names = names.iter().map(|name| TenantId::from_stored(name));
    let names = names.collect::<Result<_, _>>();
    names.map_err(|error| refused(SETTING, error.to_string()))
}

fn jwks(text: &str) -> Result<Jwks, Error> {
    const SETTING: &str = "auth.issuers.jwks";
    if text.contains("://") {
        Ok(Jwks::Url(trusted_address(SETTING, text)?))
    } else {
        Ok(Jwks::File(absolute(SETTING, text)?))
    }
}

/// Where an issuer describes itself (OpenID Connect Discovery 1.0, 4).
fn discovery(issuer: &str) -> Result<Jwks, Error> {
    let text = format!(
        "{}/.well-known/openid-configuration",
        issuer.trim_end_matches('/')
    );
    Ok(Jwks::Discovery(trusted_address(
        "auth.issuers.issuer",
        &text,
    )?))
}

/// An address that keys may come from: whoever can change them on their way can sign any token.
fn trusted_address(setting: &str, text: &str) -> Result<Url, Error> {
    let url = Url::parse(text).map_err(|error| refused(setting, error.to_string()))?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        "http" => Err(refused(setting, "https is needed beyond this machine")),
        _ => Err(refused(setting, "a file or an https:// address is needed")),
    }
}
