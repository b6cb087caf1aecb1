//! Permits: the proof, by type, that the guard allowed an operation.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::evidence::{EvidenceReceipt, EvidenceRef};

use super::decision::Decision;
use super::denial::Denial;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OperationKind {
    /// Records come in.
    Write,
    /// Records go out.
    Read,
    /// Tenants are made and moved through their life.
    TenantAdmin,
    /// A policy is looked at.
    PolicyRead,
    /// A policy is replaced.
    PolicyWrite,
    /// Quarantined records are looked at.
    QuarantineRead,
    /// A quarantined record is released or discarded.
    QuarantineDecide,
    /// Schemas are looked at.
    SchemaRead,
    /// A schema is registered, or its end announced.
    SchemaWrite,
    /// A token for a job is given out.
    JobToken,
    /// Records are exported: asked for, followed, fetched.
    Export,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Write,
        Self::Read,
        Self::TenantAdmin,
        Self::PolicyRead,
        Self::PolicyWrite,
        Self::QuarantineRead,
        Self::QuarantineDecide,
        Self::SchemaRead,
        Self::SchemaWrite,
        Self::JobToken,
        Self::Export,
    ];

    /// The word in decisions and evidence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Write => "Write",
            Self::Read => "Read",
            Self::TenantAdmin => "TenantAdmin",
            Self::PolicyRead => "PolicyRead",
            Self::PolicyWrite => "PolicyWrite",
            Self::QuarantineRead => "QuarantineRead",
            Self::QuarantineDecide => "QuarantineDecide",
            Self::SchemaRead => "SchemaRead",
            Self::SchemaWrite => "SchemaWrite",
            Self::JobToken => "JobToken",
            Self::Export => "Export",
        }
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An operation as a type. Sealed: those below are all there are.
pub trait Operation: sealed::Sealed + Send + Sync + 'static {
    /// The operation as a value.
    const KIND: OperationKind;
}

mod sealed {
    /// Keeps `Operation` ours.
    pub trait Sealed {}
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}
        impl sealed::Sealed for $name {}
        impl Operation for $name {
            const KIND: OperationKind = OperationKind::$name;
        }
    )*};
}

operations! {
    /// Records come in.
    Write,
    /// Records go out.
    Read,
    /// Tenants are made and moved through their life.
    TenantAdmin,
    /// A policy is looked at.
    PolicyRead,
    /// A policy is replaced.
    PolicyWrite,
    /// Quarantined records are looked at.
    QuarantineRead,
    /// A quarantined record is released or discarded.
    QuarantineDecide,
    /// Schemas are looked at.
    SchemaRead,
    /// A schema is registered, or its end announced.
    SchemaWrite,
    /// A token for a job is given out.
    JobToken,
    /// Records are exported: asked for, followed, fetched.
    Export
}

/// The guard allowed `Op`. There is no other way to come by one than [`super::Gate`], which decides first.
pub struct Permit<Op> {
    decision: Arc<Decision>,
    evidence: EvidenceReceipt,
    operation: PhantomData<fn() -> Op>,
}

impl<Op> Permit<Op> {
    pub(super) fn new(decision: Arc<Decision>, evidence: EvidenceReceipt) -> Self {
        Self {
            decision,
            evidence,
            operation: PhantomData,
        }
    }

    /// What was decided.
    #[must_use]
    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }

    /// The receipt of the decision's evidence, for what goes on after the permit is gone.
    pub fn receipt(&self) -> EvidenceReceipt {
        self.evidence.clone()
    }

    /// Waits until the evidence of the decision is durable. Nothing leaves before.
    ///
    /// # Errors
    /// [`Denial::EvidenceUnavailable`] when it cannot be.
    pub async fn evidence_durable(&self) -> Result<EvidenceRef, Denial> {
        self.evidence
            .clone()
            .await
            .map_err(|_| Denial::EvidenceUnavailable)
    }
}

impl Permit<Export> {
    /// The same decision and evidence as a permit to read: an export is a guarded query. The decision goes on saying
    /// that it is an export.
    #[must_use]
    pub fn reading(&self) -> Permit<Read> {
        Permit::new(Arc::clone(&self.decision), self.receipt())
    }
}

impl<Op> fmt::Debug for Permit<Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("operation", &self.decision.operation)
            .finish_non_exhaustive()
    }
}
