//! What a client sent and was told, and the comparison with what a server has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::ids::{SiloId, TenantId};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use engine::record::records_of;
use engine::seal::{Frontier, leaf_hash};
use engine::table::{ScanRequest, TableKind};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::{World, record};

/// Tries, a tenth of a second apart, after which something will not come any more.
const TRIES_MAX: usize = 900;
const BETWEEN: Duration = Duration::from_millis(100);

/// A record's id and its place in the log, as a receipt says.
type Told = (String, i64);

/// One tenant's client.
#[derive(Debug)]
pub struct Ledger {
    tenant: &'static str,
    silo: &'static str,
    sent: Vec<String>,
    told: BTreeMap<String, Told>,
    /// Answers that were no receipt.
    pub refused: u64,
    /// Receipts of what had been stored before.
    pub duplicates: u64,
}

impl Ledger {
    /// A client that has sent nothing.
    pub fn of(tenant: &'static str, silo: &'static str) -> Self {
        Self {
            tenant,
            silo,
            sent: Vec::new(),
            told: BTreeMap::new(),
            refused: 0,
            duplicates: 0,
        }
    }

    /// How many records were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.told.len()
    }

    /// How many records were sent.
    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// Sends new records: so many one by one at the same time, and so many as a batch.
    pub async fn send(&mut self, world: &World, single: usize, batch: usize) {
        let keys = self.new_keys(single + batch);
        let (one_by_one, together) = keys.split_at(single);
        let posts = one_by_one.iter().map(std::slice::from_ref);
        let posts = posts.chain([together]).filter(|keys| !keys.is_empty());
        let answers = join_all(posts.map(|keys| self.post(world, keys))).await;
        for (key, status, answer) in answers.into_iter().flatten() {
            self.note(key, status, &answer);
        }
    }

    /// Sends again what was not acknowledged, until all of it is.
    pub async fn settle(&mut self, world: &World) {
        for _ in 0..TRIES_MAX {
            let missing: Vec<String> = self
                .sent
                .iter()
                .filter(|key| !self.told.contains_key(*key))
                .cloned()
                .collect();
            if missing.is_empty() {
                return;
            }
            let answers = join_all(missing.chunks(1).map(|keys| self.post(world, keys))).await;
            for (key, status, answer) in answers.into_iter().flatten() {
                self.note(key, status, &answer);
            }
            tokio::time::sleep(BETWEEN).await;
        }
        assert_eq!(self.told.len(), self.sent.len(), "some are never stored");
    }

    /// Sends everything again: each gets the receipt it has.
    pub async fn repeat(&mut self, world: &World) {
        let keys = self.sent.clone();
        let before = self.duplicates;
        for chunk in keys.chunks(100) {
            for (key, status, answer) in self.post(world, chunk).await {
                self.note(key, status, &answer);
            }
        }
        assert_eq!(self.duplicates - before, keys.len() as u64);
    }

    /// Everything that was acknowledged is there, once, where its receipt says, and the seals hold.
    pub async fn check(&self, world: &World) {
        let rows = self.visible(world).await;
        let mut seen = BTreeSet::new();
        for (key, told) in &rows {
            assert!(self.sent.contains(key), "{key} was never sent");
            assert!(seen.insert(key), "{key} is there twice");
            if let Some(receipt) = self.told.get(key) {
                assert_eq!(receipt, told, "{key} is not where it was said to be");
            }
        }
        let leaves: BTreeSet<i64> = rows.iter().map(|(_, (_, leaf))| *leaf).collect();
        let count = i64::try_from(rows.len()).unwrap();
        assert_eq!(leaves, (0..count).collect(), "the log has a hole");
        let stream = "audit.default";
        let sealed = sealed(world, self.tenant, self.silo, TableKind::Records, stream).await;
        assert_eq!(sealed, count, "the tree is not over what is there");
    }

    /// What the tenant has, as soon as it has what was acknowledged.
    async fn visible(&self, world: &World) -> Vec<(String, Told)> {
        let mut last = String::new();
        for _ in 0..TRIES_MAX {
            match self.read(world).await {
                Ok(rows) => {
                    let there: BTreeSet<&String> = rows.iter().map(|(key, _)| key).collect();
                    let missing = self.told.keys().filter(|key| !there.contains(key)).count();
                    if missing == 0 {
                        return rows;
                    }
                    last = format!("{missing} acknowledged records are missing");
                }
                Err(error) => last = error,
            }
            tokio::time::sleep(BETWEEN).await;
        }
        assert_eq!(last, "", "{}", self.tenant);
        Vec::new()
    }

    async fn read(&self, world: &World) -> Result<Vec<(String, Told)>, String> {
        let sql = "SELECT idempotency_key, record_id, leaf_index FROM audit.records";
        let batches = world
            .query(self.tenant, self.silo, "Audit.Investigator", sql)
            .await?;
        let mut rows = Vec::new();
        for batch in batches {
            let text = |column: usize, row| batch.column(column).as_string::<i32>().value(row);
            let leaves = batch.column(2).as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let told = (text(1, row).to_owned(), leaves.value(row));
                rows.push((text(0, row).to_owned(), told));
            }
        }
        Ok(rows)
    }

    fn new_keys(&mut self, count: usize) -> Vec<String> {
        let first = self.sent.len();
        let keys: Vec<String> = (first..first + count)
            .map(|n| format!("{}-{n}", self.tenant))
            .collect();
        self.sent.extend_from_slice(&keys);
        keys
    }

    async fn post(&self, world: &World, keys: &[String]) -> Vec<(String, u64, Value)> {
        let token = world.token(self.tenant, &[], &["audit.write"]);
        let body = |key: &String| {
            let context = json!({ "of": key, "password": CANARY, "note": CANARY });
            record(self.tenant, key, json!({ "context": context })).to_string()
        };
        let bodies: Vec<String> = keys.iter().map(body).collect();
        let path = match keys {
            [_] => "/v1/audit/records",
            _ => "/v1/audit/records:batch",
        };
        let (status, answer) = world.post(self.silo, &token, path, bodies.join("\n")).await;
        let of = |(position, key): (usize, &String)| {
            let result = answer["results"].get(position);
            let of_line = result.map(|result| (result["status"].as_u64().unwrap(), result.clone()));
            let (status, answer) = of_line.unwrap_or((u64::from(status), answer.clone()));
            (key.clone(), status, answer)
        };
        keys.iter().enumerate().map(of).collect()
    }

    fn note(&mut self, key: String, status: u64, answer: &Value) {
        let Some(record_id) = answer["recordId"].as_str().filter(|_| status == 200) else {
            assert!(matches!(status, 429 | 503), "{key}: {status} {answer}");
            self.refused += 1;
            return;
        };
        let told = (record_id.to_owned(), answer["leafIndex"].as_i64().unwrap());
        let duplicate = answer["duplicate"] == true;
        self.duplicates += u64::from(duplicate);
        if let Some(before) = self.told.get(&key) {
            assert!(duplicate, "{key} was stored again");
            assert_eq!(before, &told, "{key} has two receipts");
        }
        self.told.insert(key, told);
    }
}

/// A value that is in every record, as it is and where the policy redacts it.
pub const CANARY: &str = "canary-Pw3Rt-value";

/// The number of a stream's rows in a table, whose newest commit has a tree over just these: made from the rows again,
/// its size and root are the same.
pub async fn sealed(world: &World, tenant: &str, silo: &str, kind: TableKind, stream: &str) -> i64 {
    let tenant = TenantId::from_stored(tenant).unwrap();
    let silo = SiloId::parse(silo).unwrap();
    let tables = &world.service.tables;
    let table = tables.table(&tenant, &silo, kind).await.unwrap();
    let state = table.state().await.unwrap();
    let request = ScanRequest {
        projection: (0..state.schema.fields().len()).collect(),
        predicate: None,
        target_partitions: 1,
    };
    let plan = table.scan(Arc::clone(&state), request).await.unwrap();
    let batches = collect(plan, Arc::new(TaskContext::default()))
        .await
        .unwrap();
    let mut leaves = Vec::new();
    for batch in &batches {
        for row in records_of(batch).unwrap() {
            if row.stream.as_str() == stream {
                leaves.push((row.leaf_index.unwrap(), leaf_hash(&row).unwrap()));
            }
        }
    }
    leaves.sort_unstable();
    let count = i64::try_from(leaves.len()).unwrap();
    let mut tree = Frontier::default();
    for (expected, (number, leaf)) in (0..).zip(leaves) {
        assert_eq!(number, expected, "a leaf of {stream} is missing or double");
        tree.push(leaf);
    }
    assert_eq!(state.txn(&format!("th.log:{stream}")).unwrap_or(0), count);
    if count > 0 {
        let said = state.info(&format!("th.tree:{stream}")).unwrap();
        assert_eq!(said["size"], count);
        assert_eq!(said["root"], URL_SAFE_NO_PAD.encode(tree.root()));
    }
    count
}
