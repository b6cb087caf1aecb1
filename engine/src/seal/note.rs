//! Signed notes, as C2SP signed-note (<https://c2sp.org/signed-note>) has them: a text, an empty line, and a line for each
//! signature.
//!
//! ```text
//! <text, each line ended>
//! <empty line>
//! — <key name> <base64 of key id (4 bytes) ‖ signature>
//! ```
//! A key is named by whoever has it, without spaces and plus signs, and written down for those who check as a **verifier
//! key**, `<name>+<key id in hex>+<base64 of type (1 byte) ‖ public key>`. The key id is the first 4 bytes of
//! SHA-256(name ‖ 0x0a ‖ type ‖ public key). Type 1 is Ed25519 over the text. Signatures by keys that nobody here knows
//! are passed over, as the specification wants it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::keys::signed_by;
use sha2::{Digest as _, Sha256};

/// What a note has at most, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 << 10;
/// Signatures that a note has at most.
const SIGNATURES_MAX: usize = 64;
const SIGNATURE_LINE: &str = "\u{2014} ";
const ED25519: u8 = 1;
pub(super) const KEY_ID_BYTES: usize = 4;
const ED25519_BYTES: usize = 64;

/// A text that is no note, or no verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text is not of the form that C2SP signed-note has")]
pub struct MalformedNote;

/// A text and its signatures, none of them checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// One line of signature.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    key_id: [u8; KEY_ID_BYTES],
    signature: Vec<u8>,
}

/// A public key under the name of whoever signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl Note {
    /// A note of this text, which ends with a line feed, and with no signature yet.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self {
            text,
            signatures: Vec::new(),
        }
    }

    /// Reads a note.
    ///
    /// # Errors
    /// If it is not of the form, or too large to be one of ours.
    pub fn parse(bytes: &[u8]) -> Result<Self, MalformedNote> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(MalformedNote);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| MalformedNote)?;
        let is_control = |character: char| character < ' ' && character != '\n';
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(MalformedNote)?;
        if note.contains(is_control) {
            return Err(MalformedNote);
        }
        let lines = signatures.strip_suffix('\n').ok_or(MalformedNote)?;
        let signatures: Vec<_> = lines
            .split('\n')
            .take(SIGNATURES_MAX + 1)
            .map(Signature::parse)
            .collect::<Result<_, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(MalformedNote);
        }
        Ok(Self {
            text: format!("{text}\n"),
            signatures,
        })
    }

    /// The text that is signed.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The same note with this signature over its text.
    #[must_use]
    pub fn signed(self, key: &VerifierKey, signature: [u8; ED25519_BYTES]) -> Self {
        self.with_line(&key.name, key.id(), signature.to_vec())
    }

    /// Whether this key signed the text.
    #[must_use]
    pub fn is_signed_by(&self, key: &VerifierKey) -> bool {
        self.lines_of(&key.name, key.id()).any(|line| {
            let signature = <&[u8; ED25519_BYTES]>::try_from(line);
            signature.is_ok_and(|signature| signed_by(&key.key, self.text.as_bytes(), signature))
        })
    }

    pub(super) fn with_line(
        mut self,
        name: &str,
        key_id: [u8; KEY_ID_BYTES],
        signature: Vec<u8>,
    ) -> Self {
        self.signatures.push(Signature {
            name: name.to_owned(),
            key_id,
            signature,
        });
        self
    }

    /// The signatures that are said to be this key's.
    pub(super) fn lines_of(
        &self,
        name: &str,
        key_id: [u8; KEY_ID_BYTES],
    ) -> impl Iterator<Item = &[u8]> {
        let lines = self.signatures.iter();
        let own = lines.filter(move |line| line.name == name && line.key_id == key_id);
        own.map(|line| line.signature.as_slice())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        f.write_str("\n")?;
        for line in &self.signatures {
            let bytes = [line.key_id.as_slice(), &line.signature].concat();
            let (name, bytes) = (&line.name, BASE64.encode(bytes));
            writeln!(f, "{SIGNATURE_LINE}{name} {bytes}")?;
        }
        Ok(())
    }
}

impl Signature {
    fn parse(line: &str) -> Result<Self, MalformedNote> {
        let rest = line.strip_prefix(SIGNATURE_LINE).ok_or(MalformedNote)?;
        let (name, bytes) = rest.split_once(' ').ok_or(MalformedNote)?;
        let bytes = BASE64.decode(bytes).map_err(|_| MalformedNote)?;
        let (key_id, signature) = bytes.split_first_chunk().ok_or(MalformedNote)?;
        if !is_name(name) || signature.is_empty() {
            return Err(MalformedNote);
        }
        Ok(Self {
            name: name.to_owned(),
            key_id: *key_id,
            signature: signature.to_vec(),
        })
    }
}

impl VerifierKey {
    /// An Ed25519 key under this name.
    ///
    /// # Errors
    /// If the name is none.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, MalformedNote> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key,
        })
    }

    /// Reads a verifier key.
    ///
    /// # Errors
    /// If it is none of type 1.
    pub fn parse(text: &str) -> Result<Self, MalformedNote> {
        let (name, key) = parse_key(text, ED25519)?;
        Self::new(name, key)
    }

    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> [u8; KEY_ID_BYTES] {
        key_id(&self.name, ED25519, &self.key)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&key_text(&self.name, ED25519, &self.key))
    }
}

/// The id of a key of this type.
pub(super) fn key_id(name: &str, kind: u8, key: &[u8; 32]) -> [u8; KEY_ID_BYTES] {
    let digest: [u8; 32] = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', kind])
        .chain_update(key)
        .finalize()
        .into();
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

/// The verifier key of a key of this type.
pub(super) fn key_text(name: &str, kind: u8, key: &[u8; 32]) -> String {
    let id = u32::from_be_bytes(key_id(name, kind, key));
    let key = [[kind].as_slice(), key].concat();
    format!("{name}+{id:08x}+{}", BASE64.encode(key))
}

/// The name and the key of a verifier key of this type.
pub(super) fn parse_key(text: &str, kind: u8) -> Result<(&str, [u8; 32]), MalformedNote> {
    let read = || {
        // Base64 has plus signs too.
        let (name, rest) = text.split_once('+')?;
        let (_, key) = rest.split_once('+')?;
        let key = BASE64.decode(key).ok()?;
        let (kind_of, key) = key.split_first()?;
        let key: [u8; 32] = key.try_into().ok()?;
        let is_one = *kind_of == kind && key_text(name, kind, &key) == text;
        is_one.then_some((name, key))
    };
    read().ok_or(MalformedNote)
}

/// # Errors
/// If no key may be called so.
pub(super) fn check_name(name: &str) -> Result<(), MalformedNote> {
    if is_name(name) {
        Ok(())
    } else {
        Err(MalformedNote)
    }
}

/// Whether a key may be called so.
fn is_name(name: &str) -> bool {
    let is_apart = |character: char| character.is_whitespace() || character == '+';
    !name.is_empty() && !name.contains(is_apart)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's Go implementation (golang.org/x/mod/sumdb/note), from its documentation.
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    fn key() -> VerifierKey {
        VerifierKey::parse(KEY).unwrap()
    }

    #[test]
    fn the_example_of_the_other_implementation_holds() {
        let note = Note::parse(NOTE.as_bytes()).unwrap();
        assert_eq!(key().to_string(), KEY);
        assert!(note.is_signed_by(&key()));
        assert_eq!(note.to_string(), NOTE);
        assert!(note.text().ends_with("problem is.\n"));
        let changed = NOTE.replace("don't", "do");
        let changed = Note::parse(changed.as_bytes()).unwrap();
        assert!(!changed.is_signed_by(&key()));
        let other = VerifierKey::new("EnochRoot", key().key).unwrap();
        assert!(!note.is_signed_by(&other));
    }

    #[test]
    fn signatures_of_strangers_are_passed_over() {
        let stranger = VerifierKey::new("stranger", [7; 32]).unwrap();
        let note = Note::new("text\n".to_owned()).signed(&stranger, [3; 64]);
        assert!(!note.is_signed_by(&stranger));
        let both = NOTE.to_owned()
            + note
                .to_string()
                .lines()
                .last()
                .map(|line| format!("{line}\n"))
                .unwrap()
                .as_str();
        assert!(Note::parse(both.as_bytes()).unwrap().is_signed_by(&key()));
    }

    #[test]
    fn what_is_no_note_is_refused() {
        for text in [
            "",
            "\n",
            "text\n",
            "text\n\n",
            "text\n\n\u{2014} name\n",
            "text\n\n\u{2014} name AAAA\n",
            "text\n\n\u{2014} name AAAAAA==",
            "text\n\n- name AAAAAAA=\n",
            "text\n\n\u{2014} na+me AAAAAAA=\n",
            "te\rxt\n\n\u{2014} name AAAAAAA=\n",
            "text\n\n\u{2014} name AAAAAAA=\n\u{2014}",
        ] {
            assert_eq!(Note::parse(text.as_bytes()), Err(MalformedNote), "{text:?}");
        }
        assert!(Note::parse("text\n\n\u{2014} name AAAAAAA=\n".as_bytes()).is_ok());
        let long = "x".repeat(NOTE_BYTES_MAX) + NOTE;
        assert_eq!(Note::parse(long.as_bytes()), Err(MalformedNote));
        for name in ["", "a b", "a+b", "a\nb"] {
            assert_eq!(VerifierKey::new(name, [0; 32]), Err(MalformedNote));
        }
    }
}
