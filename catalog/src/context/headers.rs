//! What a request says beside its token: HTTP headers and gRPC metadata, which are the same to us.

use std::collections::BTreeSet;

use crate::clock::Random;
use crate::guard::Denial;
use crate::ids::{CorrelationId, TenantId};

use super::attributes::Attributes;
use super::role::Role;

/// Characters of the longest free text taken from a header.
const TEXT_MAX: usize = 256;

/// The headers we know, as they came. What they mean is decided against the token, in [`super::TenantContext::resolve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressHeaders {
    /// Everything that names a tenant.
    tenants: Vec<String>,
    roles: Vec<String>,
    data_silo: Option<String>,
    edition: Option<String>,
    purpose: Option<String>,
    trace_id: Option<String>,
    correlation: CorrelationId,
}

impl IngressHeaders {
    /// Picks ours out of all headers; names in any case. The correlation id is the trace id of a valid `traceparent`,
    /// else a valid `x-correlation-id`, else random. Never fails: what cannot be right is found in `resolve`, where the
    /// token says into whose evidence it goes.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        random: &dyn Random,
    ) -> Self {
        let (mut tenants, mut roles) = (Vec::new(), Vec::new());
        let (mut data_silo, mut edition, mut purpose, mut trace_id, mut correlation) =
            (None, None, None, None, None);
        for (name, value) in pairs {
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "x-tenant-id" | "tenant" => tenants.push(value.to_owned()),
                "x-trailhouse-role" => roles.push(value.to_owned()),
                "x-data-silo" => data_silo = free_text(value),
                "x-edition" => edition = free_text(value),
                "x-purpose" => purpose = free_text(value),
                "traceparent" => trace_id = trace_id_of(value),
                "x-correlation-id" => correlation = CorrelationId::parse(value).ok(),
                _ => {}
            }
        }
        let traced = trace_id
            .as_deref()
            .and_then(|id| CorrelationId::parse(id).ok());
        let correlation = traced
            .or(correlation)
            .unwrap_or_else(|| CorrelationId::generate(random));
        Self {
            tenants,
            roles,
            data_silo,
            edition,
            purpose,
            trace_id,
            correlation,
        }
    }

    /// Ties this request together; to be given back in the answer, whatever becomes of the request.
    #[must_use]
    pub fn correlation(&self) -> &CorrelationId {
        &self.correlation
    }

    /// The silo the caller expects: noted in logs, and never decided upon.
    #[must_use]
    pub fn data_silo(&self) -> Option<&str> {
        self.data_silo.as_deref()
    }

    /// The one tenant that all headers name.
    pub(super) fn tenant(&self) -> Result<Option<TenantId>, Denial> {
        let mut named: Option<TenantId> = None;
        for text in &self.tenants {
            let tenant = TenantId::from_stored(text).map_err(|_| Denial::InvalidTenantFormat)?;
            if named.as_ref().is_some_and(|named| *named != tenant) {
                return Err(Denial::TenantMismatch);
            }
            named = Some(tenant);
        }
        Ok(named)
    }

    /// The role the caller wants to act in, which must be one of theirs.
    pub(super) fn chosen_role(&self, own: &BTreeSet<Role>) -> Result<Option<Role>, Denial> {
        let Some((first, rest)) = self.roles.split_first() else {
            return Ok(None);
        };
        let role = Role::parse_profile(first).filter(|role| own.contains(role));
        let one = rest.iter().all(|other| other == first);
        match role {
            Some(role) if one => Ok(Some(role)),
            Some(_) | None => Err(Denial::Forbidden {
                needs: "one role that the token has, where a role is chosen",
            }),
        }
    }

    /// The attributes of the token, which headers can only confirm: one that the token does not have, or has otherwise,
    /// is refused rather than passed over, so that nobody believes they were served for a purpose that did not count.
    pub(super) fn confirm(&self, attributes: Attributes) -> Result<Attributes, Denial> {
        let said = |header: &Option<String>, claim: &Option<String>| match header {
            Some(header) => claim.as_ref() == Some(header),
            None => true,
        };
        if said(&self.edition, &attributes.edition) && said(&self.purpose, &attributes.purpose) {
            Ok(attributes)
        } else {
            Err(Denial::Forbidden {
                needs: "a token that has the purpose and the edition that the headers name",
            })
        }
    }

    /// The W3C trace id, 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }
}

fn free_text(value: &str) -> Option<String> {
    let good = !value.is_empty()
        && value.chars().count() <= TEXT_MAX
        && !value.chars().any(char::is_control);
    good.then(|| value.to_owned())
}

/// The trace id of a `traceparent` (W3C Trace Context): `version-trace-parent-flags`, hexadecimal in lower case, ids
/// not all zero, version not `ff`, and nothing more in version 00.
fn trace_id_of(value: &str) -> Option<String> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |part: &str, digits: usize| {
        part.len() == digits
            && part
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    let good = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2);
    good.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use crate::clock::SeededRandom;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn headers(pairs: &[(&str, &str)]) -> IngressHeaders {
        IngressHeaders::from_pairs(pairs.iter().copied(), &SeededRandom::new(1))
    }

    #[test]
    fn the_trace_id_is_preferred_as_correlation() {
        let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let both = headers(&[("X-Correlation-Id", "mine"), ("Traceparent", &traceparent)]);
        assert_eq!(
            (both.correlation().as_str(), both.trace_id()),
            (TRACE, Some(TRACE))
        );
        assert_eq!(
            headers(&[("x-correlation-id", " mine ")])
                .correlation()
                .as_str(),
            "mine"
        );
        assert_eq!(
            headers(&[("x-correlation-id", "no spaces")])
                .correlation()
                .as_str()
                .len(),
            32
        );
        assert_ne!(headers(&[]).correlation().as_str(), "");
    }

    #[test]
    fn malformed_traceparents_are_ignored() {
        for value in [
            "",
            "00",
            &format!("00-{TRACE}-00f067aa0ba902b7-01-extra"),
            &format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
        ] {
            assert_eq!(
                headers(&[("traceparent", value)]).trace_id(),
                None,
                "{value}"
            );
        }
        let later = format!("01-{TRACE}-00f067aa0ba902b7-01-what-comes");
        assert_eq!(headers(&[("traceparent", &later)]).trace_id(), Some(TRACE));
    }

    #[test]
    fn free_texts_are_bounded() {
        let long = "x".repeat(TEXT_MAX + 1);
        for value in ["", "a\u{7}b", &long] {
            assert_eq!(headers(&[("x-purpose", value)]).purpose, None);
        }
        assert_eq!(
            headers(&[("X-Purpose", "audit 2026")]).purpose.as_deref(),
            Some("audit 2026")
        );
    }
}
