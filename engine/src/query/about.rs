//! What a column is, for whoever looks at it: its meaning, its class, and what of it this caller does not see.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Fields, Schema, SchemaRef};
use catalog::policy::{Bundle, FieldPath};

use super::masking::ColumnMask;
use super::viewer::{View, Viewer};
use crate::record::schema::{self, Visibility};

/// What a caller is told of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// One line on what it holds.
    pub meaning: String,
    /// What the policy says its values are, `pii.email` for example.
    pub class: Option<String>,
    /// The mask that applies to this caller: its kind, or that it applies to parts of each value.
    pub mask: Option<String>,
}

impl About {
    /// All of it on one line: the comment that clients show.
    #[must_use]
    pub fn comment(&self) -> String {
        let mut comment = self.meaning.clone();
        if let Some(class) = &self.class {
            comment.push_str(&format!("; class {class}"));
        }
        if let Some(mask) = &self.mask {
            comment.push_str(&format!("; masked for you: {mask}"));
        }
        comment
    }
}

/// What the caller is told of the columns of a table, in the order of the view.
pub(super) fn columns(viewer: &Viewer, view: &View) -> Vec<About> {
    let bundle = &viewer.decision().policy.bundle;
    let columns = view.schema.fields().iter().zip(&view.columns);
    columns
        .map(|(field, column)| about(bundle, field.name(), &column.mask))
        .collect()
}

/// The columns that records have whatever the policy says, and that everyone sees.
pub(super) fn appendable() -> (SchemaRef, Vec<About>) {
    let records = schema::records::<&str>(&[]);
    let shown = |field: &&FieldRef| schema::visibility(field.name()) == Visibility::Everyone;
    let fields: Fields = records.fields().iter().filter(shown).cloned().collect();
    let about = |field: &FieldRef| About {
        meaning: schema::description(field.name())
            .unwrap_or_default()
            .to_owned(),
        class: None,
        mask: None,
    };
    let about = fields.iter().map(about).collect();
    (Arc::new(Schema::new(fields)), about)
}

fn about(bundle: &Bundle, name: &str, mask: &ColumnMask) -> About {
    let promoted = bundle
        .promoted()
        .find(|(column, _)| column.as_str() == name);
    let meaning = match (schema::description(name), promoted) {
        (Some(described), _) => described.to_owned(),
        (None, Some((_, path))) => format!("The value at {path}"),
        (None, None) => String::new(),
    };
    let of_column = FieldPath::Column(name.to_owned());
    let rule = bundle.fields.iter().find(|rule| {
        let is_promoted = rule.promote.as_ref().is_some_and(|to| to.as_str() == name);
        is_promoted || rule.path == of_column
    });
    About {
        meaning,
        class: rule.and_then(|rule| rule.class.clone()),
        mask: mask.told().map(str::to_owned),
    }
}
