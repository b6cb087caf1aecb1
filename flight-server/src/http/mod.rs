//! HTTP: records in, problems out, and what an operator's probes ask.
//!
//! ```text
//! router   path --> handler; every answer gets its request id, every request its count
//! admit    headers --> context --> the tenant's limits
//! records  context --> permit --> body --> engine::ingest --> receipts
//!                                  \--lines, a chunk at a time, while the rest arrives
//! exports  context --> permit --> engine::export --> job;  fetch: its files, by range, for callers and by links
//! ```
//!
//! The body is read last: nobody makes this server hold megabytes without being allowed to write.

mod admit;
mod batch;
mod body;
mod chosen;
mod cursor;
mod docs;
mod events;
mod exports;
mod fetch;
mod headers;
mod health;
mod integrity;
mod jobs;
mod lines;
mod links;
mod negotiation;
mod plans;
mod problems;
mod quarantine;
mod query;
mod receipt;
mod receipts;
mod records;
mod router;
mod rows;
mod schemas;

pub use router::{admin, silo};

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod exporting;
#[cfg(test)]
mod paging;
#[cfg(test)]
mod tests;
