//! The sealed statistics of a data file: what may be known of it without opening it, and only with the key.
//!
//! The Delta log carries a plain row count and nothing else. Ranges that pruning and ordering rely on travel in the tag
//! `th.stats`: base64 of nonce ‖ AES-256-GCM(JSON) ‖ tag under a key derived from the file's epoch key, bound to the
//! file's name, size and digest. An attacker who can write the log therefore cannot steer a query by forged statistics.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::clock::Random;
use catalog::keys::{self, EpochKey};
use serde::{Deserialize, Serialize};

use super::Error;
use super::lookup::Lookup;

const LABEL: &str = "th.stats";

/// What is known of a file before it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileStats {
    /// How many rows the file has.
    pub(crate) count: u64,
    /// First and last `created_at` in microseconds; absent when a row has none, so its presence says "no nulls".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created_at: Option<(i64, i64)>,
    /// First and last `leaf_index`; absent when a row has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaf_index: Option<(i64, i64)>,
    /// Where the file has filters for values, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lookup: Option<Lookup>,
}

impl FileStats {
    /// Reads the statistics off the rows of a file.
    pub(crate) fn of(rows: &RecordBatch) -> Self {
        let created_at = rows
            .column_by_name("created_at")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
            .and_then(|column| range(column.null_count(), column.values()));
        let leaf_index = rows
            .column_by_name("leaf_index")
            .and_then(|column| column.as_primitive_opt::<Int64Type>())
            .and_then(|column| range(column.null_count(), column.values()));
        Self {
            count: rows.num_rows() as u64,
            created_at,
            leaf_index,
            lookup: None,
        }
    }

    /// Those of these rows and of the ones that follow them, together.
    pub(crate) fn and(&self, next: &Self) -> Self {
        let both = |one: Option<(i64, i64)>, next: Option<(i64, i64)>| {
            let ((first, last), (next_first, next_last)) = (one?, next?);
            Some((first.min(next_first), last.max(next_last)))
        };
        Self {
            count: self.count + next.count,
            created_at: both(self.created_at, next.created_at),
            leaf_index: both(self.leaf_index, next.leaf_index),
            lookup: None,
        }
    }

    pub(crate) fn seal(
        &self,
        epoch: &EpochKey,
        aad: &[u8],
        random: &dyn Random,
    ) -> Result<String, Error> {
        let failed = || Error::Malformed {
            what: "file statistics cannot be sealed",
        };
        let text = serde_json::to_vec(self).map_err(|_| failed())?;
        let sealed = keys::seal(&epoch.derive(LABEL), random, aad, &text).map_err(|_| failed())?;
        Ok(BASE64.encode(sealed))
    }

    pub(crate) fn open(text: &str, epoch: &EpochKey, aad: &[u8]) -> Result<Self, Error> {
        let broken = || Error::Tampered {
            what: "the sealed statistics of a file do not verify",
        };
        let sealed = BASE64.decode(text).map_err(|_| broken())?;
        let opened = keys::open(&epoch.derive(LABEL), aad, &sealed).map_err(|_| broken())?;
        serde_json::from_slice(&opened).map_err(|_| broken())
    }
}

fn range(nulls: usize, values: &[i64]) -> Option<(i64, i64)> {
    if nulls > 0 {
        return None;
    }
    Some((*values.iter().min()?, *values.iter().max()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableKind;
    use crate::table::testing::World;

    const STATS: FileStats = FileStats {
        count: 3,
        created_at: Some((-5, 9)),
        leaf_index: None,
        lookup: None,
    };

    #[tokio::test]
    async fn statistics_open_only_for_the_file_they_were_sealed_for() {
        let world = World::new();
        let epoch = world.epoch("acme", TableKind::Records).await;
        let sealed = STATS.seal(&epoch, b"this file", &*world.random).unwrap();
        assert_eq!(
            FileStats::open(&sealed, &epoch, b"this file").unwrap(),
            STATS
        );
        assert!(matches!(
            FileStats::open(&sealed, &epoch, b"that file"),
            Err(Error::Tampered { .. })
        ));
        let other = world.epoch("globex", TableKind::Records).await;
        assert!(matches!(
            FileStats::open(&sealed, &other, b"this file"),
            Err(Error::Tampered { .. })
        ));
    }

    #[tokio::test]
    async fn every_changed_byte_is_noticed() {
        let world = World::new();
        let epoch = world.epoch("acme", TableKind::Records).await;
        let sealed = BASE64
            .decode(STATS.seal(&epoch, b"", &*world.random).unwrap())
            .unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(FileStats::open(&BASE64.encode(&changed), &epoch, b"").is_err());
        }
        for length in 0..sealed.len() {
            assert!(FileStats::open(&BASE64.encode(&sealed[..length]), &epoch, b"").is_err());
        }
    }
}
