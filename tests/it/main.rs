//! All integration tests are linked into one binary, so that they share one compile and one link.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its world must stop"
)]

mod faults;
mod ingest;
mod integrity;
mod isolation;
mod limits;
mod log;
mod nodes;
mod policies;
mod quarantine;
mod receipts;
mod redaction;
mod resources;
mod schemas;
mod seals;
mod stores;
mod tamper;
mod tidy;
mod trees;
