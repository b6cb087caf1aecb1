//! Functions that make a moment of text, in the time zone of every session.
//!
//! The engine's own announce a moment in the session's zone, and from a column of text give one without a zone: a check
//! of the engine's ends such a query, or the batch does not fit its schema. The number is right, so the zone is put back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
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

/// The moments as they were announced, if they lack nothing but the zone.
fn within(moments: ArrayRef, announced: DataType) -> Result<ArrayRef> {
    match (moments.data_type(), &announced) {
        (DataType::Timestamp(made, None), DataType::Timestamp(unit, Some(_))) if made == unit => {
            let data = moments.to_data().into_builder().data_type(announced);
            Ok(make_array(data.build()?))
        }
        _ => Ok(moments),
    }
}
