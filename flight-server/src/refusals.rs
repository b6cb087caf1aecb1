//! What is refused beside the guard, and leaves evidence all the same: statements, and requests beyond the limits.

use catalog::context::TenantContext;
use catalog::guard::{Permit, Read};
use engine::query;

use crate::limits::Refusals;
use crate::problem::Problem;
use crate::service::Service;

impl Service {
    /// The problem of a statement that was not planned; if it is the statement's, it is recorded. One query too many is
    /// recorded with others of its kind.
    pub fn refused(
        &self,
        caller: &TenantContext,
        permit: &Permit<Read>,
        sql: &str,
        error: query::Error,
    ) -> Problem {
        if matches!(error, query::Error::TooManyQueries) {
            self.rates.found_no_slot(caller);
        }
        let is_the_statements = error.is_the_statements();
        let problem = Problem::from(error);
        if is_the_statements {
            let statement = Some(query::strip_literals(sql));
            self.gate
                .refused(permit, problem.slug().as_str(), statement);
        }
        problem
    }

    /// Sees to it that requests which were refused for their number leave evidence: those of a window together, when it
    /// is over, or all there are.
    pub async fn record_refusals(&self, all: bool) {
        for refusals in self.rates.refusals(all) {
            let Refusals {
                first,
                operation,
                count,
                since,
            } = refusals;
            let recorded = self.gate.limited(&first, operation, count, since).await;
            if recorded.is_err() {
                tracing::warn!(tenant = %first.tenant(), count, "refusals left no evidence");
            }
        }
    }
}
