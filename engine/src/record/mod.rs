//! A record, from the caller's bytes to a row: strict JSON, the normal form, redaction, and the Arrow batch.
//!
//! ```text
//! bytes  --json-->  Value  --parse-->  AuditRecord  --redact-->  StoredRecord  --batch-->  RecordBatch
//! RecordBatch  --columns-->  /           \--canonical--> payload hash  |  ^  <--rows--     --restore, evolve--> the reader's
//!                                                                 frame (the write-ahead log)
//! ```
//! A [`RecordView`] is a record where it lies: in a frame, in the columns of a batch, or by itself.
//!
//! Invariant: everything here is pure. No I/O, no clock of its own, no DataFusion, no deltalake.

pub mod batch;
pub mod canonical;
mod change;
pub mod columns;
pub mod evolve;
mod fields;
pub mod frame;
mod jcs;
pub mod json;
pub mod layout;
pub mod parse;
pub mod redact;
pub mod restore;
pub mod rows;
pub mod schema;
mod splice;
pub mod stored;
mod table_columns;
#[cfg(test)]
pub(crate) mod testing;
mod view;

pub use change::Secrets;
pub use columns::{Columns, Row};
pub use json::Violation;
pub use parse::{AuditRecord, Refusal, Terms, parse};
pub use redact::{Placement, Redactor};
pub use rows::records_of;
pub(crate) use rows::views_of;
pub use stored::{Promoted, StoredRecord};
pub(crate) use view::RecordView;
