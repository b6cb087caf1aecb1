//! Resolved settings: defaults filled in, every value parsed, and the whole checked for sense.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use catalog::ids::SiloId;
use engine::seal::WitnessKey;
use engine::table::Root;
use url::Url;

use super::Error;
use super::auth::{self, Auth};
use super::exports::{self, ExportSettings};
use super::queries::{self, QuerySettings};
use super::raw::{RawConfig, RawControl, RawLimits, RawLog, RawSilo, RawWitness};
use super::tables::{self, Maintenance};
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
    /// How tables are kept in order.
    pub maintenance: Maintenance,
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
    /// How exports are made.
    pub exports: ExportSettings,
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
        maintenance: tables::resolve(&raw.tables)?,
        silos,
        admin,
        tls: tls::resolve(&raw.tls)?,
        auth: Auth::default(),
        limits,
        queries: queries::resolve(&raw.queries)?,
        exports: exports::resolve(raw.exports)?,
        witnesses: witnesses(&raw.witnesses)?,
        log,
    };
    config.auth = auth::resolve(raw.auth, &config)?;
    let clear = |plaintext: Option<bool>| plaintext.unwrap_or(false);
    tls::check(
        &config,
        clear(raw.tls.plaintext),
        clear(raw.admin.plaintext),
    )?;
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
