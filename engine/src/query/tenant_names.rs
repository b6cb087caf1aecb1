//! Where a statement names a tenant.
//!
//! Naming is the catalog of a table, or comparing: `tenant_id = 'x'`, `<>`, IN, LIKE and their like. Other expressions over
//! `tenant_id` are evaluated; what they see is one constant.

use std::ops::ControlFlow;

use catalog::guard::Denial;
use datafusion::logical_expr::expr::{Alias, Cast, TryCast};
use datafusion::logical_expr::{Expr, Operator};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, ObjectName, Query, Visit, Visitor};

use super::error::Error;
use super::statement;
use super::table_name::{AUDIT, INFORMATION_SCHEMA};

/// Refuses a query that names a catalog which is not the caller's, whether or not there is one of that name.
pub(super) fn check_catalogs(query: &Query, tenant: &str) -> Result<(), Error> {
    match query.visit(&mut Catalogs { tenant }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Denied(Denial::CrossTenantQuery)),
    }
}

/// The same for the name of one table.
pub(super) fn check_catalog(parts: &[String], tenant: &str) -> Result<(), Error> {
    match parts {
        [catalog, _, _, ..] if !is_own(catalog, tenant) => {
            Err(Error::Denied(Denial::CrossTenantQuery))
        }
        _ => Ok(()),
    }
}

struct Catalogs<'a> {
    tenant: &'a str,
}

impl Visitor for Catalogs<'_> {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let parts = statement::parts(relation).unwrap_or_default();
        match check_catalog(&parts, self.tenant) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
        let SqlExpr::CompoundIdentifier(parts) = expr else {
            return ControlFlow::Continue(());
        };
        match parts.as_slice() {
            [catalog, schema, _, _, ..] => {
                let is_schema = [AUDIT, INFORMATION_SCHEMA]
                    .iter()
                    .any(|known| schema.value.eq_ignore_ascii_case(known));
                if is_schema && !is_own(&catalog.value, self.tenant) {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// Whether an operator compares for being the same.
pub(super) fn names(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
            | Operator::RegexMatch
            | Operator::RegexIMatch
            | Operator::RegexNotMatch
            | Operator::RegexNotIMatch
            | Operator::LikeMatch
            | Operator::ILikeMatch
            | Operator::NotLikeMatch
            | Operator::NotILikeMatch
    )
}

/// The text of a literal, under casts.
pub(super) fn literal(expr: &Expr) -> Option<&str> {
    match uncast(expr) {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

/// The column that one side of a comparison is, under casts.
pub(super) fn column(expr: &Expr) -> Option<&Expr> {
    match uncast(expr) {
        column @ (Expr::Column(_) | Expr::OuterReferenceColumn(..)) => Some(column),
        _ => None,
    }
}

/// Whether a text is the caller's own tenant. Ids are compared in lower case.
pub(super) fn is_own(text: &str, tenant: &str) -> bool {
    text.eq_ignore_ascii_case(tenant)
}

/// The expression under casts.
pub(super) fn uncast(expr: &Expr) -> &Expr {
    under(expr).map_or(expr, uncast)
}

fn under(expr: &Expr) -> Option<&Expr> {
    match expr {
        Expr::Cast(Cast { expr, .. })
        | Expr::TryCast(TryCast { expr, .. })
        | Expr::Alias(Alias { expr, .. }) => Some(expr),
        _ => None,
    }
}
