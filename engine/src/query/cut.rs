//! What was cut out of a record when it was stored, and where it lies.

use std::ops::Range;

use arrow::array::{Array, AsArray, MapArray, StringArray};
use arrow::error::ArrowError;

use super::masking::{Stored, text, unfit};
use crate::record::restore::Held;

/// Where the values that were cut out of a column are stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cut {
    /// The map of sealed fields, by pointer.
    pub(crate) sealed_fields: Option<usize>,
    /// Promoted columns, with the pointer of the place that each was cut out of.
    pub(crate) promoted: Vec<(usize, String)>,
}

impl Cut {
    pub(super) fn needs(&self) -> Vec<usize> {
        let promoted = self.promoted.iter().map(|(column, _)| *column);
        self.sealed_fields.into_iter().chain(promoted).collect()
    }
}

/// The columns of one batch that hold what was cut out.
pub(super) struct CutColumns<'a> {
    sealed_fields: Option<&'a MapArray>,
    promoted: Vec<(&'a StringArray, &'a str)>,
}

impl<'a> CutColumns<'a> {
    pub(super) fn find(cut: &'a Cut, stored: &Stored<'_, 'a>) -> Result<Self, ArrowError> {
        let sealed_fields = match cut.sealed_fields {
            Some(index) => Some(stored(index)?.as_map_opt().ok_or_else(unfit)?),
            None => None,
        };
        let promoted = cut
            .promoted
            .iter()
            .map(|(index, pointer)| Ok((text(stored(*index)?)?, pointer.as_str())))
            .collect::<Result<_, ArrowError>>()?;
        Ok(Self {
            sealed_fields,
            promoted,
        })
    }

    /// What was cut out of one row, by pointer.
    pub(super) fn of(&self, row: usize) -> Result<Vec<(&'a str, Held<'a>)>, ArrowError> {
        let mut held = Vec::new();
        self.add(row, &mut held)?;
        Ok(held)
    }

    /// Adds what was cut out of one row, by pointer.
    pub(super) fn add(
        &self,
        row: usize,
        held: &mut Vec<(&'a str, Held<'a>)>,
    ) -> Result<(), ArrowError> {
        if let Some(map) = self.sealed_fields
            && map.is_valid(row)
        {
            let (pointers, values) = (text(map.keys())?, text(map.values())?);
            for entry in entries_of(map, row) {
                if values.is_valid(entry) {
                    held.push((pointers.value(entry), Held::Json(values.value(entry))));
                }
            }
        }
        for (column, pointer) in &self.promoted {
            if column.is_valid(row) {
                held.push((pointer, Held::Text(column.value(row))));
            }
        }
        Ok(())
    }

    /// Whether any row has a value that was cut out of the labels.
    pub(super) fn has_labels(&self) -> Result<bool, ArrowError> {
        let is_label = |pointer: &str| pointer.starts_with("/labels/");
        let mut promoted = self.promoted.iter();
        if promoted.any(|(column, pointer)| is_label(pointer) && column.null_count() < column.len())
        {
            return Ok(true);
        }
        let Some(map) = self.sealed_fields else {
            return Ok(false);
        };
        let pointers = text(map.keys())?;
        let mut entries = entries_of(map, 0).start..entries_of(map, map.len()).start;
        Ok(entries.any(|entry| is_label(pointers.value(entry))))
    }
}

/// Where the entries of a row stand.
pub(super) fn entries_of(map: &MapArray, row: usize) -> Range<usize> {
    let offset = |row: usize| map.value_offsets().get(row).copied();
    let start = offset(row).unwrap_or_default() as usize;
    start..offset(row + 1).map_or(start, |end| end as usize)
}
