//! `trailhouse sql`: one statement, or a prompt, over Flight SQL; answers as aligned tables.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::writer::FileWriter;
use arrow::util::pretty::pretty_format_batches;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use futures::TryStreamExt;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::reach::{self, Reach};
use super::{output, say, token};
use crate::auth::developer::TokenRequest;
use crate::config::Config;
use crate::flight::{RECEIPT, RECEIPT_ID};

const TOKEN_LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// What to ask, where and as whom.
#[derive(Debug, clap::Args)]
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
    /// Keep the result in this file, as Arrow IPC
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
        None => (
            token::mint(
                &config,
                &reader(&arguments.tenant, &arguments.role)?,
                TOKEN_LIFETIME,
            )?,
            None,
        ),
    };
    let own = || reach::url(&config, config.silos.first().map(|silo| silo.flight));
    let uri = arguments.uri.clone().unwrap_or_else(own);
    let endpoint = arguments.reach.flight(&uri)?;
    let mut session = Session::connect((&uri, endpoint), &token, role.as_deref()).await?;
    match &arguments.statement {
        Some(statement) => {
            let answer = session.ask(statement).await?;
            say(table(&answer.batches)?);
            answer.keep(arguments)?;
        }
        None => {
            let input = BufReader::new(std::io::stdin());
            match prompt(&mut session, input, std::io::stdout()).await {
                Err(Error::Terminal(error)) => output::gone(error).map_err(Error::Terminal)?,
                ended => ended?,
            }
        }
    }
    Ok(())
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

/// Rows shown at most; the rest is counted.
const ROWS_SHOWN_MAX: usize = 1_000;

/// Why a statement has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is no URI or nobody listens there.
    #[error("cannot reach the server at `{0}`: is it running?")]
    Unreachable(String, #[source] tonic::transport::Error),
    /// The server refused the statement.
    #[error("{message}")]
    Refused {
        /// The server's own words.
        message: String,
        /// The problem document, where the server sent one.
        problem: Option<String>,
    },
    /// The answer could not be read or shown.
    #[error("the answer is not readable")]
    Unreadable(#[from] arrow::error::ArrowError),
    /// The answer came without a receipt.
    #[error("the answer came without its receipt; ask the server for it: GET /v1/receipts/{0}")]
    NoReceipt(String),
    /// The terminal went away.
    #[error("the terminal is not usable")]
    Terminal(#[from] std::io::Error),
}

/// A connection that speaks as one token.
#[derive(Debug)]
pub(super) struct Session {
    client: FlightSqlServiceClient<Channel>,
}

impl Session {
    /// Connects to where `uri` says, with a bearer token and an optional role to act in.
    pub(super) async fn connect(
        (uri, endpoint): (&str, Endpoint),
        token: &str,
        role: Option<&str>,
    ) -> Result<Self, Error> {
        let unreachable = |source| Error::Unreachable(uri.to_owned(), source);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        let mut client = FlightSqlServiceClient::new(channel);
        client.set_token(token.to_owned());
        if let Some(role) = role {
            client.set_header("x-trailhouse-role", role);
        }
        Ok(Self { client })
    }

    /// Runs one statement and returns its batches.
    pub(super) async fn query(&mut self, statement: &str) -> Result<Vec<RecordBatch>, Error> {
        Ok(self.ask(statement).await?.batches)
    }

    /// Runs one statement and returns all that comes of it.
    async fn ask(&mut self, statement: &str) -> Result<Answer, Error> {
        let info = self.client.execute(statement.to_owned(), None).await;
        let info = info.map_err(|error| refusal(&error))?;
        let mut answer = Answer {
            schema: info.clone().try_decode_schema()?,
            batches: Vec::new(),
            trailers: MetadataMap::new(),
        };
        for endpoint in info.endpoint {
            let Some(ticket) = endpoint.ticket else {
                continue;
            };
            let mut stream = self
                .client
                .do_get(ticket)
                .await
                .map_err(|error| refusal(&error))?;
            while let Some(batch) = stream.try_next().await.map_err(|error| refusal(&error))? {
                answer.batches.push(batch);
            }
            answer.trailers = stream.trailers().unwrap_or_default();
        }
        Ok(answer)
    }
}

/// What came of a statement.
#[derive(Debug)]
struct Answer {
    schema: Schema,
    batches: Vec<RecordBatch>,
    trailers: MetadataMap,
}

impl Answer {
    /// Writes the files that were asked for.
    fn keep(&self, arguments: &Arguments) -> Result<(), super::Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| super::Error::Write(path, source)
        };
        if let Some(path) = &arguments.save {
            let file = File::create(path).map_err(failed(path))?;
            self.write(BufWriter::new(file))?;
        }
        if let Some(path) = &arguments.receipt {
            std::fs::write(path, self.receipt()?).map_err(failed(path))?;
        }
        Ok(())
    }

    fn write(&self, file: BufWriter<File>) -> Result<(), Error> {
        let mut writer = FileWriter::try_new(file, &self.schema)?;
        for batch in &self.batches {
            writer.write(batch)?;
        }
        Ok(writer.finish()?)
    }

    fn receipt(&self) -> Result<Vec<u8>, Error> {
        let receipt = self.trailers.get_bin(RECEIPT);
        let receipt = receipt.and_then(|receipt| receipt.to_bytes().ok());
        let id = self.trailers.get(RECEIPT_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or("{id}");
        Ok(receipt
            .ok_or_else(|| Error::NoReceipt(id.to_owned()))?
            .to_vec())
    }
}

/// What the server said, without the layers of the client around it.
fn refusal(error: &FlightError) -> Error {
    match error {
        FlightError::Tonic(status) => Error::Refused {
            message: status.message().to_owned(),
            problem: problem(status.details()),
        },
        other => Error::Refused {
            message: other.to_string(),
            problem: None,
        },
    }
}

/// The problem document in a status, wherever in its details it stands.
fn problem(details: &[u8]) -> Option<String> {
    let start = details.windows(2).position(|window| window == b"{\"")?;
    let documents = serde_json::Deserializer::from_slice(details.get(start..)?);
    let document = documents.into_iter::<serde_json::Value>().next()?.ok()?;
    serde_json::to_string_pretty(&document).ok()
}

/// An answer as an aligned table with its row count.
pub(super) fn table(batches: &[RecordBatch]) -> Result<String, Error> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut left = ROWS_SHOWN_MAX;
    let shown: Vec<RecordBatch> = batches
        .iter()
        .map(|batch| {
            let take = left.min(batch.num_rows());
            left -= take;
            batch.slice(0, take)
        })
        .collect();
    let mut text = pretty_format_batches(&shown)?.to_string();
    let plural = if rows == 1 { "row" } else { "rows" };
    text.push_str(&format!("\n{rows} {plural}"));
    if rows > ROWS_SHOWN_MAX {
        text.push_str(&format!(", the first {ROWS_SHOWN_MAX} shown"));
    }
    Ok(text)
}

/// Reads statements from `input` until it ends; each ends with `;`.
pub(super) async fn prompt(
    session: &mut Session,
    mut input: impl BufRead + Send,
    mut output: impl Write + Send,
) -> Result<(), Error> {
    let mut statement = String::new();
    loop {
        write!(
            output,
            "{}",
            if statement.is_empty() {
                "trailhouse> "
            } else {
                "        ... "
            }
        )?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(output)?;
            return Ok(());
        }
        if statement.is_empty() && matches!(line.trim(), "exit" | "quit" | "\\q") {
            return Ok(());
        }
        statement.push_str(&line);
        let Some(complete) = statement.trim_end().strip_suffix(';').map(str::to_owned) else {
            if statement.trim().is_empty() {
                statement.clear();
            }
            continue;
        };
        statement.clear();
        let answer = session
            .query(&complete)
            .await
            .and_then(|batches| table(&batches));
        match answer {
            Ok(text) => writeln!(output, "{text}")?,
            Err(error) => writeln!(output, "error: {error}")?,
        }
    }
}
