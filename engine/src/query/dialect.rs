//! The SQL that is read here: the parser's generic dialect, with operators like `->>` binding as tightly as in
//! PostgreSQL. Generic, `context->>'a' = 'b'` would be `context->>('a' = 'b')`.

use std::any::TypeId;

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, Precedence};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Below `+` and above comparisons (PostgreSQL, 4.1.6).
const OTHER_OPERATORS: u8 = 25;

/// The dialect of every statement.
#[derive(Debug)]
pub(super) struct AuditDialect;

/// The generic dialect's own answers.
macro_rules! as_generic {
    ($($name:ident)*) => {
        $(fn $name(&self) -> bool {
            GenericDialect {}.$name()
        })*
    };
}

impl Dialect for AuditDialect {
    /// The parser asks some things of a dialect by its type.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        match precedence {
            Precedence::PgOther => OTHER_OPERATORS,
            other => GenericDialect {}.prec_value(other),
        }
    }

    /// As in PostgreSQL (4.1.6), text is joined by an operator like the others: `c->>'a' || 'b'` is `(c->>'a') || 'b'`.
    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        match parser.peek_token_ref().token {
            Token::StringConcat => Some(Ok(OTHER_OPERATORS)),
            _ => GenericDialect {}.get_next_precedence(parser),
        }
    }

    fn is_delimited_identifier_start(&self, character: char) -> bool {
        GenericDialect {}.is_delimited_identifier_start(character)
    }

    fn is_identifier_start(&self, character: char) -> bool {
        GenericDialect {}.is_identifier_start(character)
    }

    fn is_identifier_part(&self, character: char) -> bool {
        GenericDialect {}.is_identifier_part(character)
    }

    as_generic! {
        allow_extract_custom
        allow_extract_single_quotes
        support_map_literal_syntax
        supports_array_join_syntax
        supports_array_typedef_with_brackets
        supports_asc_desc_in_column_definition
        supports_bitwise_shift_operators
        supports_comma_separated_set_assignments
        supports_comma_separated_trim
        supports_comment_on
        supports_comment_optimizer_hint
        supports_connect_by
        supports_constraint_keyword_without_name
        supports_create_index_with_clause
        supports_create_view_comment_syntax
        supports_cte_without_as
        supports_data_type_signed_suffix
        supports_detach
        supports_dictionary_syntax
        supports_empty_projections
        supports_explain_with_utility_options
        supports_extract_comma_syntax
        supports_filter_during_aggregation
        supports_from_first_select
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_install
        supports_interpolate
        supports_interval_options
        supports_key_column_option
        supports_left_associative_joins_without_parens
        supports_limit_by
        supports_limit_comma
        supports_load_extension
        supports_match_against
        supports_match_recognize
        supports_multiline_comment_hints
        supports_named_fn_args_with_assignment_operator
        supports_nested_comments
        supports_optimize_table
        supports_parens_around_table_factor
        supports_parenthesized_set_variables
        supports_partition_by_after_order_by
        supports_pipe_operator
        supports_prewhere
        supports_projection_trailing_commas
        supports_quote_delimited_string
        supports_select_format
        supports_select_item_multi_column_alias
        supports_select_wildcard_except
        supports_select_wildcard_exclude
        supports_select_wildcard_ilike
        supports_select_wildcard_rename
        supports_select_wildcard_replace
        supports_set_names
        supports_settings
        supports_start_transaction_modifier
        supports_string_escape_constant
        supports_struct_literal
        supports_try_convert
        supports_unicode_string_literal
        supports_update_order_by
        supports_user_host_grantee
        supports_values_as_table_factor
        supports_window_clause_named_window_reference
        supports_window_function_null_treatment_arg
        supports_with_fill
        supports_xml_expressions
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Expr;

    use super::*;

    /// The expression with all its brackets, and without those that were written.
    fn meaning(sql: &str) -> String {
        let expr = Parser::new(&AuditDialect)
            .try_with_sql(sql)
            .unwrap()
            .parse_expr();
        bracketed(&expr.unwrap())
    }

    fn bracketed(expr: &Expr) -> String {
        match expr {
            Expr::Nested(inner) => bracketed(inner),
            Expr::BinaryOp { left, op, right } => {
                format!("({} {op} {})", bracketed(left), bracketed(right))
            }
            Expr::UnaryOp { op, expr } => format!("({op} {})", bracketed(expr)),
            Expr::IsNull(inner) => format!("({} IS NULL)", bracketed(inner)),
            Expr::Like { expr, pattern, .. } => {
                format!("({} LIKE {})", bracketed(expr), bracketed(pattern))
            }
            Expr::InList { expr, list, .. } => {
                let list: Vec<String> = list.iter().map(bracketed).collect();
                format!("({} IN {list:?})", bracketed(expr))
            }
            other => other.to_string(),
        }
    }

    #[test]
    fn json_operators_bind_tighter_than_comparisons_and_looser_than_sums() {
        for (bare, meant) in [
            ("c->>'a' = 'b'", "(c->>'a') = 'b'"),
            ("c->'a'->>'b' LIKE 'x'", "((c->'a')->>'b') LIKE 'x'"),
            ("c->>'a' IS NULL AND d", "((c->>'a') IS NULL) AND d"),
            ("NOT c->>'a' IN ('b')", "NOT ((c->>'a') IN ('b'))"),
            ("c->1 + 2", "c->(1 + 2)"),
            ("c->>'a' || 'b'", "(c->>'a') || 'b'"),
            ("a || c->>'b' = 'd'", "((a || c)->>'b') = 'd'"),
            ("a || b * c || d", "(a || (b * c)) || d"),
            ("a + b < c AND d OR e", "(((a + b) < c) AND d) OR e"),
        ] {
            assert_eq!(meaning(bare), meaning(meant), "{bare}");
        }
    }

    #[test]
    fn everything_else_is_generic() {
        for sql in [
            "SELECT a[1], {'x': 1}, 'a\\'",
            "SELECT * EXCLUDE (a) FROM t WHERE b ILIKE 'x%' GROUP BY ALL",
            "SELECT count(*) FILTER (WHERE a > 1) FROM t CONNECT BY PRIOR a = b",
            "SELECT x FROM t /* a /* b */ c */ LIMIT 1, 2",
        ] {
            let generic = Parser::parse_sql(&GenericDialect {}, sql);
            let own = Parser::parse_sql(&AuditDialect, sql);
            assert_eq!(own, generic, "{sql}");
        }
    }
}
