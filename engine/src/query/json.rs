//! JSON in SQL: `->`, `->>`, `#>` and `#>>` as PostgreSQL has them, and functions that read one type each.
//!
//! `->` answers with JSON as text. The library's own answer is a union, which can be neither sorted nor grouped nor read
//! by most clients, so the functions that make one are not here. No function fails because of what a text holds: what is
//! not JSON, or not there, is NULL.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, ScalarUDF};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs;

/// The functions to register.
pub(super) fn functions() -> [Arc<ScalarUDF>; 9] {
    [
        udfs::json_as_text_udf(),
        udfs::json_contains_udf(),
        udfs::json_get_array_udf(),
        udfs::json_get_bool_udf(),
        udfs::json_get_float_udf(),
        udfs::json_get_int_udf(),
        udfs::json_get_json_udf(),
        udfs::json_get_str_udf(),
        udfs::json_length_udf(),
    ]
}

/// Turns the operators into functions.
pub(super) fn planner() -> Arc<dyn ExprPlanner> {
    Arc::new(JsonPlanner)
}

#[derive(Debug)]
struct JsonPlanner;

impl ExprPlanner for JsonPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow | BinaryOperator::HashArrow => udfs::json_get_json_udf(),
            BinaryOperator::LongArrow | BinaryOperator::HashLongArrow => udfs::json_as_text_udf(),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        if !expr.left.get_type(schema)?.is_string() {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { left, right, op } = expr;
        let is_path = matches!(
            op,
            BinaryOperator::HashArrow | BinaryOperator::HashLongArrow
        );
        if is_path && is_constant(&right) && right.get_type(schema)?.is_string() {
            // As text it would be one key, and the answer NULL.
            return plan_err!(
                "the path of #> and #>> is an array here: write ['a', 'b'] for '{{a,b}}'"
            );
        }
        let args = match left {
            // A longer path, and not the text of a text.
            Expr::ScalarFunction(inner) if is_get_json(&inner) && is_constant(&right) => {
                inner.args.into_iter().chain([right]).collect()
            }
            left => vec![left, right],
        };
        let call = ScalarFunction::new_udf(function, args);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}

fn is_get_json(function: &ScalarFunction) -> bool {
    let get_json = udfs::json_get_json_udf();
    function.func == get_json && function.args.iter().skip(1).all(is_constant)
}

/// Paths of several members are constants.
fn is_constant(member: &Expr) -> bool {
    matches!(member, Expr::Literal(_, _))
}
