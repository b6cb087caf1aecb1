//! The keywords of JSON Schema as the comparison reads them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// References that are followed one right after the other.
const REFERENCES_MAX: usize = 128;

/// Keywords that say nothing about which values are allowed.
pub(super) const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
];
/// Keywords that are understood.
pub(super) const UNDERSTOOD: &[&str] = &[
    "$ref",
    "additionalProperties",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "properties",
    "required",
    "type",
    "uniqueItems",
];
const TYPES: &[&str] = &[
    "array", "boolean", "integer", "null", "number", "object", "string",
];

pub(super) const ANYTHING: &Value = &Value::Bool(true);

/// What an object schema says of its members.
pub(super) struct Members<'a> {
    pub(super) named: &'a Map<String, Value>,
    pub(super) others: &'a Value,
}

impl<'a> Members<'a> {
    pub(super) fn of(schema: &'a Map<String, Value>) -> Self {
        static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        Self {
            named: schema
                .get("properties")
                .and_then(Value::as_object)
                .unwrap_or(&NONE),
            others: schema.get("additionalProperties").unwrap_or(ANYTHING),
        }
    }
}

pub(super) fn is_open(schema: &Value) -> bool {
    *schema == Value::Bool(true) || schema.as_object().is_some_and(Map::is_empty)
}

/// Follows `$ref`s within a schema. A reference with company other than annotations is more than it refers to.
pub(super) fn resolved<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let mut schema = schema;
    for _ in 0..REFERENCES_MAX {
        let Some(reference) = schema.get("$ref") else {
            return Some(schema);
        };
        let alone = schema
            .as_object()?
            .keys()
            .all(|keyword| keyword == "$ref" || ANNOTATIONS.contains(&keyword.as_str()));
        let pointer = reference.as_str()?.strip_prefix('#')?;
        if !alone {
            return None;
        }
        schema = root.pointer(pointer)?;
    }
    None
}

/// Whether a reference stands anywhere in it: then it is not said here what it means.
pub(super) fn refers(value: &Value) -> bool {
    match value {
        Value::Object(members) => members.contains_key("$ref") || members.values().any(refers),
        Value::Array(elements) => elements.iter().any(refers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The values of `const` or `enum`.
pub(super) fn listed(schema: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        (None, _) => None,
    }
}

pub(super) fn types(schema: &Map<String, Value>) -> BTreeSet<&str> {
    match schema.get("type") {
        Some(Value::String(name)) => BTreeSet::from([name.as_str()]),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => TYPES.iter().copied().collect(),
    }
}

pub(super) fn is_of(value: &Value, types: &BTreeSet<&str>) -> bool {
    let name = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) => {
            let whole = number.as_f64().is_some_and(|number| number.fract() == 0.0);
            if whole && types.contains("integer") {
                return true;
            }
            "number"
        }
    };
    types.contains(name)
}

/// Whether a keyword is about values of another type.
pub(super) fn is_exempt(value: &Value, keyword: &str) -> bool {
    let about = match keyword {
        "minLength" | "maxLength" | "pattern" => value.is_string(),
        "items" | "minItems" | "maxItems" | "uniqueItems" => value.is_array(),
        "properties" | "required" | "additionalProperties" | "minProperties" | "maxProperties" => {
            value.is_object()
        }
        _ => value.is_number(),
    };
    !about
}

/// A bound that grows with its strictness: the number times `sign`, then whether it is excluded itself.
pub(super) fn bound(
    schema: &Map<String, Value>,
    included: &str,
    excluded: &str,
    sign: f64,
) -> (f64, bool) {
    let number = |keyword: &str| {
        schema
            .get(keyword)
            .and_then(Value::as_f64)
            .map(|number| number * sign)
    };
    let none = f64::NEG_INFINITY;
    let (included, excluded) = (
        number(included).unwrap_or(none),
        number(excluded).unwrap_or(none),
    );
    if excluded > none && excluded >= included {
        (excluded, true)
    } else {
        (included, false)
    }
}

pub(super) fn required(schema: &Map<String, Value>) -> BTreeSet<&str> {
    let names = schema.get("required").and_then(Value::as_array);
    names
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}
