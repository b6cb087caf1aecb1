//! What was refused, one line of JSON each: file, line, problem, and the original, so that it can be mended and sent.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::Error;
use super::send::Line;

/// A file of rejects, or none.
#[derive(Debug)]
pub(super) struct Rejects(Option<BufWriter<File>>);

impl Rejects {
    pub(super) fn nowhere() -> Self {
        Self(None)
    }

    /// Makes the file anew, for its owner only: it holds records.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        Ok(Self(Some(BufWriter::new(file.map_err(Error::Rejects)?))))
    }

    pub(super) fn add(&mut self, line: &Line, problem: &Value) -> Result<(), Error> {
        let Some(file) = &mut self.0 else {
            return Ok(());
        };
        let reject = json!({
            "file": line.file, "line": line.number, "problem": problem, "record": line.text,
        });
        writeln!(file, "{reject}").map_err(Error::Rejects)
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        match self.0 {
            Some(mut file) => file.flush().map_err(Error::Rejects),
            None => Ok(()),
        }
    }
}
