//! Ten writers of one tenant at the same time: none of their records is lost, none is there twice.

use std::sync::Arc;

use tests::ledger::Ledger;
use tests::{Setup, World};

use super::NIGHTLY;

const WRITERS: usize = 10;
const ROUNDS: usize = 20 * NIGHTLY;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "the counts of the run")]
async fn ten_writers_lose_and_double_nothing() {
    let setup = Setup {
        wal: "flush_age_ms = 50",
        ..Setup::default()
    };
    let world = Arc::new(World::start_as(setup).await);
    world.tenant("acme", "eu").await;
    let mut ledger = Ledger::of("acme", "eu");
    for _ in 0..ROUNDS {
        ledger.send(&world, WRITERS - 2, 2).await;
    }
    assert_eq!((ledger.refused, ledger.duplicates), (0, 0));
    ledger.check(&world).await;
    ledger.repeat(&world).await;
    ledger.check(&world).await;
    println!(
        "ten writers: {} records sent, {} acknowledged, each there once, each sent again in vain",
        ledger.sent(),
        ledger.acknowledged()
    );
}
