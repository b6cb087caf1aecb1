//! The text of a statement as evidence keeps it: what was asked, without the values asked for.

use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::tokenizer::{Token, Word};

use super::dialect::AuditDialect;
use super::limits::Limits;
use super::statement;

/// What stands for a text that is too long, or no SQL: none of it can be told from a value.
const UNREADABLE: &str = "(a statement that is not SQL)";

/// Longest text that is kept.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// The statement with every literal and comment taken out and white space evened. Never fails.
pub fn strip_literals(sql: &str) -> String {
    let limits = Limits::default();
    let Ok(tokens) = statement::tokens(sql, &limits) else {
        return UNREADABLE.to_owned();
    };
    // A text that does not parse may hold a value anywhere: a pasted password is a list of plain words.
    let parses = DFParserBuilder::new(tokens.clone())
        .with_dialect(&AuditDialect)
        .with_recursion_limit(limits.depth_max)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .is_ok_and(|statements| !statements.is_empty());
    if !parses {
        return UNREADABLE.to_owned();
    }
    let mut text = String::with_capacity(sql.len().min(TEXT_BYTES_MAX));
    let mut gap = false;
    for token in tokens {
        match token.token {
            Token::Whitespace(_) => gap = !text.is_empty(),
            Token::EOF => {}
            token => {
                if std::mem::take(&mut gap) {
                    text.push(' ');
                }
                text.push_str(&shown(&token));
            }
        }
        if text.len() > TEXT_BYTES_MAX {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
            text.push('…');
            break;
        }
    }
    text
}

/// A token as evidence shows it: words, parameters and punctuation as they are, anything else as `?`.
fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => name(word),
        Token::Placeholder(_)
        | Token::Comma
        | Token::DoubleEq
        | Token::Eq
        | Token::Neq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Spaceship
        | Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::StringConcat
        | Token::LParen
        | Token::RParen
        | Token::Period
        | Token::Colon
        | Token::DoubleColon
        | Token::SemiColon
        | Token::LBracket
        | Token::RBracket
        | Token::LBrace
        | Token::RBrace
        | Token::Ampersand
        | Token::Pipe
        | Token::Caret
        | Token::Tilde
        | Token::TildeAsterisk
        | Token::ExclamationMarkTilde
        | Token::ExclamationMarkTildeAsterisk
        | Token::Arrow
        | Token::LongArrow
        | Token::HashArrow
        | Token::HashLongArrow
        | Token::AtArrow
        | Token::ArrowAt => token.to_string(),
        _ => "?".to_owned(),
    }
}

/// A name, if it can be one of ours. Quoted names are free text: an alias can hold an e-mail address.
fn name(word: &Word) -> String {
    let plain = word.value.len() <= 64
        && word
            .value
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        && !word
            .value
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_digit());
    match (word.quote_style, plain) {
        (_, false) => "?".to_owned(),
        (None, true) => word.value.clone(),
        (Some(_), true) => format!("\"{}\"", word.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_go_and_the_question_stays() {
        for (sql, kept) in [
            (
                "SELECT action FROM records WHERE actor_id = 'bob@example.com' AND 1 < 2",
                "SELECT action FROM records WHERE actor_id = ? AND ? < ?",
            ),
            (
                "select  *\n from audit.records -- bob's secret\n limit 10",
                "select * from audit.records limit ?",
            ),
            (
                "SELECT /* secret */ labels['env'] FROM \"acme-eu\".audit.records",
                "SELECT labels[?] FROM \"acme-eu\".audit.records",
            ),
            (
                "SELECT action AS \"bob@example.com\" FROM records",
                "SELECT action AS ? FROM records",
            ),
            (
                "SELECT $1, X'DEADBEEF', N'secret', E'se\\ncret', $$secret$$",
                "SELECT $1, ?, ?, ?, ?",
            ),
            (
                "SELECT DATE '2026-01-01', INTERVAL '1' DAY, 1e9, TRUE",
                "SELECT DATE ?, INTERVAL ? DAY, ?, TRUE",
            ),
            (
                "DELETE FROM records WHERE action = 'x'",
                "DELETE FROM records WHERE action = ?",
            ),
            ("hunter2 is my password", UNREADABLE),
            ("SELECT 'unterminated secret", UNREADABLE),
            ("", UNREADABLE),
            ("  ", UNREADABLE),
        ] {
            assert_eq!(strip_literals(sql), kept, "{sql}");
        }
    }

    #[test]
    fn any_text_gives_a_bounded_text() {
        let long = format!("SELECT {}", "action, ".repeat(4_000));
        for sql in [
            long.as_str(),
            "\u{0}",
            "'",
            "\"",
            "/*",
            "$$",
            "é",
            "SELECT '\u{1F600}'",
        ] {
            assert!(strip_literals(sql).len() <= TEXT_BYTES_MAX + 8);
        }
    }
}
