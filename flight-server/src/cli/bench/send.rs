//! One connection of the load, and the three doors it can send through.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow_flight::sql::CommandStatementIngest;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{TableDefinitionOptions, TableExistsOption, TableNotExistOption};
use catalog::clock::{Random, SystemRandom};
use futures::stream;
use serde_json::Value;
use tonic::transport::Channel;

use super::Error;
use super::load::{Load, Share};

/// What stands for the key in a record of the pool.
const KEY: &str = "idempotencyKey";

/// How records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Door {
    /// One record a request, over HTTP
    Single,
    /// NDJSON over HTTP
    Batch,
    /// A bulk ingest over Arrow Flight
    Flight,
}

impl Door {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batch => "batch",
            Self::Flight => "flight",
        }
    }

    /// Records of one request.
    pub(super) fn records(self, batch: u32) -> u32 {
        match self {
            Self::Single => 1,
            Self::Batch | Self::Flight => batch,
        }
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A record as JSON text, but for its key.
#[derive(Debug)]
pub(super) struct Line {
    before: String,
    after: String,
}

impl Line {
    pub(super) fn new(record: &Value) -> Self {
        let text = record.to_string();
        let key = record[KEY].as_str().unwrap_or_default();
        // A key of the generator is 32 random digits: it stands in the text once.
        let (before, after) = text.split_once(key).unwrap_or((&text, ""));
        Self {
            before: before.to_owned(),
            after: after.to_owned(),
        }
    }

    fn write(&self, key: &str, body: &mut String) {
        body.push_str(&self.before);
        body.push_str(key);
        body.push_str(&self.after);
    }
}

/// The pool as columns, but for the keys.
#[derive(Debug)]
pub(super) struct Columns(RecordBatch);

impl Columns {
    pub(super) fn new(pool: &[Value]) -> Result<Self, ArrowError> {
        let text = |pointer: &str| -> ArrayRef {
            let values = pool
                .iter()
                .map(|record| record.pointer(pointer).and_then(Value::as_str));
            Arc::new(values.collect::<StringArray>())
        };
        let json = |pointer: &str| -> ArrayRef {
            let values = pool
                .iter()
                .map(|record| record.pointer(pointer).map(Value::to_string));
            Arc::new(values.collect::<StringArray>())
        };
        let created_at = arrow::compute::cast(
            &text("/createdAt"),
            &DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into())),
        )?;
        let columns = [
            ("created_at", created_at),
            ("action", text("/action")),
            ("resource_type", text("/resource/type")),
            ("resource_id", text("/resource/id")),
            ("actor_type", text("/actor/type")),
            ("actor_id", text("/actor/id")),
            ("trace_id", text("/correlation/traceId")),
            ("labels", json("/labels")),
            ("context", json("/context")),
        ];
        RecordBatch::try_from_iter(columns).map(Self)
    }

    /// So many rows from `first` on, the pool repeated, with these keys.
    fn rows(&self, first: usize, keys: Vec<String>) -> Result<RecordBatch, ArrowError> {
        let pool = self.0.num_rows().max(1);
        let indices = (first..first + keys.len())
            .map(|row| u32::try_from(row % pool).unwrap_or_default())
            .collect::<UInt32Array>();
        let rows = take_record_batch(&self.0, &indices)?;
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(
            "idempotency_key",
            DataType::Utf8,
            false,
        )));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(StringArray::from(keys)));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }
}

/// What a request came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Records that are stored.
    pub(super) stored: u64,
    /// Why others are not, by status, and how many.
    pub(super) refused: HashMap<String, u64>,
}

/// One connection.
pub(super) struct Sender {
    door: Door,
    share: Share,
    batch: u32,
    run: String,
    sent: usize,
    url: String,
    http: reqwest::Client,
    flight: Option<FlightSqlServiceClient<Channel>>,
}

impl Sender {
    pub(super) async fn connect(load: &Load, share: Share, door: Door) -> Result<Self, Error> {
        let path = match door {
            Door::Single => "/v1/audit/records",
            Door::Batch | Door::Flight => "/v1/audit/records:batch",
        };
        let flight = match door {
            Door::Flight => Some(connect(load, &share).await?),
            Door::Single | Door::Batch => None,
        };
        let unreachable = |error| Error::Unreachable(load.url.clone(), Box::new(error));
        let mut id = [0; 8];
        SystemRandom.fill(&mut id);
        Ok(Self {
            door,
            batch: door.records(load.batch),
            run: format!("bench-{:016x}", u64::from_le_bytes(id)),
            sent: 0,
            url: format!("{}{path}", load.url.trim_end_matches('/')),
            // A client of its own is a connection of its own.
            http: load.reach.http(&load.url)?.build().map_err(unreachable)?,
            flight,
            share,
        })
    }

    /// Sends the next records and waits for the answer.
    pub(super) async fn send(&mut self) -> Answer {
        let first = self.sent;
        self.sent += self.batch as usize;
        let keys = (first..self.sent).map(|record| format!("{}-{record}", self.run));
        match self.door {
            Door::Flight => self.put(first, keys.collect()).await,
            Door::Single | Door::Batch => {
                let mut body = String::new();
                for (record, key) in (first..).zip(keys) {
                    self.share.lines[record % self.share.lines.len()].write(&key, &mut body);
                    if self.door == Door::Batch {
                        body.push('\n');
                    }
                }
                self.post(body).await
            }
        }
    }

    async fn post(&self, body: String) -> Answer {
        let kind = match self.door {
            Door::Batch => "application/x-ndjson",
            Door::Single | Door::Flight => "application/json",
        };
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.share.token.0)
            .header("x-tenant-id", &self.share.tenant)
            .header("content-type", kind)
            .body(body);
        let Ok(response) = request.send().await else {
            return self.refused("no answer".to_owned());
        };
        let status = response.status().as_u16();
        let answer = response.json::<Value>().await.unwrap_or_default();
        match (self.door, status, answer["results"].as_array()) {
            (Door::Batch, _, Some(results)) => per_record(results),
            (Door::Single, 200, _) => Answer {
                stored: 1,
                ..Answer::default()
            },
            _ => self.refused(status.to_string()),
        }
    }

    async fn put(&mut self, first: usize, keys: Vec<String>) -> Answer {
        let rows = match self.share.columns.rows(first, keys) {
            Ok(rows) => rows,
            Err(_) => return self.refused("no batch".to_owned()),
        };
        let Some(flight) = &mut self.flight else {
            return self.refused("not connected".to_owned());
        };
        match flight
            .execute_ingest(append(), stream::iter([Ok(rows)]))
            .await
        {
            Ok(stored) => Answer {
                stored: u64::try_from(stored).unwrap_or_default(),
                ..Answer::default()
            },
            Err(_) => self.refused("flight".to_owned()),
        }
    }

    fn refused(&self, why: String) -> Answer {
        Answer {
            stored: 0,
            refused: HashMap::from([(why, u64::from(self.batch))]),
        }
    }
}

/// The outcomes of a batch's lines.
fn per_record(results: &[Value]) -> Answer {
    let mut answer = Answer::default();
    for result in results {
        match result["status"].as_u64() {
            Some(200) => answer.stored += 1,
            status => {
                let why =
                    status.map_or_else(|| "no status".to_owned(), |status| status.to_string());
                *answer.refused.entry(why).or_default() += 1;
            }
        }
    }
    answer
}

fn append() -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Fail.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        table: "records".to_owned(),
        schema: Some("audit".to_owned()),
        catalog: None,
        temporary: false,
        transaction_id: None,
        options: HashMap::new(),
    }
}

async fn connect(load: &Load, share: &Share) -> Result<FlightSqlServiceClient<Channel>, Error> {
    let endpoint = load.reach.flight(&load.uri)?;
    let channel = endpoint.connect().await;
    let channel = channel.map_err(|error| Error::Unreachable(load.uri.clone(), Box::new(error)))?;
    let mut client = FlightSqlServiceClient::new(channel);
    client.set_token(share.token.0.clone());
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::pool;
    use catalog::clock::Timestamp;

    #[test]
    fn a_line_is_its_record_with_another_key() {
        let records = pool("acme", Timestamp::from_micros(0), 3, 5);
        for record in records {
            let mut text = String::new();
            Line::new(&record).write("k-1", &mut text);
            let mut expected = record;
            expected[KEY] = "k-1".into();
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        }
    }

    #[test]
    fn columns_repeat_the_pool_under_new_keys() {
        let records = pool("acme", Timestamp::from_micros(0), 3, 5);
        let columns = Columns::new(&records).unwrap();
        let keys: Vec<_> = (0..7).map(|key| format!("k-{key}")).collect();
        let rows = columns.rows(4, keys).unwrap();
        assert_eq!((rows.num_rows(), rows.num_columns()), (7, 10));
        let created = rows.column_by_name("created_at").unwrap();
        assert_eq!(created.null_count(), 0);
        assert_eq!(created.slice(0, 1).to_data(), created.slice(5, 1).to_data());
    }

    #[test]
    fn a_batch_is_counted_line_by_line() {
        let results = serde_json::json!([{"status": 200}, {"status": 202}, {"status": 200}, {"status": 400}, {}]);
        let answer = per_record(results.as_array().unwrap());
        assert_eq!(answer.stored, 2);
        let refused = [("202", 1), ("400", 1), ("no status", 1)];
        let refused = refused.map(|(why, count)| (why.to_owned(), count));
        assert_eq!(answer.refused, HashMap::from(refused));
    }
}
