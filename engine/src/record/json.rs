//! Strict JSON: what a record may be written in, and what is refused before anything looks at it.
//!
//! Beyond the grammar of RFC 8259, refused with the JSON pointer of the place: a key given twice, bytes that are not
//! UTF-8, half a surrogate pair, nesting deeper than [`DEPTH_MAX`], and numbers that an IEEE double does not hold.
//!
//! # Numbers
//! A record is hashed and stored in RFC 8785 form, which writes every number as the shortest decimal of its double. A
//! number is accepted if that decimal has the very value that was sent, so nothing a reader sees differs from what was
//! written. The sender of any other number sends it as a string.
//!
//! | sent | |
//! |---|---|
//! | `1.0`, `1e2`, `-0`, `0.1`, `1e300` | accepted, returned as `1`, `100`, `0`, `0.1`, `1e+300` |
//! | `9007199254740992`, `9007199254740994` | accepted (2^53, 2^53 + 2) |
//! | `9007199254740993` | refused (2^53 + 1: no double) |
//! | `1152921504606846976` | refused (2^60: a double, but it would come back as `1152921504606847000`) |
//! | `0.1000000000000000055` | refused (the double 0.1, but other digits) |
//! | `1e400`, `1e-400` | refused |

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Number, Value};

/// Levels of objects and arrays in a record, the record itself included.
pub const DEPTH_MAX: usize = 64;

/// Violations reported at once; a sender who made more finds the rest after mending these.
pub const VIOLATIONS_MAX: usize = 64;

/// Bytes of a pointer in a report.
const POINTER_BYTES_MAX: usize = 256;
/// Bytes of a key that may be needed for one: an escape is at most six times as long as what it stands for.
const KEY_BYTES_REPORTED_MAX: usize = 6 * (POINTER_BYTES_MAX + 4);

/// Integers up to here (2^53) are all doubles.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Digits that a double keeps.
const EXACT_DIGITS_MAX: usize = 15;

/// One thing wrong with a record, and where.
///
/// The message never holds a value; the pointer holds keys that the sender chose and goes back to the sender only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// JSON pointer (RFC 6901) of the place.
    pub pointer: String,
    /// What is wrong there, in words for the sender.
    pub message: String,
}

impl Violation {
    /// A violation at a place; pointers beyond 256 bytes are cut short.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        let mut pointer = pointer.into();
        if pointer.len() > POINTER_BYTES_MAX {
            pointer.truncate(pointer.floor_char_boundary(POINTER_BYTES_MAX));
            pointer.push('…');
        }
        Self {
            pointer,
            message: message.into(),
        }
    }
}

/// Reads one JSON value that takes up all of `bytes`, or says everything that is wrong with it.
///
/// Takes time and memory linear in the input, so the caller bounds the input.
///
/// # Errors
/// At least one violation. Reading stops at the first breach of the grammar; all else is collected.
pub fn parse(bytes: &[u8]) -> Result<Value, Vec<Violation>> {
    parse_within(bytes, 0)
}

/// The same for a value that will stand this many levels deep in a record.
pub(crate) fn parse_within(bytes: &[u8], depth: usize) -> Result<Value, Vec<Violation>> {
    let mut reader = Reader {
        bytes,
        at: 0,
        place: Vec::new(),
        violations: Vec::new(),
    };
    let value = reader.document(depth);
    match value {
        Ok(value) if reader.violations.is_empty() => Ok(value),
        Ok(_) | Err(Stop) => Err(reader.violations),
    }
}

/// Appends one step to a JSON pointer.
pub fn push_key(pointer: &mut String, key: &str) {
    pointer.push('/');
    if !key.contains(['~', '/']) {
        pointer.push_str(key);
        return;
    }
    for character in key.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            other => pointer.push(other),
        }
    }
}

/// Appends the step to an array element to a JSON pointer.
pub fn push_index(pointer: &mut String, index: usize) {
    // Writing to a String cannot fail.
    let _ = write!(pointer, "/{index}");
}

/// Nothing more can be read; the reason is among the violations.
struct Stop;

#[derive(Clone, Copy)]
enum Step {
    /// The byte at which the key begins.
    Key(usize),
    Index(usize),
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    place: Vec<Step>,
    violations: Vec<Violation>,
}

impl Reader<'_> {
    fn document(&mut self, depth: usize) -> Result<Value, Stop> {
        self.skip_space();
        let value = self.value(depth)?;
        self.skip_space();
        if self.at < self.bytes.len() {
            return Err(self.stop("something follows the JSON value"));
        }
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err(self.stop("not JSON: a value was expected")),
            None => Err(self.stop("not JSON: it ends too early")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Stop> {
        self.enter(depth)?;
        let mut members = Map::new();
        if self.take(b'}') {
            return Ok(Value::Object(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.stop("not JSON: a key in double quotes was expected"));
            }
            let step = Step::Key(self.at);
            let key = self.string()?;
            self.skip_space();
            self.expect(b':', "not JSON: a colon was expected")?;
            self.place.push(step);
            self.skip_space();
            if members.contains_key(&key) {
                self.violation("key given more than once");
            }
            let value = self.value(depth)?;
            members.insert(key, value);
            self.place.pop();
            if self.is_last(b'}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Stop> {
        self.enter(depth)?;
        let mut elements = Vec::new();
        if self.take(b']') {
            return Ok(Value::Array(elements));
        }
        loop {
            self.place.push(Step::Index(elements.len()));
            elements.push(self.value(depth)?);
            self.place.pop();
            if self.is_last(b']')? {
                return Ok(Value::Array(elements));
            }
        }
    }

    /// Steps over the opening bracket and the space behind it.
    fn enter(&mut self, depth: usize) -> Result<(), Stop> {
        if depth > DEPTH_MAX {
            return Err(self.stop(&format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Steps over what follows a member: the closing bracket (true) or a comma.
    fn is_last(&mut self, close: u8) -> Result<bool, Stop> {
        self.skip_space();
        if self.take(close) {
            return Ok(true);
        }
        self.expect(b',', "not JSON: a comma or a closing bracket was expected")?;
        self.skip_space();
        Ok(false)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, Stop> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.stop("not JSON: a value was expected"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn string(&mut self) -> Result<String, Stop> {
        let mut text = String::new();
        self.string_into(&mut text)?;
        Ok(text)
    }

    fn string_into(&mut self, text: &mut String) -> Result<(), Stop> {
        self.at += 1;
        loop {
            let run = self
                .rest()
                .iter()
                .take_while(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20))
                .count();
            // A run ends at an ASCII byte, so it holds whole characters or is not UTF-8 at all.
            match std::str::from_utf8(&self.rest()[..run]) {
                Ok(part) => text.push_str(part),
                Err(_) => return Err(self.stop("text that is not UTF-8")),
            }
            self.at += run;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape(text)?,
                Some(_) => {
                    return Err(self.stop("not JSON: a control character in text is not escaped"));
                }
                None => return Err(self.stop("not JSON: text without an end")),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Result<(), Stop> {
        let plain = match self.bytes.get(self.at + 1) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(text),
            _ => return Err(self.stop("not JSON: an escape that there is not")),
        };
        self.at += 2;
        text.push(plain);
        Ok(())
    }

    fn unicode_escape(&mut self, text: &mut String) -> Result<(), Stop> {
        let mut units = [self.code_unit()?, 0];
        let pair = matches!(units[0], 0xD800..0xDC00) && self.rest().starts_with(b"\\u");
        if pair {
            units[1] = self.code_unit()?;
        }
        let count = if pair { 2 } else { 1 };
        for character in char::decode_utf16(units.into_iter().take(count)) {
            match character {
                Ok(character) => text.push(character),
                Err(_) => return Err(self.stop("half a surrogate pair")),
            }
        }
        Ok(())
    }

    /// Reads `\uXXXX`.
    fn code_unit(&mut self) -> Result<u16, Stop> {
        let digits = self.bytes.get(self.at + 2..self.at + 6);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let unit = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let Some(unit) = unit else {
            return Err(self.stop("not JSON: \\u is followed by four hexadecimal digits"));
        };
        self.at += 6;
        Ok(unit)
    }

    fn number(&mut self) -> Result<Value, Stop> {
        let start = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        let token = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        match exact_number(token) {
            Some(number) => Ok(Value::Number(number)),
            None => {
                self.violation(INEXACT);
                Ok(Value::Null)
            }
        }
    }

    /// Steps over one digit or more.
    fn digits(&mut self) -> Result<(), Stop> {
        let run = self.rest().iter().take_while(|byte| byte.is_ascii_digit());
        let run = run.count();
        if run == 0 {
            return Err(self.stop("not JSON: a digit was expected"));
        }
        self.at += run;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8, otherwise: &str) -> Result<(), Stop> {
        if self.take(byte) {
            return Ok(());
        }
        Err(self.stop(otherwise))
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn violation(&mut self, message: &str) {
        if self.violations.len() >= VIOLATIONS_MAX {
            return;
        }
        let mut pointer = String::new();
        for step in &self.place {
            if pointer.len() > POINTER_BYTES_MAX {
                break;
            }
            match *step {
                Step::Key(at) => push_key(&mut pointer, &self.key_at(at)),
                Step::Index(index) => push_index(&mut pointer, index),
            }
        }
        self.violations.push(Violation::new(pointer, message));
    }

    /// A key that was read, once more, as much of it as is reported: reports are rarer than keys.
    fn key_at(&self, at: usize) -> String {
        let mut end = self.bytes.len().min(at + KEY_BYTES_REPORTED_MAX);
        while end > at && self.bytes.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
            end -= 1;
        }
        let mut reader = Reader {
            bytes: &self.bytes[..end],
            at,
            place: Vec::new(),
            violations: Vec::new(),
        };
        let mut key = String::new();
        // It ends where it was cut off, at the latest.
        let _ = reader.string_into(&mut key);
        key
    }

    fn stop(&mut self, message: &str) -> Stop {
        self.violation(&format!("{message} (byte {})", self.at));
        Stop
    }
}

/// What is said of a number that is refused.
pub(crate) const INEXACT: &str = "a number that a double does not hold; send it as a string";

/// The number that a token of the JSON grammar stands for, if its double has exactly that value when written out again.
pub(crate) fn exact_number(token: &str) -> Option<Number> {
    let double: f64 = token.parse().ok()?;
    if !double.is_finite() {
        return None;
    }
    if !is_surely_exact(token) {
        let mut canonical = ryu_js::Buffer::new();
        if Decimal::of(token) != Decimal::of(canonical.format_finite(double)) {
            return None;
        }
    }
    if double.fract() == 0.0 && double.abs() <= EXACT_INTEGER_MAX {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an integer of at most 2^53 is exact in both types"
        )]
        let integer = double as i64;
        return Some(Number::from(integer));
    }
    Number::from_f64(double)
}

/// Fifteen digits survive a double of ordinary size whatever they are.
fn is_surely_exact(token: &str) -> bool {
    let digits = token.bytes().filter(u8::is_ascii_digit).count();
    digits <= EXACT_DIGITS_MAX && !token.contains(['e', 'E'])
}

/// A decimal in the one form that equal values share: digits without outer zeros, and where the point stands.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    point: i64,
}

impl Decimal {
    fn of(token: &str) -> Self {
        let (negative, token) = match token.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, token),
        };
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = [whole.as_bytes(), fraction.as_bytes()].concat();
        let leading = all.iter().take_while(|digit| **digit == b'0').count();
        let trailing = all.iter().rev().take_while(|digit| **digit == b'0');
        let end = all.len() - trailing.count();
        if leading >= end {
            // Zero has no sign in RFC 8785.
            return Self {
                negative: false,
                digits: Vec::new(),
                point: 0,
            };
        }
        // An exponent beyond i64 never belongs to a finite double other than zero, whose digits differ anyway.
        let exponent: i64 = exponent.parse().unwrap_or(i64::MIN);
        let shift = i64::try_from(whole.len()).unwrap_or(i64::MAX)
            - i64::try_from(leading).unwrap_or(i64::MAX);
        Self {
            negative,
            digits: all[leading..end].to_vec(),
            point: exponent.saturating_add(shift),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn refused(text: &str) -> Vec<(String, String)> {
        let violations = parse(text.as_bytes()).expect_err(text);
        violations
            .into_iter()
            .map(|violation| (violation.pointer, violation.message))
            .collect()
    }

    fn pointers(text: &str) -> Vec<String> {
        refused(text)
            .into_iter()
            .map(|(pointer, _)| pointer)
            .collect()
    }

    #[test]
    fn reads_what_json_is() {
        for (text, wanted) in [
            (" { } ", json!({})),
            ("[]", json!([])),
            (
                "[ 1 , [ ] , { \"a\" : null } ]",
                json!([1, [], {"a": null}]),
            ),
            ("\"\"", json!("")),
            (r#""\"\\\/\b\f\n\r\t""#, json!("\"\\/\u{8}\u{c}\n\r\t")),
            (r#""\u00e9\ud83d\ude00\u0000""#, json!("é😀\0")),
            ("\"é😀\"", json!("é😀")),
            ("true", json!(true)),
            ("[false,null]", json!([false, null])),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn refuses_what_json_is_not() {
        for text in [
            "",
            " ",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "nul",
            "NaN",
            "Infinity",
            "-",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"\n\"",
            "1 2",
            "{} {}",
            "'a'",
            "\u{feff}{}",
            "[1 2]",
            "{\"a\" 1}",
            "-a",
            "0x1",
        ] {
            assert_eq!(refused(text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn refuses_bytes_that_are_not_utf8_where_they_stand() {
        let violations = parse(b"{\"a\":{\"b\":\"x\xff\"}}").unwrap_err();
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].pointer, "/a/b");
        assert!(parse(b"\xc3\x28").is_err());
        assert!(parse(b"\"\xed\xa0\x80\"").is_err(), "a surrogate in UTF-8");
        assert!(parse(b"\"\xc3\"").is_err(), "half a character");
    }

    #[test]
    fn refuses_half_a_surrogate_pair() {
        for text in [
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\ud83dx""#,
            r#""\ud83d\u0041""#,
            r#""\ud83d\ud83d""#,
        ] {
            assert_eq!(refused(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn names_every_key_given_twice() {
        assert_eq!(
            pointers(r#"{"a":1,"b":{"x~/y":1,"x~/y":2},"c":[{"d":1,"\u0064":2}],"a":3}"#),
            ["/b/x~0~1y", "/c/0/d", "/a"]
        );
    }

    #[test]
    fn numbers_come_back_as_they_were_sent_or_not_at_all() {
        for (text, wanted) in [
            ("0", json!(0)),
            ("-0", json!(0)),
            ("-0.0e5", json!(0)),
            ("0e99999999999999999999", json!(0)),
            ("1.0", json!(1)),
            ("1e2", json!(100)),
            ("-1.50", json!(-1.5)),
            ("0.1", json!(0.1)),
            ("1E+300", json!(1e300)),
            ("5e-324", json!(5e-324)),
            ("123456789012345", json!(123_456_789_012_345_i64)),
            ("9007199254740991", json!(9_007_199_254_740_991_i64)),
            ("9007199254740992", json!(9_007_199_254_740_992_i64)),
            ("-9007199254740992", json!(-9_007_199_254_740_992_i64)),
            ("9007199254740994", json!(9_007_199_254_740_994.0)),
            ("0.30000000000000004", json!(0.300_000_000_000_000_04)),
            ("1.7976931348623157e308", json!(f64::MAX)),
            // Half way between two decimals of 17 digits: RFC 8785 takes the even one.
            ("152863026630965.62", json!(152_863_026_630_965.62)),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(wanted), "{text}");
        }
        for text in [
            "9007199254740993",
            "-9007199254740993",
            "18446744073709551615",
            "1152921504606846976",
            "1541815603606036480",
            "0.1000000000000000055",
            "0.3000000000000000444",
            "3.14159265358979323846",
            "1e400",
            "-1e400",
            "1e-400",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "2e-324",
            "3e-324",
            "152863026630965.63",
        ] {
            assert_eq!(pointers(&format!("{{\"n\":[{text}]}}")), ["/n/0"], "{text}");
        }
    }

    #[test]
    fn goes_on_after_a_number_and_stops_at_a_breach_of_grammar() {
        assert_eq!(
            pointers(r#"{"a":1e400,"b":9007199254740993,"c":[1e400,x],"d":1e400}"#),
            ["/a", "/b", "/c/0", "/c/1"]
        );
    }

    #[test]
    fn a_report_names_as_much_of_a_key_as_it_has_room_for() {
        for (key, shown) in [
            ("\\u00e9".repeat(100_000), "é".repeat(127)),
            ("é".repeat(100_000), "é".repeat(127)),
            ("a\\n".repeat(1_000), "a\n".repeat(127)),
            ("~".repeat(1_000), "~0".repeat(127)),
        ] {
            let found = pointers(&format!("{{\"{key}\":[1e400,1e400]}}"));
            assert_eq!(found.len(), 2);
            assert!(found[0].starts_with(&format!("/{shown}")), "{}", found[0]);
            assert!(found[0].ends_with('…'), "{}", found[0]);
        }
        assert_eq!(pointers(r#"{"a\u002fb":{"":1e400}}"#), ["/a~1b/"]);
        assert_eq!(pointers(r#"{"a":1,"a":}"#), ["/a", "/a"]);
    }

    #[test]
    fn depth_and_reports_are_bounded() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(refused(&nested(DEPTH_MAX + 1)).len(), 1);
        assert_eq!(refused(&"[".repeat(100_000)).len(), 1);
        assert_eq!(
            refused(&format!("[{}1]", "1e400,".repeat(500))).len(),
            VIOLATIONS_MAX
        );
        let long = format!("{{\"{}\":1e400}}", "é".repeat(1000));
        assert!(pointers(&long)[0].len() <= POINTER_BYTES_MAX + '…'.len_utf8());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<f64>()
                .prop_filter("finite", |double| double.is_finite())
                .prop_map(|double| json!(double)),
            any::<i32>().prop_map(|integer| json!(integer)),
            "\\PC{0,8}".prop_map(Value::String),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                prop::collection::btree_map("\\PC{0,6}", inner, 0..6)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn never_panics_on_what_looks_like_json(text in "[\\[\\]{}\",:\\\\u0-9a-f.eE+ -]{0,60}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn every_double_written_out_is_read_as_itself(double in any::<f64>()) {
            prop_assume!(double.is_finite());
            let read = parse(json!(double).to_string().as_bytes()).unwrap();
            prop_assert_eq!(read.as_f64().unwrap(), double);
        }

        #[test]
        fn fifteen_digits_are_always_read(whole in 0..1_000_000_000_i64, fraction in 0..1_000_000_i64) {
            let token = format!("{whole}.{fraction:06}");
            prop_assert!(parse(token.as_bytes()).is_ok());
            let canonical = serde_json_canonicalizer::to_string(&token.parse::<f64>().unwrap()).unwrap();
            prop_assert!(Decimal::of(&token) == Decimal::of(&canonical));
        }

        #[test]
        fn what_serde_json_writes_is_read_as_it_was(value in any_json()) {
            let text = serde_json::to_string(&value).unwrap();
            let read = parse(text.as_bytes()).unwrap();
            let wanted = serde_json_canonicalizer::to_string(&value).unwrap();
            prop_assert_eq!(serde_json_canonicalizer::to_string(&read).unwrap(), wanted);
        }
    }
}
