//! What a token says about itself: issuer, audience and time, checked against the clock that was handed in.

use std::time::Duration;

use catalog::clock::Timestamp;
use serde_json::{Map, Value};

use super::Refusal;

/// What the claims are held against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) audience: &'a str,
    pub(super) leeway: Duration,
    pub(super) now: Timestamp,
}

/// Checks the registered claims; gives the moment the token ends.
pub(super) fn check(
    claims: &Map<String, Value>,
    expected: Expected<'_>,
) -> Result<Timestamp, Refusal> {
    if claims.get("iss").and_then(Value::as_str) != Some(expected.issuer) {
        return Err(Refusal::Issuer);
    }
    if !audience_matches(claims.get("aud"), expected.audience) {
        return Err(Refusal::Audience);
    }
    let ends = date(claims, "exp")?.ok_or(Refusal::NoExpiry)?;
    if expected.now >= ends.plus(expected.leeway) {
        return Err(Refusal::Expired);
    }
    if let Some(begins) = date(claims, "nbf")?
        && expected.now.plus(expected.leeway) < begins
    {
        return Err(Refusal::NotYet);
    }
    Ok(ends)
}

fn audience_matches(claim: Option<&Value>, audience: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A NumericDate (RFC 7519): seconds since 1970, with or without a fraction.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, Refusal> {
    /// The year 9999: what lies beyond is no date but a trick with overflows.
    const SECONDS_MAX: f64 = 253_402_300_799.0;
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value.as_f64().ok_or(Refusal::Malformed)?;
    if !(0.0..=SECONDS_MAX).contains(&seconds) {
        return Err(Refusal::Malformed);
    }
    let moment = Timestamp::from_micros(0).plus(Duration::from_secs_f64(seconds));
    Ok(Some(moment))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(claims: Value) -> Result<Timestamp, Refusal> {
        let expected = Expected {
            issuer: "https://id.example",
            audience: "trailhouse",
            leeway: Duration::from_secs(60),
            now: Timestamp::from_micros(1_000_000_000),
        };
        check(claims.as_object().unwrap(), expected)
    }

    fn good() -> Value {
        json!({"iss": "https://id.example", "aud": "trailhouse", "exp": 2000})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = good();
        claims[name] = value;
        claims
    }

    fn without(name: &str) -> Value {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    #[test]
    fn good_claims_pass_and_give_their_end() {
        assert_eq!(checked(good()), Ok(Timestamp::from_micros(2_000_000_000)));
        assert!(checked(with("aud", json!(["other", "trailhouse"]))).is_ok());
        assert!(checked(with("exp", json!(2000.5))).is_ok());
    }

    #[test]
    fn the_issuer_is_compared_whole() {
        for issuer in [
            json!("https://id.example/"),
            json!("HTTPS://ID.EXAMPLE"),
            json!(["https://id.example"]),
            Value::Null,
        ] {
            assert_eq!(checked(with("iss", issuer)), Err(Refusal::Issuer));
        }
        assert_eq!(checked(without("iss")), Err(Refusal::Issuer));
    }

    #[test]
    fn the_audience_has_to_be_ours() {
        for audience in [json!("other"), json!([]), json!(["other"]), json!(7)] {
            assert_eq!(checked(with("aud", audience)), Err(Refusal::Audience));
        }
        assert_eq!(checked(without("aud")), Err(Refusal::Audience));
    }

    #[test]
    fn time_is_checked_with_leeway_on_both_sides() {
        assert_eq!(checked(without("exp")), Err(Refusal::NoExpiry));
        assert_eq!(checked(with("exp", json!(940))), Err(Refusal::Expired));
        assert!(checked(with("exp", json!(941))).is_ok());
        assert_eq!(checked(with("nbf", json!(1061))), Err(Refusal::NotYet));
        assert!(checked(with("nbf", json!(1060))).is_ok());
    }

    #[test]
    fn dates_that_are_none_are_malformed() {
        for date in [json!("2000"), json!(-1), json!(1e300), json!(null)] {
            assert_eq!(checked(with("exp", date)), Err(Refusal::Malformed));
        }
    }
}
