//! Which records are meant: their stream, their time and what they have in their fields, as requests say it.

use catalog::clock::Timestamp;
use catalog::ids::StreamName;
use engine::query::listing::{FIELDS_MAX, Field, Listing, VALUES_MAX};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::problem::{Problem, Slug};

/// Characters of the longest value that is compared with.
const VALUE_CHARACTERS_MAX: usize = 4_096;

/// From when, and before when.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeRange {
    from: Option<String>,
    to: Option<String>,
}

impl TimeRange {
    /// Has the listing keep to this time.
    pub(super) fn narrow(&self, listing: &mut Listing) -> Result<(), Problem> {
        listing.from = instant("timeRange.from", self.from.as_deref())?;
        listing.until = instant("timeRange.to", self.to.as_deref())?;
        Ok(())
    }
}

/// Has the listing keep to these values: a text a field, or a list of them.
pub(super) fn filters(listing: &mut Listing, filters: Map<String, Value>) -> Result<(), Problem> {
    for (name, values) in filters {
        let values = match values {
            Value::Array(values) => values,
            one => vec![one],
        };
        if values.is_empty() {
            return Err(invalid(format!("the filter {name:?} has no value")));
        }
        for value in values {
            let text = || {
                invalid(format!(
                    "the filter {name:?} takes a text, or a list of texts"
                ))
            };
            filter(listing, &name, value.as_str().ok_or_else(text)?)?;
        }
    }
    Ok(())
}

/// One value more that a field may have.
pub(super) fn filter(listing: &mut Listing, name: &str, value: &str) -> Result<(), Problem> {
    let field = Field::parse(name).ok_or_else(|| {
        let detail = format!(
            "there is no filter {name:?}; there are action, resource.type, resource.id, actor.type, actor.id and labels.<name>"
        );
        Problem::new(Slug::UnsupportedFilter, detail)
    })?;
    if value.chars().count() > VALUE_CHARACTERS_MAX {
        let detail = format!("a value has at most {VALUE_CHARACTERS_MAX} characters");
        return Err(invalid(detail));
    }
    let values = listing.filters.entry(field).or_default();
    values.insert(value.to_owned());
    if values.len() > VALUES_MAX || listing.filters.len() > FIELDS_MAX {
        let detail =
            format!("a question has at most {FIELDS_MAX} fields, and each {VALUES_MAX} values");
        return Err(invalid(detail));
    }
    Ok(())
}

/// The stream of this name.
pub(super) fn stream(name: &str) -> Result<StreamName, Problem> {
    StreamName::parse(name).map_err(|_| invalid("stream is not the name of one"))
}

/// A moment, if there is one.
pub(super) fn instant(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let instant = text.map(Timestamp::parse_rfc3339).transpose();
    instant.map_err(|_| invalid(format!("{name} is a time as 2026-01-31T00:00:00Z")))
}

/// What is asked cannot be.
pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Slug::InvalidQuery, detail.into())
}
