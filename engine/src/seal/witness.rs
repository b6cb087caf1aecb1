//! What a log and a witness say to each other, as C2SP tlog-witness (<https://c2sp.org/tlog-witness>) has it: the body of
//! `add-checkpoint`, and when a witness cosigns.
//!
//! ```text
//! old <leaves of the checkpoint that the witness cosigned last, 0 for none>
//! <base64 of a hash>            the consistency proof from there, a line for each hash
//! <empty line>
//! <the checkpoint, a signed note>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::merkle::{Frontier, Hash, verify_consistency};
use super::note::Note;

/// Hashes that a proof has at most.
const PROOF_MAX: usize = 63;

/// The first three lines of any log's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which log.
    pub origin: String,
    /// How many leaves it has.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Head {
    /// Reads them; what follows is the log's own.
    #[must_use]
    pub fn of(note: &Note) -> Option<Self> {
        let mut lines = note.text().lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let head = Self {
            origin: origin.to_owned(),
            size: size.parse().ok()?,
            root: BASE64.decode(root).ok()?.try_into().ok()?,
        };
        let is_one = !origin.is_empty() && head.size.to_string() == size;
        is_one.then_some(head)
    }
}

/// A checkpoint that a witness is asked to cosign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// How many leaves the one had that it cosigned last.
    pub old: u64,
    /// That the log of then is the beginning of this one.
    pub proof: Vec<Hash>,
    /// The checkpoint.
    pub note: Note,
    /// What it says.
    pub head: Head,
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwitnessed {
    /// The request is not of the form, or the log has become smaller.
    Form,
    /// It has cosigned a checkpoint of so many leaves last.
    Other(u64),
    /// The proof does not lead from there to this checkpoint.
    Inconsistent,
}

impl AddCheckpoint {
    /// Reads a request.
    ///
    /// # Errors
    /// [`Unwitnessed::Form`].
    pub fn parse(body: &[u8]) -> Result<Self, Unwitnessed> {
        let read = || {
            let text = std::str::from_utf8(body).ok()?;
            let (lines, note) = text.split_once("\n\n")?;
            let mut lines = lines.lines();
            let old = lines.next()?.strip_prefix("old ")?;
            let proof: Option<Vec<Hash>> = lines
                .take(PROOF_MAX + 1)
                .map(|line| BASE64.decode(line).ok()?.try_into().ok())
                .collect();
            let note = Note::parse(note.as_bytes()).ok()?;
            let request = Self {
                old: old.parse().ok()?,
                proof: proof?,
                head: Head::of(&note)?,
                note,
            };
            let is_one = request.old.to_string() == old && request.proof.len() <= PROOF_MAX;
            is_one.then_some(request)
        };
        read().ok_or(Unwitnessed::Form)
    }

    /// The body of a request.
    #[must_use]
    pub fn body(old: u64, proof: &[Hash], note: &str) -> String {
        let proof: String = proof
            .iter()
            .map(|hash| BASE64.encode(hash) + "\n")
            .collect();
        format!("old {old}\n{proof}\n{note}")
    }

    /// Whether a witness that cosigned `last` of this log, if any, can cosign this.
    ///
    /// # Errors
    /// If it cannot.
    pub fn follows(&self, last: Option<&Head>) -> Result<(), Unwitnessed> {
        let empty = Head {
            origin: self.head.origin.clone(),
            size: 0,
            root: Frontier::default().root(),
        };
        let last = last.unwrap_or(&empty);
        if self.old > self.head.size {
            return Err(Unwitnessed::Form);
        }
        if self.old != last.size {
            return Err(Unwitnessed::Other(last.size));
        }
        if self.old == self.head.size && self.head.root != last.root {
            return Err(Unwitnessed::Other(last.size));
        }
        let (old, new) = ((last.size, &last.root), (self.head.size, &self.head.root));
        if verify_consistency(old, new, &self.proof) {
            Ok(())
        } else {
            Err(Unwitnessed::Inconsistent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(size: u8) -> Hash {
        let mut tree = Frontier::default();
        (0..size).for_each(|leaf| tree.push([leaf; 32]));
        tree.root()
    }

    fn request(old: u64, proof: &[Hash], size: u8, root: Hash) -> AddCheckpoint {
        let note = format!(
            "log\n{size}\n{}\n\n\u{2014} log AAAAAAA=\n",
            BASE64.encode(root)
        );
        AddCheckpoint::parse(AddCheckpoint::body(old, proof, &note).as_bytes()).unwrap()
    }

    #[test]
    fn a_witness_goes_along_with_a_log_that_only_grows() {
        let two = request(0, &[], 2, root(2));
        assert_eq!(two.follows(None), Ok(()));
        assert_eq!(two.head.origin, "log");
        let last = Some(&two.head);
        assert_eq!(request(2, &[], 2, root(2)).follows(last), Ok(()));
        assert_eq!(
            request(2, &[], 2, root(3)).follows(last),
            Err(Unwitnessed::Other(2))
        );
        assert_eq!(
            request(0, &[], 3, root(3)).follows(last),
            Err(Unwitnessed::Other(2))
        );
        assert_eq!(request(2, &[[2; 32]], 3, root(3)).follows(last), Ok(()));
        assert_eq!(
            request(2, &[[3; 32]], 3, root(3)).follows(last),
            Err(Unwitnessed::Inconsistent)
        );
        assert_eq!(
            request(2, &[], 3, root(3)).follows(last),
            Err(Unwitnessed::Inconsistent)
        );
        assert_eq!(
            request(2, &[], 1, root(1)).follows(last),
            Err(Unwitnessed::Form)
        );
        assert_eq!(
            request(0, &[[1; 32]], 2, root(2)).follows(None),
            Err(Unwitnessed::Inconsistent)
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let hash = BASE64.encode([0; 32]);
        let note = format!("log\n2\n{hash}\n\n\u{2014} log AAAAAAA=\n");
        for body in [
            String::new(),
            format!("old 2\n{note}"),
            format!("old 02\n\n{note}"),
            format!("old x\n\n{note}"),
            format!("old 2\nAAAA\n\n{note}"),
            format!("old 2\n{}\n{note}", format!("{hash}\n").repeat(64)),
            format!("old 2\n\n{}", note.replace("\n2\n", "\n02\n")),
            format!("old 2\n\n{}", note.replace("log\n2", "\n2")),
            format!("old 2\n\nlog\n2\n{hash}\n"),
        ] {
            assert_eq!(
                AddCheckpoint::parse(body.as_bytes()),
                Err(Unwitnessed::Form),
                "{body}"
            );
        }
        assert!(AddCheckpoint::parse(format!("old 2\n\n{note}").as_bytes()).is_ok());
    }
}
