//! Regular expressions: constants, and small ones.
//!
//! A pattern is compiled for as many states as its repetitions come to, up to some megabytes each. A column of patterns
//! would be compiled row by row and kept for a batch, so a pattern has to be the same for all rows, as have its flags, which
//! are put in front of it and may hold a pattern themselves; and all patterns of a statement together have a bound.

use arrow::array::StringArray;
use arrow::compute::regexp_is_match_scalar;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};

use super::error::Error;
use super::sanitize;

/// States of all patterns of a statement, about.
const STATES_MAX: usize = 50_000;
/// Patterns of a statement.
const PATTERNS_MAX: usize = 64;
/// States of a class such as `\w`, which stands for many ranges of characters.
const CLASS_STATES: usize = 32;

/// Checks the patterns that a plan spells out. Before constants are put together, others may still become such.
pub(super) fn check_spelled(plan: &LogicalPlan) -> Result<(), Error> {
    check(plan, false)
}

/// Checks that a plan which is about to run spells all its patterns out.
pub(super) fn check_all(plan: &LogicalPlan) -> Result<(), Error> {
    check(plan, true)
}

fn check(plan: &LogicalPlan, all: bool) -> Result<(), Error> {
    let (mut states, mut patterns) = (0_usize, 0_usize);
    let mut check_part = |part: &Expr| -> Result<TreeNodeRecursion> {
        let Some(matching) = matching(part) else {
            return Ok(TreeNodeRecursion::Continue);
        };
        match matching.spelled() {
            Some((text, flags)) => {
                if !flags.chars().all(|flag| flag.is_ascii_alphabetic()) {
                    return Err(Error::invalid("flags of a regular expression are letters").into());
                }
                patterns += 1;
                states = states.saturating_add(states_of(text));
                if patterns > PATTERNS_MAX || states > STATES_MAX || too_large(text, &flags) {
                    return Err(Error::limit("its regular expressions are too large").into());
                }
            }
            None if all => {
                let why = "a regular expression, or its flags, not the same for every row";
                return Err(Error::not_allowed(why).into());
            }
            None => {}
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut check_part)))
        .map_err(sanitize::own)?;
    Ok(())
}

/// What an expression matches something with.
struct Matching<'a> {
    pattern: &'a Expr,
    flags: Option<&'a Expr>,
    ignores_case: bool,
}

impl Matching<'_> {
    /// The pattern and its flags, if both are spelled out.
    fn spelled(&self) -> Option<(&str, String)> {
        let mut flags = self.flags.map_or(Some(""), spelled)?.to_owned();
        if self.ignores_case {
            flags.push('i');
        }
        Some((spelled(self.pattern)?, flags))
    }
}

fn matching(part: &Expr) -> Option<Matching<'_>> {
    match part {
        Expr::ScalarFunction(call) => {
            let flags = match call.func.name() {
                "regexp_like" | "regexp_match" => 2,
                "regexp_count" | "regexp_replace" => 3,
                "regexp_instr" => 4,
                _ => return None,
            };
            Some(Matching {
                pattern: call.args.get(1)?,
                flags: call.args.get(flags),
                ignores_case: false,
            })
        }
        Expr::BinaryExpr(binary) => {
            let ignores_case = match binary.op {
                Operator::RegexMatch | Operator::RegexNotMatch => false,
                Operator::RegexIMatch | Operator::RegexNotIMatch => true,
                _ => return None,
            };
            Some(Matching {
                pattern: &binary.right,
                flags: None,
                ignores_case,
            })
        }
        Expr::SimilarTo(similar) => Some(Matching {
            pattern: &similar.pattern,
            flags: None,
            ignores_case: similar.case_insensitive,
        }),
        _ => None,
    }
}

/// Whether the library does not take the pattern for its size. What else it finds is for whoever runs it to say.
fn too_large(pattern: &str, flags: &str) -> bool {
    // "All matches" is a flag of the function, and none of the pattern.
    let flags = flags.replace('g', "");
    let flags = (!flags.is_empty()).then_some(flags.as_str());
    let nothing = StringArray::new_null(0);
    let compiled = regexp_is_match_scalar(&nothing, pattern, flags);
    compiled.is_err_and(|error| {
        matches!(
            sanitize::running(&error.into()),
            Error::LimitExceeded { .. }
        )
    })
}

/// The text of a literal; that of null is empty.
fn spelled(pattern: &Expr) -> Option<&str> {
    match pattern {
        Expr::Literal(value, _) if value.is_null() => Some(""),
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        Expr::Alias(alias) => spelled(&alias.expr),
        Expr::Cast(cast) => spelled(&cast.expr),
        _ => None,
    }
}

/// States that a pattern is compiled to, about: one for each character, as often as it is repeated.
fn states_of(pattern: &str) -> usize {
    // The groups that are open, each with what it has so far.
    let mut groups = vec![0_usize];
    // What a repetition would repeat.
    let mut last = 0_usize;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        let states = match character {
            '(' => {
                groups.push(0);
                0
            }
            '[' => {
                groups.push(CLASS_STATES / 4);
                0
            }
            ')' | ']' if groups.len() > 1 => groups.pop().unwrap_or(0),
            '{' => {
                let mut bounds = String::new();
                while let Some(next) = characters.next_if(|next| *next != '}') {
                    bounds.push(next);
                }
                characters.next();
                let counts = bounds.split(',').map(str::trim).map(str::parse::<usize>);
                let count = counts.filter_map(Result::ok).max().unwrap_or(1);
                last.saturating_mul(count.saturating_sub(1))
            }
            '\\' => match characters.next() {
                Some('w' | 'W' | 'd' | 'D' | 's' | 'S' | 'p' | 'P') => CLASS_STATES,
                _ => 1,
            },
            '.' => CLASS_STATES / 4,
            _ => 1,
        };
        // Of one repetition after another, each repeats all that is before it.
        last = if character == '{' {
            last + states
        } else {
            states
        };
        if let Some(group) = groups.last_mut() {
            *group = group.saturating_add(states);
        }
    }
    groups.into_iter().fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_multiply_where_they_nest_and_add_where_they_do_not() {
        for (pattern, least, most) in [
            ("", 0, 0),
            ("error", 5, 5),
            (
                "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
                100,
                600,
            ),
            (r"\w+@\w+\.\w{2,6}", 200, 400),
            (r"[\w]{1000}", 30_000, 60_000),
            ("a{1000}", 1_000, 1_000),
            ("(a{100}){100}", 10_000, 10_000),
            ("((a{100}){100}){100}", 1_000_000, 1_000_000),
            ("a{100}{100}{100}", 1_000_000, 1_000_000),
            ("a{2,50}b{3,}", 50, 60),
            ("a{99999999999999999999}", 1, 1),
            (r"\(a\){3}", 5, 8),
            (")))a{3}", 3, 8),
        ] {
            let states = states_of(pattern);
            assert!((least..=most).contains(&states), "{pattern}: {states}");
        }
    }
}
