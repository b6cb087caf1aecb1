//! Where a table and its files lie, and the names that its ciphertexts are bound to.
//!
//! ```text
//! <silo root>/tenants/<tenant>/audit/records/_delta_log/00000000000000000007.json
//! <silo root>/tenants/<tenant>/audit/records/stream=audit.default/ingest_date=2026-11-22/retention_class=standard/<uuid>.parquet
//! ```
//!
//! The AAD prefix of a data file is `th1`, tenant, silo, table and the path below the table's root, each preceded by
//! its length in bytes as a little-endian `u32`. A file that is moved, renamed or copied to another tenant, silo, table
//! or partition no longer decrypts.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow::datatypes::SchemaRef;
use catalog::ids::{SiloId, TenantId};
use catalog::keys::KeyPurpose;
use object_store::path::Path;
use uuid::Uuid;

use crate::record::schema::{self, PARTITIONS};

/// The version of the file format: first part of every AAD, and the tag `th.v` of every file.
const AAD_VERSION: &str = "th1";

/// The tables of a tenant in a silo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKind {
    /// `audit.records`: what tenants send.
    Records,
    /// `audit.evidence`: the decisions of this product, under a key of its own.
    Evidence,
    /// `audit.quarantine`: records that were refused or held back.
    Quarantine,
}

impl TableKind {
    /// The table's name below the schema `audit`, and its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Evidence => "evidence",
            Self::Quarantine => "quarantine",
        }
    }

    /// Which of the tenant's keys seals the table.
    pub(crate) fn purpose(self) -> KeyPurpose {
        match self {
            Self::Records | Self::Quarantine => KeyPurpose::Data,
            Self::Evidence => KeyPurpose::Evidence,
        }
    }

    /// The columns that a new table starts with.
    pub(crate) fn schema(self) -> SchemaRef {
        match self {
            Self::Records => schema::records::<&str>(&[]),
            Self::Evidence => schema::evidence(),
            Self::Quarantine => schema::quarantine(),
        }
    }
}

/// One table: whose, where, which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TableName {
    pub(crate) tenant: TenantId,
    pub(crate) silo: SiloId,
    pub(crate) kind: TableKind,
}

impl TableName {
    /// The table's root below the silo's root.
    pub(crate) fn root(&self) -> Path {
        Path::from_iter(["tenants", self.tenant.as_str(), "audit", self.kind.name()])
    }

    /// The AAD prefix of the data file at `relative`.
    pub(crate) fn file_aad(&self, relative: &str) -> Vec<u8> {
        prefixed(&[
            AAD_VERSION,
            self.tenant.as_str(),
            self.silo.as_str(),
            self.kind.name(),
            relative,
        ])
    }

    /// The AAD of a file's sealed statistics: the file's own AAD and which bytes it had.
    pub(crate) fn stats_aad(&self, relative: &str, size: u64, sha256: &str) -> Vec<u8> {
        let mut aad = self.file_aad(relative);
        aad.extend(prefixed(&[&size.to_string(), sha256]));
        aad
    }
}

/// The values of the partition columns, in their order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Partition(pub(crate) [String; PARTITIONS.len()]);

impl Partition {
    /// Reads the partition of an Add action; every column must be there and have a value.
    pub(crate) fn from_log(values: &HashMap<String, Option<String>>) -> Option<Self> {
        if values.len() != PARTITIONS.len() {
            return None;
        }
        let mut read = <[String; PARTITIONS.len()]>::default();
        for (slot, name) in read.iter_mut().zip(PARTITIONS) {
            let value = values.get(name)?.as_ref()?;
            if value.is_empty() {
                return None;
            }
            slot.clone_from(value);
        }
        Some(Self(read))
    }

    pub(crate) fn to_log(&self) -> HashMap<String, Option<String>> {
        PARTITIONS
            .iter()
            .zip(&self.0)
            .map(|(name, value)| ((*name).to_owned(), Some(value.clone())))
            .collect()
    }

    /// The directory below the table's root, with a slash at its end.
    pub(crate) fn directory(&self) -> String {
        PARTITIONS
            .iter()
            .zip(&self.0)
            .fold(String::new(), |mut directory, (name, value)| {
                directory.push_str(name);
                directory.push('=');
                encode(&mut directory, value);
                directory.push('/');
                directory
            })
    }

    /// A path for a new file. The name says when it was made and nothing else, and no two attempts share one.
    pub(crate) fn file(&self, id: Uuid) -> String {
        format!("{}{id}.parquet", self.directory())
    }

    /// Whether a path from the log is one that [`Partition::file`] makes for this partition.
    pub(crate) fn owns(&self, path: &str) -> bool {
        path.strip_prefix(self.directory().as_str())
            .and_then(|name| name.strip_suffix(".parquet"))
            .is_some_and(|id| Uuid::try_parse(id).is_ok_and(|parsed| parsed.to_string() == id))
    }
}

/// The id in the name of a data file, if the path is one that [`Partition::file`] makes for any partition.
pub(super) fn id_of(path: &str) -> Option<Uuid> {
    let (directory, name) = path.rsplit_once('/')?;
    let mut levels = directory.split('/');
    let is_ours = PARTITIONS.iter().all(|column| {
        let value = levels.next().and_then(|level| level.strip_prefix(column));
        value.is_some_and(|value| value.starts_with('='))
    });
    let id = Uuid::try_parse(name.strip_suffix(".parquet")?).ok()?;
    (is_ours && levels.next().is_none()).then_some(id)
}

/// Joins parts, each preceded by its length, so that no two lists of parts give the same bytes.
pub(super) fn prefixed(parts: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        // Ids and paths are far below 4 GiB; saturating keeps this total.
        bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

/// Percent-encodes all but letters, digits, `-`, `_` and `.`, so that a value is one path segment on every store.
fn encode(out: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> TableName {
        TableName {
            tenant: TenantId::parse("acme").unwrap(),
            silo: SiloId::parse("eu").unwrap(),
            kind: TableKind::Records,
        }
    }

    fn partition(stream: &str) -> Partition {
        Partition([stream.into(), "2026-11-22".into(), "standard".into()])
    }

    #[test]
    fn the_aad_prefix_of_a_file_is_fixed() {
        let aad = name().file_aad("a/b");
        let expected: &[u8] =
            b"\x03\0\0\0th1\x04\0\0\0acme\x02\0\0\0eu\x07\0\0\0records\x03\0\0\0a/b";
        assert_eq!(aad, expected);
    }

    #[test]
    fn moving_a_separator_changes_the_aad() {
        assert_ne!(prefixed(&["ab", "c"]), prefixed(&["a", "bc"]));
        assert_ne!(
            name().stats_aad("p", 1, "23"),
            name().stats_aad("p", 12, "3")
        );
    }

    #[test]
    fn directories_are_hive_style_and_encoded() {
        assert_eq!(
            partition("a/b=c ü").directory(),
            "stream=a%2Fb%3Dc%20%C3%BC/ingest_date=2026-11-22/retention_class=standard/"
        );
        assert_eq!(name().root().as_ref(), "tenants/acme/audit/records");
    }

    #[test]
    fn a_partition_owns_only_files_it_would_have_named() {
        let own = partition("audit.default");
        let file = own.file(Uuid::from_u128(7));
        assert!(own.owns(&file));
        assert!(!partition("audit.other").owns(&file));
        assert!(!own.owns(&format!("{}../x.parquet", own.directory())));
        assert!(!own.owns(&file.to_uppercase()));
        assert!(!own.owns("/etc/passwd"));
    }

    #[test]
    fn partitions_survive_the_log() {
        let own = partition("audit.default");
        assert_eq!(Partition::from_log(&own.to_log()), Some(own.clone()));
        let mut missing = own.to_log();
        missing.insert("stream".into(), None);
        assert_eq!(Partition::from_log(&missing), None);
    }
}
