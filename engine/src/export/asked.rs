//! What is asked for: which records, in which format, what for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use catalog::clock::Timestamp;
use catalog::guard::Decision;
use catalog::ids::StreamName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::query::listing::{Field, Listing};
use crate::receipt::hexadecimal;

/// Characters of the longest purpose.
pub const PURPOSE_CHARACTERS_MAX: usize = 200;
const DAY_MICROS: i64 = 86_400_000_000;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Apache Parquet, compressed with zstd.
    Parquet,
    /// A JSON object a line.
    Ndjson,
}

impl Format {
    /// The format of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "parquet" => Some(Self::Parquet),
            "ndjson" => Some(Self::Ndjson),
            _ => None,
        }
    }

    /// Its name, and the extension of its files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Ndjson => "ndjson",
        }
    }

    pub(super) const fn compression(self) -> &'static str {
        match self {
            Self::Parquet => "zstd",
            Self::Ndjson => "none",
        }
    }
}

/// An export as it is asked for. Tenant, silo, masks and policy are not the caller's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Asked {
    /// Of this stream.
    pub stream: StreamName,
    /// Created then or later.
    pub from: Option<Timestamp>,
    /// Created before.
    pub until: Option<Timestamp>,
    /// With one of these values in each of these fields.
    pub filters: BTreeMap<Field, BTreeSet<String>>,
    /// Written so.
    pub format: Format,
    /// What for.
    pub purpose: Option<String>,
}

impl Asked {
    /// Checks what is asked against the policy of the decision.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, decision: &Decision) -> Result<(), Error> {
        let policy = &decision.policy.bundle.export;
        if !policy.formats.contains(self.format.as_str()) {
            let allowed: Vec<_> = policy.formats.iter().map(String::as_str).collect();
            return Err(Error::UnsupportedFormat {
                allowed: allowed.join(" or "),
            });
        }
        match self.purpose.as_deref() {
            None if policy.purpose_required => {
                return Err(Error::invalid(
                    "the tenant's policy wants to know what an export is for: say so in `purpose`",
                ));
            }
            Some(purpose)
                if purpose.trim().is_empty()
                    || purpose.chars().count() > PURPOSE_CHARACTERS_MAX
                    || purpose.chars().any(char::is_control) =>
            {
                return Err(Error::invalid(format!(
                    "a purpose has 1 to {PURPOSE_CHARACTERS_MAX} characters, none of them a control character"
                )));
            }
            _ => {}
        }
        self.check_range(policy.max_days)
    }

    fn check_range(&self, days_max: Option<u32>) -> Result<(), Error> {
        let range = self.from.zip(self.until);
        if range.is_some_and(|(from, until)| from >= until) {
            return Err(Error::invalid("timeRange.from is before timeRange.to"));
        }
        let Some(days_max) = days_max else {
            return Ok(());
        };
        let within = range.is_some_and(|(from, until)| {
            until.as_micros() - from.as_micros() <= i64::from(days_max) * DAY_MICROS
        });
        if within {
            Ok(())
        } else {
            Err(Error::invalid(format!(
                "the tenant's policy allows exports of at most {days_max} days: give timeRange.from and timeRange.to"
            )))
        }
    }

    /// The records of it.
    #[must_use]
    pub fn listing(&self) -> Listing {
        Listing {
            stream: Some(self.stream.clone()),
            from: self.from,
            until: self.until,
            filters: self.filters.clone(),
            ..Listing::default()
        }
    }

    /// Bounds how many records there are, where the policy does.
    pub(super) fn check_records(records: u64, records_max: Option<u64>) -> Result<(), Error> {
        match records_max.filter(|records_max| records > *records_max) {
            Some(records_max) => Err(Error::TooLarge {
                detail: format!("{records} records, of {records_max} at most"),
            }),
            None => Ok(()),
        }
    }

    /// Names the request: the same of the same caller, who sees the same, is the same export while that is under way.
    pub(super) fn fingerprint(&self, decision: &Decision) -> Result<String, Error> {
        let asked = serde_json::to_vec(self).map_err(|_| Error::Internal)?;
        let mut hash = Sha256::new_with_prefix(b"trailhouse export request 1\0");
        for part in [
            decision.subject.as_bytes(),
            decision.policy.version.to_string().as_bytes(),
            sight(decision).as_bytes(),
            &asked,
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Ok(hexadecimal(&hash.finalize()))
    }

    /// The folder that its files lie in has this part: `<from>-<to>`.
    pub(super) fn range_name(&self) -> String {
        let moment = |moment: Option<Timestamp>| {
            let text = moment.map_or_else(|| "open".to_owned(), |moment| moment.to_string());
            text.replace([':', '-'], "")
        };
        format!("{}-{}", moment(self.from), moment(self.until))
    }
}

/// Names what a caller sees of records: the masks field by field, and the rows.
pub(super) fn sight(decision: &Decision) -> String {
    let mut told = format!("{}\n", decision.profile.name);
    for (path, rule) in &decision.profile.fields {
        // Writing to a text does not fail.
        let _ = writeln!(told, "{path} {rule}");
    }
    if let Some(rows) = &decision.rows {
        let _ = writeln!(told, "rows {}", rows.predicate);
    }
    hexadecimal(&Sha256::digest(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            stream: StreamName::audit_default(),
            from: Some(Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").unwrap()),
            until: Some(Timestamp::parse_rfc3339("2026-02-01T00:00:00Z").unwrap()),
            filters: BTreeMap::new(),
            format: Format::Parquet,
            purpose: None,
        }
    }

    #[test]
    fn a_range_is_bounded_on_both_sides_where_the_policy_bounds_it() {
        let asked = asked();
        assert!(asked.check_range(None).is_ok());
        assert!(asked.check_range(Some(31)).is_ok());
        assert!(asked.check_range(Some(30)).is_err());
        let open = Asked {
            until: None,
            ..asked.clone()
        };
        assert!(open.check_range(None).is_ok());
        assert!(open.check_range(Some(31)).is_err());
        let turned = Asked {
            from: asked.until,
            until: asked.from,
            ..asked
        };
        assert!(turned.check_range(None).is_err());
    }

    #[test]
    fn folders_are_named_by_their_range() {
        let expected = "20260101T000000.000000Z-20260201T000000.000000Z";
        assert_eq!(asked().range_name(), expected);
        let open = Asked {
            from: None,
            ..asked()
        };
        assert_eq!(open.range_name(), "open-20260201T000000.000000Z");
    }
}
