//! Whether readers of one schema can read what is written under another.
//!
//! The question is inclusion: is every record of the *narrow* schema one of the *wide* schema? Backward: the new schema
//! is wide enough for the old records; forward: the old one is for the new. The answer is on the safe side: what is not
//! understood (`oneOf`, `patternProperties`, `if`, …) cannot be compared, unless it is the same on both sides.
//!
//! One thing is taken more lightly than the letter of JSON Schema: a property that a schema neither names nor forbids is
//! taken as not written. Otherwise no property could ever be added to an open object.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use super::keywords::{
    ANNOTATIONS, ANYTHING, Members, UNDERSTOOD, bound, is_exempt, is_of, is_open, listed, refers,
    required, resolved, types,
};
use super::pointer::escaped;

/// Reasons that are reported in each direction.
const REASONS_MAX: usize = 64;
/// Pairs of schemas that are compared before it is given up.
const PAIRS_MAX: usize = 20_000;
/// References that are followed without a property or element between them.
const DEPTH_MAX: usize = 128;

/// How a schema relates to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compatibility {
    /// Both directions work.
    Full,
    /// The new one reads old records.
    Backward,
    /// The old one reads new records.
    Forward,
    /// Neither.
    Breaking,
}

/// Why a record of one schema might not be one of the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// JSON pointer of the place in the schema.
    pub pointer: String,
    /// What is in the way.
    pub message: String,
}

/// Both directions, with what is in the way of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// What follows from the rest.
    pub compatibility: Compatibility,
    /// Why the new schema might not read old records.
    pub backward: Vec<Reason>,
    /// Why the old schema might not read new records.
    pub forward: Vec<Reason>,
}

/// Compares two schemas.
#[must_use]
pub fn compare(old: &Value, new: &Value) -> Comparison {
    let backward = obstacles(old, new, ["the old schema", "the new one"]);
    let forward = obstacles(new, old, ["the new schema", "the old one"]);
    Comparison {
        compatibility: match (backward.is_empty(), forward.is_empty()) {
            (true, true) => Compatibility::Full,
            (true, false) => Compatibility::Backward,
            (false, true) => Compatibility::Forward,
            (false, false) => Compatibility::Breaking,
        },
        backward,
        forward,
    }
}

impl Compatibility {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Backward => "backward",
            Self::Forward => "forward",
            Self::Breaking => "breaking",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() {
            "/"
        } else {
            &self.pointer
        };
        write!(f, "{place}: {}", self.message)
    }
}

fn obstacles(narrow: &Value, wide: &Value, [from, to]: [&'static str; 2]) -> Vec<Reason> {
    if narrow == wide {
        return Vec::new();
    }
    let mut inclusion = Inclusion {
        narrow,
        wide,
        from,
        to,
        pairs: 0,
        reasons: Vec::new(),
    };
    inclusion.schema(narrow, wide, "", 0);
    inclusion.reasons
}

struct Inclusion<'a> {
    narrow: &'a Value,
    wide: &'a Value,
    from: &'static str,
    to: &'static str,
    pairs: usize,
    reasons: Vec<Reason>,
}

impl<'a> Inclusion<'a> {
    fn add(&mut self, at: &str, keyword: &str, message: impl Into<String>) {
        if self.reasons.len() < REASONS_MAX {
            let pointer = if keyword.is_empty() {
                at.to_owned()
            } else {
                format!("{at}/{keyword}")
            };
            self.reasons.push(Reason {
                pointer,
                message: message.into(),
            });
        }
    }

    fn schema(&mut self, narrow: &'a Value, wide: &'a Value, at: &str, depth: usize) {
        self.pairs += 1;
        if self.pairs > PAIRS_MAX || depth > DEPTH_MAX {
            if self.pairs <= PAIRS_MAX || self.reasons.is_empty() {
                self.add(
                    at,
                    "",
                    "cannot be compared: references lead too deep or in a loop",
                );
            }
            return;
        }
        let (Some(narrow), Some(wide)) = (resolved(self.narrow, narrow), resolved(self.wide, wide))
        else {
            self.add(
                at,
                "$ref",
                "cannot be compared: a reference that leads nowhere, or has company",
            );
            return;
        };
        match (narrow, wide) {
            (Value::Bool(false), _) | (_, Value::Bool(true)) => {}
            (_, Value::Bool(false)) => {
                self.add(
                    at,
                    "",
                    format!("{} allows values here, {} none", self.from, self.to),
                );
            }
            (Value::Bool(true), Value::Object(wide)) => {
                let open = self.open();
                self.objects(open, wide, at, depth);
            }
            (Value::Object(narrow), Value::Object(wide)) => self.objects(narrow, wide, at, depth),
            _ => self.add(at, "", "cannot be compared: not a schema"),
        }
    }

    /// The schema without keywords.
    fn open(&self) -> &'static Map<String, Value> {
        static OPEN: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        &OPEN
    }

    fn objects(
        &mut self,
        narrow: &'a Map<String, Value>,
        wide: &'a Map<String, Value>,
        at: &str,
        depth: usize,
    ) {
        self.not_understood(narrow, wide, at);
        if let Some(values) = listed(narrow) {
            self.each_listed(&values, wide, at);
            return;
        }
        if listed(wide).is_some() {
            let message = format!(
                "{} lists the values it allows, {} does not",
                self.to, self.from
            );
            self.add(at, "enum", message);
            return;
        }
        let types = types(narrow);
        self.types(&types, wide, at);
        let may_be = |names: &[&str]| names.iter().any(|name| types.contains(*name));
        if may_be(&["integer", "number"]) {
            self.numbers(narrow, wide, at);
        }
        if may_be(&["string"]) {
            self.texts(narrow, wide, at);
        }
        if may_be(&["array"]) {
            self.arrays(narrow, wide, at, depth);
        }
        if may_be(&["object"]) {
            self.members(narrow, wide, at, depth);
        }
    }

    /// Anything beyond the grammar of this module must be the same on both sides, and lead nowhere else.
    fn not_understood(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, at: &str) {
        let keywords: BTreeSet<&String> = narrow.keys().chain(wide.keys()).collect();
        for keyword in keywords {
            if ANNOTATIONS.contains(&keyword.as_str()) || UNDERSTOOD.contains(&keyword.as_str()) {
                continue;
            }
            // What these do hangs on their neighbours too.
            let entangled = matches!(
                keyword.as_str(),
                "patternProperties" | "prefixItems" | "unevaluatedProperties" | "unevaluatedItems"
            );
            let same = match (narrow.get(keyword), wide.get(keyword)) {
                (Some(one), Some(other)) => one == other && !refers(one),
                _ => false,
            };
            if !same || (entangled && narrow != wide) {
                self.add(at, keyword, "cannot be compared");
            }
        }
    }

    fn each_listed(&mut self, values: &[&Value], wide: &Map<String, Value>, at: &str) {
        if let Some(allowed) = listed(wide) {
            if values.iter().any(|value| !allowed.contains(value)) {
                let message = format!("{} lists values that {} does not", self.from, self.to);
                self.add(at, "enum", message);
            }
            return;
        }
        let types = types(wide);
        if values.iter().any(|value| !is_of(value, &types)) {
            let message = format!(
                "{} lists values of types that {} refuses",
                self.from, self.to
            );
            self.add(at, "type", message);
        }
        let bounds = wide.keys().filter(|keyword| {
            let plain = ["$ref", "type", "enum", "const"].contains(&keyword.as_str());
            UNDERSTOOD.contains(&keyword.as_str()) && !plain
        });
        for keyword in bounds.cloned().collect::<Vec<_>>() {
            if values.iter().any(|value| !is_exempt(value, &keyword)) {
                self.add(at, &keyword, "cannot be compared with a list of values");
            }
        }
    }

    fn types(&mut self, narrow: &BTreeSet<&str>, wide: &Map<String, Value>, at: &str) {
        let wide = types(wide);
        let refused: Vec<&str> = narrow
            .iter()
            .copied()
            .filter(|name| !(wide.contains(name) || *name == "integer" && wide.contains("number")))
            .collect();
        if !refused.is_empty() {
            let message = format!(
                "{} refuses {}, which {} allows",
                self.to,
                refused.join(", "),
                self.from
            );
            self.add(at, "type", message);
        }
    }

    fn numbers(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, at: &str) {
        let lowest = |schema| bound(schema, "minimum", "exclusiveMinimum", 1.0);
        let highest = |schema| bound(schema, "maximum", "exclusiveMaximum", -1.0);
        for (keyword, narrow, wide) in [
            ("minimum", lowest(narrow), lowest(wide)),
            ("maximum", highest(narrow), highest(wide)),
        ] {
            if wide > narrow {
                let message = format!(
                    "{} allows numbers beyond the bound of {}",
                    self.from, self.to
                );
                self.add(at, keyword, message);
            }
        }
        let step = |schema: &Map<String, Value>| schema.get("multipleOf").and_then(Value::as_f64);
        if let Some(wide) = step(wide) {
            let divides = step(narrow).is_some_and(|narrow| (narrow / wide).fract() == 0.0);
            if !divides {
                let message = format!(
                    "{} allows numbers that are no multiples of what {} asks for",
                    self.from, self.to
                );
                self.add(at, "multipleOf", message);
            }
        }
    }

    fn texts(&mut self, narrow: &Map<String, Value>, wide: &Map<String, Value>, at: &str) {
        self.counts(narrow, wide, at, ["minLength", "maxLength"]);
        if let Some(pattern) = wide.get("pattern")
            && narrow.get("pattern") != Some(pattern)
        {
            let message = format!("{} asks for a pattern that {} does not", self.to, self.from);
            self.add(at, "pattern", message);
        }
    }

    fn counts(
        &mut self,
        narrow: &Map<String, Value>,
        wide: &Map<String, Value>,
        at: &str,
        [least, most]: [&str; 2],
    ) {
        let count =
            |schema: &Map<String, Value>, keyword| schema.get(keyword).and_then(Value::as_f64);
        if count(wide, least).unwrap_or(0.0) > count(narrow, least).unwrap_or(0.0) {
            self.add(
                at,
                least,
                format!("{} asks for more than {}", self.to, self.from),
            );
        }
        let unbounded = f64::INFINITY;
        if count(wide, most).unwrap_or(unbounded) < count(narrow, most).unwrap_or(unbounded) {
            self.add(
                at,
                most,
                format!("{} allows less than {}", self.to, self.from),
            );
        }
    }

    fn arrays(
        &mut self,
        narrow: &'a Map<String, Value>,
        wide: &'a Map<String, Value>,
        at: &str,
        depth: usize,
    ) {
        self.counts(narrow, wide, at, ["minItems", "maxItems"]);
        let unique =
            |schema: &Map<String, Value>| schema.get("uniqueItems") == Some(&Value::Bool(true));
        if unique(wide) && !unique(narrow) {
            let message = format!("{} refuses elements that repeat", self.to);
            self.add(at, "uniqueItems", message);
        }
        let items = |schema: &'a Map<String, Value>| schema.get("items").unwrap_or(ANYTHING);
        self.schema(
            items(narrow),
            items(wide),
            &format!("{at}/items"),
            depth + 1,
        );
    }

    fn members(
        &mut self,
        narrow: &'a Map<String, Value>,
        wide: &'a Map<String, Value>,
        at: &str,
        depth: usize,
    ) {
        self.counts(narrow, wide, at, ["minProperties", "maxProperties"]);
        let always = required(narrow);
        for name in required(wide) {
            if !always.contains(name) {
                let message = format!("{} requires {name:?}, {} does not", self.to, self.from);
                self.add(at, "required", message);
            }
        }
        let (narrow, wide) = (Members::of(narrow), Members::of(wide));
        let names: BTreeSet<&String> = narrow.named.keys().chain(wide.named.keys()).collect();
        for name in names {
            let place = format!("{at}/properties/{}", escaped(name));
            match (narrow.named.get(name), wide.named.get(name)) {
                (Some(own), Some(other)) => self.schema(own, other, &place, depth + 1),
                (Some(own), None) => self.schema(own, wide.others, &place, depth + 1),
                // Open and not named: taken as not written.
                (None, Some(_)) if is_open(narrow.others) => {}
                (None, Some(other)) => self.schema(narrow.others, other, &place, depth + 1),
                (None, None) => {}
            }
        }
        let place = format!("{at}/additionalProperties");
        self.schema(narrow.others, wide.others, &place, depth + 1);
    }
}
