//! The manifest of a bundle and its signature, and what else explains the bundle: data dictionary and instructions.
//!
//! `manifest.json` is RFC 8785 text of the members of [`Manifest`]. `manifest.sig` is a detached JWS (RFC 7515, appendix F)
//! over its bytes, compact: `<protected>..<signature>`, the protected header `{"alg":"EdDSA","kid":"<signing key>",
//! "typ":"trailhouse-export-manifest"}`, signed with Ed25519 (RFC 8037) by the tenant's signing key. All other files stand in
//! the manifest with their SHA-256.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::clock::Timestamp;
use catalog::guard::Decision;
use catalog::ids::{PolicyVersion, SiloId, StreamName, TenantId};
use catalog::keys::PublicKeys;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::asked::Format;
use super::error::Error;
use super::job::{ExportId, Job, StoredFile};
use super::select::{LEAF_INDEX, columns};
use crate::query::VisibleTable;
use crate::query::listing::Field;
use crate::record::canonical;

/// Its name in the bundle.
pub const MANIFEST: &str = "manifest.json";
/// The name of its signature.
pub const SIGNATURE: &str = "manifest.sig";
pub(super) const DICTIONARY: &str = "dictionary.json";
pub(super) const README: &str = "README-verify.md";
pub(super) const CHECKPOINT: &str = "proofs/checkpoint";
pub(super) const OMITTED: &str = "proofs/omitted";
const VERSION: &str = "1.2";
const SCHEMA_VERSION: &str = "trailhouse-records-1";
const TYPE: &str = "trailhouse-export-manifest";
const TOOL: &str = "trailhouse";
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) manifest_version: String,
    /// Which export.
    pub(super) export_id: ExportId,
    /// Whose records.
    pub(super) tenant_id: TenantId,
    /// Of which stream.
    pub(super) stream: StreamName,
    /// How they are written.
    pub(super) format: Format,
    pub(super) compression: String,
    /// When they were created.
    pub(super) time_range: TimeRange,
    /// Values of which one is in each of these fields.
    pub(super) filters: BTreeMap<Field, BTreeSet<String>>,
    pub(super) schema_version: String,
    /// How many there are.
    pub(super) record_count: u64,
    pub(super) chunks: Vec<ChunkEntry>,
    pub(super) files: Vec<FileEntry>,
    /// How the bundle came to be.
    pub(super) provenance: Provenance,
    /// What proves it.
    pub(super) integrity: Integrity,
    pub(super) residency: Residency,
    pub(super) dictionary_ref: String,
    pub(super) readme_ref: String,
}

/// A range of time, from the first moment to before the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimeRange {
    /// No record is older.
    pub(super) from: Option<Timestamp>,
    /// Every record is older.
    pub(super) to: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChunkEntry {
    pub(super) path: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileEntry {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// How a bundle came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Provenance {
    pub(super) tool: Tool,
    /// The policy.
    pub(super) policy_version: PolicyVersion,
    /// The masks.
    pub(super) masking_profile: String,
    /// What for.
    pub(super) purpose: Option<String>,
    /// Who asked.
    pub(super) requested_by: String,
    pub(super) generator_host: String,
    /// When it was fixed what is in it.
    pub(super) generated_at: Timestamp,
    pub(super) correlation_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) build: String,
}

/// Whether a bundle can be proven to be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Completeness {
    /// By the log: its places count every record.
    Proven,
    /// By the signature alone: the caller may not know of every record.
    Attested,
}

/// What the leaves are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Values {
    /// Records as they are stored.
    Stored,
    /// Records in a newer shape than they are stored in.
    Upcast,
}

/// What proves a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Integrity {
    /// Whether it is complete.
    pub(super) completeness: Completeness,
    /// Leaves of the log that it was taken from.
    pub(super) tree_size: Option<u64>,
    pub(super) values: Values,
    pub(super) segment_roots: Vec<String>,
    pub(super) prev_root: Option<String>,
    /// The key that signs the manifest.
    pub(super) signing_key_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Residency {
    pub(super) data_silo: SiloId,
    pub(super) object_store: String,
}

/// The roots of the sealed segments that records of a bundle are in.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments {
    pub(super) roots: Vec<String>,
    pub(super) prev: Option<String>,
}

/// Where a bundle is made.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub(super) host: String,
    /// The kind of the silo's store.
    pub(super) store: String,
}

impl Manifest {
    /// The manifest of a finished job.
    pub(super) fn of(
        job: &Job,
        maker: &Maker,
        segments: Segments,
        signing_key: String,
    ) -> Result<Self, Error> {
        let pinned = job.pinned.as_ref().ok_or(Error::Internal)?;
        let (asked, mandate) = (&job.asked, &job.mandate);
        let entry = |file: &StoredFile| FileEntry {
            path: file.path.clone(),
            bytes: file.bytes,
            sha256: file.sha256.clone(),
        };
        let leaves = job.chunks.iter().filter_map(|chunk| chunk.leaves.as_ref());
        let mut files: Vec<_> = job.files.iter().chain(leaves).map(entry).collect();
        files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        let chunks = job.chunks.iter().map(|chunk| ChunkEntry {
            path: chunk.file.path.clone(),
            rows: chunk.rows,
            bytes: chunk.file.bytes,
            sha256: chunk.file.sha256.clone(),
        });
        Ok(Self {
            manifest_version: VERSION.to_owned(),
            export_id: job.id.clone(),
            tenant_id: mandate.tenant().clone(),
            stream: asked.stream.clone(),
            format: asked.format,
            compression: asked.format.compression().to_owned(),
            time_range: TimeRange {
                from: asked.from,
                to: asked.until,
            },
            filters: asked.filters.clone(),
            schema_version: SCHEMA_VERSION.to_owned(),
            record_count: job.chunks.iter().map(|chunk| chunk.rows).sum(),
            chunks: chunks.collect(),
            files,
            provenance: Provenance {
                tool: Tool {
                    name: TOOL.to_owned(),
                    version: TOOL_VERSION.to_owned(),
                    build: option_env!("TRAILHOUSE_BUILD")
                        .unwrap_or("source")
                        .to_owned(),
                },
                policy_version: job.policy_version.clone(),
                masking_profile: job.mask_profile.clone(),
                purpose: asked.purpose.clone(),
                requested_by: mandate.subject().to_owned(),
                generator_host: maker.host.clone(),
                generated_at: pinned.at,
                correlation_id: mandate.correlation().to_string(),
            },
            integrity: Integrity {
                completeness: completeness(pinned.tree_size),
                tree_size: pinned.tree_size,
                values: if pinned.is_upcast {
                    Values::Upcast
                } else {
                    Values::Stored
                },
                segment_roots: segments.roots,
                prev_root: segments.prev,
                signing_key_id: signing_key,
            },
            residency: Residency {
                data_silo: mandate.silo().clone(),
                object_store: maker.store.clone(),
            },
            dictionary_ref: DICTIONARY.to_owned(),
            readme_ref: README.to_owned(),
        })
    }

    /// The bytes that are signed.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let value = serde_json::to_value(self).map_err(|_| Error::Internal)?;
        let text = canonical::text(&value).map_err(|_| Error::Internal)?;
        Ok(text.into_bytes())
    }

    /// Reads a manifest that is written as manifests are, to the byte.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let manifest: Self = serde_json::from_slice(bytes).ok()?;
        let own = manifest.to_bytes().ok()?;
        let is_known = manifest.manifest_version == VERSION
            && manifest.schema_version == SCHEMA_VERSION
            && manifest.compression == manifest.format.compression()
            && manifest.dictionary_ref == DICTIONARY
            && manifest.readme_ref == README;
        (is_known && own == bytes).then_some(manifest)
    }

    /// The name of a chunk.
    pub(super) fn chunk_name(number: usize, format: Format) -> String {
        format!("part-{number:05}.{}", format.as_str())
    }

    /// The name of the leaves of a chunk.
    pub(super) fn leaves_name(number: usize) -> String {
        format!("proofs/part-{number:05}.leaves.parquet")
    }
}

/// An empty log proves nothing.
pub(super) fn completeness(tree_size: Option<u64>) -> Completeness {
    match tree_size {
        Some(1..) => Completeness::Proven,
        Some(0) | None => Completeness::Attested,
    }
}

/// The protected header, and what is signed with it: of a manifest of these bytes by a key of this name.
pub(super) fn to_sign(key: &str, manifest: &[u8]) -> (String, String) {
    // RFC 8785 would give the same text: three members in order, none of which needs escaping but the name.
    let header = json!({ "alg": "EdDSA", "kid": key, "typ": TYPE }).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(manifest));
    (header, input)
}

/// The signature as a file.
pub(super) fn detached(header: &str, signature: &[u8; 64]) -> String {
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Whether one of these keys signed the manifest, and which: the one that the manifest names too.
pub(super) fn is_signed(
    keys: &PublicKeys,
    manifest: &Manifest,
    bytes: &[u8],
    signature: &str,
) -> bool {
    let parts: Vec<_> = signature.trim_end().split('.').collect();
    let &[header, "", signature] = parts.as_slice() else {
        return false;
    };
    let Some((name, key)) = keys
        .iter()
        .find(|(name, _)| name.to_string() == manifest.integrity.signing_key_id)
    else {
        return false;
    };
    let expected = json!({ "alg": "EdDSA", "kid": name.to_string(), "typ": TYPE });
    let said = URL_SAFE_NO_PAD.decode(header).ok();
    let said = said.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let signature = URL_SAFE_NO_PAD.decode(signature).ok();
    let signature = signature.and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(bytes));
    said == Some(expected)
        && keys
            .tenant()
            .is_none_or(|tenant| *tenant == manifest.tenant_id)
        && signature
            .is_some_and(|signature| catalog::keys::signed_by(key, input.as_bytes(), &signature))
}

/// What the columns of the bundle mean, and which of their values are masked.
pub(super) fn dictionary(
    decision: &Decision,
    table: &VisibleTable,
    is_whole: bool,
) -> Result<Vec<u8>, Error> {
    let mut fields = Vec::new();
    for name in columns(is_whole) {
        let at = table.columns.index_of(name).map_err(|_| Error::Internal)?;
        let about = table.about.get(at).ok_or(Error::Internal)?;
        let mut field = json!({
            "name": name,
            "type": type_word(name),
            "desc": about.meaning,
        });
        if let Some(class) = &about.class {
            field["class"] = json!(class);
        }
        if let Some(mask) = &about.mask {
            field["mask"] = json!(mask);
        }
        fields.push(field);
    }
    let rules = decision.profile.fields.iter();
    let masks: BTreeMap<_, _> = rules
        .map(|(path, rule)| (path.to_string(), rule.to_string()))
        .collect();
    let text = json!({ "schemaVersion": SCHEMA_VERSION, "fields": fields, "masks": masks });
    let text = canonical::text(&text).map_err(|_| Error::Internal)?;
    Ok(text.into_bytes())
}

fn type_word(column: &str) -> &'static str {
    match column {
        "created_at" | "ingested_at" => "timestamp",
        "labels" => "map",
        "context" | "extras" => "json",
        LEAF_INDEX => "integer",
        _ => "string",
    }
}

/// How to check the bundle, for whoever gets it.
pub(super) fn readme(job: &Job) -> String {
    include_str!("README-verify.md")
        .replace("{export}", &job.id.to_string())
        .replace("{profile}", &job.mask_profile)
        .replace("{policy}", &job.policy_version.to_string())
}
