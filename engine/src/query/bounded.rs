//! Functions whose result can be much larger than their arguments, with a bound on it.
//!
//! Scalar functions are not charged to the memory pool of a query. Text that is doubled in each of forty nested
//! subqueries, or a struct of two structs of two structs, would take the process down. So the size of a result is
//! estimated from the arguments before the function runs, never too low, and refused over a bound.
//!
//! `||` and the literals of structs, lists and maps are no functions to the parser; the planner at the end of this file
//! turns them into the bounded ones.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawBinaryExpr, RawDictionaryExpr,
};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use super::error::Error;
use super::footprint::{array_bytes, value_bytes};
use super::functions::FUNCTIONS;

/// Bytes that one call may make out of one batch.
const RESULT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Bytes that one value may have: no answer could carry a larger one.
const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of a value that is made of constants: there may be thousands of them in a statement, and each is made, and kept,
/// while it is planned.
const CONSTANT_BYTES_MAX: usize = 16 * 1024;

/// Levels of structs, lists and maps in one type.
const TYPE_DEPTH_MAX: usize = 8;

/// Structs inside a type, counted with repetition: types are compared and printed member by member.
const TYPE_MEMBERS_MAX: usize = 512;

/// How the size of a result follows from the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The arguments, one after the other.
    Sum,
    /// The first argument as often as the second says.
    Times,
    /// As many characters as the second argument says.
    Width,
    /// The third argument once for each character of the first, or the first for each two of the third.
    Product,
    /// The separator between any two members.
    Separated,
    /// All arguments, so many times.
    Scaled(usize),
    /// The first argument once for each group of the pattern.
    Groups,
    /// For each row the directives of the second argument, written out.
    Format,
}

/// Puts a bound on a function that needs one; others stay as they are.
pub(super) fn bound(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let growth = match function.name() {
        "concat" | "make_array" | "array_append" | "array_prepend" | "array_concat"
        | "array_union" | "struct" | "named_struct" | "map" | "overlay" | "array_replace"
        | "array_replace_n" | "array_replace_all" => Growth::Sum,
        "repeat" => Growth::Times,
        "lpad" | "rpad" => Growth::Width,
        "replace" | "regexp_replace" | "translate" => Growth::Product,
        "concat_ws" | "array_to_string" => Growth::Separated,
        "encode" | "to_hex" => Growth::Scaled(2),
        // An offset and a validity bit for each character.
        "string_to_array" => Growth::Scaled(8),
        "regexp_match" => Growth::Groups,
        "to_char" => Growth::Format,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Bounded {
        inner: function,
        growth,
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        shallow(self.inner.return_type(arg_types)?)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        shallow(field.data_type().clone())?;
        Ok(field)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.inner().coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.growth.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    // `simplify` stays the default: an inner function would simplify itself to its unbounded form.
}

impl Growth {
    /// Refuses a call whose result would be too large, as a whole or in one value.
    fn check(self, args: &ScalarFunctionArgs) -> Result<(), Error> {
        let rows = args.number_rows;
        let all = self.estimate(args, rows, &|arg| bytes_of(arg, rows));
        let one = self.estimate(args, 1, &widest);
        let is_constant = |arg: &ColumnarValue| matches!(arg, ColumnarValue::Scalar(_));
        let value_bytes_max = if args.args.iter().all(is_constant) {
            CONSTANT_BYTES_MAX
        } else {
            VALUE_BYTES_MAX
        };
        if all > RESULT_BYTES_MAX || one > value_bytes_max {
            return Err(Error::limit("a function makes too large a value"));
        }
        Ok(())
    }

    /// Bytes of the result over so many rows, never too few. `size` measures an argument.
    fn estimate(
        self,
        args: &ScalarFunctionArgs,
        rows: usize,
        size: &dyn Fn(&ColumnarValue) -> usize,
    ) -> usize {
        let bytes = |index: usize| args.args.get(index).map_or(0, size);
        let unit = |index: usize| args.args.get(index).map_or(0, widest);
        let largest = |index: usize| args.args.get(index).map_or(0, largest_count);
        let all = || args.args.iter().map(size).fold(0, usize::saturating_add);
        match self {
            Self::Sum => all(),
            Self::Scaled(factor) => all().saturating_mul(factor),
            Self::Times => bytes(0).saturating_mul(largest(1)),
            Self::Width => rows.saturating_mul(largest(1)).saturating_mul(4),
            Self::Product => bytes(0)
                .saturating_add(rows)
                .saturating_mul(unit(2).saturating_add(1)),
            Self::Separated => {
                // Either the separator comes first and between the arguments, or second and between the list's members.
                let separator = unit(0).max(unit(1)).min(1 << 20);
                let members = args
                    .args
                    .len()
                    .saturating_mul(rows)
                    .saturating_add(all() / 4);
                all().saturating_add(separator.saturating_mul(members))
            }
            Self::Groups => {
                let groups = args.args.get(1).map_or(0, groups);
                bytes(0).saturating_mul(groups.saturating_add(1))
            }
            Self::Format => rows.saturating_mul(unit(1)).saturating_mul(16),
        }
    }
}

/// Groups of a pattern, or more.
fn groups(pattern: &ColumnarValue) -> usize {
    match pattern {
        ColumnarValue::Scalar(value) => text_of(value).map_or(0, |text| text.matches('(').count()),
        ColumnarValue::Array(_) => widest(pattern),
    }
}

/// Bytes of an argument, as if it were a column.
fn bytes_of(argument: &ColumnarValue, rows: usize) -> usize {
    match argument {
        ColumnarValue::Array(array) => array_bytes(array.as_ref()),
        ColumnarValue::Scalar(value) => scalar_bytes(value).saturating_mul(rows),
    }
}

fn scalar_bytes(value: &ScalarValue) -> usize {
    text_of(value).map_or_else(|| value.size(), str::len)
}

fn text_of(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// Bytes of the widest value of an argument.
fn widest(argument: &ColumnarValue) -> usize {
    match argument {
        ColumnarValue::Scalar(value) => scalar_bytes(value),
        ColumnarValue::Array(array) => value_bytes(array.as_ref()),
    }
}

/// The largest number of an argument that says how often or how wide; no number counts as endless.
fn largest_count(argument: &ColumnarValue) -> usize {
    let as_count = |value: &ScalarValue| match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(Some(count))) => usize::try_from(count).unwrap_or(0),
        Ok(ScalarValue::Int64(None)) => 0,
        _ => usize::MAX,
    };
    match argument {
        ColumnarValue::Scalar(value) => as_count(value),
        ColumnarValue::Array(array) => {
            let Ok(counts) = arrow::compute::cast(array, &DataType::Int64) else {
                return usize::MAX;
            };
            let counts = counts.as_primitive::<arrow::datatypes::Int64Type>();
            let largest = arrow::compute::max(counts).unwrap_or(0);
            usize::try_from(largest).unwrap_or(0)
        }
    }
}

/// Refuses types that nest or branch too far.
fn shallow(data_type: DataType) -> Result<DataType> {
    let mut members = 0;
    if depth(&data_type, 0, &mut members).is_none() {
        return Err(Error::limit("a type nests too deep").into());
    }
    Ok(data_type)
}

/// Walks a type; nothing once it is too deep or has too many members.
fn depth(data_type: &DataType, level: usize, members: &mut usize) -> Option<()> {
    *members += 1;
    if level > TYPE_DEPTH_MAX || *members > TYPE_MEMBERS_MAX {
        return None;
    }
    match data_type {
        DataType::Struct(fields) => fields
            .iter()
            .try_for_each(|field| depth(field.data_type(), level + 1, members)),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => depth(field.data_type(), level + 1, members),
        _ => Some(()),
    }
}

/// `||` on text: null if either side is.
pub(super) fn text_join() -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(TextJoin {
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

#[derive(Debug)]
struct TextJoin {
    signature: Signature,
}

impl PartialEq for TextJoin {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for TextJoin {}

impl Hash for TextJoin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        TEXT_JOIN.hash(state);
    }
}

const TEXT_JOIN: &str = "text_join";

impl ScalarUDFImpl for TextJoin {
    fn name(&self) -> &str {
        TEXT_JOIN
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let sides: Vec<String> = args
            .iter()
            .map(|arg| arg.schema_name().to_string())
            .collect();
        Ok(sides.join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        match arg_types {
            [left, right] if is_text(left) || is_text(right) || is_null(left) || is_null(right) => {
                Ok(vec![DataType::Utf8; 2])
            }
            _ => Err(Error::invalid("|| joins text to something").into()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Growth::Sum.check(&args)?;
        if let [ColumnarValue::Scalar(left), ColumnarValue::Scalar(right)] = args.args.as_slice() {
            let joined = text_of(left)
                .zip(text_of(right))
                .map(|(left, right)| format!("{left}{right}"));
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(joined)));
        }
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let sides: Vec<_> = arrays
            .iter()
            .map(|array| arrow::compute::cast(array, &DataType::Utf8))
            .collect::<std::result::Result<_, _>>()?;
        let [left, right] = sides.as_slice() else {
            return Err(Error::Internal.into());
        };
        let pairs = left.as_string::<i32>().iter().zip(right.as_string::<i32>());
        let joined: StringArray = pairs
            .map(|(left, right)| Some([left?, right?].concat()))
            .collect();
        Ok(ColumnarValue::Array(Arc::new(joined)))
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_null(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Null)
}

fn is_list(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::List(_)
            | DataType::LargeList(_)
            | DataType::FixedSizeList(..)
            | DataType::ListView(_)
            | DataType::LargeListView(_)
    )
}

/// Turns operators and literals into the bounded functions.
pub(super) fn planner() -> Arc<dyn ExprPlanner> {
    Arc::new(BoundedPlanner)
}

#[derive(Debug)]
struct BoundedPlanner;

impl ExprPlanner for BoundedPlanner {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        if expr.op != BinaryOperator::StringConcat {
            return Ok(PlannerResult::Original(expr));
        }
        let left = is_list(&expr.left.get_type(schema)?);
        let right = is_list(&expr.right.get_type(schema)?);
        let name = match (left, right) {
            (false, false) => TEXT_JOIN,
            (true, true) => "array_concat",
            (true, false) => "array_append",
            (false, true) => "array_prepend",
        };
        call(name, vec![expr.left, expr.right]).map(PlannerResult::Planned)
    }

    fn plan_array_literal(
        &self,
        exprs: Vec<Expr>,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        call("make_array", exprs).map(PlannerResult::Planned)
    }

    fn plan_dictionary_literal(
        &self,
        expr: RawDictionaryExpr,
        _schema: &DFSchema,
    ) -> Result<PlannerResult<RawDictionaryExpr>> {
        let members = expr.keys.into_iter().zip(expr.values);
        let args = members.flat_map(|(key, value)| [key, value]).collect();
        call("named_struct", args).map(PlannerResult::Planned)
    }

    fn plan_struct_literal(
        &self,
        args: Vec<Expr>,
        is_named_struct: bool,
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let name = if is_named_struct {
            "named_struct"
        } else {
            "struct"
        };
        call(name, args).map(PlannerResult::Planned)
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        call("overlay", args).map(PlannerResult::Planned)
    }

    fn plan_make_map(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        if !args.len().is_multiple_of(2) {
            return Err(Error::invalid("a map has a value for each key").into());
        }
        let (keys, values): (Vec<_>, Vec<_>) = args
            .into_iter()
            .enumerate()
            .partition(|(index, _)| index.is_multiple_of(2));
        let list = |members: Vec<(usize, Expr)>| {
            call(
                "make_array",
                members.into_iter().map(|(_, member)| member).collect(),
            )
        };
        call("map", vec![list(keys)?, list(values)?]).map(PlannerResult::Planned)
    }
}

fn call(name: &str, args: Vec<Expr>) -> Result<Expr> {
    let function = FUNCTIONS.scalar_named(name).ok_or(Error::Internal)?;
    Ok(Expr::ScalarFunction(ScalarFunction::new_udf(
        Arc::clone(function),
        args,
    )))
}
