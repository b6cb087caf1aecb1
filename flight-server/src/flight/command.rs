//! Commands and tickets, taken apart.
//!
//! Invariant: every message of Flight SQL is in the one match below, so a new one does not compile until somebody says
//! what it means here.

use arrow_flight::sql::{Any, Command, CommandStatementIngest};
use bytes::Bytes;
use prost::Message;

use super::call::{Refusal, malformed};
use super::metadata::Question;

/// What a descriptor or ticket asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A statement, in text.
    Statement(String),
    /// A prepared statement, by handle.
    Prepared(Bytes),
    /// A statement that was planned before, by sealed ticket.
    Ticket(Bytes),
    /// Something about the server or the caller's catalog.
    Metadata(Question),
    /// Rows to be stored.
    Ingest(Box<CommandStatementIngest>),
    /// A statement that is to change something, with its text where there is one.
    Update(Option<String>),
    /// Something that this server does not do.
    Unavailable(&'static str),
}

/// Reads the command of a descriptor, or a ticket.
pub(crate) fn parse(bytes: &[u8]) -> Result<Asked, Refusal> {
    let any = Any::decode(bytes).map_err(|_| malformed("this is no Flight SQL command"))?;
    let command =
        Command::try_from(any).map_err(|_| malformed("the Flight SQL command cannot be read"))?;
    asked(command)
}

fn asked(command: Command) -> Result<Asked, Refusal> {
    let asked = match command {
        Command::CommandStatementQuery(command) => {
            no_transaction(command.transaction_id.as_ref())?;
            Asked::Statement(command.query)
        }
        Command::CommandPreparedStatementQuery(command) => {
            Asked::Prepared(command.prepared_statement_handle)
        }
        Command::TicketStatementQuery(ticket) => Asked::Ticket(ticket.statement_handle),
        Command::CommandGetCatalogs(_) => Asked::Metadata(Question::Catalogs),
        Command::CommandGetDbSchemas(command) => Asked::Metadata(Question::DbSchemas(command)),
        Command::CommandGetTables(command) => Asked::Metadata(Question::Tables(command)),
        Command::CommandGetTableTypes(_) => Asked::Metadata(Question::TableTypes),
        Command::CommandGetSqlInfo(command) => Asked::Metadata(Question::SqlInfo(command.info)),
        Command::CommandGetPrimaryKeys(_) => Asked::Metadata(Question::PrimaryKeys),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => Asked::Metadata(Question::ForeignKeys),
        Command::CommandGetXdbcTypeInfo(command) => {
            Asked::Metadata(Question::XdbcTypes(command.data_type))
        }
        Command::CommandStatementUpdate(command) => Asked::Update(Some(command.query)),
        Command::CommandPreparedStatementUpdate(_) => Asked::Update(None),
        Command::CommandStatementIngest(command) => Asked::Ingest(Box::new(command)),
        Command::CommandStatementSubstraitPlan(_) => {
            Asked::Unavailable("Substrait plans are not available; send SQL")
        }
        // Bodies of actions and answers, which no descriptor or ticket holds.
        Command::ActionBeginSavepointRequest(_)
        | Command::ActionBeginSavepointResult(_)
        | Command::ActionBeginTransactionRequest(_)
        | Command::ActionBeginTransactionResult(_)
        | Command::ActionCancelQueryRequest(_)
        | Command::ActionCancelQueryResult(_)
        | Command::ActionClosePreparedStatementRequest(_)
        | Command::ActionCreatePreparedStatementRequest(_)
        | Command::ActionCreatePreparedStatementResult(_)
        | Command::ActionCreatePreparedSubstraitPlanRequest(_)
        | Command::ActionEndSavepointRequest(_)
        | Command::ActionEndTransactionRequest(_)
        | Command::DoPutPreparedStatementResult(_)
        | Command::DoPutUpdateResult(_) => {
            return Err(malformed("this message is not a command"));
        }
        Command::Unknown(any) => {
            return Err(if any.type_url.contains("arrow.flight.protocol.sql.") {
                Refusal::Unimplemented("this Flight SQL command is not available")
            } else {
                malformed("this is no Flight SQL command")
            });
        }
    };
    Ok(asked)
}

/// There are no transactions, so there is none to be in.
pub(crate) fn no_transaction(id: Option<&Bytes>) -> Result<(), Refusal> {
    match id {
        Some(id) if !id.is_empty() => Err(malformed("there is no such transaction")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::{
        ActionBeginTransactionRequest, CommandGetTables, CommandStatementQuery, ProstMessageExt,
    };

    use super::*;
    use crate::problem::Slug;

    fn malformed_bytes(bytes: &[u8]) -> bool {
        match parse(bytes) {
            Err(Refusal::Problem(problem)) => problem.slug() == Slug::InvalidQuery,
            _ => false,
        }
    }

    #[test]
    fn commands_are_read() {
        let query = |transaction_id| CommandStatementQuery {
            query: "SELECT 1".to_owned(),
            transaction_id,
        };
        let bytes = |query: CommandStatementQuery| query.as_any().encode_to_vec();
        let plain = parse(&bytes(query(None))).unwrap();
        assert!(matches!(plain, Asked::Statement(sql) if sql == "SELECT 1"));
        assert!(parse(&bytes(query(Some(Bytes::new())))).is_ok());
        assert!(malformed_bytes(&bytes(query(Some(Bytes::from_static(
            b"t"
        ))))));
        let ingest = CommandStatementIngest::default().as_any().encode_to_vec();
        assert!(matches!(parse(&ingest), Ok(Asked::Ingest(_))));
    }

    #[test]
    fn garbage_is_malformed() {
        for bytes in [
            &b""[..],
            b"SELECT 1",
            &[0xff; 40],
            b"\x0a\xff\xff\xff\xff\x0f",
        ] {
            assert!(malformed_bytes(bytes));
        }
        let mut any = CommandGetTables::default().as_any();
        any.value = Bytes::from_static(&[0xff, 0xff]);
        assert!(
            malformed_bytes(&any.encode_to_vec()),
            "a known type, unreadable"
        );
        let action = ActionBeginTransactionRequest {}.as_any();
        assert!(malformed_bytes(&action.encode_to_vec()));
        any.type_url = "type.googleapis.com/arrow.flight.protocol.sql.CommandNew".to_owned();
        let newer = parse(&any.encode_to_vec());
        assert!(matches!(newer, Err(Refusal::Unimplemented(_))));
    }
}
