//! Structs, maps and JSON text in a row as the JSON value they stand for.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use serde_json::{Map, Value};

use super::super::json::{self, DEPTH_MAX, INEXACT, Violation, push_index, push_key};
use super::{Budget, Spent, behind_dictionary, is_text, text};

/// About what a value weighs as JSON, beside its text.
const VALUE_BYTES: usize = 4;

/// Whether every value of the type stands for a JSON value. `depth` is how deep in a record it stands.
pub(super) fn is_document(data_type: &DataType, depth: usize) -> bool {
    if depth >= DEPTH_MAX {
        return false;
    }
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64 => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            is_document(item.data_type(), depth + 1)
        }
        DataType::Struct(fields) => fields
            .iter()
            .all(|field| is_document(field.data_type(), depth + 1)),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(entry) => match entry.as_ref() {
                [key, value] => {
                    is_text(key.data_type()) && is_document(value.data_type(), depth + 1)
                }
                _ => false,
            },
            _ => false,
        },
        other => is_text(other),
    }
}

/// JSON text as the value it is; null after a violation.
pub(super) fn parsed(column: &str, text: &str, violations: &mut Vec<Violation>) -> Value {
    match json::parse_within(text.as_bytes(), 1) {
        Ok(value) => value,
        Err(faults) => {
            violations.extend(
                faults.into_iter().map(|fault| {
                    Violation::new(format!("/{column}{}", fault.pointer), fault.message)
                }),
            );
            Value::Null
        }
    }
}

/// The value in a row of a column for which [`is_document`] holds. What has no JSON is null and among the violations.
pub(super) fn value(
    column: &ArrayRef,
    row: usize,
    pointer: &mut String,
    budget: &mut Budget,
    violations: &mut Vec<Violation>,
) -> Result<Value, Spent> {
    budget.take(VALUE_BYTES)?;
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let mut reading = Place {
        pointer,
        budget,
        violations,
    };
    match column.data_type() {
        DataType::Boolean => Ok(column.as_boolean().value(row).into()),
        DataType::Struct(_) => reading.object(column, row),
        DataType::Map(_, _) => reading.map(column, row),
        DataType::List(_) => reading.list(&column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => reading.list(&column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(_, _) => reading.list(&column.as_fixed_size_list().value(row)),
        DataType::Float32 => {
            Ok(reading.float(column.as_primitive::<Float32Type>().value(row).into()))
        }
        DataType::Float64 => Ok(reading.float(column.as_primitive::<Float64Type>().value(row))),
        _ => match integer(column, row) {
            Some(integer) => Ok(reading.integer(integer)),
            None => reading.text(column, row),
        },
    }
}

fn integer(column: &ArrayRef, row: usize) -> Option<i128> {
    Some(match column.data_type() {
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        _ => return None,
    })
}

/// Where a value stands, what it may still weigh, and what is wrong so far.
struct Place<'a> {
    pointer: &'a mut String,
    budget: &'a mut Budget,
    violations: &'a mut Vec<Violation>,
}

impl Place<'_> {
    fn violation(&mut self, message: &str) -> Value {
        if self.violations.len() < json::VIOLATIONS_MAX {
            self.violations
                .push(Violation::new(self.pointer.clone(), message));
        }
        Value::Null
    }

    fn integer(&mut self, integer: i128) -> Value {
        match json::exact_number(&integer.to_string()) {
            Some(number) => Value::Number(number),
            None => self.violation(INEXACT),
        }
    }

    fn float(&mut self, float: f64) -> Value {
        if !float.is_finite() {
            return self.violation("is not a number that JSON has");
        }
        // The shortest text of a double has its very value.
        match json::exact_number(&format!("{float:e}")) {
            Some(number) => Value::Number(number),
            None => self.violation(INEXACT),
        }
    }

    fn text(&mut self, column: &ArrayRef, row: usize) -> Result<Value, Spent> {
        let found = match column.data_type() {
            DataType::Dictionary(_, _) => {
                behind_dictionary(column, row).and_then(|(values, key)| text(values, key))
            }
            _ => text(column, row),
        };
        let Some(found) = found else {
            return Ok(Value::Null);
        };
        self.budget.take(found.len())?;
        Ok(found.into())
    }

    fn inside(&mut self, column: &ArrayRef, row: usize) -> Result<Value, Spent> {
        value(column, row, self.pointer, self.budget, self.violations)
    }

    fn object(&mut self, column: &ArrayRef, row: usize) -> Result<Value, Spent> {
        let object = column.as_struct();
        let mut members = Map::new();
        for (field, column) in object.fields().iter().zip(object.columns()) {
            let length = self.pointer.len();
            push_key(self.pointer, field.name());
            self.budget.take(field.name().len())?;
            if members.contains_key(field.name()) {
                self.violation("key given more than once");
            }
            match self.inside(column, row)? {
                Value::Null => {}
                value => {
                    members.insert(field.name().clone(), value);
                }
            }
            self.pointer.truncate(length);
        }
        Ok(Value::Object(members))
    }

    fn map(&mut self, column: &ArrayRef, row: usize) -> Result<Value, Spent> {
        let entries = column.as_map().value(row);
        let mut members = Map::new();
        let [keys, values] = entries.columns() else {
            return Ok(Value::Null);
        };
        for entry in 0..entries.len() {
            let length = self.pointer.len();
            let key = text(keys, entry).unwrap_or_default();
            self.budget.take(key.len())?;
            push_key(self.pointer, key);
            if members.contains_key(key) {
                self.violation("key given more than once");
            }
            let value = self.inside(values, entry)?;
            members.insert(key.to_owned(), value);
            self.pointer.truncate(length);
        }
        Ok(Value::Object(members))
    }

    fn list(&mut self, items: &ArrayRef) -> Result<Value, Spent> {
        let mut elements = Vec::new();
        for index in 0..items.len() {
            let length = self.pointer.len();
            push_index(self.pointer, index);
            elements.push(self.inside(items, index)?);
            self.pointer.truncate(length);
        }
        Ok(Value::Array(elements))
    }
}
