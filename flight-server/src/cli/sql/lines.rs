//! Statements in text: where one ends and the next begins.

/// What of a text is whole statements, and what is not finished.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    /// Each with the line it begins in, from 1, and without its semicolon.
    pub(super) statements: Vec<(usize, &'a str)>,
    /// What follows the last semicolon; empty if that is nothing but space and comments.
    pub(super) rest: &'a str,
}

/// Splits at the semicolons that stand in no quotes and no comment.
pub(super) fn split(text: &str) -> Split<'_> {
    let mut statements = Vec::new();
    let mut start = 0;
    let mut seen = Seen::default();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        if seen.inside(character, next) {
            // The second half of `--`, `/*` or `*/` says nothing by itself.
            if seen.took_two {
                characters.next();
            }
            continue;
        }
        if character == ';' {
            let statement = text.get(start..at).unwrap_or_default();
            if seen.words {
                statements.push((line_of(text, start), statement.trim()));
            }
            start = at + 1;
            seen.words = false;
        } else if !character.is_whitespace() {
            seen.words = true;
        }
    }
    let rest = text.get(start..).unwrap_or_default();
    // A quote or comment that is open goes on in the next line.
    let is_open = seen.words || seen.within.is_some_and(|within| within != Within::Line);
    Split {
        statements,
        rest: if is_open { rest } else { "" },
    }
}

/// The line of the first word after this place.
fn line_of(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let first = start + (rest.len() - rest.trim_start().len());
    1 + text.get(..first).unwrap_or_default().matches('\n').count()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Text or a name, up to the same character.
    Quotes(char),
    /// A comment up to the end of the line.
    Line,
    /// A comment up to `*/`.
    Block,
}

#[derive(Default)]
struct Seen {
    within: Option<Within>,
    /// Whether the statement has anything in it.
    words: bool,
    took_two: bool,
}

impl Seen {
    /// Whether a character is part of quotes or of a comment.
    fn inside(&mut self, character: char, next: Option<char>) -> bool {
        self.took_two = false;
        match self.within {
            Some(within) => {
                let ends = match within {
                    Within::Quotes(quote) => character == quote,
                    Within::Line => character == '\n',
                    Within::Block => character == '*' && next == Some('/'),
                };
                self.took_two = ends && within == Within::Block;
                if ends {
                    self.within = None;
                }
                true
            }
            None => {
                self.within = match (character, next) {
                    ('\'' | '"', _) => Some(Within::Quotes(character)),
                    ('-', Some('-')) => Some(Within::Line),
                    ('/', Some('*')) => Some(Within::Block),
                    _ => None,
                };
                match self.within {
                    Some(Within::Quotes(_)) => self.words = true,
                    Some(Within::Line | Within::Block) => self.took_two = true,
                    None => {}
                }
                self.within.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Vec<&str>, &str) {
        let split = split(text);
        let statements = split.statements.into_iter().map(|(_, statement)| statement);
        (statements.collect(), split.rest)
    }

    #[test]
    fn semicolons_end_statements_but_not_in_quotes_or_comments() {
        assert_eq!(parts("SELECT 1;"), (vec!["SELECT 1"], ""));
        assert_eq!(
            parts("SELECT 1; SELECT 2 ;;"),
            (vec!["SELECT 1", "SELECT 2"], "")
        );
        assert_eq!(
            parts("SELECT ';' , \";\";"),
            (vec!["SELECT ';' , \";\""], "")
        );
        assert_eq!(parts("SELECT 'it''s;';"), (vec!["SELECT 'it''s;'"], ""));
        assert_eq!(parts("SELECT 1 -- ;\n;"), (vec!["SELECT 1 -- ;"], ""));
        assert_eq!(parts("SELECT /* ; */ 1;"), (vec!["SELECT /* ; */ 1"], ""));
        assert_eq!(parts("SELECT 1 -- it's\n;"), (vec!["SELECT 1 -- it's"], ""));
        assert_eq!(parts("SELECT 3/-1 - -2;"), (vec!["SELECT 3/-1 - -2"], ""));
    }

    #[test]
    fn what_is_not_finished_is_left() {
        assert_eq!(parts("SELECT 1"), (vec![], "SELECT 1"));
        assert_eq!(
            parts("SELECT 1; SELECT 'a;"),
            (vec!["SELECT 1"], " SELECT 'a;")
        );
        assert_eq!(parts("/* open ;"), (vec![], "/* open ;"));
        assert_eq!(parts("SELECT 1; -- done"), (vec!["SELECT 1"], ""));
        assert_eq!(parts(" \n\t"), (vec![], ""));
    }

    #[test]
    fn statements_know_their_lines() {
        let lines: Vec<usize> = split("SELECT 1;\n\nSELECT\n2;SELECT 3;")
            .statements
            .into_iter()
            .map(|(line, _)| line)
            .collect();
        assert_eq!(lines, [1, 3, 4]);
    }
}
