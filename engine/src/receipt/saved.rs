//! A result that somebody saved: an Arrow IPC file or stream, or a Parquet file, read for its digest.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use super::{AnswerDigest, Digested, Undigestible};

const ARROW_FILE: &[u8] = b"ARROW1";
const PARQUET_FILE: &[u8] = b"PAR1";

/// Why a saved result has no digest.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file itself.
    #[error("the result cannot be read")]
    File(#[from] std::io::Error),
    /// Neither an Arrow stream nor an Arrow file of a kind that is read here.
    #[error("the result is no whole Arrow IPC file or stream, nor a Parquet file")]
    Arrow(#[from] ArrowError),
    /// Not a Parquet file of a kind that is read here.
    #[error("the result is no whole Parquet file that is uncompressed or compressed with zstd")]
    Parquet(#[from] ParquetError),
    /// Columns that no answer has.
    #[error("the result has columns that no answer has")]
    Columns(#[from] Undigestible),
}

/// What a saved result comes to. What kind of file it is, its first bytes say.
///
/// # Errors
/// When it cannot be read to its end.
pub fn saved(path: &Path) -> Result<Digested, Unreadable> {
    let mut file = File::open(path)?;
    let mut first = [0; 6];
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(6).read_to_end(&mut head)?;
    first[..head.len()].copy_from_slice(&head);
    file.rewind()?;
    if first.starts_with(PARQUET_FILE) {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let schema = Arc::clone(builder.schema());
        digested(&schema, builder.build()?)
    } else if first == ARROW_FILE {
        let reader = FileReader::try_new(BufReader::new(file), None)?;
        digested(&reader.schema(), reader)
    } else {
        let reader = StreamReader::try_new(BufReader::new(file), None)?;
        digested(&reader.schema(), reader)
    }
}

fn digested(
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
) -> Result<Digested, Unreadable> {
    let mut digest = AnswerDigest::new(schema)?;
    for batch in batches {
        digest.update(&batch?)?;
    }
    Ok(digest.finish())
}
