//! Checkpoints: what a log is at one moment, in a text that is signed.
//!
//! The text is that of C2SP tlog-checkpoint (<https://c2sp.org/tlog-checkpoint>), with three lines of extension:
//! ```text
//! <origin>
//! <number of leaves>
//! <base64 of the root>
//! tableVersion <version of the Delta log that has just these leaves>
//! fileSetRoot <base64 of the digest of the data files of that version>
//! tableLogDigest <base64 of the digest of the entries of the Delta log up to that version>
//! ```
//! How the two digests are made stands in `engine::table`, in `file_set` and `log`: so every byte of every file and entry
//! is signed, also where it is no record's.
//!
//! The origin is `trailhouse.dev/log/` and 32 hexadecimal digits in lower case, numbers are decimal without leading zeros,
//! and base64 is the padded one of RFC 4648, section 4, here. The origin says of nobody whose log it is; seals and records do. The signature is the tenant's signing key's, under
//! the name of the origin. Everything in the text is committed before it is signed, and Ed25519 signs without chance, so
//! that whoever signs again signs the same bytes: there are no two checkpoints of one table version that differ.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::keys::{PublicKeys, SigningKeyId};

use super::cosignature::WitnessKey;
use super::merkle::Hash;
use super::note::{MalformedNote, Note, VerifierKey};

const ORIGIN: &str = "trailhouse.dev/log/";
const TABLE_VERSION: &str = "tableVersion ";
const FILE_SET_ROOT: &str = "fileSetRoot ";
const TABLE_LOG_DIGEST: &str = "tableLogDigest ";

/// Why a checkpoint is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsigned {
    /// Not of the form.
    #[error("it is no checkpoint")]
    Form,
    /// None of the tenant's keys signed it.
    #[error("none of the tenant's keys signed the checkpoint")]
    Signature,
}

impl From<MalformedNote> for Unsigned {
    fn from(_: MalformedNote) -> Self {
        Self::Form
    }
}

/// The name of a log, and of the keys that sign it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The name of the log with these random bytes.
    #[must_use]
    pub fn new(id: [u8; 16]) -> Self {
        Self(format!("{ORIGIN}{:032x}", u128::from_be_bytes(id)))
    }

    /// The name of a log as it stands in a checkpoint.
    ///
    /// # Errors
    /// If it is none of ours.
    pub fn parse(text: &str) -> Result<Self, Unsigned> {
        let id = text.strip_prefix(ORIGIN).ok_or(Unsigned::Form)?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if id.len() != 32 || !id.bytes().all(is_digit) {
            return Err(Unsigned::Form);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that signs this log.
    ///
    /// # Errors
    /// Never: the name of a log is a name for its keys.
    pub fn verifier_key(&self, key: &[u8; 32]) -> Result<VerifierKey, Unsigned> {
        Ok(VerifierKey::new(&self.0, *key)?)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a log is at one version of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: Origin,
    /// How many leaves it has.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// The version of the table.
    pub table_version: u64,
    /// The digest of its data files.
    pub file_set_root: Hash,
    /// The digest of its log's entries.
    pub table_log_digest: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n{TABLE_VERSION}{}\n{FILE_SET_ROOT}{}\n{TABLE_LOG_DIGEST}{}\n",
            self.origin,
            self.size,
            BASE64.encode(self.root),
            self.table_version,
            BASE64.encode(self.file_set_root),
            BASE64.encode(self.table_log_digest),
        )
    }

    /// Reads what a signed note says, without asking whose signatures it has.
    ///
    /// # Errors
    /// If it is no note, or says no checkpoint.
    pub fn unverified(note: &[u8]) -> Result<Self, Unsigned> {
        let note = Note::parse(note)?;
        Self::parse(note.text())
    }

    /// Reads the text; there is one for each checkpoint.
    ///
    /// # Errors
    /// If it is no checkpoint.
    pub fn parse(text: &str) -> Result<Self, Unsigned> {
        let mut lines = text.lines();
        let mut line = |prefix| lines.next()?.strip_prefix(prefix);
        let hash = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        let mut read = || {
            Some(Self {
                origin: Origin::parse(line("")?).ok()?,
                size: line("")?.parse().ok()?,
                root: hash(line("")?)?,
                table_version: line(TABLE_VERSION)?.parse().ok()?,
                file_set_root: hash(line(FILE_SET_ROOT)?)?,
                table_log_digest: hash(line(TABLE_LOG_DIGEST)?)?,
            })
        };
        let checkpoint = read().ok_or(Unsigned::Form)?;
        if checkpoint.to_text() == text {
            Ok(checkpoint)
        } else {
            Err(Unsigned::Form)
        }
    }
}

/// A checkpoint with its signatures, one of which was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
    key: SigningKeyId,
}

impl SignedCheckpoint {
    /// A checkpoint and the signature of its text.
    ///
    /// # Errors
    /// If the key did not sign it.
    pub fn new(
        checkpoint: Checkpoint,
        (id, key): (SigningKeyId, &[u8; 32]),
        signature: [u8; 64],
    ) -> Result<Self, Unsigned> {
        let key = checkpoint.origin.verifier_key(key)?;
        let note = Note::new(checkpoint.to_text()).signed(&key, signature);
        if !note.is_signed_by(&key) {
            return Err(Unsigned::Signature);
        }
        Ok(Self {
            checkpoint,
            note,
            key: id,
        })
    }

    /// Reads a checkpoint that one of these keys signed.
    ///
    /// # Errors
    /// If it is no checkpoint, or none of them did.
    pub fn verify(note: &[u8], keys: &PublicKeys) -> Result<Self, Unsigned> {
        let note = Note::parse(note)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        let signer = keys.iter().find(|(_, key)| {
            let key = checkpoint.origin.verifier_key(key);
            key.is_ok_and(|key| note.is_signed_by(&key))
        });
        let (id, _) = signer.ok_or(Unsigned::Signature)?;
        Ok(Self {
            key: id.clone(),
            checkpoint,
            note,
        })
    }

    /// What is signed.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The tenant's key that signed it.
    #[must_use]
    pub fn key(&self) -> &SigningKeyId {
        &self.key
    }

    /// The whole of it as a note, with all signatures.
    #[must_use]
    pub fn note(&self) -> &Note {
        &self.note
    }

    /// The same with the cosignature of a witness that is among these lines of signatures.
    ///
    /// # Errors
    /// If there is none.
    pub fn cosigned(&self, key: &WitnessKey, lines: &str) -> Result<Self, Unsigned> {
        let theirs = Note::parse(format!("{}\n{lines}", self.note.text()).as_bytes())?;
        let note = self.note.with_cosignature_of(key, &theirs);
        Ok(Self {
            note: note.ok_or(Unsigned::Signature)?,
            ..self.clone()
        })
    }

    /// The whole of it, as it is given out.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.note.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: Origin::new([0xa5; 16]),
            size: 20_852_163,
            root: [7; 32],
            table_version: 12,
            file_set_root: [9; 32],
            table_log_digest: [1; 32],
        }
    }

    const TEXT: &str = "trailhouse.dev/log/a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\n20852163\n\
        BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\ntableVersion 12\n\
        fileSetRoot CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n\
        tableLogDigest AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";

    #[test]
    fn a_checkpoint_has_one_text() {
        assert_eq!(checkpoint().to_text(), TEXT);
        assert_eq!(Checkpoint::parse(TEXT), Ok(checkpoint()));
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "+20852163"),
            ("20852163", "-1"),
            ("a5\n", "A5\n"),
            ("a5\n", "\n"),
            ("trailhouse.dev/log", "example.org/log"),
            ("tableVersion 12", "tableVersion  12"),
            ("tableVersion 12\n", ""),
            ("BwcH", "BwcI"),
            ("QE=\n", "QE=\n\n"),
            ("QE=\n", "QE="),
            ("QE=\n", "QE=\nother 1\n"),
        ] {
            let other = TEXT.replacen(from, to, 1);
            assert_ne!(Checkpoint::parse(&other), Ok(checkpoint()), "{other}");
            if !to.starts_with("Bwc") {
                assert_eq!(Checkpoint::parse(&other), Err(Unsigned::Form), "{other}");
            }
        }
    }
}
