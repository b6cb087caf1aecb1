//! Row policies: which stored rows a caller may know of.
//!
//! ```text
//! rowPolicies:
//!   own-unit: { roles: [Investigator], where: "labels['unit'] = caller.orgUnit" }
//!   no-drafts: { mandatory: true, where: "action NOT LIKE 'Draft.%'" }
//! ```
//! A predicate is a comparison of text or time with a value, and AND, OR and NOT over such: nothing of it can fail, on any
//! row, whatever the row holds. Comparisons with a value that is not there are neither true nor false, as in SQL, and a
//! row is visible only if the whole is true.
//!
//! What is true of a caller is settled when they are decided about: a [`Test`] becomes a [`RowTest`], about rows alone. A
//! policy that asks for an attribute which the caller's token does not have selects no row.

mod grammar;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeSet;
use std::fmt;

use crate::clock::Timestamp;
use crate::context::{Attribute, Attributes, Role};

pub(super) use grammar::parse;

/// Row policies of one bundle.
pub const ROW_POLICIES_MAX: usize = 64;
/// Bytes of the longest predicate.
pub const WHERE_BYTES_MAX: usize = 4096;

/// One row policy of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPolicy {
    /// Its name in the bundle, in EXPLAIN and in evidence.
    pub name: String,
    /// Whom it is for. Of a mandatory one, nobody in particular means everybody.
    pub roles: BTreeSet<Role>,
    /// Whether it takes rows away whatever else allows them; otherwise any one of a role's policies is enough.
    pub mandatory: bool,
    /// The rows it selects.
    pub predicate: Predicate<Test>,
}

/// A predicate over tests of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate<T> {
    /// All of them; true if there are none.
    All(Vec<Self>),
    /// Any of them; false if there are none.
    Any(Vec<Self>),
    /// The opposite; what is neither true nor false stays so.
    Not(Box<Self>),
    /// One test.
    Test(T),
}

/// A test as a bundle has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// About a row, compared with what the bundle says.
    Row(RowTest),
    /// About a row, compared with an attribute of the caller.
    RowIsCallers(RowField, Attribute),
    /// About the caller: whether the attribute is one of these.
    Caller(Attribute, BTreeSet<String>),
}

/// A test of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowTest {
    /// A text compared with a text, byte by byte.
    Text(RowField, Comparison, String),
    /// A time compared with a time.
    Time(String, Comparison, Timestamp),
    /// Whether a text is one of these.
    OneOf(RowField, BTreeSet<String>),
    /// Whether a text has the form of an SQL pattern: `%` any text, `_` any character, `\` before either for itself.
    Like {
        /// The text.
        field: RowField,
        /// The pattern.
        pattern: String,
        /// Whether `A` is `a`.
        any_case: bool,
    },
    /// Whether there is no value.
    Missing(RowField),
}

/// A text or time of a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowField {
    /// A column of the table, or a promoted one.
    Column(String),
    /// One label.
    Label(String),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// What one caller's rows must fulfil, and by which policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRule {
    /// The names of the policies that were looked at.
    pub policies: BTreeSet<String>,
    /// What is true of every row the caller may know of.
    pub predicate: Predicate<RowTest>,
}

impl RowPolicy {
    /// The rows it selects for a caller; none, if it asks for an attribute that they do not have.
    #[must_use]
    pub fn for_caller(&self, attributes: &Attributes) -> Predicate<RowTest> {
        let bound = self.predicate.bound(attributes);
        bound.unwrap_or_else(Predicate::nothing)
    }
}

impl<T> Predicate<T> {
    /// Selects every row.
    #[must_use]
    pub const fn everything() -> Self {
        Self::All(Vec::new())
    }

    /// Selects no row.
    #[must_use]
    pub const fn nothing() -> Self {
        Self::Any(Vec::new())
    }

    /// Looks at every test.
    pub fn each<'a>(&'a self, look: &mut dyn FnMut(&'a T)) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.each(look)),
            Self::Not(inner) => inner.each(look),
            Self::Test(test) => look(test),
        }
    }
}

impl Predicate<Test> {
    fn bound(&self, attributes: &Attributes) -> Option<Predicate<RowTest>> {
        let all = |parts: &[Self]| -> Option<Vec<_>> {
            parts.iter().map(|part| part.bound(attributes)).collect()
        };
        Some(match self {
            Self::All(parts) => Predicate::All(all(parts)?),
            Self::Any(parts) => Predicate::Any(all(parts)?),
            Self::Not(inner) => Predicate::Not(Box::new(inner.bound(attributes)?)),
            Self::Test(Test::Row(test)) => Predicate::Test(test.clone()),
            Self::Test(Test::RowIsCallers(field, attribute)) => {
                let value = attributes.get(*attribute)?.to_owned();
                Predicate::Test(RowTest::Text(field.clone(), Comparison::Equal, value))
            }
            Self::Test(Test::Caller(attribute, values)) => {
                if values.contains(attributes.get(*attribute)?) {
                    Predicate::everything()
                } else {
                    Predicate::nothing()
                }
            }
        })
    }
}

impl Test {
    /// The field of the row that it looks at, if it does.
    #[must_use]
    pub fn field(&self) -> Option<RowField> {
        match self {
            Self::Row(test) => Some(test.field()),
            Self::RowIsCallers(field, _) => Some(field.clone()),
            Self::Caller(..) => None,
        }
    }
}

impl RowTest {
    /// The field that it looks at.
    #[must_use]
    pub fn field(&self) -> RowField {
        match self {
            Self::Text(field, ..)
            | Self::OneOf(field, _)
            | Self::Like { field, .. }
            | Self::Missing(field) => field.clone(),
            Self::Time(column, ..) => RowField::Column(column.clone()),
        }
    }
}

impl Comparison {
    /// The sign in SQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl fmt::Display for RowField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(name) => f.write_str(name),
            Self::Label(key) => write!(f, "labels[{}]", quoted(key)),
        }
    }
}

/// The predicate as SQL, with nothing left out: one text for one meaning, for a decision's digest.
impl fmt::Display for Predicate<RowTest> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, word) = match self {
            Self::All(parts) => (parts, " AND "),
            Self::Any(parts) => (parts, " OR "),
            Self::Not(inner) => return write!(f, "NOT ({inner})"),
            Self::Test(test) => return write!(f, "{test}"),
        };
        if parts.is_empty() {
            return f.write_str(if word == " AND " { "true" } else { "false" });
        }
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                f.write_str(word)?;
            }
            write!(f, "({part})")?;
        }
        Ok(())
    }
}

impl fmt::Display for RowTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(field, comparison, text) => {
                write!(f, "{field} {} {}", comparison.as_str(), quoted(text))
            }
            Self::Time(column, comparison, at) => {
                write!(f, "{column} {} '{at}'", comparison.as_str())
            }
            Self::OneOf(field, texts) => {
                let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                write!(f, "{field} IN ({})", texts.join(", "))
            }
            Self::Like {
                field,
                pattern,
                any_case,
            } => {
                let word = if *any_case { "ILIKE" } else { "LIKE" };
                write!(f, "{field} {word} {}", quoted(pattern))
            }
            Self::Missing(field) => write!(f, "{field} IS NULL"),
        }
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
