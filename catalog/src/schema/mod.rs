//! Schemas: what the records of a stream must look like, version by version, and how older ones are read as newer.
//!
//! ```text
//! author's JSON ──definition──▶ bounded, local, linear ──compatibility──▶ may the stream go there?
//!               ──upcaster────▶ steps from the version before             ──store──▶ sealed documents of the tenant
//! ```
//! A version is registered once and for good. Classes and promotions are the policy's, not a schema's.

mod checker;
mod compatibility;
mod definition;
mod documents;
mod error;
mod keywords;
mod pointer;
mod registered;
mod store;
#[cfg(test)]
mod tests;
mod upcaster;
mod version;

pub use checker::Checker;
pub use compatibility::{Comparison, Compatibility, Reason, compare};
pub use definition::{Definition, Mismatch, SCHEMA_BYTES_MAX};
pub use error::Error;
pub use pointer::{Part, Pointer, PointerError};
pub use registered::{Deprecation, Registered, Required, StreamSchemas, TenantSchemas};
pub use store::{Registration, Schemas};
pub use upcaster::{Cast, Step, Upcaster};
pub use version::SchemaVersion;
