//! A schema as it was written: JSON Schema, draft 2020-12, with bounds that make it safe to run on every record.
//!
//! Refused, each with its place: references to elsewhere and names that make them (`$id` below the root, `$anchor`,
//! `$dynamicRef`), references that lead back to themselves or multiply, patterns that a linear-time engine does not run
//! or that compile into too much. `format` is an annotation, as the draft has it.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use jsonschema::error::ValidationErrorKind;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::pointer::escaped;

/// Bytes of the largest schema.
pub const SCHEMA_BYTES_MAX: usize = 64 * 1024;
/// Levels of objects and arrays in a schema.
const DEPTH_MAX: usize = 64;
/// Schemas that one value can meet, references followed: what checking one costs.
const EXPANDED_MAX: usize = 4_096;
/// Patterns of one schema.
const PATTERNS_MAX: usize = 64;
/// Bytes of one compiled pattern, and of what it keeps while it runs.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Mismatches of one record that are reported.
const MISMATCHES_MAX: usize = 64;
/// Bytes of a message.
const MESSAGE_BYTES_MAX: usize = 256;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
/// Keywords whose value is a schema.
const ONE: &[&str] = &[
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const MANY: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is schemas by name.
const NAMED: &[&str] = &["dependentSchemas", "patternProperties", "properties"];
/// The same, for schemas that count only where something refers to them.
const KEPT: &[&str] = &["$defs", "definitions"];
/// Names and references that could lead out of the text or be taken over from elsewhere.
const FORBIDDEN: &[&str] = &[
    "$anchor",
    "$dynamicAnchor",
    "$dynamicRef",
    "$recursiveAnchor",
    "$recursiveRef",
    "$vocabulary",
];

/// A schema that may be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    text: String,
    value: Value,
}

/// One thing of a record that a schema does not allow. It never holds a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// JSON pointer of the place in the record.
    pub pointer: String,
    /// What is expected there.
    pub message: String,
}

impl Definition {
    /// Reads and checks a schema.
    ///
    /// # Errors
    /// Every reason to refuse it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<String>> {
        let one = |reason: &str| vec![reason.to_owned()];
        if bytes.len() > SCHEMA_BYTES_MAX {
            return Err(vec![format!(
                "a schema has at most {SCHEMA_BYTES_MAX} bytes"
            )]);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| one("a schema is UTF-8 text"))?;
        let too_deep = || vec![format!("nested deeper than {DEPTH_MAX} levels")];
        let value: Value = serde_json::from_str(text).map_err(|error| {
            if error.to_string().starts_with("recursion limit") {
                too_deep()
            } else {
                vec![format!("not JSON, at line {}", error.line())]
            }
        })?;
        if depth(&value) > DEPTH_MAX {
            return Err(too_deep());
        }
        let Value::Object(root) = &value else {
            return Err(one("a schema is a JSON object"));
        };
        if root.get("$schema").is_some_and(|draft| {
            draft.as_str().map(|draft| draft.trim_end_matches('#')) != Some(DRAFT)
        }) {
            return Err(vec![format!("/$schema: only {DRAFT} is read")]);
        }
        let mut walk = Walk::default();
        walk.schema(&value, String::new());
        walk.references();
        if !walk.faults.is_empty() {
            return Err(walk.faults);
        }
        let definition = Self {
            text: text.to_owned(),
            value,
        };
        definition.compile().map_err(|fault| vec![fault])?;
        Ok(definition)
    }

    /// The author's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The schema.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// SHA-256 of the text, in hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hexadecimal = String::new();
        for byte in Sha256::digest(&self.text) {
            // Writing to a String cannot fail.
            let _ = write!(hexadecimal, "{byte:02x}");
        }
        hexadecimal
    }

    /// The schema, ready to check records.
    pub(super) fn compile(&self) -> Result<Compiled, String> {
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES_MAX)
            .dfa_size_limit(PATTERN_BYTES_MAX);
        let built = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(patterns)
            .offline()
            .build(&self.value);
        match built {
            Ok(validator) => Ok(Compiled(validator)),
            Err(error) => Err(format!(
                "{}: {}",
                error.instance_path().as_str(),
                message(&error)
            )),
        }
    }
}

/// A schema that checks records.
pub(super) struct Compiled(Validator);

impl Compiled {
    /// What of a record the schema does not allow, up to a bound.
    pub(super) fn mismatches(&self, record: &Value) -> Vec<Mismatch> {
        let errors = self.0.iter_errors(record).take(MISMATCHES_MAX);
        errors
            .map(|error| Mismatch {
                pointer: error.instance_path().as_str().to_owned(),
                message: message(&error),
            })
            .collect()
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

/// What is expected, in the schema's words; nothing of the value.
fn message(error: &ValidationError<'_>) -> String {
    let mut message = match error.kind() {
        ValidationErrorKind::PropertyNames { .. } => {
            "has a property whose name is not allowed".to_owned()
        }
        ValidationErrorKind::AdditionalProperties { .. }
        | ValidationErrorKind::UnevaluatedProperties { .. } => {
            "has a property that is not in the schema".to_owned()
        }
        ValidationErrorKind::FalseSchema => "nothing is allowed here".to_owned(),
        ValidationErrorKind::FromUtf8 { .. }
        | ValidationErrorKind::BacktrackLimitExceeded { .. }
        | ValidationErrorKind::RegexEngineFailure { .. } => "cannot be checked".to_owned(),
        _ => error.masked_with("the value").to_string(),
    };
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push('…');
    }
    message
}

/// Levels of objects and arrays. The parser has bounded them at 128, so this ends.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(elements) => elements.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    below.unwrap_or(0) + 1
}

/// A way through all schemas of a text.
#[derive(Default)]
struct Walk {
    /// Every schema by its pointer, with the pointers of those a value meets there too.
    schemas: BTreeMap<String, Vec<String>>,
    patterns: usize,
    faults: Vec<String>,
}

impl Walk {
    fn schema(&mut self, schema: &Value, at: String) {
        let mut meets = Vec::new();
        if let Value::Object(members) = schema {
            self.keywords(members, &at);
            for keyword in ONE {
                if let Some(inner) = members.get(*keyword) {
                    meets.push(self.inner(inner, &at, keyword, None));
                }
            }
            for keyword in MANY {
                for (index, inner) in members
                    .get(*keyword)
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .enumerate()
                {
                    meets.push(self.inner(inner, &at, keyword, Some(&index.to_string())));
                }
            }
            for (keywords, counts) in [(NAMED, true), (KEPT, false)] {
                for keyword in keywords {
                    for (name, inner) in members
                        .get(*keyword)
                        .and_then(Value::as_object)
                        .into_iter()
                        .flatten()
                    {
                        let met = self.inner(inner, &at, keyword, Some(name));
                        meets.extend(counts.then_some(met));
                    }
                }
            }
            meets.extend(self.reference(members, &at));
        }
        self.schemas.insert(at, meets);
    }

    fn inner(&mut self, inner: &Value, at: &str, keyword: &str, name: Option<&str>) -> String {
        let mut pointer = format!("{at}/{keyword}");
        if let Some(name) = name {
            pointer.push('/');
            pointer.push_str(&escaped(name));
        }
        self.schema(inner, pointer.clone());
        pointer
    }

    fn keywords(&mut self, members: &Map<String, Value>, at: &str) {
        for keyword in FORBIDDEN {
            if members.contains_key(*keyword) {
                self.faults.push(format!(
                    "{at}/{keyword}: is not taken; use $defs and $ref: \"#/$defs/…\""
                ));
            }
        }
        if !at.is_empty() && members.contains_key("$id") {
            self.faults
                .push(format!("{at}/$id: only the whole schema has an id"));
        }
        let named = members.get("patternProperties").and_then(Value::as_object);
        self.patterns += usize::from(members.contains_key("pattern")) + named.map_or(0, Map::len);
    }

    fn reference(&mut self, members: &Map<String, Value>, at: &str) -> Option<String> {
        let reference = members.get("$ref")?;
        let local = reference.as_str().and_then(|text| text.strip_prefix('#'));
        match local {
            Some(pointer) if pointer.is_empty() || pointer.starts_with('/') => {
                Some(pointer.to_owned())
            }
            _ => {
                self.faults.push(format!(
                    "{at}/$ref: leads out of this schema; nothing is fetched from elsewhere, put it under $defs"
                ));
                None
            }
        }
    }

    /// Follows every reference and counts what a value meets.
    fn references(&mut self) {
        if self.patterns > PATTERNS_MAX {
            self.faults
                .push(format!("more than {PATTERNS_MAX} patterns"));
        }
        let mut counted = BTreeMap::new();
        match count(&self.schemas, "", &mut counted) {
            Ok(met) if met > EXPANDED_MAX => self.faults.push(format!(
                "a record would meet more than {EXPANDED_MAX} schemas, references followed"
            )),
            Ok(_) => {}
            Err(fault) => self.faults.push(fault),
        }
    }
}

/// How many schemas a value meets from here on; zero stands for one whose count is not done yet.
fn count(
    schemas: &BTreeMap<String, Vec<String>>,
    at: &str,
    counted: &mut BTreeMap<String, usize>,
) -> Result<usize, String> {
    match counted.get(at) {
        Some(0) => {
            return Err(format!(
                "{at}: a $ref leads back to here; loops are not taken"
            ));
        }
        Some(known) => return Ok(*known),
        None => {}
    }
    let meets = schemas
        .get(at)
        .ok_or_else(|| format!("#{at}: a $ref leads to nothing"))?;
    counted.insert(at.to_owned(), 0);
    let mut met = 1_usize;
    for next in meets {
        met = met.saturating_add(count(schemas, next, counted)?);
    }
    counted.insert(at.to_owned(), met);
    Ok(met)
}
