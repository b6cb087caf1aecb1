//! From the words of a row predicate to its meaning, with every reason why there is none.
//!
//! ```text
//! any    := all { OR all }
//! all    := one { AND one }
//! one    := NOT one | ( any ) | field test | caller.ATTRIBUTE ( = | <> | [NOT] IN ) …
//! field  := COLUMN | labels['KEY']
//! test   := ( = | <> | < | <= | > | >= ) value | [NOT] IN ( text, … ) | [NOT] LIKE text | [NOT] ILIKE text
//!         | [NOT] BETWEEN value AND value | IS [NOT] NULL
//! value  := 'text' | caller.ATTRIBUTE (after = and <> only)
//! ```

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

use crate::clock::Timestamp;
use crate::context::Attribute;
use crate::policy::column::ColumnKind;

use super::words::{Word, words};
use super::{Comparison, Predicate, RowField, RowTest, Test, WHERE_BYTES_MAX};

/// Nested parentheses and NOTs.
const DEPTH_MAX: usize = 32;
/// Tests of one predicate.
const TESTS_MAX: usize = 256;
/// Characters of the longest text or pattern.
const TEXT_CHARS_MAX: usize = 256;

/// Reads a predicate. `kind_of` knows the columns that there are.
pub(in crate::policy) fn parse(
    text: &str,
    kind_of: &dyn Fn(&str) -> Option<ColumnKind>,
) -> Result<Predicate<Test>, Vec<String>> {
    if text.len() > WHERE_BYTES_MAX {
        return Err(vec![format!("has more than {WHERE_BYTES_MAX} bytes")]);
    }
    let words = words(text).map_err(|reason| vec![reason])?;
    let mut parser = Parser {
        words: words.into_iter().peekable(),
        kind_of,
        depth: 0,
        tests: 0,
        reasons: Vec::new(),
    };
    let predicate = parser
        .any()
        .and_then(|predicate| match parser.words.next() {
            None => Ok(predicate),
            Some(word) => Err(unexpected(Some(&word), "AND, OR or the end")),
        });
    // What stops the reading comes last: what was found on the way stands before it.
    match predicate {
        Ok(predicate) if parser.reasons.is_empty() => Ok(predicate),
        Ok(_) => Err(parser.reasons),
        Err(reason) => {
            parser.reasons.push(reason);
            Err(parser.reasons)
        }
    }
}

type Parsed<T> = Result<T, String>;

struct Parser<'a> {
    words: Peekable<IntoIter<Word>>,
    kind_of: &'a dyn Fn(&str) -> Option<ColumnKind>,
    depth: usize,
    tests: usize,
    reasons: Vec<String>,
}

/// What stands left of a comparison.
enum Side {
    Text(RowField),
    Time(String),
    Caller(Attribute),
    /// Refused already; read on for what else there is.
    Unknown,
}

impl Parser<'_> {
    fn any(&mut self) -> Parsed<Predicate<Test>> {
        let mut parts = vec![self.all()?];
        while self.keyword("OR") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Predicate::Any))
    }

    fn all(&mut self) -> Parsed<Predicate<Test>> {
        let mut parts = vec![self.one()?];
        while self.keyword("AND") {
            parts.push(self.one()?);
        }
        Ok(one_or(parts, Predicate::All))
    }

    fn one(&mut self) -> Parsed<Predicate<Test>> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("is nested more than {DEPTH_MAX} deep"));
        }
        let one = if self.keyword("NOT") {
            Predicate::Not(Box::new(self.one()?))
        } else if self.sign("(") {
            let inner = self.any()?;
            self.expect(")")?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(one)
    }

    fn test(&mut self) -> Parsed<Predicate<Test>> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return Err(format!("has more than {TESTS_MAX} comparisons"));
        }
        let side = self.side()?;
        if self.keyword("IS") {
            let is_not = self.keyword("NOT");
            if !self.keyword("NULL") {
                return Err("IS must be followed by NULL or NOT NULL".to_owned());
            }
            let missing = self.missing(side);
            return Ok(if is_not { negated(missing) } else { missing });
        }
        let is_not = self.keyword("NOT");
        let tested = if self.keyword("IN") {
            self.one_of(side)?
        } else if self.keyword("LIKE") {
            self.like(side, false)?
        } else if self.keyword("ILIKE") {
            self.like(side, true)?
        } else if self.keyword("BETWEEN") {
            let low = self.compared(&side, Comparison::GreaterOrEqual)?;
            if !self.keyword("AND") {
                return Err("BETWEEN needs two values with AND between them".to_owned());
            }
            let high = self.compared(&side, Comparison::LessOrEqual)?;
            Predicate::All(vec![low, high])
        } else if is_not {
            return Err("NOT must be followed by IN, LIKE, ILIKE or BETWEEN here".to_owned());
        } else {
            let comparison = self.comparison()?;
            self.compared(&side, comparison)?
        };
        Ok(if is_not { negated(tested) } else { tested })
    }

    /// What a comparison is about.
    fn side(&mut self) -> Parsed<Side> {
        let word = self.words.next();
        let Some(Word::Name(name)) = word else {
            return Err(unexpected(
                word.as_ref(),
                "a column, labels['…'] or caller.…",
            ));
        };
        if self.words.peek() == Some(&Word::Sign("(")) {
            return Err(format!(
                "{name}(…): nothing is computed here; a column is compared with a value"
            ));
        }
        if let Some(attribute) = name.strip_prefix("caller.") {
            return Ok(self
                .attribute(attribute)
                .map_or(Side::Unknown, Side::Caller));
        }
        if name == "labels" && self.sign("[") {
            let word = self.words.next();
            let Some(Word::Text(key)) = word else {
                return Err(unexpected(word.as_ref(), "the key of a label in quotes"));
            };
            self.expect("]")?;
            return Ok(Side::Text(RowField::Label(key)));
        }
        Ok(self.column(name))
    }

    fn column(&mut self, name: String) -> Side {
        let reason = match (self.kind_of)(&name) {
            Some(ColumnKind::Text) => return Side::Text(RowField::Column(name)),
            Some(ColumnKind::Timestamp) => return Side::Time(name),
            Some(ColumnKind::Json) => {
                "promote the place in it that the policy looks at: a document cannot be compared"
            }
            Some(ColumnKind::Map) => "name one label: labels['…']",
            Some(ColumnKind::Other) | None => "there is no such column for a policy",
        };
        self.reasons.push(format!("{name}: {reason}"));
        Side::Unknown
    }

    fn attribute(&mut self, name: &str) -> Option<Attribute> {
        let attribute = Attribute::parse(name);
        if attribute.is_none() {
            let known = Attribute::ALL.map(Attribute::as_str).join(", ");
            self.reasons
                .push(format!("caller.{name}: known are {known}"));
        }
        attribute
    }

    fn comparison(&mut self) -> Parsed<Comparison> {
        let word = self.words.next();
        let Some(Word::Sign(sign)) = word else {
            return Err(unexpected(word.as_ref(), "a comparison"));
        };
        Ok(match sign {
            "=" => Comparison::Equal,
            "<>" | "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            _ => return Err(unexpected(word.as_ref(), "a comparison")),
        })
    }

    /// A comparison whose right side comes next.
    fn compared(&mut self, side: &Side, comparison: Comparison) -> Parsed<Predicate<Test>> {
        let equal = match comparison {
            Comparison::Equal => Some(true),
            Comparison::NotEqual => Some(false),
            _ => None,
        };
        let word = self.words.next();
        if let Some(Word::Name(name)) = &word
            && let Some(attribute) = name.strip_prefix("caller.")
        {
            let attribute = self.attribute(attribute);
            return Ok(match (side, attribute, equal) {
                (Side::Text(field), Some(attribute), Some(equal)) => {
                    let same = Test::RowIsCallers(field.clone(), attribute);
                    if equal {
                        Predicate::Test(same)
                    } else {
                        negated(Predicate::Test(same))
                    }
                }
                (Side::Unknown, ..) | (_, None, _) => Predicate::nothing(),
                _ => self.refuse("an attribute of the caller is only = or <> to a text of the row"),
            });
        }
        let Some(Word::Text(text)) = word else {
            return Err(unexpected(word.as_ref(), "a text in quotes"));
        };
        let text = self.bounded(text);
        Ok(match (side, equal) {
            (Side::Text(field), _) => row(RowTest::Text(field.clone(), comparison, text)),
            (Side::Time(column), _) => match Timestamp::parse_rfc3339(&text) {
                Ok(at) => row(RowTest::Time(column.clone(), comparison, at)),
                Err(_) => {
                    let reason = format!("{column}: compared with what is no RFC 3339 time");
                    self.refuse(reason)
                }
            },
            (Side::Caller(attribute), Some(equal)) => {
                let is = Predicate::Test(Test::Caller(*attribute, BTreeSet::from([text])));
                if equal { is } else { negated(is) }
            }
            (Side::Caller(_), None) => {
                self.refuse("an attribute of the caller is only compared with =, <> and IN")
            }
            (Side::Unknown, _) => Predicate::nothing(),
        })
    }

    fn one_of(&mut self, side: Side) -> Parsed<Predicate<Test>> {
        self.expect("(")?;
        let mut texts = BTreeSet::new();
        loop {
            let word = self.words.next();
            let Some(Word::Text(text)) = word else {
                return Err(unexpected(word.as_ref(), "a text in quotes"));
            };
            let text = self.bounded(text);
            texts.insert(text);
            if !self.sign(",") {
                break;
            }
        }
        self.expect(")")?;
        if texts.len() > TESTS_MAX {
            return Err(format!("IN: has more than {TESTS_MAX} texts"));
        }
        Ok(match side {
            Side::Text(field) => row(RowTest::OneOf(field, texts)),
            Side::Caller(attribute) => Predicate::Test(Test::Caller(attribute, texts)),
            Side::Time(column) => self.refuse(format!("{column}: IN is for texts")),
            Side::Unknown => Predicate::nothing(),
        })
    }

    fn like(&mut self, side: Side, any_case: bool) -> Parsed<Predicate<Test>> {
        let word = self.words.next();
        let Some(Word::Text(pattern)) = word else {
            return Err(unexpected(word.as_ref(), "a pattern in quotes"));
        };
        let pattern = self.bounded(pattern);
        Ok(match side {
            Side::Text(field) => row(RowTest::Like {
                field,
                pattern,
                any_case,
            }),
            Side::Time(_) | Side::Caller(_) => self.refuse("LIKE is for texts of the row"),
            Side::Unknown => Predicate::nothing(),
        })
    }

    fn missing(&mut self, side: Side) -> Predicate<Test> {
        match side {
            Side::Text(field) => row(RowTest::Missing(field)),
            Side::Time(column) => row(RowTest::Missing(RowField::Column(column))),
            Side::Caller(_) => self.refuse(
                "a policy that asks for an attribute which the caller does not have selects no row",
            ),
            Side::Unknown => Predicate::nothing(),
        }
    }

    fn bounded(&mut self, text: String) -> String {
        if text.chars().count() > TEXT_CHARS_MAX {
            self.reasons
                .push(format!("a text has more than {TEXT_CHARS_MAX} characters"));
        }
        text
    }

    /// Notes a reason and reads on.
    fn refuse(&mut self, reason: impl Into<String>) -> Predicate<Test> {
        self.reasons.push(reason.into());
        Predicate::nothing()
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is_it =
            |word: &Word| matches!(word, Word::Name(name) if name.eq_ignore_ascii_case(keyword));
        self.words.next_if(is_it).is_some()
    }

    fn sign(&mut self, sign: &'static str) -> bool {
        self.words.next_if_eq(&Word::Sign(sign)).is_some()
    }

    fn expect(&mut self, sign: &'static str) -> Parsed<()> {
        match self.words.next() {
            Some(Word::Sign(found)) if found == sign => Ok(()),
            other => Err(unexpected(other.as_ref(), &format!("`{sign}`"))),
        }
    }
}

fn row(test: RowTest) -> Predicate<Test> {
    Predicate::Test(Test::Row(test))
}

fn negated(predicate: Predicate<Test>) -> Predicate<Test> {
    Predicate::Not(Box::new(predicate))
}

fn one_or(
    mut parts: Vec<Predicate<Test>>,
    of: fn(Vec<Predicate<Test>>) -> Predicate<Test>,
) -> Predicate<Test> {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            of(parts)
        }
        None => of(parts),
    }
}

fn unexpected(word: Option<&Word>, wanted: &str) -> String {
    match word {
        None => format!("ends where {wanted} should stand"),
        Some(Word::Name(name)) => format!("`{name}` stands where {wanted} should"),
        Some(Word::Text(_)) => format!("a text stands where {wanted} should"),
        Some(Word::Sign(sign)) => format!("`{sign}` stands where {wanted} should"),
    }
}
