//! What exists and what is allowed: ids, clock, documents, tenants, policies, keys, nodes and leases, and the decision.
//!
//! Invariant: nothing here knows of DataFusion, of Delta tables or of HTTP; the crate builds and tests in seconds.

pub mod clock;
pub mod context;
pub mod documents;
pub mod evidence;
pub mod guard;
pub mod ids;
pub mod keys;
pub mod lease;
pub mod node;
pub mod policy;
pub mod schema;
pub mod store;
pub mod tenant;

#[cfg(test)]
mod world;
