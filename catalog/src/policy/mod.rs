//! What a tenant's policy says: the bundle, how it is signed and stored, and which version a request is pinned to.
//!
//! ```text
//! YAML bytes ── bundle::Bundle::parse ──▶ Bundle          every reason against it in one answer
//!            ── store::Policies::apply ──▶ SignedBundle   the exact bytes, signed with the tenant's key
//!            ── store::Policies::current ─▶ PinnedPolicy  verified again at every load
//! ```
//! Invariant: nothing but `signed::SignedBundle::verify` makes a [`PinnedPolicy`] out of stored bytes.

pub mod bundle;
mod check;
pub mod column;
mod parse;
pub mod path;
pub mod rego;
pub mod row;
pub mod rule;
pub mod signed;
pub mod store;
#[cfg(test)]
mod tests;

pub use bundle::{
    Bundle, BundleRefused, ColumnName, ExportPolicy, FieldRule, PinnedPolicy, QueryMode,
    QueryPolicy, Residency, Retention, RetentionClass, StaleMode, WriteFailover,
};
pub use path::{FieldPath, PathError, Step};
pub use row::{RowPolicy, RowRule};
pub use rule::{Generalize, MaskProfile, MaskRule, WriteRule};
pub use signed::{SignedBundle, Unverified};
pub use store::{CurrentPolicy, Error, Policies};
