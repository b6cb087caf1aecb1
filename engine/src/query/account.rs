//! What there is to say of a plan: its text, and the tables that it reads with what stands between them and the caller.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::DefaultTableSource;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use catalog::ids::RecordId;
use catalog::keys::SecretKey;

use super::error::Error;
use super::guarded::GuardedTable;
use super::viewer::Viewer;
use super::{explain, sanitize};
use crate::receipt::{TableState, hexadecimal};

/// Seen only by callers from whom no row is hidden, as the version of the table is.
const LOG_POSITION: &str = "leaf_index";
/// Bytes of a word that stands for a version.
const WORD_BYTES: usize = 16;

/// A verified plan, told to its caller.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The plan before any optimizer, as EXPLAIN shows it; empty where the answer takes no plan.
    pub text: String,
    /// The caller's tables that it reads.
    pub tables: Vec<TableAccount>,
}

/// A table that a plan reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableAccount {
    /// Its name in SQL.
    pub name: String,
    /// Its columns that are masked for this caller.
    pub masked: BTreeSet<String>,
    /// Of one execution one.
    versions: BTreeSet<u64>,
    is_whole: bool,
}

impl Account {
    /// The account of a plan that was verified, for whom it was verified for.
    pub(super) fn of(plan: &LogicalPlan, viewer: &Viewer) -> Result<Self, Error> {
        let mut tables = BTreeMap::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                add(&mut tables, scan);
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(sanitize::own)?;
        Ok(Self {
            text: explain::text(plan, viewer)?,
            tables: tables.into_values().collect(),
        })
    }
}

impl TableAccount {
    /// Adds what another execution has seen of the table.
    pub(super) fn add(&mut self, other: &Self) {
        self.versions.extend(&other.versions);
    }

    /// The table's states as a receipt of this name tells them, each once. Whoever may not know of every row may not know
    /// how often the table was written to either: they get one word that says nothing, not even whether two receipts, or
    /// two executions of one answer, saw one state. It is an HMAC-SHA256 of receipt id, table name (its length before it)
    /// and versions.
    pub(super) fn states(&self, key: &SecretKey, receipt: RecordId) -> Vec<TableState> {
        let states = if self.is_whole {
            let versions = self.versions.iter();
            versions.map(|version| format!("v{version}")).collect()
        } else {
            vec![word(key, receipt, &self.name, &self.versions)]
        };
        let named = states.into_iter().map(|state| TableState {
            name: self.name.clone(),
            state,
        });
        named.collect()
    }
}

fn word(key: &SecretKey, receipt: RecordId, table: &str, versions: &BTreeSet<u64>) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose()) else {
        // Keys of any length are taken.
        return "o:".to_owned();
    };
    mac.update(&receipt.to_bytes());
    mac.update(&(table.len() as u64).to_be_bytes());
    mac.update(table.as_bytes());
    for version in versions {
        mac.update(&version.to_be_bytes());
    }
    let word = mac.finalize().into_bytes();
    format!("o:{}", hexadecimal(word.get(..WORD_BYTES).unwrap_or(&[])))
}

fn add(tables: &mut BTreeMap<&'static str, TableAccount>, scan: &TableScan) {
    let source = (scan.source.as_ref() as &dyn Any).downcast_ref::<DefaultTableSource>();
    let table = source.and_then(|source| {
        (source.table_provider.as_ref() as &dyn Any).downcast_ref::<GuardedTable>()
    });
    // The schema's own tables are made of what the session shows anyway.
    let Some(table) = table else {
        return;
    };
    let view = table.view();
    let account = tables
        .entry(table.table().as_str())
        .or_insert_with(|| TableAccount {
            name: table.table().to_string(),
            masked: BTreeSet::new(),
            versions: BTreeSet::from([table.version()]),
            is_whole: view.mask_of(LOG_POSITION).is_some(),
        });
    let columns = view.schema.fields().iter().map(|field| field.name());
    let masked = columns.filter(|name| {
        let mask = view.mask_of(name);
        mask.is_some_and(|mask| !mask.shows_all())
    });
    account.masked.extend(masked.cloned());
}

#[cfg(test)]
mod tests {
    use catalog::context::Role;

    use super::super::testing::{Caller, ONE};
    use super::*;

    async fn accounts(sql: &str) -> Vec<TableAccount> {
        let caller = Caller::new(ONE, Role::AuditAdmin);
        caller.plan(sql).await.expect(sql).account.tables
    }

    #[tokio::test]
    async fn every_table_that_is_read_is_told_of_once() {
        for (sql, expected) in [
            ("SELECT 1", vec![]),
            ("SHOW TABLES", vec![]),
            ("SELECT table_name FROM information_schema.tables", vec![]),
            ("SELECT count(*) FROM records", vec!["audit.records"]),
            (
                "SELECT action FROM records a WHERE EXISTS (SELECT 1 FROM evidence e WHERE e.action = a.action)",
                vec!["audit.evidence", "audit.records"],
            ),
            (
                "WITH x AS (SELECT * FROM records) SELECT * FROM x UNION ALL SELECT * FROM x",
                vec!["audit.records"],
            ),
        ] {
            let told = accounts(sql).await;
            let names: Vec<_> = told.iter().map(|table| table.name.as_str()).collect();
            assert_eq!(names, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn masked_columns_are_told() {
        let caller = Caller::new(ONE, Role::Reader);
        let planned = caller.plan("SELECT action, actor_id FROM records").await;
        let table = &planned.expect("planned").account.tables[0];
        assert!(table.masked.contains("actor_id"), "{:?}", table.masked);
        assert!(!table.masked.contains("action"), "{:?}", table.masked);
    }

    #[test]
    fn a_version_is_told_to_those_who_know_of_every_row() {
        let key = SecretKey::new([3; 32]);
        let receipts = ["01KDVDN0000000000000000001", "01KDVDN0000000000000000002"];
        let receipts = receipts.map(|id| RecordId::parse(id).unwrap());
        let state = |is_whole, version, receipt| {
            let table = TableAccount {
                name: "audit.records".to_owned(),
                masked: BTreeSet::new(),
                versions: BTreeSet::from([version]),
                is_whole,
            };
            table.states(&key, receipt)[0].state.clone()
        };
        assert_eq!(state(true, 17, receipts[0]), "v17");
        let words = [
            state(false, 17, receipts[0]),
            state(false, 18, receipts[0]),
            state(false, 17, receipts[1]),
        ];
        assert!(
            words
                .iter()
                .all(|word| word.len() == 34 && word.starts_with("o:"))
        );
        assert!(words[0] != words[1] && words[0] != words[2] && words[1] != words[2]);
        assert_eq!(words[0], state(false, 17, receipts[0]));
    }
}
