//! What a mask costs per row, by how the column is encoded. Run: `cargo bench --bench masks`.

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, StringArray};
use arrow::datatypes::Int32Type;
use udfs::{HashKey, Mask};

const ROWS: usize = 100_000;
const DISTINCT: usize = 2_000;
const ROUNDS: usize = 9;

#[expect(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]
fn main() {
    let values = || {
        (0..ROWS).map(|row| {
            format!(
                "arn:aws:iam::000000000042:user/person-{}",
                row * 7919 % DISTINCT
            )
        })
    };
    let text: ArrayRef = Arc::new(values().map(Some).collect::<StringArray>());
    let owned: Vec<String> = values().collect();
    let dictionary: DictionaryArray<Int32Type> = owned.iter().map(String::as_str).collect();
    let dictionary: ArrayRef = Arc::new(dictionary);
    let hash = Mask::Hash(HashKey::new(&[7; 32], "actor_id", 1));
    let run = |mask: &Mask, column: &ArrayRef| drop(black_box(mask.apply(column)));
    let medians = benches::medians(
        ROUNDS,
        &mut [
            ("HASH, text", &mut || run(&hash, &text)),
            ("HASH, dictionary", &mut || run(&hash, &dictionary)),
            ("REDACT, text", &mut || run(&Mask::Redact, &text)),
            ("NULLIFY, text", &mut || run(&Mask::Nullify, &text)),
        ],
    );
    println!("{ROWS} rows, {DISTINCT} distinct values, median of {ROUNDS} interleaved runs");
    for (name, time) in medians {
        println!(
            "{name:<18} {:>8.1} ns/row",
            time.as_secs_f64() * 1e9 / ROWS as f64
        );
    }
}
