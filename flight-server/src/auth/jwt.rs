//! A compact JWS taken apart, and its signature checked. Three algorithms, nothing negotiable.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Refusal;
use crate::limits::TOKEN_BYTES_MAX;

const KEY_ID_BYTES_MAX: usize = 256;

/// A token that nobody has vouched for yet. Its claims only say which issuer's keys to try.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    claims: Map<String, Value>,
    message: &'a str,
    signature: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Takes a token apart, refusing every form that is not exactly the expected one.
    pub(super) fn parse(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::TooLong);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
        if payload.contains('.') {
            return Err(Refusal::Malformed);
        }
        let header: Header = json(header)?;
        if header.crit.is_some() {
            // An extension that must be understood, and we understand none (RFC 7515, 4.1.11).
            return Err(Refusal::Critical);
        }
        let typ = header.typ.as_deref().unwrap_or("JWT");
        if !["jwt", "at+jwt", "application/at+jwt"].contains(&typ.to_ascii_lowercase().as_str()) {
            // Logout tokens and the like are signed with the same keys.
            return Err(Refusal::TokenType);
        }
        if header
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > KEY_ID_BYTES_MAX)
        {
            return Err(Refusal::Malformed);
        }
        Ok(Self {
            algorithm: algorithm(&header.alg)?,
            key_id: header.kid,
            claims: json(payload)?,
            message,
            signature,
        })
    }

    /// Which issuer claims to have made it.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// The claims, if the key vouches for them.
    pub(super) fn verify(self, key: &DecodingKey) -> Result<Map<String, Value>, Refusal> {
        let message = self.message.as_bytes();
        match jsonwebtoken::crypto::verify(self.signature, message, key, self.algorithm) {
            Ok(true) => Ok(self.claims),
            Ok(false) | Err(_) => Err(Refusal::Signature),
        }
    }
}

/// The allow-list. `none` and the symmetric family are not on it, whatever keys a set may hold.
fn algorithm(name: &str) -> Result<Algorithm, Refusal> {
    match name {
        "EdDSA" => Ok(Algorithm::EdDSA),
        "ES256" => Ok(Algorithm::ES256),
        "RS256" => Ok(Algorithm::RS256),
        _ => Err(Refusal::Algorithm),
    }
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("sig"))
    }

    #[track_caller]
    fn refused(token: &str, refusal: Refusal) {
        assert_eq!(Unverified::parse(token).unwrap_err(), refusal);
    }

    #[test]
    fn only_three_algorithms_exist() {
        for name in [
            "none", "None", "NONE", "HS256", "HS512", "RS512", "PS256", "ES384", "eddsa", "",
        ] {
            let header = format!(r#"{{"alg":"{name}"}}"#);
            refused(&token(&header, "{}"), Refusal::Algorithm);
        }
        for name in ["EdDSA", "ES256", "RS256"] {
            let header = format!(r#"{{"alg":"{name}"}}"#);
            assert!(Unverified::parse(&token(&header, "{}")).is_ok());
        }
    }

    #[test]
    fn what_is_not_exactly_three_parts_of_json_is_malformed() {
        let good = token(r#"{"alg":"EdDSA"}"#, "{}");
        for text in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            &format!("{good}.x"),
            &format!("x.{good}"),
        ] {
            refused(text, Refusal::Malformed);
        }
        refused(&token(r#"{"alg":"EdDSA"}"#, "[]"), Refusal::Malformed);
        refused(&token(r#"{"alg":7}"#, "{}"), Refusal::Malformed);
        refused(&good.replacen('.', "=.", 1), Refusal::Malformed);
    }

    #[test]
    fn other_kinds_of_token_and_critical_extensions_are_refused() {
        refused(
            &token(r#"{"alg":"EdDSA","typ":"logout+jwt"}"#, "{}"),
            Refusal::TokenType,
        );
        refused(
            &token(r#"{"alg":"EdDSA","crit":["b64"]}"#, "{}"),
            Refusal::Critical,
        );
        assert!(Unverified::parse(&token(r#"{"alg":"EdDSA","typ":"at+JWT"}"#, "{}")).is_ok());
    }

    #[test]
    fn long_tokens_are_not_looked_at() {
        refused(&"a".repeat(TOKEN_BYTES_MAX + 1), Refusal::TooLong);
        refused(&"a".repeat(TOKEN_BYTES_MAX), Refusal::Malformed);
        let header = format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, "k".repeat(257));
        refused(&token(&header, "{}"), Refusal::Malformed);
    }
}
