//! Records read from files: NDJSON line by line, or JSON whole (values, arrays, CloudTrail's `{"Records": […]}`); plain
//! or gzip, from files or standard input.
//!
//! What is no record is an item like all others, with its line and the reason: the rest of the file goes on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use crate::cli::cloudtrail;
use crate::cloudevents;

/// A JSON document is read whole; a larger one is refused rather than half loaded.
const DOCUMENT_BYTES_MAX: u64 = 1 << 30;
/// A longer line is stepped over: no record is that large.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// What is kept of a line that is stepped over.
const EXCERPT_BYTES: usize = 256;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const STDIN: &str = "-";

/// What the files hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Audit records as the HTTP API takes them.
    Audit,
    /// AWS CloudTrail events.
    Cloudtrail,
    /// CloudEvents 1.0 in their JSON form.
    Cloudevents,
}

/// Why a file could not be read; names the file, never its content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused, or the compression is broken.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Larger than can be read at once.
    #[error(
        "`{0}` is larger than 1 GiB: split it, or make it one record a line and name it .ndjson"
    )]
    TooLarge(PathBuf),
}

/// One record of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// The line it is in, from 1; in a document the place among its elements.
    pub line: u64,
    /// The JSON that is sent, or why there is none.
    pub record: Result<String, Bad>,
}

/// Something that is no record.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    /// Why, without values.
    pub reason: String,
    /// What it was.
    pub original: String,
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

/// A file's name in lower case, without the suffix of its compression.
fn plain_name(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().to_ascii_lowercase());
    let name = name.unwrap_or_default();
    name.strip_suffix(".gz").unwrap_or(&name).to_owned()
}

fn is_record_file(path: &Path) -> bool {
    plain_name(path).ends_with(".json") || is_lines(path)
}

fn is_lines(path: &Path) -> bool {
    let name = plain_name(path);
    name == STDIN || name.ends_with(".ndjson") || name.ends_with(".jsonl")
}

/// The records of one file, as they are read.
pub fn records<'a>(
    path: &'a Path,
    format: Format,
    tenant: &'a str,
) -> Result<Box<dyn Iterator<Item = Result<Item, Error>> + Send + 'a>, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut reader = open(path).map_err(unreadable)?;
    if is_lines(path) {
        let lines = Lines { reader, number: 0 };
        let items = lines.map(move |line| {
            let (number, line) = line.map_err(unreadable)?;
            Ok(Item {
                line: number,
                record: line.and_then(|text| from_text(text, format, tenant)),
            })
        });
        return Ok(Box::new(items));
    }
    let mut content = Vec::new();
    let mut bounded = (&mut reader).take(DOCUMENT_BYTES_MAX + 1);
    let read = bounded.read_to_end(&mut content).map_err(unreadable)?;
    if read as u64 > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLarge(path.to_owned()));
    }
    let items = (1..).zip(elements(&content)).map(move |(line, element)| {
        let record = element.and_then(|element| from_value(element, format, tenant));
        Ok(Item { line, record })
    });
    Ok(Box::new(items))
}

type Reader = Box<dyn BufRead + Send>;

fn open(path: &Path) -> io::Result<Reader> {
    let mut plain: Reader = if path.as_os_str() == STDIN {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(path)?))
    };
    if plain.fill_buf()?.starts_with(&GZIP_MAGIC) {
        return Ok(Box::new(BufReader::new(MultiGzDecoder::new(plain))));
    }
    Ok(plain)
}

/// The lines of a reader that hold something.
struct Lines {
    reader: Reader,
    number: u64,
}

impl Lines {
    fn read(&mut self) -> io::Result<Option<Result<String, Bad>>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX + 1);
        if bounded.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
            self.reader.skip_until(b'\n')?;
            line.truncate(EXCERPT_BYTES);
            return Ok(Some(Err(bad("is longer than 8 MiB", &line))));
        }
        let line = line.trim_ascii();
        Ok(Some(match std::str::from_utf8(line) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(bad("is not UTF-8", line)),
        }))
    }
}

impl Iterator for Lines {
    type Item = io::Result<(u64, Result<String, Bad>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.read() {
                Ok(Some(Ok(text))) if text.is_empty() => {}
                Ok(line) => return Some(Ok((self.number, line?))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn bad(reason: impl Into<String>, original: &[u8]) -> Bad {
    Bad {
        reason: reason.into(),
        original: String::from_utf8_lossy(original).into_owned(),
    }
}

/// A line as it is sent. Audit records go as they are: the server says what is wrong with each.
fn from_text(text: String, format: Format, tenant: &str) -> Result<String, Bad> {
    match format {
        Format::Audit => Ok(text),
        Format::Cloudtrail | Format::Cloudevents => match serde_json::from_str(&text) {
            Ok(value) => from_value(value, format, tenant),
            Err(error) => Err(bad(not_json(&error), text.as_bytes())),
        },
    }
}

fn from_value(value: Value, format: Format, tenant: &str) -> Result<String, Bad> {
    let original = value.to_string();
    let mapped = match format {
        Format::Audit => return Ok(original),
        Format::Cloudtrail => cloudtrail::record(value, tenant).map_err(|error| error.to_string()),
        Format::Cloudevents => match cloudevents::record(value, tenant) {
            Ok(mapped) => Ok(mapped.record),
            Err(violations) => Err(violations
                .iter()
                .map(|one| format!("{} {}", one.pointer, one.message))
                .collect::<Vec<_>>()
                .join("; ")),
        },
    };
    match mapped {
        Ok(record) => Ok(record.to_string()),
        Err(reason) => Err(Bad { reason, original }),
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!(
        "is not JSON: line {}, column {}",
        error.line(),
        error.column()
    )
}

/// Every value of a JSON stream; arrays and CloudTrail envelopes are opened. After a fault reading goes on at the next
/// line.
fn elements(content: &[u8]) -> Vec<Result<Value, Bad>> {
    let mut elements = Vec::new();
    let mut rest = content;
    loop {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
        let mut good = 0;
        let fault = loop {
            match values.next() {
                Some(Ok(value)) => {
                    good = values.byte_offset();
                    open_element(value, &mut elements);
                }
                Some(Err(error)) => break error,
                None => return elements,
            }
        };
        let (_, broken) = rest.split_at(good.min(rest.len()));
        let broken = broken.trim_ascii_start();
        let end = broken.iter().position(|byte| *byte == b'\n');
        let (line, after) = broken.split_at(end.unwrap_or(broken.len()));
        elements.push(Err(bad(not_json(&fault), line)));
        rest = after;
    }
}

fn open_element(value: Value, elements: &mut Vec<Result<Value, Bad>>) {
    match value {
        Value::Array(inside) => elements.extend(inside.into_iter().map(Ok)),
        Value::Object(mut object) => match object.remove("Records") {
            Some(Value::Array(inside)) if object.is_empty() => {
                elements.extend(inside.into_iter().map(Ok));
            }
            Some(other) => {
                object.insert("Records".to_owned(), other);
                elements.push(Ok(Value::Object(object)));
            }
            None => elements.push(Ok(Value::Object(object))),
        },
        scalar => elements.push(Ok(scalar)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The records of a file of this name and content.
    fn read(name: &str, content: &[u8], format: Format) -> Vec<Item> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let items = records(&path, format, "acme").unwrap();
        items.map(Result::unwrap).collect()
    }

    fn count(name: &str, content: &[u8]) -> usize {
        let items = read(name, content, Format::Audit);
        assert!(items.iter().all(|item| item.record.is_ok()), "{items:?}");
        items.len()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(content).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn arrays_lines_envelopes_and_gzip_are_read() {
        assert_eq!(count("a.json", b"[{\"a\":1},{\"a\":2}]"), 2);
        assert_eq!(count("a.json", b"{\n\"a\":1\n}\n{\"a\":2}"), 2);
        assert_eq!(count("b.ndjson", b"{\"a\":1}\n\n{\"a\":2}\r\n{\"a\":3}"), 3);
        assert_eq!(count("c.json", b"{\"Records\":[{},{},{},{}]}"), 4);
        assert_eq!(count("d.json.gz", &gzip(b"[{},{},{},{},{}]")), 5);
        assert_eq!(count("e.jsonl.gz", &gzip(b"{}\n{}")), 2);
    }

    #[test]
    fn a_bad_line_is_named_and_the_others_are_read() {
        let long = vec![b'x'; 9 << 20];
        let content = [b"{}\n", &long[..], b"\n\xff\n{}\n"].concat();
        let items = read("bad.ndjson", &content, Format::Audit);
        let good: Vec<_> = items
            .iter()
            .map(|item| (item.line, item.record.is_ok()))
            .collect();
        assert_eq!(good, [(1, true), (2, false), (3, false), (4, true)]);
        let items = read(
            "bad.json",
            b"{}\n{\"secret\": oops}\n[{}, {}]",
            Format::Audit,
        );
        let good: Vec<_> = items.iter().map(|item| item.record.is_ok()).collect();
        assert_eq!(good, [true, false, true, true]);
        let Err(Bad { reason, original }) = &items[1].record else {
            panic!("taken");
        };
        assert!(
            !reason.contains("secret") && !reason.contains("oops"),
            "{reason}"
        );
        assert_eq!(original, "{\"secret\": oops}");
    }

    #[test]
    fn events_become_records_or_say_why_not() {
        let event = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-01-02T03:04:05Z"}"#;
        let content = format!("{event}\n{{\"id\":\"2\"}}\nnonsense\n");
        let items = read("events.ndjson", content.as_bytes(), Format::Cloudevents);
        let record: Value = serde_json::from_str(items[0].record.as_ref().unwrap()).unwrap();
        assert_eq!(record["idempotencyKey"], "/s 1");
        let reasons: Vec<_> = items[1..]
            .iter()
            .map(|item| &item.record.as_ref().unwrap_err().reason)
            .collect();
        assert!(
            reasons[0].contains("/specversion is required"),
            "{reasons:?}"
        );
        assert!(reasons[1].starts_with("is not JSON"), "{reasons:?}");
        let items = read("trail.json", b"[{\"eventID\": \"1\"}]", Format::Cloudtrail);
        assert!(items[0].record.is_err());
    }

    #[test]
    fn folders_are_expanded_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["z.json", "a.ndjson", "notes.txt", "m.jsonl.gz"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let found = files(&[folder.path().to_owned(), PathBuf::from(STDIN)]).unwrap();
        let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["a.ndjson", "m.jsonl.gz", "z.json", STDIN]);
    }
}
