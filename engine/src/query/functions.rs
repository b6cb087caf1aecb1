//! The functions of a session, by name: what is not listed does not exist for a client.
//!
//! Left out on purpose: everything that tells about files (`input_file_name`, `file_row_index`), field metadata
//! (`arrow_field`, `arrow_metadata`, `with_metadata`), the server (`version`) or makes rows out of nothing (`range`,
//! `generate_series`, `array_repeat`, `array_resize`). Functions whose result can be much larger than their arguments
//! are here in a bounded form. Masks are no functions of a session at all.
//!
//! Invariant: a verifier admits a function by name *and* implementation type, so that a planner cannot bring in the
//! unbounded form under the same name.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::ExprPlanner;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};

use super::{bounded, json, zoned};

/// The functions of every session. Made once.
pub(crate) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(Functions::listed);

/// Scalar, aggregate and window functions, with the planners that turn operators into them.
#[derive(Debug)]
pub(crate) struct Functions {
    scalar: HashMap<String, Arc<ScalarUDF>>,
    aggregate: HashMap<String, Arc<AggregateUDF>>,
    window: HashMap<String, Arc<WindowUDF>>,
}

impl Functions {
    fn listed() -> Self {
        let scalar_names: HashSet<&str> = SCALAR.iter().copied().collect();
        let aggregate_names: HashSet<&str> = AGGREGATE.iter().copied().collect();
        let window_names: HashSet<&str> = WINDOW.iter().copied().collect();
        let scalar = SessionStateDefaults::default_scalar_functions()
            .into_iter()
            .filter(|function| scalar_names.contains(function.name()))
            .map(bounded::bound)
            .map(zoned::zoned)
            .map(zoned::zoneless)
            .chain([bounded::text_join()])
            .chain(json::functions())
            .map(|function| (function.name().to_owned(), function));
        let aggregate = SessionStateDefaults::default_aggregate_functions()
            .into_iter()
            .filter(|function| aggregate_names.contains(function.name()))
            .map(|function| (function.name().to_owned(), function));
        let window = SessionStateDefaults::default_window_functions()
            .into_iter()
            .filter(|function| window_names.contains(function.name()))
            .map(|function| (function.name().to_owned(), function));
        Self {
            scalar: scalar.collect(),
            aggregate: aggregate.collect(),
            window: window.collect(),
        }
    }

    /// The scalar functions to register.
    pub(crate) fn scalar(&self) -> Vec<Arc<ScalarUDF>> {
        self.scalar.values().map(Arc::clone).collect()
    }

    /// The aggregate functions to register.
    pub(crate) fn aggregate(&self) -> Vec<Arc<AggregateUDF>> {
        self.aggregate.values().map(Arc::clone).collect()
    }

    /// The window functions to register.
    pub(crate) fn window(&self) -> Vec<Arc<WindowUDF>> {
        self.window.values().map(Arc::clone).collect()
    }

    /// What turns operators and literals into functions: ours first, so that they become the bounded forms.
    pub(crate) fn planners() -> Vec<Arc<dyn ExprPlanner>> {
        [bounded::planner(), json::planner()]
            .into_iter()
            .chain(SessionStateDefaults::default_expr_planners())
            .collect()
    }

    /// The bounded form of a function, by name.
    pub(super) fn scalar_named(&self, name: &str) -> Option<&Arc<ScalarUDF>> {
        self.scalar.get(name)
    }

    /// Whether a plan may call this scalar function.
    pub(crate) fn admits_scalar(&self, function: &ScalarUDF) -> bool {
        let known = self.scalar.get(function.name());
        known.is_some_and(|known| {
            type_of(known.inner().as_ref()) == type_of(function.inner().as_ref())
        })
    }

    /// Whether a plan may call this aggregate function.
    pub(crate) fn admits_aggregate(&self, function: &AggregateUDF) -> bool {
        let known = self.aggregate.get(function.name());
        known.is_some_and(|known| {
            type_of(known.inner().as_ref()) == type_of(function.inner().as_ref())
        })
    }

    /// Whether a plan may call this window function.
    pub(crate) fn admits_window(&self, function: &WindowUDF) -> bool {
        let known = self.window.get(function.name());
        known.is_some_and(|known| {
            type_of(known.inner().as_ref()) == type_of(function.inner().as_ref())
        })
    }
}

fn type_of<T: Any + ?Sized>(value: &T) -> TypeId {
    value.type_id()
}

/// What is left out although it reads nothing but its arguments: `arrow_cast` and its kin, whose type names are parsed
/// and allocated without a bound; `levenshtein`, whose time is the product of two lengths; and below
/// `approx_percentile_cont`, which allocates as many centroids as it is asked for.
const SCALAR: &[&str] = &[
    // Conditions and types.
    "nullif",
    "nvl",
    "nvl2",
    "coalesce",
    "greatest",
    "least",
    "arrow_typeof",
    "struct",
    "named_struct",
    "get_field",
    "union_extract",
    "union_tag",
    // Time.
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "from_unixtime",
    "make_date",
    "make_time",
    "now",
    "to_char",
    "to_date",
    "to_local_time",
    "to_time",
    "to_unixtime",
    "to_timestamp",
    "to_timestamp_seconds",
    "to_timestamp_millis",
    "to_timestamp_micros",
    "to_timestamp_nanos",
    // Numbers.
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "cbrt",
    "ceil",
    "cos",
    "cosh",
    "cot",
    "degrees",
    "exp",
    "factorial",
    "floor",
    "gcd",
    "isnan",
    "iszero",
    "lcm",
    "ln",
    "log",
    "log2",
    "log10",
    "nanvl",
    "pi",
    "power",
    "radians",
    "random",
    "signum",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "round",
    "trunc",
    // Text.
    "regexp_count",
    "regexp_match",
    "regexp_instr",
    "regexp_like",
    "regexp_replace",
    "overlay",
    "character_length",
    "find_in_set",
    "initcap",
    "left",
    "lpad",
    "reverse",
    "right",
    "rpad",
    "strpos",
    "substr",
    "substr_index",
    "translate",
    "ascii",
    "bit_length",
    "btrim",
    "chr",
    "concat",
    "concat_ws",
    "ends_with",
    "lower",
    "ltrim",
    "octet_length",
    "repeat",
    "replace",
    "rtrim",
    "split_part",
    "starts_with",
    "to_hex",
    "upper",
    "uuid",
    "contains",
    // Digests and encodings.
    "encode",
    "decode",
    "digest",
    "md5",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    // Lists and maps.
    "array_to_string",
    "string_to_array",
    "array_compact",
    "array_dims",
    "cardinality",
    "array_ndims",
    "array_append",
    "array_prepend",
    "array_concat",
    "array_except",
    "array_element",
    "array_pop_back",
    "array_pop_front",
    "array_slice",
    "array_any_value",
    "make_array",
    "array_has",
    "array_has_all",
    "array_has_any",
    "empty",
    "array_length",
    "array_sum",
    "array_avg",
    "flatten",
    "array_max",
    "array_min",
    "array_sort",
    "array_reverse",
    "array_distinct",
    "array_intersect",
    "array_union",
    "array_position",
    "array_positions",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_replace",
    "array_replace_n",
    "array_replace_all",
    "map",
    "map_entries",
    "map_extract",
    "map_keys",
    "map_values",
];

const AGGREGATE: &[&str] = &[
    "any_value",
    "array_agg",
    "first_value",
    "last_value",
    "nth_value",
    "covar_samp",
    "covar_pop",
    "corr",
    "sum",
    "max",
    "min",
    "median",
    "count",
    "regr_slope",
    "regr_intercept",
    "regr_count",
    "regr_r2",
    "regr_avgx",
    "regr_avgy",
    "regr_sxx",
    "regr_syy",
    "regr_sxy",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "approx_median",
    "approx_distinct",
    "percentile_cont",
    "string_agg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "avg",
    "grouping",
];

const WINDOW: &[&str] = &[
    "cume_dist",
    "row_number",
    "lead",
    "lag",
    "rank",
    "dense_rank",
    "percent_rank",
    "ntile",
    "first_value",
    "last_value",
    "nth_value",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_function_exists() {
        for name in SCALAR {
            assert!(FUNCTIONS.scalar.contains_key(*name), "{name}");
        }
        for name in AGGREGATE {
            assert!(FUNCTIONS.aggregate.contains_key(*name), "{name}");
        }
        for name in WINDOW {
            assert!(FUNCTIONS.window.contains_key(*name), "{name}");
        }
    }

    #[test]
    fn functions_are_admitted_by_name_and_type() {
        let concat = datafusion::functions::string::concat();
        assert!(!FUNCTIONS.admits_scalar(&concat), "the unbounded form");
        let lower = datafusion::functions::string::lower();
        assert!(FUNCTIONS.admits_scalar(&lower));
        let version = datafusion::functions::core::version();
        assert!(!FUNCTIONS.admits_scalar(&version));
        let disguised = version.as_ref().clone().with_aliases(["lower"]);
        assert!(!FUNCTIONS.admits_scalar(&disguised));
        for function in FUNCTIONS.scalar() {
            assert!(FUNCTIONS.admits_scalar(&function), "{}", function.name());
            for alias in function.aliases() {
                assert!(!FORBIDDEN.contains(&alias.as_str()), "{alias}");
            }
        }
        for name in FORBIDDEN {
            assert!(!FUNCTIONS.scalar.contains_key(*name), "{name}");
        }
    }

    const FORBIDDEN: &[&str] = &[
        "input_file_name",
        "file_row_index",
        "arrow_metadata",
        "arrow_field",
        "with_metadata",
        "version",
        "range",
        "generate_series",
        "array_repeat",
        "array_resize",
    ];
}
