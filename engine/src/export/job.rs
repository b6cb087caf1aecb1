//! The job of an export: one sealed, versioned document that says what was asked, by whom, and how far it has come.
//!
//! Queued ──▶ Running ──▶ Finished, Failed or Cancelled. Whoever runs it writes the next version with each finished chunk
//! and every few seconds; a version can be written once, so whoever finds it taken has lost the job: to who cancelled it,
//! or to a process that saw no new version for a while and took it up. What a finished chunk is stands in the document, so a
//! run goes on behind the last of them.

use catalog::clock::Timestamp;
use catalog::context::Mandate;
use catalog::guard::Decision;
use catalog::ids::{PolicyVersion, RecordId};
use catalog::keys::WrappedEpoch;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::asked::{Asked, sight};
use super::error::{Error, slug};

const ID_PREFIX: &str = "exp-";

/// The name of an export: `exp-` and a ULID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExportId(RecordId);

impl ExportId {
    pub(super) fn new(id: RecordId) -> Self {
        Self(id)
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.strip_prefix(ID_PREFIX)?;
        let id = Self(RecordId::parse(id).ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl std::fmt::Display for ExportId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{ID_PREFIX}{}", self.0)
    }
}

impl From<ExportId> for String {
    fn from(id: ExportId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ExportId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not the name of an export")
    }
}

/// Where an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its turn.
    Queued,
    /// Is being made.
    Running,
    /// Can be fetched.
    Finished,
    /// Ended in an error.
    Failed,
    /// Was called off.
    Cancelled,
}

impl State {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether there is something left to do.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Queued | Self::Running)
    }
}

/// Why an export failed, for its caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The problem's name.
    pub slug: String,
    /// What to tell.
    pub detail: String,
}

/// What the records of an export are taken from: fixed when it begins, so that it is the same however often it is cut
/// off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pinned {
    /// When.
    pub(super) at: Timestamp,
    /// Leaves of the log, for callers from whom no row is hidden.
    pub(super) tree_size: Option<u64>,
    /// The signed note that says so.
    pub(super) checkpoint: Option<String>,
    /// The newest record of the caller's, for the others.
    pub(super) until: Option<RecordId>,
    /// Records that there will be.
    pub(super) records: u64,
    /// Whether records are upcast when they are read.
    pub(super) is_upcast: bool,
}

/// A file of an export as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredFile {
    /// Its path in the bundle.
    pub(super) path: String,
    /// Its object below the export's folder.
    pub(super) object: String,
    pub(super) bytes: u64,
    /// Of the clear bytes, hexadecimal.
    pub(super) sha256: String,
}

/// A finished chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chunk {
    pub(super) file: StoredFile,
    pub(super) rows: u64,
    /// Where it ends.
    pub(super) last_created_at: Timestamp,
    pub(super) last_record_id: RecordId,
    /// The opened leaves of its rows, and their places: given out, and for the proof at the end.
    pub(super) leaves: Option<StoredFile>,
    pub(super) places: Option<StoredFile>,
    /// Bytes of Arrow data that the rows were.
    pub(super) arrow_bytes: u64,
}

/// The wrapped key of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrappedKey {
    pub(super) epoch: WrappedEpoch,
    /// Unpadded base64url.
    pub(super) dek: String,
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Records that were written.
    pub records: u64,
    /// Bytes of Arrow data that they were.
    pub bytes: u64,
}

/// An export: the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Job {
    pub(super) id: ExportId,
    pub(super) asked: Asked,
    /// Names the request.
    pub(super) fingerprint: String,
    pub(super) mandate: Mandate,
    pub(super) policy_version: PolicyVersion,
    pub(super) mask_profile: String,
    /// Names what the caller sees.
    pub(super) sight: String,
    /// What the policy allowed when it was asked for.
    pub(super) records_max: Option<u64>,
    pub(super) bytes_max: Option<u64>,
    pub(super) created_at: Timestamp,
    pub(super) state: State,
    pub(super) fault: Option<Fault>,
    /// The process that runs it.
    pub(super) runner: Option<String>,
    /// Grows with each process that takes the job up: part of the objects' names.
    pub(super) attempt: u32,
    pub(super) started_at: Option<Timestamp>,
    pub(super) pinned: Option<Pinned>,
    pub(super) key: Option<WrappedKey>,
    pub(super) chunks: Vec<Chunk>,
    /// Everything but chunks and their leaves, once it is finished.
    pub(super) files: Vec<StoredFile>,
    pub(super) progress: Progress,
    pub(super) ended_at: Option<Timestamp>,
    /// When its files are removed.
    pub(super) expires_at: Option<Timestamp>,
    /// Whether they were.
    pub(super) removed: bool,
}

impl Job {
    /// A job that nobody has begun.
    pub(super) fn new(
        (id, now): (ExportId, Timestamp),
        (asked, fingerprint): (Asked, String),
        mandate: Mandate,
        decision: &Decision,
    ) -> Self {
        Self {
            id,
            asked,
            fingerprint,
            mandate,
            policy_version: decision.policy.version.clone(),
            mask_profile: decision.profile.name.clone(),
            sight: sight(decision),
            records_max: decision.policy.bundle.export.max_records,
            bytes_max: decision.policy.bundle.export.max_bytes,
            created_at: now,
            state: State::Queued,
            fault: None,
            runner: None,
            attempt: 0,
            started_at: None,
            pinned: None,
            key: None,
            chunks: Vec::new(),
            files: Vec::new(),
            progress: Progress::default(),
            ended_at: None,
            expires_at: None,
            removed: false,
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ExportId {
        &self.id
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What was asked.
    #[must_use]
    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Who asked.
    #[must_use]
    pub fn mandate(&self) -> &Mandate {
        &self.mandate
    }

    /// The policy it is made under.
    #[must_use]
    pub fn policy_version(&self) -> &PolicyVersion {
        &self.policy_version
    }

    /// The masks it is made under.
    #[must_use]
    pub fn mask_profile(&self) -> &str {
        &self.mask_profile
    }

    /// When it was asked for.
    #[must_use]
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// When its first record was read.
    #[must_use]
    pub fn started_at(&self) -> Option<Timestamp> {
        self.started_at
    }

    /// When it ended, however it did.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.ended_at
    }

    /// When its files are removed.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Records that there will be, as soon as that is known.
    #[must_use]
    pub fn records(&self) -> Option<u64> {
        self.pinned.as_ref().map(|pinned| pinned.records)
    }

    /// Why it failed.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Its files: path in the bundle, bytes and SHA-256 in hexadecimal.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        self.stored()
            .map(|file| (file.path.as_str(), file.bytes, file.sha256.as_str()))
    }

    /// Ends the job in an error.
    pub(super) fn fail(&mut self, error: &Error, now: Timestamp) {
        self.state = State::Failed;
        self.fault = Some(Fault {
            slug: slug(error).to_owned(),
            detail: error.to_string(),
        });
        self.ended_at = Some(now);
        self.expires_at = Some(now);
    }

    /// The files of the bundle.
    pub(super) fn stored(&self) -> impl Iterator<Item = &StoredFile> {
        let chunks = self.chunks.iter();
        chunks
            .flat_map(|chunk| std::iter::once(&chunk.file).chain(chunk.leaves.as_ref()))
            .chain(&self.files)
    }

    /// The folder of its objects, below the silo's root.
    pub(super) fn folder(&self) -> Path {
        let (tenant, stream) = (self.mandate.tenant(), &self.asked.stream);
        Path::from_iter([
            "tenants",
            tenant.as_str(),
            "exports",
            stream.as_str(),
            &self.asked.range_name(),
            &self.id.to_string(),
        ])
    }
}
