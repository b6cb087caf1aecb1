//! Tests: worlds that differ only in what the caller must not see look the same to generated SQL.
//!
//! Everything that a caller can observe is compared: what a statement is described with, its plan, its rows, their batches
//! where no scheduler has a say in them, and what it fails with. Nothing is tried twice: see `generator` for why there is
//! no need. `TRAILHOUSE_SEED` in the environment is the number of the first statement, to see a run again.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::util::pretty::pretty_format_batches;
use catalog::context::Role;

use super::generator::{INVESTIGATOR, Manner, READER, STRICT_READER, Sees, statement};
use super::hidden_rows::{self, UNSEEN};
use super::leaks::in_order;
use super::source::Layout;
use super::testing::{
    CANARY, Caller, FOREIGN, ONE, OTHER, OWN, World, chain, collect, halves, records,
};

/// Statements of a run. A build with `TRAILHOUSE_NIGHTLY` set asks many more.
const STATEMENTS: u64 = if option_env!("TRAILHOUSE_NIGHTLY").is_some() {
    10_000
} else {
    300
};
/// The first statement's; each has the next.
const SEED: u64 = 1;
/// Of what is asked, in percent, so much has to be answered: refusals are easily the same.
const ANSWERED_MIN: u64 = 50;
/// Differences and refusals that are printed.
const PRINTED_MAX: usize = 5;

/// Two worlds as one caller sees them, each read in several streams and in a single one.
struct Pair {
    what: &'static str,
    sees: Sees,
    /// Whether the caller sees no value that has a canary.
    is_masked: bool,
    /// Whether batches of an answer are of one size.
    is_evened: bool,
    here: [Caller; 2],
    there: [Caller; 2],
}

/// A caller over rows that lie in several streams, and the same over one stream of batches.
fn read(
    caller: impl Fn() -> Caller,
    streams: Vec<Vec<RecordBatch>>,
    stream: Vec<RecordBatch>,
    layout: Layout,
) -> [Caller; 2] {
    let mut single = caller().reading(vec![stream], layout);
    single.limits.target_partitions = 1;
    [caller().reading(streams, layout), single]
}

/// Rows of all tenants in each other's midst.
fn mixed(caller: impl Fn() -> Caller, world: World, layout: Layout) -> [Caller; 2] {
    let streams = halves(&records(world));
    let stream = streams.concat();
    read(caller, streams, stream, layout)
}

/// Each tenant's rows by themselves.
fn apart(caller: impl Fn() -> Caller, world: World) -> [Caller; 2] {
    let rows = records(world);
    let of = |tenant: &str| {
        let tenants = rows["tenant_id"].as_string::<i32>().iter();
        let own = tenants.map(|found| found.map(|found| found == tenant));
        filter_record_batch(&rows, &own.collect()).unwrap()
    };
    let parts = [of(FOREIGN), of(OWN)];
    let streams = parts.iter().map(|part| vec![part.clone()]).collect();
    read(caller, streams, parts.to_vec(), Layout::Mixed)
}

/// Rows that a policy hides among the others, and batches that end anywhere.
fn hidden(role: Role, world: World, copies: usize, layout: Layout) -> [Caller; 2] {
    let rows = hidden_rows::records(world, 12, copies);
    let starts = (0..rows.num_rows()).step_by(5);
    let stream = starts.map(|start| rows.slice(start, 5.min(rows.num_rows() - start)));
    let policy = hidden_rows::policy(hidden_rows::ROWS);
    let caller = || Caller::under(world, role, &policy);
    read(caller, halves(&rows), stream.collect(), layout)
}

fn masked(what: &'static str, sees: Sees, here: [Caller; 2], there: [Caller; 2]) -> Pair {
    Pair {
        what,
        sees,
        is_masked: true,
        is_evened: false,
        here,
        there,
    }
}

fn clear(what: &'static str, sees: Sees, here: [Caller; 2], there: [Caller; 2]) -> Pair {
    Pair {
        is_masked: false,
        ..masked(what, sees, here, there)
    }
}

fn restricted(pair: Pair) -> Pair {
    Pair {
        sees: pair.sees.restricted(),
        is_evened: true,
        ..pair
    }
}

fn pairs() -> Vec<Pair> {
    let crowded = World { foreign: 4, ..ONE };
    let alone = |world| World {
        foreign: 0,
        ..world
    };
    let reader = |world| move || Caller::new(world, Role::Reader);
    let investigator = || Caller::new(ONE, Role::Investigator);
    let strict = || Caller::strict(ONE, Role::Reader);
    let evolved = |world: World| move || Caller::evolved(world, Role::Reader);
    let own = Layout::OneTenant;
    vec![
        masked(
            "Reader, rows of two tenants in each other's midst",
            READER,
            mixed(reader(ONE), ONE, Layout::Mixed),
            mixed(reader(OTHER), OTHER, Layout::Mixed),
        ),
        masked(
            "Reader, each tenant in a partition of its own",
            READER,
            apart(reader(ONE), ONE),
            apart(reader(OTHER), OTHER),
        ),
        masked(
            "Reader, a table of one tenant",
            READER,
            mixed(reader(ONE), alone(ONE), own),
            mixed(reader(OTHER), alone(OTHER), own),
        ),
        masked(
            "Reader, old records that are read as new ones",
            READER,
            mixed(evolved(ONE), ONE, Layout::Mixed),
            mixed(evolved(OTHER), OTHER, Layout::Mixed),
        ),
        masked(
            "Reader, the strict mode",
            STRICT_READER,
            mixed(strict, ONE, Layout::Mixed),
            mixed(strict, OTHER, Layout::Mixed),
        ),
        clear(
            "Investigator, rows of two tenants in each other's midst",
            INVESTIGATOR,
            mixed(investigator, ONE, Layout::Mixed),
            mixed(investigator, crowded, Layout::Mixed),
        ),
        clear(
            "Investigator, each tenant in a partition of its own",
            INVESTIGATOR,
            apart(investigator, ONE),
            apart(investigator, crowded),
        ),
        restricted(masked(
            "Reader under a row policy, rows of two tenants in each other's midst",
            READER,
            hidden(Role::Reader, ONE, 1, Layout::Mixed),
            hidden(Role::Reader, OTHER, 4, Layout::Mixed),
        )),
        restricted(clear(
            "Investigator under a row policy, a table of one tenant",
            INVESTIGATOR,
            hidden(Role::Investigator, alone(ONE), 0, own),
            hidden(Role::Investigator, alone(ONE), 4, own),
        )),
    ]
}

/// What a caller has observed.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    told: String,
    is_answered: bool,
}

async fn look(caller: &Caller, sql: &str, with_batches: bool) -> Seen {
    let described = match caller.planning().describe(sql).await {
        Ok(described) => format!("{described:?}"),
        Err(error) => chain(&error),
    };
    let mut explained = String::new();
    let planned = match caller.plan(sql).await {
        Ok(planned) => {
            let schema = planned.schema.to_string();
            // What EXPLAIN shows.
            explained.clone_from(&planned.account.text);
            let rows = collect(caller.verified(planned)).await;
            rows.map(|rows| (schema, rows))
        }
        Err(error) => Err(error),
    };
    let is_answered = planned.is_ok();
    let answered = match planned {
        Ok((schema, batches)) => {
            let rows = pretty_format_batches(&batches).unwrap().to_string();
            // No order was asked for, or it is told by the rows.
            let mut rows: Vec<&str> = rows.lines().collect();
            rows.sort_unstable();
            let sizes = batches.iter().map(RecordBatch::num_rows);
            let mut sizes: Vec<_> = sizes.filter(|_| with_batches).collect();
            // Which branch of a union answers first is the scheduler's to say, even in a single stream.
            if explained.contains("Union") {
                sizes.sort_unstable();
            }
            format!("{schema}\n{}\nbatches {sizes:?}", rows.join("\n"))
        }
        Err(error) => chain(&error),
    };
    Seen {
        told: [described, in_order(&explained), answered].join("\n---\n"),
        is_answered,
    }
}

/// What a statement's observation shows that it must not.
fn unseen(pair: &Pair, seen: &Seen) -> bool {
    let never = ["canary-foreign", "canary-payload", UNSEEN];
    never.iter().any(|word| seen.told.contains(word))
        || (pair.is_masked && seen.told.contains(CANARY))
}

/// What is told of a run.
#[derive(Default)]
struct Run {
    answered: BTreeMap<usize, (u64, u64)>,
    differences: Vec<String>,
    refusals: BTreeMap<String, u64>,
}

impl Run {
    fn all(&self) -> u64 {
        self.answered.values().map(|(answered, _)| answered).sum()
    }

    fn add(&mut self, at: usize, seen: &Seen) {
        let (answered, asked) = self.answered.entry(at).or_default();
        *asked += 1;
        *answered += u64::from(seen.is_answered);
        if !seen.is_answered {
            let reason = seen.told.rsplit("---\n").next().unwrap_or_default();
            let reason = reason.split(['{', '`', '\'']).next().unwrap_or_default();
            *self.refusals.entry(reason.to_owned()).or_default() += 1;
        }
    }
}

fn first_seed() -> u64 {
    let asked = std::env::var_os("TRAILHOUSE_SEED");
    let asked = asked.and_then(|seed| seed.to_str()?.parse().ok());
    asked.unwrap_or(SEED)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "the counts of the run")]
async fn two_worlds_look_the_same_to_generated_sql() {
    let (pairs, seed) = (pairs(), first_seed());
    let mut run = Run::default();
    for (number, seed) in (0..STATEMENTS).zip(seed..) {
        let number = usize::try_from(number).unwrap();
        let (at, of) = (number % pairs.len(), (number / pairs.len()) % 2);
        let pair = &pairs[at];
        let manner = [Manner::Total, Manner::Partial][of];
        let sql = statement(seed, pair.sees, manner);
        let with_batches = pair.is_evened || manner == Manner::Partial;
        let (here, there) = tokio::join!(
            look(&pair.here[of], &sql, with_batches),
            look(&pair.there[of], &sql, with_batches)
        );
        if here != there || unseen(pair, &here) {
            let what = pair.what;
            let difference = format!(
                "seed {seed}, {what}, {manner:?}: {sql}\nHERE\n{}\nTHERE\n{}",
                here.told, there.told
            );
            run.differences.push(difference);
        }
        run.add(at, &here);
    }
    let (all, differences) = (run.all(), run.differences.len());
    eprintln!(
        "{STATEMENTS} statements from seed {seed}: {all} answered, {} refused, {differences} differences",
        STATEMENTS - all
    );
    for (at, (answered, asked)) in &run.answered {
        eprintln!("  {answered} of {asked}: {}", pairs[*at].what);
    }
    for difference in run.differences.iter().take(PRINTED_MAX) {
        eprintln!("{difference}\n");
    }
    assert_eq!(differences, 0, "from seed {seed}");
    assert!(
        all * 100 >= STATEMENTS * ANSWERED_MIN,
        "{all} of {STATEMENTS} are answered: {:#?}",
        run.refusals
    );
}
