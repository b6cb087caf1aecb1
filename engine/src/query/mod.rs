//! Guarded queries: no SQL that a client can write shows a foreign tenant's row, a value behind a mask, a hidden column,
//! or anything about them.
//!
//! ```text
//! text ──statement, syntax──▶ one query ──session, tables──▶ only what the decision allows can be named
//!      ──verify_logical (lineage, tenant_names)──▶ verified before any optimizer
//!      ──guarded, guarded_exec, rows, masking──▶ scans are opaque leaves: tenant, row policy, then masks, inside
//!      ──verify_physical, verify_scans──▶ VerifiedPlan ──run──▶ rows, after the evidence is durable ──answering──▶ and a receipt
//! ```
//! What queries use is bounded: each has a share of the process's `resources` (`slots`, `memory`, `spill`), and plans and
//! runs on threads that nothing else runs on (`planning`, `workers`).
//!
//! Every layer fails closed by itself. What injects the guards (`guarded`, `guarded_exec`) and what checks that they are
//! there (`verify_*`) share rules, not code.

mod about;
mod account;
mod answering;
#[cfg(test)]
mod answers;
mod bounded;
mod charged;
mod columns;
mod cut;
mod dialect;
mod error;
mod evened;
mod evolving;
mod explain;
mod fields;
mod footprint;
mod functions;
mod gauge;
#[cfg(test)]
mod generator;
mod guarded;
mod guarded_exec;
#[cfg(test)]
mod hidden_rows;
mod information;
mod json;
mod labels;
mod leakproof;
#[cfg(test)]
mod leaks;
mod limits;
mod lineage;
pub mod listing;
mod masking;
mod memory;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod noninterference;
mod patterns;
mod planning;
mod queries;
#[cfg(test)]
mod refusals;
mod relations;
mod resources;
mod reuse;
mod rows;
mod rules;
mod run;
mod sanitize;
mod segments;
mod session;
mod shape;
mod shown;
#[cfg(test)]
mod sizes;
mod slots;
mod source;
mod spill;
#[cfg(test)]
mod spilling;
mod statement;
mod strip;
mod syntax;
mod table_name;
mod tables;
mod tenant_names;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod upcasts;
mod verify_logical;
mod verify_masks;
mod verify_physical;
mod verify_rows;
mod verify_scans;
mod viewer;
mod workers;
mod yielding;
mod zoned;

pub use about::About;
pub use account::{Account, TableAccount};
pub use answering::{AnswerStream, Further, Part};
pub use datafusion::common::{ParamValues, ScalarValue};
pub use error::Error;
pub use limits::Limits;
pub use planning::Described;
pub use queries::{Queries, VisibleTable};
pub use resources::{Budget, Resources, SpillRoom, Usage};
pub use run::VerifiedPlan;
pub use strip::strip_literals;
