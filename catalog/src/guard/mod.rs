//! The guard: the only place that decides, and the only source of permits.

mod decision;
mod denial;
mod permit;

pub use decision::Decision;
pub use denial::Denial;
pub use permit::{
    Operation, OperationKind, Permit, PolicyRead, PolicyWrite, Read, TenantAdmin, Write,
};
