//! What a write rule does to one value.
//!
//! HASH, TOKEN, MASK, REDACT and GENERALIZE know text. Null stays null under them; any other JSON value becomes the word
//! that REDACT puts, whichever rule it was.
//!
//! HASH and TOKEN keys are bound to the rule: `udfs::HashKey::new(secret, <text form of the path>, version)`.

use std::borrow::Cow;

use catalog::keys::SecretKey;
use catalog::policy::{FieldPath, Generalize, WriteRule};
use serde_json::Value;
use udfs::{HashKey, Mask, REDACTED};

/// The tenant's keys for write rules.
#[derive(Debug, Clone, Copy)]
pub struct Secrets<'a> {
    /// For HASH.
    pub hash: &'a SecretKey,
    /// For TOKEN.
    pub token: &'a SecretKey,
    /// Version of both, shown in what they make.
    pub version: u32,
}

/// What happens to a value.
#[derive(Clone)]
pub(crate) struct Change {
    /// The rule.
    pub(crate) write: WriteRule,
    /// None for KEEP and DROP.
    mask: Option<Mask>,
}

impl Change {
    /// The change a rule on a path makes.
    pub(crate) fn keyed(write: WriteRule, path: &FieldPath, secrets: &Secrets<'_>) -> Self {
        let key =
            |secret: &SecretKey| HashKey::new(secret.expose(), &path.to_string(), secrets.version);
        match write {
            WriteRule::Hash => Self {
                write,
                mask: Some(Mask::Hash(key(secrets.hash))),
            },
            WriteRule::Token => Self {
                write,
                mask: Some(Mask::Token(key(secrets.token))),
            },
            WriteRule::Keep
            | WriteRule::Mask { .. }
            | WriteRule::Redact
            | WriteRule::Drop
            | WriteRule::Nullify
            | WriteRule::Generalize(_) => Self::unkeyed(write),
        }
    }

    /// A change that needs no key; HASH and TOKEN without theirs redact.
    fn unkeyed(write: WriteRule) -> Self {
        let mask = match write {
            WriteRule::Keep | WriteRule::Drop => None,
            WriteRule::Mask {
                show_first,
                show_last,
            } => Some(Mask::Partial {
                show_first,
                show_last,
            }),
            WriteRule::Redact | WriteRule::Hash | WriteRule::Token => Some(Mask::Redact),
            WriteRule::Nullify => Some(Mask::Nullify),
            WriteRule::Generalize(Generalize::IpPrefix) => Some(Mask::GeneralizeIp),
            WriteRule::Generalize(Generalize::Day) => Some(Mask::GeneralizeDay),
            WriteRule::Generalize(Generalize::Month) => Some(Mask::GeneralizeMonth),
        };
        Self { write, mask }
    }

    /// What is stored in place of a value; `None` if nothing is.
    pub(crate) fn value(&self, value: Value) -> Option<Value> {
        match (&self.mask, self.write) {
            (Some(mask), _) => Some(masked(value, mask)),
            (None, WriteRule::Keep) => Some(value),
            (None, _) => None,
        }
    }
}

/// The strictest change: one of those given, with its key, or the common part of several that need none.
pub(crate) fn strictest<'r>(changes: &[&'r Change]) -> Cow<'r, Change> {
    let write = changes.iter().fold(WriteRule::Keep, |strictest, change| {
        strictest.stricter(change.write)
    });
    match changes.iter().find(|change| change.write == write) {
        Some(change) => Cow::Borrowed(*change),
        None => Cow::Owned(Change::unkeyed(write)),
    }
}

/// A value under a mask that knows text: null stays, what is neither is replaced as a whole.
fn masked(value: Value, mask: &Mask) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::String(text) => mask.apply_str(&text).map_or(Value::Null, Value::String),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => match mask {
            Mask::Nullify => Value::Null,
            _ => Value::String(REDACTED.to_owned()),
        },
    }
}
