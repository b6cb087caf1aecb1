//! What a verified token says of its bearer beyond roles: the attributes that policies may ask about.
//!
//! Only claims count. A header is the caller's own word, and a policy that believed it would protect nothing.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::ids::SiloId;

/// Characters of the longest attribute.
pub const ATTRIBUTE_CHARS_MAX: usize = 128;

/// An attribute by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// What the customer has bought.
    Edition,
    /// The part of the organisation the caller belongs to.
    OrgUnit,
    /// What the token may be used for.
    Purpose,
    /// The silo the token is bound to.
    DataSilo,
}

/// The attributes of one caller; what the token does not say is missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Attributes {
    /// See [`Attribute::Edition`].
    #[serde(deserialize_with = "stored_value")]
    pub edition: Option<String>,
    /// See [`Attribute::OrgUnit`].
    #[serde(deserialize_with = "stored_value")]
    pub org_unit: Option<String>,
    /// See [`Attribute::Purpose`].
    #[serde(deserialize_with = "stored_value")]
    pub purpose: Option<String>,
    /// See [`Attribute::DataSilo`].
    pub data_silo: Option<SiloId>,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Edition, Self::OrgUnit, Self::Purpose, Self::DataSilo];

    /// The name in policies and evidence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Edition => "edition",
            Self::OrgUnit => "orgUnit",
            Self::Purpose => "purpose",
            Self::DataSilo => "dataSilo",
        }
    }

    /// Reads the name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|attribute| attribute.as_str() == text)
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Attributes {
    /// The value of one, if the token has it.
    #[must_use]
    pub fn get(&self, attribute: Attribute) -> Option<&str> {
        match attribute {
            Attribute::Edition => self.edition.as_deref(),
            Attribute::OrgUnit => self.org_unit.as_deref(),
            Attribute::Purpose => self.purpose.as_deref(),
            Attribute::DataSilo => self.data_silo.as_ref().map(SiloId::as_str),
        }
    }

    /// Those that are there, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (Attribute, &str)> {
        Attribute::ALL
            .into_iter()
            .filter_map(|attribute| Some((attribute, self.get(attribute)?)))
    }
}

/// Whether a text can be the value of an attribute.
pub(super) fn is_value(text: &str) -> bool {
    let length = text.chars().count();
    (1..=ATTRIBUTE_CHARS_MAX).contains(&length) && !text.chars().any(char::is_control)
}

/// A stored one is no other than one that a token may have.
fn stored_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Option::<String>::deserialize(deserializer)?;
    if value.as_deref().is_none_or(is_value) {
        Ok(value)
    } else {
        Err(de::Error::custom("not a value of an attribute"))
    }
}
