//! What happens to records: ingest, table, guarded query, export.
//!
//! Invariant: no wire types and no status codes; `table` is the only module that names deltalake.

pub mod disk;
pub mod evidence;
pub mod export;
pub mod ingest;
pub mod proof;
pub mod query;
pub mod receipt;
pub mod record;
pub mod seal;
pub mod sequencer;
pub mod table;
pub mod wal;
