//! The way back: values that were cut out of a record return to their places when it is read.
//!
//! Everything here is total. What cannot be put back where it belongs is left out, and where the document is not JSON there
//! is no answer at all: a reader may miss a value, but never gets one at a place where a mask would not find it.
//! Masks come after: a restored document is masked as a whole, as if nothing had been cut out.

use std::collections::BTreeMap;

use catalog::policy::{FieldPath, Step};
use catalog::schema::Part;
use serde_json::{Map, Value};

use super::canonical::text;
use super::json::{self, push_key};
use super::splice::splice;

/// A value that was cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held<'a> {
    /// As `sealed_fields` holds it.
    Json(&'a str),
    /// As a promoted column holds it.
    Text(&'a str),
}

/// Appends the text of a document with these values, which are by their pointers in the record, back in their places;
/// pointers to elsewhere are dropped. False, and nothing appended, where there is no answer.
#[must_use]
pub fn restore_document<'a>(
    part: Part,
    out: &mut String,
    document: &str,
    held: &mut Vec<(&'a str, Held<'a>)>,
) -> bool {
    held.retain_mut(|(pointer, _)| {
        let within = pointer.strip_prefix('/');
        let within = within.and_then(|rest| rest.strip_prefix(part.as_str()));
        match within.and_then(|rest| rest.strip_prefix('/')) {
            Some(path) => *pointer = path,
            None => return false,
        }
        true
    });
    if held.is_empty() {
        out.push_str(document);
        return true;
    }
    if splice(out, document, held).is_some() {
        return true;
    }
    let Ok(mut root) = json::parse(document.as_bytes()) else {
        return false;
    };
    // In the order of the pointers a container comes before what it contains.
    held.sort_by_key(|(path, _)| *path);
    for (path, held) in held {
        put_back(&mut root, &format!("/{path}"), held.value());
    }
    let restored = text(&root).map(|restored| out.push_str(&restored));
    restored.is_ok()
}

/// Puts values back among the labels; pointers to elsewhere are passed over.
pub fn restore_labels<'a>(
    labels: &mut BTreeMap<String, Option<String>>,
    held: impl IntoIterator<Item = (&'a str, Held<'a>)>,
) {
    for (pointer, held) in held {
        let Some(key) = pointer
            .strip_prefix("/labels/")
            .filter(|key| !key.contains('/'))
        else {
            continue;
        };
        let value = match held.value() {
            Value::String(text) => Some(text),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => None,
        };
        labels.insert(unescape(key), value);
    }
}

/// The pointer of the one place that a path names, if it names one place: where the value of a promoted column stood.
pub fn pointer_of(path: &FieldPath) -> Option<String> {
    match path {
        FieldPath::Label(key) => {
            let mut pointer = String::from("/labels");
            push_key(&mut pointer, key);
            Some(pointer)
        }
        FieldPath::Context(steps) => {
            let mut pointer = String::from("/context");
            for step in steps {
                match step {
                    Step::Key(key) => push_key(&mut pointer, key),
                    Step::AnyElement => return None,
                }
            }
            Some(pointer)
        }
        FieldPath::Column(_) | FieldPath::AnyKey(_) => None,
    }
}

/// The record of these documents and labels with everything that was cut out of it back in its place.
pub fn put_cut<'a>(
    mut parts: Map<String, Value>,
    held: impl IntoIterator<Item = (&'a str, Held<'a>)>,
) -> Value {
    // In the order of the pointers a container comes before what it contains.
    let held: BTreeMap<_, _> = held.into_iter().collect();
    if held.keys().any(|pointer| pointer.starts_with("/labels/")) {
        parts
            .entry("labels")
            .or_insert_with(|| Value::Object(Map::new()));
    }
    let mut record = Value::Object(parts);
    for (pointer, held) in held {
        put_back(&mut record, pointer, held.value());
    }
    record
}

/// Sets the value at a pointer whose parent is there; says whether it was.
pub(crate) fn put_back(root: &mut Value, pointer: &str, value: Value) -> bool {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return false;
    };
    match root.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.insert(unescape(last), value);
            true
        }
        Some(Value::Array(elements)) => {
            let index = last.parse::<usize>().ok();
            match index.and_then(|index| elements.get_mut(index)) {
                Some(place) => {
                    *place = value;
                    true
                }
                None => false,
            }
        }
        _ => false,
    }
}

impl Held<'_> {
    fn value(self) -> Value {
        match self {
            Self::Json(json) => json::parse(json.as_bytes()).unwrap_or_default(),
            Self::Text(text) => Value::String(text.to_owned()),
        }
    }
}

fn unescape(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(context: &str, held: &[(&str, Held<'_>)]) -> Option<String> {
        let mut out = String::new();
        restore_document(Part::Context, &mut out, context, &mut held.to_vec()).then_some(out)
    }

    #[test]
    fn values_return_to_their_places() {
        let held = [
            ("/context/user/email", Held::Json("\"h1:x\"")),
            ("/context/user", Held::Json("{\"name\":\"Bo\"}")),
            ("/context/tags/1", Held::Json("7")),
            ("/context/a~1b/c~0d", Held::Text("p")),
            ("/labels/env", Held::Json("\"no\"")),
        ];
        assert_eq!(
            restored(r#"{"tags":[1,null,3],"a/b":{}}"#, &held).as_deref(),
            Some(r#"{"a/b":{"c~d":"p"},"tags":[1,7,3],"user":{"email":"h1:x","name":"Bo"}}"#)
        );
    }

    #[test]
    fn what_has_no_place_is_left_out() {
        for pointer in [
            "/context/gone/x",
            "/context/tags/9",
            "/context/tags/-",
            "/context/tags/x",
            "/context/word/x",
            "/context",
            "context/x",
            "",
            "/",
            "/contexts/x",
        ] {
            let text = r#"{"tags":[1],"word":"w"}"#;
            assert_eq!(
                restored(text, &[(pointer, Held::Json("\"canary\""))]).as_deref(),
                Some(text),
                "{pointer}"
            );
        }
    }

    #[test]
    fn what_is_not_json_is_nothing() {
        assert_eq!(restored("{", &[("/context/x", Held::Json("1"))]), None);
        assert_eq!(
            restored("{\"a\":1,\"a\":2}", &[("/context/x", Held::Json("1"))]),
            None
        );
        assert_eq!(
            restored("{}", &[("/context/x", Held::Json("{"))]).as_deref(),
            Some("{\"x\":null}")
        );
    }

    #[test]
    fn a_document_that_nothing_was_cut_out_of_stays_as_it_is() {
        assert_eq!(
            restored("{\"b\":1, \"a\":2}", &[]).as_deref(),
            Some("{\"b\":1, \"a\":2}")
        );
    }

    #[test]
    fn labels_take_text_and_null() {
        let mut labels = BTreeMap::from([("env".to_owned(), Some("prod".to_owned()))]);
        let held = [
            ("/labels/owner~1mail", Held::Json("\"h1:x\"")),
            ("/labels/gone", Held::Json("null")),
            ("/labels/odd", Held::Json("{")),
            ("/context/x", Held::Json("\"no\"")),
        ];
        restore_labels(&mut labels, held);
        let wanted = [
            ("env", Some("prod")),
            ("gone", None),
            ("odd", None),
            ("owner/mail", Some("h1:x")),
        ];
        assert!(
            labels
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_deref()))
                .eq(wanted)
        );
    }

    #[test]
    fn only_a_path_to_one_place_has_a_pointer() {
        for (path, wanted) in [
            ("context.a.b", Some("/context/a/b")),
            ("context[\"a/b\"]", Some("/context/a~1b")),
            ("labels.app.io/name", Some("/labels/app.io~1name")),
            ("context.a[*]", None),
            ("email", None),
            ("actor_id", None),
        ] {
            assert_eq!(
                pointer_of(&FieldPath::parse(path).unwrap()).as_deref(),
                wanted,
                "{path}"
            );
        }
    }
}
