//! Roles and scopes: the words a token uses for what its bearer may do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A role of a person or service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `Audit.Reader`
    Reader,
    /// `Audit.Investigator`
    Investigator,
    /// `Audit.Admin`
    AuditAdmin,
    /// `Export.Operator`
    ExportOperator,
    /// `Export.Admin`
    ExportAdmin,
    /// `Compliance.Reviewer`
    ComplianceReviewer,
    /// `Security.Admin`
    SecurityAdmin,
    /// `SRE.Admin`
    SreAdmin,
}

/// A scope of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `audit.write`, or `audit.ingest`
    AuditWrite,
    /// `audit.read`
    AuditRead,
    /// `audit.export`
    AuditExport,
    /// `audit.policy.read`
    PolicyRead,
    /// `audit.policy.write`
    PolicyWrite,
    /// `audit.backfill:run`, which a job that brings in old records has, and nothing beside it
    BackfillRun,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Reader,
        Self::Investigator,
        Self::AuditAdmin,
        Self::ExportOperator,
        Self::ExportAdmin,
        Self::ComplianceReviewer,
        Self::SecurityAdmin,
        Self::SreAdmin,
    ];

    /// Reads the name as tokens spell it. Words of the identity provider's own are no roles of ours: `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Reads the name as a profile of a bundle spells it, short or long.
    #[must_use]
    pub fn parse_profile(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.profile_name() == text || role.as_str() == text)
    }

    /// The name in tokens.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "Audit.Reader",
            Self::Investigator => "Audit.Investigator",
            Self::AuditAdmin => "Audit.Admin",
            Self::ExportOperator => "Export.Operator",
            Self::ExportAdmin => "Export.Admin",
            Self::ComplianceReviewer => "Compliance.Reviewer",
            Self::SecurityAdmin => "Security.Admin",
            Self::SreAdmin => "SRE.Admin",
        }
    }

    /// The short name, which is that of the role's masking profile.
    #[must_use]
    pub const fn profile_name(self) -> &'static str {
        match self {
            Self::Reader => "Reader",
            Self::Investigator => "Investigator",
            Self::AuditAdmin => "Admin",
            Self::ExportOperator => "ExportOperator",
            Self::ExportAdmin => "ExportAdmin",
            Self::ComplianceReviewer => "ComplianceReviewer",
            Self::SecurityAdmin => "SecurityAdmin",
            Self::SreAdmin => "SreAdmin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Role {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a role"))
    }
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AuditWrite,
        Self::AuditRead,
        Self::AuditExport,
        Self::PolicyRead,
        Self::PolicyWrite,
        Self::BackfillRun,
    ];

    /// Reads the name as tokens spell it. Scopes of other products are none of ours: `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "audit.write" | "audit.ingest" => Self::AuditWrite,
            "audit.read" => Self::AuditRead,
            "audit.export" => Self::AuditExport,
            "audit.policy.read" => Self::PolicyRead,
            "audit.policy.write" => Self::PolicyWrite,
            "audit.backfill:run" => Self::BackfillRun,
            _ => return None,
        })
    }

    /// The name in tokens.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuditWrite => "audit.write",
            Self::AuditRead => "audit.read",
            Self::AuditExport => "audit.export",
            Self::PolicyRead => "audit.policy.read",
            Self::PolicyWrite => "audit.policy.write",
            Self::BackfillRun => "audit.backfill:run",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not a scope"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
            assert_eq!(Role::parse_profile(role.profile_name()), Some(role));
            assert_eq!(Role::parse_profile(role.as_str()), Some(role));
        }
        for text in ["", "audit.reader", "Reader", "Audit.Reader ", "Owner"] {
            assert_eq!(Role::parse(text), None, "{text}");
        }
        assert_eq!(Scope::parse("audit.ingest"), Some(Scope::AuditWrite));
        assert_eq!(Scope::parse("audit.export:read"), None);
        let stored = serde_json::to_string(&(Role::ALL, Scope::ALL)).unwrap();
        let read = serde_json::from_str::<([Role; 8], [Scope; 6])>(&stored).unwrap();
        assert_eq!(read, (Role::ALL, Scope::ALL));
        assert!(stored.contains("\"Export.Operator\"") && stored.contains("\"audit.export\""));
        assert!(serde_json::from_str::<Role>("\"Owner\"").is_err());
        assert!(serde_json::from_str::<Scope>("\"audit.everything\"").is_err());
    }
}
