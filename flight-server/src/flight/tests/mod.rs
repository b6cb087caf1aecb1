//! Over a real socket, with the clients of arrow-flight: what every driver goes through.

mod loads;
mod refusals;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, Schema};
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    CommandGetDbSchemas, CommandGetTables, CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{FlightEndpoint, IpcMessage};
use catalog::guard::{self, Permit, Write};
use engine::ingest::{IncomingRecord, Mode};
use futures::TryStreamExt;
use http::{HeaderMap, header};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Server};

use super::*;
use crate::world::{World, bearer, record};

struct Running {
    world: World,
    channel: Channel,
    serving: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

type SqlClient = FlightSqlServiceClient<Channel>;

impl Running {
    async fn start() -> Self {
        let world = World::new().await;
        let flight = flight_service(Arc::clone(&world.service), world.silo.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let serving = tokio::spawn(async move {
            let server = Server::builder().add_service(flight);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        Self {
            world,
            channel: endpoint.connect().await.unwrap(),
            serving,
        }
    }

    /// Stores this many records of `acme`.
    async fn ingest(&self, records: usize) {
        let service = &self.world.service;
        let token = bearer(&self.world.writer());
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token)]);
        let context = service.context(&headers).await.unwrap();
        let request = guard::Request::at(self.world.silo.clone());
        let permit: Permit<Write> = service.gate.authorize(&context, request).await.unwrap();
        let records = (0..records).map(|key| IncomingRecord::Json {
            text: record(&key.to_string()).to_string().into(),
            idempotency_key: None,
        });
        let stored = service
            .ingest
            .submit(&permit, records.collect(), Mode::Batch);
        stored.await.unwrap();
    }

    fn reader(&self) -> SqlClient {
        self.client(&self.world.token("acme", &["Audit.Reader"], &["audit.read"]))
    }

    fn client(&self, token: &str) -> SqlClient {
        let mut client = FlightSqlServiceClient::new(self.channel.clone());
        client.set_token(token.to_owned());
        client
    }

    /// A client that sends no token.
    fn stranger(&self) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(self.channel.clone())
    }

    /// The plain client, and a request with the reader's token.
    fn request<M>(&self, message: M) -> Request<M> {
        let token = self.world.token("acme", &["Audit.Reader"], &["audit.read"]);
        let mut request = Request::new(message);
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert(AUTHORIZATION, value);
        request
    }
}

fn command(command: &impl ProstMessageExt) -> FlightDescriptor {
    FlightDescriptor::new_cmd(command.as_any().encode_to_vec())
}

fn query(sql: &str) -> CommandStatementQuery {
    CommandStatementQuery {
        query: sql.to_owned(),
        transaction_id: None,
    }
}

fn ticket_of(info: &FlightInfo) -> Ticket {
    let [
        FlightEndpoint {
            ticket, location, ..
        },
    ] = info.endpoint.as_slice()
    else {
        panic!("one endpoint");
    };
    assert!(location.is_empty(), "the data is where the client is");
    ticket.clone().unwrap()
}

/// The batches of a result, whose schema is the one that was announced.
async fn rows(client: &mut SqlClient, info: FlightInfo) -> Vec<RecordBatch> {
    let ticket = ticket_of(&info);
    let mut stream = client.do_get(ticket).await.unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await.unwrap() {
        batches.push(batch);
    }
    let announced = Schema::try_from(IpcMessage(info.schema)).unwrap();
    assert_eq!(**stream.schema().unwrap(), announced);
    batches
}

fn texts(batches: &[RecordBatch], name: &str) -> Vec<String> {
    let column = |batch: &RecordBatch| Arc::clone(batch.column_by_name(name).unwrap());
    let columns: Vec<ArrayRef> = batches.iter().map(column).collect();
    columns
        .iter()
        .flat_map(|column| column.as_string::<i32>().iter().flatten())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn shaking_hands_turns_a_password_into_a_bearer_token() {
    let running = Running::start().await;
    let token = running
        .world
        .token("acme", &["Audit.Reader"], &["audit.read"]);
    let mut client = FlightSqlServiceClient::new(running.channel.clone());
    client.handshake("anyone", &token).await.unwrap();
    assert_eq!(client.token(), Some(&token));
    client.get_catalogs().await.unwrap();
    let mut refused = FlightSqlServiceClient::new(running.channel.clone());
    assert!(refused.handshake("anyone", "wrong").await.is_err());
    // With the token itself, as JDBC and ODBC do, and the only answer that carries the header.
    let shake = running.request(stream::iter([HandshakeRequest::default()]));
    let mut client = running.stranger();
    let answer = client.handshake(shake).await.unwrap();
    let header = answer.metadata().get(AUTHORIZATION).unwrap();
    assert!(header.to_str().unwrap().starts_with("Bearer "));
    let listed = client
        .list_actions(running.request(Empty {}))
        .await
        .unwrap();
    assert!(listed.metadata().get(AUTHORIZATION).is_none());
}

#[tokio::test]
async fn one_schema_everywhere() {
    let running = Running::start().await;
    let mut client = running.reader();
    for sql in [
        "SELECT * FROM records",
        "SELECT action, count(*) AS n FROM records GROUP BY action",
        "SELECT 1 AS one, 'x' AS x, NULL AS nothing",
        "SELECT labels, created_at FROM audit.records WHERE action = 'none'",
    ] {
        let request = running.request(command(&query(sql)));
        let answer = running.stranger().get_schema(request).await.unwrap();
        let schema = Schema::try_from(answer.get_ref()).unwrap();
        let prepared = client.prepare(sql.to_owned(), None).await.unwrap();
        assert_eq!(prepared.dataset_schema().unwrap(), &schema, "{sql}");
        prepared.close().await.unwrap();
        let info = client.execute(sql.to_owned(), None).await.unwrap();
        let announced = Schema::try_from(IpcMessage(info.schema.clone())).unwrap();
        assert_eq!(announced, schema, "{sql}");
        rows(&mut client, info).await;
        let request = running.request(command(&query(sql)));
        let polled = running.stranger().poll_flight_info(request).await.unwrap();
        let polled = polled.into_inner();
        assert!(
            polled.flight_descriptor.is_none(),
            "there is nothing to wait for"
        );
        let announced = Schema::try_from(IpcMessage(polled.info.unwrap().schema)).unwrap();
        assert_eq!(announced, schema, "{sql}");
    }
}

#[tokio::test]
async fn parameters_are_bound_again_and_again() {
    let running = Running::start().await;
    let mut client = running.reader();
    let sql = "SELECT $1 + 1 AS n FROM (VALUES (1)) AS one(x) WHERE $2 = 'yes'";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 2);
    let unbound = prepared.execute().await;
    assert!(unbound.is_err(), "parameters have to be bound");
    let bind = |numbers: Vec<i64>, words: Vec<&str>| {
        RecordBatch::try_from_iter(vec![
            ("a", Arc::new(Int64Array::from(numbers)) as ArrayRef),
            ("b", Arc::new(StringArray::from(words)) as ArrayRef),
        ])
        .unwrap()
    };
    let mut other = client.prepare(sql.to_owned(), None).await.unwrap();
    other.set_parameters(bind(vec![100], vec!["yes"])).unwrap();
    let other = other.execute().await.unwrap();
    let cases = [
        (bind(vec![1], vec!["yes"]), vec![2]),
        (bind(vec![5], vec!["no"]), vec![]),
        (bind(vec![7, 8, 9], vec!["yes", "no", "yes"]), vec![8, 10]),
    ];
    for (parameters, expected) in cases {
        prepared.set_parameters(parameters).unwrap();
        let info = prepared.execute().await.unwrap();
        let batches = rows(&mut client, info).await;
        let numbers: Vec<i64> = batches
            .iter()
            .flat_map(|batch| {
                batch
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .to_vec()
            })
            .collect();
        assert_eq!(numbers, expected);
    }
    let batches = rows(&mut client, other).await;
    let number = batches[0].column(0).as_primitive::<Int64Type>().value(0);
    assert_eq!(number, 101, "handles do not share parameters");
    prepared.close().await.unwrap();
}

#[tokio::test]
async fn the_catalog_is_the_callers() {
    let running = Running::start().await;
    let mut client = running.reader();
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(
        texts(&rows(&mut client, info).await, "catalog_name"),
        ["acme"]
    );
    let info = client
        .get_db_schemas(CommandGetDbSchemas::default())
        .await
        .unwrap();
    let batches = rows(&mut client, info).await;
    assert!(texts(&batches, "db_schema_name").contains(&"audit".to_owned()));
    let tables = CommandGetTables {
        include_schema: true,
        ..CommandGetTables::default()
    };
    let info = client.get_tables(tables.clone()).await.unwrap();
    let batches = rows(&mut client, info).await;
    let names = texts(&batches, "table_name");
    assert!(names.contains(&"records".to_owned()));
    assert!(!names.contains(&"evidence".to_owned()), "not for a reader");
    let admin = running
        .world
        .token("acme", &["Audit.Admin"], &["audit.read"]);
    let mut admin = running.client(&admin);
    let info = admin.get_tables(tables).await.unwrap();
    let names = texts(&rows(&mut admin, info).await, "table_name");
    assert!(names.contains(&"evidence".to_owned()));
    let info = client.get_table_types().await.unwrap();
    assert!(!rows(&mut client, info).await.is_empty());
    let info = client.get_sql_info(vec![]).await.unwrap();
    assert!(rows(&mut client, info).await[0].num_rows() > 30);
}

#[tokio::test]
async fn a_table_is_described_as_it_is_selected() {
    let running = Running::start().await;
    let mut client = running.reader();
    let tables = CommandGetTables {
        include_schema: true,
        table_name_filter_pattern: Some("records".to_owned()),
        ..CommandGetTables::default()
    };
    let info = client.get_tables(tables).await.unwrap();
    let batches = rows(&mut client, info).await;
    let encoded = batches[0].column_by_name("table_schema").unwrap();
    let encoded = encoded.as_binary::<i32>().value(0).to_vec();
    let described = Schema::try_from(IpcMessage(encoded.into())).unwrap();
    let sql = "SELECT * FROM records".to_owned();
    let info = client.execute(sql, None).await.unwrap();
    let selected = Schema::try_from(IpcMessage(info.schema)).unwrap();
    let plain = |schema: &Schema| -> Vec<(String, DataType, bool)> {
        let fields = schema.fields().iter();
        fields
            .map(|field| {
                (
                    field.name().clone(),
                    field.data_type().clone(),
                    field.is_nullable(),
                )
            })
            .collect()
    };
    assert_eq!(plain(&described), plain(&selected));
}

#[tokio::test]
async fn what_is_listed_is_what_can_be_done() {
    let running = Running::start().await;
    let mut client = running.stranger();
    let listed = client
        .list_actions(running.request(Empty {}))
        .await
        .unwrap();
    let listed: Vec<ActionType> = listed.into_inner().try_collect().await.unwrap();
    assert_eq!(listed.len(), 7);
    for action in listed {
        let request = running.request(Action::new(action.r#type.as_str(), ""));
        let code = client
            .do_action(request)
            .await
            .err()
            .map(|status| status.code());
        assert_ne!(code, Some(Code::Unimplemented), "{}", action.r#type);
    }
}

#[tokio::test]
async fn the_stream_of_an_empty_result_has_its_schema() {
    let running = Running::start().await;
    let mut client = running.reader();
    let sql = "SELECT action FROM records WHERE action = 'nothing like it'".to_owned();
    let info = client.execute(sql, None).await.unwrap();
    let request = running.request(ticket_of(&info));
    let stream = running
        .stranger()
        .do_get(request)
        .await
        .unwrap()
        .into_inner();
    let mut stream = FlightRecordBatchStream::new_from_flight_data(stream.map_err(Into::into));
    assert!(stream.try_next().await.unwrap().is_none());
    assert_eq!(stream.schema().unwrap().field(0).name(), "action");
}

#[tokio::test]
async fn one_execution_is_one_record_of_evidence() {
    let running = Running::start().await;
    running.ingest(3).await;
    let mut client = running.reader();
    let sql = "SELECT action FROM records WHERE action = $1";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let action = Arc::new(StringArray::from(vec!["Order.Placed"])) as ArrayRef;
    let parameters = RecordBatch::try_from_iter(vec![("action", action)]).unwrap();
    prepared.set_parameters(parameters).unwrap();
    let info = prepared.execute().await.unwrap();
    assert_eq!(texts(&rows(&mut client, info).await, "action").len(), 3);
    let admin = running
        .world
        .token("acme", &["Audit.Admin"], &["audit.read"]);
    let mut admin = running.client(&admin);
    let sql = "SELECT statement FROM evidence WHERE plan_digest IS NOT NULL \
               AND statement LIKE '%WHERE action%'";
    let info = admin.execute(sql.to_owned(), None).await.unwrap();
    let statements = texts(&rows(&mut admin, info).await, "statement");
    assert_eq!(statements, ["SELECT action FROM records WHERE action = $1"]);
    let sql = "SELECT correlation_id FROM evidence WHERE operation = 'Read' \
               AND decision = 'Allow'";
    let info = admin.execute(sql.to_owned(), None).await.unwrap();
    let executed = texts(&rows(&mut admin, info).await, "correlation_id");
    assert_eq!(executed.len(), 2, "the reader's, and the one before this");
}
