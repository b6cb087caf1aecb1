//! What is refused, and in which words.

use arrow_flight::sql::{
    Any, CommandGetSqlInfo, CommandPreparedStatementQuery, CommandStatementIngest,
    CommandStatementSubstraitPlan, CommandStatementUpdate, TicketStatementQuery,
};
use bytes::Bytes;

use super::*;

#[tokio::test]
async fn nothing_is_answered_without_a_token() {
    let running = Running::start().await;
    let mut client = running.stranger();
    let descriptor = || command(&query("SELECT 1"));
    let ticket = || Ticket::new(command(&CommandGetSqlInfo::default()).cmd);
    let data = || stream::iter([FlightData::default()]);
    let shake = stream::iter([HandshakeRequest::default()]);
    let codes = [
        client.handshake(shake).await.err(),
        client.list_flights(Criteria::default()).await.err(),
        client.get_flight_info(descriptor()).await.err(),
        client.poll_flight_info(descriptor()).await.err(),
        client.get_schema(descriptor()).await.err(),
        client.do_get(ticket()).await.err(),
        client.do_put(data()).await.err(),
        client
            .do_action(Action::new("CloseSession", ""))
            .await
            .err(),
        client.list_actions(Empty {}).await.err(),
        client.do_exchange(data()).await.err(),
    ];
    for (index, status) in codes.into_iter().enumerate() {
        assert_eq!(status.unwrap().code(), Code::Unauthenticated, "{index}");
    }
}

#[tokio::test]
async fn tickets_and_handles_are_of_use_to_their_owner_only() {
    let running = Running::start().await;
    running.world.onboard("globex").await;
    let mut client = running.reader();
    let mut foreign = running.client(&running.world.token(
        "globex",
        &["Audit.Reader"],
        &["audit.read"],
    ));
    let info = client.execute("SELECT 1".to_owned(), None).await.unwrap();
    let code = |error: FlightError| match error {
        FlightError::Tonic(status) => status.code(),
        other => panic!("{other}"),
    };
    let refused = foreign.do_get(ticket_of(&info)).await.unwrap_err();
    assert_eq!(code(refused), Code::InvalidArgument);
    let any = Any::decode(ticket_of(&info).ticket).unwrap();
    let mut sealed: TicketStatementQuery = any.unpack().unwrap().unwrap();
    let mut bytes = sealed.statement_handle.to_vec();
    bytes[20] ^= 1;
    sealed.statement_handle = bytes.into();
    let ticket = Ticket::new(sealed.as_any().encode_to_vec());
    let refused = client.do_get(ticket).await.unwrap_err();
    assert_eq!(code(refused), Code::InvalidArgument);
    assert_eq!(rows(&mut client, info.clone()).await[0].num_rows(), 1);
    assert_eq!(rows(&mut client, info).await[0].num_rows(), 1, "and again");
    let garbage = CommandPreparedStatementQuery {
        prepared_statement_handle: Bytes::from_static(b"made up"),
    };
    let request = running.request(command(&garbage));
    let status = running
        .stranger()
        .get_flight_info(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn every_way_to_write_is_refused() {
    let running = Running::start().await;
    let delete = "DELETE FROM records".to_owned();
    let update = CommandStatementUpdate {
        query: delete.clone(),
        transaction_id: None,
    };
    let put = |descriptor: FlightDescriptor| {
        let first = FlightData::new().with_descriptor(descriptor);
        running.request(stream::iter([first]))
    };
    let mut client = running.stranger();
    let status = client.do_put(put(command(&update))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("statement-not-allowed"));
    let ingest = put(command(&CommandStatementIngest::default()));
    let status = client.do_put(ingest).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let substrait = put(command(&CommandStatementSubstraitPlan::default()));
    let status = client.do_put(substrait).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut sql = running.reader();
    assert!(sql.execute(delete.clone(), None).await.is_err());
    assert!(sql.prepare(delete, None).await.is_err());
    assert!(sql.begin_transaction().await.is_err());
}

#[tokio::test]
async fn garbage_is_the_callers_mistake() {
    let running = Running::start().await;
    let mut client = running.stranger();
    for garbage in [&b""[..], b"SELECT 1", &[0xff; 64]] {
        let descriptor = || running.request(FlightDescriptor::new_cmd(garbage.to_vec()));
        let ticket = running.request(Ticket::new(garbage.to_vec()));
        let first = FlightData::new().with_descriptor(FlightDescriptor::new_cmd(garbage.to_vec()));
        let put = running.request(stream::iter([first]));
        let action = Action::new("CreatePreparedStatement", garbage.to_vec());
        let codes = [
            client
                .get_flight_info(descriptor())
                .await
                .unwrap_err()
                .code(),
            client.get_schema(descriptor()).await.unwrap_err().code(),
            client.do_get(ticket).await.unwrap_err().code(),
            client.do_put(put).await.unwrap_err().code(),
            client
                .do_action(running.request(action))
                .await
                .unwrap_err()
                .code(),
        ];
        assert_eq!(codes, [Code::InvalidArgument; 5]);
    }
    let unknown = running.request(Action::new("MakeCoffee", ""));
    let status = client.do_action(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    // Some drivers end a load of no rows before its first message.
    let empty = running.request(stream::empty());
    let mut results = client.do_put(empty).await.unwrap().into_inner();
    let result = results.message().await.unwrap().unwrap().app_metadata;
    let result = arrow_flight::sql::DoPutUpdateResult::decode(result).unwrap();
    assert_eq!(result.record_count, 0);
}

#[tokio::test]
async fn a_refused_query_says_why_and_which() {
    let running = Running::start().await;
    let sql = "SELECT * FROM globex.audit.records";
    let mut request = running.request(command(&query(sql)));
    let metadata = request.metadata_mut();
    metadata.insert("x-correlation-id", "c-17".parse().unwrap());
    let status = running
        .stranger()
        .get_flight_info(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().starts_with("cross-tenant-query"));
    assert!(!status.message().contains("globex"));
    assert_eq!(
        status.metadata().get("x-trailhouse-request-id").unwrap(),
        "c-17"
    );
    assert!(!status.details().is_empty());
}
