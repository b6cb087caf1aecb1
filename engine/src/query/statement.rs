//! The first gate: a text becomes one read-only statement, or nothing.
//!
//! ```text
//! SQL text --tokens--> bounded in size --parse--> exactly one statement --kind--> query | explain | show | describe
//!                                                                          \--syntax--> every clause is one we know
//! ```
//! Invariant: what leaves here is one query without a clause that the planner would drop in silence, or a request for
//! metadata that needs no planner at all.

use datafusion::sql::parser::{DFParserBuilder, ExplainStatement, Statement as ParsedStatement};
use datafusion::sql::sqlparser::ast::{ObjectName, Query, ShowStatementOptions, Statement};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::dialect::AuditDialect;
use super::error::Error;
use super::limits::Limits;
use super::sanitize;
use super::syntax;

/// One statement that may be planned or answered.
#[derive(Debug)]
pub(crate) enum Gated {
    /// A query to run.
    Query(Box<Query>),
    /// A query to explain.
    Explain(Box<Query>),
    /// `SHOW TABLES`.
    ShowTables,
    /// `SHOW COLUMNS FROM t` and `DESCRIBE t`: the name, in parts, as it resolves.
    Columns(Vec<String>),
}

/// Parses and admits a statement.
pub(crate) fn gate(sql: &str, limits: &Limits) -> Result<Gated, Error> {
    let statement = parse_one(sql, limits)?;
    match statement {
        ParsedStatement::Statement(statement) => match *statement {
            Statement::Query(query) => {
                syntax::admit(&query, limits)?;
                Ok(Gated::Query(query))
            }
            other => metadata(other),
        },
        ParsedStatement::Explain(explain) => Ok(Gated::Explain(explained(explain, limits)?)),
        ParsedStatement::CreateExternalTable(_)
        | ParsedStatement::CopyTo(_)
        | ParsedStatement::Reset(_) => Err(read_only()),
    }
}

fn parse_one(sql: &str, limits: &Limits) -> Result<ParsedStatement, Error> {
    let tokens = tokens(sql, limits)?;
    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(&AuditDialect)
        .with_recursion_limit(limits.depth_max)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| sanitize::planning(&error))?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (Some(_), false) => Err(Error::not_allowed("one statement at a time")),
        (None, _) => Err(Error::invalid("there is no statement")),
    }
}

/// Splits the text into tokens and bounds what a parser, a planner and their destructors will recurse over.
pub(super) fn tokens(sql: &str, limits: &Limits) -> Result<Vec<TokenWithSpan>, Error> {
    if sql.len() > limits.statement_bytes_max {
        return Err(Error::limit(format!(
            "a statement has at most {} bytes",
            limits.statement_bytes_max
        )));
    }
    let mut tokens = Tokenizer::new(&AuditDialect, sql)
        .tokenize_with_location()
        .map_err(|error| sanitize::tokenizing(&error))?;
    let operators = tokens.iter().filter(|token| deepens(&token.token)).count();
    if operators > limits.operators_max {
        return Err(Error::limit(format!(
            "a statement has at most {} operators",
            limits.operators_max
        )));
    }
    number_parameters(&mut tokens)?;
    Ok(tokens)
}

/// Gives the parameters that drivers write as `?` their numbers, in order.
fn number_parameters(tokens: &mut [TokenWithSpan]) -> Result<(), Error> {
    let mut count = 0;
    let mut is_numbered = false;
    for token in tokens {
        match &mut token.token {
            Token::Placeholder(name) if name == "?" => {
                count += 1;
                *name = format!("${count}");
            }
            Token::Placeholder(_) => is_numbered = true,
            _ => {}
        }
    }
    if count > 0 && is_numbered {
        return Err(Error::invalid("parameters are written ? or $1, not both"));
    }
    Ok(())
}

/// Whether a token can make the syntax tree one level deeper without a bracket: anything that stands between two
/// operands. Brackets and prefix operators are bounded by the parser's own depth.
fn deepens(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::XOR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::IN
                | Keyword::BETWEEN
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::REGEXP
                | Keyword::RLIKE
                | Keyword::AT
                | Keyword::COLLATE
                | Keyword::DIV
                | Keyword::OVERLAPS
                | Keyword::MEMBER
                | Keyword::OPERATOR
                | Keyword::NOTNULL
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::MINUS
                | Keyword::JOIN
        ),
        Token::Whitespace(_)
        | Token::Comma
        | Token::Period
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Placeholder(_)
        | Token::EOF => false,
        _ => true,
    }
}

fn explained(explain: ExplainStatement, limits: &Limits) -> Result<Box<Query>, Error> {
    let options = &explain.options;
    let plain = !options.analyze
        && !options.verbose
        && options.format.is_none()
        && options.analyze_level.is_none()
        && options.analyze_categories.is_none()
        && options.show_statistics.is_none();
    if !plain {
        return Err(Error::not_allowed("EXPLAIN takes no options"));
    }
    match *explain.statement {
        ParsedStatement::Statement(statement) => match *statement {
            Statement::Query(query) => {
                syntax::admit(&query, limits)?;
                Ok(query)
            }
            _ => Err(Error::not_allowed("EXPLAIN takes a query")),
        },
        _ => Err(Error::not_allowed("EXPLAIN takes a query")),
    }
}

fn metadata(statement: Statement) -> Result<Gated, Error> {
    match statement {
        Statement::ShowTables {
            terse: false,
            history: false,
            extended: false,
            full: false,
            external: false,
            show_options,
        } if plain(&show_options) && show_options.show_in.is_none() => Ok(Gated::ShowTables),
        Statement::ShowColumns {
            extended: false,
            full: false,
            show_options,
        } if plain(&show_options) => {
            let name = show_options
                .show_in
                .and_then(|place| place.parent_name)
                .ok_or_else(|| Error::not_allowed("SHOW COLUMNS FROM a table"))?;
            Ok(Gated::Columns(parts(&name)?))
        }
        Statement::ExplainTable {
            hive_format: None,
            table_name,
            ..
        } => Ok(Gated::Columns(parts(&table_name)?)),
        Statement::ShowTables { .. } | Statement::ShowColumns { .. } => {
            Err(Error::not_allowed("SHOW takes no options"))
        }
        _ => Err(read_only()),
    }
}

fn plain(options: &ShowStatementOptions) -> bool {
    options.starts_with.is_none()
        && options.limit.is_none()
        && options.limit_from.is_none()
        && options.filter_position.is_none()
}

/// A table name in parts, folded as the planner folds it: unquoted names to lower case.
pub(super) fn parts(name: &ObjectName) -> Result<Vec<String>, Error> {
    name.0
        .iter()
        .map(|part| match part.as_ident() {
            Some(ident) if ident.quote_style.is_some() => Ok(ident.value.clone()),
            Some(ident) => Ok(ident.value.to_ascii_lowercase()),
            None => Err(Error::not_allowed("a computed table name")),
        })
        .collect()
}

fn read_only() -> Error {
    Error::not_allowed("one read-only query, EXPLAIN, SHOW TABLES, SHOW COLUMNS or DESCRIBE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sql: &str) -> Error {
        gate(sql, &Limits::default()).expect_err(sql)
    }

    #[test]
    fn queries_and_metadata_pass() {
        let limits = Limits::default();
        for sql in [
            "SELECT 1",
            "SELECT 1;",
            ";;SELECT 1;;",
            "(SELECT 1)",
            "WITH a AS (SELECT 1 AS x) SELECT x FROM a",
            "VALUES (1), (2)",
            "SELECT 1 UNION ALL SELECT 2",
        ] {
            assert!(matches!(gate(sql, &limits), Ok(Gated::Query(_))), "{sql}");
        }
        assert!(matches!(
            gate("EXPLAIN SELECT 1", &limits),
            Ok(Gated::Explain(_))
        ));
        assert!(matches!(
            gate("SHOW TABLES", &limits),
            Ok(Gated::ShowTables)
        ));
        for sql in [
            "DESCRIBE audit.Records",
            "DESC audit.records",
            "SHOW COLUMNS FROM audit.records",
            "SHOW COLUMNS IN audit.records",
        ] {
            assert!(
                matches!(gate(sql, &limits), Ok(Gated::Columns(name)) if name == ["audit", "records"]),
                "{sql}"
            );
        }
    }

    #[test]
    fn everything_else_is_not_allowed() {
        for sql in [
            "SELECT 1; SELECT 2",
            "INSERT INTO records VALUES (1)",
            "UPDATE records SET action = 'x'",
            "DELETE FROM records",
            "TRUNCATE TABLE records",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc/passwd'",
            "DROP TABLE records",
            "COPY records TO 'x.parquet'",
            "COPY (SELECT 1) TO 'x.csv'",
            "SET datafusion.execution.batch_size = 1",
            "RESET datafusion.execution.batch_size",
            "SHOW ALL",
            "SHOW datafusion.execution.batch_size",
            "SHOW FUNCTIONS",
            "SHOW CREATE TABLE records",
            "SHOW TABLES LIKE 'x'",
            "SHOW FULL TABLES",
            "SHOW TABLES FROM other",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "DEALLOCATE p",
            "EXPLAIN ANALYZE SELECT 1",
            "EXPLAIN VERBOSE SELECT 1",
            "EXPLAIN FORMAT TREE SELECT 1",
            "EXPLAIN (ANALYZE) SELECT 1",
            "EXPLAIN EXPLAIN SELECT 1",
            "EXPLAIN DELETE FROM records",
            "EXPLAIN COPY records TO 'x'",
            "BEGIN",
            "COMMIT",
            "CALL f()",
            "GRANT SELECT ON records TO x",
            "MERGE INTO records USING t ON 1=1 WHEN MATCHED THEN DELETE",
            "USE other",
            "KILL 1",
            "VACUUM",
            "ANALYZE TABLE records",
        ] {
            let error = refused(sql);
            assert!(
                matches!(
                    error,
                    Error::StatementNotAllowed { .. } | Error::InvalidQuery { .. }
                ),
                "{sql}: {error:?}"
            );
        }
    }

    #[test]
    fn a_statement_is_bounded_before_it_is_parsed() {
        let long = format!("SELECT '{}'", "x".repeat(70_000));
        let deep = format!("SELECT {}1{}", "(".repeat(400), ")".repeat(400));
        let chain = format!("SELECT 1{}", " OR 1".repeat(5_000));
        let minus = format!("SELECT {}1", "- ".repeat(3_000));
        for sql in [long, deep, chain, minus] {
            assert!(
                matches!(refused(&sql), Error::LimitExceeded { .. }),
                "{}",
                &sql[..20]
            );
        }
        let admitted = format!("SELECT 1{}", " OR 1".repeat(150));
        gate(&admitted, &Limits::default()).expect("a long chain of operators");
    }
}
