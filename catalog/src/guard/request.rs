//! What a caller wants the gate to decide, beside the operation.

use crate::ids::{SiloId, StreamName, TenantId};

/// What is asked for, beside the operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The silo of the listener the request came in on.
    pub listener_silo: SiloId,
    /// The stream it names.
    pub stream: Option<StreamName>,
    /// The tenant it is about, where an operator acts from the system tenant.
    pub target: Option<TenantId>,
    /// The statement without its literals, for the evidence.
    pub statement: Option<String>,
}

impl Request {
    /// A request that names nothing.
    #[must_use]
    pub fn at(listener_silo: SiloId) -> Self {
        Self {
            listener_silo,
            stream: None,
            target: None,
            statement: None,
        }
    }

    /// Names a stream.
    #[must_use]
    pub fn with_stream(self, stream: StreamName) -> Self {
        Self {
            stream: Some(stream),
            ..self
        }
    }

    /// Names the tenant an operator's act is about.
    #[must_use]
    pub fn with_target(self, target: TenantId) -> Self {
        Self {
            target: Some(target),
            ..self
        }
    }

    /// Carries a statement, which has no literals any more.
    #[must_use]
    pub fn with_statement(self, statement: String) -> Self {
        Self {
            statement: Some(statement),
            ..self
        }
    }
}
