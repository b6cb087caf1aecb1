//! A bundle in a folder, checked with the tenant's public keys and nothing else: what the README of each bundle says, step
//! by step. Nothing is read as records before its checksum was found to be the one that the tenant signed.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use catalog::keys::PublicKeys;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use super::asked::Format;
use super::bundle_files::{PIECE, SMALL_BYTES_MAX, check_files, small};
use super::manifest::{
    CHECKPOINT, ChunkEntry, Completeness, MANIFEST, Manifest, OMITTED, SIGNATURE, is_signed,
};
use super::package::PARTS;
use super::rows_check::Rows;
use super::select::{LEAF_INDEX, columns};
use crate::record::schema;
use crate::seal::{Hash, Included, SignedCheckpoint};

const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Findings that are told; the others are counted.
const FINDINGS_MAX: usize = 20;
const BATCH_ROWS: usize = 8_192;

/// A folder that cannot be read as a bundle at all.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be read")]
pub struct Unreadable {
    /// Which file.
    pub what: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What a look at a bundle has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleReport {
    /// What does not hold: file, row where there is one, and what. The first of them.
    pub findings: Vec<String>,
    /// How many there are.
    pub findings_count: u64,
    /// Which export, of which tenant and stream, under which policy and masks; empty where nothing is signed.
    pub about: Value,
    /// Chunks that were read.
    pub chunks: u64,
    /// Records.
    pub rows: u64,
    /// Leaves that were made again.
    pub leaves: u64,
    /// Values that they open, and that are the rows'.
    pub shown: u64,
    /// Commitments in the place of values.
    pub withheld: u64,
    /// Other records of the log, where completeness is proven.
    pub omitted: Option<u64>,
}

impl BundleReport {
    /// Whether all of it holds.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings_count == 0
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "ok": self.is_ok(),
            "bundle": self.about,
            "chunks": self.chunks,
            "rows": self.rows,
            "leaves": self.leaves,
            "shown": self.shown,
            "withheld": self.withheld,
            "omitted": self.omitted,
            "findings": self.findings,
            "findingsCount": self.findings_count,
        })
    }

    pub(super) fn found(&mut self, what: impl Into<String>) {
        self.findings_count += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what.into());
        }
    }
}

/// Checks a bundle.
///
/// # Errors
/// [`Unreadable`], if there is no manifest to begin with.
pub fn verify_bundle(folder: &Path, keys: &PublicKeys) -> Result<BundleReport, Unreadable> {
    let mut report = BundleReport::default();
    let bytes = small(folder, MANIFEST, MANIFEST_BYTES_MAX)?;
    let signature = small(folder, SIGNATURE, SMALL_BYTES_MAX)?;
    let Some(manifest) = Manifest::from_bytes(&bytes) else {
        report.found(format!(
            "{MANIFEST}: it is no manifest of a form that is known here"
        ));
        return Ok(report);
    };
    let signature = String::from_utf8(signature).unwrap_or_default();
    if !is_signed(keys, &manifest, &bytes, &signature) {
        report.found(format!(
            "{SIGNATURE}: the tenant did not sign this manifest"
        ));
        return Ok(report);
    }
    report.about = about(&manifest);
    let sound = check_files(folder, &manifest, &mut report);
    if sound {
        check_records(folder, &manifest, keys, &mut report);
    }
    Ok(report)
}

fn about(manifest: &Manifest) -> Value {
    json!({
        "exportId": manifest.export_id,
        "tenantId": manifest.tenant_id,
        "stream": manifest.stream,
        "format": manifest.format,
        "timeRange": manifest.time_range,
        "filters": manifest.filters,
        "policyVersion": manifest.provenance.policy_version,
        "maskingProfile": manifest.provenance.masking_profile,
        "purpose": manifest.provenance.purpose,
        "generatedAt": manifest.provenance.generated_at,
        "completeness": manifest.integrity.completeness,
        "signingKeyId": manifest.integrity.signing_key_id,
    })
}

/// What goes through all chunks.
struct Reading<'m> {
    manifest: &'m Manifest,
    last: Option<(i64, String)>,
    /// Place and leaf of each row, where there are leaves.
    leaves: Vec<(u64, Hash)>,
}

fn check_records(folder: &Path, manifest: &Manifest, keys: &PublicKeys, report: &mut BundleReport) {
    let mut reading = Reading {
        manifest,
        last: None,
        leaves: Vec::new(),
    };
    for (number, chunk) in manifest.chunks.iter().enumerate() {
        if reading.chunk(folder, number, chunk, report).is_none() {
            report.found(format!("{}: it cannot be read as records", chunk.path));
        }
        report.chunks += 1;
    }
    if manifest.integrity.completeness == Completeness::Proven && report.is_ok() {
        match omitted(folder, manifest, keys, reading.leaves) {
            Ok(omitted) => report.omitted = Some(omitted),
            Err(what) => report.found(what),
        }
    }
}

impl Reading<'_> {
    /// Looks at the rows of a chunk; `None` if it cannot be read.
    fn chunk(
        &mut self,
        folder: &Path,
        number: usize,
        chunk: &ChunkEntry,
        report: &mut BundleReport,
    ) -> Option<()> {
        let is_proven = self.manifest.integrity.completeness == Completeness::Proven;
        let batches = batches(&folder.join(&chunk.path), self.manifest.format, is_proven)?;
        let mut leaves = match is_proven {
            true => Some(Leaves::open(&folder.join(Manifest::leaves_name(number)))?),
            false => None,
        };
        let mut rows = 0;
        for batch in batches {
            let batch = batch?;
            self.batch((chunk, rows), &batch, leaves.as_mut(), report)?;
            rows += batch.num_rows() as u64;
        }
        report.rows += rows;
        if rows != chunk.rows {
            let said = chunk.rows;
            report.found(format!(
                "{}: it has {rows} records, and not {said}",
                chunk.path
            ));
        }
        if leaves.is_some_and(|mut leaves| leaves.next().is_some()) {
            report.found(format!("{}: it has more leaves than records", chunk.path));
        }
        Some(())
    }

    fn batch(
        &mut self,
        (chunk, before): (&ChunkEntry, u64),
        batch: &RecordBatch,
        mut leaves: Option<&mut Leaves>,
        report: &mut BundleReport,
    ) -> Option<()> {
        let rows = Rows::of(batch)?;
        let places = match leaves {
            Some(_) => Some(
                batch
                    .column_by_name(LEAF_INDEX)?
                    .as_primitive_opt::<Int64Type>()?,
            ),
            None => None,
        };
        for row in 0..batch.num_rows() {
            let mut found = |what: String| {
                report.found(format!(
                    "{}, row {}: {what}",
                    chunk.path,
                    before + row as u64
                ));
            };
            let (moment, id) = rows.place(row)?;
            let is_behind = self
                .last
                .as_ref()
                .is_none_or(|(last, last_id)| (moment, id) > (*last, last_id.as_str()));
            if !is_behind {
                found("it does not stand behind the one before".to_owned());
            }
            self.last = Some((moment, id.to_owned()));
            if let Err(what) = rows.check(row, self.manifest) {
                found(what);
            }
            let (Some(leaves), Some(places)) = (leaves.as_deref_mut(), places) else {
                continue;
            };
            let (place, parts) = leaves.next()??;
            if !places.is_valid(row) || places.value(row) != place {
                found("its leaf is another one's".to_owned());
                continue;
            }
            match rows.open(row, &parts, self.manifest) {
                Ok(opened) => {
                    report.leaves += 1;
                    report.shown += opened.shown;
                    report.withheld += opened.withheld;
                    self.leaves.push((u64::try_from(place).ok()?, opened.hash));
                }
                Err(what) => found(what),
            }
        }
        Some(())
    }
}

/// Makes the root of the log from the leaves and from what is omitted. Gives how many that are.
fn omitted(
    folder: &Path,
    manifest: &Manifest,
    keys: &PublicKeys,
    mut leaves: Vec<(u64, Hash)>,
) -> Result<u64, String> {
    let note = small(folder, CHECKPOINT, SMALL_BYTES_MAX).map_err(|error| error.to_string())?;
    let signed =
        SignedCheckpoint::verify(&note, keys).map_err(|error| format!("{CHECKPOINT}: {error}"))?;
    let checkpoint = signed.checkpoint();
    if Some(checkpoint.size) != manifest.integrity.tree_size {
        return Err(format!(
            "{CHECKPOINT}: it is not of the size that the manifest says"
        ));
    }
    let mut included = Included::none(checkpoint.size).ok_or("the log is too large")?;
    if !leaves.iter().all(|(place, _)| included.insert(*place)) {
        return Err(format!(
            "{CHECKPOINT}: a record is in it twice, or not at all"
        ));
    }
    leaves.sort_unstable_by_key(|(place, _)| *place);
    let hashes =
        File::open(folder.join(OMITTED)).map_err(|_| format!("{OMITTED}: it cannot be read"))?;
    let mut hashes = BufReader::with_capacity(PIECE, hashes);
    let next = std::iter::from_fn(|| {
        let mut hash: Hash = [0; 32];
        hashes.read_exact(&mut hash).ok().map(|()| hash)
    });
    // Asked for in order.
    let mut in_order = leaves.into_iter();
    let root = included.root(|_| in_order.next().map(|(_, leaf)| leaf), next);
    if root != Some(checkpoint.root) {
        return Err(format!(
            "{OMITTED}: together with the records it does not make the log of the checkpoint: a record is missing, or is not the one that was sealed"
        ));
    }
    let omitted = checkpoint.size - included.count();
    let range = &manifest.time_range;
    let is_all = range.from.is_none() && range.to.is_none() && manifest.filters.is_empty();
    if is_all && omitted > 0 {
        return Err(format!(
            "{MANIFEST}: it is of all records, and {omitted} are not there"
        ));
    }
    Ok(omitted)
}

type Batches = Box<dyn Iterator<Item = Option<RecordBatch>>>;

fn batches(path: &Path, format: Format, is_proven: bool) -> Option<Batches> {
    let file = File::open(path).ok()?;
    match format {
        Format::Parquet => parquet(file, &columns(is_proven)),
        Format::Ndjson => {
            let reader = arrow::json::ReaderBuilder::new(rows_schema(is_proven))
                .with_batch_size(BATCH_ROWS)
                .build(BufReader::with_capacity(PIECE, file))
                .ok()?;
            Some(Box::new(reader.map(Result::ok)))
        }
    }
}

/// The rows of a file that has these columns and no other: one more, under a name that some reader takes for another's,
/// would show what nobody compared.
fn parquet(file: File, columns: &[&str]) -> Option<Batches> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).ok()?;
    let fields = builder.schema().fields().iter();
    if !fields.map(|field| field.name()).eq(columns.iter().copied()) {
        return None;
    }
    let reader = builder.with_batch_size(BATCH_ROWS).build().ok()?;
    Some(Box::new(reader.map(Result::ok)))
}

/// The columns of a bundle.
fn rows_schema(is_proven: bool) -> SchemaRef {
    let records = schema::records::<&str>(&[]);
    let names = columns(is_proven).into_iter();
    let fields = names.filter_map(|name| {
        let (_, field) = records.column_with_name(name)?;
        Some(Field::new(name, field.data_type().clone(), true))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The leaves of a chunk, one after the other.
struct Leaves {
    batches: Batches,
    current: Option<RecordBatch>,
    at: usize,
}

impl Leaves {
    fn open(path: &Path) -> Option<Self> {
        Some(Self {
            batches: parquet(File::open(path).ok()?, &[LEAF_INDEX, PARTS])?,
            current: None,
            at: 0,
        })
    }

    /// The next one; inside `None` if it cannot be read.
    #[expect(clippy::option_option, reason = "the end is not an error")]
    fn next(&mut self) -> Option<Option<(i64, Vec<u8>)>> {
        loop {
            if let Some(batch) = self
                .current
                .as_ref()
                .filter(|batch| self.at < batch.num_rows())
            {
                let at = self.at;
                self.at += 1;
                return Some(leaf_at(batch, at));
            }
            match self.batches.next()? {
                Some(batch) => (self.current, self.at) = (Some(batch), 0),
                None => return Some(None),
            }
        }
    }
}

fn leaf_at(batch: &RecordBatch, at: usize) -> Option<(i64, Vec<u8>)> {
    let places = batch
        .column_by_name(LEAF_INDEX)?
        .as_primitive_opt::<Int64Type>()?;
    let parts = batch.column_by_name(PARTS)?.as_binary_opt::<i32>()?;
    (places.is_valid(at) && parts.is_valid(at))
        .then(|| (places.value(at), parts.value(at).to_vec()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array};
    use parquet::arrow::ArrowWriter;

    use super::*;

    #[test]
    fn a_file_has_its_columns_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let place = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
        let parts = || Arc::new(BinaryArray::from(vec![&b"x"[..]])) as ArrayRef;
        for (columns, expected) in [
            (vec![(LEAF_INDEX, place()), (PARTS, parts())], true),
            (vec![(PARTS, parts()), (LEAF_INDEX, place())], false),
            (
                vec![(LEAF_INDEX, place()), (PARTS, parts()), ("PARTS", parts())],
                false,
            ),
            (vec![("Leaf_Index", place()), (PARTS, parts())], false),
            (vec![(LEAF_INDEX, place())], false),
        ] {
            let path = folder.path().join("leaves.parquet");
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let file = File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            let is_read = Leaves::open(&path).is_some();
            assert_eq!(is_read, expected, "{:?}", batch.schema());
        }
    }
}
