//! Resolved settings: defaults filled in, every value parsed, and the whole checked for sense.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use catalog::context::ClaimProfile;
use catalog::ids::SiloId;
use engine::seal::WitnessKey;
use engine::table::Root;
use url::Url;

use super::Error;
use super::queries::{self, QuerySettings};
use super::raw::{
    RawAuth, RawConfig, RawControl, RawIssuer, RawLimits, RawLog, RawSilo, RawWitness,
};
use super::tls::{self, Tls};
use super::wal::{self, Wal};
use super::{rates, roots};
use crate::limits::{BATCH_BYTES_CEILING, Limits, RECORD_BYTES_CEILING, SILOS_MAX};

const DEFAULT_SILO: &str = "local";
const DEFAULT_DATA: &str = "./trailhouse-data";
const DEFAULT_KEYS: &str = "./trailhouse-keys";
const DEFAULT_FLIGHT_PORT: u16 = 31337;
const DEFAULT_HTTP_PORT: u16 = 31380;
const DEFAULT_ADMIN_PORT: u16 = 31390;
const LEEWAY_S_MAX: u64 = 300;
/// A note has room for them beside the keys of the tenant.
const WITNESSES_MAX: usize = 16;
/// Libraries log at `info` what operators did not ask for.
const DEFAULT_FILTER: &str = "warn,catalog=info,engine=info,flight_server=info";

/// Everything a process needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the registry and the policies lie: below `control/` of this root.
    pub control_root: Root,
    /// The folder of the local key provider.
    pub keys_folder: PathBuf,
    /// The log that makes records durable before they are in their tables.
    pub wal: Wal,
    /// The silos this process serves, in the order of their names; at least one.
    pub silos: Vec<Silo>,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// What the silos are served with, if that is TLS.
    pub tls: Option<Tls>,
    /// Whom to believe.
    pub auth: Auth,
    /// How much of everything.
    pub limits: Limits,
    /// What queries may use.
    pub queries: QuerySettings,
    /// Who is asked to cosign the checkpoints of logs.
    pub witnesses: Vec<Witness>,
    /// What is logged, and how.
    pub log: Log,
}

/// A witness of the logs.
#[derive(Clone, Debug)]
pub struct Witness {
    /// Its verifier key.
    pub key: WitnessKey,
    /// The address that `/add-checkpoint` is below.
    pub url: Url,
}

/// One silo and its two listeners.
#[derive(Clone, Debug)]
pub struct Silo {
    /// Its name.
    pub id: SiloId,
    /// The root of its object storage.
    pub root: Root,
    /// Where Flight SQL is served for it.
    pub flight: SocketAddr,
    /// Where HTTP is served for it.
    pub http: SocketAddr,
}

/// Whom to believe.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Whether this process issues tokens itself, for development.
    pub developer: bool,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// How long a key set is used before it is fetched again.
    pub jwks_refresh: Duration,
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
}

/// Where a key set is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    /// A file, read again when it is due.
    File(PathBuf),
    /// An address, fetched again when it is due.
    Url(Url),
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Log {
    /// A filter as `tracing` reads it.
    pub filter: String,
    /// The shape of a line.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Every address this process listens on, with the setting that names it.
    pub fn listeners(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let silos = self.silos.iter().flat_map(|silo| {
            [
                (format!("silos.{}.flight", silo.id), silo.flight),
                (format!("silos.{}.http", silo.id), silo.http),
            ]
        });
        silos.chain([("admin.listen".to_owned(), self.admin)])
    }
}

pub(super) fn resolve(raw: RawConfig, environment: &[(String, String)]) -> Result<Config, Error> {
    let silos = silos(raw.silos, environment)?;
    let control_root = control_root(&raw.control, &silos, environment)?;
    let keys_folder = raw.keys.folder.unwrap_or_else(|| DEFAULT_KEYS.to_owned());
    let admin = address(
        "admin.listen",
        raw.admin.listen.as_deref(),
        Some(DEFAULT_ADMIN_PORT),
    )?;
    let limits = limits(&raw.limits)?;
    let log = log(raw.log)?;
    let mut config = Config {
        control_root,
        keys_folder: absolute("keys.folder", &keys_folder)?,
        wal: wal::resolve(raw.wal)?,
        silos,
        admin,
        tls: tls::resolve(&raw.tls)?,
        auth: Auth {
            developer: false,
            leeway: Duration::ZERO,
            jwks_refresh: Duration::ZERO,
            issuers: Vec::new(),
        },
        limits,
        queries: queries::resolve(&raw.queries)?,
        witnesses: witnesses(&raw.witnesses)?,
        log,
    };
    config.auth = auth(raw.auth, &config)?;
    tls::check(&config, raw.tls.plaintext.unwrap_or(false))?;
    check_apart(&config)?;
    Ok(config)
}

pub(super) fn refused(setting: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Refused {
        setting: setting.into(),
        reason: reason.into(),
    }
}

fn silos(
    raw: BTreeMap<String, RawSilo>,
    environment: &[(String, String)],
) -> Result<Vec<Silo>, Error> {
    if raw.len() > SILOS_MAX {
        return Err(refused("silos", format!("at most {SILOS_MAX}")));
    }
    if raw.is_empty() {
        return Ok(vec![silo(
            DEFAULT_SILO,
            &RawSilo::default(),
            true,
            environment,
        )?]);
    }
    // The default ports go to a lone silo only: with several, each has to say where it listens.
    let alone = raw.len() == 1;
    raw.iter()
        .map(|(name, settings)| silo(name, settings, alone, environment))
        .collect()
}

fn silo(
    name: &str,
    raw: &RawSilo,
    alone: bool,
    environment: &[(String, String)],
) -> Result<Silo, Error> {
    let setting = |key: &str| format!("silos.{name}.{key}");
    let id =
        SiloId::parse(name).map_err(|error| refused(format!("silos.{name}"), error.to_string()))?;
    let root = match (raw.root.as_deref(), alone) {
        (Some(root), _) => root,
        (None, true) => DEFAULT_DATA,
        (None, false) => return Err(refused(setting("root"), "is missing")),
    };
    let root = roots::root(&format!("silos.{name}"), root, &raw.store, environment)?;
    let port = |port: u16| alone.then_some(port);
    Ok(Silo {
        id,
        root,
        flight: address(
            &setting("flight"),
            raw.flight.as_deref(),
            port(DEFAULT_FLIGHT_PORT),
        )?,
        http: address(
            &setting("http"),
            raw.http.as_deref(),
            port(DEFAULT_HTTP_PORT),
        )?,
    })
}

/// Where nothing else is said, control documents lie in the first silo.
fn control_root(
    raw: &RawControl,
    silos: &[Silo],
    environment: &[(String, String)],
) -> Result<Root, Error> {
    const SECTION: &str = "control";
    let Some(text) = &raw.root else {
        if !raw.store.0.is_empty() {
            return Err(refused("control.store", "goes with a control.root"));
        }
        let first = silos.first().map(|silo| silo.root.clone());
        return first.ok_or_else(|| refused("silos", "at least one is needed"));
    };
    // A silo's root that is named again needs no settings of its own.
    let same = silos
        .iter()
        .find(|silo| raw.store.0.is_empty() && same_text(silo.root.url().as_str(), text));
    match same {
        Some(silo) => Ok(silo.root.clone()),
        None => roots::root(SECTION, text, &raw.store, environment),
    }
}

fn same_text(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

pub(super) fn absolute(setting: &str, path: &str) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|error| refused(setting, error.to_string()))
}

fn address(setting: &str, text: Option<&str>, port: Option<u16>) -> Result<SocketAddr, Error> {
    match (text, port) {
        (Some(text), _) => text
            .parse()
            .map_err(|_| refused(setting, "an address like 127.0.0.1:31380 is needed")),
        (None, Some(port)) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        (None, None) => Err(refused(setting, "is missing")),
    }
}

fn auth(raw: RawAuth, config: &Config) -> Result<Auth, Error> {
    let leeway_s = raw.leeway_s.unwrap_or(60);
    if leeway_s > LEEWAY_S_MAX {
        return Err(refused("auth.leeway_s", format!("at most {LEEWAY_S_MAX}")));
    }
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
    Ok(Issuer {
        issuer: raw.issuer,
        audience: raw.audience,
        jwks: jwks(&raw.jwks)?,
        profile,
    })
}

fn witnesses(raw: &BTreeMap<String, RawWitness>) -> Result<Vec<Witness>, Error> {
    if raw.len() > WITNESSES_MAX {
        return Err(refused("witnesses", format!("at most {WITNESSES_MAX}")));
    }
    raw.iter()
        .map(|(name, settings)| witness(name, settings))
        .collect()
}

fn witness(name: &str, raw: &RawWitness) -> Result<Witness, Error> {
    let setting = |key: &str| format!("witnesses.{name}.{key}");
    let key = WitnessKey::parse(&raw.key).map_err(|_| {
        let reason = "a verifier key is needed, as `trailhouse witness key` prints it";
        refused(setting("key"), reason)
    })?;
    let url = Url::parse(&raw.url).map_err(|error| refused(setting("url"), error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
        return Err(refused(
            setting("url"),
            "an http or https address is needed",
        ));
    }
    Ok(Witness { key, url })
}

fn jwks(text: &str) -> Result<Jwks, Error> {
    const SETTING: &str = "auth.issuers.jwks";
    if !text.contains("://") {
        return Ok(Jwks::File(absolute(SETTING, text)?));
    }
    let url = Url::parse(text).map_err(|error| refused(SETTING, error.to_string()))?;
    let loopback = match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(Jwks::Url(url)),
        // Whoever can change the keys on their way can sign any token.
        "http" if loopback => Ok(Jwks::Url(url)),
        "http" => Err(refused(SETTING, "https is needed beyond this machine")),
        _ => Err(refused(SETTING, "a file or an https:// address is needed")),
    }
}

fn limits(raw: &RawLimits) -> Result<Limits, Error> {
    let default = Limits::default();
    let seconds =
        |value: Option<u64>, default: Duration| value.map_or(default, Duration::from_secs);
    let batch_bytes_max = raw.batch_bytes.unwrap_or(default.batch_bytes_max);
    let limits = Limits {
        record_bytes_max: raw.record_bytes.unwrap_or(default.record_bytes_max),
        batch_bytes_max,
        batch_lines_max: raw.batch_lines.unwrap_or(default.batch_lines_max),
        metric_tenants_max: raw.metric_tenants.unwrap_or(default.metric_tenants_max),
        shutdown_time_max: seconds(raw.shutdown_s, default.shutdown_time_max),
        rates: rates::resolve(raw, batch_bytes_max)?,
    };
    let within = |setting: &str, value: usize, max: usize| {
        if (1..=max).contains(&value) {
            Ok(())
        } else {
            Err(refused(format!("limits.{setting}"), format!("1 to {max}")))
        }
    };
    within(
        "record_bytes",
        limits.record_bytes_max,
        RECORD_BYTES_CEILING,
    )?;
    within("batch_bytes", limits.batch_bytes_max, BATCH_BYTES_CEILING)?;
    within("batch_lines", limits.batch_lines_max, 1_000_000)?;
    within("metric_tenants", limits.metric_tenants_max, 100_000)?;
    if limits.record_bytes_max > limits.batch_bytes_max {
        return Err(refused("limits.batch_bytes", "less than one record"));
    }
    Ok(limits)
}

fn log(raw: RawLog) -> Result<Log, Error> {
    let format = match raw.format.as_deref().unwrap_or("json") {
        "json" => LogFormat::Json,
        "text" => LogFormat::Text,
        _ => return Err(refused("log.format", "one of json, text")),
    };
    let filter = raw.filter.unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    if tracing_subscriber::EnvFilter::try_new(&filter).is_err() {
        return Err(refused(
            "log.filter",
            "not a filter like `info` or `engine=debug,warn`",
        ));
    }
    Ok(Log { filter, format })
}

/// Two silos in one place, keys among the data, or two listeners on one address are mistakes that would show late.
fn check_apart(config: &Config) -> Result<(), Error> {
    for (index, one) in config.silos.iter().enumerate() {
        for other in &config.silos[index + 1..] {
            if one.root.overlaps(&other.root) {
                let setting = format!("silos.{}.root", other.id);
                return Err(refused(setting, format!("overlaps with silo {}", one.id)));
            }
        }
        if one.root.overlaps(&config.control_root) && !one.root.is(&config.control_root) {
            let reason = format!("overlaps with silo {}", one.id);
            return Err(refused("control.root", reason));
        }
        if let Some(root) = one.root.path() {
            // A copy of the data folder must not bring the keys along.
            if config.keys_folder.starts_with(root) {
                return Err(refused("keys.folder", "must lie outside the data"));
            }
            if config.wal.folder.starts_with(root) || root.starts_with(&config.wal.folder) {
                return Err(refused("wal.folder", "must lie apart from the data"));
            }
            let spill = config.queries.budget.spill.as_ref();
            if spill.is_some_and(|room| room.folder.starts_with(root)) {
                return Err(refused(
                    "queries.spill_folder",
                    "must lie apart from the data",
                ));
            }
        }
    }
    let mut seen: Vec<SocketAddr> = Vec::new();
    for (setting, address) in config.listeners() {
        if address.port() != 0 && seen.contains(&address) {
            return Err(refused(setting, "another listener has this address"));
        }
        seen.push(address);
    }
    Ok(())
}
