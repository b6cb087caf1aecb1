//! MASK: the ends of a value, with the middle hidden.
//!
//! The middle is always four stars, so that its length is not shown.

use super::redact;

const HIDDEN: &str = "****";

/// Appends the first and last characters of a value around [`HIDDEN`]; redacts it when these are half of it or more.
pub(super) fn write(value: &str, show_first: usize, show_last: usize, out: &mut String) {
    match ends(value, show_first, show_last) {
        Some((first, last)) => {
            out.push_str(first);
            out.push_str(HIDDEN);
            out.push_str(last);
        }
        None => redact::write(out),
    }
}

/// The shown ends, counted in Unicode characters; none if that would show too much.
fn ends(value: &str, show_first: usize, show_last: usize) -> Option<(&str, &str)> {
    let too_short = show_first.saturating_add(show_last).saturating_mul(2);
    if value.chars().count() <= too_short {
        return None;
    }
    let (first_end, _) = value.char_indices().nth(show_first)?;
    let last_start = match show_last.checked_sub(1) {
        Some(before) => value.char_indices().rev().nth(before)?.0,
        None => value.len(),
    };
    Some((value.get(..first_end)?, value.get(last_start..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &str, show_first: usize, show_last: usize, expected: &str) {
        let mut out = String::new();
        write(value, show_first, show_last, &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn shows_the_ends() {
        check("+15550001234", 0, 4, "****1234");
        check("bob@example.com", 1, 4, "b****.com");
        check("bob@example.com", 3, 0, "bob****");
        check("x", 0, 0, "****");
    }

    #[test]
    fn shows_nothing_when_the_ends_are_half_of_the_value() {
        check("12345678", 0, 4, "[redacted]");
        check("123456789", 0, 4, "****6789");
        check("12345678", 2, 2, "[redacted]");
        check("1234", 9, 9, "[redacted]");
        check("1234", usize::MAX, usize::MAX, "[redacted]");
        check("", 0, 0, "[redacted]");
    }

    #[test]
    fn counts_characters_not_bytes() {
        check("äöüß", 1, 1, "[redacted]");
        check("äöüßé", 1, 1, "ä****é");
        check("日本語のテキスト", 1, 2, "日****スト");
    }
}
