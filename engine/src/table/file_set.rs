//! The digest of the data files that a table has at one version, as checkpoints say it.
//!
//! SHA-256 over the files in byte order of their paths, for each `lp(path) ‖ lp(digest) ‖ lp(value) for each partition
//! column ‖ rows as 8 bytes`: the path below the table's root, the file's SHA-256 as the log has it (`th.sha256`: 64 hexadecimal digits in lower case, as text), the
//! values of `stream, ingest_date, retention_class`, and numRecords. lp is the length in bytes as 4 bytes, then the bytes;
//! integers are little endian.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::index::DataFile;
use super::layout::prefixed;

/// The digest of these files.
pub(super) fn root<'f>(files: impl Iterator<Item = &'f Arc<DataFile>>) -> [u8; 32] {
    let mut files: Vec<_> = files.collect();
    files.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    let mut digest = Sha256::new();
    for file in files {
        let [stream, date, class] = &file.partition.0;
        digest.update(prefixed(&[&file.path, &file.sha256, stream, date, class]));
        digest.update(file.count().to_le_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::super::AppendOutcome;
    use super::super::testing::{World, row, rows};

    #[tokio::test]
    async fn every_file_counts_and_their_order_does_not() {
        let world = World::new();
        let table = world.records("acme").await;
        let mut seen = vec![table.state().await.unwrap().file_set_root()];
        for number in 1..4 {
            let state = table.state().await.unwrap();
            let batch = rows(&[row(number, "a")]);
            let done = table.append(&state, vec![batch], vec![], vec![]).await;
            assert!(matches!(done, Ok(AppendOutcome::Committed { .. })));
            seen.push(table.state().await.unwrap().file_set_root());
        }
        let again = world.records("acme").await.state().await.unwrap();
        assert_eq!(again.file_set_root(), seen[3]);
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }
}
