//! Bulk loads with arrow-flight's own client: what is stored, what is refused, and what is said of it.

use arrow::array::{DictionaryArray, StringBuilder, TimestampNanosecondArray};
use arrow::datatypes::Int32Type;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{
    CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption,
};

use super::*;

fn append() -> CommandStatementIngest {
    CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Fail.into(),
            if_exists: TableExistsOption::Append.into(),
        }),
        table: "records".to_owned(),
        schema: Some("audit".to_owned()),
        ..CommandStatementIngest::default()
    }
}

fn text(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Good rows with these keys; their actions are behind a dictionary.
fn good(keys: &[&str]) -> Vec<(&'static str, ArrayRef)> {
    let same = |value: &str| text(keys.iter().map(|_| value.to_owned()));
    let actions: DictionaryArray<Int32Type> = keys.iter().map(|_| "Order.Placed").collect();
    let nanos = TimestampNanosecondArray::from(vec![1_767_323_045_678_000_000; keys.len()]);
    vec![
        (
            "idempotency_key",
            text(keys.iter().map(ToString::to_string)),
        ),
        ("created_at", Arc::new(nanos.with_timezone("Europe/Berlin"))),
        ("action", Arc::new(actions)),
        ("resource_type", same("Order")),
        ("resource_id", same("17")),
        ("actor_type", same("User")),
        ("actor_id", same("ann")),
        ("trace_id", same("4bf92f3577b34da6a3ce929d0e0e4736")),
    ]
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn with(
    mut columns: Vec<(&'static str, ArrayRef)>,
    name: &'static str,
    column: ArrayRef,
) -> RecordBatch {
    columns.retain(|(known, _)| *known != name);
    columns.push((name, column));
    batch(columns)
}

impl Running {
    fn loader(&self) -> SqlClient {
        self.client(&self.world.writer())
    }

    async fn load(
        &self,
        command: CommandStatementIngest,
        batches: Vec<RecordBatch>,
    ) -> Result<i64, Status> {
        let stream = stream::iter(batches.into_iter().map(Ok));
        match self.loader().execute_ingest(command, stream).await {
            Ok(count) => Ok(count),
            Err(FlightError::Tonic(status)) => Err(*status),
            Err(other) => panic!("{other}"),
        }
    }

    async fn refusal(&self, command: CommandStatementIngest, batches: Vec<RecordBatch>) -> Status {
        self.load(command, batches).await.unwrap_err()
    }

    async fn stored(&self) -> i64 {
        let mut reader = self.reader();
        let sql = "SELECT count(*) FROM audit.records".to_owned();
        let info = reader.execute(sql, None).await.unwrap();
        let rows = rows(&mut reader, info).await;
        rows[0].column(0).as_primitive::<Int64Type>().value(0)
    }
}

#[tokio::test]
async fn rows_are_stored_once_and_counted() {
    let running = Running::start().await;
    let batches = || vec![batch(good(&["a", "b"])), batch(good(&["c"]))];
    assert_eq!(running.load(append(), batches()).await.unwrap(), 3);
    assert_eq!(running.stored().await, 3);
    assert_eq!(running.load(append(), batches()).await.unwrap(), 0, "known");
    let elsewhere = CommandStatementIngest {
        catalog: Some("ACME".to_owned()),
        schema: None,
        ..append()
    };
    assert_eq!(
        running
            .load(elsewhere, vec![batch(good(&["d"]))])
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        running
            .load(append(), vec![batch(good(&[]))])
            .await
            .unwrap(),
        0
    );
    assert_eq!(running.stored().await, 4);
    // The same record over HTTP's way has the same payload.
    let row = record("a").to_string();
    let service = &running.world.service;
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&running.world.writer()))]);
    let context = service.context(&headers).await.unwrap();
    let request = guard::Request::at(running.world.silo.clone());
    let permit: Permit<Write> = service.gate.authorize(&context, request).await.unwrap();
    let record = IncomingRecord::Json {
        text: row.into(),
        idempotency_key: None,
    };
    let outcomes = service.ingest.submit(&permit, vec![record], Mode::Single);
    assert!(matches!(&outcomes.await.unwrap()[0],
        engine::ingest::Outcome::Accepted(receipt) if receipt.duplicate));
}

#[tokio::test]
async fn good_rows_are_stored_and_the_others_named() {
    let running = Running::start().await;
    let mut actions = StringBuilder::new();
    for action in ["Order.Placed", "", "Order.Placed"] {
        actions.append_value(action);
    }
    let rows = with(good(&["a", "b", "c"]), "action", Arc::new(actions.finish()));
    let foreign = with(good(&["d"]), "tenant_id", text(["globex".to_owned()]));
    let named = with(
        good(&["a", "b", "c"]),
        "tenant_id",
        text(vec!["acme".to_owned(); 3]),
    );
    let status = running.refusal(append(), vec![named, foreign]).await;
    assert!(
        status
            .message()
            .contains("1 of 4 rows were not stored (0 rejected, 1 quarantined)"),
        "{status}"
    );
    assert!(status.message().contains("row 3"), "{status}");
    let status = running.refusal(append(), vec![rows]).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("row 1: action must not be empty"),
        "{status}"
    );
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(
        details.contains(r#""summary":{"accepted":0,"duplicates":2,"quarantined":0,"rejected":1}"#),
        "{details}"
    );
    assert_eq!(running.stored().await, 3);
}

#[tokio::test]
async fn columns_that_do_not_fit_store_nothing() {
    let running = Running::start().await;
    let mut columns = good(&["a"]);
    columns.push(("leaf_index", Arc::new(Int64Array::from(vec![1]))));
    columns.push(("oops", text(["x".to_owned()])));
    let wrong = with(columns, "created_at", Arc::new(Int64Array::from(vec![1])));
    for batches in [
        vec![wrong.clone()],
        vec![RecordBatch::new_empty(wrong.schema())],
    ] {
        let status = running.refusal(append(), batches).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        for column in ["created_at", "leaf_index", "oops"] {
            assert!(status.message().contains(column), "{status}");
        }
    }
    assert_eq!(running.stored().await, 0);
}

#[tokio::test]
async fn only_records_are_appended_to_and_only_the_own() {
    let running = Running::start().await;
    let options = |if_exists: TableExistsOption| {
        Some(TableDefinitionOptions {
            if_not_exist: TableNotExistOption::Create.into(),
            if_exists: if_exists.into(),
        })
    };
    let cases: Vec<CommandStatementIngest> = vec![
        CommandStatementIngest {
            table: "evidence".to_owned(),
            ..append()
        },
        CommandStatementIngest {
            schema: Some("public".to_owned()),
            ..append()
        },
        CommandStatementIngest {
            temporary: true,
            ..append()
        },
        CommandStatementIngest {
            table_definition_options: None,
            ..append()
        },
        CommandStatementIngest {
            table_definition_options: options(TableExistsOption::Replace),
            ..append()
        },
        CommandStatementIngest {
            table_definition_options: options(TableExistsOption::Fail),
            ..append()
        },
        CommandStatementIngest {
            options: [("a".to_owned(), "b".to_owned())].into(),
            ..append()
        },
    ];
    for command in cases {
        let status = running.refusal(command, vec![batch(good(&["a"]))]).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("statement-not-allowed"),
            "{status}"
        );
    }
    let foreign = CommandStatementIngest {
        catalog: Some("globex".to_owned()),
        ..append()
    };
    let status = running.refusal(foreign, vec![batch(good(&["a"]))]).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    let mut reader = running.reader();
    let rows = stream::iter([Ok(batch(good(&["a"])))]);
    assert!(
        reader.execute_ingest(append(), rows).await.is_err(),
        "a reader wrote"
    );
    let unheard = with(good(&["a"]), "stream", text(["audit.unheard".to_owned()]));
    let status = running.refusal(append(), vec![unheard]).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(running.stored().await, 0);
    let security = with(good(&["a"]), "stream", text(["audit.security".to_owned()]));
    assert_eq!(running.load(append(), vec![security]).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_no_batch_is_the_callers_mistake() {
    let running = Running::start().await;
    let descriptor = command(&append());
    let token = format!("Bearer {}", running.world.writer());
    let rows = with(good(&["a"]), "action", text(["Order.Placed".to_owned()]));
    let messages = arrow_flight::utils::batches_to_flight_data(&rows.schema(), vec![rows]).unwrap();
    let mut torn = messages.last().unwrap().clone();
    torn.data_body = torn.data_body.slice(..8);
    let garbage = FlightData::new().with_data_header(vec![0xff; 40]);
    for broken in [vec![], vec![garbage], vec![messages[0].clone(), torn]] {
        let first = FlightData::new().with_descriptor(descriptor.clone());
        let all = stream::iter([first]).chain(stream::iter(broken));
        let mut request = Request::new(all);
        request
            .metadata_mut()
            .insert(AUTHORIZATION, token.parse().unwrap());
        let status = running.stranger().do_put(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}
