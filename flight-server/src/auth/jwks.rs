//! An issuer's public keys: read when due, kept when their source fails, and never fetched in a flood.
//!
//! A token with an unknown `kid` may mean a new key, so it makes the set be read again, but at most once in
//! `UNKNOWN_KEY_INTERVAL`: whoever sends made-up `kid`s must not turn this server against the issuer.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use catalog::clock::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::Refusal;
use super::source::{Error, Source};
use crate::limits::JWKS_KEYS_MAX;

const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
/// Without any keys nobody can be answered at all, so the source is asked more often.
const NO_KEYS_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last good set serves while its source is unreachable.
const STALE_MAX: Duration = Duration::from_hours(24);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<[Key]>>,
    read_at: Option<Timestamp>,
    tried_at: Option<Timestamp>,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct KeySet {
    /// None for keys that never change.
    source: Option<Source>,
    refresh: Duration,
    state: RwLock<State>,
    /// Held by whoever reads the source, so that one does and the others go on with what there is.
    turn: tokio::sync::Mutex<()>,
}

impl KeySet {
    /// The set behind this source; nothing is read yet.
    pub(super) fn new(source: Source, refresh: Duration) -> Self {
        Self {
            source: Some(source),
            refresh,
            state: RwLock::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// A set of one Ed25519 key that never changes.
    pub(super) fn fixed(id: &str, public_key: &[u8; 32]) -> Self {
        let key = Key {
            id: Some(id.to_owned()),
            algorithm: Algorithm::EdDSA,
            key: DecodingKey::from_ed_der(public_key),
        };
        let state = State {
            keys: Some(Arc::from([key])),
            ..State::default()
        };
        Self {
            source: None,
            refresh: Duration::MAX,
            state: RwLock::new(state),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// The key that a token of this header was signed with.
    pub(super) async fn find(
        self: &Arc<Self>,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<DecodingKey, Refusal> {
        let before = self.tried_at();
        if self.is_due(now, self.refresh) {
            self.reading(now, before, self.keys(now).is_some()).await;
        }
        let before = self.tried_at();
        let found = self.pick(id, algorithm, now);
        if matches!(found, Err(Refusal::UnknownKey)) && self.is_due(now, UNKNOWN_KEY_INTERVAL) {
            self.reading(now, before, false).await;
            return self.pick(id, algorithm, now);
        }
        found
    }

    fn pick(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        now: Timestamp,
    ) -> Result<DecodingKey, Refusal> {
        let keys = self.keys(now).ok_or(Refusal::KeysUnavailable)?;
        let mut fitting = keys.iter().filter(|key| {
            // A token without `kid` is taken only if there is no choice to be made.
            key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id)
        });
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key.key.clone()),
            (None, _) => Err(Refusal::UnknownKey),
            (Some(_), Some(_)) => Err(Refusal::AmbiguousKey),
        }
    }

    fn keys(&self, now: Timestamp) -> Option<Arc<[Key]>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let age = state.read_at.and_then(|at| now.since(at));
        let keys = state.keys.as_ref()?;
        (age.unwrap_or_default() <= STALE_MAX).then(|| Arc::clone(keys))
    }

    /// Whether the source may be read again: not before `age` has passed, nor soon after the last attempt.
    fn is_due(&self, now: Timestamp, age: Duration) -> bool {
        let older = |moment: Option<Timestamp>, than: Duration| {
            moment.is_none_or(|at| now.since(at).is_some_and(|passed| passed >= than))
        };
        let pause = match self.keys(now) {
            Some(_) => UNKNOWN_KEY_INTERVAL.min(age),
            None => NO_KEYS_INTERVAL,
        };
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        self.source.is_some() && older(state.read_at, age) && older(state.tried_at, pause)
    }

    /// Has the source read. Whoever gives up their call does not give up the reading: it would leave no trace, and the
    /// next one would begin anew.
    async fn reading(
        self: &Arc<Self>,
        now: Timestamp,
        before: Option<Timestamp>,
        others_go_on: bool,
    ) {
        let own = Arc::clone(self);
        let read = tokio::spawn(async move { own.read(now, before, others_go_on).await });
        // If it panicked, there is no key.
        let _ = read.await;
    }

    /// Reads the source, unless somebody else has since `before`. With something to go on with, one caller reads and the
    /// others do not wait for it.
    async fn read(&self, now: Timestamp, before: Option<Timestamp>, others_go_on: bool) {
        let Some(source) = &self.source else {
            return;
        };
        let _turn = if others_go_on {
            match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(_) => return,
            }
        } else {
            self.turn.lock().await
        };
        if self.tried_at() != before {
            return;
        }
        let outcome = source.read().await.and_then(|bytes| parse(&bytes));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.tried_at = Some(now);
        match outcome {
            Ok(keys) => {
                state.keys = Some(keys);
                state.read_at = Some(now);
            }
            Err(error) => {
                let kept = state.keys.is_some();
                tracing::warn!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), kept, "an issuer's keys cannot be read");
            }
        }
    }

    fn tried_at(&self) -> Option<Timestamp> {
        self.state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .tried_at
    }
}

fn parse(bytes: &[u8]) -> Result<Arc<[Key]>, Error> {
    let document: Value = serde_json::from_slice(bytes).map_err(|_| Error::Malformed)?;
    let listed = document["keys"].as_array().ok_or(Error::Malformed)?;
    if listed.len() > JWKS_KEYS_MAX {
        return Err(Error::TooLarge);
    }
    let keys: Arc<[Key]> = listed.iter().filter_map(usable).collect();
    if keys.is_empty() {
        return Err(Error::NoUsableKey);
    }
    Ok(keys)
}

/// A key that may verify one of our algorithms. Others, and above all symmetric ones, are not even kept.
fn usable(entry: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(entry.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        _ => return None,
    };
    let common = &jwk.common;
    let for_signatures = match &common.public_key_use {
        None | Some(PublicKeyUse::Signature) => true,
        Some(PublicKeyUse::Encryption | PublicKeyUse::Other(_)) => false,
    };
    let for_verifying = common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let same_algorithm = common
        .key_algorithm
        .is_none_or(|named| Algorithm::try_from(named).is_ok_and(|named| named == algorithm));
    if !(for_signatures && for_verifying && same_algorithm) {
        return None;
    }
    Some(Key {
        id: common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    fn okp(kid: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode([7; 32])})
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn set_in(folder: &tempfile::TempDir, keys: &[Value]) -> Arc<KeySet> {
        write(folder, keys);
        let path = folder.path().join("jwks.json");
        Arc::new(KeySet::new(Source::File(path), Duration::from_secs(600)))
    }

    fn write(folder: &tempfile::TempDir, keys: &[Value]) {
        let text = json!({"keys": keys}).to_string();
        std::fs::write(folder.path().join("jwks.json"), text).unwrap();
    }

    async fn find(set: &Arc<KeySet>, kid: Option<&str>, seconds: i64) -> Result<(), Refusal> {
        set.find(kid, Algorithm::EdDSA, at(seconds))
            .await
            .map(|_| ())
    }

    #[test]
    fn symmetric_encryption_and_foreign_keys_are_not_kept() {
        for change in [
            json!({"kty": "oct", "k": "c2VjcmV0"}),
            json!({"use": "enc"}),
            json!({"key_ops": ["sign"]}),
            json!({"alg": "RS256"}),
            json!({"crv": "X25519"}),
        ] {
            let mut key = okp("a");
            for (name, value) in change.as_object().unwrap() {
                key[name] = value.clone();
            }
            assert!(usable(&key).is_none(), "{change}");
        }
        assert!(usable(&okp("a")).is_some());
    }

    #[tokio::test]
    async fn kid_picks_and_no_kid_needs_a_lone_key() {
        let folder = tempfile::tempdir().unwrap();
        let set = set_in(&folder, &[okp("a")]);
        assert_eq!(find(&set, Some("a"), 0).await, Ok(()));
        assert_eq!(find(&set, None, 0).await, Ok(()));
        assert_eq!(find(&set, Some("b"), 0).await, Err(Refusal::UnknownKey));
        let set = set_in(&folder, &[okp("a"), okp("b"), okp("b")]);
        assert_eq!(find(&set, None, 0).await, Err(Refusal::AmbiguousKey));
        assert_eq!(find(&set, Some("b"), 0).await, Err(Refusal::AmbiguousKey));
        let other = set.find(Some("a"), Algorithm::ES256, at(0)).await;
        assert_eq!(other.unwrap_err(), Refusal::UnknownKey);
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_does_not_give_up_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let set = set_in(&folder, &[okp("a")]);
        {
            let mut call = Box::pin(find(&set, Some("b"), 0));
            assert!(futures::poll!(&mut call).is_pending());
        }
        for _ in 0..1_000 {
            if set.tried_at().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(set.tried_at(), Some(at(0)));
    }

    #[tokio::test]
    async fn an_unknown_kid_reads_again_but_not_in_a_flood() {
        let folder = tempfile::tempdir().unwrap();
        let set = set_in(&folder, &[okp("a")]);
        assert_eq!(find(&set, Some("b"), 0).await, Err(Refusal::UnknownKey));
        write(&folder, &[okp("a"), okp("b")]);
        assert_eq!(find(&set, Some("b"), 29).await, Err(Refusal::UnknownKey));
        assert_eq!(find(&set, Some("b"), 30).await, Ok(()));
    }

    #[tokio::test]
    async fn a_removed_key_ends_when_the_set_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let set = set_in(&folder, &[okp("a")]);
        assert_eq!(find(&set, Some("a"), 0).await, Ok(()));
        write(&folder, &[okp("b")]);
        assert_eq!(find(&set, Some("a"), 599).await, Ok(()));
        assert_eq!(find(&set, Some("a"), 600).await, Err(Refusal::UnknownKey));
    }

    #[tokio::test]
    async fn a_failing_source_leaves_the_old_keys_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let set = set_in(&folder, &[okp("a")]);
        assert_eq!(find(&set, Some("a"), 0).await, Ok(()));
        std::fs::remove_file(folder.path().join("jwks.json")).unwrap();
        assert_eq!(find(&set, Some("a"), 7200).await, Ok(()));
        let after = find(&set, Some("a"), 86_401).await;
        assert_eq!(after, Err(Refusal::KeysUnavailable));
    }

    #[tokio::test]
    async fn a_source_that_never_worked_is_no_verdict_on_the_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        let set = Arc::new(KeySet::new(Source::File(path), Duration::from_secs(600)));
        assert_eq!(
            find(&set, Some("a"), 0).await,
            Err(Refusal::KeysUnavailable)
        );
        write(&folder, &[okp("a")]);
        let at_once = find(&set, Some("a"), 0).await;
        assert_eq!(at_once, Err(Refusal::KeysUnavailable), "asked just now");
        assert_eq!(find(&set, Some("a"), 1).await, Ok(()));
    }

    #[test]
    fn what_is_too_large_or_no_set_is_refused() {
        let many: Vec<_> = (0..=JWKS_KEYS_MAX).map(|n| okp(&n.to_string())).collect();
        let parsed = |value: Value| parse(value.to_string().as_bytes());
        assert!(matches!(
            parsed(json!({"keys": many})),
            Err(Error::TooLarge)
        ));
        assert!(matches!(
            parsed(json!({"keys": []})),
            Err(Error::NoUsableKey)
        ));
        assert!(matches!(parsed(json!([])), Err(Error::Malformed)));
        assert!(matches!(parse(b"{"), Err(Error::Malformed)));
    }
}
