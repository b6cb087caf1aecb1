//! `trailhouse ingest`: files to records over HTTP, in batches, with a progress bar.
//!
//! Keys are stable (they come from the records), so a run that was cut off is simply started again: what is already
//! there is answered as a duplicate.

pub mod source;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use self::source::Format;
use super::{say, token};
use crate::auth::developer::TokenRequest;
use crate::config::Config;

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// What to send where.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Files, or folders of .json, .ndjson, .jsonl, each also with .gz
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
    let default_url = config
        .silos
        .first()
        .map(|silo| format!("http://{}", silo.http));
    let url = arguments.url.clone().or(default_url).unwrap_or_default();
    let stream = arguments.stream.as_deref();
    let target = Target {
        url: &url,
        tenant: &arguments.tenant,
        token: &token,
        stream,
    };
    let summary = files(&target, &arguments.paths, arguments.format, true).await?;
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
    if refused > 0 {
        Err(super::Error::Refused(refused))
    } else {
        Ok(())
    }
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

/// Records sent in one request.
const BATCH_RECORDS: usize = 1_000;
/// Bytes sent in one request, well under the server's limit.
const BATCH_BYTES: usize = 8 << 20;

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
    /// The server could not be reached.
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
    progress: bool,
) -> Result<Summary, Error> {
    let files = source::files(paths)?;
    let bar = if progress {
        bar(files.len() as u64)
    } else {
        ProgressBar::hidden()
    };
    let mut summary = Summary::default();
    for file in &files {
        bar.set_message(
            file.file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
        );
        records(
            target,
            source::records(file, format, target.tenant)?,
            &mut summary,
        )
        .await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(summary)
}

fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} files {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}

/// Sends records in batches and adds their outcomes to `summary`.
pub async fn records(
    target: &Target<'_>,
    records: impl IntoIterator<Item = Value>,
    summary: &mut Summary,
) -> Result<(), Error> {
    let client = reqwest::Client::new();
    let mut body = String::new();
    let mut lines = 0;
    for record in records {
        let line = record.to_string();
        if lines == BATCH_RECORDS || (lines > 0 && body.len() + line.len() > BATCH_BYTES) {
            send(&client, target, std::mem::take(&mut body), summary).await?;
            lines = 0;
        }
        body.push_str(&line);
        body.push('\n');
        lines += 1;
    }
    if lines > 0 {
        send(&client, target, body, summary).await?;
    }
    Ok(())
}

async fn send(
    client: &reqwest::Client,
    target: &Target<'_>,
    body: String,
    summary: &mut Summary,
) -> Result<(), Error> {
    let mut request = client
        .post(format!(
            "{}/v1/audit/records:batch",
            target.url.trim_end_matches('/')
        ))
        .bearer_auth(target.token)
        .header("x-tenant-id", target.tenant)
        .header("content-type", "application/x-ndjson")
        .body(body);
    if let Some(stream) = target.stream {
        request = request.header("x-stream", stream);
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    let answer: Value = response.json().await?;
    let Some(results) = answer["results"].as_array() else {
        return Err(Error::Refused {
            status,
            slug: answer["type"]
                .as_str()
                .and_then(|uri| uri.rsplit('/').next())
                .unwrap_or("unknown")
                .to_owned(),
            detail: answer["detail"].as_str().unwrap_or("no detail").to_owned(),
        });
    };
    results.iter().for_each(|result| count(result, summary));
    Ok(())
}

const REASONS_MAX: usize = 5;

fn count(result: &Value, summary: &mut Summary) {
    match result["status"].as_u64() {
        Some(200) if result["duplicate"] == Value::Bool(true) => summary.duplicates += 1,
        Some(200) => summary.accepted += 1,
        Some(202) => summary.quarantined += 1,
        Some(_) | None => {
            summary.refused += 1;
            if summary.reasons.len() < REASONS_MAX {
                summary.reasons.push(reason(result));
            }
        }
    }
}

fn reason(result: &Value) -> String {
    let problem = if result["problem"].is_object() {
        &result["problem"]
    } else {
        result
    };
    let first = &problem["violations"][0];
    let detail = problem["detail"].as_str().unwrap_or("no detail");
    match (first["pointer"].as_str(), first["message"].as_str()) {
        (Some(pointer), Some(message)) => format!("{detail} ({pointer}: {message})"),
        _ => detail.to_owned(),
    }
}
