//! Members put into the text of a canonical document, without reading it into a tree.
//!
//! Every row of a wide answer goes through here. The text is walked once and copied with the new members in their places;
//! what this does not understand, whatever the reason, is left to the long way, which parses.

use std::cmp::Ordering;

use super::jcs::write_string;
use super::restore::Held;

/// From this byte on, names do not sort in UTF-8 as they do in UTF-16, which RFC 8785 sorts by.
const SORTS_APART: u8 = 0xEE;

/// A member that a document is to have: its steps, one behind the other with slashes between, and its value.
pub(super) type Member<'a> = (&'a str, Held<'a>);

/// Appends the document with these members, in any order, each in its place; those whose parent is no object of it are
/// left out.
///
/// `None`, and nothing appended, if there is more to it than an insertion: a member that is there already or lies in an
/// array or in another member, a name or a value with escapes, a text that is not in canonical form.
pub(super) fn splice(out: &mut String, document: &str, members: &mut [Member<'_>]) -> Option<()> {
    if !members.iter().all(is_plain) {
        return None;
    }
    members.sort_unstable_by(|(one, _), (other, _)| by_steps(one, other));
    let start = out.len();
    let mut splicer = Splicer {
        document,
        at: 0,
        copied: 0,
        out,
    };
    let spliced = splicer.object(members, 0);
    if spliced.is_none() || splicer.at != document.len() {
        out.truncate(start);
        return None;
    }
    splicer.copy_up_to(document.len());
    Some(())
}

/// Whether the steps of a member and its value stand in a text as they are.
fn is_plain((path, value): &Member<'_>) -> bool {
    let is_plain = |byte: u8| !matches!(byte, 0..0x20 | b'"' | b'\\' | b'~' | 0x80..);
    path.bytes().all(is_plain)
        && match value {
            Held::Text(_) => true,
            Held::Json("null" | "true" | "false") => true,
            Held::Json(json) => json
                .strip_prefix('"')
                .and_then(|json| json.strip_suffix('"'))
                .is_some_and(|text| {
                    !text
                        .bytes()
                        .any(|byte| matches!(byte, 0..0x20 | b'"' | b'\\'))
                }),
        }
}

/// The order of names at each level, so that what goes into one object comes together.
fn by_steps(one: &str, other: &str) -> Ordering {
    let rank = |byte: u8| if byte == b'/' { 0 } else { byte };
    one.bytes().map(rank).cmp(other.bytes().map(rank))
}

struct Splicer<'d, 'o> {
    document: &'d str,
    /// Where it reads.
    at: usize,
    /// What lies before it has been copied.
    copied: usize,
    out: &'o mut String,
}

impl<'d> Splicer<'d, '_> {
    /// Walks an object; the paths of the members go on at this byte of theirs.
    fn object(&mut self, members: &[Member<'_>], from: usize) -> Option<()> {
        let mut next = Group::first(members, from);
        self.expect(b'{')?;
        if self.take(b'}') {
            return self.append(next, from, true);
        }
        let mut before: Option<&str> = None;
        loop {
            let start = self.at;
            let key = self.key()?;
            if before.is_some_and(|before| before >= key) {
                return None;
            }
            before = Some(key);
            let mut own: Option<Group<'_, '_>> = None;
            while let Some(group) = next {
                match group.step.cmp(key) {
                    Ordering::Greater => break,
                    Ordering::Less => {
                        if let Some(value) = group.leaf(from)? {
                            self.copy_up_to(start);
                            self.write(group.step, value);
                            self.out.push(',');
                        }
                        next = Group::first(group.rest, from);
                    }
                    Ordering::Equal => {
                        own = Some(group);
                        next = Group::first(group.rest, from);
                        break;
                    }
                }
            }
            self.expect(b':')?;
            match (own, self.peek()?) {
                (None, _) => self.skip()?,
                (Some(own), _) if own.leaf(from)?.is_some() => return None,
                (Some(_), b'[') => return None,
                (Some(own), b'{') => self.object(own.members, from + key.len() + 1)?,
                (Some(_), _) => self.skip()?,
            }
            if self.take(b'}') {
                return self.append(next, from, false);
            }
            self.expect(b',')?;
        }
    }

    /// Writes the members that come last, before the bracket that was just read.
    fn append(
        &mut self,
        mut next: Option<Group<'_, '_>>,
        from: usize,
        is_empty: bool,
    ) -> Option<()> {
        let mut is_first = is_empty;
        while let Some(group) = next {
            if let Some(value) = group.leaf(from)? {
                self.copy_up_to(self.at - 1);
                if !is_first {
                    self.out.push(',');
                }
                is_first = false;
                self.write(group.step, value);
            }
            next = Group::first(group.rest, from);
        }
        Some(())
    }

    fn write(&mut self, name: &str, value: Held<'_>) {
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        match value {
            Held::Json(json) => self.out.push_str(json),
            Held::Text(text) => write_string(self.out, text),
        }
    }

    fn copy_up_to(&mut self, end: usize) {
        self.out.push_str(&self.document[self.copied..end]);
        self.copied = end;
    }

    /// Steps over a name that stands for itself.
    fn key(&mut self) -> Option<&'d str> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                0..0x20 | b'\\' | SORTS_APART.. => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.document.get(start..self.at - 1)
    }

    /// Steps over a value.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                b'0'..=b'9' | b'a'..=b'z' | b'-' | b'+' | b'.' => {
                    self.at += 1;
                    if !matches!(self.peek(), Some(b',' | b'}' | b']')) {
                        continue;
                    }
                }
                _ => return None,
            }
            if depth == 0 {
                return Some(());
            }
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.document.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.take(byte).then_some(())
    }
}

/// Members that begin with the same name.
#[derive(Clone, Copy)]
struct Group<'m, 'a> {
    step: &'a str,
    members: &'m [Member<'a>],
    /// Those that come after them.
    rest: &'m [Member<'a>],
}

impl<'m, 'a> Group<'m, 'a> {
    fn first(members: &'m [Member<'a>], from: usize) -> Option<Self> {
        let step_of = |member: &Member<'a>| {
            let rest = member.0.get(from..).unwrap_or_default();
            let end = rest.bytes().position(|byte| byte == b'/');
            end.and_then(|end| rest.get(..end)).unwrap_or(rest)
        };
        let step = step_of(members.first()?);
        let others = members.iter().skip(1);
        let count = 1 + others.take_while(|other| step_of(other) == step).count();
        let (members, rest) = members.split_at(count);
        Some(Self {
            step,
            members,
            rest,
        })
    }

    /// Its value, if it is one member that ends here; `Some(None)` if all go deeper, `None` if there is both.
    fn leaf(&self, from: usize) -> Option<Option<Held<'a>>> {
        let end = from + self.step.len();
        match self.members {
            [(path, value)] if path.len() <= end => Some(Some(*value)),
            members if members.iter().all(|(path, _)| path.len() > end) => Some(None),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::schema::Part;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::canonical::text;
    use super::super::restore;
    use super::*;

    fn spliced(document: &str, members: &[Member<'_>]) -> Option<String> {
        let mut out = String::from("before");
        let done = splice(&mut out, document, &mut members.to_vec());
        if done.is_none() {
            assert_eq!(out, "before", "{document}");
        }
        done.map(|()| out["before".len()..].to_owned())
    }

    #[test]
    fn members_come_to_stand_in_their_places() {
        for (document, members, wanted) in [
            ("{}", &[("a", Held::Text("1"))][..], r#"{"a":"1"}"#),
            (
                r#"{"b":{"c":1},"d":[{"x":2}]}"#,
                &[
                    ("e", Held::Json("null")),
                    ("b/a", Held::Json("\"h1:x\"")),
                    ("b/d", Held::Text("a\"b\u{e9}\n")),
                    ("a", Held::Text("")),
                    ("c", Held::Json("true")),
                ],
                r#"{"a":"","b":{"a":"h1:x","c":1,"d":"a\"bé\n"},"c":true,"d":[{"x":2}],"e":null}"#,
            ),
            (
                r#"{"a":{"b":{}},"a-b":"{\"","a.b":-1.5e+30}"#,
                &[("a/b/c", Held::Text("1")), ("a-", Held::Text("2"))],
                r#"{"a":{"b":{"c":"1"}},"a-":"2","a-b":"{\"","a.b":-1.5e+30}"#,
            ),
            // Without a parent, or with one that is no object, there is no place.
            (
                r#"{"b":"text"}"#,
                &[
                    ("a/x", Held::Text("1")),
                    ("b/x", Held::Text("2")),
                    ("c/x", Held::Text("3")),
                ],
                r#"{"b":"text"}"#,
            ),
        ] {
            assert_eq!(
                spliced(document, members).as_deref(),
                Some(wanted),
                "{document}"
            );
        }
    }

    #[test]
    fn what_is_more_than_an_insertion_is_left_to_others() {
        let one = &[("m", Held::Text("1"))][..];
        for (document, members) in [
            ("", one),
            ("[]", one),
            ("{} ", one),
            ("{", one),
            (r#"{"a"}"#, one),
            (r#"{"a":1"#, one),
            (r#"{"a":}"#, one),
            (r#"{"a":1}}"#, one),
            (r#"{"a":1]"#, one),
            (r#"{"a": 1}"#, one),
            (r#"{"b":1,"a":1}"#, one),
            (r#"{"a":1,"a":1}"#, one),
            (r#"{"a":"1}"#, one),
            (r#"{"a\n":1}"#, one),
            (r#"{"m":1}"#, one),
            (r#"{"m":{}}"#, one),
            (r#"{"m":[1]}"#, &[("m/0", Held::Text("1"))]),
            ("{}", &[("m", Held::Text("1")), ("m", Held::Text("2"))]),
            ("{}", &[("m", Held::Text("1")), ("m/n", Held::Text("2"))]),
            ("{}", &[("m~1n", Held::Text("1"))]),
            ("{}", &[("é", Held::Text("1"))]),
            ("{}", &[("m", Held::Json("{}"))]),
            ("{}", &[("m", Held::Json("\""))]),
            ("{}", &[("m", Held::Json(r#""a"b""#))]),
            ("{}", &[("m", Held::Json(r#""a\nb""#))]),
            ("{\"\u{ff5e}\":1}", one),
        ] {
            assert_eq!(spliced(document, members), None, "{document} {members:?}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-1000_i64..1000).prop_map(Value::from),
            "[a-c\"\\\\é{},:]{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                object(inner),
            ]
        })
    }

    fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-c.-]{1,2}", inner, 0..4)
            .prop_map(|members| Value::Object(Map::from_iter(members)))
    }

    proptest! {
        #[test]
        fn it_is_what_comes_of_the_long_way(
            document in object(value()),
            members in prop::collection::btree_map("[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}", "[a-z\"]{0,3}", 1..5),
        ) {
            let document = text(&document).unwrap();
            let members: Vec<_> = members.iter().map(|(path, value)| (path.as_str(), Held::Text(value))).collect();
            let mut parsed: Value = serde_json::from_str(&document).unwrap();
            for (path, value) in &members {
                let Held::Text(value) = value else { unreachable!() };
                restore::put_back(&mut parsed, &format!("/{path}"), json!(value));
            }
            let long = text(&parsed).unwrap();
            if let Some(short) = spliced(&document, &members) {
                prop_assert_eq!(&short, &long);
            }
            let mut held: Vec<_> = members.iter().map(|(path, value)| (format!("/context/{path}"), *value)).collect();
            held.reverse();
            let mut held: Vec<_> = held.iter().map(|(path, value)| (path.as_str(), *value)).collect();
            let mut out = String::new();
            prop_assert!(restore::restore_document(Part::Context, &mut out, &document, &mut held));
            prop_assert_eq!(out, long);
        }
    }
}
