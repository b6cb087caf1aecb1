//! A mask as an expression of a plan.
//!
//! The function keeps every default that lets nobody reason through it: it has no inverse, no bounds, no order and no
//! rewriting, and an optimizer may not move it. It is never registered in a session.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use crate::{JsonMask, LabelMask, Mask};

/// A mask that the query engine evaluates over one argument; the result has its type and may be null.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MaskFunction {
    signature: Signature,
    masks: Masks,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Masks {
    Column(Mask),
    Json(JsonMask),
    Labels(LabelMask),
}

impl MaskFunction {
    /// One mask over a column.
    pub fn new(mask: Mask) -> Self {
        Self::over(Masks::Column(mask))
    }

    /// Masks inside a column of JSON text.
    pub fn json(mask: JsonMask) -> Self {
        Self::over(Masks::Json(mask))
    }

    /// Masks inside a column of maps.
    pub fn labels(mask: LabelMask) -> Self {
        Self::over(Masks::Labels(mask))
    }

    fn over(masks: Masks) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            masks,
        }
    }

    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match &self.masks {
            Masks::Column(mask) => mask.apply(array),
            Masks::Json(mask) => mask.apply(array),
            Masks::Labels(mask) => mask.apply(array),
        }
    }
}

impl ScalarUDFImpl for MaskFunction {
    fn name(&self) -> &str {
        match &self.masks {
            Masks::Column(mask) => mask.function_name(),
            Masks::Json(_) => "th_mask_json",
            Masks::Labels(_) => "th_mask_labels",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        match arg_types {
            [only] => Ok(only.clone()),
            _ => exec_err!("a mask takes one argument"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.as_slice() {
            [ColumnarValue::Array(array)] => Ok(ColumnarValue::Array(self.apply(array)?)),
            [ColumnarValue::Scalar(value)] => {
                let masked = self.apply(&value.to_array()?)?;
                let masked = ScalarValue::try_from_array(&masked, 0)?;
                Ok(ColumnarValue::Scalar(masked))
            }
            _ => exec_err!("a mask takes one argument"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::StringArray;
    use arrow::datatypes::{Field, FieldRef, Schema};
    use arrow::record_batch::RecordBatch;
    use datafusion::common::config::ConfigOptions;
    use datafusion::logical_expr::ScalarUDF;
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

    use super::*;
    use crate::HashKey;

    fn batch() -> RecordBatch {
        let email: ArrayRef = Arc::new(StringArray::from(vec![Some("bob@example.com"), None]));
        let field = Field::new("email", DataType::Utf8, false)
            .with_metadata([("class".to_owned(), "pii.email".to_owned())].into());
        let nullable = field.with_nullable(true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![nullable])), vec![email]).unwrap()
    }

    fn expression(mask: MaskFunction, batch: &RecordBatch) -> ScalarFunctionExpr {
        ScalarFunctionExpr::try_new(
            Arc::new(ScalarUDF::new_from_impl(mask)),
            vec![col("email", &batch.schema()).unwrap()],
            &batch.schema(),
            Arc::new(ConfigOptions::default()),
        )
        .unwrap()
    }

    #[test]
    fn evaluates_in_a_physical_expression_and_drops_the_metadata_of_the_field() {
        let batch = batch();
        let mask = Mask::Partial {
            show_first: 1,
            show_last: 0,
        };
        let masked = expression(MaskFunction::new(mask), &batch);
        let field: FieldRef = masked.return_field(&batch.schema()).unwrap();
        assert_eq!(field.data_type(), &DataType::Utf8);
        assert!(field.is_nullable() && field.metadata().is_empty());
        let values = masked.evaluate(&batch).unwrap().into_array(2).unwrap();
        let expected: ArrayRef = Arc::new(StringArray::from(vec![Some("b****"), None]));
        assert_eq!(&values, &expected);
    }

    #[test]
    fn a_scalar_stays_a_scalar() {
        let field: FieldRef = Arc::new(Field::new("email", DataType::Utf8, true));
        let args = ScalarFunctionArgs {
            args: vec![ColumnarValue::Scalar(ScalarValue::from("bob"))],
            arg_fields: vec![Arc::clone(&field)],
            number_rows: 3,
            return_field: field,
            config_options: Arc::new(ConfigOptions::default()),
        };
        let masked = MaskFunction::new(Mask::Redact).invoke_with_args(args);
        assert!(matches!(
            masked.unwrap(),
            ColumnarValue::Scalar(ScalarValue::Utf8(Some(text))) if text == "[redacted]"
        ));
    }

    #[test]
    fn functions_are_equal_when_their_results_are() {
        let hash = |key: [u8; 32]| MaskFunction::new(Mask::Hash(HashKey::new(&key, "email", 1)));
        assert_eq!(hash([1; 32]), hash([1; 32]));
        assert_ne!(hash([1; 32]), hash([2; 32]));
        let function = ScalarUDF::new_from_impl(hash([1; 32]));
        assert_eq!(function, ScalarUDF::new_from_impl(hash([1; 32])));
        assert_ne!(function, ScalarUDF::new_from_impl(hash([2; 32])));
    }
}
