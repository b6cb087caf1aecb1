//! A key service that does not answer when a test says so.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use catalog::ids::SiloId;
use catalog::keys::{KeyError, KeyId, Kms, LocalKms, SecretKey, SigningKeyId};
use futures::FutureExt;
use futures::future::BoxFuture;

/// The local key service, which goes away and comes back.
#[derive(Debug)]
pub struct Outage {
    kms: LocalKms,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Of a thousand questions, how many get no answer.
    silent_permille: u64,
    chance: u64,
    unanswered: u64,
    used: BTreeSet<String>,
    spared: BTreeSet<String>,
}

type Answer<'f, T> = BoxFuture<'f, Result<T, KeyError>>;

impl Outage {
    /// The key service, there for now. Chance comes from the seed.
    pub fn of(kms: LocalKms, seed: u64) -> Self {
        Self {
            kms,
            state: Mutex::new(State {
                silent_permille: 0,
                chance: seed | 1,
                unanswered: 0,
                used: BTreeSet::new(),
                spared: BTreeSet::new(),
            }),
        }
    }

    /// From now on so many of a thousand questions get no answer.
    pub fn silence(&self, permille: u64) {
        self.lock().silent_permille = permille;
    }

    /// Keys that were used so far are always answered for: those of the server itself.
    pub fn spare_used(&self) {
        let mut state = self.lock();
        state.spared = state.used.clone();
    }

    /// No key is answered for any more because it was used before.
    pub fn spare_none(&self) {
        self.lock().spared.clear();
    }

    /// How many questions got no answer.
    pub fn unanswered(&self) -> u64 {
        self.lock().unanswered
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, key: Option<&str>) -> Result<(), KeyError> {
        let mut state = self.lock();
        if let Some(key) = key {
            state.used.insert(key.to_owned());
            if state.spared.contains(key) {
                return Ok(());
            }
        }
        // Xorshift: the same seed, the same outages.
        state.chance ^= state.chance << 13;
        state.chance ^= state.chance >> 7;
        state.chance ^= state.chance << 17;
        if state.chance % 1_000 < state.silent_permille {
            state.unanswered += 1;
            return Err(KeyError::unavailable("the key service is away"));
        }
        Ok(())
    }

    /// The answer, unless there is none.
    fn answered<'f, T: Send + 'f>(
        &self,
        key: Option<&str>,
        answer: Answer<'f, T>,
    ) -> Answer<'f, T> {
        match self.ask(key) {
            Ok(()) => answer,
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }
}

impl Kms for Outage {
    fn create<'s, 'a, 'f>(&'s self, silo: &'a SiloId) -> Answer<'f, KeyId>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        let create = async move {
            let id = self.kms.create(silo).await?;
            self.lock().used.insert(id.opaque().to_owned());
            Ok(id)
        };
        self.answered(None, create.boxed())
    }

    fn wrap<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        key: &'a KeyId,
        aad: &'b [u8],
        secret: &'c SecretKey,
    ) -> Answer<'f, Vec<u8>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.wrap(key, aad, secret))
    }

    fn unwrap<'s, 'a, 'b, 'c, 'f>(
        &'s self,
        key: &'a KeyId,
        aad: &'b [u8],
        wrapped: &'c [u8],
    ) -> Answer<'f, SecretKey>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.unwrap(key, aad, wrapped))
    }

    fn rotate<'s, 'a, 'f>(&'s self, key: &'a KeyId) -> Answer<'f, KeyId>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.rotate(key))
    }

    fn disable<'s, 'a, 'f>(&'s self, key: &'a KeyId) -> Answer<'f, ()>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.disable(key))
    }

    fn destroy<'s, 'a, 'f>(&'s self, key: &'a KeyId) -> Answer<'f, ()>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.destroy(key))
    }

    fn probe<'s, 'f>(&'s self) -> Answer<'f, ()>
    where
        's: 'f,
        Self: 'f,
    {
        self.answered(None, self.kms.probe())
    }

    fn create_signing<'s, 'a, 'f>(&'s self, silo: &'a SiloId) -> Answer<'f, SigningKeyId>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        let create = async move {
            let id = self.kms.create_signing(silo).await?;
            self.lock().used.insert(id.opaque().to_owned());
            Ok(id)
        };
        self.answered(None, create.boxed())
    }

    fn rotate_signing<'s, 'a, 'f>(&'s self, key: &'a SigningKeyId) -> Answer<'f, SigningKeyId>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.rotate_signing(key))
    }

    fn sign<'s, 'a, 'b, 'f>(
        &'s self,
        key: &'a SigningKeyId,
        message: &'b [u8],
    ) -> Answer<'f, [u8; 64]>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.sign(key, message))
    }

    fn public_key<'s, 'a, 'f>(&'s self, key: &'a SigningKeyId) -> Answer<'f, [u8; 32]>
    where
        's: 'f,
        'a: 'f,
        Self: 'f,
    {
        self.answered(Some(key.opaque()), self.kms.public_key(key))
    }
}
