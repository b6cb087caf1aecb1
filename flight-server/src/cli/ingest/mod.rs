//! `trailhouse ingest`: files to records over HTTP, in batches, with a progress bar.
//!
//! Keys are stable (they come from the records), so a run that was cut off is simply started again: what is already
//! there is answered as a duplicate. A bad record is set aside and counted; the others go on.

mod rejects;
mod send;
pub mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::rejects::Rejects;
use self::send::{Line, Sender};
use self::source::{Bad, Format, Item};
use super::reach::{self, Reach};
use super::{say, token};
use crate::auth::developer::TokenRequest;
use crate::config::Config;

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// Records that are read while others are sent.
const AHEAD_MAX: usize = 16;
/// How long a source may be silent before what it gave is sent.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// What to send where.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files, or folders of .json, .ndjson, .jsonl, each also with .gz; "-" is standard input, one record a line
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// What the files hold
    #[arg(long, value_enum, default_value = "audit")]
    format: Format,
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// Stream, if not audit.default
    #[arg(long)]
    stream: Option<String>,
    /// Address of the HTTP listener; default: the configured one
    #[arg(long)]
    url: Option<String>,
    /// File that holds a bearer token; default: one of the development issuer
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// Where to put what was refused: a line each, with its number, the problem and the original
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When not everything was taken.
pub async fn run(config: Config, arguments: &Arguments) -> Result<(), super::Error> {
    let token = match &arguments.token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            text.map_err(|source| super::Error::File(file.clone(), source))?
                .trim()
                .to_owned()
        }
        None => token::mint(&config, &writer(&arguments.tenant), TOKEN_LIFETIME)?,
    };
    let own = || reach::url(&config, config.silos.first().map(|silo| silo.http));
    let url = arguments.url.clone().unwrap_or_else(own);
    let target = Target {
        url: &url,
        tenant: &arguments.tenant,
        token: &token,
        stream: arguments.stream.as_deref(),
    };
    let rejects = match &arguments.rejects {
        Some(path) => Rejects::create(path)?,
        None => Rejects::nowhere(),
    };
    let mut sender = Sender::new(&target, arguments.reach.http(target.url)?, rejects)?;
    let sent = all(&mut sender, &arguments.paths, arguments.format, true).await;
    // What is known is said, also of a run that broke off.
    let summary = sender.finish()?;
    report(&summary);
    sent?;
    match summary.refused {
        0 => Ok(()),
        refused => Err(super::Error::Refused(refused)),
    }
}

fn report(summary: &Summary) {
    let Summary {
        accepted,
        duplicates,
        quarantined,
        refused,
        reasons,
    } = summary;
    say(format!(
        "{accepted} accepted, {duplicates} known before, {quarantined} quarantined, {refused} refused"
    ));
    reasons
        .iter()
        .for_each(|reason| say(format!("  refused: {reason}")));
}

/// A token request for somebody who sends records.
pub(super) fn writer(tenant: &str) -> TokenRequest {
    TokenRequest {
        subject: "ingest".to_owned(),
        tenant: Some(tenant.to_owned()),
        scopes: vec!["audit.write".to_owned()],
        ..TokenRequest::default()
    }
}

/// What became of the records that were sent.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Newly stored.
    pub accepted: u64,
    /// Stored before, under the same key with the same payload.
    pub duplicates: u64,
    /// Kept aside for an operator.
    pub quarantined: u64,
    /// Refused; the first few reasons follow.
    pub refused: u64,
    /// The first reasons, without values.
    pub reasons: Vec<String>,
}

/// Why a run stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("nothing more was sent")]
    Source(#[from] source::Error),
    /// What was refused could not be written down.
    #[error("the file of rejects cannot be written")]
    Rejects(#[source] std::io::Error),
    /// The server could not be reached, for as long as was tried.
    #[error("the server did not answer; what was sent is safe, run the same command again")]
    Unreachable(#[from] reqwest::Error),
    /// The server refused the whole request.
    #[error("the server refused: {status} {slug}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Problem slug.
        slug: String,
        /// What to do.
        detail: String,
    },
}

/// Where records go and as whom.
#[derive(Debug)]
pub struct Target<'a> {
    /// Base address of the HTTP listener, e.g. `http://127.0.0.1:31380`.
    pub url: &'a str,
    /// Tenant id.
    pub tenant: &'a str,
    /// Bearer token with `audit.write`.
    pub token: &'a str,
    /// Stream, if not the default one.
    pub stream: Option<&'a str>,
}

/// Sends the records of all files, in order.
pub async fn files(
    target: &Target<'_>,
    paths: &[PathBuf],
    format: Format,
) -> Result<Summary, Error> {
    let mut sender = Sender::new(target, reqwest::Client::builder(), Rejects::nowhere())?;
    all(&mut sender, paths, format, false).await?;
    sender.finish()
}

/// Sends these records.
pub async fn records(
    target: &Target<'_>,
    records: impl IntoIterator<Item = Value>,
) -> Result<Summary, Error> {
    let mut sender = Sender::new(target, reqwest::Client::builder(), Rejects::nowhere())?;
    for (number, record) in (1..).zip(records) {
        let text = record.to_string();
        sender.add(Line::new("", number, text)).await?;
    }
    sender.send().await?;
    sender.finish()
}

async fn all(
    sender: &mut Sender<'_>,
    paths: &[PathBuf],
    format: Format,
    progress: bool,
) -> Result<(), Error> {
    let files = source::files(paths)?;
    let bar = if progress {
        bar(files.len() as u64)
    } else {
        ProgressBar::hidden()
    };
    for file in &files {
        let name = file
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut items = read(file, format, sender.tenant())?;
        loop {
            match timeout(SILENCE_MAX, items.recv()).await {
                Ok(Some(item)) => take(sender, &name, item?).await?,
                Ok(None) => break,
                // Whoever feeds a pipe line by line does not wait for a batch to be full.
                Err(_) => sender.send().await?,
            }
            bar.set_message(format!("{name} {} records", sender.answered()));
        }
        bar.inc(1);
    }
    sender.send().await?;
    bar.finish_and_clear();
    Ok(())
}

async fn take(sender: &mut Sender<'_>, file: &str, item: Item) -> Result<(), Error> {
    match item.record {
        Ok(text) => sender.add(Line::new(file, item.line, text)).await,
        Err(Bad { reason, original }) => {
            sender.reject(Line::new(file, item.line, original), &reason)
        }
    }
}

/// The records of a file, a few of them ahead. A thread reads them: nobody can stop waiting for standard input.
fn read(
    path: &Path,
    format: Format,
    tenant: &str,
) -> Result<mpsc::Receiver<Result<Item, source::Error>>, Error> {
    let (items, read) = mpsc::channel(AHEAD_MAX);
    let (file, tenant) = (path.to_owned(), tenant.to_owned());
    let reading = move || match source::records(&file, format, &tenant) {
        Ok(records) => {
            for item in records {
                if items.blocking_send(item).is_err() {
                    return;
                }
            }
        }
        // An error here is that nobody listens any more.
        Err(error) => drop(items.blocking_send(Err(error))),
    };
    let started = std::thread::Builder::new().spawn(reading);
    started.map_err(|source| source::Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    Ok(read)
}

pub(super) fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} files {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}
