//! The predicates that may be evaluated on rows that the caller does not see.
//!
//! Whatever runs below the guard runs on stored rows, before masks and before the tenant is asserted. An expression that
//! can fail would say in its error what it found there, and one that is dear would say it by its time. So only this
//! grammar passes: comparisons of a bare column with a literal of its own type, and AND, OR, NOT of those.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::tenant_names::uncast;

/// Levels of AND, OR and NOT.
const DEPTH_MAX: usize = 32;

/// What of a filter goes to storage: all of it, a bound that follows from it, or nothing. Storage may give more rows than
/// the filter wants, so a bound is enough.
pub(crate) fn below_the_guard(
    filter: &Expr,
    type_of: impl Fn(&str) -> Option<DataType>,
) -> Option<Expr> {
    if passes(filter, &type_of, DEPTH_MAX) {
        return Some(unnormalize_col(filter.clone()));
    }
    page_bound(filter, &type_of)
}

/// The bound on the first column that follows from a comparison of rows, `(created_at, record_id) < (…, …)`: how the next
/// page of a listing is asked for. Neither the row nor a cast of it goes to storage.
fn page_bound(filter: &Expr, type_of: &impl Fn(&str) -> Option<DataType>) -> Option<Expr> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = filter else {
        return None;
    };
    let at_most = match op {
        Operator::Lt | Operator::LtEq => true,
        Operator::Gt | Operator::GtEq => false,
        _ => return None,
    };
    let (Expr::ScalarFunction(row), Expr::Literal(ScalarValue::Struct(bound), _)) =
        (uncast(left), right.as_ref())
    else {
        return None;
    };
    let first = row.args.first().filter(|_| row.func.name() == "struct")?;
    let Expr::Column(column) = first else {
        return None;
    };
    let data_type = type_of(&column.name)?;
    let bound = ScalarValue::try_from_array(bound.columns().first()?, 0).ok()?;
    let is_comparable = bound.data_type() == data_type
        || matches!(
            (bound.data_type(), &data_type),
            (
                DataType::Timestamp(_, Some(_)),
                DataType::Timestamp(_, Some(_))
            )
        );
    // A coarser unit rounds towards zero, and both bounds include what they name.
    let bound = bound.cast_to(&data_type).ok().filter(|_| is_comparable)?;
    if bound.is_null() || !is_ordered(&data_type) {
        return None;
    }
    let column = unnormalize_col(first.clone());
    let bound = Expr::Literal(bound, None);
    let compared = if at_most {
        column.clone().lt_eq(bound)
    } else {
        column.clone().gt_eq(bound)
    };
    Some(compared.or(column.is_null()))
}

/// Whether a predicate passes. `type_of` knows the columns that the caller sees as they are stored, and their types.
#[cfg(test)]
fn is_leakproof(expr: &Expr, type_of: impl Fn(&str) -> Option<DataType>) -> bool {
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
    use arrow::datatypes::{Field, TimeUnit};
    use datafusion::common::scalar::ScalarStructBuilder;
    use datafusion::logical_expr::{cast, col, in_list, lit, try_cast};

    use super::super::functions::FUNCTIONS;
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

    #[test]
    fn a_comparison_of_rows_gives_a_bound_on_its_first_column() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let type_of = |name: &str| match name {
            "created_at" => Some(micros.clone()),
            "record_id" | "action" => Some(DataType::Utf8),
            _ => None,
        };
        let row = |first: &str, second: &str| {
            let function = FUNCTIONS.scalar_named("struct").expect("a function");
            function.call(vec![col(first), col(second)])
        };
        let at = |nanos| ScalarValue::TimestampNanosecond(nanos, Some("UTC".into()));
        let bound = |first: ScalarValue| {
            let pair = ScalarStructBuilder::new()
                .with_scalar(Field::new("c0", first.data_type(), true), first)
                .with_scalar(
                    Field::new("c1", DataType::Utf8, true),
                    ScalarValue::from("x"),
                );
            lit(pair.build().expect("a struct"))
        };
        let page = row("created_at", "record_id").lt(bound(at(Some(5_999))));
        let limit = lit(ScalarValue::TimestampMicrosecond(
            Some(5),
            Some("UTC".into()),
        ));
        let wanted = col("created_at")
            .lt_eq(limit)
            .or(col("created_at").is_null());
        assert_eq!(below_the_guard(&page, type_of), Some(wanted));
        for filter in [
            row("created_at", "record_id").eq(bound(at(Some(1)))),
            row("created_at", "record_id").lt(bound(at(None))),
            row("actor_id", "record_id").lt(bound(ScalarValue::from("x"))),
            row("action", "record_id").lt(bound(at(Some(1)))),
            row("action", "record_id").lt(bound(ScalarValue::from(1_i64))),
            row("created_at", "record_id").lt(row("created_at", "record_id")),
            bound(at(Some(1))).lt(row("created_at", "record_id")),
        ] {
            assert_eq!(below_the_guard(&filter, type_of), None, "{filter}");
        }
    }
}
