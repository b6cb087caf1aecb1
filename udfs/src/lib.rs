//! Pure column functions: what a caller may see of a value that is not theirs to see in full.
//!
//! Arrays in, arrays out. There is no tenant, no policy and no I/O here: whoever calls has decided which [`Mask`] a column
//! gets and holds the keys.
//!
//! | type | masks | with |
//! |---|---|---|
//! | [`Mask`] | a column, or one text value | one function |
//! | [`JsonMask`] | a text column of JSON | a function for each path |
//! | [`LabelMask`] | a map column | a function for each key |
//! | [`MaskFunction`] | what the query engine evaluates | any of the three |
//!
//! Every mask is **total**: no input makes it fail or panic, because an error text or a missing row would tell something
//! about a hidden value. What a mask is not made for becomes null (columns) or [`REDACTED`] (text), never the raw value.
//! And it is **closed**: the masked part of a result shares no buffer with its input, so a raw value cannot leave behind
//! a null, in a dictionary slot that no row names, or in the unused part of a buffer.
//!
//! Architecture invariant: a mask is constructed for a plan and never registered by name in a session. A caller who could
//! call the function could compare `th_hash('bob@example.com')` with what a column shows.

mod mask;
mod scalar;

pub use mask::{HashKey, JsonMask, JsonPath, JsonStep, LabelMask, Mask, REDACTED};
pub use scalar::MaskFunction;
