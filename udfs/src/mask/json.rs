//! Masks inside a column of JSON text.
//!
//! The text is rewritten, not parsed into a tree: what no path reaches is copied byte for byte, in its order, so canonical
//! text (RFC 8785) stays canonical and numbers keep their digits. What cannot be read is redacted whole.

use std::borrow::Cow;
use std::fmt;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::column::{self, Work};
use super::redact::REDACTED;
use super::{Mask, is_text, strictest};

/// Nesting that is followed; deeper text is redacted whole. Each level below the first is read once more.
const DEPTH_MAX: usize = 128;

/// One step into a JSON value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JsonStep {
    /// The member of an object with exactly this key.
    Key(String),
    /// Every element of an array.
    AnyElement,
}

/// Which parts of a JSON value a mask is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JsonPath {
    /// What these steps lead to; no step at all is the whole value.
    Steps(Vec<JsonStep>),
    /// Every member with this key, at any depth; letter case does not matter in ASCII.
    AnyKey(String),
}

/// Masks for the parts of a JSON text.
///
/// A text at a masked path is masked; a number, truth value, object or array there is replaced whole by [`REDACTED`], or by
/// null under [`Mask::Nullify`]; null stays. Where several paths lead to one part, the strictest mask wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonMask {
    steps: Vec<(Vec<JsonStep>, Mask)>,
    any_key: Vec<(String, Mask)>,
}

impl JsonMask {
    /// Masks for these paths, in any order.
    pub fn new(paths: Vec<(JsonPath, Mask)>) -> Self {
        let mut made = Self {
            steps: Vec::new(),
            any_key: Vec::new(),
        };
        for (path, mask) in paths {
            match path {
                JsonPath::Steps(steps) => made.steps.push((steps, mask)),
                JsonPath::AnyKey(key) => made.any_key.push((key, mask)),
            }
        }
        made
    }

    /// The masks that were made for just this path, for whoever verifies what was made.
    pub fn masks_at(&self, path: &JsonPath) -> impl Iterator<Item = &Mask> {
        let steps = self.steps.iter();
        let steps =
            steps.filter(move |(own, _)| matches!(path, JsonPath::Steps(path) if path == own));
        let keys = self.any_key.iter();
        let keys =
            keys.filter(move |(own, _)| matches!(path, JsonPath::AnyKey(path) if path == own));
        steps
            .map(|(_, mask)| mask)
            .chain(keys.map(|(_, mask)| mask))
    }

    /// Masks a text column of JSON: same type, same length, nulls stay null. A column of another type becomes null.
    pub fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match array.data_type() {
            DataType::Dictionary(_, values) if is_text(values) => {
                column::dictionary(array, |values| self.apply(values))
            }
            data_type if is_text(data_type) => column::text(array, Work::Dear, |value, out| {
                self.write(value, out);
                true
            }),
            data_type => Ok(new_null_array(data_type, array.len())),
        }
    }

    /// Masks one JSON text; the result is JSON, even when the text is not.
    pub fn apply_str(&self, text: &str) -> String {
        let mut out = String::new();
        self.write(text, &mut out);
        out
    }

    fn write(&self, text: &str, out: &mut String) {
        if self.leaves_alone(text) {
            out.push_str(text);
            return;
        }
        let start = out.len();
        let paths = self.steps.iter();
        let pending: Vec<_> = paths.map(|(steps, mask)| (&**steps, mask)).collect();
        let parsed = serde_json::from_str(text).map_err(Unreadable::from);
        let written = parsed.and_then(|raw: &RawValue| self.rewrite(raw.get(), &pending, 0, out));
        if written.is_err() {
            out.truncate(start);
            push_text(REDACTED, out);
        }
    }

    /// Whether the text is JSON in which no member has a name that any path begins with: most texts, and read only once.
    fn leaves_alone(&self, text: &str) -> bool {
        let mut steps = self.steps.iter();
        if !steps.all(|(steps, _)| matches!(steps.first(), Some(JsonStep::Key(_)))) {
            return false;
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = Unnamed(self).deserialize(&mut deserializer);
        read.and_then(|()| deserializer.end()).is_ok()
    }

    /// Whether a member of this name, wherever it stands, may have to do with a mask.
    fn names(&self, key: &str) -> bool {
        let first = |steps: &[JsonStep]| matches!(steps, [JsonStep::Key(own), ..] if own == key);
        let mut any_key = self.any_key.iter();
        any_key.any(|(own, _)| own.eq_ignore_ascii_case(key))
            || self.steps.iter().any(|(steps, _)| first(steps))
    }

    /// Appends a value, which is JSON, with its masks; `pending` is where the paths that lead here go on.
    fn rewrite(
        &self,
        text: &str,
        pending: &[Pending<'_>],
        depth: usize,
        out: &mut String,
    ) -> Result<(), Unreadable> {
        let here = pending.iter().filter(|(steps, _)| steps.is_empty());
        if let Some(mask) = strictest(here.map(|(_, mask)| *mask)) {
            return replace(text, mask, out);
        }
        let is_done = pending.is_empty() && self.any_key.is_empty();
        match text.as_bytes().first() {
            Some(b'{' | b'[') if !is_done && depth >= DEPTH_MAX => Err(Unreadable),
            Some(b'{') if !is_done => self.rewrite_object(text, pending, depth, out),
            Some(b'[') if !is_done => self.rewrite_array(text, pending, depth, out),
            _ => {
                out.push_str(text);
                Ok(())
            }
        }
    }

    fn rewrite_object(
        &self,
        text: &str,
        pending: &[Pending<'_>],
        depth: usize,
        out: &mut String,
    ) -> Result<(), Unreadable> {
        let Members(members) = serde_json::from_str(text)?;
        out.push('{');
        for (index, (raw_key, raw)) in members.into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(raw_key);
            out.push(':');
            let key = decode(raw_key)?;
            let mut within = advance(pending, |step| match step {
                JsonStep::Key(expected) => *expected == key,
                JsonStep::AnyElement => false,
            });
            let any_key = self.any_key.iter();
            let any_key = any_key.filter(|(expected, _)| expected.eq_ignore_ascii_case(&key));
            within.extend(any_key.map(|(_, mask)| (NO_STEPS, mask)));
            self.rewrite(raw, &within, depth + 1, out)?;
        }
        out.push('}');
        Ok(())
    }

    fn rewrite_array(
        &self,
        text: &str,
        pending: &[Pending<'_>],
        depth: usize,
        out: &mut String,
    ) -> Result<(), Unreadable> {
        let elements: Vec<&RawValue> = serde_json::from_str(text)?;
        let within = advance(pending, |step| matches!(step, JsonStep::AnyElement));
        out.push('[');
        for (index, raw) in elements.into_iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            self.rewrite(raw.get(), &within, depth + 1, out)?;
        }
        out.push(']');
        Ok(())
    }
}

/// Reads a value in which no member has a name of this mask. It fails at the first that has one.
struct Unnamed<'m>(&'m JsonMask);

impl<'de> DeserializeSeed<'de> for Unnamed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unnamed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without these names")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Unnamed(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while members.next_key_seed(Name(self.0))?.is_some() {
            members.next_value_seed(Unnamed(self.0))?;
        }
        Ok(())
    }
}

/// Reads a name that is none of this mask.
struct Name<'m>(&'m JsonMask);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("another name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<(), E> {
        if self.0.names(name) {
            return Err(E::custom("a name of the mask"));
        }
        Ok(())
    }
}

/// The steps that are left of a path, and its mask.
type Pending<'m> = (&'m [JsonStep], &'m Mask);

const NO_STEPS: &[JsonStep] = &[];

/// The text is not JSON, or nested too deep. Why is nobody's business: it would tell something about the text.
#[derive(Debug)]
struct Unreadable;

impl From<serde_json::Error> for Unreadable {
    fn from(_: serde_json::Error) -> Self {
        Self
    }
}

/// The paths that take this step, without it.
fn advance<'m>(pending: &[Pending<'m>], takes: impl Fn(&JsonStep) -> bool) -> Vec<Pending<'m>> {
    pending
        .iter()
        .filter_map(|(steps, mask)| {
            let (step, rest) = steps.split_first()?;
            takes(step).then_some((rest, *mask))
        })
        .collect()
}

/// Appends what stands for a value at a masked path.
fn replace(text: &str, mask: &Mask, out: &mut String) -> Result<(), Unreadable> {
    let masked = match text {
        "null" => None,
        raw if raw.starts_with('"') => mask.apply_str(&decode(raw)?),
        _ if *mask == Mask::Nullify => None,
        _ => Some(REDACTED.to_owned()),
    };
    match masked {
        Some(masked) => push_text(&masked, out),
        None => out.push_str("null"),
    }
    Ok(())
}

fn push_text(value: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(value).to_string());
}

/// The characters of a JSON string.
fn decode(raw: &str) -> Result<Cow<'_, str>, Unreadable> {
    if raw.contains('\\') {
        return Ok(Cow::Owned(serde_json::from_str(raw)?));
    }
    let inside = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    inside.map(Cow::Borrowed).ok_or(Unreadable)
}

/// The members of an object in their order, keys and values as they are written.
#[derive(Debug)]
struct Members<'t>(Vec<(&'t str, &'t str)>);

impl<'t> Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'t> Visitor<'t> for MembersVisitor {
    type Value = Members<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            members.push((key.get(), value.get()));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HashKey;

    /// `.` separates keys, `[*]` is a step of its own, a bare `*name` is a key at any depth.
    fn path(text: &str) -> JsonPath {
        if let Some(key) = text.strip_prefix('*') {
            return JsonPath::AnyKey(key.to_owned());
        }
        let steps = text.split('.').filter(|step| !step.is_empty());
        let steps = steps.map(|step| match step {
            "[*]" => JsonStep::AnyElement,
            key => JsonStep::Key(key.to_owned()),
        });
        JsonPath::Steps(steps.collect())
    }

    fn mask(paths: &[(&str, Mask)]) -> JsonMask {
        let paths = paths.iter();
        JsonMask::new(
            paths
                .map(|(text, mask)| (path(text), mask.clone()))
                .collect(),
        )
    }

    #[track_caller]
    fn check(paths: &[(&str, Mask)], text: &str, expected: &str) {
        assert_eq!(mask(paths).apply_str(text), expected);
    }

    const LAST_FOUR: Mask = Mask::Partial {
        show_first: 0,
        show_last: 4,
    };

    #[test]
    fn steps_lead_to_one_part_and_the_rest_is_copied() {
        let text = r#"{"a":{"email":"bob@x.org","n":1.50},"email":"eve@x.org","z":[ 1e3 ]}"#;
        let expected = r#"{"a":{"email":"[redacted]","n":1.50},"email":"eve@x.org","z":[ 1e3 ]}"#;
        check(&[("a.email", Mask::Redact)], text, expected);
        check(&[("a.Email", Mask::Redact)], text, text);
        check(&[("a.email.x", Mask::Redact)], text, text);
        check(&[("a.[*]", Mask::Redact)], text, text);
        check(&[], text, text);
    }

    #[test]
    fn any_element_is_every_element() {
        let text = r#"{"tags":[{"email":"a"},{"email":"b"},"c",[{"email":"d"}]]}"#;
        let expected =
            r#"{"tags":[{"email":"[redacted]"},{"email":"[redacted]"},"c",[{"email":"d"}]]}"#;
        check(&[("tags.[*].email", Mask::Redact)], text, expected);
        check(
            &[("tags.[*]", Mask::Nullify)],
            r#"{"tags":["a",1]}"#,
            r#"{"tags":[null,null]}"#,
        );
        check(&[("tags.email", Mask::Redact)], text, text);
        check(
            &[("[*]", Mask::Redact), ("a", Mask::Redact)],
            r#"["x"]"#,
            r#"["[redacted]"]"#,
        );
    }

    #[test]
    fn any_key_is_found_at_any_depth_in_any_case_and_spelling() {
        let text = r#"{"Email":"a","x":[{"EMAIL":"b","e":{"\u0065mail":"c"}}],"emails":"d"}"#;
        let expected = r#"{"Email":"[redacted]","x":[{"EMAIL":"[redacted]","e":{"\u0065mail":"[redacted]"}}],"emails":"d"}"#;
        check(&[("*email", Mask::Redact)], text, expected);
    }

    #[test]
    fn what_is_not_text_is_replaced_whole() {
        let text = r#"{"a":1,"b":true,"c":{"d":"x"},"e":["y"],"f":null,"g":"+15550001234"}"#;
        let all = |mask: &Mask| ["a", "b", "c", "e", "f", "g"].map(|key| (key, mask.clone()));
        check(
            &all(&LAST_FOUR),
            text,
            r#"{"a":"[redacted]","b":"[redacted]","c":"[redacted]","e":"[redacted]","f":null,"g":"****1234"}"#,
        );
        check(
            &all(&Mask::Nullify),
            text,
            r#"{"a":null,"b":null,"c":null,"e":null,"f":null,"g":null}"#,
        );
        check(&[("", Mask::Redact)], text, r#""[redacted]""#);
        check(&[("", Mask::Nullify)], text, "null");
    }

    #[test]
    fn the_strictest_of_several_masks_wins() {
        let text = r#"{"email":"bob@example.com"}"#;
        let key = HashKey::new(&[1; 32], "email", 1);
        let redacted = r#"{"email":"[redacted]"}"#;
        check(
            &[("email", LAST_FOUR), ("*email", Mask::Redact)],
            text,
            redacted,
        );
        check(
            &[("email", Mask::Redact), ("*EMAIL", Mask::Hash(key))],
            text,
            redacted,
        );
        check(
            &[
                ("*email", LAST_FOUR),
                ("email", Mask::Nullify),
                ("*email", Mask::Redact),
            ],
            text,
            r#"{"email":null}"#,
        );
    }

    #[test]
    fn a_string_is_masked_as_characters_and_written_as_json() {
        let text = r#"{"phone":"\"\u00e9\ud83d\ude00 123456 \"\\\n"}"#;
        check(
            &[(
                "phone",
                Mask::Partial {
                    show_first: 3,
                    show_last: 3,
                },
            )],
            text,
            "{\"phone\":\"\\\"é😀****\\\"\\\\\\n\"}",
        );
    }

    #[test]
    fn what_cannot_be_read_is_redacted_whole() {
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for text in [
            "",
            "bob@example.com",
            r#"{"email":"bob@example.com""#,
            r#"{"email":"bob@example.com"} {"#,
            r#"{"email":NaN}"#,
            r#"{"email":"\ud800"}"#,
            r#"{"\ud800":"bob@example.com"}"#,
            r#"{email:"bob@example.com"}"#,
            &deep(200),
            &deep(50_000),
        ] {
            check(
                &[("*email", Mask::Redact), ("email", LAST_FOUR)],
                text,
                r#""[redacted]""#,
            );
        }
        check(&[("*email", Mask::Redact)], &deep(128), &deep(128));
    }

    #[test]
    fn a_key_that_is_written_twice_is_masked_twice() {
        check(
            &[("email", Mask::Redact)],
            r#"{"email":"a","email":"b"}"#,
            r#"{"email":"[redacted]","email":"[redacted]"}"#,
        );
    }
}
