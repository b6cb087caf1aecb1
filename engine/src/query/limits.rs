//! How large a statement and its execution may be.

use std::time::Duration;

/// Bounds on one statement. They keep a hostile statement from costing more than its own failure.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of SQL text.
    pub statement_bytes_max: usize,
    /// Nesting of parentheses, subqueries and prefix operators.
    pub depth_max: usize,
    /// Operators, joins and set operations: what makes a syntax tree deep without nesting.
    pub operators_max: usize,
    /// Levels of one expression, a chain of operators counted as one below the other.
    pub expression_depth_max: usize,
    /// Relations, counted after common table expressions are put in where they are named.
    pub relations_max: usize,
    /// Members of GROUPING SETS, CUBE and ROLLUP; the plan has a set for each subset of a cube's.
    pub grouping_members_max: usize,
    /// Nodes of the logical plan.
    pub plan_nodes_max: usize,
    /// Nodes of the logical plan, and of the physical plan, from the root to a leaf.
    pub plan_depth_max: usize,
    /// Rounds of all recursive queries of a statement together.
    pub recursion_rounds_max: usize,
    /// Bytes of memory for sorts, joins, aggregates and their like.
    pub memory_bytes_max: usize,
    /// Rows of one batch while executing.
    pub batch_rows: usize,
    /// Streams that one query works on at a time.
    pub target_partitions: usize,
    /// How long a query may run, from the first poll of its stream.
    pub deadline: Duration,
    /// How long an answer may be given again to the same caller; zero for not at all.
    pub reuse: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            statement_bytes_max: 64 * 1024,
            depth_max: 50,
            operators_max: 2_000,
            expression_depth_max: 200,
            relations_max: 50,
            grouping_members_max: 12,
            plan_nodes_max: 2_000,
            plan_depth_max: 150,
            recursion_rounds_max: 10_000,
            memory_bytes_max: 512 * 1024 * 1024,
            batch_rows: 4_096,
            target_partitions: 4,
            deadline: Duration::from_secs(300),
            reuse: Duration::ZERO,
        }
    }
}
