//! Segments of a log, and the seals over them: what an hour brought, signed.
//!
//! Every row of a log is in a **segment**, named after the hour it was taken in, `seg-YYYY-MM-DDTHH` (UTC). Leaves that
//! follow each other in one segment are sealed together, once the next segment has begun, or some time after their hour is
//! over. One that comes later yet, because it waited in a write-ahead log, begins a seal of its own under the same name.
//! So the seals of a log are numbered from 0, and each begins at the leaf where the one before it ends.
//!
//! A seal is JSON of exactly one spelling, without spaces, with these members in this order, stored under its number
//! beside the log's tiles, `seal/<number, 20 digits>`:
//! ```text
//! {"format": "trailhouse-segment-seal-1", "tenantId": "…", "silo": "…", "stream": "…", "origin": "trailhouse.dev/log/…",
//!  "number": k, "segmentId": "seg-…", "firstLeaf": f, "leafCount": n, "segmentRoot": r, "prevRoot": p or null,
//!  "treeHead": {"size": f + n, "root": t}, "algo": "rfc6962-sha256+ed25519", "signedAt": "…", "keyId": "…",
//!  "signature": "…"}
//! ```
//! n is greater than 0, and f the end of the seal before; the first seal begins where the first segment does, which is
//! after leaf 0 in tables that are older than segments. r is the root (RFC 6962) over the segment's leaves alone, p that
//! of the seal before, t the root of the whole log up to the segment's end; all of them unpadded base64url of 32 bytes.
//! `signedAt` has six digits of a second and `Z`; the signature is 64 bytes in base64 of the usual alphabet, padded, and
//! `keyId` the `kid` of its key in the tenant's key set. The origin is the name that the log's checkpoints have: a seal is
//! what says whose log that is. Signed by the tenant's signing key is
//! ```text
//! "trailhouse segment seal 1\0" | tenantId | silo | stream | origin | number | segmentId | firstLeaf | leafCount
//!   | segmentRoot | prevRoot | root of treeHead | algo | signedAt
//! ```
//! Each part after the first has its length before it (u32 LE), also numbers (u64 LE) and hashes (32 bytes); where there is
//! no seal before, prevRoot is an empty part. Texts are as they stand in the JSON. What is not in it follows from the rest.
//!
//! A seal may be there before the checkpoint that says so much of the log. It has to be there as soon as another segment
//! begins below the size that a checkpoint signs; that seals of the last segments were taken away cannot be told.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::clock::Timestamp;
use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::keys::{PublicKeys, SigningKeyId, signed_by};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::checkpoint::{Origin, Unsigned};
use super::merkle::{Frontier, Hash};
use crate::record::canonical::{digest_text, read_digest};

/// How a segment is hashed and signed.
pub const ALGO: &str = "rfc6962-sha256+ed25519";
const FORMAT: &str = "trailhouse-segment-seal-1";
const DOMAIN: &[u8] = b"trailhouse segment seal 1\0";
const NAME: &str = "seg-";
const HOUR: Duration = Duration::from_secs(3_600);

/// The name of the segment that a row of this moment is in.
#[must_use]
pub fn segment_of(now: Timestamp) -> String {
    let text = now.to_string();
    format!("{NAME}{}", text.get(..13).unwrap_or(&text))
}

/// When the hour of a segment is over; `None` for what is no name of one.
#[must_use]
pub fn end_of(segment: &str) -> Option<Timestamp> {
    let hour = segment.strip_prefix(NAME)?;
    let begin = Timestamp::parse_rfc3339(&format!("{hour}:00:00Z")).ok()?;
    (segment_of(begin) == segment).then(|| begin.plus(HOUR))
}

/// Leaves of a log that are sealed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// How many seals there are before.
    pub number: u64,
    /// Its name.
    pub id: String,
    /// The number of its first leaf.
    pub first: u64,
    /// How many leaves it has.
    pub count: u64,
    /// The root over them.
    pub root: Hash,
    /// The root of the segment before.
    pub prev: Option<Hash>,
    /// The root of the whole log up to its end.
    pub tree: Hash,
}

impl Segment {
    /// Whether it begins where `before` ends, or, where none was before, is the first.
    #[must_use]
    pub fn follows(&self, before: Option<&Self>) -> bool {
        match before {
            None => self.number == 0 && self.prev.is_none(),
            Some(before) => {
                self.number == before.number + 1
                    && self.first == before.end()
                    && self.prev == Some(before.root)
            }
        }
    }

    /// The number of the leaf after its last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// Where a log's leaves go on that are not sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSegment {
    number: u64,
    id: String,
    first: u64,
    prev: Option<Hash>,
    leaves: Frontier,
}

impl OpenSegment {
    /// The one that begins a log's seals, at the leaf `first`.
    #[must_use]
    pub fn first(id: String, first: u64) -> Self {
        Self {
            number: 0,
            id,
            first,
            prev: None,
            leaves: Frontier::default(),
        }
    }

    /// The one that follows a sealed one. Its name is the same until another begins.
    #[must_use]
    pub fn after(sealed: &Segment) -> Self {
        Self {
            number: sealed.number + 1,
            id: sealed.id.clone(),
            first: sealed.end(),
            prev: Some(sealed.root),
            leaves: Frontier::default(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number of its first leaf.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.first
    }

    /// How many leaves it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.leaves.size()
    }

    /// Whether it has no leaf yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.size() == 0
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
    }

    /// Begins another segment here. What was in this one so far is to be sealed, where `tree` is the root of the log up to
    /// here.
    pub fn begin_other(&mut self, id: String, tree: Hash) -> Option<Segment> {
        let ended = (!self.is_empty()).then(|| self.end_here(tree));
        self.id = id;
        ended
    }

    /// Ends it here, where the log has this root. What comes after is of the same name, until another begins.
    pub fn end_here(&mut self, tree: Hash) -> Segment {
        let segment = Segment {
            number: self.number,
            id: self.id.clone(),
            first: self.first,
            count: self.leaves.size(),
            root: self.leaves.root(),
            prev: self.prev,
            tree,
        };
        *self = Self::after(&segment);
        segment
    }
}

/// Whose segment it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tenant.
    pub tenant: TenantId,
    /// The silo that the log lies in.
    pub silo: SiloId,
    /// The stream.
    pub stream: StreamName,
    /// The name of the log.
    pub origin: Origin,
}

/// A sealed segment: what was sealed, whose, when, and by which key. One that was read has not been verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSeal {
    /// Whose.
    pub owner: Owner,
    /// What.
    pub segment: Segment,
    /// When it was signed.
    pub signed_at: Timestamp,
    /// The key that signed it.
    pub key: SigningKeyId,
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Text {
    format: String,
    #[serde(deserialize_with = "catalog::ids::stored_tenant")]
    tenant_id: TenantId,
    silo: SiloId,
    #[serde(deserialize_with = "stored_stream")]
    stream: StreamName,
    origin: String,
    number: u64,
    segment_id: String,
    first_leaf: u64,
    leaf_count: u64,
    #[serde(with = "hash")]
    segment_root: Hash,
    #[serde(with = "hash_or_none")]
    prev_root: Option<Hash>,
    tree_head: TreeHead,
    algo: String,
    signed_at: Timestamp,
    key_id: SigningKeyId,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TreeHead {
    size: u64,
    #[serde(with = "hash")]
    root: Hash,
}

/// What is signed of a segment.
#[must_use]
pub fn message(owner: &Owner, segment: &Segment, signed_at: Timestamp) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    let prev = segment.prev.as_ref().map_or(&[][..], |prev| &prev[..]);
    for part in [
        owner.tenant.as_str().as_bytes(),
        owner.silo.as_str().as_bytes(),
        owner.stream.as_str().as_bytes(),
        owner.origin.as_str().as_bytes(),
        &segment.number.to_le_bytes(),
        segment.id.as_bytes(),
        &segment.first.to_le_bytes(),
        &segment.count.to_le_bytes(),
        &segment.root,
        prev,
        &segment.tree,
        ALGO.as_bytes(),
        signed_at.to_string().as_bytes(),
    ] {
        catalog::keys::push_prefixed(&mut message, part);
    }
    message
}

impl SegmentSeal {
    /// A segment and the signature of its [`message`].
    #[must_use]
    pub fn new(
        owner: Owner,
        segment: Segment,
        signed_at: Timestamp,
        (key, signature): (SigningKeyId, [u8; 64]),
    ) -> Self {
        Self {
            owner,
            segment,
            signed_at,
            key,
            signature,
        }
    }

    /// Reads a seal, whoever signed it. There is one text for each.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_json(json: &[u8]) -> Result<Self, Unsigned> {
        let read = || {
            let text: Text = serde_json::from_slice(json).ok()?;
            let seal = Self {
                owner: Owner {
                    tenant: text.tenant_id,
                    silo: text.silo,
                    stream: text.stream,
                    origin: Origin::parse(&text.origin).ok()?,
                },
                segment: Segment {
                    number: text.number,
                    id: text.segment_id,
                    first: text.first_leaf,
                    count: text.leaf_count,
                    root: text.segment_root,
                    prev: text.prev_root,
                    tree: text.tree_head.root,
                },
                signed_at: text.signed_at,
                key: text.key_id,
                signature: BASE64.decode(&text.signature).ok()?.try_into().ok()?,
            };
            let segment = &seal.segment;
            let is_sound = text.format == FORMAT
                && end_of(&segment.id).is_some()
                && text.algo == ALGO
                && segment.count > 0
                && segment.first.checked_add(segment.count) == Some(text.tree_head.size)
                && (segment.number == 0) == segment.prev.is_none();
            (is_sound && seal.to_json() == json).then_some(seal)
        };
        read().ok_or(Unsigned::Form)
    }

    /// Whether one of these keys signed it, the one that it names.
    ///
    /// # Errors
    /// If not.
    pub fn verify(&self, keys: &PublicKeys) -> Result<(), Unsigned> {
        let message = message(&self.owner, &self.segment, self.signed_at);
        let holds = keys
            .iter()
            .any(|(id, key)| *id == self.key && signed_by(key, &message, &self.signature));
        if holds {
            Ok(())
        } else {
            Err(Unsigned::Signature)
        }
    }

    /// The signature, as it stands in the JSON.
    #[must_use]
    pub fn signature(&self) -> String {
        BASE64.encode(self.signature)
    }

    /// The seal as it is stored and given out.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let (owner, segment) = (self.owner.clone(), &self.segment);
        let text = Text {
            format: FORMAT.to_owned(),
            tenant_id: owner.tenant,
            silo: owner.silo,
            stream: owner.stream,
            origin: owner.origin.to_string(),
            number: segment.number,
            segment_id: segment.id.clone(),
            first_leaf: segment.first,
            leaf_count: segment.count,
            segment_root: segment.root,
            prev_root: segment.prev,
            tree_head: TreeHead {
                size: segment.end(),
                root: segment.tree,
            },
            algo: ALGO.to_owned(),
            signed_at: self.signed_at,
            key_id: self.key.clone(),
            signature: self.signature(),
        };
        // Texts and numbers always have a form.
        serde_json::to_vec(&text).unwrap_or_default()
    }
}

fn stored_stream<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StreamName, D::Error> {
    let text = String::deserialize(deserializer)?;
    StreamName::parse(&text).map_err(serde::de::Error::custom)
}

mod hash {
    use serde::de::Error as _;

    use super::{Deserialize, Deserializer, Hash, Serializer, digest_text, read_digest};

    pub(super) fn serialize<S: Serializer>(hash: &Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&digest_text(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(from)?;
        read_digest(&text).ok_or_else(|| D::Error::custom("no hash"))
    }
}

mod hash_or_none {
    use serde::de::Error as _;

    use super::{Deserialize, Deserializer, Hash, Serialize, Serializer, digest_text, read_digest};

    #[expect(clippy::ref_option, reason = "serde gives it so")]
    pub(super) fn serialize<S: Serializer>(hash: &Option<Hash>, to: S) -> Result<S::Ok, S::Error> {
        hash.as_ref().map(digest_text).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Hash>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let read = |text: String| read_digest(&text).ok_or_else(|| D::Error::custom("no hash"));
        text.map(read).transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn leaf(number: u8) -> Hash {
        [number; 32]
    }

    fn open() -> OpenSegment {
        OpenSegment::first("seg-2026-11-22T10".to_owned(), 0)
    }

    fn root(leaves: &[u8]) -> Hash {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|number| tree.push(leaf(*number)));
        tree.root()
    }

    #[test]
    fn the_hour_names_the_segment_and_its_end() {
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        assert_eq!(
            segment_of(at("2026-11-22T23:59:59.999999Z")),
            "seg-2026-11-22T23"
        );
        assert_eq!(
            end_of("seg-2026-11-22T23"),
            Some(at("2026-11-23T00:00:00Z"))
        );
        for none in [
            "seg-",
            "seg-2026-11-22",
            "seg-2026-11-22T24",
            "seg-2026-11-22T23:00",
            "2026-11-22T23",
        ] {
            assert_eq!(end_of(none), None, "{none}");
        }
    }

    #[test]
    fn segments_follow_each_other_without_a_gap() {
        let mut segment = open();
        assert_eq!(
            segment.begin_other("seg-2026-11-22T11".to_owned(), [9; 32]),
            None
        );
        (0..3).for_each(|number| segment.push(leaf(number)));
        let one = segment
            .begin_other("seg-2026-11-22T12".to_owned(), [1; 32])
            .unwrap();
        assert_eq!(
            (one.number, one.id.as_str(), one.first, one.count),
            (0, "seg-2026-11-22T11", 0, 3)
        );
        assert_eq!(
            (one.root, one.prev, one.tree),
            (root(&[0, 1, 2]), None, [1; 32])
        );
        segment.push(leaf(3));
        let two = segment.end_here([2; 32]);
        assert_eq!(
            (two.number, two.id.as_str(), two.first, two.count),
            (1, "seg-2026-11-22T12", 3, 1)
        );
        assert_eq!((two.root, two.prev), (root(&[3]), Some(one.root)));
        segment.push(leaf(4));
        let late = segment
            .begin_other("seg-2026-11-22T13".to_owned(), [3; 32])
            .unwrap();
        assert_eq!(
            (late.number, late.id, late.first, late.prev),
            (2, two.id, 4, Some(two.root))
        );
    }

    /// The other verifier is tested with it too.
    #[test]
    fn a_seal_that_was_kept_holds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/seal");
        let kept = std::fs::read(format!("{folder}/00000000000000000001")).unwrap();
        let keys = std::fs::read(format!("{folder}/acme.jwks")).unwrap();
        let keys = PublicKeys::from_json(&keys).unwrap();
        let seal = SegmentSeal::from_json(&kept).unwrap();
        assert_eq!(seal.verify(&keys), Ok(()));
        assert_eq!((seal.segment.first, seal.segment.count), (300, 7));
        let other = SegmentSeal {
            signed_at: seal.signed_at.plus(HOUR),
            ..seal
        };
        assert_eq!(other.verify(&keys), Err(Unsigned::Signature));
    }

    #[test]
    fn all_of_a_seal_is_signed_and_reads_as_it_was_written() {
        let owner = Owner {
            tenant: TenantId::parse("acme").unwrap(),
            silo: SiloId::parse("eu").unwrap(),
            stream: StreamName::audit_default(),
            origin: Origin::new([0xa5; 16]),
        };
        let segment = Segment {
            number: 1,
            id: "seg-2026-11-22T10".to_owned(),
            first: 7,
            count: 2,
            root: [1; 32],
            prev: Some([2; 32]),
            tree: [3; 32],
        };
        let at = Timestamp::from_micros(5);
        let key = SigningKeyId::parse("kms://eu/0a/s1").unwrap();
        let seal = SegmentSeal::new(owner, segment, at, (key, [4; 64]));
        let text = String::from_utf8(seal.to_json()).unwrap();
        assert_eq!(SegmentSeal::from_json(text.as_bytes()), Ok(seal.clone()));
        let mut messages = BTreeSet::from([message(&seal.owner, &seal.segment, at)]);
        for (from, to) in [
            ("acme", "acmf"),
            ("\"eu\"", "\"us\""),
            ("audit.default", "audit.other"),
            ("a5a5\"", "a5a6\""),
            ("\"number\":1", "\"number\":2"),
            ("T10", "T11"),
            (
                "\"firstLeaf\":7,\"leafCount\":2",
                "\"firstLeaf\":8,\"leafCount\":1",
            ),
            ("AQEBAQ", "AQEBAA"),
            ("AgICAg", "AgICAA"),
            ("AwMDAw", "AwMDAA"),
            ("1970-01-01T00:00:00.000005Z", "1970-01-01T00:00:00.000006Z"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_ne!(other, text, "{from}");
            let other = SegmentSeal::from_json(other.as_bytes()).expect(from);
            let message = message(&other.owner, &other.segment, other.signed_at);
            assert!(messages.insert(message), "{from}");
        }
        for (from, to) in [
            ("seal-1", "seal-2"),
            ("rfc6962", "rfc6963"),
            ("\"size\":9", "\"size\":10"),
            ("\"leafCount\":2", "\"leafCount\":0"),
            ("\"number\":1", "\"number\":0"),
            ("{\"format\"", "{\"other\":1,\"format\""),
            ("log/a5", "log/A5"),
        ] {
            let other = text.replacen(from, to, 1);
            assert_eq!(
                SegmentSeal::from_json(other.as_bytes()),
                Err(Unsigned::Form),
                "{other}"
            );
        }
    }
}
