//! What of a record its proof may show to a caller: what they would see of it in a query, as it is stored.
//!
//! A commitment is all or nothing, so a part is withheld as soon as any rule of the caller's could reach anything in it. A
//! rule that names a place is taken to reach all that is under the first step of it. Where old records are upcast, a rule
//! may reach a value that still stands elsewhere, and everything but columns is withheld unless nothing is masked at all.

use catalog::guard::Decision;
use catalog::policy::{FieldPath, MaskRule, Step};
use serde_json::Value;

use crate::record::layout::Entry;
use crate::seal::opened::{LeafPart, read_rest};

/// The places of a record where names are looked for.
const DOCUMENTS: [&str; 3] = ["context", "extras", "labels"];

/// The rules of a caller.
pub(super) struct Showing<'d> {
    decision: &'d Decision,
    rules: Vec<&'d FieldPath>,
    evolves: bool,
}

impl<'d> Showing<'d> {
    /// What this caller may be shown of a record; `evolves` if records of the tenant are upcast when they are read.
    pub(super) fn new(decision: &'d Decision, evolves: bool) -> Self {
        let rules = decision.profile.fields.iter();
        Self {
            decision,
            rules: rules
                .filter(|(_, rule)| **rule != MaskRule::Clear)
                .map(|(path, _)| path)
                .collect(),
            evolves,
        }
    }

    /// Whether the caller may be shown a part of a leaf, which is committed to as these bytes.
    pub(super) fn shows(&self, part: LeafPart<'_>, value: &[u8]) -> bool {
        if self.rules.is_empty() {
            return true;
        }
        if let LeafPart::Value(Entry::Column(name)) = part
            && !DOCUMENTS.contains(&name)
        {
            return self.shows_column(name);
        }
        if self.evolves {
            return false;
        }
        match part {
            LeafPart::Rest => read_rest(value).is_some_and(|rest| {
                rest.iter().all(|value| {
                    let (name, value) = (value.name.as_str(), value.value.as_str());
                    if DOCUMENTS.contains(&name) {
                        self.shows_document(name, value)
                    } else {
                        self.shows_column(name)
                    }
                })
            }),
            // Labels that are committed apart are rare, and so is who reads them without any mask.
            LeafPart::Value(Entry::Column(_)) => false,
            LeafPart::Value(Entry::Sealed(pointer)) => self.shows_place(pointer),
            LeafPart::Value(Entry::Promoted { column, pointer }) => {
                self.shows_column(column) && self.shows_place(pointer)
            }
        }
    }

    fn shows_column(&self, name: &str) -> bool {
        let (bundle, profile) = (&self.decision.policy.bundle, &self.decision.profile);
        let by_key = |rule: &&FieldPath| matches!(rule, FieldPath::AnyKey(key) if key.eq_ignore_ascii_case(name));
        bundle.mask_for_column(profile, name) == MaskRule::Clear && !self.rules.iter().any(by_key)
    }

    /// Whether no rule reaches into one of the documents.
    fn shows_document(&self, name: &str, text: &str) -> bool {
        let Ok(document) = serde_json::from_str(text) else {
            return false;
        };
        self.shows_column(name) && !self.rules.iter().any(|rule| reaches(rule, name, &document))
    }

    /// Whether no rule reaches a value that was cut out of a document, or anything in it.
    fn shows_place(&self, pointer: &str) -> bool {
        let mut keys = pointer.trim_start_matches('/').split('/');
        let Some(document) = keys.next() else {
            return false;
        };
        let keys: Vec<String> = keys
            .map(|key| key.replace("~1", "/").replace("~0", "~"))
            .collect();
        // What is in the value is not looked at: no rule by key may reach anything then.
        let by_key = |rule: &&FieldPath| matches!(rule, FieldPath::AnyKey(_));
        let by_place = |rule: &&FieldPath| match rule {
            FieldPath::Context(steps) => document == "context" && first_is(steps, &keys),
            FieldPath::Label(label) => document == "labels" && keys.first() == Some(label),
            FieldPath::Column(_) | FieldPath::AnyKey(_) => false,
        };
        let reached = self.rules.iter().any(|rule| by_key(rule) || by_place(rule));
        DOCUMENTS.contains(&document) && self.shows_column(document) && !reached
    }
}

fn first_is(steps: &[Step], keys: &[String]) -> bool {
    match (steps.first(), keys.first()) {
        (Some(Step::Key(step)), Some(key)) => step == key,
        _ => true,
    }
}

/// Whether a rule could reach something in this document.
fn reaches(rule: &FieldPath, name: &str, document: &Value) -> bool {
    match rule {
        FieldPath::Column(_) => false,
        FieldPath::AnyKey(key) => has_key(document, key),
        FieldPath::Label(key) => name == "labels" && document.get(key).is_some(),
        FieldPath::Context(steps) => {
            name == "context"
                && match steps.first() {
                    Some(Step::Key(key)) => document.get(key).is_some(),
                    _ => true,
                }
        }
    }
}

fn has_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.eq_ignore_ascii_case(key) || has_key(value, key)),
        Value::Array(elements) => elements.iter().any(|element| has_key(element, key)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_reaches_what_it_names_and_what_is_under_it() {
        let key = |key: &str| FieldPath::AnyKey(key.to_owned());
        let place =
            |key: &str| FieldPath::Context(vec![Step::Key(key.to_owned()), Step::AnyElement]);
        let document = json!({"user": [{"Email": 1}], "n": {"a": {"b": 2}}});
        for (rule, name, expected) in [
            (key("email"), "context", true),
            (key("b"), "extras", true),
            (key("c"), "context", false),
            (place("user"), "context", true),
            (place("other"), "context", false),
            (place("user"), "extras", false),
            (FieldPath::Context(vec![Step::AnyElement]), "context", true),
            (FieldPath::Label("n".to_owned()), "labels", true),
            (FieldPath::Label("n".to_owned()), "context", false),
        ] {
            assert_eq!(reaches(&rule, name, &document), expected, "{rule:?} {name}");
        }
    }
}
