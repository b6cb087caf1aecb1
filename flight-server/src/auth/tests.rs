//! Whole tokens against a whole authenticator.

use std::path::Path;

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use catalog::clock::{ManualClock, SeededRandom, Timestamp};
use catalog::keys::SecretKey;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::developer::TokenRequest;
use super::*;
use crate::config;

const NOW_S: i64 = 1_800_000_000;
const ISSUER: &str = "https://id.example";

struct World {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    key: SigningKey,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new(Timestamp::from_micros(NOW_S * 1_000_000))),
            key: SigningKey::from_bytes(&[5; 32]),
        };
        let x = URL_SAFE_NO_PAD.encode(world.key.verifying_key().as_bytes());
        let keys = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "one", "use": "sig", "x": x},
            // The trap for servers that let the token choose: our public key as a shared secret.
            {"kty": "oct", "kid": "two", "alg": "HS256", "k": x},
        ]});
        std::fs::write(world.folder.path().join("jwks.json"), keys.to_string()).unwrap();
        world
    }

    fn authenticator(&self) -> Authenticator {
        let jwks = self.folder.path().join("jwks.json");
        let file = format!(
            "[[auth.issuers]]\nissuer='{ISSUER}'\naudience='trailhouse'\njwks='{}'",
            jwks.display()
        );
        let config = config::from_text(&file, []).unwrap();
        Authenticator::new(
            &config.auth,
            None,
            no_jobs(),
            Arc::clone(&self.clock) as Arc<dyn Clock>,
        )
        .unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

fn header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT", "kid": "one"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "trailhouse", "sub": "u1", "tenant": "acme", "exp": NOW_S + 300})
}

fn changed(mut object: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(object.as_object_mut().unwrap().remove(name)),
        value => object[name] = value,
    }
    object
}

async fn verified(world: &World, token: &str) -> Result<VerifiedClaims, Refusal> {
    world.authenticator().verify(token).await
}

#[tokio::test]
async fn a_good_token_gives_its_claims() {
    let world = World::new();
    let claims = verified(&world, &world.token(&header(), &claims()))
        .await
        .unwrap();
    assert_eq!(claims.issuer, ISSUER);
    assert_eq!(claims.profile, ClaimProfile::Generic);
    assert_eq!(claims.claims["tenant"], "acme");
    assert_eq!(claims.expires_at.as_micros(), (NOW_S + 300) * 1_000_000);
}

#[tokio::test]
async fn bad_tokens_are_refused_each_for_its_reason() {
    let world = World::new();
    let with_claim = |name, value| world.token(&header(), &changed(claims(), name, value));
    let with_header = |name, value| world.token(&changed(header(), name, value), &claims());
    let cases = [
        (with_claim("exp", json!(NOW_S - 60)), Refusal::Expired),
        (with_claim("exp", Value::Null), Refusal::NoExpiry),
        (with_claim("nbf", json!(NOW_S + 61)), Refusal::NotYet),
        (with_claim("aud", json!("another")), Refusal::Audience),
        (with_claim("aud", Value::Null), Refusal::Audience),
        (with_claim("iss", json!("https://id.evil")), Refusal::Issuer),
        (with_claim("iss", json!(developer::ISSUER)), Refusal::Issuer),
        (with_claim("iss", Value::Null), Refusal::Issuer),
        (with_header("kid", json!("three")), Refusal::UnknownKey),
        (with_header("kid", json!("two")), Refusal::UnknownKey),
        (with_header("alg", json!("none")), Refusal::Algorithm),
        (with_header("alg", json!("HS256")), Refusal::Algorithm),
        (with_header("alg", json!("ES256")), Refusal::UnknownKey),
        ("not a token".to_owned(), Refusal::Malformed),
        (String::new(), Refusal::Malformed),
    ];
    for (token, refusal) in cases {
        assert_eq!(
            verified(&world, &token).await.unwrap_err(),
            refusal,
            "{token}"
        );
    }
}

#[tokio::test]
async fn the_public_key_is_no_shared_secret() {
    let world = World::new();
    let secret = world.key.verifying_key().to_bytes();
    let key = jsonwebtoken::EncodingKey::from_secret(&secret);
    for kid in ["one", "two"] {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
        assert_eq!(
            verified(&world, &token).await.unwrap_err(),
            Refusal::Algorithm
        );
    }
}

#[tokio::test]
async fn a_token_without_signature_or_with_another_one_is_refused() {
    let world = World::new();
    let unsigned = format!("{}.", message(&header(), &claims()));
    assert_eq!(
        verified(&world, &unsigned).await.unwrap_err(),
        Refusal::Signature
    );
    let good = world.token(&header(), &claims());
    let (_, signature) = good.rsplit_once('.').unwrap();
    let other = changed(claims(), "tenant", json!("globex"));
    let moved = format!("{}.{signature}", message(&header(), &other));
    assert_eq!(
        verified(&world, &moved).await.unwrap_err(),
        Refusal::Signature
    );
}

#[tokio::test]
async fn a_token_without_kid_is_taken_while_there_is_one_key() {
    let world = World::new();
    let token = world.token(&changed(header(), "kid", Value::Null), &claims());
    assert!(verified(&world, &token).await.is_ok());
}

#[tokio::test]
async fn the_callers_answer_names_no_reason() {
    let world = World::new();
    let authenticator = world.authenticator();
    let good = world.token(&header(), &claims());
    for bad in [
        None,
        Some(String::new()),
        Some(good.clone()),
        Some(format!("Basic {good}")),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {good}x")),
    ] {
        let answer = authenticator.authenticate(bad.as_deref()).await;
        assert_eq!(answer.unwrap_err(), Denial::InvalidToken);
    }
    let scheme = format!("bearer {good}");
    assert!(authenticator.authenticate(Some(&scheme)).await.is_ok());
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_not_the_tokens_fault() {
    let world = World::new();
    std::fs::remove_file(world.folder.path().join("jwks.json")).unwrap();
    let authorization = format!("Bearer {}", world.token(&header(), &claims()));
    let answer = world
        .authenticator()
        .authenticate(Some(&authorization))
        .await;
    assert_eq!(answer.unwrap_err(), Denial::Unavailable);
}

#[tokio::test]
async fn a_login_takes_the_token_as_password() {
    let world = World::new();
    let authenticator = world.authenticator();
    let good = world.token(&header(), &claims());
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    for user in ["", "anybody", "with spaces", "a", "an"] {
        let padded = basic(format!("{user}:{good}"));
        let bare = padded.trim_end_matches('=');
        assert!(authenticator.login(Some(bare)).await.is_ok(), "{user}");
        let authorization = padded;
        let (claims, token) = authenticator.login(Some(&authorization)).await.unwrap();
        assert_eq!((claims.issuer.as_str(), token), (ISSUER, good.clone()));
    }
    assert!(
        authenticator
            .login(Some(&format!("Bearer {good}")))
            .await
            .is_ok()
    );
    for bad in [
        basic(good.clone()),
        basic(format!("{good}:x")),
        "Basic ?".to_owned(),
    ] {
        let answer = authenticator.login(Some(&bad)).await;
        assert_eq!(answer.unwrap_err(), Denial::InvalidToken);
    }
    assert_eq!(
        authenticator.login(None).await.unwrap_err(),
        Denial::InvalidToken
    );
}

/// The tokens of a process whose key service has not answered.
fn no_jobs() -> Arc<JobTokens> {
    Arc::new(JobTokens::new(|| None))
}

#[tokio::test]
async fn a_token_of_a_job_without_a_key_to_tell_is_nobodys_fault() {
    let world = World::new();
    let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"});
    let claims =
        json!({"iss": jobs::ISSUER, "aud": "trailhouse", "sub": "x", "exp": 4_000_000_000_u64});
    let token = format!("Bearer {}", world.token(&header, &claims));
    let config = config::from_text("", []).unwrap();
    let clock = || Arc::clone(&world.clock) as Arc<dyn Clock>;
    let authenticator = Authenticator::new(&config.auth, None, no_jobs(), clock()).unwrap();
    let answer = authenticator.authenticate(Some(&token)).await;
    assert_eq!(answer.unwrap_err(), Denial::Unavailable);
    let own = Arc::new(JobTokens::new(|| Some(SecretKey::new([7; 32]))));
    let authenticator = Authenticator::new(&config.auth, None, own, clock()).unwrap();
    let answer = authenticator.authenticate(Some(&token)).await;
    assert_eq!(answer.unwrap_err(), Denial::InvalidToken);
}

#[tokio::test]
async fn the_development_issuers_tokens_are_verified_like_any_other() {
    let world = World::new();
    let keys: &Path = world.folder.path();
    let developer = Developer::open(keys, &SeededRandom::new(3)).unwrap();
    let config = config::from_text("", []).unwrap();
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let authenticator =
        Authenticator::new(&config.auth, Some(&developer), no_jobs(), clock).unwrap();
    let request = TokenRequest {
        subject: "dev".to_owned(),
        tenant: Some("acme".to_owned()),
        roles: vec!["Audit.Reader".to_owned()],
        scopes: vec!["audit.read".to_owned(), "audit.write".to_owned()],
        data_silo: None,
        ..TokenRequest::default()
    };
    let token = developer.mint(&request, Duration::from_secs(60), world.clock.now());
    let claims = authenticator.verify(&token).await.unwrap();
    assert_eq!(claims.subject(), Ok("dev".to_owned()));
    assert_eq!(claims.tenant().unwrap().unwrap().as_str(), "acme");
    assert_eq!(claims.roles().len(), 1);
    assert_eq!(claims.scopes().len(), 2);
    world.clock.advance(Duration::from_secs(120));
    assert_eq!(
        authenticator.verify(&token).await.unwrap_err(),
        Refusal::Expired
    );
    let other = Developer::open(&keys.join("other"), &SeededRandom::new(4)).unwrap();
    let forged = other.mint(&request, Duration::from_secs(60), world.clock.now());
    assert_eq!(
        authenticator.verify(&forged).await.unwrap_err(),
        Refusal::UnknownKey
    );
}

/// RFC 7515, appendices A.2 and A.3: both are signed over this payload, which has no audience.
const RFC_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RS256_HEADER: &str = "eyJhbGciOiJSUzI1NiJ9";
const RS256_MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256_SIGNATURE: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const ES256_HEADER: &str = "eyJhbGciOiJFUzI1NiJ9";
const ES256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const ES256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const ES256_SIGNATURE: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

#[tokio::test]
async fn the_vectors_of_rfc_7515_verify_and_their_neighbours_do_not() {
    let world = World::new();
    let keys = json!({"keys": [
        {"kty": "RSA", "n": RS256_MODULUS, "e": "AQAB"},
        {"kty": "EC", "crv": "P-256", "x": ES256_X, "y": ES256_Y},
    ]});
    let jwks = world.folder.path().join("rfc.json");
    std::fs::write(&jwks, keys.to_string()).unwrap();
    let file = format!(
        "[[auth.issuers]]\nissuer='joe'\naudience='trailhouse'\njwks='{}'",
        jwks.display()
    );
    let config = config::from_text(&file, []).unwrap();
    let clock = Arc::clone(&world.clock) as Arc<dyn Clock>;
    let authenticator = Authenticator::new(&config.auth, None, no_jobs(), clock).unwrap();
    for (header, signature) in [
        (RS256_HEADER, RS256_SIGNATURE),
        (ES256_HEADER, ES256_SIGNATURE),
    ] {
        let token = format!("{header}.{RFC_PAYLOAD}.{signature}");
        // Past the signature, and then refused for the audience that it lacks.
        assert_eq!(
            authenticator.verify(&token).await.unwrap_err(),
            Refusal::Audience
        );
        let other = signature.replacen(&signature[..1], "A", 1);
        let token = format!("{header}.{RFC_PAYLOAD}.{other}");
        assert_eq!(
            authenticator.verify(&token).await.unwrap_err(),
            Refusal::Signature
        );
    }
}
