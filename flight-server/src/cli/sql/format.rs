//! What an answer looks like: a table for people, four formats for programs, each written batch by batch.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::FileWriter;
use arrow::json::writer::make_encoder;
use arrow::json::{EncoderOptions, LineDelimitedWriter, WriterBuilder};
use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;

/// Rows shown of a table at most; the rest is counted.
const ROWS_SHOWN_MAX: usize = 1_000;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Aligned columns, at most 1,000 rows of them
    Table,
    /// RFC 4180 with a line of names; lists, maps and structs as JSON
    Csv,
    /// A JSON object a line
    Ndjson,
    /// Apache Parquet
    Parquet,
    /// Arrow IPC, a file
    Arrow,
}

impl Format {
    /// What the end of a file's name says; Arrow where it says nothing.
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => Self::Csv,
            Some("ndjson" | "jsonl" | "json") => Self::Ndjson,
            Some("parquet") => Self::Parquet,
            Some("txt") => Self::Table,
            _ => Self::Arrow,
        }
    }

    /// Whether it is text.
    pub(super) fn is_text(self) -> bool {
        match self {
            Self::Table | Self::Csv | Self::Ndjson => true,
            Self::Parquet | Self::Arrow => false,
        }
    }
}

/// Why an answer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its form, or the file it goes to.
    #[error("the answer cannot be written")]
    Arrow(#[from] ArrowError),
    /// The same, of Parquet.
    #[error("the answer cannot be written")]
    Parquet(#[from] ParquetError),
    /// Where it goes to.
    #[error("the answer cannot be written")]
    Io(#[from] std::io::Error),
}

impl Error {
    /// What the system says of where the answer goes to, if that is what failed.
    pub(super) fn into_io(self) -> Result<std::io::Error, Self> {
        match self {
            Self::Io(error) | Self::Arrow(ArrowError::IoError(_, error)) => Ok(error),
            Self::Parquet(ParquetError::External(source)) => match source.downcast() {
                Ok(error) => Ok(*error),
                Err(source) => Err(Self::Parquet(ParquetError::External(source))),
            },
            other => Err(other),
        }
    }
}

type Target = Box<dyn Write + Send>;

/// Writes one answer.
pub(super) struct Answer {
    form: Form,
}

enum Form {
    Table(Table, Target),
    Csv(SchemaRef, Box<csv::Writer<Target>>),
    Ndjson(Box<LineDelimitedWriter<Target>>),
    Parquet(Box<ArrowWriter<Target>>),
    Arrow(Box<FileWriter<Target>>),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl Answer {
    /// An answer with these columns, in this form, to be written there.
    pub(super) fn begin(format: Format, schema: &SchemaRef, target: Target) -> Result<Self, Error> {
        let form = match format {
            Format::Table => Form::Table(Table::new(schema), target),
            Format::Csv => {
                let flat = flat(schema);
                let mut writer = csv::WriterBuilder::new().with_header(true).build(target);
                // The names, even when no row follows.
                writer.write(&RecordBatch::new_empty(Arc::clone(&flat)))?;
                Form::Csv(flat, Box::new(writer))
            }
            Format::Ndjson => {
                let nulls = WriterBuilder::new().with_explicit_nulls(true);
                Form::Ndjson(Box::new(nulls.build(target)))
            }
            Format::Parquet => {
                let writer = ArrowWriter::try_new(target, Arc::clone(schema), None)?;
                Form::Parquet(Box::new(writer))
            }
            Format::Arrow => Form::Arrow(Box::new(FileWriter::try_new(target, schema)?)),
        };
        Ok(Self { form })
    }

    /// More rows.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        match &mut self.form {
            Form::Table(table, _) => table.add(batch),
            Form::Csv(schema, writer) => writer.write(&flattened(schema, batch)?)?,
            Form::Ndjson(writer) => writer.write(batch)?,
            Form::Parquet(writer) => writer.write(batch)?,
            Form::Arrow(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    /// The end.
    pub(super) fn finish(self) -> Result<(), Error> {
        match self.form {
            Form::Table(table, mut target) => {
                writeln!(target, "{}", table.text()?)?;
                target.flush()?;
            }
            Form::Csv(_, writer) => writer.into_inner().flush()?,
            Form::Ndjson(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
            Form::Parquet(writer) => writer.into_inner()?.flush()?,
            Form::Arrow(writer) => writer.into_inner()?.flush()?,
        }
        Ok(())
    }
}

/// The first rows of an answer, and how many there are.
pub(super) struct Table {
    shown: Vec<RecordBatch>,
    rows: usize,
}

impl Table {
    fn new(schema: &SchemaRef) -> Self {
        Self {
            shown: vec![RecordBatch::new_empty(Arc::clone(schema))],
            rows: 0,
        }
    }

    fn add(&mut self, batch: &RecordBatch) {
        let left = ROWS_SHOWN_MAX.saturating_sub(self.rows);
        if left > 0 {
            self.shown.push(batch.slice(0, left.min(batch.num_rows())));
        }
        self.rows += batch.num_rows();
    }

    /// Aligned columns with the number of rows below them.
    pub(super) fn text(&self) -> Result<String, ArrowError> {
        let plural = if self.rows == 1 { "row" } else { "rows" };
        let mut text = pretty_format_batches(&self.shown)?.to_string();
        text.push_str(&format!("\n{} {plural}", self.rows));
        if self.rows > ROWS_SHOWN_MAX {
            text.push_str(&format!(", the first {ROWS_SHOWN_MAX} shown"));
        }
        Ok(harmless(&text))
    }
}

/// These batches as a table.
pub(in crate::cli) fn table(batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let schema = batches.first().map(RecordBatch::schema);
    let mut table = Table::new(&schema.unwrap_or_else(|| Arc::new(Schema::empty())));
    batches.iter().for_each(|batch| table.add(batch));
    table.text()
}

/// Text that a terminal shows and does not obey: what is in records, strangers have written.
fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        if (character.is_control() && character != '\n') || turns(character) {
            harmless.extend(character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// Whether what follows a character is shown in another order than it stands.
fn turns(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The schema with text for everything that has parts.
fn flat(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match has_parts(field) {
        true => Arc::new(Field::new(field.name(), DataType::Utf8, true)),
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<FieldRef>>()))
}

fn has_parts(field: &Field) -> bool {
    field.data_type().is_nested()
}

fn flattened(flat: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.map(|(field, column)| match has_parts(field) {
        true => as_json(field, column),
        false => Ok(Arc::clone(column)),
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(Arc::clone(flat), columns)
}

fn as_json(field: &FieldRef, column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(field, column.as_ref(), &options)?;
    let mut bytes = Vec::new();
    let mut texts = Vec::with_capacity(column.len());
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.push(None);
            continue;
        }
        bytes.clear();
        encoder.encode(row, &mut bytes);
        texts.push(Some(String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(Arc::new(StringArray::from(texts)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use arrow::array::{Int64Array, MapBuilder, StringBuilder};

    use super::*;

    /// Keeps what is written where the test finds it.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn rows() -> RecordBatch {
        let mut labels = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        labels.keys().append_value("env");
        labels.values().append_value("a,\"b\"");
        labels.append(true).unwrap();
        labels.append(false).unwrap();
        RecordBatch::try_from_iter_with_nullable(vec![
            ("n", Arc::new(Int64Array::from(vec![1, 2])) as _, true),
            (
                "action",
                Arc::new(StringArray::from(vec![Some("x\u{1b}[31m"), None])) as _,
                true,
            ),
            ("labels", Arc::new(labels.finish()) as _, true),
        ])
        .unwrap()
    }

    fn written(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let kept = Kept::default();
        let mut answer = Answer::begin(format, &rows().schema(), Box::new(kept.clone())).unwrap();
        for batch in batches {
            answer.write(batch).unwrap();
        }
        answer.finish().unwrap();
        kept.0.lock().unwrap().clone()
    }

    fn text(format: Format, batches: &[RecordBatch]) -> String {
        String::from_utf8(written(format, batches)).unwrap()
    }

    #[test]
    fn text_formats() {
        let csv = "n,action,labels\n1,x\u{1b}[31m,\"{\"\"env\"\":\"\"a,\\\"\"b\\\"\"\"\"}\"\n2,,\n";
        assert_eq!(text(Format::Csv, &[rows()]), csv);
        assert_eq!(text(Format::Csv, &[]), "n,action,labels\n");
        let ndjson = "{\"n\":1,\"action\":\"x\\u001b[31m\",\"labels\":{\"env\":\"a,\\\"b\\\"\"}}\n\
                      {\"n\":2,\"action\":null,\"labels\":null}\n";
        assert_eq!(text(Format::Ndjson, &[rows()]), ndjson);
        assert_eq!(text(Format::Ndjson, &[]), "");
        let table = text(Format::Table, &[rows()]);
        assert!(table.ends_with("\n2 rows\n"), "{table}");
    }

    #[test]
    fn a_terminal_is_told_and_not_commanded() {
        let table = text(Format::Table, &[rows()]);
        assert!(table.contains("x\\u{1b}[31m"), "{table}");
        assert_eq!(harmless("a\n\u{202e}b\u{7}é"), "a\n\\u{202e}b\\u{7}é");
    }

    #[test]
    fn a_table_shows_a_thousand_rows_and_counts_all() {
        let many = vec![rows(); 700];
        let table = text(Format::Table, &many);
        assert!(table.ends_with("\n1400 rows, the first 1000 shown\n"));
        assert_eq!(table.lines().count(), 1_000 + 5);
        assert!(text(Format::Table, &[]).contains("| n | action | labels |"));
    }

    #[test]
    fn binary_formats_hold_what_was_written() {
        let parquet = bytes::Bytes::from(written(Format::Parquet, &[rows(), rows()]));
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(parquet, 10);
        let read: Vec<RecordBatch> = reader.unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(read[0].num_rows(), 4);
        assert_eq!(read[0].slice(2, 2).column(1), rows().column(1));
        let ipc = std::io::Cursor::new(written(Format::Arrow, &[rows()]));
        let mut reader = arrow::ipc::reader::FileReader::try_new(ipc, None).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), rows());
    }

    #[test]
    fn a_file_says_its_format_by_its_name() {
        for (name, format) in [
            ("a.csv", Format::Csv),
            ("a.jsonl", Format::Ndjson),
            ("a.parquet", Format::Parquet),
            ("a.arrow", Format::Arrow),
            ("a", Format::Arrow),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
