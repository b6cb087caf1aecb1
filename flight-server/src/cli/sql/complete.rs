//! What the line editor knows: when a statement is whole, and which words there are.

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::lines::split;
use super::prompt::COMMANDS;
use super::session::Described;

const KEYWORDS: &[&str] = &[
    "AND",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXISTS",
    "EXPLAIN",
    "FILTER",
    "FROM",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERVAL",
    "IS",
    "JOIN",
    "LEFT",
    "LIKE",
    "LIMIT",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OVER",
    "PARTITION",
    "SELECT",
    "SHOW TABLES",
    "THEN",
    "TIMESTAMP",
    "UNION",
    "USING",
    "WHEN",
    "WHERE",
    "WITH",
];

/// The words of one session.
#[derive(Debug, Default)]
pub(super) struct Words {
    words: Vec<String>,
}

impl Words {
    /// Keywords, and the names that this caller sees.
    pub(super) fn new(tables: &[Described]) -> Self {
        let mut words: Vec<String> = KEYWORDS.iter().map(|word| (*word).to_owned()).collect();
        for table in tables {
            words.push(table.schema.clone());
            words.push(format!("{}.{}", table.schema, table.name));
            words.push(table.name.clone());
            words.extend(
                table
                    .columns
                    .fields()
                    .iter()
                    .map(|field| field.name().clone()),
            );
        }
        words.sort_unstable();
        words.dedup();
        Self { words }
    }

    /// Where the word before this place begins, and what it could become.
    fn matching(&self, line: &str, position: usize) -> (usize, Vec<String>) {
        let before = line.get(..position).unwrap_or_default();
        if before.starts_with('\\') && !before.contains(' ') {
            let names = COMMANDS.iter().map(|(name, _)| (*name).to_owned());
            return (0, names.filter(|name| name.starts_with(before)).collect());
        }
        let is_part = |character: char| character.is_alphanumeric() || "_.".contains(character);
        let start = before.trim_end_matches(is_part).len();
        let begun = before.get(start..).unwrap_or_default();
        if begun.is_empty() {
            return (position, Vec::new());
        }
        let fits = |word: &&String| {
            let head = word.get(..begun.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(begun))
        };
        let in_lower_case = begun.chars().all(|character| !character.is_uppercase());
        let as_begun = |word: &String| match in_lower_case {
            true => word.to_lowercase(),
            false => word.clone(),
        };
        (
            start,
            self.words.iter().filter(fits).map(as_begun).collect(),
        )
    }
}

/// Whether Enter runs what has been typed.
pub(super) fn is_whole(text: &str) -> bool {
    let text = text.trim();
    text.starts_with('\\') || matches!(text, "exit" | "quit") || split(text).rest.is_empty()
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(self.matching(line, position))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn words() -> Words {
        Words::new(&[Described {
            schema: "audit".to_owned(),
            name: "records".to_owned(),
            columns: Schema::new(vec![
                Field::new("actor_id", DataType::Utf8, true),
                Field::new("action", DataType::Utf8, true),
            ]),
        }])
    }

    #[test]
    fn words_are_completed_in_the_case_they_are_begun_in() {
        let complete = |line: &str| words().matching(line, line.len());
        assert_eq!(complete("SELECT act").1, ["action", "actor_id"]);
        assert_eq!(complete("SELECT act").0, 7);
        assert_eq!(complete("SEL").1, ["SELECT"]);
        assert_eq!(complete("sel").1, ["select"]);
        assert_eq!(complete("select * from audit.r").1, ["audit.records"]);
        assert_eq!(complete("\\ti").1, ["\\timing"]);
        assert_eq!(complete("SELECT ").1, Vec::<String>::new());
        assert_eq!(complete("SELECT 'ä").1, Vec::<String>::new());
    }

    #[test]
    fn enter_runs_what_is_whole() {
        for whole in ["", "SELECT 1;", "\\d records", "exit", "SELECT 1; -- x"] {
            assert!(is_whole(whole), "{whole}");
        }
        for begun in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT"] {
            assert!(!is_whole(begun), "{begun}");
        }
    }
}
