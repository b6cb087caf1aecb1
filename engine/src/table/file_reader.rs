//! Reads sealed data files, and nothing else.
//!
//! The `parquet` crate would read a plaintext file silently where an encrypted one is expected, and takes plaintext
//! columns beside encrypted ones. So before anything is decoded: the object has the size that the log says, its footer
//! is encrypted, it opens with the key that the log wraps and with the AAD prefix that *we* compute (the stored one is
//! ignored), every column chunk is encrypted with the footer key, and the row count is the sealed one.
//!
//! Decrypted footers are cached. They carry the file key, so they are kept for as long as keys may be, and no longer.
//! DataFusion's own footer cache knows a path only and is not involved.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::keys::EpochKey;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use moka::sync::Cache;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::column_crypto_metadata::ColumnCryptoMetaData;
use parquet::file::metadata::{
    FooterTail, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
};

use super::Error;
use super::index::DataFile;
use super::layout::TableName;
use super::log::unavailable;

/// Bytes of a Parquet file's length and magic at its end.
const FOOTER_TAIL_BYTES: u64 = 8;
/// How much of the end of a file is read at once: footer and page index of most files.
const TAIL_BYTES: u64 = 64 * 1024;
/// Memory for decrypted footers, in bytes.
const FOOTERS_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// How long a footer, and with it a file key, is kept: as long as epoch keys are.
const FOOTERS_KEPT: Duration = Duration::from_secs(5 * 60);

/// Decrypted footers by everything that identifies one.
#[derive(Clone)]
pub(crate) struct Footers(Cache<FooterId, Arc<ParquetMetaData>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FooterId {
    table: TableName,
    path: String,
    size: u64,
    sha256: String,
    epoch: [u8; 16],
}

impl Footers {
    pub(crate) fn new() -> Self {
        let weight = |id: &FooterId, footer: &Arc<ParquetMetaData>| {
            u32::try_from(footer.memory_size() + id.path.len() + 256).unwrap_or(u32::MAX)
        };
        Self(
            Cache::builder()
                .weigher(weight)
                .max_capacity(FOOTERS_BYTES_MAX)
                .time_to_live(FOOTERS_KEPT)
                .build(),
        )
    }

    /// Forgets everything: after a key is destroyed nothing must open from memory.
    pub(crate) fn purge(&self) {
        self.0.invalidate_all();
    }
}

impl fmt::Debug for Footers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Footers")
            .field("entries", &self.0.entry_count())
            .finish()
    }
}

/// Makes readers for the files of one scan. Its presence in a plan is what makes the plan able to read them.
#[derive(Debug)]
pub(crate) struct SealedReaderFactory(Arc<Access>);

struct Access {
    table: TableName,
    store: Arc<dyn ObjectStore>,
    epochs: HashMap<[u8; 16], Arc<EpochKey>>,
    footers: Footers,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("table", &self.table.kind)
            .finish_non_exhaustive()
    }
}

impl SealedReaderFactory {
    pub(crate) fn new(
        table: TableName,
        store: Arc<dyn ObjectStore>,
        epochs: HashMap<[u8; 16], Arc<EpochKey>>,
        footers: Footers,
    ) -> Self {
        Self(Arc::new(Access {
            table,
            store,
            epochs,
            footers,
        }))
    }
}

impl ParquetFileReaderFactory for SealedReaderFactory {
    fn create_reader(
        &self,
        partition_index: usize,
        partitioned_file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> datafusion::common::Result<Box<dyn AsyncFileReader + Send>> {
        // Without the entry of the log a file has no key: a plan that came from elsewhere reads nothing.
        let file = partitioned_file
            .extension::<Arc<DataFile>>()
            .ok_or_else(|| {
                DataFusionError::External(Box::new(Error::Tampered {
                    what: "a file that no log names",
                }))
            })?;
        let location = partitioned_file.object_meta.location.clone();
        Ok(Box::new(SealedReader {
            access: Arc::clone(&self.0),
            file: Arc::clone(file),
            metrics: ParquetFileMetrics::new(partition_index, location.as_ref(), metrics),
            location,
        }))
    }
}

struct SealedReader {
    access: Arc<Access>,
    file: Arc<DataFile>,
    location: Path,
    metrics: ParquetFileMetrics,
}

impl AsyncFileReader for SealedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.count(&range);
        async move { self.bytes(range).await.map_err(external) }.boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        ranges.iter().for_each(|range| self.count(range));
        async move {
            match self.access.store.get_ranges(&self.location, &ranges).await {
                Ok(bytes) => Ok(bytes),
                Err(error) => Err(external(self.unreadable(error).await)),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move { self.footer().await.map_err(external) }.boxed()
    }
}

impl SealedReader {
    fn count(&self, range: &Range<u64>) {
        let bytes = range.end.saturating_sub(range.start);
        self.metrics
            .bytes_scanned
            .add(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    async fn bytes(&self, range: Range<u64>) -> Result<Bytes, Error> {
        if range.start > range.end || range.end > self.file.size {
            return Err(Error::Tampered {
                what: "a data file points outside itself",
            });
        }
        let expected = range.end - range.start;
        let options = GetOptions::new().with_range(Some(range));
        let found = match self.access.store.get_opts(&self.location, options).await {
            Ok(found) => found,
            Err(error) => return Err(self.unreadable(error).await),
        };
        if found.meta.size != self.file.size {
            return Err(Error::Tampered {
                what: "a data file has another size than the log says",
            });
        }
        let bytes = found.bytes().await.map_err(unavailable)?;
        if bytes.len() as u64 != expected {
            return Err(Error::Tampered {
                what: "a data file is shorter than it says",
            });
        }
        Ok(bytes)
    }

    /// Whether a failed read is the store's fault or the file's.
    async fn unreadable(&self, error: object_store::Error) -> Error {
        if matches!(error, object_store::Error::NotFound { .. }) {
            return Error::Tampered {
                what: "a data file is missing",
            };
        }
        match self.access.store.head(&self.location).await {
            Ok(meta) if meta.size != self.file.size => Error::Tampered {
                what: "a data file has another size than the log says",
            },
            _ => unavailable(error),
        }
    }

    async fn footer(&self) -> Result<Arc<ParquetMetaData>, Error> {
        let file = &self.file;
        let id = FooterId {
            table: self.access.table.clone(),
            path: file.path.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
            epoch: file.key.epoch.epoch_id,
        };
        if let Some(footer) = self.access.footers.0.get(&id) {
            return Ok(footer);
        }
        let epoch = self
            .access
            .epochs
            .get(&file.key.epoch.epoch_id)
            .ok_or(Error::Tampered {
                what: "a file's epoch key was not opened",
            })?;
        let stats = file.stats(&self.access.table, epoch)?;
        let properties = decryption(
            file.key.unwrap(epoch)?.expose(),
            self.access.table.file_aad(&file.path),
        )?;
        let footer = self.read_footer(&properties).await?;
        check(&footer, stats.count)?;
        let footer = Arc::new(footer);
        self.access.footers.0.insert(id, Arc::clone(&footer));
        Ok(footer)
    }

    async fn read_footer(
        &self,
        properties: &Arc<FileDecryptionProperties>,
    ) -> Result<ParquetMetaData, Error> {
        let size = self.file.size;
        let mut wanted = TAIL_BYTES.min(size);
        loop {
            let tail = self.bytes(size - wanted..size).await?;
            match decode_footer(&tail, size, properties)? {
                Footer::Decoded(footer) => return Ok(*footer),
                Footer::Needs(more) if more > wanted && more <= size => wanted = more,
                Footer::Needs(_) => {
                    return Err(Error::Tampered {
                        what: "a data file's footer does not fit",
                    });
                }
            }
        }
    }
}

enum Footer {
    Decoded(Box<ParquetMetaData>),
    Needs(u64),
}

fn decryption(dek: &[u8], aad_prefix: Vec<u8>) -> Result<Arc<FileDecryptionProperties>, Error> {
    FileDecryptionProperties::builder(dek.to_vec())
        .with_aad_prefix(aad_prefix)
        .build()
        .map_err(|_| Error::Tampered {
            what: "a file key has the wrong form",
        })
}

/// Decodes the end of a file. Malformed ciphertext can make the decoder panic: that is contained here.
fn decode_footer(
    tail: &Bytes,
    size: u64,
    properties: &Arc<FileDecryptionProperties>,
) -> Result<Footer, Error> {
    let footer = tail
        .last_chunk()
        .and_then(|end| FooterTail::try_new(end).ok())
        .ok_or(Error::Tampered {
            what: "a data file is not Parquet",
        })?;
    if !footer.is_encrypted_footer() {
        return Err(Error::Tampered {
            what: "a data file is not encrypted",
        });
    }
    if footer.metadata_length() as u64 + FOOTER_TAIL_BYTES > size {
        return Err(Error::Tampered {
            what: "a data file's footer does not fit",
        });
    }
    let mut reader = ParquetMetaDataReader::new()
        .with_decryption_properties(Some(Arc::clone(properties)))
        .with_page_index_policy(PageIndexPolicy::Optional);
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        reader.try_parse_sized(tail, size)?;
        reader.finish()
    }));
    match decoded {
        Ok(Ok(metadata)) => Ok(Footer::Decoded(Box::new(metadata))),
        Ok(Err(ParquetError::NeedMoreData(more))) => Ok(Footer::Needs(more as u64)),
        Ok(Err(_)) | Err(_) => Err(Error::Tampered {
            what: "a data file does not open with its key",
        }),
    }
}

fn check(footer: &ParquetMetaData, count: u64) -> Result<(), Error> {
    let encrypted = footer
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
        .all(|chunk| {
            chunk.crypto_metadata() == Some(&ColumnCryptoMetaData::ENCRYPTION_WITH_FOOTER_KEY)
        });
    if !encrypted {
        return Err(Error::Tampered {
            what: "a column of a data file is not encrypted",
        });
    }
    if u64::try_from(footer.file_metadata().num_rows()) != Ok(count) {
        return Err(Error::Tampered {
            what: "a data file has another row count than was sealed",
        });
    }
    Ok(())
}

fn external(error: Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use std::path::{Path as FsPath, PathBuf};

    use super::*;
    use crate::table::AppendOutcome;
    use crate::table::testing::{World, request, row, rows, run};
    use arrow::array::{AsArray, RecordBatch};
    use arrow::datatypes::Int64Type;
    use parquet::arrow::ArrowWriter;

    async fn written(world: &World, tenant: &str) -> PathBuf {
        let table = world.records(tenant).await;
        let state = table.state().await.unwrap();
        let batch = rows(&(0..200).map(|at| row(at, "a")).collect::<Vec<_>>());
        let outcome = table
            .append(&state, vec![batch], vec![], vec![])
            .await
            .unwrap();
        assert_eq!(outcome, AppendOutcome::Committed { version: 1 });
        world.data_files(tenant).remove(0)
    }

    /// What a process that starts now reads: the leaf indexes.
    async fn read(world: &World, tenant: &str) -> Result<Vec<i64>, Error> {
        let table = world.open(tenant).await?;
        let state = table.state().await?;
        let request = request(&state, &["leaf_index", "labels", "context"]);
        let batches = run(table.scan(state, request).await?).await?;
        let leaves = |batch: &RecordBatch| {
            batch
                .column(0)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        };
        Ok(batches.iter().flat_map(leaves).collect())
    }

    fn untouched() -> Vec<i64> {
        (0..200).rev().collect()
    }

    async fn assert_refused(world: &World, tenant: &str, why: &str) {
        match read(world, tenant).await {
            Err(Error::Tampered { what }) => assert_eq!(what, why),
            other => panic!("{other:?}"),
        }
    }

    /// Rewrites the one log entry that names the data file.
    fn edit_log(world: &World, tenant: &str, edit: impl Fn(&str) -> String) {
        let log = world.silo_path().join("tenants").join(tenant);
        let entry = log.join("audit/records/_delta_log/00000000000000000001.json");
        let text = std::fs::read_to_string(&entry).unwrap();
        let edited = edit(&text);
        assert_ne!(edited, text);
        std::fs::write(entry, edited).unwrap();
    }

    #[tokio::test]
    async fn a_file_of_another_tenant_is_refused() {
        let world = World::new();
        let (acme, bcme) = (written(&world, "acme").await, written(&world, "bcme").await);
        assert_eq!(read(&world, "acme").await.unwrap(), untouched());
        let (one, two) = (std::fs::read(&acme).unwrap(), std::fs::read(&bcme).unwrap());
        assert_eq!(
            one.len(),
            two.len(),
            "so that only the cipher can tell them apart"
        );
        std::fs::write(&bcme, one).unwrap();
        assert_refused(&world, "bcme", "a data file does not open with its key").await;
    }

    #[tokio::test]
    async fn a_table_copied_to_another_tenant_does_not_open() {
        let world = World::new();
        written(&world, "acme").await;
        world.records("bcme").await;
        let tenants = world.silo_path().join("tenants");
        copy(&tenants.join("acme"), &tenants.join("bcme"));
        assert_refused(&world, "bcme", "an epoch key does not open").await;
    }

    fn copy(from: &FsPath, to: &FsPath) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target)
            } else {
                std::fs::copy(entry.path(), target).map(drop).unwrap()
            }
        }
    }

    #[tokio::test]
    async fn a_file_moved_within_its_table_is_refused() {
        let world = World::new();
        written(&world, "acme").await;
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        let batch = rows(&(0..200).map(|at| row(at, "a")).collect::<Vec<_>>());
        let _ = table
            .append(&state, vec![batch], vec![], vec![])
            .await
            .unwrap();
        let files = world.data_files("acme");
        let (one, two) = (
            std::fs::read(&files[0]).unwrap(),
            std::fs::read(&files[1]).unwrap(),
        );
        assert_eq!(one.len(), two.len());
        std::fs::write(&files[0], two).unwrap();
        std::fs::write(&files[1], one).unwrap();
        assert_refused(&world, "acme", "a data file does not open with its key").await;
    }

    #[tokio::test]
    async fn a_shorter_longer_or_missing_file_is_refused() {
        let world = World::new();
        let path = written(&world, "acme").await;
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 4, 8, 100, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            assert!(
                matches!(read(&world, "acme").await, Err(Error::Tampered { .. })),
                "{length}"
            );
        }
        std::fs::write(&path, [bytes.as_slice(), b"more"].concat()).unwrap();
        assert_refused(
            &world,
            "acme",
            "a data file has another size than the log says",
        )
        .await;
        std::fs::remove_file(&path).unwrap();
        assert_refused(&world, "acme", "a data file is missing").await;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&world, "acme").await.unwrap(), untouched());
    }

    /// Wherever a byte changes, the answer is an error of this module or the rows as they were; never a panic, never
    /// other rows.
    #[tokio::test]
    async fn no_changed_byte_changes_an_answer() {
        let world = World::new();
        let path = written(&world, "acme").await;
        let bytes = std::fs::read(&path).unwrap();
        let spread = (0..bytes.len()).step_by(bytes.len() / 120);
        let mut refused = 0;
        for at in spread.chain(bytes.len() - 48..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x81;
            std::fs::write(&path, changed).unwrap();
            match read(&world, "acme").await {
                Err(Error::Tampered { .. }) => refused += 1,
                Ok(found) => assert_eq!(found, untouched(), "at {at}"),
                Err(other) => panic!("{other:?} at {at}"),
            }
        }
        assert!(refused > 100, "{refused}");
    }

    #[tokio::test]
    async fn plaintext_in_place_of_ciphertext_is_refused() {
        let world = World::new();
        let path = written(&world, "acme").await;
        let size = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        let batch = rows(&[row(1, "a")]);
        let mut plain = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut plain, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        // Padding between data and footer, so that it is a valid file of the very size that the log names.
        let footer = u32::from_le_bytes(plain[plain.len() - 8..plain.len() - 4].try_into().unwrap())
            as usize
            + 8;
        let at = plain.len() - footer;
        assert!(plain.len() < size);
        plain.splice(at..at, std::iter::repeat_n(0, size - plain.len()));
        std::fs::write(&path, plain).unwrap();
        assert_refused(&world, "acme", "a data file is not encrypted").await;
    }

    #[tokio::test]
    async fn what_the_log_says_of_a_file_cannot_be_changed() {
        let world = World::new();
        written(&world, "acme").await;
        let log = world
            .silo_path()
            .join("tenants/acme/audit/records/_delta_log/00000000000000000001.json");
        let text = std::fs::read_to_string(&log).unwrap();
        let sealed = "the sealed statistics of a file do not verify";
        let foreign = "the log names a file that this product did not write";
        let sha = text.split("\"th.sha256\":\"").nth(1).unwrap()[..64].to_owned();
        for (from, to, why) in [
            (
                r#"{\"numRecords\":200}"#,
                r#"{\"numRecords\":2}"#,
                "the row count in the log is not the sealed one",
            ),
            (
                r#"{\"numRecords\":200}"#,
                r#"{\"numRecords\":200,\"minValues\":{}}"#,
                foreign,
            ),
            (sha.as_str(), &"0".repeat(64), sealed),
            (r#""size":"#, r#""size":1"#, sealed),
            (r#""stream":"a""#, r#""stream":"b""#, foreign),
            ("stream=a/", "stream=b/", foreign),
            (r#""th.v":"1""#, r#""th.v":"2""#, foreign),
            ("PKMT1", "PKMT2", foreign),
        ] {
            edit_log(&world, "acme", |text| text.replace(from, to));
            assert_refused(&world, "acme", why).await;
            std::fs::write(&log, &text).unwrap();
        }
        assert_eq!(read(&world, "acme").await.unwrap(), untouched());
    }

    #[tokio::test]
    async fn a_cached_footer_opens_no_other_file() {
        let world = World::new();
        let path = written(&world, "acme").await;
        let table = world.records("acme").await;
        let state = table.state().await.unwrap();
        let columns = request(&state, &["leaf_index"]);
        run(table
            .scan(Arc::clone(&state), columns.clone())
            .await
            .unwrap())
        .await
        .unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let footer = bytes.len() - 4_000;
        bytes[4..footer].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
        let found = run(table.scan(state, columns).await.unwrap()).await;
        assert!(matches!(found, Err(Error::Tampered { .. })), "{found:?}");
    }

    #[test]
    fn a_decoder_that_panics_gives_an_error() {
        let properties = decryption(&[7; 32], b"prefix".to_vec()).unwrap();
        // An encrypted footer of no length at all: too short for the cipher's own arithmetic.
        for length in 0..64_u8 {
            let mut bytes = vec![0_u8; 128];
            bytes[120] = length;
            bytes[124..].copy_from_slice(b"PARE");
            assert!(
                decode_footer(&Bytes::from(bytes), 128, &properties).is_err(),
                "{length}"
            );
        }
    }
}
