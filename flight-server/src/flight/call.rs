//! One call: who makes it, and how it is answered.

use catalog::context::TenantContext;
use catalog::ids::CorrelationId;
use tonic::{Response, Status};

use crate::problem::{Problem, Slug};

use super::statement::Principal;

/// Why a call is not answered.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Something is wrong with it.
    Problem(Box<Problem>),
    /// Nothing is wrong with it, but it asks for what this server does not do. Clients take that from the code, and go
    /// on without.
    Unimplemented(&'static str),
}

impl Refusal {
    /// Whether the caller is refused for how much they ask for, or because there is no room.
    pub(crate) fn is_for_load(&self) -> bool {
        match self {
            Self::Problem(problem) => {
                matches!(problem.slug(), Slug::RateLimited | Slug::Unavailable)
            }
            Self::Unimplemented(_) => false,
        }
    }
}

impl<E: Into<Problem>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Problem(Box::new(error.into()))
    }
}

/// The caller cannot be understood.
pub(crate) fn malformed(detail: &str) -> Refusal {
    Problem::new(Slug::InvalidQuery, detail).into()
}

/// A fault of ours.
pub(crate) fn internal(detail: &str) -> Refusal {
    Problem::new(Slug::Internal, detail).into()
}

/// The status of a problem that this request met.
pub(crate) fn status(problem: impl Into<Problem>, correlation: &CorrelationId) -> Status {
    problem.into().correlated(correlation).into()
}

/// An authenticated caller of one call.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) context: TenantContext,
}

impl Caller {
    /// Whose statements and tickets are this caller's.
    pub(crate) fn principal(&self) -> Principal {
        Principal {
            tenant: self.context.tenant().clone(),
            subject: self.context.subject().to_owned(),
        }
    }

    pub(crate) fn correlation(&self) -> CorrelationId {
        self.context.correlation().clone()
    }

    /// A refusal as the caller gets it.
    pub(crate) fn status(&self, refusal: Refusal) -> Status {
        match refusal {
            Refusal::Problem(problem) => status(*problem, self.context.correlation()),
            Refusal::Unimplemented(what) => Status::unimplemented(what),
        }
    }

    /// An outcome as the caller gets it.
    pub(crate) fn answer<T>(&self, outcome: Result<T, Refusal>) -> Result<Response<T>, Status> {
        match outcome {
            Ok(answer) => Ok(Response::new(answer)),
            Err(refusal) => Err(self.status(refusal)),
        }
    }
}
