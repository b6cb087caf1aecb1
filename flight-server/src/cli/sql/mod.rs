//! `trailhouse sql`: one statement, a file of them, or a prompt, over Flight SQL.
//!
//! ```text
//! statement | script | prompt --> session (Flight SQL) --schema, batches--> sinks --> format: table, CSV, NDJSON, …
//! ```

mod complete;
mod format;
mod lines;
mod prompt;
mod session;
mod sinks;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::reach::{self, Reach};
use super::{output, token};
use crate::auth::developer::TokenRequest;
use crate::config::Config;

use format::Format;
use prompt::Prompt;
use sinks::Sinks;

pub(super) use session::Error;
pub(super) use session::Session;

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// What to ask, where and as whom.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without a statement there is a prompt; statements that come through a pipe are run one after the \
    other, up to the first that has no answer.\n\n\
    Examples:\n  trailhouse sql --tenant acme \"SELECT action, count(*) FROM audit.records GROUP BY 1\"\n  \
    trailhouse sql --tenant acme --format csv < questions.sql > answers.csv"
)]
pub(super) struct Arguments {
    /// The statement; without one there is a prompt
    statement: Option<String>,
    /// The tenant
    #[arg(long)]
    tenant: String,
    /// Role to act in; with the development issuer the token is made for it
    #[arg(long, default_value = "Investigator")]
    role: String,
    /// Address of the Flight SQL listener; default: the configured one
    #[arg(long)]
    uri: Option<String>,
    /// File that holds a bearer token; default: one of the development issuer
    #[arg(long)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
    /// What answers look like; default: a table, or with --save what the name of the file says
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Keep the result in this file as well: .csv, .ndjson or .parquet, Arrow IPC otherwise
    #[arg(long, value_name = "FILE", requires = "statement")]
    save: Option<PathBuf>,
    /// Keep the receipt of the answer in this file; `trailhouse receipt verify` checks it
    #[arg(long, value_name = "FILE", requires = "statement")]
    receipt: Option<PathBuf>,
}

/// Runs the verb.
///
/// # Errors
/// When the server refuses, or is not there.
pub(super) async fn run(config: Config, arguments: &Arguments) -> Result<(), super::Error> {
    let (token, role) = match &arguments.token_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.map_err(|source| super::Error::File(file.clone(), source))?;
            (
                text.trim().to_owned(),
                Some(token::role_name(&arguments.role)?),
            )
        }
        None => {
            let reader = reader(&arguments.tenant, &arguments.role)?;
            (token::mint(&config, &reader, TOKEN_LIFETIME)?, None)
        }
    };
    let own = || reach::url(&config, config.silos.first().map(|silo| silo.flight));
    let uri = arguments.uri.clone().unwrap_or_else(own);
    let endpoint = arguments.reach.flight(&uri)?;
    let mut session = Session::connect((&uri, endpoint), &token, role.as_deref()).await?;
    let format = arguments.format.unwrap_or(Format::Table);
    let input = std::io::stdin();
    let ended = match &arguments.statement {
        Some(statement) => once(&mut session, statement, arguments).await,
        None if input.is_terminal() => {
            let prompt = Prompt::new(&mut session, format);
            prompt.run().await.map_err(super::Error::from)
        }
        None => {
            let script = prompt::script(&mut session, input, format);
            script.await.map_err(super::Error::from)
        }
    };
    match ended {
        // Who has seen enough has not met an error.
        Err(super::Error::Sql(Error::Terminal(error))) => {
            Ok(output::gone(error).map_err(Error::Terminal)?)
        }
        ended => ended,
    }
}

async fn once(
    session: &mut Session,
    statement: &str,
    arguments: &Arguments,
) -> Result<(), super::Error> {
    let mut sinks = match &arguments.save {
        Some(file) => Sinks::file(file.clone(), arguments.format).and_table(),
        None => Sinks::screen(arguments.format.unwrap_or(Format::Table))?,
    };
    if arguments.receipt.is_some() {
        sinks = sinks.wanted_whole();
    }
    let trailers = sinks::ask(session, statement, &mut sinks).await?;
    if let Some(path) = &arguments.receipt {
        let written = std::fs::write(path, trailers.receipt()?);
        written.map_err(|source| super::Error::Write(path.clone(), source))?;
    }
    Ok(sinks.ended()?)
}

/// A token request for somebody who asks questions in a role.
pub(super) fn reader(tenant: &str, role: &str) -> Result<TokenRequest, super::operator::Error> {
    Ok(TokenRequest {
        subject: "developer".to_owned(),
        tenant: Some(tenant.to_owned()),
        roles: vec![token::role_name(role)?],
        ..TokenRequest::default()
    })
}

/// These batches as a table.
pub(super) fn table(batches: &[RecordBatch]) -> Result<String, Error> {
    Ok(format::table(batches)?)
}
