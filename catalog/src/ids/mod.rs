//! The names of things, parsed once at the edge: a value of one of these types is a valid name.
//!
//! Tenant, silo and stream names share one grammar: `[A-Za-z0-9][A-Za-z0-9._-]*`, folded to lower case at parse, so
//! that two spellings of a name are one name everywhere, in paths and in file systems that ignore case too.
//! No error carries the text that was refused.

mod record;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{self, Random};

pub use record::{RecordId, RecordIds};

/// The longest tenant id, in characters.
pub const TENANT_ID_MAX: usize = 128;
/// The longest silo id, in characters.
pub const SILO_ID_MAX: usize = 32;
/// The longest stream name, in characters.
pub const STREAM_NAME_MAX: usize = 64;
/// The longest correlation id, in characters.
pub const CORRELATION_ID_MAX: usize = 128;

/// For a stored field that may name the system tenant too, which has keys and a log, and no name that anybody may send.
///
/// # Errors
/// If the text is no tenant id.
pub fn stored_tenant<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TenantId, D::Error> {
    let text = String::deserialize(deserializer)?;
    TenantId::from_stored(&text).map_err(serde::de::Error::custom)
}

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind}: {fault}")]
pub struct IdError {
    kind: &'static str,
    fault: IdFault,
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// There is nothing.
    #[error("empty")]
    Empty,
    /// There is too much.
    #[error("longer than {max} characters")]
    TooLong {
        /// The longest allowed.
        max: usize,
    },
    /// A character that no name of this kind has.
    #[error("character {position} is not allowed")]
    Character {
        /// Its place, the first being 1.
        position: usize,
    },
    /// Not of the shape of its kind.
    #[error("malformed")]
    Malformed,
}

impl IdError {
    pub(crate) const fn new(kind: &'static str, fault: IdFault) -> Self {
        Self { kind, fault }
    }

    /// What is wrong.
    pub const fn fault(&self) -> IdFault {
        self.fault
    }
}

/// Checks the shared grammar and folds to lower case.
fn fold(kind: &'static str, text: &str, max: usize) -> Result<Arc<str>, IdError> {
    check(kind, text, max, |index, byte| {
        byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'.' | b'_' | b'-'))
    })?;
    Ok(text.to_ascii_lowercase().into())
}

fn check(
    kind: &'static str,
    text: &str,
    max: usize,
    allowed: impl Fn(usize, u8) -> bool,
) -> Result<(), IdError> {
    let fault = if text.is_empty() {
        IdFault::Empty
    } else if text.len() > max {
        IdFault::TooLong { max }
    } else if let Some(index) =
        (0..text.len()).find(|&index| !allowed(index, text.as_bytes()[index]))
    {
        IdFault::Character {
            position: index + 1,
        }
    } else {
        return Ok(());
    };
    Err(IdError::new(kind, fault))
}

/// The traits every textual name has; each goes through `parse` and `as_str`.
macro_rules! textual {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A tenant, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);
textual!(TenantId);

impl TenantId {
    const KIND: &'static str = "tenant id";
    const SYSTEM: &'static str = "_system";

    /// Parses and folds a tenant id from outside. The reserved tenant is not one of them.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold(Self::KIND, text, TENANT_ID_MAX).map(Self)
    }

    /// Parses a tenant id that this product wrote itself, in a frame or a path: the reserved tenant is among those.
    pub fn from_stored(text: &str) -> Result<Self, IdError> {
        if text == Self::SYSTEM {
            return Ok(Self::system());
        }
        Self::parse(text)
    }

    /// The reserved tenant `_system`, which takes the evidence of denials that have no tenant. It lies outside the
    /// grammar, so that no token and no header can name it.
    pub fn system() -> Self {
        Self(Self::SYSTEM.into())
    }

    /// Whether this is the reserved tenant.
    pub fn is_system(&self) -> bool {
        &*self.0 == Self::SYSTEM
    }
}

/// A data silo, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiloId(Arc<str>);
textual!(SiloId);

impl SiloId {
    /// Parses and folds a silo id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold("silo id", text, SILO_ID_MAX).map(Self)
    }
}

/// A stream of a tenant's records, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);
textual!(StreamName);

impl StreamName {
    /// Parses and folds a stream name. Whether a tenant has that stream is the registry's to say.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold("stream name", text, STREAM_NAME_MAX).map(Self)
    }

    /// `audit.default`: where records go that name no stream.
    pub fn audit_default() -> Self {
        Self("audit.default".into())
    }

    /// `audit.security`: what concerns the security of the tenant's own systems.
    pub fn audit_security() -> Self {
        Self("audit.security".into())
    }

    /// `audit.evidence`: the decisions themselves.
    pub fn evidence() -> Self {
        Self("audit.evidence".into())
    }
}

/// What ties one request's answer, logs and evidence together. Chosen by the caller or made here; never a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationId(Arc<str>);
textual!(CorrelationId);

impl CorrelationId {
    /// Parses a correlation id: 1 to 128 of `A-Z a-z 0-9 . _ - : / + =`, kept as written.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check("correlation id", text, CORRELATION_ID_MAX, |_, byte| {
            byte.is_ascii_alphanumeric() || b"._-:/+=".contains(&byte)
        })?;
        Ok(Self(text.into()))
    }

    /// A fresh one: 32 hexadecimal digits, the shape of a W3C trace id.
    pub fn generate(random: &dyn Random) -> Self {
        let number = u128::from_le_bytes(clock::array(random));
        Self(format!("{number:032x}").into())
    }
}

/// One version of one tenant's policy, `tenant:<id>@<n>`, n from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion {
    /// Whose policy.
    pub tenant: TenantId,
    /// Which of its versions.
    pub number: u64,
}

impl PolicyVersion {
    /// Parses `tenant:<id>@<n>`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let malformed = IdError::new("policy version", IdFault::Malformed);
        let (tenant, number) = text
            .strip_prefix("tenant:")
            .and_then(|rest| rest.rsplit_once('@'))
            .ok_or(malformed)?;
        Ok(Self {
            tenant: TenantId::from_stored(tenant)?,
            number: parse_version(number).ok_or(malformed)?,
        })
    }
}

/// A number from 1 written one way only: no sign, no leading zero.
pub(crate) fn parse_version(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant:{}@{}", self.tenant, self.number)
    }
}

impl FromStr for PolicyVersion {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Serialize for PolicyVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::SeededRandom;

    #[track_caller]
    fn check_tenant(text: &str, expected: Result<&str, IdFault>) {
        let parsed = TenantId::parse(text);
        assert_eq!(
            parsed
                .as_ref()
                .map(TenantId::as_str)
                .map_err(IdError::fault),
            expected
        );
    }

    #[test]
    fn tenant_ids_are_folded_and_bounded() {
        check_tenant("Acme-EU.prod_1", Ok("acme-eu.prod_1"));
        check_tenant("0", Ok("0"));
        check_tenant(&"a".repeat(128), Ok(&"a".repeat(128)));
        check_tenant(&"a".repeat(129), Err(IdFault::TooLong { max: 128 }));
        check_tenant("", Err(IdFault::Empty));
        check_tenant("_system", Err(IdFault::Character { position: 1 }));
        check_tenant("..", Err(IdFault::Character { position: 1 }));
        check_tenant("a/b", Err(IdFault::Character { position: 2 }));
        check_tenant("a\u{212a}", Err(IdFault::Character { position: 2 }));
        check_tenant("a b", Err(IdFault::Character { position: 2 }));
        check_tenant("a\0", Err(IdFault::Character { position: 2 }));
    }

    #[test]
    fn the_reserved_tenant_is_named_only_from_storage() {
        assert!(TenantId::system().is_system());
        assert_eq!(TenantId::from_stored("_system"), Ok(TenantId::system()));
        assert!(serde_json::from_str::<TenantId>("\"_system\"").is_err());
        assert!(TenantId::from_stored("_other").is_err());
    }

    #[test]
    fn errors_name_the_fault_and_not_the_text() {
        let error = TenantId::parse("bad name").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid tenant id: character 4 is not allowed"
        );
        assert!(SiloId::parse(&"a".repeat(33)).is_err());
        assert!(StreamName::parse(&"a".repeat(65)).is_err());
    }

    #[test]
    fn correlation_ids_keep_their_case_and_cannot_split_a_log_line() {
        assert_eq!(
            CorrelationId::parse("Ab-1:x/Y+z=").unwrap().as_str(),
            "Ab-1:x/Y+z="
        );
        for text in ["", "a b", "a\nb", "a\"", "é"] {
            assert!(CorrelationId::parse(text).is_err(), "{text:?}");
        }
        let made = CorrelationId::generate(&SeededRandom::new(1));
        assert_eq!(made.as_str().len(), 32);
        assert_eq!(CorrelationId::parse(made.as_str()), Ok(made));
    }

    #[test]
    fn policy_versions_have_one_spelling() {
        let version = PolicyVersion::parse("tenant:acme@7").unwrap();
        assert_eq!((version.tenant.as_str(), version.number), ("acme", 7));
        assert_eq!(version.to_string(), "tenant:acme@7");
        for text in [
            "acme@7",
            "tenant:acme",
            "tenant:acme@",
            "tenant:acme@0",
            "tenant:acme@07",
            "tenant:acme@+7",
            "tenant:@1",
        ] {
            assert!(PolicyVersion::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_folding_is_idempotent(text in "\\PC{0,140}") {
            if let Ok(tenant) = TenantId::parse(&text) {
                prop_assert_eq!(TenantId::parse(tenant.as_str()), Ok(tenant.clone()));
                prop_assert_eq!(tenant.as_str(), text.to_ascii_lowercase());
                prop_assert!(!tenant.is_system());
            }
            let _ = (SiloId::parse(&text), StreamName::parse(&text), CorrelationId::parse(&text));
            let _ = (PolicyVersion::parse(&text), RecordId::parse(&text));
        }

        #[test]
        fn every_text_of_the_grammar_is_a_tenant(text in "[A-Za-z0-9][A-Za-z0-9._-]{0,127}") {
            let tenant = TenantId::parse(&text).unwrap();
            let upper = TenantId::parse(&text.to_ascii_uppercase()).unwrap();
            prop_assert_eq!(&tenant, &upper);
            let json = serde_json::to_string(&tenant).unwrap();
            prop_assert_eq!(serde_json::from_str::<TenantId>(&json).unwrap(), tenant);
        }
    }
}
