//! The harness of the integration tests: real servers on free ports, real tokens, real files.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness that cannot set up its world must stop the test"
)]
