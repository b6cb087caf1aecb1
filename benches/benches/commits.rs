//! What a commit costs by the size of its table, and what opening the table costs. Run: `cargo bench --bench commits`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark stops at the first fault and reports on standard output"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::{median, record};
use catalog::clock::{Clock, Random, SystemClock, SystemRandom};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyRing, Kms, LocalKms, TenantKeys};
use engine::record::batch;
use engine::table::{AppendOutcome, Root, Silo, Table, TableKind, Tables};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

const FILES: [usize; 3] = [10, 1_000, 20_000];
const COMMITS: i64 = 51;
/// Records of a commit.
const ROWS: i64 = 20;

/// What a process needs to open tables.
struct Process {
    tenant: TenantId,
    silo: SiloId,
    kms: Arc<dyn Kms>,
    keys: TenantKeys,
}

impl Process {
    fn tables(&self, silo: &Silo) -> Tables {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let stores = BTreeMap::from([(self.silo.clone(), silo.store())]);
        let ring = KeyRing::new(
            Arc::clone(&self.kms),
            stores,
            Arc::clone(&clock),
            Arc::clone(&random),
        );
        ring.enroll(&self.tenant, &self.silo, &self.keys).unwrap();
        Tables::new([silo.clone()], Arc::new(ring), clock, random)
    }

    /// Opens the records of the tenant as a process that starts now, and says how long that took.
    async fn open(&self, silo: &Silo) -> (Arc<Table>, Duration) {
        let tables = self.tables(silo);
        let started = Instant::now();
        let opened = tables.table(&self.tenant, &self.silo, TableKind::Records);
        let table = opened.await.unwrap();
        table.state().await.unwrap();
        (table, started.elapsed())
    }
}

/// One commit of one file, as a flush makes it.
async fn commit(table: &Table) {
    let state = table.state().await.unwrap();
    let app_id = "th.log:audit.default";
    let size = state.txn(app_id).unwrap_or(0);
    let rows: Vec<_> = (size..size + ROWS).map(record).collect();
    let batch = batch::records::<&str>(&rows, &[]).unwrap();
    let txns = vec![(app_id.to_owned(), size + ROWS)];
    let outcome = table.append(&state, vec![batch], txns, vec![]);
    assert!(matches!(
        outcome.await.unwrap(),
        AppendOutcome::Committed { .. }
    ));
}

async fn commits(table: &Table) -> Duration {
    let mut times = Vec::new();
    for _ in 0..COMMITS {
        let started = Instant::now();
        commit(table).await;
        times.push(started.elapsed());
    }
    median(times)
}

/// Puts every object of the silo where the file-system store looks for it.
async fn spill(silo: &Silo, folder: &Path) {
    let store = silo.store();
    let objects: Vec<_> = store.list(None).try_collect().await.unwrap();
    for object in objects {
        let path = folder.join(object.location.as_ref());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let found = store.get(&object.location).await.unwrap();
        std::fs::write(path, found.bytes().await.unwrap()).unwrap();
    }
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let silo = SiloId::parse("local").unwrap();
    let kms = LocalKms::open(&folder.path().join("keys"), Arc::new(SystemRandom)).unwrap();
    let keys = TenantKeys::create(&kms, &silo).await.unwrap();
    let process = Process {
        tenant: TenantId::parse("acme").unwrap(),
        silo: silo.clone(),
        kms: Arc::new(kms),
        keys,
    };
    let memory = Silo::over(silo.clone(), Arc::new(InMemory::new()));
    println!("{ROWS} records a commit, median of {COMMITS} commits; open: once");
    println!(
        "{:>8}  {:>12} {:>12}  {:>12} {:>12}",
        "files", "memory", "open", "fsync", "open"
    );
    for files in FILES {
        let (table, _) = process.open(&memory).await;
        while table.state().await.unwrap().file_count() < files {
            commit(&table).await;
        }
        let (table, open_memory) = process.open(&memory).await;
        let root = folder.path().join(format!("silo-{files}"));
        spill(&memory, &root).await;
        let disk = Silo::open(silo.clone(), &Root::folder(&root).unwrap()).unwrap();
        let (on_disk, open_disk) = process.open(&disk).await;
        let in_memory = commits(&table).await;
        let on_disk = commits(&on_disk).await;
        println!(
            "{files:>8}  {in_memory:>12.2?} {open_memory:>12.2?}  {on_disk:>12.2?} {open_disk:>12.2?}"
        );
    }
}
