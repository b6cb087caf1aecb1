//! Where an answer goes: the screen, a file, or both.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::PathBuf;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::format::{self, Answer, Format};
use super::session::{Error, Part, Session, Trailers};

/// The places of one answer, which are opened when it comes: what is refused overwrites nothing.
#[derive(Debug)]
pub(super) struct Sinks {
    screen: Option<Format>,
    file: Option<(PathBuf, Format)>,
    on_screen: Option<Answer>,
    in_file: Option<Answer>,
}

impl Sinks {
    fn new(screen: Option<Format>, file: Option<(PathBuf, Format)>) -> Self {
        Self {
            screen,
            file,
            on_screen: None,
            in_file: None,
        }
    }

    /// The screen alone.
    pub(super) fn screen(format: Format) -> Result<Self, Error> {
        if !format.is_text() && std::io::stdout().is_terminal() {
            return Err(Error::Binary);
        }
        Ok(Self::new(Some(format), None))
    }

    /// A file alone.
    pub(super) fn file(path: PathBuf, format: Option<Format>) -> Self {
        let format = format.unwrap_or_else(|| Format::of(&path));
        Self::new(None, Some((path, format)))
    }

    /// A table on the screen as well.
    pub(super) fn and_table(mut self) -> Self {
        self.screen = Some(Format::Table);
        self
    }

    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Error> {
        if let Some(format) = self.screen {
            let target = Box::new(BufWriter::new(std::io::stdout()));
            let answer = Answer::begin(format, schema, target);
            self.on_screen = Some(answer.map_err(on_screen)?);
        }
        if let Some((path, format)) = &self.file {
            let file = File::create(path).map_err(format::Error::Io);
            let answer = file
                .and_then(|file| Answer::begin(*format, schema, Box::new(BufWriter::new(file))));
            self.in_file = Some(answer.map_err(in_file(path))?);
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if let Some(answer) = &mut self.on_screen {
            answer.write(batch).map_err(on_screen)?;
        }
        if let (Some(answer), Some((path, _))) = (&mut self.in_file, &self.file) {
            answer.write(batch).map_err(in_file(path))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let Some(answer) = self.on_screen.take() {
            answer.finish().map_err(on_screen)?;
        }
        if let (Some(answer), Some((path, _))) = (self.in_file.take(), &self.file) {
            answer.finish().map_err(in_file(path))?;
        }
        Ok(())
    }
}

/// Asks, and has the answer written as it comes.
pub(super) async fn ask(
    session: &mut Session,
    statement: &str,
    sinks: &mut Sinks,
) -> Result<Trailers, Error> {
    let mut take = |part: Part<'_>| match part {
        Part::Schema(schema) => sinks.begin(schema),
        Part::Rows(batch) => sinks.write(batch),
    };
    let trailers = session.ask(statement, &mut take).await?;
    sinks.finish()?;
    Ok(trailers)
}

fn on_screen(error: format::Error) -> Error {
    match error.into_io() {
        Ok(gone) => Error::Terminal(gone),
        Err(error) => Error::Unwritable(error),
    }
}

fn in_file(path: &std::path::Path) -> impl Fn(format::Error) -> Error {
    move |source| Error::File(path.to_owned(), source)
}
