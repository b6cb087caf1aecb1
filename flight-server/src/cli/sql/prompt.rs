//! Statements one after the other: typed at a prompt, or from a file.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::Instant;

use arrow::datatypes::Schema;
use rustyline::Editor;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;

use super::complete::Words;
use super::format::Format;
use super::lines::split;
use super::session::{Described, Error, Session};
use super::sinks::{Sinks, ask};

/// What can be done beside asking.
pub(super) const COMMANDS: &[(&str, &str)] = &[
    (
        "\\d",
        "the tables that you see; \\d NAME: what the columns of one are, and what is masked for you",
    ),
    (
        "\\format",
        "how answers look: table, csv, ndjson; \\format alone says how they do",
    ),
    (
        "\\save",
        "\\save FILE: keep the next answer in a file: .csv, .ndjson, .parquet or .arrow",
    ),
    ("\\timing", "whether it is said how long an answer took"),
    ("\\?", "this list"),
    ("\\q", "leave"),
];

/// Where the history is kept, in the home of the user.
const HISTORY: &str = ".trailhouse_history";
const HISTORY_LINES_MAX: usize = 1_000;

/// Runs what is read, and stops at the first statement that has no answer.
pub(super) async fn script(
    session: &mut Session,
    mut input: impl Read,
    format: Format,
) -> Result<(), Error> {
    let mut text = String::new();
    input.read_to_string(&mut text)?;
    let split = split(&text);
    let last = (!split.rest.is_empty()).then(|| {
        let before = text.len() - split.rest.trim_start().len();
        (
            1 + text.get(..before).unwrap_or_default().matches('\n').count(),
            split.rest.trim(),
        )
    });
    let statements: Vec<_> = split.statements.into_iter().chain(last).collect();
    if statements.len() > 1 && !format.is_text() {
        return Err(Error::OneAnswer);
    }
    for (line, statement) in statements {
        let mut sinks = Sinks::screen(format)?;
        let asked = ask(session, statement, &mut sinks).await;
        asked.map_err(|source| match source {
            Error::Terminal(gone) => Error::Terminal(gone),
            source => Error::Line {
                line,
                source: Box::new(source),
            },
        })?;
    }
    Ok(())
}

/// A prompt at a terminal.
pub(super) struct Prompt<'a> {
    session: &'a mut Session,
    format: Format,
    timing: bool,
    save: Option<PathBuf>,
}

/// Whether there is more to come.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    On,
    Leave,
}

impl<'a> Prompt<'a> {
    pub(super) fn new(session: &'a mut Session, format: Format) -> Self {
        Self {
            session,
            format,
            timing: true,
            save: None,
        }
    }

    /// Reads and answers until the user leaves.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let mut editor = editor(Words::new(&self.tables().await))?;
        let history = std::env::home_dir().map(|home| home.join(HISTORY));
        if let Some(path) = &history {
            // There is none the first time.
            let _ = editor.load_history(path);
        }
        println("Statements end with ; and commands begin with \\ (\\? lists them).")?;
        loop {
            let typed = tokio::task::spawn_blocking(move || {
                let line = editor.readline("trailhouse> ");
                (editor, line)
            });
            let (back, line) = typed.await.map_err(std::io::Error::other)?;
            editor = back;
            match line {
                Ok(text) => {
                    let _ = editor.add_history_entry(text.as_str());
                    if self.enter(text.trim()).await? == Flow::Leave {
                        break;
                    }
                }
                // The line is given up, as in any shell.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(Error::Terminal(std::io::Error::other(error))),
            }
        }
        if let Some(path) = &history
            && let Err(error) = editor.save_history(path)
        {
            println(&format!("the history is not kept: {error}"))?;
        }
        Ok(())
    }

    async fn enter(&mut self, text: &str) -> Result<Flow, Error> {
        if let Some(command) = text.strip_prefix('\\') {
            let (name, rest) = command
                .split_once(char::is_whitespace)
                .unwrap_or((command, ""));
            return self
                .command(
                    name.trim_end_matches(';'),
                    rest.trim().trim_end_matches(';'),
                )
                .await;
        }
        if matches!(text, "exit" | "quit") {
            return Ok(Flow::Leave);
        }
        for (_, statement) in split(text).statements {
            self.statement(statement).await?;
        }
        Ok(Flow::On)
    }

    /// Asks, and tells what came of it. Ctrl-C ends the statement and not the prompt.
    async fn statement(&mut self, statement: &str) -> Result<(), Error> {
        let mut sinks = match self.save.take() {
            Some(file) => Sinks::file(file, None),
            None => Sinks::screen(self.format)?,
        };
        let started = Instant::now();
        let outcome = tokio::select! {
            outcome = ask(self.session, statement, &mut sinks) => outcome,
            _ = tokio::signal::ctrl_c() => return println("cancelled"),
        };
        match outcome {
            Ok(_) if self.timing => println(&format!("{:.1?}", started.elapsed())),
            Ok(_) => Ok(()),
            Err(Error::Terminal(gone)) => Err(Error::Terminal(gone)),
            Err(error) => tell(&error),
        }
    }

    async fn command(&mut self, name: &str, rest: &str) -> Result<Flow, Error> {
        match (name, rest) {
            ("q", _) => return Ok(Flow::Leave),
            ("d" | "dt", "") => {
                for table in self.tables().await {
                    println(&format!("{}.{}", table.schema, table.name))?;
                }
            }
            ("d", wanted) => {
                let tables = self.tables().await;
                match tables.iter().find(|table| is_called(table, wanted)) {
                    Some(table) => println(&columns(&table.columns))?,
                    None => println("there is no such table; \\d lists those that you see")?,
                }
            }
            ("timing", _) => {
                self.timing = !self.timing;
                let state = if self.timing { "on" } else { "off" };
                println(&format!("timing is {state}"))?;
            }
            ("format", "") => println(&format!("{:?}", self.format).to_lowercase())?,
            ("format", name) => match <Format as clap::ValueEnum>::from_str(name, true) {
                Ok(format) if format.is_text() => self.format = format,
                Ok(_) => println("this format is binary: \\save FILE keeps an answer in it")?,
                Err(_) => println("table, csv or ndjson")?,
            },
            ("save", "") => println("a file is needed: \\save answer.parquet")?,
            ("save", file) => self.save = Some(PathBuf::from(file)),
            ("?" | "h" | "help", _) => {
                for (name, about) in COMMANDS {
                    println(&format!("{name:<10}{about}"))?;
                }
            }
            _ => println("there is no such command; \\? lists those there are")?,
        }
        Ok(Flow::On)
    }

    /// What the server tells of its tables. A prompt without it is still a prompt.
    async fn tables(&mut self) -> Vec<Described> {
        match self.session.tables().await {
            Ok(tables) => tables,
            Err(error) => {
                // The next statement says so again.
                let _ = tell(&error);
                Vec::new()
            }
        }
    }
}

fn editor(words: Words) -> Result<Editor<Words, FileHistory>, Error> {
    let config = rustyline::Config::builder()
        .max_history_size(HISTORY_LINES_MAX)
        .and_then(|config| config.history_ignore_dups(true))
        .map(|config| {
            config
                // For what should not be kept.
                .history_ignore_space(true)
                .completion_type(rustyline::CompletionType::List)
                .build()
        });
    let failed = |error| Error::Terminal(std::io::Error::other(error));
    let mut editor = Editor::with_config(config.map_err(failed)?).map_err(failed)?;
    editor.set_helper(Some(words));
    Ok(editor)
}

fn is_called(table: &Described, name: &str) -> bool {
    let Described {
        schema, name: own, ..
    } = table;
    own.eq_ignore_ascii_case(name) || format!("{schema}.{own}").eq_ignore_ascii_case(name)
}

/// The columns of a table, one a line: name, type, what it is.
fn columns(columns: &Schema) -> String {
    let of = |field: &arrow::datatypes::Field, key: &str| {
        let metadata = field.metadata().get(&format!("ARROW:FLIGHT:SQL:{key}"));
        metadata.cloned().unwrap_or_default()
    };
    let rows: Vec<[String; 3]> = columns
        .fields()
        .iter()
        .map(|field| {
            [
                field.name().clone(),
                of(field, "TYPE_NAME"),
                of(field, "REMARKS"),
            ]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (names, types) = (width(0), width(1));
    let lines = rows
        .iter()
        .map(|[name, kind, about]| format!("{name:names$}  {kind:types$}  {about}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A refusal, with what the server says to do.
fn tell(error: &Error) -> Result<(), Error> {
    println(&format!("error: {error}"))
}

fn println(line: &str) -> Result<(), Error> {
    let mut output = std::io::stdout().lock();
    Ok(writeln!(output, "{line}")?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn columns_say_what_they_are() {
        let metadata = [("TYPE_NAME", "VARCHAR"), ("REMARKS", "What was done")];
        let metadata =
            metadata.map(|(key, value)| (format!("ARROW:FLIGHT:SQL:{key}"), value.to_owned()));
        let action = Field::new("action", DataType::Utf8, true);
        let schema = Schema::new(vec![
            action.with_metadata(HashMap::from(metadata)),
            Field::new("n", DataType::Int64, true),
        ]);
        assert_eq!(
            columns(&schema),
            "action  VARCHAR  What was done\nn                "
        );
    }
}
