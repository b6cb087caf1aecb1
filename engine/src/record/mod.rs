//! A record, from the caller's bytes to a row: strict JSON, the normal form, redaction, and the Arrow batch.
//!
//! ```text
//! bytes  --json-->  Value  --parse-->  AuditRecord  --redact-->  StoredRecord  --batch-->  RecordBatch
//!                                        \--canonical--> payload hash
//! ```
//! Invariant: everything here is pure. No I/O, no clock of its own, no DataFusion, no deltalake.

pub mod schema;
