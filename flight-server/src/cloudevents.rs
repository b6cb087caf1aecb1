//! CloudEvents 1.0 as audit records.
//!
//! | audit record | CloudEvents |
//! |---|---|
//! | `idempotencyKey` | `source` and `id`, between them a space; `sha256:` and the digest of that if it is longer than 256 |
//! | `createdAt` | `time`, which has to be there: the key would be no key if a repeated event got another time |
//! | `action` | `type` |
//! | `resource.type` | `type` without its last word |
//! | `resource.id` | `subject`, else `source` |
//! | `actor` | `authtype` and `authid` (the Auth Context extension), else `Service` and `source` |
//! | `correlation` | trace and span of `traceparent`, else `id` as the trace (its digest if it is longer than 128) |
//! | `labels` | `source`, `dataschema`, and every other extension, as text |
//! | `context` | `data` if it is an object; else an object with it as `data`, or as `dataBase64` |
//!
//! An event of the type [`RECORD_TYPE`] holds an audit record in its data, which is taken as it is. Only what it lacks of
//! tenant, key and time comes from the event.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>

use engine::record::Violation;
use engine::record::json::push_key;
use engine::record::parse::{IDEMPOTENCY_KEY_MAX, TRACE_ID_MAX};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The type of events whose data is an audit record.
pub(crate) const RECORD_TYPE: &str = "dev.trailhouse.audit.record";

const SPEC_VERSION: &str = "1.0";

/// Attributes that have a place of their own in a record.
const PLACED: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "authtype",
    "authid",
    "traceparent",
    "data",
];

/// An event's record, as it would be sent.
#[derive(Debug, PartialEq)]
pub(crate) struct Mapped {
    /// The audit record.
    pub(crate) record: Value,
    places: Places,
}

/// Where the fields of a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Places {
    /// From the data, where they stand as in a record.
    Data,
    /// From the event's attributes, or from what stands in for those that are missing.
    Attributes {
        subject: bool,
        auth: bool,
        trace: bool,
    },
}

/// Turns an event in its JSON form into a record of `tenant`.
///
/// # Errors
/// Everything that keeps it from being an event.
pub(crate) fn record(event: Value, tenant: &str) -> Result<Mapped, Vec<Violation>> {
    let Value::Object(mut event) = event else {
        return Err(vec![Violation::new("", "an event is a JSON object")]);
    };
    let mut faults = Vec::new();
    let data = data(&mut event, &mut faults);
    let event = Event::read(event, &mut faults);
    match event {
        Some(event) if faults.is_empty() => event.mapped(data, tenant).map_err(|fault| vec![fault]),
        _ => Err(faults),
    }
}

impl Mapped {
    /// A violation of the record, at its place in the event.
    pub(crate) fn in_event(&self, violation: Violation) -> Violation {
        let Places::Attributes {
            subject,
            auth,
            trace,
        } = self.places
        else {
            return Violation::new(format!("/data{}", violation.pointer), violation.message);
        };
        let pick = |there: bool, attribute: &str, other: &str| {
            if there { attribute } else { other }.to_owned()
        };
        let pointer = match violation.pointer.as_str() {
            "/createdAt" => "/time".to_owned(),
            "/action" | "/resource/type" => "/type".to_owned(),
            "/resource/id" => pick(subject, "/subject", "/source"),
            "/actor/type" => "/authtype".to_owned(),
            "/actor/id" => pick(auth, "/authid", "/source"),
            "/correlation/traceId" => pick(trace, "/traceparent", "/id"),
            "/correlation/spanId" => "/traceparent".to_owned(),
            "/idempotencyKey" => "/id".to_owned(),
            other => match (
                other.strip_prefix("/context"),
                other.strip_prefix("/labels"),
            ) {
                (Some(rest), _) => format!("/data{rest}"),
                (None, Some(rest)) => rest.to_owned(),
                (None, None) => other.to_owned(),
            },
        };
        Violation::new(pointer, violation.message)
    }
}

/// The payload: JSON, or `data_base64` under a name of our spelling.
fn data(event: &mut Map<String, Value>, faults: &mut Vec<Violation>) -> Option<Value> {
    match (event.remove("data"), event.remove("data_base64")) {
        (Some(_), Some(_)) => {
            faults.push(Violation::new("/data_base64", "there is data already"));
            None
        }
        (Some(Value::Null), None) | (None, None | Some(Value::Null)) => None,
        (Some(data), None) => Some(data),
        (None, Some(Value::String(text))) => Some(json!({"dataBase64": text})),
        (None, Some(_)) => {
            faults.push(Violation::new("/data_base64", "must be text"));
            None
        }
    }
}

/// The attributes of an event.
struct Event {
    attributes: Map<String, Value>,
    id: String,
    source: String,
    kind: String,
}

impl Event {
    fn read(attributes: Map<String, Value>, faults: &mut Vec<Violation>) -> Option<Self> {
        let mut required = |name: &str| match attributes.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            None | Some(Value::Null) => {
                faults.push(Violation::new(format!("/{name}"), "is required"));
                None
            }
            Some(Value::String(_)) => {
                faults.push(Violation::new(format!("/{name}"), "must not be empty"));
                None
            }
            // Said below, as of every attribute.
            Some(_) => None,
        };
        let version = required("specversion");
        let (id, source, kind) = (required("id"), required("source"), required("type"));
        required("time");
        if version.is_some_and(|version| version != SPEC_VERSION) {
            let message = format!("this server reads CloudEvents {SPEC_VERSION}");
            faults.push(Violation::new("/specversion", message));
        }
        for (name, value) in &attributes {
            let mut pointer = String::new();
            push_key(&mut pointer, name);
            let core = ["specversion", "id", "source", "type", "time", "subject"];
            let fits = match value {
                Value::String(_) | Value::Null => true,
                Value::Bool(_) | Value::Number(_) => !core.contains(&name.as_str()),
                Value::Array(_) | Value::Object(_) => false,
            };
            let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            if !fits {
                faults.push(Violation::new(pointer, "must be text"));
            } else if name.is_empty() || !name.bytes().all(lower) {
                let message = "the name of an attribute is of a-z 0-9";
                faults.push(Violation::new(pointer, message));
            }
        }
        Some(Self {
            id: id?,
            source: source?,
            kind: kind?,
            attributes,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        let text = self.attributes.get(name)?.as_str()?;
        (!text.is_empty()).then_some(text)
    }

    fn key(&self) -> String {
        bounded(format!("{} {}", self.source, self.id), IDEMPOTENCY_KEY_MAX)
    }

    fn mapped(self, data: Option<Value>, tenant: &str) -> Result<Mapped, Violation> {
        if self.kind == RECORD_TYPE {
            return self.own(data, tenant);
        }
        let trace = self.text("traceparent").map(traceparent).transpose()?;
        let (subject, auth) = (self.text("subject"), self.text("authid"));
        let places = Places::Attributes {
            subject: subject.is_some(),
            auth: auth.is_some(),
            trace: trace.is_some(),
        };
        let correlation = match trace {
            Some((trace, span)) => json!({"traceId": trace, "spanId": span}),
            None => json!({"traceId": bounded(self.id.clone(), TRACE_ID_MAX)}),
        };
        let kind = self
            .kind
            .rsplit_once('.')
            .map_or(&*self.kind, |(kind, _)| kind);
        let context = data.map(|data| match data {
            Value::Object(members) => Value::Object(members),
            other => json!({"data": other}),
        });
        let record = json!({
            "tenantId": tenant,
            "idempotencyKey": self.key(),
            "createdAt": self.text("time"),
            "action": self.kind,
            "resource": {"type": kind, "id": subject.unwrap_or(&self.source)},
            "actor": {"type": self.actor_type(), "id": auth.unwrap_or(&self.source)},
            "correlation": correlation,
            "labels": self.labels(),
            "context": context,
        });
        Ok(Mapped { record, places })
    }

    /// The record in the data, with what it lacks.
    fn own(self, data: Option<Value>, tenant: &str) -> Result<Mapped, Violation> {
        let Some(Value::Object(mut record)) = data else {
            return Err(Violation::new("/data", "must be an audit record"));
        };
        for (field, value) in [
            ("tenantId", tenant.to_owned()),
            ("idempotencyKey", self.key()),
            (
                "createdAt",
                self.text("time").unwrap_or_default().to_owned(),
            ),
        ] {
            let there = record.entry(field).or_insert(Value::Null);
            if there.is_null() {
                *there = value.into();
            }
        }
        Ok(Mapped {
            record: Value::Object(record),
            places: Places::Data,
        })
    }

    /// What the Auth Context extension calls the kinds of actors.
    fn actor_type(&self) -> &str {
        match (self.text("authtype"), self.text("authid")) {
            (Some("app_user" | "user"), _) => "User",
            (Some("service_account" | "api_key"), _) => "Service",
            (Some("system"), _) => "System",
            (Some("unauthenticated" | "unknown"), _) | (None, Some(_)) => "Unknown",
            (Some(word), _) => word,
            (None, None) => "Service",
        }
    }

    fn labels(&self) -> Map<String, Value> {
        let source = [("source".to_owned(), self.source.clone().into())];
        let others = self.attributes.iter().filter_map(|(name, value)| {
            let text = match value {
                _ if PLACED.contains(&name.as_str()) => return None,
                Value::String(text) => text.clone(),
                Value::Null => return None,
                other => other.to_string(),
            };
            Some((name.clone(), text.into()))
        });
        source.into_iter().chain(others).collect()
    }
}

/// The text, or a digest of it if it has more characters.
fn bounded(text: String, characters_max: usize) -> String {
    if text.chars().nth(characters_max).is_none() {
        return text;
    }
    let digest = Sha256::digest(text);
    let hexadecimal: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hexadecimal}")
}

/// Trace and span of a W3C `traceparent`.
fn traceparent(text: &str) -> Result<(&str, &str), Violation> {
    let parts: Vec<&str> = text.split('-').collect();
    let hexadecimal = |part: &str, length: usize| {
        part.len() == length
            && part
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match parts.as_slice() {
        [version, trace, span, flags, ..]
            if hexadecimal(version, 2)
                && hexadecimal(trace, 32)
                && hexadecimal(span, 16)
                && hexadecimal(flags, 2) =>
        {
            Ok((trace, span))
        }
        _ => Err(Violation::new("/traceparent", "is not a W3C traceparent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(changes: Value) -> Value {
        let mut event = json!({
            "specversion": "1.0", "id": "17", "source": "/shop", "type": "com.example.order.placed",
            "time": "2026-01-02T03:04:05Z",
        });
        if let (Some(members), Value::Object(changes)) = (event.as_object_mut(), changes) {
            members.extend(changes);
        }
        event
    }

    fn mapped(changes: Value) -> Value {
        record(event(changes), "acme").unwrap().record
    }

    fn faults(event: Value) -> Vec<String> {
        let faults = record(event, "acme").unwrap_err();
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn an_event_is_a_record() {
        assert_eq!(
            mapped(json!({"data": {"total": 3}})),
            json!({
                "tenantId": "acme", "idempotencyKey": "/shop 17", "createdAt": "2026-01-02T03:04:05Z",
                "action": "com.example.order.placed",
                "resource": {"type": "com.example.order", "id": "/shop"},
                "actor": {"type": "Service", "id": "/shop"}, "correlation": {"traceId": "17"},
                "labels": {"source": "/shop"}, "context": {"total": 3},
            })
        );
        let full = mapped(json!({
            "subject": "order/17", "authtype": "user", "authid": "ann", "region": "eu", "retries": 3, "dataschema": "s",
            "datacontenttype": "application/json", "data": [1],
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        }));
        assert_eq!(full["resource"]["id"], "order/17");
        assert_eq!(full["actor"], json!({"type": "User", "id": "ann"}));
        assert_eq!(
            full["labels"],
            json!({"source": "/shop", "region": "eu", "retries": "3", "dataschema": "s"})
        );
        assert_eq!(full["context"], json!({"data": [1]}));
        assert_eq!(full["correlation"]["spanId"], "00f067aa0ba902b7");
        let binary = mapped(json!({"data_base64": "AAE="}));
        assert_eq!(binary["context"], json!({"dataBase64": "AAE="}));
    }

    #[test]
    fn long_keys_become_digests_and_stay_apart() {
        let key = |id: String| {
            mapped(json!({"id": id}))["idempotencyKey"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(key("x".repeat(250)).chars().count(), 256);
        let (one, other) = (key("x".repeat(251)), key("x".repeat(252)));
        assert!(one.starts_with("sha256:") && one.len() == 71 && one != other);
        assert_eq!(one, key("x".repeat(251)));
    }

    #[test]
    fn an_audit_record_in_an_event_is_taken_as_it_is() {
        let own = json!({"action": "Order.Placed", "idempotencyKey": "k"});
        let taken = mapped(json!({"type": RECORD_TYPE, "data": own}));
        assert_eq!(
            taken,
            json!({"tenantId": "acme", "idempotencyKey": "k", "createdAt": "2026-01-02T03:04:05Z", "action": "Order.Placed"})
        );
        assert_eq!(faults(event(json!({"type": RECORD_TYPE}))), ["/data"]);
        let mapped = record(event(json!({"type": RECORD_TYPE, "data": {}})), "acme").unwrap();
        let moved = mapped.in_event(Violation::new("/actor", "is required"));
        assert_eq!(moved.pointer, "/data/actor");
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_its_place() {
        assert_eq!(faults(json!([])), [""]);
        assert_eq!(
            faults(json!({})),
            ["/specversion", "/id", "/source", "/type", "/time"]
        );
        assert_eq!(
            faults(event(json!({"specversion": "0.3", "id": "", "source": 7}))),
            ["/id", "/specversion", "/source"]
        );
        assert_eq!(
            faults(event(json!({"Upper": "x", "nested": {}, "a/b": "x"}))),
            ["/Upper", "/a~1b", "/nested"]
        );
        assert_eq!(
            faults(event(json!({"data": 1, "data_base64": "AA=="}))),
            ["/data_base64"]
        );
        assert_eq!(
            faults(event(json!({"traceparent": "00-xyz"}))),
            ["/traceparent"]
        );
        let mapped = record(event(json!({"subject": "s"})), "acme").unwrap();
        for (place, expected) in [
            ("/createdAt", "/time"),
            ("/action", "/type"),
            ("/resource/id", "/subject"),
            ("/actor/id", "/source"),
            ("/context/a/b", "/data/a/b"),
            ("/labels/region", "/region"),
            ("/correlation/traceId", "/id"),
        ] {
            assert_eq!(
                mapped.in_event(Violation::new(place, "m")).pointer,
                expected
            );
        }
    }
}
