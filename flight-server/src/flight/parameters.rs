//! Parameters of a prepared statement, as clients bind them: a stream of batches, one row an execution.
//!
//! Clients send what their language has: dictionaries, views, large strings, and a dense union a parameter. All of it is
//! brought to plain columns here, within limits, before anything is kept.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UnionArray};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::utils::{batches_to_flight_data, flight_data_to_batches};
use bytes::{Buf, Bytes};
use engine::query::{ParamValues, ScalarValue};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use prost::Message;
use tonic::Status;

use crate::problem::{Problem, Slug};

use super::encode::hydrated_bytes;
use super::limits::{PARAMETER_BYTES_MAX, PARAMETER_ROWS_MAX, PARAMETER_VALUES_MAX};
use super::schema::{advertised, conform};
use super::untrusted::{has_at_most, unpackable};

/// Parameters, ready to execute with: plain columns named `1`, `2`.. or by the names of the statement.
#[derive(Clone, PartialEq)]
pub(crate) struct Bindings {
    batch: RecordBatch,
    bytes: usize,
}

impl fmt::Debug for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values have no place in logs.
        f.debug_struct("Bindings")
            .field("rows", &self.rows())
            .finish_non_exhaustive()
    }
}

impl Bindings {
    /// The values of these rows for a statement with these placeholders (`$1` or `$name`). `None` if the statement takes
    /// none and none are given.
    pub(crate) fn new(
        batch: &RecordBatch,
        placeholders: &[String],
    ) -> Result<Option<Self>, Problem> {
        // Offsets inside unions and views were sent, too.
        let made = catch_unwind(AssertUnwindSafe(|| Self::plain(batch, placeholders)));
        made.unwrap_or_else(|_| Err(unreadable()))
    }

    fn plain(batch: &RecordBatch, placeholders: &[String]) -> Result<Option<Self>, Problem> {
        if batch.num_columns() != placeholders.len() {
            return Err(invalid(format!(
                "the statement takes {} parameters, and {} are bound",
                placeholders.len(),
                batch.num_columns()
            )));
        }
        if placeholders.is_empty() {
            return Ok(None);
        }
        if batch.num_rows() == 0 {
            return Err(invalid("no row of parameters is bound"));
        }
        if batch.num_rows() > PARAMETER_ROWS_MAX {
            return Err(invalid(format!(
                "at most {PARAMETER_ROWS_MAX} rows of parameters are taken"
            )));
        }
        // Before anything is unfolded: one value can stand in many rows.
        if hydrated_bytes(batch) > PARAMETER_BYTES_MAX {
            return Err(too_large());
        }
        let named = order(batch, placeholders)?;
        let columns = named
            .iter()
            .map(|(name, column)| Ok((name.as_str(), one_type(column)?, true)))
            .collect::<Result<Vec<_>, Problem>>()?;
        let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(|_| unreadable())?;
        if hydrated_bytes(&batch) > PARAMETER_BYTES_MAX {
            return Err(too_large());
        }
        let schema = advertised(&batch.schema());
        let batch = conform(&batch, &schema).map_err(|_| unreadable())?;
        let bytes = hydrated_bytes(&batch);
        if bytes > PARAMETER_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Some(Self { batch, bytes }))
    }

    /// How many executions are asked for: at least one.
    pub(crate) fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// About how much memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The values of one execution.
    pub(crate) fn row(&self, row: usize) -> Result<ParamValues, Problem> {
        let schema = self.batch.schema();
        let values = schema
            .fields()
            .iter()
            .zip(self.batch.columns())
            .map(|(field, column)| {
                let value = ScalarValue::try_from_array(column, row).map_err(|_| unreadable())?;
                Ok((field.name().clone(), value))
            })
            .collect::<Result<Vec<_>, Problem>>()?;
        if values.iter().all(|(name, _)| number(name).is_some()) {
            let values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
            return Ok(values.into());
        }
        Ok(values.into())
    }

    /// For a ticket.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, ArrowError> {
        let schema = self.batch.schema();
        let mut bytes = Vec::new();
        for message in batches_to_flight_data(&schema, vec![self.batch.clone()])? {
            let encoded = message.encode_length_delimited_to_vec();
            bytes.extend(encoded);
        }
        Ok(bytes.into())
    }

    /// From a ticket, which was ours and was not changed.
    pub(crate) fn from_bytes(bytes: &Bytes) -> Result<Self, FlightError> {
        let mut rest = bytes.clone();
        let mut messages = Vec::new();
        while rest.has_remaining() {
            messages.push(FlightData::decode_length_delimited(&mut rest)?);
        }
        let batches = flight_data_to_batches(&messages)?;
        let Some(batch) = batches.into_iter().next() else {
            return Err(FlightError::protocol("no parameters"));
        };
        let bytes = hydrated_bytes(&batch);
        Ok(Self { batch, bytes })
    }
}

/// The columns that are the values of the placeholders, named as `row` wants them. Drivers that know no names send their
/// columns in order, whatever they call them; a statement that names its parameters gets them by name.
fn order(batch: &RecordBatch, placeholders: &[String]) -> Result<Vec<(String, ArrayRef)>, Problem> {
    let columns = batch.columns().iter().map(Arc::clone);
    let names = placeholders.iter().map(|name| name.trim_start_matches('$'));
    let mut numbers: Vec<_> = names.clone().filter_map(number).collect();
    if numbers.len() == placeholders.len() {
        numbers.sort_unstable();
        if !numbers.iter().copied().eq(1..=numbers.len()) {
            return Err(invalid("the parameters are not numbered from $1 on"));
        }
        let names = numbers.iter().map(ToString::to_string);
        return Ok(names.zip(columns).collect());
    }
    let by_name = |name: &str| {
        let column = batch.column_by_name(name);
        column.or_else(|| batch.column_by_name(&format!("${name}")))
    };
    names
        .map(|name| match (by_name(name), batch.columns()) {
            (Some(column), _) | (None, [column]) => Ok((name.to_owned(), Arc::clone(column))),
            (None, _) => Err(invalid("the parameters are not bound by their names")),
        })
        .collect()
}

fn number(name: &str) -> Option<usize> {
    name.parse().ok()
}

/// A union column as a column of the one type that its rows have.
fn one_type(column: &ArrayRef) -> Result<ArrayRef, Problem> {
    let DataType::Union(_, _) = column.data_type() else {
        return Ok(Arc::clone(column));
    };
    let union: &UnionArray = column.as_union();
    let mixed = union.type_ids().windows(2).any(|pair| match pair {
        [one, next] => one != next,
        _ => false,
    });
    if mixed {
        return Err(invalid(
            "a parameter has values of several types; bind one row at a time",
        ));
    }
    let values: Vec<ArrayRef> = (0..union.len()).map(|row| union.value(row)).collect();
    let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
    one_type(&concat(&values).map_err(|_| unreadable())?)
}

/// Reads what a client binds. The stream must end.
pub(crate) async fn read<S>(messages: S) -> Result<RecordBatch, Problem>
where
    S: Stream<Item = Result<FlightData, Status>> + Send + 'static,
{
    let mut bytes = 0_usize;
    let bounded = messages.map(move |message| {
        let message = message.map_err(FlightError::from)?;
        bytes = bytes.saturating_add(message.data_header.len() + message.data_body.len());
        if bytes > 2 * PARAMETER_BYTES_MAX {
            return Err(FlightError::from(Status::from(too_large())));
        }
        Ok(message)
    });
    // Some clients send the descriptor in a message of its own.
    let with_header = bounded.try_filter(|message| {
        let carries = !message.data_header.is_empty();
        async move { carries }
    });
    let unpacked = unpackable(with_header, 2 * PARAMETER_BYTES_MAX);
    let mut decoder = FlightRecordBatchStream::new_from_flight_data(unpacked);
    let reading = async move {
        let (mut batches, mut rows) = (Vec::new(), 0_usize);
        while let Some(batch) = decoder.try_next().await? {
            rows = rows.saturating_add(batch.num_rows());
            // What weighs nothing is not free either.
            if !has_at_most(&batch, PARAMETER_VALUES_MAX) || rows > PARAMETER_VALUES_MAX {
                return Err(FlightError::from(Status::from(too_large())));
            }
            batches.push(batch);
        }
        let schema = decoder.schema().map(Arc::clone);
        Ok::<_, FlightError>((schema, batches))
    };
    // The decoder indexes buffers by offsets it was sent, and panics when they are beyond the message.
    let outcome = AssertUnwindSafe(reading).catch_unwind().await;
    let (schema, batches) = match outcome {
        Ok(Ok(read)) => read,
        Ok(Err(FlightError::Tonic(status))) if is_too_large(&status) => {
            return Err(too_large());
        }
        Ok(Err(_)) | Err(_) => return Err(unreadable()),
    };
    let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
    concat_batches(&schema, &batches).map_err(|_| unreadable())
}

/// The second is what the gRPC server says.
fn is_too_large(status: &Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::ResourceExhausted | tonic::Code::OutOfRange
    )
}

fn unreadable() -> Problem {
    invalid("the parameters cannot be read")
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Slug::InvalidQuery, detail)
}

fn too_large() -> Problem {
    limit(format!(
        "parameters take at most {PARAMETER_BYTES_MAX} bytes"
    ))
}

fn limit(detail: impl Into<String>) -> Problem {
    Problem::new(Slug::QueryLimitExceeded, detail)
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        DictionaryArray, Int64Array, LargeStringArray, StringArray, StringViewArray,
    };
    use arrow::datatypes::{Field, Int32Type, UnionFields};
    use futures::stream;

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(
            columns
                .into_iter()
                .map(|(name, column)| (name, column, true)),
        )
        .unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn bound(columns: Vec<(&str, ArrayRef)>, placeholders: &[&str]) -> Bindings {
        Bindings::new(&batch(columns), &names(placeholders))
            .unwrap()
            .unwrap()
    }

    fn refused(columns: Vec<(&str, ArrayRef)>, placeholders: &[&str]) -> Slug {
        Bindings::new(&batch(columns), &names(placeholders))
            .unwrap_err()
            .slug()
    }

    fn list(bindings: &Bindings, row: usize) -> Vec<ScalarValue> {
        match bindings.row(row).unwrap() {
            ParamValues::List(values) => values.into_iter().map(|value| value.value).collect(),
            ParamValues::Map(_) => panic!("named"),
        }
    }

    /// A dense union as flightsql-dbapi makes one: a child a type, of which each row uses one.
    fn union(ids: Vec<i8>, offsets: Vec<i32>) -> ArrayRef {
        let fields = UnionFields::from_fields([
            Field::new("int", DataType::Int64, true),
            Field::new("string", DataType::LargeUtf8, true),
        ]);
        let children = vec![
            Arc::new(Int64Array::from(vec![7, 8])) as _,
            Arc::new(LargeStringArray::from(vec!["x"])) as _,
        ];
        let union = UnionArray::try_new(fields, ids.into(), Some(offsets.into()), children);
        Arc::new(union.unwrap())
    }

    #[test]
    fn every_layout_becomes_a_plain_value() {
        let text = |value: &str| ScalarValue::Utf8(Some(value.to_owned()));
        let dictionary: DictionaryArray<Int32Type> = ["d"].into_iter().collect();
        let bindings = bound(
            vec![
                ("a", Arc::new(dictionary)),
                ("b", Arc::new(StringViewArray::from(vec!["v"]))),
                ("param_2", union(vec![1], vec![0])),
                ("param_3", union(vec![0], vec![1])),
            ],
            &["$1", "$2", "$3", "$4"],
        );
        let large = ScalarValue::LargeUtf8(Some("x".to_owned()));
        let expected = [text("d"), text("v"), large, ScalarValue::Int64(Some(8))];
        assert_eq!(list(&bindings, 0), expected);
    }

    #[test]
    fn a_union_column_has_one_type() {
        let bindings = bound(vec![("p", union(vec![0, 0], vec![1, 0]))], &["$1"]);
        assert_eq!(bindings.rows(), 2);
        assert_eq!(list(&bindings, 0), [ScalarValue::Int64(Some(8))]);
        assert_eq!(list(&bindings, 1), [ScalarValue::Int64(Some(7))]);
        let mixed = vec![("p", union(vec![0, 1], vec![0, 0]))];
        assert_eq!(refused(mixed, &["$1"]), Slug::InvalidQuery);
    }

    #[test]
    fn columns_go_by_position_or_by_name() {
        let number = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let columns = || vec![("b", number(1)), ("a", number(2))];
        let values = [ScalarValue::Int64(Some(1)), ScalarValue::Int64(Some(2))];
        assert_eq!(list(&bound(columns(), &["$2", "$1"]), 0), values);
        let ParamValues::Map(named) = bound(columns(), &["$a", "$b"]).row(0).unwrap() else {
            panic!("not named");
        };
        assert_eq!(named["a"].value, ScalarValue::Int64(Some(2)));
        assert_eq!(named["b"].value, ScalarValue::Int64(Some(1)));
        assert_eq!(refused(columns(), &["$x", "$y"]), Slug::InvalidQuery);
        let only = bound(vec![("param_0", number(1))], &["$x"]).row(0).unwrap();
        assert!(matches!(only, ParamValues::Map(named) if named.contains_key("x")));
    }

    #[test]
    fn what_does_not_fit_the_statement_or_the_limits_is_refused() {
        let number = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        assert_eq!(refused(vec![("p", number())], &[]), Slug::InvalidQuery);
        let two = &["$1", "$2"];
        assert_eq!(refused(vec![("p", number())], two), Slug::InvalidQuery);
        assert_eq!(refused(vec![("p", number())], &["$2"]), Slug::InvalidQuery);
        let none = Arc::new(Int64Array::from(Vec::<i64>::new()));
        assert_eq!(refused(vec![("p", none)], &["$1"]), Slug::InvalidQuery);
        let many = Arc::new(Int64Array::from(vec![1; PARAMETER_ROWS_MAX + 1]));
        assert_eq!(refused(vec![("p", many)], &["$1"]), Slug::InvalidQuery);
        // A dictionary is small until it is hydrated.
        let long = "x".repeat(PARAMETER_BYTES_MAX / 4);
        let dictionary: DictionaryArray<Int32Type> = [long.as_str(); 5].into_iter().collect();
        let columns = vec![("p", Arc::new(dictionary) as ArrayRef)];
        assert_eq!(refused(columns, &["$1"]), Slug::QueryLimitExceeded);
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        assert_eq!(Bindings::new(&empty, &[]).unwrap(), None);
    }

    #[test]
    fn they_survive_a_ticket() {
        let bindings = bound(
            vec![
                ("a", Arc::new(StringArray::from(vec![Some("x"), None]))),
                ("b", union(vec![0, 0], vec![0, 1])),
            ],
            &["$1", "$2"],
        );
        let bytes = bindings.to_bytes().unwrap();
        assert_eq!(Bindings::from_bytes(&bytes).unwrap(), bindings);
    }

    fn messages(batch: &RecordBatch) -> Vec<FlightData> {
        batches_to_flight_data(&batch.schema(), vec![batch.clone()]).unwrap()
    }

    async fn read_all(messages: Vec<FlightData>) -> Result<RecordBatch, Problem> {
        read(stream::iter(messages.into_iter().map(Ok))).await
    }

    #[tokio::test]
    async fn a_stream_is_read_to_its_end() {
        let rows = batch(vec![("p", Arc::new(Int64Array::from(vec![1, 2])))]);
        let mut stream = messages(&rows);
        stream.push(stream[1].clone());
        stream.insert(0, FlightData::default());
        let read = read_all(stream).await.unwrap();
        assert_eq!(read.num_rows(), 4);
        assert_eq!(read.schema(), rows.schema());
        let nothing = read_all(vec![FlightData::default()]).await.unwrap();
        assert_eq!((nothing.num_columns(), nothing.num_rows()), (0, 0));
    }

    #[tokio::test]
    async fn garbage_is_the_callers_mistake() {
        let rows = batch(vec![("p", Arc::new(StringArray::from(vec!["value"])))]);
        let good = messages(&rows);
        let mut cases = vec![vec![good[1].clone()], vec![good[0].clone(); 2]];
        for index in 0..good[1].data_header.len() {
            let mut header = good[1].data_header.to_vec();
            header[index] ^= 0xff;
            let broken = FlightData {
                data_header: header.into(),
                ..good[1].clone()
            };
            cases.push(vec![good[0].clone(), broken]);
        }
        let short = FlightData {
            data_body: Bytes::from_static(b"x"),
            ..good[1].clone()
        };
        cases.push(vec![good[0].clone(), short]);
        for case in cases {
            // A flipped bit may leave a message that still reads; it must not do worse than be refused.
            if let Err(problem) = read_all(case).await {
                assert_eq!(problem.slug(), Slug::InvalidQuery);
            }
        }
    }

    #[tokio::test]
    async fn a_stream_without_end_is_cut_off() {
        let rows = batch(vec![(
            "p",
            Arc::new(StringArray::from(vec!["x".repeat(100_000)])),
        )]);
        let good = messages(&rows);
        let endless = stream::iter([Ok(good[0].clone())])
            .chain(stream::repeat_with(move || Ok(good[1].clone())));
        let problem = read(endless).await.unwrap_err();
        assert_eq!(problem.slug(), Slug::QueryLimitExceeded);
    }

    /// A type and rows of it that take next to nothing as they are sent.
    fn folded() -> Vec<(&'static str, ArrayRef)> {
        use arrow::array::{GenericListViewArray, RunArray};
        use arrow::buffer::ScalarBuffer;

        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7; 10_000]));
        let views = |values: ArrayRef, rows: usize| -> ArrayRef {
            let field = Arc::new(Field::new("item", values.data_type().clone(), true));
            let size = i32::try_from(values.len()).unwrap();
            let (offsets, sizes) = (vec![0; rows], vec![size; rows]);
            let (offsets, sizes) = (ScalarBuffer::from(offsets), ScalarBuffer::from(sizes));
            Arc::new(GenericListViewArray::<i32>::new(
                field, offsets, sizes, values, None,
            ))
        };
        let text = "x".repeat(64 * 1024);
        let ends = arrow::array::Int32Array::from(vec![200]);
        let runs = RunArray::try_new(&ends, &StringArray::from(vec![text.as_str()])).unwrap();
        let members = UnionFields::try_new([0], [Field::new("t", DataType::Utf8, true)]).unwrap();
        let union = UnionArray::try_new(
            members,
            ScalarBuffer::from(vec![0; 200]),
            Some(ScalarBuffer::from(vec![0; 200])),
            vec![Arc::new(StringArray::from(vec![text.as_str()]))],
        );
        vec![
            ("list views", views(views(numbers, 1_000), 200)),
            ("runs", Arc::new(runs)),
            ("union", Arc::new(union.unwrap())),
        ]
    }

    #[test]
    fn what_stands_in_many_rows_is_weighed_in_each() {
        for (name, column) in folded() {
            let slug = refused(vec![("1", column)], &["$1"]);
            assert_eq!(slug, Slug::QueryLimitExceeded, "{name}");
        }
    }
}
