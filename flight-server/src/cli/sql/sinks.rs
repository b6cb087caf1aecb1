//! Where an answer goes: the screen, a file, or both.

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::format::{self, Answer, Format};
use super::session::{Error, Part, Session, Trailers};

/// The places of one answer, which are opened when it comes: what is refused, or breaks off, overwrites nothing.
#[derive(Debug)]
pub(super) struct Sinks {
    screen: Option<Format>,
    file: Option<(PathBuf, Format)>,
    on_screen: Option<Answer>,
    in_file: Option<(Answer, Draft)>,
    /// Whether the answer is wanted though nobody looks at the screen any more.
    is_kept: bool,
    gone: Option<Error>,
}

impl Sinks {
    fn new(screen: Option<Format>, file: Option<(PathBuf, Format)>) -> Self {
        Self {
            screen,
            is_kept: file.is_some(),
            file,
            on_screen: None,
            in_file: None,
            gone: None,
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

    /// The answer is wanted to its end, whoever looks.
    pub(super) fn wanted_whole(mut self) -> Self {
        self.is_kept = true;
        self
    }

    /// What became of the screen, once the rest is done.
    pub(super) fn ended(self) -> Result<(), Error> {
        self.gone.map_or(Ok(()), Err)
    }

    fn begin(&mut self, schema: &SchemaRef) -> Result<(), Error> {
        if let Some(format) = self.screen {
            let target = Box::new(BufWriter::new(std::io::stdout()));
            let answer = Answer::begin(format, schema, target);
            self.on_screen = self.looked_at(answer)?;
        }
        if let Some((path, format)) = &self.file {
            let (draft, file) = Draft::of(path)
                .map_err(format::Error::Io)
                .map_err(in_file(path))?;
            let answer = Answer::begin(*format, schema, Box::new(BufWriter::new(file)));
            self.in_file = Some((answer.map_err(in_file(path))?, draft));
        }
        Ok(())
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        if let (Some((answer, _)), Some((path, _))) = (&mut self.in_file, &self.file) {
            answer.write(batch).map_err(in_file(path))?;
        }
        if let Some(mut answer) = self.on_screen.take() {
            let written = answer.write(batch).map(|()| answer);
            self.on_screen = self.looked_at(written)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        if let (Some((answer, draft)), Some((path, _))) = (self.in_file.take(), &self.file) {
            answer.finish().map_err(in_file(path))?;
            let kept = draft.keep().map_err(format::Error::Io);
            kept.map_err(in_file(path))?;
        }
        if let Some(answer) = self.on_screen.take() {
            let finished = answer.finish();
            self.looked_at(finished)?;
        }
        Ok(())
    }

    /// What was shown, or nothing more where nobody looks and there is something else to do.
    fn looked_at<T>(&mut self, shown: Result<T, format::Error>) -> Result<Option<T>, Error> {
        match shown.map_err(on_screen) {
            Ok(shown) => Ok(Some(shown)),
            Err(gone @ Error::Terminal(_)) if self.is_kept => {
                self.gone = Some(gone);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// A file on its way: it has its name when it is whole, and is removed if it does not get there.
#[derive(Debug)]
struct Draft {
    /// None where the name is that of a pipe or a device, which are written as they are.
    draft: Option<PathBuf>,
    path: PathBuf,
}

impl Draft {
    fn of(path: &Path) -> std::io::Result<(Self, File)> {
        let is_special = std::fs::metadata(path).is_ok_and(|there| !there.is_file());
        let draft = (!is_special).then(|| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{}.part", std::process::id()));
            PathBuf::from(name)
        });
        let file = File::create(draft.as_deref().unwrap_or(path))?;
        let path = path.to_owned();
        Ok((Self { draft, path }, file))
    }

    fn keep(mut self) -> std::io::Result<()> {
        match self.draft.take() {
            Some(draft) => std::fs::rename(draft, &self.path),
            None => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.draft {
            // What stays says by its name that it is not whole.
            let _ = std::fs::remove_file(draft);
        }
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

fn in_file(path: &Path) -> impl Fn(format::Error) -> Error {
    move |source| Error::File(path.to_owned(), source)
}
