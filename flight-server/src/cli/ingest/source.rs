//! Records read from files: JSON arrays, NDJSON, or CloudTrail's `{"Records": […]}`; plain or gzip.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::cloudtrail;

/// A file is read whole; a larger one is refused rather than half loaded.
const FILE_BYTES_MAX: u64 = 1 << 30;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What the files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Audit records as the HTTP API takes them.
    Audit,
    /// AWS CloudTrail events.
    Cloudtrail,
}

/// Why a file could not be read; names the file, never its content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Larger than can be read at once.
    #[error("`{0}` is larger than 1 GiB: split it")]
    TooLarge(PathBuf),
    /// Not JSON.
    #[error("`{path}` is not JSON: line {line}, column {column}")]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// JSON, but no event of the format.
    #[error("element {index} of `{path}` is no CloudTrail event")]
    NotAnEvent {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 0.
        index: usize,
        /// Which field is missing.
        #[source]
        source: cloudtrail::Error,
    },
}

/// The files named by `paths`, folders expanded one level deep, in order of name.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |source| Error::Unreadable {
            path: path.clone(),
            source,
        };
        let mut inside = Vec::new();
        for entry in path.read_dir().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?.path();
            if entry.is_file() && is_record_file(&entry) {
                inside.push(entry);
            }
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn is_record_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase());
    let name = name.unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    [".json", ".ndjson", ".jsonl"]
        .iter()
        .any(|suffix| name.ends_with(suffix))
}

/// The audit records in one file, as the JSON that is sent.
pub fn records(path: &Path, format: Format, tenant: &str) -> Result<Vec<Value>, Error> {
    let content = content(path)?;
    let elements = elements(path, &content)?;
    match format {
        Format::Audit => Ok(elements),
        Format::Cloudtrail => elements
            .into_iter()
            .enumerate()
            .map(|(index, event)| {
                cloudtrail::record(event, tenant).map_err(|source| Error::NotAnEvent {
                    path: path.to_owned(),
                    index,
                    source,
                })
            })
            .collect(),
    }
}

fn content(path: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut raw = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    read_bounded(BufReader::new(file), path, &mut raw)?;
    if !raw.starts_with(&GZIP_MAGIC) {
        return Ok(raw);
    }
    let mut plain = Vec::new();
    read_bounded(
        flate2::read::MultiGzDecoder::new(raw.as_slice()),
        path,
        &mut plain,
    )?;
    Ok(plain)
}

fn read_bounded(reader: impl Read, path: &Path, into: &mut Vec<u8>) -> Result<(), Error> {
    let read = reader.take(FILE_BYTES_MAX + 1).read_to_end(into);
    let read = read.map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(())
}

/// Every value of a JSON stream; arrays and CloudTrail envelopes are opened.
fn elements(path: &Path, content: &[u8]) -> Result<Vec<Value>, Error> {
    let mut elements = Vec::new();
    for value in serde_json::Deserializer::from_slice(content).into_iter::<Value>() {
        let value = value.map_err(|error| Error::NotJson {
            path: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        match value {
            Value::Array(inside) => elements.extend(inside),
            Value::Object(mut object) => match object.remove("Records") {
                Some(Value::Array(inside)) if object.is_empty() => elements.extend(inside),
                Some(other) => {
                    object.insert("Records".to_owned(), other);
                    elements.push(Value::Object(object));
                }
                None => elements.push(Value::Object(object)),
            },
            scalar => elements.push(scalar),
        }
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(name: &str, content: &[u8]) -> (PathBuf, PathBuf) {
        let folder =
            std::env::temp_dir().join(format!("trailhouse-source-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        (folder, path)
    }

    fn count(name: &str, content: &[u8]) -> usize {
        let (folder, path) = file(name, content);
        let records = records(&path, Format::Audit, "acme").expect("records");
        std::fs::remove_dir_all(folder).expect("removed");
        records.len()
    }

    #[test]
    fn arrays_lines_envelopes_and_gzip_are_read() {
        assert_eq!(count("a.json", b"[{\"a\":1},{\"a\":2}]"), 2);
        assert_eq!(count("b.ndjson", b"{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n"), 3);
        assert_eq!(count("c.json", b"{\"Records\":[{},{},{},{}]}"), 4);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"[{},{},{},{},{}]").expect("compressed");
        assert_eq!(count("d.json.gz", &gzip.finish().expect("compressed")), 5);
    }

    #[test]
    fn a_fault_names_file_and_place_but_no_content() {
        let (folder, path) = file("bad.json", b"{\"secret\": 1,\n oops}");
        let error = records(&path, Format::Audit, "acme")
            .expect_err("not JSON")
            .to_string();
        std::fs::remove_dir_all(folder).expect("removed");
        assert!(
            error.contains("bad.json") && error.contains("line 2"),
            "{error}"
        );
        assert!(
            !error.contains("secret") && !error.contains("oops"),
            "{error}"
        );
    }

    #[test]
    fn folders_are_expanded_by_name() {
        let (folder, _) = file("z.json", b"[]");
        std::fs::write(folder.join("a.ndjson"), b"").expect("a file");
        std::fs::write(folder.join("notes.txt"), b"").expect("a file");
        let found = files(std::slice::from_ref(&folder)).expect("files");
        std::fs::remove_dir_all(&folder).expect("removed");
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["a.ndjson", "z.json"]);
    }
}
