//! What the guards cost a query before it runs, and what its receipt costs while it does. Run:
//! `cargo bench --bench planning`; with two numbers behind `--` it has so many files and rounds.
//!
//! **Planning.** From the text of a statement to a verified physical plan: [`Queries::plan`] for a caller with masks, and for
//! the same under a row policy. That is the wait for a slot, the session of the request, the thread that plans, every guard
//! and every verifier; the permit is at hand. Beside it, from the text to a physical plan in a session of DataFusion's own
//! (see `bare`), made once, over the same encrypted table with the same pruning. Both find the table in a store in memory, and
//! both look for a newer version of it. What a plan costs to drop is not counted. Each statement is planned both ways in
//! every round, the first of the two in turns; shown are medians, and the median of the differences within a round.
//!
//! **Digest.** What [`AnswerDigest`] takes for a row of an answer: of all columns of the records, and of two.
//!
//! [`Queries::plan`]: engine::query::Queries::plan

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark stops at the first fault and reports on standard output"
)]

mod bare;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use benches::{median, medians};
use catalog::guard::{Permit, Read};
use engine::receipt::AnswerDigest;
use engine::record::batch;

use bare::BareSession;
use world::{World, own_record};

const FILES: usize = 1_000;
const ROUNDS: usize = 101;
const DIGEST_ROUNDS: usize = 9;
/// Rows of a batch, as queries make them.
const BATCH_ROWS: i64 = 4_096;
const BATCHES: usize = 16;

/// Statements that both sessions take, by what they do.
const STATEMENTS: [(&str, &str); 10] = [
    ("no table", "SELECT 1 AS one"),
    ("count", "SELECT count(*) AS n FROM records"),
    (
        "filter, group by",
        "SELECT action, count(*) AS n FROM records \
         WHERE created_at >= '2025-10-28T08:00:05Z' AND resource_type = 'AWS::EC2::Instance' \
         GROUP BY action ORDER BY n DESC LIMIT 10",
    ),
    (
        "one record",
        "SELECT * FROM records WHERE record_id = '00000000000000000000000042'",
    ),
    (
        "latest page",
        "SELECT * FROM records ORDER BY created_at DESC, record_id DESC LIMIT 100",
    ),
    (
        "a short time",
        "SELECT record_id, action FROM records \
         WHERE created_at >= '2025-10-28T08:00:05Z' AND created_at < '2025-10-28T08:00:06Z'",
    ),
    (
        "labels, context",
        "SELECT record_id, labels['env'] AS env, context FROM records WHERE labels['env'] = 'prod'",
    ),
    (
        "CTE, join",
        "WITH busy AS (SELECT trace_id, count(*) AS n FROM records GROUP BY trace_id HAVING count(*) > 1) \
         SELECT r.record_id, r.action, r.actor_id, busy.n \
         FROM records r JOIN busy ON r.trace_id = busy.trace_id WHERE r.resource_type = 'AWS::EC2::Instance'",
    ),
    (
        "window",
        "SELECT record_id, action, \
         row_number() OVER (PARTITION BY resource_type ORDER BY created_at DESC) AS place FROM records",
    ),
    (
        "count distinct",
        "SELECT resource_type, count(DISTINCT actor_id) AS actors FROM records GROUP BY resource_type",
    ),
];

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().filter_map(|word| word.parse().ok());
    let files = numbers.next().unwrap_or(FILES);
    let rounds = numbers.next().unwrap_or(ROUNDS);
    let world = World::start().await;
    let table = world.records(files).await;
    let state = table.state().await.unwrap();
    println!("Planning over {files} files, microseconds, medians of {rounds} interleaved rounds");
    let [masked, rows] = world.permits().await;
    let mut seen = None;
    for (caller, permit) in [("masks", &masked), ("masks and a row policy", &rows)] {
        let visible = world.queries.tables(permit).await.unwrap();
        let records = visible.iter().find(|table| table.name == "records");
        let columns = &records.unwrap().columns;
        let bare = BareSession::new(Arc::clone(&table), &state, columns);
        println!("\n| Reader, {caller} | bare | guarded | ratio | difference |");
        println!("|---|--:|--:|--:|--:|");
        for (name, sql) in STATEMENTS {
            same_columns(&world, permit, &bare, sql).await;
            let times = planned(&world, permit, &bare, (sql, rounds)).await;
            println!("| {name} | {} |", line(times));
        }
        seen.get_or_insert_with(|| Arc::clone(columns));
    }
    digests(&seen.unwrap());
}

/// What is compared must be the same question.
async fn same_columns(world: &World, permit: &Permit<Read>, bare: &BareSession, sql: &str) {
    let names = |schema: SchemaRef| -> Vec<String> {
        let fields = schema.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    };
    let guarded = world.queries.plan(permit, sql, None).await.unwrap();
    let bare = bare.plan(sql).await.unwrap();
    assert_eq!(names(bare.schema()), names(guarded.schema()), "{sql}");
}

/// How long planning took, without guards and with them, in each round.
async fn planned(
    world: &World,
    permit: &Permit<Read>,
    bare: &BareSession,
    (sql, rounds): (&str, usize),
) -> Vec<[Duration; 2]> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let mut pair = [Duration::ZERO; 2];
        for turn in [round, round + 1] {
            let started = Instant::now();
            if turn % 2 == 0 {
                let plan = bare.plan(sql).await;
                pair[0] = started.elapsed();
                drop(plan.unwrap());
            } else {
                let plan = world.queries.plan(permit, sql, None).await;
                pair[1] = started.elapsed();
                drop(plan.unwrap());
            }
        }
        times.push(pair);
    }
    times
}

fn line(times: Vec<[Duration; 2]>) -> String {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let mut differences: Vec<f64> = times
        .iter()
        .map(|[bare, guarded]| micros(*guarded) - micros(*bare))
        .collect();
    differences.sort_unstable_by(f64::total_cmp);
    let difference = differences[differences.len() / 2];
    let (bare, guarded) = times
        .into_iter()
        .map(|[bare, guarded]| (bare, guarded))
        .unzip();
    let (bare, guarded) = (micros(median(bare)), micros(median(guarded)));
    let ratio = guarded / bare;
    format!("{bare:.0} | {guarded:.0} | {ratio:.2} | {difference:+.0}")
}

fn digests(seen: &SchemaRef) {
    let rows: Vec<_> = (0..BATCH_ROWS).map(own_record).collect();
    let batch = batch::records::<&str>(&rows, &[]).unwrap();
    let project = |names: &mut dyn Iterator<Item = &str>| {
        let columns: Vec<usize> = names
            .map(|name| batch.schema().index_of(name).unwrap())
            .collect();
        batch.project(&columns).unwrap()
    };
    let wide = project(&mut seen.fields().iter().map(|field| field.name().as_str()));
    let narrow = project(&mut ["action", "leaf_index"].into_iter());
    let digest = |batch: &RecordBatch| {
        let mut digest = AnswerDigest::new(&batch.schema()).unwrap();
        for _ in 0..BATCHES {
            digest.update(batch).unwrap();
        }
        let rows = BATCHES * batch.num_rows();
        assert_eq!(digest.finish().rows, rows as u64);
    };
    let found = medians(
        DIGEST_ROUNDS,
        &mut [
            ("all columns", &mut || digest(&wide)),
            ("a text and a number", &mut || digest(&narrow)),
        ],
    );
    let rows = BATCHES * batch.num_rows();
    println!("\n| Digest of {rows} rows | columns | ns/row |");
    println!("|---|--:|--:|");
    for ((name, time), batch) in found.into_iter().zip([&wide, &narrow]) {
        let columns = batch.num_columns();
        let nanos = time.as_secs_f64() * 1e9 / rows as f64;
        println!("| {name} | {columns} | {nanos:.0} |");
    }
}
