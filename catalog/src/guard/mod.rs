//! The guard: the only place that decides, and the only source of permits.
//!
//! ```text
//! verified claims + headers ── Gate::identify ──▶ TenantContext
//! TenantContext + Request   ── Gate::authorize ─▶ Permit<Op> carrying a Decision, or a Denial
//! Mandate + Request         ── Gate::resume ────▶ the same, for what goes on without its caller
//! ```
//! In this order: the token's end, the tenant and its state, where its data lives, the caller's roles and scopes, the
//! tenant the request names, the policy, whom it lets export, its Rego module, the rows and the stream. Deny by default; both ways leave
//! evidence, except that what is only planned, or looked at, or goes on without its caller leaves it when it is denied.

mod admitted;
mod decision;
mod denial;
#[cfg(test)]
mod exported;
mod gate;
#[cfg(test)]
mod judged;
#[cfg(test)]
mod matrix;
mod permit;
mod question;
mod request;
mod rules;
#[cfg(test)]
mod tests;
mod visible;

pub use decision::Decision;
pub use denial::Denial;
pub use gate::Gate;
pub use permit::{
    Export, JobToken, Operation, OperationKind, Permit, PolicyRead, PolicyWrite, QuarantineDecide,
    QuarantineRead, Read, SchemaRead, SchemaWrite, TenantAdmin, Write,
};
pub use request::Request;
pub use rules::has_grounds;
