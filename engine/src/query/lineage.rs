//! Which stored fields each column of a plan is made of, and what the plan does with them.
//!
//! Walks the plan from its leaves, carrying for every output column the set of fields it depends on, through aliases,
//! expressions, aggregates, windows, unions, subqueries and recursion. On the way it checks what the rules are about:
//!
//! - **filter sinks** (WHERE, HAVING, join conditions, FILTER, IN, ANY): every field must be one this caller may filter by;
//! - **sort sinks** (ORDER BY, also of windows and aggregates): every field must be one this caller may sort by;
//! - **tenant names**: a literal compared with `tenant_id` must be the caller's own tenant.
//!
//! GROUP BY, DISTINCT and PARTITION BY are no sinks: they work on what the caller sees. Whatever the walk does not know, it
//! refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, JoinType};
use datafusion::logical_expr::expr::{
    AggregateFunction, InList, InSubquery, Like, ScalarFunction, SetComparison, Sort,
    WindowFunction,
};
use datafusion::logical_expr::utils::{grouping_set_to_exprlist, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, Join, LogicalPlan, Operator, RecursiveQuery, Subquery,
    Window,
};

use super::columns::{Inputs, Lineage, find, only, unite};
use super::error::Error;
use super::fields::{Field, Fields};
use super::sanitize;
use super::table_name::TableName;
use super::tenant_names;
use super::viewer::{LABELS, TENANT, View, Viewer};

/// What the walk meets at a leaf.
pub(super) enum Leaf {
    /// A guarded table.
    Table(TableName, Arc<View>),
    /// The rows so far of the recursive query of this name.
    WorkTable(String),
    /// Rows without fields: metadata.
    Metadata,
}

/// Says what a table scan is, or refuses it.
pub(super) type LeafOf<'a> = dyn Fn(&LogicalPlan) -> Result<Leaf, Error> + 'a;

pub(super) struct Walk<'a> {
    viewer: &'a Viewer,
    leaf_of: &'a LeafOf<'a>,
    views: BTreeMap<TableName, Arc<View>>,
    /// Recursive queries that are being walked, innermost last.
    recursive: Vec<(String, Lineage)>,
    /// Inputs of the queries around the one that is being walked, innermost last.
    outer: Vec<Inputs>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(viewer: &'a Viewer, leaf_of: &'a LeafOf<'a>) -> Self {
        Self {
            viewer,
            leaf_of,
            views: BTreeMap::new(),
            recursive: Vec::new(),
            outer: Vec::new(),
        }
    }

    /// The lineage of a plan whose every part is allowed.
    pub(super) fn plan(&mut self, plan: &LogicalPlan) -> Result<Lineage, Error> {
        let lineage = self.node(plan)?;
        if lineage.len() == plan.schema().fields().len() {
            return Ok(lineage);
        }
        tracing::error!(
            node = plan.display().to_string().split(':').next(),
            "lineage lost a column"
        );
        Err(Error::Internal)
    }

    fn node(&mut self, plan: &LogicalPlan) -> Result<Lineage, Error> {
        match plan {
            LogicalPlan::TableScan(_) => self.scan(plan),
            LogicalPlan::Projection(projection) => {
                let inputs = self.inputs(&projection.input)?;
                self.each(&projection.expr, &inputs)
            }
            LogicalPlan::Filter(filter) => {
                let inputs = self.inputs(&filter.input)?;
                self.filter_sink(&filter.predicate, &inputs)?;
                Ok(only(inputs))
            }
            LogicalPlan::Sort(sort) => {
                let inputs = self.inputs(&sort.input)?;
                self.sort_sink(&sort.expr, &inputs)?;
                Ok(only(inputs))
            }
            LogicalPlan::Limit(limit) => {
                let bounds = limit.skip.iter().chain(&limit.fetch);
                for bound in bounds {
                    self.fields(bound, &Vec::new())?;
                }
                self.plan(&limit.input)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window),
            LogicalPlan::Join(join) => self.join(join),
            LogicalPlan::Union(union) => self.union(&union.inputs),
            LogicalPlan::Distinct(distinct) => self.distinct(distinct),
            LogicalPlan::Subquery(subquery) => self.subquery(subquery, &Vec::new()),
            LogicalPlan::SubqueryAlias(alias) => self.plan(&alias.input),
            LogicalPlan::Unnest(unnest) => {
                let input = self.plan(&unnest.input)?;
                let columns = unnest.dependency_indices.iter();
                Ok(columns
                    .map(|index| input.get(*index).cloned().unwrap_or_default())
                    .collect())
            }
            LogicalPlan::RecursiveQuery(query) => self.recursive(query),
            LogicalPlan::Values(values) => {
                for value in values.values.iter().flatten() {
                    self.fields(value, &Vec::new())?;
                }
                Ok(vec![Fields::new(); values.schema.fields().len()])
            }
            LogicalPlan::EmptyRelation(empty) => {
                Ok(vec![Fields::new(); empty.schema.fields().len()])
            }
            LogicalPlan::Repartition(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::Extension(_)
            | LogicalPlan::Dml(_)
            | LogicalPlan::Ddl(_)
            | LogicalPlan::Copy(_)
            | LogicalPlan::DescribeTable(_) => {
                Err(Error::not_allowed("a part of the statement is no query"))
            }
        }
    }

    fn inputs(&mut self, input: &LogicalPlan) -> Result<Inputs, Error> {
        let lineage = self.plan(input)?;
        Ok(vec![(Arc::clone(input.schema()), lineage)])
    }

    fn scan(&mut self, plan: &LogicalPlan) -> Result<Lineage, Error> {
        let columns = plan.schema().fields();
        match (self.leaf_of)(plan)? {
            Leaf::Table(table, view) => {
                self.views.insert(table, view);
                let field = |name: &String| Fields::from([Field::column(table, name)]);
                Ok(columns.iter().map(|column| field(column.name())).collect())
            }
            Leaf::WorkTable(name) => {
                let known = self.recursive.iter().rev().find(|(own, _)| *own == name);
                known
                    .map(|(_, lineage)| lineage.clone())
                    .ok_or(Error::Internal)
            }
            Leaf::Metadata => Ok(vec![Fields::new(); columns.len()]),
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Lineage, Error> {
        let inputs = self.inputs(&aggregate.input)?;
        let keys = grouping_set_to_exprlist(&aggregate.group_expr)
            .map_err(|error| sanitize::planning(&error))?;
        let mut lineage = Vec::new();
        for key in keys {
            lineage.push(self.fields(key, &inputs)?);
        }
        if matches!(aggregate.group_expr.first(), Some(Expr::GroupingSet(_))) {
            lineage.push(Fields::new());
        }
        lineage.extend(self.each(&aggregate.aggr_expr, &inputs)?);
        Ok(lineage)
    }

    fn window(&mut self, window: &Window) -> Result<Lineage, Error> {
        let inputs = self.inputs(&window.input)?;
        let made = self.each(&window.window_expr, &inputs)?;
        Ok(only(inputs).into_iter().chain(made).collect())
    }

    fn join(&mut self, join: &Join) -> Result<Lineage, Error> {
        let mut inputs = self.inputs(&join.left)?;
        // A lateral subquery on the right refers to the left.
        self.outer.push(inputs.clone());
        let right = self.plan(&join.right);
        self.outer.pop();
        inputs.push((Arc::clone(join.right.schema()), right?));
        for (own, other) in &join.on {
            self.filter_sink(own, &inputs)?;
            self.filter_sink(other, &inputs)?;
            self.fields(&own.clone().eq(other.clone()), &inputs)?;
        }
        if let Some(filter) = &join.filter {
            self.filter_sink(filter, &inputs)?;
        }
        let mut sides = inputs.into_iter().map(|(_, lineage)| lineage);
        let (left, right) = (
            sides.next().unwrap_or_default(),
            sides.next().unwrap_or_default(),
        );
        Ok(match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                [left, right].concat()
            }
            JoinType::LeftSemi | JoinType::LeftAnti => left,
            JoinType::RightSemi | JoinType::RightAnti => right,
            JoinType::LeftMark => [left, vec![Fields::new()]].concat(),
            JoinType::RightMark => [right, vec![Fields::new()]].concat(),
        })
    }

    fn union(&mut self, inputs: &[Arc<LogicalPlan>]) -> Result<Lineage, Error> {
        let mut united = Lineage::new();
        for input in inputs {
            unite(&mut united, self.plan(input)?);
        }
        Ok(united)
    }

    fn distinct(&mut self, distinct: &Distinct) -> Result<Lineage, Error> {
        match distinct {
            Distinct::All(input) => self.plan(input),
            Distinct::On(on) => {
                let inputs = self.inputs(&on.input)?;
                self.each(&on.on_expr, &inputs)?;
                self.sort_sink(on.sort_expr.as_deref().unwrap_or_default(), &inputs)?;
                self.each(&on.select_expr, &inputs)
            }
        }
    }

    /// Walks the recursive term until it adds nothing: fields only ever come to a set, so it ends.
    fn recursive(&mut self, query: &RecursiveQuery) -> Result<Lineage, Error> {
        let mut lineage = self.plan(&query.static_term)?;
        loop {
            self.recursive.push((query.name.clone(), lineage.clone()));
            let step = self.plan(&query.recursive_term);
            self.recursive.pop();
            let mut united = lineage.clone();
            unite(&mut united, step?);
            if united == lineage {
                return Ok(lineage);
            }
            lineage = united;
        }
    }

    fn subquery(&mut self, subquery: &Subquery, inputs: &Inputs) -> Result<Lineage, Error> {
        self.outer.push(inputs.clone());
        let lineage = self.plan(&subquery.subquery);
        self.outer.pop();
        lineage
    }

    fn each(&mut self, exprs: &[Expr], inputs: &Inputs) -> Result<Lineage, Error> {
        exprs.iter().map(|expr| self.fields(expr, inputs)).collect()
    }

    fn filter_sink(&mut self, predicate: &Expr, inputs: &Inputs) -> Result<(), Error> {
        for conjunct in split_conjunction(predicate) {
            let mut fields = self.fields(conjunct, inputs)?;
            if self.viewer.is_strict() && self.is_page_key(conjunct, inputs)? {
                fields.retain(|field| &*field.column != "record_id");
            }
            self.check_filterable(&fields)?;
        }
        Ok(())
    }

    fn check_filterable(&self, fields: &Fields) -> Result<(), Error> {
        for field in fields {
            let view = self.views.get(&field.table).ok_or(Error::Internal)?;
            if !self.viewer.may_filter(field, view) {
                return Err(Error::UnsupportedFilter {
                    field: field.to_string(),
                });
            }
        }
        Ok(())
    }

    fn sort_sink(&mut self, keys: &[Sort], inputs: &Inputs) -> Result<(), Error> {
        for key in keys {
            let fields = self.fields(&key.expr, inputs)?;
            if let Some(field) = fields.iter().find(|field| !self.viewer.may_sort(field)) {
                return Err(Error::UnsupportedSort {
                    field: field.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Whether this is `(created_at, record_id) < (…, …)` or its like, over literals: the next page of a listing.
    fn is_page_key(&mut self, conjunct: &Expr, inputs: &Inputs) -> Result<bool, Error> {
        let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq,
            right,
        }) = conjunct
        else {
            return Ok(false);
        };
        let Expr::ScalarFunction(key) = tenant_names::uncast(left) else {
            return Ok(false);
        };
        let [at, id] = key.args.as_slice() else {
            return Ok(false);
        };
        if key.func.name() != "struct" || !self.fields(right, inputs)?.is_empty() {
            return Ok(false);
        }
        let is_exactly = |fields: Fields, name: &str| {
            fields.len() == 1 && fields.iter().all(|field| &*field.column == name)
        };
        Ok(is_exactly(self.fields(at, inputs)?, "created_at")
            && is_exactly(self.fields(id, inputs)?, "record_id"))
    }

    /// The fields that an expression depends on, with everything in it checked.
    fn fields(&mut self, expr: &Expr, inputs: &Inputs) -> Result<Fields, Error> {
        let mut fields = Fields::new();
        expr.apply(|part| {
            self.part(part, inputs, &mut fields)
                .map_err(DataFusionError::from)
        })
        .map_err(sanitize::own)?;
        Ok(fields)
    }

    /// One part of an expression. `Jump` where its own parts have been looked at, or must not be.
    fn part(
        &mut self,
        part: &Expr,
        inputs: &Inputs,
        fields: &mut Fields,
    ) -> Result<TreeNodeRecursion, Error> {
        match part {
            Expr::Column(column) => fields.extend(find(inputs, column).ok_or(Error::Internal)?),
            Expr::OuterReferenceColumn(_, column) => {
                fields.extend(self.find_outer(column).ok_or(Error::Internal)?);
            }
            Expr::ScalarFunction(function) => {
                if let Some(entry) = self.label_entry(function, inputs) {
                    fields.insert(entry);
                    return Ok(TreeNodeRecursion::Jump);
                }
            }
            Expr::AggregateFunction(function) => {
                self.aggregated(function, inputs, fields)?;
                return Ok(TreeNodeRecursion::Jump);
            }
            Expr::WindowFunction(function) => {
                self.windowed(function, inputs, fields)?;
                return Ok(TreeNodeRecursion::Jump);
            }
            Expr::ScalarSubquery(subquery) => {
                let columns = self.subquery(subquery, inputs)?;
                fields.extend(columns.into_iter().flatten());
            }
            Expr::Exists(exists) => {
                self.subquery(&exists.subquery, inputs)?;
            }
            Expr::InSubquery(InSubquery { expr, subquery, .. })
            | Expr::SetComparison(SetComparison { expr, subquery, .. }) => {
                self.filter_sink(expr, inputs)?;
                for column in self.subquery(subquery, inputs)? {
                    self.check_filterable(&column)?;
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if tenant_names::names(*op) => {
                self.check_tenant(left, right, inputs)?;
                self.check_tenant(right, left, inputs)?;
            }
            Expr::Like(Like { expr, pattern, .. })
            | Expr::SimilarTo(Like { expr, pattern, .. }) => {
                self.check_tenant(expr, pattern, inputs)?;
            }
            Expr::InList(InList { expr, list, .. }) => {
                for member in list {
                    self.check_tenant(expr, member, inputs)?;
                }
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn aggregated(
        &mut self,
        function: &AggregateFunction,
        inputs: &Inputs,
        fields: &mut Fields,
    ) -> Result<(), Error> {
        fields.extend(
            self.each(&function.params.args, inputs)?
                .into_iter()
                .flatten(),
        );
        if let Some(filter) = &function.params.filter {
            self.filter_sink(filter, inputs)?;
        }
        self.sort_sink(&function.params.order_by, inputs)
    }

    fn windowed(
        &mut self,
        function: &WindowFunction,
        inputs: &Inputs,
        fields: &mut Fields,
    ) -> Result<(), Error> {
        let params = &function.params;
        fields.extend(self.each(&params.args, inputs)?.into_iter().flatten());
        self.each(&params.partition_by, inputs)?;
        if let Some(filter) = &params.filter {
            self.filter_sink(filter, inputs)?;
        }
        self.sort_sink(&params.order_by, inputs)
    }

    /// One entry of the label map by a literal key: a field of its own.
    fn label_entry(&self, function: &ScalarFunction, inputs: &Inputs) -> Option<Field> {
        if !matches!(function.func.name(), "get_field" | "map_extract") {
            return None;
        }
        let [map, Expr::Literal(key, _), ..] = function.args.as_slice() else {
            return None;
        };
        let found = match map {
            Expr::Column(column) => find(inputs, column)?,
            Expr::OuterReferenceColumn(_, column) => self.find_outer(column)?,
            _ => return None,
        };
        let mut found = found.into_iter();
        let (field, rest) = (found.next()?, found.next());
        let is_labels = &*field.column == LABELS && field.key.is_none() && rest.is_none();
        is_labels.then(|| key.try_as_str().flatten().map(|key| field.at(key)))?
    }

    /// The fields of a column of a query around this one; of all that the name fits.
    fn find_outer(&self, column: &Column) -> Option<Fields> {
        let found = self.outer.iter().filter_map(|outer| find(outer, column));
        found.reduce(|mut all, more| {
            all.extend(more);
            all
        })
    }

    /// Refuses a literal that names another tenant where `side` is the tenant of a row.
    fn check_tenant(&mut self, side: &Expr, other: &Expr, inputs: &Inputs) -> Result<(), Error> {
        let Some(text) = tenant_names::literal(other) else {
            return Ok(());
        };
        let Some(column) = tenant_names::column(side) else {
            return Ok(());
        };
        let fields = self.fields(column, inputs)?;
        let is_tenant = !fields.is_empty() && fields.iter().all(|field| &*field.column == TENANT);
        if is_tenant && !tenant_names::is_own(text, self.viewer.tenant()) {
            return Err(Error::Denied(catalog::guard::Denial::CrossTenantQuery));
        }
        Ok(())
    }
}
