//! `trailhouse quarantine`: what was kept aside, and what becomes of it, over HTTP.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::reach::{self, Reach};
use super::{say, token};
use crate::auth::developer::TokenRequest;
use crate::config::Config;

const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
const PATH: &str = "/v1/audit/quarantine";

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
    /// Address of the HTTP listener; default: the configured one
    #[arg(long)]
    url: Option<String>,
    /// File that holds a bearer token; default: one of the development issuer, with the role Security.Admin
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// Answer with the server's JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The entries, the newest first
    #[command(after_help = "Example:\n  trailhouse quarantine list --tenant acme --state all")]
    List {
        /// open, released, discarded or all
        #[arg(long, default_value = "open")]
        state: String,
        /// As many as this
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Go on where the page before ended
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        server: Server,
    },
    /// One entry, with its record as far as your role shows it
    Show {
        /// The entry: the `evidenceRef` that its sender was given
        entry: String,
        #[command(flatten)]
        server: Server,
    },
    /// Store the record of an entry, as it was redacted when it was kept aside
    Release {
        /// The entry
        entry: String,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        server: Server,
    },
    /// Keep the record of an entry out for good
    Discard {
        /// The entry
        entry: String,
        /// Why
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        server: Server,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not be reached.
    #[error("the server did not answer: is it running?")]
    Unreachable(#[from] reqwest::Error),
    /// The server refused.
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

pub(super) async fn run(config: Config, arguments: &Arguments) -> Result<(), super::Error> {
    match &arguments.verb {
        Verb::List {
            state,
            limit,
            cursor,
            server,
        } => {
            let mut query = vec![("state", state.clone()), ("limit", limit.to_string())];
            query.extend(cursor.clone().map(|cursor| ("cursor", cursor)));
            let pairs = url::form_urlencoded::Serializer::new(String::new())
                .extend_pairs(query)
                .finish();
            let target = Target::of(&config, server)?;
            let answer = target.get(&format!("?{pairs}")).await?;
            tell(server, &answer, table(&answer));
        }
        Verb::Show { entry, server } => {
            let target = Target::of(&config, server)?;
            let answer = target.get(&format!("/{}", segment(entry))).await?;
            tell(server, &answer, vec![pretty(&answer)]);
        }
        Verb::Release {
            entry,
            reason,
            server,
        } => {
            let target = Target::of(&config, server)?;
            let answer = target.decide(entry, "release", reason).await?;
            let line = format!(
                "released: record {} in {}",
                answer["record"]["recordId"].as_str().unwrap_or_default(),
                answer["record"]["stream"].as_str().unwrap_or_default(),
            );
            tell(server, &answer, vec![line]);
        }
        Verb::Discard {
            entry,
            reason,
            server,
        } => {
            let target = Target::of(&config, server)?;
            let answer = target.decide(entry, "discard", reason).await?;
            tell(server, &answer, vec!["discarded".to_owned()]);
        }
    }
    Ok(())
}

fn tell(server: &Server, answer: &Value, lines: Vec<String>) {
    if server.json {
        say(answer);
    } else {
        lines.iter().for_each(say);
    }
}

fn pretty(answer: &Value) -> String {
    serde_json::to_string_pretty(answer).unwrap_or_else(|_| answer.to_string())
}

/// One line an entry, and one that says where the next page begins.
fn table(answer: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let none = Vec::new();
    let entries = answer["entries"].as_array().unwrap_or(&none);
    let line = |[id, state, reason, stream, at]: [String; 5]| {
        format!("{id:<26}  {state:<9}  {reason:<20}  {stream:<16}  {at}")
    };
    let head = ["ENTRY", "STATE", "REASON", "STREAM", "QUARANTINED AT"].map(str::to_owned);
    let mut lines = vec![line(head)];
    lines.extend(entries.iter().map(|entry| {
        let columns = ["id", "state", "reason", "stream", "quarantinedAt"];
        line(columns.map(|name| text(&entry[name])))
    }));
    let cursor = answer["cursor"].as_str();
    lines.extend(cursor.map(|cursor| format!("there are more: --cursor {cursor}")));
    lines
}

/// An entry's id within a path. No id has a character that a path takes for its own.
fn segment(entry: &str) -> String {
    url::form_urlencoded::byte_serialize(entry.as_bytes()).collect()
}

struct Target<'a> {
    client: Client,
    url: String,
    tenant: &'a str,
    token: String,
}

impl<'a> Target<'a> {
    fn of(config: &Config, server: &'a Server) -> Result<Self, super::Error> {
        let token = match &server.token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file);
                let text = text.map_err(|source| super::Error::File(file.clone(), source))?;
                text.trim().to_owned()
            }
            None => token::mint(config, &reviewer(&server.tenant), TOKEN_LIFETIME)?,
        };
        let own = || reach::url(config, config.silos.first().map(|silo| silo.http));
        let url = server.url.clone().unwrap_or_else(own);
        Ok(Self {
            client: server.reach.http(&url)?.build().map_err(Error::from)?,
            url: format!("{}{PATH}", url.trim_end_matches('/')),
            tenant: &server.tenant,
            token,
        })
    }

    async fn get(&self, rest: &str) -> Result<Value, Error> {
        self.send(self.client.get(format!("{}{rest}", self.url)))
            .await
    }

    async fn decide(&self, entry: &str, verb: &str, reason: &str) -> Result<Value, Error> {
        let url = format!("{}/{}:{verb}", self.url, segment(entry));
        let body = json!({"reason": reason}).to_string();
        let request = self.client.post(url).body(body);
        self.send(request.header("content-type", "application/json"))
            .await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Error> {
        let request = request
            .bearer_auth(&self.token)
            .header("x-tenant-id", self.tenant);
        let response = request.send().await?;
        let status = response.status();
        let answer: Value = response.json().await?;
        if status.is_success() {
            return Ok(answer);
        }
        let slug = answer["type"]
            .as_str()
            .and_then(|uri| uri.rsplit('/').next());
        Err(Error::Refused {
            status: status.as_u16(),
            slug: slug.unwrap_or("unknown").to_owned(),
            detail: answer["detail"].as_str().unwrap_or("no detail").to_owned(),
        })
    }
}

/// A token request for somebody who may decide.
fn reviewer(tenant: &str) -> TokenRequest {
    TokenRequest {
        subject: "reviewer".to_owned(),
        tenant: Some(tenant.to_owned()),
        roles: vec!["Security.Admin".to_owned()],
        ..TokenRequest::default()
    }
}
