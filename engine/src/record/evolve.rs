//! Old records read as new ones: the steps of a stream's upcasters, applied to what a record holds.
//!
//! A record is one object here, with the members `context`, `labels` and `extras` and everything that was cut out of them
//! back in its place. Everything is total: **a step that does not fit a value leaves the record as it is**. The steps after
//! it go on. A path leads through objects only, never into an array.
//!
//! | step | does it if | |
//! |---|---|---|
//! | rename, move | there is a value (null is one), the new place is empty, and nothing but objects lead there; to a label: the value is text or null | the value goes, objects on the way are made |
//! | default | nothing is there, and nothing but objects lead there | the value is set, objects on the way are made |
//! | split | there is text with exactly as many parts as there are places, and all these are empty | the parts are set, the text goes |
//! | cast to text | a number or a truth value is there | its RFC 8785 text |
//! | cast to number | text is there that is a JSON number which a record may hold | the number |
//! | cast to bool | `true` or `false` is there as text | the truth value |
//! | cast to timestamp | RFC 3339 text is there | the instant in UTC with six fraction digits |

use std::collections::BTreeMap;

use catalog::clock::Timestamp;
use catalog::ids::StreamName;
use catalog::schema::{Cast, Part, Pointer, SchemaVersion, Step, TenantSchemas};
use serde_json::{Map, Value};

use super::canonical::text;
use super::json;

/// The upcasters of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Evolution {
    streams: BTreeMap<StreamName, Vec<Link>>,
}

/// One upcaster: what it does, and to which records.
#[derive(Debug, Clone, PartialEq)]
struct Link {
    /// Records of older versions go through it.
    to: SchemaVersion,
    steps: Vec<Step>,
}

impl Evolution {
    /// The upcasters that have something to do, if there are any.
    pub fn of(schemas: &TenantSchemas) -> Option<Self> {
        let mut streams = BTreeMap::new();
        for (stream, schemas) in &schemas.streams {
            let links: Vec<Link> = schemas
                .chain()
                .filter(|upcaster| !upcaster.steps.is_empty())
                .map(|upcaster| Link {
                    to: upcaster.to,
                    steps: upcaster.steps.clone(),
                })
                .collect();
            if !links.is_empty() {
                streams.insert(stream.clone(), links);
            }
        }
        (!streams.is_empty()).then_some(Self { streams })
    }

    /// The steps of each stream, oldest first.
    pub fn chains(&self) -> impl Iterator<Item = Vec<&Step>> {
        self.streams
            .values()
            .map(|links| links.iter().flat_map(|link| &link.steps).collect())
    }

    /// The same without the steps for which this does not hold.
    pub fn retain(&mut self, holds: impl Fn(&Step) -> bool) {
        for link in self.streams.values_mut().flatten() {
            link.steps.retain(&holds);
        }
    }

    /// The steps that a record of this stream and version has before it; `None` if there are none.
    pub fn steps_for(&self, stream: &str, version: &str) -> Option<impl Iterator<Item = &Step>> {
        let version = SchemaVersion::parse(version)?;
        let stream = StreamName::parse(stream).ok()?;
        let links = self.streams.get(&stream)?;
        let ahead = links.iter().filter(move |link| version < link.to);
        let mut steps = ahead.flat_map(|link| &link.steps).peekable();
        steps.peek().is_some().then_some(steps)
    }
}

/// Applies a step to a record.
pub fn apply(step: &Step, record: &mut Value) {
    match step {
        Step::Rename { path, to } => moved(record, path, &path.beside(to)),
        Step::Move { from, to } => moved(record, from, to),
        Step::Default { path, value } => {
            if is_free(record, path) {
                place(record, path, value.clone());
            }
        }
        Step::Split {
            path,
            separator,
            to,
        } => split(record, path, separator, to),
        Step::Cast { path, to } => {
            let found = parent_mut(record, path).and_then(|(members, key)| members.get_mut(key));
            if let Some(value) = found
                && let Some(made) = cast(value, *to)
            {
                *value = made;
            }
        }
    }
}

/// The value at a place.
pub fn find<'a>(record: &'a Value, part: Part, keys: &[String]) -> Option<&'a Value> {
    let mut value = record.as_object()?.get(part.as_str())?;
    for key in keys {
        value = value.as_object()?.get(key)?;
    }
    Some(value)
}

fn moved(record: &mut Value, from: &Pointer, to: &Pointer) {
    let Some(value) = find(record, from.part(), from.keys()) else {
        return;
    };
    let fits = to.part() != Part::Labels || matches!(value, Value::String(_) | Value::Null);
    if !fits || !is_free(record, to) {
        return;
    }
    let taken = parent_mut(record, from).and_then(|(members, key)| members.remove(key));
    if let Some(value) = taken {
        place(record, to, value);
    }
}

fn split(record: &mut Value, path: &Pointer, separator: &str, to: &[Pointer]) {
    let Some(Value::String(whole)) = find(record, path.part(), path.keys()) else {
        return;
    };
    let parts: Vec<String> = whole.split(separator).map(str::to_owned).collect();
    if parts.len() != to.len() || !to.iter().all(|place| is_free(record, place)) {
        return;
    }
    if let Some((members, key)) = parent_mut(record, path) {
        members.remove(key);
    }
    for (at, part) in to.iter().zip(parts) {
        place(record, at, Value::String(part));
    }
}

fn cast(value: &Value, to: Cast) -> Option<Value> {
    match (to, value) {
        (Cast::Text, Value::Number(_) | Value::Bool(_)) => text(value).ok().map(Value::String),
        (Cast::Number, Value::String(written)) => {
            let read = json::parse(written.as_bytes()).ok()?;
            read.is_number().then_some(read)
        }
        (Cast::Bool, Value::String(word)) => word.parse::<bool>().ok().map(Value::Bool),
        (Cast::Timestamp, Value::String(written)) => {
            let instant = Timestamp::parse_rfc3339(written).ok()?;
            Some(Value::String(instant.to_string()))
        }
        (Cast::Text | Cast::Number | Cast::Bool | Cast::Timestamp, _) => None,
    }
}

/// Whether nothing is there and a value could be set.
fn is_free(record: &Value, at: &Pointer) -> bool {
    let mut here = record.get(at.part().as_str());
    for key in at.keys() {
        here = match here {
            None => return true,
            Some(Value::Object(members)) => members.get(key),
            Some(_) => return false,
        };
    }
    here.is_none()
}

/// Sets a value, making the objects that lead there.
fn place(record: &mut Value, at: &Pointer, value: Value) {
    let Some((last, above)) = at.keys().split_last() else {
        return;
    };
    let mut here = record;
    for key in std::iter::once(at.part().as_str()).chain(above.iter().map(String::as_str)) {
        let Value::Object(members) = here else {
            return;
        };
        here = members
            .entry(key)
            .or_insert_with(|| Value::Object(Map::new()));
    }
    if let Value::Object(members) = here {
        members.insert(last.clone(), value);
    }
}

/// The object that a place lies in, and its key there.
fn parent_mut<'r, 'p>(
    record: &'r mut Value,
    at: &'p Pointer,
) -> Option<(&'r mut Map<String, Value>, &'p str)> {
    let (last, above) = at.keys().split_last()?;
    let mut here = record.as_object_mut()?.get_mut(at.part().as_str())?;
    for key in above {
        here = here.as_object_mut()?.get_mut(key)?;
    }
    Some((here.as_object_mut()?, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(steps: Value, record: Value, wanted: Value) {
        let steps: Vec<Step> = serde_json::from_value(steps).unwrap();
        let mut found = record;
        for step in &steps {
            apply(step, &mut found);
        }
        assert_eq!(found, wanted);
    }

    #[test]
    fn rename_and_move() {
        let rename = json!([{ "op": "rename", "path": "/context/user/mail", "to": "email" }]);
        check(
            rename.clone(),
            json!({ "context": { "user": { "mail": "m", "n": 1 } } }),
            json!({ "context": { "user": { "email": "m", "n": 1 } } }),
        );
        // Taken, missing, not an object, in an array: as it is.
        for record in [
            json!({ "context": { "user": { "mail": "m", "email": "e" } } }),
            json!({ "context": { "user": {} } }),
            json!({ "context": { "user": "text" } }),
            json!({ "context": { "user": [{ "mail": "m" }] } }),
            json!({ "context": null }),
            json!({}),
            json!([]),
        ] {
            check(rename.clone(), record.clone(), record);
        }
        let across = json!([
            { "op": "move", "from": "/context/a", "to": "/context/b/c/d" },
            { "op": "move", "from": "/context/team", "to": "/labels/team" },
            { "op": "move", "from": "/labels/env", "to": "/extras/env" },
        ]);
        check(
            across.clone(),
            json!({ "context": { "a": [1], "team": "t" }, "labels": { "env": "prod" } }),
            json!({ "context": { "b": { "c": { "d": [1] } } }, "labels": { "team": "t" }, "extras": { "env": "prod" } }),
        );
        // Labels are text, and what is in the way stays.
        check(
            across,
            json!({ "context": { "a": null, "b": { "c": 7 }, "team": 3 }, "labels": { "env": "x" }, "extras": { "env": 1 } }),
            json!({ "context": { "a": null, "b": { "c": 7 }, "team": 3 }, "labels": { "env": "x" }, "extras": { "env": 1 } }),
        );
    }

    #[test]
    fn default_split_and_cast() {
        check(
            json!([{ "op": "default", "path": "/context/money/currency", "value": "USD" }]),
            json!({}),
            json!({ "context": { "money": { "currency": "USD" } } }),
        );
        for there in [json!("EUR"), json!(null)] {
            let record = json!({ "context": { "money": { "currency": there } } });
            check(
                json!([{ "op": "default", "path": "/context/money/currency", "value": "USD" }]),
                record.clone(),
                record,
            );
        }
        let split = json!([{ "op": "split", "path": "/context/name", "separator": " ", "to": ["/context/first", "/labels/last"] }]);
        check(
            split.clone(),
            json!({ "context": { "name": "Bo Li" } }),
            json!({ "context": { "first": "Bo" }, "labels": { "last": "Li" } }),
        );
        for record in [
            json!({ "context": { "name": "Bo" } }),
            json!({ "context": { "name": "Bo von Li" } }),
            json!({ "context": { "name": 7 } }),
            json!({ "context": { "name": "Bo Li", "first": null } }),
        ] {
            check(split.clone(), record.clone(), record);
        }
        for (to, from, wanted) in [
            ("text", json!(1.5), json!("1.5")),
            ("text", json!(100_000_000_000_i64), json!("100000000000")),
            ("text", json!(true), json!("true")),
            ("text", json!([1]), json!([1])),
            ("text", json!(null), json!(null)),
            ("number", json!("1.50"), json!(1.5)),
            ("number", json!("-7"), json!(-7)),
            (
                "number",
                json!("9007199254740993"),
                json!("9007199254740993"),
            ),
            ("number", json!("1 "), json!(1)),
            ("number", json!("0x1"), json!("0x1")),
            ("number", json!("NaN"), json!("NaN")),
            ("number", json!(""), json!("")),
            ("number", json!(true), json!(true)),
            ("bool", json!("false"), json!(false)),
            ("bool", json!("False"), json!("False")),
            ("bool", json!(0), json!(0)),
            (
                "timestamp",
                json!("2026-01-02T05:04:05+02:00"),
                json!("2026-01-02T03:04:05.000000Z"),
            ),
            ("timestamp", json!("yesterday"), json!("yesterday")),
            ("timestamp", json!(5), json!(5)),
        ] {
            check(
                json!([{ "op": "cast", "path": "/context/v", "to": to }]),
                json!({ "context": { "v": from } }),
                json!({ "context": { "v": wanted } }),
            );
        }
    }

    fn schemas(chain: &[(&str, Option<&str>)]) -> TenantSchemas {
        let versions: Vec<Value> = chain
            .iter()
            .map(|(version, from)| {
                let upcaster = from.map(|from| {
                    let step = json!({ "op": "default", "path": format!("/context/{}", version.replace('.', "-")), "value": true });
                    json!({ "from": from, "to": version, "steps": [step] })
                });
                let mut known = json!({ "version": version, "registeredAt": "2026-01-01T00:00:00Z", "digest": "", "document": 1 });
                if let Some(upcaster) = upcaster {
                    known["upcaster"] = upcaster;
                }
                known
            })
            .collect();
        let stream = json!({ "required": "backward", "versions": versions });
        serde_json::from_value(json!({ "streams": { "audit.default": stream } })).unwrap()
    }

    #[test]
    fn a_record_goes_through_what_is_newer_than_itself() {
        let chain = [
            ("1.0", None),
            ("1.1", Some("1.0")),
            ("1.2", None),
            ("2.0", Some("1.2")),
            ("3.0", Some("2.0")),
        ];
        let evolution = Evolution::of(&schemas(&chain)).unwrap();
        let through = |stream: &str, version: &str| {
            let mut record = json!({});
            for step in evolution.steps_for(stream, version).into_iter().flatten() {
                apply(step, &mut record);
            }
            let context = record["context"].as_object().cloned().unwrap_or_default();
            context.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        for (version, wanted) in [
            ("1.0", "1-1 2-0 3-0"),
            ("1.1", "2-0 3-0"),
            ("1.2", "2-0 3-0"),
            // A minor version that nobody registered is read as the newest before it.
            ("1.9", "2-0 3-0"),
            ("2.0", "3-0"),
            ("2.4", "3-0"),
            ("3.0", ""),
            ("3.1", ""),
            ("x", ""),
        ] {
            assert_eq!(through("audit.default", version), wanted, "{version}");
        }
        assert_eq!(through("audit.security", "1.0"), "");
        assert_eq!(
            Evolution::of(&schemas(&[("1.0", None), ("1.1", None)])),
            None
        );
        assert_eq!(Evolution::of(&TenantSchemas::default()), None);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i32>().prop_map(Value::from),
            "[ a-c]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
            ]
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = prop_oneof![
            3 => prop::collection::vec("[a-c]", 1..4).prop_map(|keys| format!("/context/{}", keys.join("/"))),
            1 => "[a-c]".prop_map(|key| format!("/labels/{key}")),
            1 => "[a-c]".prop_map(|key| format!("/extras/{key}")),
        ];
        (at.clone(), at, 0..5_usize).prop_map(|(one, other, kind)| {
            let step = match kind {
                0 => json!({ "op": "rename", "path": one, "to": "c" }),
                1 => json!({ "op": "default", "path": one, "value": 1 }),
                2 => json!({ "op": "move", "from": one, "to": other }),
                3 => json!({ "op": "split", "path": one, "separator": " ", "to": [other, "/context/c"] }),
                _ => json!({ "op": "cast", "path": one, "to": "text" }),
            };
            serde_json::from_value(step).unwrap()
        })
    }

    proptest! {
        #[test]
        fn any_step_is_total_and_loses_nothing(record in value(), context in value(), step in step()) {
            let mut made = json!({ "context": context, "extras": record });
            let before = made.clone();
            let texts = |value: &Value| {
                let mut found = Vec::new();
                collect(value, &mut found);
                found.sort();
                found
            };
            apply(&step, &mut made);
            // Rename and move keep every value; nothing else takes one away.
            if matches!(step, Step::Rename { .. } | Step::Move { .. }) {
                prop_assert_eq!(texts(&made), texts(&before));
            }
        }
    }

    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(elements) => elements.iter().for_each(|element| collect(element, found)),
            Value::Object(members) => members.values().for_each(|member| collect(member, found)),
            other => found.push(other.to_string()),
        }
    }
}
