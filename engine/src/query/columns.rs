//! Columns of a plan's inputs, with the fields behind each of them.

use datafusion::common::{Column, DFSchema, DFSchemaRef};

use super::fields::Fields;

/// The fields behind each output column of a plan, in order.
pub(super) type Lineage = Vec<Fields>;

/// What the columns of an expression refer to.
pub(super) type Inputs = Vec<(DFSchemaRef, Lineage)>;

/// The fields of a column by its name; of all columns that the name fits. None if there is no such column.
pub(super) fn find(inputs: &Inputs, column: &Column) -> Option<Fields> {
    let mut found: Option<Fields> = None;
    for (schema, lineage) in inputs {
        for (index, fields) in lineage.iter().enumerate() {
            if fits(schema, index, column) {
                found.get_or_insert_default().extend(fields.iter().cloned());
            }
        }
    }
    found
}

fn fits(schema: &DFSchema, index: usize, column: &Column) -> bool {
    let (qualifier, field) = schema.qualified_field(index);
    let is_qualified = match (&column.relation, qualifier) {
        (Some(wanted), Some(own)) => wanted.resolved_eq(own),
        (Some(_), None) => false,
        (None, _) => true,
    };
    is_qualified && *field.name() == column.name
}

/// The columns of the only input.
pub(super) fn only(inputs: Inputs) -> Lineage {
    inputs
        .into_iter()
        .flat_map(|(_, lineage)| lineage)
        .collect()
}

/// Adds the fields of a branch, column by column.
pub(super) fn unite(united: &mut Lineage, more: Lineage) {
    if united.is_empty() {
        *united = more;
        return;
    }
    for (own, fields) in united.iter_mut().zip(more) {
        own.extend(fields);
    }
}
