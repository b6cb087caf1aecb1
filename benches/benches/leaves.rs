//! What a leaf, a frame and a tree cost per record. Run: `cargo bench --bench leaves`.

use std::hint::black_box;

use benches::record;
use engine::record::frame::{decode_records, encode_records};
use engine::seal::{Frontier, Group, leaf_hash};

const RECORDS: i64 = 20_000;
const ROUNDS: usize = 9;

#[expect(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]
fn main() {
    let records: Vec<_> = (0..RECORDS).map(record).collect();
    let leaves: Vec<_> = records.iter().flat_map(leaf_hash).collect();
    let frame = encode_records(&records);
    let medians = benches::medians(
        ROUNDS,
        &mut [
            ("leaf", &mut || {
                for record in &records {
                    drop(black_box(leaf_hash(record)));
                }
            }),
            ("frontier", &mut || {
                let mut frontier = Frontier::default();
                frontier.extend(leaves.iter().copied());
                black_box(frontier.root());
            }),
            ("group and root", &mut || {
                black_box(Group::new(leaves.clone()).root());
            }),
            ("encode", &mut || {
                for group in records.chunks(200) {
                    black_box(encode_records(group));
                }
            }),
            ("decode", &mut || drop(black_box(decode_records(&frame)))),
        ],
    );
    println!(
        "{RECORDS} records with 3 classed values, {} bytes a record as a frame, median of {ROUNDS} interleaved runs",
        frame.len() / records.len()
    );
    for (name, time) in medians {
        let each = time.as_secs_f64() / records.len() as f64;
        println!(
            "{name:<16} {:>8.0} ns/record {:>10.0} records/s",
            each * 1e9,
            1.0 / each
        );
    }
}
