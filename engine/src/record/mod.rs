//! A record, from the caller's bytes to a row: strict JSON, the normal form, redaction, and the Arrow batch.
//!
//! ```text
//! bytes  --json-->  Value  --parse-->  AuditRecord  --redact-->  StoredRecord  --batch-->  RecordBatch
//!                                        \--canonical--> payload hash                        --restore--> the reader's
//! ```
//! Invariant: everything here is pure. No I/O, no clock of its own, no DataFusion, no deltalake.

pub mod batch;
pub mod canonical;
mod change;
mod fields;
pub mod json;
pub mod parse;
pub mod redact;
pub mod restore;
pub mod schema;
pub mod stored;

pub use change::Secrets;
pub use json::Violation;
pub use parse::{AuditRecord, Refusal, Terms, parse};
pub use redact::{Placement, Redactor};
pub use stored::{Promoted, StoredRecord};
