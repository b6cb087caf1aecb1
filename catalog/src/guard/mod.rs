//! The guard: the only place that decides, and the only source of permits.
//!
//! ```text
//! verified claims + headers ── Gate::identify ──▶ TenantContext
//! TenantContext + Request   ── Gate::authorize ─▶ Permit<Op> carrying a Decision, or a Denial
//! ```
//! In this order: the token's end, the tenant and its state, where its data lives, the caller's roles and scopes, the
//! tenant the request names, the policy, its Rego module, the rows and the stream. Deny by default; both ways leave evidence, except that
//! what is only planned leaves it when it is denied.

mod decision;
mod denial;
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
    JobToken, Operation, OperationKind, Permit, PolicyRead, PolicyWrite, QuarantineDecide,
    QuarantineRead, Read, SchemaRead, SchemaWrite, TenantAdmin, Write,
};
pub use request::Request;
pub use rules::has_grounds;
