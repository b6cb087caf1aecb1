//! A connection over Flight SQL that speaks as one token.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::CommandGetTables;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightInfo, IpcMessage};
use futures::TryStreamExt;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::format;
use crate::flight::{RECEIPT, RECEIPT_ID};

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
    /// The answer could not be read.
    #[error("the answer is not readable")]
    Unreadable(#[from] arrow::error::ArrowError),
    /// The answer could not be written down.
    #[error(transparent)]
    Unwritable(#[from] format::Error),
    /// The same, in a file.
    #[error("`{0}` cannot be written")]
    File(PathBuf, #[source] format::Error),
    /// The answer came without a receipt.
    #[error("the answer came without its receipt; ask the server for it: GET /v1/receipts/{0}")]
    NoReceipt(String),
    /// Two binary answers behind each other are none.
    #[error(
        "this format is binary, and holds one answer: send one statement, or use a text format"
    )]
    OneAnswer,
    /// Binary data is not for screens.
    #[error("this format is binary: send it to a file (--save FILE), or into a pipe")]
    Binary,
    /// The terminal went away.
    #[error("the terminal is not usable")]
    Terminal(#[from] std::io::Error),
    /// A statement of several was refused.
    #[error("the statement in line {line} has no answer")]
    Line {
        /// The line it begins in, from 1.
        line: usize,
        /// Why.
        source: Box<Error>,
    },
}

/// A connection.
#[derive(Debug)]
pub(in crate::cli) struct Session {
    client: FlightSqlServiceClient<Channel>,
}

/// A table or view, as the server describes it to this caller.
#[derive(Debug)]
pub(super) struct Described {
    pub(super) schema: String,
    pub(super) name: String,
    /// With what the columns are in the metadata of the fields.
    pub(super) columns: Schema,
}

impl Session {
    /// Connects to where `uri` says, with a bearer token and an optional role to act in.
    pub(in crate::cli) async fn connect(
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
    pub(in crate::cli) async fn query(
        &mut self,
        statement: &str,
    ) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        let mut keep = |part: Part<'_>| {
            if let Part::Rows(batch) = part {
                batches.push(batch.clone());
            }
            Ok(())
        };
        self.ask(statement, &mut keep).await?;
        Ok(batches)
    }

    /// Runs one statement, hands its schema and each batch on as they come, and returns what came after them.
    pub(super) async fn ask(
        &mut self,
        statement: &str,
        take: &mut (dyn FnMut(Part<'_>) -> Result<(), Error> + Send),
    ) -> Result<Trailers, Error> {
        let info = self.client.execute(statement.to_owned(), None).await;
        let info = info.map_err(|error| refusal(&error))?;
        self.fetch(info, take).await
    }

    /// The tables that this caller sees, with their columns.
    pub(super) async fn tables(&mut self) -> Result<Vec<Described>, Error> {
        let command = CommandGetTables {
            include_schema: true,
            ..CommandGetTables::default()
        };
        let info = self.client.get_tables(command).await;
        let info = info.map_err(|error| refusal(&error))?;
        let mut tables = Vec::new();
        let mut add = |part: Part<'_>| {
            if let Part::Rows(batch) = part {
                tables.extend(described(batch)?);
            }
            Ok(())
        };
        self.fetch(info, &mut add).await?;
        Ok(tables)
    }

    async fn fetch(
        &mut self,
        info: FlightInfo,
        take: &mut (dyn FnMut(Part<'_>) -> Result<(), Error> + Send),
    ) -> Result<Trailers, Error> {
        let schema = Arc::new(info.clone().try_decode_schema()?);
        take(Part::Schema(&schema))?;
        let mut trailers = Trailers::default();
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
                take(Part::Rows(&batch))?;
            }
            trailers = Trailers(stream.trailers().unwrap_or_default());
        }
        Ok(trailers)
    }
}

/// A part of an answer. The schema comes first.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Schema(&'a SchemaRef),
    Rows(&'a RecordBatch),
}

/// What follows the rows.
#[derive(Debug, Default)]
pub(super) struct Trailers(MetadataMap);

impl Trailers {
    /// The receipt, as the bytes of its JSON.
    pub(super) fn receipt(&self) -> Result<Vec<u8>, Error> {
        let receipt = self.0.get_bin(RECEIPT);
        let receipt = receipt.and_then(|receipt| receipt.to_bytes().ok());
        let id = self.0.get(RECEIPT_ID);
        let id = id.and_then(|id| id.to_str().ok()).unwrap_or("{id}");
        Ok(receipt
            .ok_or_else(|| Error::NoReceipt(id.to_owned()))?
            .to_vec())
    }
}

fn described(batch: &RecordBatch) -> Result<Vec<Described>, Error> {
    let texts = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
    let schemas = batch.column_by_name("table_schema");
    let schemas = schemas.and_then(|column| column.as_binary_opt::<i32>());
    let (Some(within), Some(names), Some(schemas)) =
        (texts("db_schema_name"), texts("table_name"), schemas)
    else {
        return Ok(Vec::new());
    };
    (0..batch.num_rows())
        .map(|row| {
            let schema = bytes::Bytes::copy_from_slice(schemas.value(row));
            Ok(Described {
                schema: within.value(row).to_owned(),
                name: names.value(row).to_owned(),
                columns: Schema::try_from(IpcMessage(schema))?,
            })
        })
        .collect()
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
