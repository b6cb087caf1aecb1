//! From the bytes of a sender to a record in normal form, or everything that is wrong with them.
//!
//! # What a record is
//! | field | | bound (characters) |
//! |---|---|---|
//! | `tenantId` | required, a tenant id | 128 |
//! | `idempotencyKey` | required, here or in the header; both must agree | 256 |
//! | `createdAt` | required, RFC 3339 with any offset and up to six fraction digits | 1970 to now + 24 h |
//! | `action` | required | 200 |
//! | `resource.type`, `resource.id` | required | 200, 2048 |
//! | `actor.type` | required; `User Service System Device External Unknown` or a word of the sender's own | 32 |
//! | `actor.id` | required | 2048 |
//! | `correlation.traceId` | required | 128 |
//! | `correlation.spanId`, `purpose` | text | 128, 1024 |
//! | `context` | object | |
//! | `labels` | object of texts | 64 labels, key 128, value 1024 |
//! | `schemaVersion` | `<major>.<minor>`, `1.0` if absent | |
//!
//! Null is absent. In schema 1.0 other top-level fields are refused; other versions may have them, and they are
//! kept in `extras`. Which versions a stream takes is said where its schemas are. `resource`, `actor` and `correlation` are open in every version: what else they hold is kept in
//! `extras` under their name. Nothing is dropped.
//!
//! The tenant in a record is a claim like any other: whoever takes the record compares it with the caller's.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use catalog::clock::Timestamp;
use catalog::ids::TenantId;
use catalog::schema::SchemaVersion;
use serde_json::{Map, Value};

use super::fields::{Faults, Object, is_longer};
use super::json::{self, Violation, push_key};

/// Bytes of one record as it is sent.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Characters of an idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 256;
/// Characters of an action.
pub const ACTION_MAX: usize = 200;
/// Characters of the type of a resource.
pub const RESOURCE_TYPE_MAX: usize = 200;
/// Characters of the id of a resource or an actor.
pub const ID_MAX: usize = 2048;
/// Characters of the type of an actor.
pub const ACTOR_TYPE_MAX: usize = 32;
/// Characters of a trace or span id.
pub const TRACE_ID_MAX: usize = 128;
/// Characters of a purpose.
pub const PURPOSE_MAX: usize = 1024;
/// Labels of one record.
pub const LABELS_MAX: usize = 64;
/// Characters of a label's key.
pub const LABEL_KEY_MAX: usize = 128;
/// Characters of a label's value.
pub const LABEL_VALUE_MAX: usize = 1024;
/// How far ahead of the server's clock a record may say it was created.
pub const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What the sender of a record said, checked and in normal form.
#[derive(Clone, PartialEq)]
pub struct AuditRecord {
    /// The tenant the record claims to belong to.
    pub tenant_id: TenantId,
    /// The key under which the sender may repeat the record.
    pub idempotency_key: String,
    /// When the act happened.
    pub created_at: Timestamp,
    /// What was done.
    pub action: String,
    /// What it was done to.
    pub resource: Party,
    /// Who did it.
    pub actor: Party,
    /// The trace it belongs to.
    pub trace_id: String,
    /// The span it belongs to.
    pub span_id: Option<String>,
    /// Why it was done.
    pub purpose: Option<String>,
    /// Tags.
    pub labels: Option<BTreeMap<String, String>>,
    /// Free-form details, as they were sent.
    pub context: Option<Map<String, Value>>,
    /// Fields that this version of the schema does not have.
    pub extras: Map<String, Value>,
    /// The version of the schema the record was written in.
    pub schema_version: SchemaVersion,
}

/// A resource or an actor.
#[derive(Clone, PartialEq, Eq)]
pub struct Party {
    /// What kind of thing.
    pub kind: String,
    /// Which one.
    pub id: String,
}

/// What a record is checked against, besides itself.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// The server's clock.
    pub now: Timestamp,
    /// The idempotency key of the request, where the request is one record.
    pub header_key: Option<&'a str>,
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`RECORD_BYTES_MAX`].
    #[error("a record has at most {RECORD_BYTES_MAX} bytes")]
    TooLarge,
    /// All is well but for the missing idempotency key.
    #[error("a record needs an idempotency key")]
    KeyRequired,
    /// The record is not what a record must be.
    #[error("the record is invalid in {} place(s)", .0.len())]
    Invalid(Vec<Violation>),
}

/// Reads one record.
///
/// # Errors
/// What keeps the record out: every violation at once, up to [`json::VIOLATIONS_MAX`] of them.
pub fn parse(bytes: &[u8], terms: &Terms<'_>) -> Result<AuditRecord, Refusal> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    match json::parse(bytes).map_err(Refusal::Invalid)? {
        Value::Object(members) => record(members, terms),
        _ => Err(Refusal::Invalid(vec![Violation::new(
            "",
            "a record is a JSON object",
        )])),
    }
}

/// Says nothing of what the record holds.
impl fmt::Debug for AuditRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditRecord").finish_non_exhaustive()
    }
}

/// Says nothing of who it is.
impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party").finish_non_exhaustive()
    }
}

/// Says nothing of the key.
impl fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}

/// The one place where a record is checked, in whatever form it came.
pub(crate) fn record(
    members: Map<String, Value>,
    terms: &Terms<'_>,
) -> Result<AuditRecord, Refusal> {
    let mut faults = Faults::default();
    let mut top = Object {
        members,
        pointer: String::new(),
    };
    let mut extras = Map::new();
    let schema_version = schema_version(&mut top, &mut faults);
    let mut parts = Parts {
        schema_version,
        tenant_id: tenant(&mut top, &mut faults),
        created_at: created_at(&mut top, terms.now, &mut faults),
        action: top.required_text("action", ACTION_MAX, &mut faults),
        resource: party(
            &mut top,
            "resource",
            [RESOURCE_TYPE_MAX, ID_MAX],
            &mut extras,
            &mut faults,
        ),
        actor: party(
            &mut top,
            "actor",
            [ACTOR_TYPE_MAX, ID_MAX],
            &mut extras,
            &mut faults,
        ),
        correlation: correlation(&mut top, &mut extras, &mut faults),
        purpose: top.optional_text("purpose", PURPOSE_MAX, &mut faults),
        labels: labels(&mut top, &mut faults),
        context: top
            .object("context", &mut faults)
            .map(|object| object.members),
        idempotency_key: None,
    };
    if let Some(actor) = &parts.actor {
        check_actor_type(&actor.kind, &mut faults);
    }
    let key = idempotency_key(&mut top, terms.header_key, &mut faults);
    unknown_fields(top, schema_version, &mut extras, &mut faults);
    match key {
        Ok(key) => parts.idempotency_key = key,
        Err(KeyMissing) if faults.0.is_empty() => return Err(Refusal::KeyRequired),
        Err(KeyMissing) => {
            faults.add(
                "/idempotencyKey",
                "is required, here or in the Idempotency-Key header",
            );
        }
    }
    match parts.whole(extras) {
        Some(record) if faults.0.is_empty() => Ok(record),
        _ => Err(Refusal::Invalid(faults.0)),
    }
}

/// What was read so far; a required part that is missing is among the faults.
struct Parts {
    tenant_id: Option<TenantId>,
    idempotency_key: Option<String>,
    created_at: Option<Timestamp>,
    action: Option<String>,
    resource: Option<Party>,
    actor: Option<Party>,
    correlation: Option<(String, Option<String>)>,
    purpose: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    context: Option<Map<String, Value>>,
    schema_version: Option<SchemaVersion>,
}

impl Parts {
    fn whole(self, extras: Map<String, Value>) -> Option<AuditRecord> {
        let (trace_id, span_id) = self.correlation?;
        Some(AuditRecord {
            tenant_id: self.tenant_id?,
            idempotency_key: self.idempotency_key?,
            created_at: self.created_at?,
            action: self.action?,
            resource: self.resource?,
            actor: self.actor?,
            trace_id,
            span_id,
            purpose: self.purpose,
            labels: self.labels,
            context: self.context,
            extras,
            schema_version: self.schema_version?,
        })
    }
}

fn schema_version(top: &mut Object, faults: &mut Faults) -> Option<SchemaVersion> {
    let Some(text) = top.text("schemaVersion", faults)? else {
        return Some(SchemaVersion::DEFAULT);
    };
    match SchemaVersion::parse(&text) {
        Some(version) => Some(version),
        None => {
            faults.add("/schemaVersion", "must be major.minor, such as 1.0");
            None
        }
    }
}

fn tenant(top: &mut Object, faults: &mut Faults) -> Option<TenantId> {
    let text = top.required_text("tenantId", catalog::ids::TENANT_ID_MAX, faults)?;
    let tenant = TenantId::parse(&text).ok();
    if tenant.is_none() {
        faults.add(
            "/tenantId",
            "must be of A-Z a-z 0-9 . _ - and start with a letter or digit",
        );
    }
    tenant
}

fn created_at(top: &mut Object, now: Timestamp, faults: &mut Faults) -> Option<Timestamp> {
    let text = top.required_text("createdAt", usize::MAX, faults)?;
    let Ok(instant) = Timestamp::parse_rfc3339(&text) else {
        faults.add(
            "/createdAt",
            "must be an RFC 3339 time with an offset and at most six fraction digits",
        );
        return None;
    };
    if instant < Timestamp::from_micros(0) {
        faults.add("/createdAt", "must not be before 1970");
    }
    if instant > now.plus(CLOCK_AHEAD_MAX) {
        faults.add(
            "/createdAt",
            "must not be more than 24 hours ahead of the server's clock",
        );
    }
    Some(instant)
}

fn party(
    top: &mut Object,
    name: &str,
    [kind_max, id_max]: [usize; 2],
    extras: &mut Map<String, Value>,
    faults: &mut Faults,
) -> Option<Party> {
    let mut object = top.required_object(name, faults)?;
    let kind = object.required_text("type", kind_max, faults);
    let id = object.required_text("id", id_max, faults);
    object.keep_rest(name, extras);
    Some(Party {
        kind: kind?,
        id: id?,
    })
}

fn check_actor_type(kind: &str, faults: &mut Faults) {
    let mut bytes = kind.bytes();
    let is_word = bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric());
    if !is_word {
        faults.add(
            "/actor/type",
            "must be one word of A-Z a-z 0-9 that starts with a letter",
        );
    }
}

fn correlation(
    top: &mut Object,
    extras: &mut Map<String, Value>,
    faults: &mut Faults,
) -> Option<(String, Option<String>)> {
    let mut object = top.required_object("correlation", faults)?;
    let trace_id = object.required_text("traceId", TRACE_ID_MAX, faults);
    let span_id = object.optional_text("spanId", TRACE_ID_MAX, faults);
    object.keep_rest("correlation", extras);
    Some((trace_id?, span_id))
}

fn labels(top: &mut Object, faults: &mut Faults) -> Option<BTreeMap<String, String>> {
    let object = top.object("labels", faults)?;
    if object.members.len() > LABELS_MAX {
        faults.add("/labels", format!("has more than {LABELS_MAX} labels"));
    }
    let mut labels = BTreeMap::new();
    for (key, value) in object.members {
        let mut pointer = String::from("/labels");
        push_key(&mut pointer, &key);
        if is_longer(&key, LABEL_KEY_MAX) {
            faults.add(
                pointer.clone(),
                format!("a label's key has at most {LABEL_KEY_MAX} characters"),
            );
        }
        match value {
            Value::String(text) if is_longer(&text, LABEL_VALUE_MAX) => {
                faults.add(
                    pointer,
                    format!("has more than {LABEL_VALUE_MAX} characters"),
                );
            }
            Value::String(text) => {
                labels.insert(key, text);
            }
            Value::Null => {}
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                faults.add(pointer, "must be text");
            }
        }
    }
    Some(labels)
}

/// There is no key, neither in the record nor in the header.
struct KeyMissing;

/// The key, or `None` if there is something wrong with it.
fn idempotency_key(
    top: &mut Object,
    header: Option<&str>,
    faults: &mut Faults,
) -> Result<Option<String>, KeyMissing> {
    const POINTER: &str = "/idempotencyKey";
    let body = match top.text("idempotencyKey", faults) {
        None => return Ok(None),
        Some(body) => body,
    };
    let key = match (body, header) {
        (None, None) => return Err(KeyMissing),
        (Some(body), Some(header)) if body != header => {
            faults.add(POINTER, "differs from the Idempotency-Key header");
            return Ok(None);
        }
        (Some(key), _) => key,
        (None, Some(key)) => key.to_owned(),
    };
    if key.is_empty() {
        faults.add(POINTER, "must not be empty");
    }
    if is_longer(&key, IDEMPOTENCY_KEY_MAX) {
        faults.add(
            POINTER,
            format!("has more than {IDEMPOTENCY_KEY_MAX} characters"),
        );
    }
    Ok(Some(key))
}

fn unknown_fields(
    top: Object,
    version: Option<SchemaVersion>,
    extras: &mut Map<String, Value>,
    faults: &mut Faults,
) {
    for (key, value) in top.members {
        if version == Some(SchemaVersion::DEFAULT) {
            let mut pointer = String::new();
            push_key(&mut pointer, &key);
            faults.add(pointer, "is not a field of a record in schema 1.0");
        } else {
            extras.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::parse_rfc3339("2025-10-28T08:00:00Z").unwrap()
    }

    fn terms() -> Terms<'static> {
        Terms {
            now: now(),
            header_key: None,
        }
    }

    fn sample() -> Value {
        json!({
            "tenantId": "SplootVets",
            "idempotencyKey": "tid:splootvets|ulid:01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4",
            "createdAt": "2025-10-28T09:55:12.345+02:00",
            "action": "Appointment.Booked",
            "resource": {"type": "Appointment", "id": "apt_123"},
            "actor": {"type": "User", "id": "00u1abc23"},
            "correlation": {"traceId": "3e1f1716", "spanId": "7f6e1908"},
            "context": {"room": 3, "note": null},
            "labels": {"region": "eu", "gone": null},
            "purpose": "care"
        })
    }

    /// The sample with one change.
    fn with(pointer: &str, value: Value) -> Value {
        let mut record = sample();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = record.pointer_mut(parent).unwrap();
        parent
            .as_object_mut()
            .unwrap()
            .insert(key.to_owned(), value);
        record
    }

    fn without(key: &str) -> Value {
        let mut record = sample();
        record.as_object_mut().unwrap().remove(key);
        record
    }

    fn read(record: &Value) -> Result<AuditRecord, Refusal> {
        parse(record.to_string().as_bytes(), &terms())
    }

    fn faults(record: &Value) -> Vec<String> {
        match read(record) {
            Err(Refusal::Invalid(faults)) => {
                faults.into_iter().map(|fault| fault.pointer).collect()
            }
            other => panic!("{other:?} of {record}"),
        }
    }

    #[test]
    fn a_record_is_read_into_its_normal_form() {
        let record = read(&sample()).unwrap();
        assert_eq!(record.tenant_id.as_str(), "splootvets");
        assert_eq!(record.created_at.to_string(), "2025-10-28T07:55:12.345000Z");
        assert_eq!(record.schema_version.to_string(), "1.0");
        assert_eq!(
            (record.actor.kind.as_str(), record.actor.id.as_str()),
            ("User", "00u1abc23")
        );
        assert_eq!(record.resource.kind, "Appointment");
        assert_eq!(record.span_id.as_deref(), Some("7f6e1908"));
        assert_eq!(
            record.labels.unwrap().into_iter().collect::<Vec<_>>(),
            [("region".into(), "eu".into())]
        );
        assert_eq!(
            Value::Object(record.context.unwrap()),
            json!({"room": 3, "note": null})
        );
        assert!(record.extras.is_empty());
    }

    #[test]
    fn every_required_field_is_asked_for_at_once() {
        assert_eq!(
            faults(&json!({"resource": {}, "actor": {"type": "User"}, "correlation": null})),
            [
                "/tenantId",
                "/createdAt",
                "/action",
                "/resource/type",
                "/resource/id",
                "/actor/id",
                "/correlation",
                "/idempotencyKey"
            ]
        );
        for key in [
            "tenantId",
            "createdAt",
            "action",
            "resource",
            "actor",
            "correlation",
        ] {
            assert_eq!(faults(&without(key)), [format!("/{key}")]);
            assert_eq!(
                faults(&with(&format!("/{key}"), Value::Null)),
                [format!("/{key}")]
            );
        }
    }

    #[test]
    fn what_is_optional_may_be_absent_or_null() {
        for key in ["context", "labels", "purpose"] {
            assert!(read(&without(key)).is_ok(), "{key}");
            assert!(
                read(&with(&format!("/{key}"), Value::Null)).is_ok(),
                "{key}"
            );
        }
        assert!(
            read(&with("/correlation/spanId", Value::Null))
                .unwrap()
                .span_id
                .is_none()
        );
        assert!(read(&without("labels")).unwrap().labels.is_none());
    }

    #[test]
    fn bounds_count_characters() {
        for (pointer, max) in [
            ("/idempotencyKey", 256),
            ("/action", 200),
            ("/resource/type", 200),
            ("/resource/id", 2048),
            ("/actor/id", 2048),
            ("/correlation/traceId", 128),
            ("/correlation/spanId", 128),
            ("/purpose", 1024),
            ("/labels/region", 1024),
        ] {
            assert!(
                read(&with(pointer, "é".repeat(max).into())).is_ok(),
                "{pointer}"
            );
            assert_eq!(
                faults(&with(pointer, "é".repeat(max + 1).into())),
                [pointer]
            );
        }
        assert!(read(&with("/tenantId", "a".repeat(128).into())).is_ok());
        assert_eq!(
            faults(&with("/tenantId", "a".repeat(129).into())),
            ["/tenantId"]
        );
        assert_eq!(faults(&with("/tenantId", "a/b".into())), ["/tenantId"]);
        assert_eq!(faults(&with("/action", "".into())), ["/action"]);
        assert_eq!(
            faults(&with(&format!("/labels/{}", "k".repeat(129)), "x".into())).len(),
            1
        );
        let many: Map<String, Value> = (0..65).map(|n| (n.to_string(), json!("x"))).collect();
        assert_eq!(faults(&with("/labels", many.into())), ["/labels"]);
        let large = with("/context", json!({"x": "x".repeat(RECORD_BYTES_MAX)}));
        assert_eq!(read(&large), Err(Refusal::TooLarge));
    }

    #[test]
    fn types_are_asked_for() {
        for (pointer, value) in [
            ("/tenantId", json!(1)),
            ("/action", json!(["x"])),
            ("/resource", json!("x")),
            ("/actor", json!([])),
            ("/correlation", json!(true)),
            ("/context", json!("x")),
            ("/labels", json!([])),
            ("/labels/region", json!(true)),
            ("/purpose", json!({})),
            ("/schemaVersion", json!(1.0)),
            ("/idempotencyKey", json!(7)),
        ] {
            assert_eq!(faults(&with(pointer, value)), [pointer]);
        }
        assert_eq!(faults(&json!([])), [""]);
    }

    #[test]
    fn created_at_is_bounded_on_both_sides() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2025-10-29T08:00:00Z",
            "2025-10-28T08:00:00.000001-00:30",
        ] {
            assert!(read(&with("/createdAt", text.into())).is_ok(), "{text}");
        }
        for text in [
            "1969-12-31T23:59:59.999999Z",
            "2025-10-29T08:00:00.000001Z",
            "2025-10-28T08:00:00.0000001Z",
            "2025-10-28T08:00:00",
            "2025-10-28",
            "1761638112",
        ] {
            assert_eq!(
                faults(&with("/createdAt", text.into())),
                ["/createdAt"],
                "{text}"
            );
        }
    }

    #[test]
    fn an_actor_type_of_the_senders_own_is_kept() {
        for kind in [
            "User", "Service", "System", "Device", "External", "Unknown", "Robot7",
        ] {
            assert_eq!(
                read(&with("/actor/type", kind.into())).unwrap().actor.kind,
                kind
            );
        }
        for kind in ["7", "a b", "é", "x-y", &"x".repeat(33)] {
            assert_eq!(
                faults(&with("/actor/type", kind.into())),
                ["/actor/type"],
                "{kind}"
            );
        }
    }

    #[test]
    fn unknown_fields_are_refused_in_1_0_and_kept_in_newer_minor_versions() {
        assert_eq!(faults(&with("/severity", json!(3))), ["/severity"]);
        let mut record = with("/severity", json!({"level": 3}));
        record["schemaVersion"] = "1.0".into();
        assert_eq!(faults(&record), ["/severity"]);
        record["schemaVersion"] = "1.2".into();
        let read_back = read(&record).unwrap();
        assert_eq!(
            Value::Object(read_back.extras),
            json!({"severity": {"level": 3}})
        );
        assert_eq!(
            read_back.schema_version,
            SchemaVersion { major: 1, minor: 2 }
        );
        for version in [
            "1", "1.", "1.00", "01.0", "1.0.0", "v1.0", "1.99999", "1.-1", "",
        ] {
            record["schemaVersion"] = version.into();
            assert_eq!(faults(&record), ["/schemaVersion"], "{version}");
        }
    }

    #[test]
    fn what_else_a_party_holds_is_kept_under_its_name() {
        let mut record = with("/actor/displayName", "Bob".into());
        record["correlation"]["tenant"] = json!(1);
        assert_eq!(
            Value::Object(read(&record).unwrap().extras),
            json!({"actor": {"displayName": "Bob"}, "correlation": {"tenant": 1}})
        );
    }

    #[test]
    fn the_key_comes_from_body_or_header_and_they_agree() {
        let parse = |record: &Value, header: Option<&str>| {
            parse(
                record.to_string().as_bytes(),
                &Terms {
                    now: now(),
                    header_key: header,
                },
            )
        };
        assert_eq!(
            parse(&without("idempotencyKey"), Some("k"))
                .unwrap()
                .idempotency_key,
            "k"
        );
        assert_eq!(
            parse(&with("/idempotencyKey", "k".into()), Some("k"))
                .unwrap()
                .idempotency_key,
            "k"
        );
        assert_eq!(
            parse(&without("idempotencyKey"), None),
            Err(Refusal::KeyRequired)
        );
        let pointer = |refusal| match refusal {
            Err(Refusal::Invalid(faults)) if faults.len() == 1 => faults[0].pointer.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            pointer(parse(&with("/idempotencyKey", "k".into()), Some("other"))),
            "/idempotencyKey"
        );
        assert_eq!(
            pointer(parse(&without("idempotencyKey"), Some(""))),
            "/idempotencyKey"
        );
        assert_eq!(
            pointer(parse(&without("idempotencyKey"), Some(&"k".repeat(257)))),
            "/idempotencyKey"
        );
    }

    #[test]
    fn broken_json_and_violations_never_repeat_a_value() {
        for text in [
            &b"{\"action\":\"canary-7\",\"action\":\"canary-7\"}"[..],
            b"{\"action\":\"canary-7",
            b"canary-7",
        ] {
            match parse(text, &terms()) {
                Err(refusal @ Refusal::Invalid(_)) => {
                    assert!(!format!("{refusal:?} {refusal}").contains("canary"))
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            format!("{:?}", read(&sample()).unwrap()),
            "AuditRecord { .. }"
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &terms());
        }

        /// Any value at any place of a record is either taken or named, and taking is not affected by the order of keys.
        #[test]
        fn never_panics_on_a_record_with_one_odd_place(
            place in prop::sample::select(vec![
                "/tenantId", "/idempotencyKey", "/createdAt", "/action", "/resource", "/resource/type", "/actor",
                "/actor/type", "/correlation", "/context", "/labels", "/labels/x", "/purpose", "/schemaVersion", "/other",
            ]),
            value in prop_oneof![
                Just(Value::Null), any::<i32>().prop_map(Value::from), "\\PC{0,300}".prop_map(Value::from),
                Just(json!([])), Just(json!({})), Just(json!({"type": {}, "id": []})),
            ],
        ) {
            match read(&with(place, value)) {
                Ok(_) | Err(Refusal::KeyRequired) => {}
                Err(Refusal::Invalid(faults)) => {
                    prop_assert!(!faults.is_empty());
                    prop_assert!(faults.iter().all(|fault| fault.pointer.starts_with(place)));
                }
                Err(Refusal::TooLarge) => prop_assert!(false),
            }
        }
    }
}
