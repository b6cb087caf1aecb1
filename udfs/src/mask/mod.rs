//! One mask, over a value and over a column.
//!
//! ```text
//! column   Mask::apply       type dispatch: text, dictionary, timestamp; anything else is null
//!   |      column            one call for each distinct value, results packed into a new array
//!   v
//! value    Mask::apply_str   hash "h1:…", token "t1:…", partial "****1234", redact "[redacted]",
//!                            generalize "203.0.113.0/24" or "2024-05-17", nullify
//! ```
//! [`JsonMask`] and [`LabelMask`] choose a mask for each part of a value; the functions are the same.

mod column;
mod generalize;
mod hash;
mod json;
mod label;
mod partial;
#[cfg(test)]
mod properties;
mod redact;
mod token;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use column::Work;
use generalize::Granularity;

pub use hash::HashKey;
pub use json::{JsonMask, JsonPath, JsonStep};
pub use label::LabelMask;
pub use redact::REDACTED;

/// What happens to a value before somebody sees it.
///
/// Two masks are equal if they give the same result for every value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Mask {
    /// A keyed hash, `h1:` and 22 characters: equal values stay equal, within the column of the key.
    Hash(HashKey),
    /// A keyed token, `t1:` and 22 characters, in another domain than the hash.
    Token(HashKey),
    /// The first and last characters around `****`; [`REDACTED`] when these are half of the value or more.
    Partial {
        /// Characters shown at the start.
        show_first: usize,
        /// Characters shown at the end.
        show_last: usize,
    },
    /// [`REDACTED`].
    Redact,
    /// Null, for a column of any type.
    Nullify,
    /// The network of an IP address, /24 or /48; other text is [`REDACTED`].
    GeneralizeIp,
    /// The UTC day of a timestamp or of RFC 3339 text; other text is [`REDACTED`].
    GeneralizeDay,
    /// The UTC month of a timestamp or of RFC 3339 text; other text is [`REDACTED`].
    GeneralizeMonth,
}

impl Mask {
    /// What it does, in the words that policies use.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hash(_) => "HASH",
            Self::Token(_) => "TOKEN",
            Self::Partial { .. } => "MASK",
            Self::Redact => "REDACT",
            Self::Nullify => "NULLIFY",
            Self::GeneralizeIp | Self::GeneralizeDay | Self::GeneralizeMonth => "GENERALIZE",
        }
    }

    /// Masks a column: same type, same length, nulls stay null.
    ///
    /// Text is `Utf8`, `LargeUtf8`, `Utf8View` and dictionaries of these (the values are masked and may repeat then, the
    /// keys stay). A column that the mask is not made for becomes null throughout.
    pub fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        if !self.is_made_for(array.data_type()) {
            return Ok(new_null_array(array.data_type(), array.len()));
        }
        match array.data_type() {
            DataType::Dictionary(_, _) => column::dictionary(array, |values| self.apply(values)),
            DataType::Timestamp(_, _) => Ok(match self.granularity() {
                Some(granularity) => generalize::timestamps(array, granularity),
                None => new_null_array(array.data_type(), array.len()),
            }),
            _ => column::text(array, self.work(), |value, out| self.write(value, out)),
        }
    }

    /// Masks one text value; none is null.
    pub fn apply_str(&self, value: &str) -> Option<String> {
        let mut out = String::new();
        self.write(value, &mut out).then_some(out)
    }

    /// The name of the function in a plan.
    pub(crate) fn function_name(&self) -> &'static str {
        match self {
            Self::Hash(_) => "th_hash",
            Self::Token(_) => "th_token",
            Self::Partial { .. } => "th_mask",
            Self::Redact => "th_redact",
            Self::Nullify => "th_nullify",
            Self::GeneralizeIp | Self::GeneralizeDay | Self::GeneralizeMonth => "th_generalize",
        }
    }

    /// Appends the masked value and says whether there is one; null otherwise, with nothing appended.
    fn write(&self, value: &str, out: &mut String) -> bool {
        match self {
            Self::Hash(key) => hash::write(key, value, out),
            Self::Token(key) => token::write(key, value, out),
            Self::Partial {
                show_first,
                show_last,
            } => partial::write(value, *show_first, *show_last, out),
            Self::Redact => redact::write(out),
            Self::Nullify => return false,
            Self::GeneralizeIp => generalize::write_network(value, out),
            Self::GeneralizeDay => generalize::write_date(value, Granularity::Day, out),
            Self::GeneralizeMonth => generalize::write_date(value, Granularity::Month, out),
        }
        true
    }

    fn is_made_for(&self, data_type: &DataType) -> bool {
        match data_type {
            _ if matches!(self, Self::Nullify) => false,
            text if is_text(text) => true,
            DataType::Timestamp(_, _) => self.granularity().is_some(),
            DataType::Dictionary(_, values) => self.is_made_for(values),
            _ => false,
        }
    }

    fn granularity(&self) -> Option<Granularity> {
        match self {
            Self::GeneralizeDay => Some(Granularity::Day),
            Self::GeneralizeMonth => Some(Granularity::Month),
            Self::Hash(_)
            | Self::Token(_)
            | Self::Partial { .. }
            | Self::Redact
            | Self::Nullify
            | Self::GeneralizeIp => None,
        }
    }

    fn work(&self) -> Work {
        match self {
            Self::Redact | Self::Nullify => Work::Constant,
            Self::Hash(_) | Self::Token(_) => Work::Dear,
            Self::Partial { .. }
            | Self::GeneralizeIp
            | Self::GeneralizeDay
            | Self::GeneralizeMonth => Work::Cheap,
        }
    }

    /// The fixed order in which one of several masks wins: the higher hides more.
    fn strictness(&self) -> u8 {
        match self {
            Self::Nullify => 5,
            Self::Redact => 4,
            Self::Token(_) => 3,
            Self::Hash(_) => 2,
            Self::GeneralizeIp | Self::GeneralizeDay | Self::GeneralizeMonth => 1,
            Self::Partial { .. } => 0,
        }
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// The strictest of several masks; the first of those that are equally strict.
fn strictest<'m>(masks: impl IntoIterator<Item = &'m Mask>) -> Option<&'m Mask> {
    masks.into_iter().reduce(|best, next| {
        if next.strictness() > best.strictness() {
            next
        } else {
            best
        }
    })
}
