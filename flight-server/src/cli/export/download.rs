//! An export into a folder: every file, checked, and kept only when it is whole.
//!
//! A file grows under its name with `.part` behind it, and gets its name when all of it is there, has the hash that the
//! export says, and is on the disk. What broke off goes on from there.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use indicatif::ProgressBar;
use reqwest::Response;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use super::client::{Client, Error, text};
use super::watch::{bar, say_aside};

/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often it is tried again without a byte in between.
const TRIES_MAX: u32 = 5;
const WAIT: Duration = Duration::from_secs(1);
const PIECE: usize = 1 << 20;
const PARTIAL: &str = ".part";

/// A file that the export has.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    path: String,
    bytes: u64,
    sha256: String,
}

/// A file that is being fetched.
struct Partial {
    file: File,
    path: PathBuf,
    hash: Sha256,
    bytes: u64,
}

/// Fetches all files of a finished export. Gives how many there are, and their bytes.
pub(super) async fn all(
    client: &Client,
    job: &Value,
    folder: &Path,
    resume: bool,
) -> Result<(usize, u64), Error> {
    let files = listed(job)?;
    if files.is_empty() {
        return Err(Error::NotThere(text(job, "state")));
    }
    let id = text(job, "exportId");
    make(folder)?;
    let mut entries = fs::read_dir(folder).map_err(local(folder))?;
    if !resume && entries.next().is_some() {
        return Err(Error::Occupied(folder.to_owned()));
    }
    let bytes = files.iter().map(|file| file.bytes).sum();
    let bar = bar(
        "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        bytes,
    );
    let mut before = 0;
    for file in &files {
        bar.set_message(file.path.clone());
        bar.set_position(before);
        one(client, &id, folder, file, &bar).await?;
        before += file.bytes;
        if bar.is_hidden() {
            say_aside(&format!("{}: {} bytes", file.path, file.bytes));
        }
    }
    bar.finish_and_clear();
    Ok((files.len(), bytes))
}

/// The files of an export, none of which leads out of a folder.
fn listed(job: &Value) -> Result<Vec<Listed>, Error> {
    let files = job["files"].as_array().ok_or(Error::Malformed("files"))?;
    let mut names = BTreeSet::new();
    let mut listed = Vec::new();
    for file in files {
        let path = file["path"].as_str().ok_or(Error::Malformed("path"))?;
        let sha256 = file["sha256"].as_str().ok_or(Error::Malformed("sha256"))?;
        let bytes = file["bytes"].as_u64().ok_or(Error::Malformed("bytes"))?;
        if !is_inside(path) || !names.insert(path) {
            return Err(Error::Outside(path.to_owned()));
        }
        listed.push(Listed {
            path: path.to_owned(),
            bytes,
            sha256: sha256.to_owned(),
        });
    }
    Ok(listed)
}

/// Whether a path is one below a folder, as it stands there, and no partial file's.
fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(is_plain)
        && !path.contains(['\\', '\0'])
        && !path.ends_with(PARTIAL)
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

async fn one(
    client: &Client,
    id: &str,
    folder: &Path,
    file: &Listed,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let whole = folder.join(&file.path);
    let within = whole.parent().unwrap_or(folder);
    make(within)?;
    if is_there(&whole, file)? {
        return Ok(());
    }
    let mut partial = Partial::open(&whole, file)?;
    bar.inc(partial.bytes);
    let mut tries = 0;
    while partial.bytes < file.bytes {
        let before = partial.bytes;
        let from = partial.bytes;
        let answer = client.file((id, &file.path), &file.sha256, from).await?;
        partial.take(answer, file, bar).await?;
        tries = if partial.bytes > before { 0 } else { tries + 1 };
        if tries >= TRIES_MAX {
            return Err(Error::BrokeOff);
        }
        if partial.bytes < file.bytes {
            sleep(WAIT).await;
        }
    }
    partial.keep(&whole, within, file)
}

/// Whether the file was fetched before. One that is another goes.
fn is_there(whole: &Path, file: &Listed) -> Result<bool, Error> {
    let mut found = match File::open(whole) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(local(whole)(error)),
    };
    let mut hash = Sha256::new();
    digest(&mut found, &mut hash).map_err(local(whole))?;
    if hexadecimal(hash) == file.sha256 {
        return Ok(true);
    }
    fs::remove_file(whole).map_err(local(whole))?;
    Ok(false)
}

impl Partial {
    fn open(whole: &Path, listed: &Listed) -> Result<Self, Error> {
        let mut path = whole.as_os_str().to_owned();
        path.push(PARTIAL);
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut file = file.map_err(local(&path))?;
        let mut hash = Sha256::new();
        let bytes = digest(&mut file, &mut hash).map_err(local(&path))?;
        let mut partial = Self {
            file,
            path,
            hash,
            bytes,
        };
        if bytes > listed.bytes {
            partial.begin_anew()?;
        }
        Ok(partial)
    }

    fn begin_anew(&mut self) -> Result<(), Error> {
        let emptied = self.file.set_len(0);
        let emptied = emptied.and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(local(&self.path))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    /// Takes what comes, as far as it comes.
    async fn take(
        &mut self,
        mut answer: Response,
        file: &Listed,
        bar: &ProgressBar,
    ) -> Result<(), Error> {
        if answer.status() != StatusCode::PARTIAL_CONTENT && self.bytes > 0 {
            // All of it comes: what there is belongs to something else.
            bar.set_position(bar.position().saturating_sub(self.bytes));
            self.begin_anew()?;
        }
        // Silence and errors alike: it is tried again from here.
        while let Ok(Ok(Some(piece))) = timeout(SILENCE_MAX, answer.chunk()).await {
            let length = piece.len() as u64;
            if self.bytes + length > file.bytes {
                return self.refuse(file);
            }
            self.file.write_all(&piece).map_err(local(&self.path))?;
            self.hash.update(&piece);
            self.bytes += length;
            bar.inc(length);
        }
        Ok(())
    }

    /// Gives the file its name, if it is the one that was made.
    fn keep(mut self, whole: &Path, within: &Path, file: &Listed) -> Result<(), Error> {
        if hexadecimal(self.hash.clone()) != file.sha256 {
            return self.refuse(file);
        }
        self.file.sync_all().map_err(local(&self.path))?;
        fs::rename(&self.path, whole).map_err(local(whole))?;
        sync(within)
    }

    fn refuse(&mut self, file: &Listed) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(local(&self.path))?;
        Err(Error::Damaged(file.path.clone()))
    }
}

/// Makes a folder for its owner, with those above it, if it is not there.
fn make(folder: &Path) -> Result<(), Error> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(local(folder))?;
    match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => sync(above),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(local(folder))
}

/// Hashes what is left of a file. Gives how many bytes that is.
fn digest(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(bytes);
        }
        hash.update(&piece[..length]);
        bytes += length as u64;
    }
}

fn hexadecimal(hash: Sha256) -> String {
    let hash = hash.finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn local(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Local(path.clone(), error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for path in [
            "a",
            "part-00000.parquet",
            "proofs/checkpoint",
            "a..b",
            "...",
        ] {
            assert!(is_inside(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "./a",
            "a/.",
            "a//b",
            "a/",
            "a\\b",
            "a.part",
            "a\0b",
        ] {
            assert!(!is_inside(path), "{path:?}");
        }
        let file = |path: &str| json!({ "path": path, "bytes": 1, "sha256": "x" });
        let twice = json!({ "files": [file("a"), file("a")] });
        assert!(matches!(listed(&twice), Err(Error::Outside(_))));
        let outside = json!({ "files": [file("a"), file("../a")] });
        assert!(matches!(listed(&outside), Err(Error::Outside(_))));
        assert_eq!(
            listed(&json!({ "files": [file("a"), file("b")] }))
                .unwrap()
                .len(),
            2
        );
        assert!(matches!(listed(&json!({})), Err(Error::Malformed(_))));
    }
}
