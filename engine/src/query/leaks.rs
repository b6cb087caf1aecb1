//! Tests: nothing that the caller must not see is in anything the caller observes.
//!
//! The layout is the worst there is: rows of two tenants interleaved in one file, read by operators whose errors quote
//! values. Two properties, over a list of hostile statements by channel (`noninterference` has the generated ones):
//!
//! - **no canary**: every foreign, hidden or masked value has a canary in it, and no canary comes out;
//! - **two worlds**: worlds that differ only in what the caller must not see look the same, byte for byte.

use catalog::context::Role;

use super::error::Error;
use super::testing::{CANARY, Caller, ONE, OTHER};

const HOSTILE: &str = include_str!("hostile.sql");

/// The statements of the list, and whether their answers do not depend on the order of rows.
pub(super) fn statements() -> impl Iterator<Item = (&'static str, bool)> {
    let lines = HOSTILE.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.map(|line| match line.strip_prefix('~') {
        Some(sql) => (sql, false),
        None => (line, true),
    })
}

/// What is observed, with its lines in order, and what a line lists: no order was asked for, or it is the same anyway. (The
/// planner lists the columns that a sort adds in the order of a hash table, and partitions put what they collect into a
/// list as they come.)
pub(super) fn in_order(observed: &str) -> String {
    let words = |line: &str| sorted(line.split([' ', ',', '[', ']', '|']), " ");
    let lines: Vec<String> = observed.lines().map(words).collect();
    sorted(lines.iter().map(String::as_str), "\n")
}

fn sorted<'a>(parts: impl Iterator<Item = &'a str>, by: &str) -> String {
    let mut parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    parts.sort_unstable();
    parts.join(by)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hostile_statement_brings_out_a_canary() {
    let caller = Caller::new(ONE, Role::Reader);
    for (sql, _) in statements() {
        let observed = caller.observes(sql).await;
        assert!(!observed.contains(CANARY), "{sql}\n{observed}");
        assert!(!observed.contains("Internal"), "{sql}\n{observed}");
    }
}

/// Callers from whom nothing of their own tenant is masked still see no other tenant and no hidden column.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_role_and_no_mode_brings_out_what_is_foreign_or_hidden() {
    let callers = [
        Caller::new(ONE, Role::Investigator),
        Caller::new(ONE, Role::AuditAdmin),
        Caller::strict(ONE, Role::Investigator),
    ];
    let unseen = ["canary-foreign", "canary-payload", "canary-layout"];
    for caller in callers {
        for (sql, _) in statements() {
            let observed = caller.observes(sql).await;
            for canary in unseen {
                assert!(!observed.contains(canary), "{sql}\n{observed}");
            }
            assert!(!observed.contains("Internal"), "{sql}\n{observed}");
        }
    }
}

/// Upcasters move masked values, values beside them and values that were cut out: nothing comes out on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hostile_statement_brings_out_a_canary_of_an_old_record() {
    let (one, other) = (
        Caller::evolved(ONE, Role::Reader),
        Caller::evolved(OTHER, Role::Reader),
    );
    for (sql, is_ordered) in statements() {
        let observed = one.observes(sql).await;
        assert!(!observed.contains(CANARY), "{sql}\n{observed}");
        assert!(!observed.contains("Internal"), "{sql}\n{observed}");
        if is_ordered {
            let there = other.observes(sql).await;
            assert_eq!(in_order(&observed), in_order(&there), "{sql}");
        }
    }
    // And something does happen to them.
    let sql = "SELECT context, labels, extras FROM records WHERE record_id = '01KDVDN0000000000000000003'";
    let shown = one.shows(sql).await;
    for moved in ["covert", "\"order\":", "attempt", "phone", "USD", "team"] {
        assert!(shown.contains(moved), "{moved}: {shown}");
    }
}

/// A step took the value of this column elsewhere, so that it sorts by nothing: which rows come first among equals is chance,
/// and hangs on nothing that is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_a_step_has_emptied_orders_nothing() {
    for world in [ONE, OTHER] {
        let caller = Caller::evolved(world, Role::Reader);
        let sql = "SELECT count(*) AS a, count(ticket) AS b, count(CAST(substr(ticket, 3) AS INT)) AS c FROM records";
        let shown = caller.shows(sql).await;
        assert!(shown.contains("| 12 | 0 | 0 |"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_worlds_look_the_same_to_hostile_statements() {
    let (one, other) = (
        Caller::new(ONE, Role::Reader),
        Caller::new(OTHER, Role::Reader),
    );
    for (sql, is_ordered) in statements() {
        if is_ordered {
            let (here, there) = (one.observes(sql).await, other.observes(sql).await);
            assert_eq!(in_order(&here), in_order(&there), "{sql}");
        }
    }
}

#[tokio::test]
async fn the_list_is_long_and_does_not_only_meet_refusals() {
    let caller = Caller::new(ONE, Role::Reader);
    let (mut answered, mut all) = (0, 0);
    for (sql, _) in statements() {
        all += 1;
        answered += usize::from(caller.rows(sql).await.is_ok());
    }
    assert!(all >= 250, "{all} statements");
    assert!(answered * 10 >= all * 4, "{answered} of {all} are answered");
}

#[tokio::test]
async fn a_table_of_one_tenant_that_holds_another_is_not_shown() {
    let caller = Caller::new(ONE, Role::Reader).betrayed();
    for sql in [
        "SELECT * FROM records",
        "SELECT action FROM records WHERE leaf_index < 500",
        "SELECT max(action) FROM records",
        "SELECT count(action) FROM records",
    ] {
        let error = caller.rows(sql).await.expect_err(sql);
        assert!(matches!(error, Error::Internal), "{sql}: {error:?}");
        assert!(!caller.observes(sql).await.contains(CANARY), "{sql}");
    }
    let alone = Caller::new(ONE, Role::Reader).alone();
    let rows = alone.shows("SELECT count(*) AS n FROM records").await;
    assert!(rows.contains("12"), "{rows}");
}
