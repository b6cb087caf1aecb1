//! Row policies at work: which stored rows of a batch the caller may know of.
//!
//! Evaluated inside the guarded leaf, on stored values, before any mask and whatever storage has already left out. A value
//! that is not there makes a test neither true nor false; only rows of which the whole is true are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Scalar, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::kernels::{boolean, cmp, comparison};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use catalog::clock::Timestamp;
use catalog::guard::Decision;
use catalog::policy::row::{Comparison, Predicate, RowField, RowTest};
use catalog::policy::{FieldPath, RowRule};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{InList, Like};
use datafusion::logical_expr::{Expr, lit};

use super::error::Error;
use super::masking::Stored;
use super::table_name::TableName;
use super::viewer::LABELS;
use crate::record::schema::instant;

/// The rows of one table that one caller may know of.
#[derive(Debug, Clone)]
pub(crate) struct RowFilter {
    rule: Arc<RowRule>,
    places: BTreeMap<RowField, Place>,
}

/// Where a field of a rule is stored.
#[derive(Debug, Clone, Default)]
struct Place {
    /// The column; of a label, the promoted columns that it is cut out to.
    columns: Vec<usize>,
    /// Of a label, the map, and the key in it.
    label: Option<(usize, String)>,
}

impl RowFilter {
    /// The filter of a decision, if it has a row policy. Only records are shown under one.
    pub(crate) fn of(
        decision: &Decision,
        table: TableName,
        stored: &Schema,
    ) -> Result<Option<Self>, Error> {
        let Some(rule) = &decision.rows else {
            return Ok(None);
        };
        if table != TableName::Records {
            tracing::error!(%table, "a table was opened that a row policy keeps from the caller");
            return Err(Error::Internal);
        }
        let mut fields = BTreeSet::new();
        rule.predicate.each(&mut |test| {
            fields.insert(test.field());
        });
        let places = fields.into_iter().map(|field| {
            let place = Place::of(&field, decision, stored)?;
            Ok((field, place))
        });
        Ok(Some(Self {
            places: places.collect::<Result<_, Error>>()?,
            rule: Arc::clone(rule),
        }))
    }

    /// What it enforces.
    pub(crate) fn rule(&self) -> &Arc<RowRule> {
        &self.rule
    }

    /// The stored columns that it looks at.
    pub(super) fn needs(&self) -> impl Iterator<Item = usize> {
        self.places.values().flat_map(|place| {
            let map = place.label.iter().map(|(map, _)| *map);
            place.columns.iter().copied().chain(map)
        })
    }

    /// Which rows to keep: true or false for each.
    pub(super) fn keeps<'a>(
        &self,
        rows: usize,
        stored: &Stored<'_, 'a>,
    ) -> Result<BooleanArray, ArrowError> {
        let kept = self.predicate(&self.rule.predicate, rows, stored)?;
        Ok(kept.iter().map(|kept| Some(kept == Some(true))).collect())
    }

    fn predicate<'a>(
        &self,
        predicate: &Predicate<RowTest>,
        rows: usize,
        stored: &Stored<'_, 'a>,
    ) -> Result<BooleanArray, ArrowError> {
        let all = |value: bool| BooleanArray::from(vec![value; rows]);
        match predicate {
            Predicate::All(parts) => parts.iter().try_fold(all(true), |kept, part| {
                boolean::and_kleene(&kept, &self.predicate(part, rows, stored)?)
            }),
            Predicate::Any(parts) => parts.iter().try_fold(all(false), |kept, part| {
                boolean::or_kleene(&kept, &self.predicate(part, rows, stored)?)
            }),
            Predicate::Not(inner) => boolean::not(&self.predicate(inner, rows, stored)?),
            Predicate::Test(test) => self.test(test, rows, stored),
        }
    }

    fn test<'a>(
        &self,
        test: &RowTest,
        rows: usize,
        stored: &Stored<'_, 'a>,
    ) -> Result<BooleanArray, ArrowError> {
        let values = self.values(&test.field(), rows, stored)?;
        match test {
            RowTest::Text(_, comparison, text) => {
                let text = Scalar::new(StringArray::from(vec![text.as_str()]));
                compared(texts(&values)?, *comparison, &text)
            }
            RowTest::Time(_, comparison, at) => {
                let at = TimestampMicrosecondArray::from(vec![at.as_micros()]);
                compared(&values, *comparison, &Scalar::new(at.with_timezone("UTC")))
            }
            RowTest::OneOf(_, wanted) => {
                let texts = texts(&values)?.iter();
                Ok(texts.map(|text| Some(wanted.contains(text?))).collect())
            }
            RowTest::Like {
                pattern, any_case, ..
            } => {
                let pattern = Scalar::new(StringArray::from(vec![pattern.as_str()]));
                if *any_case {
                    comparison::ilike(texts(&values)?, &pattern)
                } else {
                    comparison::like(texts(&values)?, &pattern)
                }
            }
            RowTest::Missing(_) => boolean::is_null(&values),
        }
    }

    /// The values of a field. A promoted column that no row has been stored with yet has none.
    fn values<'a>(
        &self,
        field: &RowField,
        rows: usize,
        stored: &Stored<'_, 'a>,
    ) -> Result<ArrayRef, ArrowError> {
        let place = self.places.get(field).ok_or_else(lost)?;
        let Some((map, key)) = &place.label else {
            return Ok(match place.columns.first() {
                Some(column) => Arc::clone(stored(*column)?),
                None => Arc::new(StringArray::new_null(rows)),
            });
        };
        let promoted: Vec<&StringArray> = place
            .columns
            .iter()
            .map(|column| texts(stored(*column)?))
            .collect::<Result<_, _>>()?;
        let labels = stored(*map)?.as_map_opt().ok_or_else(lost)?;
        let (keys, values) = (texts(labels.keys())?, texts(labels.values())?);
        let offsets = labels.value_offsets();
        let entry_of = |row: usize| offsets.get(row).map_or(0, |offset| *offset as usize);
        let label = |row: usize| {
            let cut = promoted.iter().find(|column| column.is_valid(row));
            if let Some(column) = cut {
                return Some(column.value(row));
            }
            let mut entries = entry_of(row)..entry_of(row + 1);
            let entry = entries
                .rfind(|entry| keys.value(*entry) == key)
                .filter(|entry| labels.is_valid(row) && values.is_valid(*entry))?;
            Some(values.value(entry))
        };
        Ok(Arc::new((0..rows).map(label).collect::<StringArray>()))
    }

    /// What of the rule storage can leave rows out by: the parts that look at columns alone.
    pub(super) fn pruning(&self) -> Vec<Expr> {
        let parts = match &self.rule.predicate {
            Predicate::All(parts) => parts.as_slice(),
            other => std::slice::from_ref(other),
        };
        parts.iter().filter_map(|part| self.expr(part)).collect()
    }

    fn expr(&self, predicate: &Predicate<RowTest>) -> Option<Expr> {
        let each = |parts: &[Predicate<RowTest>]| -> Option<Vec<Expr>> {
            parts.iter().map(|part| self.expr(part)).collect()
        };
        Some(match predicate {
            Predicate::All(parts) => each(parts)?
                .into_iter()
                .reduce(Expr::and)
                .unwrap_or(lit(true)),
            Predicate::Any(parts) => each(parts)?
                .into_iter()
                .reduce(Expr::or)
                .unwrap_or(lit(false)),
            Predicate::Not(inner) => !self.expr(inner)?,
            Predicate::Test(test) => self.test_expr(test)?,
        })
    }

    fn test_expr(&self, test: &RowTest) -> Option<Expr> {
        let field = test.field();
        let RowField::Column(name) = &field else {
            return None;
        };
        // A column that is not stored yet cannot be pruned by.
        self.places.get(&field)?.columns.first()?;
        let column = Expr::Column(Column::from_name(name));
        Some(match test {
            RowTest::Text(_, comparison, text) => {
                compared_expr(column, *comparison, lit(text.as_str()))
            }
            RowTest::Time(_, comparison, at) => compared_expr(column, *comparison, lit(time(*at))),
            RowTest::OneOf(_, texts) => {
                let texts = texts.iter().map(|text| lit(text.as_str())).collect();
                Expr::InList(InList::new(Box::new(column), texts, false))
            }
            RowTest::Like {
                pattern, any_case, ..
            } => {
                let pattern = Box::new(lit(pattern.as_str()));
                Expr::Like(Like::new(false, Box::new(column), pattern, None, *any_case))
            }
            RowTest::Missing(_) => column.is_null(),
        })
    }
}

impl Place {
    fn of(field: &RowField, decision: &Decision, stored: &Schema) -> Result<Self, Error> {
        let unfit = |what| {
            tracing::error!(what, "a row policy does not fit its table");
            Error::Internal
        };
        match field {
            RowField::Column(name) => {
                let Ok(index) = stored.index_of(name) else {
                    return Ok(Self::default());
                };
                let data_type = stored.field(index).data_type();
                if *data_type != DataType::Utf8 && *data_type != instant() {
                    return Err(unfit("a column"));
                }
                Ok(Self {
                    columns: vec![index],
                    label: None,
                })
            }
            RowField::Label(key) => {
                let map = stored.index_of(LABELS).map_err(|_| unfit("labels"))?;
                let path = FieldPath::Label(key.clone());
                let promoted = decision.policy.bundle.promoted();
                let cut = promoted.filter(|(_, from)| **from == path);
                let cut = cut.filter_map(|(column, _)| stored.index_of(column.as_str()).ok());
                Ok(Self {
                    columns: cut.collect(),
                    label: Some((map, key.clone())),
                })
            }
        }
    }
}

fn compared(
    values: &dyn arrow::array::Datum,
    comparison: Comparison,
    with: &dyn arrow::array::Datum,
) -> Result<BooleanArray, ArrowError> {
    match comparison {
        Comparison::Equal => cmp::eq(values, with),
        Comparison::NotEqual => cmp::neq(values, with),
        Comparison::Less => cmp::lt(values, with),
        Comparison::LessOrEqual => cmp::lt_eq(values, with),
        Comparison::Greater => cmp::gt(values, with),
        Comparison::GreaterOrEqual => cmp::gt_eq(values, with),
    }
}

fn compared_expr(column: Expr, comparison: Comparison, with: Expr) -> Expr {
    match comparison {
        Comparison::Equal => column.eq(with),
        Comparison::NotEqual => column.not_eq(with),
        Comparison::Less => column.lt(with),
        Comparison::LessOrEqual => column.lt_eq(with),
        Comparison::Greater => column.gt(with),
        Comparison::GreaterOrEqual => column.gt_eq(with),
    }
}

fn time(at: Timestamp) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(at.as_micros()), Some("UTC".into()))
}

fn texts(array: &ArrayRef) -> Result<&StringArray, ArrowError> {
    array.as_string_opt::<i32>().ok_or_else(lost)
}

fn lost() -> ArrowError {
    ArrowError::SchemaError("a row policy's column is not what was promised".to_owned())
}
