//! Cosignatures: a witness says that it has seen a checkpoint, and none that contradicts it.
//!
//! As C2SP tlog-cosignature (<https://c2sp.org/tlog-cosignature>) has them, `cosignature/v1`: a line of the checkpoint's
//! note, of type 4, with 8 bytes of time (big endian, seconds since 1970) and the Ed25519 signature of
//! ```text
//! cosignature/v1
//! time <the time, decimal>
//! <the text of the note>
//! ```
//! A witness is known by its verifier key, as those of [`super::note`], of type 4.

use std::fmt;

use catalog::keys::signed_by;

use super::note::{self, KEY_ID_BYTES, MalformedNote, Note};

const ED25519: u8 = 4;
const TIME_BYTES: usize = 8;

/// The public key of a witness under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    key: [u8; 32],
}

impl WitnessKey {
    /// A key under this name.
    ///
    /// # Errors
    /// If the name is none.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, MalformedNote> {
        note::check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// Reads a verifier key.
    ///
    /// # Errors
    /// If it is none of a witness.
    pub fn parse(text: &str) -> Result<Self, MalformedNote> {
        let (name, key) = note::parse_key(text, ED25519)?;
        Self::new(name, key)
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    fn id(&self) -> [u8; KEY_ID_BYTES] {
        note::key_id(&self.name, ED25519, &self.key)
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&note::key_text(&self.name, ED25519, &self.key))
    }
}

/// What a witness signs of a note at a time.
#[must_use]
pub fn message(time: u64, note: &Note) -> Vec<u8> {
    format!("cosignature/v1\ntime {time}\n{}", note.text()).into_bytes()
}

impl Note {
    /// The same note with this cosignature, which is made at this time.
    #[must_use]
    pub fn cosigned(self, key: &WitnessKey, time: u64, signature: [u8; 64]) -> Self {
        let bytes = [&time.to_be_bytes()[..], &signature].concat();
        self.with_line(&key.name, key.id(), bytes)
    }

    /// Whether the witness cosigned it.
    #[must_use]
    pub fn is_cosigned_by(&self, key: &WitnessKey) -> bool {
        self.cosignature(self, key).is_some()
    }

    /// The cosignature of this note that another one of the same text has.
    fn cosignature<'n>(&self, other: &'n Self, key: &WitnessKey) -> Option<&'n [u8]> {
        other.lines_of(&key.name, key.id()).find(|line| {
            let Some((time, signature)) = line.split_first_chunk::<TIME_BYTES>() else {
                return false;
            };
            let message = message(u64::from_be_bytes(*time), self);
            let signature = <&[u8; 64]>::try_from(signature);
            signature.is_ok_and(|signature| signed_by(&key.key, &message, signature))
        })
    }

    /// The same note with the cosignature of this witness that another one has, and nothing else of it.
    pub(super) fn with_cosignature_of(&self, key: &WitnessKey, other: &Self) -> Option<Self> {
        let line = self.cosignature(other, key)?.to_vec();
        Some(self.clone().with_line(&key.name, key.id(), line))
    }

    /// How many of these witnesses cosigned it, each counted once.
    #[must_use]
    pub fn cosigners(&self, keys: &[WitnessKey]) -> usize {
        let mut counted: Vec<&[u8; 32]> = Vec::new();
        for key in keys.iter().filter(|key| self.is_cosigned_by(key)) {
            if !counted.contains(&&key.key) {
                counted.push(&key.key);
            }
        }
        counted.len()
    }
}

#[cfg(test)]
mod tests {
    use catalog::clock::SystemRandom;
    use catalog::keys::OwnKey;

    use super::*;

    #[test]
    fn a_cosignature_is_of_one_text_time_and_witness() {
        let folder = tempfile::tempdir().unwrap();
        let key = OwnKey::open(&folder.path().join("one"), &SystemRandom).unwrap();
        let witness = WitnessKey::new("witness.example/one", key.public()).unwrap();
        assert_eq!(WitnessKey::parse(&witness.to_string()), Ok(witness.clone()));
        let note = Note::new("log\n7\nroot\n".to_owned());
        let signature = key.sign(&message(1_700_000_000, &note));
        let signed = note.clone().cosigned(&witness, 1_700_000_000, signature);
        assert!(signed.is_cosigned_by(&witness));
        let read = Note::parse(signed.to_string().as_bytes()).unwrap();
        let again = WitnessKey::new("other.example", key.public()).unwrap();
        let twice = read
            .clone()
            .cosigned(&again, 5, key.sign(&message(5, &note)));
        assert_eq!(
            twice.cosigners(&[witness.clone(), again.clone(), witness.clone()]),
            1
        );
        assert_eq!(read.cosigners(&[again]), 0);
        let later = note.clone().cosigned(&witness, 1_700_000_001, signature);
        assert!(!later.is_cosigned_by(&witness));
        let other = Note::new("log\n8\nroot\n".to_owned());
        assert!(
            !other
                .cosigned(&witness, 1_700_000_000, signature)
                .is_cosigned_by(&witness)
        );
        let verifier = note::VerifierKey::new("witness.example/one", key.public()).unwrap();
        assert!(!signed.is_signed_by(&verifier));
        assert_eq!(WitnessKey::parse(&verifier.to_string()), Err(MalformedNote));
        // What a witness answers beside its cosignature stays behind.
        let garbage = (0..40).fold(note.clone(), |note, time| {
            note.cosigned(&witness, time, [7; 64])
        });
        let answer = garbage.cosigned(&witness, 5, key.sign(&message(5, &note)));
        let adopted = note.with_cosignature_of(&witness, &answer).unwrap();
        assert_eq!(adopted.to_string().matches('\u{2014}').count(), 1);
        assert!(adopted.is_cosigned_by(&witness));
        assert_eq!(later.with_cosignature_of(&witness, &later), None);
        let text = witness.to_string();
        for other in [
            text.replace("one+", "two+"),
            text.replacen('+', " ", 1),
            text[..text.len() - 4].to_owned(),
        ] {
            assert_eq!(WitnessKey::parse(&other), Err(MalformedNote), "{other}");
        }
    }
}
