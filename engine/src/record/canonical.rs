//! The canonical form of a record and the hash of its payload.
//!
//! # Normal form
//! What a sender sent, with every freedom of spelling taken out that does not change its meaning: the tenant id in lower
//! case, `createdAt` in UTC with six fraction digits, `schemaVersion` filled in, members of objects that are null dropped at
//! every depth (elements of arrays stay, their place means something), and `idempotencyKey` removed.
//!
//! # Payload hash
//! SHA-256 of the RFC 8785 text of the normal form. It is computed anew for the sender who asks; **stored** is only
//! `hmac-sha256:` and the unpadded base64url of HMAC-SHA256(tenant's payload key, the 32 bytes of the hash), because a
//! plain hash of a record confirms guesses of a field that was erased from it.
//!
//! # Vector
//! ```text
//! sent   {"tenantId":"Acme","idempotencyKey":"k-1","createdAt":"2025-10-28T09:55:12.345+02:00",
//!         "action":"Appointment.Booked","resource":{"type":"Appointment","id":"apt_123"},
//!         "actor":{"type":"User","id":"u1"},"correlation":{"traceId":"3e1f","spanId":null},
//!         "context":{"n":1.50,"gone":null,"list":[null]},"labels":{"env":"prod"}}
//! form   {"action":"Appointment.Booked","actor":{"id":"u1","type":"User"},"context":{"list":[null],"n":1.5},
//!         "correlation":{"traceId":"3e1f"},"createdAt":"2025-10-28T07:55:12.345000Z","labels":{"env":"prod"},
//!         "resource":{"id":"apt_123","type":"Appointment"},"schemaVersion":"1.0","tenantId":"acme"}
//!         (one line, without the spaces and line ends shown here)
//! hash   sha256:fb320deaab1ee19c755910b03bc71248f223a994b0062e0528dbfae8492a363f
//! keyed  hmac-sha256:KEAxom9pwiCtdb87Ojp-6n5bkISw6B-HZ9Ef0xI314I   (key: 32 bytes of 0x07)
//! ```

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::ids::RecordId;
use catalog::keys::SecretKey;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::jcs::{self, Nulls};
use super::parse::{AuditRecord, Party};

/// What the normal form of a usual record takes, in bytes.
const FORM_CAPACITY: usize = 1024;
/// What a usual value of a record takes, in bytes.
const TEXT_CAPACITY: usize = 256;
/// What a keyed payload hash begins with.
const PAYLOAD_PREFIX: &str = "hmac-sha256:";
/// The members of a record, without those that its version of the schema does not have.
const MEMBERS: usize = 10;

/// A value that RFC 8785 has no text for. No value that [`super::json`] reads is one.
#[derive(Debug, thiserror::Error)]
#[error("a JSON value has no canonical form")]
pub struct NoCanonicalForm;

/// SHA-256 of a record's normal form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayloadHash([u8; 32]);

/// The RFC 8785 text of a value.
///
/// # Errors
/// If a number in it is not finite.
pub fn text(value: &Value) -> Result<String, NoCanonicalForm> {
    let mut text = String::with_capacity(TEXT_CAPACITY);
    jcs::write(&mut text, value, Nulls::Kept)?;
    Ok(text)
}

/// The hash of what the sender sent.
///
/// # Errors
/// If the record has no canonical form.
pub fn payload_hash(record: &AuditRecord) -> Result<PayloadHash, NoCanonicalForm> {
    let form = normal_form(record)?;
    Ok(PayloadHash(Sha256::digest(form).into()))
}

/// The form of an idempotency key by which its record is found again: all 256 bits, since a short digest could be
/// collided on purpose; keyed, so that the table confirms no guess; and of the key as it was sent, so that a write rule on
/// its column, or a change of that rule, hides no duplicate.
pub fn key_digest(idempotency_key: &str, key: &SecretKey) -> [u8; 32] {
    key.mac(&[b"th-key-digest", idempotency_key.as_bytes()])
}

/// The same for a record that comes out of quarantine: no key that could be sent has this form.
pub fn release_digest(entry: RecordId, key: &SecretKey) -> [u8; 32] {
    key.mac(&[b"th-release", &entry.to_bytes()])
}

/// A digest of a key as its column has it.
pub fn digest_text(digest: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(digest)
}

/// The digest that a column has as this text.
pub(crate) fn read_digest(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// A keyed payload hash as its column has it.
pub fn payload_text(keyed: &[u8; 32]) -> String {
    let mut text = String::with_capacity(PAYLOAD_PREFIX.len() + 43);
    text.push_str(PAYLOAD_PREFIX);
    URL_SAFE_NO_PAD.encode_string(keyed, &mut text);
    text
}

/// The keyed payload hash that a column has as this text.
pub(crate) fn read_payload(text: &str) -> Option<[u8; 32]> {
    read_digest(text.strip_prefix(PAYLOAD_PREFIX)?)
}

/// The text of the normal form.
pub(crate) fn normal_form(record: &AuditRecord) -> Result<String, NoCanonicalForm> {
    let created_at = record.created_at.to_string();
    let schema_version = record.schema_version.to_string();
    let span_id = record.span_id.as_ref();
    let span_id = span_id.map(|span_id| ("spanId", Part::Text(span_id)));
    let trace_id = ("traceId", Part::Text(&record.trace_id));
    let correlation = span_id.into_iter().chain([trace_id]).collect();
    // In the byte order of the names, as objects are written; sorted below only where something comes between.
    let mut form = Vec::with_capacity(MEMBERS);
    form.push(("action", Part::Text(&record.action)));
    form.push(("actor", party(&record.actor)));
    let context = record.context.as_ref();
    form.extend(context.map(|context| ("context", Part::Object(context))));
    form.push(("correlation", Part::Members(correlation)));
    form.push(("createdAt", Part::Text(&created_at)));
    let labels = record.labels.as_ref();
    form.extend(labels.map(|labels| ("labels", Part::Labels(labels))));
    let purpose = record.purpose.as_ref();
    form.extend(purpose.map(|purpose| ("purpose", Part::Text(purpose))));
    form.push(("resource", party(&record.resource)));
    form.push(("schemaVersion", Part::Text(&schema_version)));
    form.push(("tenantId", Part::Text(record.tenant_id.as_str())));
    // What a record has beyond these is looked for among these alone: a sender decides how much that is.
    let known = form.len();
    for (key, value) in &record.extras {
        let at = form[..known].iter().position(|(name, _)| name == key);
        match (at.map(|at| &mut form[at].1), value) {
            (Some(Part::Members(members)), Value::Object(more)) => {
                let more = more.iter().filter(|(_, value)| !value.is_null());
                members.extend(more.map(|(key, value)| (key.as_str(), Part::Value(value))));
                members.sort_unstable_by_key(|(name, _)| *name);
            }
            (Some(_), _) | (None, Value::Null) => {}
            (None, value) => form.push((key, Part::Value(value))),
        }
    }
    form.sort_by_key(|(name, _)| *name);
    let mut text = String::with_capacity(FORM_CAPACITY);
    Part::Members(form).write(&mut text)?;
    Ok(text)
}

/// A part of a normal form, borrowed from the record.
enum Part<'r> {
    Text(&'r str),
    Value(&'r Value),
    Object(&'r Map<String, Value>),
    Labels(&'r BTreeMap<String, String>),
    Members(Vec<(&'r str, Self)>),
}

impl Part<'_> {
    fn write(&self, text: &mut String) -> Result<(), NoCanonicalForm> {
        match self {
            Self::Text(value) => {
                jcs::write_string(text, value);
                Ok(())
            }
            Self::Value(value) => jcs::write(text, value, Nulls::Dropped),
            Self::Object(members) => jcs::write_map(text, members, Nulls::Dropped),
            Self::Labels(labels) => {
                let labels = labels.iter().map(|(key, value)| (key.as_str(), value));
                jcs::write_object(text, labels, |value, text| {
                    jcs::write_string(text, value);
                    Ok(())
                })
            }
            Self::Members(members) => {
                let members = members.iter().map(|(key, part)| (*key, part));
                jcs::write_object(text, members, Self::write)
            }
        }
    }
}

fn party(party: &Party) -> Part<'_> {
    let id = ("id", Part::Text(&party.id));
    Part::Members(vec![id, ("type", Part::Text(&party.kind))])
}

impl PayloadHash {
    /// What is stored of it, under the tenant's payload key.
    pub fn keyed(&self, key: &SecretKey) -> [u8; 32] {
        key.mac(&[&self.0])
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// `sha256:` and 64 hexadecimal digits, for the sender alone.
impl fmt::Display for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Says nothing: a plain hash in a log would be one that is stored.
impl fmt::Debug for PayloadHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadHash").finish_non_exhaustive()
    }
}

/// Puts fields that the schema does not have back where they stood.
pub(crate) fn merge_extras(form: &mut Map<String, Value>, extras: &Map<String, Value>) {
    for (key, value) in extras {
        match (form.get_mut(key), value) {
            (Some(Value::Object(members)), Value::Object(more)) => {
                members.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            (Some(_), _) => {}
            (None, value) => {
                form.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::clock::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::record::parse::{Terms, parse};

    const SENT: &str = r#"{"tenantId":"Acme","idempotencyKey":"k-1","createdAt":"2025-10-28T09:55:12.345+02:00",
        "action":"Appointment.Booked","resource":{"type":"Appointment","id":"apt_123"},
        "actor":{"type":"User","id":"u1"},"correlation":{"traceId":"3e1f","spanId":null},
        "context":{"n":1.50,"gone":null,"list":[null]},"labels":{"env":"prod"}}"#;
    const FORM: &str = concat!(
        r#"{"action":"Appointment.Booked","actor":{"id":"u1","type":"User"},"context":{"list":[null],"n":1.5},"#,
        r#""correlation":{"traceId":"3e1f"},"createdAt":"2025-10-28T07:55:12.345000Z","labels":{"env":"prod"},"#,
        r#""resource":{"id":"apt_123","type":"Appointment"},"schemaVersion":"1.0","tenantId":"acme"}"#
    );
    const HASH: &str = "sha256:fb320deaab1ee19c755910b03bc71248f223a994b0062e0528dbfae8492a363f";
    const HASH_WITH_SPAN: &str =
        "sha256:d18654598fad9685a8233f8496ca2dc089c5d4592cce979df3de94577dd57870";
    const KEYED: &str = "hmac-sha256:KEAxom9pwiCtdb87Ojp-6n5bkISw6B-HZ9Ef0xI314I";

    fn record(text: &str) -> AuditRecord {
        let now = Timestamp::parse_rfc3339("2025-10-28T08:00:00Z").unwrap();
        parse(
            text.as_bytes(),
            &Terms {
                now,
                header_key: Some("k-1"),
            },
        )
        .unwrap()
    }

    fn hash(text: &str) -> String {
        payload_hash(&record(text)).unwrap().to_string()
    }

    #[test]
    fn vector() {
        assert_eq!(normal_form(&record(SENT)).unwrap(), FORM);
        assert_eq!(hash(SENT), HASH);
        let key = SecretKey::new([7; 32]);
        let keyed = payload_hash(&record(SENT)).unwrap().keyed(&key);
        assert_eq!(payload_text(&keyed), KEYED);
        let with_span = SENT.replace("\"spanId\":null", "\"spanId\":\"7f6e\"");
        assert_eq!(hash(&with_span), HASH_WITH_SPAN);
        // The form is a record itself, and its own normal form.
        assert_eq!(hash(FORM), HASH);
    }

    #[test]
    fn every_field_but_the_key_counts() {
        for (from, to) in [
            ("Acme", "Acme2"),
            ("12.345", "12.346"),
            ("Booked", "Moved"),
            ("apt_123", "apt_124"),
            ("\"u1\"", "\"u2\""),
            ("\"User\"", "\"Service\""),
            ("3e1f", "3e2f"),
            ("\"spanId\":null", "\"spanId\":\"1\""),
            ("1.50", "1.51"),
            ("[null]", "[]"),
            ("[null]", "[null,null]"),
            ("prod", "test"),
            ("\"env\"", "\"Env\""),
            (",\"labels\"", ",\"purpose\":\"x\",\"labels\""),
            (",\"labels\"", ",\"schemaVersion\":\"1.1\",\"labels\""),
            ("\"id\":\"u1\"", "\"id\":\"u1\",\"name\":\"x\""),
        ] {
            assert_ne!(hash(&SENT.replace(from, to)), HASH, "{from} -> {to}");
        }
        let unkeyed = SENT.replace("\"idempotencyKey\":\"k-1\",", "");
        assert_eq!(hash(&unkeyed), HASH);
    }

    #[test]
    fn spelling_does_not_count() {
        for (from, to) in [
            ("09:55:12.345+02:00", "07:55:12.345000Z"),
            ("1.50", "15e-1"),
            ("\"gone\":null,", ""),
            ("Acme", "\\u0041cme"),
            (
                ",\"labels\"",
                ",\"schemaVersion\":\"1.0\",\"purpose\":null,\"labels\"",
            ),
        ] {
            assert_eq!(hash(&SENT.replace(from, to)), HASH, "{from} -> {to}");
        }
    }

    #[test]
    fn texts_of_the_table_are_256_bits_or_nothing() {
        let digest = [0xa5; 32];
        let text = URL_SAFE_NO_PAD.encode(digest);
        assert_eq!(read_digest(&text), Some(digest));
        assert_eq!(read_digest(&digest_text(&[7; 32])), Some([7; 32]));
        assert_eq!(read_payload(&payload_text(&digest)), Some(digest));
        for text in [
            "",
            "AAAA",
            &text[1..],
            &format!("{text}A"),
            &format!("{text}="),
        ] {
            assert_eq!(read_digest(text), None, "{text}");
        }
        assert_eq!(read_payload(&text), None);
    }

    #[test]
    fn debug_says_nothing() {
        assert_eq!(
            format!("{:?}", payload_hash(&record(SENT)).unwrap()),
            "PayloadHash { .. }"
        );
    }

    /// As in the documentation of the module: what is null is dropped from objects at every depth.
    fn without_nulls(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                let members = members.iter().filter(|(_, value)| !value.is_null());
                let members = members.map(|(key, value)| (key.clone(), without_nulls(value)));
                Value::Object(members.collect())
            }
            Value::Array(elements) => elements.iter().map(without_nulls).collect(),
            other => other.clone(),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(2, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                members(inner).prop_map(Value::Object),
            ]
        })
    }

    /// Members whose names sort before, between, after and beside those that a record has.
    fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        let name = prop_oneof![
            "[A-Za-z]{1,3}",
            "(span|trace|act|correlatio|zone)x",
            "\\PC{1,3}"
        ];
        let members = prop::collection::vec((name, value), 0..4);
        members.prop_map(|members| members.into_iter().collect())
    }

    proptest! {
        /// The form is the canonical text of what was sent, by a library that knows nothing of records.
        #[test]
        fn the_form_is_the_canonical_text_of_what_was_sent(
            span_id in prop::option::of("[a-z]{0,3}"), purpose in prop::option::of("[a-z]{0,3}"),
            resource in members(any_value()), actor in members(any_value()), correlation in members(any_value()),
            extras in members(any_value()), context in prop::option::of(members(any_value())),
            labels in prop::option::of(members("\\PC{0,3}".prop_map(Value::from))),
        ) {
            let party = |more: Map<String, Value>| {
                let mut party = more;
                party.insert("type".to_owned(), "T".into());
                party.insert("id".to_owned(), "1".into());
                Value::Object(party)
            };
            let mut sent = extras;
            let mut correlation = correlation;
            correlation.insert("traceId".to_owned(), "t".into());
            correlation.insert("spanId".to_owned(), span_id.into());
            for (name, value) in [
                ("tenantId", Value::from("acme")),
                ("createdAt", "2025-10-28T07:55:12.345000Z".into()),
                ("schemaVersion", "1.1".into()),
                ("action", "A.B".into()),
                ("resource", party(resource)),
                ("actor", party(actor)),
                ("correlation", correlation.into()),
                ("purpose", purpose.into()),
                ("context", context.into()),
                ("labels", labels.into()),
            ] {
                sent.insert(name.to_owned(), value);
            }
            let sent = Value::Object(sent);
            let wanted = serde_json_canonicalizer::to_string(&without_nulls(&sent)).unwrap();
            prop_assert_eq!(normal_form(&record(&sent.to_string())).unwrap(), wanted);
        }

        #[test]
        fn the_order_of_keys_does_not_count(
            keys in Just(vec!["tenantId", "createdAt", "action", "resource", "actor", "correlation", "context", "labels"])
                .prop_shuffle(),
            inner in prop::collection::btree_map("\\PC{1,6}", any::<i32>(), 0..6),
        ) {
            let sent: Map<String, Value> = serde_json::from_str(SENT).unwrap();
            let object = |members: &mut dyn Iterator<Item = (String, String)>| {
                let members: Vec<_> = members.map(|(key, value)| format!("{}:{value}", Value::from(key))).collect();
                format!("{{{}}}", members.join(","))
            };
            let member = |(key, number): (&String, &i32)| (key.clone(), number.to_string());
            let forth = object(&mut inner.iter().map(member));
            let back = object(&mut inner.iter().rev().map(member));
            let whole = |keys: &mut dyn Iterator<Item = &&str>, context: &str| {
                object(&mut keys.map(|key| {
                    let value = if *key == "context" { context.to_owned() } else { sent[*key].to_string() };
                    ((*key).to_owned(), value)
                }))
            };
            let first = whole(&mut keys.iter(), &forth);
            let second = whole(&mut keys.iter().rev(), &back);
            prop_assert_eq!(hash(&first), hash(&second));
        }
    }
}
