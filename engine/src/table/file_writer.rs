//! Writes one data file: Parquet, sealed whole.
//!
//! Every file has a random AES-256 key of its own and is encrypted uniformly: no column keys, because with any of them
//! an unlisted column would be plaintext. The footer is encrypted too. Bloom filters are off: Parquet writes them in
//! plaintext. No Arrow schema is stored: the table's schema says what columns mean.
//!
//! `WriterProperties` prints keys when it is debugged. It never leaves this file.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use catalog::clock::Random;
use catalog::keys::{EpochKey, SecretKey};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use sha2::{Digest, Sha256};

use super::Error;
use super::key_material::KeyMaterial;
use super::layout::{Partition, TableName};
use super::lookup::LookupWriter;
use super::rows::{SORT, SORT_OPTIONS};
use super::stats::FileStats;

/// Rows of a row group: the unit that pruning skips.
const ROW_GROUP_ROWS: usize = 131_072;
/// Rows of a page: what a lookup decodes to find one row.
const PAGE_ROWS: usize = 8_192;
/// Bytes of a page before compression.
const PAGE_BYTES: usize = 256 * 1024;
const ZSTD_LEVEL: i32 = 3;

/// A finished file that is not yet anywhere: its bytes, and all that its Add action says.
#[derive(Debug)]
pub(crate) struct SealedFile {
    pub(crate) path: String,
    pub(crate) partition: Partition,
    pub(crate) bytes: Bytes,
    pub(crate) sha256: String,
    /// The key material as it stands in the file's footer.
    pub(crate) key_material: String,
    /// The count of rows, in the clear.
    pub(crate) count: u64,
    /// The sealed statistics.
    pub(crate) stats: String,
}

/// Encodes and seals the rows of one partition, which are sorted already. CPU work: call it off the async threads.
pub(crate) fn seal(
    table: &TableName,
    path: String,
    partition: Partition,
    rows: &RecordBatch,
    epoch: &EpochKey,
    random: &dyn Random,
) -> Result<SealedFile, Error> {
    let (schema, count) = (rows.schema(), rows.num_rows() as u64);
    let mut file = FileWriter::begin(table, (path, partition), (&schema, count), epoch, random)?;
    file.write(rows)?;
    file.finish(epoch, random)
}

/// A file that is being written. Rows come in the order that files have. CPU work: call it off the async threads.
pub(crate) struct FileWriter {
    table: TableName,
    path: String,
    partition: Partition,
    key_material: String,
    rows: ArrowWriter<Vec<u8>>,
    lookup: Option<LookupWriter>,
    stats: Option<FileStats>,
}

impl FileWriter {
    /// A file under a key of its own, into which so many rows are to come.
    pub(crate) fn begin(
        table: &TableName,
        (path, partition): (String, Partition),
        (schema, count): (&SchemaRef, u64),
        epoch: &EpochKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let dek = SecretKey::random(random);
        let key_material = KeyMaterial::wrap(epoch, &dek, random)?.to_json()?;
        let rows = encryption(&dek, &key_material, table.file_aad(&path))
            .and_then(|encryption| properties(schema, encryption))
            .and_then(|properties| encoder(schema, properties));
        Ok(Self {
            table: table.clone(),
            path,
            partition,
            key_material,
            rows: rows.map_err(unwritable)?,
            lookup: LookupWriter::begin(schema, count, ROW_GROUP_ROWS)?,
            stats: None,
        })
    }

    /// Adds rows. What is kept of them is compressed.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        let stats = FileStats::of(rows);
        self.stats = Some(match &self.stats {
            Some(before) => before.and(&stats),
            None => stats,
        });
        if let Some(lookup) = &mut self.lookup {
            lookup.write(rows)?;
        }
        self.rows.write(rows).map_err(unwritable)
    }

    /// The finished file. It has rows.
    pub(crate) fn finish(
        mut self,
        epoch: &EpochKey,
        random: &dyn Random,
    ) -> Result<SealedFile, Error> {
        let mut stats = self.stats.ok_or(Error::Malformed {
            what: "a file without rows",
        })?;
        if let Some(lookup) = self.lookup {
            self.rows.flush().map_err(unwritable)?;
            let offset = self.rows.bytes_written() as u64;
            let aad = self.table.file_aad(&self.path);
            let (lookup, blocks) = lookup.finish(offset, (epoch, &aad, random))?;
            if lookup.groups() != self.rows.flushed_row_groups().len() {
                return Err(Error::Malformed {
                    what: "filters and row groups of a file do not belong together",
                });
            }
            self.rows
                .write_all(&blocks)
                .map_err(|error| unwritable(error.into()))?;
            stats.lookup = Some(lookup);
        }
        let bytes: Bytes = self.rows.into_inner().map_err(unwritable)?.into();
        let sha256 = hex(&Sha256::digest(&bytes));
        let aad = self
            .table
            .stats_aad(&self.path, bytes.len() as u64, &sha256);
        let sealed = stats.seal(epoch, &aad, random)?;
        Ok(SealedFile {
            path: self.path,
            partition: self.partition,
            bytes,
            sha256,
            key_material: self.key_material,
            count: stats.count,
            stats: sealed,
        })
    }
}

fn encryption(
    dek: &SecretKey,
    key_material: &str,
    aad_prefix: Vec<u8>,
) -> Result<Arc<FileEncryptionProperties>, ParquetError> {
    // The prefix is stored so that tools that read by key material alone can open the file; our reader brings its own.
    FileEncryptionProperties::builder(dek.expose().to_vec())
        .with_footer_key_metadata(key_material.as_bytes().to_vec())
        .with_aad_prefix(aad_prefix)
        .with_aad_prefix_storage(true)
        .build()
}

fn properties(
    schema: &SchemaRef,
    encryption: Arc<FileEncryptionProperties>,
) -> Result<WriterProperties, ParquetError> {
    let sorting = SORT
        .iter()
        .filter_map(|name| schema.index_of(name).ok())
        .map(|index| {
            // Parquet counts leaves, and a map has two.
            let before = &schema.fields()[..index];
            before
                .iter()
                .map(|field| leaves(field.data_type()))
                .sum::<usize>()
        })
        .filter_map(|leaf| i32::try_from(leaf).ok())
        .map(|column_idx| SortingColumn {
            column_idx,
            descending: SORT_OPTIONS.descending,
            nulls_first: SORT_OPTIONS.nulls_first,
        })
        .collect();
    let mut builder = WriterProperties::builder()
        .with_file_encryption_properties(encryption)
        .set_created_by(concat!("trailhouse version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_bloom_filter_enabled(false)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_data_page_size_limit(PAGE_BYTES)
        .set_sorting_columns(Some(sorting));
    // Maps keep the defaults: their leaves have paths of their own.
    for field in schema.fields() {
        builder = column(builder, field.name(), field.data_type());
    }
    Ok(builder.build())
}

fn leaves(data_type: &DataType) -> usize {
    match data_type {
        DataType::Map(entries, _) => leaves(entries.data_type()),
        DataType::Struct(fields) => fields.iter().map(|field| leaves(field.data_type())).sum(),
        _ => 1,
    }
}

/// How a column is encoded: by what its values look like, as far as the name tells.
fn column(
    builder: WriterPropertiesBuilder,
    name: &str,
    data_type: &DataType,
) -> WriterPropertiesBuilder {
    let encoding = match (name, data_type) {
        (_, DataType::Timestamp(..) | DataType::Int64) => Encoding::DELTA_BINARY_PACKED,
        // Time-ordered names share long prefixes.
        ("record_id", _) => Encoding::DELTA_BYTE_ARRAY,
        // Random identifiers: nothing to find in them.
        ("trace_id" | "span_id" | "payload_hash" | "salt", _) => Encoding::PLAIN,
        ("context" | "extras" | "payload" | "idempotency_key", _) => {
            Encoding::DELTA_LENGTH_BYTE_ARRAY
        }
        // Everything else repeats, and falls back by itself when it does not.
        _ => return builder,
    };
    let path = || ColumnPath::from(name);
    let builder = builder
        .set_column_dictionary_enabled(path(), false)
        .set_column_encoding(path(), encoding);
    match name {
        // Bounds of JSON texts, salts and hashes prune nothing.
        "context" | "extras" | "payload" | "salt" | "payload_hash" => {
            builder.set_column_statistics_enabled(path(), EnabledStatistics::None)
        }
        _ => builder,
    }
}

fn encoder(
    schema: &SchemaRef,
    properties: WriterProperties,
) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(schema), options)
}

/// The parquet error may quote a value, so only its kind goes on.
fn unwritable(_: ParquetError) -> Error {
    Error::Malformed {
        what: "the rows cannot be written as Parquet",
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        })
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableKind;
    use crate::table::rows::split;
    use crate::table::testing::{World, row, rows};

    async fn sealed(world: &World) -> SealedFile {
        let table = world.name("acme", TableKind::Records);
        let epoch = world.epoch("acme", TableKind::Records).await;
        let batch = rows(&[row(3, "a"), row(1, "a")]);
        let (partition, part) = split(&batch.schema(), &[batch]).unwrap().remove(0);
        seal(
            &table,
            partition.file(uuid::Uuid::from_u128(1)),
            partition,
            &part,
            &epoch,
            &*world.random,
        )
        .unwrap()
    }

    #[tokio::test]
    async fn a_file_is_ciphertext_from_magic_to_magic() {
        let file = sealed(&World::new()).await;
        assert_eq!(&file.bytes[..4], b"PARE");
        assert_eq!(&file.bytes[file.bytes.len() - 4..], b"PARE");
        for name in [
            "created_at",
            "record_id",
            "context",
            "ARROW:schema",
            "parquet-rs",
            "canary",
        ] {
            let found = file
                .bytes
                .windows(name.len())
                .any(|window| window == name.as_bytes());
            assert!(!found, "{name} in the clear");
        }
        assert_eq!(file.sha256, hex(&Sha256::digest(&file.bytes)));
        assert_eq!(file.count, 2);
    }

    #[tokio::test]
    async fn no_two_files_share_a_key() {
        let world = World::new();
        let (one, two) = (sealed(&world).await, sealed(&world).await);
        assert_ne!(one.key_material, two.key_material);
        assert_ne!(one.sha256, two.sha256);
    }
}
