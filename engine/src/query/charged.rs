//! What functions make counts against the query's memory for as long as it lives.
//!
//! The engine charges for what its operators keep, not for what expressions make. So each function of a plan that is about
//! to run is put into a form of it that charges for its result, and ties the charge to the bytes: whoever drops the last
//! of them gives the memory back. It is done after the optimizer, which knows functions by their types.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, FieldRef};
use bytes::Bytes;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};

use super::footprint::array_bytes;

/// Results up to here are free: a batch of numbers, for instance.
const FREE_BYTES: usize = 32 * 1024;

/// Gives a part of its argument, and the engine looks for it by its type.
const GET_FIELD: &str = "get_field";

/// The plan with charging functions.
pub(super) fn charge(plan: LogicalPlan, memory: &Arc<dyn MemoryPool>) -> Result<LogicalPlan> {
    let charging = |part: Expr| match part {
        Expr::ScalarFunction(call) if call.func.name() != GET_FIELD => {
            let func = Arc::new(ScalarUDF::new_from_impl(Charged {
                inner: call.func,
                memory: Arc::clone(memory),
            }));
            let call = ScalarFunction {
                func,
                args: call.args,
            };
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        other => Ok(Transformed::no(other)),
    };
    plan.transform_up_with_subqueries(|node| match node {
        // What a scan is asked to filter by has its own grammar, and no function is in it.
        LogicalPlan::TableScan(_) => Ok(Transformed::no(node)),
        node => node.map_expressions(|expr| expr.transform_up(charging)),
    })
    .data()
}

/// A function that charges for its results.
#[derive(Debug)]
pub(super) struct Charged {
    inner: Arc<ScalarUDF>,
    memory: Arc<dyn MemoryPool>,
}

impl Charged {
    /// The function that does the work.
    pub(super) fn inner(&self) -> &ScalarUDF {
        &self.inner
    }
}

impl PartialEq for Charged {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Charged {}

impl Hash for Charged {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Charged {
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

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(array) => charged(array, &self.memory).map(ColumnarValue::Array),
            scalar @ ColumnarValue::Scalar(_) => Ok(scalar),
        }
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }
}

/// The array with a charge on its bytes, if they are many.
fn charged(array: ArrayRef, memory: &Arc<dyn MemoryPool>) -> Result<ArrayRef> {
    let bytes = array_bytes(array.as_ref());
    if bytes <= FREE_BYTES {
        return Ok(array);
    }
    let charge = MemoryConsumer::new("function").register(memory);
    charge.try_grow(bytes)?;
    Ok(make_array(tied(array.to_data(), &Arc::new(charge))?))
}

/// The same data, whose buffers hold the charge.
fn tied(data: ArrayData, charge: &Arc<MemoryReservation>) -> Result<ArrayData> {
    let buffers = data.buffers().iter().map(|buffer| {
        let kept = Kept {
            buffer: buffer.clone(),
            _charge: Arc::clone(charge),
        };
        Buffer::from(Bytes::from_owner(kept))
    });
    let buffers = buffers.collect();
    let children = data.child_data().iter();
    let children = children.map(|child| tied(child.clone(), charge));
    let children = children.collect::<Result<_>>()?;
    let builder = data.into_builder().buffers(buffers).child_data(children);
    Ok(builder.build()?)
}

struct Kept {
    buffer: Buffer,
    _charge: Arc<MemoryReservation>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, ListArray, StringArray, StringViewArray};
    use arrow::datatypes::Int32Type;
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    fn pool(bytes: usize) -> Arc<dyn MemoryPool> {
        Arc::new(GreedyMemoryPool::new(bytes))
    }

    #[test]
    fn a_charge_lives_as_long_as_any_of_the_bytes() {
        let memory = pool(1 << 20);
        let texts = vec!["a text that is not short"; 4_000];
        let list = (0..4_000).map(|n| Some(vec![Some(n); 3]));
        let arrays: [ArrayRef; 3] = [
            Arc::new(StringArray::from(texts.clone())),
            Arc::new(StringViewArray::from(texts)),
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list)),
        ];
        for array in arrays {
            let made = charged(Arc::clone(&array), &memory).expect("room");
            assert_eq!(&made, &array);
            assert_eq!(memory.reserved(), array_bytes(array.as_ref()));
            let part = made.slice(3_990, 5);
            drop(made);
            assert!(memory.reserved() > 0, "a part of it is left");
            drop(part);
            assert_eq!(memory.reserved(), 0);
        }
    }

    #[test]
    fn small_results_are_free_and_large_ones_refused() {
        let memory = pool(100_000);
        let small: ArrayRef = Arc::new(StringArray::from(vec!["x"; 100]));
        let same = charged(Arc::clone(&small), &memory).expect("free");
        assert_eq!(same.as_string::<i32>().len(), 100);
        assert_eq!(memory.reserved(), 0);
        let large: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(60); 2_000]));
        assert!(charged(large, &memory).is_err());
        assert_eq!(memory.reserved(), 0);
    }
}
