//! The predicates that may be evaluated on rows that the caller does not see.
//!
//! Whatever runs below the guard runs on stored rows, before masks and before the tenant is asserted. An expression that
//! can fail would say in its error what it found there, and one that is dear would say it by its time. So only this
//! grammar passes: comparisons of a bare column with a literal of its own type, and AND, OR, NOT of those.

use arrow::datatypes::DataType;
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// Levels of AND, OR and NOT.
const DEPTH_MAX: usize = 32;

/// Whether a predicate passes. `type_of` knows the columns that the caller sees as they are stored, and their types.
pub(crate) fn is_leakproof(expr: &Expr, type_of: impl Fn(&str) -> Option<DataType>) -> bool {
    passes(expr, &type_of, DEPTH_MAX)
}

fn passes(expr: &Expr, type_of: &impl Fn(&str) -> Option<DataType>, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => type_of(&column.name),
        _ => None,
    };
    let compares = |column: &DataType, literal: &Expr| match literal {
        Expr::Literal(value, None) => value.data_type() == *column,
        _ => false,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::And | Operator::Or,
            right,
        }) => passes(left, type_of, depth) && passes(right, type_of, depth),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let is_comparison = matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
            );
            is_comparison
                && (column(left).is_some_and(|of| is_ordered(&of) && compares(&of, right))
                    || column(right).is_some_and(|of| is_ordered(&of) && compares(&of, left)))
        }
        Expr::Not(inner) => passes(inner, type_of, depth),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => column(inner).is_some(),
        Expr::Between(Between {
            expr, low, high, ..
        }) => column(expr)
            .is_some_and(|of| is_ordered(&of) && compares(&of, low) && compares(&of, high)),
        Expr::InList(InList { expr, list, .. }) => column(expr)
            .is_some_and(|of| is_ordered(&of) && list.iter().all(|member| compares(&of, member))),
        Expr::Like(Like {
            expr,
            pattern,
            escape_char: None,
            ..
        }) => column(expr).is_some_and(|of| of == DataType::Utf8 && compares(&of, pattern)),
        _ => false,
    }
}

fn is_ordered(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::Int64 | DataType::Timestamp(..)
    )
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{cast, col, in_list, lit, try_cast};

    use super::*;

    fn takes(expr: &Expr) -> bool {
        is_leakproof(expr, |name| match name {
            "action" => Some(DataType::Utf8),
            "leaf_index" => Some(DataType::Int64),
            "labels" => Some(DataType::Binary),
            _ => None,
        })
    }

    #[test]
    fn comparisons_of_a_column_with_a_literal_of_its_type_pass() {
        for expr in [
            col("action").eq(lit("a")),
            lit("a").lt(col("action")),
            col("action")
                .not_eq(lit("a"))
                .and(col("leaf_index").gt(lit(3_i64))),
            col("action").like(lit("a%")),
            col("action").ilike(lit("a%")),
            col("action").is_null().or(col("labels").is_not_null()),
            in_list(col("action"), vec![lit("a"), lit("b")], true),
            col("leaf_index").between(lit(1_i64), lit(2_i64)),
            !col("action").eq(lit("a")),
        ] {
            assert!(takes(&expr), "{expr}");
        }
    }

    #[test]
    fn everything_that_can_fail_or_look_elsewhere_does_not() {
        let mut deep = col("action").eq(lit("a"));
        for _ in 0..40 {
            deep = !deep;
        }
        for expr in [
            col("actor_id").eq(lit("a")),
            col("action").eq(col("action")),
            col("action").eq(lit(1_i64)),
            col("leaf_index").eq(lit(1_i32)),
            cast(col("action"), DataType::Int64).gt(lit(1_i64)),
            try_cast(col("action"), DataType::Int64).gt(lit(1_i64)),
            (col("leaf_index") / lit(0_i64)).eq(lit(1_i64)),
            col("labels").eq(lit("a")),
            col("action").like(col("action")),
            col("action").eq(lit("a")).or(col("actor_id").eq(lit("a"))),
            lit(true),
            col("action"),
            deep,
        ] {
            assert!(!takes(&expr), "{expr}");
        }
    }
}
