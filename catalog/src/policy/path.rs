//! How a policy names a field of a record.
//!
//! ```text
//! actor_id                          a column of the table, or one the bundle promotes
//! context.userIdentity.userName     a place in the record's context
//! context.tags[*].email             every element of a list
//! context["a.b"].c                  a key that the plain form cannot spell
//! labels.env                        one label (everything after the first dot is the key)
//! email                             any object key of that name, wherever it stands
//! ```
//! Rules add up: a value that several paths cover takes the strictest of their rules, so a specific path never loosens
//! a general one, and profiles can be merged by uniting them.

use std::fmt;

use super::column::{self, ColumnKind};

/// Bytes of the longest path a bundle may hold.
pub const PATH_BYTES_MAX: usize = 512;
/// Steps of the longest path a bundle may hold.
pub const PATH_STEPS_MAX: usize = 32;

/// One step down into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The member of an object with exactly this key.
    Key(String),
    /// Every element of a list.
    AnyElement,
}

/// What a rule of a policy is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldPath {
    /// A column of the table, one of ours or a promoted one.
    Column(String),
    /// A place in `context`, one step at least.
    Context(Vec<Step>),
    /// One label by its key.
    Label(String),
    /// Any object key of this name, at any depth of `context` and `extras`, and any label of this name;
    /// compared without regard to ASCII case. What lies under the key goes with it.
    AnyKey(String),
}

/// Why a text is no field path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing there, or a step with nothing in it.
    #[error("a field path has no empty steps")]
    Empty,
    /// Over one of the two limits.
    #[error("a field path has at most {PATH_BYTES_MAX} bytes and {PATH_STEPS_MAX} steps")]
    TooLong,
    /// A bracket that is neither `[*]` nor a quoted key.
    #[error("a bracket in a field path holds * or a key in double quotes")]
    Bracket,
    /// A control character, or a path of more steps that starts with neither `context` nor `labels`.
    #[error("a field path is a column, a bare key, context.…, or labels.…")]
    Form,
}

impl FieldPath {
    /// Reads the text form.
    ///
    /// # Errors
    /// What of the grammar the text misses.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        if text.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(PathError::Form);
        }
        if let Some(label) = text.strip_prefix("labels.") {
            return if label.is_empty() {
                Err(PathError::Empty)
            } else {
                Ok(Self::Label(label.to_owned()))
            };
        }
        if let Some(rest) = text
            .strip_prefix("context")
            .filter(|rest| rest.starts_with(['.', '[']))
        {
            return steps(rest).map(Self::Context);
        }
        if text.contains(['.', '[', ']', '"']) {
            return Err(PathError::Form);
        }
        let column = column::find(text).filter(|column| column.kind != ColumnKind::Other);
        Ok(if column.is_some() {
            Self::Column(text.to_owned())
        } else {
            Self::AnyKey(text.to_owned())
        })
    }

    /// Whether every value that `inner` names lies at or under a value that this path names.
    #[must_use]
    pub fn covers(&self, inner: &Self) -> bool {
        match (self, inner) {
            (Self::Column(own), Self::Column(other)) => own == other,
            (Self::Column(own), Self::Context(_)) => own == column::CONTEXT,
            (Self::Column(own), Self::Label(_)) => own == column::LABELS,
            (Self::Context(own), Self::Context(other)) => other.starts_with(own),
            (Self::Label(own), Self::Label(other)) => own == other,
            (Self::AnyKey(own), Self::AnyKey(other) | Self::Label(other)) => {
                own.eq_ignore_ascii_case(other)
            }
            (Self::AnyKey(own), Self::Context(other)) => other.iter().any(|step| match step {
                Step::Key(key) => key.eq_ignore_ascii_case(own),
                Step::AnyElement => false,
            }),
            (Self::AnyKey(_), Self::Column(_))
            | (Self::Context(_), Self::Column(_) | Self::Label(_) | Self::AnyKey(_))
            | (Self::Label(_), Self::Column(_) | Self::Context(_) | Self::AnyKey(_))
            | (Self::Column(_), Self::AnyKey(_)) => false,
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) | Self::AnyKey(name) => f.write_str(name),
            Self::Label(key) => write!(f, "labels.{key}"),
            Self::Context(steps) => {
                f.write_str(column::CONTEXT)?;
                for step in steps {
                    match step {
                        Step::AnyElement => f.write_str("[*]")?,
                        Step::Key(key) if is_plain(key) => write!(f, ".{key}")?,
                        Step::Key(key) => write!(f, "[{}]", serde_json::Value::from(key.as_str()))?,
                    }
                }
                Ok(())
            }
        }
    }
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && !key.contains(['.', '[', ']', '"']) && !key.chars().any(char::is_control)
}

/// Reads `.key`, `["key"]` and `[*]`, one after the other, up to the end.
fn steps(mut rest: &str) -> Result<Vec<Step>, PathError> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = if let Some(after) = rest.strip_prefix("[*]") {
            (Step::AnyElement, after)
        } else if let Some(inside) = rest.strip_prefix('[') {
            let mut values = serde_json::Deserializer::from_str(inside).into_iter::<String>();
            let key = values
                .next()
                .and_then(Result::ok)
                .ok_or(PathError::Bracket)?;
            let after = inside
                .get(values.byte_offset()..)
                .and_then(|after| after.strip_prefix(']'));
            (Step::Key(key), after.ok_or(PathError::Bracket)?)
        } else {
            let inside = rest.strip_prefix('.').ok_or(PathError::Form)?;
            let (key, after) = inside.split_at(inside.find(['.', '[']).unwrap_or(inside.len()));
            if key.contains([']', '"']) {
                return Err(PathError::Bracket);
            }
            (Step::Key(key.to_owned()), after)
        };
        if step == Step::Key(String::new()) {
            return Err(PathError::Empty);
        }
        steps.push(step);
        if steps.len() > PATH_STEPS_MAX {
            return Err(PathError::TooLong);
        }
        rest = after;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> FieldPath {
        FieldPath::parse(text).unwrap()
    }

    #[test]
    fn text_forms_read_and_write() {
        let key = |key: &str| Step::Key(key.to_owned());
        for (text, wanted) in [
            ("actor_id", FieldPath::Column("actor_id".into())),
            ("context", FieldPath::Column("context".into())),
            ("email", FieldPath::AnyKey("email".into())),
            ("salt", FieldPath::AnyKey("salt".into())),
            ("labels.app.io/name", FieldPath::Label("app.io/name".into())),
            ("context.a.b", FieldPath::Context(vec![key("a"), key("b")])),
            (
                "context.tags[*].email",
                FieldPath::Context(vec![key("tags"), Step::AnyElement, key("email")]),
            ),
            (
                "context[\"a.b\"].c",
                FieldPath::Context(vec![key("a.b"), key("c")]),
            ),
            (
                "context[\"a\\\"]b\"]",
                FieldPath::Context(vec![key("a\"]b")]),
            ),
        ] {
            assert_eq!(path(text), wanted, "{text}");
            assert_eq!(path(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_texts_are_refused() {
        for (text, wanted) in [
            ("", PathError::Empty),
            ("labels.", PathError::Empty),
            ("context.", PathError::Empty),
            ("context..a", PathError::Empty),
            ("context[\"\"]", PathError::Empty),
            ("context.a.", PathError::Empty),
            ("context[0]", PathError::Bracket),
            ("context[\"a\"", PathError::Bracket),
            ("context.a]", PathError::Bracket),
            ("context[*]x", PathError::Form),
            ("a.b", PathError::Form),
            ("contexts.a", PathError::Form),
            ("a\nb", PathError::Form),
        ] {
            assert_eq!(FieldPath::parse(text), Err(wanted), "{text}");
        }
        assert_eq!(
            FieldPath::parse(&"a".repeat(PATH_BYTES_MAX + 1)),
            Err(PathError::TooLong)
        );
        assert_eq!(
            FieldPath::parse(&format!("context{}", ".a".repeat(PATH_STEPS_MAX + 1))),
            Err(PathError::TooLong)
        );
    }

    #[test]
    fn covering_follows_the_tree() {
        for (outer, inner, wanted) in [
            ("context.a", "context.a.b", true),
            ("context.a.b", "context.a", false),
            ("context.a", "context.ab", false),
            ("context", "context.a", true),
            ("labels", "labels.env", true),
            ("labels.env", "labels.environment", false),
            ("email", "context.person[*].EMail", true),
            ("email", "context.email.domain", true),
            ("email", "context.emails", false),
            ("email", "labels.Email", true),
            ("context.email", "email", false),
            ("actor_id", "actor_id", true),
            ("actor_id", "resource_id", false),
        ] {
            assert_eq!(path(outer).covers(&path(inner)), wanted, "{outer} {inner}");
        }
    }

    proptest! {
        #[test]
        fn every_context_path_survives_its_text(keys in prop::collection::vec(prop::option::of("[^\\p{Cc}]{1,8}"), 1..6)) {
            let steps = keys.into_iter().map(|key| key.map_or(Step::AnyElement, Step::Key)).collect();
            let built = FieldPath::Context(steps);
            prop_assert_eq!(FieldPath::parse(&built.to_string()), Ok(built));
        }

        #[test]
        fn parsing_never_panics(text in "(context|labels)?[.\\[\\]\"*a-z\\PC]{0,40}") {
            let _ = FieldPath::parse(&text);
        }
    }
}
