//! `trailhouse export`: records as files, asked for, followed and fetched over HTTP.
//!
//! ```text
//! create ──▶ id ──watch──▶ finished ──download──▶ folder ──▶ trailhouse verify bundle
//! ```

mod client;
mod download;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use self::client::Client;
use super::reach::Reach;
use super::say;
use crate::config::Config;

pub(super) use self::client::Error;

/// What to do where, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
struct Server {
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// Role to act in, with the development issuer; the masks of the files are those of the role. May be repeated
    #[arg(long, default_value = "Export.Operator")]
    role: Vec<String>,
    /// Address of the HTTP listener; default: the configured one
    #[arg(long)]
    url: Option<String>,
    /// File that holds a bearer token; default: one of the development issuer
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// Answer with the server's JSON instead of text
    #[arg(long)]
    json: bool,
}

/// What to export.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// Of this stream
    #[arg(long, default_value = "audit.default")]
    stream: String,
    /// Created then or later, for instance 2026-01-01T00:00:00Z
    #[arg(long)]
    from: Option<String>,
    /// Created before
    #[arg(long)]
    to: Option<String>,
    /// Only records with this value in this field: action=Login, labels.env=prod. May be repeated; of one field, one of the
    /// values is enough
    #[arg(long, value_name = "FIELD=VALUE")]
    filter: Vec<String>,
    /// How records are written: parquet or ndjson
    #[arg(long, default_value = "parquet")]
    format: String,
    /// What for; most policies want to know
    #[arg(long)]
    purpose: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Ask for an export, and print its id
    #[command(
        after_help = "Example:\n  trailhouse export create --tenant acme --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --filter action=Login --purpose \"case 17\" --wait"
    )]
    Create {
        #[command(flatten)]
        wanted: Wanted,
        /// Do not return before it has ended, and show how far it is
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        server: Server,
    },
    /// How far an export has come
    Status {
        /// The export
        id: String,
        /// Do not return before it has ended, and show how far it is
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Your exports, the newest first
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Fetch every file of an export into a folder, and check each
    #[command(
        after_help = "Example:\n  trailhouse export download exp-01KDVDN0000000000000000001 acme-2026-01 --tenant acme"
    )]
    Download {
        /// The export
        id: String,
        /// The folder; it has to be empty, or not to be there
        folder: PathBuf,
        /// Go on with a download that broke off; what is there is checked, and kept
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Have the server look at every stored file of an export again. `trailhouse verify bundle` checks one that you have
    Verify {
        /// The export
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Call an export off
    Cancel {
        /// The export
        id: String,
        #[command(flatten)]
        server: Server,
    },
}

pub(super) async fn run(config: Config, arguments: &Arguments) -> Result<(), super::Error> {
    match &arguments.verb {
        Verb::Create {
            wanted,
            wait,
            server,
        } => {
            let body = body(wanted)?;
            let client = Client::of(&config, server)?;
            let job = client.create(&body).await?;
            if !server.json {
                // At once: whoever does not wait for the end can ask for it by this.
                say(client::text(&job, "exportId"));
            }
            let job = ended(&client, job, *wait).await?;
            if server.json {
                say(job);
            }
        }
        Verb::Status { id, wait, server } => {
            let client = Client::of(&config, server)?;
            let job = client.job(id).await?;
            let job = ended(&client, job, *wait).await?;
            tell(server, &job, watch::lines(&job));
        }
        Verb::List { server } => {
            let all = Client::of(&config, server)?.all().await?;
            tell(server, &all, table(&all));
        }
        Verb::Download {
            id,
            folder,
            resume,
            server,
        } => {
            let client = Client::of(&config, server)?;
            let job = client.job(id).await?;
            let (files, bytes) = download::all(&client, &job, folder, *resume).await?;
            let told = json!({ "exportId": id, "files": files, "bytes": bytes });
            let line = format!(
                "{files} file(s), {bytes} bytes: what is in them is checked with `trailhouse verify bundle`"
            );
            tell(server, &told, vec![line]);
        }
        Verb::Verify { id, server } => {
            let report = Client::of(&config, server)?.verify(id).await?;
            tell(server, &report, findings(&report));
            if report["ok"] != true {
                return Err(Error::NotSound.into());
            }
        }
        Verb::Cancel { id, server } => {
            let job = Client::of(&config, server)?.cancel(id).await?;
            tell(server, &job, watch::lines(&job));
        }
    }
    Ok(())
}

async fn ended(client: &Client, job: Value, wait: bool) -> Result<Value, Error> {
    if wait {
        watch::until_ended(client, job).await
    } else {
        Ok(job)
    }
}

fn tell(server: &Server, answer: &Value, lines: Vec<String>) {
    if server.json {
        say(answer);
    } else {
        lines.iter().for_each(say);
    }
}

/// What is sent to ask for an export.
fn body(wanted: &Wanted) -> Result<Value, Error> {
    let mut filters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for filter in &wanted.filter {
        let pair = filter.split_once('=');
        let (field, value) = pair.ok_or_else(|| Error::Filter(filter.clone()))?;
        filters.entry(field).or_default().push(value);
    }
    let mut body = json!({
        "stream": wanted.stream,
        "timeRange": {},
        "filters": filters,
        "format": wanted.format,
    });
    for (name, moment) in [("from", &wanted.from), ("to", &wanted.to)] {
        if let Some(moment) = moment {
            body["timeRange"][name] = moment.as_str().into();
        }
    }
    if let Some(purpose) = &wanted.purpose {
        body["purpose"] = purpose.as_str().into();
    }
    Ok(body)
}

/// One line an export.
fn table(all: &Value) -> Vec<String> {
    let line = |[id, state, records, stream, at]: [String; 5]| {
        format!("{id:<30}  {state:<9}  {records:>12}  {stream:<16}  {at}")
    };
    let head = ["EXPORT", "STATE", "RECORDS", "STREAM", "ASKED AT"].map(str::to_owned);
    let mut lines = vec![line(head)];
    let none = Vec::new();
    let jobs = all["exports"].as_array().unwrap_or(&none);
    lines.extend(jobs.iter().map(|job| {
        let text = |name: &str| client::text(job, name);
        line([
            text("exportId"),
            text("state"),
            job["progress"]["records"].to_string(),
            text("stream"),
            text("createdAt"),
        ])
    }));
    lines
}

fn findings(report: &Value) -> Vec<String> {
    let none = Vec::new();
    let damaged = report["damaged"].as_array().unwrap_or(&none).iter();
    let mut lines: Vec<_> = damaged
        .filter_map(Value::as_str)
        .map(|path| format!("WRONG     {}: it is not what was made", path.escape_debug()))
        .collect();
    if report["signature"] != "valid" {
        lines.push("WRONG     manifest.sig: the tenant did not sign this manifest".to_owned());
    }
    if report["ok"] == true {
        lines.push(format!(
            "verified: {} stored file(s) are what was made, and the tenant signed it",
            report["files"]
        ));
    }
    lines
}
