//! What a module may not say: whatever makes much out of little, or another answer from the same question.
//!
//! The clock stops an evaluation between two steps, and nothing stops a step. So no step may be able to take long or to fill
//! the memory: of the built-in functions only those are open whose result is no larger than what they are given, and texts
//! and numbers of a module are short. `numbers.range(1, 1e12)` or `concat` of a thousand references to one text would end
//! the process and not the evaluation. What asks a clock, chance or the environment is closed as well: a decision must come
//! out again when it is looked into later.

use std::fmt;
use std::iter::Peekable;
use std::vec::IntoIter;

use regorus::unstable::{BUILTINS, Lexer, Source, TokenKind};

use super::MODULE_BYTES_MAX;

/// What a module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// Decisions.
    Decisions,
    /// Tests of another module: they replace its input.
    Tests,
}

/// The built-in functions that are open.
const OPEN: &[&str] = &[
    "abs",
    "all",
    "any",
    "ceil",
    "contains",
    "count",
    "endswith",
    "floor",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "lower",
    "max",
    "min",
    "object.get",
    "round",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "sum",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "upper",
];
/// Words after which a parenthesis calls nothing.
const WORDS: &[&str] = &[
    "if", "in", "not", "some", "every", "else", "with", "as", "default", "contains",
];
/// Bytes of the longest text of a module.
const TEXT_BYTES_MAX: usize = 256;
/// Words and signs of one module: what is nested in it, and what depends on what, is no deeper than that.
const WORDS_MAX: usize = 4096;
/// Digits of the longest number.
const DIGITS_MAX: usize = 18;
/// Reasons that are listed.
const REASONS_MAX: usize = 20;
const REASON_CHARS_MAX: usize = 200;

/// Every reason against a module, before it is read.
pub(super) fn reasons_against(module: &str, purpose: For) -> Vec<String> {
    if module.len() > MODULE_BYTES_MAX {
        return vec![format!("has more than {MODULE_BYTES_MAX} bytes")];
    }
    match tokens(module) {
        Ok(tokens) => {
            let mut scan = Scan {
                tokens: tokens.into_iter().peekable(),
                purpose,
                reasons: Vec::new(),
            };
            scan.run();
            scan.reasons.truncate(REASONS_MAX);
            scan.reasons
        }
        Err(reason) => vec![reason],
    }
}

/// The first lines of somebody else's error, in one.
pub(super) fn short(error: impl fmt::Display) -> String {
    let error = error.to_string();
    let lines = error.lines().map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let line = lines.join(" ");
    line.chars().take(REASON_CHARS_MAX).collect()
}

/// A word of a module, and the byte it begins at.
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) text: String,
    pub(super) start: u32,
    line: u32,
}

pub(super) fn tokens(module: &str) -> Result<Vec<Token>, String> {
    let source = Source::from_contents("policy.rego".to_owned(), module.to_owned());
    let source = source.map_err(short)?;
    let mut lexer = Lexer::new(&source);
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next_token().map_err(short)?;
        if token.0 == TokenKind::Eof {
            return Ok(tokens);
        }
        if tokens.len() >= WORDS_MAX {
            return Err(format!("has more than {WORDS_MAX} words and signs"));
        }
        tokens.push(Token {
            kind: token.0,
            text: token.1.text().to_owned(),
            start: token.1.start,
            line: token.1.line,
        });
    }
}

struct Scan {
    tokens: Peekable<IntoIter<Token>>,
    purpose: For,
    reasons: Vec<String>,
}

impl Scan {
    fn run(&mut self) {
        let mut after_bracket = false;
        while let Some(token) = self.tokens.next() {
            let closes = token.text == "]" && token.kind == TokenKind::Symbol;
            match token.kind {
                TokenKind::Ident => self.name(token),
                TokenKind::String | TokenKind::RawString if token.text.len() > TEXT_BYTES_MAX => {
                    self.refuse(
                        token.line,
                        format_args!("a text of more than {TEXT_BYTES_MAX} bytes"),
                    );
                }
                TokenKind::Number => {
                    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
                    if token.text.len() > DIGITS_MAX || !token.text.bytes().all(plain) {
                        self.refuse(
                            token.line,
                            format_args!("a number of more than {DIGITS_MAX} digits"),
                        );
                    }
                }
                TokenKind::Symbol if token.text == "(" && after_bracket => {
                    self.refuse(token.line, "a function that is not called by its name");
                }
                _ => {}
            }
            after_bracket = closes;
        }
    }

    /// A name, or several with dots between, and what is done with it.
    fn name(&mut self, first: Token) {
        let line = first.line;
        let mut path = vec![first.text];
        while self.is_next(".") {
            self.tokens.next();
            let part = self.tokens.next_if(|token| token.kind == TokenKind::Ident);
            let Some(part) = part else { break };
            path.push(part.text);
        }
        let [root, rest @ ..] = path.as_slice() else {
            return;
        };
        match (root.as_str(), rest) {
            ("data", [package, rule, ..]) if package == "trailhouse" && !rule.is_empty() => {}
            ("data", [package]) if package == "trailhouse" && self.purpose == For::Tests => {}
            ("data", _) => self.refuse(line, "data other than data.trailhouse and its rules"),
            ("with", []) if self.purpose == For::Decisions => {
                self.refuse(line, "`with`, which is for tests");
            }
            ("import", []) => self.import(line),
            _ => {}
        }
        let name = path.join(".");
        if !self.is_next("(") || WORDS.contains(&name.as_str()) {
            return;
        }
        let is_open = OPEN.contains(&name.as_str());
        // What is not built in is a function of the module, or nothing at all: the compiler finds out.
        if !is_open && (BUILTINS.contains_key(name.as_str()) || is_of_a_library(&path)) {
            self.refuse(line, format_args!("the function {name}"));
        }
    }

    fn import(&mut self, line: u32) {
        let mut path = Vec::new();
        while let Some(part) = self.tokens.next_if(|token| token.kind == TokenKind::Ident) {
            path.push(part.text);
            if self.tokens.next_if(|token| token.text == ".").is_none() {
                break;
            }
        }
        let tested = self.purpose == For::Tests && path == ["data", "trailhouse"];
        if path != ["rego", "v1"] && !tested {
            self.refuse(line, "an import other than rego.v1");
        }
    }

    fn is_next(&mut self, symbol: &str) -> bool {
        let next = self.tokens.peek();
        next.is_some_and(|token| token.kind == TokenKind::Symbol && token.text == symbol)
    }

    fn refuse(&mut self, line: u32, what: impl fmt::Display) {
        self.reasons
            .push(format!("line {line}: {what}: not in a policy"));
    }
}

/// Whether the name is one of a library's, as `http.send` is, and not of a rule's.
fn is_of_a_library(path: &[String]) -> bool {
    let [root, _, ..] = path else { return false };
    !["data", "trailhouse"].contains(&root.as_str())
}
