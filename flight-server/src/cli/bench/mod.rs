//! `trailhouse bench`: load for a running server, and what it answered: throughput, latency, errors.
//!
//! ```text
//! plan (doors x connections) --> run: senders, one connection each --> samples --> report: table, JSON
//! ```
//! Without `--rate` every connection sends as fast as it is answered. With it requests are due at fixed times and a
//! latency counts from when its request was due, so that a server that stalls is not asked less often for it.

mod load;
mod query;
mod report;
mod send;

use std::path::{Path, PathBuf};
use std::time::Duration;

use catalog::clock::{Clock, Random, SystemClock, SystemRandom};
use serde_json::Value;

use self::load::{Load, Share, Token};
use self::query::Readers;
use self::send::Door;
use super::reach::{self, Reach};
use super::{ingest, say, sql, token};
use crate::config::Config;

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// Records that are made up before the clock starts; their keys are new each time they are sent.
const POOL_RECORDS: usize = 4_096;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, clap::Subcommand)]
enum Subject {
    /// Send made-up records to a running server; every tenant named has to exist
    Ingest(Ingest),
    /// Ask a running server what people ask of audit records, or one statement, again and again
    Query(Query),
}

/// What to ask.
#[derive(Debug, clap::Args)]
struct Query {
    /// The statement; default: counts, groups, a lookup and the latest page in turn
    statement: Option<String>,
    /// The tenant to ask as
    #[arg(long)]
    tenant: String,
    /// Role to act in
    #[arg(long, default_value = "Investigator")]
    role: String,
    /// Connections at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=4_096))]
    connections: u16,
    /// How long it lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Where to write the result as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Address of the Flight SQL listener; default: the configured one
    #[arg(long)]
    uri: Option<String>,
    /// File with a bearer token; default: one of the development issuer
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// What load to make.
#[derive(Debug, clap::Args)]
struct Ingest {
    /// Tenants to send as, the busiest first
    #[arg(long, value_delimiter = ',', required = true)]
    tenant: Vec<String>,
    /// How uneven tenants are: the n-th gets a share of 1 / n^SKEW; 0 is even
    #[arg(long, default_value_t = 0.0, value_parser = skew)]
    skew: f64,
    /// Doors to send through, one run for each
    #[arg(long = "format", value_enum, value_delimiter = ',', default_values_t = [Door::Single, Door::Batch, Door::Flight])]
    doors: Vec<Door>,
    /// Connections at once, one run for each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 64], value_parser = clap::value_parser!(u16).range(1..=4_096))]
    connections: Vec<u16>,
    /// Records of a batch, and of a Flight call
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch: u32,
    /// Records a second, all connections together; default: as fast as the server answers
    #[arg(long)]
    rate: Option<u32>,
    /// How long each run lasts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Where to write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Address of the HTTP listener; default: the configured one
    #[arg(long)]
    url: Option<String>,
    /// Address of the Flight SQL listener; default: the configured one
    #[arg(long)]
    uri: Option<String>,
    /// File with a bearer token, for one tenant; default: tokens of the development issuer
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One token cannot be several tenants'.
    #[error("a token file goes with one tenant")]
    OneToken,
    /// The way to the server.
    #[error(transparent)]
    Reach(#[from] reach::Error),
    /// The server is not there.
    #[error("cannot reach the server at `{0}`: is it running?")]
    Unreachable(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The records made up cannot be sent.
    #[error("the load cannot be made")]
    Load(#[from] arrow::error::ArrowError),
    /// A sender broke.
    #[error("a sender failed")]
    Sender(#[from] tokio::task::JoinError),
    /// The results.
    #[error("the results cannot be written")]
    Results(#[source] std::io::Error),
}

/// Runs the verb.
///
/// # Errors
/// When the server is not there, or the results cannot be written. Requests that it refused are counted, not errors.
pub(super) async fn run(config: Config, arguments: &Arguments) -> Result<(), super::Error> {
    match &arguments.subject {
        Subject::Ingest(ingest) => load_with(&config, ingest).await,
        Subject::Query(query) => ask(&config, query).await,
    }
}

async fn ask(config: &Config, query: &Query) -> Result<(), super::Error> {
    let token = match &query.token_file {
        Some(file) => read_token(file)?,
        None => token::mint(
            config,
            &sql::reader(&query.tenant, &query.role)?,
            TOKEN_LIFETIME,
        )?,
    };
    let own = || reach::url(config, config.silos.first().map(|silo| silo.flight));
    let uri = query.uri.clone().unwrap_or_else(own);
    let readers = Readers {
        endpoint: query.reach.flight(&uri)?,
        uri,
        token: Token(token),
        connections: query.connections,
        lasts: Duration::from_secs(query.seconds),
        statement: query.statement.clone(),
    };
    let mut outcome = query::run(&readers).await?;
    say(outcome.table());
    if let Some(path) = &query.json {
        write(path, &outcome.json())?;
    }
    Ok(())
}

async fn load_with(config: &Config, ingest: &Ingest) -> Result<(), super::Error> {
    let plan = plan(config, ingest)?;
    let mut rows = Vec::new();
    for door in &ingest.doors {
        for connections in &ingest.connections {
            let row = load::run(&plan, *door, *connections).await?;
            tracing::info!(door = door.name(), connections, "measured");
            rows.push(row);
        }
    }
    say(report::table(&rows));
    if let Some(path) = &ingest.json {
        write(path, &report::json(&rows))?;
    }
    Ok(())
}

fn plan(config: &Config, ingest: &Ingest) -> Result<Load, super::Error> {
    let silo = config.silos.first();
    let mut shares = Vec::new();
    for (place, tenant) in (1_u32..).zip(&ingest.tenant) {
        let token = match &ingest.token_file {
            Some(_) if ingest.tenant.len() > 1 => return Err(Error::OneToken.into()),
            Some(file) => read_token(file)?,
            None => token::mint(config, &ingest::writer(tenant), TOKEN_LIFETIME)?,
        };
        let weight = f64::from(place).powf(-ingest.skew);
        let pool = load::pool(tenant, SystemClock.now(), seed(), POOL_RECORDS);
        shares.push(Share::new(tenant.clone(), token, weight, pool).map_err(Error::from)?);
    }
    Ok(Load {
        shares,
        batch: ingest.batch,
        rate: ingest.rate,
        reach: ingest.reach.clone(),
        lasts: Duration::from_secs(ingest.seconds),
        url: ingest
            .url
            .clone()
            .unwrap_or_else(|| reach::url(config, silo.map(|silo| silo.http))),
        uri: ingest
            .uri
            .clone()
            .unwrap_or_else(|| reach::url(config, silo.map(|silo| silo.flight))),
    })
}

/// A seed of its own for every run: keys that were used before would be answered as duplicates.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

fn read_token(file: &Path) -> Result<String, super::Error> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|source| super::Error::File(file.to_owned(), source))?;
    Ok(text.trim().to_owned())
}

fn unreachable(
    address: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Unreachable(address.to_owned(), source.into())
}

fn write(path: &Path, result: &Value) -> Result<(), Error> {
    let mut text = result.to_string();
    text.push('\n');
    std::fs::write(path, text).map_err(Error::Results)
}

fn skew(text: &str) -> Result<f64, String> {
    let skew: f64 = text.parse().map_err(|_| "a number".to_owned())?;
    if (0.0..=8.0).contains(&skew) {
        Ok(skew)
    } else {
        Err("0 to 8".to_owned())
    }
}
