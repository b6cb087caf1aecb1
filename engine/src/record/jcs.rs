//! RFC 8785 (JSON Canonicalization Scheme), written into one buffer.
//!
//! Every record is written twice on its way in, so this is our own: what a value is made of is looked at in place, and
//! nothing is allocated but the text. Tests hold it to `serde_json_canonicalizer`.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

use super::canonical::NoCanonicalForm;

/// Integers up to here (2^53) are doubles, and their own shortest decimal.
const EXACT_INTEGER_MAX: u64 = 1 << 53;
/// From this byte on, UTF-8 and UTF-16 do not sort alike: it starts U+E000 and all above.
const SORTS_APART: u8 = 0xEE;

/// What becomes of members that are null.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    Kept,
    /// At every depth; elements of arrays stay.
    Dropped,
}

/// Appends the canonical text of a value.
pub(super) fn write(text: &mut String, value: &Value, nulls: Nulls) -> Result<(), NoCanonicalForm> {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => return write_number(text, number),
        Value::String(string) => write_string(text, string),
        Value::Array(elements) => {
            text.push('[');
            for (at, element) in elements.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(text, element, nulls)?;
            }
            text.push(']');
        }
        Value::Object(members) => return write_map(text, members, nulls),
    }
    Ok(())
}

/// Appends the canonical text of an object. Maps of `serde_json` are in byte order as long as nothing in the build turns its
/// `preserve_order` on, which the tests below would show.
pub(super) fn write_map(
    text: &mut String,
    members: &Map<String, Value>,
    nulls: Nulls,
) -> Result<(), NoCanonicalForm> {
    let members = members.iter().map(|(key, value)| (key.as_str(), value));
    let members = members.filter(|(_, value)| nulls == Nulls::Kept || !value.is_null());
    write_object(text, members, |value, text| write(text, value, nulls))
}

/// Appends an object with these members, which come in the byte order of their names, each written by `write`.
pub(super) fn write_object<'m, M: 'm>(
    text: &mut String,
    members: impl Iterator<Item = (&'m str, &'m M)> + Clone,
    write: impl Fn(&M, &mut String) -> Result<(), NoCanonicalForm>,
) -> Result<(), NoCanonicalForm> {
    text.push('{');
    let mut names = members.clone().map(|(name, _)| name);
    debug_assert!(names.clone().is_sorted(), "members in the order of bytes");
    if names.all(|name| name.bytes().all(|byte| byte < SORTS_APART)) {
        write_members(text, members, write)?;
    } else {
        let mut sorted: Vec<_> = members.collect();
        sorted.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
        write_members(text, sorted.into_iter(), write)?;
    }
    text.push('}');
    Ok(())
}

fn write_members<'m, M: 'm>(
    text: &mut String,
    members: impl Iterator<Item = (&'m str, &'m M)>,
    write: impl Fn(&M, &mut String) -> Result<(), NoCanonicalForm>,
) -> Result<(), NoCanonicalForm> {
    for (at, (key, member)) in members.enumerate() {
        if at > 0 {
            text.push(',');
        }
        write_string(text, key);
        text.push(':');
        write(member, text)?;
    }
    Ok(())
}

/// Appends a string with the escapes that it must have and no other.
pub(super) fn write_string(text: &mut String, string: &str) {
    text.push('"');
    // Nearly every text; without a way out of the loop, it looks at many bytes at once.
    if !string
        .bytes()
        .fold(false, |any, byte| any | is_escaped(byte))
    {
        text.push_str(string);
        text.push('"');
        return;
    }
    let mut plain = 0;
    for (at, byte) in string.bytes().enumerate() {
        if !is_escaped(byte) {
            continue;
        }
        text.push_str(&string[plain..at]);
        plain = at + 1;
        text.push('\\');
        match byte {
            b'"' | b'\\' => text.push(char::from(byte)),
            0x08 => text.push('b'),
            b'\t' => text.push('t'),
            b'\n' => text.push('n'),
            0x0C => text.push('f'),
            b'\r' => text.push('r'),
            control => {
                text.push_str(if control < 0x10 { "u000" } else { "u001" });
                let digit = char::from_digit(u32::from(control % 0x10), 16);
                text.extend(digit);
            }
        }
    }
    text.push_str(&string[plain..]);
    text.push('"');
}

fn is_escaped(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

/// Appends a number as ECMAScript writes the double that it is.
fn write_number(text: &mut String, number: &Number) -> Result<(), NoCanonicalForm> {
    let integer = number.as_i64();
    if let Some(integer) = integer.filter(|integer| integer.unsigned_abs() <= EXACT_INTEGER_MAX) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{integer}");
        return Ok(());
    }
    let double = number.as_f64().filter(|double| double.is_finite());
    let double = double.ok_or(NoCanonicalForm)?;
    text.push_str(ryu_js::Buffer::new().format_finite(double));
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    fn written(value: &Value, nulls: Nulls) -> String {
        let mut text = String::new();
        write(&mut text, value, nulls).unwrap();
        text
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            (-1000..1000_i32).prop_map(|n| Value::from(f64::from(n) / 8.0)),
            "(\\PC|[\\x00-\\x1f\"\\\\]){0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            // Keys on both sides of where the two orders part: U+D7FF, U+E000, U+FFFF and U+10000.
            let key = "[a-c\\x01\u{7f}\u{e9}\u{d7ff}\u{e000}\u{ffee}\u{10000}\u{10ffff}]{0,3}";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..6)
                    .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
            ]
        })
    }

    #[test]
    fn keys_are_in_the_order_of_their_code_units() {
        let value =
            json!({"\u{ffee}": 1, "\u{10000}": 2, "b": null, "a": {"y": [null], "x": -0.0}});
        assert_eq!(
            written(&value, Nulls::Dropped),
            "{\"a\":{\"x\":0,\"y\":[null]},\"\u{10000}\":2,\"\u{ffee}\":1}"
        );
    }

    proptest! {
        #[test]
        fn the_text_is_that_of_the_library(value in value()) {
            let wanted = serde_json_canonicalizer::to_string(&value).unwrap();
            prop_assert_eq!(written(&value, Nulls::Kept), wanted);
        }
    }
}
