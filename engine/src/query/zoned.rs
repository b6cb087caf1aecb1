//! Functions over moments, in the time zone of every session and of every column of ours, which is UTC.
//!
//! Those that make a moment of text announce one in the session's zone, and from a column of text give one without a zone: a
//! check of the engine's ends such a query, or the batch does not fit its schema. The number is right, so the zone is put
//! back. And `date_trunc` takes each moment of a column with a zone through the calendar of its zone, which costs more than
//! all the rest of a query by hour or day, and each without one, which stands for the same in UTC, through a division.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// The time zone of every session.
pub(super) const ZONE: &str = "UTC";

/// Puts the zone back for functions that lose it; others stay as they are.
pub(super) fn zoned(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    if !function.name().starts_with("to_timestamp") {
        return function;
    }
    let mut config = ConfigOptions::default();
    config.execution.time_zone = Some(ZONE.to_owned());
    let inner = function.inner().with_updated_config(&config);
    Arc::new(ScalarUDF::new_from_impl(Zoned {
        inner: inner.map_or(function, Arc::new),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Zoned {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Zoned {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let announced = args.return_field.data_type().clone();
        // Past the outer form, whose check of the type is what fails.
        match self.inner.inner().invoke_with_args(args)? {
            ColumnarValue::Array(moments) => Ok(ColumnarValue::Array(within(moments, announced)?)),
            scalar @ ColumnarValue::Scalar(_) => Ok(scalar),
        }
    }
}

/// Takes the zone away for `date_trunc`, and puts it back; others stay as they are.
pub(super) fn zoneless(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    if function.name() != "date_trunc" {
        return function;
    }
    Arc::new(ScalarUDF::new_from_impl(Zoneless { inner: function }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Zoneless {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Zoneless {
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
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let announced = args.return_field.data_type().clone();
        for arg in &mut args.args {
            if let ColumnarValue::Array(moments) = arg
                && let DataType::Timestamp(unit, Some(zone)) = moments.data_type()
                && zone.as_ref() == ZONE
            {
                *moments = within(Arc::clone(moments), DataType::Timestamp(*unit, None))?;
            }
        }
        match self.inner.inner().invoke_with_args(args)? {
            ColumnarValue::Array(moments) => Ok(ColumnarValue::Array(within(moments, announced)?)),
            scalar @ ColumnarValue::Scalar(_) => Ok(scalar),
        }
    }
}

/// The moments with another zone, or none, if that is all that this type differs in: the numbers stay.
fn within(moments: ArrayRef, wanted: DataType) -> Result<ArrayRef> {
    match (moments.data_type(), &wanted) {
        (DataType::Timestamp(made, _), DataType::Timestamp(unit, _))
            if made == unit && *moments.data_type() != wanted =>
        {
            let data = moments.to_data().into_builder().data_type(wanted);
            Ok(make_array(data.build()?))
        }
        _ => Ok(moments),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::TimestampMicrosecondArray;
    use arrow::datatypes::Field;
    use datafusion::common::ScalarValue;
    use datafusion::execution::SessionStateDefaults;
    use proptest::prelude::*;

    use super::*;

    fn invoked(function: &ScalarUDF, unit: &str, moments: &ArrayRef) -> Option<ArrayRef> {
        let field = |name: &str, kind: &DataType| Arc::new(Field::new(name, kind.clone(), true));
        let kind = moments.data_type();
        let args = ScalarFunctionArgs {
            args: vec![
                ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit.to_owned()))),
                ColumnarValue::Array(Arc::clone(moments)),
            ],
            arg_fields: vec![field("unit", &DataType::Utf8), field("moment", kind)],
            number_rows: moments.len(),
            return_field: field("shown", kind),
            config_options: Arc::new(ConfigOptions::default()),
        };
        let shown = function.inner().invoke_with_args(args).ok()?;
        shown.into_array(moments.len()).ok()
    }

    proptest! {
        #[test]
        fn a_moment_is_truncated_alike_with_its_zone_and_without(
            moments in prop::collection::vec(
                prop::option::weighted(0.9, -62_135_596_800_000_000_i64..253_402_300_799_000_000),
                0..20,
            ),
            zone in prop::sample::select(vec![None, Some("UTC"), Some("+00:00"), Some("+02:00")]),
        ) {
            let defaults = SessionStateDefaults::default_scalar_functions();
            let own = defaults.into_iter().find(|function| function.name() == "date_trunc").unwrap();
            let ours = zoneless(Arc::clone(&own));
            let moments = TimestampMicrosecondArray::from(moments).with_timezone_opt(zone);
            let moments: ArrayRef = Arc::new(moments);
            for unit in ["millisecond", "second", "MINUTE", "hour", "day", "week", "month", "quarter", "year"] {
                // With a zone, the engine has no answer beyond what 64 bits of nanoseconds hold.
                if let Some(wanted) = invoked(&own, unit, &moments) {
                    prop_assert_eq!(invoked(&ours, unit, &moments), Some(wanted), "{}", unit);
                }
            }
            prop_assert_eq!(invoked(&ours, "x", &moments), None);
        }
    }
}
