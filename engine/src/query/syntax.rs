//! Which clauses and expressions a query may consist of: an allow-list over its syntax tree.
//!
//! The planner drops some clauses in silence (samples, locks, hints, table versions), so a query that has one would be
//! answered as if it had not. Whatever is not named here is refused, also what a later parser may add.
//!
//! The same walk bounds how many relations the plan will have once common table expressions are put in where they are
//! named: a chain of them, each naming the one before twice, is short as a text and endless as a plan.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    GroupByExpr, LimitClause, ObjectName, OrderBy, OrderByKind, Query, Select, SelectFlavor,
    SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor, WildcardAdditionalOptions,
    WindowType,
};

use super::error::Error;
use super::limits::Limits;
use super::relations::{alias, joining, relation};

/// Admits a query, or says which part of it is refused.
pub(crate) fn admit(query: &Query, limits: &Limits) -> Result<(), Error> {
    let mut walk = Walk {
        limits,
        scopes: Vec::new(),
        pending: HashMap::new(),
        counts: Vec::new(),
        depth: 0,
        grouping_members: 0,
    };
    match query.visit(&mut walk) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(*error),
    }
}

struct Walk<'a> {
    limits: &'a Limits,
    /// Names of common table expressions in scope, with the relations each stands for.
    scopes: Vec<HashMap<String, usize>>,
    /// Queries of common table expressions that are about to be walked, by address, with their names.
    pending: HashMap<usize, String>,
    /// Relations counted so far in each query that is open.
    counts: Vec<usize>,
    /// Expressions that are open.
    depth: usize,
    /// Members of grouping sets so far.
    grouping_members: usize,
}

/// On with the walk, or out with a refusal.
pub(super) type Step = ControlFlow<Box<Error>>;

pub(super) fn refuse(what: &str) -> Step {
    ControlFlow::Break(Box::new(Error::not_allowed(format!(
        "{what} is not supported"
    ))))
}

pub(super) fn refuse_if(present: bool, what: &str) -> Step {
    if present {
        refuse(what)
    } else {
        ControlFlow::Continue(())
    }
}

fn exceeded(limit: usize, of: &str) -> Step {
    ControlFlow::Break(Box::new(Error::limit(format!(
        "a query has at most {limit} {of}"
    ))))
}

fn address(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

impl Visitor for Walk<'_> {
    type Break = Box<Error>;

    fn pre_visit_query(&mut self, query: &Query) -> Step {
        clauses(query)?;
        body(&query.body)?;
        if let Some(order_by) = &query.order_by {
            ordering(order_by)?;
        }
        let mut scope = HashMap::new();
        if let Some(with) = &query.with {
            for cte in &with.cte_tables {
                refuse_if(cte.from.is_some(), "FROM after a common table expression")?;
                alias(&cte.alias)?;
                let name = folded(&cte.alias.name.value, cte.alias.name.quote_style);
                // A recursive one names itself, and stands for what it is made of, once.
                if with.recursive {
                    scope.insert(name.clone(), 1);
                }
                self.pending.insert(address(&cte.query), name);
            }
        }
        self.scopes.push(scope);
        self.counts.push(0);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> Step {
        self.scopes.pop();
        let relations = self.counts.pop().unwrap_or_default();
        match self.pending.remove(&address(query)) {
            Some(name) => {
                if let Some(scope) = self.scopes.last_mut() {
                    scope.insert(name, relations.max(1));
                }
                ControlFlow::Continue(())
            }
            None => self.add(relations),
        }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> Step {
        let weight = match relation.0.as_slice() {
            [part] => part.as_ident().map_or(1, |ident| {
                let name = folded(&ident.value, ident.quote_style);
                let known = self.scopes.iter().rev().find_map(|scope| scope.get(&name));
                known.copied().unwrap_or(1)
            }),
            _ => 1,
        };
        self.add(weight)
    }

    fn pre_visit_select(&mut self, select: &Select) -> Step {
        // A set operation without a table still adds a branch to the plan.
        self.add(usize::from(select.from.is_empty()))?;
        selection(select)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> Step {
        relation(factor)
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> Step {
        self.depth += 1;
        if self.depth > self.limits.expression_depth_max {
            return exceeded(self.limits.expression_depth_max, "levels in an expression");
        }
        if let Expr::GroupingSets(members) | Expr::Cube(members) | Expr::Rollup(members) = expr {
            self.grouping_members += members.len();
            if self.grouping_members > self.limits.grouping_members_max {
                return exceeded(self.limits.grouping_members_max, "grouping sets");
            }
        }
        expression(expr)
    }

    fn post_visit_expr(&mut self, _expr: &Expr) -> Step {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, _statement: &Statement) -> Step {
        refuse("a statement inside a query")
    }
}

impl Walk<'_> {
    fn add(&mut self, relations: usize) -> Step {
        let Some(count) = self.counts.last_mut() else {
            return ControlFlow::Continue(());
        };
        *count = count.saturating_add(relations);
        if *count > self.limits.relations_max {
            return exceeded(self.limits.relations_max, "relations");
        }
        ControlFlow::Continue(())
    }
}

fn folded(name: &str, quote: Option<char>) -> String {
    match quote {
        Some(_) => name.to_owned(),
        None => name.to_ascii_lowercase(),
    }
}

fn clauses(query: &Query) -> Step {
    refuse_if(!query.locks.is_empty(), "FOR UPDATE or FOR SHARE")?;
    refuse_if(query.for_clause.is_some(), "FOR XML, JSON or BROWSE")?;
    refuse_if(query.settings.is_some(), "SETTINGS")?;
    refuse_if(query.format_clause.is_some(), "FORMAT")?;
    refuse_if(!query.pipe_operators.is_empty(), "the pipe syntax")?;
    refuse_if(query.fetch.is_some(), "FETCH (write LIMIT)")?;
    match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit_by, .. }) => {
            refuse_if(!limit_by.is_empty(), "LIMIT BY")
        }
        Some(LimitClause::OffsetCommaLimit { .. }) | None => ControlFlow::Continue(()),
    }
}

/// The set operations of a query. Iterative to the left, where a chain of them is deep.
fn body(body: &SetExpr) -> Step {
    let mut rest = body;
    loop {
        match rest {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => {
                return ControlFlow::Continue(());
            }
            SetExpr::SetOperation { left, right, .. } => {
                self::body(right)?;
                rest = left;
            }
            SetExpr::Table(_) => return refuse("TABLE"),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return refuse("a statement inside a query");
            }
        }
    }
}

fn ordering(order_by: &OrderBy) -> Step {
    refuse_if(order_by.interpolate.is_some(), "INTERPOLATE")?;
    match &order_by.kind {
        OrderByKind::All(_) => ControlFlow::Continue(()),
        OrderByKind::Expressions(keys) => {
            refuse_if(keys.iter().any(|key| key.with_fill.is_some()), "WITH FILL")
        }
    }
}

fn selection(select: &Select) -> Step {
    refuse_if(!select.optimizer_hints.is_empty(), "an optimizer hint")?;
    refuse_if(select.select_modifiers.is_some(), "a SELECT modifier")?;
    refuse_if(select.top.is_some(), "TOP (write LIMIT)")?;
    refuse_if(select.exclude.is_some(), "EXCLUDE after the select list")?;
    refuse_if(select.into.is_some(), "INTO")?;
    refuse_if(!select.lateral_views.is_empty(), "LATERAL VIEW")?;
    refuse_if(select.prewhere.is_some(), "PREWHERE")?;
    refuse_if(!select.connect_by.is_empty(), "CONNECT BY")?;
    refuse_if(!select.cluster_by.is_empty(), "CLUSTER BY")?;
    refuse_if(!select.distribute_by.is_empty(), "DISTRIBUTE BY")?;
    refuse_if(!select.sort_by.is_empty(), "SORT BY")?;
    refuse_if(select.value_table_mode.is_some(), "AS VALUE or AS STRUCT")?;
    refuse_if(
        !matches!(select.flavor, SelectFlavor::Standard),
        "FROM before SELECT",
    )?;
    match &select.group_by {
        GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers) => {
            refuse_if(!modifiers.is_empty(), "a GROUP BY modifier")?;
        }
    }
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => {}
            SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => {
                wildcard(options)?;
            }
            SelectItem::ExprWithAliases { .. } => return refuse("several names for one column"),
        }
    }
    for table in &select.from {
        for join in &table.joins {
            refuse_if(join.global, "GLOBAL")?;
            joining(&join.join_operator)?;
        }
    }
    ControlFlow::Continue(())
}

fn wildcard(options: &WildcardAdditionalOptions) -> Step {
    refuse_if(options.opt_ilike.is_some(), "ILIKE after *")?;
    refuse_if(options.opt_rename.is_some(), "RENAME after *")?;
    refuse_if(options.opt_alias.is_some(), "a name for *")
}

/// One expression without its parts: the walk comes to them by itself.
fn expression(expr: &Expr) -> Step {
    match expr {
        Expr::Function(called) => function(called),
        Expr::Cast { array, format, .. } => {
            refuse_if(*array || format.is_some(), "this form of CAST")
        }
        Expr::Like { any, .. } | Expr::ILike { any, .. } => refuse_if(*any, "LIKE ANY"),
        Expr::TypedString(literal) => refuse_if(literal.uses_odbc_syntax, "the ODBC syntax"),
        Expr::Substring { .. }
        | Expr::Trim { .. }
        | Expr::Overlay { .. }
        | Expr::Position { .. }
        | Expr::Extract { .. }
        | Expr::Ceil { .. }
        | Expr::Floor { .. }
        | Expr::AtTimeZone { .. }
        | Expr::Interval(_)
        | Expr::Identifier(_)
        | Expr::CompoundIdentifier(_)
        | Expr::CompoundFieldAccess { .. }
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Between { .. }
        | Expr::BinaryOp { .. }
        | Expr::SimilarTo { .. }
        | Expr::AnyOp { .. }
        | Expr::AllOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::Nested(_)
        | Expr::Value(_)
        | Expr::Case { .. }
        | Expr::Exists { .. }
        | Expr::Subquery(_)
        | Expr::GroupingSets(_)
        | Expr::Cube(_)
        | Expr::Rollup(_)
        | Expr::Tuple(_)
        | Expr::Struct { .. }
        | Expr::Named { .. }
        | Expr::Dictionary(_)
        | Expr::Map(_)
        | Expr::Array(_) => ControlFlow::Continue(()),
        _ => refuse("this kind of expression"),
    }
}

fn function(called: &Function) -> Step {
    refuse_if(called.uses_odbc_syntax, "the ODBC syntax")?;
    refuse_if(
        !matches!(called.parameters, FunctionArguments::None),
        "a function with parameters before its arguments",
    )?;
    match &called.over {
        Some(WindowType::WindowSpec(_) | WindowType::NamedWindow(_)) | None => {}
    }
    match &called.args {
        FunctionArguments::None => ControlFlow::Continue(()),
        FunctionArguments::Subquery(_) => refuse("a query as the argument of a function"),
        FunctionArguments::List(list) => {
            for clause in &list.clauses {
                match clause {
                    FunctionArgumentClause::OrderBy(_)
                    | FunctionArgumentClause::IgnoreOrRespectNulls(_) => {}
                    _ => return refuse("this clause in the arguments of a function"),
                }
            }
            for argument in &list.args {
                match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(_) | FunctionArgExpr::Wildcard) => {}
                    _ => return refuse("this form of argument"),
                }
            }
            ControlFlow::Continue(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::statement::gate;
    use super::*;

    #[test]
    fn clauses_that_the_planner_drops_are_refused() {
        for sql in [
            "SELECT * FROM records TABLESAMPLE BERNOULLI (10)",
            "SELECT * FROM records FOR UPDATE",
            "SELECT * FROM records WITH (NOLOCK)",
            "SELECT * FROM records FOR SYSTEM_TIME AS OF '2026-01-01'",
            "SELECT * INTO t FROM records",
            "FROM records SELECT action",
            "FROM records",
            "SELECT * FROM records |> LIMIT 1",
            "SELECT * FROM range(10)",
            "SELECT * FROM generate_series(1, 10)",
            "SELECT * FROM read_parquet('x')",
            "SELECT * FROM records FETCH FIRST 1 ROWS ONLY",
            "SELECT TOP 1 * FROM records",
            "SELECT * FROM records ORDER BY action LIMIT 1 BY action",
            "SELECT * FROM records SETTINGS a = 1",
            "TABLE records",
            "SELECT 1 UNION ALL TABLE records",
            "WITH t AS (DELETE FROM records) SELECT 1",
            "SELECT * ILIKE '%x%' FROM records",
            "SELECT * FROM records MATCH_RECOGNIZE (PATTERN (A) DEFINE A AS true)",
            "SELECT * FROM records PIVOT (count(*) FOR action IN ('a'))",
            "SELECT a FROM records START WITH a = 1 CONNECT BY a = b",
            "SELECT * FROM records CROSS APPLY (SELECT 1)",
            "SELECT * FROM records, UNNEST([1,2]) WITH OFFSET",
            "SELECT count(*) FROM records GROUP BY action WITH ROLLUP",
            "SELECT {fn now()}",
        ] {
            let error = gate(sql, &Limits::default()).expect_err(sql);
            assert!(
                matches!(
                    error,
                    Error::StatementNotAllowed { .. } | Error::InvalidQuery { .. }
                ),
                "{sql}: {error:?}"
            );
        }
    }

    #[test]
    fn a_chain_of_table_expressions_is_weighed_as_the_plan_it_becomes() {
        let mut sql = String::from("WITH t0 AS (SELECT action FROM records)");
        for step in 1..20 {
            let before = step - 1;
            sql.push_str(&format!(
                ", t{step} AS (SELECT a.action FROM t{before} a CROSS JOIN t{before} b)"
            ));
        }
        sql.push_str(" SELECT count(*) FROM t19");
        let error = gate(&sql, &Limits::default()).expect_err("2^19 relations");
        assert!(matches!(error, Error::LimitExceeded { .. }), "{error:?}");
        let chain = "WITH a AS (SELECT * FROM records), b AS (SELECT * FROM a), \
                     A2 AS (SELECT * FROM a JOIN b USING (record_id)) SELECT * FROM a2, b";
        gate(chain, &Limits::default()).expect("four relations");
    }
}
