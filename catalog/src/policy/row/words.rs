//! The words of a row predicate.

/// A word, and the byte it begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// A name or keyword, as it was written.
    Name(String),
    /// A text in single quotes.
    Text(String),
    /// A sign.
    Sign(&'static str),
}

/// All signs, longer ones before those they begin with.
const SIGNS: [&str; 12] = [
    "<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ",", "[", "]",
];

/// Takes a text apart, or says where it cannot be read.
pub(super) fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first == '\'' {
            let (value, length) = quoted(rest).ok_or("a text in quotes does not end")?;
            words.push(Word::Text(value));
            length
        } else if first.is_ascii_alphabetic() || first == '_' {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (name, _) = rest.split_at(length);
            words.push(Word::Name(name.to_owned()));
            length
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
            let sign = sign.ok_or_else(|| unknown(first))?;
            words.push(Word::Sign(sign));
            sign.len()
        };
        let (_, after) = rest.split_at(length);
        rest = after.trim_start();
    }
    Ok(words)
}

fn unknown(first: char) -> String {
    if first.is_ascii_digit() || "+-*/%|".contains(first) {
        return "numbers and arithmetic have no place here: every column is text or a time"
            .to_owned();
    }
    format!("`{}` has no place here", first.escape_default())
}

/// The text in quotes at the beginning, `''` in it for a quote, and how long it is with them.
fn quoted(rest: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != '\'' {
            value.push(c);
        } else if chars.next_if(|(_, next)| *next == '\'').is_some() {
            value.push('\'');
        } else {
            return Some((value, at + 1));
        }
    }
    None
}
