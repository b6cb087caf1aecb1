//! Which row groups of a file may hold an identifier: Bloom filters, sealed, between the file's rows and its footer.
//!
//! ```text
//! block of a column: nonce ‖ AES-256-GCM( for each row group: length (u32 LE) ‖ split-block Bloom filter ) ‖ tag
//! ```
//!
//! Identifiers are spread over all of a table, so that no bounds tell where one is: a search for one would read its column
//! whole. Filters are those of Parquet (<https://parquet.apache.org/docs/file-format/bloomfilter/>), which would write
//! them in the clear. So they are blocks of our own, under a key derived from the file's epoch key, bound to the file's
//! name and the column; where they lie the file's sealed statistics say. To other readers they are bytes that nothing
//! points at. A filter is read when a query asks for a value of its column, and kept in memory as long as there is room.
//!
//! A filter tells that a value may be there. Whoever could read one could try values, so it is as secret as the column.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;
use catalog::clock::Random;
use catalog::keys::{self, EpochKey, push_prefixed};
use moka::sync::Cache;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::bloom_filter::Sbbf;
use serde::{Deserialize, Serialize};

use super::Error;
use super::index::DataFile;
use super::layout::TableName;
use super::log::unavailable;
use crate::record::schema::is_reserved;

const LABEL: &str = "th.lookup";
/// The columns of records that are looked up by value. Promoted columns are as well.
const COLUMNS: [&str; 5] = [
    "record_id",
    "trace_id",
    "resource_id",
    "actor_id",
    "subject_ref",
];
/// A file with fewer rows is read faster than its filters.
const ROWS_MIN: u64 = 4_096;
/// Values that are not there and may be, as a share.
const FALSE_POSITIVES: f64 = 0.001;
/// Bytes of a column's filters in one file, at the most.
const BLOCK_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Memory for filters, in bytes: those of one column in a hundred million rows, about.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;
/// How long filters that nobody asks for are kept.
const KEPT: Duration = Duration::from_secs(10 * 60);

/// Where a file has its filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lookup {
    /// The row groups that each filter block speaks of.
    groups: usize,
    /// Column, first byte and number of bytes of each block.
    blocks: Vec<(String, u64, u64)>,
}

impl Lookup {
    /// Whether there are filters for a column.
    pub(crate) fn has(&self, column: &str) -> bool {
        self.blocks.iter().any(|(name, ..)| name == column)
    }

    pub(crate) fn groups(&self) -> usize {
        self.groups
    }
}

/// The filters of a file that is being written.
pub(crate) struct LookupWriter {
    columns: Vec<Column>,
    group_rows: usize,
    /// Rows of the row group that is not full yet.
    rows: usize,
}

struct Column {
    index: usize,
    name: String,
    group: Sbbf,
    /// The row groups that are full, as they stand in the block.
    full: Vec<u8>,
    groups: usize,
}

impl LookupWriter {
    /// Filters for a file of this schema with so many rows, in row groups of `group_rows`; `None` where they are of no use.
    pub(crate) fn begin(
        schema: &Schema,
        rows: u64,
        group_rows: usize,
    ) -> Result<Option<Self>, Error> {
        if rows < ROWS_MIN {
            return Ok(None);
        }
        let mut columns = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            let is_id = COLUMNS.contains(&name.as_str()) || !is_reserved(name);
            if is_id && field.data_type() == &DataType::Utf8 {
                columns.push(Column {
                    index,
                    name: name.clone(),
                    group: empty(group_rows)?,
                    full: Vec::new(),
                    groups: 0,
                });
            }
        }
        Ok(Some(Self {
            columns,
            group_rows,
            rows: 0,
        }))
    }

    /// Takes in the rows that are written next.
    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let mut from = 0;
        while from < batch.num_rows() {
            if self.rows == self.group_rows {
                self.end_group()?;
            }
            let take = (self.group_rows - self.rows).min(batch.num_rows() - from);
            for column in &mut self.columns {
                let values = batch.column(column.index).slice(from, take);
                let values = values.as_string_opt::<i32>().ok_or_else(unwritable)?;
                for value in values.iter().flatten() {
                    column.group.insert(value);
                }
            }
            self.rows += take;
            from += take;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), Error> {
        for column in &mut self.columns {
            let mut group = std::mem::replace(&mut column.group, empty(self.group_rows)?);
            // Few different values need few bits.
            group.fold_to_target_fpp(FALSE_POSITIVES);
            let mut bits = Vec::new();
            group.write_bitset(&mut bits).map_err(|_| unwritable())?;
            push_prefixed(&mut column.full, &bits);
            column.groups += 1;
        }
        self.rows = 0;
        Ok(())
    }

    /// The sealed blocks, one after the other, and where they are in a file that goes on with them at `offset`.
    pub(crate) fn finish(
        mut self,
        offset: u64,
        (epoch, file_aad, random): (&EpochKey, &[u8], &dyn Random),
    ) -> Result<(Lookup, Vec<u8>), Error> {
        self.end_group()?;
        let key = epoch.derive(LABEL);
        let mut lookup = Lookup {
            groups: self.columns.first().map_or(0, |column| column.groups),
            blocks: Vec::new(),
        };
        let mut bytes = Vec::new();
        for column in self.columns {
            let aad = block_aad(file_aad, &column.name);
            let sealed = keys::seal(&key, random, &aad, &column.full).map_err(|_| unwritable())?;
            let at = offset + bytes.len() as u64;
            lookup.blocks.push((column.name, at, sealed.len() as u64));
            bytes.extend(sealed);
        }
        Ok((lookup, bytes))
    }
}

fn empty(rows: usize) -> Result<Sbbf, Error> {
    Sbbf::new_with_ndv_fpp(rows as u64, FALSE_POSITIVES).map_err(|_| unwritable())
}

fn block_aad(file_aad: &[u8], column: &str) -> Vec<u8> {
    let mut aad = Vec::from(LABEL);
    push_prefixed(&mut aad, file_aad);
    push_prefixed(&mut aad, column.as_bytes());
    aad
}

fn unwritable() -> Error {
    Error::Malformed {
        what: "the filters of a file cannot be written",
    }
}

/// Filters that were read, by everything that identifies them.
#[derive(Clone)]
pub(crate) struct Filters(Cache<FilterId, Arc<ColumnFilters>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct FilterId {
    table: TableName,
    path: String,
    sha256: String,
    epoch: [u8; 16],
    column: String,
}

/// The filters of one column of a file, one for each row group.
struct ColumnFilters {
    groups: Vec<Sbbf>,
    bytes: u32,
}

impl Filters {
    pub(crate) fn new() -> Self {
        let weight = |id: &FilterId, filters: &Arc<ColumnFilters>| {
            filters
                .bytes
                .saturating_add(u32::try_from(id.path.len()).unwrap_or(0) + 512)
        };
        Self(
            Cache::builder()
                .weigher(weight)
                .max_capacity(MEMORY_MAX)
                .time_to_live(KEPT)
                .build(),
        )
    }

    /// Forgets everything.
    pub(crate) fn purge(&self) {
        self.0.invalidate_all();
    }

    /// For each row group of a file, whether a row of it may have one of these values in this column; `None` where no
    /// filter tells.
    pub(crate) async fn may_have(
        &self,
        (table, store): (&TableName, &Arc<dyn ObjectStore>),
        (file, epoch): (&DataFile, &EpochKey),
        lookup: &Lookup,
        (column, values): (&str, &[&str]),
    ) -> Result<Option<Vec<bool>>, Error> {
        let block = lookup.blocks.iter().find(|(name, ..)| name == column);
        let Some((_, at, length)) = block else {
            return Ok(None);
        };
        let id = FilterId {
            table: table.clone(),
            path: file.path.clone(),
            sha256: file.sha256.clone(),
            epoch: file.key.epoch.epoch_id,
            column: column.to_owned(),
        };
        let filters = match self.0.get(&id) {
            Some(filters) => filters,
            None => {
                let sealed = read(store, file, (*at, *length)).await?;
                let aad = block_aad(&table.file_aad(&file.path), column);
                let opened = keys::open(&epoch.derive(LABEL), &aad, &sealed);
                let opened = opened.map_err(|_| damaged())?;
                let filters = Arc::new(parse(&opened, lookup.groups).ok_or_else(damaged)?);
                self.0.insert(id, Arc::clone(&filters));
                filters
            }
        };
        let may_have = |group: &Sbbf| values.iter().any(|value| group.check(*value));
        Ok(Some(filters.groups.iter().map(may_have).collect()))
    }
}

async fn read(
    store: &Arc<dyn ObjectStore>,
    file: &DataFile,
    (at, length): (u64, u64),
) -> Result<Bytes, Error> {
    let end = at.checked_add(length).filter(|end| *end <= file.size);
    let end = end
        .filter(|_| length <= BLOCK_BYTES_MAX)
        .ok_or_else(damaged)?;
    let path = Path::parse(&file.path).map_err(|_| damaged())?;
    match store.get_range(&path, at..end).await {
        Ok(bytes) => Ok(bytes),
        Err(object_store::Error::NotFound { .. }) => Err(Error::Tampered {
            what: "a data file is missing",
        }),
        Err(error) => match store.head(&path).await {
            Ok(meta) if meta.size != file.size => Err(damaged()),
            _ => Err(unavailable(error)),
        },
    }
}

fn parse(mut block: &[u8], groups: usize) -> Option<ColumnFilters> {
    let bytes = u32::try_from(block.len()).ok()?;
    let mut found = Vec::with_capacity(groups.min(block.len()));
    for _ in 0..groups {
        let (length, rest) = block.split_first_chunk()?;
        let (bits, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        // A filter is a number of blocks of 32 bytes.
        if bits.is_empty() || bits.len() % 32 != 0 {
            return None;
        }
        found.push(Sbbf::new(bits));
        block = rest;
    }
    block.is_empty().then_some(ColumnFilters {
        groups: found,
        bytes,
    })
}

fn damaged() -> Error {
    Error::Tampered {
        what: "the filters of a file do not open",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableKind;
    use crate::table::testing::World;
    use arrow::array::StringArray;
    use arrow::datatypes::Field;
    use object_store::memory::InMemory;

    const PATH: &str = "stream=a/file.parquet";
    const AT: u16 = 1_000;

    fn batch(ids: impl Iterator<Item = u32>) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("action", DataType::Utf8, true),
            Field::new("record_id", DataType::Utf8, true),
            Field::new("order_no", DataType::Utf8, true),
        ]);
        let ids: Vec<_> = ids.collect();
        let texts = |of: fn(u32) -> Option<String>| {
            Arc::new(ids.iter().map(|id| of(*id)).collect::<StringArray>())
        };
        let columns: Vec<arrow::array::ArrayRef> = vec![
            texts(|_| Some("Thing.Did".to_owned())),
            texts(|id| Some(format!("id-{id}"))),
            texts(|id| (id % 2 == 0).then(|| format!("order-{}", id / 100))),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    /// Filters of rows 0..9,000 in row groups of 2,000, written in batches of 700, and a store that holds them.
    async fn written(world: &World) -> (Lookup, Vec<u8>, Arc<EpochKey>) {
        let epoch = world.epoch("acme", TableKind::Records).await;
        let schema = batch(0..0).schema();
        let mut writer = LookupWriter::begin(&schema, 9_000, 2_000).unwrap().unwrap();
        for from in (0..9_000).step_by(700) {
            writer.write(&batch(from..9_000.min(from + 700))).unwrap();
        }
        let aad = world.name("acme", TableKind::Records).file_aad(PATH);
        let (lookup, bytes) = writer
            .finish(u64::from(AT), (&epoch, &aad, &*world.random))
            .unwrap();
        (lookup, bytes, epoch)
    }

    async fn ask(
        world: &World,
        (lookup, bytes, epoch): (&Lookup, &[u8], &EpochKey),
        (path, column): (&str, &str),
        values: &[&str],
    ) -> Result<Option<Vec<bool>>, Error> {
        let mut whole = vec![0; usize::from(AT)];
        whole.extend(bytes);
        let file = DataFile::stored(path, whole.len() as u64);
        let store = InMemory::new();
        #[expect(clippy::disallowed_methods, reason = "the store of this test")]
        store.put(&Path::from(path), whole.into()).await.unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let name = world.name("acme", TableKind::Records);
        let asked = Filters::new();
        let place = (&name, &store);
        asked
            .may_have(place, (&file, epoch), lookup, (column, values))
            .await
    }

    #[tokio::test]
    async fn filters_know_every_value_and_few_others() {
        let world = World::new();
        let (lookup, bytes, epoch) = written(&world).await;
        let written = (&lookup, &bytes[..], &*epoch);
        assert_eq!(lookup.groups(), 5);
        for id in [0, 1_999, 2_000, 5_432, 8_999] {
            let value = format!("id-{id}");
            let groups = ask(&world, written, (PATH, "record_id"), &[&value]).await;
            assert!(groups.unwrap().unwrap()[id / 2_000], "{id}");
        }
        let order = ask(&world, written, (PATH, "order_no"), &["order-60"]).await;
        assert_eq!(order.unwrap().unwrap(), [false, false, false, true, false]);
        let two = ["order-60", "order-1"];
        let orders = ask(&world, written, (PATH, "order_no"), &two).await;
        assert_eq!(orders.unwrap().unwrap(), [true, false, false, true, false]);
        let mut false_positives = 0;
        for id in 9_000..9_200 {
            let value = format!("id-{id}");
            let groups = ask(&world, written, (PATH, "record_id"), &[&value]).await;
            let groups = groups.unwrap().unwrap();
            false_positives += groups.iter().filter(|may_have| **may_have).count();
        }
        assert!(false_positives <= 20, "{false_positives} of 1,000");
        let none = ask(&world, written, (PATH, "action"), &["Thing.Did"]).await;
        assert_eq!(none.unwrap(), None, "no identifier");
    }

    #[tokio::test]
    async fn filters_tell_nothing_in_the_clear_and_open_nowhere_else() {
        let world = World::new();
        let (lookup, bytes, epoch) = written(&world).await;
        let of = |at: usize| lookup.blocks[at].clone();
        let (_, first, length) = of(0);
        // Few orders take few bits, and no block is mostly nothing, as an open filter of few values is.
        assert!(length > 5 * of(1).2);
        let block = &bytes[usize::try_from(first - u64::from(AT)).unwrap()..]
            [..usize::try_from(length).unwrap()];
        let zeros = block.iter().filter(|byte| **byte == 0).count();
        assert!(zeros < block.len() / 64, "{zeros}");

        let mut changed = bytes.clone();
        changed[40] ^= 1;
        let mut swapped = lookup.clone();
        swapped.blocks[0].0 = "order_no".to_owned();
        let mut beyond = lookup.clone();
        beyond.blocks[0].2 = u64::MAX;
        let mut fewer = lookup.clone();
        fewer.groups = 4;
        let other = world.epoch("globex", TableKind::Records).await;
        for (lookup, bytes, epoch, path, column) in [
            (&lookup, &changed, &epoch, PATH, "record_id"),
            (&swapped, &bytes, &epoch, PATH, "order_no"),
            (&beyond, &bytes, &epoch, PATH, "record_id"),
            (&fewer, &bytes, &epoch, PATH, "record_id"),
            (&lookup, &bytes, &other, PATH, "record_id"),
            (
                &lookup,
                &bytes,
                &epoch,
                "stream=a/other.parquet",
                "record_id",
            ),
        ] {
            let found = ask(&world, (lookup, bytes, epoch), (path, column), &["id-1"]).await;
            assert!(matches!(found, Err(Error::Tampered { .. })), "{found:?}");
        }
    }

    #[test]
    fn small_files_have_none() {
        let schema = batch(0..0).schema();
        assert!(
            LookupWriter::begin(&schema, 4_095, 2_000)
                .unwrap()
                .is_none()
        );
    }
}
