//! From an engine's error to what the caller may be told.
//!
//! While a statement is planned nothing has been read, so what the planner says is about the statement and the schema that
//! the caller sees; it is passed on, cut to size. While rows are read an error may quote a value, a path or a key: of those
//! only the kind is told, and never the text.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::TokenizerError;

use super::error::Error;
use crate::table;

/// Characters of a planner's message that are passed on.
const MESSAGE_CHARS_MAX: usize = 300;

/// An error of the tokenizer.
pub(super) fn tokenizing(error: &TokenizerError) -> Error {
    Error::invalid(shortened(&format!(
        "{} at {}",
        error.message, error.location
    )))
}

/// An error while a statement is parsed or planned.
pub(super) fn planning(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::SQL(error, _) => parsing(error),
        DataFusionError::SchemaError(error, _) => Error::invalid(schema(error)),
        DataFusionError::Plan(message) => {
            plan(message).map_or_else(|| puzzled(message), Error::invalid)
        }
        DataFusionError::NotImplemented(message) => {
            plan(message).map_or_else(|| puzzled(message), Error::not_allowed)
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            planning(inner)
        }
        DataFusionError::Shared(inner) => planning(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(Error::Internal, planning),
        other => running(other),
    }
}

/// An error while rows are read.
pub(super) fn running(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::ArrowError(error, _) => values(error),
        DataFusionError::ResourcesExhausted(_) => {
            Error::limit("it needs more memory than one query may have")
        }
        DataFusionError::External(error) => external(error.as_ref()),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            running(inner)
        }
        DataFusionError::Shared(inner) => running(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(Error::Internal, running),
        DataFusionError::Execution(message) | DataFusionError::Internal(message)
            if message.contains(NO_PATTERN) =>
        {
            pattern(message)
        }
        // What a function says of its arguments: it may quote them.
        DataFusionError::Execution(_) => Error::invalid("an expression fails on a value"),
        DataFusionError::NotImplemented(_) => {
            Error::not_allowed("a function does not support its arguments")
        }
        DataFusionError::IoError(error) => disk(error),
        DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_)
        | DataFusionError::SQL(..)
        | DataFusionError::Internal(_)
        | DataFusionError::Plan(_)
        | DataFusionError::Configuration(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Substrait(_)
        | DataFusionError::Ffi(_) => unexpected(error),
    }
}

/// An error of a source of rows. Nothing in it is about the caller's expressions.
pub(super) fn scan(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(error) => known(error.as_ref()).unwrap_or(Error::Internal),
        DataFusionError::ParquetError(error) => match error.as_ref() {
            ParquetError::External(error) => known(error.as_ref()).unwrap_or(Error::Internal),
            _ => Error::Internal,
        },
        DataFusionError::ArrowError(error, _) => match error.as_ref() {
            ArrowError::ExternalError(error) => known(error.as_ref()).unwrap_or(Error::Internal),
            _ => Error::Internal,
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => scan(inner),
        DataFusionError::Shared(inner) => scan(inner),
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => Error::Unavailable,
        DataFusionError::ResourcesExhausted(_) => running(error),
        other => unexpected(other),
    }
}

/// An error that carries one of ours.
pub(super) fn own(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(error) => match error.downcast::<Error>() {
            Ok(own) => *own,
            Err(error) => external(error.as_ref()),
        },
        error => planning(&error),
    }
}

fn external(error: &Foreign) -> Error {
    // Scans bring their own errors: what is left is a function's, about its arguments.
    known(error).unwrap_or_else(|| Error::invalid("an expression fails on a value"))
}

type Foreign = dyn std::error::Error + Send + Sync + 'static;

/// An error of ours, or of what is below us.
fn known(error: &Foreign) -> Option<Error> {
    if let Some(own) = error.downcast_ref::<Error>() {
        return Some(copied(own));
    }
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return Some(scan(inner));
    }
    error.downcast_ref::<table::Error>().map(Error::from)
}

/// What is read and written outside of scans is what the query spills.
fn disk(error: &std::io::Error) -> Error {
    let own = error.get_ref().and_then(known);
    own.unwrap_or(Error::Unavailable)
}

/// The kind of error goes to the log, without its text.
fn unexpected(error: &DataFusionError) -> Error {
    let text = format!("{error:?}");
    let kind = text
        .split(['(', ' ', '{'])
        .next()
        .unwrap_or_default()
        .to_owned();
    tracing::error!(kind, "a query met an unexpected error");
    Error::Internal
}

/// Our own errors cannot be cloned as a whole: a denial may carry reasons.
fn copied(error: &Error) -> Error {
    match error {
        Error::Denied(denial) => Error::Denied(denial.clone()),
        Error::InvalidQuery { detail } => Error::invalid(detail.clone()),
        Error::StatementNotAllowed { detail } => Error::not_allowed(detail.clone()),
        Error::UnsupportedFilter { field } => Error::UnsupportedFilter {
            field: field.clone(),
        },
        Error::UnsupportedSort { field } => Error::UnsupportedSort {
            field: field.clone(),
        },
        Error::LimitExceeded { detail } => Error::limit(detail.clone()),
        Error::KeyUnavailable => Error::KeyUnavailable,
        Error::Unavailable => Error::Unavailable,
        Error::TooManyQueries => Error::TooManyQueries,
        Error::Busy => Error::Busy,
        Error::Deadline => Error::Deadline,
        Error::Internal => Error::Internal,
    }
}

/// An error of a kernel, by its kind: the text may quote a value.
fn values(error: &ArrowError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::invalid("a division by zero"),
        ArrowError::ArithmeticOverflow(_) => Error::invalid("a number is too large"),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => {
            Error::invalid("a value cannot be converted to the type asked for")
        }
        ArrowError::ComputeError(message) if message.contains(NO_PATTERN) => pattern(message),
        ArrowError::ComputeError(_) | ArrowError::InvalidArgumentError(_) => {
            Error::invalid("an expression fails on a value")
        }
        ArrowError::OffsetOverflowError(_) => Error::limit("a function makes too large a value"),
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::IoError(_, error) => disk(error),
        _ => {
            tracing::error!("a query met an unexpected error of a kernel");
            Error::Internal
        }
    }
}

fn parsing(error: &ParserError) -> Error {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            Error::invalid(shortened(message))
        }
        ParserError::RecursionLimitExceeded => Error::limit("the statement nests too deep"),
    }
}

fn schema(error: &SchemaError) -> String {
    match error {
        SchemaError::AmbiguousReference { field } => {
            shortened(&format!("the name {} is ambiguous", field.name))
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            shortened(&format!("there are two columns named {name}"))
        }
        SchemaError::FieldNotFound { field, .. } => {
            shortened(&format!("there is no column {}", field.name))
        }
    }
}

/// How messages about a regular expression begin, whoever compiled it.
const NO_PATTERN: &str = "Regular expression did not compile";
/// What they say of one that is too large.
const PATTERN_TOO_LARGE: &str = "CompiledTooBig";

/// A regular expression that cannot be used. Some operators take that for a fault of the engine's.
fn pattern(message: &str) -> Error {
    if message.contains(PATTERN_TOO_LARGE) {
        Error::limit("its regular expressions are too large")
    } else {
        Error::invalid("a regular expression does not compile")
    }
}

/// What the planner says when it has no words of its own for a statement that makes no sense to it.
fn puzzled(message: &str) -> Error {
    // The function is the caller's word.
    let function = message.split_once("' failed to match any signature");
    let function = function.and_then(|(before, _)| before.rsplit_once("Function '"));
    if let Some((_, function)) = function {
        let why = format!("{function} does not take arguments of these types");
        return Error::invalid(shortened(&why));
    }
    tracing::warn!("the planner took a statement for a fault of its own");
    Error::invalid(
        "an expression cannot be planned: look at the functions and at the types of what they are given",
    )
}

/// A message of the planner, without its suggestions: those name what is registered. Nothing where the message is about the
/// planner, and not about the statement.
fn plan(message: &str) -> Option<String> {
    let message = ["Did you mean", "Valid fields are", "Internal error", "\n"]
        .iter()
        .fold(message, |message, cut| {
            message.split(cut).next().unwrap_or_default()
        });
    // Parts of the statement as the planner has them in memory are nobody's words.
    let message = DEBUG_FORMS.iter().fold(message, |message, form| {
        message.split(form).next().unwrap_or_default()
    });
    let message = message.trim_end_matches([' ', '.', ':', '(', ',']);
    (!message.is_empty()).then(|| shortened(message))
}

const DEBUG_FORMS: [&str; 8] = [
    "Exists(",
    "InSubquery(",
    "ScalarSubquery(",
    "OuterReferenceColumn(",
    "ByteStringLiteral(",
    "Literal(",
    "Subquery {",
    "Field {",
];

fn shortened(message: &str) -> String {
    let printable = message.chars().map(|character| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    });
    printable.take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_planner_says_of_itself_is_not_passed_on() {
        for message in [
            "Internal error: x.\nThis issue was likely caused by a bug",
            "Internal error: x",
            "\nInternal error: x",
        ] {
            for error in [
                DataFusionError::Plan(message.to_owned()),
                DataFusionError::NotImplemented(message.to_owned()),
            ] {
                let told = planning(&error).to_string();
                assert!(told.contains("cannot be planned"), "{told}");
                assert!(!told.contains("Internal"), "{told}");
            }
        }
        let message =
            "Internal error: Function 'f' failed to match any signature, errors: Internal error: x";
        let told = planning(&DataFusionError::Plan(message.to_owned())).to_string();
        assert!(
            told.ends_with("f does not take arguments of these types"),
            "{told}"
        );
        let message = "Failed to coerce arguments of abs: Internal error: x";
        let told = planning(&DataFusionError::Plan(message.to_owned())).to_string();
        assert!(
            told.ends_with("Failed to coerce arguments of abs"),
            "{told}"
        );
    }
}
