//! The index over real tables and real files: whatever becomes of the file, the answers are those of the table.

use std::ops::Range;

use catalog::clock::Timestamp;
use catalog::ids::{PolicyVersion, RecordId, StreamName};
use catalog::policy::RetentionClass;
use tempfile::TempDir;

use super::*;
use crate::ingest::outcome::Receipt;
use crate::record::canonical::payload_text;
use crate::record::testing::bare;
use crate::record::{StoredRecord, batch};
use crate::table::AppendOutcome;
use crate::table::testing::World;

fn place() -> Place {
    Place {
        tenant: TenantId::parse("acme").unwrap(),
        silo: SiloId::parse("local").unwrap(),
    }
}

fn key(number: u8) -> KeyDigest {
    [number; 32]
}

fn known(number: u8) -> Known {
    Known {
        payload: [!number; 32],
        receipt: Receipt {
            record_id: RecordId::from_bytes([number; 16]),
            policy_version: PolicyVersion::parse("tenant:acme@3").unwrap(),
            stream: StreamName::audit_default(),
            schema_version: None,
            leaf_index: i64::from(number),
            segment_id: (number % 2 == 1).then(|| format!("seg-{number}").into()),
            duplicate: true,
            promise: None,
        },
    }
}

fn text(bytes: [u8; 32]) -> String {
    let text = payload_text(&bytes);
    text.strip_prefix("hmac-sha256:").unwrap().to_owned()
}

fn stored(number: u8) -> StoredRecord {
    let known = known(number);
    StoredRecord {
        tenant_id: place().tenant,
        record_id: known.receipt.record_id,
        created_at: Timestamp::from_micros(i64::from(number)),
        ingested_at: Timestamp::from_micros(1),
        stream: known.receipt.stream,
        retention_class: RetentionClass::kept(),
        action: Some("Test.Done".to_owned()),
        schema_version: Some("1.0".to_owned()),
        policy_version: Some(known.receipt.policy_version.to_string()),
        leaf_index: Some(known.receipt.leaf_index),
        segment_id: known.receipt.segment_id.map(|segment| segment.to_string()),
        payload_hash: Some(payload_text(&known.payload)),
        key_digest: Some(text(key(number))),
        ..bare()
    }
}

async fn append(table: &Table, rows: Vec<StoredRecord>) -> u64 {
    let promoted: [&str; 0] = [];
    let rows = batch::records(&rows, &promoted).unwrap();
    let state = table.state().await.unwrap();
    let outcome = table.append(&state, vec![rows], vec![], vec![]).await;
    match outcome.unwrap() {
        AppendOutcome::Committed { version } => version,
        AppendOutcome::Conflict => panic!("nobody else writes"),
    }
}

async fn add(table: &Table, numbers: Range<u8>) -> u64 {
    append(table, numbers.map(stored).collect()).await
}

async fn caught_up(index: &Dedup, table: &Table) {
    let state = table.state().await.unwrap();
    index.catch_up(&place(), table, &state).await.unwrap();
}

/// Asserts that of the keys 0 to 99 exactly these are known, with everything that the table says of them.
async fn assert_knows(index: &Dedup, numbers: Range<u8>) {
    let keys: Vec<_> = (0..100).map(key).collect();
    let found = index.get_many(&place(), &keys).await.unwrap();
    for (number, found) in (0..100).zip(found) {
        let wanted = numbers.contains(&number).then(|| known(number));
        assert_eq!(found, wanted, "{number}");
    }
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join(FILE_NAME)
}

#[tokio::test]
async fn nothing_is_said_before_the_table_was_read() {
    let world = World::new();
    let table = world.records("acme").await;
    add(&table, 0..10).await;
    let mut without_key = stored(10);
    without_key.key_digest = None;
    append(&table, vec![without_key]).await;
    let index = Dedup::in_memory();
    let early = index.get_many(&place(), &[key(1)]).await;
    assert!(matches!(early, Err(Error::Stale)));
    caught_up(&index, &table).await;
    assert_knows(&index, 0..10).await;
    let few = index.get_many(&place(), &[key(3), key(77)]).await.unwrap();
    assert_eq!(few, [Some(known(3)), None]);
}

#[tokio::test]
async fn a_commit_is_taken_up_in_order_and_a_gap_is_noticed() {
    let world = World::new();
    let table = world.records("acme").await;
    let index = Dedup::in_memory();
    caught_up(&index, &table).await;
    let version = add(&table, 0..5).await;
    let entries = (0..5).map(|number| (key(number), known(number))).collect();
    index.apply(&place(), version, entries).await;
    assert_knows(&index, 0..5).await;
    // What the table says is only read for what was not applied.
    let state = table.state().await.unwrap();
    std::fs::remove_file(&world.data_files("acme")[0]).unwrap();
    index.catch_up(&place(), &table, &state).await.unwrap();

    add(&table, 5..8).await;
    let version = add(&table, 8..10).await;
    index
        .apply(&place(), version, vec![(key(8), known(8))])
        .await;
    let gap = index.get_many(&place(), &[key(8)]).await;
    assert!(matches!(gap, Err(Error::Stale)));
    caught_up(&index, &table).await;
    assert_knows(&index, 0..10).await;
}

/// Catching up takes a while. What is committed in the meantime is not forgotten when it ends.
#[tokio::test]
async fn catching_up_with_an_older_state_covers_nothing() {
    let world = World::new();
    let table = world.records("acme").await;
    let index = Dedup::in_memory();
    caught_up(&index, &table).await;
    add(&table, 0..3).await;
    let older = table.state().await.unwrap();
    // Somebody else's commit, then one of ours that is applied: there is a gap, and what is read for it is old.
    let version = add(&table, 3..5).await;
    index
        .apply(&place(), version, vec![(key(3), known(3))])
        .await;
    index.catch_up(&place(), &table, &older).await.unwrap();
    let found = index.get_many(&place(), &[key(3)]).await;
    assert!(matches!(found, Err(Error::Stale)), "{found:?}");
    caught_up(&index, &table).await;
    assert_knows(&index, 0..5).await;
    // Nor does one that ends last take back what a newer one has covered.
    index.catch_up(&place(), &table, &older).await.unwrap();
    assert_knows(&index, 0..5).await;
}

#[tokio::test]
async fn what_was_read_is_not_read_again_after_a_restart() {
    let (world, folder) = (World::new(), TempDir::new().unwrap());
    let table = world.records("acme").await;
    add(&table, 0..10).await;
    let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap();
    caught_up(&index, &table).await;
    let second = Dedup::open(folder.path(), CACHE_BYTES);
    assert!(matches!(second, Err(Error::InUse)), "{second:?}");
    drop(index);
    std::fs::remove_file(&world.data_files("acme")[0]).unwrap();
    add(&table, 10..12).await;
    let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap();
    caught_up(&index, &table).await;
    assert_knows(&index, 0..12).await;
}

#[tokio::test]
async fn a_damaged_or_foreign_file_gives_no_wrong_answer() {
    let (world, folder) = (World::new(), TempDir::new().unwrap());
    let table = world.records("acme").await;
    add(&table, 0..100).await;
    let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap();
    caught_up(&index, &table).await;
    drop(index);
    let sound = std::fs::read(file(&folder)).unwrap();
    let entry = sound.windows(32).position(|window| window == key(50));
    let entry = entry.expect("the key is in the file");
    let step = sound.len() / 60;
    let mut damages: Vec<Vec<u8>> = (0..60)
        .map(|n| n * step)
        .chain([0, 9, 64, 200, entry, entry + 31])
        .map(|at| {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x55;
            bytes
        })
        .collect();
    damages.extend([1, 100, 4_096, entry].map(|length| sound[..length].to_vec()));
    damages.extend([
        Vec::new(),
        vec![0; sound.len()],
        b"something else altogether".repeat(1_000),
        foreign(&folder),
    ]);
    for (n, bytes) in damages.into_iter().enumerate() {
        std::fs::write(file(&folder), bytes).unwrap();
        let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap_or_else(|error| {
            panic!("damage {n}: {error:?}");
        });
        caught_up(&index, &table).await;
        assert_knows(&index, 0..100).await;
    }
    let aside = folder.path().join(format!("{FILE_NAME}.damaged"));
    assert!(aside.exists());
}

/// A file of the same library and another program.
fn foreign(folder: &TempDir) -> Vec<u8> {
    const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("theirs");
    let path = folder.path().join("foreign");
    let database = redb::Database::create(&path).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(TABLE).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    drop(database);
    std::fs::read(path).unwrap()
}

#[tokio::test]
async fn a_file_that_is_overwritten_while_it_is_open_gives_no_wrong_answer() {
    let (world, folder) = (World::new(), TempDir::new().unwrap());
    let table = world.records("acme").await;
    add(&table, 0..100).await;
    // Without a cache every question goes to the file.
    let index = Dedup::open(folder.path(), 0).unwrap();
    caught_up(&index, &table).await;
    let length = std::fs::metadata(file(&folder)).unwrap().len();
    let garbage = vec![0xa7; usize::try_from(length).unwrap()];
    std::fs::write(file(&folder), garbage).unwrap();
    let keys: Vec<_> = (0..100).map(key).collect();
    if let Ok(found) = index.get_many(&place(), &keys).await {
        let wanted: Vec<_> = (0..100).map(|number| Some(known(number))).collect();
        assert_eq!(found, wanted);
    }
    add(&table, 100..101).await;
    caught_up(&index, &table).await;
    assert_knows(&index, 0..100).await;
}

#[tokio::test]
async fn a_table_that_was_replaced_or_put_back_is_read_anew() {
    let (world, folder) = (World::new(), TempDir::new().unwrap());
    let table = world.records("acme").await;
    add(&table, 0..10).await;
    let newest = add(&table, 10..20).await;
    let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap();
    caught_up(&index, &table).await;
    drop(index);

    let root = world.silo_path().join("tenants/acme/audit/records");
    let entry = format!("_delta_log/{newest:020}.json");
    std::fs::remove_file(root.join(entry)).unwrap();
    let index = Dedup::open(folder.path(), CACHE_BYTES).unwrap();
    caught_up(&index, &*world.records("acme").await).await;
    assert_knows(&index, 0..10).await;

    std::fs::remove_dir_all(root).unwrap();
    let table = world.records("acme").await;
    for number in 30..33 {
        add(&table, number..number + 1).await;
    }
    caught_up(&index, &table).await;
    assert_knows(&index, 30..33).await;
}

#[tokio::test]
async fn places_do_not_know_of_each_other() {
    let world = World::new();
    let table = world.records("acme").await;
    add(&table, 0..10).await;
    let index = Dedup::in_memory();
    caught_up(&index, &table).await;
    let elsewhere = Place {
        silo: SiloId::parse("us").unwrap(),
        ..place()
    };
    let stale = index.get_many(&elsewhere, &[key(1)]).await;
    assert!(matches!(stale, Err(Error::Stale)));
    index.forget(&place()).await.unwrap();
    let stale = index.get_many(&place(), &[key(1)]).await;
    assert!(matches!(stale, Err(Error::Stale)));
    caught_up(&index, &table).await;
    assert_knows(&index, 0..10).await;
}
