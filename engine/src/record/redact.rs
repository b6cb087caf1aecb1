//! From what was sent to what is stored: classed values are changed and cut out before anything is written.
//!
//! For every value of a record that the policy's field rules cover:
//!
//! - the **strictest** of the rules applies ([`catalog::policy::path`]), and a rule on a container takes all that lies in
//!   it; under KEEP the values inside still take their own rules;
//! - a column (`actor_id`, …) is changed in place;
//! - a place in `context`, `extras` or `labels` is **cut out**: into the promoted column of its path, or into
//!   `sealed_fields` as JSON text under its JSON pointer (`/context/user/email`, `/labels/owner`, `/extras/…`). An element
//!   cut out of an array leaves null behind, so that the others keep their places;
//! - DROP leaves nothing at all. NULLIFY leaves null.
//!
//! What a rule does to a value is in `change`. Text that is JSON itself is text: rules do not look into it.
//!
//! A promoted column holds text; numbers and truth values are there as their RFC 8785 text. An object or array is sealed
//! instead, where the masks for what lies in it find it. Only a path that names one place (no `[*]`, no bare key) can fill
//! a promoted column.
//!
//! `leaf_layout` ([`super::layout`]) names what is committed apart from the rest of the record: first the columns that have
//! a rule, in schema order, then what was cut out, in byte order of the pointers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use catalog::clock::Timestamp;
use catalog::ids::{PolicyVersion, RecordId, StreamName, TenantId};
use catalog::policy::{Bundle, FieldPath, RetentionClass, Step, WriteRule};
use serde_json::{Map, Value};

use super::canonical::{NoCanonicalForm, digest_text, payload_text, text};
use super::change::{Change, Secrets, strictest};
use super::json::{push_index, push_key};
use super::layout::{self, Entry};
use super::parse::AuditRecord;
use super::schema::SALT_BYTES;
use super::stored::{Promoted, StoredRecord};

/// What the server adds to a record.
#[derive(Debug, Clone)]
pub struct Placement {
    /// Whose table it goes to: the caller's tenant, which the record's claim was compared with.
    pub tenant_id: TenantId,
    /// The id it gets.
    pub record_id: RecordId,
    /// When it was taken in.
    pub ingested_at: Timestamp,
    /// Where it was sent.
    pub stream: StreamName,
    /// Keyed form of its payload hash ([`super::canonical::PayloadHash::keyed`]).
    pub payload_hash: [u8; 32],
    /// Keyed digest of the idempotency key as it was sent ([`super::canonical::key_digest`]).
    pub key_digest: [u8; 32],
    /// Random bytes, this record's alone.
    pub salt: [u8; SALT_BYTES],
}

/// The field rules of one policy, ready to be applied to many records.
pub struct Redactor {
    policy_version: PolicyVersion,
    retention: BTreeMap<StreamName, RetentionClass>,
    columns: BTreeMap<String, Change>,
    context: Vec<Rule>,
    labels: Vec<Rule>,
    any_key: Vec<Rule>,
}

impl Redactor {
    /// Takes the rules of a bundle.
    pub fn new(bundle: &Bundle, secrets: &Secrets<'_>) -> Self {
        let mut made = Self {
            policy_version: PolicyVersion {
                tenant: bundle.tenant.clone(),
                number: bundle.version,
            },
            retention: bundle
                .retention
                .iter()
                .map(|(stream, retention)| (stream.clone(), retention.class.clone()))
                .collect(),
            columns: BTreeMap::new(),
            context: Vec::new(),
            labels: Vec::new(),
            any_key: Vec::new(),
        };
        for field in &bundle.fields {
            let rule = Rule {
                path: field.path.clone(),
                change: Change::keyed(field.write, &field.path, secrets),
                promote: field
                    .promote
                    .as_ref()
                    .filter(|_| names_one_place(&field.path))
                    .map(|column| column.as_str().to_owned()),
            };
            match &field.path {
                FieldPath::Column(name) => made.add_column(name, rule),
                FieldPath::Context(_) => made.context.push(rule),
                FieldPath::Label(_) => made.labels.push(rule),
                FieldPath::AnyKey(_) => made.any_key.push(rule),
            }
        }
        made
    }

    /// Applies the rules to one record.
    ///
    /// # Errors
    /// If a value has no canonical form; no record that was parsed here has one.
    pub fn redact(
        &self,
        record: AuditRecord,
        placement: Placement,
    ) -> Result<StoredRecord, NoCanonicalForm> {
        let mut cut = CutOut::default();
        let mut column = |name: &str, value: Option<String>| self.column(name, value, &mut cut);
        let resource_id = column("resource_id", Some(record.resource.id));
        let actor_id = column("actor_id", Some(record.actor.id));
        let trace_id = column("trace_id", Some(record.trace_id));
        let span_id = column("span_id", record.span_id);
        let purpose = column("purpose", record.purpose);
        let labels = match record.labels.filter(|_| self.keeps_labels()) {
            Some(labels) => {
                cut.name_if(self.columns.contains_key("labels"), "labels");
                Some(self.labels(labels, &mut cut)?)
            }
            None => None,
        };
        let context = self.document("context", record.context, &mut cut)?;
        let extras = Some(record.extras).filter(|extras| !extras.is_empty());
        let extras = self.document("extras", extras, &mut cut)?;
        let idempotency_key =
            self.column("idempotency_key", Some(record.idempotency_key), &mut cut);

        Ok(StoredRecord {
            tenant_id: placement.tenant_id,
            record_id: placement.record_id,
            created_at: record.created_at,
            ingested_at: placement.ingested_at,
            retention_class: self.retention_class(&placement.stream),
            stream: placement.stream,
            action: Some(record.action),
            resource_type: Some(record.resource.kind),
            resource_id,
            actor_type: Some(record.actor.kind),
            actor_id,
            trace_id,
            span_id,
            purpose,
            labels,
            context,
            extras,
            schema_version: Some(record.schema_version.to_string()),
            policy_version: Some(self.policy_version.to_string()),
            idempotency_key,
            leaf_layout: cut.layout()?,
            promoted: cut.promoted.into_values().collect(),
            leaf_index: None,
            segment_id: None,
            salt: placement.salt,
            sealed_fields: cut.sealed,
            payload_hash: Some(payload_text(&placement.payload_hash)),
            key_digest: Some(digest_text(&placement.key_digest)),
        })
    }

    /// The policy the rules come from.
    pub fn policy_version(&self) -> &PolicyVersion {
        &self.policy_version
    }

    fn retention_class(&self, stream: &StreamName) -> RetentionClass {
        self.retention
            .get(stream)
            .cloned()
            .unwrap_or_else(RetentionClass::kept)
    }

    fn add_column(&mut self, name: &str, rule: Rule) {
        let change = match self.columns.remove(name) {
            Some(other) => strictest(&[&rule.change, &other]).into_owned(),
            None => rule.change,
        };
        self.columns.insert(name.to_owned(), change);
    }

    fn column(&self, name: &str, value: Option<String>, cut: &mut CutOut) -> Option<String> {
        let value = value?;
        let Some(change) = self.columns.get(name) else {
            return Some(value);
        };
        match change.value(Value::String(value)) {
            None => None,
            Some(value) => {
                cut.columns.push(name.to_owned());
                if let Value::String(text) = value {
                    Some(text)
                } else {
                    None
                }
            }
        }
    }

    /// Whether labels are stored at all: of the rules that could be on all of them, only KEEP keeps them.
    fn keeps_labels(&self) -> bool {
        self.columns
            .get("labels")
            .is_none_or(|change| change.write == WriteRule::Keep)
    }

    fn labels(
        &self,
        labels: BTreeMap<String, String>,
        cut: &mut CutOut,
    ) -> Result<BTreeMap<String, Option<String>>, NoCanonicalForm> {
        let mut kept = BTreeMap::new();
        for (key, value) in labels {
            let exact = self.labels.iter().filter(|rule| rule.is_on_label(&key));
            let matched: Vec<&Rule> = exact.chain(self.any_key(&key)).collect();
            if matched.is_empty() {
                kept.insert(key, Some(value));
                continue;
            }
            let mut pointer = String::from("/labels");
            push_key(&mut pointer, &key);
            let change = strictest_of(&matched);
            cut.put(pointer, &matched, change.value(Value::String(value)))?;
        }
        Ok(kept)
    }

    fn document(
        &self,
        name: &str,
        members: Option<Map<String, Value>>,
        cut: &mut CutOut,
    ) -> Result<Option<String>, NoCanonicalForm> {
        let Some(mut members) = members else {
            return Ok(None);
        };
        let whole = self.columns.get(name);
        if let Some(change) = whole.filter(|change| change.write != WriteRule::Keep) {
            let stored = change.value(Value::Object(members));
            cut.name_if(stored.is_some(), name);
            let stored = stored.filter(|value| !value.is_null());
            return stored.as_ref().map(text).transpose();
        }
        cut.name_if(whole.is_some(), name);
        let live: Vec<Live<'_>> = match name {
            "context" => self.context.iter().filter_map(Rule::live).collect(),
            _ => Vec::new(),
        };
        let mut walk = Walk {
            redactor: self,
            pointer: format!("/{name}"),
            cut,
        };
        walk.object(&mut members, &live)?;
        text(&Value::Object(members)).map(Some)
    }

    fn any_key<'r>(&'r self, key: &str) -> impl Iterator<Item = &'r Rule> {
        self.any_key.iter().filter(move |rule| match &rule.path {
            FieldPath::AnyKey(name) => name.eq_ignore_ascii_case(key),
            FieldPath::Column(_) | FieldPath::Context(_) | FieldPath::Label(_) => false,
        })
    }
}

/// Says which policy, and nothing of its keys.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor")
            .field("policy_version", &self.policy_version)
            .finish_non_exhaustive()
    }
}

/// Whether the path can name no two values of one record.
fn names_one_place(path: &FieldPath) -> bool {
    match path {
        FieldPath::Context(steps) => !steps.contains(&Step::AnyElement),
        FieldPath::Label(_) => true,
        FieldPath::Column(_) | FieldPath::AnyKey(_) => false,
    }
}

struct Rule {
    path: FieldPath,
    change: Change,
    promote: Option<String>,
}

/// A rule on a place in `context`, and the steps that are still to go there.
type Live<'r> = (&'r Rule, &'r [Step]);

impl Rule {
    fn is_on_label(&self, key: &str) -> bool {
        matches!(&self.path, FieldPath::Label(wanted) if wanted == key)
    }

    fn live(&self) -> Option<Live<'_>> {
        match &self.path {
            FieldPath::Context(steps) => Some((self, steps)),
            FieldPath::Column(_) | FieldPath::Label(_) | FieldPath::AnyKey(_) => None,
        }
    }
}

fn strictest_of<'r>(rules: &[&'r Rule]) -> Cow<'r, Change> {
    let changes: Vec<&Change> = rules.iter().map(|rule| &rule.change).collect();
    strictest(&changes)
}

/// What was taken out of a record.
#[derive(Default)]
struct CutOut {
    sealed: BTreeMap<String, String>,
    /// By pointer, which is the order in which the table gives them back.
    promoted: BTreeMap<String, Promoted>,
    columns: Vec<String>,
}

impl CutOut {
    fn put(
        &mut self,
        pointer: String,
        rules: &[&Rule],
        stored: Option<Value>,
    ) -> Result<(), NoCanonicalForm> {
        let Some(value) = stored else {
            return Ok(());
        };
        // Two paths never share a column of one record: the second value stays sealed, and nothing is lost.
        let is_free =
            |column: &&String| self.promoted.values().all(|taken| taken.column != **column);
        let column = rules
            .iter()
            .find_map(|rule| rule.promote.as_ref())
            .filter(is_free)
            .cloned();
        // As text an object would be out of reach of the masks for what lies in it, in its column and back in its place.
        let is_scalar = !matches!(value, Value::Array(_) | Value::Object(_));
        let Some(column) = column.filter(|_| is_scalar) else {
            self.sealed.insert(pointer, text(&value)?);
            return Ok(());
        };
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(text(&other)?),
        };
        let promoted = Promoted {
            column,
            pointer: pointer.clone(),
            value,
        };
        self.promoted.insert(pointer, promoted);
        Ok(())
    }

    /// Names a column in the layout.
    fn name_if(&mut self, has_rule: bool, column: &str) {
        if has_rule {
            self.columns.push(column.to_owned());
        }
    }

    fn layout(&self) -> Result<String, NoCanonicalForm> {
        let sealed = self.sealed.keys();
        let sealed = sealed.map(|pointer| (pointer, Entry::Sealed(pointer)));
        let promoted = self.promoted.iter().map(|(pointer, promoted)| {
            let column = promoted.column.as_str();
            (pointer, Entry::Promoted { column, pointer })
        });
        let places: BTreeMap<_, _> = sealed.chain(promoted).collect();
        let columns = self.columns.iter().map(|name| Entry::Column(name));
        layout::write(columns.chain(places.into_values()))
    }
}

/// A way through one document.
struct Walk<'r, 'c> {
    redactor: &'r Redactor,
    pointer: String,
    cut: &'c mut CutOut,
}

impl<'r> Walk<'r, '_> {
    fn object(
        &mut self,
        members: &mut Map<String, Value>,
        live: &[Live<'r>],
    ) -> Result<(), NoCanonicalForm> {
        let mut gone = Vec::new();
        for (key, value) in members.iter_mut() {
            let is_here = |step: &Step| matches!(step, Step::Key(wanted) if wanted == key);
            let (mut matched, next) = advance(live, is_here);
            matched.extend(self.redactor.any_key(key));
            let mark = self.pointer.len();
            push_key(&mut self.pointer, key);
            let stays = self.place(value, &matched, &next);
            self.pointer.truncate(mark);
            if !stays? {
                gone.push(key.clone());
            }
        }
        for key in gone {
            members.remove(&key);
        }
        Ok(())
    }

    fn array(&mut self, elements: &mut [Value], live: &[Live<'r>]) -> Result<(), NoCanonicalForm> {
        let (matched, next) = advance(live, |step| *step == Step::AnyElement);
        for (index, value) in elements.iter_mut().enumerate() {
            let mark = self.pointer.len();
            push_index(&mut self.pointer, index);
            self.place(value, &matched, &next)?;
            self.pointer.truncate(mark);
        }
        Ok(())
    }

    /// Whether the place keeps its value. If a rule names it, the value is cut out, and null is left of it.
    fn place(
        &mut self,
        value: &mut Value,
        matched: &[&'r Rule],
        live: &[Live<'r>],
    ) -> Result<bool, NoCanonicalForm> {
        if matched.is_empty() {
            self.inside(value, live)?;
            return Ok(true);
        }
        let change = strictest_of(matched);
        let mut value = value.take();
        if change.write == WriteRule::Keep {
            self.inside(&mut value, live)?;
        }
        self.cut
            .put(self.pointer.clone(), matched, change.value(value))?;
        Ok(false)
    }

    fn inside(&mut self, value: &mut Value, live: &[Live<'r>]) -> Result<(), NoCanonicalForm> {
        match value {
            Value::Object(members) => self.object(members, live),
            Value::Array(elements) => self.array(elements, live),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }
}

/// Takes one step: the rules that have arrived, and those that go on.
fn advance<'r>(
    live: &[Live<'r>],
    is_here: impl Fn(&Step) -> bool,
) -> (Vec<&'r Rule>, Vec<Live<'r>>) {
    let mut arrived = Vec::new();
    let mut next = Vec::new();
    for (rule, steps) in live {
        match steps.split_first() {
            Some((step, [])) if is_here(step) => arrived.push(*rule),
            Some((step, rest)) if is_here(step) => next.push((*rule, rest)),
            _ => {}
        }
    }
    (arrived, next)
}

#[cfg(test)]
mod tests {
    use catalog::ids::SiloId;
    use catalog::keys::SecretKey;
    use catalog::policy::{
        ColumnName, ExportPolicy, FieldRule, Generalize, QueryPolicy, Residency, Retention,
        StaleMode, WriteFailover,
    };
    use catalog::schema::Part;
    use proptest::prelude::*;
    use serde_json::json;
    use udfs::{HashKey, Mask, REDACTED};

    use super::*;
    use crate::record::parse::{Terms, parse};
    use crate::record::restore::{Held, restore_document, restore_labels};

    type Field<'a> = (&'a str, WriteRule, Option<&'a str>);

    fn bundle(fields: &[Field<'_>]) -> Bundle {
        let fields = fields.iter().map(|(path, write, promote)| FieldRule {
            path: FieldPath::parse(path).unwrap(),
            class: None,
            write: *write,
            promote: promote.map(|name| ColumnName::parse(name).unwrap()),
        });
        let retention = Retention {
            ttl_days: 1,
            grace_days: 1,
            class: RetentionClass::parse("short").unwrap(),
        };
        Bundle {
            tenant: TenantId::parse("acme").unwrap(),
            version: 7,
            signing_key: None,
            residency: Residency {
                allowed_silos: [SiloId::parse("local").unwrap()].into(),
                write_failover: WriteFailover::Forbidden,
            },
            retention: [(StreamName::audit_default(), retention)].into(),
            fields: fields.collect(),
            masking_profiles: BTreeMap::new(),
            purposes: BTreeMap::new(),
            row_policies: BTreeMap::new(),
            rego: None,
            query: QueryPolicy::default(),
            export: ExportPolicy::default(),
            stale_mode: StaleMode::Serve,
        }
    }

    fn sample(changes: Value) -> AuditRecord {
        let mut record = json!({
            "tenantId": "acme", "idempotencyKey": "key-1", "createdAt": "2025-10-28T07:55:12Z", "action": "A.B",
            "resource": {"type": "T", "id": "r-1"}, "actor": {"type": "User", "id": "u-1"},
            "correlation": {"traceId": "t-1"},
        });
        let members = record.as_object_mut().unwrap();
        members.extend(changes.as_object().unwrap().clone());
        let now = Timestamp::parse_rfc3339("2025-10-28T08:00:00Z").unwrap();
        parse(
            record.to_string().as_bytes(),
            &Terms {
                now,
                header_key: None,
            },
        )
        .unwrap()
    }

    fn key(byte: u8) -> SecretKey {
        SecretKey::new([byte; 32])
    }

    fn redact(fields: &[Field<'_>], record: AuditRecord) -> StoredRecord {
        let (hash, token) = (key(1), key(2));
        let redactor = Redactor::new(
            &bundle(fields),
            &Secrets {
                hash: &hash,
                token: &token,
                version: 1,
            },
        );
        redactor.redact(record, placement()).unwrap()
    }

    fn placement() -> Placement {
        Placement {
            tenant_id: TenantId::parse("acme").unwrap(),
            record_id: RecordId::parse("01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4").unwrap(),
            ingested_at: Timestamp::parse_rfc3339("2025-10-28T08:00:01Z").unwrap(),
            stream: StreamName::audit_default(),
            payload_hash: [1; 32],
            key_digest: [2; 32],
            salt: [3; SALT_BYTES],
        }
    }

    fn hashed(path: &str, value: &str) -> String {
        Mask::Hash(HashKey::new(key(1).expose(), path, 1))
            .apply_str(value)
            .unwrap()
    }

    fn sealed(stored: &StoredRecord) -> Vec<(&str, &str)> {
        stored
            .sealed_fields
            .iter()
            .map(|(pointer, value)| (pointer.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn without_rules_a_record_is_stored_as_it_was_sent() {
        let stored = redact(
            &[],
            sample(json!({"context": {"b": 1.50, "a": [null]}, "labels": {"env": "x"}})),
        );
        assert_eq!(stored.context.as_deref(), Some(r#"{"a":[null],"b":1.5}"#));
        assert_eq!(stored.actor_id.as_deref(), Some("u-1"));
        assert_eq!(stored.labels.unwrap()["env"].as_deref(), Some("x"));
        assert_eq!(
            (stored.leaf_layout.as_str(), stored.sealed_fields.len()),
            ("[]", 0)
        );
        assert_eq!(stored.policy_version.as_deref(), Some("tenant:acme@7"));
        assert_eq!(stored.retention_class.as_str(), "short");
        assert_eq!(stored.extras, None);
        assert_ne!(stored.salt, [0; SALT_BYTES]);
    }

    #[test]
    fn columns_are_changed_in_place_and_named_in_the_layout() {
        let mask = WriteRule::Mask {
            show_first: 0,
            show_last: 1,
        };
        let fields = [
            ("idempotency_key", WriteRule::Redact, None),
            ("actor_id", WriteRule::Hash, None),
            ("resource_id", WriteRule::Drop, None),
            ("trace_id", WriteRule::Keep, None),
            ("purpose", WriteRule::Nullify, None),
            ("span_id", mask, None),
        ];
        let stored = redact(&fields, sample(json!({"purpose": "p"})));
        assert_eq!(stored.actor_id, Some(hashed("actor_id", "u-1")));
        assert_eq!(stored.idempotency_key.as_deref(), Some(REDACTED));
        assert_eq!(
            (stored.resource_id.as_deref(), stored.purpose.as_deref()),
            (None, None)
        );
        assert_eq!(stored.trace_id.as_deref(), Some("t-1"));
        assert_eq!(
            stored.leaf_layout,
            r#"["actor_id","trace_id","purpose","idempotency_key"]"#
        );
    }

    #[test]
    fn places_in_the_context_are_cut_out() {
        let fields = [
            ("context.user.name", WriteRule::Keep, Some("user_name")),
            ("context.user.age", WriteRule::Keep, Some("user_age")),
            ("context.user.none", WriteRule::Keep, Some("user_none")),
            ("context.user.mail", WriteRule::Hash, None),
            ("context.user.pin", WriteRule::Drop, None),
            ("context.user.gone", WriteRule::Nullify, None),
            ("context.list[*].x", WriteRule::Redact, None),
        ];
        let context = json!({
            "user": {"name": "Bo", "age": 7, "mail": "bo@x", "pin": "1234", "gone": "g", "left": true},
            "list": [{"x": "a", "y": 1}, "x", {"x": "b"}], "x": "kept",
        });
        let stored = redact(&fields, sample(json!({"context": context})));
        assert_eq!(
            stored.context.as_deref(),
            Some(r#"{"list":[{"y":1},"x",{}],"user":{"left":true},"x":"kept"}"#)
        );
        let mail = format!("\"{}\"", hashed("context.user.mail", "bo@x"));
        assert_eq!(
            sealed(&stored),
            [
                ("/context/list/0/x", "\"[redacted]\""),
                ("/context/list/2/x", "\"[redacted]\""),
                ("/context/user/gone", "null"),
                ("/context/user/mail", mail.as_str()),
            ]
        );
        let promoted = stored
            .promoted
            .iter()
            .map(|value| (value.column.as_str(), value.value.as_deref()));
        assert!(promoted.eq([("user_age", Some("7")), ("user_name", Some("Bo"))]));
        assert_eq!(
            stored.leaf_layout,
            concat!(
                r#"["/context/list/0/x","/context/list/2/x","user_age:/context/user/age","/context/user/gone","#,
                r#""/context/user/mail","user_name:/context/user/name"]"#
            )
        );
    }

    #[test]
    fn a_bare_key_is_found_at_any_depth_in_any_case_in_labels_and_in_extras() {
        let record = sample(json!({
            "schemaVersion": "1.1",
            "context": {"Email": "canary", "a": [[{"eMAIL": ["canary"]}], {"emails": "kept"}]},
            "labels": {"EMAIL": "canary", "x": "kept"},
            "more": {"email": {"deep": "canary"}},
        }));
        let stored = redact(&[("email", WriteRule::Hash, None)], record);
        assert_eq!(
            stored.context.as_deref(),
            Some(r#"{"a":[[{}],{"emails":"kept"}]}"#)
        );
        assert_eq!(stored.extras.as_deref(), Some(r#"{"more":{}}"#));
        let canary = format!("\"{}\"", hashed("email", "canary"));
        assert_eq!(
            sealed(&stored),
            [
                ("/context/Email", canary.as_str()),
                ("/context/a/0/0/eMAIL", "\"[redacted]\""),
                ("/extras/more/email", "\"[redacted]\""),
                ("/labels/EMAIL", canary.as_str()),
            ]
        );
    }

    #[test]
    fn a_rule_on_a_container_takes_what_lies_in_it_and_keep_lets_the_rest_be_ruled() {
        let context = json!({"u": {"name": "Bo", "mail": {"home": "canary"}, "n": [1, "canary"]}});
        for (outer, wanted) in [
            (WriteRule::Redact, vec![("/context/u", "\"[redacted]\"")]),
            (WriteRule::Nullify, vec![("/context/u", "null")]),
            (WriteRule::Drop, vec![]),
            (
                WriteRule::Keep,
                vec![
                    ("/context/u", r#"{"mail":{},"n":[1,null],"name":"Bo"}"#),
                    ("/context/u/mail/home", "\"[redacted]\""),
                    ("/context/u/n/1", "\"[redacted]\""),
                ],
            ),
        ] {
            let fields = [
                ("context.u", outer, None),
                ("context.u.mail.home", WriteRule::Redact, None),
                ("context.u.n[*]", WriteRule::Keep, None),
                ("home", WriteRule::Keep, None),
            ];
            let mut context = context.clone();
            if outer == WriteRule::Keep {
                context["u"]["n"][0] = Value::Null;
            }
            let stored = redact(&fields, sample(json!({"context": context})));
            assert_eq!(stored.context.as_deref(), Some("{}"));
            if outer == WriteRule::Keep {
                let kept = sealed(&stored);
                assert_eq!(
                    kept[0],
                    ("/context/u", r#"{"mail":{},"n":[null,null],"name":"Bo"}"#)
                );
                assert_eq!(kept[1], wanted[1]);
                assert_eq!(
                    kept[2..],
                    [("/context/u/n/0", "null"), ("/context/u/n/1", "\"canary\"")]
                );
            } else {
                assert_eq!(sealed(&stored), wanted);
            }
        }
    }

    #[test]
    fn the_strictest_of_several_rules_applies() {
        let mask = |show_first, show_last| WriteRule::Mask {
            show_first,
            show_last,
        };
        for (rules, wanted) in [
            (
                vec![("mail", WriteRule::Hash), ("context.mail", WriteRule::Keep)],
                Some(hashed("mail", "canary@example")),
            ),
            (
                vec![("mail", mask(2, 0)), ("context.mail", WriteRule::Hash)],
                Some(hashed("context.mail", "canary@example")),
            ),
            (
                vec![
                    ("mail", WriteRule::Redact),
                    ("context.mail", WriteRule::Hash),
                ],
                Some(REDACTED.to_owned()),
            ),
            (
                vec![
                    ("mail", WriteRule::Redact),
                    ("context.mail", WriteRule::Drop),
                ],
                None,
            ),
            (
                vec![("mail", mask(3, 0)), ("context.mail", mask(0, 3))],
                Mask::Partial {
                    show_first: 0,
                    show_last: 0,
                }
                .apply_str("canary@example"),
            ),
        ] {
            let fields: Vec<Field<'_>> = rules
                .iter()
                .map(|(path, write)| (*path, *write, None))
                .collect();
            let stored = redact(
                &fields,
                sample(json!({"context": {"mail": "canary@example"}})),
            );
            let value = stored
                .sealed_fields
                .get("/context/mail")
                .map(|text| serde_json::from_str::<String>(text).unwrap());
            assert_eq!(value, wanted, "{rules:?}");
        }
    }

    #[test]
    fn what_is_not_text_is_replaced_under_rules_for_text() {
        let keyless = |write| {
            let stored = redact(
                &[("x", write, None)],
                sample(json!({"context": {
                    "a": {"x": 4111}, "b": {"x": true}, "c": {"x": null}, "d": {"x": {"y": 1}},
                }})),
            );
            stored.sealed_fields.into_values().collect::<Vec<_>>()
        };
        let replaced = ["\"[redacted]\"", "\"[redacted]\"", "null", "\"[redacted]\""];
        for write in [
            WriteRule::Hash,
            WriteRule::Token,
            WriteRule::Redact,
            WriteRule::Mask {
                show_first: 1,
                show_last: 1,
            },
            WriteRule::Generalize(Generalize::IpPrefix),
            WriteRule::Generalize(Generalize::Day),
        ] {
            assert_eq!(keyless(write), replaced, "{write:?}");
        }
        assert_eq!(keyless(WriteRule::Nullify), ["null"; 4]);
        assert!(keyless(WriteRule::Drop).is_empty());
    }

    #[test]
    fn a_rule_on_a_whole_document_takes_it() {
        let record = || {
            sample(
                json!({"schemaVersion": "1.1", "context": {"a": "canary"}, "labels": {"a": "canary"}, "x": 1}),
            )
        };
        for (write, wanted) in [
            (WriteRule::Drop, None),
            (WriteRule::Nullify, None),
            (WriteRule::Redact, Some("\"[redacted]\"")),
            (WriteRule::Hash, Some("\"[redacted]\"")),
        ] {
            let fields = [
                ("context", write, None),
                ("labels", write, None),
                ("extras", write, None),
            ];
            let stored = redact(&fields, record());
            assert_eq!(
                (stored.context.as_deref(), stored.extras.as_deref()),
                (wanted, wanted),
                "{write:?}"
            );
            assert_eq!(stored.labels, None);
            assert!(!stored.redacted_json().unwrap().contains("canary"));
        }
        let stored = redact(&[("context", WriteRule::Redact, None)], sample(json!({})));
        assert_eq!(stored.context, None);
        let stored = redact(
            &[
                ("context", WriteRule::Keep, None),
                ("a", WriteRule::Redact, None),
            ],
            record(),
        );
        assert_eq!(stored.context.as_deref(), Some("{}"));
    }

    #[test]
    fn an_object_and_an_array_are_sealed_and_never_promoted() {
        let fields = [
            ("context.user", WriteRule::Keep, Some("user")),
            ("context.tags", WriteRule::Keep, Some("tags")),
            ("context.open", WriteRule::Keep, Some("open")),
        ];
        let context = json!({"user": {"email": "bo@x"}, "tags": ["a"], "open": true});
        let stored = redact(&fields, sample(json!({ "context": context })));
        assert_eq!(
            sealed(&stored),
            [
                ("/context/tags", r#"["a"]"#),
                ("/context/user", r#"{"email":"bo@x"}"#)
            ]
        );
        let promoted = stored
            .promoted
            .iter()
            .map(|value| (value.column.as_str(), value.value.as_deref()));
        assert!(promoted.eq([("open", Some("true"))]));
    }

    #[test]
    fn two_paths_to_one_column_lose_nothing() {
        let fields = [
            ("context.a", WriteRule::Keep, Some("col")),
            ("context.b", WriteRule::Keep, Some("col")),
            ("c", WriteRule::Keep, Some("other")),
        ];
        let stored = redact(
            &fields,
            sample(json!({"context": {"a": "1", "b": "2", "c": "3"}})),
        );
        assert_eq!(stored.promoted.len(), 1);
        assert_eq!(
            sealed(&stored),
            [("/context/b", "\"2\""), ("/context/c", "\"3\"")]
        );
    }

    #[test]
    fn the_redacted_record_is_whole_again_as_json() {
        let fields = [
            ("context.user.name", WriteRule::Keep, Some("user_name")),
            ("labels.owner", WriteRule::Redact, None),
            ("mail", WriteRule::Redact, None),
            ("actor_id", WriteRule::Redact, None),
            ("context.tags[*]", WriteRule::Keep, None),
        ];
        let record = sample(json!({
            "schemaVersion": "1.1",
            "context": {"user": {"name": "Bo", "mail": "canary"}, "tags": ["a", {"b": null}]},
            "labels": {"owner": "canary", "env": "prod"},
            "actor": {"type": "User", "id": "canary", "mail": "canary"},
            "severity": 3,
        }));
        assert_eq!(
            redact(&fields, record).redacted_json().unwrap(),
            concat!(
                r#"{"action":"A.B","actor":{"id":"[redacted]","mail":"[redacted]","type":"User"},"#,
                r#""context":{"tags":["a",{"b":null}],"user":{"mail":"[redacted]","name":"Bo"}},"correlation":{"traceId":"t-1"},"#,
                r#""createdAt":"2025-10-28T07:55:12.000000Z","idempotencyKey":"key-1","labels":{"env":"prod","owner":"[redacted]"},"#,
                r#""resource":{"id":"r-1","type":"T"},"schemaVersion":"1.1","severity":3,"tenantId":"acme"}"#
            )
        );
    }

    #[test]
    fn what_a_tenant_starts_with_keeps_secrets_out_of_a_cloud_trail_event() {
        let tenant = TenantId::parse("acme").unwrap();
        let yaml = Bundle::default_yaml(&tenant, &SiloId::parse("local").unwrap());
        let default = Bundle::parse(yaml.as_bytes(), &tenant).unwrap();
        let record = sample(json!({"context": {
            "userIdentity": {"accessKeyId": "canary-1", "userName": "bob", "sessionContext": {"sessionToken": "canary-2"}},
            "requestParameters": {"passwordData": "canary-3", "instanceId": "i-1"},
            "responseElements": {"accessKey": {"secretAccessKey": "canary-4", "status": "Active"}},
            "additionalEventData": [{"Email": "canary-5@example.com"}],
            "sourceIPAddress": "200.249.253.51",
        }}));
        let (hash, token) = (key(1), key(2));
        let redactor = Redactor::new(
            &default,
            &Secrets {
                hash: &hash,
                token: &token,
                version: 1,
            },
        );
        let shown = everything(&redactor.redact(record, placement()).unwrap());
        assert!(!shown.contains("canary"));
        for kept in ["bob", "i-1", "Active", "200.249.253.51", "standard"] {
            assert!(shown.contains(kept), "{kept}");
        }
    }

    #[test]
    fn debug_says_nothing_of_values() {
        let stored = redact(
            &[("context.a", WriteRule::Keep, Some("col"))],
            sample(json!({"context": {"a": "canary"}})),
        );
        assert!(!format!("{stored:?} {:?}", stored.promoted).contains("canary"));
    }

    /// A tree whose texts are all different: `canary-0-`, `canary-1-`, ….
    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![4 => Just(json!("")), 1 => any::<bool>().prop_map(Value::Bool), 1 => Just(Value::Null)];
        let tree = leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                2 => prop::collection::btree_map("[abcB]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        });
        prop::collection::btree_map("[abcB]", tree, 0..5).prop_map(|map| {
            let mut root: Value = map.into_iter().collect();
            number(&mut root, &mut 0);
            root
        })
    }

    fn number(value: &mut Value, count: &mut usize) {
        match value {
            Value::String(text) => {
                *text = format!("canary-{count}-");
                *count += 1;
            }
            Value::Array(elements) => elements
                .iter_mut()
                .for_each(|element| number(element, count)),
            Value::Object(members) => members
                .values_mut()
                .for_each(|member| number(member, count)),
            _ => {}
        }
    }

    fn path() -> impl Strategy<Value = String> {
        prop_oneof![
            "[abc]",
            prop::collection::vec(
                prop_oneof![3 => "\\.[abcB]", 1 => Just("[*]".to_owned())],
                1..4
            )
            .prop_map(|steps| format!("context{}", steps.concat())),
        ]
    }

    fn write() -> impl Strategy<Value = WriteRule> {
        prop::sample::select(vec![
            WriteRule::Hash,
            WriteRule::Token,
            WriteRule::Redact,
            WriteRule::Drop,
            WriteRule::Nullify,
        ])
    }

    /// Every text of the tree with whether one of the paths covers it, by the definition and not by the walk under test.
    fn texts(
        value: &Value,
        steps: &mut Vec<Step>,
        paths: &[FieldPath],
        found: &mut Vec<(String, bool)>,
    ) {
        match value {
            Value::String(text) => {
                let place = FieldPath::Context(steps.clone());
                found.push((text.clone(), paths.iter().any(|path| path.covers(&place))));
            }
            Value::Array(elements) => {
                for element in elements {
                    steps.push(Step::AnyElement);
                    texts(element, steps, paths, found);
                    steps.pop();
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    steps.push(Step::Key(key.clone()));
                    texts(member, steps, paths, found);
                    steps.pop();
                }
            }
            _ => {}
        }
    }

    fn everything(stored: &StoredRecord) -> String {
        let row = crate::record::batch::records::<&str>(std::slice::from_ref(stored), &[]).unwrap();
        let shown = arrow::util::pretty::pretty_format_batches(&[row]).unwrap();
        format!("{shown} {stored:?} {}", stored.redacted_json().unwrap())
    }

    proptest! {
        #[test]
        fn a_covered_value_is_nowhere_and_every_other_is_still_there(
            context in tree(),
            rules in prop::collection::vec((path(), write()), 0..4),
            kept in prop::collection::vec(path(), 0..3),
        ) {
            let mut fields: Vec<Field<'_>> = rules.iter().map(|(path, write)| (path.as_str(), *write, None)).collect();
            fields.extend(kept.iter().map(|path| (path.as_str(), WriteRule::Keep, Some("col"))));
            let paths: Vec<FieldPath> = rules.iter().map(|(path, _)| FieldPath::parse(path).unwrap()).collect();
            let mut found = Vec::new();
            texts(&context, &mut Vec::new(), &paths, &mut found);

            let stored = redact(&fields, sample(json!({"context": context})));
            let shown = everything(&stored);
            for (text, is_covered) in found {
                prop_assert_eq!(shown.contains(&text), !is_covered, "{}", text);
            }
        }

        #[test]
        fn what_is_kept_returns_to_its_place(context in tree(), kept in prop::collection::vec(path(), 0..4)) {
            let fields: Vec<Field<'_>> = kept.iter().map(|path| (path.as_str(), WriteRule::Keep, None)).collect();
            let stored = redact(&fields, sample(json!({"context": context})));
            let sealed = sealed(&stored).into_iter();
            let mut held: Vec<_> = sealed.map(|(pointer, value)| (pointer, Held::Json(value))).collect();
            let mut restored = String::new();
            prop_assert!(restore_document(Part::Context, &mut restored, stored.context.as_ref().unwrap(), &mut held));
            prop_assert_eq!(restored, text(&context).unwrap());
        }

        #[test]
        fn labels_under_a_rule_are_nowhere_and_kept_ones_return(
            labels in prop::collection::btree_map("[a-dA-D]", "canary[0-9]{6}", 0..6),
            ruled in prop::sample::subsequence(vec!["a", "labels.b", "labels.A"], 0..3),
        ) {
            let fields: Vec<Field<'_>> = ruled.iter().map(|path| (*path, WriteRule::Hash, None)).chain([("c", WriteRule::Keep, None)]).collect();
            let stored = redact(&fields, sample(json!({"labels": labels})));
            let mut restored = stored.labels.clone().unwrap();
            restore_labels(&mut restored, sealed(&stored).into_iter().map(|(pointer, value)| (pointer, Held::Json(value))));
            prop_assert!(restored.keys().eq(labels.keys()));
            for (key, value) in &labels {
                let is_covered = ruled.iter().any(|path| FieldPath::parse(path).unwrap().covers(&FieldPath::Label(key.clone())));
                prop_assert_eq!(restored[key].as_ref() != Some(value), is_covered);
            }
        }
    }
}
