//! Which relations and joins a FROM clause may consist of.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{JoinConstraint, JoinOperator, TableAlias, TableFactor};

use super::syntax::{Step, refuse, refuse_if};

/// The kind of a join.
pub(super) fn joining(operator: &JoinOperator) -> Step {
    let constraint = match operator {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::CrossJoin(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint) => constraint,
        JoinOperator::CrossApply
        | JoinOperator::OuterApply
        | JoinOperator::AsOf { .. }
        | JoinOperator::StraightJoin(_)
        | JoinOperator::ArrayJoin
        | JoinOperator::LeftArrayJoin
        | JoinOperator::InnerArrayJoin => return refuse("this kind of join"),
    };
    match constraint {
        JoinConstraint::On(_)
        | JoinConstraint::Using(_)
        | JoinConstraint::Natural
        | JoinConstraint::None => ControlFlow::Continue(()),
    }
}

/// The name given to a table.
pub(super) fn alias(alias: &TableAlias) -> Step {
    refuse_if(alias.at.is_some(), "AT after a table")
}

/// One relation of a FROM clause, without what is in it.
pub(super) fn relation(factor: &TableFactor) -> Step {
    let name = match factor {
        TableFactor::Table {
            name: _,
            alias,
            args,
            with_hints,
            version,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            refuse_if(args.is_some(), "a table function")?;
            refuse_if(!with_hints.is_empty(), "a table hint")?;
            refuse_if(version.is_some(), "a table version")?;
            refuse_if(*with_ordinality, "WITH ORDINALITY")?;
            refuse_if(!partitions.is_empty(), "PARTITION")?;
            refuse_if(json_path.is_some(), "a path into a table")?;
            refuse_if(sample.is_some(), "TABLESAMPLE")?;
            refuse_if(!index_hints.is_empty(), "an index hint")?;
            alias
        }
        TableFactor::Derived { alias, sample, .. } => {
            refuse_if(sample.is_some(), "TABLESAMPLE")?;
            alias
        }
        TableFactor::UNNEST {
            alias,
            with_offset,
            with_offset_alias,
            with_ordinality,
            ..
        } => {
            refuse_if(
                *with_offset || with_offset_alias.is_some() || *with_ordinality,
                "UNNEST with positions",
            )?;
            alias
        }
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } => {
            for join in &table_with_joins.joins {
                refuse_if(join.global, "GLOBAL")?;
                joining(&join.join_operator)?;
            }
            alias
        }
        _ => return refuse("this kind of table"),
    };
    match name {
        Some(name) => alias(name),
        None => ControlFlow::Continue(()),
    }
}
