//! Upcasters: how a record of one version is read as one of the next. Declared, never code.
//!
//! ```json
//! {"from": "1.0", "to": "2.0", "steps": [
//!   {"op": "rename",  "path": "/context/mail", "to": "email"},
//!   {"op": "move",    "from": "/context/phone", "to": "/context/contact/phone"},
//!   {"op": "default", "path": "/context/currency", "value": "USD"},
//!   {"op": "split",   "path": "/context/name", "separator": " ", "to": ["/context/first", "/context/last"]},
//!   {"op": "cast",    "path": "/context/amount", "to": "number"}]}
//! ```
//! What a step does to which value, and that it does nothing to a value it does not fit, is said where it is done.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pointer::{Part, Pointer};
use super::version::SchemaVersion;

/// Steps of one upcaster.
pub(super) const STEPS_MAX: usize = 64;
/// Places that one text is split into.
const SPLITS_MAX: usize = 8;
/// Bytes of a default's JSON text.
const DEFAULT_BYTES_MAX: usize = 256;
/// Bytes of a separator, and of the new key of a rename.
const TEXT_BYTES_MAX: usize = 128;

/// How records of one version become records of the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upcaster {
    /// The version it reads: the one registered before.
    pub from: SchemaVersion,
    /// The version it makes: the one it is registered with.
    pub to: SchemaVersion,
    /// What it does, in order.
    pub steps: Vec<Step>,
}

/// One change of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Step {
    /// A value gets another key in the same object.
    Rename {
        /// Where it stands.
        path: Pointer,
        /// The new key.
        to: String,
    },
    /// A value that is not there is set.
    Default {
        /// Where.
        path: Pointer,
        /// To what.
        value: Value,
    },
    /// A value goes to another place.
    Move {
        /// Where it stands.
        from: Pointer,
        /// Where it goes.
        to: Pointer,
    },
    /// One text becomes several, at a separator.
    Split {
        /// Where it stands.
        path: Pointer,
        /// What stands between the parts.
        separator: String,
        /// Where the parts go, in order.
        to: Vec<Pointer>,
    },
    /// A value becomes one of another type.
    Cast {
        /// Where it stands.
        path: Pointer,
        /// What it becomes.
        to: Cast,
    },
}

/// What a value can be made into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cast {
    /// Of a number or a truth value: its text.
    Text,
    /// Of text that is a JSON number.
    Number,
    /// Of the texts `true` and `false`.
    Bool,
    /// Of RFC 3339 text: the same instant in UTC with six fraction digits.
    Timestamp,
}

impl Upcaster {
    /// Everything that is wrong with it by itself.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.from >= self.to {
            faults.push("upcaster: leads from an older version to a newer one".to_owned());
        }
        if self.steps.len() > STEPS_MAX {
            faults.push(format!("upcaster: has at most {STEPS_MAX} steps"));
        }
        for (index, step) in self.steps.iter().enumerate() {
            faults.extend(
                step.fault()
                    .map(|fault| format!("upcaster.steps[{index}]: {fault}")),
            );
        }
        faults
    }

    /// Levels by which it can make a record deeper.
    pub(super) fn deepens_by(&self) -> usize {
        let moved =
            |from: &Pointer, to: &Pointer| to.keys().len().saturating_sub(from.keys().len());
        let steps = self.steps.iter().map(|step| match step {
            Step::Move { from, to } => moved(from, to),
            Step::Rename { .. } | Step::Default { .. } | Step::Split { .. } | Step::Cast { .. } => {
                0
            }
        });
        steps.sum()
    }
}

impl Step {
    /// The places it takes a value from.
    #[must_use]
    pub fn source(&self) -> Option<&Pointer> {
        match self {
            Self::Rename { path, .. } | Self::Split { path, .. } | Self::Cast { path, .. } => {
                Some(path)
            }
            Self::Move { from, .. } => Some(from),
            Self::Default { .. } => None,
        }
    }

    /// The places it puts a value to.
    #[must_use]
    pub fn targets(&self) -> Vec<Pointer> {
        match self {
            Self::Rename { path, to } => vec![path.beside(to)],
            Self::Default { path, .. } | Self::Cast { path, .. } => vec![path.clone()],
            Self::Move { to, .. } => vec![to.clone()],
            Self::Split { to, .. } => to.clone(),
        }
    }

    fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Rename { path, to } => {
                if to.is_empty() || to.len() > TEXT_BYTES_MAX || to.chars().any(char::is_control) {
                    Some("the new key has 1 to 128 bytes and no control characters")
                } else if path.keys().last() == Some(to) {
                    Some("the new key is the old one")
                } else {
                    None
                }
            }
            Self::Default { path, value } => default_fault(path, value),
            Self::Move { from, to } if from.overlaps(to) => {
                Some("a value cannot move into itself or to where it lies")
            }
            Self::Move { .. } => None,
            Self::Split {
                path,
                separator,
                to,
            } => split_fault(path, separator, to),
            Self::Cast { path, to } => {
                (path.part() == Part::Labels && *to != Cast::Timestamp).then_some("labels are text")
            }
        }
    }
}

fn default_fault(path: &Pointer, value: &Value) -> Option<&'static str> {
    if matches!(value, Value::Array(_) | Value::Object(_) | Value::Null) {
        Some("a default is text, a number or a truth value")
    } else if path.part() == Part::Labels && !value.is_string() {
        Some("labels are text")
    } else if value.to_string().len() > DEFAULT_BYTES_MAX {
        Some("a default has at most 256 bytes")
    } else {
        None
    }
}

fn split_fault(path: &Pointer, separator: &str, to: &[Pointer]) -> Option<&'static str> {
    let distinct: BTreeSet<_> = to.iter().collect();
    let overlap = to.iter().enumerate().any(|(index, one)| {
        one.overlaps(path) || to.iter().skip(index + 1).any(|other| one.overlaps(other))
    });
    if separator.is_empty() || separator.len() > TEXT_BYTES_MAX {
        Some("a separator has 1 to 128 bytes")
    } else if to.len() < 2 || to.len() > SPLITS_MAX {
        Some("a text is split into 2 to 8 places")
    } else if distinct.len() < to.len() || overlap {
        Some("the places that a text is split into lie apart from it and from each other")
    } else {
        None
    }
}
